//! Frames: the local envelope, the portable body header, the end of a batch.

use zerocopy::{
    FromBytes, IntoBytes,
    little_endian::{U16, U32, U64, U128},
};

use super::{Codec, Malformed, Seed, checksum::crc, layout::on_disk, pad8};
use crate::base::{
    Incarnation, Ino, Lsn, ObjectId, SegmentId, StoreId,
    limits::{BLOCK_BYTES, COMPRESSED_EXTENT_BYTES, EXTENT_BYTES, PIECE_BYTES, RECORD_BYTES},
    planted::{Bug, planted},
};

/// Length of an envelope, in bytes.
pub const ENVELOPE_BYTES: usize = 64;
/// Length of a body header, in bytes.
pub const BODY_HEADER_BYTES: usize = 80;
/// Length of a batch end's payload, in bytes.
pub const BATCH_END_BYTES: usize = 48;
/// Length of a batch end's frame, in bytes.
pub const BATCH_END_FRAME_BYTES: u64 = (ENVELOPE_BYTES + BATCH_END_BYTES) as u64;
/// The longest piece table, in bytes.
pub const TABLE_BYTES_MAX: usize = EXTENT_BYTES / PIECE_BYTES * 4;
/// What stands before the payload of a frame at most, in bytes.
pub const HEAD_BYTES_MAX: usize = ENVELOPE_BYTES + BODY_HEADER_BYTES + TABLE_BYTES_MAX;
const MAGIC: u16 = 0x4653;

/// Flag bits of an envelope.
pub mod flags {
    /// The cleaner moved it here.
    pub const MOVED: u32 = 1;
    /// Another store made it.
    pub const FOREIGN: u32 = 2;
    /// An extent whose bytes are only stored; an operation says where they belong.
    pub const DETACHED: u32 = 4;
    /// An operation with which whatever loses its last name is given up, since nobody here has it open.
    pub const GIVES_UP: u32 = 8;
}

/// What a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Kind {
    /// Bytes of a file.
    Extent = 1,
    /// A list of facts.
    Operation = 2,
    /// A piece of a base: rows of the index as of an LSN.
    Base = 3,
    /// Closes a batch.
    BatchEnd = 4,
    /// Lists the records of a sealed segment.
    Footer = 5,
}

impl Kind {
    /// From its number on disk.
    #[must_use]
    pub const fn from_u8(n: u8) -> Option<Self> {
        match n {
            1 => Some(Self::Extent),
            2 => Some(Self::Operation),
            3 => Some(Self::Base),
            4 => Some(Self::BatchEnd),
            5 => Some(Self::Footer),
            _ => None,
        }
    }

    /// Does its body begin with a [`BodyHeader`]?
    #[must_use]
    pub const fn has_body_header(self) -> bool {
        matches!(self, Self::Extent | Self::Operation)
    }

    /// Is it one of the kinds that callers append?
    #[must_use]
    pub const fn is_record(self) -> bool {
        matches!(self, Self::Extent | Self::Operation | Self::Base)
    }
}

on_disk! {
    struct RawEnvelope[64] {
        magic: U16,
        kind: u8,
        codec: u8,
        crc: U32,
        body_len: U32,
        payload_len: U32,
        head_crc: U32,
        payload_crc: U32,
        lsn: U64,
        segment: U64,
        offset: U64,
        ino: U64,
        flags: U32,
        zero: U32,
    }
}

/// The local part of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Envelope {
    /// What the frame is.
    pub kind: Kind,
    /// How its payload is stored.
    pub codec: Codec,
    /// Its own checksum.
    pub crc: u32,
    /// Length of the body, without padding.
    pub body_len: u32,
    /// Length of the payload as stored.
    pub payload_len: u32,
    /// Checksum of what precedes the payload in the body.
    pub head_crc: u32,
    /// Checksum of the payload as stored; 0 for raw extents.
    pub payload_crc: u32,
    /// The record's number.
    pub lsn: Lsn,
    /// The segment where it lies.
    pub segment: SegmentId,
    /// Where in the segment.
    pub offset: u64,
    /// Local inode number of the object, 0 if none.
    pub ino: Ino,
    /// Bits of [`flags`].
    pub flags: u32,
}

