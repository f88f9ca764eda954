//! Reading one record, or a part of one, checking what is returned.

use std::{io, ops::Range};

use crate::{
    base::{
        Damage, Error, Ino, Lsn, Result, SegmentId,
        limits::PIECE_BYTES,
        planted::{Bug, planted},
    },
    format::{
        self, BodyHeader, Codec, Envelope, Footer, Kind, Malformed, Prepared, Seed, Trailer,
        checksum::crc,
        frame::{BODY_HEADER_BYTES, ENVELOPE_BYTES, frame_len, table_len},
        payload::open_body,
    },
};

/// So much of a payload's beginning is read together with what stands before it, in one request and one copy more.
const TOGETHER_BYTES: u64 = 32 << 10;

/// Where a record lies, with what a read needs to know before it reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Location {
    /// The segment.
    pub segment: SegmentId,
    /// Where its frame begins.
    pub offset: u64,
    /// What it is.
    pub kind: Kind,
    /// How its payload is stored.
    pub codec: Codec,
    /// Length of the payload as stored.
    pub stored_len: u32,
    /// Length of the raw payload.
    pub raw_len: u32,
}

impl From<Location> for format::Location {
    fn from(l: Location) -> Self {
        Self {
            segment: l.segment,
            offset: l.offset,
            stored_len: l.stored_len,
            raw_len: l.raw_len,
            codec: l.codec,
        }
    }
}

impl Location {
    /// Where an extent lies, from what a row says.
    #[must_use]
    pub const fn of_extent(l: &format::Location) -> Self {
        Self::of_record(l, Kind::Extent)
    }

    /// Where a record of this kind lies, from what a row says.
    #[must_use]
    pub const fn of_record(l: &format::Location, kind: Kind) -> Self {
        Self {
            segment: l.segment,
            offset: l.offset,
            kind,
            codec: l.codec,
            stored_len: l.stored_len,
            raw_len: l.raw_len,
        }
    }

    /// Length of what stands before the payload in the body.
    #[must_use]
    pub const fn head_len(&self) -> usize {
        match self.kind {
            Kind::Extent => BODY_HEADER_BYTES + table_len(self.raw_len),
            Kind::Operation => BODY_HEADER_BYTES,
            _ => 0,
        }
    }

    /// Length of the body.
    #[must_use]
    pub const fn body_len(&self) -> u32 {
        self.head_len() as u32 + self.stored_len
    }

    /// Length of the frame, padding included.
    #[must_use]
    pub const fn frame_len(&self) -> u64 {
        frame_len(self.body_len())
    }

    fn damage(&self, lsn: Option<Lsn>, why: impl Into<String>) -> Error {
        Damage::segment(self.segment, self.offset, lsn, why).into()
    }

    fn checked(&self, bytes: &[u8], seed: Seed) -> Result<Envelope> {
        let e = Envelope::decode(bytes, seed, self.segment, self.offset, u64::MAX)
            .map_err(|why| self.damage(None, why.0))?;
        if e.kind != self.kind
            || e.codec != self.codec
            || e.payload_len != self.stored_len
            || e.body_len != self.body_len()
        {
            return Err(self.damage(Some(e.lsn), "the frame is not the one that was looked for"));
        }
        Ok(e)
    }
}

/// A record in memory, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnedRecord {
    /// Its number.
    pub lsn: Lsn,
    /// What it is.
    pub kind: Kind,
    /// Bits of [`flags`](crate::format::flags).
    pub flags: u32,
    /// Local inode number, 0 if none.
    pub ino: Ino,
    /// The portable head, where the kind has one.
    pub head: Option<BodyHeader>,
    /// The raw payload.
    pub payload: Vec<u8>,
    /// Where it lies.
    pub location: Location,
}

/// How bytes of a segment are fetched: from its file, or from a batch in memory.
pub type Fetch<'a> = &'a dyn Fn(&mut [u8], u64) -> io::Result<()>;

fn fetch(loc: &Location, source: Fetch<'_>, out: &mut [u8], offset: u64) -> Result<()> {
    source(out, offset).map_err(|e| {
        if e.kind() == io::ErrorKind::UnexpectedEof {
            loc.damage(None, "the file ends within the frame")
        } else {
            Error::io(format!("reading segment {} at {offset}", loc.segment), e)
        }
    })
}

