//! A disk in memory that keeps what was written apart from what is durable, and fails on request.

use std::{
    collections::BTreeMap,
    io,
    path::{Component, Path},
    sync::Arc,
};

use parking_lot::Mutex;
use segfs::disk::{Disk, DiskFile, Space};

use super::{
    content::{Fate, File, SECTOR},
    names::{Entry, FileId, Names, parent},
    rng::Rng,
};

/// What is to go wrong. Writes, syncs and operations are numbered from 0 since the disk was made; see
/// [`SimDisk::counts`].
#[derive(Debug, Clone, Default)]
pub struct Faults {
    /// This sync, of a file or a directory, fails with EIO.
    pub fail_sync: Option<u64>,
    /// This write fails with EIO, with some of its sectors written.
    pub fail_write: Option<u64>,
    /// This write goes to another sector-aligned offset of the same file.
    pub misplace_write: Option<u64>,
    /// This write never happens, but for the file's length.
    pub lose_write: Option<u64>,
    /// The size of the disk. Files take what was allocated to them, at least their length.
    pub capacity_bytes: Option<u64>,
    /// The power fails: this operation and all after it, reads too, return an error and do nothing.
    pub power_cut: Option<u64>,
}

/// How much was asked of the disk so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Everything that changes or syncs something.
    pub operations: u64,
    /// Writes, a lock's text included.
    pub writes: u64,
    /// Syncs of files and directories.
    pub syncs: u64,
}

/// How often each fault has struck since somebody asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Struck {
    pub failed_syncs: u64,
    pub failed_writes: u64,
    pub misplaced_writes: u64,
    pub lost_writes: u64,
    /// Writes and reservations for which there was no space.
    pub full: u64,
    /// Operations that came after the power was cut.
    pub powerless: u64,
    pub flipped_bits: u64,
}

impl std::ops::AddAssign for Struck {
    fn add_assign(&mut self, o: Self) {
        self.failed_syncs += o.failed_syncs;
        self.failed_writes += o.failed_writes;
        self.misplaced_writes += o.misplaced_writes;
        self.lost_writes += o.lost_writes;
        self.full += o.full;
        self.powerless += o.powerless;
        self.flipped_bits += o.flipped_bits;
    }
}

