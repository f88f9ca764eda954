//! Opening to read alone: nothing is written, several may do it at once, and no change gets through.

use segfs::{
    base::{Error, FsError, Ino},
    store::{Rename, Store},
};

use super::*;

#[test]
fn reading_changes_nothing_and_keeps_only_writers_out() {
    for died in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let store = if died { crashed(dir.path()) } else { closed(dir.path()) };
        let before = tree(&store);
        let (a, b) = (Store::open(&store, reading()).unwrap(), Store::open(&store, reading()).unwrap());
        for s in [&a, &b] {
            for n in 0..6 {
                assert_eq!(read(s, &format!("f{n}")).unwrap(), noise(n, 100_000));
            }
            if died {
                assert_eq!(read(s, "late3").unwrap(), noise(103, 20_000));
            }
        }
        // Who wants to write is told who reads.
        let e = Store::open(&store, options()).err().unwrap();
        let pid = std::process::id().to_string();
        assert!(matches!(&e, Error::InUse { holder, .. } if holder.contains(&pid)), "{e}");
        let mnt = dir.path().join("mnt");
        let done = run(&["mount", store.to_str().unwrap(), mnt.to_str().unwrap()]);
        says(&done, 7, &[&pid]);
        a.close().unwrap();
        drop((a, b));
        same(&before, &tree(&store), "it");
        let s = Store::open(&store, options()).unwrap();
        // And who wants to read, who writes.
        let e = Store::open(&store, reading()).err().unwrap();
        assert!(matches!(&e, Error::InUse { holder, .. } if holder.contains(&pid)), "{e}");
        drop(s);
    }
}

#[test]
fn no_change_gets_through() {
    let dir = tempfile::tempdir().unwrap();
    let store = crashed(dir.path());
    let before = tree(&store);
    let s = std::sync::Arc::new(Store::open(&store, Options { background: true, ..reading() }).unwrap());
    s.start_maintenance().unwrap();
    let ino = s.view().lookup(Ino::FIRST, b"f0").unwrap().ino;
    #[track_caller]
    fn no<T>(r: Result<T>) {
        match r {
            Err(Error::Fs(FsError::ReadOnly)) => {}
            Err(e) => panic!("{e}"),
            Ok(_) => panic!("it was done"),
        }
    }
    no(s.create_object(Ino::FIRST, b"new", &NewObject::file(0o644, Owner::default())));
    no(s.write(ino, 0, b"x"));
    no(s.write(ino, 0, &[1; 50_000]));
    no(s.truncate(ino, 1));
    no(s.punch(ino, 0, 10));
    no(s.clone_range((ino, 0), (ino, 200_000), 1000));
    no(s.commit_version(ino));
    no(s.reap(ino));
    no(s.unlink(Ino::FIRST, b"f0"));
    no(s.link(ino, Ino::FIRST, b"l"));
    no(s.rename((Ino::FIRST, b"f0"), (Ino::FIRST, b"g"), Rename::Replace));
    no(s.set_xattr(ino, b"user.a", Some(b"b"), None));
    no(s.set_attributes(ino, &segfs::store::SetAttributes { mode: Some(0), ..Default::default() }));
    no(s.tag(b"t", true));
    no(s.write_base());
    // What has nothing to do does it.
    s.sync_all().unwrap();
    s.sync(s.last_lsn()).unwrap();
    s.checkpoint().unwrap();
    assert!(!s.maintain().unwrap());
    assert!(!s.hash_versions().unwrap());
    s.close().unwrap();
    drop(s);
    same(&before, &tree(&store), "it");
    // An index that is not there, or not usable, is made elsewhere.
    for spoil in [true, false] {
        if spoil {
            flip(&store.join("index/current"), 3);
        } else {
            fs::remove_dir_all(store.join("index")).unwrap();
        }
        let before = tree(&store);
        let s = Store::open(&store, reading()).unwrap();
        assert_eq!(s.recovered().rebuilt.is_some(), spoil);
        assert_eq!(read(&s, "late3").unwrap(), noise(103, 20_000));
        drop(s);
        same(&before, &tree(&store), "it");
    }
}