/// Reads raw bytes `range` of a record's payload into `out`, which has the range's length. Of a raw extent only the pieces
/// touched are read and checked.
///
/// # Errors
/// [`Error::Damaged`] if what was read is not what was written; [`Error::BadRequest`] for a range beyond the
/// payload.
pub fn read_range(
    loc: &Location,
    seed: Seed,
    source: Fetch<'_>,
    range: Range<u64>,
    out: &mut [u8],
) -> Result<()> {
    if range.start > range.end
        || range.end > u64::from(loc.raw_len)
        || range.end - range.start != out.len() as u64
    {
        return Err(Error::BadRequest(format!(
            "bytes {}..{} of a payload of {} into a buffer of {}",
            range.start,
            range.end,
            loc.raw_len,
            out.len()
        )));
    }
    if out.is_empty() {
        return Ok(());
    }
    let in_pieces = loc.kind == Kind::Extent && loc.codec == Codec::Raw && table_len(loc.raw_len) > 0;
    if in_pieces {
        return read_pieces(loc, seed, source, range, out);
    }
    let mut frame = vec![0; ENVELOPE_BYTES + loc.body_len() as usize];
    fetch(loc, source, &mut frame, loc.offset)?;
    let (envelope, body) = frame.split_at(ENVELOPE_BYTES);
    let envelope = loc.checked(envelope, seed)?;
    let (_, raw) = open_body(&envelope, body).map_err(|why| loc.damage(Some(envelope.lsn), why.0))?;
    let bytes = raw
        .get(range.start as usize..range.end as usize)
        .ok_or_else(|| loc.damage(Some(envelope.lsn), "raw length is not the one that was looked for"))?;
    out.copy_from_slice(bytes);
    Ok(())
}

fn read_pieces(
    loc: &Location,
    seed: Seed,
    source: Fetch<'_>,
    range: Range<u64>,
    out: &mut [u8],
) -> Result<()> {
    let piece = PIECE_BYTES as u64;
    let from = range.start / piece * piece;
    let to = (range.end.div_ceil(piece) * piece).min(u64::from(loc.raw_len));
    let before = ENVELOPE_BYTES + loc.head_len();
    let payload_at = loc.offset + before as u64;
    // From the first piece on, head and payload are one read.
    let together = from == 0 && to <= TOGETHER_BYTES;
    let mut head = vec![0; if together { before + to as usize } else { before }];
    fetch(loc, source, &mut head, loc.offset)?;
    let envelope = loc.checked(&head[..ENVELOPE_BYTES], seed)?;
    let damaged = |why: Malformed| loc.damage(Some(envelope.lsn), why.0);
    let body_head = BodyHeader::decode(&head[ENVELOPE_BYTES..before], &envelope).map_err(damaged)?;
    if body_head.raw_len != loc.raw_len {
        return Err(damaged(Malformed("raw length is not the one that was looked for")));
    }
    let table = &head[ENVELOPE_BYTES + BODY_HEADER_BYTES..before];
    if from == range.start && to == range.end && !together {
        fetch(loc, source, out, payload_at + from)?;
        return check_pieces(table, from, out).map_err(damaged);
    }
    let fetched;
    let pieces = if together {
        &head[before..]
    } else {
        let mut v = vec![0; (to - from) as usize];
        fetch(loc, source, &mut v, payload_at + from)?;
        fetched = v;
        &fetched[..]
    };
    check_pieces(table, from, pieces).map_err(damaged)?;
    let skip = (range.start - from) as usize;
    out.copy_from_slice(&pieces[skip..skip + out.len()]);
    Ok(())
}

/// Checks pieces of a raw payload, the first of which begins at `from`.
fn check_pieces(table: &[u8], from: u64, bytes: &[u8]) -> Result<(), Malformed> {
    if planted(Bug::SkipPieceChecksum) {
        return Ok(());
    }
    let sums = table.as_chunks::<4>().0.iter().skip(from as usize / PIECE_BYTES);
    let mut pieces = bytes.chunks(PIECE_BYTES);
    for (piece, sum) in pieces.by_ref().zip(sums) {
        if crc(piece) != u32::from_le_bytes(*sum) {
            return Err(Malformed("a piece of the payload fails its checksum"));
        }
    }
    if pieces.next().is_some() { Err(Malformed("piece table is too short")) } else { Ok(()) }
}

