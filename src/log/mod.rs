//! The log: segments in order, appended to by everybody, made durable for everybody at once.
//!
//! [`Log::append`] numbers records and puts them into the tail in memory; [`Log::wait_durable`] makes the caller
//! the committer if nobody is, else waits for the one who is. [`Log::open`] finds out where the log ends and replays
//! what the index lacks. The steps and what each crash leaves are in `docs/FORMAT.md`, section 5.
//!
//! One lock guards the tail; whoever does I/O for the tail is its *leader*, marked by `busy`, and holds no lock
//! while the disk works. What a record means is not known here.

mod append;
mod close;
mod cut;
mod erase;
mod files;
mod recover;
mod retire;
mod subscribe;
mod survey;
mod tail;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod wait;

use std::{
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use parking_lot::{Condvar, Mutex};

pub use crate::{
    format::{BodyHeader, Kind, Origin, Prepared, flags},
    segment::{Location, OwnedRecord},
};
pub use files::{Apart, Hold};
pub use recover::{Recovery, ReplayRecord};
pub use retire::Listing;
pub use subscribe::{Heads, Next, Subscription};
pub use survey::{Reach, Standing, Survey, Surveyed};

use crate::{
    base::{
        Clock, Damage, Error, Incarnation, Ino, Lsn, ObjectId, Random, Result, SegmentId, StoreId, limits,
    },
    disk::Disk,
    segment,
};
use append::Patience;
use files::{Files, Purse};
use tail::Tail;
use wait::Marks;

/// How a log works.
#[derive(Clone, Copy, Debug)]
pub struct LogOptions {
    /// Size of new segment files.
    pub segment_bytes: u64,
    /// May it start threads? Without, everything happens inside the calls, in the same order each time.
    pub background: bool,
    /// Nothing is written, not even what an opening makes durable once more, and nothing can be appended.
    pub read_only: bool,
    /// Known from elsewhere: up to here the log was durable.
    pub durable: Lsn,
}

impl Default for LogOptions {
    fn default() -> Self {
        Self {
            segment_bytes: limits::SEGMENT_BYTES,
            background: true,
            read_only: false,
            durable: Lsn::new(0),
        }
    }
}

/// A record to append.
#[derive(Clone, Debug)]
pub struct Record<'a> {
    /// Extent, operation or base.
    pub kind: Kind,
    /// Bits of [`flags`]. `MOVED` needs `lsn`.
    pub flags: u32,
    /// The number that a moved record keeps; all others get a new one.
    pub lsn: Option<Lsn>,
    /// The object that it concerns.
    pub object: ObjectId,
    /// Where it was made; `None` = here: the log fills in store and incarnation, and for an extent its LSN.
    pub origin: Option<Origin>,
    /// Origin sequence of an operation made here; not used otherwise.
    pub seq: u64,
    /// Hybrid logical clock.
    pub stamp: u64,
    /// Extent: offset in the file; operation: number of facts.
    pub arg: u64,
    /// Extent: the branch that it writes.
    pub branch: u64,
    /// Local inode number, 0 if none.
    pub ino: Ino,
    /// The payload, made ready outside the lock.
    pub payload: &'a Prepared,
}

impl<'a> Record<'a> {
    /// A record of this kind with everything else zero.
    #[must_use]
    pub fn new(kind: Kind, payload: &'a Prepared) -> Self {
        Self {
            kind,
            flags: 0,
            lsn: None,
            object: ObjectId::default(),
            origin: None,
            seq: 0,
            stamp: 0,
            arg: 0,
            branch: 0,
            ino: Ino::new(0),
            payload,
        }
    }
}

/// How a segment stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SegmentState {
    /// Being written.
    Active,
    /// Full or closed, with a footer.
    Sealed,
    /// Left behind by a crash, without a footer.
    Cut,
}

