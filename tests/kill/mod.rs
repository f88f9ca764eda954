//! A process that writes a whole store, with real files, is killed: at the Nth of its system calls, and at any moment.
//! What it leaves opens, holds everything that was acknowledged, and is a prefix of what was done; the index is the one
//! that the log makes.

mod work;

use std::{
    io::Read,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    time::Duration,
};

use segfs::{
    base::Lsn,
    disk::Engine,
    store::{Options, Store, inspect::Inspection},
};
use work::Model;

const STORE: &str = "SEGFS_TEST_KILL_STORE";
const ENGINE: &str = "SEGFS_TEST_KILL_ENGINE";
const OPERATIONS: &str = "SEGFS_TEST_KILL_OPERATIONS";

/// Small memtables, so that the index is written out again and again; segments in which the largest write of the model is one extent, and so
/// one record.
fn options() -> Options {
    Options {
        segment_bytes: 32 << 20,
        memtable_bytes: 24 << 10,
        mint_interrupted: false,
        ..Options::default()
    }
}

fn engine(name: &str) -> Engine {
    match name {
        "plain" => Engine::Plain,
        "io_uring" => Engine::IoUring,
        other => panic!("{other}"),
    }
}

/// Not a test: what the killed process does. It says "open L", then "synced L" whenever it knows that.
#[test]
fn child() {
    let Some(path) = std::env::var_os(STORE).map(PathBuf::from) else { return };
    let number: u64 = std::env::var(OPERATIONS).unwrap().parse().unwrap();
    let engine = engine(&std::env::var(ENGINE).unwrap());
    let store = &Store::open_on(&path, options(), engine, &|_, _| {}).unwrap();
    let first = store.last_lsn().get();
    println!("open {first}");
    let mut model = Model::at(first);
    let done = &AtomicBool::new(false);
    std::thread::scope(|scope| {
        // Commits, and index files, beside the writer.
        scope.spawn(|| {
            while !done.load(Relaxed) {
                store.maintain().unwrap();
                pause(Duration::from_millis(1));
            }
        });
        for n in first + 1..=first + number {
            model.next(Some(store));
            assert_eq!(store.last_lsn(), Lsn::new(n), "each step is one record");
            if n % 3 == 0 {
                store.sync(Lsn::new(n)).unwrap();
                println!("synced {n}");
            } else if n % 97 == 0 {
                store.checkpoint().unwrap();
            }
        }
        done.store(true, Relaxed);
    });
    if number.is_multiple_of(2) {
        store.close().unwrap();
        println!("synced {}", store.last_lsn());
    }
}

#[allow(clippy::disallowed_methods)] // a test of real processes in real time
fn pause(time: Duration) {
    std::thread::sleep(time);
}

