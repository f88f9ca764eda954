//! A footer's payload, and a trailer with a right checksum.
#![no_main]

use libfuzzer_sys::fuzz_target;
use segfs::{
    base::SegmentId,
    format::{Footer, FooterBuilder, Seed, Trailer, flags, footer::TRAILER_BYTES},
};

fuzz_target!(|bytes: &[u8]| {
    if let Ok(f) = Footer::decode(bytes) {
        assert!(f.records.len() <= bytes.len());
        // What is in order comes back from a footer made of it.
        let mut b = FooterBuilder::new(segfs::base::Lsn::new(f.totals.first_lsn.max(1)));
        let far = f.records.iter().all(|r| r.offset < 1 << 40 && r.lsn.get() < 1 << 40);
        if far && f.totals.first_lsn > 0 {
            f.records.iter().for_each(|r| b.push(r));
            let again = Footer::decode(&b.payload()).expect("a footer that was just made");
            assert_eq!(again.records, f.records);
            let _ = f.records.iter().any(|r| r.flags & flags::MOVED != 0);
        }
    }
    let seed = Seed::of(0x0123_4567_89ab_cdef);
    let mut block = [0; TRAILER_BYTES];
    let n = bytes.len().min(TRAILER_BYTES);
    block[..n].copy_from_slice(&bytes[..n]);
    for fixed in [false, true] {
        if fixed {
            let right = seed.crc_without(&block, 60);
            block[60..].copy_from_slice(&right.to_le_bytes());
        }
        if let Ok(t) = Trailer::decode(&block, seed, SegmentId::new(7), 1 << 20) {
            assert!(t.end() <= 1 << 20);
            assert_eq!(Trailer::decode(&t.encode(seed), seed, t.segment, 1 << 20), Ok(t));
        }
    }
});
