//! Facts: what an operation record says. `docs/FORMAT.md` section 6.
//!
//! A fact says what is, not what to do: a register (a link, an attribute, an extended attribute, a lock) with
//! its new value, or a version of content. The stamp is that of the record, one for all facts of an operation.

use bincode::{Decode, Encode};

use crate::base::{Incarnation, Ino, LineageId, LinkId, Lsn, ObjectId, StoreId, VersionId};

use super::{Location, code, hash, wire::Stretch};

/// What kind of thing an object is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub enum ObjectKind {
    /// Mentioned by a fact of another store, whose creation has not arrived here yet.
    Unknown,
    /// Regular file.
    File,
    /// Directory.
    Directory,
    /// Symbolic link.
    Symlink,
    /// Named pipe.
    Fifo,
    /// Socket.
    Socket,
    /// Character device.
    CharDevice,
    /// Block device.
    BlockDevice,
}

/// A version vector: for each store, and each incarnation of it, the number of the newest version of this object that it made
/// and that is included. Sorted.
///
/// By incarnation and not by store alone, since a store that was set back (a disk image restored) counts on from where the image
/// stood: two versions would have one number, and what descends from one would seem to include the other. It costs an entry
/// for each opening in which a version of the object was made.
#[derive(Debug, Clone, PartialEq, Eq, Default, Encode, Decode)]
pub struct VersionVector(Vec<((StoreId, Incarnation), u64)>);

impl VersionVector {
    /// The counter of an incarnation of a store; 0 if it has none.
    #[must_use]
    pub fn get(&self, store: StoreId, incarnation: Incarnation) -> u64 {
        self.0.binary_search_by_key(&(store, incarnation), |e| e.0).map_or(0, |i| self.0[i].1)
    }

    /// Raises the counter of an incarnation of a store to `n`, if it is lower.
    pub fn raise(&mut self, store: StoreId, incarnation: Incarnation, n: u64) {
        match self.0.binary_search_by_key(&(store, incarnation), |e| e.0) {
            Ok(i) => self.0[i].1 = self.0[i].1.max(n),
            Err(i) => self.0.insert(i, ((store, incarnation), n)),
        }
    }

    /// Raises every counter to the other's.
    pub fn merge(&mut self, other: &Self) {
        for ((store, incarnation), n) in &other.0 {
            self.raise(*store, *incarnation, *n);
        }
    }

    /// Is everything that this includes included in the other too?
    #[must_use]
    pub fn within(&self, other: &Self) -> bool {
        self.0.iter().all(|((store, incarnation), n)| *n <= other.get(*store, *incarnation))
    }

    /// The highest counter. A version's own is higher than every other that it includes, so that this is its number among
    /// the versions of its object: it grows along each line of descent, is the same on every store, and is given twice
    /// only where two stores made versions without knowing of each other.
    #[must_use]
    pub fn number(&self) -> u64 {
        self.0.iter().map(|e| e.1).max().unwrap_or(0)
    }

    /// Is nothing included?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Store, incarnation and counter, sorted.
    pub fn iter(&self) -> impl Iterator<Item = (StoreId, Incarnation, u64)> + '_ {
        self.0.iter().map(|((store, incarnation), n)| (*store, *incarnation, *n))
    }

    /// Is it in order, as [`raise`](Self::raise) leaves it? One that was decoded may not be.
    #[must_use]
    pub fn is_sorted(&self) -> bool {
        self.0.windows(2).all(|w| w[0].0 < w[1].0)
    }
}

/// A state of the history of a name, as who changed it saw it: the object that it ended with, and what had come before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Encode, Decode)]
pub struct Lineage {
    /// The object that had the name last.
    pub object: ObjectId,
    /// Its newest version at that time, if it had one.
    pub version: Option<VersionId>,
    /// The number of that version in the history of the name, those of earlier objects included: what the numbers of
    /// later ones go on from.
    pub versions: u64,
    /// What the name had shown before that object; none: nothing that has versions.
    pub earlier: Option<Earlier>,
}

impl Lineage {
    /// Its id: a hash of what it says, so that a long history is a chain of short values.
    #[must_use]
    pub fn id(&self) -> LineageId {
        let full = hash::leaf(&code::encode(self));
        LineageId::new(full.first_chunk().map_or(0, |half| u128::from_be_bytes(*half)))
    }

    /// The number in the history of the name from which on the object's own go on.
    #[must_use]
    pub fn before(&self) -> u64 {
        self.earlier.map_or(0, |e| e.versions)
    }
}

/// What came before in the history of a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Encode, Decode)]
pub struct Earlier {
    /// [`Lineage::versions`] of that.
    pub versions: u64,
    /// Its id.
    pub lineage: LineageId,
}

