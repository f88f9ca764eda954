//! A cache of single rows above an index: names and objects, which almost every request asks for.
//!
//! The block cache below saves the disk; this one saves the search through levels and blocks.

use std::{
    hash::{BuildHasher, Hasher},
    sync::{
        Arc,
        atomic::{AtomicU8, AtomicU64, Ordering::Relaxed, Ordering::SeqCst},
    },
};

use parking_lot::Mutex;
use quick_cache::{
    Weighter,
    unsync::{Cache, DefaultLifecycle},
};

use super::{Change, Index, IndexStats, Order, Value};
use crate::base::{Lsn, Result};

const SHARDS: usize = 16;
/// Rows of which it is known whether they were asked for lately.
const ASKED: usize = 1 << 17;
/// What an entry costs beside its bytes, roughly, in bytes.
const ENTRY_BYTES: u64 = 96;

#[derive(Clone, Copy)]
struct Weight;

impl Weighter<Box<[u8]>, Value> for Weight {
    fn weight(&self, key: &Box<[u8]>, value: &Value) -> u64 {
        key.len() as u64 + value.len() as u64 + ENTRY_BYTES
    }
}

type Shard = Mutex<Cache<Box<[u8]>, Value, Weight, Seeded>>;

/// Makes hashers that begin with numbers which nobody outside knows, so that names can't be chosen to collide.
#[derive(Clone, Copy)]
struct Seeded {
    start: u64,
    factor: u64,
}

impl Seeded {
    fn new() -> Self {
        let random = std::collections::hash_map::RandomState::new();
        Self { start: random.hash_one(0), factor: random.hash_one(1) | 1 }
    }
}

impl BuildHasher for Seeded {
    type Hasher = Folded;

    fn build_hasher(&self) -> Folded {
        Folded { state: self.start, factor: self.factor }
    }
}

/// Multiplies eight bytes at a time and folds the halves of the product: a fraction of what the standard hasher costs.
struct Folded {
    state: u64,
    factor: u64,
}

impl Folded {
    fn fold(&mut self, word: u64) {
        let product = u128::from(self.state ^ word) * u128::from(self.factor);
        self.state = (product as u64) ^ (product >> 64) as u64;
    }
}

impl Hasher for Folded {
    fn write(&mut self, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks::<8>();
        for word in words {
            self.fold(u64::from_le_bytes(*word));
        }
        let mut last = [0; 8];
        last[..rest.len()].copy_from_slice(rest);
        self.fold(u64::from_le_bytes(last) ^ (bytes.len() as u64).rotate_left(56));
    }

    fn write_usize(&mut self, n: usize) {
        self.fold(n as u64);
    }

    fn finish(&self) -> u64 {
        self.state
    }
}

/// An index with a cache of rows in front.
pub struct CachedIndex {
    inner: Arc<dyn Index>,
    /// First bytes of the keys that are worth it.
    kinds: &'static [u8],
    shards: Vec<Shard>,
    /// Chooses the shard; each shard has another one.
    chooser: Seeded,
    /// A byte of the hash of the row that was asked for last, for each value of other bits. Only what is asked for
    /// again is kept: a walk through everything would else pay for each row that it pushes out another.
    asked: Vec<AtomicU8>,
    /// Odd while changes are being applied. A row that was read before a change must not be kept after it.
    generation: AtomicU64,
}

impl CachedIndex {
    /// Puts a cache of so many bytes before an index, for keys that begin with one of `kinds`.
    #[must_use]
    pub fn new(inner: Arc<dyn Index>, kinds: &'static [u8], bytes: u64) -> Self {
        let shard = || {
            let weight = (bytes / SHARDS as u64).max(4096);
            let (items, hashers) = ((weight / 256) as usize, Seeded::new());
            Mutex::new(Cache::with(items, weight, Weight, hashers, DefaultLifecycle::default()))
        };
        Self {
            inner,
            kinds,
            shards: (0..SHARDS).map(|_| shard()).collect(),
            chooser: Seeded::new(),
            asked: std::iter::repeat_with(AtomicU8::default).take(ASKED).collect(),
            generation: AtomicU64::new(0),
        }
    }

    /// Where a row is kept, if it may be, and its hash.
    fn shard(&self, key: &[u8]) -> Option<(&Shard, u64)> {
        if !self.kinds.contains(key.first()?) {
            return None;
        }
        let mut hasher = self.chooser.build_hasher();
        hasher.write(key);
        let hash = hasher.finish();
        Some((self.shards.get((hash >> 40) as usize % SHARDS)?, hash))
    }

    /// Was this row asked for before, and no other since whose hash is like it?
    fn is_asked_again(&self, hash: u64) -> bool {
        let tag = (hash >> 56) as u8 | 1;
        self.asked[hash as usize % ASKED].swap(tag, Relaxed) == tag
    }
}

