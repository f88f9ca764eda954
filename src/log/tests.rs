//! What the log promises, tried on a disk that crashes.

use std::{path::PathBuf, sync::Arc, sync::atomic::AtomicU64, time::Duration};

use super::{
    Kind, Log, LogOptions, Next, Prepared, Record, Recovery, SegmentState,
    testing::{MemDisk, TestClock, TestRandom},
};
use crate::{
    base::{Error, Ino, Lsn, ObjectId, Result, SegmentId, StoreId, limits},
    segment,
};

const STORE: StoreId = StoreId::new(77);
static SEED: AtomicU64 = AtomicU64::new(1);

fn opts() -> LogOptions {
    LogOptions { segment_bytes: 256 << 10, background: false }
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
            seen.push((r.lsn.get(), r.kind, r.payload.to_vec()));
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

#[test]
fn what_was_waited_for_survives_a_power_cut() {
    let disk = MemDisk::new();
    let log = create(&disk);
    put(&log, "one");
    let two = put(&log, "two");
    log.wait_durable(two).unwrap();
    put(&log, "three");
    let (log, recovery, seen) = open(&disk.after_power_cut());
    assert_eq!(texts(&seen), ["one", "two"]);
    assert_eq!(recovery.last_lsn, two);
    assert!(recovery.damages.is_empty());
    assert_eq!(log.durable_lsn(), two);
}

#[test]
fn the_log_goes_on_in_a_new_segment_after_each_opening() {
    let mut disk = MemDisk::new();
    create(&disk);
    for n in 0..5 {
        let (log, recovery, seen) = open(&disk);
        assert_eq!(seen.len(), n);
        assert!(recovery.damages.is_empty(), "{:?}", recovery.damages);
        let lsn = put(&log, &format!("record {n}"));
        assert_eq!(lsn.get(), n as u64 + 1);
        log.wait_durable(lsn).unwrap();
        if n % 2 == 0 {
            log.close().unwrap();
        }
        disk = disk.after_power_cut();
    }
    let (log, _, seen) = open(&disk);
    assert_eq!(seen.len(), 5);
    assert_eq!(log.segments().len(), 5);
}

#[test]
fn reads_come_from_memory_and_from_the_file() {
    let disk = MemDisk::new();
    let log = create(&disk);
    let data = bytes(100_000, 1);
    let text = b"compress me, ".repeat(5000);
    let raw = Prepared::extent(data.clone(), false);
    let small = Prepared::extent(data[..5000].to_vec(), false);
    let packed = Prepared::extent(text.clone(), true);
    let all = [(&raw, &data[..]), (&small, &data[..5000]), (&packed, &text[..])];
    let records: Vec<_> = all.iter().map(|(p, _)| Record::new(Kind::Extent, p)).collect();
    let placed = log.append(&records).unwrap();
    let check = |log: &Log| {
        for ((_, want), (_, loc)) in all.iter().zip(&placed) {
            for (from, to) in
                [(0, want.len()), (1, 2), (4000, 5000), (0, 0), (16_384, 32_768), (20_000, 60_001)]
            {
                if to <= want.len() {
                    let mut out = vec![0; to - from];
                    log.read(loc, from as u64..to as u64, &mut out).unwrap();
                    assert!(out == want[from..to], "{from}..{to} of {}", want.len());
                }
            }
            let mut out = vec![0; 2];
            assert!(log.read(loc, want.len() as u64 - 1..want.len() as u64 + 1, &mut out).is_err());
            assert_eq!(log.read_record(loc).unwrap().payload, *want);
        }
    };
    check(&log);
    log.write_out().unwrap();
    check(&log);
    log.close().unwrap();
    check(&log);
    let (log, ..) = open(&disk.after_power_cut());
    check(&log);
}

#[test]
fn segments_follow_each_other_and_are_believed_without_a_scan() {
    let disk = MemDisk::new();
    let log = create(&disk);
    let mut last = Lsn::new(0);
    for n in 0..60 {
        let p = Prepared::extent(bytes(40_000, n), false);
        last = log.append(&[Record::new(Kind::Extent, &p)]).unwrap()[0].0;
    }
    log.close().unwrap();
    let infos = log.segments();
    assert!(infos.len() > 8);
    assert!(infos.iter().all(|i| i.state == SegmentState::Sealed && !i.pinned));
    for i in &infos {
        let report = log.verify_segment(i.id).unwrap();
        assert!(report.damages.is_empty() && report.sealed, "{:?}", report.damages);
    }
    let disk = disk.after_power_cut();
    let (log, recovery, seen) = try_open(&disk, 0).unwrap();
    assert_eq!((recovery.last_lsn, seen.len(), recovery.scanned), (last, 60, 0));
    assert_eq!(
        log.records_from(Lsn::new(7)).map(|r| r.unwrap().lsn.get()).collect::<Vec<_>>(),
        (7..=60).collect::<Vec<_>>()
    );
    let (_, _, seen) = try_open(&disk, 58).unwrap();
    assert_eq!(seen.iter().map(|s| s.0).collect::<Vec<_>>(), [59, 60]);
}

#[test]
fn a_failed_sync_poisons() {
    let disk = MemDisk::new();
    let log = create(&disk);
    let one = put(&log, "one");
    log.wait_durable(one).unwrap();
    let two = put(&log, "two");
    disk.fail_sync_in(1);
    assert!(matches!(log.wait_durable(two), Err(Error::Poisoned { .. })));
    assert!(matches!(log.wait_durable(two), Err(Error::Poisoned { .. })));
    let p = Prepared::record(vec![1]);
    assert!(matches!(log.append(&[Record::new(Kind::Operation, &p)]), Err(Error::Poisoned { .. })));
    assert!(matches!(log.close(), Err(Error::Poisoned { .. })));
    log.wait_durable(one).unwrap();
    assert!(log.status().poisoned.unwrap().contains("planned"));
}

#[test]
fn a_full_disk_is_told_and_passes() {
    let disk = MemDisk::new();
    let log = create(&disk);
    disk.set_room(2 * opts().segment_bytes);
    let p = Prepared::extent(bytes(100_000, 1), false);
    let mut n = 0;
    let refused = loop {
        match log.append(&[Record::new(Kind::Extent, &p)]) {
            Ok(_) => n += 1,
            Err(e) => break e,
        }
    };
    assert!(matches!(refused, Error::NoSpace { .. }), "{refused}");
    assert_eq!(n, 4);
    put(&log, "a small one still fits");
    log.commit().unwrap();
    disk.set_room(u64::MAX);
    let last = log.append(&[Record::new(Kind::Extent, &p)]).unwrap()[0].0;
    log.wait_durable(last).unwrap();
    let (_, recovery, seen) = open(&disk.after_power_cut());
    assert_eq!((seen.len(), recovery.last_lsn.get()), (6, 6));
}
