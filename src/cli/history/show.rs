//! `segfs cat` and `segfs path`.

use std::{
    fs::File,
    io::{self, Write},
    path::{Path, PathBuf},
};

use segfs::console::Output;
use serde_json::json;

use super::{
    super::failure::{Failure, NOT_FOUND, Outcome, mounts},
    place::{Base, Place},
    versions::{Found, find, split},
};

/// FILE, and V, if one is named: behind its `@`, or apart.
pub fn parts(base: &Base, arg: &Path, version: Option<&str>) -> (PathBuf, Option<String>) {
    match version {
        Some(v) => (arg.to_owned(), Some(v.to_owned())),
        None => split(base, arg),
    }
}

/// The version that `FILE@V` names, or FILE with a version apart; without one the present.
pub fn resolve(base: &Base, arg: &Path, version: Option<&str>) -> Outcome<(PathBuf, Found)> {
    let (file, version) = parts(base, arg, version);
    let Some(version) = version else {
        let path = base.path(&file);
        if let Err(e) = std::fs::symlink_metadata(&path) {
            let what = format!("{} can't be read", file.display());
            if e.kind() != io::ErrorKind::NotFound {
                return Err(Failure::system(what, &e));
            }
            let next = format!("segfs log {}, and name a version: {}@-1", file.display(), file.display());
            return Err(Failure::new(NOT_FOUND, what, "there is no such file now", next));
        }
        return Ok((file, Found { path, label: "now".to_owned() }));
    };
    let place = Place::new(base, &file)?;
    let found = find(&place, &version)?;
    Ok((file, found))
}

/// Prints a version.
pub fn cat(base: &Base, arg: &Path, version: Option<&str>) -> Outcome<()> {
    let (file, found) = resolve(base, arg, version)?;
    let what = || format!("{} ({}) can't be read", file.display(), found.label);
    let meta = std::fs::symlink_metadata(&found.path).map_err(|e| Failure::system(what(), &e))?;
    if meta.is_dir() {
        let next = format!("ls {}", found.path.display());
        return Err(Failure::usage(what(), "it is a directory", next));
    }
    let mut out = io::stdout().lock();
    if meta.is_symlink() {
        let target = std::fs::read_link(&found.path).map_err(|e| Failure::system(what(), &e))?;
        out.write_all(target.as_os_str().as_encoded_bytes())?;
        out.write_all(b"\n")?;
        return Ok(out.flush()?);
    }
    let mut from = open(&found.path).map_err(|e| Failure::system(what(), &e))?;
    let mut buffer = vec![0; 1 << 20];
    loop {
        let n = io::Read::read(&mut from, &mut buffer).map_err(|e| Failure::system(what(), &e))?;
        if n == 0 {
            return Ok(out.flush()?);
        }
        out.write_all(&buffer[..n])?;
    }
}

/// Prints where a version is.
pub fn path(base: &Base, arg: &Path, version: Option<&str>, json: bool) -> Outcome<()> {
    let (_, found) = resolve(base, arg, version)?;
    let path = found.path.parent().map_or_else(
        || found.path.clone(),
        |dir| mounts::absolute(dir).join(found.path.file_name().unwrap_or_default()),
    );
    if json {
        let mut out = Output::new(true);
        out.value(&json!({"path": path}))?;
        return out.finish();
    }
    let mut out = io::stdout().lock();
    out.write_all(path.as_os_str().as_encoded_bytes())?;
    Ok(out.write_all(b"\n")?)
}

/// Opens a file to read it.
#[allow(clippy::disallowed_methods)] // the edge
pub fn open(path: &Path) -> io::Result<File> {
    File::open(path)
}
