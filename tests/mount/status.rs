//! `segfs status` of mounts and stores in every state, and that it never hangs.

use std::{
    fs::{self, File},
    io::Read as _,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use super::{Mounted, SEGFS, segfs, write};
use crate::segtool::segtool;

#[track_caller]
fn status(at: &str, code: i32) -> Value {
    let done = segfs(&["status", "--json", at]);
    let said = String::from_utf8_lossy(&done.stderr);
    assert_eq!(done.status.code(), Some(code), "{at}: {said}");
    serde_json::from_slice(&done.stdout).unwrap_or_else(|e| panic!("{at}: {e}: {said}"))
}

#[test]
fn a_mount_tells_how_it_stands_and_the_closed_store_agrees() {
    let mut m = Mounted::new();
    let (store, dir) = (m.store(), m.dir());
    let (store, dir) = (store.to_str().unwrap(), dir.to_str().unwrap());
    write(&m.path("f"), "one");
    write(&m.path("g"), "two");
    fs::create_dir(m.path("d")).unwrap();
    let open = File::open(m.path("f")).unwrap();
    // Closing a file is told to the mount a moment after close returned.
    let since = Instant::now();
    let s = loop {
        let s = status(dir, 0);
        if s["versions"] == 2 && s["doing"]["open_files"] == 1 && s["objects"] == 3 {
            break s;
        }
        assert!(since.elapsed() < Duration::from_secs(20), "{s:#}");
    };
    assert_eq!((&s["state"], &s["stopped"]), (&json!("mounted"), &Value::Null), "{s:#}");
    assert_eq!((&s["mountpoint"], &s["store"]), (&json!(dir), &json!(store)));
    assert_eq!(s["process"], json!(m.daemon.as_ref().unwrap().id()));
    assert!(s["doing"]["requests_answered"].as_u64().unwrap() > 5, "{s:#}");
    assert!(s["options"].as_str().unwrap().split(',').any(|o| o == "rw"), "{s:#}");
    drop(open);
    // The same by the store, and by a path inside.
    for at in [store.to_owned(), format!("{dir}/d"), format!("{dir}/f")] {
        let same = status(&at, 0);
        for part in ["state", "mountpoint", "store", "id", "process", "since_ns"] {
            assert_eq!(same[part], s[part], "{at}: {part}");
        }
    }
    // Text has the same things in the same order.
    let text = String::from_utf8(segfs(&["status", dir]).stdout).unwrap();
    let labels: Vec<&str> =
        text.lines().filter(|l| !l.starts_with(' ')).filter_map(|l| l.split_whitespace().next()).collect();
    let names = s.as_object().unwrap().iter().filter(|(n, v)| !v.is_null() && *n != "since_ns");
    assert_eq!(labels, names.map(|(n, _)| n.as_str()).collect::<Vec<_>>(), "{text}");
    // segtool asks the mount: it knows the index.
    let stat = segtool(&m.store(), &["stat", "STORE", "--json"]).ends_with(0).json();
    assert_eq!((&stat["in_use"], &stat["versions"]), (&json!(true), &json!(2)));
    assert!(stat["index"]["bytes"].is_u64(), "{stat:#}");
    let found = segtool(&m.store(), &["verify", "STORE", "--json"]).ends_with(0).json();
    assert_eq!(found["index"]["state"], "equal", "{found:#}");
    m.unmount();
    let closed = status(store, 0);
    assert_eq!((&closed["state"], &closed["process"]), (&json!("closed"), &Value::Null), "{closed:#}");
    for part in ["id", "versions", "objects"] {
        assert_eq!(closed[part], s[part], "{part}");
    }
    assert_eq!(closed["bytes"]["as_of_lsn"], closed["log"]["last_lsn"]);
    assert_eq!(closed["log"]["flushed_lsn"], closed["log"]["last_lsn"]);
    // A mount that only reads has no socket: it is looked at as a closed store is.
    m.mount(&["-o", "ro"]);
    let s = status(dir, 0);
    assert_eq!((&s["state"], &s["versions"]), (&json!("mounted"), &json!(2)), "{s:#}");
    assert!(s["options"].as_str().unwrap().starts_with("ro,"), "{s:#}");
    m.unmount();
    assert!(!m.store().join("control.sock").exists());
}

#[test]
fn a_mount_that_is_stopped_or_dead_is_told_and_not_waited_for() {
    let mut m = Mounted::new();
    let (store, dir) = (m.store(), m.dir());
    let (store, dir) = (store.to_str().unwrap().to_owned(), dir.to_str().unwrap().to_owned());
    write(&m.path("f"), "x");
    let pid = Pid::from_child(m.daemon.as_ref().unwrap());
    kill_process(pid, Signal::STOP).unwrap();
    for at in [dir.clone(), store.clone(), format!("{dir}/not/asked/before")] {
        let since = Instant::now();
        let s = status(&at, 1);
        assert!(since.elapsed() < Duration::from_secs(20), "{at}: {:?}", since.elapsed());
        assert_eq!(
            (&s["state"], &s["process"]),
            (&json!("not answering"), &json!(m.daemon.as_ref().unwrap().id()))
        );
    }
    // Nor does mounting there, or the store elsewhere, hang on it.
    let other = m.root.path().join("other");
    let done = segfs(&["mount", &store, other.to_str().unwrap()]);
    assert_eq!(done.status.code(), Some(7), "{done:?}");
    let done = segfs(&["mount", other.to_str().unwrap(), &dir]);
    assert_eq!(done.status.code(), Some(7), "{done:?}");
    // segtool falls back to the log.
    let stat = segtool(&m.store(), &["stat", "STORE", "--json"]).ends_with(0).json();
    assert_eq!((&stat["in_use"], &stat["index"]["bytes"]), (&json!(true), &Value::Null), "{stat:#}");
    kill_process(pid, Signal::CONT).unwrap();
    assert_eq!(status(&dir, 0)["state"], "mounted");
    m.kill();
    let done = segfs(&["status", &dir]);
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(said.contains("is dead") && said.contains(&format!("segfs mount {store} {dir}")), "{said}");
    let s = status(&dir, 1);
    assert_eq!(
        (&s["state"], &s["process"], &s["objects"]),
        (&json!("dead"), &Value::Null, &json!(1)),
        "{s:#}"
    );
    // The socket that it left is replaced.
    assert!(m.store().join("control.sock").exists());
    m.mount(&[]);
    assert_eq!(status(&dir, 0)["state"], "mounted");
    m.unmount();
}

#[test]
fn a_store_that_another_program_holds_is_in_use() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("store");
    let store = segfs::store::Store::create(&path, segfs::store::Options::default()).unwrap();
    let s = status(path.to_str().unwrap(), 0);
    assert_eq!((&s["state"], &s["process"]), (&json!("in use"), &json!(std::process::id())));
    assert_eq!(s["id"], json!(store.id().to_string()));
}

