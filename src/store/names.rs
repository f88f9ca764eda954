//! Names: where links hang, which of them show, and what happens when two stand at one name.
//!
//! A link register is a fact; its place in a directory's rows is derived from it. [`Apply::settle`] derives
//! it: a link is placed if it is not gone, or if something it did not see keeps it alive.

use std::cmp::{Ordering, Reverse};

use crate::{
    base::{
        Ino, LinkId, ObjectId, Result, VersionId,
        planted::{Bug, planted},
    },
    format::{
        code,
        facts::{Gone, Lineage, ObjectKind, Time},
        rows::{LinkEntry, LinkRegister, LinkRow, MarkerRow, ObjectRow, VersionRow, key, kind},
    },
};

use super::{apply::Apply, txn::Keep};

impl Apply<'_, '_> {
    /// A link fact: its register takes the value, if its stamp is newer.
    pub(super) fn set_register(
        &mut self,
        link: LinkId,
        object: ObjectId,
        parent: ObjectId,
        new: LinkRegister,
    ) -> Result<()> {
        // The times of both follow from the facts that name them, whichever of those wins in the end.
        let (child, mut row) = self.object_or_new(object)?;
        row.attributes.changed = row.attributes.changed.max(self.stamp.hlc);
        self.txn.put_object(child, row.clone(), Keep::History)?;
        let (dir, mut dir_row) = self.object_or_new(parent)?;
        let a = &mut dir_row.attributes;
        let modified = Time::from_ns(self.stamp.hlc);
        if self.state.wins((self.stamp, modified), (a.modified_stamp, a.modified)) {
            (a.modified, a.modified_stamp) = (modified, self.stamp);
        }
        a.changed = a.changed.max(self.stamp.hlc);
        self.txn.put_object(dir, dir_row, Keep::History)?;
        match row.attributes.kind {
            ObjectKind::Directory
                if row.attributes.link.is_some()
                    || new.gone.is_some()
                    || self.created != Some(child)
                    || self.is_late()? =>
            {
                self.move_dir(child, new)
            }
            ObjectKind::Unknown if link == LinkId::primary(object) => self.note_move(child, new),
            _ => {
                let old = self.register(link, child)?;
                if let Some(old) = &old
                    && !self.link_wins(&new, old)?
                {
                    return Ok(());
                }
                let moved = new.gone.is_none();
                if let Some(old) = &old {
                    self.unplace(link, old)?;
                }
                self.put_register(link, new)?;
                self.settle(link, child)?;
                match old {
                    Some(old) if moved => self.moved_away(&old),
                    _ => Ok(()),
                }
            }
        }
    }

    /// Is this the register that stays, of two values of one link? By stamp, and where that is the same, by what is
    /// alike on every host: a place before a removal, then the place itself.
    pub(super) fn link_wins(&mut self, new: &LinkRegister, old: &LinkRegister) -> Result<bool> {
        if self.state.rank(new.stamp) != self.state.rank(old.stamp) {
            return Ok(self.state.newer(new.stamp, old.stamp));
        }
        let mut value = |r: &LinkRegister| -> Result<_> {
            let parent = self.txn.object(r.parent)?.object;
            let rest = code::encode(&(r.gone.clone(), r.continues));
            Ok((r.gone.is_none(), parent, r.name.clone(), rest))
        };
        Ok(value(new)? > value(old)?)
    }

    pub(super) fn gone(&mut self, gone: &Gone) -> Result<()> {
        let register = LinkRegister {
            stamp: self.stamp,
            parent: self.ino_for(gone.parent)?,
            name: gone.name.clone(),
            child: self.ino_for(gone.object)?,
            gone: Some(gone.saw.clone()),
            continues: None,
            placed: None,
        };
        let (child, dir) = (register.child, self.canonical(register.parent)?);
        let continues = match gone.marker {
            Some(_) => self.txn.links(dir, &gone.name)?,
            None => None,
        };
        let continues = continues.and_then(|l| l.entries.iter().find(|e| e.child == child)?.continues);
        self.set_register(gone.link, gone.object, gone.parent, register)?;
        let Some(id) = gone.marker else { return Ok(()) };
        self.leave_marker(dir, &gone.name, child, Some(id), continues)
    }

    /// A link hangs elsewhere now: if nothing took its name, whatever does later continues its history.
    fn moved_away(&mut self, old: &LinkRegister) -> Result<()> {
        let Some(dir) = old.placed else { return Ok(()) };
        if !Self::is_versioned(self.txn.object(old.child)?.attributes.kind) {
            return Ok(());
        }
        self.leave_marker(dir, &old.name, old.child, None, old.continues)
    }

