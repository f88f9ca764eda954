//! Findings of a review, each as a test that fails.
use segfs::{
    base::{Incarnation, Ino, Lsn, ObjectId, VersionId},
    format::{
        Origin, code,
        facts::{Changes, Fact, Owner},
    },
    store::{NewObject, Options, Parcel, Store},
};
use std::path::Path;
fn options() -> Options {
    Options { background: false, segment_bytes: 8 << 20, ..Options::default() }
}
fn new(dir: &Path, name: &str) -> Store {
    Store::create(&dir.join(name), options()).unwrap()
}
fn create(s: &Store, dir: Ino, name: &str) -> Ino {
    s.create_object(dir, name.as_bytes(), &NewObject::file(0o644, Owner::default())).unwrap().1.ino
}
fn file(s: &Store, dir: Ino, name: &str, data: &[u8]) -> Ino {
    let ino = create(s, dir, name);
    s.write(ino, 0, data).unwrap();
    s.commit_version(ino).unwrap();
    ino
}
fn read(s: &Store, ino: Ino) -> Vec<u8> {
    let mut out = vec![1; s.view().attributes(ino).unwrap().size as usize];
    s.view().read(ino, 0, &mut out).unwrap();
    out
}
fn parcels(from: &Store, to: &Store) -> Vec<Parcel> {
    from.sync_all().unwrap();
    from.parcels(&to.knowledge().unwrap(), Lsn::new(1), 1_000_000).unwrap().0
}
fn give(from: &Store, to: &Store) {
    for p in parcels(from, to) {
        to.import(&p, &mut |id| from.extent_bytes(&p, id)).unwrap();
    }
    to.settle_moves().unwrap();
}
fn at(s: &Store, name: &str) -> Ino {
    s.view().lookup(Ino::FIRST, name.as_bytes()).unwrap().ino
}
fn two() -> (tempfile::TempDir, Store, Store) {
    let d = tempfile::tempdir().unwrap();
    let (a, b) = (new(d.path(), "a"), new(d.path(), "b"));
    (d, a, b)
}
/// A parcel of store `from` with other facts in it.
fn forged(like: &Parcel, facts: &[Fact]) -> Parcel {
    Parcel {
        origin: Origin { incarnation: Incarnation::new(77), seq: 1, ..like.origin },
        facts: code::encode(&facts.to_vec()),
        contents: vec![],
        ..like.clone()
    }
}

#[test]
fn r01_a_name_that_came_back_stays_when_it_is_edited() {
    let (_d, a, b) = two();
    let f = file(&a, Ino::FIRST, "f", b"one");
    a.link(f, Ino::FIRST, b"g").unwrap();
    give(&a, &b);
    a.unlink(Ino::FIRST, b"f").unwrap();
    a.unlink(Ino::FIRST, b"g").unwrap();
    let bf = at(&b, "f");
    b.write(bf, 0, b"two").unwrap();
    b.commit_version(bf).unwrap();
    give(&b, &a);
    assert_eq!(read(&a, at(&a, "f")), b"two", "the edit brought it back");
    a.write(f, 0, b"six").unwrap();
    a.commit_version(f).unwrap();
    assert_eq!(
        read(&a, a.view().lookup(Ino::FIRST, b"f").expect("the name that was just edited").ino),
        b"six"
    );
}

#[test]
fn r02_a_reaped_draft_is_no_part_of_what_comes_later() {
    let (_d, a, b) = two();
    let f = file(&a, Ino::FIRST, "f", &[b'.'; 20]);
    give(&a, &b);
    a.write(f, 0, b"XXXX").unwrap(); // open file, deleted, closed
    a.unlink(Ino::FIRST, b"f").unwrap();
    a.reap(f).unwrap();
    let bf = at(&b, "f");
    b.write(bf, 10, b"bb").unwrap();
    b.commit_version(bf).unwrap();
    give(&b, &a);
    give(&a, &b);
    let (x, y) = (read(&a, at(&a, "f")), read(&b, at(&b, "f")));
    assert_eq!(String::from_utf8_lossy(&x), String::from_utf8_lossy(&y));
}

#[test]
fn r03_cuts_that_were_carried_out_cross() {
    const C: u64 = 128 << 10;
    let (_d, a, b) = two();
    let f = file(&a, Ino::FIRST, "f", &vec![7; 60 * C as usize]);
    give(&a, &b);
    for i in 1..=34 {
        a.truncate(f, i * C).unwrap();
        a.truncate(f, (i + 2) * C).unwrap();
    }
    a.commit_version(f).unwrap();
    give(&a, &b);
    let (x, y) = (read(&a, f), read(&b, at(&b, "f")));
    assert_eq!(x.len(), y.len());
    let wrong = x.iter().zip(&y).filter(|(p, q)| p != q).count();
    assert_eq!(wrong, 0, "bytes that differ after both hold the same facts");
}

