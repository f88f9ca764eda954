//! The log against bare system calls on the same disk: `cargo bench --bench log [DIR]`.
//!
//! Ratios above 1 mean that the log is slower than the bare loop.
#![allow(clippy::disallowed_methods)] // measures with the machine's clock and files

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};

use segfs::{
    base::{Lsn, StoreId, SystemClock, SystemRandom},
    disk::{Disk, DiskFile, Space},
    format::{Kind, Prepared},
    log::{Log, LogOptions, Record},
};

struct PlainDisk(PathBuf);
struct PlainFile(File);

impl DiskFile for PlainFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.0.read_at(buffer, offset)
    }
    fn write_at(&self, pieces: &[&[u8]], mut offset: u64) -> io::Result<()> {
        // One call for small batches, as a vectored write would be.
        if pieces.iter().map(|p| p.len()).sum::<usize>() <= 256 << 10 {
            return self.0.write_all_at(&pieces.concat(), offset);
        }
        for p in pieces {
            self.0.write_all_at(p, offset)?;
            offset += p.len() as u64;
        }
        Ok(())
    }
    fn sync(&self) -> io::Result<()> {
        self.0.sync_data()
    }
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }
    fn allocate(&self, len: u64) -> io::Result<()> {
        rustix::fs::fallocate(&self.0, rustix::fs::FallocateFlags::empty(), 0, len).map_err(io::Error::from)
    }
}

impl Disk for PlainDisk {
    fn open(&self, path: &Path, write: bool) -> io::Result<Arc<dyn DiskFile>> {
        let f = OpenOptions::new().read(true).write(write).open(self.0.join(path))?;
        Ok(Arc::new(PlainFile(f)))
    }
    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let f = OpenOptions::new().read(true).write(true).create_new(true).open(self.0.join(path))?;
        Ok(Arc::new(PlainFile(f)))
    }
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        std::fs::create_dir_all(self.0.join(path))
    }
    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        let mut names: Vec<_> = std::fs::read_dir(self.0.join(path))?
            .map(|e| e.map(|e| e.file_name().to_string_lossy().into_owned()))
            .collect::<Result<_, _>>()?;
        names.sort();
        Ok(names)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::rename(self.0.join(from), self.0.join(to))
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_file(self.0.join(path))
    }
    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        File::open(self.0.join(path))?.sync_all()
    }
    fn lock(&self, _: &Path, _: &str) -> io::Result<Box<dyn Send + Sync>> {
        Ok(Box::new(()))
    }
    fn space(&self) -> io::Result<Space> {
        Ok(Space::default())
    }
    fn engine(&self) -> &'static str {
        "plain"
    }
}

fn log_in(dir: &Path, background: bool) -> Log {
    let disk: Arc<dyn Disk> = Arc::new(PlainDisk(dir.into()));
    // A spare that was written once, as a running store has.
    disk.create_dir(Path::new("spare")).unwrap();
    for n in 0..4 {
        written_once(&dir.join(format!("spare/{n}")), 64 << 20);
    }
    let opts = LogOptions { background, ..LogOptions::default() };
    Log::create(disk, StoreId::new(1), opts, Arc::new(SystemClock), Arc::new(SystemRandom)).unwrap()
}

fn written_once(path: &Path, len: u64) -> File {
    let f = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(path).unwrap();
    rustix::fs::fallocate(&f, rustix::fs::FallocateFlags::empty(), 0, len).unwrap();
    let zeros = vec![0; 1 << 20];
    for at in (0..len).step_by(1 << 20) {
        f.write_all_at(&zeros, at).unwrap();
    }
    f.sync_all().unwrap();
    f
}

fn noise(n: usize) -> Vec<u8> {
    let mut bytes = vec![0; n];
    segfs::base::Random::fill(&SystemRandom, &mut bytes);
    bytes
}

const COMMITS: usize = 2000;

fn bare_commits(dir: &Path, bytes: usize) -> f64 {
    let f = written_once(&dir.join("bare"), 64 << 20);
    let data = noise(bytes);
    let begun = Instant::now();
    for n in 0..COMMITS {
        f.write_all_at(&data, (n * bytes) as u64).unwrap();
        f.sync_data().unwrap();
    }
    begun.elapsed().as_secs_f64() / COMMITS as f64
}

fn log_commits(log: &Log, threads: usize) -> f64 {
    let data = noise(4096);
    let begun = Instant::now();
    std::thread::scope(|s| {
        for _ in 0..threads {
            s.spawn(|| {
                for _ in 0..COMMITS / threads {
                    let p = Prepared::extent(data.clone(), false);
                    let lsn = log.append(&[Record::new(Kind::Extent, &p)]).unwrap()[0].0;
                    log.wait_durable(lsn).unwrap();
                }
            });
        }
    });
    begun.elapsed().as_secs_f64() / COMMITS as f64
}

const BULK_MIB: u64 = 192;

fn bare_bulk(dir: &Path) -> f64 {
    let f = written_once(&dir.join("bare"), BULK_MIB << 20);
    let data = noise(1 << 20);
    let begun = Instant::now();
    for n in 0..BULK_MIB {
        f.write_all_at(&data, n << 20).unwrap();
    }
    f.sync_data().unwrap();
    BULK_MIB as f64 / begun.elapsed().as_secs_f64()
}

fn log_bulk(log: &Log) -> f64 {
    let data = noise(1 << 20);
    let begun = Instant::now();
    let mut last = Lsn::new(0);
    for _ in 0..BULK_MIB {
        let p = Prepared::extent(data.clone(), false);
        last = log.append(&[Record::new(Kind::Extent, &p)]).unwrap()[0].0;
    }
    log.wait_durable(last).unwrap();
    BULK_MIB as f64 / begun.elapsed().as_secs_f64()
}

fn main() {
    let base = std::env::args().nth(1).filter(|a| !a.starts_with('-')).unwrap_or_else(|| "target".into());
    for round in 1..=3 {
        let dir = tempfile::tempdir_in(&base).unwrap();
        let bare = bare_commits(dir.path(), 4096);
        let bare8 = bare_commits(dir.path(), 8192);
        let log = log_in(dir.path(), false);
        let one = log_commits(&log, 1);
        let before = log.status();
        let four = log_commits(&log, 4);
        let after = log.status();
        drop(log);
        println!(
            "round {round}: bare 4 KiB {:.0} us, bare 8 KiB {:.0} us, log 1 thread {:.0} us ({:.2} of bare 4, {:.2} of bare 8), \
             4 threads {:.0} us per commit ({:.2} times the rate of 1; {:.2} records per batch)",
            bare * 1e6,
            bare8 * 1e6,
            one * 1e6,
            one / bare,
            one / bare8,
            four * 1e6,
            one / four,
            (after.records - before.records) as f64 / (after.batches - before.batches) as f64,
        );
        drop(dir);
        let dir = tempfile::tempdir_in(&base).unwrap();
        let bare = bare_bulk(dir.path());
        let inline = log_bulk(&log_in(dir.path(), false));
        drop(dir);
        let dir = tempfile::tempdir_in(&base).unwrap();
        let background = log_bulk(&log_in(dir.path(), true));
        println!(
            "round {round}: bulk bare {bare:.0} MiB/s, log inline {inline:.0} ({:.2}), background {background:.0} ({:.2})",
            inline / bare,
            background / bare
        );
    }
}
