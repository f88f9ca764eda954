//! The engine: operations in, records out, and every answer about now and then.
//!
//! One lock, `apply`, orders all changes: under it an operation is checked against the index, becomes a record
//! of facts, is appended to the log, and is applied to the index, in the same way in which a crash replays it
//! and a peer's facts arrive. Reads take no lock.

mod activity;
mod again;
mod alive;
mod apply;
mod arriving;
mod base;
mod catchup;
mod cleaner;
mod clock;
mod collect;
mod content;
mod differences;
mod exchange;
mod expected;
mod hash_trees;
mod hashes;
mod import;
pub mod inspect;
mod knowledge;
mod lacking;
mod lineage;
mod locks;
mod missing;
mod moments;
mod moves;
mod names;
mod open;
mod ops;
mod options;
mod pace;
mod parcels;
mod paths;
mod pieces;
mod purge;
mod read;
mod remove;
mod repack;
mod retention;
mod scrub;
mod settings;
mod space;
mod state;
mod superblock;
mod told;
mod touched;
mod txn;
mod versions;
pub mod words;
mod write;
mod yielding;

use std::{
    collections::BTreeSet,
    panic::{AssertUnwindSafe, catch_unwind},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed},
    },
};

use parking_lot::{Condvar, Mutex, RwLock};

use crate::{
    base::{
        Clock, Error, Ino, Lsn, ObjectId, Random, Result, StoreId, limits, panic_text,
        planted::{Bug, planted, strike},
    },
    disk::Disk,
    format::{
        Kind, Prepared,
        facts::Fact,
        rows::{Stamp, key},
    },
    index::{Change, Index},
    log::{Log, Record},
};

use activity::Activity;
pub use activity::Work;
use apply::Apply;
pub use catchup::{CatchUp, Mark, ToldPage};
pub use cleaner::{Cleaned, Goal};
pub use clock::Expiry;
pub use collect::Collected;
pub use differences::Onward;
pub use exchange::{Parcel, Sources, Supply};
pub use import::Fetch;
pub use knowledge::Knowledge;
pub use lacking::{Lacking, Supplier, Supplying};
pub use lineage::{Gone, History, Past, Paused};
pub use locks::{LockMode, Protection};
pub use missing::Missing;
pub use moments::Tag;
pub use open::{Parts, Recovered};
pub use ops::{NewObject, Rename, SetAttributes, XattrChange};
pub use options::Options;
pub use purge::{Purge, Refused};
pub use read::{Attributes, Entry, Extent, VersionInfo, VersionSize, View};
pub use remove::Kept;
pub use retention::{Life, Policy, Retention, Thinning};
pub use scrub::{Finding, Hit, Scrubbed};
pub use settings::{ByPath, Making, Scrubs, Settings};
use state::State;
pub use touched::{Touched, Watcher};
use txn::Txn;

/// Memtables that may wait while another one fills; whoever fills that then helps to write them out.
const WAITING_MEMTABLES: usize = 1;
/// Removals in a memtable that are not left there, once no more come.
const REMOVALS_SETTLED: u64 = 10_000;

