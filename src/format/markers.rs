//! Rows of what names showed before: what left a name last, and the chain of histories.

use bincode::{Decode, Encode};

use crate::base::{Ino, Lsn, VersionId};

use super::{facts::Lineage, rows::Stamp};

/// What left a name: kept also while something stands there again, since that may turn out to hang elsewhere.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct MarkerRow {
    /// LSN since which this holds.
    pub from: Lsn,
    /// Something stands at the name.
    pub covered: bool,
    /// Newest first: one for each directory that is now this one, its own and those for which it stands.
    pub departures: Vec<Departure>,
}

impl MarkerRow {
    /// What left the name last, if nothing stands there.
    #[must_use]
    pub fn last(&self) -> Option<&Departure> {
        self.departures.first().filter(|_| !self.covered)
    }
}

/// The newest fact by which something left a name: a register like any other.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Departure {
    /// The directory, as the fact names it.
    pub dir: Ino,
    /// When, and by whom.
    pub stamp: Stamp,
    /// What left.
    pub child: Ino,
    /// Id of the delete marker; 0: something else took the name, or it was moved away.
    pub id: VersionId,
    /// Nothing was deleted: what stood here was given another name.
    pub moved: bool,
    /// The history that the name ends with.
    pub lineage: Lineage,
}

impl Departure {
    /// What departures at one name with one stamp are ordered by.
    #[must_use]
    pub const fn value(&self) -> (bool, VersionId, Lineage) {
        (self.moved, self.id, self.lineage)
    }
}

/// A state of the history of a name that a link continues.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub struct LineageRow {
    /// What it says.
    pub lineage: Lineage,
    /// The LSN that ended it here.
    pub ended: Lsn,
}
