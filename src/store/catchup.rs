//! What another store lacks, from the rows of the index: for what no segment of the log holds any more.
//!
//! Rows say what won in each register, with its stamp; that is all that the facts behind them come to, so whoever takes it all
//! shows the same. What was in a register before, and on which days, they do not say: that part of the past stays behind,
//! versions of content aside. Nothing is pinned: what changes while rows are read is in the log behind
//! [`CatchUp::tail_from`]. Kinds of rows are read in an order in which nothing is missed that goes from one kind to another.

use crate::{
    base::{Incarnation, LinkId, Lsn, ObjectId, Result, StoreId, VersionId},
    format::{
        code,
        facts::{Changes, Create, Fact, Gone, Link, Lock, Marked, ObjectKind, Told, Version},
        rows::{
            Attributes, ClaimedRow, LackingRow, LineageRow, LinkRegister, LockRow, MarkerRow, MoveAsk,
            MoveRow, ObjectRow, Stamp, TagRow, VersionPlace, VersionRow, WaitingRow, XattrRow, after_prefix,
            key, kind,
        },
    },
};

use super::{Store, exchange::Sources, knowledge::Knowledge, txn::row};

/// Kinds of rows, in the order in which they are told. What was noted of an object whose creation has not arrived goes to its row once
/// that does; a version goes from waiting or lacking to being here, and from there to being removed, never back; directories
/// come before their moves, so that few of those have to be done twice.
const STAGES: [u8; 13] = [
    kind::NOTED_MOVE,
    kind::WAITING,
    kind::LACKING,
    kind::OBJECT,
    kind::XATTR,
    kind::REGISTER,
    kind::MOVE,
    kind::VERSION,
    kind::VERSION_ID,
    kind::LOCK,
    kind::TAG,
    kind::MARKER,
    kind::LINEAGE,
];
/// Rows read at once.
const ROWS: usize = 256;
/// What a range counts for.
const RANGE_BYTES: usize = 48;

/// A store telling another what is in its index. Plain data: whoever carries it from page to page may keep it, also while
/// this store is closed and opened again, and go on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CatchUp {
    /// The facts batches that the other store holds once it took all pages ([`Store::finish_told`]).
    pub known: Knowledge,
    /// What came since it began is in the log, from here on.
    pub tail_from: Lsn,
    /// Rows that hold since this LSN or before are left out: the other store had acknowledged the log up to there. 0: it
    /// knows nothing.
    pub after: Lsn,
    /// How far it is.
    pub at: Mark,
}

/// How far the rows have been told.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Mark {
    stage: usize,
    key: Vec<u8>,
}

/// What some rows say.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ToldPage {
    /// Values of registers, and versions.
    pub told: Vec<Told>,
    /// Of those versions among them whose content is there, and not too much for a page: that.
    pub contents: Vec<Changes>,
    /// Versions that were removed there, so that their facts can't be told: others may have them.
    pub removed: Vec<(ObjectId, VersionId)>,
    /// Everything that came into these rows.
    pub known: Knowledge,
    /// Where the extents lay in the sender's log; not for the receiver.
    pub sources: Sources,
    bytes: usize,
}

impl ToldPage {
    /// A page as it came from another store.
    #[must_use]
    pub fn arrived(
        told: Vec<Told>,
        contents: Vec<Changes>,
        removed: Vec<(ObjectId, VersionId)>,
        known: Knowledge,
    ) -> Self {
        Self { told, contents, removed, known, sources: Sources::new(), bytes: 0 }
    }

    fn is_empty(&self) -> bool {
        self.told.is_empty() && self.removed.is_empty()
    }
}

/// When and where something was said.
#[derive(Clone, Copy)]
struct Said {
    hlc: u64,
    store: StoreId,
    incarnation: Incarnation,
    part: u32,
}

impl Store {
    /// The LSN from which on the log alone tells everything that came to this store: who has acknowledged it up to the one before
    /// needs no more. Others have to [catch up](Self::catch_up): of what came before, records are gone, or never were here.
    ///
    /// # Errors
    /// What reading the index says.
    pub fn tail_floor(&self) -> Result<Lsn> {
        let mut floor: Option<Lsn> = None;
        for s in self.log.segments().iter().rev() {
            if floor.is_some_and(|f| s.last_lsn.next() < f) {
                break;
            }
            floor = Some(s.first_lsn);
        }
        let k = key::filled();
        let filled: Option<Lsn> = self.index.get(&k)?.map(|bytes| row(&k, &bytes)).transpose()?;
        Ok(floor.unwrap_or(Lsn::FIRST).max(filled.map_or(Lsn::FIRST, Lsn::next)))
    }

