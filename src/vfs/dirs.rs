//! Directory scans: cookies that stay good while the directory changes.
//!
//! A scan goes through the names in their order and goes on behind the last name that it gave, so that what is
//! there during all of it is given exactly once, whatever else comes and goes. A cookie stands for a name that
//! this handle gave; they are only ever added, until the scan starts from the beginning.

use std::{collections::HashMap, sync::Arc};

use parking_lot::Mutex;

use crate::{
    base::{FsError, Ino, Result},
    format::facts::ObjectKind,
    store::Attributes,
};

use super::Vfs;

/// An entry as a scan gives it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Name.
    pub name: Vec<u8>,
    /// Object.
    pub ino: Ino,
    /// What it is.
    pub kind: ObjectKind,
    /// Where to go on after this entry.
    pub cookie: u64,
}

/// Cookies of "." and "..".
const DOT: u64 = 1;
const DOT_DOT: u64 = 2;

/// All open directories.
#[derive(Default)]
pub(super) struct Dirs {
    last: u64,
    scans: HashMap<u64, Arc<Mutex<Scan>>>,
}

struct Scan {
    dir: Ino,
    /// The names given so far, one behind the other.
    names: Vec<u8>,
    /// Where each ends.
    ends: Vec<usize>,
}

impl Scan {
    fn name(&self, cookie: u64) -> Option<&[u8]> {
        let at = usize::try_from(cookie.checked_sub(DOT_DOT + 1)?).ok()?;
        let end = *self.ends.get(at)?;
        let start = if at == 0 { 0 } else { self.ends[at - 1] };
        Some(&self.names[start..end])
    }

    fn give(&mut self, name: &[u8]) -> u64 {
        self.names.extend_from_slice(name);
        self.ends.push(self.names.len());
        DOT_DOT + self.ends.len() as u64
    }
}

impl Vfs {
    /// Opens a directory for scanning.
    ///
    /// # Errors
    /// [`FsError::NotADirectory`], [`FsError::NotFound`].
    pub fn open_dir(&self, dir: Ino) -> Result<u64> {
        if self.attributes(dir)?.kind != ObjectKind::Directory {
            return Err(FsError::NotADirectory.into());
        }
        let mut dirs = self.dirs.lock();
        dirs.last += 1;
        let handle = dirs.last;
        let scan = Scan { dir, names: Vec::new(), ends: Vec::new() };
        dirs.scans.insert(handle, Arc::new(Mutex::new(scan)));
        Ok(handle)
    }

    /// Ends a scan.
    pub fn release_dir(&self, handle: u64) {
        self.dirs.lock().scans.remove(&handle);
    }

    /// The entries behind a cookie (0: from the beginning), at most `limit`; none at the end.
    ///
    /// # Errors
    /// [`FsError::Invalid`] for a cookie or handle that this never gave, or what the store says.
    pub fn read_dir(&self, handle: u64, cookie: u64, limit: usize) -> Result<Vec<Listed>> {
        let scan = self.dirs.lock().scans.get(&handle).cloned().ok_or(FsError::Invalid)?;
        let mut scan = scan.lock();
        let view = self.store.view();
        let mut listed = Vec::with_capacity(limit);
        if cookie == 0 {
            scan.names.clear();
            scan.ends.clear();
        }
        if cookie < DOT {
            let (name, ino) = (b".".to_vec(), scan.dir);
            listed.push(Listed { name, ino, kind: ObjectKind::Directory, cookie: DOT });
        }
        if cookie < DOT_DOT {
            let (name, ino) = (b"..".to_vec(), view.parent(scan.dir)?);
            listed.push(Listed { name, ino, kind: ObjectKind::Directory, cookie: DOT_DOT });
        }
        let after = match cookie {
            0..=DOT_DOT => None,
            _ => Some(scan.name(cookie).ok_or(FsError::Invalid)?.to_vec()),
        };
        let want = limit.saturating_sub(listed.len());
        for entry in view.entries(scan.dir, after.as_deref(), want)? {
            let cookie = scan.give(&entry.name);
            listed.push(Listed { name: entry.name, ino: entry.ino, kind: entry.kind, cookie });
        }
        Ok(listed)
    }

    /// Attributes of a listed entry; none if it is gone by now.
    ///
    /// # Errors
    /// What the store says.
    pub fn listed_attributes(&self, entry: &Listed) -> Result<Option<Attributes>> {
        match self.attributes(entry.ino) {
            Ok(a) => Ok(Some(a)),
            Err(crate::base::Error::Fs(FsError::NotFound)) => Ok(None),
            Err(e) => Err(e),
        }
    }
}
