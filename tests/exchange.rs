//! Facts from one store to another, on the real disk: what they show for a moment, and what taking facts in costs.

use std::path::Path;

use segfs::{
    base::{Ino, Lsn},
    format::facts::Owner,
    log::Next,
    store::{NewObject, Options, Parcel, Store},
};

fn options() -> Options {
    Options { background: false, segment_bytes: 8 << 20, ..Options::default() }
}

fn new(dir: &Path, name: &str) -> Store {
    Store::create(&dir.join(name), options()).unwrap()
}

fn two() -> (tempfile::TempDir, Store, Store) {
    let d = tempfile::tempdir().unwrap();
    let (a, b) = (new(d.path(), "a"), new(d.path(), "b"));
    (d, a, b)
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

fn parcels(from: &Store, to: &Store) -> Vec<Parcel> {
    from.sync_all().unwrap();
    from.parcels(&to.knowledge().unwrap(), Lsn::FIRST, usize::MAX).unwrap().0
}

fn take(from: &Store, to: &Store, parcels: &[Parcel]) {
    for p in parcels {
        to.import(p, &mut |id| from.extent_bytes(p, id)).unwrap();
    }
}

fn give(from: &Store, to: &Store) {
    take(from, to, &parcels(from, to));
}

fn names(s: &Store, at: Option<Lsn>) -> Vec<String> {
    let view = at.map_or(s.view(), |at| s.view_at(at));
    let entries = view.entries(Ino::FIRST, None, usize::MAX).unwrap();
    entries.into_iter().map(|e| String::from_utf8(e.name).unwrap()).collect()
}

/// LSN and stamp of every facts batch in the log.
fn stamps(s: &Store) -> Vec<(Lsn, u64)> {
    s.sync_all().unwrap();
    let mut log = s.subscribe(Lsn::FIRST);
    let mut found = Vec::new();
    while let Ok(Some(Next::Record(r))) = log.try_next() {
        found.extend(
            r.head
                .filter(|h| r.kind == segfs::format::Kind::Operation && h.origin.seq > 0)
                .map(|h| (r.lsn, h.stamp)),
        );
    }
    found
}

/// What `lsn_at` says is what going through the log says.
fn check_moments(s: &Store) {
    let stamps = stamps(s);
    let moments = stamps.iter().flat_map(|(_, t)| [*t - 1, *t, *t + 1]).chain([0, u64::MAX]);
    for moment in moments {
        let later = stamps.iter().find(|(_, t)| *t > moment);
        let expected = later.map_or(s.last_lsn(), |(lsn, _)| Lsn::new(lsn.get() - 1));
        assert_eq!(
            s.lsn_at(moment).unwrap(),
            (expected >= Lsn::FIRST).then_some(expected),
            "moment {moment}"
        );
    }
}

#[test]
fn a_moment_is_the_last_lsn_before_anything_later() {
    let (d, a, b) = two();
    assert_eq!(a.lsn_at(u64::MAX).unwrap(), None, "an empty store");
    for n in 0..150 {
        file(&a, Ino::FIRST, &format!("f{n}"), b"x");
        if n % 40 == 17 {
            a.checkpoint().unwrap();
        }
        if n % 50 == 3 {
            give(&a, &b);
            file(&b, Ino::FIRST, &format!("b{n}"), b"y");
            give(&b, &a);
        }
    }
    check_moments(&a);
    check_moments(&b);
    drop(a);
    let a = Store::open(&d.path().join("a"), options()).unwrap();
    check_moments(&a);
    drop(a);
    std::fs::remove_dir_all(d.path().join("a/index")).unwrap();
    check_moments(&Store::open(&d.path().join("a"), options()).unwrap());
}

#[test]
fn a_tag_shows_the_same_on_a_store_that_received_everything_in_order() {
    let (_d, a, b) = two();
    file(&b, Ino::FIRST, "older", b"1");
    give(&b, &a);
    for n in 0..5 {
        file(&a, Ino::FIRST, &format!("f{n}"), b"x");
        a.tag(format!("t{n}").as_bytes(), true).unwrap();
    }
    a.tag(b"t3", false).unwrap();
    let before = b.last_lsn();
    give(&a, &b);
    assert_eq!(b.view_at(before).tags().unwrap(), []);
    let tags = b.view().tags().unwrap();
    assert_eq!(tags, a.view().tags().unwrap());
    assert_eq!(tags.iter().map(|t| t.name.clone()).collect::<Vec<_>>(), [b"t0", b"t1", b"t2", b"t4"]);
    assert_eq!(b.view().tag(b"t3").unwrap(), None);
    for (n, tag) in [0, 1, 2, 4].into_iter().zip(&tags) {
        assert_eq!(b.view().tag(&tag.name).unwrap().as_ref(), Some(tag));
        let (here, there) = (a.lsn_at(tag.moment_ns).unwrap(), b.lsn_at(tag.moment_ns).unwrap());
        assert_eq!(names(&a, here), names(&b, there));
        assert_eq!(names(&b, there).len(), n + 2);
    }
}

#[test]
fn what_arrived_late_is_no_part_of_a_moment_before_which_something_later_came() {
    let (_d, a, b) = two();
    file(&a, Ino::FIRST, "early", b"1");
    file(&b, Ino::FIRST, "later", b"2");
    b.tag(b"t", true).unwrap();
    let moment = b.view().tag(b"t").unwrap().unwrap().moment_ns;
    file(&b, Ino::FIRST, "newest", b"3");
    give(&a, &b);
    assert_eq!(names(&b, b.lsn_at(moment).unwrap()), ["later"]);
    assert_eq!(names(&b, b.lsn_at(u64::MAX).unwrap()), ["early", "later", "newest"]);
}

/// Runs on a thread with little stack, so that what recurses is found out.
fn with_little_stack(test: impl FnOnce() + Send + 'static) {
    let thread = std::thread::Builder::new().stack_size(256 << 10);
    thread.spawn(test).unwrap().join().unwrap();
}

#[test]
fn a_deep_tree_comes_back_without_a_deep_stack() {
    const LEVELS: usize = 20_000;
    with_little_stack(|| {
        let (_d, a, b) = two();
        let mut chain = vec![Ino::FIRST];
        for n in 0..LEVELS {
            let dir = NewObject::directory(0o755, Owner::default());
            chain.push(a.create_object(chain[n], b"d", &dir).unwrap().1.ino);
        }
        let bottom = chain[LEVELS];
        let f = file(&a, bottom, "f", b"one");
        give(&a, &b);
        let bf = b.find_version(a.view().versions(f, None, 1).unwrap()[0].id).unwrap().unwrap().0;
        // All of it goes here, while the file is edited there.
        a.unlink(bottom, b"f").unwrap();
        for dir in chain[..LEVELS].iter().rev() {
            a.rmdir(*dir, b"d").unwrap();
        }
        assert_eq!(names(&a, None), [""; 0]);
        b.write(bf, 0, b"two").unwrap();
        b.commit_version(bf).unwrap();
        give(&b, &a);
        give(&a, &b);
        for s in [&a, &b] {
            let mut at = Ino::FIRST;
            for _ in 0..LEVELS {
                at = s.view().lookup(at, b"d").unwrap().ino;
            }
            let found = s.view().lookup(at, b"f").unwrap();
            let mut out = [0; 3];
            s.view().read(found.ino, 0, &mut out).unwrap();
            assert_eq!(&out, b"two");
        }
        // What kept all of it goes, and it with that.
        a.unlink(bottom, b"f").unwrap();
        assert_eq!(names(&a, None), [""; 0]);
        give(&a, &b);
        assert_eq!(names(&b, None), [""; 0]);
    });
}
