//! What a segment file whose header is lost still tells.
//!
//! With the header the salt is lost that every checksum of an envelope is seeded with, so nothing of it can be read. But whether anything
//! in it was acknowledged can be told: a batch end carries a checksum of its own, its place, and what was durable when it was written.

use std::{io, sync::Arc};

use super::window::Window;
use crate::{
    base::{Lsn, SegmentId, limits::BLOCK_BYTES},
    disk::DiskFile,
    format::{
        BatchEnd, Envelope, Kind,
        frame::{BATCH_END_BYTES, ENVELOPE_BYTES},
        pad_block,
    },
};

/// What one read fetches at least, in bytes.
const READ_BYTES: usize = 256 << 10;

/// The highest durable mark in a file without a header that says that a record in this very file was durable.
///
/// # Errors
/// What the disk says.
pub fn durable_remains(file: Arc<dyn DiskFile>, id: SegmentId) -> io::Result<Option<Lsn>> {
    let limit = file.len()?;
    let mut window = Window::new(file, limit, READ_BYTES);
    let (mut first, mut durable) = (None, None);
    let mut at = BLOCK_BYTES;
    while at < limit {
        let envelope = Envelope::decode_unproved(window.get(at, ENVELOPE_BYTES)?, id, at, limit);
        let Ok(envelope) = envelope else {
            at = pad_block(at + 1);
            continue;
        };
        let behind = at + envelope.frame_len();
        if envelope.kind != Kind::BatchEnd {
            at = behind;
            continue;
        }
        if let Ok(end) = BatchEnd::decode(window.get(at + ENVELOPE_BYTES as u64, BATCH_END_BYTES)?, &envelope)
        {
            let first = *first.get_or_insert(end.first_lsn);
            if end.durable_lsn >= first {
                durable = durable.max(Some(end.durable_lsn));
            }
        }
        at = pad_block(behind);
    }
    Ok(durable)
}
