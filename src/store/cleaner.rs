//! The cleaner: gives segments back whose records are dead, after moving what lives in them.
//!
//! Extents move, with their number and their body; a row says where they are from then on. Operations never move: a
//! base stands for them. So a segment may go once three things are durable: a base as of its last record or later, the
//! copies of the extents that live in it, and, so that the next opening need not replay what is gone, the index up to
//! there. A crash before that leaves copies that nobody asks for, and no more.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    ops::AddAssign,
    sync::atomic::Ordering::Relaxed,
};

use crate::{
    base::{
        Damage, Error, Lsn, Result, SegmentId, limits,
        planted::{Bug, planted},
    },
    format::{
        Codec, Entry, Kind, Location, Prepared,
        facts::{ExtentId, Fact},
        flags,
        rows::{ExtentRow, Stamp, after_prefix, key, kind},
    },
    index::Order,
    log::{Log, OwnedRecord, Record, SegmentInfo, SegmentState},
    segment,
};

use super::{
    Store, Work,
    alive::{LsnSet, each_shown},
    apply::Apply,
    base::Base,
    repack::{Part, Parts},
    txn::{Keep, Txn, row},
};

/// Bytes moved before what they came from is given back, so that cleaning a full disk needs little room.
const ROUND_BYTES: u64 = 32 << 20;
/// Segments given back together at most.
const ROUND_SEGMENTS: usize = 32;
/// Bytes of records in one append of the cleaner: others wait that long.
const APPEND_BYTES: u64 = 512 << 10;
/// On a short disk segments go first of which no more than this lives, in percent.
const CHEAP_PERCENT: u64 = 25;
/// Extents that one record says to be gone.
const DROPS: usize = 4096;

/// How far to clean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Goal {
    /// Enough once so many bytes of segments were given back.
    pub bytes: u64,
    /// Segments of which more than this share is alive are left alone, in percent.
    pub live_percent: u64,
}

impl Goal {
    /// Whatever can be had.
    pub const ALL: Self = Self { bytes: u64::MAX, live_percent: 95 };
    /// Who would move so much of a segment, in percent, needs the space, and a base may cost as much as it brings.
    pub(super) const NEED_PERCENT: u64 = 90;
}

/// What a cleaning did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Cleaned {
    /// Segments given back.
    pub segments: u64,
    /// Bytes of them that were used.
    pub bytes: u64,
    /// Extents moved.
    pub extents: u64,
    /// Bytes of their frames.
    pub moved_bytes: u64,
    /// Bytes of the base that was written; 0 if none was needed.
    pub base_bytes: u64,
}

/// What the cleaner remembers from one time to the next.
#[derive(Debug, Default)]
pub(super) struct Cleaner {
    /// Bytes of segments that were used, and of extents that were alive, when it looked last.
    pub(super) looked: Option<(u64, u64)>,
    /// Segments with damage in them: what lives there can't be moved.
    aside: BTreeSet<SegmentId>,
}

impl AddAssign for Cleaned {
    fn add_assign(&mut self, more: Self) {
        self.segments += more.segments;
        self.bytes += more.bytes;
        self.extents += more.extents;
        self.moved_bytes += more.moved_bytes;
        self.base_bytes += more.base_bytes;
    }
}

/// What emptying a segment takes and gives, in bytes.
pub(super) struct Worth {
    pub(super) id: SegmentId,
    /// What has to be written again of it.
    pub(super) live: u64,
    /// What it gives back beyond that.
    pub(super) gain: u64,
}

/// What is alive, as of a look.
pub(super) struct Look {
    /// Later extents are alive.
    upto: Lsn,
    alive: LsnSet,
    /// Bytes of living extents by segment; more than there are, where one was moved and its segment not given back.
    live: HashMap<SegmentId, u64>,
    /// The segments as they were before the look.
    segments: Vec<SegmentInfo>,
    /// Extents of which only a part shows.
    pub(super) parts: HashMap<Lsn, Part>,
}

/// What the record with which moved ones count, and their rows in the footer, take beside them at most, in bytes.
const BESIDE_BYTES: u64 = 12 << 10;

/// What that record takes where nothing is dropped, in bytes.
const OPERATION_BYTES: u64 = 256;

/// Records on their way to another segment.
#[derive(Default)]
struct Load {
    records: Vec<(OwnedRecord, Prepared)>,
    bytes: u64,
    /// Moved extents that nothing shows any more.
    dropped: Vec<Lsn>,
}

