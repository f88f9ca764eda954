//! The table of mounts, as the kernel shows it. Nothing here asks a mounted filesystem anything.

use std::{
    ffi::OsString,
    os::unix::ffi::OsStringExt,
    path::{Path, PathBuf},
};

/// The filesystem type that mount tables show.
const TYPE: &[u8] = b"fuse.segfs";

/// A mount of ours.
#[derive(Debug, Clone)]
pub struct Mounted {
    /// Where.
    pub dir: PathBuf,
    /// The store, as far as the table says.
    pub store: PathBuf,
    /// Numbers of its device, as sysfs names it.
    pub device: String,
    /// Nothing can be changed.
    pub read_only: bool,
}

/// An entry of the mount table.
struct Row {
    dir: PathBuf,
    device: String,
    kind: Vec<u8>,
    source: PathBuf,
    read_only: bool,
}

/// `\040` and the like, as the table writes them.
fn unescape(field: &[u8]) -> PathBuf {
    let mut out = Vec::with_capacity(field.len());
    let mut i = 0;
    while i < field.len() {
        let octal = field
            .get(i + 1..i + 4)
            .filter(|d| field[i] == b'\\' && d.iter().all(|c| (b'0'..=b'7').contains(c)));
        if let Some(d) = octal {
            out.push(d.iter().fold(0_u8, |n, c| n.wrapping_mul(8).wrapping_add(c - b'0')));
            i += 4;
        } else {
            out.push(field[i]);
            i += 1;
        }
    }
    PathBuf::from(OsString::from_vec(out))
}

fn table() -> Vec<Row> {
    let text = std::fs::read("/proc/self/mountinfo").unwrap_or_default();
    text.split(|b| *b == b'\n').filter_map(row).collect()
}

/// `id parent dev root DIR options [optional...] - TYPE SOURCE options`
fn row(line: &[u8]) -> Option<Row> {
    let fields: Vec<&[u8]> = line.split(|b| *b == b' ').collect();
    let dash = fields.iter().position(|f| *f == b"-")?;
    Some(Row {
        dir: unescape(fields.get(4)?),
        device: String::from_utf8_lossy(fields.get(2)?).into_owned(),
        kind: fields.get(dash + 1)?.to_vec(),
        source: unescape(fields.get(dash + 2)?),
        read_only: fields.get(5)?.split(|b| *b == b',').any(|o| o == b"ro"),
    })
}

/// All mounts of ours.
pub fn all() -> Vec<Mounted> {
    let ours = table().into_iter().filter(|r| r.kind == TYPE);
    let mounted = |r: Row| Mounted { dir: r.dir, store: r.source, device: r.device, read_only: r.read_only };
    ours.map(mounted).collect()
}

/// The mount on a directory, if it is one of ours.
pub fn on(dir: &Path) -> Option<Mounted> {
    let dir = absolute(dir);
    all().into_iter().rfind(|m| m.dir == dir)
}

/// Is anything mounted on a directory?
pub fn is_mountpoint(dir: &Path) -> bool {
    let dir = absolute(dir);
    table().iter().any(|r| r.dir == dir)
}

/// Where a store is mounted.
pub fn of_store(store: &Path) -> Option<Mounted> {
    let store = absolute(store);
    all().into_iter().find(|m| m.store == store)
}

/// A path as the table names it. Works for a dead mount too, whose own directory can't be asked.
pub fn absolute(path: &Path) -> PathBuf {
    if let Ok(real) = path.canonicalize() {
        return real;
    }
    let whole = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    match (whole.parent().and_then(|p| p.canonicalize().ok()), whole.file_name()) {
        (Some(parent), Some(name)) => parent.join(name),
        _ => whole,
    }
}
