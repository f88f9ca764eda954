//! Connections of people who have not proved anything yet: how many there may be, and who has to wait.
//!
//! Whoever comes is let in, at the cost of whoever has waited longest: a proper handshake is over in milliseconds, so a crowd that says nothing
//! keeps nobody out. Who shows wrong codes waits for each answer, longer each time; the codes stay good.

use std::{
    collections::{BTreeMap, VecDeque},
    net::{IpAddr, Ipv6Addr},
    time::Duration,
};

/// Connections of strangers at once.
const MOST: usize = 32;
/// Of these, from one network.
const ALIKE: usize = 8;
/// The first answer to a wrong code waits so long; the next twice that, and so on.
const WAIT: Duration = Duration::from_millis(250);
/// No answer waits longer. Below what a joiner waits for one.
const WAIT_MAX: Duration = Duration::from_secs(5);
/// Wrong codes are forgotten after so long, in nanoseconds: that is as long as a code works.
const FORGOTTEN_NS: u64 = 15 * 60 * 1_000_000_000;
/// Networks whose wrong codes are counted.
const COUNTED: usize = 1024;

/// Of one network it is told so often that it was turned away, in nanoseconds.
const TOLD_NS: u64 = 60_000_000_000;
/// Networks of which that is told within this time.
const TOLD: usize = 16;

/// What one person can have many addresses of: a single one, or a /64 of IPv6.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Network(IpAddr);

impl Network {
    fn of(address: IpAddr) -> Self {
        Self(match address.to_canonical() {
            IpAddr::V6(a) => IpAddr::V6(Ipv6Addr::from_bits(a.to_bits() >> 64 << 64)),
            v4 @ IpAddr::V4(_) => v4,
        })
    }
}

/// Names a connection of a stranger.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ticket(u64);

/// Those who are there, each with what ends its connection.
#[derive(Debug)]
pub(super) struct Strangers<T> {
    there: VecDeque<(Ticket, Network, T)>,
    next: u64,
    /// How many wrong codes, and when the last one was shown.
    wrong: BTreeMap<Network, (u32, u64)>,
    /// When somebody without a pinned key was told of last.
    told: BTreeMap<Network, u64>,
}

impl<T> Default for Strangers<T> {
    fn default() -> Self {
        Self { there: VecDeque::new(), next: 0, wrong: BTreeMap::new(), told: BTreeMap::new() }
    }
}

impl<T> Strangers<T> {
    /// One comes. Whoever has to go for it is returned.
    pub(super) fn enter(&mut self, from: IpAddr, end: T) -> (Ticket, Option<T>) {
        let network = Network::of(from);
        let alike = self.there.iter().filter(|s| s.1 == network).count();
        let gone = match () {
            () if alike >= ALIKE => self.there.iter().position(|s| s.1 == network),
            () if self.there.len() >= MOST => Some(0),
            () => None,
        };
        let gone = gone.and_then(|at| self.there.remove(at)).map(|s| s.2);
        let ticket = Ticket(self.next);
        self.next += 1;
        self.there.push_back((ticket, network, end));
        (ticket, gone)
    }

    /// It has proved who it is, or has gone.
    pub(super) fn leave(&mut self, ticket: Ticket) {
        self.there.retain(|s| s.0 != ticket);
    }

    /// It did not have to go.
    pub(super) fn is_there(&self, ticket: Ticket) -> bool {
        self.there.iter().any(|s| s.0 == ticket)
    }

    /// Somebody without a pinned key was turned away: is that to be told? Once a minute of each network, and of so many networks.
    pub(super) fn is_news(&mut self, from: IpAddr, now_ns: u64) -> bool {
        self.told.retain(|_, last| now_ns.saturating_sub(*last) < TOLD_NS);
        let network = Network::of(from);
        let news = self.told.len() < TOLD && !self.told.contains_key(&network);
        if news {
            self.told.insert(network, now_ns);
        }
        news
    }

    /// Somebody showed a wrong code: how long it waits for the answer.
    pub(super) fn wrong(&mut self, from: IpAddr, now_ns: u64) -> Duration {
        self.wrong.retain(|_, (_, last)| now_ns.saturating_sub(*last) < FORGOTTEN_NS);
        let network = Network::of(from);
        if self.wrong.len() >= COUNTED && !self.wrong.contains_key(&network) {
            let oldest = self.wrong.iter().min_by_key(|(_, (_, last))| *last).map(|(n, _)| *n);
            oldest.map(|n| self.wrong.remove(&n));
        }
        let (times, last) = self.wrong.entry(network).or_default();
        let wait = WAIT.saturating_mul(1 << (*times).min(16)).min(WAIT_MAX);
        (*times, *last) = (times.saturating_add(1), now_ns);
        wait
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(n: u32) -> IpAddr {
        IpAddr::V4(std::net::Ipv4Addr::from_bits(n))
    }

    #[test]
    fn a_crowd_keeps_nobody_out() {
        let mut all = Strangers::default();
        for n in 0..MOST as u32 {
            assert_eq!(all.enter(address(n), n).1, None);
        }
        let (ticket, gone) = all.enter(address(99), 99);
        assert_eq!(gone, Some(0), "who has waited longest");
        // One network takes the place of its own only.
        let mut own = Vec::new();
        for n in 200..220 {
            own.extend(all.enter(address(7), n).1);
        }
        let gone: Vec<u32> = (1..=8).chain(200..212).collect();
        assert_eq!(own, gone);
        assert_eq!(all.there.iter().filter(|s| s.1 == Network::of(address(7))).count(), ALIKE);
        assert!(all.is_there(ticket) && all.there.len() == MOST);
        all.leave(ticket);
        assert!(!all.is_there(ticket));
        let v6 = |n: u128| IpAddr::V6(Ipv6Addr::from_bits(0x2001_0db8 << 96 | n));
        assert_eq!(Network::of(v6(1)), Network::of(v6(u128::from(u64::MAX))));
        assert_ne!(Network::of(v6(1)), Network::of(v6(1 << 64)));
        assert_eq!(Network::of("::ffff:1.2.3.4".parse().unwrap()), Network::of("1.2.3.4".parse().unwrap()));
    }

    #[test]
    fn a_crowd_does_not_fill_the_file_of_events() {
        let mut all = Strangers::<()>::default();
        let told = |all: &mut Strangers<()>, n: u32, at| all.is_news(address(n), at);
        assert!(told(&mut all, 1, 0) && !told(&mut all, 1, TOLD_NS - 1) && told(&mut all, 1, TOLD_NS));
        let many = (0..1000).filter(|n| told(&mut all, 100 + n, TOLD_NS)).count();
        assert_eq!(many, TOLD - 1);
        assert!(told(&mut all, 5000, 2 * TOLD_NS));
    }

    #[test]
    fn who_guesses_waits_longer_each_time_and_alone() {
        let mut all = Strangers::<()>::default();
        let waits: Vec<_> = (0..7).map(|n| all.wrong(address(1), n).as_millis()).collect();
        assert_eq!(waits, [250, 500, 1000, 2000, 4000, 5000, 5000]);
        assert_eq!(all.wrong(address(2), 8), WAIT);
        assert_eq!(all.wrong(address(1), 9 + FORGOTTEN_NS), WAIT, "forgotten");
        for n in 0..2 * COUNTED as u32 {
            all.wrong(address(10 + n), 20 + FORGOTTEN_NS + u64::from(n));
        }
        assert_eq!(all.wrong.len(), COUNTED);
    }
}
