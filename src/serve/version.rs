//! Versions as commands name them, found in the store itself: where the kernel does not pass on what is asked (attributes of symlinks),
//! and where the path that shows a version is of no use (its removal).
//!
//! A name is an object with one field: `number`, `back`, `moment_ns`, `tag`, `lsn`, or `begins` (hex digits of the id); null is the
//! present. It means what `.segfs` shows for it.

use serde_json::{Value, json};

use crate::{
    base::{Error, FsError, Ino, Lsn, Result, VersionId},
    console::{FAILED, Failure, NOT_FOUND, Outcome, USAGE, time},
    store::{LockMode, Store},
};

/// Versions of a history looked at together.
const PAGE: usize = 1024;

/// A path as requests have it: text, or, if it is not UTF-8, its bytes.
#[must_use]
pub fn path_value(path: &[u8]) -> Value {
    std::str::from_utf8(path).map_or_else(|_| path.into(), Value::from)
}

/// The bytes of a path in a request.
pub(super) fn path_bytes(value: &Value) -> Option<Vec<u8>> {
    match value {
        Value::String(text) => Some(text.clone().into_bytes()),
        Value::Array(bytes) => bytes.iter().map(|b| u8::try_from(b.as_u64()?).ok()).collect(),
        _ => None,
    }
}

/// The directory of a path from the root, and the name in it.
///
/// # Errors
/// As of [`Store::find_path`].
pub(super) fn place(store: &Store, path: &[u8]) -> Result<(Ino, Vec<u8>)> {
    let cut = path.iter().rposition(|b| *b == b'/').map_or(0, |at| at + 1);
    let (dir, name) = path.split_at(cut);
    Ok((store.find_path(dir)?, name.to_vec()))
}

/// A version that was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) ino: Ino,
    pub(super) id: VersionId,
}

/// Why none was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Missing {
    /// There is no such version.
    None,
    /// Several ids begin so.
    Several(VersionId, VersionId),
    /// That names no version.
    Unclear,
}

/// What a search came to.
pub(super) struct Sought(pub(super) std::result::Result<Found, Missing>);

impl From<Option<Found>> for Sought {
    fn from(found: Option<Found>) -> Self {
        Self(found.ok_or(Missing::None))
    }
}

/// Finds a version of a name.
///
/// # Errors
/// What reading the index says.
pub(super) fn find(store: &Store, dir: Ino, name: &[u8], wanted: &Value) -> Result<Sought> {
    if wanted.is_null() {
        return Ok(shown(store, dir, name, None)?.into());
    }
    let number = |field: &str| wanted[field].as_u64();
    if let Some(lsn) = number("lsn") {
        let known = Lsn::new(lsn) >= Lsn::FIRST && Lsn::new(lsn) <= store.last_lsn();
        return Ok(if known { shown(store, dir, name, Some(Lsn::new(lsn)))? } else { None }.into());
    }
    let moment = match wanted["tag"].as_str() {
        Some(tag) => store.view().tag(tag.as_bytes())?.map(|t| t.moment_ns),
        None => number("moment_ns"),
    };
    if let Some(ns) = moment {
        return Ok(match store.lsn_at(ns)? {
            Some(lsn) => shown(store, dir, name, Some(lsn))?.into(),
            None => None.into(),
        });
    }
    if wanted["tag"].is_string() {
        return Ok(None.into());
    }
    let Some(mut history) = store.view().history(dir, name)? else { return Ok(None.into()) };
    let found = |p: crate::store::Past| Found { ino: p.ino, id: p.version.id };
    if let Some(n) = number("number") {
        return Ok(history.get(n)?.map(found).into());
    }
    let back = number("back");
    let begins = wanted["begins"].as_str().filter(|hex| !hex.is_empty());
    if back.is_none() && begins.is_none() {
        return Ok(Sought(Err(Missing::Unclear)));
    }
    // What is gone has its last version one before the present.
    let live = store.view().lookup(dir, name).is_ok();
    let mut left = back.map(|n| if live { n } else { n.saturating_sub(1) });
    let (mut upto, mut one) = (None, None::<Found>);
    loop {
        let page = history.before(upto, PAGE)?;
        let Some(last) = page.last() else { return Ok(one.into()) };
        upto = Some(last.ordinal);
        for p in page {
            match &mut left {
                Some(0) => return Ok(Some(found(p)).into()),
                Some(n) => *n -= 1,
                None => {
                    let id = p.version.id;
                    let fits = begins.is_some_and(|hex| id.to_string().replace('-', "").starts_with(hex));
                    match one {
                        Some(other) if fits && other.id != id => {
                            return Ok(Sought(Err(Missing::Several(id, other.id))));
                        }
                        _ if fits => one = Some(found(p)),
                        _ => {}
                    }
                }
            }
        }
    }
}

