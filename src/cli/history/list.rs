//! `segfs log`.

use std::{
    ffi::{OsStr, OsString},
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use clap::Args;
use segfs::console::{Output, age, size, time};
use serde_json::{Value, json};

use super::{
    super::failure::{Failure, NOT_FOUND, Outcome},
    StoreArg,
    place::{Base, Place, attribute, now_ns},
    versions::{Version, each_version},
};

/// What to list.
#[derive(Args)]
pub struct LogArgs {
    /// A file; with --all or --deleted a directory.
    path: PathBuf,
    /// The versions of every name in the directory, also of those that are gone.
    #[arg(long, conflicts_with = "deleted")]
    all: bool,
    /// The names that are gone from the directory.
    #[arg(long)]
    deleted: bool,
    #[command(flatten)]
    pub(super) store: StoreArg,
}

/// Lists versions, or names that are gone.
pub fn run(base: &Base, args: &LogArgs, json: bool) -> Outcome<()> {
    let shown = &args.path;
    let path = base.path(shown);
    let is_dir = fs::metadata(&path).is_ok_and(|m| m.is_dir());
    if is_dir && !args.all && !args.deleted {
        let what = format!("{} has no versions", shown.display());
        let next = format!(
            "segfs log --all {0}; segfs log --deleted {0}; what it was: segfs restore --dry-run {0}@2h --to X",
            shown.display()
        );
        return Err(Failure::usage(what, "it is a directory, and directories have moments", next));
    }
    if !is_dir && (args.all || args.deleted) {
        let what = format!("{} can't be listed", shown.display());
        if fs::symlink_metadata(&path).is_err() {
            return Err(Failure::new(NOT_FOUND, what, "there is no such directory", "check the path"));
        }
        return Err(Failure::usage(what, "it is not a directory", format!("segfs log {}", shown.display())));
    }
    let mut out = Output::new(json);
    if args.deleted {
        deleted(&mut out, base, shown)?;
    } else if args.all {
        all(&mut out, base, shown)?;
    } else {
        one(&mut out, &Place::new(base, shown)?)?;
    }
    out.finish()
}

const HEAD: [&str; 6] = ["VERSION", "AGE", "SIZE", "CHANGE", "ID", "ORIGIN"];
const RIGHT: [bool; 6] = [true, true, true, true, false, false];

fn one(out: &mut Output, place: &Place) -> Outcome<()> {
    let mut rows = Vec::new();
    let mut values = Vec::new();
    let now = now_ns();
    let mut last = 0;
    let json = out.json;
    each_version(place, |v| {
        let change = v.size.cast_signed() - std::mem::replace(&mut last, v.size).cast_signed();
        if json {
            values.push(value(&v, change));
        } else {
            rows.push(row(&v, change, now));
        }
        Ok(true)
    })?;
    if json {
        return out.value(&json!({"path": path_text(&place.shown), "versions": values}));
    }
    if rows.is_empty() {
        return out.line(
            "no versions: the file was never written, or none are made where it lies (segfs retain show)",
        );
    }
    out.table(&HEAD, &RIGHT, &rows)
}

fn value(v: &Version, change: i64) -> Value {
    json!({
        "ordinal": v.ordinal,
        "id": v.id,
        "creation_time": time(v.created_ns),
        "creation_time_ns": v.created_ns,
        "size": v.size,
        "change": change,
        "content_hash": v.hash,
        "mode": v.mode,
        "uid": v.owner.0,
        "gid": v.owner.1,
        "origin": v.origin,
        "lsn": v.lsn,
        "interrupted": v.flags & 1 != 0,
        "restored": v.flags & 2 != 0,
        "conflict": v.conflict,
        "lock": v.lock.as_ref().map(|(mode, until)| json!({"mode": mode, "until": time(*until), "until_ns": until})),
        "hold": v.hold,
    })
}

fn row(v: &Version, change: i64, now: u64) -> Vec<String> {
    let mut origin = v.origin.chars().take(8).collect::<String>();
    for (on, word) in
        [(v.flags & 1 != 0, "interrupted"), (v.flags & 2 != 0, "restored"), (v.conflict, "conflict")]
    {
        if on {
            origin.push_str("  ");
            origin.push_str(word);
        }
    }
    if let Some((mode, until)) = v.lock.as_ref().filter(|(_, until)| *until > now) {
        origin.push_str(&format!("  locked until {} ({mode})", time(*until).get(..10).unwrap_or_default()));
    }
    if v.hold {
        origin.push_str("  held");
    }
    let change = if change > 0 { format!("+{change}") } else { change.to_string() };
    vec![v.ordinal.to_string(), age(now, v.created_ns), size(v.size), change, v.id.clone(), origin]
}

/// The names in a list of the history of a directory, in order.
fn names(base: &Base, shown: &Path, list: &str) -> Outcome<Vec<OsString>> {
    let dir = base.path(shown).join(".segfs").join(list);
    let what = format!("the history of {} can't be read", shown.display());
    let read = || -> io::Result<Vec<OsString>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&dir)? {
            names.push(entry?.file_name());
        }
        names.sort();
        Ok(names)
    };
    read().map_err(|e| match e.kind() {
        io::ErrorKind::NotFound => {
            let why = "it is not in a mount of segfs that shows history";
            Failure::usage(what, why, "segfs status; or --store STORE for an unmounted one")
        }
        _ => Failure::system(what, &e),
    })
}

