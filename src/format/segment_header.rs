//! The first block of a segment file: whose it is, where it stands in the log, and its salt.

use zerocopy::{
    FromBytes, IntoBytes,
    little_endian::{U32, U64, U128},
};

use super::{Malformed, Seed, VERSION, checksum::crc_without, layout::on_disk};
use crate::base::{Incarnation, Lsn, SegmentId, StoreId, limits::BLOCK_BYTES};

/// The header's block: two copies of 2048 bytes.
pub const BYTES: usize = BLOCK_BYTES as usize;
/// What decoding says of a valid header of another format version.
pub const NEWER: Malformed = Malformed("segment has a version that this program does not know");
const COPY: usize = BYTES / 2;
const MAGIC: [u8; 8] = *b"SEGFSEG1";

on_disk! {
    struct Raw[2048] {
        magic: [u8; 8],
        version: U32,
        crc: U32,
        store: U128,
        segment: U64,
        salt: U64,
        first_lsn: U64,
        predecessor: U64,
        predecessor_end: U64,
        capacity: U64,
        created_ns: U64,
        incarnation: U64,
        durable_lsn: U64,
        zero: [u8; 1944],
    }
}

/// What the header of a segment says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentHeader {
    /// The store that it belongs to.
    pub store: StoreId,
    /// Its id, that of the file's name.
    pub segment: SegmentId,
    /// Random, new in each life of the file.
    pub salt: u64,
    /// The LSN of the first record that it will hold.
    pub first_lsn: Lsn,
    /// The segment before it in the log.
    pub predecessor: Option<SegmentId>,
    /// The offset behind the predecessor's last batch.
    pub predecessor_end: u64,
    /// The file's size.
    pub capacity: u64,
    /// When it was begun, ns since 1970.
    pub created_ns: u64,
    /// The opening that writes it.
    pub incarnation: Incarnation,
    /// The highest LSN known durable when it was begun.
    pub durable_lsn: Lsn,
}

/// What a recycled file has in place of a header until it gets one.
const RECYCLED: [u8; 8] = *b"SEGFSOLD";

/// The block of a file of an earlier segment that is to become this one.
#[must_use]
pub fn recycled(next: SegmentId) -> Vec<u8> {
    let mut copy = vec![0; COPY];
    copy[..8].copy_from_slice(&RECYCLED);
    copy[8..16].copy_from_slice(&next.get().to_le_bytes());
    let crc = crc_without(&copy, 16);
    copy[16..20].copy_from_slice(&crc.to_le_bytes());
    [&copy[..], &copy[..]].concat()
}

/// Which segment the file with this block was to become, if it was recycled and has no header yet.
#[must_use]
pub fn recycled_for(block: &[u8]) -> Option<SegmentId> {
    let next = |copy: &[u8]| {
        let crc = u32::from_le_bytes(copy[16..20].try_into().ok()?);
        let id = u64::from_le_bytes(copy[8..16].try_into().ok()?);
        (copy[..8] == RECYCLED && crc == crc_without(copy, 16)).then_some(SegmentId::new(id))
    };
    block.chunks_exact(COPY).find_map(next)
}

impl SegmentHeader {
    /// What its frames' checksums begin with.
    #[must_use]
    pub fn seed(&self) -> Seed {
        Seed::of(self.salt)
    }

