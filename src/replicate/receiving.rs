//! The other direction of a session: what the other store has and this one lacks.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};

use crate::{
    base::{
        Lsn, ObjectId, VersionId,
        limits::{
            COMPRESSED_EXTENT_BYTES, EXTENT_BYTES, PEER_FACTS_BYTES, PEER_FACTS_DECODED_BYTES, PEER_OBJECTS,
            PEER_PAGE, PEER_RANGES, PEER_REQUESTS, PEER_REQUESTS_SPARE, PEER_WINDOW_BATCHES,
            PEER_WINDOW_BYTES,
        },
        planted::{Bug, planted},
    },
    format::{
        Codec, Origin, code,
        facts::{Changes, ExtentId, Fact, ObjectKind, Range, Source},
        wire::{Bye, ExtentHead, Facts, Message, Page, Reason, Stretch, Supplied, Want},
    },
    store::Parcel,
};

use super::{
    Arrived, Effect, Incoming, Notice, Taken, Wanted, outbox::Outbox, sending::cost, supply::Supplies,
};

/// A batch from its first message to its acknowledgement.
struct Batch {
    /// In which order they came.
    number: u64,
    cost: usize,
    state: State,
    /// Objects that it names and that others may wait for.
    objects: BTreeSet<ObjectId>,
    /// Earlier batches that must be taken in before it.
    after: BTreeSet<Origin>,
    /// Batches that failed and that it builds on, while it is asked whether they came by another way.
    doubts: BTreeSet<Origin>,
    /// Objects whose versions it brings.
    versions: Vec<ObjectId>,
    /// Extents of it that the other side has no more.
    gone: Vec<ExtentId>,
    /// It makes a file whose first version may follow: the name is not published before that.
    held_back: bool,
}

enum State {
    /// Ranges still come: how many of each content.
    Arriving(Incoming, VecDeque<usize>),
    /// It is being found out what is lacking.
    Looking(Arc<Incoming>),
    /// Extents are on their way.
    Fetching(Arc<Incoming>, Fetching),
    /// All is here; it may wait for other batches.
    Whole(Arc<Incoming>),
    /// It is being taken in.
    Importing(Arc<Incoming>),
    /// It waits for a commit.
    Here,
}

#[derive(Default)]
struct Fetching {
    /// Not asked for yet: version, number of the range, name, about how long.
    wanted: VecDeque<(VersionId, u32, ExtentId, u64)>,
    /// Requests under way.
    under_way: usize,
    /// Bytes that are not asked for yet, about.
    left: u64,
}

/// An extent that was asked for.
struct Request {
    of: Origin,
    id: ExtentId,
    head: Option<ExtentHead>,
    stored: Vec<u8>,
    /// All of it has come.
    whole: bool,
    /// Its batch has failed meanwhile; what still comes is dropped.
    idle: bool,
}

#[derive(Default)]
pub(super) struct Receiving {
    /// May the other side write here?
    pub(super) granted: bool,
    batches: BTreeMap<Origin, Batch>,
    came: u64,
    window: usize,
    /// Objects that the batches under way name, all together.
    named: usize,
    /// The last batch under way that names an object.
    naming: BTreeMap<ObjectId, Origin>,
    /// Objects that batches name which failed, and the earliest of those.
    broken: BTreeMap<ObjectId, Origin>,
    /// Batches that failed, and when they came first: a later one may have to wait for an earlier one, and never the other way
    /// round, however often they come.
    failed: BTreeMap<Origin, u64>,
    /// Files whose names are held back until a version is whole, and the batches that make them.
    empty: BTreeMap<ObjectId, Origin>,
    requests: BTreeMap<u32, Request>,
    next_request: u32,
    /// Taken in, by the record that must be durable.
    unsynced: BTreeMap<Lsn, Vec<Origin>>,
    durable: Lsn,
    committing: bool,
    pub(super) supplies: Supplies,
    /// What the page of content is of that is on its way.
    wanted: Option<Box<Wanted>>,
}

