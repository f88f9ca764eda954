//! Looking into a store from outside, without opening it: nothing in its directory changes.
//!
//! While no process holds the store, an [`Inspection`] keeps writers out and reads everything. While one does, it
//! reads the log up to its durable mark, never the index, and what only the index knows is replayed in memory.

mod census;
mod check;
mod held;
#[cfg(test)]
mod tests;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

pub use census::{Census, Tally};
pub use check::{Difference, HashCheck, IndexCheck, Unlike};
pub use held::{Digest, KindDigest};

use super::{
    base::fill,
    open::{INDEX, LOCK, SUPERBLOCK, load_state, replay, take_lock},
    superblock,
};
use crate::{
    base::{Damage, Error, Lsn, Result, StoreId, SystemRandom},
    disk::{Disk, Engine, RealDisk},
    format::{
        Kind, Superblock, flags,
        rows::{key, kind},
    },
    index::{Change, Index, IndexView, MemoryIndex, SortedIndex},
    log::{Reach, Survey},
};

/// Bytes of index blocks kept in memory.
const CACHE_BYTES: u64 = 32 << 20;
/// Bytes of changed rows kept in memory before they are written out.
const MEMTABLE_BYTES: u64 = 32 << 20;
/// The most bytes of rows that are replayed into memory, where nothing may be written.
const REPLAY_BYTES: u64 = 512 << 20;
/// Where a new index is built.
const NEW_INDEX: &str = "index.new";

/// Told how much is done, and of how much.
pub type Progress<'a> = &'a dyn Fn(u64, u64);

/// A store, looked at.
pub struct Inspection {
    path: PathBuf,
    disk: Arc<dyn Disk>,
    superblock: Superblock,
    /// Damaged copies of the superblock.
    pub superblock_damage: Vec<String>,
    holder: Option<String>,
    log: Survey,
    _lock: Option<Box<dyn Send + Sync>>,
}

/// The rows of the store as of the last record that counts.
pub struct Rows {
    index: Arc<dyn Index>,
    /// Damage that was met when they were replayed.
    pub damages: Vec<Damage>,
    _view: Option<IndexView>,
}

impl Rows {
    /// The rows.
    #[must_use]
    pub fn index(&self) -> &dyn Index {
        &*self.index
    }
}

impl Inspection {
    /// Looks at the store in a directory.
    ///
    /// # Errors
    /// [`Error::NotAStore`], [`Error::Newer`], [`Error::Damaged`] if nothing of it can be read, or what the system says.
    pub fn open(path: &Path) -> Result<Self> {
        Self::open_held(path, Reach::Durable(Lsn::new(0)))
    }

