//! What a person sets: when versions are made and which are kept, by path. Where it is written down is not known here.

use std::collections::BTreeMap;

use crate::{
    base::{Ino, Result},
    format::rows::{after_prefix, key, kind},
};

use super::{Policy, Retention, Store};

/// When a version of a file is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Making {
    /// When a file that was written is closed.
    #[default]
    Close,
    /// At each fsync, too.
    Fsync,
    /// Also while it is open: at most one in so many nanoseconds.
    Every(u64),
    /// None: what is overwritten or deleted is gone at once.
    Never,
}

impl Making {
    /// Of a file with several names, the one that makes the most versions counts.
    fn rank(self) -> (u8, u64) {
        match self {
            Self::Never => (0, 0),
            Self::Close => (1, 0),
            Self::Every(ns) => (2, u64::MAX - ns),
            Self::Fsync => (3, 0),
        }
    }
}

/// Values by path: of the paths that have one, the longest counts that a path is at or below.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ByPath<T> {
    /// Whole components, from the root: `/a/b` is meant for `/a/b` and what is below; `/` for everything.
    pub rules: BTreeMap<Vec<u8>, T>,
}

impl<T> Default for ByPath<T> {
    fn default() -> Self {
        Self { rules: BTreeMap::new() }
    }
}

impl<T> ByPath<T> {
    /// The rule for a path: where it is from, and what it says.
    #[must_use]
    pub fn of(&self, path: &[u8]) -> Option<(&[u8], &T)> {
        let covers = |prefix: &[u8]| {
            let prefix = prefix.strip_suffix(b"/").unwrap_or(prefix);
            path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest[0] == b'/')
        };
        let best = self.rules.iter().filter(|(p, _)| covers(p)).max_by_key(|(p, _)| p.len());
        best.map(|(prefix, value)| (prefix.as_slice(), value))
    }
}

/// All of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// When versions are made.
    pub making: ByPath<Making>,
    /// Which are kept.
    pub retention: Retention,
    /// When the disk gets short of space, do the oldest versions go that nothing needs?
    pub history_yields: bool,
    /// Log that peers have not had yet is kept, though it is dead, as long as it is no more than so many bytes.
    pub for_peers_bytes: u64,
    /// Reading everything again, to find what has rotted.
    pub scrubs: Scrubs,
}

/// How often a mount reads everything by itself, and how fast.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scrubs {
    /// So long after the last time, in nanoseconds; `None`: never.
    pub every_ns: Option<u64>,
    /// Bytes in a second.
    pub rate_bytes: u64,
}

impl Default for Scrubs {
    fn default() -> Self {
        Self { every_ns: Some(30 * 24 * 3600 * 1_000_000_000), rate_bytes: 20 << 20 }
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            making: ByPath::default(),
            retention: Retention::default(),
            history_yields: true,
            for_peers_bytes: 1 << 30,
            scrubs: Scrubs::default(),
        }
    }
}

impl Settings {
    /// As long as nobody has said what to keep: everything, as far as there is space.
    #[must_use]
    pub fn keep_all() -> Self {
        Self { retention: Retention::everywhere(Policy::All), ..Self::default() }
    }

    /// When a version of what lies at a path is made.
    #[must_use]
    pub fn making_at(&self, path: &[u8]) -> Making {
        self.making.of(path).map(|(_, making)| *making).unwrap_or_default()
    }

    /// Is a version made at each close, and only then, wherever a file lies?
    #[must_use]
    pub fn makes_at_close_only(&self) -> bool {
        self.making.rules.values().all(|making| *making == Making::Close)
    }
}

impl Store {
    /// When the store was made, ns since 1970.
    #[must_use]
    pub fn created_ns(&self) -> u64 {
        self.created_ns
    }

    /// What is set now.
    #[must_use]
    pub fn settings(&self) -> Settings {
        self.settings.read().as_ref().clone()
    }

