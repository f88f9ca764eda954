//! Stores whose files are not what was written, or not all of them.

use std::fs;

use segfs::{
    base::{Error, Ino},
    format::Superblock,
    store::Store,
};

use super::*;

fn not_a_store(e: &Error) -> bool {
    matches!(e, Error::NotAStore { .. })
}

fn newer(e: &Error) -> bool {
    matches!(e, Error::Newer { .. })
}

fn damaged(e: &Error) -> bool {
    matches!(e, Error::Damaged(_))
}

#[test]
fn what_is_no_store_is_not_opened() {
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("store");
    fs::create_dir(&store).unwrap();
    fs::write(store.join("notes.txt"), "remember the milk").unwrap();
    refused(&store, 2, &["not a segfs store", "no file STORE"], not_a_store);
    says(&run(&["init", store.to_str().unwrap()]), 2, &["not empty", "empty directory"]);
    says(&run(&["status", store.to_str().unwrap()]), 3, &["neither"]);
    assert_eq!(fs::read_dir(&store).unwrap().count(), 1);
    let store = closed(dir.path().join("a").as_path());
    for bytes in [&b""[..], b"SEGFSST1", &[7; 8192], &[0; 100_000]] {
        fs::write(store.join("STORE"), bytes).unwrap();
        refused(&store, 5, &["both copies in STORE are damaged"], not_a_store);
    }
}

#[test]
fn what_is_newer_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let store = closed(dir.path());
    let old = fs::read(store.join("STORE")).unwrap();
    let s = Superblock::decode(&old[..4096]).unwrap();
    let write = |s: &Superblock| fs::write(store.join("STORE"), s.encode().repeat(2)).unwrap();
    write(&Superblock { version: 7, ..s.clone() });
    refused(&store, 1, &["format version 7", "knows 1"], newer);
    assert!(matches!(Store::open(&store, reading()), Err(Error::Newer { .. })));
    write(&Superblock { incompatible: 1 << 40, ..s.clone() });
    refused(&store, 1, &["incompatible features", "bits 40"], newer);
    assert!(matches!(Store::open(&store, reading()), Err(Error::Newer { .. })));
    // What an older program may read, but not write.
    write(&Superblock { read_only_compatible: 0b101, ..s.clone() });
    let before = tree(&store);
    let e = Store::open(&store, options()).err().unwrap();
    assert!(newer(&e) && e.to_string().contains("bits 0, 2") && e.to_string().contains("-o ro"), "{e}");
    let mnt = dir.path().join("mnt");
    let done = run(&["mount", store.to_str().unwrap(), mnt.to_str().unwrap()]);
    says(&done, 1, &["bits 0, 2", "-o ro"]);
    let s2 = Store::open(&store, reading()).unwrap();
    assert_eq!(read(&s2, "f3").unwrap(), noise(3, 100_000));
    drop(s2);
    same(&before, &tree(&store), "it");
    // Features that may be ignored are.
    write(&Superblock { compatible: u64::MAX, ..s });
    drop(Store::open(&store, options()).unwrap());
}

#[test]
fn one_damaged_copy_of_the_superblock_is_mended() {
    let dir = tempfile::tempdir().unwrap();
    let store = closed(dir.path());
    let file_of = store.join("STORE");
    let good = fs::read(&file_of).unwrap();
    let mut cases: Vec<Vec<u8>> = vec![good[..4096].to_vec(), good[..5000].to_vec()];
    for copy in 0..2 {
        let mut bad = good.clone();
        bad[copy * 4096 + 30] ^= 1;
        cases.push(bad);
        let mut bad = good.clone();
        bad[copy * 4096..][..4096].fill(0);
        cases.push(bad);
    }
    for bad in cases {
        fs::write(&file_of, &bad).unwrap();
        // Who only reads tells of it and leaves it.
        let before = tree(&store);
        let s = Store::open(&store, reading()).unwrap();
        assert_eq!(s.recovered().superblock_damage.len(), 1);
        assert!(!s.recovered().superblock_mended);
        drop(s);
        same(&before, &tree(&store), "it");
        let s = Store::open(&store, options()).unwrap();
        assert_eq!(s.recovered().superblock_damage.len(), 1);
        assert!(s.recovered().superblock_mended);
        drop(s);
        assert!(fs::read(&file_of).unwrap() == good, "it is not what it was");
        assert!(Store::open(&store, options()).unwrap().recovered().superblock_damage.is_empty());
    }
    let done = Command::new(segtool()).arg("verify").arg(&store).output().unwrap();
    assert!(done.status.success(), "{done:?}");
}

