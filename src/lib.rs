//! segfs: a filesystem that never forgets.
//!
//! A store is one append-only log of segment files. Every operation is a record in it, data and metadata in
//! one stream, so that one sync makes both durable; the index, which answers what is where now and what was
//! where then, is derived from the log and can be thrown away. Nothing is overwritten: a file's finished
//! writes stay readable as versions, and any moment of the past as a tree.
//!
//! Read the modules in this order: [`base`] (ids, errors, limits), [`disk`] (files and syncs), `format`
//! (bytes and values), `segment` (one file of the log), `log` (all of them), `index` (sorted rows),
//! `store` (the engine), `vfs` (what a filesystem means), `fuse` (the kernel's protocol), `console`
//! (what the programs say), `config` (what a person sets), `replicate` (what peers say to each other),
//! `peers` (connections to them), `serve`
//! (sockets and threads). `docs/ARCHITECTURE.md` follows a write and a read through them.

pub mod base;
pub mod config;
pub mod console;
pub mod disk;
pub mod format;
pub mod fuse;
pub mod index;
pub mod log;
pub mod peers;
pub mod replicate;
pub mod segment;
pub mod serve;
pub mod store;
pub mod vfs;
