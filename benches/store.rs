//! The engine in process: creates, lookups, writes, opening. `cargo bench --bench store [-- FILES]`.
//!
//! Prints a line a figure. Absolute rates are of the machine at hand; what is compared with a baseline is a
//! ratio in the same run.

#![allow(clippy::disallowed_methods)] // a benchmark asks the clock and the file system itself

use std::{path::Path, time::Instant};

use segfs::{
    base::Ino,
    format::facts::Owner,
    store::{NewObject, Options, Store},
};

/// Wall-clock and this thread's own processor time; on a busy machine the second says what the code costs.
#[derive(Clone, Copy)]
struct Start(Instant, f64);

fn thread_cpu() -> f64 {
    let t = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    t.tv_sec as f64 + t.tv_nsec as f64 / 1e9
}

fn start() -> Start {
    Start(Instant::now(), thread_cpu())
}

fn rate(what: &str, n: u64, from: Start) {
    let (s, cpu, n) = (from.0.elapsed().as_secs_f64(), thread_cpu() - from.1, n as f64);
    println!("{what}: {:.0} a second, {:.0} a second of its core ({n} in {s:.2} s)", n / s, n / cpu);
}

fn resident_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let kib =
        status.lines().find_map(|l| l.strip_prefix("VmRSS:")?.trim().strip_suffix("kB")?.trim().parse().ok());
    kib.unwrap_or(0_u64) / 1024
}

fn create(store: &Store, files: u64) -> Vec<Ino> {
    let t = start();
    let mut dirs = Vec::new();
    for d in 0..files.div_ceil(1000) {
        let name = format!("d{d}");
        let new = NewObject::directory(0o755, Owner::default());
        dirs.push(store.create_object(Ino::FIRST, name.as_bytes(), &new).expect("mkdir").1.ino);
    }
    for n in 0..files {
        let name = format!("file-{n}");
        let dir = dirs[(n / 1000) as usize];
        store.create_object(dir, name.as_bytes(), &NewObject::file(0o644, Owner::default())).expect("create");
    }
    rate("create, no sync", files, t);
    dirs
}

fn look_up(store: &Store, dirs: &[Ino], files: u64, count: u64, what: &str) {
    let mut seed = 1_u64;
    let t = start();
    for _ in 0..count {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let n = (seed >> 20) % files;
        let name = format!("file-{n}");
        store.view().lookup(dirs[(n / 1000) as usize], name.as_bytes()).expect("lookup");
    }
    rate(what, count, t);
}

fn run(path: &Path, files: u64) {
    let options = Options::default();
    let store = std::sync::Arc::new(Store::create(path, options.clone()).expect("create"));
    store.start_maintenance().expect("thread");
    let dirs = create(&store, files);
    look_up(&store, &dirs, files.min(10_000), 400_000, "lookup, hot");
    look_up(&store, &dirs, files, 200_000, "lookup, random over all");
    println!("resident: {} MiB", resident_mib());
    let t = Instant::now();
    store.close().expect("close");
    drop(store);
    println!("close: {:.3} s", t.elapsed().as_secs_f64());
    let t = Instant::now();
    let store = Store::open(path, options.clone()).expect("open");
    println!(
        "open after close: {:.3} s, replayed {}",
        t.elapsed().as_secs_f64(),
        store.recovered().log.replayed
    );
    let small =
        store.create_object(dirs[0], b"small", &NewObject::file(0o644, Owner::default())).expect("create").1;
    let t = start();
    for n in 0..20_000_u64 {
        store.write(small.ino, (n % 1000) * 4096, &[7; 4096]).expect("write");
    }
    rate("4 KiB overwrite, no sync", 20_000, t);
    store.sync_all().expect("sync");
    drop(store);
    std::fs::remove_dir_all(path.join("index")).expect("remove");
    let t = start();
    let store = Store::open(path, options).expect("open");
    rate("rebuild, records", store.recovered().log.replayed, t);
}

fn main() {
    let files = std::env::args().filter_map(|a| a.parse().ok()).next().unwrap_or(100_000);
    let dir = tempfile::tempdir_in(".").expect("directory");
    run(&dir.path().join("store"), files);
}
