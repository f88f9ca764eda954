//! A connection between two sessions: bytes on their way, effects that wait, and what was seen to pass.

use std::collections::VecDeque;

use segfs::{
    base::{Clock, Lsn},
    format::wire::{Bye, Epoch, Grant, Identity, Message, Splitter},
    replicate::{Acquaintances, Effect, End, Input, Me, Notice, Session, perform},
    store::Store,
};

/// Everything may be read and written.
pub fn two_way() -> Vec<Grant> {
    vec![Grant { path: Vec::new(), read: true, write: true, asks: false }]
}

/// What a store says of itself.
pub fn me(store: &Store, wall_ns: u64, cursor: Lsn) -> Me {
    let identity = Identity { store: store.id(), incarnation: store.incarnation(), wall_ns };
    Me { identity, epoch: Epoch::default(), grants: two_way(), heeds_epoch: true, sends: true, cursor }
}

/// One side of a connection.
pub struct Side {
    pub session: Session,
    /// What it asked for and nobody did yet.
    pub todo: Vec<Effect>,
    pub notices: Vec<Notice>,
}

impl Side {
    pub fn new(me: Me, now: u64) -> Self {
        let mut side = Self { session: Session::new(me, now), todo: Vec::new(), notices: Vec::new() };
        side.gather();
        side
    }

    /// Takes over what the session asks for.
    pub fn gather(&mut self) {
        while let Some(effect) = self.session.next_effect() {
            match effect {
                Effect::Tell(notice) => self.notices.push(notice),
                effect => self.todo.push(effect),
            }
        }
    }

    /// Does what was asked for at this place of the list.
    pub fn work(&mut self, nth: usize, store: &Store, met: &mut Acquaintances, now: u64) {
        let effect = self.todo.swap_remove(nth);
        let input = match perform(store, &mut self.session, effect, now) {
            None => None,
            Some(Effect::Fence(_)) => Some(Input::Fenced),
            Some(Effect::Meet(who, alive)) => Some(Input::Met(met.meet(&who, alive))),
            Some(other) => panic!("{other:?} is for nobody"),
        };
        if let Some(input) = input {
            self.session.handle(input, now);
        }
        self.gather();
        if self.session.ended().is_some() {
            self.todo.clear();
        }
    }
}

/// Both sides and what is on its way to each.
pub struct Link {
    /// A side that is gone was killed with its process.
    pub sides: [Option<Side>; 2],
    /// Bytes on their way to that side.
    pub pipes: [VecDeque<u8>; 2],
    /// What has arrived there, by kinds, if somebody looks.
    pub seen: Option<[Seen; 2]>,
}

/// What arrived on one side.
#[derive(Default)]
pub struct Seen {
    splitter: Splitter,
    pub bytes: u64,
    /// Bytes of extents.
    pub data: u64,
    pub wants: u64,
}

impl Seen {
    fn look(&mut self, bytes: &[u8]) {
        self.bytes += bytes.len() as u64;
        self.splitter.push(bytes);
        while let Ok(Some(message)) = self.splitter.next_message() {
            match message {
                Message::Data(_, bytes) => self.data += bytes.len() as u64,
                Message::Want(_) => self.wants += 1,
                _ => {}
            }
        }
    }
}

impl Link {
    pub fn new(me: [Me; 2], now: u64) -> Self {
        Self { sides: me.map(|m| Some(Side::new(m, now))), pipes: Default::default(), seen: None }
    }

    /// As [`new`](Self::new); somebody looks at what passes.
    pub fn watched(me: [Me; 2], now: u64) -> Self {
        Self { seen: Some(Default::default()), ..Self::new(me, now) }
    }

    /// Up to so many bytes leave this side. Says whether there were any.
    pub fn carry(&mut self, from: usize, most: usize) -> bool {
        let Some(side) = &mut self.sides[from] else { return false };
        let bytes = side.session.output(most);
        side.gather();
        self.pipes[1 - from].extend(&bytes);
        !bytes.is_empty()
    }

