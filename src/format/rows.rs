//! Rows of the index: keys, and what stands behind them. `docs/FORMAT.md` section 8.
//!
//! Rows are derived from the log and can be thrown away, but base records carry them, so their form is part of
//! the format. Every key begins with one byte that says its kind; numbers in keys are big-endian, so that keys
//! sort as their numbers do.

use bincode::{Decode, Encode};

use crate::base::{Ino, LinkId, Lsn, ObjectId, VersionId};

pub use super::locks::{LockEntry, LockRow};
use super::{
    Location,
    facts::{Lineage, ObjectKind, Owner, Time, VersionVector, version_flags},
    moments::Moments,
};
pub use super::{
    bases::{BaseList, BasePiece, BaseRecord, BaseRow},
    hash_tree::{HashGroupRow, HashTreeRow},
    markers::{Departure, LineageRow, MarkerRow},
    moments::MomentsRow,
    move_rows::{LateMovesRow, MoveAsk, MoveRow},
    to_come::{ChangesRow, ClaimedRow, LackingRow, WaitingRow},
};

/// First bytes of keys.
pub mod kind {
    /// Reserved for the index itself.
    pub const INDEX: u8 = 0x00;
    /// What the store knows of itself as a whole: [`super::MetaRow`].
    pub const META: u8 = 0x01;
    /// directory, name -> [`super::LinkRow`].
    pub const LINK: u8 = 0x10;
    /// inode -> [`super::ObjectRow`].
    pub const OBJECT: u8 = 0x11;
    /// inode, name -> [`super::XattrRow`].
    pub const XATTR: u8 = 0x12;
    /// inode, branch, chunk -> [`super::ChunkRow`].
    pub const CHUNK: u8 = 0x13;
    /// inode, LSN -> [`super::VersionRow`].
    pub const VERSION: u8 = 0x14;
    /// version id -> [`super::VersionPlace`].
    pub const VERSION_ID: u8 = 0x15;
    /// extent of another store -> [`super::ExtentRow`].
    pub const EXTENT: u8 = 0x16;
    /// object of another store -> inode.
    pub const OBJECT_ID: u8 = 0x17;
    /// link that is not its object's first -> [`super::LinkRegister`].
    pub const REGISTER: u8 = 0x18;
    /// inode, slot -> link that is not its first, of those that are not gone. Slots are 0, 1, ... without a gap.
    pub const OBJECT_LINKS: u8 = 0x19;
    /// directory, name -> [`super::MarkerRow`]: what left the name last.
    pub const MARKER: u8 = 0x1a;
    /// number -> store id.
    pub const STORE_NUMBER: u8 = 0x1b;
    /// store, incarnation, sequence -> sequence: facts batches held from the first to the second, with a gap before and
    /// behind; those of the running incarnation of this store aside.
    pub const HELD: u8 = 0x1c;
    /// stamp, store, incarnation, part -> [`super::MoveRow`]: moves of directories in the order of their stamps.
    pub const MOVE: u8 = 0x1d;
    /// missing version, waiting version -> its fact.
    pub const WAITING: u8 = 0x1e;
    /// tag -> [`super::TagRow`].
    pub const TAG: u8 = 0x1f;
    /// inode, branch, LSN, chunk -> nothing: chunks first changed at this LSN since the version before.
    pub const DIRTY: u8 = 0x20;
    /// inode -> nothing: files with changes that are in no version yet.
    pub const DRAFT: u8 = 0x21;
    /// inode -> nothing: objects that lost their last link.
    pub const ORPHAN: u8 = 0x22;
    /// inode -> nothing: directories that stand at one name with another and await their alias.
    pub const TWIN: u8 = 0x23;
    /// extent (LSN) -> location, for extents that the cleaner moved.
    pub const MOVED: u8 = 0x24;
    /// inode, version id -> [`super::ChangesRow`] of a version still to come.
    pub const CHANGES: u8 = 0x25;
    /// inode, LSN -> LSN of the version that began to show then, where that was not at its own commit.
    pub const SHOWN: u8 = 0x26;
    /// The same by its other end: store, incarnation, last sequence -> first.
    pub const HELD_TO: u8 = 0x27;
    /// inode, branch -> [`super::BranchRow`], of objects that have more than one branch.
    pub const BRANCH: u8 = 0x28;
    /// inode, LSN -> nothing: versions whose content hash is still to be computed.
    pub const UNHASHED: u8 = 0x29;
    /// version id -> [`super::ClaimedRow`]: ids of versions that wait, so that no other takes them.
    pub const CLAIMED: u8 = 0x2c;
    /// stamp -> [`super::MomentsRow`]: when the highest stamp rose.
    pub const MOMENTS: u8 = 0x2b;
    /// version id -> [`super::LockRow`].
    pub const LOCK: u8 = 0x2d;
    /// inode, version id -> [`super::LackingRow`]: versions whose facts are here and whose content is not.
    pub const LACKING: u8 = 0x31;
    /// store, incarnation -> facts batches of it whose effects may be here, as intervals of sequences.
    pub const OWED: u8 = 0x2a;
    /// The LSN up to which what came here can be told from the index only.
    pub const FILLED: u8 = 0x32;
    /// number -> [`super::BaseRow`]: where the list of the newest base lies.
    pub const BASE: u8 = 0x33;
    /// [`super::LateMovesRow`]: moves of directories that wait to be done.
    pub const LATE_MOVES: u8 = 0x34;
    /// inode, key of a [`MOVE`] row without its first byte -> nothing: links that were noted of an object whose creation has not arrived.
    pub const NOTED_MOVE: u8 = 0x35;
    /// lineage -> [`super::LineageRow`], of those that a link continues.
    pub const LINEAGE: u8 = 0x2e;
    /// inode, number, version id -> LSN of the version, of objects whose versions did not come in the order of their numbers.
    pub const NUMBERED: u8 = 0x2f;
    /// superseded row: key, LSN from which it held -> [`super::Superseded`].
    pub const HISTORY: u8 = 0x30;
    /// From here on rows are only kept to spare work: the log does not make them, no base has them, and each may be
    /// missing, or older than what it speaks of.
    pub const SPARED: u8 = 0x40;
    /// inode, branch -> [`super::HashTreeRow`].
    pub const HASH_TREE: u8 = 0x40;
    /// inode, branch, height, index -> [`super::HashGroupRow`].
    pub const HASH_GROUP: u8 = 0x41;
}

