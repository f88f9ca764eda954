//! The tests are tested: each planted bug is noticed by the worlds.

use std::sync::{
    Mutex,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

use segfs::base::planted::{Bug, plant};

use super::{agree, link, store::live};

/// Worlds that a bug may go unnoticed in.
const SEEDS: u64 = 4000;
/// Bugs that no world has come across, or that the worlds, in which a store has one thread, can't come across; the tests of the log
/// (`src/log/tests`), of `store::again` and `store::exchange` catch them: which, and what it takes.
const ELSEWHERE: &[(Bug, &str)] = &[
    (Bug::TrustLengthBeforeChecksum, "an envelope whose length alone is wrong"),
    (Bug::AcceptStaleFrame, "a frame of an earlier life just where a new one would be"),
    (Bug::ReuseSalt, "the same"),
    (Bug::IgnoreFramePlace, "a whole frame moved to where another is expected"),
    (Bug::IgnoreBatchCount, "two batches of the same shape at one place"),
    (Bug::IgnorePredecessorEnd, "a successor of what was never durable"),
    (
        Bug::ClosedLsnIgnored,
        "rot in the last batch of a store that was opened and closed with nothing to write",
    ),
    (Bug::TreatRotAsTornTail, "rot that no later check of the store notices"),
    (Bug::RetireBeforePredecessor, "a segment without a footer that stays when the one behind it goes"),
    (Bug::SoftFooterFollowed, "a process that dies while it closes a log, and a power cut much later"),
    (Bug::SecondNamesStay, "a segment that has a name in spare/ too, and a use of that"),
    (Bug::NothingLeftApart, "a disk on which just what is kept apart is free"),
    (Bug::NoSecondLook, "an extent that goes between the row and the read"),
    (Bug::ToldBeforeApplied, "two threads"),
];

/// Bugs of the protocol between peers; the worlds with links between them catch those.
const PEERS: &[Bug] = &[Bug::PeerAcknowledgesEarly, Bug::PeerTrustsCursor, Bug::PeerForgetsFailed];

/// Bugs of what stores do with each other's facts; the worlds of stores that agree catch those.
const AGREEMENT: &[Bug] = &[Bug::LateMovesLost];

/// The first seed that notices a bug, and how.
fn caught(bug: Bug) -> Option<(u64, String)> {
    plant(Some(bug));
    let fails = |seed| match bug {
        _ if PEERS.contains(&bug) => link::live(seed).err(),
        _ if AGREEMENT.contains(&bug) => agree::live(seed).err(),
        _ => live(seed).err(),
    };
    let found = (1..=SEEDS).find_map(|seed| fails(seed).map(|e| (seed, e)));
    plant(None);
    found
}

#[test]
fn every_planted_bug_is_caught() {
    let next = AtomicUsize::new(0);
    let missed = Mutex::new(Vec::new());
    std::panic::set_hook(Box::new(|_| {}));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while let Some(bug) = Bug::ALL.get(next.fetch_add(1, Relaxed)) {
                    if ELSEWHERE.iter().any(|(b, _)| b == bug) {
                        continue;
                    }
                    match caught(*bug) {
                        Some((_, how)) => {
                            let how = how.lines().next().unwrap_or_default();
                            println!("{bug:?}: {}", how.chars().take(160).collect::<String>());
                        }
                        None => missed.lock().unwrap().push(*bug),
                    }
                }
            });
        }
    });
    let _ = std::panic::take_hook();
    let missed = missed.into_inner().unwrap();
    assert!(missed.is_empty(), "not noticed in {SEEDS} worlds: {missed:?}");
}
