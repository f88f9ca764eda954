//! The content hash of a version out of that of an older one: what changed is read, and the nodes above it are made anew.
//!
//! The tree of [`super::hash`] is kept in groups: a group is a node and the sixteen nodes four levels below it. Nothing that
//! is kept is believed: a group counts only if its sixteen make the hash that the group above has for it, and the topmost
//! one only if it makes the older version's content hash. So what is kept may be missing, stale or damaged; then everything
//! is read again.

use bincode::{Decode, Encode};

use crate::base::Lsn;

use super::hash::{Hash, LEAF_BYTES, leaf, node, root, zeros};

/// Nodes of a group.
pub const FANOUT: usize = 16;
const BITS: u32 = FANOUT.ilog2();

/// The nodes of a group; none: behind the end of the file.
pub type Group = [Option<Hash>; FANOUT];

/// Of which version the groups of a branch are, and what they come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub struct HashTreeRow {
    /// LSN of the version.
    pub at: Lsn,
    /// The topmost node of its tree.
    pub top: [u8; 32],
}

/// Nodes of a content hash's tree; none: behind the end of the file.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct HashGroupRow {
    /// The nodes.
    pub nodes: [Option<[u8; 32]>; FANOUT],
}

/// Where leaves are read, and groups kept. A group of height 1 holds leaves, one of height 2 groups of height 1, and so on; its
/// index counts groups of its height from the beginning of the file.
pub trait Source {
    /// How it fails.
    type Error;
    /// Reads a leaf, to its end or that of the file.
    fn read(&mut self, leaf: u64, out: &mut [u8]) -> Result<(), Self::Error>;
    /// A group as it was kept, if it was.
    fn group(&mut self, height: u32, index: u64) -> Result<Option<Group>, Self::Error>;
    /// Keeps a group.
    fn keep(&mut self, height: u32, index: u64, group: &Group) -> Result<(), Self::Error>;
}

/// The older version.
#[derive(Debug, Clone, Copy)]
pub struct Before {
    /// Its size.
    pub size: u64,
    /// Its content hash.
    pub hash: Hash,
    /// The topmost node of its tree.
    pub top: Hash,
    /// From this leaf on nothing is as it was: everything was cut off there since.
    pub cut: u64,
}

/// A content hash, and the topmost node of its tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Made {
    /// The content hash.
    pub hash: Hash,
    /// The topmost node.
    pub top: Hash,
}

/// The content hash of a file of this size. `changed`: ranges of leaves, ascending, first and one past the last, that may be
/// other than in the older version; without one, those that are not all hole. None: what was kept does not belong to
/// the older version.
///
/// # Errors
/// Those of the source.
pub fn update<S: Source>(
    before: Option<Before>,
    size: u64,
    changed: &[(u64, u64)],
    source: &mut S,
) -> Result<Option<Made>, S::Error> {
    if size == 0 {
        let top = leaf(&[]);
        return Ok(Some(Made { hash: root(0, &top), top }));
    }
    let was = before.map_or(0, |b| b.size.div_ceil(LEAF_BYTES));
    let same_end = before.is_some_and(|b| b.size == size);
    let mut tree = Tree {
        size,
        leaves: size.div_ceil(LEAF_BYTES),
        held: before.map_or(0, |b| b.cut.min(was)),
        was_height: height(was),
        // Where the end moves, the last leaf and all above it are others, of the old end and of the new one.
        ends: if same_end { None } else { Some([was.saturating_sub(1), size.div_ceil(LEAF_BYTES) - 1]) },
        changed,
        source,
        buffer: vec![0; LEAF_BYTES as usize],
    };
    let height = height(tree.leaves);
    let old = match before {
        Some(b) if root(b.size, &b.top) != b.hash => return Ok(None),
        Some(b) if tree.held > 0 => match tree.first_at(height, b.top)? {
            Some(old) => Some(old),
            None => return Ok(None),
        },
        _ => None,
    };
    Ok(match tree.node(height, 0, old)? {
        Found::Node(Some(top)) => Some(Made { hash: root(size, &top), top }),
        _ => None,
    })
}

/// How many groups stand above each other over so many leaves.
fn height(leaves: u64) -> u32 {
    leaves.next_power_of_two().trailing_zeros().div_ceil(BITS)
}

/// The hash over a group. Where a right half lies behind the end of the file, the left half stands for both.
fn over(group: &Group) -> Option<Hash> {
    let mut row: Vec<Option<Hash>> = group.to_vec();
    while row.len() > 1 {
        row = row
            .chunks(2)
            .map(|pair| match (pair[0], pair[1]) {
                (Some(left), Some(right)) => Some(node(&left, &right)),
                (left, _) => left,
            })
            .collect();
    }
    row[0]
}

