//! A store that another process has mounted, and answers: segtool asks it instead of replaying the log.

use std::{
    fs,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use segfs::{
    base::Ino,
    serve::{Control, Served},
    store::{Goal, Options, Policy, Retention, Store},
    vfs::Vfs,
};
use serde_json::{Value, json};

use super::{file, fill, noise, options, segtool};

fn serve(store: &Arc<Store>) -> Control {
    let vfs = Arc::new(Vfs::new(Arc::clone(store)));
    Control::start(Served::new(Arc::clone(store), vfs, Arc::default(), Path::new("/nowhere"))).unwrap()
}

#[track_caller]
fn by_segment(list: &Value) -> Vec<(Value, Value, Value)> {
    let of = |s: &Value| (s["id"].clone(), s["live_bytes"].clone(), s["dead_bytes"].clone());
    list["segments"].as_array().unwrap().iter().map(of).collect()
}

#[test]
fn what_the_mount_says_is_what_the_log_says() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let store = Arc::new(Store::create(&path, options()).unwrap());
    fill(&store, 1);
    // Overwritten without a version in between: dead.
    let ino = file(&store, "g", &noise(70, 9000));
    store.write(ino, 0, &noise(71, 9000)).unwrap();
    store.write(ino, 0, &noise(72, 9000)).unwrap();
    store.commit_version(ino).unwrap();
    store.sync_all().unwrap();
    let control = serve(&store);
    let stat = segtool(&path, &["stat", "STORE", "--json"]).ends_with(0).json();
    let list = segtool(&path, &["segments", "STORE", "--json"]).ends_with(0).json();
    // All of it, though the mark in the log lags behind; and what only the mount knows.
    assert_eq!(stat["log"]["last_lsn"], json!(store.last_lsn().get()));
    assert_eq!((&stat["in_use"], &stat["index"]["bytes"]), (&json!(true), &json!(0)));
    assert!(stat["bytes"]["dead"].as_u64().unwrap() > 9000, "{stat:#}");
    drop(control);
    // The same from a replay, once the mark has moved over all of it.
    store.checkpoint().unwrap();
    store.close().unwrap();
    drop(store);
    let closed = segtool(&path, &["stat", "STORE", "--json"]).ends_with(0).json();
    for part in ["records", "objects", "versions"] {
        assert_eq!(stat[part], closed[part], "{part}");
    }
    for part in ["present", "history", "dead", "metadata"] {
        assert_eq!(stat["bytes"][part], closed["bytes"][part], "{part}");
    }
    let closed = segtool(&path, &["segments", "STORE", "--json"]).ends_with(0).json();
    assert_eq!(by_segment(&list), by_segment(&closed));
}

#[test]
fn the_index_of_a_mount_is_compared_with_the_log() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let small = Options { memtable_bytes: 20_000, ..options() };
    let store = Arc::new(Store::create(&path, small).unwrap());
    fill(&store, 1);
    let control = serve(&store);
    for deep in [false, true] {
        let words: &[&str] =
            if deep { &["verify", "STORE", "--deep", "--json"] } else { &["verify", "STORE", "--json"] };
        let found = segtool(&path, words).ends_with(0).json();
        assert_eq!((&found["ok"], &found["index"]["state"]), (&json!(true), &json!("equal")), "{found:#}");
        assert_eq!(found["index"]["covers_lsn"], json!(store.last_lsn().get()));
        assert!(found["index"]["rows"].as_u64().unwrap() > 50, "{found:#}");
    }
    let check = segtool(&path, &["index", "check", "STORE"]).ends_with(0);
    assert!(check.out.contains("equal to the log"), "{check:?}");
    drop(control);
    segtool(&path, &["index", "check", "STORE"]).ends_with(7);
    let found = segtool(&path, &["verify", "STORE", "--json"]).ends_with(0).json();
    assert_eq!(found["index"]["state"], "in use");
}

#[test]
fn a_mount_that_writes_all_the_while_is_found_equal_at_one_moment() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let busy = Options { background: true, memtable_bytes: 50_000, ..options() };
    let store = Arc::new(Store::create(&path, busy).unwrap());
    store.start_maintenance().unwrap();
    let control = serve(&store);
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|s| {
        let writer = s.spawn(|| {
            let mut n = 0_u64;
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                n += 1;
                let ino = file(&store, &format!("f{n}"), &noise(n, 500 + (n as usize * 7919) % 30_000));
                store.set_xattr(ino, b"user.n", Some(&noise(n, 200)), None).unwrap();
                if n > 20 {
                    store.unlink(Ino::FIRST, format!("f{}", n - 20).as_bytes()).unwrap();
                }
            }
            n
        });
        for _ in 0..6 {
            let run = segtool(&path, &["index", "check", "STORE", "--json"]);
            if run.code != 0 {
                stop.store(true, std::sync::atomic::Ordering::Relaxed);
            }
            let found = run.ends_with(0).json();
            assert_eq!(found["index"]["state"], "equal", "{found:#}");
            segtool(&path, &["stat", "STORE", "--json"]).ends_with(0);
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        assert!(writer.join().unwrap() > 20);
    });
    drop(control);
    store.close().unwrap();
}

