//! Where a record lies.

use bincode::{Decode, Encode};

use crate::base::SegmentId;

use super::Codec;

/// Where a frame lies in the log, with what a read of its payload needs to know beforehand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Encode, Decode)]
pub struct Location {
    /// Segment.
    pub segment: SegmentId,
    /// Offset of the frame in it.
    pub offset: u64,
    /// Length of the payload as stored.
    pub stored_len: u32,
    /// Length of the payload itself.
    pub raw_len: u32,
    /// How it is stored.
    pub codec: Codec,
}
