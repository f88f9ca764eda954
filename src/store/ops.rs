//! Operations on names and attributes. Each is one record: all of it happens, or none.

use crate::{
    base::{
        FsError, Ino, LinkId, Lsn, ObjectId, Result, VersionId, limits,
        planted::{Bug, planted},
    },
    format::{
        facts::{
            Create, Fact, Gone, Left, Lineage, Link, ObjectKind, Owner, Time, Version, VersionVector,
            version_flags,
        },
        rows::{LinkEntry, LinkRegister, LinkRow, MarkerRow, ObjectRow, VersionRow, XattrRow, key},
    },
};

use super::{How, Op, Store, apply::Apply, hashes::hash_of_bytes, read::Attributes};

/// A new object, as a caller describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewObject {
    /// What it is; not [`ObjectKind::Unknown`].
    pub kind: ObjectKind,
    /// Permission bits.
    pub mode: u32,
    /// Owner and group.
    pub owner: Owner,
    /// Device number of a device node, else 0.
    pub device: u32,
    /// Target of a symlink, else empty.
    pub target: Vec<u8>,
    /// Extended attributes that it has from the beginning (inherited ACLs).
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

impl NewObject {
    /// A regular file.
    #[must_use]
    pub fn file(mode: u32, owner: Owner) -> Self {
        Self { kind: ObjectKind::File, mode, owner, device: 0, target: Vec::new(), xattrs: Vec::new() }
    }

    /// A directory.
    #[must_use]
    pub fn directory(mode: u32, owner: Owner) -> Self {
        Self { kind: ObjectKind::Directory, ..Self::file(mode, owner) }
    }

    /// A symlink.
    #[must_use]
    pub fn symlink(target: impl Into<Vec<u8>>, owner: Owner) -> Self {
        Self { kind: ObjectKind::Symlink, target: target.into(), ..Self::file(0o777, owner) }
    }
}

/// What happens if the new name of a rename is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Rename {
    /// It is replaced, as rename(2) says.
    #[default]
    Replace,
    /// The rename fails.
    NoReplace,
    /// The two change places.
    Exchange,
}

/// Name and new value of an extended attribute; none: it goes.
pub type XattrChange = (Vec<u8>, Option<Vec<u8>>);

/// Attributes to set; what is `None` stays as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SetAttributes {
    /// Permission bits.
    pub mode: Option<u32>,
    /// Owner and group.
    pub owner: Option<Owner>,
    /// Modification time.
    pub modified: Option<Time>,
    /// Access time; has no history.
    pub accessed: Option<Time>,
    /// Extended attributes to set, or to remove if they are there.
    pub xattrs: Vec<XattrChange>,
}

pub(super) fn check_name(name: &[u8]) -> Result<()> {
    if name.len() > limits::NAME_BYTES {
        return Err(FsError::NameTooLong.into());
    }
    if name.is_empty() || name == b"." || name == b".." || name.iter().any(|b| matches!(b, 0 | b'/')) {
        return Err(FsError::Invalid.into());
    }
    Ok(())
}

impl Op<'_, '_> {
    fn directory(&mut self, ino: Ino) -> Result<ObjectRow> {
        let row = self.apply.txn.object_if_any(ino)?.ok_or(FsError::NotFound)?;
        if row.attributes.kind != ObjectKind::Directory {
            return Err(FsError::NotADirectory.into());
        }
        Ok(row)
    }

    /// A directory in which a new name may be made: one that has a name itself.
    fn live_directory(&mut self, ino: Ino) -> Result<ObjectRow> {
        let row = self.directory(ino)?;
        if ino != Ino::FIRST && row.attributes.link.as_ref().is_none_or(|l| l.placed.is_none()) {
            return Err(FsError::NotFound.into());
        }
        Ok(row)
    }

    fn at(&mut self, dir: Ino, name: &[u8]) -> Result<Option<LinkRow>> {
        check_name(name)?;
        self.apply.txn.links(dir, name)
    }

    fn xattr(&mut self, ino: Ino, name: &[u8]) -> Result<Option<Vec<u8>>> {
        Ok(self.apply.txn.get::<XattrRow>(&key::xattr(ino, name))?.and_then(|row| row.value))
    }

