//! Which versions stay: those that the path keeps where they were made, or any path that shows them now.

use segfs::{
    base::Ino,
    format::facts::Owner,
    store::{NewObject, Options, Policy, Rename, Retention, Store},
};

use super::{json, ok, text};
use crate::mount::{Mounted, write};

const FAR_ON: u64 = 5_000_000_000_000_000_000;

struct World {
    _dir: tempfile::TempDir,
    store: Store,
}

impl World {
    /// `/keep` keeps everything, `/two` the last two, and everything else nothing.
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let options = Options { segment_bytes: 1 << 20, background: false, ..Options::default() };
        let store = Store::create(&dir.path().join("store"), options).unwrap();
        let rules = [("/", Policy::Never), ("/keep", Policy::All), ("/two", Policy::Last(2))];
        let rules = rules.into_iter().map(|(path, policy)| (path.as_bytes().to_vec(), policy)).collect();
        store.set_retention(Retention { rules });
        let world = Self { _dir: dir, store };
        for name in ["keep", "two", "tmp"] {
            world.mkdir(Ino::FIRST, name);
        }
        world
    }

    fn mkdir(&self, dir: Ino, name: &str) -> Ino {
        let new = NewObject::directory(0o755, Owner::default());
        self.store.create_object(dir, name.as_bytes(), &new).unwrap().1.ino
    }

    fn dir(&self, name: &str) -> Ino {
        self.store.view().lookup(Ino::FIRST, name.as_bytes()).unwrap().ino
    }

    fn file(&self, dir: Ino, name: &str) -> Ino {
        let new = NewObject::file(0o644, Owner::default());
        self.store.create_object(dir, name.as_bytes(), &new).unwrap().1.ino
    }

    /// Makes so many versions.
    fn versions(&self, ino: Ino, n: u8) {
        for byte in 0..n {
            self.store.write(ino, 0, &[byte; 10]).unwrap();
            assert!(self.store.commit_version(ino).unwrap().1.is_some());
        }
    }

    fn mv(&self, from: (Ino, &str), to: (Ino, &str)) {
        self.store.rename((from.0, from.1.as_bytes()), (to.0, to.1.as_bytes()), Rename::Replace).unwrap();
    }

    /// What is left of a file when everything was held against the rules, twice.
    #[track_caller]
    fn left(&self, ino: Ino) -> Vec<u64> {
        for round in 0..2 {
            let mut at = Some(Ino::FIRST);
            while let Some(from) = at {
                let (gone, next) = self.store.expire(from, FAR_ON).unwrap();
                assert!(round == 0 || gone == 0, "nothing goes later that did not go at once");
                at = next;
            }
        }
        self.store.view().versions(ino, None, 100).unwrap().iter().map(|v| v.ordinal).collect()
    }
}

#[test]
fn a_version_stays_where_it_was_made_or_where_it_shows() {
    let w = World::new();
    let (keep, tmp) = (w.dir("keep"), w.dir("tmp"));
    // Made where everything is kept, and moved away.
    let moved = w.file(keep, "moved");
    w.versions(moved, 3);
    w.mv((keep, "moved"), (tmp, "moved"));
    w.versions(moved, 3);
    // Made where nothing is kept, and moved to where everything is.
    let saved = w.file(tmp, "saved");
    w.versions(saved, 3);
    w.mv((tmp, "saved"), (keep, "saved"));
    w.versions(saved, 2);
    // There and back.
    let back = w.file(tmp, "back");
    w.versions(back, 2);
    w.mv((tmp, "back"), (keep, "back"));
    w.versions(back, 2);
    w.mv((keep, "back"), (tmp, "back"));
    w.versions(back, 2);
    let plain = w.file(tmp, "plain");
    w.versions(plain, 4);
    assert_eq!(w.left(moved), [1, 2, 3, 6]);
    assert_eq!(w.left(saved), [1, 2, 3, 4, 5]);
    assert_eq!(w.left(back), [3, 4, 6]);
    assert_eq!(w.left(plain), [4]);
}

#[test]
fn what_goes_at_once_goes_by_the_same_rules() {
    let w = World::new();
    let (keep, two, tmp) = (w.dir("keep"), w.dir("two"), w.dir("tmp"));
    let moved = w.file(keep, "moved");
    w.versions(moved, 3);
    w.mv((keep, "moved"), (tmp, "moved"));
    w.versions(moved, 3);
    let counted = w.file(two, "counted");
    w.versions(counted, 4);
    // No sweep is due yet.
    w.store.keep_space().unwrap();
    let numbers = |ino| -> Vec<u64> {
        w.store.view().versions(ino, None, 100).unwrap().iter().map(|v| v.ordinal).collect()
    };
    assert_eq!((numbers(moved), numbers(counted)), (vec![1, 2, 3, 6], vec![3, 4]));
}

