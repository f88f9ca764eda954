//! Three stores write at once, exchange facts in any order, and must agree once they hold the same ones.

mod acts;
mod kept;
pub mod portrait;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use parking_lot::Mutex;
use segfs::{
    base::{Clock, Error, Lsn, Random, VersionId},
    disk::Disk,
    format::facts::ObjectKind,
    index::MemoryIndex,
    store::{CatchUp, Options, Parcel, Parts, Store},
};

use super::{disk::SimDisk, rng::Rng};
use kept::{Keeping, STRUCK};
use portrait::{is_version, portrait, showing, trace};

const HOUR_NS: u64 = 3_600_000_000_000;

/// All stores of a world share the true time; each has its own idea of it.
struct SkewedClock {
    truth: Arc<AtomicU64>,
    skew_ns: i64,
}

impl Clock for SkewedClock {
    fn wall_ns(&self) -> u64 {
        self.truth.load(Relaxed).saturating_add_signed(self.skew_ns)
    }
    fn monotonic_ns(&self) -> u64 {
        self.truth.load(Relaxed)
    }
}

struct SeededRandom(Mutex<Rng>);

impl Random for SeededRandom {
    fn fill(&self, bytes: &mut [u8]) {
        let mut rng = self.0.lock();
        for b in bytes {
            *b = rng.next() as u8;
        }
    }
}

pub struct Host {
    pub disk: SimDisk,
    pub store: Option<Store>,
    clock_skew: i64,
    lives: u64,
    /// Versions made here that nobody made durable yet.
    pending: Vec<VersionId>,
    /// The disk as somebody copied it away at some time.
    pub backup: Option<SimDisk>,
}

/// A parcel on a long way: from which life of which host, to which, what.
struct Late {
    from: (usize, u64),
    to: usize,
    parcel: Parcel,
}

pub struct World {
    pub seed: u64,
    pub rng: Rng,
    pub truth: Arc<AtomicU64>,
    pub hosts: Vec<Host>,
    acknowledged: BTreeSet<VersionId>,
    late: Vec<Late>,
    keeping: Keeping,
    /// Tellings of an index that were cut off: from which host to which, in which of their lives.
    unfinished: BTreeMap<(usize, usize), ([u64; 2], CatchUp)>,
    struck: Struck,
    /// When late moves are done at once: [`Options::moves_redone`].
    moves_redone: usize,
}

/// What got in whose way in a world, and how often.
pub type Struck = BTreeMap<&'static str, u64>;

/// All that the rules of agreement are for: each has to strike in at least one of fifty worlds, or these tests prove less than they
/// say.
const STRIKES: &[&str] = &[
    "a hard link",
    "renames across each other",
    "directories moved into each other",
    "a delete against an edit",
    "a delete against a link",
    "a removal against a file made below",
    "a directory made twice",
    "clocks an hour and more apart",
    "a disk set back",
    "a crash",
    "facts lost on the way",
    "facts that came twice",
    "facts that came late",
    "several files at one name",
    "several heads of one file",
    "one number for two versions",
    "a name that was deleted",
    "a history of several objects",
    "moves that waited",
    "moves that were forgotten",
];

fn options() -> Options {
    Options { segment_bytes: 64 << 10, background: false, mint_interrupted: false, ..Options::default() }
}

