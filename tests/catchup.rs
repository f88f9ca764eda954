//! What a store can tell another that its log does not hold any more, and what becomes of versions that one of them removed.

use std::{cell::Cell, path::Path};

use segfs::{
    base::{Error, FsError, Ino, Lsn, ObjectId, VersionId, limits},
    format::{
        Kind, code,
        facts::{ExtentId, Fact, ObjectKind, Owner},
    },
    log::Next,
    store::{
        CatchUp, Goal, Lacking, NewObject, Onward, Options, Parcel, Policy, Rename, Retention, SetAttributes,
        Store, Supplier, Supply,
    },
};

use super::sim::agree::portrait::portrait;

fn options() -> Options {
    Options { background: false, segment_bytes: 64 << 10, ..Options::default() }
}

fn new(dir: &Path, name: &str) -> Store {
    let s = Store::create(&dir.join(name), options()).unwrap();
    s.set_retention(Retention::everywhere(Policy::All));
    s
}

fn file(s: &Store, dir: Ino, name: &str, data: &[u8]) -> Ino {
    let new = NewObject::file(0o644, Owner::default());
    let ino = s.create_object(dir, name.as_bytes(), &new).unwrap().1.ino;
    edit(s, ino, data);
    ino
}

fn edit(s: &Store, ino: Ino, data: &[u8]) -> VersionId {
    s.write(ino, 0, data).unwrap();
    s.commit_version(ino).unwrap().1.unwrap()
}

fn mkdir(s: &Store, dir: Ino, name: &str) -> Ino {
    let new = NewObject::directory(0o755, Owner::default());
    s.create_object(dir, name.as_bytes(), &new).unwrap().1.ino
}

fn parcels(from: &Store, to: &Store) -> Vec<Parcel> {
    from.sync_all().unwrap();
    from.parcels(&to.knowledge().unwrap(), Lsn::FIRST, usize::MAX).unwrap().0
}

fn take(from: &Store, to: &Store, parcels: &[Parcel]) {
    for p in parcels {
        to.import(p, &mut |id| from.extent_bytes(p, id)).unwrap();
    }
    to.settle_moves().unwrap();
}

/// Everything that there is to tell; `between` runs after each page.
fn tell(from: &Store, to: &Store, mut telling: CatchUp, between: &mut dyn FnMut(usize)) -> usize {
    let mut pages = 0;
    while let Some(page) = from.next_told(&mut telling, 4 << 10).unwrap() {
        to.take_told(&page, &mut |id| from.source_bytes(&page.sources, id)).unwrap();
        pages += 1;
        between(pages);
    }
    to.finish_told(&telling.known).unwrap();
    pages
}

fn supply_all(mut from: &Store, to: &Store) -> usize {
    let lacking = to.lacking(None, usize::MAX).unwrap();
    lacking.iter().filter(|l| to.take_supply(l, &mut from).unwrap()).count()
}

