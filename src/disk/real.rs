//! The real disk: a directory on a filesystem of this machine.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, OwnedFd},
    path::{Component, Path},
    sync::{Arc, OnceLock},
};

use rustix::{
    fs::{AtFlags, CWD, Dir, FlockOperation, Mode, OFlags},
    io::{Errno, retry_on_intr},
};

use super::{Disk, DiskFile, Space, plain, uring::Rings};

const FILE_MODE: Mode = Mode::RUSR.union(Mode::WUSR);
const DIR_MODE: Mode = Mode::RWXU;
const DIR_FLAGS: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);
/// What a lock file says of its holder is read up to here, in bytes.
const HOLDER_BYTES: usize = 4096;

/// How writes reach the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Engine {
    /// io_uring where the kernel permits it, else plain.
    #[default]
    Auto,
    /// io_uring for large commits; opening fails where the kernel does not permit it.
    IoUring,
    /// System calls only.
    Plain,
}

/// A directory of this machine. It stays the same directory when it is renamed or the process changes its
/// own, and paths in it may be as long as they like.
pub struct RealDisk {
    root: OwnedFd,
    rings: Option<Arc<Rings>>,
}

impl RealDisk {
    /// Opens an existing directory.
    ///
    /// # Errors
    /// `NotFound`, `NotADirectory`, or what the system says, also of io_uring if that was asked for.
    pub fn open(root: &Path, engine: Engine) -> io::Result<Self> {
        let rings = match engine {
            Engine::Plain => None,
            Engine::IoUring => Some(Rings::probe()?),
            Engine::Auto => Rings::probe()
                .inspect_err(|e| tracing::debug!("no io_uring here, plain system calls instead: {e}"))
                .ok(),
        };
        Ok(Self { root: open_root(root)?, rings: rings.map(Arc::new) })
    }

    /// Makes the directory and its parents, for their owner alone, durably, and opens it; one that exists
    /// is fine.
    ///
    /// # Errors
    /// What the system says.
    pub fn create(root: &Path, engine: Engine) -> io::Result<Self> {
        let start = if root.is_absolute() { Path::new("/") } else { Path::new(".") };
        let mut at = open_root(start)?;
        for part in root.components() {
            match part {
                Component::RootDir | Component::CurDir | Component::Prefix(_) => continue,
                Component::ParentDir => {}
                Component::Normal(name) => match rustix::fs::mkdirat(&at, name, DIR_MODE) {
                    Ok(()) => rustix::fs::fsync(&at)?,
                    Err(Errno::EXIST) => {}
                    Err(e) => return Err(e.into()),
                },
            }
            at = open_dir(&at, Path::new(part.as_os_str()))?;
        }
        Self::open(root, engine)
    }

    fn file(&self, path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
        let path = inside(path)?;
        Ok(retry_on_intr(|| rustix::fs::openat(&self.root, path, flags | OFlags::CLOEXEC, FILE_MODE))?)
    }
}

fn open_dir(at: &OwnedFd, path: &Path) -> io::Result<OwnedFd> {
    Ok(retry_on_intr(|| rustix::fs::openat(at, path, DIR_FLAGS, Mode::empty()))?)
}

/// Opens the store's directory; step by step, if its path is longer than the kernel takes at once.
fn open_root(root: &Path) -> io::Result<OwnedFd> {
    match retry_on_intr(|| rustix::fs::openat(CWD, root, DIR_FLAGS, Mode::empty())) {
        Err(Errno::NAMETOOLONG) => {
            let mut parts = root.components();
            let first = parts.next().map_or(Path::new("."), |c| Path::new(c.as_os_str()));
            let start = rustix::fs::openat(CWD, first, DIR_FLAGS, Mode::empty())?;
            parts.try_fold(start, |at, part| open_dir(&at, Path::new(part.as_os_str())))
        }
        other => Ok(other?),
    }
}

/// The path, if it leads to a place below the root; the root itself is `""` or `"."`.
fn inside(path: &Path) -> io::Result<&Path> {
    if !path.components().all(|c| matches!(c, Component::Normal(_) | Component::CurDir)) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("{}: outside of the store", path.display()),
        ));
    }
    Ok(if path.as_os_str().is_empty() { Path::new(".") } else { path })
}

