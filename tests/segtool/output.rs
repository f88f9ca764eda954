//! What is printed: names of JSON fields, filters of `dump`, times and tables.

use serde_json::Value;

use super::{closed, crashed, noise, options, segment_files, segtool};
use segfs::{
    base::Ino,
    format::facts::Owner,
    store::{NewObject, Store},
};

/// All names of fields, with the way to them; lists count by their first element.
fn keys(v: &Value, at: &str, out: &mut Vec<String>) {
    match v {
        Value::Object(map) => {
            for (k, v) in map {
                let at = if at.is_empty() { k.clone() } else { format!("{at}.{k}") };
                out.push(at.clone());
                keys(v, &at, out);
            }
        }
        Value::Array(list) => {
            if let Some(first) = list.first() {
                keys(first, &format!("{at}[]"), out);
            }
        }
        _ => {}
    }
}

#[track_caller]
fn has_keys(v: &Value, expected: &str) {
    let mut found = Vec::new();
    keys(v, "", &mut found);
    let expected: Vec<_> = expected.split_whitespace().collect();
    assert_eq!(found, expected, "\nfound: {}", found.join(" "));
}

#[test]
fn json_has_these_fields_in_this_order() {
    let dir = tempfile::tempdir().unwrap();
    let store = closed(dir.path());
    has_keys(
        &segtool(&store, &["segments", "STORE", "--json"]).json(),
        "store in_use last_lsn segments segments[].id segments[].state segments[].size_bytes
         segments[].used_bytes segments[].live_bytes segments[].dead_bytes segments[].first_lsn
         segments[].last_lsn segments[].created segments[].created_ns segments[].wrong",
    );
    has_keys(
        &segtool(&store, &["stat", "STORE", "--json"]).json(),
        "store path format_version created created_ns segment_bytes in_use holder log log.last_lsn
         log.file_bytes log.used_bytes log.segments log.segments.active log.segments.sealed
         log.segments.cut log.segments.damaged log.segments.unreached records records.extent
         records.operation records.base bytes bytes.present bytes.history bytes.dead bytes.metadata
         bytes.overhead objects versions index index.bytes index.rows",
    );
    let verify = "store ok in_use last_lsn durable_lsn segments segments[].id segments[].state
         segments[].used_bytes segments[].batches segments[].records segments[].payload_bytes
         segments[].damages records index index.state index.covers_lsn index.rows index.different
         index.differences index.why hashes";
    has_keys(&segtool(&store, &["verify", "STORE", "--json"]).json(), &format!("{verify} notes damages"));
    super::flip(&segment_files(&store)[0], 50);
    has_keys(
        &segtool(&store, &["verify", "STORE", "--json", "--deep"]).json(),
        &format!(
            "{verify} hashes.checked hashes.unknown notes damages damages[].segment damages[].file
             damages[].offset damages[].lsn damages[].why"
        ),
    );
    super::flip(&segment_files(&store)[0], 50);
    has_keys(
        &segtool(&store, &["index", "check", "STORE", "--json"]).json(),
        "store index index.state index.covers_lsn index.rows index.different index.differences index.why",
    );
    has_keys(
        &segtool(&store, &["index", "rebuild", "STORE", "--json"]).json(),
        "rebuilt covers_lsn rows damages",
    );
    let dump =
        |kind: &str| segtool(&store, &["dump", "STORE", "1", "--json", "--kind", kind]).lines()[0].clone();
    has_keys(
        &dump("extent"),
        "lsn offset kind inode object origin incarnation sequence stamp stamp_ns file_offset stored_bytes
         raw_bytes",
    );
    has_keys(
        &dump("operation"),
        "lsn offset kind inode object origin incarnation sequence stamp stamp_ns stored_bytes raw_bytes
         facts facts[].fact facts[].object facts[].kind facts[].mode facts[].owner facts[].device
         facts[].target",
    );
    has_keys(&dump("batch"), "lsn offset kind end first_lsn durable_lsn records whole time time_ns");
    has_keys(&dump("footer"), "lsn offset kind stored_bytes raw_bytes");
}

#[test]
fn numbers_agree_with_the_store() {
    let dir = tempfile::tempdir().unwrap();
    let path = closed(dir.path());
    let stat = segtool(&path, &["stat", "STORE", "--json"]).json();
    let list = segtool(&path, &["segments", "STORE", "--json"]).json();
    let verify = segtool(&path, &["verify", "STORE", "--json"]).json();
    let n = |v: &Value| v.as_u64().unwrap_or_else(|| panic!("{v}"));
    // Six files, of which each has two versions, and three were deleted.
    assert_eq!(n(&stat["versions"]), 12);
    // One extent of each version shows in three files; all others are history.
    assert!(
        n(&stat["bytes"]["present"]) > 3 * 130_000 && n(&stat["bytes"]["present"]) < 3 * 132_000,
        "{stat:#}"
    );
    assert!(
        n(&stat["bytes"]["history"]) > 3 * 130_000 && n(&stat["bytes"]["history"]) < 3 * 132_000,
        "{stat:#}"
    );
    assert_eq!(n(&stat["bytes"]["dead"]), 0);
    assert_eq!(n(&stat["records"]["extent"]), 12);
    let records = ["extent", "operation", "base"].iter().map(|k| n(&stat["records"][k])).sum::<u64>();
    assert_eq!(records, n(&verify["records"]));
    assert_eq!(records, n(&stat["log"]["last_lsn"]));
    let sum = |key: &str| list["segments"].as_array().unwrap().iter().map(|s| n(&s[key])).sum::<u64>();
    let of = |key: &str| n(&stat["bytes"][key]);
    assert_eq!(sum("live_bytes"), of("present") + of("history") + of("metadata"));
    assert_eq!(sum("used_bytes"), n(&stat["log"]["used_bytes"]));
    assert_eq!(sum("size_bytes"), n(&stat["log"]["file_bytes"]));
    assert_eq!(sum("used_bytes"), sum("live_bytes") + sum("dead_bytes") + of("overhead"));
    // Numbers of records follow each other from one segment to the next.
    let mut next = 1;
    for s in list["segments"].as_array().unwrap() {
        assert_eq!((n(&s["first_lsn"]), &s["state"]), (next, &Value::from("sealed")), "{list:#}");
        next = n(&s["last_lsn"]) + 1;
        let created = s["created"].as_str().unwrap();
        assert_eq!((created.len(), &created[19..20], &created[29..]), (30, ".", "Z"), "{created}");
    }
    assert_eq!(next, n(&list["last_lsn"]) + 1);
    let text = segtool(&path, &["segments", "STORE"]).ends_with(0).out;
    assert_eq!(text.lines().count(), 1 + list["segments"].as_array().unwrap().len());
    assert!(text.starts_with("SEGMENT  STATE"), "{text}");
    assert!(!text.contains('\u{1b}'), "no colours");
}

