//! The simulated world: what the engine runs on when one seed is to decide everything.

mod agree;
pub mod content;
pub mod disk;
mod disk_tests;
pub mod names;
pub mod rng;
