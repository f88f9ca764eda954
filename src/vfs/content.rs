//! Content: reading, writing, holes, copies.

use crate::{
    base::{FsError, Ino, Result, limits},
    format::facts::ObjectKind,
    store::SetAttributes,
};

use super::{Caller, Vfs};

/// What lseek(2) looks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seek {
    /// The next byte that is not in a hole.
    Data,
    /// The next hole, the end of the file being one.
    Hole,
}

/// What fallocate(2) does to a range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Allocate {
    /// The file grows to hold it. Space itself is not reserved: a log has no place to keep it.
    Extend,
    /// Nothing that shows: space behind the end.
    Reserve,
    /// It becomes a hole; the size stays.
    Punch,
    /// It reads as zeros; the file grows to hold it.
    Zero,
    /// It reads as zeros as far as the file goes.
    ZeroInside,
}

impl Vfs {
    /// Reads into the buffer; fewer bytes only at the file's end.
    ///
    /// # Errors
    /// What the store says.
    pub fn read(&self, ino: Ino, offset: u64, out: &mut [u8]) -> Result<usize> {
        self.store.view().read(ino, offset, out)
    }

    /// As [`read`](Self::read), if that takes no waiting for the disk; `None` if it might.
    ///
    /// # Errors
    /// What the store says.
    pub fn read_at_once(&self, ino: Ino, offset: u64, out: &mut [u8]) -> Result<Option<usize>> {
        self.store.view().read_at_once(ino, offset, out)
    }

    /// Writes through a handle. `by`: who writes, if set-user-id and set-group-id go for it.
    ///
    /// # Errors
    /// What the store says.
    pub fn write(&self, ino: Ino, handle: u64, offset: u64, data: &[u8], by: Option<Caller>) -> Result<()> {
        self.changes(ino, handle, by)?;
        self.store.write(ino, offset, data)?;
        Ok(())
    }

    /// Content is about to change through a handle.
    fn changes(&self, ino: Ino, handle: u64, by: Option<Caller>) -> Result<()> {
        let first = self.files.lock().wrote(handle);
        // Not only the first time: what the kernel collected comes through any handle, also what another one wrote before.
        self.mint_due_before(ino, Some(handle))?;
        if first || by.is_some() {
            let a = self.attributes(ino)?;
            self.drop_privileges(&a, by, first)?;
        }
        Ok(())
    }

    /// As fallocate(2).
    ///
    /// # Errors
    /// [`FsError::Invalid`], [`FsError::FileTooLarge`], or what the store says.
    pub fn allocate(
        &self,
        caller: Caller,
        ino: Ino,
        handle: u64,
        (offset, len): (u64, u64),
        how: Allocate,
    ) -> Result<()> {
        let end = offset.checked_add(len).filter(|end| *end <= limits::FILE_BYTES);
        let end = end.ok_or(FsError::FileTooLarge)?;
        if self.attributes(ino)?.kind != ObjectKind::File {
            return Err(FsError::Invalid.into());
        }
        self.changes(ino, handle, (caller.uid != 0).then_some(caller))?;
        let size = self.attributes(ino)?.size;
        let clears = matches!(how, Allocate::Punch | Allocate::Zero | Allocate::ZeroInside) && offset < size;
        let grows = matches!(how, Allocate::Extend | Allocate::Zero) && end > size;
        if clears {
            self.store.punch(ino, offset, len)?;
        }
        if grows {
            self.store.truncate(ino, end)?;
        }
        if !clears && !grows {
            // Nothing shows, but the times say that something was asked for.
            let modified = Some(self.now());
            self.store.set_attributes(ino, &SetAttributes { modified, ..SetAttributes::default() })?;
        }
        Ok(())
    }

    /// As `copy_file_range(2)`: the target shows the source's extents. Returns how many bytes it was.
    ///
    /// # Errors
    /// [`FsError::Invalid`] for ranges of one file that overlap, or what the store says.
    pub fn copy_range(
        &self,
        caller: Caller,
        from: (Ino, u64),
        (to, handle, offset): (Ino, u64, u64),
        len: u64,
    ) -> Result<u64> {
        self.changes(to, handle, (caller.uid != 0).then_some(caller))?;
        Ok(self.store.clone_range(from, (to, offset), len)?.1)
    }

    /// As lseek(2) with `SEEK_DATA` and `SEEK_HOLE`.
    ///
    /// # Errors
    /// [`FsError::NoSuchOffset`], or what the store says.
    pub fn seek(&self, ino: Ino, offset: u64, what: Seek) -> Result<u64> {
        self.store.view().seek(ino, offset, what == Seek::Data)
    }
}
