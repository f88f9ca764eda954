//! One connection between two stores, the same on both sides.

use std::collections::VecDeque;

use crate::{
    base::{
        Lsn,
        limits::{
            AHEAD_NS, PEER_EPOCHS, PEER_GRANTS, PEER_IDLE_NS, PEER_PAGE, PEER_SILENCE_NS, PEER_STRETCHES,
        },
    },
    format::wire::{Bye, Epoch, Grant, Hello, Identity, MAGIC, Message, NEWEST, OLDEST, Splitter, Stretch},
    store::Knowledge,
};

use super::{
    Effect, End, Input, Meeting, Notice, Taken, outbox::Outbox, receiving::Receiving, sending::Sending,
};

/// The number of the ping that asks somebody whether he is alive; keepalives count from 1.
const PROOF: u64 = 0;

/// This side of a connection.
#[derive(Debug, Clone)]
pub struct Me {
    /// Who I am.
    pub identity: Identity,
    /// Which epoch this store is in.
    pub epoch: Epoch,
    /// What the other side may do here.
    pub grants: Vec<Grant>,
    /// It is believed what the epoch is. From one that may not write here, a higher one changes nothing.
    pub heeds_epoch: bool,
    /// A rule of this store sends its facts to the other side. Without, they go there only if the other side asks for them.
    pub sends: bool,
    /// From where on the log may have what the other side lacks: [`Session::cursor`] of an earlier connection, else the first
    /// record. A wrong one costs time, not facts.
    pub cursor: Lsn,
}

/// What comes next from the other side.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    Hello,
    Epoch,
    /// Nothing is read until this store has turned read-only.
    Fencing,
    Identity,
    /// Nothing is read until it is known whether the other side was met.
    Meeting,
    Grants,
    Knowledge,
    Open,
}

/// One connection to another store.
pub struct Session {
    me: Me,
    step: Step,
    splitter: Splitter,
    out: Outbox,
    effects: VecDeque<Effect>,
    sending: Sending,
    receiving: Receiving,
    hello: Option<Hello>,
    peer: Option<Identity>,
    /// The other side may read here.
    may_read: bool,
    /// Stretches that the other side has named.
    named: usize,
    /// What this store held when it said so, or since.
    mine: Option<(Knowledge, Lsn)>,
    told_mine: bool,
    /// The other side seems to hold more of this opening than it made: what it holds is looked at once more.
    suspect: bool,
    /// An answer to [`PROOF`] is awaited.
    proving: bool,
    now: u64,
    heard: u64,
    said: u64,
    pings: u64,
    end: Option<End>,
}

impl Session {
    /// A connection that stands, at this moment (monotonic, ns).
    #[must_use]
    pub fn new(me: Me, now: u64) -> Self {
        let mut out = Outbox::default();
        out.say(&Message::Hello(Hello { magic: MAGIC, oldest: OLDEST, newest: NEWEST }));
        out.say(&Message::Epoch(me.epoch));
        let cursor = me.cursor;
        let mut receiving = Receiving::default();
        receiving.granted = me.grants.iter().any(|g| g.write && g.path.is_empty());
        let may_read = me.grants.iter().any(|g| g.read && g.path.is_empty());
        Self {
            me,
            step: Step::Hello,
            splitter: Splitter::default(),
            out,
            effects: VecDeque::new(),
            sending: Sending::new(cursor),
            receiving,
            hello: None,
            peer: None,
            may_read,
            named: 0,
            mine: None,
            told_mine: false,
            suspect: false,
            proving: false,
            now,
            heard: now,
            said: now,
            pings: 0,
            end: None,
        }
    }

    /// Which versions of the protocol the other side speaks, once it said so.
    #[must_use]
    pub fn hello(&self) -> Option<Hello> {
        self.hello
    }

    /// Who is on the other side, once that was said.
    #[must_use]
    pub fn peer(&self) -> Option<&Identity> {
        self.peer.as_ref()
    }

    /// Which batches the other side holds, as far as this side knows.
    #[must_use]
    pub fn theirs(&self) -> &Knowledge {
        &self.sending.theirs
    }

    /// Every batch before this record of the log is there, or was set aside for good.
    #[must_use]
    pub fn cursor(&self) -> Lsn {
        self.sending.cursor()
    }

