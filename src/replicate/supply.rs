//! Content that this store lacks of versions whose facts it has: one version after the other is asked for, a page at a time.

use crate::{
    format::wire::{Lack, Message},
    store::{Lacking, Supplying},
};

use super::outbox::Outbox;

/// What could not be had is asked for again after so long, in nanoseconds.
const AGAIN_NS: u64 = 60_000_000_000;

/// A version whose content is being asked for, and how far that is.
pub type Wanted = (Lacking, Supplying);

/// What is being asked for.
pub(super) struct Supplies {
    /// When to look what is lacking.
    look: Option<u64>,
    /// The last version that was looked at in this round.
    after: Option<Lacking>,
    /// Some could not be had in this round.
    missed: bool,
    /// Something may have come to lack in this round.
    again: bool,
    state: State,
    number: u64,
}

enum State {
    Idle,
    /// It is being looked what is lacking.
    Looking,
    /// The other side was asked.
    Asked(Box<Wanted>),
    /// A page is on its way, or being taken in.
    Coming,
}

impl Default for Supplies {
    fn default() -> Self {
        Self { look: Some(0), after: None, missed: false, again: false, state: State::Idle, number: 0 }
    }
}

impl Supplies {
    /// Something may be lacking since.
    pub(super) fn soon(&mut self) {
        (self.look, self.again) = (Some(0), true);
    }

    pub(super) fn is_idle(&self) -> bool {
        matches!(self.state, State::Idle) && self.look.is_none_or(|at| at > 0)
    }

    /// Is it time to look what is lacking, and behind which version?
    pub(super) fn looks(&mut self, now: u64) -> Option<Option<Lacking>> {
        let is_time = matches!(self.state, State::Idle) && self.look.is_some_and(|at| at <= now);
        is_time.then(|| {
            self.state = State::Looking;
            self.again &= self.after.is_some();
            self.after
        })
    }

    /// This is lacking, or nothing more is.
    pub(super) fn found(&mut self, wanted: Option<Box<Wanted>>, now: u64, out: &mut Outbox) {
        self.state = State::Idle;
        match wanted {
            Some(wanted) => {
                self.after = Some(wanted.0);
                self.ask(wanted, out);
            }
            None => {
                self.after = None;
                let missed = std::mem::take(&mut self.missed);
                self.look = match std::mem::take(&mut self.again) {
                    true => Some(0),
                    false => missed.then(|| now.saturating_add(AGAIN_NS)),
                };
            }
        }
    }

    fn ask(&mut self, wanted: Box<Wanted>, out: &mut Outbox) {
        self.number += 1;
        let (version, (bases, from)) = (wanted.0.version, wanted.1.asks());
        out.say(&Message::Lack(Lack { number: self.number, version, bases: bases.to_vec(), from }));
        self.state = State::Asked(wanted);
    }

    /// The page of this number comes: what it is of, if it was asked for.
    pub(super) fn comes(&mut self, number: u64) -> Option<Box<Wanted>> {
        match std::mem::replace(&mut self.state, State::Coming) {
            State::Asked(wanted) if number == self.number => Some(wanted),
            other => {
                self.state = other;
                None
            }
        }
    }

    /// A page was taken in, and there is more; or it was the end of it, one way or the other.
    pub(super) fn taken(&mut self, more: Option<Box<Wanted>>, here: bool, out: &mut Outbox) {
        self.missed |= more.is_none() && !here;
        match more {
            Some(wanted) => self.ask(wanted, out),
            None => self.state = State::Idle,
        }
    }

    /// It can't be had. False: nobody asked for it.
    pub(super) fn none(&mut self, number: u64) -> bool {
        let asked = matches!(self.state, State::Asked(_)) && number == self.number;
        if asked {
            (self.state, self.missed) = (State::Idle, true);
        }
        asked
    }
}
