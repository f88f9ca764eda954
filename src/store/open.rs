//! Creating and opening a store: superblock, lock, index, replay.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, AtomicU64},
    },
};

use parking_lot::{Condvar, Mutex, RwLock};

use crate::{
    base::{
        Clock, Damage, Error, Incarnation, Ino, Lsn, ObjectId, Random, Result, StoreId, SystemClock,
        SystemRandom, limits,
    },
    disk::{Disk, Engine, RealDisk},
    format::{
        Kind, Origin, Superblock,
        facts::{Fact, ObjectKind, version_flags},
        flags,
        rows::{Attributes, Content, ExtentRow, MetaRow, ObjectRow, Stamp, after_prefix, key, kind},
    },
    index::{CachedIndex, Change, Index, IndexView, SortedIndex},
    log::{Log, LogOptions, Recovery, ReplayRecord},
};

use super::{
    Making, Options, Store,
    apply::{Apply, unknown},
    base,
    clock::Anchor,
    inspect::Progress,
    knowledge::note_held,
    missing::{Missing, Replayer},
    state::State,
    superblock,
    txn::{Keep, Txn, row},
};

pub(super) const SUPERBLOCK: &str = "STORE";
pub(super) const LOCK: &str = "LOCK";
pub(super) const INDEX: &str = "index";
/// Where an index that can't be used waits until the log has made another one.
const INDEX_ASIDE: &str = "index.aside";
/// Rows that almost every request asks for.
const CACHED: &[u8] = &[kind::LINK, kind::OBJECT];

/// What a store is made of, handed in from outside.
pub struct Parts {
    /// The store's directory.
    pub disk: Arc<dyn Disk>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Chance.
    pub random: Arc<dyn Random>,
    /// The index: empty, or as it was flushed at some LSN of this log.
    pub index: Arc<dyn Index>,
}

/// What opening a store found.
#[derive(Debug, Clone, Default)]
pub struct Recovered {
    /// The log as it was found.
    pub log: Recovery,
    /// The index was not usable and was built again from the log: why.
    pub rebuilt: Option<String>,
    /// Damaged copies of the superblock.
    pub superblock_damage: Vec<String>,
    /// The superblock's damaged copy was written anew.
    pub superblock_mended: bool,
    /// Records that a store opened read-only does without. What depends on them may be missing, or older than it was.
    pub missing: Vec<Missing>,
    /// Versions minted for files that were open when the store stopped.
    pub minted: u64,
}

impl Store {
    /// Makes a store in a directory that is empty or not there, and opens it.
    ///
    /// # Errors
    /// If the directory holds something, or can't be written.
    pub fn create(path: &Path, options: Options) -> Result<Self> {
        let disk = RealDisk::create(path, Engine::Auto)
            .map_err(|e| Error::io(format!("making {}", path.display()), e))?;
        let options = fitting(&disk, options);
        Self::format(&disk, &options, &SystemClock, &SystemRandom, path)?;
        Self::open_disk(Arc::new(disk), path, options, &|_, _| {})
    }

    /// Opens the store in a directory. With [`Options::read_only`], nothing in the directory changes.
    ///
    /// # Errors
    /// [`Error::NotAStore`], [`Error::InUse`], [`Error::Newer`], [`Error::Damaged`], or what the system says.
    pub fn open(path: &Path, options: Options) -> Result<Self> {
        Self::open_on(path, options, Engine::Auto, &|_, _| {})
    }

    /// As [`open`](Self::open), with a choice of how writes reach the disk; while the log is replayed, `progress` is told
    /// how many records are done, and of how many.
    ///
    /// # Errors
    /// As of [`open`](Self::open).
    pub fn open_on(path: &Path, options: Options, engine: Engine, progress: Progress<'_>) -> Result<Self> {
        let disk =
            RealDisk::open(path, engine).map_err(|e| Error::io(format!("opening {}", path.display()), e))?;
        if options.read_only {
            Self::open_to_read(Arc::new(disk), path, options, progress)
        } else {
            Self::open_disk(Arc::new(disk), path, options, progress)
        }
    }

