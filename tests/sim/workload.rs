//! What a world does next: operations from a seed, mostly such as can succeed.

use segfs::{
    format::facts::{ObjectKind, Owner, Time},
    store::{NewObject, Rename, SetAttributes},
};

use super::{
    model::{Ino, Object, Op, ROOT, Snapshot},
    rng::Rng,
};

const NAMES: u64 = 9;

fn pick<'a>(rng: &mut Rng, now: &'a Snapshot, wanted: impl Fn(&Object) -> bool) -> Option<(Ino, &'a Object)> {
    let count = now.objects.values().filter(|o| wanted(o)).count() as u64;
    if count == 0 {
        return None;
    }
    let mut those = now.objects.iter().filter(|(_, o)| wanted(o));
    those.nth(rng.below(count) as usize).map(|(ino, o)| (*ino, &**o))
}

fn dir(rng: &mut Rng, now: &Snapshot) -> Ino {
    let wrong = rng.percent(2);
    let live = pick(rng, now, |o| if wrong { o.parent.is_none() } else { o.parent.is_some() });
    live.map_or(ROOT, |(ino, _)| ino)
}

fn name(rng: &mut Rng) -> Vec<u8> {
    match rng.below(200) {
        0 => b"..".to_vec(),
        1 => b"a/b".to_vec(),
        2 => Vec::new(),
        3 => vec![b'x'; 256],
        4 | 5 => vec![b'y'; 255],
        6 | 7 => vec![1 + rng.below(8) as u8, 0xff, 0x80],
        _ => vec![b'a' + rng.below(NAMES) as u8],
    }
}

/// A directory and a name in it, mostly one that is there.
fn place(rng: &mut Rng, now: &Snapshot) -> (Ino, Vec<u8>) {
    if rng.percent(90)
        && let Some((ino, o)) = pick(rng, now, |o| !o.entries.is_empty())
    {
        let nth = rng.below(o.entries.len() as u64) as usize;
        let name = o.entries.keys().nth(nth).cloned().unwrap_or_default();
        return (ino, name);
    }
    (dir(rng, now), name(rng))
}

fn any(rng: &mut Rng, now: &Snapshot) -> Ino {
    if rng.percent(2) {
        return now.next_ino + rng.below(3);
    }
    pick(rng, now, |o| !o.reaped).map_or(ROOT, |(ino, _)| ino)
}

fn file(rng: &mut Rng, now: &Snapshot) -> Ino {
    if rng.percent(2) {
        return any(rng, now);
    }
    // Few files get most of the writes, so that histories grow.
    let few = rng.percent(60);
    let files = |o: &Object| o.kind == ObjectKind::File && !o.reaped && (!few || !o.versions.is_empty());
    pick(rng, now, files)
        .or_else(|| pick(rng, now, |o| o.kind == ObjectKind::File && !o.reaped))
        .map_or_else(|| any(rng, now), |(ino, _)| ino)
}

fn size_of(now: &Snapshot, ino: Ino) -> u64 {
    now.get(ino).map_or(0, |o| o.bytes.len() as u64)
}

fn offset(rng: &mut Rng, size: u64) -> u64 {
    match rng.below(40) {
        0 => rng.below(400 << 10),
        1 => 128 << 10,
        2..4 => size + rng.below(9000),
        4..16 => size,
        16..24 => rng.below(size.min(16 << 10) + 1) / 4096 * 4096,
        _ => rng.below(size.min(64 << 10) + 1),
    }
}

fn data(rng: &mut Rng) -> Vec<u8> {
    let len = match rng.below(20) {
        0 => 1 + rng.below(30 << 10),
        1..4 => 4096,
        4..8 => 1 + rng.below(6000),
        _ => 1 + rng.below(200),
    };
    let tag = rng.next();
    let mut out = Vec::with_capacity(len as usize + 8);
    if rng.percent(30) {
        out.resize(len as usize, tag as u8);
    } else {
        let mut cheap = Rng::new(tag);
        while out.len() < len as usize {
            out.extend_from_slice(&cheap.next().to_le_bytes());
        }
        out.truncate(len as usize);
    }
    out
}

fn owner(rng: &mut Rng) -> Owner {
    Owner { uid: rng.below(3) as u32, gid: rng.below(3) as u32 }
}

fn create(rng: &mut Rng, now: &Snapshot) -> Op {
    let (mode, owner) = (rng.below(0o10000) as u32, owner(rng));
    let mut new = match rng.below(10) {
        0 | 1 => NewObject::directory(mode, owner),
        2 => NewObject::symlink(data(rng).into_iter().take(40).collect::<Vec<_>>(), owner),
        3 => NewObject { kind: ObjectKind::Fifo, ..NewObject::file(mode, owner) },
        _ => NewObject::file(mode, owner),
    };
    if rng.percent(10) {
        new.xattrs = vec![(b"user.i".to_vec(), data(rng).into_iter().take(20).collect())];
    }
    Op::Create { dir: dir(rng, now), name: name(rng), new }
}

