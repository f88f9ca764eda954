//! What each host keeps: policies that differ, versions that go at any time, and what must be there all the same.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

use segfs::{
    base::{Ino, Lsn, ObjectId, VersionId},
    store::{Goal, Life, Policy, Retention, Store},
};

use super::World;

/// How often something struck, over all worlds.
#[derive(Default)]
pub struct Struck {
    pub removed: AtomicU64,
    pub lacking: AtomicU64,
    pub supplied: AtomicU64,
    pub common: AtomicU64,
    pub cleaned: AtomicU64,
    pub told: AtomicU64,
    pub cut_off: AtomicU64,
}

/// Over all worlds of this process.
pub static STRUCK: Struck = Struck {
    removed: AtomicU64::new(0),
    lacking: AtomicU64::new(0),
    supplied: AtomicU64::new(0),
    common: AtomicU64::new(0),
    cleaned: AtomicU64::new(0),
    told: AtomicU64::new(0),
    cut_off: AtomicU64::new(0),
};

impl Struck {
    /// Everything did.
    pub fn check(&self) {
        let versions = [&self.removed, &self.lacking, &self.supplied, &self.common].map(|n| n.load(Relaxed));
        println!("versions removed, lacking, supplied, kept for edits: {versions:?}");
        let logs = [&self.cleaned, &self.told, &self.cut_off].map(|n| n.load(Relaxed));
        println!("segments cleaned, pages told, tellings cut off: {logs:?}");
        let all = [&versions[..], &logs].concat();
        assert!(all.iter().all(|n| *n > 0), "{all:?}");
    }
}

/// A version that some host made.
pub struct Made {
    object: ObjectId,
    created_ns: u64,
    /// Who made it; none: a disk that was set back may have forgotten it.
    maker: Option<usize>,
}

/// What the hosts keep, and all versions ever made.
pub struct Keeping {
    /// In the order of the hosts.
    pub policies: [Policy; 3],
    pub made: BTreeMap<VersionId, Made>,
}

impl Keeping {
    /// Everything everywhere.
    pub fn everything() -> Self {
        Self { policies: [Policy::All, Policy::All, Policy::All], made: BTreeMap::new() }
    }

    /// In every third world everything is kept everywhere; in the others each host has its own policy.
    pub fn new(seed: u64) -> Self {
        let mut policies = [Policy::All, Policy::All, Policy::All];
        if !seed.is_multiple_of(3) {
            let all = [
                Policy::All,
                Policy::Last(1 + (seed / 3 % 4) as u32),
                Policy::Age(300_000_000 * (1 + seed / 12 % 4)),
            ];
            // Each of the six orders, and sometimes two alike.
            let turn = seed as usize / 7;
            policies = [0, 1, 2].map(|h| all[(h * (1 + turn % 2) + turn) % 3].clone());
            if turn.is_multiple_of(5) {
                policies[0] = policies[1].clone();
            }
        }
        Self { policies, made: BTreeMap::new() }
    }

    /// Do all hosts keep everything?
    pub fn all(&self) -> bool {
        self.policies.iter().all(|p| *p == Policy::All)
    }
}

impl World {
    pub fn set_policy(&self, i: usize) {
        self.store(i).set_retention(Retention::everywhere(self.keeping.policies[i].clone()));
    }

    /// Takes down versions that a host has just made.
    pub fn note_made(&mut self, i: usize, ids: &[VersionId]) {
        for id in ids {
            let store = self.hosts[i].store.as_ref().unwrap();
            let Some((ino, _)) = store.find_version(*id).unwrap() else { continue };
            let object = store.view().attributes(ino).unwrap().object;
            let all = store.view().versions(ino, None, usize::MAX).unwrap();
            let v = all.into_iter().find(|v| v.id == *id).unwrap();
            self.keeping.made.insert(*id, Made { object, created_ns: v.created_ns, maker: Some(i) });
        }
    }

    /// A host's disk was set back.
    pub fn forget_makers(&mut self, i: usize) {
        self.keeping.made.values_mut().filter(|m| m.maker == Some(i)).for_each(|m| m.maker = None);
    }

    /// A host lets go what its policy does not keep; now and then knowing what the others have acknowledged.
    pub fn expire(&mut self, i: usize) {
        let now_ns = self.truth.load(Relaxed);
        let upto = if self.rng.percent(60) { self.acknowledged_upto(i) } else { Lsn::new(0) };
        let store = self.store(i);
        store.set_acknowledged(upto);
        let common = common(store, upto);
        STRUCK.common.fetch_add(common.len() as u64, Relaxed);
        let mut at = Some(Ino::FIRST);
        while let Some(from) = at {
            let (gone, next) = store.expire(from, now_ns).unwrap();
            STRUCK.removed.fetch_add(gone, Relaxed);
            at = next;
        }
        for id in common {
            let there = store.find_version(id).unwrap().is_some();
            assert!(there, "seed {}: host {i} removed {id}, on which edits may rest", self.seed);
        }
    }

    /// Up to where both others hold durably what this host's log holds.
    fn acknowledged_upto(&mut self, i: usize) -> Lsn {
        self.sync(i);
        let mut upto = self.store(i).last_lsn();
        for j in (0..3).filter(|j| *j != i) {
            self.sync(j);
            let known = self.store(j).knowledge().unwrap();
            let (found, next) = self.store(i).parcels(&known, Lsn::FIRST, 1).unwrap();
            if !found.is_empty() {
                upto = upto.min(Lsn::new(next.get().saturating_sub(2)));
            }
        }
        upto
    }

