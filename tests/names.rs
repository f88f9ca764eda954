//! Names that several stores change: what comes back, what stays gone, how versions are numbered, and what it all costs.

use std::time::Duration;

use segfs::{
    base::{Clock, Ino, Lsn, ObjectId, SystemClock},
    format::{
        Kind, code,
        facts::{Fact, Owner, Version},
    },
    log::Next,
    store::{NewObject, Options, Rename, SetAttributes, Store},
};

use crate::{
    exchange::{Counted, file, give, names, two},
    sim::rng::Rng,
};

const ROOT: Ino = Ino::FIRST;

fn save(s: &Store, ino: Ino, text: &[u8]) {
    s.write(ino, 0, text).unwrap();
    assert!(s.commit_version(ino).unwrap().1.is_some());
}

fn ino(s: &Store, name: &str) -> Ino {
    s.view().lookup(ROOT, name.as_bytes()).unwrap().ino
}

fn unlink(s: &Store, name: &str) {
    s.unlink(ROOT, name.as_bytes()).unwrap();
}

/// Both stores hear of everything.
fn meet(a: &Store, b: &Store) {
    for _ in 0..2 {
        give(a, b);
        give(b, a);
    }
}

/// Versions in the log from an LSN on, and the bytes of their records.
fn versions(s: &Store, from: Lsn) -> Vec<(Version, usize)> {
    s.sync_all().unwrap();
    let mut log = s.subscribe(from);
    let mut found = Vec::new();
    while let Ok(Some(Next::Record(r))) = log.try_next() {
        if r.kind == Kind::Operation {
            let facts: Vec<Fact> = code::decode(&r.payload).unwrap();
            let of = |f| if let Fact::Version(v) = f { Some((v, r.payload.len())) } else { None };
            found.extend(facts.into_iter().filter_map(of));
        }
    }
    found
}

#[test]
fn a_hundred_thousand_links_and_unlinks_cost_the_last_version_nothing() {
    const CYCLES: u64 = 100_000;
    let dir = tempfile::tempdir().unwrap();
    let (s, index) = Counted::store(dir.path(), "a");
    let f = file(&s, ROOT, "f", b"1");
    s.link(f, ROOT, b"stays").unwrap();
    let cycle = || {
        s.link(f, ROOT, b"g").unwrap();
        unlink(&s, "g");
        save(&s, f, b"2");
    };
    cycle();
    let (before, (_, first)) = (s.last_lsn(), index.count(cycle));
    let size = versions(&s, before)[0].1;
    for _ in 0..CYCLES {
        s.link(f, ROOT, b"g").unwrap();
        unlink(&s, "g");
    }
    cycle();
    let (before, (_, last)) = (s.last_lsn(), index.count(cycle));
    let (version, bytes) = versions(&s, before).remove(0);
    assert_eq!(version.links.len(), 1);
    // Numbers and times have more digits by now.
    assert!(bytes <= size + 16, "a version of {size} bytes, and of {bytes} after {CYCLES} links and unlinks");
    assert!(
        last <= first,
        "{first} rows read for a link, an unlink and a version, and {last} after {CYCLES}"
    );
}

#[test]
fn an_edit_brings_back_the_names_that_the_file_had_there_and_no_others() {
    let (_dir, a, b) = two();
    let f = file(&a, ROOT, "f", b"1");
    a.link(f, ROOT, b"g").unwrap();
    meet(&a, &b);
    // Removed here by name after name, edited there; a name that came and went here meanwhile is not known there.
    a.link(f, ROOT, b"h").unwrap();
    unlink(&a, "h");
    unlink(&a, "f");
    unlink(&a, "g");
    save(&b, ino(&b, "g"), b"edited");
    meet(&a, &b);
    for s in [&a, &b] {
        assert_eq!(names(s, None), ["f", "g"]);
    }
    // Who knows that a name is gone does not bring it back with what is edited under another.
    unlink(&b, "f");
    save(&b, ino(&b, "g"), b"again");
    meet(&a, &b);
    for s in [&a, &b] {
        assert_eq!(names(s, None), ["g"]);
        assert!(s.view().gone_at(ROOT, b"f").unwrap().is_some());
    }
}

