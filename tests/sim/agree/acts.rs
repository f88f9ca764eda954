//! What the hosts of a world do: alone, and in each other's way.

use segfs::{
    base::{Error, Ino, VersionId},
    format::facts::{ObjectKind, Owner, Time},
    store::{Attributes, NewObject, Rename, SetAttributes, Store},
};

use super::World;

impl World {
    /// Two hosts do what gets in each other's way, before either hears of the other.
    pub fn duel(&mut self, i: usize, j: usize) {
        self.exchange(i, j, 0);
        self.exchange(j, i, 0);
        let (a, b): (&[u8], &[u8]) = (b"n0", b"n1");
        let both = |world: &Self, name: &[u8]| {
            let [x, y] = [i, j].map(|h| world.store(h).view().lookup(Ino::FIRST, name).ok());
            x.zip(y).filter(|(x, y)| x.object == y.object)
        };
        let (here, there) = (both(self, a), both(self, b));
        let new_dir = NewObject::directory(0o755, Owner::default());
        let bytes = self.rng.next();
        let how = self.rng.below(6);
        let (s, t) = (self.store(i), self.store(j));
        let mut written = Vec::new();
        let done: [Result<(), Error>; 2] = match (how, here.clone(), there.clone()) {
            // Each into the other, if they are directories; else over each other.
            (0 | 1, Some((x, x2)), Some((y, _))) => {
                let dirs = x.kind == ObjectKind::Directory && y.kind == ObjectKind::Directory;
                let into = |d: Ino| if dirs { d } else { Ino::FIRST };
                let name = |n| if dirs { &b"in"[..] } else { n };
                [
                    s.rename((Ino::FIRST, a), (into(y.ino), name(b)), Rename::Replace).map(drop),
                    t.rename((Ino::FIRST, b), (into(x2.ino), name(a)), Rename::Replace).map(drop),
                ]
            }
            // A delete against an edit, and against a further link.
            (2, Some((x, x2)), _) if x.kind == ObjectKind::File => {
                let removed = s.unlink(Ino::FIRST, a).map(drop);
                let edited = t.write(x2.ino, bytes % 5000, b"edited").and_then(|_| t.commit_version(x2.ino));
                [removed, edited.map(|(_, id)| written.extend(id))]
            }
            (3, Some((x, x2)), _) if x.kind == ObjectKind::File => {
                [s.unlink(Ino::FIRST, a).map(drop), t.link(x2.ino, Ino::FIRST, b"n4").map(drop)]
            }
            // A removal against a file made below.
            (4, Some((x, x2)), _) if x.kind == ObjectKind::Directory => {
                let removed = s.rmdir(Ino::FIRST, a).map(drop);
                let made = write(t, x2.ino, b"below", bytes, &mut written);
                [removed, made]
            }
            // A directory made twice, with something in each.
            _ => [s, t].map(|s| {
                let dir = s.create_object(Ino::FIRST, b"n3", &new_dir)?.1.ino;
                s.create_object(dir, b"same", &new_dir).map(drop)
            }),
        };
        self.note_made(j, &written);
        self.hosts[j].pending.extend(written);
        let both_dirs = |(x, y): (&Attributes, &Attributes)| {
            x.kind == ObjectKind::Directory && y.kind == ObjectKind::Directory
        };
        let what = match (how, here.as_ref(), there.as_ref()) {
            (0 | 1, Some((x, _)), Some((y, _))) if both_dirs((x, y)) => "directories moved into each other",
            (0 | 1, Some(_), Some(_)) => "renames across each other",
            (2, Some((x, _)), _) if x.kind == ObjectKind::File => "a delete against an edit",
            (3, Some((x, _)), _) if x.kind == ObjectKind::File => "a delete against a link",
            (4, Some((x, _)), _) if x.kind == ObjectKind::Directory => "a removal against a file made below",
            _ => "a directory made twice",
        };
        if done.iter().all(Result::is_ok) {
            self.strike(what);
        }
        for e in done.into_iter().filter_map(Result::err) {
            assert!(matches!(e, Error::Fs(_)), "seed {}: {e}", self.seed);
        }
    }

