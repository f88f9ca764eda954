//! The versions of a name, as the mount tells them, and which of them somebody means.

use std::{
    ffi::OsStr,
    fs, io,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

use jiff::tz::TimeZone;

use super::{
    super::failure::{Failure, NOT_FOUND, Outcome},
    name::Name,
    place::{Base, Place, attribute, moment_name, now_ns},
};

/// A version of a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version {
    /// Number in the history of the name.
    pub ordinal: u64,
    /// Its id.
    pub id: String,
    /// ns since 1970.
    pub created_ns: u64,
    /// Bytes.
    pub size: u64,
    /// Permission bits, in octal, at its commit.
    pub mode: String,
    /// User and group.
    pub owner: (u32, u32),
    /// Content hash, if it is known yet.
    pub hash: Option<String>,
    /// Flags: bit 0 interrupted, bit 1 restored.
    pub flags: u32,
    /// The store that made it.
    pub origin: String,
    /// Where in this store's log it came.
    pub lsn: u64,
    /// Lost against another version made elsewhere at the same time.
    pub conflict: bool,
    /// Its lock, if it has one: mode, and until when, ns since 1970.
    pub lock: Option<(String, u64)>,
    /// A legal hold is on.
    pub hold: bool,
    /// Another version of this history has the same number.
    pub shared: bool,
}

impl Version {
    /// From a line of the page attribute.
    fn parse(line: &str) -> Option<Self> {
        let f: Vec<&str> = line.split('\t').collect();
        let &[ordinal, id, created, size, mode, uid, gid, hash, flags, origin, lsn, conflict, lock, hold] =
            &f[..]
        else {
            return None;
        };
        Some(Self {
            ordinal: ordinal.parse().ok()?,
            id: id.to_owned(),
            created_ns: created.parse().ok()?,
            size: size.parse().ok()?,
            mode: format!("{mode:0>4}"),
            owner: (uid.parse().ok()?, gid.parse().ok()?),
            hash: (hash != "-").then(|| hash.to_owned()),
            flags: flags.parse().ok()?,
            origin: origin.to_owned(),
            lsn: lsn.parse().ok()?,
            conflict: conflict == "1",
            lock: lock.split_once(':').and_then(|(mode, until)| Some((mode.to_owned(), until.parse().ok()?))),
            hold: hold == "1",
            shared: false,
        })
    }
}

/// A version that was found, or a moment.
#[derive(Debug, Clone)]
pub struct Found {
    /// Where its content is.
    pub path: PathBuf,
    /// What it is called in messages.
    pub label: String,
}

fn failed(place: &Place, e: &io::Error) -> Failure {
    let what = format!("the history of {} can't be read", place.shown.display());
    match e.kind() {
        io::ErrorKind::NotFound => {
            let why = "nothing of this name was ever there, or it is not a file";
            Failure::new(NOT_FOUND, what, why, "segfs log --all DIR shows the names that have versions")
        }
        _ => Failure::system(what, e),
    }
}

/// One page of versions: from this number on.
pub fn page(place: &Place, from: u64) -> Outcome<Vec<Version>> {
    lines(place, &format!("page.{from}"))
}

/// The versions before this number, oldest first, as many as fit into a page.
pub fn page_before(place: &Place, before: u64) -> Outcome<Vec<Version>> {
    lines(place, &format!("before.{before}"))
}

fn lines(place: &Place, what: &str) -> Outcome<Vec<Version>> {
    let text = attribute(&place.versions(), what).map_err(|e| failed(place, &e))?;
    let mut found: Vec<Version> = text.unwrap_or_default().lines().filter_map(Version::parse).collect();
    // No page ends between versions that share a number.
    for n in 1..found.len() {
        if found[n].ordinal == found[n - 1].ordinal {
            (found[n].shared, found[n - 1].shared) = (true, true);
        }
    }
    Ok(found)
}

/// All versions in pages, oldest first, until `each` says that it is enough.
pub fn each_version(place: &Place, mut each: impl FnMut(Version) -> Outcome<bool>) -> Outcome<()> {
    let mut from = 1;
    loop {
        let page = page(place, from)?;
        let Some(last) = page.last() else { return Ok(()) };
        from = last.ordinal + 1;
        for version in page {
            if !each(version)? {
                return Ok(());
            }
        }
    }
}

/// The number of the newest version; 0: none.
pub fn newest(place: &Place) -> Outcome<u64> {
    let n = attribute(&place.versions(), "versions").map_err(|e| failed(place, &e))?;
    Ok(n.and_then(|n| n.parse().ok()).unwrap_or(0))
}

/// Splits `FILE@V`. What is really called so wins, and then there is no version. Of several `@` the last one counts
/// behind which stands the name of a version and before which stands something that has history.
pub fn split(base: &Base, arg: &Path) -> (PathBuf, Option<String>) {
    let is_there = |path: &Path| fs::symlink_metadata(base.path(path)).is_ok();
    let has_history = |path: &Path| Place::new(base, path).is_ok_and(|p| p.versions().is_dir());
    split_by(arg, &is_there, &has_history)
}