#[test]
fn r04_an_extent_of_a_store_never_heard_of_does_not_end_the_store() {
    let (d, a, b) = two();
    let c = new(d.path(), "c");
    file(&a, Ino::FIRST, "f", &[9; 5000]);
    give(&a, &b);
    let g = create(&b, Ino::FIRST, "g");
    b.clone_range((at(&b, "f"), 0), (g, 0), 5000).unwrap();
    b.commit_version(g).unwrap();
    let mut ps = parcels(&b, &c);
    ps.reverse(); // any order is allowed
    for p in &ps {
        c.import(p, &mut |id| b.extent_bytes(p, id)).unwrap();
    }
    assert_eq!(read(&c, at(&c, "g")), [9; 5000]);
    c.sync_all().unwrap();
    drop(c);
    let c = Store::open(&d.path().join("c"), options()).expect("opens again");
    assert_eq!(read(&c, at(&c, "g")), [9; 5000]);
}

#[test]
fn r05_a_long_xattr_name_from_a_peer_does_not_end_the_store() {
    let (d, a, b) = two();
    file(&a, Ino::FIRST, "f", b"x");
    give(&a, &b);
    let like = parcels(&a, &new(d.path(), "c")).remove(0);
    let name = vec![b'x'; 65_520]; // the row's key fits, that of its history does not
    for (seq, stamp) in [(1, like.stamp), (2, like.stamp + 1)] {
        let mut p = forged(&like, &[Fact::Xattr(ObjectId::ROOT, name.clone(), Some(vec![]))]);
        (p.origin.seq, p.stamp) = (seq, stamp);
        println!(
            "{:?}",
            b.import(&p, &mut |_| unreachable!()).map_err(|e| e
                .to_string()
                .chars()
                .take(60)
                .collect::<String>())
        );
    }
    println!("stopped: {:?}", b.status().stopped.map(|s| s.chars().take(60).collect::<String>()));
    let _ = b.sync_all();
    drop(b);
    let opened = Store::open(&d.path().join("b"), options());
    assert!(opened.is_ok(), "{}", opened.err().unwrap().to_string().chars().take(80).collect::<String>());
}

#[test]
fn r06_a_content_of_nobody_does_not_use_up_inode_numbers() {
    let (d, a, b) = two();
    file(&a, Ino::FIRST, "f", b"x");
    give(&a, &b);
    let like = parcels(&a, &new(d.path(), "c")).remove(0);
    let mut p = forged(&like, &[Fact::Mode(ObjectId::ROOT, 0o755)]);
    p.contents = vec![Changes {
        object: ObjectId::new((5 << 64) | u128::from(u64::MAX - 1)),
        version: VersionId::new(1),
        base: None,
        ranges: vec![],
    }];
    println!("import: {:?}", b.import(&p, &mut |_| unreachable!()));
    let made = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| create(&b, Ino::FIRST, "new")));
    println!("made: {:?}", made.as_ref().ok());
    assert!(made.is_ok_and(|ino| ino.get() < 1000));
}

#[test]
fn r07_two_writers_of_one_block_lose_nothing() {
    let d = tempfile::tempdir().unwrap();
    let s = new(d.path(), "a");
    let f = file(&s, Ino::FIRST, "f", &[0; 4096]);
    for i in 0..9 {
        s.write(f, i * 9, &[1]).unwrap();
    }
    let mut lost = 0;
    std::thread::scope(|t| {
        let hs: Vec<_> = (0..2_u64)
            .map(|w| {
                let s = &s;
                t.spawn(move || {
                    let mut lost = 0;
                    for n in 0..20_000_u64 {
                        let at = 200 + w * 1500 + (n % 1400);
                        let v = (n % 251) as u8 + 1;
                        s.write(f, at, &[v]).unwrap();
                        let mut got = [0];
                        s.view().read(f, at, &mut got).unwrap(); // nobody else writes this byte
                        lost += u64::from(got[0] != v);
                    }
                    lost
                })
            })
            .collect();
        for h in hs {
            lost += h.join().unwrap();
        }
    });
    assert_eq!(lost, 0, "writes that vanished");
}

#[test]
fn r10_nobody_makes_the_root_another_name() {
    let (d, a, b) = two();
    file(&a, Ino::FIRST, "f", b"x");
    give(&a, &b);
    let like = parcels(&a, &new(d.path(), "c")).remove(0);
    let p = forged(&like, &[Fact::Alias(ObjectId::ROOT, ObjectId::new(0x99 << 64 | 0x12345))]);
    println!("import: {:?}", b.import(&p, &mut |_| unreachable!()).map_err(|e| e.to_string()));
    assert_eq!(b.view().entries(Ino::FIRST, None, 10).unwrap().len(), 1);
}

#[test]
fn r11_overlapping_clones_are_refused() {
    let d = tempfile::tempdir().unwrap();
    let s = new(d.path(), "a");
    let f = create(&s, Ino::FIRST, "f");
    s.write(f, 0, b"begin").unwrap();
    s.write(f, 64 << 20, b"middle").unwrap();
    s.truncate(f, 200 << 20).unwrap();
    let done = s.clone_range((f, 0), (f, 64 << 20), 128 << 20);
    assert!(done.is_err(), "{done:?}");
}

