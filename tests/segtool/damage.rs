//! Damage: what is flipped, cut, lost or swapped is found and named, and nothing else is.

use std::{fs, path::Path};

use segfs::{
    base::SystemRandom,
    index::{Index as _, IndexView, Order},
};
use serde_json::{Value, json};

use super::{closed, crashed, file, flip, id_of, noise, options, run_all, segment_files, segtool};
use segfs::store::Store;

/// `verify` finds damage in this segment at this offset.
#[track_caller]
fn finds(store: &Path, segment: u64, offset: u64) {
    let run = segtool(store, &["verify", "STORE", "--json"]).ends_with(5);
    let found = run.json();
    let damages = found["damages"].as_array().unwrap();
    let there = |d: &&Value| d["segment"] == json!(segment) && d["offset"] == json!(offset);
    assert!(damages.iter().any(|d| there(&d)), "segment {segment}, offset {offset}: {damages:#?}");
    assert!(damages.iter().all(|d| d["segment"] == json!(segment)), "{damages:#?}");
    assert_eq!(found["ok"], json!(false));
    let error = run.error();
    assert_eq!(error["code"], "damage");
    assert!(error["why"].as_str().unwrap().contains(&format!("segment {segment}")), "{error}");
}

/// Flips a byte, looks, and flips it back.
#[track_caller]
fn finds_flip(store: &Path, file: &Path, at: u64, offset: u64) {
    flip(file, at as usize);
    finds(store, id_of(file), offset);
    flip(file, at as usize);
}

fn number(v: &Value, key: &str) -> u64 {
    v[key].as_u64().unwrap_or_else(|| panic!("{key}: {v}"))
}

/// Where the payload of a record begins.
fn payload_at(r: &Value) -> u64 {
    let raw = number(r, "raw_bytes");
    let table = if r["kind"] == "extent" && raw > 4096 { raw.div_ceil(4096) * 4 } else { 0 };
    number(r, "offset") + 64 + 80 + table
}

#[test]
fn every_flip_in_a_record_is_found_where_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let store = closed(dir.path());
    segtool(&store, &["verify", "STORE"]).ends_with(0);
    let files = segment_files(&store);
    assert!(files.len() >= 3, "{files:?}");
    let mut flips = 0;
    for file in &files {
        let id = id_of(file).to_string();
        let records = segtool(&store, &["dump", "STORE", &id, "--json"]).ends_with(0).lines();
        for (n, r) in records.iter().enumerate() {
            // One place of each record, another one each time: envelope, body header, payload.
            let offset = number(r, "offset");
            let payload = payload_at(r);
            let at = match n % 3 {
                0 => offset + 26,
                1 => offset + 64 + 33,
                _ => payload + number(r, "stored_bytes") / 2,
            };
            finds_flip(&store, file, at, offset);
            flips += 1;
        }
    }
    assert!(flips > 30, "{flips}");
    segtool(&store, &["verify", "STORE"]).ends_with(0);
}

#[test]
fn flips_in_headers_footers_and_batch_ends_are_found() {
    let dir = tempfile::tempdir().unwrap();
    let store = closed(dir.path());
    for file in segment_files(&store) {
        let id = id_of(&file).to_string();
        finds_flip(&store, &file, 50, 0);
        finds_flip(&store, &file, 2048 + 50, 0);
        let footer = segtool(&store, &["dump", "STORE", &id, "--kind", "footer", "--json"]).lines();
        let footer_at = number(&footer[0], "offset");
        finds_flip(&store, &file, footer_at + 64 + 9, footer_at);
        // The trailer, behind the words by which it is recognised.
        let len = fs::metadata(&file).unwrap().len();
        flip(&file, (len - 4096 + 20) as usize);
        let found = segtool(&store, &["verify", "STORE", "--json"]).ends_with(5).json();
        assert!(found["damages"][0]["why"].as_str().unwrap().contains("trailer"), "{found}");
        flip(&file, (len - 4096 + 20) as usize);
        // A batch end follows the last record of its batch.
        let records = segtool(&store, &["dump", "STORE", &id, "--json"]).lines();
        let batches = segtool(&store, &["dump", "STORE", &id, "--kind", "batch", "--json"]).lines();
        let end = number(&batches[0], "end");
        let last = records.iter().rfind(|r| number(r, "offset") < end).unwrap();
        let at = (payload_at(last) + number(last, "stored_bytes")).next_multiple_of(8);
        finds_flip(&store, &file, at + 30, at);
    }
    // Both copies of a header: nothing of the segment can be trusted.
    let second = &segment_files(&store)[1];
    flip(second, 50);
    flip(second, 2048 + 50);
    finds(&store, 2, 0);
    let list = segtool(&store, &["segments", "STORE", "--json"]).ends_with(5).json();
    assert_eq!(list["segments"][1]["state"], "damaged");
    assert_eq!(list["segments"][1]["live_bytes"], Value::Null);
    segtool(&store, &["dump", "STORE", "2"]).ends_with(5);
    run_all(&store);
}

