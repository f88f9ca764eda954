//! What the fuzz targets share: a disk in memory, a clock and chance that are always the same.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use segfs::{
    base::{Clock, Random},
    disk::{Disk, DiskFile, Space},
};

/// The true time in every run.
pub const NOW_NS: u64 = 1_790_000_000_000_000_000;

/// A clock that stands still.
pub struct StillClock;

impl Clock for StillClock {
    fn wall_ns(&self) -> u64 {
        NOW_NS
    }

    fn monotonic_ns(&self) -> u64 {
        NOW_NS
    }
}

/// Chance that is the same each time.
pub struct Sequence(AtomicU64);

impl Sequence {
    /// Beginning with this.
    pub fn new(first: u64) -> Self {
        Self(AtomicU64::new(first))
    }
}

impl Random for Sequence {
    fn fill(&self, bytes: &mut [u8]) {
        for part in bytes.chunks_mut(8) {
            let n = self.0.fetch_add(0x9e37_79b9_7f4a_7c15, Relaxed);
            let n = (n ^ (n >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9) | 1;
            part.copy_from_slice(&n.to_le_bytes()[..part.len()]);
        }
    }
}

/// A file in memory.
#[derive(Default)]
pub struct MemFile(Mutex<Vec<u8>>);

impl MemFile {
    /// With this content.
    pub fn new(bytes: Vec<u8>) -> Arc<dyn DiskFile> {
        Arc::new(Self(Mutex::new(bytes)))
    }
}

impl DiskFile for MemFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let data = self.0.lock().unwrap();
        let from = usize::try_from(offset).map_or(data.len(), |o| o.min(data.len()));
        let n = buffer.len().min(data.len() - from);
        buffer[..n].copy_from_slice(&data[from..from + n]);
        Ok(n)
    }

    fn write_at(&self, pieces: &[&[u8]], offset: u64) -> io::Result<()> {
        let mut data = self.0.lock().unwrap();
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
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.0.lock().unwrap().len() as u64)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.lock().unwrap().resize(len as usize, 0);
        Ok(())
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        let mut data = self.0.lock().unwrap();
        let len = data.len().max(len as usize);
        data.resize(len, 0);
        Ok(())
    }
}

/// A disk in memory that never fails.
#[derive(Default)]
pub struct MemDisk(Mutex<BTreeMap<PathBuf, Arc<MemFile>>>);

impl Disk for MemDisk {
    fn open(&self, path: &Path, _write: bool) -> io::Result<Arc<dyn DiskFile>> {
        let files = self.0.lock().unwrap();
        let file = files.get(path).ok_or(io::ErrorKind::NotFound)?;
        Ok(Arc::clone(file) as Arc<dyn DiskFile>)
    }

    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let file = Arc::new(MemFile::default());
        self.0.lock().unwrap().insert(path.into(), Arc::clone(&file));
        Ok(file)
    }

    fn create_dir(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }

    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        let files = self.0.lock().unwrap();
        let inside = files.keys().filter_map(|p| p.strip_prefix(path).ok());
        Ok(inside.map(|p| p.to_string_lossy().into_owned()).collect())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut files = self.0.lock().unwrap();
        let file = files.remove(from).ok_or(io::ErrorKind::NotFound)?;
        files.insert(to.into(), file);
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let file = self.0.lock().unwrap().remove(path);
        file.map(drop).ok_or(io::ErrorKind::NotFound.into())
    }

    fn number(&self, path: &Path) -> io::Result<Option<u64>> {
        let files = self.0.lock().unwrap();
        let file = files.get(path).ok_or(io::ErrorKind::NotFound)?;
        Ok(Some(Arc::as_ptr(file) as u64))
    }

    fn sync_dir(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }

    fn lock(&self, _: &Path, _: &str) -> io::Result<Box<dyn Send + Sync>> {
        Ok(Box::new(()))
    }

    fn space(&self) -> io::Result<Space> {
        Ok(Space { total_bytes: 1 << 40, free_bytes: 1 << 39 })
    }

    fn engine(&self) -> &'static str {
        "memory"
    }
}
