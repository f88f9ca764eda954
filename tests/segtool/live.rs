//! A store that another process has open: this one.

use std::{
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    thread,
};

use segfs::store::{Options, Store};
use serde_json::json;

use super::{file, fill, noise, options, run_all, segtool};

#[test]
fn nothing_false_is_said_of_a_store_that_is_being_written() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let busy = Options { background: true, ..options() };
    let store = Store::create(&path, busy).unwrap();
    let stop = AtomicBool::new(false);
    let mut last = 0;
    thread::scope(|s| {
        let writer = s.spawn(|| {
            let mut n = 0_u64;
            while !stop.load(Relaxed) {
                n += 1;
                let ino = file(&store, &format!("f{n}"), &noise(n, 1000 + (n as usize * 7919) % 60_000));
                if n.is_multiple_of(3) {
                    store.sync_all().unwrap();
                }
                if n.is_multiple_of(5) {
                    store.set_xattr(ino, b"user.n", Some(&noise(n, 200)), None).unwrap();
                }
            }
            n
        });
        for round in 0..40 {
            let words: &[&str] = match round % 4 {
                0 => &["segments", "STORE", "--json"],
                1 => &["stat", "STORE", "--json"],
                2 => &["verify", "STORE", "--json"],
                _ => &["verify", "STORE", "--json", "--deep"],
            };
            let run = segtool(&path, words);
            if run.code != 0 {
                stop.store(true, Relaxed);
            }
            let found = run.ends_with(0).json();
            assert_eq!(found["in_use"], json!(true), "{found:#}");
            let lsn = found["last_lsn"].as_u64().or(found["log"]["last_lsn"].as_u64()).unwrap();
            assert!(lsn >= last, "{lsn} after {last}");
            last = lsn;
            if words[0] == "verify" {
                assert_eq!(found["ok"], json!(true), "{found:#}");
                assert_eq!(found["index"]["state"], "in use");
            }
        }
        stop.store(true, Relaxed);
        assert!(writer.join().unwrap() > 20);
    });
    assert!(last > 20, "{last}");
    assert!(last <= store.durable_lsn().get());
    store.close().unwrap();
}

#[test]
fn a_held_store_is_read_up_to_its_durable_mark_and_its_index_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let store = Store::create(&path, options()).unwrap();
    fill(&store, 1);
    store.sync_all().unwrap();
    let durable = store.durable_lsn().get();
    // Written, not durable: nobody is told of it.
    file(&store, "late", &noise(9, 100));
    store.sync_all().unwrap();
    let stat = segtool(&path, &["stat", "STORE", "--json"]).ends_with(0).json();
    assert_eq!(stat["log"]["last_lsn"], json!(durable));
    assert_eq!(stat["index"]["bytes"], json!(null));
    assert!(stat["bytes"]["history"].as_u64().unwrap() > 0, "{stat:#}");
    let holder = format!("process {}", std::process::id());
    assert_eq!(stat["holder"], json!(holder));
    for (words, run) in run_all(&path) {
        assert_eq!(run.code, if words.starts_with("index") { 7 } else { 0 }, "{words}: {run:?}");
    }
    let before = super::tree(&path);
    let run = segtool(&path, &["index", "rebuild", "STORE", "--json"]).ends_with(7);
    assert_eq!(super::tree(&path), before);
    assert_eq!(run.error()["code"], "in_use");
    assert!(run.error()["why"].as_str().unwrap().contains(&holder), "{run:?}");
    let list = segtool(&path, &["segments", "STORE", "--json"]).json();
    assert_eq!(list["segments"].as_array().unwrap().last().unwrap()["state"], "active", "{list:#}");
    // The index does not answer: it is not opened.
    std::fs::remove_dir_all(path.join("index")).unwrap();
    assert_eq!(segtool(&path, &["stat", "STORE", "--json"]).ends_with(0).json(), stat);
}

#[test]
fn what_is_live_is_the_same_whether_replayed_or_read_from_the_index() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let store = Store::create(&path, options()).unwrap();
    fill(&store, 1);
    store.sync_all().unwrap();
    // Moves the mark over all of it.
    store.sync_all().unwrap();
    file(&store, "one more", b"x");
    store.sync_all().unwrap();
    let held = segtool(&path, &["segments", "STORE", "--json"]).ends_with(0).json();
    store.close().unwrap();
    drop(store);
    let free = segtool(&path, &["segments", "STORE", "--json"]).ends_with(0).json();
    let live = |v: &serde_json::Value, n: usize| {
        let s = &v["segments"][n];
        (s["live_bytes"].as_u64().unwrap(), s["dead_bytes"].as_u64().unwrap(), s["first_lsn"].clone())
    };
    let all = held["segments"].as_array().unwrap().len();
    assert!(all >= 3);
    for n in 0..all - 1 {
        assert_eq!(live(&held, n), live(&free, n));
    }
}