/// An open store.
pub struct Store {
    id: StoreId,
    path: PathBuf,
    options: Options,
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
    disk: Arc<dyn Disk>,
    log: Log,
    index: Arc<dyn Index>,
    /// Orders all changes.
    apply: Mutex<State>,
    /// The stores that short numbers in rows stand for; readers take it from here.
    stores: RwLock<Arc<Vec<StoreId>>>,
    /// Set when the index may have missed a record: no change is accepted any more.
    broken: Mutex<Option<String>>,
    /// Wakes the maintenance thread; true: stop.
    wake: (Mutex<bool>, Condvar),
    /// Serialises index flushes.
    flushing: Mutex<()>,
    /// Held while the cleaner works.
    cleaner: Mutex<cleaner::Cleaner>,
    /// Everything that cleaning did since the store was opened.
    cleaned: Mutex<Cleaned>,
    /// The newest base that this opening wrote, all of it durable.
    base: Mutex<Option<base::Base>>,
    /// Up to where every two-way member has acknowledged the log.
    acknowledged: Mutex<Lsn>,
    /// From where on peers have not had the log yet.
    needed: Mutex<Option<Lsn>>,
    /// When it was made, ns since 1970.
    created_ns: u64,
    /// What the clock by which things expire goes by.
    anchor: Mutex<clock::Anchor>,
    /// What a person sets.
    settings: RwLock<Arc<Settings>>,
    /// Versions that made room on a short disk.
    yielded: AtomicU64,
    /// Held while versions go for that.
    yielding: Mutex<()>,
    /// What keeping space bounded remembers.
    keeper: Mutex<space::Keeper>,
    /// Rounds of keeping space bounded that have ended, and who waits for one.
    rounds: (Mutex<u64>, Condvar),
    /// Wakes the thread that keeps space bounded, as `wake` does.
    space_wanted: Condvar,
    /// There is such a thread.
    keeping: AtomicBool,
    /// Writers that wait for room on the disk.
    short_of_room: AtomicU32,
    /// Bytes of content appended since the store was opened.
    appended: AtomicU64,
    /// Versions that went since the store was opened because a policy that counts them does not keep them.
    surplus: AtomicU64,
    /// Files that got a version since they were last held against the policies.
    ripe: Mutex<BTreeSet<Ino>>,
    /// Removals in the memtable when they were counted last.
    removals: AtomicU64,
    /// Where the look for hash trees of versions that are gone goes on.
    trees: Mutex<Option<Vec<u8>>>,
    /// Versions that are hashed now, of those that are not small.
    hashing: hashes::Hashing,
    /// Extents that came before the facts that name them.
    expected: expected::Expected,
    /// What goes on beside answering.
    activity: Activity,
    /// Is told of what changed without having been asked for here.
    touched: touched::Listener,
    recovered: Recovered,
    _lock: Box<dyn Send + Sync>,
}

/// What a status display shows.
#[derive(Debug, Clone)]
pub struct Status {
    /// The store.
    pub id: StoreId,
    /// Its directory, as it was named.
    pub path: PathBuf,
    /// Last record.
    pub last_lsn: Lsn,
    /// Last record known durable.
    pub durable_lsn: Lsn,
    /// Last record that the index on disk covers.
    pub flushed_lsn: Lsn,
    /// Objects ever made here.
    pub objects: u64,
    /// Versions held.
    pub versions: u64,
    /// Objects and versions are known; if not, they are zero: operations held the store all the while.
    pub counts_known: bool,
    /// What goes on beside answering, each in a word.
    pub working: Vec<&'static str>,
    /// The log: how writes reach the disk, batches, syncs, bytes.
    pub log: crate::log::Status,
    /// The index.
    pub index: crate::index::IndexStats,
    /// Why it stopped writing, if it did.
    pub stopped: Option<String>,
}

/// An operation being made: facts are applied to the overlay as they are added.
struct Op<'t, 'i> {
    apply: Apply<'t, 'i>,
    facts: Vec<Fact>,
    subject: (ObjectId, Ino),
}

/// What kind of operation it is.
#[derive(Debug, Clone, Copy, Default)]
struct How {
    /// It frees space, or finishes what was begun.
    freeing: bool,
    /// It is the store's own.
    quiet: bool,
    /// It follows from what came from elsewhere.
    told: bool,
}

/// While it lives, log and index may be apart.
struct Apart<'a>(&'a Store);

impl Apart<'_> {
    fn done(self) {}
}

impl Drop for Apart<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.break_with(&Error::Poisoned { why: "a panic while a record was applied".into() });
        }
    }
}

/// The payload of an operation.
fn record_of(facts: &Vec<Fact>) -> Result<Prepared> {
    let bytes = crate::format::code::encode(facts);
    if bytes.len() > limits::RECORD_BYTES - limits::BLOCK_BYTES as usize {
        return Err(Error::BadRequest(format!(
            "{} facts of {} bytes are too much for one record",
            facts.len(),
            bytes.len()
        )));
    }
    Ok(Prepared::record(bytes))
}

impl Op<'_, '_> {
    fn fact(&mut self, fact: Fact) -> Result<()> {
        self.apply.nth_fact(self.facts.len(), &fact)?;
        self.facts.push(fact);
        Ok(())
    }
}

impl Store {
    /// Its id.
    #[must_use]
    pub fn id(&self) -> StoreId {
        self.id
    }

    /// Its directory, as it was named.
    #[must_use]
    pub fn path(&self) -> &std::path::Path {
        &self.path
    }

    /// Was it opened to be read only?
    #[must_use]
    pub fn is_read_only(&self) -> bool {
        self.options.read_only
    }

