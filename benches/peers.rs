//! How long a change takes from one mount to another: `cargo bench --bench peers [-- [--strict]]`, as root.
//!
//! Two stores on this machine, paired over loopback with a two-way rule; beside it `rsync` copies the same from one directory to another.
//! Both hold at once what they have to hold, so compare the ratios, and the figures only if the machine had nothing else to do:
//!
//! - a file of 1 GiB that is there already, from the resuming of a paused rule until it can be read at the other mount; rsync from
//!   mount to disk, with nothing made durable.
//! - 10,000 files of 4 KiB, the same way.
//! - 4 KiB changed within the 1 GiB, from close() until the other mount shows it, and how many bytes that took on the wire.
//! - 300 small files, one after the other, each from close() until it can be read there.
//!
//! With `--strict` the run fails if an aim is missed.
#![allow(clippy::disallowed_methods)] // a benchmark asks the clock and the file system itself

use std::{
    fs,
    io::{self, Write as _},
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    process::{Command, ExitCode, Output},
    time::{Duration, Instant},
};

use serde_json::Value;

const SEGFS: &str = env!("CARGO_BIN_EXE_segfs");
const MIB: usize = 1 << 20;
const LARGE_MIB: usize = 1024;
const FILES: usize = 10_000;
const SMALL: usize = 4096;
const CLOSES: usize = 300;
/// Nothing is waited for longer.
const PATIENCE: Duration = Duration::from_secs(300);

struct Chance(u64);

impl Chance {
    fn fill(&mut self, out: &mut [u8]) {
        for part in out.chunks_mut(8) {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            part.copy_from_slice(&self.0.to_le_bytes()[..part.len()]);
        }
    }
}

/// A store and its mount, which go away with this.
struct Host {
    root: tempfile::TempDir,
}

impl Host {
    fn new(words: &[&str]) -> Self {
        let host = Self { root: tempfile::tempdir_in("target").expect("a directory") };
        let (store, dir) = (host.store(), host.path(""));
        let places = [store.to_str().expect("a name"), dir.to_str().expect("a name")];
        run(SEGFS, &[&["mount", "--background"], words, &places].concat());
        host
    }

    fn store(&self) -> PathBuf {
        self.root.path().join("store")
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join("mnt").join(name)
    }

    fn told(&self, words: &[&str]) -> Value {
        let store = self.store();
        let done = run(SEGFS, &[&["--json"], words, &["--store", store.to_str().expect("a name")]].concat());
        serde_json::from_slice(&done.stdout).unwrap_or(Value::Null)
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = Command::new(SEGFS).args(["umount", "--lazy"]).arg(self.path("")).output();
    }
}

fn run(program: &str, args: &[&str]) -> Output {
    let done = Command::new(program).args(args).output().expect(program);
    assert!(done.status.success(), "{program} {args:?}: {done:?}; this benchmark needs root and rsync");
    done
}

/// How long it takes until that is so.
fn until(what: &str, began: Instant, mut done: impl FnMut() -> io::Result<bool>) -> Duration {
    while !done().unwrap_or(false) {
        assert!(began.elapsed() < PATIENCE, "not within {} s: {what}", PATIENCE.as_secs());
        std::thread::sleep(Duration::from_micros(200));
    }
    began.elapsed()
}

fn rsync(from: &Path, to: &Path) -> Duration {
    let began = Instant::now();
    run("rsync", &["-a", "--whole-file", from.to_str().expect("a name"), to.to_str().expect("a name")]);
    began.elapsed()
}

/// Bytes that have left by loopback.
fn on_the_wire() -> u64 {
    let text = fs::read_to_string("/proc/net/dev").expect("counters");
    let line = text.lines().find_map(|l| l.trim().strip_prefix("lo:")).expect("loopback");
    line.split_whitespace().nth(8).and_then(|n| n.parse().ok()).expect("a number")
}

struct Bench {
    a: Host,
    b: Host,
    chance: Chance,
    missed: bool,
}

impl Bench {
    fn new() -> Self {
        let (a, b) = (Host::new(&["--listen", "127.0.0.1:0"]), Host::new(&[]));
        let invite = a.told(&["peer", "invite", "--grant", "/:two-way"]);
        let (at, code) =
            (invite["listens"].as_str().expect("it listens"), invite["code"].as_str().expect("a code"));
        b.told(&["peer", "join", at, code, "--grant", "/:two-way", "--as", "a"]);
        let peers = a.told(&["peer", "list"]);
        let to = format!("peer:{}", peers["peers"][0]["name"].as_str().expect("a name"));
        a.told(&["replicate", "add", "all", "--to", &to, "--two-way"]);
        Self { a, b, chance: Chance(7), missed: false }
    }

