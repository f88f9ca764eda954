//! What the kernel talks to: the filesystem of the present, and history beside it. Which of the two a request is
//! for is decided here, by the inode number, and nowhere else.

use std::{ops::Deref, sync::Arc};

use crate::base::{FsError, Ino, Result};

use super::{
    Attributes, Caller, Listed, ObjectKind, Rename, Setting, Vfs,
    content::{Allocate, Seek},
    history::{self, Asker, History, Shown, is_virtual},
};

/// The cookie behind the entry that a listing of the present shows of history.
const AFTER_HISTORY: u64 = u64::MAX >> 1;
/// Handles of history have this bit.
const OF_HISTORY: u64 = 1 << 62;

/// A filesystem and its history. What is not about one inode, or not answered by history, is the [`Vfs`]'s own.
pub struct Front {
    vfs: Arc<Vfs>,
    history: History,
    /// What shows in place of the root directory: the root as it was.
    root: Option<Ino>,
}

/// A moment to show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// A time, ns since 1970.
    Time(u64),
    /// Right after a record.
    Record(crate::base::Lsn),
}

impl Deref for Front {
    type Target = Vfs;

    fn deref(&self) -> &Vfs {
        &self.vfs
    }
}

impl Front {
    /// A filesystem with its history.
    #[must_use]
    pub fn new(vfs: Arc<Vfs>, shown: Shown) -> Self {
        Self { history: History::new(Arc::clone(&vfs), shown), vfs, root: None }
    }

    /// A filesystem as it was at a moment, and nothing else.
    ///
    /// # Errors
    /// [`FsError::NotFound`] for a moment before the store existed or after now.
    pub fn of_moment(vfs: Arc<Vfs>, when: When) -> Result<Self> {
        let mut front = Self::new(vfs, Shown::Off);
        front.root = Some(front.history.root_at(when)?);
        Ok(front)
    }

    /// The inode that a request is really about.
    fn of(&self, ino: Ino) -> Ino {
        if ino == Ino::FIRST { self.root.unwrap_or(ino) } else { ino }
    }

    /// Refuses a change of history.
    fn writable(&self, ino: Ino) -> Result<()> {
        if is_virtual(self.of(ino)) { Err(FsError::ReadOnly.into()) } else { Ok(()) }
    }

    /// Refuses to make or replace something of this name.
    fn makeable(&self, dir: Ino, name: &[u8]) -> Result<()> {
        self.writable(dir)?;
        if name == history::NAME { Err(FsError::Exists.into()) } else { Ok(()) }
    }

    fn is_history(&self, dir: Ino, name: &[u8]) -> bool {
        is_virtual(self.of(dir)) || (name == history::NAME && self.history.shown != Shown::Off)
    }

    /// Refuses to take away or move something of this name.
    fn removable(&self, dir: Ino, name: &[u8]) -> Result<()> {
        if self.is_history(dir, name) { Err(FsError::ReadOnly.into()) } else { Ok(()) }
    }

    /// May the kernel keep for long what it was told of this inode and of names in this directory?
    #[must_use]
    pub fn is_lasting(&self, ino: Ino) -> bool {
        let ino = self.of(ino);
        !is_virtual(ino) || self.history.is_fixed(ino)
    }

    /// May the kernel keep the attributes of this inode for long, once somebody was let in to see them?
    #[must_use]
    pub fn attributes_last(&self, ino: Ino) -> bool {
        let ino = self.of(ino);
        !is_virtual(ino) || self.history.attributes_last(ino)
    }

    /// Is this an inode of history?
    #[must_use]
    pub fn is_past(&self, ino: Ino) -> bool {
        let ino = self.of(ino);
        is_virtual(ino)
    }

    /// The kernel forgot an inode so often.
    pub fn forget(&self, ino: Ino, times: u64) {
        if is_virtual(ino) {
            self.history.forget(ino, times);
        }
    }

