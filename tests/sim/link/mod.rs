//! Peers: the sessions of `replicate` over links that delay, cut, double and reorder, between stores that crash.

mod cases;
mod cuts;
mod gone;
pub mod wire;

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use segfs::{
    base::Lsn,
    disk::Disk,
    format::wire::Bye,
    replicate::{Acquaintances, End, Input, Notice},
    store::Knowledge,
};

use super::{agree::World, disk::Faults};
use wire::{Link, me};

const PAIRS: [(usize, usize); 3] = [(0, 1), (1, 2), (2, 0)];
/// Connections of one pair at once.
const AT_ONCE: usize = 2;

/// A connection and the hosts at its ends.
struct Between {
    hosts: [usize; 2],
    link: Link,
}

struct Net {
    world: World,
    links: Vec<Between>,
    met: [Acquaintances; 3],
    /// What somebody was told that this host holds durably: after a crash it must be there.
    claimed: [Knowledge; 3],
    /// Where the last connection from one to the other stood.
    cursors: [[Lsn; 3]; 3],
    /// Hosts whose disk was made to fail, until they crash.
    failing: [bool; 3],
    /// Hosts whose disk is full.
    full: [bool; 3],
}

/// What has happened in all worlds, so that a world in which nothing happens is noticed.
struct Happened {
    connections: AtomicU64,
    cuts_within: AtomicU64,
    kills_within: AtomicU64,
    batches: AtomicU64,
    failed: AtomicU64,
    stopped: AtomicU64,
    walked_again: AtomicU64,
    told: AtomicU64,
}

/// Worlds from this one on clean their logs.
const CLEANING: u64 = 1_000_000;

static HAPPENED: Happened = Happened {
    connections: AtomicU64::new(0),
    cuts_within: AtomicU64::new(0),
    kills_within: AtomicU64::new(0),
    batches: AtomicU64::new(0),
    failed: AtomicU64::new(0),
    stopped: AtomicU64::new(0),
    walked_again: AtomicU64::new(0),
    told: AtomicU64::new(0),
};

fn count(what: &AtomicU64, n: usize) {
    what.fetch_add(n as u64, Relaxed);
}

impl Net {
    fn new(seed: u64) -> Self {
        let world = World::new(seed);
        Self {
            world,
            links: Vec::new(),
            met: Default::default(),
            claimed: Default::default(),
            cursors: [[Lsn::FIRST; 3]; 3],
            failing: [false; 3],
            full: [false; 3],
        }
    }

    fn now(&self) -> u64 {
        self.world.truth.load(Relaxed)
    }

    fn below(&mut self, n: usize) -> usize {
        self.world.rng.below(n as u64) as usize
    }

    fn connect(&mut self, hosts: [usize; 2]) {
        let there = self.links.iter().filter(|l| l.hosts == hosts).count();
        if there >= AT_ONCE {
            return;
        }
        let now = self.now();
        let sides = [0, 1].map(|n| {
            let (here, there) = (hosts[n], hosts[1 - n]);
            let store = self.world.hosts[here].store.as_ref().unwrap();
            let cursor = match self.world.rng.below(10) {
                0..5 => self.cursors[here][there],
                // Of another time, or of another log altogether.
                5 => Lsn::new(self.world.rng.below(2 * store.last_lsn().get() + 2)),
                _ => Lsn::FIRST,
            };
            me(store, now, cursor)
        });
        count(&HAPPENED.connections, 1);
        self.links.push(Between { hosts, link: Link::new(sides, now) });
    }

    /// One of the things that happen on a connection, or nothing.
    fn traffic(&mut self, at: usize) {
        let n = self.below(2);
        let most = [1, 60, 4000, 100_000][self.below(4)];
        let now = self.now();
        // What happens at once, of the three things that can.
        let happens = self.world.rng.below(8);
        let l = &mut self.links[at];
        if happens & 1 == 0 {
            l.link.carry(n, most);
        }
        if happens & 2 == 0 {
            l.link.deliver(1 - n, most, now);
        }
        let host = l.hosts[n];
        if happens & 4 == 0
            && let Some(side) = &mut l.link.sides[n]
            && !side.todo.is_empty()
        {
            let nth = self.world.rng.below(side.todo.len() as u64) as usize;
            let store = self.world.hosts[host].store.as_ref().unwrap();
            side.work(nth, store, &mut self.met[host], now);
        }
        self.check(at);
    }

