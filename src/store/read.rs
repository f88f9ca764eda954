//! Reading, now or at any earlier LSN.

use crate::{
    base::{Damage, Error, FsError, Ino, Lsn, ObjectId, Result, StoreId, VersionId, limits::CHUNK_BYTES},
    format::{
        Location,
        facts::{ObjectKind, Owner, Time, VersionVector, version_flags},
        rows::{
            Content, LinkRow, ObjectRow, Piece, Superseded, VersionPlace, VersionRow, XattrRow, after_prefix,
            key,
        },
    },
    index::{Index, Order},
};

use super::{
    Store,
    again::look_again,
    content::{BranchView, FetchPiece},
    txn::{row, row_at, since},
};

/// What is known of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attributes {
    /// Inode number here.
    pub ino: Ino,
    /// Its id everywhere.
    pub object: ObjectId,
    /// What it is.
    pub kind: ObjectKind,
    /// Permission bits.
    pub mode: u32,
    /// Owner and group.
    pub owner: Owner,
    /// Device number of a device node.
    pub device: u32,
    /// Names; for a directory 2 and its subdirectories.
    pub links: u32,
    /// Size: bytes of a file, length of a symlink's target, entries of a directory.
    pub size: u64,
    /// Bytes that are not holes.
    pub allocated: u64,
    /// Last modification of the content.
    pub modified: Time,
    /// Last change of anything.
    pub changed: Time,
    /// Last access, as far as it was logged; else the modification.
    pub accessed: Time,
    /// Creation.
    pub born: Time,
    /// Extended attributes that are set.
    pub xattrs: u32,
    /// Has changes that no version has yet.
    pub draft: bool,
}

/// An entry of a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Name.
    pub name: Vec<u8>,
    /// Object.
    pub ino: Ino,
    /// What it is.
    pub kind: ObjectKind,
}

/// A version, as lists show it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VersionInfo {
    /// Its id everywhere.
    pub id: VersionId,
    /// Number among the object's versions, from 1, the same on every store; given twice where two stores made versions without
    /// knowing of each other.
    pub ordinal: u64,
    /// LSN at which it came.
    pub lsn: Lsn,
    /// Creation time, ns since 1970.
    pub created_ns: u64,
    /// What it descends from.
    pub parents: Vec<VersionId>,
    /// What it includes.
    pub vector: VersionVector,
    /// Size.
    pub size: u64,
    /// Modification time.
    pub modified: Time,
    /// Permission bits at its commit.
    pub mode: u32,
    /// Owner at its commit.
    pub owner: Owner,
    /// BLAKE3 of the content, if it is known.
    pub hash: Option<[u8; 32]>,
    /// See [`crate::format::facts::version_flags`].
    pub flags: u32,
    /// The store that made it.
    pub origin: StoreId,
}

/// How large a version is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VersionSize {
    /// Size.
    pub size: u64,
    /// Bytes that are not holes.
    pub allocated: u64,
}

/// A stretch of a file that is not a hole, in one extent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// Offset in the file.
    pub offset: u64,
    /// Length.
    pub len: u64,
    /// The extent's record.
    pub record: Lsn,
    /// Where the record lies, unless it was moved.
    pub location: Location,
    /// Offset in the extent.
    pub skip: u32,
}

/// The store as it is now, or as it was at an LSN.
#[derive(Clone, Copy)]
pub struct View<'a> {
    pub(super) store: &'a Store,
    /// None: now.
    pub(super) at: Option<Lsn>,
}

