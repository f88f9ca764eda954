//! Directory scans: cookies that stay good while the directory changes.
//!
//! What is there during all of a scan is given exactly once, whatever else comes and goes. There are two ways:
//! - A small directory is given in the order of the hashes of its names, and the cookie is the hash. It means the same to
//!   every handle, for ever, also when its name is gone; so the kernel may keep the listing when the directory is closed, and ask
//!   another handle for the rest of one that it lost a part of. Each request collects all names anew.
//! - A large one is given in the order of its names. A cookie stands for a name that this handle gave; they are only ever
//!   added, until the scan starts from the beginning. Nobody may keep that.
//!
//! The kernel forgets a listing when it changes the directory itself. Whoever changes names in another way has to tell it
//! (all pages of the directory's inode), from a thread that holds no lock.

use std::{collections::HashMap, sync::Arc};

use parking_lot::Mutex;

use crate::{
    base::{FsError, Ino, Result, limits},
    format::facts::ObjectKind,
    store::{Attributes, Entry},
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
    /// In the order of hashes.
    small: bool,
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

/// Entries in the order of the hashes of their names, which are their cookies. Of those with one hash, each comes right
/// behind the one before.
fn in_order(entries: Vec<Entry>) -> Vec<Listed> {
    let mut all: Vec<(u64, Entry)> = entries.into_iter().map(|e| (place(&e.name), e)).collect();
    all.sort_unstable_by(|a, b| (a.0, &a.1.name).cmp(&(b.0, &b.1.name)));
    let mut last = DOT_DOT;
    let listed = |(place, e): (u64, Entry)| {
        last = place.max(last + 1);
        Listed { name: e.name, ino: e.ino, kind: e.kind, cookie: last }
    };
    all.into_iter().map(listed).collect()
}

/// Where a name stands in the listing of a small directory: 62 bits, so that two of one directory hardly ever share a place, and
/// what comes behind the last one is still a positive offset.
fn place(name: &[u8]) -> u64 {
    // FNV-1a, and a last step (SplitMix64) that lets every byte reach every bit.
    let mut h = name
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |h: u64, b| (h ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3));
    h = (h ^ (h >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    h = (h ^ (h >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((h ^ (h >> 31)) >> 2).max(DOT_DOT + 1)
}

impl Vfs {
    /// Opens a directory for scanning. True: its listing may be kept, as long as its names stay.
    ///
    /// # Errors
    /// [`FsError::NotADirectory`], [`FsError::NotFound`].
    pub fn open_dir(&self, dir: Ino) -> Result<(u64, bool)> {
        let a = self.attributes(dir)?;
        if a.kind != ObjectKind::Directory {
            return Err(FsError::NotADirectory.into());
        }
        let small = a.size <= limits::KEPT_LISTING;
        let mut dirs = self.dirs.lock();
        dirs.last += 1;
        let handle = dirs.last;
        let scan = Scan { dir, small, names: Vec::new(), ends: Vec::new() };
        dirs.scans.insert(handle, Arc::new(Mutex::new(scan)));
        Ok((handle, small))
    }

    /// Ends a scan.
    pub fn release_dir(&self, handle: u64) {
        self.dirs.lock().scans.remove(&handle);
    }

    /// The entries behind a cookie (0: from the beginning), at most `limit` (of a small directory, all); none at the end.
    ///
    /// # Errors
    /// [`FsError::Invalid`] for a handle that this never gave, or a cookie that a large directory never gave, or what the store says.
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
        if scan.small {
            let all = in_order(view.entries(scan.dir, None, usize::MAX)?);
            listed.extend(all.into_iter().filter(|e| e.cookie > cookie));
            return Ok(listed);
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

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(name: &[u8]) -> Entry {
        Entry { name: name.to_vec(), ino: Ino::new(7), kind: ObjectKind::File }
    }

    #[test]
    fn places_of_names_never_change_and_differ() {
        // Listings that a kernel keeps outlive the program.
        let known = [4_416_489_145_408_256_550, 49_591_753_212_495_934, 1_120_671_209_343_080_705];
        assert_eq!([place(b""), place(b"a"), place(b"b")], known);
        let names: Vec<Vec<u8>> = (0..10_000).map(|n| format!("f{n}").into_bytes()).collect();
        let all = in_order(names.iter().map(|n| entry(n)).collect());
        assert!(all.is_sorted_by(|a, b| a.cookie < b.cookie));
        assert!(all.iter().all(|e| e.cookie == place(&e.name) && e.cookie > DOT_DOT && e.cookie < 1 << 62));
        // Whatever goes, the others stay where they are.
        let fewer = in_order(names.iter().filter(|n| n.len() % 2 == 0).map(|n| entry(n)).collect());
        assert!(fewer.iter().all(|e| all.contains(e)));
    }

    #[test]
    fn names_of_one_place_are_all_listed() {
        let all = in_order([b"x", b"x", b"y", b"x"].iter().map(|n| entry(&n[..])).collect());
        assert_eq!(all.len(), 4);
        assert!(all.is_sorted_by(|a, b| a.cookie < b.cookie));
    }
}