/// Something of everything, much of it superseded.
fn fill(a: &Store) {
    let (x, y) = (mkdir(a, Ino::FIRST, "x"), mkdir(a, Ino::FIRST, "y"));
    let mut deep = x;
    for n in 0..6 {
        deep = mkdir(a, deep, &format!("d{n}"));
        file(a, deep, "f", &[n; 700]);
    }
    for n in 0..40_u8 {
        let f = file(a, [x, y][usize::from(n % 2)], &format!("f{n}"), &[n; 3000]);
        edit(a, f, &[n ^ 0x55; 2000]);
        a.set_xattr(f, b"user.a", Some(&[n]), None).unwrap();
        if n % 3 == 0 {
            a.link(f, y, format!("l{n}").as_bytes()).unwrap();
            a.set_xattr(f, b"user.a", None, None).unwrap();
            a.set_attributes(f, &SetAttributes { mode: Some(0o600), ..Default::default() }).unwrap();
        }
        if n % 5 == 0 {
            a.unlink([x, y][usize::from(n % 2)], format!("f{n}").as_bytes()).unwrap();
        }
    }
    let held = file(a, y, "held", b"1");
    let first = edit(a, held, b"2");
    a.hold_version(first, true).unwrap();
    let second = edit(a, held, b"3");
    a.hold_version(second, true).unwrap();
    a.hold_version(second, false).unwrap();
    a.lock_version(first, false, 4_000_000_000_000_000_000).unwrap();
    a.tag(b"t", true).unwrap();
    a.tag(b"u", true).unwrap();
    a.tag(b"u", false).unwrap();
    a.create_object(x, b"s", &NewObject::symlink(b"there".to_vec(), Owner::default())).unwrap();
    // Directories that moved, into each other and back, and one that went.
    a.rename((Ino::FIRST, b"x"), (y, b"x"), Rename::Replace).unwrap();
    a.rename((y, b"x"), (Ino::FIRST, b"z"), Rename::Replace).unwrap();
    a.rename((Ino::FIRST, b"y"), (x, b"y"), Rename::Replace).unwrap();
    mkdir(a, x, "gone");
    a.rmdir(x, b"gone").unwrap();
}

/// Gives back segments until the log does not begin at its beginning any more.
fn clean(s: &Store) {
    s.write_base().unwrap();
    let cleaned = s.clean(Goal::ALL).unwrap();
    assert!(cleaned.segments > 3 && s.tail_floor().unwrap() > Lsn::new(100), "{cleaned:?}");
}

fn alike(a: &Store, b: &Store) {
    assert_eq!(a.knowledge().unwrap(), b.knowledge().unwrap());
    let (a, b) = (portrait(a), portrait(b));
    for k in a.keys().chain(b.keys()) {
        assert_eq!(a.get(k), b.get(k), "{k}");
    }
}

#[test]
fn directories_whose_moves_were_forgotten_are_told_where_they_hang() {
    let d = tempfile::tempdir().unwrap();
    let (a, b) = (new(d.path(), "a"), new(d.path(), "b"));
    fill(&a);
    assert!(a.forget_moves_before(u64::MAX).unwrap() > 2);
    clean(&a);
    tell(&a, &b, a.catch_up(Lsn::new(0)).unwrap(), &mut |_| {});
    alike(&a, &b);
}

#[test]
fn a_store_whose_log_was_cleaned_fills_an_empty_one() {
    let d = tempfile::tempdir().unwrap();
    let (a, b, c) = (new(d.path(), "a"), new(d.path(), "b"), new(d.path(), "c"));
    fill(&a);
    clean(&a);
    file(&a, Ino::FIRST, "after", b"cleaning");
    let lacks = |to: &Store| {
        let mut told = to.knowledge().unwrap();
        parcels(&a, to).iter().for_each(|p| told.add(&p.origin));
        !told.includes(&a.knowledge().unwrap())
    };
    assert!(lacks(&b), "its log alone is not enough");
    let pages = tell(&a, &b, a.catch_up(Lsn::new(0)).unwrap(), &mut |_| {});
    assert!(pages > 5, "{pages} pages");
    alike(&a, &b);
    // Told once more, nothing is news; but that a directory hung elsewhere first is noted as a move the second time.
    let mut before = b.last_lsn();
    for more in [4, 0] {
        let mut again = a.catch_up(Lsn::new(0)).unwrap();
        while let Some(page) = a.next_told(&mut again, 1 << 20).unwrap() {
            b.take_told(&page, &mut |_| panic!("it is here already")).unwrap();
        }
        assert!(b.last_lsn().get() - before.get() <= more);
        before = b.last_lsn();
    }
    alike(&a, &b);
    // What came so is not in the log as facts: the next one has to be told too, and by the floor it knows.
    assert!(b.tail_floor().unwrap() > Lsn::new(10) && b.tail_floor().unwrap() <= b.last_lsn().next());
    assert!(parcels(&b, &c).is_empty());
    tell(&b, &c, b.catch_up(Lsn::new(0)).unwrap(), &mut |_| {});
    alike(&a, &c);
    // And all of it goes on from there, in any direction.
    let f = file(&c, Ino::FIRST, "new", b"c");
    edit(&c, f, b"d");
    take(&c, &a, &parcels(&c, &a));
    take(&a, &b, &parcels(&a, &b));
    alike(&a, &b);
    // The index is made of the log as before.
    let shown = portrait(&b);
    b.sync_all().unwrap();
    drop(b);
    std::fs::remove_dir_all(d.path().join("b/index")).unwrap();
    assert_eq!(portrait(&Store::open(&d.path().join("b"), options()).unwrap()), shown);
}

