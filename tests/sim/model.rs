//! What a store must show: a model in memory, with an immutable snapshot for every LSN.
//!
//! The model follows the public API: an operation either fails with the same answer or takes the same LSNs, and
//! predicts stamps and creation times, since the simulated clock stands still inside an operation.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use segfs::{
    base::{FsError, VersionId, limits},
    format::facts::{ObjectKind, Owner, Time, version_flags},
    store::{NewObject, Rename, SetAttributes},
};

pub type Ino = u64;
pub type Bytes = Arc<Vec<u8>>;
type Answer<T> = Result<T, FsError>;

/// An operation, as it is asked of model and store.
#[derive(Debug, Clone)]
pub enum Op {
    Create {
        dir: Ino,
        name: Vec<u8>,
        new: NewObject,
    },
    Link {
        ino: Ino,
        dir: Ino,
        name: Vec<u8>,
    },
    Unlink {
        dir: Ino,
        name: Vec<u8>,
        /// Somebody has it open: what it holds stays.
        open: bool,
    },
    Rmdir {
        dir: Ino,
        name: Vec<u8>,
    },
    Rename {
        from: (Ino, Vec<u8>),
        to: (Ino, Vec<u8>),
        how: Rename,
    },
    Set {
        ino: Ino,
        set: SetAttributes,
    },
    Xattr {
        ino: Ino,
        name: Vec<u8>,
        value: Option<Vec<u8>>,
        create: Option<bool>,
    },
    Write {
        ino: Ino,
        offset: u64,
        data: Vec<u8>,
    },
    Truncate {
        ino: Ino,
        size: u64,
    },
    Punch {
        ino: Ino,
        offset: u64,
        len: u64,
    },
    Clone {
        from: (Ino, u64),
        to: (Ino, u64),
        len: u64,
    },
    Commit {
        ino: Ino,
    },
    Reap {
        ino: Ino,
    },
    Tag {
        name: Vec<u8>,
        on: bool,
    },
    /// The version of that LSN is given up, if nothing needs it.
    Remove {
        ino: Ino,
        lsn: u64,
    },
}

/// A version of content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version {
    pub lsn: u64,
    /// From 1.
    pub ordinal: u64,
    pub created_ns: u64,
    pub bytes: Bytes,
    pub modified: Time,
    pub stamp: u64,
    pub mode: u32,
    pub owner: Owner,
    pub flags: u32,
    /// Random: known once the store has told.
    pub id: Option<VersionId>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object {
    pub kind: ObjectKind,
    pub mode: u32,
    pub owner: Owner,
    pub target: Vec<u8>,
    pub links: u32,
    pub born: u64,
    pub changed: u64,
    /// Time, and the stamp at which it was set.
    pub modified: (Time, u64),
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    pub entries: BTreeMap<Vec<u8>, Ino>,
    /// Of a directory: where it hangs.
    pub parent: Option<Ino>,
    pub bytes: Bytes,
    pub bytes_modified: (Time, u64),
    pub draft: bool,
    pub reaped: bool,
    pub accessed: Option<Time>,
    pub newest_ns: u64,
    pub versions: Vec<Arc<Version>>,
    /// Was given up with changes that no version has.
    pub left_draft: bool,
    /// Every version that it had was removed since (only in what [`Model::seen`] gives).
    pub gone: bool,
}

impl Object {
    fn new(new: &NewObject, stamp: u64) -> Self {
        Self {
            kind: new.kind,
            mode: new.mode & 0o7777,
            owner: new.owner,
            target: new.target.clone(),
            links: if new.kind == ObjectKind::Directory { 2 } else { 0 },
            born: stamp,
            changed: stamp,
            modified: (Time::from_ns(stamp), stamp),
            xattrs: BTreeMap::new(),
            entries: BTreeMap::new(),
            parent: None,
            bytes: Bytes::default(),
            bytes_modified: (Time::default(), 0),
            draft: false,
            reaped: false,
            accessed: None,
            newest_ns: 0,
            versions: Vec::new(),
            left_draft: false,
            gone: false,
        }
    }

    pub fn is_dir(&self) -> bool {
        self.kind == ObjectKind::Directory
    }

    /// The modification time that shows, with this content.
    pub fn shown_modified(&self, content: (Time, u64)) -> Time {
        if self.kind == ObjectKind::File && content.1 > self.modified.1 { content.0 } else { self.modified.0 }
    }
}

