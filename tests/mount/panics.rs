//! Something in the real daemon panics: a request, or one of its threads. With the planted bugs alone, since nobody can ask
//! a release for that.
//!
//! Whoever asked is told, reading goes on, writing is refused with a reason that `segfs status` gives, nothing hangs, and the store
//! opens again with all that was synced.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    path::PathBuf,
    process::Command,
    sync::mpsc,
    time::{Duration, Instant},
};

use super::{Mounted, segfs, write};

const EIO: i32 = 5;
/// What takes longer hangs.
const HANGS: Duration = Duration::from_secs(60);

/// Does what must not hang. If it does all the same, its daemon is killed, which ends that.
fn within_time<T: Send + 'static>(
    m: &mut Mounted,
    what: &str,
    act: impl FnOnce() -> T + Send + 'static,
) -> T {
    let (send, answer) = mpsc::channel();
    std::thread::spawn(move || send.send(act()));
    answer.recv_timeout(HANGS).unwrap_or_else(|e| {
        m.kill();
        panic!("{what}: {e}");
    })
}

fn errno<T>(done: io::Result<T>) -> Option<i32> {
    done.err().and_then(|e| e.raw_os_error())
}

/// Why the mount writes nothing any more.
fn stopped(m: &Mounted) -> Option<String> {
    let said = segfs(&["status", "--json", m.dir().to_str().unwrap()]);
    let status: serde_json::Value = serde_json::from_slice(&said.stdout).unwrap();
    let stopped = status["stopped"].as_str().map(str::to_owned);
    assert_eq!(said.status.code(), Some(i32::from(stopped.is_some())), "{said:?}");
    stopped
}

