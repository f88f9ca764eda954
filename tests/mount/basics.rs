//! What every program expects of files.

use std::{
    fs::{self, File, OpenOptions},
    io::{Read, Seek, SeekFrom, Write},
    os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, symlink},
};

use rustix::fs::{AtFlags, FallocateFlags, OFlags, RenameFlags, XattrFlags};

use super::{Mounted, write};

#[test]
fn names_and_contents_are_there_again_after_remounting() {
    let mut m = Mounted::new();
    fs::create_dir_all(m.path("d/e")).unwrap();
    write(&m.path("d/a"), "one");
    fs::rename(m.path("d/a"), m.path("d/e/b")).unwrap();
    fs::hard_link(m.path("d/e/b"), m.path("hard")).unwrap();
    symlink("d/e/b", m.path("soft")).unwrap();
    let long = "n".repeat(255);
    write(&m.path(&long), "long");
    assert_eq!(write_error(&m, &"n".repeat(256)), Some(36), "ENAMETOOLONG");
    write(&m.path("gone"), "x");
    fs::remove_file(m.path("gone")).unwrap();
    assert_eq!(fs::remove_dir(m.path("d")).unwrap_err().kind(), std::io::ErrorKind::DirectoryNotEmpty);
    let before = fs::metadata(m.path("hard")).unwrap();
    m.unmount();
    m.mount(&[]);
    let after = fs::metadata(m.path("hard")).unwrap();
    assert_eq!((before.ino(), before.nlink(), before.ctime_nsec()), (after.ino(), 2, after.ctime_nsec()));
    assert_eq!(fs::read_to_string(m.path("soft")).unwrap(), "one");
    assert_eq!(fs::read_to_string(m.path(&long)).unwrap(), "long");
    assert!(!m.path("gone").exists());
    assert_eq!(m.sh("ls | sort | cut -c1-4"), "d\nhard\nnnnn\nsoft\n");
}

fn write_error(m: &Mounted, name: &str) -> Option<i32> {
    fs::write(m.path(name), "x").unwrap_err().raw_os_error()
}

#[test]
fn two_names_change_places() {
    let m = Mounted::new();
    write(&m.path("a"), "a");
    fs::create_dir(m.path("b")).unwrap();
    let dir = File::open(m.dir()).unwrap();
    let rename = |flags| rustix::fs::renameat_with(&dir, "a", &dir, "b", flags);
    assert_eq!(rename(RenameFlags::NOREPLACE), Err(rustix::io::Errno::EXIST));
    rename(RenameFlags::EXCHANGE).unwrap();
    assert!(m.path("a").is_dir());
    assert_eq!(fs::read_to_string(m.path("b")).unwrap(), "a");
}

#[test]
fn an_unlinked_file_lives_until_it_is_closed() {
    let m = Mounted::new();
    let mut f =
        OpenOptions::new().create(true).truncate(true).read(true).write(true).open(m.path("f")).unwrap();
    f.write_all(b"before").unwrap();
    fs::remove_file(m.path("f")).unwrap();
    f.write_all(b" after").unwrap();
    f.seek(SeekFrom::Start(0)).unwrap();
    // Not from the kernel's pages.
    let advise = |f: &File| rustix::fs::fadvise(f, 0, None, rustix::fs::Advice::DontNeed).unwrap();
    advise(&f);
    let mut text = String::new();
    f.read_to_string(&mut text).unwrap();
    assert_eq!(text, "before after");
    assert_eq!(f.metadata().unwrap().nlink(), 0);
    // The same for one that a rename replaces.
    write(&m.path("old"), "old");
    let old = File::open(m.path("old")).unwrap();
    write(&m.path("new"), "new");
    fs::rename(m.path("new"), m.path("old")).unwrap();
    advise(&old);
    let mut bytes = [0; 3];
    old.read_exact_at(&mut bytes, 0).unwrap();
    assert_eq!(&bytes, b"old");
}

#[test]
fn holes_are_holes() {
    let m = Mounted::new();
    let f = OpenOptions::new().create_new(true).read(true).write(true).open(m.path("sparse")).unwrap();
    f.set_len(1 << 40).unwrap();
    f.write_all_at(&[7; 8192], 1 << 30).unwrap();
    let meta = f.metadata().unwrap();
    assert_eq!(meta.len(), 1 << 40);
    assert_eq!(meta.blocks(), 16);
    assert_eq!(rustix::fs::seek(&f, rustix::fs::SeekFrom::Data(0)).unwrap(), 1 << 30);
    assert_eq!(rustix::fs::seek(&f, rustix::fs::SeekFrom::Hole(1 << 30)).unwrap(), (1 << 30) + 8192);
    let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    rustix::fs::fallocate(&f, punch, 1 << 30, 4096).unwrap();
    assert_eq!(f.metadata().unwrap().blocks(), 8);
    let mut bytes = [1; 8192];
    f.read_exact_at(&mut bytes, 1 << 30).unwrap();
    assert!(bytes[..4096].iter().all(|b| *b == 0) && bytes[4096..].iter().all(|b| *b == 7));
    let g = File::create_new(m.path("grown")).unwrap();
    rustix::fs::fallocate(&g, FallocateFlags::KEEP_SIZE, 0, 1000).unwrap();
    assert_eq!(g.metadata().unwrap().len(), 0);
    rustix::fs::fallocate(&g, FallocateFlags::empty(), 0, 1000).unwrap();
    assert_eq!(g.metadata().unwrap().len(), 1000);
    g.write_all_at(&[1; 1000], 0).unwrap();
    rustix::fs::fallocate(&g, FallocateFlags::ZERO_RANGE, 500, 1000).unwrap();
    assert_eq!(fs::read(m.path("grown")).unwrap(), [vec![1; 500], vec![0; 1000]].concat());
}

