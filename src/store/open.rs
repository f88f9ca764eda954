//! Creating and opening a store: superblock, lock, index, replay.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use parking_lot::{Condvar, Mutex, RwLock};

use crate::{
    base::{
        Clock, Damage, Error, Incarnation, Ino, Lsn, ObjectId, Random, Result, SegmentId, StoreId,
        SystemClock, SystemRandom, limits,
        planted::{Bug, planted},
    },
    disk::{Disk, Engine, RealDisk},
    format::{
        Kind, Superblock,
        facts::{Fact, ObjectKind, version_flags},
        flags,
        rows::{Attributes, Content, ExtentRow, MetaRow, ObjectRow, Stamp, after_prefix, key, kind},
    },
    index::{CachedIndex, Change, Index, SortedIndex},
    log::{Log, ReplayRecord},
};

use super::{
    Options, Store,
    apply::{Apply, unknown},
    base,
    state::State,
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
    pub log: crate::log::Recovery,
    /// The index was not usable and was built again from the log: why.
    pub rebuilt: Option<String>,
    /// Damaged copies of the superblock.
    pub superblock_damage: Vec<String>,
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
        Self::open_disk(Arc::new(disk), path, options)
    }

    /// Opens the store in a directory.
    ///
    /// # Errors
    /// [`Error::NotAStore`], [`Error::InUse`], [`Error::Newer`], [`Error::Damaged`], or what the system says.
    pub fn open(path: &Path, options: Options) -> Result<Self> {
        let disk = RealDisk::open(path, Engine::Auto)
            .map_err(|e| Error::io(format!("opening {}", path.display()), e))?;
        Self::open_disk(Arc::new(disk), path, options)
    }

    fn open_disk(disk: Arc<dyn Disk>, path: &Path, options: Options) -> Result<Self> {
        let superblock = read_superblock(&*disk, path)?;
        let lock = take_lock(&*disk, path)?;
        let index_path = path.join(INDEX);
        let aside = path.join(INDEX_ASIDE);
        let opened = SortedIndex::open(&index_path, options.cache_bytes);
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
        let opened = match Self::assemble(parts, superblock, lock, path, options.clone(), unusable) {
            Err(Assembly::Index(fault)) if !replaced => {
                let IndexFault { parts, superblock, lock, why } = *fault;
                drop(parts.index);
                crate::index::set_aside(&index_path, &aside)?;
                let index = Arc::new(SortedIndex::open(&index_path, options.cache_bytes)?);
                let parts = Parts { index, ..parts };
                Self::assemble(parts, superblock, lock, path, options, Some(why))
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
                }
                Err(e.into_error())
            }
        }
    }

    /// Writes the superblock of a new store onto a disk.
    ///
    /// # Errors
    /// If there is something already, or the disk refuses.
    pub fn format(
        disk: &dyn Disk,
        options: &Options,
        clock: &dyn Clock,
        random: &dyn Random,
        path: &Path,
    ) -> Result<StoreId> {
        match disk.list(Path::new("")) {
            Ok(names) if !names.is_empty() => {
                let why = format!("{}: the directory is not empty", path.display());
                return Err(Error::BadRequest(why));
            }
            Ok(_) => {}
            Err(e) => return Err(Error::io(format!("reading {}", path.display()), e)),
        }
        let id = StoreId::new(random.u128());
        let (created_ns, segment_bytes) = (clock.wall_ns(), options.segment_bytes);
        let superblock = Superblock { store: id, created_ns, segment_bytes, ..Superblock::default() };
        for dir in ["segments", "spare"] {
            disk.create_dir(Path::new(dir)).map_err(|e| Error::io(format!("making {dir}/"), e))?;
        }
        let write = || -> std::io::Result<()> {
            let file = disk.create(Path::new(SUPERBLOCK))?;
            for copy in 0..2 {
                file.write_at(&[&superblock.encode()], copy * 4096)?;
                file.sync()?;
            }
            disk.sync_dir(Path::new(""))
        };
        write().map_err(|e| Error::io("writing STORE", e))?;
        Ok(id)
    }

    /// Opens a store from its parts.
    ///
    /// # Errors
    /// As of [`open`](Self::open).
    pub fn open_parts(parts: Parts, options: Options) -> Result<Self> {
        let path = Path::new("");
        let superblock = read_superblock(&*parts.disk, path)?;
        let lock = take_lock(&*parts.disk, path)?;
        Self::assemble(parts, superblock, lock, path, options, None).map_err(Assembly::into_error)
    }

    fn assemble(
        parts: Parts,
        (superblock, superblock_damage): (Superblock, Vec<String>),
        lock: Box<dyn Send + Sync>,
        path: &Path,
        options: Options,
        rebuilt: Option<String>,
    ) -> Result<Self, Assembly> {
        let id = superblock.store;
        let index_fault = |parts: Parts, lock, why: String| {
            let superblock = (superblock.clone(), superblock_damage.clone());
            Assembly::Index(Box::new(IndexFault { parts, superblock, lock, why }))
        };
        let log_options = crate::log::LogOptions { segment_bytes: superblock.segment_bytes, ..options.log() };
        if base::wanted(&*parts.index, &*parts.disk) {
            base::load(&parts, id, log_options)?;
        }
        let flushed = parts.index.flushed_lsn();
        let mut state = match load_state(&*parts.index, id) {
            Ok(state) => state,
            Err(e) if flushed > Lsn::new(0) => return Err(index_fault(parts, lock, e.to_string())),
            Err(e) => return Err(e.into()),
        };
        let index: Arc<dyn Index> =
            Arc::new(CachedIndex::new(Arc::clone(&parts.index), CACHED, options.row_cache_bytes));
        let memtable_bytes = options.memtable_bytes;
        let from = if planted(Bug::ReplayTooLate) { flushed.next() } else { flushed };
        let mut next = from.next();
        let opened = with_flusher(&*index, options.background, |rotated| {
            Log::open(
                Arc::clone(&parts.disk),
                id,
                log_options,
                Arc::clone(&parts.clock),
                Arc::clone(&parts.random),
                from,
                &mut |record| {
                    if record.flags & flags::MOVED == 0 {
                        if record.lsn > next {
                            let l = &record.location;
                            let why = format!("records {next} to before {} are missing", record.lsn);
                            return Err(Damage::segment(l.segment, l.offset, Some(next), why).into());
                        }
                        next = record.lsn.next();
                    }
                    if replay(&*index, &mut state, memtable_bytes, &record)? { rotated() } else { Ok(()) }
                },
            )
        });
        let (log, recovery) = match opened {
            Ok(opened) => opened,
            Err(e @ Error::Damaged(_)) if flushed > Lsn::new(0) => {
                return Err(index_fault(parts, lock, e.to_string()));
            }
            Err(e) => return Err(e.into()),
        };
        if recovery.last_lsn < flushed {
            let why = format!("it covers LSN {flushed}, but the log ends at {}", recovery.last_lsn);
            return Err(index_fault(parts, lock, why));
        }
        if next <= recovery.last_lsn {
            let why = format!("records {next} to {} are missing", recovery.last_lsn);
            let damage = recovery.damages.last();
            let (segment, at) = damage.map_or((None, 0), |d| (d.place.segment, d.place.offset));
            let damage = Damage::segment(segment.unwrap_or(SegmentId::FIRST), at, Some(next), why);
            return Err(Error::from(damage).into());
        }
        let stores = RwLock::new(Arc::clone(&state.stores));
        let mut store = Self {
            id,
            path: path.to_owned(),
            options,
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
            base: Mutex::new(None),
            retention: Mutex::default(),
            keeper: Mutex::default(),
            rounds: (Mutex::new(0), Condvar::new()),
            recovered: Recovered { log: recovery, rebuilt, superblock_damage, minted: 0 },
            _lock: lock,
        };
        // Without space for it, what was interrupted stays as it is until the next opening.
        match store.finish_interrupted().and_then(|n| store.finish_exchange().map(|()| n)) {
            Ok(minted) => store.recovered.minted = minted,
            Err(e @ Error::NoSpace { .. }) => tracing::warn!("{e}"),
            Err(e) => return Err(e.into()),
        }
        Ok(store)
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
                if self.commit_flagged(ino, version_flags::INTERRUPTED)?.1.is_some() {
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

/// Why a store could not be put together: the index is at fault and can be replaced, or something else.
enum Assembly {
    Index(Box<IndexFault>),
    Other(Box<Error>),
}

/// The index can't be used; everything else can, with another one.
struct IndexFault {
    parts: Parts,
    superblock: (Superblock, Vec<String>),
    lock: Box<dyn Send + Sync>,
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

pub(super) fn read_superblock(disk: &dyn Disk, path: &Path) -> Result<(Superblock, Vec<String>)> {
    let not = |why: String| Error::NotAStore { path: path.to_owned(), why };
    let file = match disk.open(Path::new(SUPERBLOCK), false) {
        Ok(file) => file,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            return Err(not(format!("it has no file {SUPERBLOCK}; `segfs init` makes a store")));
        }
        Err(e) => return Err(Error::io("opening STORE", e)),
    };
    let mut bytes = vec![0; 8192];
    let n = file.read_at(&mut bytes, 0).map_err(|e| Error::io("reading STORE", e))?;
    let copy = |i: usize| bytes.get(i * 4096..((i + 1) * 4096).min(n)).unwrap_or_default();
    let (best, wrong) = Superblock::choose(copy(0), copy(1));
    let damage = wrong.iter().enumerate().filter_map(|(i, w)| w.map(|w| format!("copy {i}: {w}"))).collect();
    let Some(superblock) = best else { return Err(not(format!("both copies in {SUPERBLOCK} are damaged"))) };
    let newer = if superblock.version > crate::format::VERSION {
        Some(format!(
            "it has format version {}, this program knows {}",
            superblock.version,
            crate::format::VERSION
        ))
    } else if superblock.incompatible | superblock.read_only_compatible != 0 {
        let bits = superblock.incompatible | superblock.read_only_compatible;
        Some(format!("it uses features that this program does not know ({bits:#x})"))
    } else {
        None
    };
    if let Some(what) = newer {
        return Err(Error::Newer { path: PathBuf::from(path), what });
    }
    Ok((superblock, damage))
}

pub(super) fn take_lock(disk: &dyn Disk, path: &Path) -> Result<Box<dyn Send + Sync>> {
    let holder = format!("process {}", std::process::id());
    disk.lock(Path::new(LOCK), &holder).map_err(|e| {
        if e.kind() == std::io::ErrorKind::WouldBlock {
            Error::InUse { path: path.to_owned(), holder: e.to_string() }
        } else {
            Error::io("locking LOCK", e)
        }
    })
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
            if index.waiting_memtables() > 3 { index.flush() } else { Ok(()) }
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
    let Some(head) = &record.head else { return Ok(()) };
    let place = crate::format::Location::from(record.location);
    if record.flags & flags::MOVED != 0 {
        return txn.put(key::moved(record.lsn), &place, Keep::Amend);
    }
    // Bytes that are only stored may come before anything else of their store.
    let detached = record.kind == Kind::Extent && record.flags & flags::DETACHED != 0;
    let number = state.number(head.origin.store).or(detached.then_some(0)).ok_or_else(|| {
        let why = format!("store {} has no number yet", head.origin.store);
        Damage::segment(record.location.segment, record.location.offset, Some(record.lsn), why)
    })?;
    let stamp = Stamp { hlc: head.stamp, store: number };
    match record.kind {
        Kind::Extent if record.flags & flags::DETACHED != 0 => {
            let id = crate::format::facts::ExtentId {
                store: head.origin.store,
                incarnation: head.origin.incarnation,
                sequence: head.origin.seq,
            };
            txn.put(key::extent(&id), &ExtentRow { extent: record.lsn, location: place }, Keep::Amend)
        }
        Kind::Extent => {
            Apply { txn, state, stamp, part: 0, created: None }.extent(head.object, head.arg, place)
        }
        Kind::Operation => {
            let facts: Vec<Fact> = crate::format::code::decode(record.payload).map_err(|e| {
                Damage::segment(record.location.segment, record.location.offset, Some(record.lsn), e.0)
            })?;
            if record.flags & flags::FOREIGN != 0 {
                let o = head.origin;
                txn.put(key::held(o.store, o.incarnation, o.seq), &record.lsn, Keep::Amend)?;
            } else if head.origin.seq > 0 {
                note_own(txn, state, head.origin.incarnation, head.origin.seq)?;
            }
            Apply { txn, state, stamp, part: 0, created: None }.facts(&facts)
        }
        Kind::Base | Kind::BatchEnd | Kind::Footer => Ok(()),
    }
}

/// Every so many facts batches made here, where they are is noted.
const NOTE_EVERY: u64 = 64;

/// Notes a facts batch made here, so that those that another store lacks are found later.
pub(super) fn note_own(
    txn: &mut Txn<'_>,
    state: &mut State,
    incarnation: Incarnation,
    seq: u64,
) -> Result<()> {
    let m = &mut state.meta;
    if m.incarnation != incarnation.get() && m.sequence > 0 {
        txn.put(key::own(Incarnation::new(m.incarnation), m.sequence), &m.sequence_at, Keep::Amend)?;
    }
    (m.incarnation, m.sequence, m.sequence_at) = (incarnation.get(), seq, txn.lsn());
    if seq % NOTE_EVERY == 1 {
        txn.put(key::own(incarnation, seq), &txn.lsn(), Keep::Amend)?;
    }
    Ok(())
}
