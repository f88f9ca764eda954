//! Facts from store to store: what another lacks, and the bytes behind it. Taking them in is next door.
//!
//! There is no network here. A [`Parcel`] is one batch of facts as its maker logged it, with a description
//! of the content of each version in it; the extents that it names are asked for one by one. Parcels may
//! arrive in any order and any number of times. See `docs/FORMAT.md` section 9.

use std::collections::BTreeMap;

use crate::{
    base::{
        Damage, Error, FsError, Ino, Lsn, ObjectId, Result, StoreId, VersionId, limits,
        planted::{Bug, planted},
    },
    format::{
        Kind, Origin, code,
        facts::{Changes, ExtentId, Fact, LocalRange, Range, Source, Version},
        rows::{ChangesRow, Piece, VersionPlace, VersionRow, after_prefix, key},
    },
};

use super::{
    Store,
    again::look_again,
    differences::{Difference, Onward},
    knowledge::Knowledge,
    txn::row,
};

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
    /// For each version among them, its content; not of those which the sender does not have (any more), and not of those of
    /// which that would be more than [`limits::CHANGES_PER_RECORD`] ranges.
    pub contents: Vec<Changes>,
    /// The records of the extents that it names, and where they lay in the sender's log; not for the receiver.
    pub sources: Sources,
}

/// Extents that a store named, and where they lay in its log.
pub type Sources = BTreeMap<ExtentId, (Lsn, crate::format::Location)>;

/// A version that another store knows of and whose content it lacks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Supply {
    /// Its fact. The hash may be one that was computed since.
    pub version: Version,
    /// The stamp of its record, ns since 1970.
    pub stamp: u64,
    /// The store that made it.
    pub maker: StoreId,
    /// The version by which the ranges describe it; none: an empty file.
    pub base: Option<VersionId>,
    /// Some of what differs, to be applied in this order.
    pub ranges: Vec<Range>,
    /// Where it goes on; none: this is the end.
    pub next: Option<Onward>,
    /// As of [`Parcel`].
    pub sources: Sources,
}

/// A base, and how a version differs from it.
type Described = (Option<VersionId>, Vec<Difference>);

