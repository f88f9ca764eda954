//! The history of a name, through the store.

use segfs::{
    base::Ino,
    format::facts::Owner,
    store::{NewObject, Options, Past, Rename, Store, View},
};

const ROOT: Ino = Ino::FIRST;

struct World {
    _dir: tempfile::TempDir,
    store: Store,
}

impl World {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let options = Options { background: false, ..Options::default() };
        let store = Store::create(&dir.path().join("s"), options).unwrap();
        Self { _dir: dir, store }
    }

    fn make(&self, dir: Ino, name: &str) -> Ino {
        let new = NewObject::file(0o644, Owner::default());
        self.store.create_object(dir, name.as_bytes(), &new).unwrap().1.ino
    }

    fn save(&self, ino: Ino, text: &str) {
        self.store.truncate(ino, 0).unwrap();
        self.store.write(ino, 0, text.as_bytes()).unwrap();
        assert!(self.store.commit_version(ino).unwrap().1.is_some());
    }

    fn file(&self, name: &str, text: &str) -> Ino {
        let ino = self.make(ROOT, name);
        self.save(ino, text);
        ino
    }

    fn rename(&self, from: &str, to: &str) {
        self.store.rename((ROOT, from.as_bytes()), (ROOT, to.as_bytes()), Rename::Replace).unwrap();
    }

    fn unlink(&self, name: &str) {
        let (_, ino, left) = self.store.unlink(ROOT, name.as_bytes()).unwrap();
        if left == 0 {
            self.store.reap(ino).unwrap();
        }
    }

    fn text(&self, p: &Past) -> String {
        let mut out = vec![0; p.version.size as usize];
        let n = self.store.read_version(p.ino, p.version.lsn, 0, &mut out).unwrap();
        assert_eq!(n, out.len());
        String::from_utf8(out).unwrap()
    }

    /// The contents of a history, oldest first, after checking that all ways to page through it agree.
    fn history_at(&self, view: View<'_>, name: &str) -> Vec<String> {
        let Some(mut h) = view.history(ROOT, name.as_bytes()).unwrap() else { return Vec::new() };
        let all = h.from(0, 1000).unwrap();
        assert_eq!(all.iter().map(|p| p.ordinal).collect::<Vec<_>>(), (1..=h.newest()).collect::<Vec<_>>());
        for size in [1, 2, 7] {
            let (mut back, mut forth) = (Vec::new(), Vec::new());
            let mut h = view.history(ROOT, name.as_bytes()).unwrap().unwrap();
            loop {
                let page = h.before(back.last().map(|p: &Past| p.ordinal), size).unwrap();
                assert!(page.len() <= size);
                if page.is_empty() {
                    break;
                }
                back.extend(page);
            }
            back.reverse();
            assert_eq!(back, all);
            let mut h = view.history(ROOT, name.as_bytes()).unwrap().unwrap();
            loop {
                let page = h.from(forth.last().map_or(0, |p: &Past| p.ordinal + 1), size).unwrap();
                if page.is_empty() {
                    break;
                }
                forth.extend(page);
            }
            assert_eq!(forth, all);
        }
        all.iter().map(|p| self.text(p)).collect()
    }

    fn history(&self, name: &str) -> Vec<String> {
        self.history_at(self.store.view(), name)
    }
}

#[test]
fn writes_in_place_and_saves_by_renaming_are_one_history() {
    let w = World::new();
    let a = w.file("f", "a1");
    w.save(a, "a2");
    w.file("tmp", "b1");
    w.rename("tmp", "f");
    let before_c = w.store.last_lsn();
    let c = w.file("tmp", "c1");
    w.save(c, "c2");
    w.rename("tmp", "f");
    w.save(c, "c3");
    assert_eq!(w.history("f"), ["a1", "a2", "b1", "c1", "c2", "c3"]);
    // What the temporary name showed: each of its files, moved away one after the other.
    assert_eq!(w.history("tmp"), ["b1", "c1", "c2"]);
    assert_eq!(w.history_at(w.store.view_at(before_c), "f"), ["a1", "a2", "b1"]);
    w.rename("f", "g");
    assert_eq!(w.history("g"), ["a1", "a2", "b1", "c1", "c2", "c3"], "mv carries it along");
    w.save(c, "c4");
    assert_eq!(w.history("g").len(), 7);
    assert_eq!(w.history("f").len(), 6, "what came later is not the old name's");
}

