//! What the log promises, tried on a disk that crashes.

mod files;
mod frames;
mod recovery;
mod serving;

use std::{path::PathBuf, sync::Arc, sync::atomic::AtomicU64, time::Duration};

use super::{
    Apart, Kind, Log, LogOptions, Next, Prepared, Record, Recovery, SegmentState,
    testing::{MemDisk, TestClock, TestRandom},
};
use crate::{
    base::{Damage, Error, Ino, Lsn, ObjectId, Result, SegmentId, StoreId, limits},
    disk::Disk as _,
    format::{Envelope, Seed, SegmentHeader, flags},
    segment,
};

const STORE: StoreId = StoreId::new(77);
static SEED: AtomicU64 = AtomicU64::new(1);

fn opts() -> LogOptions {
    LogOptions { segment_bytes: 256 << 10, background: false, ..LogOptions::default() }
}

fn random() -> Arc<TestRandom> {
    TestRandom::new(SEED.fetch_add(1, std::sync::atomic::Ordering::Relaxed))
}

fn create(disk: &Arc<MemDisk>) -> Log {
    Log::create(Arc::clone(disk) as _, STORE, opts(), Arc::new(TestClock::default()), random()).unwrap()
}

type Seen = Vec<(u64, Kind, Vec<u8>)>;

fn try_open(disk: &Arc<MemDisk>, from: u64) -> Result<(Log, Recovery, Seen)> {
    let mut seen = Vec::new();
    let (log, recovery) = Log::open(
        Arc::clone(disk) as _,
        STORE,
        opts(),
        Arc::new(TestClock::default()),
        random(),
        Lsn::new(from),
        &mut |r| {
            if r.wrong.is_none() || r.kind == Kind::Extent {
                seen.push((r.lsn.get(), r.kind, r.payload.to_vec()));
            }
            Ok(())
        },
    )?;
    Ok((log, recovery, seen))
}

fn open(disk: &Arc<MemDisk>) -> (Log, Recovery, Seen) {
    try_open(disk, 0).unwrap()
}

fn put(log: &Log, text: &str) -> Lsn {
    let p = Prepared::record(text.as_bytes().to_vec());
    let r = Record { object: ObjectId::new(5), ino: Ino::new(9), seq: 1, ..Record::new(Kind::Operation, &p) };
    log.append(&[r]).unwrap()[0].0
}

fn texts(seen: &Seen) -> Vec<String> {
    seen.iter().map(|(_, _, p)| String::from_utf8_lossy(p).into_owned()).collect()
}

fn bytes(n: usize, salt: u8) -> Vec<u8> {
    (0..n).map(|i| (i as u8).wrapping_mul(31) ^ (i >> 8) as u8 ^ salt).collect()
}

fn path(id: u64) -> PathBuf {
    segment::path(SegmentId::new(id))
}

/// A log of one segment with these batches, each synced; ends where they begin, and the last one's end.
fn batches(disk: &Arc<MemDisk>, texts: &[&str]) -> Vec<u64> {
    let log = create(disk);
    let mut ends = vec![limits::BLOCK_BYTES];
    for t in texts {
        log.wait_durable(put(&log, t)).unwrap();
        ends.push(log.segments()[0].used_bytes);
    }
    ends
}

#[cfg(feature = "planted-bugs")]
#[test]
fn planted_bugs_are_noticed() {
    use crate::base::planted::{Bug, plant};
    use {files::*, frames::*, recovery::*, serving::*};
    let cases: [(Bug, fn()); 22] = [
        (Bug::SkipDirectorySync, what_was_waited_for_survives_a_power_cut),
        (Bug::TrustLengthBeforeChecksum, an_envelope_counts_only_in_its_place_and_life),
        (Bug::AcknowledgeBeforeSync, what_was_waited_for_survives_a_power_cut),
        (Bug::RetryFailedSync, a_failed_sync_poisons),
        (Bug::AcceptStaleFrame, an_envelope_counts_only_in_its_place_and_life),
        (Bug::DropLastRecordOfBatch, what_was_waited_for_survives_a_power_cut),
        (Bug::IgnoreFramePlace, an_envelope_counts_only_in_its_place_and_life),
        (Bug::IgnoreBatchCount, frames_of_two_batches_at_one_place_are_no_batch),
        (Bug::AppendToCutSegment, a_torn_batch_is_cut_whichever_sector_is_missing),
        (Bug::IgnorePredecessorEnd, a_successor_of_what_was_never_durable_is_not_reached),
        (Bug::SkipPieceChecksum, a_damaged_piece_fails_only_the_reads_that_touch_it),
        (Bug::ReuseSalt, each_life_of_a_file_has_its_own_salt),
        (Bug::DurableMarkTooHigh, damage_above_the_durable_mark_is_a_torn_tail),
        (Bug::TreatRotAsTornTail, damage_below_the_durable_mark_is_rot),
        (Bug::LoseDurableMark, damage_below_the_durable_mark_is_rot),
        (Bug::SkipRecoverySync, what_a_killed_process_wrote_is_durable_before_more_is_acknowledged),
        (Bug::ClosedLsnIgnored, a_last_batch_that_was_durable_at_a_close_is_missed),
        (Bug::SkipSealSync, a_commit_in_a_later_segment_covers_the_earlier_ones),
        (Bug::RetireBeforePredecessor, a_segment_leaves_only_after_the_one_whose_end_it_names),
        (Bug::SoftFooterFollowed, a_footer_that_nobody_synced_is_durable_before_a_segment_follows_it),
        (Bug::SecondNamesStay, a_segment_with_a_name_among_the_spare_ones_is_not_used_as_one),
        (Bug::NothingLeftApart, new_segments_leave_to_others_what_is_theirs),
    ];
    for (bug, test) in cases {
        test();
        plant(Some(bug));
        let noticed = std::panic::catch_unwind(test).is_err();
        plant(None);
        assert!(noticed, "{bug:?}");
    }
}