/// What a message of the other side leads to.
pub(super) type Answer = Result<(), Bye>;

impl Receiving {
    /// Is nothing under way?
    pub(super) fn is_idle(&self) -> bool {
        self.batches.is_empty() && (!self.granted || self.supplies.is_idle())
    }

    /// Has a batch come?
    pub(super) fn has_begun(&self) -> bool {
        self.came > 0
    }

    /// A batch begins.
    pub(super) fn facts(&mut self, f: Facts, out: &mut Outbox, effects: &mut VecDeque<Effect>) -> Answer {
        if f.origin.is_page() {
            return Err(Bye::Protocol);
        }
        let decoded = code::decode_within::<PEER_FACTS_DECODED_BYTES, Vec<Fact>>(&f.facts);
        let refused = decoded.is_err().then_some(Reason::Refused);
        self.begins(f, refused, decoded.as_deref().unwrap_or_default(), out, effects)
    }

    /// A page of the other store's index begins. Pages are taken in one after the other.
    pub(super) fn told(&mut self, f: Facts, out: &mut Outbox, effects: &mut VecDeque<Effect>) -> Answer {
        if !f.origin.is_page() || f.origin.supplies().is_some() {
            return Err(Bye::Protocol);
        }
        let decoded = code::decode_within::<PEER_FACTS_DECODED_BYTES, Page>(&f.facts);
        let refused = decoded.is_err().then_some(Reason::Refused);
        self.begins(f, refused, &[], out, effects)
    }

    /// A page of the content of a version that was asked for begins.
    pub(super) fn supply(&mut self, f: Facts, out: &mut Outbox, effects: &mut VecDeque<Effect>) -> Answer {
        let origin = f.origin;
        let wanted = origin.supplies().and_then(|n| self.supplies.comes(n)).ok_or(Bye::Protocol)?;
        let decoded = code::decode_within::<PEER_FACTS_DECODED_BYTES, Supplied>(&f.facts);
        let refused = decoded.is_err().then_some(Reason::Refused);
        self.wanted = Some(wanted);
        self.begins(f, refused, &[], out, effects)
    }

    /// The content of a version that was asked for can't be had.
    pub(super) fn no_supply(&mut self, number: u64) -> Answer {
        if self.supplies.none(number) { Ok(()) } else { Err(Bye::Protocol) }
    }

    /// What became of a page of the content of a version. Says whether something is here.
    pub(super) fn supplied(
        &mut self,
        origin: Origin,
        taken: &Taken,
        (more, here): (Option<Box<Wanted>>, bool),
        out: &mut Outbox,
        effects: &mut VecDeque<Effect>,
    ) {
        if let Taken::Lacking = taken {
            self.wanted = more;
        } else if let Taken::Here(_) = taken {
            self.supplies.taken(more, here, out);
        }
        self.imported(origin, taken, out, effects);
    }