/// Makes a key.
#[derive(Debug, Clone)]
pub struct Key(Vec<u8>);

impl Key {
    fn new(kind: u8) -> Self {
        let mut bytes = Vec::with_capacity(40);
        bytes.push(kind);
        Self(bytes)
    }

    fn u64(mut self, n: u64) -> Self {
        self.0.extend_from_slice(&n.to_be_bytes());
        self
    }

    fn u32(mut self, n: u32) -> Self {
        self.0.extend_from_slice(&n.to_be_bytes());
        self
    }

    fn u128(mut self, n: u128) -> Self {
        self.0.extend_from_slice(&n.to_be_bytes());
        self
    }

    fn name(mut self, name: &[u8]) -> Self {
        self.0.extend_from_slice(name);
        self
    }

    /// The bytes.
    #[must_use]
    pub fn done(self) -> Vec<u8> {
        self.0
    }
}

/// Everything that begins with these bytes lies below this.
#[must_use]
pub fn after_prefix(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < 0xff {
            end.push(last + 1);
            return end;
        }
    }
    vec![0xff; prefix.len() + 1]
}

/// Functions that make the keys of each kind; called `key::link(dir, name)` and so on.
pub mod key {
    use super::{Ino, Key, LinkId, Lsn, ObjectId, VersionId, kind};
    use crate::base::{Incarnation, LineageId, StoreId};

