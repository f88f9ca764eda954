//! What a mount does about once a second.

use std::{
    io,
    sync::{Arc, Weak},
    thread::JoinHandle,
    time::Duration,
};

use parking_lot::{Condvar, Mutex};

use crate::vfs::Vfs;

/// How often.
const PACE: Duration = Duration::from_secs(1);

/// A thread that lets a filesystem do what is due. It ends when this is dropped.
pub struct Beat {
    over: Arc<(Mutex<bool>, Condvar)>,
    thread: Option<JoinHandle<()>>,
}

impl Beat {
    /// Starts it.
    ///
    /// # Errors
    /// If no thread can be had.
    pub fn start(vfs: &Arc<Vfs>) -> io::Result<Self> {
        let over = Arc::new((Mutex::new(false), Condvar::new()));
        let (weak, told): (Weak<Vfs>, _) = (Arc::downgrade(vfs), Arc::clone(&over));
        let run = move || {
            loop {
                let mut over = told.0.lock();
                if !*over {
                    told.1.wait_for(&mut over, PACE);
                }
                if *over {
                    return;
                }
                drop(over);
                let Some(vfs) = weak.upgrade() else { return };
                if let Err(e) = vfs.tick() {
                    tracing::warn!("making versions that are due: {e}");
                }
            }
        };
        let thread = std::thread::Builder::new().name("segfs-beat".into()).spawn(run)?;
        Ok(Self { over, thread: Some(thread) })
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