#[test]
fn a_segment_of_another_store_stays_what_it_is() {
    let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (store, other) = (closed(dir.path()), closed(other.path()));
    let foreign = segments(&other).pop().unwrap();
    // Behind ours, and in the place of one of ours, the last or another.
    let last = id_of(segments(&store).last().unwrap());
    for id in [last + 1, last, last - 1] {
        let to = store.join(format!("segments/{id:016x}.seg"));
        let own = fs::read(&to).ok();
        fs::copy(&foreign, &to).unwrap();
        let name = format!("segments/{id:016x}.seg");
        refused(&store, 5, &["another store", &format!("segment {id}"), &name, "move"], damaged);
        // Read-only, the rest is served.
        let s = Store::open(&store, reading()).unwrap();
        assert_eq!(read(&s, "f0").unwrap(), noise(0, 100_000));
        let told = &s.recovered().log.damages;
        assert!(told.iter().any(|d| d.why.contains("another store")), "{told:?}");
        drop(s);
        assert!(fs::read(&to).unwrap() == fs::read(&foreign).unwrap(), "somebody's data is gone");
        match own {
            Some(own) => fs::write(&to, own).unwrap(),
            None => remove(&to),
        }
    }
    drop(Store::open(&store, options()).unwrap());
}

#[test]
fn a_segment_under_another_name_stays_what_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let store = closed(dir.path());
    let all = segments(&store);
    let to = store.join("segments/00000000000000aa.seg");
    fs::copy(&all[1], &to).unwrap();
    refused(&store, 5, &["another segment, 2", "segments/00000000000000aa.seg", "its own name"], damaged);
    remove(&all[1]);
    refused(&store, 5, &["another segment, 2", "its own name"], damaged);
    fs::copy(&to, &all[1]).unwrap();
    remove(&to);
    let s = Store::open(&store, options()).unwrap();
    for n in 0..6 {
        assert_eq!(read(&s, &format!("f{n}")).unwrap(), noise(n, 100_000));
    }
}

#[test]
fn a_segment_that_was_cut_off_is_named() {
    for make in [closed, crashed] {
        let dir = tempfile::tempdir().unwrap();
        let store = make(dir.path());
        let all = segments(&store);
        for file in [&all[1], &all[all.len() - 2], all.last().unwrap()] {
            let bytes = fs::read(file).unwrap();
            let used = bytes.len() - bytes.iter().rev().take_while(|b| **b == 0).count();
            // Of a full segment the end is nothing but the trailer, which only spares time.
            let first = if file == all.last().unwrap() { used - 5000 } else { used / 3 * 2 };
            for len in [first, used / 2, 4096 + 64] {
                fs::write(file, &bytes[..len]).unwrap();
                let name = format!("segments/{:016x}.seg", id_of(file));
                refused(&store, 5, &["cut off", &name, "copy of the store"], damaged);
                let s = Store::open(&store, reading()).unwrap();
                assert_eq!(read(&s, "f0").unwrap(), noise(0, 100_000));
                let told = &s.recovered().log.damages;
                assert!(told.iter().any(|d| d.why.contains("cut off")), "{told:?}");
            }
            fs::write(file, &bytes).unwrap();
        }
        drop(Store::open(&store, options()).unwrap());
    }
}

#[test]
fn a_last_segment_without_a_header_is_not_taken_for_a_spare_file() {
    for make in [closed, crashed] {
        let dir = tempfile::tempdir().unwrap();
        let store = make(dir.path());
        // With the index gone, nothing else tells that there was more.
        for index in [true, false] {
            if !index {
                fs::remove_dir_all(store.join("index")).unwrap();
            }
            let last = segments(&store).pop().unwrap();
            let good = fs::read(&last).unwrap();
            let mut bad = good.clone();
            bad[..4096].iter_mut().for_each(|b| *b ^= 0x5a);
            fs::write(&last, &bad).unwrap();
            let name = format!("segments/{:016x}.seg", id_of(&last));
            refused(&store, 5, &["both copies", &name, "copy of the store"], damaged);
            let s = Store::open(&store, reading()).unwrap();
            assert_eq!(read(&s, "f0").unwrap(), noise(0, 100_000));
            drop(s);
            assert!(fs::read(&last).unwrap() == bad, "what is left of it is gone");
            fs::write(&last, &good).unwrap();
        }
        let s = Store::open(&store, options()).unwrap();
        assert_eq!(read(&s, "f5").unwrap(), noise(5, 100_000));
    }
}

