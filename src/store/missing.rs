//! Replay that knows what it lacks: which records of the log could not be applied.
//!
//! A store that is opened for writing refuses to go on without a record, since what it wrote then would build on a state
//! that never was. One that is opened read-only passes over it and says so (`docs/FORMAT.md` section 5).

use std::fmt;

use crate::{
    base::{
        Damage, Error, Ino, Lsn, Result, SegmentId,
        planted::{Bug, planted},
    },
    format::flags,
    index::Index,
    log::{Recovery, ReplayRecord},
};

use super::{
    inspect::Progress,
    open::{INDEX, replay},
    state::State,
};

/// Records that a store which was opened read-only does without.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing {
    /// The first of them.
    pub first: Lsn,
    /// The last of them.
    pub last: Lsn,
    /// The inode that the record says it concerns, if that can still be read.
    pub ino: Option<Ino>,
    /// Where and why.
    pub damage: Damage,
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last {
            write!(f, "record {}", self.first)?;
        } else {
            write!(f, "records {} to {}", self.first, self.last)?;
        }
        if let Some(ino) = self.ino {
            write!(f, " of inode {ino}")?;
        }
        write!(f, ": {}", self.damage.finding())
    }
}

/// What to do about a record that is lost.
const ADVICE: &str =
    "bring the segment back from a copy of the store; until then `segfs mount -o ro` shows everything else";

/// Replays records in the order of their numbers.
pub(super) struct Replayer<'a> {
    next: Lsn,
    /// The number behind which replay begins.
    from: Lsn,
    progress: Progress<'a>,
    skip: bool,
    memtable_bytes: u64,
    /// What was passed over.
    pub(super) missing: Vec<Missing>,
    /// A record could not be applied, though it is what was written: another index may help.
    pub(super) index_at_fault: bool,
}

impl<'a> Replayer<'a> {
    /// From the record behind `flushed`. With `skip`, what can't be applied is passed over.
    pub(super) fn new(flushed: Lsn, skip: bool, memtable_bytes: u64, progress: Progress<'a>) -> Self {
        let from = if planted(Bug::ReplayTooLate) { flushed.next() } else { flushed };
        let next = from.next();
        Self { next, from, skip, memtable_bytes, progress, missing: Vec::new(), index_at_fault: false }
    }

    /// The number behind which replay begins.
    pub(super) fn from(&self) -> Lsn {
        self.from
    }

    /// Applies a record; says whether the memtable was rotated.
    pub(super) fn record(
        &mut self,
        index: &dyn Index,
        state: &mut State,
        record: &ReplayRecord<'_>,
    ) -> Result<bool> {
        let at = &record.location;
        if record.flags & flags::MOVED == 0 {
            if record.lsn > self.next {
                let last = Lsn::new(record.lsn.get() - 1);
                let why = missing(self.next, last);
                let damage = match record.gap {
                    Some(d) => Damage { why: format!("{why} ({})", d.why), ..d.clone() },
                    None => Damage::segment(at.segment, at.offset, None, why),
                };
                self.lost(self.next, last, None, damage)?;
            }
            self.next = record.lsn.next();
            let behind = |lsn: Lsn| lsn.get().saturating_sub(self.from.get());
            (self.progress)(behind(record.lsn), behind(record.until));
        }
        let before = self.skip.then(|| state.clone());
        state.unbroken = self.missing.is_empty();
        match replay(index, state, self.memtable_bytes, record) {
            Err(Error::Damaged(d)) if record.wrong.is_some() || self.follows(&d) => {
                before.into_iter().for_each(|s| *state = s);
                let ino = Some(record.ino).filter(|i| i.get() != 0);
                self.lost(record.lsn, record.lsn, ino, d).map(|()| false)
            }
            Err(e) => {
                self.index_at_fault = true;
                Err(e)
            }
            done => done,
        }
    }

    /// Can this be because of a record that was passed over?
    fn follows(&self, d: &Damage) -> bool {
        let of_rows = d.place.file.as_ref().is_none_or(|f| f.as_os_str() == INDEX);
        !self.missing.is_empty() && of_rows
    }

    /// The log has ended there.
    pub(super) fn end(&mut self, log: &Recovery, state: &mut State) -> Result<()> {
        state.unbroken = false;
        if self.next > log.last_lsn {
            return Ok(());
        }
        let (segment, at) = log.damages.last().map_or((None, 0), |d| (d.place.segment, d.place.offset));
        let why = missing(self.next, log.last_lsn);
        let damage = Damage::segment(segment.unwrap_or(SegmentId::FIRST), at, None, why);
        self.lost(self.next, log.last_lsn, None, damage)
    }

    fn lost(&mut self, first: Lsn, last: Lsn, ino: Option<Ino>, mut damage: Damage) -> Result<()> {
        damage.place.lsn = Some(first);
        if !self.skip {
            return Err(damage.advise(ADVICE).into());
        }
        match self.missing.last_mut() {
            Some(m) if m.last.next() == first && m.ino.is_none() && ino.is_none() => m.last = last,
            _ => self.missing.push(Missing { first, last, ino, damage }),
        }
        Ok(())
    }
}

fn missing(first: Lsn, last: Lsn) -> String {
    if first == last {
        format!("record {first} is missing")
    } else {
        format!("records {first} to {last} are missing")
    }
}