    fn link_id(&mut self, entry: &LinkEntry) -> Result<(LinkId, ObjectRow)> {
        let row = self.apply.txn.object(entry.child)?;
        Ok((entry.link.unwrap_or(LinkId::primary(row.object)), row))
    }

    /// What a new object at this name continues: the last one that was deleted here.
    fn continued(&mut self, dir: Ino, name: &[u8]) -> Result<Option<Lineage>> {
        if !self.apply.txn.object(dir)?.attributes.markers {
            return Ok(None);
        }
        let marker = self.apply.txn.get::<MarkerRow>(&key::marker(dir, name))?;
        Ok(marker.and_then(|m| m.last().map(|d| d.lineage)).filter(|l| l.versions > 0))
    }

    /// The history of the name at which this stands.
    fn lineage_of(&mut self, there: &LinkEntry) -> Result<Option<Lineage>> {
        if !Apply::is_versioned(there.kind) {
            return Ok(None);
        }
        self.apply.lineage_after(there.child, there.continues).map(Some)
    }

    /// The further links of an object, as many as a version names.
    fn further_links(&mut self, ino: Ino, slots: u32) -> Result<Vec<LinkId>> {
        let mut links = Vec::new();
        for slot in 0..slots {
            if links.len() == limits::VERSION_LINKS {
                break;
            }
            let Some(link) = self.apply.txn.get(&key::object_links(ino, slot))? else { continue };
            let register = self.apply.txn.get::<LinkRegister>(&key::register(link))?;
            if register.is_some_and(|r| r.placed.is_some()) {
                links.push(link);
            }
        }
        Ok(links)
    }

    /// The versions of an object that are here.
    fn seen(&mut self, ino: Ino, row: &ObjectRow) -> Result<VersionVector> {
        let mut saw = VersionVector::default();
        for at in &row.content.heads {
            if let Some(v) = self.apply.txn.get::<VersionRow>(&key::version(ino, *at))? {
                saw.merge(&v.vector);
            }
        }
        Ok(saw)
    }

    /// Removes every link at a name; a marker is left if nothing takes its place.
    fn remove_all(
        &mut self,
        dir_id: ObjectId,
        name: &[u8],
        at: &LinkRow,
        marker: Option<VersionId>,
    ) -> Result<()> {
        for (i, entry) in at.entries.iter().enumerate() {
            let (link, row) = self.link_id(entry)?;
            let saw = self.seen(entry.child, &row)?;
            // The name's history is that of what shows.
            let shows = i == 0 && row.attributes.kind != ObjectKind::Directory;
            let lineage = if shows { self.lineage_of(entry)? } else { None };
            let (name, marker) = (name.to_vec(), marker.filter(|_| shows));
            let gone = Gone { link, parent: dir_id, name, object: row.object, saw, marker, lineage };
            self.fact(Fact::Gone(gone))?;
        }
        Ok(())
    }

    /// Hangs everything that stands at a name at another. `continues`: what came before there; none: what came before
    /// at the old name.
    fn hang(
        &mut self,
        at: &LinkRow,
        from: (ObjectId, &[u8]),
        to: (ObjectId, &[u8]),
        continues: Option<Lineage>,
    ) -> Result<()> {
        for (i, entry) in at.entries.iter().enumerate() {
            let (link, row) = self.link_id(entry)?;
            let lineage = if i == 0 { self.lineage_of(entry)? } else { None };
            let left = lineage.map(|lineage| Left { parent: from.0, name: from.1.to_vec(), lineage });
            let continues = continues.or(entry.continues);
            let (parent, name) = (to.0, to.1.to_vec());
            self.fact(Fact::Link(Link { link, parent, name, object: row.object, continues, left }))?;
        }
        Ok(())
    }
}

