//! Object Lock and legal hold: who may set them, what they survive, and how they merge.

use std::{
    fs,
    os::unix::ffi::OsStrExt as _,
    process::{Command, Output},
};

use segfs::{
    base::{Error, FsError, Ino, Lsn, VersionId},
    format::facts::Owner,
    store::{Goal, Kept, LockMode, NewObject, Options, Policy, Protection, Retention, Store},
};

use super::{json, ok, refused, text};
use crate::mount::{Mounted, install, is_root, segfs, write};

const DAY: u64 = 24 * 3600 * 1_000_000_000;
const FAR_ON: u64 = 5_000_000_000_000_000_000;

fn at(m: &Mounted, name: &str) -> String {
    text(&m.path(name)).to_owned()
}

#[test]
fn a_lock_is_set_extended_and_cleared_as_its_mode_allows() {
    let m = Mounted::new();
    for n in ["one", "two", "three"] {
        write(&m.path("f"), n);
    }
    let f = |version: &str| at(&m, &format!("f{version}"));
    let set =
        |v: &str, until: &str, mode: &str| segfs(&["lock", "set", &f(v), "--until", until, "--mode", mode]);
    let done = json(&["lock", "set", &f("@1"), "--until", "30d", "--mode", "governance"]);
    assert_eq!((&done["lock"]["mode"], &done["hold"]), (&"governance".into(), &false.into()));
    // Longer and stricter is fine; shorter has to be meant.
    refused(&set("@1", "10d", "governance"), 1, "locked already: governance");
    refused(&segfs(&["lock", "clear", &f("@1")]), 1, "--bypass-governance");
    ok(&["lock", "extend", &f("@1"), "--until", "40d"]);
    ok(&["lock", "set", &f("@1"), "--until", "10d", "--mode", "governance", "--bypass-governance"]);
    ok(&["lock", "clear", &f("@1"), "--bypass-governance"]);
    assert_eq!(json(&["log", &f("")])["versions"][0]["lock"], serde_json::Value::Null);
    refused(&segfs(&["lock", "extend", &f("@1"), "--until", "40d"]), 2, "no lock");
    // From governance to compliance, and from there nowhere but on.
    ok(&["lock", "set", &f("@2"), "--until", "10d", "--mode", "governance"]);
    refused(&set("@2", "5d", "compliance"), 1, "locked already");
    ok(&["lock", "set", &f("@2"), "--until", "2090-01-01", "--mode", "compliance"]);
    for weaker in [
        &["lock", "clear", &f("@2"), "--bypass-governance"][..],
        &["lock", "set", &f("@2"), "--until", "30d", "--mode", "compliance", "--bypass-governance"],
        &["lock", "set", &f("@2"), "--until", "2091-01-01", "--mode", "governance", "--bypass-governance"],
        &["lock", "extend", &f("@2"), "--until", "30d"],
    ] {
        refused(&segfs(weaker), 1, "compliance mode");
    }
    ok(&["lock", "extend", &f("@2"), "--until", "2091-01-01"]);
    ok(&["hold", "add", &f("")]);
    let log = json(&["log", &f("")]);
    let v = &log["versions"];
    assert_eq!((&v[1]["lock"]["mode"], &v[1]["hold"]), (&"compliance".into(), &false.into()));
    assert!(v[1]["lock"]["until"].as_str().unwrap().starts_with("209"), "{v}");
    assert_eq!((&v[2]["lock"], &v[2]["hold"]), (&serde_json::Value::Null, &true.into()));
    let shown = ok(&["log", &f("")]);
    assert!(shown.lines().nth(2).unwrap().contains("locked until 209"), "{shown}");
    assert!(shown.lines().nth(3).unwrap().contains("held"), "{shown}");
    ok(&["hold", "rm", &f("@3")]);
    assert_eq!(json(&["log", &f("")])["versions"][2]["hold"], false);
    refused(&set("@3", "2020-01-01", "governance"), 2, "over");
    refused(&set("@3", "soon", "governance"), 2, "no time");
    refused(&set("@9", "30d", "governance"), 3, "newest is 3");
    refused(&segfs(&["hold", "add", &at(&m, "")]), 2, "no version");
}

