//! Open files: handles and their counting, versions at the last close, orphans.

use std::collections::{HashMap, HashSet};

use parking_lot::Mutex;

use crate::{
    base::{Error, FsError, Ino, Result},
    format::facts::version_flags,
    store::Making,
};

use super::{Caller, Vfs};

/// Files without a version that are looked at in one step.
const LEFT: usize = 1024;

/// All open files.
#[derive(Default)]
pub(super) struct Files {
    last: u64,
    handles: HashMap<u64, Handle>,
    inodes: HashMap<Ino, Opened>,
    /// How many of them have a version due.
    due: usize,
    /// Writes come late and through any handle that may write, so any of those may have caused them.
    late_writes: bool,
}

struct Handle {
    ino: Ino,
    /// May change content.
    writes: bool,
    /// Changed content, so that its release makes a version.
    wrote: bool,
    /// Closed by somebody since it changed content.
    flushed: bool,
    /// The version that its release was to make has been made already.
    minted: bool,
}

#[derive(Default)]
struct Opened {
    handles: u32,
    /// No name shows it any more; the last release gives it up.
    orphan: bool,
    /// The handle that was flushed with changes: whoever asks for the file's history gets a version first.
    due: Option<u64>,
    /// The handle that was opened last, and the thread that did it.
    last: (u64, u32),
    /// Its next version holds what an older one did.
    restored: bool,
    /// Some of what was written through it is gone, and nobody who wrote it was told.
    lost: bool,
    /// Where versions are made while it is open: when the last one was, or its first change came (monotonic, ns).
    timed_ns: Option<u64>,
}

impl Files {
    fn add(&mut self, ino: Ino, writes: bool, pid: u32) -> u64 {
        self.last += 1;
        self.handles.insert(self.last, Handle { ino, writes, wrote: false, flushed: false, minted: false });
        let opened = self.inodes.entry(ino).or_default();
        opened.handles += 1;
        opened.last = (self.last, pid);
        self.last
    }

    /// The handle for whose opening with O_TRUNC this thread cuts a file off: the kernel does that by the path, right
    /// after it opened it.
    pub(super) fn truncating(&self, ino: Ino, pid: u32) -> Option<u64> {
        let (handle, opener) = self.inodes.get(&ino)?.last;
        let fresh = self.handles.get(&handle).is_some_and(|h| !h.wrote);
        (opener == pid && pid != 0 && fresh).then_some(handle)
    }

    /// What the release of a handle has to make a version of, if anything. Where another handle has begun to change the
    /// file after this one's version was made, the rest is for that one to make.
    fn to_mint(&self, handle: u64) -> Option<Ino> {
        let h = self.handles.get(&handle)?;
        let wrote = h.wrote || (self.late_writes && h.writes);
        let passed_on = h.minted
            && self
                .handles
                .iter()
                .any(|(other, o)| *other != handle && o.ino == h.ino && o.wrote && !o.minted);
        let orphan = self.inodes.get(&h.ino).is_some_and(|o| o.orphan);
        (wrote && !passed_on && !orphan).then_some(h.ino)
    }

    /// Takes a handle away: of which file, and whether it was the last one of an orphan.
    fn take(&mut self, handle: u64) -> Option<(Ino, bool)> {
        let ino = self.handles.remove(&handle)?.ino;
        let opened = self.inodes.get_mut(&ino)?;
        opened.handles -= 1;
        let last = opened.handles == 0;
        let orphan = last && opened.orphan;
        if last {
            self.due -= usize::from(opened.due.is_some());
            self.inodes.remove(&ino);
        } else if opened.due == Some(handle) {
            opened.due = None;
            self.due -= 1;
        }
        Some((ino, orphan))
    }

    /// Is a version of this due? Not any more after this.
    fn take_due(&mut self, ino: Ino) -> bool {
        let due = self.inodes.get_mut(&ino).is_some_and(|o| o.due.take().is_some());
        if due {
            self.due -= 1;
            for h in self.handles.values_mut().filter(|h| h.ino == ino && h.flushed) {
                h.minted = true;
            }
        }
        due
    }

    /// Is a version due that another handle wrote?
    fn due_by_other(&self, ino: Ino, handle: Option<u64>) -> bool {
        self.due > 0 && self.inodes.get(&ino).is_some_and(|o| o.due.is_some() && o.due != handle)
    }

