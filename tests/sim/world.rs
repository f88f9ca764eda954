//! One seed, one world: a store that lives, fails, dies and is opened again.

use std::sync::Arc;

use parking_lot::Mutex;
use segfs::{
    base::Error,
    disk::Disk,
    index::FlushedState,
    store::{Goal, Options},
};

use super::{
    compare::Rule,
    crashes::{Moment, Seen, Watch, watch},
    disk::{Faults, SimDisk, Struck},
    host::{Host, Ran, Site, lsn},
    model::Model,
    rng::Rng,
    workload,
};

/// What a world is to be like.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    pub seed: u64,
    /// Crash images at each sync, at most.
    pub images: u64,
    pub lives: u64,
    /// Disks that fail, fill up or lie.
    pub faults: bool,
}

/// What a world came to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Outcome {
    pub seen: Seen,
    pub operations: u64,
    /// Faults that struck.
    pub struck: Struck,
    /// Segments that the cleaner gave back.
    pub cleaned: u64,
    /// Of all bytes ever on the disk at the end of a life.
    pub fingerprint: u64,
}

/// What goes wrong in a life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trouble {
    None,
    PowerCut,
    FailSync,
    FailWrite,
    NoSpace,
    LoseWrite,
    MisplaceWrite,
}

/// How a life ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// Nobody said a word, the disk least of all.
    Crash,
    /// The process is gone, the machine goes on.
    Kill,
    Close,
}

struct World {
    plan: Plan,
    rng: Rng,
    site: Site,
    host: Host,
    watch: Arc<Mutex<Watch>>,
    outcome: Outcome,
    trouble: Trouble,
    /// The disk does not hold what was asked of it: answers may be errors from now on.
    rule: Rule,
}

/// Lives a world to its end; the first thing that is wrong, as text.
pub fn run(plan: Plan) -> Result<Outcome, String> {
    let mut world = World::new(plan);
    let mut lived = Ok(());
    for life in 0..plan.lives {
        lived = world.life().map_err(|e| format!("life {life} ({:?}): {e}", world.trouble));
        if lived.is_err() || world.rule != Rule::Exact {
            break;
        }
    }
    lived.map(|()| world.outcome)
}

impl World {
    fn new(plan: Plan) -> Self {
        let mut rng = Rng::new(plan.seed);
        let options = Options {
            segment_bytes: 64 << 10,
            background: false,
            memtable_bytes: [4 << 10, 16 << 10, 1 << 20][rng.below(3) as usize],
            mint_interrupted: false,
            ..Options::default()
        };
        let site = Site::new(rng.next(), 1_700_000_000_000_000_000 + rng.below(1 << 40), options);
        let host = Host::create(SimDisk::new(rng.next()), &site);
        let watched = Watch {
            rng: Rng::new(rng.next()),
            index: Arc::clone(&host.index),
            acked: 0,
            moments: Vec::new(),
            images: plan.images,
        };
        let watched = Arc::new(Mutex::new(watched));
        watch(&host.disk, &watched);
        let (outcome, trouble) = (Outcome::default(), Trouble::None);
        Self { plan, rng, site, host, watch: watched, outcome, trouble, rule: Rule::Exact }
    }

    /// Opens the world's disk, or another in its place.
    fn reopen(&mut self, disk: SimDisk, moment: Option<&Moment>) -> Result<(), String> {
        self.watch.lock().moments.clear();
        let flushed = match moment {
            Some(m) => m.flushed.clone(),
            None => self.host.index.flushed_states(),
        };
        let n = self.rng.below(flushed.len() as u64 + 1) as usize;
        let index = if self.rng.percent(60) { flushed.last() } else { flushed.get(n) };
        let acked = moment.map_or(self.host.acked, |m| m.acked);
        self.site.seed = self.rng.next();
        let site = self.site.minting(self.rng.percent(50));
        let model = std::mem::replace(&mut self.host.model, Model::new());
        let last = model.lsn();
        // While the store is opened, the old life's truth holds.
        let opened = Host::open(disk.clone(), index, &site, model);
        self.host = opened.map_err(|e| format!("open: {e}"))?;
        if self.host.acked < acked || self.host.acked > last {
            return Err(format!("the log ends at {}; {acked} acknowledged, {last} done", self.host.acked));
        }
        let mut w = self.watch.lock();
        w.index = Arc::clone(&self.host.index);
        w.acked = self.host.acked;
        w.moments.clear();
        drop(w);
        watch(&disk, &self.watch);
        self.host.check(&mut self.rng, 2, Rule::Exact).map_err(|e| format!("opened again: {e}"))
    }

