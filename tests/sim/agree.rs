//! Three stores write at once, exchange facts in any order, and must agree once they hold the same ones.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use parking_lot::Mutex;
use segfs::{
    base::{Clock, Error, Ino, Lsn, Random, VersionId},
    disk::Disk,
    format::facts::{ObjectKind, Owner, Time},
    index::MemoryIndex,
    store::{NewObject, Options, Parcel, Parts, Rename, SetAttributes, Store},
};

use super::{disk::SimDisk, rng::Rng};

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

struct Host {
    disk: SimDisk,
    store: Option<Store>,
    clock_skew: i64,
    lives: u64,
    /// Versions made here that nobody made durable yet.
    pending: Vec<VersionId>,
    /// The disk as somebody copied it away at some time.
    backup: Option<SimDisk>,
}

/// A parcel on a long way: from which life of which host, to which, what.
struct Late {
    from: (usize, u64),
    to: usize,
    parcel: Parcel,
}

struct World {
    seed: u64,
    rng: Rng,
    truth: Arc<AtomicU64>,
    hosts: Vec<Host>,
    acknowledged: BTreeSet<VersionId>,
    late: Vec<Late>,
}

fn options() -> Options {
    Options { segment_bytes: 64 << 10, background: false, mint_interrupted: false, ..Options::default() }
}

impl World {
    fn new(seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let truth = Arc::new(AtomicU64::new(1_790_000_000_000_000_000));
        let hosts = (0..3_u64)
            .map(|i| Host {
                disk: SimDisk::new(seed ^ i),
                store: None,
                clock_skew: if rng.percent(50) {
                    0
                } else {
                    rng.below(7_200_000_000_000) as i64 - 3_600_000_000_000
                },
                lives: 0,
                pending: Vec::new(),
                backup: None,
            })
            .collect();
        let mut world = Self { seed, rng, truth, hosts, acknowledged: BTreeSet::new(), late: Vec::new() };
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
        self.hosts[i].store = Some(Store::open_parts(parts, options()).unwrap());
    }

    fn store(&self, i: usize) -> &Store {
        self.hosts[i].store.as_ref().unwrap()
    }

    fn sync(&mut self, i: usize) {
        self.store(i).sync_all().unwrap();
        let pending = std::mem::take(&mut self.hosts[i].pending);
        self.acknowledged.extend(pending);
    }

    /// Power is cut: some of what was not synced is gone.
    fn crash(&mut self, i: usize) {
        let image = self.hosts[i].disk.crash_image(self.rng.next());
        self.hosts[i].store = None;
        self.hosts[i].disk = image;
        self.hosts[i].pending.clear();
        self.open(i);
    }

    /// The disk is what it was when it was copied away, and the store, which can't know, goes on from there.
    fn set_back(&mut self, i: usize) {
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
    }

    /// Two hosts do what gets in each other's way, before either hears of the other.
    fn duel(&mut self, i: usize, j: usize) {
        self.exchange(i, j, 0);
        self.exchange(j, i, 0);
        let (a, b): (&[u8], &[u8]) = (b"n0", b"n1");
        let both = |world: &Self, name: &[u8]| {
            let [x, y] = [i, j].map(|h| world.store(h).view().lookup(Ino::FIRST, name).ok());
            x.zip(y).filter(|(x, y)| x.object == y.object)
        };
        let (here, there) = (both(self, a), both(self, b));
        let new_dir = NewObject::directory(0o755, Owner::default());
        let bytes = self.rng.next();
        let how = self.rng.below(6);
        let (s, t) = (self.store(i), self.store(j));
        let mut written = Vec::new();
        let done: [Result<(), Error>; 2] = match (how, here, there) {
            // Each into the other, if they are directories; else over each other.
            (0 | 1, Some((x, x2)), Some((y, _))) => {
                let dirs = x.kind == ObjectKind::Directory && y.kind == ObjectKind::Directory;
                let into = |d: Ino| if dirs { d } else { Ino::FIRST };
                let name = |n| if dirs { &b"in"[..] } else { n };
                [
                    s.rename((Ino::FIRST, a), (into(y.ino), name(b)), Rename::Replace).map(drop),
                    t.rename((Ino::FIRST, b), (into(x2.ino), name(a)), Rename::Replace).map(drop),
                ]
            }
            // A delete against an edit, and against a further link.
            (2, Some((x, x2)), _) if x.kind == ObjectKind::File => {
                let removed = s.unlink(Ino::FIRST, a).map(drop);
                let edited = t.write(x2.ino, bytes % 5000, b"edited").and_then(|_| t.commit_version(x2.ino));
                [removed, edited.map(|(_, id)| written.extend(id))]
            }
            (3, Some((x, x2)), _) if x.kind == ObjectKind::File => {
                [s.unlink(Ino::FIRST, a).map(drop), t.link(x2.ino, Ino::FIRST, b"n4").map(drop)]
            }
            // A removal against a file made below.
            (4, Some((x, x2)), _) if x.kind == ObjectKind::Directory => {
                let removed = s.rmdir(Ino::FIRST, a).map(drop);
                let made = write(t, x2.ino, b"below", bytes);
                [removed, made.map(|id| written.extend(id))]
            }
            // A directory made twice, with something in each.
            _ => [s, t].map(|s| {
                let dir = s.create_object(Ino::FIRST, b"n3", &new_dir)?.1.ino;
                s.create_object(dir, b"same", &new_dir).map(drop)
            }),
        };
        self.hosts[j].pending.extend(written);
        for e in done.into_iter().filter_map(Result::err) {
            assert!(matches!(e, Error::Fs(_)), "seed {}: {e}", self.seed);
        }
    }