    fn check(&self, at: usize) {
        let l = &self.links[at];
        for n in 0..2 {
            let fine = match l.link.ended(n) {
                None | Some(End::Silent | End::Said(Bye::Done) | End::Told(Bye::Done)) => true,
                // Whose disk failed says so.
                Some(End::Said(Bye::Stopped)) => self.failing[l.hosts[n]] || self.full[l.hosts[n]],
                Some(End::Told(Bye::Stopped)) => true,
                Some(_) => false,
            };
            let seed = self.world.seed;
            assert!(fine, "seed {seed}: between {:?}, side {n}: {:?}", l.hosts, l.link.ended(n));
        }
    }

    /// A connection is gone: what it has learned stays.
    fn drop_link(&mut self, at: usize) {
        let l = self.links.swap_remove(at);
        for side in l.link.sides.iter().flatten() {
            let of = |what: fn(&Notice) -> bool| side.notices.iter().filter(|n| what(n)).count();
            count(&HAPPENED.failed, of(|n| matches!(n, Notice::Aside(..))));
            count(&HAPPENED.walked_again, of(|n| matches!(n, Notice::WalksAgain)));
            count(&HAPPENED.told, of(|n| matches!(n, Notice::Told(_))));
            count(&HAPPENED.stopped, usize::from(side.session.ended() == Some(End::Said(Bye::Stopped))));
        }
        for n in 0..2 {
            let (here, there) = (l.hosts[n], l.hosts[1 - n]);
            if let Some(side) = &l.link.sides[n] {
                for s in side.session.theirs().stretches() {
                    self.claimed[there].add_stretch(&s);
                }
                self.cursors[here][there] = side.session.cursor();
            }
        }
    }

    /// The connection is cut: some of what was on its way arrives.
    fn cut(&mut self, at: usize) {
        let now = self.now();
        for n in 0..2 {
            let some = self.below(3000);
            self.links[at].link.carry(n, some);
        }
        count(&HAPPENED.cuts_within, usize::from(self.links[at].link.pipes.iter().any(|p| !p.is_empty())));
        for to in 0..2 {
            let len = self.links[at].link.pipes[to].len();
            let some = self.below(len + 1);
            self.links[at].link.deliver(to, some, now);
        }
        self.check(at);
        self.drop_link(at);
    }

    /// The process of a host is gone. What it sent may still arrive, for as long as the others have not noticed.
    fn kill(&mut self, host: usize) {
        for at in (0..self.links.len()).rev() {
            let some = self.world.rng.below(3000) as usize;
            let l = &mut self.links[at];
            let Some(n) = l.hosts.iter().position(|h| *h == host) else { continue };
            let other = l.hosts[1 - n];
            l.link.carry(n, some);
            if let Some(side) = l.link.sides[n].take() {
                self.cursors[host][other] = side.session.cursor();
            }
            l.link.pipes[n].clear();
            count(&HAPPENED.kills_within, usize::from(!l.link.pipes[1 - n].is_empty()));
            if let Some(side) = &l.link.sides[1 - n] {
                for s in side.session.theirs().stretches() {
                    self.claimed[host].add_stretch(&s);
                }
            }
            if l.link.sides[1 - n].is_none() || self.world.rng.percent(50) {
                self.drop_link(at);
            }
        }
        self.met[host] = Acquaintances::default();
        (self.failing[host], self.full[host]) = (false, false);
    }

    fn crash(&mut self, host: usize) {
        self.kill(host);
        self.world.crash(host);
        let held = self.world.store(host).knowledge().unwrap();
        let lost: Vec<_> = self.claimed[host].minus(&held).stretches().collect();
        let seed = self.world.seed;
        assert!(lost.is_empty(), "seed {seed}: host {host} lost what it said is durable: {lost:?}");
    }

    fn set_back(&mut self, host: usize) {
        let unwell = self.failing.contains(&true) || self.full.contains(&true);
        if self.world.hosts[host].backup.is_none() || unwell {
            return;
        }
        self.kill(host);
        // What is in memory of its old self must not come as if it were of the new one.
        for at in (0..self.links.len()).rev() {
            if self.links[at].hosts.contains(&host) {
                self.drop_link(at);
            }
        }
        self.world.set_back(host);
        self.claimed[host] = Knowledge::default();
    }

    /// From some moment soon on the disk of this host fails, in one way or another.
    fn fail_disk(&mut self, host: usize) {
        let disk = self.world.hosts[host].disk.clone();
        let (counts, soon) = (disk.counts(), self.world.rng.below(12));
        let faults = match self.world.rng.below(3) {
            0 => Faults { fail_sync: Some(counts.syncs + soon / 4), ..Faults::default() },
            1 => Faults { fail_write: Some(counts.writes + soon), ..Faults::default() },
            _ => Faults { power_cut: Some(counts.operations + soon), ..Faults::default() },
        };
        disk.set_faults(faults);
        self.failing[host] = true;
    }

