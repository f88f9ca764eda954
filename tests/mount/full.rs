//! A disk that is really full: a small filesystem of its own, with a store in it.

use std::{
    fs::{self, File},
    io::{BufRead, BufReader, ErrorKind, Write},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use super::{Mounted, is_root};

/// A filesystem in a file, mounted; it goes away with this.
pub(crate) struct SmallDisk {
    pub(crate) dir: PathBuf,
    _root: tempfile::TempDir,
}

impl SmallDisk {
    pub(crate) fn new(mib: u64) -> Self {
        let root = tempfile::tempdir().unwrap();
        let (image, dir) = (root.path().join("disk.img"), root.path().join("disk"));
        File::create(&image).unwrap().set_len(mib << 20).unwrap();
        fs::create_dir(&dir).unwrap();
        run("mkfs.ext4", &["-q", "-F", "-m", "0", image.to_str().unwrap()]);
        run("mount", &["-o", "loop", image.to_str().unwrap(), dir.to_str().unwrap()]);
        Self { dir, _root: root }
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // The loop device goes with the mount.
        let _ = Command::new("umount").arg("-l").arg(&self.dir).status();
    }
}

fn run(program: &str, args: &[&str]) {
    let done = Command::new(program).args(args).output().unwrap();
    assert!(done.status.success(), "{program} {args:?}: {done:?}");
}

/// What a file of this number holds: nothing that compresses.
fn content(n: u64, bytes: usize) -> Vec<u8> {
    let mut x = n.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut out = Vec::with_capacity(bytes + 8);
    while out.len() < bytes {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        out.extend_from_slice(&x.to_le_bytes());
    }
    out.truncate(bytes);
    out
}

const FILE_BYTES: usize = 1 << 20;

fn write_one(path: &Path, n: u64) -> std::io::Result<()> {
    let mut f = File::create(path)?;
    f.write_all(&content(n, FILE_BYTES))?;
    f.sync_all()
}

/// Writes files until there is no room; says how many are whole.
fn fill(m: &Mounted, prefix: &str) -> u64 {
    for n in 0.. {
        match write_one(&m.path(&format!("{prefix}{n}")), n) {
            Ok(()) => {}
            Err(e) => {
                assert_eq!(e.kind(), ErrorKind::StorageFull, "{prefix}{n}: {e}");
                return n;
            }
        }
        assert!(n < 2000, "the disk is never full");
    }
    unreachable!()
}

fn all_there(m: &Mounted, prefix: &str, numbers: impl Iterator<Item = u64>) {
    for n in numbers {
        let path = m.path(&format!("{prefix}{n}"));
        assert!(
            fs::read(&path).unwrap() == content(n, FILE_BYTES),
            "{} is not what was written",
            path.display()
        );
    }
}

/// Does it again until it works, for a bounded time: history yields in the background.
fn soon(what: &str, mut works: impl FnMut() -> std::io::Result<()>) {
    let began = Instant::now();
    loop {
        match works() {
            Ok(()) => return,
            Err(e) if e.kind() == ErrorKind::StorageFull && began.elapsed() < Duration::from_secs(60) => {
                std::thread::sleep(Duration::from_millis(200));
            }
            Err(e) => panic!("{what}: {e}"),
        }
    }
}

#[test]
fn on_a_full_disk_deleting_goes_on_and_makes_room() {
    assert!(is_root(), "a filesystem of its own needs root");
    let disk = SmallDisk::new(384);
    let mut m = Mounted::with_store(tempfile::tempdir().unwrap(), disk.dir.join("store"), &[]);

    let whole = fill(&m, "a");
    assert!(whole > 200, "only {whole} MiB fit into 384");
    all_there(&m, "a", 0..whole);
    // Reading, truncating and deleting go on.
    File::options().write(true).open(m.path("a0")).unwrap().set_len(1000).unwrap();
    assert_eq!(fs::read(m.path("a0")).unwrap(), content(0, 1000));
    for n in (1..whole).step_by(2) {
        fs::remove_file(m.path(&format!("a{n}"))).unwrap();
    }
    // What was deleted yields to what is new.
    for n in 0..40 {
        soon("writing after deleting", || write_one(&m.path(&format!("b{n}")), n));
    }
    all_there(&m, "b", 0..40);
    all_there(&m, "a", (2..whole).step_by(2));

    // Full again, killed, and mounted again.
    let more = fill(&m, "c");
    m.kill();
    m.mount(&[]);
    all_there(&m, "a", (2..whole).step_by(2));
    all_there(&m, "b", 0..40);
    all_there(&m, "c", 0..more);
    for n in 0..more {
        fs::remove_file(m.path(&format!("c{n}"))).unwrap();
    }
    for n in 0..40 {
        fs::remove_file(m.path(&format!("b{n}"))).unwrap();
    }
    for n in 0..20 {
        soon("writing after a kill", || write_one(&m.path(&format!("d{n}")), n));
    }
    all_there(&m, "d", 0..20);
    m.unmount();
    let store = m.store();
    let verify = segfs::store::inspect::Inspection::open(&store).unwrap();
    let check = verify.check_index(&|_, _| {}).unwrap();
    assert_eq!(check.different, 0, "{check:?}");
    drop(verify);
    m.mount(&[]);
    all_there(&m, "d", 0..20);
    m.unmount();
}

/// Writes through a map, which the kernel hands over later, and says what each sync answered: "ok" or the number of the error.
const MAPPED: &str = r#"
import errno, mmap, os, sys, time
f = os.open(sys.argv[1], os.O_RDWR)
size = os.fstat(f).st_size
m = mmap.mmap(f, size)
def sync():
    try: os.fsync(f); print("ok", flush=True)
    except OSError as e: print(errno.errorcode[e.errno], flush=True)
for at in range(0, size, 4096): m[at:at + 4096] = os.urandom(4096)
sync()
sync()
input()
sync()
m.close(); os.close(f)
# The kernel tells of a close some time after it.
for _ in range(200):
    f = os.open(sys.argv[1], os.O_RDWR)
    os.pwrite(f, b"again", 0)
    try: os.fsync(f); break
    except OSError: os.close(f); time.sleep(0.05)
sync()
"#;

/// The kernel tells of collected data that it could not hand over once, and takes the file for clean then. The data is gone, so
/// that no sync may succeed, whatever has been freed meanwhile, until whoever wrote it has closed the file.
#[test]
fn what_was_lost_from_a_map_is_never_said_to_be_safe() {
    assert!(is_root(), "a filesystem of its own needs root");
    let disk = SmallDisk::new(128);
    let mut m = Mounted::with_store(tempfile::tempdir().unwrap(), disk.dir.join("store"), &[]);
    File::create_new(m.path("mapped")).unwrap().set_len(24 << 20).unwrap();
    let whole = fill(&m, "a");
    let mut python = Command::new("python3");
    python.args(["-c", MAPPED]).arg(m.path("mapped")).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = python.spawn().unwrap();
    let (mut ask, mut said) =
        (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()).lines());
    assert_eq!(said.next().unwrap().unwrap(), "ENOSPC");
    assert_eq!(said.next().unwrap().unwrap(), "EIO");
    for n in 0..whole {
        fs::remove_file(m.path(&format!("a{n}"))).unwrap();
    }
    soon("writing after deleting", || write_one(&m.path("b"), 1));
    ask.write_all(b"\n").unwrap();
    assert_eq!(said.next().unwrap().unwrap(), "EIO", "there is room now, but not for what is gone");
    assert_eq!(said.next().unwrap().unwrap(), "ok", "opened anew");
    assert!(child.wait().unwrap().success());
    m.unmount();
}
