//! Index against log, and content against its hashes.

use super::{Inspection, Progress};
use crate::{
    base::{Damage, Ino, Lsn, Result, SystemRandom},
    format::{
        facts::ObjectKind,
        hash::Hash,
        rows::{ObjectRow, VersionRow, after_prefix, key, kind},
    },
    index::{Index, IndexView, MemoryIndex, Row},
    segment,
    store::{
        content::BranchView,
        hashes::{hash_of_bytes, hash_of_view},
        txn::row,
    },
};

/// Rows fetched at once.
const PAGE: usize = 1024;
/// Differences that are told one by one.
const TOLD: usize = 20;
/// With more rows on disk than this, the log is not replayed in memory.
const MEMORY_ROWS: u64 = 500_000;

/// How a row is not as it should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unlike {
    /// The log makes it, the index does not have it.
    Missing,
    /// The index has it, the log does not make it.
    Extra,
    /// Both have it, with different values.
    Different,
}

/// A row of the index that is not what the log makes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// Its key; the first byte says its kind.
    pub key: Vec<u8>,
    /// How it differs.
    pub how: Unlike,
}

/// What comparing the index with the log found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct IndexCheck {
    /// The index covers the log up to here.
    pub covers: Lsn,
    /// Rows in it.
    pub rows: u64,
    /// How many rows differ.
    pub different: u64,
    /// The first of them.
    pub differences: Vec<Difference>,
}

/// What comparing content with hashes found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HashCheck {
    /// Versions whose content has its hash.
    pub checked: u64,
    /// Versions whose hash is not known.
    pub unknown: u64,
    /// What does not fit, or can't be read.
    pub damages: Vec<Damage>,
}

impl Inspection {
    /// Replays the log up to where the index on disk ends, and compares all rows.
    ///
    /// # Errors
    /// [`Error::InUse`](crate::base::Error::InUse) while a process holds the store,
    /// [`Error::Damaged`](crate::base::Error::Damaged) if the index can't be used, or the log can't be replayed.
    pub fn check_index(&self, progress: Progress<'_>) -> Result<IndexCheck> {
        let view = self.index()?;
        let found = view.index();
        let covers = found.flushed_lsn();
        let last = self.log().last_lsn();
        if covers > last {
            let why = format!("it covers LSN {covers}, but the log ends at {last}");
            return Err(Damage::file(self.index_path(), 0, why).into());
        }
        if found.stats().disk_rows <= MEMORY_ROWS {
            let made = MemoryIndex::new();
            self.replay_into(&made, covers, u64::MAX, &mut false, progress)?;
            return compare(&made, &*found, covers);
        }
        let made = IndexView::empty(super::CACHE_BYTES, &SystemRandom)?;
        self.replay_into(&*made.index(), covers, super::MEMTABLE_BYTES, &mut false, progress)?;
        compare(&*made.index(), &*found, covers)
    }

    /// Reads every version whose hash is known, and compares.
    ///
    /// # Errors
    /// What reading rows says.
    pub fn check_hashes(&self, index: &dyn Index, progress: Progress<'_>) -> Result<HashCheck> {
        let mut check = HashCheck::default();
        let mut versions = Pages::new(index, &[kind::VERSION], &after_prefix(&[kind::VERSION]))?;
        while let Some((k, bytes)) = versions.next()? {
            let v: VersionRow = row(&k, &bytes)?;
            let Some(hash) = v.hash else {
                check.unknown += 1;
                continue;
            };
            let ino = key::ino_of(&k).unwrap_or_default();
            let at = Lsn::new(key::last_number(&k).unwrap_or(0));
            let wrong = |why: String| Damage::file(format!("version {} of inode {ino}", v.id), 0, why);
            match self.hash(index, ino, at, &v) {
                Ok(h) if h == hash => {}
                Ok(_) => {
                    check.damages.push(wrong("the content does not have the hash of the version".into()))
                }
                Err(crate::base::Error::Damaged(d)) => check.damages.push(d),
                Err(e) => return Err(e),
            }
            check.checked += 1;
            progress(check.checked, 0);
        }
        Ok(check)
    }

    fn hash(&self, index: &dyn Index, ino: Ino, at: Lsn, v: &VersionRow) -> Result<Hash> {
        let k = key::object(ino);
        if let Some(bytes) = index.get(&k)? {
            let object: ObjectRow = row(&k, &bytes)?;
            if object.attributes.kind == ObjectKind::Symlink {
                return Ok(hash_of_bytes(&object.attributes.target));
            }
        }
        let view = BranchView { ino, branch: v.branch, at, cuts: v.cuts.clone(), rests: true };
        hash_of_view(&view, index, v.size, &mut |p, from, out| {
            let skip = u64::from(p.skip) + u64::from(from - p.start);
            let k = key::moved(p.extent);
            let at = match index.get(&k)? {
                Some(bytes) => row(&k, &bytes)?,
                None => p.location,
            };
            self.log().read(&segment::Location::of_extent(&at), skip..skip + out.len() as u64, out)
        })
    }
}

/// Rows of a range, a page at a time.
struct Pages<'a> {
    index: &'a dyn Index,
    end: Vec<u8>,
    start: Vec<u8>,
    page: std::vec::IntoIter<Row>,
    more: bool,
}

impl<'a> Pages<'a> {
    fn new(index: &'a dyn Index, start: &[u8], end: &[u8]) -> Result<Self> {
        let page = Vec::new().into_iter();
        Ok(Self { index, end: end.into(), start: start.into(), page, more: true })
    }

    fn next(&mut self) -> Result<Option<Row>> {
        if self.page.len() == 0 && self.more {
            let rows = self.index.scan(&self.start, &self.end, PAGE)?;
            self.more = rows.len() == PAGE;
            if let Some((k, _)) = rows.last() {
                self.start = [k, &[0][..]].concat();
            }
            self.page = rows.into_iter();
        }
        Ok(self.page.next())
    }
}

/// Goes through two indexes side by side.
fn compare(made: &dyn Index, found: &dyn Index, covers: Lsn) -> Result<IndexCheck> {
    let mut check = IndexCheck { covers, ..IndexCheck::default() };
    let (mut a, mut b) = (Pages::new(made, &[], &[kind::SPARED])?, Pages::new(found, &[], &[kind::SPARED])?);
    let (mut x, mut y) = (a.next()?, b.next()?);
    loop {
        let order = match (&x, &y) {
            (None, None) => return Ok(check),
            (Some(_), None) => std::cmp::Ordering::Less,
            (None, Some(_)) => std::cmp::Ordering::Greater,
            (Some(x), Some(y)) => x.0.cmp(&y.0),
        };
        let how = match order {
            std::cmp::Ordering::Less => Some(Unlike::Missing),
            std::cmp::Ordering::Greater => Some(Unlike::Extra),
            std::cmp::Ordering::Equal => (x != y).then_some(Unlike::Different),
        };
        check.rows += u64::from(order.is_ge());
        if let Some(how) = how {
            check.different += 1;
            if check.differences.len() < TOLD
                && let Some((key, _)) = if order.is_gt() { &y } else { &x }
            {
                check.differences.push(Difference { key: key.to_vec(), how });
            }
        }
        if order.is_le() {
            x = a.next()?;
        }
        if order.is_ge() {
            y = b.next()?;
        }
    }
}
