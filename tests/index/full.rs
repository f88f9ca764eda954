//! A full disk: what could not be written out leaves nothing behind that would keep the next attempt from it.

use std::fs;

use segfs::{
    base::Error,
    index::{Change, Index, SortedIndex},
};

use super::{Dice, all, apply_to_model, lsn};
use crate::mount::{full::SmallDisk, is_root};

#[test]
#[allow(clippy::disallowed_methods)] // this is the outside: real files
fn what_failed_on_a_full_disk_leaves_no_files_and_is_done_later() {
    assert!(is_root(), "a filesystem of its own needs root");
    let disk = SmallDisk::new(24);
    let path = disk.dir.join("index");
    // Small tables, so that a merge has finished some when it fails.
    let index = SortedIndex::open_with_tables_of(&path, 1 << 20, 64 << 10).unwrap();
    let (mut dice, mut model, mut n) = (Dice::new(7), super::Model::new(), 0);
    let mut more = |index: &SortedIndex, bytes: u64, model: &mut super::Model| {
        let mut written = 0;
        while written < bytes {
            n += 1;
            let value: Vec<u8> = (0..1000).map(|_| dice.next() as u8).collect();
            let change = [Change::put(dice.below(100_000).to_be_bytes().map(|b| b | 1), value)];
            index.apply(lsn(n), &change).unwrap();
            apply_to_model(model, &change);
            written += 1000;
        }
        index.rotate(lsn(n)).unwrap();
    };
    for _ in 0..4 {
        more(&index, 1 << 20, &mut model);
        index.flush().unwrap();
    }
    let ballast = disk.dir.join("ballast");
    let free = rustix::fs::statvfs(&disk.dir).unwrap();
    let file = fs::File::create(&ballast).unwrap();
    // Room for neither the next table nor a merge.
    let rest = free.f_bavail * free.f_frsize - (700 << 10);
    rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, rest).unwrap();
    more(&index, 1 << 20, &mut model);
    let left = || {
        let tables = fs::read_dir(path.join("tables")).unwrap().count();
        (tables, rustix::fs::statvfs(&disk.dir).unwrap().f_bavail)
    };
    let before = left();
    for _ in 0..3 {
        let flushed = index.flush();
        assert!(matches!(flushed, Err(Error::NoSpace { .. })), "{flushed:?}");
        assert_eq!(left().0, before.0, "a flush");
        let merged = index.compact();
        assert!(matches!(merged, Err(Error::NoSpace { .. })), "{merged:?}");
        assert_eq!(left().0, before.0, "a merge");
    }
    assert!(all(&index).unwrap() == model);
    file.set_len(0).unwrap();
    index.flush().unwrap();
    while index.compact().unwrap() {}
    assert!(all(&index).unwrap() == model);
    drop(index);
    let index = SortedIndex::open_with_tables_of(&path, 1 << 20, 64 << 10).unwrap();
    assert!(all(&index).unwrap() == model);
}
