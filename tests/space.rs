//! Space stays bounded: retention, removal and the cleaner, through the library on the real disk.

use std::{
    path::Path,
    sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use segfs::{
    base::{Error, FsError, Ino, Lsn},
    format::facts::Owner,
    store::{Goal, Kept, NewObject, Options, Policy, Retention, Store, VersionInfo, inspect::Inspection},
};

use crate::mount::{full::SmallDisk, is_root};

const FILES: u64 = 12;
const ROUNDS: u64 = 10;
const BYTES: usize = 200_000;

fn options() -> Options {
    Options { segment_bytes: 1 << 20, ..Options::default() }
}

fn content(file: u64, round: u64) -> Vec<u8> {
    let mut x = (file << 32 | round).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    std::iter::repeat_with(|| {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        x as u8
    })
    .take(BYTES)
    .collect()
}

/// Files that were rewritten whole, again and again.
fn rewritten(path: &Path) -> (Store, Vec<Ino>) {
    let store = Store::create(path, options()).unwrap();
    let new = NewObject::file(0o644, Owner::default());
    let files: Vec<Ino> = (0..FILES)
        .map(|n| store.create_object(Ino::FIRST, format!("f{n}").as_bytes(), &new).unwrap().1.ino)
        .collect();
    for round in 0..ROUNDS {
        for (n, ino) in files.iter().enumerate() {
            store.truncate(*ino, 0).unwrap();
            store.write(*ino, 0, &content(n as u64, round)).unwrap();
            store.commit_version(*ino).unwrap();
        }
    }
    (store, files)
}

fn versions(store: &Store, ino: Ino) -> Vec<VersionInfo> {
    store.view().versions(ino, None, 100).unwrap()
}

fn expire_all(store: &Store, now_ns: u64) -> u64 {
    let (mut gone, mut at) = (0, Some(Ino::FIRST));
    while let Some(from) = at {
        let (n, next) = store.expire(from, now_ns).unwrap();
        (gone, at) = (gone + n, next);
    }
    gone
}

fn used(store: &Store) -> u64 {
    store.segments().iter().map(|s| s.used_bytes).sum()
}

/// Opens a closed store without its index, of which nothing may differ from what the log makes, nor be missing in the log.
fn opened_from_the_log(path: &Path) -> Store {
    let i = Inspection::open(path).unwrap();
    let index = i.check_index(&|_, _| {}).unwrap();
    assert_eq!(index.different, 0, "{index:?}");
    let rows = i.rows(&|_, _| {}).unwrap().unwrap();
    assert_eq!(i.census(Some(rows.index()), &|_, _| {}).unwrap().lost, 0);
    drop((rows, i));
    std::fs::remove_dir_all(path.join("index")).unwrap();
    Store::open(path, options()).unwrap()
}

fn read(store: &Store, ino: Ino, v: &VersionInfo) -> Vec<u8> {
    let mut out = vec![0; v.size as usize];
    assert_eq!(store.read_version(ino, v.lsn, 0, &mut out).unwrap(), out.len());
    out
}

const FAR_ON: u64 = 1 << 62;

/// In extents as large as these segments take.
fn write_large(store: &Store, ino: Ino, bytes: &[u8]) {
    for (n, part) in bytes.chunks(512 << 10).enumerate() {
        store.write(ino, (n * 512) as u64 * 1024, part).unwrap();
    }
}

#[test]
fn what_retention_lets_go_is_given_back() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let (store, files) = rewritten(&path);
    let (first, middle) = {
        let v = versions(&store, files[0]);
        (v[0].lsn, v[8].lsn)
    };
    store.set_retention(Retention::everywhere(Policy::Last(2)));
    assert_eq!(expire_all(&store, FAR_ON), FILES * (ROUNDS - 2));
    assert_eq!(expire_all(&store, FAR_ON), 0, "nothing goes twice");
    let check = |store: &Store| {
        for (n, ino) in files.iter().enumerate() {
            let left = versions(store, *ino);
            assert_eq!(left.iter().map(|v| v.ordinal).collect::<Vec<_>>(), [9, 10]);
            assert!(read(store, *ino, &left[0]) == content(n as u64, 8));
            assert!(read(store, *ino, &left[1]) == content(n as u64, 9));
        }
        // A moment shows what it showed, if that is kept; else nothing older is, and the name is absent.
        let then = store.view_at(middle);
        assert_eq!(then.attributes(files[0]).unwrap().size, BYTES as u64);
        assert!(then.is_exact(files[0]).unwrap());
        let absent = store.view_at(first).lookup(Ino::FIRST, b"f0");
        assert!(matches!(absent, Err(Error::Fs(FsError::NotFound))), "{absent:?}");
        assert!(store.view_at(first).entries(Ino::FIRST, None, 100).unwrap().iter().all(|e| e.name != b"f0"));
    };
    check(&store);

    let before = used(&store);
    let done = store.clean(Goal::ALL).unwrap();
    let live = FILES * 2 * BYTES as u64;
    assert!(before > live * 4, "{before}");
    assert!(used(&store) < live + live / 4 + (2 << 20), "{} used for {live}: {done:?}", used(&store));
    assert!(done.segments > 10 && done.moved_bytes < live, "{done:?}");
    check(&store);
    store.close().unwrap();
    drop(store);

    // The log alone makes the same index, and nothing is missed.
    let store = opened_from_the_log(&path);
    check(&store);
    store.close().unwrap();
}

