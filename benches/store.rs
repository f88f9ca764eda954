//! The engine in process: creates, lookups, opening, rebuild. `cargo bench --bench store [-- [FILES] [--strict]]`.
//!
//! Each line has a figure, the aim it is held to, and their ratio; medians of five rounds. A rate counts the processor
//! time of the thread that asked, so that other work on the machine does not blur it; the rate by the clock stands
//! beside it. With `--strict` the run fails if an aim is missed.

#![allow(clippy::disallowed_methods)] // a benchmark asks the clock and the file system itself

use std::{path::Path, sync::Arc, time::Instant};

use rustix::time::{ClockId, clock_gettime};
use segfs::{
    base::Ino,
    format::facts::Owner,
    store::{NewObject, Options, Store},
};

/// As in the program.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const ROUNDS: usize = 5;

/// Wall-clock time, this thread's own processor time, and the whole process's.
#[derive(Clone, Copy)]
struct Start(Instant, f64, f64);

fn cpu(clock: ClockId) -> f64 {
    let t = clock_gettime(clock);
    t.tv_sec as f64 + t.tv_nsec as f64 / 1e9
}

fn start() -> Start {
    Start(Instant::now(), cpu(ClockId::ThreadCPUTime), cpu(ClockId::ProcessCPUTime))
}

impl Start {
    /// So many a second: by the clock, by this thread's processor time, by that of all threads.
    fn rates(self, n: u64) -> [f64; 3] {
        let spent = [
            self.0.elapsed().as_secs_f64(),
            cpu(ClockId::ThreadCPUTime) - self.1,
            cpu(ClockId::ProcessCPUTime) - self.2,
        ];
        spent.map(|s| n as f64 / s.max(1e-9))
    }
}

fn median<const N: usize>(rounds: &[[f64; N]]) -> [f64; N] {
    std::array::from_fn(|i| {
        let mut all: Vec<f64> = rounds.iter().map(|r| r[i]).collect();
        all.sort_by(f64::total_cmp);
        all[all.len() / 2]
    })
}

/// What was held to an aim, and what missed it.
#[derive(Default)]
struct Report {
    missed: u32,
}

impl Report {
    fn rate(&mut self, what: &str, rounds: &[[f64; 3]], aim: Option<f64>) {
        let [wall, own, all] = median(rounds);
        let verdict = aim.map_or(String::new(), |aim| self.verdict(own / aim, &format!("{aim:.0}")));
        println!(
            "{what}: {own:.0} a second of its core{verdict}; {wall:.0} by the clock, {all:.0} of all threads' time"
        );
    }

    fn below(&mut self, what: &str, unit: &str, figure: f64, aim: f64) {
        let verdict = self.verdict(aim / figure, &format!("below {aim:.0}"));
        println!("{what}: {figure:.0} {unit}{verdict}");
    }

    /// Memory since this was asked last.
    fn resident(&mut self, after: &str) {
        let [now, peak] = resident_mib();
        self.below(&format!("resident at most, {after} (now {now} MiB)"), "MiB", peak as f64, 256.0);
    }

    fn verdict(&mut self, ratio: f64, aim: &str) -> String {
        let missed = ratio < 1.0;
        self.missed += u32::from(missed);
        format!(" (aim {aim}: {ratio:.2}{})", if missed { ", MISSED" } else { "" })
    }
}

/// Resident memory and its peak since it was asked for last, in MiB.
fn resident_mib() -> [u64; 2] {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let figures = ["VmRSS:", "VmHWM:"].map(|field| {
        let line = status
            .lines()
            .find_map(|l| l.strip_prefix(field)?.trim().strip_suffix("kB")?.trim().parse().ok());
        line.unwrap_or(0_u64) / 1024
    });
    // So that the peak begins anew; where this is not allowed, it goes on.
    _ = std::fs::write("/proc/self/clear_refs", "5");
    figures
}

fn create(store: &Store, files: u64, report: &mut Report) -> Vec<Ino> {
    let mut dirs = Vec::new();
    for d in 0..files.div_ceil(1000) {
        let name = format!("d{d}");
        let new = NewObject::directory(0o755, Owner::default());
        dirs.push(store.create_object(Ino::FIRST, name.as_bytes(), &new).expect("mkdir").1.ino);
    }
    let part = files / ROUNDS as u64;
    let rounds: Vec<_> = (0..ROUNDS as u64)
        .map(|round| {
            let t = start();
            for n in round * part..(round + 1) * part {
                let name = format!("file-{n}");
                let dir = dirs[(n / 1000) as usize];
                store
                    .create_object(dir, name.as_bytes(), &NewObject::file(0o644, Owner::default()))
                    .expect("create");
            }
            t.rates(part)
        })
        .collect();
    report.rate(&format!("create without sync, {files} files"), &rounds, Some(100_000.0));
    dirs
}