#[test]
fn a_damaged_superblock_copy_is_reported_and_does_no_harm() {
    let dir = tempfile::tempdir().unwrap();
    let store = closed(dir.path());
    for copy in 0..2 {
        flip(&store.join("STORE"), copy * 4096 + 100);
        for (words, run) in run_all(&store) {
            assert_eq!(run.code, if words.starts_with("verify") { 5 } else { 0 }, "{words}: {run:?}");
        }
        let found = segtool(&store, &["verify", "STORE", "--json"]).json();
        assert!(found["damages"][0]["why"].as_str().unwrap().contains(&format!("copy {copy}")), "{found}");
        flip(&store.join("STORE"), copy * 4096 + 100);
    }
    flip(&store.join("STORE"), 100);
    flip(&store.join("STORE"), 4096 + 100);
    for (words, run) in run_all(&store) {
        assert_eq!(run.code, 5, "{words}: {run:?}");
        assert!(run.err.contains("STORE"), "{words}: {run:?}");
    }
}

#[test]
fn a_truncated_segment_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let store = closed(dir.path());
    let files = segment_files(&store);
    for file in [&files[1], files.last().unwrap()] {
        let bytes = fs::read(file).unwrap();
        let id = id_of(file);
        let records = segtool(&store, &["dump", "STORE", &id.to_string(), "--json"]).lines();
        let last = number(records.last().unwrap(), "offset");
        for cut in [last + 100, last, 4096 + 70, 4096, 1000] {
            fs::write(file, &bytes[..cut as usize]).unwrap();
            let run = segtool(&store, &["verify", "STORE", "--json"]).ends_with(5);
            let found = run.json();
            let damages = found["damages"].as_array().unwrap();
            // At the end and without a batch, as a crash may leave it: only the index can tell that there was more.
            if cut > 4096 + 4096 || id == 2 {
                assert!(damages.iter().any(|d| d["segment"] == json!(id)), "{id}, {cut}: {damages:#?}");
            } else {
                assert_eq!(found["index"]["state"], "unusable", "{found:#}");
            }
            run_all(&store);
        }
        fs::write(file, &bytes).unwrap();
    }
    segtool(&store, &["verify", "STORE"]).ends_with(0);
}

#[test]
fn a_segment_of_another_store_is_named_and_garbage_is_pointed_at() {
    let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (store, other) = (closed(dir.path()), closed(other.path()));
    fs::write(store.join("segments/notes.txt"), "remember the milk").unwrap();
    fs::create_dir(store.join("segments/more")).unwrap();
    for (words, run) in run_all(&store) {
        assert_eq!(run.code, 0, "{words}: {run:?}");
    }
    let found = segtool(&store, &["verify", "STORE", "--json"]).json();
    assert_eq!(found["notes"].as_array().unwrap().len(), 2, "{found:#}");
    assert!(found["notes"][1].as_str().unwrap().contains("notes.txt"), "{found:#}");

    let foreign = segment_files(&other).pop().unwrap();
    let id = id_of(&foreign) + 10;
    let to = store.join(format!("segments/{id:016x}.seg"));
    fs::copy(&foreign, &to).unwrap();
    let mut bytes = fs::read(&to).unwrap();
    // Under another name it is as foreign as under its own.
    finds(&store, id, 0);
    bytes.clear();
    fs::remove_dir(store.join("segments/more")).unwrap();
    allowed_remove(&to);
    let to = store.join("segments").join(foreign.file_name().unwrap());
    let own = fs::read(&to).unwrap();
    fs::copy(&foreign, &to).unwrap();
    finds(&store, id_of(&to), 0);
    let error = segtool(&store, &["verify", "STORE", "--json"]).error();
    assert!(error["why"].as_str().unwrap().contains("another store"), "{error}");
    assert!(error["next"].as_str().unwrap().contains("move the file"), "{error}");
    segtool(&store, &["dump", "STORE", &id_of(&to).to_string()]).ends_with(5);
    run_all(&store);
    fs::write(&to, own).unwrap();
    segtool(&store, &["verify", "STORE"]).ends_with(0);
}

