//! Hubs over loopback: what they let in, and that stores come to hold the same.

use std::{
    io::Read as _,
    net::TcpStream,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use segfs::{
    base::{Ino, KeyId, SystemRandom},
    disk::{Engine, RealDisk},
    format::facts::Owner,
    peers::{Access, Code, Hub, Invites, Join, JoinError, Joiner, Key, Outside, Peer, Plan, Tidings, join},
    store::{NewObject, Options, Store},
};

/// An invite is answered with this, and what happens is kept.
#[derive(Clone, Default)]
struct Told {
    said: Arc<Mutex<Vec<String>>>,
    invite: Arc<Mutex<Option<[u8; 16]>>>,
    joined: Arc<Mutex<Vec<Join>>>,
}

impl Outside for Told {
    fn tell(&self, what: Tidings) {
        self.said.lock().unwrap().push(format!("{what:?}"));
    }

    fn redeem(&self, join: &Join) -> Result<Access, String> {
        match self.invite.lock().unwrap().take_if(|s| *s == join.secret) {
            Some(_) => {
                self.joined.lock().unwrap().push(join.clone());
                Ok(Access::TwoWay)
            }
            None => Err("the code is not known".into()),
        }
    }

    fn name(&self) -> String {
        "inviter".into()
    }
}

struct Host {
    dir: tempfile::TempDir,
    store: Arc<Store>,
    hub: Hub,
    told: Told,
}

impl Host {
    fn new() -> Self {
        Self::in_epoch(0)
    }

    fn in_epoch(number: u64) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Arc::new(Store::create(&dir.path().join("s"), Options::default()).unwrap());
        if number > 0 {
            std::fs::create_dir_all(dir.path().join("s/keys")).unwrap();
            std::fs::write(dir.path().join("s/keys/epoch"), format!("{number} {}\n", store.id())).unwrap();
        }
        let disk = RealDisk::open(&dir.path().join("s"), Engine::Plain).unwrap();
        let told = Told::default();
        let hub = Hub::start(Arc::clone(&store), Box::new(disk), Box::new(told.clone())).unwrap();
        Self { dir, store, hub, told }
    }

    fn peer(&self, address: Option<String>, rule: bool) -> Peer {
        let (id, store) = (self.hub.key().id(), Some(self.store.id()));
        Peer { name: "other".into(), id, store, address, access: Access::TwoWay, rule }
    }

    fn listen(&self, peers: Vec<Peer>) -> String {
        self.hub.set_plan(Plan { listen: Some("127.0.0.1:0".into()), peers }).unwrap();
        self.hub.listens().unwrap().to_string()
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        let new = NewObject::file(0o644, Owner::default());
        let ino = self.store.create_object(Ino::FIRST, name.as_bytes(), &new).unwrap().1.ino;
        for (n, part) in bytes.chunks(1 << 20).enumerate() {
            self.store.write(ino, (n as u64) << 20, part).unwrap();
        }
        self.store.commit_version(ino).unwrap();
    }

    fn shows(&self, name: &str) -> Option<Vec<u8>> {
        let a = self.store.view().lookup(Ino::FIRST, name.as_bytes()).ok()?;
        let mut bytes = vec![0; a.size as usize];
        self.store.view().read(a.ino, 0, &mut bytes).unwrap();
        Some(bytes)
    }
}

