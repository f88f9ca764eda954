//! Each request of the kernel, as fuser hands it over.

use std::{
    ffi::OsStr,
    io,
    os::unix::ffi::OsStrExt,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime},
};

use fuser::{
    AccessFlags, BsdFileFlags, CopyFileRangeFlags, FileHandle, Filesystem, FopenFlags, Generation, INodeNo,
    InitFlags, KernelConfig, LockOwner, OpenAccMode, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate,
    ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyLseek, ReplyOpen,
    ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};

use crate::{
    base::{FsError, Result, panic_text, planted},
    vfs::{Allocate, Asker, Front, ObjectKind, Rename, Seek, Setting},
};

use super::{
    REQUEST_BYTES, Requests, THREADS,
    convert::{attributes, caller, file_type, in_group, ino, kind, node, set_time},
    errno::{self, Code},
    turns::Turns,
    waiters::{AT_ONCE_BYTES, Read, Waiters},
};

/// How long the kernel may believe names and attributes: long, since every change goes through it or is told
/// to it.
const LIFETIME: Duration = Duration::from_secs(3600);
/// Requests that the kernel may have under way in the background.
const BACKGROUND: u16 = 64;
/// The kernel may keep a listing, and use the one that it has. It drops it when it changes the directory.
const KEEP_LISTING: FopenFlags = FopenFlags::FOPEN_CACHE_DIR.union(FopenFlags::FOPEN_KEEP_CACHE);
/// Entries that are fetched at once for a listing.
const LIST_ENTRIES: usize = 64;
/// Inode numbers are never used again, so one generation is enough.
const GENERATION: Generation = Generation(0);
/// Unit of `statfs`, in bytes.
const STATFS_BYTES: u64 = 4096;
/// The most that one copy request copies, in bytes: its answer has 32 bits.
const COPY_BYTES: u64 = 1 << 30;

/// Capabilities that are used where the kernel has them. Not FUSE_ATOMIC_O_TRUNC: with it, opening a running
/// program with O_TRUNC cuts it off before the kernel finds that it may not be written to. Nor FUSE_CACHE_SYMLINKS: the kernel
/// would go on showing where `.segfs/at/now` or a tag led when it was asked for first.
const WANTED: &[InitFlags] = &[
    InitFlags::FUSE_ASYNC_READ,
    InitFlags::FUSE_BIG_WRITES,
    InitFlags::FUSE_MAX_PAGES,
    InitFlags::FUSE_DONT_MASK,
    InitFlags::FUSE_POSIX_ACL,
    InitFlags::FUSE_HANDLE_KILLPRIV,
    InitFlags::FUSE_HANDLE_KILLPRIV_V2,
    InitFlags::FUSE_DO_READDIRPLUS,
    InitFlags::FUSE_READDIRPLUS_AUTO,
    InitFlags::FUSE_PARALLEL_DIROPS,
    InitFlags::FUSE_ASYNC_DIO,
    InitFlags::FUSE_EXPLICIT_INVAL_DATA,
    InitFlags::FUSE_EXPORT_SUPPORT,
];

/// The filesystem as fuser drives it.
pub(super) struct Adapter {
    vfs: Arc<Front>,
    requests: Arc<Requests>,
    waiters: Waiters,
    turns: Arc<Turns>,
    /// The kernel collects writes and hands them over later: asked for, and after the handshake, so it is.
    writeback: bool,
}

impl Adapter {
    pub(super) fn new(vfs: Arc<Front>, requests: Arc<Requests>, turns: Arc<Turns>, writeback: bool) -> Self {
        Self { vfs, requests, waiters: Waiters::new(THREADS - 1), turns, writeback }
    }

    fn run<T>(&self, request: impl FnOnce(&Front) -> Result<T>) -> Result<T, Code> {
        let _counted = Requests::begin(&self.requests);
        caught(|| request(&self.vfs).inspect_err(|e| self.vfs.failed(e)), |why| self.vfs.stop_writing(why))
    }

    fn entry(&self, reply: ReplyEntry, request: impl FnOnce(&Front) -> Result<crate::vfs::Attributes>) {
        match self.run(request) {
            Ok(a) => reply.entry(&LIFETIME, &attributes(&a), GENERATION),
            Err(e) => reply.error(e),
        }
    }

