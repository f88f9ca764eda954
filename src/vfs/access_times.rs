//! Access times: kept in memory, and written now and then, many in one record.
//!
//! The kernel leaves the access times of a FUSE mount to its daemon, and does not tell of reads that its cache answers. So what
//! counts is what it tells of: that a file is opened for reading alone, that a file opened for both is read, that a directory is listed
//! from its beginning, that a symlink is read. They have no history, and a crash may set them back.

use std::{
    collections::HashMap,
    sync::{
        OnceLock,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use parking_lot::{Mutex, RwLock};

use crate::{
    base::{Ino, Result, limits},
    format::facts::Time,
    store::Attributes,
};

use super::Vfs;

/// When access times move.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AccessTimes {
    /// With the first access after a change, and once a day: what mount(8) calls `relatime`.
    #[default]
    Relative,
    /// With every access: `strictatime`.
    Strict,
    /// Only when they are set: `noatime`.
    Never,
}

/// Seconds after which a relative access time moves although nothing changed.
const DAY: i64 = 24 * 60 * 60;

/// Access times that are not written yet.
#[derive(Default)]
pub(super) struct Unwritten {
    rule: OnceLock<AccessTimes>,
    times: RwLock<HashMap<Ino, Time>>,
    /// Are there any? Asked before the lock is.
    any: AtomicBool,
    /// When they were written last, in seconds since 1970. Held while they are written.
    written: Mutex<i64>,
}

impl Unwritten {
    /// Puts the unwritten access time in the place of the written one.
    pub(super) fn show(&self, a: &mut Attributes) {
        if self.any.load(Relaxed)
            && let Some(time) = self.times.read().get(&a.ino)
        {
            a.accessed = *time;
        }
    }

    /// An access time is set otherwise, or its object is given up.
    pub(super) fn forget(&self, ino: Ino) {
        if self.any.load(Relaxed) {
            self.times.write().remove(&ino);
        }
    }
}

/// Does an access now move the access time, by the rule of `relatime`?
fn is_due(a: &Attributes, now: Time) -> bool {
    a.accessed <= a.modified || a.accessed <= a.changed || now.seconds - a.accessed.seconds >= DAY
}

impl Vfs {
    /// Sets when access times move; once. Without it they don't.
    pub fn keep_access_times(&self, rule: AccessTimes) {
        let rule = if self.store.is_read_only() { AccessTimes::Never } else { rule };
        let _ = self.unwritten.rule.set(rule);
    }

    /// Something was read. What can't be noted is not worth an error.
    pub fn accessed(&self, ino: Ino) {
        let rule = self.unwritten.rule.get().copied().unwrap_or(AccessTimes::Never);
        if rule == AccessTimes::Never {
            return;
        }
        let Ok(a) = self.attributes(ino) else { return };
        let now = self.now();
        if rule == AccessTimes::Relative && !is_due(&a, now) {
            return;
        }
        let full = {
            let mut times = self.unwritten.times.write();
            times.insert(ino, now);
            self.unwritten.any.store(true, Relaxed);
            times.len() >= limits::ACCESS_TIMES
        };
        self.tell_changed(ino);
        let due = |last: i64| now.seconds - last >= limits::ACCESS_TIME_SECONDS;
        let Some(mut written) = self.unwritten.written.try_lock() else { return };
        if *written == 0 {
            *written = now.seconds;
        }
        if full || due(*written) {
            *written = now.seconds;
            self.write_some_access_times();
        }
    }

    /// Writes the access times that are kept in memory. They are not worth an error.
    pub(super) fn write_access_times(&self) {
        let _one = self.unwritten.written.lock();
        self.write_some_access_times();
    }

    fn write_some_access_times(&self) {
        let all: Vec<(Ino, Time)> = self.unwritten.times.read().iter().map(|(ino, t)| (*ino, *t)).collect();
        let done: Result<()> =
            all.chunks(limits::ACCESS_TIMES_PER_RECORD).try_for_each(|some| self.store.set_accessed(some));
        if let Err(e) = done {
            tracing::warn!("writing access times: {e}");
        }
        let mut times = self.unwritten.times.write();
        for (ino, time) in all {
            // One that moved on meanwhile waits for the next time.
            if times.get(&ino) == Some(&time) {
                times.remove(&ino);
            }
        }
        self.unwritten.any.store(!times.is_empty(), Relaxed);
    }
}
