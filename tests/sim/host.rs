//! A store on a simulated disk beside the model of what it holds: each operation is asked of both.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use parking_lot::Mutex;
use segfs::{
    base::{Clock, Error, Ino, Lsn, Random, VersionId},
    format::rows::{after_prefix, key, kind},
    index::{FlushedState, Index, MemoryIndex},
    store::{Options, Parts, Store},
};

use super::{
    compare::{Compare, Rule},
    disk::SimDisk,
    model::{Model, Op, Snapshot},
    rng::Rng,
};

/// A clock that is moved by hand.
pub struct SimClock {
    wall_ns: AtomicU64,
}

impl SimClock {
    pub fn at(wall_ns: u64) -> Arc<Self> {
        Arc::new(Self { wall_ns: AtomicU64::new(wall_ns) })
    }

    pub fn set(&self, wall_ns: u64) {
        self.wall_ns.store(wall_ns, Relaxed);
    }
}

impl Clock for SimClock {
    fn wall_ns(&self) -> u64 {
        self.wall_ns.load(Relaxed)
    }

    fn monotonic_ns(&self) -> u64 {
        self.wall_ns()
    }
}

/// Chance from a seed.
pub struct SimRandom(Mutex<Rng>);

impl SimRandom {
    pub fn new(seed: u64) -> Arc<Self> {
        Arc::new(Self(Mutex::new(Rng::new(seed))))
    }
}

impl Random for SimRandom {
    fn fill(&self, bytes: &mut [u8]) {
        let mut rng = self.0.lock();
        for part in bytes.chunks_mut(8) {
            part.copy_from_slice(&rng.next().to_le_bytes()[..part.len()]);
        }
    }
}

/// How a store is opened.
#[derive(Clone)]
pub struct Site {
    pub seed: u64,
    pub wall_ns: u64,
    pub options: Options,
    /// The cleaner counted on an index that covers this much.
    pub cleaned: Arc<AtomicU64>,
}

impl Site {
    pub fn new(seed: u64, wall_ns: u64, options: Options) -> Self {
        Self { seed, wall_ns, options, cleaned: Arc::default() }
    }

    /// After a cleaning, finished or not.
    pub fn note_cleaned(&self, host: &Host) {
        self.cleaned.fetch_max(host.index.flushed_lsn().get(), Relaxed);
    }

    pub fn minting(&self, mint: bool) -> Self {
        let options = Options { mint_interrupted: mint, ..self.options.clone() };
        Self { options, ..self.clone() }
    }
}

/// What became of an operation.
#[derive(Debug)]
pub enum Ran {
    /// Both did it, or both refused.
    Agreed,
    /// The store could not, for a reason that lies with the disk.
    Failed(Error),
}

pub struct Host {
    pub disk: SimDisk,
    pub clock: Arc<SimClock>,
    pub index: Arc<MemoryIndex>,
    pub store: Store,
    pub model: Model,
    /// The highest LSN that the store said is durable.
    pub acked: u64,
}

impl Host {
    /// A new store on a new disk.
    pub fn create(disk: SimDisk, site: &Site) -> Self {
        let (clock, random) = (SimClock::at(site.wall_ns), SimRandom::new(site.seed));
        Store::format(&disk, &site.options, &*clock, &*random, "".as_ref()).expect("an empty disk");
        Self::open(disk, None, site, Model::new()).expect("a new store opens")
    }

    /// Opens a store; the model keeps what the store may have.
    pub fn open(
        disk: SimDisk,
        flushed: Option<&FlushedState>,
        site: &Site,
        mut model: Model,
    ) -> Result<Self, Error> {
        let index = Arc::new(flushed.map_or_else(MemoryIndex::new, MemoryIndex::reopen_at));
        let clock = SimClock::at(site.wall_ns);
        let parts = Parts {
            disk: Arc::new(disk.clone()),
            clock: Arc::clone(&clock) as _,
            random: SimRandom::new(site.seed ^ 0x5eed) as _,
            index: Arc::new(Arc::clone(&index)),
        };
        let store = match Store::open_parts(parts, site.options.clone()) {
            // The index of a real disk never goes back to a state before one that was flushed. If one did, it would be
            // built again.
            Err(Error::Damaged(d))
                if d.why.contains("missing")
                    && flushed.is_some_and(|f| f.lsn().get() < site.cleaned.load(Relaxed)) =>
            {
                return Self::open(disk, None, site, model);
            }
            opened => opened?,
        };
        let found = store.recovered().log.last_lsn.get();
        model.rewind(found.min(model.lsn()));
        if site.options.mint_interrupted {
            for next in model.now().mint(site.wall_ns) {
                model.push(next);
            }
        }
        Ok(Self { disk, clock, index, store, model, acked: found })
    }

    pub fn last_lsn(&self) -> u64 {
        self.store.last_lsn().get()
    }