#[test]
fn what_is_locked_held_tagged_or_shown_stays() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::create(&dir.path().join("store"), options()).unwrap();
    let new = NewObject::file(0o644, Owner::default());
    let ino = store.create_object(Ino::FIRST, b"f", &new).unwrap().1.ino;
    let mut moments = Vec::new();
    for n in 0..6_u8 {
        store.write(ino, 0, &[n; 100]).unwrap();
        store.commit_version(ino).unwrap();
        moments.push(store.last_lsn());
        if n == 2 {
            store.tag(b"release", true).unwrap();
        }
    }
    let v = versions(&store, ino);
    store.lock_version(v[0].id, true, FAR_ON).unwrap();
    store.hold_version(v[1].id, true).unwrap();
    let weaker = store.lock_version(v[0].id, false, 0);
    assert!(matches!(weaker, Err(Error::Fs(FsError::NotPermitted))), "{weaker:?}");
    let why: Vec<_> = v.iter().map(|v| store.remove_version(v.id).unwrap()).collect();
    let expected = [Some(Kept::Locked), Some(Kept::Locked), Some(Kept::Tagged), None, None, Some(Kept::Head)];
    assert_eq!(why, expected);
    let gone = store.remove_version(v[3].id);
    assert!(matches!(gone, Err(Error::Fs(FsError::NotFound))), "{gone:?}");
    // The nearest older one stands for what went.
    let shows = |at: Lsn| {
        let mut out = [9; 100];
        store.view_at(at).read(ino, 0, &mut out).unwrap();
        (out[0], store.view_at(at).is_exact(ino).unwrap())
    };
    assert_eq!(
        moments.iter().map(|at| shows(*at)).collect::<Vec<_>>(),
        [(0, true), (1, true), (2, true), (2, false), (2, false), (5, true)]
    );
    // Without hold and tag they go too, and the lock lasts as long as it was set to.
    store.hold_version(v[1].id, false).unwrap();
    store.tag(b"release", false).unwrap();
    store.set_retention(Retention::everywhere(Policy::Never));
    assert_eq!(expire_all(&store, FAR_ON - 1), 2);
    assert_eq!(expire_all(&store, FAR_ON + 1), 1);
    assert_eq!(versions(&store, ino).len(), 1);
}

