//! What a filesystem shows, in a form that can be compared with another's.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs::{self, File},
    os::unix::{
        ffi::OsStringExt,
        fs::{FileExt, MetadataExt},
    },
    path::{Path, PathBuf},
};

use rustix::fs::{AtFlags, FileType, SeekFrom, Stat, fstat, statat};

use super::ops::BLOCK;

/// Times from here on are of this run, and differ; all before were set. Seconds since 1970: 2026.
const RUN_BEGINS: i64 = 1_767_225_600;
/// Times from here on were set too: the year 2040.
const RUN_ENDS: i64 = 2_208_988_800;

fn time(seconds: i64, nanos: u64) -> String {
    if (RUN_BEGINS..RUN_ENDS).contains(&seconds) { "now".into() } else { format!("{seconds}.{nanos:09}") }
}

/// Attributes, without what may differ: numbers of inodes and devices, the size of directories, times of this run.
pub(super) fn shown(s: &Stat) -> String {
    let kind = FileType::from_raw_mode(s.st_mode);
    let (size, device) = match kind {
        FileType::RegularFile | FileType::Symlink => (s.st_size, 0),
        FileType::CharacterDevice | FileType::BlockDevice => (0, s.st_rdev),
        _ => (0, 0),
    };
    let accessed = time(s.st_atime, s.st_atime_nsec);
    let modified = time(s.st_mtime, s.st_mtime_nsec);
    format!(
        "{kind:?} mode {:o} links {} owner {}:{} size {size} device {device} accessed {accessed} modified {modified}",
        s.st_mode & 0o7777,
        s.st_nlink,
        s.st_uid,
        s.st_gid
    )
}

/// Which object it is, its modification and its change time, to see whether an operation moved them.
pub(super) type Times = Option<(u64, [(i64, u64); 2])>;

fn times(s: &Stat) -> Times {
    Some((s.st_ino, [(s.st_mtime, s.st_mtime_nsec), (s.st_ctime, s.st_ctime_nsec)]))
}

pub(super) fn times_at(path: &Path) -> Times {
    statat(rustix::fs::CWD, path, AtFlags::SYMLINK_NOFOLLOW).ok().as_ref().and_then(times)
}

pub(super) fn times_of(file: &File) -> Times {
    fstat(file).ok().as_ref().and_then(times)
}

/// Waits until the clock has moved by which the kernel sets times of files where it keeps them itself.
pub(super) fn tick() {
    let now = || {
        let t = rustix::time::clock_gettime(rustix::time::ClockId::RealtimeCoarse);
        (t.tv_sec, t.tv_nsec)
    };
    let before = now();
    while now() == before {
        std::thread::sleep(std::time::Duration::from_micros(500));
    }
}

/// Which of two times moved, for each thing watched.
pub(super) fn moved(before: &[Times], after: &[Times]) -> Vec<&'static str> {
    let one = |(b, a): (&Times, &Times)| match (b, a) {
        (Some((was, _)), Some((is, _))) if was != is => "another",
        (Some((_, b)), Some((_, a))) => match (b[0] == a[0], b[1] == a[1]) {
            (true, true) => "=",
            (false, true) => "mtime",
            (true, false) => "ctime",
            (false, false) => "both",
        },
        (None, None) => "none",
        (None, Some(_)) => "came",
        (Some(_), None) => "went",
    };
    before.iter().zip(after).map(one).collect()
}

