//! Space stays bounded: when to clean, what a full disk still allows, and history that yields to the present.
//!
//! A disk is short of space when less is free than a few segments or a fiftieth of it, and never while a gibibyte is. Then the
//! cleaner takes what it can get, and if that is not enough, the oldest versions go that nothing needs. Until there is
//! room again, writers are told that the disk is full, while whatever frees space uses the log's reserve. The index is written out
//! on a full disk too: for that a ballast file gives up its space.

use std::{path::Path, time::Duration};

use crate::{
    base::{Error, Ino, Lsn, Result, VersionId, limits},
    format::rows::{VersionPlace, VersionRow, after_prefix, key, kind},
};

use super::{Goal, Store, remove::Doomed, txn::row};

/// Gives its space to the index when the disk is full.
const BALLAST: &str = "BALLAST";
/// Segments that a disk which is not short has room for.
const LOW_SEGMENTS: u64 = 4;
/// With so much free no disk is short, however large it is.
const LOW_BYTES: u64 = 1 << 30;
/// Without need, the log grows by this share of what lives in it before the cleaner looks, in percent.
const GROWTH_PERCENT: u64 = 25;
/// Without need, segments of which more lives are left alone, in percent.
const LIVE_PERCENT: u64 = 60;
/// In need.
const LIVE_PERCENT_SHORT: u64 = 92;
/// Versions that yield in one step at most.
const YIELD: usize = 4096;
/// How often everything is held against the policies, in nanoseconds.
const EXPIRY_NS: u64 = 600 * 1_000_000_000;
/// How long a writer waits for history to yield.
const PATIENCE: Duration = Duration::from_secs(5);