#[test]
fn a_telling_that_was_cut_off_goes_on_while_others_write() {
    let d = tempfile::tempdir().unwrap();
    let (a, b) = (new(d.path(), "a"), new(d.path(), "b"));
    file(&a, Ino::FIRST, "early", b"known to both");
    take(&a, &b, &parcels(&a, &b));
    let f = file(&b, Ino::FIRST, "mine", b"b alone");
    fill(&a);
    clean(&a);
    let mut telling = a.catch_up(Lsn::new(0)).unwrap();
    for _ in 0..3 {
        let page = a.next_told(&mut telling, 4 << 10).unwrap().unwrap();
        b.take_told(&page, &mut |id| a.source_bytes(&page.sources, id)).unwrap();
    }
    // Both stop, one cleanly, and start again.
    b.sync_all().unwrap();
    a.close().unwrap();
    drop((a, b));
    let open = |name: &str| Store::open(&d.path().join(name), options()).unwrap();
    let (a, b) = (open("a"), open("b"));
    a.set_retention(Retention::everywhere(Policy::All));
    let z = a.view().lookup(Ino::FIRST, b"z").unwrap().ino;
    let tail = telling.tail_from;
    tell(&a, &b, telling, &mut |n| {
        file(&a, z, &format!("w{n}"), &[n as u8; 100]);
        a.rename((z, format!("w{n}").as_bytes()), (Ino::FIRST, b"w"), Rename::Replace).unwrap();
        edit(&b, f, &[n as u8; 50]);
    });
    a.sync_all().unwrap();
    let (rest, _) = a.parcels(&b.knowledge().unwrap(), tail, usize::MAX).unwrap();
    assert!(rest.len() > 10);
    take(&a, &b, &rest);
    take(&b, &a, &parcels(&b, &a));
    alike(&a, &b);
}

#[test]
fn who_had_acknowledged_a_part_is_told_the_rest() {
    let d = tempfile::tempdir().unwrap();
    let (a, b) = (new(d.path(), "a"), new(d.path(), "b"));
    fill(&a);
    take(&a, &b, &parcels(&a, &b));
    let cursor = a.last_lsn();
    let f = file(&a, Ino::FIRST, "late", b"1");
    for n in 0..40_u8 {
        edit(&a, f, &[n; 3000]);
    }
    a.set_xattr(f, b"user.a", Some(b"v"), None).unwrap();
    clean(&a);
    let told = |after: Lsn| {
        let mut telling = a.catch_up(after).unwrap();
        let mut n = 0;
        while let Some(page) = a.next_told(&mut telling, 4 << 10).unwrap() {
            n += page.told.len();
        }
        n
    };
    assert!(told(cursor) * 3 < told(Lsn::new(0)), "{} of {}", told(cursor), told(Lsn::new(0)));
    tell(&a, &b, a.catch_up(cursor).unwrap(), &mut |_| {});
    alike(&a, &b);
}

fn keep_one(s: &Store) {
    s.set_retention(Retention::everywhere(Policy::Last(1)));
    let mut at = Some(Ino::FIRST);
    while let Some(from) = at {
        at = s.expire(from, u64::MAX / 2).unwrap().1;
    }
}

