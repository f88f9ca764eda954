//! Versions whose facts are here and whose content is not.
//!
//! A store may take in the facts of a version of which the sender has the bytes no more, or that is described by one which
//! retention removed here. Such a version is known, so that nobody sends its facts again; it is on the list of what is
//! lacking, is neither listed nor shown, and becomes a version like any other once somebody supplies its content. What
//! retention here would remove at once is not wanted: it counts as removed from the beginning.

use std::collections::BTreeSet;

use crate::{
    base::{Error, FsError, Ino, Lsn, ObjectId, Result, StoreId, VersionId, limits},
    format::{
        facts::{Changes, ExtentId, Fact, Version},
        rows::{
            ClaimedRow, LackingRow, LockRow, ObjectRow, Stamp, VersionPlace, VersionRow, WaitingRow,
            after_prefix, key, kind,
        },
    },
};

use super::{
    Store,
    apply::Apply,
    differences::Onward,
    exchange::Supply,
    import::ROUNDS,
    parcels,
    txn::{Keep, row},
};

/// Versions that are named as bases at most.
const BASES: usize = 64;
/// Ranges that a block of a file falls into at most, with room to spare.
const RANGES_PER_BLOCK: u64 = 16;

impl Apply<'_, '_> {
    /// The version that comes next has no content with it.
    pub(super) fn without(&mut self, object: ObjectId, id: VersionId, declined: bool) -> Result<()> {
        let (ino, row) = self.object_or_new(object)?;
        if self.txn.object_if_any(ino)?.is_none() {
            self.txn.put_object(ino, row, Keep::History)?;
        }
        self.state.meta.foreign = true;
        self.drop_changes(ino, id)?;
        let k = key::lacking(ino, id.into());
        let waited = self.waits_no_more(id)?;
        let version = self.txn.get::<LackingRow>(&k)?.and_then(|l| l.version).or(waited);
        self.txn.put(key::claimed(id), &ClaimedRow { object, missing: None }, Keep::Amend)?;
        self.txn.put(k, &LackingRow { declined, version }, Keep::Amend)
    }

    /// Does a version come without its content? Then that is noted.
    pub(super) fn comes_without(&mut self, ino: Ino, v: &Version, stamp: Stamp) -> Result<bool> {
        if !self.state.meta.foreign {
            return Ok(false);
        }
        let k = key::lacking(ino, v.id.into());
        let Some(lacking) = self.txn.get::<LackingRow>(&k)? else { return Ok(false) };
        if self.txn.has(&key::changes(ino, v.id, 0))? {
            self.txn.delete(k, Keep::Amend)?;
            self.txn.delete(key::claimed(v.id), Keep::Amend)?;
            return Ok(false);
        }
        if lacking.declined {
            self.forgo(ino, v.id)?;
        } else {
            self.lacks(ino, v, stamp)?;
        }
        Ok(true)
    }

    /// A version whose facts are here, and whose content can't be made here of what came.
    pub(super) fn lacks(&mut self, ino: Ino, v: &Version, stamp: Stamp) -> Result<()> {
        self.drop_changes(ino, v.id)?;
        let claimed = ClaimedRow { object: v.object, missing: None };
        self.txn.put(key::claimed(v.id), &claimed, Keep::Amend)?;
        let version = Some(WaitingRow { version: v.clone(), stamp });
        self.txn.put(key::lacking(ino, v.id.into()), &LackingRow { declined: false, version }, Keep::Amend)
    }

    /// A version that is lacking is not wanted any more.
    pub(super) fn forgo(&mut self, ino: Ino, id: VersionId) -> Result<()> {
        self.drop_changes(ino, id)?;
        self.txn.delete(key::lacking(ino, id.into()), Keep::Amend)?;
        self.txn.delete(key::claimed(id), Keep::Amend)?;
        let place = VersionPlace { ino, at: self.txn.lsn(), removed: true };
        self.txn.put(key::version_id(id), &place, Keep::Amend)
    }

    /// The content of a version that was lacking is noted now.
    pub(super) fn supplied(&mut self, v: &Version, hlc: u64, maker: StoreId) -> Result<()> {
        let stamp = Stamp { hlc, store: self.state.number(maker).unwrap_or(0) };
        self.version(v, stamp)
    }