    fn step(&mut self) {
        self.truth.fetch_add(1 + self.rng.below(50_000_000), Relaxed);
        let i = self.rng.below(3) as usize;
        match self.rng.below(100) {
            0..70 => self.operate(i),
            70..78 => self.sync(i),
            78..81 => self.crash(i),
            81..83 => {
                self.sync(i);
                self.hosts[i].backup = Some(self.hosts[i].disk.crash_image(self.rng.next()));
            }
            83 => self.set_back(i),
            84..87 => self.duel(i, (i + 1) % 3),
            87..89 => self.deliver_late(),
            _ => {
                let j = (i + 1 + self.rng.below(2) as usize) % 3;
                let loss = self.rng.below(60);
                self.exchange(i, j, loss);
            }
        }
    }

    /// Up to `limit` directories, and some more.
    fn directories(&self, i: usize, limit: usize) -> Vec<Ino> {
        let mut found = vec![Ino::FIRST];
        let mut at = 0;
        while at < found.len() && found.len() < limit {
            for e in self.store(i).view().entries(found[at], None, 100).unwrap() {
                if e.kind == ObjectKind::Directory {
                    found.push(e.ino);
                }
            }
            at += 1;
        }
        found
    }

    fn operate(&mut self, i: usize) {
        let dirs = self.directories(i, 12);
        let dir = dirs[self.rng.below(dirs.len() as u64) as usize];
        let other = dirs[self.rng.below(dirs.len() as u64) as usize];
        let name = |n: u64| format!("n{n}").into_bytes();
        let (a, b) = (name(self.rng.below(5)), name(self.rng.below(5)));
        let (what, bytes) = (self.rng.below(100), self.rng.next());
        let store = self.hosts[i].store.as_ref().unwrap();
        let there = store.view().lookup(dir, &a).ok();
        let result: Result<(), Error> = match what {
            0..18 => store.create_object(dir, &a, &NewObject::directory(0o755, Owner::default())).map(drop),
            18..22 => {
                store.create_object(dir, &a, &NewObject::symlink(b.clone(), Owner::default())).map(drop)
            }
            22..50 => write(store, dir, &a, bytes).map(|id| self.hosts[i].pending.extend(id)),
            50..58 => store.unlink(dir, &a).map(drop),
            58..64 => store.rmdir(dir, &a).map(drop),
            64..84 => {
                let how = [Rename::Replace, Rename::Replace, Rename::NoReplace, Rename::Exchange];
                store.rename((dir, &a), (other, &b), how[bytes as usize % 4]).map(drop)
            }
            84..90 => there.map_or(Ok(()), |t| store.link(t.ino, other, &b).map(drop)),
            90..94 => there.map_or(Ok(()), |t| {
                let mode = Some((bytes as u32) & 0o7777);
                let modified = (bytes % 3 == 0).then_some(Time { seconds: -5, nanos: bytes as u32 % 1000 });
                store.set_attributes(t.ino, &SetAttributes { mode, modified, ..Default::default() }).map(drop)
            }),
            94..98 => there.map_or(Ok(()), |t| {
                let value = [bytes as u8];
                let value = (bytes % 4 != 0).then_some(&value[..]);
                store.set_xattr(t.ino, b"user.x", value, None).map(drop)
            }),
            _ => store.tag(&a, bytes % 3 != 0).map(drop),
        };
        if let Err(e) = result {
            assert!(matches!(e, Error::Fs(_)), "seed {}: {e}", self.seed);
        }
    }

