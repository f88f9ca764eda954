//! Ids in text: whatever parses prints as something that parses to the same id.
#![no_main]

use libfuzzer_sys::fuzz_target;
use segfs::base::{Lsn, VersionId};

fuzz_target!(|text: &str| {
    if let Ok(id) = text.parse::<VersionId>() {
        assert_eq!(id.to_string().parse(), Ok(id));
    }
    if let Ok(lsn) = text.parse::<Lsn>() {
        assert_eq!(lsn.to_string().parse(), Ok(lsn));
    }
});