#[test]
fn dump_filters_by_object_lsn_and_kind() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let store = Store::create(&path, options()).unwrap();
    let a = super::file(&store, "a", b"of a");
    let b = super::file(&store, "b", b"of b");
    store.link(a, Ino::FIRST, b"a2").unwrap();
    let nasty = NewObject::symlink(b"tar\nget\x1b[31m".to_vec(), Owner::default());
    store.create_object(Ino::FIRST, b"\xff\x1b", &nasty).unwrap();
    let id = store.view().attributes(a).unwrap().object.to_string();
    store.close().unwrap();
    drop(store);
    let dump = |more: &[&str]| {
        let words = [&["dump", "STORE", "1", "--json"], more].concat();
        segtool(&path, &words).ends_with(0).lines()
    };
    let lsns = |more: &[&str]| dump(more).iter().map(|r| r["lsn"].as_u64().unwrap()).collect::<Vec<_>>();
    let all = lsns(&[]);
    assert_eq!(all, (1..=all.len() as u64).collect::<Vec<_>>());
    // Create, extent, version; create, extent, version; link; symlink.
    assert_eq!(all.len(), 8);
    assert_eq!(lsns(&["--object", &a.to_string()]), [1, 2, 3, 7]);
    assert_eq!(lsns(&["--object", &id]), [1, 2, 3, 7]);
    assert_eq!(lsns(&["--object", &b.to_string()]), [4, 5, 6]);
    assert_eq!(lsns(&["--object", "999"]), [0; 0]);
    assert_eq!(lsns(&["--lsn", "3..5"]), [3, 4, 5]);
    assert_eq!(lsns(&["--lsn", "..2"]), [1, 2]);
    assert_eq!(lsns(&["--lsn", "7.."]), [7, 8]);
    assert_eq!(lsns(&["--lsn", "6"]), [6]);
    assert_eq!(lsns(&["--kind", "extent"]), [2, 5]);
    assert_eq!(lsns(&["--kind", "operation", "--lsn", "4..", "--object", &b.to_string()]), [4, 6]);
    assert_eq!(lsns(&["--kind", "base"]), [0; 0]);
    let extent = &dump(&["--lsn", "5", "--payload", "hex"])[0];
    assert_eq!(extent["payload"], "6f662062");
    assert_eq!(extent["file_offset"], 0);
    let facts = &dump(&["--lsn", "7"])[0]["facts"];
    assert_eq!((&facts[0]["fact"], &facts[0]["name"]), (&"link".into(), &"a2".into()), "{facts}");
    // By the name of the file as well.
    let name = segment_files(&path)[0].clone();
    let by_name = segtool(&path, &["dump", "STORE", name.to_str().unwrap(), "--json"]).lines();
    assert_eq!(by_name, dump(&[]));
    // A name can't write to the terminal, or fake a line.
    let text = segtool(&path, &["dump", "STORE", "1"]).ends_with(0).out;
    assert_eq!(text.lines().count(), 8, "{text}");
    assert!(!text.contains('\u{1b}'), "{text}");
    assert!(text.contains("lsn=7") && text.contains("link") && text.contains("name=a2"), "{text}");
}

#[test]
fn dump_shows_what_is_damaged_and_what_lies_behind_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = closed(dir.path());
    let dump = || segtool(&path, &["dump", "STORE", "2", "--json"]);
    let good = dump().ends_with(0).lines();
    let extent = good.iter().position(|r| r["kind"] == "extent").unwrap();
    let at = good[extent]["offset"].as_u64().unwrap() as usize;
    super::flip(&segment_files(&path)[1], at + 5000);
    let run = dump().ends_with(5);
    let bad = run.lines();
    assert_eq!(bad.len(), good.len());
    assert!(bad[extent]["damage"].as_str().unwrap().contains("checksum"), "{}", bad[extent]);
    assert_eq!(bad[extent + 1], good[extent + 1]);
    assert!(run.error()["next"].as_str().unwrap().starts_with("segtool verify"));
}

#[test]
fn an_object_of_many_facts_is_found_and_the_log_behind_the_index_counts() {
    let dir = tempfile::tempdir().unwrap();
    let path = crashed(dir.path());
    let stat = segtool(&path, &["stat", "STORE", "--json"]).ends_with(0).json();
    // 12 before the last close, 4 after it, which the index does not have yet.
    assert_eq!(stat["versions"], 16, "{stat:#}");
    assert!(stat["bytes"]["present"].as_u64().unwrap() > 4 * noise(1, 20_000).len() as u64);
}
