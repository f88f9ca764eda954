//! One of the two filesystems, and doing operations there.

use std::{
    fmt::Write as _,
    fs::File,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    sync::{Arc, mpsc},
};

use rustix::{
    fs::{
        Access, AtFlags, CWD, Dev, FallocateFlags, FileType, Gid, Mode, OFlags, RenameFlags, Timespec,
        Timestamps, Uid, XattrFlags,
    },
    io::Errno,
    thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid},
};

use super::{
    look::{self, Times},
    ops::{Allocating, BLOCK, Node, Op, Renaming, SLOTS, Stamp, USERS, User},
};

type Job = Box<dyn FnOnce() -> String + Send>;

/// A thread that is another user.
struct Actor {
    jobs: mpsc::SyncSender<Job>,
    answers: mpsc::Receiver<String>,
}

impl Actor {
    fn new(user: User) -> Self {
        let (jobs, todo) = mpsc::sync_channel::<Job>(1);
        let (answer, answers) = mpsc::sync_channel(1);
        std::thread::spawn(move || {
            let (uid, gid, groups) = USERS[user];
            let groups: Vec<Gid> = groups.iter().map(|g| Gid::from_raw(*g)).collect();
            let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
            // These change the thread alone, unlike those of the C library.
            set_thread_groups(&groups).unwrap();
            set_thread_res_gid(gid, gid, gid).unwrap();
            set_thread_res_uid(uid, uid, uid).unwrap();
            while let Ok(job) = todo.recv() {
                answer.send(job()).unwrap();
            }
        });
        Self { jobs, answers }
    }

    fn run(&self, job: Job) -> String {
        self.jobs.send(job).unwrap();
        self.answers.recv().unwrap()
    }
}

/// An open file, with what it was opened for.
#[derive(Clone)]
struct Opened {
    file: Arc<File>,
    direct: bool,
}

/// A filesystem, the files open in it, and the users.
pub(super) struct Side {
    root: PathBuf,
    slots: Vec<Option<Opened>>,
    actors: Vec<Actor>,
}

fn answer<T>(done: Result<T, Errno>, show: impl FnOnce(T) -> String) -> String {
    match done {
        Ok(value) => show(value),
        Err(e) => errno(e),
    }
}

fn errno(e: Errno) -> String {
    format!("{e:?}: {e}")
}

fn done(result: Result<(), Errno>) -> String {
    answer(result, |()| "done".into())
}

fn no_follow(follow: bool) -> AtFlags {
    if follow { AtFlags::empty() } else { AtFlags::SYMLINK_NOFOLLOW }
}

fn timespec(stamp: Stamp) -> Timespec {
    let (tv_sec, tv_nsec) = match stamp {
        Stamp::Now => (0, rustix::fs::UTIME_NOW),
        Stamp::Omit => (0, rustix::fs::UTIME_OMIT),
        Stamp::To(seconds, nanos) => (seconds, nanos),
    };
    Timespec { tv_sec, tv_nsec }
}

/// Bytes that start where direct access wants them to.
fn aligned(len: usize, fill: u8, act: impl FnOnce(&mut [u8]) -> String) -> String {
    let mut bytes = vec![fill; len + BLOCK as usize];
    let skip = bytes.as_ptr().align_offset(BLOCK as usize);
    act(&mut bytes[skip..skip + len])
}

/// An ACL as an extended attribute.
fn encoded(entries: &[(u16, u16, u32)]) -> Vec<u8> {
    let mut out = 2_u32.to_le_bytes().to_vec();
    for (tag, perm, id) in entries {
        out.extend_from_slice(&tag.to_le_bytes());
        out.extend_from_slice(&perm.to_le_bytes());
        out.extend_from_slice(&id.to_le_bytes());
    }
    out
}

