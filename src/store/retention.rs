//! Retention: which versions of a file are kept, and the steps in which the others go.
//!
//! A version is kept as long as the rule for the path where it was made keeps it, or the rule for any path that shows its file
//! now. Where it was made is not written down: names and directories have a history, which says it.

use std::{collections::BTreeMap, sync::Arc};

use crate::{
    base::{Ino, Lsn, Result, VersionId},
    format::rows::{LackingRow, ObjectRow, VersionRow, after_prefix, key, kind},
};

use super::{Store, ops::created_of, paths::Lay, remove::Doomed, settings::ByPath, txn::row};

const SECOND: u64 = 1_000_000_000;
const DAY: u64 = 24 * 3600 * SECOND;
/// Objects looked at in one step.
const OBJECTS: usize = 1024;
/// Versions looked at in one step, of the object at which it ends all of them.
const VERSIONS: usize = 4096;
/// Files remembered that got a version.
const RIPE: usize = 1 << 16;

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

/// Policies by path.
pub type Retention = ByPath<Policy>;

impl Retention {
    /// One policy for all.
    #[must_use]
    pub fn everywhere(policy: Policy) -> Self {
        Self { rules: [(b"/".to_vec(), policy)].into() }
    }

    /// The policy for a path.
    #[must_use]
    pub fn policy(&self, path: &[u8]) -> Policy {
        self.of(path).map(|(_, policy)| policy.clone()).unwrap_or_default()
    }

    /// Does one policy hold wherever a file lies?
    fn is_uniform(&self) -> bool {
        match self.rules.get(&b"/"[..]) {
            Some(all) => self.rules.values().all(|policy| policy == all),
            None => self.rules.values().all(|policy| *policy == Policy::default()),
        }
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
        let now = self.expiry();
        if now.ahead_ns.is_some() {
            // Nothing expires now; what is remembered waits.
            return Ok(false);
        }
        let (some, more) = {
            let mut ripe = self.ripe.lock();
            let rest = ripe.iter().nth(OBJECTS).copied().map(|first| ripe.split_off(&first));
            let some = std::mem::replace(&mut *ripe, rest.unwrap_or_default());
            (some, !ripe.is_empty())
        };
        let settings = Arc::clone(&self.settings.read());
        let mut doomed = Vec::new();
        for ino in some {
            let Some(object) = self.object_row(ino, None)? else { continue };
            let mut keep = Some(1);
            for path in self.paths_of(ino, &object)? {
                keep = keep.zip(settings.retention.policy(&path).newest()).map(|(a, b)| a.max(b));
            }
            let Some(keep) = keep else { continue };
            let (start, end) = (key::version(ino, Lsn::new(0)), key::version(ino, Lsn::MAX));
            if self.index.scan_back(&start, &end, keep + 1)?.len() > keep {
                // What stays all the same, for another rule or another store, is known there.
                self.doom(ino, &settings.retention, now.time_ns, &mut doomed)?;
            }
        }
        let gone = self.remove_versions(&doomed, now.time_ns)?;
        self.surplus.fetch_add(gone, std::sync::atomic::Ordering::Relaxed);
        Ok(more)
    }
}

/// Versions of one object in the order in which they were made, each ended by the next: the same on every store that has
/// them, whichever came first.
fn one_after_the_other(versions: &mut [Held]) {
    versions.sort_by_key(|v| (v.life.created_ns, v.id));
    let made: Vec<u64> = versions.iter().map(|v| v.life.created_ns).collect();
    for (n, v) in versions.iter_mut().enumerate() {
        v.life.ended_ns = made.get(n + 1).copied();
    }
}

