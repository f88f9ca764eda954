//! What operators do: collecting, telling what takes space, reading everything. On a mount, and on a store that nobody has mounted.
#![allow(clippy::disallowed_methods)] // this is the outside: real files, real time

use std::{fs, path::Path, time::Duration};

use serde_json::Value;

use crate::mount::{Mounted, segfs};

fn content(n: u8, bytes: usize) -> Vec<u8> {
    let mut x = u64::from(n) << 32 | 1;
    std::iter::repeat_with(|| {
        x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (x >> 40) as u8
    })
    .take(bytes)
    .collect()
}

/// Runs a command with `--json`; its exit code, and what it printed.
fn ask(words: &[&str], at: &Path) -> (i32, Value) {
    let done = segfs(&[words, &["--json", at.to_str().unwrap()]].concat());
    let text = String::from_utf8_lossy(&done.stdout);
    let value = text.lines().last().map_or(Value::Null, |l| serde_json::from_str(l).unwrap());
    (done.status.code().unwrap(), value)
}

fn number(v: &Value, field: &str) -> u64 {
    v[field].as_u64().unwrap_or_else(|| panic!("no {field} in {v:#}"))
}

#[test]
fn statfs_status_and_du_say_the_same() {
    let mut m = Mounted::new();
    fs::create_dir(m.path("a")).unwrap();
    for round in 0..3 {
        fs::write(m.path("a/f"), content(round, 300_000)).unwrap();
        fs::write(m.path("g"), content(10 + round, 200_000)).unwrap();
    }
    // What was in no version when it went is dead.
    fs::write(m.path("h"), content(20, 150_000)).unwrap();
    let (code, du) = ask(&["du", "--versions"], &m.dir());
    assert_eq!(code, 0, "{du:#}");
    let near = |found: u64, bytes: u64| found >= bytes && found < bytes + 20_000;
    assert!(near(number(&du, "present"), 650_000), "{du:#}");
    assert!(near(number(&du, "history"), 1_000_000), "{du:#}");
    assert_eq!(number(&du, "shared"), 0);

    // The same of a mount that is asked how it stands, as soon as it has counted again.
    let mut agreed = false;
    for _ in 0..100 {
        let (_, status) = ask(&["status"], &m.dir());
        let bytes = &status["bytes"];
        agreed = ["present", "history", "dead"].iter().all(|f| bytes[f] == du[f]);
        if agreed {
            // What is free is what the disk says, to statfs too.
            let df = rustix::fs::statvfs(m.dir()).unwrap();
            let free = number(&status["space"], "free_bytes");
            assert!((df.f_bavail * df.f_frsize).abs_diff(free) < 1 << 30, "{free}");
            assert_eq!(df.f_blocks * df.f_frsize / 4096, number(&status["space"], "total_bytes") / 4096);
            break;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    assert!(agreed, "status never says what du says: {du:#}");

    // A part of the tree, and the rest.
    let (_, a) = ask(&["du", "--versions"], &m.path("a"));
    assert!(near(number(&a, "present"), 300_000) && near(number(&a, "history"), 600_000), "{a:#}");
    let (_, g) = ask(&["du", "--versions"], &m.path("g"));
    assert!(near(number(&g, "present"), 200_000) && near(number(&g, "history"), 400_000), "{g:#}");
    assert_eq!(ask(&["du", "--versions"], &m.path("none")).0, 3);

    // What a removal takes from the present is history then.
    fs::remove_file(m.path("g")).unwrap();
    let (_, du) = ask(&["du", "--versions"], &m.dir());
    assert!(near(number(&du, "present"), 450_000) && near(number(&du, "history"), 1_200_000), "{du:#}");
    m.unmount();
    let (code, closed) = ask(&["du", "--versions"], &m.store());
    assert_eq!(code, 0, "{closed:#}");
    for field in ["present", "history", "dead"] {
        assert_eq!(closed[field], du[field], "{field}");
    }
}

#[test]
fn a_collection_says_before_what_it_does() {
    let mut m = Mounted::new();
    for round in 0..4 {
        fs::write(m.path("f"), content(round, 500_000)).unwrap();
    }
    let (code, dry) = ask(&["gc", "--dry-run"], &m.dir());
    assert_eq!((code, number(&dry, "versions")), (0, 0), "the default keeps all of this month: {dry:#}");
    let (code, done) = ask(&["gc"], &m.dir());
    assert_eq!((code, number(&done, "versions")), (0, 0), "{done:#}");
    assert_eq!(fs::read_dir(m.path(".segfs/versions/f")).unwrap().count(), 4);
    assert_eq!(fs::read(m.path("f")).unwrap(), content(3, 500_000));
    m.unmount();
    let (code, done) = ask(&["gc"], &m.store());
    assert_eq!(code, 0, "{done:#}");
    assert_eq!(ask(&["gc"], m.root.path()).0, 2, "neither a mount nor a store");
}

#[test]
fn a_collection_of_an_unmounted_store_keeps_to_its_config() {
    let mut m = Mounted::new();
    for round in 0..4 {
        fs::write(m.path("f"), content(round, 50_000)).unwrap();
    }
    m.unmount();
    let config = m.store().join("config.toml");
    fs::write(&config, "[path.'/']\nkeep = 'everything'\n").unwrap();
    assert_eq!(ask(&["gc"], &m.store()).0, 2, "nobody knows what it is to keep");
    fs::write(&config, "[path.'/']\nkeep = { last = 2 }\n").unwrap();
    let (code, done) = ask(&["gc"], &m.store());
    assert_eq!((code, number(&done, "versions")), (0, 2), "what a mount would let go: {done:#}");
}

/// Turns over a byte in what a file holds; where.
fn rot(store: &Path, needle: &[u8]) -> u64 {
    for entry in fs::read_dir(store.join("segments")).unwrap() {
        let path = entry.unwrap().path();
        let mut bytes = fs::read(&path).unwrap();
        if let Some(at) = bytes.windows(needle.len()).position(|w| w == needle) {
            bytes[at + needle.len() / 2] ^= 1;
            fs::write(&path, bytes).unwrap();
            return at as u64;
        }
    }
    panic!("what was written is nowhere");
}

#[test]
fn reading_everything_finds_rot_and_says_whose_it_is() {
    let mut m = Mounted::new();
    fs::create_dir(m.path("dir")).unwrap();
    for round in 0..3 {
        fs::write(m.path("dir/old"), content(round, 100_000)).unwrap();
    }
    fs::write(m.path("whole"), content(9, 100_000)).unwrap();
    let (code, sound) = ask(&["scrub"], &m.dir());
    assert_eq!((code, &sound["complete"]), (0, &Value::Bool(true)), "{sound:#}");
    assert!(number(&sound, "bytes") > 400_000, "{sound:#}");
    m.unmount();
    rot(&m.store(), &content(1, 100_000)[40_000..41_000]);
    let check = |(code, found): (i32, Value)| {
        assert_eq!(code, 5, "{found:#}");
        let hits: Vec<&Value> = found["damages"]
            .as_array()
            .unwrap()
            .iter()
            .flat_map(|d| d["files"].as_array().unwrap())
            .collect();
        assert_eq!(hits.len(), 1, "{found:#}");
        assert_eq!((&hits[0]["path"], &hits[0]["present"]), (&"/dir/old".into(), &Value::Bool(false)));
        let versions: Vec<u64> =
            hits[0]["versions"].as_array().unwrap().iter().map(|v| number(v, "ordinal")).collect();
        assert_eq!(versions, [2], "the second version alone");
    };
    check(ask(&["scrub"], &m.store()));
    m.mount(&[]);
    check(ask(&["scrub", "--rate", "100M"], &m.dir()));
    assert_eq!(fs::read(m.path("dir/old")).unwrap(), content(2, 100_000));
    m.unmount();
    // The journal has a line for each damage, each time, and says how far each one came.
    let journal = fs::read_to_string(m.store().join("scrub.journal")).unwrap();
    let lines: Vec<Value> = journal.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(lines.iter().filter(|l| l.get("damage").is_some()).count(), 2, "{journal}");
    assert_eq!(lines.iter().filter(|l| l["scrub"] == "done").count(), 3, "{journal}");
    // One that was broken off is gone on with.
    let position = lines.iter().find(|l| l["scrub"] == "position").unwrap();
    fs::write(m.store().join("scrub.journal"), format!("{position}\n")).unwrap();
    let (_, rest) = ask(&["scrub"], &m.store());
    assert_eq!(rest["resumed_behind"], position["segment"]);
    assert!(number(&rest, "bytes") < number(&sound, "bytes"), "{rest:#}");
    let (_, all) = ask(&["scrub", "--anew"], &m.store());
    assert_eq!(all["resumed_behind"], Value::Null);
}

/// Has a mount that is to read everything by itself do so, at this rate, with no pause worth the name.
fn scrubs_by_itself(store: &Path, rate: &str) {
    let config = store.join("config.toml");
    let text = fs::read_to_string(&config).unwrap();
    let (before, _) = text.split_once("[scrub]").unwrap();
    fs::write(&config, format!("{before}[scrub]\nevery = \"1s\"\nrate = \"{rate}\"\n")).unwrap();
}

/// Asks for the status until what it says of reading everything is like this.
#[track_caller]
fn comes_to(at: &Path, what: &str, is_so: impl Fn(&Value) -> bool) -> Value {
    let mut scrub = Value::Null;
    for _ in 0..300 {
        scrub = ask(&["status"], at).1["scrub"].clone();
        if is_so(&scrub) {
            return scrub;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    panic!("{what}: {scrub:#}");
}

#[test]
fn a_mount_reads_everything_by_itself_and_the_next_one_goes_on_with_it() {
    let mut m = Mounted::new();
    let scrub = comes_to(&m.dir(), "a new mount waits", |s| s["next_ns"].is_u64());
    let month = 30 * 24 * 3600;
    assert_eq!((&scrub["every_seconds"], &scrub["rate_bytes"]), (&month.into(), &(20 << 20).into()));
    assert_eq!((&scrub["last"], &scrub["under_way"]), (&Value::Null, &Value::Null), "{scrub:#}");
    // Each mount begins a segment.
    for round in 0..4 {
        fs::write(m.path("old"), content(round, 800_000)).unwrap();
        m.unmount();
        if round < 3 {
            m.mount(&[]);
        }
    }
    let at = rot(&m.store(), &content(0, 800_000)[40_000..41_000]);
    scrubs_by_itself(&m.store(), "64K");
    m.mount(&[]);
    // What is in the first segment is known at once; the mount ends long before all of it is read.
    let begun = comes_to(&m.dir(), "it begins", |s| s["under_way"]["segments"].as_u64() >= Some(1));
    assert_eq!(begun["under_way"]["damages"], 1, "{begun:#}");
    let (_, status) = ask(&["status"], &m.dir());
    assert_eq!(status["event"]["event"], "damage", "{status:#}");
    m.unmount();
    let closed = ask(&["status"], &m.store()).1["scrub"].clone();
    assert_eq!(closed["last"], Value::Null, "it is not at its end: {closed:#}");
    assert_eq!(closed["under_way"]["files"], serde_json::json!(["/old"]), "{closed:#}");
    scrubs_by_itself(&m.store(), "100M");
    m.mount(&[]);
    let ended = comes_to(&m.dir(), "it ends", |s| !s["last"].is_null())["last"].clone();
    m.unmount();
    assert_eq!((&ended["damages"], &ended["files"]), (&1.into(), &serde_json::json!(["/old"])), "{ended:#}");
    assert!(number(&ended, "segments") >= 4 && number(&ended, "bytes") > 400_000, "{ended:#}");
    let shown = segfs(&["status", m.store().to_str().unwrap()]);
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(shown.contains("scrub       ended 20") && shown.contains("1 damages, /old"), "{shown}");
    let journal = fs::read_to_string(m.store().join("scrub.journal")).unwrap();
    let lines: Vec<Value> = journal.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let begun: Vec<bool> =
        lines.iter().filter(|l| l["scrub"] == "begun").map(|l| l["behind_segment"].is_u64()).collect();
    assert_eq!(begun[..2], [false, true], "the second one went on: {journal}");
    let until = lines.iter().position(|l| l["scrub"] == "done").unwrap();
    let read: Vec<u64> =
        lines[..until].iter().filter(|l| l["scrub"] == "position").map(|l| number(l, "segment")).collect();
    assert!(read.is_sorted_by(|a, b| a < b), "no segment twice: {read:?}");
    let found = lines.iter().find(|l| l.get("damage").is_some()).unwrap();
    assert!(at.abs_diff(number(found, "offset")) < 800_000 + 4096, "{found:#}");
}

#[test]
fn who_reads_everything_by_hand_goes_first_and_never_means_never() {
    let mut m = Mounted::new();
    for round in 0..3 {
        fs::write(m.path("f"), content(round, 800_000)).unwrap();
        m.unmount();
        scrubs_by_itself(&m.store(), "64K");
        m.mount(&[]);
    }
    comes_to(&m.dir(), "it begins", |s| s["under_way"]["segments"].as_u64() >= Some(1));
    let (code, done) = ask(&["scrub"], &m.dir());
    assert!(done["complete"] == true && done["resumed_behind"].is_u64(), "{done:#}");
    let last = comes_to(&m.dir(), "that was the end of it", |s| !s["last"].is_null())["last"].clone();
    let journal = fs::read_to_string(m.store().join("scrub.journal")).unwrap();
    let whole = journal.split("\"scrub\":\"done\"").next().unwrap();
    let read = whole.lines().filter(|l| l.contains("\"scrub\":\"position\"")).count() as u64;
    assert_eq!(number(&last, "segments"), read, "{journal}");
    assert!(number(&done, "segments") < read, "what was read by itself is not read again: {done:#}");
    assert_eq!((code, &last["damages"]), (0, &0.into()), "{last:#}");
    m.unmount();
    let config = m.store().join("config.toml");
    let text = fs::read_to_string(&config).unwrap().replace("every = \"1s\"", "every = \"never\"");
    fs::write(&config, text).unwrap();
    fs::remove_file(m.store().join("scrub.journal")).unwrap();
    m.mount(&[]);
    std::thread::sleep(Duration::from_secs(3));
    let (_, status) = ask(&["status"], &m.dir());
    assert_eq!((&status["scrub"]["every_seconds"], &status["scrub"]["next"]), (&Value::Null, &Value::Null));
    assert!(!m.store().join("scrub.journal").exists(), "it was told never to");
}

/// Is this anywhere in the log, or in what was the log? A file that is renamed meanwhile could be missed: then it is looked
/// for again.
fn is_on_disk(store: &Path, needle: &[u8]) -> bool {
    let look = || -> std::io::Result<bool> {
        for dir in ["segments", "spare"] {
            for entry in fs::read_dir(store.join(dir))? {
                if fs::read(entry?.path())?.windows(needle.len()).any(|w| w == needle) {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    };
    loop {
        match look() {
            Ok(found) => return found,
            Err(e) => assert_eq!(e.kind(), std::io::ErrorKind::NotFound, "{e}"),
        }
    }
}

#[test]
fn what_is_purged_is_gone_from_the_disk() {
    let mut m = Mounted::new();
    for round in 0..3 {
        fs::write(m.path("secret"), content(round, 100_000)).unwrap();
        fs::write(m.path("other"), content(10 + round, 100_000)).unwrap();
    }
    // Saved by renaming once: another object with the same history.
    fs::write(m.path("tmp"), content(3, 100_000)).unwrap();
    fs::rename(m.path("tmp"), m.path("secret")).unwrap();
    let secret = |n: u8| content(n, 100_000)[5000..5100].to_vec();
    let (code, done) = ask(&["purge", "--wait"], &m.path("secret@2"));
    assert_eq!((code, number(&done, "versions"), number(&done, "left")), (0, 1, 0), "{done:#}");
    assert!(!is_on_disk(&m.store(), &secret(1)));
    assert!(is_on_disk(&m.store(), &secret(0)) && is_on_disk(&m.store(), &secret(2)));
    assert_eq!(ask(&["purge"], &m.path("secret@4")).0, 2, "it is what the file shows");

    let (code, done) = ask(&["purge", "--wait"], &m.path("secret"));
    assert_eq!((code, number(&done, "versions"), number(&done, "left")), (0, 3, 0), "{done:#}");
    assert!(!m.path("secret").exists());
    for n in 0..4 {
        assert!(!is_on_disk(&m.store(), &secret(n)), "{n}");
    }
    let check = |m: &Mounted| {
        for n in 0..3_u8 {
            let name = fs::read_dir(m.path(".segfs/versions/other")).unwrap();
            let mut names: Vec<_> = name.map(|e| e.unwrap().path()).collect();
            names.sort();
            assert!(fs::read(&names[n as usize]).unwrap() == content(10 + n, 100_000), "{n}");
        }
        assert!(fs::read_dir(m.path(".segfs/versions/secret")).map_or(0, Iterator::count) == 0);
    };
    check(&m);
    // Locked and tagged is refused, and nothing has changed.
    assert!(segfs(&["tag", "add", "keep", m.dir().to_str().unwrap()]).status.success());
    assert_eq!(ask(&["purge"], &m.path("other")).0, 1);
    check(&m);
    m.unmount();
    // Nor does the log make it again.
    fs::remove_dir_all(m.store().join("index")).unwrap();
    m.mount(&[]);
    check(&m);
    m.unmount();
    let verify = segfs::store::inspect::Inspection::open(&m.store()).unwrap();
    assert_eq!(verify.check_index(&|_, _| {}).unwrap().different, 0);
    drop(verify);
    let gone = segfs(&["tag", "rm", "keep", "--store", m.store().to_str().unwrap()]);
    assert!(gone.status.success(), "{gone:?}");
    let done = segfs(&["purge", "--wait", "--store", m.store().to_str().unwrap(), "other"]);
    assert!(done.status.success(), "{done:?}");
    for n in 10..13 {
        assert!(!is_on_disk(&m.store(), &secret(n)), "{n}");
    }
}

fn purge(at: &Path, more: &[&str]) -> (i32, String) {
    let done = segfs(&[&["purge", at.to_str().unwrap()], more].concat());
    (done.status.code().unwrap(), String::from_utf8_lossy(&done.stderr).into_owned())
}

/// Numbers of the versions that a name has.
fn versions(m: &Mounted, name: &str) -> Vec<u64> {
    let log = ask(&["log"], &m.path(name)).1;
    log["versions"].as_array().into_iter().flatten().map(|v| number(v, "ordinal")).collect()
}

#[test]
fn a_version_is_purged_by_every_name_that_it_has() {
    let mut m = Mounted::new();
    for round in 0..4 {
        fs::write(m.path("f"), content(round, 20_000)).unwrap();
    }
    std::thread::sleep(Duration::from_millis(1100));
    let then = fs::read_link(m.path(".segfs/at/now")).unwrap().to_str().unwrap().to_owned();
    for round in 4..10 {
        fs::write(m.path("f"), content(round, 20_000)).unwrap();
    }
    let log = ask(&["log"], &m.path("f")).1;
    let field = |n: usize, field: &str| log["versions"][n - 1][field].clone();
    let f = |version: &str| m.path(&format!("f@{version}"));
    // The fourth by a moment, the fifth by its LSN, the sixth by the beginning of its id, the seventh by all of it.
    assert_eq!(purge(&f(&then), &[]), (0, String::new()));
    assert_eq!(purge(&f(&format!("LSN:{}", field(5, "lsn"))), &[]).0, 0);
    let id = |n: usize| field(n, "id").as_str().unwrap().to_owned();
    let shared = id(6).bytes().zip(id(7).bytes()).take_while(|(a, b)| a == b).count();
    if shared > 8 {
        let (code, said) = purge(&f(&id(6)[..shared]), &[]);
        assert!(code == 2 && said.contains("both begin so"), "{said}");
    }
    assert_eq!(purge(&f(&id(6)[..35]), &[]).0, 0);
    assert_eq!(purge(&f(&format!("id:{}", id(7))), &[]).0, 0);
    assert_eq!(versions(&m, "f"), [1, 2, 3, 8, 9, 10]);
    // Counted back over those that are left; and apart from the file, which really has that name.
    assert_eq!(purge(&f("-2"), &[]).0, 0);
    fs::write(m.path("f@3"), "really").unwrap();
    assert_eq!(purge(&m.path("f"), &["--version", "3"]).0, 0);
    assert_eq!(versions(&m, "f"), [1, 2, 9, 10]);
    assert!(m.path("f@3").exists());
    // What names none takes none, and never the file.
    for (version, code, says) in [
        ("7", 3, "no such version"),
        ("2999-01-01", 2, "yet to come"),
        ("1999-01-01", 3, "no such version"),
        ("rubbish", 2, "not how a version is named"),
        ("tag:none", 3, "no such version"),
        ("0s", 2, "it is what the file shows"),
    ] {
        let (ended, said) = purge(&f(version), &[]);
        assert!(ended == code && said.contains(says), "{version}: {said}");
    }
    // Before the moment at which the third is gone, the second is what shows; a tag keeps what it shows.
    assert!(segfs(&["tag", "add", "t", m.dir().to_str().unwrap()]).status.success());
    fs::write(m.path("f"), content(11, 20_000)).unwrap();
    let (code, said) = purge(&f("tag:t"), &[]);
    assert!(code == 1 && said.contains("a tag shows"), "{said}");
    assert_eq!(versions(&m, "f"), [1, 2, 9, 10, 11]);
    m.unmount();
    let store = m.store().to_str().unwrap().to_owned();
    let done = segfs(&["purge", "--store", &store, "./f@-3"]);
    assert!(done.status.success(), "{done:?}");
    assert!(segfs(&["tag", "rm", "t", "--store", &store]).status.success());
    let done = segfs(&["purge", "--store", &store, "f@3"]);
    assert!(done.status.success(), "a file that is really called so: {done:?}");
    m.mount(&[]);
    assert_eq!(versions(&m, "f"), [1, 9, 10, 11]);
    assert!(!m.path("f@3").exists());
}

/// What a symlink leads to, and what is called alike, are not meant.
#[test]
fn a_purge_takes_the_name_itself_whatever_it_is() {
    use std::{ffi::OsStr, os::unix::ffi::OsStrExt as _};
    let m = Mounted::new();
    for round in 0..3 {
        fs::write(m.path("target"), content(round, 20_000)).unwrap();
    }
    std::os::unix::fs::symlink("target", m.path("link")).unwrap();
    assert_eq!(purge(&m.path("link"), &[]).0, 0);
    assert!(!m.path("link").is_symlink());
    assert_eq!(versions(&m, "target"), [1, 2, 3], "what it led to has all its history");
    // Bytes that are no text, beside the text that they would be shown as.
    let (odd, shown) = (OsStr::from_bytes(b"odd\xff"), "odd\u{fffd}");
    for name in [odd, OsStr::new(shown)] {
        for round in 0..2 {
            fs::write(m.dir().join(name), content(round, 1000)).unwrap();
        }
    }
    let mut command = std::process::Command::new(crate::mount::SEGFS);
    let done = command.arg("purge").arg(m.dir().join(odd)).output().unwrap();
    assert!(done.status.success(), "{done:?}");
    assert!(!m.dir().join(odd).exists() && m.path(shown).exists());
    assert_eq!(versions(&m, shown), [1, 2]);
}
