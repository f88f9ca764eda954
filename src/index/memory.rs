//! The index in memory, for the simulator: a flush keeps a copy, a crash goes back to one of them.

use std::{collections::BTreeMap, ops::Bound, sync::Arc};

use parking_lot::{Mutex, RwLock};

use super::{Change, Index, IndexStats, Order, Value, check_keys, visible_range};
use crate::base::{Lsn, Result};

type Rows = BTreeMap<Box<[u8]>, Value>;

/// How many flushed states are kept.
const STATES: usize = 8;
/// What a row is said to weigh beside its bytes, so that rotation happens as with the index on disk.
const ROW_OVERHEAD_BYTES: u64 = 64;

/// An index as a flush left it: what a crash may go back to.
#[derive(Clone, Default)]
pub struct FlushedState {
    lsn: Lsn,
    rows: Arc<Rows>,
}

impl FlushedState {
    /// The highest LSN that it covers.
    #[must_use]
    pub fn lsn(&self) -> Lsn {
        self.lsn
    }
}

/// Rows in a map. A rotation shares the map with the copy that it keeps; the next change copies it.
#[derive(Default)]
pub struct MemoryIndex {
    rows: RwLock<Arc<Rows>>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Bytes applied since the last rotation.
    active_bytes: u64,
    rotated: Lsn,
    waiting: Vec<FlushedState>,
    /// Oldest first; the last one is what `flushed_lsn` speaks of.
    flushed: Vec<FlushedState>,
}

impl MemoryIndex {
    /// An empty index.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The states that a crash may leave, oldest first (the last few only). Beside these, the index may be gone:
    /// [`MemoryIndex::new`].
    #[must_use]
    pub fn flushed_states(&self) -> Vec<FlushedState> {
        self.state.lock().flushed.clone()
    }

    /// The index as it is opened after a crash that left this state. Shares the rows; nothing is copied.
    #[must_use]
    pub fn reopen_at(state: &FlushedState) -> Self {
        Self {
            rows: RwLock::new(Arc::clone(&state.rows)),
            state: Mutex::new(State { rotated: state.lsn, flushed: vec![state.clone()], ..State::default() }),
        }
    }
}

impl Index for MemoryIndex {
    fn get(&self, key: &[u8]) -> Result<Option<Value>> {
        Ok(self.rows.read().get(key).cloned())
    }

    fn apply(&self, _lsn: Lsn, changes: &[Change]) -> Result<()> {
        check_keys(changes)?;
        let mut bytes = 0;
        let mut rows = self.rows.write();
        let rows = Arc::make_mut(&mut rows);
        for Change { key, value } in changes {
            bytes += (key.len() + value.as_ref().map_or(0, Vec::len)) as u64 + ROW_OVERHEAD_BYTES;
            match value {
                Some(value) => rows.insert(key.as_slice().into(), value.as_slice().into()),
                None => rows.remove(key.as_slice()),
            };
        }
        self.state.lock().active_bytes += bytes;
        Ok(())
    }

    fn walk(
        &self,
        start: &[u8],
        end: &[u8],
        order: Order,
        visit: &mut dyn FnMut(&[u8], &Value) -> bool,
    ) -> Result<()> {
        let Some((start, end)) = visible_range(start, end) else { return Ok(()) };
        let rows = Arc::clone(&self.rows.read());
        let mut range = rows.range::<[u8], _>((Bound::Included(start), Bound::Excluded(end)));
        while let Some((key, value)) = match order {
            Order::Forward => range.next(),
            Order::Back => range.next_back(),
        } {
            if !visit(key, value) {
                break;
            }
        }
        Ok(())
    }

    fn unflushed_bytes(&self) -> u64 {
        self.state.lock().active_bytes
    }

    fn rotate(&self, lsn: Lsn) -> Result<()> {
        let rows = Arc::clone(&self.rows.read());
        let mut state = self.state.lock();
        if state.active_bytes > 0 || lsn > state.rotated {
            state.active_bytes = 0;
            state.rotated = lsn;
            state.waiting.push(FlushedState { lsn, rows });
        }
        Ok(())
    }

    fn flush_to(&self, durable: Lsn) -> Result<()> {
        let mut state = self.state.lock();
        let ready = state.waiting.iter().take_while(|s| s.lsn <= durable).count();
        let ready: Vec<_> = state.waiting.drain(..ready).collect();
        state.flushed.extend(ready);
        let surplus = state.flushed.len().saturating_sub(STATES);
        state.flushed.drain(..surplus);
        Ok(())
    }

    fn waiting_memtables(&self) -> usize {
        self.state.lock().waiting.len()
    }

    fn flushed_lsn(&self) -> Lsn {
        self.state.lock().flushed.last().map_or(Lsn::new(0), |s| s.lsn)
    }

    fn compact(&self) -> Result<bool> {
        Ok(false)
    }

    fn stats(&self) -> IndexStats {
        let state = self.state.lock();
        IndexStats {
            disk_rows: state.flushed.last().map_or(0, |s| s.rows.len() as u64),
            memtable_bytes: state.active_bytes,
            waiting_memtables: state.waiting.len(),
            ..IndexStats::default()
        }
    }
}
