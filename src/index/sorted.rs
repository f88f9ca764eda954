//! The index on disk, over the `lsm-tree` crate.
//!
//! The crate has no log; it takes sequence numbers from its caller and does its own I/O. How it is used here:
//!
//! - **Sequence numbers** come from one counter, shared with the crate, which takes one for each new version of
//!   its manifest. One record's changes share a number. A reader takes the number `visible`, which moves only
//!   behind a whole record, and sees what is below it. (The LSN can't be that number: the crate would have to take
//!   LSNs for its own use.)
//! - **Old values** of a row are dropped in merging if they are below a watermark, and so are the crate's old
//!   manifests, which a reader with an old number needs. So a merge first waits until no reader holds a number
//!   below the watermark (`reading`). Once a walk has begun, its snapshot holds what it needs.
//! - **Removals** are stepped over by walks until they reach the last level; walks go around long runs of them (`holes`).
//! - **Rotated memtables** are written one by one, so that none is written whose LSNs are not durable in the log.
//!   The row F is in the memtable itself, hence in the same table, published by the same manifest.
//! - **Panics** of the crate, which uses them for some kinds of damage, are caught and become errors. After one
//!   the index is broken: it answers nothing more.

use std::{
    any::Any,
    collections::VecDeque,
    fs, io,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering::Acquire, Ordering::Release},
    },
};

use lsm_tree::{
    AbstractTree as _, AnyTree, Cache, CompressionType, Config, Guard as _, InternalValue, Memtable, SeqNo,
    SequenceNumberCounter, Slice, Table, ValueType,
    compaction::{CompactionFilter, Factory, ItemAccessor, Leveled, Verdict, filter::Context},
    config::{
        BlockSizePolicy, BloomConstructionPolicy, CompressionPolicy, FilterPolicy, FilterPolicyEntry,
        PinningPolicy,
    },
};
use parking_lot::{Mutex, RwLock};

use super::{
    Change, F_KEY, Index, IndexStats, Order, Value, check_keys,
    holes::{Holes, Run, Runs},
    unfinished::Unfinished,
    visible_range,
};
use crate::base::{Damage, Error, Lsn, Result};

/// Size at which a merge begins another table, in bytes.
const TABLE_BYTES: u64 = 4 << 20;
/// Size of a block, the unit of reading and caching, in bytes. It ends with the row that reaches this, and has headers in memory: so that
/// it takes 4096 bytes from the allocator there, and not the next size, which is a fourth more.
const BLOCK_BYTES: u32 = 3900;
/// Bits of bloom filter for each key.
const BLOOM_BITS: f32 = 10.0;
/// Tables in level 0 from which on a flush merges first, since reads slow down.
const LEVEL_0_RUNS: usize = 24;
/// Tables in level 0 with which nothing more is flushed: the crate's manifest counts them in one byte, and doesn't
/// notice when that overflows.
const LEVEL_0_RUNS_MAX: usize = 128;
/// Removals on disk below which nobody minds them.
const TOMBSTONES_MIN: u64 = 100_000;
/// Everything is merged once removals are more than one in so many rows on disk: they take space, and cover rows that take more.
const TOMBSTONE_SHARE: u64 = 16;
/// Removals one after the other around which walks go; fewer are stepped over as quickly.
const RUN: u64 = 512;

/// Sorted rows in a directory.
pub struct SortedIndex {
    path: PathBuf,
    tree: AnyTree,
    cache: Arc<Cache>,
    levels: Arc<Leveled>,
    table_bytes: u64,
    /// The next sequence number; the crate takes from it too.
    numbers: SequenceNumberCounter,
    /// Readers see what is below this number.
    visible: AtomicU64,
    /// Held shared while a reader has a number and no snapshot of its own yet.
    reading: RwLock<()>,
    writer: Mutex<Writer>,
    waiting: Mutex<VecDeque<Waiting>>,
    /// One flush at a time.
    flushing: Mutex<()>,
    /// One merge at a time.
    merging: Mutex<()>,
    flushed: AtomicU64,
    /// Set for good when the index is about to be closed.
    interrupted: Interrupt,
    /// Says what broke the index.
    broken: OnceLock<String>,
    unfinished: Unfinished,
    holes: Holes,
    /// Removals one after the other that are worth a hole.
    run: u64,
}

