//! The history of a name: the versions of whatever stood there, one object after the other.
//!
//! An object that takes a name over (a rename onto it, a new file where one was deleted or moved away) says in its link
//! whose history it continues: a [`Lineage`], which names the one before it by its id, and so on. All of this is in facts,
//! as are the numbers of versions: so the history of a name is the same on every store that holds the same facts. Only
//! until when a name showed a version is this store's own.

use std::{collections::BTreeMap, ops::RangeInclusive};

use crate::{
    base::{Damage, Ino, LineageId, Lsn, Result, VersionId, limits},
    format::{
        facts::{Lineage, ObjectKind},
        rows::{LineageRow, LinkRow, MarkerRow, Superseded, VersionRow, after_prefix, key, kind},
    },
    index::Order,
};

use super::{
    read::{VersionInfo, View},
    txn::{row, row_at, since},
};

/// A version in the history of a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Past {
    /// Its number in the history, from 1; stays when others are removed. Versions that two stores made without knowing of
    /// each other may share one: then they come in the order of their ids.
    pub ordinal: u64,
    /// Another version of this history has the same number.
    pub shared: bool,
    /// The object whose version it is.
    pub ino: Ino,
    /// The version; its own `ordinal` counts within the object.
    pub version: VersionInfo,
    /// The last LSN at which the name showed it; none: it still does.
    pub until: Option<Lsn>,
}

/// A name that nothing has any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gone {
    /// The name.
    pub name: Vec<u8>,
    /// What stood there last.
    pub ino: Ino,
    /// What that was.
    pub kind: ObjectKind,
    /// Versions in its history.
    pub versions: u64,
    /// When it was removed, ns since 1970.
    pub removed_ns: u64,
    /// The LSN at which it was removed.
    pub lsn: Lsn,
}

/// The versions of one object that belong to a history.
#[derive(Debug, Clone)]
struct Part {
    ino: Ino,
    /// Versions in the history before this object's first.
    before: u64,
    /// Versions of the object up to this number belong to it.
    upto: u64,
    /// The LSN that ended it; none: it goes on.
    until: Option<Lsn>,
    /// The history before it.
    earlier: Option<LineageId>,
}

/// The history of one name, newest object first; older ones are looked up as they are asked for.
pub struct History<'a> {
    view: View<'a>,
    parts: Vec<Part>,
    next: Option<LineageId>,
}

/// What is known of a history, for the next time that it is asked: [`History::pause`], [`History::learn`].
#[derive(Debug, Clone)]
pub struct Paused {
    parts: Vec<Part>,
    next: Option<LineageId>,
}

impl Paused {
    /// Objects that it knows of.
    #[must_use]
    pub fn objects(&self) -> usize {
        self.parts.len()
    }
}

impl<'a> View<'a> {
    /// Has an object a name?
    ///
    /// # Errors
    /// What reading the index says.
    pub fn is_named(&self, ino: Ino) -> Result<bool> {
        let object = self.store().object_row(ino, self.lsn())?;
        Ok(ino == Ino::FIRST
            || object.is_some_and(|o| match o.attributes.kind {
                ObjectKind::Unknown => false,
                ObjectKind::Directory => o.attributes.link.is_some_and(|l| l.placed.is_some()),
                _ => o.attributes.links > 0,
            }))
    }

