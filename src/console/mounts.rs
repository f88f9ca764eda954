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
    /// Numbers of its device, as in sysfs.
    pub device: String,
    /// The store, as far as the table says.
    pub store: PathBuf,
    /// Its options, as the kernel lists them.
    pub options: String,
}

/// An entry of the mount table.
struct Row {
    dir: PathBuf,
    device: String,
    kind: Vec<u8>,
    source: PathBuf,
    options: String,
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
    let text = |at: usize| fields.get(at).map(|f| String::from_utf8_lossy(f).into_owned());
    let mut options = text(5)?;
    // Of the options of the filesystem itself, the one that a person chose.
    if text(dash + 3).is_some_and(|all| all.split(',').any(|o| o == "allow_other")) {
        options.push_str(",allow_other");
    }
    Some(Row {
        dir: unescape(fields.get(4)?),
        device: text(2)?,
        kind: fields.get(dash + 1)?.to_vec(),
        source: unescape(fields.get(dash + 2)?),
        options,
    })
}

/// All mounts of ours.
#[must_use]
pub fn all() -> Vec<Mounted> {
    let ours = table().into_iter().filter(|r| r.kind == TYPE);
    ours.map(|r| Mounted { dir: r.dir, device: r.device, store: r.source, options: r.options }).collect()
}

/// The mount on a directory, if it is one of ours.
#[must_use]
pub fn on(dir: &Path) -> Option<Mounted> {
    let dir = absolute(dir);
    all().into_iter().rfind(|m| m.dir == dir)
}

/// The mount of ours that a path lies in, the path being as the table would name it.
#[must_use]
pub fn around(path: &Path) -> Option<Mounted> {
    let inside = all().into_iter().filter(|m| path.starts_with(&m.dir));
    inside.max_by_key(|m| m.dir.components().count())
}

/// Is anything mounted on a directory?
#[must_use]
pub fn is_mountpoint(dir: &Path) -> bool {
    let dir = absolute(dir);
    table().iter().any(|r| r.dir == dir)
}

/// Where a store is mounted.
#[must_use]
pub fn of_store(store: &Path) -> Option<Mounted> {
    let store = absolute(store);
    all().into_iter().find(|m| m.store == store)
}

/// A path as the table names it. Works for a dead mount too, whose own directory can't be asked.
#[must_use]
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

/// As [`absolute`], of the last name itself: where that is a symlink, what it leads to is not meant.
#[must_use]
pub fn absolute_name(path: &Path) -> PathBuf {
    let whole = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    match (whole.parent(), whole.file_name()) {
        (Some(parent), Some(name)) => absolute(parent).join(name),
        _ => absolute(path),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_table_is_taken_apart() {
        let line = b"36 35 98:0 / /mnt\\040a\\134b rw,noatime shared:1 master:2 - fuse.segfs /srv/x rw,user_id=0,allow_other";
        let row = row(line).unwrap();
        assert_eq!((row.dir, row.source), (PathBuf::from("/mnt a\\b"), PathBuf::from("/srv/x")));
        assert_eq!((row.kind.as_slice(), row.options.as_str()), (TYPE, "rw,noatime,allow_other"));
        assert!(super::row(b"36 35 98:0 / /mnt").is_none());
    }
}
