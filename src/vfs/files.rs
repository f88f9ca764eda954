//! Open files: handles and their counting, versions at the last close, orphans.

use std::collections::HashMap;

use crate::base::{Error, FsError, Ino, Result};

use super::Vfs;

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
}

#[derive(Default)]
struct Opened {
    handles: u32,
    /// No name shows it any more; the last release gives it up.
    orphan: bool,
    /// Was flushed with changes: whoever asks for its history gets a version first.
    due: bool,
}

impl Files {
    fn add(&mut self, ino: Ino, writes: bool) -> u64 {
        self.last += 1;
        self.handles.insert(self.last, Handle { ino, writes, wrote: false });
        self.inodes.entry(ino).or_default().handles += 1;
        self.last
    }

    /// Takes a handle away: what it was, and whether it was the last one of an orphan.
    fn take(&mut self, handle: u64) -> Option<(Handle, bool)> {
        let mut taken = self.handles.remove(&handle)?;
        taken.wrote |= self.late_writes && taken.writes;
        let opened = self.inodes.get_mut(&taken.ino)?;
        opened.handles -= 1;
        let last = opened.handles == 0;
        let orphan = last && opened.orphan;
        if last {
            self.due -= usize::from(opened.due);
            self.inodes.remove(&taken.ino);
        }
        Some((taken, orphan))
    }

    /// Is a version of this due? Not any more after this.
    fn take_due(&mut self, ino: Ino) -> bool {
        let due = self.inodes.get_mut(&ino).is_some_and(|o| std::mem::take(&mut o.due));
        self.due -= usize::from(due);
        due
    }

    /// A handle that was opened to write the file and has not yet: one that was opened with `O_TRUNC`, if the file
    /// is cut to nothing now. The kernel asks for that without naming the handle, as it does for truncate(2).
    pub(super) fn about_to_write(&self, ino: Ino) -> Option<u64> {
        if !self.inodes.contains_key(&ino) {
            return None;
        }
        self.handles.iter().find(|(_, h)| h.ino == ino && h.writes && !h.wrote).map(|(handle, _)| *handle)
    }

    /// Notes that a handle changes content; true the first time.
    pub(super) fn wrote(&mut self, handle: u64) -> bool {
        self.handles.get_mut(&handle).is_some_and(|h| !std::mem::replace(&mut h.wrote, true))
    }
}

impl Vfs {
    /// Opens a file. The handle counts until [`release`](Self::release).
    ///
    /// # Errors
    /// [`FsError::Stale`] for a file that was given up, or what the store says.
    pub fn open(&self, ino: Ino, write: bool) -> Result<u64> {
        let mut files = self.files.lock();
        if !files.inodes.contains_key(&ino) && self.attributes(ino)?.links == 0 {
            return Err(FsError::Stale.into());
        }
        Ok(files.add(ino, write))
    }

    /// A handle for a file that was just made.
    pub(super) fn opened_new(&self, ino: Ino, write: bool) -> u64 {
        self.files.lock().add(ino, write)
    }

    /// From now on the kernel collects writes. It hands them over before it tells of a close, but through any handle of
    /// the file that may write: so each of those makes a version of what is there when it is released.
    pub fn expect_late_writes(&self) {
        self.files.lock().late_writes = true;
    }

    /// Some descriptor of the handle was closed. Makes no version (a shell closes duplicates before it
    /// writes), but one is due.
    pub fn flush(&self, handle: u64) {
        let mut files = self.files.lock();
        let Some(h) = files.handles.get(&handle) else { return };
        if h.wrote || (files.late_writes && h.writes) {
            let ino = h.ino;
            if let Some(opened) = files.inodes.get_mut(&ino)
                && !std::mem::replace(&mut opened.due, true)
            {
                files.due += 1;
            }
        }
    }

    /// The last descriptor of a handle is gone: what it wrote becomes a version.
    pub fn release(&self, handle: u64) {
        let Some((taken, orphan)) = self.files.lock().take(handle) else { return };
        let done = if orphan {
            self.store.reap(taken.ino).map(drop)
        } else if taken.wrote {
            self.store.commit_version(taken.ino).map(drop)
        } else {
            Ok(())
        };
        if let Err(e) = done {
            // Nobody waits for this answer. The draft stays, and gets its version at the next opening.
            tracing::error!("closing inode {}: {e}", taken.ino);
        }
    }

    /// Mints the version of a file that was flushed with changes and is still open: before its history is
    /// shown. Says whether there was one to mint.
    ///
    /// # Errors
    /// What the store says.
    pub fn mint_due(&self, ino: Ino) -> Result<bool> {
        let due = self.files.lock().take_due(ino);
        Ok(due && self.store.commit_version(ino)?.1.is_some())
    }

    /// Mints every version that is due.
    ///
    /// # Errors
    /// What the store says.
    pub fn mint_all_due(&self) -> Result<()> {
        let due: Vec<Ino> =
            self.files.lock().inodes.iter().filter(|(_, o)| o.due).map(|(ino, _)| *ino).collect();
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
        match self.store.reap(ino) {
            Ok(_) | Err(Error::Fs(FsError::NotFound)) => Ok(()),
            Err(e) => Err(e),
        }
    }

    /// Releases whatever is still open: the mount is gone.
    pub fn release_all(&self) {
        let handles: Vec<u64> = self.files.lock().handles.keys().copied().collect();
        for handle in handles {
            self.release(handle);
        }
    }

    /// Files open now; not known if whoever holds the table does not let go of it within `patience`.
    #[must_use]
    pub fn open_files(&self, patience: std::time::Duration) -> Option<usize> {
        Some(self.files.try_lock_for(patience)?.handles.len())
    }
}
