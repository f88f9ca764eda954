//! The kernel's values to ours and back.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{FileAttr, FileType, INodeNo, TimeOrNow};
use rustix::fs::{Mode, OFlags};

use crate::{
    base::Ino,
    vfs::{Attributes, Caller, ObjectKind, SetTime, Time},
};

/// Bytes that `stat` names as the best size to read and write.
const BLOCK_SIZE: u32 = 4096;

pub(super) fn ino(n: INodeNo) -> Ino {
    Ino::new(n.0)
}

pub(super) fn node(ino: Ino) -> INodeNo {
    INodeNo(ino.get())
}

pub(super) fn caller(req: &fuser::Request) -> Caller {
    Caller { uid: req.uid(), gid: req.gid(), pid: req.pid() }
}

/// The further groups of a thread that has asked for something: FUSE tells only one.
pub(super) fn groups_of(pid: u32) -> Vec<u32> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let mut status = Vec::new();
    if let Ok(file) = rustix::fs::open(format!("/proc/{pid}/status"), flags, Mode::empty()) {
        let mut buffer = [0; 4096];
        while let Ok(n @ 1..) = rustix::io::read(&file, &mut buffer) {
            status.extend_from_slice(&buffer[..n]);
        }
    }
    let status = String::from_utf8_lossy(&status);
    let groups = status.lines().find_map(|line| line.strip_prefix("Groups:"));
    groups.into_iter().flat_map(str::split_whitespace).filter_map(|g| g.parse().ok()).collect()
}

/// Whether the process that asks is in a group beside its first: the kernel does not say, so its status does.
pub(super) fn in_group(req: &fuser::Request) -> impl Fn(u32) -> bool + use<> {
    let pid = req.pid();
    move |gid| groups_of(pid).contains(&gid)
}

pub(super) fn file_type(kind: ObjectKind) -> FileType {
    match kind {
        ObjectKind::Unknown | ObjectKind::File => FileType::RegularFile,
        ObjectKind::Directory => FileType::Directory,
        ObjectKind::Symlink => FileType::Symlink,
        ObjectKind::Fifo => FileType::NamedPipe,
        ObjectKind::Socket => FileType::Socket,
        ObjectKind::CharDevice => FileType::CharDevice,
        ObjectKind::BlockDevice => FileType::BlockDevice,
    }
}

/// The kind that a mode from mknod(2) asks for; none for those that it can't make.
pub(super) fn kind(mode: u32) -> Option<ObjectKind> {
    match mode & libc::S_IFMT {
        0 | libc::S_IFREG => Some(ObjectKind::File),
        libc::S_IFIFO => Some(ObjectKind::Fifo),
        libc::S_IFSOCK => Some(ObjectKind::Socket),
        libc::S_IFCHR => Some(ObjectKind::CharDevice),
        libc::S_IFBLK => Some(ObjectKind::BlockDevice),
        _ => None,
    }
}

pub(super) fn attributes(a: &Attributes) -> FileAttr {
    FileAttr {
        ino: node(a.ino),
        size: a.size,
        blocks: a.allocated.div_ceil(512),
        atime: system_time(a.accessed),
        mtime: system_time(a.modified),
        ctime: system_time(a.changed),
        crtime: system_time(a.born),
        kind: file_type(a.kind),
        perm: (a.mode & 0o7777) as u16,
        nlink: a.links,
        uid: a.owner.uid,
        gid: a.owner.gid,
        rdev: a.device,
        blksize: BLOCK_SIZE,
        flags: 0,
    }
}

fn system_time(t: Time) -> SystemTime {
    let seconds = Duration::from_secs(t.seconds.unsigned_abs());
    let whole = if t.seconds < 0 { UNIX_EPOCH.checked_sub(seconds) } else { UNIX_EPOCH.checked_add(seconds) };
    whole.and_then(|w| w.checked_add(Duration::from_nanos(t.nanos.into()))).unwrap_or(UNIX_EPOCH)
}

/// A time as the kernel sent it. fuser 0.18 takes the nanoseconds of a time before 1970 away instead of
/// adding them; this turns it back.
pub(super) fn set_time(t: TimeOrNow) -> SetTime {
    let TimeOrNow::SpecificTime(t) = t else { return SetTime::Now };
    SetTime::To(match t.duration_since(UNIX_EPOCH) {
        Ok(after) => Time { seconds: after.as_secs().cast_signed(), nanos: after.subsec_nanos() },
        Err(e) => {
            let before = e.duration();
            Time { seconds: 0_i64.wrapping_sub_unsigned(before.as_secs()), nanos: before.subsec_nanos() }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_before_1970_keep_their_nanoseconds() {
        let wanted = Time { seconds: -2, nanos: 800_000_000 };
        // As fuser 0.18 hands it over: 2.8 seconds before, where 1.2 are meant.
        let handed = TimeOrNow::SpecificTime(UNIX_EPOCH - Duration::new(2, 800_000_000));
        assert_eq!(set_time(handed), SetTime::To(wanted));
        assert_eq!(system_time(wanted), UNIX_EPOCH - Duration::new(1, 200_000_000));
    }
}