    /// The history of a name in a directory: what stands there at the view's LSN, or stood there last. None if
    /// nothing ever did, or it is of a kind that has no versions.
    ///
    /// # Errors
    /// What reading the index says.
    pub fn history(&self, dir: Ino, name: &[u8]) -> Result<Option<History<'a>>> {
        if name.is_empty() || name.len() > limits::NAME_BYTES {
            return Ok(None);
        }
        if let Some(links) = self.row_of::<LinkRow>(&key::link(dir, name))? {
            let Some(entry) = links.entries.first() else { return Ok(None) };
            return self.history_of_entry(entry.child, entry.kind, entry.continues);
        }
        let marker: Option<MarkerRow> = self.row_of(&key::marker(dir, name))?;
        let Some((from, last)) = marker.as_ref().and_then(|m| Some((m.from, m.last()?))) else {
            return Ok(None);
        };
        let mut history = History { view: *self, parts: Vec::new(), next: None };
        history.push(&last.lineage, from)?;
        Ok((!history.parts.is_empty()).then_some(history))
    }

    fn history_of_entry(
        &self,
        child: Ino,
        kind: ObjectKind,
        continues: Option<Lineage>,
    ) -> Result<Option<History<'a>>> {
        if !matches!(kind, ObjectKind::File | ObjectKind::Symlink) {
            return Ok(None);
        }
        let upto = self.newest_number(child)?;
        let before = continues.map_or(0, |c| c.versions);
        let earlier = continues.map(|c| c.id());
        let part = Part { ino: child, before, upto, until: None, earlier };
        Ok(Some(History { view: *self, parts: vec![part], next: earlier }))
    }

    /// The history that an object has under the name that came with it, or, if that is gone, its versions alone.
    ///
    /// # Errors
    /// What reading the index says.
    pub fn history_of(&self, ino: Ino) -> Result<Option<History<'a>>> {
        let Some(object) = self.store().object_row(ino, self.lsn())? else { return Ok(None) };
        if let Some(link) = &object.attributes.link
            && let Some(dir) = link.placed
        {
            let links: Option<LinkRow> = self.row_of(&key::link(dir, &link.name))?;
            if let Some(links) = links
                && let Some(entry) = links.entries.iter().find(|e| e.child == ino)
            {
                return self.history_of_entry(ino, entry.kind, entry.continues);
            }
        }
        self.history_of_entry(ino, object.attributes.kind, None)
    }

    /// Names in a directory that were deleted and not made again, in order, from behind `after` on, at most `limit`.
    /// Directories leave no such trace: a moment before shows them.
    ///
    /// # Errors
    /// What reading the index says.
    pub fn gone(&self, dir: Ino, after: Option<&[u8]>, limit: usize) -> Result<Vec<Gone>> {
        let end = after_prefix(&key::marker(dir, b""));
        let mut start = key::marker(dir, after.unwrap_or_default());
        if after.is_some() {
            start.push(0);
        }
        let mut found = Vec::new();
        while found.len() < limit {
            let page = self.markers(&start, &end, limit - found.len())?;
            let Some((last, _)) = page.last() else { break };
            start = key::marker(dir, last);
            start.push(0);
            for (name, marker) in page {
                found.extend(self.gone_of(name, &marker)?);
            }
        }
        Ok(found)
    }

    /// A name that was deleted and not made again.
    ///
    /// # Errors
    /// What reading the index says.
    pub fn gone_at(&self, dir: Ino, name: &[u8]) -> Result<Option<Gone>> {
        if name.is_empty() || name.len() > limits::NAME_BYTES {
            return Ok(None);
        }
        let marker: Option<MarkerRow> = self.row_of(&key::marker(dir, name))?;
        marker.map_or(Ok(None), |m| self.gone_of(name.to_vec(), &m))
    }

    fn gone_of(&self, name: Vec<u8>, marker: &MarkerRow) -> Result<Option<Gone>> {
        let Some(last) = marker.last().filter(|d| !d.moved) else { return Ok(None) };
        let object = self.store().object_row(last.child, None)?;
        let kind = object.map_or(ObjectKind::Unknown, |o| o.attributes.kind);
        if !matches!(kind, ObjectKind::File | ObjectKind::Symlink) {
            return Ok(None);
        }
        let (ino, versions) = (last.child, last.lineage.versions);
        Ok(Some(Gone { name, ino, kind, versions, removed_ns: last.stamp.hlc, lsn: marker.from }))
    }

    /// Markers between two keys as of the view: rows of now, and in the past those of the history too.
    fn markers(&self, start: &[u8], end: &[u8], limit: usize) -> Result<Vec<(Vec<u8>, MarkerRow)>> {
        let mut found = BTreeMap::new();
        let mut failed = None;
        self.index().walk(start, end, Order::Forward, &mut |k, bytes| {
            match row::<MarkerRow>(k, bytes) {
                Ok(m) if self.lsn().is_none_or(|at| m.from <= at) => {
                    found.insert(key::name_of(k).to_vec(), m);
                }
                Ok(_) => {}
                Err(e) => failed = Some(e),
            }
            failed.is_none() && found.len() < limit
        })?;
        if let Some(at) = self.lsn() {
            let history = |k: &[u8]| [&[kind::HISTORY], k].concat();
            let mut older = 0;
            self.index().walk(&history(start), &history(end), Order::Forward, &mut |k, bytes| {
                let k = k.get(1..k.len().saturating_sub(9)).unwrap_or_default();
                let held = row::<Superseded>(k, bytes).and_then(|old| {
                    let held = old.until > at && since(k, &old.row)? <= at && k >= start;
                    if held { row::<MarkerRow>(k, &old.row).map(Some) } else { Ok(None) }
                });
                match held {
                    Ok(Some(m)) => {
                        older += 1;
                        found.insert(key::name_of(k).to_vec(), m);
                    }
                    Ok(None) => {}
                    Err(e) => failed = Some(e),
                }
                failed.is_none() && older < limit
            })?;
        }
        match failed {
            Some(e) => Err(e),
            None => Ok(found.into_iter().take(limit).collect()),
        }
    }

    /// A row of a kind with history, as of the view.
    fn row_of<T: crate::format::code::Decode<()>>(&self, k: &[u8]) -> Result<Option<T>> {
        let bytes = match self.lsn() {
            None => self.index().get(k)?.map(|v| v.to_vec()),
            Some(at) => row_at(self.index(), k, at)?,
        };
        bytes.map(|b| row(k, &b)).transpose()
    }

    /// The highest number of an object's versions, as of the view.
    fn newest_number(&self, ino: Ino) -> Result<u64> {
        let Some(object) = self.store().object_row(ino, None)? else { return Ok(0) };
        let Some(at) = self.lsn() else { return Ok(object.content.ordinal) };
        if !object.content.disordered {
            let (start, end) = (key::version(ino, Lsn::new(0)), key::version(ino, at.next()));
            let last = self.index().last(&start, &end)?;
            return last.map_or(Ok(0), |(k, bytes)| Ok(row::<VersionRow>(&k, &bytes)?.ordinal));
        }
        let mut newest = 0;
        let prefix = &key::numbered(ino, 0, VersionId::default())[..9];
        self.each_number(prefix, &after_prefix(prefix), Order::Back, &mut |number, lsn| {
            if lsn <= at {
                newest = number;
            }
            newest == 0
        })?;
        Ok(newest)
    }

    /// The numbers of an object's versions, and where those are.
    fn each_number(
        &self,
        start: &[u8],
        end: &[u8],
        order: Order,
        each: &mut dyn FnMut(u64, Lsn) -> bool,
    ) -> Result<()> {
        let mut failed = None;
        self.index().walk(start, end, order, &mut |k, bytes| match row::<Lsn>(k, bytes) {
            Ok(lsn) => each(key::number_of(k).unwrap_or(0), lsn),
            Err(e) => {
                failed = Some(e);
                false
            }
        })?;
        failed.map_or(Ok(()), Err)
    }

    /// Versions of an object with numbers in this range, in their order or backwards: at most `limit`, and those that share
    /// their number with the last.
    fn numbered(
        &self,
        ino: Ino,
        range: RangeInclusive<u64>,
        order: Order,
        limit: usize,
    ) -> Result<Vec<VersionInfo>> {
        let (first, last) = range.into_inner();
        let Some(object) = self.store().object_row(ino, None)?.filter(|_| first <= last && limit > 0) else {
            return Ok(Vec::new());
        };
        let at = self.lsn().unwrap_or(Lsn::MAX);
        let mut found: Vec<VersionInfo> = Vec::new();
        if object.content.disordered {
            let mut lsns: Vec<(u64, Lsn)> = Vec::new();
            let start = key::numbered(ino, first, VersionId::default());
            let end = key::numbered(ino, last.saturating_add(1), VersionId::default());
            self.each_number(&start, &end, order, &mut |number, lsn| {
                let full = lsns.len() >= limit && lsns.last().is_some_and(|l| l.0 != number);
                if !full && lsn <= at {
                    lsns.push((number, lsn));
                }
                !full
            })?;
            for (_, lsn) in lsns {
                let k = key::version(ino, lsn);
                if let Some(bytes) = self.index().get(&k)? {
                    found.push(self.store().version_info(&k, &bytes)?);
                }
            }
            return Ok(found);
        }
        let top = key::version(ino, if at == Lsn::MAX { at } else { at.next() });
        let from = match self.version_upto(ino, first - 1)? {
            Some(v) => v.lsn.next(),
            None => Lsn::new(0),
        };
        let rows = match order {
            Order::Forward => self.index().scan(&key::version(ino, from), &top, limit)?,
            Order::Back => {
                let Some(newest) = self.version_upto(ino, last)? else { return Ok(found) };
                let end = key::version(ino, newest.lsn.next()).min(top);
                self.index().scan_back(&key::version(ino, from), &end, limit)?
            }
        };
        for (k, bytes) in rows {
            let v = self.store().version_info(&k, &bytes)?;
            if v.ordinal <= last {
                found.push(v);
            }
        }
        Ok(found)
    }

    /// The LSN of the version of an object that came next after this one.
    fn came_next(&self, ino: Ino, lsn: Lsn) -> Result<Option<Lsn>> {
        let (start, end) = (key::version(ino, lsn.next()), key::version(ino, Lsn::MAX));
        let next = self.index().scan(&start, &end, 1)?.pop();
        Ok(next.and_then(|(k, _)| key::last_number(&k)).map(Lsn::new))
    }

    /// The newest version of an object whose number is at most `ordinal`.
    fn version_upto(&self, ino: Ino, ordinal: u64) -> Result<Option<VersionInfo>> {
        let (start, end) = (key::version(ino, Lsn::new(0)), key::version(ino, Lsn::MAX));
        let first = self.index().scan(&start, &end, 1)?.pop();
        let (Some((fk, first)), Some((lk, last))) = (first, self.index().last(&start, &end)?) else {
            return Ok(None);
        };
        let (mut low, last) =
            (self.store().version_info(&fk, &first)?, self.store().version_info(&lk, &last)?);
        if low.ordinal > ordinal {
            return Ok(None);
        }
        if last.ordinal <= ordinal {
            return Ok(Some(last));
        }
        // Numbers grow with LSNs, as a rule evenly: so a guess in proportion, and every other time the middle.
        let (mut from, mut to, mut above) = (low.lsn.get(), last.lsn.get(), last.ordinal);
        let mut halve = false;
        while low.ordinal < ordinal && to - from > 1 {
            let span = to - from;
            let share =
                u128::from(span) * u128::from(ordinal - low.ordinal) / u128::from(above - low.ordinal);
            let guess = if halve { span / 2 } else { share as u64 };
            halve = !halve;
            let cut = from + guess.clamp(1, span - 1);
            let below = self
                .index()
                .last(&key::version(ino, low.lsn), &key::version(ino, Lsn::new(cut).next()))?
                .ok_or_else(|| Damage::file("index", 0, "a version vanished"))?;
            let v = self.store().version_info(&below.0, &below.1)?;
            if v.ordinal <= ordinal {
                (low, from) = (v, cut);
            } else {
                (above, to) = (v.ordinal, v.lsn.get());
            }
        }
        Ok(Some(low))
    }
}