#[test]
fn of_a_file_with_many_names_an_edit_keeps_some() {
    let (_dir, a, b) = two();
    let f = file(&a, ROOT, "f", b"1");
    let name = |n: u32| format!("n{n:03}");
    for n in 0..200 {
        a.link(f, ROOT, name(n).as_bytes()).unwrap();
    }
    meet(&a, &b);
    save(&b, ino(&b, "n100"), b"edited");
    for n in names(&a, None) {
        unlink(&a, &n);
    }
    meet(&a, &b);
    assert_eq!(names(&a, None).len(), 65, "the first, and as many others as a version names");
    assert_eq!(names(&a, None), names(&b, None));
    // Those that it does not name can go, and then the named ones.
    for n in names(&b, None) {
        unlink(&b, &n);
    }
    meet(&a, &b);
    assert!(names(&a, None).is_empty() && names(&b, None).is_empty());
}

/// Numbers and texts of the history of a name, after checking it by pages of one.
fn history(s: &Store, name: &str) -> Vec<(u64, bool, String)> {
    let ask = || s.view().history(ROOT, name.as_bytes()).unwrap().unwrap();
    let all = ask().from(0, 100).unwrap();
    let (mut forth, mut back) = (Vec::new(), Vec::new());
    let (mut from, mut before) = (1, None);
    loop {
        let page = ask().from(from, 1).unwrap();
        let Some(last) = page.last() else { break };
        from = last.ordinal + 1;
        forth.extend(page);
        let page = ask().before(before, 1).unwrap();
        before = page.last().map(|p| p.ordinal);
        back.extend(page);
    }
    back.reverse();
    assert_eq!((&all, &all), (&forth, &back));
    let text = |p: &segfs::store::Past| {
        let mut out = vec![0; p.version.size as usize];
        s.read_version(p.ino, p.version.lsn, 0, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    };
    all.iter().map(|p| (p.ordinal, p.shared, text(p))).collect()
}

#[test]
fn a_version_has_one_number_on_every_store_in_whatever_order_they_come() {
    let (_dir, a, b) = two();
    let f = file(&a, ROOT, "f", b"a1");
    meet(&a, &b);
    save(&a, f, b"a2");
    for text in [b"b2", b"b3", b"b4"] {
        save(&b, ino(&b, "f"), text);
    }
    meet(&a, &b);
    save(&a, f, b"a5");
    meet(&a, &b);
    let found = history(&a, "f");
    let said: Vec<_> = found.iter().map(|(n, shared, text)| (*n, *shared, &text[..])).collect();
    let twos = [(2, true, "a2"), (2, true, "b2")];
    assert_eq!(
        [said[0], said[3], said[4], said[5]],
        [(1, false, "a1"), (3, false, "b3"), (4, false, "b4"), (5, false, "a5")]
    );
    assert!(twos.iter().all(|t| said[1..3].contains(t)), "{said:?}");
    assert_eq!(history(&b, "f"), found);
    // A store that hears of everything at the end shows the same, also of a name that was taken over meanwhile.
    file(&b, ROOT, "tmp", b"saved");
    b.rename((ROOT, b"tmp"), (ROOT, b"f"), Rename::Replace).unwrap();
    unlink(&b, "f");
    let late = Store::create(&_dir.path().join("late"), Options { background: false, ..Default::default() });
    let late = late.unwrap();
    let parcels = crate::exchange::parcels(&b, &late);
    for p in parcels.iter().rev() {
        late.import(p, &mut |id| b.extent_bytes(p, id)).unwrap();
    }
    meet(&a, &b);
    let expected: Vec<_> = found.into_iter().chain([(6, false, "saved".to_owned())]).collect();
    for s in [&a, &b, &late] {
        assert_eq!(history(s, "f"), expected);
        assert_eq!(history(s, "tmp"), [(1, false, "saved".to_owned())]);
        let gone = s.view().gone(ROOT, None, 9).unwrap();
        let gone: Vec<_> = gone.iter().map(|g| (&g.name[..], g.versions)).collect();
        assert_eq!(gone, [(&b"f"[..], 6)], "tmp was moved away, not deleted");
    }
}

fn directory(s: &Store, dir: Ino, name: &str) -> Ino {
    let new = NewObject::directory(0o755, Owner::default());
    s.create_object(dir, name.as_bytes(), &new).unwrap().1.ino
}

/// Directories with where they hang.
fn tree(s: &Store) -> Vec<(ObjectId, ObjectId, Vec<u8>)> {
    let v = s.view();
    let mut open = vec![ROOT];
    let mut found = Vec::new();
    while let Some(dir) = open.pop() {
        let above = v.attributes(dir).unwrap().object;
        for e in v.entries(dir, None, usize::MAX).unwrap() {
            open.push(e.ino);
            found.push((v.attributes(e.ino).unwrap().object, above, e.name));
        }
    }
    found.sort();
    found
}

/// Moves one of `dirs` below another, as chance says; some would close a cycle, and are refused.
fn wander(s: &Store, dirs: &[String], moves: usize, rng: &mut Rng) {
    let mut inos: Vec<Ino> = Vec::new();
    let mut at: std::collections::BTreeMap<Ino, Ino> = std::collections::BTreeMap::new();
    for d in dirs {
        let found = find(s, d);
        inos.push(found.1);
        at.insert(found.1, found.0);
    }
    let mut done = 0;
    while done < moves {
        let n = rng.below(dirs.len() as u64) as usize;
        let to = inos.get(rng.below(inos.len() as u64 + 1) as usize).copied().unwrap_or(ROOT);
        let name = dirs[n].as_bytes();
        if s.rename((at[&inos[n]], name), (to, name), Rename::NoReplace).is_ok() {
            at.insert(inos[n], to);
            done += 1;
        }
    }
}

/// Where a directory of a tree with unique names hangs, and its number.
fn find(s: &Store, name: &str) -> (Ino, Ino) {
    let mut open = vec![ROOT];
    while let Some(dir) = open.pop() {
        for e in s.view().entries(dir, None, usize::MAX).unwrap() {
            if e.name == name.as_bytes() {
                return (dir, e.ino);
            }
            open.push(e.ino);
        }
    }
    panic!("there is no directory {name}");
}

/// Two stores move the same directories: `early` on one, then `late` on the other. Returns the time in which the other takes
/// in the early ones, all of which come late there, and how many rows that reads.
fn late_moves(dirs: usize, early: usize, late: usize, moves_redone: usize) -> (Duration, u64) {
    let dir = tempfile::tempdir().unwrap();
    let a =
        Store::create(&dir.path().join("a"), Options { background: false, ..Options::default() }).unwrap();
    let (b, index) = Counted::with(dir.path(), "b", Options { moves_redone, ..crate::exchange::options() });
    let dirs: Vec<String> = (0..dirs).map(|n| format!("d{n}")).collect();
    for d in &dirs {
        directory(&a, ROOT, d);
    }
    meet(&a, &b);
    let mut rng = Rng::new(7);
    wander(&a, &dirs, early, &mut rng);
    wander(&b, &dirs, late, &mut rng);
    let parcels = crate::exchange::parcels(&a, &b);
    let start = SystemClock.monotonic_ns();
    let ((), rows) = index.count(|| crate::exchange::take(&a, &b, &parcels));
    let took = Duration::from_nanos(SystemClock.monotonic_ns() - start);
    meet(&a, &b);
    assert_eq!(tree(&a), tree(&b));
    assert_eq!(tree(&a).len(), dirs.len(), "none is lost in a cycle");
    (took, rows)
}

#[test]
fn moves_that_come_late_take_their_place_among_those_that_are_here() {
    for dirs in [2, 5, 40] {
        for moves_redone in [0, 2, 64, usize::MAX] {
            let _ = late_moves(dirs, 60, 120, moves_redone);
        }
    }
}

#[test]
fn late_moves_cost_what_there_are_and_not_that_times_what_is_newer() {
    // Each that came late may have some that are newer done again; one by one, it would be all of them.
    let most = |late: u64, newer: u64| 250 * late + 8 * newer;
    let (_, rows) = late_moves(50, 300, 1200, 64);
    assert!(rows < most(300, 1200), "{rows} rows");
    let (_, one_by_one) = late_moves(50, 300, 1200, usize::MAX);
    assert!(one_by_one > 300 * 1200, "{one_by_one} rows");
}

#[test]
fn what_becomes_known_costs_what_was_noted_of_it_and_not_all_moves() {
    let dir = tempfile::tempdir().unwrap();
    let a =
        Store::create(&dir.path().join("a"), Options { background: false, ..Options::default() }).unwrap();
    let (b, index) = Counted::with(dir.path(), "b", crate::exchange::options());
    let dirs: Vec<String> = (0..20).map(|n| format!("d{n}")).collect();
    for d in &dirs {
        directory(&a, ROOT, d);
    }
    wander(&a, &dirs, 1000, &mut Rng::new(7));
    meet(&a, &b);
    const FILES: u64 = 50;
    for n in 0..FILES {
        let file = NewObject::file(0o644, Owner::default());
        let ino = a.create_object(ROOT, format!("f{n}").as_bytes(), &file).unwrap().1.ino;
        a.rename((ROOT, format!("f{n}").as_bytes()), (ROOT, format!("g{n}").as_bytes()), Rename::Replace)
            .unwrap();
        a.set_attributes(ino, &SetAttributes { mode: Some(0o600), ..Default::default() }).unwrap();
    }
    // What is said of the files comes before the files.
    let mut parcels = crate::exchange::parcels(&a, &b);
    parcels.reverse();
    let ((), rows) = index.count(|| crate::exchange::take(&a, &b, &parcels));
    assert!(rows < FILES * 300, "{rows} rows");
    for n in 0..FILES {
        let there = b.view().lookup(ROOT, format!("g{n}").as_bytes()).unwrap();
        assert_eq!(there.mode & 0o777, 0o600);
        assert!(b.view().lookup(ROOT, format!("f{n}").as_bytes()).is_err());
    }
}

#[test]
fn moves_that_came_late_are_done_by_the_next_opening() {
    let dir = tempfile::tempdir().unwrap();
    let options = || Options { background: false, moves_redone: 0, ..Options::default() };
    let [a, b] = ["a", "b"].map(|n| Store::create(&dir.path().join(n), options()).unwrap());
    for d in ["d1", "d2", "d3"] {
        directory(&a, ROOT, d);
    }
    meet(&a, &b);
    let into = |s: &Store, from: &str, to: &str| {
        let to = find(s, to).1;
        s.rename((ROOT, from.as_bytes()), (to, from.as_bytes()), Rename::NoReplace).unwrap();
    };
    into(&a, "d1", "d2");
    into(&b, "d3", "d1");
    into(&b, "d2", "d3");
    let before = tree(&b);
    for p in crate::exchange::parcels(&a, &b) {
        b.import(&p, &mut |_| unreachable!()).unwrap();
    }
    assert_eq!(tree(&b), before, "it waits");
    let waiting = b.last_lsn();
    b.close().unwrap();
    drop(b);
    let b = Store::open(&dir.path().join("b"), options()).unwrap();
    assert_ne!(tree(&b), before);
    assert!(!b.settle_moves().unwrap(), "nothing waits any more");
    // The past is what was shown then.
    assert!(b.view_at(waiting).lookup(ROOT, b"d1").is_ok() && b.view().lookup(ROOT, b"d1").is_err());
    meet(&a, &b);
    assert_eq!(tree(&a), tree(&b));
}

#[test]
fn moves_that_everybody_has_are_forgotten_and_later_ones_agree() {
    let (_dir, a, b) = two();
    let dirs: Vec<String> = (0..8).map(|n| format!("d{n}")).collect();
    for d in &dirs {
        directory(&a, ROOT, d);
    }
    let mut rng = Rng::new(3);
    wander(&a, &dirs, 5000, &mut rng);
    meet(&a, &b);
    let here = tree(&a);
    let horizon = SystemClock.wall_ns();
    let all = a.last_lsn();
    for s in [&a, &b] {
        assert_eq!(s.forget_moves_before(1).unwrap(), 0);
        assert!(s.forget_moves_before(horizon).unwrap() > 4096, "in more than one record");
        assert_eq!(s.forget_moves_before(horizon).unwrap(), 0);
        assert_eq!(tree(s), here);
    }
    assert!(a.last_lsn() > all);
    for _ in 0..20 {
        wander(&a, &dirs, 5, &mut rng);
        wander(&b, &dirs, 5, &mut rng);
        meet(&a, &b);
        assert_eq!(tree(&a), tree(&b));
        assert_eq!(tree(&a).len(), dirs.len());
    }
    // Forgotten is forgotten: also by a store that reads it all from its log again.
    let before = tree(&a);
    let path = _dir.path().join("a");
    a.close().unwrap();
    drop(a);
    std::fs::remove_dir_all(path.join("index")).unwrap();
    let a = Store::open(&path, Options { background: false, ..Options::default() }).unwrap();
    assert_eq!(tree(&a), before);
    assert_eq!(a.forget_moves_before(horizon).unwrap(), 0);
}

#[test]
#[ignore = "a measurement"]
fn a_thousand_late_moves_among_ten_thousand() {
    for (dirs, late, newer) in [(1000, 2000, 2000), (1000, 1000, 10_000), (100, 1000, 10_000)] {
        let took = late_moves(dirs, late, newer, Options::default().moves_redone);
        println!("{late} late moves among {newer}, of {dirs} directories: time, rows: {took:?}");
    }
    let took = late_moves(1000, 2000, 2000, usize::MAX);
    println!("2000 late moves among 2000, of 1000 directories, one by one: {took:?}");
}
