//! A batch being collected in memory, in the bytes that will stand in the file.

use std::sync::Arc;

use crate::{
    base::{
        Ino, Lsn, SegmentId,
        planted::{Bug, planted},
    },
    format::{
        BatchEnd, BodyHeader, Codec, Envelope, Kind, Seed,
        checksum::{Chain, crc, crc_of_both},
        frame::{BATCH_END_BYTES, BATCH_END_FRAME_BYTES, frame_len},
        pad_block,
        payload::Prepared,
    },
};

/// Payloads up to this many bytes are copied into the batch; longer ones are shared.
const COPY_BYTES: usize = 64 << 10;

enum Part {
    Own(Vec<u8>),
    Shared(Arc<Vec<u8>>),
}

impl Part {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Own(v) => v,
            Self::Shared(v) => v,
        }
    }
}

/// What a frame is made of.
pub struct FrameParts<'a> {
    /// What it is.
    pub kind: Kind,
    /// Bits of [`flags`](crate::format::flags).
    pub flags: u32,
    /// Its number.
    pub lsn: Lsn,
    /// Local inode number, 0 if none.
    pub ino: Ino,
    /// The portable head, where the kind has one.
    pub head: Option<BodyHeader>,
    /// The payload.
    pub payload: &'a Prepared,
}

/// A batch that takes more frames.
pub struct BatchBuilder {
    segment: SegmentId,
    seed: Seed,
    begin: u64,
    len: u64,
    first_lsn: Lsn,
    last_lsn: Lsn,
    count: u32,
    chain: Chain,
    parts: Vec<(u64, Part)>,
}

impl BatchBuilder {
    /// An empty batch that will stand at `begin`; `next_lsn` is the number that the next new record gets.
    #[must_use]
    pub fn new(segment: SegmentId, seed: Seed, begin: u64, next_lsn: Lsn) -> Self {
        Self {
            segment,
            seed,
            begin,
            len: 0,
            first_lsn: next_lsn,
            last_lsn: Lsn::new(next_lsn.get() - 1),
            count: 0,
            chain: Chain::default(),
            parts: Vec::new(),
        }
    }

