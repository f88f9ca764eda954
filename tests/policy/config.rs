//! `config.toml`: read strictly, changed by commands and by hand, replaced as a whole.

use std::{
    fs,
    path::Path,
    sync::{Arc, Mutex},
};

use segfs::{
    config::{self, Edit},
    disk::Disk,
    store::Policy,
};

use super::{json, ok, refused, text};
use crate::{
    mount::{Mounted, segfs, write},
    sim::disk::SimDisk,
};

fn file(m: &Mounted) -> std::path::PathBuf {
    m.store().join("config.toml")
}

#[test]
fn a_new_store_says_what_it_keeps() {
    let root = tempfile::tempdir().unwrap();
    let store = root.path().join("store");
    ok(&["init", text(&store)]);
    let said = fs::read_to_string(store.join("config.toml")).unwrap();
    assert!(said.contains("[path.\"/\"]") && said.starts_with("# "), "{said}");
    let shown = json(&["retain", "show", "--store", text(&store)]);
    assert_eq!(shown["rules"][0]["path"], "/");
    assert_eq!(shown["rules"][0]["keep"], "thin=30d:all,365d:1d,:30d");
    assert_eq!((&shown["history_yields"], &shown["file"]), (&true.into(), &true.into()));
}

#[test]
fn a_rule_is_set_through_the_mount_and_stays() {
    let mut m = Mounted::new();
    m.sh("mkdir -p docs build; echo a > docs/f; echo b > build/f; echo c > f");
    let mine = "# mine\n[path.'/docs'] # those that count\nkeep = 'all' # for ever\n";
    fs::write(file(&m), mine).unwrap();
    // By hand: nothing is taken in before somebody says so.
    let rule = |m: &Mounted, name: &str| json(&["retain", "show", text(&m.path(name))])["rules"][0].clone();
    assert_eq!(rule(&m, "docs/f")["keep_rule"], "/");
    ok(&["retain", "reload", text(&m.dir())]);
    assert_eq!(
        (&rule(&m, "docs/f")["keep"], &rule(&m, "docs/f")["keep_rule"]),
        (&"all".into(), &"/docs".into())
    );
    assert_eq!(rule(&m, "f")["keep_rule"], serde_json::Value::Null);
    // By command: the rest of the file stays as it is.
    ok(&["retain", "set", text(&m.path("build")), "--keep", "last=2", "--versions", "never"]);
    ok(&["retain", "set", text(&m.path("docs/new")), "--keep", "age=7d"]);
    let said = fs::read_to_string(file(&m)).unwrap();
    assert!(said.starts_with(mine), "{said}");
    assert!(said.contains("[path.\"/build\"]\nversions = \"never\"\nkeep = { last = 2 }\n"), "{said}");
    assert!(!m.store().join("config.toml.next").exists());
    for _ in 0..2 {
        let build = rule(&m, "build/f");
        assert_eq!((&build["keep"], &build["versions"]), (&"last=2".into(), &"never".into()));
        assert_eq!((&build["keep_rule"], &build["versions_rule"]), (&"/build".into(), &"/build".into()));
        assert_eq!(
            (&rule(&m, "docs/f")["versions"], &rule(&m, "docs/f")["keep"]),
            (&"close".into(), &"all".into())
        );
        m.unmount();
        m.mount(&[]);
    }
    let shown = ok(&["retain", "show", text(&m.path("build/f"))]);
    assert!(shown.contains("last=2") && shown.contains("by the rule for /build"), "{shown}");
    ok(&["retain", "clear", text(&m.path("build"))]);
    assert_eq!(rule(&m, "build/f")["versions_rule"], serde_json::Value::Null);
    assert_eq!(fs::read_to_string(file(&m)).unwrap().matches("[path").count(), 2);
    m.unmount();
    // And of a store that nobody has mounted.
    let store = m.store();
    ok(&["retain", "set", "--store", text(&store), "/build/", "--keep", "never"]);
    let all = json(&["retain", "show", "--store", text(&store)]);
    assert_eq!((&all["rules"][0]["path"], &all["rules"][0]["keep"]), (&"/build".into(), &"never".into()));
    let one = json(&["retain", "show", "--store", text(&store), "build/f"]);
    assert_eq!(one["rules"][0]["keep"], "never");
}

#[test]
fn what_is_wrong_with_a_rule_is_said() {
    let m = Mounted::new();
    write(&m.path("f"), "x");
    let before = fs::read(file(&m)).unwrap();
    let set = |args: &[&str]| segfs(&[&["retain", "set", text(&m.path("f"))], args].concat());
    refused(&set(&["--keep", "everything"]), 2, "thin=30d:all");
    refused(&set(&["--keep", "last=0"]), 2, "at least 1");
    refused(&set(&["--versions", "every=0s"]), 2, "such as");
    refused(&set(&[]), 2, "--keep");
    refused(&segfs(&["retain", "set", text(&m.path(".segfs/at")), "--keep", "all"]), 2, "history");
    refused(&segfs(&["retain", "set", "/etc", "--keep", "all"]), 2, "not in a mount");
    refused(&segfs(&["retain", "show", text(&m.path("nothing"))]), 3, "no such file");
    refused(&segfs(&["retain", "show", "/etc/passwd"]), 2, "not in the present");
    refused(&segfs(&["retain", "clear", text(&m.path("f"))]), 3, "no rule for /f");
    refused(&segfs(&["retain", "set", "--store", text(&m.store()), "/x", "--keep", "all"]), 7, "in use");
    assert_eq!(fs::read(file(&m)).unwrap(), before);
}

