//! Bad input: each is named, says what to do, and changes nothing.

use std::{fs, os::unix::process::CommandExt as _, path::Path};

use segfs::format::Superblock;

use super::{Run, closed, program, run_all, run_with, segtool};

/// Every reading command ends with this code and an error in three parts that names all of these.
#[track_caller]
fn all_say(store: &Path, code: i32, words: &[&str]) {
    for (command, run) in run_all(store) {
        assert_eq!(run.code, code, "{command}: {run:?}");
        in_three_parts(&run, command.ends_with("--json"));
        for word in words {
            assert!(run.err.contains(word), "{command}: {word:?} is not in {}", run.err);
        }
    }
}

#[track_caller]
fn in_three_parts(run: &Run, json: bool) {
    if json {
        let error = run.error();
        let keys: Vec<_> = error.as_object().unwrap().keys().cloned().collect();
        assert_eq!(keys.len(), 4, "{error}");
        for key in ["code", "what", "why", "next"] {
            assert!(error[key].as_str().is_some_and(|s| !s.is_empty()), "{key}: {error}");
        }
    } else {
        let lines: Vec<_> = run.err.lines().collect();
        assert_eq!(lines.len(), 3, "{run:?}");
        assert!(lines[0].starts_with("segtool: ") && lines[0].len() > 12, "{run:?}");
        assert!(lines[1].starts_with("  why:  ") && lines[1].len() > 8, "{run:?}");
        assert!(lines[2].starts_with("  next: ") && lines[2].len() > 8, "{run:?}");
    }
}

#[test]
fn a_path_that_is_no_store_is_named() {
    let dir = tempfile::tempdir().unwrap();
    all_say(&dir.path().join("nowhere"), 3, &["nowhere"]);
    let plain = dir.path().join("plain");
    fs::write(&plain, "text").unwrap();
    all_say(&plain, 2, &["plain", "directory"]);
    let empty = dir.path().join("empty");
    fs::create_dir(&empty).unwrap();
    all_say(&empty, 2, &["empty", "STORE"]);
}

#[test]
fn a_newer_store_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let store = closed(dir.path());
    let old = fs::read(store.join("STORE")).unwrap();
    let sb = Superblock::decode(&old[..4096]).unwrap();
    for newer in [
        Superblock { version: sb.version + 1, ..sb.clone() },
        Superblock { incompatible: 1 << 40, ..sb.clone() },
    ] {
        fs::write(store.join("STORE"), newer.encode().repeat(2)).unwrap();
        all_say(&store, 1, &["newer segfs"]);
        let before = super::tree(&store);
        segtool(&store, &["index", "rebuild", "STORE"]).ends_with(1);
        assert_eq!(super::tree(&store), before);
    }
}

#[test]
fn without_permission_nothing_is_said_to_be_damaged() {
    let dir = tempfile::tempdir().unwrap();
    let store = closed(dir.path());
    let open = |path: &Path, mode| {
        use std::os::unix::fs::PermissionsExt as _;
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    };
    // Root is asked for no permission: then it is nobody who runs it, and from a place that nobody reaches.
    let root = rustix::process::geteuid().is_root();
    let tool = dir.path().join("segtool");
    crate::mount::install(program(), &tool);
    open(dir.path(), 0o755);
    let try_it = || {
        let mut command = std::process::Command::new(&tool);
        command.args(["verify", store.to_str().unwrap(), "--json"]);
        if root {
            command.uid(65_534).gid(65_534);
        }
        let out = command.output().unwrap();
        let err = String::from_utf8(out.stderr).unwrap();
        assert_eq!(out.status.code(), Some(1), "{err}");
        assert!(err.contains("ermission denied") && err.contains("owner"), "{err}");
    };
    let before = super::tree(&store);
    open(&store, 0o000);
    try_it();
    open(&store, 0o755);
    open(&store.join("STORE"), 0o000);
    try_it();
    open(&store.join("STORE"), 0o644);
    open(&store.join("LOCK"), 0o000);
    try_it();
    open(&store.join("LOCK"), 0o644);
    open(&store.join("segments"), 0o000);
    try_it();
    open(&store.join("segments"), 0o755);
    let contents = |t: &std::collections::BTreeMap<_, (u32, i64, Vec<u8>)>| {
        t.values().map(|v| v.2.clone()).collect::<Vec<_>>()
    };
    assert_eq!(contents(&super::tree(&store)), contents(&before));
}

#[test]
fn a_segment_that_is_not_there_is_not_found() {
    let dir = tempfile::tempdir().unwrap();
    let store = closed(dir.path());
    let before = super::tree(&store);
    let run = segtool(&store, &["dump", "STORE", "4711"]).ends_with(3);
    in_three_parts(&run, false);
    assert!(run.err.contains("4711") && run.err.contains("segtool segments"), "{run:?}");
    let run = segtool(&store, &["dump", "STORE", "00000000000000ff.seg", "--json"]).ends_with(3);
    assert_eq!(run.error()["code"], "not_found");
    assert_eq!(super::tree(&store), before);
}

#[test]
fn a_command_line_that_makes_no_sense_is_usage() {
    let dir = tempfile::tempdir().unwrap();
    let store = closed(dir.path());
    let before = super::tree(&store);
    for words in [
        &[][..],
        &["frobnicate"],
        &["segments"],
        &["dump", "STORE"],
        &["dump", "STORE", "one"],
        &["dump", "STORE", "1", "--lsn", "9..3"],
        &["dump", "STORE", "1", "--lsn", "x..3"],
        &["dump", "STORE", "1", "--kind", "nonsense"],
        &["dump", "STORE", "1", "--object", "zero"],
        &["verify", "STORE", "--deeper"],
        &["index", "STORE"],
    ] {
        let run = segtool(&store, words).ends_with(2);
        in_three_parts(&run, false);
        let with_json = [words, &["--json"]].concat();
        let run = segtool(&store, &with_json).ends_with(2);
        in_three_parts(&run, true);
        assert_eq!(run.error()["code"], "usage");
    }
    assert_eq!(super::tree(&store), before);
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let dir = tempfile::tempdir().unwrap();
    let store = closed(dir.path());
    let line = format!("{} dump {} 1 --payload hex | head -c 10", program().display(), store.display());
    let out = std::process::Command::new("bash").args(["-o", "pipefail", "-c", &line]).output().unwrap();
    assert_eq!((out.status.code(), out.stderr.len()), (Some(0), 0), "{out:?}");
    let run = run_with(&["stat", store.to_str().unwrap()], |c| {
        c.stdout(fs::OpenOptions::new().write(true).open("/dev/full").unwrap());
    });
    assert_eq!(run.code, 1, "{run:?}");
}