    fn open_disk(disk: Arc<dyn Disk>, path: &Path, options: Options, progress: Progress<'_>) -> Result<Self> {
        let options = Options { memtable_bytes: fitting_memtable(&*disk, options.memtable_bytes), ..options };
        let superblock = superblock::read(&*disk, path, true)?;
        let lock = take_lock(&*disk, path)?;
        let index_path = path.join(INDEX);
        let aside = path.join(INDEX_ASIDE);
        let had_index = index_path.exists();
        let opened = SortedIndex::open(&index_path, options.cache_bytes).and_then(|index| {
            if base::is_half_filled(&index) {
                return Err(Damage::file(INDEX, 0, "it was not filled to the end").into());
            }
            Ok(index)
        });
        let (index, unusable) = match opened {
            Ok(index) => (index, None),
            // Only what is damaged is replaced; no right to read it, say, is not its fault.
            Err(e @ Error::Damaged(_)) => {
                crate::index::set_aside(&index_path, &aside)?;
                (SortedIndex::open(&index_path, options.cache_bytes)?, Some(e.to_string()))
            }
            Err(e) => return Err(e),
        };
        let replaced = unusable.is_some();
        let parts = Parts {
            disk,
            clock: Arc::new(SystemClock),
            random: Arc::new(SystemRandom),
            index: Arc::new(index),
        };
        let found = Found { superblock, lock, rebuilt: unusable };
        let opened = match Self::assemble(parts, found, path, options.clone(), progress) {
            Err(Assembly::Index(fault)) if !replaced => {
                let IndexFault { parts, found, why } = *fault;
                drop(parts.index);
                crate::index::set_aside(&index_path, &aside)?;
                let index = Arc::new(SortedIndex::open(&index_path, options.cache_bytes)?);
                let parts = Parts { index, ..parts };
                Self::assemble(parts, Found { rebuilt: Some(why), ..found }, path, options, progress)
            }
            other => other,
        };
        match opened {
            Ok(store) => {
                crate::index::destroy(&aside)?;
                Ok(store)
            }
            Err(e) => {
                // The log can't make another one: what there was may still be needed.
                if aside.exists() {
                    crate::index::set_aside(&aside, &index_path)?;
                } else if !had_index {
                    crate::index::destroy(&index_path)?;
                }
                Err(e.into_error())
            }
        }
    }