fn read(s: &Store, id: VersionId) -> Vec<u8> {
    let (ino, at) = s.find_version(id).unwrap().unwrap();
    let mut out = vec![0; s.version_size(ino, at).unwrap().size as usize];
    s.read_version(ino, at, 0, &mut out).unwrap();
    out
}

#[test]
fn what_the_sender_removed_is_lacking_until_another_supplies_it() {
    let d = tempfile::tempdir().unwrap();
    let (a, b, c) = (new(d.path(), "a"), new(d.path(), "b"), new(d.path(), "c"));
    let f = file(&a, Ino::FIRST, "f", &[1; 9000]);
    let ids: Vec<_> = (2..6_u8).map(|n| edit(&a, f, &vec![n; 9000 - usize::from(n)])).collect();
    take(&a, &b, &parcels(&a, &b));
    keep_one(&a);
    assert!(a.find_version(ids[0]).unwrap().is_none() && a.find_version(ids[3]).unwrap().is_some());
    for late in [false, true] {
        let c = if late { new(d.path(), "late") } else { new(d.path(), "soon") };
        let mut sent = parcels(&a, &c);
        if late {
            sent.reverse();
        }
        take(&a, &c, &sent);
        assert_eq!(
            read(&c, ids[3]),
            [vec![5; 8995], vec![1; 0], vec![4], vec![3], vec![2], vec![1; 2]].concat()
        );
        let lacking: Vec<_> = c.lacking(None, 9).unwrap().into_iter().map(|l| l.version).collect();
        assert_eq!(lacking.len(), 4);
        assert!(ids[..3].iter().all(|id| lacking.contains(id) && c.find_version(*id).unwrap().is_none()));
        assert_eq!(supply_all(&a, &c), 0, "it has them no more");
        assert_eq!(supply_all(&b, &c), 4);
        alike(&b, &c);
        c.sync_all().unwrap();
        drop(c);
        let name = if late { "late" } else { "soon" };
        std::fs::remove_dir_all(d.path().join(name).join("index")).unwrap();
        let c = Store::open(&d.path().join(name), options()).unwrap();
        assert_eq!(portrait(&c), portrait(&b));
    }
    // Told from an index, the removed ones are known by their ids alone, and had from who has them.
    tell(&a, &c, a.catch_up(Lsn::new(0)).unwrap(), &mut |_| {});
    assert_eq!((c.lacking(None, 9).unwrap().len(), supply_all(&b, &c)), (4, 4));
    alike(&b, &c);
}

#[test]
fn a_rename_of_what_was_not_known_is_told_also_if_that_comes_while_the_index_is_read() {
    for when in 0..4 {
        let d = tempfile::tempdir().unwrap();
        let (x, a, b) = (new(d.path(), "x"), new(d.path(), "a"), new(d.path(), "b"));
        file(&x, Ino::FIRST, "before", b"1");
        x.rename((Ino::FIRST, b"before"), (Ino::FIRST, b"after"), Rename::Replace).unwrap();
        let sent = parcels(&x, &a);
        let (renamed, made) = sent.split_last().unwrap();
        take(&x, &a, std::slice::from_ref(renamed));
        let mut telling = a.catch_up(Lsn::new(0)).unwrap();
        let mut pages = 0;
        while let Some(page) = a.next_told(&mut telling, 1).unwrap() {
            b.take_told(&page, &mut |id| a.source_bytes(&page.sources, id)).unwrap();
            if pages == when {
                take(&x, &a, made);
            }
            pages += 1;
        }
        assert!(pages > when);
        b.finish_told(&telling.known).unwrap();
        take(&a, &b, &parcels(&a, &b));
        for s in [&a, &b] {
            assert!(s.view().lookup(Ino::FIRST, b"after").is_ok(), "page {when}, {}", s.id());
        }
        alike(&a, &b);
    }
}