    fn told(&mut self, line: &str, is: f64, aim: f64) {
        let met = is <= aim;
        self.missed |= !met;
        println!("{line}; aim {aim}{}", if met { "" } else { ": MISSED" });
    }

    /// What is written while the rule is paused crosses once it is resumed.
    fn crosses(
        &mut self,
        what: &str,
        write: impl FnOnce(&mut Self),
        done: impl Fn(&Host) -> io::Result<bool>,
    ) -> Duration {
        self.a.told(&["replicate", "pause", "all"]);
        write(self);
        // Hashed and written out: rsync finds it so as well.
        std::thread::sleep(Duration::from_secs(5));
        let began = Instant::now();
        self.a.told(&["replicate", "resume", "all"]);
        until(what, began, || done(&self.b))
    }

    fn large(&mut self) {
        let took = self.crosses(
            "the large file",
            |bench| {
                let mut file = fs::File::create(bench.a.path("large")).expect("a file");
                let mut part = vec![0; MIB];
                for _ in 0..LARGE_MIB {
                    bench.chance.fill(&mut part);
                    file.write_all(&part).expect("room");
                }
            },
            |b| Ok(fs::metadata(b.path("large"))?.len() == (LARGE_MIB * MIB) as u64),
        );
        let there = rsync(&self.a.path("large"), &self.a.root.path().join("copy"));
        let ratio = took.as_secs_f64() / there.as_secs_f64();
        self.told(&format!("1 GiB: {took:.2?}, rsync {there:.2?}, ratio {ratio:.2}"), ratio, 1.0);
    }

    fn many(&mut self) {
        let took = self.crosses(
            "all small files",
            |bench| {
                fs::create_dir(bench.a.path("many")).expect("a directory");
                let mut bytes = vec![0; SMALL];
                for n in 0..FILES {
                    bench.chance.fill(&mut bytes);
                    fs::write(bench.a.path(&format!("many/{n}")), &bytes).expect("room");
                }
            },
            |b| {
                // Names may come before contents.
                let last = fs::metadata(b.path(&format!("many/{}", FILES - 1)))?.len() == SMALL as u64;
                Ok(last
                    && (0..FILES).step_by(97).all(|n| {
                        fs::metadata(b.path(&format!("many/{n}"))).is_ok_and(|m| m.len() == SMALL as u64)
                    }))
            },
        );
        let there = rsync(&self.a.path("many"), &self.a.root.path().join("copies"));
        let ratio = took.as_secs_f64() / there.as_secs_f64();
        self.told(
            &format!("10,000 files of 4 KiB: {took:.2?}, rsync {there:.2?}, ratio {ratio:.2}"),
            ratio,
            1.7,
        );
    }

    fn change(&mut self) {
        // The other side has hashed what it got.
        std::thread::sleep(Duration::from_secs(5));
        let (at, mut new) = ((LARGE_MIB / 2 * MIB) as u64, vec![0; SMALL]);
        self.chance.fill(&mut new);
        let shown = fs::File::open(self.b.path("large")).expect("the large file");
        let file = fs::OpenOptions::new().write(true).open(self.a.path("large")).expect("the large file");
        file.write_all_at(&new, at).expect("room");
        let wire = on_the_wire();
        drop(file);
        let mut found = vec![0; SMALL];
        let took = until("4 KiB changed", Instant::now(), || {
            shown.read_exact_at(&mut found, at)?;
            Ok(found == new)
        });
        let bytes = on_the_wire() - wire;
        let ms = took.as_secs_f64() * 1e3;
        self.told(&format!("4 KiB changed in 1 GiB: {ms:.1} ms"), ms, 100.0);
        self.told(&format!("the same on the wire: {bytes} bytes"), bytes as f64, 16_384.0);
    }

    fn closes(&mut self) {
        let mut all = Vec::with_capacity(CLOSES);
        let mut bytes = vec![0; SMALL];
        for n in 0..CLOSES {
            self.chance.fill(&mut bytes);
            fs::write(self.a.path(&format!("close{n}")), &bytes).expect("room");
            let there = self.b.path(&format!("close{n}"));
            all.push(until("a small file", Instant::now(), || Ok(fs::read(&there)? == bytes)));
        }
        all.sort();
        let ms = |at: usize| all[at].as_secs_f64() * 1e3;
        let (median, p90, most) = (ms(CLOSES / 2), ms(CLOSES * 9 / 10), ms(CLOSES - 1));
        self.told(
            &format!("close to readable: median {median:.1} ms, 90th {p90:.1} ms, most {most:.1} ms"),
            median,
            10.0,
        );
    }
}

fn main() -> ExitCode {
    let strict = std::env::args().any(|a| a == "--strict");
    let mut bench = Bench::new();
    bench.closes();
    bench.large();
    bench.change();
    bench.many();
    if strict && bench.missed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}
