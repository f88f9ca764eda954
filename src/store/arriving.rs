//! What comes from a peer piece by piece: extents before the facts that name them, and whether a version will be what it should be.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
};

use crate::{
    base::{Error, FsError, Incarnation, Result, VersionId, limits, limits::CHUNK_BYTES},
    format::{
        Malformed, Origin, Prepared, compress,
        facts::{Changes, ExtentId, Fact, Range, Source},
        hash::{self, Hash, LEAF_BYTES},
        hash_tree::{self, Group},
        rows::{ExtentRow, Piece, VersionRow, key},
        wire::ExtentHead,
    },
};

use super::{
    Store,
    again::look_again,
    content::{BranchView, fill},
    exchange::Parcel,
    lacking::extents_in,
    pieces::{chunks_of, splice},
    txn::row,
};

impl Store {
    /// This opening of it.
    #[must_use]
    pub fn incarnation(&self) -> Incarnation {
        self.log.incarnation()
    }

    /// The extents that a parcel names and that are not in this log. Those that are stay, until [`arrived`](Self::arrived).
    ///
    /// # Errors
    /// What reading the index says.
    pub fn lacking_extents(&self, parcel: &Parcel) -> Result<Vec<ExtentId>> {
        let (mut lacking, mut here) = (Vec::new(), Vec::new());
        for id in extents_in(&parcel.contents) {
            let k = key::extent(id);
            match self.index.get(&k)? {
                Some(bytes) => here.push(row::<ExtentRow>(&k, &bytes)?.extent),
                None => lacking.push(*id),
            }
        }
        if !here.is_empty() {
            self.expected.add(parcel.origin, here, self.clock.monotonic_ns());
        }
        Ok(lacking)
    }

    /// A batch is here, or does not come: extents that came for it are not waited for any more.
    pub fn arrived(&self, batch: &Origin) {
        self.expected.done(batch);
    }

    /// Puts an extent of a peer into this log before the facts that name it come: so what a connection has brought is not
    /// asked for again by the next one. It is of this batch: if that gets no further for long, the cleaner may take it.
    ///
    /// # Errors
    /// [`Error::BadRequest`] if the bytes are not what is said of them; and those of the log.
    pub fn keep_extent(&self, of: Origin, id: &ExtentId, stored: Vec<u8>, said: &ExtentHead) -> Result<()> {
        let bad = |what: &str| Error::BadRequest(format!("{id:?}: {what}"));
        let payload =
            Prepared::stored_extent(said.codec, stored, said.raw_len, said.raw_crc).map_err(|e| bad(e.0))?;
        let raw = raw_bytes(&payload).map_err(|e| bad(e.0))?;
        if hash::of_extent(&raw) != said.hash {
            return Err(bad("the bytes are not those of the hash"));
        }
        let (extent, new) = self.bring_extent(id, &payload)?;
        self.expected.add(of, [extent], self.clock.monotonic_ns());
        if new {
            // Of one that was here already, these may not be the bytes.
            let leaves = raw.chunks_exact(LEAF_BYTES as usize).map(hash::leaf);
            self.expected.add_leaves(of, *id, leaves.collect());
        }
        Ok(())
    }

    /// An extent that a parcel of this store names, as it lies in the log, and the BLAKE3 of its raw bytes.
    ///
    /// # Errors
    /// As of [`extent_bytes`](Self::extent_bytes).
    pub fn extent_as_stored(&self, parcel: &Parcel, id: &ExtentId) -> Result<(Prepared, Hash)> {
        let payload = self.read_source(&parcel.sources, id, &mut |at| self.log.read_stored(at))?;
        let hash = raw_hash(&payload).map_err(|e| Error::BadRequest(e.0.into()))?;
        Ok((payload, hash))
    }