fn within(seconds: u64, what: &str, mut done: impl FnMut() -> bool) {
    let began = Instant::now();
    while !done() {
        assert!(began.elapsed() < Duration::from_secs(seconds), "not within {seconds} s: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn two_stores_come_to_hold_the_same_by_the_rule_of_one_of_them() {
    let (a, b) = (Host::new(), Host::new());
    let large: Vec<u8> = (0..5_000_000_u32).map(|n| (n >> 3) as u8 ^ n as u8).collect();
    a.write("large", &large);
    let at = a.listen(vec![b.peer(None, true)]);
    b.hub.set_plan(Plan { listen: None, peers: vec![a.peer(Some(at), false)] }).unwrap();
    within(20, "what was there", || b.shows("large").is_some_and(|s| s == large));
    b.write("of b", b"1");
    a.write("of a", b"2");
    within(20, "both ways", || {
        a.shows("of b") == Some(b"1".to_vec()) && b.shows("of a") == Some(b"2".to_vec())
    });
    within(20, "quiet", || a.hub.status()[0].idle && b.hub.status()[0].idle);
    assert_eq!(a.store.knowledge().unwrap(), b.store.knowledge().unwrap());
    // Without a rule on either side nothing crosses, though they stay connected.
    a.hub.set_plan(Plan { listen: Some("127.0.0.1:0".into()), peers: vec![b.peer(None, false)] }).unwrap();
    within(20, "connected anew", || a.hub.status()[0].connected_ns.is_some_and(|ns| ns < 900_000_000));
    a.write("paused", b"3");
    std::thread::sleep(Duration::from_millis(1500));
    assert_eq!(b.shows("paused"), None);
}

#[test]
fn who_is_not_known_gets_nothing() {
    let (a, b, c) = (Host::new(), Host::new(), Host::new());
    a.write("secret", b"1");
    let at = a.listen(vec![b.peer(None, true)]);
    c.hub.set_plan(Plan { listen: None, peers: vec![a.peer(Some(at.clone()), true)] }).unwrap();
    within(10, "it is told", || a.told.said.lock().unwrap().iter().any(|s| s.starts_with("Stranger")));
    let status = &c.hub.status()[0];
    assert_eq!((status.store, c.shows("secret")), (None, None), "not even the id of the store");
    // Nor does somebody who speaks no TLS.
    let mut plain = TcpStream::connect(&at).unwrap();
    std::io::Write::write_all(&mut plain, &[0x5a; 300]).unwrap();
    let mut said = Vec::new();
    plain.set_read_timeout(Some(Duration::from_secs(15))).unwrap();
    let _ = plain.read_to_end(&mut said);
    assert!(said.len() < 16, "an alert at most: {said:?}");
    // And who dials the wrong one says whose key it found.
    let wrong = KeyId::new([9; 20]);
    let peer = Peer { id: wrong, ..a.peer(Some(at), true) };
    b.hub.set_plan(Plan { listen: None, peers: vec![peer] }).unwrap();
    within(10, "both keys are named", || {
        let trouble = b.hub.status()[0].trouble.clone().unwrap_or_default();
        trouble.contains(&wrong.to_string()) && trouble.contains(&a.hub.key().id().to_string())
    });
}

#[test]
fn an_invite_pairs_two_keys_once() {
    let (a, b) = (Host::new(), Host::new());
    let at = a.listen(Vec::new());
    let disk = tempfile::tempdir().unwrap();
    let disk = RealDisk::open(disk.path(), Engine::Plain).unwrap();
    let mut invites = Invites::open(&disk, 1).unwrap();
    let code = invites.invite(&disk, a.hub.key().id(), Access::TwoWay, &SystemRandom, 1).unwrap();
    *a.told.invite.lock().unwrap() = Some(code.secret);
    let ask = |code: &Code, key: &Key| {
        let (store, listens, grants) = (b.store.id(), Some("h:1"), Access::Receive);
        join(&at, code, &Joiner { key, store, name: "joiner", listens, grants })
    };
    // A code of another key: the secret is not even sent.
    let other = Code { start: [1; 16], ..code };
    let wrong = ask(&other, b.hub.key()).unwrap_err();
    assert!(matches!(wrong, JoinError::WrongKey { found, .. } if found == a.hub.key().id()), "{wrong}");
    assert!(a.told.invite.lock().unwrap().is_some());
    assert!(wrong.to_string().contains(&a.hub.key().id().to_string()), "both keys are named: {wrong}");
    assert!(wrong.to_string().contains(&KeyId::beginning(&[1; 16])), "both keys are named: {wrong}");
    // Who guesses waits for each answer, longer each time, and spoils nothing.
    let began = Instant::now();
    for n in 1..=3 {
        let guessed = ask(&Code { secret: [n; 16], ..code }, b.hub.key()).unwrap_err();
        assert!(matches!(guessed, JoinError::Refused(_)), "{guessed}");
    }
    assert!(began.elapsed() >= Duration::from_millis(250 + 500 + 1000), "{:?}", began.elapsed());
    let began = Instant::now();
    let joined = ask(&code, b.hub.key()).unwrap();
    assert!(
        began.elapsed() < Duration::from_millis(1500),
        "the right one is answered at once: {:?}",
        began.elapsed()
    );
    assert_eq!(
        (joined.key, joined.store, joined.name.as_str(), joined.gives),
        (a.hub.key().id(), a.store.id(), "inviter", Access::TwoWay)
    );
    let seen = a.told.joined.lock().unwrap()[0].clone();
    assert_eq!(
        (seen.key, seen.store, seen.gives, seen.address.as_deref()),
        (b.hub.key().id(), b.store.id(), Access::Receive, Some("h:1"))
    );
    let used = ask(&code, b.hub.key()).unwrap_err();
    assert!(matches!(used, JoinError::Refused(_)), "{used}");
}

#[test]
fn a_peer_that_says_it_is_another_store_gets_and_brings_nothing() {
    let (a, b, c) = (Host::new(), Host::new(), Host::new());
    b.write("of b", b"1");
    a.write("of a", b"2");
    // The key of b stands for the store of c, which is not a peer yet; and then for that of a third peer.
    let liar = Peer { store: Some(c.store.id()), ..b.peer(None, true) };
    let at = a.listen(vec![liar.clone()]);
    b.hub.set_plan(Plan { listen: None, peers: vec![a.peer(Some(at.clone()), true)] }).unwrap();
    let says = |host: &Host, n: usize, words: &[String]| {
        let trouble = host.hub.status()[n].trouble.clone().unwrap_or_default();
        words.iter().all(|w| trouble.contains(w))
    };
    let (key, of_b, of_c) =
        (b.hub.key().id().to_string(), b.store.id().to_string(), c.store.id().to_string());
    within(10, "both sides say why", || {
        says(&a, 0, &[key.clone(), of_b.clone(), of_c.clone()]) && says(&b, 0, &[key.clone(), of_b.clone()])
    });
    let unknown = Peer { store: None, ..b.peer(None, true) };
    let third = Peer { name: "third".into(), store: Some(b.store.id()), ..c.peer(None, true) };
    let key_of_c = c.hub.key().id().to_string();
    b.hub.set_plan(Plan::default()).unwrap();
    a.hub.set_plan(Plan { listen: Some("127.0.0.1:0".into()), peers: vec![unknown, third] }).unwrap();
    b.hub.set_plan(Plan { listen: None, peers: vec![a.peer(Some(at), true)] }).unwrap();
    within(10, "whose store it is", || says(&a, 0, &[key.clone(), key_of_c.clone(), of_b.clone()]));
    assert_eq!((a.shows("of b"), b.shows("of a")), (None, None));
}

#[test]
fn a_connection_by_which_nothing_crosses_asks_for_no_commits() {
    let (a, b) = (Host::new(), Host::new());
    let at = a.listen(vec![b.peer(None, false)]);
    b.hub.set_plan(Plan { listen: None, peers: vec![a.peer(Some(at.clone()), false)] }).unwrap();
    within(10, "connected", || a.hub.status()[0].store.is_some());
    let commits = |host: &Host, name: &str| {
        std::thread::sleep(Duration::from_millis(300));
        host.store.sync_all().unwrap();
        host.write(name, b"1");
        let last = host.store.last_lsn();
        std::thread::sleep(Duration::from_millis(100));
        host.store.durable_lsn() >= last
    };
    assert!(!commits(&a, "f") && !commits(&b, "g"));
    // With a rule on the other side alone.
    b.hub.set_plan(Plan { listen: None, peers: vec![a.peer(Some(at), true)] }).unwrap();
    within(10, "it crosses", || b.shows("f").is_some() && a.shows("g").is_some());
    within(10, "it is durable by itself", || commits(&a, "h"));
}

#[test]
fn only_who_may_write_raises_the_epoch() {
    // The second is in a higher epoch.
    let raised = |access: Access, number: u64| {
        let a = Host::new();
        let b = Host::in_epoch(number);
        let at = a.listen(vec![Peer { access, ..b.peer(None, true) }]);
        b.hub.set_plan(Plan { listen: None, peers: vec![a.peer(Some(at), true)] }).unwrap();
        within(10, "connected", || a.hub.status()[0].store.is_some() && b.hub.status()[0].store.is_some());
        let told = a.told.said.lock().unwrap().iter().any(|s| s.starts_with("Epoch"));
        let kept = std::fs::read_to_string(a.dir.path().join("s/keys/epoch")).ok();
        assert_eq!(kept.is_some(), told, "{kept:?}");
        told
    };
    assert!(raised(Access::TwoWay, 3));
    assert!(!raised(Access::Receive, 3));
    assert!(!raised(Access::TwoWay, u64::MAX), "the end of the numbers");
}

#[test]
fn a_crowd_that_says_nothing_keeps_nobody_out() {
    let (a, b) = (Host::new(), Host::new());
    a.write("f", b"1");
    let at = a.listen(vec![b.peer(None, true)]);
    let crowd: Vec<_> = (0..100).map(|_| TcpStream::connect(&at).unwrap()).collect();
    b.hub.set_plan(Plan { listen: None, peers: vec![a.peer(Some(at), false)] }).unwrap();
    within(5, "a peer is let in", || b.shows("f").is_some());
    // And of the crowd, who has waited longest had to go.
    let mut first = &crowd[0];
    first.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    assert_eq!(first.read(&mut [0; 1]).unwrap(), 0);
}
