//! Sorted rows, derived from the log: what is where, now and then.
//!
//! Keys and values are opaque bytes; the store decides what they mean. Nothing here is trusted for
//! durability: an index that can't be opened is deleted and built again from the log. What it does promise is
//! that an index which opens holds exactly the rows of the log up to [`Index::flushed_lsn`].
//!
//! Two backends: [`SortedIndex`] on disk, the only place that knows the `lsm-tree` crate, and
//! [`MemoryIndex`] for the simulator.

mod cache;
mod holes;
mod memory;
mod sorted;
mod unfinished;
mod view;

use std::{fmt, ops::Deref, sync::Arc};

pub use cache::CachedIndex;
pub use memory::{FlushedState, MemoryIndex};
pub use sorted::{SortedIndex, destroy, set_aside};
pub use view::IndexView;

use crate::base::{Error, Lsn, Result};

/// Keys that begin with this byte belong to the index itself: [`Index::apply`] refuses them, and no scan shows them.
pub const RESERVED: u8 = 0;
/// The row that names the highest LSN which a memtable covers.
const F_KEY: [u8; 2] = [RESERVED, b'F'];
/// Where the rows of the store begin.
const FIRST_KEY: [u8; 1] = [RESERVED + 1];
/// The longest key, in bytes.
pub const KEY_BYTES: usize = u16::MAX as usize;

/// A value: bytes that are cheap to clone.
///
/// One that came from disk may keep the block it lies in (some KiB) in memory; who stores it for long copies it.
#[derive(Clone, PartialEq, Eq, Hash, Default)]
pub struct Value(lsm_tree::Slice);

impl Deref for Value {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl AsRef<[u8]> for Value {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl From<&[u8]> for Value {
    fn from(bytes: &[u8]) -> Self {
        Self(bytes.into())
    }
}

impl From<Vec<u8>> for Value {
    fn from(bytes: Vec<u8>) -> Self {
        Self(bytes.into())
    }
}

impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Value({})", self.0.escape_ascii())
    }
}

/// A row: its key and value.
pub type Row = (Box<[u8]>, Value);

/// One row written or removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Which row.
    pub key: Vec<u8>,
    /// Its new value; `None` removes it.
    pub value: Option<Vec<u8>>,
}

impl Change {
    /// Writes a row.
    #[must_use]
    pub fn put(key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) -> Self {
        Self { key: key.into(), value: Some(value.into()) }
    }

    /// Removes a row.
    #[must_use]
    pub fn remove(key: impl Into<Vec<u8>>) -> Self {
        Self { key: key.into(), value: None }
    }
}

/// What an index uses.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct IndexStats {
    /// Bytes of the tables on disk.
    pub disk_bytes: u64,
    /// Tables on disk.
    pub tables: usize,
    /// Rows on disk, superseded ones and removals included.
    pub disk_rows: u64,
    /// Removals on disk that have not met the row they remove yet.
    pub tombstones: u64,
    /// Bytes in the block cache.
    pub cache_bytes: u64,
    /// Bytes in memtables: the active one and those that wait.
    pub memtable_bytes: u64,
    /// Rotated memtables that wait for [`Index::flush`].
    pub waiting_memtables: usize,
}

/// Which way a walk over rows goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// Ascending keys.
    Forward,
    /// Descending keys.
    Back,
}

/// Sorted rows.
///
/// Every read sees all changes whose [`apply`](Self::apply) returned before it began, and of each `apply` all
/// changes or none; a walk sees one moment from its first row to its last.
pub trait Index: Send + Sync {
    /// The value of a key.
    fn get(&self, key: &[u8]) -> Result<Option<Value>>;

    /// Applies all changes of one log record; a later change to the same key wins. Called in LSN order, by one
    /// thread at a time.
    fn apply(&self, lsn: Lsn, changes: &[Change]) -> Result<()>;

    /// Hands the rows with `start <= key < end` to `visit`, in order, until it returns false.
    fn walk(
        &self,
        start: &[u8],
        end: &[u8],
        order: Order,
        visit: &mut dyn FnMut(&[u8], &Value) -> bool,
    ) -> Result<()>;

    /// The first `limit` rows with `start <= key < end`, ascending.
    fn scan(&self, start: &[u8], end: &[u8], limit: usize) -> Result<Vec<Row>> {
        collect(self, start, end, Order::Forward, limit)
    }

    /// The last `limit` rows with `start <= key < end`, descending.
    fn scan_back(&self, start: &[u8], end: &[u8], limit: usize) -> Result<Vec<Row>> {
        collect(self, start, end, Order::Back, limit)
    }

