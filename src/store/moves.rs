//! Moves of directories: in the order of their stamps, the one that would close a cycle is skipped.
//!
//! After Kleppmann, Mulligan, Gomes and Beresford, "A highly-available move operation for replicated trees"
//! (IEEE TPDS 2022): every move is kept with what was there before. One that arrives late is only noted; all that came late
//! take their places together, by a record of its own: what is newer than the first of them is taken back, and all happen
//! again in their order, in memory, and what came out otherwise is written. Files need none of this: a link of a file cannot
//! close a cycle.

use std::collections::{BTreeSet, HashMap};

use crate::{
    base::{
        Incarnation, Ino, LinkId, ObjectId, Result, StoreId, limits,
        planted::{Bug, planted},
    },
    format::{
        facts::{Fact, ObjectKind},
        rows::{LateMovesRow, LinkRegister, LinkRow, MoveAsk, MoveRow, Stamp, after_prefix, key, kind},
    },
};

use super::{
    Store,
    apply::Apply,
    txn::{Keep, row},
};

/// Moves forgotten by one record.
const FORGOTTEN: usize = 4096;
/// Names of a directory read at once.
const NAMES: usize = 256;

impl Store {
    /// Forgets moves of directories stamped before this (ns since 1970): to be called when every store that could still send
    /// an older one has acknowledged all up to then, or was absent for too long. The directories stay where they are. Where an
    /// older move arrives nevertheless, it counts as older than all that are kept, and stores may disagree on which of
    /// several moves would have closed a cycle. Returns how many it forgot.
    ///
    /// # Errors
    /// What the log says.
    pub fn forget_moves_before(&self, stamp_ns: u64) -> Result<u64> {
        let mut forgotten = 0;
        loop {
            let (_, n) = self.run_quiet(|op| {
                let n = op.apply.forgettable(stamp_ns)?.len();
                if n > 0 {
                    op.fact(Fact::MovesForgotten(stamp_ns))?;
                }
                Ok(n as u64)
            })?;
            if n == 0 {
                break;
            }
            forgotten += n;
        }
        Ok(forgotten)
    }

    /// Moves of directories that came after newer ones take their places among them. [`import`](Self::import) and
    /// [`take_told`](Self::take_told) see to it where that costs little next to how many came; [`maintain`](Self::maintain), the
    /// maintenance threads and the next opening do it in any case. Until then the directories hang as if these had not come.
    /// Says whether there were any.
    ///
    /// # Errors
    /// What log and index say.
    pub fn settle_moves(&self) -> Result<bool> {
        if self.late_moves()?.is_none() {
            return Ok(false);
        }
        {
            let mut state = self.apply.lock();
            self.check_usable()?;
            if self.late_moves()?.is_none() {
                return Ok(false);
            }
            self.append_local(&mut state, &[Fact::MovesSettled])?;
        }
        self.name_twins()?;
        Ok(true)
    }

    /// [`settle_moves`](Self::settle_moves), if what has to be done again is little next to what came late. It is asked whenever so
    /// many came that the answer may be another, so that in all asking and doing cost a bounded amount for each late move.
    pub(super) fn settle_moves_if_cheap(&self) -> Result<()> {
        let Some(late) = self.late_moves()? else { return Ok(()) };
        let most = usize::try_from(late.late).unwrap_or(usize::MAX).saturating_mul(self.options.moves_redone);
        if !late.late.is_power_of_two() || most == 0 {
            return Ok(());
        }
        let newer = self.index.scan(&late.from, &after_prefix(&[kind::MOVE]), most.saturating_add(1))?;
        if newer.len() <= most { self.settle_moves().map(drop) } else { Ok(()) }
    }

    pub(super) fn late_moves(&self) -> Result<Option<LateMovesRow>> {
        let k = key::late_moves();
        self.index.get(&k)?.map(|bytes| row(&k, &bytes)).transpose()
    }

