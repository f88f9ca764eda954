//! Object Lock: retention of single versions until a date, in governance or compliance mode, and legal hold.
//!
//! A lock is a register that merges: of what several stores said without knowing of each other, the later date and the stricter
//! mode hold, and a hold stays until somebody takes it off who saw it. So a fact names what its maker had seen, and puts itself
//! in the place of that; what it did not see stands beside it. Compliance gives way to nothing but compliance for longer.

use crate::{
    base::{FsError, Lsn, Result, StoreId, VersionId},
    format::{
        facts::{Fact, Lock},
        rows::{LockEntry, LockRow, Stamp, VersionPlace, key},
    },
};

use super::{
    Op, Store,
    apply::Apply,
    txn::{Keep, row},
};

/// How a locked version is protected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LockMode {
    /// Until the date, unless somebody says that he means to bypass it.
    Governance,
    /// Until the date, whoever says what.
    Compliance,
}

impl LockMode {
    fn code(self) -> u8 {
        match self {
            Self::Governance => 1,
            Self::Compliance => 2,
        }
    }

    fn of(code: u8) -> Option<Self> {
        match code {
            0 => None,
            1 => Some(Self::Governance),
            _ => Some(Self::Compliance),
        }
    }
}

/// What protects a version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Protection {
    /// Mode and time, ns since 1970; one whose time is over is shown, too, and protects no more.
    pub lock: Option<(LockMode, u64)>,
    /// A legal hold, for as long as it is on.
    pub hold: bool,
}

impl Protection {
    /// Does it keep the version at this time?
    #[must_use]
    pub fn protects(&self, now_ns: u64) -> bool {
        self.hold || self.lock.is_some_and(|(_, until)| until > now_ns)
    }
}

impl LockRow {
    /// What holds at this time: of the locks that are not over the strictest mode and the latest date, else what was last.
    pub(super) fn protection(&self, now_ns: u64) -> Protection {
        let active = self.locks.iter().any(|l| l.until > now_ns);
        let count = || self.locks.iter().filter(|l| !active || l.until > now_ns);
        let until = count().map(|l| l.until).max();
        let mode = count().map(|l| l.mode).max().and_then(LockMode::of);
        Protection { lock: mode.zip(until), hold: !self.holds.is_empty() }
    }
}

impl Apply<'_, '_> {
    /// A lock of a version, in the place of those that its maker saw.
    pub(super) fn retain(&mut self, id: VersionId, lock: Lock, saw: &[(StoreId, u64)]) -> Result<()> {
        let k = key::lock(id);
        let mut row = self.txn.get::<LockRow>(&k)?.unwrap_or_default();
        self.see(&mut row.locks_saw, saw);
        if lock.mode > 0 {
            let new = LockEntry { stamp: self.stamp, mode: lock.mode.min(2), until: lock.until_ns };
            if !row.locks.contains(&new) {
                row.locks.push(new);
            }
        }
        let LockRow { locks, locks_saw, .. } = &mut row;
        // Compliance stays, whatever somebody saw of it; one date says it all.
        let complies =
            locks.iter().filter(|l| l.mode == 2).max_by_key(|l| (l.until, self.state.rank(l.stamp)));
        let complies = complies.copied();
        locks.retain(|l| l.mode != 2 && !seen(locks_saw, l.stamp));
        locks.extend(complies);
        self.txn.put(k, &row, Keep::Amend)
    }

    /// A legal hold, put on, or taken off by one who saw these.
    pub(super) fn hold(&mut self, id: VersionId, on: bool, saw: &[(StoreId, u64)]) -> Result<()> {
        let k = key::lock(id);
        let mut row = self.txn.get::<LockRow>(&k)?.unwrap_or_default();
        self.see(&mut row.holds_saw, saw);
        if on && !row.holds.contains(&self.stamp) {
            row.holds.push(self.stamp);
        }
        let LockRow { holds, holds_saw, .. } = &mut row;
        holds.retain(|stamp| !seen(holds_saw, *stamp));
        self.txn.put(k, &row, Keep::Amend)
    }

    /// Notes what was seen: each store's newest stamp.
    fn see(&self, seen: &mut Vec<Stamp>, saw: &[(StoreId, u64)]) {
        for (store, hlc) in saw {
            let Some(store) = self.state.number(*store) else { continue };
            match seen.iter_mut().find(|s| s.store == store) {
                Some(s) => s.hlc = s.hlc.max(*hlc),
                None => seen.push(Stamp { hlc: *hlc, store }),
            }
        }
    }
}

