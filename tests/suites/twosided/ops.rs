//! What can be done to a filesystem, and choosing some of it from a seed.

use crate::sim::rng::Rng;

/// Open files at one time.
pub(super) const SLOTS: usize = 5;
/// Block size of ext4, in bytes.
pub(super) const BLOCK: u64 = 4096;

/// Who does it: an index into [`USERS`].
pub(super) type User = usize;
/// User, group, and further groups. The first is root, who does most.
pub(super) const USERS: &[(u32, u32, &[u32])] = &[(0, 0, &[]), (65534, 65534, &[]), (5, 60, &[1000, 65534])];

/// Ids that owners are chosen from.
const IDS: &[u32] = &[0, 5, 60, 1000, 65534];
/// Names from which paths are made. Few, so that they meet.
const NAMES: &[&str] = &["a", "b", "c", "d", "e"];
/// Names of extended attributes; the kernel has its own opinion of some.
const XATTRS: &[&str] = &["user.a", "user.bb", "trusted.t", "security.s", "nospace", "user."];
/// Bytes of which a comparison reads every one, if it must.
const NEAR: u64 = 1 << 22;
/// The longest name that there is.
const LONGEST: usize = 255;

/// One operation. Paths are below the world's root; slots hold open files.
#[derive(Debug, Clone)]
pub(super) enum Op {
    Mkdir(String, u32),
    Rmdir(String),
    Unlink(String),
    Mknod(String, Node, u32),
    Symlink(String, String),
    ReadLink(String),
    Link {
        from: String,
        to: String,
        follow: bool,
    },
    Rename(String, String, Renaming),
    Open {
        slot: usize,
        path: String,
        how: How,
        mode: u32,
    },
    Close(usize),
    Write {
        slot: usize,
        at: Option<u64>,
        len: usize,
        fill: u8,
    },
    Read {
        slot: usize,
        at: u64,
        len: usize,
    },
    FTruncate(usize, u64),
    Truncate(String, u64),
    Allocate {
        slot: usize,
        mode: Allocating,
        at: u64,
        len: u64,
    },
    Copy {
        from: usize,
        from_at: u64,
        to: usize,
        to_at: u64,
        len: usize,
    },
    Ranges(usize),
    Sync(usize),
    Chmod(String, u32),
    FChmod(usize, u32),
    Chown {
        path: String,
        user: Option<u32>,
        group: Option<u32>,
        follow: bool,
    },
    Times {
        path: String,
        accessed: Stamp,
        modified: Stamp,
        follow: bool,
    },
    SetXattr {
        path: String,
        name: &'static str,
        len: usize,
        how: Option<bool>,
        follow: bool,
    },
    GetXattr(String, &'static str),
    RemoveXattr(String, &'static str),
    ListXattrs(String),
    SetAcl {
        path: String,
        default: bool,
        entries: Vec<(u16, u16, u32)>,
    },
    Access(String, u8),
    List(String),
    Stat(String),
    /// Unmounts and mounts again; all files are closed before.
    Remount,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Node {
    File,
    Fifo,
    Socket,
    Char,
    Block,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Renaming {
    Plain,
    NoReplace,
    Exchange,
    Whiteout,
}

#[derive(Debug, Clone, Copy)]
#[allow(clippy::struct_excessive_bools)] // open(2) flags
pub(super) struct How {
    /// Reads, writes, both.
    pub access: u8,
    pub create: bool,
    pub exclusive: bool,
    pub truncate: bool,
    pub append: bool,
    pub direct: bool,
    pub directory: bool,
    pub no_follow: bool,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Allocating {
    Extend,
    Keep,
    Punch,
    Zero,
    ZeroKeep,
    PunchWithoutKeep,
}

/// A time to set: now, leave it, or seconds and nanoseconds.
#[derive(Debug, Clone, Copy)]
pub(super) enum Stamp {
    Now,
    Omit,
    To(i64, i64),
}

fn one_of<T: Copy>(rng: &mut Rng, all: &[T]) -> T {
    all[rng.below(all.len() as u64) as usize]
}

fn path(rng: &mut Rng) -> String {
    let mut path = one_of(rng, NAMES).to_owned();
    while rng.percent(45) && path.len() < 8 {
        path += "/";
        path += one_of(rng, NAMES);
    }
    match rng.below(200) {
        0 => path += "/.",
        1 => path += "/..",
        2 => path += "/",
        3 => path = format!("{path}/{}", "n".repeat(LONGEST)),
        4 => path = format!("{path}/{}", "n".repeat(LONGEST + 1)),
        5 => path += "\u{1}\u{fffd} \n",
        6 => path = String::new(),
        _ => {}
    }
    path
}

fn mode(rng: &mut Rng) -> u32 {
    // Mostly such that the other users get in.
    match rng.below(10) {
        0..4 => 0o777,
        4..6 => 0o755,
        6 => one_of(rng, &[0o2777, 0o1777, 0o4755, 0o6755, 0o2745, 0o6666]),
        _ => rng.below(0o10000) as u32,
    }
}

fn slot(rng: &mut Rng) -> usize {
    rng.below(SLOTS as u64) as usize
}

/// An offset: near the beginning as a rule, often at the edge of a block, sometimes far out.
fn offset(rng: &mut Rng) -> u64 {
    match rng.below(20) {
        0..8 => rng.below(3 * BLOCK),
        8..15 => rng.below(64) * BLOCK,
        15..18 => rng.below(600_000),
        18 => one_of(rng, &[1 << 20, (1 << 32) + 5, 1 << 36]),
        // Ext4 ends at 16 TiB.
        _ => (1 << 43) + rng.below(9),
    }
}

fn length(rng: &mut Rng) -> usize {
    match rng.below(10) {
        0 => 0,
        1..4 => rng.below(100) as usize,
        4..7 => (rng.below(8) * BLOCK) as usize,
        _ => rng.below(40_000) as usize,
    }
}

/// A size that a file is cut or grown to: not so far out that comparing contents takes for ever.
fn size(rng: &mut Rng) -> u64 {
    offset(rng).min(NEAR)
}

fn stamp(rng: &mut Rng) -> Stamp {
    match rng.below(8) {
        0 => Stamp::Now,
        1 => Stamp::Omit,
        2 => Stamp::To(-1, 999_999_999),
        3 => Stamp::To(-(rng.below(1 << 31) as i64), rng.below(1_000_000_000) as i64),
        4 => Stamp::To((1 << 31) + rng.below(1 << 32) as i64, rng.below(1_000_000_000) as i64),
        5 => Stamp::To(5, 1_000_000_000),
        _ => Stamp::To(rng.below(1_500_000_000) as i64, rng.below(1_000_000_000) as i64),
    }
}

fn acl(rng: &mut Rng) -> Vec<(u16, u16, u32)> {
    let any = u32::MAX;
    let mut bits = || rng.below(8) as u16;
    let mut entries = vec![(1, bits() | 4, any), (4, bits(), any), (0x20, bits(), any)];
    if rng.percent(70) {
        entries.push((0x10, rng.below(8) as u16, any));
        for id in [5, 65534] {
            if rng.percent(50) {
                entries.push((2, rng.below(8) as u16, id));
            }
        }
        if rng.percent(40) {
            entries.push((8, rng.below(8) as u16, 60));
        }
    }
    if rng.percent(5) {
        entries.truncate(rng.below(3) as usize); // none, or no ACL at all
    }
    entries.sort_unstable();
    entries
}

fn how(rng: &mut Rng) -> How {
    let direct = rng.percent(15);
    How {
        access: rng.below(3) as u8,
        create: rng.percent(60),
        exclusive: rng.percent(8),
        truncate: rng.percent(15),
        // Direct access ends at a block's edge, and the file need not.
        append: rng.percent(20) && !direct,
        direct,
        directory: rng.percent(4),
        no_follow: rng.percent(10),
    }
}

fn on_a_file(rng: &mut Rng) -> Op {
    let slot = slot(rng);
    match rng.below(20) {
        0..7 => {
            let at = if rng.percent(80) { Some(offset(rng)) } else { None };
            Op::Write { slot, at, len: length(rng), fill: rng.next() as u8 }
        }
        7..11 => Op::Read { slot, at: offset(rng), len: length(rng) },
        11 => Op::FTruncate(slot, size(rng)),
        12..15 => {
            use Allocating::*;
            let modes = [Extend, Keep, Punch, Punch, Zero, ZeroKeep, PunchWithoutKeep];
            let (at, len) = (size(rng), length(rng) as u64);
            // A quarter of the disk at most, that nothing fails for want of space.
            Op::Allocate { slot, mode: one_of(rng, &modes), at, len }
        }
        15 | 16 => {
            let to = self::slot(rng);
            Op::Copy { from: slot, from_at: size(rng), to, to_at: size(rng), len: length(rng) }
        }
        17 => Op::Ranges(slot),
        18 => Op::Sync(slot),
        _ => Op::FChmod(slot, mode(rng)),
    }
}

fn on_attributes(rng: &mut Rng) -> Op {
    let path = path(rng);
    let follow = rng.percent(70);
    match rng.below(20) {
        0..3 => Op::Chmod(path, mode(rng)),
        3..6 => {
            let mut id = || if rng.percent(70) { Some(one_of(rng, IDS)) } else { None };
            let (user, group) = (id(), id());
            // Both left as they are: the kernel does not tell FUSE enough to refuse that to strangers.
            Op::Chown { path, user, group: if user.is_none() { group.or(Some(60)) } else { group }, follow }
        }
        6..9 => Op::Times { path, accessed: stamp(rng), modified: stamp(rng), follow },
        9..11 => {
            let how = one_of(rng, &[None, None, Some(true), Some(false)]);
            // Ext4 has no room for more than a block of them.
            let len = one_of(rng, &[0, 1, 20, 300, 900]);
            Op::SetXattr { path, name: one_of(rng, XATTRS), len, how, follow }
        }
        11 => Op::GetXattr(path, one_of(rng, XATTRS)),
        12 => Op::RemoveXattr(path, one_of(rng, XATTRS)),
        13 => Op::ListXattrs(path),
        14..17 => Op::SetAcl { path, default: rng.percent(50), entries: acl(rng) },
        17 => Op::Access(path, rng.below(8) as u8),
        _ => Op::Stat(path),
    }
}

impl Op {
    /// The same not so far out in a file: for a filesystem that takes holes for data.
    pub(super) fn near(self) -> Self {
        match self {
            Op::Write { slot, at, len, fill } => Op::Write { slot, at: at.map(|at| at.min(NEAR)), len, fill },
            Op::Read { slot, at, len } => Op::Read { slot, at: at.min(NEAR), len },
            other => other,
        }
    }
}

/// Chooses an operation, and who does it.
pub(super) fn choose(rng: &mut Rng) -> (User, Op) {
    let user = if rng.percent(60) { 0 } else { 1 + rng.below(USERS.len() as u64 - 1) as usize };
    let op = match rng.below(100) {
        0..9 => Op::Mkdir(path(rng), mode(rng)),
        9..12 => Op::Rmdir(path(rng)),
        12..16 => Op::Unlink(path(rng)),
        16 => {
            let kind = one_of(rng, &[Node::File, Node::Fifo, Node::Socket, Node::Char, Node::Block]);
            Op::Mknod(path(rng), kind, mode(rng))
        }
        17..19 => Op::Symlink(if rng.percent(90) { path(rng) } else { "/x".repeat(1000) }, path(rng)),
        19 => Op::ReadLink(path(rng)),
        20..23 => Op::Link { from: path(rng), to: path(rng), follow: rng.percent(30) },
        23..30 => {
            use Renaming::*;
            let how = one_of(rng, &[Plain, Plain, Plain, NoReplace, Exchange, Exchange, Whiteout]);
            Op::Rename(path(rng), path(rng), how)
        }
        30..42 => Op::Open { slot: slot(rng), path: path(rng), how: how(rng), mode: mode(rng) },
        42..44 => Op::Close(slot(rng)),
        44 => Op::Truncate(path(rng), size(rng)),
        45 => Op::List(path(rng)),
        46..75 => on_a_file(rng),
        _ if rng.below(400) == 0 => Op::Remount,
        _ => on_attributes(rng),
    };
    (user, op)
}
