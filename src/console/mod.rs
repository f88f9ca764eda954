//! What both programs say, and how: exit codes and errors in three parts, JSON, progress, times, sizes, tables.
//!
//! `docs/CLI.md` is the contract. It is kept here once, so that `segfs` and `segtool` can't differ.

mod arguments;
mod failure;
pub mod mounts;
mod output;
mod progress;
mod text;

pub use arguments::{parse, wants_json};
pub use failure::{CLOSED, DAMAGE, FAILED, Failure, IN_USE, LAG, NOT_FOUND, Outcome, PARTLY, USAGE, word};
pub use output::Output;
pub use progress::Progress;
pub use text::{age, damage, hex, size, time, time_ns};
