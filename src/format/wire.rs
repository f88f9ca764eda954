//! What peers say to each other: messages and their bytes. `docs/PROTOCOL.md` says what they mean and when they come.
//!
//! A message is a header of eight bytes (length and CRC-32 of the body, little-endian) and a body in the encoding of facts.
//! Whoever sends them may be hostile: the length is bounded before anything is kept, and what decoding may allocate is too.

use bincode::{Decode, Encode};

use super::{
    Codec, Malformed, Origin,
    checksum::crc,
    code,
    facts::{ExtentId, Range, Told, Version},
    hash::Hash,
};
use crate::base::{
    Incarnation, ObjectId, StoreId, VersionId,
    limits::{PEER_DECODED_BYTES, PEER_MESSAGE_BYTES},
};

/// How a connection begins, on both sides.
pub const MAGIC: [u8; 8] = *b"SEGFSPP1";
/// The oldest version of the protocol that this program speaks.
pub const OLDEST: u16 = 1;
/// The newest one.
pub const NEWEST: u16 = 1;
/// Bytes before the body of a message.
pub const HEADER_BYTES: usize = 8;

/// A message. New ones come at the end, and only where the agreed version has them.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum Message {
    /// The first one, the same in all versions for ever.
    Hello(Hello),
    /// Who may write: before anything about the data.
    Epoch(Epoch),
    /// Who I am.
    Identity(Identity),
    /// What you may do here.
    Grants(Vec<Grant>),
    /// Facts batches that I hold, durably; and whether that is all.
    Knowledge(Vec<Stretch>, bool),
    /// A batch of facts that you lack.
    Facts(Facts),
    /// More ranges of a version of such a batch, in their order.
    Ranges(Origin, VersionId, Vec<Range>),
    /// These batches of yours are durable here.
    Held(Vec<Stretch>),
    /// This one could not be taken in.
    Failed(Origin, Reason),
    /// This is all so far.
    SoFar,
    /// Send me the extent that this version shows in this range.
    Want(Want),
    /// Here it is; its bytes follow as data.
    Extent(ExtentHead),
    /// Some bytes of what was asked for.
    Data(u32, Vec<u8>),
    /// What was asked for can't be had.
    Unavailable(u32, Reason),
    /// Are you there? The number comes back.
    Ping(u64),
    /// I am.
    Pong(u64),
    /// The last message.
    Bye(Bye),
    /// Rows of my index, for what my log holds no more: as [`Facts`], with an encoded [`Page`] in the place of the facts, and the number
    /// of the page as its origin ([`Origin::page`]).
    Told(Facts),
    /// I have the facts of a version, and not its content.
    Lack(Lack),
    /// A page of that content: as [`Facts`], with an encoded [`Supplied`] in the place of the facts ([`Origin::supply`]).
    Supply(Facts),
    /// It can't be had.
    NoSupply(u64),
}

/// Asks for the content of a version.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Lack {
    /// Number of the request; one at a time.
    pub number: u64,
    /// The version.
    pub version: VersionId,
    /// Versions of its object that are here, by one of which it may be described.
    pub bases: Vec<VersionId>,
    /// Where the last page said that it goes on; else zeros.
    pub from: (u64, u64),
}

/// What is said of a version whose content comes.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Supplied {
    /// Its fact.
    pub version: Version,
    /// The stamp of its record, ns since 1970.
    pub stamp: u64,
    /// The store that made it.
    pub maker: StoreId,
    /// Where it goes on.
    pub next: Option<(u64, u64)>,
}

/// The most versions that a request names as bases.
pub const BASES: usize = 64;
/// Numbers of pages that are supplied have this bit.
const SUPPLY: u64 = 1 << 63;

/// How a connection begins: what it is, and which versions of the protocol are spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub struct Hello {
    /// [`MAGIC`].
    pub magic: [u8; 8],
    /// The oldest version that is spoken.
    pub oldest: u16,
    /// The newest one.
    pub newest: u16,
}

/// Which epoch of a replica set a store is in. The higher one counts: first the number, then the store that began it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Encode, Decode)]
pub struct Epoch {
    /// Grows with each promotion.
    pub number: u64,
    /// Who was promoted.
    pub store: StoreId,
}

/// Who somebody is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub struct Identity {
    /// The store.
    pub store: StoreId,
    /// This opening of it.
    pub incarnation: Incarnation,
    /// Its wall clock, ns since 1970.
    pub wall_ns: u64,
}

/// What the other side may do below a path.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Grant {
    /// The path; empty: the whole store.
    pub path: Vec<u8>,
    /// It may read: facts are sent to it, and extents that it asks for.
    pub read: bool,
    /// It may write: its facts are taken in.
    pub write: bool,
    /// It is asked to: a two-way rule here covers the path, and one there is not needed.
    pub asks: bool,
}

