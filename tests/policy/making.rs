//! When versions are made, by path: never, at each fsync, each so many seconds.

use std::{
    fs::{self, OpenOptions},
    os::unix::fs::FileExt,
    time::{Duration, Instant},
};

use segfs::store::inspect::Inspection;

use super::{json, ok, ordinals, refused, text};
use crate::mount::{Mounted, segfs};

fn set(m: &Mounted, dir: &str, versions: &str) {
    ok(&["retain", "set", text(&m.path(dir)), "--versions", versions]);
}

/// A mount with a directory in which versions are made so.
fn mounted(versions: &str) -> Mounted {
    let m = Mounted::new();
    m.sh("mkdir dir other");
    set(&m, "dir", versions);
    m
}

/// Waits until a name has so many versions.
#[track_caller]
fn comes_to(m: &Mounted, name: &str, versions: usize) {
    let began = Instant::now();
    while ordinals(m, name).len() != versions {
        assert!(began.elapsed() < Duration::from_secs(20), "{name}: {:?}", ordinals(m, name));
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn where_none_are_made_what_was_overwritten_is_dead_at_once() {
    let mut m = mounted("never");
    m.sh("for i in 1 2 3 4 5; do head -c 300000 /dev/urandom > dir/f; done; head -c 100000 /dev/urandom > dir/gone; rm dir/gone");
    m.sh("echo a > dir/g; echo b > dir/tmp; mv dir/tmp dir/g; sync dir/f");
    let sum = m.sh("sha256sum dir/f");
    assert_eq!(ordinals(&m, "dir/f"), [0; 0]);
    assert_eq!(ordinals(&m, "dir/g"), [0; 0]);
    ok(&["tag", "add", "here", text(&m.dir())]);
    assert_eq!(ordinals(&m, "dir/f"), [0; 0], "not for a tag either");
    m.sh("ls dir/.segfs/versions/f; cat dir/f > /dev/null");
    m.unmount();
    let i = Inspection::open(&m.store()).unwrap();
    let rows = i.rows(&|_, _| {}).unwrap().unwrap();
    let census = i.census(Some(rows.index()), &|_, _| {}).unwrap();
    assert_eq!((census.total.history_bytes, census.lost), (0, 0), "{census:?}");
    assert!((300_000..350_000).contains(&census.total.present_bytes), "{census:?}");
    drop((rows, i));
    // What was there is there, after an unmount and after a crash, and gets no version by it.
    m.mount(&[]);
    assert_eq!(m.sh("sha256sum dir/f"), sum);
    m.sh("echo c >> dir/g; sync dir/g");
    let held = OpenOptions::new().write(true).open(m.path("dir/f")).unwrap();
    held.write_all_at(b"x", 0).unwrap();
    held.sync_all().unwrap();
    m.kill();
    drop(held);
    m.mount(&[]);
    assert_eq!(m.sh("cat dir/g; head -c 1 dir/f"), "b\nc\nx");
    assert_eq!((ordinals(&m, "dir/f"), ordinals(&m, "dir/g")), (vec![], vec![]));
}

#[test]
fn what_leaves_such_a_place_gets_its_version() {
    let m = mounted("never");
    m.sh("echo a > dir/a; echo b > dir/b; ln dir/b other/b; echo c > dir/c; mkdir dir/deep dir/deep/er; echo d > dir/deep/er/d");
    m.sh("mv dir/a other/a");
    assert_eq!((ordinals(&m, "other/a"), ordinals(&m, "other/b")), (vec![1], vec![1]));
    assert_eq!(ordinals(&m, "dir/c"), [0; 0]);
    // By two that change places.
    m.sh("echo e > other/e");
    rustix::fs::renameat_with(
        rustix::fs::CWD,
        m.path("other/e"),
        rustix::fs::CWD,
        m.path("dir/c"),
        rustix::fs::RenameFlags::EXCHANGE,
    )
    .unwrap();
    assert_eq!(ordinals(&m, "other/e"), [1]);
    // Who still writes makes it. (What was closed by a process on the way is due, and the look at it makes that.)
    let open = fs::File::create(m.path("dir/open")).unwrap();
    open.write_all_at(b"half", 0).unwrap();
    fs::rename(m.path("dir/open"), m.path("other/open")).unwrap();
    open.write_all_at(b"whole", 0).unwrap();
    drop(open);
    comes_to(&m, "other/open", 1);
    assert_eq!(json(&["log", text(&m.path("other/open"))])["versions"][0]["size"], 5);
    // A whole directory, and then the rule itself.
    m.sh("mv dir/deep other/deep");
    comes_to(&m, "other/deep/er/d", 1);
    m.sh("echo f > dir/f");
    ok(&["retain", "clear", text(&m.path("dir"))]);
    comes_to(&m, "dir/f", 1);
}

#[test]
fn a_restore_leaves_alone_what_has_no_versions() {
    let m = Mounted::new();
    m.sh("mkdir -p p/build; echo one > p/f");
    set(&m, "p/build", "never");
    m.sh("echo made > p/build/out; : > p/build/empty");
    std::thread::sleep(Duration::from_millis(1100));
    let then = fs::read_link(m.path(".segfs/at/now")).unwrap();
    std::thread::sleep(Duration::from_millis(1100));
    m.sh("echo two > p/f; echo again > p/build/out; rm p/build/empty; echo gone > p/build/gone; rm p/build/gone");
    let place = format!("{}@{}", text(&m.path("p")), then.to_str().unwrap().replace('.', ":"));
    refused(&segfs(&["undelete", text(&m.path("p/build/gone"))]), 3, "no version of it was ever made");
    let out = format!("{}@{}", text(&m.path("p/build/out")), then.to_str().unwrap().replace('.', ":"));
    refused(&segfs(&["restore", &out]), 3, "it had no version then");
    assert_eq!(m.sh("cat p/build/out"), "again\n");
    let dry = json(&["restore", "--dry-run", &place]);
    let changed: Vec<&str> =
        dry["changes"].as_array().unwrap().iter().map(|c| c["path"].as_str().unwrap()).collect();
    assert!(!changed.iter().any(|path| path.ends_with("build/out")), "{changed:?}");
    ok(&["restore", &place]);
    assert_eq!(m.sh("cat p/f p/build/out; stat -c %s p/build/empty"), "one\nagain\n0\n");
}

#[test]
fn each_fsync_makes_a_version_where_that_is_set() {
    let m = mounted("fsync");
    let save = |name: &str| {
        let f = OpenOptions::new().create_new(true).write(true).open(m.path(name)).unwrap();
        for n in 0..3 {
            f.write_all_at(&[n; 4], u64::from(n) * 4).unwrap();
            f.sync_all().unwrap();
            f.sync_data().unwrap();
        }
        f.write_all_at(b"end", 12).unwrap();
        drop(f);
    };
    save("dir/f");
    save("other/f");
    comes_to(&m, "dir/f", 4);
    comes_to(&m, "other/f", 1);
    let sizes: Vec<u64> = json(&["log", text(&m.path("dir/f"))])["versions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|v| v["size"].as_u64().unwrap())
        .collect();
    assert_eq!(sizes, [4, 8, 12, 15]);
    // Nothing new, no version; and what was synced last needs none at the close.
    let f = OpenOptions::new().write(true).open(m.path("dir/f")).unwrap();
    f.sync_all().unwrap();
    f.write_all_at(b"E", 0).unwrap();
    f.sync_all().unwrap();
    drop(f);
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(ordinals(&m, "dir/f").len(), 5);
}

#[test]
fn a_file_that_stays_open_gets_a_version_each_so_many_seconds() {
    let m = mounted("every=2s");
    let (f, g) = (fs::File::create(m.path("dir/f")).unwrap(), fs::File::create(m.path("other/f")).unwrap());
    let idle = fs::File::create(m.path("dir/idle")).unwrap();
    idle.write_all_at(b"once", 0).unwrap();
    let began = Instant::now();
    let mut n = 0_u64;
    while began.elapsed() < Duration::from_secs(9) {
        f.write_all_at(&n.to_le_bytes(), n * 8).unwrap();
        g.write_all_at(&n.to_le_bytes(), n * 8).unwrap();
        n += 1;
        std::thread::sleep(Duration::from_millis(20));
    }
    drop((f, g, idle));
    // Nobody looked meanwhile, since a look makes what is due.
    comes_to(&m, "other/f", 1);
    comes_to(&m, "dir/idle", 1);
    let versions = json(&["log", text(&m.path("dir/f"))])["versions"].as_array().unwrap().clone();
    let made: Vec<u64> = versions.iter().map(|v| v["creation_time_ns"].as_u64().unwrap()).collect();
    // One each 2 s, seen to each second: a machine under load may be late, never early; and at the close what came last.
    assert!((3..=5).contains(&made.len()), "{versions:?}");
    let (_, open) = made.split_last().unwrap();
    assert!(open.windows(2).all(|w| w[1] - w[0] >= 1_900_000_000), "{made:?}");
    assert_eq!(versions.last().unwrap()["size"].as_u64().unwrap(), n * 8);
}
