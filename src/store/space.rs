//! Space stays bounded: when to clean, what a full disk still allows, and history that yields to the present.
//!
//! A disk is short of space when less is free than a few segments or a fiftieth of it, and never while a gibibyte is. Then the
//! cleaner takes what it can get, and if that is not enough, the oldest versions go that nothing needs (`yielding`). Until there is
//! room again, writers are told that the disk is full, while whatever frees space uses the log's reserve. The index is written out
//! on a full disk too: for that a ballast file gives up its space.

use std::{path::Path, sync::atomic::Ordering::Relaxed, time::Duration};

use crate::{
    base::{Error, Ino, Lsn, Result, VersionId, limits},
    log::Apart,
};

use super::{Goal, Store};

/// Gives its space to the index when the disk is full.
const BALLAST: &str = "BALLAST";
/// Spare segment files that stay for what frees space, when the index needs room.
const SPARES_MIN: usize = 1;
/// Segments that a disk which is not short has room for.
const LOW_SEGMENTS: u64 = 4;
/// With so much free no disk is short, however large it is.
const LOW_BYTES: u64 = 1 << 30;
/// With less than so many times the low water left, the cleaner looks more often.
const NEAR: u64 = 4;
/// Without need, the log grows by this share of what lives in it before the cleaner looks, in percent.
const GROWTH_PERCENT: u64 = 25;
/// The same where a shortage is near.
const GROWTH_PERCENT_NEAR: u64 = 4;
/// Far from a shortage, segments of which more lives are left alone, in percent.
const LIVE_PERCENT: u64 = 60;
/// In need.
const LIVE_PERCENT_SHORT: u64 = 92;
/// Rounds in which the cleaner may move what gives nothing back at once.
const IN_VAIN: u32 = 4;
/// How often everything is held against the policies, in nanoseconds.
const EXPIRY_NS: u64 = 600 * 1_000_000_000;
/// And on a short disk.
const EXPIRY_SHORT_NS: u64 = 60 * 1_000_000_000;
/// What a record that is not content takes, as a rule, in bytes.
const RECORD_BYTES: u64 = 4096;
/// How long a writer waits for room while nothing is moved and nothing yields.
const PATIENCE: Duration = Duration::from_secs(20);
/// And at all: on a slow disk the cleaner may take long for one segment.
const PATIENCE_MAX: Duration = Duration::from_secs(120);

/// What keeping space bounded remembers.
#[derive(Debug, Default)]
pub(super) struct Keeper {
    /// Bytes of the log after the last cleaning, or at the beginning.
    used: Option<u64>,
    /// When nothing more was to be had on a short disk.
    exhausted: Option<Exhausted>,
    /// Versions up to here were asked to yield.
    yielded: VersionId,
    /// Where the sweep over all objects is, and when the next one begins (monotonic).
    sweep: Option<Ino>,
    next_sweep_ns: Option<u64>,
    /// Rounds in a row in which the cleaner moved something on a short disk, and nothing came of it.
    in_vain: u32,
    /// When a short disk may have everything held against the policies again (monotonic).
    next_short_sweep_ns: u64,
}

/// As of when a short disk had nothing more to give.
#[derive(Debug, Clone, Copy)]
struct Exhausted {
    /// The last record then.
    lsn: Lsn,
    /// Bytes of content appended by then, since the store was opened.
    appended: u64,
}

/// What is left of the disk, in bytes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Room {
    /// Free, or in spare segment files that anybody may use.
    pub(super) left: u64,
    /// With less, the disk is short of space.
    pub(super) low: u64,
}

/// Without need, segments of which more lives are left alone; the nearer a shortage, the less, in percent.
fn live_percent(room: Room) -> u64 {
    let (low, near) = (room.low.max(1), NEAR * room.low.max(1));
    let nearness = near.saturating_sub(room.left.max(low)) as f64 / (near - low).max(1) as f64;
    LIVE_PERCENT + (nearness * (LIVE_PERCENT_SHORT - LIVE_PERCENT) as f64) as u64
}

impl Store {
    /// One round of keeping space bounded: lets go what retention does not keep, cleans if that is worth it, and on a
    /// disk that is short of space lets history yield. Says whether there is more to do at once.
    ///
    /// # Errors
    /// What log and index say; [`Error::NoSpace`] does no harm.
    pub fn keep_space(&self) -> Result<bool> {
        if self.options.read_only {
            return Ok(false);
        }
        let more = self.keep_space_once();
        let mut rounds = self.rounds.0.lock();
        *rounds += 1;
        self.rounds.1.notify_all();
        more
    }

