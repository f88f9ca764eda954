//! Bytes and values: every layout of `docs/FORMAT.md`, and nothing that does I/O.

pub mod code;
pub mod facts;
mod location;
pub mod rows;

pub use location::Location;

/// How a payload is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, bincode::Encode, bincode::Decode)]
pub enum Codec {
    /// As it is.
    Raw,
    /// zstd.
    Zstd,
}
