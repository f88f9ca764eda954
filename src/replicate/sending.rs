//! One direction of a session: what this store has and the other lacks.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};

use crate::{
    base::{
        Lsn, ObjectId, VersionId,
        limits::{
            PEER_BATCH_BYTES, PEER_FACTS_BYTES, PEER_RANGE_BYTES, PEER_RANGES, PEER_REQUESTS,
            PEER_RETRY_MAX_NS, PEER_RETRY_NS, PEER_WINDOW_BATCHES, PEER_WINDOW_BYTES,
        },
        planted::{Bug, planted},
    },
    format::{
        Origin, code,
        facts::{ExtentId, Range, Source},
        wire::{BASES, Bye, ExtentHead, Lack, Message, Page, Reason, Stretch, Want},
    },
    store::{CatchUp, Knowledge, Parcel},
};

use super::{Effect, Fetched, Notice, Offered, outbox::Outbox};

/// What a batch counts for in the window.
pub(super) fn cost(facts: usize, ranges: usize) -> usize {
    facts + ranges * PEER_RANGE_BYTES + PEER_BATCH_BYTES
}

fn cost_of(parcel: &Parcel) -> usize {
    cost(parcel.facts.len(), ranges_of(parcel))
}

fn ranges_of(parcel: &Parcel) -> usize {
    parcel.contents.iter().map(|c| c.ranges.len()).sum()
}

pub(super) struct Sending {
    /// May this store write there?
    pub(super) granted: bool,
    /// What the other side holds: by what it said, acknowledged, or sent.
    pub(super) theirs: Knowledge,
    /// Where reading goes on.
    next: Lsn,
    /// Where this walk began.
    began: Lsn,
    /// The log is being read; from another place than where it is to go on, if the walk has begun anew since.
    reading: bool,
    stale: bool,
    durable: Lsn,
    ready: VecDeque<Arc<Offered>>,
    /// Sent, neither acknowledged nor failed.
    flying: BTreeMap<Origin, Arc<Offered>>,
    window: usize,
    /// Batches were sent since it was said that this is all so far.
    unsaid: bool,
    versions: BTreeMap<VersionId, Origin>,
    /// Of each stretch of the log that was read: where it ends, and what of it is not acknowledged.
    marks: VecDeque<(Lsn, BTreeSet<Origin>)>,
    cursor: Lsn,
    /// What failed.
    aside: BTreeMap<Origin, Reason>,
    /// When what may pass is tried again, and how long after that.
    retry: Option<u64>,
    pause: u64,
    /// What this store held when the connection began, less what is known to be there, and the last record as of which: what no
    /// walk of the log finds of it must not stay unnoticed.
    claims: Option<(Knowledge, Lsn)>,
    told: Option<Lsn>,
    /// Extents that were asked for, and the batch that names each.
    requests: BTreeMap<u32, (Origin, ExtentId)>,
    telling: Option<Telling>,
    /// Pages of the index so far: the number of the last one.
    pages: u64,
    /// All of the index was told, and nobody was told so yet.
    told_all: bool,
    /// Something was gone from the log where it was to be read: what this store holds is compared once more.
    gap: bool,
    supply: Supply,
    /// A page of the index was refused for good: the other side lacks what is in it, until the next connection.
    refused: bool,
    /// Versions of which something can't be read here: pages of the index go without their content.
    unreadable: BTreeSet<VersionId>,
}

/// Versions that are remembered not to be readable.
const UNREADABLE: usize = 65_536;

/// The other side lacks the content of a version.
#[derive(Default)]
enum Supply {
    #[default]
    None,
    /// A page is being read.
    Asked,
    /// It waits for room in the window.
    Ready(Arc<Offered>),
}

/// The index is told, page after page.
#[derive(Default)]
struct Telling {
    /// Its pages have higher numbers than this one.
    after: u64,
    /// How far it is; none while the next page is asked for.
    at: Option<Box<CatchUp>>,
    asked: bool,
    /// Waits for room in the window.
    ready: Option<Arc<Offered>>,
    /// Pages that came back since something in them can't be read: they go again without it.
    again: VecDeque<Arc<Offered>>,
    /// Sent, and not acknowledged.
    under_way: usize,
    /// There are no more pages.
    over: bool,
    /// The last one, which says so, is made.
    ending: bool,
}

