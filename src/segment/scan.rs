//! Going through the batches of a segment.

use std::sync::Arc;

use super::{BATCH_BYTES, Location, window::Window};
use crate::{
    base::{
        Lsn, SegmentId,
        limits::BLOCK_BYTES,
        planted::{Bug, planted},
    },
    disk::DiskFile,
    format::{
        BatchEnd, BodyHeader, Envelope, Kind, Malformed, Seed, SegmentHeader, checksum::Chain,
        frame::ENVELOPE_BYTES, pad_block, payload::open_body,
    },
};

/// What one read fetches at least, in bytes.
const READ_BYTES: usize = 256 << 10;
/// The same where most of what lies between is not wanted.
const SPARSE_READ_BYTES: usize = 16 << 10;

/// A frame with a valid envelope.
#[derive(Clone, Debug)]
pub struct ScannedFrame {
    /// Its envelope.
    pub envelope: Envelope,
    /// The head of its body, if the kind has one and it is intact.
    pub head: Option<BodyHeader>,
    /// Length of its raw payload; a guess if the body is damaged.
    pub raw_len: u32,
    /// What is wrong with its body.
    pub wrong: Option<Malformed>,
}

impl ScannedFrame {
    /// As a footer lists it.
    #[must_use]
    pub fn entry(&self) -> crate::format::Entry {
        crate::format::Entry {
            kind: self.envelope.kind,
            flags: self.envelope.flags,
            lsn: self.envelope.lsn,
            offset: self.envelope.offset,
            stored_len: self.envelope.payload_len,
            raw_len: self.raw_len,
            ino: self.envelope.ino,
        }
    }

    /// Where it lies.
    #[must_use]
    pub fn location(&self) -> Location {
        Location {
            segment: self.envelope.segment,
            offset: self.envelope.offset,
            kind: self.envelope.kind,
            codec: self.envelope.codec,
            stored_len: self.envelope.payload_len,
            raw_len: self.raw_len,
        }
    }
}

/// A batch, or what is left of one.
#[derive(Clone, Debug)]
pub struct Batch {
    /// Where it begins, or where what is left of it does.
    pub begin: u64,
    /// Behind its padding.
    pub end: u64,
    /// Its frames, without the batch end.
    pub frames: Vec<ScannedFrame>,
    /// What its end says, if that was found.
    pub closing: Option<BatchEnd>,
    /// All envelopes from beginning to end are there.
    pub complete: bool,
}

impl Batch {
    /// Is all of it there, bodies included?
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.complete && self.frames.iter().all(|f| f.wrong.is_none())
    }

    /// Is it that of the segment's footer?
    #[must_use]
    pub fn is_footer(&self) -> bool {
        self.frames.first().is_some_and(|f| f.envelope.kind == Kind::Footer)
    }

    /// The highest number given to a record that is known to be in it or before it.
    #[must_use]
    pub fn last_lsn(&self) -> Option<Lsn> {
        self.closing.map(|c| c.last_lsn)
    }
}

/// What a scan comes upon.
#[derive(Clone, Debug)]
pub enum Found {
    /// A batch, perhaps not all of it.
    Batch(Batch),
    /// No frame where one should be.
    Damage {
        /// Where.
        offset: u64,
        /// Where valid frames follow; equal to `offset` if none do.
        until: u64,
        /// What is wrong.
        why: Malformed,
    },
}

/// Goes through the batches of one segment.
pub struct Scan {
    window: Window,
    segment: SegmentId,
    seed: Seed,
    at: u64,
    limit: u64,
    pending: Option<Found>,
    sealed: bool,
    /// Are payloads read and checked?
    payloads: bool,
}

impl Scan {
    /// From `from` (a multiple of the block size) up to `limit`, or the file's end if that is nearer.
    #[must_use]
    pub fn new(file: Arc<dyn DiskFile>, header: &SegmentHeader, from: u64, limit: u64) -> Self {
        let limit = limit.min(file.len().unwrap_or(limit));
        Self {
            window: Window::new(file, limit, READ_BYTES),
            segment: header.segment,
            seed: header.seed(),
            at: from.max(BLOCK_BYTES),
            limit,
            pending: None,
            sealed: false,
            payloads: true,
        }
    }

    /// The same without payloads: they are neither read nor checked, only what stands before them.
    #[must_use]
    pub fn heads(file: Arc<dyn DiskFile>, header: &SegmentHeader, from: u64, limit: u64) -> Self {
        let mut scan = Self::new(Arc::clone(&file), header, from, limit);
        scan.window = Window::new(file, scan.limit, SPARSE_READ_BYTES);
        scan.payloads = false;
        scan
    }