impl Store {
    /// Gives segments back, moving what lives in them, until the goal is reached or no more is to be had. Ends early,
    /// with nothing lost, when the store is about to close.
    ///
    /// # Errors
    /// [`Error::NoSpace`] if there is no room to move anything to; what log and index say.
    pub fn clean(&self, goal: Goal) -> Result<Cleaned> {
        let mut cleaner = self.cleaner.lock();
        self.check_usable()?;
        let _doing = self.activity.begin(Work::Cleaning);
        self.log.recycle()?;
        let mut done = Cleaned::default();
        let cleaned = self.clean_with(&mut cleaner, goal, &mut done);
        *self.cleaned.lock() += done;
        cleaned.map(|()| done)
    }

    /// Everything that cleaning did since the store was opened.
    #[must_use]
    pub fn cleaned(&self) -> Cleaned {
        *self.cleaned.lock()
    }

    fn clean_with(&self, cleaner: &mut Cleaner, goal: Goal, done: &mut Cleaned) -> Result<()> {
        // Where not even one segment could be emptied without it, the last of the reserve is lent: what is emptied gives it back at once.
        let tight = self.log.cleaning_room() < self.log.segment_bytes();
        self.log.lend_reserve(tight);
        let cleaned = self.clean_within(cleaner, goal, done);
        self.log.lend_reserve(false);
        cleaned
    }

    fn clean_within(&self, cleaner: &mut Cleaner, goal: Goal, done: &mut Cleaned) -> Result<()> {
        let Some(mut look) = self.look()? else { return Ok(()) };
        let room = self.room()?;
        if room.left < room.low && goal.live_percent > CHEAP_PERCENT {
            // First what takes next to no room to be emptied.
            self.take_names(&mut look)?;
            self.clean_as(&look, cleaner, Goal { live_percent: CHEAP_PERCENT, ..goal }, done)?;
        }
        if done.bytes < goal.bytes && self.repack(&look, goal, done)? || done.segments > 0 {
            let Some(again) = self.look()? else { return Ok(()) };
            look = again;
        }
        self.take_names(&mut look)?;
        self.clean_as(&look, cleaner, goal, done)
    }

    fn clean_as(&self, look: &Look, cleaner: &mut Cleaner, goal: Goal, done: &mut Cleaned) -> Result<()> {
        let used = look.segments.iter().map(|s| s.used_bytes).sum();
        let wasted: u64 = look.parts.values().map(Part::wasted).sum();
        cleaner.looked = Some((used, look.live.values().sum::<u64>().saturating_sub(wasted)));
        let Some(base) = self.base_for(look, cleaner, goal, done)? else { return Ok(()) };
        let holding = base.segments();
        let mut going: Vec<SegmentInfo> = Vec::new();
        let mut round = done.moved_bytes;
        for s in self.victims(look, (&base, &holding), cleaner, goal) {
            if self.is_stopping() || done.bytes + used_bytes(&going) >= goal.bytes {
                break;
            }
            // What can't be finished is not begun: moved in part, it would take room and give none.
            if look.live_in(s.id) > self.log.cleaning_room() {
                self.let_go(&mut going, &base, done)?;
                if look.live_in(s.id) > self.log.cleaning_room() {
                    continue;
                }
            }
            let emptied = self.empty_with_predecessors(look, s, &holding, cleaner, &mut going, done);
            if let Err(e) = emptied {
                // What was emptied before can go all the same, and may be what makes room.
                if matches!(e, Error::NoSpace { .. }) {
                    self.let_go(&mut going, &base, done)?;
                }
                return Err(e);
            }
            let moved = done.moved_bytes - round;
            // Out of the reserve, little can be moved before something is given back; and somebody may wait for just that.
            let waits = self.log.status().short || self.short_of_room.load(Relaxed) > 0;
            let most = if waits { self.log.segment_bytes() / 2 } else { ROUND_BYTES };
            if moved >= most || going.len() >= ROUND_SEGMENTS {
                self.let_go(&mut going, &base, done)?;
                round = done.moved_bytes;
            }
        }
        self.let_go(&mut going, &base, done)
    }