struct Writer {
    active: Arc<Memtable>,
    /// Removals in it.
    removals: u64,
    rotated: Lsn,
}

/// A rotated memtable that covers everything up to `lsn`.
struct Waiting {
    lsn: Lsn,
    memtable: Arc<Memtable>,
}

impl SortedIndex {
    /// Opens the index in the directory `path`, or makes an empty one there; `cache_bytes` bounds the blocks kept
    /// in memory.
    ///
    /// # Errors
    /// [`Error::Damaged`] means that it can't be used: [`destroy`] it, and build it again from the log.
    pub fn open(path: &Path, cache_bytes: u64) -> Result<Self> {
        Self::open_with_tables_of(path, cache_bytes, TABLE_BYTES)
    }

    /// As [`open`](Self::open), with another size at which a merge begins another table: a small one makes many
    /// levels of few rows.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_with_tables_of(path: &Path, cache_bytes: u64, table_bytes: u64) -> Result<Self> {
        check_directory(path)?;
        let numbers = SequenceNumberCounter::new(1);
        let cache = Arc::new(Cache::with_capacity_bytes(cache_bytes));
        let interrupted = Interrupt::default();
        let config = config(path, &numbers, &cache)
            .with_compaction_filter_factory(Some(Arc::new(interrupted.clone())));
        let (tree, next, flushed) = caught(|| {
            let tree = config.open()?;
            let next = tree.get_highest_seqno().map_or(1, |n| n + 1);
            let flushed = tree.get(F_KEY, SeqNo::MAX)?;
            Ok((tree, next, flushed))
        })
        .map_err(|failure| failure.at(path, "open"))?;
        let flushed = match flushed.as_deref().map(<[u8; 8]>::try_from) {
            Some(Ok(bytes)) => Lsn::new(u64::from_le_bytes(bytes)),
            None if tree.table_count() == 0 => Lsn::new(0),
            _ => return Err(damaged(path, "no row says which LSN it covers")),
        };
        numbers.set(next);
        let active = tree.active_memtable();
        // Small tables are for tests, of few rows.
        let run = RUN.min(table_bytes / 8192).max(4);
        let holes = Holes::default();
        holes.suspect(caught(|| Ok(emptied(&tree, run))).map_err(|failure| failure.at(path, "open"))?);
        Ok(Self {
            holes,
            run,
            path: path.to_path_buf(),
            cache,
            levels: Arc::new(Leveled::default().with_table_target_size(table_bytes)),
            table_bytes,
            numbers,
            visible: AtomicU64::new(next),
            reading: RwLock::new(()),
            writer: Mutex::new(Writer { active, removals: 0, rotated: flushed }),
            waiting: Mutex::default(),
            flushing: Mutex::default(),
            merging: Mutex::default(),
            flushed: AtomicU64::new(flushed.get()),
            interrupted,
            broken: OnceLock::new(),
            unfinished: Unfinished::default(),
            tree,
        })
    }

    /// Runs something of the crate's, unless the index is broken; a panic breaks it.
    fn call<T>(&self, what: &str, run: impl FnOnce() -> lsm_tree::Result<T>) -> Result<T> {
        if let Some(why) = self.broken.get() {
            return Err(damaged(&self.path, why.clone()));
        }
        caught(run).map_err(|failure| {
            if let Failure::Panic(why) = &failure {
                _ = self.broken.set(why.clone());
            }
            failure.at(&self.path, what)
        })
    }

    /// As [`call`](Self::call), of what writes tables.
    fn writing<T>(&self, what: &str, run: impl FnOnce() -> lsm_tree::Result<T>) -> Result<T> {
        self.unfinished.begin(&self.tree);
        let done = self.call(what, run);
        self.unfinished.end(&self.tree, &self.path, matches!(done, Err(Error::NoSpace { .. })));
        done
    }

    /// The number below which no reader needs old values any more. Waits for readers that hold older numbers.
    fn watermark(&self) -> SeqNo {
        {
            let _writer = self.writer.lock();
            self.visible.store(self.numbers.get(), Release);
        }
        let _nobody_reads = self.reading.write();
        self.visible.load(Acquire)
    }

    /// Merges until level 0 has room for another table.
    fn make_room(&self) -> Result<()> {
        let runs = || self.call("flush", || Ok(self.tree.l0_run_count()));
        while runs()? >= LEVEL_0_RUNS {
            match self.compact() {
                Ok(true) => {}
                // Merging needs more room than one table more.
                Ok(false) | Err(Error::NoSpace { .. }) => break,
                Err(e) => return Err(e),
            }
        }
        if runs()? >= LEVEL_0_RUNS_MAX {
            return Err(damaged(&self.path, "merging can't keep up"));
        }
        Ok(())
    }

    /// One step of merging; says whether there was anything to do.
    fn merge(&self) -> Result<bool> {
        let watermark = self.watermark();
        let merged = self.writing("merge", || {
            let before = self.tree.current_version().id();
            self.tree.compact(Arc::clone(&self.levels) as _, watermark)?;
            Ok(self.tree.current_version().id() != before)
        })?;
        let stats = self.stats();
        if merged {
            return Ok(true);
        }
        if stats.tombstones < TOMBSTONES_MIN || stats.tombstones < stats.disk_rows / TOMBSTONE_SHARE {
            return self.look_for_holes();
        }
        self.writing("merge", || self.tree.major_compact(self.table_bytes, watermark))?;
        Ok(true)
    }

    /// Looks at one run of removals, whether rows are left there; says whether there was one.
    fn look_for_holes(&self) -> Result<bool> {
        let begun = {
            // Every row is visible, or kept for this look once it is put.
            let _writer = self.writer.lock();
            self.holes.begin()
        };
        let Some(run) = begun else { return Ok(false) };
        let mut rows = Vec::new();
        // With many rows in between there is little to go around.
        let most = (run.removals / self.run) as usize;
        let mut number = 0;
        let end = [&*run.last, &[0]].concat();
        let looked = self.walk_around(&run.first, &end, Order::Forward, &mut number, &mut |key, _| {
            rows.push(Box::from(key));
            rows.len() <= most && !self.interrupted.is_set()
        });
        let whole = looked.is_ok() && rows.len() <= most && !self.interrupted.is_set();
        self.holes.end(&run, whole.then_some((&rows, number)));
        looked.map(|()| true)
    }

    /// As [`walk`](Index::walk), with the number of this reader.
    fn walk_around(
        &self,
        start: &[u8],
        end: &[u8],
        order: Order,
        number: &mut SeqNo,
        visit: &mut dyn FnMut(&[u8], &Value) -> bool,
    ) -> Result<()> {
        let Some((start, end)) = visible_range(start, end) else { return Ok(()) };
        let mut parts: VecDeque<_> = self.call("read", || {
            // All of them see one moment: what is between two of them does not show in it.
            let _reading = self.reading.read();
            *number = self.visible.load(Acquire);
            let parts = self.holes.around(start, end, *number);
            Ok(parts.into_iter().map(|(a, b)| self.tree.range(a..b, *number, None)).collect())
        })?;
        loop {
            let rows = match order {
                Order::Forward => parts.front_mut(),
                Order::Back => parts.back_mut(),
            };
            let Some(rows) = rows else { return Ok(()) };
            let row = self.call("read", || {
                let row = match order {
                    Order::Forward => rows.next(),
                    Order::Back => rows.next_back(),
                };
                row.map(|row| row.into_inner()).transpose()
            })?;
            match (row, order) {
                (Some((key, value)), _) => {
                    if !visit(&key, &Value(value)) {
                        return Ok(());
                    }
                }
                (None, Order::Forward) => _ = parts.pop_front(),
                (None, Order::Back) => _ = parts.pop_back(),
            }
        }
    }

    /// Publishes one memtable as tables.
    fn write_out(&self, memtable: &Memtable) -> Result<()> {
        let watermark = self.watermark();
        self.writing("flush", || {
            // Rows come with their newest value first; all of them are visible to every reader since the rotation.
            let mut previous: Option<Slice> = None;
            let mut runs = Runs::of_at_least(self.run);
            let newest = memtable.iter().filter(|item| {
                let new = previous.as_ref() != Some(&item.key.user_key);
                if new {
                    previous = Some(item.key.user_key.clone());
                    runs.see(&item.key.user_key, item.is_tombstone());
                }
                new
            });
            if let Some((tables, blobs)) = self.tree.flush_to_tables(newest.map(Ok))? {
                self.tree.register_tables(&tables, blobs.as_deref(), None, &[memtable.id()], watermark)?;
            }
            self.holes.suspect(runs.done());
            Ok(())
        })?;
        // Forget the manifest that still holds the memtable.
        let watermark = self.watermark();
        self.call("flush", || self.tree.get_version_history_lock().maintenance(&self.path, watermark))
    }
}