/// Time of an inode as people see it: seconds and nanoseconds since 1970, also before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Encode, Decode)]
pub struct Time {
    /// Seconds since 1970, negative before.
    pub seconds: i64,
    /// 0 to 999,999,999, always forward.
    pub nanos: u32,
}

impl Time {
    /// From nanoseconds since 1970.
    #[must_use]
    pub fn from_ns(ns: u64) -> Self {
        Self { seconds: (ns / 1_000_000_000).cast_signed(), nanos: (ns % 1_000_000_000) as u32 }
    }
}

/// Who may do what: the mode register holds permission bits only, never the file type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Encode, Decode)]
pub struct Owner {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
}

/// An object as it comes to be. Mode, owner and times start their registers with the record's stamp.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Create {
    /// Its id, the same everywhere.
    pub object: ObjectId,
    /// What it is.
    pub kind: ObjectKind,
    /// Permission bits, 07777.
    pub mode: u32,
    /// Owner and group.
    pub owner: Owner,
    /// Device number of a device node, else 0.
    pub device: u32,
    /// Target of a symlink, else empty.
    pub target: Vec<u8>,
}

/// A link register's value: where a link hangs.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Link {
    /// The register.
    pub link: LinkId,
    /// Directory.
    pub parent: ObjectId,
    /// Name in it: 1 to 255 bytes without `/` and NUL.
    pub name: Vec<u8>,
    /// What hangs there.
    pub object: ObjectId,
    /// What the name showed before, where this continues its history.
    pub continues: Option<Lineage>,
    /// Where it hung until now, if that name had versions to speak of.
    pub left: Option<Left>,
}

/// A name that a link left for another.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Left {
    /// Directory in which it hung.
    pub parent: ObjectId,
    /// Name that it had.
    pub name: Vec<u8>,
    /// The history of that name up to then.
    pub lineage: Lineage,
}

/// A link register's other value: the link is gone from where it hung.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Gone {
    /// The register.
    pub link: LinkId,
    /// Directory in which it hung.
    pub parent: ObjectId,
    /// Name that it had.
    pub name: Vec<u8>,
    /// What hung there.
    pub object: ObjectId,
    /// The versions of the object that the one who removed it had: one outside brings the link back.
    pub saw: VersionVector,
    /// Id of the delete marker that this leaves in the history of the name; none where something else took
    /// the name in the same operation.
    pub marker: Option<VersionId>,
    /// The history of the name up to here, if the link was the one that showed, and of what has versions.
    pub lineage: Option<Lineage>,
}

/// A version of a file's content. The bytes come before it: as writes to the branch where it was made, as
/// [`Changes`] anywhere else.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Version {
    /// Its id: a `UUIDv7` of the creation time.
    pub id: VersionId,
    /// Whose content.
    pub object: ObjectId,
    /// What it includes.
    pub vector: VersionVector,
    /// The versions that it descends from directly: none for a first one, two for a merge.
    pub parents: Vec<VersionId>,
    /// Creation time, ns since 1970; grows along a history.
    pub created_ns: u64,
    /// The file's size.
    pub size: u64,
    /// The file's modification time, as written or as set by hand.
    pub modified: Time,
    /// Stamp of the last change of the bytes, ns since 1970: what the modification time set by hand is weighed
    /// against, and what the change time shows. Minting a version changes nothing about the file.
    pub changed_ns: u64,
    /// Permission bits at that time.
    pub mode: u32,
    /// Owner at that time.
    pub owner: Owner,
    /// Root of the BLAKE3 tree over the content, if it was computed by then.
    pub hash: Option<[u8; 32]>,
    /// Bit 0: minted at recovery, for a file that was open in a crash. Bit 1: a restored older version.
    pub flags: u32,
    /// Further links that the object had where this version was made, at most [`crate::base::limits::VERSION_LINKS`]; the
    /// first link it had too, unless a flag says otherwise. If one of them was removed by somebody who did not know this
    /// version, it comes back.
    pub links: Vec<LinkId>,
}

/// Flags of a [`Version`].
pub mod version_flags {
    /// Minted at recovery: the file was open when the store stopped.
    pub const INTERRUPTED: u32 = 1;
    /// Content of an older version, restored.
    pub const RESTORED: u32 = 2;
    /// The object's first link was gone where this was made.
    pub const NOT_FIRST_LINK: u32 = 4;
}

/// An extent by the name that it has in every store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub struct ExtentId {
    /// Store that wrote it first.
    pub store: StoreId,
    /// Incarnation that did.
    pub incarnation: Incarnation,
    /// Its LSN there.
    pub sequence: u64,
}

/// What a range of a version holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub enum Source {
    /// Zeros that take no space.
    Hole,
    /// Raw bytes of an extent, from this offset in it.
    Extent(ExtentId, u32),
}