#[test]
fn a_name_deleted_and_made_again_is_one_history() {
    let w = World::new();
    for round in 0..5 {
        let ino = w.file("f", &format!("{round}a"));
        w.save(ino, &format!("{round}b"));
        w.unlink("f");
        let gone = w.store.view().gone(ROOT, None, 10).unwrap();
        assert_eq!(
            gone.iter().map(|g| (&g.name[..], g.versions)).collect::<Vec<_>>(),
            [(&b"f"[..], 2 * (round + 1))]
        );
        assert_eq!(w.history("f").len() as u64, 2 * (round + 1));
    }
    w.file("f", "last");
    assert!(w.store.view().gone(ROOT, None, 10).unwrap().is_empty());
    assert_eq!(w.store.view().gone_at(ROOT, b"f").unwrap(), None);
    let all = ["0a", "0b", "1a", "1b", "2a", "2b", "3a", "3b", "4a", "4b", "last"];
    assert_eq!(w.history("f"), all);
    w.rename("f", "g");
    assert_eq!(w.history("g"), all);
    assert!(w.store.view().gone(ROOT, None, 10).unwrap().is_empty(), "moved is not deleted");
}

#[test]
fn vims_way_to_save_is_one_history_a_file() {
    let w = World::new();
    w.file("f", "0");
    for n in 1..6 {
        // backupcopy=no: the old file is put aside, a new one made, and the old one deleted.
        w.rename("f", "f~");
        w.file("f", &n.to_string());
        w.unlink("f~");
    }
    assert_eq!(w.history("f"), ["0", "1", "2", "3", "4", "5"]);
    w.rename("f", "elsewhere");
    assert_eq!(w.history("elsewhere"), ["0", "1", "2", "3", "4", "5"]);
}

#[test]
fn moving_away_and_back_does_not_double_a_history() {
    let w = World::new();
    let a = w.file("f", "1");
    w.rename("f", "g");
    w.rename("g", "f");
    w.save(a, "2");
    assert_eq!(w.history("f"), ["1", "2"]);
    w.store.link(a, ROOT, b"h").unwrap();
    w.unlink("h");
    w.store.link(a, ROOT, b"h").unwrap();
    assert_eq!(w.history("h"), ["1", "2"]);
    // Two files change places: each history follows its file.
    w.file("x", "x1");
    w.store.rename((ROOT, b"x"), (ROOT, b"f"), Rename::Exchange).unwrap();
    assert_eq!(w.history("f"), ["x1"]);
    assert_eq!(w.history("x"), ["1", "2"]);
    assert_eq!(w.store.view().history_of(a).unwrap().unwrap().newest(), 2);
}

#[test]
fn each_version_says_until_when_the_name_showed_it() {
    let w = World::new();
    let a = w.file("f", "a1");
    w.save(a, "a2");
    w.file("tmp", "b1");
    w.rename("tmp", "f");
    w.unlink("f");
    let mut h = w.store.view().history(ROOT, b"f").unwrap().unwrap();
    let (forth, mut back) = (h.from(0, 10).unwrap(), h.before(None, 10).unwrap());
    back.reverse();
    assert_eq!(forth, back);
    for p in &forth {
        let until = p.until.unwrap();
        let size = w.store.view_at(until).lookup(ROOT, b"f").unwrap().size;
        assert_eq!(size, p.version.size);
        let next = w.store.view_at(until.next()).lookup(ROOT, b"f").ok().map(|a| a.ino);
        let later = forth.iter().find(|l| l.ordinal == p.ordinal + 1);
        assert_eq!(next, later.map(|l| l.ino), "right after version {}", p.ordinal);
    }
}

#[test]
fn kinds_without_versions_and_names_that_never_were_have_no_history() {
    let w = World::new();
    w.store.create_object(ROOT, b"d", &NewObject::directory(0o755, Owner::default())).unwrap();
    assert_eq!(w.history("d"), [""; 0]);
    assert_eq!(w.history("nothing"), [""; 0]);
    assert!(w.store.view().history(ROOT, b"").unwrap().is_none());
    assert!(w.store.view().history(ROOT, &[b'x'; 300]).unwrap().is_none());
    w.make(ROOT, "empty");
    assert_eq!(w.store.view().history(ROOT, b"empty").unwrap().unwrap().newest(), 0);
    w.unlink("empty");
    assert_eq!(w.store.view().gone(ROOT, None, 9).unwrap()[0].versions, 0);
    for n in 0..50 {
        w.file(&format!("gone{n:02}"), "x");
    }
    let full = w.store.last_lsn();
    for n in 0..50 {
        w.unlink(&format!("gone{n:02}"));
    }
    let (mut names, mut after) = (Vec::new(), None::<Vec<u8>>);
    loop {
        let page = w.store.view().gone(ROOT, after.as_deref(), 7).unwrap();
        let Some(last) = page.last() else { break };
        after = Some(last.name.clone());
        names.extend(page.into_iter().map(|g| g.name));
    }
    assert_eq!(names.len(), 51);
    assert_eq!(w.store.view_at(full).gone(ROOT, None, 100).unwrap().len(), 1, "as it was then");
    let then = w.store.view_at(w.store.last_lsn());
    for n in 0..25 {
        w.file(&format!("gone{n:02}"), "again");
    }
    assert_eq!(then.gone(ROOT, None, 100).unwrap().len(), 51, "markers of the past");
    assert_eq!(w.store.view().gone(ROOT, None, 100).unwrap().len(), 26);
}
