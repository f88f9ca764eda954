//! Taking in what another store made: extents first and without a lock, then the facts as one record of the log.

use std::collections::BTreeSet;

use crate::{
    base::{Error, FsError, Ino, Lsn, ObjectId, Result, StoreId, VersionId, limits},
    format::{
        Kind, Origin, Prepared, code,
        facts::{Changes, ExtentId, Fact, LocalChanges, LocalRange, ObjectKind, Source, Version},
        flags,
        rows::{
            ChangesRow, ClaimedRow, ExtentRow, LackingRow, LinkRow, Stamp, VersionPlace, VersionRow,
            WaitingRow, after_prefix, key, kind,
        },
    },
    log::Record,
};

use super::{
    How, Store,
    apply::Apply,
    exchange::Parcel,
    knowledge::note_held,
    lacking::{Apart, extents_in, same_version},
    parcels,
    state::State,
    txn::{Keep, Txn, row},
};

/// What asks for an extent's bytes: handed the name, returns them whole.
pub type Fetch<'a> = &'a mut dyn FnMut(&ExtentId) -> Result<Vec<u8>>;

/// How often extents that went again before their facts came are fetched anew.
pub(super) const ROUNDS: usize = 16;

/// Versions that wait for one, read at once.
const WAITING: usize = 64;

/// A description of content, and the same in extents of this log.
type Here<'p> = (&'p Changes, Vec<LocalRange>);

impl Store {
    /// Takes in a parcel, asking `fetch` for the extents that are not here. Does nothing if it is here already.
    /// Returns the LSN that must be durable before it is acknowledged. A move of a directory that came after newer ones may show
    /// only after [`settle_moves`](Self::settle_moves).
    ///
    /// # Errors
    /// [`Error::BadRequest`] if the parcel is not what a store would make, or is stamped too far ahead; and
    /// those of the log and of `fetch`. What was taken in before an error does no harm.
    pub fn import(&self, parcel: &Parcel, fetch: Fetch<'_>) -> Result<Lsn> {
        self.wait_for_watcher();
        let facts: Vec<Fact> = code::decode(&parcel.facts)
            .map_err(|e| Error::BadRequest(format!("facts of {:?}: {e}", parcel.origin)))?;
        parcels::check(parcel, &facts, self.clock.wall_ns())?;
        if !self.wants(&self.apply.lock(), parcel, &facts)? {
            return Ok(self.log.last_lsn());
        }
        let mut apart = self.taken_apart(&parcel.contents, &facts, self.clock.wall_ns())?;
        for _ in 0..ROUNDS {
            // The other side may take its time; nobody here waits for it.
            for changes in &parcel.contents {
                if apart.iter().any(|a| a.1 == changes.version) {
                    continue;
                }
                match self.bring_extents([changes], fetch) {
                    // Gone at the sender since the parcel was made.
                    Err(Error::Fs(FsError::NotFound)) => apart.push((changes.object, changes.version, false)),
                    done => done?,
                }
            }
            let mut state = self.apply.lock();
            if !self.wants(&state, parcel, &facts)? {
                return Ok(self.log.last_lsn());
            }
            let Some(contents) = self.contents_here(parcel, &apart)? else { continue };
            self.introduce(&mut state, [parcel.origin.store], &facts)?;
            for (object, version, declined) in &apart {
                self.append_local(&mut state, &[Fact::Without(*object, *version, *declined)])?;
            }
            for (changes, ranges) in contents {
                self.note_changes(&mut state, changes, &ranges, &mut 0)?;
            }
            self.append_parcel(&mut state, parcel, &facts)?;
            drop(state);
            return self.follow_up(&facts);
        }
        Err(FsError::Busy.into())
    }

    /// Is this store without these facts, and may it have them?
    fn wants(&self, state: &State, parcel: &Parcel, facts: &[Fact]) -> Result<bool> {
        self.check_usable()?;
        if self.holds(state, &parcel.origin)? {
            return Ok(false);
        }
        self.check_claims(state, parcel, facts)?;
        for fact in facts {
            if let Fact::Version(v) = fact {
                self.check_id(parcel, v)?;
            }
        }
        Ok(true)
    }

