//! Looking at an index on disk without changing it.
//!
//! The crate deletes what it does not know when it opens a directory, and may write to it later. So it is given
//! a directory elsewhere, with a link to each file: whatever it deletes or writes there, the index stays as it is.

use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt as _, symlink},
    path::{Path, PathBuf},
    sync::Arc,
};

use super::SortedIndex;
use crate::base::{Error, Random, Result};

/// An index in a directory that goes away with it.
pub struct IndexView {
    index: Arc<SortedIndex>,
    _directory: Directory,
}

struct Directory(PathBuf);

impl Drop for Directory {
    fn drop(&mut self) {
        // What is left in the system's directory for such things is the system's to clean.
        let _ = fs::remove_dir_all(&self.0);
    }
}

impl Directory {
    fn new(random: &dyn Random) -> io::Result<Self> {
        let path = std::env::temp_dir().join(format!("segfs-index-{:016x}", random.nonzero_u64()));
        fs::DirBuilder::new().mode(0o700).create(&path)?;
        Ok(Self(path))
    }
}

impl IndexView {
    /// Opens the index in the directory `path`. Changes go elsewhere and are lost in the end. Whoever opens it holds the
    /// store's lock.
    ///
    /// # Errors
    /// [`Error::Damaged`] if it can't be used; what the system says, if there is no room for
    /// the links.
    pub fn open(path: &Path, cache_bytes: u64, random: &dyn Random) -> Result<Self> {
        let failed = |e| Error::io(format!("looking at {}", path.display()), e);
        let directory = Directory::new(random).map_err(failed)?;
        let from = fs::canonicalize(path).map_err(failed)?;
        link_all(&from, &directory.0).map_err(failed)?;
        let index = Arc::new(SortedIndex::open(&directory.0, cache_bytes)?);
        Ok(Self { index, _directory: directory })
    }

    /// An empty index.
    ///
    /// # Errors
    /// What the system says.
    pub fn empty(cache_bytes: u64, random: &dyn Random) -> Result<Self> {
        let failed = |e| Error::io("making a directory for an index", e);
        let directory = Directory::new(random).map_err(failed)?;
        let index = Arc::new(SortedIndex::open(&directory.0, cache_bytes)?);
        Ok(Self { index, _directory: directory })
    }
}

impl IndexView {
    /// The rows. They are there as long as the view is.
    #[must_use]
    pub fn index(&self) -> Arc<SortedIndex> {
        Arc::clone(&self.index)
    }
}

fn link_all(from: &Path, to: &Path) -> io::Result<()> {
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            fs::create_dir(&target)?;
            link_all(&entry.path(), &target)?;
        } else {
            symlink(entry.path(), &target)?;
        }
    }
    Ok(())
}