    /// Begins to tell another store what is in the index.
    ///
    /// # Errors
    /// What log and index say.
    pub fn catch_up(&self, after: Lsn) -> Result<CatchUp> {
        let tail_from = {
            let _all_applied = self.apply.lock();
            self.log.last_lsn().next()
        };
        let known = self.knowledge()?;
        if !self.options.read_only {
            self.log.commit()?;
        }
        Ok(CatchUp { known, tail_from, after, at: Mark::default() })
    }

    /// The next page, of at least about so many bytes if there are as many, all of it durable; none: that was all. One row may add
    /// what it says, and a version [`crate::base::limits::CHANGES_PER_RECORD`] ranges.
    ///
    /// # Errors
    /// What log and index say. Then it may be asked again.
    pub fn next_told(&self, from: &mut CatchUp, bytes: usize) -> Result<Option<ToldPage>> {
        let mut page = ToldPage::default();
        while let Some(kind) = STAGES.get(from.at.stage) {
            let start = if from.at.key.is_empty() { vec![*kind] } else { from.at.key.clone() };
            let rows = self.index.scan(&start, &after_prefix(&[*kind]), ROWS)?;
            let mut read = 0_usize;
            for (k, row) in &rows {
                self.tell(k, row, from.after, &mut page)?;
                read += 1;
                if page.bytes >= bytes {
                    break;
                }
            }
            from.at = match rows.get(read.saturating_sub(1)) {
                Some((k, _)) if read < rows.len() || rows.len() == ROWS => {
                    Mark { stage: from.at.stage, key: [&k[..], &[0]].concat() }
                }
                _ => Mark { stage: from.at.stage + 1, key: Vec::new() },
            };
            if page.bytes >= bytes {
                break;
            }
        }
        if page.is_empty() {
            return Ok(None);
        }
        page.known = self.knowledge()?;
        if !self.options.read_only {
            // Of what a crash could take away, nobody else may hear.
            let upto = self.log.last_lsn();
            self.log.wait_durable(upto)?;
        }
        Ok(Some(page))
    }

    fn tell(&self, k: &[u8], bytes: &[u8], after: Lsn, page: &mut ToldPage) -> Result<()> {
        match k.first().copied().unwrap_or_default() {
            kind::OBJECT => {
                let o: ObjectRow = row(k, bytes)?;
                if o.from > after || o.object == ObjectId::ROOT {
                    self.tell_object(&o, page)?;
                }
            }
            kind::XATTR => {
                let x: XattrRow = row(k, bytes)?;
                if x.from > after
                    && let Some(object) = self.object_of(key::ino_of(k).unwrap_or_default())?
                {
                    page.add(self.said(x.stamp), &Fact::Xattr(object, key::name_of(k).to_vec(), x.value));
                }
            }
            kind::REGISTER => {
                let l: LinkRegister = row(k, bytes)?;
                let link = k.get(1..17).and_then(|b| b.try_into().ok()).map_or(0, u128::from_be_bytes);
                self.tell_link(LinkId::new(link), &l, self.said(l.stamp), page)?;
            }
            kind::MOVE => self.tell_move(k, &row(k, bytes)?, page)?,
            kind::NOTED_MOVE => {
                let k = key::move_noted(k);
                if let Some(bytes) = self.index.get(&k)? {
                    self.tell_move(&k, &row(&k, &bytes)?, page)?;
                }
            }
            kind::WAITING => {
                let w: WaitingRow = row(k, bytes)?;
                page.add(self.said(w.stamp), &Fact::Version(w.version));
            }
            kind::LACKING => self.tell_lacking(k, row(k, bytes)?, page)?,
            kind::VERSION => {
                let v: VersionRow = row(k, bytes)?;
                let (ino, at) = (key::ino_of(k).unwrap_or_default(), key::last_number(k).unwrap_or(0));
                if Lsn::new(at) > after {
                    self.tell_version(&VersionPlace { ino, at: Lsn::new(at), removed: false }, &v, page)?;
                }
            }
            kind::VERSION_ID => {
                let place: VersionPlace = row(k, bytes)?;
                let id = k.get(1..17).and_then(|b| b.try_into().ok()).map_or(0, u128::from_be_bytes);
                if place.removed {
                    self.tell_removed(place.ino, VersionId::new(id), page)?;
                }
            }
            kind::LOCK => self.tell_lock(k, &row(k, bytes)?, page)?,
            kind::TAG => {
                let t: TagRow = row(k, bytes)?;
                if t.from > after {
                    let name = k.get(1..).unwrap_or_default().to_vec();
                    page.add(self.said(t.stamp), &Fact::Tag(name, t.moment));
                }
            }
            kind::LINEAGE => {
                let l: LineageRow = row(k, bytes)?;
                page.add(self.said(Stamp::default()), &Fact::Continued(l.lineage));
            }
            kind::MARKER => self.tell_marker(k, &row(k, bytes)?, after, page)?,
            _ => {}
        }
        Ok(())
    }