impl History<'_> {
    /// The number of its newest version; 0: it has none.
    #[must_use]
    pub fn newest(&self) -> u64 {
        self.parts.first().map_or(0, |p| p.before.saturating_add(p.upto))
    }

    /// Versions in it before the first of the object that has the name now.
    #[must_use]
    pub fn before_own(&self) -> u64 {
        self.parts.first().map_or(0, |p| p.before)
    }

    /// Takes over what was known of the same history before, as far as it still holds. Only what stands at the name
    /// now can have changed.
    pub fn learn(&mut self, paused: Paused) {
        let same = |a: &Part, b: &Part| {
            (a.ino, a.before, a.until, a.earlier) == (b.ino, b.before, b.until, b.earlier)
        };
        let Some((head, old)) = self.parts.first().zip(paused.parts.first()) else { return };
        if same(head, old) && self.parts.len() < paused.parts.len() {
            let head = head.clone();
            self.parts = paused.parts;
            self.parts[0] = head;
            self.next = paused.next;
        }
    }

    /// What is known of it, without the store.
    #[must_use]
    pub fn pause(self) -> Paused {
        Paused { parts: self.parts, next: self.next }
    }

    /// The object that has the name now, or had it last.
    #[must_use]
    pub fn ino(&self) -> Ino {
        self.parts.first().map_or(Ino::FIRST, |p| p.ino)
    }

    /// The version with this number; of several, the one that was made last.
    ///
    /// # Errors
    /// What reading the index says.
    pub fn get(&mut self, ordinal: u64) -> Result<Option<Past>> {
        Ok(self.from(ordinal, 1)?.pop().filter(|p| p.ordinal == ordinal))
    }

    /// Versions from this number on, oldest first: at most `limit`, and those that share their number with the last. What it
    /// costs grows with the number of objects that had the name since, not with the number of versions.
    ///
    /// # Errors
    /// What reading the index says.
    pub fn from(&mut self, ordinal: u64, limit: usize) -> Result<Vec<Past>> {
        let wanted = ordinal.max(1);
        let n = self.part_below(wanted)?;
        let mut found = Vec::new();
        for n in (0..(n + 1).min(self.parts.len())).rev() {
            if found.len() >= limit {
                break;
            }
            let part = self.parts[n].clone();
            let local = wanted.saturating_sub(part.before).max(1);
            let left = limit - found.len();
            for v in self.view.numbered(part.ino, local..=part.upto, Order::Forward, left)? {
                found.push(self.past(&part, v)?);
            }
        }
        mark_shared(&mut found);
        Ok(found)
    }

    /// Versions before this number, newest first, at most `limit` and those that share their number with the last; none: from
    /// the newest on.
    ///
    /// # Errors
    /// What reading the index says.
    pub fn before(&mut self, ordinal: Option<u64>, limit: usize) -> Result<Vec<Past>> {
        let mut upto = ordinal.map_or(self.newest(), |o| o.saturating_sub(1).min(self.newest()));
        let mut found = Vec::new();
        let mut n = self.part_below(upto)?;
        while found.len() < limit && upto > 0 {
            let Some(part) = self.part(n)? else { break };
            n += 1;
            if upto <= part.before {
                continue;
            }
            let local = upto - part.before;
            upto = part.before;
            for v in self.view.numbered(part.ino, 1..=local, Order::Back, limit - found.len())? {
                found.push(self.past(&part, v)?);
            }
        }
        mark_shared(&mut found);
        Ok(found)
    }

    /// A version of a part, with the end of its time.
    fn past(&self, part: &Part, version: VersionInfo) -> Result<Past> {
        let next = self.view.came_next(part.ino, version.lsn)?;
        let ended = [next, part.until].into_iter().flatten().min();
        let until = ended.and_then(|l| l.get().checked_sub(1)).map(Lsn::new);
        let ordinal = part.before.saturating_add(version.ordinal);
        Ok(Past { ordinal, shared: false, ino: part.ino, version, until })
    }

    /// The newest part that begins before this version.
    fn part_below(&mut self, ordinal: u64) -> Result<usize> {
        loop {
            let n = self.parts.partition_point(|p| p.before >= ordinal.max(1));
            if n < self.parts.len() || self.next.is_none() {
                return Ok(n);
            }
            self.extend()?;
        }
    }

    /// The part with this number from the newest on.
    fn part(&mut self, n: usize) -> Result<Option<Part>> {
        while self.parts.len() <= n && self.next.is_some() {
            self.extend()?;
        }
        Ok(self.parts.get(n).cloned())
    }

    /// Looks up the object before the oldest that is known.
    fn extend(&mut self) -> Result<()> {
        let Some(id) = self.next.take() else { return Ok(()) };
        let k = key::lineage(id);
        match self.view.index().get(&k)? {
            Some(bytes) => {
                let found: LineageRow = row(&k, &bytes)?;
                self.push(&found.lineage, found.ended)
            }
            // The facts that say it are not here: what came before is not known.
            None => Ok(()),
        }
    }

    fn push(&mut self, lineage: &Lineage, ended: Lsn) -> Result<()> {
        self.next = lineage.earlier.map(|e| e.lineage);
        let before = lineage.before();
        let upto = lineage.versions.saturating_sub(before);
        // Of an object whose creation is not known here nothing can be shown.
        let ino = self.view.store().known_ino(lineage.object)?;
        let object = ino.map(|ino| self.view.store().object_row(ino, None)).transpose()?.flatten();
        if let Some(ino) = ino
            && object.is_some_and(|o| o.attributes.kind != ObjectKind::Unknown)
        {
            self.parts.push(Part { ino, before, upto, until: Some(ended), earlier: self.next });
        }
        Ok(())
    }
}

/// Says of neighbours whether they share a number. No page ends between two that do.
fn mark_shared(found: &mut [Past]) {
    for n in 1..found.len() {
        if found[n].ordinal == found[n - 1].ordinal {
            (found[n].shared, found[n - 1].shared) = (true, true);
        }
    }
}
