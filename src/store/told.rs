//! Taking in what another store's index says ([`super::catchup`]): each value with the stamp under which it was made, by the
//! same apply as if the facts themselves had come. What is here already, or newer here, leaves no record.

use std::collections::BTreeSet;

use crate::{
    base::{Error, FsError, Ino, LinkId, Lsn, ObjectId, Result, StoreId, VersionId, limits},
    format::{
        code,
        facts::{Changes, Fact, Lineage, Marked, ObjectKind, Told, Version},
        rows::{LineageRow, LinkRegister, LockRow, MarkerRow, ObjectRow, Stamp, TagRow, XattrRow, key},
        wire::Stretch,
    },
};

use super::{
    Store,
    apply::Apply,
    catchup::ToldPage,
    import::{Fetch, ROUNDS, objects_in},
    knowledge::{Knowledge, hold},
    parcels,
    state::State,
    txn::{Keep, row},
};

/// Values noted in one record.
const PER_RECORD: usize = 256;

impl Apply<'_, '_> {
    /// Facts by which one store tells another what is in its index.
    pub(super) fn of_a_telling(&mut self, fact: &Fact) -> Result<()> {
        match fact {
            Fact::Told(told) => self.told(told),
            Fact::Touched(object) => self.touched(*object),
            Fact::Marked(marked) => self.marked(marked),
            Fact::Continued(lineage) => self.continued(lineage),
            Fact::Filled(held) => self.filled(held),
            Fact::Owed(these) => self.owed(these),
            Fact::Adopted(these) => self.adopted(these),
            _ => Ok(()),
        }
    }

    /// A fact as another store's index has it, under its own stamp.
    fn told(&mut self, told: &Told) -> Result<()> {
        let fact: Fact = code::decode(&told.fact).map_err(|e| {
            crate::base::Damage::file("log", 0, format!("what another store told does not decode: {e}"))
        })?;
        let own = (self.stamp, self.made_in, self.part);
        self.stamp = Stamp { hlc: told.hlc, store: self.state.number(told.store).unwrap_or(0) };
        (self.made_in, self.part) = (told.incarnation, told.part);
        self.state.meta.hlc = self.state.meta.hlc.max(told.hlc);
        if !fact.is_local() {
            self.rise()?;
        }
        // What was told before in this record was made by other records: an object that one of them made may have moved since.
        self.created = None;
        match &fact {
            Fact::Link(link) => self.hangs_first(link.object)?,
            Fact::Version(v) => self.never_a_draft(v)?,
            _ => {}
        }
        self.fact(&fact)?;
        self.created = None;
        (self.stamp, self.made_in, self.part) = own;
        Ok(())
    }

    /// Where a directory was made is no move: nothing could be below it then. It may be told long after it was made.
    fn hangs_first(&mut self, object: ObjectId) -> Result<()> {
        let ino = self.ino_for(object)?;
        let row = self.txn.object_if_any(ino)?.map(|o| o.attributes);
        if row.is_some_and(|a| a.kind == ObjectKind::Directory && a.born == self.stamp.hlc) {
            self.created = Some(ino);
        }
        Ok(())
    }

    /// A version of another store has its content noted before it comes, or is noted to be without. Should neither be so, it must not
    /// be taken for one of the draft here.
    fn never_a_draft(&mut self, v: &Version) -> Result<()> {
        let (ino, row) = self.object_or_new(v.object)?;
        let known = self.txn.has(&key::version_id(v.id))?
            || self.txn.has(&key::lacking(ino, v.id.into()))?
            || self.txn.has(&key::changes(ino, v.id, 0))?;
        if !known {
            self.txn.put_object(ino, row, Keep::Amend)?;
            self.without(v.object, v.id, false)?;
        }
        Ok(())
    }

    /// Some fact that names this object was stamped so.
    fn touched(&mut self, object: ObjectId) -> Result<()> {
        let (ino, mut row) = self.object_or_new(object)?;
        row.attributes.changed = row.attributes.changed.max(self.stamp.hlc);
        self.txn.put_object(ino, row, Keep::History)
    }

