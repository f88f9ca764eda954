//! Attributes that a careful filesystem keeps.

use std::{
    collections::BTreeSet,
    ffi::OsStr,
    fs::{self, File},
    os::unix::{
        ffi::OsStrExt,
        fs::{FileExt, MetadataExt, PermissionsExt},
    },
};

use rustix::io::Errno;

use super::{Mounted, write};

/// The most links to one file.
const LINKS: u32 = 65_000;

#[test]
fn links_end_at_the_limit() {
    let m = Mounted::new();
    write(&m.path("f"), "x");
    let dir = File::open(m.dir()).unwrap();
    let link = |n: u32| rustix::fs::linkat(&dir, "f", &dir, format!("l{n}"), rustix::fs::AtFlags::empty());
    for n in 1..LINKS {
        link(n).unwrap();
    }
    assert_eq!(link(LINKS), Err(Errno::MLINK));
    assert_eq!(fs::metadata(m.path("f")).unwrap().nlink(), u64::from(LINKS));
    fs::remove_file(m.path("l1")).unwrap();
    link(LINKS).unwrap();
}

#[test]
fn inode_numbers_stay_and_are_not_given_again() {
    let mut m = Mounted::new();
    let mut seen = BTreeSet::new();
    for round in 0..3 {
        for i in 0..50 {
            write(&m.path(&format!("f{i}")), "x");
            let ino = fs::metadata(m.path(&format!("f{i}"))).unwrap().ino();
            assert!(seen.insert(ino), "inode {ino} was another file before");
            if i % 2 == 0 {
                fs::remove_file(m.path(&format!("f{i}"))).unwrap();
            }
        }
        let inos = |m: &Mounted| -> Vec<(String, u64)> {
            let named = |e: fs::DirEntry| (e.file_name().into_string().unwrap(), e.metadata().unwrap().ino());
            let mut all: Vec<_> = fs::read_dir(m.dir()).unwrap().map(|e| named(e.unwrap())).collect();
            all.sort();
            all
        };
        let before = inos(&m);
        if round == 1 {
            rustix::fs::syncfs(File::open(m.dir()).unwrap()).unwrap();
            File::open(m.dir()).unwrap().sync_all().unwrap();
            m.kill();
        } else {
            m.unmount();
        }
        m.mount(&[]);
        assert_eq!(inos(&m), before);
        m.sh("rm -f f*");
    }
}

#[test]
fn names_are_any_bytes() {
    let mut m = Mounted::new();
    let mut names: Vec<Vec<u8>> = (1..=255_u8).filter(|b| *b != b'/').map(|b| vec![b'n', b]).collect();
    names.extend([vec![0xff; 255], b"\n".to_vec(), b" ".to_vec(), b"-rf".to_vec(), b"...".to_vec()]);
    for name in &names {
        fs::write(m.dir().join(OsStr::from_bytes(name)), name).unwrap();
    }
    m.unmount();
    m.mount(&[]);
    let found: BTreeSet<Vec<u8>> =
        fs::read_dir(m.dir()).unwrap().map(|e| e.unwrap().file_name().as_bytes().to_vec()).collect();
    assert_eq!(found, names.iter().cloned().collect());
    for name in &names {
        assert_eq!(fs::read(m.dir().join(OsStr::from_bytes(name))).unwrap(), *name);
    }
}

#[test]
fn blocks_count_what_is_there() {
    let m = Mounted::new();
    let f = File::create_new(m.path("f")).unwrap();
    let blocks = || f.metadata().unwrap().blocks();
    f.set_len(1 << 42).unwrap();
    assert_eq!(blocks(), 0);
    f.write_all_at(&[1; 4096], 1 << 41).unwrap();
    f.write_all_at(&[1; 100_000], 0).unwrap();
    assert_eq!(blocks(), 104_096_u64.div_ceil(512));
    // Writing over it takes no more.
    f.write_all_at(&[2; 100_000], 0).unwrap();
    let before = blocks();
    f.set_len(4096).unwrap();
    assert_eq!(blocks(), 8);
    f.set_len(0).unwrap();
    assert!(before > 200 && blocks() == 0);
}

#[test]
fn a_sticky_directory_keeps_what_others_made() {
    if !super::is_root() {
        return;
    }
    let m = Mounted::for_all();
    fs::create_dir(m.path("t")).unwrap();
    fs::set_permissions(m.path("t"), fs::Permissions::from_mode(0o1777)).unwrap();
    write(&m.path("t/roots"), "x");
    let as_user = |script: &str| {
        use std::os::unix::process::CommandExt;
        let mut command = std::process::Command::new("sh");
        command.args(["-c", script]).current_dir("/").env("M", m.dir()).uid(65534).gid(65534);
        command.stderr(std::process::Stdio::null()).status().unwrap().success()
    };
    assert!(!as_user("rm -f $M/t/roots"));
    assert!(!as_user("mv $M/t/roots $M/t/other"));
    assert!(as_user("touch $M/t/own && mv $M/t/own $M/t/mine && rm $M/t/mine"));
}