    /// Asks an operation of both.
    pub fn apply(&mut self, op: &Op) -> Result<Ran, String> {
        let expected = self.model.now().apply(op, self.clock.wall_ns());
        let done = perform(&self.store, op, self.model.now());
        match (expected, done) {
            (Ok(next), Ok(version)) => {
                for s in next {
                    self.model.push(s);
                }
                if let Some(id) = version {
                    self.name_version(op, id);
                }
                if self.model.lsn() != self.last_lsn() {
                    let (model, store) = (self.model.lsn(), self.last_lsn());
                    return Err(format!("{op:?}: at LSN {store}, not {model}"));
                }
                Ok(Ran::Agreed)
            }
            (Err(no), Err(Error::Fs(e))) if e == no => Ok(Ran::Agreed),
            // A store that has stopped says so before it looks at what is asked.
            (Err(_), Err(e @ Error::Poisoned { .. })) => Ok(Ran::Failed(e)),
            (Ok(next), Err(e)) if !matches!(e, Error::Fs(_) | Error::BadRequest(_)) => {
                // What it appended before it failed may reach the disk all the same.
                for s in next {
                    if s.lsn <= self.last_lsn() {
                        self.model.push(s);
                    }
                }
                Ok(Ran::Failed(e))
            }
            (expected, done) => {
                let expected = expected.map(|n| n.len());
                Err(format!("{op:?}: the store says {done:?}, the model {expected:?}"))
            }
        }
    }

    fn name_version(&mut self, op: &Op, id: VersionId) {
        if let Op::Commit { ino } = op {
            self.model.name_version(*ino, id);
        }
    }

    /// After the store said that everything up to here is durable.
    pub fn acknowledge(&mut self, lsn: u64) {
        self.acked = self.acked.max(lsn);
    }

    /// Compares the present and some of the past.
    pub fn check(&self, rng: &mut Rng, past: u64, rule: Rule) -> Result<(), String> {
        let compare = Compare { rule, every: 1, store: &self.store };
        let now = self.model.seen(self.model.lsn());
        compare.present(&now)?;
        if rule == Rule::Exact {
            self.check_lists(&now)?;
        }
        for _ in 0..past {
            let at = rng.below(now.lsn + 1);
            Compare { every: 1 + rng.below(3), ..compare }.past(&self.model.seen(at))?;
        }
        Ok(())
    }

    /// The lists of drafts and orphans hold those and no others: opening a store walks them.
    fn check_lists(&self, now: &Snapshot) -> Result<(), String> {
        let listed = |list: u8| -> Result<Vec<u64>, String> {
            let rows = self.index.scan(&[list], &after_prefix(&[list]), usize::MAX);
            let rows = rows.map_err(|e| e.to_string())?;
            Ok(rows.iter().filter_map(|(k, _)| key::ino_of(k)).map(Ino::get).collect())
        };
        let of = |wanted: &dyn Fn(&super::model::Object) -> bool| -> Vec<u64> {
            now.objects.iter().filter(|(_, o)| wanted(o)).map(|(ino, _)| *ino).collect()
        };
        let lists = [
            ("drafts", listed(kind::DRAFT)?, of(&|o| o.draft)),
            ("orphans", listed(kind::ORPHAN)?, of(&|o| !o.is_dir() && o.links == 0 && !o.reaped)),
        ];
        for (name, found, expected) in lists {
            if found != expected {
                return Err(format!("the list of {name} holds {found:?}, not {expected:?}"));
            }
        }
        Ok(())
    }
}

/// Asks the store; the id of a version, where the operation made one and says so.
pub fn perform(store: &Store, op: &Op, now: &Snapshot) -> Result<Option<VersionId>, Error> {
    let ino = |n: &u64| Ino::new(*n);
    match op {
        Op::Create { dir, name, new } => {
            let made = store.create_object(ino(dir), name, new)?.1;
            assert_eq!(made.ino.get(), now.next_ino, "inode numbers are given out in order");
        }
        Op::Link { ino: n, dir, name } => _ = store.link(ino(n), ino(dir), name)?,
        Op::Unlink { dir, name, open } => {
            let (_, gone, links) = store.unlink_from(ino(dir), name, &|_| *open)?;
            let was = now.get(gone.get()).map_or(0, |o| o.links);
            assert_eq!(links + 1, was, "unlink says how many names are left");
        }
        Op::Rmdir { dir, name } => _ = store.rmdir(ino(dir), name)?,
        Op::Rename { from, to, how } => {
            _ = store.rename((ino(&from.0), &from.1), (ino(&to.0), &to.1), *how)?;
        }
        Op::Set { ino: n, set } => _ = store.set_attributes(ino(n), set)?,
        Op::Xattr { ino: n, name, value, create } => {
            _ = store.set_xattr(ino(n), name, value.as_deref(), *create)?;
        }
        Op::Write { ino: n, offset, data } => _ = store.write(ino(n), *offset, data)?,
        Op::Truncate { ino: n, size } => _ = store.truncate(ino(n), *size)?,
        Op::Punch { ino: n, offset, len } => _ = store.punch(ino(n), *offset, *len)?,
        Op::Clone { from, to, len } => {
            let (_, n) = store.clone_range((ino(&from.0), from.1), (ino(&to.0), to.1), *len)?;
            assert_eq!(n, now.clone_len(*from, *len), "clone_range says how much it was");
        }
        Op::Commit { ino: n } => return Ok(store.commit_version(ino(n))?.1),
        Op::Reap { ino: n } => _ = store.reap(ino(n))?,
        Op::Tag { name, on } => _ = store.tag(name, *on)?,
        Op::Remove { ino: n, lsn } => {
            let found = store.view().versions(ino(n), Some(Lsn::new(lsn - 1)), 1)?;
            if let Some(v) = found.iter().find(|v| v.lsn.get() == *lsn) {
                store.remove_version(v.id)?;
            }
        }
    }
    Ok(None)
}

/// Shorthand.
pub const fn lsn(n: u64) -> Lsn {
    Lsn::new(n)
}
