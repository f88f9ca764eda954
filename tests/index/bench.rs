//! Measurements, not a test: `cargo test --release --test it index::bench -- --ignored --nocapture`.
//! `FILES`, `MEMTABLE_MIB` and `CACHE_MIB` in the environment change the amounts.
#![allow(clippy::disallowed_methods)] // real time is what is measured

use std::{
    fs,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    time::{Duration, Instant},
};

use segfs::index::{Change, Index, SortedIndex};

use super::{Dice, lsn};

fn amount(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |v| v.parse().unwrap())
}

/// A number with no order, for names and ids.
fn mixed(n: u64) -> u64 {
    let n = (n ^ (n >> 31)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    n ^ (n >> 29)
}

fn entry_key(ino: u64) -> Vec<u8> {
    let mut key = vec![1];
    key.extend_from_slice(&(ino / 1000).to_be_bytes());
    key.extend_from_slice(format!("file-{:016x}.dat", mixed(ino)).as_bytes());
    key
}

fn attributes_key(ino: u64) -> Vec<u8> {
    [&[2][..], &ino.to_be_bytes()].concat()
}

/// Four rows of about 100 bytes: entry, attributes, chunk, extent.
fn create(ino: u64, dice: &mut Dice) -> Vec<Change> {
    let mut value = |random: usize, zero: usize| {
        let mut bytes: Vec<u8> = (0..random).map(|_| dice.next() as u8).collect();
        bytes.resize(random + zero, 0);
        bytes
    };
    vec![
        Change::put(entry_key(ino), value(40, 20)),
        Change::put(attributes_key(ino), value(40, 60)),
        Change::put([&[3][..], &ino.to_be_bytes(), &[0; 4]].concat(), value(40, 40)),
        Change::put([&[4][..], &ino.to_be_bytes(), &[7; 8]].concat(), value(40, 40)),
    ]
}

/// Resident bytes now and at most, in MiB.
fn resident() -> String {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let mib = |what: &str| {
        let line = status.lines().find(|l| l.starts_with(what)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
    };
    format!("resident {} MiB, at most {} MiB", mib("VmRSS"), mib("VmHWM"))
}

fn cpu() -> Duration {
    let t = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(t.tv_sec as u64, t.tv_nsec as u32)
}

fn rate(what: &str, n: u64, run: impl FnOnce()) {
    let (start, cpu_start) = (Instant::now(), cpu());
    run();
    let (took, cpu) = (start.elapsed(), cpu() - cpu_start);
    let per = |d: Duration| d.as_secs_f64() / n as f64 * 1e6;
    println!(
        "{what}: {n} in {took:.2?}: {:.0}/s, {:.2} us and {:.2} us CPU each; {}",
        n as f64 / took.as_secs_f64(),
        per(took),
        per(cpu),
        resident()
    );
}

#[test]
#[ignore = "a measurement"]
fn measure() {
    let files = amount("FILES", 2_000_000);
    let memtable = amount("MEMTABLE_MIB", 16) << 20;
    let cache = amount("CACHE_MIB", 64) << 20;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("index");
    let mut index = SortedIndex::open(&path, cache).unwrap();
    println!("{files} files, memtable {} MiB, cache {} MiB; {}", memtable >> 20, cache >> 20, resident());

    let sizes = [files / 20, files - files / 20];
    let mut ino = 0;
    for files in sizes {
        rate("creates, flushed and merged", files, || creates(&index, &mut ino, files, memtable));
    }
    println!("{:?}", index.stats());
    reads(&index, files);
    drop(index);

    let start = Instant::now();
    index = SortedIndex::open(&path, cache).unwrap();
    println!("reopen: {:.2?}; {}", start.elapsed(), resident());
    reads(&index, files);

    rate("deletes, flushed and merged", files / 4, || {
        for n in 0..files / 4 {
            ino += 1;
            index
                .apply(lsn(ino), &[Change::remove(entry_key(n)), Change::remove(attributes_key(n))])
                .unwrap();
            if index.unflushed_bytes() > memtable {
                index.rotate(lsn(ino)).unwrap();
                index.flush().unwrap();
                while index.compact().unwrap() {}
            }
        }
    });
    println!("{:?}", index.stats());
    rate("listing what is left of the removed", 1, || {
        let end = [&[1][..], &(files / 4 / 1000).to_be_bytes()].concat();
        assert_eq!(index.scan(&[1], &end, usize::MAX).unwrap().len(), 0);
    });
    let start = Instant::now();
    while index.compact().unwrap() {}
    println!("merged in {:.2?}: {:?}; {}", start.elapsed(), index.stats(), resident());
}

fn creates(index: &SortedIndex, ino: &mut u64, files: u64, memtable: u64) {
    let done = AtomicBool::new(false);
    let first = *ino;
    std::thread::scope(|scope| {
        let flusher = scope.spawn(|| {
            while !done.load(Relaxed) || index.waiting_memtables() > 0 {
                index.flush().unwrap();
                if !index.compact().unwrap() {
                    std::thread::sleep(Duration::from_millis(1));
                }
            }
            while index.compact().unwrap() {}
        });
        // One reader of what is there, for the worst wait.
        let reader = scope.spawn(|| {
            let (mut dice, mut worst, mut slow, mut n) = (Dice::new(5), Duration::ZERO, 0, 0);
            while !done.load(Relaxed) {
                let start = Instant::now();
                index.get(&attributes_key(dice.below(first + 1))).unwrap();
                let took = start.elapsed();
                worst = worst.max(took);
                slow += u32::from(took > Duration::from_millis(10));
                n += 1;
                std::thread::sleep(Duration::from_micros(200));
            }
            println!("  gets beside it: {n}, over 10 ms: {slow}, longest {worst:.2?}");
        });
        let (mut dice, mut worst, mut waited) = (Dice::new(*ino + 1), Duration::ZERO, Duration::ZERO);
        for _ in 0..files {
            let changes = create(*ino, &mut dice);
            *ino += 1;
            let start = Instant::now();
            index.apply(lsn(*ino), &changes).unwrap();
            if index.unflushed_bytes() > memtable {
                let start = Instant::now();
                while index.waiting_memtables() >= 2 {
                    std::thread::sleep(Duration::from_micros(100));
                }
                waited += start.elapsed();
                index.rotate(lsn(*ino)).unwrap();
            }
            worst = worst.max(start.elapsed());
        }
        index.rotate(lsn(*ino)).unwrap();
        done.store(true, Relaxed);
        println!("  longest apply {worst:.2?}, waited for flushes {waited:.2?}");
        reader.join().unwrap();
        flusher.join().unwrap();
    });
}

fn reads(index: &SortedIndex, files: u64) {
    let mut dice = Dice::new(9);
    for _ in 0..2 {
        rate("hot gets (1000 files, entry and attributes)", 400_000, || {
            for _ in 0..200_000 {
                let ino = files / 2 + dice.below(1000);
                assert!(index.get(&entry_key(ino)).unwrap().is_some());
                assert!(index.get(&attributes_key(ino)).unwrap().is_some());
            }
        });
    }
    rate("random gets", 200_000, || {
        for _ in 0..100_000 {
            let ino = dice.below(files);
            assert!(index.get(&entry_key(ino)).unwrap().is_some());
            assert!(index.get(&attributes_key(ino)).unwrap().is_some());
        }
    });
    rate("gets of nothing", 200_000, || {
        for _ in 0..200_000 {
            let mut key = entry_key(dice.below(files));
            key.pop();
            assert!(index.get(&key).unwrap().is_none());
        }
    });
    let rows = index.stats().disk_rows.min(2_000_000) as usize;
    rate("rows scanned", rows as u64, || {
        let mut n = 0;
        index
            .walk(&[1], &[9], segfs::index::Order::Forward, &mut |_, _| {
                n += 1;
                n < rows
            })
            .unwrap();
        assert_eq!(n, rows);
    });
    rate("directories listed (1000 entries)", 1000, || {
        for _ in 0..1000 {
            let directory = dice.below(files / 1000);
            let key = |d: u64| [&[1][..], &d.to_be_bytes()].concat();
            assert_eq!(index.scan(&key(directory), &key(directory + 1), 2000).unwrap().len(), 1000);
        }
    });
    rate("last of a range", 50_000, || {
        for _ in 0..50_000 {
            let ino = dice.below(files);
            assert!(index.last(&attributes_key(ino), &attributes_key(ino + 1)).unwrap().is_some());
        }
    });
}