/// Pages on their way at once.
const PAGES: usize = 2;

impl Sending {
    pub(super) fn new(cursor: Lsn) -> Self {
        let cursor = cursor.max(Lsn::FIRST);
        Self {
            granted: false,
            theirs: Knowledge::default(),
            next: cursor,
            began: cursor,
            reading: false,
            stale: false,
            durable: Lsn::default(),
            ready: VecDeque::new(),
            flying: BTreeMap::new(),
            window: 0,
            unsaid: false,
            versions: BTreeMap::new(),
            marks: VecDeque::new(),
            cursor,
            aside: BTreeMap::new(),
            retry: None,
            pause: PEER_RETRY_NS,
            claims: None,
            told: None,
            requests: BTreeMap::new(),
            telling: None,
            pages: 0,
            told_all: false,
            gap: false,
            supply: Supply::None,
            refused: false,
            unreadable: BTreeSet::new(),
        }
    }

    /// Every batch before this record was acknowledged, is known there, or was set aside for good.
    pub(super) fn cursor(&self) -> Lsn {
        self.cursor
    }

    pub(super) fn durable(&mut self, lsn: Lsn) {
        self.durable = self.durable.max(lsn);
    }

    pub(super) fn durable_lsn(&self) -> Lsn {
        self.durable
    }

    /// What this store holds, as of this record.
    pub(super) fn claim(&mut self, mine: Knowledge, as_of: Lsn) {
        self.claims = Some((mine, as_of));
        self.durable(as_of);
        if self.next > as_of.next() && !planted(Bug::PeerTrustsCursor) {
            // The cursor is not of this log: the disk was set back.
            self.cursor = Lsn::FIRST;
            self.walk_from(Lsn::FIRST);
        }
    }

    /// Is there nothing to send, nothing under way, and nothing that will be tried again?
    pub(super) fn is_idle(&self) -> bool {
        self.granted
            && self.at_end()
            && self.flying.is_empty()
            && self.claims.is_none()
            && self.telling.is_none()
            && self.retry.is_none()
            && !self.refused
    }

    fn at_end(&self) -> bool {
        !self.reading && self.ready.is_empty() && self.next > self.durable
    }

    /// Goes on as far as window and log allow.
    pub(super) fn advance(&mut self, now: u64, out: &mut Outbox, effects: &mut VecDeque<Effect>) {
        for request in out.answered() {
            self.requests.remove(&request);
        }
        if !self.granted {
            return;
        }
        if self.retry.is_some_and(|at| at <= now) {
            self.retry = None;
            self.aside.retain(|_, reason| !reason.passes());
            self.walk_from(self.cursor);
            // What failed may have come there by another way: nothing of it is sent, and what waits there for it is not to wait.
            self.unsaid = true;
        }
        self.tell_on(effects);
        self.fill_window(out);
        if !self.reading && self.ready.is_empty() && self.next <= self.durable {
            self.reading = true;
            effects.push_back(Effect::Read(self.next));
        }
        if self.at_end() && std::mem::take(&mut self.unsaid) {
            out.so_far();
        }
        self.compare(effects);
        self.tell_on(effects);
        if self.claims.is_none() && std::mem::take(&mut self.gap) {
            effects.push_back(Effect::Know);
        }
        if std::mem::take(&mut self.told_all) {
            effects.push_back(Effect::Tell(Notice::Told(self.pages)));
        }
        // What was set aside, or could not be read for a page, is lacking there, whatever follows.
        if self.is_idle()
            && self.aside.is_empty()
            && self.unreadable.is_empty()
            && self.told != Some(self.next)
        {
            self.told = Some(self.next);
            effects.push_back(Effect::Tell(Notice::CaughtUp(Lsn::new(self.next.get().saturating_sub(1)))));
        }
    }

