//! Moments: from a time to what this store shows for it, and the tags that name times.

use crate::{
    base::{FsError, Lsn, Result},
    format::{
        moments::{Moments, MomentsRow, Place},
        rows::{TagRow, after_prefix, key, kind},
    },
};

use super::{
    Store,
    read::View,
    txn::{row, row_at},
};

/// A tag: a name for a moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tag {
    /// Its name.
    pub name: Vec<u8>,
    /// The moment, ns since 1970, the same on every store. [`Store::lsn_at`] says what this one shows for it.
    pub moment_ns: u64,
}

impl Store {
    /// What this store shows for a moment (ns since 1970): the highest LSN up to which no fact is stamped later. None if
    /// the first of its facts is later already.
    ///
    /// It holds whatever this store knew by then, and of what arrived after it what was stamped not later, as long as nothing
    /// stamped later had come before; see `docs/FORMAT.md` section 9.
    ///
    /// # Errors
    /// What reading the index says.
    pub fn lsn_at(&self, moment_ns: u64) -> Result<Option<Lsn>> {
        let (pending, last) = {
            let state = self.apply.lock();
            (state.meta.moments, self.log.last_lsn())
        };
        self.lsn_of(&pending, last, moment_ns)
    }

    /// As [`lsn_at`](Self::lsn_at), for who has the lock.
    pub(super) fn lsn_of(&self, pending: &Moments, last: Lsn, moment_ns: u64) -> Result<Option<Lsn>> {
        let begins_at = |first: Option<Lsn>| first.map_or(last, |l| Lsn::new(l.get().saturating_sub(1)));
        let found = match pending.find(moment_ns) {
            Place::At(lsn) => lsn,
            Place::Behind => last,
            Place::Before => {
                // Rows that were made since the lock was let go begin where `pending` does.
                let next = after_prefix(&key::moments(moment_ns));
                let within = match self.index.last(&[kind::MOMENTS], &next)? {
                    None => Place::Behind,
                    Some((k, bytes)) => {
                        let rises: MomentsRow = row(&k, &bytes)?;
                        rises.find(key::last_number(&k).unwrap_or(0), moment_ns)
                    }
                };
                if let Place::At(lsn) = within {
                    lsn
                } else {
                    let rows = self.index.scan(&next, &after_prefix(&[kind::MOMENTS]), 1)?;
                    match rows.first() {
                        Some((k, bytes)) => begins_at(Some(row::<MomentsRow>(k, bytes)?.at)),
                        None => begins_at(pending.first()),
                    }
                }
            }
        };
        Ok((found >= Lsn::FIRST).then_some(found))
    }
}

impl Store {
    /// When something changed last, not later than a moment (both ns since 1970); none: nothing had by then.
    ///
    /// # Errors
    /// What reading the index says.
    pub fn changed_upto(&self, moment_ns: u64) -> Result<Option<u64>> {
        let pending = self.apply.lock().meta.moments;
        if let Some(found) = pending.last_upto(moment_ns) {
            return Ok(Some(found));
        }
        let next = after_prefix(&key::moments(moment_ns));
        let Some((k, bytes)) = self.index.last(&[kind::MOMENTS], &next)? else { return Ok(None) };
        let rises: MomentsRow = row(&k, &bytes)?;
        Ok(rises.last_upto(key::last_number(&k).unwrap_or(0), moment_ns))
    }
}

impl Store {
    /// Adds a tag on this moment, or removes one; the tag, if it is there now.
    ///
    /// # Errors
    /// [`FsError::Exists`] for one that is there, [`FsError::NotFound`] for one that is not, and those of
    /// [`tag`](Self::tag).
    pub fn set_tag(&self, name: &[u8], on: bool) -> Result<Option<Tag>> {
        match (on, self.view().tag(name)?) {
            (true, Some(_)) => return Err(FsError::Exists.into()),
            (false, None) => return Err(FsError::NotFound.into()),
            _ => {}
        }
        self.tag(name, on)?;
        self.view().tag(name)
    }
}

impl View<'_> {
    /// A tag; none if there is none by this name.
    ///
    /// # Errors
    /// What reading the index says.
    pub fn tag(&self, name: &[u8]) -> Result<Option<Tag>> {
        let k = key::tag(name);
        let bytes = match self.at {
            None => self.store.index.get(&k)?.map(|v| v.to_vec()),
            Some(at) => row_at(&*self.store.index, &k, at)?,
        };
        let found: Option<TagRow> = bytes.map(|b| row(&k, &b)).transpose()?;
        Ok(found.and_then(|t| t.moment).map(|moment_ns| Tag { name: name.to_vec(), moment_ns }))
    }

    /// All tags, in the order of their names.
    ///
    /// # Errors
    /// What reading the index says.
    pub fn tags(&self) -> Result<Vec<Tag>> {
        // A removed tag keeps its row, so every name that ever was is among these.
        let rows = self.store.index.scan(&[kind::TAG], &after_prefix(&[kind::TAG]), usize::MAX)?;
        let mut found = Vec::new();
        for (k, _) in rows {
            found.extend(self.tag(k.get(1..).unwrap_or_default())?);
        }
        Ok(found)
    }
}