    /// What a name in a directory shows.
    ///
    /// # Errors
    /// As of [`Vfs::lookup`].
    pub fn lookup(&self, asker: Asker<'_>, dir: Ino, name: &[u8]) -> Result<Attributes> {
        let dir = self.of(dir);
        if is_virtual(dir) {
            self.history.lookup(asker, dir, name)
        } else if self.is_history(dir, name) {
            self.history.top(dir)
        } else {
            self.vfs.lookup(dir, name)
        }
    }

    /// Attributes of an object.
    ///
    /// # Errors
    /// As of [`Vfs::attributes`].
    pub fn attributes(&self, ino: Ino) -> Result<Attributes> {
        let ino = self.of(ino);
        if is_virtual(ino) { self.history.attributes(ino) } else { self.vfs.attributes(ino) }
    }

    /// Target of a symlink.
    ///
    /// # Errors
    /// As of [`Vfs::read_link`].
    pub fn read_link(&self, ino: Ino) -> Result<Vec<u8>> {
        if is_virtual(ino) { self.history.read_link(ino) } else { self.vfs.read_link(ino) }
    }

    /// As [`Vfs::set_attributes`].
    ///
    /// # Errors
    /// [`FsError::ReadOnly`] for history.
    pub fn set_attributes(&self, caller: Caller, ino: Ino, set: &Setting) -> Result<Attributes> {
        self.writable(ino)?;
        self.vfs.set_attributes(caller, ino, set)
    }

    /// As [`Vfs::make_node`].
    ///
    /// # Errors
    /// [`FsError::ReadOnly`] for history, [`FsError::Exists`] for its name.
    pub fn make_node(
        &self,
        caller: Caller,
        dir: Ino,
        name: &[u8],
        kind: ObjectKind,
        mode: (u32, u32),
        device: u32,
    ) -> Result<Attributes> {
        self.makeable(dir, name)?;
        self.vfs.make_node(caller, dir, name, kind, mode, device)
    }

    /// As [`Vfs::make_symlink`].
    ///
    /// # Errors
    /// As of [`make_node`](Self::make_node).
    pub fn make_symlink(&self, caller: Caller, dir: Ino, name: &[u8], target: &[u8]) -> Result<Attributes> {
        self.makeable(dir, name)?;
        self.vfs.make_symlink(caller, dir, name, target)
    }

    /// As [`Vfs::create`].
    ///
    /// # Errors
    /// As of [`make_node`](Self::make_node).
    pub fn create(
        &self,
        caller: Caller,
        dir: Ino,
        name: &[u8],
        mode: (u32, u32),
        write: bool,
    ) -> Result<(Attributes, u64)> {
        self.makeable(dir, name)?;
        self.vfs.create(caller, dir, name, mode, write)
    }

    /// As [`Vfs::link`].
    ///
    /// # Errors
    /// As of [`make_node`](Self::make_node).
    pub fn link(&self, ino: Ino, dir: Ino, name: &[u8]) -> Result<Attributes> {
        self.writable(ino)?;
        self.makeable(dir, name)?;
        self.vfs.link(ino, dir, name)
    }

    /// As [`Vfs::unlink`].
    ///
    /// # Errors
    /// [`FsError::ReadOnly`] for history.
    pub fn unlink(&self, dir: Ino, name: &[u8]) -> Result<()> {
        self.removable(dir, name)?;
        self.vfs.unlink(dir, name)
    }

    /// As [`Vfs::rmdir`].
    ///
    /// # Errors
    /// [`FsError::ReadOnly`] for history.
    pub fn rmdir(&self, dir: Ino, name: &[u8]) -> Result<()> {
        self.removable(dir, name)?;
        self.vfs.rmdir(dir, name)
    }

