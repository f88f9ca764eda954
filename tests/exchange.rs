//! Facts from one store to another, on the real disk: what they show for a moment, and what taking facts in costs.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
        mpsc,
    },
    time::Duration,
};

use segfs::{
    base::{Error, Incarnation, Ino, Lsn, SystemClock, SystemRandom, limits},
    disk::{Engine, RealDisk},
    format::{
        code,
        facts::{Fact, Lineage, Owner, Version},
    },
    index::{Change, Index, IndexStats, MemoryIndex, Order, Value},
    log::Next,
    store::{NewObject, Options, Parcel, Parts, Rename, SetAttributes, Store},
};

fn options() -> Options {
    Options { background: false, segment_bytes: 8 << 20, ..Options::default() }
}

fn new(dir: &Path, name: &str) -> Store {
    Store::create(&dir.join(name), options()).unwrap()
}

pub fn two() -> (tempfile::TempDir, Store, Store) {
    let d = tempfile::tempdir().unwrap();
    let (a, b) = (new(d.path(), "a"), new(d.path(), "b"));
    (d, a, b)
}

fn create(s: &Store, dir: Ino, name: &str) -> Ino {
    s.create_object(dir, name.as_bytes(), &NewObject::file(0o644, Owner::default())).unwrap().1.ino
}

pub fn file(s: &Store, dir: Ino, name: &str, data: &[u8]) -> Ino {
    let ino = create(s, dir, name);
    s.write(ino, 0, data).unwrap();
    s.commit_version(ino).unwrap();
    ino
}

pub fn parcels(from: &Store, to: &Store) -> Vec<Parcel> {
    from.sync_all().unwrap();
    from.parcels(&to.knowledge().unwrap(), Lsn::FIRST, usize::MAX).unwrap().0
}

pub fn take(from: &Store, to: &Store, parcels: &[Parcel]) {
    for p in parcels {
        to.import(p, &mut |id| from.extent_bytes(p, id)).unwrap();
    }
}

pub fn give(from: &Store, to: &Store) {
    take(from, to, &parcels(from, to));
}

pub fn names(s: &Store, at: Option<Lsn>) -> Vec<String> {
    let view = at.map_or(s.view(), |at| s.view_at(at));
    let entries = view.entries(Ino::FIRST, None, usize::MAX).unwrap();
    entries.into_iter().map(|e| String::from_utf8(e.name).unwrap()).collect()
}

/// An index that counts the rows that are read.
pub struct Counted {
    index: MemoryIndex,
    rows: AtomicU64,
}

impl Counted {
    /// A new store over such an index; nothing is cached before it.
    pub fn store(dir: &Path, name: &str) -> (Store, Arc<Self>) {
        let options = Options { row_cache_bytes: 0, ..options() };
        let disk = RealDisk::create(&dir.join(name), Engine::Auto).unwrap();
        Store::format(&disk, &options, &SystemClock, &SystemRandom, dir).unwrap();
        let index = Arc::new(Self { index: MemoryIndex::new(), rows: AtomicU64::new(0) });
        let parts = Parts {
            disk: Arc::new(disk),
            clock: Arc::new(SystemClock),
            random: Arc::new(SystemRandom),
            index: Arc::new(Arc::clone(&index)),
        };
        (Store::open_parts(parts, options).unwrap(), index)
    }

    /// Rows read by this.
    pub fn count<T>(&self, what: impl FnOnce() -> T) -> (T, u64) {
        let before = self.rows.load(Relaxed);
        let done = what();
        (done, self.rows.load(Relaxed) - before)
    }
}