    /// What left a name last.
    fn marked(&mut self, m: &Marked) -> Result<()> {
        let (child, row) = self.object_or_new(m.child)?;
        self.txn.put_object(child, row, Keep::History)?;
        self.depart(m.child, m.dir, &m.name, (m.id, m.moved, m.lineage))
    }

    /// Some link continues this history, or did.
    fn continued(&mut self, lineage: &Lineage) -> Result<()> {
        let k = key::lineage(lineage.id());
        if self.txn.has(&k)? {
            return Ok(());
        }
        self.txn.put(k, &LineageRow { lineage: *lineage, ended: self.txn.lsn() }, Keep::Amend)
    }

    /// Effects of these facts batches may be here from now on.
    fn owed(&mut self, these: &[Stretch]) -> Result<()> {
        for s in these {
            let k = key::owed(s.store, s.incarnation);
            let mut all = self.txn.get::<Vec<(u64, u64)>>(&k)?.unwrap_or_default();
            all.push((s.first, s.last));
            all.sort_unstable();
            all.dedup_by(|next, last| {
                let joins = next.0 <= last.1.saturating_add(1);
                if joins {
                    last.1 = last.1.max(next.1);
                }
                joins
            });
            self.txn.put(k, &all, Keep::Amend)?;
        }
        Ok(())
    }

    /// What is owed of these is this store's own from now on; it is in the index only.
    fn adopted(&mut self, these: &[Stretch]) -> Result<()> {
        for s in these {
            self.txn.delete(key::owed(s.store, s.incarnation), Keep::Amend)?;
        }
        self.txn.put(key::filled(), &self.txn.lsn(), Keep::Amend)
    }

    /// These facts batches count as held: all that they come to was told.
    fn filled(&mut self, held: &[Stretch]) -> Result<()> {
        self.state.meta.foreign = true;
        for s in held {
            let mut first = s.first;
            let m = &self.state.meta;
            if s.store == self.state.store && s.incarnation.get() == m.incarnation {
                first = first.max(m.sequence + 1);
            }
            if first <= s.last {
                hold(self.txn, &Stretch { first, ..*s })?;
            }
        }
        self.txn.put(key::filled(), &self.txn.lsn(), Keep::Amend)
    }
}

/// A value that is news here.
struct News {
    told: Told,
    fact: Fact,
}

impl Store {
    /// Takes in a page of what another store's index says, asking `fetch` for the extents that are not here. Returns the
    /// LSN that must be durable before the page counts as taken. The facts themselves count as held only after
    /// [`finish_told`](Self::finish_told).
    ///
    /// # Errors
    /// [`Error::BadRequest`] if it is not what a store would send; those of the log and of `fetch`. What was taken in before an
    /// error does no harm, and the page may come again.
    pub fn take_told(&self, page: &ToldPage, fetch: Fetch<'_>) -> Result<Lsn> {
        self.wait_for_watcher();
        self.check_usable()?;
        let now_ns = self.clock.wall_ns();
        let facts = check(page, now_ns)?;
        self.note_owed(page)?;
        let mut plain: Vec<News> = Vec::new();
        for (told, fact) in page.told.iter().zip(facts) {
            if !self.is_news(told, &fact)? {
                continue;
            }
            let news = News { told: told.clone(), fact };
            if matches!(news.fact, Fact::Version(_)) {
                // A record holds one version of an object, and describes it by those of records before.
                self.note_told(&mut plain)?;
                self.take_version(news, &page.contents, now_ns, fetch)?;
                continue;
            }
            plain.push(news);
            if plain.len() >= PER_RECORD {
                self.note_told(&mut plain)?;
            }
        }
        self.note_told(&mut plain)?;
        for part in page.removed.chunks(PER_RECORD) {
            self.note_removed(part, now_ns)?;
        }
        self.settle_moves_if_cheap()?;
        Ok(self.log.last_lsn())
    }

