//! The disk as the store sees it: files, sync, rename. The only room with `unsafe` code.
//!
//! The store never touches `std::fs`: it is given a [`Disk`], the real one or the simulator's. All paths
//! are relative to the store's directory.

mod buffer;
mod plain;
mod real;
mod uring;

use std::{io, path::Path, sync::Arc};

pub use buffer::AlignedBuffer;
pub use real::{Engine, RealDisk};

/// A directory tree with files, as durable as a real one: what is not synced may be lost, a file's name is
/// durable only once its directory was synced.
pub trait Disk: Send + Sync {
    /// Opens an existing file; `write` asks for writing too.
    ///
    /// # Errors
    /// `NotFound`, or what the system says.
    fn open(&self, path: &Path, write: bool) -> io::Result<Arc<dyn DiskFile>>;

    /// Creates a file that does not exist yet, for reading and writing.
    ///
    /// # Errors
    /// `AlreadyExists`, or what the system says.
    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>>;

    /// Creates a directory and its parents; one that exists already is fine.
    ///
    /// # Errors
    /// What the system says.
    fn create_dir(&self, path: &Path) -> io::Result<()>;

    /// The names in a directory, sorted; a missing directory is `NotFound`.
    ///
    /// # Errors
    /// What the system says.
    fn list(&self, path: &Path) -> io::Result<Vec<String>>;

    /// Renames a file over whatever has the new name, atomically.
    ///
    /// # Errors
    /// What the system says.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a file.
    ///
    /// # Errors
    /// What the system says.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// What tells a file from all others that are there, whatever its name; `None` where no file can have two names.
    ///
    /// # Errors
    /// `NotFound`, or what the system says.
    fn number(&self, _path: &Path) -> io::Result<Option<u64>> {
        Ok(None)
    }

    /// Removes an empty directory.
    ///
    /// # Errors
    /// What the system says.
    fn remove_dir(&self, _path: &Path) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Makes the names in a directory durable.
    ///
    /// # Errors
    /// What the system says; the state of the directory is then unknown.
    fn sync_dir(&self, path: &Path) -> io::Result<()>;

    /// Takes the lock on a file, creating it if needed, and writes `holder` into it for others to read, if there is
    /// space; held until the guard is dropped.
    ///
    /// # Errors
    /// `WouldBlock` if another process has it, with what is known of that process as the message.
    fn lock(&self, path: &Path, holder: &str) -> io::Result<Box<dyn Send + Sync>>;

    /// Takes the lock on a file that is there, without writing anything, beside others who do the same; `None` if
    /// there is no such file. Keeps out whoever calls [`lock`](Self::lock) until the guard is dropped.
    ///
    /// # Errors
    /// `WouldBlock` if another process has it by [`lock`](Self::lock), with what is known of that as the message.
    fn lock_shared(&self, _path: &Path) -> io::Result<Option<Box<dyn Send + Sync>>> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Free and total bytes of the filesystem that holds the store.
    ///
    /// # Errors
    /// What the system says.
    fn space(&self) -> io::Result<Space>;

    /// How writes reach the disk: "io_uring", "plain", "simulated".
    fn engine(&self) -> &'static str;
}

/// Free and total bytes of a filesystem.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Space {
    /// All bytes.
    pub total_bytes: u64,
    /// Bytes that can be had without special rights.
    pub free_bytes: u64,
}

/// An open file. Offsets and lengths in bytes; all methods may be called from several threads at once.
#[allow(clippy::len_without_is_empty)] // a file is no collection
pub trait DiskFile: Send + Sync {
    /// Reads up to the buffer's length; fewer bytes only at the end of the file.
    ///
    /// # Errors
    /// What the system says.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;

    /// As [`read_at`](Self::read_at), if that takes no waiting for the medium; `None` if it might, and the buffer then
    /// holds anything. Memory never waits.
    ///
    /// # Errors
    /// As of [`read_at`](Self::read_at).
    fn read_at_once(&self, buffer: &mut [u8], offset: u64) -> io::Result<Option<usize>> {
        self.read_at(buffer, offset).map(Some)
    }

    /// Writes the pieces one behind the other, all of them.
    ///
    /// # Errors
    /// What the system says; some bytes may have been written.
    fn write_at(&self, pieces: &[&[u8]], offset: u64) -> io::Result<()>;

    /// Makes everything written so far durable, with the length needed to read it.
    ///
    /// # Errors
    /// What the system says; what was written since the last good sync may be lost, and trying again
    /// proves nothing.
    fn sync(&self) -> io::Result<()>;

    /// [`write_at`](Self::write_at) and [`sync`](Self::sync) as one request, where that is faster.
    ///
    /// # Errors
    /// As of the two.
    fn write_and_sync(&self, pieces: &[&[u8]], offset: u64) -> io::Result<()> {
        self.write_at(pieces, offset)?;
        self.sync()
    }

    /// Starts writing a range to the medium without waiting (a hint).
    fn start_writeback(&self, _offset: u64, _len: u64) {}

    /// The length.
    ///
    /// # Errors
    /// What the system says.
    fn len(&self) -> io::Result<u64>;

    /// Sets the length; new bytes are zero.
    ///
    /// # Errors
    /// What the system says.
    fn set_len(&self, len: u64) -> io::Result<()>;

    /// Reserves space for the first `len` bytes, so that writing there can't run out of it; grows the file
    /// to `len` if it is shorter.
    ///
    /// # Errors
    /// `StorageFull`, or what the system says.
    fn allocate(&self, len: u64) -> io::Result<()>;

    /// Reads exactly the buffer's length.
    ///
    /// # Errors
    /// `UnexpectedEof` if the file ends before.
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let n = self.read_at(buffer, offset)?;
        if n == buffer.len() { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }
}
