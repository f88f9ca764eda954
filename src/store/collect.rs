//! Everything at once that otherwise happens by and by: what no policy keeps goes, and what is dead is given back.

use crate::{
    base::{Ino, Result},
    format::rows::{VersionPlace, VersionRow, key},
};

use super::{Cleaned, Goal, Store, Work, inspect::Progress, txn::row};

/// Cleanings in a row: each makes the next one's work smaller, and the last one finds nothing.
const ROUNDS: usize = 16;

/// What a collection did, or would do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Collected {
    /// Versions that no policy keeps and nothing else needs.
    pub versions: u64,
    /// What these hold by themselves, about, in bytes.
    pub history_bytes: u64,
    /// What nothing shows, before versions went, in bytes.
    pub dead_bytes: u64,
    /// What the cleaner did; nothing in a dry run.
    pub cleaned: Cleaned,
}

impl Store {
    /// Lets go every version that no policy keeps, and cleans until that gains nothing. With `dry_run` nothing changes.
    ///
    /// # Errors
    /// What log and index say.
    pub fn collect(&self, dry_run: bool, progress: Progress<'_>) -> Result<Collected> {
        self.check_usable()?;
        let mut found =
            Collected { dead_bytes: self.census(&|_, _| {})?.1.total.dead_bytes, ..Collected::default() };
        let last = self.apply.lock().meta.next_ino;
        // A clock that jumped ahead is not believed here either.
        let now = self.expiry();
        let now_ns = now.time_ns;
        let mut at = now.ahead_ns.is_none().then_some(Ino::FIRST);
        while let Some(from) = at {
            progress(from.get(), last);
            let (doomed, next) = self.doomed(from, now_ns)?;
            for d in self.removable(&doomed, now_ns)? {
                let k = key::version_id(d.id);
                let Some(bytes) = self.index.get(&k)? else { continue };
                let place: VersionPlace = row(&k, &bytes)?;
                let k = key::version(d.ino, place.at);
                let Some(bytes) = self.index.get(&k)? else { continue };
                found.history_bytes += self.freed_by(d.ino, place.at, &row::<VersionRow>(&k, &bytes)?)?;
                found.versions += 1;
            }
            if !dry_run {
                self.remove_versions(&doomed, now_ns)?;
            }
            at = next.filter(|_| !self.is_stopping());
        }
        for _ in 0..ROUNDS {
            if dry_run || self.is_stopping() {
                break;
            }
            let done = self.clean(Goal::ALL)?;
            found.cleaned += done;
            progress(last, last);
            // Moving must not go on for its own sake.
            if done.bytes <= done.moved_bytes + done.base_bytes + self.log.segment_bytes() {
                break;
            }
        }
        Ok(found)
    }

    /// Waits so long, or until the store is about to close; then it says false.
    #[must_use]
    pub fn rest(&self, pause: std::time::Duration) -> bool {
        let until = self.clock.monotonic_ns() + pause.as_nanos() as u64;
        let mut stop = self.wake.0.lock();
        while !*stop {
            let left = until.saturating_sub(self.clock.monotonic_ns());
            if left == 0 {
                return true;
            }
            self.wake.1.wait_for(&mut stop, std::time::Duration::from_nanos(left));
        }
        false
    }
}

impl Store {
    /// The objects at and below a place in the tree, those included whose names are gone from there.
    ///
    /// # Errors
    /// What reading the index says.
    pub fn objects_below(&self, top: Ino) -> Result<std::collections::HashSet<Ino>> {
        let mut found = std::collections::HashSet::from([top]);
        let mut open = vec![top];
        let view = self.view();
        while let Some(dir) = open.pop() {
            if view.attributes(dir)?.kind != crate::format::facts::ObjectKind::Directory {
                continue;
            }
            let mut after: Option<Vec<u8>> = None;
            loop {
                let page = view.entries(dir, after.as_deref(), 1024)?;
                let Some(last) = page.last() else { break };
                after = Some(last.name.clone());
                for e in page {
                    if found.insert(e.ino) && e.kind == crate::format::facts::ObjectKind::Directory {
                        open.push(e.ino);
                    }
                }
            }
            let mut after: Option<Vec<u8>> = None;
            loop {
                let page = view.gone(dir, after.as_deref(), 1024)?;
                let Some(last) = page.last() else { break };
                after = Some(last.name.clone());
                found.extend(page.iter().map(|g| g.ino));
            }
        }
        let _doing = self.activity.begin(Work::Counting);
        Ok(found)
    }

    /// The object at a path from the root; names that hold `/` there are none.
    ///
    /// # Errors
    /// [`FsError::NotFound`](crate::base::FsError::NotFound), or what reading the index says.
    pub fn find_path(&self, path: &[u8]) -> Result<Ino> {
        let mut at = Ino::FIRST;
        for name in path.split(|b| *b == b'/').filter(|n| !n.is_empty()) {
            at = self.view().lookup(at, name)?.ino;
        }
        Ok(at)
    }
}