    /// Forgets what was noted of the content of a version.
    pub(super) fn drop_changes(&mut self, ino: Ino, id: VersionId) -> Result<()> {
        let first = key::changes(ino, id, 0);
        let prefix = &first[..first.len() - 4];
        for (k, _) in self.txn.scan(prefix, prefix, usize::MAX)? {
            self.txn.delete(k, Keep::Amend)?;
        }
        Ok(())
    }
}

/// A version whose content is lacking.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lacking {
    /// Whose content.
    pub object: ObjectId,
    /// Its inode number here.
    pub ino: Ino,
    /// The version.
    pub version: VersionId,
}

/// How far the content of a version has been taken.
#[derive(Debug, Clone)]
pub struct Supplying {
    bases: Vec<VersionId>,
    at: Onward,
    part: u32,
    ranges: u64,
    /// What the first page said.
    told: Option<(Option<VersionId>, Version)>,
}

impl Supplying {
    /// Versions by which it may be described, and where the next page begins ([`Onward::parts`]).
    #[must_use]
    pub fn asks(&self) -> (&[VersionId], (u64, u64)) {
        (&self.bases, self.at.parts())
    }
}

/// Whoever may have what is lacking here.
pub trait Supplier {
    /// A page of the content of a version: as [`Store::supply`] says.
    fn page(&mut self, version: VersionId, bases: &[VersionId], from: Onward) -> Result<Option<Supply>>;

    /// The raw bytes of an extent that a page names. [`FsError::NotFound`] if it is gone since.
    fn extent(&mut self, page: &Supply, id: &ExtentId) -> Result<Vec<u8>>;
}

/// Another store in the same process.
impl Supplier for &Store {
    fn page(&mut self, version: VersionId, bases: &[VersionId], from: Onward) -> Result<Option<Supply>> {
        self.supply(version, bases, from)
    }

    fn extent(&mut self, page: &Supply, id: &ExtentId) -> Result<Vec<u8>> {
        self.source_bytes(&page.sources, id)
    }
}

/// What becomes of the versions of a parcel whose content is not taken with it.
pub(super) type Apart = Vec<(ObjectId, VersionId, bool)>;

impl Store {
    /// Versions whose content is lacking here, behind this one in a fixed order, at most `limit`.
    ///
    /// # Errors
    /// What reading the index says.
    pub fn lacking(&self, after: Option<&Lacking>, limit: usize) -> Result<Vec<Lacking>> {
        let mut start = after.map_or(vec![kind::LACKING], |l| key::lacking(l.ino, l.version.into()));
        if after.is_some() {
            start.push(0);
        }
        let mut found = Vec::new();
        for (k, _) in self.index.scan(&start, &after_prefix(&[kind::LACKING]), limit)? {
            let (Some(ino), Some(version)) = (key::ino_of(&k), key::lacking_version(&k)) else { continue };
            let object = self.object_row(ino, None)?.map(|o| o.object).unwrap_or_default();
            found.push(Lacking { object, ino, version });
        }
        Ok(found)
    }

    /// Is the content of this version lacking?
    pub(super) fn is_lacking(&self, ino: Ino, id: VersionId) -> Result<bool> {
        Ok(self.index.get(&key::lacking(ino, id.into()))?.is_some())
    }

    /// Are the facts of this version here, and is it clear what becomes of it: it is here, was removed, or lacks its content?
    pub(super) fn is_decided(&self, id: VersionId) -> Result<bool> {
        if self.index.get(&key::version_id(id))?.is_some() {
            return Ok(true);
        }
        let k = key::claimed(id);
        let Some(bytes) = self.index.get(&k)? else { return Ok(false) };
        let ino = self.known_ino(row::<ClaimedRow>(&k, &bytes)?.object)?;
        ino.map_or(Ok(false), |ino| self.is_lacking(ino, id))
    }

