//! Open files: handles and their counting, versions at the last close, orphans.

use std::collections::HashMap;

use crate::base::{Error, FsError, Ino, Result};

use super::{Caller, Vfs};

/// All open files.
#[derive(Default)]
pub(super) struct Files {
    last: u64,
    handles: HashMap<u64, Handle>,
    inodes: HashMap<Ino, Opened>,
}

struct Handle {
    ino: Ino,
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
    /// The handle that was opened last, and the thread that did it.
    last: (u64, u32),
}

impl Files {
    fn add(&mut self, ino: Ino, pid: u32) -> u64 {
        self.last += 1;
        self.handles.insert(self.last, Handle { ino, wrote: false });
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

    /// Takes a handle away: what it was, and whether it was the last one of an orphan.
    fn take(&mut self, handle: u64) -> Option<(Handle, bool)> {
        let taken = self.handles.remove(&handle)?;
        let opened = self.inodes.get_mut(&taken.ino)?;
        opened.handles -= 1;
        let last = opened.handles == 0;
        let orphan = last && opened.orphan;
        if last {
            self.inodes.remove(&taken.ino);
        }
        Some((taken, orphan))
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
    pub fn open(&self, caller: Caller, ino: Ino) -> Result<u64> {
        let mut files = self.files.lock();
        if !files.inodes.contains_key(&ino) && self.attributes(ino)?.links == 0 {
            return Err(FsError::Stale.into());
        }
        Ok(files.add(ino, caller.pid))
    }

    /// A handle for a file that was just made.
    pub(super) fn opened_new(&self, ino: Ino) -> u64 {
        self.files.lock().add(ino, 0)
    }

    /// Some descriptor of the handle was closed. Makes no version (a shell closes duplicates before it
    /// writes), but one is due.
    pub fn flush(&self, handle: u64) {
        let mut files = self.files.lock();
        let Some(h) = files.handles.get(&handle) else { return };
        if h.wrote {
            let ino = h.ino;
            if let Some(opened) = files.inodes.get_mut(&ino) {
                opened.due = true;
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
    /// shown.
    ///
    /// # Errors
    /// What the store says.
    pub fn mint_due(&self, ino: Ino) -> Result<()> {
        let due = self.files.lock().inodes.get_mut(&ino).is_some_and(|o| std::mem::take(&mut o.due));
        if due {
            self.store.commit_version(ino)?;
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

    /// Files open now.
    #[must_use]
    pub fn open_files(&self) -> usize {
        self.files.lock().handles.len()
    }
}
