//! What every backend must do.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
};

use parking_lot::Mutex;
use segfs::{
    base::Error,
    index::{Change, Index, MemoryIndex, Row, SortedIndex, destroy},
};

use super::{Dice, Model, all, apply_to_model, changes, key, lsn, plain};

/// A backend: makes an empty index, and opens the one that was closed last.
trait Backend {
    fn create(&self) -> Box<dyn Index>;
    fn reopen(&self, closed: Box<dyn Index>) -> Box<dyn Index>;
}

struct OnDisk {
    dir: tempfile::TempDir,
    table_bytes: u64,
}

impl OnDisk {
    fn new() -> Self {
        Self::with_tables_of(1 << 20)
    }

    fn with_tables_of(table_bytes: u64) -> Self {
        Self { dir: tempfile::tempdir().unwrap(), table_bytes }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("index")
    }

    fn open(&self) -> Box<dyn Index> {
        Box::new(SortedIndex::open_with_tables_of(&self.path(), 1 << 20, self.table_bytes).unwrap())
    }
}

impl Backend for OnDisk {
    fn create(&self) -> Box<dyn Index> {
        destroy(&self.path()).unwrap();
        self.open()
    }

    fn reopen(&self, closed: Box<dyn Index>) -> Box<dyn Index> {
        drop(closed);
        self.open()
    }
}

/// A memory index is gone with its box, so it is shared with the test.
#[derive(Default)]
struct InMemory(Mutex<Arc<MemoryIndex>>);

impl Backend for InMemory {
    fn create(&self) -> Box<dyn Index> {
        *self.0.lock() = MemoryIndex::new().into();
        Box::new(self.0.lock().clone())
    }

    fn reopen(&self, closed: Box<dyn Index>) -> Box<dyn Index> {
        drop(closed);
        let state = self.0.lock().flushed_states().pop();
        *self.0.lock() = state.map_or_else(MemoryIndex::new, |s| MemoryIndex::reopen_at(&s)).into();
        Box::new(self.0.lock().clone())
    }
}

fn on_both(test: impl Fn(&dyn Backend)) {
    test(&InMemory::default());
    test(&OnDisk::new());
}

fn get(index: &dyn Index, key: &[u8]) -> Option<Vec<u8>> {
    index.get(key).unwrap().map(|v| v.to_vec())
}

#[test]
fn a_record_is_applied_in_order_and_seen_at_once() {
    on_both(|backend| {
        let index = backend.create();
        assert_eq!(get(&*index, b"a"), None);
        index.apply(lsn(1), &[Change::put("a", "1"), Change::put("b", "2"), Change::put("a", "3")]).unwrap();
        assert_eq!(get(&*index, b"a").unwrap(), b"3");
        index.apply(lsn(2), &[Change::remove("a"), Change::put("b", ""), Change::put("c", "x")]).unwrap();
        assert_eq!(get(&*index, b"a"), None);
        assert_eq!(get(&*index, b"b").unwrap(), b"");
        index.apply(lsn(3), &[Change::put("a", "4"), Change::remove("a"), Change::remove("never")]).unwrap();
        assert_eq!(get(&*index, b"a"), None);
        assert_eq!(plain(index.scan(b"", b"z", 9).unwrap()).len(), 2);
    });
}

#[test]
fn ranges_end_before_their_end() {
    on_both(|backend| {
        let index = backend.create();
        let rows: Vec<_> = ["a", "ab", "b", "ba", "c"].map(|k| Change::put(k, k)).into();
        index.apply(lsn(1), &rows).unwrap();
        let keys = |rows: Vec<Row>| -> Vec<String> {
            rows.into_iter().map(|(k, _)| String::from_utf8(k.into_vec()).unwrap()).collect()
        };
        assert_eq!(keys(index.scan(b"ab", b"c", 9).unwrap()), ["ab", "b", "ba"]);
        assert_eq!(keys(index.scan(b"ab", b"c", 2).unwrap()), ["ab", "b"]);
        assert_eq!(keys(index.scan_back(b"a", b"c", 2).unwrap()), ["ba", "b"]);
        assert_eq!(&*index.last(b"a", b"ba").unwrap().unwrap().0, b"b");
        assert_eq!(index.last(b"aa", b"ab").unwrap(), None);
        assert_eq!(index.scan(b"a", b"c", 0).unwrap(), []);
        assert_eq!(index.scan(b"c", b"a", 9).unwrap(), []);
        assert_eq!(index.scan(b"a", b"a", 9).unwrap(), []);
    });
}

