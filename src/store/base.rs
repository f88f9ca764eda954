//! Bases: the index as of one LSN, written into the log, so that a rebuild needs no record before it.
//!
//! A base is a list of pieces, each a stretch of rows. Where a piece ends is told by the keys alone, so what did not change
//! since the last base lies in pieces with the same content, and the list names those that are there: a base costs what
//! changed. A row of the index says where the list of the newest base lies, so that it is not forgotten when the store
//! is closed.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    path::Path,
    sync::Arc,
};

use parking_lot::MutexGuard;

use crate::{
    base::{
        Damage, Error, Lsn, Result, SegmentId, StoreId, limits,
        planted::{Bug, planted},
    },
    format::{
        Kind, Location, Prepared, code,
        rows::{BaseList, BasePiece, BaseRecord, BaseRow, after_prefix, key, kind},
    },
    index::{Change, Index, Order},
    log::{Log, LogOptions, Record},
    segment,
};

use super::{
    Parts, Store,
    state::State,
    txn::{Keep, Txn, row},
};

/// Bytes of the log for each piece in one record of the list, of what an append can take.
const LIST_SHARE: u64 = 32 << 10;

/// A base in the log.
#[derive(Debug, Clone, Default)]
pub(super) struct Base {
    /// It stands for every record up to here.
    pub(super) as_of: Lsn,
    /// The last record of its list.
    pub(super) upto: Lsn,
    /// The base before it was as of this.
    before: Lsn,
    /// Its pieces, by their hash.
    pieces: HashMap<[u8; 16], BasePiece>,
    /// Where its list is.
    lists: Vec<Location>,
}

impl Base {
    /// One that would stand for everything up to here and keep nothing from going.
    pub(super) fn wished(as_of: Lsn) -> Self {
        Self { as_of, ..Self::default() }
    }

    fn places(&self) -> impl Iterator<Item = &Location> {
        self.pieces.values().map(|p| &p.location).chain(&self.lists)
    }

    /// Bytes of its records in each segment that has some.
    pub(super) fn segments(&self) -> HashMap<SegmentId, u64> {
        let mut found = HashMap::new();
        for at in self.places() {
            *found.entry(at.segment).or_default() += frame_len(at);
        }
        found
    }

    /// Bytes of its records.
    pub(super) fn bytes(&self) -> u64 {
        self.places().map(frame_len).sum()
    }

    /// What another base would cost now, about, in bytes: as much for each record since as this one did.
    pub(super) fn next_bytes(&self, now: Lsn) -> u64 {
        let all = self.bytes();
        let spent: u64 =
            self.pieces.values().filter(|p| p.record > self.as_of).map(|p| frame_len(&p.location)).sum();
        let records = self.as_of.get().saturating_sub(self.before.get()).max(1);
        let since = now.get().saturating_sub(self.as_of.get());
        (spent as f64 / records as f64 * since as f64).min(all as f64) as u64
    }
}

fn frame_len(at: &Location) -> u64 {
    segment::Location::of_record(at, Kind::Base).frame_len()
}

/// A base that is being written.
struct Writing<'a> {
    store: &'a Store,
    made: Base,
    known: Base,
    /// Pieces that lie here are written again.
    vacate: &'a HashSet<SegmentId>,
    rows: Vec<(Vec<u8>, Vec<u8>)>,
    bytes: usize,
    /// A piece has so many bytes at most.
    most: usize,
    order: Vec<BasePiece>,
    written: u64,
}

impl Store {
    /// Writes a base: every row of the index as it is now, while operations go on. Returns the LSN that it is as of; it
    /// counts once all of it is durable.
    ///
    /// # Errors
    /// What log and index say; a base that was begun and not finished is ignored.
    pub fn write_base(&self) -> Result<Lsn> {
        self.write_base_without(&HashSet::new()).map(|(as_of, _)| as_of)
    }

    /// As [`write_base`](Self::write_base), without anything that lies in these segments; and how many bytes that took.
    pub(super) fn write_base_without(&self, vacate: &HashSet<SegmentId>) -> Result<(Lsn, u64)> {
        self.check_usable()?;
        let known = self.known_base()?.unwrap_or_default();
        let mut state = Some(self.apply.lock());
        let as_of = self.log.last_lsn();
        if let Some(state) = &state
            && !planted(Bug::BaseWithOldCounters)
        {
            let meta = Change::put(key::meta(), code::encode(&state.meta));
            self.index.apply(as_of, &[meta])?;
        }
        let most = limits::BASE_PIECE_BYTES.min(self.log.max_append_bytes() as usize / 4);
        let made = Base { as_of, before: known.as_of, ..Base::default() };
        let mut writing = Writing {
            store: self,
            made,
            known,
            vacate,
            rows: Vec::new(),
            bytes: 0,
            most,
            order: Vec::new(),
            written: 0,
        };
        let mut failed = None;
        // The walk sees the moment at which it begins; from its first row on, others may go on.
        self.index.walk(&[1], &[kind::SPARED], Order::Forward, &mut |k, row| {
            drop(state.take());
            failed = writing.row(k, row).err();
            failed.is_none()
        })?;
        drop(state);
        if let Some(e) = failed {
            return Err(e);
        }
        let (base, written) = writing.finish()?;
        self.log.commit()?;
        *self.base.lock() = Some(base);
        Ok((as_of, written))
    }