/// One changed range of a version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub struct Range {
    /// Offset in the file.
    pub offset: u64,
    /// Length.
    pub len: u64,
    /// What is there.
    pub source: Source,
}

/// How a version that was made elsewhere differs from one that is already here. Comes before the version.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Changes {
    /// Whose content.
    pub object: ObjectId,
    /// The version that it will be.
    pub version: VersionId,
    /// The version to start from; none: an empty file.
    pub base: Option<VersionId>,
    /// What differs, to be applied in this order: a later range overrides an earlier one.
    pub ranges: Vec<Range>,
}

/// One changed range of a version, as this store notes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub struct LocalRange {
    /// Offset in the file.
    pub offset: u64,
    /// Length.
    pub len: u64,
    /// Record of the extent, where it lay, and the offset in it; none: a hole.
    pub source: Option<(Lsn, Location, u32)>,
}

/// [`Changes`] as this store notes them: the extents are records of its own log. May come in several parts.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct LocalChanges {
    /// Whose content.
    pub object: ObjectId,
    /// The version that it will be.
    pub version: VersionId,
    /// Number of this part, from 0.
    pub part: u32,
    /// The version to start from; none: an empty file.
    pub base: Option<VersionId>,
    /// What differs, to be applied in this order.
    pub ranges: Vec<LocalRange>,
}

/// Until when a version is kept, whatever else says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub struct Lock {
    /// 0 none, 1 governance, 2 compliance.
    pub mode: u8,
    /// Until when, ns since 1970.
    pub until_ns: u64,
}

/// A fact.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum Fact {
    /// An object comes to be.
    Create(Create),
    /// A link hangs here.
    Link(Link),
    /// A link is gone.
    Gone(Gone),
    /// Permission bits.
    Mode(ObjectId, u32),
    /// Owner and group.
    Owner(ObjectId, Owner),
    /// Modification time, set by hand.
    Modified(ObjectId, Time),
    /// An extended attribute: name, value or removed.
    Xattr(ObjectId, Vec<u8>, Option<Vec<u8>>),
    /// A version of content.
    Version(Version),
    /// This directory and that one stood at one name: the first is from now on another name for the second.
    Alias(ObjectId, ObjectId),
    /// A tag on a moment: the stamp (ns since 1970) that it names, or removed.
    Tag(Vec<u8>, Option<u64>),
    /// Object Lock of a version, in the place of those that its maker saw: for each store, its facts up to this stamp.
    Retain(ObjectId, VersionId, Lock, Vec<(StoreId, u64)>),
    /// Legal hold of a version, on, or taken off by one who saw these.
    Hold(ObjectId, VersionId, bool, Vec<(StoreId, u64)>),

    /// Local: the inode number given to an object of another store.
    Inode(ObjectId, Ino),
    /// Local: the short number that stands for a store in rows.
    StoreNumber(u32, StoreId),
    /// Local: the size of an object's draft, cutting what is behind it.
    Size(ObjectId, u64),
    /// Local: this range of the draft is a hole now (offset, length).
    Punch(ObjectId, u64, u64),
    /// Local: these extents, already in the log, are now in this range of the draft.
    Place(ObjectId, Vec<Placed>),
    /// Local: access time.
    Accessed(ObjectId, Time),
    /// Local, beside a version of another store: how it differs from one that is here.
    Changes(LocalChanges),
    /// Local: a version that waited for another can be applied now.
    Ready(ObjectId, VersionId),
    /// Local: this directory stands alone at its name again, and needs no alias.
    NoTwin(ObjectId),
    /// Local: the draft of an object that no link shows any more is given up.
    Reap(ObjectId),
    /// Local: the content hash of a version, computed after it was made; none: its bytes can't be read.
    Hash(ObjectId, VersionId, Option<[u8; 32]>),
    /// Local: the moved records right before this one lie there from now on. These extents were moved at some time, and
    /// nothing shows them any more.
    Cleaned(Vec<Lsn>),
    /// Local: these extents of other stores, which nothing shows, will go; whoever needs one is sent it again.
    Unnamed(Vec<ExtentId>),
    /// Local: retention gave this version up.
    Removed(ObjectId, VersionId),
    /// Local: the clock by which things expire has got to this, ns since 1970.
    Clock(u64),
    /// Local, beside a version of another store: it comes without its content, which may follow; or, with true, which
    /// retention here would not keep.
    Without(ObjectId, VersionId, bool),
    /// Local: a version that came without its content: that is noted now. With its stamp, ns since 1970, and who made it.
    Supplied(Box<Version>, u64, StoreId),
    /// Local: a value that another store's index has, under the stamp with which it was made.
    Told(Box<Told>),
    /// Only told: some fact that names this object has this stamp.
    Touched(ObjectId),
    /// Only told: what left a name last.
    Marked(Box<Marked>),
    /// Only told: a state of the history of a name that some link continues.
    Continued(Lineage),
    /// Local: everything that these facts batches come to was told.
    Filled(Vec<Stretch>),
    /// Local: effects of these facts batches may be here from now on, since a telling began that takes them in.
    Owed(Vec<Stretch>),
    /// Nobody holds these facts batches any more, but what some of them came to is here: from now on it counts as said by this
    /// store. Others learn it from this store's index, as what makes up this batch.
    Adopted(Vec<Stretch>),
    /// Local: rows of a draft that truncations hide are gone: some, or all, and then the truncations need not be known any more.
    Trimmed(ObjectId),
    /// Local: moves of directories stamped before this (ns since 1970) need not be kept; some of them go.
    MovesForgotten(u64),
    /// Local: these rows show the same bytes in other extents from now on, which this opening of the store appended before.
    Repacked(Vec<Repacked>),
}

