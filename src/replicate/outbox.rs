//! What waits to be sent, and whose turn it is.

use std::{collections::VecDeque, sync::Arc};

use crate::{
    base::limits::{PEER_CHUNK_BYTES, PEER_PAGE},
    format::{
        Origin,
        wire::{ContentHead, ExtentHead, Facts, Message},
    },
};

use super::{Fetched, Offered};

/// Bytes of answers and acknowledgements that wait, above which nothing more is read from the other side.
const FULL_BYTES: usize = 256 << 10;

/// A batch that is being sent: its facts, then page after page of its ranges. None: that this is all so far.
struct Batch {
    offered: Option<Arc<Offered>>,
    begun: bool,
    /// The content whose ranges come next, and the first of them.
    at: (usize, usize),
}

/// An extent that is being sent.
struct Extent {
    request: u32,
    fetched: Fetched,
    head: Option<ExtentHead>,
    at: usize,
}

/// Messages on their way out.
#[derive(Default)]
pub(super) struct Outbox {
    /// Goes first, in this order.
    urgent: VecDeque<Vec<u8>>,
    urgent_bytes: usize,
    batches: VecDeque<Batch>,
    /// By the batch that they are of: batches take turns, and of one batch one extent after the other is sent, so that a cut loses
    /// one that is half there and not several.
    extents: VecDeque<(Origin, VecDeque<Extent>)>,
    /// Bytes of batches that may still go before it is the extents' turn; below zero it is theirs.
    turn: isize,
    /// The frame that is being taken, and how much of it was.
    frame: Vec<u8>,
    taken: usize,
    /// Requests whose extents have left.
    answered: Vec<u32>,
    closed: bool,
}

impl Outbox {
    /// Something small that everybody waits for.
    pub(super) fn say(&mut self, message: &Message) {
        if self.closed {
            return;
        }
        let frame = message.frame();
        self.urgent_bytes += frame.len();
        self.urgent.push_back(frame);
    }

    /// The last message: nothing else leaves any more but what is half sent and what was said before.
    pub(super) fn close(&mut self, message: &Message) {
        self.say(message);
        self.closed = true;
        self.batches.clear();
        self.extents.clear();
    }

    pub(super) fn batch(&mut self, offered: Arc<Offered>) {
        self.batches.push_back(Batch { offered: Some(offered), begun: false, at: (0, 0) });
    }

    /// The facts of all batches so far have left when this does.
    pub(super) fn so_far(&mut self) {
        self.batches.push_back(Batch { offered: None, begun: false, at: (0, 0) });
    }

    /// What was not sent of a batch yet is not needed any more.
    pub(super) fn forget(&mut self, origin: &Origin) {
        self.batches.retain(|b| b.offered.as_ref().is_none_or(|o| o.parcel.origin != *origin));
    }

    pub(super) fn extent(&mut self, of: Origin, head: ExtentHead, fetched: Fetched) {
        let extent = Extent { request: head.request, fetched, head: Some(head), at: 0 };
        match self.extents.iter_mut().find(|(origin, _)| *origin == of) {
            Some((_, queue)) => queue.push_back(extent),
            None => self.extents.push_back((of, VecDeque::from([extent]))),
        }
    }

    /// Does the other side not take what it asked for?
    pub(super) fn is_full(&self) -> bool {
        self.urgent_bytes > FULL_BYTES
    }

    pub(super) fn is_empty(&self) -> bool {
        self.taken == self.frame.len()
            && self.urgent.is_empty()
            && self.batches.is_empty()
            && self.extents.is_empty()
    }

    /// Requests whose extents have left since this was asked.
    pub(super) fn answered(&mut self) -> Vec<u32> {
        std::mem::take(&mut self.answered)
    }

    /// Up to so many bytes to send.
    pub(super) fn take(&mut self, most: usize, out: &mut Vec<u8>) {
        let end = out.len() + most;
        while out.len() < end {
            if self.taken == self.frame.len() {
                match self.next_frame() {
                    Some(frame) => (self.frame, self.taken) = (frame, 0),
                    None => return,
                }
            }
            let n = (self.frame.len() - self.taken).min(end - out.len());
            out.extend_from_slice(&self.frame[self.taken..self.taken + n]);
            self.taken += n;
        }
        if self.taken == self.frame.len() {
            (self.frame, self.taken) = (Vec::new(), 0);
        }
    }

    fn next_frame(&mut self) -> Option<Vec<u8>> {
        if let Some(frame) = self.urgent.pop_front() {
            self.urgent_bytes -= frame.len();
            return Some(frame);
        }
        // Batches and extents take turns by bytes, so that neither holds up the other.
        let batches = !self.batches.is_empty() && (self.turn > 0 || self.extents.is_empty());
        let frame = if batches { self.next_of_batch() } else { self.next_of_extent() }?;
        let quantum = PEER_CHUNK_BYTES as isize;
        if batches {
            self.turn -= frame.len() as isize;
        } else {
            self.turn = (self.turn + frame.len() as isize).clamp(-64 * quantum, quantum);
        }
        Some(frame)
    }

    fn next_of_batch(&mut self) -> Option<Vec<u8>> {
        let mut batch = self.batches.pop_front()?;
        let Some(offered) = &batch.offered else { return Some(Message::SoFar.frame()) };
        let parcel = &offered.parcel;
        let message = if batch.begun {
            let (n, from) = batch.at;
            let content = &parcel.contents[n];
            let page = content.ranges[from..].chunks(PEER_PAGE).next().unwrap_or_default().to_vec();
            batch.at = (n, from + page.len());
            Message::Ranges(parcel.origin, content.version, page)
        } else {
            batch.begun = true;
            match (parcel.origin.supplies(), parcel.origin.is_page()) {
                (Some(_), _) => Message::Supply(facts(offered)),
                (None, true) => Message::Told(facts(offered)),
                (None, false) => Message::Facts(facts(offered)),
            }
        };
        while let Some(content) = parcel.contents.get(batch.at.0)
            && batch.at.1 == content.ranges.len()
        {
            batch.at = (batch.at.0 + 1, 0);
        }
        if batch.at.0 < parcel.contents.len() {
            self.batches.push_back(batch);
        }
        Some(message.frame())
    }

    fn next_of_extent(&mut self) -> Option<Vec<u8>> {
        let (_, queue) = self.extents.front_mut()?;
        let extent = queue.front_mut()?;
        if let Some(head) = extent.head.take() {
            return Some(Message::Extent(head).frame());
        }
        let stored = extent.fetched.payload.stored();
        let end = (extent.at + PEER_CHUNK_BYTES).min(stored.len());
        let frame = Message::Data(extent.request, stored[extent.at..end].to_vec()).frame();
        extent.at = end;
        if end == stored.len() {
            self.answered.push(extent.request);
            queue.pop_front();
        }
        if let Some((of, queue)) = self.extents.pop_front()
            && !queue.is_empty()
        {
            self.extents.push_back((of, queue));
        }
        Some(frame)
    }
}

fn facts(offered: &Offered) -> Facts {
    let parcel = &offered.parcel;
    let contents = parcel.contents.iter().map(|c| ContentHead {
        object: c.object,
        version: c.version,
        base: c.base,
        hash: offered.hashes.iter().find(|(id, _)| *id == c.version).and_then(|(_, hash)| *hash),
        ranges: c.ranges.len() as u32,
    });
    Facts {
        origin: parcel.origin,
        stamp: parcel.stamp,
        object: parcel.object,
        facts: parcel.facts.clone(),
        contents: contents.collect(),
    }
}