    /// Why it has ended, if it has. What is left of [`output`](Self::output) is still to be sent.
    #[must_use]
    pub fn ended(&self) -> Option<End> {
        self.end
    }

    /// Has each side what it may have of the other, as far as this one knows, with nothing under way?
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.step == Step::Open
            && self.told_mine
            && (self.sending.is_idle() || !self.sending.granted)
            && self.receiving.is_idle()
            && self.out.is_empty()
            && self.effects.is_empty()
    }

    /// Have both sides said all that there is to say before facts?
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.step == Step::Open
    }

    /// Do facts go one way or the other? Not where no rule of either side says so.
    #[must_use]
    pub fn exchanges(&self) -> bool {
        self.sending.granted || self.receiving.has_begun()
    }

    /// Is this side to send what it has?
    #[must_use]
    pub fn sends(&self) -> bool {
        self.sending.granted
    }

    /// May more bytes be handed over? If not, the other side does not take what it asked for; what it sends must wait.
    #[must_use]
    pub fn wants_input(&self) -> bool {
        self.end.is_none() && !self.out.is_full() && !self.is_held_up()
    }

    fn is_held_up(&self) -> bool {
        matches!(self.step, Step::Fencing | Step::Meeting)
    }

    /// Takes bytes as they come from the other side.
    pub fn receive(&mut self, bytes: &[u8], now: u64) {
        self.now = self.now.max(now);
        if self.end.is_some() {
            return;
        }
        self.heard = self.now;
        self.splitter.push(bytes);
        self.turn();
    }

    /// Takes an answer or news from whoever drives it.
    pub fn handle(&mut self, input: Input, now: u64) {
        self.now = self.now.max(now);
        if self.end.is_none() {
            self.input(input);
            self.turn();
        }
    }

    /// Time has passed. To be called about once a second.
    pub fn tick(&mut self, now: u64) {
        self.now = self.now.max(now);
        if self.end.is_some() {
            return;
        }
        if self.now - self.heard >= PEER_SILENCE_NS {
            self.stop(End::Silent);
            return;
        }
        if self.now - self.said >= PEER_IDLE_NS && self.step > Step::Epoch {
            self.pings += 1;
            self.said = self.now;
            self.out.say(&Message::Ping(self.pings));
        }
        self.turn();
    }

    /// The next thing to do.
    pub fn next_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    /// Is there something to do?
    #[must_use]
    pub fn has_effects(&self) -> bool {
        !self.effects.is_empty()
    }

    /// Bytes for the other side, up to about so many: none, if there are none now.
    pub fn output(&mut self, most: usize) -> Vec<u8> {
        let mut out = Vec::new();
        let was_full = self.out.is_full();
        self.out.take(most, &mut out);
        if !out.is_empty() {
            self.said = self.now;
        }
        if was_full && self.end.is_none() {
            self.turn();
        }
        out
    }

    /// Goes on as far as can be.
    fn turn(&mut self) {
        while self.end.is_none() && !self.is_held_up() && !self.out.is_full() {
            match self.splitter.next_message() {
                Ok(Some(message)) => {
                    if let Err(why) = self.message(message) {
                        self.say_bye(why);
                    }
                }
                Ok(None) => break,
                Err(_) => self.say_bye(Bye::Protocol),
            }
        }
        if self.end.is_none() && self.step == Step::Open && self.told_mine {
            self.sending.advance(self.now, &mut self.out, &mut self.effects);
            self.receiving.advance(self.now, &mut self.out, &mut self.effects);
        }
    }

    fn message(&mut self, message: Message) -> Result<(), Bye> {
        match (self.step, message) {
            (_, Message::Bye(why)) => {
                self.out.close(&Message::Bye(Bye::Done));
                self.stop(End::Told(why));
            }
            (Step::Hello, Message::Hello(hello)) => {
                if hello.magic != MAGIC {
                    return Err(Bye::Protocol);
                }
                self.hello = Some(hello);
                if hello.newest < OLDEST || hello.oldest > NEWEST {
                    return Err(Bye::Version);
                }
                self.step = Step::Epoch;
            }
            (Step::Epoch, Message::Epoch(epoch)) if self.is_higher(epoch) => {
                self.step = Step::Fencing;
                self.effects.push_back(Effect::Fence(epoch));
            }
            (Step::Epoch, Message::Epoch(_)) => self.introduce(),
            (Step::Identity, Message::Identity(who)) => return self.meet(who),
            (Step::Grants, Message::Grants(grants)) => {
                if grants.len() > PEER_GRANTS {
                    return Err(Bye::TooMuch);
                }
                let mut all = grants.iter().filter(|g| g.write && g.path.is_empty());
                self.sending.granted = all.any(|g| self.me.sends || (g.asks && self.may_read));
                self.step = Step::Knowledge;
            }
            (Step::Knowledge, Message::Knowledge(stretches, last)) => {
                return self.knowledge(&stretches, last);
            }
            (Step::Hello | Step::Epoch | Step::Fencing, _) => return Err(Bye::Protocol),
            (_, Message::Ping(n)) => self.out.say(&Message::Pong(n)),
            (_, Message::Pong(n)) => {
                if n == PROOF
                    && std::mem::take(&mut self.proving)
                    && let Some(who) = self.peer
                {
                    self.effects.push_back(Effect::Meet(who, true));
                }
            }
            (Step::Open, message) => return self.data(message),
            _ => return Err(Bye::Protocol),
        }
        Ok(())
    }

    /// Is that an epoch which has begun since, as far as the other side is to be believed? There is room for all that may come, so
    /// nobody jumps to the end of the numbers.
    fn is_higher(&self, epoch: Epoch) -> bool {
        let last = self.me.epoch.number.saturating_add(PEER_EPOCHS);
        self.me.heeds_epoch && epoch > self.me.epoch && epoch.number <= last
    }

    /// Epochs are settled: says who this is, and asks what to say next.
    fn introduce(&mut self) {
        self.step = Step::Identity;
        self.out.say(&Message::Identity(self.me.identity));
        self.out.say(&Message::Grants(self.me.grants.clone()));
        self.effects.push_back(Effect::Know);
    }

    fn meet(&mut self, who: Identity) -> Result<(), Bye> {
        if who.store == self.me.identity.store {
            return Err(Bye::SameStore);
        }
        self.peer = Some(who);
        self.step = Step::Meeting;
        self.effects.push_back(Effect::Meet(who, false));
        let apart = i128::from(who.wall_ns) - i128::from(self.me.identity.wall_ns);
        if apart.unsigned_abs() > u128::from(AHEAD_NS) {
            self.effects.push_back(Effect::Tell(Notice::ClockOff(apart)));
        }
        Ok(())
    }

    fn knowledge(&mut self, stretches: &[Stretch], last: bool) -> Result<(), Bye> {
        self.named += stretches.len();
        if self.named > PEER_STRETCHES {
            return Err(Bye::TooMuch);
        }
        stretches.iter().for_each(|s| self.sending.theirs.add_stretch(s));
        if last {
            self.step = Step::Open;
            self.compare();
        } else if stretches.is_empty() {
            return Err(Bye::Protocol);
        }
        Ok(())
    }

    /// Both have said what they hold: does somebody else write in my name?
    fn compare(&mut self) {
        let Some((mine, as_of)) = self.mine.take() else { return };
        let Identity { store, incarnation, .. } = self.me.identity;
        if self.sending.theirs.last(store, incarnation) > mine.last(store, incarnation) {
            // What I hold was asked before the other side said what it holds, which may have come from here since.
            if std::mem::replace(&mut self.suspect, true) {
                self.say_bye(Bye::Copy);
            } else {
                self.effects.push_back(Effect::Know);
            }
            return;
        }
        self.suspect = false;
        self.sending.claim(mine, as_of);
    }

    fn data(&mut self, message: Message) -> Result<(), Bye> {
        let (out, effects) = (&mut self.out, &mut self.effects);
        match message {
            Message::Facts(facts) => self.receiving.facts(facts, out, effects),
            Message::Told(page) => self.receiving.told(page, out, effects),
            Message::Lack(lack) => self.sending.lack(lack, self.may_read, out, effects),
            Message::Supply(page) => self.receiving.supply(page, out, effects),
            Message::NoSupply(number) => self.receiving.no_supply(number),
            Message::Ranges(origin, version, page) => self.receiving.ranges(&origin, version, page, effects),
            Message::Held(stretches) => {
                self.sending.held(&stretches, out);
                Ok(())
            }
            Message::Failed(origin, reason) => {
                self.sending.failed(origin, reason, self.now, out, effects);
                Ok(())
            }
            Message::SoFar => {
                self.receiving.so_far(effects);
                Ok(())
            }
            Message::Want(want) => self.sending.want(&want, self.may_read, out, effects),
            Message::Extent(head) => self.receiving.extent(head),
            Message::Data(request, bytes) => self.receiving.data(request, &bytes, effects),
            Message::Unavailable(request, reason) => {
                self.receiving.unavailable(request, reason, out, effects)
            }
            _ => Err(Bye::Protocol),
        }
    }

    fn input(&mut self, input: Input) {
        let (out, effects) = (&mut self.out, &mut self.effects);
        match input {
            Input::Fenced if self.step == Step::Fencing => self.introduce(),
            Input::Fenced => {}
            Input::Met(meeting) => self.met(meeting),
            Input::Holding(mine, as_of) => {
                if !std::mem::replace(&mut self.told_mine, true) {
                    self.tell(&mine);
                }
                self.mine = Some((mine, as_of));
                if self.step == Step::Open {
                    self.compare();
                }
            }
            Input::Batches { offered, unreadable, next, gap } => {
                self.sending.found(offered, unreadable, (next, gap), self.now, effects);
            }
            Input::Supply(number, page) => self.sending.supplied(number, page, out),
            Input::Lacking(wanted) => self.receiving.supplies.found(wanted, self.now, out),
            Input::Supplied(origin, taken, more, here) => {
                self.receiving.supplied(origin, &taken, (more, here), out, effects);
                self.sooner(&taken);
            }
            Input::Page(number, at, page) => self.sending.page(number, at, page, effects),
            Input::Asked(origin, held) => self.receiving.asked(origin, &held, out, effects),
            Input::Lacks(origin, ids) => self.receiving.lacks(origin, &ids, effects),
            Input::Kept(request, kept) => self.receiving.kept(request, kept, out, effects),
            Input::Imported(origin, taken) => {
                if self.receiving.imported(origin, &taken, out, effects) {
                    self.sending.has(&origin);
                }
                self.sooner(&taken);
            }
            Input::Extent(request, fetched) => self.sending.fetched(request, fetched, out),
            Input::Durable(lsn) => {
                self.sending.durable(lsn);
                self.receiving.durable(lsn, out);
            }
            Input::Stopped => self.say_bye(Bye::Stopped),
            Input::End(why) => self.say_bye(why),
        }
    }

    /// What is durable already need not wait for the next commit.
    fn sooner(&mut self, taken: &Taken) {
        if let Taken::Here(lsn) = taken
            && *lsn <= self.sending.durable_lsn()
        {
            self.receiving.durable(self.sending.durable_lsn(), &mut self.out);
        }
    }

    fn met(&mut self, meeting: Meeting) {
        if self.step == Step::Meeting {
            self.step = Step::Grants;
            if let Some(who) = self.peer.filter(|_| meeting != Meeting::NotThatStore) {
                self.effects.push_back(Effect::Tell(Notice::Met(who)));
            }
        }
        match meeting {
            Meeting::Fine => {}
            Meeting::Prove => {
                self.proving = true;
                self.out.say(&Message::Ping(PROOF));
            }
            Meeting::Copy => self.say_bye(Bye::Copy),
            Meeting::NotThatStore => self.say_bye(Bye::NotThatStore),
        }
    }

    fn tell(&mut self, mine: &Knowledge) {
        let all: Vec<Stretch> = mine.stretches().collect();
        if all.len() > PEER_STRETCHES {
            return self.say_bye(Bye::TooMuch);
        }
        let mut pages = all.chunks(PEER_PAGE).peekable();
        if pages.peek().is_none() {
            self.out.say(&Message::Knowledge(Vec::new(), true));
        }
        while let Some(page) = pages.next() {
            self.out.say(&Message::Knowledge(page.to_vec(), pages.peek().is_none()));
        }
    }

    fn say_bye(&mut self, why: Bye) {
        self.out.close(&Message::Bye(why));
        self.stop(End::Said(why));
    }

    fn stop(&mut self, end: End) {
        self.end.get_or_insert(end);
        self.effects.retain(|e| matches!(e, Effect::Tell(_)));
    }
}