    /// A version's id stands for one version, the same everywhere, and comes in one facts batch. What says otherwise is not taken:
    /// both are named, so that somebody can find out who lies, and neither hides the other.
    fn check_id(&self, parcel: &Parcel, v: &Version) -> Result<()> {
        let k = key::version_id(v.id);
        let here = match self.index.get(&k)? {
            Some(bytes) => {
                let place: VersionPlace = row(&k, &bytes)?;
                let k = key::version(place.ino, place.at);
                let version: Option<VersionRow> = self.index.get(&k)?.map(|b| row(&k, &b)).transpose()?;
                let object = self.object_row(place.ino, None)?.map(|r| r.object).unwrap_or_default();
                let same = |o: &VersionRow| {
                    (o.created_ns, o.changed, o.size, &o.vector)
                        == (v.created_ns, v.changed_ns, v.size, &v.vector)
                };
                if object == v.object && version.as_ref().map_or(place.removed, same) {
                    return Ok(()); // It came before, with other facts or without.
                }
                let made = version.map_or(String::new(), |o| {
                    let maker = self.rank(o.stamp).1;
                    format!(", of {} bytes, made by store {maker} at {} ns", o.size, o.created_ns)
                });
                format!("a version of object {object}{made}, which came at LSN {}", place.at)
            }
            None => {
                let k = key::claimed(v.id);
                let Some(bytes) = self.index.get(&k)? else { return Ok(()) };
                let ClaimedRow { object, .. } = row(&k, &bytes)?;
                if object == v.object && self.is_awaited(v)? {
                    return Ok(());
                }
                format!("a version of object {object}, which waits for another")
            }
        };
        let o = parcel.origin;
        Err(Error::BadRequest(format!(
            "facts {} of store {}, incarnation {:016x}, give the id {} to a version of object {}, of {} bytes, made at {} ns; \
             here this id is {here}. Nothing of these facts was taken",
            o.seq,
            o.store,
            o.incarnation.get(),
            v.id,
            v.object,
            v.size,
            v.created_ns
        )))
    }

    /// Is this the version that is known by its id, and waits for another or for its content?
    fn is_awaited(&self, v: &Version) -> Result<bool> {
        let Some(ino) = self.known_ino(v.object)? else { return Ok(false) };
        let k = key::lacking(ino, v.id.into());
        if let Some(bytes) = self.index.get(&k)? {
            let lacking: LackingRow = row(&k, &bytes)?;
            return Ok(lacking.version.is_none_or(|w| same_version(&w.version, v)));
        }
        let k = key::changes(ino, v.id, 0);
        let Some(bytes) = self.index.get(&k)? else { return Ok(false) };
        let Some(base) = row::<ChangesRow>(&k, &bytes)?.base else { return Ok(false) };
        let k = key::waiting(base, Some(v.id));
        let waits: Option<WaitingRow> = self.index.get(&k)?.map(|b| row(&k, &b)).transpose()?;
        Ok(waits.is_some_and(|w| same_version(&w.version, v)))
    }