/// The store after one LSN.
#[derive(Clone)]
pub struct Snapshot {
    pub lsn: u64,
    pub hlc: u64,
    pub next_ino: Ino,
    pub objects: Arc<BTreeMap<Ino, Arc<Object>>>,
    /// Versions removed by then, by object and LSN.
    pub removed: Arc<BTreeSet<(Ino, u64)>>,
    /// Tags, and the LSNs that they are on.
    tags: Arc<BTreeMap<Vec<u8>, u64>>,
}

pub const ROOT: Ino = 1;

impl Snapshot {
    pub fn empty() -> Self {
        let mut root = Object::new(&NewObject::directory(0o755, Owner::default()), 0);
        root.parent = Some(ROOT);
        Self {
            lsn: 0,
            hlc: 0,
            next_ino: 2,
            objects: Arc::new([(ROOT, Arc::new(root))].into()),
            removed: Arc::default(),
            tags: Arc::default(),
        }
    }

    pub fn get(&self, ino: Ino) -> Option<&Object> {
        self.objects.get(&ino).map(|o| &**o)
    }

    fn object(&self, ino: Ino) -> Answer<&Object> {
        self.get(ino).ok_or(FsError::NotFound)
    }

    fn edit(&mut self, ino: Ino) -> &mut Object {
        let objects = Arc::make_mut(&mut self.objects);
        Arc::make_mut(objects.get_mut(&ino).expect("an object that was looked up"))
    }

    fn directory(&self, ino: Ino) -> Answer<&Object> {
        let found = self.object(ino)?;
        if found.is_dir() { Ok(found) } else { Err(FsError::NotADirectory) }
    }

    fn live_directory(&self, ino: Ino) -> Answer<&Object> {
        let found = self.directory(ino)?;
        if found.parent.is_some() { Ok(found) } else { Err(FsError::NotFound) }
    }

    fn at(&self, dir: Ino, name: &[u8]) -> Answer<Option<Ino>> {
        if name.len() > limits::NAME_BYTES {
            return Err(FsError::NameTooLong);
        }
        if name.is_empty() || name == b"." || name == b".." || name.iter().any(|b| matches!(b, 0 | b'/')) {
            return Err(FsError::Invalid);
        }
        Ok(self.object(dir)?.entries.get(name).copied())
    }

    /// A file's content can be changed.
    fn writable(&self, ino: Ino) -> Answer<&Object> {
        let found = self.object(ino)?;
        match found.kind {
            ObjectKind::File => Ok(found),
            ObjectKind::Directory => Err(FsError::IsADirectory),
            _ => Err(FsError::Invalid),
        }
    }

    /// Starts a record: the snapshot after it, to be edited, and its stamp.
    fn record(&self, wall: u64) -> (Self, u64) {
        let stamp = wall.max(self.hlc + 1);
        (Self { lsn: self.lsn + 1, hlc: stamp, ..self.clone() }, stamp)
    }

    /// What an operation does: its records' snapshots, or the answer that refuses it.
    pub fn apply(&self, op: &Op, wall: u64) -> Answer<Vec<Self>> {
        let one = |next: Option<Self>| next.into_iter().collect();
        match op {
            Op::Create { dir, name, new } => self.create(*dir, name, new, wall).map(Some).map(one),
            Op::Link { ino, dir, name } => self.link(*ino, *dir, name, wall).map(Some).map(one),
            Op::Unlink { dir, name, open } => self.unlink(*dir, name, *open, wall).map(Some).map(one),
            Op::Rmdir { dir, name } => self.rmdir(*dir, name, wall).map(Some).map(one),
            Op::Rename { from, to, how } => self.rename(from, to, *how, wall).map(one),
            Op::Set { ino, set } => self.set(*ino, set, wall),
            Op::Xattr { ino, name, value, create } => {
                self.xattr(*ino, name, value.as_ref(), *create, wall).map(one)
            }
            Op::Write { ino, offset, data } => self.write(*ino, *offset, data, wall).map(Some).map(one),
            Op::Truncate { ino, size } => {
                self.writable(*ino)?;
                Ok(vec![self.change_bytes(*ino, wall, |b| b.resize(*size as usize, 0))])
            }
            Op::Punch { ino, offset, len } => self.punch(*ino, *offset, *len, wall).map(one),
            Op::Clone { from, to, len } => self.clone_range(*from, *to, *len, wall).map(one),
            Op::Commit { ino } => self.commit(*ino, 0, wall).map(one),
            Op::Reap { ino } => Ok(one(self.reap(*ino, wall))),
            Op::Tag { name, on } => {
                self.at(ROOT, name)?;
                let mut next = self.record(wall).0;
                let tags = Arc::make_mut(&mut next.tags);
                if *on {
                    tags.insert(name.clone(), next.lsn);
                } else {
                    tags.remove(name);
                }
                Ok(vec![next])
            }
            Op::Remove { ino, lsn } => Ok(one(self.remove(*ino, *lsn))),
        }
    }

