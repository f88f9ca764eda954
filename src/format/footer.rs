//! The footer of a sealed segment: the list of its records, and the trailer by which it is found.

use zerocopy::{
    FromBytes, IntoBytes,
    little_endian::{U32, U64},
};

use super::{Kind, Malformed, Seed, code, frame, layout::on_disk, pad_block};
use crate::base::{
    Ino, Lsn, SegmentId,
    limits::{BLOCK_BYTES, RECORD_BYTES},
};

/// Used length of a trailer, in bytes; it has a block of its own.
pub const TRAILER_BYTES: usize = 64;
const MAGIC: [u8; 8] = *b"SEGFOOT1";

/// Sums over a segment's records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, bincode::Encode, bincode::Decode)]
pub struct Totals {
    /// LSN of the first record that the segment could hold, as in its header.
    pub first_lsn: u64,
    /// LSN of the last record numbered in it; one less than the first if none is.
    pub last_lsn: u64,
    /// Number of records.
    pub records: u64,
    /// Bytes of payload as stored.
    pub payload_bytes: u64,
}

#[derive(Clone, Copy, bincode::Encode, bincode::Decode)]
struct RawEntry {
    kind: u8,
    flags: u32,
    lsn_delta: i64,
    offset_delta: u64,
    stored_len: u32,
    raw_len: u32,
    ino: u64,
}

/// One record of a sealed segment, as its footer lists it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// What it is.
    pub kind: Kind,
    /// Bits of [`flags`](super::flags).
    pub flags: u32,
    /// Its number.
    pub lsn: Lsn,
    /// Where its frame begins.
    pub offset: u64,
    /// Length of its payload as stored.
    pub stored_len: u32,
    /// Length of its raw payload.
    pub raw_len: u32,
    /// Local inode number of the object, 0 if none.
    pub ino: Ino,
}

/// A footer being collected, already in its encoding, so that a segment's list costs no more than its bytes.
#[derive(Clone, Debug)]
pub struct FooterBuilder {
    entries: Vec<u8>,
    previous: (u64, u64),
    totals: Totals,
}

impl FooterBuilder {
    /// For a segment that begins with this LSN.
    #[must_use]
    pub fn new(first_lsn: Lsn) -> Self {
        let first = first_lsn.get();
        let totals = Totals { first_lsn: first, last_lsn: first - 1, ..Totals::default() };
        Self { entries: Vec::new(), previous: (first, BLOCK_BYTES), totals }
    }

    /// Adds a record; those numbered here come in order, moved ones keep their old number.
    pub fn push(&mut self, e: &Entry) {
        let raw = RawEntry {
            kind: e.kind as u8,
            flags: e.flags,
            lsn_delta: e.lsn.get().wrapping_sub(self.previous.0).cast_signed(),
            offset_delta: e.offset - self.previous.1,
            stored_len: e.stored_len,
            raw_len: e.raw_len,
            ino: e.ino.get(),
        };
        code::encode_into(&raw, &mut self.entries);
        self.previous = (e.lsn.get(), e.offset);
        self.totals.records += 1;
        self.totals.payload_bytes += u64::from(e.stored_len);
        if e.flags & super::flags::MOVED == 0 {
            self.totals.last_lsn = e.lsn.get();
        }
    }

    /// The sums so far.
    #[must_use]
    pub fn totals(&self) -> Totals {
        self.totals
    }

    /// The payload of the footer frame.
    #[must_use]
    pub fn payload(&self) -> Vec<u8> {
        let mut out = code::encode(&self.totals);
        code::encode_into(&self.totals.records, &mut out);
        out.extend_from_slice(&self.entries);
        out
    }

    /// An upper bound of the room that footer batch and trailer take if `more` records are added first.
    #[must_use]
    pub fn room(&self, more: usize) -> u64 {
        let payload = self.payload_bound(more) as u64;
        let batch = super::pad8(frame::ENVELOPE_BYTES as u64 + payload) + frame::BATCH_END_FRAME_BYTES;
        pad_block(batch) + BLOCK_BYTES
    }

