//! From a moment in time to an LSN: when the highest stamp of the facts held rose, and to what.
//!
//! Stamps rise from fact to fact, but for those that arrive late. A [`Moments`] takes down each rise; full, it
//! becomes a [`MomentsRow`] of the index and begins again. So a moment is found with two row reads, however long
//! the log is and whatever of it was retired.

use bincode::{Decode, Encode};

use crate::base::Lsn;

/// Rises in one row, the first aside.
const STEPS: usize = 31;

/// A rise, as the difference from the one before it: ns, and records.
type Step = (u32, u32);

/// The rises since the last row. Part of what the store knows as a whole, so it is copied with each operation: a
/// fixed size, no heap.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Encode, Decode)]
pub struct Moments {
    /// Highest stamp, ns since 1970, and the record that brought it; zeros: none yet.
    last: (u64, u64),
    /// The first rise that is in no row.
    first: (u64, u64),
    /// Used of `steps`.
    len: u8,
    steps: [Step; STEPS],
}

/// Rises of the highest stamp, one after the other. Its key is the stamp of the first.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct MomentsRow {
    /// The record that brought the first.
    pub at: Lsn,
    /// The others, each as the difference from the one before it: ns, and records.
    pub steps: Vec<(u32, u32)>,
}

/// What a list of rises says of a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Its first rise is later already.
    Before,
    /// The last record before the first that is stamped later.
    At(Lsn),
    /// All its rises are not later.
    Behind,
}

impl Moments {
    /// Notes that the record with this number is stamped so. If that is no rise, nothing happens. Returns the row
    /// that is full now, with the stamp that is its key.
    pub fn rise(&mut self, stamp: u64, at: Lsn) -> Option<(u64, MomentsRow)> {
        let at = at.get();
        if stamp <= self.last.0 {
            return None;
        }
        let step = (u32::try_from(stamp - self.last.0), u32::try_from(at.saturating_sub(self.last.1)));
        let mut full = None;
        if let (true, (Ok(ns), Ok(records)), Some(free)) =
            (self.first.0 > 0, step, self.steps.get_mut(usize::from(self.len)))
        {
            *free = (ns, records);
            self.len += 1;
        } else {
            full = (self.first.0 > 0).then(|| (self.first.0, self.row()));
            (self.first, self.len, self.steps) = ((stamp, at), 0, Default::default());
        }
        self.last = (stamp, at);
        full
    }

    fn row(&self) -> MomentsRow {
        let steps = self.steps.get(..usize::from(self.len)).unwrap_or_default();
        MomentsRow { at: Lsn::new(self.first.1), steps: steps.to_vec() }
    }

    /// The record that brought the first rise here; none: nothing rose yet.
    #[must_use]
    pub fn first(&self) -> Option<Lsn> {
        (self.first.0 > 0).then(|| Lsn::new(self.first.1))
    }

    /// The last rise that is in no row and not later than a moment, ns since 1970.
    #[must_use]
    pub fn last_upto(&self, moment: u64) -> Option<u64> {
        if self.first.0 == 0 { None } else { self.row().last_upto(self.first.0, moment) }
    }

    /// What the rises that are in no row say of a moment.
    #[must_use]
    pub fn find(&self, moment: u64) -> Place {
        if self.first.0 == 0 { Place::Before } else { self.row().find(self.first.0, moment) }
    }
}

impl MomentsRow {
    /// The last rise of a row whose key is `first` that is not later than a moment, ns since 1970.
    #[must_use]
    pub fn last_upto(&self, first: u64, moment: u64) -> Option<u64> {
        if first > moment {
            return None;
        }
        let mut last = first;
        for (ns, _) in &self.steps {
            match last.checked_add(u64::from(*ns)) {
                Some(next) if next <= moment => last = next,
                _ => break,
            }
        }
        Some(last)
    }

    /// What a row whose key is `first` says of a moment.
    #[must_use]
    pub fn find(&self, first: u64, moment: u64) -> Place {
        if moment < first {
            return Place::Before;
        }
        let (mut stamp, mut at) = (first, self.at.get());
        for (ns, records) in &self.steps {
            stamp = stamp.saturating_add(u64::from(*ns));
            at = at.saturating_add(u64::from(*records));
            if stamp > moment {
                return Place::At(Lsn::new(at - 1));
            }
        }
        Place::Behind
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_rose_is_found_again() {
        let mut m = Moments::default();
        let mut rows = Vec::new();
        let mut rises = Vec::new();
        let mut stamp = 1_000;
        for n in 1..500_u64 {
            // Now and then a gap too long for a step, and a fact that arrives late.
            stamp += if n % 37 == 0 { 1 << 40 } else { n % 5 * 1_000 + 1 };
            let at = Lsn::new(n * 3);
            rises.push((stamp, at));
            rows.extend(m.rise(stamp, at));
            assert_eq!(m.rise(stamp - 1, at.next()), None);
        }
        assert!(rows.len() > 500 / 32 && rows.windows(2).all(|w| w[0].0 < w[1].0));
        let find = |moment: u64| {
            let n = rows.partition_point(|(first, _)| *first <= moment);
            match m.find(moment) {
                Place::At(lsn) => Some(lsn),
                Place::Behind => None,
                Place::Before if n == 0 => Some(Lsn::new(2)),
                Place::Before => match rows[n - 1].1.find(rows[n - 1].0, moment) {
                    Place::At(lsn) => Some(lsn),
                    Place::Before => panic!("the row begins behind its key"),
                    Place::Behind => {
                        let next = rows.get(n).map(|(_, r)| r.at).or(m.first())?;
                        Some(Lsn::new(next.get() - 1))
                    }
                },
            }
        };
        for (n, (stamp, _)) in rises.iter().enumerate() {
            let next = |n: usize| rises.get(n).map(|(_, at)| Lsn::new(at.get() - 1));
            assert_eq!(find(*stamp), next(n + 1));
            assert_eq!(find(*stamp - 1), next(n));
        }
    }
}