impl Store {
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
        let settings = Arc::clone(&self.settings.read());
        let retention = &settings.retention;
        let mut doomed = Vec::new();
        let (mut at, mut seen) = (from, 0);
        for _ in 0..OBJECTS {
            let first =
                self.index.scan(&key::version(at, Lsn::new(0)), &after_prefix(&[kind::VERSION]), 1)?;
            let Some(ino) = first.first().and_then(|(k, _)| key::ino_of(k)) else {
                return Ok((doomed, None));
            };
            seen += self.doom(ino, retention, now_ns, &mut doomed)?;
            at = ino.next();
            if seen >= VERSIONS || doomed.len() >= VERSIONS {
                break;
            }
        }
        Ok((doomed, Some(at)))
    }

    /// Says up to which LSN every member of a two-way group has acknowledged this store's log; 0: there are no members. Of each
    /// object the newest version up to there, on which edits may rest that have not come yet, is kept whatever a policy says.
    /// Not written to disk.
    pub fn set_acknowledged(&self, upto: Lsn) {
        *self.acknowledged.lock() = upto;
    }

    /// Says from which LSN on some peer has not had this store's log yet; none: there are no peers. The cleaner leaves it there, up to what
    /// the settings say; past that, and where the disk gets short of space, the peer is told the index. Not written to disk.
    pub fn set_needed(&self, from: Option<Lsn>) {
        *self.needed.lock() = from;
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
        let came = |(id, created_ns): &(VersionId, u64)| Held {
            at: self.log.last_lsn(),
            id: *id,
            stamp_ns: *created_ns,
            life: Life { created_ns: *created_ns, ended_ns: None },
        };
        lives.extend(of.iter().map(came));
        one_after_the_other(&mut lives);
        let settings = Arc::clone(&self.settings.read());
        let keep = self.kept(ino, object, &settings.retention, &lives, now_ns)?;
        let kept = |id: &VersionId| lives.iter().zip(&keep).any(|(v, keep)| v.id == *id && *keep);
        Ok(of.iter().map(|(id, _)| kept(id)).collect())
    }

    /// Which of an object's versions some rule for a path of it keeps.
    fn kept(
        &self,
        ino: Ino,
        object: &ObjectRow,
        retention: &Retention,
        versions: &[Held],
        now_ns: u64,
    ) -> Result<Vec<bool>> {
        let lives: Vec<Life> = versions.iter().map(|v| v.life).collect();
        let mut keeping = Keeping { retention, lives: &lives, now_ns, by_rule: BTreeMap::new() };
        let mut keep = vec![false; lives.len()];
        for path in self.paths_of(ino, object)? {
            for (k, more) in keep.iter_mut().zip(keeping.at(&path)) {
                *k |= more;
            }
        }
        if !retention.is_uniform() {
            self.keep_where_made(ino, versions, &mut keeping, &mut keep)?;
        }
        Ok(keep)
    }

    /// Adds those versions of an object that lack their content and are not wanted any more. One that no head includes will be a
    /// head itself once its content comes: an edit that nothing took up yet.
    fn doom_lacking(
        &self,
        ino: Ino,
        object: &ObjectRow,
        now_ns: u64,
        doomed: &mut Vec<Doomed>,
    ) -> Result<()> {
        let prefix = key::lacking(ino, None);
        let rows = self.index.scan(&prefix, &after_prefix(&prefix), VERSIONS)?;
        let mut of = Vec::with_capacity(rows.len());
        for (k, bytes) in &rows {
            let (known, id) = (row::<LackingRow>(k, bytes)?.version, key::lacking_version(k));
            let over = match &known {
                Some(w) => self.is_included(ino, object, &w.version)?,
                // Known by its id alone, since whoever told of it removed it.
                None => true,
            };
            of.extend(id.filter(|_| over).map(|id| (id, created_of(id).unwrap_or(0))));
        }
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
        if versions.len() == 1 && versions[0].life.ended_ns.is_none() {
            return Ok(1);
        }
        let mut keep = self.kept(ino, &object, retention, &versions, now_ns)?;
        let acknowledged = *self.acknowledged.lock();
        if let Some(common) = versions.iter().rposition(|v| v.at <= acknowledged) {
            keep[common] = true;
        }
        let gone = versions.iter().zip(keep).filter(|(_, keep)| !keep);
        doomed.extend(gone.map(|(version, _)| Doomed { ino, id: version.id }));
        Ok(versions.len())
    }

    /// Of the versions that no present path keeps, those stay that are kept where they were made. Looked at from the newest
    /// on, so that a path is looked up once for all versions that were made while the file lay there.
    fn keep_where_made(
        &self,
        ino: Ino,
        versions: &[Held],
        keeping: &mut Keeping<'_>,
        keep: &mut [bool],
    ) -> Result<()> {
        let mut lay: Option<(Lay, Lsn)> = None;
        for (n, version) in versions.iter().enumerate().rev().filter(|(n, _)| !keep[*n]).collect::<Vec<_>>() {
            let there = match lay.take() {
                // Versions may have come in another order than that in which they were made.
                Some((lay, upto)) if lay.since <= version.at && version.at <= upto => lay,
                _ => self.paths_at(ino, version.at, version.stamp_ns)?,
            };
            keep[n] = there.paths.iter().any(|path| keeping.at(path)[n])
                || there.elsewhere && keeping.retention.rules.keys().any(|path| keeping.at(path)[n]);
            lay = Some((there, version.at));
        }
        Ok(())
    }

    /// The versions of an object, oldest first.
    fn version_lives(&self, ino: Ino, object: &ObjectRow) -> Result<Vec<Held>> {
        let mut found: Vec<Held> = Vec::new();
        let (mut start, end) = (key::version(ino, Lsn::new(0)), key::version(ino, Lsn::MAX));
        loop {
            // Rows are many times larger than what is kept of them here.
            let page = self.index.scan(&start, &end, VERSIONS)?;
            let Some((last, _)) = page.last() else { break };
            start = last.to_vec();
            start.push(0);
            for (k, bytes) in &page {
                let v: VersionRow = row(k, bytes)?;
                let at = Lsn::new(key::last_number(k).unwrap_or(0));
                let life = Life { created_ns: v.created_ns, ended_ns: None };
                found.push(Held { at, id: v.id, stamp_ns: v.stamp.hlc, life });
            }
            if page.len() < VERSIONS {
                break;
            }
        }
        one_after_the_other(&mut found);
        // What no name shows ended when it lost the last one.
        if object.attributes.links == 0
            && let Some(last) = found.last_mut()
        {
            last.life.ended_ns = Some(object.attributes.changed);
        }
        Ok(found)
    }
}

