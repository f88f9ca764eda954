//! What the store knows as a whole, in memory, under the apply lock.

use std::sync::Arc;

use crate::{
    base::{
        Clock, StoreId,
        planted::{Bug, planted},
    },
    format::rows::{MetaRow, Stamp},
};

/// Counters and tables that every record may move.
#[derive(Debug, Clone)]
pub(super) struct State {
    /// This store.
    pub(super) store: StoreId,
    /// Counters, as of the last record applied.
    pub(super) meta: MetaRow,
    /// Stores by their numbers; 0 is this one.
    pub(super) stores: Arc<Vec<StoreId>>,
    /// A replay is under way that has seen every record so far: what a record was made of holds again when it is applied.
    pub(super) unbroken: bool,
}

impl State {
    pub(super) fn new(store: StoreId) -> Self {
        let meta = MetaRow { next_ino: 2, ..MetaRow::default() };
        Self { store, meta, stores: Arc::new(vec![store]), unbroken: false }
    }

    /// A stamp above everything seen.
    pub(super) fn tick(&self, clock: &dyn Clock) -> Stamp {
        let seen = if planted(Bug::StampGoesBack) { 0 } else { self.meta.hlc };
        Stamp { hlc: clock.wall_ns().max(seen + 1), store: 0 }
    }

    /// The number that stands for a store, if it has one.
    pub(super) fn number(&self, store: StoreId) -> Option<u32> {
        self.stores.iter().position(|s| *s == store).map(|n| n as u32)
    }

    /// Is stamp `a` newer than `b`? Clock first, then store id, the same everywhere.
    pub(super) fn newer(&self, a: Stamp, b: Stamp) -> bool {
        self.rank(a) > self.rank(b)
    }

    /// Does a register take this value and stamp? A store whose disk was set back may give a stamp twice, to two values:
    /// then the greater value stays, whichever came first.
    pub(super) fn wins<V: PartialOrd>(&self, new: (Stamp, V), old: (Stamp, V)) -> bool {
        (self.rank(new.0), new.1) > (self.rank(old.0), old.1)
    }

    /// What stamps are ordered by.
    pub(super) fn rank(&self, s: Stamp) -> (u64, StoreId) {
        (s.hlc, self.stores.get(s.store as usize).copied().unwrap_or_default())
    }
}
