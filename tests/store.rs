//! The store through its public face, on the real disk.

use segfs::{
    base::{Error, FsError, Ino},
    format::facts::{ObjectKind, Owner},
    store::{NewObject, Options, Rename, Store},
};

fn options() -> Options {
    Options { segment_bytes: 1 << 20, ..Options::default() }
}

fn file(store: &Store, dir: Ino, name: &str, data: &[u8]) -> Ino {
    let (_, a) =
        store.create_object(dir, name.as_bytes(), &NewObject::file(0o644, Owner::default())).unwrap();
    store.write(a.ino, 0, data).unwrap();
    store.commit_version(a.ino).unwrap();
    a.ino
}

fn read(store: &Store, ino: Ino) -> Vec<u8> {
    let size = store.view().attributes(ino).unwrap().size;
    let mut out = vec![1; size as usize];
    assert_eq!(store.view().read(ino, 0, &mut out).unwrap(), out.len());
    out
}

#[test]
fn what_was_written_is_there_now_then_and_after_reopening() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let store = Store::create(&path, options()).unwrap();
    let ino = file(&store, Ino::FIRST, "a", b"first");
    let then = store.last_lsn();
    store.truncate(ino, 0).unwrap();
    store.write(ino, 0, b"second, longer").unwrap();
    let (_, id) = store.commit_version(ino).unwrap();
    assert!(id.is_some());
    let check = |store: &Store| {
        assert_eq!(read(store, ino), b"second, longer");
        let mut out = [0; 64];
        let n = store.view_at(then).read(ino, 0, &mut out).unwrap();
        assert_eq!(&out[..n], b"first");
        assert_eq!(store.view_at(then).attributes(ino).unwrap().size, 5);
        assert_eq!(store.view().versions(ino, None, 10).unwrap().len(), 2);
        assert_eq!(store.view().entries(Ino::FIRST, None, 10).unwrap().len(), 1);
    };
    check(&store);
    store.sync_all().unwrap();
    drop(store); // like a crash
    let store = Store::open(&path, options()).unwrap();
    check(&store);
    store.close().unwrap();
    drop(store);
    let store = Store::open(&path, options()).unwrap();
    check(&store);
    assert_eq!(store.recovered().log.replayed, 0);
    drop(store);
    std::fs::remove_dir_all(path.join("index")).unwrap();
    check(&Store::open(&path, options()).unwrap());
}

#[test]
fn names_follow_the_rules_of_posix() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::create(&dir.path().join("s"), options()).unwrap();
    let root = Ino::FIRST;
    let is = |r: Error, e: FsError| assert!(matches!(r, Error::Fs(f) if f == e), "{r:?}");
    let (_, d) = store.create_object(root, b"d", &NewObject::directory(0o755, Owner::default())).unwrap();
    let (_, e) = store.create_object(d.ino, b"e", &NewObject::directory(0o755, Owner::default())).unwrap();
    let a = file(&store, root, "a", b"a");
    is(store.create_object(root, b"a", &NewObject::file(0, Owner::default())).unwrap_err(), FsError::Exists);
    is(store.rmdir(root, b"d").unwrap_err(), FsError::NotEmpty);
    is(store.unlink(root, b"d").unwrap_err(), FsError::IsADirectory);
    is(store.rename((root, b"d"), (e.ino, b"x"), Rename::Replace).unwrap_err(), FsError::Invalid);
    is(store.rename((root, b"a"), (root, b"d"), Rename::Replace).unwrap_err(), FsError::IsADirectory);
    assert_eq!(store.view().attributes(d.ino).unwrap().links, 3);
    store.link(a, d.ino, b"hard").unwrap();
    assert_eq!(store.view().attributes(a).unwrap().links, 2);
    store.rename((root, b"a"), (d.ino, b"b"), Rename::Replace).unwrap();
    is(store.view().lookup(root, b"a").unwrap_err(), FsError::NotFound);
    assert_eq!(store.view().lookup(d.ino, b"b").unwrap().ino, a);
    let (_, ino, left) = store.unlink(d.ino, b"hard").unwrap();
    assert_eq!((ino, left), (a, 1));
    let names: Vec<_> = store.view().entries(d.ino, None, 10).unwrap().into_iter().map(|e| e.name).collect();
    assert_eq!(names, [b"b".to_vec(), b"e".to_vec()]);
    store.rename((d.ino, b"b"), (d.ino, b"e"), Rename::Exchange).unwrap();
    assert_eq!(store.view().lookup(d.ino, b"e").unwrap().kind, ObjectKind::File);
    store.rmdir(d.ino, b"b").unwrap();
    assert_eq!(store.view().attributes(d.ino).unwrap().links, 2);
}

