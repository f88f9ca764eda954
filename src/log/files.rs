//! The segments of the log with their files, and the spare ones.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
};

use parking_lot::{Mutex, RwLock};

use super::{SegmentState, erase::zero, retire::has_footer};
use crate::{
    base::{
        Error, Lsn, Result, SegmentId, limits,
        planted::{Bug, planted},
    },
    disk::{Disk, DiskFile},
    format::{Seed, SegmentHeader, segment_header},
    segment,
};

/// Segment files held open at once.
const OPEN_FILES: usize = 256;

/// What can change about a segment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Extent {
    pub(super) state: SegmentState,
    /// Where its last batch ends.
    pub(super) end: u64,
    pub(super) last_lsn: Lsn,
}

/// A segment of the log. Holding the `Arc` pins it: its file is not recycled before it is let go.
pub(super) struct Segment {
    pub(super) header: SegmentHeader,
    pub(super) seed: Seed,
    pub(super) now: Mutex<Extent>,
}

impl Segment {
    pub(super) fn new(header: SegmentHeader, now: Extent) -> Self {
        Self { seed: header.seed(), header, now: Mutex::new(now) }
    }

    pub(super) fn id(&self) -> SegmentId {
        self.header.segment
    }
}

#[derive(Default)]
struct Open {
    files: HashMap<SegmentId, (Arc<dyn DiskFile>, u64)>,
    tick: u64,
}

/// A file that was made or recycled and now carries a segment's name.
pub(super) struct NewFile {
    pub(super) file: Arc<dyn DiskFile>,
    /// It was one of the reserve.
    pub(super) reserved: bool,
}

/// Who asks for a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purse {
    /// Anybody: the reserve stays whole.
    Common,
    /// The cleaner: it leaves the last one of the reserve to the others.
    Cleaner,
    /// What leads to free space by itself, or finishes what was begun.
    Freeing,
}

/// The files.
pub(super) struct Files {
    disk: Arc<dyn Disk>,
    table: RwLock<BTreeMap<SegmentId, Arc<Segment>>>,
    open: Mutex<Open>,
    /// Names in spare/ that may be used.
    spare: Mutex<Vec<String>>,
    /// Retired, but somebody still reads them.
    retired: Mutex<Vec<Arc<Segment>>>,
    /// The names that were found at opening are durable as they were found.
    settled: Mutex<bool>,
    /// Bytes of zeros written to new files.
    filled: AtomicU64,
    /// Segments whose files are overwritten once they are retired.
    erase: Mutex<BTreeSet<SegmentId>>,
    /// Held while retired files leave; in it what each [`Hold`] has a part of.
    leaving: Mutex<Arc<()>>,
    /// Holds count.
    heed_holds: AtomicBool,
    apart: Mutex<Apart>,
    /// The cleaner may use the last of the reserve too.
    lent: AtomicBool,
}

/// Bytes of the disk that new segments leave to others.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Apart {
    /// So many are free behind a segment whose file is made anew.
    pub free: u64,
    /// So many are owed to others: until they are free, nobody but who frees space begins a segment.
    pub owed: u64,
}