/// Blocks of large extents are overwritten here and there: what is left of those takes no more than it shows, in the present, in the
/// history and in clones.
#[test]
fn what_is_left_of_an_extent_is_written_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let store = Store::create(&path, options()).unwrap();
    let new = NewObject::file(0o644, Owner::default());
    let make = |name: &[u8]| store.create_object(Ino::FIRST, name, &new).unwrap().1.ino;
    let (f, copy) = (make(b"f"), make(b"copy"));
    let whole: Vec<u8> = (0..12).flat_map(|n| content(n, 0).into_iter().chain(content(n, 1))).collect();
    let whole = &whole[..4 << 20];
    let mut now = whole.to_vec();
    write_large(&store, f, whole);
    store.commit_version(f).unwrap();
    let mut x = 1_u64;
    let mut kept = Vec::new();
    for step in 0..1800_u64 {
        x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let at = (x >> 33) % ((4 << 20) - 5000);
        let bytes = &content(step, 77)[..4096 + (step % 800) as usize];
        store.write(f, at, bytes).unwrap();
        now[at as usize..at as usize + bytes.len()].copy_from_slice(bytes);
        if step % 100 == 99 {
            let lsn = store.commit_version(f).unwrap().0;
            if step == 999 {
                store.clone_range((f, 0), (copy, 0), 4 << 20).unwrap();
                store.commit_version(copy).unwrap();
                let id = versions(&store, f).last().unwrap().id;
                store.lock_version(id, true, FAR_ON).unwrap();
                kept.push((lsn, now.clone()));
            }
        }
    }
    let copied = kept[0].1.clone();
    store.set_retention(Retention::everywhere(Policy::Never));
    expire_all(&store, FAR_ON / 2);
    let check = |store: &Store, what: &str| {
        for (ino, expected) in [(f, &now), (copy, &copied)] {
            let mut found = vec![0; 4 << 20];
            assert_eq!(store.view().read(ino, 0, &mut found).unwrap(), found.len());
            assert!(found == **expected, "{what}");
        }
        let v = versions(store, f);
        assert_eq!(v.len(), 2, "{what}");
        assert!(read(store, f, &v[0]) == kept[0].1, "{what}");
    };
    check(&store, "before");
    let mut done = store.clean(Goal::ALL).unwrap();
    for _ in 0..3 {
        done += store.clean(Goal::ALL).unwrap();
        check(&store, "cleaned");
    }
    // The copy shows what the locked version does; that was written over in part since.
    let differs = now.iter().zip(&copied).filter(|(a, b)| a != b).count() as u64;
    let shown = (4 << 20) + differs;
    assert!(used(&store) < shown + shown / 8 + (1 << 20), "{} used of {shown}: {done:?}", used(&store));
    store.close().unwrap();
    drop(store);
    let store = opened_from_the_log(&path);
    check(&store, "rebuilt");
    store.close().unwrap();
}

/// Whoever reads while the cleaner writes parts of extents again, and gives the rest back, reads what is there; and so does another
/// store that is sent all of it meanwhile.
#[test]
#[allow(clippy::disallowed_methods)] // in real time
fn readers_and_peers_beside_a_cleaner_find_nothing_damaged() {
    const BLOCKS: u64 = 1024;
    const TIME: Duration = Duration::from_secs(4);
    let dir = tempfile::tempdir().unwrap();
    let quiet = Options { background: false, ..options() };
    let store = Store::create(&dir.path().join("store"), quiet.clone()).unwrap();
    let other = Store::create(&dir.path().join("other"), quiet).unwrap();
    store.set_retention(Retention::everywhere(Policy::Last(2)));
    let new = NewObject::file(0o644, Owner::default());
    let ino = store.create_object(Ino::FIRST, b"f", &new).unwrap().1.ino;
    // Each block says everywhere which it is, and in which round it was written.
    let block = |n: u64, round: u64| [&n.to_le_bytes()[..], &round.to_le_bytes()].concat().repeat(256);
    let is_whole = |n: u64, bytes: &[u8]| {
        bytes[..8] == n.to_le_bytes() && bytes.chunks(16).all(|part| part == &bytes[..16])
    };
    write_large(&store, ino, &(0..BLOCKS).flat_map(|n| block(n, 0)).collect::<Vec<u8>>());
    store.commit_version(ino).unwrap();
    let stop = AtomicBool::new(false);
    let goes_on = || !stop.load(Relaxed);
    let (reads, hashes, parcels) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
    let gone = |e: &Error| matches!(e, Error::Fs(FsError::NotFound));
    let walk = |seed: u64, visit: &dyn Fn(u64)| {
        let mut x = seed;
        while goes_on() {
            x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            visit((x >> 33) % BLOCKS);
        }
    };
    std::thread::scope(|s| {
        s.spawn(|| {
            for round in 1.. {
                if !goes_on() {
                    break;
                }
                for n in 0..48 {
                    let n = (round * 389 + n * 571) % BLOCKS;
                    store.write(ino, n * 4096, &block(n, round)).unwrap();
                }
                store.commit_version(ino).unwrap();
                expire_all(&store, FAR_ON);
                std::thread::sleep(Duration::from_millis(5));
            }
        });
        s.spawn(|| {
            while goes_on() {
                store.clean(Goal::ALL).unwrap();
            }
        });
        s.spawn(|| {
            walk(1, &|n| {
                let mut out = vec![0; 4096];
                store.view().read(ino, n * 4096, &mut out).unwrap();
                assert!(is_whole(n, &out), "block {n}");
                reads.fetch_add(1, Relaxed);
            });
        });
        s.spawn(|| {
            walk(2, &|n| {
                for v in versions(&store, ino) {
                    let mut out = vec![0; 4096];
                    match store.read_version(ino, v.lsn, n * 4096, &mut out) {
                        Ok(_) => assert!(is_whole(n, &out), "block {n} of {}", v.ordinal),
                        Err(e) => assert!(gone(&e), "{e}"),
                    }
                    if n % 64 == 0 {
                        match store.content_hash(ino, v.lsn) {
                            Ok(_) => drop(hashes.fetch_add(1, Relaxed)),
                            Err(e) => assert!(gone(&e), "{e}"),
                        }
                    }
                }
            });
        });
        s.spawn(|| {
            while goes_on() {
                store.hash_versions().unwrap();
                store.sync_all().unwrap();
                let (found, _) = store.parcels(&other.knowledge().unwrap(), Lsn::FIRST, 50).unwrap();
                for p in &found {
                    other.import(p, &mut |id| store.extent_bytes(p, id)).unwrap();
                    parcels.fetch_add(1, Relaxed);
                }
            }
        });
        std::thread::sleep(TIME);
        stop.store(true, Relaxed);
    });
    let counted = [&reads, &hashes, &parcels].map(|n| n.load(Relaxed));
    assert!(counted.iter().all(|n| *n > 3), "{counted:?}");
    assert!(store.cleaned().segments > 20, "{:?}", store.cleaned());
    store.close().unwrap();
    other.close().unwrap();
}

