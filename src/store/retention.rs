//! Retention: which versions of a file are kept, by where it lies, and the steps in which the others go.

use std::collections::BTreeMap;

use crate::{
    base::{Ino, Lsn, Result},
    format::rows::{ObjectRow, VersionRow, after_prefix, key, kind},
};

use super::{Store, remove::Doomed, txn::row};

const SECOND: u64 = 1_000_000_000;
const DAY: u64 = 24 * 3600 * SECOND;
/// Objects looked at in one step.
const OBJECTS: usize = 1024;
/// Versions looked at in one step, of the object at which it ends all of them.
const VERSIONS: usize = 4096;
/// Files remembered that got a version.
const RIPE: usize = 1 << 16;
/// Directories above an object that are followed to tell its path.
const DEPTH: usize = 4096;

/// A stretch of the past in which one version of each interval is kept: the last one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Thinning {
    /// Versions that were the newest up to this long ago, in nanoseconds; the last stretch usually has no end.
    pub within_ns: u64,
    /// One in each interval of this length, in nanoseconds; 0: every version.
    pub every_ns: u64,
}

/// What is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Policy {
    /// Every version.
    All,
    /// The last so many versions, the present one included.
    Last(u32),
    /// Versions that were the newest at some time within this long, in nanoseconds.
    Age(u64),
    /// Fewer and fewer, the farther back; the stretches in order, nearest first.
    Thin(Vec<Thinning>),
    /// The present only.
    Never,
}

impl Default for Policy {
    /// Everything for 30 days, then one version a day for a year, then one a month.
    fn default() -> Self {
        Self::Thin(vec![
            Thinning { within_ns: 30 * DAY, every_ns: 0 },
            Thinning { within_ns: 365 * DAY, every_ns: DAY },
            Thinning { within_ns: u64::MAX, every_ns: 30 * DAY },
        ])
    }
}

/// Policies by path: the longest prefix counts. `/` is the root.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Retention {
    /// Whole components, from the root: `/a/b` is meant for `/a/b` and what is below.
    pub by_prefix: BTreeMap<Vec<u8>, Policy>,
}

impl Retention {
    /// One policy for all.
    #[must_use]
    pub fn everywhere(policy: Policy) -> Self {
        Self { by_prefix: [(b"/".to_vec(), policy)].into() }
    }

    /// The policy for a path.
    #[must_use]
    pub fn of(&self, path: &[u8]) -> Policy {
        let covers = |prefix: &[u8]| {
            let prefix = prefix.strip_suffix(b"/").unwrap_or(prefix);
            path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest[0] == b'/')
        };
        let best = self.by_prefix.iter().filter(|(p, _)| covers(p)).max_by_key(|(p, _)| p.len());
        best.map(|(_, policy)| policy.clone()).unwrap_or_default()
    }
}

/// A version as a policy sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Life {
    /// When it was made, ns since 1970.
    pub created_ns: u64,
    /// When something took its place; `None`: it is the present.
    pub ended_ns: Option<u64>,
}

impl Policy {
    /// Which of the versions of one file, oldest first, this policy keeps.
    #[must_use]
    pub fn keeps(&self, versions: &[Life], now_ns: u64) -> Vec<bool> {
        let ago = |v: &Life| v.ended_ns.map_or(0, |ended| now_ns.saturating_sub(ended));
        match self {
            Self::All => vec![true; versions.len()],
            Self::Last(n) => {
                let first = versions.len().saturating_sub(*n as usize);
                versions.iter().enumerate().map(|(i, v)| i >= first || v.ended_ns.is_none()).collect()
            }
            Self::Age(age) => versions.iter().map(|v| v.ended_ns.is_none() || ago(v) < *age).collect(),
            Self::Never => versions.iter().map(|v| v.ended_ns.is_none()).collect(),
            Self::Thin(stretches) => {
                let every = |v: &Life| stretches.iter().find(|s| ago(v) < s.within_ns).map(|s| s.every_ns);
                let bucket = |v: &Life| every(v).map(|every| (every, v.created_ns.checked_div(every)));
                versions
                    .iter()
                    .enumerate()
                    .map(|(i, v)| match bucket(v) {
                        _ if v.ended_ns.is_none() => true,
                        None => false,
                        Some((0, _)) => true,
                        // The landmark of a burst is its last version.
                        b => versions.get(i + 1).is_none_or(|next| bucket(next) != b),
                    })
                    .collect()
            }
        }
    }
}

impl Policy {
    /// Of a policy that counts versions: how many of the newest it keeps.
    #[must_use]
    pub fn newest(&self) -> Option<usize> {
        match self {
            Self::Last(n) => Some((*n).max(1) as usize),
            Self::Never => Some(1),
            Self::All | Self::Age(_) | Self::Thin(_) => None,
        }
    }
}