impl Store {
    /// The present.
    #[must_use]
    pub fn view(&self) -> View<'_> {
        View { store: self, at: None }
    }

    /// What this store showed right after this record.
    #[must_use]
    pub fn view_at(&self, lsn: Lsn) -> View<'_> {
        View { store: self, at: Some(lsn) }
    }

    pub(super) fn object_row(&self, ino: Ino, at: Option<Lsn>) -> Result<Option<ObjectRow>> {
        let k = key::object(ino);
        match at {
            None => self.index.get(&k)?.map(|bytes| row(&k, &bytes)).transpose(),
            Some(at) => row_at(&*self.index, &k, at)?.map(|bytes| row(&k, &bytes)).transpose(),
        }
    }

    /// What a row says now, for people.
    pub(super) fn attributes_of(&self, ino: Ino, row: &ObjectRow) -> Attributes {
        let (a, c) = (&row.attributes, &row.content);
        let by_content =
            a.kind == ObjectKind::File && self.rank(c.modified_stamp) > self.rank(a.modified_stamp);
        let modified = if by_content { c.modified } else { a.modified };
        let changed = a.changed.max(c.modified_stamp.hlc);
        // Nobody made the root.
        let made = if a.born == 0 { modified } else { Time::from_ns(a.born) };
        Attributes {
            ino,
            object: row.object,
            kind: a.kind,
            mode: a.mode,
            owner: a.owner,
            device: a.device,
            links: a.links,
            size: if a.kind == ObjectKind::Directory { a.entries } else { c.size },
            allocated: c.allocated,
            modified,
            changed: Time::from_ns(changed),
            accessed: c.accessed.unwrap_or(made),
            born: Time::from_ns(a.born),
            xattrs: a.xattrs,
            draft: c.draft,
        }
    }

    /// A version's row, for people.
    pub(super) fn version_info(&self, k: &[u8], bytes: &[u8]) -> Result<VersionInfo> {
        let v: VersionRow = row(k, bytes)?;
        Ok(VersionInfo {
            id: v.id,
            ordinal: v.ordinal,
            lsn: Lsn::new(key::last_number(k).unwrap_or(0)),
            created_ns: v.created_ns,
            parents: v.parents,
            vector: v.vector,
            size: v.size,
            modified: v.modified,
            mode: v.mode,
            owner: v.owner,
            hash: v.hash,
            flags: v.flags & !version_flags::NOT_FIRST_LINK,
            origin: self.rank(v.stamp).1,
        })
    }

    /// Where a version is: its object here and the LSN at which it came.
    ///
    /// # Errors
    /// What reading the index says.
    pub fn find_version(&self, id: VersionId) -> Result<Option<(Ino, Lsn)>> {
        let k = key::version_id(id);
        let Some(bytes) = self.index.get(&k)? else { return Ok(None) };
        let place: VersionPlace = row(&k, &bytes)?;
        Ok((!place.removed).then_some((place.ino, place.at)))
    }

    /// How large a version is.
    ///
    /// # Errors
    /// [`FsError::NotFound`], or what reading the index says.
    pub fn version_size(&self, ino: Ino, at: Lsn) -> Result<VersionSize> {
        let v = self.version_there(ino, at)?;
        Ok(VersionSize { size: v.size, allocated: v.allocated })
    }

    /// Reads bytes of a version; fewer than asked for only at its end.
    ///
    /// # Errors
    /// As of [`View::read`].
    pub fn read_version(&self, ino: Ino, at: Lsn, offset: u64, out: &mut [u8]) -> Result<usize> {
        let read = look_again(&mut || {
            let v = self.version_there(ino, at)?;
            let view = BranchView { ino, branch: v.branch, at, cuts: v.cuts, rests: true };
            view.read(&*self.index, v.size, offset, out, &mut |p, from, part| self.read_piece(p, from, part))
        })?;
        // Of what was removed meanwhile, some of the rows may have been there and others not.
        self.version_there(ino, at).map(|_| read)
    }

    /// The row of a version; [`FsError::NotFound`] if it was removed.
    pub(super) fn version_there(&self, ino: Ino, at: Lsn) -> Result<VersionRow> {
        let k = key::version(ino, at);
        let bytes = self.index.get(&k)?.ok_or(FsError::NotFound)?;
        row(&k, &bytes)
    }

    pub(super) fn read_piece(&self, p: &Piece, from: u32, out: &mut [u8]) -> Result<()> {
        let skip = u64::from(p.skip) + u64::from(from - p.start);
        let range = skip..skip + out.len() as u64;
        self.at_extent(p.extent, &p.location, &mut |at| self.log.read(at, range.clone(), out))
    }

    fn read_piece_at_once(&self, p: &Piece, from: u32, out: &mut [u8]) -> Result<bool> {
        let skip = u64::from(p.skip) + u64::from(from - p.start);
        let range = skip..skip + out.len() as u64;
        self.at_extent(p.extent, &p.location, &mut |at| self.log.read_at_once(at, range.clone(), out))
    }

    /// Reads an extent where it lies: where a row says that it lay, or where the cleaner put it since.
    pub(super) fn at_extent<T>(
        &self,
        extent: Lsn,
        at: &Location,
        read: &mut dyn FnMut(&crate::segment::Location) -> Result<T>,
    ) -> Result<T> {
        #[cfg(test)]
        super::again::held::happens();
        let mut at = *at;
        loop {
            let e = match read(&crate::segment::Location::of_extent(&at)) {
                Err(e) => e,
                done => return done,
            };
            // It may have been moved again since we looked.
            match self.moved_to(extent)? {
                Some(to) if to != at => at = to,
                _ => return Err(e),
            }
        }
    }
}