    fn begins(
        &mut self,
        f: Facts,
        refused: Option<Reason>,
        facts: &[Fact],
        out: &mut Outbox,
        effects: &mut VecDeque<Effect>,
    ) -> Answer {
        let ranges: usize = f.contents.iter().map(|c| c.ranges as usize).sum();
        let cost = cost(f.facts.len(), ranges);
        let fits = f.facts.len() <= PEER_FACTS_BYTES
            && f.contents.iter().all(|c| c.ranges as usize <= PEER_RANGES)
            && ranges <= PEER_RANGES
            && self.window + cost <= PEER_WINDOW_BYTES
            && self.batches.len() < PEER_WINDOW_BATCHES;
        if !fits || self.batches.contains_key(&f.origin) {
            return Err(Bye::Protocol);
        }
        let origin = f.origin;
        let objects: BTreeSet<ObjectId> =
            facts.iter().flat_map(named_by).filter(|o| *o != ObjectId::ROOT).collect();
        let versions: Vec<ObjectId> = facts.iter().filter_map(versioned).collect();
        let made = facts.iter().filter_map(made).filter(|o| !versions.contains(o));
        let before = self.empty.len();
        made.for_each(|o| {
            self.empty.entry(o).or_insert(origin);
        });
        let held_back = self.empty.len() > before;
        self.came += 1;
        let number = self.failed.get(&origin).copied().unwrap_or(self.came);
        let (mut after, doubts) = self.builds_on(origin, number, &objects);
        if origin.is_page() {
            let taken = |b: &Batch| matches!(b.state, State::Here);
            let of_index = |o: &Origin| o.is_page() && o.supplies().is_none();
            if of_index(&origin) {
                after.extend(self.batches.iter().filter(|(o, b)| of_index(o) && !taken(b)).map(|(o, _)| *o));
            }
        }
        let (state, gone) = (arriving(f), Vec::new());
        let too_many = self.named + objects.len() > PEER_OBJECTS;
        self.window += cost;
        self.named += objects.len();
        let ask: Vec<Origin> = doubts.iter().copied().collect();
        self.batches
            .insert(origin, Batch { number, cost, state, objects, after, doubts, versions, gone, held_back });
        let refused = match () {
            () if !self.granted => Some(Reason::NotGranted),
            () if too_many => Some(Reason::TooLarge),
            () => refused,
        };
        match refused {
            // Pages of it may still come; they are dropped.
            Some(reason) => self.fail(origin, reason, out, effects),
            None => {
                if !ask.is_empty() {
                    effects.push_back(Effect::Ask(origin, ask));
                }
                self.arrived(origin, effects);
            }
        }
        if self.window > PEER_WINDOW_BYTES / 2 || self.batches.len() > PEER_WINDOW_BATCHES / 2 {
            // What follows may not fit before this is taken in.
            self.so_far(effects);
        }
        Ok(())
    }

    /// The earlier batches under way that a batch waits for, and failed ones that it builds on. It is the one to wait for from now on.
    fn builds_on(
        &mut self,
        origin: Origin,
        number: u64,
        objects: &BTreeSet<ObjectId>,
    ) -> (BTreeSet<Origin>, BTreeSet<Origin>) {
        let (mut after, mut doubts) = (BTreeSet::new(), BTreeSet::new());
        for object in objects {
            match (self.naming.insert(*object, origin), self.broken.get(object)) {
                (Some(earlier), _) => {
                    after.insert(earlier);
                }
                (None, Some(broken)) if self.failed.get(broken).is_some_and(|n| *n < number) => {
                    doubts.insert(*broken);
                }
                _ => {}
            }
        }
        (after, doubts)
    }

    /// The other side has sent all that it has for now: files of which no version is on its way are empty, and not only here.
    pub(super) fn so_far(&mut self, effects: &mut VecDeque<Effect>) {
        let coming: BTreeSet<ObjectId> = self.batches.values().flat_map(|b| &b.versions).copied().collect();
        let mut held = BTreeSet::new();
        self.empty.retain(|object, of| {
            let comes = coming.contains(object);
            if !comes {
                held.insert(*of);
            }
            comes
        });
        for origin in held {
            self.publish(origin, effects);
        }
    }

    /// The name that a batch makes need not wait any more.
    fn publish(&mut self, origin: Origin, effects: &mut VecDeque<Effect>) {
        if let Some(batch) = self.batches.get_mut(&origin) {
            batch.held_back = false;
            self.import_if_free(origin, effects);
        }
    }

    /// Of what a batch builds on and had failed, this is here by now.
    pub(super) fn asked(
        &mut self,
        origin: Origin,
        held: &[Origin],
        out: &mut Outbox,
        effects: &mut VecDeque<Effect>,
    ) {
        held.iter().for_each(|o| self.mend(o));
        let Some(batch) = self.batches.get_mut(&origin) else { return };
        if batch.doubts.iter().all(|o| held.contains(o)) {
            batch.doubts.clear();
            self.import_if_free(origin, effects);
        } else {
            self.fail(origin, Reason::Behind, out, effects);
        }
    }