    /// What opening does to files that were open: versions, and orphans given up.
    pub fn mint(&self, wall: u64) -> Vec<Self> {
        let mut done: Vec<Self> = Vec::new();
        let inos: Vec<Ino> = self.objects.keys().copied().collect();
        for drafts in [true, false] {
            for &ino in &inos {
                let now = done.last().unwrap_or(self);
                let o = &now.objects[&ino];
                if drafts && !o.draft {
                    continue;
                }
                let next = now.commit(ino, version_flags::INTERRUPTED, wall).ok().flatten();
                let next = next.or_else(|| if o.reaped { None } else { now.reap(ino, wall) });
                done.extend(next);
            }
        }
        done
    }

    /// The version that an object showed at an LSN, of those that are kept.
    fn shown(&self, ino: Ino, o: &Object, at: u64) -> Option<u64> {
        let kept = |v: &&Arc<Version>| v.lsn <= at && !self.removed.contains(&(ino, v.lsn));
        o.versions.iter().rev().find(kept).map(|v| v.lsn)
    }

    fn remove(&self, ino: Ino, lsn: u64) -> Option<Self> {
        let o = self.get(ino)?;
        if !o.versions.iter().any(|v| v.lsn == lsn) || self.removed.contains(&(ino, lsn)) {
            return None;
        }
        let is_head = o.versions.last().is_some_and(|v| v.lsn == lsn);
        let over = o.links == 0 && o.reaped && !o.left_draft;
        if is_head && !over {
            return None;
        }
        if self.tags.values().any(|t| *t >= lsn && self.shown(ino, o, *t) == Some(lsn)) {
            return None;
        }
        // It is nothing that happened to a file: its record does not move the clock.
        let mut next = Self { lsn: self.lsn + 1, ..self.clone() };
        Arc::make_mut(&mut next.removed).insert((ino, lsn));
        if is_head {
            next.edit(ino).bytes = Bytes::default();
        }
        Some(next)
    }

    fn create(&self, dir: Ino, name: &[u8], new: &NewObject, wall: u64) -> Answer<Self> {
        if new.target.len() > limits::SYMLINK_BYTES {
            return Err(FsError::NameTooLong);
        }
        self.live_directory(dir)?;
        if self.at(dir, name)?.is_some() {
            return Err(FsError::Exists);
        }
        let (mut next, stamp) = self.record(wall);
        let ino = self.next_ino;
        next.next_ino += 1;
        let mut made = Object::new(new, stamp);
        made.xattrs = new.xattrs.iter().cloned().collect();
        Arc::make_mut(&mut next.objects).insert(ino, Arc::new(made));
        next.hang(dir, name, ino, stamp);
        if new.kind == ObjectKind::Symlink {
            next.edit(ino).bytes = Arc::new(new.target.clone());
            next.add_version(ino, 0, wall);
        }
        Ok(next)
    }

    fn link(&self, ino: Ino, dir: Ino, name: &[u8], wall: u64) -> Answer<Self> {
        let found = self.object(ino)?;
        if found.is_dir() {
            return Err(FsError::NotPermitted);
        }
        if found.links == 0 {
            return Err(FsError::NotFound);
        }
        self.live_directory(dir)?;
        if self.at(dir, name)?.is_some() {
            return Err(FsError::Exists);
        }
        let (mut next, stamp) = self.record(wall);
        next.hang(dir, name, ino, stamp);
        Ok(next)
    }

