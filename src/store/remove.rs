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
        let Some(mut place) = self.txn.get::<VersionPlace>(&place_key)? else { return Ok(()) };
        let k = key::version(ino, place.at);
        let Some(v) = self.txn.get::<VersionRow>(&k)? else { return Ok(()) };
        let (before, next) = self.kept_around(ino, place.at, v.branch)?;
        if let Some(next) = next {
            self.drop_chunks(ino, v.branch, before, place.at, next)?;
        }
        self.note_gap(ino, &mut row, place.at)?;
        self.txn.delete(k, Keep::Amend)?;
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
        let mut changed_before = BTreeSet::new();
        if let Some(before) = before {
            let (start, end) = window(before, at);
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
            if before.is_none() || changed_before.contains(&chunk) {
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

    /// A lock of a version: the later time and the stricter mode.
    pub(super) fn retain(&mut self, id: VersionId, mode: u8, until: u64) -> Result<()> {
        let k = key::lock(id);
        let mut lock = self.txn.get::<LockRow>(&k)?.unwrap_or_default();
        let mode = mode.min(2);
        let newer = self.state.wins((self.stamp, (mode, until)), (lock.stamp, (lock.mode, lock.until)));
        if lock.mode == 2 || mode == 2 {
            // What complies is only ever extended.
            let (was, is) = (if lock.mode == 2 { lock.until } else { 0 }, if mode == 2 { until } else { 0 });
            lock.until = was.max(is);
            lock.mode = 2;
        } else if newer {
            (lock.mode, lock.until) = (mode, until);
        }
        if newer {
            lock.stamp = self.stamp;
        }
        self.txn.put(k, &lock, Keep::Amend)
    }

    /// A legal hold, put on or taken off.
    pub(super) fn hold(&mut self, id: VersionId, on: bool) -> Result<()> {
        let k = key::lock(id);
        let mut lock = self.txn.get::<LockRow>(&k)?.unwrap_or_default();
        if self.state.wins((self.stamp, on), (lock.hold_stamp, lock.hold)) {
            (lock.hold, lock.hold_stamp) = (on, self.stamp);
        }
        self.txn.put(k, &lock, Keep::Amend)
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
        let Some(place) = place.filter(|p| p.ino == ino && !p.removed) else {
            return Ok(Some(Kept::NotThere));
        };
        let object = txn.object(ino)?;
        let c = &object.content;
        let lock = txn.get::<LockRow>(&key::lock(id))?.unwrap_or_default();
        if lock.hold || (lock.mode > 0 && lock.until > now_ns) {
            return Ok(Some(Kept::Locked));
        }
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
                if b.tip == place.at || b.base.is_some_and(|b| b.at == place.at) {
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
        let now_ns = self.clock.wall_ns();
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

    /// Locks a version until a time (ns since 1970): `compliance` can't be shortened or taken back.
    ///
    /// # Errors
    /// [`FsError::NotFound`], [`FsError::NotPermitted`] if it would weaken a lock in compliance mode.
    pub fn lock_version(&self, id: VersionId, compliance: bool, until_ns: u64) -> Result<Lsn> {
        let (ino, _) = self.find_version(id)?.ok_or(FsError::NotFound)?;
        let (lsn, ()) = self.run(|op| {
            let old = op.apply.txn.get::<LockRow>(&key::lock(id))?.unwrap_or_default();
            if old.mode == 2 && (!compliance || until_ns < old.until) {
                return Err(FsError::NotPermitted.into());
            }
            let object = op.apply.txn.object(ino)?.object;
            op.subject = (object, ino);
            op.fact(Fact::Retain(object, id, 1 + u8::from(compliance), until_ns))
        })?;
        Ok(lsn)
    }

    /// Puts a legal hold on a version, or takes it off.
    ///
    /// # Errors
    /// [`FsError::NotFound`].
    pub fn hold_version(&self, id: VersionId, on: bool) -> Result<Lsn> {
        let (ino, _) = self.find_version(id)?.ok_or(FsError::NotFound)?;
        let (lsn, ()) = self.run(|op| {
            let object = op.apply.txn.object(ino)?.object;
            op.subject = (object, ino);
            op.fact(Fact::Hold(object, id, on))
        })?;
        Ok(lsn)
    }
}