impl Store {
    /// A file got a version: where policies count versions, another one may go at once.
    pub(super) fn note_version(&self, ino: Ino) {
        if self.options.read_only {
            return;
        }
        let mut ripe = self.ripe.lock();
        // What does not fit waits for the sweep over everything.
        if ripe.len() < RIPE {
            ripe.insert(ino);
        }
    }

    /// Of files that got a version since the last time, lets go what policies that count versions do not keep. Says whether
    /// there is more to do.
    ///
    /// # Errors
    /// What log and index say.
    pub(super) fn drop_surplus(&self) -> Result<bool> {
        let (some, more) = {
            let mut ripe = self.ripe.lock();
            let rest = ripe.iter().nth(OBJECTS).copied().map(|first| ripe.split_off(&first));
            let some = std::mem::replace(&mut *ripe, rest.unwrap_or_default());
            (some, !ripe.is_empty())
        };
        let retention = self.retention.lock().clone();
        let mut doomed = Vec::new();
        for ino in some {
            let Some(object) = self.object_row(ino, None)? else { continue };
            let mut keep = Some(1);
            for path in self.paths_of(ino, &object)? {
                keep = keep.zip(retention.of(&path).newest()).map(|(a, b)| a.max(b));
            }
            let Some(keep) = keep else { continue };
            let (start, end) = (key::version(ino, Lsn::new(0)), key::version(ino, Lsn::MAX));
            for (k, bytes) in self.index.scan_back(&start, &end, keep + VERSIONS)?.iter().skip(keep) {
                doomed.push(Doomed { ino, id: row::<VersionRow>(k, bytes)?.id });
            }
        }
        let gone = self.remove_versions(&doomed, self.clock.wall_ns())?;
        self.surplus.fetch_add(gone, std::sync::atomic::Ordering::Relaxed);
        Ok(more)
    }
}

impl Store {
    /// Sets what is kept from now on. Not written to disk: whoever opens the store says it.
    pub fn set_retention(&self, retention: Retention) {
        *self.retention.lock() = retention;
    }

    /// What is kept of the files below a path.
    #[must_use]
    pub fn retention_for(&self, path: &[u8]) -> Policy {
        self.retention.lock().of(path)
    }

    /// One step of letting go what no policy keeps: looks at some objects from `from` on and removes versions. Returns how many went,
    /// and where to go on; `None` at the end.
    ///
    /// # Errors
    /// What log and index say.
    pub fn expire(&self, from: Ino, now_ns: u64) -> Result<(u64, Option<Ino>)> {
        let (doomed, next) = self.doomed(from, now_ns)?;
        Ok((self.remove_versions(&doomed, now_ns)?, next))
    }

    /// What no policy keeps of some objects from `from` on, and where to go on; what has to stay all the same is among it.
    pub(super) fn doomed(&self, from: Ino, now_ns: u64) -> Result<(Vec<Doomed>, Option<Ino>)> {
        let retention = self.retention.lock().clone();
        let mut doomed = Vec::new();
        let (mut at, mut seen) = (from, 0);
        for _ in 0..OBJECTS {
            let first =
                self.index.scan(&key::version(at, Lsn::new(0)), &after_prefix(&[kind::VERSION]), 1)?;
            let Some(ino) = first.first().and_then(|(k, _)| key::ino_of(k)) else {
                return Ok((doomed, None));
            };
            seen += self.doom(ino, &retention, now_ns, &mut doomed)?;
            at = ino.next();
            if seen >= VERSIONS || doomed.len() >= VERSIONS {
                break;
            }
        }
        Ok((doomed, Some(at)))
    }

    /// Adds what may go of one object; says how many versions it has.
    fn doom(&self, ino: Ino, retention: &Retention, now_ns: u64, doomed: &mut Vec<Doomed>) -> Result<usize> {
        let Some(object) = self.object_row(ino, None)? else { return Ok(0) };
        let versions = self.version_lives(ino, &object)?;
        if versions.len() == 1 && versions[0].2.ended_ns.is_none() {
            return Ok(1);
        }
        let lives: Vec<Life> = versions.iter().map(|v| v.2).collect();
        let here = self.paths_of(ino, &object)?;
        let mut keep = vec![false; lives.len()];
        for path in here {
            for (k, more) in keep.iter_mut().zip(retention.of(&path).keeps(&lives, now_ns)) {
                *k |= more;
            }
        }
        for ((_, id, _), keep) in versions.iter().zip(keep) {
            if !keep {
                doomed.push(Doomed { ino, id: *id });
            }
        }
        Ok(versions.len())
    }

