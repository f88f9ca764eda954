//! Peers over real sockets: stores in one process, and real mounts.
#![allow(clippy::disallowed_methods)] // this is the outside: real sockets, real time

mod away;
mod hubs;
mod mounts;
mod net;
mod serving;
