//! Long histories: what a page of one costs. Ignored by default, since making them takes minutes:
//! `cargo test --release --test it -- history::scale --ignored --nocapture --test-threads=1`

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use segfs::{
    base::{Ino, Lsn},
    format::facts::Owner,
    store::{NewObject, Options, Rename, Store},
};

use crate::mount::Mounted;

const LIMIT: Duration = Duration::from_millis(10);

fn store() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::create(&dir.path().join("s"), Options::default()).unwrap();
    (dir, store)
}

fn file(store: &Store, dir: Ino, name: &str) -> Ino {
    store.create_object(dir, name.as_bytes(), &NewObject::file(0o644, Owner::default())).unwrap().1.ino
}

fn save(store: &Store, ino: Ino, n: u64) {
    store.write(ino, 0, &n.to_le_bytes()).unwrap();
    store.commit_version(ino).unwrap();
    // Only memory is at stake, and nobody waits: write it out now and then, as the mount's thread does.
    if n.is_multiple_of(4096) {
        store.maintain().unwrap();
    }
}

/// The median of some runs, printed.
fn median(what: &str, runs: u64, mut run: impl FnMut(u64)) -> Duration {
    let mut times: Vec<Duration> = (0..runs)
        .map(|n| {
            let start = Instant::now();
            run(n);
            start.elapsed()
        })
        .collect();
    times.sort();
    let (median, worst) = (times[times.len() / 2], times[times.len() - 1]);
    println!("{what:60} median {median:?}, worst {worst:?}");
    median
}

/// The same store, mounted; and how its moments are called.
fn mounted(dir: tempfile::TempDir, store: Store) -> (Mounted, String) {
    store.close().unwrap();
    drop(store);
    let path = dir.path().join("s");
    let m = Mounted::with_store(dir, path, &[]);
    let now = fs::read_link(m.path(".segfs/at/now")).unwrap().to_str().unwrap().to_owned();
    (m, now)
}

/// The first entry of a listing, as somebody sees it who begins to read.
fn first_entry(dir: &Path) -> String {
    fs::read_dir(dir).unwrap().next().unwrap().unwrap().file_name().into_string().unwrap()
}

fn page(m: &Mounted, name: &str, what: &str) -> usize {
    let mut value = vec![0; 65536];
    let path = m.path(".segfs/versions").join(name);
    let n = rustix::fs::getxattr(&path, format!("user.segfs.{what}"), &mut value[..]).unwrap();
    value[..n].iter().filter(|b| **b == b'\n').count()
}

/// What somebody waits for who runs a command; it begins a process, so the machine has a part in it.
fn command(what: &str, m: &Mounted, words: &[&str]) {
    median(what, 21, |_| {
        let done = std::process::Command::new(crate::mount::SEGFS).args(words).current_dir(m.dir()).output();
        assert!(done.unwrap().status.success(), "{words:?}");
    });
}

#[test]
#[ignore = "makes a million versions"]
fn a_million_versions_of_one_file() {
    const VERSIONS: u64 = 1_000_000;
    let (dir, store) = store();
    let ino = file(&store, Ino::FIRST, "f");
    for n in 0..VERSIONS {
        save(&store, ino, n);
    }
    store.checkpoint().unwrap();
    while store.maintain().unwrap() {}
    let history = || store.view().history(Ino::FIRST, b"f").unwrap().unwrap();
    assert_eq!(history().newest(), VERSIONS);
    let mut all = vec![
        median("first page of 64", 21, |_| assert_eq!(history().from(0, 64).unwrap()[63].ordinal, 64)),
        median("last page of 64", 21, |_| {
            assert_eq!(history().before(None, 64).unwrap()[0].ordinal, VERSIONS)
        }),
        median("a page of 64 anywhere", 101, |n| {
            let at = n * 9871 + 1;
            assert_eq!(history().from(at, 64).unwrap()[0].ordinal, at);
        }),
        median("one version by its number", 101, |n| {
            let at = VERSIONS - n * 9871;
            assert_eq!(history().get(at).unwrap().unwrap().ordinal, at);
        }),
    ];
    let last = store.last_lsn().get();
    all.push(median("what it showed at a moment, and its content", 101, |n| {
        let lsn = Lsn::new(last - n * 19_000);
        let mut out = [0; 8];
        assert_eq!(store.view_at(lsn).read(ino, 0, &mut out).unwrap(), 8);
    }));
    let (m, now) = mounted(dir, store);
    let versions = m.path(".segfs/versions/f");
    all.extend([
        median("on a mount: the first entry of versions/f", 21, |_| {
            assert!(first_entry(&versions).starts_with("00000001."));
        }),
        median("on a mount: a version by its number, read", 101, |n| {
            let at = n * 9871 + 1;
            assert_eq!(fs::read(versions.join(at.to_string())).unwrap(), (at - 1).to_le_bytes());
        }),
        median("on a mount: a page of the log", 21, |n| {
            assert_eq!(page(&m, "f", &format!("page.{}", n * 40_000 + 1)), 224);
        }),
        median("on a mount: at/MOMENT/f, read", 21, |_| {
            let at = m.path(&format!(".segfs/at/{now}/f"));
            assert_eq!(fs::read(at).unwrap(), (VERSIONS - 1).to_le_bytes());
        }),
    ]);
    command("segfs cat f@500000", &m, &["cat", "f@500000"]);
    assert!(all.iter().all(|t| *t < LIMIT));
}