/// As long as this lives, the file of no segment goes away, unless space is short.
#[derive(Debug)]
pub struct Hold(#[expect(dead_code, reason = "it is counted")] Arc<()>);

fn spare_path(name: &str) -> PathBuf {
    PathBuf::from(segment::SPARE_DIRECTORY).join(name)
}

impl Files {
    pub(super) fn new(disk: Arc<dyn Disk>) -> Self {
        Self {
            disk,
            table: RwLock::default(),
            open: Mutex::default(),
            spare: Mutex::default(),
            retired: Mutex::default(),
            settled: Mutex::default(),
            filled: AtomicU64::new(0),
            erase: Mutex::default(),
            leaving: Mutex::default(),
            heed_holds: AtomicBool::new(true),
            apart: Mutex::default(),
            lent: AtomicBool::new(false),
        }
    }

    /// Looks which spare files are there. A copy of a store may lack the directory; who writes needs it.
    pub(super) fn load_spares(&self, read_only: bool) -> Result<()> {
        match self.disk.list(segment::SPARE_DIRECTORY.as_ref()) {
            Ok(mut names) => {
                if !read_only {
                    self.drop_second_names(&mut names).map_err(|e| Error::io("looking into spare/", e))?;
                }
                *self.spare.lock() = names;
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound && read_only => {}
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                let made = self.disk.create_dir(segment::SPARE_DIRECTORY.as_ref());
                made.map_err(|e| Error::io("making spare/", e))?;
            }
            Err(e) => return Err(Error::io("listing spare/", e)),
        }
        Ok(())
    }

    /// A crash can leave a file that was on its way to spare/, or out of it, under both names: then it may be part of the log, or
    /// become so, and must not be written to as a spare one. It goes on under its name among the segments alone, and of two
    /// names in spare/ under one.
    fn drop_second_names(&self, names: &mut Vec<String>) -> std::io::Result<()> {
        if names.is_empty() || planted(Bug::SecondNamesStay) {
            return Ok(());
        }
        let mut seen = BTreeSet::new();
        for name in self.disk.list(segment::DIRECTORY.as_ref())? {
            seen.extend(self.disk.number(&PathBuf::from(segment::DIRECTORY).join(name))?);
        }
        let all = std::mem::take(names);
        for name in all {
            let path = spare_path(&name);
            if self.disk.number(&path)?.is_none_or(|n| seen.insert(n)) {
                names.push(name);
            } else {
                self.disk.remove(&path)?;
            }
        }
        Ok(())
    }

    pub(super) fn spares(&self) -> usize {
        self.spare.lock().len()
    }

    /// Bytes of zeros written to new files so far.
    pub(super) fn filled_bytes(&self) -> u64 {
        self.filled.load(Relaxed)
    }

    pub(super) fn insert(&self, s: Arc<Segment>) {
        self.table.write().insert(s.id(), s);
    }

    pub(super) fn get(&self, id: SegmentId) -> Option<Arc<Segment>> {
        self.table.read().get(&id).cloned()
    }

    /// The segments with whether somebody holds them.
    pub(super) fn all_with_pins(&self) -> Vec<(Arc<Segment>, bool)> {
        let table = self.table.read();
        table.values().map(|s| (Arc::clone(s), Arc::strong_count(s) > 2)).collect()
    }

    /// The segment that holds the first record with this number or a higher one, by the LSN order of their headers.
    pub(super) fn covering(&self, lsn: Lsn) -> Option<Arc<Segment>> {
        let table = self.table.read();
        table.values().find(|s| s.now.lock().last_lsn >= lsn).cloned()
    }

    /// The segment that follows in the log.
    pub(super) fn after(&self, id: SegmentId) -> Option<Arc<Segment>> {
        let table = self.table.read();
        table.range(id.next()..).next().map(|(_, s)| Arc::clone(s))
    }

    /// The file of a segment.
    pub(super) fn file(&self, id: SegmentId) -> Result<Arc<dyn DiskFile>> {
        {
            let mut open = self.open.lock();
            open.tick += 1;
            let tick = open.tick;
            if let Some((file, used)) = open.files.get_mut(&id) {
                *used = tick;
                return Ok(Arc::clone(file));
            }
        }
        let file = self
            .disk
            .open(&segment::path(id), false)
            .map_err(|e| Error::io(format!("opening segment {id}"), e))?;
        self.keep_open(id, Arc::clone(&file));
        Ok(file)
    }

    pub(super) fn keep_open(&self, id: SegmentId, file: Arc<dyn DiskFile>) {
        let mut open = self.open.lock();
        if open.files.len() >= OPEN_FILES
            && let Some(oldest) = open.files.iter().min_by_key(|(_, (_, used))| *used).map(|(id, _)| *id)
        {
            open.files.remove(&oldest);
        }
        open.tick += 1;
        let tick = open.tick;
        open.files.insert(id, (file, tick));
    }

    /// Gives a segment's name to a spare file, or to a new one of this capacity. The name is durable after it.
    ///
    /// [`Error::Poisoned`] if the state of the directory is unknown; any other error left nothing behind.
    pub(super) fn begin(
        &self,
        id: SegmentId,
        capacity: u64,
        unreached: &[SegmentId],
        purse: Purse,
    ) -> Result<NewFile> {
        for &old in unreached {
            self.give_back(old).map_err(|e| Error::io(format!("moving segment {old} out of the log"), e))?;
        }
        if !unreached.is_empty() {
            // Before any of them is written to.
            self.sync_directories(true)?;
        }
        let (file, recycled, reserved) = match purse {
            Purse::Common => {
                self.fill_reserve(capacity)?;
                let owed = self.apart.lock().owed;
                self.leaves(owed)?;
                match self.take_spare(id, capacity, limits::RESERVE_SEGMENTS)? {
                    Some(file) => (file, true, false),
                    None => (self.fresh_apart(id, capacity)?, false, false),
                }
            }
            Purse::Cleaner | Purse::Freeing => {
                match self.take_spare(id, capacity, limits::RESERVE_SEGMENTS)? {
                    Some(file) => (file, true, false),
                    None => match self.fresh_apart(id, capacity) {
                        Ok(file) => (file, false, false),
                        Err(full @ Error::NoSpace { .. }) => {
                            let keep = if purse == Purse::Cleaner { self.cleaner_leaves() } else { 0 };
                            (self.take_spare(id, capacity, keep)?.ok_or(full)?, true, true)
                        }
                        Err(e) => return Err(e),
                    },
                }
            }
        };
        self.sync_directories(recycled)?;
        Ok(NewFile { file, reserved })
    }

    /// Sees to it that there are as many spare files as are held in reserve.
    pub(super) fn fill_reserve(&self, capacity: u64) -> Result<()> {
        while self.spares() < limits::RESERVE_SEGMENTS {
            let owed = self.apart.lock().owed;
            if owed > 0 {
                self.leaves(capacity + owed)?;
            }
            let mut n = 0;
            let (name, file) = loop {
                let name = format!("reserve-{n}");
                match self.fresh_and_long(&spare_path(&name), capacity) {
                    Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::AlreadyExists => {
                        n += 1
                    }
                    made => break (name, made?),
                }
            };
            drop(file);
            self.spare.lock().push(name);
        }
        Ok(())
    }

    pub(super) fn sync_directories(&self, spare_too: bool) -> Result<()> {
        if planted(Bug::SkipDirectorySync) {
            return Ok(());
        }
        let mut dirs = vec![segment::DIRECTORY];
        if spare_too {
            dirs.push(segment::SPARE_DIRECTORY);
        }
        for dir in dirs {
            self.disk
                .sync_dir(dir.as_ref())
                .map_err(|e| Error::Poisoned { why: format!("syncing {dir}/: {e}") })?;
        }
        Ok(())
    }

    /// The process before may have been killed between moving a file out of the log and making that durable: what is written to
    /// the file now must not be found under its old name after a power cut.
    fn settle_names(&self) -> Result<()> {
        let mut settled = self.settled.lock();
        if !*settled {
            self.sync_directories(true)?;
            *settled = true;
        }
        Ok(())
    }

    /// A spare file under a segment's name, if there are more than `keep`.
    fn take_spare(&self, id: SegmentId, capacity: u64, keep: usize) -> Result<Option<Arc<dyn DiskFile>>> {
        loop {
            let name = {
                let mut spare = self.spare.lock();
                if spare.len() <= keep {
                    return Ok(None);
                }
                spare.pop()
            };
            let Some(name) = name else { return Ok(None) };
            self.settle_names()?;
            let path = spare_path(&name);
            let ready = self.disk.open(&path, true).and_then(|f| {
                let len = f.len()?;
                let wiped = wipe(&*f, id)?;
                if len > capacity {
                    f.set_len(capacity)?;
                } else if len < capacity {
                    f.allocate(capacity)?;
                }
                if wiped || len != capacity {
                    f.sync()?;
                }
                Ok(f)
            });
            match ready {
                Ok(file) => {
                    self.disk
                        .rename(&path, &segment::path(id))
                        .map_err(|e| Error::io(format!("naming segment {id}"), e))?;
                    return Ok(Some(file));
                }
                Err(e) => {
                    // Unusable or too short on a full disk: its space is better spent on the next try.
                    let removed = self.disk.remove(&path);
                    if removed.is_err() && e.kind() != std::io::ErrorKind::NotFound {
                        return Err(Error::io(format!("preparing segment {id}"), e));
                    }
                }
            }
        }
    }

    /// From now on, new segments leave this to others.
    pub(super) fn keep_apart(&self, apart: Apart) {
        *self.apart.lock() = apart;
    }

    /// May the cleaner use the last of the reserve too?
    pub(super) fn lend(&self, lent: bool) {
        self.lent.store(lent, Relaxed);
    }

    /// Spare files that the cleaner leaves to others.
    fn cleaner_leaves(&self) -> usize {
        usize::from(!self.lent.load(Relaxed))
    }

    /// Segments that the cleaner could begin one after the other.
    pub(super) fn cleaner_begins(&self, capacity: u64) -> u64 {
        let apart = *self.apart.lock();
        let free = self.disk.space().map_or(u64::MAX, |s| s.free_bytes);
        let spares = self.spares().saturating_sub(self.cleaner_leaves()) as u64;
        spares + free.saturating_sub(apart.free + apart.owed) / capacity
    }

    /// Is so much of the disk free?
    fn leaves(&self, bytes: u64) -> Result<()> {
        if bytes > 0 && self.disk.space().is_ok_and(|s| s.free_bytes < bytes) {
            let what = "beginning a segment: the rest is kept for what frees space".into();
            return Err(Error::NoSpace { what });
        }
        Ok(())
    }

    /// Does a new file of a segment leave to others what is kept for them?
    fn leaves_apart(&self, capacity: u64) -> Result<()> {
        let apart = *self.apart.lock();
        if apart == Apart::default() || planted(Bug::NothingLeftApart) {
            Ok(())
        } else {
            self.leaves(capacity + apart.owed + apart.free)
        }
    }

    /// The file of a new segment, if enough stays free behind it.
    fn fresh_apart(&self, id: SegmentId, capacity: u64) -> Result<Arc<dyn DiskFile>> {
        self.leaves_apart(capacity)?;
        self.fresh_and_long(&segment::path(id), capacity)
    }

    fn fresh(&self, path: &std::path::Path, capacity: u64) -> Result<Arc<dyn DiskFile>> {
        let what = || format!("making {}", path.display());
        let file = self.disk.create(path).map_err(|e| Error::io(what(), e))?;
        if let Err(e) = file.allocate(capacity) {
            drop(file);
            let _ = self.disk.remove(path);
            return Err(Error::io(what(), e));
        }
        Ok(file)
    }

    /// A new file whose length is durable before anything is written to it: a segment with a header that is shorter was
    /// cut off by somebody.
    fn fresh_and_long(&self, path: &std::path::Path, capacity: u64) -> Result<Arc<dyn DiskFile>> {
        let file = self.fresh(path, capacity)?;
        if let Err(e) = file.sync() {
            drop(file);
            let _ = self.disk.remove(path);
            return Err(Error::io(format!("making {}", path.display()), e));
        }
        Ok(file)
    }

    /// Makes a spare file, written once, so that later syncs into it are quick.
    pub(super) fn make_spare(&self, name: &str, capacity: u64, stop: &dyn Fn() -> bool) -> Result<()> {
        let path = spare_path(name);
        self.leaves_apart(capacity)?;
        let file = self.fresh(&path, capacity)?;
        let zeros = vec![0; 1 << 20];
        let mut at = 0;
        while at < capacity {
            let n = (capacity - at).min(zeros.len() as u64) as usize;
            let written = file.write_at(&[&zeros[..n]], at);
            if stop() || written.is_err() {
                let _ = self.disk.remove(&path);
                return written.map_err(|e| Error::io("making a spare segment", e));
            }
            file.start_writeback(at, n as u64);
            self.filled.fetch_add(n as u64, Relaxed);
            at += n as u64;
        }
        file.sync().map_err(|e| Error::io("making a spare segment", e))?;
        self.spare.lock().push(name.into());
        Ok(())
    }

    /// The files of these segments are overwritten once they are retired.
    pub(super) fn erase_when_retired(&self, ids: &[SegmentId]) {
        self.erase.lock().extend(ids);
    }

    /// Is one of these retired and still read by somebody?
    pub(super) fn is_retired(&self, ids: &[SegmentId]) -> bool {
        self.retired.lock().iter().any(|s| ids.contains(&s.id()))
    }

    /// Overwrites all spare files, and removes those that are too many. Nobody gets one meanwhile.
    pub(super) fn erase_spares(&self) -> Result<()> {
        self.settle_names()?;
        let mut spare = self.spare.lock();
        for name in &*spare {
            let path = spare_path(name);
            self.disk
                .open(&path, true)
                .and_then(|f| zero(&*f, 0, f.len()?).and_then(|()| f.sync()))
                .map_err(|e| Error::io(format!("overwriting {}", path.display()), e))?;
        }
        while spare.len() > limits::SPARE_SEGMENTS {
            if let Some(name) = spare.pop() {
                let _ = self.disk.remove(&spare_path(&name));
            }
        }
        Ok(())
    }

    /// Moves a segment's file to spare/, or removes it if there are enough.
    fn give_back(&self, id: SegmentId) -> std::io::Result<()> {
        self.open.lock().files.remove(&id);
        let path = segment::path(id);
        let mut spare = self.spare.lock();
        // What is to be overwritten is so among the spare files: out of the log first, where it would be missed.
        let keep = self.erase.lock().remove(&id) || spare.len() < limits::SPARE_SEGMENTS;
        let done = if keep {
            let name = format!("{:016x}.old", id.get());
            self.disk.rename(&path, &spare_path(&name)).map(|()| spare.push(name))
        } else {
            self.disk.remove(&path)
        };
        match done {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }

    /// Takes segments out of the log; their files are recycled as soon as nobody reads them.
    pub(super) fn retire(&self, ids: &[SegmentId]) -> Result<()> {
        {
            let mut table = self.table.write();
            for id in ids {
                let Some(s) = table.get(id) else {
                    return Err(Error::BadRequest(format!("segment {id} is not in the log")));
                };
                if s.now.lock().state == SegmentState::Active {
                    return Err(Error::BadRequest(format!("segment {id} is being written")));
                }
            }
            self.retired.lock().extend(ids.iter().filter_map(|id| table.remove(id)));
        }
        self.recycle_retired()
    }

    /// The last segment of which this holds.
    pub(super) fn last_where(&self, holds: &dyn Fn(&Segment) -> bool) -> Option<SegmentId> {
        self.table.read().values().rev().find(|s| holds(s)).map(|s| s.id())
    }

    /// Recycles what was retired and is not read any more. A file becomes usable only when its old name is durably gone.
    pub(super) fn recycle_retired(&self) -> Result<()> {
        let leaving = self.leaving.lock();
        if Arc::strong_count(&leaving) > 1 && self.heed_holds.load(Relaxed) {
            return Ok(());
        }
        loop {
            let free = self.free_to_go();
            if free.is_empty() {
                return Ok(());
            }
            for (n, s) in free.iter().enumerate() {
                if let Err(e) = self.disown(s).and_then(|()| self.give_back(s.id())) {
                    // It is still there: what comes behind it waits for it.
                    self.retired.lock().extend(free[n..].iter().cloned());
                    return Err(Error::io(format!("recycling segment {}", s.id()), e));
                }
            }
            self.sync_directories(true)?;
        }
    }

    /// A segment that does not say by itself where it ends loses its header before it leaves: a directory that can't be synced may bring it
    /// back after a power cut, when its successor, which knew, is gone. What lies behind its end would look like damage.
    fn disown(&self, s: &Segment) -> std::io::Result<()> {
        let file = match self.disk.open(&segment::path(s.id()), true) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            file => file?,
        };
        if has_footer(&*file, s) {
            return Ok(());
        }
        file.write_at(&[&segment_header::recycled(s.id())], 0)?;
        file.sync()
    }

    /// From now on, what is retired stays where it is.
    pub(super) fn hold(&self) -> Hold {
        Hold(Arc::clone(&self.leaving.lock()))
    }

    /// Do holds count? Not while space is short.
    pub(super) fn heed_holds(&self, heed: bool) {
        self.heed_holds.store(heed, Relaxed);
    }

    /// Takes those off the list of retired segments that nobody reads and that need not wait for their predecessors.
    fn free_to_go(&self) -> Vec<Arc<Segment>> {
        let mut retired = self.retired.lock();
        retired.sort_by_key(|s| s.id());
        let there: Vec<Arc<Segment>> = {
            let table = self.table.read();
            let before = |s: &Arc<Segment>| {
                let p = s.header.predecessor?;
                table.get(&p).or_else(|| retired.iter().find(|r| r.id() == p)).cloned()
            };
            retired.iter().filter_map(before).collect()
        };
        let ends_by_word: Vec<SegmentId> = there
            .iter()
            .filter(|p| !self.file(p.id()).is_ok_and(|f| has_footer(&*f, p)))
            .map(|p| p.id())
            .collect();
        drop(there);
        let waits = |s: &Segment| s.header.predecessor.is_some_and(|p| ends_by_word.contains(&p));
        let (free, held) = retired
            .drain(..)
            .partition(|s| Arc::strong_count(s) == 1 && (planted(Bug::RetireBeforePredecessor) || !waits(s)));
        *retired = held;
        free
    }

    /// Forgets a segment whose file was named but never written, and removes the file.
    pub(super) fn forget(&self, id: SegmentId) {
        self.table.write().remove(&id);
        self.open.lock().files.remove(&id);
        let _ = self.disk.remove(&segment::path(id));
    }

    /// Removes spare files beyond the reserve.
    pub(super) fn trim_spares(&self) {
        while self.drop_spare(limits::RESERVE_SEGMENTS) {}
    }

    /// Removes a spare file, if there are more than so many. Says whether it did.
    pub(super) fn drop_spare(&self, keep: usize) -> bool {
        let mut spare = self.spare.lock();
        let found = if spare.len() > keep { spare.pop() } else { None };
        found.is_some_and(|name| self.disk.remove(&spare_path(&name)).is_ok())
    }
}

/// Takes the header of its last life out of a spare file; true if there was one. It is synced before the file gets a
/// segment's name, so that a file among the segments that has another segment's header was put there by somebody, and is
/// nothing to write over. What stands there then says which segment it is to become: a name that it had before may still
/// be there after a crash, if a directory could not be synced.
fn wipe(file: &dyn DiskFile, next: SegmentId) -> std::io::Result<bool> {
    let mut block = [0; limits::BLOCK_BYTES as usize];
    let n = file.read_at(&mut block, 0)?;
    if block[..n].iter().all(|b| *b == 0) {
        return Ok(false);
    }
    file.write_at(&[&segment_header::recycled(next)], 0)?;
    Ok(true)
}