    fn keep_space_once(&self) -> Result<bool> {
        let mut keeper = self.keeper.lock();
        if self.is_stopping() {
            return Ok(false);
        }
        self.check_usable()?;
        self.log.heed_holds(!self.is_short()?);
        self.log.recycle()?;
        self.mend_reserves();
        let surplus = self.surplus.load(Relaxed);
        let swept = self.sweep(&mut keeper)?;
        let more = self.drop_surplus()?;
        if swept > 0 || self.surplus.load(Relaxed) != surplus {
            keeper.exhausted = None;
        }
        let used = self.used_bytes();
        let first = *keeper.used.get_or_insert(used);
        let room = self.room()?;
        if self.is_short()? {
            return Ok(self.make_room(&mut keeper, room.low)? || more);
        }
        keeper.exhausted = None;
        let live = self.cleaner.lock().looked.map_or(first, |(_, live)| live);
        let near = room.left < NEAR * room.low;
        let percent = if near { GROWTH_PERCENT_NEAR } else { GROWTH_PERCENT };
        // A look reads the whole index, so what was written since the last one is to be worth that.
        let worth = (live / 100 * percent)
            .max(LOW_SEGMENTS * self.segment_bytes())
            .max(self.index.stats().disk_bytes / 2);
        if used.saturating_sub(first) >= worth {
            self.clean(Goal { bytes: u64::MAX, live_percent: live_percent(room) })?;
            keeper.used = Some(self.used_bytes());
        }
        Ok(more)
    }

    /// On a short disk: cleans, and if that is not enough, lets go what no policy keeps, then the oldest versions. Says
    /// whether there is more to do at once.
    fn make_room(&self, keeper: &mut Keeper, low: u64) -> Result<bool> {
        // What happens from here on may be more than this finds.
        let now = Exhausted { lsn: self.last_lsn(), appended: self.appended.load(Relaxed) };
        if keeper.exhausted.is_some_and(|then| self.is_as_exhausted(then, now)) {
            return Ok(false);
        }
        keeper.exhausted = None;
        let goal = Goal { bytes: 2 * low, live_percent: LIVE_PERCENT_SHORT };
        let surplus = self.surplus.load(Relaxed);
        let moved = self.cleaned().moved_bytes;
        let mut freed = self.clean_in_need(goal)?;
        let mut gone = 0;
        // What was written meanwhile may have used up what cleaning gave; then it is worth another round, and history stays.
        if freed < low / 2 && self.is_short()? {
            if !self.is_dense() && (freed > 0 || keeper.in_vain < IN_VAIN) {
                // There is more to be had than this round could get, without anything that somebody may want to have back.
                keeper.in_vain = if freed > 0 { 0 } else { keeper.in_vain + 1 };
                return Ok(true);
            }
            while self.drop_surplus()? {}
            if self.surplus.load(Relaxed) != surplus {
                // What went since the cleaner looked has not been cleaned yet.
                return Ok(true);
            }
            gone = self.sweep_now(keeper)?;
            if gone == 0 && self.settings.read().history_yields {
                let room = self.room()?;
                let lacking = room.low.saturating_sub(room.left);
                gone = self.yield_history(&mut keeper.yielded, lacking)?;
            }
            if gone > 0 {
                freed += self.clean_in_need(goal)?;
            }
        }
        keeper.used = Some(self.used_bytes());
        keeper.in_vain =
            if freed > 0 || self.cleaned().moved_bytes == moved { 0 } else { keeper.in_vain + 1 };
        // What was moved may be what makes room the next time.
        let more = freed > 0 || gone > 0 || (1..=IN_VAIN).contains(&keeper.in_vain);
        if !more && self.is_short()? {
            keeper.exhausted = Some(now);
        }
        Ok(more)
    }

    /// Is next to nothing in the log dead, as far as the last look knows?
    fn is_dense(&self) -> bool {
        let Some((used, live)) = self.cleaner.lock().looked else { return true };
        used.saturating_sub(live) < 2 * self.segment_bytes() || live * 100 >= used * LIVE_PERCENT_SHORT
    }

    /// Would looking again find as little? A look reads the whole index, and may lead to nothing as long as others fill the disk: so it
    /// comes only once something was written that is worth it, or somebody waits for room and anything happened.
    fn is_as_exhausted(&self, then: Exhausted, now: Exhausted) -> bool {
        let little = now.appended - then.appended < self.segment_bytes() / 2;
        then.lsn == now.lsn || little && self.short_of_room.load(Relaxed) == 0
    }