    /// Empties a segment, but first, where the log before it has no footer, those before it: they have to go first.
    fn empty_with_predecessors(
        &self,
        look: &Look,
        s: SegmentInfo,
        holding: &HashMap<SegmentId, u64>,
        cleaner: &mut Cleaner,
        going: &mut Vec<SegmentInfo>,
        done: &mut Cleaned,
    ) -> Result<()> {
        let is_going = |going: &[SegmentInfo], id| going.iter().any(|g| g.id == id);
        let mut chain = vec![s];
        while let Some(p) =
            chain.last().and_then(|s| look.segments.iter().find(|p| Some(p.id) == s.predecessor))
            && !is_going(going, p.id)
            && self.log.is_there(p.id)
            && !self.log.has_footer(p.id)?
        {
            chain.push(p.clone());
        }
        while let Some(s) = chain.pop() {
            if is_going(going, s.id) || !self.log.is_there(s.id) {
                continue;
            }
            if holding.contains_key(&s.id) {
                return Ok(());
            }
            if !self.empty(look, &s, done)? {
                cleaner.aside.extend(chain.iter().map(|s| s.id).chain([s.id]));
                return Ok(());
            }
            going.push(s);
        }
        Ok(())
    }

    /// Walks over all rows. `None`: the store is about to close.
    fn look(&self) -> Result<Option<Look>> {
        let segments = self.log.segments();
        let there: HashSet<SegmentId> = segments.iter().map(|s| s.id).collect();
        let upto = {
            let _all_applied = self.apply.lock();
            self.log.last_lsn()
        };
        let (alive, live, parts) = Default::default();
        let mut look = Look { upto, alive, live, segments, parts };
        let mut parts = Parts::default();
        let mut seen = 0_u64;
        let mut stopped = false;
        each_shown(&*self.index, &mut |s| {
            let (extent, at) = (s.extent, &s.location);
            seen += 1;
            if seen.is_multiple_of(1024) {
                stopped = self.is_stopping();
            }
            if look.alive.insert(extent) {
                let at = if there.contains(&at.segment) { *at } else { self.locate(extent, at)? };
                *look.live.entry(at.segment).or_default() += segment::Location::of_extent(&at).frame_len();
                parts.see(s, Some(at));
            } else {
                parts.see(s, None);
            }
            Ok(!stopped)
        })?;
        look.parts = parts.done();
        Ok((!stopped).then_some(look))
    }

    /// Extents that only a name keeps lose it, and stay until the next look: then nobody can have come for them. Those of which more is
    /// expected to come are alive, where there is room.
    fn take_names(&self, look: &mut Look) -> Result<()> {
        let mut names = Vec::new();
        let room = self.room()?;
        let expected =
            if room.left < room.low { BTreeSet::new() } else { self.expected.all(self.clock.monotonic_ns()) };
        let mut failed = Ok(());
        self.index.walk(
            &[kind::EXTENT],
            &after_prefix(&[kind::EXTENT]),
            Order::Forward,
            &mut |k, bytes| {
                failed = row::<ExtentRow>(k, bytes).map(|named| {
                    if !look.is_alive(named.extent)
                        && let Some(id) = key::extent_of(k)
                    {
                        look.alive.insert(named.extent);
                        if expected.contains(&named.extent) {
                            let bytes = segment::Location::of_extent(&named.location).frame_len();
                            *look.live.entry(named.location.segment).or_default() += bytes;
                        } else {
                            names.push(id);
                        }
                    }
                });
                failed.is_ok()
            },
        )?;
        failed?;
        for part in names.chunks(DROPS) {
            // Before: as long as they are named, nothing comes under their names.
            self.expected.forget(part);
            self.append_quiet(&[], vec![Fact::Unnamed(part.to_vec())])?;
        }
        Ok(())
    }

    /// Where an extent is, if it was moved.
    pub(super) fn locate(&self, extent: Lsn, at: &Location) -> Result<Location> {
        Ok(self.moved_to(extent)?.unwrap_or(*at))
    }

    pub(super) fn moved_to(&self, extent: Lsn) -> Result<Option<Location>> {
        let k = key::moved(extent);
        self.index.get(&k)?.map(|bytes| row(&k, &bytes)).transpose()
    }

