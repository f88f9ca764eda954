//! A whole segment file: scanned, verified, its footer and records read. The input is the file, or says how one that
//! was well made is spoilt: changed bytes, some with the frame's checksum put right again, and a cut.
#![no_main]

use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use segfs::{
    base::{Ino, Lsn, SegmentId, StoreId, limits::BLOCK_BYTES},
    disk::DiskFile,
    format::{BodyHeader, Kind, Prepared, SegmentHeader},
    segment::{self, BatchBuilder, Found, FrameParts, Scan},
};
use segfs_fuzz::MemFile;

fn header() -> SegmentHeader {
    SegmentHeader {
        store: StoreId::new(1),
        segment: SegmentId::new(7),
        salt: 5,
        first_lsn: Lsn::new(1),
        predecessor: None,
        predecessor_end: 0,
        capacity: 64 << 10,
        created_ns: 0,
        incarnation: segfs::base::Incarnation::new(3),
        durable_lsn: Lsn::new(0),
    }
}

/// A segment with three batches of each kind of record, and where the envelopes are.
fn well_made() -> (Vec<u8>, Vec<usize>) {
    let header = header();
    let (mut file, mut frames, mut lsn) = (header.encode(), Vec::new(), 1);
    for n in 0..3_u8 {
        let mut b = BatchBuilder::new(header.segment, header.seed(), file.len() as u64, Lsn::new(lsn));
        let payloads = [
            (Kind::Extent, Prepared::extent(vec![n; 100], false)),
            (Kind::Extent, Prepared::extent(vec![n; 20_000], n == 1)),
            (Kind::Operation, Prepared::record(vec![n; 5000])),
            (Kind::Base, Prepared::record(vec![n; 5000])),
        ];
        for (kind, payload) in &payloads {
            let head = BodyHeader { raw_len: payload.raw_len(), raw_crc: payload.raw_crc(), ..Default::default() };
            let head = kind.has_body_header().then_some(head);
            let parts =
                FrameParts { kind: *kind, flags: 0, lsn: Lsn::new(lsn), ino: Ino::new(2), head, payload };
            frames.push(b.push(&parts, true) as usize);
            lsn += 1;
        }
        frames.push(b.next_offset() as usize);
        file.extend(b.close(Lsn::new(lsn - 5), 0).pieces().concat());
    }
    (file, frames)
}

fn look(bytes: Vec<u8>, header: &SegmentHeader) {
    let file: Arc<dyn DiskFile> = MemFile::new(bytes);
    let (id, seed) = (header.segment, header.seed());
    let fetch = |out: &mut [u8], at: u64| file.read_exact_at(out, at);
    let mut scan = Scan::new(Arc::clone(&file), header, BLOCK_BYTES, u64::MAX);
    let mut at = 0;
    while let Some(found) = scan.next_found() {
        assert!(scan.end() > at, "a scan that stands still");
        if let Found::Batch(b) = found {
            for f in b.frames {
                let location = f.location();
                let read = segment::read_record(&location, seed, &fetch);
                assert!(read.is_ok() == f.wrong.is_none() || !f.envelope.kind.is_record(), "{f:?}: {read:?}");
                let mut out = vec![0; (location.raw_len as usize).min(5000)];
                let len = out.len() as u64;
                let _ = segment::read_range(&location, seed, &fetch, 0..len, &mut out);
                let _ = segment::read_header_of(&location, seed, &fetch);
            }
            at = at.max(b.begin);
        }
    }
    let _ = segment::verify(&file, id, Some(header.store), None);
    if let Some(t) = segment::read_trailer(&*file, header) {
        let _ = segment::read_footer(&t, seed, &fetch);
    }
}

fuzz_target!(|bytes: &[u8]| {
    // A file as it is, such as a segment that is kept.
    if let Ok((header, _)) = SegmentHeader::decode(bytes.get(..BLOCK_BYTES as usize).unwrap_or_default()) {
        look(bytes.to_vec(), &header);
        return;
    }
    let (mut file, frames) = well_made();
    let Some((cut, changes)) = bytes.split_first_chunk::<2>() else { return };
    for c in changes.chunks_exact(4) {
        let [frame, at, value, fix] = [c[0], c[1], c[2], c[3]].map(usize::from);
        let begin = frames[frame % frames.len()];
        file[begin + at % 200] = value as u8;
        if fix % 2 == 0 {
            let envelope = &mut file[begin..begin + 64];
            let right = header().seed().crc_without(envelope, 4);
            envelope[4..8].copy_from_slice(&right.to_le_bytes());
        }
    }
    let cut = u16::from_le_bytes(*cut) as usize;
    if cut < file.len() && cut % 3 == 0 {
        file.truncate(cut);
    }
    look(file, &header());
});