/// Facts batches of one opening of one store, from the first number to the last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Encode, Decode)]
pub struct Stretch {
    /// The store.
    pub store: StoreId,
    /// The opening.
    pub incarnation: Incarnation,
    /// The first number.
    pub first: u64,
    /// The last one.
    pub last: u64,
}

impl Stretch {
    /// Of one batch.
    #[must_use]
    pub fn one(o: &Origin) -> Self {
        Self { store: o.store, incarnation: o.incarnation, first: o.seq, last: o.seq }
    }
}

/// A batch of facts as its maker logged it.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Facts {
    /// Where it was made.
    pub origin: Origin,
    /// Its stamp, ns since 1970.
    pub stamp: u64,
    /// The first object that it concerns.
    pub object: ObjectId,
    /// The facts, byte for byte.
    pub facts: Vec<u8>,
    /// The content of each version among them.
    pub contents: Vec<ContentHead>,
}

/// What there is to know of a version's content before its ranges come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub struct ContentHead {
    /// Whose content.
    pub object: ObjectId,
    /// The version.
    pub version: VersionId,
    /// The version to start from; none: an empty file.
    pub base: Option<VersionId>,
    /// Content hash of the whole version; none only where the sender itself waits for the base.
    pub hash: Option<Hash>,
    /// Ranges that will come.
    pub ranges: u32,
}

/// Asks for an extent by what shows it, and never by its name: so nobody is given what no version in scope shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub struct Want {
    /// Number of the request, chosen by who asks; free again when it was answered.
    pub request: u32,
    /// A version that was offered on this connection.
    pub version: VersionId,
    /// Which of the ranges that were sent for it, counted from 0.
    pub range: u32,
    /// The page with which they were sent; 0: a batch.
    pub page: u64,
}

/// What the rows of an index say: who takes all pages has what came into them.
#[derive(Debug, Clone, PartialEq, Eq, Default, Encode, Decode)]
pub struct Page {
    /// Values of registers, and versions.
    pub told: Vec<Told>,
    /// Versions that were removed there.
    pub removed: Vec<(ObjectId, VersionId)>,
    /// Batches that came into these rows, of those that the receiver lacks; with the last page all that it holds from then on.
    pub known: Vec<Stretch>,
    /// It is the last one, and holds nothing else.
    pub last: bool,
}

impl Origin {
    /// How a page is named, which no opening of a store made.
    #[must_use]
    pub fn page(store: StoreId, number: u64) -> Self {
        Self { store, incarnation: Incarnation::new(0), seq: number }
    }

    /// How the answer to a request for content is named.
    #[must_use]
    pub fn supply(store: StoreId, number: u64) -> Self {
        Self::page(store, number | SUPPLY)
    }

    /// The number of the request, if it is such an answer.
    #[must_use]
    pub fn supplies(&self) -> Option<u64> {
        (self.is_page() && self.seq & SUPPLY != 0).then_some(self.seq & !SUPPLY)
    }

    /// Is this a page's name?
    #[must_use]
    pub fn is_page(&self) -> bool {
        self.incarnation == Incarnation::new(0)
    }
}

/// What an extent is, before its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub struct ExtentHead {
    /// The request that this answers.
    pub request: u32,
    /// Its name.
    pub id: ExtentId,
    /// How the payload is stored.
    pub codec: Codec,
    /// Bytes that will come.
    pub stored_len: u32,
    /// Bytes that they stand for.
    pub raw_len: u32,
    /// CRC-32 of those, as its maker logged it.
    pub raw_crc: u32,
    /// BLAKE3 of those.
    pub hash: Hash,
}

/// Why a batch was not taken in, or an extent is not sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Encode, Decode)]
pub enum Reason {
    /// It is stamped too far ahead of the receiver's clock.
    Ahead,
    /// It is not what a store makes, or says what it may not say.
    Refused,
    /// No grant covers it.
    NotGranted,
    /// The receiver's disk is full.
    NoSpace,
    /// The bytes are not those of the hash.
    Mismatch,
    /// The sender can't read the bytes any more.
    Unreadable,
    /// It is too large for one batch.
    TooLarge,
    /// Something that it builds on was not taken in.
    Behind,
    /// No version of this connection shows it.
    NotOffered,
    /// No version at the sender shows it any more.
    Gone,
}

impl Reason {
    /// May it be taken in later, though nothing about it changes?
    #[must_use]
    pub fn passes(self) -> bool {
        matches!(self, Self::Ahead | Self::NoSpace | Self::Behind | Self::Mismatch | Self::Unreadable)
    }
}