    /// The last row with `start <= key < end`.
    fn last(&self, start: &[u8], end: &[u8]) -> Result<Option<Row>> {
        Ok(self.scan_back(start, end, 1)?.pop())
    }

    /// Bytes in the active memtable, so that the store decides when to rotate.
    fn unflushed_bytes(&self) -> u64;

    /// Removals in the active memtable, of which a walk through their place steps over each.
    fn unflushed_removals(&self) -> u64 {
        0
    }

    /// Closes the active memtable: it covers exactly what was applied so far, up to `lsn`. Never concurrent with
    /// [`apply`](Self::apply). Does nothing if nothing was applied and `lsn` is not new.
    fn rotate(&self, lsn: Lsn) -> Result<()>;

    /// Writes to disk, oldest first, the rotated memtables that cover no LSN above `durable`, the highest LSN
    /// that is durable in the log. May run beside reads, `apply`, `rotate` and `compact`; what is rotated meanwhile
    /// is left for the next. Merges first if merging has fallen far behind.
    fn flush_to(&self, durable: Lsn) -> Result<()>;

    /// Writes all rotated memtables to disk. Only while nobody rotates, or when the log is durable anyhow; else
    /// [`flush_to`](Self::flush_to).
    fn flush(&self) -> Result<()> {
        self.flush_to(Lsn::MAX)
    }

    /// Rotated memtables that wait for a flush.
    fn waiting_memtables(&self) -> usize;

    /// Highest LSN that the index on disk covers; 0 if it is empty. Replay starts at the next.
    fn flushed_lsn(&self) -> Lsn;

    /// Merges once, if there is anything to merge; says whether there was. Runs beside everything else; may take
    /// long.
    fn compact(&self) -> Result<bool>;

    /// Makes a merge that runs give up soon, and later ones do nothing: the index is about to be closed.
    fn interrupt(&self) {}

    /// What the index uses.
    fn stats(&self) -> IndexStats;
}

/// A shared index is an index: so a simulator keeps a hold of what it hands to a store.
impl<I: Index + ?Sized> Index for Arc<I> {
    fn get(&self, key: &[u8]) -> Result<Option<Value>> {
        (**self).get(key)
    }

    fn apply(&self, lsn: Lsn, changes: &[Change]) -> Result<()> {
        (**self).apply(lsn, changes)
    }

    fn walk(
        &self,
        start: &[u8],
        end: &[u8],
        order: Order,
        visit: &mut dyn FnMut(&[u8], &Value) -> bool,
    ) -> Result<()> {
        (**self).walk(start, end, order, visit)
    }

    fn unflushed_bytes(&self) -> u64 {
        (**self).unflushed_bytes()
    }

    fn unflushed_removals(&self) -> u64 {
        (**self).unflushed_removals()
    }

    fn rotate(&self, lsn: Lsn) -> Result<()> {
        (**self).rotate(lsn)
    }

    fn flush_to(&self, durable: Lsn) -> Result<()> {
        (**self).flush_to(durable)
    }

    fn waiting_memtables(&self) -> usize {
        (**self).waiting_memtables()
    }

    fn flushed_lsn(&self) -> Lsn {
        (**self).flushed_lsn()
    }

    fn compact(&self) -> Result<bool> {
        (**self).compact()
    }

    fn interrupt(&self) {
        (**self).interrupt();
    }

    fn stats(&self) -> IndexStats {
        (**self).stats()
    }
}

fn collect<I: Index + ?Sized>(
    index: &I,
    start: &[u8],
    end: &[u8],
    order: Order,
    limit: usize,
) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    if limit > 0 {
        index.walk(start, end, order, &mut |key, value| {
            rows.push((key.into(), value.clone()));
            rows.len() < limit
        })?;
    }
    Ok(rows)
}

/// Refuses keys that no backend could hold, before anything of their record is applied.
pub(crate) fn check_keys(changes: &[Change]) -> Result<()> {
    for Change { key, .. } in changes {
        if key.first().is_none_or(|b| *b == RESERVED) || key.len() > KEY_BYTES {
            return Err(Error::BadRequest(format!("not an index key: {}", key.escape_ascii())));
        }
    }
    Ok(())
}

/// The part of a range that lies behind the reserved keys; `None` if nothing does.
fn visible_range<'a>(start: &'a [u8], end: &'a [u8]) -> Option<(&'a [u8], &'a [u8])> {
    let start = start.max(&FIRST_KEY);
    (start < end).then_some((start, end))
}
