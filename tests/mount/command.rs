//! What the program says and does when something is not as it should be, and that it changes nothing then.

use std::{
    fs,
    process::{Command, Output},
};

use super::{Mounted, SEGFS, is_root, segfs, write};

#[track_caller]
fn fails(done: &Output, code: i32, says: &str) {
    let said = String::from_utf8_lossy(&done.stderr);
    assert_eq!(done.status.code(), Some(code), "{said}");
    assert!(said.contains(says), "{said}");
    assert!(said.contains("next:"), "{said}");
}

#[test]
fn a_bad_mountpoint_is_refused_and_nothing_is_made() {
    let root = tempfile::tempdir().unwrap();
    let at = |name: &str| root.path().join(name).to_str().unwrap().to_owned();
    write(&root.path().join("file"), "");
    fs::create_dir(root.path().join("full")).unwrap();
    write(&root.path().join("full/x"), "");
    let mount = |dir: &str| segfs(&["mount", &at("store"), &at(dir)]);
    fails(&mount("file"), 2, "not a directory");
    fails(&mount("full"), 2, "not empty");
    fails(&mount("store/mnt"), 2, "inside each other");
    fails(&segfs(&["mount", "-o", "ro,colour=red", &at("store"), &at("new")]), 2, "colour=red");
    fails(&segfs(&["mount", &at("full"), &at("new")]), 2, "not a segfs store");
    fails(&segfs(&["frobnicate"]), 2, "frobnicate");
    fails(&segfs(&["umount", &at("full")]), 3, "no segfs is mounted");
    fails(&segfs(&["status", &at("full")]), 3, "neither");
    assert!(!root.path().join("store").exists() && !root.path().join("new").exists());
    let done = segfs(&["--json", "mount", &at("store"), &at("file")]);
    let said: serde_json::Value = serde_json::from_slice(&done.stderr).unwrap();
    assert_eq!(said["error"]["code"], "usage");
    assert_eq!(said["error"]["why"], "it is not a directory");
}

#[test]
fn a_store_in_use_is_refused_with_who_and_where() {
    let m = Mounted::new();
    let (store, dir) = (m.store(), m.dir());
    let (store, dir) = (store.to_str().unwrap(), dir.to_str().unwrap());
    let pid = m.daemon.as_ref().unwrap().id().to_string();
    let other = m.root.path().join("other");
    let done = segfs(&["mount", store, other.to_str().unwrap()]);
    fails(&done, 7, &pid);
    fails(&done, 7, dir);
    assert!(!other.exists());
    fails(&segfs(&["mount", other.to_str().unwrap(), dir]), 7, "mounted there already");
    let said = segfs(&["status", "--json", dir]);
    let said: serde_json::Value = serde_json::from_slice(&said.stdout).unwrap();
    assert_eq!(said["state"], "mounted");
    assert_eq!(said["store"], store);
    let inside = fs::File::create(m.path("open")).unwrap();
    fails(&segfs(&["umount", dir]), 7, "file open");
    drop(inside);
}

#[test]
fn a_signal_unmounts_cleanly() {
    let mut m = Mounted::new();
    write(&m.path("f"), "kept");
    let mut daemon = m.daemon.take().unwrap();
    let pid = rustix::process::Pid::from_child(&daemon);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert!(daemon.wait().unwrap().success());
    assert!(fs::read_dir(m.dir()).unwrap().next().is_none());
    m.mount(&["-o", "ro"]);
    assert_eq!(fs::read_to_string(m.path("f")).unwrap(), "kept");
    let refused = fs::write(m.path("f"), "x").unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ReadOnlyFilesystem);
}

#[test]
fn in_the_background_it_returns_once_it_answers() {
    let root = tempfile::tempdir().unwrap();
    let store = root.path().join("store");
    let guard = Mounted { root, store, daemon: None };
    // As mount(8) calls it; the output is a pipe here, which the daemon must not hold open.
    let done = Command::new(SEGFS).arg(guard.store()).arg(guard.dir()).args(["-o", "rw"]).output().unwrap();
    assert!(done.status.success(), "{done:?}");
    write(&guard.path("f"), "x");
    if is_root() {
        let again = |options: &str| {
            let done = Command::new(SEGFS).arg(guard.store()).arg(guard.dir()).args(["-o", options]).output();
            assert!(done.unwrap().status.success());
        };
        again("remount,ro,user_id=0");
        assert!(fs::write(guard.path("f"), "y").is_err());
        again("remount,rw");
        fs::write(guard.path("f"), "y").unwrap();
    }
    let done = segfs(&["umount", guard.dir().to_str().unwrap()]);
    assert!(done.status.success(), "{done:?}");
    // Closed when umount returns.
    drop(segfs::store::Store::open(&guard.store(), segfs::store::Options::default()).unwrap());
}