    /// Has the next page of the index read, if it is being told, or says that this was all.
    fn tell_on(&mut self, effects: &mut VecDeque<Effect>) {
        let Some(t) = &mut self.telling else { return };
        if t.asked || t.ready.is_some() || t.under_way >= PAGES {
            return;
        }
        if !t.over {
            (t.asked, self.pages) = (true, self.pages + 1);
            effects.push_back(Effect::Page(self.pages, t.at.take()));
        } else if t.under_way == 0
            && t.again.is_empty()
            && !t.ending
            && let Some(at) = &t.at
        {
            self.pages += 1;
            let known = at.known.minus(&self.theirs).stretches().collect();
            let page = Page { known, last: true, ..Page::default() };
            let parcel = Parcel {
                origin: Origin::page(Default::default(), self.pages),
                stamp: 0,
                object: ObjectId::ROOT,
                facts: code::encode(&page),
                contents: Vec::new(),
                sources: BTreeMap::new(),
            };
            (t.ending, t.ready) = (true, Some(Arc::new(Offered { parcel, hashes: Vec::new() })));
        }
    }

    /// A page of the index was read; none: that was all.
    pub(super) fn page(
        &mut self,
        number: u64,
        at: Box<CatchUp>,
        page: Option<(Offered, Vec<VersionId>)>,
        effects: &mut VecDeque<Effect>,
    ) {
        let Some(t) = self.telling.as_mut().filter(|_| number == self.pages) else { return };
        (t.asked, t.at, t.over) = (false, Some(at), page.is_none());
        let Some((page, left_out)) = page else { return };
        if !left_out.is_empty() {
            effects.push_back(Effect::Tell(Notice::Aside(page.parcel.origin, Reason::Unreadable)));
        }
        self.unreadable.extend(left_out.into_iter().take(UNREADABLE - self.unreadable.len().min(UNREADABLE)));
        t.ready = Some(Arc::new(without(page, &self.unreadable)));
    }

    /// A page came back, as something of it can't be read here. It goes again without that, and the rest of the index is not held up; so
    /// each version is taken out once. False: there is nothing to take out.
    fn page_again(&mut self, page: &Offered) -> bool {
        let left =
            without(Offered { parcel: page.parcel.clone(), hashes: page.hashes.clone() }, &self.unreadable);
        let less = left.parcel.contents.len() < page.parcel.contents.len();
        match self.telling.as_mut().filter(|t| less && page.parcel.origin.seq > t.after) {
            Some(t) => {
                t.under_way -= 1;
                t.again.push_back(Arc::new(left));
                true
            }
            None => false,
        }
    }

    /// A page is on its way no more; without a reason it was taken in.
    fn page_landed(
        &mut self,
        origin: Origin,
        reason: Option<Reason>,
        now: u64,
        effects: &mut VecDeque<Effect>,
    ) {
        if origin.supplies().is_some() {
            return;
        }
        // One of an earlier telling, which failed, says nothing of this one.
        let Some(t) = self.telling.as_mut().filter(|t| origin.seq > t.after) else { return };
        t.under_way -= 1;
        let Some(reason) = reason else {
            if t.ending && t.under_way == 0 {
                // Whoever has all pages has what came into them.
                t.at.iter().flat_map(|at| at.known.stretches()).for_each(|s| self.theirs.add_stretch(&s));
                (self.telling, self.claims, self.told_all, self.refused) = (None, None, true, false);
            }
            return;
        };
        self.telling = None;
        effects.push_back(Effect::Tell(Notice::Aside(origin, reason)));
        if !reason.passes() {
            (self.claims, self.refused) = (None, true);
        } else if self.retry.is_none() {
            self.retry = Some(now.saturating_add(self.pause));
            self.pause = (self.pause * 2).min(PEER_RETRY_MAX_NS);
        }
    }

