//! The payload of an operation: whatever decodes is encoded as it was read, since a peer checks the bytes.
#![no_main]

use libfuzzer_sys::fuzz_target;
use segfs::format::{code, facts::Fact};

fuzz_target!(|bytes: &[u8]| {
    // Alone, and as it stands in a frame.
    for payload in [Some(bytes), bytes.get(64 + 80..)].into_iter().flatten() {
        if let Ok(facts) = code::decode::<Vec<Fact>>(payload) {
            let again = code::encode(&facts);
            assert_eq!(code::decode::<Vec<Fact>>(&again), Ok(facts));
        }
        let _ = code::decode_prefix::<Vec<Fact>>(payload);
    }
});
