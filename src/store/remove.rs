//! Versions that are given up: what may go, and what goes with it.
//!
//! A removed version takes with it the superseded chunks that no version kept needs. Its id stays known, so that
//! no exchange brings it back, and its number is not given again. A moment at which it showed shows the nearest older
//! version that is kept; where there is none, the name is absent.

use std::collections::BTreeSet;

use crate::{
    base::{
        FsError, Ino, Lsn, ObjectId, Result, VersionId,
        planted::{Bug, planted},
    },
    format::{
        facts::{Fact, ObjectKind},
        moments::Moments,
        rows::{
            BranchRow, LockRow, ObjectRow, Superseded, TagRow, VersionPlace, VersionRow, after_prefix, key,
            kind,
        },
    },
};

use super::{
    Op, Store,
    apply::Apply,
    txn::{Keep, row},
};

/// Chunks of an object without any version that are removed at once; more stay behind, and show nobody anything.
const CHUNKS: usize = 4096;
/// Versions removed by one record.
const PER_RECORD: usize = 64;

/// A version that retention thinks of removing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Doomed {
    pub(super) ino: Ino,
    pub(super) id: VersionId,
}

impl Apply<'_, '_> {
    /// A version is given up.
    pub(super) fn removed(&mut self, object: ObjectId, id: VersionId) -> Result<()> {
        let (ino, mut row) = self.object_or_new(object)?;
        let place_key = key::version_id(id);
        let Some(mut place) = self.txn.get::<VersionPlace>(&place_key)? else {
            let lacking = self.txn.has(&key::lacking(ino, id.into()))?;
            return if lacking { self.forgo(ino, id) } else { Ok(()) };
        };
        let k = key::version(ino, place.at);
        let Some(v) = self.txn.get::<VersionRow>(&k)? else { return Ok(()) };
        let (before, next) = self.kept_around(ino, place.at, v.branch)?;
        if let Some(next) = next {
            self.drop_chunks(ino, v.branch, before, place.at, next)?;
        }
        self.note_gap(ino, &mut row, place.at)?;
        self.txn.delete(k, Keep::Amend)?;
        if row.content.disordered {
            self.txn.delete(key::numbered(ino, v.ordinal, v.id), Keep::Amend)?;
        }
        self.txn.delete(key::unhashed(ino, place.at), Keep::Amend)?;
        place.removed = true;
        self.txn.put(place_key, &place, Keep::Amend)?;
        self.state.meta.versions = self.state.meta.versions.saturating_sub(1);
        let c = &mut row.content;
        if c.head == Some(place.at) || c.heads.contains(&place.at) {
            // Only of an object that no name shows: what it was is over.
            c.heads.retain(|at| *at != place.at);
            c.head = c.head.filter(|at| *at != place.at);
            if c.head.is_none() && row.attributes.kind == ObjectKind::File {
                (c.size, c.allocated) = (0, 0);
                c.cuts.clear();
            }
            if before.is_none() && next.is_none() {
                self.drop_rest(ino, v.branch)?;
            }
        }
        if row.content.branch != v.branch && before.is_none() && next.is_none() {
            // The last version of a line that does not show: nothing rests any more on where that began.
            self.drop_rest(ino, v.branch)?;
            self.txn.put(
                key::branch(ino, v.branch),
                &BranchRow { base: None, tip: place.at },
                Keep::Amend,
            )?;
        }
        self.txn.put_object(ino, row, Keep::Amend)
    }

