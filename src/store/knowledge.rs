//! Which facts a store holds: for each store and incarnation the sequences, as closed intervals.

use std::collections::BTreeMap;

use crate::{
    base::{Incarnation, Result, StoreId},
    format::{
        Origin,
        rows::{after_prefix, key, kind},
        wire::Stretch,
    },
};

use super::{
    Store,
    state::State,
    txn::{Keep, Txn, row},
};

/// Which facts batches a store holds: for each store and incarnation the sequences, as closed intervals.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Knowledge(BTreeMap<(StoreId, Incarnation), Vec<(u64, u64)>>);

impl Knowledge {
    /// Is this batch among them?
    #[must_use]
    pub fn has(&self, o: &Origin) -> bool {
        let held = self.0.get(&(o.store, o.incarnation));
        held.is_some_and(|h| h.iter().any(|(first, last)| (*first..=*last).contains(&o.seq)))
    }

    /// Adds a batch.
    pub fn add(&mut self, o: &Origin) {
        self.add_range((o.store, o.incarnation), o.seq, o.seq);
    }

    /// Is everything in the other in this one too?
    #[must_use]
    pub fn includes(&self, other: &Self) -> bool {
        other.stretches().all(|s| {
            let held = self.0.get(&(s.store, s.incarnation));
            held.is_some_and(|h| h.iter().any(|(first, last)| *first <= s.first && s.last <= *last))
        })
    }

    /// Adds a stretch of batches. A stretch that ends before it begins is none.
    pub fn add_stretch(&mut self, s: &Stretch) {
        if s.first <= s.last {
            self.add_range((s.store, s.incarnation), s.first, s.last);
        }
    }

    /// All of it, as few stretches as can be, in order.
    pub fn stretches(&self) -> impl Iterator<Item = Stretch> + '_ {
        self.0.iter().flat_map(|((store, incarnation), held)| {
            let (store, incarnation) = (*store, *incarnation);
            held.iter().map(move |(first, last)| Stretch { store, incarnation, first: *first, last: *last })
        })
    }

    /// The last batch of an opening of a store that is held; 0 if there is none.
    #[must_use]
    pub fn last(&self, store: StoreId, incarnation: Incarnation) -> u64 {
        self.0.get(&(store, incarnation)).and_then(|h| h.last()).map_or(0, |(_, last)| *last)
    }

    /// What is held here and not there.
    #[must_use]
    pub fn minus(&self, there: &Self) -> Self {
        let mut rest = Self::default();
        for (of, held) in &self.0 {
            let theirs = there.0.get(of).map_or(&[][..], |t| t);
            for (first, last) in held {
                let mut from = *first;
                let at = theirs.partition_point(|(_, l)| *l < *first);
                for (f, l) in theirs[at..].iter().take_while(|(f, _)| f <= last) {
                    if from < *f {
                        rest.add_range(*of, from, f - 1);
                    }
                    from = l.saturating_add(1);
                }
                if from <= *last {
                    rest.add_range(*of, from, *last);
                }
            }
        }
        rest
    }

    /// Is nothing held?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn add_range(&mut self, of: (StoreId, Incarnation), first: u64, last: u64) {
        let held = self.0.entry(of).or_default();
        let at = held.partition_point(|(_, l)| l.saturating_add(1) < first);
        let (mut first, mut last) = (first, last);
        while let Some((f, l)) = held.get(at).copied()
            && f <= last.saturating_add(1)
        {
            (first, last) = (first.min(f), last.max(l));
            held.remove(at);
        }
        held.insert(at, (first, last));
    }
}

impl Store {
    /// Every facts batch that this store holds, durably or not. Costs what there are gaps and openings, not facts.
    ///
    /// # Errors
    /// What reading the index says.
    pub fn knowledge(&self) -> Result<Knowledge> {
        let mut known = Knowledge::default();
        let meta = self.apply.lock().meta.clone();
        if meta.sequence > 0 {
            known.add_range((self.id, Incarnation::new(meta.incarnation)), 1, meta.sequence);
        }
        for (k, bytes) in self.index.scan(&[kind::HELD], &after_prefix(&[kind::HELD]), usize::MAX)? {
            if let Some(o) = key::held_origin(&k) {
                known.add_range((o.store, o.incarnation), o.seq, row(&k, &bytes)?);
            }
        }
        Ok(known)
    }

