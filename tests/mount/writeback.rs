//! `-o writeback`: the kernel collects writes, and versions still hold all of them.

use std::{
    fs::{self, File, OpenOptions},
    io::Write,
    os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt},
    sync::Arc,
};

use rustix::fs::OFlags;
use segfs::{
    base::Ino,
    format::facts::Owner,
    store::{NewObject, Options, Store},
    vfs::{Caller, Vfs},
};

use super::{Mounted, versions::versions, write};

const WRITEBACK: &[&str] = &["-o", "writeback"];

fn read_write(m: &Mounted, name: &str) -> File {
    OpenOptions::new().create(true).truncate(false).read(true).write(true).open(m.path(name)).unwrap()
}

#[test]
fn the_kernel_collects_writes() {
    let mut m = Mounted::with(WRITEBACK);
    let mut f = File::create_new(m.path("f")).unwrap();
    for n in 0..1000 {
        writeln!(f, "line {n}").unwrap();
    }
    drop(f);
    m.unmount();
    let store = Store::open(&m.store(), Options::default()).unwrap();
    assert!(store.last_lsn().get() < 100, "{} records", store.last_lsn());
    assert_eq!(versions(&store, "f"), [8890]);
}

/// What the kernel asks for where it collects writes, with the releases as late as it may tell of them.
#[test]
fn late_releases_take_no_version_away() {
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(Store::create(&dir.path().join("store"), Options::default()).unwrap());
    let vfs = Vfs::new(Arc::clone(&store));
    vfs.expect_late_writes();
    let root = Caller::default();
    for name in ["echo", "two"] {
        let new = NewObject::file(0o644, Owner::default());
        let ino = store.create_object(Ino::FIRST, name.as_bytes(), &new).unwrap().1.ino;
        // bash closes a duplicate before it writes; what one handle wrote may come through the other.
        let first = vfs.open(root, ino, true).unwrap();
        let shared = (name == "two").then(|| vfs.open(root, ino, true).unwrap());
        vfs.flush(first);
        vfs.write(ino, shared.unwrap_or(first), 0, b"hello\n", None).unwrap();
        vfs.flush(first);
        let second = shared.unwrap_or_else(|| {
            let opened = vfs.open(root, ino, true).unwrap();
            vfs.flush(opened);
            opened
        });
        vfs.write(ino, second, 6, b"more\n", None).unwrap();
        vfs.flush(second);
        vfs.release(first);
        vfs.release(second);
        assert_eq!(versions(&store, name), [6, 11], "{name}");
    }
}

#[test]
fn a_version_holds_all_that_was_written_before_its_close() {
    let mut m = Mounted::with(WRITEBACK);
    m.sh("echo hello > echo; echo more >> echo");
    m.sh("exec 3> blocks; echo one >&3; (echo two >&3); echo three >&3; exec 3>&-");
    // What one handle wrote may be handed over through the other.
    let (a, b) = (read_write(&m, "two"), read_write(&m, "two"));
    a.write_all_at(&[1; 5000], 0).unwrap();
    drop(a);
    b.write_all_at(&[2; 5000], 5000).unwrap();
    drop(b);
    // So may what nobody closed yet.
    let idle = read_write(&m, "idle");
    let busy = read_write(&m, "idle");
    busy.write_all_at(b"12345", 0).unwrap();
    drop(busy);
    drop(idle);
    // Part of a page, through a handle that can't read: the rest of the page comes from the store.
    write(&m.path("part"), [7; 6000]);
    m.unmount();
    m.mount(WRITEBACK);
    let part = OpenOptions::new().write(true).open(m.path("part")).unwrap();
    part.write_all_at(&[8; 10], 5000).unwrap();
    drop(part);
    let mut grown = OpenOptions::new().append(true).open(m.path("part")).unwrap();
    grown.write_all(&[9; 500]).unwrap();
    grown.write_all(&[9; 500]).unwrap();
    drop(grown);
    m.unmount();
    let store = Store::open(&m.store(), Options::default()).unwrap();
    assert_eq!(versions(&store, "echo"), [6, 11]);
    assert_eq!(versions(&store, "blocks"), [14]);
    assert_eq!(versions(&store, "two"), [5000, 10_000]);
    assert_eq!(versions(&store, "idle"), [5]);
    assert_eq!(versions(&store, "part"), [6000, 6000, 7000]);
    let ino = store.view().lookup(Ino::FIRST, b"part").unwrap().ino;
    let mut bytes = vec![0; 7000];
    assert_eq!(store.view().read(ino, 0, &mut bytes).unwrap(), 7000);
    assert_eq!(bytes, [vec![7; 5000], vec![8; 10], vec![7; 990], vec![9; 1000]].concat());
}