/// What an observer is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event<'a> {
    /// A sync of this file or directory is about to happen: the moment with the most to lose.
    BeforeSync(&'a str),
    /// It has succeeded.
    AfterSync(&'a str),
}

type Observer = Box<dyn FnMut(&SimDisk, Event<'_>) + Send>;

/// A simulated disk; clones are the same disk.
#[derive(Clone)]
pub struct SimDisk {
    inner: Arc<Inner>,
}

struct Inner {
    state: Mutex<State>,
    observer: Mutex<Option<Observer>>,
}

struct State {
    names: Names,
    files: BTreeMap<FileId, Slot>,
    next_id: FileId,
    locks: BTreeMap<String, String>,
    faults: Faults,
    counts: Counts,
    struck: Struck,
    rng: Rng,
}

#[derive(Clone, Default)]
struct Slot {
    file: File,
    handles: usize,
    /// The name it had last, for messages and observers.
    path: String,
}

/// Without a capacity, the disk says it has this many bytes.
const TOTAL_BYTES: u64 = 1 << 40;
const BLOCK: u64 = 4096;

fn eio(what: &str) -> io::Error {
    io::Error::other(format!("simulated {what}"))
}

impl SimDisk {
    /// An empty disk. The seed decides what faults leave behind.
    pub fn new(seed: u64) -> Self {
        Self::with(Names::new(), BTreeMap::new(), 0, seed)
    }

    fn with(names: Names, files: BTreeMap<FileId, Slot>, next_id: FileId, seed: u64) -> Self {
        let (faults, counts, struck) = (Faults::default(), Counts::default(), Struck::default());
        let (locks, rng) = (BTreeMap::new(), Rng::new(seed));
        let state = State { names, files, next_id, locks, faults, counts, struck, rng };
        Self { inner: Arc::new(Inner { state: Mutex::new(state), observer: Mutex::new(None) }) }
    }

    /// Replaces the plan of what goes wrong.
    pub fn set_faults(&self, faults: Faults) {
        self.inner.state.lock().faults = faults;
    }

    /// How much was asked of this disk.
    pub fn counts(&self) -> Counts {
        self.inner.state.lock().counts
    }

    /// Which faults have struck since this was asked last.
    pub fn take_struck(&self) -> Struck {
        std::mem::take(&mut self.inner.state.lock().struck)
    }

    /// Is told of each sync. It may use the disk; what it does itself is not observed.
    pub fn set_observer(&self, observer: impl FnMut(&SimDisk, Event<'_>) + Send + 'static) {
        *self.inner.observer.lock() = Some(Box::new(observer));
    }

    /// A disk as a power cut now could leave it; the same seed gives the same one.
    pub fn crash_image(&self, seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        self.image(&mut Fate::Chance(&mut rng), seed)
    }

    /// A disk that lost everything that was not synced.
    pub fn durable_image(&self) -> Self {
        self.image(&mut Fate::Lost, 0)
    }

    /// A disk that lost nothing.
    pub fn written_image(&self) -> Self {
        self.image(&mut Fate::Kept, 0)
    }

    fn image(&self, fate: &mut Fate<'_>, seed: u64) -> Self {
        let state = self.inner.state.lock();
        let names = state.names.image(fate);
        let files = names.written.iter().filter_map(|(path, entry)| {
            let Entry::File(id) = entry else { return None };
            let file = state.files[id].file.image(fate);
            Some((*id, Slot { file, handles: 0, path: path.clone() }))
        });
        let files = files.collect();
        Self::with(names, files, state.next_id, seed)
    }

    /// A hash of all names and all written bytes.
    pub fn fingerprint(&self) -> u64 {
        let state = self.inner.state.lock();
        let mut hasher = blake3::Hasher::new();
        for (path, entry) in &state.names.written {
            hasher.update(path.as_bytes());
            hasher.update(&[0]);
            if let Entry::File(id) = entry {
                state.files[id].file.written().hash(&mut hasher);
            }
        }
        let hash = hasher.finalize();
        u64::from_le_bytes(hash.as_bytes()[..8].try_into().expect("a hash has 32 bytes"))
    }

    /// Rot: turns over one bit of a file, on the medium. Nothing happens behind the file's end.
    ///
    /// # Panics
    /// If there is no such file.
    pub fn flip_bit(&self, path: &Path, offset: u64, bit: u8) {
        let mut state = self.inner.state.lock();
        let id = state.find(&normal(path).expect("a path")).expect("a file to damage");
        state.slot(id).file.flip(offset, bit);
        state.struck.flipped_bits += 1;
    }

    fn observe(&self, event: Event<'_>) {
        let observer = self.inner.observer.lock().take();
        if let Some(mut observer) = observer {
            observer(self, event);
            self.inner.observer.lock().get_or_insert(observer);
        }
    }

    fn handle(&self, id: FileId, write: bool) -> Arc<dyn DiskFile> {
        Arc::new(SimFile { disk: self.clone(), id, write })
    }
}

/// The path as the maps have it.
fn normal(path: &Path) -> io::Result<String> {
    let mut parts = Vec::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::Normal(name) => parts.push(name.to_string_lossy()),
            _ => return Err(io::ErrorKind::InvalidInput.into()),
        }
    }
    Ok(parts.join("/"))
}

impl State {
    /// Is the power on?
    fn powered(&self) -> io::Result<()> {
        match self.faults.power_cut {
            Some(n) if self.counts.operations >= n => Err(eio("power cut")),
            _ => Ok(()),
        }
    }

    /// Counts an operation that is about to happen.
    fn operation(&mut self) -> io::Result<()> {
        self.powered().inspect_err(|_| self.struck.powerless += 1)?;
        self.counts.operations += 1;
        Ok(())
    }

    /// Counts a sync; does this one fail?
    fn sync_fails(&mut self) -> bool {
        self.counts.syncs += 1;
        let fails = self.faults.fail_sync == Some(self.counts.syncs - 1);
        self.struck.failed_syncs += u64::from(fails);
        fails
    }

    fn find(&self, path: &str) -> io::Result<FileId> {
        match self.names.written.get(path) {
            Some(Entry::File(id)) => Ok(*id),
            Some(Entry::Dir) => Err(io::ErrorKind::IsADirectory.into()),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn is_dir(&self, path: &str) -> io::Result<()> {
        match self.names.written.get(path) {
            Some(Entry::Dir) => Ok(()),
            Some(Entry::File(_)) => Err(io::ErrorKind::NotADirectory.into()),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn slot(&mut self, id: FileId) -> &mut Slot {
        self.files.get_mut(&id).expect("a file is kept as long as something leads to it")
    }

    fn create(&mut self, path: &str) -> io::Result<FileId> {
        self.operation()?;
        self.is_dir(parent(path))?;
        if self.names.written.contains_key(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let id = self.next_id;
        self.next_id += 1;
        self.files.insert(id, Slot { path: path.into(), ..Slot::default() });
        self.names.add(path, Entry::File(id));
        Ok(id)
    }

    fn write(&mut self, id: FileId, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.operation()?;
        self.counts.writes += 1;
        let number = Some(self.counts.writes - 1);
        let some = self.rng.below((bytes.len() / SECTOR) as u64 + 1) as usize * SECTOR;
        if self.faults.fail_write == number {
            self.struck.failed_writes += 1;
            self.slot(id).file.write(&bytes[..some], offset);
            return Err(eio("write error"));
        }
        let end = offset + bytes.len() as u64;
        if let Err(full) = self.reserve(id, end) {
            let room = self.files[&id].file.allocated.saturating_sub(offset);
            let some = (some as u64).min(room) as usize;
            self.slot(id).file.write(&bytes[..some], offset);
            return Err(full);
        }
        if self.faults.lose_write == number {
            self.struck.lost_writes += 1;
            self.slot(id).file.lose_write(bytes, offset);
        } else if self.faults.misplace_write == number {
            let last = self.files[&id].file.written().len.max(end).saturating_sub(bytes.len() as u64);
            let mut to = self.rng.below(last / SECTOR as u64 + 1) * SECTOR as u64;
            if to == offset {
                // As far away as can be, be it at the start or behind the end.
                to = if offset == 0 { end.next_multiple_of(SECTOR as u64) } else { 0 };
            }
            self.struck.misplaced_writes += 1;
            self.slot(id).file.lose_write(bytes, offset);
            self.slot(id).file.write(bytes, to);
        } else {
            self.slot(id).file.write(bytes, offset);
        }
        Ok(())
    }

    fn set_len(&mut self, id: FileId, len: u64) -> io::Result<()> {
        self.operation()?;
        let file = &mut self.slot(id).file;
        file.set_len(len);
        file.allocated = file.allocated.min(len.next_multiple_of(BLOCK));
        Ok(())
    }

    /// Sees to it that the first `len` bytes of a file can be written.
    fn reserve(&mut self, id: FileId, len: u64) -> io::Result<()> {
        let has = self.files[&id].file.allocated;
        let needs = len.next_multiple_of(BLOCK).saturating_sub(has);
        if needs > self.space().free_bytes {
            self.struck.full += 1;
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.slot(id).file.allocated = has + needs;
        Ok(())
    }

    fn space(&self) -> Space {
        let total_bytes = self.faults.capacity_bytes.unwrap_or(TOTAL_BYTES);
        let named = self.names.written.values();
        let named = named.filter_map(|e| if let Entry::File(id) = e { Some(*id) } else { None });
        let open = self.files.iter().filter(|(_, slot)| slot.handles > 0).map(|(id, _)| *id);
        let alive: std::collections::BTreeSet<FileId> = named.chain(open).collect();
        let used: u64 = alive.iter().map(|id| self.files[id].file.allocated).sum();
        Space { total_bytes, free_bytes: total_bytes.saturating_sub(used) }
    }

    /// Drops files that nothing leads to any more, not even after a crash.
    fn collect(&mut self) {
        let names = &self.names;
        self.files.retain(|id, slot| slot.handles > 0 || names.reaches(*id));
    }

    fn open(&mut self, id: FileId) {
        self.slot(id).handles += 1;
    }
}

impl Disk for SimDisk {
    fn open(&self, path: &Path, write: bool) -> io::Result<Arc<dyn DiskFile>> {
        let path = normal(path)?;
        let mut state = self.inner.state.lock();
        state.powered()?;
        let id = state.find(&path)?;
        state.open(id);
        drop(state);
        Ok(self.handle(id, write))
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let path = normal(path)?;
        let mut state = self.inner.state.lock();
        let id = state.create(&path)?;
        state.open(id);
        drop(state);
        Ok(self.handle(id, true))
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        let path = normal(path)?;
        let mut state = self.inner.state.lock();
        state.operation()?;
        let ends = path.match_indices('/').map(|(i, _)| i).chain([path.len()]);
        for end in ends {
            let dir = &path[..end];
            if state.names.written.contains_key(dir) {
                state.is_dir(dir)?;
            } else {
                state.names.add(dir, Entry::Dir);
            }
        }
        Ok(())
    }

    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        let path = normal(path)?;
        let state = self.inner.state.lock();
        state.powered()?;
        state.is_dir(&path)?;
        let inside = state.names.written.keys().filter(|p| !p.is_empty() && parent(p) == path);
        let mut names: Vec<String> =
            inside.map(|p| p.rsplit_once('/').map_or(p.as_str(), |(_, name)| name).to_owned()).collect();
        names.sort_unstable();
        Ok(names)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let (from, to) = (normal(from)?, normal(to)?);
        let mut state = self.inner.state.lock();
        state.operation()?;
        let id = state.find(&from)?;
        state.is_dir(parent(&to))?;
        match state.find(&to) {
            Ok(other) if other == id => return Ok(()),
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        state.names.rename(&from, &to, id);
        state.slot(id).path = to;
        Ok(())
    }

    fn number(&self, path: &Path) -> io::Result<Option<u64>> {
        let path = normal(path)?;
        self.inner.state.lock().find(&path).map(Some)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let path = normal(path)?;
        let mut state = self.inner.state.lock();
        state.operation()?;
        let id = state.find(&path)?;
        state.names.remove(&path, id);
        Ok(())
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let path = normal(path)?;
        self.inner.state.lock().powered()?;
        self.observe(Event::BeforeSync(&path));
        {
            let mut guard = self.inner.state.lock();
            let state = &mut *guard;
            state.operation()?;
            state.is_dir(&path)?;
            if state.sync_fails() {
                state.names.fail_sync(&path, &mut state.rng);
                return Err(eio("sync error"));
            }
            state.names.sync(&path);
            state.collect();
        }
        self.observe(Event::AfterSync(&path));
        Ok(())
    }

    fn lock(&self, path: &Path, holder: &str) -> io::Result<Box<dyn Send + Sync>> {
        let path = normal(path)?;
        let mut state = self.inner.state.lock();
        state.powered()?;
        if let Some(holder) = state.locks.get(&path) {
            return Err(io::Error::new(io::ErrorKind::WouldBlock, holder.clone()));
        }
        let id = match state.find(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => state.create(&path)?,
            found => found?,
        };
        state.set_len(id, 0)?;
        state.write(id, holder.as_bytes(), 0)?;
        state.locks.insert(path.clone(), holder.into());
        drop(state);
        Ok(Box::new(SimLock { disk: self.clone(), path }))
    }

    fn space(&self) -> io::Result<Space> {
        let state = self.inner.state.lock();
        state.powered()?;
        Ok(state.space())
    }

    fn engine(&self) -> &'static str {
        "simulated"
    }
}

struct SimLock {
    disk: SimDisk,
    path: String,
}

impl Drop for SimLock {
    fn drop(&mut self) {
        let mut state = self.disk.inner.state.lock();
        state.locks.remove(&self.path);
        if let Ok(id) = state.find(&self.path) {
            // Without power the text stays.
            let _ = state.set_len(id, 0);
        }
    }
}

struct SimFile {
    disk: SimDisk,
    id: FileId,
    write: bool,
}

impl SimFile {
    fn with<T>(&self, f: impl FnOnce(&mut State) -> io::Result<T>) -> io::Result<T> {
        let mut state = self.disk.inner.state.lock();
        state.powered()?;
        f(&mut state)
    }

    /// Like [`with`](Self::with), for what needs a file open for writing.
    fn change<T>(&self, f: impl FnOnce(&mut State) -> io::Result<T>) -> io::Result<T> {
        if !self.write {
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, "the file is open for reading only"));
        }
        self.with(f)
    }
}

impl DiskFile for SimFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.with(|state| Ok(state.files[&self.id].file.written().read(buffer, offset)))
    }

    fn write_at(&self, pieces: &[&[u8]], offset: u64) -> io::Result<()> {
        let bytes = pieces.concat();
        self.change(|state| state.write(self.id, &bytes, offset))
    }

    fn sync(&self) -> io::Result<()> {
        let path = self.with(|state| Ok(state.files[&self.id].path.clone()))?;
        self.disk.observe(Event::BeforeSync(&path));
        self.with(|state| {
            state.operation()?;
            if state.sync_fails() {
                let mut rng = state.rng.clone();
                state.slot(self.id).file.fail_sync(&mut rng);
                state.rng = rng;
                return Err(eio("sync error"));
            }
            state.slot(self.id).file.sync();
            Ok(())
        })?;
        self.disk.observe(Event::AfterSync(&path));
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        self.with(|state| Ok(state.files[&self.id].file.written().len))
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.change(|state| state.set_len(self.id, len))
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        self.change(|state| {
            state.operation()?;
            state.reserve(self.id, len)?;
            let file = &mut state.slot(self.id).file;
            if len > file.written().len {
                file.set_len(len);
            }
            Ok(())
        })
    }
}

impl Drop for SimFile {
    fn drop(&mut self) {
        let mut state = self.disk.inner.state.lock();
        // Lenient, so that a bug shows as the first panic and not as a second one on the way out.
        if let Some(slot) = state.files.get_mut(&self.id) {
            slot.handles -= 1;
        }
    }
}
