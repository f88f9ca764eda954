//! What the log promises, tried on a disk that crashes.

use std::{path::PathBuf, sync::Arc, sync::atomic::AtomicU64, time::Duration};

use super::{
    Kind, Log, LogOptions, Next, Prepared, Record, Recovery, SegmentState,
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

#[test]
fn a_segment_that_has_only_a_name_so_far_is_not_damaged() {
    let disk = MemDisk::new();
    let log = create(&disk);
    put(&log, "not written yet");
    let active = log.segments().pop().unwrap();
    assert_eq!(active.state, SegmentState::Active);
    let report = log.verify_segment(active.id).unwrap();
    assert!(report.damages.is_empty() && report.records == 0, "{:?}", report.damages);
    log.commit().unwrap();
    assert_eq!(log.verify_segment(active.id).unwrap().records, 1);
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
    let reserve = limits::RESERVE_SEGMENTS as u64;
    disk.set_room((2 + reserve) * opts().segment_bytes);
    let p = Prepared::extent(bytes(100_000, 1), false);
    let big = [Record::new(Kind::Extent, &p)];
    let until_full = |append: &dyn Fn() -> Result<()>| {
        let mut n = 0;
        loop {
            match append() {
                Ok(()) => n += 1,
                Err(Error::NoSpace { .. }) => return n,
                Err(e) => panic!("{e}"),
            }
        }
    };
    assert_eq!(until_full(&|| log.append(&big).map(drop)), 4);
    put(&log, "a small one still fits");
    // The reserve is there for others: all of it for who frees space, all but one for the cleaner.
    assert_eq!(until_full(&|| log.append_cleaning(&big).map(drop)), 2 * (reserve - 1));
    assert!(log.status().short);
    let small = Prepared::record(vec![1]);
    let small = [Record { object: ObjectId::new(5), seq: 1, ..Record::new(Kind::Operation, &small) }];
    assert!(matches!(log.append(&small), Err(Error::NoSpace { .. })), "what room there is, is not for all");
    assert_eq!(until_full(&|| log.append_freeing(&big).map(drop)), 2);
    log.commit().unwrap();
    assert!(matches!(log.mend_reserve(), Err(Error::NoSpace { .. })));
    disk.set_room(u64::MAX);
    let last = log.append(&big).unwrap()[0].0;
    assert!(!log.status().short);
    log.wait_durable(last).unwrap();
    let (_, recovery, seen) = open(&disk.after_power_cut());
    assert_eq!((seen.len(), recovery.last_lsn.get()), (12, 12));
}

#[test]
fn a_reserve_that_was_used_is_whole_again_before_others_get_a_segment() {
    let disk = MemDisk::new();
    let log = create(&disk);
    let reserve = limits::RESERVE_SEGMENTS as u64;
    disk.set_room((1 + reserve) * opts().segment_bytes);
    let p = Prepared::extent(bytes(100_000, 1), false);
    let big = [Record::new(Kind::Extent, &p)];
    while log.append(&big).is_ok() {}
    while !log.status().short {
        log.append_cleaning(&big).unwrap();
    }
    // Room for one more: the cleaner has it, and the reserve goes on lacking what was taken from it.
    disk.set_room(opts().segment_bytes);
    while log.status().short {
        log.append_cleaning(&big).unwrap();
    }
    assert_eq!(log.status().spares, reserve - 1);
    assert!(matches!(log.mend_reserve(), Err(Error::NoSpace { .. })), "it is not whole, short or not");
    disk.set_room(opts().segment_bytes);
    log.mend_reserve().unwrap();
    assert_eq!(log.status().spares, reserve);
    log.close().unwrap();
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

#[test]
fn a_torn_batch_is_cut_whichever_sector_is_missing() {
    let long: String = bytes(10_000, 0)
        .iter()
        .enumerate()
        .map(|(i, b)| char::from(b'0' + ((usize::from(*b) * 7919 + i * i / 13) % 70) as u8))
        .collect();
    let disk = MemDisk::new();
    let ends = batches(&disk, &["one", "two", &long]);
    assert!(ends[3] >= ends[2] + 8192);
    let used = disk.bytes(&path(1)).iter().rposition(|b| *b != 0).unwrap() as u64;
    for sector in (ends[2]..=used).step_by(512) {
        let torn = disk.after_power_cut();
        torn.edit(&path(1), |b| b[sector as usize..sector as usize + 512].fill(0));
        let (log, recovery, seen) = open(&torn);
        assert_eq!(texts(&seen), ["one", "two"], "sector at {sector}");
        assert!(recovery.damages.is_empty(), "{:?}", recovery.damages);
        // The number is given again, in a segment of its own.
        let lsn = put(&log, "three");
        assert_eq!(lsn.get(), 3);
        log.wait_durable(lsn).unwrap();
        let header = segment::read_header(&*torn.open(&path(2), false).unwrap(), SegmentId::new(2), None);
        let header = header.unwrap().unwrap().0;
        assert_eq!((header.predecessor, header.predecessor_end), (Some(SegmentId::FIRST), ends[2]));
        let (log, recovery, seen) = open(&torn.after_power_cut());
        assert_eq!(texts(&seen), ["one", "two", "three"]);
        assert!(recovery.damages.is_empty() && recovery.last_lsn == lsn);
        assert_eq!(log.segments()[0].used_bytes, ends[2]);
    }
}

#[test]
fn damage_below_the_durable_mark_is_rot() {
    let disk = MemDisk::new();
    let ends = batches(&disk, &["one", "two", "three", "four"]);
    disk.edit(&path(1), |b| b[ends[1] as usize + 145] ^= 1);
    let (_, recovery, seen) = open(&disk);
    assert_eq!(texts(&seen), ["one", "three", "four"]);
    let places: Vec<_> = recovery.damages.iter().map(|d| d.place.offset / 4096 * 4096).collect();
    assert_eq!(places, [ends[1]], "{:?}", recovery.damages);
    // A batch without its first frame: its place is reported, what follows is there.
    disk.edit(&path(1), |b| b[ends[1] as usize] ^= 1);
    let (_, recovery, seen) = open(&disk);
    assert_eq!(texts(&seen), ["one", "three", "four"]);
    assert!(!recovery.damages.is_empty());
}

#[test]
fn a_last_batch_that_was_durable_at_a_close_is_missed() {
    let disk = MemDisk::new();
    let ends = batches(&disk, &["one", "two"]);
    let open = |disk: &Arc<MemDisk>, read_only| {
        let opts = LogOptions { durable: Lsn::new(2), read_only, ..opts() };
        let (clock, random) = (Arc::new(TestClock::default()), random());
        let opened =
            Log::open(Arc::clone(disk) as _, STORE, opts, clock, random, Lsn::new(0), &mut |_| Ok(()));
        opened.map(|(_, recovery)| recovery)
    };
    assert!(open(&disk.after_kill(), false).unwrap().damages.is_empty());
    let begin = ends[1] as usize;
    // Nothing tells such a batch from one that was torn, but for what the log was opened with.
    for at in [begin, begin + 145] {
        let disk = disk.after_kill();
        disk.edit(&path(1), |b| b[at] ^= 1);
        let before = disk.bytes(&path(1));
        match open(&disk, false) {
            Err(e @ Error::Damaged(_)) => assert!(e.to_string().contains("segtool"), "{e}"),
            // The batch is there, and what is wrong with it is known.
            other => assert!(!other.unwrap().damages.is_empty() && at > begin),
        }
        assert_eq!(disk.bytes(&path(1)), before, "nothing is written");
        assert!(!open(&disk, true).unwrap().damages.is_empty());
    }
}

#[test]
fn damage_above_the_durable_mark_is_a_torn_tail() {
    let disk = MemDisk::new();
    let log = create(&disk);
    log.wait_durable(put(&log, "one")).unwrap();
    put(&log, "two");
    log.write_out().unwrap();
    put(&log, "three");
    log.write_out().unwrap();
    let disk = disk.after_kill();
    disk.edit(&path(1), |b| b[8192 + 145] ^= 1);
    let (_, recovery, seen) = open(&disk);
    assert_eq!(texts(&seen), ["one"]);
    assert!(recovery.damages.is_empty(), "{:?}", recovery.damages);
    assert_eq!(recovery.torn_bytes, 8192);
}

#[test]
fn what_a_killed_process_wrote_is_durable_before_more_is_acknowledged() {
    let disk = MemDisk::new();
    let log = create(&disk);
    log.wait_durable(put(&log, "one")).unwrap();
    put(&log, "two");
    log.write_out().unwrap();
    let disk = disk.kill_then_power_cut_later();
    let (log, _, seen) = open(&disk);
    assert_eq!(texts(&seen), ["one", "two"]);
    log.wait_durable(put(&log, "three")).unwrap();
    let (_, recovery, seen) = open(&disk.after_power_cut());
    assert_eq!(texts(&seen), ["one", "two", "three"]);
    assert!(recovery.damages.is_empty());
}

#[test]
fn a_commit_in_a_later_segment_covers_the_earlier_ones() {
    let disk = MemDisk::new();
    let log = create(&disk);
    let p = Prepared::extent(bytes(100_000, 1), false);
    let mut last = Lsn::new(0);
    for _ in 0..9 {
        last = log.append(&[Record::new(Kind::Extent, &p)]).unwrap()[0].0;
    }
    log.wait_durable(last).unwrap();
    let (_, recovery, seen) = open(&disk.after_power_cut());
    assert_eq!((seen.len(), recovery.last_lsn), (9, last));
    assert!(recovery.damages.is_empty());
}

#[test]
fn a_successor_of_what_was_never_durable_is_not_reached() {
    let disk = MemDisk::new();
    let ends = batches(&disk, &["one", "two"]);
    let (log, ..) = open(&disk);
    log.wait_durable(put(&log, "three")).unwrap();
    drop(log);
    let honest = open(&disk).2;
    assert_eq!(honest.len(), 3);
    // As if another batch had stood behind the second one, and nothing of it had been durable.
    disk.edit(&path(2), |b| {
        let (h, _) = SegmentHeader::decode(&b[..4096]).unwrap();
        let h = SegmentHeader {
            predecessor_end: ends[2] + 4096,
            first_lsn: Lsn::new(4),
            durable_lsn: Lsn::new(1),
            ..h
        };
        b[..4096].copy_from_slice(&h.encode());
        let mut batch = segment::BatchBuilder::new(h.segment, h.seed(), 4096, h.first_lsn);
        let p = Prepared::record(b"four".to_vec());
        let parts = segment::FrameParts {
            kind: Kind::Base,
            flags: 0,
            lsn: Lsn::new(4),
            ino: Ino::new(0),
            head: None,
            payload: &p,
        };
        batch.push(&parts, true);
        let bytes = batch.close(Lsn::new(1), 0).pieces().concat();
        b[4096..4096 + bytes.len()].copy_from_slice(&bytes);
    });
    let (log, recovery, seen) = open(&disk);
    assert_eq!(texts(&seen), ["one", "two"]);
    assert_eq!(recovery.unreached, [SegmentId::new(2)]);
    assert!(disk.names().contains(&path(2)), "opening writes nothing");
    log.wait_durable(put(&log, "other three")).unwrap();
    assert!(!disk.names().contains(&path(2)));
    let (_, recovery, seen) = open(&disk.after_power_cut());
    assert_eq!(texts(&seen), ["one", "two", "other three"]);
    assert!(recovery.unreached.is_empty() && recovery.damages.is_empty());
}

#[test]
fn every_flipped_byte_is_reported_or_does_not_matter() {
    let disk = MemDisk::new();
    let log = create(&disk);
    log.wait_durable(put(&log, "one")).unwrap();
    log.wait_durable(put(&log, "two")).unwrap();
    log.close().unwrap();
    let (log, ..) = open(&disk);
    log.wait_durable(put(&log, "three")).unwrap();
    log.wait_durable(put(&log, "four")).unwrap();
    let disk = disk.after_power_cut();
    let all = ["one", "two", "three", "four"];
    assert_eq!(texts(&open(&disk).2), all);
    let mut silent = 0;
    for id in [1, 2] {
        for i in 0..disk.bytes(&path(id)).len().min(24_000) {
            let bad = disk.after_power_cut();
            bad.edit(&path(id), |b| b[i] ^= 0x20);
            let (_, recovery, seen) = open(&bad);
            let got = texts(&seen);
            let told = !recovery.damages.is_empty();
            // The last batch has nothing behind it that says it was durable.
            let last_batch = id == 2 && (8192..12_288).contains(&i);
            assert!(got == all || told || (last_batch && got == all[..3]), "{id} {i}: {got:?}");
            assert!(got.iter().all(|t| all.contains(&t.as_str())));
            silent += usize::from(got == all && !told);
        }
    }
    assert!(silent > 0);
}

#[test]
fn a_damaged_piece_fails_only_the_reads_that_touch_it() {
    let disk = MemDisk::new();
    let log = create(&disk);
    let p = Prepared::extent(bytes(100_000, 1), false);
    let (lsn, loc) = log.append(&[Record::new(Kind::Extent, &p)]).unwrap()[0];
    log.wait_durable(lsn).unwrap();
    disk.edit(&path(1), |b| b[4096 + 300 + 50_000] ^= 1);
    let mut out = vec![0; 4096];
    let (whole_piece, mut big) = (49_152..65_536, vec![0; 16_384]);
    assert!(matches!(log.read(&loc, 50_000..54_096, &mut out), Err(Error::Damaged(Damage { .. }))));
    assert!(log.read(&loc, whole_piece, &mut big).is_err());
    log.read(&loc, 0..4096, &mut out).unwrap();
    log.read(&loc, 70_000..74_096, &mut out).unwrap();
    assert!(log.read_record(&loc).is_err());
    let report = log.verify_segment(SegmentId::FIRST).unwrap();
    assert_eq!(report.damages.len(), 1);
    // Replay still says that the extent is there.
    let (_, recovery, seen) = open(&disk);
    assert!(seen.len() + usize::from(recovery.torn_bytes > 0) >= 1);
}

#[test]
fn each_life_of_a_file_has_its_own_salt() {
    let disk = MemDisk::new();
    batches(&disk, &["one"]);
    let (log, ..) = open(&disk);
    log.wait_durable(put(&log, "two")).unwrap();
    let salt = |id| SegmentHeader::decode(&disk.bytes(&path(id))[..4096]).unwrap().0.salt;
    assert_ne!(salt(1), salt(2));
}

#[test]
fn one_sync_serves_many_threads() {
    let disk = MemDisk::new();
    let log = create(&disk);
    disk.slow_syncs();
    std::thread::scope(|s| {
        for n in 0..8 {
            let log = &log;
            s.spawn(move || {
                for i in 0..50 {
                    log.wait_durable(put(log, &format!("{n} {i}"))).unwrap();
                }
            });
        }
    });
    assert!(log.status().batches <= 200, "{:?}", log.status());
    assert!(disk.syncs() <= 220);
    let (_, recovery, seen) = open(&disk.after_power_cut());
    assert_eq!((seen.len(), recovery.last_lsn.get()), (400, 400));
    let order: Vec<u64> = seen.iter().map(|s| s.0).collect();
    assert_eq!(order, (1..=400).collect::<Vec<_>>());
}

/// Who sleeps, who looks before it sleeps, and who leads: all hear of a commit, and all hear when there will be none.
#[test]
fn nothing_is_lost_that_is_appended_while_a_segment_ends() {
    let disk = MemDisk::new();
    let log = create(&disk);
    disk.slow_syncs();
    let over = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|s| {
        for n in 0..2 {
            let (log, over) = (&log, &over);
            s.spawn(move || {
                let mut i = 0;
                while !over.load(std::sync::atomic::Ordering::Relaxed) {
                    put(log, &format!("{n} {i}"));
                    i += 1;
                    std::thread::yield_now();
                }
            });
        }
        // Segments end while the others append.
        while log.segments().len() < 12 {
            log.make_room(log.max_append_bytes() - 4096, 1).unwrap();
            std::thread::yield_now();
        }
        over.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    let last = log.last_lsn().get();
    log.close().unwrap();
    let (_, recovery, seen) = open(&disk.after_power_cut());
    assert!(recovery.segments > 3, "{recovery:?}");
    assert_eq!(seen.iter().map(|s| s.0).collect::<Vec<_>>(), (1..=last).collect::<Vec<_>>());
}

#[test]
fn everybody_who_waits_is_served_or_told() {
    for (background, slow, fail_in) in
        [(true, false, 0), (true, false, 40), (false, false, 40), (true, true, 20), (false, true, 20)]
    {
        let disk = MemDisk::new();
        let clock = Arc::new(crate::base::SystemClock);
        let opts = LogOptions { background, ..opts() };
        let log = Log::create(Arc::clone(&disk) as _, STORE, opts, clock, random()).unwrap();
        if slow {
            disk.slow_syncs();
        }
        disk.fail_sync_in(fail_in);
        let served = AtomicU64::new(0);
        std::thread::scope(|s| {
            for n in 0..8 {
                let (log, served) = (&log, &served);
                s.spawn(move || {
                    for i in 0..100 {
                        let p = Prepared::record(format!("{n} {i}").into_bytes());
                        let Ok(at) = log.append(&[Record::new(Kind::Operation, &p)]) else { return };
                        match log.wait_durable(at[0].0) {
                            Ok(()) => served.fetch_max(at[0].0.get(), std::sync::atomic::Ordering::Relaxed),
                            Err(e) => {
                                assert!(matches!(e, Error::Poisoned { .. }), "{e}");
                                return;
                            }
                        };
                    }
                });
            }
        });
        let t = log.inner.tail.lock();
        assert_eq!((t.waiters, t.sleepers.len()), (0, 0), "nobody is counted who is gone");
        assert_eq!(t.poison.is_some(), fail_in > 0);
        drop(t);
        let (_, recovery, _) = open(&disk.after_power_cut());
        assert!(recovery.last_lsn.get() >= served.into_inner(), "what was served is there");
    }
}

#[test]
fn a_subscription_yields_what_is_durable_in_order() {
    let disk = MemDisk::new();
    let log = create(&disk);
    let mut s = log.subscribe(Lsn::new(1));
    put(&log, "one");
    log.write_out().unwrap();
    assert!(s.next(Duration::ZERO).unwrap().is_none(), "not durable yet");
    let text = |n: Option<Next>| match n {
        Some(Next::Record(r)) => String::from_utf8(r.payload).unwrap(),
        other => panic!("{other:?}"),
    };
    std::thread::scope(|scope| {
        let log = &log;
        scope.spawn(move || {
            for i in 2..=3000 {
                put(log, &format!("{i} {}", "y".repeat(300)));
                if i % 100 == 0 {
                    log.commit().unwrap();
                }
            }
            log.commit().unwrap();
        });
        assert_eq!(text(s.next(Duration::from_secs(20)).unwrap()), "one");
        for i in 2..=3000 {
            assert!(text(s.next(Duration::from_secs(20)).unwrap()).starts_with(&format!("{i} ")));
        }
    });
    assert!(s.next(Duration::ZERO).unwrap().is_none());
    assert!(log.segments().len() > 3);
    assert_eq!(log.records_from(Lsn::new(2990)).count(), 11);
}

#[test]
fn moved_records_keep_number_and_origin_and_their_segment_is_recycled() {
    let disk = MemDisk::new();
    let log = create(&disk);
    let data = bytes(60_000, 3);
    let p = Prepared::extent(data.clone(), false);
    let (lsn, old) = log.append(&[Record::new(Kind::Extent, &p)]).unwrap()[0];
    for _ in 0..8 {
        log.append(&[Record::new(Kind::Extent, &p)]).unwrap();
    }
    let head = log.read_record(&old).unwrap().head.unwrap();
    assert_eq!((head.origin.seq, head.origin.incarnation), (lsn.get(), log.incarnation()));
    let moved = Record {
        flags: flags::MOVED,
        lsn: Some(lsn),
        origin: Some(head.origin),
        ..Record::new(Kind::Extent, &p)
    };
    let before = log.last_lsn();
    let (again, new) = log.append(std::slice::from_ref(&moved)).unwrap()[0];
    assert_eq!((again, log.last_lsn()), (lsn, before));
    // It counts with a numbered record behind it.
    put(&log, "moved");
    log.commit().unwrap();
    assert!(log.retire(&[new.segment]).is_err(), "still written");
    let pin = log.inner.files.get(old.segment).unwrap();
    log.retire(&[old.segment]).unwrap();
    assert!(disk.names().contains(&segment::path(old.segment)), "pinned");
    drop(pin);
    log.inner.files.recycle_retired().unwrap();
    assert!(!disk.names().contains(&segment::path(old.segment)));
    assert_eq!(log.status().spares, 1 + limits::RESERVE_SEGMENTS as u64);
    let mut out = vec![0; 10];
    assert!(log.read(&old, 0..10, &mut out).is_err());
    log.read(&new, 0..10, &mut out).unwrap();
    assert_eq!(out, data[..10]);
    let first = log.subscribe(Lsn::new(1)).try_next().unwrap();
    assert!(matches!(first, Some(Next::Gone { first, .. }) if first == lsn), "{first:?}");
    let disk = disk.after_power_cut();
    let (log, recovery, seen) = open(&disk);
    assert!(recovery.damages.is_empty(), "{:?}", recovery.damages);
    assert!(seen.iter().any(|s| s.0 == lsn.get()));
    // The recycled file serves again, and nothing of its old life shows.
    log.wait_durable(put(&log, "new life")).unwrap();
    assert_eq!(log.status().spares, limits::RESERVE_SEGMENTS as u64);
    let (_, recovery, again) = open(&disk.after_power_cut());
    assert_eq!(again.len(), seen.len() + 1);
    assert!(recovery.damages.is_empty());
}

#[test]
fn a_failed_write_poisons_and_what_was_appended_stays_readable() {
    let disk = MemDisk::new();
    let log = create(&disk);
    let p = Prepared::record(b"text".to_vec());
    let (_, loc) = log.append(&[Record::new(Kind::Base, &p)]).unwrap()[0];
    disk.fail_write_in(1);
    assert!(matches!(log.write_out(), Err(Error::Poisoned { .. })));
    assert_eq!(log.read_record(&loc).unwrap().payload, b"text");
}

#[test]
fn the_background_thread_changes_nothing_but_time() {
    let disk = MemDisk::new();
    let log = Log::create(
        Arc::clone(&disk) as _,
        STORE,
        LogOptions { segment_bytes: 8 << 20, ..LogOptions::default() },
        Arc::new(TestClock::default()),
        random(),
    )
    .unwrap();
    let p = Prepared::extent(bytes(1 << 20, 3), false);
    let mut placed = Vec::new();
    for _ in 0..60 {
        placed.push(log.append(&[Record::new(Kind::Extent, &p)]).unwrap()[0]);
    }
    let mut out = vec![0; 100];
    for (_, loc) in &placed {
        log.read(loc, 500_000..500_100, &mut out).unwrap();
        assert_eq!(out, p.stored()[500_000..500_100]);
    }
    log.close().unwrap();
    assert!(log.status().spares <= limits::RESERVE_SEGMENTS as u64);
    let (_, recovery, seen) = open(&disk.after_power_cut());
    assert_eq!((seen.len(), recovery.damages.len()), (60, 0));
}

#[test]
fn a_segment_leaves_only_after_the_one_whose_end_it_names() {
    let disk = MemDisk::new();
    log_with_three_lives(&disk);
    let (log, _, _) = open(&disk);
    log.wait_durable(put(&log, "fourth life")).unwrap();
    let ids: Vec<_> = log.segments().iter().map(|s| s.id).collect();
    assert!(!log.has_footer(ids[0]).unwrap(), "a crash left it");
    // The second one alone stays as a file, as long as the first is there.
    log.retire(&ids[1..2]).unwrap();
    assert!(disk.names().contains(&segment::path(ids[1])));
    let (_, recovery, _) = open(&disk.after_power_cut());
    assert!(recovery.damages.is_empty(), "{:?}", recovery.damages);
    log.retire(&ids[..1]).unwrap();
    assert!(ids[..2].iter().all(|id| !disk.names().contains(&segment::path(*id))));
    let last = *ids.last().unwrap();
    assert!(log.retire(&[last]).is_err(), "the end of the log stays");
    let (_, recovery, _) = open(&disk.after_power_cut());
    assert!(recovery.damages.is_empty(), "{:?}", recovery.damages);
    assert_eq!(recovery.last_lsn, log.last_lsn());
}

/// Three openings that each end with a power cut.
fn log_with_three_lives(disk: &Arc<MemDisk>) {
    for life in 0..3 {
        let log = if life == 0 { create(disk) } else { open(disk).0 };
        for n in 0..20 {
            put(&log, &format!("life {life}, record {n}"));
        }
        log.commit().unwrap();
    }
}

/// A frame with this text, alone in a batch at 4096 of segment 3.
fn lone_batch(text: &str, more: &[&str]) -> Vec<u8> {
    let mut b = segment::BatchBuilder::new(SegmentId::new(3), Seed::of(9), 4096, Lsn::new(1));
    for (n, t) in std::iter::once(&text).chain(more).enumerate() {
        let p = Prepared::record(t.as_bytes().to_vec());
        let lsn = Lsn::new(n as u64 + 1);
        let parts = segment::FrameParts {
            kind: Kind::Base,
            flags: 0,
            lsn,
            ino: Ino::new(0),
            head: None,
            payload: &p,
        };
        b.push(&parts, true);
    }
    b.close(Lsn::new(0), 0).pieces().concat()
}

#[test]
fn an_envelope_counts_only_in_its_place_and_life() {
    let batch = lone_batch("text", &[]);
    let decode = |bytes: &[u8], salt, id, at, limit| {
        Envelope::decode(&bytes[..64], Seed::of(salt), SegmentId::new(id), at, limit)
    };
    assert!(decode(&batch, 9, 3, 4096, 8192).is_ok());
    assert!(decode(&batch, 8, 3, 4096, 8192).is_err(), "an earlier life");
    assert!(decode(&batch, 9, 4, 4096, 8192).is_err(), "another segment");
    assert!(decode(&batch, 9, 3, 8192, 1 << 20).is_err(), "another place");
    assert!(decode(&batch, 9, 3, 4096, 4100).is_err(), "beyond the end");
    for i in 0..64 {
        let mut bad = batch.clone();
        bad[i] ^= 2;
        assert!(decode(&bad, 9, 3, 4096, 8192).is_err(), "flip at {i}");
    }
}

#[test]
fn frames_of_two_batches_at_one_place_are_no_batch() {
    let (a, b) = (lone_batch("aaaa", &["bbbb"]), lone_batch("cccc", &["bbbb"]));
    let scan = |bytes: &[u8]| {
        let disk = MemDisk::new();
        let file = crate::disk::Disk::create(&*disk, &path(3)).unwrap();
        file.write_at(&[bytes], 4096).unwrap();
        let header = SegmentHeader {
            store: STORE,
            segment: SegmentId::new(3),
            salt: 9,
            first_lsn: Lsn::new(1),
            predecessor: None,
            predecessor_end: 0,
            capacity: 65536,
            created_ns: 0,
            incarnation: crate::base::Incarnation::new(1),
            durable_lsn: Lsn::new(0),
        };
        match segment::Scan::new(file, &header, 4096, 65536).next_found() {
            Some(segment::Found::Batch(b)) => b.is_whole(),
            other => panic!("{other:?}"),
        }
    };
    assert!(scan(&a) && scan(&b));
    let mixed = [&a[..72], &b[72..]].concat();
    assert!(!scan(&mixed));
}

#[cfg(feature = "planted-bugs")]
#[test]
fn planted_bugs_are_noticed() {
    use crate::base::planted::{Bug, plant};
    let cases: [(Bug, fn()); 18] = [
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
    ];
    for (bug, test) in cases {
        test();
        plant(Some(bug));
        let noticed = std::panic::catch_unwind(test).is_err();
        plant(None);
        assert!(noticed, "{bug:?}");
    }
}

#[test]
fn who_goes_on_where_another_stopped_finds_all_and_reads_what_is_new() {
    let disk = MemDisk::new();
    let log = create(&disk);
    let heads = |from: u64, most: usize| {
        let mut heads = log.heads_from(Lsn::new(from));
        let mut found = Vec::new();
        while found.len() < most
            && let Some(frame) = heads.try_next().unwrap()
        {
            found.push(frame.envelope.lsn.get());
        }
        found
    };
    let mut cost = 0;
    for n in 0..400 {
        for _ in 0..3 {
            put(&log, &"x".repeat(1000));
        }
        log.commit().unwrap();
        let before = disk.read_bytes();
        assert_eq!(heads(3 * n + 1, 9), [3 * n + 1, 3 * n + 2, 3 * n + 3]);
        cost += disk.read_bytes() - before;
    }
    assert!(log.segments().len() > 3);
    assert!(cost < 400 * (40 << 10), "{cost} bytes read, to follow a log of {} KiB", 1200);
    // Whatever is remembered, and wherever in a batch a reader stopped, the next one finds what follows.
    for (from, most) in
        [(1, 2), (500, 1), (2, 1), (1199, 9), (1, 2000), (499, 3), (1200, 1), (3, 1198), (700, 0)]
    {
        let whole: Vec<u64> = (from..=1200).take(most).collect();
        assert_eq!(heads(from, most), whole, "{most} from {from}");
    }
}