#[test]
fn r13_copying_a_file_with_many_small_holes_does_not_panic() {
    const C: u64 = 128 << 10;
    let d = tempfile::tempdir().unwrap();
    let s = new(d.path(), "a");
    let f = create(&s, Ino::FIRST, "f");
    for i in 0..32 {
        s.write(f, i * (1 << 20), &vec![1; 1 << 20]).unwrap();
    }
    let g = create(&s, Ino::FIRST, "g");
    for i in 0..256 * 400_u64 {
        s.punch(f, i * (C / 400), 1).unwrap();
    }
    let done =
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| s.clone_range((f, 0), (g, 0), 256 * C)));
    assert!(matches!(done, Ok(Ok(_))), "panicked: {}", done.is_err());
}

#[test]
fn r14_rot_in_the_tail_leaves_the_index_alone() {
    let d = tempfile::tempdir().unwrap();
    let path = d.path().join("a");
    let s = Store::create(&path, options()).unwrap();
    for i in 0..50 {
        file(&s, Ino::FIRST, &format!("old{i}"), b"x");
    }
    s.close().unwrap();
    drop(s);
    let first = std::fs::read_dir(path.join("segments")).unwrap().next().unwrap().unwrap().path();
    let s = Store::open(&path, options()).unwrap();
    for i in 0..50 {
        file(&s, Ino::FIRST, &format!("new{i}"), b"x");
        s.sync_all().unwrap();
    }
    drop(s);
    let last = std::fs::read_dir(path.join("segments")).unwrap().map(|e| e.unwrap().path()).max().unwrap();
    let flip = |p: &Path, at: usize| {
        let mut b = std::fs::read(p).unwrap();
        b[at] ^= 1;
        std::fs::write(p, b).unwrap();
    };
    flip(&last, 4096 + 8192 + 100);
    let e = Store::open(&path, options()).err().map(|e| e.to_string());
    println!("one bit of a new record: {e:?}");
    flip(&last, 4096 + 8192 + 100); // the medium recovers
    flip(&first, 4096 + 200); // a record that the index had covered
    let opened = Store::open(&path, options());
    assert!(opened.is_ok(), "with the index of before it would open: {}", opened.err().unwrap());
}

#[test]
fn r15_two_versions_that_both_count_as_the_first_are_both_heads() {
    // A store restored from a backup goes on counting where the backup stood.
    let (d, a, b) = two();
    let f = file(&a, Ino::FIRST, "f", b"base");
    a.close().unwrap();
    drop(a);
    let copy = std::process::Command::new("cp")
        .arg("-a")
        .arg(d.path().join("a"))
        .arg(d.path().join("backup"))
        .status()
        .unwrap();
    assert!(copy.success());
    let a = Store::open(&d.path().join("a"), options()).unwrap();
    a.write(f, 0, b"lost").unwrap();
    a.commit_version(f).unwrap();
    give(&a, &b);
    drop(a);
    let a = Store::open(&d.path().join("backup"), options()).unwrap();
    a.write(f, 0, b"anew").unwrap();
    a.commit_version(f).unwrap();
    give(&a, &b);
    give(&b, &a);
    assert_eq!(String::from_utf8_lossy(&read(&a, f)), String::from_utf8_lossy(&read(&b, at(&b, "f"))),);
}

#[test]
fn r19_a_range_that_wraps_is_refused() {
    use segfs::format::facts::{ExtentId, Range, Source};
    let (d, a, b) = two();
    file(&a, Ino::FIRST, "f", b"x");
    give(&a, &b);
    let like = parcels(&a, &new(d.path(), "c")).remove(0);
    let mut p = forged(&like, &[Fact::Mode(ObjectId::ROOT, 0o755)]);
    let id = ExtentId { store: like.origin.store, incarnation: Incarnation::new(3), sequence: 1 };
    let object = b.view().lookup(Ino::FIRST, b"f").unwrap().object;
    p.contents = vec![Changes {
        object,
        version: VersionId::new(1),
        base: None,
        ranges: vec![Range { offset: 0, len: u64::MAX, source: Source::Extent(id, 1) }],
    }];
    assert!(b.import(&p, &mut |_| Ok(vec![0])).is_err());
}

#[test]
fn r20_a_peer_cannot_take_an_object_id_before_it_is_made() {
    let (d, a, b) = two();
    file(&a, Ino::FIRST, "f", b"x");
    give(&a, &b);
    let mine = create(&b, Ino::FIRST, "mine");
    let (incarnation, _) = b.view().attributes(mine).unwrap().object.parts();
    let like = parcels(&a, &new(d.path(), "c")).remove(0);
    let next = ObjectId::made_here(incarnation, Ino::new(mine.get() + 2));
    b.import(&forged(&like, &[Fact::Mode(next, 0o755)]), &mut |_| unreachable!()).unwrap_err();
    for i in 0..3 {
        let made = b.create_object(
            Ino::FIRST,
            format!("n{i}").as_bytes(),
            &NewObject::file(0o644, Owner::default()),
        );
        assert!(made.is_ok(), "{i}: {}", made.unwrap_err());
    }
}