    /// A page of ranges.
    pub(super) fn ranges(
        &mut self,
        origin: &Origin,
        version: VersionId,
        page: Vec<Range>,
        effects: &mut VecDeque<Effect>,
    ) -> Answer {
        // What has failed is not there any more, or was there again and has failed again.
        let Some(batch) = self.batches.get_mut(origin) else { return Ok(()) };
        let State::Arriving(incoming, expected) = &mut batch.state else { return Err(Bye::Protocol) };
        let n = expected.iter().position(|left| *left > 0);
        let Some(n) = n else { return Err(Bye::Protocol) };
        let content = &mut incoming.parcel.contents[n];
        if content.version != version || page.is_empty() || page.len() > expected[n] {
            return Err(Bye::Protocol);
        }
        expected[n] -= page.len();
        content.ranges.extend(page);
        self.arrived(*origin, effects);
        Ok(())
    }

    /// Goes on with a batch once all of it is known.
    fn arrived(&mut self, origin: Origin, effects: &mut VecDeque<Effect>) {
        let Some(batch) = self.batches.get_mut(&origin) else { return };
        if let State::Arriving(_, expected) = &batch.state
            && expected.iter().all(|left| *left == 0)
        {
            let State::Arriving(incoming, _) = std::mem::replace(&mut batch.state, State::Here) else {
                return;
            };
            let incoming = Arc::new(incoming);
            if incoming.parcel.contents.iter().all(|c| c.ranges.is_empty()) {
                batch.state = State::Whole(incoming);
                self.import_if_free(origin, effects);
            } else {
                batch.state = State::Looking(Arc::clone(&incoming));
                effects.push_back(Effect::Look(incoming));
            }
        }
    }

    /// These extents of it are not here.
    pub(super) fn lacks(&mut self, origin: Origin, ids: &[ExtentId], effects: &mut VecDeque<Effect>) {
        let Some(batch) = self.batches.get_mut(&origin) else { return };
        let State::Looking(incoming) = &batch.state else { return };
        let incoming = Arc::clone(incoming);
        let lacking: BTreeSet<&ExtentId> = ids.iter().filter(|id| !batch.gone.contains(id)).collect();
        let mut asked = BTreeSet::new();
        let mut fetching = Fetching::default();
        for content in &incoming.parcel.contents {
            for (n, range) in content.ranges.iter().enumerate() {
                if let Source::Extent(id, _) = range.source
                    && lacking.contains(&id)
                    && asked.insert(id)
                {
                    fetching.wanted.push_back((content.version, n as u32, id, range.len));
                    fetching.left = fetching.left.saturating_add(range.len);
                }
            }
        }
        if fetching.wanted.is_empty() {
            batch.state = State::Whole(incoming);
            self.import_if_free(origin, effects);
        } else {
            batch.state = State::Fetching(incoming, fetching);
        }
    }

    /// Asks for as much as may be under way: first what is complete soonest, and always with room for one more version.
    pub(super) fn advance(&mut self, now: u64, out: &mut Outbox, effects: &mut VecDeque<Effect>) {
        // Once everything else is here.
        if self.granted
            && self.batches.is_empty()
            && let Some(after) = self.supplies.looks(now)
        {
            effects.push_back(Effect::Lacking(after));
        }
        while self.requests.len() < PEER_REQUESTS {
            let spare = self.requests.len() < PEER_REQUESTS - PEER_REQUESTS_SPARE;
            let next = self.batches.iter_mut().filter_map(|(origin, batch)| match &mut batch.state {
                State::Fetching(_, f) if !f.wanted.is_empty() && (spare || f.under_way == 0) => {
                    Some((f.left, batch.number, *origin, f))
                }
                _ => None,
            });
            let Some((_, _, of, fetching)) = next.min_by_key(|(left, number, ..)| (*left, *number)) else {
                break;
            };
            let Some((version, range, id, len)) = fetching.wanted.pop_front() else { break };
            fetching.left = fetching.left.saturating_sub(len);
            fetching.under_way += 1;
            while self.requests.contains_key(&self.next_request) {
                self.next_request = self.next_request.wrapping_add(1);
            }
            let request = self.next_request;
            self.next_request = request.wrapping_add(1);
            self.requests.insert(
                request,
                Request { of, id, head: None, stored: Vec::new(), whole: false, idle: false },
            );
            let page = if of.is_page() { of.seq } else { 0 };
            out.say(&Message::Want(Want { request, version, range, page }));
        }
        if !self.committing && !self.unsynced.is_empty() {
            self.committing = true;
            effects.push_back(Effect::Commit);
        }
    }

