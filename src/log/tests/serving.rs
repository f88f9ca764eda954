//! What those are told who append, wait, read and follow.

use super::*;

#[test]
pub(super) fn reads_come_from_memory_and_from_the_file() {
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
pub(super) fn a_failed_sync_poisons() {
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
pub(super) fn a_damaged_piece_fails_only_the_reads_that_touch_it() {
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
pub(super) fn one_sync_serves_many_threads() {
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
pub(super) fn nothing_is_lost_that_is_appended_while_a_segment_ends() {
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
pub(super) fn everybody_who_waits_is_served_or_told() {
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
pub(super) fn a_subscription_yields_what_is_durable_in_order() {
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
pub(super) fn a_failed_write_poisons_and_what_was_appended_stays_readable() {
    let disk = MemDisk::new();
    let log = create(&disk);
    let p = Prepared::record(b"text".to_vec());
    let (_, loc) = log.append(&[Record::new(Kind::Base, &p)]).unwrap()[0];
    disk.fail_write_in(1);
    assert!(matches!(log.write_out(), Err(Error::Poisoned { .. })));
    assert_eq!(log.read_record(&loc).unwrap().payload, b"text");
}

#[test]
pub(super) fn who_goes_on_where_another_stopped_finds_all_and_reads_what_is_new() {
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
