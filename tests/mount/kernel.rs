//! What the kernel's interface and the crate that speaks it are known to get wrong, seen from outside.

use std::{
    fs::{self, File},
    os::unix::fs::FileExt,
    process::Command,
    time::Duration,
};

use rustix::{fs::XattrFlags, io::Errno};

use super::{Mounted, is_root, segfs, write};

/// fuser 0.18 joins mount options with commas as they are.
#[test]
fn a_comma_in_the_name_of_the_store_is_no_mount_option() {
    let root = tempfile::tempdir().unwrap();
    let store = root.path().join("a,ro,\\b c");
    let mut m = Mounted { root, store: store.clone(), daemon: None };
    let mut command = Command::new(super::SEGFS);
    command.args(["mount", "--background"]).arg(&store).arg(m.dir());
    assert!(command.output().unwrap().status.success());
    write(&m.path("f"), "not read-only");
    let table = fs::read_to_string("/proc/self/mounts").unwrap();
    let dir = m.dir();
    let row = table.lines().find(|row| row.contains(dir.to_str().unwrap())).unwrap();
    assert!(row.starts_with("segfs ") && row.contains(" rw,"), "{row}");
    let done = segfs(&["umount", dir.to_str().unwrap()]);
    assert!(done.status.success(), "{done:?}");
    m.daemon = None;
    // Closed soon after, although the table did not say which store it was.
    for _ in 0..500 {
        if segfs::store::Store::open(&store, segfs::store::Options::default()).is_ok() {
            return;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    panic!("the store stays in use");
}

/// fuser 0.18 panics on FUSE_SETXATTR_EXT, which is why it is not asked for; what a kernel sends then is understood.
#[test]
fn extended_attributes_of_every_size() {
    let m = Mounted::new();
    write(&m.path("f"), "x");
    for size in [0, 1, 4096, 65_536] {
        let value = vec![7; size];
        rustix::fs::setxattr(m.path("f"), "user.x", &value, XattrFlags::empty()).unwrap();
        let mut back = vec![0; 65_536];
        let n = rustix::fs::getxattr(m.path("f"), "user.x", &mut back).unwrap();
        assert_eq!(back[..n], value);
    }
    let mut small = [0; 8];
    assert_eq!(rustix::fs::getxattr(m.path("f"), "user.x", &mut small), Err(Errno::RANGE));
    let too_big = rustix::fs::setxattr(m.path("f"), "user.x", &[0; 65_537], XattrFlags::empty());
    assert_eq!(too_big, Err(Errno::TOOBIG));
    let gone = rustix::fs::setxattr(m.path("f"), "user.y", b"", XattrFlags::REPLACE);
    assert_eq!(gone, Err(Errno::NODATA));
    assert_eq!(fs::read_to_string(m.path("f")).unwrap(), "x", "the daemon lives");
}

#[test]
fn a_busy_mount_waits_for_its_files_when_told_to_end() {
    if !is_root() {
        return;
    }
    let mut m = Mounted::new();
    write(&m.path("f"), "first");
    let f = File::options().append(true).open(m.path("f")).unwrap();
    let mut daemon = m.daemon.take().unwrap();
    let pid = rustix::process::Pid::from_child(&daemon);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    // Out of sight, yet what is open still works.
    for _ in 0..200 {
        if fs::read_dir(m.dir()).is_ok_and(|mut d| d.next().is_none()) {
            break;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    // Long enough for a daemon to be gone that would not wait.
    std::thread::sleep(Duration::from_millis(700));
    std::io::Write::write_all(&mut &f, b" and last").unwrap();
    f.sync_all().unwrap();
    drop(f);
    assert!(daemon.wait().unwrap().success());
    m.mount(&[]);
    assert_eq!(fs::read_to_string(m.path("f")).unwrap(), "first and last");
}

#[test]
fn a_dead_mount_is_recognised_and_cleared() {
    let mut m = Mounted::new();
    write(&m.path("f"), "x");
    File::open(m.path("f")).unwrap().sync_all().unwrap();
    m.kill();
    assert_eq!(fs::read_dir(m.dir()).unwrap_err().kind(), std::io::ErrorKind::NotConnected);
    let said = segfs(&["status", "--json", m.dir().to_str().unwrap()]);
    assert!(String::from_utf8_lossy(&said.stdout).contains("\"dead\""), "{said:?}");
    m.mount(&[]);
    assert_eq!(fs::read_to_string(m.path("f")).unwrap(), "x");
    m.unmount();
    assert!(fs::read_dir(m.dir()).unwrap().next().is_none());
}

/// The few threads that take requests don't all wait for the disk: others do.
#[test]
fn many_cold_reads_at_once_are_right_and_wait_elsewhere() {
    const PAGES: u64 = 4096;
    const TMPFS: i64 = 0x0102_1994;
    let mut m = Mounted::new();
    let page = |n: u64| n.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes().repeat(512);
    write(&m.path("f"), (0..PAGES).flat_map(page).collect::<Vec<u8>>());
    m.unmount();
    let evict = |m: &Mounted| {
        for entry in fs::read_dir(m.store().join("segments")).unwrap() {
            let file = File::open(entry.unwrap().path()).unwrap();
            file.sync_all().unwrap();
            rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
        }
    };
    let waits_elsewhere = |m: &Mounted| {
        let tasks = format!("/proc/{}/task", m.daemon.as_ref().unwrap().id());
        fs::read_dir(tasks).unwrap().flatten().any(|task| {
            fs::read_to_string(task.path().join("comm")).is_ok_and(|name| name.starts_with("segfs-wait"))
        })
    };
    let mut seen = false;
    for round in 0..20 {
        evict(&m);
        m.mount(&[]);
        std::thread::scope(|scope| {
            for job in 0..8 {
                let m = &m;
                scope.spawn(move || {
                    let f = File::open(m.path("f")).unwrap();
                    let mut bytes = [0; 4096];
                    for n in 0..128 {
                        // No two of them ask for one page, and none is asked for twice.
                        let at = (n * 8 + job + round) * 1_021 % PAGES;
                        f.read_exact_at(&mut bytes, at * 4096).unwrap();
                        assert!(bytes[..] == page(at)[..], "page {at}");
                    }
                });
            }
        });
        seen = waits_elsewhere(&m);
        m.unmount();
        if seen {
            break;
        }
    }
    // A filesystem in memory never waits.
    let in_memory = rustix::fs::statfs(m.root.path()).unwrap().f_type == TMPFS;
    assert!(seen || in_memory, "nobody but those who take requests ever waited");
}