/// Where a part of an extent shows that was written again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub struct Repacked {
    /// The file whose chunk it is.
    pub ino: Ino,
    /// The branch.
    pub branch: u32,
    /// The chunk.
    pub chunk: u64,
    /// Of a superseded row, the LSN since which it held; else 0.
    pub since: Lsn,
    /// The extent that showed.
    pub old: Lsn,
    /// Offset in its raw bytes.
    pub skip: u32,
    /// Length.
    pub len: u32,
    /// The extent that shows from now on.
    pub new: Lsn,
    /// Offset in its raw bytes.
    pub to: u32,
}

/// A fact as another store's index has it: who made it when.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Told {
    /// Its stamp, ns since 1970.
    pub hlc: u64,
    /// The store that made it.
    pub store: StoreId,
    /// In which incarnation, if that matters (moves of directories); else 0.
    pub incarnation: Incarnation,
    /// Number of the fact in its record, if that matters; else 0.
    pub part: u32,
    /// The fact, encoded; never one that was told itself.
    pub fact: Vec<u8>,
}

/// What left a name last.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Marked {
    /// The directory.
    pub dir: ObjectId,
    /// The name.
    pub name: Vec<u8>,
    /// Id of the delete marker; 0: it left none.
    pub id: VersionId,
    /// What left.
    pub child: ObjectId,
    /// The history that the name ends with.
    pub lineage: Lineage,
    /// Nothing was deleted: what stood here was given another name.
    pub moved: bool,
}

impl Fact {
    /// Does this fact concern this store only, and never cross to another?
    #[must_use]
    pub fn is_local(&self) -> bool {
        matches!(
            self,
            Self::Inode(..)
                | Self::StoreNumber(..)
                | Self::Size(..)
                | Self::Punch(..)
                | Self::Place(..)
                | Self::Accessed(..)
                | Self::Changes(..)
                | Self::Ready(..)
                | Self::NoTwin(..)
                | Self::Reap(..)
                | Self::Hash(..)
                | Self::Cleaned(..)
                | Self::Unnamed(..)
                | Self::Removed(..)
                | Self::Clock(..)
                | Self::Without(..)
                | Self::Supplied(..)
                | Self::Told(..)
                | Self::Touched(..)
                | Self::Marked(..)
                | Self::Continued(..)
                | Self::Filled(..)
                | Self::Owed(..)
                | Self::Trimmed(..)
                | Self::MovesForgotten(..)
                | Self::Repacked(..)
        )
    }
}

/// A range of a draft that shows an extent of this store's log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub struct Placed {
    /// Offset in the file.
    pub offset: u64,
    /// Length.
    pub len: u32,
    /// The extent's record.
    pub extent: Lsn,
    /// Where that lay when this was written.
    pub location: Location,
    /// Offset in the extent's raw bytes.
    pub skip: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vv(entries: &[(u128, u64)]) -> VersionVector {
        let mut v = VersionVector::default();
        for (s, n) in entries {
            v.raise(StoreId::new(*s), Incarnation::new(7), *n);
        }
        v
    }

    #[test]
    fn vectors_order_partially() {
        let (a, b) = (vv(&[(1, 2), (2, 1)]), vv(&[(1, 2), (2, 3)]));
        assert!(a.within(&b) && !b.within(&a));
        let c = vv(&[(1, 3)]);
        assert!(!c.within(&b) && !b.within(&c));
        let mut m = b.clone();
        m.merge(&c);
        assert_eq!(m, vv(&[(2, 3), (1, 3)]));
        assert!(VersionVector::default().within(&c) && c.within(&c));
        // Another incarnation of the same store counts for itself.
        let mut d = a.clone();
        d.raise(StoreId::new(1), Incarnation::new(8), 9);
        assert!(a.within(&d) && !d.within(&b) && !c.within(&d) && d.is_sorted());
    }
}