#[test]
fn copies_and_direct_and_mapped_access_see_the_same_bytes() {
    let m = Mounted::new();
    let data: Vec<u8> = (0..300_000_u32).map(|i| (i * 7 / 3) as u8).collect();
    write(&m.path("a"), &data);
    let (from, to) = (File::open(m.path("a")).unwrap(), File::create_new(m.path("b")).unwrap());
    let (mut at, mut to_at) = (1001, 77);
    let n = rustix::fs::copy_file_range(&from, Some(&mut at), &to, Some(&mut to_at), 200_000).unwrap();
    assert_eq!(n, 200_000);
    assert_eq!(fs::read(m.path("b")).unwrap()[77..], data[1001..201_001]);
    let direct = OFlags::DIRECT.bits().cast_signed();
    let d = OpenOptions::new().read(true).write(true).custom_flags(direct).open(m.path("a")).unwrap();
    d.write_all_at(&data[..8192], 65536).unwrap();
    let mut back = vec![0; 8192];
    from.read_exact_at(&mut back, 65536).unwrap();
    assert_eq!(back, data[..8192]);
    m.sh("python3 -c '
import mmap, os
f = os.open(\"a\", os.O_RDWR)
p = mmap.mmap(f, 0)
p[70000:70005] = b\"MAPPY\"
p.flush()
p.close()'");
    from.read_exact_at(&mut back[..5], 70000).unwrap();
    assert_eq!(&back[..5], b"MAPPY");
}

#[test]
fn a_running_program_is_not_cut_off() {
    let m = Mounted::new();
    let path = m.path("sleep");
    super::install("/bin/sleep", &path);
    let size = fs::metadata(&path).unwrap().len();
    let mut running = std::process::Command::new(&path).arg("60").spawn().unwrap();
    let flags = [OFlags::WRONLY, OFlags::RDWR, OFlags::RDONLY, OFlags::RDWR].map(|f| f | OFlags::TRUNC);
    let refused = flags.map(|f| rustix::fs::open(&path, f, rustix::fs::Mode::empty()).err());
    let alive = running.try_wait().unwrap().is_none();
    running.kill().unwrap();
    running.wait().unwrap();
    assert_eq!(refused, [Some(rustix::io::Errno::TXTBSY); 4]);
    assert!(alive && fs::metadata(&path).unwrap().len() == size);
}

#[test]
fn times_and_attributes_are_kept_exactly() {
    let mut m = Mounted::new();
    write(&m.path("f"), "x");
    let time = |tv_sec, tv_nsec| rustix::fs::Timespec { tv_sec, tv_nsec };
    let times = rustix::fs::Timestamps {
        last_access: time(-5, 400_000_001),
        last_modification: time(-2, 800_000_000),
    };
    rustix::fs::utimensat(rustix::fs::CWD, m.path("f"), &times, AtFlags::empty()).unwrap();
    let earliest = rustix::fs::Timestamps { last_access: time(0, 0), last_modification: time(i64::MIN, 0) };
    write(&m.path("g"), "x");
    rustix::fs::utimensat(rustix::fs::CWD, m.path("g"), &earliest, AtFlags::empty()).unwrap();
    rustix::fs::setxattr(m.path("f"), "user.colour", b"red", XattrFlags::CREATE).unwrap();
    let again = rustix::fs::setxattr(m.path("f"), "user.colour", b"blue", XattrFlags::CREATE);
    assert_eq!(again, Err(rustix::io::Errno::EXIST));
    m.unmount();
    m.mount(&[]);
    let meta = fs::metadata(m.path("f")).unwrap();
    assert_eq!((meta.atime(), meta.atime_nsec()), (-5, 400_000_001));
    assert_eq!((meta.mtime(), meta.mtime_nsec()), (-2, 800_000_000));
    let mut value = [0; 16];
    let n = rustix::fs::getxattr(m.path("f"), "user.colour", &mut value).unwrap();
    assert_eq!(&value[..n], b"red");
    let n = rustix::fs::listxattr(m.path("f"), &mut value).unwrap();
    assert_eq!(&value[..n], b"user.colour\0");
    rustix::fs::removexattr(m.path("f"), "user.colour").unwrap();
    let gone = rustix::fs::getxattr(m.path("f"), "user.colour", &mut value);
    assert_eq!(gone, Err(rustix::io::Errno::NODATA));
    assert_eq!(fs::read_to_string(m.path("g")).unwrap(), "x", "the daemon lives");
}

#[test]
fn df_shows_the_disk_of_the_store() {
    let m = Mounted::new();
    let (here, there) = (rustix::fs::statvfs(m.dir()).unwrap(), rustix::fs::statvfs(m.store()).unwrap());
    assert_eq!(here.f_blocks * here.f_frsize, there.f_blocks * there.f_frsize / 4096 * 4096);
    assert!(here.f_bavail > 0 && here.f_namemax == 255);
}