    /// The newest base in the log, also of an earlier opening.
    pub(super) fn known_base(&self) -> Result<Option<Base>> {
        let mut base = self.base.lock();
        if base.is_none() {
            *base = self.base_of_rows()?;
        }
        Ok(base.clone())
    }

    /// Forgets the newest base, of which something is damaged: the next one is written as a whole.
    pub(super) fn forget_base(&self) {
        *self.base.lock() = Some(Base::default());
    }

    /// The base that the index names, if all of its list can be read.
    fn base_of_rows(&self) -> Result<Option<Base>> {
        let mut base = Base::default();
        let (start, end) = (vec![kind::BASE], after_prefix(&[kind::BASE]));
        for (n, (k, bytes)) in self.index.scan(&start, &end, usize::MAX)?.iter().enumerate() {
            let found: BaseRow = row(k, bytes)?;
            if n > 0 && found.as_of != base.as_of {
                return Ok(None);
            }
            let at = segment::Location::of_record(&found.location, Kind::Base);
            let record = match self.log.read_record(&at) {
                Ok(record) => record,
                Err(Error::Damaged(d)) => {
                    tracing::warn!("the list of the last base can't be read: {d}");
                    return Ok(None);
                }
                Err(e) => return Err(e),
            };
            let Ok(BaseRecord::List(list)) = code::decode(&record.payload) else { return Ok(None) };
            if list.part != n as u32 {
                return Ok(None);
            }
            (base.as_of, base.before, base.upto) = (list.as_of, list.before, record.lsn);
            base.lists.push(found.location);
            base.pieces.extend(list.pieces.into_iter().map(|p| (p.hash, p)));
            if list.last {
                // A piece that is gone can't be read for a rebuild, so nothing may rest on it.
                let whole = base.places().all(|at| self.log.is_there(at.segment));
                return Ok(whole.then_some(base));
            }
        }
        Ok(None)
    }
}

impl Writing<'_> {
    fn row(&mut self, k: &[u8], row: &[u8]) -> Result<()> {
        let len = k.len() + row.len();
        if self.bytes + len > self.most && !self.rows.is_empty() {
            self.piece()?;
        }
        self.bytes += len;
        self.rows.push((k.to_vec(), row.to_vec()));
        if self.bytes >= self.most / 16 && ends_piece(k, len, self.most / 4) { self.piece() } else { Ok(()) }
    }

    /// The rows so far are a piece: one that is there, or a new one.
    fn piece(&mut self) -> Result<()> {
        self.bytes = 0;
        let payload = code::encode(&BaseRecord::Rows(std::mem::take(&mut self.rows)));
        let mut hash = [0; 16];
        hash.copy_from_slice(&blake3::hash(&payload).as_bytes()[..16]);
        let known = self.known.pieces.get(&hash).copied();
        let piece = match known.filter(|p| !self.vacate.contains(&p.location.segment)) {
            Some(piece) => piece,
            None => {
                let payload = Prepared::record(payload);
                let (record, location) = self.append(&payload, |_, _, _| Ok(()))?;
                BasePiece { record, hash, location }
            }
        };
        self.order.push(piece);
        self.made.pieces.insert(hash, piece);
        Ok(())
    }

    fn append(
        &mut self,
        payload: &Prepared,
        then: impl FnOnce(&mut Txn<'_>, Lsn, Location) -> Result<()>,
    ) -> Result<(Lsn, Location)> {
        let store = self.store;
        let bytes = payload.stored().len() as u64 + limits::BLOCK_BYTES;
        let _step = store.step_aside(bytes, 1)?;
        let mut state: MutexGuard<'_, State> = store.apply.lock();
        store.check_usable()?;
        let lsn = store.log.last_lsn().next();
        let mut txn = Txn::new(&*store.index, lsn);
        let apart = store.until_applied();
        let (got, at) = store.log.append_cleaning(&[Record::new(Kind::Base, payload)])?[0];
        store.check_lsn(got, lsn)?;
        let location = Location::from(at);
        then(&mut txn, lsn, location)?;
        let next = state.clone();
        store.land(&mut state, next, lsn, &txn.finish()?)?;
        apart.done();
        self.written += at.frame_len();
        Ok((lsn, location))
    }

    fn finish(mut self) -> Result<(Base, u64)> {
        if !self.rows.is_empty() {
            self.piece()?;
        }
        let per_list = (self.store.log.max_append_bytes() / LIST_SHARE).max(1) as usize;
        let (as_of, before) = (self.made.as_of, self.made.before);
        let order = std::mem::take(&mut self.order);
        let parts = order.len().div_ceil(per_list) as u32;
        for (part, pieces) in (0..).zip(order.chunks(per_list)) {
            let last = part + 1 == parts;
            let list = BaseList { as_of, before, part, last, pieces: pieces.to_vec() };
            let payload = Prepared::record(code::encode(&BaseRecord::List(list)));
            let (lsn, at) =
                self.append(&payload, |txn, _, location| list_applied(txn, part, as_of, location))?;
            self.made.upto = lsn;
            self.made.lists.push(at);
        }
        Ok((self.made, self.written))
    }
}

