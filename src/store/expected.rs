//! Extents that came before the facts which name them, and wait for the rest of their batch.
//!
//! No row shows them yet, so they look dead to the cleaner. If it took them, a file that takes longer to arrive than the cleaner takes to
//! come by would be fetched for ever. So they count as alive while their batch gets on, and for a while after that, so that a connection
//! that broke goes on where it was; but not while the disk is short of space. What is known of it is not written down: after a restart
//! a batch says anew which of its extents are here.

use std::collections::{BTreeMap, BTreeSet};

use parking_lot::Mutex;

use crate::{
    base::{Lsn, limits},
    format::Origin,
};

/// A batch that got no further for so long is not waited for, in nanoseconds.
const PATIENCE_NS: u64 = 3_600_000_000_000;

/// What is waited for.
#[derive(Debug, Default)]
pub(super) struct Expected(Mutex<Batches>);

#[derive(Debug, Default)]
struct Batches {
    /// When each got on last, and what of it is here.
    of: BTreeMap<Origin, (u64, BTreeSet<Lsn>)>,
    /// Extents of all, where one of two batches counts twice.
    count: usize,
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
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{Incarnation, StoreId};

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
        expected.done(&batch(1));
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
