//! The history of a name: the versions of whatever stood there, one object after the other.
//!
//! An object that takes a name over (a rename onto it, a new file where one was deleted or moved away) says in
//! its link whose history it continues, and how many versions that has. So the number of a version never
//! depends on what is read: that of the link, and its own among the versions of its object.

use std::collections::BTreeMap;

use crate::{
    base::{Damage, Ino, Lsn, ObjectId, Result, limits},
    format::{
        facts::{Lineage, ObjectKind},
        rows::{LinkEntry, LinkRow, MarkerRow, ObjectRow, Superseded, VersionRow, after_prefix, key, kind},
    },
    index::Order,
};

use super::{
    read::{VersionInfo, View},
    txn::{row, row_at, since},
};

/// How many former states of a name or of an object are looked through for the one that a link continues.
const STATES: usize = 64;

/// A version in the history of a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Past {
    /// Its number in the history, from 1; stays when others are removed.
    pub ordinal: u64,
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
}

/// Where to look for what came before.
#[derive(Debug, Clone)]
struct Place {
    dir: Ino,
    name: Vec<u8>,
    /// Only what stood there before this.
    before: Lsn,
}

/// The history of one name, newest object first; older ones are looked up as they are asked for.
pub struct History<'a> {
    view: View<'a>,
    parts: Vec<Part>,
    next: Option<(Lineage, Place)>,
}

