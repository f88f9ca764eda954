//! Stores written by every format version ever released are read for ever: they are kept under `tests/data/stores`, each
//! with what it showed when it was made.

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

use segfs::{
    base::{FsError, Ino, Lsn},
    format::{
        BodyHeader, Kind, code,
        facts::{Changes, Fact, ObjectKind, Owner, Time},
        rows::kind,
    },
    index::{Index as _, IndexView, Order},
    log::Next,
    segment::Found,
    store::{NewObject, Options, Rename, SetAttributes, Store, View, inspect::Inspection},
};

fn options() -> Options {
    Options { segment_bytes: 64 << 10, background: false, ..Options::default() }
}

fn kept() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/stores")
}

/// Everything that can be asked of a moment, one fact a line.
fn listing(store: &Store, view: View<'_>, out: &mut String) {
    let at = view.lsn().map_or("now".into(), |lsn| format!("at {lsn}"));
    let _ = writeln!(out, "-- {at}");
    let mut todo = vec![(Ino::FIRST, String::from("/"))];
    while let Some((ino, path)) = todo.pop() {
        let a = view.attributes(ino).unwrap();
        let _ = writeln!(
            out,
            "{path} {:?} {} {:o} {}:{} links {} size {} modified {:?} changed {:?} born {:?} device {}",
            a.kind,
            a.object,
            a.mode,
            a.owner.uid,
            a.owner.gid,
            a.links,
            a.size,
            a.modified,
            a.changed,
            a.born,
            a.device
        );
        for name in view.xattrs(ino).unwrap() {
            let value = view.xattr(ino, &name).unwrap();
            let _ = writeln!(out, "{path} {} = {}", name.escape_ascii(), value.escape_ascii());
        }
        match a.kind {
            ObjectKind::Directory => {
                for e in view.entries(ino, None, 1000).unwrap().into_iter().rev() {
                    todo.push((e.ino, format!("{path}{}/", e.name.escape_ascii())));
                }
                continue;
            }
            ObjectKind::Symlink => {
                let _ = writeln!(out, "{path} -> {}", view.read_link(ino).unwrap().escape_ascii());
            }
            ObjectKind::File => {
                let mut bytes = vec![0; a.size as usize + 1];
                let n = view.read(ino, 0, &mut bytes).unwrap();
                let _ = writeln!(out, "{path} holds {}", blake3::hash(&bytes[..n]));
            }
            _ => {}
        }
        for v in view.versions(ino, None, 1000).unwrap() {
            let mut bytes = vec![0; v.size as usize + 1];
            let n = match store.read_version(ino, v.lsn, 0, &mut bytes) {
                Err(segfs::base::Error::Fs(FsError::Invalid)) => 0,
                read => read.unwrap(),
            };
            let _ = writeln!(
                out,
                "{path} version {} of {} created {} parents {:?} size {} flags {} hash {} holds {}",
                v.id,
                v.lsn,
                v.created_ns,
                v.parents,
                v.size,
                v.flags,
                v.hash.map_or("none".into(), |h| blake3::Hash::from(h).to_string()),
                blake3::hash(&bytes[..n])
            );
        }
    }
}

fn all(store: &Store, last: Lsn) -> String {
    let mut out = format!("{} up to {last}\n", store.id());
    listing(store, store.view(), &mut out);
    for n in (1..last.get()).step_by(31) {
        listing(store, store.view_at(Lsn::new(n)), &mut out);
    }
    out
}

/// The last record that a store had when it was kept.
fn last_of(expected: &str) -> Lsn {
    let first = expected.lines().next().unwrap();
    Lsn::new(first.rsplit(' ').next().unwrap().parse().unwrap())
}

/// Records behind an LSN, all of which note the clock.
fn notes_behind(store: &Store, last: Lsn) -> usize {
    if store.last_lsn() > last {
        store.sync_all().unwrap();
    }
    let mut log = store.subscribe(last.next());
    let mut notes = 0;
    while let Some(next) = log.try_next().unwrap() {
        let Next::Record(record) = next else { panic!("{next:?}") };
        let facts: Vec<Fact> = code::decode(&record.payload).unwrap();
        assert!(matches!(facts[..], [Fact::Clock(_)]), "{facts:?}");
        notes += 1;
    }
    assert_eq!(last.get() + notes as u64, store.last_lsn().get());
    notes
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(|e| e.unwrap()) {
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), to).unwrap();
        }
    }
}