    /// The one META row.
    #[must_use]
    pub fn meta() -> Vec<u8> {
        Key::new(kind::META).done()
    }
    /// A name in a directory; an empty name gives the prefix of all.
    #[must_use]
    pub fn link(dir: Ino, name: &[u8]) -> Vec<u8> {
        Key::new(kind::LINK).u64(dir.get()).name(name).done()
    }
    /// An object.
    #[must_use]
    pub fn object(ino: Ino) -> Vec<u8> {
        Key::new(kind::OBJECT).u64(ino.get()).done()
    }
    /// An extended attribute; an empty name gives the prefix of all.
    #[must_use]
    pub fn xattr(ino: Ino, name: &[u8]) -> Vec<u8> {
        Key::new(kind::XATTR).u64(ino.get()).name(name).done()
    }
    /// A chunk of a branch.
    #[must_use]
    pub fn chunk(ino: Ino, branch: u32, chunk: u64) -> Vec<u8> {
        Key::new(kind::CHUNK).u64(ino.get()).u32(branch).u64(chunk).done()
    }
    /// A version, by the LSN at which it came.
    #[must_use]
    pub fn version(ino: Ino, at: Lsn) -> Vec<u8> {
        Key::new(kind::VERSION).u64(ino.get()).u64(at.get()).done()
    }
    /// A version that awaits its hash.
    #[must_use]
    pub fn unhashed(ino: Ino, at: Lsn) -> Vec<u8> {
        Key::new(kind::UNHASHED).u64(ino.get()).u64(at.get()).done()
    }
    /// A version, by its id.
    #[must_use]
    pub fn version_id(id: VersionId) -> Vec<u8> {
        Key::new(kind::VERSION_ID).u128(id.get()).done()
    }
    /// The lock of a version.
    #[must_use]
    pub fn lock(id: VersionId) -> Vec<u8> {
        Key::new(kind::LOCK).u128(id.get()).done()
    }
    /// An extent of another store.
    #[must_use]
    pub fn extent(id: &crate::format::facts::ExtentId) -> Vec<u8> {
        Key::new(kind::EXTENT).u128(id.store.get()).u64(id.incarnation.get()).u64(id.sequence).done()
    }
    /// An object of another store.
    #[must_use]
    pub fn object_id(id: ObjectId) -> Vec<u8> {
        Key::new(kind::OBJECT_ID).u128(id.get()).done()
    }
    /// A link that is not its object's first.
    #[must_use]
    pub fn register(link: LinkId) -> Vec<u8> {
        Key::new(kind::REGISTER).u128(link.get()).done()
    }
    /// A further link of an object, by its slot.
    #[must_use]
    pub fn object_links(ino: Ino, slot: u32) -> Vec<u8> {
        Key::new(kind::OBJECT_LINKS).u64(ino.get()).u32(slot).done()
    }
    /// A state of the history of a name.
    #[must_use]
    pub fn lineage(id: LineageId) -> Vec<u8> {
        Key::new(kind::LINEAGE).u128(id.get()).done()
    }
    /// A version by its number among those of its object.
    #[must_use]
    pub fn numbered(ino: Ino, number: u64, id: VersionId) -> Vec<u8> {
        Key::new(kind::NUMBERED).u64(ino.get()).u64(number).u128(id.get()).done()
    }
    /// The last delete marker at a name; an empty name gives the prefix of all.
    #[must_use]
    pub fn marker(dir: Ino, name: &[u8]) -> Vec<u8> {
        Key::new(kind::MARKER).u64(dir.get()).name(name).done()
    }
    /// The store that a number stands for; none gives the prefix of all.
    #[must_use]
    pub fn store_number(n: Option<u32>) -> Vec<u8> {
        let key = Key::new(kind::STORE_NUMBER);
        match n {
            Some(n) => key.u32(n).done(),
            None => key.done(),
        }
    }
    /// Facts batches that are held, from this one on.
    #[must_use]
    pub fn held(store: StoreId, incarnation: Incarnation, sequence: u64) -> Vec<u8> {
        Key::new(kind::HELD).u128(store.get()).u64(incarnation.get()).u64(sequence).done()
    }
    /// Facts batches that are held, up to this one.
    #[must_use]
    pub fn held_to(store: StoreId, incarnation: Incarnation, sequence: u64) -> Vec<u8> {
        Key::new(kind::HELD_TO).u128(store.get()).u64(incarnation.get()).u64(sequence).done()
    }
    /// A move of a directory.
    #[must_use]
    pub fn moved_dir(hlc: u64, store: StoreId, incarnation: Incarnation, part: u32) -> Vec<u8> {
        Key::new(kind::MOVE).u64(hlc).u128(store.get()).u64(incarnation.get()).u32(part).done()
    }
    /// Versions that wait for this one; none: the prefix of all of them.
    #[must_use]
    pub fn waiting(missing: VersionId, waiting: Option<VersionId>) -> Vec<u8> {
        let key = Key::new(kind::WAITING).u128(missing.get());
        match waiting {
            Some(w) => key.u128(w.get()).done(),
            None => key.done(),
        }
    }
    /// A tag.
    #[must_use]
    pub fn tag(name: &[u8]) -> Vec<u8> {
        Key::new(kind::TAG).name(name).done()
    }
    /// Rises of the highest stamp, from this one on.
    #[must_use]
    pub fn moments(first_ns: u64) -> Vec<u8> {
        Key::new(kind::MOMENTS).u64(first_ns).done()
    }
    /// A branch of an object.
    #[must_use]
    pub fn branch(ino: Ino, branch: u32) -> Vec<u8> {
        Key::new(kind::BRANCH).u64(ino.get()).u32(branch).done()
    }
    /// A chunk that changed since the version before.
    #[must_use]
    pub fn dirty(ino: Ino, branch: u32, at: Lsn, chunk: u64) -> Vec<u8> {
        Key::new(kind::DIRTY).u64(ino.get()).u32(branch).u64(at.get()).u64(chunk).done()
    }
    /// One inode in the list of a kind ([`kind::DRAFT`], [`kind::ORPHAN`], [`kind::TWIN`]).
    #[must_use]
    pub fn listed(list: u8, ino: Ino) -> Vec<u8> {
        Key::new(list).u64(ino.get()).done()
    }
    /// A part of the list of the newest base.
    #[must_use]
    pub fn base(part: u32) -> Vec<u8> {
        Key::new(kind::BASE).u32(part).done()
    }
    /// Where the cleaner put an extent.
    #[must_use]
    pub fn moved(extent: Lsn) -> Vec<u8> {
        Key::new(kind::MOVED).u64(extent.get()).done()
    }
    /// The id of a version that waits.
    #[must_use]
    pub fn claimed(id: VersionId) -> Vec<u8> {
        Key::new(kind::CLAIMED).u128(id.get()).done()
    }
    /// Changes of a version still to come.
    #[must_use]
    pub fn changes(ino: Ino, version: VersionId, part: u32) -> Vec<u8> {
        Key::new(kind::CHANGES).u64(ino.get()).u128(version.get()).u32(part).done()
    }
    /// Facts batches of an incarnation whose effects may be here.
    #[must_use]
    pub fn owed(store: StoreId, incarnation: Incarnation) -> Vec<u8> {
        Key::new(kind::OWED).u128(store.get()).u64(incarnation.get()).done()
    }
    /// The one FILLED row.
    #[must_use]
    pub fn filled() -> Vec<u8> {
        Key::new(kind::FILLED).done()
    }
    /// A version whose content is not here; none gives the prefix of all of an object.
    #[must_use]
    pub fn lacking(ino: Ino, version: Option<VersionId>) -> Vec<u8> {
        let key = Key::new(kind::LACKING).u64(ino.get());
        match version {
            Some(v) => key.u128(v.get()).done(),
            None => key.done(),
        }
    }
    /// The content hash of a branch in parts: which version it is of.
    #[must_use]
    pub fn hash_tree(ino: Ino, branch: u32) -> Vec<u8> {
        Key::new(kind::HASH_TREE).u64(ino.get()).u32(branch).done()
    }
    /// A group of nodes of that.
    #[must_use]
    pub fn hash_group(ino: Ino, branch: u32, height: u32, index: u64) -> Vec<u8> {
        Key::new(kind::HASH_GROUP).u64(ino.get()).u32(branch).u32(height).u64(index).done()
    }
    /// The branch in a key of [`hash_tree`].
    #[must_use]
    pub fn branch_of(key: &[u8]) -> Option<u32> {
        Some(u32::from_be_bytes(key.get(9..13)?.try_into().ok()?))
    }
    /// When another version began to show.
    #[must_use]
    pub fn shown(ino: Ino, at: Lsn) -> Vec<u8> {
        Key::new(kind::SHOWN).u64(ino.get()).u64(at.get()).done()
    }