    /// All pages were taken: these facts batches count as held from now on.
    ///
    /// # Errors
    /// Those of the log.
    pub fn finish_told(&self, known: &Knowledge) -> Result<Lsn> {
        self.wait_for_watcher();
        if let Some(s) = known.stretches().find(|s| s.first == 0 || s.last >= limits::COUNTER) {
            return Err(Error::BadRequest(format!("{s:?}: no store has made so many")));
        }
        {
            let mut state = self.apply.lock();
            self.check_usable()?;
            let mine = self.log.incarnation();
            let beyond = |s: &&Stretch| {
                let counted = if state.meta.incarnation == mine.get() { state.meta.sequence } else { 0 };
                s.store == self.id && s.incarnation == mine && s.last > counted
            };
            let all: Vec<Stretch> = known.stretches().collect();
            if let Some(s) = all.iter().find(beyond) {
                return Err(Error::BadRequest(format!("{s:?}: they claim to come from this very process")));
            }
            let stores: BTreeSet<StoreId> = all.iter().map(|s| s.store).collect();
            self.introduce(&mut state, stores, &[])?;
            for part in all.chunks(PER_RECORD) {
                self.append_local(&mut state, &[Fact::Filled(part.to_vec())])?;
            }
        }
        self.settle_moves()?;
        self.name_twins()?;
        Ok(self.log.last_lsn())
    }

    /// Notes whose effects come, before they do: should who tells them lose its disk, it is known what has nobody to hold it.
    fn note_owed(&self, page: &ToldPage) -> Result<()> {
        let owed = page.known.minus(&self.knowledge()?).minus(&self.owed()?);
        let these: Vec<Stretch> = owed.stretches().collect();
        let mut state = self.apply.lock();
        self.check_usable()?;
        these
            .chunks(PER_RECORD)
            .try_for_each(|part| self.append_local(&mut state, &[Fact::Owed(part.to_vec())]).map(drop))
    }

    /// Notes values other than versions, all in one record.
    fn note_told(&self, news: &mut Vec<News>) -> Result<()> {
        if news.is_empty() {
            return Ok(());
        }
        let mut state = self.apply.lock();
        self.check_usable()?;
        let facts: Vec<Fact> = self.introduce_told(&mut state, std::mem::take(news))?;
        self.append_local(&mut state, &facts).map(drop)
    }

    fn introduce_told(&self, state: &mut State, news: Vec<News>) -> Result<Vec<Fact>> {
        let mine = self.log.incarnation();
        let stores: BTreeSet<StoreId> = news.iter().map(|n| n.told.store).collect();
        let (told, facts): (Vec<Told>, Vec<Fact>) = news.into_iter().map(|n| (n.told, n.fact)).unzip();
        for object in facts.iter().flat_map(objects_in) {
            if object.parts().0 == mine && self.known_ino(object)?.is_none() {
                return Err(Error::BadRequest(format!("object {object}: this process has not made it")));
            }
        }
        self.introduce(state, stores, &facts)?;
        Ok(told.into_iter().map(|t| Fact::Told(Box::new(t))).collect())
    }

    fn take_version(&self, news: News, contents: &[Changes], now_ns: u64, fetch: Fetch<'_>) -> Result<()> {
        let Fact::Version(v) = &news.fact else { return Ok(()) };
        let (id, object) = (v.id, v.object);
        let mut apart = self.taken_apart(contents, std::slice::from_ref(&news.fact), now_ns)?;
        let changes = contents.iter().find(|c| c.version == id);
        let mut news = Some(news);
        for _ in 0..ROUNDS {
            if let Some(changes) = changes.filter(|_| apart.is_empty()) {
                match self.bring_extents([changes], fetch) {
                    Err(Error::Fs(FsError::NotFound)) => apart.push((changes.object, id, false)),
                    done => done?,
                }
            }
            let mut state = self.apply.lock();
            self.check_usable()?;
            if self.index.get(&key::claimed(id))?.is_some() || self.is_decided(id)? {
                return Ok(());
            }
            let ranges = match changes.filter(|_| apart.is_empty()) {
                None => None,
                Some(changes) => match self.ranges_here(changes)? {
                    Some(ranges) => Some((changes, ranges)),
                    None => continue,
                },
            };
            let facts = self.introduce_told(&mut state, news.take().into_iter().collect())?;
            match ranges {
                Some((changes, ranges)) => self.note_changes(&mut state, changes, &ranges, &mut 0)?,
                None => {
                    for (object, version, declined) in &apart {
                        self.append_local(&mut state, &[Fact::Without(*object, *version, *declined)])?;
                    }
                }
            }
            self.append_local(&mut state, &facts)?;
            drop(state);
            self.wake_waiting(id)?;
            return self.known_ino(object)?.map_or(Ok(()), |ino| self.trim(ino));
        }
        Err(FsError::Busy.into())
    }