    /// The other side asks for the content of a version.
    pub(super) fn lack(
        &mut self,
        lack: Lack,
        may_read: bool,
        out: &mut Outbox,
        effects: &mut VecDeque<Effect>,
    ) -> Result<(), Bye> {
        if !matches!(self.supply, Supply::None) || lack.bases.len() > BASES {
            return Err(Bye::Protocol);
        }
        if may_read && self.granted {
            self.supply = Supply::Asked;
            effects.push_back(Effect::Supply(lack));
        } else {
            out.say(&Message::NoSupply(lack.number));
        }
        Ok(())
    }

    /// It was read.
    pub(super) fn supplied(&mut self, number: u64, page: Option<Offered>, out: &mut Outbox) {
        match page {
            Some(page) => self.supply = Supply::Ready(Arc::new(page)),
            None => {
                self.supply = Supply::None;
                out.say(&Message::NoSupply(number));
            }
        }
    }

    fn send_page(&mut self, page: Arc<Offered>, out: &mut Outbox) {
        self.window += cost_of(&page.parcel);
        self.flying.insert(page.parcel.origin, Arc::clone(&page));
        out.batch(page);
    }

    fn fits(&self, page: &Offered) -> bool {
        self.window + cost_of(&page.parcel) <= PEER_WINDOW_BYTES && self.flying.len() < PEER_WINDOW_BATCHES
    }

    fn fill_window(&mut self, out: &mut Outbox) {
        if let Supply::Ready(page) = &self.supply
            && self.fits(page)
        {
            let page = Arc::clone(page);
            self.supply = Supply::None;
            self.send_page(page, out);
        }
        let ready = self.telling.as_ref().and_then(|t| t.ready.clone());
        if let Some(page) = ready.filter(|page| self.fits(page))
            && let Some(t) = &mut self.telling
        {
            (t.ready, t.under_way) = (None, t.under_way + 1);
            self.send_page(page, out);
        }
        while let Some(page) = self.telling.as_ref().and_then(|t| t.again.front().cloned())
            && self.fits(&page)
            && let Some(t) = &mut self.telling
        {
            t.again.pop_front();
            t.under_way += 1;
            self.send_page(page, out);
        }
        while let Some(offered) = self.ready.front() {
            let cost = cost_of(&offered.parcel);
            let full = self.window + cost > PEER_WINDOW_BYTES || self.flying.len() >= PEER_WINDOW_BATCHES;
            if full {
                break;
            }
            let Some(offered) = self.ready.pop_front() else { break };
            // It may have come from there, or by another connection, since it was read.
            if self.theirs.has(&offered.parcel.origin) {
                self.settled(&offered.parcel.origin);
                continue;
            }
            self.window += cost;
            for content in &offered.parcel.contents {
                self.versions.insert(content.version, offered.parcel.origin);
            }
            self.flying.insert(offered.parcel.origin, Arc::clone(&offered));
            out.batch(offered);
            self.unsaid = true;
        }
    }

    /// At the end of the walk: is there something that it has not found? Then the other side lacks what lies before the cursor
    /// (it was set back), or the log has it no more.
    fn compare(&mut self, effects: &mut VecDeque<Effect>) {
        let Some((mine, as_of)) = &self.claims else { return };
        if self.telling.is_some() || self.retry.is_some() {
            return;
        }
        if self.reading || !self.ready.is_empty() || self.next <= *as_of {
            return;
        }
        let mut known = self.theirs.clone();
        self.flying.keys().chain(self.aside.keys()).for_each(|o| known.add(o));
        let missing = mine.minus(&known);
        if missing.is_empty() || planted(Bug::PeerTrustsCursor) {
            self.claims = None;
        } else if self.began > Lsn::FIRST {
            self.walk_from(Lsn::FIRST);
            effects.push_back(Effect::Tell(Notice::WalksAgain));
            self.reading = true;
            effects.push_back(Effect::Read(self.next));
        } else {
            self.telling = Some(Telling { after: self.pages, ..Telling::default() });
            effects.push_back(Effect::Tell(Notice::NotInLog(missing.stretches().collect())));
        }
    }

