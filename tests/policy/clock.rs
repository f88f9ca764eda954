//! The clock by which things expire: no wrong clock of the machine hurries it, over mounts either.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use segfs::{
    base::{Clock, Error, FsError, Ino, SystemClock, SystemRandom},
    disk::{Engine, RealDisk},
    format::facts::Owner,
    index::MemoryIndex,
    store::{NewObject, Options, Parts, Policy, Retention, Store},
};

use serde_json::Value;

use super::{json, ok, text};
use crate::{
    mount::{Mounted, segfs},
    sim::disk::SimDisk,
};

const HOUR: u64 = 3600 * 1_000_000_000;
const DAY: u64 = 24 * HOUR;
const START: u64 = 20_000 * DAY;

/// Both hands are moved apart.
#[derive(Default)]
struct Hands {
    wall: AtomicU64,
    uptime: AtomicU64,
}

impl Clock for Hands {
    fn wall_ns(&self) -> u64 {
        self.wall.load(Relaxed)
    }
    fn monotonic_ns(&self) -> u64 {
        self.uptime.load(Relaxed)
    }
}

struct World {
    disk: SimDisk,
    clock: Arc<Hands>,
}

fn options() -> Options {
    let mut options = Options { segment_bytes: 1 << 20, background: false, ..Options::default() };
    options.settings.retention = Retention::everywhere(Policy::Age(30 * DAY));
    options
}

impl World {
    fn new() -> Self {
        let clock = Arc::new(Hands::default());
        clock.wall.store(START, Relaxed);
        let disk = SimDisk::new(3);
        Store::format(&disk, &options(), &*clock, &SystemRandom, std::path::Path::new("")).unwrap();
        Self { disk, clock }
    }

    fn open(&self) -> Store {
        let parts = Parts {
            disk: Arc::new(self.disk.clone()),
            clock: self.clock.clone(),
            random: Arc::new(SystemRandom),
            index: Arc::new(MemoryIndex::default()),
        };
        Store::open_parts(parts, options()).unwrap()
    }

    /// Time goes by, as it should.
    fn pass(&self, ns: u64) {
        self.clock.wall.fetch_add(ns, Relaxed);
        self.clock.uptime.fetch_add(ns, Relaxed);
    }

    /// The wall clock jumps.
    fn jump(&self, ns: u64) {
        self.clock.wall.fetch_add(ns, Relaxed);
    }
}

fn file(store: &Store) -> Ino {
    let ino = store.create_object(Ino::FIRST, b"f", &NewObject::file(0o644, Owner::default())).unwrap().1.ino;
    for byte in 0..3 {
        store.write(ino, 0, &[byte; 10]).unwrap();
        store.commit_version(ino).unwrap();
    }
    ino
}

/// The rounds of an hour, six sweeps over everything.
fn hour(w: &World, store: &Store) {
    for _ in 0..60 {
        w.pass(HOUR / 60);
        store.keep_space().unwrap();
        store.keep_space().unwrap();
    }
}

fn count(store: &Store, ino: Ino) -> usize {
    store.view().versions(ino, None, 100).unwrap().len()
}

#[test]
fn versions_expire_by_uptime_and_not_by_a_jump() {
    let w = World::new();
    let store = w.open();
    let ino = file(&store);
    hour(&w, &store);
    w.jump(400 * DAY);
    hour(&w, &store);
    assert_eq!(count(&store, ino), 3, "a jump ahead is not believed");
    assert_eq!(store.expiry().ahead_ns.unwrap() / DAY, 400);
    // Not at the next opening either, or the one after that; what was written meanwhile bears stamps of the wrong time.
    store.write(ino, 0, b"later").unwrap();
    store.commit_version(ino).unwrap();
    store.close().unwrap();
    drop(store);
    for _ in 0..3 {
        let store = w.open();
        hour(&w, &store);
        assert_eq!((count(&store, ino), store.expiry().ahead_ns.is_some()), (4, true));
        store.close().unwrap();
    }
    // A crash does not help it.
    drop(w.open());
    let store = w.open();
    hour(&w, &store);
    assert_eq!(count(&store, ino), 4);
    // The clock is right after all.
    assert_eq!(store.confirm_clock().unwrap().ahead_ns, None);
    hour(&w, &store);
    assert_eq!(count(&store, ino), 2, "what was superseded 400 days ago is gone, what was by the jump stays");
    store.close().unwrap();
    drop(store);
    let store = w.open();
    assert_eq!(store.expiry().ahead_ns, None, "what was confirmed stays so");
}