impl Disk for RealDisk {
    fn open(&self, path: &Path, write: bool) -> io::Result<Arc<dyn DiskFile>> {
        let fd = self.file(path, if write { OFlags::RDWR } else { OFlags::RDONLY })?;
        // What is open to be read is not to be written by another way.
        Ok(Arc::new(RealFile::new(fd, self.rings.clone().filter(|_| write))))
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let fd = self.file(path, OFlags::RDWR | OFlags::CREATE | OFlags::EXCL)?;
        Ok(Arc::new(RealFile::new(fd, self.rings.clone())))
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        let mut so_far = std::path::PathBuf::new();
        for part in inside(path)?.components() {
            so_far.push(part);
            match rustix::fs::mkdirat(&self.root, &so_far, DIR_MODE) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(e) => return Err(e.into()),
            }
        }
        // What exists may be a file.
        open_dir(&self.root, inside(path)?).map(drop)
    }

    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in Dir::new(open_dir(&self.root, inside(path)?)?)? {
            let entry = entry?;
            // The store's own names are ASCII; a stranger's may not be, and is shown as well as can be.
            let name = entry.file_name().to_string_lossy();
            if name != "." && name != ".." {
                names.push(name.into_owned());
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        Ok(rustix::fs::renameat(&self.root, inside(from)?, &self.root, inside(to)?)?)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        Ok(rustix::fs::unlinkat(&self.root, inside(path)?, AtFlags::empty())?)
    }

    fn number(&self, path: &Path) -> io::Result<Option<u64>> {
        Ok(Some(rustix::fs::statat(&self.root, inside(path)?, AtFlags::SYMLINK_NOFOLLOW)?.st_ino))
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        Ok(rustix::fs::unlinkat(&self.root, inside(path)?, AtFlags::REMOVEDIR)?)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        Ok(rustix::fs::fsync(open_dir(&self.root, inside(path)?)?)?)
    }

    fn lock(&self, path: &Path, holder: &str) -> io::Result<Box<dyn Send + Sync>> {
        let mut text = holder.as_bytes();
        text = &text[..text.len().min(HOLDER_BYTES)];
        loop {
            let fd = self.file(path, OFlags::RDWR | OFlags::CREATE)?;
            match retry_on_intr(|| rustix::fs::flock(&fd, FlockOperation::NonBlockingLockExclusive)) {
                Ok(()) => {}
                Err(Errno::WOULDBLOCK) => return Err(held(&fd)),
                Err(e) => return Err(e.into()),
            }
            // Somebody may have replaced the file before we had it: then this is a lock on nothing.
            let (ours, named) =
                (rustix::fs::fstat(&fd)?, rustix::fs::statat(&self.root, inside(path)?, AtFlags::empty()));
            if !named.is_ok_and(|n| (n.st_dev, n.st_ino) == (ours.st_dev, ours.st_ino)) {
                continue;
            }
            retry_on_intr(|| rustix::fs::ftruncate(&fd, 0))?;
            match plain::write(fd.as_fd(), &[text], 0) {
                // On a full disk things are to be deleted, not locked up; the system knows the holder too.
                Err(e) if matches!(e.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) => {}
                other => other?,
            }
            return Ok(Box::new(Lock { fd }));
        }
    }

    fn lock_shared(&self, path: &Path) -> io::Result<Option<Box<dyn Send + Sync>>> {
        let fd = match self.file(path, OFlags::RDONLY) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other?,
        };
        match retry_on_intr(|| rustix::fs::flock(&fd, FlockOperation::NonBlockingLockShared)) {
            Ok(()) => Ok(Some(Box::new(SharedLock { fd }))),
            Err(Errno::WOULDBLOCK) => Err(held(&fd)),
            Err(e) => Err(e.into()),
        }
    }

    fn space(&self) -> io::Result<Space> {
        let stat = rustix::fs::fstatvfs(&self.root)?;
        Ok(Space {
            total_bytes: stat.f_blocks.saturating_mul(stat.f_frsize),
            free_bytes: stat.f_bavail.saturating_mul(stat.f_frsize),
        })
    }

    fn engine(&self) -> &'static str {
        if self.rings.is_some() { "io_uring" } else { "plain" }
    }
}

/// `WouldBlock`, with what the lock's holder wrote of itself.
fn held(fd: &OwnedFd) -> io::Error {
    let mut text = vec![0; HOLDER_BYTES];
    let n = plain::read(fd.as_fd(), &mut text, 0).unwrap_or(0);
    let text = String::from_utf8_lossy(&text[..n]);
    let text = match text.trim() {
        "" => holder_of(fd).map_or_else(|| "another process".into(), |pid| format!("process {pid}")),
        text => text.to_owned(),
    };
    io::Error::new(io::ErrorKind::WouldBlock, text)
}

