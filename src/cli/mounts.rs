//! Mounting anew and unmounting; the table of mounts is `console`'s.

use std::{
    ffi::OsString,
    io,
    os::unix::ffi::{OsStrExt, OsStringExt},
    path::Path,
    process::Command,
    sync::mpsc,
    time::Duration,
};

pub use segfs::console::mounts::{
    Mounted, absolute, absolute_name, all, around, is_mountpoint, of_store, on,
};

use rustix::mount::{MountFlags, UnmountFlags, mount_remount, unmount};

/// How often what is busy is tried again, 20 ms apart.
const BUSY_STEPS: u32 = 50;

/// 20 ms, for what another process does and can only be polled.
#[allow(clippy::disallowed_methods)] // the edge
pub fn wait_a_moment() {
    std::thread::sleep(std::time::Duration::from_millis(20));
}

/// How long a mount may take to say that it is there.
const PATIENCE: Duration = Duration::from_secs(3);

/// Does what may wait for a mount that does not answer, and gives up after a while; the process can end all the same.
pub fn patiently<T: Send + 'static>(ask: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    let (send, answer) = mpsc::sync_channel(1);
    std::thread::Builder::new().spawn(move || send.send(ask())).ok()?;
    answer.recv_timeout(PATIENCE).ok()
}

/// Is this a mount whose process is gone? One that does not answer is not.
pub fn is_dead(dir: &Path) -> bool {
    let dir = dir.to_owned();
    // The kernel may still know the directory's attributes by heart, but never these.
    let asked = patiently(move || rustix::fs::statvfs(&dir));
    asked.is_some_and(|a| a.is_err_and(|e| io::Error::from(e).kind() == io::ErrorKind::NotConnected))
}

/// Lets the kernel read ahead on a mount of ours as much as one request holds; it begins with an eighth of that. Only root
/// may say so, and without it reading from end to end takes more requests.
pub fn read_ahead(dir: &Path) {
    if let Some(m) = on(dir) {
        let setting = format!("/sys/class/bdi/{}/read_ahead_kb", m.device);
        let _ = std::fs::write(setting, (segfs::fuse::REQUEST_BYTES / 1024).to_string());
    }
}

/// Mounts anew what is mounted, with other options.
pub fn change(dir: &Path, options: &segfs::fuse::Options) -> io::Result<()> {
    let mut flags = MountFlags::empty();
    flags.set(MountFlags::RDONLY, options.read_only);
    flags.set(MountFlags::NODEV, !options.devices);
    flags.set(MountFlags::NOSUID, !options.set_id);
    flags.set(MountFlags::NOEXEC, !options.execute);
    flags.set(MountFlags::SYNCHRONOUS, options.synchronous);
    flags.set(MountFlags::DIRSYNC, options.directories_synchronous);
    flags.set(MountFlags::NOATIME, options.access_times == segfs::vfs::AccessTimes::Never);
    // A file that was closed just now is released a moment later, and until then the mount counts as written to.
    for _ in 0..BUSY_STEPS {
        match mount_remount(dir, flags, c"").map_err(io::Error::from) {
            Err(e) if e.kind() == io::ErrorKind::ResourceBusy => wait_a_moment(),
            done => return done,
        }
    }
    Ok(mount_remount(dir, flags, c"")?)
}

/// Unmounts; a user who may not asks fusermount3.
pub fn take_down(dir: &Path, lazy: bool) -> io::Result<()> {
    let flags = if lazy { UnmountFlags::DETACH } else { UnmountFlags::empty() };
    let Err(e) = unmount(dir, flags) else { return Ok(()) };
    let e = io::Error::from(e);
    if e.kind() != io::ErrorKind::PermissionDenied {
        return Err(e);
    }
    let mut command = Command::new("fusermount3");
    command.arg("-u");
    if lazy {
        command.arg("-z");
    }
    let done = command.arg("--").arg(dir.as_os_str()).output()?;
    if done.status.success() {
        return Ok(());
    }
    let said = OsString::from_vec(done.stderr);
    let said = String::from_utf8_lossy(said.as_bytes()).trim().to_owned();
    let kind = if said.contains("busy") { io::ErrorKind::ResourceBusy } else { io::ErrorKind::Other };
    Err(io::Error::new(kind, said))
}