    /// A version was made of what this file holds now.
    fn minted(&mut self, ino: Ino) {
        for h in self.handles.values_mut().filter(|h| h.ino == ino && h.wrote) {
            h.minted = true;
        }
        if let Some(opened) = self.inodes.get_mut(&ino) {
            opened.timed_ns = None;
        }
    }

    /// Is somebody changing it, whose release makes its version?
    fn is_changing(&self, ino: Ino) -> bool {
        self.inodes.contains_key(&ino)
            && self.handles.values().any(|h| h.ino == ino && self.may_have_changed(h))
    }

    fn may_have_changed(&self, h: &Handle) -> bool {
        (h.wrote && !h.minted) || (self.late_writes && h.writes)
    }

    /// Files with changes that no version has, each with when that was seen first, or its last version was made.
    fn changing(&mut self, now_ns: u64) -> Vec<(Ino, u64)> {
        let changing: HashSet<Ino> =
            self.handles.values().filter(|h| self.may_have_changed(h)).map(|h| h.ino).collect();
        let mut found = Vec::new();
        for ino in changing {
            let Some(opened) = self.inodes.get_mut(&ino) else { continue };
            found.push((ino, *opened.timed_ns.get_or_insert(now_ns)));
        }
        found
    }

    /// Notes that a handle changes content; true the first time.
    pub(super) fn wrote(&mut self, handle: u64) -> bool {
        self.handles.get_mut(&handle).is_some_and(|h| {
            (h.flushed, h.minted) = (false, false);
            !std::mem::replace(&mut h.wrote, true)
        })
    }
}

impl Vfs {
    /// Opens a file. The handle counts until [`release`](Self::release).
    ///
    /// # Errors
    /// [`FsError::Stale`] for a file that was given up, or what the store says.
    pub fn open(&self, caller: Caller, ino: Ino, write: bool) -> Result<u64> {
        let mut files = self.files.lock();
        if !files.inodes.contains_key(&ino) && self.attributes(ino)?.links == 0 {
            return Err(FsError::Stale.into());
        }
        Ok(files.add(ino, write, caller.pid))
    }

    /// A handle for a file that was just made.
    pub(super) fn opened_new(&self, ino: Ino, write: bool) -> u64 {
        self.files.lock().add(ino, write, 0)
    }

    /// From now on the kernel collects writes. It hands them over before it tells of a close, but through any handle of
    /// the file that may write: so each of those makes a version of what is there when it is released.
    pub fn expect_late_writes(&self) {
        self.files.lock().late_writes = true;
    }

    /// Some descriptor of the handle was closed. Makes no version of it (a shell closes duplicates before it
    /// writes), but one is due. One that another handle has due comes first: the kernel may tell of that one's release later.
    pub fn flush(&self, handle: u64) {
        let changed = |files: &Files| {
            let h = files.handles.get(&handle)?;
            ((h.wrote && !h.minted) || (files.late_writes && h.writes)).then_some(h.ino)
        };
        let Some(ino) = changed(&self.files.lock()) else { return };
        if let Err(e) = self.mint_due_before(ino, Some(handle)) {
            // The draft stays; the next version has it.
            tracing::error!("closing inode {ino}: {e}");
        }
        let files = &mut *self.files.lock();
        let Some(h) = files.handles.get_mut(&handle) else { return };
        h.flushed = true;
        if let Some(opened) = files.inodes.get_mut(&ino)
            && opened.due.replace(handle).is_none()
        {
            files.due += 1;
        }
    }

    /// The last descriptor of a handle is gone: what it wrote becomes a version.
    pub fn release(&self, handle: u64) {
        let Some(ino) = self.files.lock().handles.get(&handle).map(|h| h.ino) else { return };
        // The handle counts until its version is there: whoever takes the file's name meanwhile waits for that.
        let minting = self.minting(ino).lock();
        let to_mint = self.files.lock().to_mint(handle);
        let mut done = to_mint.map_or(Ok(()), |ino| self.mint(ino).map(drop));
        let taken = self.files.lock().take(handle);
        drop(minting);
        if let Some((ino, true)) = taken {
            done = done.and(self.store.reap(ino).map(drop));
        }
        if let Err(e) = done {
            // Nobody waits for this answer. The draft stays, and gets its version at the next opening.
            tracing::error!("closing inode {ino}: {e}");
        }
    }

