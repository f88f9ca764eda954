//! A sliding view of a file, for reading it through in order.

use std::{io, sync::Arc};

use crate::disk::DiskFile;

/// Holds a stretch of a file in memory.
pub struct Window {
    file: Arc<dyn DiskFile>,
    limit: u64,
    /// What one read fetches at least, in bytes.
    ahead: usize,
    start: u64,
    bytes: Vec<u8>,
}

impl Window {
    /// Over the file's bytes below `limit`; one read fetches at least `ahead` bytes.
    #[must_use]
    pub fn new(file: Arc<dyn DiskFile>, limit: u64, ahead: usize) -> Self {
        Self { file, limit, ahead, start: 0, bytes: Vec::new() }
    }

    /// The bytes there, fewer at the limit or at the file's end.
    ///
    /// # Errors
    /// What the disk says.
    pub fn get(&mut self, offset: u64, len: usize) -> io::Result<&[u8]> {
        let end = offset.saturating_add(len as u64).min(self.limit).max(offset);
        let held = self.start + self.bytes.len() as u64;
        if offset < self.start || end > held {
            let want = (end - offset).max(self.ahead as u64).min(self.limit.saturating_sub(offset));
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
