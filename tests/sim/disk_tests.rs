//! The simulated disk itself: what a crash may take and what not.

use std::{
    collections::BTreeSet,
    io::ErrorKind,
    path::Path,
    sync::{Arc, Mutex},
};

use segfs::disk::{Disk, DiskFile};

use super::disk::{Event, Faults, SimDisk};

const SEEDS: u64 = 300;

fn path(text: &str) -> &Path {
    Path::new(text)
}

fn read(disk: &SimDisk, name: &str) -> Option<Vec<u8>> {
    let file = disk.open(path(name), false).ok()?;
    let mut bytes = vec![0; file.len().unwrap() as usize];
    file.read_exact_at(&mut bytes, 0).unwrap();
    Some(bytes)
}

/// A disk with a durable file `f` of eight sectors of 1.
fn with_file() -> (SimDisk, Arc<dyn DiskFile>) {
    let disk = SimDisk::new(1);
    let file = disk.create(path("f")).unwrap();
    file.write_and_sync(&[&[1; 4096]], 0).unwrap();
    disk.sync_dir(path("")).unwrap();
    (disk, file)
}

#[test]
fn synced_bytes_survive_and_others_go_sector_by_sector() {
    let (disk, file) = with_file();
    file.write_at(&[&[2; 2048]], 1024).unwrap();
    assert_eq!(read(&disk, "f").unwrap()[1024], 2, "reads see what is written");
    let mut seen = BTreeSet::new();
    for seed in 0..SEEDS {
        let bytes = read(&disk.crash_image(seed), "f").unwrap();
        assert_eq!(bytes.len(), 4096);
        let sectors: Vec<u8> = bytes.chunks(512).map(|s| s[0]).collect();
        assert!(bytes.chunks(512).all(|s| s.iter().all(|b| *b == s[0])), "torn inside a sector");
        assert!(sectors[..2] == [1, 1] && sectors[6..] == [1, 1], "a synced sector changed");
        seen.insert(sectors);
    }
    assert_eq!(seen.len(), 16, "every combination of the four sectors comes up");
    assert_eq!(read(&disk.durable_image(), "f").unwrap(), [1; 4096]);
    assert_eq!(read(&disk.written_image(), "f"), read(&disk, "f"));
    file.sync().unwrap();
    for seed in 0..SEEDS {
        assert_eq!(read(&disk.crash_image(seed), "f"), read(&disk, "f"), "seed {seed}");
    }
}

#[test]
fn an_unsynced_length_is_the_old_the_new_or_between() {
    let (disk, file) = with_file();
    file.write_at(&[&[2; 4096]], 4096).unwrap();
    let lens = |disk: &SimDisk| -> BTreeSet<usize> {
        (0..SEEDS).map(|seed| read(&disk.crash_image(seed), "f").unwrap().len()).collect()
    };
    let seen = lens(&disk);
    assert!(seen.contains(&4096) && seen.contains(&8192) && seen.len() > 4, "{seen:?}");
    assert_eq!(read(&disk.durable_image(), "f").unwrap().len(), 4096);
    file.sync().unwrap();
    assert_eq!(lens(&disk), [8192].into());

    // Cut and regrown without a sync: old bytes or zeroes, and nothing of it behind the end.
    file.set_len(100).unwrap();
    assert_eq!(lens(&disk), [100, 8192].into());
    file.set_len(8192).unwrap();
    let seen: BTreeSet<u8> =
        (0..SEEDS).map(|seed| read(&disk.crash_image(seed), "f").unwrap()[600]).collect();
    assert_eq!(seen, [0, 1].into());
}

