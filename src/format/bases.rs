//! Bases: what their records hold, and the row that says where the newest one is. `docs/FORMAT.md` section 7.

use bincode::{Decode, Encode};

use super::Location;
use crate::base::Lsn;

/// What a record of a base holds; see `docs/FORMAT.md` section 7.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum BaseRecord {
    /// A piece: keys and rows of a stretch of the index, in the order of the keys.
    Rows(Vec<(Vec<u8>, Vec<u8>)>),
    /// What a base consists of.
    List(BaseList),
}

impl BaseRecord {
    /// Is this the encoding of a list? Spares decoding the rows of a piece.
    #[must_use]
    pub fn is_list(bytes: &[u8]) -> bool {
        bytes.first() == Some(&1)
    }
}

/// The list of a base, or a part of it: the pieces that together are the index as of an LSN.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct BaseList {
    /// The LSN that the rows are as of; names the base.
    pub as_of: Lsn,
    /// The base before it, by its LSN; 0: there was none.
    pub before: Lsn,
    /// Number of this part, from 0.
    pub part: u32,
    /// Nothing comes after it.
    pub last: bool,
    /// The pieces, in the order of their keys.
    pub pieces: Vec<BasePiece>,
}

/// A piece of a base.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub struct BasePiece {
    /// Its record.
    pub record: Lsn,
    /// The first half of the BLAKE3 hash of its payload.
    pub hash: [u8; 16],
    /// Where the record lies.
    pub location: Location,
}

/// Where a part of the list of the newest base lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub struct BaseRow {
    /// The LSN that the base is as of.
    pub as_of: Lsn,
    /// Where the record lies.
    pub location: Location,
}
