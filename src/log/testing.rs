//! A disk in memory for the tests of this room: it can crash, fill up and fail.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use parking_lot::Mutex;

use crate::{
    base::{Clock, Random},
    disk::{Disk, DiskFile, Space},
};

#[derive(Default)]
struct Shared {
    /// Bytes that files may still be allocated.
    room: AtomicU64,
    /// Syncs until one fails; 0 = none does.
    fail_sync_in: AtomicU64,
    fail_write_in: AtomicU64,
    syncs: AtomicU64,
    read_bytes: AtomicU64,
    sync_ms: AtomicU64,
}

pub(super) struct MemFile {
    data: Mutex<Vec<u8>>,
    durable: Mutex<Vec<u8>>,
    shared: Arc<Shared>,
}

fn counted_down(n: &AtomicU64) -> bool {
    n.fetch_update(Relaxed, Relaxed, |n| n.checked_sub(1)) == Ok(1)
}

impl DiskFile for MemFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let data = self.data.lock();
        let from = (offset as usize).min(data.len());
        let n = buffer.len().min(data.len() - from);
        buffer[..n].copy_from_slice(&data[from..from + n]);
        self.shared.read_bytes.fetch_add(n as u64, Relaxed);
        Ok(n)
    }

    fn write_at(&self, pieces: &[&[u8]], offset: u64) -> io::Result<()> {
        if counted_down(&self.shared.fail_write_in) {
            return Err(io::Error::other("planned write failure"));
        }
        let mut data = self.data.lock();
        let mut at = offset as usize;
        for p in pieces {
            if data.len() < at + p.len() {
                data.resize(at + p.len(), 0);
            }
            data[at..at + p.len()].copy_from_slice(p);
            at += p.len();
        }
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        self.shared.syncs.fetch_add(1, Relaxed);
        let ms = self.shared.sync_ms.load(Relaxed);
        if ms > 0 {
            #[allow(clippy::disallowed_methods)] // a slow disk
            std::thread::sleep(std::time::Duration::from_millis(ms));
        }
        if counted_down(&self.shared.fail_sync_in) {
            return Err(io::Error::other("planned sync failure"));
        }
        let data = self.data.lock().clone();
        *self.durable.lock() = data;
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.data.lock().len() as u64)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.data.lock().resize(len as usize, 0);
        Ok(())
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        let mut data = self.data.lock();
        let more = (len as usize).saturating_sub(data.len());
        self.shared
            .room
            .fetch_update(Relaxed, Relaxed, |r| r.checked_sub(more as u64))
            .map_err(|_| io::Error::from(io::ErrorKind::StorageFull))?;
        let grown = data.len() + more;
        data.resize(grown, 0);
        Ok(())
    }
}

type Names = BTreeMap<PathBuf, Arc<MemFile>>;

pub(super) struct MemDisk {
    names: Mutex<Names>,
    durable_names: Mutex<Names>,
    shared: Arc<Shared>,
}

impl MemDisk {
    /// Bytes that were read of all files.
    pub(super) fn read_bytes(&self) -> u64 {
        self.shared.read_bytes.load(Relaxed)
    }

    pub(super) fn new() -> Arc<Self> {
        let shared = Shared { room: AtomicU64::new(u64::MAX), ..Shared::default() };
        Arc::new(Self { names: Mutex::default(), durable_names: Mutex::default(), shared: Arc::new(shared) })
    }

    fn copy(names: &Names, shared: &Arc<Shared>, pick: impl Fn(&MemFile) -> Vec<u8>) -> Names {
        names
            .iter()
            .map(|(p, f)| {
                let data = pick(f);
                let file = MemFile {
                    durable: Mutex::new(data.clone()),
                    data: Mutex::new(data),
                    shared: Arc::clone(shared),
                };
                (p.clone(), Arc::new(file))
            })
            .collect()
    }

    fn image(names: &Names, pick: impl Fn(&MemFile) -> Vec<u8>) -> Arc<Self> {
        let disk = Self::new();
        let copy = Self::copy(names, &disk.shared, pick);
        *disk.durable_names.lock() = copy.clone();
        *disk.names.lock() = copy;
        disk
    }

    /// The disk after a power cut that kept only what was synced.
    pub(super) fn after_power_cut(&self) -> Arc<Self> {
        Self::image(&self.durable_names.lock(), |f| f.durable.lock().clone())
    }

    /// The disk after the process died: everything written is there.
    pub(super) fn after_kill(&self) -> Arc<Self> {
        Self::image(&self.names.lock(), |f| f.data.lock().clone())
    }