impl Index for SortedIndex {
    fn get(&self, key: &[u8]) -> Result<Option<Value>> {
        self.call("read", || {
            let _reading = self.reading.read();
            Ok(self.tree.get(key, self.visible.load(Acquire))?.map(Value))
        })
    }

    fn apply(&self, _lsn: Lsn, changes: &[Change]) -> Result<()> {
        check_keys(changes)?;
        let mut writer = self.writer.lock();
        let number = self.numbers.next();
        writer.removals += changes.iter().filter(|c| c.value.is_none()).count() as u64;
        for Change { key, value } in changes {
            writer.active.insert(match value {
                Some(value) => {
                    InternalValue::from_components(key.as_slice(), value.as_slice(), number, ValueType::Value)
                }
                None => InternalValue::new_tombstone(key.as_slice(), number),
            });
        }
        // Who sees them goes around no hole where they are.
        self.holes.put(changes);
        self.visible.store(number + 1, Release);
        Ok(())
    }

    fn walk(
        &self,
        start: &[u8],
        end: &[u8],
        order: Order,
        visit: &mut dyn FnMut(&[u8], &Value) -> bool,
    ) -> Result<()> {
        self.walk_around(start, end, order, &mut 0, visit)
    }

    fn unflushed_bytes(&self) -> u64 {
        self.writer.lock().active.size()
    }