impl Envelope {
    /// Sets the checksum and returns the bytes.
    #[must_use]
    pub fn encode(&mut self, seed: Seed) -> [u8; ENVELOPE_BYTES] {
        let mut raw = RawEnvelope {
            magic: MAGIC.into(),
            kind: self.kind as u8,
            codec: self.codec as u8,
            crc: 0.into(),
            body_len: self.body_len.into(),
            payload_len: self.payload_len.into(),
            head_crc: self.head_crc.into(),
            payload_crc: self.payload_crc.into(),
            lsn: self.lsn.get().into(),
            segment: self.segment.get().into(),
            offset: self.offset.into(),
            ino: self.ino.get().into(),
            flags: self.flags.into(),
            zero: 0.into(),
        };
        self.crc = seed.crc_without(raw.as_bytes(), 4);
        raw.crc = self.crc.into();
        zerocopy::transmute!(raw)
    }

    /// Checks in this order: magic, checksum, place, lengths. `limit` is where the segment ends.
    ///
    /// # Errors
    /// If it is no envelope of a frame at this place of this segment.
    pub fn decode(
        bytes: &[u8],
        seed: Seed,
        segment: SegmentId,
        offset: u64,
        limit: u64,
    ) -> Result<Self, Malformed> {
        let raw = RawEnvelope::ref_from_bytes(bytes).map_err(|_| Malformed("envelope is cut off"))?;
        if raw.magic.get() != MAGIC {
            return Err(Malformed("no frame here"));
        }
        if !planted(Bug::TrustLengthBeforeChecksum) && raw.crc.get() != seed.crc_without(bytes, 4) {
            return Err(Malformed("envelope fails its checksum"));
        }
        Self::checked(raw, segment, offset, limit)
    }

    /// The same without the checksum, for a segment whose header, and with it the seed, is lost. Nothing may be built on it but the
    /// suspicion that a frame was here.
    ///
    /// # Errors
    /// As [`decode`](Self::decode).
    pub fn decode_unproved(
        bytes: &[u8],
        segment: SegmentId,
        offset: u64,
        limit: u64,
    ) -> Result<Self, Malformed> {
        let raw = RawEnvelope::ref_from_bytes(bytes).map_err(|_| Malformed("envelope is cut off"))?;
        if raw.magic.get() != MAGIC {
            return Err(Malformed("no frame here"));
        }
        Self::checked(raw, segment, offset, limit)
    }

    fn checked(raw: &RawEnvelope, segment: SegmentId, offset: u64, limit: u64) -> Result<Self, Malformed> {
        let (Some(kind), Some(codec)) = (Kind::from_u8(raw.kind), Codec::from_u8(raw.codec)) else {
            return Err(Malformed("unknown kind or codec"));
        };
        let e = Self {
            kind,
            codec,
            crc: raw.crc.get(),
            body_len: raw.body_len.get(),
            payload_len: raw.payload_len.get(),
            head_crc: raw.head_crc.get(),
            payload_crc: raw.payload_crc.get(),
            lsn: Lsn::new(raw.lsn.get()),
            segment: SegmentId::new(raw.segment.get()),
            offset: raw.offset.get(),
            ino: Ino::new(raw.ino.get()),
            flags: raw.flags.get(),
        };
        if !planted(Bug::IgnoreFramePlace) && (e.segment != segment || e.offset != offset) {
            return Err(Malformed("frame belongs to another place"));
        }
        e.check_lengths()?;
        let end = offset.checked_add(e.frame_len()).ok_or(Malformed("frame is too long"))?;
        if end > limit {
            return Err(Malformed("frame reaches beyond the segment"));
        }
        Ok(e)
    }