    /// Moves go that are so old that a store which could still send an older one counts as absent for too long; but none that a peer which
    /// this store still waits for has not acknowledged ([`set_needed`](Self::set_needed)).
    pub(super) fn forget_old_moves(&self, now_ns: u64) -> Result<()> {
        let before_ns = now_ns.saturating_sub(limits::ABSENT_NS);
        let needed = *self.needed.lock();
        if let Some(needed) = needed
            && self.lsn_at(before_ns)?.is_some_and(|upto| needed <= upto)
        {
            return Ok(());
        }
        self.forget_moves_before(before_ns).map(drop)
    }
}

impl Apply<'_, '_> {
    fn move_key(&self) -> Vec<u8> {
        let (hlc, store) = self.state.rank(self.stamp);
        key::moved_dir(hlc, store, self.made_in, self.part)
    }

    /// Are there moves newer than this record? A first link of a new directory cannot close a cycle, since nothing
    /// can be below it yet, and is not kept as a move; but one that arrives after what was moved below it has to
    /// take its place among the moves.
    pub(super) fn is_late(&mut self) -> Result<bool> {
        if !self.state.meta.foreign {
            return Ok(false);
        }
        let newer = self.txn.scan_range(&self.move_key(), &after_prefix(&[kind::MOVE]), 1)?;
        Ok(!newer.is_empty())
    }

    /// A move (or removal) of a directory that had a place before.
    pub(super) fn move_dir(&mut self, dir: Ino, register: LinkRegister) -> Result<()> {
        self.ask(dir, MoveAsk::Hang(Box::new(register)))
    }

    /// A link of an object whose creation has not arrived: kept until it is known what the object is.
    pub(super) fn note_move(&mut self, dir: Ino, register: LinkRegister) -> Result<()> {
        let note = MoveRow { dir, ask: MoveAsk::Hang(Box::new(register)), before: None, done: false };
        let k = self.move_key();
        self.txn.put(key::noted_move(dir, &k), &(), Keep::Amend)?;
        self.txn.put(k, &note, Keep::Amend)
    }

    /// Two directories stand at one name: the first becomes another name for the second.
    pub(super) fn alias(&mut self, from: ObjectId, to: ObjectId) -> Result<()> {
        let (from, from_row) = self.object_or_new(from)?;
        let (to, to_row) = self.object_or_new(to)?;
        self.txn.put_object(from, from_row, Keep::History)?;
        self.txn.put_object(to, to_row, Keep::History)?;
        self.list(kind::TWIN, from, false)?;
        self.ask(from, MoveAsk::Alias(to))
    }

    fn ask(&mut self, dir: Ino, ask: MoveAsk) -> Result<()> {
        let k = self.move_key();
        if self.txn.has(&k)? {
            return Ok(());
        }
        let late = self.is_late()?;
        self.txn.put(k.clone(), &MoveRow { dir, ask, before: None, done: false }, Keep::Amend)?;
        if late { self.comes_late(&k, 1) } else { self.replay(&k) }
    }

    /// Moves are to take their places among newer ones, from this one on.
    fn comes_late(&mut self, from: &[u8], how_many: usize) -> Result<()> {
        let k = key::late_moves();
        let mut row: LateMovesRow =
            self.txn.get(&k)?.unwrap_or(LateMovesRow { from: from.to_vec(), late: 0 });
        if from < &row.from[..] {
            row.from = from.to_vec();
        }
        row.late = row.late.saturating_add(how_many as u64);
        self.txn.put(k, &row, Keep::Amend)
    }

    /// All that came late take their places.
    pub(super) fn settle_moves(&mut self) -> Result<()> {
        let k = key::late_moves();
        let Some(late) = self.txn.get::<LateMovesRow>(&k)? else { return Ok(()) };
        self.txn.delete(k, Keep::Amend)?;
        if planted(Bug::LateMovesLost) { Ok(()) } else { self.replay(&late.from) }
    }