    /// The content hash of a version that is here, computed if nobody has; none where it waits for another, or was removed.
    ///
    /// # Errors
    /// [`Error::Damaged`] if its bytes can't be read.
    pub fn hash_of_version(&self, id: VersionId) -> Result<Option<Hash>> {
        let Some((ino, at)) = self.find_version(id)? else { return Ok(None) };
        let k = key::version(ino, at);
        let v: Option<VersionRow> = self.index.get(&k)?.map(|b| row(&k, &b)).transpose()?;
        let Some(v) = v else { return Ok(None) };
        if v.hash.is_some() {
            return Ok(v.hash);
        }
        // Of what changed alone, where the rest is known, and noted for others: unless that has been tried, or there is no room for it.
        if self.index.get(&key::unhashed(ino, at))?.is_some() && !self.log.status().short {
            match self.hash_version(ino, at, &v) {
                Err(Error::NoSpace { .. } | Error::Fs(FsError::NotFound)) => {}
                done => _ = done?,
            }
        }
        let v: Option<VersionRow> = self.index.get(&k)?.map(|b| row(&k, &b)).transpose()?;
        match v {
            None => Ok(None),
            Some(v) if v.hash.is_some() => Ok(v.hash),
            // It can't be read: that is said.
            Some(_) => match self.content_hash(ino, at) {
                // Removed between two looks.
                Err(Error::Fs(FsError::NotFound)) => Ok(None),
                hash => hash.map(Some),
            },
        }
    }

    /// Is a parcel stamped further ahead of this store's clock than it is taken?
    #[must_use]
    pub fn is_ahead(&self, parcel: &Parcel) -> bool {
        parcel.stamp > self.clock.wall_ns().saturating_add(limits::AHEAD_NS)
    }

    /// The content hash that a version in a parcel will have, all of whose extents are here; none where that can't be told yet,
    /// as its base is not here.
    ///
    /// # Errors
    /// [`Error::BadRequest`] if the parcel does not fit together, [`FsError::Stale`] if an extent is not here, [`Error::Damaged`].
    pub fn hash_of_arriving(&self, parcel: &Parcel, id: VersionId) -> Result<Option<Hash>> {
        let bad = |what: &str| Error::BadRequest(format!("facts {:?}: {what}", parcel.origin));
        let facts: Vec<Fact> = crate::format::code::decode(&parcel.facts).map_err(|e| bad(e.0))?;
        let version = facts.iter().find_map(|f| match f {
            Fact::Version(v) if v.id == id => Some(v),
            _ => None,
        });
        let changes = parcel.contents.iter().find(|c| c.version == id);
        let (Some(version), Some(changes)) = (version, changes) else {
            return Err(bad("a content without its version"));
        };
        if version.size > limits::FILE_BYTES {
            return Err(bad("a version that can't be"));
        }
        let symlink = match self.known_ino(version.object)? {
            Some(ino) => self.object_row(ino, None)?.map(|o| o.attributes),
            None => None,
        };
        if let Some(here) = symlink.filter(|a| a.kind == crate::format::facts::ObjectKind::Symlink) {
            return Ok(Some(super::hashes::hash_of_bytes(&here.target)));
        }
        look_again(&mut || {
            let Some(base) = self.base_view(changes.base)? else { return Ok(None) };
            match symlink_target(&facts, changes) {
                Some(target) => Ok(Some(super::hashes::hash_of_bytes(target))),
                None => self.hash_over(parcel.origin, base.as_ref(), changes, version.size).map(Some),
            }
        })
    }

    /// What changes rest on: nothing, or a version. None if that is not here.
    fn base_view(&self, base: Option<VersionId>) -> Result<Option<Option<BranchView>>> {
        let Some(base) = base else { return Ok(Some(None)) };
        let Some((ino, at)) = self.find_version(base)? else { return Ok(None) };
        match self.version_there(ino, at) {
            Ok(v) => Ok(Some(Some(BranchView { ino, branch: v.branch, at, cuts: v.cuts, rests: true }))),
            Err(Error::Fs(FsError::NotFound)) => Ok(None),
            Err(e) => Err(e),
        }
    }

