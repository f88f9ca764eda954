//! What a crash may leave, and what must be true of it.

use std::sync::Arc;

use parking_lot::Mutex;
use segfs::index::{FlushedState, MemoryIndex};

use super::{
    compare::Rule,
    disk::{Event, Faults, SimDisk},
    host::{Host, Ran, Site},
    model::Model,
    rng::Rng,
    workload,
};

/// A disk as a crash could leave it, with what the world knew at that moment.
pub struct Moment {
    pub image: SimDisk,
    /// The index is one of these, or gone.
    pub flushed: Vec<FlushedState>,
    pub acked: u64,
    pub seed: u64,
}

/// Takes images at the moments with the most to lose.
pub struct Watch {
    pub rng: Rng,
    pub index: Arc<MemoryIndex>,
    pub acked: u64,
    pub moments: Vec<Moment>,
    /// How many images a sync is worth.
    pub images: u64,
}

impl Watch {
    /// Takes `n` images of the disk as it is now.
    pub fn take(&mut self, disk: &SimDisk, n: u64) {
        let flushed = if n > 0 { self.index.flushed_states() } else { Vec::new() };
        for i in 0..n {
            let seed = self.rng.next();
            let image = match (i, seed % 8) {
                (0, 0) => disk.durable_image(),
                (0, 1) => disk.written_image(),
                _ => disk.crash_image(seed),
            };
            self.moments.push(Moment { image, flushed: flushed.clone(), acked: self.acked, seed });
        }
    }
}

/// What looking at moments came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Seen {
    /// Disks that a crash left and that were opened.
    pub states: u64,
    /// Openings that were themselves cut short by a crash.
    pub cut_openings: u64,
}

/// Watches a disk.
pub fn watch(disk: &SimDisk, watch: &Arc<Mutex<Watch>>) {
    let watch = Arc::clone(watch);
    disk.set_observer(move |disk, event| {
        let mut watch = watch.lock();
        let n = match event {
            Event::BeforeSync(_) => watch.images,
            Event::AfterSync(_) => watch.images.min(1),
        };
        let n = watch.rng.below(n + 1);
        watch.take(disk, n);
    });
}

impl Moment {
    fn index(&self, rng: &mut Rng) -> Option<&FlushedState> {
        let n = rng.below(self.flushed.len() as u64 + 1) as usize;
        // The newest is the likeliest.
        if rng.percent(40) { self.flushed.last() } else { self.flushed.get(n) }
    }

    /// Opens the image and holds it against the model.
    pub fn check(&self, site: &Site, model: &Model) -> Result<Seen, String> {
        let mut rng = Rng::new(self.seed ^ 0xc4a5);
        let index = self.index(&mut rng);
        let mut seen = Seen { states: 1, cut_openings: 0 };
        let found = {
            let host = self.open(&self.image, index, site, model, self.acked)?;
            host.check(&mut rng, 1, Rule::Exact)?;
            host.acked
        };
        if index.is_some() && rng.percent(12) {
            let host = self.open(&self.image, None, site, model, self.acked)?;
            if host.acked != found {
                return Err(format!("without its index the store ends at {}, not {found}", host.model.lsn()));
            }
            host.check(&mut rng, 1, Rule::Exact).map_err(|e| format!("index gone: {e}"))?;
            seen.states += 1;
        }
        match rng.below(10) {
            0 => {
                seen.states += 2;
                seen.cut_openings += u64::from(self.cut_again(index, site, model, found, &mut rng)?);
            }
            1 => {
                seen.states += 2;
                self.go_on(index, site, model, found, &mut rng)?;
            }
            _ => {}
        }
        Ok(seen)
    }