    /// An extent begins.
    pub(super) fn extent(&mut self, head: ExtentHead) -> Answer {
        let request = self.requests.get_mut(&head.request).ok_or(Bye::Protocol)?;
        let bound = if head.codec == Codec::Raw { EXTENT_BYTES } else { COMPRESSED_EXTENT_BYTES };
        let (stored, raw) = (head.stored_len as usize, head.raw_len as usize);
        let possible = (1..=bound).contains(&stored)
            && (1..=bound).contains(&raw)
            && (head.codec != Codec::Raw || stored == raw);
        if request.head.is_some() || request.id != head.id || !possible {
            return Err(Bye::Protocol);
        }
        request.head = Some(head);
        Ok(())
    }

    /// Bytes of an extent.
    pub(super) fn data(&mut self, number: u32, bytes: &[u8], effects: &mut VecDeque<Effect>) -> Answer {
        let request = self.requests.get_mut(&number).ok_or(Bye::Protocol)?;
        let head = request.head.ok_or(Bye::Protocol)?;
        let left = head.stored_len as usize - request.stored.len();
        if request.whole || bytes.is_empty() || bytes.len() > left {
            return Err(Bye::Protocol);
        }
        request.stored.extend_from_slice(bytes);
        if bytes.len() < left {
            return Ok(());
        }
        request.whole = true;
        if request.idle {
            self.requests.remove(&number);
            return Ok(());
        }
        let (of, stored) = (request.of, std::mem::take(&mut request.stored));
        effects.push_back(Effect::Keep(Box::new(Arrived { of, head, stored })));
        Ok(())
    }

    /// An extent can't be had.
    pub(super) fn unavailable(
        &mut self,
        number: u32,
        reason: Reason,
        out: &mut Outbox,
        effects: &mut VecDeque<Effect>,
    ) -> Answer {
        let request = self.requests.remove(&number).ok_or(Bye::Protocol)?;
        if request.head.is_some() {
            return Err(Bye::Protocol);
        }
        if request.idle {
            return Ok(());
        }
        match self.batches.get_mut(&request.of) {
            // Nothing shows it any more there: what it was of is taken without.
            Some(batch) if reason == Reason::Gone => {
                batch.gone.push(request.id);
                self.fetched(request.of, effects);
            }
            _ => self.fail(request.of, reason, out, effects),
        }
        Ok(())
    }

    /// An extent was kept, or is not what was said of it.
    pub(super) fn kept(
        &mut self,
        number: u32,
        kept: Result<(), Reason>,
        out: &mut Outbox,
        effects: &mut VecDeque<Effect>,
    ) {
        let Some(request) = self.requests.remove(&number) else { return };
        if request.idle {
            return;
        }
        if let Err(reason) = kept {
            return self.fail(request.of, reason, out, effects);
        }
        self.fetched(request.of, effects);
    }

    /// One extent less is on its way.
    fn fetched(&mut self, origin: Origin, effects: &mut VecDeque<Effect>) {
        let Some(batch) = self.batches.get_mut(&origin) else { return };
        let State::Fetching(incoming, fetching) = &mut batch.state else { return };
        fetching.under_way -= 1;
        if fetching.under_way == 0 && fetching.wanted.is_empty() {
            batch.state = State::Whole(Arc::clone(incoming));
            self.import_if_free(origin, effects);
        }
    }