    /// Held while a version of a file is made that was due, or that its release makes: so that they don't pass
    /// each other.
    fn minting(&self, ino: Ino) -> &Mutex<()> {
        &self.minting[ino.get() as usize % self.minting.len()]
    }

    /// Content is about to be changed through this handle: a version that another one wrote and closed comes first,
    /// since the kernel may tell of its release later.
    pub(super) fn mint_due_before(&self, ino: Ino, handle: Option<u64>) -> Result<()> {
        if self.files.lock().due_by_other(ino, handle) {
            self.mint_due(ino)?;
        }
        Ok(())
    }

    /// Mints the version of a file that was flushed with changes and is still open: before its history is
    /// shown. Says whether there was one to mint.
    ///
    /// # Errors
    /// What the store says.
    pub fn mint_due(&self, ino: Ino) -> Result<bool> {
        let _one = self.minting(ino).lock();
        let due = self.files.lock().take_due(ino);
        Ok(due && self.mint(ino)?)
    }

    /// Mints every version that is due.
    ///
    /// # Errors
    /// What the store says.
    pub fn mint_all_due(&self) -> Result<()> {
        let due: Vec<Ino> =
            self.files.lock().inodes.iter().filter(|(_, o)| o.due.is_some()).map(|(ino, _)| *ino).collect();
        for ino in due {
            self.mint_due(ino)?;
        }
        Ok(())
    }

    /// Mints the version that is due of what stands at a name, before the name changes hands: the close that
    /// makes it may be told of after that.
    pub(super) fn mint_due_at(&self, dir: Ino, name: &[u8]) -> Result<()> {
        if self.files.lock().due == 0 {
            return Ok(());
        }
        match self.store.view().lookup(dir, name) {
            Ok(a) => self.mint_due(a.ino).map(drop),
            Err(_) => Ok(()),
        }
    }

    /// Makes a version of what was changed, unless the file lies where none are made. Says whether it did.
    pub(super) fn mint(&self, ino: Ino) -> Result<bool> {
        if self.store.making_of(ino)? == Making::Never {
            return Ok(false);
        }
        let restored = self.files.lock().inodes.get(&ino).is_some_and(|o| o.restored);
        let flags = if restored { version_flags::RESTORED } else { 0 };
        let made = self.store.commit_flagged(ino, flags)?.1.is_some();
        if made
            && restored
            && let Some(opened) = self.files.lock().inodes.get_mut(&ino)
        {
            opened.restored = false;
        }
        Ok(made)
    }

    /// The next version of a file that is open is the content of an older one.
    ///
    /// # Errors
    /// [`FsError::NotPermitted`] for whoever is not its owner, and where nobody has it open for writing.
    pub(super) fn expect_restored(&self, caller: Caller, ino: Ino) -> Result<()> {
        let owner = self.attributes(ino)?.owner.uid;
        let mut files = self.files.lock();
        let writes = files.handles.values().any(|h| h.ino == ino && h.writes);
        match files.inodes.get_mut(&ino) {
            Some(opened) if writes && (caller.uid == 0 || caller.uid == owner) => opened.restored = true,
            _ => return Err(FsError::NotPermitted.into()),
        }
        Ok(())
    }

    /// As fsync(2): everything done so far survives a crash, and where that is wanted, the file gets a version first. Once
    /// something of the file was [`lost`](Self::lost), this fails for as long as anybody has it open: the kernel reports it to each
    /// descriptor once and then takes the file for clean.
    ///
    /// # Errors
    /// As of [`sync`](Self::sync), and [`Error::Io`] for what was lost.
    pub fn fsync(&self, ino: Ino) -> Result<()> {
        if self.store.making_of(ino)? == Making::Fsync {
            self.mint_now(ino)?;
        }
        self.sync()?;
        if self.files.lock().inodes.get(&ino).is_some_and(|o| o.lost) {
            let why = std::io::Error::other("something that was written to it before could not be kept");
            return Err(Error::Io { what: format!("syncing inode {ino}"), source: why });
        }
        Ok(())
    }

    /// Makes a version of a file that is open, and will go on to be.
    fn mint_now(&self, ino: Ino) -> Result<()> {
        let _one = self.minting(ino).lock();
        if self.store.commit_version(ino)?.1.is_some() {
            self.files.lock().minted(ino);
        }
        Ok(())
    }

