//! Counting what is live, so that nobody waits for it and it costs little: a count is kept until it is old.

use std::{sync::Arc, time::Duration};

use parking_lot::{Condvar, Mutex};

use crate::{
    base::{Clock as _, Error, Lsn, Result, SystemClock},
    store::{
        Store,
        inspect::{Census, Progress},
    },
};

/// A status asks for a new count only when the last one is as many times older than it took.
const REST: u64 = 20;

/// A count, and the LSN as of which it is.
pub(super) type Counted = (Lsn, Arc<Census>);

/// The last count.
#[derive(Default)]
pub(super) struct Counter {
    state: Mutex<State>,
    /// Told when a count is over.
    over: Condvar,
    /// One counts at a time.
    counting: Mutex<()>,
}

#[derive(Default)]
struct State {
    last: Option<Counted>,
    /// When it was done, and how long it took.
    at_ns: u64,
    took_ns: u64,
    under_way: bool,
}

impl Counter {
    /// Counts, and keeps the count.
    ///
    /// # Errors
    /// As of [`Store::census`].
    pub(super) fn now(&self, store: &Store, progress: Progress<'_>) -> Result<Counted> {
        let _one = self.counting.lock();
        let began = SystemClock.monotonic_ns();
        let (lsn, census) = store.census(progress)?;
        let counted = (lsn, Arc::new(census));
        let mut state = self.state.lock();
        state.last = Some(counted.clone());
        state.at_ns = SystemClock.monotonic_ns();
        state.took_ns = state.at_ns - began;
        Ok(counted)
    }

    /// The last count. One that is old is made anew on a thread, and waited for so long.
    pub(super) fn soon(self: &Arc<Self>, store: &Arc<Store>, patience: Duration) -> Option<Counted> {
        let mut state = self.state.lock();
        let rested = SystemClock.monotonic_ns() - state.at_ns >= state.took_ns.saturating_mul(REST);
        let changed = state.last.as_ref().is_none_or(|(lsn, _)| *lsn < store.last_lsn());
        if changed && rested && !state.under_way {
            let (counter, store) = (Arc::clone(self), Arc::clone(store));
            let run = move || {
                let _over = Over(&counter);
                match counter.now(&store, &|_, _| {}) {
                    // A store that stopped writing can't be brought up to date; it says so itself.
                    Ok(_) | Err(Error::Poisoned { .. }) => {}
                    Err(e) => tracing::warn!("counting what is live: {e}"),
                }
            };
            state.under_way = std::thread::Builder::new().name("segfs-count".into()).spawn(run).is_ok();
        }
        if state.under_way {
            self.over.wait_for(&mut state, patience);
        }
        state.last.clone()
    }
}

/// Says that a count is over, also if it panics.
struct Over<'a>(&'a Counter);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.state.lock().under_way = false;
        self.0.over.notify_all();
    }
}