/// What is known of a segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentInfo {
    /// Its id.
    pub id: SegmentId,
    /// How it stands.
    pub state: SegmentState,
    /// LSN of the first record that it could hold.
    pub first_lsn: Lsn,
    /// LSN of the last record numbered in it; one less than the first if none.
    pub last_lsn: Lsn,
    /// Where its last batch ends.
    pub used_bytes: u64,
    /// The file's size.
    pub capacity: u64,
    /// When it was begun, ns since 1970.
    pub created_ns: u64,
    /// The segment before it in the log, if it was not the first; it may be gone.
    pub predecessor: Option<SegmentId>,
    /// Somebody reads from it, or waits to.
    pub pinned: bool,
}

/// What the log did so far, and how it stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// How writes reach the disk.
    pub engine: &'static str,
    /// Why it stopped writing, if it did.
    pub poisoned: Option<String>,
    /// Records appended.
    pub records: u64,
    /// Batches written.
    pub batches: u64,
    /// Syncs of segment files.
    pub syncs: u64,
    /// Bytes written.
    pub bytes: u64,
    /// Bytes of zeros written to new segment files, so that later syncs into them are quick.
    pub filled_bytes: u64,
    /// Spare segment files, those held in reserve included.
    pub spares: u64,
    /// The disk is full: only what frees space is appended.
    pub short: bool,
}

#[derive(Default)]
struct Counters {
    records: AtomicU64,
    batches: AtomicU64,
    syncs: AtomicU64,
    bytes: AtomicU64,
}

/// What all threads share.
struct Inner {
    disk: Arc<dyn Disk>,
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
    store: StoreId,
    incarnation: Incarnation,
    opts: LogOptions,
    tail: Mutex<Tail>,
    marks: Marks,
    /// Told whenever `busy` falls, the durable mark moves, or the log stops.
    changed: Condvar,
    /// Told when the background thread has something to do.
    work: Condvar,
    files: Files,
    counters: Counters,
    places: subscribe::Places,
}

/// An open log.
pub struct Log {
    inner: Arc<Inner>,
    worker: Mutex<Option<std::thread::JoinHandle<()>>>,
}

impl Log {
    /// Makes the directories of a new log and opens it. The caller syncs the store's directory.
    ///
    /// # Errors
    /// If the disk refuses, or segments are there already.
    pub fn create(
        disk: Arc<dyn Disk>,
        store: StoreId,
        opts: LogOptions,
        clock: Arc<dyn Clock>,
        random: Arc<dyn Random>,
    ) -> Result<Self> {
        for dir in [segment::DIRECTORY, segment::SPARE_DIRECTORY] {
            disk.create_dir(dir.as_ref()).map_err(|e| Error::io(format!("making {dir}/"), e))?;
        }
        let (log, recovery) = Self::open(disk, store, opts, clock, random, Lsn::new(0), &mut |_| Ok(()))?;
        if recovery.segments == 0 {
            Ok(log)
        } else {
            Err(Error::BadRequest("segments/ already holds a log".into()))
        }
    }

