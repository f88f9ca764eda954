//! What a mount does about once a second.

use std::{
    io,
    sync::{Arc, Weak},
    thread::JoinHandle,
    time::Duration,
};

use parking_lot::{Condvar, Mutex};

use super::{
    events::Events,
    watch::{self, Watch},
};
use crate::{
    base::{Clock as _, SystemClock},
    store::Store,
    vfs::Vfs,
};

/// How often.
const PACE: Duration = Duration::from_secs(1);

/// A thread that lets a filesystem do what is due, and tells what happened. It ends when this is dropped.
pub struct Beat {
    over: Arc<(Mutex<bool>, Condvar)>,
    thread: Option<JoinHandle<()>>,
}

/// What it looks after.
struct Ward {
    vfs: Weak<Vfs>,
    store: Weak<Store>,
    events: Option<Arc<Events>>,
    watch: Watch,
}

impl Beat {
    /// Starts it. Without `events`, nothing is told.
    ///
    /// # Errors
    /// If no thread can be had.
    pub fn start(vfs: &Arc<Vfs>, store: &Arc<Store>, events: Option<&Arc<Events>>) -> io::Result<Self> {
        if let Some(events) = events {
            for damage in &store.recovered().log.damages {
                events.damage(damage);
            }
            watch::settings(events, &store.settings());
            let told = Arc::clone(events);
            vfs.on_damage(move |damage| told.damage(damage));
        }
        let mut watch = Watch::default();
        if let Some(events) = events {
            watch.look(store, events, SystemClock.uptime_ns(), false);
        }
        let over = Arc::new((Mutex::new(false), Condvar::new()));
        let told = Arc::clone(&over);
        let mut ward =
            Ward { vfs: Arc::downgrade(vfs), store: Arc::downgrade(store), events: events.cloned(), watch };
        let run = move || {
            loop {
                let mut over = told.0.lock();
                if !*over {
                    told.1.wait_for(&mut over, PACE);
                }
                let last = *over;
                drop(over);
                if !ward.once(last) || last {
                    return;
                }
            }
        };
        let thread = std::thread::Builder::new().name("segfs-beat".into()).spawn(run)?;
        Ok(Self { over, thread: Some(thread) })
    }
}

impl Ward {
    /// Says whether there is still something to look after.
    fn once(&mut self, last: bool) -> bool {
        let (Some(vfs), Some(store)) = (self.vfs.upgrade(), self.store.upgrade()) else { return false };
        if !last && let Err(e) = vfs.tick() {
            tracing::warn!("making versions that are due: {e}");
        }
        if let Some(events) = &self.events {
            self.watch.look(&store, events, SystemClock.uptime_ns(), last);
            // On a full disk they wait.
            if let Err(e) = events.write_out() {
                tracing::warn!("events can't be written: {e}");
            }
        }
        true
    }
}

impl Drop for Beat {
    fn drop(&mut self) {
        *self.over.0.lock() = true;
        self.over.1.notify_all();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