/// Does a piece end behind this row? By chance, with the key as the dice, so that pieces have about `mean` bytes and a row that
/// comes or goes changes no more than the piece in which it lies.
fn ends_piece(k: &[u8], len: usize, mean: usize) -> bool {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for b in k {
        hash = (hash ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3);
    }
    hash ^= hash >> 32;
    hash = hash.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (hash >> 32) * (mean as u64) < ((len as u64) << 32)
}

/// Where the list of a base lies.
fn list_applied(txn: &mut Txn<'_>, part: u32, as_of: Lsn, location: Location) -> Result<()> {
    txn.put(key::base(part), &BaseRow { as_of, location }, Keep::Amend)
}

/// Replays a record of a base: only its list changes a row.
pub(super) fn replayed(txn: &mut Txn<'_>, payload: &[u8], location: Location) -> Result<()> {
    if !BaseRecord::is_list(payload) {
        return Ok(());
    }
    match code::decode(payload) {
        Ok(BaseRecord::List(list)) => list_applied(txn, list.part, list.as_of, location),
        // It is not what this program writes: then no base is known, and the next one is written as a whole.
        _ => Ok(()),
    }
}

/// Fills an empty index from the newest whole base in the log, if there is one. Afterwards it covers the log up
/// to the base's LSN.
///
/// # Errors
/// What reading the log says, or [`crate::base::Error::Damaged`] for a base that does not decode.
pub(super) fn load(parts: &Parts, id: StoreId, options: LogOptions, memtable_bytes: u64) -> Result<()> {
    let (disk, clock, random) =
        (Arc::clone(&parts.disk), Arc::clone(&parts.clock), Arc::clone(&parts.random));
    // Nothing is replayed yet.
    let (log, _) = Log::open(disk, id, options, clock, random, Lsn::MAX, &mut |_| Ok(()))?;
    fill(&*parts.index, Lsn::MAX, memtable_bytes, &log)
}

/// Does this index hold rows and cover nothing? Then the filling of it was begun and not ended, over what a new store begins with
/// perhaps, and another base than the rows are of may be the one to begin with: it is to be made anew.
pub(super) fn is_half_filled(index: &dyn Index) -> bool {
    index.flushed_lsn() == Lsn::new(0) && index.stats().disk_rows > 0
}

/// A log in which bases are looked for.
pub(super) trait Bases {
    /// Goes once through all records of bases that can be read, in their order.
    ///
    /// # Errors
    /// What the disk or `visit` says.
    fn each(&self, visit: &mut dyn FnMut(Lsn, &segment::Location, BaseRecord) -> Result<()>) -> Result<()>;

    /// One of them once more.
    ///
    /// # Errors
    /// As of [`each`](Self::each).
    fn again(&self, at: &segment::Location) -> Result<BaseRecord>;
}

impl Bases for Log {
    fn each(&self, visit: &mut dyn FnMut(Lsn, &segment::Location, BaseRecord) -> Result<()>) -> Result<()> {
        for s in self.segments() {
            for entry in self.listing(s.id)?.entries.iter().filter(|e| e.kind == Kind::Base) {
                match self.read_entry(s.id, entry) {
                    Ok(found) => {
                        visit(found.lsn, &found.location, decoded(&found.location, &found.payload)?)?
                    }
                    // Its base is not whole then.
                    Err(Error::Damaged(_)) => {}
                    // Nor if the disk does not give it.
                    Err(e @ Error::Io { .. }) => tracing::warn!("a record of a base is passed over: {e}"),
                    Err(e) => return Err(e),
                }
            }
        }
        Ok(())
    }

    fn again(&self, at: &segment::Location) -> Result<BaseRecord> {
        decoded(at, &self.read_record(at)?.payload)
    }
}

