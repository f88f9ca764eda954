//! What keeping space bounded costs: `cargo bench --bench space [-- [MIB] [--strict] [--only NAME]]`, as root.
//!
//! A set of 128 files is rewritten whole, 20 times over, with the last two versions kept, on an ext4 image three times as large
//! as the set; the same on an image on which nothing ever has to be cleaned, for the latencies. Then 4 KiB blocks of a file
//! are overwritten at random, at several shares of the disk that are alive. Each line has a figure and the aim that it is held
//! to; filling new segment files with zeros is counted apart. With `--strict` the run fails if an aim is missed.
#![allow(clippy::disallowed_methods)] // a benchmark asks the clock and the file system itself

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::{Duration, Instant},
};

use segfs::{
    base::{Ino, Random, SystemRandom, limits},
    format::facts::Owner,
    store::{Cleaned, NewObject, Options, Policy, Retention, Store},
};

const FILES: usize = 128;
const ROUNDS: usize = 20;
const MIB: u64 = 1 << 20;
/// One write(2) of a program that copies files.
const WRITE_BYTES: usize = 128 << 10;
/// How much of what is written is random for good; else the pool is read from another place.
const POOL_BYTES: usize = 64 << 20;

/// A filesystem in a file, mounted; it goes away with this.
struct SmallDisk {
    dir: PathBuf,
    _root: tempfile::TempDir,
}

impl SmallDisk {
    fn new(bytes: u64) -> Self {
        let root = tempfile::tempdir_in("target").expect("a directory");
        let (image, dir) = (root.path().join("disk.img"), root.path().join("disk"));
        File::create(&image).and_then(|f| f.set_len(bytes)).expect("an image");
        fs::create_dir(&dir).expect("a directory");
        let (image, at) = (image.to_str().expect("a name"), dir.to_str().expect("a name"));
        run("mkfs.ext4", &["-q", "-F", "-m", "0", image]);
        run("mount", &["-o", "loop", image, at]);
        Self { dir, _root: root }
    }

    fn store(&self, policy: Policy, segment_bytes: u64) -> Arc<Store> {
        let options = Options { segment_bytes, ..Options::default() };
        let store = Arc::new(Store::create(&self.dir.join("store"), options).expect("a store"));
        store.set_retention(Retention::everywhere(policy));
        store.start_maintenance().expect("threads");
        store
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // The loop device goes with the mount.
        let _ = Command::new("umount").arg("-l").arg(&self.dir).status();
    }
}

fn run(program: &str, args: &[&str]) {
    let done = Command::new(program).args(args).output().expect(program);
    assert!(done.status.success(), "{program} {args:?}: {done:?}; this benchmark needs root and e2fsprogs");
}

struct Chance(u64);

impl Chance {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) % n
    }
}

fn pool() -> Vec<u8> {
    let mut pool = vec![0; POOL_BYTES];
    SystemRandom.fill(&mut pool);
    pool
}

/// What was written, by whom.
#[derive(Clone, Copy, Default)]
struct Written {
    log: u64,
    filled: u64,
    process: u64,
    cleaned: Cleaned,
}

fn written(store: &Store) -> Written {
    let log = store.status().log;
    let io = fs::read_to_string("/proc/self/io").unwrap_or_default();
    let process = io.lines().find_map(|l| l.strip_prefix("write_bytes: ")?.parse().ok()).unwrap_or(0);
    Written { log: log.bytes, filled: log.filled_bytes, process, cleaned: store.cleaned() }
}

/// Latencies of one kind of call.
#[derive(Default)]
struct Latencies(Vec<Duration>);

impl Latencies {
    fn time<T>(&mut self, run: impl FnOnce() -> T) -> T {
        let start = Instant::now();
        let out = run();
        self.0.push(start.elapsed());
        out
    }

    fn percentile(&mut self, share: f64) -> Duration {
        self.0.sort_unstable();
        let n = (self.0.len() as f64 * share) as usize;
        self.0.get(n.min(self.0.len().saturating_sub(1))).copied().unwrap_or_default()
    }
}

#[derive(Default)]
struct Report {
    missed: u32,
}