/// Why a connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Encode, Decode)]
pub enum Bye {
    /// Whoever says it stops for now, or closes its store.
    Done,
    /// It speaks no version of the protocol that the other does.
    Version,
    /// Both are the same store.
    SameStore,
    /// The other is a copy of a store that is written elsewhere, or was copied itself.
    Copy,
    /// A newer connection of the same peer has taken its place.
    Superseded,
    /// The other broke the protocol.
    Protocol,
    /// The other wants more memory than anybody gets.
    TooMuch,
    /// Its store has stopped writing.
    Stopped,
    /// The other's key belongs to another store than it says, or that store to another key.
    NotThatStore,
}

impl Message {
    /// The bytes to send, header included.
    ///
    /// # Panics
    /// If it is longer than a message may be: whoever makes one keeps to the limits.
    #[must_use]
    pub fn frame(&self) -> Vec<u8> {
        let mut out = vec![0; HEADER_BYTES];
        code::encode_into(self, &mut out);
        let (header, body) = out.split_at_mut(HEADER_BYTES);
        assert!(body.len() <= PEER_MESSAGE_BYTES, "message of {} bytes", body.len());
        header[..4].copy_from_slice(&(body.len() as u32).to_le_bytes());
        header[4..].copy_from_slice(&crc(body).to_le_bytes());
        out
    }

    /// From the bytes of a body.
    ///
    /// # Errors
    /// If they are no message, or one that takes too much memory.
    pub fn decode(body: &[u8]) -> Result<Self, Malformed> {
        code::decode_within::<PEER_DECODED_BYTES, Self>(body)
    }
}

/// Cuts what arrives into messages. Keeps at most one message and what was handed to it at once.
#[derive(Debug, Default)]
pub struct Splitter {
    bytes: Vec<u8>,
    at: usize,
}

impl Splitter {
    /// Takes bytes as they arrive, however they were cut.
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.drain(..self.at);
        self.at = 0;
        self.bytes.extend_from_slice(bytes);
    }

    /// The next whole message.
    ///
    /// # Errors
    /// If what arrived is none; nothing behind it can be read any more.
    pub fn next_message(&mut self) -> Result<Option<Message>, Malformed> {
        let rest = &self.bytes[self.at..];
        let Some((header, rest)) = rest.split_first_chunk::<HEADER_BYTES>() else { return Ok(None) };
        let [a, b, c, d, e, f, g, h] = *header;
        let (len, sum) = (u32::from_le_bytes([a, b, c, d]) as usize, u32::from_le_bytes([e, f, g, h]));
        if len > PEER_MESSAGE_BYTES {
            return Err(Malformed("a message is longer than allowed"));
        }
        let Some(body) = rest.get(..len) else { return Ok(None) };
        if crc(body) != sum {
            return Err(Malformed("a message fails its checksum"));
        }
        let message = Message::decode(body)?;
        self.at += HEADER_BYTES + len;
        Ok(Some(message))
    }

    /// Bytes that wait for the rest of their message.
    #[must_use]
    pub fn waiting_bytes(&self) -> usize {
        self.bytes.len() - self.at
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_come_back_however_the_bytes_are_cut() {
        let sent = [
            Message::Hello(Hello { magic: MAGIC, oldest: 1, newest: 3 }),
            Message::Data(7, vec![5; 1000]),
            Message::Bye(Bye::Done),
        ];
        let bytes: Vec<u8> = sent.iter().flat_map(Message::frame).collect();
        for step in [1, 2, 7, 1000, bytes.len()] {
            let mut splitter = Splitter::default();
            let mut got = Vec::new();
            for part in bytes.chunks(step) {
                splitter.push(part);
                while let Some(m) = splitter.next_message().unwrap() {
                    got.push(m);
                }
            }
            assert_eq!(got, sent, "in steps of {step}");
            assert_eq!(splitter.waiting_bytes(), 0);
        }
    }

    #[test]
    fn what_is_no_message_is_refused_before_it_costs_memory() {
        let mut long = Splitter::default();
        long.push(&[0xff; 8]);
        assert!(long.next_message().is_err());
        let mut flipped = Message::Ping(1).frame();
        flipped[HEADER_BYTES + 1] ^= 1;
        let mut s = Splitter::default();
        s.push(&flipped);
        assert!(s.next_message().is_err());
        // Three bytes each on the wire, twenty times as much in memory.
        let many = vec![Range { offset: 0, len: 1, source: crate::format::facts::Source::Hole }; 200_000];
        let frame = Message::Ranges(Origin::default(), VersionId::default(), many).frame();
        assert!(frame.len() < PEER_MESSAGE_BYTES);
        assert!(Message::decode(&frame[HEADER_BYTES..]).is_err());
    }
}
