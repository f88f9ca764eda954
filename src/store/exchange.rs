//! Facts from store to store: what this one holds, what another lacks, and taking it in.
//!
//! There is no network here. A [`Parcel`] is one batch of facts as its maker logged it, with a description
//! of the content of each version in it; the extents that it names are asked for one by one. Parcels may
//! arrive in any order and any number of times. See `docs/FORMAT.md` section 9.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    base::{Damage, Error, FsError, Incarnation, Ino, Lsn, ObjectId, Result, StoreId, VersionId, limits},
    format::{
        Kind, Origin, Prepared, code,
        facts::{Changes, ExtentId, Fact, LocalChanges, LocalRange, ObjectKind, Range, Source, Version},
        flags,
        rows::{
            ChangesRow, ExtentRow, LinkRow, Piece, VersionPlace, VersionRow, WaitingRow, after_prefix, key,
            kind,
        },
    },
    log::Record,
};

use super::{
    Store,
    apply::Apply,
    content::BranchView,
    parcels,
    state::State,
    txn::{Keep, Txn, row},
};
use crate::format::rows::Stamp;

/// Which facts batches a store holds: for each store and incarnation the sequences, as closed intervals.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Knowledge(BTreeMap<(StoreId, Incarnation), Vec<(u64, u64)>>);

impl Knowledge {
    /// Is this batch among them?
    #[must_use]
    pub fn has(&self, o: &Origin) -> bool {
        let held = self.0.get(&(o.store, o.incarnation));
        held.is_some_and(|h| h.iter().any(|(first, last)| (*first..=*last).contains(&o.seq)))
    }

    /// Adds a batch.
    pub fn add(&mut self, o: &Origin) {
        self.add_range((o.store, o.incarnation), o.seq, o.seq);
    }

    fn add_range(&mut self, of: (StoreId, Incarnation), first: u64, last: u64) {
        let held = self.0.entry(of).or_default();
        let at = held.partition_point(|(_, l)| l.saturating_add(1) < first);
        let (mut first, mut last) = (first, last);
        while let Some((f, l)) = held.get(at).copied()
            && f <= last.saturating_add(1)
        {
            (first, last) = (first.min(f), last.max(l));
            held.remove(at);
        }
        held.insert(at, (first, last));
    }
}

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

/// What asks for an extent's bytes: handed the name, returns them whole.
pub type Fetch<'a> = &'a mut dyn FnMut(&ExtentId) -> Result<Vec<u8>>;

impl Store {
    /// Every facts batch that this store holds durably or not.
    ///
    /// # Errors
    /// What reading the index says.
    pub fn knowledge(&self) -> Result<Knowledge> {
        let mut known = Knowledge::default();
        let meta = self.apply.lock().meta.clone();
        if meta.sequence > 0 {
            known.add_range((self.id, Incarnation::new(meta.incarnation)), 1, meta.sequence);
        }
        for (k, _) in self.index.scan(&[kind::OWN], &after_prefix(&[kind::OWN]), usize::MAX)? {
            if let (Some(incarnation), Some(seq)) = (key::ino_of(&k), key::last_number(&k)) {
                known.add_range((self.id, Incarnation::new(incarnation.get())), 1, seq);
            }
        }
        for (k, _) in self.index.scan(&[kind::HELD], &after_prefix(&[kind::HELD]), usize::MAX)? {
            if let Some(origin) = key::held_origin(&k) {
                known.add(&origin);
            }
        }
        Ok(known)
    }