    /// What opening it found.
    #[must_use]
    pub fn recovered(&self) -> &Recovered {
        &self.recovered
    }

    /// The last record.
    #[must_use]
    pub fn last_lsn(&self) -> Lsn {
        self.log.last_lsn()
    }

    /// Every record up to here survives a crash.
    #[must_use]
    pub fn durable_lsn(&self) -> Lsn {
        self.log.durable_lsn()
    }

    /// Waits until every record up to this LSN survives a crash.
    ///
    /// # Errors
    /// [`Error::Poisoned`] if it can't be made so: the data may be lost, and no later call says otherwise.
    pub fn sync(&self, lsn: Lsn) -> Result<()> {
        self.log.wait_durable(lsn)
    }

    /// Makes everything done so far survive a crash.
    ///
    /// # Errors
    /// As of [`sync`](Self::sync).
    pub fn sync_all(&self) -> Result<()> {
        self.log.commit()
    }

    /// Waits up to `timeout` for a record behind this one, durable or not. The last one.
    #[must_use]
    pub fn wait_appended(&self, after: Lsn, timeout: std::time::Duration) -> Lsn {
        self.log.wait_appended(after, timeout)
    }

    /// Follows the durable log from an LSN on.
    #[must_use]
    pub fn subscribe(&self, from: Lsn) -> crate::log::Subscription {
        self.log.subscribe(from)
    }

    /// How many old versions made room on a short disk since it was opened.
    #[must_use]
    pub fn versions_yielded(&self) -> u64 {
        self.yielded.load(Relaxed)
    }

    /// How it stands.
    #[must_use]
    pub fn status(&self) -> Status {
        let state = self.apply.lock();
        let counts = (state.meta.objects, state.meta.versions);
        drop(state);
        self.status_with(Some(counts))
    }

    /// How it stands, without waiting longer than this for operations under way, whatever holds them up.
    #[must_use]
    pub fn status_within(&self, patience: std::time::Duration) -> Status {
        let state = self.apply.try_lock_for(patience);
        let counts = state.as_ref().map(|s| (s.meta.objects, s.meta.versions));
        drop(state);
        self.status_with(counts)
    }

    fn status_with(&self, counts: Option<(u64, u64)>) -> Status {
        let log = self.log.status();
        let stopped = self.stopped();
        let (objects, versions) = counts.unwrap_or_default();
        Status {
            id: self.id,
            path: self.path.clone(),
            last_lsn: self.log.last_lsn(),
            durable_lsn: self.log.durable_lsn(),
            flushed_lsn: self.index.flushed_lsn(),
            objects,
            versions,
            counts_known: counts.is_some(),
            working: self.activity.now(),
            log,
            index: self.index.stats(),
            stopped,
        }
    }

    /// Free and total bytes of the filesystem that holds the store.
    ///
    /// # Errors
    /// What the system says.
    pub fn space(&self) -> Result<crate::disk::Space> {
        self.disk.space().map_err(|e| Error::io("asking for the space on the disk", e))
    }

    /// Accepts no change any more until the store is opened anew: what a caller does when it can't trust
    /// itself, such as after a panic.
    pub fn stop_writing(&self, why: &str) {
        self.broken.lock().get_or_insert_with(|| why.to_owned());
    }

    /// The segments of the log.
    #[must_use]
    pub fn segments(&self) -> Vec<crate::log::SegmentInfo> {
        self.log.segments()
    }

    /// As of [`Log::hold`].
    #[must_use]
    pub fn hold_segments(&self) -> crate::log::Hold {
        self.log.hold()
    }

    /// Why nothing is written any more, if that is so.
    #[must_use]
    pub fn stopped(&self) -> Option<String> {
        self.broken.lock().clone().or_else(|| self.log.status().poisoned)
    }

    fn check_usable(&self) -> Result<()> {
        if self.options.read_only {
            return Err(crate::base::FsError::ReadOnly.into());
        }
        match &*self.broken.lock() {
            Some(why) => Err(Error::Poisoned { why: why.clone() }),
            None => Ok(()),
        }
    }

    fn break_with(&self, why: &Error) {
        self.broken.lock().get_or_insert_with(|| why.to_string());
    }

    /// Makes an operation: checks and facts in `make`, then one record, then the index. Nothing happens if
    /// `make` fails or adds no fact.
    fn run<T>(&self, make: impl FnOnce(&mut Op<'_, '_>) -> Result<T>) -> Result<(Lsn, T)> {
        self.await_room()?;
        self.run_as(How::default(), make)
    }

