//! What operators ask about space and rot, in the mount and of a store that nobody has mounted alike: each as JSON.

use std::time::Duration;

use serde_json::{Value, json};

use super::requests::bytes;
use crate::{
    base::{Clock as _, Error, FsError, Ino, SegmentId, SystemClock},
    console::{FAILED, Failure, IN_USE, NOT_FOUND, Outcome, USAGE, time},
    store::{Finding, Kept, Store, inspect::Progress},
};

fn failed(store: &Store) -> impl Fn(Error) -> Failure {
    let path = store.path().to_owned();
    move |e| Failure::of_store(&e, &path)
}

/// Lets everything go that no policy keeps, and gives back what is dead; with `dry_run` says what that would be.
///
/// # Errors
/// What the store says.
pub fn gc(store: &Store, dry_run: bool, progress: Progress<'_>) -> Outcome<Value> {
    let done = store.collect(dry_run, progress).map_err(failed(store))?;
    let c = done.cleaned;
    Ok(json!({
        "dry_run": dry_run,
        "versions": done.versions,
        "history_bytes": done.history_bytes,
        "dead_bytes": done.dead_bytes,
        "segments": c.segments,
        "freed_bytes": c.bytes.saturating_sub(c.moved_bytes + c.base_bytes),
        "moved_bytes": c.moved_bytes,
    }))
}

/// What takes space at and below a path from the root: live, history, dead.
///
/// # Errors
/// [`NOT_FOUND`] for a path that is not there, or what the store says.
pub fn du(store: &Store, path: &str, progress: Progress<'_>) -> Outcome<Value> {
    let failed = failed(store);
    let ino = store.find_path(path.as_bytes()).map_err(|e| match e {
        Error::Fs(FsError::NotFound | FsError::NotADirectory) => {
            let what = format!("the space of {path} can't be told");
            Failure::new(
                NOT_FOUND,
                what,
                "it does not exist",
                "name what is there; its directory tells of what is gone",
            )
        }
        e => failed(e),
    })?;
    let only = (ino != Ino::FIRST).then(|| store.objects_below(ino)).transpose().map_err(&failed)?;
    let (lsn, census) = store.census_of(only.as_ref(), progress).map_err(&failed)?;
    let mut found = json!({"path": path, "as_of_lsn": lsn.get()});
    if let Value::Object(fields) = &mut found {
        fields.extend(bytes(&census.total));
        fields.insert("shared".into(), census.total.shared_bytes.into());
    }
    Ok(found)
}

/// How to scrub.
#[derive(Debug, Clone, Copy)]
pub struct Scrub {
    /// Bytes read in a second; 0: as fast as the disk gives them.
    pub rate: u64,
    /// From the beginning, also if the last one was broken off.
    pub anew: bool,
}