    /// Notes whose history a name ends with, if nothing stands there any more; without an id nothing was deleted.
    fn leave_marker(
        &mut self,
        dir: Ino,
        name: &[u8],
        child: Ino,
        id: Option<VersionId>,
        continues: Option<Lineage>,
    ) -> Result<()> {
        if self.txn.links(dir, name)?.is_some() {
            return Ok(());
        }
        let k = key::marker(dir, name);
        let old: Option<MarkerRow> = self.txn.get(&k)?;
        let new = (self.stamp, id.unwrap_or_default());
        if old.is_some_and(|o| !self.state.wins(new, (o.stamp, o.id))) {
            return Ok(());
        }
        let mut row = self.txn.object(dir)?;
        if !row.attributes.markers {
            row.attributes.markers = true;
            self.txn.put_object(dir, row, Keep::History)?;
        }
        let lineage = self.lineage_after(child, continues)?;
        let (from, moved) = (self.txn.lsn(), id.is_none());
        let id = id.unwrap_or_default();
        let marker = MarkerRow { from, stamp: self.stamp, id, child, lineage, moved };
        self.txn.put(k, &marker, Keep::History)
    }

    /// The history of a name that an object had, as of now: `continues` is what came before the object there.
    pub(super) fn lineage_after(&mut self, child: Ino, continues: Option<Lineage>) -> Result<Lineage> {
        let row = self.txn.object(child)?;
        let version = self.best_head(child, &row.content.heads)?.map(|(_, id)| id);
        let versions = continues.map_or(0, |c| c.versions).saturating_add(row.content.ordinal);
        Ok(Lineage { object: row.object, version, versions })
    }

    /// An object's creation arrived: links that were noted before can show now.
    pub(super) fn became_known(&mut self, ino: Ino, object: ObjectId) -> Result<()> {
        self.moves_of_known(ino, object)?;
        for link in self.links_of(ino)? {
            self.settle(link, ino)?;
        }
        Ok(())
    }

    /// Follows aliases of a directory to the one whose rows hold its entries.
    pub(super) fn canonical(&mut self, dir: Ino) -> Result<Ino> {
        let mut at = dir;
        while let Some(row) = self.txn.object_if_any(at)?
            && let Some(to) = row.attributes.alias
        {
            at = to;
        }
        Ok(at)
    }

    /// Places or removes a link according to its register.
    pub(super) fn settle(&mut self, link: LinkId, child: Ino) -> Result<()> {
        let Some(mut register) = self.register(link, child)? else { return Ok(()) };
        let row = self.txn.object(child)?;
        let target =
            if self.shows(link, &row, &register)? { Some(self.canonical(register.parent)?) } else { None };
        if register.placed == target {
            return Ok(());
        }
        self.unplace(link, &register)?;
        register.placed = target;
        self.put_register(link, register.clone())?;
        if let Some(dir) = target {
            self.place(dir, link, &register)?;
        }
        Ok(())
    }