impl World {
    pub fn new(seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let truth = Arc::new(AtomicU64::new(1_790_000_000_000_000_000));
        let hosts = (0..3_u64)
            .map(|i| Host {
                disk: SimDisk::new(seed ^ i),
                store: None,
                clock_skew: if rng.percent(50) {
                    0
                } else {
                    rng.below(4 * HOUR_NS) as i64 - 2 * HOUR_NS as i64
                },
                lives: 0,
                pending: Vec::new(),
                backup: None,
            })
            .collect();
        let mut world = Self {
            seed,
            rng,
            truth,
            hosts,
            acknowledged: BTreeSet::new(),
            late: Vec::new(),
            keeping: Keeping::everything(),
            unfinished: BTreeMap::new(),
            struck: Struck::new(),
            moves_redone: [0, 1, 64][seed as usize % 3],
        };
        let skews = || world.hosts.iter().map(|h| h.clock_skew);
        if skews().max().zip(skews().min()).is_some_and(|(max, min)| max.abs_diff(min) >= HOUR_NS) {
            world.strike("clocks an hour and more apart");
        }
        for i in 0..3 {
            let (clock, random) = world.senses(i);
            let disk = world.hosts[i].disk.clone();
            Store::format(&disk, &options(), &clock, &random, "".as_ref()).unwrap();
            world.open(i);
        }
        world
    }

    fn senses(&mut self, i: usize) -> (SkewedClock, SeededRandom) {
        let h = &mut self.hosts[i];
        h.lives += 1;
        let random = Rng::new(self.seed.wrapping_mul(31).wrapping_add(i as u64 * 1000 + h.lives));
        (
            SkewedClock { truth: Arc::clone(&self.truth), skew_ns: h.clock_skew },
            SeededRandom(Mutex::new(random)),
        )
    }

    fn open(&mut self, i: usize) {
        let (clock, random) = self.senses(i);
        let parts = Parts {
            disk: Arc::new(self.hosts[i].disk.clone()) as Arc<dyn Disk>,
            clock: Arc::new(clock),
            random: Arc::new(random),
            index: Arc::new(MemoryIndex::new()),
        };
        let options = Options { moves_redone: self.moves_redone, ..options() };
        self.hosts[i].store = Some(Store::open_parts(parts, options).unwrap());
        self.set_policy(i);
    }

    fn strike(&mut self, what: &'static str) {
        assert!(STRIKES.contains(&what), "{what} is on no list");
        *self.struck.entry(what).or_default() += 1;
    }

    /// How far a host's clock is ahead of the true time.
    pub fn skew_ns(&self, i: usize) -> i64 {
        self.hosts[i].clock_skew
    }

    pub fn store(&self, i: usize) -> &Store {
        self.hosts[i].store.as_ref().unwrap()
    }

    pub fn sync(&mut self, i: usize) {
        self.store(i).sync_all().unwrap();
        let pending = std::mem::take(&mut self.hosts[i].pending);
        self.acknowledged.extend(pending);
    }

    /// Power is cut: some of what was not synced is gone.
    pub fn crash(&mut self, i: usize) {
        let image = self.hosts[i].disk.crash_image(self.rng.next());
        self.hosts[i].store = None;
        self.hosts[i].disk = image;
        self.hosts[i].pending.clear();
        self.open(i);
        self.strike("a crash");
    }

    /// Somebody copies the disk away.
    pub fn copy_away(&mut self, i: usize) {
        self.sync(i);
        self.hosts[i].backup = Some(self.hosts[i].disk.crash_image(self.rng.next()));
    }

    /// The disk is what it was when it was copied away, and the store, which can't know, goes on from there.
    pub fn set_back(&mut self, i: usize) {
        // What others took in unsynced, their next crash may take too.
        (0..3).filter(|h| *h != i).for_each(|h| self.sync(h));
        let Some(image) = &self.hosts[i].backup else { return };
        let image = image.crash_image(self.rng.next());
        self.hosts[i].store = None;
        self.hosts[i].disk = image;
        self.hosts[i].pending.clear();
        self.open(i);
        // Only what nobody else has is lost with the disk.
        let stores: Vec<_> = (0..3).map(|h| self.hosts[h].store.as_ref().unwrap()).collect();
        let is_there = |id: &VersionId| stores.iter().any(|s| holds_version(s, *id));
        self.acknowledged.retain(is_there);
        self.forget_makers(i);
        self.strike("a disk set back");
    }

