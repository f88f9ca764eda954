//! What lost against another file at a name, or against another version of itself, on a real mount: two stores that were
//! written to apart, and have exchanged what they know.

use std::fs;

use segfs::{
    base::{Ino, Lsn},
    format::facts::Owner,
    store::{NewObject, Options, Store},
};

use crate::mount::Mounted;

fn options() -> Options {
    Options { background: false, ..Options::default() }
}

fn file(s: &Store, name: &str, data: &str) -> Ino {
    let ino = s
        .create_object(Ino::FIRST, name.as_bytes(), &NewObject::file(0o644, Owner::default()))
        .unwrap()
        .1
        .ino;
    edit(s, ino, data);
    ino
}

fn edit(s: &Store, ino: Ino, data: &str) {
    s.truncate(ino, 0).unwrap();
    s.write(ino, 0, data.as_bytes()).unwrap();
    s.commit_version(ino).unwrap();
}

fn give(from: &Store, to: &Store) {
    from.sync_all().unwrap();
    for p in from.parcels(&to.knowledge().unwrap(), Lsn::FIRST, usize::MAX).unwrap().0 {
        to.import(&p, &mut |id| from.extent_bytes(&p, id)).unwrap();
    }
}

#[test]
fn losers_are_readable_below_conflicts() {
    let root = tempfile::tempdir().unwrap();
    let (here, there) = (root.path().join("store"), root.path().join("there"));
    let (a, b) = (Store::create(&here, options()).unwrap(), Store::create(&there, options()).unwrap());
    // One file that both know, changed on both sides.
    let on_a = file(&a, "shared", "as it was\n");
    give(&a, &b);
    let on_b = b.view().lookup(Ino::FIRST, b"shared").unwrap().ino;
    edit(&a, on_a, "changed here\n");
    edit(&b, on_b, "changed there, later\n");
    // Two files of one name.
    file(&a, "both.txt", "made here\n");
    file(&b, "both.txt", "made there, later\n");
    file(&a, "alone", "x\n");
    give(&a, &b);
    give(&b, &a);
    a.close().unwrap();
    b.close().unwrap();
    drop((a, b));
    let mut m = Mounted { root, store: here, daemon: None };
    for store in ["store", "there"] {
        m.store = m.root.path().join(store);
        m.mount(&[]);
        let read =
            |path: &str| fs::read_to_string(m.path(path)).unwrap_or_else(|e| panic!("{store}: {path}: {e}"));
        assert_eq!(read("shared"), "changed there, later\n");
        assert_eq!(read("both.txt"), "made there, later\n");
        assert_eq!(m.sh("ls -A .segfs/conflicts"), "both.txt\n");
        assert_eq!(read(".segfs/conflicts/both.txt"), "made here\n");
        let refused = fs::write(m.path(".segfs/conflicts/both.txt"), "x").unwrap_err();
        assert_eq!(refused.kind(), std::io::ErrorKind::ReadOnlyFilesystem);
        assert_eq!(m.sh("ls -A"), "alone\nboth.txt\nshared\n", "they show nowhere else");
        // What lost against another version of its own file is one of its versions, and says so.
        let said = m.sh(&format!("{} --json log shared", crate::mount::SEGFS));
        let said: serde_json::Value = serde_json::from_str(&said).unwrap();
        let versions = said["versions"].as_array().unwrap();
        let lost: Vec<_> = versions.iter().filter(|v| v["conflict"] == true).collect();
        assert!(versions.len() == 3 && lost.len() == 1, "{said:#}");
        let id = lost[0]["id"].as_str().unwrap();
        // Both have the same number, as neither knew of the other: the id tells them apart.
        let lost = m.sh(&format!("{} cat shared@id:{id}", crate::mount::SEGFS));
        assert_eq!(lost, "changed here\n");
        // Bringing a loser back is copying it.
        m.sh("cp .segfs/conflicts/both.txt back; cmp back .segfs/conflicts/both.txt; rm back");
        m.unmount();
    }
}