    /// Facts batches in the durable log from this LSN on that are not known there: at most `limit`, and the LSN
    /// from which to go on.
    ///
    /// # Errors
    /// What reading log and index says.
    pub fn parcels(&self, known: &Knowledge, from: Lsn, limit: usize) -> Result<(Vec<Parcel>, Lsn)> {
        let mut found = Vec::new();
        let mut next = from;
        for record in self.log.records_from(from) {
            let record = record?;
            if found.len() == limit {
                break;
            }
            next = record.lsn.next();
            let Some(head) = record.head else { continue };
            if record.kind != Kind::Operation || head.origin.seq == 0 || known.has(&head.origin) {
                continue;
            }
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
    fn known_ino(&self, object: ObjectId) -> Result<Option<Ino>> {
        let k = key::object_id(object);
        if let Some(bytes) = self.index.get(&k)? {
            return Ok(Some(row(&k, &bytes)?));
        }
        let ino = if object == ObjectId::ROOT { Ino::FIRST } else { object.parts().1 };
        Ok(self.object_row(ino, None)?.filter(|r| r.object == object).map(|_| ino))
    }

    /// Takes in a parcel, asking `fetch` for the extents that are not here. Does nothing if it is here already.
    /// Returns the LSN that must be durable before it is acknowledged.
    ///
    /// # Errors
    /// [`Error::BadRequest`] if the parcel is not what a store would make, or is stamped too far ahead; and
    /// those of the log and of `fetch`. What was taken in before an error does no harm.
    pub fn import(&self, parcel: &Parcel, fetch: Fetch<'_>) -> Result<Lsn> {
        let facts: Vec<Fact> = code::decode(&parcel.facts)
            .map_err(|e| Error::BadRequest(format!("facts of {:?}: {e}", parcel.origin)))?;
        parcels::check(parcel, &facts, self.clock.wall_ns())?;
        {
            let mut state = self.apply.lock();
            self.check_usable()?;
            if self.holds(&state, &parcel.origin)? {
                return Ok(self.log.last_lsn());
            }
            self.check_claims(&state, parcel, &facts)?;
            self.introduce(&mut state, parcel, &facts)?;
            for changes in &parcel.contents {
                self.note_changes(&mut state, changes, fetch)?;
            }
            self.append_parcel(&mut state, parcel, &facts)?;
        }
        for fact in &facts {
            if let Fact::Version(v) = fact {
                self.wake_waiting(v.id)?;
            }
        }
        self.name_twins()?;
        Ok(self.log.last_lsn())
    }

    /// Nobody else names objects that this opening will make, or facts that it has yet to number.
    fn check_claims(&self, state: &State, parcel: &Parcel, facts: &[Fact]) -> Result<()> {
        let mine = self.log.incarnation();
        let o = parcel.origin;
        let bad = |why: &str| Err(Error::BadRequest(format!("facts {o:?}: {why}")));
        if o.store == self.id && o.incarnation == mine && o.seq > state.meta.sequence {
            return bad("they claim to come from this very process");
        }
        for object in facts.iter().flat_map(objects_in) {
            if object.parts().0 == mine && self.known_ino(object)?.is_none() {
                return bad("an object that this process has not made");
            }
        }
        Ok(())
    }

    fn holds(&self, state: &State, o: &Origin) -> Result<bool> {
        if self.index.get(&key::held(o.store, o.incarnation, o.seq))?.is_some() {
            return Ok(true);
        }
        if o.store != self.id {
            return Ok(false);
        }
        if state.meta.incarnation == o.incarnation.get() {
            return Ok(o.seq <= state.meta.sequence);
        }
        let (first, last) = (key::own(o.incarnation, 0), key::own(o.incarnation, u64::MAX));
        let newest = self.index.last(&first, &last)?.and_then(|(k, _)| key::last_number(&k));
        Ok(newest.is_some_and(|n| o.seq <= n))
    }

    /// Gives numbers to a store and to objects that are new here, as a record of their own before the facts.
    fn introduce(&self, state: &mut State, parcel: &Parcel, facts: &[Fact]) -> Result<()> {
        let mut new = Vec::new();
        let stores = std::iter::once(parcel.origin.store).chain(facts.iter().flat_map(stores_in));
        let mut known: Vec<StoreId> = state.stores.to_vec();
        for store in stores {
            if !known.contains(&store) {
                new.push(Fact::StoreNumber(known.len() as u32, store));
                known.push(store);
            }
        }
        let mut next = state.meta.next_ino;
        let mut seen = BTreeSet::new();
        for object in facts.iter().flat_map(objects_in) {
            if object != ObjectId::ROOT && seen.insert(object) && self.known_ino(object)?.is_none() {
                new.push(Fact::Inode(object, Ino::new(next)));
                next += 1;
            }
        }
        if new.is_empty() { Ok(()) } else { self.append_local(state, &new).map(drop) }
    }

    /// Notes the content of a version that comes next, after the extents that are not here yet.
    fn note_changes(&self, state: &mut State, changes: &Changes, fetch: Fetch<'_>) -> Result<()> {
        let mut ranges = Vec::with_capacity(changes.ranges.len());
        for range in &changes.ranges {
            let source = match range.source {
                Source::Hole => None,
                Source::Extent(id, skip) => {
                    let e = self.extent_here(state, &id, fetch)?;
                    if range.len > u64::from(e.location.raw_len).saturating_sub(u64::from(skip)) {
                        return Err(Error::BadRequest(format!("a range beyond the end of {id:?}")));
                    }
                    Some((e.extent, e.location, skip))
                }
            };
            ranges.push(LocalRange { offset: range.offset, len: range.len, source });
        }
        let mut parts: Vec<_> = ranges.chunks(limits::CHANGES_PER_RECORD).map(<[_]>::to_vec).collect();
        if parts.is_empty() {
            parts.push(Vec::new());
        }
        for (part, ranges) in parts.into_iter().enumerate() {
            let local = LocalChanges {
                object: changes.object,
                version: changes.version,
                part: part as u32,
                base: changes.base,
                ranges,
            };
            self.append_local(state, &[Fact::Changes(local)])?;
        }
        Ok(())
    }

    fn extent_here(&self, state: &mut State, id: &ExtentId, fetch: Fetch<'_>) -> Result<ExtentRow> {
        let k = key::extent(id);
        if let Some(bytes) = self.index.get(&k)? {
            return row(&k, &bytes);
        }
        let bytes = fetch(id)?;
        if bytes.is_empty() || bytes.len() > limits::EXTENT_BYTES {
            return Err(Error::BadRequest(format!("{id:?} has {} bytes", bytes.len())));
        }
        let payload = Prepared::extent(bytes, false);
        let mut record = Record::new(Kind::Extent, &payload);
        record.flags = flags::DETACHED | flags::FOREIGN;
        record.origin = Some(Origin { store: id.store, incarnation: id.incarnation, seq: id.sequence });
        let apart = self.until_applied();
        let (lsn, location) = self.log.append(&[record])?[0];
        let found = ExtentRow { extent: lsn, location: location.into() };
        let mut txn = Txn::new(&*self.index, lsn);
        txn.put(k, &found, Keep::Amend)?;
        let next = state.clone();
        self.land(state, next, lsn, &txn.finish()?)?;
        apart.done();
        Ok(found)
    }

    /// A record of local facts.
    fn append_local(&self, state: &mut State, facts: &[Fact]) -> Result<Lsn> {
        let mut next = state.clone();
        let stamp = next.tick(&*self.clock);
        self.append_facts(state, &mut next, stamp, facts, |record| record.stamp = stamp.hlc)
    }

    fn append_parcel(&self, state: &mut State, parcel: &Parcel, facts: &[Fact]) -> Result<Lsn> {
        let mut next = state.clone();
        let store = next.number(parcel.origin.store).unwrap_or(0);
        let stamp = Stamp { hlc: parcel.stamp, store };
        self.append_facts(state, &mut next, stamp, facts, |record| {
            record.flags = flags::FOREIGN;
            record.origin = Some(parcel.origin);
            record.object = parcel.object;
            record.stamp = parcel.stamp;
        })
    }

    fn append_facts(
        &self,
        state: &mut State,
        next: &mut State,
        stamp: Stamp,
        facts: &[Fact],
        shape: impl FnOnce(&mut Record<'_>),
    ) -> Result<Lsn> {
        let payload = super::record_of(&facts.to_vec())?;
        let mut record = Record::new(Kind::Operation, &payload);
        record.arg = facts.len() as u64;
        shape(&mut record);
        let lsn = self.log.last_lsn().next();
        let mut txn = Txn::new(&*self.index, lsn);
        if let Some(o) = record.origin {
            txn.put(key::held(o.store, o.incarnation, o.seq), &lsn, Keep::Amend)?;
        }
        Apply::new(&mut txn, next, stamp).facts(facts)?;
        let changes = txn.finish()?;
        let apart = self.until_applied();
        let got = self.log.append(&[record])?[0].0;
        self.check_lsn(got, lsn)?;
        self.land(state, next.clone(), lsn, &changes)?;
        apart.done();
        Ok(lsn)
    }

    /// Versions that waited for this one can be applied; and those that waited for them.
    fn wake_waiting(&self, id: VersionId) -> Result<()> {
        let mut ready = vec![id];
        while let Some(id) = ready.pop() {
            if self.find_version(id)?.is_none() {
                continue;
            }
            let prefix = key::waiting(id, None);
            for (k, bytes) in self.index.scan(&prefix, &after_prefix(&prefix), usize::MAX)? {
                let waiting: WaitingRow = row(&k, &bytes)?;
                let mut state = self.apply.lock();
                self.check_usable()?;
                self.append_local(&mut state, &[Fact::Ready(waiting.version.object, waiting.version.id)])?;
                ready.push(waiting.version.id);
            }
        }
        Ok(())
    }

    /// Directories that stand at one name with another become another name for it.
    pub(super) fn name_twins(&self) -> Result<()> {
        loop {
            let twins = self.index.scan(&[kind::TWIN], &after_prefix(&[kind::TWIN]), 64)?;
            let mut named = false;
            for (k, _) in twins {
                let Some(ino) = key::ino_of(&k) else { continue };
                named |= self.name_twin(ino)?;
            }
            if !named {
                return Ok(());
            }
        }
    }

    fn name_twin(&self, ino: Ino) -> Result<bool> {
        let (_, named) = self.run(|op| {
            let twin = op.apply.txn.object(ino)?;
            let place = twin.attributes.link.as_ref().and_then(|l| Some((l.placed?, l.name.clone())));
            let at = match &place {
                Some((dir, name)) => op.apply.txn.links(*dir, name)?,
                None => None,
            };
            let mut smallest = twin.object;
            for e in at.iter().flat_map(|l: &LinkRow| &l.entries) {
                if e.kind == ObjectKind::Directory {
                    smallest = smallest.min(op.apply.txn.object(e.child)?.object);
                }
            }
            if smallest == twin.object {
                return Ok(false);
            }
            op.subject = (twin.object, ino);
            op.fact(Fact::Alias(twin.object, smallest))?;
            Ok(true)
        })?;
        if !named {
            // It stands alone by now: off the list, so that nobody asks again.
            let mut state = self.apply.lock();
            self.check_usable()?;
            let object = self.object_row(ino, None)?.ok_or(FsError::NotFound)?.object;
            self.append_local(&mut state, &[Fact::NoTwin(object)])?;
        }
        Ok(named)
    }

    /// What a crash left between taking facts in and drawing their consequences.
    pub(super) fn finish_exchange(&self) -> Result<()> {
        if self.apply.lock().stores.len() == 1 {
            return Ok(());
        }
        let mut missing = BTreeSet::new();
        for (k, _) in self.index.scan(&[kind::WAITING], &after_prefix(&[kind::WAITING]), usize::MAX)? {
            missing.extend(key::waited_for(&k));
        }
        for id in missing {
            self.wake_waiting(id)?;
        }
        self.name_twins()
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

pub(super) fn objects_in(fact: &Fact) -> Vec<ObjectId> {
    match fact {
        Fact::Create(c) => vec![c.object],
        Fact::Link(l) => vec![l.parent, l.object],
        Fact::Gone(g) => vec![g.parent, g.object],
        Fact::Mode(o, _)
        | Fact::Owner(o, _)
        | Fact::Modified(o, _)
        | Fact::Xattr(o, ..)
        | Fact::Retain(o, ..)
        | Fact::Hold(o, ..) => vec![*o],
        Fact::Version(v) => vec![v.object],
        Fact::Alias(from, to) => vec![*from, *to],
        _ => Vec::new(),
    }
}

fn stores_in(fact: &Fact) -> Vec<StoreId> {
    match fact {
        Fact::Version(v) => v.knew_gone.iter().map(|(_, _, store)| *store).collect(),
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knowledge_joins_what_touches() {
        let mut k = Knowledge::default();
        let of = (StoreId::new(1), Incarnation::new(1));
        for seq in [5, 1, 3, 2, 9, 4] {
            k.add(&Origin { store: of.0, incarnation: of.1, seq });
        }
        assert_eq!(k.0[&of], [(1, 5), (9, 9)]);
        assert!(k.has(&Origin { store: of.0, incarnation: of.1, seq: 9 }));
        assert!(!k.has(&Origin { store: of.0, incarnation: of.1, seq: 6 }));
    }
}