/// Waits until the mount says that it stopped.
fn stops(m: &Mounted) -> String {
    let began = Instant::now();
    loop {
        if let Some(why) = stopped(m) {
            return why;
        }
        assert!(began.elapsed() < HANGS, "it goes on as if nothing had happened");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// The daemon panics where that is named, once something comes there. Looking up this name asks for it.
fn arm(m: &Mounted, place: &str) {
    let asked = fs::metadata(m.path(&format!("planted-panic:{place}")));
    assert_eq!(asked.unwrap_err().kind(), io::ErrorKind::NotFound);
    assert_eq!(stopped(m), None);
}

/// A mount with a file that was synced and one that is open.
fn mounted() -> (Mounted, File) {
    let m = Mounted::new();
    write(&m.path("before"), [7; 8192]);
    let mut f = File::create_new(m.path("f")).unwrap();
    f.write_all(b"one").unwrap();
    f.sync_all().unwrap();
    (m, f)
}

/// What holds after a panic, whatever it was.
fn reads_go_on_and_nothing_is_written(m: &mut Mounted, mut f: File, why: &str) {
    assert!(stops(m).contains(why), "{:?}", stopped(m));
    let (dir, path) = (m.dir(), |name: &str| -> PathBuf { m.path(name) });
    let (before, g) = (path("before"), path("g"));
    within_time(m, "using the mount", move || {
        for done in [
            f.write_all(b"three"),
            f.sync_all(),
            File::create_new(&g).map(drop),
            fs::create_dir(&g),
            fs::remove_file(&before),
            fs::rename(&before, &g),
        ] {
            assert_eq!(errno(done), Some(EIO));
        }
        // Not from the kernel's cache.
        let direct = format!(
            "dd if={} iflag=direct bs=4096 status=none | cmp - <(head -c 8192 /dev/zero | tr '\\0' '\\7')",
            before.display()
        );
        let read = Command::new("bash").args(["-c", &direct]).status().unwrap();
        assert!(read.success());
        assert!(fs::read_dir(dir).unwrap().count() >= 2);
        drop(f);
    });
    let dir = m.dir();
    let done = within_time(m, "unmounting", move || segfs(&["umount", dir.to_str().unwrap()]));
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.code() == Some(1) && said.contains(why), "{done:?}");
    assert!(fs::read_dir(m.dir()).unwrap().next().is_none(), "it is unmounted");
    let mut daemon = m.daemon.take().unwrap();
    assert_eq!(within_time(m, "ending", move || daemon.wait().unwrap().code()), Some(1));
    m.mount(&[]);
    assert_eq!(stopped(m), None);
    assert_eq!(fs::read(m.path("before")).unwrap(), [7; 8192]);
    assert!(fs::read(m.path("f")).unwrap().starts_with(b"one"));
    write(&m.path("h"), "goes on");
    m.unmount();
    let store = segfs::store::inspect::Inspection::open(&m.store()).unwrap();
    let check = store.check_index(&|_, _| {}).unwrap();
    assert_eq!(check.different, 0, "{check:?}");
}

#[test]
fn a_request_that_panics_is_an_error() {
    let (mut m, mut f) = mounted();
    arm(&m, "write");
    assert_eq!(errno(f.write_all(b"two")), Some(EIO));
    reads_go_on_and_nothing_is_written(&mut m, f, "a request panicked: planted in write");

    let (mut m, f) = mounted();
    arm(&m, "xattr");
    let asked = rustix::fs::getxattr(m.path("f"), "user.x", &mut [0; 8]);
    assert_eq!(asked, Err(rustix::io::Errno::IO));
    reads_go_on_and_nothing_is_written(&mut m, f, "a request panicked: planted in xattr");
}

#[test]
fn a_panic_between_log_and_index_is_an_error() {
    let (mut m, f) = mounted();
    arm(&m, "apply");
    assert_eq!(errno(File::create_new(m.path("new"))), Some(EIO));
    reads_go_on_and_nothing_is_written(&mut m, f, "a panic while a record was applied");
}

#[test]
fn a_panic_in_a_commit_is_an_error_of_the_sync() {
    let (mut m, mut f) = mounted();
    arm(&m, "commit");
    // The thread that commits twice a second may be the one that comes there.
    let wrote = errno(f.write_all(b"two"));
    assert!(wrote.is_none() || wrote == Some(EIO));
    assert_eq!(errno(f.sync_all()), Some(EIO));
    reads_go_on_and_nothing_is_written(&mut m, f, "planted in commit");
}

#[test]
fn a_panic_of_a_thread_stops_writing_and_no_more() {
    for thread in ["segfs-store", "segfs-merge", "segfs-hash", "segfs-space"] {
        let (mut m, mut f) = mounted();
        f.write_all(b"not synced").unwrap();
        arm(&m, thread);
        let why = format!("the thread {thread} panicked: planted in {thread}");
        stops(&m);
        // What was written before is made durable all the same: nothing else may come by to do that.
        let said = segfs(&["status", "--json", m.dir().to_str().unwrap()]);
        let status: serde_json::Value = serde_json::from_slice(&said.stdout).unwrap();
        assert_eq!(status["log"]["durable_lsn"], status["log"]["last_lsn"], "{thread}");
        reads_go_on_and_nothing_is_written(&mut m, f, &why);
    }
}

#[test]
fn a_panic_of_the_log_s_own_thread_stops_writing() {
    let (mut m, f) = mounted();
    arm(&m, "segfs-log");
    // It makes segment files ahead of need.
    let mut random = vec![0; 1 << 20];
    for n in 0..400 {
        rustix::rand::getrandom(&mut random[..256], rustix::rand::GetRandomFlags::empty()).unwrap();
        for at in 256..random.len() {
            random[at] = random[at - 256].wrapping_mul(31).wrapping_add(random[at - 255]).rotate_left(3);
        }
        if fs::write(m.path(&format!("big{}", n % 4)), &random).is_err() {
            break;
        }
    }
    reads_go_on_and_nothing_is_written(&mut m, f, "the thread segfs-log panicked: planted in segfs-log");
}