    fn open(
        &self,
        image: &SimDisk,
        index: Option<&FlushedState>,
        site: &Site,
        model: &Model,
        acked: u64,
    ) -> Result<Host, String> {
        let covers = index.map_or(0, |i| i.lsn().get());
        let tell = |e: String| format!("after a crash (index at {covers}, {acked} acknowledged): {e}");
        let model = model.clone();
        let last = model.lsn();
        // No two openings draw the same numbers.
        let site = Site { seed: self.seed ^ last, ..site.clone() };
        let host = Host::open(image.clone(), index, &site, model).map_err(|e| tell(format!("open: {e}")))?;
        let found = host.acked;
        if found < acked || found > last {
            return Err(tell(format!(
                "the log ends at {found}, the model at {last}: {:?}",
                host.store.recovered()
            )));
        }
        let r = host.store.recovered();
        // A header of which one copy was torn and the other believed stays as it is.
        let torn =
            |d: &segfs::base::Damage| d.place.offset == 0 && d.why.starts_with("one of the two copies");
        if !r.log.damages.iter().all(torn) || !r.superblock_damage.is_empty() {
            return Err(tell(format!("damage: {r:?}")));
        }
        Ok(host)
    }

    /// Another power cut while the store is opened, mints what was open and writes its first records. True: it came
    /// before the store was open.
    fn cut_again(
        &self,
        index: Option<&FlushedState>,
        site: &Site,
        model: &Model,
        found: u64,
        rng: &mut Rng,
    ) -> Result<bool, String> {
        let disk = self.image.written_image();
        let cut = disk.counts().operations + rng.below(16);
        disk.set_faults(Faults { power_cut: Some(cut), ..Faults::default() });
        let mut fork = model.fork(found);
        let minting = Site { seed: rng.next(), ..site.minting(rng.percent(70)) };
        let mut acked = found;
        let mut in_opening = false;
        match Host::open(disk.clone(), index, &minting, fork.clone()) {
            Err(_) => {
                in_opening = disk.take_struck().powerless > 0;
                for next in fork.now().mint(site.wall_ns) {
                    fork.push(next);
                }
            }
            Ok(mut host) => {
                for _ in 0..4 {
                    let op = workload::next(rng, host.model.now());
                    if let Ran::Failed(_) = host.apply(&op)? {
                        break;
                    }
                    if host.store.sync_all().is_ok() {
                        acked = host.model.lsn();
                    }
                }
                fork = host.model;
            }
        }
        disk.set_faults(Faults::default());
        for image in [disk.crash_image(rng.next()), disk.written_image()] {
            let index = if rng.percent(50) { index } else { None };
            let host = self
                .open(&image, index, site, &fork, acked)
                .map_err(|e| format!("second crash, first at {found}: {e}"))?;
            host.check(rng, 1, Rule::Exact).map_err(|e| format!("second crash: {e}"))?;
        }
        Ok(in_opening)
    }

    /// Life goes on after the crash, with what was open made into versions.
    fn go_on(
        &self,
        index: Option<&FlushedState>,
        site: &Site,
        model: &Model,
        found: u64,
        rng: &mut Rng,
    ) -> Result<(), String> {
        let disk = self.image.written_image();
        let fork = model.fork(found);
        let minting = Site { seed: rng.next(), ..site.minting(true) };
        let open = Host::open(disk.clone(), index, &minting, fork);
        let mut host = open.map_err(|e| format!("opening to mint: {e}"))?;
        host.check(rng, 1, Rule::Exact).map_err(|e| format!("after minting: {e}"))?;
        for _ in 0..rng.below(6) {
            let op = workload::next(rng, host.model.now());
            if let Ran::Failed(e) = host.apply(&op)? {
                return Err(format!("after a crash: {op:?}: {e}"));
            }
        }
        host.store.sync_all().map_err(|e| format!("after a crash: {e}"))?;
        let acked = host.model.lsn();
        let flushed = host.index.flushed_states();
        let index = flushed.last().filter(|_| rng.percent(50));
        let again = self.open(&disk.crash_image(rng.next()), index, site, &host.model, acked)?;
        again.check(rng, 1, Rule::Exact).map_err(|e| format!("the life after: {e}"))?;
        Ok(())
    }
}
