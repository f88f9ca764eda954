//! Compressed payloads, whose declared length is a stranger's: nothing is believed that is more than the bound.
#![no_main]

use libfuzzer_sys::fuzz_target;
use segfs::{
    base::limits::{COMPRESSED_EXTENT_BYTES, RECORD_BYTES},
    format::{Codec, Prepared, checksum::crc, compress},
};

fuzz_target!(|bytes: &[u8]| {
    let Some((len, stored)) = bytes.split_first_chunk::<4>() else { return };
    let len = u32::from_le_bytes(*len);
    for limit in [COMPRESSED_EXTENT_BYTES, RECORD_BYTES] {
        if let Ok(n) = compress::declared_len(stored, limit) {
            assert!(n <= limit);
            let mut raw = vec![0; n];
            if compress::decompress(stored, &mut raw).is_ok() {
                let p = Prepared::stored_extent(Codec::Zstd, stored.to_vec(), n as u32, crc(&raw));
                assert!(p.is_ok() == (n <= COMPRESSED_EXTENT_BYTES && stored.len() <= COMPRESSED_EXTENT_BYTES));
            }
        }
    }
    for codec in [Codec::Raw, Codec::Zstd] {
        let _ = Prepared::stored_extent(codec, stored.to_vec(), len, len);
    }
    // Another length than the one declared.
    let mut raw = vec![0; len as usize % (COMPRESSED_EXTENT_BYTES + 1)];
    let _ = compress::decompress(stored, &mut raw);
});