#[test]
fn names_last_only_once_their_directory_is_synced() {
    let disk = SimDisk::new(1);
    disk.create_dir(path("d")).unwrap();
    disk.sync_dir(path("")).unwrap();
    for name in ["d/a", "d/b"] {
        disk.create(path(name)).unwrap().write_and_sync(&[b"x"], 0).unwrap();
    }
    let seen: BTreeSet<Vec<String>> =
        (0..SEEDS).map(|seed| disk.crash_image(seed).list(path("d")).unwrap()).collect();
    assert_eq!(seen.len(), 4, "each name is kept or lost on its own: {seen:?}");
    assert!(disk.durable_image().list(path("d")).unwrap().is_empty());
    disk.sync_dir(path("d")).unwrap();
    disk.remove(path("d/a")).unwrap();
    let seen: BTreeSet<bool> =
        (0..SEEDS).map(|seed| read(&disk.crash_image(seed), "d/a").is_some()).collect();
    assert_eq!(seen.len(), 2, "a removal may be lost");
    for seed in 0..SEEDS {
        assert_eq!(read(&disk.crash_image(seed), "d/b").unwrap(), b"x");
    }
    disk.sync_dir(path("d")).unwrap();
    assert!((0..SEEDS).all(|seed| read(&disk.crash_image(seed), "d/a").is_none()));
}

#[test]
fn a_rename_is_all_or_nothing() {
    let (disk, _file) = with_file();
    disk.create_dir(path("d")).unwrap();
    disk.sync_dir(path("")).unwrap();
    let old = disk.create(path("d/g")).unwrap();
    old.write_and_sync(&[b"old"], 0).unwrap();
    disk.sync_dir(path("d")).unwrap();
    disk.rename(path("f"), path("d/g")).unwrap();
    // A new file under the old name must not cost the renamed one its only name.
    disk.create(path("f")).unwrap();
    let mut seen = BTreeSet::new();
    for seed in 0..SEEDS {
        let image = disk.crash_image(seed);
        let (f, g) = (read(&image, "f"), read(&image, "d/g").expect("a name that was durable"));
        match g.len() {
            3 => {
                assert_eq!(f.as_deref(), Some(&[1; 4096][..]), "the rename is lost, so the old name is there")
            }
            _ => assert!(g == [1; 4096] && f.as_ref().is_none_or(Vec::is_empty)),
        }
        seen.insert((f.map(|f| f.len()), g.len()));
    }
    assert_eq!(seen.len(), 3, "{seen:?}");
    // The new name's directory decides.
    disk.sync_dir(path("d")).unwrap();
    assert!((0..SEEDS).all(|seed| read(&disk.crash_image(seed), "d/g").unwrap().len() == 4096));
}

#[test]
fn what_is_in_a_lost_directory_is_lost_but_not_what_was_moved_there() {
    let (disk, _file) = with_file();
    disk.create_dir(path("new")).unwrap();
    disk.create(path("new/n")).unwrap();
    disk.rename(path("f"), path("new/f")).unwrap();
    disk.sync_dir(path("new")).unwrap();
    let mut seen = BTreeSet::new();
    for seed in 0..SEEDS {
        let image = disk.crash_image(seed);
        let found =
            (read(&image, "f").is_some(), read(&image, "new/f").is_some(), read(&image, "new/n").is_some());
        assert!(matches!(found, (true, false, false) | (false, true, true)), "seed {seed}: {found:?}");
        seen.insert(found);
    }
    assert_eq!(seen.len(), 2);
    disk.sync_dir(path("")).unwrap();
    assert!(read(&disk.durable_image(), "new/f").is_some());
}

#[test]
fn a_full_disk_refuses_what_was_not_reserved() {
    let disk = SimDisk::new(1);
    disk.set_faults(Faults { capacity_bytes: Some(64 << 10), ..Faults::default() });
    let (a, b) = (disk.create(path("a")).unwrap(), disk.create(path("b")).unwrap());
    a.allocate(48 << 10).unwrap();
    assert_eq!(a.len().unwrap(), 48 << 10);
    assert_eq!(disk.space().unwrap().free_bytes, 16 << 10);
    assert_eq!(b.allocate(20 << 10).unwrap_err().kind(), ErrorKind::StorageFull);
    assert_eq!(b.write_at(&[&[1; 20 << 10]], 0).unwrap_err().kind(), ErrorKind::StorageFull);
    a.write_at(&[&[1; 48 << 10]], 0).unwrap();
    b.write_at(&[&[1; 16 << 10]], 0).unwrap();
    assert_eq!(a.write_at(&[&[1; 1]], 48 << 10).unwrap_err().kind(), ErrorKind::StorageFull);
    drop(a);
    disk.remove(path("a")).unwrap();
    b.write_at(&[&[1; 32 << 10]], 0).unwrap();
}

