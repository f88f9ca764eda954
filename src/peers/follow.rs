//! Follows the log of a store on behalf of all connections: sees to it that what was appended becomes durable soon, and says so.

use std::{sync::Arc, time::Duration};

use super::hub::Inner;
use crate::base::{Clock as _, Lsn, SystemClock};

/// Commits that are asked for on behalf of peers come no faster than this.
const PACE: Duration = Duration::from_millis(2);
/// How long the log is waited for at once.
const PATIENCE: Duration = Duration::from_millis(200);

/// How often the store is told what peers still need of its log, in nanoseconds.
const NEEDED_NS: u64 = 1_000_000_000;
/// Without connections there is nothing to do; a new one says that it is there.
const IDLE: Duration = Duration::from_secs(60);

/// Until the hub ends.
pub(super) fn follow(hub: &Arc<Inner>) {
    let mut told = Lsn::default();
    let mut said = 0;
    while !hub.is_over() {
        if !hub.has_work() {
            told = Lsn::default();
            hub.pause_alone(IDLE);
            continue;
        }
        let last = hub.store.wait_appended(told, PATIENCE);
        let began = SystemClock.monotonic_ns();
        if began >= said {
            hub.say_needed();
            said = began + NEEDED_NS;
        }
        if hub.store.sync(last).is_err() {
            hub.each_link(|link| link.stopped());
            hub.pause(PATIENCE);
            continue;
        }
        told = hub.store.durable_lsn();
        hub.each_link(|link| link.durable(told));
        let took = Duration::from_nanos(SystemClock.monotonic_ns().saturating_sub(began));
        if took < PACE {
            hub.pause(PACE.saturating_sub(took));
        }
    }
}