    /// As [`Vfs::rename`].
    ///
    /// # Errors
    /// [`FsError::ReadOnly`] for history, [`FsError::Exists`] for its name.
    pub fn rename(&self, from: (Ino, &[u8]), to: (Ino, &[u8]), how: Rename) -> Result<()> {
        self.removable(from.0, from.1)?;
        self.makeable(to.0, to.1)?;
        self.vfs.rename(from, to, how)
    }

    /// As [`Vfs::open`].
    ///
    /// # Errors
    /// [`FsError::ReadOnly`] for history, if it is to be written.
    pub fn open(&self, asker: Asker<'_>, ino: Ino, write: bool) -> Result<u64> {
        if !is_virtual(ino) {
            return self.vfs.open(asker.caller, ino, write);
        }
        if write {
            return Err(FsError::ReadOnly.into());
        }
        self.history.open(asker, ino)?;
        Ok(OF_HISTORY)
    }

    /// As [`Vfs::accessed`]; what history shows does not move.
    pub fn accessed(&self, ino: Ino) {
        if !is_virtual(self.of(ino)) {
            self.vfs.accessed(ino);
        }
    }

    /// As [`Vfs::read`].
    ///
    /// # Errors
    /// What the store says.
    pub fn read(&self, ino: Ino, offset: u64, out: &mut [u8]) -> Result<usize> {
        if is_virtual(ino) { self.history.read(ino, offset, out) } else { self.vfs.read(ino, offset, out) }
    }

    /// As [`Vfs::read_at_once`]; history always might wait.
    ///
    /// # Errors
    /// What the store says.
    pub fn read_at_once(&self, ino: Ino, offset: u64, out: &mut [u8]) -> Result<Option<usize>> {
        if is_virtual(ino) { Ok(None) } else { self.vfs.read_at_once(ino, offset, out) }
    }

    /// As [`Vfs::fsync`].
    ///
    /// # Errors
    /// As of [`Vfs::fsync`].
    pub fn fsync(&self, ino: Ino) -> Result<()> {
        if is_virtual(self.of(ino)) { self.vfs.sync() } else { self.vfs.fsync(ino) }
    }

    /// As [`Vfs::seek`].
    ///
    /// # Errors
    /// As of [`Vfs::seek`].
    pub fn seek(&self, ino: Ino, offset: u64, what: Seek) -> Result<u64> {
        if is_virtual(ino) {
            self.history.seek(ino, offset, what == Seek::Data)
        } else {
            self.vfs.seek(ino, offset, what)
        }
    }

    /// As [`Vfs::allocate`].
    ///
    /// # Errors
    /// [`FsError::ReadOnly`] for history.
    pub fn allocate(
        &self,
        caller: Caller,
        ino: Ino,
        handle: u64,
        range: (u64, u64),
        how: Allocate,
    ) -> Result<()> {
        self.writable(ino)?;
        self.vfs.allocate(caller, ino, handle, range, how)
    }

    /// As [`Vfs::copy_range`].
    ///
    /// # Errors
    /// [`FsError::NotSupported`] from history: whoever copies falls back to reading and writing.
    pub fn copy_range(&self, caller: Caller, from: (Ino, u64), to: (Ino, u64, u64), len: u64) -> Result<u64> {
        self.writable(to.0)?;
        if is_virtual(from.0) {
            return Err(FsError::NotSupported.into());
        }
        self.vfs.copy_range(caller, from, to, len)
    }

    /// As [`Vfs::open_dir`].
    ///
    /// # Errors
    /// As of [`Vfs::open_dir`].
    pub fn open_dir(&self, asker: Asker<'_>, dir: Ino) -> Result<(u64, bool)> {
        let dir = self.of(dir);
        if is_virtual(dir) {
            Ok((self.history.open_dir(asker, dir)? | OF_HISTORY, false))
        } else {
            self.vfs.open_dir(dir)
        }
    }

    /// As [`Vfs::release_dir`].
    pub fn release_dir(&self, handle: u64) {
        if handle & OF_HISTORY == 0 {
            self.vfs.release_dir(handle);
        } else {
            self.history.release_dir(handle & !OF_HISTORY);
        }
    }