#[test]
fn stores_of_every_version_are_read() {
    let mut seen = 0;
    for entry in fs::read_dir(kept()).unwrap().map(|e| e.unwrap()).filter(|e| e.path().is_dir()) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store");
        copy(&entry.path().join("store"), &path);
        let expected = fs::read_to_string(entry.path().join("expected.txt")).unwrap();
        for read_only in [true, false, false] {
            let options = Options { mint_interrupted: false, read_only, ..options() };
            let store = Store::open(&path, options).unwrap();
            let recovered = store.recovered();
            assert!(recovered.log.damages.is_empty() && recovered.missing.is_empty(), "{recovered:?}");
            // Opened after long, it notes how far its clock has got, and nothing else.
            let notes = notes_behind(&store, last_of(&expected));
            assert!(notes == 0 || !read_only, "{notes} records behind the last one");
            let found = all(&store, last_of(&expected));
            for (a, b) in found.lines().zip(expected.lines()) {
                assert_eq!(a, b, "{}, read-only {read_only}", entry.path().display());
            }
            assert_eq!(found.lines().count(), expected.lines().count());
            store.close().unwrap();
        }
        // And it can be written to.
        let store = Store::open(&path, options()).unwrap();
        store.create_object(Ino::FIRST, b"new", &NewObject::file(0o600, Owner::default())).unwrap();
        store.close().unwrap();
        seen += 1;
    }
    assert!(seen > 0, "no stores are kept");
}

fn file(s: &Store, dir: Ino, name: &[u8], data: &[u8]) -> Ino {
    let (_, a) = s.create_object(dir, name, &NewObject::file(0o644, Owner { uid: 1000, gid: 100 })).unwrap();
    s.write(a.ino, 0, data).unwrap();
    s.commit_version(a.ino).unwrap();
    a.ino
}

fn send(from: &Store, to: &Store) {
    from.sync_all().unwrap();
    for p in from.parcels(&to.knowledge().unwrap(), Lsn::FIRST, usize::MAX).unwrap().0 {
        to.import(&p, &mut |id| from.extent_bytes(&p, id)).unwrap();
    }
    to.settle_moves().unwrap();
}

/// Some of everything, in two lives, the second of which ends in a crash.
fn make(path: &Path, other: &Path) {
    let owner = Owner { uid: 1000, gid: 100 };
    let s = Store::create(path, options()).unwrap();
    let (_, d) = s.create_object(Ino::FIRST, b"dir", &NewObject::directory(0o750, owner)).unwrap();
    let small = file(&s, d.ino, b"small", b"a few words");
    let large: Vec<u8> = (0..40_000_u32).flat_map(|n| (n / 100).to_le_bytes()).collect();
    let big = file(&s, d.ino, b"big", &large[..40_000]);
    s.link(small, Ino::FIRST, "n\u{e4}me".as_bytes()).unwrap();
    s.create_object(d.ino, b"link", &NewObject::symlink(b"../small".to_vec(), owner)).unwrap();
    s.create_object(d.ino, b"pipe", &NewObject { kind: ObjectKind::Fifo, ..NewObject::file(0o600, owner) })
        .unwrap();
    s.set_xattr(small, b"user.note", Some(b"\x00\xffbytes"), None).unwrap();
    s.write(small, 6, b"other words").unwrap();
    s.commit_version(small).unwrap();
    s.truncate(big, 30_000).unwrap();
    s.punch(big, 5000, 10_000).unwrap();
    s.clone_range((big, 0), (small, 4096), 20_000).unwrap();
    s.commit_version(big).unwrap();
    s.commit_version(small).unwrap();
    s.tag(b"release", true).unwrap();
    let facts = SetAttributes {
        mode: Some(0o4711),
        modified: Some(Time { seconds: -5, nanos: 7 }),
        ..Default::default()
    };
    s.set_attributes(big, &facts).unwrap();
    s.rename((d.ino, b"big"), (Ino::FIRST, b"moved"), Rename::Replace).unwrap();
    s.unlink(d.ino, b"link").unwrap();
    // A long directory entry by entry, so that an operation and a base are compressed.
    for n in 0..40 {
        file(&s, d.ino, format!("entry {n:03}").as_bytes(), &[n; 20]);
    }
    s.write_base().unwrap();
    s.close().unwrap();
    drop(s);
    let s = Store::open(path, options()).unwrap();
    let o = Store::create(other, options()).unwrap();
    file(&o, Ino::FIRST, b"from elsewhere", &large[..20_000]);
    let (_, od) = o.create_object(Ino::FIRST, b"dir", &NewObject::directory(0o700, owner)).unwrap();
    file(&o, od.ino, b"small", b"the same name elsewhere");
    send(&o, &s);
    s.write(small, 100, b"a draft").unwrap();
    let gone = file(&s, Ino::FIRST, b"gone", b"soon");
    s.unlink(Ino::FIRST, b"gone").unwrap();
    s.reap(gone).unwrap();
    s.sync_all().unwrap();
}