    /// What follows from facts that were taken in, as records of its own.
    pub(super) fn follow_up(&self, facts: &[Fact]) -> Result<Lsn> {
        for fact in facts {
            if let Fact::Version(v) = fact {
                self.wake_waiting(v.id)?;
                if let Some(ino) = self.known_ino(v.object)? {
                    self.trim(ino)?;
                }
            }
        }
        self.settle_moves_if_cheap()?;
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

    /// Gives numbers to a store and to objects that are new here, as a record of their own before the facts.
    pub(super) fn introduce(
        &self,
        state: &mut State,
        makers: impl IntoIterator<Item = StoreId>,
        facts: &[Fact],
    ) -> Result<()> {
        let mut new = Vec::new();
        let stores = makers.into_iter().chain(facts.iter().flat_map(stores_in));
        let mut number = state.stores.len() as u32;
        for store in stores.collect::<BTreeSet<_>>() {
            if !state.stores.contains(&store) {
                new.push(Fact::StoreNumber(number, store));
                number += 1;
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

    /// Sees to it that the extents which descriptions of content name are in this log. Until facts name them, they may be lost
    /// again to the cleaner; [`ranges_here`](Self::ranges_here) finds that out.
    pub(super) fn bring_extents<'c>(
        &self,
        contents: impl IntoIterator<Item = &'c Changes>,
        fetch: Fetch<'_>,
    ) -> Result<()> {
        for id in extents_in(contents) {
            let k = key::extent(id);
            if self.index.get(&k)?.is_some() {
                continue;
            }
            let bytes = fetch(id)?;
            if bytes.is_empty() || bytes.len() > limits::EXTENT_BYTES {
                return Err(Error::BadRequest(format!("{id:?} has {} bytes", bytes.len())));
            }
            self.bring_extent(id, &Prepared::extent(bytes, false))?;
        }
        Ok(())
    }

    /// Appends an extent of another store, if nobody has meanwhile. Says which one it is here, and whether it is new.
    pub(super) fn bring_extent(&self, id: &ExtentId, payload: &Prepared) -> Result<(Lsn, bool)> {
        let k = key::extent(id);
        let mut record = Record::new(Kind::Extent, payload);
        record.flags = flags::DETACHED | flags::FOREIGN;
        record.origin = Some(Origin { store: id.store, incarnation: id.incarnation, seq: id.sequence });
        let mut state = self.apply.lock();
        self.check_usable()?;
        if let Some(bytes) = self.index.get(&k)? {
            return Ok((row::<ExtentRow>(&k, &bytes)?.extent, false)); // Another parcel brought it.
        }
        let apart = self.until_applied();
        let (lsn, location) = self.log.append(&[record])?[0];
        let found = ExtentRow { extent: lsn, location: location.into() };
        let mut txn = Txn::new(&*self.index, lsn);
        txn.put(k, &found, Keep::Amend)?;
        let next = state.clone();
        self.land(&mut state, next, lsn, &txn.finish()?)?;
        apart.done();
        Ok((lsn, true))
    }

    /// The contents of a parcel that are to be taken, in extents of this log; none if one of those is not here. Under the lock,
    /// so that none goes before the facts that name it are appended.
    fn contents_here<'p>(&self, parcel: &'p Parcel, apart: &Apart) -> Result<Option<Vec<Here<'p>>>> {
        let mut contents = Vec::with_capacity(parcel.contents.len());
        for changes in &parcel.contents {
            let known = || Ok::<_, Error>(self.index.get(&key::version_id(changes.version))?.is_some());
            if apart.iter().any(|a| a.1 == changes.version) || known()? {
                continue;
            }
            let Some(ranges) = self.ranges_here(changes)? else { return Ok(None) };
            contents.push((changes, ranges));
        }
        Ok(Some(contents))
    }

    /// What a description of content says, in extents of this log; none if one of those is not here.
    pub(super) fn ranges_here(&self, changes: &Changes) -> Result<Option<Vec<LocalRange>>> {
        let mut ranges = Vec::with_capacity(changes.ranges.len());
        for range in &changes.ranges {
            let source = match range.source {
                Source::Hole => None,
                Source::Extent(id, skip) => {
                    let k = key::extent(&id);
                    let Some(bytes) = self.index.get(&k)? else { return Ok(None) };
                    let e: ExtentRow = row(&k, &bytes)?;
                    if range.len > u64::from(e.location.raw_len).saturating_sub(u64::from(skip)) {
                        return Err(Error::BadRequest(format!("a range beyond the end of {id:?}")));
                    }
                    Some((e.extent, e.location, skip))
                }
            };
            ranges.push(LocalRange { offset: range.offset, len: range.len, source });
        }
        Ok(Some(ranges))
    }

    /// Notes the content of a version that comes next, from this part on; part 0 forgets what was noted of it before.
    pub(super) fn note_changes(
        &self,
        state: &mut State,
        changes: &Changes,
        ranges: &[LocalRange],
        part: &mut u32,
    ) -> Result<()> {
        let mut parts: Vec<_> = ranges.chunks(limits::CHANGES_PER_RECORD).map(<[_]>::to_vec).collect();
        if parts.is_empty() && *part == 0 {
            parts.push(Vec::new());
        }
        for ranges in parts {
            let local = LocalChanges {
                object: changes.object,
                version: changes.version,
                part: *part,
                base: changes.base,
                ranges,
            };
            self.append_local(state, &[Fact::Changes(local)])?;
            *part += 1;
        }
        Ok(())
    }

    /// A record of local facts.
    pub(super) fn append_local(&self, state: &mut State, facts: &[Fact]) -> Result<Lsn> {
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
            note_held(&mut txn, &o, o.seq)?;
        }
        let made_in = record.origin.map_or(self.log.incarnation(), |o| o.incarnation);
        Apply::new(&mut txn, next, stamp, made_in).facts(facts)?;
        let changes = txn.finish()?;
        let apart = self.until_applied();
        let got = self.log.append(&[record])?[0].0;
        self.check_lsn(got, lsn)?;
        self.land(state, next.clone(), lsn, &changes)?;
        apart.done();
        self.tell_touched(&changes);
        Ok(lsn)
    }

