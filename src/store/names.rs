//! Names: where links hang, which of them show, and what happens when two stand at one name.
//!
//! A link register is a fact; its place in a directory's rows is derived from it. [`Apply::settle`] derives
//! it: a link is placed if it is not gone, or if something it did not see keeps it alive.

use std::cmp::{Ordering, Reverse};

use crate::{
    base::{
        Ino, LinkId, ObjectId, Result, VersionId, limits,
        planted::{Bug, planted},
    },
    format::{
        code,
        facts::{Earlier, Gone, Left, Lineage, Link, ObjectKind, Time},
        rows::{
            Departure, LineageRow, LinkEntry, LinkRegister, LinkRow, MarkerRow, ObjectRow, VersionRow, key,
            kind,
        },
    },
};

use super::{
    apply::Apply,
    txn::{Keep, row},
};

impl Apply<'_, '_> {
    /// A link hangs somewhere.
    pub(super) fn link(&mut self, link: &Link) -> Result<()> {
        let register = LinkRegister {
            stamp: self.stamp,
            parent: self.ino_for(link.parent)?,
            name: link.name.clone(),
            child: self.ino_for(link.object)?,
            gone: None,
            continues: link.continues,
            placed: None,
            slot: None,
        };
        if let Some(lineage) = &link.continues {
            self.note_lineage(lineage, register.parent, &link.name)?;
        }
        if self.state.unbroken
            && self.created == Some(register.child)
            && self.stamp.store == 0
            && !self.state.meta.foreign
        {
            // A new object's name was seen to be free when its record was made, and only records of other
            // stores could have come between.
            self.txn.is_free_name(register.parent, &link.name);
        }
        self.set_register(link.link, link.object, link.parent, register)?;
        match &link.left {
            Some(left) => self.left(link.object, left),
            None => Ok(()),
        }
    }

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
                let mut new = new;
                if let Some(old) = &old {
                    self.unplace(link, old)?;
                    match old.slot {
                        // No store gives one link to two objects; should one say so, the newer has it.
                        Some(slot) if old.child != child => self.free_slot(old.child, slot)?,
                        slot => new.slot = slot,
                    }
                }
                self.put_register(link, new)?;
                self.settle(link, child)
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
            slot: None,
        };
        self.set_register(gone.link, gone.object, gone.parent, register)?;
        let Some(lineage) = gone.lineage else { return Ok(()) };
        let id = gone.marker.unwrap_or_default();
        self.depart(gone.object, gone.parent, &gone.name, (id, false, lineage))
    }

    /// A link left a name for another.
    pub(super) fn left(&mut self, object: ObjectId, left: &Left) -> Result<()> {
        self.depart(object, left.parent, &left.name, (VersionId::default(), true, left.lineage))
    }

    /// Something left a name. The newest of such facts says whose history the name ends with, while nothing stands there;
    /// whether the link itself hangs where this fact says does not matter.
    pub(super) fn depart(
        &mut self,
        object: ObjectId,
        parent: ObjectId,
        name: &[u8],
        (id, moved, lineage): (VersionId, bool, Lineage),
    ) -> Result<()> {
        let (dir, dir_row) = self.object_or_new(parent)?;
        if self.txn.object_if_any(dir)?.is_none() {
            self.txn.put_object(dir, dir_row, Keep::History)?;
        }
        let child = self.ino_for(object)?;
        let new = Departure { dir, stamp: self.stamp, child, id, moved, lineage };
        let at = self.canonical(dir)?;
        self.put_departure(at, name, new)
    }

    fn put_departure(&mut self, at: Ino, name: &[u8], new: Departure) -> Result<()> {
        let old: Option<MarkerRow> = self.txn.get(&key::marker(at, name))?;
        let mut departures = old.map(|o| o.departures).unwrap_or_default();
        match departures.iter_mut().find(|d| d.dir == new.dir) {
            Some(d) if !self.state.wins((new.stamp, new.value()), (d.stamp, d.value())) => return Ok(()),
            Some(d) => *d = new,
            None => departures.push(new),
        }
        self.put_marker(at, name, departures)
    }

    fn put_marker(&mut self, at: Ino, name: &[u8], mut departures: Vec<Departure>) -> Result<()> {
        let k = key::marker(at, name);
        if departures.is_empty() {
            return self.txn.delete(k, Keep::History);
        }
        departures.sort_by_cached_key(|d| Reverse((self.state.rank(d.stamp), d.value())));
        let mut row = self.txn.object(at)?;
        if !row.attributes.markers {
            row.attributes.markers = true;
            self.txn.put_object(at, row, Keep::History)?;
        }
        let covered = self.txn.links(at, name)?.is_some();
        // While something stands there, nobody sees it.
        let unseen = covered && self.txn.get::<MarkerRow>(&k)?.is_none_or(|old| old.covered);
        let marker = MarkerRow { from: self.txn.lsn(), covered, departures };
        self.txn.put(k, &marker, if unseen { Keep::Amend } else { Keep::History })
    }

    /// Something stands at a name from now on, or no more.
    fn cover_marker(&mut self, dir: Ino, name: &[u8], covered: bool) -> Result<()> {
        let k = key::marker(dir, name);
        match self.txn.get::<MarkerRow>(&k)? {
            Some(old) if old.covered != covered => {
                let marker = MarkerRow { from: self.txn.lsn(), covered, ..old };
                self.txn.put(k, &marker, Keep::History)
            }
            _ => Ok(()),
        }
    }

    /// Departures kept with this directory's names: those that belong to another one now go there.
    pub(super) fn settle_markers(&mut self, at: Ino) -> Result<()> {
        if !self.txn.object(at)?.attributes.markers {
            return Ok(());
        }
        let prefix = key::marker(at, b"");
        for (k, bytes) in self.txn.scan(&prefix, &prefix, usize::MAX)? {
            let marker: MarkerRow = row(&k, &bytes)?;
            let name = key::name_of(&k);
            let (mut stay, mut go) = (Vec::new(), Vec::new());
            for d in marker.departures {
                let to = self.canonical(d.dir)?;
                if to == at { stay.push(d) } else { go.push((to, d)) }
            }
            if go.is_empty() {
                continue;
            }
            self.put_marker(at, name, stay)?;
            for (to, d) in go {
                self.put_departure(to, name, d)?;
            }
        }
        Ok(())
    }

    /// A link continues this history: kept by its id, for whoever follows the chain.
    pub(super) fn note_lineage(&mut self, lineage: &Lineage, parent: Ino, name: &[u8]) -> Result<()> {
        let k = key::lineage(lineage.id());
        if self.txn.has(&k)? {
            return Ok(());
        }
        let dir = self.canonical(parent)?;
        let marker = match self.txn.object_if_any(dir)? {
            Some(d) if d.attributes.markers => self.txn.get::<MarkerRow>(&key::marker(dir, name))?,
            _ => None,
        };
        let ended = marker.filter(|m| m.last().is_some_and(|d| d.lineage == *lineage)).map(|m| m.from);
        let new = LineageRow { lineage: *lineage, ended: ended.unwrap_or(self.txn.lsn()) };
        self.txn.put(k, &new, Keep::Amend)
    }

    /// The history of a name that an object has, as of now: `continues` is what came before the object there.
    pub(super) fn lineage_after(&mut self, child: Ino, continues: Option<Lineage>) -> Result<Lineage> {
        let row = self.txn.object(child)?;
        if row.content.ordinal == 0
            && let Some(continues) = continues
        {
            return Ok(continues); // An object without versions adds nothing.
        }
        let version = self.best_head(child, &row.content.heads)?.map(|(_, id)| id);
        // Where somebody claims so many that others would refuse what follows, the object's own begin the history anew.
        let number = |before: u64| before.saturating_add(row.content.ordinal);
        let earlier = continues
            .filter(|c| number(c.versions) < limits::COUNTER)
            .map(|c| Earlier { versions: c.versions, lineage: c.id() });
        let versions = number(earlier.map_or(0, |e| e.versions));
        Ok(Lineage { object: row.object, version, versions, earlier })
    }

    /// An object's creation arrived: links that were noted before can show now.
    pub(super) fn became_known(&mut self, ino: Ino, object: ObjectId) -> Result<()> {
        self.moves_of_known(ino, object)?;
        for link in self.links_of(ino)? {
            self.settle(link, ino)?;
        }
        for at in self.txn.object(ino)?.content.heads {
            if let Some(head) = self.txn.get::<VersionRow>(&key::version(ino, at))? {
                self.settle_named(ino, &head.links)?;
            }
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
        if register.child != child {
            return Ok(());
        }
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
                && v.names(link, LinkId::primary(row.object) == link)
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
        }
        if markers && was.is_none() != emptied {
            self.cover_marker(dir, name, !emptied)?;
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

    /// Settles links that a head names: it may bring them back.
    fn settle_named(&mut self, ino: Ino, links: &[LinkId]) -> Result<()> {
        for link in links {
            self.settle(*link, ino)?;
        }
        Ok(())
    }

    /// The heads of an object changed, since there is a version that names these links: gone ones may come back, and
    /// contested names may show another.
    pub(super) fn heads_changed(&mut self, ino: Ino, named: &[LinkId]) -> Result<()> {
        self.settle_named(ino, named)?;
        let row = self.txn.object(ino)?;
        let several = row.attributes.further > 0;
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
