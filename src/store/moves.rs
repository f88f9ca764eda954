//! Moves of directories: in the order of their stamps, the one that would close a cycle is skipped.
//!
//! After Kleppmann, Mulligan, Gomes and Beresford, "A highly-available move operation for replicated trees"
//! (IEEE TPDS 2022): every move is kept with what was there before. One that arrives late takes back all
//! that are newer, takes its place, and lets them happen again. Files need none of this: a link of a file
//! cannot close a cycle.

use std::collections::BTreeSet;

use crate::{
    base::{Ino, LinkId, ObjectId, Result},
    format::{
        facts::ObjectKind,
        rows::{LinkRegister, LinkRow, MoveAsk, MoveRow, after_prefix, key, kind},
    },
};

use super::{
    apply::Apply,
    txn::{Keep, row},
};

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
        self.txn.put(k.clone(), &MoveRow { dir, ask, before: None, done: false }, Keep::Amend)?;
        self.replay(&k)
    }

    /// An object that was only mentioned is known now: what was noted of its links takes effect.
    pub(super) fn moves_of_known(&mut self, ino: Ino, object: ObjectId) -> Result<()> {
        if !self.state.meta.foreign {
            return Ok(());
        }
        let mut noted = Vec::new();
        for (k, m) in self.moves_from(&[kind::MOVE])? {
            if m.dir == ino {
                noted.push((k, m));
            }
        }
        let Some((first, _)) = noted.first() else { return Ok(()) };
        if self.txn.object(ino)?.attributes.kind == ObjectKind::Directory {
            // Its first link, in the same record as its creation, is older than all that were noted.
            let first = first.clone();
            return self.replay(&first);
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

    fn moves_from(&mut self, start: &[u8]) -> Result<Vec<(Vec<u8>, MoveRow)>> {
        let rows = self.txn.scan_range(start, &after_prefix(&[kind::MOVE]), usize::MAX)?;
        rows.into_iter()
            .map(|(k, bytes)| {
                let m = row(&k, &bytes)?;
                Ok((k, m))
            })
            .collect()
    }

    /// Takes back every move from this one on and does them again in order.
    fn replay(&mut self, start: &[u8]) -> Result<()> {
        let mut moves = self.moves_from(start)?;
        let mut touched = BTreeSet::new();
        for (_, m) in moves.iter_mut().rev() {
            if std::mem::take(&mut m.done) {
                match &m.ask {
                    MoveAsk::Hang(_) => self.hang(m.dir, m.before.take())?,
                    MoveAsk::Alias(_) => self.set_alias(m.dir, None)?,
                }
                touched.insert(m.dir);
            }
        }
        for (_, m) in &mut moves {
            m.done = self.do_move(m)?;
            if m.done {
                touched.insert(m.dir);
            }
        }
        for (k, m) in moves {
            self.txn.put(k, &m, Keep::Amend)?;
        }
        for dir in touched {
            let object = self.txn.object(dir)?.object;
            self.settle(LinkId::primary(object), dir)?;
        }
        Ok(())
    }

    fn do_move(&mut self, m: &mut MoveRow) -> Result<bool> {
        let row = self.txn.object(m.dir)?;
        if row.attributes.kind != ObjectKind::Directory {
            return Ok(false);
        }
        match &m.ask {
            MoveAsk::Hang(register) => {
                let old = row.attributes.link.as_ref();
                // Of one stamp, made twice by a store that was set back, the opening with the higher number comes later.
                if old.is_some_and(|l| self.state.newer(l.stamp, register.stamp)) {
                    return Ok(false);
                }
                // Staying where it is closes no cycle, and rm -r of a deep tree need not walk up for each directory.
                if old.is_none_or(|l| l.parent != register.parent)
                    && self.is_within(register.parent, m.dir)?
                {
                    return Ok(false);
                }
                let mut register = (**register).clone();
                register.placed = None;
                m.before.clone_from(&row.attributes.link);
                if let Some(before) = &mut m.before {
                    before.placed = None;
                }
                self.hang(m.dir, Some(register))?;
            }
            MoveAsk::Alias(to) => {
                if row.attributes.alias.is_some() || self.is_within(*to, m.dir)? {
                    return Ok(false);
                }
                self.set_alias(m.dir, Some(*to))?;
            }
        }
        Ok(true)
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
        for (k, bytes) in self.txn.scan(&prefix, &prefix, usize::MAX)? {
            let links: LinkRow = super::txn::row(&k, &bytes)?;
            for e in links.entries {
                let object = self.txn.object(e.child)?.object;
                self.settle(e.link.unwrap_or(LinkId::primary(object)), e.child)?;
            }
        }
        Ok(())
    }
}
