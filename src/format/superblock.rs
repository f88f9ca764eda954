//! The superblock: what a store is, in two checksummed copies.

use zerocopy::{
    FromBytes, IntoBytes,
    little_endian::{U32, U64, U128},
};

use super::{Malformed, VERSION, checksum::crc_without, layout::on_disk};
use crate::base::{Lsn, StoreId};

/// Length of one copy, in bytes; the second follows the first.
pub const COPY_BYTES: usize = 4096;
const MAGIC: [u8; 8] = *b"SEGFSST1";

on_disk! {
    struct Raw[4096] {
        magic: [u8; 8],
        version: U32,
        crc: U32,
        generation: U64,
        store: U128,
        created_ns: U64,
        segment_bytes: U64,
        compatible: U64,
        read_only_compatible: U64,
        incompatible: U64,
        closed_lsn: U64,
        zero: [u8; 4008],
    }
}

/// What a store is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Superblock {
    /// The format version; what this program writes is [`VERSION`].
    pub version: u32,
    /// Grows with each update; the valid copy with the higher one counts.
    pub generation: u64,
    /// The store's id.
    pub store: StoreId,
    /// When it was created, ns since 1970.
    pub created_ns: u64,
    /// The size of its segment files.
    pub segment_bytes: u64,
    /// Features that a program may ignore.
    pub compatible: u64,
    /// Features without which a program may only read.
    pub read_only_compatible: u64,
    /// Features without which a program may not open it.
    pub incompatible: u64,
    /// Up to here the log was durable when it was closed without anything in it saying so; 0: it was never closed so.
    pub closed_lsn: Lsn,
}

impl Superblock {
    /// The bytes of one copy.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut raw = Raw {
            magic: MAGIC,
            version: self.version.into(),
            crc: 0.into(),
            generation: self.generation.into(),
            store: self.store.get().into(),
            created_ns: self.created_ns.into(),
            segment_bytes: self.segment_bytes.into(),
            compatible: self.compatible.into(),
            read_only_compatible: self.read_only_compatible.into(),
            incompatible: self.incompatible.into(),
            closed_lsn: self.closed_lsn.get().into(),
            zero: [0; 4008],
        };
        raw.crc = crc_without(raw.as_bytes(), 12).into();
        raw.as_bytes().to_vec()
    }

    /// From the bytes of one copy. A version above [`VERSION`] is returned as it is: the caller refuses it by name.
    ///
    /// # Errors
    /// If it is no valid copy.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let raw = Raw::ref_from_bytes(bytes).map_err(|_| Malformed("superblock has the wrong length"))?;
        if raw.magic != MAGIC {
            return Err(Malformed("not a superblock"));
        }
        if raw.crc.get() != crc_without(bytes, 12) {
            return Err(Malformed("superblock fails its checksum"));
        }
        if raw.version.get() == 0 {
            return Err(Malformed("superblock has no version"));
        }
        Ok(Self {
            version: raw.version.get(),
            generation: raw.generation.get(),
            store: StoreId::new(raw.store.get()),
            created_ns: raw.created_ns.get(),
            segment_bytes: raw.segment_bytes.get(),
            compatible: raw.compatible.get(),
            read_only_compatible: raw.read_only_compatible.get(),
            incompatible: raw.incompatible.get(),
            closed_lsn: Lsn::new(raw.closed_lsn.get()),
        })
    }

    /// Chooses between the two copies: the valid one with the higher generation, and what is wrong with each.
    #[must_use]
    pub fn choose(first: &[u8], second: &[u8]) -> (Option<Self>, [Option<Malformed>; 2]) {
        let (a, b) = (Self::decode(first), Self::decode(second));
        let wrong = [a.as_ref().err().copied(), b.as_ref().err().copied()];
        let best = match (a.ok(), b.ok()) {
            (Some(a), Some(b)) => Some(if b.generation > a.generation { b } else { a }),
            (a, b) => a.or(b),
        };
        (best, wrong)
    }
}

impl Default for Superblock {
    fn default() -> Self {
        Self {
            version: VERSION,
            generation: 1,
            store: StoreId::new(0),
            created_ns: 0,
            segment_bytes: crate::base::limits::SEGMENT_BYTES,
            compatible: 0,
            read_only_compatible: 0,
            incompatible: 0,
            closed_lsn: Lsn::new(0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_superblock_comes_back_and_every_flip_is_seen() {
        let s = Superblock { store: StoreId::new(5), created_ns: 9, ..Superblock::default() };
        let bytes = s.encode();
        assert_eq!(Superblock::decode(&bytes), Ok(s.clone()));
        for i in 0..bytes.len() {
            let mut bad = bytes.clone();
            bad[i] ^= 0x10;
            assert!(Superblock::decode(&bad).is_err(), "flip at {i}");
            assert_eq!(Superblock::choose(&bad, &bytes).0.as_ref(), Some(&s));
        }
        assert!(Superblock::decode(&bytes[1..]).is_err());
    }

    #[test]
    fn the_higher_generation_counts() {
        let old = Superblock::default();
        let new = Superblock { generation: 2, ..old.clone() };
        assert_eq!(Superblock::choose(&old.encode(), &new.encode()).0.unwrap().generation, 2);
        assert_eq!(Superblock::choose(&new.encode(), &old.encode()).0.unwrap().generation, 2);
        assert_eq!(Superblock::choose(&[], &[]).0, None);
    }
}