    fn shows(&mut self, link: LinkId, row: &ObjectRow, register: &LinkRegister) -> Result<bool> {
        if row.attributes.kind == ObjectKind::Unknown || row.attributes.alias.is_some() {
            return Ok(false);
        }
        let Some(saw) = &register.gone else { return Ok(true) };
        if row.attributes.kind == ObjectKind::Directory {
            return Ok(row.attributes.entries > 0);
        }
        for at in &row.content.heads {
            let version: Option<VersionRow> = self.txn.get(&key::version(register.child, *at))?;
            if let Some(v) = version
                && !v.vector.within(saw)
                && !v.knew_gone.contains(&(link, register.stamp))
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn place(&mut self, dir: Ino, link: LinkId, register: &LinkRegister) -> Result<()> {
        let child_row = self.txn.object(register.child)?;
        let old = self.txn.links(dir, &register.name)?;
        let entry = LinkEntry {
            link: (LinkId::primary(child_row.object) != link).then_some(link),
            child: register.child,
            kind: child_row.attributes.kind,
            stamp: register.stamp,
            continues: register.continues,
        };
        let mut entries = old.as_ref().map_or_else(Vec::new, |o| o.entries.clone());
        entries.push(entry);
        self.count_child_link(register.child, true)?;
        self.put_entries(dir, &register.name, old.as_ref(), entries)
    }

    pub(super) fn unplace(&mut self, link: LinkId, register: &LinkRegister) -> Result<()> {
        let Some(dir) = register.placed else { return Ok(()) };
        let object = self.txn.object(register.child)?.object;
        let named = (LinkId::primary(object) != link).then_some(link);
        let old = self.txn.links(dir, &register.name)?;
        let mut entries = old.as_ref().map_or_else(Vec::new, |o| o.entries.clone());
        entries.retain(|e| e.child != register.child || e.link != named);
        self.count_child_link(register.child, false)?;
        self.put_entries(dir, &register.name, old.as_ref(), entries)
    }

    fn count_child_link(&mut self, child: Ino, more: bool) -> Result<()> {
        let mut row = self.txn.object(child)?;
        let a = &mut row.attributes;
        if a.kind != ObjectKind::Directory {
            a.links = if more {
                a.links + 1
            } else {
                a.links.saturating_sub(u32::from(!planted(Bug::SkipLinkCount)))
            };
            let orphan = a.links == 0;
            if orphan && self.gives_up {
                self.give_up(child, &mut row)?;
            } else if orphan {
                self.list(kind::ORPHAN, child, !planted(Bug::OrphanNotListed))?;
            } else if more && a.links == 1 && a.born != self.stamp.hlc {
                // Not made by this record, so it may be listed: a rename takes the old name away first.
                self.list(kind::ORPHAN, child, false)?;
            }
        }
        self.txn.put_object(child, row, Keep::History)
    }

    /// Writes what stands at a name now, and what follows from it for the directory.
    fn put_entries(
        &mut self,
        dir: Ino,
        name: &[u8],
        old: Option<&LinkRow>,
        mut entries: Vec<LinkEntry>,
    ) -> Result<()> {
        let contested = entries.len() > 1 || old.is_some_and(|o| o.entries.len() > 1);
        if contested {
            self.rank_entries(&mut entries)?;
            if old.is_some_and(|o| o.entries == entries) {
                return Ok(());
            }
        }
        let is_dir = |e: Option<&LinkEntry>| e.is_some_and(|e| e.kind == ObjectKind::Directory);
        let (was, is) = (old.and_then(|o| o.entries.first()), entries.first());
        let mut row = self.txn.object(dir)?;
        let a = &mut row.attributes;
        a.entries = a.entries + u64::from(is.is_some()) - u64::from(was.is_some());
        a.links = a.links + u32::from(is_dir(is)) - u32::from(is_dir(was));
        let markers = a.markers;
        let (gone, emptied) = (a.link.as_ref().is_some_and(|l| l.gone.is_some()), is.is_none());
        self.txn.put_object(dir, row, Keep::History)?;
        let k = key::link(dir, name);
        if emptied {
            self.txn.delete(k, Keep::History)?;
        } else {
            self.txn.put(k, &LinkRow { from: self.txn.lsn(), entries }, Keep::History)?;
            let marker = key::marker(dir, name);
            if markers && was.is_none() && self.txn.has(&marker)? {
                self.txn.delete(marker, Keep::History)?;
            }
        }
        if gone && was.is_none() != emptied {
            self.unsettled.push(dir);
        }
        Ok(())
    }

    /// Settles the links of gone directories whose entries came or went, and those of the directories above that
    /// follow. Each step goes up, and a directory is on the list only when it turned from empty to not, or back: so
    /// it ends after as many steps as links change.
    pub(super) fn settle_all(&mut self) -> Result<()> {
        while let Some(dir) = self.unsettled.pop() {
            let object = self.txn.object(dir)?.object;
            self.settle(LinkId::primary(object), dir)?;
        }
        Ok(())
    }

    /// Orders links at one name by who shows: directories before files, of two directories the smaller id, of
    /// two files the head that was made later.
    fn rank_entries(&mut self, entries: &mut Vec<LinkEntry>) -> Result<()> {
        let mut ranked = Vec::with_capacity(entries.len());
        let mut dirs = Vec::new();
        for e in entries.drain(..) {
            let mut row = self.txn.object(e.child)?;
            if e.kind == ObjectKind::Directory {
                dirs.push((row.object, e.child));
            }
            if !row.attributes.contested {
                row.attributes.contested = true;
                self.txn.put_object(e.child, row.clone(), Keep::History)?;
            }
            let newest = self.best_head(e.child, &row.content.heads)?;
            ranked.push((e, row.object, newest));
        }
        dirs.sort();
        for (_, ino) in dirs.into_iter().skip(1) {
            self.list(kind::TWIN, ino, true)?;
        }
        ranked.sort_by(|(a, a_object, a_head), (b, b_object, b_head)| {
            let dir = |e: &LinkEntry| e.kind == ObjectKind::Directory;
            dir(b).cmp(&dir(a)).then_with(|| {
                if dir(a) {
                    a_object.cmp(b_object)
                } else {
                    Reverse(a_head)
                        .cmp(&Reverse(b_head))
                        .then(b_object.cmp(a_object))
                        .then_with(|| Ordering::reverse(a.link.cmp(&b.link)))
                }
            })
        });
        entries.extend(ranked.into_iter().map(|(e, ..)| e));
        Ok(())
    }

    /// Creation time and id of the head that would show: the later time, then the higher id.
    pub(super) fn best_head(
        &mut self,
        ino: Ino,
        heads: &[crate::base::Lsn],
    ) -> Result<Option<(u64, VersionId)>> {
        let mut best = None;
        for at in heads {
            if let Some(v) = self.txn.get::<VersionRow>(&key::version(ino, *at))? {
                best = best.max(Some((v.created_ns, v.id)));
            }
        }
        Ok(best)
    }

    /// The heads of an object changed: its gone links may come back, and contested names may show another.
    pub(super) fn heads_changed(&mut self, ino: Ino) -> Result<()> {
        let row = self.txn.object(ino)?;
        let several = row.attributes.more_links;
        let gone = row.attributes.link.as_ref().is_some_and(|l| l.gone.is_some());
        if !(several || gone || row.attributes.contested) {
            return Ok(());
        }
        for link in self.links_of(ino)? {
            self.settle(link, ino)?;
            let Some(register) = self.register(link, ino)? else { continue };
            if let Some(dir) = register.placed
                && let Some(old) = self.txn.links(dir, &register.name)?
                && old.entries.len() > 1
            {
                let entries = old.entries.clone();
                self.put_entries(dir, &register.name, Some(&old), entries)?;
            }
        }
        Ok(())
    }
}