    /// Opens a store beside others who only read it. Its index is looked at through links in the directory for temporary
    /// files, and what replay changes goes there.
    fn open_to_read(
        disk: Arc<dyn Disk>,
        path: &Path,
        options: Options,
        progress: Progress<'_>,
    ) -> Result<Self> {
        let superblock = superblock::read(&*disk, path, false)?;
        let lock = share_lock(&*disk, path)?;
        let empty = || IndexView::empty(options.cache_bytes, &SystemRandom);
        let (view, unusable) = match IndexView::open(&path.join(INDEX), options.cache_bytes, &SystemRandom) {
            Ok(view) => (view, None),
            Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
                (empty()?, None)
            }
            Err(e @ Error::Damaged(_)) => (empty()?, Some(e.to_string())),
            Err(e) => return Err(e),
        };
        let index = view.index();
        let parts = Parts { disk, clock: Arc::new(SystemClock), random: Arc::new(SystemRandom), index };
        let found = Found { superblock, lock: Box::new((view, lock)), rebuilt: unusable };
        match Self::assemble(parts, found, path, options.clone(), progress) {
            Err(Assembly::Index(fault)) => {
                let IndexFault { parts, found, why } = *fault;
                let view = empty()?;
                let parts = Parts { index: view.index(), ..parts };
                let found = Found { lock: Box::new((view, found.lock)), rebuilt: Some(why), ..found };
                Self::assemble(parts, found, path, options, progress).map_err(Assembly::into_error)
            }
            other => other.map_err(Assembly::into_error),
        }
    }

    /// Opens a store from its parts.
    ///
    /// # Errors
    /// As of [`open`](Self::open).
    pub fn open_parts(parts: Parts, options: Options) -> Result<Self> {
        let path = Path::new("");
        let superblock = superblock::read(&*parts.disk, path, !options.read_only)?;
        let lock =
            if options.read_only { share_lock(&*parts.disk, path)? } else { take_lock(&*parts.disk, path)? };
        let found = Found { superblock, lock, rebuilt: None };
        Self::assemble(parts, found, path, options, &|_, _| {}).map_err(Assembly::into_error)
    }

    fn assemble(
        parts: Parts,
        found: Found,
        path: &Path,
        options: Options,
        progress: Progress<'_>,
    ) -> Result<Self, Assembly> {
        let id = found.superblock.superblock.store;
        let Superblock { segment_bytes, closed_lsn: durable, .. } = found.superblock.superblock;
        let log_options = LogOptions { segment_bytes, durable, ..options.log() };
        if base::is_half_filled(&*parts.index) {
            base::clear(&*parts.index)?;
        }
        if base::wanted(&*parts.index, &*parts.disk) {
            base::load(&parts, id, log_options, options.memtable_bytes)?;
        }
        let flushed = parts.index.flushed_lsn();
        let fault = |parts, found, why| Assembly::Index(Box::new(IndexFault { parts, found, why }));
        let mut state = match load_state(&*parts.index, id) {
            Ok(state) => state,
            Err(e) if flushed > Lsn::new(0) => return Err(fault(parts, found, e.to_string())),
            Err(e) => return Err(e.into()),
        };
        let index: Arc<dyn Index> =
            Arc::new(CachedIndex::new(Arc::clone(&parts.index), CACHED, options.row_cache_bytes));
        let mut replayer = Replayer::new(flushed, options.read_only, options.memtable_bytes, progress);
        let opened = open_log(&parts, id, log_options, &index, &mut replayer, &mut state);
        let (log, recovery) = match opened {
            Ok(opened) => opened,
            Err(e @ Error::Damaged(_)) if flushed > Lsn::new(0) && replayer.index_at_fault => {
                return Err(fault(parts, found, e.to_string()));
            }
            Err(e) => return Err(e.into()),
        };
        if recovery.last_lsn < flushed {
            let lost = log_is_short(&recovery, flushed);
            if !options.read_only {
                return Err(Error::from(lost).into());
            }
            return Err(fault(parts, found, lost.why));
        }
        replayer.end(&recovery, &mut state)?;
        let Found { superblock, lock, rebuilt } = found;
        let mut recovered = Recovered {
            log: recovery,
            rebuilt,
            superblock_damage: superblock.damage(),
            superblock_mended: false,
            missing: replayer.missing,
            minted: 0,
        };
        if !options.read_only && !recovered.superblock_damage.is_empty() {
            match superblock.mend(&*parts.disk) {
                Ok(()) => recovered.superblock_mended = true,
                Err(e) => tracing::warn!("{e}"),
            }
        }
        let stores = RwLock::new(Arc::clone(&state.stores));
        let created_ns = superblock.superblock.created_ns;
        let anchor = Anchor::new(&*parts.clock, state.meta.clock_ns.max(created_ns));
        let mut store = Self {
            id,
            path: path.to_owned(),
            clock: parts.clock,
            random: parts.random,
            disk: parts.disk,
            log,
            index: Arc::clone(&index),
            apply: Mutex::new(state),
            stores,
            broken: Mutex::new(None),
            wake: (Mutex::new(false), Condvar::new()),
            flushing: Mutex::new(()),
            cleaner: Mutex::default(),
            cleaned: Mutex::default(),
            base: Mutex::new(None),
            created_ns,
            anchor: Mutex::new(anchor),
            settings: RwLock::new(Arc::new(options.settings.clone())),
            options,
            acknowledged: Mutex::default(),
            needed: Mutex::default(),
            touched: Default::default(),
            yielded: std::sync::atomic::AtomicU64::new(0),
            yielding: Mutex::default(),
            keeper: Mutex::default(),
            removals: std::sync::atomic::AtomicU64::default(),
            trees: Mutex::default(),
            hashing: Default::default(),
            expected: Default::default(),
            rounds: (Mutex::new(0), Condvar::new()),
            space_wanted: Condvar::new(),
            keeping: AtomicBool::new(false),
            short_of_room: AtomicU32::new(0),
            appended: AtomicU64::new(0),
            surplus: AtomicU64::new(0),
            ripe: Mutex::default(),
            recovered,
            activity: super::Activity::default(),
            _lock: lock,
        };
        store.recovered.minted = store.finish()?;
        Ok(store)
    }

    /// Finishes what the last opening left undone; says how many versions that made.
    fn finish(&self) -> Result<u64> {
        if self.options.read_only {
            return Ok(0);
        }
        // Without space for it, what was interrupted stays as it is until the next opening.
        match self.finish_interrupted().and_then(|n| self.finish_exchange().map(|()| n)) {
            Err(e @ Error::NoSpace { .. }) => {
                tracing::warn!("{e}");
                Ok(0)
            }
            done => done,
        }
    }

    /// Files that were open when the store stopped get their version, or, without a name, are given up.
    fn finish_interrupted(&self) -> Result<u64> {
        let mut minted = 0;
        if !self.options.mint_interrupted {
            return Ok(0);
        }
        for list in [kind::DRAFT, kind::ORPHAN] {
            for (k, _) in self.index.scan(&[list], &after_prefix(&[list]), usize::MAX)? {
                let Some(ino) = key::ino_of(&k) else { continue };
                if self.making_of(ino)? != Making::Never
                    && self.commit_flagged(ino, version_flags::INTERRUPTED)?.1.is_some()
                {
                    minted += 1;
                }
                self.reap(ino)?;
            }
        }
        Ok(minted)
    }
}