#[test]
fn a_failed_sync_loses_at_will_and_the_next_one_mends_nothing() {
    let mut seen = BTreeSet::new();
    for seed in 0..SEEDS {
        let disk = SimDisk::new(seed);
        let file = disk.create(path("f")).unwrap();
        disk.sync_dir(path("")).unwrap();
        file.write_and_sync(&[&[1; 1024]], 0).unwrap();
        file.write_at(&[&[2; 1024]], 0).unwrap();
        disk.set_faults(Faults { fail_sync: Some(disk.counts().syncs), ..Faults::default() });
        file.sync().unwrap_err();
        file.write_at(&[&[3; 512]], 1024).unwrap();
        file.sync().unwrap();
        assert_eq!(read(&disk, "f").unwrap()[..1024], [2; 1024], "the page cache knows nothing");
        let bytes = read(&disk.crash_image(seed), "f").unwrap();
        assert_eq!(bytes[1024..], [3; 512]);
        seen.insert((bytes[0], bytes[512]));
    }
    assert_eq!(seen.len(), 4, "{seen:?}");
}

#[test]
fn a_failed_directory_sync_loses_names_for_good() {
    let mut seen = BTreeSet::new();
    for seed in 0..SEEDS {
        let disk = SimDisk::new(seed);
        disk.create(path("a")).unwrap();
        disk.create(path("b")).unwrap();
        disk.set_faults(Faults { fail_sync: Some(0), ..Faults::default() });
        disk.sync_dir(path("")).unwrap_err();
        disk.sync_dir(path("")).unwrap();
        assert_eq!(disk.list(path("")).unwrap(), ["a", "b"]);
        seen.insert(disk.crash_image(seed).list(path("")).unwrap());
    }
    assert_eq!(seen.len(), 4, "{seen:?}");
}

#[test]
fn writes_get_lost_misplaced_or_refused_on_request() {
    let (disk, file) = with_file();
    let next = disk.counts().writes;
    disk.set_faults(Faults { lose_write: Some(next), misplace_write: Some(next + 1), ..Faults::default() });
    file.write_and_sync(&[&[2; 512]], 4096).unwrap();
    let bytes = read(&disk.durable_image(), "f").unwrap();
    assert!(bytes.len() == 4608 && bytes[4096..] == [0; 512], "only the length of a lost write is there");
    file.write_and_sync(&[&[3; 512]], 1024).unwrap();
    let bytes = read(&disk.durable_image(), "f").unwrap();
    let hit: Vec<usize> =
        bytes.chunks(512).enumerate().filter(|(_, s)| **s == [3; 512]).map(|(i, _)| i).collect();
    assert!(hit.len() == 1 && hit[0] != 2, "misplaced to sector {hit:?}");
    disk.set_faults(Faults { fail_write: Some(disk.counts().writes), ..Faults::default() });
    file.write_at(&[&[4; 4096]], 0).unwrap_err();
    file.write_at(&[&[4; 4096]], 0).unwrap();
}

#[test]
fn bits_rot_where_asked() {
    let (disk, _file) = with_file();
    disk.flip_bit(path("f"), 1000, 3);
    disk.flip_bit(path("f"), 1 << 30, 3);
    for bytes in [read(&disk, "f").unwrap(), read(&disk.crash_image(1), "f").unwrap()] {
        assert_eq!(bytes[1000], 1 ^ 8);
        assert_eq!(bytes.iter().filter(|b| **b != 1).count(), 1);
    }
}

