//! Which writes make a version, seen through the store after unmounting.

use std::{
    fs::{self, OpenOptions},
    io::Write,
    os::unix::fs::FileExt,
};

use segfs::{
    base::Ino,
    store::{Options, Store},
};

use super::{Mounted, write};

/// Sizes of the versions of a file in the root directory.
pub(super) fn versions(store: &Store, name: &str) -> Vec<u64> {
    let ino = store.view().lookup(Ino::FIRST, name.as_bytes()).unwrap().ino;
    store.view().versions(ino, None, 100).unwrap().iter().map(|v| v.size).collect()
}

#[test]
fn a_close_after_writing_makes_one_version() {
    let mut m = Mounted::new();
    // bash duplicates its descriptor and closes it before it writes.
    m.sh("echo hello > echo; echo more >> echo; for i in 1 2 3; do echo again > over; done");
    m.sh("exec 3> blocks; echo one >&3; (echo two >&3); echo three >&3; exec 3>&-");
    let f = OpenOptions::new().create_new(true).read(true).write(true).open(m.path("synced")).unwrap();
    f.write_all_at(b"12", 0).unwrap();
    f.sync_all().unwrap();
    f.write_all_at(b"34", 2).unwrap();
    f.sync_all().unwrap();
    drop(f);
    write(&m.path("cut"), "0123456789");
    m.sh("truncate -s 4 cut; touch untouched; cat echo; chmod 600 echo; touch echo");
    rustix_truncate(&m, "cut", 2);
    let mut again = OpenOptions::new().append(true).open(m.path("open")).err();
    assert!(again.take().is_some());
    let mut two = (OpenOptions::new().create(true).append(true).open(m.path("two")).unwrap(), None);
    two.1 = Some(OpenOptions::new().append(true).open(m.path("two")).unwrap());
    two.0.write_all(b"a").unwrap();
    drop(two.0);
    two.1.take().unwrap().write_all(b"b").unwrap();
    m.unmount();
    let store = Store::open(&m.store(), Options::default()).unwrap();
    assert_eq!(versions(&store, "echo"), [6, 11]);
    assert_eq!(versions(&store, "over"), [6, 6, 6], "opening with O_TRUNC makes none by itself");
    assert_eq!(versions(&store, "blocks"), [14]);
    assert_eq!(versions(&store, "synced"), [4]);
    assert_eq!(versions(&store, "cut"), [10, 4, 2]);
    assert_eq!(versions(&store, "untouched"), [0; 0]);
    assert_eq!(versions(&store, "two"), [1, 2]);
}

fn rustix_truncate(m: &Mounted, name: &str, size: u64) {
    // By path, without a handle: coreutils' truncate opens the file.
    let done = m.sh(&format!("python3 -c 'import os; os.truncate(\"{name}\", {size})'"));
    assert_eq!(done, "");
}

#[test]
fn an_editor_that_saves_by_renaming_makes_one_version_a_save() {
    let mut m = Mounted::new();
    m.sh("echo one > f; sed -i s/one/three/ f; sed -i s/three/fifteen/ f");
    assert_eq!(fs::read_to_string(m.path("f")).unwrap(), "fifteen\n");
    m.unmount();
    let store = Store::open(&m.store(), Options::default()).unwrap();
    assert_eq!(versions(&store, "f"), [8]);
    assert_eq!(store.status().versions, 3, "one for each save, on the object of each");
}

#[test]
fn what_is_open_at_the_end_gets_its_version() {
    let mut m = Mounted::new();
    let f = fs::File::create_new(m.path("f")).unwrap();
    f.write_all_at(b"open", 0).unwrap();
    f.sync_all().unwrap();
    m.kill();
    drop(f);
    m.mount(&[]);
    assert_eq!(fs::read_to_string(m.path("f")).unwrap(), "open");
    m.unmount();
    let store = Store::open(&m.store(), Options::default()).unwrap();
    assert_eq!(versions(&store, "f"), [4]);
}
