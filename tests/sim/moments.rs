//! Moments: the tree at every LSN through the library, and sampled ones through a real mount, equal the model.

use std::{
    fs,
    os::unix::{
        ffi::OsStrExt,
        fs::{FileTypeExt, MetadataExt},
    },
    path::{Path, PathBuf},
    sync::Arc,
};

use segfs::{
    base::Lsn,
    disk::{Engine, RealDisk},
    format::facts::{ObjectKind, Time},
    index::SortedIndex,
    store::{Options, Parts, Store},
};

use super::{
    compare::{Compare, Rule, shown},
    host::{SimClock, SimRandom, perform},
    model::{Model, Object, ROOT, Snapshot},
    rng::Rng,
    workload,
};
use crate::mount::{Mounted, is_root};

/// Operations that are tried.
const OPERATIONS: u64 = 10_000;
/// 2020-01-01, ns since 1970: all of it lies before whatever the clock of this machine says.
const START: u64 = 1_577_836_800_000_000_000;

fn open(path: &Path, clock: &Arc<SimClock>) -> Store {
    let parts = Parts {
        disk: Arc::new(RealDisk::open(path, Engine::Auto).unwrap()),
        clock: Arc::clone(clock) as _,
        random: SimRandom::new(7) as _,
        index: Arc::new(SortedIndex::open(&path.join("index"), 32 << 20).unwrap()),
    };
    let options = Options { background: false, mint_interrupted: false, ..Options::default() };
    Store::open_parts(parts, options).unwrap()
}

/// A store made by random operations, and the model of it.
fn make(path: &Path, seed: u64) -> (Model, Arc<SimClock>) {
    let clock = SimClock::at(START);
    let disk = RealDisk::create(path, Engine::Auto).unwrap();
    Store::format(&disk, &Options::default(), &*clock, &*SimRandom::new(seed), path).unwrap();
    drop(disk);
    let store = open(path, &clock);
    let (mut model, mut rng, mut wall) = (Model::new(), Rng::new(seed), START);
    for _ in 0..OPERATIONS {
        // Mostly forward, by up to three seconds; now and then the clock is set back.
        wall =
            if rng.percent(1) { wall - rng.below(60_000_000_000) } else { wall + rng.below(3_000_000_000) };
        clock.set(wall);
        let op = workload::next(&mut rng, model.now());
        if matches!(op, super::model::Op::Remove { .. }) {
            // What a removal does to the past is `sim::store`'s.
            continue;
        }
        let expected = model.now().apply(&op, wall);
        match (expected, perform(&store, &op, model.now())) {
            (Ok(next), Ok(_)) => next.into_iter().for_each(|s| model.push(s)),
            (Err(_), Err(_)) => {}
            (expected, done) => panic!("{op:?}: {done:?}, not {:?}", expected.map(|n| n.len())),
        }
        assert_eq!(store.last_lsn(), Lsn::new(model.lsn()), "{op:?}");
    }
    store.close().unwrap();
    (model, clock)
}

fn every_lsn(store: &Store, model: &Model, step: usize) {
    for lsn in (0..=model.lsn()).step_by(step) {
        let compare = Compare { rule: Rule::Exact, every: 5, store };
        compare.tree(model.at(lsn)).unwrap_or_else(|e| panic!("{e}"));
    }
}

/// A tree of files held against the model.
struct Files<'a> {
    model: &'a Snapshot,
    what: String,
}