    fn check_lengths(&self) -> Result<(), Malformed> {
        let (body, payload) = (self.body_len as usize, self.payload_len as usize);
        let Some(head) = body.checked_sub(payload) else {
            return Err(Malformed("payload is longer than its body"));
        };
        let ok = match self.kind {
            Kind::Extent => {
                let bound = if self.codec == Codec::Raw { EXTENT_BYTES } else { COMPRESSED_EXTENT_BYTES };
                payload <= bound && (BODY_HEADER_BYTES..=BODY_HEADER_BYTES + TABLE_BYTES_MAX).contains(&head)
            }
            Kind::Operation => head == BODY_HEADER_BYTES && body <= RECORD_BYTES,
            Kind::Base => head == 0 && body <= RECORD_BYTES,
            Kind::BatchEnd => head == 0 && body == BATCH_END_BYTES && self.codec == Codec::Raw,
            Kind::Footer => head == 0 && body <= RECORD_BYTES && self.codec == Codec::Raw,
        };
        if ok { Ok(()) } else { Err(Malformed("lengths do not fit the kind")) }
    }

    /// Length of what precedes the payload in the body.
    #[must_use]
    pub const fn head_len(&self) -> usize {
        (self.body_len - self.payload_len) as usize
    }

    /// Length of the frame with its padding.
    #[must_use]
    pub const fn frame_len(&self) -> u64 {
        frame_len(self.body_len)
    }
}

/// Length of a frame with this body, padding included.
#[must_use]
pub const fn frame_len(body_len: u32) -> u64 {
    pad8(ENVELOPE_BYTES as u64 + body_len as u64)
}

/// Length of the piece table of an extent, in bytes.
#[must_use]
pub const fn table_len(raw_len: u32) -> usize {
    let raw_len = raw_len as usize;
    if raw_len <= PIECE_BYTES { 0 } else { raw_len.div_ceil(PIECE_BYTES) * 4 }
}

/// Where a record was made, for ever.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default, bincode::Encode, bincode::Decode,
)]
pub struct Origin {
    /// The store.
    pub store: StoreId,
    /// Which of its openings.
    pub incarnation: Incarnation,
    /// For an extent its LSN there; for an operation the number of its facts batch, 0 if it never crosses.
    pub seq: u64,
}

on_disk! {
    struct RawBodyHeader[80] {
        object: U128,
        origin_store: U128,
        origin_incarnation: U64,
        origin_seq: U64,
        stamp: U64,
        arg: U64,
        raw_len: U32,
        raw_crc: U32,
        branch: U64,
    }
}

/// The portable head of an extent or operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct BodyHeader {
    /// The object that it concerns.
    pub object: ObjectId,
    /// Where it was made.
    pub origin: Origin,
    /// Hybrid logical clock, ns since 1970.
    pub stamp: u64,
    /// Extent: offset in the file; operation: number of facts.
    pub arg: u64,
    /// Length of the raw payload.
    pub raw_len: u32,
    /// Checksum of the raw payload.
    pub raw_crc: u32,
    /// Extent: the branch that it writes, 0 for the object's own line.
    pub branch: u64,
}

impl BodyHeader {
    /// The bytes.
    #[must_use]
    pub fn encode(&self) -> [u8; BODY_HEADER_BYTES] {
        let raw = RawBodyHeader {
            object: self.object.get().into(),
            origin_store: self.origin.store.get().into(),
            origin_incarnation: self.origin.incarnation.get().into(),
            origin_seq: self.origin.seq.into(),
            stamp: self.stamp.into(),
            arg: self.arg.into(),
            raw_len: self.raw_len.into(),
            raw_crc: self.raw_crc.into(),
            branch: self.branch.into(),
        };
        zerocopy::transmute!(raw)
    }

    /// From the head of a body (header and piece table), which must fit the envelope.
    ///
    /// # Errors
    /// If the checksum fails or the lengths contradict the envelope.
    pub fn decode(head: &[u8], envelope: &Envelope) -> Result<Self, Malformed> {
        if head.len() != envelope.head_len() {
            return Err(Malformed("head of the body is cut off"));
        }
        if crc(head) != envelope.head_crc {
            return Err(Malformed("head of the body fails its checksum"));
        }
        let (raw, table) = RawBodyHeader::ref_from_prefix(head).map_err(|_| Malformed("no body header"))?;
        let h = Self {
            object: ObjectId::new(raw.object.get()),
            origin: Origin {
                store: StoreId::new(raw.origin_store.get()),
                incarnation: Incarnation::new(raw.origin_incarnation.get()),
                seq: raw.origin_seq.get(),
            },
            stamp: raw.stamp.get(),
            arg: raw.arg.get(),
            raw_len: raw.raw_len.get(),
            raw_crc: raw.raw_crc.get(),
            branch: raw.branch.get(),
        };
        h.check_lengths(envelope, table.len())?;
        Ok(h)
    }