impl Store {
    /// Makes an object with a name in a directory; a symlink gets its one version at once.
    ///
    /// # Errors
    /// [`FsError::Exists`], [`FsError::NotFound`] for a directory that is gone, [`FsError::NotADirectory`],
    /// [`FsError::NameTooLong`], [`FsError::Invalid`].
    pub fn create_object(&self, dir: Ino, name: &[u8], new: &NewObject) -> Result<(Lsn, Attributes)> {
        if new.target.len() > limits::SYMLINK_BYTES {
            return Err(FsError::NameTooLong.into());
        }
        let (lsn, row) = self.run(|op| {
            let parent = op.live_directory(dir)?;
            if op.at(dir, name)?.is_some() {
                return Err(FsError::Exists.into());
            }
            let continues = op.continued(dir, name)?;
            let ino = Ino::new(op.apply.state.meta.next_ino);
            let object = ObjectId::made_here(self.log.incarnation(), ino);
            op.subject = (object, ino);
            op.fact(Fact::Create(Create {
                object,
                kind: new.kind,
                mode: new.mode & 0o7777,
                owner: new.owner,
                device: new.device,
                target: new.target.clone(),
            }))?;
            let link = LinkId::primary(object);
            let name = name.to_vec();
            op.fact(Fact::Link(Link { link, parent: parent.object, name, object, continues, left: None }))?;
            for (name, value) in &new.xattrs {
                op.fact(Fact::Xattr(object, name.clone(), Some(value.clone())))?;
            }
            if new.kind == ObjectKind::Symlink {
                let hash = hash_of_bytes(&new.target);
                let version = self.next_version(op, ino, 0, Some(hash))?;
                op.fact(Fact::Version(version))?;
            }
            Ok((ino, op.apply.txn.object(ino)?))
        })?;
        Ok((lsn, self.attributes_of(row.0, &row.1)))
    }

    /// Gives an object another name.
    ///
    /// # Errors
    /// [`FsError::NotPermitted`] for a directory, [`FsError::TooManyLinks`], and those of
    /// [`create_object`](Self::create_object).
    pub fn link(&self, ino: Ino, dir: Ino, name: &[u8]) -> Result<(Lsn, Attributes)> {
        let (lsn, row) = self.run(|op| {
            let row = op.apply.txn.object_if_any(ino)?.ok_or(FsError::NotFound)?;
            if row.attributes.kind == ObjectKind::Directory {
                return Err(FsError::NotPermitted.into());
            }
            if row.attributes.links == 0 {
                return Err(FsError::NotFound.into());
            }
            if row.attributes.links >= limits::LINKS {
                return Err(FsError::TooManyLinks.into());
            }
            let parent = op.live_directory(dir)?;
            if op.at(dir, name)?.is_some() {
                return Err(FsError::Exists.into());
            }
            let continues = op.continued(dir, name)?.filter(|c| c.object != row.object);
            let link = LinkId::new(self.random.u128());
            op.subject = (row.object, ino);
            let name = name.to_vec();
            let (parent, object) = (parent.object, row.object);
            op.fact(Fact::Link(Link { link, parent, name, object, continues, left: None }))?;
            op.apply.txn.object(ino)
        })?;
        Ok((lsn, self.attributes_of(ino, &row)))
    }

    /// Removes a name that is not a directory's. Returns the object and how many names it has left. If there is none,
    /// what it holds stays until [`reap`](Self::reap), for those who have it open.
    ///
    /// # Errors
    /// [`FsError::NotFound`], [`FsError::IsADirectory`], [`FsError::NotADirectory`].
    pub fn unlink(&self, dir: Ino, name: &[u8]) -> Result<(Lsn, Ino, u32)> {
        self.unlink_from(dir, name, &|_| true)
    }

    /// As [`unlink`](Self::unlink), and [`reap`](Self::reap) with the same record, if none of what stands at the name is open.
    /// Whether it is must not change until this returns.
    ///
    /// # Errors
    /// As of [`unlink`](Self::unlink).
    pub fn unlink_from(
        &self,
        dir: Ino,
        name: &[u8],
        is_open: &dyn Fn(Ino) -> bool,
    ) -> Result<(Lsn, Ino, u32)> {
        let (lsn, (ino, links)) = self.run_freeing(|op| {
            let parent = op.directory(dir)?;
            let at = op.at(dir, name)?.ok_or(FsError::NotFound)?;
            if at.entries[0].kind == ObjectKind::Directory {
                return Err(FsError::IsADirectory.into());
            }
            let ino = at.entries[0].child;
            let marker = self.new_version_id(op.apply.stamp.hlc);
            op.subject = (op.apply.txn.object(ino)?.object, ino);
            op.apply.gives_up = !at.entries.iter().any(|e| is_open(e.child));
            op.remove_all(parent.object, name, &at, Some(marker))?;
            Ok((ino, op.apply.txn.object(ino)?.attributes.links))
        })?;
        Ok((lsn, ino, links))
    }