/// On a small disk segments are smaller, so that the reserve and the cleaner find room.
fn fitting(disk: &dyn Disk, options: Options) -> Options {
    let total = disk.space().map_or(u64::MAX, |s| s.total_bytes);
    let fits = (1 << (total / 64).max(1).ilog2()).max(limits::SEGMENT_BYTES_SMALL);
    Options { segment_bytes: options.segment_bytes.min(fits), ..options }
}

/// On a small disk less of the index waits in memory, so that writing it out, and the ballast for that, take no space that
/// matters.
fn fitting_memtable(disk: &dyn Disk, bytes: u64) -> u64 {
    let total = disk.space().map_or(u64::MAX, |s| s.total_bytes);
    bytes.min((total / 128).max(limits::MEMTABLE_BYTES_SMALL))
}

/// What there is of a store before its parts are put together.
struct Found {
    superblock: superblock::Read,
    lock: Box<dyn Send + Sync>,
    /// Why the index is a new one.
    rebuilt: Option<String>,
}

/// Why a store could not be put together: the index is at fault and can be replaced, or something else.
enum Assembly {
    Index(Box<IndexFault>),
    Other(Box<Error>),
}

/// The index can't be used; everything else can, with another one.
struct IndexFault {
    parts: Parts,
    found: Found,
    why: String,
}

impl From<Error> for Assembly {
    fn from(e: Error) -> Self {
        Self::Other(Box::new(e))
    }
}

impl Assembly {
    fn into_error(self) -> Error {
        match self {
            Self::Index(fault) => Damage::file(INDEX, 0, fault.why).into(),
            Self::Other(e) => *e,
        }
    }
}

/// Opens the log and brings the index up to its end.
fn open_log(
    parts: &Parts,
    id: StoreId,
    options: LogOptions,
    index: &Arc<dyn Index>,
    replayer: &mut Replayer<'_>,
    state: &mut State,
) -> Result<(Log, Recovery)> {
    let from = replayer.from();
    with_flusher(&**index, options.background, |rotated| {
        Log::open(
            Arc::clone(&parts.disk),
            id,
            options,
            Arc::clone(&parts.clock),
            Arc::clone(&parts.random),
            from,
            &mut |record| if replayer.record(&**index, state, &record)? { rotated() } else { Ok(()) },
        )
    })
}