#[test]
#[ignore = "makes a hundred thousand files"]
fn a_hundred_thousand_files_with_ten_versions_each() {
    const FILES: u64 = 100_000;
    let (dir, store) = store();
    let mut inos = Vec::new();
    for n in 0..FILES {
        inos.push(file(&store, Ino::FIRST, &format!("f{n:06}")));
    }
    for version in 0..10 {
        for (n, ino) in inos.iter().enumerate() {
            save(&store, *ino, version * FILES + n as u64);
        }
    }
    store.checkpoint().unwrap();
    while store.maintain().unwrap() {}
    let last = store.last_lsn().get();
    let name = |n: u64| format!("f{:06}", n * 991 % FILES).into_bytes();
    let mut all = vec![
        median("the history of a file", 101, |n| {
            let mut h = store.view().history(Ino::FIRST, &name(n)).unwrap().unwrap();
            assert_eq!(h.from(0, 64).unwrap().len(), 10);
        }),
        median("a name at a moment", 101, |n| {
            let view = store.view_at(Lsn::new(FILES + n * (last - FILES) / 101));
            view.lookup(Ino::FIRST, &name(n)).unwrap();
        }),
        median("the LSN of a moment", 101, |n| {
            let t = store.view().attributes(inos[n as usize * 500]).unwrap().changed;
            let ns = t.seconds.cast_unsigned() * 1_000_000_000 + u64::from(t.nanos);
            assert!(store.lsn_at(ns).unwrap().is_some());
        }),
        median("the first 64 names at a moment", 21, |n| {
            let view = store.view_at(Lsn::new(FILES + n * (last - FILES) / 21));
            assert_eq!(view.entries(Ino::FIRST, None, 64).unwrap().len(), 64);
        }),
    ];
    let (m, now) = mounted(dir, store);
    let name = |n: u64| String::from_utf8(name(n)).unwrap();
    all.extend([
        median("on a mount: versions/NAME, listed", 101, |n| {
            let listed = fs::read_dir(m.path(".segfs/versions").join(name(n))).unwrap();
            assert_eq!(listed.count(), 10);
        }),
        median("on a mount: a page of the log", 101, |n| assert_eq!(page(&m, &name(n), "page.1"), 10)),
        median("on a mount: at/MOMENT/NAME, read", 101, |n| {
            let content = fs::read(m.path(&format!(".segfs/at/{now}")).join(name(n))).unwrap();
            assert_eq!(u64::from_le_bytes(content.try_into().unwrap()) / FILES, 9);
        }),
        median("on a mount: the first entry of at/MOMENT", 21, |_| {
            assert_eq!(first_entry(&m.path(&format!(".segfs/at/{now}"))), "f000000");
        }),
        median("on a mount: the first entry of versions", 21, |_| {
            assert_eq!(first_entry(&m.path(".segfs/versions")), "f000000");
        }),
    ]);
    command("segfs log NAME", &m, &["log", &name(7)]);
    command("segfs cat NAME@1s", &m, &["cat", &format!("{}@1s", name(7))]);
    assert!(all.iter().all(|t| *t < LIMIT));
}

#[test]
#[ignore = "takes a minute"]
fn a_hundred_thousand_saves_by_renaming() {
    const SAVES: u64 = 100_000;
    let (_dir, store) = store();
    for n in 0..SAVES {
        let ino = file(&store, Ino::FIRST, "tmp");
        save(&store, ino, n);
        store.rename((Ino::FIRST, b"tmp"), (Ino::FIRST, b"f"), Rename::Replace).unwrap();
    }
    store.checkpoint().unwrap();
    while store.maintain().unwrap() {}
    let history = || store.view().history(Ino::FIRST, b"f").unwrap().unwrap();
    assert_eq!(history().newest(), SAVES);
    let last =
        median("last page of 64", 21, |_| assert_eq!(history().before(None, 64).unwrap()[0].ordinal, SAVES));
    // The chain of objects is followed to its beginning, once.
    median("first page of 64, the first time", 1, |_| {
        assert_eq!(history().from(0, 64).unwrap()[63].ordinal, 64);
    });
    let mut known = history();
    known.from(0, 1).unwrap();
    let known = known.pause();
    let again = median("first page of 64, once it is known", 5, |_| {
        let mut h = history();
        h.learn(known.clone());
        assert_eq!(h.from(0, 64).unwrap()[63].ordinal, 64);
    });
    assert!(last < LIMIT && again < LIMIT);
}