fn look_up(store: &Store, dirs: &[Ino], files: u64, count: u64) -> Vec<[f64; 3]> {
    let mut seed = 1_u64;
    (0..ROUNDS)
        .map(|_| {
            let t = start();
            for _ in 0..count {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let n = (seed >> 20) % files;
                let name = format!("file-{n}");
                store.view().lookup(dirs[(n / 1000) as usize], name.as_bytes()).expect("lookup");
            }
            t.rates(count)
        })
        .collect()
}

fn ms(t: Instant) -> f64 {
    t.elapsed().as_secs_f64() * 1e3
}

fn opens(path: &Path, report: &mut Report) {
    let mut clean = Vec::new();
    let mut log_mib = 0;
    for _ in 0..ROUNDS {
        let t = Instant::now();
        let store = Store::open(path, Options::default()).expect("open");
        clean.push([ms(t)]);
        log_mib = store.segments().iter().map(|s| s.used_bytes).sum::<u64>() >> 20;
        store.close().expect("close");
    }
    report.below("open after a clean close", "ms", median(&clean)[0], 100.0);
    let mut killed = Vec::new();
    let mut overwrites = Vec::new();
    let mut since_flush = 0;
    for _ in 0..ROUNDS {
        let store = Store::open(path, Options::default()).expect("open");
        let name = b"overwritten";
        let file = match store.view().lookup(Ino::FIRST, name) {
            Ok(found) => found.ino,
            Err(_) => {
                let new = NewObject::file(0o644, Owner::default());
                store.create_object(Ino::FIRST, name, &new).expect("create").1.ino
            }
        };
        let before: u64 = store.segments().iter().map(|s| s.used_bytes).sum();
        let t = start();
        for n in 0..20_000_u64 {
            store.write(file, (n % 1000) * 4096, &[7; 4096]).expect("write");
        }
        overwrites.push(t.rates(20_000));
        store.sync_all().expect("sync");
        since_flush = store.segments().iter().map(|s| s.used_bytes).sum::<u64>() - before;
        drop(store); // as a kill would leave it
        let t = Instant::now();
        let store = Store::open(path, Options::default()).expect("open");
        killed.push([ms(t)]);
        store.close().expect("close");
    }
    report.rate("4 KiB overwrite without sync", &overwrites, None);
    let aim = 1000.0 * (1.0 + since_flush as f64 / f64::from(1 << 30));
    let what = format!("open after a kill, {} MiB since the flush, log of {log_mib} MiB", since_flush >> 20);
    report.below(&what, "ms", median(&killed)[0], aim);
}

fn rebuild(path: &Path, report: &mut Report) {
    // Five times takes long over millions; the last rounds of a big store would say the same.
    let rounds: Vec<_> = (0..if cfg!(debug_assertions) { 1 } else { 3 })
        .map(|_| {
            std::fs::remove_dir_all(path.join("index")).expect("remove");
            let t = start();
            let store = Store::open(path, Options::default()).expect("open");
            let rates = t.rates(store.recovered().log.replayed);
            store.close().expect("close");
            rates
        })
        .collect();
    report.rate("rebuild, records", &rounds, Some(200_000.0));
}

fn main() {
    let files = std::env::args().filter_map(|a| a.parse().ok()).next().unwrap_or(2_000_000);
    let dir = tempfile::tempdir_in(".").expect("directory");
    let path = dir.path().join("store");
    let mut report = Report::default();
    let store = Arc::new(Store::create(&path, Options::default()).expect("create"));
    store.start_maintenance().expect("thread");
    let dirs = create(&store, files, &mut report);
    report.resident("creates");
    report.rate("lookup, hot", &look_up(&store, &dirs, files.min(10_000), 200_000), Some(400_000.0));
    let random = look_up(&store, &dirs, files, 100_000);
    report.rate(&format!("lookup, random over {files}"), &random, Some(100_000.0));
    report.resident("lookups");
    store.close().expect("close");
    drop(store);
    opens(&path, &mut report);
    report.resident("openings");
    rebuild(&path, &mut report);
    report.resident("rebuild");
    if report.missed > 0 && std::env::args().any(|a| a == "--strict") {
        eprintln!("{} aims missed", report.missed);
        drop(dir);
        std::process::exit(1);
    }
}
