//! Bytes that are to be gone for good: files are overwritten before they are used for something else, and what they held in
//! an earlier life behind what is in use now.

use super::{Inner, Log, SegmentState, files::Segment};
use crate::{
    base::{Error, Result, SegmentId, limits::BLOCK_BYTES},
    disk::DiskFile,
};

/// Zeros written at once.
const ZEROS: u64 = 1 << 20;

impl Log {
    /// Ends the segment that is being written, so that it can be given back; the next append begins another one.
    ///
    /// # Errors
    /// [`Error::Poisoned`] if that fails.
    pub fn end_active(&self) -> Result<()> {
        let inner = &self.inner;
        let mut t = inner.tail.lock();
        loop {
            t.check()?;
            if inner.lead(&mut t, |s, t| s.end_segment(t, false))? {
                return Ok(());
            }
        }
    }

    /// As [`retire`](Self::retire), and overwrites the files before they are used again or removed.
    ///
    /// # Errors
    /// As of [`retire`](Self::retire).
    pub fn retire_and_erase(&self, ids: &[SegmentId]) -> Result<()> {
        self.inner.files.erase_when_retired(ids);
        self.inner.retire(ids)
    }

    /// Is the file of any of these retired segments still there, since somebody reads it?
    #[must_use]
    pub fn is_waiting(&self, ids: &[SegmentId]) -> bool {
        self.inner.files.is_retired(ids)
    }

    /// Overwrites what no record lies in: spare files, and in segments that are full what their files held before.
    ///
    /// # Errors
    /// What the disk says.
    pub fn erase_unused(&self) -> Result<()> {
        self.inner.files.erase_spares()?;
        // What is begun from here on is begun in an overwritten file; what is being written was begun before.
        self.end_active()?;
        for s in self.inner.segments().iter().filter(|s| s.state == SegmentState::Sealed) {
            let Some(held) = self.inner.files.get(s.id) else { continue };
            self.inner.erase_tail(&held)?;
        }
        Ok(())
    }
}

impl Inner {
    fn erase_tail(&self, s: &Segment) -> Result<()> {
        let (id, end) = (s.id(), s.now.lock().end);
        let failed = |e| Error::io(format!("overwriting what is unused of segment {id}"), e);
        let file = self.disk.open(&crate::segment::path(id), true).map_err(failed)?;
        // The trailer is at the end.
        let until = file.len().map_err(failed)?.saturating_sub(BLOCK_BYTES);
        zero(&*file, end, until).and_then(|()| file.sync()).map_err(failed)
    }
}

/// Overwrites a part of a file.
pub(super) fn zero(file: &dyn DiskFile, from: u64, until: u64) -> std::io::Result<()> {
    let zeros = vec![0; ZEROS as usize];
    let mut at = from;
    while at < until {
        let n = (until - at).min(ZEROS);
        file.write_at(&[&zeros[..n as usize]], at)?;
        at += n;
    }
    Ok(())
}
