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

/// What NFS servers do: files by handles that outlive the mount and the kernel's memory, through name_to_handle_at(2) and
/// open_by_handle_at(2).
const HANDLES: &str = r#"
import ctypes, os, pickle, sys
libc = ctypes.CDLL(None, use_errno=True)
class Handle(ctypes.Structure):
    _fields_ = [("bytes", ctypes.c_uint), ("kind", ctypes.c_int), ("data", ctypes.c_ubyte * 128)]
def take(path):
    h, mount = Handle(128, 0), ctypes.c_int()
    if libc.name_to_handle_at(-100, os.fsencode(path), ctypes.byref(h), ctypes.byref(mount), 0): raise OSError(ctypes.get_errno(), path)
    return bytes(h)
def use(handle, flags=os.O_RDONLY):
    h = Handle.from_buffer_copy(handle)
    root = os.open(".", os.O_RDONLY)
    f = libc.open_by_handle_at(root, ctypes.byref(h), flags)
    if f < 0: return os.strerror(ctypes.get_errno())
    return sorted(os.listdir(f)) if flags & os.O_DIRECTORY else os.read(f, 100).decode()
if sys.argv[1] == "take":
    pickle.dump([take(p) for p in ("d/e/f", "d/gone", "d/e")], open(sys.argv[2], "wb"))
else:
    f, gone, e = pickle.load(open(sys.argv[2], "rb"))
    print(use(f), use(gone), use(e, os.O_RDONLY | os.O_DIRECTORY), sep="|")
"#;

#[test]
fn handles_outlive_the_mount_and_never_lead_to_another_file() {
    if !super::is_root() {
        return;
    }
    let mut m = Mounted::new();
    m.sh("mkdir -p d/e; printf found > d/e/f; printf x > d/gone");
    let kept = m.root.path().join("handles");
    let python = |m: &Mounted, what: &str| {
        let mut command = std::process::Command::new("python3");
        let done = command.args(["-c", HANDLES, what]).arg(&kept).current_dir(m.dir()).output().unwrap();
        assert!(done.status.success(), "{done:?}");
        String::from_utf8(done.stdout).unwrap()
    };
    python(&m, "take");
    assert_eq!(python(&m, "use"), "found|x|['f']\n");
    m.sh("rm d/gone; for i in 1 2 3; do echo other > d/new$i; done; mv d/e/f d/moved; ln d/moved d/e/f");
    assert_eq!(python(&m, "use"), "found|Stale file handle|['f']\n");
    m.unmount();
    m.mount(&[]);
    assert_eq!(python(&m, "use"), "found|Stale file handle|['f']\n");
    m.sh("rm d/e/f d/moved; rmdir d/e; for i in 4 5 6; do echo other > d/new$i; done");
    m.unmount();
    m.mount(&[]);
    assert_eq!(python(&m, "use"), "Stale file handle|Stale file handle|Stale file handle\n");
}