/// Reads everything and says what is damaged. What is found goes to the journal at once; so does how far it came, from
/// where the next one goes on.
///
/// # Errors
/// What the store says; damage is none.
pub fn scrub(store: &Store, how: Scrub, progress: Progress<'_>) -> Outcome<Value> {
    let failed = failed(store);
    let note = |mut line: Value| -> Outcome<()> {
        let now = SystemClock.wall_ns();
        if let Value::Object(fields) = &mut line {
            fields.insert("time".into(), time(now).into());
            fields.insert("time_ns".into(), now.into());
        }
        store.note_scrub(&line.to_string()).map_err(&failed)
    };
    // What was done so far is to be on the disk, to be read from there.
    store.sync_all().map_err(&failed)?;
    let last = store.last_scrubs().map_err(&failed)?;
    let last = last
        .iter()
        .rev()
        .find_map(|l| serde_json::from_str::<Value>(l).ok().filter(|l| l.get("scrub").is_some()));
    let behind = last.filter(|l| l["scrub"] == "position" && !how.anew).and_then(|l| l["segment"].as_u64());
    let segments: Vec<_> = store.segments();
    let total: u64 = segments.iter().map(|s| s.used_bytes).sum();
    let (mut read, mut passed, mut count, mut whole) = (0, 0, 0_u64, true);
    let mut damages = Vec::new();
    let began = SystemClock.monotonic_ns();
    note(json!({"scrub": "begun", "behind_segment": behind}))?;
    for s in &segments {
        passed += s.used_bytes;
        if behind.is_some_and(|b| s.id <= SegmentId::new(b)) {
            continue;
        }
        let Some(done) = store.scrub_segment(s.id).map_err(&failed)? else { continue };
        for finding in &done.found {
            let line = told(finding);
            note(line.clone())?;
            damages.push(line);
        }
        (read, count) = (read + done.bytes, count + 1);
        note(json!({"scrub": "position", "segment": s.id.get()}))?;
        progress(passed, total);
        let due = read.saturating_mul(1_000_000_000).checked_div(how.rate).unwrap_or(0);
        let ahead = due.saturating_sub(SystemClock.monotonic_ns() - began);
        // In steps, so that whoever asked sees that it goes on.
        let mut left = Duration::from_nanos(ahead);
        while whole && !left.is_zero() {
            let step = left.min(Duration::from_secs(1));
            whole = store.rest(step);
            left -= step;
            progress(passed, total);
        }
        if !whole {
            break;
        }
    }
    if whole {
        note(json!({"scrub": "done", "segments": count, "bytes": read, "damages": damages.len()}))?;
    }
    Ok(
        json!({"complete": whole, "segments": count, "bytes": read, "resumed_behind": behind, "damages": damages}),
    )
}

fn told(finding: &Finding) -> Value {
    let place = &finding.damage.place;
    let hit = |h: &crate::store::Hit| {
        let versions: Vec<_> =
            h.versions.iter().map(|(n, id)| json!({"ordinal": n, "id": id.to_string()})).collect();
        json!({
            "path": String::from_utf8_lossy(&h.path),
            "inode": h.ino.get(),
            "offset": h.offset,
            "length": h.len,
            "present": h.present,
            "versions": versions,
        })
    };
    json!({
        "damage": finding.damage.why,
        "what": finding.what,
        "segment": place.segment.map(SegmentId::get),
        "offset": place.offset,
        "lsn": place.lsn.map(crate::base::Lsn::get),
        "files": finding.hits.iter().map(hit).collect::<Vec<_>>(),
    })
}

/// What a purge is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Purging {
    /// The file, from the root.
    pub path: String,
    /// One version of it: its number, as in the history of the name, or counted back from the present, or its id.
    pub version: Option<String>,
}

impl Purging {
    fn refused(&self, code: u8, why: &str, next: &str) -> Failure {
        let version = self.version.as_ref().map_or_else(String::new, |v| format!("@{v}"));
        Failure::new(code, format!("{}{version} can't be purged", self.path), why, next)
    }

    fn kept(&self, why: Kept) -> Failure {
        match why {
            Kept::Locked => self.refused(
                FAILED,
                "a version of it is locked, or held",
                "wait until the lock ends, or take the hold off",
            ),
            Kept::Tagged => self.refused(
                FAILED,
                "a tag shows a version of it",
                "segfs tag list, and segfs tag rm, if that moment is not needed",
            ),
            Kept::Head => self.refused(
                USAGE,
                "it is what the file shows",
                "purge the file as a whole, or restore another version first",
            ),
            Kept::Base => self.refused(FAILED, "other versions rest on it", "purge the file as a whole"),
            Kept::NotThere => self.refused(NOT_FOUND, "there is no such version", "segfs log"),
        }
    }

    fn failed<'a>(&'a self, store: &'a Store) -> impl Fn(Error) -> Failure + 'a {
        move |e| match e {
            Error::Fs(FsError::NotFound) => self.refused(
                NOT_FOUND,
                "nothing stands there, or ever did",
                "check the path; segfs log --deleted DIR",
            ),
            Error::Fs(FsError::IsADirectory | FsError::NotADirectory) => {
                self.refused(USAGE, "only files are purged, one at a time", "name a file")
            }
            Error::Fs(FsError::Busy) => self.refused(
                IN_USE,
                "something still reads the log where it lies",
                "run it again with --wait",
            ),
            e => failed(store)(e),
        }
    }

