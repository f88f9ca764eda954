//! Appending, committing, and reading what may still be in memory.

use std::{
    io,
    sync::{Arc, atomic::Ordering::Relaxed},
};

use super::{
    Inner, Location, Log, Record, SegmentInfo, close,
    files::Purse,
    gone,
    tail::{Guard, Tail},
};
use crate::{
    base::{
        Error, FsError, Lsn, Result, SegmentId,
        limits::{self, BLOCK_BYTES, TAIL_BYTES},
    },
    format::{
        BodyHeader, Entry, Kind, Origin, Seed, flags,
        frame::{BATCH_END_FRAME_BYTES, frame_len},
        pad_block,
    },
    segment::{self, BatchBuilder, FrameParts, Report},
};

/// From this many waiting bytes on, the background thread writes while others append.
const WRITE_BEHIND_BYTES: u64 = 4 << 20;

/// Does a read wait for the disk?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Patience {
    Waits,
    /// It fails with `WouldBlock` instead.
    None,
}

/// What an append needs before it can go into the tail.
pub(super) enum Room {
    Yes,
    WriteFirst,
    NewSegment,
}

impl Tail {
    pub(super) fn room_for(&self, bytes: u64, count: usize) -> Room {
        let Some(a) = &self.active else { return Room::NewSegment };
        let end = match &a.open {
            Some(b) => b.end_with(bytes),
            None => pad_block(a.end + bytes + BATCH_END_FRAME_BYTES),
        };
        if !a.footer.fits(count) || end + a.footer.room(count) > a.segment.header.capacity {
            Room::NewSegment
        } else if self.waiting() > 0 && self.waiting() + bytes > TAIL_BYTES as u64 {
            Room::WriteFirst
        } else {
            Room::Yes
        }
    }
}

impl Inner {
    pub(super) fn max_append_bytes(&self) -> u64 {
        // Header, batch end with padding, footer with trailer.
        let room = self.opts.segment_bytes.saturating_sub(5 * BLOCK_BYTES);
        room.min(TAIL_BYTES as u64)
    }

    /// Would so many records of so many bytes go into the segment that is being written?
    pub(super) fn fits(&self, bytes: u64, count: usize) -> bool {
        !matches!(self.tail.lock().room_for(bytes, count), Room::NewSegment)
    }

    /// What the cleaner could append in records, about, without anything given back.
    pub(super) fn cleaning_room(&self) -> u64 {
        let capacity = self.opts.segment_bytes;
        // Segments end before their last bytes: a record in so many may not fit any more, and the footer lists them.
        let payload = (capacity - capacity / 16).saturating_sub(5 * BLOCK_BYTES);
        let rest = self.tail.lock().active.as_ref().map_or(0, |a| {
            let end = a.open.as_ref().map_or(a.end, |b| b.end_with(0));
            payload.saturating_sub(end)
        });
        rest + self.files.cleaner_begins(capacity).saturating_mul(payload)
    }