impl Index for Counted {
    fn get(&self, key: &[u8]) -> segfs::base::Result<Option<Value>> {
        self.rows.fetch_add(1, Relaxed);
        self.index.get(key)
    }
    fn apply(&self, lsn: Lsn, changes: &[Change]) -> segfs::base::Result<()> {
        self.index.apply(lsn, changes)
    }
    fn walk(
        &self,
        start: &[u8],
        end: &[u8],
        order: Order,
        visit: &mut dyn FnMut(&[u8], &Value) -> bool,
    ) -> segfs::base::Result<()> {
        self.index.walk(start, end, order, &mut |k, v| {
            self.rows.fetch_add(1, Relaxed);
            visit(k, v)
        })
    }
    fn unflushed_bytes(&self) -> u64 {
        self.index.unflushed_bytes()
    }
    fn rotate(&self, lsn: Lsn) -> segfs::base::Result<()> {
        self.index.rotate(lsn)
    }
    fn flush_to(&self, durable: Lsn) -> segfs::base::Result<()> {
        self.index.flush_to(durable)
    }
    fn waiting_memtables(&self) -> usize {
        self.index.waiting_memtables()
    }
    fn flushed_lsn(&self) -> Lsn {
        self.index.flushed_lsn()
    }
    fn compact(&self) -> segfs::base::Result<bool> {
        self.index.compact()
    }
    fn stats(&self) -> IndexStats {
        self.index.stats()
    }
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

#[test]
fn a_slow_peer_does_not_hold_up_those_who_write_here() {
    let (_d, a, b) = two();
    file(&a, Ino::FIRST, "f", &[7; 5000]);
    let sent = parcels(&a, &b);
    let (asked, was_asked) = mpsc::channel();
    let (answer, answered) = mpsc::channel::<()>();
    let (made, was_made) = mpsc::channel();
    std::thread::scope(|s| {
        let (a, b, sent) = (&a, &b, &sent);
        s.spawn(move || {
            for p in sent {
                b.import(p, &mut |id| {
                    asked.send(()).unwrap();
                    let _ = answered.recv_timeout(Duration::from_secs(30));
                    a.extent_bytes(p, id)
                })
                .unwrap();
            }
        });
        was_asked.recv_timeout(Duration::from_secs(30)).expect("the extent is asked for");
        s.spawn(move || {
            create(b, Ino::FIRST, "mine");
            made.send(()).unwrap();
        });
        let done = was_made.recv_timeout(Duration::from_secs(10));
        answer.send(()).unwrap();
        assert!(done.is_ok(), "a create waits for a fetch");
    });
    assert_eq!(names(&b, None), ["f", "mine"]);
    let mut out = [0; 5000];
    b.view().read(b.view().lookup(Ino::FIRST, b"f").unwrap().ino, 0, &mut out).unwrap();
    assert_eq!(out, [7; 5000]);
}

#[test]
fn what_came_by_another_way_during_a_fetch_is_taken_once() {
    let (_d, a, b) = two();
    file(&a, Ino::FIRST, "f", &[7; 5000]);
    for p in &parcels(&a, &b) {
        b.import(p, &mut |id| {
            b.import(p, &mut |id| a.extent_bytes(p, id)).unwrap();
            a.extent_bytes(p, id)
        })
        .unwrap();
    }
    let f = b.view().lookup(Ino::FIRST, b"f").unwrap().ino;
    assert_eq!(b.view().versions(f, None, 10).unwrap().len(), 1);
    assert_eq!(b.knowledge().unwrap(), a.knowledge().unwrap());
    b.sync_all().unwrap();
    let mut log = b.subscribe(Lsn::FIRST);
    let mut extents = 0;
    while let Ok(Some(Next::Record(r))) = log.try_next() {
        extents += u64::from(r.kind == segfs::format::Kind::Extent);
    }
    assert_eq!(extents, 1, "the extent is stored once");
}

#[test]
fn what_is_held_costs_what_there_are_gaps_to_say() {
    let d = tempfile::tempdir().unwrap();
    let a = new(d.path(), "a");
    let (b, index) = Counted::store(d.path(), "b");
    for n in 0..1000 {
        create(&a, Ino::FIRST, &format!("f{n}"));
    }
    // Every tenth is missing at first; the others come in no order.
    let sent = parcels(&a, &b);
    let mut order = sent.clone();
    order.sort_by_key(|p| p.origin.seq.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let (missing, there): (Vec<_>, Vec<_>) = order.into_iter().partition(|p| p.origin.seq % 10 == 0);
    take(&a, &b, &there);
    let (known, rows) = index.count(|| b.knowledge().unwrap());
    assert!((100..110).contains(&rows), "{rows} rows for 100 gaps");
    for p in &sent {
        assert_eq!(known.has(&p.origin), p.origin.seq % 10 != 0);
    }
    take(&a, &b, &missing);
    let (known, rows) = index.count(|| b.knowledge().unwrap());
    assert_eq!((known, rows), (a.knowledge().unwrap(), 1), "no gap is left");
    for p in &sent {
        b.import(p, &mut |_| panic!("it is here already")).unwrap();
    }
    // Its own openings count as one each.
    drop(a);
    let mut all = 1;
    for n in 0..3 {
        let a = Store::open(&d.path().join("a"), options()).unwrap();
        create(&a, Ino::FIRST, &format!("g{n}"));
        all += parcels(&a, &b).len();
        give(&a, &b);
        assert_eq!(b.knowledge().unwrap(), a.knowledge().unwrap());
    }
    assert_eq!(all, 4);
    assert_eq!(index.count(|| b.knowledge().unwrap()).1, 4);
}

/// Bytes that this thread has asked the system for.
fn bytes_read() -> u64 {
    let io = std::fs::read_to_string("/proc/thread-self/io").unwrap();
    io.lines().find_map(|l| l.strip_prefix("rchar: ")).unwrap().parse().unwrap()
}

#[test]
fn what_is_known_already_is_not_read_again_to_be_passed_over() {
    let (_d, a, b) = two();
    let f = create(&a, Ino::FIRST, "f");
    for n in 0..24 {
        a.write(f, n << 20, &vec![n as u8; 1 << 20]).unwrap();
    }
    a.commit_version(f).unwrap();
    give(&a, &b);
    create(&a, Ino::FIRST, "g");
    a.sync_all().unwrap();
    let known = b.knowledge().unwrap();
    let before = bytes_read();
    let sent = a.parcels(&known, Lsn::FIRST, usize::MAX).unwrap().0;
    let read = bytes_read() - before;
    assert_eq!(sent.len(), 1);
    assert!((1000..2 << 20).contains(&read), "{read} bytes read to pass over 24 MiB");
}

/// The parcel with other facts in it: what a store sends that lies.
fn forged(like: &Parcel, change: impl Fn(&mut Fact)) -> Parcel {
    let mut facts: Vec<Fact> = code::decode(&like.facts).unwrap();
    facts.iter_mut().for_each(change);
    let mut p = like.clone();
    p.origin.seq += 1000;
    p.facts = code::encode(&facts);
    p
}

fn version_in(p: &Parcel) -> Option<Version> {
    let facts: Vec<Fact> = code::decode(&p.facts).unwrap();
    facts.into_iter().find_map(|f| if let Fact::Version(v) = f { Some(v) } else { None })
}

#[test]
fn one_id_stands_for_one_version() {
    let (d, a, b) = two();
    let c = new(d.path(), "c");
    let f = file(&a, Ino::FIRST, "f", b"first");
    let g = file(&a, Ino::FIRST, "g", b"other");
    a.write(f, 0, b"second").unwrap();
    a.commit_version(f).unwrap();
    let sent = parcels(&a, &b);
    let versions: Vec<_> = sent.iter().filter(|p| version_in(p).is_some()).collect();
    let refused = |to: &Store, p: &Parcel| {
        let before = to.last_lsn();
        let said = to.import(p, &mut |id| a.extent_bytes(p, id)).unwrap_err().to_string();
        assert_eq!(to.last_lsn(), before, "nothing of it is taken");
        let v = version_in(p).unwrap();
        for part in
            [v.id.to_string(), v.object.to_string(), p.origin.store.to_string(), "here this id is".into()]
        {
            assert!(said.contains(&part), "{part} is not in: {said}");
        }
        said
    };
    take(&a, &b, &sent);
    // Another content by the id of one that is here, and another object's version by it.
    let another = forged(versions[0], |f| {
        if let Fact::Version(v) = f {
            v.size = 3;
        }
    });
    let mut another = Parcel { contents: versions[0].contents.clone(), ..another };
    another.contents[0].ranges.clear();
    let said = refused(&b, &another);
    assert!(said.contains("3 bytes") && said.contains("5 bytes"), "{said}");
    let other = a.view().attributes(g).unwrap().object;
    let mut another = forged(versions[0], |f| {
        if let Fact::Version(v) = f {
            v.object = other;
        }
    });
    another.contents[0].object = other;
    let said = refused(&b, &another);
    assert!(said.contains(&a.view().attributes(f).unwrap().object.to_string()), "{said}");
    assert_eq!(names(&b, None), ["f", "g"]);
    // Also while the one that is here waits for its base.
    let waits = versions[2];
    assert_eq!(version_in(waits).unwrap().parents.len(), 1);
    take(&a, &c, std::slice::from_ref(waits));
    let mut another = forged(waits, |f| {
        if let Fact::Version(v) = f {
            v.object = other;
        }
    });
    another.contents[0].object = other;
    refused(&c, &another);
    take(&a, &c, &sent);
    let mut out = [0; 6];
    c.view().read(c.view().lookup(Ino::FIRST, b"f").unwrap().ino, 0, &mut out).unwrap();
    assert_eq!(&out, b"second");
    c.sync_all().unwrap();
    drop(c);
    // And the ids are there again after replay.
    let c = Store::open(&d.path().join("c"), options()).unwrap();
    refused(&c, &another);
}

#[test]
fn no_number_of_a_version_uses_the_numbers_up() {
    let (d, a, b) = two();
    let c = new(d.path(), "c");
    let _ = file(&a, Ino::FIRST, "f", b"first");
    let sent = parcels(&a, &b);
    let (made, rest): (Vec<_>, Vec<_>) = sent.into_iter().partition(|p| version_in(p).is_some());
    let highest = version_in(&made[0]).unwrap().created_ns / limits::VERSION_NS;
    let numbered = |n: u64| {
        forged(&made[0], |f| {
            if let Fact::Version(v) = f {
                v.vector.raise(made[0].origin.store, made[0].origin.incarnation, n);
            }
        })
    };
    for s in [&b, &c] {
        take(&a, s, &rest);
        for lie in [limits::COUNTER - 1, highest + 1] {
            let p = numbered(lie);
            let said = s.import(&p, &mut |id| a.extent_bytes(&p, id));
            assert!(matches!(said, Err(Error::BadRequest(_))), "number {lie}: {said:?}");
        }
        take(&a, s, &[numbered(highest)]);
    }
    // Who goes on from the highest that is taken makes versions that others take.
    let f = b.view().lookup(Ino::FIRST, b"f").unwrap().ino;
    for n in 0..100_u64 {
        b.write(f, 0, &n.to_be_bytes()).unwrap();
        b.commit_version(f).unwrap();
    }
    take(&b, &c, &parcels(&b, &c));
    let mut out = [0; 8];
    c.view().read(c.view().lookup(Ino::FIRST, b"f").unwrap().ino, 0, &mut out).unwrap();
    assert_eq!(out, 99_u64.to_be_bytes());
}

#[test]
fn no_number_in_the_history_of_a_name_uses_the_numbers_up() {
    let (d, a, b) = two();
    let c = new(d.path(), "c");
    let _ = file(&a, Ino::FIRST, "f", b"first");
    let before = Lineage {
        object: segfs::base::ObjectId::new(7),
        version: None,
        versions: limits::COUNTER - 1,
        earlier: None,
    };
    let lie = |p: &Parcel| {
        let forged = forged(p, |f| {
            if let Fact::Link(l) = f {
                l.continues = Some(before);
            }
        });
        Parcel { contents: p.contents.clone(), ..forged }
    };
    for s in [&b, &c] {
        take(&a, s, &parcels(&a, s).iter().map(lie).collect::<Vec<_>>());
    }
    // What is said of the name from then on, others take, and the object's own versions are there under it.
    b.unlink(Ino::FIRST, b"f").unwrap();
    let _ = file(&b, Ino::FIRST, "f", b"second");
    take(&b, &c, &parcels(&b, &c));
    let numbers = |s: &Store| -> Vec<u64> {
        let mut history = s.view().history(Ino::FIRST, b"f").unwrap().unwrap();
        history.from(1, 10).unwrap().iter().map(|v| v.ordinal).collect()
    };
    assert_eq!(numbers(&b), numbers(&c));
    assert_eq!(numbers(&b), [1, 2]);
}

#[test]
fn what_descends_from_a_version_made_after_a_set_back_hides_none_made_before() {
    let (d, a, b) = two();
    let f = file(&a, Ino::FIRST, "f", b"base");
    a.close().unwrap();
    drop(a);
    let copy = |from: &str, to: &str| {
        let done = std::process::Command::new("cp")
            .arg("-a")
            .arg(d.path().join(from))
            .arg(d.path().join(to))
            .status();
        assert!(done.unwrap().success());
    };
    copy("a", "backup");
    let edit = |s: &Store, data: &[u8]| {
        s.write(f, 0, data).unwrap();
        s.commit_version(f).unwrap().1.unwrap()
    };
    let a = Store::open(&d.path().join("a"), options()).unwrap();
    let lost = edit(&a, b"lost");
    give(&a, &b);
    drop(a);
    let a = Store::open(&d.path().join("backup"), options()).unwrap();
    edit(&a, b"anew");
    let newest = edit(&a, b"more");
    give(&a, &b);
    give(&b, &a);
    for s in [&a, &b] {
        let ino = s.view().lookup(Ino::FIRST, b"f").unwrap().ino;
        let versions = s.view().versions(ino, None, 10).unwrap();
        let heads = s.view().heads(ino).unwrap();
        let mut heads: Vec<_> = versions.iter().filter(|v| heads.contains(&v.lsn)).map(|v| v.id).collect();
        heads.sort();
        assert_eq!(heads, [lost, newest]);
    }
}

/// After a set-back a store gives stamps a second time, to other facts: no store may show what came to it first.
#[test]
fn of_facts_with_one_stamp_the_same_stays_in_any_order() {
    let (d, a, b) = two();
    let c = new(d.path(), "c");
    let f = file(&a, Ino::FIRST, "f", b"one");
    let dir = |name: &str| {
        let new = NewObject::directory(0o755, Owner::default());
        a.create_object(Ino::FIRST, name.as_bytes(), &new).unwrap().1
    };
    let (x, y) = (dir("x"), dir("y"));
    give(&a, &b);
    give(&a, &c);
    a.set_attributes(f, &SetAttributes { mode: Some(0o600), ..Default::default() }).unwrap();
    a.set_xattr(f, b"user.x", Some(b"5"), None).unwrap();
    a.tag(b"t", true).unwrap();
    a.rename((Ino::FIRST, b"f"), (Ino::FIRST, b"g"), Rename::Replace).unwrap();
    a.rename((Ino::FIRST, b"x"), (y.ino, b"x"), Rename::Replace).unwrap();
    let here = parcels(&a, &b);
    assert_eq!(here.len(), 5);
    // What two other openings made of the same moments: one says less in each value, the other more.
    let object = |ino| a.view().attributes(ino).unwrap().object;
    let (x, y) = (object(x.ino), object(y.ino));
    let other = |incarnation: u64, mode: u32, value: &[u8], name: &[u8]| -> Vec<Parcel> {
        let change = |fact: &mut Fact| match fact {
            Fact::Mode(_, m) => *m = mode,
            Fact::Xattr(_, _, v) => *v = Some(value.to_vec()),
            Fact::Tag(_, moment) => *moment = moment.map(|m| m + u64::from(mode) - 0o600),
            Fact::Link(l) if l.object == x => {
                (l.link, l.object, l.parent) = (segfs::base::LinkId::primary(y), y, x);
            }
            Fact::Link(l) => l.name = name.to_vec(),
            _ => {}
        };
        let made = here.iter().map(|p| {
            let mut p = forged(p, change);
            p.origin.incarnation = Incarnation::new(incarnation);
            p
        });
        made.collect()
    };
    let mut all = here.clone();
    all.extend(other(1, 0o400, b"4", b"e"));
    all.extend(other(u64::MAX, 0o700, b"6", b"h"));
    take(&a, &b, &all);
    all.reverse();
    take(&a, &c, &all);
    assert_eq!(b.knowledge().unwrap(), c.knowledge().unwrap());
    let shown = |s: &Store| {
        let v = s.view();
        let tree = names(s, None);
        let below: Vec<_> = [&b"x"[..], b"y"]
            .into_iter()
            .filter_map(|n| v.lookup(Ino::FIRST, n).ok())
            .map(|e| v.entries(e.ino, None, 9).unwrap().into_iter().map(|e| e.name).collect::<Vec<_>>())
            .collect();
        let f = v.lookup(Ino::FIRST, b"h").unwrap().ino;
        let mode = v.attributes(f).unwrap().mode;
        (tree, below, mode, v.xattr(f, b"user.x").unwrap(), v.tags().unwrap())
    };
    assert_eq!((shown(&b).2, &shown(&b).3[..]), (0o700, &b"6"[..]));
    assert_eq!(shown(&b), shown(&c));
}
