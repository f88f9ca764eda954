//! Looking into a store that is open: what its own process counts, and what another one can compare with that.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
};

use super::{CACHE_BYTES, Census, Inspection, MEMTABLE_BYTES, Progress, census};
use crate::{
    base::{Damage, Ino, Lsn, Result, SystemRandom},
    format::rows::{key, kind},
    index::{Index, IndexView, Order},
    log::{Reach, Survey},
    store::{Store, Work},
};

/// Progress is told once for so many rows.
const ROWS_A_WORD: u64 = 1 << 14;

/// The rows of one kind, in short.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KindDigest {
    /// How many there are.
    pub rows: u64,
    /// BLAKE3 of all of them, in order.
    pub hash: [u8; 32],
}

/// All rows of an index as of one LSN, in short: two indexes with the same digest hold the same rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Digest {
    /// As of this record.
    pub lsn: Lsn,
    /// What the log held durably when it was made: not before `lsn`, and where a batch ends.
    pub durable: Lsn,
    /// By the first byte of the key.
    pub kinds: BTreeMap<u8, KindDigest>,
}

#[derive(Default)]
struct Hashing {
    kinds: BTreeMap<u8, (u64, blake3::Hasher)>,
}

impl Hashing {
    fn row(&mut self, k: &[u8], value: &[u8]) {
        let (rows, hasher) = self.kinds.entry(k.first().copied().unwrap_or(0)).or_default();
        *rows += 1;
        for part in [k, value] {
            hasher.update(&(part.len() as u64).to_le_bytes()).update(part);
        }
    }

    fn done(self, lsn: Lsn, durable: Lsn) -> Digest {
        let digest =
            |(rows, hasher): (u64, blake3::Hasher)| KindDigest { rows, hash: hasher.finalize().into() };
        Digest { lsn, durable, kinds: self.kinds.into_iter().map(|(kind, of)| (kind, digest(of))).collect() }
    }
}

impl Store {
    /// Counts what is live, history and dead, as of about the LSN that is given with it: what changes while it counts may
    /// count either way. Takes time in proportion to the store; nobody waits for it.
    ///
    /// # Errors
    /// What reading rows and segments says.
    pub fn census(&self, progress: Progress<'_>) -> Result<(Lsn, Census)> {
        self.census_of(None, progress)
    }

    /// As [`census`](Self::census), of some objects alone: what they show counts once, and what others show too counts as
    /// shared beside that.
    ///
    /// # Errors
    /// As of [`census`](Self::census).
    pub fn census_of(&self, only: Option<&HashSet<Ino>>, progress: Progress<'_>) -> Result<(Lsn, Census)> {
        let _doing = self.activity.begin(Work::Counting);
        self.log.commit()?;
        let log = Survey::of_held(Arc::clone(&self.disk), self.id, Reach::Durable(self.log.durable_lsn()))?;
        Ok((log.last_lsn(), census::count(&log, &*self.index, only, progress)?))
    }

    /// The rows of the index in short, as of one LSN, which is durable when this returns. Operations wait only until the
    /// first row is read.
    ///
    /// # Errors
    /// What reading rows and the log say.
    pub fn digest(&self, progress: Progress<'_>) -> Result<Digest> {
        let _doing = self.activity.begin(Work::Counting);
        let expected = self.index.stats().disk_rows;
        let meta_key = key::meta();
        let mut hashing = Hashing::default();
        let mut state = Some(self.apply.lock());
        let lsn = self.log.last_lsn();
        let meta = state.as_ref().map(|s| crate::format::code::encode(&s.meta)).unwrap_or_default();
        let mut done = 0;
        self.index.walk(&[], &[kind::SPARED], Order::Forward, &mut |k, value| {
            // From the first row on, the walk sees the moment at which it began.
            state.take();
            done += 1;
            if done % ROWS_A_WORD == 0 {
                progress(done, expected.max(done));
            }
            // The row on disk is as of the last flush.
            if k != meta_key {
                hashing.row(k, value);
            }
            true
        })?;
        drop(state);
        hashing.row(&meta_key, &meta);
        self.log.wait_durable(lsn)?;
        Ok(hashing.done(lsn, self.log.durable_lsn()))
    }
}

impl Inspection {
    /// Replays the log up to an LSN, and gives the rows that it makes in short, to be compared with those of the process
    /// that holds the store. Needs room in the directory for temporary files. `None`: the log does not reach back so far any
    /// more, since its beginning was retired after that LSN.
    ///
    /// # Errors
    /// If the log can't be replayed, or does not reach that LSN.
    pub fn digest(&self, lsn: Lsn, progress: Progress<'_>) -> Result<Option<Digest>> {
        if self.log().last_lsn() < lsn {
            let why = format!(
                "records up to LSN {lsn} were durable, but the log ends at {}",
                self.log().last_lsn()
            );
            return Err(Damage::file("segments", 0, why).into());
        }
        let view = IndexView::empty(CACHE_BYTES, &SystemRandom)?;
        let index = view.index();
        let first = self.log().first_lsn();
        if first > Lsn::FIRST {
            self.fill(&*index, lsn, MEMTABLE_BYTES, &mut false)?;
            if index.flushed_lsn().next() < first {
                return Ok(None);
            }
        }
        self.replay_into(&*index, lsn, MEMTABLE_BYTES, &mut false, progress)?;
        let mut hashing = Hashing::default();
        let meta_key = key::meta();
        let meta = index.get(&meta_key)?.unwrap_or_default();
        index.walk(&[], &[kind::SPARED], Order::Forward, &mut |k, value| {
            if k != meta_key {
                hashing.row(k, value);
            }
            true
        })?;
        hashing.row(&meta_key, &meta);
        Ok(Some(hashing.done(lsn, self.log().last_lsn())))
    }
}
