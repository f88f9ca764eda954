//! What goes into a session and what comes out of it, beside bytes.

use std::sync::Arc;

use crate::{
    base::{Lsn, VersionId},
    format::{
        Origin, Prepared,
        facts::ExtentId,
        hash::Hash,
        wire::{Bye, Epoch, ExtentHead, Identity, Lack, Reason, Stretch},
    },
    store::{CatchUp, Knowledge, Lacking, Parcel},
};

use super::{Meeting, Wanted};

/// A batch of this store, with the content hash of each version in it.
#[derive(Debug)]
pub struct Offered {
    /// The batch.
    pub parcel: Parcel,
    /// Content hashes; none of what itself waits here for its base.
    pub hashes: Vec<(VersionId, Option<Hash>)>,
}

/// A batch of the other store, whole; or a page of its index, with a [`Page`](crate::format::wire::Page) in the place of facts.
#[derive(Debug)]
pub struct Incoming {
    /// The batch.
    pub parcel: Parcel,
    /// Content hashes that its versions must have.
    pub hashes: Vec<(VersionId, Option<Hash>)>,
}

/// An extent of the other store, whole, and not checked yet.
#[derive(Debug)]
pub struct Arrived {
    /// The batch for which it was asked.
    pub of: Origin,
    /// What was said of it.
    pub head: ExtentHead,
    /// Its payload as stored there.
    pub stored: Vec<u8>,
}

/// An extent of this store, to be sent.
#[derive(Debug)]
pub struct Fetched {
    /// Its payload as stored here, which knows its codec, lengths and CRC.
    pub payload: Prepared,
    /// BLAKE3 of its raw bytes.
    pub hash: Hash,
}

/// What a session asks of whoever drives it. Each is answered by the input that is named, at once or later, in any order.
#[derive(Debug)]
pub enum Effect {
    /// The other side is in a higher epoch: turn read-only, durably, what this one may not write any more.
    /// Answer: [`Input::Fenced`].
    Fence(Epoch),
    /// Has this opening been met before ([`super::Acquaintances`])? With true it has proved that it lives. Answer:
    /// [`Input::Met`].
    Meet(Identity, bool),
    /// What does this store hold, durably? Answer: [`Input::Holding`].
    Know,
    /// Batches of the durable log from this LSN on that are not in [`Session::theirs`](super::Session::theirs).
    /// Answer: [`Input::Batches`].
    Read(Lsn),
    /// This batch builds on those, which could not be taken in: have some come by another way since? Answer: [`Input::Asked`].
    Ask(Origin, Vec<Origin>),
    /// Which extents of this batch are not here? Answer: [`Input::Lacks`].
    Look(Arc<Incoming>),
    /// Check an extent and keep it. Answer: [`Input::Kept`].
    Keep(Box<Arrived>),
    /// Check a batch and take it in, without these extents, which the other side has no more. Answer: [`Input::Imported`].
    Import(Arc<Incoming>, Vec<ExtentId>),
    /// The page of this number of what the index says to whoever holds [`Session::theirs`](super::Session::theirs), and where it goes
    /// on; from the beginning without. Answer: [`Input::Page`].
    Page(u64, Option<Box<CatchUp>>),
    /// The same for a page.
    Take(Arc<Incoming>, Vec<ExtentId>),
    /// A page of the content of a version that the other side lacks. Answer: [`Input::Supply`].
    Supply(Lack),
    /// The version behind this one whose content is lacking here. Answer: [`Input::Lacking`].
    Lacking(Option<Lacking>),
    /// Check a page of the content of a version and take it in, without these extents. Answer: [`Input::Supplied`].
    TakeSupply(Arc<Incoming>, Vec<ExtentId>, Box<Wanted>),
    /// An extent that a batch of this store names, for this request. Answer: [`Input::Extent`].
    Fetch(u32, Arc<Offered>, ExtentId),
    /// Something waits for a commit. Answer: [`Input::Durable`], when there was one, whoever asked for it.
    Commit,
    /// Something that a person may want to know.
    Tell(Notice),
}

/// What became of a batch that was to be taken in.
#[derive(Debug)]
pub enum Taken {
    /// It is here once this is durable.
    Here(Lsn),
    /// Extents of it went again meanwhile.
    Lacking,
    /// It can't be taken in.
    Failed(Reason),
}

/// What whoever drives a session hands to it, beside bytes.
#[derive(Debug)]
pub enum Input {
    /// Answers [`Effect::Fence`].
    Fenced,
    /// Answers [`Effect::Meet`].
    Met(Meeting),
    /// Answers [`Effect::Know`]: every batch that is held, all of it durable, and the last record as of which.
    Holding(Knowledge, Lsn),
    /// Answers [`Effect::Read`].
    Batches {
        /// What was found.
        offered: Vec<Offered>,
        /// What was found and can't be sent.
        unreadable: Vec<(Origin, Reason)>,
        /// Where to go on.
        next: Lsn,
        /// Of what lay where reading began, the log holds something no more.
        gap: bool,
    },
    /// Answers [`Effect::Page`]: its number, where it goes on, and the page; without one, that was all.
    Page(u64, Box<CatchUp>, Option<(Offered, Vec<VersionId>)>),
    /// Answers [`Effect::Ask`]: those that are held.
    Asked(Origin, Vec<Origin>),
    /// Answers [`Effect::Supply`]: the number of the request, and the page, if it can be had.
    Supply(u64, Option<Offered>),
    /// Answers [`Effect::Lacking`].
    Lacking(Option<Box<Wanted>>),
    /// Answers [`Effect::TakeSupply`]: what became of it, where the version goes on, and whether it is here now.
    Supplied(Origin, Taken, Option<Box<Wanted>>, bool),
    /// Answers [`Effect::Look`].
    Lacks(Origin, Vec<ExtentId>),
    /// Answers [`Effect::Keep`].
    Kept(u32, Result<(), Reason>),
    /// Answers [`Effect::Import`].
    Imported(Origin, Taken),
    /// Answers [`Effect::Fetch`].
    Extent(u32, Result<Fetched, Reason>),
    /// The log is durable up to here.
    Durable(Lsn),
    /// The store has failed: the connection ends.
    Stopped,
    /// End the connection, for this reason.
    End(Bye),
}

/// Something that a person may want to know, or a status shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// Who is there.
    Met(Identity),
    /// The other side has everything that it may have, as far as the log was durable.
    CaughtUp(Lsn),
    /// The clocks are so many nanoseconds apart: the other side's less this one's.
    ClockOff(i128),
    /// A batch of this store was set aside.
    Aside(Origin, Reason),
    /// A batch of the other store could not be taken in.
    NotTaken(Origin, Reason),
    /// The other side lacks what lies before the cursor: the log is walked from its beginning.
    WalksAgain,
    /// The other side lacks these, and the log has them no more: the index is told.
    NotInLog(Vec<Stretch>),
    /// All of the index was told, in so many pages.
    Told(u64),
}

/// Why a connection has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// This side said so.
    Said(Bye),
    /// The other side did.
    Told(Bye),
    /// The other side has said nothing for too long.
    Silent,
}