impl Store {
    /// Facts batches in the durable log from this LSN on that are not known there: at most `limit`, and the LSN
    /// from which to go on.
    ///
    /// # Errors
    /// What reading log and index says.
    pub fn parcels(&self, known: &Knowledge, from: Lsn, limit: usize) -> Result<(Vec<Parcel>, Lsn)> {
        // A record can be durable before it is applied. The index would know nothing yet of the content of its versions.
        let last = {
            let _all_applied = (!planted(Bug::ToldBeforeApplied)).then(|| self.apply.lock());
            self.log.last_lsn()
        };
        let mut found = Vec::new();
        let mut next = from;
        let mut heads = self.log.heads_from(from);
        while found.len() < limit
            && let Some(frame) = heads.try_next()?
            && frame.envelope.lsn <= last
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
            if facts.iter().any(|f| matches!(f, Fact::Adopted(_))) {
                continue; // Not to be had without the index.
            }
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
                    self.describe(version, &mut parcel.contents, &mut parcel.sources)?;
                }
            }
            found.push(parcel);
        }
        Ok((found, next))
    }

    /// The stamp of the first facts batch in the durable log from this LSN on that is not known there. Of its content nothing is read.
    ///
    /// # Errors
    /// What reading the log says.
    pub fn oldest_unknown(&self, known: &Knowledge, from: Lsn) -> Result<Option<u64>> {
        let mut heads = self.log.heads_from(from);
        while let Some(frame) = heads.try_next()? {
            if let Some(head) = frame.head
                && frame.envelope.kind == Kind::Operation
                && head.origin.seq != 0
                && !known.has(&head.origin)
            {
                return Ok(Some(head.stamp));
            }
        }
        Ok(None)
    }

    /// The raw bytes of an extent that a parcel of this store names.
    ///
    /// # Errors
    /// As of [`source_bytes`](Self::source_bytes).
    pub fn extent_bytes(&self, parcel: &Parcel, id: &ExtentId) -> Result<Vec<u8>> {
        self.source_bytes(&parcel.sources, id)
    }

    /// The raw bytes of an extent that was named with where it lay.
    ///
    /// # Errors
    /// [`FsError::NotFound`] if it was not named, or is gone since: nothing shows it any more. [`Error::Damaged`].
    pub fn source_bytes(&self, sources: &Sources, id: &ExtentId) -> Result<Vec<u8>> {
        self.read_source(sources, id, &mut |at| self.log.read_record(at)).map(|record| record.payload)
    }

    /// Reads an extent that was named with where it lay. What was named stays a promise for as long as nobody asks: rows may have come
    /// to show other extents since, and the cleaner have given this one back. Then it is gone, not damaged.
    pub(super) fn read_source<T>(
        &self,
        sources: &Sources,
        id: &ExtentId,
        read: &mut dyn FnMut(&crate::segment::Location) -> Result<T>,
    ) -> Result<T> {
        let (extent, at) = sources.get(id).ok_or(FsError::NotFound)?;
        match self.at_extent(*extent, at, read) {
            Err(e @ Error::Damaged(_)) => match self.locate(*extent, at) {
                Ok(at) if !self.log.is_there(at.segment) => Err(FsError::NotFound.into()),
                _ => Err(e),
            },
            done => done,
        }
    }

    /// Adds to a parcel what the content of one of its versions is; nothing, if that is not here (any more), or is more than
    /// one parcel should hold: then the other store asks for it ([`Store::supply`]).
    pub(super) fn describe(
        &self,
        version: &Version,
        contents: &mut Vec<Changes>,
        sources: &mut Sources,
    ) -> Result<()> {
        let k = key::version_id(version.id);
        let place: Option<VersionPlace> = self.index.get(&k)?.map(|bytes| row(&k, &bytes)).transpose()?;
        let told = look_again(&mut || {
            let described = match &place {
                Some(place) => self.described(place)?,
                None => self.noted_changes(version)?,
            };
            described.map(|(base, pieces)| Ok((base, self.ranges(&pieces)?))).transpose()
        });
        let (base, (ranges, named)) = match told {
            Ok(Some(told)) => told,
            Ok(None) => return Ok(()),
            // Removed between two looks.
            Err(_) if place.is_some() && self.find_version(version.id)?.is_none() => return Ok(()),
            // It is told without its content, which may be had elsewhere: one bad record must not hold up all others.
            Err(Error::Damaged(d)) => {
                tracing::error!("the content of version {} can't be sent: {d}", version.id);
                return Ok(());
            }
            Err(e) => return Err(e),
        };
        sources.extend(named);
        contents.push(Changes { object: version.object, version: version.id, base, ranges });
        Ok(())
    }

    /// Differences as they are told to others, and where the extents lie that this names.
    fn ranges(&self, pieces: &[Difference]) -> Result<(Vec<Range>, Sources)> {
        let mut sources = Sources::new();
        let mut ranges = Vec::with_capacity(pieces.len());
        for (offset, len, source) in pieces {
            let source = match source {
                None => Source::Hole,
                Some((piece, skip)) => {
                    let id = self.extent_id(piece)?;
                    sources.insert(id, (piece.extent, piece.location));
                    Source::Extent(id, *skip)
                }
            };
            ranges.push(Range { offset: *offset, len: *len, source });
        }
        Ok((ranges, sources))
    }

    /// A version that is here, by what it rests on; none if it was removed, or differs in too much for one parcel.
    fn described(&self, place: &VersionPlace) -> Result<Option<Described>> {
        if place.removed {
            return Ok(None);
        }
        let v = self.version_row(place.ino, place.at)?;
        let mut base = self.base_of(place.ino, place.at, v.branch)?;
        if let Some(at) = base
            && !self.version_row(place.ino, at)?.vector.within(&v.vector)
        {
            // It came late, described by a newer one. Told so to others, the two might wait for each other.
            base = None;
        }
        let differences = self.differences(place, base)?;
        let mut out = Vec::new();
        let mut from = Some(Onward::default());
        while let Some(at) = from {
            from = differences.page(&*self.index, at, &mut out)?;
            if out.len() > limits::CHANGES_PER_RECORD {
                return Ok(None);
            }
        }
        let base = base.map(|at| self.version_row(place.ino, at)).transpose()?.map(|v| v.id);
        Ok(Some((base, out)))
    }

    /// A version that is here, with a page of its content, by one of `bases` (versions of its object that the other store has)
    /// if one of them is here too, else whole. Who asks for the next page names the base of the first. None if the
    /// version is not here.
    ///
    /// # Errors
    /// What reading log and index says.
    pub fn supply(&self, id: VersionId, bases: &[VersionId], from: Onward) -> Result<Option<Supply>> {
        match look_again(&mut || self.supply_page(id, bases, from)) {
            // Removed between two looks.
            Err(_) if self.find_version(id)?.is_none() => Ok(None),
            done => done,
        }
    }

    fn supply_page(&self, id: VersionId, bases: &[VersionId], from: Onward) -> Result<Option<Supply>> {
        let Some((ino, at)) = self.find_version(id)? else { return Ok(None) };
        let Some(object) = self.object_row(ino, None)?.map(|o| o.object) else { return Ok(None) };
        let place = VersionPlace { ino, at, removed: false };
        let natural = self.base_of(ino, at, self.version_row(ino, at)?.branch)?;
        let mut base: Option<(Lsn, VersionId)> = None;
        for id in bases {
            if let Some((of, found)) = self.find_version(*id)?
                && of == ino
                && found != at
                && (Some(found) == natural || base.is_none_or(|b| Some(b.0) != natural && b.0 < found))
            {
                base = Some((found, *id));
            }
        }
        let differences = self.differences(&place, base.map(|b| b.0))?;
        let mut pieces = Vec::new();
        let next = differences.page(&*self.index, from, &mut pieces)?;
        let (ranges, sources) = self.ranges(&pieces)?;
        let v = differences.version();
        let (stamp, maker) = self.rank(v.stamp);
        let version = Self::version_fact(object, v);
        Ok(Some(Supply { version, stamp, maker, base: base.map(|b| b.1), ranges, next, sources }))
    }

    /// The fact of a version that is here; its hash may have been computed since it was made.
    pub(super) fn version_fact(object: ObjectId, v: &VersionRow) -> Version {
        Version {
            id: v.id,
            object,
            vector: v.vector.clone(),
            parents: v.parents.clone(),
            created_ns: v.created_ns,
            size: v.size,
            modified: v.modified,
            changed_ns: v.changed,
            mode: v.mode,
            owner: v.owner,
            hash: v.hash,
            flags: v.flags,
            links: v.links.clone(),
        }
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

    /// Changes of a version that itself waits here for another; none if its content is not here.
    fn noted_changes(&self, version: &Version) -> Result<Option<Described>> {
        let ino = self.known_ino(version.object)?.ok_or(FsError::NotFound)?;
        if self.is_lacking(ino, version.id)? {
            return Ok(None);
        }
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
            // It waited, and was applied or given up between two looks: it is a version like any other by now.
            let k = key::version_id(version.id);
            return match self.index.get(&k)? {
                Some(bytes) => self.described(&row(&k, &bytes)?),
                None => Ok(None),
            };
        }
        Ok((out.len() <= limits::CHANGES_PER_RECORD).then_some((base, out)))
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

#[cfg(test)]
#[allow(clippy::disallowed_methods)] // real threads
mod tests {
    use std::{
        sync::{
            atomic::{AtomicBool, Ordering::SeqCst},
            mpsc,
        },
        time::Duration,
    };

    use super::*;
    use crate::store::Options;

    #[test]
    fn what_is_in_the_log_and_not_applied_yet_is_not_told() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::create(&dir.path().join("store"), Options::default()).unwrap();
        let (send, begun) = mpsc::channel();
        let applied = AtomicBool::new(false);
        std::thread::scope(|s| {
            // As whoever has appended a record and has not applied it.
            s.spawn(|| {
                let applying = store.apply.lock();
                send.send(()).unwrap();
                std::thread::sleep(Duration::from_millis(200));
                applied.store(true, SeqCst);
                drop(applying);
            });
            begun.recv().unwrap();
            store.parcels(&Knowledge::default(), Lsn::FIRST, 1).unwrap();
            assert!(applied.load(SeqCst), "told before");
        });
    }

    #[cfg(feature = "planted-bugs")]
    #[test]
    fn a_planted_bug_is_noticed() {
        crate::base::planted::plant(Some(Bug::ToldBeforeApplied));
        let noticed = std::panic::catch_unwind(what_is_in_the_log_and_not_applied_yet_is_not_told).is_err();
        crate::base::planted::plant(None);
        assert!(noticed);
    }
}