/// The index is only written out behind what is durable in the log: then somebody took the end of the log away.
fn log_is_short(log: &Recovery, flushed: Lsn) -> Damage {
    let why = format!("the log ends at LSN {}, but records up to {flushed} were durable", log.last_lsn);
    Damage::file(crate::segment::DIRECTORY, 0, why).advise(
        "bring the newest segments back from a copy of the store, or give up what they held: `segtool index rebuild`",
    )
}

pub(super) fn take_lock(disk: &dyn Disk, path: &Path) -> Result<Box<dyn Send + Sync>> {
    let holder = format!("process {}", std::process::id());
    disk.lock(Path::new(LOCK), &holder).map_err(|e| not_locked(e, path))
}

/// The lock beside others who only read. A store that was never open has none yet, and then nobody is kept out.
fn share_lock(disk: &dyn Disk, path: &Path) -> Result<Box<dyn Send + Sync>> {
    let lock = disk.lock_shared(Path::new(LOCK)).map_err(|e| not_locked(e, path))?;
    Ok(lock.unwrap_or_else(|| Box::new(())))
}

fn not_locked(e: std::io::Error, path: &Path) -> Error {
    if e.kind() == std::io::ErrorKind::WouldBlock {
        Error::InUse { path: path.to_owned(), holder: e.to_string() }
    } else {
        Error::io(format!("locking {}", path.join(LOCK).display()), e)
    }
}

/// Counters and tables as the index holds them, with the root directory that every store has.
pub(super) fn load_state(index: &dyn Index, id: StoreId) -> Result<State> {
    let mut state = State::new(id);
    if index.flushed_lsn() == Lsn::new(0) {
        let root = ObjectRow {
            from: Lsn::new(0),
            object: ObjectId::ROOT,
            attributes: root_attributes(),
            content: Content::default(),
        };
        let row = Change::put(key::object(Ino::FIRST), crate::format::code::encode(&root));
        index.apply(Lsn::new(0), &[row])?;
        return Ok(state);
    }
    let k = key::meta();
    let Some(meta) = index.get(&k)? else {
        return Err(Damage::file(INDEX, 0, "it does not say what the store knows as a whole").into());
    };
    state.meta = row::<MetaRow>(&k, &meta)?;
    let mut stores = vec![id];
    for (k, bytes) in
        index.scan(&key::store_number(None), &after_prefix(&key::store_number(None)), usize::MAX)?
    {
        stores.push(row(&k, &bytes)?);
    }
    state.stores = Arc::new(stores);
    Ok(state)
}

fn root_attributes() -> Attributes {
    Attributes { kind: ObjectKind::Directory, mode: 0o755, links: 2, ..unknown() }
}

/// Replays with a thread beside that writes the index out, if threads are allowed. `replay` is handed what to
/// call after each rotation. What is replayed is durable already, so all of it may be written.
fn with_flusher<T>(
    index: &dyn Index,
    background: bool,
    replay: impl FnOnce(&mut dyn FnMut() -> Result<()>) -> Result<T>,
) -> Result<T> {
    if !background {
        return replay(&mut || index.flush());
    }
    std::thread::scope(|scope| {
        let (wake, woken) = crossbeam_channel::bounded(1);
        let flusher = scope.spawn(move || woken.into_iter().try_for_each(|()| index.flush()));
        let replayed = replay(&mut || {
            // Full means that it is about to look anyhow; gone, that it failed and says so below.
            let _ = wake.try_send(());
            if index.waiting_memtables() > super::WAITING_MEMTABLES { index.flush() } else { Ok(()) }
        });
        drop(wake);
        let flushed =
            flusher.join().unwrap_or_else(|_| Err(Error::Poisoned { why: "a flush panicked".into() }));
        replayed.and_then(|r| flushed.map(|()| r))
    })
}