    /// Can this many records be added, so that the footer is still within the bound of a record?
    #[must_use]
    pub fn fits(&self, more: usize) -> bool {
        self.payload_bound(more) <= RECORD_BYTES
    }

    fn payload_bound(&self, more: usize) -> usize {
        // An entry takes at most 1 + 5 + 9 + 9 + 5 + 5 + 9 bytes; totals and count take at most 45.
        self.entries.len() + more.saturating_mul(43) + 45
    }
}

/// A footer as read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Footer {
    /// The sums.
    pub totals: Totals,
    /// The records, in the order of their offsets.
    pub records: Vec<Entry>,
}

impl Footer {
    /// From the payload of a footer frame.
    ///
    /// # Errors
    /// If it is not a footer; memory is bounded by the payload's length.
    pub fn decode(payload: &[u8]) -> Result<Self, Malformed> {
        let (totals, mut at) = code::decode_prefix::<Totals>(payload)?;
        let (count, used) = code::decode_prefix::<u64>(&payload[at..])?;
        at += used;
        // An entry has at least 7 bytes.
        let most = (payload.len() - at) / 7;
        if count != totals.records || usize::try_from(count).map_or(true, |n| n > most) {
            return Err(Malformed("footer has a wrong number of records"));
        }
        let mut records = Vec::with_capacity(most.min(4096));
        let (mut lsn, mut offset) = (totals.first_lsn, BLOCK_BYTES);
        for _ in 0..count {
            let (raw, used) = code::decode_prefix::<RawEntry>(&payload[at..])?;
            at += used;
            lsn = lsn.wrapping_add(raw.lsn_delta.cast_unsigned());
            offset = offset.checked_add(raw.offset_delta).ok_or(Malformed("footer offset overflows"))?;
            records.push(Entry {
                kind: Kind::from_u8(raw.kind)
                    .filter(|k| k.is_record())
                    .ok_or(Malformed("footer lists no record"))?,
                flags: raw.flags,
                lsn: Lsn::new(lsn),
                offset,
                stored_len: raw.stored_len,
                raw_len: raw.raw_len,
                ino: Ino::new(raw.ino),
            });
        }
        if at == payload.len() {
            Ok(Self { totals, records })
        } else {
            Err(Malformed("bytes follow the footer"))
        }
    }
}

on_disk! {
    struct RawTrailer[64] {
        magic: [u8; 8],
        segment: U64,
        offset: U64,
        first_lsn: U64,
        last_lsn: U64,
        durable_lsn: U64,
        frame_len: U32,
        records: U32,
        zero: U32,
        crc: U32,
    }
}

/// The last block of a sealed segment's file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trailer {
    /// The segment.
    pub segment: SegmentId,
    /// Where the footer's frame begins.
    pub offset: u64,
    /// LSN of the first record, as in the header.
    pub first_lsn: Lsn,
    /// LSN of the last record numbered in the segment.
    pub last_lsn: Lsn,
    /// The highest LSN known durable when the footer was written.
    pub durable_lsn: Lsn,
    /// Length of the footer's frame, padding included.
    pub frame_len: u32,
    /// Number of records.
    pub records: u32,
}

impl Trailer {
    /// The used bytes of the block.
    #[must_use]
    pub fn encode(&self, seed: Seed) -> [u8; TRAILER_BYTES] {
        let mut raw = RawTrailer {
            magic: MAGIC,
            segment: self.segment.get().into(),
            offset: self.offset.into(),
            first_lsn: self.first_lsn.get().into(),
            last_lsn: self.last_lsn.get().into(),
            durable_lsn: self.durable_lsn.get().into(),
            frame_len: self.frame_len.into(),
            records: self.records.into(),
            zero: 0.into(),
            crc: 0.into(),
        };
        raw.crc = seed.crc_without(raw.as_bytes(), 60).into();
        zerocopy::transmute!(raw)
    }

