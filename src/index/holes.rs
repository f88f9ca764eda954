//! Holes: stretches of keys where nothing is left but removals, so that walks go around them.
//!
//! The crate keeps a removal until a merge brings it to the last level, and a walk through its place steps over it. A directory of
//! which a million names were removed would be listed a thousand times slower than a new one until then. So runs of removals
//! are noted when they are written out, looked at once while nobody waits, and remembered, in memory alone.
//!
//! **What a hole says**: to a reader whose number is `since` or higher, no row shows with `from <= key < to`. A row that is put there
//! takes the hole apart before the row is visible; what was put while somebody looked is kept until the look is over.

use std::{
    collections::BTreeMap,
    ops::Bound::{Excluded, Included, Unbounded},
    sync::atomic::{AtomicBool, Ordering::Acquire, Ordering::Release},
};

use lsm_tree::SeqNo;
use parking_lot::Mutex;

use super::Change;

/// Holes remembered; with more, all are forgotten but those that come.
const HOLES: usize = 1024;
/// Runs that wait to be looked at; of more, the shortest go.
const SUSPECTS: usize = 256;
/// Holes that one walk goes around: each is another place to begin at.
pub(super) const AROUND: usize = 8;
/// Keys that may be put while somebody looks.
const PUT: usize = 10_000;

type Key = Box<[u8]>;
/// From the first key to before the second.
pub(super) type Stretch = (Key, Key);

/// A run of removals that was written out: its first and its last key, and how many.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Run {
    pub(super) first: Key,
    pub(super) last: Key,
    pub(super) removals: u64,
}

#[derive(Debug, Clone)]
struct Hole {
    to: Key,
    since: SeqNo,
    /// About so many are stepped over by who does not go around it.
    removals: u64,
}

#[derive(Default)]
struct State {
    /// By where they begin; they do not overlap.
    known: BTreeMap<Key, Hole>,
    suspects: Vec<Run>,
    /// Keys that were put since a look began; none: nobody looks.
    put: Option<Vec<Key>>,
}

/// What is known of holes.
#[derive(Default)]
pub(super) struct Holes {
    state: Mutex<State>,
    /// Is there anything that a put could change?
    busy: AtomicBool,
}

/// The first key behind this one.
fn behind(key: &[u8]) -> Key {
    [key, &[0]].concat().into()
}

impl State {
    fn is_busy(&self) -> bool {
        self.put.is_some() || !self.known.is_empty()
    }

    /// A row is about to be there.
    fn put(&mut self, key: &[u8]) {
        let Some((from, hole)) = self.known.range_mut::<[u8], _>((Unbounded, Included(key))).next_back()
        else {
            return;
        };
        if key >= &*hole.to {
            return;
        }
        let (from, rest) = (from.clone(), Hole { removals: hole.removals / 2, ..hole.clone() });
        if *from == *key {
            self.known.remove(&from);
        } else {
            (hole.to, hole.removals) = (key.into(), hole.removals / 2);
        }
        let next = behind(key);
        if next < rest.to && self.known.len() < HOLES {
            self.known.insert(next, rest);
        }
    }

    fn insert(&mut self, from: Key, hole: Hole) {
        if self.known.len() >= HOLES {
            self.known.clear();
        }
        // What was known of these keys is said again.
        let before = self.known.range_mut::<[u8], _>((Unbounded, Excluded(&*from))).next_back();
        if let Some((_, old)) = before.filter(|(_, old)| old.to > from) {
            old.to = from.clone();
        }
        let within: Vec<Key> =
            self.known.range(from.clone()..hole.to.clone()).map(|(k, _)| k.clone()).collect();
        for key in within {
            if let Some(old) = self.known.remove(&key)
                && old.to > hole.to
            {
                self.known.insert(hole.to.clone(), old);
            }
        }
        self.known.insert(from, hole);
    }
}

