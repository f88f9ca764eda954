//! Who takes the next request.
//!
//! The kernel wakes whoever has waited longest for a request. With two threads that read, a program that asks for one thing after the
//! other wakes both in turns, and each wake-up costs more than the work of a request. Where several programs ask at once, or a request
//! waits for the disk, the second thread is worth that.
//!
//! So one thread reads as long as one thread of one program asks, and the other stands by. It reads again once others ask too, or more is
//! waiting behind a large transfer (the kernel reads ahead), or once a request has been under way for a [`TICK`]: whatever that
//! waits for, even if it is another request, somebody takes it.

#![allow(
    clippy::disallowed_methods,
    reason = "the edge: it waits for the kernel, and for threads that it does not start"
)]

use std::{
    cell::RefCell,
    os::fd::OwnedFd,
    sync::{
        Arc, OnceLock,
        atomic::{
            AtomicBool, AtomicU32, AtomicU64,
            Ordering::{Relaxed, SeqCst},
        },
    },
    time::{Duration, Instant},
};

use parking_lot::{Condvar, Mutex};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// How long a request may be under way before somebody else takes the next one, while no other has been seen to wait.
const TICK: Duration = Duration::from_millis(4);
/// How long one must have been alone before a thread stands by.
const ALONE: Duration = Duration::from_millis(10);
/// Without a request for so many ticks, whoever stands by sleeps until the next one.
const QUIET_TICKS: u32 = 10;

thread_local! {
    /// What this thread reads for.
    static READS_FOR: RefCell<Option<Reader>> = const { RefCell::new(None) };
}

/// Threads that take requests, and stand by by turns.
#[derive(Debug)]
pub(super) struct Turns {
    threads: usize,
    /// Where requests come from; set once it is mounted.
    device: OnceLock<OwnedFd>,
    state: Mutex<State>,
    wake: Condvar,
    begun: AtomicU64,
    ended: AtomicU64,
    /// The thread that asked last.
    asker: AtomicU32,
    /// Whoever stands by sleeps until a request begins.
    sleeps: AtomicBool,
}

#[derive(Debug)]
struct State {
    /// Threads that have taken a request: when such a one ends, it says so.
    known: usize,
    /// Threads that read, or are at a request.
    at_work: usize,
    /// When it was somebody else than before.
    changed: Instant,
    /// When more than one asked at a time.
    company: Instant,
    /// How often those who stand by were called.
    calls: u64,
    /// A thread has ended: it is unmounted, so all are to end.
    over: bool,
}

/// A thread that takes requests, as long as it lives.
struct Reader(Arc<Turns>);

impl Drop for Reader {
    fn drop(&mut self) {
        self.0.state.lock().over = true;
        self.0.wake.notify_all();
    }
}

/// A request that is under way. Dropped once it is answered.
pub(super) struct Turn<'a>(&'a Turns);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.ended.fetch_add(1, SeqCst);
        self.0.after_an_answer();
    }
}

impl Turns {
    pub(super) fn new(threads: usize) -> Arc<Self> {
        let now = Instant::now();
        let state = State { known: 0, at_work: threads, changed: now, company: now, calls: 0, over: false };
        Arc::new(Self {
            threads,
            device: OnceLock::new(),
            state: Mutex::new(state),
            wake: Condvar::new(),
            begun: AtomicU64::new(0),
            ended: AtomicU64::new(0),
            asker: AtomicU32::new(0),
            sleeps: AtomicBool::new(false),
        })
    }

    /// Where the requests come from: from now on a thread may stand by.
    pub(super) fn read_from(&self, device: OwnedFd) {
        let set = self.device.set(device);
        debug_assert!(set.is_ok(), "set once for each mount");
    }