    /// A host gives back the segments that it can.
    pub fn clean(&mut self, i: usize) {
        let store = self.store(i);
        store.write_base().unwrap();
        let cleaned = store.clean(Goal::ALL).unwrap();
        STRUCK.cleaned.fetch_add(cleaned.segments, Relaxed);
    }

    /// A host tells another what is in its index, since its log does not hold all of it any more. Others go on meanwhile, and
    /// it may be cut off; then it goes on another time.
    pub fn tell(&mut self, from: usize, to: usize, loss: u64) {
        let lives = [self.hosts[from].lives, self.hosts[to].lives];
        let begun = self.unfinished.remove(&(from, to)).filter(|(of, _)| *of == lives);
        let mut telling = match begun {
            Some((_, telling)) => telling,
            None => self.store(from).catch_up(Lsn::new(0)).unwrap(),
        };
        while let Some(page) = self.store(from).next_told(&mut telling, 1500).unwrap() {
            STRUCK.told.fetch_add(1, Relaxed);
            for _ in 0..1 + u64::from(self.rng.percent(10)) {
                let (source, target) = (self.store(from), self.store(to));
                target.take_told(&page, &mut |id| source.source_bytes(&page.sources, id)).unwrap_or_else(
                    |e| panic!("seed {}: host {to} refuses what {from} tells: {e}", self.seed),
                );
            }
            match self.rng.below(100) {
                n if n < loss / 3 => {
                    STRUCK.cut_off.fetch_add(1, Relaxed);
                    self.sync(to);
                    self.unfinished.insert((from, to), (lives, telling));
                    return;
                }
                n if loss > 0 && n > 70 => self.operate([from, to][n as usize % 2]),
                _ => {}
            }
        }
        self.store(to).finish_told(&telling.known).unwrap();
    }

    /// Versions without content get it from another host, if that has it. Returns how many did.
    pub fn supply(&self, from: usize, to: usize) -> u64 {
        let (source, target) = (self.store(from), self.store(to));
        let mut supplied = 0;
        for lacking in target.lacking(None, usize::MAX).unwrap() {
            STRUCK.lacking.fetch_add(1, Relaxed);
            let got = target.take_supply(&lacking, &mut &*source);
            let got = got.unwrap_or_else(|e| panic!("seed {}: host {to} refuses: {e}", self.seed));
            supplied += u64::from(got);
        }
        STRUCK.supplied.fetch_add(supplied, Relaxed);
        supplied
    }

    /// Every acknowledged version that a host's policy covers is there, if any host has it, or it was made there.
    pub fn check_kept(&self) {
        // What arrives is held against the host's own clock, what is there against the true time.
        let now_ns = |i| self.truth.load(Relaxed).saturating_add_signed(self.skew_ns(i).max(0));
        let mut by_object: BTreeMap<ObjectId, Vec<(u64, VersionId)>> = BTreeMap::new();
        for (id, m) in &self.keeping.made {
            by_object.entry(m.object).or_default().push((m.created_ns, *id));
        }
        for (object, mut versions) in by_object {
            versions.sort_unstable();
            let ended = |n: usize| versions.get(n + 1).map(|v| v.0);
            let lives: Vec<Life> =
                (0..versions.len()).map(|n| Life { created_ns: versions[n].0, ended_ns: ended(n) }).collect();
            for i in 0..3 {
                let keeps = self.keeping.policies[i].keeps(&lives, now_ns(i));
                for ((_, id), keeps) in versions.iter().zip(keeps) {
                    if keeps && self.acknowledged.contains(id) {
                        self.check_version(i, object, *id);
                    }
                }
            }
        }
    }

    fn check_version(&self, i: usize, object: ObjectId, id: VersionId) {
        if self.store(i).find_version(id).unwrap().is_some() {
            return;
        }
        let had = (0..3).filter_map(|h| self.store(h).find_version(id).unwrap().map(|at| (h, at)));
        let had: Vec<_> = had.collect();
        let mine = self.keeping.made[&id].maker == Some(i);
        // What no name shows may have ended long ago.
        let aged = matches!(self.keeping.policies[i], Policy::Age(_)) && !self.is_named(i, object);
        assert!(
            aged || (had.is_empty() && !mine),
            "seed {}: host {i} keeps {:?}, and is without acknowledged version {id} of {object}, which {had:?} have",
            self.seed,
            self.keeping.policies[i],
        );
    }

    fn is_named(&self, i: usize, object: ObjectId) -> bool {
        let view = self.store(i).view();
        self.directories(i, usize::MAX).into_iter().any(|dir| {
            view.entries(dir, None, usize::MAX).unwrap().into_iter().any(|e| {
                view.contenders(dir, &e.name)
                    .unwrap()
                    .into_iter()
                    .any(|c| view.attributes(c.ino).unwrap().object == object)
            })
        })
    }
}

/// Of each object that a name shows, the newest version up to an LSN.
fn common(store: &Store, upto: Lsn) -> Vec<VersionId> {
    let mut found = Vec::new();
    for ino in 2..10_000 {
        let Ok(versions) = store.view().versions(Ino::new(ino), None, usize::MAX) else { break };
        let newest = versions.iter().filter(|v| v.lsn <= upto).max_by_key(|v| (v.created_ns, v.id));
        found.extend(newest.map(|v| v.id));
    }
    found
}