    fn unflushed_removals(&self) -> u64 {
        self.writer.lock().removals
    }

    fn rotate(&self, lsn: Lsn) -> Result<()> {
        let mut writer = self.writer.lock();
        if writer.active.is_empty() && lsn <= writer.rotated {
            return Ok(());
        }
        let number = self.numbers.next();
        let f = InternalValue::from_components(F_KEY, lsn.get().to_le_bytes(), number, ValueType::Value);
        writer.active.insert(f);
        let memtable = self.call("rotate", || Ok(self.tree.rotate_memtable()))?;
        let memtable = memtable.expect("the row F is in it");
        self.visible.store(number + 1, Release);
        writer.active = self.call("rotate", || Ok(self.tree.active_memtable()))?;
        (writer.rotated, writer.removals) = (lsn, 0);
        self.waiting.lock().push_back(Waiting { lsn, memtable });
        Ok(())
    }

    fn flush_to(&self, durable: Lsn) -> Result<()> {
        let _one_at_a_time = self.flushing.lock();
        let ready: Vec<_> = {
            let waiting = self.waiting.lock();
            waiting
                .iter()
                .take_while(|w| w.lsn <= durable)
                .map(|w| (w.lsn, Arc::clone(&w.memtable)))
                .collect()
        };
        for (lsn, memtable) in ready {
            self.make_room()?;
            self.write_out(&memtable)?;
            self.waiting.lock().pop_front();
            self.flushed.store(lsn.get(), Release);
        }
        Ok(())
    }

    fn waiting_memtables(&self) -> usize {
        self.waiting.lock().len()
    }

    fn flushed_lsn(&self) -> Lsn {
        Lsn::new(self.flushed.load(Acquire))
    }

    fn compact(&self) -> Result<bool> {
        let _one_at_a_time = self.merging.lock();
        match self.merge() {
            Err(_) if self.interrupted.is_set() && self.broken.get().is_none() => Ok(false),
            merged => merged,
        }
    }

    fn interrupt(&self) {
        self.interrupted.0.store(true, Release);
    }

    fn stats(&self) -> IndexStats {
        let on_disk = self.call("read", || {
            let version = self.tree.current_version();
            Ok(IndexStats {
                disk_bytes: version.iter_tables().map(|t| t.metadata.file_size).sum(),
                tables: version.table_count(),
                disk_rows: version.iter_tables().map(|t| t.metadata.item_count).sum(),
                tombstones: version.iter_tables().map(|t| t.tombstone_count()).sum(),
                ..IndexStats::default()
            })
        });
        let active = self.unflushed_bytes();
        let waiting = self.waiting.lock();
        IndexStats {
            cache_bytes: self.cache.size(),
            memtable_bytes: active + waiting.iter().map(|w| w.memtable.size()).sum::<u64>(),
            waiting_memtables: waiting.len(),
            ..on_disk.unwrap_or_default()
        }
    }
}