    /// A request of this thread (0: of nobody in particular) begins.
    pub(super) fn begin<'a>(self: &'a Arc<Self>, asker: u32) -> Turn<'a> {
        READS_FOR.with_borrow_mut(|reader| {
            reader.get_or_insert_with(|| {
                self.state.lock().known += 1;
                Reader(Arc::clone(self))
            });
        });
        self.begun.fetch_add(1, SeqCst);
        if self.sleeps.load(SeqCst) {
            // Who sleeps holds the lock until it waits.
            let _state = self.state.lock();
            self.wake.notify_all();
        }
        if asker != 0 && asker != self.asker.swap(asker, Relaxed) {
            let mut state = self.state.lock();
            let now = Instant::now();
            // To and fro: one program after the other is not two at a time.
            if now - std::mem::replace(&mut state.changed, now) < ALONE {
                self.keep_company(&mut state, now);
            }
        }
        Turn(self)
    }

    /// A large transfer begins: what waits now does not wait for its answer.
    pub(super) fn transfer(&self) {
        if self.something_waits() {
            self.keep_company(&mut self.state.lock(), Instant::now());
        }
    }

    fn keep_company(&self, state: &mut State, now: Instant) {
        state.company = now;
        if state.at_work < self.threads {
            state.calls += 1;
            self.wake.notify_all();
        }
    }

    /// Does a request wait for somebody to take it? Not if that can't be told.
    fn something_waits(&self) -> bool {
        let Some(device) = self.device.get() else { return false };
        let mut fds = [PollFd::new(device, PollFlags::IN)];
        poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).is_ok_and(|n| n > 0)
    }

    fn after_an_answer(&self) {
        let mut state = self.state.lock();
        if state.at_work > 1
            && state.known == self.threads
            && state.company.elapsed() > ALONE
            && self.device.get().is_some()
        {
            state.at_work -= 1;
            self.stand_by(&mut state);
            state.at_work += 1;
        }
    }

    fn count(&self) -> (u64, u64) {
        (self.begun.load(SeqCst), self.ended.load(SeqCst))
    }

    /// Returns once this thread is needed.
    fn stand_by(&self, state: &mut parking_lot::MutexGuard<'_, State>) {
        let calls = state.calls;
        let mut seen = self.count();
        let mut quiet = 0;
        while state.calls == calls && !state.over {
            if quiet < QUIET_TICKS {
                self.wake.wait_for(state, TICK);
            } else {
                self.sleeps.store(true, SeqCst);
                // One that began before it could see this is in the count.
                if self.count() == seen {
                    self.wake.wait(state);
                }
                self.sleeps.store(false, SeqCst);
                quiet = 0;
            }
            let now = self.count();
            if now == seen && now.0 > now.1 {
                return;
            }
            quiet = if now == seen { quiet + 1 } else { 0 };
            seen = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        os::fd::AsFd,
        sync::mpsc::{Receiver, Sender, channel},
    };

    use super::*;

    /// A thread that takes the requests that it is given, and says when it could take the next one.
    struct Taker {
        give: Sender<Box<dyn FnOnce() + Send>>,
        ready: Receiver<()>,
    }

    impl Taker {
        fn start(turns: &Arc<Turns>, asker: u32) -> Self {
            let (give, requests) = channel::<Box<dyn FnOnce() + Send>>();
            let (tell, ready) = channel();
            let turns = Arc::clone(turns);
            std::thread::spawn(move || {
                for work in requests {
                    let turn = turns.begin(asker);
                    work();
                    drop(turn);
                    if tell.send(()).is_err() {
                        return;
                    }
                }
            });
            Self { give, ready }
        }

        fn begin(&self, work: impl FnOnce() + Send + 'static) {
            self.give.send(Box::new(work)).unwrap();
        }

        /// Long, so that a failure is none of a slow machine.
        fn comes_back(&self) -> bool {
            self.ready.recv_timeout(Duration::from_secs(20)).is_ok()
        }

        fn request(&self) {
            self.begin(|| {});
            assert!(self.comes_back());
        }
    }

    /// Two threads, of which the second stands by.
    fn one_stands_by() -> (Arc<Turns>, Taker, Taker) {
        let turns = Turns::new(2);
        let (a, b) = (Taker::start(&turns, 7), Taker::start(&turns, 7));
        // Before it is mounted, nobody stands by.
        b.request();
        a.request();
        let (device, _) = std::io::pipe().unwrap();
        turns.read_from(device.as_fd().try_clone_to_owned().unwrap());
        std::thread::sleep(2 * ALONE);
        b.begin(|| {});
        while turns.state.lock().at_work > 1 {
            std::thread::sleep(TICK);
        }
        (turns, a, b)
    }

    /// A request of the first waits for ever, as far as anybody can see: the second is to come back.
    fn gets_stuck(a: &Taker, b: &Taker) {
        let (end, until) = channel::<()>();
        a.begin(move || assert!(until.recv().is_err()));
        assert!(b.comes_back(), "a request is under way, and nobody takes another one");
        drop(end);
    }

    #[test]
    fn whoever_stands_by_comes_back_while_a_request_is_stuck() {
        let (_turns, a, b) = one_stands_by();
        gets_stuck(&a, &b);
    }

    #[test]
    fn whoever_sleeps_comes_back_while_a_request_is_stuck() {
        let (turns, a, b) = one_stands_by();
        while !turns.sleeps.load(SeqCst) {
            std::thread::sleep(TICK);
        }
        gets_stuck(&a, &b);
    }

    #[test]
    fn whoever_stands_by_comes_back_when_two_ask_in_turns() {
        let (turns, a, b) = one_stands_by();
        // However long ago that was: it asks again at once.
        turns.state.lock().changed = Instant::now() + Duration::from_secs(600);
        turns.asker.store(8, Relaxed);
        a.begin(|| {});
        assert!(b.comes_back(), "others ask too, and one thread alone answers");
    }

    #[test]
    fn whoever_stands_by_ends_with_the_others() {
        let (turns, a, b) = one_stands_by();
        while !turns.sleeps.load(SeqCst) {
            std::thread::sleep(TICK);
        }
        drop(a);
        assert!(b.comes_back(), "it is unmounted, and a thread does not end");
    }
}
