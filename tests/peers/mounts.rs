//! Real mounts that keep each other in sync over loopback, told to by the commands that a person types.

use std::{
    fs, io,
    os::fd::AsRawFd as _,
    path::Path,
    process::{Command, Output},
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::mount::{Mounted, segfs};

pub(super) fn json(done: &Output) -> Value {
    assert!(done.status.success(), "{done:?}");
    serde_json::from_slice(&done.stdout).unwrap_or_else(|e| panic!("{e}: {done:?}"))
}

/// A command about the store of a mount.
pub(super) fn of(m: &Mounted, words: &[&str]) -> Output {
    let store = m.store();
    segfs(&[&["--json"], words, &["--store", store.to_str().unwrap()]].concat())
}

#[track_caller]
pub(super) fn within(seconds: u64, what: &str, mut done: impl FnMut() -> bool) -> Duration {
    let began = Instant::now();
    while !done() {
        assert!(began.elapsed() < Duration::from_secs(seconds), "not within {seconds} s: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
    began.elapsed()
}

/// Pairs two mounts, of which the first listens, and adds a rule on the first.
pub(super) fn pair(a: &Mounted, b: &Mounted) -> (String, String) {
    let invite = json(&of(a, &["peer", "invite", "--grant", "/:two-way"]));
    let (code, at) = (invite["code"].as_str().unwrap(), invite["listens"].as_str().unwrap());
    let join = json(&of(b, &["peer", "join", at, code, "--grant", "/:two-way", "--as", "a"]));
    assert_eq!((&join["name"], &join["may"]), (&"a".into(), &"two-way".into()));
    let peers = json(&of(a, &["peer", "list"]));
    let name = peers["peers"][0]["name"].as_str().unwrap();
    json(&of(a, &["replicate", "add", "all", "--to", &format!("peer:{name}"), "--two-way"]));
    (code.to_owned(), at.to_owned())
}

/// Everything of a tree: paths, kinds, modes, contents.
fn tree(dir: &Path) -> Vec<(String, u32, Vec<u8>)> {
    try_tree(dir).unwrap()
}

fn try_tree(dir: &Path) -> io::Result<Vec<(String, u32, Vec<u8>)>> {
    use std::os::unix::fs::MetadataExt as _;
    let mut all = Vec::new();
    let mut todo = vec![dir.to_owned()];
    while let Some(at) = todo.pop() {
        for e in fs::read_dir(&at)? {
            let e = e?;
            let (path, meta) = (e.path(), e.metadata()?);
            let name = path.strip_prefix(dir).unwrap().to_str().unwrap().to_owned();
            let bytes = if meta.is_file() { fs::read(&path)? } else { Vec::new() };
            if meta.is_dir() {
                todo.push(path);
            }
            all.push((name, meta.mode(), bytes));
        }
    }
    all.sort();
    Ok(all)
}

/// Ids and creation times of all versions of the files in a tree, by path.
fn versions(m: &Mounted) -> Vec<(String, String, u64)> {
    let mut all = Vec::new();
    for (name, mode, _) in tree(&m.dir()) {
        if mode & 0o170_000 == 0o100_000 {
            let told = json(&segfs(&["--json", "log", m.path(&name).to_str().unwrap()]));
            let list = told["versions"].as_array().unwrap_or_else(|| panic!("{told}"));
            assert!(!list.is_empty(), "{told}");
            for v in list {
                let id = v["id"].as_str().unwrap_or_else(|| panic!("{v}")).to_owned();
                all.push((name.clone(), id, v["creation_time_ns"].as_u64().unwrap_or_else(|| panic!("{v}"))));
            }
        }
    }
    all.sort();
    all
}

/// Everything of a mount, if nothing changed while it was looked at: the tree, and ids and creation times of all versions.
type Look = (Vec<(String, u32, Vec<u8>)>, Vec<(String, String, u64)>);

fn look(m: &Mounted) -> Option<Look> {
    let before = try_tree(&m.dir()).ok()?;
    let mut all = Vec::new();
    for (name, mode, _) in &before {
        if mode & 0o170_000 == 0o100_000 {
            let done = segfs(&["--json", "log", m.path(name).to_str().unwrap()]);
            let told: Value = serde_json::from_slice(&done.stdout).ok()?;
            for v in told["versions"].as_array()? {
                all.push((name.clone(), v["id"].as_str()?.to_owned(), v["creation_time_ns"].as_u64()?));
            }
        }
    }
    all.sort();
    Some((before, all))
}

/// Waits until two mounts show the same, and stay so: trees, and ids and creation times of all versions.
#[track_caller]
pub(super) fn agree_both(a: &Mounted, b: &Mounted) {
    let same = || {
        let trees = [a, b].map(|m| try_tree(&m.dir()).ok());
        trees[0].is_some() && trees[0] == trees[1] && {
            let looks = [a, b].map(look);
            looks[0].is_some() && looks[0] == looks[1]
        }
    };
    let began = Instant::now();
    while !(same() && {
        std::thread::sleep(Duration::from_millis(300));
        same()
    }) {
        if began.elapsed() > Duration::from_secs(60) {
            let told =
                [a, b].map(|m| (json(&of(m, &["peer", "list"])), json(&of(m, &["replicate", "status"]))));
            panic!("not the same on both within 60 s: {}\n{told:#?}", differences(look(a), look(b)));
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// What only one of two looks has.
fn differences(a: Option<Look>, b: Option<Look>) -> String {
    let (Some(a), Some(b)) = (a, b) else { return "one of them still changes".into() };
    let mut all = String::new();
    for (side, this, other) in [("first", &a, &b), ("second", &b, &a)] {
        for (name, mode, bytes) in this.0.iter().filter(|e| !other.0.contains(e)) {
            all += &format!("\nonly the {side}: {name} {mode:o} with {} bytes", bytes.len());
        }
        for (name, id, ns) in this.1.iter().filter(|e| !other.1.contains(e)) {
            all += &format!("\nonly the {side}: {name}, version {id} of {ns}");
        }
    }
    all
}

/// Waits until nothing is under way, and compares everything.
#[track_caller]
pub(super) fn agree(a: &Mounted, b: &Mounted) {
    within(40, "up to date", || {
        let told = json(&of(a, &["replicate", "status"]));
        let rule = &told["rules"][0];
        rule["state"] == "up to date"
            && told["would_lose"]["operations"] == 0
            && tree(&a.dir()) == tree(&b.dir())
    });
    assert_eq!(versions(a), versions(b));
}

#[test]
fn two_mounts_show_each_others_changes_at_once() {
    let a = Mounted::with(&["--listen", "127.0.0.1:0"]);
    let b = Mounted::new();
    fs::create_dir(a.path("d")).unwrap();
    fs::write(a.path("d/f"), "one").unwrap();
    let (code, at) = pair(&a, &b);
    within(20, "what was there", || fs::read(b.path("d/f")).is_ok_and(|s| s == b"one"));
    // A code works once, and says so.
    let again = of(&b, &["peer", "join", &at, &code, "--grant", "/:two-way"]);
    assert_eq!(again.status.code(), Some(3), "{again:?}");
    assert!(String::from_utf8_lossy(&again.stderr).contains("codes work once"), "{again:?}");
    // What the kernel keeps of contents, names and listings, also of directories held open, is not what it was.
    let held = fs::File::open(b.path("d")).unwrap();
    let listed = || {
        let names = fs::read_dir(format!("/proc/self/fd/{}", held.as_raw_fd())).unwrap();
        let mut names: Vec<_> = names.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    };
    assert_eq!(listed(), ["f"]);
    fs::write(a.path("d/f"), "two, and longer").unwrap();
    let took = within(10, "new content", || fs::read(b.path("d/f")).unwrap() == b"two, and longer");
    println!("content after {took:?}");
    fs::write(a.path("d/g"), "g").unwrap();
    within(10, "a new name in a directory held open", || listed() == ["f", "g"]);
    fs::rename(a.path("d/g"), a.path("d/h")).unwrap();
    within(10, "a rename", || listed() == ["f", "h"]);
    assert_eq!(fs::metadata(b.path("d/g")).unwrap_err().kind(), io::ErrorKind::NotFound);
    fs::remove_file(b.path("d/h")).unwrap();
    within(10, "a removal, the other way", || !a.path("d/h").exists());
    fs::write(b.path("d/of b"), "from b").unwrap();
    within(10, "the other way", || fs::read(a.path("d/of b")).is_ok_and(|s| s == b"from b"));
    agree(&a, &b);
}

/// Somebody who waits for a file asks for it while it comes: what the kernel is told then must not outlive the change.
#[test]
fn each_of_many_small_files_shows_to_somebody_who_waits_for_it() {
    let a = Mounted::with(&["--listen", "127.0.0.1:0"]);
    let b = Mounted::new();
    fs::create_dir(a.path("d")).unwrap();
    pair(&a, &b);
    within(20, "the directory", || b.path("d").exists());
    let mut all = Vec::new();
    for n in 0..1000 {
        let (name, bytes) = (format!("d/f{n}"), [n as u8; 4096]);
        fs::write(a.path(&name), bytes).unwrap();
        let there = b.path(&name);
        all.push(within(10, &name, || fs::read(&there).is_ok_and(|s| s == bytes)));
    }
    all.sort();
    println!("median {:?}, most {:?}", all[500], all[999]);
    agree(&a, &b);
}

#[test]
fn what_both_change_while_apart_is_kept_on_both() {
    let a = Mounted::with(&["--listen", "127.0.0.1:0"]);
    let b = Mounted::new();
    fs::write(a.path("f"), "base").unwrap();
    pair(&a, &b);
    within(20, "what was there", || fs::read(b.path("f")).is_ok_and(|s| s == b"base"));
    json(&of(&a, &["replicate", "pause", "all"]));
    fs::write(a.path("f"), "changed by a").unwrap();
    fs::write(b.path("f"), "changed by b").unwrap();
    fs::write(a.path("only a"), "1").unwrap();
    fs::write(b.path("only b"), "2").unwrap();
    std::thread::sleep(Duration::from_millis(1500));
    assert!(!b.path("only a").exists() && !a.path("only b").exists(), "paused");
    let told = json(&of(&a, &["replicate", "status"]));
    assert_eq!(told["rules"][0]["state"], "paused");
    assert!(told["rules"][0]["operations_pending"].as_u64().unwrap() > 0, "{told}");
    json(&of(&a, &["replicate", "resume", "all"]));
    agree(&a, &b);
    assert_eq!(versions(&a).iter().filter(|v| v.0 == "f").count(), 3, "both changes and what was before");
}

#[test]
fn a_killed_host_comes_back_and_catches_up() {
    let mut a = Mounted::with(&["--listen", "127.0.0.1:0"]);
    let mut b = Mounted::new();
    let (_, at) = pair(&a, &b);
    for n in 0..200 {
        fs::write(a.path(&format!("f{n}")), format!("{n}")).unwrap();
        if n == 100 {
            b.kill();
            segfs(&["umount", "--lazy", b.dir().to_str().unwrap()]);
        }
    }
    b.mount(&[]);
    agree(&a, &b);
    for n in 0..100 {
        fs::write(b.path(&format!("g{n}")), format!("{n}")).unwrap();
        if n == 50 {
            a.kill();
            segfs(&["umount", "--lazy", a.dir().to_str().unwrap()]);
        }
    }
    a.mount(&["--listen", &at]);
    agree(&a, &b);
}

#[test]
fn a_mount_that_peers_can_not_be_served_on_is_not_there_at_all() {
    let a = Mounted::with(&["--listen", "127.0.0.1:0"]);
    let told = json(&of(&a, &["peer", "invite", "--grant", "/:two-way"]));
    let (code, at) = (told["code"].as_str().unwrap(), told["listens"].as_str().unwrap());
    let root = tempfile::tempdir().unwrap();
    let (store, dir) = (root.path().join("s"), root.path().join("m"));
    let mount = |words: &[&str]| {
        let paths = [store.to_str().unwrap(), dir.to_str().unwrap()];
        let done = segfs(&[&["--json", "mount", "--background"], words, &paths].concat());
        let mounted = fs::metadata(&dir).is_ok_and(|m| {
            use std::os::unix::fs::MetadataExt as _;
            m.dev() != fs::metadata(root.path()).unwrap().dev()
        });
        assert_eq!(mounted, done.status.success(), "{words:?}: {done:?}");
        if mounted {
            assert!(segfs(&["umount", dir.to_str().unwrap()]).status.success());
        }
        (
            done.status.code().unwrap(),
            String::from_utf8_lossy(&[done.stdout, done.stderr].concat()).into_owned(),
        )
    };
    // In use: at once, and nothing is left of what was made on the way.
    let (status, said) = mount(&["--listen", at]);
    assert!(status == 7 && said.contains(at) && said.contains("somebody else listens there"), "{said}");
    assert!(!store.exists() && !dir.exists());
    // An address of documentation, which no machine has.
    let (status, said) = mount(&["--listen", "192.0.2.1:7420"]);
    assert!(status == 1 && said.contains("does not have that address"), "{said}");
    let (status, said) = mount(&["-o", "ro", "--listen", "127.0.0.1:0"]);
    assert!(status == 2 && said.contains("read-only"), "{said}");
    let (status, said) = mount(&["-o", "writeback", "--listen", "127.0.0.1:0"]);
    assert!(status == 2 && said.contains("writeback"), "{said}");
    // The same where the file says that there are peers.
    assert_eq!(mount(&[]).0, 0);
    let store_word = store.to_str().unwrap();
    json(&segfs(&["--json", "peer", "join", at, code, "--grant", "/:two-way", "--store", store_word]));
    let (status, said) = mount(&["-o", "writeback"]);
    assert!(status == 2 && said.contains("writeback"), "{said}");
    let (status, said) = mount(&["-o", "ro"]);
    assert!(status == 0 && said.contains("nothing is exchanged"), "{said}");
    assert_eq!(mount(&[]).0, 0);
    // And a mount where the kernel collects writes takes none.
    let m = Mounted::with(&["-o", "writeback"]);
    for words in
        [&["peer", "invite", "--grant", "/:two-way"][..], &["peer", "join", at, code, "--grant", "/:two-way"]]
    {
        let done = of(&m, words);
        assert_eq!(done.status.code(), Some(2), "{done:?}");
        assert!(String::from_utf8_lossy(&done.stderr).contains("writeback"), "{done:?}");
    }
}

#[test]
fn a_copied_store_does_not_join_the_one_it_was_copied_from() {
    let mut a = Mounted::with(&["--listen", "127.0.0.1:0"]);
    let id = json(&of(&a, &["peer", "id"]));
    a.unmount();
    let root = tempfile::tempdir().unwrap();
    let store = root.path().join("store");
    let copied = Command::new("cp").arg("-a").arg(a.store()).arg(&store).status().unwrap();
    assert!(copied.success());
    a.mount(&["--listen", "127.0.0.1:0"]);
    let told = json(&of(&a, &["peer", "invite", "--grant", "/:two-way"]));
    let (code, at) = (told["code"].as_str().unwrap(), told["listens"].as_str().unwrap());
    let copy = Mounted::with_store(root, store, &[]);
    let done = of(&copy, &["peer", "join", at, code, "--grant", "/:two-way"]);
    assert_eq!(done.status.code(), Some(2), "{done:?}");
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(said.contains("a copy of the other") && said.contains(id["id"].as_str().unwrap()), "{said}");
    assert!(said.contains("segfs init"), "{said}");
    // With a key of its own it is refused for its store's id.
    let mut copy = copy;
    copy.unmount();
    fs::remove_dir_all(copy.store().join("keys")).unwrap();
    copy.mount(&[]);
    let done = of(&copy, &["peer", "join", at, code, "--grant", "/:two-way", "--as", "a"]);
    assert!(!done.status.success(), "{done:?}");
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(said.contains("a copy of the other") && said.contains("segfs init"), "{said}");
    assert_eq!(json(&of(&copy, &["peer", "list"]))["peers"], serde_json::json!([]));
    fs::write(copy.path("f"), "1").unwrap();
    std::thread::sleep(Duration::from_millis(500));
    assert!(!a.path("f").exists());
}

#[test]
fn what_is_not_carried_out_is_refused() {
    let m = Mounted::new();
    for (words, code, says) in [
        (&["replicate", "add", "x", "--to", "peer:b", "--two-way"][..], 3, "no peer called b"),
        (&["replicate", "add", "x", "--to", "peer:b"], 2, "two-way"),
        (&["replicate", "add", "x", "--to", "s3:b", "--two-way"], 2, "peer"),
        (&["replicate", "add", "x", "--to", "peer:b", "--two-way", "--prefix", "/p"], 2, "whole store"),
        (&["peer", "invite", "--grant", "/photos:two-way"], 2, "whole store"),
        (&["peer", "invite", "--grant", "/:all"], 2, "no grant"),
        (&["peer", "rm", "nobody"], 3, "no peer called nobody"),
        (&["peer", "join", "127.0.0.1:1", "abc", "--grant", "/:two-way"], 2, "not one"),
        (&["replicate", "rm", "x"], 3, "no rule called x"),
        (&["replicate", "pause", "x"], 3, "no such rule"),
    ] {
        let done = of(&m, words);
        assert_eq!(done.status.code(), Some(code), "{words:?}: {done:?}");
        assert!(String::from_utf8_lossy(&done.stderr).contains(says), "{words:?}: {done:?}");
    }
    // Of a store that nobody has open, the same commands change the file.
    let id = json(&of(&m, &["peer", "id"]));
    let mut m = m;
    m.unmount();
    assert_eq!(json(&of(&m, &["peer", "id"])), id);
    assert_eq!(json(&of(&m, &["peer", "list"]))["peers"], serde_json::json!([]));
    m.mount(&[]);
}