impl Holes {
    /// These rows are about to be visible.
    pub(super) fn put(&self, changes: &[Change]) {
        if !self.busy.load(Acquire) {
            return;
        }
        let mut state = self.state.lock();
        for change in changes.iter().filter(|c| c.value.is_some()) {
            state.put(&change.key);
            if let Some(put) = &mut state.put
                && put.len() <= PUT
            {
                put.push(change.key.as_slice().into());
            }
        }
    }

    /// Runs were written out, or found in tables.
    pub(super) fn suspect(&self, runs: Vec<Run>) {
        let mut state = self.state.lock();
        state.suspects.extend(runs);
        if state.suspects.len() > SUSPECTS {
            state.suspects.sort_by_key(|run| std::cmp::Reverse(run.removals));
            state.suspects.truncate(SUSPECTS);
        }
    }

    /// Begins a look at the longest run; from now on what is put is kept for it.
    pub(super) fn begin(&self) -> Option<Run> {
        let mut state = self.state.lock();
        let longest = state.suspects.iter().enumerate().max_by_key(|(_, run)| run.removals)?.0;
        let run = state.suspects.swap_remove(longest);
        state.put = Some(Vec::new());
        self.busy.store(true, Release);
        Some(run)
    }

    /// Ends it: between the rows that were seen in the run, by a reader with this number, there is nothing. None were all seen:
    /// nothing is learnt.
    pub(super) fn end(&self, run: &Run, seen: Option<(&[Key], SeqNo)>) {
        let mut state = self.state.lock();
        let put = state.put.take().unwrap_or_default();
        if let Some((rows, since)) = seen
            && put.len() <= PUT
        {
            let removals = run.removals / (rows.len() as u64 + 1);
            let mut from = run.first.clone();
            for row in rows.iter().map(|k| &**k).chain([&*behind(&run.last)]) {
                if *from < *row {
                    state.insert(from, Hole { to: row.into(), since, removals });
                }
                from = behind(row);
            }
            for key in put {
                state.put(&key);
            }
        }
        self.busy.store(state.is_busy(), Release);
    }

    /// What is left of a stretch for a reader with this number: its parts beside the largest holes, in order.
    pub(super) fn around(&self, start: &[u8], end: &[u8], number: SeqNo) -> Vec<Stretch> {
        let whole = || vec![(start.into(), end.into())];
        if !self.busy.load(Acquire) {
            return whole();
        }
        let state = self.state.lock();
        let first = state.known.range::<[u8], _>((Unbounded, Excluded(start))).next_back();
        let mut holes: Vec<(&[u8], &Hole)> = first
            .into_iter()
            .chain(state.known.range::<[u8], _>((Included(start), Excluded(end))))
            .filter(|(_, hole)| hole.since <= number && *hole.to > *start)
            .map(|(from, hole)| (&**from, hole))
            .collect();
        if holes.len() > AROUND {
            holes.sort_by_key(|(_, hole)| std::cmp::Reverse(hole.removals));
            holes.truncate(AROUND);
            holes.sort_by_key(|(from, _)| *from);
        }
        let mut parts = Vec::with_capacity(holes.len() + 1);
        let mut at = start;
        for (from, hole) in holes {
            if at < from {
                parts.push((at.into(), from.into()));
            }
            at = &hole.to;
        }
        if at < end {
            parts.push((at.into(), end.into()));
        }
        parts
    }
}

/// Finds runs of removals in rows that come in the order of their keys, each with its newest value.
pub(super) struct Runs {
    least: u64,
    now: Option<Run>,
    found: Vec<Run>,
}

impl Runs {
    /// Those of at least so many.
    pub(super) fn of_at_least(least: u64) -> Self {
        Self { least, now: None, found: Vec::new() }
    }

    pub(super) fn see(&mut self, key: &[u8], is_removal: bool) {
        match &mut self.now {
            Some(run) if is_removal => {
                run.removals += 1;
                // Copied only where it may be the last, and that is not known before the next.
                run.last = key.into();
            }
            None if is_removal => self.now = Some(Run { first: key.into(), last: key.into(), removals: 1 }),
            _ => self.found.extend(self.now.take().filter(|run| run.removals >= self.least)),
        }
    }

