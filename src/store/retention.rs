//! Retention: which versions of a file are kept, by where it lies, and the steps in which the others go.

use std::collections::BTreeMap;

use crate::{
    base::{Ino, Lsn, Result, VersionId},
    format::rows::{ObjectRow, VersionRow, after_prefix, key, kind},
};

use super::{Store, ops::created_of, remove::Doomed, txn::row};

const SECOND: u64 = 1_000_000_000;
const DAY: u64 = 24 * 3600 * SECOND;
/// Objects looked at in one step.
const OBJECTS: usize = 1024;
/// Versions looked at in one step, of the object at which it ends all of them.
const VERSIONS: usize = 4096;
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

/// Versions of one object in the order in which they were made, each ended by the next: the same on every store that has
/// them, whichever came first.
fn one_after_the_other(versions: &mut [(Lsn, VersionId, Life)]) {
    versions.sort_by_key(|(_, id, life)| (life.created_ns, *id));
    let made: Vec<u64> = versions.iter().map(|v| v.2.created_ns).collect();
    for (n, v) in versions.iter_mut().enumerate() {
        v.2.ended_ns = made.get(n + 1).copied();
    }
}

impl Store {
    /// Sets what is kept from now on. Not written to disk: whoever opens the store says it.
    pub fn set_retention(&self, retention: Retention) {
        self.retention.lock().0 = retention;
    }

    /// What is kept of the files below a path.
    #[must_use]
    pub fn retention_for(&self, path: &[u8]) -> Policy {
        self.retention.lock().0.of(path)
    }

    /// One step of letting go what no policy keeps: looks at some objects from `from` on and removes versions. Returns how many went,
    /// and where to go on; `None` at the end.
    ///
    /// # Errors
    /// What log and index say.
    pub fn expire(&self, from: Ino, now_ns: u64) -> Result<(u64, Option<Ino>)> {
        let retention = self.retention.lock().0.clone();
        let mut doomed = Vec::new();
        let (mut at, mut seen) = (from, 0);
        for _ in 0..OBJECTS {
            let first =
                self.index.scan(&key::version(at, Lsn::new(0)), &after_prefix(&[kind::VERSION]), 1)?;
            let Some(ino) = first.first().and_then(|(k, _)| key::ino_of(k)) else {
                return Ok((self.remove_versions(&doomed, now_ns)?, None));
            };
            seen += self.doom(ino, &retention, now_ns, &mut doomed)?;
            at = ino.next();
            if seen >= VERSIONS || doomed.len() >= VERSIONS {
                break;
            }
        }
        Ok((self.remove_versions(&doomed, now_ns)?, Some(at)))
    }

    /// Says up to which LSN every member of a two-way group has acknowledged this store's log; 0: there are no members. Of each
    /// object the newest version up to there, on which edits may rest that have not come yet, is kept whatever a policy says.
    /// Not written to disk.
    pub fn set_acknowledged(&self, upto: Lsn) {
        self.retention.lock().1 = upto;
    }

    /// Which of these versions, of an object that has others here, would be kept; as if they came now.
    pub(super) fn wanted(
        &self,
        ino: Ino,
        object: &ObjectRow,
        of: &[(VersionId, u64)],
        now_ns: u64,
    ) -> Result<Vec<bool>> {
        let mut lives = self.version_lives(ino, object)?;
        lives.extend(
            of.iter()
                .map(|(id, created_ns)| (Lsn::MAX, *id, Life { created_ns: *created_ns, ended_ns: None })),
        );
        one_after_the_other(&mut lives);
        let retention = self.retention.lock().0.clone();
        let keep = self.kept(ino, object, &retention, &lives, now_ns)?;
        let kept = |id: &VersionId| lives.iter().zip(&keep).any(|(v, keep)| v.1 == *id && *keep);
        Ok(of.iter().map(|(id, _)| kept(id)).collect())
    }

