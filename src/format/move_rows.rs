//! Rows of moves of directories.

use bincode::{Decode, Encode};

use crate::base::Ino;

use super::rows::LinkRegister;

/// A move of a directory, or an alias: what was decided, and what was there before, to take it back.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct MoveRow {
    /// The directory.
    pub dir: Ino,
    /// What is asked for.
    pub ask: MoveAsk,
    /// Where the directory hung before; none: nowhere.
    pub before: Option<LinkRegister>,
    /// Took effect: it would not have closed a cycle, and was the newest of its register.
    pub done: bool,
}

/// Moves that came after newer ones, and have not taken their place among them yet.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct LateMovesRow {
    /// The key of the first of them: all from there on are to be taken back and done again.
    pub from: Vec<u8>,
    /// How many came.
    pub late: u64,
}

/// What a [`MoveRow`] asks for.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum MoveAsk {
    /// Hang here (or be gone from here).
    Hang(Box<LinkRegister>),
    /// Be another name for this one.
    Alias(Ino),
}
