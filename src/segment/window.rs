//! A sliding view of a file, for reading it through in order.

use std::{io, sync::Arc};

use crate::disk::DiskFile;

/// What one read fetches at least, in bytes.
const READ_BYTES: usize = 256 << 10;
/// The same where most of what lies between is not wanted.
const SPARSE_READ_BYTES: usize = 16 << 10;

/// Holds a stretch of a file in memory.
pub(super) struct Window {
    file: Arc<dyn DiskFile>,
    limit: u64,
    /// What one read fetches at least.
    read_bytes: u64,
    start: u64,
    bytes: Vec<u8>,
}

impl Window {
    /// Over the file's bytes below `limit`.
    pub(super) fn new(file: Arc<dyn DiskFile>, limit: u64) -> Self {
        Self { file, limit, read_bytes: READ_BYTES as u64, start: 0, bytes: Vec::new() }
    }

    /// The same, for looking here and there: each read fetches little.
    pub(super) fn sparse(file: Arc<dyn DiskFile>, limit: u64) -> Self {
        Self { read_bytes: SPARSE_READ_BYTES as u64, ..Self::new(file, limit) }
    }

    /// The bytes there, fewer at the limit or at the file's end.
    pub(super) fn get(&mut self, offset: u64, len: usize) -> io::Result<&[u8]> {
        let end = offset.saturating_add(len as u64).min(self.limit).max(offset);
        let held = self.start + self.bytes.len() as u64;
        if offset < self.start || end > held {
            let want = (end - offset).max(self.read_bytes).min(self.limit.saturating_sub(offset));
            self.bytes.clear();
            self.bytes.resize(want as usize, 0);
            self.start = offset;
            let n = match self.file.read_at(&mut self.bytes, offset) {
                Ok(n) => n,
                Err(e) => {
                    self.bytes.clear();
                    return Err(e);
                }
            };
            self.bytes.truncate(n);
        }
        let from = ((offset - self.start) as usize).min(self.bytes.len());
        let to = ((end - self.start) as usize).min(self.bytes.len());
        Ok(&self.bytes[from..to])
    }
}