    fn walk_from(&mut self, from: Lsn) {
        (self.next, self.began) = (from, from);
        self.stale = self.reading;
        self.marks.clear();
        // What was read and not sent comes again.
        self.ready.clear();
    }

    /// What reading the log found.
    pub(super) fn found(
        &mut self,
        offered: Vec<Offered>,
        unreadable: Vec<(Origin, Reason)>,
        (next, gap): (Lsn, bool),
        now: u64,
        effects: &mut VecDeque<Effect>,
    ) {
        self.reading = false;
        if std::mem::take(&mut self.stale) {
            return;
        }
        // Something went meanwhile, or never was in this log: it must not stay unnoticed.
        self.gap |= gap;
        self.next = next;
        let mut open = BTreeSet::new();
        for (origin, reason) in unreadable {
            open.insert(origin);
            self.set_aside(origin, reason, now, effects);
        }
        for offered in offered {
            let origin = offered.parcel.origin;
            if self.theirs.has(&origin) {
                continue;
            }
            let parcel = &offered.parcel;
            let too_large = ranges_of(parcel) > PEER_RANGES || parcel.facts.len() > PEER_FACTS_BYTES;
            if self.aside.get(&origin).is_some_and(|r| !r.passes()) {
                continue;
            }
            open.insert(origin);
            if too_large {
                self.set_aside(origin, Reason::TooLarge, now, effects);
            } else if !self.flying.contains_key(&origin) && !self.aside.contains_key(&origin) {
                self.ready.push_back(Arc::new(offered));
            }
        }
        open.retain(|o| self.aside.get(o).is_none_or(|r| r.passes()));
        match self.marks.back_mut() {
            // A cursor that waits for something set aside costs no more the longer it waits.
            Some((end, _)) if open.is_empty() => *end = next,
            _ => self.marks.push_back((next, open)),
        }
        self.move_cursor();
    }

    /// These are durable there.
    pub(super) fn held(&mut self, stretches: &[Stretch], out: &mut Outbox) {
        for s in stretches {
            let at = |seq| Origin { store: s.store, incarnation: s.incarnation, seq };
            if s.first > s.last {
                continue;
            }
            let done: Vec<Origin> = self.flying.range(at(s.first)..=at(s.last)).map(|(o, _)| *o).collect();
            for origin in done {
                if !origin.is_page() {
                    self.theirs.add(&origin);
                }
                self.landed(&origin, out);
                self.pause = PEER_RETRY_NS;
                if origin.is_page() {
                    self.page_landed(origin, None, 0, &mut VecDeque::new());
                }
            }
        }
    }

    /// The other side has it: it sent it itself.
    pub(super) fn has(&mut self, origin: &Origin) {
        if !origin.is_page() {
            self.theirs.add(origin);
            self.settled(origin);
        }
    }

    /// It can't be taken in there.
    pub(super) fn failed(
        &mut self,
        origin: Origin,
        reason: Reason,
        now: u64,
        out: &mut Outbox,
        effects: &mut VecDeque<Effect>,
    ) {
        if let Some(offered) = self.flying.get(&origin).cloned() {
            self.landed(&origin, out);
            if origin.is_page() {
                if reason == Reason::Unreadable && self.page_again(&offered) {
                    effects.push_back(Effect::Tell(Notice::Aside(origin, reason)));
                    return;
                }
                self.page_landed(origin, Some(reason), now, effects);
            } else {
                self.set_aside(origin, reason, now, effects);
            }
        }
    }

    fn set_aside(&mut self, origin: Origin, reason: Reason, now: u64, effects: &mut VecDeque<Effect>) {
        let before = self.aside.insert(origin, reason);
        if before != Some(reason) {
            effects.push_back(Effect::Tell(Notice::Aside(origin, reason)));
        }
        if !reason.passes() || planted(Bug::PeerForgetsFailed) {
            self.settled(&origin);
        } else if self.retry.is_none() {
            self.retry = Some(now.saturating_add(self.pause));
            self.pause = (self.pause * 2).min(PEER_RETRY_MAX_NS);
        }
    }