impl<'a> View<'a> {
    /// The LSN that it shows; none: the present.
    #[must_use]
    pub fn lsn(&self) -> Option<Lsn> {
        self.at
    }

    pub(super) fn store(&self) -> &'a Store {
        self.store
    }

    pub(super) fn index(&self) -> &'a dyn Index {
        &*self.store.index
    }

    fn object(&self, ino: Ino) -> Result<ObjectRow> {
        let found = self.store.object_row(ino, self.at)?;
        Ok(found.filter(|r| r.attributes.kind != ObjectKind::Unknown).ok_or(FsError::NotFound)?)
    }

    /// The version that an object showed at the view's LSN.
    fn shown(&self, ino: Ino, at: Lsn) -> Result<Option<(Lsn, VersionRow)>> {
        let index = self.index();
        let mut committed: Option<(Lsn, VersionRow)> = None;
        let mut end = key::version(ino, at.next());
        'search: loop {
            let page = index.scan_back(&key::version(ino, Lsn::new(0)), &end, 16)?;
            let Some((last, _)) = page.last() else { break };
            end = last.to_vec();
            for (k, bytes) in &page {
                let v: VersionRow = row(k, bytes)?;
                if v.shown {
                    committed = Some((Lsn::new(key::last_number(k).unwrap_or(0)), v));
                    break 'search;
                }
            }
        }
        let switched = index.last(&key::shown(ino, Lsn::new(0)), &key::shown(ino, at.next()))?;
        if let Some((k, bytes)) = switched {
            let when = Lsn::new(key::last_number(&k).unwrap_or(0));
            if committed.as_ref().is_none_or(|(c, _)| *c < when) {
                let which: Lsn = row(&k, &bytes)?;
                let vk = key::version(ino, which);
                if let Some(bytes) = index.get(&vk)? {
                    return Ok(Some((which, row(&vk, &bytes)?)));
                }
            }
        }
        Ok(committed)
    }

    /// LSN of the version that an object showed at the view's LSN; of the present, its newest that shows.
    pub(super) fn shown_at(&self, ino: Ino) -> Result<Option<Lsn>> {
        Ok(self.shown(ino, self.at.unwrap_or(Lsn::MAX))?.map(|(at, _)| at))
    }

    /// Did an object show a version at this LSN that was removed since, and is there no older one?
    fn is_gone(&self, ino: Ino, at: Lsn) -> Result<bool> {
        let now = self.store.object_row(ino, None)?;
        Ok(now.and_then(|o| o.content.gap).is_some_and(|gap| gap <= at) && self.shown(ino, at)?.is_none())
    }

    /// Is what an object shows at the view's LSN the version that it had then? False where that one was removed, and an
    /// older one stands for it.
    ///
    /// # Errors
    /// [`FsError::NotFound`], or what reading the index says.
    pub fn is_exact(&self, ino: Ino) -> Result<bool> {
        let Some(at) = self.at else { return Ok(true) };
        match self.shown(ino, at)? {
            Some((_, v)) => Ok(v.gap.is_none_or(|gap| gap > at)),
            None => Ok(!self.is_gone(ino, at)?),
        }
    }

    /// The LSN of the version that an object shows; of the present, that on which its draft rests. None: it has none.
    ///
    /// # Errors
    /// What reading the index says.
    pub fn shown_version(&self, ino: Ino) -> Result<Option<Lsn>> {
        match self.at {
            None => Ok(self.object(ino)?.content.head),
            Some(at) => Ok(self.shown(ino, at)?.map(|(lsn, _)| lsn)),
        }
    }

    /// Attributes of an object. Of a file in the past, those of the version that it showed.
    ///
    /// # Errors
    /// [`FsError::NotFound`], or what reading the index says.
    pub fn attributes(&self, ino: Ino) -> Result<Attributes> {
        let mut found = self.object(ino)?;
        if let (Some(at), ObjectKind::File | ObjectKind::Symlink) = (self.at, found.attributes.kind)
            && self.is_gone(ino, at)?
        {
            return Err(FsError::NotFound.into());
        }
        if let (Some(at), ObjectKind::File) = (self.at, found.attributes.kind) {
            found.content = match self.shown(ino, at)? {
                None => Content::default(),
                Some((_, v)) => Content {
                    size: v.size,
                    allocated: v.allocated,
                    modified: Time::from_ns(v.changed),
                    modified_stamp: v.written(),
                    ..Content::default()
                },
            };
        }
        Ok(self.store.attributes_of(ino, &found))
    }

    /// What a name in a directory shows.
    ///
    /// # Errors
    /// [`FsError::NotFound`], [`FsError::NotADirectory`], or what reading the index says.
    pub fn lookup(&self, dir: Ino, name: &[u8]) -> Result<Attributes> {
        let entry = self.lookup_entry(dir, name)?;
        self.attributes(entry)
    }

    fn lookup_entry(&self, dir: Ino, name: &[u8]) -> Result<Ino> {
        if name.len() > crate::base::limits::NAME_BYTES {
            return Err(FsError::NameTooLong.into());
        }
        let k = key::link(dir, name);
        let bytes = match self.at {
            None => self.index().get(&k)?.map(|v| v.to_vec()),
            Some(at) => row_at(self.index(), &k, at)?,
        };
        let Some(bytes) = bytes else {
            return match self.object(dir)?.attributes.kind {
                ObjectKind::Directory => Err(FsError::NotFound.into()),
                _ => Err(FsError::NotADirectory.into()),
            };
        };
        let found: LinkRow = row(&k, &bytes)?;
        Ok(found.entries.first().ok_or(FsError::NotFound)?.child)
    }

    /// Everything that stands at a name: first what shows, then what lost against it in a conflict.
    ///
    /// # Errors
    /// As of [`lookup`](Self::lookup).
    pub fn contenders(&self, dir: Ino, name: &[u8]) -> Result<Vec<Entry>> {
        let k = key::link(dir, name);
        let bytes = match self.at {
            None => self.index().get(&k)?.map(|v| v.to_vec()),
            Some(at) => row_at(self.index(), &k, at)?,
        };
        let found: Option<LinkRow> = bytes.map(|b| row(&k, &b)).transpose()?;
        let entries = found.map(|f| f.entries).unwrap_or_default();
        Ok(entries.into_iter().map(|e| Entry { name: name.to_vec(), ino: e.child, kind: e.kind }).collect())
    }

    /// The directory that holds a directory; of the root, the root.
    ///
    /// # Errors
    /// As of [`attributes`](Self::attributes).
    pub fn parent(&self, dir: Ino) -> Result<Ino> {
        let found = self.object(dir)?;
        Ok(found.attributes.link.and_then(|l| l.placed).unwrap_or(Ino::FIRST))
    }

    /// Entries of a directory in the order of their names, from behind `after` on, at most `limit`.
    ///
    /// # Errors
    /// [`FsError::NotFound`], [`FsError::NotADirectory`], or what reading the index says.
    pub fn entries(&self, dir: Ino, after: Option<&[u8]>, limit: usize) -> Result<Vec<Entry>> {
        if self.object(dir)?.attributes.kind != ObjectKind::Directory {
            return Err(FsError::NotADirectory.into());
        }
        let end = after_prefix(&key::link(dir, b""));
        let mut start = key::link(dir, after.unwrap_or_default());
        if after.is_some() {
            start.push(0);
        }
        match self.at {
            None => {
                let rows = self.index().scan(&start, &end, limit)?;
                rows.iter().map(|(k, bytes)| entry(k, bytes)).collect()
            }
            Some(at) => self.entries_at(at, &start, &end, after.is_some(), limit),
        }
    }

    /// Entries of the past: rows of now that held then, and rows of the history.
    /// With `behind`, `start` is a name's key and a NUL, which is how the keys of its own history begin.
    fn entries_at(
        &self,
        at: Lsn,
        start: &[u8],
        end: &[u8],
        behind: bool,
        limit: usize,
    ) -> Result<Vec<Entry>> {
        let mut found = std::collections::BTreeMap::new();
        let mut failed = None;
        let entry = |k: &[u8], bytes: &[u8]| -> Result<Option<Entry>> {
            let e = entry(k, bytes)?;
            let absent = e.kind != ObjectKind::Directory && self.is_gone(e.ino, at)?;
            Ok((!absent).then_some(e))
        };
        self.index().walk(start, end, Order::Forward, &mut |k, bytes| {
            match since(k, bytes).and_then(|from| if from <= at { entry(k, bytes) } else { Ok(None) }) {
                Ok(Some(e)) => {
                    found.insert(e.name.clone(), e);
                }
                Ok(None) => {}
                Err(e) => failed = Some(e),
            }
            failed.is_none() && found.len() < limit
        })?;
        let history = |k: &[u8]| {
            let mut h = vec![crate::format::rows::kind::HISTORY];
            h.extend_from_slice(k);
            h
        };
        let first = if behind { after_prefix(&history(start)) } else { history(start) };
        let mut older = 0;
        self.index().walk(&first, &history(end), Order::Forward, &mut |k, bytes| {
            let k = k.get(1..k.len().saturating_sub(9)).unwrap_or_default();
            let since_then = row::<Superseded>(k, bytes).and_then(|old| {
                let held = old.until > at && since(k, &old.row)? <= at;
                if held { entry(k, &old.row) } else { Ok(None) }
            });
            match since_then {
                Ok(Some(e)) => {
                    older += 1;
                    found.insert(e.name.clone(), e);
                }
                Ok(None) => {}
                Err(e) => failed = Some(e),
            }
            failed.is_none() && older < limit
        })?;
        match failed {
            Some(e) => Err(e),
            None => Ok(found.into_values().take(limit).collect()),
        }
    }

    /// Reads bytes of a file; fewer than asked for only at its end. Holes read as zeros.
    ///
    /// # Errors
    /// [`Error::Damaged`] where the bytes are not what was written, [`FsError`] for what is no file.
    pub fn read(&self, ino: Ino, offset: u64, out: &mut [u8]) -> Result<usize> {
        let mut fetch = |p: &Piece, from: u32, part: &mut [u8]| self.store.read_piece(p, from, part);
        self.read_with(ino, offset, out, &mut fetch)
    }

    fn read_with(&self, ino: Ino, offset: u64, out: &mut [u8], fetch: FetchPiece<'_>) -> Result<usize> {
        loop {
            let (content, read) = look_again(&mut || {
                let content = self.content(ino)?;
                let read = match &content {
                    Some((view, size)) => view.read(self.index(), *size, offset, out, fetch)?,
                    None => 0,
                };
                Ok((content, read))
            })?;
            // Of a version that was removed meanwhile, some of the rows may have been there and others not.
            if self.at.is_none() || self.content(ino)? == content {
                return Ok(read);
            }
        }
    }

    /// As [`read`](Self::read), if that takes no waiting for the content to come from the disk (rows of the index may). `None`:
    /// it might, and the buffer holds anything.
    ///
    /// # Errors
    /// As of [`read`](Self::read).
    pub fn read_at_once(&self, ino: Ino, offset: u64, out: &mut [u8]) -> Result<Option<usize>> {
        let mut waits = false;
        let mut fetch = |p: &Piece, from: u32, part: &mut [u8]| {
            waits = !self.store.read_piece_at_once(p, from, part)?;
            // Any error but damage ends it.
            if waits { Err(FsError::Busy.into()) } else { Ok(()) }
        };
        let read = self.read_with(ino, offset, out, &mut fetch);
        if waits { Ok(None) } else { read.map(Some) }
    }

    fn content(&self, ino: Ino) -> Result<Option<(BranchView, u64)>> {
        let found = self.object(ino)?;
        match found.attributes.kind {
            ObjectKind::File => {}
            ObjectKind::Directory => return Err(FsError::IsADirectory.into()),
            _ => return Err(FsError::Invalid.into()),
        }
        Ok(match self.at {
            None => Some((BranchView::present(ino, &found.content), found.content.size)),
            Some(at) if self.is_gone(ino, at)? => return Err(FsError::NotFound.into()),
            Some(at) => self.shown(ino, at)?.map(|(lsn, v)| {
                (BranchView { ino, branch: v.branch, at: lsn, cuts: v.cuts, rests: true }, v.size)
            }),
        })
    }

    /// The stretches of a file that are not holes, from `offset` on, at most `limit`.
    ///
    /// # Errors
    /// As of [`read`](Self::read).
    pub fn extents(&self, ino: Ino, offset: u64, limit: usize) -> Result<Vec<Extent>> {
        let Some((view, size)) = self.content(ino)? else { return Ok(Vec::new()) };
        let mut found = Vec::new();
        if offset >= size {
            return Ok(found);
        }
        view.each_chunk(self.index(), offset / CHUNK_BYTES, (size - 1) / CHUNK_BYTES, &mut |chunk| {
            for p in view.chunk(self.index(), chunk)? {
                let start = chunk * CHUNK_BYTES + u64::from(p.start);
                let (from, to) = (start.max(offset), (start + u64::from(p.len)).min(size));
                if from < to {
                    let skip = p.skip + (from - start) as u32;
                    found.push(Extent {
                        offset: from,
                        len: to - from,
                        record: p.extent,
                        location: p.location,
                        skip,
                    });
                }
                if found.len() >= limit {
                    return Ok(false);
                }
            }
            Ok(true)
        })?;
        Ok(found)
    }

    /// The first byte from `offset` on that is data (or, if not `data`, a hole), as lseek(2) with `SEEK_DATA` and
    /// `SEEK_HOLE`.
    ///
    /// # Errors
    /// [`FsError::NoSuchOffset`] if there is none, and those of [`read`](Self::read).
    pub fn seek(&self, ino: Ino, offset: u64, data: bool) -> Result<u64> {
        let size = self.attributes(ino)?.size;
        if offset >= size {
            return Err(FsError::NoSuchOffset.into());
        }
        let mut at = offset;
        loop {
            let page = self.extents(ino, at, 64)?;
            for e in &page {
                if data {
                    return Ok(e.offset);
                }
                if e.offset > at {
                    return Ok(at);
                }
                at = e.offset + e.len;
            }
            if page.len() < 64 {
                break;
            }
        }
        if data { Err(FsError::NoSuchOffset.into()) } else { Ok(at.min(size)) }
    }

    /// Target of a symlink.
    ///
    /// # Errors
    /// [`FsError::Invalid`] for anything else, [`FsError::NotFound`].
    pub fn read_link(&self, ino: Ino) -> Result<Vec<u8>> {
        let found = self.object(ino)?;
        if found.attributes.kind == ObjectKind::Symlink {
            Ok(found.attributes.target)
        } else {
            Err(FsError::Invalid.into())
        }
    }

    /// An extended attribute's value.
    ///
    /// # Errors
    /// [`FsError::NoAttribute`], [`FsError::NotFound`].
    pub fn xattr(&self, ino: Ino, name: &[u8]) -> Result<Vec<u8>> {
        let k = key::xattr(ino, name);
        if self.at.is_none() && self.object(ino)?.attributes.xattrs == 0 {
            return Err(FsError::NoAttribute.into());
        }
        let bytes = match self.at {
            None => self.index().get(&k)?.map(|v| v.to_vec()),
            Some(at) => row_at(self.index(), &k, at)?,
        };
        let found: Option<XattrRow> = bytes.map(|b| row(&k, &b)).transpose()?;
        found.and_then(|x| x.value).ok_or_else(|| FsError::NoAttribute.into())
    }

    /// Names of the extended attributes that are set, in order.
    ///
    /// # Errors
    /// [`FsError::NotFound`], or what reading the index says.
    pub fn xattrs(&self, ino: Ino) -> Result<Vec<Vec<u8>>> {
        if self.at.is_none() && self.object(ino)?.attributes.xattrs == 0 {
            return Ok(Vec::new());
        }
        let prefix = key::xattr(ino, b"");
        let mut names: Vec<Vec<u8>> = Vec::new();
        for (k, _) in self.index().scan(&prefix, &after_prefix(&prefix), usize::MAX)? {
            names.push(key::name_of(&k).to_vec());
        }
        // A removed attribute keeps its row, so every name that ever was is among these.
        let mut set = Vec::new();
        for name in names {
            match self.xattr(ino, &name) {
                Ok(_) => set.push(name),
                Err(Error::Fs(FsError::NoAttribute)) => {}
                Err(e) => return Err(e),
            }
        }
        Ok(set)
    }

    /// Versions of an object, in the order in which they came here, from behind `after` on, at most `limit`.
    ///
    /// # Errors
    /// What reading the index says.
    pub fn versions(&self, ino: Ino, after: Option<Lsn>, limit: usize) -> Result<Vec<VersionInfo>> {
        let start = key::version(ino, after.map_or(Lsn::new(0), Lsn::next));
        let end = key::version(ino, self.at.map_or(Lsn::MAX, Lsn::next));
        let rows = self.index().scan(&start, &end, limit)?;
        rows.iter().map(|(k, bytes)| self.store.version_info(k, bytes)).collect()
    }

    /// Heads of an object: versions that no other one includes. More than one: a conflict.
    ///
    /// # Errors
    /// [`FsError::NotFound`], or what reading the index says.
    pub fn heads(&self, ino: Ino) -> Result<Vec<Lsn>> {
        Ok(self.object(ino)?.content.heads)
    }
}

fn entry(k: &[u8], bytes: &[u8]) -> Result<Entry> {
    let found: LinkRow = row(k, bytes)?;
    let first = found.entries.first().ok_or_else(|| Damage::file("index", 0, "a name without links"))?;
    Ok(Entry { name: key::name_of(k).to_vec(), ino: first.child, kind: first.kind })
}
