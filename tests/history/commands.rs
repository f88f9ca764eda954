//! The commands about history: on a mount, and on a store that nobody has mounted.

use std::{
    fs,
    os::unix::{
        ffi::OsStrExt,
        fs::{FileExt, MetadataExt, PermissionsExt},
    },
    process::{Command, Output},
};

use serde_json::Value;

use crate::mount::{Mounted, SEGFS, write};

/// Runs the program in the mount.
fn run(m: &Mounted, args: &[&str]) -> Output {
    Command::new(SEGFS).args(args).current_dir(m.dir()).output().unwrap()
}

#[track_caller]
fn ok(m: &Mounted, args: &[&str]) -> String {
    let done = run(m, args);
    assert!(done.status.success(), "{args:?}: {}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8_lossy(&done.stdout).into_owned()
}

#[track_caller]
fn json(m: &Mounted, args: &[&str]) -> Value {
    serde_json::from_str(&ok(m, &[&["--json"], args].concat())).unwrap()
}

#[track_caller]
fn fails(m: &Mounted, args: &[&str], code: i32, says: &str) {
    let done = run(m, args);
    let said = String::from_utf8_lossy(&done.stderr);
    assert_eq!(done.status.code(), Some(code), "{args:?}: {said}");
    assert!(said.contains(says) && said.contains("next:"), "{args:?}: {said}");
    assert!(done.stdout.is_empty(), "{args:?}");
}

fn next_second() {
    std::thread::sleep(std::time::Duration::from_millis(1100));
}

/// A file with the versions "one", "two two", "three", the last by renaming.
fn three(m: &Mounted) {
    write(&m.path("f"), "one\n");
    write(&m.path("f"), "two two\n");
    // Whoever asks for versions gets those that are due; else that of another file may be made before.
    m.sh("ls .segfs/versions/f");
    write(&m.path("tmp"), "three\n");
    fs::rename(m.path("tmp"), m.path("f")).unwrap();
}

#[test]
fn log_lists_versions_oldest_first() {
    let m = Mounted::new();
    three(&m);
    let log = json(&m, &["log", "f"]);
    let versions = log["versions"].as_array().unwrap();
    let of = |name: &str| versions.iter().map(|v| v[name].as_i64().unwrap()).collect::<Vec<_>>();
    assert_eq!(of("ordinal"), [1, 2, 3]);
    assert_eq!(of("size"), [4, 8, 6]);
    assert_eq!(of("change"), [4, 4, -2]);
    let time = &of("creation_time_ns");
    assert!(time[0] < time[1] && time[1] < time[2]);
    assert_eq!(versions[0]["creation_time"].as_str().unwrap().len(), 30);
    assert_eq!(versions[0]["id"].as_str().unwrap().len(), 36);
    assert_eq!(
        (&versions[0]["conflict"], &versions[0]["interrupted"]),
        (&Value::Bool(false), &Value::Bool(false))
    );
    let text = ok(&m, &["log", "f"]);
    assert_eq!(text.lines().count(), 4, "{text}");
    m.sh("mkdir d; echo x > d/gone; echo y > d/stays; rm d/gone");
    let all = json(&m, &["log", "--all", "d"]);
    assert_eq!((&all["files"][0]["name"], &all["files"][0]["deleted"]), (&"gone".into(), &Value::Bool(true)));
    assert_eq!(
        (&all["files"][1]["name"], all["files"][1]["versions"].as_array().unwrap().len()),
        (&"stays".into(), 1)
    );
    assert_eq!(json(&m, &["log", "--deleted", "d"])["deleted"][0]["name"], "gone");
    assert_eq!(json(&m, &["log", "d/gone"])["versions"].as_array().unwrap().len(), 1);
    fails(&m, &["log", "d"], 2, "directories have moments");
    fails(&m, &["log", "nothing"], 3, "nothing of this name");
    fails(&m, &["log", "no/thing"], 3, "no directory");
    fails(&m, &["log", "--all", "f"], 2, "not a directory");
    fails(&m, &["log", "/etc/passwd"], 2, "not in a mount");
}

#[test]
fn a_version_is_named_in_every_documented_way() {
    let m = Mounted::new();
    write(&m.path("f"), "one");
    next_second();
    let before = fs::read_link(m.path(".segfs/at/now")).unwrap().to_str().unwrap().to_owned();
    write(&m.path("f"), "two");
    write(&m.path("f"), "three");
    let log = json(&m, &["log", "f"]);
    let id = |n: usize| log["versions"][n]["id"].as_str().unwrap().to_owned();
    let lsn = log["versions"][1]["lsn"].to_string();
    let cat = |version: &str| ok(&m, &["cat", &format!("f@{version}")]);
    assert_eq!((cat("1"), cat("3")), ("one".into(), "three".into()));
    assert_eq!((cat("-1"), cat("-2"), cat("-0")), ("two".into(), "one".into(), "three".into()));
    assert_eq!(cat(&before), "one");
    assert_eq!(cat(&before.replace('.', ":")), "one");
    assert_eq!(cat("0s"), "three");
    assert_eq!(cat(&format!("LSN:{lsn}")), "two");
    assert_eq!(cat(&format!("id:{}", id(1))), "two");
    assert_eq!(cat(&id(1)), "two");
    assert_eq!(cat(&id(1)[..30]), "two");
    assert_eq!(ok(&m, &["cat", "f", "--version", "2"]), "two");
    assert_eq!(ok(&m, &["cat", "f", "--version", "-1"]), "two");
    assert_eq!(ok(&m, &["cat", "f"]), "three");
    // In the local zone: here one of its own.
    let local = before.trim_end_matches('Z').replace('.', ":");
    let (day, rest) = local.split_once('T').unwrap();
    let later = format!("{day} {rest} UTC + 3 hours");
    let shifted = Command::new("date").args(["-u", "-d", &later, "+%Y-%m-%dT%H:%M:%S"]).output().unwrap();
    let shifted = String::from_utf8(shifted.stdout).unwrap();
    let done = Command::new(SEGFS)
        .args(["cat", &format!("f@{}", shifted.trim())])
        .env("TZ", "XXX-3")
        .current_dir(m.dir())
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&done.stdout), "one", "{done:?}");
    // What can't be.
    fails(&m, &["cat", "f@4"], 3, "the newest is 3");
    fails(&m, &["cat", "f@0"], 3, "the newest is 3");
    fails(&m, &["cat", "f@-3"], 3, "the newest is 3");
    fails(&m, &["cat", "f@2999-01-01"], 2, "yet to come");
    fails(&m, &["cat", "f@1999-01-01"], 3, "did not exist yet");
    fails(&m, &["cat", "f@tag:none"], 3, "no tag");
    // What the ids of two versions made one right after the other have in common.
    let (b, c) = (id(1), id(2));
    let shared = &b[..b.bytes().zip(c.bytes()).take_while(|(x, y)| x == y).count()];
    if shared.len() > 8 {
        fails(&m, &["cat", &format!("f@{}", shared.trim_end_matches('-'))], 2, "both begin so");
    }
    fails(&m, &["cat", "f@00000000a"], 3, "begins so");
    fails(&m, &["cat", "f@rubbish"], 2, "not how a version is named");
    fails(&m, &["cat", "f@LSN:999999"], 3, "");
    fails(&m, &["cat", "nothing"], 3, "no such file");
    let error: Value = serde_json::from_slice(&run(&m, &["--json", "cat", "f@4"]).stderr).unwrap();
    assert_eq!(error["error"]["code"], "not_found");
    let path = ok(&m, &["path", "f@2"]);
    assert_eq!(fs::read_to_string(path.trim_end()).unwrap(), "two");
    // A file that is really called so wins, and an @ in a name is no version.
    write(&m.path("f@1"), "really");
    write(&m.path("a@b@c"), "at");
    write(&m.path("a@b@c"), "now");
    assert_eq!(ok(&m, &["cat", "f@1"]), "really");
    assert_eq!(ok(&m, &["cat", "--version", "1", "f"]), "one");
    assert_eq!(ok(&m, &["cat", "a@b@c@1"]), "at");
    assert_eq!(ok(&m, &["cat", "f@1@1"]), "really");
    fs::remove_file(m.path("f")).unwrap();
    assert_eq!(ok(&m, &["cat", "f@-1"]), "three", "of what is gone, the last one");
}

