//! Facts from store to store: what another lacks, and the bytes behind it. Taking them in is next door.
//!
//! There is no network here. A [`Parcel`] is one batch of facts as its maker logged it, with a description
//! of the content of each version in it; the extents that it names are asked for one by one. Parcels may
//! arrive in any order and any number of times. See `docs/FORMAT.md` section 9.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    base::{Damage, Error, FsError, Ino, Lsn, ObjectId, Result, VersionId, limits},
    format::{
        Kind, Origin, code,
        facts::{Changes, ExtentId, Fact, LocalRange, Range, Source, Version},
        rows::{ChangesRow, Piece, VersionPlace, VersionRow, after_prefix, key},
    },
};

use super::{Store, content::BranchView, knowledge::Knowledge, txn::row};

/// A batch of facts on its way to another store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parcel {
    /// Where it was made.
    pub origin: Origin,
    /// Its stamp, ns since 1970.
    pub stamp: u64,
    /// The first object that it concerns.
    pub object: ObjectId,
    /// The facts, byte for byte as their maker logged them.
    pub facts: Vec<u8>,
    /// For each version among them, its content.
    pub contents: Vec<Changes>,
    /// The records of the extents that it names, and where they lay in the sender's log; not for the receiver.
    pub sources: BTreeMap<ExtentId, (Lsn, crate::format::Location)>,
}

/// A range that differs: offset, length, and what it shows (a piece, and the offset in its extent).
type Difference = (u64, u64, Option<(Piece, u32)>);

impl Store {
    /// Facts batches in the durable log from this LSN on that are not known there: at most `limit`, and the LSN
    /// from which to go on.
    ///
    /// # Errors
    /// What reading log and index says.
    pub fn parcels(&self, known: &Knowledge, from: Lsn, limit: usize) -> Result<(Vec<Parcel>, Lsn)> {
        let mut found = Vec::new();
        let mut next = from;
        let mut heads = self.log.heads_from(from);
        while found.len() < limit
            && let Some(frame) = heads.try_next()?
        {
            next = frame.envelope.lsn.next();
            let Some(head) = frame.head else { continue };
            if frame.envelope.kind != Kind::Operation || head.origin.seq == 0 || known.has(&head.origin) {
                continue;
            }
            let record = match heads.read() {
                Ok(Some(record)) => record,
                Ok(None) => continue,
                Err(Error::Damaged(d)) => {
                    tracing::error!("facts {:?} can't be sent: {d}", head.origin);
                    continue;
                }
                Err(e) => return Err(e),
            };
            let facts: Vec<Fact> = code::decode(&record.payload).map_err(|e| {
                Damage::segment(record.location.segment, record.location.offset, Some(record.lsn), e.0)
            })?;
            let mut parcel = Parcel {
                origin: head.origin,
                stamp: head.stamp,
                object: head.object,
                facts: record.payload,
                contents: Vec::new(),
                sources: BTreeMap::new(),
            };
            for fact in &facts {
                if let Fact::Version(version) = fact {
                    self.describe(version, &mut parcel)?;
                }
            }
            found.push(parcel);
        }
        Ok((found, next))
    }

    /// The raw bytes of an extent that a parcel of this store names.
    ///
    /// # Errors
    /// [`FsError::NotFound`] if the parcel does not name it, [`Error::Damaged`].
    pub fn extent_bytes(&self, parcel: &Parcel, id: &ExtentId) -> Result<Vec<u8>> {
        let (extent, at) = parcel.sources.get(id).ok_or(FsError::NotFound)?;
        Ok(self.at_extent(*extent, at, &mut |at| self.log.read_record(at))?.payload)
    }

    /// Adds to a parcel what the content of one of its versions is.
    fn describe(&self, version: &Version, parcel: &mut Parcel) -> Result<()> {
        let k = key::version_id(version.id);
        let (base, pieces) = match self.index.get(&k)? {
            Some(bytes) => self.differences(&row(&k, &bytes)?)?,
            None => self.noted_changes(version)?,
        };
        let mut ranges = Vec::with_capacity(pieces.len());
        for (offset, len, source) in pieces {
            let source = match source {
                None => Source::Hole,
                Some((piece, skip)) => {
                    let id = self.extent_id(&piece)?;
                    parcel.sources.insert(id, (piece.extent, piece.location));
                    Source::Extent(id, skip)
                }
            };
            ranges.push(Range { offset, len, source });
        }
        parcel.contents.push(Changes { object: version.object, version: version.id, base, ranges });
        Ok(())
    }

    fn extent_id(&self, piece: &Piece) -> Result<ExtentId> {
        let head = self.at_extent(piece.extent, &piece.location, &mut |at| self.log.read_head(at))?;
        let Some(head) = head else {
            let at = piece.location;
            return Err(Damage::segment(at.segment, at.offset, Some(piece.extent), "not an extent").into());
        };
        let o = head.origin;
        Ok(ExtentId { store: o.store, incarnation: o.incarnation, sequence: o.seq })
    }