#[test]
fn an_edit_that_nothing_took_up_is_not_let_go_while_its_content_is_lacking() {
    let d = tempfile::tempdir().unwrap();
    let (a, b, c) = (new(d.path(), "a"), new(d.path(), "b"), new(d.path(), "c"));
    let f = file(&a, Ino::FIRST, "f", b"0");
    take(&a, &b, &parcels(&a, &b));
    edit(&b, b.view().lookup(Ino::FIRST, b"f").unwrap().ino, b"theirs");
    edit(&a, f, b"ours");
    edit(&a, f, b"ours again");
    take(&a, &c, &parcels(&a, &c));
    for p in parcels(&b, &c) {
        c.import(&p, &mut |_| Err(FsError::NotFound.into())).unwrap();
    }
    keep_one(&c);
    c.set_retention(Retention::everywhere(Policy::All));
    assert_eq!((c.lacking(None, 9).unwrap().len(), supply_all(&b, &c)), (1, 1));
    take(&b, &a, &parcels(&b, &a));
    let heads = |s: &Store| s.view().heads(s.view().lookup(Ino::FIRST, b"f").unwrap().ino).unwrap().len();
    assert_eq!((heads(&a), heads(&c)), (2, 2));
}

/// Says what the log holds of versions that stopped waiting.
fn readied(s: &Store) -> Vec<VersionId> {
    s.sync_all().unwrap();
    let mut log = s.subscribe(Lsn::FIRST);
    let mut found = Vec::new();
    while let Ok(Some(Next::Record(r))) = log.try_next() {
        if r.kind == Kind::Operation {
            let facts: Vec<Fact> = code::decode(&r.payload).unwrap();
            found
                .extend(facts.iter().filter_map(|f| if let Fact::Ready(_, v) = f { Some(*v) } else { None }));
        }
    }
    found
}

#[test]
fn a_version_that_waits_and_comes_by_another_way_waits_no_more() {
    let d = tempfile::tempdir().unwrap();
    let (a, b) = (new(d.path(), "a"), new(d.path(), "b"));
    let f = file(&a, Ino::FIRST, "f", b"0");
    let first = a.view().versions(f, None, 1).unwrap()[0].id;
    let (second, third) = (edit(&a, f, b"1"), edit(&a, f, b"2"));
    a.sync_all().unwrap();
    // The telling brings the third, which rests on the second; the page with the second is lost.
    let mut telling = a.catch_up(Lsn::new(0)).unwrap();
    let mut page = a.next_told(&mut telling, 1 << 20).unwrap().unwrap();
    let is = |fact: &[u8], id| matches!(code::decode(fact), Ok(Fact::Version(v)) if v.id == id);
    page.told.retain(|t| !is(&t.fact, second));
    page.contents.retain(|c| c.version != second);
    assert!(page.contents.iter().any(|c| c.version == third && c.base == Some(second)));
    b.take_told(&page, &mut |id| a.source_bytes(&page.sources, id)).unwrap();
    // The sender goes without the second, so its parcel describes the third by the first.
    a.hold_version(first, true).unwrap();
    keep_one(&a);
    a.set_retention(Retention::everywhere(Policy::All));
    let mut sent = parcels(&a, &b);
    assert!(sent.iter().flat_map(|p| &p.contents).any(|c| c.version == third && c.base == Some(first)));
    sent.reverse();
    take(&a, &b, &sent);
    assert_eq!(read(&b, third), b"2");
    // No opening finds anything to do any more.
    assert_eq!(readied(&b), []);
    b.close().unwrap();
    drop(b);
    let b = Store::open(&d.path().join("b"), options()).unwrap();
    assert_eq!(readied(&b), []);
}