    pub(super) fn done(mut self) -> Vec<Run> {
        self.found.extend(self.now.take().filter(|run| run.removals >= self.least));
        self.found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(parts: &[Stretch]) -> Vec<(&str, &str)> {
        let text = |k: &Key| std::str::from_utf8(Box::leak(k.clone())).unwrap();
        parts.iter().map(|(a, b)| (text(a), text(b))).collect()
    }

    fn run(first: &str, last: &str) -> Run {
        Run { first: first.as_bytes().into(), last: last.as_bytes().into(), removals: 100 }
    }

    fn learn(holes: &Holes, first: &str, last: &str, rows: &[&str], since: SeqNo) {
        holes.suspect(vec![run(first, last)]);
        let run = holes.begin().unwrap();
        let rows: Vec<Key> = rows.iter().map(|r| r.as_bytes().into()).collect();
        holes.end(&run, Some((&rows, since)));
    }

    #[test]
    fn walks_go_around_what_was_seen_to_be_empty() {
        let holes = Holes::default();
        let around = |start: &str, end: &str, n| holes.around(start.as_bytes(), end.as_bytes(), n);
        assert_eq!(keys(&around("a", "z", 9)), [("a", "z")]);
        learn(&holes, "d", "p", &["h"], 5);
        assert_eq!(keys(&around("a", "z", 5)), [("a", "d"), ("h", "h\0"), ("p\0", "z")]);
        assert_eq!(keys(&around("a", "z", 4)), [("a", "z")], "who began before it was seen");
        assert_eq!(keys(&around("e", "f", 5)), []);
        assert_eq!(keys(&around("e", "j", 5)), [("h", "h\0")]);
        assert_eq!(keys(&around("h", "h\0", 5)), [("h", "h\0")]);
        // A row that is put there is found.
        holes.put(&[Change::put("f", ""), Change::put("d", ""), Change::put("q", ""), Change::remove("m")]);
        assert_eq!(keys(&around("a", "z", 9)), [("a", "d\0"), ("f", "f\0"), ("h", "h\0"), ("p\0", "z")]);
        // Seen again, with more around it.
        learn(&holes, "b", "g", &["d", "f"], 7);
        assert_eq!(
            keys(&around("a", "z", 7)),
            [("a", "b"), ("d", "d\0"), ("f", "f\0"), ("h", "h\0"), ("p\0", "z")]
        );
        assert_eq!(
            keys(&around("g", "gg", 6)),
            [("g", "g\0")],
            "what lay behind the second look is still known from the first"
        );
    }

    #[test]
    fn what_is_put_during_a_look_is_no_hole() {
        let holes = Holes::default();
        holes.suspect(vec![run("d", "p"), Run { removals: 7, ..run("r", "s") }]);
        let first = holes.begin().unwrap();
        assert_eq!(first.removals, 100, "the longest first");
        holes.put(&[Change::put("f", "")]);
        holes.end(&first, Some((&[], 5)));
        let parts = holes.around(b"a", b"z", 9);
        assert_eq!(keys(&parts), [("a", "d"), ("f", "f\0"), ("p\0", "z")]);
        let second = holes.begin().unwrap();
        holes.end(&second, None);
        assert_eq!(holes.around(b"a", b"z", 9), parts, "nothing was learnt");
        assert!(holes.begin().is_none());
    }

    #[test]
    fn runs_are_found_in_order() {
        let mut runs = Runs::of_at_least(2);
        for (key, gone) in
            [("a", true), ("b", true), ("c", false), ("d", true), ("e", false), ("f", true), ("g", true)]
        {
            runs.see(key.as_bytes(), gone);
        }
        let found: Vec<_> = runs.done().into_iter().map(|r| (r.first, r.last, r.removals)).collect();
        let key = |k: &str| Key::from(k.as_bytes());
        assert_eq!(found, [(key("a"), key("b"), 2), (key("f"), key("g"), 2)]);
    }
}