    /// Versions that the other store removed, so that it can't tell their facts: others may have them.
    fn note_removed(&self, removed: &[(ObjectId, VersionId)], now_ns: u64) -> Result<()> {
        let mut facts = Vec::new();
        let mut woken = Vec::new();
        let mut state = self.apply.lock();
        self.check_usable()?;
        for (object, id) in removed {
            if self.is_decided(*id)? || self.index.get(&key::claimed(*id))?.is_some() {
                continue;
            }
            facts.push(Fact::Without(*object, *id, false));
            woken.push(*id);
            let here = match self.known_ino(*object)? {
                Some(ino) => self.object_row(ino, None)?.map(|row| (ino, row)),
                None => None,
            };
            let made = super::ops::created_of(*id).unwrap_or(0);
            if let Some((ino, row)) = here
                && self.wanted(ino, &row, &[(*id, made)], now_ns)? == [false]
            {
                facts.push(Fact::Removed(*object, *id));
            }
        }
        if facts.is_empty() {
            return Ok(());
        }
        self.introduce(&mut state, [], &facts)?;
        self.append_local(&mut state, &facts)?;
        drop(state);
        woken.into_iter().try_for_each(|id| self.wake_waiting(id))
    }

    /// Would a value change anything here?
    fn is_news(&self, told: &Told, fact: &Fact) -> Result<bool> {
        let newer = |old: Stamp| (told.hlc, told.store) >= self.rank(old);
        let row_of = |object: ObjectId| -> Result<Option<(Ino, ObjectRow)>> {
            let Some(ino) = self.known_ino(object)? else { return Ok(None) };
            Ok(self.object_row(ino, None)?.map(|row| (ino, row)))
        };
        let attributes = |object| Ok::<_, Error>(row_of(object)?.map(|(_, row)| row.attributes));
        Ok(match fact {
            Fact::Create(c) => attributes(c.object)?.is_none_or(|a| a.kind == ObjectKind::Unknown),
            Fact::Mode(o, mode) => attributes(*o)?
                .is_none_or(|a| newer(a.mode_stamp) && a.mode != *mode || older(self, a.mode_stamp, told)),
            Fact::Owner(o, owner) => attributes(*o)?.is_none_or(|a| {
                newer(a.owner_stamp) && a.owner != *owner || older(self, a.owner_stamp, told)
            }),
            Fact::Modified(o, time) => attributes(*o)?.is_none_or(|a| {
                newer(a.modified_stamp) && a.modified != *time || older(self, a.modified_stamp, told)
            }),
            Fact::Touched(o) => attributes(*o)?.is_none_or(|a| a.changed < told.hlc),
            Fact::Xattr(o, name, value) => match self.known_ino(*o)? {
                None => true,
                Some(ino) => self.row_if(&key::xattr(ino, name))?.is_none_or(|x: XattrRow| {
                    newer(x.stamp) && x.value != *value || older(self, x.stamp, told)
                }),
            },
            Fact::Link(l) => self.is_news_of_link(told, l.link, (l.object, l.parent, &l.name), false)?,
            Fact::Gone(g) => self.is_news_of_link(told, g.link, (g.object, g.parent, &g.name), true)?,
            Fact::Version(v) => !self.is_decided(v.id)? && self.index.get(&key::claimed(v.id))?.is_none(),
            Fact::Alias(..) => self.index.get(&told.move_key())?.is_none(),
            Fact::Retain(_, id, lock, saw) => {
                let here: LockRow = self.row_if(&key::lock(*id))?.unwrap_or_default();
                let locks: Vec<Stamp> = here.locks.iter().map(|l| l.stamp).collect();
                self.is_news_of_lock(told, lock.mode > 0, saw, (&locks, &here.locks_saw))
            }
            Fact::Hold(_, id, on, saw) => {
                let here: LockRow = self.row_if(&key::lock(*id))?.unwrap_or_default();
                self.is_news_of_lock(told, *on, saw, (&here.holds, &here.holds_saw))
            }
            Fact::Tag(name, moment) => self
                .row_if(&key::tag(name))?
                .is_none_or(|t: TagRow| newer(t.stamp) && t.moment != *moment || older(self, t.stamp, told)),
            Fact::Continued(l) => self.index.get(&key::lineage(l.id()))?.is_none(),
            Fact::Marked(m) => self.is_news_of_marker(told, m)?,
            _ => true,
        })
    }

