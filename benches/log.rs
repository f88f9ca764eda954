//! The log against bare system calls on the same disk: `cargo bench --bench log [-- [DIR] [--strict]]`.
//!
//! Bare loop and log take turns, five times; each line has the median ratio and the aim it is held to. Rates below 1
//! mean that the log is slower. With `--strict` the run fails if an aim is missed.
#![allow(clippy::disallowed_methods)] // measures with the machine's clock and files

use std::{
    fs::{File, OpenOptions},
    os::unix::fs::FileExt,
    path::Path,
    sync::Arc,
    time::Instant,
};

use rustix::time::{ClockId, clock_gettime};
use segfs::{
    base::{Lsn, StoreId, SystemClock, SystemRandom},
    disk::{Disk, Engine, RealDisk},
    format::{Kind, Prepared},
    log::{Log, LogOptions, Record},
};

const ROUNDS: usize = 5;
const SEGMENT_BYTES: u64 = 64 << 20;
const COMMITS: usize = 1000;
const BULK_MIB: u64 = 192;

/// A log as a running store has it, with spare files that were written once.
fn log_in(dir: &Path) -> Log {
    let disk = Arc::new(RealDisk::open(dir, Engine::Auto).unwrap());
    disk.create_dir(Path::new("spare")).unwrap();
    for n in 0..4 {
        written_once(&dir.join(format!("spare/{n}")), SEGMENT_BYTES);
    }
    let opts = LogOptions { background: true, ..LogOptions::default() };
    Log::create(disk, StoreId::new(1), opts, Arc::new(SystemClock), Arc::new(SystemRandom)).unwrap()
}

/// As [`log_in`], by one engine, for commits of some MiB.
fn log_by(dir: &Path, engine: Engine) -> Option<Log> {
    let disk = Arc::new(RealDisk::open(dir, engine).ok()?);
    disk.create_dir(Path::new("spare")).unwrap();
    for n in 0..5 {
        written_once(&dir.join(format!("spare/{n}")), SEGMENT_BYTES);
    }
    Log::create(disk, StoreId::new(1), LogOptions::default(), Arc::new(SystemClock), Arc::new(SystemRandom))
        .ok()
}

/// Commits of so many records of 64 KiB.
fn large_commits(log: &Log, data: &[u8], records: u64) {
    for _ in 0..(160 << 20) / (records << 16) {
        let mut last = Lsn::new(0);
        for _ in 0..records {
            let p = Prepared::extent(data.to_vec(), false);
            last = log.append(&[Record::new(Kind::Extent, &p)]).unwrap()[0].0;
        }
        log.wait_durable(last).unwrap();
    }
}

/// What the ring gains for large commits: median times of the plain engine over those of the other, by the clock and in
/// processor time. Nothing where the kernel has no ring for us.
fn ring(base: &str) {
    let data = noise(64 << 10);
    for records in [16, 48] {
        let (mut times, mut cpu) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            let [plain, ring] = [Engine::Plain, Engine::IoUring].map(|engine| {
                let dir = tempfile::tempdir_in(base).unwrap();
                let log = log_by(dir.path(), engine);
                log.map(|log| timed(|| large_commits(&log, &data, records)))
            });
            let (Some(plain), Some(ring)) = (plain, ring) else { return };
            times.push(plain[0] / ring[0]);
            cpu.push(plain[1] / ring[1]);
        }
        let (time, cpu) = (median(times), median(cpu));
        println!(
            "commits of {} MiB by io_uring, times plain: {time:.2}; processor time {cpu:.2}",
            records >> 4
        );
    }
}

fn written_once(path: &Path, len: u64) -> File {
    let f = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(path).unwrap();
    rustix::fs::fallocate(&f, rustix::fs::FallocateFlags::empty(), 0, len).unwrap();
    let zeros = vec![0; 1 << 20];
    for at in (0..len).step_by(1 << 20) {
        f.write_all_at(&zeros, at).unwrap();
    }
    f.sync_all().unwrap();
    f
}

fn noise(n: usize) -> Vec<u8> {
    let mut bytes = vec![0; n];
    segfs::base::Random::fill(&SystemRandom, &mut bytes);
    bytes
}