fn start(path: &Path, engine: &str, operations: u64, through: &[&str]) -> Child {
    let this = std::env::current_exe().unwrap();
    Command::new(through[0])
        .args(&through[1..])
        .arg(this)
        .args(["--exact", "kill::child", "--nocapture", "--test-threads=1"])
        .env(STORE, path)
        .env(ENGINE, engine)
        .env(OPERATIONS, operations.to_string())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// A new store, closed.
fn new(path: &Path) {
    Store::create(path, options()).unwrap().close().unwrap();
}

/// What the killed process left must be a prefix with everything that it said was safe; says how long it is.
fn check(path: &Path, output: &str, what: &str) -> u64 {
    let said = |word: &str| output.lines().filter_map(|l| l.rsplit_once(word)?.1.parse::<u64>().ok()).max();
    let safe = said("synced ").or(said("open ")).unwrap_or(0);
    // The index as it was left may lag behind, but not say anything else than the log.
    let inspection = Inspection::open(path).unwrap_or_else(|e| panic!("{what}: {e}"));
    let covered = inspection.check_index(&|_, _| {}).unwrap_or_else(|e| panic!("{what}: {e}"));
    assert!(covered.covers == Lsn::new(0) || covered.different == 0, "{what}: {covered:?}");
    drop(inspection);
    let store = Store::open(path, options()).unwrap_or_else(|e| panic!("{what}: {e}"));
    let found = store.last_lsn().get();
    let recovered = store.recovered();
    assert!(found >= safe, "{what}: {safe} was safe, {found} is there: {recovered:?}");
    assert!(recovered.log.damages.is_empty() && recovered.rebuilt.is_none(), "{what}: {recovered:?}");
    Model::at(found).check(&store).unwrap_or_else(|e| panic!("{what}: at {found}: {e}"));
    store.checkpoint().unwrap();
    drop(store);
    let inspection = Inspection::open(path).unwrap();
    let index = inspection.check_index(&|_, _| {}).unwrap();
    // An index of nothing has a row of counters, which the log does not make.
    let different = index.different - u64::from(found == 0);
    assert_eq!((index.covers.get(), different), (found, 0), "{what}: {index:?}");
    found
}

const ENGINES: [&str; 2] = ["plain", "io_uring"];

fn io_uring_works() -> bool {
    let dir = tempfile::tempdir().unwrap();
    segfs::disk::RealDisk::open(dir.path(), Engine::IoUring).is_ok()
}

#[test]
fn killed_at_any_time() {
    for engine in ENGINES {
        if engine == "io_uring" && !io_uring_works() {
            eprintln!("the kernel does not permit io_uring here: half of this test is not run");
            continue;
        }
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store");
        new(&path);
        let (mut dice, mut grown, mut killed) = (work::Dice::new(engine.len() as u64), 0, 0);
        let mut last = 0;
        for round in 0..12 {
            let mut child = start(&path, engine, 100_000, &["env"]);
            pause(Duration::from_micros(20_000 + dice.below(250_000)));
            child.kill().unwrap();
            let mut text = String::new();
            child.stdout.take().unwrap().read_to_string(&mut text).unwrap();
            killed += u32::from(!child.wait().unwrap().success());
            let found = check(&path, &text, &format!("{engine}, round {round}"));
            assert!(found >= last, "{engine}: {last} were there, now {found}");
            grown += u32::from(found > last);
            last = found;
            if last > 6000 {
                // The model goes through all of it each time.
                std::fs::remove_dir_all(&path).unwrap();
                new(&path);
                last = 0;
            }
        }
        assert!(grown > 3 && killed == 12, "{engine}: it wrote in {grown} rounds and was killed in {killed}");
    }
}

/// The kernel is asked, through strace, to kill the process as it enters the Nth call of a kind.
#[test]
fn killed_at_each_call() {
    let works = Command::new("strace").args(["-f", "-qq", "-e", "trace=none", "true"]).output();
    assert!(works.is_ok_and(|o| o.status.success()), "strace does not work here");
    for engine in ENGINES {
        if engine == "io_uring" && !io_uring_works() {
            eprintln!("the kernel does not permit io_uring here: half of this test is not run");
            continue;
        }
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store");
        new(&path);
        let (mut killed, mut wrote, mut last) = (0, 0, 0);
        let mut calls =
            vec![("pwritev", 1, 14), ("fdatasync", 1, 12), ("fallocate", 1, 3), ("renameat", 1, 2)];
        calls.extend([("fsync", 1, 8), ("ftruncate", 1, 3), ("unlinkat", 1, 2), ("write", 4, 10)]);
        calls.extend([("openat", 12, 26), ("rename", 1, 3), ("sync_file_range", 1, 2), ("unlink", 1, 3)]);
        if engine == "io_uring" {
            // The first is the question whether it works.
            calls.push(("io_uring_enter", 2, 8));
        }
        for (call, from, to) in calls {
            // Commits that are large enough for the ring are one in some.
            let (ring, operations) = if call == "io_uring_enter" { (true, 600) } else { (false, 120) };
            for n in from..=to {
                let trace = format!("trace={call}");
                let inject = format!("inject={call}:signal=SIGKILL:when={n}");
                let through = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", &trace, "-e", &inject];
                // An even number ends in a clean close, if it comes to that.
                let child = start(&path, engine, operations + n % 2, &through);
                let output = child.wait_with_output().unwrap();
                killed += u32::from(!output.status.success());
                assert!(!ring || !output.status.success(), "it never made its call {n} of {call}");
                let text = String::from_utf8_lossy(&output.stdout);
                let found = check(&path, &text, &format!("{engine}, {call} {n}"));
                assert!(found >= last, "{engine}, {call} {n}: {last} were there, now {found}");
                wrote += u32::from(found > last);
                last = found;
                if last > 2500 {
                    std::fs::remove_dir_all(&path).unwrap();
                    new(&path);
                    last = 0;
                }
            }
        }
        eprintln!("{engine}: killed {killed} times, {wrote} of the runs had written");
        assert!(killed > 45 && wrote > 30, "{engine}: killed {killed}, wrote {wrote}");
    }
}