/// What the payload of a record of a base says.
pub(super) fn decoded(at: &segment::Location, payload: &[u8]) -> Result<BaseRecord> {
    code::decode(payload).map_err(|e| Damage::segment(at.segment, at.offset, None, e.0).into())
}

/// The list of a base as it is read.
#[derive(Default)]
struct Listed {
    parts: u32,
    whole: bool,
    pieces: Vec<Lsn>,
}

/// Takes all rows out of an index whose filling was not ended.
pub(super) fn clear(index: &dyn Index) -> Result<()> {
    loop {
        let rows = index.scan(&[1], &[0xff], 4096)?;
        if rows.is_empty() {
            return Ok(());
        }
        let gone: Vec<_> = rows.into_iter().map(|(k, _)| Change::remove(k)).collect();
        index.apply(Lsn::new(0), &gone)?;
    }
}

/// As [`load`], from the newest whole base as of `upto` or before. Rows are written out whenever there are `memtable_bytes` of
/// them; until the end the index says that it covers nothing.
///
/// # Errors
/// As of [`load`].
pub(super) fn fill(index: &dyn Index, upto: Lsn, memtable_bytes: u64, log: &dyn Bases) -> Result<()> {
    let mut bases: BTreeMap<Lsn, Listed> = BTreeMap::new();
    let mut there = HashMap::new();
    log.each(&mut |lsn, at, record| {
        match record {
            BaseRecord::Rows(_) => _ = there.insert(lsn, *at),
            BaseRecord::List(list) => {
                let listed = bases.entry(list.as_of).or_default();
                // A base that was begun again at the same LSN counts if the parts of its list follow each other once.
                if list.part == 0 {
                    *listed = Listed::default();
                }
                if list.part == listed.parts && !listed.whole {
                    listed.parts += 1;
                    listed.whole = list.last || planted(Bug::BaseWithoutEnd);
                    listed.pieces.extend(list.pieces.iter().map(|p| p.record));
                }
            }
        }
        Ok(())
    })?;
    let is_whole = |l: &Listed| l.whole && l.pieces.iter().all(|p| there.contains_key(p));
    let newest = bases.into_iter().rev().find(|(at, listed)| *at <= upto && is_whole(listed));
    let Some((newest, listed)) = newest else { return Ok(()) };
    let meta_key = key::meta();
    let mut meta = None;
    for at in listed.pieces.iter().filter_map(|p| there.get(p)) {
        let BaseRecord::Rows(found) = log.again(at)? else { continue };
        let mut rows = Vec::with_capacity(found.len());
        for (k, row) in found {
            let change = Change::put(k, row);
            if change.key == meta_key { meta = Some(change) } else { rows.push(change) }
        }
        index.apply(newest, &rows)?;
        if index.unflushed_bytes() >= memtable_bytes {
            index.rotate(Lsn::new(0))?;
            index.flush()?;
        }
    }
    index.apply(newest, meta.as_slice())?;
    index.rotate(newest)?;
    index.flush()
}

/// Is a base looked for? Only when the index is empty and the log is not.
#[must_use]
pub(super) fn wanted(index: &dyn Index, disk: &dyn crate::disk::Disk) -> bool {
    index.flushed_lsn() == Lsn::new(0)
        && disk.list(Path::new(crate::segment::DIRECTORY)).is_ok_and(|names| !names.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        base::Ino,
        format::facts::Owner,
        index::{SortedIndex, destroy},
        store::{NewObject, Options, inspect::Inspection},
    };

    #[test]
    fn an_index_that_was_half_filled_is_made_anew() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let options = || Options { background: false, ..Options::default() };
        let store = Store::create(&path, options()).unwrap();
        let new = NewObject::file(0o644, Owner::default());
        store.create_object(Ino::FIRST, b"here", &new).unwrap();
        store.write_base().unwrap();
        store.close().unwrap();
        let entry = store.index.get(&key::link(Ino::FIRST, b"here")).unwrap().unwrap();
        drop(store);
        // What a kill leaves in the middle, with a row that no base of now has.
        destroy(&path.join("index")).unwrap();
        let index = SortedIndex::open(&path.join("index"), 1 << 20).unwrap();
        let row = Change::put(key::link(Ino::FIRST, b"of another base"), &entry[..]);
        index.apply(Lsn::new(9), &[row]).unwrap();
        index.rotate(Lsn::new(0)).unwrap();
        index.flush().unwrap();
        drop(index);
        let store = Store::open(&path, options()).unwrap();
        let names: Vec<_> = store.view().entries(Ino::FIRST, None, 10).unwrap();
        assert_eq!(names.iter().map(|e| &e.name[..]).collect::<Vec<_>>(), [b"here"]);
        store.close().unwrap();
        drop(store);
        let found = Inspection::open(&path).unwrap().check_index(&|_, _| {}).unwrap();
        assert_eq!(found.different, 0, "{found:?}");
    }
}
