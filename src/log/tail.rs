//! The tail: what is in memory, and the one who writes it out.

use std::{
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::{Arc, atomic::Ordering::Relaxed},
};

use parking_lot::MutexGuard;

use super::{
    Inner, SegmentState,
    files::{Extent, Purse, Segment},
    recover::harden,
    wait::Sleeper,
};
use crate::{
    base::{
        Error, Ino, Lsn, Result, SegmentId,
        limits::{self, BLOCK_BYTES},
        panic_text,
        planted::{Bug, planted, strike},
    },
    disk::DiskFile,
    format::{FooterBuilder, Kind, Prepared, SegmentHeader, Trailer, frame::frame_len},
    segment::{BatchBuilder, ClosedBatch, FrameParts},
};

/// The segment that is being written.
pub(super) struct Active {
    pub(super) segment: Arc<Segment>,
    pub(super) file: Arc<dyn DiskFile>,
    /// The header, until it is written with the first batch.
    pub(super) header_block: Option<Vec<u8>>,
    pub(super) footer: FooterBuilder,
    /// Where the last closed batch ends.
    pub(super) end: u64,
    /// The batch that takes records.
    pub(super) open: Option<BatchBuilder>,
}

/// What the tail's lock guards.
pub(super) struct Tail {
    pub(super) next_lsn: u64,
    pub(super) next_id: SegmentId,
    pub(super) active: Option<Active>,
    /// The segment before the next one to begin, and where it ends.
    pub(super) predecessor: Option<(SegmentId, u64)>,
    /// The footer with which the log ended when it was opened: before a successor vouches for it, it is written once more and synced.
    pub(super) soft: Option<(SegmentId, u64, u64)>,
    /// Segments that recovery did not reach, and files without a header; out of the way before the next one begins.
    pub(super) unreached: Vec<SegmentId>,
    /// The batch that the leader is writing.
    pub(super) inflight: Option<Arc<ClosedBatch>>,
    pub(super) written_lsn: Lsn,
    pub(super) durable_lsn: Lsn,
    /// Up to where the active segment is durable.
    pub(super) durable_end: u64,
    /// Something was written since the last sync.
    pub(super) dirty: bool,
    /// Somebody does I/O for the tail.
    pub(super) busy: bool,
    /// Threads that wait for a commit, the leader included.
    pub(super) waiters: u32,
    /// Those of them that sleep until the leader is done.
    pub(super) sleepers: Vec<Sleeper>,
    /// How many waited when the last commit ended.
    pub(super) cohort: u32,
    /// Grows with each finished commit.
    pub(super) commits: u64,
    pub(super) closed: bool,
    pub(super) poison: Option<String>,
    pub(super) stop_worker: bool,
    /// The background thread was asked to write out.
    pub(super) write_wanted: bool,
    /// The background thread was asked for a spare segment.
    pub(super) spare_wanted: bool,
    /// The active segment is one of the reserve.
    pub(super) short: bool,
    /// Somebody waits for the next record.
    pub(super) followed: bool,
    /// The leader ends the active segment: nothing goes into it any more.
    pub(super) ending: bool,
}

impl Tail {
    pub(super) fn check(&self) -> Result<()> {
        if let Some(why) = &self.poison {
            return Err(Error::Poisoned { why: why.clone() });
        }
        if self.closed {
            return Err(Error::BadRequest("the log is closed".into()));
        }
        Ok(())
    }

    /// Bytes of records that wait for a write.
    pub(super) fn waiting(&self) -> u64 {
        self.active.as_ref().and_then(|a| a.open.as_ref()).map_or(0, BatchBuilder::len)
    }
}

pub(super) type Guard<'a> = MutexGuard<'a, Tail>;