#[allow(clippy::disallowed_methods)] // a test may remove what it made
fn allowed_remove(file: &Path) {
    fs::remove_file(file).unwrap();
}

#[test]
fn a_lost_segment_is_missed() {
    let dir = tempfile::tempdir().unwrap();
    let store = closed(dir.path());
    let files = segment_files(&store);
    let middle = fs::read(&files[1]).unwrap();
    allowed_remove(&files[1]);
    let found = segtool(&store, &["verify", "STORE", "--json"]).ends_with(5).json();
    assert!(found["index"]["why"].as_str().unwrap().contains("are missing"), "{found:#}");
    assert!(found["notes"][0].as_str().unwrap().contains("segment 2"), "{found:#}");
    run_all(&store);
    fs::write(&files[1], middle).unwrap();
    // The last one: the log just ends earlier, but the index knows better.
    allowed_remove(files.last().unwrap());
    let found = segtool(&store, &["verify", "STORE", "--json"]).ends_with(5).json();
    assert!(found["index"]["why"].as_str().unwrap().contains("the log ends at"), "{found:#}");
}

#[test]
fn after_a_crash_nothing_is_damaged() {
    let dir = tempfile::tempdir().unwrap();
    let store = crashed(dir.path());
    // A table that was being written: whoever opens the index for writing deletes it.
    fs::write(store.join("index/tables/4711"), "half a table").unwrap();
    for (words, run) in run_all(&store) {
        assert_eq!(run.code, 0, "{words}: {run:?}");
    }
    let list = segtool(&store, &["segments", "STORE", "--json"]).json();
    let last = list["segments"].as_array().unwrap().last().unwrap();
    assert_eq!(last["state"], "cut", "{list:#}");
    let index = segtool(&store, &["index", "check", "STORE", "--json"]).json();
    assert_eq!(index["index"]["state"], "equal");
    assert!(number(&index["index"], "covers_lsn") < number(&list, "last_lsn"), "the index lags behind");
    // A torn batch behind the end is no damage either.
    let file = segment_files(&store).pop().unwrap();
    let used = number(last, "used_bytes") as usize;
    let mut bytes = fs::read(&file).unwrap();
    let batch = bytes[4096..8192].to_vec();
    bytes[used..used + 4096].copy_from_slice(&batch);
    bytes[used + 8192..used + 8292].fill(7);
    fs::write(&file, bytes).unwrap();
    segtool(&store, &["verify", "STORE"]).ends_with(0);
}

/// All rows of the index on disk.
fn rows(store: &Path) -> Vec<(Vec<u8>, Vec<u8>)> {
    let view = IndexView::open(&store.join("index"), 1 << 20, &SystemRandom).unwrap();
    let mut rows = Vec::new();
    let all = &mut |k: &[u8], v: &segfs::index::Value| {
        rows.push((k.to_vec(), v.to_vec()));
        true
    };
    view.index().walk(&[], &[0xff], Order::Forward, all).unwrap();
    rows
}

#[test]
fn a_rebuilt_index_is_equal_to_the_old_one() {
    let dir = tempfile::tempdir().unwrap();
    let store = closed(dir.path());
    let old = rows(&store);
    assert!(old.len() > 50, "{}", old.len());
    segtool(&store, &["index", "check", "STORE"]).ends_with(0);
    let log = super::tree(&store.join("segments"));
    let rebuilt = segtool(&store, &["index", "rebuild", "STORE", "--json"]).ends_with(0).json();
    assert_eq!(number(&rebuilt, "rows"), old.len() as u64);
    assert_eq!(rows(&store), old);
    assert_eq!(super::tree(&store.join("segments")), log, "the log is not touched");
    segtool(&store, &["index", "check", "STORE"]).ends_with(0);
    // Where there was none, and where the index lagged behind.
    fs::remove_dir_all(store.join("index")).unwrap();
    segtool(&store, &["index", "check", "STORE"]).ends_with(0);
    segtool(&store, &["index", "rebuild", "STORE"]).ends_with(0);
    assert_eq!(rows(&store), old);
    drop(Store::open(&store, options()).unwrap());
    let dir = tempfile::tempdir().unwrap();
    let store = crashed(dir.path());
    segtool(&store, &["index", "rebuild", "STORE"]).ends_with(0);
    let rebuilt = rows(&store);
    let opened = Store::open(&store, options()).unwrap();
    assert_eq!(opened.recovered().log.replayed, 0, "the new index covers the whole log");
    opened.checkpoint().unwrap();
    drop(opened);
    assert_eq!(rows(&store), rebuilt);
}