    /// As [`run`](Self::run), for what frees space: on a full disk it may use the reserve.
    fn run_freeing<T>(&self, make: impl FnOnce(&mut Op<'_, '_>) -> Result<T>) -> Result<(Lsn, T)> {
        self.run_as(How { freeing: true, ..How::default() }, make)
    }

    /// As [`run_freeing`](Self::run_freeing), for what the store does by itself: it says nothing new about files, and so does not move
    /// the clock.
    fn run_quiet<T>(&self, make: impl FnOnce(&mut Op<'_, '_>) -> Result<T>) -> Result<(Lsn, T)> {
        self.run_as(How { freeing: true, quiet: true, ..How::default() }, make)
    }

    fn run_as<T>(&self, how: How, make: impl FnOnce(&mut Op<'_, '_>) -> Result<T>) -> Result<(Lsn, T)> {
        let mut state = self.apply.lock();
        self.check_usable()?;
        let mut next = state.clone();
        let stamp = if how.quiet { Stamp { hlc: next.meta.hlc, store: 0 } } else { next.tick(&*self.clock) };
        let lsn = self.log.last_lsn().next();
        let mut txn = Txn::new(&*self.index, lsn);
        let apply = Apply::new(&mut txn, &mut next, stamp, self.log.incarnation());
        let mut op = Op { apply, facts: Vec::new(), subject: (ObjectId::default(), Ino::new(0)) };
        let out = make(&mut op)?;
        let gives_up = op.apply.gives_up;
        let Op { facts, subject, .. } = op;
        if facts.is_empty() {
            return Ok((self.log.last_lsn(), out));
        }
        let local = facts.iter().any(Fact::is_local);
        debug_assert!(facts.iter().all(|f| f.is_local() == local), "a record crosses whole or not at all");
        let seq = if local { 0 } else { self.next_sequence(&mut txn, &mut next)? };
        let payload = record_of(&facts)?;
        let mut record = Record::new(Kind::Operation, &payload);
        (record.object, record.ino) = subject;
        (record.seq, record.stamp, record.arg) = (seq, stamp.hlc, facts.len() as u64);
        record.flags = if gives_up { crate::format::flags::GIVES_UP } else { 0 };
        let changes = txn.finish()?;
        let apart = self.until_applied();
        let appended =
            if how.freeing { self.log.append_freeing(&[record]) } else { self.log.append(&[record]) };
        match appended {
            Ok(appended) => self.check_lsn(appended[0].0, lsn)?,
            Err(e) => {
                if planted(Bug::ApplyWithoutAppend) {
                    self.land(&mut state, next, lsn, &changes)?;
                }
                return Err(e);
            }
        }
        strike("apply");
        self.land(&mut state, next, lsn, &changes)?;
        apart.done();
        if how.told {
            self.tell_touched(&changes);
        }
        Ok((lsn, out))
    }

    /// The sequence of the next facts batch made here, noted where it will be looked for.
    fn next_sequence(&self, txn: &mut Txn<'_>, state: &mut State) -> Result<u64> {
        let incarnation = self.log.incarnation();
        let seq = if state.meta.incarnation == incarnation.get() { state.meta.sequence + 1 } else { 1 };
        open::note_own(txn, state, incarnation, seq)?;
        Ok(seq)
    }

    /// Applies a record's changes after it was appended. What fails here leaves log and index apart: the store
    /// stops, and opening it again replays the log.
    fn land(&self, state: &mut State, next: State, lsn: Lsn, changes: &[Change]) -> Result<()> {
        if let Err(e) = self.index.apply(lsn, changes) {
            self.break_with(&e);
            return Err(e);
        }
        if next.stores.len() != state.stores.len() {
            *self.stores.write() = Arc::clone(&next.stores);
        }
        *state = next;
        if self.index.unflushed_bytes() >= self.options.memtable_bytes
            && let Err(e) = self.rotate(state, lsn)
        {
            // The operation itself has happened. Without space the memtable waits; maintenance tries again.
            tracing::warn!("the index could not be written out: {e}");
            if !matches!(e, Error::NoSpace { .. }) {
                self.break_with(&e);
            }
        }
        Ok(())
    }

