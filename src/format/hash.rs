//! Content hash: the root of a binary BLAKE3 tree over leaves of 64 KiB.
//!
//! A tree and not one hash over all bytes, so that two stores can find where two versions differ, and so that
//! holes cost nothing: a subtree of zeros has a constant for each level. `docs/FORMAT.md` section 10.

use std::sync::OnceLock;

/// Bytes of a leaf; the last one of a file may be shorter.
pub const LEAF_BYTES: u64 = 64 << 10;

/// A BLAKE3 hash.
pub type Hash = [u8; 32];

/// What reads a leaf: its number, and the buffer to fill.
pub type ReadLeaf<'a, E> = &'a mut dyn FnMut(u64, &mut [u8]) -> Result<(), E>;

const LEAF: u8 = 0;
const NODE: u8 = 1;
const ROOT: u8 = 2;

/// Hash of a leaf.
#[must_use]
pub fn leaf(bytes: &[u8]) -> Hash {
    *blake3::Hasher::new().update(&[LEAF]).update(bytes).finalize().as_bytes()
}

/// Hash of an extent's raw bytes, as peers tell it.
#[must_use]
pub fn of_extent(raw: &[u8]) -> Hash {
    *blake3::hash(raw).as_bytes()
}

pub(super) fn node(left: &Hash, right: &Hash) -> Hash {
    *blake3::Hasher::new().update(&[NODE]).update(left).update(right).finalize().as_bytes()
}

/// The hash of a whole subtree of zeros, for each level.
pub(super) fn zeros(level: u32) -> Hash {
    static LEVELS: OnceLock<Vec<Hash>> = OnceLock::new();
    let levels = LEVELS.get_or_init(|| {
        let mut all = vec![leaf(&[0; LEAF_BYTES as usize])];
        for n in 0..63 {
            let below = all[n];
            all.push(node(&below, &below));
        }
        all
    });
    levels[level as usize]
}

/// The hash of a file of this size. `data`: ranges of leaves that are not all hole, ascending, first and one
/// past the last. `read` gives a leaf's bytes.
///
/// # Errors
/// Those of `read`.
pub fn content<E>(size: u64, data: &[(u64, u64)], read: ReadLeaf<'_, E>) -> Result<Hash, E> {
    content_knowing(size, data, &|_| None, read)
}

/// The same, where the hashes of some leaves that are no hole are known: those are not read.
///
/// # Errors
/// Those of `read`.
pub fn content_knowing<E>(
    size: u64,
    data: &[(u64, u64)],
    known: &dyn Fn(u64) -> Option<Hash>,
    read: ReadLeaf<'_, E>,
) -> Result<Hash, E> {
    let leaves = size.div_ceil(LEAF_BYTES);
    let mut buffer = vec![0; size.min(LEAF_BYTES) as usize];
    let mut tree = Tree { size, leaves, data, known, read, buffer: &mut buffer };
    let top = if leaves == 0 { leaf(&[]) } else { tree.subtree(levels_above(leaves), 0)? };
    Ok(root(size, &top))
}

/// The content hash of a file of this size whose leaves have this hash together.
#[must_use]
pub fn root(size: u64, top: &Hash) -> Hash {
    *blake3::Hasher::new().update(&[ROOT]).update(&size.to_le_bytes()).update(top).finalize().as_bytes()
}

/// Levels above the leaves of a tree that holds so many.
fn levels_above(leaves: u64) -> u32 {
    leaves.next_power_of_two().trailing_zeros()
}

struct Tree<'a, E> {
    size: u64,
    leaves: u64,
    data: &'a [(u64, u64)],
    known: &'a dyn Fn(u64) -> Option<Hash>,
    read: ReadLeaf<'a, E>,
    buffer: &'a mut [u8],
}