    /// Of a lock or hold that is set, or taken off, in the place of what was seen: `here` are those that are set here, and what
    /// was seen of them.
    fn is_news_of_lock(
        &self,
        told: &Told,
        set: bool,
        saw: &[(StoreId, u64)],
        here: (&[Stamp], &[Stamp]),
    ) -> bool {
        let was_seen = |store: StoreId, hlc: u64| {
            here.1.iter().any(|s| {
                let (seen, of) = self.rank(*s);
                of == store && seen >= hlc
            })
        };
        let is_set = || here.0.iter().any(|s| self.rank(*s) == (told.hlc, told.store));
        saw.iter().any(|(store, hlc)| !was_seen(*store, *hlc))
            || set && !was_seen(told.store, told.hlc) && !is_set()
    }

    fn is_news_of_marker(&self, told: &Told, m: &Marked) -> Result<bool> {
        let Some(dir) = self.known_ino(m.dir)? else { return Ok(true) };
        let mut at = dir;
        while let Some(to) = self.object_row(at, None)?.and_then(|o| o.attributes.alias) {
            at = to;
        }
        let row: Option<MarkerRow> = self.row_if(&key::marker(at, &m.name))?;
        let here = row.and_then(|r| r.departures.into_iter().find(|d| d.dir == dir));
        Ok(here.is_none_or(|d| {
            let same = self.rank(d.stamp) == (told.hlc, told.store);
            older(self, d.stamp, told) || (same && d.value() < (m.moved, m.id, m.lineage))
        }))
    }

    fn is_news_of_link(
        &self,
        told: &Told,
        link: LinkId,
        (object, parent, name): (ObjectId, ObjectId, &[u8]),
        gone: bool,
    ) -> Result<bool> {
        let Some(ino) = self.known_ino(object)? else { return Ok(true) };
        let Some(row) = self.object_row(ino, None)? else { return Ok(true) };
        let is_first = LinkId::primary(row.object) == link;
        let register: Option<LinkRegister> =
            if is_first { row.attributes.link.clone() } else { self.row_if(&key::register(link))? };
        if matches!(row.attributes.kind, ObjectKind::Directory | ObjectKind::Unknown) && is_first {
            if self.index.get(&told.move_key())?.is_some() {
                return Ok(false);
            }
            let same = |r: &LinkRegister| self.rank(r.stamp) == (told.hlc, told.store);
            let parent = self.known_ino(parent)?;
            return Ok(!register.is_some_and(|r| same(&r) && Some(r.parent) == parent && r.name == name));
        }
        let Some(r) = register else { return Ok(true) };
        if self.rank(r.stamp) != (told.hlc, told.store) {
            return Ok(older(self, r.stamp, told));
        }
        Ok(Some(r.parent) != self.known_ino(parent)? || r.name != name || r.gone.is_some() != gone)
    }

    fn row_if<T: code::Decode<()>>(&self, k: &[u8]) -> Result<Option<T>> {
        self.index.get(k)?.map(|bytes| row(k, &bytes)).transpose()
    }
}

/// Is a stamp older than what was told?
fn older(store: &Store, stamp: Stamp, told: &Told) -> bool {
    store.rank(stamp) < (told.hlc, told.store)
}

