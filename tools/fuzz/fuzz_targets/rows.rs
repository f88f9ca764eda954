//! Rows of the index, and records of a base, which hold rows: as an index that was tampered with, or a base, has them.
#![no_main]

use std::fmt::Debug;

use libfuzzer_sys::fuzz_target;
use segfs::format::{
    code::{self, Decode, Encode},
    rows::*,
};

fn check<T: Decode<()> + Encode + PartialEq + Debug>(bytes: &[u8]) {
    if let Ok(row) = code::decode::<T>(bytes) {
        let again = code::encode(&row);
        assert_eq!(code::decode::<T>(&again), Ok(row));
    }
}

fuzz_target!(|bytes: &[u8]| {
    let Some((kind, bytes)) = bytes.split_first() else { return };
    match kind % 22 {
        0 => check::<MetaRow>(bytes),
        1 => check::<Superseded>(bytes),
        2 => check::<LinkRow>(bytes),
        3 => check::<LinkRegister>(bytes),
        4 => check::<ObjectRow>(bytes),
        5 => check::<XattrRow>(bytes),
        6 => check::<ChunkRow>(bytes),
        7 => check::<VersionRow>(bytes),
        8 => check::<BranchRow>(bytes),
        9 => check::<ChangesRow>(bytes),
        10 => check::<WaitingRow>(bytes),
        11 => check::<VersionPlace>(bytes),
        12 => check::<ExtentRow>(bytes),
        13 => check::<MarkerRow>(bytes),
        14 => check::<MoveRow>(bytes),
        15 => check::<TagRow>(bytes),
        16 => check::<LineageRow>(bytes),
        17 => check::<LackingRow>(bytes),
        18 => check::<BaseRow>(bytes),
        19 => check::<LateMovesRow>(bytes),
        20 => check::<ClaimedRow>(bytes),
        _ => {
            check::<BaseRecord>(bytes);
            // As it stands in a frame.
            check::<BaseRecord>(bytes.get(63..).unwrap_or_default());
        }
    }
    // Keys are taken apart too.
    let _ = (key::ino_of(bytes), key::last_number(bytes), key::held_origin(bytes), key::waited_for(bytes));
});
