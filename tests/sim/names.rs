//! The names of the simulated disk: as written, as durable, and the changes in between.

use std::collections::BTreeMap;

use super::{content::Fate, rng::Rng};

pub type FileId = u64;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entry {
    Dir,
    File(FileId),
}

/// A change that may not be durable yet. It is known by what it leads to, so that it means the same
/// whichever others a crash has kept.
#[derive(Debug, Clone)]
enum Change {
    Add { path: String, entry: Entry },
    Remove { path: String, id: FileId },
    Rename { from: String, to: String, id: FileId },
}

#[derive(Debug, Clone)]
struct Pending {
    change: Change,
    /// Its directory was synced, but that directory itself is not durable yet.
    synced: bool,
}

type Map = BTreeMap<String, Entry>;

/// All names of a disk. The root is `""`.
#[derive(Clone)]
pub struct Names {
    pub written: Map,
    durable: Map,
    pending: Vec<Pending>,
}

pub fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(dir, _)| dir)
}

impl Change {
    /// The paths it touches.
    fn paths(&self) -> [&str; 2] {
        match self {
            Self::Add { path, .. } | Self::Remove { path, .. } => [path, path],
            Self::Rename { from, to, .. } => [from, to],
        }
    }

    /// The directory whose sync makes it durable: of a rename, the one with the new name.
    fn directory(&self) -> &str {
        parent(self.paths()[1])
    }

    fn apply(&self, map: &mut Map) {
        match self {
            Self::Add { path, entry } => _ = map.insert(path.clone(), *entry),
            Self::Remove { path, id } => forget(map, path, *id),
            Self::Rename { from, to, id } => {
                forget(map, from, *id);
                map.insert(to.clone(), Entry::File(*id));
            }
        }
    }
}

fn forget(map: &mut Map, path: &str, id: FileId) {
    if map.get(path) == Some(&Entry::File(id)) {
        map.remove(path);
    }
}

impl Names {
    pub fn new() -> Self {
        let root: Map = [(String::new(), Entry::Dir)].into();
        Self { written: root.clone(), durable: root, pending: Vec::new() }
    }

    pub fn add(&mut self, path: &str, entry: Entry) {
        self.change(Change::Add { path: path.into(), entry });
    }

    pub fn remove(&mut self, path: &str, id: FileId) {
        self.change(Change::Remove { path: path.into(), id });
    }

    pub fn rename(&mut self, from: &str, to: &str, id: FileId) {
        self.change(Change::Rename { from: from.into(), to: to.into(), id });
    }

    fn change(&mut self, change: Change) {
        change.apply(&mut self.written);
        self.pending.push(Pending { change, synced: false });
    }

    /// Makes the names in a directory durable, as far as the directory is.
    pub fn sync(&mut self, dir: &str) {
        let mut keep: Vec<bool> =
            self.pending.iter().map(|p| p.synced || p.change.directory() == dir).collect();
        self.close(&mut keep);
        for (p, keep) in self.pending.iter_mut().zip(keep) {
            p.synced = keep;
        }
        let durable = &mut self.durable;
        self.pending.retain(|p| {
            let settled = p.synced && durable.contains_key(p.change.directory());
            if settled {
                p.change.apply(durable);
            }
            !settled
        });
    }

    /// Each change in the directory is durable or never will be, nobody knows which.
    pub fn fail_sync(&mut self, dir: &str, rng: &mut Rng) {
        let mut keep: Vec<bool> = self
            .pending
            .iter()
            .map(|p| p.synced || (p.change.directory() == dir && rng.percent(50)))
            .collect();
        self.close(&mut keep);
        let mut keep = keep.into_iter();
        let durable = &mut self.durable;
        self.pending.retain(|p| {
            let keep = keep.next().unwrap_or(false);
            if keep && durable.contains_key(p.change.directory()) {
                p.change.apply(durable);
                return false;
            }
            keep || p.change.directory() != dir
        });
    }

    /// The names after a crash.
    pub fn image(&self, fate: &mut Fate<'_>) -> Self {
        let mut map = self.durable.clone();
        let mut keep: Vec<bool> = Vec::with_capacity(self.pending.len());
        for p in &self.pending {
            keep.push(match fate {
                Fate::Kept => true,
                Fate::Lost => p.synced,
                Fate::Chance(rng) => p.synced | rng.percent(50),
            });
        }
        self.close(&mut keep);
        for (p, keep) in self.pending.iter().zip(keep) {
            // A name in a directory that was lost is lost; a file that was to be moved there stays.
            if keep && map.contains_key(p.change.directory()) {
                p.change.apply(&mut map);
            }
        }
        Self { written: map.clone(), durable: map, pending: Vec::new() }
    }

    /// Is the file to be found under any name, before or after a crash?
    pub fn reaches(&self, id: FileId) -> bool {
        let entry = Entry::File(id);
        self.written.values().chain(self.durable.values()).any(|e| *e == entry)
            || self.pending.iter().any(|p| match &p.change {
                Change::Add { entry: added, .. } => *added == entry,
                Change::Remove { .. } => false,
                Change::Rename { id: renamed, .. } => *renamed == id,
            })
    }

    /// A name that was changed twice can't show the later change without the earlier one.
    fn close(&self, keep: &mut [bool]) {
        for later in (0..keep.len()).rev() {
            if keep[later] {
                let paths = self.pending[later].change.paths();
                for (p, keep) in self.pending.iter().zip(&mut keep[..later]) {
                    *keep |= p.change.paths().iter().any(|path| paths.contains(path));
                }
            }
        }
    }
}
