//! What needs a look behind the library's face: hashes of versions, what is live.

use super::Inspection;
use crate::{
    base::{Ino, Result},
    format::facts::{Fact, Owner},
    store::{NewObject, Options, Store},
};

fn quiet(_: u64, _: u64) {}

fn options() -> Options {
    Options { segment_bytes: 1 << 20, background: false, ..Options::default() }
}

fn file(store: &Store, name: &str, data: &[u8]) -> Ino {
    let new = NewObject::file(0o644, Owner::default());
    let (_, a) = store.create_object(Ino::FIRST, name.as_bytes(), &new).unwrap();
    store.write(a.ino, 0, data).unwrap();
    a.ino
}

#[test]
fn a_hash_that_does_not_fit_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let store = Store::create(&path, options()).unwrap();
    // A hole at the beginning, one over a whole chunk, and one at the end.
    let ino = file(&store, "holes", b"");
    store.write(ino, 5000, &[3; 200_000]).unwrap();
    store.write(ino, 600_000, b"after a hole").unwrap();
    store.truncate(ino, 700_000).unwrap();
    store.commit_version(ino).unwrap();
    store.commit_version(file(&store, "small", b"x")).unwrap();
    let check = |expected: (u64, u64, usize)| {
        store.checkpoint().unwrap();
        let copy = tempfile::tempdir().unwrap();
        let copied = std::process::Command::new("cp").arg("-a").arg(&path).arg(copy.path()).status().unwrap();
        assert!(copied.success());
        let i = Inspection::open(&copy.path().join("s")).unwrap();
        let rows = i.rows(&quiet).unwrap().unwrap();
        let found = i.check_hashes(rows.index(), &quiet).unwrap();
        assert_eq!((found.checked, found.unknown, found.damages.len()), expected, "{found:?}");
        found
    };
    check((1, 1, 0));
    while store.hash_versions().unwrap() {}
    check((2, 0, 0));
    let wrong = file(&store, "wrong", &[4; 100_000]);
    let id = store.commit_version(wrong).unwrap().1.unwrap();
    let object = store.view().attributes(wrong).unwrap().object;
    store.run(|op| op.fact(Fact::Hash(object, id, Some([9; 32])))).unwrap();
    let found = check((3, 0, 1));
    assert!(found.damages[0].to_string().contains(&id.to_string()), "{found:?}");
}

#[test]
fn extents_are_present_history_or_dead() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let store = Store::create(&path, options()).unwrap();
    let block = |n: u8| -> Vec<u8> {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&[n]);
        let mut out = vec![0; 100_000];
        hasher.finalize_xof().fill(&mut out);
        out
    };
    drop(store);
    type Work<'a> = &'a dyn Fn(&Store) -> Result<()>;
    let step = |work: Work<'_>| {
        let store = Store::open(&path, Options { mint_interrupted: false, ..options() }).unwrap();
        work(&store).unwrap();
        store.close().unwrap();
        drop(store);
        let i = Inspection::open(&path).unwrap();
        let rows = i.rows(&quiet).unwrap().unwrap();
        assert!(rows.index().get(&crate::format::rows::key::meta()).unwrap().is_some());
        let t = i.census(Some(rows.index()), &quiet).unwrap().total;
        (t.present_bytes / 100_000, t.history_bytes / 100_000, t.dead_bytes / 100_000)
    };
    let made = |ino: Ino| {
        assert!(ino > Ino::FIRST);
        Ok(())
    };
    let ino = |s: &Store| s.view().lookup(Ino::FIRST, b"f").unwrap().ino;
    assert_eq!(step(&|s| made(file(s, "f", &block(1)))), (1, 0, 0));
    // A draft that is overwritten leaves nothing.
    assert_eq!(step(&|s| s.write(ino(s), 0, &block(2)).map(|_| ())), (1, 0, 1));
    assert_eq!(step(&|s| s.commit_version(ino(s)).map(|_| ())), (1, 0, 1));
    // A version stays.
    assert_eq!(step(&|s| s.write(ino(s), 0, &block(3)).map(|_| ())), (1, 1, 1));
    // A draft that is cut off is dead, the version is not.
    assert_eq!(step(&|s| s.truncate(ino(s), 0).map(|_| ())), (0, 1, 2));
    assert_eq!(step(&|s| s.write(ino(s), 0, &block(4)).map(|_| ())), (1, 1, 2));
    assert_eq!(step(&|s| s.commit_version(ino(s)).map(|_| ())), (1, 1, 2));
    assert_eq!(step(&|s| s.truncate(ino(s), 0).map(|_| ())), (0, 2, 2));
    // A name that goes takes nothing from the history, and all of what was in no version.
    assert_eq!(step(&|s| made(file(s, "g", &block(5)))), (1, 2, 2));
    let unlink = |s: &Store| {
        let (_, ino, _) = s.unlink(Ino::FIRST, b"g")?;
        s.reap(ino).map(|_| ())
    };
    assert_eq!(step(&unlink), (0, 2, 3));
}
