//! What an operation holds in memory, and how many pieces a file falls into, have bounds that do not grow with the file.

use std::sync::{
    Arc,
    atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
};

use segfs::{
    base::{Ino, Lsn, Result, SystemClock, SystemRandom, limits},
    disk::{Engine, RealDisk},
    format::facts::Owner,
    index::{Change, Index, IndexStats, MemoryIndex, Order, Value},
    store::{NewObject, Options, Parts, Store},
};

/// Counts what is asked of an index.
#[derive(Default)]
struct Counting {
    inner: MemoryIndex,
    /// Rows that walks and gets handed out.
    rows: AtomicUsize,
    /// The most rows of one walk.
    longest: AtomicUsize,
    /// The most changes of one record.
    changes: AtomicUsize,
    /// The most bytes that were not written out.
    unflushed: AtomicU64,
}

impl Counting {
    /// Rows seen, longest walk, most changes at once, of what `run` does.
    fn count(&self, run: impl FnOnce()) -> [usize; 3] {
        let all = [&self.rows, &self.longest, &self.changes];
        all.iter().for_each(|n| n.store(0, Relaxed));
        run();
        all.map(|n| n.load(Relaxed))
    }
}

impl Index for Counting {
    fn get(&self, key: &[u8]) -> Result<Option<Value>> {
        self.rows.fetch_add(1, Relaxed);
        self.inner.get(key)
    }

    fn apply(&self, lsn: Lsn, changes: &[Change]) -> Result<()> {
        self.changes.fetch_max(changes.len(), Relaxed);
        self.inner.apply(lsn, changes)?;
        self.unflushed.fetch_max(self.inner.unflushed_bytes(), Relaxed);
        Ok(())
    }

    fn walk(
        &self,
        start: &[u8],
        end: &[u8],
        order: Order,
        visit: &mut dyn FnMut(&[u8], &Value) -> bool,
    ) -> Result<()> {
        let mut rows = 0;
        self.inner.walk(start, end, order, &mut |k, v| {
            rows += 1;
            visit(k, v)
        })?;
        self.rows.fetch_add(rows, Relaxed);
        self.longest.fetch_max(rows, Relaxed);
        Ok(())
    }

    fn unflushed_bytes(&self) -> u64 {
        self.inner.unflushed_bytes()
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
        self.inner.stats()
    }
}

struct World {
    store: Store,
    index: Arc<Counting>,
    ino: Ino,
    _dir: tempfile::TempDir,
}

/// A store with one file.
fn world() -> World {
    let dir = tempfile::tempdir().unwrap();
    let disk = Arc::new(RealDisk::open(dir.path(), Engine::Auto).unwrap());
    let options = Options { memtable_bytes: u64::MAX, ..Options::default() };
    Store::format(&*disk, &options, &SystemClock, &SystemRandom, dir.path()).unwrap();
    let index = Arc::new(Counting::default());
    let (clock, random) = (Arc::new(SystemClock), Arc::new(SystemRandom));
    let parts = Parts { disk, clock, random, index: Arc::clone(&index) as Arc<dyn Index> };
    let store = Store::open_parts(parts, options).unwrap();
    let new = NewObject::file(0o644, Owner::default());
    let ino = store.create_object(Ino::FIRST, b"long", &new).unwrap().1.ino;
    World { store, index, ino, _dir: dir }
}

/// A file with a block in each of so many chunks.
fn sparse(chunks: u64) -> World {
    let w = world();
    for n in 0..chunks {
        w.store.write(w.ino, n * limits::CHUNK_BYTES, &[1; 4096]).unwrap();
    }
    w
}

/// Rows that one look at a file may hold at a time.
const PAGE: usize = 256;

#[test]
fn cutting_a_long_file_looks_at_the_shorter_side_a_page_at_a_time() {
    const CHUNKS: u64 = 3000;
    let w = sparse(CHUNKS);
    let cut = |chunks: u64| {
        let seen = w.index.count(|| _ = w.store.truncate(w.ino, chunks * limits::CHUNK_BYTES + 1).unwrap());
        let a = w.store.view().attributes(w.ino).unwrap();
        assert_eq!(a.allocated, chunks * 4096 + 1, "{chunks} chunks and a byte");
        seen
    };
    let [rows, longest, changes] = cut(CHUNKS / 2);
    assert!(rows >= 1500 && longest <= PAGE && changes < 10, "{rows} {longest} {changes}");
    let [rows, longest, changes] = cut(0);
    assert!(rows < 50 && longest <= PAGE && changes < 10, "{rows} {longest} {changes}");
}