    /// Removes an empty directory.
    ///
    /// # Errors
    /// [`FsError::NotFound`], [`FsError::NotADirectory`], [`FsError::NotEmpty`].
    pub fn rmdir(&self, dir: Ino, name: &[u8]) -> Result<(Lsn, Ino)> {
        self.run_freeing(|op| {
            let parent = op.directory(dir)?;
            let at = op.at(dir, name)?.ok_or(FsError::NotFound)?;
            let ino = at.entries[0].child;
            for entry in at.entries.iter().filter(|e| e.kind == ObjectKind::Directory || e.child == ino) {
                let row = op.directory(entry.child)?;
                if row.attributes.entries > 0 {
                    return Err(FsError::NotEmpty.into());
                }
            }
            op.subject = (op.apply.txn.object(ino)?.object, ino);
            op.remove_all(parent.object, name, &at, None)?;
            Ok(ino)
        })
    }

    /// Renames, as renameat2(2) does. Returns what the rename replaced, with the number of its names left.
    ///
    /// # Errors
    /// As renameat2(2): [`FsError::NotFound`], [`FsError::Exists`], [`FsError::NotEmpty`],
    /// [`FsError::IsADirectory`], [`FsError::NotADirectory`], and [`FsError::Invalid`] for a directory moved
    /// below itself.
    pub fn rename(
        &self,
        from: (Ino, &[u8]),
        to: (Ino, &[u8]),
        how: Rename,
    ) -> Result<(Lsn, Option<(Ino, u32)>)> {
        if planted(Bug::RenameNotAtomic) && how == Rename::Replace {
            let _ = self.unlink(to.0, to.1);
        }
        self.run(|op| {
            let (from_dir, to_dir) = (op.directory(from.0)?, op.live_directory(to.0)?);
            let moved = op.at(from.0, from.1)?.ok_or(FsError::NotFound)?;
            let there = op.at(to.0, to.1)?;
            op.subject = (op.apply.txn.object(moved.entries[0].child)?.object, moved.entries[0].child);
            check_move(op, &moved, to.0)?;
            if how == Rename::Exchange {
                let there = there.ok_or(FsError::NotFound)?;
                check_move(op, &there, from.0)?;
                if moved.entries[0].child == there.entries[0].child {
                    return Ok(None);
                }
                self.exchange(op, (&from_dir, from.1, &moved), (&to_dir, to.1, &there))?;
                return Ok(None);
            }
            let mut replaced = None;
            let mut continues = None;
            if let Some(there) = there {
                if how == Rename::NoReplace {
                    return Err(FsError::Exists.into());
                }
                if moved.entries[0].child == there.entries[0].child {
                    return Ok(None);
                }
                check_replace(op, &moved.entries[0], &there.entries[0])?;
                let ino = there.entries[0].child;
                continues = op.lineage_of(&there.entries[0])?.filter(|l| l.versions > 0);
                if !planted(Bug::RenameKeepsReplaced) {
                    op.remove_all(to_dir.object, to.1, &there, None)?;
                }
                replaced = Some(ino);
            } else if let Some(lineage) = op.continued(to.0, to.1)? {
                continues = Some(lineage);
            }
            let child = op.apply.txn.object(moved.entries[0].child)?.object;
            // What comes back to where it stood before goes on with its own history.
            let continues = continues.filter(|c| c.object != child);
            op.hang(&moved, (from_dir.object, from.1), (to_dir.object, to.1), continues)?;
            if from.0 != to.0 {
                let now = Time::from_ns(op.apply.stamp.hlc);
                op.fact(Fact::Modified(from_dir.object, now))?;
            }
            replaced.map(|ino| Ok((ino, op.apply.txn.object(ino)?.attributes.links))).transpose()
        })
    }