#[test]
fn what_was_purged_comes_back_from_nobody() {
    let d = tempfile::tempdir().unwrap();
    let (a, b, c) = (new(d.path(), "a"), new(d.path(), "b"), new(d.path(), "c"));
    let f = file(&a, Ino::FIRST, "f", &[1; 9000]);
    (2..5_u8).for_each(|n| _ = edit(&a, f, &[n; 9000]));
    let mut ids: Vec<_> = a.view().versions(f, None, 9).unwrap().iter().map(|v| v.id).collect();
    take(&a, &b, &parcels(&a, &b));
    a.unlink(Ino::FIRST, b"f").unwrap();
    a.reap(f).unwrap();
    assert_eq!(a.purge_objects(&[f]).unwrap(), (4, 0));
    a.erase(&[f], &|_, _| {}).unwrap();
    let is_gone = |s: &Store| ids.iter().all(|id| s.find_version(*id).unwrap().is_none());
    take(&b, &a, &parcels(&b, &a));
    assert!(is_gone(&a) && a.lacking(None, 9).unwrap().is_empty());
    // Who is told from the index knows that they were there, and has nothing of them.
    tell(&a, &c, a.catch_up(Lsn::new(0)).unwrap(), &mut |_| {});
    let lacking = c.lacking(None, 9).unwrap();
    assert_eq!(supply_all(&a, &c), 0);
    // A purge there takes them too, before somebody supplies them.
    assert_eq!(c.purge_objects(&[lacking[0].ino]).unwrap(), (4, 0));
    assert_eq!(supply_all(&b, &c), 0);
    take(&b, &c, &parcels(&b, &c));
    assert!(is_gone(&c) && c.lacking(None, 9).unwrap().is_empty());
    let mut told: Vec<_> = lacking.iter().map(|l| l.version).collect();
    ids.sort();
    told.sort();
    assert_eq!(told, ids);
}

#[test]
fn what_would_go_at_once_is_declined_and_never_asked_for() {
    let d = tempfile::tempdir().unwrap();
    let (a, b, c) = (new(d.path(), "a"), new(d.path(), "b"), new(d.path(), "c"));
    let f = file(&a, Ino::FIRST, "f", b"1");
    let ids: Vec<_> = [b"2", b"3", b"4"].map(|data| edit(&a, f, data)).into();
    let (mut sent, last) = (parcels(&a, &b), Cell::new(0));
    b.set_retention(Retention::everywhere(Policy::Last(1)));
    // The newest comes first, whole.
    keep_one(&a);
    let newest = parcels(&a, &b).pop().unwrap();
    take(&a, &b, &sent[..1]);
    take(&a, &b, std::slice::from_ref(&newest));
    sent.pop();
    for p in &sent {
        b.import(p, &mut |_| {
            last.set(last.get() + 1);
            Err(FsError::NotFound.into())
        })
        .unwrap();
    }
    assert_eq!(last.get(), 0, "nobody asks for the bytes of what is not kept");
    assert_eq!(b.lacking(None, 9).unwrap(), []);
    assert_eq!(read(&b, ids[2]), b"4");
    assert_eq!(a.knowledge().unwrap(), b.knowledge().unwrap());
    assert!(parcels(&a, &b).is_empty(), "none is offered again");
    // What lacks its content is let go, if nobody would keep it any more.
    take(&a, &c, &parcels(&a, &c));
    assert_eq!(c.lacking(None, 9).unwrap().len(), 3);
    keep_one(&c);
    assert_eq!(c.lacking(None, 9).unwrap(), []);
    assert_eq!(read(&c, ids[2]), b"4");
}