/// Time by the clock, and processor time of the process, in seconds.
fn timed(run: impl FnOnce()) -> [f64; 2] {
    let cpu = || {
        let t = clock_gettime(ClockId::ProcessCPUTime);
        t.tv_sec as f64 + t.tv_nsec as f64 / 1e9
    };
    let (begun, before) = (Instant::now(), cpu());
    run();
    [begun.elapsed().as_secs_f64(), cpu() - before]
}

/// The payload alone; the log writes an envelope and a batch end with it, two blocks in all.
fn bare_commits(f: &File) {
    let data = noise(4096);
    for n in 0..COMMITS {
        f.write_all_at(&data, (n * data.len()) as u64).unwrap();
        f.sync_data().unwrap();
    }
}

fn log_commits(log: &Log, threads: usize) {
    let data = noise(4096);
    std::thread::scope(|s| {
        for _ in 0..threads {
            s.spawn(|| {
                for _ in 0..COMMITS / threads {
                    let p = Prepared::extent(data.clone(), false);
                    let lsn = log.append(&[Record::new(Kind::Extent, &p)]).unwrap()[0].0;
                    log.wait_durable(lsn).unwrap();
                }
            });
        }
    });
}

/// Each extent is a buffer of its own, as it comes from a request, here and for the log.
fn bare_bulk(f: &File, buffers: &[Vec<u8>]) {
    let mut at = 0;
    for data in buffers {
        f.write_all_at(data, at).unwrap();
        at += data.len() as u64;
    }
    f.sync_data().unwrap();
}

fn log_bulk(log: &Log, mut buffers: Vec<Vec<u8>>) {
    let mut last = Lsn::new(0);
    while let Some(data) = buffers.pop() {
        let p = Prepared::extent(data, false);
        last = log.append(&[Record::new(Kind::Extent, &p)]).unwrap()[0].0;
    }
    log.wait_durable(last).unwrap();
}

fn median(mut all: Vec<f64>) -> f64 {
    all.sort_by(f64::total_cmp);
    all[all.len() / 2]
}

/// Prints a ratio beside its aim; says whether it missed.
fn judge(what: &str, ratios: Vec<f64>, aim: f64, more: &str) -> bool {
    let shown: Vec<String> = ratios.iter().map(|r| format!("{r:.2}")).collect();
    let ratio = median(ratios);
    let missed = ratio < aim;
    let verdict = if missed { ", MISSED" } else { "" };
    println!("{what}: {ratio:.2} (aim {aim}{verdict}; rounds {}){more}", shown.join(" "));
    missed
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let base = args.iter().find(|a| !a.starts_with('-')).map_or("target", String::as_str);
    let (mut one, mut four, mut bulk, mut cpu) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let (mut us, mut sizes) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let dir = tempfile::tempdir_in(base).unwrap();
        let bare = written_once(&dir.path().join("bare"), SEGMENT_BYTES);
        let log = log_in(dir.path());
        let raw = timed(|| bare_commits(&bare))[0];
        let single = timed(|| log_commits(&log, 1))[0];
        let before = log.status();
        let group = timed(|| log_commits(&log, 4))[0];
        let after = log.status();
        one.push(raw / single);
        four.push(single / group);
        us.push(raw / COMMITS as f64 * 1e6);
        sizes.push((after.records - before.records) as f64 / (after.batches - before.batches) as f64);
    }
    for _ in 0..ROUNDS {
        let dir = tempfile::tempdir_in(base).unwrap();
        let bare = written_once(&dir.path().join("bare"), BULK_MIB << 20);
        let log = log_in(dir.path());
        let buffers = vec![noise(1 << 20); BULK_MIB as usize];
        let raw = timed(|| bare_bulk(&bare, &buffers));
        let ours = timed(|| log_bulk(&log, buffers));
        bulk.push(raw[0] / ours[0]);
        cpu.push(ours[1] / raw[1]);
    }
    let more = format!("; bare {:.0} us", median(us));
    let mut missed = judge("4 KiB append + sync, one thread, of bare", one, 0.9, &more);
    let more = format!("; {:.2} records a batch", median(sizes));
    missed |= judge("4 threads, times the rate of one", four, 3.0, &more);
    let more = format!("; processor time {:.2} of bare", median(cpu));
    missed |= judge("bulk append of 1 MiB extents, of bare", bulk, 0.9, &more);
    ring(base);
    if missed && args.iter().any(|a| a == "--strict") {
        std::process::exit(1);
    }
}