impl Index for CachedIndex {
    fn get(&self, key: &[u8]) -> Result<Option<Value>> {
        let Some((shard, hash)) = self.shard(key) else { return self.inner.get(key) };
        if let Some(found) = shard.lock().get(key) {
            return Ok(Some(found.clone()));
        }
        let before = self.generation.load(SeqCst);
        let Some(found) = self.inner.get(key)? else { return Ok(None) };
        if !self.is_asked_again(hash) {
            return Ok(Some(found));
        }
        // A copy of its own: what came from disk would hold on to its whole block.
        let found = Value::from(&found[..]);
        let mut shard = shard.lock();
        if before.is_multiple_of(2) && self.generation.load(SeqCst) == before {
            shard.insert(key.into(), found.clone());
        }
        Ok(Some(found))
    }

    fn apply(&self, lsn: Lsn, changes: &[Change]) -> Result<()> {
        self.generation.fetch_add(1, SeqCst);
        let applied = self.inner.apply(lsn, changes);
        for Change { key, value } in changes {
            let Some((shard, _)) = self.shard(key) else { continue };
            let mut shard = shard.lock();
            match value {
                // What nobody read is not taken in: the memtable has it, and most rows are never read again soon.
                Some(value) if applied.is_ok() => {
                    if let Some(mut held) = shard.peek_mut(key.as_slice()) {
                        *held = Value::from(&value[..]);
                    }
                }
                _ => drop(shard.remove(key.as_slice())),
            }
        }
        self.generation.fetch_add(1, SeqCst);
        applied
    }

    fn walk(
        &self,
        start: &[u8],
        end: &[u8],
        order: Order,
        visit: &mut dyn FnMut(&[u8], &Value) -> bool,
    ) -> Result<()> {
        self.inner.walk(start, end, order, visit)
    }

    fn unflushed_bytes(&self) -> u64 {
        self.inner.unflushed_bytes()
    }

    fn unflushed_removals(&self) -> u64 {
        self.inner.unflushed_removals()
    }

    fn rotate(&self, lsn: Lsn) -> Result<()> {
        self.inner.rotate(lsn)
    }

    fn flush_to(&self, durable: Lsn) -> Result<()> {
        self.inner.flush_to(durable)
    }

    fn waiting_memtables(&self) -> usize {
        self.inner.waiting_memtables()
    }

    fn flushed_lsn(&self) -> Lsn {
        self.inner.flushed_lsn()
    }

    fn compact(&self) -> Result<bool> {
        self.inner.compact()
    }

    fn stats(&self) -> IndexStats {
        let mut stats = self.inner.stats();
        stats.cache_bytes += self.shards.iter().map(|s| s.lock().weight()).sum::<u64>();
        stats
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::index::MemoryIndex;

    fn cached() -> CachedIndex {
        CachedIndex::new(Arc::new(MemoryIndex::new()), &[1], 64 << 10)
    }

    #[test]
    fn a_changed_row_is_never_shown_as_it_was() {
        let index = cached();
        for n in 1..2000_u64 {
            let key = vec![1, (n % 7) as u8];
            index.apply(Lsn::new(n), &[Change::put(key.clone(), n.to_le_bytes())]).unwrap();
            assert_eq!(&index.get(&key).unwrap().unwrap()[..], n.to_le_bytes());
            if n % 11 == 0 {
                index.apply(Lsn::new(n), &[Change::remove(key.clone())]).unwrap();
                assert_eq!(index.get(&key).unwrap(), None);
            }
        }
    }

    #[test]
    fn what_is_asked_for_again_is_kept() {
        let index = cached();
        index.apply(Lsn::new(1), &[Change::put([1, 7], [5; 100])]).unwrap();
        let held = |times: u32| {
            (0..times).for_each(|_| assert_eq!(&index.get(&[1, 7]).unwrap().unwrap()[..], [5; 100]));
            index.stats().cache_bytes
        };
        assert_eq!(held(1), 0);
        assert!(held(1) >= 100);
        index.apply(Lsn::new(2), &[Change::remove([1, 7])]).unwrap();
        assert_eq!((index.get(&[1, 7]).unwrap(), index.stats().cache_bytes), (None, 0));
    }

    #[test]
    fn readers_beside_a_writer_never_go_back() {
        let index = cached();
        std::thread::scope(|s| {
            for _ in 0..2 {
                s.spawn(|| {
                    let mut last = 0;
                    while last < 20_000 {
                        // Crowd the row out now and then, so that it is read from below again.
                        for k in 0..3_u8 {
                            let _ = index.get(&[1, 9, k]).unwrap();
                        }
                        let Some(v) = index.get(&[1, 0]).unwrap() else { continue };
                        let now = u64::from_le_bytes(v[..].try_into().unwrap());
                        assert!(now >= last, "{now} after {last}");
                        last = now;
                    }
                });
            }
            for n in 1..=20_000_u64 {
                let crowd = Change::put([1, 9, (n % 3) as u8], vec![0; 3000]);
                index.apply(Lsn::new(n), &[Change::put([1, 0], n.to_le_bytes()), crowd]).unwrap();
            }
        });
    }
}
