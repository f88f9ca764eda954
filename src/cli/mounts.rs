//! The table of mounts, and unmounting.

use std::{
    ffi::OsString,
    io,
    os::unix::ffi::{OsStrExt, OsStringExt},
    path::{Path, PathBuf},
    process::Command,
};

use rustix::mount::{MountFlags, UnmountFlags, mount_remount, unmount};

/// The filesystem type that mount tables show.
const TYPE: &[u8] = b"fuse.segfs";

/// How often what is busy is tried again, 20 ms apart.
const BUSY_STEPS: u32 = 50;

/// 20 ms, for what another process does and can only be polled.
#[allow(clippy::disallowed_methods)] // the edge
pub fn wait_a_moment() {
    std::thread::sleep(std::time::Duration::from_millis(20));
}

/// A mount of ours.
#[derive(Debug, Clone)]
pub struct Mounted {
    /// Where.
    pub dir: PathBuf,
    /// The store, as far as the table says.
    pub store: PathBuf,
    /// Nothing can be changed.
    pub read_only: bool,
}

/// An entry of the mount table.
struct Row {
    dir: PathBuf,
    /// Numbers of the device, as in sysfs.
    device: String,
    kind: Vec<u8>,
    source: PathBuf,
    read_only: bool,
}

/// `\040` and the like, as the table writes them.
fn unescape(field: &[u8]) -> PathBuf {
    let mut out = Vec::with_capacity(field.len());
    let mut i = 0;
    while i < field.len() {
        let octal = field
            .get(i + 1..i + 4)
            .filter(|d| field[i] == b'\\' && d.iter().all(|c| (b'0'..=b'7').contains(c)));
        if let Some(d) = octal {
            out.push(d.iter().fold(0_u8, |n, c| n.wrapping_mul(8).wrapping_add(c - b'0')));
            i += 4;
        } else {
            out.push(field[i]);
            i += 1;
        }
    }
    PathBuf::from(OsString::from_vec(out))
}

fn table() -> Vec<Row> {
    let text = std::fs::read("/proc/self/mountinfo").unwrap_or_default();
    text.split(|b| *b == b'\n').filter_map(row).collect()
}

/// `id parent dev root DIR options [optional...] - TYPE SOURCE options`
fn row(line: &[u8]) -> Option<Row> {
    let fields: Vec<&[u8]> = line.split(|b| *b == b' ').collect();
    let dash = fields.iter().position(|f| *f == b"-")?;
    Some(Row {
        dir: unescape(fields.get(4)?),
        device: String::from_utf8_lossy(fields.get(2)?).into_owned(),
        kind: fields.get(dash + 1)?.to_vec(),
        source: unescape(fields.get(dash + 2)?),
        read_only: fields.get(5)?.split(|b| *b == b',').any(|o| o == b"ro"),
    })
}

/// All mounts of ours.
pub fn all() -> Vec<Mounted> {
    let ours = table().into_iter().filter(|r| r.kind == TYPE);
    ours.map(|r| Mounted { dir: r.dir, store: r.source, read_only: r.read_only }).collect()
}

/// The mount on a directory, if it is one of ours.
pub fn on(dir: &Path) -> Option<Mounted> {
    let dir = absolute(dir);
    all().into_iter().rfind(|m| m.dir == dir)
}

/// Is anything mounted on a directory?
pub fn is_mountpoint(dir: &Path) -> bool {
    let dir = absolute(dir);
    table().iter().any(|r| r.dir == dir)
}

/// Lets the kernel read ahead on a mount of ours as much as one request holds; it begins with an eighth of that. Only root
/// may say so, and without it reading from end to end takes more requests.
pub fn read_ahead(dir: &Path) {
    let dir = absolute(dir);
    if let Some(row) = table().into_iter().rfind(|r| r.dir == dir && r.kind == TYPE) {
        let setting = format!("/sys/class/bdi/{}/read_ahead_kb", row.device);
        let _ = std::fs::write(setting, (segfs::fuse::REQUEST_BYTES / 1024).to_string());
    }
}

/// Where a store is mounted.
pub fn of_store(store: &Path) -> Option<Mounted> {
    let store = absolute(store);
    all().into_iter().find(|m| m.store == store)
}

/// A path as the table names it. Works for a dead mount too, whose own directory can't be asked.
pub fn absolute(path: &Path) -> PathBuf {
    if let Ok(real) = path.canonicalize() {
        return real;
    }
    let whole = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    match (whole.parent().and_then(|p| p.canonicalize().ok()), whole.file_name()) {
        (Some(parent), Some(name)) => parent.join(name),
        _ => whole,
    }
}

/// Is this a mount whose process is gone?
pub fn is_dead(dir: &Path) -> bool {
    // The kernel may still know the directory's attributes by heart, but never these.
    rustix::fs::statvfs(dir).is_err_and(|e| io::Error::from(e).kind() == io::ErrorKind::NotConnected)
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
    flags.set(MountFlags::NOATIME, options.no_access_times);
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