    /// From now on the disk of this host takes little more.
    fn fill_disk(&mut self, host: usize) {
        let disk = self.world.hosts[host].disk.clone();
        let space = disk.space().unwrap();
        let used = space.total_bytes - space.free_bytes;
        let capacity_bytes = Some(used + self.world.rng.below(200_000));
        disk.set_faults(Faults { capacity_bytes, ..Faults::default() });
        self.full[host] = true;
    }

    /// There is space again.
    fn empty_disk(&mut self, host: usize) {
        self.world.hosts[host].disk.set_faults(Faults::default());
        self.full[host] = false;
    }

    /// What was written there is durable: everybody is told.
    fn sync(&mut self, host: usize) {
        self.world.sync(host);
        let (now, durable) = (self.now(), self.world.store(host).durable_lsn());
        for l in &mut self.links {
            for n in 0..2 {
                if l.hosts[n] == host
                    && let Some(side) = &mut l.link.sides[n]
                {
                    side.session.handle(Input::Durable(durable), now);
                    side.gather();
                }
            }
        }
    }

    fn step(&mut self) {
        let later = 1 + self.world.rng.below(50_000_000);
        self.world.truth.fetch_add(later, Relaxed);
        let i = self.below(3);
        let healthy = !self.failing[i] && !self.full[i];
        match self.world.rng.below(100) {
            0..40 if healthy => self.world.operate(i),
            40..50 if healthy => self.sync(i),
            50..53 => self.crash(i),
            53 if healthy => self.world.copy_away(i),
            54 => self.set_back(i),
            55 if healthy => self.fail_disk(i),
            56 if healthy => self.fill_disk(i),
            57 if self.full[i] => self.empty_disk(i),
            57 | 69 if healthy && self.world.seed >= CLEANING => self.world.clean(i),
            58..66 => {
                let (a, b) = PAIRS[i];
                if !self.failing[a] && !self.failing[b] {
                    self.connect([a, b]);
                }
            }
            66..69 if !self.links.is_empty() => {
                let at = self.below(self.links.len());
                self.cut(at);
            }
            69 => {
                let now = self.now();
                for l in &mut self.links {
                    for side in l.link.sides.iter_mut().flatten() {
                        side.session.tick(now);
                        side.gather();
                    }
                }
            }
            _ => {
                for _ in 0..60 {
                    if self.links.is_empty() {
                        return;
                    }
                    let at = self.below(self.links.len());
                    self.traffic(at);
                    self.reap(at);
                }
            }
        }
    }

    /// Takes away a connection that has ended, or whose other side is gone and has nothing more on its way.
    fn reap(&mut self, at: usize) {
        let link = &self.links[at].link;
        let over = (0..2).any(|n| {
            let gone = link.sides[1 - n].is_none();
            link.ended(n).is_some() || (gone && link.pipes[n].is_empty())
        });
        if over {
            self.drop_link(at);
        }
    }

    /// Batches of others that a host holds.
    fn foreign(&self, host: usize) -> usize {
        let store = self.world.store(host);
        let held = store.knowledge().unwrap();
        held.stretches().filter(|s| s.store != store.id()).map(|s| (s.last - s.first + 1) as usize).sum()
    }