    /// The versions kept on a branch right before and right after this LSN.
    fn kept_around(&mut self, ino: Ino, at: Lsn, branch: u32) -> Result<(Option<Lsn>, Option<Lsn>)> {
        let on_branch = |k: &[u8], bytes: &[u8]| -> Result<Option<Lsn>> {
            let v: VersionRow = row(k, bytes)?;
            Ok((v.branch == branch).then(|| Lsn::new(key::last_number(k).unwrap_or(0))))
        };
        let mut before = None;
        let mut end = key::version(ino, at);
        'back: loop {
            let page = self.txn.scan_back_range(&key::version(ino, Lsn::new(0)), &end, 16)?;
            let Some((last, _)) = page.last() else { break };
            end.clone_from(last);
            for (k, bytes) in &page {
                before = on_branch(k, bytes)?;
                if before.is_some() {
                    break 'back;
                }
            }
        }
        let mut next = None;
        let mut start = key::version(ino, at.next());
        let end = key::version(ino, Lsn::MAX);
        'forward: loop {
            let page = self.txn.scan_range(&start, &end, 16)?;
            let Some((last, _)) = page.last() else { break };
            start.clone_from(last);
            start.push(0);
            for (k, bytes) in &page {
                next = on_branch(k, bytes)?;
                if next.is_some() {
                    break 'forward;
                }
            }
        }
        Ok((before, next))
    }

    /// Removes the superseded chunks that held at `at`, that came after `before` and ended by `next`.
    fn drop_chunks(&mut self, ino: Ino, branch: u32, before: Option<Lsn>, at: Lsn, next: Lsn) -> Result<()> {
        let window = |from: Lsn, to: Lsn| {
            (key::dirty(ino, branch, from.next(), 0), key::dirty(ino, branch, to.next(), 0))
        };
        // What follows is described by the version before, or by that where the branch began.
        let began = self.txn.get::<BranchRow>(&key::branch(ino, branch))?.and_then(|b| b.base);
        let rests_on = before.or(began.map(|b| b.at));
        let mut changed_before = BTreeSet::new();
        if let Some(rests_on) = rests_on {
            let (start, end) = window(rests_on, at);
            for (k, _) in self.txn.scan_range(&start, &end, usize::MAX)? {
                changed_before.extend(key::last_number(&k));
            }
        }
        let (start, end) = window(at, next);
        for (k, _) in self.txn.scan_range(&start, &end, usize::MAX)? {
            let Some(chunk) = key::last_number(&k) else { continue };
            let of = key::chunk(ino, branch, chunk);
            let old =
                self.txn.scan_back_range(&key::history_prefix(&of), &key::history(&of, at.next()), 1)?;
            if let Some((old_key, bytes)) = old.into_iter().next() {
                let held: Superseded = row(&old_key, &bytes)?;
                let from = Lsn::new(key::last_number(&old_key).unwrap_or(0));
                let needed = before.is_some_and(|b| from <= b) && !planted(Bug::RemovalDropsTooMuch);
                if held.until > at && !needed {
                    self.txn.delete(old_key, Keep::Amend)?;
                }
            }
            // That it changed since the version before is noted already.
            if rests_on.is_none() || changed_before.contains(&chunk) {
                self.txn.delete(k, Keep::Amend)?;
            }
        }
        Ok(())
    }

    /// An object that has no version left: its chunks, if there are few.
    fn drop_rest(&mut self, ino: Ino, branch: u32) -> Result<()> {
        let (start, end) = (key::chunk(ino, branch, 0), key::chunk(ino, branch, u64::MAX));
        let rows = self.txn.scan_range(&start, &end, CHUNKS + 1)?;
        if rows.len() <= CHUNKS {
            for (k, _) in rows {
                self.txn.delete(k, Keep::Amend)?;
            }
        }
        Ok(())
    }

    /// Notes where versions are missing: in the version kept before, or in the object.
    fn note_gap(&mut self, ino: Ino, object: &mut ObjectRow, at: Lsn) -> Result<()> {
        let earlier = |a: Option<Lsn>| Some(a.map_or(at, |a| a.min(at)));
        let page = self.txn.scan_back_range(&key::version(ino, Lsn::new(0)), &key::version(ino, at), 1)?;
        match page.into_iter().next() {
            Some((k, bytes)) => {
                let mut kept: VersionRow = row(&k, &bytes)?;
                kept.gap = earlier(kept.gap);
                self.txn.put(k, &kept, Keep::Amend)
            }
            None => {
                let c = &mut object.content;
                c.gap = earlier(c.gap);
                Ok(())
            }
        }
    }
}

/// Why a version may not be removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kept {
    /// It is not here, or was removed already.
    NotThere,
    /// The file shows it, rests on it, or may yet be merged with it.
    Head,
    /// Another line of versions begins at it.
    Base,
    /// A tagged moment shows it.
    Tagged,
    /// It is locked, or held.
    Locked,
}

