//! The simulated world: what the engine runs on when one seed is to decide everything.

pub mod agree;
mod bitrot;
mod compare;
pub mod content;
mod crashes;
pub mod disk;
mod disk_tests;
mod host;
mod link;
mod model;
mod moments;
pub mod names;
#[cfg(feature = "planted-bugs")]
mod planted;
pub mod rng;
mod store;
mod workload;
mod world;
