//! The superblock, with and without a right checksum: what is decoded encodes to something that decodes to the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use segfs::format::{Superblock, checksum::crc_without, superblock::COPY_BYTES};

fuzz_target!(|bytes: &[u8]| {
    let _ = Superblock::choose(bytes, bytes.get(COPY_BYTES..).unwrap_or_default());
    let mut block = vec![0; COPY_BYTES];
    let n = bytes.len().min(COPY_BYTES);
    block[..n].copy_from_slice(&bytes[..n]);
    let crc = crc_without(&block, 12);
    block[12..16].copy_from_slice(&crc.to_le_bytes());
    if let Ok(s) = Superblock::decode(&block) {
        assert_eq!(Superblock::decode(&s.encode()), Ok(s));
    }
});
