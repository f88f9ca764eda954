//! Following the log: durable records in order, for replication.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use parking_lot::Mutex;

use super::{Inner, OwnedRecord, SegmentState, files::Segment};
use crate::{
    base::{Lsn, Result, SegmentId, limits::BLOCK_BYTES},
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
    /// Are payloads read?
    payloads: bool,
}

/// Places that are remembered at most.
const PLACES: usize = 32;

/// Where readers have stopped: whoever goes on from there need not go through the segment from its beginning.
#[derive(Default)]
pub(super) struct Places(Mutex<VecDeque<Place>>);

/// In this segment, every record before this offset, at which a batch begins, has a lower number than this (moved ones aside). That
/// stays so: a segment only grows, and its id is never given to another.
#[derive(Clone, Copy)]
struct Place {
    segment: SegmentId,
    next: Lsn,
    offset: u64,
}

impl Places {
    /// The last remembered place of a segment from which a reader that wants `next` may begin.
    fn before(&self, segment: SegmentId, next: Lsn) -> Option<u64> {
        let places = self.0.lock();
        let fit = places.iter().filter(|p| p.segment == segment && p.next <= next);
        fit.max_by_key(|p| p.next).map(|p| p.offset)
    }

    /// A reader that began behind `from` has come to this place.
    fn remember(&self, from: Lsn, place: Place) {
        let mut places = self.0.lock();
        // It takes the place of the one from which it came.
        places.retain(|p| p.segment != place.segment || p.next > place.next || p.next < from);
        if places.len() >= PLACES {
            places.pop_front();
        }
        places.push_back(place);
    }
}

struct Reading {
    segment: Arc<Segment>,
    scan: Scan,
    frames: VecDeque<ScannedFrame>,
    /// The batch of these frames begins there, and records before it have lower numbers than this.
    batch: (Lsn, u64),
    /// Where the scan was told to stop.
    limit: u64,
}

impl Subscription {
    pub(super) fn new(inner: Arc<Inner>, from: Lsn) -> Self {
        Self { inner, next: from.max(Lsn::FIRST), reading: None, payloads: true }
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
        Ok(match self.try_frame()? {
            None => None,
            Some(Err(gone)) => Some(gone),
            Some(Ok(frame)) if frame.wrong.is_some() => {
                let gone = Next::Gone { first: self.next, last: self.next };
                self.next = self.next.next();
                Some(gone)
            }
            Some(Ok(frame)) => {
                let record = self.read(&frame)?;
                self.next = self.next.next();
                Some(Next::Record(record))
            }
        })
    }

    /// The frame of the next record, or what is gone before it.
    fn try_frame(&mut self) -> Result<Option<Result<ScannedFrame, Next>>> {
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
                return Ok(Some(Err(gone)));
            }
            return Ok(Some(Ok(frame)));
        }
    }

    /// The record of a frame in the segment being read.
    fn read(&self, frame: &ScannedFrame) -> Result<OwnedRecord> {
        let id = frame.envelope.segment;
        let seed = self.reading.as_ref().map(|r| r.segment.seed).ok_or_else(|| super::gone(id, 0))?;
        let file = self.inner.files.file(id)?;
        read_record(&frame.location(), seed, &|out, at| file.read_exact_at(out, at))
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
            Some(s) => {
                let from = self.inner.places.before(s.id(), self.next).unwrap_or(BLOCK_BYTES);
                self.enter(s, from).map(|()| true)
            }
            None => Ok(false),
        }
    }

    fn enter(&mut self, segment: Arc<Segment>, from: u64) -> Result<()> {
        let (limit, _) = self.limit(&segment);
        let file = self.inner.files.file(segment.id())?;
        let begin = if self.payloads { Scan::new } else { Scan::heads };
        let scan = begin(file, &segment.header, from, limit);
        let batch = (self.next, scan.end());
        self.reading = Some(Reading { segment, scan, frames: VecDeque::new(), batch, limit });
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
                    r.batch = (self.next, b.begin);
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

/// The records of the durable log one after the other, without their payloads.
pub struct Heads {
    log: Subscription,
    /// The first one asked for, and the last record to yield.
    from: Lsn,
    until: Lsn,
    frame: Option<ScannedFrame>,
}

impl Drop for Heads {
    fn drop(&mut self) {
        let Some(r) = &self.log.reading else { return };
        let (next, offset) = if r.frames.is_empty() { (self.log.next, r.scan.end()) } else { r.batch };
        self.log.inner.places.remember(self.from, Place { segment: r.segment.id(), next, offset });
    }
}

impl Heads {
    pub(super) fn new(inner: Arc<Inner>, from: Lsn) -> Self {
        let until = inner.tail.lock().durable_lsn;
        let log = Subscription { payloads: false, ..Subscription::new(inner, from) };
        Self { log, from, until, frame: None }
    }

    /// The next record; `None` behind the last one that was durable when this began. What is not in the log any more, or
    /// damaged, is passed over.
    ///
    /// # Errors
    /// If the log can't be read.
    pub fn try_next(&mut self) -> Result<Option<&ScannedFrame>> {
        while self.log.next <= self.until {
            match self.log.try_frame()? {
                None => break,
                Some(Err(_)) => {}
                Some(Ok(frame)) => {
                    self.log.next = self.log.next.next();
                    if frame.wrong.is_none() {
                        self.frame = Some(frame);
                        return Ok(self.frame.as_ref());
                    }
                }
            }
        }
        self.frame = None;
        Ok(None)
    }

    /// All of the record that came last.
    ///
    /// # Errors
    /// [`crate::base::Error::Damaged`] if it is not what was written.
    pub fn read(&self) -> Result<Option<OwnedRecord>> {
        self.frame.as_ref().map(|frame| self.log.read(frame)).transpose()
    }
}
