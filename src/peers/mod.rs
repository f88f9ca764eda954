//! Connections to other stores: sockets, TLS, threads, and who is let in.
//!
//! A [`Hub`] belongs to an open store. It listens, dials the peers that it was told of, keeps one connection with each, and drives a
//! [`Session`](crate::replicate::Session) over it. Whose key is not pinned gets nothing of a store: what he may do is show an
//! invite. `docs/PROTOCOL.md` section 8 says what passes before a session.

mod connection;
mod follow;
mod hub;
mod invites;
mod keys;
mod pairing;
mod state;
mod strangers;
#[cfg(test)]
mod tests;
mod ties;
mod tls;

pub use hub::{Hub, Listening, Outside, Peer, PeerStatus, Plan, Tidings};
pub use invites::{Access, Code, Invites};
pub use keys::{KEYS, Key};
pub use pairing::{Join, JoinError, Joined, Joiner, join};