    fn exchange(
        &self,
        op: &mut Op<'_, '_>,
        a: (&ObjectRow, &[u8], &LinkRow),
        b: (&ObjectRow, &[u8], &LinkRow),
    ) -> Result<()> {
        let (here, there) = ((a.0.object, a.1), (b.0.object, b.1));
        op.hang(a.2, here, there, None)?;
        op.hang(b.2, there, here, None)
    }

    /// Sets access times, those of many objects in one record. Those that are not there any more are passed over.
    ///
    /// # Errors
    /// What the log or the index says.
    pub fn set_accessed(&self, times: &[(Ino, Time)]) -> Result<()> {
        // Not worth the reserve of a full disk.
        let how = How { quiet: true, ..How::default() };
        self.run_as(how, |op| {
            for (ino, time) in times {
                if let Some(row) = op.apply.txn.object_if_any(*ino)? {
                    op.fact(Fact::Accessed(row.object, *time))?;
                }
            }
            Ok(())
        })?;
        Ok(())
    }

    /// Sets attributes.
    ///
    /// # Errors
    /// [`FsError::NotFound`].
    pub fn set_attributes(&self, ino: Ino, set: &SetAttributes) -> Result<(Lsn, Attributes)> {
        if let Some(accessed) = set.accessed {
            self.run(|op| {
                let row = op.apply.txn.object_if_any(ino)?.ok_or(FsError::NotFound)?;
                op.subject = (row.object, ino);
                op.fact(Fact::Accessed(row.object, accessed))
            })?;
        }
        let (lsn, row) = self.run(|op| {
            let row = op.apply.txn.object_if_any(ino)?.ok_or(FsError::NotFound)?;
            op.subject = (row.object, ino);
            if let Some(mode) = set.mode {
                op.fact(Fact::Mode(row.object, mode & 0o7777))?;
            }
            if let Some(owner) = set.owner {
                op.fact(Fact::Owner(row.object, owner))?;
            }
            if let Some(modified) = set.modified {
                op.fact(Fact::Modified(row.object, modified))?;
            }
            for (name, value) in &set.xattrs {
                if value.is_some() || op.xattr(ino, name)?.is_some() {
                    op.fact(Fact::Xattr(row.object, name.clone(), value.clone()))?;
                }
            }
            op.apply.txn.object(ino)
        })?;
        Ok((lsn, self.attributes_of(ino, &row)))
    }

    /// Sets or removes an extended attribute. `create`: it must not be there (true) or must be (false). Nothing happens if
    /// it has that value already.
    ///
    /// # Errors
    /// [`FsError::Exists`], [`FsError::NoAttribute`], [`FsError::Range`] for a bad name, [`FsError::TooBig`] for a
    /// long value, [`FsError::NotFound`].
    pub fn set_xattr(
        &self,
        ino: Ino,
        name: &[u8],
        value: Option<&[u8]>,
        create: Option<bool>,
    ) -> Result<Lsn> {
        if name.is_empty() || name.len() > limits::XATTR_NAME_BYTES || name.contains(&0) {
            return Err(FsError::Range.into());
        }
        if value.is_some_and(|v| v.len() > limits::XATTR_BYTES) {
            return Err(FsError::TooBig.into());
        }
        let (lsn, ()) = self.run(|op| {
            let row = op.apply.txn.object_if_any(ino)?.ok_or(FsError::NotFound)?;
            let old = op.xattr(ino, name)?;
            let there = old.is_some();
            match create {
                Some(true) if there => return Err(FsError::Exists.into()),
                Some(false) if !there => return Err(FsError::NoAttribute.into()),
                _ if value.is_none() && !there => return Err(FsError::NoAttribute.into()),
                _ if value == old.as_deref() => return Ok(()),
                _ => {}
            }
            op.subject = (row.object, ino);
            op.fact(Fact::Xattr(row.object, name.to_vec(), value.map(<[u8]>::to_vec)))
        })?;
        Ok(lsn)
    }