    /// The base that stands for the records of those segments that are worth emptying; a new one, if that pays.
    fn base_for(
        &self,
        look: &Look,
        cleaner: &Cleaner,
        goal: Goal,
        done: &mut Cleaned,
    ) -> Result<Option<Base>> {
        let known = self.known_base()?;
        let gain = |base: &Base, holding: &HashMap<SegmentId, u64>| -> u64 {
            let those = self.victims(look, (base, holding), cleaner, goal);
            those.iter().map(|s| s.used_bytes.saturating_sub(look.live_in(s.id))).sum()
        };
        let mut holding = known.as_ref().map(Base::segments).unwrap_or_default();
        let old = known.as_ref().map_or(0, |base| gain(base, &holding));
        // What a base takes must not be what emptying a segment would need.
        let needed = self.log.segment_bytes() + self.base_cost(known.as_ref(), look.upto);
        if old >= goal.bytes || old > 0 && self.log.cleaning_room() < needed {
            return Ok(known);
        }
        // Pieces of the base that lie among what is dead are written again, so that they keep nothing from going.
        let is_emptied = |s: &&SegmentInfo| {
            holding
                .get(&s.id)
                .is_some_and(|base| (look.live_in(s.id) + base) * 100 <= s.used_bytes * goal.live_percent)
        };
        let vacate: HashSet<SegmentId> = look.segments.iter().filter(is_emptied).map(|s| s.id).collect();
        let again: u64 = vacate.iter().filter_map(|id| holding.get(id)).sum();
        holding.retain(|id, _| !vacate.contains(id));
        // What there would be to gain if all records so far were covered.
        let all = gain(&Base::wished(look.upto), &holding);
        let cost = again + self.base_cost(known.as_ref(), look.upto);
        let times = if goal.live_percent >= Goal::NEED_PERCENT { 1 } else { 2 };
        if all.saturating_sub(old) < times * cost + limits::BLOCK_BYTES {
            return Ok(known);
        }
        done.base_bytes += self.write_base_without(&vacate)?.1;
        self.known_base()
    }

    /// What a base would cost now, about, in bytes.
    fn base_cost(&self, known: Option<&Base>, now: Lsn) -> u64 {
        match known {
            Some(base) if base.bytes() > 0 => base.next_bytes(now),
            _ => self.index.stats().disk_bytes / 2,
        }
    }

