//! A peer with a pinned key that wants to do harm: what it can make a host hold in memory, and whether others are still served.
//!
//! The host is a process of its own, this test program once more, so that what it holds can be measured.
#![allow(clippy::disallowed_methods)] // real sockets, real processes, real time

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    super::{
        Access, Hub, Key, Peer, Plan,
        pairing::connect,
        tls::{self, Expect, Purpose, Secured},
    },
    Other, Said,
};
use crate::{
    base::{Incarnation, Ino, KeyId, ObjectId, StoreId, SystemRandom, VersionId, limits},
    disk::{Engine, RealDisk},
    format::{
        Codec, Origin, code,
        facts::{ExtentId, Fact, Owner, Range, Source},
        wire::{
            ContentHead, Epoch, ExtentHead, Facts, Grant, Hello, Identity, MAGIC, Message, Splitter, Stretch,
        },
    },
    store::{NewObject, Options, Store},
};

const VICTIM: &str = "SEGFS_TEST_VICTIM";
const MIB: u64 = 1 << 20;
/// Something that a hostile peer does, by its name.
type Attack = (&'static str, fn(&Victim) -> Other);

/// What a hostile peer may make a daemon use beyond what it uses anyway.
const MOST_BYTES: u64 = 64 * MIB;

fn key_in(dir: &Path, name: &str) -> Key {
    let dir = dir.join(name);
    fs::create_dir_all(&dir).unwrap();
    Key::open(&RealDisk::open(&dir, Engine::Plain).unwrap(), &SystemRandom).unwrap()
}

fn hub_in(dir: &Path) -> (Arc<Store>, Hub) {
    let path = dir.join("s");
    let store = Arc::new(Store::create(&path, Options::default()).unwrap());
    let disk = Box::new(RealDisk::open(&path, Engine::Plain).unwrap());
    let hub = Hub::start(Arc::clone(&store), disk, Box::new(Said::default())).unwrap();
    (store, hub)
}

fn peer(name: &str, id: KeyId, address: Option<String>) -> Peer {
    Peer { name: name.into(), id, store: None, address, access: Access::TwoWay, rule: true }
}

/// The host, run by the test below in a process of its own.
#[test]
fn stands_by_for_a_hostile_peer() {
    let Some(dir) = std::env::var_os(VICTIM).map(PathBuf::from) else { return };
    let (_store, hub) = hub_in(&dir);
    let peers = ["hostile", "good"].map(|name| peer(name, key_in(&dir, name).id(), None));
    hub.set_plan(Plan { listen: Some("127.0.0.1:0".into()), peers: peers.into() }).unwrap();
    fs::write(dir.join("at.next"), format!("{} {}", hub.listens().unwrap(), hub.key().id())).unwrap();
    fs::rename(dir.join("at.next"), dir.join("at")).unwrap();
    let began = Instant::now();
    while !dir.join("end").exists() && began.elapsed() < Duration::from_secs(300) {
        std::thread::sleep(Duration::from_millis(20));
    }
}

struct Victim {
    dir: tempfile::TempDir,
    process: Child,
    at: String,
    key: KeyId,
}

impl Victim {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        for name in ["hostile", "good"] {
            key_in(dir.path(), name);
        }
        let process = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "peers::tests::hostile::stands_by_for_a_hostile_peer", "--nocapture"])
            .env(VICTIM, dir.path())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let told = dir.path().join("at");
        within("it listens", || told.exists());
        let told = fs::read_to_string(told).unwrap();
        let (at, key) = told.split_once(' ').unwrap();
        Self { at: at.to_owned(), key: key.parse().unwrap(), dir, process }
    }

    fn kib(&self, name: &str) -> u64 {
        let text = fs::read_to_string(format!("/proc/{}/status", self.process.id())).unwrap();
        let line = text.lines().find_map(|l| l.strip_prefix(name)).unwrap();
        line.trim_start_matches(':').split_whitespace().next().unwrap().parse().unwrap()
    }

    /// What it holds now; the most is counted from here on.
    fn holds(&self) -> u64 {
        fs::write(format!("/proc/{}/clear_refs", self.process.id()), "5").unwrap();
        self.kib("VmRSS") << 10
    }

    fn most(&self) -> u64 {
        self.kib("VmHWM") << 10
    }

    fn dial(&self) -> Other {
        let key = key_in(self.dir.path(), "hostile");
        let socket = connect(&self.at, Duration::from_secs(5)).unwrap();
        let expect = Expect::Key(self.key);
        let secured = tls::dial(socket, &key, expect, Purpose::Session, Duration::from_secs(5)).unwrap();
        secured.socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        secured.socket.set_write_timeout(Some(Duration::from_secs(1))).unwrap();
        Other { secured, splitter: Splitter::default() }
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn within(what: &str, mut done: impl FnMut() -> bool) {
    let began = Instant::now();
    while !done() {
        assert!(began.elapsed() < Duration::from_secs(60), "not within 60 s: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

const STORE: StoreId = StoreId::new(66);

fn origin(seq: u64) -> Origin {
    Origin { store: STORE, incarnation: Incarnation::new(1), seq }
}

/// Says who it is and everything up to facts, with as much as may be said of what it holds.
fn introduce(other: &mut Other, stretches: usize) {
    other.say(&Message::Hello(Hello { magic: MAGIC, oldest: 1, newest: 1 }));
    other.say(&Message::Epoch(Epoch::default()));
    other.say(&Message::Identity(Identity { store: STORE, incarnation: Incarnation::new(1), wall_ns: 0 }));
    other.say(&Message::Grants(vec![Grant { path: Vec::new(), read: true, write: true, asks: true }]));
    let all: Vec<Stretch> = (0..stretches as u64)
        .map(|n| Stretch { store: StoreId::new(5), incarnation: Incarnation::new(n + 2), first: 1, last: 1 })
        .collect();
    for page in all.chunks(limits::PEER_PAGE) {
        other.say(&Message::Knowledge(page.to_vec(), false));
    }
    other.say(&Message::Knowledge(vec![Stretch::one(&origin(1 << 40))], true));
}

fn id(n: u64) -> VersionId {
    VersionId::new(u128::from(n) + 1)
}

fn extent(n: u64) -> ExtentId {
    ExtentId { store: STORE, incarnation: Incarnation::new(1), sequence: n + 1 }
}

/// A batch whose one version shows so many extents.
fn batch(other: &mut Other, seq: u64, ranges: usize) {
    let head = ContentHead {
        object: ObjectId::new(9),
        version: id(seq),
        base: None,
        hash: None,
        ranges: ranges as u32,
    };
    let facts = code::encode(&Vec::<Fact>::new());
    let object = ObjectId::new(9);
    other.say(&Message::Facts(Facts { origin: origin(seq), stamp: 1, object, facts, contents: vec![head] }));
    let all: Vec<Range> = (0..ranges as u64)
        .map(|n| Range { offset: n << 20, len: MIB, source: Source::Extent(extent(seq << 32 | n), 0) })
        .collect();
    for page in all.chunks(limits::PEER_PAGE) {
        other.say(&Message::Ranges(origin(seq), id(seq), page.to_vec()));
    }
}

/// Facts batches as large as the window lets them be, of which extents are asked for and come all but their last byte; and a message that
/// stops before its end.
fn holds_everything(victim: &Victim) -> Other {
    let mut other = victim.dial();
    introduce(&mut other, limits::PEER_STRETCHES - 1);
    let ranges = limits::PEER_WINDOW_BYTES / limits::PEER_RANGE_BYTES / 2 - 64;
    batch(&mut other, 1, ranges.min(limits::PEER_RANGES));
    batch(&mut other, 2, ranges.min(limits::PEER_RANGES));
    let mut asked = 0;
    while asked < limits::PEER_REQUESTS - limits::PEER_REQUESTS_SPARE {
        let Some(message) = next(&mut other) else { panic!("it hung up after {asked} requests") };
        let Message::Want(want) = message else { continue };
        asked += 1;
        let head = ExtentHead {
            request: want.request,
            id: extent(u64::from(want.range) | want_of(&want.version) << 32),
            codec: Codec::Raw,
            stored_len: MIB as u32,
            raw_len: MIB as u32,
            raw_crc: 0,
            hash: [0; 32],
        };
        other.say(&Message::Extent(head));
        let part = vec![7; limits::PEER_CHUNK_BYTES];
        for _ in 1..MIB as usize / part.len() {
            other.say(&Message::Data(want.request, part.clone()));
        }
        other.say(&Message::Data(want.request, part[1..].to_vec()));
    }
    let mut begun = (limits::PEER_MESSAGE_BYTES as u32).to_le_bytes().to_vec();
    begun.resize(limits::PEER_MESSAGE_BYTES, 0);
    let _ = raw(&mut other, &begun);
    other
}

/// The batch that a version is of.
fn want_of(version: &VersionId) -> u64 {
    (1..=2).find(|seq| id(*seq) == *version).unwrap()
}

/// Small facts that become large when they are decoded, again and again.
fn swells(victim: &Victim) -> Other {
    let mut other = victim.dial();
    introduce(&mut other, 1);
    let facts = code::encode(&vec![Fact::MovesSettled; limits::PEER_FACTS_BYTES - 64]);
    for seq in 1..=40 {
        let (object, contents) = (ObjectId::new(9), Vec::new());
        let facts = Facts { origin: origin(seq), stamp: 1, object, facts: facts.clone(), contents };
        if raw(&mut other, &Message::Facts(facts).frame()).is_err() {
            break;
        }
    }
    other
}

/// Asks and asks, and takes no answer.
fn takes_nothing(victim: &Victim) -> Other {
    let mut other = victim.dial();
    introduce(&mut other, 1);
    let pings: Vec<u8> = (1..4000).flat_map(|n| Message::Ping(n).frame()).collect();
    for _ in 0..400 {
        if raw(&mut other, &pings).is_err() {
            break;
        }
    }
    other
}

/// Sends bytes as far as they are taken.
fn raw(other: &mut Other, bytes: &[u8]) -> io::Result<()> {
    let Secured { tls, socket, .. } = &mut other.secured;
    for part in bytes.chunks(16 << 10) {
        io::Write::write_all(&mut tls.writer(), part)?;
        while tls.wants_write() {
            tls.write_tls(socket)?;
        }
    }
    Ok(())
}

fn next(other: &mut Other) -> Option<Message> {
    loop {
        if let Some(message) = other.splitter.next_message().unwrap() {
            return Some(message);
        }
        let Secured { tls, socket, .. } = &mut other.secured;
        if tls.read_tls(socket).ok()? == 0 {
            return None;
        }
        tls.process_new_packets().ok()?;
        let mut part = vec![0; 1 << 16];
        while let Ok(n) = io::Read::read(&mut tls.reader(), &mut part)
            && n > 0
        {
            other.splitter.push(&part[..n]);
        }
    }
}

#[test]
fn a_hostile_peer_takes_little_memory_and_holds_up_nobody() {
    let victim = Victim::new();
    let good = tempfile::tempdir().unwrap();
    fs::create_dir(good.path().join("s")).unwrap();
    let from = victim.dir.path().join("good");
    let (store, hub) = {
        // It has the key that is pinned there.
        let path = good.path().join("s");
        let store = Arc::new(Store::create(&path, Options::default()).unwrap());
        assert!(Command::new("cp").arg("-a").arg(from.join("keys")).arg(&path).status().unwrap().success());
        let disk = Box::new(RealDisk::open(&path, Engine::Plain).unwrap());
        let hub = Hub::start(Arc::clone(&store), disk, Box::new(Said::default())).unwrap();
        (store, hub)
    };
    hub.set_plan(Plan { listen: None, peers: vec![peer("victim", victim.key, Some(victim.at.clone()))] })
        .unwrap();
    let crosses = |name: &str| {
        let new = NewObject::file(0o644, Owner::default());
        let ino = store.create_object(Ino::FIRST, name.as_bytes(), &new).unwrap().1.ino;
        store.write(ino, 0, &vec![1; 300_000]).unwrap();
        store.commit_version(ino).unwrap();
        store.sync_all().unwrap();
        within("the good one is served", || {
            hub.status()[0].idle && hub.status()[0].cursor > store.last_lsn()
        });
    };
    crosses("before");
    let attacks: [Attack; 3] =
        [("holds everything", holds_everything), ("swells", swells), ("takes nothing", takes_nothing)];
    let base = victim.holds();
    for (name, attack) in attacks {
        let connection = attack(&victim);
        crosses(name);
        // What it holds of a connection is seen once a second by others.
        std::thread::sleep(Duration::from_millis(1500));
        let more = victim.most().saturating_sub(base);
        println!("{name}: {} KiB more than {} KiB", more >> 10, base >> 10);
        assert!(more < MOST_BYTES, "{name}: {more} bytes more than {base}");
        drop(connection);
    }
    crosses("after");
    fs::write(victim.dir.path().join("end"), "").unwrap();
}