#[test]
fn power_goes_at_the_chosen_operation() {
    let work = |disk: &SimDisk| -> std::io::Result<()> {
        let file = disk.create(path("f"))?;
        file.write_and_sync(&[b"abc"], 0)?;
        disk.sync_dir(path(""))?;
        disk.rename(path("f"), path("g"))
    };
    let disk = SimDisk::new(1);
    work(&disk).unwrap();
    let all = disk.counts().operations;
    assert_eq!(all, 5);
    for n in 0..all {
        let disk = SimDisk::new(1);
        disk.set_faults(Faults { power_cut: Some(n), ..Faults::default() });
        let error = work(&disk).unwrap_err();
        assert_eq!(error.to_string(), "simulated power cut");
        assert_eq!(disk.counts().operations, n);
        disk.list(path("")).unwrap_err();
        assert_eq!(read(&disk.durable_image(), "f").is_some(), n >= 4, "cut at {n}");
    }
}

#[test]
fn the_same_seed_gives_the_same_image() {
    let (disk, file) = with_file();
    file.write_at(&[&[2; 9000]], 1000).unwrap();
    disk.create(path("g")).unwrap();
    let prints: Vec<u64> = (0..50).map(|seed| disk.crash_image(seed).fingerprint()).collect();
    assert!((0..50).all(|seed| disk.crash_image(seed).fingerprint() == prints[seed as usize]));
    assert!(prints.iter().collect::<BTreeSet<_>>().len() > 20, "seeds differ");
    assert_eq!(disk.written_image().fingerprint(), disk.fingerprint());
    let before = disk.fingerprint();
    disk.rename(path("g"), path("h")).unwrap();
    assert_ne!(disk.fingerprint(), before, "names count");
}

#[test]
fn an_image_and_its_source_go_their_own_ways() {
    let (disk, file) = with_file();
    let _lock = disk.lock(path("LOCK"), "me").unwrap();
    file.write_at(&[&[2; 512]], 0).unwrap();
    let image = disk.written_image();
    let (before, image_before) = (disk.fingerprint(), image.fingerprint());
    image.lock(path("LOCK"), "you").expect("a lock does not survive a crash");
    image.open(path("f"), true).unwrap().write_at(&[&[3; 512]], 0).unwrap();
    image.create(path("new")).unwrap();
    assert_eq!(disk.fingerprint(), before);
    assert_ne!(image.fingerprint(), image_before);
    let image_after = image.fingerprint();
    file.write_and_sync(&[&[4; 4096]], 0).unwrap();
    disk.remove(path("f")).unwrap();
    disk.sync_dir(path("")).unwrap();
    assert_eq!(image.fingerprint(), image_after);
}

#[test]
fn an_observer_sees_each_sync_before_and_after() {
    let disk = SimDisk::new(1);
    let log = Arc::new(Mutex::new(Vec::new()));
    let file = disk.create(path("f")).unwrap();
    let seen = log.clone();
    disk.set_observer(move |disk, event| {
        let (text, name) = match event {
            Event::BeforeSync(name) => ("before", name),
            Event::AfterSync(name) => ("after", name),
        };
        // Using the disk from here is fine, and not observed again.
        disk.sync_dir(path("")).unwrap();
        let durable = read(&disk.durable_image(), "f").unwrap_or_default().len();
        seen.lock().unwrap().push(format!("{text} {name:?} {durable}"));
    });
    file.write_and_sync(&[b"abc"], 0).unwrap();
    disk.sync_dir(path("")).unwrap();
    let log = log.lock().unwrap();
    assert_eq!(*log, ["before \"f\" 0", "after \"f\" 3", "before \"\" 3", "after \"\" 3"]);
}

#[test]
fn files_that_nothing_leads_to_are_dropped_but_open_ones_stay() {
    let (disk, file) = with_file();
    disk.remove(path("f")).unwrap();
    disk.sync_dir(path("")).unwrap();
    disk.sync_dir(path("")).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, 4000).unwrap();
    file.write_and_sync(&[&[2]], 0).unwrap();
    assert_eq!(byte, [1]);
    assert!(disk.list(path("")).unwrap().is_empty());
}