/// As [`split`], where these say what is there, and what has history.
pub fn split_by(
    arg: &Path,
    is_there: &dyn Fn(&Path) -> bool,
    has_history: &dyn Fn(&Path) -> bool,
) -> (PathBuf, Option<String>) {
    if is_there(arg) {
        return (arg.to_owned(), None);
    }
    let bytes = arg.as_os_str().as_bytes();
    let mut fallback = None;
    for at in (1..bytes.len()).rev().filter(|i| bytes[*i] == b'@') {
        let (file, version) = (Path::new(OsStr::from_bytes(&bytes[..at])), &bytes[at + 1..]);
        let Ok(version) = std::str::from_utf8(version) else { continue };
        if version.contains('/') {
            break;
        }
        let split = (file.to_owned(), Some(version.to_owned()));
        let there = is_there(file) || has_history(file);
        if there && Name::parse(version, now_ns(), &TimeZone::system()).is_some() {
            return split;
        }
        fallback = fallback.or(Some(split));
    }
    fallback.unwrap_or_else(|| (arg.to_owned(), None))
}

/// What a name of a version says; one that says nothing, or a time to come, is refused.
pub fn named(shown: &Path, version: &str) -> Outcome<Name> {
    let shown = shown.display();
    let what = || format!("{shown} has no version \"{version}\"");
    let now = now_ns();
    let Some(name) = Name::parse(version, now, &TimeZone::system()) else {
        let why = "that is not how a version is named";
        return Err(Failure::usage(
            what(),
            why,
            "name it as 3, -1, 2h, 2026-11-23T02:45, tag:NAME, LSN:n, or by 8 digits of its id",
        ));
    };
    if matches!(name, Name::Moment(ns) if ns > now) {
        return Err(Failure::usage(what(), "that time is yet to come", format!("segfs log {shown}")));
    }
    Ok(name)
}

/// Finds the version of a name that somebody means.
pub fn find(place: &Place, version: &str) -> Outcome<Found> {
    let shown = place.shown.display();
    let what = || format!("{shown} has no version \"{version}\"");
    let name = named(&place.shown, version)?;
    let look = format!("segfs log {shown}");
    let moment = match name {
        Name::Number(n) => {
            let found = page(place, n)?.into_iter().rfind(|v| v.ordinal == n);
            let v = found.ok_or_else(|| missing(what(), newest(place), &look))?;
            return Ok(found_version(place, &v));
        }
        Name::Back(n) => return back(place, n, &what(), &look),
        Name::Id(id) => return by_id(place, &id, &what(), &look),
        Name::Begins(prefix) => return by_id(place, &prefix, &what(), &look),
        Name::Moment(ns) => moment_name(ns),
        Name::Record(lsn) => format!("@LSN:{lsn}"),
        Name::Tag(tag) => {
            let link = fs::read_link(place.history("tags").join(&tag));
            let target = link.ok().and_then(|t| t.file_name().map(|n| n.to_string_lossy().into_owned()));
            target.ok_or_else(|| {
                Failure::new(NOT_FOUND, what(), format!("there is no tag \"{tag}\""), "segfs tag list")
            })?
        }
    };
    let path = place.at(&moment);
    if let Err(e) = fs::symlink_metadata(&path) {
        if e.kind() != io::ErrorKind::NotFound {
            return Err(Failure::system(what(), &e));
        }
        let why = if place.history("at").join(&moment).is_dir() {
            "the name was not there at that moment"
        } else {
            "its directory was not there at that moment, or the store did not exist yet"
        };
        return Err(Failure::new(NOT_FOUND, what(), why, look));
    }
    Ok(Found { path, label: format!("as of {moment}") })
}

fn missing(what: String, newest: Outcome<u64>, look: &str) -> Failure {
    match newest {
        Ok(0) => Failure::new(NOT_FOUND, what, "it has no versions yet", look),
        Ok(n) => Failure::new(NOT_FOUND, what, format!("the newest is {n}"), look),
        Err(e) => e,
    }
}

/// So many versions before the present; a name that is gone has its last version one before the present.
fn back(place: &Place, n: u64, what: &str, look: &str) -> Outcome<Found> {
    let live = fs::symlink_metadata(place.live()).is_ok();
    let mut left = if live { n } else { n.saturating_sub(1) };
    let mut before = u64::MAX;
    loop {
        let page = page_before(place, before)?;
        let Some(first) = page.first() else {
            return Err(missing(what.to_owned(), newest(place), look));
        };
        before = first.ordinal;
        if let Some(v) = page.iter().rev().nth(usize::try_from(left).unwrap_or(usize::MAX)) {
            return Ok(found_version(place, v));
        }
        left -= page.len() as u64;
    }
}

fn by_id(place: &Place, prefix: &str, what: &str, look: &str) -> Outcome<Found> {
    let mut found: Vec<Version> = Vec::new();
    each_version(place, |v| {
        if v.id.replace('-', "").starts_with(prefix) && found.iter().all(|f| f.id != v.id) {
            found.push(v);
        }
        Ok(found.len() < 2)
    })?;
    match &found[..] {
        [] => Err(Failure::new(NOT_FOUND, what, "no id of its versions begins so", look)),
        [one] => Ok(found_version(place, one)),
        [one, two, ..] => {
            let why = format!("{} and {} both begin so", one.id, two.id);
            Err(Failure::usage(what, why, "give more digits of the id"))
        }
    }
}

fn found_version(place: &Place, v: &Version) -> Found {
    let name = segfs::vfs::version_file(place.name.as_bytes(), v.ordinal, v.created_ns, v.shared);
    let path = place.versions().join(OsStr::from_bytes(&name));
    Found { path, label: format!("version {}", v.ordinal) }
}
