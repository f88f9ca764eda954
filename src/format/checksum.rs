//! Checksums: CRC-32 everywhere, seeded with the segment's salt where a frame must belong to one life of one file.

use crate::base::planted::{Bug, planted};

/// CRC-32 of some bytes.
#[must_use]
pub fn crc(bytes: &[u8]) -> u32 {
    crc32fast::hash(bytes)
}

/// CRC-32 of two stretches of bytes, one behind the other.
#[must_use]
pub fn crc_of_both(first: &[u8], second: &[u8]) -> u32 {
    let mut h = crc32fast::Hasher::new();
    h.update(first);
    h.update(second);
    h.finalize()
}

/// CRC-32 of a block in which the four bytes at `hole` hold the checksum itself and count as zero.
#[must_use]
pub fn crc_without(bytes: &[u8], hole: usize) -> u32 {
    let mut h = crc32fast::Hasher::new();
    hash_without(&mut h, bytes, hole);
    h.finalize()
}

fn hash_without(h: &mut crc32fast::Hasher, bytes: &[u8], hole: usize) {
    h.update(&bytes[..hole]);
    h.update(&[0; 4]);
    h.update(&bytes[hole + 4..]);
}

/// The state of a CRC-32 that has taken in a segment's salt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seed(u32);

impl Seed {
    /// Of this salt.
    #[must_use]
    pub fn of(salt: u64) -> Self {
        if planted(Bug::AcceptStaleFrame) {
            return Self(0);
        }
        Self(crc(&salt.to_le_bytes()))
    }

    /// [`crc_without`], behind the salt.
    #[must_use]
    pub fn crc_without(self, bytes: &[u8], hole: usize) -> u32 {
        let mut h = crc32fast::Hasher::new_with_initial(self.0);
        hash_without(&mut h, bytes, hole);
        h.finalize()
    }
}

/// CRC-32 over a row of checksums, one after the other.
#[derive(Clone, Debug, Default)]
pub struct Chain(crc32fast::Hasher);

impl Chain {
    /// Adds one.
    pub fn push(&mut self, crc: u32) {
        self.0.update(&crc.to_le_bytes());
    }

    /// The checksum of all pushed so far.
    #[must_use]
    pub fn value(&self) -> u32 {
        self.0.clone().finalize()
    }
}
