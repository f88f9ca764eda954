//! One segment file: its header, the batches in it, its footer; reading, scanning and verifying them.
//!
//! Nothing here knows which segments make up the log, or what a record means. All functions take arbitrary
//! bytes: they report damage, never panic on it, and allocate no more than the bounds of `base::limits` say.

mod batch;
mod read;
mod remains;
mod scan;
mod verify;
mod window;

use std::path::PathBuf;

pub use batch::{BatchBuilder, ClosedBatch, FrameParts};
pub use read::{
    Fetch, Location, OwnedRecord, read_footer, read_header_of, read_range, read_record, read_stored,
};
pub use remains::durable_remains;
pub use scan::{Batch, Found, Scan, ScannedFrame};
pub use verify::{Report, verify};
pub use window::Window;

use crate::{
    base::{
        Error, Result, SegmentId, StoreId,
        limits::{BLOCK_BYTES, RECORD_BYTES, TAIL_BYTES},
    },
    disk::DiskFile,
    format::{Malformed, SegmentHeader, Trailer, footer::TRAILER_BYTES, segment_header},
};

/// The longest batch, in bytes: a full tail, or a footer, with batch end and padding.
pub const BATCH_BYTES: u64 = (TAIL_BYTES + RECORD_BYTES) as u64;

/// What [`read_header`] says of a file that another store's log needs.
pub const OTHER_STORE: Malformed = Malformed("segment belongs to another store");
/// What it says of a segment of this store whose file has not its name.
pub const OTHER_SEGMENT: Malformed = Malformed("header is that of another segment");

/// The directory of the segments in use.
pub const DIRECTORY: &str = "segments";
/// The directory of segment files that hold nothing.
pub const SPARE_DIRECTORY: &str = "spare";

/// Where a segment's file lies in the store's directory.
#[must_use]
pub fn path(id: SegmentId) -> PathBuf {
    format!("{DIRECTORY}/{:016x}.seg", id.get()).into()
}

/// The id in a segment's file name.
#[must_use]
pub fn parse_name(name: &str) -> Option<SegmentId> {
    let hex = name.strip_suffix(".seg")?;
    if hex.len() != 16 || hex.bytes().any(|b| !matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
        return None;
    }
    u64::from_str_radix(hex, 16).ok().filter(|&n| n != 0).map(SegmentId::new)
}

/// Reads and checks the header: `Ok(Err(_))` if the segment has not begun, or its header is damaged; `true` if
/// one of the header's copies is damaged.
///
/// # Errors
/// If the file can't be read.
pub fn read_header(
    file: &dyn DiskFile,
    id: SegmentId,
    store: Option<StoreId>,
) -> Result<Result<(SegmentHeader, bool), Malformed>> {
    let mut block = vec![0; segment_header::BYTES];
    let n = file
        .read_at(&mut block, 0)
        .map_err(|e| Error::io(format!("reading the header of segment {id}"), e))?;
    block.truncate(n);
    Ok(SegmentHeader::decode(&block).and_then(|(header, damaged)| {
        if store.is_some_and(|s| s != header.store) {
            return Err(OTHER_STORE);
        }
        if header.segment != id {
            return Err(OTHER_SEGMENT);
        }
        Ok((header, damaged))
    }))
}

/// The header in a file, whoever it belongs to and whatever the file is called; none if it is not valid.
///
/// # Errors
/// If the file can't be read.
pub fn read_any_header(file: &dyn DiskFile, id: SegmentId) -> Result<Option<SegmentHeader>> {
    let mut block = vec![0; segment_header::BYTES];
    let n = file
        .read_at(&mut block, 0)
        .map_err(|e| Error::io(format!("reading the header of segment {id}"), e))?;
    Ok(SegmentHeader::decode(&block[..n]).ok().map(|(header, _)| header))
}

/// Which segment a file was to become that was recycled and has no header yet.
///
/// # Errors
/// What the disk says.
pub fn read_recycled(file: &dyn DiskFile, id: SegmentId) -> Result<Option<SegmentId>> {
    let mut block = vec![0; segment_header::BYTES];
    let n = file
        .read_at(&mut block, 0)
        .map_err(|e| Error::io(format!("reading the header of segment {id}"), e))?;
    Ok(segment_header::recycled_for(&block[..n]))
}

/// Reads the trailer, if the file ends with one.
#[must_use]
pub fn read_trailer(file: &dyn DiskFile, header: &SegmentHeader) -> Option<Trailer> {
    let len = file.len().ok()?;
    let at = len.checked_sub(BLOCK_BYTES).filter(|&at| at >= BLOCK_BYTES)?;
    let mut bytes = [0; TRAILER_BYTES];
    file.read_exact_at(&mut bytes, at).ok()?;
    Trailer::decode(&bytes, header.seed(), header.segment, len).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_ids_agree() {
        let id = SegmentId::new(0xab);
        assert_eq!(path(id).to_str(), Some("segments/00000000000000ab.seg"));
        assert_eq!(parse_name("00000000000000ab.seg"), Some(id));
        for bad in [
            "00000000000000AB.seg",
            "ab.seg",
            "00000000000000ab",
            "0000000000000000.seg",
            "+0000000000000ab.seg",
        ] {
            assert_eq!(parse_name(bad), None, "{bad}");
        }
    }
}