#[test]
fn diff_shows_lines_or_ranges() {
    let m = Mounted::new();
    write(&m.path("f"), "a\nb\nc\n");
    write(&m.path("f"), "a\nx\nc\nd");
    let diff = ok(&m, &["diff", "f@1"]);
    let body: Vec<&str> = diff.lines().skip(2).collect();
    assert_eq!(body, ["@@ -1,3 +1,4 @@", " a", "-b", "+x", " c", "+d", "\\ No newline at end of file"]);
    assert_eq!(ok(&m, &["diff", "f@2"]), "");
    assert!(ok(&m, &["diff", "f@2", "f@1"]).contains("\n+b\n"));
    let mut bytes = vec![0_u8; 100_000];
    write(&m.path("b"), &bytes);
    bytes[5000..5010].fill(1);
    bytes.push(9);
    write(&m.path("b"), &bytes);
    let diff = json(&m, &["diff", "b@1", "b@2"]);
    assert_eq!(diff["ranges"].to_string(), r#"[{"offset":5000,"length":10},{"offset":100000,"length":1}]"#);
    assert!(ok(&m, &["diff", "b@1"]).contains("differs at 5000, 10 bytes"));
}

#[test]
fn restore_brings_a_file_back_as_a_new_version_and_says_how_to_undo_it() {
    let m = Mounted::new();
    three(&m);
    fs::set_permissions(m.path("f"), fs::Permissions::from_mode(0o640)).unwrap();
    assert!(ok(&m, &["restore", "--dry-run", "f@1"]).contains("would restore f"));
    assert_eq!(fs::read_to_string(m.path("f")).unwrap(), "three\n");
    let done = json(&m, &["restore", "f@1"]);
    assert_eq!(fs::read_to_string(m.path("f")).unwrap(), "one\n");
    assert_eq!(fs::metadata(m.path("f")).unwrap().mode() & 0o7777, 0o644, "as it was");
    assert_eq!(json(&m, &["log", "f"])["versions"].as_array().unwrap().len(), 4);
    let undo = done["undo"].as_str().unwrap();
    assert_eq!(undo, "segfs restore --version 3 f");
    m.sh(&format!("{}{}", SEGFS.trim_end_matches("segfs"), undo));
    assert_eq!(fs::read_to_string(m.path("f")).unwrap(), "three\n");
    assert_eq!(fs::metadata(m.path("f")).unwrap().mode() & 0o7777, 0o640);
    assert_eq!(json(&m, &["restore", "f@2", "--to", "copy"])["undo"], "rm copy");
    assert_eq!(fs::read_to_string(m.path("copy")).unwrap(), "two two\n");
    fails(&m, &["restore", "f"], 2, "no version is named");
    fails(&m, &["restore", "f@9"], 3, "the newest is 5");
    fs::create_dir(m.path("d")).unwrap();
    fails(&m, &["restore", "f@1", "--to", "d"], 2, "a directory is there");
    fails(&m, &["restore", "f@1", "--to", "x/y"], 3, "no such directory");
    assert_eq!(m.sh("ls -A"), "copy\nd\nf\n", "nothing is left beside");
}

#[test]
fn undelete_brings_back_what_was_deleted() {
    let m = Mounted::new();
    three(&m);
    fails(&m, &["undelete", "f"], 2, "it is there");
    fs::remove_file(m.path("f")).unwrap();
    ok(&m, &["undelete", "f"]);
    assert_eq!(fs::read_to_string(m.path("f")).unwrap(), "three\n");
    assert_eq!(json(&m, &["log", "f"])["versions"].as_array().unwrap().len(), 4, "one line of history");
    fails(&m, &["undelete", "never"], 3, "no file of this name");
}

#[test]
fn restore_brings_a_whole_tree_back_at_once() {
    let m = Mounted::new();
    m.sh("mkdir -p d/e; echo 1 > d/a; echo 2 > d/e/b; ln d/a d/hard; ln -s a d/soft; mkfifo d/pipe; truncate -s 5M d/sparse; setfattr -n user.x -v y d/a; echo same > d/same");
    fs::File::options().write(true).open(m.path("d/sparse")).unwrap().write_all_at(b"x", 4 << 20).unwrap();
    let name = std::ffi::OsStr::from_bytes(b"d/\xff new\nline");
    write(&m.dir().join(name), "odd");
    m.sh("mkdir ../before && cp -a d ../before/d");
    next_second();
    let then = fs::read_link(m.path(".segfs/at/now")).unwrap().to_str().unwrap().to_owned();
    m.sh("echo changed > d/a; rm -r d/e d/soft; echo new > d/new");
    let dry = json(&m, &["restore", "--dry-run", &format!("d@{then}")]);
    let changes: Vec<String> = dry["changes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|c| format!("{} {}", c["change"].as_str().unwrap(), c["path"].as_str().unwrap_or_default()))
        .collect();
    for wanted in ["change d/a", "make d/e", "make d/e/b", "make d/soft", "remove d/new"] {
        assert!(changes.iter().any(|c| c == wanted), "{wanted} in {changes:?}");
    }
    let done = json(&m, &["restore", &format!("d@{then}")]);
    assert_eq!(m.sh("diff -r -x pipe --no-dereference ../before/d d && test -p d/pipe && ls -A"), "d\n");
    assert_eq!(fs::metadata(m.path("d/a")).unwrap().nlink(), 2);
    assert!(fs::metadata(m.path("d/sparse")).unwrap().blocks() < 100);
    assert_eq!(m.sh("getfattr --only-values -n user.x d/a"), "y");
    assert!(done["unchanged"].as_u64().unwrap() >= 1, "{done}");
    let undo = done["undo"].as_str().unwrap();
    m.sh(&format!("{}{}", SEGFS.trim_end_matches("segfs"), undo));
    assert_eq!(m.sh("ls d | grep -c '^new$'; cat d/a"), "1\nchanged\n");
    ok(&m, &["restore", &format!("d@{then}"), "--to", "other"]);
    assert_eq!(m.sh("diff -r -x pipe --no-dereference ../before/d other && echo same"), "same\n");
    // A directory that is gone.
    m.sh("rm -r d");
    ok(&m, &["restore", &format!("d@{then}")]);
    assert_eq!(m.sh("diff -r -x pipe --no-dereference ../before/d d && echo same"), "same\n");
}

#[test]
fn an_unmounted_store_is_asked_directly() {
    let mut m = Mounted::new();
    three(&m);
    m.sh("mkdir d; echo x > d/gone; rm d/gone");
    let store = m.store();
    let store = store.to_str().unwrap();
    fails(&m, &["log", "--store", store, "f"], 7, "in use");
    fails(&m, &["tag", "add", "--store", store, "t"], 7, "in use");
    fails(&m, &["tag", "rm", "live"], 3, "none of this name");
    fails(&m, &["tag", "add", "a/b"], 2, "named like a file");
    fails(&m, &["tag", "add", "live", "/"], 2, "not in a mount");
    assert_eq!(json(&m, &["tag", "add", "live"])["tags"][0]["name"], "live");
    fails(&m, &["tag", "add", "live"], 2, "already");
    assert_eq!(fs::read_to_string(m.path(".segfs/tags/live/f")).unwrap(), "three\n");
    ok(&m, &["tag", "rm", "live"]);
    assert!(!m.path(".segfs/tags/live").exists());
    m.unmount();
    assert_eq!(json(&m, &["log", "--store", store, "f"])["versions"].as_array().unwrap().len(), 3);
    assert_eq!(ok(&m, &["cat", "--store", store, "/f@2"]), "two two\n");
    ok(&m, &["tag", "add", "--store", store, "before"]);
    fails(&m, &["tag", "add", "--store", store, "before"], 2, "already");
    fails(&m, &["tag", "add", "--store", store, "a/b"], 2, "named like a file");
    fails(&m, &["tag", "rm", "--store", store, "other"], 3, "none of this name");
    assert_eq!(json(&m, &["tag", "list", "--store", store])["tags"][0]["name"], "before");
    ok(&m, &["restore", "--store", store, "f@1"]);
    ok(&m, &["undelete", "--store", store, "d/gone"]);
    assert_eq!(ok(&m, &["cat", "--store", store, "f"]), "one\n");
    assert_eq!(ok(&m, &["cat", "--store", store, "f@tag:before"]), "three\n");
    assert!(ok(&m, &["diff", "--store", store, "f@1", "f@2"]).contains("+two two"));
    m.mount(&[]);
    assert_eq!(json(&m, &["tag", "list"])["tags"][0]["name"], "before");
    assert_eq!(fs::read_to_string(m.path(".segfs/tags/before/f")).unwrap(), "three\n");
    assert_eq!(fs::read_to_string(m.path(".segfs/at/before/f")).unwrap(), "three\n");
    assert_eq!(fs::read_to_string(m.path("d/gone")).unwrap(), "x\n");
    assert_eq!(ok(&m, &["cat", "f@tag:before"]), "three\n");
    m.unmount();
    ok(&m, &["tag", "rm", "--store", store, "before"]);
    assert_eq!(json(&m, &["tag", "list", "--store", store])["tags"].as_array().unwrap().len(), 0);
}

#[test]
fn a_moment_is_mounted_beside_the_present_or_instead() {
    use crate::mount::is_root;
    let mut m = Mounted::new();
    m.sh("mkdir d; echo then > d/f");
    next_second();
    let then = fs::read_link(m.path(".segfs/at/now")).unwrap().to_str().unwrap().to_owned();
    m.sh("echo now > d/f; echo new > d/new");
    let store = m.store().to_str().unwrap().to_owned();
    let other = m.root.path().join("other");
    let other = other.to_str().unwrap();
    fs::create_dir(other).unwrap();
    let check = || {
        assert_eq!(fs::read_to_string(format!("{other}/d/f")).unwrap(), "then\n");
        assert_eq!(fs::read_dir(format!("{other}/d")).unwrap().count(), 1);
        let refused = fs::write(format!("{other}/d/f"), "x").unwrap_err();
        assert_eq!(refused.kind(), std::io::ErrorKind::ReadOnlyFilesystem);
        let refused = fs::write(format!("{other}/x"), "x").unwrap_err();
        assert_eq!(refused.kind(), std::io::ErrorKind::ReadOnlyFilesystem);
    };
    fails(&m, &["mount", "--at", "2999-01-01", &store, other], 2, "yet to come");
    fails(&m, &["mount", "--at", "no-such-tag", &store, other], 3, "no tag");
    if is_root() {
        ok(&m, &["mount", "--at", &then, &store, other]);
        check();
        assert_eq!(fs::read_to_string(m.path("d/f")).unwrap(), "now\n");
        ok(&m, &["umount", other]);
    }
    m.unmount();
    fails(&m, &["mount", "--at", "2020-01-01", &store, other], 3, "nothing of then");
    fails(&m, &["mount", "--at", "no-such-tag", &store, other], 3, "no tag");
    let none = m.root.path().join("none");
    fails(&m, &["mount", "--at", "2h", none.to_str().unwrap(), other], 3, "no store");
    ok(&m, &["mount", "--background", "--at", &then, &store, other]);
    check();
    ok(&m, &["umount", other]);
    m.mount(&[]);
    assert_eq!(fs::read_to_string(m.path("d/f")).unwrap(), "now\n");
}

#[test]
fn every_command_takes_names_of_any_bytes() {
    use std::ffi::{OsStr, OsString};
    let m = Mounted::new();
    let long = [b'l'; 255];
    let names: [&[u8]; 8] =
        [b"a@3", b"@", b"new\nline", b"\xff\xfe", &long, b" ", b"00000001.2026-11-23T02.45.05Z", b"tag:x"];
    let with = |words: &[&str], name: &[u8], version: &str| -> Output {
        let mut arg = OsString::from("./");
        arg.push(OsStr::from_bytes(name));
        arg.push(version);
        Command::new(SEGFS).args(words).arg(arg).current_dir(m.dir()).output().unwrap()
    };
    for name in names {
        let shown = name.escape_ascii();
        let does = |words: &[&str], version: &str| -> Vec<u8> {
            let done = with(words, name, version);
            assert!(done.status.success(), "{shown} {words:?}: {done:?}");
            done.stdout
        };
        let path = m.dir().join(OsStr::from_bytes(name));
        write(&path, "one\n");
        write(&path, "two\n");
        let log: Value = serde_json::from_slice(&does(&["--json", "log"], "")).unwrap();
        assert_eq!(log["versions"].as_array().unwrap().len(), 2, "{shown}");
        assert_eq!(does(&["cat"], "@1"), b"one\n", "{shown}");
        assert_eq!(does(&["cat"], "@-1"), b"one\n", "{shown}");
        let mut old = does(&["path"], "@1");
        assert_eq!(old.pop(), Some(b'\n'));
        assert_eq!(fs::read(OsStr::from_bytes(&old)).unwrap(), b"one\n", "{shown}");
        assert!(does(&["diff"], "@1").windows(5).any(|w| w == b"\n+two"), "{shown}");
        does(&["restore"], "@1");
        assert_eq!(fs::read(&path).unwrap(), b"one\n", "{shown}");
        does(&["hold", "add"], "@2");
        let refused = with(&["purge"], name, "");
        assert_eq!(refused.status.code(), Some(1), "{shown}: {refused:?}");
        does(&["hold", "rm"], "@2");
        fs::remove_file(&path).unwrap();
        does(&["undelete"], "");
        assert_eq!(fs::read(&path).unwrap(), b"one\n", "{shown}");
        does(&["retain", "show"], "");
        does(&["purge"], "@2");
        does(&["purge"], "");
        assert!(!path.exists(), "{shown}");
    }
    assert_eq!(fs::read_dir(m.dir()).unwrap().count(), 0, "nothing is left beside");
}