    fn hash_over(&self, of: Origin, base: Option<&BranchView>, changes: &Changes, size: u64) -> Result<Hash> {
        let over = Over::new(self, base, changes)?;
        if let Some(base) = base
            && let Some(hash) = self.hash_of_changed(base, &over, size)?
        {
            return Ok(hash);
        }
        let last = size.saturating_sub(1) / CHUNK_BYTES;
        let mut chunks: BTreeSet<u64> = over.touched.keys().copied().filter(|c| *c <= last).collect();
        if let Some(base) = base {
            base.each_chunk(&*self.index, 0, last, &mut |chunk| {
                chunks.insert(chunk);
                Ok(true)
            })?;
        }
        let per_chunk = CHUNK_BYTES / LEAF_BYTES;
        let mut data: Vec<(u64, u64)> = Vec::new();
        for chunk in chunks {
            let (first, end) = (chunk * per_chunk, (chunk + 1) * per_chunk);
            match data.last_mut() {
                Some(last) if last.1 == first => last.1 = end,
                _ => data.push((first, end)),
            }
        }
        let known = |leaf| over.known_leaf(of, leaf, size);
        hash::content_knowing(size, &data, &known, &mut |leaf, out| over.read_leaf(leaf, out))
    }

    /// The same out of the hash of the base, if that is kept in parts here: what changed is read, and nothing else.
    fn hash_of_changed(&self, base: &BranchView, over: &Over<'_>, size: u64) -> Result<Option<Hash>> {
        let Some(leaves) = over.changed_leaves() else { return Ok(None) };
        let Some(before) = self.kept_hash(base)? else { return Ok(None) };
        let mut source = ArrivingLeaves { over, base };
        Ok(hash_tree::update(Some(before), size, &leaves, &mut source)?.map(|made| made.hash))
    }
}

/// Leaves of what a version will show, and the groups of the tree that is kept of its base.
struct ArrivingLeaves<'a> {
    over: &'a Over<'a>,
    base: &'a BranchView,
}

impl hash_tree::Source for ArrivingLeaves<'_> {
    type Error = Error;

    fn read(&mut self, leaf: u64, out: &mut [u8]) -> Result<()> {
        self.over.read_leaf(leaf, out)
    }

    fn group(&mut self, height: u32, index: u64) -> Result<Option<Group>> {
        self.over.store.kept_group(self.base, height, index)
    }

    fn keep(&mut self, _: u32, _: u64, _: &Group) -> Result<()> {
        // It is not known yet on which branch it will be.
        Ok(())
    }
}