/// The batch that says that the last moves out of a segment are durable has not come yet, but the segment has gone.
#[test]
fn what_was_moved_last_is_found_though_nobody_tells_how_far_the_log_is_durable() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let store = Store::create(&path, options()).unwrap();
    store.set_retention(Retention::everywhere(Policy::Never));
    file(&store, "stays", &noise(1, 50_000));
    let ino = file(&store, "f", &noise(2, 50_000));
    let mut rounds = 0;
    while store.cleaned().segments == 0 {
        rounds += 1;
        assert!(rounds < 1000, "nothing was given back");
        store.write(ino, 0, &noise(rounds, 50_000)).unwrap();
        store.commit_version(ino).unwrap();
        store.clean(Goal::ALL).unwrap();
    }
    for words in
        [&["verify", "STORE", "--deep"][..], &["verify", "STORE"], &["stat", "STORE"], &["segments", "STORE"]]
    {
        segtool(&path, words).ends_with(0);
    }
    store.close().unwrap();
}

/// What the cleaner gives back while segtool looks is no damage, and, where the mount is asked, stays until it has looked.
#[test]
fn what_is_given_back_all_the_while_is_no_damage() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let busy = Options { background: true, memtable_bytes: 50_000, ..options() };
    let store = Arc::new(Store::create(&path, busy).unwrap());
    store.set_retention(Retention::everywhere(Policy::Never));
    store.start_maintenance().unwrap();
    let ino = file(&store, "f", &noise(0, 50_000));
    let stop = AtomicBool::new(false);
    let ended = std::thread::scope(|s| {
        let writer = s.spawn(|| {
            let mut n = 0_u64;
            while !stop.load(Relaxed) {
                // What segtool looks at while it has the segments kept is not to grow faster than it looks.
                if n.is_multiple_of(16) && fs::read_dir(path.join("segments")).unwrap().count() > 200 {
                    std::thread::park_timeout(Duration::from_millis(1));
                    continue;
                }
                n += 1;
                store.write(ino, 0, &noise(n, 50_000)).unwrap();
                store.commit_version(ino).unwrap();
            }
        });
        let cleaner = s.spawn(|| {
            while !stop.load(Relaxed) {
                store.clean(Goal::ALL).unwrap();
            }
            store.cleaned().segments
        });
        let asked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let all = [
                &["segments", "STORE", "--json"][..],
                &["stat", "STORE", "--json"],
                &["verify", "STORE", "--json"],
                &["verify", "STORE", "--deep", "--json"],
                &["index", "check", "STORE", "--json"],
            ];
            let oldest = || {
                let first = store.segments()[0].id.get().to_string();
                segtool(&path, &["dump", "STORE", &first, "--json"])
            };
            let control = serve(&store);
            for words in all.iter().cycle().take(4 * all.len()) {
                let run = segtool(&path, words);
                assert_eq!(run.code, 0, "{words:?}: {run:?}");
                let run = oldest();
                // It may have gone before it was asked for.
                assert!([0, 3].contains(&run.code), "{run:?}");
            }
            drop(control);
            // Nobody answers: what can't be had in time is said to be so.
            for words in all.iter().cycle().take(4 * all.len()) {
                let run = segtool(&path, words);
                assert!([0, 7].contains(&run.code), "{words:?}: {run:?}");
                let run = oldest();
                assert!([0, 3, 7].contains(&run.code), "{run:?}");
            }
        }));
        stop.store(true, Relaxed);
        writer.join().unwrap();
        let given_back = cleaner.join().unwrap();
        asked.map(|()| given_back)
    });
    let given_back = ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    assert!(given_back > 50, "only {given_back} segments were given back");
    store.close().unwrap();
}

#[test]
fn an_index_of_a_mount_that_is_not_the_logs_is_found() {
    let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let path = super::closed(dir.path());
    // The index of a log that went on differently.
    let copy = other.path().join("store");
    let cp = |from: &Path, to: &Path| {
        assert!(std::process::Command::new("cp").arg("-a").args([from, to]).status().unwrap().success());
    };
    cp(&path, &copy);
    for (store, name) in [(&path, "here"), (&copy, "there")] {
        let s = Store::open(store, options()).unwrap();
        file(&s, name, &noise(5, 5000));
        s.close().unwrap();
    }
    std::fs::remove_dir_all(path.join("index")).unwrap();
    cp(&copy.join("index"), &path);
    let store = Arc::new(Store::open(&path, options()).unwrap());
    let _control = serve(&store);
    for words in [&["index", "check", "STORE", "--json"][..], &["verify", "STORE", "--json"]] {
        let run = segtool(&path, words).ends_with(5);
        let found = run.json();
        assert_eq!(found["index"]["state"], "different", "{found:#}");
        assert!(!found["index"]["differences"].as_array().unwrap().is_empty(), "{found:#}");
        assert!(run.error()["next"].as_str().unwrap().contains("segtool index rebuild"), "{run:?}");
    }
}