#[test]
fn a_recovery_that_takes_long_shows_its_progress() {
    let mut m = Mounted::new();
    for n in 0..60 {
        write(&m.path(&format!("f{n}")), "x");
    }
    m.sh("sync -f . || true; echo x > last; sync last");
    m.kill();
    // Each read takes a while.
    let mut command = Command::new("strace");
    command.args(["-f", "-o", "/dev/null", "-e", "trace=pread64", "-e", "inject=pread64:delay_exit=15000"]);
    command.arg(SEGFS).args(["mount", "--json"]).arg(m.store()).arg(m.dir());
    let mut daemon = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let (mut out, mut err) = (daemon.stdout.take().unwrap(), daemon.stderr.take().unwrap());
    m.daemon = Some(daemon);
    // It says where it is mounted once it is.
    let mut first = [0; 1];
    out.read_exact(&mut first).unwrap();
    assert!(segfs(&["umount", m.dir().to_str().unwrap()]).status.success());
    assert!(m.daemon.take().unwrap().wait().unwrap().success());
    let mut said = String::new();
    err.read_to_string(&mut said).unwrap();
    // A tracer says things of its own on a machine under load.
    let last =
        said.lines().rfind(|line| line.starts_with('{')).unwrap_or_else(|| panic!("no progress: {said}"));
    let told = serde_json::from_str::<Value>(last).unwrap_or_else(|e| panic!("{e}: {said}"));
    let p = &told["progress"];
    assert_eq!(p["what"], "recovering the store", "{said}");
    let (done, total) = (p["done"].as_u64().unwrap(), p["total"].as_u64().unwrap());
    assert!(0 < done && done <= total && total > 100, "{said}");
    assert!(p["per_second"].is_u64() && p["eta_seconds"].is_u64(), "{said}");
}
