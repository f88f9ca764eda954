//! What stands behind the inode numbers of history, and which the kernel knows.

use std::collections::HashMap;

use crate::base::{Ino, Lsn};

/// Numbers from here on are history's; the store never gives them out.
const FIRST: u64 = 1 << 63;

/// Is this a number of history?
#[must_use]
pub fn is_virtual(ino: Ino) -> bool {
    ino.get() >= FIRST
}

/// A list in `.segfs`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum List {
    /// Moments, and the tree as it was then.
    At,
    /// Tags, which name moments.
    Tags,
    /// For each name its versions.
    Versions,
    /// Names that are gone.
    Deleted,
    /// What lost against another at its name.
    Conflicts,
}

impl List {
    /// All of them, in the order of their names.
    pub const ALL: [Self; 5] = [Self::At, Self::Conflicts, Self::Deleted, Self::Tags, Self::Versions];

    /// Its name in `.segfs`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::At => "at",
            Self::Tags => "tags",
            Self::Versions => "versions",
            Self::Deleted => "deleted",
            Self::Conflicts => "conflicts",
        }
    }
}

/// How a moment was asked for. Two that show the same are still two trees, so that no directory has two names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Moment {
    /// A time, ns since 1970.
    Time(u64),
    /// A record.
    Record(Lsn),
}

/// Something in history. `dir` is always the directory of the present through whose `.segfs` it was reached.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Node {
    /// The `.segfs` of a directory.
    Top(Ino),
    /// A list in it.
    List(Ino, List),
    /// A symlink to the canonical name of something in a list; the target is found when it is read.
    Alias { dir: Ino, list: List, name: Vec<u8> },
    /// A symlink, in the versions of a name, to the canonical name of one.
    Number { dir: Ino, name: Vec<u8>, ordinal: u64 },
    /// The versions of a name.
    Versions { dir: Ino, name: Vec<u8> },
    /// A version, with its number in the history through which it was reached.
    Version { dir: Ino, ino: Ino, lsn: Lsn, ordinal: u64, until: Option<Lsn> },
    /// An object as it was at a moment, and whether it and what holds it exist no more.
    Old { dir: Ino, moment: Moment, lsn: Lsn, ino: Ino, fixed: bool },
}

impl Node {
    /// Its inode number: a hash of the route to it, so that it stays the same from mount to mount. `tries` numbers
    /// before this were taken by something else.
    fn number(&self, tries: u64) -> u64 {
        let mut hash = blake3::Hasher::new();
        let mut put = |n: u64| {
            hash.update(&n.to_le_bytes());
        };
        put(tries);
        match self {
            Self::Top(dir) => [0, dir.get()].map(put),
            Self::List(dir, list) => [1 + ((*list as u64) << 8), dir.get()].map(put),
            Self::Alias { dir, list, .. } => [2 + ((*list as u64) << 8), dir.get()].map(put),
            Self::Number { dir, ordinal, .. } => {
                put(*ordinal);
                [3, dir.get()].map(put)
            }
            Self::Versions { dir, .. } => [4, dir.get()].map(put),
            Self::Version { dir, ino, lsn, .. } => {
                put(lsn.get());
                put(ino.get());
                [5, dir.get()].map(put)
            }
            Self::Old { dir, moment, ino, .. } => {
                match moment {
                    Moment::Time(ns) => [0, *ns].map(&mut put),
                    Moment::Record(lsn) => [1, lsn.get()].map(&mut put),
                };
                put(ino.get());
                [6, dir.get()].map(put)
            }
        };
        if let Self::Alias { name, .. } | Self::Number { name, .. } | Self::Versions { name, .. } = self {
            hash.update(name);
        }
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&hash.finalize().as_bytes()[..8]);
        u64::from_le_bytes(bytes) | FIRST
    }

    /// Do both mean the same thing? What was found out about it beside may differ.
    fn is(&self, other: &Self) -> bool {
        match (self, other) {
            (
                Self::Version { dir, ino, lsn, .. },
                Self::Version { dir: other_dir, ino: other_ino, lsn: other_lsn, .. },
            ) => (dir, ino, lsn) == (other_dir, other_ino, other_lsn),
            (
                Self::Old { dir, moment, ino, .. },
                Self::Old { dir: other_dir, moment: other_moment, ino: other_ino, .. },
            ) => (dir, moment, ino) == (other_dir, other_moment, other_ino),
            _ => self == other,
        }
    }
}

struct Known {
    node: Node,
    /// How often the kernel was told of it, less how often it forgot it.
    lookups: u64,
}

/// The nodes that the kernel knows.
#[derive(Default)]
pub struct Nodes(HashMap<u64, Known>);

impl Nodes {
    /// The number of a node, of which the kernel is told now.
    pub fn tell(&mut self, node: Node) -> Ino {
        for tries in 0.. {
            let number = node.number(tries);
            let known = self.0.entry(number).or_insert_with(|| Known { node: node.clone(), lookups: 0 });
            if known.node.is(&node) {
                known.node = node;
                known.lookups += 1;
                return Ino::new(number);
            }
        }
        unreachable!("64 bits are never all taken")
    }

    /// The number that a node has, as listings show it.
    #[must_use]
    pub fn number(node: &Node) -> Ino {
        Ino::new(node.number(0))
    }

    /// What stands behind a number.
    #[must_use]
    pub fn get(&self, ino: Ino) -> Option<Node> {
        self.0.get(&ino.get()).map(|k| k.node.clone())
    }

    /// The kernel forgot a number so often.
    pub fn forget(&mut self, ino: Ino, times: u64) {
        if let Some(known) = self.0.get_mut(&ino.get()) {
            known.lookups = known.lookups.saturating_sub(times);
            if known.lookups == 0 {
                self.0.remove(&ino.get());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_go_by_route_and_are_forgotten() {
        let old = |dir, ns, ino| Node::Old {
            dir: Ino::new(dir),
            moment: Moment::Time(ns),
            lsn: Lsn::new(5),
            ino: Ino::new(ino),
            fixed: false,
        };
        let mut nodes = Nodes::default();
        let a = nodes.tell(old(1, 2, 3));
        assert!(is_virtual(a) && !is_virtual(Ino::new(3)));
        assert_eq!(nodes.tell(old(1, 2, 3)), a);
        let others = [old(2, 2, 3), old(1, 3, 3), old(1, 2, 4), Node::Top(Ino::new(1))];
        for other in others {
            assert_ne!(nodes.tell(other), a);
        }
        nodes.forget(a, 1);
        assert!(nodes.get(a).is_some());
        nodes.forget(a, 1);
        assert!(nodes.get(a).is_none());
        assert_eq!(nodes.0.len(), 4);
    }
}