impl Report {
    fn below(&mut self, what: &str, figure: f64, aim: f64) {
        let missed = figure >= aim;
        self.missed += u32::from(missed);
        let verdict = if missed { "  MISSED" } else { "" };
        println!("  {what:44} {figure:8.3}  (aim: below {aim:.2}){verdict}");
    }

    fn told(what: &str, figure: &str) {
        println!("  {what:44} {figure}");
    }
}

/// A rewriting: its latencies and what it wrote.
struct Rewrite {
    writes: Latencies,
    saves: Latencies,
    user: u64,
    before: Written,
    after: Written,
    seconds: f64,
    /// Files of which history had to yield.
    robbed: usize,
}

/// Segments as a store on a disk of this size has them.
fn segment_bytes(disk: u64) -> u64 {
    let fits: u64 = 1 << (disk / 64).ilog2();
    fits.clamp(limits::SEGMENT_BYTES_SMALL, limits::SEGMENT_BYTES)
}

/// Rewrites the set, in the same order or in another one each time.
fn rewrite(disk: u64, set: u64, shuffled: bool) -> Rewrite {
    let disk = SmallDisk::new(disk);
    let store = disk.store(Policy::Last(2), segment_bytes(3 * set));
    let pool = pool();
    let each = (set / FILES as u64) as usize;
    let new = NewObject::file(0o644, Owner::default());
    let mut files: Vec<Ino> = (0..FILES)
        .map(|n| store.create_object(Ino::FIRST, format!("f{n}").as_bytes(), &new).expect("a file").1.ino)
        .collect();
    let mut chance = Chance(0x9e37_79b9_7f4a_7c15);
    let (mut writes, mut saves) = (Latencies::default(), Latencies::default());
    let before = written(&store);
    let began = Instant::now();
    for _ in 0..ROUNDS {
        if shuffled {
            for n in (1..files.len()).rev() {
                files.swap(n, chance.below(n as u64 + 1) as usize);
            }
        }
        for ino in &files {
            let from = chance.below((POOL_BYTES - each.min(POOL_BYTES)) as u64 + 1) as usize;
            let data = &pool[from..(from + each).min(POOL_BYTES)];
            saves.time(|| {
                store.truncate(*ino, 0).expect("no ENOSPC");
                for (n, part) in data.chunks(WRITE_BYTES).enumerate() {
                    let at = (n * WRITE_BYTES) as u64;
                    writes.time(|| store.write(*ino, at, part)).expect("no ENOSPC");
                }
                let (lsn, _) = store.commit_version(*ino).expect("no ENOSPC");
                store.sync(lsn).expect("durable");
            });
        }
    }
    let seconds = began.elapsed().as_secs_f64();
    let after = written(&store);
    let kept = |ino: &&Ino| store.view().versions(**ino, None, 100).expect("versions").len() < 2;
    let robbed = files.iter().filter(kept).count();
    store.close().expect("close");
    let user = (FILES * each * ROUNDS) as u64;
    Rewrite { writes, saves, user, before, after, seconds, robbed }
}

fn tell_written(user: u64, before: &Written, after: &Written, seconds: f64) {
    let (log, filled) = (after.log - before.log, after.filled - before.filled);
    let mib = |n: u64| n / MIB;
    let c = after.cleaned;
    Report::told(
        "by the user, MiB (a second)",
        &format!("{} ({:.0})", mib(user), user as f64 / seconds / 1e6),
    );
    Report::told("to the log", &mib(log).to_string());
    Report::told("filling new segments", &mib(filled).to_string());
    let all = after.process - before.process;
    Report::told(
        "all else of the process: index, superseded",
        &mib(all.saturating_sub(log + filled)).to_string(),
    );
    Report::told(
        "cleaner: segments, moved, bases",
        &format!("{}, {} MiB, {} MiB", c.segments, mib(c.moved_bytes), mib(c.base_bytes)),
    );
}