/// The version that a name showed right after a record; none: now.
fn shown(store: &Store, dir: Ino, name: &[u8], at: Option<Lsn>) -> Result<Option<Found>> {
    let view = at.map_or(store.view(), |at| store.view_at(at));
    let looked = view.lookup(dir, name).and_then(|a| Ok((a.ino, view.shown_version(a.ino)?)));
    let (ino, lsn) = match looked {
        Ok((ino, Some(lsn))) => (ino, lsn),
        Ok((_, None)) | Err(Error::Fs(FsError::NotFound)) => return Ok(None),
        Err(e) => return Err(e),
    };
    let before = Lsn::new(lsn.get().saturating_sub(1));
    let version = store.view().versions(ino, Some(before), 1)?.pop().filter(|v| v.lsn == lsn);
    Ok(version.map(|v| Found { ino, id: v.id }))
}

/// Tells what protects a version, after a change, if there is one: `lock` (`mode` and `until_ns`, or null for none) with `bypass`, or
/// `hold`. What is refused has a reason in `refused`: `weaker`, or `over`.
///
/// # Errors
/// If there is no such version, or what the store says.
pub fn protect(store: &Store, path: &[u8], wanted: &Value, change: &Value) -> Outcome<Value> {
    let shown = String::from_utf8_lossy(path).into_owned();
    let what = || format!("what protects {shown} can't be changed");
    let failed = |e: Error| match e {
        Error::Fs(FsError::NotFound | FsError::NotADirectory) => {
            Failure::new(NOT_FOUND, what(), "it does not exist", "check the path; segfs log")
        }
        e => Failure::of_store(&e, store.path()),
    };
    let (dir, name) = place(store, path).map_err(failed)?;
    let found = find(store, dir, &name, wanted).map_err(failed)?;
    let id = found.0.map_err(|missing| missing_version(missing, what()))?.id;
    let mut refused = None;
    let done = if let Some(on) = change["hold"].as_bool() {
        store.hold_version(id, on)
    } else if let Some(asked) = change.get("lock") {
        let lock = lock_of(asked).map_err(|()| missing_version(Missing::Unclear, what()))?;
        store.set_lock(id, lock, change["bypass"] == true)
    } else {
        Ok(store.last_lsn())
    };
    match done {
        Err(Error::Fs(FsError::NotPermitted)) => refused = Some("weaker"),
        Err(Error::Fs(FsError::Invalid)) => refused = Some("over"),
        done => store.sync(done.map_err(failed)?).map_err(failed)?,
    }
    let protection = store.protection(id).map_err(failed)?;
    let lock = protection.lock.map(|(mode, until)| format!("{} {}", mode_word(mode), time(until)));
    Ok(json!({"id": id.to_string(), "lock": lock, "hold": protection.hold, "refused": refused}))
}

/// Why a version that was asked for is none.
pub(super) fn missing_version(missing: Missing, what: impl Into<String>) -> Failure {
    match missing {
        Missing::None => Failure::new(NOT_FOUND, what, "there is no such version", "segfs log"),
        Missing::Several(a, b) => {
            let why = format!("{a} and {b} both begin so");
            Failure::new(USAGE, what, why, "give more digits of the id")
        }
        Missing::Unclear => {
            Failure::new(FAILED, what, "the request names no version", "update segfs, and mount again")
        }
    }
}

fn lock_of(asked: &Value) -> std::result::Result<Option<(LockMode, u64)>, ()> {
    if asked.is_null() {
        return Ok(None);
    }
    let modes = [LockMode::Governance, LockMode::Compliance];
    let mode = modes.into_iter().find(|mode| asked["mode"] == mode_word(*mode));
    mode.zip(asked["until_ns"].as_u64()).map(Some).ok_or(())
}

fn mode_word(mode: LockMode) -> &'static str {
    match mode {
        LockMode::Governance => "governance",
        LockMode::Compliance => "compliance",
    }
}