    /// From the used bytes of the last block of a file of `file_len` bytes.
    ///
    /// # Errors
    /// If this is no trailer of this segment.
    pub fn decode(bytes: &[u8], seed: Seed, segment: SegmentId, file_len: u64) -> Result<Self, Malformed> {
        let raw = RawTrailer::ref_from_bytes(bytes).map_err(|_| Malformed("trailer is cut off"))?;
        if raw.magic != MAGIC {
            return Err(Malformed("no trailer"));
        }
        if raw.crc.get() != seed.crc_without(bytes, 60) {
            return Err(Malformed("trailer fails its checksum"));
        }
        let t = Self {
            segment: SegmentId::new(raw.segment.get()),
            offset: raw.offset.get(),
            first_lsn: Lsn::new(raw.first_lsn.get()),
            last_lsn: Lsn::new(raw.last_lsn.get()),
            durable_lsn: Lsn::new(raw.durable_lsn.get()),
            frame_len: raw.frame_len.get(),
            records: raw.records.get(),
        };
        if t.segment != segment {
            return Err(Malformed("trailer belongs to another segment"));
        }
        let bound = frame::frame_len(RECORD_BYTES as u32);
        if u64::from(t.frame_len) > bound
            || t.offset < BLOCK_BYTES
            || t.offset > file_len
            || t.end() > file_len
        {
            return Err(Malformed("trailer names a place outside the file"));
        }
        Ok(t)
    }

    /// Where the segment's last batch, that of the footer, ends.
    #[must_use]
    pub const fn end(&self) -> u64 {
        pad_block(self.offset + self.frame_len as u64 + frame::BATCH_END_FRAME_BYTES)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::flags;

    fn entry(lsn: u64, offset: u64, flags: u32) -> Entry {
        Entry {
            kind: Kind::Extent,
            flags,
            lsn: Lsn::new(lsn),
            offset,
            stored_len: 100,
            raw_len: 200,
            ino: Ino::new(300),
        }
    }

    #[test]
    fn a_footer_comes_back_and_every_truncation_is_an_error() {
        let mut b = FooterBuilder::new(Lsn::new(10));
        let list = [entry(10, 4096, 0), entry(3, 5000, flags::MOVED), entry(11, 1 << 20, 0)];
        for e in &list {
            let before = b.room(1);
            b.push(e);
            assert!(b.room(0) <= before);
        }
        let payload = b.payload();
        assert_eq!(b.totals().last_lsn, 11);
        let f = Footer::decode(&payload).unwrap();
        assert_eq!(f.records, list);
        assert_eq!(f.totals, b.totals());
        for n in 0..payload.len() {
            assert!(Footer::decode(&payload[..n]).is_err(), "cut at {n}");
        }
        // Arbitrary bytes: no panic, no huge allocation.
        for i in 0..payload.len() {
            for v in [0, 0x7f, 0xfb, 0xfc, 0xfd, 0xff] {
                let mut bad = payload.clone();
                bad[i] = v;
                let _ = Footer::decode(&bad);
            }
        }
    }

    #[test]
    fn every_flip_in_a_trailer_is_seen() {
        let seed = Seed::of(9);
        let t = Trailer {
            segment: SegmentId::new(3),
            offset: 8192,
            first_lsn: Lsn::new(1),
            last_lsn: Lsn::new(5),
            durable_lsn: Lsn::new(5),
            frame_len: 128,
            records: 5,
        };
        let bytes = t.encode(seed);
        assert_eq!(Trailer::decode(&bytes, seed, t.segment, 16384), Ok(t));
        assert_eq!(t.end(), 12288);
        assert!(Trailer::decode(&bytes, Seed::of(8), t.segment, 16384).is_err());
        assert!(Trailer::decode(&bytes, seed, SegmentId::new(4), 16384).is_err());
        assert!(Trailer::decode(&bytes, seed, t.segment, 8192).is_err());
        for i in 0..bytes.len() {
            let mut bad = bytes;
            bad[i] ^= 4;
            assert!(Trailer::decode(&bad, seed, t.segment, 16384).is_err(), "flip at {i}");
        }
    }
}
