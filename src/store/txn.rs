//! One record's changes to the index: an overlay over what is there, and the history that they leave.

use std::collections::BTreeMap;

use crate::{
    base::{
        Damage, Error, Ino, Lsn, Result,
        planted::{Bug, planted},
    },
    format::{
        code::{self, Decode, Encode},
        rows::{LinkRow, ObjectRow, Superseded, after_prefix, key, kind},
    },
    index::{Change, Index, Value, check_keys},
};

/// Does a change leave the row it replaces in the history?
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Keep {
    /// No: no moment shows it.
    Amend,
    /// Yes.
    History,
}

#[derive(Debug, Default)]
struct Slot {
    /// What the index holds; false: nobody asked yet.
    loaded: bool,
    before: Option<Value>,
    change: Option<(Option<Vec<u8>>, Keep)>,
}

impl Slot {
    /// Call only once loaded or changed.
    fn now(&self) -> Option<&[u8]> {
        match &self.change {
            Some((row, _)) => row.as_deref(),
            None => self.before.as_ref().map(|v| &v[..]),
        }
    }
}

/// An overlay over the index for the record with one LSN.
pub(super) struct Txn<'a> {
    index: &'a dyn Index,
    lsn: Lsn,
    slots: BTreeMap<Vec<u8>, Slot>,
    /// Objects' rows, which one record reads and writes many times over.
    objects: BTreeMap<Ino, ObjectSlot>,
}

#[derive(Debug)]
struct ObjectSlot {
    before: Option<Value>,
    row: Option<ObjectRow>,
    keep: Option<Keep>,
}

impl<'a> Txn<'a> {
    pub(super) fn new(index: &'a dyn Index, lsn: Lsn) -> Self {
        Self { index, lsn, slots: BTreeMap::new(), objects: BTreeMap::new() }
    }

    /// The LSN of the record whose changes these are.
    pub(super) fn lsn(&self) -> Lsn {
        self.lsn
    }

    /// The index below, as it was before this record.
    pub(super) fn index(&self) -> &'a dyn Index {
        self.index
    }

    fn slot(&mut self, key: &[u8]) -> Result<&mut Slot> {
        if !self.slots.get(key).is_some_and(|s| s.loaded) {
            let before = self.index.get(key)?;
            let slot = self.slots.entry(key.to_vec()).or_default();
            slot.before = before;
            slot.loaded = true;
        }
        Ok(self.slots.get_mut(key).expect("was just inserted"))
    }

    /// A row as this record sees it.
    pub(super) fn get<T: Decode<()>>(&mut self, key: &[u8]) -> Result<Option<T>> {
        self.slot(key)?.now().map(|bytes| row(key, bytes)).transpose()
    }

    /// As [`get`](Self::get), without keeping what it read: for looking at many rows once.
    pub(super) fn peek<T: Decode<()>>(&self, key: &[u8]) -> Result<Option<T>> {
        match self.slots.get(key).filter(|s| s.loaded || s.change.is_some()) {
            Some(slot) => slot.now().map(|bytes| row(key, bytes)).transpose(),
            None => self.index.get(key)?.map(|bytes| row(key, &bytes)).transpose(),
        }
    }

    pub(super) fn has(&mut self, key: &[u8]) -> Result<bool> {
        Ok(self.slot(key)?.now().is_some())
    }

    pub(super) fn put<T: Encode>(&mut self, key: Vec<u8>, row: &T, keep: Keep) -> Result<()> {
        self.change(key, Some(code::encode(row)), keep)
    }

    pub(super) fn delete(&mut self, key: Vec<u8>, keep: Keep) -> Result<()> {
        self.change(key, None, keep)
    }

    fn change(&mut self, key: Vec<u8>, row: Option<Vec<u8>>, keep: Keep) -> Result<()> {
        if keep == Keep::Amend && !self.slots.contains_key(&key) {
            // Nothing asks what was there before: spare the read.
            self.slots.insert(key, Slot { loaded: false, before: None, change: Some((row, keep)) });
            return Ok(());
        }
        // An amendment of what was amended unseen needs no look either.
        let unseen = keep == Keep::Amend && self.slots.get(&key).is_some_and(|s| s.change.is_some());
        let slot = if unseen { self.slots.entry(key).or_default() } else { self.slot(&key)? };
        let keep = slot.change.as_ref().map_or(keep, |(_, k)| keep.max(*k));
        slot.change = Some((row, keep));
        Ok(())
    }

    /// Rows whose keys begin with `prefix`, from `start` on, as this record sees them; at most `limit`.
    pub(super) fn scan(&self, prefix: &[u8], start: &[u8], limit: usize) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
        self.scan_range(start, &after_prefix(prefix), limit)
    }

    /// Rows with `start <= key < end`, as this record sees them; at most `limit`.
    pub(super) fn scan_range(
        &self,
        start: &[u8],
        end: &[u8],
        limit: usize,
    ) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
        let mut found = BTreeMap::new();
        let changed =
            self.slots.range::<[u8], _>((std::ops::Bound::Included(start), std::ops::Bound::Excluded(end)));
        let removals = changed.clone().filter(|(_, s)| matches!(s.change, Some((None, _)))).count();
        for (k, v) in self.index.scan(start, end, limit.saturating_add(removals))? {
            found.insert(k.to_vec(), v.to_vec());
        }
        for (k, slot) in changed {
            match &slot.change {
                Some((Some(row), _)) => {
                    found.insert(k.clone(), row.clone());
                }
                Some((None, _)) => {
                    found.remove(k);
                }
                None => {}
            }
        }
        Ok(found.into_iter().take(limit).collect())
    }

    /// The last rows with `start <= key < end`, as this record sees them, descending; at most `limit`.
    pub(super) fn scan_back_range(
        &self,
        start: &[u8],
        end: &[u8],
        limit: usize,
    ) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
        let changed =
            self.slots.range::<[u8], _>((std::ops::Bound::Included(start), std::ops::Bound::Excluded(end)));
        let removals = changed.clone().filter(|(_, s)| matches!(s.change, Some((None, _)))).count();
        let mut found = BTreeMap::new();
        for (k, v) in self.index.scan_back(start, end, limit.saturating_add(removals))? {
            found.insert(k.to_vec(), v.to_vec());
        }
        for (k, slot) in changed {
            match &slot.change {
                Some((Some(row), _)) => _ = found.insert(k.clone(), row.clone()),
                Some((None, _)) => _ = found.remove(k),
                None => {}
            }
        }
        Ok(found.into_iter().rev().take(limit).collect())
    }

    /// The object's row, which must be there.
    pub(super) fn object(&mut self, ino: Ino) -> Result<ObjectRow> {
        self.object_if_any(ino)?
            .ok_or_else(|| Damage::file("index", 0, format!("there is no row of inode {ino}")).into())
    }

    pub(super) fn object_if_any(&mut self, ino: Ino) -> Result<Option<ObjectRow>> {
        if let Some(slot) = self.objects.get(&ino) {
            return Ok(slot.row.clone());
        }
        let k = key::object(ino);
        let before = self.index.get(&k)?;
        let found: Option<ObjectRow> = before.as_ref().map(|bytes| row(&k, bytes)).transpose()?;
        self.objects.insert(ino, ObjectSlot { before, row: found.clone(), keep: None });
        Ok(found)
    }

    /// Says that there is no object with this number yet, so that nobody has to look.
    pub(super) fn is_new_object(&mut self, ino: Ino) {
        self.objects.entry(ino).or_insert(ObjectSlot { before: None, row: None, keep: None });
    }

    /// Says that nothing stands at a name, so that nobody has to look.
    pub(super) fn is_free_name(&mut self, dir: Ino, name: &[u8]) {
        let slot = self.slots.entry(key::link(dir, name)).or_default();
        slot.loaded = true;
    }

    /// Replaces an object's row. With [`Keep::History`] its attributes hold from now on.
    pub(super) fn put_object(&mut self, ino: Ino, mut row: ObjectRow, keep: Keep) -> Result<()> {
        if keep == Keep::History {
            row.from = self.lsn;
        }
        if !self.objects.contains_key(&ino) {
            self.object_if_any(ino)?;
        }
        if let Some(slot) = self.objects.get_mut(&ino) {
            slot.row = Some(row);
            slot.keep = slot.keep.max(Some(keep));
        }
        Ok(())
    }

    /// The links at a name.
    pub(super) fn links(&mut self, dir: Ino, name: &[u8]) -> Result<Option<LinkRow>> {
        self.get(&key::link(dir, name))
    }

    /// The changes, with the rows of history that they leave.
    pub(super) fn finish(self) -> Result<Vec<Change>> {
        let mut changes = Vec::with_capacity(self.slots.len() + 2 * self.objects.len());
        for (k, slot) in self.slots {
            let Some((after, keep)) = slot.change else { continue };
            note(&mut changes, self.lsn, k, slot.before, after, keep)?;
        }
        for (ino, slot) in self.objects {
            let (Some(keep), Some(row)) = (slot.keep, &slot.row) else { continue };
            note(&mut changes, self.lsn, key::object(ino), slot.before, Some(code::encode(row)), keep)?;
        }
        // Whatever the index would refuse must be refused before the record is in the log.
        check_keys(&changes)?;
        Ok(changes)
    }
}