#[test]
fn reserved_and_impossible_keys_are_refused_whole() {
    on_both(|backend| {
        let index = backend.create();
        for bad in [vec![], vec![0], vec![0, b'F'], vec![1; 65536]] {
            let record = [Change::put("good", "1"), Change::put(bad, "2")];
            assert!(matches!(index.apply(lsn(1), &record), Err(Error::BadRequest(_))));
        }
        index.apply(lsn(2), &[Change::put(vec![1; 65535], "longest")]).unwrap();
        index.rotate(lsn(2)).unwrap();
        assert_eq!(all(&*index).unwrap().len(), 1, "neither half a record nor the row F");
        index.flush().unwrap();
        assert_eq!(all(&*backend.reopen(index)).unwrap().len(), 1);
    });
}

#[test]
fn only_what_was_flushed_comes_back() {
    on_both(|backend| {
        let mut index = backend.create();
        assert_eq!(index.flushed_lsn(), lsn(0));
        index.apply(lsn(5), &[Change::put("a", "5")]).unwrap();
        assert!(index.unflushed_bytes() > 0);
        index.rotate(lsn(6)).unwrap();
        assert_eq!((index.unflushed_bytes(), index.waiting_memtables()), (0, 1));
        index.apply(lsn(7), &[Change::put("a", "7")]).unwrap();
        index.rotate(lsn(7)).unwrap();
        index.apply(lsn(8), &[Change::put("a", "8")]).unwrap();
        assert_eq!(index.waiting_memtables(), 2);

        index.flush_to(lsn(5)).unwrap();
        assert_eq!((index.waiting_memtables(), index.flushed_lsn()), (2, lsn(0)));
        index.flush_to(lsn(6)).unwrap();
        assert_eq!((index.waiting_memtables(), index.flushed_lsn()), (1, lsn(6)));
        assert_eq!(get(&*index, b"a").unwrap(), b"8");

        index = backend.reopen(index);
        assert_eq!(index.flushed_lsn(), lsn(6));
        assert_eq!(get(&*index, b"a").unwrap(), b"5");
        // Replay, then on.
        index.apply(lsn(7), &[Change::put("a", "7")]).unwrap();
        assert_eq!(get(&*index, b"a").unwrap(), b"7");
        index.rotate(lsn(9)).unwrap();
        index.rotate(lsn(9)).unwrap();
        assert_eq!(index.waiting_memtables(), 1, "the second rotation had nothing to do");
        index.flush().unwrap();
        index = backend.reopen(index);
        assert_eq!((index.flushed_lsn(), get(&*index, b"a").unwrap()), (lsn(9), b"7".to_vec()));
        // F moves also without a change.
        index.rotate(lsn(12)).unwrap();
        index.flush().unwrap();
        assert_eq!(backend.reopen(index).flushed_lsn(), lsn(12));
    });
}

#[test]
fn random_work_gives_the_rows_of_a_map() {
    for seed in 0..if cfg!(debug_assertions) { 6 } else { 20 } {
        on_both(|backend| random_work(seed, backend));
        // Small tables, so that rows and their removals lie in many levels.
        if seed % 3 == 0 {
            random_work(seed, &OnDisk::with_tables_of(1 << 14));
        }
    }
}

fn random_work(seed: u64, backend: &dyn Backend) {
    let mut dice = Dice::new(seed);
    let keys = 10 << dice.below(9);
    let mut index = backend.create();
    let mut model = Model::new();
    let mut rotated: Vec<(u64, Model)> = vec![(0, Model::new())];
    let mut at = 0;
    for step in 0..3000 {
        match dice.below(100) {
            0..70 => {
                at += 1;
                let changes = changes(&mut dice, keys);
                index.apply(lsn(at), &changes).unwrap();
                apply_to_model(&mut model, &changes);
            }
            70..80 => {
                let key = key(dice.below(keys));
                assert_eq!(get(&*index, &key), model.get(&key).cloned(), "seed {seed} step {step}");
            }
            80..90 => same_range(&*index, &model, &mut dice, keys, seed),
            90..93 => {
                index.rotate(lsn(at)).unwrap();
                rotated.push((at, model.clone()));
            }
            93..96 => {
                let durable = rotated[dice.below(rotated.len() as u64) as usize].0;
                index.flush_to(lsn(durable)).unwrap();
            }
            96..98 => {
                index.compact().unwrap();
            }
            98 => assert_eq!(all(&*index).unwrap(), model, "seed {seed} step {step}"),
            _ => {
                index = backend.reopen(index);
                at = index.flushed_lsn().get();
                model = rotated.iter().rev().find(|(lsn, _)| *lsn == at).unwrap().1.clone();
                rotated.retain(|(lsn, _)| *lsn <= at);
                assert_eq!(all(&*index).unwrap(), model, "seed {seed} step {step} reopened at {at}");
            }
        }
    }
}