    pub(super) fn append(
        &self,
        records: &[Record<'_>],
        log: &Log,
        purse: Purse,
    ) -> Result<Vec<(Lsn, Location)>> {
        if self.opts.read_only {
            return Err(FsError::ReadOnly.into());
        }
        let mut bytes = 0;
        for r in records {
            check(r)?;
            bytes += frame_len(r.payload.body_len(r.kind));
        }
        let footer = records.len() as u64 * 43;
        if bytes + footer > self.max_append_bytes() {
            return Err(Error::BadRequest(format!("{bytes} bytes are too many for one append")));
        }
        let mut t = self.tail.lock();
        if records.is_empty() {
            t.check()?;
            return Ok(Vec::new());
        }
        loop {
            t.check()?;
            if t.ending {
                self.changed.wait(&mut t);
                continue;
            }
            match t.room_for(bytes, records.len()) {
                Room::Yes if !t.short || purse != Purse::Common => break,
                Room::Yes => self.lead(&mut t, Self::end_shortage)?,
                Room::WriteFirst => self.lead(&mut t, |s, t| s.flush(t, false))?,
                Room::NewSegment => self.lead(&mut t, |s, t| s.rotate(t, purse))?,
            };
        }
        let out = self.push(&mut t, records);
        self.counters.records.fetch_add(records.len() as u64, Relaxed);
        if self.opts.background {
            self.wake_worker(&mut t, log);
        }
        if std::mem::take(&mut t.followed) {
            self.changed.notify_all();
        }
        Ok(out)
    }

    pub(super) fn await_room(&self, bytes: u64) -> Result<()> {
        let mut t = self.tail.lock();
        loop {
            t.check()?;
            if t.ending {
                self.changed.wait(&mut t);
                continue;
            }
            match t.room_for(bytes, 1) {
                Room::Yes if t.short => self.lead(&mut t, Self::end_shortage)?,
                Room::Yes | Room::WriteFirst => return Ok(()),
                Room::NewSegment => self.lead(&mut t, |s, t| s.rotate(t, Purse::Common))?,
            };
        }
    }

    fn push(&self, t: &mut Guard<'_>, records: &[Record<'_>]) -> Vec<(Lsn, Location)> {
        let mut next = t.next_lsn;
        let Some(a) = t.active.as_mut() else { unreachable!("room was made") };
        let id = a.segment.id();
        let seed = a.segment.seed;
        let end = a.end;
        let batch = a.open.get_or_insert_with(|| BatchBuilder::new(id, seed, end, Lsn::new(next)));
        let mut out = Vec::with_capacity(records.len());
        for r in records {
            let (lsn, numbered) = match r.lsn {
                Some(lsn) => (lsn, false),
                None => {
                    next += 1;
                    (Lsn::new(next - 1), true)
                }
            };
            let head = r.kind.has_body_header().then(|| self.head(r, lsn));
            let p = r.payload;
            let parts = FrameParts { kind: r.kind, flags: r.flags, lsn, ino: r.ino, head, payload: p };
            let offset = batch.push(&parts, numbered);
            let location = Location {
                segment: id,
                offset,
                kind: r.kind,
                codec: p.codec(),
                stored_len: p.stored().len() as u32,
                raw_len: p.raw_len(),
            };
            a.footer.push(&Entry {
                kind: r.kind,
                flags: r.flags,
                lsn,
                offset,
                stored_len: location.stored_len,
                raw_len: location.raw_len,
                ino: r.ino,
            });
            out.push((lsn, location));
        }
        t.next_lsn = next;
        out
    }

    fn head(&self, r: &Record<'_>, lsn: Lsn) -> BodyHeader {
        let origin = r.origin.unwrap_or(Origin {
            store: self.store,
            incarnation: self.incarnation,
            seq: if r.kind == Kind::Extent { lsn.get() } else { r.seq },
        });
        BodyHeader {
            object: r.object,
            origin,
            stamp: r.stamp,
            arg: r.arg,
            raw_len: r.payload.raw_len(),
            raw_crc: r.payload.raw_crc(),
            branch: r.branch,
        }
    }

    fn wake_worker(&self, t: &mut Guard<'_>, log: &Log) {
        let half = t.active.as_ref().is_some_and(|a| a.end > a.segment.header.capacity / 2);
        let write = !t.write_wanted && !t.busy && t.waiting() >= WRITE_BEHIND_BYTES;
        let spare = !t.spare_wanted && half && self.files.spares() <= limits::RESERVE_SEGMENTS;
        if write || spare {
            t.write_wanted |= write;
            t.spare_wanted |= spare;
            close::start_worker(log);
            self.work.notify_one();
        }
    }

    pub(super) fn commit(&self) -> Result<()> {
        let mut t = self.tail.lock();
        loop {
            t.check()?;
            if !t.busy && !t.dirty && t.waiting() == 0 {
                return Ok(());
            }
            if self.lead(&mut t, |s, t| s.flush(t, true))? {
                return Ok(());
            }
        }
    }