    fn step(&mut self) {
        self.truth.fetch_add(1 + self.rng.below(50_000_000), Relaxed);
        let i = self.rng.below(3) as usize;
        match self.rng.below(100) {
            0..67 => self.operate(i),
            67 => self.clean(i),
            68..73 => self.expire(i),
            73..78 => self.sync(i),
            78..81 => self.crash(i),
            81..83 => self.copy_away(i),
            83 => self.set_back(i),
            84..88 => self.duel(i, (i + 1) % 3),
            88..90 => self.deliver_late(),
            _ => {
                let j = (i + 1 + self.rng.below(2) as usize) % 3;
                let loss = self.rng.below(60);
                self.exchange(i, j, loss);
            }
        }
    }

    /// Sends from one host to another; some parcels are lost, some come twice, all in any order. Returns how many versions got the
    /// content that they had come without.
    fn exchange(&mut self, from: usize, to: usize, loss: u64) -> u64 {
        self.sync(from);
        let known = self.store(to).knowledge().unwrap();
        let (mut parcels, _) = self.store(from).parcels(&known, Lsn::FIRST, usize::MAX).unwrap();
        for n in (1..parcels.len()).rev() {
            parcels.swap(n, self.rng.below(n as u64 + 1) as usize);
        }
        for parcel in &parcels {
            if self.rng.percent(loss) {
                self.strike("facts lost on the way");
                if self.rng.percent(20) {
                    let from = (from, self.hosts[from].lives);
                    self.late.push(Late { from, to, parcel: parcel.clone() });
                }
                continue;
            }
            self.import(from, to, parcel);
            if self.rng.percent(10) {
                self.strike("facts that came twice");
                self.import(from, to, parcel);
            }
        }
        let mut told = known;
        parcels.iter().for_each(|p| told.add(&p.origin));
        if !told.includes(&self.store(from).knowledge().unwrap()) {
            self.tell(from, to, loss);
        }
        if self.rng.percent(30) {
            self.settle_moves(to);
        }
        if self.rng.percent(loss) { 0 } else { self.supply(from, to) }
    }

    /// What the threads of a store would do soon; says whether there was anything.
    pub fn settle_moves(&mut self, i: usize) -> bool {
        let did = self.store(i).settle_moves().unwrap();
        if did {
            self.strike("moves that waited");
        }
        did
    }

    /// What was long on its way arrives, perhaps once more.
    fn deliver_late(&mut self) {
        for late in std::mem::take(&mut self.late) {
            if self.hosts[late.from.0].lives == late.from.1 {
                self.strike("facts that came late");
                self.import(late.from.0, late.to, &late.parcel);
            }
        }
    }

    fn import(&self, from: usize, to: usize, parcel: &Parcel) {
        let source = self.store(from);
        self.store(to)
            .import(parcel, &mut |id| source.extent_bytes(parcel, id))
            .unwrap_or_else(|e| panic!("seed {}: host {to} refuses facts of host {from}: {e}", self.seed));
    }

    /// All hosts have all facts, so that what anybody says from now on is newer: none needs the moves before that. A disk that was
    /// copied away before is gone.
    fn forget_moves(&mut self) {
        self.settle();
        for i in 0..3 {
            self.sync(i);
            self.hosts[i].backup = None;
            if self.store(i).forget_moves_before(u64::MAX).unwrap() > 0 {
                self.strike("moves that were forgotten");
            }
            self.sync(i);
        }
    }

    fn settle(&mut self) {
        for _ in 0..10 {
            let before: Vec<_> = (0..3).map(|i| self.store(i).knowledge().unwrap()).collect();
            let mut supplied = 0;
            for (from, to) in [(0, 1), (1, 2), (2, 0), (1, 0), (2, 1), (0, 2)] {
                supplied += self.exchange(from, to, 0);
            }
            for i in 0..3 {
                self.settle_moves(i);
            }
            let after: Vec<_> = (0..3).map(|i| self.store(i).knowledge().unwrap()).collect();
            // What no host holds, and one was told before its teller's disk was set back, is that one's own.
            let adopts = |i: usize| self.store(i).adopt().unwrap();
            let alike = after[0] == after[1] && after[1] == after[2] && before == after;
            // What one was supplied with, others may lack.
            if alike && supplied == 0 && !(0..3).any(adopts) {
                return;
            }
        }
        panic!("seed {}: the hosts never held the same facts", self.seed);
    }
}

