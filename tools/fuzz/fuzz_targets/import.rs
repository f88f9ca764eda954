//! Hostile parcels into a store: refused or taken in, never a panic, never a store that stops or does not open again,
//! and what is replayed from the log shows what was shown before.
#![no_main]

use std::{collections::BTreeMap, fmt::Write, sync::Arc};

use libfuzzer_sys::fuzz_target;
use segfs::{
    base::{Incarnation, Ino, ObjectId, StoreId},
    format::{
        Origin, code,
        facts::{Changes, Fact, ObjectKind, Owner},
    },
    index::MemoryIndex,
    store::{NewObject, Options, Parcel, Parts, Store},
};
use segfs_fuzz::{MemDisk, Sequence, StillClock};

/// A parcel as the input has it.
type Wire = (u128, u64, u64, u64, u128, Vec<Fact>, Vec<Changes>);

fn options() -> Options {
    Options { segment_bytes: 256 << 10, background: false, mint_interrupted: false, ..Options::default() }
}

fn open(disk: &Arc<MemDisk>, seed: u64) -> Store {
    let parts = Parts {
        disk: Arc::clone(disk) as _,
        clock: Arc::new(StillClock),
        random: Arc::new(Sequence::new(seed)),
        index: Arc::new(MemoryIndex::new()),
    };
    Store::open_parts(parts, options()).expect("a store opens")
}

fn new() -> (Arc<MemDisk>, Store) {
    let disk = Arc::new(MemDisk::default());
    Store::format(&*disk, &options(), &StillClock, &Sequence::new(1), "".as_ref()).unwrap();
    let store = open(&disk, 2);
    let owner = Owner::default();
    let (_, d) = store.create_object(Ino::FIRST, b"d", &NewObject::directory(0o755, owner)).unwrap();
    let (_, f) = store.create_object(d.ino, b"f", &NewObject::file(0o644, owner)).unwrap();
    store.write(f.ino, 0, &[1; 5000]).unwrap();
    store.commit_version(f.ino).unwrap();
    (disk, store)
}

/// Everything below the root, as far as there is a bound.
fn listing(store: &Store) -> String {
    let (view, mut out) = (store.view(), String::new());
    let mut todo = vec![(Ino::FIRST, 0)];
    let mut seen = 0;
    while let Some((ino, depth)) = todo.pop() {
        seen += 1;
        assert!(seen < 5000 && depth < 1000, "a tree without end");
        let a = view.attributes(ino);
        let _ = writeln!(out, "{ino} {a:?}");
        let Ok(a) = a else { continue };
        if a.kind == ObjectKind::Directory {
            for e in view.entries(ino, None, 1000).expect("a directory can be listed") {
                let _ = writeln!(out, "{ino} {:?} {}", e.name, e.ino);
                todo.push((e.ino, depth + 1));
            }
        }
        if a.kind == ObjectKind::File {
            let mut bytes = vec![0; a.size.min(20_000) as usize];
            let _ = writeln!(out, "{ino} {:?}", view.read(ino, 0, &mut bytes).map(|n| bytes[..n].to_vec()));
        }
        for v in view.versions(ino, None, 100).expect("versions can be listed") {
            let _ = writeln!(out, "{ino} {v:?}");
        }
        let _ = writeln!(out, "{ino} {:?}", view.xattrs(ino));
    }
    out
}

fuzz_target!(|bytes: &[u8]| {
    let Ok(parcels) = code::decode::<Vec<Wire>>(bytes) else { return };
    let (disk, store) = new();
    for (from, incarnation, seq, stamp, object, facts, contents) in parcels.into_iter().take(8) {
        let origin =
            Origin { store: StoreId::new(from), incarnation: Incarnation::new(incarnation), seq };
        let parcel = Parcel {
            origin,
            stamp,
            object: ObjectId::new(object),
            facts: code::encode(&facts),
            contents,
            sources: BTreeMap::new(),
        };
        let taken = store.import(&parcel, &mut |id| Ok(vec![7; 1 + (id.sequence % 30_000) as usize]));
        let stopped = store.status().stopped;
        assert!(stopped.is_none(), "{taken:?}: {stopped:?}");
    }
    let shown = listing(&store);
    store.sync_all().unwrap();
    drop(store);
    let again = listing(&open(&disk, 3));
    assert!(again == shown, "shown before:\n{shown}\nafter a replay:\n{again}");
});