    /// As [`open`](Self::open); if a process holds the store, its log is read as far as `reach` says. An LSN in that has to be where a batch
    /// ends: a batch that goes on behind it is left out.
    ///
    /// # Errors
    /// As of [`open`](Self::open).
    pub fn open_held(path: &Path, reach: Reach) -> Result<Self> {
        let disk = open_disk(path)?;
        let (superblock, superblock_damage) = superblock_of(&*disk, path, false)?;
        let (lock, holder) = match disk.lock_shared(Path::new(LOCK)) {
            Ok(lock) => (lock, None),
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => (None, Some(e.to_string())),
            Err(e) => return Err(Error::io(format!("locking {}", path.join(LOCK).display()), e)),
        };
        let log = match holder {
            Some(_) => Survey::of_held(Arc::clone(&disk), superblock.store, reach)?,
            None => Survey::of_closed(Arc::clone(&disk), superblock.store, false, superblock.closed_lsn)?,
        };
        Ok(Self { path: path.into(), disk, superblock, superblock_damage, holder, log, _lock: lock })
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> StoreId {
        self.superblock.store
    }

    /// What its superblock says.
    #[must_use]
    pub fn superblock(&self) -> &Superblock {
        &self.superblock
    }

    /// Who has it open, if somebody has.
    #[must_use]
    pub fn holder(&self) -> Option<&str> {
        self.holder.as_deref()
    }

    /// The log.
    #[must_use]
    pub fn log(&self) -> &Survey {
        &self.log
    }

    /// While another process has the store: has it given something back that was there when this looked?
    ///
    /// # Errors
    /// If the disk refuses.
    pub fn has_moved_on(&self) -> Result<bool> {
        self.log.has_moved_on()
    }

    fn index_path(&self) -> PathBuf {
        self.path.join(INDEX)
    }

    /// Is there an index? Not that it is of any use.
    #[must_use]
    pub fn has_index(&self) -> bool {
        self.disk.list(Path::new(INDEX)).is_ok_and(|names| !names.is_empty())
    }

    /// The index on disk, as it was flushed.
    ///
    /// # Errors
    /// [`Error::InUse`] while a process holds the store, [`Error::Damaged`] if it can't be used.
    pub fn index(&self) -> Result<IndexView> {
        if let Some(holder) = &self.holder {
            return Err(Error::InUse { path: self.path.clone(), holder: holder.clone() });
        }
        IndexView::open(&self.index_path(), CACHE_BYTES, &SystemRandom)
    }

    /// The rows as of the last record that counts: of the index and the log behind it, or of the log alone. `None`
    /// while a process holds the store and there are too many of them to replay.
    ///
    /// # Errors
    /// If the log can't be replayed.
    pub fn rows(&self, progress: Progress<'_>) -> Result<Option<Rows>> {
        let last = self.log.last_lsn();
        if self.holder.is_some() {
            let index = Arc::new(MemoryIndex::new());
            let mut full = false;
            return match self.replay_into(&*index, last, u64::MAX, &mut full, progress) {
                Ok(damages) => Ok(Some(Rows { index, damages, _view: None })),
                Err(_) if full => Ok(None),
                Err(e) => Err(e),
            };
        }
        let on_disk = if self.has_index() { self.index().ok() } else { None };
        if let Some(view) = on_disk
            && view.index().flushed_lsn() <= last
            && let Ok(damages) = self.replay_into(&*view.index(), last, MEMTABLE_BYTES, &mut false, progress)
        {
            return Ok(Some(Rows { index: view.index(), damages, _view: Some(view) }));
        }
        let view = IndexView::empty(CACHE_BYTES, &SystemRandom)?;
        let damages = self.replay_into(&*view.index(), last, MEMTABLE_BYTES, &mut false, progress)?;
        Ok(Some(Rows { index: view.index(), damages, _view: Some(view) }))
    }

    /// Fills an empty index from the newest base; for a log whose first records were retired.
    fn fill(&self, index: &dyn Index, upto: Lsn, memtable_bytes: u64, full: &mut bool) -> Result<()> {
        let full = std::cell::Cell::from_mut(full);
        fill(index, upto, memtable_bytes, &|visit| {
            let mut too_much = false;
            let replayed = self.log.replay(Lsn::new(0), self.log.last_lsn(), &mut |record| {
                if record.kind != Kind::Base || record.wrong.is_some() {
                    return Ok(());
                }
                check_room(index, memtable_bytes, &mut too_much)?;
                let l = &record.location;
                let found = crate::format::code::decode(record.payload)
                    .map_err(|e| Damage::segment(l.segment, l.offset, Some(record.lsn), e.0))?;
                visit(record.lsn, found)
            });
            full.set(too_much);
            replayed.map(drop)
        })
    }

    /// Replays the log into an index, from where that ends up to `upto`. Sets `full` and fails if it may not write
    /// anything out (`memtable_bytes` is the largest number) and takes too much memory.
    fn replay_into(
        &self,
        index: &dyn Index,
        upto: Lsn,
        memtable_bytes: u64,
        full: &mut bool,
        progress: Progress<'_>,
    ) -> Result<Vec<Damage>> {
        let retired = self.log.first_lsn() > Lsn::FIRST || !self.log.missing().is_empty();
        if index.flushed_lsn() == Lsn::new(0) && retired {
            self.fill(index, upto, memtable_bytes, full)?;
        }
        let mut state = load_state(index, self.id())?;
        let from = index.flushed_lsn();
        let mut next = from.next();
        let damages = self.log.replay(from, upto, &mut |record| {
            if record.flags & flags::MOVED == 0 {
                if record.lsn > next {
                    let l = &record.location;
                    let why = format!("records {next} to before {} are missing", record.lsn);
                    return Err(Damage::segment(l.segment, l.offset, Some(next), why).into());
                }
                next = record.lsn.next();
                progress(record.lsn.get() - from.get(), upto.get() - from.get());
            }
            check_room(index, memtable_bytes, full)?;
            if replay(index, &mut state, memtable_bytes, &record)? { index.flush() } else { Ok(()) }
        })?;
        if upto > from {
            let meta = Change::put(key::meta(), crate::format::code::encode(&state.meta));
            index.apply(upto, &[meta])?;
        }
        Ok(damages)
    }
}

/// Where nothing may be written out, rows may take only so much memory.
fn check_room(index: &dyn Index, memtable_bytes: u64, full: &mut bool) -> Result<()> {
    *full = memtable_bytes == u64::MAX && index.unflushed_bytes() > REPLAY_BYTES;
    if *full { Err(Error::BadRequest("too many rows for memory".into())) } else { Ok(()) }
}

fn open_disk(path: &Path) -> Result<Arc<dyn Disk>> {
    let disk = RealDisk::open(path, Engine::Plain)
        .map_err(|e| Error::io(format!("opening {}", path.display()), e))?;
    Ok(Arc::new(disk))
}

/// As an opening reads it, but a file STORE without a valid copy is damage.
fn superblock_of(disk: &dyn Disk, path: &Path, writing: bool) -> Result<(Superblock, Vec<String>)> {
    let read = superblock::read(disk, path, writing).map(|read| (read.superblock.clone(), read.damage()));
    read.map_err(|e| match e {
        Error::NotAStore { .. } if disk.open(Path::new(SUPERBLOCK), false).is_ok() => {
            Damage::file(path.join(SUPERBLOCK), 0, "neither copy of the superblock is valid").into()
        }
        other => other,
    })
}

/// What a rebuild made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rebuilt {
    /// The index covers the log up to here.
    pub covers: Lsn,
    /// Rows in it.
    pub rows: u64,
    /// Damage of the log that was met, and got around.
    pub damages: Vec<Damage>,
}