/// A version that an object has.
struct Held {
    at: Lsn,
    id: VersionId,
    stamp_ns: u64,
    life: Life,
}

/// What the policies keep of one object, each asked once.
struct Keeping<'a> {
    retention: &'a Retention,
    lives: &'a [Life],
    now_ns: u64,
    /// By the path that a rule is for; none: the default.
    by_rule: BTreeMap<Option<Vec<u8>>, Vec<bool>>,
}

impl Keeping<'_> {
    /// What is kept of the object by the rule for a path.
    fn at(&mut self, path: &[u8]) -> &[bool] {
        let rule = self.retention.of(path);
        let keeps = || match rule {
            Some((_, policy)) => policy.keeps(self.lives, self.now_ns),
            None => Policy::default().keeps(self.lives, self.now_ns),
        };
        self.by_rule.entry(rule.map(|(prefix, _)| prefix.to_vec())).or_insert_with(keeps)
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
    fn one_policy_is_one_however_often_it_is_said() {
        let say = |rules: &[(&str, Policy)]| Retention {
            rules: rules.iter().map(|(p, policy)| (p.as_bytes().to_vec(), policy.clone())).collect(),
        };
        assert!(say(&[]).is_uniform());
        assert!(say(&[("/", Policy::All), ("/a", Policy::All)]).is_uniform());
        assert!(say(&[("/a", Policy::default())]).is_uniform());
        assert!(!say(&[("/a", Policy::All)]).is_uniform());
        assert!(!say(&[("/", Policy::All), ("/a", Policy::Never)]).is_uniform());
        assert_eq!(say(&[("/", Policy::All), ("/a", Policy::Never)]).policy(b"/a/b"), Policy::Never);
        assert_eq!(say(&[]).policy(b"/q"), Policy::default());
    }
}