    fn unlink(&self, dir: Ino, name: &[u8], open: bool, wall: u64) -> Answer<Self> {
        self.directory(dir)?;
        let ino = self.at(dir, name)?.ok_or(FsError::NotFound)?;
        if self.object(ino)?.is_dir() {
            return Err(FsError::IsADirectory);
        }
        let (mut next, stamp) = self.record(wall);
        next.take(dir, name, stamp);
        if !open && next.objects[&ino].links == 0 {
            next.give_up(ino);
        }
        Ok(next)
    }

    fn rmdir(&self, dir: Ino, name: &[u8], wall: u64) -> Answer<Self> {
        self.directory(dir)?;
        let ino = self.at(dir, name)?.ok_or(FsError::NotFound)?;
        if !self.directory(ino)?.entries.is_empty() {
            return Err(FsError::NotEmpty);
        }
        let (mut next, stamp) = self.record(wall);
        next.take(dir, name, stamp);
        Ok(next)
    }

    fn rename(
        &self,
        from: &(Ino, Vec<u8>),
        to: &(Ino, Vec<u8>),
        how: Rename,
        wall: u64,
    ) -> Answer<Option<Self>> {
        self.directory(from.0)?;
        self.live_directory(to.0)?;
        let moved = self.at(from.0, &from.1)?.ok_or(FsError::NotFound)?;
        let there = self.at(to.0, &to.1)?;
        self.check_move(moved, to.0)?;
        let (mut next, stamp) = self.record(wall);
        if how == Rename::Exchange {
            let there = there.ok_or(FsError::NotFound)?;
            self.check_move(there, from.0)?;
            if moved == there {
                return Ok(None);
            }
            next.take(from.0, &from.1, stamp);
            next.take(to.0, &to.1, stamp);
            next.hang(from.0, &from.1, there, stamp);
            next.hang(to.0, &to.1, moved, stamp);
            return Ok(Some(next));
        }
        if let Some(there) = there {
            if how == Rename::NoReplace {
                return Err(FsError::Exists);
            }
            if moved == there {
                return Ok(None);
            }
            let (a, b) = (self.object(moved)?, self.object(there)?);
            match (a.is_dir(), b.is_dir()) {
                (true, false) => return Err(FsError::NotADirectory),
                (false, true) => return Err(FsError::IsADirectory),
                (true, true) if !b.entries.is_empty() => return Err(FsError::NotEmpty),
                _ => {}
            }
            next.take(to.0, &to.1, stamp);
        }
        next.take(from.0, &from.1, stamp);
        next.hang(to.0, &to.1, moved, stamp);
        Ok(Some(next))
    }

    fn check_move(&self, moved: Ino, to: Ino) -> Answer<()> {
        if !self.object(moved)?.is_dir() {
            return Ok(());
        }
        let mut at = to;
        loop {
            if at == moved {
                return Err(FsError::Invalid);
            }
            match self.get(at).and_then(|o| o.parent) {
                Some(parent) if at != ROOT => at = parent,
                _ => return Ok(()),
            }
        }
    }

    /// A name shows an object from now on; the name is free.
    fn hang(&mut self, dir: Ino, name: &[u8], ino: Ino, stamp: u64) {
        let child = self.edit(ino);
        child.changed = child.changed.max(stamp);
        let is_dir = child.is_dir();
        if is_dir {
            child.parent = Some(dir);
        } else {
            child.links += 1;
        }
        let parent = self.edit(dir);
        parent.entries.insert(name.to_vec(), ino);
        parent.links += u32::from(is_dir);
        parent.touch(stamp);
    }

    /// A name shows nothing any more.
    fn take(&mut self, dir: Ino, name: &[u8], stamp: u64) {
        let parent = self.edit(dir);
        let ino = parent.entries.remove(name).expect("a name that was looked up");
        parent.touch(stamp);
        let child = self.edit(ino);
        child.changed = child.changed.max(stamp);
        let is_dir = child.is_dir();
        if is_dir {
            child.parent = None;
        } else {
            child.links -= 1;
        }
        self.edit(dir).links -= u32::from(is_dir);
    }

