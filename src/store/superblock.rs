//! The superblock's file: making it, reading it, mending it.

use std::path::{Path, PathBuf};

use crate::{
    base::{Clock, Error, Lsn, Random, Result, StoreId},
    disk::Disk,
    format::{Superblock, VERSION},
};

use super::{Options, Store, open::SUPERBLOCK};

/// Length of one of the two copies.
const COPY_BYTES: u64 = crate::format::superblock::COPY_BYTES as u64;

/// A superblock as it was read.
#[derive(Clone)]
pub(super) struct Read {
    /// What it says.
    pub(super) superblock: Superblock,
    /// What is wrong with each copy.
    wrong: [Option<&'static str>; 2],
}

impl Read {
    /// The damaged copies, for people.
    pub(super) fn damage(&self) -> Vec<String> {
        let wrong = self.wrong.iter().enumerate();
        wrong.filter_map(|(i, w)| w.map(|w| format!("copy {i}: {w}"))).collect()
    }

    /// Writes a damaged copy anew. The good one is not touched, so that a crash changes nothing.
    pub(super) fn mend(&self, disk: &dyn Disk) -> Result<()> {
        let bytes = self.superblock.encode();
        let write = || -> std::io::Result<()> {
            let file = disk.open(Path::new(SUPERBLOCK), true)?;
            for (i, _) in self.wrong.iter().enumerate().filter(|(_, w)| w.is_some()) {
                file.write_at(&[&bytes], i as u64 * COPY_BYTES)?;
            }
            file.sync()
        };
        write().map_err(|e| Error::io(format!("mending {SUPERBLOCK}"), e))
    }
}

/// Reads it, and refuses a store that this program may not open in that way.
pub(super) fn read(disk: &dyn Disk, path: &Path, writing: bool) -> Result<Read> {
    let not = |why: String| Error::NotAStore { path: path.to_owned(), why };
    let shown = path.join(SUPERBLOCK);
    let file = match disk.open(Path::new(SUPERBLOCK), false) {
        Ok(file) => file,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            return Err(not(format!("it has no file {SUPERBLOCK}; `segfs init` makes a store")));
        }
        Err(e) => return Err(Error::io(format!("opening {}", shown.display()), e)),
    };
    let mut bytes = vec![0; 8192];
    let n = file.read_at(&mut bytes, 0).map_err(|e| Error::io(format!("reading {}", shown.display()), e))?;
    let copy = |i: usize| bytes.get(i * 4096..((i + 1) * 4096).min(n)).unwrap_or_default();
    let (best, wrong) = Superblock::choose(copy(0), copy(1));
    let Some(superblock) = best else {
        return Err(not(format!("both copies in {SUPERBLOCK} are damaged")));
    };
    let newer = newer(&superblock, writing);
    match newer {
        Some(what) => Err(Error::Newer { path: PathBuf::from(path), what }),
        None => Ok(Read { superblock, wrong: wrong.map(|w| w.map(|w| w.0)) }),
    }
}

/// Notes up to where the log is durable that was closed and does not say so itself. One copy after the other, so that a crash leaves
/// one of them whole.
pub(super) fn note_closed(disk: &dyn Disk, closed_lsn: Lsn) -> Result<()> {
    let read = read(disk, Path::new(""), true)?;
    let generation = read.superblock.generation + 1;
    let bytes = Superblock { generation, closed_lsn, ..read.superblock }.encode();
    // The copy that is damaged, if one is, comes first: the other is all that there is.
    let first = u64::from(read.wrong[1].is_some());
    let write = || -> std::io::Result<()> {
        let file = disk.open(Path::new(SUPERBLOCK), true)?;
        for copy in [first, 1 - first] {
            file.write_at(&[&bytes], copy * COPY_BYTES)?;
            file.sync()?;
        }
        Ok(())
    };
    write().map_err(|e| Error::io(format!("writing {SUPERBLOCK}"), e))
}

/// What in it this program does not know.
fn newer(s: &Superblock, writing: bool) -> Option<String> {
    if s.version > VERSION {
        return Some(format!("it has format version {}, this program knows {VERSION}", s.version));
    }
    if s.incompatible != 0 {
        let bits = bits(s.incompatible);
        return Some(format!("it uses incompatible features that this program does not know (bits {bits})"));
    }
    (writing && s.read_only_compatible != 0).then(|| {
        let bits = bits(s.read_only_compatible);
        format!("it uses features with which this program may only read it, `-o ro` (bits {bits})")
    })
}

/// Their numbers.
fn bits(set: u64) -> String {
    let numbers: Vec<String> = (0..64).filter(|n| set >> n & 1 == 1).map(|n| n.to_string()).collect();
    numbers.join(", ")
}

impl Store {
    /// Writes the superblock of a new store onto a disk. Should that fail, what was made is taken away again.
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
        make(disk, &superblock).map(|()| id)
    }
}

const DIRECTORIES: [&str; 2] = [crate::segment::DIRECTORY, crate::segment::SPARE_DIRECTORY];

fn make(disk: &dyn Disk, superblock: &Superblock) -> Result<()> {
    for dir in DIRECTORIES {
        disk.create_dir(Path::new(dir)).map_err(|e| {
            take_away(disk, &DIRECTORIES);
            Error::io(format!("making {dir}/"), e)
        })?;
    }
    let file = match disk.create(Path::new(SUPERBLOCK)) {
        Ok(file) => file,
        Err(e) => {
            // Those of somebody who makes a store here too are not empty for long, and then they stay.
            take_away(disk, &DIRECTORIES);
            return Err(Error::io(format!("making {SUPERBLOCK}"), e));
        }
    };
    let write = || -> std::io::Result<()> {
        for copy in 0..2 {
            file.write_at(&[&superblock.encode()], copy * COPY_BYTES)?;
            file.sync()?;
        }
        disk.sync_dir(Path::new(""))
    };
    write().map_err(|e| {
        let _ = disk.remove(Path::new(SUPERBLOCK));
        take_away(disk, &DIRECTORIES);
        Error::io(format!("writing {SUPERBLOCK}"), e)
    })
}

/// Removes directories that are empty. The first failure is the one to tell, so this has none.
fn take_away(disk: &dyn Disk, directories: &[&str]) {
    for dir in directories {
        let _ = disk.remove_dir(Path::new(dir));
    }
}