#[test]
fn a_log_without_its_end_is_not_silently_shortened() {
    let dir = tempfile::tempdir().unwrap();
    let store = closed(dir.path());
    let all = segments(&store);
    let kept: Vec<_> = all.iter().map(|f| fs::read(f).unwrap()).collect();
    for gone in 1..all.len() {
        all[all.len() - gone..].iter().for_each(|f| remove(f));
        refused(&store, 5, &["the log ends at LSN", "were durable", "segtool index rebuild"], damaged);
        // Who only reads gets what is there, and is told what is not.
        let before = tree(&store);
        let s = Store::open(&store, reading()).unwrap();
        assert!(s.recovered().rebuilt.as_ref().is_some_and(|w| w.contains("the log ends")));
        assert!(s.view().entries(Ino::FIRST, None, 100).unwrap().len() < 6);
        drop(s);
        same(&before, &tree(&store), "it");
        for (f, bytes) in all.iter().zip(&kept) {
            fs::write(f, bytes).unwrap();
        }
        drop(Store::open(&store, options()).unwrap());
        // Opening it began no segment; those that are there now are the same.
        assert_eq!(segments(&store), all);
    }
    // Whoever says so can go on with what there is.
    remove(all.last().unwrap());
    let done = Command::new(segtool()).args(["index", "rebuild"]).arg(&store).output().unwrap();
    assert!(done.status.success(), "{done:?}");
    drop(Store::open(&store, options()).unwrap());
}

/// Where the payload of each operation that makes a name lies: of `late0`, `late1`, ...
fn creations(store: &Path, file: &Path) -> Vec<(u64, usize)> {
    let words = ["dump", store.to_str().unwrap(), &id_of(file).to_string(), "--json", "--kind", "operation"];
    let done = Command::new(segtool()).args(words).output().unwrap();
    let text = String::from_utf8(done.stdout).unwrap();
    let records = text.lines().map(|l| serde_json::from_str::<serde_json::Value>(l).unwrap());
    let makes_name = records.filter(|r| r["facts"].to_string().contains("\"link\""));
    makes_name.map(|r| (r["lsn"].as_u64().unwrap(), r["offset"].as_u64().unwrap() as usize)).collect()
}

#[test]
fn rot_in_an_operation_leaves_the_rest_readable() {
    let dir = tempfile::tempdir().unwrap();
    let store = crashed(dir.path());
    let last = segments(&store).pop().unwrap();
    let makers = creations(&store, &last);
    assert_eq!(makers.len(), 4, "{makers:?}");
    // Its payload, its head, its envelope.
    for (byte, whole) in [(64 + 80 + 3, true), (64 + 5, true), (30, false)] {
        let (lsn, offset) = makers[1];
        flip(&last, offset + byte);
        let words =
            ["segment", &format!("offset {offset}"), &format!("LSN {lsn}"), "-o ro", "copy of the store"];
        refused(&store, 5, &words, damaged);
        let before = tree(&store);
        let s = Store::open(&store, reading()).unwrap();
        let missing = &s.recovered().missing;
        assert_eq!(missing[0].first.get(), lsn, "{missing:?}");
        assert_eq!(missing[0].damage.place.offset, offset as u64, "{missing:?}");
        for n in 0..6 {
            assert_eq!(read(&s, &format!("f{n}")).unwrap(), noise(n, 100_000));
        }
        assert_eq!(read(&s, "late0").unwrap(), noise(100, 20_000));
        assert!(read(&s, "late1").is_err(), "nothing is left that makes it");
        for n in [2, 3] {
            assert_eq!(read(&s, &format!("late{n}")).unwrap(), noise(100 + n, 20_000));
        }
        if whole {
            assert_eq!(missing.len(), 1, "{missing:?}");
            assert!(missing[0].ino.is_some());
        }
        drop(s);
        same(&before, &tree(&store), "it");
        flip(&last, offset + byte);
    }
    drop(Store::open(&store, options()).unwrap());
}