/// What a version will show: a base with changes over it that are not in any row yet.
struct Over<'a> {
    store: &'a Store,
    base: Option<&'a BranchView>,
    /// Ranges with bytes, by chunk, in the order in which they apply.
    touched: BTreeMap<u64, Vec<(usize, &'a Range)>>,
    holes: Vec<(usize, &'a Range)>,
}

impl<'a> Over<'a> {
    fn new(store: &'a Store, base: Option<&'a BranchView>, changes: &'a Changes) -> Result<Self> {
        let (mut touched, mut holes) = (BTreeMap::<u64, Vec<_>>::new(), Vec::new());
        for (n, range) in changes.ranges.iter().enumerate() {
            let end = range.offset.checked_add(range.len);
            let fits = match range.source {
                Source::Hole => end.is_some(),
                Source::Extent(..) => {
                    range.len <= limits::EXTENT_BYTES as u64 && end.is_some_and(|e| e <= limits::FILE_BYTES)
                }
            };
            if !fits || range.len == 0 {
                return Err(Error::BadRequest("a range that can't be".into()));
            }
            match range.source {
                Source::Hole => holes.push((n, range)),
                Source::Extent(..) => {
                    for (chunk, ..) in chunks_of(range.offset, range.len) {
                        touched.entry(chunk).or_default().push((n, range));
                    }
                }
            }
        }
        Ok(Self { store, base, touched, holes })
    }

    /// Reads a leaf of what the version will show.
    fn read_leaf(&self, leaf: u64, out: &mut [u8]) -> Result<()> {
        let (chunk, start) = (leaf * LEAF_BYTES / CHUNK_BYTES, (leaf * LEAF_BYTES % CHUNK_BYTES) as u32);
        look_again(&mut || {
            let store = self.store;
            fill(&self.chunk(chunk)?, start, out, &mut |p, from, part| store.read_piece(p, from, part))
        })
    }

    /// The hash of a leaf that shows a whole leaf of one extent which came for this batch.
    fn known_leaf(&self, of: Origin, leaf: u64, size: u64) -> Option<Hash> {
        let (first, end) = (leaf * LEAF_BYTES, (leaf + 1) * LEAF_BYTES);
        let meets = |r: &Range| r.offset < end && r.offset + r.len > first;
        let mut there = self.touched.get(&(first / CHUNK_BYTES))?.iter().filter(|(_, r)| meets(r));
        let (Some((_, range)), None) = (there.next(), there.next()) else { return None };
        let Source::Extent(id, skip) = range.source else { return None };
        let whole = range.offset <= first && range.offset + range.len >= end && end <= size;
        if !whole || self.holes.iter().any(|(_, r)| meets(r)) {
            return None;
        }
        let at = u64::from(skip) + (first - range.offset);
        let nth = at.is_multiple_of(LEAF_BYTES).then_some(at / LEAF_BYTES)?;
        self.store.expected.leaf(of, id, nth as usize)
    }

    /// Leaves that may differ from the base's, ascending: first and one past the last. None: so many that all may as well be read.
    fn changed_leaves(&self) -> Option<Vec<(u64, u64)>> {
        const MANY: u64 = 1 << 16;
        let ranges = self
            .touched
            .values()
            .flatten()
            .chain(&self.holes)
            .map(|(_, r)| (r.offset / LEAF_BYTES, (r.offset + r.len).div_ceil(LEAF_BYTES)));
        let mut leaves: Vec<(u64, u64)> = ranges.collect();
        leaves.sort_unstable();
        leaves.dedup_by(|next, last| {
            let meets = next.0 <= last.1;
            if meets {
                last.1 = last.1.max(next.1);
            }
            meets
        });
        let count = leaves.iter().fold(0, |sum: u64, (first, end)| sum.saturating_add(end - first));
        (count < MANY).then_some(leaves)
    }

    fn chunk(&self, chunk: u64) -> Result<Vec<Piece>> {
        let index = &*self.store.index;
        let mut pieces = self.base.map_or(Ok(Vec::new()), |b| b.chunk(index, chunk))?;
        let begin = chunk * CHUNK_BYTES;
        let mut all: Vec<(usize, &Range)> = self.touched.get(&chunk).cloned().unwrap_or_default();
        let meets = |r: &Range| r.offset < begin + CHUNK_BYTES && r.offset + r.len > begin;
        all.extend(self.holes.iter().copied().filter(|(_, r)| meets(r)));
        all.sort_unstable_by_key(|(n, _)| *n);
        for (_, range) in all {
            let from = range.offset.max(begin);
            let to = (range.offset + range.len).min(begin + CHUNK_BYTES);
            let (start, len) = ((from - begin) as u32, (to - from) as u32);
            let piece = match range.source {
                Source::Hole => None,
                Source::Extent(id, skip) => {
                    let k = key::extent(&id);
                    let bytes = index.get(&k)?.ok_or(FsError::Stale)?;
                    let e: ExtentRow = row(&k, &bytes)?;
                    if range.len > u64::from(e.location.raw_len).saturating_sub(u64::from(skip)) {
                        return Err(Error::BadRequest(format!("a range beyond the end of {id:?}")));
                    }
                    let skip = skip + (from - range.offset) as u32;
                    Some(Piece { start, len, extent: e.extent, skip, location: e.location })
                }
            };
            splice(&mut pieces, start, len, piece);
        }
        Ok(pieces)
    }
}

/// What a version of a symlink consists of, if it is one that the same facts create.
fn symlink_target<'a>(facts: &'a [Fact], changes: &Changes) -> Option<&'a [u8]> {
    facts.iter().find_map(|f| match f {
        Fact::Create(c)
            if c.object == changes.object && c.kind == crate::format::facts::ObjectKind::Symlink =>
        {
            Some(&c.target[..])
        }
        _ => None,
    })
}

/// BLAKE3 of an extent's raw bytes.
fn raw_hash(payload: &Prepared) -> std::result::Result<Hash, Malformed> {
    raw_bytes(payload).map(|raw| hash::of_extent(&raw))
}

fn raw_bytes(payload: &Prepared) -> std::result::Result<Cow<'_, [u8]>, Malformed> {
    let stored = payload.stored();
    if payload.codec() == crate::format::Codec::Raw {
        return Ok(Cow::Borrowed(stored));
    }
    let mut raw = vec![0; payload.raw_len() as usize];
    compress::decompress(stored, &mut raw)?;
    Ok(Cow::Owned(raw))
}
