//! Which store a key belongs to. A key is what a peer proves, a store's id is only what it says; so each key stands for one store, and
//! each store for one key. Otherwise a peer could come under the id of a third one, and what that one makes would not be taken any more.

use std::collections::BTreeMap;

use crate::base::{KeyId, StoreId};

use super::hub::Peer;

/// Why a store is not that of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mismatch {
    /// The key belongs to another store.
    Other(StoreId),
    /// The store belongs to another key.
    Of(KeyId),
}

/// Stores of keys for which nobody has written down which store they belong to: as they said first.
#[derive(Debug, Default)]
pub(super) struct Ties(BTreeMap<KeyId, StoreId>);

impl Ties {
    /// Somebody with this key, which is one of `peers`, says that it is this store.
    pub(super) fn check(&mut self, peers: &[Peer], key: KeyId, says: StoreId) -> Result<(), Mismatch> {
        let store_of = |peer: &Peer| peer.store.or_else(|| self.0.get(&peer.id).copied());
        if let Some(other) = peers.iter().find(|p| p.id != key && store_of(p) == Some(says)) {
            return Err(Mismatch::Of(other.id));
        }
        let Some(peer) = peers.iter().find(|p| p.id == key) else { return Ok(()) };
        match store_of(peer) {
            Some(store) if store != says => Err(Mismatch::Other(store)),
            _ => {
                self.0.insert(key, says);
                Ok(())
            }
        }
    }

    /// Forgets those who are no peers any more.
    pub(super) fn keep(&mut self, peers: &[Peer]) {
        self.0.retain(|key, _| peers.iter().any(|p| p.id == *key));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peers::Access;

    fn peer(n: u8, store: Option<u128>) -> Peer {
        Peer {
            name: format!("p{n}"),
            id: KeyId::new([n; 20]),
            store: store.map(StoreId::new),
            address: None,
            access: Access::TwoWay,
            rule: true,
        }
    }

    #[test]
    fn a_key_stands_for_one_store_and_a_store_for_one_key() {
        let peers = [peer(1, Some(1)), peer(2, None), peer(3, None)];
        let [one, two, three] = [1, 2, 3].map(|n| KeyId::new([n; 20]));
        let [first, second, other] = [1, 2, 9].map(StoreId::new);
        let mut ties = Ties::default();
        assert_eq!(ties.check(&peers, one, first), Ok(()));
        assert_eq!(ties.check(&peers, one, other), Err(Mismatch::Other(first)));
        assert_eq!(ties.check(&peers, two, first), Err(Mismatch::Of(one)), "the id of a third");
        // Where nothing was written down, what was said first counts.
        assert_eq!(ties.check(&peers, two, second), Ok(()));
        assert_eq!(ties.check(&peers, two, other), Err(Mismatch::Other(second)));
        assert_eq!(ties.check(&peers, three, second), Err(Mismatch::Of(two)));
        ties.keep(&[peer(1, Some(1)), peer(3, None)]);
        assert_eq!(ties.check(&[peer(1, Some(1)), peer(3, None)], three, second), Ok(()));
    }
}