#[test]
fn a_map_that_outlives_its_descriptor_is_in_the_version() {
    for options in [&[][..], WRITEBACK] {
        let mut m = Mounted::with(options);
        m.sh("python3 -c '
import mmap, os
f = os.open(\"map\", os.O_RDWR | os.O_CREAT)
os.ftruncate(f, 8192)
p = mmap.mmap(f, 0)
os.close(f)
p[4090:4100] = b\"0123456789\"
p.close()'");
        m.unmount();
        let store = Store::open(&m.store(), Options::default()).unwrap();
        assert_eq!(versions(&store, "map"), [8192], "{options:?}");
        let ino = store.view().lookup(Ino::FIRST, b"map").unwrap().ino;
        let mut bytes = [0; 10];
        store.view().read(ino, 4090, &mut bytes).unwrap();
        assert_eq!(&bytes, b"0123456789", "{options:?}");
    }
}

#[test]
fn direct_and_collected_writes_see_each_other() {
    let mut m = Mounted::with(WRITEBACK);
    let f = read_write(&m, "f");
    f.write_all_at(&[1; 16384], 0).unwrap();
    let direct = OFlags::DIRECT.bits().cast_signed();
    let d = OpenOptions::new().read(true).write(true).custom_flags(direct).open(m.path("f")).unwrap();
    d.write_all_at(&[2; 4096], 4096).unwrap();
    let mut page = [0; 4096];
    f.read_exact_at(&mut page, 4096).unwrap();
    assert!(page.iter().all(|b| *b == 2));
    f.write_all_at(&[3; 4096], 8192).unwrap();
    d.read_exact_at(&mut page, 8192).unwrap();
    assert!(page.iter().all(|b| *b == 3));
    drop((f, d));
    m.unmount();
    m.mount(&[]);
    let wanted: Vec<u8> = [1, 2, 3, 1].iter().flat_map(|b| [*b; 4096]).collect();
    assert_eq!(fs::read(m.path("f")).unwrap(), wanted);
}

#[test]
fn data_that_the_kernel_still_holds_is_no_hole() {
    let m = Mounted::with(WRITEBACK);
    let f = read_write(&m, "f");
    f.set_len(1 << 20).unwrap();
    f.write_all_at(b"here", 65536).unwrap();
    // What `cp` does to find out what it need not copy.
    assert!(rustix::fs::seek(&f, rustix::fs::SeekFrom::Data(0)).unwrap() <= 65536);
    m.sh("cp --sparse=auto f g; cmp f g");
}

#[test]
fn times_and_sizes_are_there_again_after_remounting() {
    let mut m = Mounted::with(WRITEBACK);
    write(&m.path("f"), "written");
    let time = |tv_sec, tv_nsec| rustix::fs::Timespec { tv_sec, tv_nsec };
    let times = rustix::fs::Timestamps { last_access: time(5, 6), last_modification: time(7, 8) };
    m.sh("echo x > g");
    rustix::fs::utimensat(rustix::fs::CWD, m.path("g"), &times, rustix::fs::AtFlags::empty()).unwrap();
    m.sh("chmod 600 g; echo 0123456789 > cut; truncate -s 4 cut; echo more >> f");
    let shown = |m: &Mounted, name: &str| {
        let a = fs::metadata(m.path(name)).unwrap();
        (a.size(), a.mode(), a.mtime(), a.mtime_nsec())
    };
    let before: Vec<_> = ["f", "g", "cut"].map(|name| shown(&m, name)).into();
    assert_eq!((before[1].2, before[1].3), (7, 8));
    m.unmount();
    m.mount(WRITEBACK);
    assert_eq!(["f", "g", "cut"].map(|name| shown(&m, name)), before[..]);
}