    /// How long the kernel may believe what it is told of an inode now.
    fn lifetime(&self, ino: crate::base::Ino) -> Duration {
        if self.vfs.is_lasting(ino) { LIFETIME } else { Duration::ZERO }
    }

    fn empty(&self, reply: ReplyEmpty, request: impl FnOnce(&Front) -> Result<()>) {
        match self.run(request) {
            Ok(()) => reply.ok(),
            Err(e) => reply.error(e),
        }
    }

    fn xattr(reply: ReplyXattr, size: u32, found: Result<Vec<u8>, Code>) {
        match found {
            Ok(value) if size == 0 => reply.size(value.len() as u32),
            Ok(value) if value.len() > size as usize => reply.error(errno::RANGE),
            Ok(value) => reply.data(&value),
            Err(e) => reply.error(e),
        }
    }
}

/// Runs a request. One that panics is answered with an I/O error, and nothing is written any more.
pub(super) fn caught<T>(request: impl FnOnce() -> Result<T>, stop: impl FnOnce(&str)) -> Result<T, Code> {
    match catch_unwind(AssertUnwindSafe(request)) {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(e)) => {
            let code = errno::of(&e);
            if code.code() == errno::IO.code() {
                tracing::error!("{e}");
            }
            Err(code)
        }
        Err(panic) => {
            stop(&format!("a request panicked: {}", panic_text(&*panic)));
            Err(errno::IO)
        }
    }
}

/// Is a file opened to be written to?
fn writes(flags: OpenFlags) -> bool {
    flags.acc_mode() != OpenAccMode::O_RDONLY
}

/// Is a file opened such that its access time may move?
fn may_access(flags: OpenFlags) -> bool {
    flags.0 & libc::O_NOATIME == 0
}

/// What the kernel may do with an open file: keep its pages (nobody else writes), and not tell of closes that
/// can't matter.
fn open_flags(flags: OpenFlags) -> FopenFlags {
    let keep = FopenFlags::FOPEN_KEEP_CACHE;
    if writes(flags) { keep } else { keep | FopenFlags::FOPEN_NOFLUSH }
}

impl Filesystem for Adapter {
    fn init(&mut self, _req: &Request, config: &mut KernelConfig) -> io::Result<()> {
        for wanted in WANTED {
            // A kernel that has not got it gets along without.
            let _ = config.add_capabilities(*wanted);
        }
        self.writeback = self.writeback && config.add_capabilities(InitFlags::FUSE_WRITEBACK_CACHE).is_ok();
        if self.writeback {
            self.vfs.expect_late_writes();
        }
        // Each of these says on failure what it would take.
        let _ = config.set_max_write(REQUEST_BYTES);
        if let Err(most) = config.set_max_readahead(REQUEST_BYTES) {
            let _ = config.set_max_readahead(most);
        }
        let _ = config.set_max_background(BACKGROUND);
        Ok(())
    }

    fn lookup(&self, req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let _turn = self.turns.begin(req.pid());
        #[cfg(feature = "planted-bugs")]
        if let Some(place) = name.as_bytes().strip_prefix(b"planted-panic:") {
            planted::arm(place);
        }
        match self.vfs_lookup(req, parent, name) {
            Ok(Some(a)) => {
                let (this, stay) = (ino(a.ino), self.vfs.attributes_last(ino(a.ino)));
                let attributes = if stay { LIFETIME } else { Duration::ZERO };
                reply.entry_with_ttls(&attributes, &self.lifetime(this), &a, GENERATION);
            }
            Ok(None) if self.vfs.is_past(ino(parent)) => reply.error(errno::NOT_FOUND),
            Ok(None) => {
                // Inode 0 with a lifetime: the kernel remembers that there is nothing.
                reply.entry(&LIFETIME, &nothing(), GENERATION);
            }
            Err(e) => reply.error(e),
        }
    }

    fn forget(&self, _req: &Request, node: INodeNo, times: u64) {
        // Nobody is answered.
        let _ = self.run(|vfs| {
            vfs.forget(ino(node), times);
            Ok(())
        });
    }

    fn getattr(&self, req: &Request, node: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        let _turn = self.turns.begin(req.pid());
        match self.run(|vfs| vfs.attributes(ino(node))) {
            Ok(a) => {
                let lifetime = if self.vfs.attributes_last(a.ino) { LIFETIME } else { Duration::ZERO };
                reply.attr(&lifetime, &attributes(&a));
            }
            Err(e) => reply.error(e),
        }
    }