/// Ranges that hold data, rounded to blocks and merged: of what is below that, filesystems think differently.
pub(super) fn data_ranges(file: &File) -> Vec<(u64, u64)> {
    let size = file.metadata().map_or(0, |m| m.len());
    let position = rustix::fs::tell(file).expect("a file has a position");
    let mut ranges: Vec<(u64, u64)> = Vec::new();
    let mut at = 0;
    while let Ok(start) = rustix::fs::seek(file, SeekFrom::Data(at)) {
        let end = rustix::fs::seek(file, SeekFrom::Hole(start)).expect("the end of a file is a hole");
        assert!(start >= at && end > start && end <= size, "data at {start}..{end} of {size}");
        let (start, rounded) = (start / BLOCK * BLOCK, end.next_multiple_of(BLOCK));
        match ranges.last_mut() {
            Some(last) if last.1 >= start => last.1 = rounded,
            _ => ranges.push((start, rounded)),
        }
        at = end;
    }
    rustix::fs::seek(file, SeekFrom::Start(position)).expect("it was there before");
    ranges
}

/// Is each of these ranges part of one of those?
pub(super) fn within(these: &[(u64, u64)], those: &[(u64, u64)]) -> bool {
    these.iter().all(|(s, e)| those.iter().any(|(ts, te)| ts <= s && e <= te))
}

/// A hash of content that costs what is there, not how long the file is.
pub(super) fn content(file: &File) -> String {
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; BLOCK as usize];
    for (start, end) in data_ranges(file) {
        for at in (start..end).step_by(BLOCK as usize) {
            let mut n = 0;
            while let Ok(more @ 1..) = file.read_at(&mut buffer[n..], at + n as u64) {
                n += more;
            }
            // A block of zeros may be a hole on the other side.
            if buffer[..n].iter().any(|b| *b != 0) {
                hasher.update(&at.to_le_bytes());
                buffer[n..].fill(0);
                hasher.update(&buffer);
            }
        }
    }
    hasher.finalize().to_hex()[..16].to_owned()
}

/// The extended attributes, ACLs among them.
pub(super) fn xattrs(path: &Path) -> String {
    let mut list = vec![0; 1 << 16];
    let n = match rustix::fs::llistxattr(path, &mut list) {
        Ok(n) => n,
        Err(e) => return e.to_string(),
    };
    let mut names: Vec<&[u8]> = list[..n].split(|b| *b == 0).filter(|name| !name.is_empty()).collect();
    names.sort_unstable();
    let mut text = String::new();
    for name in names {
        let mut value = vec![0; 1 << 16];
        let n = rustix::fs::lgetxattr(path, name, &mut value).unwrap_or(0);
        text += &format!(" {}={}", String::from_utf8_lossy(name), hex(&value[..n]));
    }
    text
}

fn hex(bytes: &[u8]) -> String {
    if bytes.len() > 100 {
        return format!("{} bytes, {}", bytes.len(), &blake3::hash(bytes).to_hex()[..8]);
    }
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// Every path below a directory with all that it shows. Names of one file say which is the first.
pub(in crate::suites) fn tree(root: &Path) -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    let mut first: BTreeMap<u64, PathBuf> = BTreeMap::new();
    let mut left = vec![PathBuf::new()];
    while let Some(relative) = left.pop() {
        let path = root.join(&relative);
        let stat = statat(rustix::fs::CWD, &path, AtFlags::SYMLINK_NOFOLLOW)
            .unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let mut text = format!("{}{}", shown(&stat), xattrs(&path));
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                let mut names: Vec<OsString> =
                    fs::read_dir(&path).unwrap().map(|e| e.unwrap().file_name()).collect();
                names.sort_by(|a, b| b.cmp(a));
                left.extend(names.iter().map(|name| relative.join(name)));
            }
            FileType::Symlink => {
                let target = fs::read_link(&path).unwrap().into_os_string().into_vec();
                text += &format!(" -> {}", String::from_utf8_lossy(&target));
            }
            FileType::RegularFile => text += &format!(" holds {}", content(&File::open(&path).unwrap())),
            _ => {}
        }
        let name =
            first.entry(fs::symlink_metadata(&path).unwrap().ino()).or_insert_with(|| relative.clone());
        if *name != relative {
            text += &format!(" the same as {}", name.display());
        }
        found.insert(relative, text);
    }
    found
}