/// Applies one record of the log to the index; says whether the memtable was rotated.
pub(super) fn replay(
    index: &dyn Index,
    state: &mut State,
    memtable_bytes: u64,
    record: &ReplayRecord<'_>,
) -> Result<bool> {
    let mut txn = Txn::new(index, record.lsn);
    apply_record(&mut txn, state, record)?;
    index.apply(record.lsn, &txn.finish()?)?;
    // A moved record counts with the numbered one that follows it.
    if record.flags & flags::MOVED != 0 || index.unflushed_bytes() < memtable_bytes {
        return Ok(false);
    }
    let meta = Change::put(key::meta(), crate::format::code::encode(&state.meta));
    index.apply(record.lsn, &[meta])?;
    index.rotate(record.lsn)?;
    Ok(true)
}

fn apply_record(txn: &mut Txn<'_>, state: &mut State, record: &ReplayRecord<'_>) -> Result<()> {
    if let Some(why) = record.wrong
        && (record.kind == Kind::Operation || record.kind == Kind::Extent && record.head.is_none())
    {
        let at = &record.location;
        return Err(Damage::segment(at.segment, at.offset, Some(record.lsn), why.0).into());
    }
    let place = crate::format::Location::from(record.location);
    if record.kind == Kind::Base && record.wrong.is_none() {
        return base::replayed(txn, record.payload, place);
    }
    let Some(head) = &record.head else { return Ok(()) };
    if record.flags & flags::MOVED != 0 {
        return txn.put(key::moved(record.lsn), &place, Keep::Amend);
    }
    // Bytes that are only stored may come before anything else of their store.
    let detached = record.kind == Kind::Extent && record.flags & flags::DETACHED != 0;
    let number = state.number(head.origin.store).or(detached.then_some(0)).ok_or_else(|| {
        let why = format!("store {} has no number yet", head.origin.store);
        Damage::segment(record.location.segment, record.location.offset, Some(record.lsn), why)
    })?;
    let (stamp, made_in) = (Stamp { hlc: head.stamp, store: number }, head.origin.incarnation);
    match record.kind {
        Kind::Extent if record.flags & flags::DETACHED != 0 => {
            let id = crate::format::facts::ExtentId {
                store: head.origin.store,
                incarnation: head.origin.incarnation,
                sequence: head.origin.seq,
            };
            txn.put(key::extent(&id), &ExtentRow { extent: record.lsn, location: place }, Keep::Amend)
        }
        Kind::Extent => Apply::new(txn, state, stamp, made_in).extent(head.object, head.arg, place),
        Kind::Operation => {
            let facts: Vec<Fact> = crate::format::code::decode(record.payload).map_err(|e| {
                Damage::segment(record.location.segment, record.location.offset, Some(record.lsn), e.0)
            })?;
            if record.flags & flags::FOREIGN != 0 {
                let o = head.origin;
                note_held(txn, &o, o.seq)?;
            } else if head.origin.seq > 0 {
                note_own(txn, state, head.origin.incarnation, head.origin.seq)?;
            }
            let mut apply = Apply::new(txn, state, stamp, made_in);
            apply.gives_up = record.flags & flags::GIVES_UP != 0;
            apply.facts(&facts)
        }
        Kind::Base | Kind::BatchEnd | Kind::Footer => Ok(()),
    }
}

/// Counts a facts batch made here. Those of an incarnation that is over are noted as held.
pub(super) fn note_own(
    txn: &mut Txn<'_>,
    state: &mut State,
    incarnation: Incarnation,
    seq: u64,
) -> Result<()> {
    let m = &mut state.meta;
    if m.incarnation != incarnation.get() && m.sequence > 0 {
        let over = Origin { store: state.store, incarnation: Incarnation::new(m.incarnation), seq: 1 };
        note_held(txn, &over, m.sequence)?;
    }
    (m.incarnation, m.sequence) = (incarnation.get(), seq);
    Ok(())
}