    /// Opens a log: finds its segments, decides where it ends, and passes every record with a higher LSN than `from` to
    /// `visit`, in the order in which they stand in the log. Records moved by the cleaner come where they now lie, with their old
    /// number, right before the one with which they were appended, if that one comes. Writes
    /// nothing but, once more, those batches of which it is not certain that they are on the medium; and not even those
    /// if it is opened read-only.
    ///
    /// # Errors
    /// If the disk refuses, or `visit` does. [`Error::Damaged`] if there are files among the segments that a log which goes on
    /// could overwrite or leave behind: of another store, under another name, or cut off; read-only, they are listed. Other
    /// damage is not an error: it is listed in [`Recovery`].
    pub fn open(
        disk: Arc<dyn Disk>,
        store: StoreId,
        opts: LogOptions,
        clock: Arc<dyn Clock>,
        random: Arc<dyn Random>,
        from: Lsn,
        visit: &mut dyn FnMut(ReplayRecord<'_>) -> Result<()>,
    ) -> Result<(Self, Recovery)> {
        if !(limits::SEGMENT_BYTES_MIN..=limits::SEGMENT_BYTES_MAX).contains(&opts.segment_bytes)
            || !opts.segment_bytes.is_multiple_of(limits::BLOCK_BYTES)
        {
            return Err(Error::BadRequest(format!("a segment can't have {} bytes", opts.segment_bytes)));
        }
        let files = Files::new(Arc::clone(&disk));
        let known = (opts.read_only, opts.durable);
        let (tail, recovery) = recover::recover(&*disk, store, &files, known, from, visit)?;
        let incarnation = Incarnation::new(random.nonzero_u64());
        let inner = Arc::new(Inner {
            disk,
            clock,
            random,
            store,
            incarnation,
            opts,
            marks: Marks::new(tail.durable_lsn),
            tail: Mutex::new(tail),
            changed: Condvar::new(),
            work: Condvar::new(),
            files,
            counters: Counters::default(),
            places: subscribe::Places::default(),
        });
        Ok((Self { inner, worker: Mutex::new(None) }, recovery))
    }

    /// This opening's number: random, durable before the first record is.
    #[must_use]
    pub fn incarnation(&self) -> Incarnation {
        self.inner.incarnation
    }

    /// The store's id.
    #[must_use]
    pub fn store(&self) -> StoreId {
        self.inner.store
    }

    /// The number of the last record appended; 0 in an empty log.
    #[must_use]
    pub fn last_lsn(&self) -> Lsn {
        Lsn::new(self.inner.tail.lock().next_lsn - 1)
    }

    /// Every record up to here is durable.
    #[must_use]
    pub fn durable_lsn(&self) -> Lsn {
        self.inner.marks.durable()
    }

    /// The size of new segments.
    #[must_use]
    pub fn segment_bytes(&self) -> u64 {
        self.inner.opts.segment_bytes
    }

    /// The most bytes that the frames of one [`append`](Self::append) may take together.
    #[must_use]
    pub fn max_append_bytes(&self) -> u64 {
        self.inner.max_append_bytes()
    }

    /// Appends records as one: after a crash all of them are there or none. They are not durable yet.
    ///
    /// # Errors
    /// [`Error::NoSpace`] if a new segment is needed and can't be had: nothing was appended, and it may work later.
    /// [`Error::Poisoned`] after a failed write or sync.
    pub fn append(&self, records: &[Record<'_>]) -> Result<Vec<(Lsn, Location)>> {
        self.inner.append(records, self, Purse::Common)
    }

    /// As [`append`](Self::append), for records that lead to free space, or that finish what was begun: on a full disk it uses
    /// the segments that are held in reserve for them.
    ///
    /// # Errors
    /// As of [`append`](Self::append), once the reserve is used up too.
    pub fn append_freeing(&self, records: &[Record<'_>]) -> Result<Vec<(Lsn, Location)>> {
        self.inner.append(records, self, Purse::Freeing)
    }

    /// As [`append_freeing`](Self::append_freeing), for the cleaner, which may fill segments by itself: the last one of the reserve
    /// stays.
    ///
    /// # Errors
    /// As of [`append`](Self::append), once that is all there is.
    pub fn append_cleaning(&self, records: &[Record<'_>]) -> Result<Vec<(Lsn, Location)>> {
        self.inner.append(records, self, Purse::Cleaner)
    }

    /// Gives the space of a spare file back to the disk, if there are more than so many. Says whether it did.
    pub fn drop_spare(&self, keep: usize) -> bool {
        self.inner.files.drop_spare(keep)
    }

    /// Does beforehand what an append of so many bytes by anybody would have to do first, if that takes a segment.
    ///
    /// # Errors
    /// As of [`append`](Self::append).
    pub fn await_room(&self, bytes: u64) -> Result<()> {
        self.inner.await_room(bytes.min(self.inner.max_append_bytes()))
    }

    /// From now on, new segments leave this much of the disk to others.
    pub fn keep_apart(&self, apart: Apart) {
        self.inner.files.keep_apart(apart);
    }

    /// Would an append of so many records, of so many bytes in frames, go into the segment that is being written?
    #[must_use]
    pub fn fits(&self, bytes: u64, count: usize) -> bool {
        self.inner.fits(bytes, count)
    }

    /// What [`append_cleaning`](Self::append_cleaning) could take without anything given back, in bytes, about.
    #[must_use]
    pub fn cleaning_room(&self) -> u64 {
        self.inner.cleaning_room()
    }

    /// Lends the last segment of the reserve to the cleaner, or no more: only for what gives more back than it takes.
    pub fn lend_reserve(&self, lent: bool) {
        self.inner.files.lend(lent);
    }

    /// Holds segments in reserve again, if some were used up, and there is room by now.
    ///
    /// # Errors
    /// [`Error::NoSpace`] if there is not.
    pub fn mend_reserve(&self) -> Result<()> {
        self.inner.mend_reserve()
    }

    /// Returns when every record up to `lsn` is durable.
    ///
    /// # Errors
    /// [`Error::Poisoned`] if it can't become so.
    pub fn wait_durable(&self, lsn: Lsn) -> Result<()> {
        self.inner.wait_durable(lsn)
    }

    /// Waits up to `timeout` for a record behind this one, durable or not. The last one, which may be the same if nothing came or
    /// the log has ended.
    #[must_use]
    pub fn wait_appended(&self, after: Lsn, timeout: std::time::Duration) -> Lsn {
        self.inner.wait_appended(after, timeout)
    }

    /// Makes everything appended before the call durable, moved records included.
    ///
    /// # Errors
    /// [`Error::Poisoned`] if that fails.
    pub fn commit(&self) -> Result<()> {
        self.inner.commit()
    }

    /// Writes what waits in memory, as a batch, without a sync.
    ///
    /// # Errors
    /// [`Error::Poisoned`] if that fails.
    pub fn write_out(&self) -> Result<()> {
        self.inner.write_out()
    }

    /// Reads raw bytes `range` of a record's payload into `out`, which has the range's length; also of a record that is still in
    /// memory.
    ///
    /// # Errors
    /// [`Error::Damaged`] if the bytes are not what was written, or the segment is not in the log any more.
    pub fn read(&self, loc: &Location, range: Range<u64>, out: &mut [u8]) -> Result<()> {
        self.inner.with_source(loc, Patience::Waits, |seed, source| {
            segment::read_range(loc, seed, source, range.clone(), out)
        })
    }

    /// As [`read`](Self::read), if that takes no waiting for the disk. False: it might, and `out` holds anything.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn read_at_once(&self, loc: &Location, range: Range<u64>, out: &mut [u8]) -> Result<bool> {
        let read = self.inner.with_source(loc, Patience::None, |seed, source| {
            segment::read_range(loc, seed, source, range.clone(), out)
        });
        match read {
            Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::WouldBlock => Ok(false),
            done => done.map(|()| true),
        }
    }

    /// Reads a whole record.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn read_record(&self, loc: &Location) -> Result<OwnedRecord> {
        self.inner.with_source(loc, Patience::Waits, |seed, source| segment::read_record(loc, seed, source))
    }

    /// Reads an extent as it is stored.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn read_stored(&self, loc: &Location) -> Result<crate::format::Prepared> {
        self.inner.with_source(loc, Patience::Waits, |seed, source| segment::read_stored(loc, seed, source))
    }

    /// The portable head of a record, without its payload; none where the kind has no head.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn read_head(&self, loc: &Location) -> Result<Option<crate::format::BodyHeader>> {
        self.inner.with_source(loc, Patience::Waits, |seed, source| {
            Ok(segment::read_header_of(loc, seed, source)?.1)
        })
    }