    /// The superseded forms of a row, in the order of the LSN from which they held. Names hold no NUL, so
    /// the NUL keeps rows of a longer name apart from those of a shorter.
    #[must_use]
    pub fn history(of: &[u8], from: Lsn) -> Vec<u8> {
        let mut bytes = history_prefix(of);
        bytes.extend_from_slice(&from.get().to_be_bytes());
        bytes
    }
    /// What all keys of [`history`] of one row begin with.
    #[must_use]
    pub fn history_prefix(of: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(of.len() + 10);
        bytes.push(kind::HISTORY);
        bytes.extend_from_slice(of);
        bytes.push(0);
        bytes
    }

    /// The inode number in a key that has one behind its first byte.
    #[must_use]
    pub fn ino_of(key: &[u8]) -> Option<Ino> {
        Some(Ino::new(u64::from_be_bytes(key.get(1..9)?.try_into().ok()?)))
    }
    /// The number in a key of [`numbered`].
    #[must_use]
    pub fn number_of(key: &[u8]) -> Option<u64> {
        Some(u64::from_be_bytes(key.get(9..17)?.try_into().ok()?))
    }
    /// The name in a key of [`link`], [`xattr`] or [`marker`].
    #[must_use]
    pub fn name_of(key: &[u8]) -> &[u8] {
        key.get(9..).unwrap_or_default()
    }
    /// The facts batch in a key of [`held`].
    #[must_use]
    pub fn held_origin(key: &[u8]) -> Option<crate::format::Origin> {
        let store = StoreId::new(u128::from_be_bytes(key.get(1..17)?.try_into().ok()?));
        let incarnation = Incarnation::new(u64::from_be_bytes(key.get(17..25)?.try_into().ok()?));
        Some(crate::format::Origin { store, incarnation, seq: last_number(key)? })
    }
    /// Moves of directories that came late.
    #[must_use]
    pub fn late_moves() -> Vec<u8> {
        vec![kind::LATE_MOVES]
    }
    /// A move that was noted of this object, by the key of its row; an empty one gives the prefix of all.
    #[must_use]
    pub fn noted_move(ino: Ino, row: &[u8]) -> Vec<u8> {
        Key::new(kind::NOTED_MOVE).u64(ino.get()).name(row.get(1..).unwrap_or_default()).done()
    }
    /// The key of the row that a key of [`noted_move`] names.
    #[must_use]
    pub fn move_noted(key: &[u8]) -> Vec<u8> {
        [&[kind::MOVE], key.get(9..).unwrap_or_default()].concat()
    }
    /// The extent in a key of [`extent`].
    #[must_use]
    pub fn extent_of(key: &[u8]) -> Option<crate::format::facts::ExtentId> {
        let o = held_origin(key)?;
        Some(crate::format::facts::ExtentId { store: o.store, incarnation: o.incarnation, sequence: o.seq })
    }
    /// Stamp, store, incarnation and part in a key of [`moved_dir`].
    #[must_use]
    pub fn moved_by(key: &[u8]) -> Option<(u64, StoreId, Incarnation, u32)> {
        let hlc = u64::from_be_bytes(key.get(1..9)?.try_into().ok()?);
        let store = StoreId::new(u128::from_be_bytes(key.get(9..25)?.try_into().ok()?));
        let incarnation = Incarnation::new(u64::from_be_bytes(key.get(25..33)?.try_into().ok()?));
        Some((hlc, store, incarnation, u32::from_be_bytes(key.get(33..37)?.try_into().ok()?)))
    }
    /// The missing version in a key of [`waiting`].
    #[must_use]
    pub fn waited_for(key: &[u8]) -> Option<VersionId> {
        Some(VersionId::new(u128::from_be_bytes(key.get(1..17)?.try_into().ok()?)))
    }
    /// The version in a key of [`lacking`].
    #[must_use]
    pub fn lacking_version(key: &[u8]) -> Option<VersionId> {
        Some(VersionId::new(u128::from_be_bytes(key.last_chunk::<16>().copied()?)))
    }
    /// The number that ends a key: an LSN or a chunk.
    #[must_use]
    pub fn last_number(key: &[u8]) -> Option<u64> {
        Some(u64::from_be_bytes(key.last_chunk::<8>().copied()?))
    }
}

