//! A process that writes an index is killed at any moment; what it leaves opens at some F with exactly the rows of
//! F, or is refused.

use std::{
    io::{BufRead, BufReader, Read},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    time::Duration,
};

use segfs::{
    base::Error,
    index::{Change, Index, SortedIndex, destroy},
};

use super::{Dice, Model, all, apply_to_model, changes, lsn};

const DIRECTORY: &str = "SEGFS_TEST_INDEX_DIRECTORY";
const KEYS: u64 = 500;
/// How many records the process applies if nobody kills it.
const RECORDS: u64 = 1200;

/// The changes of record `n`, the same in both processes.
fn record(n: u64) -> Vec<Change> {
    changes(&mut Dice::new(n), KEYS)
}

/// Not a test: what the killed process does. It says "open F" and then "flushed F" for each F.
#[test]
fn child() {
    let Some(path) = std::env::var_os(DIRECTORY).map(PathBuf::from) else { return };
    let index = &SortedIndex::open(&path, 1 << 20).unwrap();
    let first = index.flushed_lsn().get();
    println!("open {first}");
    let done = &AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Relaxed) {
                index.flush().unwrap();
                println!("flushed {}", index.flushed_lsn());
                while index.compact().unwrap() {}
            }
        });
        for n in first + 1..=first + RECORDS {
            index.apply(lsn(n), &record(n)).unwrap();
            if n % 40 == 0 {
                while index.waiting_memtables() > 2 {
                    std::thread::yield_now();
                }
                index.rotate(lsn(n)).unwrap();
            }
        }
        done.store(true, Relaxed);
    });
}

fn start(path: &Path, through: &[&str]) -> Child {
    let this = std::env::current_exe().unwrap();
    Command::new(through[0])
        .args(&through[1..])
        .arg(this)
        .args(["--exact", "index::kill::child", "--nocapture", "--test-threads=1"])
        .env(DIRECTORY, path)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// The model, and how far it has come.
#[derive(Default)]
struct Expected {
    at: u64,
    model: Model,
}

impl Expected {
    fn advance_to(&mut self, n: u64) {
        if n < self.at {
            *self = Self::default();
        }
        for n in self.at + 1..=n {
            apply_to_model(&mut self.model, &record(n));
        }
        self.at = n;
    }
}

/// Opens what the killed process left. Returns its F, or 0 if it was refused.
fn check(path: &Path, output: &str, expected: &mut Expected) -> u64 {
    let said = |what: &str| output.lines().filter_map(|l| l.rsplit_once(what)?.1.parse::<u64>().ok()).max();
    match SortedIndex::open(path, 1 << 20) {
        Ok(index) => {
            let f = index.flushed_lsn().get();
            assert!(f >= said("flushed ").or(said("open ")).unwrap_or(0), "an acknowledged flush is gone");
            expected.advance_to(f);
            assert!(all(&index).unwrap() == expected.model, "wrong rows at F = {f}");
            f
        }
        Err(Error::Damaged(damage)) => {
            assert_eq!(said("open "), None, "refused after it had been open: {damage}");
            destroy(path).unwrap();
            0
        }
        Err(e) => panic!("{e}"),
    }
}

#[test]
fn killed_at_any_time() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("index");
    let (mut dice, mut expected, mut f) = (Dice::new(1), Expected::default(), 0);
    for _ in 0..25 {
        let mut child = start(&path, &["env"]);
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let mut text = String::new();
        if dice.below(5) > 0 {
            while !text.contains("open") && output.read_line(&mut text).unwrap() > 0 {}
            _ = child.wait_timeout(Duration::from_micros(dice.below(150_000)));
        } else {
            _ = child.wait_timeout(Duration::from_micros(dice.below(15_000)));
        }
        child.kill().unwrap();
        child.wait().unwrap();
        output.read_to_string(&mut text).unwrap();
        let now = check(&path, &text, &mut expected);
        assert!(now >= f || now == 0, "F went back");
        f = now;
    }
    assert!(f > 0, "nothing was ever flushed");
}

/// The kernel is asked, through strace, to kill the process as it enters the Nth call that changes the directory.
#[test]
fn killed_at_each_call_that_changes_the_directory() {
    let works = Command::new("strace").args(["-f", "-qq", "-e", "trace=none", "true"]).output();
    if !works.is_ok_and(|o| o.status.success()) {
        eprintln!("skipped: strace does not work here");
        return;
    }
    let (mut flushed, mut killed) = (0, 0);
    for (call, from, to) in
        [("fsync", 1, 24), ("write", 1, 16), ("rename", 1, 4), ("unlink", 1, 4), ("openat", 8, 40)]
    {
        for n in from..=to {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("index");
            let trace = format!("trace={call}");
            let inject = format!("inject={call}:signal=SIGKILL:when={n}");
            let child =
                start(&path, &["strace", "-f", "-qq", "-o", "/dev/null", "-e", &trace, "-e", &inject]);
            let output = child.wait_with_output().unwrap();
            killed += u32::from(!output.status.success());
            let text = String::from_utf8_lossy(&output.stdout);
            flushed += u32::from(check(&path, &text, &mut Expected::default()) > 0);
        }
    }
    eprintln!("killed {killed}, of which {flushed} had flushed");
    assert!(killed > 30 && flushed > 10, "killed {killed}, flushed {flushed}");
}

trait WaitTimeout {
    /// Waits so long at most; says whether the process ended.
    fn wait_timeout(&mut self, limit: Duration) -> bool;
}

impl WaitTimeout for Child {
    #[allow(clippy::disallowed_methods)] // a test of real processes in real time
    fn wait_timeout(&mut self, limit: Duration) -> bool {
        let end = std::time::Instant::now() + limit;
        while std::time::Instant::now() < end {
            if self.try_wait().unwrap().is_some() {
                return true;
            }
            std::thread::sleep(Duration::from_micros(500));
        }
        false
    }
}