fn rewrites(set: u64, report: &mut Report) {
    println!(
        "{FILES} files of {} KiB, {ROUNDS} times, on a disk that is never short",
        set / FILES as u64 / 1024
    );
    let mut free = rewrite(set * 30, set, false);
    let (write, save) = (free.writes.percentile(0.99), free.saves.percentile(0.99));
    tell_written(free.user, &free.before, &free.after, free.seconds);
    Report::told("p99 of a write, of a file saved", &format!("{write:?}, {save:?}"));
    for shuffled in [false, true] {
        let order = if shuffled { "another order each time" } else { "the same order" };
        println!("the same on a disk 3 times the set, {order}");
        let mut r = rewrite(set * 3, set, shuffled);
        tell_written(r.user, &r.before, &r.after, r.seconds);
        let amplified = (r.after.log - r.before.log) as f64 / r.user as f64;
        report.below("write amplification", amplified, 2.0);
        report.below("files without their last two versions", r.robbed as f64, 1.0);
        for (what, own, without) in [("write", &mut r.writes, write), ("file saved", &mut r.saves, save)] {
            let p99 = own.percentile(0.99);
            let most = own.percentile(1.0);
            let ratio = p99.as_secs_f64() / without.as_secs_f64();
            Report::told(
                &format!("{what}: p50, p99, worst"),
                &format!("{:?}, {p99:?}, {most:?}", own.percentile(0.5)),
            );
            report.below(&format!("p99 of a {what}, to that without cleaning"), ratio, 2.0);
        }
    }
}

/// Overwrites blocks of a file at random, with so many percent of what segments can take alive.
fn overwrite(disk: u64, percent: u64, report: &mut Report) {
    let image = SmallDisk::new(disk);
    let store = image.store(Policy::Never, segment_bytes(disk));
    // Reserve and ballast aside.
    store.keep_space().expect("a round");
    let usable = store.space().expect("space").free_bytes;
    let bytes = usable * percent / 100 / MIB * MIB;
    println!(
        "4 KiB at random, {percent} % of {} MiB that segments can take alive, {} % of the disk",
        usable / MIB,
        bytes * 100 / store.space().expect("space").total_bytes
    );
    let pool = pool();
    let new = NewObject::file(0o644, Owner::default());
    let ino = store.create_object(Ino::FIRST, b"f", &new).expect("a file").1.ino;
    for at in (0..bytes).step_by(MIB as usize) {
        let from = (at as usize) % (POOL_BYTES - MIB as usize);
        store.write(ino, at, &pool[from..from + MIB as usize]).expect("no ENOSPC");
    }
    store.commit_version(ino).expect("a version");
    let mut chance = Chance(0x1234_5678_9abc_def1);
    let overwritten = |times: u64, chance: &mut Chance| {
        let count = bytes / 4096 * times / 2;
        for n in 0..count {
            let at = chance.below(bytes / 4096) * 4096;
            let from = chance.below((POOL_BYTES - 4096) as u64) as usize;
            if let Err(e) = store.write(ino, at, &pool[from..from + 4096]) {
                println!("  refused after {} MiB: {e}  MISSED", n * 4096 / MIB);
                return None;
            }
            if n.is_multiple_of(256) {
                store.commit_version(ino).expect("a version");
            }
        }
        Some(count * 4096)
    };
    // Until it cleans all the time.
    let warm = overwritten(3, &mut chance);
    let (before, began) = (written(&store), Instant::now());
    let Some(user) = warm.and_then(|_| overwritten(4, &mut chance)) else {
        report.missed += 1;
        return;
    };
    let after = written(&store);
    tell_written(user, &before, &after, began.elapsed().as_secs_f64());
    let u = percent as f64 / 100.0;
    let amplified = (after.log - before.log) as f64 / user as f64;
    report.below("write amplification", amplified, 1.0 / (1.0 - u) + 0.5);
    store.close().expect("close");
}

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let mib = args.iter().filter_map(|a| a.parse::<u64>().ok()).next().unwrap_or(256);
    let only = args.iter().skip_while(|a| *a != "--only").nth(1).map(String::as_str);
    let mut report = Report::default();
    fs::create_dir_all(Path::new("target")).expect("a directory");
    if only.is_none_or(|o| o == "rewrite") {
        rewrites(mib * MIB, &mut report);
    }
    if only.is_none_or(|o| o == "random") {
        for percent in [50, 70, 80] {
            overwrite(3 * mib * MIB, percent, &mut report);
        }
    }
    if report.missed > 0 && args.iter().any(|a| a == "--strict") {
        eprintln!("{} aims missed", report.missed);
        std::process::exit(1);
    }
}
