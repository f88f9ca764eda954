//! Which openings of other stores have been met: what tells a store from its copy.

use std::collections::{BTreeMap, VecDeque};

use crate::{
    base::{Incarnation, StoreId},
    format::wire::Identity,
};

/// Ended openings of a store that are remembered.
const ENDED: usize = 256;

/// What meeting somebody says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Meeting {
    /// Nothing against it.
    Fine,
    /// Another opening of this store was met before. Is this one alive? What it sends may be old.
    Prove,
    /// It is alive, although an opening that came after it is or was too: the store was copied.
    Copy,
    /// Its key stands for another store: nothing is exchanged.
    NotThatStore,
}

/// The openings of other stores that this one has met. One for all connections of a store.
#[derive(Debug, Default)]
pub struct Acquaintances(BTreeMap<StoreId, Openings>);

#[derive(Debug)]
struct Openings {
    now: Incarnation,
    ended: VecDeque<Incarnation>,
}

impl Acquaintances {
    /// Somebody says who it is; or, with `alive`, has answered after that, so that this is no word of somebody long gone.
    ///
    /// One process at a time has a store open, and each opening draws a new incarnation. So when one is alive after another was
    /// met, the other has ended; and when one is alive that had ended, there are two stores of one id.
    pub fn meet(&mut self, who: &Identity, alive: bool) -> Meeting {
        let openings = self.0.entry(who.store).or_insert_with(|| {
            let now = who.incarnation;
            Openings { now, ended: VecDeque::new() }
        });
        if openings.now == who.incarnation {
            return Meeting::Fine;
        }
        if !alive {
            return Meeting::Prove;
        }
        if openings.ended.contains(&who.incarnation) {
            return Meeting::Copy;
        }
        openings.ended.push_back(std::mem::replace(&mut openings.now, who.incarnation));
        if openings.ended.len() > ENDED {
            openings.ended.pop_front();
        }
        Meeting::Fine
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opening(n: u64) -> Identity {
        Identity { store: StoreId::new(1), incarnation: Incarnation::new(n), wall_ns: 0 }
    }

    #[test]
    fn a_store_that_was_opened_anew_is_no_copy_and_one_that_comes_back_is() {
        let mut met = Acquaintances::default();
        assert_eq!(met.meet(&opening(1), false), Meeting::Fine);
        assert_eq!(met.meet(&opening(2), false), Meeting::Prove);
        assert_eq!(met.meet(&opening(2), true), Meeting::Fine);
        // What the first sent before it ended arrives late, and it never answers.
        assert_eq!(met.meet(&opening(1), false), Meeting::Prove);
        assert_eq!(met.meet(&opening(2), false), Meeting::Fine);
        assert_eq!(met.meet(&opening(3), false), Meeting::Prove);
        assert_eq!(met.meet(&opening(3), true), Meeting::Fine);
        // But if it answers, it lives beside the others.
        assert_eq!(met.meet(&opening(1), true), Meeting::Copy);
        let other = Identity { store: StoreId::new(2), ..opening(9) };
        assert_eq!(met.meet(&other, false), Meeting::Fine);
    }
}