    fn setattr(
        &self,
        req: &Request,
        node: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        ctime: Option<SystemTime>,
        fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let _turn = self.turns.begin(req.pid());
        let set = Setting {
            mode,
            uid,
            gid,
            size,
            accessed: atime.map(set_time),
            modified: mtime.map(set_time),
            handle: fh.map(|h| h.0),
            // Only with the writeback cache is the change time the kernel's own.
            kept_by_kernel: ctime.is_some(),
        };
        match self.run(|vfs| vfs.set_attributes(caller(req), ino(node), &set)) {
            Ok(a) => reply.attr(&LIFETIME, &attributes(&a)),
            Err(e) => reply.error(e),
        }
    }

    fn readlink(&self, req: &Request, node: INodeNo, reply: ReplyData) {
        let _turn = self.turns.begin(req.pid());
        let read = |vfs: &Front| {
            let target = vfs.read_link(ino(node))?;
            vfs.accessed(ino(node));
            Ok(target)
        };
        match self.run(read) {
            Ok(target) => reply.data(&target),
            Err(e) => reply.error(e),
        }
    }

    fn mknod(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        rdev: u32,
        reply: ReplyEntry,
    ) {
        let _turn = self.turns.begin(req.pid());
        let Some(kind) = kind(mode) else { return reply.error(errno::INVALID) };
        self.entry(reply, |vfs| {
            vfs.make_node(caller(req), ino(parent), name.as_bytes(), kind, (mode, umask), rdev)
        });
    }

    fn mkdir(&self, req: &Request, parent: INodeNo, name: &OsStr, mode: u32, umask: u32, reply: ReplyEntry) {
        let _turn = self.turns.begin(req.pid());
        let kind = ObjectKind::Directory;
        self.entry(reply, |vfs| {
            vfs.make_node(caller(req), ino(parent), name.as_bytes(), kind, (mode, umask), 0)
        });
    }

    fn unlink(&self, req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let _turn = self.turns.begin(req.pid());
        self.empty(reply, |vfs| vfs.unlink(ino(parent), name.as_bytes()));
    }

    fn rmdir(&self, req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let _turn = self.turns.begin(req.pid());
        self.empty(reply, |vfs| vfs.rmdir(ino(parent), name.as_bytes()));
    }

    fn symlink(&self, req: &Request, parent: INodeNo, name: &OsStr, target: &Path, reply: ReplyEntry) {
        let _turn = self.turns.begin(req.pid());
        let target = target.as_os_str().as_bytes();
        self.entry(reply, |vfs| vfs.make_symlink(caller(req), ino(parent), name.as_bytes(), target));
    }

    fn rename(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        newparent: INodeNo,
        newname: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let _turn = self.turns.begin(req.pid());
        let how = if flags.is_empty() {
            Rename::Replace
        } else if flags == RenameFlags::RENAME_NOREPLACE {
            Rename::NoReplace
        } else if flags == RenameFlags::RENAME_EXCHANGE {
            Rename::Exchange
        } else {
            return reply.error(errno::INVALID);
        };
        self.empty(reply, |vfs| {
            vfs.rename((ino(parent), name.as_bytes()), (ino(newparent), newname.as_bytes()), how)
        });
    }

    fn link(&self, req: &Request, node: INodeNo, newparent: INodeNo, newname: &OsStr, reply: ReplyEntry) {
        let _turn = self.turns.begin(req.pid());
        self.entry(reply, |vfs| vfs.link(ino(node), ino(newparent), newname.as_bytes()));
    }

    fn open(&self, req: &Request, node: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let _turn = self.turns.begin(req.pid());
        let open = |vfs: &Front| {
            let handle = vfs.open(asker(req, &in_group(req)), ino(node), writes(flags))?;
            if !writes(flags) && may_access(flags) {
                vfs.accessed(ino(node));
            }
            Ok(handle)
        };
        match self.run(open) {
            Ok(handle) => reply.opened(FileHandle(handle), open_flags(flags)),
            Err(e) => reply.error(e),
        }
    }

