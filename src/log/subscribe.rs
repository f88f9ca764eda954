//! Following the log: durable records in order, for replication.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use super::{Inner, OwnedRecord, SegmentState, files::Segment};
use crate::{
    base::{Lsn, Result, limits::BLOCK_BYTES},
    format::flags,
    segment::{Found, Scan, ScannedFrame, read_record},
};

/// What a subscription yields.
#[derive(Debug)]
pub enum Next {
    /// The next record.
    Record(OwnedRecord),
    /// These records are not in the log any more where they were written: retired, or lost to damage.
    Gone {
        /// The first of them.
        first: Lsn,
        /// The last of them.
        last: Lsn,
    },
}

/// A reader that follows the durable log. It holds the frame list of one batch and one read window in memory, and pins the
/// segment that it reads.
pub struct Subscription {
    inner: Arc<Inner>,
    /// The number of the next record to yield.
    next: Lsn,
    reading: Option<Reading>,
}

struct Reading {
    segment: Arc<Segment>,
    scan: Scan,
    frames: VecDeque<ScannedFrame>,
    /// Where the scan was told to stop.
    limit: u64,
}

impl Subscription {
    pub(super) fn new(inner: Arc<Inner>, from: Lsn) -> Self {
        Self { inner, next: from.max(Lsn::FIRST), reading: None }
    }

    /// The number of the next record.
    #[must_use]
    pub fn position(&self) -> Lsn {
        self.next
    }

    /// The next record, waiting up to `timeout` for it to become durable; `None` if there is none by then.
    ///
    /// # Errors
    /// If the log can't be read.
    pub fn next(&mut self, timeout: Duration) -> Result<Option<Next>> {
        {
            let mut t = self.inner.tail.lock();
            if t.durable_lsn < self.next && t.poison.is_none() && !t.closed {
                let next = self.next;
                self.inner.changed.wait_while_for(
                    &mut t,
                    |t| t.durable_lsn < next && t.poison.is_none() && !t.closed,
                    timeout,
                );
            }
        }
        self.try_next()
    }

    /// The next record, if it is durable already.
    ///
    /// # Errors
    /// If the log can't be read.
    pub fn try_next(&mut self) -> Result<Option<Next>> {
        let durable = self.inner.tail.lock().durable_lsn;
        if self.next > durable {
            return Ok(None);
        }
        loop {
            if self.reading.is_none() && !self.start()? {
                return Ok(None);
            }
            let Some(frame) = self.next_frame()? else {
                if self.reading.is_none() {
                    continue;
                }
                return Ok(None);
            };
            let e = &frame.envelope;
            if e.lsn < self.next || e.flags & flags::MOVED != 0 || !e.kind.is_record() {
                continue;
            }
            if e.lsn > self.next {
                let gone = Next::Gone { first: self.next, last: Lsn::new(e.lsn.get() - 1) };
                self.next = e.lsn;
                self.put_back(frame);
                return Ok(Some(gone));
            }
            if frame.wrong.is_some() {
                let gone = Next::Gone { first: self.next, last: self.next };
                self.next = self.next.next();
                return Ok(Some(gone));
            }
            let Some(reading) = &self.reading else { return Ok(None) };
            let file = self.inner.files.file(e.segment)?;
            let record =
                read_record(&frame.location(), reading.segment.seed, &|out, at| file.read_exact_at(out, at))?;
            self.next = self.next.next();
            return Ok(Some(Next::Record(record)));
        }
    }

    fn put_back(&mut self, frame: ScannedFrame) {
        if let Some(r) = &mut self.reading {
            r.frames.push_front(frame);
        }
    }

    /// Up to where a segment may be read: the active one only as far as it is durable.
    fn limit(&self, segment: &Segment) -> (u64, bool) {
        let t = self.inner.tail.lock();
        match &t.active {
            Some(a) if a.segment.id() == segment.id() => (t.durable_end, true),
            _ => (segment.now.lock().end, false),
        }
    }

    fn start(&mut self) -> Result<bool> {
        match self.inner.files.covering(self.next) {
            Some(s) => self.enter(s, BLOCK_BYTES).map(|()| true),
            None => Ok(false),
        }
    }

    fn enter(&mut self, segment: Arc<Segment>, from: u64) -> Result<()> {
        let (limit, _) = self.limit(&segment);
        let file = self.inner.files.file(segment.id())?;
        let scan = Scan::new(file, &segment.header, from, limit);
        self.reading = Some(Reading { segment, scan, frames: VecDeque::new(), limit });
        Ok(())
    }

    /// The next frame of the segment being read; at its end goes to the next one. `None` if no more is durable.
    fn next_frame(&mut self) -> Result<Option<ScannedFrame>> {
        loop {
            let Some(r) = &mut self.reading else { return Ok(None) };
            if let Some(f) = r.frames.pop_front() {
                return Ok(Some(f));
            }
            match r.scan.next_found() {
                Some(Found::Batch(b)) => {
                    r.frames = b.frames.into();
                    continue;
                }
                Some(Found::Damage { .. }) => continue,
                None => {}
            }
            let (at, old_limit, segment) = (r.scan.end(), r.limit, Arc::clone(&r.segment));
            let (limit, active) = self.limit(&segment);
            if limit > old_limit {
                self.enter(segment, at)?;
                continue;
            }
            if active || segment.now.lock().state == SegmentState::Active {
                return Ok(None);
            }
            match self.inner.files.after(segment.id()) {
                Some(next) => self.enter(next, BLOCK_BYTES)?,
                None => return Ok(None),
            }
        }
    }
}