    pub(super) fn write_out(&self) -> Result<()> {
        let mut t = self.tail.lock();
        loop {
            t.check()?;
            if self.lead(&mut t, |s, t| s.flush(t, false))? {
                return Ok(());
            }
        }
    }

    /// Runs `f` with the way to fetch a location's bytes: out of the open batch, the one being written, or the file.
    pub(super) fn with_source<T>(
        &self,
        loc: &Location,
        patience: Patience,
        f: impl FnOnce(Seed, segment::Fetch<'_>) -> Result<T>,
    ) -> Result<T> {
        let segment = self.files.get(loc.segment).ok_or_else(|| gone(loc.segment, loc.offset))?;
        let now = *segment.now.lock();
        let inside = |end: u64| {
            if loc.offset + loc.frame_len() <= end { Ok(()) } else { Err(gone(loc.segment, loc.offset)) }
        };
        if now.state == super::SegmentState::Active && loc.offset >= now.end {
            let t = self.tail.lock();
            if let Some(batch) =
                t.inflight.clone().filter(|b| b.segment == loc.segment && loc.offset >= b.begin)
                && loc.offset < batch.end
            {
                drop(t);
                return f(segment.seed, &|out, at| found(batch.read(out, at)));
            }
            let open = t.active.as_ref().filter(|a| a.segment.id() == loc.segment);
            if let Some(batch) = open.and_then(|a| a.open.as_ref())
                && loc.offset >= batch.begin()
            {
                return f(segment.seed, &|out, at| found(batch.read(out, at)));
            }
            drop(t);
            // It was written in the meantime.
            inside(segment.now.lock().end)?;
        } else {
            inside(now.end)?;
        }
        let file = self.files.file(loc.segment)?;
        f(segment.seed, &|out, at| match patience {
            Patience::Waits => file.read_exact_at(out, at),
            Patience::None => match file.read_at_once(out, at)? {
                Some(n) if n == out.len() => Ok(()),
                Some(_) => Err(io::ErrorKind::UnexpectedEof.into()),
                None => Err(io::ErrorKind::WouldBlock.into()),
            },
        })
    }

    pub(super) fn segments(&self) -> Vec<SegmentInfo> {
        let active = self.tail.lock().active.as_ref().map(|a| a.segment.id());
        let all = self.files.all_with_pins();
        all.into_iter()
            .map(|(s, pinned)| {
                let now = *s.now.lock();
                SegmentInfo {
                    id: s.id(),
                    state: now.state,
                    first_lsn: s.header.first_lsn,
                    last_lsn: now.last_lsn,
                    used_bytes: now.end,
                    capacity: s.header.capacity,
                    created_ns: s.header.created_ns,
                    predecessor: s.header.predecessor,
                    pinned: pinned && active != Some(s.id()),
                }
            })
            .collect()
    }

    pub(super) fn verify_segment(&self, id: SegmentId) -> Result<Report> {
        let s = self.files.get(id).ok_or_else(|| gone(id, 0))?;
        let now = *s.now.lock();
        if now.state == super::SegmentState::Active && now.end == BLOCK_BYTES {
            // Its header is written with the first batch.
            return Ok(Report { header: Some(s.header.clone()), end: BLOCK_BYTES, ..Report::default() });
        }
        let end = (now.state != super::SegmentState::Sealed).then_some(now.end);
        segment::verify(&self.files.file(id)?, id, Some(self.store), end)
    }
}

fn found(there: bool) -> io::Result<()> {
    if there { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}

fn check(r: &Record<'_>) -> Result<()> {
    let moved = r.flags & flags::MOVED != 0;
    if moved != r.lsn.is_some() {
        return Err(Error::BadRequest("a moved record keeps its number, and only a moved one does".into()));
    }
    r.payload.check(r.kind).map_err(|why| Error::BadRequest(why.0.into()))
}

pub(super) fn arc_inner(log: &Log) -> Arc<Inner> {
    Arc::clone(&log.inner)
}