    /// Versions that waited for this one can be applied, or are lacking with it; and those that waited for them.
    pub(super) fn wake_waiting(&self, id: VersionId) -> Result<()> {
        let mut ready = vec![id];
        while let Some(id) = ready.pop() {
            if !self.is_decided(id)? {
                continue;
            }
            let prefix = key::waiting(id, None);
            let mut start = prefix.clone();
            loop {
                let waiting = self.index.scan(&start, &after_prefix(&prefix), WAITING)?;
                let Some((last, _)) = waiting.last() else { break };
                start = [&last[..], &[0]].concat();
                for (k, bytes) in &waiting {
                    let WaitingRow { version: v, .. } = row(k, bytes)?;
                    let mut state = self.apply.lock();
                    self.check_usable()?;
                    self.append_local(&mut state, &[Fact::Ready(v.object, v.id)])?;
                    ready.push(v.id);
                }
            }
        }
        Ok(())
    }

    /// Directories that stand at one name with another become another name for it. Not while moves wait that came late: one of
    /// them may say so already.
    pub(super) fn name_twins(&self) -> Result<()> {
        while self.late_moves()?.is_none() {
            let twins = self.index.scan(&[kind::TWIN], &after_prefix(&[kind::TWIN]), 64)?;
            let mut named = false;
            for (k, _) in twins {
                let Some(ino) = key::ino_of(&k) else { continue };
                named |= self.name_twin(ino)?;
            }
            if !named {
                break;
            }
        }
        Ok(())
    }

    fn name_twin(&self, ino: Ino) -> Result<bool> {
        let (_, named) = self.run_as(How { told: true, ..How::default() }, |op| {
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
        let mut start = vec![kind::WAITING];
        while let [(k, _)] = &self.index.scan(&start, &after_prefix(&[kind::WAITING]), 1)?[..]
            && let Some(id) = key::waited_for(k)
        {
            self.wake_waiting(id)?;
            start = after_prefix(&key::waiting(id, None));
        }
        self.settle_moves()?;
        self.name_twins()
    }
}

/// The objects that a fact names.
pub(super) fn objects_in(fact: &Fact) -> Vec<ObjectId> {
    match fact {
        Fact::Create(c) => vec![c.object],
        Fact::Link(l) => {
            let left = l.left.as_ref().map(|left| left.parent);
            [l.parent, l.object].into_iter().chain(left).collect()
        }
        Fact::Gone(g) => vec![g.parent, g.object],
        Fact::Mode(o, _)
        | Fact::Owner(o, _)
        | Fact::Modified(o, _)
        | Fact::Xattr(o, ..)
        | Fact::Retain(o, ..)
        | Fact::Hold(o, ..) => vec![*o],
        Fact::Version(v) => vec![v.object],
        Fact::Alias(from, to) => vec![*from, *to],
        Fact::Without(o, ..) | Fact::Touched(o) => vec![*o],
        Fact::Marked(m) => vec![m.dir, m.child],
        _ => Vec::new(),
    }
}

/// The stores that a fact names beside its own.
fn stores_in(fact: &Fact) -> Vec<StoreId> {
    match fact {
        Fact::Retain(.., saw) | Fact::Hold(.., saw) => saw.iter().map(|(store, _)| *store).collect(),
        _ => Vec::new(),
    }
}