/// Tables that are mostly removals, as runs: what was written out before this opening.
fn emptied(tree: &AnyTree, least: u64) -> Vec<Run> {
    let version = tree.current_version();
    let emptied = version.iter_tables().filter(|t| {
        let removals = t.tombstone_count();
        removals >= least && 2 * removals >= t.metadata.item_count
    });
    let run = |t: &Table| {
        let range = &t.metadata.key_range;
        Run { first: range.min()[..].into(), last: range.max()[..].into(), removals: t.tombstone_count() }
    };
    emptied.map(run).collect()
}

/// Looks at every row that a merge passes, and stops the merge once it is set. What the merge wrote so far is not
/// in a manifest; the next opening deletes it.
#[derive(Clone, Default)]
struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    fn is_set(&self) -> bool {
        self.0.load(Acquire)
    }
}

impl Factory for Interrupt {
    fn name(&self) -> &str {
        "interrupt"
    }

    fn make_filter(&self, _: &Context) -> Box<dyn CompactionFilter> {
        Box::new(self.clone())
    }
}

impl CompactionFilter for Interrupt {
    fn filter_item(&mut self, _: ItemAccessor<'_>, _: &Context) -> lsm_tree::Result<Verdict> {
        if self.is_set() {
            return Err(io::Error::from(io::ErrorKind::Interrupted).into());
        }
        Ok(Verdict::Keep)
    }
}

fn config(path: &Path, numbers: &SequenceNumberCounter, cache: &Arc<Cache>) -> Config {
    // The crate moves its `visible` counter when it makes a manifest, also in the middle of a record of ours: it
    // gets one that nobody looks at.
    Config::new(path, numbers.clone(), SequenceNumberCounter::default())
        .use_cache(Arc::clone(cache))
        .data_block_size_policy(BlockSizePolicy::all(BLOCK_BYTES))
        .data_block_compression_policy(CompressionPolicy::new([CompressionType::None, CompressionType::Lz4]))
        .filter_policy(FilterPolicy::all(FilterPolicyEntry::Bloom(BloomConstructionPolicy::BitsPerKey(
            BLOOM_BITS,
        ))))
        // Filters and block indexes in pieces that the cache bounds, instead of whole ones pinned for each table; but
        // for the few small tables of level 0, which a lookup asks one after the other: there they are whole and stay.
        .filter_block_partitioning_policy(PinningPolicy::new([false, true]))
        .index_block_partitioning_policy(PinningPolicy::new([false, true]))
        .filter_block_pinning_policy(PinningPolicy::new([true, false]))
        .index_block_pinning_policy(PinningPolicy::new([true, false]))
}

/// Deletes an index directory, whatever is in it, so that an interruption leaves nothing that opens.
pub fn destroy(path: &Path) -> Result<()> {
    let failed = |e| Error::io(format!("deleting {}", path.display()), e);
    let gone = |r: io::Result<()>| match r {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        r => r.map_err(failed),
    };
    match fs::symlink_metadata(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(failed(e)),
        Ok(meta) if meta.is_dir() => {
            // Without its pointer the rest is refused.
            gone(remove_file(&path.join(POINTER)))?;
            gone(fs::remove_dir_all(path))?;
        }
        Ok(_) => gone(remove_file(path))?,
    }
    Ok(())
}

/// Gives an index directory another name, in the place of whatever had that name. One that is not there is fine.
///
/// # Errors
/// What the system says.
#[allow(clippy::disallowed_methods)] // as below
pub fn set_aside(path: &Path, aside: &Path) -> Result<()> {
    destroy(aside)?;
    match fs::rename(path, aside) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            Err(Error::io(format!("renaming {}", path.display()), e))
        }
        _ => Ok(()),
    }
}

/// The crate's file that names its manifest: number (8 bytes), checksum of the manifest (16), kind of checksum (1).
const POINTER: &str = "current";

#[allow(clippy::disallowed_methods)] // the crate does its own I/O too: this room is outside the Disk trait
fn remove_file(path: &Path) -> io::Result<()> {
    fs::remove_file(path)
}

