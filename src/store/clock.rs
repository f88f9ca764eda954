//! The clock by which things expire, which no wrong clock of the machine can hurry.
//!
//! While the store is open it runs no faster than monotonic time, and never ahead of the wall clock. Where it has got to is
//! written to the log about once an hour, and at the end. If the wall clock is more than a day ahead of it, nothing expires until
//! a person says that the wall clock is right: a machine that comes up in another year removes no history and ends no lock.
//! A store that nobody had open for longer than that waits in the same way.

use crate::{
    base::{Clock, Result},
    format::facts::Fact,
};

use super::Store;

/// The wall clock may be ahead by so much, in nanoseconds.
const JUMP_NS: u64 = 24 * 3600 * 1_000_000_000;
/// How far the clock has got is written down when it is so much, in nanoseconds.
const NOTE_NS: u64 = 3600 * 1_000_000_000;

/// A time and the uptime when it was believed, both in nanoseconds.
#[derive(Debug, Clone, Copy)]
pub(super) struct Anchor {
    believed_ns: u64,
    uptime_ns: u64,
}

/// What the clock by which things expire shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expiry {
    /// The time up to which things have expired, ns since 1970.
    pub time_ns: u64,
    /// The machine's clock is so far ahead, in nanoseconds, that nothing expires until it is confirmed.
    pub ahead_ns: Option<u64>,
}

impl Anchor {
    /// At opening: `last_ns` is where the clock had got to.
    pub(super) fn new(clock: &dyn Clock, last_ns: u64) -> Self {
        let wall = clock.wall_ns();
        let believed_ns = if wall > last_ns.saturating_add(JUMP_NS) { last_ns } else { wall.max(last_ns) };
        Self { believed_ns, uptime_ns: clock.uptime_ns() }
    }

    fn now(self, clock: &dyn Clock) -> Expiry {
        let (wall, passed) = (clock.wall_ns(), clock.uptime_ns().saturating_sub(self.uptime_ns));
        let time_ns = self.believed_ns.saturating_add(passed);
        let ahead = wall.saturating_sub(time_ns);
        Expiry { time_ns: time_ns.min(wall), ahead_ns: (ahead > JUMP_NS).then_some(ahead) }
    }
}

impl Store {
    /// The clock by which things expire.
    #[must_use]
    pub fn expiry(&self) -> Expiry {
        self.anchor.lock().now(&*self.clock)
    }

    /// A person says that the machine's clock is right: things expire by it from now on.
    ///
    /// # Errors
    /// What the log says.
    pub fn confirm_clock(&self) -> Result<Expiry> {
        let wall = self.clock.wall_ns();
        self.note_clock(wall)?;
        self.log.commit()?;
        *self.anchor.lock() = Anchor { believed_ns: wall, uptime_ns: self.clock.uptime_ns() };
        Ok(self.expiry())
    }

    /// Writes down how far the clock has got, if that has not been done for a while.
    pub(super) fn note_expiry(&self) -> Result<()> {
        let now = self.expiry().time_ns;
        let known = self.apply.lock().meta.clock_ns.max(self.created_ns);
        if now < known.saturating_add(NOTE_NS) { Ok(()) } else { self.note_clock(now) }
    }

    fn note_clock(&self, ns: u64) -> Result<()> {
        self.run_quiet(|op| op.fact(Fact::Clock(ns))).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

    use super::*;

    const DAY: u64 = 24 * 3600 * 1_000_000_000;

    #[derive(Default)]
    struct Hands {
        wall: AtomicU64,
        uptime: AtomicU64,
    }

    impl Clock for Hands {
        fn wall_ns(&self) -> u64 {
            self.wall.load(Relaxed)
        }
        fn monotonic_ns(&self) -> u64 {
            self.uptime.load(Relaxed)
        }
    }

    impl Hands {
        fn at(&self, wall: u64, uptime: u64) -> &Self {
            self.wall.store(wall, Relaxed);
            self.uptime.store(uptime, Relaxed);
            self
        }
    }

    #[test]
    fn it_runs_with_uptime_and_never_ahead_of_the_wall_clock() {
        let c = Hands::default();
        let anchor = Anchor::new(c.at(100 * DAY, 5), 100 * DAY - 10);
        assert_eq!(anchor.now(c.at(100 * DAY, 5)), Expiry { time_ns: 100 * DAY, ahead_ns: None });
        assert_eq!(anchor.now(c.at(101 * DAY, DAY + 5)).time_ns, 101 * DAY);
        // Less than a day ahead: not believed, and no harm.
        assert_eq!(
            anchor.now(c.at(101 * DAY + DAY / 2, DAY + 5)),
            Expiry { time_ns: 101 * DAY, ahead_ns: None }
        );
        // Set back: it waits.
        assert_eq!(anchor.now(c.at(90 * DAY, 2 * DAY)), Expiry { time_ns: 90 * DAY, ahead_ns: None });
        let jumped = anchor.now(c.at(400 * DAY, 2 * DAY + 5));
        assert_eq!(jumped, Expiry { time_ns: 102 * DAY, ahead_ns: Some(298 * DAY) });
    }

    #[test]
    fn a_jump_while_it_was_closed_is_one_too() {
        let c = Hands::default();
        let anchor = Anchor::new(c.at(400 * DAY, 7), 100 * DAY);
        assert_eq!(anchor.now(c.at(400 * DAY, 7)), Expiry { time_ns: 100 * DAY, ahead_ns: Some(300 * DAY) });
        assert_eq!(anchor.now(c.at(401 * DAY, DAY + 7)).time_ns, 101 * DAY);
        let near = Anchor::new(c.at(100 * DAY + DAY / 2, 7), 100 * DAY);
        assert_eq!(near.now(&c).time_ns, 100 * DAY + DAY / 2);
        // Where the wall clock was set back between, the higher time is not forgotten.
        let back = Anchor::new(c.at(50 * DAY, 7), 100 * DAY);
        assert_eq!(back.now(&c), Expiry { time_ns: 50 * DAY, ahead_ns: None });
        assert_eq!(back.now(c.at(100 * DAY + 3, 7)).time_ns, 100 * DAY);
    }
}