    /// Follows the durable log from this LSN on.
    #[must_use]
    pub fn subscribe(&self, from: Lsn) -> Subscription {
        Subscription::new(Arc::clone(&self.inner), from)
    }

    /// The durable records from this LSN on, as of now.
    pub fn records_from(&self, from: Lsn) -> impl Iterator<Item = Result<OwnedRecord>> + use<> {
        let until = self.durable_lsn();
        let mut s = self.subscribe(from);
        std::iter::from_fn(move || {
            loop {
                match s.try_next() {
                    Ok(Some(Next::Record(r))) if r.lsn <= until => return Some(Ok(r)),
                    Ok(Some(Next::Gone { .. })) => {}
                    Ok(_) => return None,
                    Err(e) => return Some(Err(e)),
                }
            }
        })
    }

    /// The durable records from this LSN on, as of now, without their payloads.
    #[must_use]
    pub fn heads_from(&self, from: Lsn) -> Heads {
        Heads::new(Arc::clone(&self.inner), from)
    }

    /// The segments of the log, in order.
    #[must_use]
    pub fn segments(&self) -> Vec<SegmentInfo> {
        self.inner.segments()
    }

    /// Gives segments back whose live records have all been moved and are durable elsewhere. One that somebody still reads
    /// is recycled when they are done.
    ///
    /// # Errors
    /// [`Error::BadRequest`] for a segment that is being written, not there, or with no durable record behind it.
    pub fn retire(&self, ids: &[SegmentId]) -> Result<()> {
        self.inner.retire(ids)
    }