impl Op<'_, '_> {
    /// Why this version has to stay; `None`: it may go.
    fn keeps(&mut self, store: &Store, doomed: &Doomed, now_ns: u64) -> Result<Option<Kept>> {
        let Doomed { ino, id } = *doomed;
        let txn = &mut *self.apply.txn;
        let place = txn.get::<VersionPlace>(&key::version_id(id))?;
        let lacking = place.is_none() && txn.has(&key::lacking(ino, id.into()))?;
        let place = place.filter(|p| p.ino == ino && !p.removed);
        if place.is_none() && !lacking {
            return Ok(Some(Kept::NotThere));
        }
        let lock = txn.get::<LockRow>(&key::lock(id))?.unwrap_or_default();
        if lock.protection(now_ns).protects(now_ns) {
            return Ok(Some(Kept::Locked));
        }
        // What only its facts are here of shows nothing, and nothing rests on it.
        let Some(place) = place else { return Ok(None) };
        let object = txn.object(ino)?;
        let c = &object.content;
        // Of what is gone for good nothing has to stay; but while there are other stores, one may bring it back.
        let over = object.attributes.links == 0
            && !c.draft
            && c.heads.len() <= 1
            && c.branches <= 1
            && !self.apply.state.meta.foreign
            && !txn.has(&key::listed(kind::ORPHAN, ino))?;
        let shows = c.head == Some(place.at) || c.heads.contains(&place.at) || c.tip == place.at;
        if shows && !over {
            return Ok(Some(Kept::Head));
        }
        if c.branches > 1 {
            let prefix = key::branch(ino, 0);
            let prefix = &prefix[..prefix.len() - 4];
            for (k, bytes) in txn.scan(prefix, prefix, usize::MAX)? {
                let b: BranchRow = row(&k, &bytes)?;
                if b.base.is_some_and(|b| b.at == place.at) {
                    return Ok(Some(Kept::Base));
                }
            }
        }
        let now = (&self.apply.state.meta.moments, store.log.last_lsn());
        if store.is_tagged(ino, place.at, now)? { Ok(Some(Kept::Tagged)) } else { Ok(None) }
    }
}

impl Store {
    /// Does a tagged moment show this version of an object, as of now?
    pub(super) fn shown_by_a_tag(&self, ino: Ino, at: Lsn) -> Result<bool> {
        let (pending, last) = {
            let state = self.apply.lock();
            (state.meta.moments, self.log.last_lsn())
        };
        self.is_tagged(ino, at, (&pending, last))
    }

    /// Does a tagged moment show this version of an object?
    fn is_tagged(&self, ino: Ino, at: Lsn, (pending, last): (&Moments, Lsn)) -> Result<bool> {
        if planted(Bug::RemovalIgnoresTags) {
            return Ok(false);
        }
        for (k, bytes) in self.index.scan(&[kind::TAG], &after_prefix(&[kind::TAG]), usize::MAX)? {
            let Some(moment) = row::<TagRow>(&k, &bytes)?.moment else { continue };
            if let Some(tagged) = self.lsn_of(pending, last, moment)?
                && tagged >= at
                && self.view_at(tagged).shown_at(ino)? == Some(at)
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Removes versions, except those that have to stay. Returns how many went.
    pub(super) fn remove_versions(&self, doomed: &[Doomed], now_ns: u64) -> Result<u64> {
        let mut gone = 0;
        for part in doomed.chunks(PER_RECORD) {
            let (_, n) = self.run_quiet(|op| {
                let mut n = 0;
                for d in part {
                    if op.keeps(self, d, now_ns)?.is_none() {
                        let object = op.apply.txn.object(d.ino)?.object;
                        op.fact(Fact::Removed(object, d.id))?;
                        n += 1;
                    }
                }
                Ok(n)
            })?;
            gone += n;
        }
        Ok(gone)
    }

    /// Of these, the versions that [`remove_versions`](Self::remove_versions) would remove.
    pub(super) fn removable<'d>(&self, doomed: &'d [Doomed], now_ns: u64) -> Result<Vec<&'d Doomed>> {
        let mut found = Vec::new();
        for part in doomed.chunks(PER_RECORD) {
            // Without a fact there is no record.
            self.run_quiet(|op| {
                for d in part {
                    if op.keeps(self, d, now_ns)?.is_none() {
                        found.push(d);
                    }
                }
                Ok(())
            })?;
        }
        Ok(found)
    }

    /// Removes one version, unless something keeps it: then says what.
    ///
    /// # Errors
    /// [`FsError::NotFound`] for a version that is not here, or what the log says.
    pub fn remove_version(&self, id: VersionId) -> Result<Option<Kept>> {
        let (ino, _) = self.find_version(id)?.ok_or(FsError::NotFound)?;
        let now_ns = self.expiry().time_ns;
        let (_, kept) = self.run_quiet(|op| {
            let kept = op.keeps(self, &Doomed { ino, id }, now_ns)?;
            if kept.is_none() {
                let object = op.apply.txn.object(ino)?.object;
                op.fact(Fact::Removed(object, id))?;
            }
            Ok(kept)
        })?;
        Ok(kept)
    }
}
