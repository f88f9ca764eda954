//! The row of what protects a version: `docs/FORMAT.md` section 8.

use bincode::{Decode, Encode};

use super::rows::Stamp;

/// What keeps a version from being removed: Object Lock and legal hold. Of each there may be several, said by stores that did not
/// know of each other.
#[derive(Debug, Clone, PartialEq, Eq, Default, Encode, Decode)]
pub struct LockRow {
    /// Locks that nothing took the place of.
    pub locks: Vec<LockEntry>,
    /// What was seen by those who set locks: of each store its facts up to this stamp.
    pub locks_saw: Vec<Stamp>,
    /// Holds that nobody took off.
    pub holds: Vec<Stamp>,
    /// What was seen by those who set holds, or took them off.
    pub holds_saw: Vec<Stamp>,
}

/// A lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub struct LockEntry {
    /// Of its fact.
    pub stamp: Stamp,
    /// 1 governance, 2 compliance.
    pub mode: u8,
    /// Until when, ns since 1970.
    pub until: u64,
}