    /// As [`Vfs::read_dir`]; `dir` is what the handle was opened for.
    ///
    /// # Errors
    /// As of [`Vfs::read_dir`].
    pub fn read_dir(&self, dir: Ino, handle: u64, cookie: u64, limit: usize) -> Result<Vec<Listed>> {
        if handle & OF_HISTORY != 0 {
            return self.history.read_dir(handle & !OF_HISTORY, cookie, limit);
        }
        if self.history.shown != Shown::Visible {
            return self.vfs.read_dir(handle, cookie, limit);
        }
        if cookie == AFTER_HISTORY {
            return Ok(Vec::new());
        }
        let mut page = self.vfs.read_dir(handle, cookie, limit)?;
        if page.is_empty() {
            let name = history::NAME.to_vec();
            let ino = History::number_of(dir);
            page.push(Listed { name, ino, kind: ObjectKind::Directory, cookie: AFTER_HISTORY });
        }
        Ok(page)
    }

    /// As [`Vfs::listed_attributes`], for an entry of this directory. What history lists counts as looked up by the
    /// kernel, as its protocol has it; [`not_listed`](Self::not_listed) takes that back.
    ///
    /// # Errors
    /// What the store says.
    pub fn listed_attributes(&self, dir: Ino, entry: &Listed) -> Result<Option<Attributes>> {
        let dir = self.of(dir);
        if is_virtual(entry.ino) {
            self.history.listed_attributes(dir, entry)
        } else {
            self.vfs.listed_attributes(entry)
        }
    }

    /// The kernel was not told of this entry in the end.
    pub fn not_listed(&self, entry: &Listed) {
        if is_virtual(entry.ino) && !matches!(&entry.name[..], b"." | b"..") {
            self.history.forget(entry.ino, 1);
        }
    }

    /// An extended attribute's value.
    ///
    /// # Errors
    /// As of [`Vfs::xattr`].
    pub fn xattr(&self, asker: Asker<'_>, ino: Ino, name: &[u8]) -> Result<Vec<u8>> {
        let ino = self.of(ino);
        if is_virtual(ino) {
            self.history.xattr(asker, ino, name)
        } else if name.starts_with(history::PREFIX) {
            self.history.live_xattr(ino, name)
        } else {
            self.vfs.xattr(ino, name)
        }
    }

    /// Names of the extended attributes that are set.
    ///
    /// # Errors
    /// As of [`Vfs::xattrs`].
    pub fn xattrs(&self, caller: Caller, ino: Ino) -> Result<Vec<Vec<u8>>> {
        let ino = self.of(ino);
        if is_virtual(ino) { self.history.xattrs(ino) } else { self.vfs.xattrs(caller, ino) }
    }

    /// As [`Vfs::set_xattr`].
    ///
    /// # Errors
    /// [`FsError::ReadOnly`] for history, [`FsError::NotPermitted`] for what it answers to; but locks and holds of versions are
    /// set so.
    pub fn set_xattr(
        &self,
        caller: Caller,
        ino: Ino,
        name: &[u8],
        value: &[u8],
        create: Option<bool>,
    ) -> Result<()> {
        if let Some(what) = name.strip_prefix(history::PREFIX) {
            return self.history.set_virtual(caller, self.of(ino), what, value);
        }
        self.writable(ino)?;
        self.vfs.set_xattr(caller, ino, name, value, create)
    }

    /// As [`Vfs::remove_xattr`].
    ///
    /// # Errors
    /// As of [`set_xattr`](Self::set_xattr).
    pub fn remove_xattr(&self, ino: Ino, name: &[u8]) -> Result<()> {
        self.writable(ino)?;
        if name.starts_with(history::PREFIX) {
            return Err(FsError::NotPermitted.into());
        }
        self.vfs.remove_xattr(ino, name)
    }
}