#[test]
fn holes_clones_and_truncation_read_as_they_should() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::create(&dir.path().join("s"), options()).unwrap();
    let ino = file(&store, Ino::FIRST, "f", &vec![7; 300_000]);
    store.punch(ino, 1000, 200_000).unwrap();
    let mut model = vec![7; 300_000];
    model[1000..201_000].fill(0);
    assert_eq!(read(&store, ino), model);
    let v = store.view();
    assert_eq!(v.seek(ino, 0, false).unwrap(), 1000);
    assert_eq!(v.seek(ino, 1000, true).unwrap(), 201_000);
    store.truncate(ino, 210_000).unwrap();
    store.truncate(ino, 400_000).unwrap();
    model.truncate(210_000);
    model.resize(400_000, 0);
    assert_eq!(read(&store, ino), model);
    let (_, n) = store.clone_range((ino, 500), (ino, 250_000), 100_000).unwrap();
    assert_eq!(n, 100_000);
    let part = model[500..100_500].to_vec();
    model[250_000..350_000].copy_from_slice(&part);
    assert_eq!(read(&store, ino), model);
    store.commit_version(ino).unwrap();
    for i in 0..100_u8 {
        store.write(ino, 5000 + u64::from(i) * 3, &[i; 3]).unwrap();
        model[5000 + usize::from(i) * 3..][..3].fill(i);
    }
    assert_eq!(read(&store, ino), model);
    assert!(v.extents(ino, 0, 1000).unwrap().len() < 60);
}

#[test]
fn a_rebuild_from_a_base_shows_what_a_rebuild_without_it_shows() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let store = Store::create(&path, options()).unwrap();
    let ino = file(&store, Ino::FIRST, "kept", b"before");
    let then = store.last_lsn();
    for n in 0..2000 {
        file(&store, Ino::FIRST, &format!("f{n}"), &[n as u8; 100]);
    }
    let base = store.write_base().unwrap();
    store.unlink(Ino::FIRST, b"f7").unwrap();
    store.truncate(ino, 0).unwrap();
    store.write(ino, 0, b"after").unwrap();
    store.commit_version(ino).unwrap();
    store.sync_all().unwrap();
    drop(store);
    std::fs::remove_dir_all(path.join("index")).unwrap();
    let store = Store::open(&path, options()).unwrap();
    // Only what came behind the base was replayed: its own pieces, of some 16 KiB at least, their list, and four operations.
    assert!(store.recovered().log.replayed < 100, "{:?}", store.recovered().log);
    assert_eq!(read(&store, ino), b"after");
    assert_eq!(store.view().entries(Ino::FIRST, None, 9999).unwrap().len(), 2000);
    assert_eq!(store.view_at(then).entries(Ino::FIRST, None, 9999).unwrap().len(), 1);
    assert_eq!(store.view_at(base).entries(Ino::FIRST, None, 9999).unwrap().len(), 2001);
    assert_eq!(store.view_at(base).attributes(ino).unwrap().size, 6);
    let (_, a) = store.create_object(Ino::FIRST, b"new", &NewObject::file(0o644, Owner::default())).unwrap();
    assert!(
        store.view().entries(Ino::FIRST, None, 9999).unwrap().iter().filter(|e| e.ino == a.ino).count() == 1
    );
}

#[test]
fn every_version_gets_a_content_hash_that_depends_on_its_bytes_alone() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::create(&dir.path().join("s"), options()).unwrap();
    let small = file(&store, Ino::FIRST, "small", &[5; 1000]);
    let big = file(&store, Ino::FIRST, "big", &[5; 300_000]);
    let same = file(&store, Ino::FIRST, "same", &[5; 100_000]);
    store.write(same, 100_000, &[5; 200_000]).unwrap();
    store.commit_version(same).unwrap();
    let hash = |ino, n: usize| store.view().versions(ino, None, 9).unwrap()[n].hash;
    assert!(hash(small, 0).is_some(), "a small file's is there at once");
    assert!(hash(big, 0).is_none(), "a big one's is not waited for");
    while store.hash_versions().unwrap() {}
    assert!(hash(big, 0).is_some());
    assert_eq!(hash(big, 0), hash(same, 1));
    assert_ne!(hash(same, 0), hash(same, 1));
    assert_eq!(
        hash(big, 0),
        Some(store.content_hash(big, store.view().versions(big, None, 9).unwrap()[0].lsn).unwrap())
    );
}

/// What a crash may leave where the two directories of a rename are written apart: a segment that is a spare file too.
#[test]
fn a_spare_file_that_is_a_segment_too_is_not_written_over() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let store = Store::create(&path, options()).unwrap();
    let data: Vec<u8> = (0..200_000_u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    let ino = file(&store, Ino::FIRST, "a", &data[..700_000]);
    store.close().unwrap();
    drop(store);
    let (segments, spare) = (path.join("segments"), path.join("spare"));
    for entry in std::fs::read_dir(&segments).unwrap() {
        let entry = entry.unwrap();
        for n in 0..3 {
            let name = format!("z-{n}-{}", entry.file_name().to_str().unwrap());
            std::fs::hard_link(entry.path(), spare.join(name)).unwrap();
        }
    }
    let store = Store::open(&path, options()).unwrap();
    for n in 0..20 {
        file(&store, Ino::FIRST, &format!("b{n}"), &data);
    }
    store.sync_all().unwrap();
    assert!(read(&store, ino) == data[..700_000]);
    store.close().unwrap();
}