impl<E> Tree<'_, E> {
    /// The subtree of leaves `index << level` to `(index + 1) << level`; where its right half lies behind the
    /// end of the file, it is its left half.
    fn subtree(&mut self, level: u32, index: u64) -> Result<Hash, E> {
        let (first, end) = (index << level, (index + 1) << level);
        let at = self.data.partition_point(|(_, e)| *e <= first);
        let empty = self.data.get(at).is_none_or(|(f, _)| *f >= end);
        if empty && end * LEAF_BYTES <= self.size {
            return Ok(zeros(level));
        }
        if level == 0 {
            if let Some(hash) = (self.known)(first).filter(|_| !empty) {
                return Ok(hash);
            }
            let len = LEAF_BYTES.min(self.size - first * LEAF_BYTES) as usize;
            let bytes = &mut self.buffer[..len];
            if empty {
                bytes.fill(0);
            } else {
                (self.read)(first, bytes)?;
            }
            return Ok(leaf(bytes));
        }
        let left = self.subtree(level - 1, index * 2)?;
        if (index * 2 + 1) << (level - 1) >= self.leaves {
            return Ok(left);
        }
        let right = self.subtree(level - 1, index * 2 + 1)?;
        Ok(node(&left, &right))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(bytes: &[u8], data: &[(u64, u64)]) -> Hash {
        content::<()>(bytes.len() as u64, data, &mut |n, out| {
            let at = (n * LEAF_BYTES) as usize;
            out.copy_from_slice(&bytes[at..at + out.len()]);
            Ok(())
        })
        .unwrap()
    }

    #[test]
    fn holes_and_zeros_hash_alike_and_sizes_differ() {
        for len in [0, 1, 65_536, 65_537, 200_000, 1 << 20] {
            let mut bytes = vec![0; len];
            assert_eq!(of(&bytes, &[]), of(&bytes, &[(0, 99)]), "{len}");
            if len > 70_000 {
                bytes[70_000] = 1;
                assert_eq!(of(&bytes, &[(1, 2)]), of(&bytes, &[(0, 99)]), "{len}");
                assert_ne!(of(&bytes, &[(1, 2)]), of(&bytes, &[]), "{len}");
            }
        }
        assert_ne!(of(&[0; 10], &[]), of(&[0; 11], &[]));
    }

    #[test]
    fn what_is_known_of_a_leaf_is_not_read() {
        let bytes: Vec<u8> = (0..300_000_u32).map(|n| (n >> 3) as u8).collect();
        let mut read = Vec::new();
        let known = |n: u64| (n % 2 == 1).then(|| leaf(&bytes[n as usize * 65_536..][..65_536]));
        let made = content_knowing::<()>(300_000, &[(0, 5)], &known, &mut |n, out| {
            read.push(n);
            out.copy_from_slice(&bytes[n as usize * 65_536..][..out.len()]);
            Ok(())
        });
        assert_eq!((made.unwrap(), read), (of(&bytes, &[(0, 5)]), vec![0, 2, 4]));
    }

    #[test]
    fn a_sparse_exbibyte_takes_no_time() {
        let hash = content::<()>(1 << 60, &[(5, 6)], &mut |_, out| {
            out.fill(3);
            Ok(())
        });
        assert_ne!(hash.unwrap(), content::<()>(1 << 60, &[], &mut |_, _| Err(())).unwrap());
    }

    #[test]
    fn the_hash_is_what_it_always_was() {
        let hex = |h: Hash| h.iter().map(|b| format!("{b:02x}")).collect::<String>();
        assert_eq!(hex(of(b"segfs", &[(0, 1)])), GOLDEN_SMALL);
        let bytes: Vec<u8> = (0..300_000_u32).map(|n| n as u8).collect();
        assert_eq!(hex(of(&bytes, &[(0, 5)])), GOLDEN_TREE);
    }

    const GOLDEN_SMALL: &str = "a5125f9271836d9bea42b9f28f7db4c124bd6db97136c2d62c6cebefa6bdbfd5";
    const GOLDEN_TREE: &str = "e975d134efff127b984f8d14210270d1c49f805c88e88b09fd9f47f5c1f7a391";
}