fn seen(saw: &[Stamp], stamp: Stamp) -> bool {
    saw.iter().any(|s| s.store == stamp.store && s.hlc >= stamp.hlc)
}

impl Op<'_, '_> {
    /// What protects a version: its row, and the object that it is of.
    fn lock_row(&mut self, id: VersionId) -> Result<LockRow> {
        let place = self.apply.txn.get::<VersionPlace>(&key::version_id(id))?;
        let place = place.filter(|p| !p.removed).ok_or(FsError::NotFound)?;
        let object = self.apply.txn.object(place.ino)?.object;
        self.subject = (object, place.ino);
        Ok(self.apply.txn.get::<LockRow>(&key::lock(id))?.unwrap_or_default())
    }

    /// Stamps as facts name them, the newest of each store.
    fn saw(&self, stamps: impl Iterator<Item = Stamp>) -> Vec<(StoreId, u64)> {
        let mut saw: Vec<(StoreId, u64)> = Vec::new();
        for (hlc, store) in stamps.map(|stamp| self.apply.state.rank(stamp)) {
            match saw.iter_mut().find(|(s, _)| *s == store) {
                Some((_, newest)) => *newest = hlc.max(*newest),
                None => saw.push((store, hlc)),
            }
        }
        saw
    }
}

impl Store {
    /// What protects a version.
    ///
    /// # Errors
    /// What reading the index says.
    pub fn protection(&self, id: VersionId) -> Result<Protection> {
        let k = key::lock(id);
        let Some(bytes) = self.index.get(&k)? else { return Ok(Protection::default()) };
        Ok(row::<LockRow>(&k, &bytes)?.protection(self.expiry().time_ns))
    }

    /// Locks a version until a time (ns since 1970), or takes its lock away. What lasts can be extended and made stricter; to
    /// make a lock in governance mode shorter or take it away, `bypass` has to be said, and one in compliance mode stays.
    ///
    /// # Errors
    /// [`FsError::NotFound`] for a version that is not here, [`FsError::NotPermitted`] if it would weaken what lasts,
    /// [`FsError::Invalid`] for a time that is over.
    pub fn set_lock(&self, id: VersionId, lock: Option<(LockMode, u64)>, bypass: bool) -> Result<Lsn> {
        let now_ns = self.expiry().time_ns;
        let (lsn, ()) = self.run(|op| {
            let row = op.lock_row(id)?;
            let old = row.protection(now_ns).lock.filter(|(_, until)| *until > now_ns);
            if let Some((mode, until)) = old {
                let weaker = lock.is_none_or(|(m, u)| m < mode || u < until);
                if weaker && (mode == LockMode::Compliance || !bypass) {
                    return Err(FsError::NotPermitted.into());
                }
            }
            if lock.is_some_and(|(_, until)| until <= now_ns) {
                return Err(FsError::Invalid.into());
            }
            let lock = lock.map_or(Lock { mode: 0, until_ns: 0 }, |(mode, until_ns)| Lock {
                mode: mode.code(),
                until_ns,
            });
            let saw = op.saw(row.locks.iter().map(|l| l.stamp).chain(row.locks_saw.iter().copied()));
            let object = op.subject.0;
            op.fact(Fact::Retain(object, id, lock, saw))
        })?;
        Ok(lsn)
    }

    /// Locks a version, without bypassing anything: as [`set_lock`](Self::set_lock).
    ///
    /// # Errors
    /// As of that.
    pub fn lock_version(&self, id: VersionId, compliance: bool, until_ns: u64) -> Result<Lsn> {
        let mode = if compliance { LockMode::Compliance } else { LockMode::Governance };
        self.set_lock(id, Some((mode, until_ns)), false)
    }

    /// Puts a legal hold on a version, or takes it off.
    ///
    /// # Errors
    /// [`FsError::NotFound`] for a version that is not here.
    pub fn hold_version(&self, id: VersionId, on: bool) -> Result<Lsn> {
        let (lsn, ()) = self.run(|op| {
            let row = op.lock_row(id)?;
            if on != row.holds.is_empty() {
                return Ok(());
            }
            let saw = op.saw(row.holds.iter().chain(&row.holds_saw).copied());
            let object = op.subject.0;
            op.fact(Fact::Hold(object, id, on, saw))
        })?;
        Ok(lsn)
    }
}