    fn place(&self, store: &Store) -> Outcome<(Ino, Vec<u8>)> {
        let (dir, name) = self.path.rsplit_once('/').unwrap_or(("", &self.path));
        let dir = store.find_path(dir.as_bytes()).map_err(self.failed(store))?;
        Ok((dir, name.as_bytes().to_vec()))
    }
}

/// What a purge of a file would take, as an object with `objects`, `versions`, `named_elsewhere` and `present`. Nothing has changed.
///
/// # Errors
/// If it is not there, or a version is locked or tagged.
pub fn plan_purge(store: &Store, what: &Purging) -> Outcome<Value> {
    let (dir, name) = what.place(store)?;
    let plan = store.plan_purge(dir, &name).map_err(what.failed(store))?.map_err(|r| what.kept(r.why))?;
    Ok(json!({
        "objects": plan.objects.iter().map(|i| i.get()).collect::<Vec<_>>(),
        "versions": plan.versions,
        "named_elsewhere": plan.named_elsewhere,
        "present": plan.present,
    }))
}

/// Takes the name of a file away, in a store that nobody has mounted.
///
/// # Errors
/// What the store says.
pub fn unlink(store: &Store, what: &Purging) -> Outcome<()> {
    let (dir, name) = what.place(store)?;
    let (_, ino, _) = store.unlink(dir, &name).map_err(what.failed(store))?;
    store.reap(ino).map(drop).map_err(what.failed(store))
}

/// Removes every version of objects that no name shows any more: `versions`, and `left`.
///
/// # Errors
/// What the store says.
pub fn purge_objects(store: &Store, objects: &[u64]) -> Outcome<Value> {
    let objects: Vec<Ino> = objects.iter().map(|n| Ino::new(*n)).collect();
    let (versions, left) = store.purge_objects(&objects).map_err(failed(store))?;
    store.sync_all().map_err(failed(store))?;
    Ok(json!({"versions": versions, "left": left}))
}

/// Removes one version: `objects` has the object whose it was.
///
/// # Errors
/// If it is not there, or something keeps it.
pub fn purge_version(store: &Store, what: &Purging) -> Outcome<Value> {
    let (dir, name) = what.place(store)?;
    let (failed, wanted) = (what.failed(store), what.version.as_deref().unwrap_or_default());
    let mut history =
        store.view().history(dir, &name).map_err(&failed)?.ok_or_else(|| what.kept(Kept::NotThere))?;
    let newest = history.newest();
    let ordinal = match wanted.strip_prefix('-').map(str::parse::<u64>) {
        Some(Ok(back)) => newest.saturating_sub(back),
        Some(Err(_)) => 0,
        None => wanted.parse().unwrap_or(0),
    };
    let found = if ordinal > 0 {
        history.get(ordinal).map_err(&failed)?
    } else {
        let id = wanted.strip_prefix("id:").unwrap_or(wanted);
        let (mut upto, mut found) = (None, None);
        loop {
            let page = history.before(upto, 1024).map_err(&failed)?;
            let Some(last) = page.last() else { break found };
            upto = Some(last.ordinal);
            if let Some(p) = page.iter().find(|p| p.version.id.to_string() == id) {
                found = Some(p.clone());
                break found;
            }
        }
    };
    let past = found.ok_or_else(|| what.kept(Kept::NotThere))?;
    if let Some(why) = store.remove_version(past.version.id).map_err(&failed)? {
        return Err(what.kept(why));
    }
    store.sync_all().map_err(&failed)?;
    Ok(json!({"objects": [past.ino.get()], "versions": 1, "left": 0}))
}

/// Overwrites what objects ever had and nothing shows any more: `erased_segments`.
///
/// # Errors
/// What the store says.
pub fn erase(store: &Store, what: &Purging, objects: &[u64], progress: Progress<'_>) -> Outcome<Value> {
    let objects: Vec<Ino> = objects.iter().map(|n| Ino::new(*n)).collect();
    let n = store.erase(&objects, progress).map_err(what.failed(store))?;
    Ok(json!({"erased_segments": n}))
}
