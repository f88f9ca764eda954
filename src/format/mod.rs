//! Bytes and values: what stands where on disk, with its checksums and compression. No I/O.
//!
//! `docs/FORMAT.md` is the byte picture; the structs here are the layout, and a test holds page and code
//! together. Decoders take arbitrary bytes: a checksum is checked before any length below it is used, lengths
//! are bounded before memory is allocated, and nothing panics.

mod attribute_code;
mod bases;
pub mod checksum;
pub mod code;
pub mod compress;
pub mod facts;
pub mod footer;
pub mod frame;
pub mod hash;
pub mod hash_tree;
mod id_code;
mod layout;
mod location;
mod locks;
mod markers;
pub mod moments;
mod move_rows;
pub mod pairing;
pub mod payload;
pub mod rows;
pub mod segment_header;
pub mod superblock;
mod to_come;
pub mod wire;

pub use checksum::Seed;
pub use compress::Codec;
pub use footer::{Entry, Footer, FooterBuilder, Totals, Trailer};
pub use frame::{BatchEnd, BodyHeader, Envelope, Kind, Origin, flags};
pub use layout::{Field, Layout, layouts};
pub use location::Location;
pub use payload::Prepared;
pub use segment_header::SegmentHeader;
pub use superblock::Superblock;

/// The format version that this program writes; it reads all before.
pub const VERSION: u32 = 1;

/// Bytes that are not what the format says, told in a few words; whoever knows the place adds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Malformed(pub &'static str);

/// `n` rounded up to a multiple of 8.
#[must_use]
pub const fn pad8(n: u64) -> u64 {
    (n + 7) & !7
}

/// `n` rounded up to a multiple of the block size.
#[must_use]
pub const fn pad_block(n: u64) -> u64 {
    let block = crate::base::limits::BLOCK_BYTES;
    n.div_ceil(block) * block
}