/// What keeping space bounded remembers.
#[derive(Debug, Default)]
pub(super) struct Keeper {
    /// Bytes of the log after the last cleaning, or at the beginning.
    used: Option<u64>,
    /// Last record when nothing more was to be had on a short disk.
    exhausted: Option<Lsn>,
    /// Versions up to here were asked to yield.
    yielded: VersionId,
    /// Where the sweep over all objects is, and when the next one begins (monotonic).
    sweep: Option<Ino>,
    next_sweep_ns: Option<u64>,
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
        self.check_usable()?;
        self.log.recycle()?;
        self.mend_reserves();
        self.sweep(&mut keeper)?;
        let mut more = false;
        let used = self.used_bytes();
        let first = *keeper.used.get_or_insert(used);
        if self.is_short()? {
            let last = self.last_lsn();
            if keeper.exhausted == Some(last) {
                return Ok(more);
            }
            let low = self.low_water()?;
            let goal = Goal { bytes: 2 * low, live_percent: LIVE_PERCENT_SHORT };
            let mut freed = self.clean(goal)?.bytes;
            let yields = self.settings.read().history_yields;
            if yields && self.is_short()? && self.yield_history(&mut keeper, low)? > 0 {
                freed += self.clean(goal)?.bytes;
                more = true;
            }
            self.mend_reserves();
            keeper.exhausted = (freed == 0 && !more).then(|| self.last_lsn());
            keeper.used = Some(self.used_bytes());
            return Ok(more || freed > 0);
        }
        keeper.exhausted = None;
        let live = self.cleaner.lock().looked.map_or(first, |(_, live)| live);
        let worth = (live / 100 * GROWTH_PERCENT).max(LOW_SEGMENTS * self.segment_bytes());
        if used.saturating_sub(first) >= worth {
            self.clean(Goal { bytes: u64::MAX, live_percent: LIVE_PERCENT })?;
            keeper.used = Some(self.used_bytes());
        }
        Ok(more)
    }

    fn used_bytes(&self) -> u64 {
        self.log.segments().iter().map(|s| s.used_bytes).sum()
    }

    fn segment_bytes(&self) -> u64 {
        self.log.segment_bytes()
    }

    /// What is free on a disk that is not short, in bytes.
    fn low_water(&self) -> Result<u64> {
        let total = self.space()?.total_bytes;
        Ok((LOW_SEGMENTS * self.segment_bytes()).max((total / 50).min(LOW_BYTES)).min(total / 4))
    }

    fn is_short(&self) -> Result<bool> {
        Ok(self.log.status().short || self.space()?.free_bytes < self.low_water()?)
    }

    /// A step of the sweep over all objects, if one is due: what no policy keeps goes. One step a round, so that nobody notices.
    fn sweep(&self, keeper: &mut Keeper) -> Result<()> {
        let mono = self.clock.monotonic_ns();
        let due = *keeper.next_sweep_ns.get_or_insert(mono + EXPIRY_NS);
        if keeper.sweep.is_none() && mono < due {
            return Ok(());
        }
        let now = self.expiry();
        if keeper.sweep.is_none() {
            self.note_expiry()?;
        }
        if now.ahead_ns.is_some() {
            return Ok(());
        }
        let (_, next) = self.expire(keeper.sweep.unwrap_or(Ino::FIRST), now.time_ns)?;
        if next.is_none() {
            self.forget_lonely_moves(now.time_ns)?;
            keeper.next_sweep_ns = Some(mono + EXPIRY_NS);
        }
        keeper.sweep = next;
        Ok(())
    }

    /// The oldest versions that nothing needs go, until about so many bytes did. Returns how many versions.
    fn yield_history(&self, keeper: &mut Keeper, bytes: u64) -> Result<u64> {
        let now_ns = self.expiry().time_ns;
        let mut gone = 0;
        // From where it was, and once from the beginning: what had to stay then may go now.
        for _ in 0..2 {
            loop {
                let (doomed, last) = self.oldest(keeper.yielded, bytes)?;
                let Some(last) = last else { break };
                keeper.yielded = last;
                gone += self.remove_versions(&doomed, now_ns)?;
                if gone > 0 {
                    self.yielded.fetch_add(gone, std::sync::atomic::Ordering::Relaxed);
                    tracing::warn!("the disk is short of space: {gone} old versions made room");
                    return Ok(gone);
                }
                if self.is_stopping() {
                    return Ok(0);
                }
            }
            keeper.yielded = VersionId::default();
        }
        Ok(gone)
    }

    /// Versions behind this one, in the order in which they were made, that hold about so many bytes, and the last one looked at.
    fn oldest(&self, after: VersionId, bytes: u64) -> Result<(Vec<Doomed>, Option<VersionId>)> {
        let mut start = key::version_id(after);
        start.push(0);
        let (mut found, mut last, mut held) = (Vec::new(), None, 0);
        for (k, value) in self.index.scan(&start, &after_prefix(&[kind::VERSION_ID]), YIELD)? {
            let Some(id) = k.last_chunk::<16>().map(|id| VersionId::new(u128::from_be_bytes(*id))) else {
                continue;
            };
            last = Some(id);
            let place: VersionPlace = row(&k, &value)?;
            let vk = key::version(place.ino, place.at);
            let Some(value) = self.index.get(&vk)?.filter(|_| !place.removed) else { continue };
            let object = self.object_row(place.ino, None)?;
            // Most files have one version, which they show.
            if object.is_some_and(|o| o.content.head == Some(place.at) && o.attributes.links > 0) {
                continue;
            }
            held += row::<VersionRow>(&vk, &value)?.allocated;
            found.push(Doomed { ino: place.ino, id });
            if held >= bytes {
                break;
            }
        }
        Ok((found, last))
    }

    /// Does something that needs room; on a full disk again, as long as history yields, for a bounded time.
    pub(super) fn with_room<T>(&self, mut work: impl FnMut() -> Result<T>) -> Result<T> {
        let began = self.clock.monotonic_ns();
        loop {
            let seen = *self.rounds.0.lock();
            let full = match work() {
                Err(e @ Error::NoSpace { .. }) if self.options.background => e,
                done => return done,
            };
            let exhausted = self.keeper.try_lock().is_some_and(|k| k.exhausted == Some(self.last_lsn()));
            let waited = Duration::from_nanos(self.clock.monotonic_ns() - began);
            if exhausted || seen == 0 || waited >= PATIENCE || self.is_stopping() {
                return Err(full);
            }
            self.wake.1.notify_all();
            let mut rounds = self.rounds.0.lock();
            if *rounds == seen {
                self.rounds.1.wait_for(&mut rounds, Duration::from_millis(limits::COMMIT_INTERVAL_MS));
            }
        }
    }

    /// Writes the index out; on a full disk once more, with the space of the ballast.
    pub(super) fn with_ballast(&self, flush: impl Fn() -> Result<()>) -> Result<()> {
        match flush() {
            Err(Error::NoSpace { .. }) => {
                let freed = self.disk.open(Path::new(BALLAST), true).and_then(|f| f.set_len(0));
                if let Err(e) = freed {
                    tracing::warn!("the index can't be written out, and there is no ballast: {e}");
                }
                flush()
            }
            done => done,
        }
    }

    /// Gives the reserve of the log and the ballast their space back, if there is some.
    fn mend_reserves(&self) {
        if let Err(e) = self.log.mend_reserve() {
            tracing::debug!("no space for the reserve: {e}");
        }
        if !self.options.background {
            return;
        }
        let bytes = 2 * self.options.memtable_bytes;
        let path = Path::new(BALLAST);
        let file = self.disk.open(path, true).or_else(|_| self.disk.create(path));
        let mended = file.and_then(|f| if f.len()? < bytes { f.allocate(bytes) } else { Ok(()) });
        if let Err(e) = mended {
            tracing::debug!("no space for the ballast: {e}");
        }
    }
}