#[test]
fn locks_are_virtual_attributes_that_can_be_set() {
    let m = Mounted::new();
    write(&m.path("f"), "one");
    write(&m.path("f"), "two");
    m.sh("setfattr -n user.segfs.lock -v 'GOVERNANCE 2090-01-01T00:00:00Z' f; setfattr -n user.segfs.hold -v ON .segfs/versions/f/00000001.*");
    let get = |path: &str, name: &str| m.sh(&format!("getfattr --only-values -n user.segfs.{name} {path}"));
    assert_eq!(get("f", "lock"), "governance 2090-01-01T00:00:00.000000000Z");
    assert_eq!((get("f", "hold"), get(".segfs/versions/f/00000001.*", "hold")), ("off".into(), "on".into()));
    let no = |command: &str| m.sh(&format!("if {command} 2> /dev/null; then exit 1; fi"));
    no("setfattr -n user.segfs.lock -v none f");
    no("setfattr -n user.segfs.lock -v whatever f");
    no("setfattr -x user.segfs.lock f");
    no("setfattr -n user.segfs.version_id -v x f");
    no("setfattr -n user.segfs.lock -v none .segfs");
    no("setfattr -n user.segfs.lock -v none .");
    no("getfattr -n user.segfs.lock .segfs/versions/f/00000001.*");
    std::thread::sleep(std::time::Duration::from_millis(1100));
    m.sh(
        "setfattr -n user.segfs.lock -v 'none bypass' f; setfattr -n user.segfs.hold -v off .segfs/at/now/f",
    );
    no("getfattr -n user.segfs.lock f");
    // No list shows them, so no copy carries them along.
    m.sh("setfattr -n user.segfs.hold -v on f; cp --preserve=all f g; [ \"$(getfattr -d -m - g)\" = '' ]");
    assert_eq!(get("g", "hold"), "off");
}

#[test]
fn only_the_owner_and_root_lock() {
    if !is_root() {
        return;
    }
    let m = Mounted::for_all();
    m.sh("echo x > f; chown 1000:2000 f; chmod 664 f; echo y > ro; chown 1000:2000 ro; chmod 444 ro");
    let program = m.root.path().join("segfs");
    install(crate::mount::SEGFS, &program);
    let by = |uid: &str, gid: &str, args: &[&str]| -> Output {
        let mut command = Command::new("setpriv");
        command.args(["--reuid", uid, "--regid", gid, "--clear-groups"]).arg(&program).args(args);
        command.output().unwrap()
    };
    // May write to it, and is not its owner.
    refused(&by("3000", "2000", &["hold", "add", &at(&m, "f")]), 1, "only its owner");
    refused(&by("3000", "3000", &["hold", "add", &at(&m, "f")]), 1, "only its owner");
    refused(&by("1000", "1000", &["hold", "add", &at(&m, "ro")]), 1, "only its owner");
    let done = by("1000", "1000", &["lock", "set", &at(&m, "f"), "--until", "1d", "--mode", "governance"]);
    assert!(done.status.success(), "{done:?}");
    let done = by("1000", "1000", &["hold", "add", &at(&m, "f@1")]);
    assert!(done.status.success(), "{done:?}");
    ok(&["hold", "add", &at(&m, "ro")]);
}