/// Is this version here, or does it wait here for another?
fn holds_version(store: &Store, id: VersionId) -> bool {
    store.find_version(id).unwrap().is_some()
}

/// Runs a world, and says what struck in it.
fn run(seed: u64, steps: u64) -> Struck {
    let mut world = World::new(seed);
    world.keeping = Keeping::new(seed);
    (0..3).for_each(|i| world.set_policy(i));
    for n in 0..steps {
        if seed % 4 == 1 && n == steps / 2 {
            world.forget_moves();
        }
        world.step();
    }
    for i in 0..3 {
        world.finish_drafts(i);
    }
    world.settle();
    (0..3).for_each(|i| world.expire(i));
    world.agree(&format!("SEGFS_AGREE_SEED={seed} cargo test --test it -- sim::agree --nocapture"));
    for what in showing(world.store(0)) {
        world.strike(what);
    }
    world.struck
}

/// As a test of the tests wants it: the world of this seed, and what was wrong in it.
#[cfg(feature = "planted-bugs")]
pub fn live(seed: u64) -> Result<(), String> {
    let lived = std::panic::catch_unwind(|| run(seed, steps_of(seed)));
    lived.map(drop).map_err(|why| why.downcast_ref::<String>().cloned().unwrap_or("a panic".into()))
}

impl World {
    /// All hosts hold the same facts: they must show the same, lack nothing that was acknowledged, and do so after a replay too.
    pub fn agree(&mut self, replay: &str) {
        let seed = self.seed;
        let portraits: Vec<_> = (0..3).map(|i| portrait(self.store(i))).collect();
        for i in 1..3 {
            let keys: BTreeSet<_> = portraits[0].keys().chain(portraits[i].keys()).collect();
            let both = |k: &str| portraits[0].contains_key(k) && portraits[i].contains_key(k);
            let differ: Vec<_> = keys
                .into_iter()
                .filter(|k| portraits[0].get(*k) != portraits[i].get(*k))
                .filter(|k| self.keeping.all() || !is_version(k) || both(k))
                .collect();
            if differ.is_empty() {
                continue;
            }
            for h in [0, i] {
                println!("host {h} {} {:?}", self.store(h).id(), self.store(h).knowledge().unwrap());
                for k in &differ {
                    println!("{k}: {}", portraits[h].get(*k).map_or("-", |s| s));
                }
                if let Ok(object) = std::env::var("SEGFS_AGREE_OBJECT") {
                    trace(self.store(h), &object);
                }
            }
            panic!("seed {seed}: hosts 0 and {i} differ\nreplay: {replay}");
        }
        self.check_kept();
        for id in self.acknowledged.iter().filter(|_| self.keeping.all()) {
            for i in 0..3 {
                let found = self.store(i).find_version(*id).unwrap();
                assert!(found.is_some(), "seed {seed}: host {i} lacks acknowledged version {id}");
            }
        }
        // What they hold survives: rebuilt from the log alone, each shows the same.
        for (i, before) in portraits.iter().enumerate() {
            self.sync(i);
            self.hosts[i].store = None;
            self.open(i);
            assert_eq!(&portrait(self.store(i)), before, "seed {seed}: host {i} after reopening");
        }
    }

    /// Crashes leave drafts; they are made versions, so that all bytes can be compared.
    pub fn finish_drafts(&mut self, i: usize) {
        // What hangs in a directory that waits for its place is found nowhere.
        self.settle_moves(i);
        let store = self.hosts[i].store.as_ref().unwrap();
        let mut made = Vec::new();
        for dir in self.directories(i, usize::MAX) {
            for e in store.view().entries(dir, None, usize::MAX).unwrap() {
                for c in store.view().contenders(dir, &e.name).unwrap() {
                    if c.kind == ObjectKind::File {
                        made.extend(store.commit_version(c.ino).unwrap().1);
                    }
                }
            }
        }
        self.note_made(i, &made);
    }
}