    fn tell_lacking(&self, k: &[u8], l: LackingRow, page: &mut ToldPage) -> Result<()> {
        match (l.version, key::lacking_version(k)) {
            (Some(w), _) => page.add(self.said(w.stamp), &Fact::Version(w.version)),
            (None, Some(id)) => self.tell_removed(key::ino_of(k).unwrap_or_default(), id, page)?,
            (None, None) => {}
        }
        Ok(())
    }

    fn said(&self, stamp: Stamp) -> Said {
        let (hlc, store) = self.rank(stamp);
        Said { hlc, store, incarnation: Incarnation::new(0), part: 0 }
    }

    fn object_of(&self, ino: crate::base::Ino) -> Result<Option<ObjectId>> {
        Ok(self.object_row(ino, None)?.map(|o| o.object))
    }

    fn tell_object(&self, o: &ObjectRow, page: &mut ToldPage) -> Result<()> {
        let (object, a) = (o.object, &o.attributes);
        let born = self.said(created(a));
        let known = a.kind != ObjectKind::Unknown;
        if known && object != ObjectId::ROOT {
            let (kind, mode, owner, device) = (a.kind, a.mode, a.owner, a.device);
            let create = Create { object, kind, mode, owner, device, target: a.target.clone() };
            page.add(born, &Fact::Create(create));
        }
        let is_later = |stamp: Stamp| stamp != Stamp::default() && (!known || stamp.hlc != a.born);
        if is_later(a.mode_stamp) {
            page.add(self.said(a.mode_stamp), &Fact::Mode(object, a.mode));
        }
        if is_later(a.owner_stamp) {
            page.add(self.said(a.owner_stamp), &Fact::Owner(object, a.owner));
        }
        if a.modified_stamp != Stamp::default() {
            page.add(self.said(a.modified_stamp), &Fact::Modified(object, a.modified));
        }
        page.add(Said { hlc: a.changed, ..born }, &Fact::Touched(object));
        let Some(link) = &a.link else { return Ok(()) };
        let first = Said { incarnation: object.parts().0, part: 1, ..self.said(link.stamp) };
        let said = if a.kind != ObjectKind::Directory || link.stamp.hlc == a.born {
            first
        } else if self.has_move(link)? {
            // Where a directory hangs now comes of its moves; only where it hung first is none.
            return Ok(());
        } else {
            // They were forgotten.
            self.said(link.stamp)
        };
        self.tell_link(LinkId::primary(object), link, said, page)
    }