    /// An object that was only mentioned is known now: what was noted of its links takes effect.
    pub(super) fn moves_of_known(&mut self, ino: Ino, object: ObjectId) -> Result<()> {
        if !self.state.meta.foreign {
            return Ok(());
        }
        let mut noted = Vec::new();
        let prefix = key::noted_move(ino, &[]);
        for (note, _) in self.txn.scan(&prefix, &prefix, usize::MAX)? {
            let k = key::move_noted(&note);
            self.txn.delete(note, Keep::Amend)?;
            if let Some(m) = self.txn.get::<MoveRow>(&k)? {
                noted.push((k, m));
            }
        }
        let Some((first, _)) = noted.first() else { return Ok(()) };
        if self.txn.object(ino)?.attributes.kind == ObjectKind::Directory {
            // Its first link, in the same record as its creation, is older than all that were noted.
            let first = first.clone();
            return self.comes_late(&first, noted.len());
        }
        for (k, noted) in noted {
            self.txn.delete(k, Keep::Amend)?;
            let MoveAsk::Hang(register) = noted.ask else { continue };
            let link = LinkId::primary(object);
            let wins = match self.register(link, ino)? {
                Some(old) => self.link_wins(&register, &old)?,
                None => true,
            };
            if wins {
                self.put_register(link, *register)?;
            }
        }
        Ok(())
    }

    /// Moves stamped before this need not be kept any more: the oldest of them go, as many as one record may take.
    pub(super) fn forget_moves(&mut self, before_ns: u64) -> Result<()> {
        // What goes has taken its place.
        self.settle_moves()?;
        for k in self.forgettable(before_ns)? {
            self.txn.delete(k, Keep::Amend)?;
        }
        Ok(())
    }

    /// The rows that one record forgets. What was noted of an object whose creation has not arrived is not among them: it is all
    /// that is known of that.
    fn forgettable(&mut self, before_ns: u64) -> Result<Vec<Vec<u8>>> {
        let end = key::moved_dir(before_ns, StoreId::default(), Incarnation::new(0), 0);
        let mut found = Vec::new();
        for (k, bytes) in self.txn.scan_range(&[kind::MOVE], &end, FORGOTTEN)? {
            let m: MoveRow = row(&k, &bytes)?;
            if self.txn.object(m.dir)?.attributes.kind == ObjectKind::Directory {
                found.push(k);
            }
        }
        Ok(found)
    }

    fn moves_from(&mut self, start: &[u8]) -> Result<Vec<(Vec<u8>, MoveRow)>> {
        let rows = self.txn.scan_range(start, &after_prefix(&[kind::MOVE]), usize::MAX)?;
        rows.into_iter()
            .map(|(k, bytes)| {
                let m = row(&k, &bytes)?;
                Ok((k, m))
            })
            .collect()
    }

    /// Takes back every move from this one on and does them again in order: in memory, since the outcome of most is what it
    /// was. Only what changed is written.
    fn replay(&mut self, start: &[u8]) -> Result<()> {
        let mut tree = Tree::new(self.moves_from(start)?);
        tree.take_back(self)?;
        for (k, m) in tree.again(self)? {
            self.txn.put(k, &m, Keep::Amend)?;
        }
        let mut moved: Vec<(Ino, Hung)> = tree.moved().collect();
        moved.sort_by_key(|(dir, _)| *dir);
        let mut unsettled = BTreeSet::new();
        // Other names that end go before any that begin, so that they never lead in a circle.
        for (dir, h) in &moved {
            let alias = self.txn.object(*dir)?.attributes.alias;
            if alias.is_some() && alias != h.alias {
                self.set_alias(*dir, None)?;
                unsettled.insert(*dir);
            }
        }
        for (dir, h) in &moved {
            let new = tree.register(h.link);
            let old = self.txn.object(*dir)?.attributes.link;
            if h.link != Some(Link::Row)
                && !old.as_ref().zip(new).map_or(old.is_none() && new.is_none(), alike)
            {
                let new = new.cloned().map(|r| LinkRegister { placed: None, ..r });
                self.hang(*dir, new)?;
                unsettled.insert(*dir);
            }
        }
        for (dir, h) in &moved {
            if h.alias.is_some() && self.txn.object(*dir)?.attributes.alias.is_none() {
                self.set_alias(*dir, h.alias)?;
                unsettled.insert(*dir);
            }
        }
        for dir in unsettled {
            let object = self.txn.object(dir)?.object;
            self.settle(LinkId::primary(object), dir)?;
        }
        Ok(())
    }

