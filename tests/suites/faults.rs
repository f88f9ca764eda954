//! System calls of the daemon fail, injected by strace into the running process.

use std::{
    fs::{self, File},
    io::Write,
    os::unix::fs::FileExt,
    process::{Child, Command, Stdio},
    time::Duration,
};

use crate::mount::{Mounted, write, writes_are_collected};

/// What the daemon makes data durable with: small commits by write and fdatasync, large ones through io_uring.
const SYNCS: &str = "fdatasync,fsync,io_uring_enter";
/// What it writes with, and what makes files longer.
const WRITES: &str = "pwrite64,pwritev,pwritev2,write,fallocate,io_uring_enter";

/// Makes system calls of the daemon fail until it is let go.
struct Injected(Child);

impl Injected {
    fn new(m: &Mounted, calls: &str, error: &str) -> Self {
        let pid = m.daemon.as_ref().unwrap().id().to_string();
        let mut strace = Command::new("strace");
        strace.args(["-f", "-o", "/dev/null", "-e", &format!("trace={calls}")]);
        strace.args(["-e", &format!("inject={calls}:error={error}"), "-p", &pid]);
        let injected = Self(strace.stderr(Stdio::null()).spawn().unwrap());
        // Attached once every thread of the daemon has a tracer.
        for _ in 0..500 {
            let traced = |task: fs::DirEntry| {
                let status = fs::read_to_string(task.path().join("status")).unwrap_or_default();
                !status.contains("TracerPid:\t0\n")
            };
            if fs::read_dir(format!("/proc/{pid}/task")).unwrap().all(|task| traced(task.unwrap())) {
                return injected;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("strace could not be attached to the daemon");
    }

    fn let_go(mut self) {
        self.end();
    }

    fn end(&mut self) {
        let pid = rustix::process::Pid::from_child(&self.0);
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::INT);
        let _ = self.0.wait();
    }
}

impl Drop for Injected {
    fn drop(&mut self) {
        self.end();
    }
}

fn errno<T>(done: std::io::Result<T>) -> Option<i32> {
    done.err().and_then(|e| e.raw_os_error())
}

const EIO: i32 = 5;
const ENOSPC: i32 = 28;

#[test]
#[ignore = "cargo xtask test --only killed"]
fn a_failed_sync_is_an_error_and_stays_one() {
    let mut m = Mounted::new();
    write(&m.path("before"), "kept");
    File::open(m.path("before")).unwrap().sync_all().unwrap();
    let f = File::create_new(m.path("f")).unwrap();
    let injected = Injected::new(&m, SYNCS, "EIO");
    // The store may have found out by itself already, since it commits twice a second: then the write fails.
    let wrote = f.write_all_at(b"lost", 0);
    assert_eq!(errno(f.sync_all()), Some(EIO));
    assert!(wrote.is_ok() || errno(wrote) == Some(EIO));
    injected.let_go();
    // The cause is gone, and still nothing may say that what was lost is safe.
    for _ in 0..3 {
        assert_eq!(errno(f.sync_all()), Some(EIO));
    }
    // What the kernel collects is refused when it is handed over, at the latest by a sync.
    let more = errno(f.write_all_at(b"more", 4)).or_else(|| errno(f.sync_all()));
    assert_eq!(more, Some(EIO));
    assert!(writes_are_collected() || errno(f.write_all_at(b"more", 4)) == Some(EIO));
    for _ in 0..3 {
        assert_eq!(errno(f.sync_all()), Some(EIO));
    }
    assert_eq!(errno(File::create_new(m.path("g"))), Some(EIO));
    assert_eq!(errno(File::open(m.path("before")).unwrap().sync_all()), Some(EIO));
    // Reading goes on.
    assert_eq!(fs::read_to_string(m.path("before")).unwrap(), "kept");
    assert!(fs::read_dir(m.dir()).unwrap().count() >= 2);
    drop(f);
    m.kill();
    m.mount(&[]);
    assert_eq!(fs::read_to_string(m.path("before")).unwrap(), "kept");
    write(&m.path("g"), "goes on");
    File::open(m.path("g")).unwrap().sync_all().unwrap();
    m.unmount();
}

#[test]
#[ignore = "cargo xtask test --only killed"]
fn a_disk_without_space_is_no_success() {
    let mut m = Mounted::new();
    write(&m.path("before"), "kept");
    File::open(m.path("before")).unwrap().sync_all().unwrap();
    let mut f = File::create_new(m.path("f")).unwrap();
    let injected = Injected::new(&m, WRITES, "ENOSPC");
    let wrote = f.write_all(&vec![7; 300_000]);
    let synced = f.sync_all();
    let codes = [errno(wrote), errno(synced)];
    assert!(codes.iter().flatten().all(|code| [EIO, ENOSPC].contains(code)), "{codes:?}");
    assert!(codes[1].is_some(), "what could not be written is not durable");
    injected.let_go();
    let later = f.sync_all();
    assert_eq!(fs::read_to_string(m.path("before")).unwrap(), "kept");
    drop(f);
    m.kill();
    m.mount(&[]);
    assert_eq!(fs::read_to_string(m.path("before")).unwrap(), "kept");
    if later.is_ok() {
        assert_eq!(fs::read(m.path("f")).unwrap(), vec![7; 300_000], "a later sync said that it is there");
    }
    m.unmount();
}
