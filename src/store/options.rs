//! How a store works, as whoever opens it says.

#[cfg(doc)]
use super::Store;
use super::settings::Settings;
use crate::{base::limits, log::LogOptions};

/// How a store works; none of it is written to disk but the segment size, at creation.
#[derive(Debug, Clone)]
pub struct Options {
    /// Size of segment files.
    pub segment_bytes: u64,
    /// May it start threads? Without, everything happens inside the calls (the simulator).
    pub background: bool,
    /// Bytes of index blocks kept in memory.
    pub cache_bytes: u64,
    /// Bytes of single rows (names and objects) kept in memory.
    pub row_cache_bytes: u64,
    /// Bytes of changed index rows kept in memory before they are written out.
    pub memtable_bytes: u64,
    /// Mint versions at opening for files that were open when the store stopped.
    pub mint_interrupted: bool,
    /// Change nothing in the store's directory, which may be read-only itself, and be open beside others who only read.
    /// Every change is refused with [`FsError::ReadOnly`](crate::base::FsError::ReadOnly).
    pub read_only: bool,
    /// Moves of directories that came late from another store are done at once where, for each of them, no more newer ones than
    /// this have to be done again; 0: never before [`Store::settle_moves`].
    pub moves_redone: usize,
    /// What a person sets, to begin with.
    pub settings: Settings,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            segment_bytes: limits::SEGMENT_BYTES,
            background: true,
            cache_bytes: 80 << 20,
            row_cache_bytes: 16 << 20,
            memtable_bytes: 12 << 20,
            mint_interrupted: true,
            read_only: false,
            moves_redone: limits::MOVES_REDONE,
            settings: Settings::default(),
        }
    }
}

impl Options {
    pub(super) fn log(&self) -> LogOptions {
        LogOptions {
            segment_bytes: self.segment_bytes,
            background: self.background,
            read_only: self.read_only,
            ..LogOptions::default()
        }
    }
}