/// `cargo bench --bench space` in small, without a clock.
#[test]
fn a_set_is_rewritten_on_a_disk_three_times_its_size() {
    assert!(is_root(), "a filesystem of its own needs root");
    /// Bytes of the disk in MiB; the set is a third of it.
    const SET: u64 = 240;
    let disk = SmallDisk::new(SET);
    let store = std::sync::Arc::new(Store::create(&disk.dir.join("store"), options()).unwrap());
    store.set_retention(Retention::everywhere(Policy::Last(2)));
    store.start_maintenance().unwrap();
    let new = NewObject::file(0o644, Owner::default());
    let each = ((SET << 20) / 3 / 100) as usize;
    let files: Vec<Ino> = (0..100)
        .map(|n| store.create_object(Ino::FIRST, format!("f{n}").as_bytes(), &new).unwrap().1.ino)
        .collect();
    let data = |n: usize, round: u64| -> Vec<u8> {
        content(n as u64, round).into_iter().cycle().take(each).collect()
    };
    for round in 0..20 {
        for (n, ino) in files.iter().enumerate() {
            store.truncate(*ino, 0).unwrap();
            // Of segments as small as these, one that holds a large extent has no room for another.
            for (part, bytes) in data(n, round).chunks(128 << 10).enumerate() {
                store.write(*ino, (part as u64) << 17, bytes).expect("never ENOSPC");
            }
            store.commit_version(*ino).unwrap();
        }
    }
    let user = each as u64 * 100 * 20;
    let log = store.status().log.bytes;
    assert!(log < 2 * user, "{log} bytes for {user}: {:?}", store.cleaned());
    assert!(store.cleaned().segments > 100, "it was never short: {:?}", store.cleaned());
    for (n, ino) in files.iter().enumerate() {
        let left = versions(&store, *ino);
        let last = left.last_chunk::<2>().expect("the last two are kept");
        assert_eq!([last[0].ordinal, last[1].ordinal], [19, 20]);
        for (v, round) in last.iter().zip([18, 19]) {
            assert!(read(&store, *ino, v) == data(n, round), "{n} in round {round}");
        }
    }
    store.close().unwrap();
}

