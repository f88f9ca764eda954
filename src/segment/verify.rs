//! Checking every byte of a segment that means something.

use std::sync::Arc;

use super::{Found, Location, Scan, read_footer, read_header, read_trailer};
use crate::{
    base::{Damage, Lsn, Result, SegmentId, StoreId, limits::BLOCK_BYTES},
    disk::DiskFile,
    format::{Entry, SegmentHeader},
};

/// What was found in a segment.
#[derive(Debug, Default)]
pub struct Report {
    /// Its header, if valid.
    pub header: Option<SegmentHeader>,
    /// Does it end with a valid footer?
    pub sealed: bool,
    /// Where its last valid batch ends.
    pub end: u64,
    /// LSN of the last record numbered in it.
    pub last_lsn: Option<Lsn>,
    /// The highest durable mark in it.
    pub durable_lsn: Option<Lsn>,
    /// Whole batches.
    pub batches: u64,
    /// Intact records.
    pub records: u64,
    /// Bytes of payload as stored, of intact records.
    pub payload_bytes: u64,
    /// What does not hold.
    pub damages: Vec<Damage>,
}

/// Checks a whole segment. Where the log was cut in it, `end` says so; what lies behind is not looked at.
///
/// # Errors
/// Only if the header can't be read at all; everything else is in the report.
pub fn verify(
    file: &Arc<dyn DiskFile>,
    id: SegmentId,
    store: Option<StoreId>,
    end: Option<u64>,
) -> Result<Report> {
    let mut r = Report { end: BLOCK_BYTES, ..Report::default() };
    let (header, copy_damaged) = match read_header(&**file, id, store)? {
        Ok(found) => found,
        Err(why) => {
            r.damages.push(Damage::segment(id, 0, None, why.0));
            return Ok(r);
        }
    };
    if copy_damaged {
        r.damages.push(Damage::segment(id, 0, None, "one of the two copies of the header is damaged"));
    }
    let mut entries = Vec::new();
    let mut scan = Scan::new(Arc::clone(file), &header, BLOCK_BYTES, end.unwrap_or(u64::MAX));
    while let Some(found) = scan.next_found() {
        match found {
            Found::Damage { offset, why, .. } => r.damages.push(Damage::segment(id, offset, None, why.0)),
            Found::Batch(batch) => {
                if !batch.complete {
                    r.damages.push(Damage::segment(id, batch.begin, None, "batch is not complete"));
                }
                r.batches += u64::from(batch.is_whole());
                if batch.complete {
                    r.end = batch.end;
                }
                if let Some(c) = batch.closing {
                    r.last_lsn = r.last_lsn.max(Some(c.last_lsn));
                    r.durable_lsn = r.durable_lsn.max(Some(c.durable_lsn));
                }
                for f in &batch.frames {
                    let e = &f.envelope;
                    if let Some(why) = f.wrong {
                        r.damages.push(Damage::segment(id, e.offset, Some(e.lsn), why.0));
                    } else if e.kind.is_record() {
                        r.records += 1;
                        r.payload_bytes += u64::from(e.payload_len);
                    }
                    if e.kind.is_record() {
                        entries.push((e.offset, e.lsn, e.kind, e.payload_len));
                    }
                }
            }
        }
    }
    r.sealed = scan.is_sealed();
    if let Some(expected) = end
        && r.end < expected
    {
        r.damages.push(Damage::segment(
            id,
            r.end,
            None,
            format!("batches end here instead of at {expected}"),
        ));
    }
    // A segment that its successor speaks for may have a footer too.
    if end.is_none() || r.sealed {
        check_footer(&**file, &header, &mut r, &entries);
    }
    r.header = Some(header);
    Ok(r)
}

fn check_footer(
    file: &dyn DiskFile,
    header: &SegmentHeader,
    r: &mut Report,
    entries: &[(u64, Lsn, crate::format::Kind, u32)],
) {
    let id = header.segment;
    let Some(trailer) = read_trailer(file, header) else {
        if r.sealed {
            r.damages.push(Damage::segment(id, r.end, None, "the footer has no valid trailer"));
        }
        return;
    };
    match read_footer(&trailer, header.seed(), &|out, at| file.read_exact_at(out, at)) {
        Ok(f) => {
            let listed = f.records.iter().map(|e: &Entry| (e.offset, e.lsn, e.kind, e.stored_len));
            if !listed.eq(entries.iter().copied()) {
                r.damages.push(Damage::segment(id, trailer.offset, None, "the footer lists other records"));
            }
        }
        Err(e) => r.damages.push(Damage::segment(id, trailer.offset, None, e.to_string())),
    }
}

impl Location {
    /// Of a record that a footer lists.
    #[must_use]
    pub fn of_entry(segment: SegmentId, e: &Entry, codec: crate::format::Codec) -> Self {
        Self { segment, offset: e.offset, kind: e.kind, codec, stored_len: e.stored_len, raw_len: e.raw_len }
    }
}
