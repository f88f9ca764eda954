//! Which facts a store holds: for each store and incarnation the sequences, as closed intervals.

use std::collections::BTreeMap;

use crate::{
    base::{Incarnation, Result, StoreId},
    format::{
        Origin,
        facts::Stretch,
        rows::{after_prefix, key, kind},
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

    /// What is in this one and not in the other.
    #[must_use]
    pub fn without(&self, other: &Self) -> Self {
        let mut rest = Self::default();
        for s in self.stretches() {
            let of = (s.store, s.incarnation);
            let mut next = s.first;
            for (first, last) in other.0.get(&of).into_iter().flatten() {
                if *last >= next && *first <= s.last {
                    if *first > next {
                        rest.add_range(of, next, first - 1);
                    }
                    next = last.saturating_add(1);
                }
            }
            if next <= s.last {
                rest.add_range(of, next, s.last);
            }
        }
        rest
    }

    /// Is nothing in it?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds a stretch.
    pub fn add_stretch(&mut self, s: &Stretch) {
        self.add_range((s.store, s.incarnation), s.first, s.last);
    }

    /// All of it, each stretch as long as it can be.
    pub fn stretches(&self) -> impl Iterator<Item = Stretch> + '_ {
        self.0.iter().flat_map(|((store, incarnation), held)| {
            let of = |(first, last): &(u64, u64)| Stretch {
                store: *store,
                incarnation: *incarnation,
                first: *first,
                last: *last,
            };
            held.iter().map(of)
        })
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
        if owed.is_empty() { Ok(owed) } else { Ok(owed.without(&self.knowledge()?)) }
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
        assert_eq!(all.without(&of(&[])), all);
        assert_eq!(all.without(&of(&[(1, 30)])), of(&[]));
        assert_eq!(all.without(&of(&[(1, 3), (5, 6), (10, 21)])), of(&[(4, 4), (7, 9), (22, 22)]));
        assert_eq!(of(&[(1, 2)]).without(&all), of(&[(1, 2)]));
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
}