    fn create(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let _turn = self.turns.begin(req.pid());
        let (write, flags) = (writes(OpenFlags(flags)), open_flags(OpenFlags(flags)));
        match self.run(|vfs| vfs.create(caller(req), ino(parent), name.as_bytes(), (mode, umask), write)) {
            Ok((a, handle)) => {
                reply.created(&LIFETIME, &attributes(&a), GENERATION, FileHandle(handle), flags);
            }
            Err(e) => reply.error(e),
        }
    }

    fn read(
        &self,
        req: &Request,
        node: INodeNo,
        _fh: FileHandle,
        offset: u64,
        size: u32,
        flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let _turn = self.turns.begin(req.pid());
        if writes(flags) && may_access(flags) {
            // Of those who only read, opening counts.
            let noted = |vfs: &Front| {
                vfs.accessed(ino(node));
                Ok(())
            };
            let _ = caught(|| noted(&self.vfs), |why| self.vfs.stop_writing(why));
        }
        let read = Read { ino: ino(node), offset, size: size.min(REQUEST_BYTES) as usize };
        if read.size > AT_ONCE_BYTES {
            self.turns.transfer();
        }
        let counted = Requests::begin(&self.requests);
        let Some(_may_wait) = self.waiters.may_wait() else {
            if read.size > AT_ONCE_BYTES {
                return read.answer(&self.vfs, reply);
            }
            if let Some(reply) = read.answer_at_once(&self.vfs, reply) {
                let vfs = Arc::clone(&self.vfs);
                self.waiters.hand_over(move || {
                    let _counted = counted;
                    read.answer(&vfs, reply);
                });
            }
            return;
        };
        read.answer(&self.vfs, reply);
    }

    fn write(
        &self,
        req: &Request,
        node: INodeNo,
        fh: FileHandle,
        offset: u64,
        data: &[u8],
        write_flags: WriteFlags,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let _turn = self.turns.begin(req.pid());
        if data.len() > AT_ONCE_BYTES {
            self.turns.transfer();
        }
        let by = write_flags.contains(WriteFlags::FUSE_WRITE_KILL_SUIDGID).then(|| caller(req));
        let write = |vfs: &Front| {
            planted::strike("write");
            vfs.write(ino(node), fh.0, offset, data, by)
        };
        match self.run(write) {
            Ok(()) => reply.written(data.len() as u32),
            Err(e) => {
                if write_flags.contains(WriteFlags::FUSE_WRITE_CACHE) {
                    // Nobody waits for this answer, and the kernel lets go of the data.
                    self.vfs.lost(ino(node));
                }
                reply.error(e);
            }
        }
    }

    fn flush(&self, req: &Request, _node: INodeNo, fh: FileHandle, _lock: LockOwner, reply: ReplyEmpty) {
        let _turn = self.turns.begin(req.pid());
        self.empty(reply, |vfs| {
            vfs.flush(fh.0);
            Ok(())
        });
    }

    fn release(
        &self,
        req: &Request,
        _node: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        let _turn = self.turns.begin(req.pid());
        self.empty(reply, |vfs| {
            vfs.release(fh.0);
            Ok(())
        });
    }

    fn fsync(&self, req: &Request, node: INodeNo, _fh: FileHandle, _data: bool, reply: ReplyEmpty) {
        let _turn = self.turns.begin(req.pid());
        self.empty(reply, |vfs| vfs.fsync(ino(node)));
    }

    fn opendir(&self, req: &Request, node: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        let _turn = self.turns.begin(req.pid());
        match self.run(|vfs| vfs.open_dir(asker(req, &in_group(req)), ino(node))) {
            Ok((handle, true)) => reply.opened(FileHandle(handle), KEEP_LISTING),
            Ok((handle, false)) => reply.opened(FileHandle(handle), FopenFlags::empty()),
            Err(e) => reply.error(e),
        }
    }

    fn readdir(&self, req: &Request, dir: INodeNo, fh: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let _turn = self.turns.begin(req.pid());
        let mut at = offset;
        let done = self.run(|vfs| {
            if offset == 0 {
                vfs.accessed(ino(dir));
            }
            loop {
                let page = vfs.read_dir(ino(dir), fh.0, at, LIST_ENTRIES)?;
                let Some(last) = page.last() else { return Ok(()) };
                at = last.cookie;
                for e in &page {
                    let name = OsStr::from_bytes(&e.name);
                    if reply.add(node(e.ino), e.cookie, file_type(e.kind), name) {
                        return Ok(());
                    }
                }
                if page.len() != LIST_ENTRIES {
                    return Ok(()); // the end, or so near to it that the kernel may ask once more
                }
            }
        });
        match done {
            Ok(()) => reply.ok(),
            Err(e) => reply.error(e),
        }
    }