    /// Facts batches of which something may be here that was told, and which this store does not hold: those of a telling that
    /// is not finished. If nobody else holds them either, since who told them lost its disk, this store has to
    /// [adopt](Self::adopt) them.
    ///
    /// # Errors
    /// What reading the index says.
    pub fn owed(&self) -> Result<Knowledge> {
        let mut owed = Knowledge::default();
        for (k, bytes) in self.index.scan(&[kind::OWED], &after_prefix(&[kind::OWED]), usize::MAX)? {
            let Some(store) = k.get(1..17).and_then(|b| b.try_into().ok()).map(u128::from_be_bytes) else {
                continue;
            };
            let of = (StoreId::new(store), Incarnation::new(key::last_number(&k).unwrap_or(0)));
            for (first, last) in row::<Vec<(u64, u64)>>(&k, &bytes)? {
                owed.add_range(of, first, last);
            }
        }
        if owed.is_empty() { Ok(owed) } else { Ok(owed.minus(&self.knowledge()?)) }
    }

    /// Makes what is [owed](Self::owed) a facts batch of this store's own: whoever lacks it has to be told this store's
    /// index. For when it is known that no other store holds what is owed. Says whether anything was.
    ///
    /// # Errors
    /// What log and index say.
    pub fn adopt(&self) -> Result<bool> {
        let these: Vec<Stretch> = self.owed()?.stretches().collect();
        if these.is_empty() {
            return Ok(false);
        }
        self.run(|op| op.fact(crate::format::facts::Fact::Adopted(these)))?;
        Ok(true)
    }

    /// Does this store hold a facts batch?
    pub(super) fn holds(&self, state: &State, o: &Origin) -> Result<bool> {
        if o.store == self.id && o.incarnation.get() == state.meta.incarnation && o.seq <= state.meta.sequence
        {
            return Ok(true);
        }
        // A stretch that ends right before it or begins right behind it says no. Looking for the one around it goes through all
        // forms that a row had which grows with each batch, as long as they wait in memory.
        let (before, behind) = (o.seq.saturating_sub(1), o.seq + 1);
        if self.index.get(&key::held_to(o.store, o.incarnation, before))?.is_some()
            || self.index.get(&key::held(o.store, o.incarnation, behind))?.is_some()
        {
            return Ok(false);
        }
        let first = key::held(o.store, o.incarnation, 0);
        Ok(match self.index.last(&first, &key::held(o.store, o.incarnation, behind))? {
            Some((k, bytes)) => row::<u64>(&k, &bytes)? >= o.seq,
            None => false,
        })
    }
}

/// Notes that the facts batches from that of this origin to the one with sequence `last` are held, none of which
/// was before.
pub(super) fn note_held(txn: &mut Txn<'_>, o: &Origin, last: u64) -> Result<()> {
    let (mut first, mut last) = (o.seq, last);
    let before = key::held_to(o.store, o.incarnation, first.saturating_sub(1));
    if let Some(begin) = txn.get(&before)? {
        first = begin;
        txn.delete(before, Keep::Amend)?;
    }
    let behind = key::held(o.store, o.incarnation, last + 1);
    if let Some(end) = txn.get(&behind)? {
        last = end;
        txn.delete(behind, Keep::Amend)?;
    }
    txn.put(key::held(o.store, o.incarnation, first), &last, Keep::Amend)?;
    txn.put(key::held_to(o.store, o.incarnation, last), &first, Keep::Amend)
}