    /// Keeps the files of all segments where they are, for somebody who reads them from outside: those that are retired meanwhile too.
    #[must_use]
    pub fn hold(&self) -> Hold {
        self.inner.files.hold()
    }

    /// Whether anybody's [`Hold`] counts: not while space is short.
    pub fn heed_holds(&self, heed: bool) {
        self.inner.files.heed_holds(heed);
    }

    /// Checks a segment of the log through and through.
    ///
    /// # Errors
    /// If it is not in the log or can't be read at all.
    pub fn verify_segment(&self, id: SegmentId) -> Result<segment::Report> {
        self.inner.verify_segment(id)
    }

    /// Commits, seals the segment and cuts its file to what is used. Later appends fail. Does nothing if read-only.
    ///
    /// # Errors
    /// [`Error::Poisoned`] if something of it fails; the log is then as after a crash.
    pub fn close(&self) -> Result<()> {
        if self.inner.opts.read_only {
            return Ok(());
        }
        let closed = self.inner.close();
        self.stop_worker();
        if closed.is_ok() {
            self.inner.files.trim_spares();
        }
        closed
    }

    /// How it stands.
    #[must_use]
    pub fn status(&self) -> Status {
        let c = &self.inner.counters;
        let (poisoned, short) = {
            let t = self.inner.tail.lock();
            (t.poison.clone(), t.short)
        };
        Status {
            engine: self.inner.disk.engine(),
            poisoned,
            short,
            records: c.records.load(Relaxed),
            batches: c.batches.load(Relaxed),
            syncs: c.syncs.load(Relaxed),
            bytes: c.bytes.load(Relaxed),
            filled_bytes: self.inner.files.filled_bytes(),
            spares: self.inner.files.spares() as u64,
        }
    }

    fn stop_worker(&self) {
        {
            self.inner.tail.lock().stop_worker = true;
            self.inner.work.notify_all();
        }
        let worker = self.worker.lock().take();
        if let Some(worker) = worker {
            // A panic of the worker has poisoned the log already.
            let _ = worker.join();
        }
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        self.stop_worker();
    }
}

fn gone(segment: SegmentId, offset: u64) -> Error {
    Damage::segment(segment, offset, None, "this segment is not in the log").into()
}
