//! The files of segments: made, given back, used again, kept in reserve.

use super::*;

#[test]
pub(super) fn a_full_disk_is_told_and_passes() {
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
pub(super) fn a_reserve_that_was_used_is_whole_again_before_others_get_a_segment() {
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

#[test]
pub(super) fn each_life_of_a_file_has_its_own_salt() {
    let disk = MemDisk::new();
    batches(&disk, &["one"]);
    let (log, ..) = open(&disk);
    log.wait_durable(put(&log, "two")).unwrap();
    let salt = |id| SegmentHeader::decode(&disk.bytes(&path(id))[..4096]).unwrap().0.salt;
    assert_ne!(salt(1), salt(2));
}

#[test]
pub(super) fn moved_records_keep_number_and_origin_and_their_segment_is_recycled() {
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
pub(super) fn the_background_thread_changes_nothing_but_time() {
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
pub(super) fn a_segment_leaves_only_after_the_one_whose_end_it_names() {
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

#[test]
pub(super) fn a_segment_that_was_given_back_and_comes_back_is_no_damage() {
    let disk = MemDisk::new();
    log_with_three_lives(&disk);
    let (log, ..) = open(&disk);
    let first = log.segments()[0].clone();
    drop(log);
    // What a power cut left behind its end, known for that by the successor alone.
    let end = first.used_bytes as usize;
    disk.edit(&path(1), |b| b[end..end + 4096].fill(7));
    let (log, recovery, _) = open(&disk);
    assert!(recovery.damages.is_empty(), "{:?}", recovery.damages);
    log.wait_durable(put(&log, "fourth life")).unwrap();
    let ids: Vec<_> = log.segments().iter().map(|s| s.id).collect();
    log.retire(&ids[..2]).unwrap();
    log.wait_durable(put(&log, "more")).unwrap();
    let image = disk.after_power_cut();
    let spare = segment_given_back(&image, 1);
    image.link(&spare, &path(1));
    let (log, recovery, seen) = open(&image);
    assert!(recovery.damages.is_empty(), "{:?}", recovery.damages);
    assert_eq!(recovery.unreached, [SegmentId::new(1)]);
    assert!(texts(&seen).iter().any(|t| t == "more") && !texts(&seen).iter().any(|t| t.contains("life 0")));
    log.wait_durable(put(&log, "and more")).unwrap();
    let (_, recovery, seen) = open(&image.after_power_cut());
    assert!(recovery.damages.is_empty() && texts(&seen).iter().any(|t| t == "and more"));
}

fn segment_given_back(disk: &MemDisk, id: u64) -> PathBuf {
    let path = PathBuf::from(segment::SPARE_DIRECTORY).join(format!("{id:016x}.old"));
    assert!(disk.names().contains(&path), "{:?}", disk.names());
    path
}

#[test]
pub(super) fn a_segment_that_can_not_be_given_back_goes_before_its_successor_all_the_same() {
    let disk = MemDisk::new();
    log_with_three_lives(&disk);
    let (log, ..) = open(&disk);
    log.wait_durable(put(&log, "fourth life")).unwrap();
    let ids: Vec<_> = log.segments().iter().map(|s| s.id).collect();
    disk.fail_sync_in(1);
    assert!(log.retire(&ids[..1]).is_err());
    log.retire(&ids[1..2]).unwrap();
    let there = disk.names();
    assert_eq!(there.contains(&path(1)), there.contains(&path(2)), "{there:?}");
    assert!(!there.contains(&path(1)), "{there:?}");
}

#[test]
pub(super) fn a_copy_of_a_segment_is_no_second_name_of_it() {
    let disk = MemDisk::new();
    log_with_three_lives(&disk);
    let third = disk.bytes(&path(3));
    disk.edit(&path(1), |b| *b = third);
    assert!(matches!(try_open(&disk, 0), Err(Error::Damaged(_))), "somebody put it over the first one");
    disk.link(&path(3), &path(1));
    let (_, recovery, _) = open(&disk);
    assert!(recovery.damages.is_empty(), "{:?}", recovery.damages);
}

#[test]
pub(super) fn a_segment_with_a_name_among_the_spare_ones_is_not_used_as_one() {
    let disk = MemDisk::new();
    log_with_three_lives(&disk);
    disk.link(&path(1), "spare/0000000000000001.old".as_ref());
    let (log, ..) = open(&disk);
    log.erase_unused().unwrap();
    drop(log);
    let (_, recovery, seen) = open(&disk);
    assert!(recovery.damages.is_empty(), "{:?}", recovery.damages);
    assert!(texts(&seen).iter().any(|t| t.starts_with("life 0")));
}

#[test]
pub(super) fn new_segments_leave_to_others_what_is_theirs() {
    let disk = MemDisk::new();
    let log = create(&disk);
    log.wait_durable(put(&log, "one")).unwrap();
    let segment = opts().segment_bytes;
    log.keep_apart(Apart { free: 3 * segment, owed: 0 });
    // Room for the segment, and nearly for what it must leave.
    disk.set_room(4 * segment - 1);
    log.end_active().unwrap();
    let p = Prepared::record(b"two".to_vec());
    let two = [Record { object: ObjectId::new(5), seq: 1, ..Record::new(Kind::Operation, &p) }];
    assert!(matches!(log.append(&two), Err(Error::NoSpace { .. })));
    disk.set_room(4 * segment);
    log.append(&two).unwrap();
}

#[test]
fn room_is_made_for_no_more_than_a_segment_takes() {
    let disk = MemDisk::new();
    let log = create(&disk);
    log.wait_durable(put(&log, "one")).unwrap();
    log.make_room(2 * opts().segment_bytes, 1).unwrap();
    log.wait_durable(put(&log, "two")).unwrap();
    assert!(log.segments().len() <= 2);
    let (_, recovery, seen) = open(&disk.after_power_cut());
    assert_eq!(texts(&seen), ["one", "two"]);
    assert!(recovery.damages.is_empty(), "{:?}", recovery.damages);
}
