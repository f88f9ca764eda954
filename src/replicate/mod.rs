//! Replication: the state machines of its protocols. Messages, durable positions and time go in, effects come out.
//!
//! A [`Session`] is one connection between two stores, the same on both sides; `docs/PROTOCOL.md` says what they say to each
//! other. It knows no socket, thread or clock: whoever drives it hands it bytes, time and answers ([`Input`]), and carries out
//! what it asks for ([`Effect`]). [`perform()`] does what concerns the store; the rest is the driver's.

mod acquaintances;
mod effects;
mod outbox;
mod perform;
mod receiving;
mod sending;
mod session;
mod supply;

pub use acquaintances::{Acquaintances, Meeting};
pub use effects::{Arrived, Effect, End, Fetched, Incoming, Input, Notice, Offered, Taken};
pub use perform::{answer, perform};
pub use session::{Me, Session};
pub use supply::Wanted;