    fn set(&self, ino: Ino, set: &SetAttributes, wall: u64) -> Answer<Vec<Self>> {
        self.object(ino)?;
        let mut done = Vec::new();
        if let Some(accessed) = set.accessed {
            let (mut next, _) = self.record(wall);
            next.edit(ino).accessed = Some(accessed);
            done.push(next);
        }
        let removes = |name: &[u8]| self.objects[&ino].xattrs.contains_key(name);
        let xattrs: Vec<_> = set.xattrs.iter().filter(|(name, v)| v.is_some() || removes(name)).collect();
        if set.mode.is_some() || set.owner.is_some() || set.modified.is_some() || !xattrs.is_empty() {
            let (mut next, stamp) = done.last().unwrap_or(self).record(wall);
            let o = next.edit(ino);
            o.mode = set.mode.map_or(o.mode, |m| m & 0o7777);
            o.owner = set.owner.unwrap_or(o.owner);
            o.modified = set.modified.map_or(o.modified, |m| (m, stamp));
            for (name, value) in xattrs {
                match value {
                    Some(value) => _ = o.xattrs.insert(name.clone(), value.clone()),
                    None => _ = o.xattrs.remove(name),
                }
            }
            o.changed = o.changed.max(stamp);
            done.push(next);
        }
        Ok(done)
    }

    fn xattr(
        &self,
        ino: Ino,
        name: &[u8],
        value: Option<&Vec<u8>>,
        create: Option<bool>,
        wall: u64,
    ) -> Answer<Option<Self>> {
        if name.is_empty() || name.len() > limits::XATTR_NAME_BYTES || name.contains(&0) {
            return Err(FsError::Range);
        }
        let there = self.object(ino)?.xattrs.contains_key(name);
        match create {
            Some(true) if there => return Err(FsError::Exists),
            Some(false) if !there => return Err(FsError::NoAttribute),
            _ if value.is_none() && !there => return Err(FsError::NoAttribute),
            _ if self.object(ino)?.xattrs.get(name) == value => return Ok(None),
            _ => {}
        }
        let (mut next, stamp) = self.record(wall);
        let o = next.edit(ino);
        match value {
            Some(value) => _ = o.xattrs.insert(name.to_vec(), value.clone()),
            None => _ = o.xattrs.remove(name),
        }
        o.changed = o.changed.max(stamp);
        Ok(Some(next))
    }

    fn change_bytes(&self, ino: Ino, wall: u64, change: impl FnOnce(&mut Vec<u8>)) -> Self {
        let (mut next, stamp) = self.record(wall);
        let o = next.edit(ino);
        change(Arc::make_mut(&mut o.bytes));
        o.bytes_modified = (Time::from_ns(stamp), stamp);
        o.draft = true;
        next
    }

    fn write(&self, ino: Ino, offset: u64, data: &[u8], wall: u64) -> Answer<Self> {
        if self.object(ino)?.kind != ObjectKind::File {
            return Err(FsError::Invalid);
        }
        Ok(self.change_bytes(ino, wall, |b| put(b, offset, data)))
    }

    fn punch(&self, ino: Ino, offset: u64, len: u64, wall: u64) -> Answer<Option<Self>> {
        if len == 0 {
            return Err(FsError::Invalid);
        }
        let size = self.writable(ino)?.bytes.len() as u64;
        Ok((offset < size).then(|| {
            self.change_bytes(ino, wall, |b| b[offset as usize..(offset + len).min(size) as usize].fill(0))
        }))
    }

    /// How many bytes a clone of `len` bytes is.
    pub fn clone_len(&self, from: (Ino, u64), len: u64) -> u64 {
        self.get(from.0).map_or(0, |o| len.min((o.bytes.len() as u64).saturating_sub(from.1)))
    }

    fn clone_range(&self, from: (Ino, u64), to: (Ino, u64), len: u64, wall: u64) -> Answer<Option<Self>> {
        let (source, target) = (self.object(from.0)?, self.object(to.0)?);
        if source.kind != ObjectKind::File || target.kind != ObjectKind::File {
            return Err(FsError::Invalid);
        }
        let len = self.clone_len(from, len);
        if from.0 == to.0 && from.1 < to.1 + len && to.1 < from.1 + len {
            return Err(FsError::Invalid);
        }
        if len == 0 {
            return Ok(None);
        }
        let part = source.bytes[from.1 as usize..(from.1 + len) as usize].to_vec();
        Ok(Some(self.change_bytes(to.0, wall, |b| put(b, to.1, &part))))
    }

    fn commit(&self, ino: Ino, flags: u32, wall: u64) -> Answer<Option<Self>> {
        let found = self.object(ino)?;
        if !found.draft || found.links == 0 {
            return Ok(None);
        }
        let (mut next, _) = self.record(wall);
        next.add_version(ino, flags, wall);
        Ok(Some(next))
    }