impl Side {
    pub(super) fn new(root: PathBuf) -> Self {
        let actors = (0..USERS.len()).map(Actor::new).collect();
        Self { root, slots: vec![None; SLOTS], actors }
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    pub(super) fn close_all(&mut self) {
        self.slots = vec![None; SLOTS];
    }

    fn at(&self, path: &str) -> PathBuf {
        // Not `join`: the end of the path matters, and so does an empty one.
        let mut whole = self.root.clone().into_os_string();
        whole.push("/");
        whole.push(path);
        if path.is_empty() { PathBuf::new() } else { PathBuf::from(whole) }
    }

    pub(super) fn file(&self, slot: usize) -> Option<&File> {
        self.slots[slot].as_ref().map(|o| &*o.file)
    }

    /// Times of all that an operation may move: paths and their directories, the file in a slot.
    pub(super) fn times(&self, op: &Op) -> Vec<Times> {
        let mut all = Vec::new();
        let mut paths = |paths: &[&String]| {
            for path in paths {
                let whole = self.at(path);
                all.push(look::times_at(&whole));
                all.push(whole.parent().and_then(look::times_at));
            }
        };
        match op {
            Op::Mkdir(p, _) | Op::Rmdir(p) | Op::Unlink(p) | Op::Mknod(p, ..) | Op::Symlink(_, p) => {
                paths(&[p])
            }
            Op::ReadLink(p) | Op::Truncate(p, _) | Op::Chmod(p, _) | Op::Chown { path: p, .. } => paths(&[p]),
            Op::Times { path: p, .. } | Op::SetXattr { path: p, .. } | Op::RemoveXattr(p, _) => paths(&[p]),
            Op::SetAcl { path: p, .. } | Op::Open { path: p, .. } | Op::Stat(p) => paths(&[p]),
            Op::Link { from, to, .. } => paths(&[from, to]),
            Op::Rename(from, to, _) => paths(&[from, to]),
            Op::Write { slot, .. } | Op::FTruncate(slot, _) | Op::Allocate { slot, .. } => {
                all.extend(self.file(*slot).map(look::times_of));
            }
            Op::Copy { to: slot, .. } | Op::FChmod(slot, _) => {
                all.extend(self.file(*slot).map(look::times_of));
            }
            _ => {}
        }
        all
    }

    /// Does it, as that user, and says what came of it.
    pub(super) fn act(&mut self, user: User, op: &Op) -> String {
        match op {
            Op::Open { slot, path, how, mode } => {
                let mut flags = [OFlags::RDONLY, OFlags::WRONLY, OFlags::RDWR][how.access as usize];
                // Pipes and devices must not make it wait.
                flags |= OFlags::NONBLOCK | OFlags::CLOEXEC;
                flags.set(OFlags::CREATE, how.create);
                flags.set(OFlags::EXCL, how.exclusive && how.create);
                flags.set(OFlags::TRUNC, how.truncate);
                flags.set(OFlags::APPEND, how.append);
                flags.set(OFlags::DIRECT, how.direct);
                flags.set(OFlags::DIRECTORY, how.directory && !how.create);
                flags.set(OFlags::NOFOLLOW, how.no_follow);
                let (path, mode) = (self.at(path), Mode::from_raw_mode(*mode & 0o7777));
                let (send, opened) = mpsc::sync_channel(1);
                let said = self.actors[user].run(Box::new(move || {
                    answer(rustix::fs::open(&path, flags, mode), |fd| {
                        send.send(fd).unwrap();
                        "opened".into()
                    })
                }));
                if let Ok(fd) = opened.try_recv() {
                    let file = Arc::new(File::from(fd));
                    // What is no file would answer by what it leads to.
                    let is_file = file.metadata().is_ok_and(|m| m.is_file());
                    self.slots[*slot] = is_file.then_some(Opened { file, direct: how.direct });
                }
                said
            }
            Op::Close(slot) => {
                let open = self.slots[*slot].take();
                format!("{}", open.is_some())
            }
            Op::Write { slot, .. }
            | Op::Read { slot, .. }
            | Op::FTruncate(slot, _)
            | Op::Allocate { slot, .. }
            | Op::Sync(slot)
            | Op::FChmod(slot, _) => {
                let Some(opened) = self.slots[*slot].clone() else { return "not open".into() };
                let op = op.clone();
                self.actors[user].run(Box::new(move || on_file(&opened, &op)))
            }
            Op::Copy { from, from_at, to, to_at, len } => {
                let (Some(from), Some(to)) = (self.slots[*from].clone(), self.slots[*to].clone()) else {
                    return "not open".into();
                };
                if from.direct || to.direct {
                    return "by whole blocks only".into();
                }
                let (mut from_at, mut to_at, len) = (*from_at, *to_at, *len);
                let copied = move || {
                    let (f, t) = (&from.file, &to.file);
                    answer(
                        rustix::fs::copy_file_range(f, Some(&mut from_at), t, Some(&mut to_at), len),
                        |n| format!("copied {n}"),
                    )
                };
                self.actors[user].run(Box::new(copied))
            }
            // Compared apart: what is equal is not the same.
            Op::Ranges(_) | Op::Remount => String::new(),
            _ => {
                let (op, second) = (op.clone(), self.at(second_path(op)));
                let path = self.at(first_path(&op));
                self.actors[user].run(Box::new(move || on_path(&path, &second, &op)))
            }
        }
    }
}

fn first_path(op: &Op) -> &str {
    match op {
        Op::Link { from: p, .. } | Op::Rename(p, ..) | Op::Symlink(_, p) => p,
        Op::Mkdir(p, _) | Op::Rmdir(p) | Op::Unlink(p) | Op::Mknod(p, ..) | Op::ReadLink(p) => p,
        Op::Truncate(p, _) | Op::Chmod(p, _) | Op::Chown { path: p, .. } | Op::Times { path: p, .. } => p,
        Op::SetXattr { path: p, .. } | Op::GetXattr(p, _) | Op::RemoveXattr(p, _) | Op::ListXattrs(p) => p,
        Op::SetAcl { path: p, .. } | Op::Access(p, _) | Op::List(p) | Op::Stat(p) => p,
        _ => "",
    }
}

fn second_path(op: &Op) -> &str {
    match op {
        Op::Link { to, .. } | Op::Rename(_, to, _) => to,
        _ => "",
    }
}

fn on_file(opened: &Opened, op: &Op) -> String {
    let (file, direct) = (&*opened.file, opened.direct);
    // Direct access is by whole blocks.
    let whole = |n: u64| if direct { n / BLOCK * BLOCK } else { n };
    match op {
        Op::Write { at, len, fill, .. } => {
            let len = whole(*len as u64) as usize;
            aligned(len, *fill, |bytes| {
                for (i, byte) in bytes.iter_mut().enumerate() {
                    *byte = byte.wrapping_add((i / 7) as u8);
                }
                let wrote = match at {
                    Some(at) => rustix::io::pwrite(file, bytes, whole(*at)),
                    None if direct => Ok(0),
                    None => rustix::io::write(file, bytes),
                };
                answer(wrote, |n| format!("wrote {n}"))
            })
        }
        Op::Read { at, len, .. } => aligned(whole(*len as u64) as usize, 0, |bytes| {
            let read = rustix::io::pread(file, &mut *bytes, whole(*at));
            answer(read, |n| format!("read {n}: {}", &blake3::hash(&bytes[..n]).to_hex()[..16]))
        }),
        Op::FTruncate(_, size) => done(rustix::fs::ftruncate(file, *size)),
        Op::Allocate { mode, at, len, .. } => {
            let keep = FallocateFlags::KEEP_SIZE;
            let flags = match mode {
                Allocating::Extend => FallocateFlags::empty(),
                Allocating::Keep => keep,
                Allocating::Punch => FallocateFlags::PUNCH_HOLE | keep,
                Allocating::PunchWithoutKeep => FallocateFlags::PUNCH_HOLE,
                Allocating::Zero => FallocateFlags::ZERO_RANGE,
                Allocating::ZeroKeep => FallocateFlags::ZERO_RANGE | keep,
            };
            done(rustix::fs::fallocate(file, flags, *at, *len))
        }
        Op::Sync(_) => done(rustix::fs::fsync(file)),
        Op::FChmod(_, mode) => done(rustix::fs::fchmod(file, Mode::from_raw_mode(*mode))),
        _ => unreachable!("{op:?} is not about a file"),
    }
}

#[allow(clippy::too_many_lines)] // a table
fn on_path(path: &Path, second: &Path, op: &Op) -> String {
    match op {
        Op::Mkdir(_, mode) => done(rustix::fs::mkdir(path, Mode::from_raw_mode(*mode))),
        Op::Rmdir(_) => done(rustix::fs::rmdir(path)),
        Op::Unlink(_) => done(rustix::fs::unlink(path)),
        Op::Mknod(_, node, mode) => {
            let (kind, device): (_, Dev) = match node {
                Node::File => (FileType::RegularFile, 0),
                Node::Fifo => (FileType::Fifo, 0),
                Node::Socket => (FileType::Socket, 0),
                Node::Char => (FileType::CharacterDevice, rustix::fs::makedev(1, 3)),
                Node::Block => (FileType::BlockDevice, rustix::fs::makedev(259, 70_000)),
            };
            done(rustix::fs::mknodat(CWD, path, kind, Mode::from_raw_mode(*mode), device))
        }
        Op::Symlink(target, _) => done(rustix::fs::symlink(target.as_str(), path)),
        Op::ReadLink(_) => answer(rustix::fs::readlink(path, Vec::new()), |t| format!("{t:?}")),
        Op::Link { follow, .. } => {
            let flags = if *follow { AtFlags::SYMLINK_FOLLOW } else { AtFlags::empty() };
            done(rustix::fs::linkat(CWD, path, CWD, second, flags))
        }
        Op::Rename(_, _, how) => {
            let flags = match how {
                Renaming::Plain => RenameFlags::empty(),
                Renaming::NoReplace => RenameFlags::NOREPLACE,
                Renaming::Exchange => RenameFlags::EXCHANGE,
                Renaming::Whiteout => RenameFlags::EXCHANGE | RenameFlags::NOREPLACE,
            };
            done(rustix::fs::renameat_with(CWD, path, CWD, second, flags))
        }
        Op::Truncate(_, size) => match nix_truncate(path, *size) {
            Ok(()) => "done".into(),
            Err(e) => errno(e),
        },
        Op::Chmod(_, mode) => done(rustix::fs::chmod(path, Mode::from_raw_mode(*mode))),
        Op::Chown { user, group, follow, .. } => {
            let (user, group) = (user.map(Uid::from_raw), group.map(Gid::from_raw));
            done(rustix::fs::chownat(CWD, path, user, group, no_follow(*follow)))
        }
        Op::Times { accessed, modified, follow, .. } => {
            let times =
                Timestamps { last_access: timespec(*accessed), last_modification: timespec(*modified) };
            done(rustix::fs::utimensat(CWD, path, &times, no_follow(*follow)))
        }
        Op::SetXattr { name, len, how, follow, .. } => {
            let flags = match how {
                None => XattrFlags::empty(),
                Some(true) => XattrFlags::CREATE,
                Some(false) => XattrFlags::REPLACE,
            };
            let value = vec![b'v'; *len];
            done(if *follow {
                rustix::fs::setxattr(path, *name, &value, flags)
            } else {
                rustix::fs::lsetxattr(path, *name, &value, flags)
            })
        }
        Op::GetXattr(_, name) => {
            let mut value = [0; 64];
            answer(rustix::fs::getxattr(path, *name, &mut value), |n| format!("{:?}", &value[..n]))
        }
        Op::RemoveXattr(_, name) => done(rustix::fs::removexattr(path, *name)),
        Op::ListXattrs(_) => {
            let mut list = [0; 4096];
            answer(rustix::fs::listxattr(path, &mut list), |n| {
                let mut names: Vec<_> = list[..n].split(|b| *b == 0).map(String::from_utf8_lossy).collect();
                names.sort();
                names.join(" ")
            })
        }
        Op::SetAcl { default, entries, .. } => {
            let name = if *default { "system.posix_acl_default" } else { "system.posix_acl_access" };
            done(rustix::fs::setxattr(path, name, &encoded(entries), XattrFlags::empty()))
        }
        Op::Access(_, bits) => {
            let access = Access::from_bits_truncate(u32::from(*bits));
            done(rustix::fs::accessat(CWD, path, access, AtFlags::EACCESS))
        }
        Op::List(_) => list(path),
        Op::Stat(_) => answer(rustix::fs::stat(path), |s| look::shown(&s)),
        _ => unreachable!("{op:?} is not about a path"),
    }
}

fn nix_truncate(path: &Path, size: u64) -> Result<(), Errno> {
    // rustix has only ftruncate.
    nix::unistd::truncate(path, size.cast_signed()).map_err(|e| Errno::from_raw_os_error(e as i32))
}

fn list(path: &Path) -> String {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let dir = match rustix::fs::open(path, flags, Mode::empty()) {
        Ok(dir) => dir,
        Err(e) => return errno(e),
    };
    let mut names = Vec::new();
    for entry in rustix::fs::Dir::new(dir).unwrap() {
        match entry {
            Ok(e) => names.push(format!(
                "{:?} {:?}",
                std::ffi::OsStr::from_bytes(e.file_name().to_bytes()),
                e.file_type()
            )),
            Err(e) => return errno(e),
        }
    }
    names.sort();
    let mut text = String::new();
    for name in names {
        let _ = write!(text, "{name} ");
    }
    text
}