fn steps_of(seed: u64) -> u64 {
    40 + seed % 120
}

#[test]
fn stores_with_the_same_facts_agree() {
    if let Ok(seed) = std::env::var("SEGFS_AGREE_SEED") {
        let seed = seed.parse().unwrap();
        println!("{:?}", run(seed, steps_of(seed)));
        return;
    }
    let seeds: u64 = std::env::var("SEGFS_AGREE_SEEDS").map_or(300, |s| s.parse().unwrap());
    let next = AtomicU64::new(0);
    let struck = Mutex::new(Struck::new());
    std::thread::scope(|s| {
        for _ in 0..2 {
            s.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Relaxed);
                    if seed >= seeds {
                        return;
                    }
                    let found = run(seed, steps_of(seed));
                    // So many worlds, not so many times.
                    let mut struck = struck.lock();
                    found.into_keys().for_each(|what| *struck.entry(what).or_default() += 1);
                }
            });
        }
    });
    if seeds >= 100 {
        STRUCK.check();
    }
    let struck = struck.into_inner();
    println!("of {seeds} worlds: {struck:?}");
    for what in STRIKES {
        let worlds = struck.get(what).copied().unwrap_or(0);
        assert!(worlds >= seeds / 50, "{what}: in {worlds} of {seeds} worlds");
    }
}

/// A store by itself, on a simulated disk.
pub struct Solo {
    pub disk: SimDisk,
    pub store: Store,
    pub clock: Arc<dyn Clock>,
    seed: u64,
    options: Options,
}

impl Solo {
    pub fn new(seed: u64) -> Self {
        Self::with(seed, options())
    }

    /// With segments that hold large extents.
    pub fn large(seed: u64) -> Self {
        Self::with(seed, Options { segment_bytes: 4 << 20, ..options() })
    }

    fn with(seed: u64, options: Options) -> Self {
        let disk = SimDisk::new(seed);
        let truth = Arc::new(AtomicU64::new(1_790_000_000_000_000_000));
        let clock: Arc<dyn Clock> = Arc::new(SkewedClock { truth, skew_ns: 0 });
        let random = SeededRandom(Mutex::new(Rng::new(seed)));
        Store::format(&disk, &options, &*clock, &random, "".as_ref()).unwrap();
        Self::open(disk, clock, seed + 1000, options)
    }

    fn open(disk: SimDisk, clock: Arc<dyn Clock>, seed: u64, options: Options) -> Self {
        let store = Store::open_parts(Self::parts(&disk, &clock, seed), options.clone()).unwrap();
        Self { disk, store, clock, seed, options }
    }

    fn parts(disk: &SimDisk, clock: &Arc<dyn Clock>, seed: u64) -> Parts {
        Parts {
            disk: Arc::new(disk.clone()) as Arc<dyn Disk>,
            clock: Arc::clone(clock) as _,
            random: Arc::new(SeededRandom(Mutex::new(Rng::new(seed)))),
            index: Arc::new(MemoryIndex::new()),
        }
    }

    /// As [`on`](Self::on), where it may not open.
    pub fn try_on(&self, disk: &SimDisk) -> Result<Store, Error> {
        Store::open_parts(Self::parts(disk, &self.clock, self.seed + 1000), self.options.clone())
    }

    /// After a power cut.
    pub fn crash(self, chance: u64) -> Self {
        self.on(self.disk.crash_image(chance))
    }

    /// The same store, opened from another image of its disk.
    pub fn on(&self, disk: SimDisk) -> Self {
        Self::open(disk, Arc::clone(&self.clock), self.seed + 1000, self.options.clone())
    }
}