/// The kernel passes no attribute of a symlink on, so the mount is asked for them.
#[test]
fn symlinks_are_locked_and_held_and_what_they_lead_to_is_not() {
    let mut m = Mounted::new();
    write(&m.path("target"), "x");
    m.sh("ln -s target l; sleep 1.1; ln -sf other/place l; ln -s away \"$(printf 'odd\\377')\"");
    let l = |version: &str| at(&m, &format!("l{version}"));
    assert_eq!(json(&["log", &l("")])["versions"].as_array().unwrap().len(), 2);
    let done = json(&["lock", "set", &l("@1"), "--until", "2090-01-01Z", "--mode", "governance"]);
    assert_eq!((&done["lock"]["mode"], &done["hold"]), (&"governance".into(), &false.into()));
    refused(
        &segfs(&["lock", "set", &l("@1"), "--until", "10d", "--mode", "governance"]),
        1,
        "locked already: governance 2090",
    );
    refused(&segfs(&["lock", "clear", &l("@1")]), 1, "--bypass-governance");
    ok(&["lock", "extend", &l("@1"), "--until", "2091-01-01Z"]);
    refused(&segfs(&["lock", "extend", &l(""), "--until", "40d"]), 2, "no lock");
    refused(&segfs(&["hold", "add", &l("@7")]), 3, "newest is 2");
    // Named by a moment, and without a version: that which shows.
    ok(&["hold", "add", &l("@1s")]);
    ok(&["hold", "add", &l("")]);
    let log = json(&["log", &l("")]);
    let v = &log["versions"];
    assert!(v[0]["lock"]["until"].as_str().unwrap().starts_with("2091") && v[1]["lock"].is_null(), "{v}");
    assert_eq!((&v[0]["hold"], &v[1]["hold"]), (&true.into(), &true.into()), "{v}");
    assert_eq!(json(&["log", &at(&m, "target")])["versions"][0]["hold"], false, "it was not followed");
    // A name that is no UTF-8, and the same of a store that nobody has mounted.
    let odd = std::ffi::OsStr::from_bytes(b"odd\xff");
    let done =
        Command::new(crate::mount::SEGFS).args(["hold", "add"]).arg(m.dir().join(odd)).output().unwrap();
    assert!(done.status.success(), "{done:?}");
    m.sh("rm l");
    m.unmount();
    let store = text(&m.store);
    refused(&segfs(&["purge", "--store", store, "l"]), 1, "locked");
    ok(&["lock", "clear", "--store", store, "l@1", "--bypass-governance"]);
    for version in ["l@1", "l@2"] {
        refused(&segfs(&["purge", "--store", store, version]), 1, "held");
        ok(&["hold", "rm", "--store", store, version]);
    }
    ok(&["purge", "--store", store, "l"]);
    let done = Command::new(crate::mount::SEGFS).args(["purge", "--store", store]).arg(odd).output().unwrap();
    assert_eq!(done.status.code(), Some(1), "it is held: {done:?}");
}

fn expire_all(store: &Store) {
    let mut at = Some(Ino::FIRST);
    while let Some(from) = at {
        at = store.expire(from, FAR_ON).unwrap().1;
    }
}

#[test]
fn what_is_locked_survives_everything() {
    let mut m = Mounted::new();
    for n in ["one", "two", "three", "four"] {
        write(&m.path("f"), n.repeat(3000));
    }
    write(&m.path("other"), "x");
    // Past what the test below lets expire.
    ok(&["lock", "set", &at(&m, "f@1"), "--until", "2150-01-01", "--mode", "compliance"]);
    ok(&["hold", "add", &at(&m, "f@2")]);
    ok(&["lock", "set", &at(&m, "f@3"), "--until", "2d", "--mode", "governance"]);
    m.sh("rm f");
    m.unmount();
    let store = Store::open(&m.store(), Options::default()).unwrap();
    store.set_retention(Retention::everywhere(Policy::Never));
    expire_all(&store);
    store.sync_all().unwrap();
    store.clean(Goal::ALL).unwrap();
    store.close().unwrap();
    drop(store);
    fs::remove_dir_all(m.store().join("index")).unwrap();
    let left = |args: &[&str]| -> Vec<u64> {
        let log = json(&[&["log", "--store", text(&m.store)], args].concat());
        log["versions"].as_array().unwrap().iter().map(|v| v["ordinal"].as_u64().unwrap()).collect()
    };
    assert_eq!(left(&["f"]), [1, 2], "by the time they were held against, the third one's lock was over");
    assert_eq!(ok(&["cat", "--store", text(&m.store), "f@1"]), "one".repeat(3000));
    assert_eq!(ok(&["cat", "--store", text(&m.store), "f@2"]), "two".repeat(3000));
    let log = json(&["log", "--store", text(&m.store), "f"]);
    assert_eq!(
        (&log["versions"][0]["lock"]["mode"], &log["versions"][1]["hold"]),
        (&"compliance".into(), &true.into())
    );
    // On a store that nobody has mounted, who may open it may set them.
    ok(&["hold", "rm", "--store", text(&m.store), "f@2"]);
    refused(
        &segfs(&["lock", "clear", "--store", text(&m.store), "f@1", "--bypass-governance"]),
        1,
        "compliance",
    );
}

struct Two {
    _dir: tempfile::TempDir,
    a: Store,
    b: Store,
    id: VersionId,
}

