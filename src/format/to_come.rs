//! Rows of versions that are still to come: their facts are here, and something of them is not.

use bincode::{Decode, Encode};

use crate::base::{ObjectId, VersionId};

use super::{
    facts::{LocalRange, Version},
    rows::Stamp,
};

/// How a version that is still to come differs from one that is here: a [`super::facts::Changes`] whose
/// extents are already in this log.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct ChangesRow {
    /// The version to start from; none: an empty file.
    pub base: Option<VersionId>,
    /// What differs, to be applied in this order.
    pub ranges: Vec<LocalRange>,
}

/// A version that waits for the one on which its changes rest.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct WaitingRow {
    /// The version.
    pub version: Version,
    /// Stamp of its record.
    pub stamp: Stamp,
}

/// The id of a version that is not here yet, or lacks its content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub struct ClaimedRow {
    /// Whose version it is.
    pub object: ObjectId,
    /// The version that it waits for; none: it lacks its content.
    pub missing: Option<VersionId>,
}

/// A version whose content is not here: whoever sent its facts had it no more, or described it by one that is not here
/// any more. It is listed and shown only once its content came.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct LackingRow {
    /// Retention would remove it at once, so it is not wanted. Said before its facts come.
    pub declined: bool,
    /// The version, once its facts came.
    pub version: Option<WaitingRow>,
}