    /// Sets everything anew, from now on. Not written to disk: whoever opens the store says it.
    pub fn set_settings(&self, settings: Settings) {
        *self.settings.write() = settings.into();
        // Versions that yield by the settings before have gone once this returns.
        drop(self.yielding.lock());
    }

    /// Sets what is kept from now on.
    pub fn set_retention(&self, retention: Retention) {
        let mut settings = self.settings.write();
        *settings = Settings { retention, ..settings.as_ref().clone() }.into();
    }

    /// Are versions made while a file is open, anywhere?
    #[must_use]
    pub fn makes_while_open(&self) -> bool {
        self.settings.read().making.rules.values().any(|making| matches!(making, Making::Every(_)))
    }

    /// Are versions made wherever a file lies?
    #[must_use]
    pub fn makes_everywhere(&self) -> bool {
        self.settings.read().making.rules.values().all(|making| *making != Making::Never)
    }

    /// Files that show what no version has, from this one on, at most `limit`.
    ///
    /// # Errors
    /// What reading the index says.
    pub fn drafts(&self, from: Ino, limit: usize) -> Result<Vec<Ino>> {
        let found = self.index.scan(&key::listed(kind::DRAFT, from), &after_prefix(&[kind::DRAFT]), limit)?;
        Ok(found.iter().filter_map(|(k, _)| key::ino_of(k)).collect())
    }

    /// When a version of this file is made, by where it lies now.
    ///
    /// # Errors
    /// What reading the index says.
    pub fn making_of(&self, ino: Ino) -> Result<Making> {
        let settings = std::sync::Arc::clone(&self.settings.read());
        if settings.makes_at_close_only() {
            return Ok(Making::Close);
        }
        let Some(object) = self.object_row(ino, None)? else { return Ok(Making::Close) };
        let paths = self.paths_of(ino, &object)?;
        let most = paths.iter().map(|path| settings.making_at(path)).max_by_key(|making| making.rank());
        Ok(most.unwrap_or_default())
    }

    /// Every path at which an object can be found now; of one that has no name any more, where it was last.
    ///
    /// # Errors
    /// [`crate::base::FsError::NotFound`], or what reading the index says.
    pub fn paths(&self, ino: Ino) -> Result<Vec<Vec<u8>>> {
        let object = self.object_row(ino, None)?.ok_or(crate::base::FsError::NotFound)?;
        self.paths_of(ino, &object)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_prefix_counts_and_only_whole_components() {
        let rules = [("/", Making::Close), ("/a", Making::Fsync), ("/a/b/", Making::Never)];
        let by = ByPath { rules: rules.into_iter().map(|(p, m)| (p.as_bytes().to_vec(), m)).collect() };
        let of = |path: &str| by.of(path.as_bytes()).map(|(p, m)| (std::str::from_utf8(p).unwrap(), *m));
        assert_eq!(of("/x"), Some(("/", Making::Close)));
        assert_eq!(of("/a/x"), Some(("/a", Making::Fsync)));
        assert_eq!(of("/ab"), Some(("/", Making::Close)));
        assert_eq!(of("/a/b/c"), Some(("/a/b/", Making::Never)));
        assert_eq!(of("/a/b"), Some(("/a/b/", Making::Never)));
        assert_eq!(ByPath::<Making>::default().of(b"/q"), None);
        let settings = Settings { making: by, ..Settings::default() };
        assert!(!settings.makes_at_close_only() && Settings::default().makes_at_close_only());
        assert_eq!(settings.making_at(b"/a/b/c"), Making::Never);
    }

    #[test]
    fn of_several_names_the_one_counts_that_makes_most() {
        let mut all = [Making::Fsync, Making::Never, Making::Every(5), Making::Close, Making::Every(9)];
        all.sort_by_key(|making| making.rank());
        let sorted = [Making::Never, Making::Close, Making::Every(9), Making::Every(5), Making::Fsync];
        assert_eq!(all, sorted);
    }
}