impl Two {
    /// Two stores that have one version.
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let options = || Options { background: false, segment_bytes: 1 << 20, ..Options::default() };
        let a = Store::create(&dir.path().join("a"), options()).unwrap();
        let b = Store::create(&dir.path().join("b"), options()).unwrap();
        let ino = a.create_object(Ino::FIRST, b"f", &NewObject::file(0o644, Owner::default())).unwrap().1.ino;
        a.write(ino, 0, b"x").unwrap();
        let id = a.commit_version(ino).unwrap().1.unwrap();
        let two = Self { _dir: dir, a, b, id };
        two.meet();
        two
    }

    fn give(from: &Store, to: &Store) {
        from.sync_all().unwrap();
        for p in from.parcels(&to.knowledge().unwrap(), Lsn::FIRST, usize::MAX).unwrap().0 {
            to.import(&p, &mut |id| from.extent_bytes(&p, id)).unwrap();
        }
    }

    /// Both hold the same facts then, and say the same.
    #[track_caller]
    fn meet(&self) -> Protection {
        Self::give(&self.a, &self.b);
        Self::give(&self.b, &self.a);
        let (a, b) = (self.a.protection(self.id).unwrap(), self.b.protection(self.id).unwrap());
        assert_eq!(a, b);
        a
    }
}

#[test]
fn locks_of_two_stores_merge_to_the_later_date_and_the_stricter_mode() {
    let t = Two::new();
    let now = t.a.expiry().time_ns;
    let (early, late) = (now + 10 * DAY, now + 20 * DAY);
    // Neither knows of the other: the later date stays, also if it was said first.
    t.a.set_lock(t.id, Some((LockMode::Governance, late)), false).unwrap();
    t.b.set_lock(t.id, Some((LockMode::Governance, early)), false).unwrap();
    assert_eq!(t.meet().lock, Some((LockMode::Governance, late)));
    // Who clears what he saw does not clear what he did not see.
    t.b.set_lock(t.id, None, true).unwrap();
    t.a.set_lock(t.id, Some((LockMode::Governance, late + DAY)), false).unwrap();
    assert_eq!(t.meet().lock, Some((LockMode::Governance, late + DAY)));
    t.b.set_lock(t.id, None, true).unwrap();
    assert_eq!(t.meet(), Protection::default());
    // A shorter one, meant so, is shorter everywhere.
    t.a.set_lock(t.id, Some((LockMode::Governance, late)), false).unwrap();
    t.meet();
    t.b.set_lock(t.id, Some((LockMode::Governance, early)), true).unwrap();
    assert_eq!(t.meet().lock, Some((LockMode::Governance, early)));
    // The stricter mode, and it stays, whatever the other cleared meanwhile.
    t.a.set_lock(t.id, Some((LockMode::Compliance, early)), false).unwrap();
    t.b.set_lock(t.id, Some((LockMode::Governance, late)), false).unwrap();
    assert_eq!(t.meet().lock, Some((LockMode::Compliance, late)));
    for (lock, bypass) in [
        (None, true),
        (Some((LockMode::Governance, late)), true),
        (Some((LockMode::Compliance, early)), true),
    ] {
        let weaker = t.b.set_lock(t.id, lock, bypass);
        assert!(matches!(weaker, Err(Error::Fs(FsError::NotPermitted))), "{weaker:?}");
    }
    t.b.set_lock(t.id, Some((LockMode::Compliance, late + DAY)), false).unwrap();
    assert_eq!(t.meet().lock, Some((LockMode::Compliance, late + DAY)));
}

#[test]
fn a_hold_falls_only_by_a_clear_that_saw_it() {
    let t = Two::new();
    t.a.hold_version(t.id, true).unwrap();
    t.b.hold_version(t.id, true).unwrap();
    // It has seen its own alone.
    t.b.hold_version(t.id, false).unwrap();
    assert!(t.meet().hold);
    t.b.hold_version(t.id, false).unwrap();
    assert!(!t.meet().hold);
    // Put on again while the other takes it off.
    t.a.hold_version(t.id, true).unwrap();
    t.meet();
    t.b.hold_version(t.id, false).unwrap();
    t.a.hold_version(t.id, false).unwrap();
    t.a.hold_version(t.id, true).unwrap();
    assert!(t.meet().hold);
    assert_eq!(t.a.remove_version(t.id).unwrap(), Some(Kept::Locked));
    // Of a version that is not here nothing is said.
    let nothing = t.a.hold_version(VersionId::new(7), true);
    assert!(matches!(nothing, Err(Error::Fs(FsError::NotFound))), "{nothing:?}");
    // And it is there after a crash.
    t.a.sync_all().unwrap();
    let path = t.a.path().to_owned();
    let Two { _dir, a, b, id } = t;
    drop((a, b));
    assert!(
        Store::open(&path, Options { background: false, ..Options::default() })
            .unwrap()
            .protection(id)
            .unwrap()
            .hold
    );
}