/// Builds the index of a store again from its log. The old one is deleted once the new one is complete.
///
/// # Errors
/// [`Error::InUse`] while another process has the store open, [`Error::Damaged`] if the log can't be replayed, or what
/// the system says; the old index is still there then.
pub fn rebuild_index(path: &Path, progress: Progress<'_>) -> Result<Rebuilt> {
    let disk = open_disk(path)?;
    let (superblock, superblock_damage) = superblock_of(&*disk, path, true)?;
    let lock = take_lock(&*disk, path)?;
    let log = Survey::of_closed(Arc::clone(&disk), superblock.store, true, superblock.closed_lsn)?;
    let inspection = Inspection {
        path: path.into(),
        disk: Arc::clone(&disk),
        superblock,
        superblock_damage,
        holder: None,
        log,
        _lock: Some(lock),
    };
    let new_path = path.join(NEW_INDEX);
    crate::index::destroy(&new_path)?;
    let built = inspection.build(&new_path, progress);
    if built.is_err() {
        // The first failure is the one to tell.
        let _ = crate::index::destroy(&new_path);
    }
    let rebuilt = built?;
    crate::index::destroy(&inspection.index_path())?;
    disk.rename(Path::new(NEW_INDEX), Path::new(INDEX))
        .and_then(|()| disk.sync_dir(Path::new("")))
        .map_err(|e| Error::io(format!("naming {}", inspection.index_path().display()), e))?;
    if inspection.superblock.closed_lsn > rebuilt.covers {
        // What is lost was given up by whoever asked for this.
        superblock::note_closed(&*disk, rebuilt.covers)?;
    }
    Ok(rebuilt)
}

impl Inspection {
    fn build(&self, path: &Path, progress: Progress<'_>) -> Result<Rebuilt> {
        let index = SortedIndex::open(path, CACHE_BYTES)?;
        let covers = self.log.last_lsn();
        let damages = self.replay_into(&index, covers, MEMTABLE_BYTES, &mut false, progress)?;
        index.rotate(covers)?;
        index.flush()?;
        while index.compact()? {}
        let mut rows = 0;
        index.walk(&[], &[kind::SPARED], crate::index::Order::Forward, &mut |_, _| {
            rows += 1;
            true
        })?;
        Ok(Rebuilt { covers, rows, damages })
    }
}