    /// Tags this moment, or removes a tag.
    ///
    /// # Errors
    /// [`FsError::Invalid`] for a name that could not be a file's.
    pub fn tag(&self, name: &[u8], on: bool) -> Result<Lsn> {
        check_name(name)?;
        let (lsn, ()) = self.run(|op| {
            let moment = on.then_some(op.apply.stamp.hlc);
            op.fact(Fact::Tag(name.to_vec(), moment))
        })?;
        Ok(lsn)
    }

    /// The version that an object's content would be now; with its hash, if that is known.
    pub(super) fn next_version(
        &self,
        op: &mut Op<'_, '_>,
        ino: Ino,
        flags: u32,
        hash: Option<crate::format::hash::Hash>,
    ) -> Result<Version> {
        let row = op.apply.txn.object(ino)?;
        let head = match row.content.head {
            Some(at) => op.apply.txn.get::<VersionRow>(&key::version(ino, at))?,
            None => None,
        };
        let mut vector = head.as_ref().map(|h| h.vector.clone()).unwrap_or_default();
        // Higher than every number of a version that is here: see `VersionVector::number`.
        let number = row.content.ordinal + 1;
        vector.raise(self.id, self.log.incarnation(), number);
        let newest = if planted(Bug::VersionTimeNotMonotonic) { 0 } else { row.content.newest_ns };
        // Late enough for its number, which other stores hold against its time.
        let created_ns = self.clock.wall_ns().max(newest + 1).max(number.saturating_mul(limits::VERSION_NS));
        let first = row.attributes.link.as_ref().is_some_and(|l| l.placed.is_some());
        let flags = if first { flags } else { flags | version_flags::NOT_FIRST_LINK };
        let links = op.further_links(ino, row.attributes.further)?;
        Ok(Version {
            id: self.new_version_id(created_ns),
            object: row.object,
            vector,
            parents: head.iter().map(|h| h.id).collect(),
            created_ns,
            size: row.content.size,
            modified: self.attributes_of(ino, &row).modified,
            changed_ns: match row.content.modified_stamp.hlc {
                0 => op.apply.stamp.hlc,
                written => written,
            },
            mode: row.attributes.mode,
            owner: row.attributes.owner,
            hash,
            flags,
            links,
        })
    }

    /// A version id for a creation time: `UUIDv7` (RFC 9562), 48 bits of milliseconds, 20 bits of the
    /// nanoseconds within, the rest random.
    pub(super) fn new_version_id(&self, created_ns: u64) -> VersionId {
        let (ms, within) = (created_ns / 1_000_000, created_ns % 1_000_000);
        let mut bytes = [0; 8];
        self.random.fill(&mut bytes);
        let random = u64::from_le_bytes(bytes);
        let high = (ms << 16) | 0x7000 | (within >> 8);
        let low = (0b10 << 62) | ((within & 0xff) << 54) | (random >> 10);
        VersionId::new((u128::from(high) << 64) | u128::from(low))
    }
}

/// The creation time in a version id, ns since 1970; none if it is beyond what 64 bits hold.
pub(super) fn created_of(id: VersionId) -> Option<u64> {
    let (high, low) = ((id.get() >> 64) as u64, id.get() as u64);
    let within = ((high & 0xfff) << 8) | ((low >> 54) & 0xff);
    (high >> 16).checked_mul(1_000_000)?.checked_add(within)
}

/// A directory can't become part of itself.
fn check_move(op: &mut Op<'_, '_>, moved: &LinkRow, to: Ino) -> Result<()> {
    for entry in &moved.entries {
        if entry.kind == ObjectKind::Directory && op.apply.is_within(to, entry.child)? {
            return Err(FsError::Invalid.into());
        }
    }
    Ok(())
}

fn check_replace(op: &mut Op<'_, '_>, moved: &LinkEntry, there: &LinkEntry) -> Result<()> {
    let dir = |e: &LinkEntry| e.kind == ObjectKind::Directory;
    match (dir(moved), dir(there)) {
        (true, false) => Err(FsError::NotADirectory.into()),
        (false, true) => Err(FsError::IsADirectory.into()),
        (true, true) if op.apply.txn.object(there.child)?.attributes.entries > 0 => {
            Err(FsError::NotEmpty.into())
        }
        _ => Ok(()),
    }
}