    /// Cleans; says how many bytes that gave. Without room to move anything to, history has to yield first.
    fn clean_in_need(&self, goal: Goal) -> Result<u64> {
        let before = self.cleaned().bytes;
        match self.clean(goal) {
            Ok(_) => {}
            // What it had given back by then counts all the same.
            Err(Error::NoSpace { what }) => tracing::debug!("cleaning a full disk: no space: {what}"),
            Err(e) => return Err(e),
        }
        let freed = self.cleaned().bytes - before;
        self.mend_reserves();
        Ok(freed)
    }

    fn used_bytes(&self) -> u64 {
        self.log.segments().iter().map(|s| s.used_bytes).sum()
    }

    fn segment_bytes(&self) -> u64 {
        self.log.segment_bytes()
    }

    /// What is left of the disk.
    pub(super) fn room(&self) -> Result<Room> {
        let space = self.space()?;
        let (segment, spares) = (self.segment_bytes(), self.log.status().spares);
        // What the reserve lacks is taken from the rest before anybody may use that.
        let reserve = limits::RESERVE_SEGMENTS as u64;
        // There has to be room for a base, without which no segment goes.
        let base = self.base.lock().as_ref().map_or(0, super::base::Base::bytes);
        let low = (LOW_SEGMENTS * segment).max((space.total_bytes / 50).min(LOW_BYTES)).max(2 * base);
        // The same with the ballast, and with what waits to be written out beyond that.
        let ballast = self.disk.open(Path::new(BALLAST), false).and_then(|f| f.len()).unwrap_or(0);
        let index = if self.options.background {
            self.ballast_bytes().max(self.index.stats().memtable_bytes)
        } else {
            0
        };
        Ok(Room {
            left: (space.free_bytes + spares * segment + ballast).saturating_sub(reserve * segment + index),
            low: low.min(space.total_bytes / 4),
        })
    }

    fn is_short(&self) -> Result<bool> {
        let room = self.room()?;
        Ok(self.log.status().short || room.left < room.low)
    }

    /// Notes that so many bytes were appended: now and then space is looked after at once, and not only when its turn
    /// comes.
    pub(super) fn note_appended(&self, bytes: u64) {
        let before = self.appended.fetch_add(bytes, Relaxed);
        let step = self.segment_bytes() / 2;
        if self.options.background && before / step != (before + bytes) / step {
            self.space_wanted.notify_all();
        }
    }

    /// A step of the sweep over all objects, if one is due: what no policy keeps goes. One step a round, so that nobody notices.
    /// Returns how many versions went.
    fn sweep(&self, keeper: &mut Keeper) -> Result<u64> {
        let mono = self.clock.monotonic_ns();
        let due = *keeper.next_sweep_ns.get_or_insert(mono + EXPIRY_NS);
        if keeper.sweep.is_none() && mono < due {
            return Ok(0);
        }
        let now = self.expiry();
        if keeper.sweep.is_none() {
            self.note_expiry()?;
        }
        if now.ahead_ns.is_some() {
            return Ok(0);
        }
        let (gone, next) = self.expire(keeper.sweep.unwrap_or(Ino::FIRST), now.time_ns)?;
        if next.is_none() {
            self.forget_old_moves(now.time_ns)?;
            keeper.next_sweep_ns = Some(mono + EXPIRY_NS);
        }
        keeper.sweep = next;
        Ok(gone)
    }

    /// All of it at once, for a short disk; not again for a while.
    fn sweep_now(&self, keeper: &mut Keeper) -> Result<u64> {
        let mono = self.clock.monotonic_ns();
        let now = self.expiry();
        if now.ahead_ns.is_some() || mono < keeper.next_short_sweep_ns {
            return Ok(0);
        }
        let (mut gone, mut at) = (0, Some(Ino::FIRST));
        while let Some(from) = at
            && !self.is_stopping()
        {
            let (n, next) = self.expire(from, now.time_ns)?;
            (gone, at) = (gone + n, next);
        }
        keeper.next_short_sweep_ns = mono + EXPIRY_SHORT_NS;
        Ok(gone)
    }

    /// Waits a bounded time until a record that is not content finds room, if there is none: a name, an attribute.
    ///
    /// # Errors
    /// [`Error::NoSpace`] if there is none then.
    pub(super) fn await_room(&self) -> Result<()> {
        if self.options.background && self.keeping.load(Relaxed) {
            self.with_room(|| self.log.await_room(RECORD_BYTES))
        } else {
            Ok(())
        }
    }