#[test]
fn directories_carry_what_was_made_in_them() {
    let w = World::new();
    let keep = w.dir("keep");
    let inner = w.mkdir(keep, "inner");
    let deep = w.mkdir(inner, "deep");
    let f = w.file(deep, "f");
    w.versions(f, 3);
    // The directory goes elsewhere, and the one above it is called otherwise.
    w.mv((keep, "inner"), (w.dir("tmp"), "inner"));
    w.versions(f, 2);
    w.mv((Ino::FIRST, "tmp"), (Ino::FIRST, "scratch"));
    w.versions(f, 2);
    w.mv((Ino::FIRST, "keep"), (Ino::FIRST, "kept"));
    assert_eq!(w.left(f), [1, 2, 3, 7]);
    // A deleted file's versions go by where they were made, as before.
    let keep = w.mkdir(Ino::FIRST, "keep");
    let gone = w.file(keep, "gone");
    w.versions(gone, 2);
    w.store.unlink(keep, b"gone").unwrap();
    w.store.reap(gone).unwrap();
    assert_eq!(w.left(gone), [1, 2]);
}

#[test]
fn of_several_names_the_longer_retention_counts() {
    let w = World::new();
    let (two, tmp) = (w.dir("two"), w.dir("tmp"));
    let f = w.file(tmp, "f");
    w.versions(f, 2);
    w.store.link(f, two, b"f").unwrap();
    w.versions(f, 2);
    assert_eq!(w.left(f), [3, 4]);
    // The first name goes; what was made under either stays by the other.
    w.store.unlink(tmp, b"f").unwrap();
    w.versions(f, 1);
    assert_eq!(w.left(f), [4, 5]);
    // Of a further name that went, nothing is known any more: what was made while it was there stays as long as anything.
    let keep = w.dir("keep");
    w.store.link(f, keep, b"f").unwrap();
    w.versions(f, 1);
    w.store.unlink(keep, b"f").unwrap();
    w.versions(f, 3);
    assert_eq!(w.left(f), [6, 8, 9]);
}

#[test]
fn a_long_history_is_looked_up_once_for_each_place() {
    let w = World::new();
    let (keep, tmp) = (w.dir("keep"), w.dir("tmp"));
    let f = w.file(keep, "f");
    let many = 5000_u64;
    for n in 0..many {
        w.store.write(f, 0, &n.to_le_bytes()).unwrap();
        w.store.commit_version(f).unwrap();
    }
    w.mv((keep, "f"), (tmp, "f"));
    w.versions(f, 3);
    let (gone, next) = w.store.expire(Ino::FIRST, FAR_ON).unwrap();
    assert_eq!((gone, next), (2, Some(f.next())), "all of one object's versions in one step");
    let left = w.store.view().versions(f, None, 9000).unwrap();
    assert_eq!((left.len() as u64, left.last().unwrap().ordinal), (many + 1, many + 3));
}

#[test]
fn a_moment_says_whether_it_shows_what_was_there() {
    let m = Mounted::new();
    let mut moments = Vec::new();
    for n in 0..3 {
        write(&m.path("f"), format!("{n}"));
        std::thread::sleep(std::time::Duration::from_millis(1100));
        moments.push(m.sh("readlink .segfs/at/now").trim().to_owned());
        std::thread::sleep(std::time::Duration::from_millis(1100));
    }
    let mut m = m;
    m.unmount();
    let store = Store::open(&m.store(), Options::default()).unwrap();
    let f = store.view().lookup(Ino::FIRST, b"f").unwrap().ino;
    let second = store.view().versions(f, None, 10).unwrap()[1].id;
    assert_eq!(store.remove_version(second).unwrap(), None);
    store.close().unwrap();
    drop(store);
    m.mount(&[]);
    let exact = |at: &str| {
        m.sh(&format!("cat .segfs/at/{at}/f; getfattr --only-values -n user.segfs.exact .segfs/at/{at}/f"))
    };
    assert_eq!(exact(&moments[0]), "01");
    assert_eq!(exact(&moments[1]), "00", "the one before it stands for it");
    assert_eq!(exact(&moments[2]), "21");
    assert_eq!(m.sh("getfattr --only-values -n user.segfs.exact f"), "1");
}

#[test]
fn a_restored_version_says_so() {
    let m = Mounted::new();
    write(&m.path("f"), "one");
    write(&m.path("f"), "two");
    let f = m.path("f");
    ok(&["restore", &format!("{}@1", text(&f))]);
    write(&m.path("g"), "three");
    m.sh("rm g");
    ok(&["undelete", text(&m.path("g"))]);
    write(&f, "four");
    let restored = |name: &str| -> Vec<bool> {
        let log = json(&["log", text(&m.path(name))]);
        log["versions"].as_array().unwrap().iter().map(|v| v["restored"].as_bool().unwrap()).collect()
    };
    assert_eq!(restored("f"), [false, false, true, false]);
    assert_eq!(restored("g"), [false, true]);
    assert!(ok(&["log", text(&f)]).lines().nth(3).unwrap().contains("restored"));
    // Nobody says so of what is not open, and a copy to elsewhere has no attributes of ours.
    m.sh("if setfattr -n user.segfs.restored -v 1 f 2> /dev/null; then exit 1; fi");
    let out = m.root.path().join("out");
    ok(&["restore", &format!("{}@2", text(&f)), "--to", text(&out)]);
    assert_eq!(m.sh(&format!("cat {0}; getfattr -d -m - {0}", text(&out))), "two");
}