#[test]
fn blocks_are_overwritten_at_random_on_a_small_disk() {
    assert!(is_root(), "a filesystem of its own needs root");
    let disk = SmallDisk::new(96);
    let store = std::sync::Arc::new(Store::create(&disk.dir.join("store"), options()).unwrap());
    store.set_retention(Retention::everywhere(Policy::Never));
    store.start_maintenance().unwrap();
    let new = NewObject::file(0o644, Owner::default());
    let ino = store.create_object(Ino::FIRST, b"f", &new).unwrap().1.ino;
    // Of what is there for segments, reserve and ballast aside, half is alive.
    let blocks = 32 * 256_u64;
    let block = |n: u64, round: u64| [&n.to_le_bytes()[..], &round.to_le_bytes()].concat().repeat(256);
    let mut rounds = vec![0_u64; blocks as usize];
    // In large extents, which go on living in parts.
    let all: Vec<u8> = (0..blocks).flat_map(|n| block(n, 0)).collect();
    write_large(&store, ino, &all);
    store.commit_version(ino).unwrap();
    let before = store.status().log.bytes;
    let mut x = 1_u64;
    let count = blocks * 6;
    for step in 0..count {
        x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let n = (x >> 33) % blocks;
        rounds[n as usize] += 1;
        store.write(ino, n * 4096, &block(n, rounds[n as usize])).expect("never ENOSPC");
        if step % 256 == 0 {
            store.commit_version(ino).unwrap();
        }
    }
    let (log, user) = (store.status().log.bytes - before, count * 4096);
    assert!(log < user * 5 / 2, "{log} bytes for {user}: {:?}", store.cleaned());
    let mut found = vec![0; 4096];
    for n in 0..blocks {
        store.view().read(ino, n * 4096, &mut found).unwrap();
        assert!(found == block(n, rounds[n as usize]), "block {n}");
    }
    store.close().unwrap();
}

/// Many names, so that the index is something.
fn with_names(path: &Path) -> Store {
    let store = Store::create(path, options()).unwrap();
    let new = NewObject::file(0o644, Owner::default());
    for n in 0..20_000 {
        store.create_object(Ino::FIRST, format!("name-{n:06}").as_bytes(), &new).unwrap();
    }
    store
}

#[test]
fn a_base_costs_what_changed_and_is_remembered() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let store = with_names(&path);
    let bytes = |store: &Store| store.status().log.bytes;
    let spent = |store: &Store| {
        let before = bytes(store);
        store.write_base().unwrap();
        bytes(store) - before
    };
    let whole = spent(&store);
    assert!(whole > 500_000, "{whole}");
    let touch = |store: &Store, name: &str| {
        let ino = store.view().lookup(Ino::FIRST, name.as_bytes()).unwrap().ino;
        store.write(ino, 0, b"changed").unwrap();
        store.commit_version(ino).unwrap();
    };
    touch(&store, "name-000077");
    let second = spent(&store);
    assert!(second * 4 < whole, "{second} after {whole}");
    store.close().unwrap();
    drop(store);

    // Another opening knows it, and goes on from it.
    let store = Store::open(&path, options()).unwrap();
    touch(&store, "name-011111");
    let third = spent(&store);
    assert!(third * 4 < whole, "{third} after {whole}");
    store.close().unwrap();
    drop(store);
    let i = Inspection::open(&path).unwrap();
    assert_eq!(i.check_index(&|_, _| {}).unwrap().different, 0);
    drop(i);

    // Without an index, it is put together from the pieces of all three.
    std::fs::remove_dir_all(path.join("index")).unwrap();
    let store = Store::open(&path, options()).unwrap();
    assert!(store.recovered().log.replayed < 100, "{:?}", store.recovered().log);
    assert_eq!(store.view().entries(Ino::FIRST, None, 99_999).unwrap().len(), 20_000);
    let ino = store.view().lookup(Ino::FIRST, b"name-000077").unwrap().ino;
    assert_eq!(store.view().attributes(ino).unwrap().size, 7);
    let fourth = spent(&store);
    assert!(fourth * 4 < whole, "{fourth} after {whole}");
    store.close().unwrap();
}

#[test]
fn what_a_base_covers_is_given_back_after_another_opening_too() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let (store, _) = rewritten(&path);
    store.set_retention(Retention::everywhere(Policy::Last(2)));
    expire_all(&store, FAR_ON);
    store.write_base().unwrap();
    store.close().unwrap();
    drop(store);
    let store = Store::open(&path, options()).unwrap();
    let done = store.clean(Goal { bytes: 4 << 20, live_percent: 60 }).unwrap();
    assert!(done.bytes >= 4 << 20, "{done:?}");
    assert_eq!(done.base_bytes, 0, "the one that is there is enough");
    store.close().unwrap();
}