fn set(rng: &mut Rng, now: &Snapshot) -> Op {
    let set = SetAttributes {
        mode: rng.percent(40).then(|| rng.below(1 << 13) as u32),
        owner: rng.percent(30).then(|| owner(rng)),
        modified: rng
            .percent(30)
            .then(|| Time { seconds: rng.below(99) as i64 - 9, nanos: rng.below(9) as u32 }),
        accessed: rng.percent(20).then(|| Time { seconds: rng.below(99) as i64, nanos: 1 }),
        xattrs: if rng.percent(20) {
            let value = rng.percent(60).then(|| data(rng).into_iter().take(20).collect());
            vec![(b"user.i".to_vec(), value)]
        } else {
            Vec::new()
        },
    };
    Op::Set { ino: any(rng, now), set }
}

fn xattr(rng: &mut Rng, now: &Snapshot) -> Op {
    let name = match rng.below(30) {
        0 => Vec::new(),
        n => vec![b'u', b'.', b'a' + (n % 3) as u8],
    };
    let value = rng.percent(70).then(|| data(rng).into_iter().take(300).collect());
    let create = [None, None, None, Some(true), Some(false)][rng.below(5) as usize];
    Op::Xattr { ino: any(rng, now), name, value, create }
}

fn rename(rng: &mut Rng, now: &Snapshot) -> Op {
    let from = place(rng, now);
    let how = [Rename::Replace, Rename::Replace, Rename::NoReplace, Rename::Exchange][rng.below(4) as usize];
    let there = how == Rename::Exchange || rng.percent(40);
    let to = if there { place(rng, now) } else { (dir(rng, now), name(rng)) };
    Op::Rename { from, to, how }
}

fn clone(rng: &mut Rng, now: &Snapshot) -> Op {
    let (from, to) = (file(rng, now), file(rng, now));
    let at = rng.below(size_of(now, from) + 1);
    let len = if rng.percent(20) { 1 << 20 } else { rng.below(20_000) };
    Op::Clone { from: (from, at), to: (to, offset(rng, size_of(now, to))), len }
}

fn truncate(rng: &mut Rng, now: &Snapshot) -> Op {
    let ino = file(rng, now);
    let size = size_of(now, ino);
    let size = match rng.below(8) {
        0 | 1 => 0,
        2 => size + rng.below(10_000),
        3 => rng.below(300 << 10),
        4 => size / 4096 * 4096,
        _ => rng.below(size + 1),
    };
    Op::Truncate { ino, size }
}

fn remove(rng: &mut Rng, now: &Snapshot) -> Op {
    let some =
        pick(rng, now, |o| o.versions.len() > 1).or_else(|| pick(rng, now, |o| !o.versions.is_empty()));
    let Some((ino, o)) = some else { return Op::Remove { ino: ROOT, lsn: 1 } };
    let lsn = o.versions[rng.below(o.versions.len() as u64) as usize].lsn;
    Op::Remove { ino, lsn }
}

/// The next operation.
pub fn next(rng: &mut Rng, now: &Snapshot) -> Op {
    let crowded = now.objects.values().filter(|o| o.links > 0).count() > 30;
    match rng.below(100) {
        n @ 0..16 => {
            if crowded && n > 3 {
                let (dir, name) = place(rng, now);
                return Op::Unlink { dir, name, open: rng.percent(50) };
            }
            create(rng, now)
        }
        16..44 => {
            let ino = file(rng, now);
            let offset = offset(rng, size_of(now, ino));
            Op::Write { ino, offset, data: data(rng) }
        }
        44..56 => Op::Commit { ino: file(rng, now) },
        56..61 => truncate(rng, now),
        61..65 => {
            let ino = file(rng, now);
            let size = size_of(now, ino);
            Op::Punch { ino, offset: rng.below(size + 1), len: rng.below(size + 10) }
        }
        65..68 => clone(rng, now),
        68..72 => Op::Link { ino: any(rng, now), dir: dir(rng, now), name: name(rng) },
        72..78 => {
            let (dir, name) = place(rng, now);
            Op::Unlink { dir, name, open: rng.percent(50) }
        }
        78..80 => {
            let (dir, name) = place(rng, now);
            Op::Rmdir { dir, name }
        }
        80..88 => rename(rng, now),
        88..91 => set(rng, now),
        91..94 => xattr(rng, now),
        94..97 => remove(rng, now),
        97 => {
            let orphan = pick(rng, now, |o| o.links == 0 && !o.reaped && !o.is_dir());
            Op::Reap { ino: orphan.map_or(now.next_ino, |(ino, _)| ino) }
        }
        _ => Op::Tag { name: name(rng), on: rng.percent(70) },
    }
}