    /// Number of frames in it.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.count
    }

    /// Where it begins in the segment.
    #[must_use]
    pub fn begin(&self) -> u64 {
        self.begin
    }

    /// Where the next frame would begin.
    #[must_use]
    pub fn next_offset(&self) -> u64 {
        self.begin + self.len
    }

    /// Length of its frames so far.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Is it without frames?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The last number given to a record of it; one less than the first if none was.
    #[must_use]
    pub fn last_lsn(&self) -> Lsn {
        self.last_lsn
    }

    /// Where the batch would end if frames of this length were added and it were closed then.
    #[must_use]
    pub fn end_with(&self, more: u64) -> u64 {
        pad_block(self.begin + self.len + more + BATCH_END_FRAME_BYTES)
    }

    /// Adds a frame and says where it begins. A record that is numbered here moves the batch's last LSN.
    pub fn push(&mut self, f: &FrameParts<'_>, numbered: bool) -> u64 {
        let p = f.payload;
        let offset = self.next_offset();
        let head_bytes = f.head.as_ref().map(BodyHeader::encode);
        let head: &[u8] = head_bytes.as_ref().map_or(&[], |h| h);
        let head_crc = match (head, p.table()) {
            ([], _) => 0,
            (h, []) => crc(h),
            (h, table) => crc_of_both(h, table),
        };
        let mut envelope = Envelope {
            kind: f.kind,
            codec: p.codec(),
            crc: 0,
            body_len: p.body_len(f.kind),
            payload_len: p.stored().len() as u32,
            head_crc,
            payload_crc: p.payload_crc(),
            lsn: f.lsn,
            segment: self.segment,
            offset,
            ino: f.ino,
            flags: f.flags,
        };
        let bytes = envelope.encode(self.seed);
        let own = self.own();
        own.extend_from_slice(&bytes);
        own.extend_from_slice(head);
        if f.kind.has_body_header() {
            own.extend_from_slice(p.table());
        }
        let mut len = (bytes.len() + head.len() + if head.is_empty() { 0 } else { p.table().len() }) as u64;
        if p.stored().len() <= COPY_BYTES {
            own.extend_from_slice(p.stored());
        } else {
            self.parts.push((offset + len, Part::Shared(Arc::clone(p.stored()))));
        }
        len += p.stored().len() as u64;
        let whole = envelope.frame_len();
        self.len += len;
        self.pad(whole - len);
        self.chain.push(envelope.crc);
        self.count += 1;
        if numbered {
            self.last_lsn = f.lsn;
        }
        offset
    }

    fn own(&mut self) -> &mut Vec<u8> {
        if !matches!(self.parts.last(), Some((_, Part::Own(_)))) {
            let at = self.begin + self.len;
            self.parts.push((at, Part::Own(Vec::with_capacity(4096))));
        }
        match self.parts.last_mut() {
            Some((_, Part::Own(v))) => v,
            _ => unreachable!("just pushed"),
        }
    }

    fn pad(&mut self, n: u64) {
        if n > 0 {
            let own = self.own();
            own.resize(own.len() + n as usize, 0);
            self.len += n;
        }
    }

    /// Closes it with a batch end and pads it to a block.
    #[must_use]
    pub fn close(mut self, durable: Lsn, wall_ns: u64) -> ClosedBatch {
        let durable = if planted(Bug::DurableMarkTooHigh) { self.last_lsn } else { durable };
        let end = BatchEnd {
            begin: self.begin,
            first_lsn: self.first_lsn,
            last_lsn: self.last_lsn,
            durable_lsn: durable,
            count: self.count,
            chain_crc: self.chain.value(),
            wall_ns,
        };
        let payload = end.encode();
        let mut envelope = Envelope {
            kind: Kind::BatchEnd,
            codec: Codec::Raw,
            crc: 0,
            body_len: BATCH_END_BYTES as u32,
            payload_len: BATCH_END_BYTES as u32,
            head_crc: 0,
            payload_crc: crc(&payload),
            lsn: self.last_lsn,
            segment: self.segment,
            offset: self.next_offset(),
            ino: Ino::new(0),
            flags: 0,
        };
        let bytes = envelope.encode(self.seed);
        let own = self.own();
        own.extend_from_slice(&bytes);
        own.extend_from_slice(&payload);
        self.len += frame_len(envelope.body_len);
        self.pad(pad_block(self.len) - self.len);
        ClosedBatch {
            segment: self.segment,
            begin: self.begin,
            end: self.begin + self.len,
            last_lsn: self.last_lsn,
            parts: self.parts,
        }
    }

    /// Copies bytes out of it, by their offset in the segment; false if they are not (all) in it.
    #[must_use]
    pub fn read(&self, out: &mut [u8], offset: u64) -> bool {
        read_parts(&self.parts, out, offset)
    }
}

/// A batch as it goes to the file.
pub struct ClosedBatch {
    /// The segment for which it was made.
    pub segment: SegmentId,
    /// Where it begins.
    pub begin: u64,
    /// Where it ends, padding included.
    pub end: u64,
    /// The last number given to a record up to here.
    pub last_lsn: Lsn,
    parts: Vec<(u64, Part)>,
}

impl ClosedBatch {
    /// Its bytes, piece by piece.
    #[must_use]
    pub fn pieces(&self) -> Vec<&[u8]> {
        self.parts.iter().map(|(_, p)| p.bytes()).collect()
    }

    /// Copies bytes out of it, by their offset in the segment; false if they are not (all) in it.
    #[must_use]
    pub fn read(&self, out: &mut [u8], offset: u64) -> bool {
        read_parts(&self.parts, out, offset)
    }
}

fn read_parts(parts: &[(u64, Part)], mut out: &mut [u8], mut offset: u64) -> bool {
    let mut i = parts.partition_point(|(at, _)| *at <= offset);
    if i == 0 {
        return out.is_empty();
    }
    i -= 1;
    while !out.is_empty() {
        let Some((at, part)) = parts.get(i) else { return false };
        let bytes = part.bytes();
        let from = (offset - at) as usize;
        if from > bytes.len() {
            return false;
        }
        let n = (bytes.len() - from).min(out.len());
        let (now, later) = out.split_at_mut(n);
        now.copy_from_slice(&bytes[from..from + n]);
        out = later;
        offset += n as u64;
        i += 1;
    }
    true
}
