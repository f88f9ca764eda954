//! Many worlds: the store under load, faults and crashes, against its model.
//!
//! `SEGFS_SIM_SEED` replays one world; `SEGFS_SIM_STATES` says how many crash states are enough.

use std::{
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Instant,
};

use segfs::{
    base::{Error, Ino},
    disk::Disk,
    format::facts::Owner,
    store::NewObject,
};

use super::{
    agree::Solo,
    crashes::Seen,
    disk::Struck,
    world::{Outcome, Plan, run},
};

const STATES: u64 = 60_000;
const FIRST_SEED: u64 = 1;

fn env(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text} is not a number")))
}

pub fn plan(seed: u64) -> Plan {
    Plan { seed, images: seed % 5, lives: 1 + seed % 7, faults: true }
}

/// Runs a world; a failure, a panic too, names the seed and how to see it again.
pub fn live(seed: u64) -> Result<Outcome, String> {
    let lived = std::panic::catch_unwind(|| run(plan(seed)));
    let lived = lived.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        Err(text.unwrap_or_else(|| panic.downcast_ref::<&str>().map_or("a panic".into(), |t| (*t).into())))
    });
    lived.map_err(|e| {
        format!("seed {seed}: {e}\nSEGFS_SIM_SEED={seed} cargo test --test it -- sim::store --nocapture")
    })
}

#[test]
#[allow(clippy::disallowed_methods)] // the rate is measured
fn worlds() {
    if let Some(seed) = env("SEGFS_SIM_SEED") {
        println!("{:?}", live(seed).unwrap_or_else(|e| panic!("{e}")));
        return;
    }
    let enough = env("SEGFS_SIM_STATES").unwrap_or(STATES);
    let (next, states, operations) = (AtomicU64::new(FIRST_SEED), AtomicU64::new(0), AtomicU64::new(0));
    let struck = Mutex::new((Struck::default(), Seen::default()));
    let cleaned = AtomicU64::new(0);
    let failures = Mutex::new(Vec::new());
    let started = Instant::now();
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get()).min(8);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while states.load(Relaxed) < enough && failures.lock().unwrap().len() < 3 {
                    match live(next.fetch_add(1, Relaxed)) {
                        Ok(o) => {
                            states.fetch_add(o.seen.states, Relaxed);
                            let mut all = struck.lock().unwrap();
                            all.0 += o.struck;
                            all.1.cut_openings += o.seen.cut_openings;
                            operations.fetch_add(o.operations, Relaxed);
                            cleaned.fetch_add(o.cleaned, Relaxed);
                        }
                        Err(e) => failures.lock().unwrap().push(e),
                    }
                }
            });
        }
    });
    let seconds = started.elapsed().as_secs_f64();
    let (states, worlds) = (states.into_inner(), next.into_inner() - FIRST_SEED);
    println!(
        "{states} crash states in {worlds} worlds with {} operations, {} segments cleaned: {:.0} states/s on {threads} threads",
        operations.into_inner(),
        cleaned.into_inner(),
        states as f64 / seconds
    );
    let (struck, seen) = struck.into_inner().unwrap();
    println!("{struck:?}, {} openings cut short", seen.cut_openings);
    let failures = failures.into_inner().unwrap();
    assert!(failures.is_empty(), "{}", failures.join("\n\n"));
    // Fewer are chance.
    if states > 30_000 {
        enough_struck(states, &struck, &seen);
    }
}

/// In 100,000 crash states each fault strikes at least so often, so that none can fall silent unnoticed.
fn enough_struck(states: u64, struck: &Struck, seen: &Seen) {
    for (name, times, at_least) in [
        ("failed syncs", struck.failed_syncs, 30),
        ("failed writes", struck.failed_writes, 30),
        ("misplaced writes", struck.misplaced_writes, 20),
        ("lost writes", struck.lost_writes, 20),
        ("full disk", struck.full, 100),
        ("power cuts", struck.powerless, 20),
        ("flipped bits", struck.flipped_bits, 3000),
        ("crashes while opening", seen.cut_openings, 600),
    ] {
        assert!(times * 100_000 >= at_least * states, "{name}: only {times} in {states} crash states");
    }
}

#[test]
fn a_fault_that_falls_silent_is_noticed() {
    let struck = Struck {
        failed_syncs: 30,
        failed_writes: 30,
        misplaced_writes: 20,
        lost_writes: 20,
        full: 100,
        powerless: 20,
        flipped_bits: 3000,
    };
    let seen = Seen { states: 100_000, cut_openings: 600 };
    enough_struck(100_000, &struck, &seen);
    let silent: [fn(&mut Struck); 7] = [
        |s| s.failed_syncs -= 1,
        |s| s.failed_writes -= 1,
        |s| s.misplaced_writes -= 1,
        |s| s.lost_writes -= 1,
        |s| s.full -= 1,
        |s| s.powerless -= 1,
        |s| s.flipped_bits -= 1,
    ];
    for (n, falls_silent) in silent.iter().enumerate() {
        let mut less = struck;
        falls_silent(&mut less);
        let noticed = std::panic::catch_unwind(|| enough_struck(100_000, &less, &seen));
        assert!(noticed.is_err(), "the fault with the number {n}");
    }
    let less = Seen { cut_openings: 599, ..seen };
    assert!(std::panic::catch_unwind(|| enough_struck(100_000, &struck, &less)).is_err());
}

#[test]
fn the_same_seed_gives_the_same_bytes() {
    for seed in [11, 12, 13] {
        assert_eq!(run(plan(seed)), run(plan(seed)), "seed {seed}");
    }
}

#[test]
fn what_came_last_does_not_rot_unseen_in_a_store_that_was_opened_and_closed() {
    let s = Solo::new(1);
    for name in [b"a", b"b"] {
        s.store.create_object(Ino::FIRST, name, &NewObject::file(0o644, Owner::default())).unwrap();
        s.store.sync_all().unwrap();
    }
    let last = s.store.last_lsn();
    let s = s.crash(7);
    s.store.close().unwrap();
    assert_eq!(s.store.last_lsn(), last, "it had nothing to write");
    let disk = s.disk.written_image();
    assert!(s.try_on(&disk).is_ok_and(|s| s.view().lookup(Ino::FIRST, b"b").is_ok()));
    let name = disk.list("segments".as_ref()).unwrap().pop().unwrap();
    let path = format!("segments/{name}");
    let file = disk.open(path.as_ref(), false).unwrap();
    let mut bytes = vec![0; file.len().unwrap() as usize];
    file.read_exact_at(&mut bytes, 0).unwrap();
    let at = bytes.iter().rposition(|b| *b != 0).unwrap();
    disk.flip_bit(path.as_ref(), at as u64, 3);
    assert!(matches!(s.try_on(&disk), Err(Error::Damaged(_))));
}
