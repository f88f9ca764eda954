//! Extents that came before the facts which name them, and wait for the rest of their batch.
//!
//! No row shows them yet, so they look dead to the cleaner. If it took them, a file that takes longer to arrive than the cleaner takes to
//! come by would be fetched for ever. So they count as alive while their batch gets on, and for a while after that, so that a connection
//! that broke goes on where it was; but not while the disk is short of space. What is known of it is not written down: after a restart
//! a batch says anew which of its extents are here.

use std::collections::{BTreeMap, BTreeSet};

use parking_lot::Mutex;

use crate::{
    base::{Incarnation, Lsn, StoreId, limits},
    format::{Origin, facts::ExtentId, hash::Hash},
};

/// A batch that got no further for so long is not waited for, in nanoseconds.
const PATIENCE_NS: u64 = 3_600_000_000_000;

/// None comes before it.
const FIRST: ExtentId = ExtentId { store: StoreId::new(0), incarnation: Incarnation::new(0), sequence: 0 };

/// What is waited for.
#[derive(Debug, Default)]
pub(super) struct Expected(Mutex<Batches>);

#[derive(Debug, Default)]
struct Batches {
    /// When each got on last, and what of it is here.
    of: BTreeMap<Origin, (u64, BTreeSet<Lsn>)>,
    /// Extents of all, where one of two batches counts twice.
    count: usize,
    /// Hashes of the whole leaves of extents that came for a batch, while their bytes were at hand: who hashes the whole content need
    /// not read them again.
    leaves: BTreeMap<(Origin, ExtentId), Box<[Hash]>>,
    leaf_count: usize,
}

impl Expected {
    /// These are here, and of this batch, which gets on.
    pub(super) fn add(&self, of: Origin, extents: impl IntoIterator<Item = Lsn>, now_ns: u64) {
        let mut all = self.0.lock();
        let (touched, set) = all.of.entry(of).or_default();
        let before = set.len();
        (*touched, _) = (now_ns, set.extend(extents));
        let more = set.len() - before;
        all.count += more;
        while all.count > limits::EXPECTED_EXTENTS || all.of.len() > limits::EXPECTED_BATCHES {
            let Some(oldest) = all.of.iter().min_by_key(|(_, (touched, _))| *touched).map(|(o, _)| *o) else {
                return;
            };
            all.remove(&oldest);
        }
    }

    /// The leaves of an extent that came for this batch, as far as there is room to remember them.
    pub(super) fn add_leaves(&self, of: Origin, extent: ExtentId, leaves: Vec<Hash>) {
        let mut all = self.0.lock();
        if leaves.is_empty() || all.leaf_count + leaves.len() > limits::EXPECTED_LEAVES {
            return;
        }
        all.leaf_count += leaves.len();
        if let Some(old) = all.leaves.insert((of, extent), leaves.into()) {
            all.leaf_count -= old.len();
        }
    }

    /// The hash of a leaf, counted from the beginning of an extent.
    pub(super) fn leaf(&self, of: Origin, extent: ExtentId, nth: usize) -> Option<Hash> {
        self.0.lock().leaves.get(&(of, extent)).and_then(|leaves| leaves.get(nth)).copied()
    }

    /// These extents have lost their names: others may come under them, which are not what was hashed.
    pub(super) fn forget(&self, extents: &[ExtentId]) {
        let mut all = self.0.lock();
        let Batches { leaves, leaf_count, .. } = &mut *all;
        if leaves.is_empty() || extents.is_empty() {
            return;
        }
        let gone: BTreeSet<&ExtentId> = extents.iter().collect();
        leaves.retain(|(_, extent), of| {
            let stays = !gone.contains(extent);
            *leaf_count -= if stays { 0 } else { of.len() };
            stays
        });
    }

    /// The batch is here, or does not come.
    pub(super) fn done(&self, of: &Origin) {
        self.0.lock().remove(of);
    }

    /// All of them.
    pub(super) fn all(&self, now_ns: u64) -> BTreeSet<Lsn> {
        let mut all = self.0.lock();
        let since = now_ns.saturating_sub(PATIENCE_NS);
        let late: Vec<Origin> = all.of.iter().filter(|(_, (t, _))| *t < since).map(|(o, _)| *o).collect();
        late.iter().for_each(|of| all.remove(of));
        all.of.values().flat_map(|(_, set)| set).copied().collect()
    }
}

impl Batches {
    fn remove(&mut self, of: &Origin) {
        if let Some((_, set)) = self.of.remove(of) {
            self.count -= set.len();
        }
        let first = (*of, FIRST);
        let those = self.leaves.range(first..).map(|(k, _)| *k).take_while(|(o, _)| o == of);
        for k in those.collect::<Vec<_>>() {
            self.leaf_count -= self.leaves.remove(&k).map_or(0, |l| l.len());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(seq: u64) -> Origin {
        Origin { store: StoreId::new(1), incarnation: Incarnation::new(1), seq }
    }

    fn lsns(range: std::ops::Range<u64>) -> impl Iterator<Item = Lsn> {
        range.map(Lsn::new)
    }

    #[test]
    fn what_gets_on_is_waited_for_and_what_does_not_is_given_up() {
        let expected = Expected::default();
        expected.add(batch(1), lsns(0..2), 0);
        expected.add(batch(2), lsns(5..6), 0);
        expected.add(batch(1), lsns(2..3), PATIENCE_NS);
        assert_eq!(expected.all(PATIENCE_NS).len(), 4);
        assert_eq!(expected.all(PATIENCE_NS + 1).len(), 3, "the second got no further");
        let (extent, hash) = (ExtentId { sequence: 9, ..FIRST }, [5; 32]);
        expected.add_leaves(batch(1), extent, vec![[4; 32], hash]);
        let leaf = |of, nth| expected.leaf(batch(of), extent, nth);
        assert_eq!((leaf(1, 1), leaf(1, 2), leaf(2, 1)), (Some(hash), None, None));
        let other = ExtentId { sequence: 10, ..FIRST };
        expected.add_leaves(batch(1), other, vec![hash]);
        expected.forget(&[other]);
        assert_eq!((expected.leaf(batch(1), other, 0), leaf(1, 1)), (None, Some(hash)));
        assert_eq!(expected.0.lock().leaf_count, 2);
        expected.done(&batch(1));
        assert_eq!((leaf(1, 1), expected.0.lock().leaf_count), (None, 0));
        assert!(expected.all(PATIENCE_NS + 1).is_empty());
        assert_eq!(expected.0.lock().count, 0);
    }

    #[test]
    fn it_stays_bounded() {
        let expected = Expected::default();
        let each = 1000;
        let many = limits::EXPECTED_EXTENTS as u64 / each + 5;
        for n in 0..many {
            expected.add(batch(n), lsns(n * each..(n + 1) * each), n);
        }
        let left = expected.all(many);
        assert!(left.len() <= limits::EXPECTED_EXTENTS, "{}", left.len());
        assert!(left.contains(&Lsn::new(many * each - 1)) && !left.contains(&Lsn::new(0)));
        for n in 0..2 * limits::EXPECTED_BATCHES as u64 {
            expected.add(batch(n), [], many + n);
        }
        assert!(expected.0.lock().of.len() <= limits::EXPECTED_BATCHES);
    }
}