    /// Takes the content of a version that is lacking from who may have it, and makes it a version like any other. False: it
    /// was not to be had, or the base by which it was described went meanwhile; it stays on the list.
    ///
    /// # Errors
    /// [`Error::BadRequest`] if what comes is not what a store would send; those of the log and of the supplier.
    pub fn take_supply(&self, lacking: &Lacking, from: &mut dyn Supplier) -> Result<bool> {
        let mut taken = self.begin_supply(lacking)?;
        loop {
            let Some(page) = from.page(lacking.version, &taken.bases, taken.at)? else { return Ok(false) };
            let fetch = &mut |page: &Supply, id: &ExtentId| from.extent(page, id);
            if let Some(here) = self.take_supply_page(lacking, &mut taken, page, fetch)? {
                return Ok(here);
            }
        }
    }

    /// Begins to take the content of a version that is lacking.
    ///
    /// # Errors
    /// What reading the index says.
    pub fn begin_supply(&self, lacking: &Lacking) -> Result<Supplying> {
        let bases = self.bases(lacking.ino)?;
        Ok(Supplying { bases, at: Onward::default(), part: 0, ranges: 0, told: None })
    }

    /// Takes a page of it. None: another one is needed; else as of [`take_supply`](Self::take_supply).
    ///
    /// # Errors
    /// As of [`take_supply`](Self::take_supply).
    pub fn take_supply_page(
        &self,
        lacking: &Lacking,
        taken: &mut Supplying,
        page: Supply,
        fetch: &mut dyn FnMut(&Supply, &ExtentId) -> Result<Vec<u8>>,
    ) -> Result<Option<bool>> {
        self.wait_for_watcher();
        let id = lacking.version;
        self.check_supply(lacking, &page, &taken.bases)?;
        taken.ranges += page.ranges.len() as u64 + 1;
        let most = RANGES_PER_BLOCK * (page.version.size / limits::BLOCK_BYTES + 1);
        if taken.ranges > most.saturating_add(4096) {
            return Err(Error::BadRequest(format!("version {id}: it has no end")));
        }
        let first = taken.told.get_or_insert_with(|| (page.base, page.version.clone()));
        if (first.0, &first.1.vector) != (page.base, &page.version.vector) {
            return Ok(Some(false));
        }
        if !self.note_page(lacking, &page, &mut taken.part, fetch)? {
            return Ok(Some(false));
        }
        taken.bases = page.base.into_iter().collect();
        match page.next {
            Some(next) if next > taken.at => taken.at = next,
            Some(_) => return Err(Error::BadRequest(format!("version {id}: it does not go on"))),
            None => return self.finish_supply(lacking, page).map(Some),
        }
        Ok(None)
    }

    /// Brings the extents of a page and notes what it says.
    fn note_page(
        &self,
        lacking: &Lacking,
        page: &Supply,
        part: &mut u32,
        fetch: &mut dyn FnMut(&Supply, &ExtentId) -> Result<Vec<u8>>,
    ) -> Result<bool> {
        let v = &page.version;
        let changes =
            Changes { object: v.object, version: v.id, base: page.base, ranges: page.ranges.clone() };
        for _ in 0..ROUNDS {
            match self.bring_extents([&changes], &mut |id| fetch(page, id)) {
                Err(Error::Fs(FsError::NotFound)) => return Ok(false),
                done => done?,
            }
            let mut state = self.apply.lock();
            self.check_usable()?;
            if !self.is_lacking(lacking.ino, lacking.version)? {
                return Ok(false);
            }
            let Some(ranges) = self.ranges_here(&changes)? else { continue };
            self.note_changes(&mut state, &changes, &ranges, part)?;
            return Ok(true);
        }
        Err(FsError::Busy.into())
    }

    fn finish_supply(&self, lacking: &Lacking, page: Supply) -> Result<bool> {
        let mut state = self.apply.lock();
        self.check_usable()?;
        if !self.is_lacking(lacking.ino, lacking.version)? {
            return Ok(false);
        }
        let fact = Fact::Version(page.version.clone());
        self.introduce(&mut state, [page.maker], std::slice::from_ref(&fact))?;
        self.append_local(&mut state, &[Fact::Supplied(Box::new(page.version), page.stamp, page.maker)])?;
        drop(state);
        self.follow_up(&[fact])?;
        Ok(self.find_version(lacking.version)?.is_some())
    }