    /// Is `dir` the directory `top`, or below it?
    pub(super) fn is_within(&mut self, dir: Ino, top: Ino) -> Result<bool> {
        let mut at = self.canonical(dir)?;
        for step in 0.. {
            if at == top || step > crate::base::limits::DEPTH {
                return Ok(true);
            }
            let Some(row) = self.txn.object_if_any(at)? else { return Ok(false) };
            match row.attributes.link {
                Some(link) => at = self.canonical(link.parent)?,
                None => return Ok(false),
            }
        }
        Ok(false)
    }

    /// Gives a directory another place in its register; [`Apply::settle`] follows.
    fn hang(&mut self, dir: Ino, register: Option<LinkRegister>) -> Result<()> {
        let row = self.txn.object(dir)?;
        if let Some(old) = &row.attributes.link {
            self.unplace(LinkId::primary(row.object), old)?;
        }
        let mut row = self.txn.object(dir)?;
        row.attributes.link = register;
        self.txn.put_object(dir, row, Keep::History)
    }

    /// Sets or takes back an alias, and moves the entries to where they show from now on.
    fn set_alias(&mut self, dir: Ino, to: Option<Ino>) -> Result<()> {
        let holds_entries = self.canonical(dir)?;
        let mut row = self.txn.object(dir)?;
        row.attributes.alias = to;
        self.txn.put_object(dir, row, Keep::History)?;
        self.settle_markers(holds_entries)?;
        let prefix = key::link(holds_entries, b"");
        let mut start = prefix.clone();
        loop {
            let names = self.txn.scan(&prefix, &start, NAMES)?;
            let Some((last, _)) = names.last() else { return Ok(()) };
            start = [&last[..], &[0]].concat();
            for (k, bytes) in &names {
                let links: LinkRow = super::txn::row(k, bytes)?;
                for e in links.entries {
                    let object = self.txn.object(e.child)?.object;
                    self.settle(e.link.unwrap_or(LinkId::primary(object)), e.child)?;
                }
            }
        }
    }
}

/// Do two registers say the same? Where they are placed follows.
fn alike((a, b): (&LinkRegister, &LinkRegister)) -> bool {
    (a.stamp, a.parent, &a.name, &a.gone) == (b.stamp, b.parent, &b.name, &b.gone)
}

/// Where a directory's register is, while moves are taken back and done again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Link {
    /// In its row.
    Row,
    /// What this move asks for.
    Asked(usize),
    /// What was there before this move.
    Before(usize),
}

/// A directory in a tree that is not that of the rows.
#[derive(Debug, Clone, Copy)]
struct Hung {
    is_dir: bool,
    link: Option<Link>,
    /// Parent and stamp of that.
    at: Option<(Ino, Stamp)>,
    alias: Option<Ino>,
    /// A move of it was taken back or done.
    moved: bool,
}

/// The tree while moves are taken back and done again: the rows, but for what these moved.
struct Tree {
    moves: Vec<(Vec<u8>, MoveRow)>,
    /// What the moves that were done found, as it was written.
    before: Vec<Option<LinkRegister>>,
    was_done: Vec<bool>,
    /// Directories that were looked at; none: there is no row.
    seen: HashMap<Ino, Option<Hung>>,
}

impl Tree {
    fn new(mut moves: Vec<(Vec<u8>, MoveRow)>) -> Self {
        let before = moves.iter_mut().map(|(_, m)| m.before.take()).collect();
        let was_done = moves.iter_mut().map(|(_, m)| std::mem::take(&mut m.done)).collect();
        Self { moves, before, was_done, seen: HashMap::new() }
    }