    /// Makes the versions of open files that are to have one each so many seconds. Call it at least once a second.
    ///
    /// # Errors
    /// What the store says.
    pub fn mint_timely(&self) -> Result<()> {
        if !self.store.makes_while_open() {
            return Ok(());
        }
        let now = self.clock.monotonic_ns();
        let changing = self.files.lock().changing(now);
        for (ino, since) in changing {
            if let Making::Every(every) = self.store.making_of(ino)?
                && now.saturating_sub(since) >= every
            {
                self.mint_now(ino)?;
            }
        }
        Ok(())
    }

    /// What was made where no versions are made and has a name elsewhere now gets one, unless whoever writes it will make it.
    ///
    /// # Errors
    /// What the store says.
    pub(super) fn mint_moved(&self, ino: Ino) -> Result<()> {
        let _one = self.minting(ino).lock();
        if !self.files.lock().is_changing(ino) && self.store.view().attributes(ino)?.draft {
            self.mint(ino)?;
        }
        Ok(())
    }

    /// A step of looking at all files that have no version of what they show: those that lie where versions are made now get one,
    /// after a directory was moved or rules were changed. Says where to go on; `None` at the end.
    ///
    /// # Errors
    /// What the store says.
    pub fn mint_left(&self, from: Ino) -> Result<Option<Ino>> {
        let page = self.store.drafts(from, LEFT)?;
        for ino in &page {
            self.mint_moved(*ino)?;
        }
        Ok(page.last().filter(|_| page.len() == LEFT).map(|last| last.next()))
    }

    /// Removes a name. If it was the last one of a file, what that holds goes with it, or with the last handle.
    pub(super) fn unlink_closed(&self, dir: Ino, name: &[u8]) -> Result<()> {
        // Under the lock, so that nobody opens it in between.
        let mut files = self.files.lock();
        let (_, ino, links) = self.store.unlink_from(dir, name, &|ino| files.inodes.contains_key(&ino))?;
        if links == 0
            && let Some(opened) = files.inodes.get_mut(&ino)
        {
            opened.orphan = true;
        }
        Ok(())
    }

    /// An object lost a name: if it was the last one, its content goes with the last handle, or now.
    pub(super) fn unnamed(&self, ino: Ino, links: u32) -> Result<()> {
        if links > 0 {
            return Ok(());
        }
        // Under the lock, so that nobody opens it in between.
        let mut files = self.files.lock();
        if let Some(opened) = files.inodes.get_mut(&ino) {
            opened.orphan = true;
            return Ok(());
        }
        self.unwritten.forget(ino);
        match self.store.reap(ino) {
            Ok(_) | Err(Error::Fs(FsError::NotFound)) => Ok(()),
            Err(e) => Err(e),
        }
    }

    /// Content that the kernel had collected for a file, through a map or its writeback cache, could not be taken over.
    pub fn lost(&self, ino: Ino) {
        if let Some(opened) = self.files.lock().inodes.get_mut(&ino) {
            opened.lost = true;
        }
    }

    /// As [`sync`](Self::sync), for an open file. Once something of it was [`lost`](Self::lost), this fails for as long as
    /// anybody has it open: the kernel reports it to each descriptor once and then takes the file for clean.
    ///
    /// # Errors
    /// As of [`sync`](Self::sync), and [`Error::Io`] for what was lost.
    pub fn sync_file(&self, ino: Ino) -> Result<()> {
        self.sync()?;
        if self.files.lock().inodes.get(&ino).is_some_and(|o| o.lost) {
            let why = std::io::Error::other("something that was written to it before could not be kept");
            return Err(Error::Io { what: format!("syncing inode {ino}"), source: why });
        }
        Ok(())
    }

    /// Releases whatever is still open, and writes what is only in memory: the mount is gone.
    pub fn release_all(&self) {
        let handles: Vec<u64> = self.files.lock().handles.keys().copied().collect();
        for handle in handles {
            self.release(handle);
        }
        self.write_access_times();
    }

    /// Files open now; not known if whoever holds the table does not let go of it within `patience`.
    #[must_use]
    pub fn open_files(&self, patience: std::time::Duration) -> Option<usize> {
        Some(self.files.try_lock_for(patience)?.handles.len())
    }
}