    fn advance_clock(&mut self) {
        let now = &mut self.site.wall_ns;
        *now = match self.rng.below(40) {
            0 => now.saturating_sub(self.rng.below(90_000_000_000)),
            1 => *now + self.rng.below(90_000_000_000),
            2..20 => *now,
            _ => *now + self.rng.below(3_000_000),
        };
        self.host.clock.set(*now);
    }

    fn begin_trouble(&mut self) {
        let all = [
            Trouble::PowerCut,
            Trouble::PowerCut,
            Trouble::FailSync,
            Trouble::FailWrite,
            Trouble::NoSpace,
            Trouble::LoseWrite,
            Trouble::MisplaceWrite,
        ];
        self.trouble = Trouble::None;
        if self.plan.faults && self.rng.percent(60) {
            self.trouble = all[self.rng.below(all.len() as u64) as usize];
        }
        let counts = self.host.disk.counts();
        let soon = self.rng.below(30);
        let mut f = Faults::default();
        match self.trouble {
            Trouble::None => {}
            Trouble::PowerCut => f.power_cut = Some(counts.operations + 2 * soon),
            Trouble::FailSync => f.fail_sync = Some(counts.syncs + soon),
            Trouble::FailWrite => f.fail_write = Some(counts.writes + soon),
            Trouble::LoseWrite => f.lose_write = Some(counts.writes + soon),
            Trouble::MisplaceWrite => f.misplace_write = Some(counts.writes + soon),
            Trouble::NoSpace => f.capacity_bytes = Some(self.used() + self.rng.below(150_000)),
        }
        self.host.disk.set_faults(f);
    }

    fn used(&self) -> u64 {
        let space = self.host.disk.space().expect("there is power");
        space.total_bytes - space.free_bytes
    }

    fn life(&mut self) -> Result<(), String> {
        self.begin_trouble();
        let tampered = matches!(self.trouble, Trouble::LoseWrite | Trouble::MisplaceWrite);
        if tampered {
            self.watch.lock().images = 0;
            self.rule = Rule::RightOrError;
        }
        let steps = 5 + self.rng.below(60);
        for step in 0..steps {
            self.advance_clock();
            let went_on = self.step().map_err(|e| format!("step {step}: {e}"))?;
            self.check_moments().map_err(|e| format!("step {step}: {e}"))?;
            if !went_on {
                break;
            }
        }
        self.outcome.struck += self.host.disk.take_struck();
        self.outcome.fingerprint = self.outcome.fingerprint.rotate_left(7) ^ self.host.disk.fingerprint();
        if tampered { self.end_tampered() } else { self.end() }
    }