    fn readdirplus(
        &self,
        req: &Request,
        dir: INodeNo,
        fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        let _turn = self.turns.begin(req.pid());
        // An empty answer says that this is the end.
        let (mut at, mut any) = (offset, false);
        let done = self.run(|vfs| {
            if offset == 0 {
                vfs.accessed(ino(dir));
            }
            loop {
                let page = vfs.read_dir(ino(dir), fh.0, at, LIST_ENTRIES)?;
                let Some(last) = page.last() else { return Ok(()) };
                at = last.cookie;
                for e in &page {
                    let Some(a) = vfs.listed_attributes(ino(dir), e)? else { continue };
                    let (name, lifetime) = (OsStr::from_bytes(&e.name), self.lifetime(a.ino));
                    if reply.add(node(a.ino), e.cookie, name, &lifetime, &attributes(&a), GENERATION) {
                        vfs.not_listed(e);
                        return Ok(());
                    }
                    any = true;
                }
                if any && page.len() != LIST_ENTRIES {
                    return Ok(());
                }
            }
        });
        match done {
            Ok(()) => reply.ok(),
            Err(e) => reply.error(e),
        }
    }

    fn releasedir(
        &self,
        req: &Request,
        _node: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        reply: ReplyEmpty,
    ) {
        let _turn = self.turns.begin(req.pid());
        self.empty(reply, |vfs| {
            vfs.release_dir(fh.0);
            Ok(())
        });
    }

    fn fsyncdir(&self, req: &Request, _node: INodeNo, _fh: FileHandle, _data: bool, reply: ReplyEmpty) {
        let _turn = self.turns.begin(req.pid());
        self.empty(reply, |vfs| vfs.sync());
    }

    fn statfs(&self, req: &Request, _node: INodeNo, reply: ReplyStatfs) {
        let _turn = self.turns.begin(req.pid());
        match self.run(|vfs| vfs.space()) {
            Ok(s) => {
                let (total, free) = (s.total_bytes / STATFS_BYTES, s.free_bytes / STATFS_BYTES);
                let unit = STATFS_BYTES as u32;
                // Objects take space as they come: as many are free as blocks.
                reply.statfs(total, free, free, s.objects + free, free, unit, 255, unit);
            }
            Err(e) => reply.error(e),
        }
    }

    fn setxattr(
        &self,
        req: &Request,
        node: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        let _turn = self.turns.begin(req.pid());
        let create = match flags {
            libc::XATTR_CREATE => Some(true),
            libc::XATTR_REPLACE => Some(false),
            _ => None,
        };
        self.empty(reply, |vfs| vfs.set_xattr(caller(req), ino(node), name.as_bytes(), value, create));
    }

    fn getxattr(&self, req: &Request, node: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        let _turn = self.turns.begin(req.pid());
        let found = self.run(|vfs| {
            planted::strike("xattr");
            vfs.xattr(asker(req, &in_group(req)), ino(node), name.as_bytes())
        });
        Self::xattr(reply, size, found);
    }

    fn listxattr(&self, req: &Request, node: INodeNo, size: u32, reply: ReplyXattr) {
        let _turn = self.turns.begin(req.pid());
        let list = self.run(|vfs| {
            let mut list = Vec::new();
            for name in vfs.xattrs(caller(req), ino(node))? {
                list.extend_from_slice(&name);
                list.push(0);
            }
            Ok(list)
        });
        Self::xattr(reply, size, list);
    }

    fn removexattr(&self, req: &Request, node: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let _turn = self.turns.begin(req.pid());
        self.empty(reply, |vfs| vfs.remove_xattr(ino(node), name.as_bytes()));
    }

    fn access(&self, req: &Request, _node: INodeNo, _mask: AccessFlags, reply: ReplyEmpty) {
        let _turn = self.turns.begin(req.pid());
        reply.ok(); // the kernel has decided: default_permissions
    }

