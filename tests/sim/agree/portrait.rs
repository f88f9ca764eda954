//! What hosts with the same facts must show alike.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
};

use segfs::{
    base::{Ino, Lsn, VersionId},
    format::facts::ObjectKind,
    format::{code, facts::Fact},
    store::{Store, VersionInfo},
};

/// Everything that hosts with the same facts must show alike.
pub fn portrait(store: &Store) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    all.insert("tags".into(), format!("{:?}", store.view().tags().unwrap()));
    let mut open = vec![(String::new(), Ino::FIRST)];
    while let Some((path, dir)) = open.pop() {
        all.insert(format!("{path}/"), describe(store, dir));
        all.insert(format!("{path}/ deleted"), deleted(store, dir));
        let mut names: BTreeSet<Vec<u8>> = NAMES.iter().map(|n| n.to_vec()).collect();
        names.extend(store.view().entries(dir, None, usize::MAX).unwrap().into_iter().map(|e| e.name));
        names.extend(store.view().gone(dir, None, usize::MAX).unwrap().into_iter().map(|g| g.name));
        for name in names {
            let of = format!("{path}/{} history", name.escape_ascii());
            let (whole, versions) = history(store, dir, &name);
            all.insert(of.clone(), whole);
            all.extend(versions.into_iter().map(|(id, says)| (format!("{VERSION}{id} in {of}"), says)));
        }
        for e in store.view().entries(dir, None, usize::MAX).unwrap() {
            let at = format!("{path}/{}", e.name.escape_ascii());
            for (n, c) in store.view().contenders(dir, &e.name).unwrap().into_iter().enumerate() {
                if n == 0 && c.kind == ObjectKind::Directory {
                    open.push((at.clone(), c.ino));
                } else {
                    all.insert(format!("{at} #{n}"), describe(store, c.ino));
                    all.extend(versions(store, c.ino, c.kind));
                }
            }
        }
    }
    all
}

/// What came of who got in whose way, as far as it shows.
pub fn showing(store: &Store) -> BTreeSet<&'static str> {
    let v = store.view();
    let mut found = BTreeSet::new();
    let mut open = vec![Ino::FIRST];
    while let Some(dir) = open.pop() {
        let gone = v.gone(dir, None, usize::MAX).unwrap();
        if !gone.is_empty() {
            found.insert("a name that was deleted");
        }
        let entries = v.entries(dir, None, usize::MAX).unwrap();
        for name in entries.iter().map(|e| &e.name).chain(gone.iter().map(|g| &g.name)) {
            let Some(mut h) = v.history(dir, name).unwrap() else { continue };
            let all = h.from(0, usize::MAX).unwrap();
            if all.iter().any(|p| p.shared) {
                found.insert("one number for two versions");
            }
            if all.iter().any(|p| p.ino != all[0].ino) {
                found.insert("a history of several objects");
            }
        }
        for e in entries {
            let contenders = v.contenders(dir, &e.name).unwrap();
            if contenders.len() > 1 {
                found.insert("several files at one name");
            }
            for c in contenders {
                if v.heads(c.ino).unwrap().len() > 1 {
                    found.insert("several heads of one file");
                }
            }
            if e.kind == ObjectKind::Directory {
                open.push(e.ino);
            }
        }
    }
    found
}

/// Names that hosts use: what was moved away leaves a history too, which no list shows.
const NAMES: [&[u8]; 9] = [b"n0", b"n1", b"n2", b"n3", b"n4", b"tmp", b"in", b"below", b"same"];

/// Names that are gone, with what they ended with.
fn deleted(store: &Store, dir: Ino) -> String {
    let v = store.view();
    let mut s = String::new();
    for g in v.gone(dir, None, usize::MAX).unwrap() {
        let object = v.attributes(g.ino).unwrap().object;
        let name = g.name.escape_ascii();
        let _ = write!(s, "\n  {name} {object} {:?} {} {}", g.kind, g.versions, g.removed_ns);
    }
    s
}

/// The history of a name: numbers, objects and versions, whichever way it is asked.
fn history(store: &Store, dir: Ino, name: &[u8]) -> (String, Vec<(VersionId, String)>) {
    let v = store.view();
    let Some(mut found) = v.history(dir, name).unwrap() else { return ("none".into(), Vec::new()) };
    let s = format!("{} before {}", found.newest(), found.before_own());
    let forth = found.from(0, usize::MAX).unwrap();
    let mut back = v.history(dir, name).unwrap().unwrap().before(None, usize::MAX).unwrap();
    back.reverse();
    assert_eq!(forth, back, "the history of {} is not the same from its end", name.escape_ascii());
    let object = |ino| v.attributes(ino).unwrap().object;
    (s, forth.into_iter().map(|p| (p.version.id, format!("{} {}", p.ordinal, object(p.ino)))).collect())
}