fn same_range(index: &dyn Index, model: &Model, dice: &mut Dice, keys: u64, seed: u64) {
    let (a, b) = (key(dice.below(keys)), key(dice.below(keys)));
    let (start, end) = (a.clone().min(b.clone()), a.max(b));
    let limit = dice.below(20) as usize;
    let expected = || model.range(start.clone()..end.clone()).map(|(k, v)| (k.clone(), v.clone()));
    let scan = plain(index.scan(&start, &end, limit).unwrap());
    assert_eq!(scan, expected().take(limit).collect::<Vec<_>>(), "seed {seed}");
    let back = plain(index.scan_back(&start, &end, limit).unwrap());
    assert_eq!(back, expected().rev().take(limit).collect::<Vec<_>>(), "seed {seed}");
    let last = plain(index.last(&start, &end).unwrap().into_iter().collect()).pop();
    assert_eq!(last, expected().next_back(), "seed {seed}");
}

/// More flushes than the crate's manifest can count runs in level 0, and nobody merges.
#[test]
fn flushes_without_merges_stay_readable() {
    on_both(|backend| {
        let index = backend.create();
        for n in 1..=300 {
            index.apply(lsn(n), &[Change::put("a", n.to_string()), Change::put("z", n.to_string())]).unwrap();
            index.rotate(lsn(n)).unwrap();
            index.flush().unwrap();
        }
        let index = backend.reopen(index);
        assert_eq!(get(&*index, b"z").unwrap(), b"300");
    });
}

#[test]
fn an_interrupted_merge_gives_up_and_loses_nothing() {
    let dir = OnDisk::new();
    let index = dir.create();
    for n in 1..=8 {
        let rows: Vec<_> = (0..500).map(|i| Change::put(key(i), n.to_string())).collect();
        index.apply(lsn(n), &rows).unwrap();
        index.rotate(lsn(n)).unwrap();
        index.flush().unwrap();
    }
    index.interrupt();
    assert!(!index.compact().unwrap());
    assert_eq!(index.stats().tables, 8);
    let index = dir.reopen(index);
    assert!(index.compact().unwrap());
    assert!(index.stats().tables < 8);
    assert!(all(&*index).unwrap().values().all(|v| v == b"8"));
}

#[test]
fn removed_rows_leave_the_disk() {
    let dir = OnDisk::new();
    let index = dir.create();
    let many = 120_000;
    for (n, remove) in [(1, false), (2, true)] {
        let rows: Vec<_> = (0..many)
            .map(|i: u32| Change {
                key: [&[1][..], &i.to_be_bytes()].concat(),
                value: (!remove).then(Vec::new),
            })
            .collect();
        index.apply(lsn(n), &rows).unwrap();
        index.rotate(lsn(n)).unwrap();
        index.flush().unwrap();
    }
    while index.compact().unwrap() {}
    let stats = index.stats();
    assert_eq!((stats.tombstones, stats.disk_rows), (0, 1), "only the row F is left");
    assert_eq!(dir.reopen(index).flushed_lsn(), lsn(2));
}

/// Every record sets all of ten rows to one number, or moves them to other keys; so a walk must find ten equal
/// ones, and two gets never see an older record after a newer one.
#[test]
fn readers_see_whole_records_while_others_write_and_flush() {
    on_both(|backend| {
        let index = backend.create();
        let index = &*index;
        let rows = |n: u64| -> Vec<Change> {
            (0..10u8)
                .flat_map(|i| {
                    let number = n.to_le_bytes();
                    [Change::put([1, i, (n % 2) as u8], number), Change::remove([1, i, (n % 2) as u8 ^ 1])]
                })
                .collect()
        };
        index.apply(lsn(1), &rows(1)).unwrap();
        let (done, reads) = (AtomicBool::new(false), AtomicU64::new(0));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for n in 2..6000 {
                    index.apply(lsn(n), &rows(n)).unwrap();
                    if n % 100 == 0 {
                        index.rotate(lsn(n)).unwrap();
                    }
                    // Slow as a log is, for a time: so that readers meet a flush at a standstill.
                    let seen = reads.load(Relaxed);
                    let mut patience = 20_000;
                    while n < 3000 && patience > 0 && reads.load(Relaxed) == seen {
                        patience -= 1;
                        std::hint::spin_loop();
                    }
                }
                done.store(true, Relaxed);
            });
            scope.spawn(|| {
                while !done.load(Relaxed) {
                    index.flush().unwrap();
                    index.compact().unwrap();
                }
            });
            scope.spawn(|| {
                while !done.load(Relaxed) {
                    index.get(&[1, 9, 0]).unwrap();
                    reads.fetch_add(1, Relaxed);
                }
            });
            let number = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().unwrap());
            let mut newest = 0;
            while !done.load(Relaxed) {
                let seen = index.scan(&[1], &[2], 100).unwrap();
                assert_eq!(seen.len(), 10);
                let first = number(&seen[0].1);
                assert!(seen.iter().all(|(_, v)| number(v) == first), "a torn record: {seen:?}");
                assert!(first >= newest);
                newest = first;
                for key in [[1, 9, 0], [1, 9, 1]] {
                    newest = index.get(&key).unwrap().map_or(newest, |v| number(&v).max(newest));
                }
            }
        });
    });
}