    /// It is on its way no more.
    fn landed(&mut self, origin: &Origin, out: &mut Outbox) {
        out.forget(origin);
        if let Some(offered) = self.flying.remove(origin) {
            self.window -= cost_of(&offered.parcel);
            for content in &offered.parcel.contents {
                if self.versions.get(&content.version) == Some(origin) {
                    self.versions.remove(&content.version);
                }
            }
        }
        if self.theirs.has(origin) {
            self.settled(origin);
        }
    }

    /// The cursor need not wait for it.
    fn settled(&mut self, origin: &Origin) {
        for (_, open) in &mut self.marks {
            open.remove(origin);
        }
        self.move_cursor();
    }

    fn move_cursor(&mut self) {
        while let Some((next, open)) = self.marks.front()
            && open.is_empty()
        {
            self.cursor = self.cursor.max(*next);
            self.marks.pop_front();
        }
    }

    /// The other side asks for an extent.
    pub(super) fn want(
        &mut self,
        want: &Want,
        may_read: bool,
        out: &mut Outbox,
        effects: &mut VecDeque<Effect>,
    ) -> Result<(), Bye> {
        for request in out.answered() {
            self.requests.remove(&request);
        }
        if self.requests.len() >= PEER_REQUESTS || self.requests.contains_key(&want.request) {
            return Err(Bye::Protocol);
        }
        let offered = match want.page {
            0 => self.versions.get(&want.version).and_then(|o| self.flying.get(o)),
            n => self.flying.iter().find(|(o, _)| o.is_page() && o.seq == n).map(|(_, page)| page),
        };
        let found = offered.and_then(|offered| {
            let content = offered.parcel.contents.iter().find(|c| c.version == want.version)?;
            match content.ranges.get(want.range as usize)?.source {
                Source::Extent(id, _) => Some((Arc::clone(offered), id)),
                Source::Hole => None,
            }
        });
        match found {
            Some((offered, id)) if may_read => {
                self.requests.insert(want.request, (offered.parcel.origin, id));
                effects.push_back(Effect::Fetch(want.request, offered, id));
            }
            Some(_) => self.refuse(want.request, Reason::NotGranted, out),
            None => self.refuse(want.request, Reason::NotOffered, out),
        }
        Ok(())
    }

    fn refuse(&mut self, request: u32, reason: Reason, out: &mut Outbox) {
        self.requests.remove(&request);
        out.say(&Message::Unavailable(request, reason));
    }

    /// An extent that was asked for was read.
    pub(super) fn fetched(&mut self, request: u32, fetched: Result<Fetched, Reason>, out: &mut Outbox) {
        let Some((of, id)) = self.requests.get(&request).copied() else { return };
        match fetched {
            Ok(fetched) => {
                let p = &fetched.payload;
                let head = ExtentHead {
                    request,
                    id,
                    codec: p.codec(),
                    stored_len: p.stored().len() as u32,
                    raw_len: p.raw_len(),
                    raw_crc: p.raw_crc(),
                    hash: fetched.hash,
                };
                out.extent(of, head, fetched);
            }
            Err(reason) => {
                if reason == Reason::Unreadable && self.unreadable.len() < UNREADABLE {
                    let page = self.flying.get(&of).filter(|page| page.parcel.origin.is_page());
                    let of_it = page.iter().flat_map(|page| page.parcel.contents.iter());
                    let names = |r: &Range| matches!(r.source, Source::Extent(e, _) if e == id);
                    let those = of_it.filter(|c| c.ranges.iter().any(names)).map(|c| c.version);
                    self.unreadable.extend(those.collect::<Vec<_>>());
                }
                self.refuse(request, reason, out);
            }
        }
    }
}

/// A page without the content of these versions: whoever gets it knows that it lacks it, and asks for it.
fn without(mut page: Offered, unreadable: &BTreeSet<VersionId>) -> Offered {
    page.parcel.contents.retain(|c| !unreadable.contains(&c.version));
    page.hashes.retain(|(version, _)| !unreadable.contains(version));
    page
}