    /// The links are good again, and stay: until nothing is left to say.
    fn settle(&mut self) {
        let before: usize = (0..3).map(|h| self.foreign(h)).sum();
        count(&HAPPENED.batches, before);
        for host in 0..3 {
            if self.failing[host] {
                self.crash(host);
            }
            self.empty_disk(host);
            self.world.finish_drafts(host);
            self.world.sync(host);
            if self.world.seed >= CLEANING && self.world.rng.percent(50) {
                self.world.clean(host);
            }
        }
        // One connection of each pair is left: as a rule a new one, but what an old one could not send it must send again itself.
        for (a, b) in PAIRS {
            let old = self.links.iter().position(|l| {
                let whole = (0..2).all(|n| l.link.sides[n].is_some() && l.link.ended(n).is_none());
                whole && l.hosts == [a, b]
            });
            let keep = old.filter(|_| self.world.rng.percent(50));
            for at in (0..self.links.len()).rev() {
                if self.links[at].hosts == [a, b] && keep != Some(at) {
                    self.drop_link(at);
                }
            }
            if keep.is_none() {
                self.connect([a, b]);
            }
        }
        for _ in 0..40 {
            loop {
                let now = self.now();
                let mut did = false;
                for l in &mut self.links {
                    let [a, b] = l.hosts;
                    let stores = [a, b].map(|h| self.world.hosts[h].store.as_ref().unwrap());
                    let mut met = [a, b].map(|h| std::mem::take(&mut self.met[h]));
                    did |= l.link.run(stores, &mut met, now);
                    for (h, met) in [a, b].into_iter().zip(met) {
                        self.met[h] = met;
                    }
                }
                for host in 0..3 {
                    did |= self.world.settle_moves(host);
                    self.sync(host);
                }
                if !did {
                    break;
                }
            }
            for at in 0..self.links.len() {
                self.check(at);
            }
            let held: Vec<_> = (0..3).map(|h| self.world.store(h).knowledge().unwrap()).collect();
            let idle = self.links.iter().all(|l| l.link.sides.iter().flatten().all(|s| s.session.is_idle()));
            if idle && held[0] == held[1] && held[1] == held[2] {
                while !self.links.is_empty() {
                    self.drop_link(0);
                }
                return;
            }
            self.world.truth.fetch_add(9_000_000_000, Relaxed);
            let now = self.now();
            for side in self.links.iter_mut().flat_map(|l| l.link.sides.iter_mut().flatten()) {
                side.session.tick(now);
                side.gather();
            }
        }
        for l in &self.links {
            for n in 0..2 {
                println!("{:?} side {n}: {:?}", l.hosts, l.link.notices(n));
            }
        }
        panic!("seed {}: the hosts never held the same facts", self.world.seed);
    }
}

fn run(seed: u64) {
    let mut net = Net::new(seed);
    for _ in 0..60 + seed % 180 {
        net.step();
    }
    net.settle();
    net.world
        .agree(&format!("SEGFS_LINK_SEED={seed} cargo test --test it -- sim::link::peers_agree --nocapture"));
}

/// As a test of the tests wants it: the world of this seed, and what was wrong in it.
#[cfg(feature = "planted-bugs")]
pub fn live(seed: u64) -> Result<(), String> {
    let lived = std::panic::catch_unwind(|| run(seed));
    lived.map_err(|why| match (why.downcast_ref::<String>(), why.downcast_ref::<&str>()) {
        (Some(why), _) => why.clone(),
        (None, Some(why)) => (*why).to_owned(),
        (None, None) => "a panic".into(),
    })
}

fn run_all(seeds: std::ops::Range<u64>) {
    let next = AtomicU64::new(seeds.start);
    std::thread::scope(|s| {
        for _ in 0..2 {
            s.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Relaxed);
                    if seed >= seeds.end {
                        return;
                    }
                    run(seed);
                }
            });
        }
    });
}

/// The same where logs are cleaned, so that what a connection needs may be in the index only.
#[test]
fn peers_agree_whose_logs_are_cleaned() {
    let worlds: u64 = std::env::var("SEGFS_LINK_SEEDS").map_or(150, |s| s.parse::<u64>().unwrap() / 2);
    run_all(CLEANING..CLEANING + worlds);
    let told = HAPPENED.told.load(Relaxed);
    println!("{worlds} worlds: the index was told {told} times");
    assert!(told >= worlds / 4, "too little is told in these worlds: {told}");
}

#[test]
fn peers_agree() {
    if let Ok(seed) = std::env::var("SEGFS_LINK_SEED") {
        return run(seed.parse().unwrap());
    }
    let seeds: u64 = std::env::var("SEGFS_LINK_SEEDS").map_or(300, |s| s.parse().unwrap());
    run_all(0..seeds);
    let h = &HAPPENED;
    let of = |n: &AtomicU64| n.load(Relaxed);
    println!(
        "{seeds} worlds: {} connections, {} cut and {} killed with bytes on their way, {} batches taken in before the links were good, \
         {} failed, {} stores stopped, {} walked again",
        of(&h.connections),
        of(&h.cuts_within),
        of(&h.kills_within),
        of(&h.batches),
        of(&h.failed),
        of(&h.stopped),
        of(&h.walked_again),
    );
    if seeds >= 100 {
        // In a hundred worlds. Kills that catch bytes on their way come to 99, by other dice to 114.
        for (what, least) in
            [(&h.connections, 500), (&h.cuts_within, 80), (&h.kills_within, 80), (&h.batches, 3000)]
        {
            assert!(of(what) * 100 >= least * seeds, "too little happens in these worlds");
        }
        let rare = [&h.kills_within, &h.failed, &h.stopped, &h.walked_again];
        assert!(rare.iter().all(|n| of(n) > seeds / 100), "too little goes wrong in these worlds");
    }
}