    fn fallocate(
        &self,
        req: &Request,
        node: INodeNo,
        fh: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let _turn = self.turns.begin(req.pid());
        const KEEP: i32 = libc::FALLOC_FL_KEEP_SIZE;
        const PUNCH: i32 = libc::FALLOC_FL_PUNCH_HOLE | KEEP;
        const ZERO: i32 = libc::FALLOC_FL_ZERO_RANGE;
        const ZERO_INSIDE: i32 = ZERO | KEEP;
        let how = match mode {
            0 => Allocate::Extend,
            KEEP => Allocate::Reserve,
            PUNCH => Allocate::Punch,
            ZERO => Allocate::Zero,
            ZERO_INSIDE => Allocate::ZeroInside,
            _ => return reply.error(errno::NOT_SUPPORTED),
        };
        self.empty(reply, |vfs| vfs.allocate(caller(req), ino(node), fh.0, (offset, length), how));
    }

    fn lseek(
        &self,
        req: &Request,
        node: INodeNo,
        _fh: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        let _turn = self.turns.begin(req.pid());
        if self.writeback {
            // What the kernel has collected is not here yet and would pass for a hole. Once told that this is not
            // done here, it takes the whole file for data.
            return reply.error(errno::NOT_IMPLEMENTED);
        }
        let what = match whence {
            libc::SEEK_DATA => Seek::Data,
            libc::SEEK_HOLE => Seek::Hole,
            _ => return reply.error(errno::INVALID),
        };
        let found = self.run(|vfs| {
            let from = u64::try_from(offset).map_err(|_| FsError::NoSuchOffset)?;
            vfs.seek(ino(node), from, what)
        });
        match found {
            Ok(at) => reply.offset(at.cast_signed()),
            Err(e) => reply.error(e),
        }
    }

    fn copy_file_range(
        &self,
        req: &Request,
        ino_in: INodeNo,
        _fh_in: FileHandle,
        offset_in: u64,
        ino_out: INodeNo,
        fh_out: FileHandle,
        offset_out: u64,
        len: u64,
        _flags: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        let _turn = self.turns.begin(req.pid());
        let (from, to) = ((ino(ino_in), offset_in), (ino(ino_out), fh_out.0, offset_out));
        match self.run(|vfs| vfs.copy_range(caller(req), from, to, len.min(COPY_BYTES))) {
            Ok(n) => reply.written(n as u32),
            Err(e) => reply.error(e),
        }
    }
}

impl Adapter {
    /// What a name shows; none if there is nothing.
    fn vfs_lookup(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
    ) -> Result<Option<fuser::FileAttr>, Code> {
        self.run(|vfs| match vfs.lookup(asker(req, &in_group(req)), ino(parent), name.as_bytes()) {
            Ok(a) => Ok(Some(attributes(&a))),
            Err(crate::base::Error::Fs(FsError::NotFound)) => Ok(None),
            Err(e) => Err(e),
        })
    }
}

/// Who asks, for what only history checks itself.
fn asker<'a>(req: &Request, in_group: &'a dyn Fn(u32) -> bool) -> Asker<'a> {
    Asker { caller: caller(req), in_group }
}

/// The attributes in the answer that there is nothing.
fn nothing() -> fuser::FileAttr {
    let epoch = SystemTime::UNIX_EPOCH;
    fuser::FileAttr {
        ino: INodeNo(0),
        size: 0,
        blocks: 0,
        atime: epoch,
        mtime: epoch,
        ctime: epoch,
        crtime: epoch,
        kind: fuser::FileType::RegularFile,
        perm: 0,
        nlink: 0,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: 0,
        flags: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_an_io_error_and_stops_writing() {
        let mut stopped = None;
        let answer =
            caught(|| -> Result<()> { panic!("lost {}", "it") }, |why| stopped = Some(why.to_owned()));
        assert_eq!(answer.map_err(Code::code), Err(errno::IO.code()));
        assert_eq!(stopped.as_deref(), Some("a request panicked: lost it"));
        let answer = caught(|| -> Result<()> { Err(FsError::NotEmpty.into()) }, |_| unreachable!());
        assert_eq!(answer.map_err(Code::code), Err(errno::of(&FsError::NotEmpty.into()).code()));
    }
}
