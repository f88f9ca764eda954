//! Bases: the index as of one LSN, written into the log, so that a rebuild needs no record before it.

use std::{collections::BTreeMap, path::Path, sync::Arc};

use crate::{
    base::{
        Damage, Lsn, Result, SegmentId, StoreId, limits,
        planted::{Bug, planted},
    },
    format::{
        Kind, Prepared, code,
        rows::{BasePiece, key, kind},
    },
    index::{Change, Index, Order},
    log::{Log, LogOptions, Record},
};

use super::{Parts, Store};

/// A base in the log.
#[derive(Debug, Clone, Default)]
pub(super) struct Base {
    /// It stands for every record up to here.
    pub(super) as_of: Lsn,
    /// Its last piece.
    pub(super) upto: Lsn,
    /// Where its pieces are.
    pub(super) segments: Vec<SegmentId>,
    /// Bytes of their frames.
    pub(super) bytes: u64,
}

impl Store {
    /// Writes a base: every row of the index as it is now, in pieces, while operations go on. Returns the LSN that it
    /// is as of; it counts once all of it is durable.
    ///
    /// # Errors
    /// What log and index say; a base that was begun and not finished is ignored.
    pub fn write_base(&self) -> Result<Lsn> {
        self.check_usable()?;
        let mut state = Some(self.apply.lock());
        let as_of = self.log.last_lsn();
        if let Some(state) = &state
            && !planted(Bug::BaseWithOldCounters)
        {
            let meta = Change::put(key::meta(), code::encode(&state.meta));
            self.index.apply(as_of, &[meta])?;
        }
        let mut base = Base { as_of, ..Base::default() };
        let mut piece = BasePiece { as_of, part: 0, last: false, rows: Vec::new() };
        let mut bytes = 0;
        let most = limits::BASE_PIECE_BYTES.min(self.log.max_append_bytes() as usize / 4);
        let mut failed = None;
        // The walk sees the moment at which it begins; from its first row on, others may go on.
        self.index.walk(&[1], &[kind::SPARED], Order::Forward, &mut |k, row| {
            drop(state.take());
            bytes += k.len() + row.len();
            piece.rows.push((k.to_vec(), row.to_vec()));
            if bytes < most {
                return true;
            }
            bytes = 0;
            let next = BasePiece { as_of, part: piece.part + 1, last: false, rows: Vec::new() };
            let full = std::mem::replace(&mut piece, next);
            failed = self.append_piece(&full, &mut base).err();
            failed.is_none()
        })?;
        drop(state);
        if let Some(e) = failed {
            return Err(e);
        }
        piece.last = true;
        self.append_piece(&piece, &mut base)?;
        self.log.commit()?;
        *self.base.lock() = Some(base);
        Ok(as_of)
    }

    fn append_piece(&self, piece: &BasePiece, base: &mut Base) -> Result<()> {
        let payload = Prepared::record(code::encode(piece));
        let _order = self.apply.lock();
        let (lsn, at) = self.log.append_cleaning(&[Record::new(Kind::Base, &payload)])?[0];
        base.upto = lsn;
        base.bytes += at.frame_len();
        if base.segments.last() != Some(&at.segment) {
            base.segments.push(at.segment);
        }
        Ok(())
    }
}

/// Fills an empty index from the newest whole base in the log, if there is one. Afterwards it covers the log up
/// to the base's LSN.
///
/// # Errors
/// What reading the log says, or [`crate::base::Error::Damaged`] for a base that does not decode.
pub(super) fn load(parts: &Parts, id: StoreId, options: LogOptions, memtable_bytes: u64) -> Result<()> {
    fill(&*parts.index, Lsn::MAX, memtable_bytes, &|visit| each_piece(parts, id, options, visit))
}

/// Does this index hold rows and cover nothing? Then the filling of it was begun and not ended, over what a new store begins with
/// perhaps, and another base than the rows are of may be the one to begin with: it is to be made anew.
pub(super) fn is_half_filled(index: &dyn Index) -> bool {
    index.flushed_lsn() == Lsn::new(0) && index.stats().disk_rows > 0
}

/// Goes through all pieces of all bases in a log.
type EachPiece<'a> = &'a dyn Fn(&mut dyn FnMut(BasePiece) -> Result<()>) -> Result<()>;

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
pub(super) fn fill(
    index: &dyn Index,
    upto: Lsn,
    memtable_bytes: u64,
    each_piece: EachPiece<'_>,
) -> Result<()> {
    let mut bases: BTreeMap<Lsn, (u32, bool)> = BTreeMap::new();
    each_piece(&mut |piece| {
        let (parts, whole) = bases.entry(piece.as_of).or_default();
        // A base that was begun again at the same LSN counts if its pieces follow each other once.
        if piece.part == 0 {
            (*parts, *whole) = (0, false);
        }
        if piece.part == *parts && !*whole {
            (*parts, *whole) = (*parts + 1, piece.last || planted(Bug::BaseWithoutEnd));
        }
        Ok(())
    })?;
    let Some((newest, _)) = bases.into_iter().rev().find(|(at, (_, whole))| *whole && *at <= upto) else {
        return Ok(());
    };
    let meta_key = key::meta();
    let mut meta = None;
    each_piece(&mut |piece| {
        if piece.as_of != newest {
            return Ok(());
        }
        let mut rows = Vec::with_capacity(piece.rows.len());
        for (k, row) in piece.rows {
            let change = Change::put(k, row);
            if change.key == meta_key { meta = Some(change) } else { rows.push(change) }
        }
        index.apply(newest, &rows)?;
        if index.unflushed_bytes() >= memtable_bytes {
            index.rotate(Lsn::new(0))?;
            index.flush()?;
        }
        Ok(())
    })?;
    index.apply(newest, meta.as_slice())?;
    index.rotate(newest)?;
    index.flush()
}

fn each_piece(
    parts: &Parts,
    id: StoreId,
    options: LogOptions,
    visit: &mut dyn FnMut(BasePiece) -> Result<()>,
) -> Result<()> {
    Log::open(
        Arc::clone(&parts.disk),
        id,
        options,
        Arc::clone(&parts.clock),
        Arc::clone(&parts.random),
        Lsn::new(0),
        &mut |record| {
            if record.kind != Kind::Base {
                return Ok(());
            }
            if record.wrong.is_some() {
                // Its base is not whole then.
                return Ok(());
            }
            let l = &record.location;
            let piece = code::decode(record.payload)
                .map_err(|e| Damage::segment(l.segment, l.offset, Some(record.lsn), e.0))?;
            visit(piece)
        },
    )?;
    Ok(())
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