    /// Segments worth emptying whose records this base covers, the best first. Those that hold something of a base
    /// are left alone.
    fn victims(
        &self,
        look: &Look,
        (base, holding): (&Base, &HashMap<SegmentId, u64>),
        cleaner: &Cleaner,
        goal: Goal,
    ) -> Vec<SegmentInfo> {
        let last = look.segments.last().map(|s| s.id);
        let covered = |s: &SegmentInfo| s.last_lsn <= base.as_of || planted(Bug::RetireBeforeBase);
        let needed = self.kept_for_peers(look, goal);
        let mut found: Vec<_> = look
            .segments
            .iter()
            .filter(|s| s.state != SegmentState::Active && Some(s.id) != last && covered(s))
            .filter(|s| !holding.contains_key(&s.id) && !cleaner.aside.contains(&s.id))
            .filter(|s| needed.is_none_or(|from| s.last_lsn < from))
            .filter(|s| look.live_in(s.id) * 100 <= s.used_bytes * goal.live_percent)
            .map(|s| (benefit(look, s), s.clone()))
            .collect();
        found.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.id.cmp(&b.1.id)));
        found.into_iter().map(|(_, s)| s).collect()
    }

    /// From where on the log stays for peers. Where that is too much, or the disk is short of space, none of it stays for them.
    fn kept_for_peers(&self, look: &Look, goal: Goal) -> Option<Lsn> {
        let from = (*self.needed.lock())?;
        let is_short = goal.bytes != u64::MAX;
        let behind: u64 = look.segments.iter().filter(|s| s.last_lsn >= from).map(|s| s.used_bytes).sum();
        (!is_short && behind <= self.settings.read().for_peers_bytes).then_some(from)
    }

    /// Moves what lives in a segment elsewhere. False: something in it can't be read.
    fn empty(&self, look: &Look, s: &SegmentInfo, done: &mut Cleaned) -> Result<bool> {
        let listing = self.log.listing(s.id)?;
        if listing.damaged {
            tracing::warn!("segment {} is damaged and can't be cleaned", s.id);
            return Ok(false);
        }
        let mut load = Load::default();
        let most = APPEND_BYTES.min(self.log.max_append_bytes() / 3);
        for e in listing.entries.iter().filter(|e| e.kind == Kind::Extent) {
            let is_here = |at: Location| (at.segment, at.offset) == (s.id, e.offset);
            let moved = e.flags & flags::MOVED != 0;
            if !look.is_alive(e.lsn) {
                if moved && self.moved_to(e.lsn)?.is_some_and(is_here) {
                    load.dropped.push(e.lsn);
                }
            } else if self.moved_to(e.lsn)?.map_or(!moved, is_here) {
                let Some(record) = self.read_living(s.id, e)? else { return Ok(false) };
                let room = self.log.max_append_bytes().saturating_sub(BESIDE_BYTES);
                let with_it = load.bytes + record.0.location.frame_len();
                if with_it > room || load.ends_segment(&self.log, with_it) {
                    self.unload(std::mem::take(&mut load))?;
                }
                load.add(record, done);
            }
            if load.bytes >= most || load.dropped.len() >= DROPS {
                self.unload(std::mem::take(&mut load))?;
            }
        }
        self.unload(load)?;
        Ok(true)
    }

    fn read_living(&self, id: SegmentId, e: &Entry) -> Result<Option<(OwnedRecord, Prepared)>> {
        match self.log.read_entry(id, e) {
            Ok(mut record) => {
                let squeeze = record.location.codec != Codec::Raw;
                let payload = Prepared::extent(std::mem::take(&mut record.payload), squeeze);
                Ok(Some((record, payload)))
            }
            Err(Error::Damaged(d)) => {
                tracing::error!("a segment with damage can't be cleaned: {d}");
                Ok(None)
            }
            Err(e) => Err(e),
        }
    }

    fn unload(&self, load: Load) -> Result<()> {
        if load.records.is_empty() && load.dropped.is_empty() {
            return Ok(());
        }
        self.append_quiet(&load.records, vec![Fact::Cleaned(load.dropped)])
    }

    /// Appends moved records and, as one with them, the record with which they count.
    fn append_quiet(&self, moved: &[(OwnedRecord, Prepared)], facts: Vec<Fact>) -> Result<()> {
        let bytes: u64 = moved.iter().map(|(r, _)| r.location.frame_len()).sum();
        let _step = self.step_aside(bytes + BESIDE_BYTES, moved.len() + 1)?;
        let mut state = self.apply.lock();
        self.check_usable()?;
        let mut next = state.clone();
        // It says nothing about files, so it does not move the clock either.
        let stamp = Stamp { hlc: next.meta.hlc, store: 0 };
        let payload = super::record_of(&facts)?;
        let mut records: Vec<Record<'_>> = moved.iter().map(|(r, p)| moved_record(r, p)).collect();
        let mut last = Record::new(Kind::Operation, &payload);
        (last.stamp, last.arg) = (stamp.hlc, facts.len() as u64);
        records.push(last);
        let lsn = self.log.last_lsn().next();
        let mut txn = Txn::new(&*self.index, lsn);
        Apply::new(&mut txn, &mut next, stamp, self.log.incarnation()).facts(&facts)?;
        let apart = self.until_applied();
        let appended = self.log.append_cleaning(&records)?;
        self.check_lsn(appended.last().map_or(Lsn::new(0), |a| a.0), lsn)?;
        for (extent, location) in &appended[..appended.len() - 1] {
            txn.put(key::moved(*extent), &Location::from(*location), Keep::Amend)?;
        }
        self.land(&mut state, next, lsn, &txn.finish()?)?;
        apart.done();
        Ok(())
    }

    /// Empties these segments, however much lives in them, and gives them back overwritten.
    ///
    /// # Errors
    /// What log and index say; [`Error::Damaged`] if something that lives there can't be read.
    pub(super) fn clean_out(&self, cleaner: &mut Cleaner, victims: &[SegmentId]) -> Result<()> {
        let Some(mut look) = self.look()? else { return Ok(()) };
        self.take_names(&mut look)?;
        self.write_base_without(&victims.iter().copied().collect())?;
        let base = self.known_base()?.unwrap_or_default();
        let holding = base.segments();
        let (mut going, mut done) = (Vec::new(), Cleaned::default());
        for s in look.segments.iter().filter(|s| victims.contains(&s.id)) {
            self.empty_with_predecessors(&look, s.clone(), &holding, cleaner, &mut going, &mut done)?;
            if let Some(id) = cleaner.aside.iter().find(|id| victims.contains(id)) {
                let why = "what lives in it can't be moved, so it can't be overwritten";
                return Err(Damage::segment(*id, 0, None, why).into());
            }
        }
        self.settle(&base)?;
        let ids: Vec<_> = going.iter().map(|s| s.id).collect();
        self.log.retire_and_erase(&ids)?;
        done.segments += going.len() as u64;
        done.bytes += used_bytes(&going);
        *self.cleaned.lock() += done;
        Ok(())
    }

    /// Everything that segments which go rest on becomes durable.
    fn settle(&self, base: &Base) -> Result<()> {
        if !planted(Bug::RetireBeforeDurable) {
            self.log.commit()?;
        }
        if self.index.flushed_lsn() < base.upto {
            self.checkpoint()?;
        }
        Ok(())
    }

    /// Gives the emptied segments back, once nothing needs them any more.
    fn let_go(&self, going: &mut Vec<SegmentInfo>, base: &Base, done: &mut Cleaned) -> Result<()> {
        if going.is_empty() {
            return Ok(());
        }
        self.settle(base)?;
        let ids: Vec<_> = going.iter().map(|s| s.id).collect();
        self.log.retire(&ids)?;
        done.segments += going.len() as u64;
        done.bytes += used_bytes(going);
        going.clear();
        Ok(())
    }
}

