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
fn a_file_that_is_cut_again_and_again_is_trimmed_in_several_records() {
    let chunks = limits::CLEARED_CHUNKS as u64 + 2000;
    let w = sparse(chunks + 200);
    w.store.commit_version(w.ino).unwrap();
    let before = w.store.last_lsn();
    // Each time a bit longer than the last, so that no cut makes another one needless.
    let [_, longest, changes] = w.index.count(|| {
        for n in 1..80 {
            w.store.truncate(w.ino, 100 * limits::CHUNK_BYTES).unwrap();
            w.store.truncate(w.ino, n * limits::CHUNK_BYTES).unwrap();
        }
    });
    assert!(longest <= PAGE && changes <= 3 * limits::CLEARED_CHUNKS + 10, "{longest} {changes}");
    assert!(w.store.last_lsn().get() - before.get() > 160, "no record takes all");
    // What was hidden stays so, and the version has it.
    w.store.truncate(w.ino, (chunks + 200) * limits::CHUNK_BYTES).unwrap();
    let left = w.store.view().extents(w.ino, 0, usize::MAX).unwrap();
    assert_eq!(left.len(), 1, "the first chunk only: {left:?}");
    let v = w.store.view().versions(w.ino, None, 9).unwrap()[0].lsn;
    let mut out = [0];
    for n in [0, 1, 79, 100, chunks / 2, chunks + 199] {
        w.store.read_version(w.ino, v, n * limits::CHUNK_BYTES, &mut out).unwrap();
        assert_eq!(out, [1], "chunk {n} of the version");
    }
}

#[test]
fn a_long_sparse_file_is_cloned_a_page_at_a_time() {
    const CHUNKS: u64 = 1500;
    let w = world();
    // 1 TiB, with something in each 5,000th chunk.
    let at = |n: u64| n * 5000 * limits::CHUNK_BYTES + n;
    for n in 0..CHUNKS {
        w.store.write(w.ino, at(n), &n.to_be_bytes()).unwrap();
    }
    let size = 1 << 40;
    w.store.truncate(w.ino, size).unwrap();
    let new = NewObject::file(0o644, Owner::default());
    let to = w.store.create_object(Ino::FIRST, b"clone", &new).unwrap().1.ino;
    // What it replaces goes, also where the source has nothing.
    for n in 0..5000 {
        w.store.write(to, n * limits::CHUNK_BYTES + 9, b"old").unwrap();
    }
    let before = w.store.last_lsn();
    let mut done = 0;
    let [_, longest, changes] =
        w.index.count(|| done = w.store.clone_range((w.ino, 0), (to, 0), size).unwrap().1);
    assert_eq!(done, size);
    let records = w.store.last_lsn().get() - before.get();
    assert!((6..12).contains(&records), "{records} records");
    assert!(longest <= PAGE && changes <= limits::CLEARED_CHUNKS + PAGE + 10, "{longest} {changes}");
    let [a, b] = [w.ino, to].map(|f| w.store.view().extents(f, 0, usize::MAX).unwrap());
    assert_eq!(a.len(), CHUNKS as usize);
    assert_eq!(
        a.iter().map(|e| (e.offset, e.len)).collect::<Vec<_>>(),
        b.iter().map(|e| (e.offset, e.len)).collect::<Vec<_>>()
    );
    for n in [0, 1, 700, CHUNKS - 1] {
        let mut out = [0; 8];
        w.store.view().read(to, at(n), &mut out).unwrap();
        assert_eq!(out, n.to_be_bytes());
    }
}

#[test]
fn what_a_version_changed_is_told_a_page_at_a_time() {
    const CHUNKS: u64 = 3000;
    let w = sparse(CHUNKS);
    let first = w.store.commit_version(w.ino).unwrap().1.unwrap();
    for n in 0..CHUNKS {
        w.store.write(w.ino, n * limits::CHUNK_BYTES + 100, &[2; 10]).unwrap();
    }
    let second = w.store.commit_version(w.ino).unwrap().1.unwrap();
    w.store.sync_all().unwrap();
    let known = Default::default();
    let mut sent = Vec::new();
    let [_, longest, _] = w.index.count(|| sent = w.store.parcels(&known, Lsn::FIRST, usize::MAX).unwrap().0);
    let ranges: Vec<_> = sent.iter().flat_map(|p| &p.contents).map(|c| c.ranges.len()).collect();
    assert_eq!(ranges, [CHUNKS as usize, CHUNKS as usize]);
    assert!(longest <= PAGE, "{longest}");
    // And by anything else, whole or by a later one.
    for (id, bases, most) in
        [(second, vec![], 3 * PAGE), (second, vec![first], PAGE), (first, vec![second], PAGE)]
    {
        let (mut at, mut ranges) = (Some(Default::default()), 0);
        while let Some(from) = at {
            let mut page = None;
            let [_, longest, _] = w.index.count(|| page = w.store.supply(id, &bases, from).unwrap());
            let page = page.unwrap();
            assert_eq!(page.base, bases.first().copied());
            assert!(longest <= PAGE && page.ranges.len() <= most, "{longest} {}", page.ranges.len());
            ranges += page.ranges.len();
            at = page.next;
        }
        assert!(ranges >= CHUNKS as usize, "{ranges}");
    }
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

/// Removals are not left in memory, where each listing would step over them, once no more come.
#[test]
fn removals_are_written_out_when_they_end() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options { background: false, memtable_bytes: 256 << 20, ..Options::default() };
    let store = Store::create(&dir.path().join("s"), options).unwrap();
    let name = |n: u32| format!("f{n}").into_bytes();
    for n in 0..6000 {
        store.create_object(Ino::FIRST, &name(n), &NewObject::file(0o644, Owner::default())).unwrap();
    }
    for n in 0..6000 {
        let (_, ino, _) = store.unlink(Ino::FIRST, &name(n)).unwrap();
        store.reap(ino).unwrap();
    }
    let held = || store.status().index.memtable_bytes >> 20;
    let before = held();
    store
        .write(
            store.create_object(Ino::FIRST, b"x", &NewObject::file(0o644, Owner::default())).unwrap().1.ino,
            0,
            b"x",
        )
        .unwrap();
    store.maintain().unwrap();
    assert!(held() >= before && before > 4, "more may come: {before} MiB, {} now", held());
    store.maintain().unwrap();
    assert_eq!(held(), 0, "of {before} MiB");
    assert!(store.status().index.disk_rows > 0);
}