enum Found {
    /// A node; none: it lies behind the end of the file.
    Node(Option<Hash>),
    /// What was kept is not of the older version.
    Stale,
}

struct Tree<'a, S> {
    size: u64,
    leaves: u64,
    /// Before this leaf, what did not change is as it was.
    held: u64,
    was_height: u32,
    ends: Option<[u64; 2]>,
    changed: &'a [(u64, u64)],
    source: &'a mut S,
    buffer: Vec<u8>,
}

impl<S: Source> Tree<'_, S> {
    /// The old node at this height over the first leaves, given the old topmost one.
    fn first_at(&mut self, height: u32, top: Hash) -> Result<Option<Hash>, S::Error> {
        let mut node = top;
        for h in (height + 1..=self.was_height).rev() {
            match self.old_group(h, 0, node)? {
                Some([Some(first), ..]) => node = first,
                _ => return Ok(None),
            }
        }
        Ok(Some(node))
    }

    /// A group of the old tree, if it is the one with this hash.
    fn old_group(&mut self, height: u32, index: u64, hash: Hash) -> Result<Option<Group>, S::Error> {
        if hash == zeros(height * BITS) {
            return Ok(Some([Some(zeros((height - 1) * BITS)); FANOUT]));
        }
        if height > self.was_height {
            // The old tree was not so high: all of it is the first node here.
            let mut group = Group::default();
            group[0] = Some(hash);
            return Ok(Some(group));
        }
        let kept = self.source.group(height, index)?;
        Ok(kept.filter(|group| over(group) == Some(hash)))
    }

    fn is_changed(&self, first: u64, end: u64) -> bool {
        let at = self.changed.partition_point(|(_, e)| *e <= first);
        self.changed.get(at).is_some_and(|(f, _)| *f < end)
    }

    /// The node over the leaves `index << bits` to `(index + 1) << bits`, once the old one is known, if there was one.
    fn node(&mut self, height: u32, index: u64, old: Option<Hash>) -> Result<Found, S::Error> {
        let bits = height * BITS;
        let first = index << bits;
        let end = (u128::from(index) + 1) << bits;
        let end = u64::try_from(end).unwrap_or(u64::MAX);
        if first >= self.leaves {
            return Ok(Found::Node(None));
        }
        let old = old.filter(|_| first < self.held);
        let changed = self.is_changed(first, end);
        let touched = changed
            || self.ends.is_some_and(|ends| ends.iter().any(|e| (first..end).contains(e)))
            || first < self.held && self.held < end;
        if !touched && first < self.held {
            return Ok(old.map_or(Found::Stale, |old| Found::Node(Some(old))));
        }
        let whole = end.checked_mul(LEAF_BYTES).is_some_and(|bytes| bytes <= self.size);
        if !changed && first >= self.held && whole {
            return Ok(Found::Node(Some(zeros(bits))));
        }
        if height == 0 {
            let len = LEAF_BYTES.min(self.size - first * LEAF_BYTES) as usize;
            let bytes = &mut self.buffer[..len];
            if changed || first < self.held {
                self.source.read(first, bytes)?;
            } else {
                bytes.fill(0);
            }
            return Ok(Found::Node(Some(leaf(bytes))));
        }
        self.group_node(height, index, old)
    }

    fn group_node(&mut self, height: u32, index: u64, old: Option<Hash>) -> Result<Found, S::Error> {
        let before = match old {
            None => Group::default(),
            Some(old) => match self.old_group(height, index, old)? {
                Some(group) => group,
                None => return Ok(Found::Stale),
            },
        };
        let mut group = Group::default();
        for (i, old) in before.into_iter().enumerate() {
            match self.node(height - 1, index * FANOUT as u64 + i as u64, old)? {
                Found::Node(None) => break,
                Found::Node(node) => group[i] = node,
                Found::Stale => return Ok(Found::Stale),
            }
        }
        let hash = over(&group);
        // What is all hole is known without being kept.
        if hash != Some(zeros(height * BITS)) {
            self.source.keep(height, index, &group)?;
        }
        Ok(Found::Node(hash))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    struct Kept<'a> {
        bytes: &'a [u8],
        groups: &'a mut BTreeMap<(u32, u64), Group>,
        leaves: u64,
    }

    impl Source for Kept<'_> {
        type Error = ();

        fn read(&mut self, leaf: u64, out: &mut [u8]) -> Result<(), ()> {
            let at = (leaf * LEAF_BYTES) as usize;
            out.copy_from_slice(&self.bytes[at..at + out.len()]);
            self.leaves += 1;
            Ok(())
        }

        fn group(&mut self, height: u32, index: u64) -> Result<Option<Group>, ()> {
            Ok(self.groups.get(&(height, index)).copied())
        }

        fn keep(&mut self, height: u32, index: u64, group: &Group) -> Result<(), ()> {
            self.groups.insert((height, index), *group);
            Ok(())
        }
    }

    fn whole(bytes: &[u8]) -> Hash {
        let leaves = (bytes.len() as u64).div_ceil(LEAF_BYTES);
        super::super::hash::content::<()>(bytes.len() as u64, &[(0, leaves)], &mut |n, out| {
            let at = (n * LEAF_BYTES) as usize;
            out.copy_from_slice(&bytes[at..at + out.len()]);
            Ok(())
        })
        .unwrap()
    }

    /// Files of up to 300 leaves, so three groups high, that grow, shrink, and change here and there.
    #[test]
    fn agrees_with_the_whole_and_reads_what_changed() {
        let mut seed = 11_u64;
        let mut below = move |n: u64| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) % n
        };
        let mut groups: BTreeMap<(u32, u64), Group> = BTreeMap::new();
        let mut bytes: Vec<u8> = Vec::new();
        let mut before: Option<Before> = None;
        let mut stale = 0;
        for round in 0..160 {
            let old = bytes.len() as u64;
            let mut cut = u64::MAX;
            let mut changed = Vec::new();
            if below(3) == 0 {
                // Cut at a whole leaf, as a truncation is noted; the part of a leaf behind it is a change.
                let size = below(300 * LEAF_BYTES);
                if size < old {
                    cut = size.div_ceil(LEAF_BYTES);
                    changed.push((size / LEAF_BYTES, size / LEAF_BYTES + 1));
                    bytes.truncate(size as usize);
                }
                if below(2) == 0 {
                    bytes.resize((size + below(40 * LEAF_BYTES)) as usize, 0);
                }
            }
            for _ in 0..below(3) {
                let at = below(300 * LEAF_BYTES) as usize;
                let n = 1 + below(3 * LEAF_BYTES) as usize;
                if bytes.len() < at + n {
                    bytes.resize(at + n, 0);
                }
                bytes[at..at + n].fill(round as u8 + 1);
                changed.push((at as u64 / LEAF_BYTES, (at + n - 1) as u64 / LEAF_BYTES + 1));
            }
            changed.sort_unstable();
            let mut merged: Vec<(u64, u64)> = Vec::new();
            for (first, end) in changed {
                match merged.last_mut() {
                    Some(last) if first <= last.1 => last.1 = last.1.max(end),
                    _ => merged.push((first, end)),
                }
            }
            let size = bytes.len() as u64;
            if round % 10 == 9 {
                // Something that was kept is gone, or is of another version.
                let key = *groups.keys().nth(below(groups.len() as u64) as usize).unwrap();
                if below(2) == 0 {
                    groups.remove(&key);
                } else {
                    groups.entry(key).or_default()[3] = Some([7; 32]);
                }
            }
            let mut kept = Kept { bytes: &bytes, groups: &mut groups, leaves: 0 };
            let found = update(before.map(|b| Before { cut, ..b }), size, &merged, &mut kept).unwrap();
            let most: u64 = merged.iter().map(|(f, e)| e - f).sum::<u64>() + 2;
            if before.is_some() && found.is_some() {
                assert!(kept.leaves <= most, "round {round}: {} leaves read, {most} changed", kept.leaves);
            }
            stale += u32::from(found.is_none());
            let made = found.unwrap_or_else(|| {
                let all = [(0, size.div_ceil(LEAF_BYTES))];
                update(None, size, &all, &mut kept).unwrap().unwrap()
            });
            assert_eq!(made.hash, whole(&bytes), "round {round}, {size} bytes, {old} before");
            before = Some(Before { size, hash: made.hash, top: made.top, cut: u64::MAX });
        }
        assert!(stale > 3 && stale < 20, "{stale} rounds had nothing to go on from");
    }

    #[test]
    fn holes_of_any_size_cost_nothing() {
        let mut groups = BTreeMap::new();
        let mut kept = Kept { bytes: &[5; LEAF_BYTES as usize], groups: &mut groups, leaves: 0 };
        let size = (1 << 62) + 5;
        let made = update(None, size, &[(0, 1)], &mut kept).unwrap().unwrap();
        let known = super::super::hash::content::<()>(size, &[(0, 1)], &mut |_, out| {
            out.fill(5);
            Ok(())
        });
        assert_eq!(Ok(made.hash), known);
        let before = Before { size, hash: made.hash, top: made.top, cut: 1 << 20 };
        let after = update(Some(before), size, &[], &mut kept).unwrap().unwrap();
        assert_eq!((after, kept.leaves), (made, 1));
        assert!(groups.len() < 30, "{}", groups.len());
    }
}