/// Orders changes of one register: hybrid logical clock, then store. The number stands for the store; 0 is
/// this one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash, Encode, Decode)]
pub struct Stamp {
    /// ns since 1970.
    pub hlc: u64,
    /// Number of the store that made it.
    pub store: u32,
}

/// What the store knows of itself as a whole.
#[derive(Debug, Clone, PartialEq, Eq, Default, Encode, Decode)]
pub struct MetaRow {
    /// The next inode number.
    pub next_ino: u64,
    /// The highest stamp seen.
    pub hlc: u64,
    /// Sequence of the last facts batch made here, and in which incarnation.
    pub sequence: u64,
    /// See `sequence`.
    pub incarnation: u64,
    /// Were facts of another store taken in, ever?
    pub foreign: bool,
    /// Objects that a link shows.
    pub objects: u64,
    /// Versions held.
    pub versions: u64,
    /// When the highest stamp of facts rose, as far as no row says so.
    pub moments: Moments,
    /// The clock by which things expire, as far as it was written down, ns since 1970.
    pub clock_ns: u64,
}

/// A row that was replaced or removed.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Superseded {
    /// The LSN that ended it.
    pub until: Lsn,
    /// The row as it was.
    pub row: Vec<u8>,
}

impl Superseded {
    /// The encoding of a superseded row, without a copy of the row.
    #[must_use]
    pub fn encoded(until: Lsn, row: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(row.len() + 16);
        super::code::encode_into(&(until, row), &mut out);
        out
    }
}

