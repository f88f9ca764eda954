//! Segments looked at and given back: what the cleaner needs of the log.
//!
//! A segment without a footer (a crash cut it) ends where its successor says. So its file leaves the log before its
//! successor's does, durably, and behind every segment that is given back another one holds durable records.

use super::{
    Inner, Log, OwnedRecord, SegmentState,
    append::Room,
    files::{Purse, Segment},
    gone,
};
use crate::{
    base::{Damage, Error, FsError, Lsn, Result, SegmentId, limits::BLOCK_BYTES},
    disk::DiskFile,
    format::{Entry, Envelope, frame::ENVELOPE_BYTES},
    segment::{self, Found, Scan, ScannedFrame, read_footer, read_trailer},
};

/// The records of a segment, as its footer or a scan tells them.
#[derive(Debug, Clone)]
pub struct Listing {
    /// The records, in the order in which they lie there.
    pub entries: Vec<Entry>,
    /// Something in it could not be read, so the list may lack records.
    pub damaged: bool,
}

impl Log {
    /// The records of a segment that is not being written any more.
    ///
    /// # Errors
    /// [`Error::Damaged`] if it is not in the log, or what the disk says.
    pub fn listing(&self, id: SegmentId) -> Result<Listing> {
        let s = self.inner.files.get(id).ok_or_else(|| gone(id, 0))?;
        let file = self.inner.files.file(id)?;
        let now = *s.now.lock();
        // A crash may have cut the segment before its footer, whose records are none of the log then: their numbers were given again.
        if let Some(trailer) = read_trailer(&*file, &s.header)
            && (trailer.end(), trailer.last_lsn) == (now.end, now.last_lsn)
            && let Ok(footer) = read_footer(&trailer, s.seed, &|out, at| file.read_exact_at(out, at))
        {
            return Ok(Listing { entries: footer.records, damaged: false });
        }
        let mut found = Listing { entries: Vec::new(), damaged: false };
        let mut scan = Scan::new(file, &s.header, BLOCK_BYTES, now.end);
        while let Some(next) = scan.next_found() {
            let Found::Batch(batch) = next else {
                found.damaged = true;
                continue;
            };
            found.damaged |= !batch.is_whole();
            found
                .entries
                .extend(batch.frames.iter().filter(|f| f.envelope.kind.is_record()).map(ScannedFrame::entry));
        }
        Ok(found)
    }

    /// Reads a record that a listing names.
    ///
    /// # Errors
    /// [`Error::Damaged`] if it is not what was written.
    pub fn read_entry(&self, id: SegmentId, entry: &Entry) -> Result<OwnedRecord> {
        let s = self.inner.files.get(id).ok_or_else(|| gone(id, entry.offset))?;
        let file = self.inner.files.file(id)?;
        let bad = |why: String| Error::from(Damage::segment(id, entry.offset, Some(entry.lsn), why));
        let mut bytes = [0; ENVELOPE_BYTES];
        file.read_exact_at(&mut bytes, entry.offset)
            .map_err(|e| Error::io(format!("reading segment {id} at {}", entry.offset), e))?;
        let envelope =
            Envelope::decode(&bytes, s.seed, id, entry.offset, u64::MAX).map_err(|why| bad(why.0.into()))?;
        if envelope.lsn != entry.lsn {
            return Err(bad("another record lies where this one was listed".into()));
        }
        let location = segment::Location::of_entry(id, entry, envelope.codec);
        segment::read_record(&location, s.seed, &|out, at| file.read_exact_at(out, at))
    }

    /// Is this segment in the log?
    #[must_use]
    pub fn is_there(&self, id: SegmentId) -> bool {
        self.inner.files.get(id).is_some()
    }

    /// Does a segment say by itself where it ends? Of others the successor does, which has to stay as long as they do.
    ///
    /// # Errors
    /// [`Error::Damaged`] if it is not in the log, or what the disk says.
    pub fn has_footer(&self, id: SegmentId) -> Result<bool> {
        let s = self.inner.files.get(id).ok_or_else(|| gone(id, 0))?;
        Ok(has_footer(&*self.inner.files.file(id)?, &s))
    }

    /// Does beforehand what an append of so many bytes and records by the cleaner would have to do first: writing out, or
    /// beginning a segment. So the append itself takes no longer than a copy, as a rule. At most one segment is begun: what does not go
    /// into an empty one, no room can be made for.
    ///
    /// # Errors
    /// As of [`append_cleaning`](Self::append_cleaning).
    pub fn make_room(&self, bytes: u64, records: usize) -> Result<()> {
        let mut t = self.inner.tail.lock();
        let mut begun = false;
        loop {
            t.check()?;
            if t.ending {
                self.inner.changed.wait(&mut t);
                continue;
            }
            match t.room_for(bytes, records) {
                Room::Yes if t.waiting() < bytes => return Ok(()),
                // What others have appended meanwhile is no reason to wait for the disk under their eyes.
                Room::Yes | Room::WriteFirst => {
                    if self.inner.lead(&mut t, |s, t| s.flush(t, false))? {
                        return Ok(());
                    }
                }
                Room::NewSegment if begun => return Ok(()),
                Room::NewSegment => begun = self.inner.lead(&mut t, |s, t| s.rotate(t, Purse::Cleaner))?,
            }
        }
    }

    /// Gives back the files of retired segments that nobody reads any more.
    ///
    /// # Errors
    /// As of [`retire`](Self::retire).
    pub fn recycle(&self) -> Result<()> {
        self.inner.or_poison(self.inner.files.recycle_retired())
    }
}

impl Inner {
    pub(super) fn retire(&self, ids: &[SegmentId]) -> Result<()> {
        if self.opts.read_only {
            return Err(FsError::ReadOnly.into());
        }
        {
            let t = self.tail.lock();
            t.check()?;
            let active = t.active.as_ref().map(|a| a.segment.id());
            // What stays must hold the highest LSN that was ever given out.
            let durable = |s: &Segment| match active {
                Some(id) if id == s.id() => t.durable_end > BLOCK_BYTES,
                _ => s.now.lock().end > BLOCK_BYTES,
            };
            let last = self.files.last_where(&durable);
            if let Some(id) = ids.iter().find(|id| last.is_none_or(|last| **id >= last)) {
                return Err(Error::BadRequest(format!("segment {id} holds the end of the log")));
            }
        }
        self.or_poison(self.files.retire(ids))
    }

    /// After it, nobody knows what a directory would hold after a crash: then the log stops.
    fn or_poison(&self, done: Result<()>) -> Result<()> {
        match done {
            Err(Error::Poisoned { why }) => Err(self.poison(&mut self.tail.lock(), why)),
            done => done,
        }
    }
}

/// Does this segment say by itself where it ends?
pub(super) fn has_footer(file: &dyn DiskFile, s: &Segment) -> bool {
    let now = *s.now.lock();
    if now.state == SegmentState::Active {
        return false;
    }
    let last = |t: Lsn| t == now.last_lsn;
    read_trailer(file, &s.header).is_some_and(|t| t.end() == now.end && last(t.last_lsn))
}