    /// Sends from one host to another; some parcels are lost, some come twice, all in any order.
    fn exchange(&mut self, from: usize, to: usize, loss: u64) {
        self.sync(from);
        let known = self.store(to).knowledge().unwrap();
        let (mut parcels, _) = self.store(from).parcels(&known, Lsn::FIRST, usize::MAX).unwrap();
        for n in (1..parcels.len()).rev() {
            parcels.swap(n, self.rng.below(n as u64 + 1) as usize);
        }
        for parcel in &parcels {
            if self.rng.percent(loss) {
                if self.rng.percent(20) {
                    let from = (from, self.hosts[from].lives);
                    self.late.push(Late { from, to, parcel: parcel.clone() });
                }
                continue;
            }
            self.import(from, to, parcel);
            if self.rng.percent(10) {
                self.import(from, to, parcel);
            }
        }
    }

    /// What was long on its way arrives, perhaps once more.
    fn deliver_late(&mut self) {
        for late in std::mem::take(&mut self.late) {
            if self.hosts[late.from.0].lives == late.from.1 {
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

    fn settle(&mut self) {
        for _ in 0..10 {
            let before: Vec<_> = (0..3).map(|i| self.store(i).knowledge().unwrap()).collect();
            for (from, to) in [(0, 1), (1, 2), (2, 0), (1, 0), (2, 1), (0, 2)] {
                self.exchange(from, to, 0);
            }
            let after: Vec<_> = (0..3).map(|i| self.store(i).knowledge().unwrap()).collect();
            if after[0] == after[1] && after[1] == after[2] && before == after {
                return;
            }
        }
        panic!("seed {}: the hosts never held the same facts", self.seed);
    }
}

/// Writes a file as an editor would: in place, or a new one renamed over the old.
fn write(store: &Store, dir: Ino, name: &[u8], bytes: u64) -> Result<Option<VersionId>, Error> {
    let by_rename = bytes.is_multiple_of(3);
    let target: &[u8] = if by_rename { b"tmp" } else { name };
    let ino = match store.view().lookup(dir, target) {
        Ok(a) => a.ino,
        Err(_) => store.create_object(dir, target, &NewObject::file(0o644, Owner::default()))?.1.ino,
    };
    let data: Vec<u8> = (0..(bytes >> 8) % 9000).map(|n| (n ^ bytes) as u8).collect();
    if bytes.is_multiple_of(5) {
        store.truncate(ino, (bytes >> 16) % 200_000)?;
    }
    if !data.is_empty() {
        store.write(ino, (bytes >> 24) % 150_000, &data)?;
    }
    let (_, id) = store.commit_version(ino)?;
    if by_rename {
        store.rename((dir, b"tmp"), (dir, name), Rename::Replace)?;
    }
    Ok(id)
}

/// Is this version here, or does it wait here for another?
fn holds_version(store: &Store, id: VersionId) -> bool {
    store.find_version(id).unwrap().is_some()
}

/// Everything that hosts with the same facts must show alike.
fn portrait(store: &Store) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    all.insert("tags".into(), format!("{:?}", store.view().tags().unwrap()));
    let mut open = vec![(String::new(), Ino::FIRST)];
    while let Some((path, dir)) = open.pop() {
        all.insert(format!("{path}/"), describe(store, dir));
        for e in store.view().entries(dir, None, usize::MAX).unwrap() {
            let at = format!("{path}/{}", e.name.escape_ascii());
            for (n, c) in store.view().contenders(dir, &e.name).unwrap().into_iter().enumerate() {
                if n == 0 && c.kind == ObjectKind::Directory {
                    open.push((at.clone(), c.ino));
                } else {
                    all.insert(format!("{at} #{n}"), describe(store, c.ino));
                }
            }
        }
    }
    all
}

fn describe(store: &Store, ino: Ino) -> String {
    let v = store.view();
    let a = v.attributes(ino).unwrap();
    let mut s = String::new();
    let _ = write!(
        s,
        "{} {:?} {:o} {:?} links {} size {} modified {:?} changed {:?}",
        a.object,
        a.kind,
        a.mode,
        a.owner,
        a.links,
        if a.draft { 0 } else { a.size },
        a.modified,
        a.changed
    );
    for name in v.xattrs(ino).unwrap() {
        let _ = write!(s, "\n  {} = {:?}", name.escape_ascii(), v.xattr(ino, &name).unwrap());
    }
    if a.kind == ObjectKind::Symlink {
        let _ = write!(s, "\n  -> {}", v.read_link(ino).unwrap().escape_ascii());
    }
    let versions = v.versions(ino, None, usize::MAX).unwrap();
    let heads = v.heads(ino).unwrap();
    let mut lines: Vec<_> = versions
        .iter()
        .map(|i| {
            let mut bytes = vec![0; i.size as usize];
            if a.kind == ObjectKind::File {
                assert_eq!(store.read_version(ino, i.lsn, 0, &mut bytes).unwrap(), bytes.len());
            }
            let mut sum = 0_u64;
            for b in &bytes {
                sum = sum.wrapping_mul(0x0100_0000_01b3) ^ u64::from(*b);
            }
            let head = if heads.contains(&i.lsn) { "head" } else { "" };
            format!("\n  {} {} {} {:?} {sum:x} {head}", i.id, i.created_ns, i.size, i.parents)
        })
        .collect();
    lines.sort();
    s.extend(lines);
    if a.kind == ObjectKind::File {
        let mut bytes = vec![0; a.size as usize];
        v.read(ino, 0, &mut bytes).unwrap();
        let sum = bytes.iter().fold(0_u64, |s, b| s.wrapping_mul(0x0100_0000_01b3) ^ u64::from(*b));
        let _ = write!(s, "\n  shows {sum:x}");
    }
    s
}

fn run(seed: u64, steps: u64) {
    let mut world = World::new(seed);
    for _ in 0..steps {
        world.step();
    }
    for i in 0..3 {
        world.finish_drafts(i);
    }
    world.settle();
    let portraits: Vec<_> = (0..3).map(|i| portrait(world.store(i))).collect();
    for i in 1..3 {
        let keys: BTreeSet<_> = portraits[0].keys().chain(portraits[i].keys()).collect();
        let differ: Vec<_> =
            keys.into_iter().filter(|k| portraits[0].get(*k) != portraits[i].get(*k)).collect();
        if differ.is_empty() {
            continue;
        }
        for h in [0, i] {
            println!("host {h} {}", world.store(h).id());
            for k in &differ {
                println!("{k}: {}", portraits[h].get(*k).map_or("-", |s| s));
            }
            if let Ok(object) = std::env::var("SEGFS_AGREE_OBJECT") {
                trace(world.store(h), &object);
            }
        }
        panic!(
            "seed {seed}: hosts 0 and {i} differ\nreplay: SEGFS_AGREE_SEED={seed} cargo test --test it -- sim::agree --nocapture"
        );
    }
    for id in &world.acknowledged {
        for i in 0..3 {
            let found = world.store(i).find_version(*id).unwrap();
            assert!(found.is_some(), "seed {seed}: host {i} lacks acknowledged version {id}");
        }
    }
    // What they hold survives: rebuilt from the log alone, each shows the same.
    for (i, before) in portraits.iter().enumerate() {
        world.sync(i);
        world.hosts[i].store = None;
        world.open(i);
        assert_eq!(&portrait(world.store(i)), before, "seed {seed}: host {i} after reopening");
    }
}

impl World {
    /// Crashes leave drafts; they are made versions, so that all bytes can be compared.
    fn finish_drafts(&mut self, i: usize) {
        let store = self.hosts[i].store.as_ref().unwrap();
        for dir in self.directories(i, usize::MAX) {
            for e in store.view().entries(dir, None, usize::MAX).unwrap() {
                for c in store.view().contenders(dir, &e.name).unwrap() {
                    if c.kind == ObjectKind::File {
                        let _ = store.commit_version(c.ino).unwrap();
                    }
                }
            }
        }
    }
}

fn steps_of(seed: u64) -> u64 {
    40 + seed % 120
}

#[test]
fn stores_with_the_same_facts_agree() {
    if let Ok(seed) = std::env::var("SEGFS_AGREE_SEED") {
        let seed = seed.parse().unwrap();
        return run(seed, steps_of(seed));
    }
    let seeds: u64 = std::env::var("SEGFS_AGREE_SEEDS").map_or(300, |s| s.parse().unwrap());
    let next = AtomicU64::new(0);
    std::thread::scope(|s| {
        for _ in 0..2 {
            s.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Relaxed);
                    if seed >= seeds {
                        return;
                    }
                    run(seed, steps_of(seed));
                }
            });
        }
    });
}

/// For whoever hunts a difference: what a host's log says of an object.
#[allow(dead_code)]
fn trace(store: &Store, object: &str) {
    store.sync_all().unwrap();
    let mut s = store.subscribe(Lsn::FIRST);
    while let Ok(Some(segfs::log::Next::Record(r))) = s.try_next() {
        let Some(head) = r.head else { continue };
        if r.kind == segfs::format::Kind::Extent {
            if head.object.to_string() == object || r.flags & 4 != 0 {
                println!(
                    "  {} extent flags {} at {} len {} {:?}",
                    r.lsn, r.flags, head.arg, head.raw_len, head.origin
                );
            }
            continue;
        }
        let facts: Vec<segfs::format::facts::Fact> = segfs::format::code::decode(&r.payload).unwrap();
        for f in facts {
            let f = format!("{f:?}");
            if f.contains(object) {
                println!("  {} {} flags {} stamp {}: {f}", r.lsn, head.origin.seq, r.flags, head.stamp);
            }
        }
    }
}