    /// The newest versions of an object that are here.
    fn bases(&self, ino: Ino) -> Result<Vec<VersionId>> {
        let (start, end) = (key::version(ino, Lsn::new(0)), key::version(ino, Lsn::MAX));
        let rows = self.index.scan_back(&start, &end, BASES)?;
        rows.iter().map(|(k, bytes)| row::<VersionRow>(k, bytes).map(|v| v.id)).collect()
    }

    fn check_supply(&self, lacking: &Lacking, page: &Supply, bases: &[VersionId]) -> Result<()> {
        let bad = |why: &str| Err(Error::BadRequest(format!("version {}: {why}", lacking.version)));
        let (v, k) = (&page.version, key::lacking(lacking.ino, lacking.version.into()));
        if (v.id, v.object) != (lacking.version, lacking.object) {
            return bad("another one came in its place");
        }
        if page.base.is_some_and(|b| !bases.contains(&b)) {
            return bad("it rests on one that is not here");
        }
        if let Some(bytes) = self.index.get(&k)?
            && let Some(known) = row::<LackingRow>(&k, &bytes)?.version
            && !same_version(&known.version, v)
        {
            return bad("it is not what its facts say");
        }
        match parcels::wrong_supply(page, self.clock.wall_ns()) {
            Some(why) => bad(why),
            None => Ok(()),
        }
    }

    /// Which versions of a parcel are taken without their content, and whether they are not wanted.
    pub(super) fn taken_apart(&self, contents: &[Changes], facts: &[Fact], now_ns: u64) -> Result<Apart> {
        let mut apart = Vec::new();
        for fact in facts {
            let Fact::Version(v) = fact else { continue };
            if self.index.get(&key::version_id(v.id))?.is_some() {
                continue;
            }
            let ino = self.known_ino(v.object)?;
            if let Some(ino) = ino
                && self.would_go(ino, v, now_ns)?
            {
                apart.push((v.object, v.id, true));
                continue;
            }
            let content = contents.iter().find(|c| c.version == v.id);
            let usable = match content.map(|c| c.base) {
                None => false,
                Some(None) => true,
                Some(Some(base)) => self.find_version(base)?.is_some() || !self.is_decided(base)?,
            };
            if !usable {
                apart.push((v.object, v.id, false));
            }
        }
        Ok(apart)
    }

    /// Does a head include this version?
    pub(super) fn is_included(&self, ino: Ino, object: &ObjectRow, v: &Version) -> Result<bool> {
        for at in &object.content.heads {
            if v.vector.within(&self.version_row(ino, *at)?.vector) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Would retention remove a version as soon as it came? Only one that another includes: no other can go.
    fn would_go(&self, ino: Ino, v: &Version, now_ns: u64) -> Result<bool> {
        let Some(object) = self.object_row(ino, None)? else { return Ok(false) };
        let included = self.is_included(ino, &object, v)?;
        let k = key::lock(v.id);
        let lock: Option<LockRow> = self.index.get(&k)?.map(|bytes| row(&k, &bytes)).transpose()?;
        if !included || lock.is_some_and(|l| l.protection(now_ns).protects(now_ns)) {
            return Ok(false);
        }
        let wanted = self.wanted(ino, &object, &[(v.id, v.created_ns)], now_ns)?;
        Ok(wanted == [false])
    }
}

/// Are these the same fact? The hash may have been computed since.
pub(super) fn same_version(a: &Version, b: &Version) -> bool {
    let of = |v: &Version| (v.id, v.object, v.created_ns, v.changed_ns, v.size, v.mode, v.owner, v.modified);
    of(a) == of(b) && a.vector == b.vector && a.parents == b.parents && a.links == b.links
}

/// The extents that descriptions of content name, each once.
pub(super) fn extents_in<'c>(contents: impl IntoIterator<Item = &'c Changes>) -> BTreeSet<&'c ExtentId> {
    let ranges = contents.into_iter().flat_map(|c| &c.ranges);
    ranges
        .filter_map(
            |r| if let crate::format::facts::Source::Extent(id, _) = &r.source { Some(id) } else { None },
        )
        .collect()
}