impl Inner {
    /// Runs `f` as the leader, or, if there is one, waits until he is done and returns `false`.
    pub(super) fn lead<'a>(
        &'a self,
        t: &mut Guard<'a>,
        f: impl FnOnce(&'a Self, &mut Guard<'a>) -> Result<()>,
    ) -> Result<bool> {
        if t.busy {
            self.changed.wait(t);
            return Ok(false);
        }
        t.busy = true;
        let done = catch_unwind(AssertUnwindSafe(|| f(self, t)));
        t.busy = false;
        self.changed.notify_all();
        self.wake_sleepers(t);
        match done {
            Ok(done) => done.map(|()| true),
            Err(panic) => {
                self.poison(t, format!("writing the log panicked: {}", panic_text(&*panic)));
                resume_unwind(panic)
            }
        }
    }

    /// Does I/O with the tail unlocked. A panic in it poisons the log.
    fn unlocked<T>(&self, t: &mut Guard<'_>, io: impl FnOnce() -> Result<T>) -> Result<T> {
        let done = MutexGuard::unlocked(t, || catch_unwind(AssertUnwindSafe(io)));
        match done {
            Ok(done) => done,
            Err(panic) => Err(self.poison(t, format!("writing the log panicked: {}", panic_text(&*panic)))),
        }
    }

    /// Stops the log for good; the first cause stays.
    pub(super) fn poison(&self, t: &mut Guard<'_>, why: String) -> Error {
        let why = t.poison.get_or_insert(why).clone();
        self.changed.notify_all();
        self.work.notify_all();
        self.wake_sleepers(t);
        Error::Poisoned { why }
    }

    pub(super) fn sync_file(&self, file: &dyn DiskFile) -> std::io::Result<()> {
        self.counters.syncs.fetch_add(1, Relaxed);
        match file.sync() {
            Err(_) if planted(Bug::RetryFailedSync) => file.sync(),
            done => done,
        }
    }

    /// Leader: writes the open batch; with `sync` all that was written becomes durable.
    pub(super) fn flush<'a>(&'a self, t: &mut Guard<'a>, sync: bool) -> Result<()> {
        t.check()?;
        let durable = t.durable_lsn;
        let Some(active) = t.active.as_mut() else { return Ok(()) };
        let batch =
            active.open.take_if(|b| !b.is_empty()).map(|b| Arc::new(b.close(durable, self.clock.wall_ns())));
        let file = Arc::clone(&active.file);
        let segment = Arc::clone(&active.segment);
        let header = if batch.is_some() { active.header_block.take() } else { None };
        if let Some(b) = &batch {
            active.end = b.end;
            t.written_lsn = b.last_lsn;
        } else if !sync || !t.dirty {
            return Ok(());
        }
        t.inflight.clone_from(&batch);
        let last = t.written_lsn;
        let end = t.active.as_ref().map_or(0, |a| a.end);
        let done = self.unlocked(t, || {
            strike("commit");
            self.write(&*file, header.as_deref(), batch.as_deref(), sync)
                .map_err(|e| Error::Poisoned { why: format!("writing segment {}: {e}", segment.id()) })
        });
        if let Err(e) = done {
            // The batch stays readable in memory.
            return Err(self.poison(t, e.to_string()));
        }
        {
            let mut now = segment.now.lock();
            now.end = end;
            now.last_lsn = last;
        }
        t.inflight = None;
        t.dirty = !sync;
        if sync {
            t.durable_lsn = last;
            t.durable_end = end;
            self.marks.set_durable(last);
        }
        t.commits += 1;
        Ok(())
    }

    fn write(
        &self,
        file: &dyn DiskFile,
        header: Option<&[u8]>,
        batch: Option<&ClosedBatch>,
        sync: bool,
    ) -> std::io::Result<()> {
        let sync = sync && !planted(Bug::AcknowledgeBeforeSync);
        let Some(batch) = batch else { return if sync { self.sync_file(file) } else { Ok(()) } };
        let mut pieces = batch.pieces();
        let mut at = batch.begin;
        if let Some(h) = header {
            pieces.insert(0, h);
            at -= h.len() as u64;
        }
        self.counters.batches.fetch_add(1, Relaxed);
        self.counters.bytes.fetch_add(batch.end - at, Relaxed);
        if !sync {
            file.write_at(&pieces, at)?;
            file.start_writeback(at, batch.end - at);
            return Ok(());
        }
        self.counters.syncs.fetch_add(1, Relaxed);
        match file.write_and_sync(&pieces, at) {
            Err(_) if planted(Bug::RetryFailedSync) => file.sync(),
            done => done,
        }
    }

    /// Leader: makes sure that a segment is open in which a new batch can begin.
    pub(super) fn rotate<'a>(&'a self, t: &mut Guard<'a>, purse: Purse) -> Result<()> {
        t.check()?;
        if let Some((id, from, end)) = t.soft {
            if !planted(Bug::SoftFooterFollowed) {
                self.unlocked(t, || harden(&*self.disk, id, from, end))?;
            }
            t.soft = None;
        }
        let id = t.next_id;
        let unreached = std::mem::take(&mut t.unreached);
        let capacity = self.opts.segment_bytes;
        let made = self.unlocked(t, || self.files.begin(id, capacity, &unreached, purse));
        let new = match made {
            Ok(new) => new,
            Err(Error::Poisoned { why }) => return Err(self.poison(t, why)),
            Err(e) => {
                t.unreached = unreached;
                return Err(e);
            }
        };
        t.next_id = id.next();
        t.short = new.reserved;
        if t.active.is_some() {
            self.end_segment(t, false)?;
        }
        let created_ns = self.clock.wall_ns();
        let salt = if planted(Bug::ReuseSalt) { 1 } else { self.random.nonzero_u64() };
        let header = SegmentHeader {
            store: self.store,
            segment: id,
            salt,
            first_lsn: Lsn::new(t.next_lsn),
            predecessor: t.predecessor.map(|(p, _)| p),
            predecessor_end: t.predecessor.map_or(0, |(_, end)| end),
            capacity,
            created_ns,
            incarnation: self.incarnation,
            durable_lsn: t.durable_lsn,
        };
        let now =
            Extent { state: SegmentState::Active, end: BLOCK_BYTES, last_lsn: Lsn::new(t.next_lsn - 1) };
        let segment = Arc::new(Segment::new(header.clone(), now));
        self.files.keep_open(id, Arc::clone(&new.file));
        self.files.insert(Arc::clone(&segment));
        t.durable_end = BLOCK_BYTES;
        t.active = Some(Active {
            segment,
            file: new.file,
            header_block: Some(header.encode()),
            footer: FooterBuilder::new(Lsn::new(t.next_lsn)),
            end: BLOCK_BYTES,
            open: None,
        });
        Ok(())
    }

    pub(super) fn mend_reserve(&self) -> Result<()> {
        let mut t = self.tail.lock();
        let lacks = |t: &Tail| t.short || self.files.spares() < limits::RESERVE_SEGMENTS;
        while lacks(&t) && !self.lead(&mut t, Self::end_shortage)? {}
        Ok(())
    }

    /// Leader: with the reserve whole again, anybody may append.
    pub(super) fn end_shortage<'a>(&'a self, t: &mut Guard<'a>) -> Result<()> {
        let capacity = self.opts.segment_bytes;
        self.unlocked(t, || self.files.fill_reserve(capacity))?;
        t.short = false;
        Ok(())
    }

    /// Leader: writes out what the active segment still takes, and [seals](Self::seal) it. Others wait with their appends: what they put into
    /// it while the disk works would be lost.
    pub(super) fn end_segment<'a>(&'a self, t: &mut Guard<'a>, cut: bool) -> Result<()> {
        t.ending = true;
        let done = self.flush(t, cut).and_then(|()| self.seal(t, cut));
        t.ending = false;
        done
    }

    /// Leader: ends the active segment with its footer and syncs it; with `cut` the file ends behind it. A successor is begun only
    /// after that, so a crash can't leave a successor of a segment that is not whole.
    fn seal<'a>(&'a self, t: &mut Guard<'a>, cut: bool) -> Result<()> {
        let durable = t.durable_lsn;
        let last = Lsn::new(t.next_lsn - 1);
        let Some(a) = t.active.as_ref() else { return Ok(()) };
        let id = a.segment.id();
        if a.header_block.is_some() {
            // Nothing was ever written to it.
            let segment = t.active.take().map(|a| a.segment);
            drop(segment);
            self.files.forget(id);
            return Ok(());
        }
        let (file, segment) = (Arc::clone(&a.file), Arc::clone(&a.segment));
        let payload = Prepared::footer(a.footer.payload());
        let mut b = BatchBuilder::new(id, segment.seed, a.end, last.next());
        let parts = FrameParts {
            kind: Kind::Footer,
            flags: 0,
            lsn: last,
            ino: Ino::new(0),
            head: None,
            payload: &payload,
        };
        let offset = b.push(&parts, false);
        let totals = a.footer.totals();
        let trailer = Trailer {
            segment: id,
            offset,
            first_lsn: Lsn::new(totals.first_lsn),
            last_lsn: last,
            durable_lsn: durable,
            frame_len: frame_len(payload.body_len(Kind::Footer)) as u32,
            records: totals.records as u32,
        };
        let batch = b.close(durable, self.clock.wall_ns());
        let mut block = trailer.encode(segment.seed).to_vec();
        block.resize(BLOCK_BYTES as usize, 0);
        let at = if cut { batch.end } else { segment.header.capacity - BLOCK_BYTES };
        let done = self.unlocked(t, || {
            let io = || {
                file.write_at(&batch.pieces(), batch.begin)?;
                file.write_at(&[&block], at)?;
                if cut {
                    file.set_len(at + BLOCK_BYTES)?;
                }
                if planted(Bug::SkipSealSync) { Ok(()) } else { self.sync_file(&*file) }
            };
            io().map_err(|e| Error::Poisoned { why: format!("sealing segment {id}: {e}") })
        });
        if let Err(e) = done {
            return Err(self.poison(t, e.to_string()));
        }
        self.counters.bytes.fetch_add(batch.end - batch.begin + BLOCK_BYTES, Relaxed);
        *segment.now.lock() = Extent { state: SegmentState::Sealed, end: batch.end, last_lsn: last };
        t.active = None;
        t.predecessor = Some((id, batch.end));
        t.dirty = false;
        t.durable_lsn = last;
        self.marks.set_durable(last);
        t.commits += 1;
        Ok(())
    }
}