#[test]
fn a_search_for_data_looks_at_a_page() {
    let w = sparse(2000);
    let seek = |from: u64, data: bool| {
        let mut found = 0;
        let [rows, longest, _] =
            w.index.count(|| found = w.store.view().seek(w.ino, from * limits::CHUNK_BYTES, data).unwrap());
        assert!(rows <= 2 * PAGE && longest <= PAGE, "{rows} rows, {longest} in one walk");
        found
    };
    assert_eq!(seek(3, true), 3 * limits::CHUNK_BYTES);
    assert_eq!(seek(3, false), 3 * limits::CHUNK_BYTES + 4096);
    let all = w.store.view().extents(w.ino, 0, usize::MAX).unwrap();
    assert_eq!(all.len(), 2000);
    assert!(all.iter().enumerate().all(|(n, e)| e.offset == n as u64 * limits::CHUNK_BYTES && e.len == 4096));
}

#[test]
fn a_long_hole_is_made_in_several_records() {
    let chunks = limits::CLEARED_CHUNKS as u64 + 500;
    let w = sparse(chunks);
    let before = w.store.last_lsn();
    let [_, longest, changes] = w.index.count(|| {
        w.store.punch(w.ino, 4096, u64::MAX / 2).unwrap();
    });
    assert_eq!(w.store.last_lsn().get() - before.get(), 2, "records");
    assert!(longest <= PAGE && changes <= limits::CLEARED_CHUNKS + 10, "{longest} {changes}");
    let left = w.store.view().extents(w.ino, 0, 10).unwrap();
    assert_eq!(left.iter().map(|e| (e.offset, e.len)).collect::<Vec<_>>(), [(0, 4096)]);
    assert_eq!(w.store.view().attributes(w.ino).unwrap().size, (chunks - 1) * limits::CHUNK_BYTES + 4096);
}

#[test]
fn writes_that_lie_across_each_other_leave_few_pieces() {
    let w = world();
    let mut model = vec![0; 256 << 10];
    // Each leaves a byte of the one before: without a bound, as many pieces as writes.
    for n in 0..4000_usize {
        let (at, fill) = (100_000 - n, n as u8);
        w.store.write(w.ino, at as u64, &[fill; 4096]).unwrap();
        model[at..at + 4096].fill(fill);
    }
    // The same across the edges of chunks, with writes as long as an extent can be.
    for n in 0..100_usize {
        let (at, fill) = (200_000 - n, !(n as u8));
        let long = vec![fill; limits::EXTENT_BYTES];
        w.store.write(w.ino, at as u64, &long).unwrap();
        model.resize(model.len().max(at + long.len()), 0);
        model[at..at + long.len()].fill(fill);
    }
    let size = w.store.view().attributes(w.ino).unwrap().size as usize;
    let mut out = vec![0; size];
    w.store.view().read(w.ino, 0, &mut out).unwrap();
    assert!(out == model[..size], "content differs");
    let pieces = w.store.view().extents(w.ino, 0, usize::MAX).unwrap().len();
    assert!(pieces < 60, "{pieces} pieces");
}

/// A rebuild from a base holds a memtable and a piece at a time, however many rows there are.
#[test]
fn a_rebuild_from_a_base_takes_bounded_memory() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::create(&dir.path().join("s"), Options::default()).unwrap();
    for n in 0..20_000 {
        let new = NewObject::file(0o644, Owner::default());
        store.create_object(Ino::FIRST, format!("a file with number {n}").as_bytes(), &new).unwrap();
    }
    store.write_base().unwrap();
    store.close().unwrap();
    drop(store);
    let rebuilt_with = |memtable_bytes: u64| {
        let disk = Arc::new(RealDisk::open(&dir.path().join("s"), Engine::Auto).unwrap());
        let index = Arc::new(Counting::default());
        let (clock, random) = (Arc::new(SystemClock), Arc::new(SystemRandom));
        let parts = Parts { disk, clock, random, index: Arc::clone(&index) as Arc<dyn Index> };
        let store = Store::open_parts(parts, Options { memtable_bytes, ..Options::default() }).unwrap();
        assert_eq!(store.view().attributes(Ino::FIRST).unwrap().size, 20_000);
        assert!(store.recovered().log.replayed < 100, "the base stands for the records before it");
        store.close().unwrap();
        index.unflushed.load(Relaxed) >> 10
    };
    let (bounded, all) = (rebuilt_with(256 << 10), rebuilt_with(64 << 20));
    assert!(
        bounded < 256 + 2048 && all > 5000,
        "{bounded} KiB waited to be written out, without bound {all}"
    );
}