    /// Where the last batch found so far ends.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.at
    }

    /// Was the footer's batch found, all of it?
    #[must_use]
    pub fn is_sealed(&self) -> bool {
        self.sealed
    }

    /// The next batch or damage; `None` at the end of what was written.
    pub fn next_found(&mut self) -> Option<Found> {
        if let Some(found) = self.pending.take() {
            return Some(found);
        }
        if self.sealed || self.at >= self.limit {
            return None;
        }
        let begin = self.at;
        let mut batch = Batch { begin, end: begin, frames: Vec::new(), closing: None, complete: false };
        match self.fill(&mut batch) {
            Ok(()) => {
                self.at = batch.end;
                self.sealed = batch.is_footer() && batch.is_whole();
                Some(Found::Batch(batch))
            }
            Err((offset, why)) => {
                let until = self.resync(offset);
                if until.is_none() && batch.frames.is_empty() {
                    return None;
                }
                self.at = until.unwrap_or(self.limit);
                let damage = Found::Damage { offset, until: until.unwrap_or(offset), why };
                if batch.frames.is_empty() {
                    return Some(damage);
                }
                batch.end = offset;
                self.pending = Some(damage);
                Some(Found::Batch(batch))
            }
        }
    }

    /// Reads frames up to a batch end; else says where the first unreadable one is.
    fn fill(&mut self, batch: &mut Batch) -> Result<(), (u64, Malformed)> {
        let mut chain = Chain::default();
        let mut at = batch.begin;
        loop {
            let envelope = self.envelope(at).map_err(|why| (at, why))?;
            if at + envelope.frame_len() - batch.begin > BATCH_BYTES {
                return Err((at, Malformed("batch is longer than any")));
            }
            let whole = self.payloads || envelope.kind == Kind::BatchEnd;
            let len = if whole { envelope.body_len as usize } else { envelope.head_len() };
            let body = self
                .window
                .get(at + ENVELOPE_BYTES as u64, len)
                .map_err(|_| (at, Malformed("frame can't be read")))?;
            if envelope.kind == Kind::BatchEnd {
                let closing = BatchEnd::decode(body, &envelope).map_err(|why| (at, why))?;
                let complete = closing.begin == batch.begin
                    && closing.count as usize == batch.frames.len()
                    && closing.chain_crc == chain.value();
                batch.complete = complete || planted(Bug::IgnoreBatchCount);
                batch.closing = Some(closing);
                batch.end = pad_block(at + envelope.frame_len());
                return Ok(());
            }
            let opened = if self.payloads {
                open_body(&envelope, body).map(|(head, raw)| (head, raw.len() as u32))
            } else {
                head_of(&envelope, body)
            };
            let (head, raw_len, wrong) = match opened {
                Ok((head, raw_len)) => (head, raw_len, None),
                Err(why) => {
                    let head = body.get(..envelope.head_len());
                    let head = head.filter(|_| envelope.kind.has_body_header());
                    let head = head.and_then(|h| BodyHeader::decode(h, &envelope).ok());
                    (head, head.map_or(envelope.payload_len, |h| h.raw_len), Some(why))
                }
            };
            chain.push(envelope.crc);
            at += envelope.frame_len();
            batch.frames.push(ScannedFrame { envelope, head, raw_len, wrong });
        }
    }

    fn envelope(&mut self, at: u64) -> Result<Envelope, Malformed> {
        let bytes = self.window.get(at, ENVELOPE_BYTES).map_err(|_| Malformed("frame can't be read"))?;
        Envelope::decode(bytes, self.seed, self.segment, at, self.limit)
    }

    /// The next block behind `offset` that begins with a frame of this segment.
    fn resync(&mut self, offset: u64) -> Option<u64> {
        let mut at = pad_block(offset + 1);
        while at < self.limit {
            if self.envelope(at).is_ok() {
                return Some(at);
            }
            at += BLOCK_BYTES;
        }
        None
    }
}

/// What stands before a payload, and the raw length that it names.
fn head_of(envelope: &Envelope, body: &[u8]) -> Result<(Option<BodyHeader>, u32), Malformed> {
    if !envelope.kind.has_body_header() {
        return Ok((None, envelope.payload_len));
    }
    let head = BodyHeader::decode(body, envelope)?;
    Ok((Some(head), head.raw_len))
}