/// Not a test: makes a store to keep, in the directory that `SEGFS_KEEP_STORE` names.
#[test]
fn make_one_to_keep() {
    let Some(to) = std::env::var_os("SEGFS_KEEP_STORE").map(PathBuf::from) else { return };
    fs::create_dir_all(&to).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    make(&path, &dir.path().join("other"));
    fs::remove_dir_all(path.join("index")).unwrap();
    copy(&path, &to.join("store"));
    let options = Options { mint_interrupted: false, read_only: true, ..options() };
    let store = Store::open(&to.join("store"), options).unwrap();
    fs::write(to.join("expected.txt"), all(&store, store.last_lsn())).unwrap();
}

/// Not a test: writes what the kept store holds into the corpora that fuzzing begins with, in the directory that
/// `SEGFS_FUZZ_SEEDS` names.
#[test]
fn seeds_for_fuzzing() {
    let Some(to) = std::env::var_os("SEGFS_FUZZ_SEEDS").map(PathBuf::from) else { return };
    let keep = |target: &str, bytes: &[u8]| {
        let dir = to.join(target);
        fs::create_dir_all(&dir).unwrap();
        let name = blake3::hash(bytes).to_hex();
        fs::write(dir.join(&name[..16]), bytes).unwrap();
    };
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    copy(&kept().join("v1/store"), &path);
    let options = Options { mint_interrupted: false, ..options() };
    Store::open(&path, options).unwrap().close().unwrap();
    seeds_of_log(&path, &keep);
    seeds_of_index(&path, &keep);
}

/// One operation of each mixture of facts, alone and as a parcel.
fn seeds_of_log(store: &Path, keep: &dyn Fn(&str, &[u8])) {
    let inspection = Inspection::open(store).unwrap();
    let mut mixtures = std::collections::BTreeSet::new();
    for s in &inspection.log().segments {
        let mut scan = inspection.log().scan(s.id).unwrap();
        while let Some(found) = scan.next_found() {
            let Found::Batch(b) = found else { continue };
            for f in b.frames.iter().filter(|f| f.envelope.kind == Kind::Operation) {
                let record = inspection.log().read_record(&f.location()).unwrap();
                let facts: Vec<Fact> = code::decode(&record.payload).unwrap();
                let mixture: Vec<_> = facts.iter().map(std::mem::discriminant).collect();
                if !mixtures.insert(format!("{mixture:?}")) {
                    continue;
                }
                keep("facts", &record.payload);
                if !facts.iter().any(Fact::is_local) {
                    keep("import", &parcel(&record.head.unwrap(), facts));
                }
            }
        }
    }
}

/// A parcel as the fuzz target takes it.
fn parcel(head: &BodyHeader, facts: Vec<Fact>) -> Vec<u8> {
    let mut contents = Vec::new();
    for fact in &facts {
        if let Fact::Version(v) = fact {
            contents.push(Changes { object: v.object, version: v.id, base: None, ranges: Vec::new() });
        }
    }
    let o = head.origin;
    code::encode(&vec![(
        o.store.get(),
        o.incarnation.get(),
        1_u64,
        head.stamp,
        head.object.get(),
        facts,
        contents,
    )])
}

/// Two rows of each kind, behind the number that the fuzz target has for their type.
fn seeds_of_index(store: &Path, keep: &dyn Fn(&str, &[u8])) {
    let numbers = [
        (kind::META, 0),
        (kind::LINK, 2),
        (kind::REGISTER, 3),
        (kind::OBJECT, 4),
        (kind::XATTR, 5),
        (kind::CHUNK, 6),
        (kind::VERSION, 7),
        (kind::EXTENT, 12),
        (kind::MARKER, 13),
        (kind::TAG, 15),
    ];
    let view = IndexView::open(&store.join("index"), 1 << 20, &segfs::base::SystemRandom).unwrap();
    for (kind, number) in numbers {
        let mut left = 2;
        let each = &mut |_: &[u8], row: &segfs::index::Value| {
            keep("rows", &[&[number][..], row].concat());
            left -= 1;
            left > 0
        };
        view.index().walk(&[kind], &[kind + 1], Order::Forward, each).unwrap();
    }
}