/// Reads a whole record.
///
/// # Errors
/// [`Error::Damaged`] if anything in it fails its checksum.
pub fn read_record(loc: &Location, seed: Seed, source: Fetch<'_>) -> Result<OwnedRecord> {
    let mut frame = vec![0; ENVELOPE_BYTES + loc.body_len() as usize];
    fetch(loc, source, &mut frame, loc.offset)?;
    let (envelope, body) = frame.split_at(ENVELOPE_BYTES);
    let envelope = loc.checked(envelope, seed)?;
    let (head, raw) = open_body(&envelope, body).map_err(|why| loc.damage(Some(envelope.lsn), why.0))?;
    if raw.len() != loc.raw_len as usize {
        return Err(loc.damage(Some(envelope.lsn), "raw length is not the one that was looked for"));
    }
    Ok(OwnedRecord {
        lsn: envelope.lsn,
        kind: envelope.kind,
        flags: envelope.flags,
        ino: envelope.ino,
        head,
        payload: raw.into_owned(),
        location: *loc,
    })
}

/// Reads an extent as it is stored, whole and checked.
///
/// # Errors
/// [`Error::Damaged`] if anything in it fails its checksum.
pub fn read_stored(loc: &Location, seed: Seed, source: Fetch<'_>) -> Result<Prepared> {
    let mut frame = vec![0; ENVELOPE_BYTES + loc.body_len() as usize];
    fetch(loc, source, &mut frame, loc.offset)?;
    let (envelope, body) = frame.split_at(ENVELOPE_BYTES);
    let envelope = loc.checked(envelope, seed)?;
    let damaged = |why: Malformed| loc.damage(Some(envelope.lsn), why.0);
    let head = BodyHeader::decode(&body[..loc.head_len()], &envelope).map_err(damaged)?;
    let stored = body[loc.head_len()..].to_vec();
    Prepared::stored_extent(loc.codec, stored, loc.raw_len, head.raw_crc).map_err(damaged)
}

/// Reads envelope and head of a record, without its payload.
///
/// # Errors
/// [`Error::Damaged`] if they fail their checksums.
pub fn read_header_of(
    loc: &Location,
    seed: Seed,
    source: Fetch<'_>,
) -> Result<(Envelope, Option<BodyHeader>)> {
    let mut bytes = vec![0; ENVELOPE_BYTES + loc.head_len()];
    fetch(loc, source, &mut bytes, loc.offset)?;
    let (envelope, head) = bytes.split_at(ENVELOPE_BYTES);
    let envelope = loc.checked(envelope, seed)?;
    if !loc.kind.has_body_header() {
        return Ok((envelope, None));
    }
    let head = BodyHeader::decode(head, &envelope).map_err(|why| loc.damage(Some(envelope.lsn), why.0))?;
    Ok((envelope, Some(head)))
}

/// Reads the footer that a trailer names.
///
/// # Errors
/// [`Error::Damaged`] if it is not there or damaged.
pub fn read_footer(trailer: &Trailer, seed: Seed, source: Fetch<'_>) -> Result<Footer> {
    let damaged = |why: Malformed| Error::from(Damage::segment(trailer.segment, trailer.offset, None, why.0));
    let mut frame = vec![0; trailer.frame_len as usize];
    source(&mut frame, trailer.offset)
        .map_err(|e| Error::io(format!("reading the footer of segment {}", trailer.segment), e))?;
    let (bytes, body) =
        frame.split_at_checked(ENVELOPE_BYTES).ok_or_else(|| damaged(Malformed("footer is too short")))?;
    let e = Envelope::decode(bytes, seed, trailer.segment, trailer.offset, u64::MAX).map_err(damaged)?;
    if e.kind != Kind::Footer {
        return Err(damaged(Malformed("no footer where the trailer says")));
    }
    let body = body.get(..e.body_len as usize).ok_or_else(|| damaged(Malformed("footer is cut off")))?;
    let (_, raw) = open_body(&e, body).map_err(damaged)?;
    Footer::decode(&raw).map_err(damaged)
}