    /// Up to so many bytes arrive at this side. Says whether there were any.
    pub fn deliver(&mut self, to: usize, most: usize, now: u64) -> bool {
        let pipe = &mut self.pipes[to];
        let Some(side) = &mut self.sides[to] else {
            pipe.clear();
            return false;
        };
        if !side.session.wants_input() && side.session.ended().is_none() {
            return false;
        }
        let bytes: Vec<u8> = pipe.drain(..most.min(pipe.len())).collect();
        if bytes.is_empty() {
            return false;
        }
        if let Some(seen) = &mut self.seen {
            seen[to].look(&bytes);
        }
        side.session.receive(&bytes, now);
        side.gather();
        true
    }

    /// Everything that can be done now is done. Says whether something was.
    pub fn run(&mut self, stores: [&Store; 2], met: &mut [Acquaintances; 2], now: u64) -> bool {
        let mut ever = false;
        loop {
            let mut did = false;
            for n in 0..2 {
                did |= self.carry(n, 100_000);
                did |= self.deliver(1 - n, 100_000, now);
                if let Some(side) = &mut self.sides[n]
                    && !side.todo.is_empty()
                {
                    side.work(0, stores[n], &mut met[n], now);
                    did = true;
                }
            }
            if !did {
                return ever;
            }
            ever = true;
        }
    }

    pub fn ended(&self, n: usize) -> Option<End> {
        self.sides[n].as_ref()?.session.ended()
    }

    pub fn notices(&self, n: usize) -> &[Notice] {
        self.sides[n].as_ref().map_or(&[], |s| &s.notices)
    }
}

/// Two stores alone, their connections one after the other.
pub struct Pair<'a> {
    pub stores: [&'a Store; 2],
    pub met: [Acquaintances; 2],
    pub clock: &'a dyn Clock,
}

impl<'a> Pair<'a> {
    pub fn new(stores: [&'a Store; 2], clock: &'a dyn Clock) -> Self {
        Self { stores, met: Default::default(), clock }
    }

    pub fn me(&self, n: usize) -> Me {
        me(self.stores[n], self.clock.wall_ns(), Lsn::FIRST)
    }

    pub fn link(&self) -> Link {
        Link::watched([self.me(0), self.me(1)], self.clock.monotonic_ns())
    }

    pub fn run(&mut self, link: &mut Link) {
        link.run(self.stores, &mut self.met, self.clock.monotonic_ns());
    }

    /// Time goes by on a connection, second by second.
    pub fn later(&mut self, link: &mut Link, seconds: u64) {
        let began = self.clock.monotonic_ns();
        for now in (1..=seconds).map(|s| began + s * 1_000_000_000) {
            for side in link.sides.iter_mut().flatten() {
                side.session.tick(now);
                side.gather();
            }
            link.run(self.stores, &mut self.met, now);
        }
    }

    /// Makes durable what was done, and says so.
    pub fn commit(&mut self, link: &mut Link, n: usize) {
        self.stores[n].sync_all().unwrap();
        let durable = Input::Durable(self.stores[n].durable_lsn());
        if let Some(side) = &mut link.sides[n] {
            side.session.handle(durable, self.clock.monotonic_ns());
            side.gather();
        }
    }

    /// A connection from its beginning to the moment when nothing is left to do.
    pub fn exchange(&mut self) -> Link {
        let mut link = self.link();
        self.run(&mut link);
        for n in 0..2 {
            assert_eq!(link.ended(n), None, "side {n}");
            let side = link.sides[n].as_ref().unwrap();
            assert!(side.session.is_idle(), "side {n}: {:?}", side.notices);
        }
        link
    }
}

/// Ends a connection cleanly.
pub fn close(link: &mut Link, n: usize, now: u64) {
    if let Some(side) = &mut link.sides[n] {
        side.session.handle(Input::End(Bye::Done), now);
        side.gather();
    }
}