#[test]
fn an_index_that_is_not_the_logs_is_found_and_rebuilt() {
    let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let store = closed(dir.path());
    let good = rows(&store);
    // The index of a log that went on differently.
    let copy = other.path().join("store");
    let copied = std::process::Command::new("cp").arg("-a").args([&store, &copy]).status().unwrap();
    assert!(copied.success());
    for (store, name) in [(&store, "here"), (&copy, "there")] {
        let s = Store::open(store, options()).unwrap();
        file(&s, name, &noise(5, 5000));
        s.close().unwrap();
    }
    let right = rows(&store);
    assert_ne!(right, good);
    fs::remove_dir_all(store.join("index")).unwrap();
    let copied =
        std::process::Command::new("cp").arg("-a").args([&copy.join("index"), &store]).status().unwrap();
    assert!(copied.success());
    let run = segtool(&store, &["index", "check", "STORE", "--json"]).ends_with(5);
    let found = run.json();
    assert_eq!(found["index"]["state"], "different");
    assert!(number(&found["index"], "different") >= 2, "{found:#}");
    let how = |h| found["index"]["differences"].as_array().unwrap().iter().any(|d| d["how"] == h);
    assert!(how("missing") && how("extra") && how("different"), "{found:#}");
    assert!(run.error()["next"].as_str().unwrap().starts_with("segtool index rebuild"));
    segtool(&store, &["verify", "STORE"]).ends_with(5);
    segtool(&store, &["index", "rebuild", "STORE"]).ends_with(0);
    assert_eq!(rows(&store), right);
    // Bytes of its tables.
    let table = fs::read_dir(store.join("index/tables")).unwrap().next().unwrap().unwrap().path();
    let half = fs::metadata(&table).unwrap().len() / 2;
    flip(&table, half as usize);
    let run = segtool(&store, &["index", "check", "STORE", "--json"]).ends_with(5);
    assert!(run.error()["next"].as_str().unwrap().starts_with("segtool index rebuild"), "{run:?}");
    segtool(&store, &["stat", "STORE"]).ends_with(0);
    segtool(&store, &["index", "rebuild", "STORE"]).ends_with(0);
    segtool(&store, &["verify", "STORE"]).ends_with(0);
}

#[test]
fn a_rebuild_from_a_log_with_a_gap_keeps_the_old_index() {
    let dir = tempfile::tempdir().unwrap();
    let store = closed(dir.path());
    let old = rows(&store);
    let files = segment_files(&store);
    allowed_remove(&files[1]);
    let run = segtool(&store, &["index", "rebuild", "STORE", "--json"]).ends_with(5);
    assert!(run.error()["why"].as_str().unwrap().contains("not touched"), "{run:?}");
    assert_eq!(rows(&store), old);
    assert!(!store.join("index.new").exists());
}

#[test]
fn a_log_whose_beginning_was_retired_is_replayed_from_its_base() {
    let dir = tempfile::tempdir().unwrap();
    let store = closed(dir.path());
    let s = Store::open(&store, options()).unwrap();
    s.write_base().unwrap();
    file(&s, "after", &noise(5, 5000));
    s.close().unwrap();
    drop(s);
    let old = rows(&store);
    let stat = segtool(&store, &["stat", "STORE", "--json"]).ends_with(0).json();
    // A piece, and the list that names it.
    assert_eq!(number(&stat["records"], "base"), 2, "{stat:#}");
    segtool(&store, &["verify", "STORE"]).ends_with(0);
    let files = segment_files(&store);
    files[..files.len() - 1].iter().for_each(|f| allowed_remove(f));
    let found = segtool(&store, &["verify", "STORE", "--json"]).ends_with(5).json();
    assert_eq!(found["index"]["state"], "equal", "{found:#}");
    assert!(found["notes"][0].as_str().unwrap().contains("not there any more"), "{found:#}");
    // A cleaner would have moved the extents first: they are missed.
    let lost = found["damages"].as_array().unwrap();
    assert_eq!(lost.len(), 12, "{found:#}");
    assert!(lost[0]["why"].as_str().unwrap().contains("record is not there"), "{found:#}");
    segtool(&store, &["index", "rebuild", "STORE"]).ends_with(0);
    assert_eq!(rows(&store), old);
}
