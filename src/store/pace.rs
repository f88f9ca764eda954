//! How fast the cleaner goes: in small steps, and resting between them while others work, the less the less space is left.

use std::{sync::atomic::Ordering::Relaxed, time::Duration};

use crate::base::{Lsn, Result};

use super::Store;

/// With plenty of space, the cleaner rests so many times as long as a step took.
const REST: f64 = 4.0;
/// It rests in full where so many times the low water are left.
const PLENTY: f64 = 6.0;
/// One rest, at most.
const REST_MAX: Duration = Duration::from_millis(100);

/// A step of the cleaner; when it goes, the cleaner rests.
pub(super) struct Step<'a> {
    store: &'a Store,
    began_ns: u64,
    last: Lsn,
}

impl Store {
    /// Begins a step of the cleaner that appends so much: makes room for it while others go on, so that they wait only for
    /// the step itself.
    ///
    /// # Errors
    /// As of [`Log::make_room`](crate::log::Log::make_room).
    pub(super) fn step_aside(&self, bytes: u64, records: usize) -> Result<Step<'_>> {
        let (began_ns, last) = (self.clock.monotonic_ns(), self.log.last_lsn());
        self.log.make_room(bytes, records)?;
        Ok(Step { store: self, began_ns, last })
    }

    /// How many times the length of a step the cleaner rests behind it, while others work.
    fn leisure(&self) -> f64 {
        if self.short_of_room.load(Relaxed) > 0 {
            return 0.0;
        }
        let Ok(room) = self.room() else { return 0.0 };
        let left = room.left as f64 / room.low.max(1) as f64;
        REST * ((left - 1.0) / (PLENTY - 1.0)).clamp(0.0, 1.0)
    }
}

impl Drop for Step<'_> {
    fn drop(&mut self) {
        let store = self.store;
        if !store.options.background || store.is_stopping() {
            return;
        }
        // A step is one record with a number of its own.
        if store.log.last_lsn() <= self.last.next() {
            return;
        }
        let took = Duration::from_nanos(store.clock.monotonic_ns().saturating_sub(self.began_ns));
        let rest = took.mul_f64(store.leisure()).min(REST_MAX).as_nanos() as u64;
        let until = store.clock.monotonic_ns() + rest;
        let mut stop = store.wake.0.lock();
        // Whoever runs short of space ends it early.
        while !*stop && store.short_of_room.load(Relaxed) == 0 {
            let left = until.saturating_sub(store.clock.monotonic_ns());
            if left == 0 {
                break;
            }
            store.space_wanted.wait_for(&mut stop, Duration::from_nanos(left));
        }
    }
}