/// What stands at a name. The first entry shows; more than one only after a conflict.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct LinkRow {
    /// LSN since which this holds.
    pub from: Lsn,
    /// In the order in which they would show.
    pub entries: Vec<LinkEntry>,
}

/// One link at a name.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct LinkEntry {
    /// The link; none: the object's first.
    pub link: Option<LinkId>,
    /// The object.
    pub child: Ino,
    /// What it is.
    pub kind: ObjectKind,
    /// Since when.
    pub stamp: Stamp,
    /// Whose history this name continues.
    pub continues: Option<Lineage>,
}

/// A link register.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct LinkRegister {
    /// Newest stamp.
    pub stamp: Stamp,
    /// Directory, as the fact names it (aliases are followed when it is placed).
    pub parent: Ino,
    /// Name.
    pub name: Vec<u8>,
    /// What hangs there.
    pub child: Ino,
    /// If gone: the versions that the one who removed it had.
    pub gone: Option<VersionVector>,
    /// Whose history this name continues.
    pub continues: Option<Lineage>,
    /// Is it in its directory's rows now, and in which directory's?
    pub placed: Option<Ino>,
    /// Where it is listed among the further links of its object; the first link, and one that is gone, is not.
    pub slot: Option<u32>,
}

/// An object: its registers, and what its content is.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct ObjectRow {
    /// LSN since which `attributes` hold.
    pub from: Lsn,
    /// Its id.
    pub object: ObjectId,
    /// What changes seldom, and has history.
    pub attributes: Attributes,
    /// What changes with each write; its history is that of the versions.
    pub content: Content,
}