fn all(out: &mut Output, base: &Base, shown: &Path) -> Outcome<()> {
    let mut files = Vec::new();
    let now = now_ns();
    for name in names(base, shown, "versions")? {
        let place = Place::new(base, &shown.join(&name))?;
        let gone = fs::symlink_metadata(place.live()).is_err();
        if out.json {
            let mut values = Vec::new();
            let mut last = 0;
            each_version(&place, |v| {
                let change = v.size.cast_signed() - std::mem::replace(&mut last, v.size).cast_signed();
                values.push(value(&v, change));
                Ok(true)
            })?;
            files.push(json!({"name": text(&name), "deleted": gone, "versions": values}));
            continue;
        }
        out.line(&format!("{}{}", text(&name), if gone { "  (deleted)" } else { "" }))?;
        let mut rows = Vec::new();
        let mut last = 0;
        each_version(&place, |v| {
            let change = v.size.cast_signed() - std::mem::replace(&mut last, v.size).cast_signed();
            rows.push(row(&v, change, now));
            Ok(true)
        })?;
        if !rows.is_empty() {
            out.table(&HEAD, &RIGHT, &rows)?;
        }
        out.line("")?;
    }
    if out.json { out.value(&json!({"path": path_text(shown), "files": files})) } else { Ok(()) }
}

fn deleted(out: &mut Output, base: &Base, shown: &Path) -> Outcome<()> {
    let mut values = Vec::new();
    let mut rows = Vec::new();
    for name in names(base, shown, "deleted")? {
        let path = base.path(shown).join(".segfs/deleted").join(&name);
        // It may have been made again meanwhile.
        let Ok(m) = fs::symlink_metadata(&path) else { continue };
        let id = attribute(&path, "version_id").ok().flatten();
        let created = attribute(&path, "creation_time").ok().flatten();
        let versions =
            attribute(&base.path(shown).join(".segfs/versions").join(&name), "versions").ok().flatten();
        let versions = versions.and_then(|n| n.parse::<u64>().ok()).unwrap_or(0);
        values.push(json!({
            "name": text(&name), "versions": versions, "size": m.size(), "id": id, "creation_time": created,
        }));
        rows.push(vec![
            versions.to_string(),
            size(m.size()),
            created.unwrap_or_else(|| "-".to_owned()),
            text(&name),
        ]);
    }
    if out.json {
        return out.value(&json!({"path": path_text(shown), "deleted": values}));
    }
    if rows.is_empty() {
        return out.line("nothing was deleted here that is not there again");
    }
    out.table(&["VERSIONS", "SIZE", "LAST VERSION", "NAME"], &[true, true, false, false], &rows)
}

/// A path as programs are told it: as it is, if it is text.
pub fn path_text(path: &Path) -> String {
    path.to_str().map_or_else(|| text(path.as_os_str()), str::to_owned)
}

/// A name as text: what is no text or would reach the terminal raw is escaped.
pub fn text(name: &OsStr) -> String {
    let mut shown = String::new();
    for chunk in name.as_encoded_bytes().utf8_chunks() {
        for c in chunk.valid().chars() {
            if c.is_control() { shown.extend(c.escape_default()) } else { shown.push(c) }
        }
        for b in chunk.invalid() {
            shown.push_str(&format!("\\x{b:02x}"));
        }
    }
    shown
}