    /// Does something that needs room; on a full disk again, as long as history yields, for a bounded time.
    pub(super) fn with_room<T>(&self, mut work: impl FnMut() -> Result<T>) -> Result<T> {
        let began = self.clock.monotonic_ns();
        let (mut written, mut moved) = (self.log.status().bytes, began);
        loop {
            let seen = *self.rounds.0.lock();
            let full = match work() {
                Err(e @ Error::NoSpace { .. }) if self.options.background => e,
                done => return done,
            };
            let exhausted =
                self.keeper.try_lock().is_some_and(|k| k.exhausted.is_some_and(|e| e.lsn == self.last_lsn()));
            let now = self.clock.monotonic_ns();
            if written != self.log.status().bytes {
                (written, moved) = (self.log.status().bytes, now);
            }
            let since = |then: u64| Duration::from_nanos(now - then);
            let patient = since(moved) < PATIENCE && since(began) < PATIENCE_MAX;
            if exhausted || !self.keeping.load(Relaxed) || !patient || self.is_stopping() {
                return Err(full);
            }
            self.short_of_room.fetch_add(1, Relaxed);
            self.space_wanted.notify_all();
            let mut rounds = self.rounds.0.lock();
            if *rounds == seen {
                self.rounds.1.wait_for(&mut rounds, Duration::from_millis(limits::COMMIT_INTERVAL_MS));
            }
            drop(rounds);
            self.short_of_room.fetch_sub(1, Relaxed);
        }
    }

    /// Writes the index out; on a full disk once more, with the space of the ballast, and with that of spare files: without an
    /// index that is written out, no segment can be given back.
    pub(super) fn with_ballast(&self, flush: impl Fn() -> Result<()>) -> Result<()> {
        let mut done = flush();
        if matches!(done, Err(Error::NoSpace { .. })) {
            let freed = self.disk.open(Path::new(BALLAST), true).and_then(|f| f.set_len(0));
            if let Err(e) = freed {
                tracing::warn!("the index can't be written out, and there is no ballast: {e}");
            }
            self.log.keep_apart(Apart { free: 0, owed: self.ballast_bytes() });
            done = flush();
        }
        while matches!(done, Err(Error::NoSpace { .. })) && self.log.drop_spare(SPARES_MIN) {
            done = flush();
        }
        done
    }

    /// Gives the ballast and the reserve of the log their space back, if there is some: the ballast first, without which the index can't be
    /// written out, and no segment be given back.
    fn mend_reserves(&self) {
        if self.options.background {
            self.mend_room_for_index();
        }
        if let Err(e) = self.log.mend_reserve() {
            tracing::debug!("no space for the reserve: {e}");
        }
    }

    /// Whoever else writes to the disk, the index above all, has no use of spare files.
    fn mend_room_for_index(&self) {
        let bytes = self.ballast_bytes();
        let free = (bytes / 2).min(self.segment_bytes());
        let owed = loop {
            let mended = self.mend_ballast(bytes);
            let there = self.space().map_or(u64::MAX, |s| s.free_bytes);
            match mended {
                Ok(0) if there >= free => break 0,
                Ok(owed) if !self.log.drop_spare(limits::RESERVE_SEGMENTS) => break owed,
                Err(e) if !self.log.drop_spare(limits::RESERVE_SEGMENTS) => {
                    tracing::debug!("no space for the ballast: {e}");
                    break bytes;
                }
                _ => {}
            }
        };
        self.log.keep_apart(Apart { free, owed });
    }

    /// What is kept for the index: what it has in memory, once more while that is written out.
    fn ballast_bytes(&self) -> u64 {
        2 * self.options.memtable_bytes
    }

    /// Gives the ballast its space back. Says how much it still lacks.
    fn mend_ballast(&self, bytes: u64) -> std::io::Result<u64> {
        let path = Path::new(BALLAST);
        let file = self.disk.open(path, true).or_else(|_| self.disk.create(path))?;
        let there = file.len()?;
        if there >= bytes {
            return Ok(0);
        }
        match file.allocate(bytes) {
            Err(e) if e.kind() == std::io::ErrorKind::StorageFull => {
                // A part of it may have been had.
                file.set_len(there).map(|()| bytes - there)
            }
            done => done.map(|()| 0),
        }
    }
}