/// Checks a page on its own: whoever sends it may be hostile.
fn check(page: &ToldPage, now_ns: u64) -> Result<Vec<Fact>> {
    let latest = now_ns.saturating_add(limits::AHEAD_NS);
    let mut facts = Vec::with_capacity(page.told.len());
    for told in &page.told {
        let bad =
            |why: &str| Error::BadRequest(format!("what store {} said at {}: {why}", told.store, told.hlc));
        let fact: Fact = code::decode(&told.fact).map_err(|e| bad(e.0))?;
        let wrong = if told.fact.len() > limits::RECORD_BYTES / 4 {
            Some("too long")
        } else if told.hlc > latest {
            Some("stamped more than a day ahead; is that host's clock right?")
        } else {
            parcels::wrong_told(&fact, latest)
        };
        if let Some(why) = wrong {
            return Err(bad(why));
        }
        facts.push(fact);
    }
    for changes in &page.contents {
        let of = facts.iter().filter_map(|f| if let Fact::Version(v) = f { Some(v) } else { None });
        if !of.filter(|v| v.id == changes.version).any(|v| parcels::is_content_of(changes, v)) {
            return Err(Error::BadRequest(format!("a content that is not of version {}", changes.version)));
        }
    }
    Ok(facts)
}

impl Told {
    /// Where a move of a directory stands that was said so.
    fn move_key(&self) -> Vec<u8> {
        key::moved_dir(self.hlc, self.store, self.incarnation, self.part)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        base::Incarnation,
        format::facts::{Create, Link, Owner},
        store::Options,
    };

    /// Told in the order of rows: where a directory was made may come after a move of it that was skipped where it was told.
    #[test]
    fn a_move_told_right_behind_the_creation_is_a_move() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::create(&dir.path().join("store"), Options::default()).unwrap();
        let [x, y] = [1, 2].map(|n| ObjectId::made_here(Incarnation::new(7), Ino::new(n + 100)));
        let said = |hlc: u64, fact: Fact| {
            let (store, incarnation) = (StoreId::new(7), Incarnation::new(7));
            Told { hlc, store, incarnation, part: 1, fact: code::encode(&fact) }
        };
        let made = |object| {
            let (kind, mode, owner) = (ObjectKind::Directory, 0o755, Owner::default());
            Fact::Create(Create { object, kind, mode, owner, device: 0, target: Vec::new() })
        };
        let hangs = |object, parent, name: &[u8]| {
            let (link, name) = (LinkId::primary(object), name.to_vec());
            Fact::Link(Link { link, parent, name, object, continues: None, left: None })
        };
        let told = vec![
            said(10, made(y)),
            said(10, hangs(y, ObjectId::ROOT, b"y")),
            said(20, made(x)),
            // x into y at 40; but y was in x by then.
            said(40, hangs(x, y, b"in")),
            said(20, hangs(x, ObjectId::ROOT, b"x")),
            said(30, hangs(y, x, b"in")),
        ];
        store
            .take_told(
                &ToldPage::arrived(told, vec![], vec![], Knowledge::default()),
                &mut |_| unreachable!(),
            )
            .unwrap();
        store.finish_told(&Knowledge::default()).unwrap();
        let v = store.view();
        let top: Vec<_> = v.entries(Ino::FIRST, None, 9).unwrap().into_iter().map(|e| e.name).collect();
        assert_eq!(top, [b"x"]);
        let there = v.lookup(Ino::FIRST, b"x").unwrap();
        assert_eq!(there.object, x);
        assert_eq!(v.lookup(there.ino, b"in").unwrap().object, y);
    }

    #[test]
    fn batches_that_no_store_can_have_made_do_not_count_as_held() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::create(&dir.path().join("store"), Options::default()).unwrap();
        let of = |first, last| {
            let mut known = Knowledge::default();
            let (store, incarnation) = (StoreId::new(7), Incarnation::new(1));
            known.add_stretch(&Stretch { store, incarnation, first, last });
            known
        };
        for (first, last) in [(1, u64::MAX), (0, 5), (0, u64::MAX)] {
            let done = store.finish_told(&of(first, last));
            assert!(matches!(done, Err(Error::BadRequest(_))), "{first} to {last}: {done:?}");
        }
        store.finish_told(&of(1, 5)).unwrap();
        assert!(of(1, 5).minus(&store.knowledge().unwrap()).stretches().next().is_none());
    }
}
