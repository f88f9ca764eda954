//! Pieces of bases.

use bincode::{Decode, Encode};

use crate::base::Lsn;

/// A piece of a base: rows of the index as of an LSN, in the order of their keys. All pieces of one base
/// together are the index as it was then; see `docs/FORMAT.md` section 7.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct BasePiece {
    /// The LSN that the rows are as of; names the base.
    pub as_of: Lsn,
    /// Number of this piece, from 0.
    pub part: u32,
    /// Nothing comes after it.
    pub last: bool,
    /// Keys and rows.
    pub rows: Vec<(Vec<u8>, Vec<u8>)>,
}