    fn add_version(&mut self, ino: Ino, flags: u32, wall: u64) {
        let lsn = self.lsn;
        let o = self.edit(ino);
        let created_ns = wall.max(o.newest_ns + 1);
        let modified = o.shown_modified(o.bytes_modified);
        let (bytes, mode, owner) = (Arc::clone(&o.bytes), o.mode, o.owner);
        // A version changes nothing about the file: its stamp is that of the last write.
        let stamp = o.bytes_modified.1;
        let ordinal = o.versions.len() as u64 + 1;
        let v = Version { lsn, ordinal, created_ns, bytes, modified, stamp, mode, owner, flags, id: None };
        o.versions.push(Arc::new(v));
        o.newest_ns = created_ns;
        o.draft = false;
    }

    fn reap(&self, ino: Ino, wall: u64) -> Option<Self> {
        let found = self.get(ino)?;
        if found.links > 0 || found.is_dir() {
            return None;
        }
        let (mut next, _) = self.record(wall);
        next.give_up(ino);
        Some(next)
    }

    fn give_up(&mut self, ino: Ino) {
        let o = self.edit(ino);
        if o.draft {
            o.left_draft = true;
            // What no version has is given up.
            let last = o.versions.last();
            o.bytes_modified = last.map_or((Time::default(), 0), |v| (Time::from_ns(v.stamp), v.stamp));
            o.bytes = last.map_or_else(Default::default, |v| Arc::clone(&v.bytes));
        }
        (o.draft, o.reaped) = (false, true);
    }
}

impl Object {
    fn touch(&mut self, stamp: u64) {
        self.modified = (Time::from_ns(stamp), stamp);
        self.changed = self.changed.max(stamp);
    }
}

fn put(bytes: &mut Vec<u8>, offset: u64, data: &[u8]) {
    let (from, to) = (offset as usize, offset as usize + data.len());
    if bytes.len() < to {
        bytes.resize(to, 0);
    }
    bytes[from..to].copy_from_slice(data);
}

/// Snapshots of every LSN, from 0 on.
#[derive(Clone)]
pub struct Model {
    past: Vec<Snapshot>,
}

impl Model {
    pub fn new() -> Self {
        Self { past: vec![Snapshot::empty()] }
    }

    pub fn now(&self) -> &Snapshot {
        self.past.last().expect("there is always the empty store")
    }

    pub fn lsn(&self) -> u64 {
        self.now().lsn
    }

    pub fn at(&self, lsn: u64) -> &Snapshot {
        &self.past[lsn as usize]
    }

    /// The snapshot of an LSN without the versions that were removed since.
    pub fn seen(&self, lsn: u64) -> Snapshot {
        let mut snapshot = self.at(lsn).clone();
        let removed = Arc::clone(&self.now().removed);
        let touched: BTreeSet<Ino> = removed.iter().map(|(ino, _)| *ino).collect();
        for ino in touched {
            if snapshot.get(ino).is_none_or(|o| o.versions.is_empty()) {
                continue;
            }
            let o = snapshot.edit(ino);
            o.versions.retain(|v| !removed.contains(&(ino, v.lsn)));
            o.gone = o.versions.is_empty();
        }
        snapshot
    }

    pub fn push(&mut self, snapshot: Snapshot) {
        assert_eq!(snapshot.lsn as usize, self.past.len());
        self.past.push(snapshot);
    }

    /// Records up to here changed nothing.
    pub fn pass(&mut self, lsn: u64) {
        while self.lsn() < lsn {
            let next = Snapshot { lsn: self.lsn() + 1, ..self.now().clone() };
            self.past.push(next);
        }
    }

    /// Forgets what a crash took.
    pub fn rewind(&mut self, lsn: u64) {
        self.past.truncate(lsn as usize + 1);
    }

    /// The model as it was at an LSN, to go on from there.
    pub fn fork(&self, lsn: u64) -> Self {
        Self { past: self.past[..=lsn as usize].to_vec() }
    }
}

impl Model {
    /// The store told the id of the version that it made last.
    pub fn name_version(&mut self, ino: Ino, id: VersionId) {
        let now = self.past.last_mut().expect("there is always the empty store");
        if let Some(last) = now.edit(ino).versions.last_mut() {
            Arc::make_mut(last).id = Some(id);
        }
    }
}