    fn moved(&self) -> impl Iterator<Item = (Ino, Hung)> + '_ {
        self.seen.iter().filter_map(|(dir, h)| Some((*dir, (*h)?))).filter(|(_, h)| h.moved)
    }

    /// A register that is not in a row.
    fn register(&self, link: Option<Link>) -> Option<&LinkRegister> {
        match link? {
            Link::Row => None,
            Link::Before(n) => self.before[n].as_ref(),
            Link::Asked(n) => match &self.moves[n].1.ask {
                MoveAsk::Hang(register) => Some(register),
                MoveAsk::Alias(_) => None,
            },
        }
    }

    fn look(&mut self, apply: &mut Apply<'_, '_>, dir: Ino) -> Result<Option<Hung>> {
        if let Some(seen) = self.seen.get(&dir) {
            return Ok(*seen);
        }
        let found = apply.txn.object_if_any(dir)?.map(|row| {
            let at = row.attributes.link.as_ref().map(|l| (l.parent, l.stamp));
            Hung {
                is_dir: row.attributes.kind == ObjectKind::Directory,
                link: at.map(|_| Link::Row),
                at,
                alias: row.attributes.alias,
                moved: false,
            }
        });
        self.seen.insert(dir, found);
        Ok(found)
    }

    fn put(&mut self, dir: Ino, h: Hung) {
        self.seen.insert(dir, Some(Hung { moved: true, ..h }));
    }

    fn take_back(&mut self, apply: &mut Apply<'_, '_>) -> Result<()> {
        for n in (0..self.moves.len()).rev().filter(|n| self.was_done[*n]).collect::<Vec<_>>() {
            let dir = self.moves[n].1.dir;
            let Some(mut h) = self.look(apply, dir)? else { continue };
            match self.moves[n].1.ask {
                MoveAsk::Hang(_) => {
                    let before = self.before[n].as_ref();
                    (h.link, h.at) = (before.map(|_| Link::Before(n)), before.map(|b| (b.parent, b.stamp)));
                }
                MoveAsk::Alias(_) => h.alias = None,
            }
            self.put(dir, h);
        }
        Ok(())
    }

    /// Does them again; returns those that came out otherwise.
    fn again(&mut self, apply: &mut Apply<'_, '_>) -> Result<Vec<(Vec<u8>, MoveRow)>> {
        let mut changed = Vec::new();
        for n in 0..self.moves.len() {
            let (done, before) = self.again_one(apply, n)?;
            let same = before == Some(Link::Before(n)) || {
                let (old, new) = (self.before[n].as_ref(), self.register(before));
                before != Some(Link::Row) && old.zip(new).map_or(old.is_none() && new.is_none(), alike)
            };
            if done == self.was_done[n] && (same || !done) {
                continue;
            }
            let (k, mut m) = self.moves[n].clone();
            m.done = done;
            m.before = match before {
                Some(Link::Row) => apply.txn.object(m.dir)?.attributes.link,
                other => self.register(other).cloned(),
            };
            if let Some(before) = &mut m.before {
                before.placed = None;
            }
            changed.push((k, m));
        }
        Ok(changed)
    }

    /// Does one of them again, unless something newer is there or it would close a cycle; and what was there before it.
    fn again_one(&mut self, apply: &mut Apply<'_, '_>, n: usize) -> Result<(bool, Option<Link>)> {
        let dir = self.moves[n].1.dir;
        let asked = match &self.moves[n].1.ask {
            MoveAsk::Hang(register) => Ok((register.parent, register.stamp)),
            MoveAsk::Alias(to) => Err(*to),
        };
        let Some(mut h) = self.look(apply, dir)?.filter(|h| h.is_dir) else { return Ok((false, None)) };
        let before = match asked {
            Ok((parent, stamp)) => {
                // Of one stamp, made twice by a store that was set back, the opening with the higher number comes later.
                if h.at.is_some_and(|(_, old)| apply.state.newer(old, stamp)) {
                    return Ok((false, None));
                }
                // Staying where it is closes no cycle, and rm -r of a deep tree need not walk up for each directory.
                if h.at.is_none_or(|(old, _)| old != parent) && self.is_within(apply, parent, dir)? {
                    return Ok((false, None));
                }
                h.at = Some((parent, stamp));
                h.link.replace(Link::Asked(n))
            }
            Err(to) => {
                if h.alias.is_some() || self.is_within(apply, to, dir)? {
                    return Ok((false, None));
                }
                h.alias = Some(to);
                None
            }
        };
        self.put(dir, h);
        Ok((true, before))
    }

    fn canonical(&mut self, apply: &mut Apply<'_, '_>, dir: Ino) -> Result<Ino> {
        let mut at = dir;
        while let Some(to) = self.look(apply, at)?.and_then(|h| h.alias) {
            at = to;
        }
        Ok(at)
    }

    /// As [`Apply::is_within`], in this tree.
    fn is_within(&mut self, apply: &mut Apply<'_, '_>, dir: Ino, top: Ino) -> Result<bool> {
        let mut at = self.canonical(apply, dir)?;
        for step in 0.. {
            if at == top || step > crate::base::limits::DEPTH {
                return Ok(true);
            }
            match self.look(apply, at)?.and_then(|h| h.at) {
                Some((parent, _)) => at = self.canonical(apply, parent)?,
                None => return Ok(false),
            }
        }
        Ok(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        base::Lsn,
        format::facts::Owner,
        store::{Knowledge, NewObject, Options, Rename},
    };

    fn store(dir: &tempfile::TempDir, name: &str) -> Store {
        let options = Options { background: false, ..Options::default() };
        Store::create(&dir.path().join(name), options).unwrap()
    }

    fn moves(s: &Store) -> usize {
        s.index.scan(&[kind::MOVE], &after_prefix(&[kind::MOVE]), usize::MAX).unwrap().len()
    }

    #[test]
    fn old_moves_are_kept_for_a_peer_that_may_not_have_them() {
        let dir = tempfile::tempdir().unwrap();
        let [a, b] = ["a", "b"].map(|n| store(&dir, n));
        let made = NewObject::directory(0o755, Owner::default());
        a.create_object(Ino::FIRST, b"d0", &made).unwrap();
        for n in 0..5 {
            let [from, to] = [n, n + 1].map(|n| format!("d{n}").into_bytes());
            a.rename((Ino::FIRST, &from), (Ino::FIRST, &to), Rename::NoReplace).unwrap();
        }
        a.sync_all().unwrap();
        for p in a.parcels(&Knowledge::default(), Lsn::FIRST, usize::MAX).unwrap().0 {
            b.import(&p, &mut |_| unreachable!()).unwrap();
        }
        let now = a.clock.wall_ns();
        let later = now + limits::ABSENT_NS + 1_000_000_000;
        for s in [&a, &b] {
            assert_eq!(moves(s), 5);
            s.forget_old_moves(now).unwrap();
            assert_eq!(moves(s), 5, "they are young");
            s.set_needed(Some(s.last_lsn()));
            s.forget_old_moves(later).unwrap();
            assert_eq!(moves(s), 5, "a peer lacks the last record");
            s.set_needed(Some(s.last_lsn().next()));
            s.forget_old_moves(later).unwrap();
            assert_eq!(moves(s), 0);
            assert!(s.view().lookup(Ino::FIRST, b"d5").is_ok());
        }
        a.rename((Ino::FIRST, b"d5"), (Ino::FIRST, b"d6"), Rename::NoReplace).unwrap();
        a.set_needed(None);
        a.forget_old_moves(a.clock.wall_ns() + limits::ABSENT_NS + 1_000_000_000).unwrap();
        assert_eq!(moves(&a), 0, "there is no peer");
    }
}