/// The part of an object's row that has history. Its encoding leaves out what follows from something else
/// (`docs/FORMAT.md` section 8).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attributes {
    /// What it is.
    pub kind: ObjectKind,
    /// Permission bits and their stamp.
    pub mode: u32,
    /// See `mode`.
    pub mode_stamp: Stamp,
    /// Owner and its stamp.
    pub owner: Owner,
    /// See `owner`.
    pub owner_stamp: Stamp,
    /// Modification time and its stamp: set by hand, or for a directory by a change in it.
    pub modified: Time,
    /// See `modified`.
    pub modified_stamp: Stamp,
    /// Last change of anything here, ns since 1970.
    pub changed: u64,
    /// Creation, ns since 1970.
    pub born: u64,
    /// Device number of a device node.
    pub device: u32,
    /// Target of a symlink.
    pub target: Vec<u8>,
    /// Links that show; for a directory 2 and its subdirectories.
    pub links: u32,
    /// For a directory: entries that show.
    pub entries: u64,
    /// The first link.
    pub link: Option<LinkRegister>,
    /// Further links that are not gone: as many slots of [`kind::OBJECT_LINKS`].
    pub further: u32,
    /// Extended attributes that are set.
    pub xattrs: u32,
    /// For a directory that is another name for one: that one.
    pub alias: Option<Ino>,
    /// For a directory: something left a name in it, so it has rows of [`kind::MARKER`].
    pub markers: bool,
    /// Shares a name with another object after a conflict.
    pub contested: bool,
}

/// A cut: at this LSN everything from this size on became empty. Spares a truncation the rows that it removes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub struct Cut {
    /// When.
    pub at: Lsn,
    /// From which size on.
    pub size: u64,
}

/// The part of an object's row that changes with each write.
#[derive(Debug, Clone, PartialEq, Eq, Default, Encode, Decode)]
pub struct Content {
    /// The branch that shows.
    pub branch: u32,
    /// Size.
    pub size: u64,
    /// Modification time by writing, and its stamp.
    pub modified: Time,
    /// See `modified`.
    pub modified_stamp: Stamp,
    /// Access time, if it was logged.
    pub accessed: Option<Time>,
    /// Are there changes that no version has yet?
    pub draft: bool,
    /// Cuts of this branch.
    pub cuts: Vec<Cut>,
    /// The version that shows, or on which the draft rests.
    pub head: Option<Lsn>,
    /// All versions that no other one includes.
    pub heads: Vec<Lsn>,
    /// LSN of the last version of the branch that shows: chunks above it belong to the draft.
    pub tip: Lsn,
    /// Bytes that are not holes.
    pub allocated: u64,
    /// Creation time of the newest version, ns since 1970.
    pub newest_ns: u64,
    /// The next free branch number.
    pub branches: u32,
    /// The highest number of a version made or received so far: the next one's less one.
    pub ordinal: u64,
    /// A version came whose number was not higher than all before: [`kind::NUMBERED`] has the order.
    pub disordered: bool,
    /// LSN of the first version that was removed before every one that is kept.
    pub gap: Option<Lsn>,
}