/// What is known of a history, for the next time that it is asked: [`History::pause`], [`History::learn`].
#[derive(Debug, Clone)]
pub struct Paused {
    parts: Vec<Part>,
    next: Option<(Lineage, Place)>,
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
        let here = |before| Place { dir, name: name.to_vec(), before };
        let links: Option<LinkRow> = self.row_of(&key::link(dir, name))?;
        if let Some(links) = links {
            let Some(entry) = links.entries.first() else { return Ok(None) };
            return self.history_of_entry(entry, here(links.from));
        }
        let marker: Option<MarkerRow> = self.row_of(&key::marker(dir, name))?;
        let Some(marker) = marker else { return Ok(None) };
        let (view, parts) = (*self, Vec::new());
        let mut history = History { view, parts, next: Some((marker.lineage, here(marker.from))) };
        history.extend()?;
        if let Some(last) = history.parts.first_mut() {
            last.until = last.until.or(Some(marker.from));
        }
        Ok((!history.parts.is_empty()).then_some(history))
    }

    fn history_of_entry(&self, entry: &LinkEntry, place: Place) -> Result<Option<History<'a>>> {
        if !matches!(entry.kind, ObjectKind::File | ObjectKind::Symlink) {
            return Ok(None);
        }
        let upto = match self.lsn() {
            None => self.store().object_row(entry.child, None)?.map_or(0, |o| o.content.ordinal),
            Some(at) => {
                let (start, end) =
                    (key::version(entry.child, Lsn::new(0)), key::version(entry.child, at.next()));
                match self.index().last(&start, &end)? {
                    Some((k, bytes)) => row::<VersionRow>(&k, &bytes)?.ordinal,
                    None => 0,
                }
            }
        };
        let before = entry.continues.map_or(0, |c| c.versions);
        let part = Part { ino: entry.child, before, upto, until: None };
        Ok(Some(History { view: *self, parts: vec![part], next: entry.continues.map(|c| (c, place)) }))
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
                return self
                    .history_of_entry(entry, Place { dir, name: link.name.clone(), before: links.from });
            }
        }
        let alone = LinkEntry {
            link: None,
            child: ino,
            kind: object.attributes.kind,
            stamp: crate::format::rows::Stamp::default(),
            continues: None,
        };
        self.history_of_entry(&alone, Place { dir: ino, name: Vec::new(), before: Lsn::new(0) })
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
        let object = self.store().object_row(marker.child, None)?;
        let kind = object.map_or(ObjectKind::Unknown, |o| o.attributes.kind);
        if marker.moved || !matches!(kind, ObjectKind::File | ObjectKind::Symlink) {
            return Ok(None);
        }
        let (ino, versions) = (marker.child, marker.lineage.versions);
        Ok(Some(Gone { name, ino, kind, versions, removed_ns: marker.stamp.hlc, lsn: marker.from }))
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

    fn ino_of(&self, object: ObjectId) -> Result<Ino> {
        let k = key::object_id(object);
        match self.index().get(&k)? {
            Some(bytes) => row(&k, &bytes),
            None => Ok(object.parts().1),
        }
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
        let same = |a: &Part, b: &Part| (a.ino, a.before, a.until) == (b.ino, b.before, b.until);
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

    /// The version with this number.
    ///
    /// # Errors
    /// What reading the index says.
    pub fn get(&mut self, ordinal: u64) -> Result<Option<Past>> {
        Ok(self.from(ordinal, 1)?.pop().filter(|p| p.ordinal == ordinal))
    }

    /// Versions from this number on, oldest first, at most `limit`. What it costs grows with the number of objects
    /// that had the name since, not with the number of versions.
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
            let start = match self.view.version_upto(part.ino, local - 1)? {
                Some(v) => v.lsn.next(),
                None => Lsn::new(0),
            };
            let left = limit - found.len();
            let end = key::version(part.ino, Lsn::MAX);
            let rows = self.view.index().scan(&key::version(part.ino, start), &end, left + 1)?;
            let mut versions = Vec::with_capacity(rows.len());
            for (k, bytes) in &rows {
                let v = self.view.store().version_info(k, bytes)?;
                if v.ordinal <= part.upto {
                    versions.push(v);
                }
            }
            for (i, v) in versions.iter().take(left).enumerate() {
                let until = versions.get(i + 1).map(|next| next.lsn).or(part.until);
                found.push(part.past(v.clone(), until));
            }
        }
        Ok(found)
    }

    /// Versions before this number, newest first, at most `limit`; none: from the newest on.
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
            let Some(first) = self.view.version_upto(part.ino, local)? else { continue };
            let end = key::version(part.ino, Lsn::MAX);
            let later = self.view.index().scan(&key::version(part.ino, first.lsn.next()), &end, 1)?.pop();
            let later = later.map(|(k, bytes)| self.view.store().version_info(&k, &bytes)).transpose()?;
            let mut until = later.filter(|v| v.ordinal <= part.upto).map(|v| v.lsn).or(part.until);
            let (start, end) =
                (key::version(part.ino, Lsn::new(0)), key::version(part.ino, first.lsn.next()));
            for (k, bytes) in self.view.index().scan_back(&start, &end, limit - found.len())? {
                let v = self.view.store().version_info(&k, &bytes)?;
                let lsn = v.lsn;
                found.push(part.past(v, until));
                until = Some(lsn);
            }
        }
        Ok(found)
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
        let Some((lineage, place)) = self.next.take() else { return Ok(()) };
        let ino = self.view.ino_of(lineage.object)?;
        let stood = match self.stood_here(ino, &lineage, &place)? {
            Some(found) => Some(found),
            None => self.stood_elsewhere(ino, &lineage)?,
        };
        if let Some((part, next)) = stood {
            // Objects without versions add nothing: a long row of them would be a circle.
            let idle = self.parts.iter().rev().take_while(|p| p.upto == 0).take(STATES * 16).count();
            self.next = next.filter(|_| idle < STATES * 16);
            self.parts.push(part);
            return Ok(());
        }
        // Where it stood is not known any more: its own versions, and how many came before.
        let version = lineage.version.map(|id| self.view.store().find_version(id)).transpose()?.flatten();
        let upto = match version {
            None => 0,
            Some((ino, at)) => {
                let k = key::version(ino, at);
                let bytes = self.view.index().get(&k)?;
                bytes.map(|b| row::<VersionRow>(&k, &b)).transpose()?.map_or(0, |v| v.ordinal)
            }
        };
        let upto = upto.min(lineage.versions);
        self.parts.push(Part { ino, before: lineage.versions - upto, upto, until: None });
        Ok(())
    }

    /// The object among those that had the same name before.
    fn stood_here(&self, ino: Ino, lineage: &Lineage, place: &Place) -> Result<Option<Stood>> {
        let k = key::link(place.dir, &place.name);
        let (start, end) = (key::history_prefix(&k), key::history(&k, place.before));
        let most = self.most(ino)?;
        for (hk, bytes) in self.view.index().scan_back(&start, &end, STATES)? {
            let old: Superseded = row(&hk, &bytes)?;
            let links: LinkRow = row(&k, &old.row)?;
            if let Some(found) = stood(ino, lineage, &links, place, old.until, most) {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    /// The object where it hung last, under another name: what continues it was moved here.
    fn stood_elsewhere(&self, ino: Ino, lineage: &Lineage) -> Result<Option<Stood>> {
        let k = key::object(ino);
        let most = self.most(ino)?;
        let mut plausible = None;
        let (start, end) = (key::history_prefix(&k), key::history(&k, Lsn::MAX));
        for (hk, bytes) in self.view.index().scan_back(&start, &end, STATES)? {
            let old: Superseded = row(&hk, &bytes)?;
            let object: ObjectRow = row(&k, &old.row)?;
            let Some(link) = object.attributes.link else { continue };
            let (Some(dir), Some(at)) = (link.placed, old.until.get().checked_sub(1)) else { continue };
            let lk = key::link(dir, &link.name);
            let Some(bytes) = row_at(self.view.index(), &lk, Lsn::new(at))? else { continue };
            let links: LinkRow = row(&lk, &bytes)?;
            let place = Place { dir, name: link.name, before: links.from };
            if let Some(found) = stood(ino, lineage, &links, &place, old.until, most) {
                if found.0.upto == object.content.ordinal {
                    return Ok(Some(found));
                }
                plausible = plausible.or(Some(found));
            }
        }
        Ok(plausible)
    }

    /// Versions that an object ever had.
    fn most(&self, ino: Ino) -> Result<u64> {
        Ok(self.view.store().object_row(ino, None)?.map_or(0, |o| o.content.ordinal))
    }
}

/// A part, and what to look for before it.
type Stood = (Part, Option<(Lineage, Place)>);

/// Takes an object out of what stood at a name, if it can be the one that a later link continues.
fn stood(
    ino: Ino,
    lineage: &Lineage,
    links: &LinkRow,
    place: &Place,
    until: Lsn,
    most: u64,
) -> Option<Stood> {
    let entry = links.entries.iter().find(|e| e.child == ino)?;
    let before = entry.continues.map_or(0, |c| c.versions);
    let upto = lineage.versions.checked_sub(before).filter(|n| *n <= most)?;
    let next = entry.continues.map(|c| (c, Place { before: links.from, ..place.clone() }));
    Some((Part { ino, before, upto, until: Some(until) }, next))
}

impl Part {
    /// A version of this part; `ended` is the LSN that ended its time.
    fn past(&self, version: VersionInfo, ended: Option<Lsn>) -> Past {
        let until = ended.and_then(|l| l.get().checked_sub(1)).map(Lsn::new);
        Past { ordinal: self.before.saturating_add(version.ordinal), ino: self.ino, version, until }
    }
}