    /// One thing happens. False: the store can't go on.
    fn step(&mut self) -> Result<bool, String> {
        self.outcome.operations += 1;
        let failed = match self.rng.below(100) {
            0..78 => {
                let op = workload::next(&mut self.rng, self.host.model.now());
                match self.host.apply(&op).map_err(|e| e.to_string())? {
                    Ran::Agreed => return Ok(true),
                    Ran::Failed(Error::NoSpace { .. }) if self.trouble == Trouble::NoSpace => {
                        return self.make_space(&op);
                    }
                    Ran::Failed(e) => e,
                }
            }
            n @ 78..89 => {
                let last = self.host.last_lsn();
                let upto = if n < 83 { self.rng.below(last + 1) } else { last };
                let done = if n < 87 { self.host.store.sync(lsn(upto)) } else { self.host.store.sync_all() };
                match done {
                    Ok(()) => {
                        self.host.acknowledge(if n < 87 { upto } else { last });
                        self.watch.lock().acked = self.host.acked;
                        return Ok(true);
                    }
                    Err(e) => e,
                }
            }
            89..92 => {
                let goal = Goal {
                    bytes: 1 << (12 + self.rng.below(10)),
                    live_percent: [30, 60, 95][self.rng.below(3) as usize],
                };
                let done = self.host.store.clean(goal);
                // Moving is records too, but nothing changes.
                self.host.model.pass(self.host.last_lsn());
                match done {
                    Ok(cleaned) => {
                        self.outcome.cleaned += cleaned.segments;
                        self.site.note_cleaned(&self.host);
                        return Ok(true);
                    }
                    Err(Error::NoSpace { .. }) if self.trouble == Trouble::NoSpace => {
                        self.site.note_cleaned(&self.host);
                        return Ok(true);
                    }
                    Err(e) => {
                        self.site.note_cleaned(&self.host);
                        e
                    }
                }
            }
            92..95 => match self.host.store.checkpoint() {
                Ok(()) => return Ok(true),
                Err(e) => e,
            },
            95..97 => match self.host.store.maintain() {
                Ok(_) => return Ok(true),
                Err(e) => e,
            },
            97 => {
                let done = self.host.store.write_base();
                // Its pieces are records, also those of a base that was not finished.
                self.host.model.pass(self.host.last_lsn());
                match done {
                    Ok(_) => return Ok(true),
                    Err(Error::NoSpace { .. }) if self.trouble == Trouble::NoSpace => return Ok(true),
                    Err(e) => e,
                }
            }
            _ => {
                if self.trouble != Trouble::PowerCut {
                    self.host.check(&mut self.rng, 2, self.rule)?;
                }
                return Ok(true);
            }
        };
        self.failed(&failed)
    }

    /// The disk was full: nothing has changed, reading goes on, and with space the operation works.
    fn make_space(&mut self, op: &super::model::Op) -> Result<bool, String> {
        self.host.check(&mut self.rng, 1, Rule::Exact).map_err(|e| format!("on a full disk: {e}"))?;
        if self.rng.percent(50) {
            return Ok(true);
        }
        self.host.disk.set_faults(Faults::default());
        match self.host.apply(op)? {
            Ran::Agreed => Ok(true),
            Ran::Failed(e) => Err(format!("with space again: {op:?}: {e}")),
        }
    }

    /// Something failed that the disk is to blame for: then nothing may work any more but reading.
    fn failed(&mut self, why: &Error) -> Result<bool, String> {
        match self.trouble {
            Trouble::PowerCut => return Ok(false),
            Trouble::FailSync | Trouble::FailWrite => {}
            Trouble::LoseWrite | Trouble::MisplaceWrite => return Ok(false),
            Trouble::None | Trouble::NoSpace => return Err(format!("failed for no reason: {why}")),
        }
        if !matches!(why, Error::Poisoned { .. }) {
            return Ok(true);
        }
        for _ in 0..3 {
            let before = self.host.last_lsn();
            let op = workload::next(&mut self.rng, self.host.model.now());
            let ran = self.host.apply(&op)?;
            if self.host.last_lsn() != before
                || matches!(ran, Ran::Failed(ref e) if !matches!(e, Error::Poisoned { .. }))
            {
                return Err(format!("after {why}: {op:?} became {ran:?}"));
            }
        }
        if self.host.last_lsn() > self.host.store.durable_lsn().get() && self.host.store.sync_all().is_ok() {
            return Err(format!("after {why}: a sync says that all is well"));
        }
        self.host.check(&mut self.rng, 1, Rule::Exact).map_err(|e| format!("after {why}: {e}"))?;
        Ok(false)
    }

    fn check_moments(&mut self) -> Result<(), String> {
        let moments = std::mem::take(&mut self.watch.lock().moments);
        let site = self.site.minting(false);
        for m in &moments {
            let seen = m.check(&site, &self.host.model)?;
            self.outcome.seen.states += seen.states;
            self.outcome.seen.cut_openings += seen.cut_openings;
        }
        Ok(())
    }