#[test]
fn a_collection_goes_by_the_same_clock() {
    let w = World::new();
    let store = w.open();
    let ino = file(&store);
    w.jump(400 * DAY);
    for dry_run in [true, false] {
        assert_eq!(store.collect(dry_run, &|_, _| {}).unwrap().versions, 0);
    }
    // What is counted does not go either while it waits, and is not forgotten.
    store.set_retention(Retention::everywhere(Policy::Last(1)));
    store.keep_space().unwrap();
    assert_eq!(count(&store, ino), 3);
    store.confirm_clock().unwrap();
    assert_eq!(store.collect(true, &|_, _| {}).unwrap().versions, 2);
    store.keep_space().unwrap();
    assert_eq!(count(&store, ino), 1);
}

#[test]
fn time_that_goes_by_is_believed_with_and_without_a_mount() {
    let w = World::new();
    let store = w.open();
    let ino = file(&store);
    for _ in 0..31 * 24 {
        w.pass(HOUR);
        store.keep_space().unwrap();
        store.keep_space().unwrap();
        store.maintain().unwrap();
    }
    assert_eq!((count(&store, ino), store.expiry().ahead_ns), (1, None));
    // Unlike what was never written down: a crash loses an hour, not the month.
    drop(store);
    w.pass(20 * HOUR);
    let store = w.open();
    assert_eq!(store.expiry(), segfs::store::Expiry { time_ns: w.clock.wall_ns(), ahead_ns: None });
    store.close().unwrap();
    drop(store);
    // Nobody had it open for long: nobody knows whether that is true.
    w.pass(3 * DAY);
    let store = w.open();
    assert_eq!(store.expiry().ahead_ns.map(|ns| ns / DAY), Some(3));
    // And a clock that was set back comes to no harm.
    w.clock.wall.store(START, Relaxed);
    assert_eq!(store.expiry(), segfs::store::Expiry { time_ns: START, ahead_ns: None });
}

#[test]
fn a_lock_does_not_end_by_a_jump() {
    let w = World::new();
    let store = w.open();
    let ino = file(&store);
    let v = store.view().versions(ino, None, 100).unwrap();
    store.lock_version(v[0].id, true, START + 10 * DAY).unwrap();
    w.jump(300 * DAY);
    assert_eq!(store.remove_version(v[0].id).unwrap(), Some(segfs::store::Kept::Locked));
    let planned = || store.plan_purge(Ino::FIRST, b"f").unwrap();
    assert_eq!(planned().unwrap_err().why, segfs::store::Kept::Locked);
    store.confirm_clock().unwrap();
    assert_eq!(planned().unwrap().versions, 3);
    assert_eq!(store.remove_version(v[0].id).unwrap(), None);
    assert!(matches!(store.remove_version(v[0].id), Err(Error::Fs(FsError::NotFound))));
}

#[test]
fn a_person_is_told_and_confirms() {
    let root = tempfile::tempdir().unwrap();
    let store = root.path().join("store");
    // Made long ago, and not opened since.
    let long_ago = Hands::default();
    long_ago.wall.store(SystemClock.wall_ns() - 50 * DAY, Relaxed);
    let disk = RealDisk::create(&store, Engine::Plain).unwrap();
    Store::format(&disk, &Options::default(), &long_ago, &SystemRandom, &store).unwrap();
    let dir = root.path().join("mnt");
    let mut m = Mounted { root, store: store.clone(), daemon: None };
    let said = ok(&["mount", "--background", text(&store), text(&dir)]);
    let status = json(&["status", text(&dir)]);
    let shown = String::from_utf8(segfs(&["status", text(&dir)]).stdout).unwrap();
    let confirmed = json(&["retain", "confirm", text(&dir)]);
    let then = json(&["status", text(&dir)]);
    ok(&["umount", text(&dir)]);
    let told = std::fs::read_to_string(store.join("events.jsonl")).unwrap();
    let told: Vec<Value> = told.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let told: Vec<&str> = told.iter().map(|e| e["event"].as_str().unwrap()).collect();
    assert!(said.contains("waits: the clock is 50 days ahead"), "{said}");
    assert_eq!(status["expiry"]["suspended"], true);
    assert_eq!(status["expiry"]["ahead_seconds"].as_u64().unwrap() / (24 * 3600), 50);
    assert!(shown.contains("retain confirm"), "{shown}");
    assert!(told.contains(&"expiry_suspended") && told.last() == Some(&"expiry_resumed"), "{told:?}");
    assert_eq!((&confirmed["suspended"], &then["expiry"]["suspended"]), (&false.into(), &false.into()));
    let again = json(&["retain", "confirm", "--store", text(&store)]);
    assert_eq!(again["suspended"], false);
    m.mount(&[]);
    assert_eq!(json(&["status", text(&dir)])["expiry"]["suspended"], false);
}