/// An extended attribute; a removed one keeps its stamp.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct XattrRow {
    /// LSN since which this holds.
    pub from: Lsn,
    /// Newest stamp.
    pub stamp: Stamp,
    /// Value, or removed.
    pub value: Option<Vec<u8>>,
}

/// What a chunk of a file shows: pieces in order, without overlaps; gaps are holes.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct ChunkRow {
    /// LSN since which this holds.
    pub from: Lsn,
    /// The pieces.
    pub pieces: Vec<Piece>,
}

/// A piece of a chunk: part of an extent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub struct Piece {
    /// Offset in the chunk.
    pub start: u32,
    /// Length.
    pub len: u32,
    /// The extent's record.
    pub extent: Lsn,
    /// Offset in the extent's raw bytes.
    pub skip: u32,
    /// Where the extent lay when this was written; if its segment is gone, its [`kind::MOVED`] row says where.
    pub location: Location,
}

/// A version.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct VersionRow {
    /// Its id.
    pub id: VersionId,
    /// Its number among this object's versions, from 1, the same on every store: [`VersionVector::number`].
    pub ordinal: u64,
    /// Branch on which it lies.
    pub branch: u32,
    /// What it includes.
    pub vector: VersionVector,
    /// What it descends from.
    pub parents: Vec<VersionId>,
    /// Creation time, ns since 1970.
    pub created_ns: u64,
    /// Stamp of its record.
    pub stamp: Stamp,
    /// Size.
    pub size: u64,
    /// Modification time.
    pub modified: Time,
    /// Stamp of the last change of its bytes, ns since 1970.
    pub changed: u64,
    /// Permission bits at its commit.
    pub mode: u32,
    /// Owner at its commit.
    pub owner: Owner,
    /// Content hash, if known.
    pub hash: Option<[u8; 32]>,
    /// See [`super::facts::version_flags`].
    pub flags: u32,
    /// Bytes that are not holes.
    pub allocated: u64,
    /// Cuts of its branch at its commit.
    pub cuts: Vec<Cut>,
    /// Did it show from its commit on?
    pub shown: bool,
    /// Further links that the object had where it was made.
    pub links: Vec<LinkId>,
    /// LSN of the first version that was removed behind it and before the next one that is kept.
    pub gap: Option<Lsn>,
}

impl VersionRow {
    /// Stamp of the last change of its bytes.
    #[must_use]
    pub const fn written(&self) -> Stamp {
        Stamp { hlc: self.changed, store: self.stamp.store }
    }

    /// Did the object have this link where this version was made, as far as it says?
    #[must_use]
    pub fn names(&self, link: LinkId, first: bool) -> bool {
        if first { self.flags & version_flags::NOT_FIRST_LINK == 0 } else { self.links.contains(&link) }
    }
}

/// Where a branch began: chunks that it does not have are those of this branch at this LSN.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub struct BranchBase {
    /// Branch.
    pub branch: u32,
    /// LSN of the version there.
    pub at: Lsn,
}

/// A branch of an object's content.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct BranchRow {
    /// Where it began; none: with an empty file.
    pub base: Option<BranchBase>,
    /// LSN of its last version.
    pub tip: Lsn,
}

/// Where a version is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub struct VersionPlace {
    /// Object.
    pub ino: Ino,
    /// LSN at which it came.
    pub at: Lsn,
    /// It was removed here, and is not to come again.
    pub removed: bool,
}

/// An extent of another store in this one's log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub struct ExtentRow {
    /// Its record here.
    pub extent: Lsn,
    /// Where that lies.
    pub location: Location,
}

/// A tag.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct TagRow {
    /// LSN since which this holds.
    pub from: Lsn,
    /// Newest stamp.
    pub stamp: Stamp,
    /// The moment, ns since 1970; none: removed.
    pub moment: Option<u64>,
}