    /// How a version differs from its first parent, if that is a version of the same object here.
    fn differences(&self, place: &VersionPlace) -> Result<(Option<VersionId>, Vec<Difference>)> {
        let v: VersionRow = self.version_row(place)?;
        let view = BranchView::of_version(&*self.index, place.ino, place.at)?;
        let mut base = None;
        if let Some(parent) = v.parents.first() {
            let k = key::version_id(*parent);
            if let Some(bytes) = self.index.get(&k)? {
                let at: VersionPlace = row(&k, &bytes)?;
                if at.ino == place.ino {
                    base = Some((*parent, at));
                }
            }
        }
        let mut out = Vec::new();
        let last = v.size.saturating_sub(1) / limits::CHUNK_BYTES;
        let Some((base_id, base_at)) = base else {
            for chunk in view.chunks(&*self.index, 0, last)? {
                differ(chunk, &[], &view.chunk(&*self.index, chunk)?, &mut out);
            }
            return Ok((None, out));
        };
        let old = self.version_row(&base_at)?;
        let old_view = BranchView::of_version(&*self.index, place.ino, base_at.at)?;
        for cut in v.cuts.iter().filter(|c| c.at > base_at.at && c.size < old.size) {
            out.push((cut.size, old.size - cut.size, None));
        }
        let dirty = |at| key::dirty(place.ino, v.branch, at, 0);
        let mut chunks = BTreeSet::new();
        for (k, _) in self.index.scan(&dirty(base_at.at.next()), &dirty(place.at.next()), usize::MAX)? {
            chunks.extend(key::last_number(&k));
        }
        for chunk in chunks {
            let cut = v.cuts.iter().any(|c| c.at > base_at.at && c.size <= chunk * limits::CHUNK_BYTES);
            let before = if cut { Vec::new() } else { old_view.chunk(&*self.index, chunk)? };
            differ(chunk, &before, &view.chunk(&*self.index, chunk)?, &mut out);
        }
        Ok((Some(base_id), out))
    }

    fn version_row(&self, place: &VersionPlace) -> Result<VersionRow> {
        let k = key::version(place.ino, place.at);
        let bytes = self.index.get(&k)?;
        let bytes = bytes.ok_or_else(|| Damage::file("index", 0, "a version's row is missing"))?;
        row(&k, &bytes)
    }

    /// Changes of a version that itself waits here for another.
    fn noted_changes(&self, version: &Version) -> Result<(Option<VersionId>, Vec<Difference>)> {
        let ino = self.known_ino(version.object)?.ok_or(FsError::NotFound)?;
        let first = key::changes(ino, version.id, 0);
        let prefix = &first[..first.len() - 4];
        let mut base = None;
        let mut out = Vec::new();
        for (k, bytes) in self.index.scan(prefix, &after_prefix(prefix), usize::MAX)? {
            let part: ChangesRow = row(&k, &bytes)?;
            base = part.base;
            for LocalRange { offset, len, source } in part.ranges {
                let source = source.map(|(extent, location, skip)| {
                    (Piece { start: 0, len: len as u32, extent, skip, location }, skip)
                });
                out.push((offset, len, source));
            }
        }
        if base.is_none() && out.is_empty() {
            // It waited, and was applied between two looks: it is a version like any other by now.
            let k = key::version_id(version.id);
            let bytes = self.index.get(&k)?.ok_or(FsError::NotFound)?;
            return self.differences(&row(&k, &bytes)?);
        }
        Ok((base, out))
    }

    /// The inode number of an object, if it has one here.
    pub(super) fn known_ino(&self, object: ObjectId) -> Result<Option<Ino>> {
        let k = key::object_id(object);
        if let Some(bytes) = self.index.get(&k)? {
            return Ok(Some(row(&k, &bytes)?));
        }
        let ino = if object == ObjectId::ROOT { Ino::FIRST } else { object.parts().1 };
        Ok(self.object_row(ino, None)?.filter(|r| r.object == object).map(|_| ino))
    }
}

/// Where the pieces of a chunk differ from what they were.
fn differ(chunk: u64, before: &[Piece], after: &[Piece], out: &mut Vec<Difference>) {
    let mut edges: Vec<u32> = before.iter().chain(after).flat_map(|p| [p.start, p.start + p.len]).collect();
    edges.sort_unstable();
    edges.dedup();
    let at = |pieces: &[Piece], from: u32| {
        pieces
            .iter()
            .find(|p| p.start <= from && from < p.start + p.len)
            .map(|p| (*p, p.skip + (from - p.start)))
    };
    for edge in edges.windows(2) {
        let (from, to) = (edge[0], edge[1]);
        let (old, new) = (at(before, from), at(after, from));
        let same = match (&old, &new) {
            (None, None) => true,
            (Some((o, os)), Some((n, ns))) => o.extent == n.extent && os == ns,
            _ => false,
        };
        if same {
            continue;
        }
        let (offset, len) = (chunk * limits::CHUNK_BYTES + u64::from(from), u64::from(to - from));
        if let Some((last_offset, last_len, last)) = out.last_mut()
            && *last_offset + *last_len == offset
            && continues(last.as_ref(), *last_len, new.as_ref())
        {
            *last_len += len;
            continue;
        }
        out.push((offset, len, new));
    }
}

fn continues(last: Option<&(Piece, u32)>, last_len: u64, new: Option<&(Piece, u32)>) -> bool {
    match (last, new) {
        (None, None) => true,
        (Some((l, ls)), Some((n, ns))) => l.extent == n.extent && u64::from(*ls) + last_len == u64::from(*ns),
        _ => false,
    }
}