#[test]
fn an_edit_on_what_was_removed_here_is_taken_whole() {
    let d = tempfile::tempdir().unwrap();
    let (a, b) = (new(d.path(), "a"), new(d.path(), "b"));
    let long = |s: &Store| {
        let f = file(s, Ino::FIRST, "f", &[1; 9000]);
        for n in 1..20 {
            s.write(f, n * 10_000, &[1; 10_000]).unwrap();
        }
        s.commit_version(f).unwrap();
        f
    };
    let f = long(&a);
    take(&a, &b, &parcels(&a, &b));
    let other = b.view().lookup(Ino::FIRST, b"f").unwrap().ino;
    // Both edit; here the common base goes, there it is what the edit is described by.
    let mine = edit(&a, f, b"mine");
    keep_one(&a);
    b.write(other, 150_000, b"theirs").unwrap();
    let theirs = b.commit_version(other).unwrap().1.unwrap();
    take(&b, &a, &parcels(&b, &a));
    assert_eq!(a.lacking(None, 9).unwrap().len(), 1);
    assert!(a.find_version(theirs).unwrap().is_none());
    assert_eq!(supply_all(&b, &a), 1);
    let got = read(&a, theirs);
    assert_eq!((got.len(), &got[150_000..150_006], got[0]), (200_000, &b"theirs"[..], 1));
    assert_eq!(a.view().heads(f).unwrap().len(), 2);
    // With what every member has acknowledged kept, it comes as a difference.
    let (a, b) = (new(d.path(), "a2"), new(d.path(), "b2"));
    let f = long(&a);
    take(&a, &b, &parcels(&a, &b));
    a.set_acknowledged(a.last_lsn());
    edit(&a, f, b"mine");
    edit(&a, f, b"more");
    keep_one(&a);
    assert_eq!(a.view().versions(f, None, 9).unwrap().len(), 2, "the newest, and the common one");
    let other = b.view().lookup(Ino::FIRST, b"f").unwrap().ino;
    edit(&b, other, b"theirs");
    take(&b, &a, &parcels(&b, &a));
    assert_eq!(a.lacking(None, 9).unwrap(), []);
    assert_ne!(mine, theirs);
}

/// Supplies pages, and at one of them does something else first.
struct Meddled<'a> {
    from: &'a Store,
    pages: usize,
    at: usize,
    meddle: &'a dyn Fn(),
}

impl Supplier for Meddled<'_> {
    fn page(&mut self, id: VersionId, bases: &[VersionId], from: Onward) -> Result<Option<Supply>, Error> {
        self.pages += 1;
        if self.pages == self.at {
            (self.meddle)();
        }
        self.from.supply(id, bases, from)
    }
    fn extent(&mut self, page: &Supply, id: &ExtentId) -> Result<Vec<u8>, Error> {
        self.from.source_bytes(&page.sources, id)
    }
}

#[test]
fn more_than_a_parcel_holds_comes_in_pages() {
    const CHUNKS: u64 = limits::CHANGES_PER_RECORD as u64 + 1000;
    let d = tempfile::tempdir().unwrap();
    let a = Store::create(&d.path().join("a"), Options { segment_bytes: 8 << 20, ..options() }).unwrap();
    let b = Store::create(&d.path().join("b"), Options { segment_bytes: 8 << 20, ..options() }).unwrap();
    let f = file(&a, Ino::FIRST, "f", b"first");
    for n in 0..CHUNKS {
        a.write(f, n * limits::CHUNK_BYTES, &n.to_be_bytes()).unwrap();
    }
    let id = a.commit_version(f).unwrap().1.unwrap();
    take(&a, &b, &parcels(&a, &b));
    let lacking = b.lacking(None, 9).unwrap();
    let object = a.view().attributes(f).unwrap().object;
    assert_eq!(lacking.iter().map(|l| (l.object, l.version)).collect::<Vec<_>>(), [(object, id)]);
    assert_eq!(b.view().attributes(lacking[0].ino).unwrap().size, 5, "not shown before all of it is here");
    // The base goes there in the middle: begun anew, it is taken all the same.
    let mut cut = Meddled { from: &a, pages: 0, at: 3, meddle: &|| keep_one(&a) };
    assert!(!b.take_supply(&lacking[0], &mut cut).unwrap());
    let mut whole = Meddled { from: &a, pages: 0, at: 0, meddle: &|| {} };
    assert!(b.take_supply(&lacking[0], &mut whole).unwrap());
    assert!(whole.pages > 60, "{} pages", whole.pages);
    assert_eq!(b.lacking(None, 9).unwrap(), []);
    let view = b.view();
    let ino = lacking[0].ino;
    assert_eq!(view.attributes(ino).unwrap().size, (CHUNKS - 1) * limits::CHUNK_BYTES + 8);
    for n in [0, 1, 255, 256, 257, CHUNKS / 2, CHUNKS - 1] {
        let mut out = [0; 8];
        view.read(ino, n * limits::CHUNK_BYTES, &mut out).unwrap();
        assert_eq!(out, n.to_be_bytes(), "chunk {n}");
    }
}