    fn version_lives(
        &self,
        ino: Ino,
        object: &ObjectRow,
    ) -> Result<Vec<(Lsn, crate::base::VersionId, Life)>> {
        let mut found: Vec<(Lsn, crate::base::VersionId, Life)> = Vec::new();
        let (start, end) = (key::version(ino, Lsn::new(0)), key::version(ino, Lsn::MAX));
        for (k, bytes) in self.index.scan(&start, &end, usize::MAX)? {
            let v: VersionRow = row(&k, &bytes)?;
            if let Some(last) = found.last_mut() {
                last.2.ended_ns = Some(v.created_ns.max(last.2.created_ns));
            }
            let at = Lsn::new(key::last_number(&k).unwrap_or(0));
            found.push((at, v.id, Life { created_ns: v.created_ns, ended_ns: None }));
        }
        // What no name shows ended when it lost the last one.
        if object.attributes.links == 0
            && let Some(last) = found.last_mut()
        {
            last.2.ended_ns = Some(object.attributes.changed);
        }
        Ok(found)
    }

    /// Every path at which a name shows an object; of one that has no name any more, the last.
    pub(super) fn paths_of(&self, ino: Ino, object: &ObjectRow) -> Result<Vec<Vec<u8>>> {
        let mut links = Vec::new();
        if let Some(link) = &object.attributes.link {
            links.push(link.clone());
        }
        if object.attributes.more_links {
            let prefix = key::object_links(ino, None);
            for (k, _) in self.index.scan(&prefix, &after_prefix(&prefix), usize::MAX)? {
                let Some(id) = k.last_chunk::<16>() else { continue };
                let k = key::register(crate::base::LinkId::new(u128::from_be_bytes(*id)));
                if let Some(bytes) = self.index.get(&k)? {
                    links.push(row(&k, &bytes)?);
                }
            }
        }
        let shown = links.iter().any(|l| l.placed.is_some());
        let mut paths = Vec::new();
        for link in links.iter().filter(|l| l.placed.is_some() == shown) {
            let mut parts = vec![link.name.clone()];
            let mut dir = link.placed.unwrap_or(link.parent);
            while dir != Ino::FIRST && parts.len() < DEPTH {
                let Some(above) = self.object_row(dir, None)?.and_then(|o| o.attributes.link) else { break };
                debug_assert!(parts.len() < DEPTH);
                parts.push(above.name);
                dir = above.placed.unwrap_or(above.parent);
            }
            parts.reverse();
            let mut path = Vec::new();
            for part in parts {
                path.push(b'/');
                path.extend(part);
            }
            paths.push(path);
        }
        if paths.is_empty() {
            paths.push(b"/".to_vec());
        }
        Ok(paths)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Versions made at these days, each ended by the next; the last one is the present.
    fn made_on(days: &[u64]) -> Vec<Life> {
        let life = |i: usize| Life {
            created_ns: days[i] * DAY / 10,
            ended_ns: days.get(i + 1).map(|d| d * DAY / 10),
        };
        (0..days.len()).map(life).collect()
    }

    #[test]
    fn each_policy_keeps_what_it_says() {
        // Tenths of days.
        let v = made_on(&[10, 12, 14, 25, 31, 40]);
        let now = 45 * DAY / 10;
        let keeps = |p: Policy| p.keeps(&v, now);
        assert_eq!(keeps(Policy::All), [true; 6]);
        assert_eq!(keeps(Policy::Last(2)), [false, false, false, false, true, true]);
        assert_eq!(keeps(Policy::Never), [false, false, false, false, false, true]);
        // Ended 3.3, 3.1, 2.0, 1.4 and 0.5 days ago.
        assert_eq!(keeps(Policy::Age(2 * DAY)), [false, false, false, true, true, true]);
        let thin = Policy::Thin(vec![
            Thinning { within_ns: DAY, every_ns: 0 },
            Thinning { within_ns: u64::MAX, every_ns: DAY },
        ]);
        // Of the burst of the first day its last.
        assert_eq!(keeps(thin), [false, false, true, true, true, true]);
        let ends = Policy::Thin(vec![Thinning { within_ns: 2 * DAY, every_ns: 0 }]);
        assert_eq!(keeps(ends), [false, false, false, true, true, true]);
    }

    #[test]
    fn the_longest_prefix_counts_and_only_whole_components() {
        let r = Retention {
            by_prefix: [
                (b"/".to_vec(), Policy::All),
                (b"/a".to_vec(), Policy::Last(3)),
                (b"/a/b/".to_vec(), Policy::Never),
            ]
            .into(),
        };
        assert_eq!(r.of(b"/x"), Policy::All);
        assert_eq!(r.of(b"/a/x"), Policy::Last(3));
        assert_eq!(r.of(b"/ab"), Policy::All);
        assert_eq!(r.of(b"/a/b/c"), Policy::Never);
        assert_eq!(r.of(b"/a/b"), Policy::Never);
        assert_eq!(Retention::default().of(b"/q"), Policy::default());
    }
}