    /// Which of an object's versions some policy for a path of it keeps.
    fn kept(
        &self,
        ino: Ino,
        object: &ObjectRow,
        retention: &Retention,
        versions: &[(Lsn, VersionId, Life)],
        now_ns: u64,
    ) -> Result<Vec<bool>> {
        let lives: Vec<Life> = versions.iter().map(|v| v.2).collect();
        let mut keep = vec![false; lives.len()];
        for path in self.paths_of(ino, object)? {
            for (k, more) in keep.iter_mut().zip(retention.of(&path).keeps(&lives, now_ns)) {
                *k |= more;
            }
        }
        Ok(keep)
    }

    /// Adds those versions of an object that lack their content and are not wanted any more.
    fn doom_lacking(
        &self,
        ino: Ino,
        object: &ObjectRow,
        now_ns: u64,
        doomed: &mut Vec<Doomed>,
    ) -> Result<()> {
        let prefix = key::lacking(ino, None);
        let rows = self.index.scan(&prefix, &after_prefix(&prefix), VERSIONS)?;
        let ids = rows.iter().filter_map(|(k, _)| key::lacking_version(k));
        let of: Vec<_> = ids.map(|id| (id, created_of(id).unwrap_or(0))).collect();
        if of.is_empty() {
            return Ok(());
        }
        let wanted = self.wanted(ino, object, &of, now_ns)?;
        let unwanted = of.iter().zip(wanted).filter(|(_, wanted)| !wanted);
        doomed.extend(unwanted.map(|((id, _), _)| Doomed { ino, id: *id }));
        Ok(())
    }

    /// Adds what may go of one object; says how many versions it has.
    fn doom(&self, ino: Ino, retention: &Retention, now_ns: u64, doomed: &mut Vec<Doomed>) -> Result<usize> {
        let Some(object) = self.object_row(ino, None)? else { return Ok(0) };
        let versions = self.version_lives(ino, &object)?;
        self.doom_lacking(ino, &object, now_ns, doomed)?;
        if versions.len() == 1 && versions[0].2.ended_ns.is_none() {
            return Ok(1);
        }
        let keep = self.kept(ino, &object, retention, &versions, now_ns)?;
        let acknowledged = self.retention.lock().1;
        let common = versions.iter().filter(|v| v.0 <= acknowledged).map(|v| (v.2.created_ns, v.1)).max();
        for ((_, id, life), keep) in versions.iter().zip(keep) {
            if !keep && Some((life.created_ns, *id)) != common {
                doomed.push(Doomed { ino, id: *id });
            }
        }
        Ok(versions.len())
    }

    fn version_lives(&self, ino: Ino, object: &ObjectRow) -> Result<Vec<(Lsn, VersionId, Life)>> {
        let mut found: Vec<(Lsn, VersionId, Life)> = Vec::new();
        let (start, end) = (key::version(ino, Lsn::new(0)), key::version(ino, Lsn::MAX));
        for (k, bytes) in self.index.scan(&start, &end, usize::MAX)? {
            let v: VersionRow = row(&k, &bytes)?;
            let at = Lsn::new(key::last_number(&k).unwrap_or(0));
            found.push((at, v.id, Life { created_ns: v.created_ns, ended_ns: None }));
        }
        one_after_the_other(&mut found);
        // What no name shows ended when it lost the last one.
        if object.attributes.links == 0
            && let Some(last) = found.last_mut()
        {
            last.2.ended_ns = Some(object.attributes.changed);
        }
        Ok(found)
    }

    /// Every path at which a name shows an object; of one that has no name any more, the last.
    fn paths_of(&self, ino: Ino, object: &ObjectRow) -> Result<Vec<Vec<u8>>> {
        let mut links = Vec::new();
        if let Some(link) = &object.attributes.link {
            links.push(link.clone());
        }
        for slot in 0..object.attributes.further {
            let k = key::object_links(ino, slot);
            if let Some(bytes) = self.index.get(&k)? {
                let k = key::register(row(&k, &bytes)?);
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
