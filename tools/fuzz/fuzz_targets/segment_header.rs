//! The header of a segment, with and without a right checksum.
#![no_main]

use libfuzzer_sys::fuzz_target;
use segfs::format::{SegmentHeader, checksum::crc_without, segment_header::BYTES};

fuzz_target!(|bytes: &[u8]| {
    let _ = SegmentHeader::decode(bytes);
    let mut block = vec![0; BYTES];
    let n = bytes.len().min(BYTES);
    block[..n].copy_from_slice(&bytes[..n]);
    for copy in block.chunks_mut(BYTES / 2) {
        let crc = crc_without(copy, 12);
        copy[12..16].copy_from_slice(&crc.to_le_bytes());
    }
    if let Ok((h, _)) = SegmentHeader::decode(&block) {
        assert_eq!(SegmentHeader::decode(&h.encode()), Ok((h, false)));
    }
});