    fn import_if_free(&mut self, origin: Origin, effects: &mut VecDeque<Effect>) {
        let Some(batch) = self.batches.get_mut(&origin) else { return };
        if !matches!(batch.state, State::Whole(_)) {
            return;
        }
        for object in std::mem::take(&mut batch.versions) {
            if let Some(holder) = self.empty.remove(&object) {
                self.publish(holder, effects);
            }
        }
        let Some(batch) = self.batches.get_mut(&origin) else { return };
        if let State::Whole(incoming) = &batch.state
            && !batch.held_back
            && batch.after.is_empty()
            && batch.doubts.is_empty()
        {
            let incoming = Arc::clone(incoming);
            batch.state = State::Importing(Arc::clone(&incoming));
            let supply = origin.supplies().and_then(|_| self.wanted.take());
            effects.push_back(if let Some(wanted) = supply {
                Effect::TakeSupply(incoming, batch.gone.clone(), wanted)
            } else if origin.is_page() {
                Effect::Take(incoming, batch.gone.clone())
            } else {
                Effect::Import(incoming, batch.gone.clone())
            });
        }
    }

    /// What became of a batch. Says whether it is here.
    pub(super) fn imported(
        &mut self,
        origin: Origin,
        taken: &Taken,
        out: &mut Outbox,
        effects: &mut VecDeque<Effect>,
    ) -> bool {
        let Some(batch) = self.batches.get_mut(&origin) else { return false };
        let State::Importing(incoming) = &batch.state else { return false };
        match taken {
            Taken::Lacking => {
                let incoming = Arc::clone(incoming);
                batch.state = State::Looking(Arc::clone(&incoming));
                effects.push_back(Effect::Look(incoming));
                false
            }
            Taken::Failed(reason) => {
                self.fail(origin, *reason, out, effects);
                false
            }
            Taken::Here(lsn) => {
                if origin.supplies().is_none() && (origin.is_page() || !batch.gone.is_empty()) {
                    self.supplies.soon();
                }
                batch.state = State::Here;
                let objects = std::mem::take(&mut batch.objects);
                self.unname(origin, &objects);
                self.mend(&origin);
                self.unsynced.entry(*lsn).or_default().push(origin);
                let free: Vec<Origin> = self
                    .batches
                    .iter_mut()
                    .filter_map(|(o, b)| (b.after.remove(&origin) && b.after.is_empty()).then_some(*o))
                    .collect();
                for origin in free {
                    self.import_if_free(origin, effects);
                }
                self.acknowledge(out);
                true
            }
        }
    }

    /// The log is durable up to here.
    pub(super) fn durable(&mut self, lsn: Lsn, out: &mut Outbox) {
        self.durable = self.durable.max(lsn);
        self.committing = false;
        self.acknowledge(out);
    }

    /// Says what is durable.
    fn acknowledge(&mut self, out: &mut Outbox) {
        let early = planted(Bug::PeerAcknowledgesEarly);
        let rest = if early { BTreeMap::new() } else { self.unsynced.split_off(&self.durable.next()) };
        let done = std::mem::replace(&mut self.unsynced, rest);
        let mut origins: Vec<Origin> = done.into_values().flatten().collect();
        origins.sort_unstable();
        let mut stretches: Vec<Stretch> = Vec::new();
        for origin in &origins {
            if let Some(batch) = self.batches.remove(origin) {
                self.window -= batch.cost;
            }
            match stretches.last_mut() {
                Some(s)
                    if (s.store, s.incarnation) == (origin.store, origin.incarnation)
                        && s.last + 1 == origin.seq =>
                {
                    s.last = origin.seq;
                }
                _ => stretches.push(Stretch::one(origin)),
            }
        }
        for page in stretches.chunks(PEER_PAGE) {
            out.say(&Message::Held(page.to_vec()));
        }
    }