    fn check_lengths(&self, envelope: &Envelope, table: usize) -> Result<(), Malformed> {
        let raw_bound = match (envelope.kind, envelope.codec) {
            (Kind::Extent, Codec::Raw) => EXTENT_BYTES,
            (Kind::Extent, Codec::Zstd) => COMPRESSED_EXTENT_BYTES,
            _ => RECORD_BYTES,
        };
        if self.raw_len as usize > raw_bound {
            return Err(Malformed("raw length is beyond its bound"));
        }
        if envelope.codec == Codec::Raw && self.raw_len != envelope.payload_len {
            return Err(Malformed("raw length is not the payload's"));
        }
        let expected = if envelope.kind == Kind::Extent { table_len(self.raw_len) } else { 0 };
        if table != expected {
            return Err(Malformed("piece table has the wrong length"));
        }
        Ok(())
    }
}

on_disk! {
    struct RawBatchEnd[48] {
        begin: U64,
        first_lsn: U64,
        last_lsn: U64,
        durable_lsn: U64,
        count: U32,
        chain_crc: U32,
        wall_ns: U64,
    }
}

/// What the end of a batch says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchEnd {
    /// The offset at which the batch begins.
    pub begin: u64,
    /// The LSN of the first record numbered in it.
    pub first_lsn: Lsn,
    /// The LSN of the last one; one less than the first if it holds only moved records or a footer.
    pub last_lsn: Lsn,
    /// The highest LSN known durable when it was written.
    pub durable_lsn: Lsn,
    /// Number of frames before this one in the batch.
    pub count: u32,
    /// Checksum over their envelopes' checksums.
    pub chain_crc: u32,
    /// Wall-clock time, ns since 1970.
    pub wall_ns: u64,
}

impl BatchEnd {
    /// The payload.
    #[must_use]
    pub fn encode(&self) -> [u8; BATCH_END_BYTES] {
        let raw = RawBatchEnd {
            begin: self.begin.into(),
            first_lsn: self.first_lsn.get().into(),
            last_lsn: self.last_lsn.get().into(),
            durable_lsn: self.durable_lsn.get().into(),
            count: self.count.into(),
            chain_crc: self.chain_crc.into(),
            wall_ns: self.wall_ns.into(),
        };
        zerocopy::transmute!(raw)
    }

    /// From the payload, which must fit the envelope.
    ///
    /// # Errors
    /// If the checksum fails or the values make no sense.
    pub fn decode(payload: &[u8], envelope: &Envelope) -> Result<Self, Malformed> {
        let raw =
            RawBatchEnd::ref_from_bytes(payload).map_err(|_| Malformed("batch end has the wrong length"))?;
        if crc(payload) != envelope.payload_crc {
            return Err(Malformed("batch end fails its checksum"));
        }
        let end = Self {
            begin: raw.begin.get(),
            first_lsn: Lsn::new(raw.first_lsn.get()),
            last_lsn: Lsn::new(raw.last_lsn.get()),
            durable_lsn: Lsn::new(raw.durable_lsn.get()),
            count: raw.count.get(),
            chain_crc: raw.chain_crc.get(),
            wall_ns: raw.wall_ns.get(),
        };
        if !end.begin.is_multiple_of(BLOCK_BYTES)
            || end.begin > envelope.offset
            || end.last_lsn != envelope.lsn
            || end.first_lsn.get() > end.last_lsn.get().saturating_add(1)
        {
            return Err(Malformed("batch end contradicts itself"));
        }
        Ok(end)
    }
}