fn describe(store: &Store, ino: Ino) -> String {
    let v = store.view();
    let a = v.attributes(ino).unwrap();
    let mut s = String::new();
    let _ = write!(
        s,
        "{} {:?} {:o} {:?} links {} size {} modified {:?} changed {:?}",
        a.object,
        a.kind,
        a.mode,
        a.owner,
        a.links,
        if a.draft { 0 } else { a.size },
        a.modified,
        a.changed
    );
    for name in v.xattrs(ino).unwrap() {
        let _ = write!(s, "\n  {} = {:?}", name.escape_ascii(), v.xattr(ino, &name).unwrap());
    }
    if a.kind == ObjectKind::Symlink {
        let _ = write!(s, "\n  -> {}", v.read_link(ino).unwrap().escape_ascii());
    }
    let of = v.versions(ino, None, usize::MAX).unwrap();
    let heads = v.heads(ino).unwrap();
    let mut heads: Vec<_> = of.iter().filter(|i| heads.contains(&i.lsn)).map(|i| i.id).collect();
    heads.sort();
    let _ = write!(s, "\n  heads {heads:?}");
    if a.kind == ObjectKind::File {
        let mut bytes = vec![0; a.size as usize];
        v.read(ino, 0, &mut bytes).unwrap();
        let sum = bytes.iter().fold(0_u64, |s, b| s.wrapping_mul(0x0100_0000_01b3) ^ u64::from(*b));
        let _ = write!(s, "\n  shows {sum:x}");
    }
    s
}

/// What begins the name of a version in a portrait.
const VERSION: &str = "version ";

/// Is this a version's place in a portrait?
pub fn is_version(key: &str) -> bool {
    key.starts_with(VERSION)
}

/// Each version of an object, with its content.
fn versions(store: &Store, ino: Ino, kind: ObjectKind) -> Vec<(String, String)> {
    let found = store.view().versions(ino, None, usize::MAX).unwrap();
    let line = |i: &VersionInfo| {
        let mut bytes = vec![0; i.size as usize];
        if kind == ObjectKind::File {
            assert_eq!(store.read_version(ino, i.lsn, 0, &mut bytes).unwrap(), bytes.len());
        }
        let sum = bytes.iter().fold(0_u64, |s, b| s.wrapping_mul(0x0100_0000_01b3) ^ u64::from(*b));
        let of = store.view().attributes(ino).unwrap().object;
        (
            format!("{VERSION}{}", i.id),
            format!("{of} {} {} {} {:?} {sum:x}", i.ordinal, i.created_ns, i.size, i.parents),
        )
    };
    found.iter().map(line).collect()
}

/// For whoever hunts a difference: what a host's log says of an object.
pub fn trace(store: &Store, object: &str) {
    store.sync_all().unwrap();
    let begins = |from: &u64| {
        matches!(store.subscribe(Lsn::new(*from)).try_next(), Ok(Some(segfs::log::Next::Record(_))))
    };
    let Some(from) = (1..=store.last_lsn().get()).find(begins) else { return };
    let mut s = store.subscribe(Lsn::new(from));
    while let Ok(Some(segfs::log::Next::Record(r))) = s.try_next() {
        let Some(head) = r.head else { continue };
        if r.kind == segfs::format::Kind::Extent {
            if head.object.to_string() == object || r.flags & 4 != 0 {
                println!(
                    "  {} extent flags {} at {} len {} {:?}",
                    r.lsn, r.flags, head.arg, head.raw_len, head.origin
                );
            }
            continue;
        }
        let facts: Vec<Fact> = code::decode(&r.payload).unwrap();
        for f in facts {
            let f = match &f {
                Fact::Told(t) => format!("told {} {}: {:?}", t.hlc, t.store, code::decode::<Fact>(&t.fact)),
                f => format!("{f:?}"),
            };
            if f.contains(object) {
                println!("  {} {} flags {} stamp {}: {f}", r.lsn, head.origin.seq, r.flags, head.stamp);
            }
        }
    }
}
