//! `segfs mount --at`: a moment of the whole store as a mount of its own.

use std::{fs, io, path::Path};

use jiff::tz::TimeZone;
use rustix::mount::{MountFlags, mount_bind, mount_remount};
use segfs::{base::Lsn, console::Output, store::Store, vfs::When};
use serde_json::json;

use super::{
    super::failure::{FAILED, Failure, NOT_FOUND, Outcome, mounts::Mounted},
    list::path_text,
    name::Name,
    place::{moment_name, now_ns},
};

fn what(moment: &str) -> String {
    format!("the moment \"{moment}\" can't be mounted")
}

/// What somebody means: a time, a record, or the name of a tag.
fn parse(moment: &str) -> Name {
    match Name::parse(moment, now_ns(), &TimeZone::system()) {
        Some(Name::Number(n)) => Name::Record(n),
        Some(name @ (Name::Moment(_) | Name::Tag(_) | Name::Record(_))) => name,
        _ => Name::Tag(moment.to_owned()),
    }
}

fn no_tag(moment: &str, tag: &str) -> Failure {
    let why = format!("it is no time, and there is no tag \"{tag}\"");
    Failure::new(NOT_FOUND, what(moment), why, "segfs tag list; times are written 2026-11-23T02:45 or 2h")
}

/// A store must be there: nothing is made for the sake of its past.
pub fn check_store(store: &Path) -> Outcome<()> {
    if store.join("STORE").exists() {
        return Ok(());
    }
    let what = format!("{} has no past", store.display());
    Err(Failure::new(NOT_FOUND, what, "there is no store", "check the path"))
}

/// The moment of an open store.
pub fn moment_of(store: &Store, moment: &str) -> Outcome<When> {
    let failed =
        |e: segfs::base::Error| Failure::new(FAILED, what(moment), e.to_string(), "segtool verify STORE");
    let when = match parse(moment) {
        Name::Record(lsn) => When::Record(Lsn::new(lsn)),
        Name::Moment(ns) => When::Time(ns),
        Name::Tag(tag) => {
            let found = store.view().tag(tag.as_bytes()).map_err(failed)?;
            When::Time(found.ok_or_else(|| no_tag(moment, &tag))?.moment_ns)
        }
        _ => return Err(no_tag(moment, moment)),
    };
    let there = match when {
        When::Time(ns) if ns > now_ns() => {
            return Err(Failure::usage(what(moment), "that time is yet to come", "choose an earlier one"));
        }
        When::Time(ns) => store.lsn_at(ns).map_err(failed)?.is_some(),
        When::Record(lsn) => lsn >= Lsn::FIRST && lsn <= store.last_lsn(),
    };
    if there {
        return Ok(when);
    }
    let why = format!("the store holds nothing of then; its last record is {}", store.last_lsn());
    Err(Failure::new(NOT_FOUND, what(moment), why, "choose a later time, or a record from 1 to the last"))
}

/// Mounts a moment beside the mount of the present: what `.segfs/at` shows there, under another name.
pub fn mount_beside(live: &Mounted, moment: &str, dir: &Path, json: bool) -> Outcome<()> {
    let history = live.dir.join(".segfs");
    let name = match parse(moment) {
        Name::Record(lsn) => format!("@LSN:{lsn}"),
        Name::Moment(ns) if ns > now_ns() => {
            return Err(Failure::usage(what(moment), "that time is yet to come", "choose an earlier one"));
        }
        Name::Moment(ns) => moment_name(ns),
        Name::Tag(tag) => {
            let link = fs::read_link(history.join("tags").join(&tag)).ok();
            let target = link.and_then(|t| t.file_name().map(|n| n.to_string_lossy().into_owned()));
            target.ok_or_else(|| no_tag(moment, &tag))?
        }
        _ => return Err(no_tag(moment, moment)),
    };
    let source = history.join("at").join(&name);
    if !source.is_dir() {
        let why = "the store holds nothing of then, or its mount does not show history";
        let next = format!("ls {}", history.join("at").display());
        return Err(Failure::new(NOT_FOUND, what(moment), why, next));
    }
    let read_only = MountFlags::BIND | MountFlags::RDONLY;
    let done = mount_bind(&source, dir).and_then(|()| mount_remount(dir, read_only, c""));
    done.map_err(|e| {
        let e = io::Error::from(e);
        let next = format!("run as root; or look into {}", source.display());
        Failure::new(FAILED, what(moment), e.to_string(), next)
    })?;
    let mut out = Output::new(json);
    if json {
        out.value(&json!({"mountpoint": path_text(dir), "store": path_text(&live.store), "moment": name}))?;
    } else {
        out.line(&format!("mounted on  {} (read-only, as of {name})", dir.display()))?;
        out.line(&format!("stop it     segfs umount {}", dir.display()))?;
    }
    out.finish()
}
