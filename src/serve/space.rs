//! What operators ask about space, in the mount and of a store that nobody has mounted alike: each as JSON.

use serde_json::{Value, json};

use super::{
    requests::bytes,
    version::{self, Missing},
};
use crate::{
    base::{Error, FsError, Ino},
    console::{FAILED, Failure, IN_USE, NOT_FOUND, Outcome, USAGE},
    store::{Kept, Store, inspect::Progress},
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
pub fn du(store: &Store, path: &[u8], progress: Progress<'_>) -> Outcome<Value> {
    let failed = failed(store);
    let shown = String::from_utf8_lossy(path);
    let ino = store.find_path(path).map_err(|e| match e {
        Error::Fs(FsError::NotFound | FsError::NotADirectory) => {
            let what = format!("the space of {shown} can't be told");
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
    let mut found = json!({"path": shown, "as_of_lsn": lsn.get()});
    if let Value::Object(fields) = &mut found {
        fields.extend(bytes(&census.total));
        fields.insert("shared".into(), census.total.shared_bytes.into());
    }
    Ok(found)
}

/// What a purge is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Purging {
    /// The file, from the root.
    pub path: Vec<u8>,
    /// One version of it, as of [`version`].
    pub version: Option<Value>,
    /// The same as somebody wrote it.
    pub shown: String,
}

impl Purging {
    fn refused(&self, code: u8, why: &str, next: &str) -> Failure {
        Failure::new(code, self.what(), why, next)
    }

    fn what(&self) -> String {
        format!("{} can't be purged", self.shown)
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
        version::place(store, &self.path).map_err(self.failed(store))
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
    let wanted = what.version.as_ref().unwrap_or(&Value::Null);
    let found = version::find(store, dir, &name, wanted).map_err(what.failed(store))?;
    let found = found.0.map_err(|missing| match missing {
        Missing::None => what.kept(Kept::NotThere),
        other => version::missing_version(other, what.what()),
    })?;
    if let Some(why) = store.remove_version(found.id).map_err(what.failed(store))? {
        return Err(what.kept(why));
    }
    store.sync_all().map_err(what.failed(store))?;
    Ok(json!({"objects": [found.ino.get()], "id": found.id.to_string(), "versions": 1, "left": 0}))
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