#[test]
fn a_supply_that_lies_is_refused() {
    let d = tempfile::tempdir().unwrap();
    let (a, b, c) = (new(d.path(), "a"), new(d.path(), "b"), new(d.path(), "c"));
    let f = file(&a, Ino::FIRST, "f", b"first");
    edit(&a, f, b"second");
    take(&a, &b, &parcels(&a, &b));
    keep_one(&a);
    take(&a, &c, &parcels(&a, &c));
    let lacking = c.lacking(None, 9).unwrap()[0];
    struct Liar<'a>(&'a Store, &'a dyn Fn(&mut Supply));
    impl Supplier for Liar<'_> {
        fn page(&mut self, id: VersionId, of: &[VersionId], from: Onward) -> Result<Option<Supply>, Error> {
            let mut page = self.0.supply(id, of, from)?;
            page.iter_mut().for_each(self.1);
            Ok(page)
        }
        fn extent(&mut self, page: &Supply, id: &ExtentId) -> Result<Vec<u8>, Error> {
            self.0.source_bytes(&page.sources, id)
        }
    }
    let lies: [&dyn Fn(&mut Supply); 6] = [
        &|s| s.version.size += 1,
        &|s| s.version.object = ObjectId::ROOT,
        &|s| s.version.created_ns += 1,
        &|s| s.base = Some(VersionId::new(7)),
        &|s| s.next = Some(Onward::default()),
        &|s| s.ranges.iter_mut().for_each(|r| r.offset = limits::FILE_BYTES - 1),
    ];
    for (n, lie) in lies.iter().enumerate() {
        let said = c.take_supply(&lacking, &mut Liar(&b, lie));
        assert!(matches!(said, Err(Error::BadRequest(_))), "lie {n}: {said:?}");
    }
    assert_eq!(c.lacking(None, 9).unwrap(), [lacking]);
    assert!(c.take_supply(&Lacking { ..lacking }, &mut Liar(&b, &|_| {})).unwrap());
    let view = c.view();
    assert_eq!(view.attributes(lacking.ino).unwrap().kind, ObjectKind::File);
}

#[test]
fn log_that_peers_have_not_had_stays_up_to_a_limit() {
    let d = tempfile::tempdir().unwrap();
    let s = new(d.path(), "a");
    fill(&s);
    let cursor = s.last_lsn().next();
    let kept = file(&s, Ino::FIRST, "kept", b"1");
    for n in 0..60 {
        edit(&s, kept, &[n; 9000]);
    }
    s.unlink(Ino::FIRST, b"kept").unwrap();
    s.set_retention(Retention::everywhere(Policy::Last(1)));
    let mut at = Some(Ino::FIRST);
    while let Some(from) = at {
        at = s.expire(from, u64::MAX / 2).unwrap().1;
    }
    let clean = || {
        s.write_base().unwrap();
        s.clean(Goal::ALL).unwrap();
        s.tail_floor().unwrap()
    };
    s.set_needed(Some(cursor));
    let floor = clean();
    assert!(floor > Lsn::new(50) && floor <= cursor, "{floor}, {cursor}");
    // What is short of space does not wait for anybody.
    let mut settings = s.settings();
    settings.for_peers_bytes = 1000;
    s.set_settings(settings);
    assert!(clean() > cursor);
}