/// The process that has a lock on this file, as the system lists it: for who reads it only and left no word.
fn holder_of(fd: &OwnedFd) -> Option<u32> {
    let stat = rustix::fs::fstat(fd).ok()?;
    let list = rustix::fs::open("/proc/locks", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).ok()?;
    let (mut bytes, mut part) = (Vec::new(), [0; 4096]);
    loop {
        match retry_on_intr(|| rustix::io::read(&list, &mut part)).ok()? {
            0 => break,
            n => bytes.extend_from_slice(&part[..n]),
        }
    }
    holder_in(&String::from_utf8_lossy(&bytes), stat.st_dev, stat.st_ino)
}

/// `1: FLOCK  ADVISORY  READ 4711 fe:01:131 0 EOF`, the device in hexadecimal.
fn holder_in(locks: &str, device: u64, inode: u64) -> Option<u32> {
    let place = format!("{:02x}:{:02x}:{inode}", rustix::fs::major(device), rustix::fs::minor(device));
    locks.lines().find_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [_, "FLOCK", _, _, pid, at, ..] = words[..] else { return None };
        (at == place).then(|| pid.parse().ok())?
    })
}

/// The open file is the lock. It says nothing of a holder once there is none.
struct Lock {
    fd: OwnedFd,
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Not being able to is harmless: who takes the lock next writes over it.
        let _ = rustix::fs::ftruncate(&self.fd, 0);
        unlock(&self.fd);
    }
}

/// A lock that was taken beside others.
struct SharedLock {
    fd: OwnedFd,
}

impl Drop for SharedLock {
    fn drop(&mut self) {
        unlock(&self.fd);
    }
}

/// Closing is not enough: a child that was just forked has the open file too, until it becomes another program.
fn unlock(fd: &OwnedFd) {
    // If it fails, the lock ends with the last of those who have the file.
    let _ = rustix::fs::flock(fd, FlockOperation::Unlock);
}

struct RealFile {
    fd: OwnedFd,
    rings: Option<Arc<Rings>>,
    /// The same file, open for direct writes; made when the first large commit comes.
    direct: OnceLock<Option<OwnedFd>>,
}

impl RealFile {
    const fn new(fd: OwnedFd, rings: Option<Arc<Rings>>) -> Self {
        Self { fd, rings, direct: OnceLock::new() }
    }

    /// The file for direct writes; none where the filesystem has no such thing.
    fn direct(&self) -> Option<&OwnedFd> {
        let open = || {
            // The name may have changed since; this way it is the same file in any case.
            let path = format!("/proc/self/fd/{}", self.fd.as_raw_fd());
            let flags = OFlags::RDWR | OFlags::DIRECT | OFlags::CLOEXEC;
            rustix::fs::openat(CWD, path, flags, Mode::empty()).ok()
        };
        self.direct.get_or_init(open).as_ref()
    }
}

impl DiskFile for RealFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        plain::read(self.fd.as_fd(), buffer, offset)
    }

    fn read_at_once(&self, buffer: &mut [u8], offset: u64) -> io::Result<Option<usize>> {
        plain::read_at_once(self.fd.as_fd(), buffer, offset)
    }

    fn write_at(&self, pieces: &[&[u8]], offset: u64) -> io::Result<()> {
        plain::write(self.fd.as_fd(), pieces, offset)
    }

    fn sync(&self) -> io::Result<()> {
        plain::sync(self.fd.as_fd())
    }

    fn write_and_sync(&self, pieces: &[&[u8]], offset: u64) -> io::Result<()> {
        if let Some(rings) = &self.rings
            && Rings::suits(pieces, offset)
            && let Some(direct) = self.direct()
            && rings.write_and_sync(direct.as_fd(), pieces, offset)?
        {
            return Ok(());
        }
        plain::write_and_sync(self.fd.as_fd(), pieces, offset)
    }

    fn start_writeback(&self, offset: u64, len: u64) {
        plain::start_writeback(self.fd.as_fd(), offset, len);
    }

    fn len(&self) -> io::Result<u64> {
        Ok(rustix::fs::fstat(&self.fd)?.st_size as u64)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        Ok(retry_on_intr(|| rustix::fs::ftruncate(&self.fd, len))?)
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        plain::allocate(self.fd.as_fd(), len)
    }
}
