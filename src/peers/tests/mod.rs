//! What a hub says to somebody with a pinned key who does not speak as this program does.
#![allow(clippy::disallowed_methods)] // real sockets, real time

mod hostile;

use std::{
    io::{Read as _, Write as _},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use super::{
    Access, Hub, Join, Key, Outside, Peer, Plan, Tidings,
    pairing::connect,
    tls::{self, Expect, Purpose, Secured},
};
use crate::{
    base::{Incarnation, StoreId, SystemRandom},
    disk::{Engine, RealDisk},
    format::wire::{Bye, Epoch, Hello, Identity, MAGIC, Message, Splitter},
    store::{Options, Store},
};

#[derive(Clone, Default)]
pub(super) struct Said(Arc<Mutex<Vec<String>>>);

impl Outside for Said {
    fn tell(&self, what: Tidings) {
        self.0.lock().unwrap().push(format!("{what:?}"));
    }

    fn redeem(&self, _: &Join) -> Result<Access, String> {
        Err("nobody is invited".into())
    }

    fn name(&self) -> String {
        "hub".into()
    }
}

/// A hub that has pinned the key of somebody else, and listens.
struct Host {
    dir: tempfile::TempDir,
    hub: Hub,
    store: Arc<Store>,
    said: Said,
    other: Key,
}

impl Host {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Arc::new(Store::create(&dir.path().join("s"), Options::default()).unwrap());
        let disk = RealDisk::open(&dir.path().join("s"), Engine::Plain).unwrap();
        let said = Said::default();
        let hub = Hub::start(Arc::clone(&store), Box::new(disk), Box::new(said.clone())).unwrap();
        let other = RealDisk::open(dir.path(), Engine::Plain).unwrap();
        let other = Key::open(&other, &SystemRandom).unwrap();
        let peer = Peer {
            name: "other".into(),
            id: other.id(),
            store: None,
            address: None,
            access: Access::TwoWay,
            rule: true,
        };
        hub.set_plan(Plan { listen: Some("127.0.0.1:0".into()), peers: vec![peer] }).unwrap();
        Self { dir, hub, store, said, other }
    }

    fn dial(&self) -> Other {
        let at = self.hub.listens().unwrap().to_string();
        let socket = connect(&at, Duration::from_secs(5)).unwrap();
        let expect = Expect::Key(self.hub.key().id());
        let secured =
            tls::dial(socket, &self.other, expect, Purpose::Session, Duration::from_secs(5)).unwrap();
        secured.socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        Other { secured, splitter: Splitter::default() }
    }

    fn trouble(&self) -> String {
        let began = Instant::now();
        loop {
            if let Some(trouble) = &self.hub.status()[0].trouble {
                return trouble.clone();
            }
            assert!(began.elapsed() < Duration::from_secs(10), "there is no trouble");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// The other side of a connection, which says what a test wants.
pub(super) struct Other {
    pub(super) secured: Secured,
    pub(super) splitter: Splitter,
}

impl Other {
    pub(super) fn say(&mut self, message: &Message) {
        let Secured { tls, socket, .. } = &mut self.secured;
        tls.writer().write_all(&message.frame()).unwrap();
        while tls.wants_write() {
            tls.write_tls(socket).unwrap();
        }
    }

    fn hello(&mut self) {
        self.say(&Message::Hello(Hello { magic: MAGIC, oldest: 1, newest: 1 }));
        self.say(&Message::Epoch(Epoch::default()));
    }

    /// Everything up to the last word, or to this. It says that it is there when it is asked.
    fn hear(&mut self, last: Option<&Message>) -> Vec<Message> {
        let (mut all, began) = (Vec::new(), Instant::now());
        loop {
            assert!(began.elapsed() < Duration::from_secs(10), "not said: {all:?}");
            while let Some(message) = self.splitter.next_message().unwrap() {
                if let Message::Ping(n) = message {
                    self.say(&Message::Pong(n));
                }
                let is_last = matches!(message, Message::Bye(_)) || Some(&message) == last;
                all.push(message);
                if is_last {
                    return all;
                }
            }
            let Secured { tls, socket, .. } = &mut self.secured;
            assert!(tls.read_tls(socket).unwrap() > 0, "it hung up: {all:?}");
            tls.process_new_packets().unwrap();
            let mut part = vec![0; 1 << 16];
            while let Ok(n) = tls.reader().read(&mut part) {
                if n == 0 {
                    break;
                }
                self.splitter.push(&part[..n]);
            }
        }
    }
}

#[test]
fn a_protocol_that_is_too_new_is_refused_and_both_numbers_are_said() {
    let host = Host::new();
    let mut other = host.dial();
    other.say(&Message::Hello(Hello { magic: MAGIC, oldest: 7, newest: 9 }));
    let heard = other.hear(None);
    assert_eq!(heard.last(), Some(&Message::Bye(Bye::Version)));
    assert!(!heard.iter().any(|m| matches!(m, Message::Identity(_))), "not even who it is: {heard:?}");
    let trouble = host.trouble();
    for word in ["7 to 9", "1 to 1", "newer segfs here", "Nothing was exchanged"] {
        assert!(trouble.contains(word), "{trouble}");
    }
    // A second time is no news.
    let mut again = host.dial();
    again.say(&Message::Hello(Hello { magic: MAGIC, oldest: 7, newest: 9 }));
    again.hear(None);
    drop(again);
    let mut last = host.dial();
    last.say(&Message::Hello(Hello { magic: MAGIC, oldest: 7, newest: 9 }));
    last.hear(None);
    let lost = host.said.0.lock().unwrap().iter().filter(|s| s.contains("7 to 9")).count();
    assert_eq!(lost, 1);
}

#[test]
fn a_store_of_the_same_id_is_refused_with_what_to_do() {
    let host = Host::new();
    let mut other = host.dial();
    other.hello();
    let identity = Identity { store: host.store.id(), incarnation: Incarnation::new(1), wall_ns: 0 };
    other.say(&Message::Identity(identity));
    let heard = other.hear(None);
    assert_eq!(heard.last(), Some(&Message::Bye(Bye::SameStore)));
    assert!(!heard.iter().any(|m| matches!(m, Message::Facts(_))), "{heard:?}");
    let trouble = host.trouble();
    for word in ["a copy of the other", &host.store.id().to_string(), "segfs peer join", "cp them"] {
        assert!(trouble.contains(word), "{trouble}");
    }
}

#[test]
fn an_opening_that_comes_back_after_a_later_one_is_a_copy() {
    let host = Host::new();
    let store = StoreId::new(77);
    // The last one is alive though the second was met after it: two are written.
    for (opening, copy) in [(1, false), (2, false), (1, true)] {
        let mut other = host.dial();
        other.hello();
        other.say(&Message::Identity(Identity { store, incarnation: Incarnation::new(opening), wall_ns: 0 }));
        other.say(&Message::Ping(5));
        other.hear(Some(&Message::Pong(5)));
        if copy {
            assert_eq!(other.hear(None).last(), Some(&Message::Bye(Bye::Copy)));
        } else {
            // What it answered meanwhile was heard.
            other.say(&Message::Ping(6));
            other.hear(Some(&Message::Pong(6)));
            other.say(&Message::Bye(Bye::Done));
            other.hear(None);
        }
    }
    let trouble = host.trouble();
    assert!(trouble.contains("copied") && trouble.contains("segfs peer join"), "{trouble}");
    drop(host.dir);
}