    /// Up to `limit` directories, and some more.
    pub fn directories(&self, i: usize, limit: usize) -> Vec<Ino> {
        let mut found = vec![Ino::FIRST];
        let mut at = 0;
        while at < found.len() && found.len() < limit {
            for e in self.store(i).view().entries(found[at], None, 100).unwrap() {
                if e.kind == ObjectKind::Directory {
                    found.push(e.ino);
                }
            }
            at += 1;
        }
        found
    }

    pub fn operate(&mut self, i: usize) {
        let dirs = self.directories(i, 12);
        let dir = dirs[self.rng.below(dirs.len() as u64) as usize];
        let other = dirs[self.rng.below(dirs.len() as u64) as usize];
        let name = |n: u64| format!("n{n}").into_bytes();
        let (a, b) = (name(self.rng.below(5)), name(self.rng.below(5)));
        let (what, bytes) = (self.rng.below(100), self.rng.next());
        let store = self.hosts[i].store.as_ref().unwrap();
        let there = store.view().lookup(dir, &a).ok();
        let mut made = Vec::new();
        let mut linked = false;
        let result: Result<(), Error> = match what {
            0..18 => store.create_object(dir, &a, &NewObject::directory(0o755, Owner::default())).map(drop),
            18..22 => {
                store.create_object(dir, &a, &NewObject::symlink(b.clone(), Owner::default())).map(drop)
            }
            22..50 => write(store, dir, &a, bytes, &mut made),
            50..58 => store.unlink(dir, &a).map(drop),
            58..64 => store.rmdir(dir, &a).map(drop),
            64..84 => {
                let how = [Rename::Replace, Rename::Replace, Rename::NoReplace, Rename::Exchange];
                store.rename((dir, &a), (other, &b), how[bytes as usize % 4]).map(drop)
            }
            84..90 => there.map_or(Ok(()), |t| {
                linked = t.kind != ObjectKind::Directory;
                store.link(t.ino, other, &b).map(drop)
            }),
            90..94 => there.map_or(Ok(()), |t| {
                let mode = Some((bytes as u32) & 0o7777);
                let modified = (bytes % 3 == 0).then_some(Time { seconds: -5, nanos: bytes as u32 % 1000 });
                store.set_attributes(t.ino, &SetAttributes { mode, modified, ..Default::default() }).map(drop)
            }),
            94..98 => there.map_or(Ok(()), |t| {
                let value = [bytes as u8];
                let value = (bytes % 4 != 0).then_some(&value[..]);
                store.set_xattr(t.ino, b"user.x", value, None).map(drop)
            }),
            _ => store.tag(&a, bytes % 3 != 0).map(drop),
        };
        self.note_made(i, &made);
        self.hosts[i].pending.extend(made);
        if linked && result.is_ok() {
            self.strike("a hard link");
        }
        if let Err(e) = result {
            assert!(matches!(e, Error::Fs(_)), "seed {}: {e}", self.seed);
        }
    }
}

/// Writes a file as an editor would: in place, or a new one renamed over the old.
fn write(store: &Store, dir: Ino, name: &[u8], bytes: u64, made: &mut Vec<VersionId>) -> Result<(), Error> {
    let by_rename = bytes.is_multiple_of(3);
    let target: &[u8] = if by_rename { b"tmp" } else { name };
    let ino = match store.view().lookup(dir, target) {
        Ok(a) => a.ino,
        Err(_) => store.create_object(dir, target, &NewObject::file(0o644, Owner::default()))?.1.ino,
    };
    let data: Vec<u8> = (0..(bytes >> 8) % 9000).map(|n| (n ^ bytes) as u8).collect();
    if bytes.is_multiple_of(5) {
        store.truncate(ino, (bytes >> 16) % 200_000)?;
    }
    if !data.is_empty() {
        store.write(ino, (bytes >> 24) % 150_000, &data)?;
    }
    made.extend(store.commit_version(ino)?.1);
    if by_rename {
        store.rename((dir, b"tmp"), (dir, name), Rename::Replace)?;
    }
    Ok(())
}