#[test]
fn a_store_whose_file_is_broken_is_not_written_to() {
    let mut m = Mounted::new();
    write(&m.path("f"), "x");
    let good = fs::read(file(&m)).unwrap();
    fs::write(file(&m), "[path.'/']\nkeep = { last = 3 }\nkep = 'all'\n").unwrap();
    // The mount that runs goes on with what it has.
    refused(&segfs(&["retain", "reload", text(&m.dir())]), 2, "line 3, column 1");
    refused(&segfs(&["retain", "set", text(&m.path("f")), "--keep", "all"]), 2, "line 3, column 1");
    assert_eq!(
        json(&["retain", "show", text(&m.path("f"))])["rules"][0]["keep"],
        "thin=30d:all,365d:1d,:30d"
    );
    m.unmount();
    let (store, dir) = (m.store(), m.dir());
    let broken = fs::read(file(&m)).unwrap();
    for args in [
        &["mount", text(&store), text(&dir)][..],
        &["mount", "--background", text(&store), text(&dir)],
        &["log", "--store", text(&store), "f"],
        &["tag", "add", "--store", text(&store), "now"],
        &["retain", "set", "--store", text(&store), "/", "--keep", "all"],
    ] {
        let done = segfs(args);
        refused(&done, 2, "line 3, column 1: [path.\"/\"] has no setting \"kep\"; known are: keep, versions");
        refused(&done, 2, "config.toml");
    }
    assert_eq!(fs::read(file(&m)).unwrap(), broken);
    // To look at it, nothing has to be known of what is kept.
    m.mount(&["-o", "ro"]);
    assert_eq!(fs::read(m.path("f")).unwrap(), b"x");
    m.unmount();
    fs::write(file(&m), good).unwrap();
    m.mount(&[]);
}

#[test]
fn without_a_file_everything_is_kept() {
    let mut m = Mounted::new();
    write(&m.path("f"), "x");
    m.unmount();
    fs::remove_file(file(&m)).unwrap();
    let (store, dir) = (m.store(), m.dir());
    let said = ok(&["mount", "--background", text(&store), text(&dir)]);
    let rule = json(&["retain", "show", text(&m.path("f"))])["rules"][0].clone();
    let all = json(&["retain", "reload", text(&dir)]);
    // What a command sets comes beside that.
    ok(&["retain", "set", text(&m.path("tmp")), "--keep", "never"]);
    let then = json(&["retain", "show", text(&m.path("f"))])["rules"][0].clone();
    ok(&["umount", text(&dir)]);
    assert!(said.contains("keeps       everything"), "{said}");
    assert_eq!((&rule["keep"], &all["file"]), (&"all".into(), &false.into()));
    assert_eq!((&then["keep"], &then["keep_rule"]), (&"all".into(), &"/".into()));
}

/// At each sync of a change, and after it: what a power cut leaves is the old file or the new one, as a whole.
#[test]
fn a_power_cut_leaves_the_old_file_or_the_new_one() {
    let disk = SimDisk::new(7);
    config::create(&disk).unwrap();
    let old = config::read(&disk).unwrap().unwrap();
    let seen = Arc::new(Mutex::new((0, 0)));
    let (count, before) = (Arc::clone(&seen), old.clone());
    disk.set_observer(move |disk, _| {
        let mut seen = count.lock().unwrap();
        for seed in 0..40 {
            let image = disk.crash_image(seed);
            let found = config::read(&image).unwrap().expect("there is always a file");
            let new = found.retention.policy(b"/a/b") == Policy::Last(3);
            assert!(new || found == before, "neither the old one nor the new one");
            if new {
                seen.1 += 1
            } else {
                seen.0 += 1
            }
            // And it can be changed again, whatever was left behind.
            let again = Edit::Path { path: "/z".into(), keep: Some(Policy::All), versions: None };
            config::change(&image, &again).unwrap();
        }
    });
    let edit = Edit::Path { path: "/a".into(), keep: Some(Policy::Last(3)), versions: None };
    let said = config::change(&disk, &edit).unwrap();
    let (olds, news) = *seen.lock().unwrap();
    assert!(olds > 0 && news > 0, "{olds} {news}");
    disk.set_observer(|_, _| {});
    for seed in 0..40 {
        assert_eq!(config::read(&disk.crash_image(seed)).unwrap().unwrap(), said, "done is done");
    }
    assert_eq!(disk.list(Path::new("")).unwrap(), ["config.toml"]);
}