    fn end(&mut self) -> Result<(), String> {
        let powered = self.trouble != Trouble::PowerCut;
        let poisoned = self.host.store.status().stopped.is_some();
        self.host.disk.set_faults(Faults::default());
        let end = match self.rng.below(10) {
            0 | 1 if powered && !poisoned => End::Close,
            2..5 if powered => End::Kill,
            _ => End::Crash,
        };
        if end == End::Close {
            self.host.store.close().map_err(|e| format!("close: {e}"))?;
            self.check_moments()?;
            self.host.acknowledge(self.host.model.lsn());
            self.watch.lock().acked = self.host.acked;
        }
        let disk = self.host.disk.clone();
        let moment = {
            let mut watch = self.watch.lock();
            watch.acked = self.host.acked;
            watch.take(&disk, self.plan.images + 1);
            watch.moments.pop()
        };
        self.check_moments()?;
        self.rot(&disk, end)?;
        if end == End::Crash {
            let moment = moment.expect("one more than none");
            return self.reopen(moment.image.clone(), Some(&moment));
        }
        self.kill();
        self.reopen(disk, None)
    }

    /// One bit of the disk as it lies there turns over: answers are right, or say that something is damaged.
    fn rot(&mut self, disk: &SimDisk, end: End) -> Result<(), String> {
        for _ in 0..2 {
            let image = disk.written_image();
            let what = rot(&image, &mut self.rng);
            let flushed = self.host.index.flushed_states();
            let index = flushed.last().filter(|_| self.rng.percent(60));
            let site = Site { seed: self.rng.next(), ..self.site.minting(false) };
            let tell = |e: String| format!("{what} (index at {:?}): {e}", index.map(FlushedState::lsn));
            self.outcome.seen.states += 1;
            self.outcome.struck += image.take_struck();
            let host = match Host::open(image, index, &site, self.host.model.clone()) {
                Ok(host) => host,
                Err(Error::Damaged(_) | Error::NotAStore { .. }) => continue,
                Err(e) => return Err(tell(e.to_string())),
            };
            if end == End::Close && host.acked < self.host.acked {
                return Err(tell(format!("the log ends at {} instead of {}", host.acked, self.host.acked)));
            }
            host.check(&mut self.rng, 1, Rule::RightOrError).map_err(tell)?;
        }
        Ok(())
    }

    /// The store is dropped, so that its disk can be opened again.
    fn kill(&mut self) {
        let placeholder = Host::create(SimDisk::new(0), &self.site);
        let old = std::mem::replace(&mut self.host, placeholder);
        self.host.index = Arc::clone(&old.index);
        self.host.acked = old.acked;
        self.host.model = old.model;
    }

    /// The disk lied. What it holds may be less than was acknowledged, and can be unreadable, but never wrong.
    fn end_tampered(&mut self) -> Result<(), String> {
        let index = self.host.index.flushed_states();
        let index = index.last().filter(|_| self.rng.percent(50));
        let disk = self.host.disk.written_image();
        let model = self.host.model.clone();
        self.outcome.seen.states += 1;
        match Host::open(disk, index, &self.site.minting(false), model) {
            Ok(host) => host.check(&mut self.rng, 3, Rule::RightOrError),
            Err(Error::Damaged(_) | Error::NotAStore { .. }) => Ok(()),
            Err(e) => Err(format!("open: {e}")),
        }
    }
}

/// Turns over a bit of some file; says which.
fn rot(disk: &SimDisk, rng: &mut Rng) -> String {
    let segments = disk.list("segments".as_ref()).expect("there is power");
    let n = rng.below(segments.len() as u64 * 4 + 1) as usize;
    let path = segments.get(n / 4).map_or("STORE".into(), |s| format!("segments/{s}"));
    let len = disk.open(path.as_ref(), false).and_then(|f| f.len()).expect("a file that was listed");
    // Most of a segment that is not full is not used.
    let most = if rng.percent(50) { 16 << 10 } else { u64::MAX };
    let (at, bit) = (rng.below(len.min(most)), rng.below(8) as u8);
    disk.flip_bit(path.as_ref(), at, bit);
    format!("bit {bit} of byte {at} of {path} turned over")
}