impl Look {
    fn is_alive(&self, extent: Lsn) -> bool {
        extent > self.upto || self.alive.has(extent)
    }

    fn live_in(&self, id: SegmentId) -> u64 {
        self.live.get(&id).copied().unwrap_or(0)
    }

    /// The segments that are worth emptying once what does not show of extents in them is gone, the best first.
    pub(super) fn worth_repacking(&self, goal: Goal) -> Vec<Worth> {
        let mut wasted: HashMap<SegmentId, u64> = HashMap::new();
        for part in self.parts.values() {
            *wasted.entry(part.location.segment).or_default() += part.wasted();
        }
        let last = self.segments.last().map(|s| s.id);
        let sealed = self.segments.iter().filter(|s| s.state != SegmentState::Active && Some(s.id) != last);
        let mut found: Vec<_> = sealed
            .filter_map(|s| {
                let wasted = *wasted.get(&s.id)?;
                let live = self.live_in(s.id).saturating_sub(wasted);
                (live * 100 <= s.used_bytes * goal.live_percent).then(|| {
                    let worth = Worth { id: s.id, live, gain: s.used_bytes.saturating_sub(live) };
                    (live as f64 / s.used_bytes.max(1) as f64, worth)
                })
            })
            .collect();
        found.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.id.cmp(&b.1.id)));
        found.into_iter().map(|(_, worth)| worth).collect()
    }
}

impl Load {
    /// Does it fill what is left of the segment that is being written? With more it would go into the next one, and that rest be wasted.
    fn ends_segment(&self, log: &Log, with_more: u64) -> bool {
        let beside = OPERATION_BYTES + self.dropped.len() as u64 * 9;
        let count = self.records.len();
        count > 0 && !log.fits(with_more + beside, count + 2) && log.fits(self.bytes + beside, count + 1)
    }

    fn add(&mut self, (record, payload): (OwnedRecord, Prepared), done: &mut Cleaned) {
        let bytes = record.location.frame_len();
        self.bytes += bytes;
        done.moved_bytes += bytes;
        done.extents += 1;
        self.records.push((record, payload));
    }
}

/// As it was, but somewhere else.
fn moved_record<'a>(r: &OwnedRecord, payload: &'a Prepared) -> Record<'a> {
    let mut record = Record::new(r.kind, payload);
    record.flags = r.flags | flags::MOVED;
    record.lsn = Some(r.lsn);
    record.ino = r.ino;
    if let Some(head) = &r.head {
        record.object = head.object;
        record.origin = Some(head.origin);
        record.stamp = head.stamp;
        record.arg = head.arg;
        record.branch = head.branch;
    }
    record
}

fn used_bytes(segments: &[SegmentInfo]) -> u64 {
    segments.iter().map(|s| s.used_bytes).sum()
}

/// What emptying a segment is worth: what it frees, by what that costs, by how long it has been quiet (Rosenblum and
/// Ousterhout, "The design and implementation of a log-structured file system").
fn benefit(look: &Look, s: &SegmentInfo) -> f64 {
    let share = look.live_in(s.id) as f64 / s.used_bytes.max(1) as f64;
    let age = look.upto.get().saturating_sub(s.last_lsn.get()) + 1;
    (1.0 - share).max(0.0) * age as f64 / (1.0 + share)
}

/// Facts of the cleaner, applied.
impl Apply<'_, '_> {
    /// These extents were moved once, and are gone for good.
    pub(super) fn cleaned(&mut self, gone: &[Lsn]) -> Result<()> {
        gone.iter().try_for_each(|extent| self.txn.delete(key::moved(*extent), Keep::Amend))
    }

    /// These extents of other stores are to be sent again if somebody needs them.
    pub(super) fn unnamed(&mut self, names: &[ExtentId]) -> Result<()> {
        names.iter().try_for_each(|id| self.txn.delete(key::extent(id), Keep::Amend))
    }
}