/// What the crate does not look at when it opens a directory: it takes one without a pointer for a new one, and
/// does not check its manifest's checksum.
fn check_directory(path: &Path) -> Result<()> {
    let failed = |e| Error::io(format!("opening {}", path.display()), e);
    let entries = match fs::read_dir(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) if e.kind() == io::ErrorKind::NotADirectory => {
            return Err(damaged(path, "not a directory"));
        }
        entries => entries.map_err(failed)?,
    };
    let pointer = match fs::read(path.join(POINTER)) {
        Ok(pointer) => pointer,
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            return match entries.count() {
                0 => Ok(()),
                _ => Err(damaged(path, "files without a pointer to a manifest")),
            };
        }
        Err(e) => return Err(failed(e)),
    };
    let Ok(pointer): Result<[u8; 25], _> = pointer.try_into() else {
        return Err(damaged(path, "the pointer to the manifest is not 25 bytes"));
    };
    let id = u64::from_le_bytes(pointer[..8].try_into().expect("8 bytes"));
    let manifest = match fs::read(path.join(format!("v{id}"))) {
        Ok(manifest) => manifest,
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            return Err(damaged(path, format!("manifest v{id} is missing")));
        }
        Err(e) => return Err(failed(e)),
    };
    let mut hasher = lsm_tree::checksum::ChecksummedWriter::new(io::sink());
    io::Write::write_all(&mut hasher, &manifest).map_err(failed)?;
    if hasher.checksum().into_u128().to_le_bytes() != pointer[8..24] || pointer[24] != 0 {
        return Err(damaged(path, format!("manifest v{id} is not what was written")));
    }
    Ok(())
}

fn damaged(path: &Path, why: impl Into<String>) -> Error {
    Damage::file(path, 0, why).into()
}

/// How a call into the crate went wrong.
enum Failure {
    Error(lsm_tree::Error),
    Panic(String),
}

impl Failure {
    fn at(self, path: &Path, what: &str) -> Error {
        match self {
            // What an index of whole files never answers is damage; what the machine answers is not.
            Self::Error(lsm_tree::Error::Io(e))
                if !matches!(
                    e.kind(),
                    io::ErrorKind::NotFound
                        | io::ErrorKind::UnexpectedEof
                        | io::ErrorKind::InvalidData
                        | io::ErrorKind::InvalidInput
                        | io::ErrorKind::AlreadyExists
                ) =>
            {
                Error::io(format!("{what} of index {}", path.display()), e)
            }
            Self::Error(e) => damaged(path, format!("{what} of the index: {e}")),
            Self::Panic(why) => damaged(path, format!("{what} of the index: {why}")),
        }
    }
}

fn caught<T>(run: impl FnOnce() -> lsm_tree::Result<T>) -> Result<T, Failure> {
    match catch_unwind(AssertUnwindSafe(run)) {
        Ok(result) => result.map_err(Failure::Error),
        Err(panic) => Err(Failure::Panic(panic_message(&*panic))),
    }
}

fn panic_message(panic: &(dyn Any + Send)) -> String {
    let message = panic.downcast_ref::<&str>().copied().map(str::to_owned);
    message.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "panicked".to_owned())
}

#[cfg(test)]
mod tests {
    use super::{super::holes::Stretch, *};

    fn key(n: u64) -> Vec<u8> {
        format!("d/f{n:07}").into_bytes()
    }

    fn settle(index: &SortedIndex, lsn: u64) {
        index.rotate(Lsn::new(lsn)).unwrap();
        index.flush().unwrap();
        while index.compact().unwrap() {}
    }

    /// Rows and removals that a walk over all of the directory steps over, and those that are there.
    fn stepped(index: &SortedIndex) -> (u64, u64) {
        let version = index.tree.current_version();
        let count = |parts: Vec<Stretch>| -> u64 {
            let within = |t: &Table| {
                parts
                    .iter()
                    .map(|(a, b)| t.range(Slice::from(&**a)..Slice::from(&**b)).count() as u64)
                    .sum::<u64>()
            };
            version.iter_tables().map(within).sum()
        };
        let around = index.holes.around(b"d/", b"d0", index.visible.load(Acquire));
        (count(around), count(vec![(b"d/"[..].into(), b"d0"[..].into())]))
    }