    /// The block.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut raw = Raw {
            magic: MAGIC,
            version: VERSION.into(),
            crc: 0.into(),
            store: self.store.get().into(),
            segment: self.segment.get().into(),
            salt: self.salt.into(),
            first_lsn: self.first_lsn.get().into(),
            predecessor: self.predecessor.map_or(0, SegmentId::get).into(),
            predecessor_end: self.predecessor_end.into(),
            capacity: self.capacity.into(),
            created_ns: self.created_ns.into(),
            incarnation: self.incarnation.get().into(),
            durable_lsn: self.durable_lsn.get().into(),
            zero: [0; 1944],
        };
        raw.crc = crc_without(raw.as_bytes(), 12).into();
        [raw.as_bytes(), raw.as_bytes()].concat()
    }

    /// From the block: the first valid copy, and whether the other one is damaged or differs.
    ///
    /// # Errors
    /// If neither copy is valid.
    pub fn decode(block: &[u8]) -> Result<(Self, bool), Malformed> {
        if block.len() != BYTES {
            return Err(Malformed("segment header has the wrong length"));
        }
        match (Self::decode_copy(&block[..COPY]), Self::decode_copy(&block[COPY..])) {
            (Ok(a), b) => {
                let other_damaged = b.as_ref() != Ok(&a);
                Ok((a, other_damaged))
            }
            (Err(_), Ok(b)) => Ok((b, true)),
            (Err(e), Err(_)) => Err(e),
        }
    }

    fn decode_copy(bytes: &[u8]) -> Result<Self, Malformed> {
        let raw = Raw::ref_from_bytes(bytes).map_err(|_| Malformed("segment header has the wrong length"))?;
        if raw.magic != MAGIC {
            return Err(Malformed("not a segment header"));
        }
        if raw.crc.get() != crc_without(bytes, 12) {
            return Err(Malformed("segment header fails its checksum"));
        }
        if raw.version.get() != VERSION {
            return Err(NEWER);
        }
        if raw.salt.get() == 0 || raw.segment.get() == 0 || raw.first_lsn.get() == 0 {
            return Err(Malformed("segment header lacks salt, id or LSN"));
        }
        let predecessor = Some(raw.predecessor.get()).filter(|&n| n != 0).map(SegmentId::new);
        if predecessor.is_some_and(|p| p.get() >= raw.segment.get()) {
            return Err(Malformed("segment names a predecessor that is not before it"));
        }
        Ok(Self {
            store: StoreId::new(raw.store.get()),
            segment: SegmentId::new(raw.segment.get()),
            salt: raw.salt.get(),
            first_lsn: Lsn::new(raw.first_lsn.get()),
            predecessor,
            predecessor_end: raw.predecessor_end.get(),
            capacity: raw.capacity.get(),
            created_ns: raw.created_ns.get(),
            incarnation: Incarnation::new(raw.incarnation.get()),
            durable_lsn: Lsn::new(raw.durable_lsn.get()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(crate) fn sample() -> SegmentHeader {
        SegmentHeader {
            store: StoreId::new(1),
            segment: SegmentId::new(3),
            salt: 4,
            first_lsn: Lsn::new(5),
            predecessor: Some(SegmentId::new(2)),
            predecessor_end: 8192,
            capacity: 65536,
            created_ns: 6,
            incarnation: Incarnation::new(7),
            durable_lsn: Lsn::new(4),
        }
    }

    #[test]
    fn a_recycled_file_says_what_it_was_to_become() {
        let block = recycled(SegmentId::new(9));
        assert_eq!(block.len(), BYTES);
        assert_eq!(recycled_for(&block), Some(SegmentId::new(9)));
        assert!(SegmentHeader::decode(&block).is_err());
        assert_eq!(recycled_for(&sample().encode()), None);
        assert_eq!(recycled_for(&vec![0; BYTES]), None);
        let mut flipped = block;
        flipped[8] ^= 1;
        assert_eq!(recycled_for(&flipped), Some(SegmentId::new(9)), "the other copy counts");
        flipped[COPY + 8] ^= 1;
        assert_eq!(recycled_for(&flipped), None);
    }

    #[test]
    fn a_header_survives_any_flip_and_tells() {
        let h = sample();
        let block = h.encode();
        assert_eq!(SegmentHeader::decode(&block), Ok((h.clone(), false)));
        for i in 0..block.len() {
            let mut bad = block.clone();
            bad[i] ^= 1;
            assert_eq!(SegmentHeader::decode(&bad), Ok((h.clone(), true)), "flip at {i}");
            bad[(i + COPY) % BYTES] ^= 1;
            assert!(SegmentHeader::decode(&bad).is_err(), "two flips at {i}");
        }
        assert!(SegmentHeader::decode(&block[1..]).is_err());
    }
}