    /// Stops the store should this thread panic before a record that it appended was applied.
    fn until_applied(&self) -> Apart<'_> {
        Apart(self)
    }

    fn check_lsn(&self, got: Lsn, expected: Lsn) -> Result<()> {
        if got == expected {
            return Ok(());
        }
        let why = format!("a record got LSN {got} where {expected} was next");
        let e = Error::Poisoned { why };
        self.break_with(&e);
        Err(e)
    }

    fn rotate(&self, state: &State, lsn: Lsn) -> Result<()> {
        let meta = Change::put(key::meta(), crate::format::code::encode(&state.meta));
        let done = self.index.apply(lsn, &[meta]).and_then(|()| self.index.rotate(lsn));
        if let Err(e) = &done {
            self.break_with(e);
        }
        done?;
        if !self.options.background || self.index.waiting_memtables() > WAITING_MEMTABLES {
            // Whoever fills memory faster than it can be written out helps.
            self.flush_index(lsn)?;
        } else {
            self.wake.1.notify_all();
        }
        Ok(())
    }

    fn flush_index(&self, upto: Lsn) -> Result<()> {
        let _one = self.flushing.lock();
        let _doing = self.activity.begin(Work::Flushing);
        if planted(Bug::FlushBeforeDurable) {
            return self.index.flush();
        }
        self.log.wait_durable(upto)?;
        self.with_ballast(|| self.index.flush_to(self.log.durable_lsn()))
    }

    /// Writes the index out as it is now.
    ///
    /// # Errors
    /// As of [`sync`](Self::sync), or if the index can't be written.
    pub fn checkpoint(&self) -> Result<()> {
        if self.options.read_only {
            return Ok(());
        }
        let lsn = {
            let state = self.apply.lock();
            let lsn = self.log.last_lsn();
            let meta = Change::put(key::meta(), crate::format::code::encode(&state.meta));
            let meta = if planted(Bug::MetaNotFlushed) { Vec::new() } else { vec![meta] };
            self.index.apply(lsn, &meta).and_then(|()| self.index.rotate(lsn))?;
            lsn
        };
        self.flush_index(lsn)
    }

    /// One round of what has to happen now and then: commit what waits, write out the index, merge.
    /// Says whether there was anything to do.
    ///
    /// # Errors
    /// What fails; the store has stopped writing then.
    pub fn maintain(&self) -> Result<bool> {
        let did = self.write_back()?;
        Ok(self.merge()? || did)
    }

    /// Merges once; says whether there was anything to do.
    fn merge(&self) -> Result<bool> {
        if self.options.read_only {
            // Its index goes with it.
            return Ok(false);
        }
        let _doing = self.activity.begin(Work::Merging);
        self.index.compact()
    }

    /// Commits what waits, and writes out the index.
    fn write_back(&self) -> Result<bool> {
        let mut did = false;
        if self.options.read_only {
            return Ok(did);
        }
        self.settle_moves()?;
        if self.log.durable_lsn() < self.log.last_lsn() {
            self.log.commit()?;
            did = true;
        }
        self.settle_removals()?;
        if self.index.waiting_memtables() > 0 {
            let _one = self.flushing.lock();
            let _doing = self.activity.begin(Work::Flushing);
            self.with_ballast(|| self.index.flush_to(self.log.durable_lsn()))?;
            did = true;
        }
        Ok(did)
    }

    /// Closes a memtable with many removals once no more come: only a merge makes walks through their place, the listing of a
    /// directory that was emptied, as quick as if they had never been, and nothing else may fill this memtable for long.
    fn settle_removals(&self) -> Result<()> {
        let now = self.index.unflushed_removals();
        if now >= REMOVALS_SETTLED && self.removals.swap(now, Relaxed) == now {
            let state = self.apply.lock();
            self.check_usable()?;
            self.rotate(&state, self.log.last_lsn())?;
        }
        Ok(())
    }

    fn rank(&self, s: Stamp) -> (u64, StoreId) {
        (s.hlc, self.stores.read().get(s.store as usize).copied().unwrap_or_default())
    }

    /// Commits, writes the index out and seals the log. Dropping a store without this is like a crash.
    ///
    /// # Errors
    /// If something of it fails; what was synced before is safe, and the next opening replays the rest.
    pub fn close(&self) -> Result<()> {
        self.stop_maintenance();
        // A cleaning that runs ends soon.
        drop(self.keeper.lock());
        if self.options.read_only {
            return Ok(());
        }
        if self.broken.lock().is_none()
            && let Err(e) = self.note_expiry()
        {
            tracing::warn!("the clock by which things expire was not written down: {e}");
        }
        self.log.commit()?;
        if self.broken.lock().is_none() && self.index.flushed_lsn() < self.log.last_lsn() {
            self.checkpoint()?;
        }
        self.log.close()?;
        self.note_closed();
        Ok(())
    }

    /// What was found at the opening, and made durable then, is vouched for by the segment that follows; if nothing was appended, as on
    /// a full disk, there is none, and what came last could rot unseen.
    fn note_closed(&self) {
        let (found, last) = (&self.recovered.log, self.log.last_lsn());
        if last == found.last_lsn
            && found.durable_mark < last
            && let Err(e) = superblock::note_closed(&*self.disk, last)
        {
            tracing::warn!("up to where the log is durable was not written down: {e}");
        }
    }

    /// Is the store about to close?
    fn is_stopping(&self) -> bool {
        *self.wake.0.lock()
    }

    fn stop_maintenance(&self) {
        *self.wake.0.lock() = true;
        self.wake.1.notify_all();
        self.space_wanted.notify_all();
    }

    /// Does what [`maintain`](Self::maintain) does at least twice a second, writing and merging on a thread each, and
    /// [`hash_versions`](Self::hash_versions) and [`keep_space`](Self::keep_space) on others, until the store is closed or let go.
    ///
    /// # Errors
    /// If no thread can be had.
    pub fn start_maintenance(self: &Arc<Self>) -> Result<()> {
        if self.options.read_only {
            return Ok(());
        }
        let write_back = |store: &Self| Ok(store.write_back()? && store.index.waiting_memtables() > 0);
        self.repeat("segfs-store", |store| &store.wake.1, write_back)?;
        // A merge takes long; what waits for a flush must not wait for it.
        self.repeat("segfs-merge", |store| &store.wake.1, Self::merge)?;
        self.repeat("segfs-hash", |store| &store.wake.1, Self::hash_versions)?;
        // Cleaning may take long; what it has to carry must not grow meanwhile.
        self.repeat("segfs-surplus", |store| &store.space_wanted, Self::drop_surplus)?;
        self.keeping.store(true, Relaxed);
        self.repeat("segfs-space", |store| &store.space_wanted, Self::keep_space)
    }

    /// A thread of this store panicked. Nothing is written any more, and what was written until then is made durable, since
    /// nobody may come by to do that.
    fn panicked(&self, thread: &str, why: &str) {
        self.stop_writing(&format!("the thread {thread} panicked: {why}"));
        // Whoever was not stopped by that has appended once this lock is free.
        drop(self.apply.lock());
        if let Ok(Err(e)) = catch_unwind(AssertUnwindSafe(|| self.log.commit())) {
            tracing::error!("{e}");
        }
    }

    /// Does something again and again on a thread; at once where it says that there is more.
    fn repeat(
        self: &Arc<Self>,
        name: &'static str,
        woken_by: fn(&Self) -> &Condvar,
        work: fn(&Self) -> Result<bool>,
    ) -> Result<()> {
        let weak = Arc::downgrade(self);
        let run = move || {
            while let Some(store) = weak.upgrade() {
                let done = catch_unwind(AssertUnwindSafe(|| {
                    strike(name);
                    work(&store)
                }));
                let done = match done {
                    Ok(done) => done,
                    Err(panic) => return store.panicked(name, &panic_text(&*panic)),
                };
                let busy = match done {
                    Ok(busy) => busy,
                    // Whoever closes the store hears of what matters; that the log is closed by now is no failure.
                    Err(e) if store.is_stopping() => {
                        tracing::debug!("{name} ends: {e}");
                        return;
                    }
                    // Space comes back when something is deleted.
                    Err(e @ Error::NoSpace { .. }) => {
                        tracing::warn!("{e}");
                        false
                    }
                    Err(e) => {
                        tracing::error!("{e}");
                        store.break_with(&e);
                        return;
                    }
                };
                let mut stop = store.wake.0.lock();
                if !*stop && !busy {
                    let pause = std::time::Duration::from_millis(limits::COMMIT_INTERVAL_MS);
                    woken_by(&store).wait_for(&mut stop, pause);
                }
                if *stop {
                    return;
                }
            }
        };
        std::thread::Builder::new()
            .name(name.into())
            .spawn(run)
            .map(drop)
            .map_err(|e| Error::io("starting a thread", e))
    }
}