    #[test]
    fn a_walk_reads_nothing_of_what_was_removed() {
        // Few enough for everything not to be merged because of them.
        const ROWS: u64 = 60_000;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("index");
        let index = SortedIndex::open(&path, 1 << 20).unwrap();
        let apply =
            |index: &SortedIndex, lsn: u64, changes: &[Change]| index.apply(Lsn::new(lsn), changes).unwrap();
        let put: Vec<_> = (0..ROWS).map(|n| Change::put(key(n), "x")).collect();
        apply(&index, 1, &put);
        apply(&index, 2, &[Change::put("d/a", "first"), Change::put("d/z", "last")]);
        // Others, among which the removals are few.
        let others: Vec<_> = (0..ROWS).map(|n| Change::put(format!("e{n}"), "y")).collect();
        apply(&index, 3, &others);
        settle(&index, 3);
        apply(&index, 4, &(0..ROWS).map(|n| Change::remove(key(n))).collect::<Vec<_>>());
        settle(&index, 4);
        let (read, there) = stepped(&index);
        assert!(there > 1000, "they are gone by themselves: {there}");
        assert!(read <= 4, "{read} of {there}");
        let names = |index: &SortedIndex| -> Vec<String> {
            let both = [Order::Forward, Order::Back].map(|order| {
                let mut found = Vec::new();
                index
                    .walk(b"d/", b"d0", order, &mut |k, _| {
                        found.push(String::from_utf8_lossy(k).into_owned());
                        true
                    })
                    .unwrap();
                found
            });
            let mut back = both[1].clone();
            back.reverse();
            assert_eq!(both[0], back);
            back
        };
        assert_eq!(names(&index), ["d/a", "d/z"]);
        // What comes into the middle of it is there at once.
        apply(&index, 5, &[Change::put(key(777), "new"), Change::put("d/f", "")]);
        assert_eq!(names(&index), ["d/a", "d/f", "d/f0000777", "d/z"]);
        assert!(stepped(&index).0 <= 4);
        // Another opening looks for itself.
        settle(&index, 5);
        drop(index);
        let index = SortedIndex::open(&path, 1 << 20).unwrap();
        while index.compact().unwrap() {}
        assert_eq!(names(&index), ["d/a", "d/f", "d/f0000777", "d/z"]);
        let (read, there) = stepped(&index);
        assert!(read <= 8 && there > 1000, "{read} of {there}");
    }

    /// Rows move from one place to another, many at a time and from one end of what was emptied to the other, while others walk: each
    /// walk sees all of them.
    #[test]
    fn no_walk_misses_a_row_because_of_a_hole() {
        const ROWS: u64 = 4000;
        const THERE: u64 = 100;
        let dir = tempfile::tempdir().unwrap();
        let index = SortedIndex::open_with_tables_of(&dir.path().join("index"), 1 << 20, 4096).unwrap();
        let all: Vec<_> = (0..THERE).map(|n| Change::put(key(n), n.to_le_bytes())).collect();
        index.apply(Lsn::new(1), &all).unwrap();
        let over = AtomicBool::new(false);
        let around = AtomicU64::new(0);
        std::thread::scope(|s| {
            for order in [Order::Forward, Order::Back] {
                let (index, over, around) = (&index, &over, &around);
                s.spawn(move || {
                    while !over.load(Acquire) {
                        let mut seen = 0;
                        let mut number = 0;
                        index
                            .walk_around(b"d/", b"d0", order, &mut number, &mut |_, _| {
                                seen += 1;
                                true
                            })
                            .unwrap();
                        assert_eq!(seen, THERE);
                        let parts = index.holes.around(b"d/", b"d0", number);
                        around.fetch_add(u64::from(parts.len() > 1), Release);
                    }
                });
            }
            s.spawn(|| {
                while !over.load(Acquire) {
                    index.flush().unwrap();
                    index.compact().unwrap();
                }
            });
            let mut at: Vec<u64> = (0..THERE).collect();
            let mut dice = 1_u64;
            for lsn in 2..3000 {
                let mut changes = Vec::new();
                dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let first = (dice >> 33) % THERE;
                for n in first..(first + 20).min(THERE) {
                    changes.push(Change::remove(key(at[n as usize])));
                    at[n as usize] = n + THERE * ((dice >> 40) % (ROWS / THERE));
                    changes.push(Change::put(key(at[n as usize]), "x"));
                }
                index.apply(Lsn::new(lsn), &changes).unwrap();
                if lsn.is_multiple_of(20) {
                    index.rotate(Lsn::new(lsn)).unwrap();
                }
            }
            over.store(true, Release);
        });
        assert!(around.load(Acquire) > 10, "no walk went around anything");
    }
}