impl Files<'_> {
    fn check(&self, path: &Path, ino: u64) -> u64 {
        let o = self.model.get(ino).unwrap();
        let m =
            fs::symlink_metadata(path).unwrap_or_else(|e| panic!("{}: {}: {e}", self.what, path.display()));
        let place = || format!("{}: {}", self.what, path.display());
        let (size, modified) = shown(o, true);
        let mtime = Time { seconds: m.mtime(), nanos: m.mtime_nsec() as u32 };
        assert_eq!(mtime, o.shown_modified(modified), "{}", place());
        let newest = o.versions.last().map_or(0, |v| v.stamp);
        let ctime = Time { seconds: m.ctime(), nanos: m.ctime_nsec() as u32 };
        assert_eq!(ctime, Time::from_ns(o.changed.max(newest)), "{}", place());
        assert_eq!(m.mode() & 0o7777, o.mode & 0o1777, "{}: set-user-id never shows", place());
        assert_eq!((m.uid(), m.gid(), m.nlink()), (o.owner.uid, o.owner.gid, o.links.into()), "{}", place());
        self.xattrs(path, o, &place());
        match o.kind {
            ObjectKind::Directory => {
                let mut names: Vec<Vec<u8>> =
                    fs::read_dir(path).unwrap().map(|e| e.unwrap().file_name().as_bytes().to_vec()).collect();
                names.sort();
                assert!(names.iter().eq(o.entries.keys()), "{}: {names:?}", place());
                let below = o
                    .entries
                    .iter()
                    .map(|(name, child)| self.check(&path.join(std::ffi::OsStr::from_bytes(name)), *child));
                1 + below.sum::<u64>()
            }
            ObjectKind::File => {
                assert_eq!(m.len(), size, "{}", place());
                let bytes = o.versions.last().map(|v| Arc::clone(&v.bytes)).unwrap_or_default();
                assert!(fs::read(path).unwrap() == *bytes, "{}: other bytes", place());
                1
            }
            ObjectKind::Symlink => {
                // The kernel reads a target up to its first NUL; only the library can make one that has any.
                let target = o.target.split(|b| *b == 0).next().unwrap_or_default();
                assert_eq!(fs::read_link(path).unwrap().as_os_str().as_bytes(), target, "{}", place());
                1
            }
            _ => {
                assert!(m.file_type().is_fifo(), "{}", place());
                1
            }
        }
    }

    fn xattrs(&self, path: &Path, o: &Object, place: &str) {
        let mut names = [0; 4096];
        let n = rustix::fs::llistxattr(path, &mut names).unwrap();
        let found: Vec<&[u8]> = names[..n].split(|b| *b == 0).filter(|n| !n.is_empty()).collect();
        assert!(found.iter().copied().eq(o.xattrs.keys().map(Vec::as_slice)), "{place}: {found:?}");
        for (name, expected) in o.xattrs.iter().filter(|(name, _)| name.starts_with(b"user.")) {
            if o.kind == ObjectKind::File || o.kind == ObjectKind::Directory {
                let mut value = [0; 4096];
                let n = rustix::fs::lgetxattr(path, &name[..], &mut value).unwrap();
                assert_eq!(&value[..n], expected, "{place}");
            }
        }
    }
}

/// Sampled moments of a mount: by record and by time.
fn through_the_mount(m: &Mounted, model: &Model, rng: &mut Rng, samples: u64) {
    let at = m.path(".segfs/at");
    let mut objects = 0;
    for _ in 0..samples {
        let lsn = 1 + rng.below(model.lsn());
        let files = Files { model: model.at(lsn), what: format!("LSN {lsn}") };
        objects += files.check(&at.join(format!("@LSN:{lsn}")), ROOT);
        // A moment shows everything that is stamped no later: stamps grow from record to record.
        let first = model.at(1).hlc;
        let ns = first + rng.below(model.now().hlc - first);
        let whole = if rng.percent(50) { ns / 1_000_000_000 * 1_000_000_000 } else { ns };
        let lsn = (1..=model.lsn()).rev().find(|l| model.at(*l).hlc <= whole);
        let name = segfs::vfs::canonical(whole);
        let Some(lsn) = lsn else {
            assert!(fs::metadata(at.join(&name)).is_err(), "before everything");
            continue;
        };
        let files = Files { model: model.at(lsn), what: name.clone() };
        objects += files.check(&at.join(&name), ROOT);
    }
    assert!(objects > samples * 5, "the samples are empty: {objects}");
    assert!(fs::metadata(at.join(segfs::vfs::canonical(START - 1_000_000_000))).is_err(), "before the store");
}

#[test]
fn moments_of_ten_thousand_operations_equal_the_model() {
    let seed = std::env::var("SEGFS_MOMENTS_SEED").map_or(1, |s| s.parse().unwrap());
    println!("SEGFS_MOMENTS_SEED={seed}");
    let root = tempfile::tempdir().unwrap();
    let store = root.path().join("store");
    let mut m = Mounted { root, store, daemon: None };
    let path: PathBuf = m.store();
    let (model, clock) = make(&path, seed);
    assert!(model.lsn() > OPERATIONS / 2, "most operations do something");
    let store = open(&path, &clock);
    every_lsn(&store, &model, 1);
    store.close().unwrap();
    drop(store);
    let mut rng = Rng::new(seed);
    if is_root() {
        // Others can't give files to whom they belong in the model.
        m.mount(&[]);
        through_the_mount(&m, &model, &mut rng, 30);
        m.unmount();
    }
    fs::remove_dir_all(path.join("index")).unwrap();
    let store = open(&path, &clock);
    every_lsn(&store, &model, 7);
    store.close().unwrap();
    drop(store);
    if is_root() {
        m.mount(&[]);
        through_the_mount(&m, &model, &mut rng, 10);
        m.unmount();
    }
}
