//! Where a log ends when it is opened, and what is damage and what is not.

use super::*;

#[test]
pub(super) fn a_segment_that_has_only_a_name_so_far_is_not_damaged() {
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
pub(super) fn what_was_waited_for_survives_a_power_cut() {
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
pub(super) fn the_log_goes_on_in_a_new_segment_after_each_opening() {
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
pub(super) fn segments_follow_each_other_and_are_believed_without_a_scan() {
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
pub(super) fn a_torn_batch_is_cut_whichever_sector_is_missing() {
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
pub(super) fn damage_below_the_durable_mark_is_rot() {
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
pub(super) fn a_last_batch_that_was_durable_at_a_close_is_missed() {
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
pub(super) fn damage_above_the_durable_mark_is_a_torn_tail() {
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
pub(super) fn what_a_killed_process_wrote_is_durable_before_more_is_acknowledged() {
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
pub(super) fn a_commit_in_a_later_segment_covers_the_earlier_ones() {
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
pub(super) fn a_successor_of_what_was_never_durable_is_not_reached() {
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
pub(super) fn every_flipped_byte_is_reported_or_does_not_matter() {
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
pub(super) fn a_footer_that_nobody_synced_is_durable_before_a_segment_follows_it() {
    let disk = MemDisk::new();
    let log = create(&disk);
    (0..200).for_each(|n| _ = put(&log, &format!("record {n}")));
    log.commit().unwrap();
    let end = log.segments()[0].used_bytes as usize;
    disk.fail_sync_in(1);
    assert!(log.close().is_err());
    let disk = disk.kill_then_power_cut_later();
    let footer = disk.bytes(&path(1))[end..].to_vec();
    let (log, _, seen) = open(&disk);
    assert_eq!(seen.len(), 200);
    log.wait_durable(put(&log, "more")).unwrap();
    let image = disk.after_power_cut();
    // Of what was not synced, a sector may be there and the next one not.
    image.edit(&path(1), |b| b[end..end + 512].copy_from_slice(&footer[..512]));
    let (_, recovery, seen) = open(&image);
    assert_eq!(seen.len(), 201);
    assert!(recovery.damages.is_empty(), "{:?}", recovery.damages);
}

#[test]
pub(super) fn a_footer_behind_a_cut_lists_nothing() {
    let mut footers = 0;
    // The syncs of ending the segment and beginning the next one: at one of them the machine ends.
    for n in 1..8 {
        let disk = MemDisk::new();
        let log = create(&disk);
        log.wait_durable(put(&log, "one")).unwrap();
        let end = log.segments()[0].used_bytes as usize;
        put(&log, "two");
        log.write_out().unwrap();
        disk.fail_sync_in(n);
        let p = Prepared::extent(bytes(100_000, 1), false);
        while log.append(&[Record::new(Kind::Extent, &p)]).is_ok() {}
        let image = disk.after_kill();
        let file = image.open(&path(1), false).unwrap();
        let header = segment::read_header(&*file, SegmentId::FIRST, None).unwrap().unwrap().0;
        let footer = segment::read_trailer(&*file, &header);
        // Of what was not synced, the batch behind the first is not there, nor what came behind this segment.
        image.edit(&path(1), |b| b[end..end + 4096].fill(0));
        for later in (2..9).map(path).filter(|p| image.names().contains(p)) {
            image.edit(&later, |b| b.fill(0));
        }
        if footer.is_none_or(|t| t.durable_lsn >= Lsn::new(2)) {
            continue;
        }
        footers += 1;
        let (log, recovery, seen) = open(&image);
        assert_eq!(texts(&seen), ["one"]);
        assert!(recovery.damages.is_empty(), "{:?}", recovery.damages);
        log.wait_durable(put(&log, "other two")).unwrap();
        let listing = log.listing(SegmentId::FIRST).unwrap();
        let lsns: Vec<_> = listing.entries.iter().map(|e| e.lsn.get()).collect();
        assert_eq!(lsns, [1], "the second number is another record's now");
    }
    assert!(footers > 0, "no footer was written");
}
