//! Segment files that were cut off: shorter than they were when their records were acknowledged.

use super::recover::{Link, Recovery, open, told_by_successor};
use crate::{
    base::{Damage, Error, Lsn, Result, SegmentId, limits::BLOCK_BYTES},
    disk::{Disk, DiskFile},
    format::{Envelope, Kind, SegmentHeader, frame::ENVELOPE_BYTES},
    segment::{self, Found, read_trailer},
};

/// A clean close leaves a footer's batch and a trailer behind the last batch, a block each at least.
const CLOSING_BYTES: u64 = 2 * BLOCK_BYTES;

/// Notes the files that were cut off, before anything is written. A segment's length is durable before its header is
/// written, so that no crash leaves a shorter one; only a clean close cuts it, behind the trailer.
pub(super) fn note(disk: &dyn Disk, links: &[Link], mark: Lsn, r: &mut Recovery) -> Result<()> {
    for (i, l) in links.iter().enumerate() {
        if l.file_bytes >= l.header.capacity {
            continue;
        }
        let id = l.header.segment;
        let is_cut = match told_by_successor(links, i) {
            Some((end, last)) if mark >= last => l.file_bytes < end,
            _ => {
                let file = open(disk, id)?;
                let (end, sealed) = l.extent.map_or_else(|| end_of(l), |e| (e.end, true));
                // Of a close that was cut short, the trailer alone may be missing.
                !sealed
                    && read_trailer(&*file, &l.header).is_none()
                    && (l.file_bytes < end + CLOSING_BYTES
                        || runs_into_the_end(&*file, &l.header, end, l.file_bytes)?)
            }
        };
        if is_cut {
            let damage = damage(id, l.file_bytes, l.header.capacity);
            r.damages.push(damage.clone());
            r.blocking.push(damage);
        }
    }
    Ok(())
}

/// Where the last whole batch that a scan found ends, and whether that is the footer's.
fn end_of(l: &Link) -> (u64, bool) {
    let whole = l.found.iter().flatten().filter_map(|f| match f {
        Found::Batch(b) if b.is_whole() => Some((b.end, b.is_footer())),
        _ => None,
    });
    whole.max().unwrap_or((BLOCK_BYTES, false))
}

/// What is said of a file that was cut off.
pub(super) fn damage(id: SegmentId, file_bytes: u64, capacity: u64) -> Damage {
    let why = format!("the file was cut off: it has {file_bytes} of {capacity} bytes");
    let path = segment::path(id);
    Damage::segment(id, file_bytes, None, why).advise(format!(
        "bring {} back from a copy of the store, or mount with `-o ro` to reach the rest",
        path.display()
    ))
}

/// Do the frames from `at` on, where the last batch ends, go on where the file ends?
pub(super) fn runs_into_the_end(
    file: &dyn DiskFile,
    header: &SegmentHeader,
    mut at: u64,
    file_bytes: u64,
) -> Result<bool> {
    let id = header.segment;
    loop {
        if at + ENVELOPE_BYTES as u64 > file_bytes {
            return Ok(true);
        }
        let mut bytes = [0; ENVELOPE_BYTES];
        file.read_exact_at(&mut bytes, at).map_err(|e| Error::io(format!("reading segment {id}"), e))?;
        let Ok(e) = Envelope::decode(&bytes, header.seed(), id, at, u64::MAX) else { return Ok(false) };
        at += e.frame_len();
        if at > file_bytes {
            return Ok(true);
        }
        if e.kind == Kind::BatchEnd {
            return Ok(false);
        }
    }
}
