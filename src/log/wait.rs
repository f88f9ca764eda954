//! Waiting until a record is durable: one thread leads, the others sleep, and whoever is served goes on without the tail's
//! lock.
//!
//! A condition variable would hand the lock from one woken thread to the next, a wake-up each; here all are woken at
//! once and look at an atomic mark. Where syncs are fast a thread looks for a moment before it sleeps, since waking
//! an idle processor can cost more than the sync itself.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Acquire, Ordering::Relaxed, Ordering::Release},
    },
    thread::{self, Thread},
};

use parking_lot::MutexGuard;

use super::{
    Inner,
    tail::{Guard, Tail},
};
use crate::base::{
    Error, Lsn, Result,
    limits::{GATHER_NS, SPIN_NS, YIELD_NS},
};

/// What those who sleep look at.
#[derive(Default)]
pub(super) struct Marks {
    /// Every record up to here is durable.
    durable: AtomicU64,
    /// Grows whenever sleepers are woken.
    woken: AtomicU64,
    /// How long the last commit took, in nanoseconds.
    commit_ns: AtomicU64,
}

impl Marks {
    pub(super) fn new(durable: Lsn) -> Self {
        Self { durable: AtomicU64::new(durable.get()), ..Self::default() }
    }

    pub(super) fn durable(&self) -> Lsn {
        Lsn::new(self.durable.load(Acquire))
    }

    /// Under the tail's lock, together with the tail's own mark.
    pub(super) fn set_durable(&self, lsn: Lsn) {
        self.durable.store(lsn.get(), Release);
    }
}

/// A thread that waits for a record to become durable while another one leads.
pub(super) struct Sleeper {
    lsn: Lsn,
    thread: Thread,
    /// It was woken before its record was durable, and so is still counted: it takes itself off. Set under the tail's lock,
    /// as the durable mark is; who sees the mark at its record sees this.
    not_served: Arc<AtomicBool>,
}

impl Inner {
    pub(super) fn wait_durable(&self, lsn: Lsn) -> Result<()> {
        if self.marks.durable() >= lsn {
            return Ok(());
        }
        let mut t = self.tail.lock();
        t.waiters += 1;
        loop {
            let next = self.step(&mut t, lsn);
            if let Ok(false) = next {
                let woken = self.marks.woken.load(Acquire);
                let not_served = Arc::new(AtomicBool::new(false));
                let sleeper = Sleeper { lsn, thread: thread::current(), not_served: Arc::clone(&not_served) };
                t.sleepers.push(sleeper);
                drop(t);
                self.sleep(lsn, woken);
                if self.marks.durable() >= lsn && !not_served.load(Acquire) {
                    // Whoever made it so has taken this thread off the count, or is about to.
                    return Ok(());
                }
                t = self.tail.lock();
                continue;
            }
            t.waiters -= 1;
            return next.map(|_| ());
        }
    }

    /// Waits up to `timeout` for a record behind this one, durable or not. The last one.
    pub(super) fn wait_appended(&self, after: Lsn, timeout: std::time::Duration) -> Lsn {
        let mut t = self.tail.lock();
        let none = |t: &mut Tail| {
            t.followed = t.next_lsn <= after.next().get() && t.poison.is_none() && !t.closed;
            t.followed
        };
        if none(&mut t) {
            self.changed.wait_while_for(&mut t, none, timeout);
        }
        Lsn::new(t.next_lsn.saturating_sub(1))
    }

    /// True: the record is durable. False: somebody leads, sleep until he is done.
    fn step<'a>(&'a self, t: &mut Guard<'a>, lsn: Lsn) -> Result<bool> {
        while t.durable_lsn < lsn {
            t.check()?;
            if lsn.get() >= t.next_lsn {
                return Err(Error::BadRequest(format!("LSN {lsn} was not given out yet")));
            }
            if t.busy {
                return Ok(false);
            }
            self.lead(t, |s, t| {
                s.gather(t);
                let began = s.clock.monotonic_ns();
                let done = s.flush(t, true);
                s.marks.commit_ns.store(s.clock.monotonic_ns().saturating_sub(began), Relaxed);
                t.cohort = t.waiters;
                done
            })?;
        }
        Ok(true)
    }

    /// Waits a moment for those who waited with this one last time: they were woken together and are about to append
    /// again, and one sync for all of them is worth more than an early one for some.
    fn gather(&self, t: &mut Guard<'_>) {
        if !self.opts.background || t.waiters >= t.cohort {
            return;
        }
        let began = self.clock.monotonic_ns();
        while t.waiters < t.cohort && self.clock.monotonic_ns() - began < GATHER_NS {
            MutexGuard::unlocked(t, thread::yield_now);
        }
    }

    /// Until the record is durable or sleepers were woken.
    fn sleep(&self, lsn: Lsn, woken: u64) {
        let still = || self.marks.durable() < lsn && self.marks.woken.load(Acquire) == woken;
        if self.opts.background && self.marks.commit_ns.load(Relaxed) < SPIN_NS {
            let began = self.clock.monotonic_ns();
            let mut last = began;
            while still() {
                thread::yield_now();
                let now = self.clock.monotonic_ns();
                // A long yield says that others need the processor.
                if now - began > SPIN_NS || now - last > YIELD_NS {
                    break;
                }
                last = now;
            }
        }
        while still() {
            thread::park();
        }
    }

    /// Wakes everybody who sleeps: who is served is done, of the others one will lead.
    pub(super) fn wake_sleepers(&self, t: &mut Tail) {
        if t.sleepers.is_empty() {
            return;
        }
        let sleepers = std::mem::take(&mut t.sleepers);
        for sleeper in &sleepers {
            if sleeper.lsn <= t.durable_lsn {
                t.waiters -= 1;
            } else {
                sleeper.not_served.store(true, Release);
            }
        }
        self.marks.woken.fetch_add(1, Release);
        sleepers.iter().for_each(|s| s.thread.unpark());
    }
}