    /// Is the move kept that brought a directory where this register says?
    fn has_move(&self, register: &LinkRegister) -> Result<bool> {
        let (hlc, store) = self.rank(register.stamp);
        let prefix = key::moved_dir(hlc, store, Incarnation::new(0), 0);
        let prefix = &prefix[..prefix.len() - 12];
        for (k, bytes) in self.index.scan(prefix, &after_prefix(prefix), usize::MAX)? {
            if row::<MoveRow>(&k, &bytes)?.dir == register.child {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn tell_link(&self, link: LinkId, l: &LinkRegister, said: Said, page: &mut ToldPage) -> Result<()> {
        let Some((parent, object)) = self.object_of(l.parent)?.zip(self.object_of(l.child)?) else {
            return Ok(());
        };
        let name = l.name.clone();
        let fact = match &l.gone {
            // What left a name is told of the name.
            None => Fact::Link(Link { link, parent, name, object, continues: l.continues, left: None }),
            Some(saw) => {
                Fact::Gone(Gone { link, parent, name, object, saw: saw.clone(), marker: None, lineage: None })
            }
        };
        page.add(said, &fact);
        Ok(())
    }

    fn tell_move(&self, k: &[u8], m: &MoveRow, page: &mut ToldPage) -> Result<()> {
        let Some(dir) = self.object_row(m.dir, None)? else { return Ok(()) };
        let link = LinkId::primary(dir.object);
        if let Some(first) = m.before.as_ref().filter(|b| b.stamp.hlc == dir.attributes.born) {
            let said = Said { incarnation: dir.object.parts().0, part: 1, ..self.said(first.stamp) };
            self.tell_link(link, first, said, page)?;
        }
        let Some((hlc, store, incarnation, part)) = key::moved_by(k) else { return Ok(()) };
        let said = Said { hlc, store, incarnation, part };
        match &m.ask {
            MoveAsk::Hang(register) => self.tell_link(link, register, said, page)?,
            MoveAsk::Alias(to) => {
                if let Some(to) = self.object_of(*to)? {
                    page.add(said, &Fact::Alias(dir.object, to));
                }
            }
        }
        Ok(())
    }

    fn tell_version(&self, place: &VersionPlace, v: &VersionRow, page: &mut ToldPage) -> Result<()> {
        let Some(object) = self.object_of(place.ino)? else { return Ok(()) };
        let version: Version = Self::version_fact(object, v);
        self.describe(&version, &mut page.contents, &mut page.sources)?;
        let ranges = page.contents.last().filter(|c| c.version == v.id).map_or(0, |c| c.ranges.len());
        page.bytes += ranges * RANGE_BYTES;
        page.add(self.said(v.stamp), &Fact::Version(version));
        Ok(())
    }

    fn tell_removed(&self, ino: crate::base::Ino, id: VersionId, page: &mut ToldPage) -> Result<()> {
        if let Some(object) = self.object_of(ino)? {
            page.removed.push((object, id));
            page.bytes += RANGE_BYTES;
        }
        Ok(())
    }

    fn tell_marker(&self, k: &[u8], m: &MarkerRow, after: Lsn, page: &mut ToldPage) -> Result<()> {
        for d in m.departures.iter().filter(|_| m.from > after) {
            let Some((dir, child)) = self.object_of(d.dir)?.zip(self.object_of(d.child)?) else { continue };
            let name = key::name_of(k).to_vec();
            let marked = Marked { dir, name, id: d.id, child, lineage: d.lineage, moved: d.moved };
            page.add(self.said(d.stamp), &Fact::Marked(Box::new(marked)));
        }
        Ok(())
    }

    /// What was seen of each store, as facts say it.
    fn saw(&self, stamps: &[Stamp]) -> Vec<(StoreId, u64)> {
        let saw = stamps.iter().map(|s| self.rank(*s));
        saw.map(|(hlc, store)| (store, hlc)).collect()
    }

    fn tell_lock(&self, k: &[u8], l: &LockRow, page: &mut ToldPage) -> Result<()> {
        let id = k.get(1..17).and_then(|b| b.try_into().ok()).map_or(0, u128::from_be_bytes);
        let id = VersionId::new(id);
        let k = key::version_id(id);
        let place: Option<VersionPlace> = self.index.get(&k)?.map(|bytes| row(&k, &bytes)).transpose()?;
        let k = key::claimed(id);
        let claimed: Option<ClaimedRow> = self.index.get(&k)?.map(|bytes| row(&k, &bytes)).transpose()?;
        let object = match place {
            Some(place) => self.object_of(place.ino)?,
            None => claimed.map(|c| c.object),
        };
        // Of a version that never came, nobody knows here whose it is; the lock is found by the version alone.
        let object = object.unwrap_or(ObjectId::ROOT);
        // What is left of all that was said, and what that was said in the place of.
        let saw = self.saw(&l.locks_saw);
        for e in &l.locks {
            let lock = Lock { mode: e.mode, until_ns: e.until };
            page.add(self.said(e.stamp), &Fact::Retain(object, id, lock, saw.clone()));
        }
        if let Some(last) = newest(&l.locks_saw).filter(|_| l.locks.is_empty()) {
            let none = Lock { mode: 0, until_ns: 0 };
            page.add(self.said(last), &Fact::Retain(object, id, none, saw));
        }
        let saw = self.saw(&l.holds_saw);
        for stamp in &l.holds {
            page.add(self.said(*stamp), &Fact::Hold(object, id, true, saw.clone()));
        }
        if let Some(last) = newest(&l.holds_saw).filter(|_| l.holds.is_empty()) {
            page.add(self.said(last), &Fact::Hold(object, id, false, saw));
        }
        Ok(())
    }
}

fn newest(stamps: &[Stamp]) -> Option<Stamp> {
    stamps.iter().copied().max_by_key(|s| s.hlc)
}

/// The stamp of an object's creation: of which store, a register says that still has its first value. Where none does, it does
/// not matter.
fn created(a: &Attributes) -> Stamp {
    let link = a.link.as_ref().map(|l| l.stamp);
    let all = [Some(a.mode_stamp), Some(a.owner_stamp), Some(a.modified_stamp), link];
    let first = all.into_iter().flatten().find(|s| s.hlc == a.born);
    first.unwrap_or(Stamp { hlc: a.born, store: 0 })
}

impl ToldPage {
    fn add(&mut self, said: Said, fact: &Fact) {
        let fact = code::encode(fact);
        self.bytes += fact.len() + RANGE_BYTES;
        let Said { hlc, store, incarnation, part } = said;
        self.told.push(Told { hlc, store, incarnation, part, fact });
    }
}