/// Notes that a stretch of facts batches is held, some of which may have been before.
pub(super) fn hold(txn: &mut Txn<'_>, s: &Stretch) -> Result<()> {
    let (mut first, mut last) = (s.first, s.last);
    let of = |seq| key::held(s.store, s.incarnation, seq);
    // Stretches begin in order, and end in order: back from the last that begins within or right behind this one.
    let mut end = of(last.saturating_add(2));
    while let Some((k, bytes)) = txn.scan_back_range(&of(0), &end, 1)?.pop() {
        let (begin, to) = (key::last_number(&k).unwrap_or(0), row::<u64>(&k, &bytes)?);
        if to.saturating_add(1) < first {
            break;
        }
        (first, last) = (first.min(begin), last.max(to));
        txn.delete(key::held_to(s.store, s.incarnation, to), Keep::Amend)?;
        txn.delete(k.clone(), Keep::Amend)?;
        end = k;
    }
    txn.put(of(first), &last, Keep::Amend)?;
    txn.put(key::held_to(s.store, s.incarnation, last), &first, Keep::Amend)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_without_another_is_the_rest() {
        let of = |ranges: &[(u64, u64)]| {
            let mut k = Knowledge::default();
            for (first, last) in ranges {
                k.add_range((StoreId::new(1), Incarnation::new(1)), *first, *last);
            }
            k
        };
        let all = of(&[(3, 10), (20, 22)]);
        assert_eq!(all.minus(&of(&[])), all);
        assert_eq!(all.minus(&of(&[(1, 30)])), of(&[]));
        assert_eq!(all.minus(&of(&[(1, 3), (5, 6), (10, 21)])), of(&[(4, 4), (7, 9), (22, 22)]));
        assert_eq!(of(&[(1, 2)]).minus(&all), of(&[(1, 2)]));
        assert!(all.includes(&of(&[(4, 9)])) && !all.includes(&of(&[(4, 11)])) && all.includes(&of(&[])));
    }

    #[test]
    fn knowledge_joins_what_touches() {
        let mut k = Knowledge::default();
        let of = (StoreId::new(1), Incarnation::new(1));
        for seq in [5, 1, 3, 2, 9, 4] {
            k.add(&Origin { store: of.0, incarnation: of.1, seq });
        }
        assert_eq!(k.0[&of], [(1, 5), (9, 9)]);
        assert!(k.has(&Origin { store: of.0, incarnation: of.1, seq: 9 }));
        assert!(!k.has(&Origin { store: of.0, incarnation: of.1, seq: 6 }));
    }

    #[test]
    fn what_one_lacks_of_another_is_what_no_stretch_covers() {
        let of = |n: u64| Stretch {
            store: StoreId::new(1),
            incarnation: Incarnation::new(n / 10_000),
            first: n / 100 % 100,
            last: n % 100,
        };
        let all = |stretches: &[u64]| {
            let mut k = Knowledge::default();
            stretches.iter().for_each(|n| k.add_stretch(&of(*n)));
            k
        };
        // Incarnation, first, last in two digits each.
        let here = all(&[1_01_20, 1_30_40, 2_05_05]);
        let cases: [(&[u64], &[u64]); 7] = [
            (&[], &[1_01_20, 1_30_40, 2_05_05]),
            (&[1_01_20, 1_30_40, 2_05_05], &[]),
            (&[1_01_50, 2_01_09], &[]),
            (&[1_05_10], &[1_01_04, 1_11_20, 1_30_40, 2_05_05]),
            (&[1_01_01, 1_03_03, 1_20_35], &[1_02_02, 1_04_19, 1_36_40, 2_05_05]),
            (&[1_21_29, 3_01_99], &[1_01_20, 1_30_40, 2_05_05]),
            (&[1_20_30, 2_06_09], &[1_01_19, 1_31_40, 2_05_05]),
        ];
        for (there, rest) in cases {
            assert_eq!(here.minus(&all(there)), all(rest), "{there:?}");
            assert!(all(rest).stretches().eq(rest.iter().map(|n| of(*n))));
        }
        assert_eq!((here.last(of(1_00_00).store, of(1_00_00).incarnation), all(&[]).is_empty()), (40, true));
    }
}