/// Adds a changed row, and the history that it leaves.
fn note(
    changes: &mut Vec<Change>,
    lsn: Lsn,
    key: Vec<u8>,
    before: Option<Value>,
    after: Option<Vec<u8>>,
    keep: Keep,
) -> Result<()> {
    if keep == Keep::History {
        if after.as_deref() == before.as_deref() {
            return Ok(());
        }
        if let Some(before) = before {
            let from = since(&key, &before)?;
            if from < lsn && !planted(Bug::HistoryLost) {
                let until = if planted(Bug::HistoryFromWrongLsn) { lsn.next() } else { lsn };
                changes.push(Change::put(key::history(&key, from), Superseded::encoded(until, &before)));
            }
        }
    }
    changes.push(Change { key, value: after });
    Ok(())
}

/// Decodes a row of the index; what does not decode is damage.
pub(super) fn row<T: Decode<()>>(key: &[u8], bytes: &[u8]) -> Result<T> {
    code::decode(bytes).map_err(|e| bad_row(key, &e.to_string()))
}

fn bad_row(key: &[u8], why: &str) -> Error {
    let kind = key.first().copied().unwrap_or(kind::INDEX);
    Damage::file("index", 0, format!("a row of kind {kind:#04x} does not decode ({why}); rebuild the index"))
        .into()
}

/// The LSN since which a row holds: rows with history begin with it.
pub(super) fn since(key: &[u8], bytes: &[u8]) -> Result<Lsn> {
    code::decode_prefix::<Lsn>(bytes).map(|(lsn, _)| lsn).map_err(|e| bad_row(key, &e.to_string()))
}

/// The row of a kind with history as it was at `at`.
pub(super) fn row_at(index: &dyn Index, of: &[u8], at: Lsn) -> Result<Option<Vec<u8>>> {
    if let Some(now) = index.get(of)?
        && since(of, &now)? <= at
    {
        return Ok(Some(now.to_vec()));
    }
    let found = index.last(&key::history_prefix(of), &key::history(of, at.next()))?;
    let Some((k, bytes)) = found else { return Ok(None) };
    let old: Superseded = row(&k, &bytes)?;
    Ok((old.until > at).then_some(old.row))
}