    /// The disk after a kill, not yet durable: a later power cut still takes what was never synced.
    pub(super) fn kill_then_power_cut_later(&self) -> Arc<Self> {
        let disk = Self::new();
        let copy: Names = self
            .names
            .lock()
            .iter()
            .map(|(p, f)| {
                let file = MemFile {
                    durable: Mutex::new(f.durable.lock().clone()),
                    data: Mutex::new(f.data.lock().clone()),
                    shared: Arc::clone(&disk.shared),
                };
                (p.clone(), Arc::new(file))
            })
            .collect();
        *disk.durable_names.lock() = copy.clone();
        *disk.names.lock() = copy;
        disk
    }

    pub(super) fn fail_sync_in(&self, n: u64) {
        self.shared.fail_sync_in.store(n, Relaxed);
    }

    pub(super) fn fail_write_in(&self, n: u64) {
        self.shared.fail_write_in.store(n, Relaxed);
    }

    pub(super) fn set_room(&self, bytes: u64) {
        self.shared.room.store(bytes, Relaxed);
    }

    pub(super) fn slow_syncs(&self) {
        self.shared.sync_ms.store(1, Relaxed);
    }

    pub(super) fn syncs(&self) -> u64 {
        self.shared.syncs.load(Relaxed)
    }

    pub(super) fn names(&self) -> Vec<PathBuf> {
        self.names.lock().keys().cloned().collect()
    }

    /// Changes a file's bytes behind everybody's back.
    pub(super) fn edit(&self, path: &Path, f: impl FnOnce(&mut Vec<u8>)) {
        let names = self.names.lock();
        let file = &names[path];
        f(&mut file.data.lock());
        let data = file.data.lock().clone();
        *file.durable.lock() = data;
    }

    pub(super) fn bytes(&self, path: &Path) -> Vec<u8> {
        self.names.lock()[path].data.lock().clone()
    }
}

impl Disk for MemDisk {
    fn open(&self, path: &Path, _write: bool) -> io::Result<Arc<dyn DiskFile>> {
        let names = self.names.lock();
        let f = names.get(path).ok_or(io::ErrorKind::NotFound)?;
        Ok(Arc::clone(f) as Arc<dyn DiskFile>)
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let mut names = self.names.lock();
        if names.contains_key(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let f =
            MemFile { data: Mutex::default(), durable: Mutex::default(), shared: Arc::clone(&self.shared) };
        let f = Arc::new(f);
        names.insert(path.into(), Arc::clone(&f));
        Ok(f)
    }

    fn create_dir(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }

    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        let names = self.names.lock();
        let inside = names.keys().filter_map(|p| p.strip_prefix(path).ok());
        Ok(inside.map(|p| p.to_string_lossy().into_owned()).collect())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut names = self.names.lock();
        let f = names.remove(from).ok_or(io::ErrorKind::NotFound)?;
        names.insert(to.into(), f);
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let f = self.names.lock().remove(path).ok_or(io::ErrorKind::NotFound)?;
        let len = f.data.lock().len() as u64;
        let _ = self.shared.room.fetch_update(Relaxed, Relaxed, |r| Some(r.saturating_add(len)));
        Ok(())
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let names = self.names.lock();
        let mut durable = self.durable_names.lock();
        durable.retain(|p, _| !p.starts_with(path));
        durable.extend(
            names.iter().filter(|(p, _)| p.starts_with(path)).map(|(p, f)| (p.clone(), Arc::clone(f))),
        );
        Ok(())
    }

    fn lock(&self, _: &Path, _: &str) -> io::Result<Box<dyn Send + Sync>> {
        Ok(Box::new(()))
    }

    fn space(&self) -> io::Result<Space> {
        Ok(Space::default())
    }

    fn engine(&self) -> &'static str {
        "memory"
    }
}

/// A clock that moves one microsecond with each look.
#[derive(Default)]
pub(super) struct TestClock(AtomicU64);

impl Clock for TestClock {
    fn wall_ns(&self) -> u64 {
        self.0.fetch_add(1000, Relaxed)
    }

    fn monotonic_ns(&self) -> u64 {
        self.wall_ns()
    }
}

/// Numbers from a seed.
pub(super) struct TestRandom(pub(super) AtomicU64);

impl TestRandom {
    pub(super) fn new(seed: u64) -> Arc<Self> {
        Arc::new(Self(AtomicU64::new(seed)))
    }
}

impl Random for TestRandom {
    fn fill(&self, bytes: &mut [u8]) {
        for b in bytes {
            let step = |x: u64| Some(x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1));
            let x = self.0.fetch_update(Relaxed, Relaxed, step).unwrap_or(0);
            *b = (x >> 40) as u8;
        }
    }
}