    fn unname(&mut self, origin: Origin, objects: &BTreeSet<ObjectId>) {
        self.named -= objects.len();
        for object in objects {
            if self.naming.get(object) == Some(&origin) {
                self.naming.remove(object);
            }
        }
    }

    /// A batch that had failed is here.
    fn mend(&mut self, origin: &Origin) {
        if self.failed.remove(origin).is_some() {
            self.broken.retain(|_, of| of != origin);
        }
    }

    /// A batch is not taken in, nor what builds on it.
    fn fail(&mut self, origin: Origin, reason: Reason, out: &mut Outbox, effects: &mut VecDeque<Effect>) {
        let mut failing = vec![(origin, reason)];
        while let Some((origin, reason)) = failing.pop() {
            let Some(batch) = self.batches.remove(&origin) else { continue };
            self.window -= batch.cost;
            self.unname(origin, &batch.objects);
            if batch.held_back {
                self.empty.retain(|_, of| *of != origin);
            }
            for request in self.requests.values_mut().filter(|r| r.of == origin) {
                request.idle = true;
            }
            if self.broken.len() + batch.objects.len() <= PEER_OBJECTS && self.failed.len() < PEER_OBJECTS {
                self.failed.insert(origin, batch.number);
                for object in &batch.objects {
                    let first = self.broken.entry(*object).or_insert(origin);
                    if self.failed.get(first).is_none_or(|n| batch.number < *n) {
                        *first = origin;
                    }
                }
            }
            let behind = self.batches.iter().filter(|(_, b)| b.after.contains(&origin));
            failing.extend(behind.map(|(o, _)| (*o, Reason::Behind)));
            if !reason.passes() {
                for object in &batch.versions {
                    if let Some(holder) = self.empty.remove(object) {
                        self.publish(holder, effects);
                    }
                }
            }
            if origin.supplies().is_some() {
                self.wanted = None;
                self.supplies.taken(None, false, out);
            }
            out.say(&Message::Failed(origin, reason));
            effects.push_back(Effect::Tell(Notice::NotTaken(origin, reason)));
        }
    }
}

/// A batch as it begins.
fn arriving(f: Facts) -> State {
    let contents = f.contents.iter().map(|c| Changes {
        object: c.object,
        version: c.version,
        base: c.base,
        ranges: Vec::with_capacity(c.ranges as usize),
    });
    let parcel = Parcel {
        origin: f.origin,
        stamp: f.stamp,
        object: f.object,
        contents: contents.collect(),
        facts: f.facts,
        sources: BTreeMap::new(),
    };
    let hashes = f.contents.iter().map(|c| (c.version, c.hash)).collect();
    let expected = f.contents.iter().map(|c| c.ranges as usize).collect();
    State::Arriving(Incoming { parcel, hashes }, expected)
}

/// The file that a fact makes.
fn made(fact: &Fact) -> Option<ObjectId> {
    match fact {
        Fact::Create(c) if c.kind == ObjectKind::File => Some(c.object),
        _ => None,
    }
}

/// The object of which a fact is a version.
fn versioned(fact: &Fact) -> Option<ObjectId> {
    match fact {
        Fact::Version(v) => Some(v.object),
        _ => None,
    }
}

/// Objects of a fact whose order matters to somebody who looks: not the directories in which names hang.
fn named_by(fact: &Fact) -> Vec<ObjectId> {
    match fact {
        Fact::Create(c) => vec![c.object],
        Fact::Link(l) => l.continues.iter().map(|c| c.object).chain([l.object]).collect(),
        Fact::Gone(g) => vec![g.object],
        Fact::Mode(o, _)
        | Fact::Owner(o, _)
        | Fact::Modified(o, _)
        | Fact::Xattr(o, ..)
        | Fact::Retain(o, ..)
        | Fact::Hold(o, ..) => vec![*o],
        Fact::Version(v) => vec![v.object],
        Fact::Alias(from, to) => vec![*from, *to],
        _ => Vec::new(),
    }
}
