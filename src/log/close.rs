//! The background thread, and the end.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use super::{Inner, Log, append::arc_inner};
use crate::base::{Result, panic_text, planted::strike};

/// Starts the background thread if it does not run yet. It writes out big streams while others append, and makes spare segments.
pub(super) fn start_worker(log: &Log) {
    let mut worker = log.worker.lock();
    if worker.is_some() {
        return;
    }
    let inner = arc_inner(log);
    // If there can be no thread, everything still happens inside the calls.
    let run = move || {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| work(&inner))) {
            let why = format!("the thread segfs-log panicked: {}", panic_text(&*panic));
            inner.poison(&mut inner.tail.lock(), why);
        }
    };
    *worker = std::thread::Builder::new().name("segfs-log".into()).spawn(run).ok();
}

fn work(inner: &Arc<Inner>) {
    let mut t = inner.tail.lock();
    loop {
        if t.stop_worker || t.poison.is_some() || t.closed {
            return;
        }
        if t.write_wanted {
            // A failure poisons the log, and whoever waits hears of it.
            let led = inner.lead(&mut t, |s, t| s.flush(t, false));
            if !matches!(led, Ok(false)) {
                t.write_wanted = false;
            }
        } else if t.spare_wanted {
            drop(t);
            strike("segfs-log");
            // A full disk shows when the segment is needed.
            let stop = || inner.tail.try_lock().is_some_and(|t| t.stop_worker);
            let name = format!("{:016x}.new", inner.random.nonzero_u64());
            let _ = inner.files.make_spare(&name, inner.opts.segment_bytes, &stop);
            t = inner.tail.lock();
            t.spare_wanted = false;
        } else {
            inner.work.wait(&mut t);
        }
    }
}

impl Inner {
    pub(super) fn close(&self) -> Result<()> {
        let mut t = self.tail.lock();
        loop {
            if t.closed {
                return Ok(());
            }
            t.check()?;
            if self.lead(&mut t, |s, t| s.end_segment(t, true))? {
                break;
            }
        }
        t.closed = true;
        drop(t);
        self.changed.notify_all();
        self.work.notify_all();
        Ok(())
    }
}