#[test]
#[ignore = "makes a million files and deletes them"]
#[allow(clippy::disallowed_methods)] // waits in real time
fn a_directory_with_a_million_past_deletes() {
    const FILES: u64 = 1_000_000;
    let (_dir, store) = store();
    let store = std::sync::Arc::new(store);
    store.start_maintenance().unwrap();
    let new = NewObject::directory(0o755, Owner::default());
    let dir = store.create_object(Ino::FIRST, b"d", &new).unwrap().1.ino;
    let fresh = store.create_object(Ino::FIRST, b"fresh", &new).unwrap().1.ino;
    for dir in [dir, fresh] {
        file(&store, dir, "a first");
        file(&store, dir, "z last");
    }
    let name = |n: u64| format!("f{n:07}").into_bytes();
    for n in 0..FILES {
        store.create_object(dir, &name(n), &NewObject::file(0o644, Owner::default())).unwrap();
    }
    for n in 0..FILES {
        let (_, ino, _) = store.unlink(dir, &name(n)).unwrap();
        store.reap(ino).unwrap();
    }
    let list = |dir| assert_eq!(store.view().entries(dir, None, 100).unwrap().len(), 2);
    median("the directory, right after the last delete", 5, |_| list(dir));
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(5) {
        list(dir);
        std::thread::sleep(Duration::from_millis(100));
    }
    let stats = store.status().index;
    let after = median("the directory, five seconds later", 21, |_| list(dir));
    let new = median("one that never had more", 21, |_| list(fresh));
    println!("{stats:?}");
    store.close().unwrap();
    assert!(after < LIMIT && after <= 2 * new.max(Duration::from_micros(20)), "{after:?}, a new one {new:?}");
}

/// What the log grows by while small changes make versions of a file, in bytes, and what was written of it to begin with.
fn changed_in_blocks(size: u64, content: u64, versions: u64) -> (u64, u64) {
    let (_dir, store) = store();
    let ino = file(&store, Ino::FIRST, "big");
    let used = || store.segments().iter().map(|s| s.used_bytes).sum::<u64>();
    let block = |n: u64| {
        let mut x = n.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        std::iter::repeat_with(|| {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            (x >> 32) as u8
        })
        .take(4096)
        .collect::<Vec<u8>>()
    };
    // Sparse: what it holds is spread over all of it.
    let stride = size / (content / 4096) / 4096 * 4096;
    for n in 0..content / 4096 {
        store.write(ino, n * stride, &block(n)).unwrap();
    }
    store.truncate(ino, size).unwrap();
    store.commit_version(ino).unwrap();
    store.sync_all().unwrap();
    let before = used();
    for n in 0..versions {
        let at = n.wrapping_mul(0x9e37_79b9) % (size / 4096) * 4096;
        store.write(ino, at, &block(n + 1_000_000)).unwrap();
        store.commit_version(ino).unwrap();
    }
    store.sync_all().unwrap();
    let after = used();
    store.checkpoint().unwrap();
    assert_eq!(store.view().attributes(ino).unwrap().size, size);
    assert_eq!(store.view().versions(ino, None, usize::MAX).unwrap().len() as u64, versions + 1);
    let index = store.status().index.disk_bytes;
    println!(
        "{size} bytes, {content} of them content, {versions} versions of a changed block: log {before} + {}, index {index}",
        after - before
    );
    (before + index, after - before)
}

/// Content and changes take what they are, and a tenth more: of a large sparse file, of which each version is a block apart.
#[test]
fn versions_of_a_sparse_file_cost_what_changed() {
    let (content, versions) = (8 << 20, 200);
    let (base, more) = changed_in_blocks(10 << 30, content, versions);
    assert!((base + more) * 10 < (content + versions * 4096) * 11, "{base} + {more}");
}

#[test]
#[ignore = "writes a gibibyte"]
fn a_thousand_versions_of_ten_gibibytes() {
    let (content, versions) = (1 << 30, 1000);
    let (base, more) = changed_in_blocks(10 << 30, content, versions);
    assert!((base + more) * 10 < (content + versions * 4096) * 11, "{base} + {more}");
}
