//! Virtual extended attributes: what history knows of a file. They answer when they are asked for by name, no list
//! shows them, and nobody sets them but for locks and holds, so that copying a file's attributes does not copy these.

use std::{collections::BTreeSet, fmt::Write as _};

use crate::{
    base::{FsError, Ino, Lsn, Result, VersionId},
    format::facts::{ObjectKind, Time},
    store::{Past, Protection, VersionInfo},
};

use super::{Asker, History, locks, nodes::Node};

/// What their names begin with. No other attribute can have such a name.
pub const PREFIX: &[u8] = b"user.segfs.";
/// File capabilities, which history never shows.
const CAPABILITY: &[u8] = b"security.capability";
/// Versions in one answer to `user.segfs.page.N`, so that it fits into an attribute.
const PAGE: usize = 224;

/// An object in the present, or a version of it.
struct About {
    ino: Ino,
    version: Option<VersionInfo>,
    /// Versions in the history of its name.
    versions: u64,
    ordinal: Option<u64>,
    born: Time,
    /// It is what was there; or else that was removed, and this is the one before.
    exact: bool,
}

impl History {
    /// An attribute of a node of history.
    pub(in super::super) fn xattr(&self, asker: Asker<'_>, ino: Ino, name: &[u8]) -> Result<Vec<u8>> {
        let node = self.node(ino)?;
        if let Some(what) = name.strip_prefix(PREFIX) {
            return match node {
                Node::Versions { dir, name } => self.list_attribute(dir, &name, what),
                Node::Version { ino, lsn, ordinal, .. } => {
                    let version = self.version_at(ino, lsn)?;
                    self.answer(&self.about(ino, version, Some(ordinal))?, what)
                }
                Node::Old { lsn, ino, .. } => {
                    let version = self.vfs.store.view_at(lsn).shown_version(ino)?;
                    let version = version.map(|at| self.version_at(ino, at)).transpose()?.flatten();
                    let mut about = self.about(ino, version, None)?;
                    about.versions = self.vfs.store.view_at(lsn).history_of(ino)?.map_or(0, |h| h.newest());
                    about.exact = self.vfs.store.view_at(lsn).is_exact(ino)?;
                    self.answer(&about, what)
                }
                _ => Err(FsError::NoAttribute.into()),
            };
        }
        if name == CAPABILITY {
            return Err(FsError::NoAttribute.into());
        }
        match node {
            Node::Top(dir) | Node::List(dir, _) | Node::Versions { dir, .. } => {
                // Whoever an ACL lets read the directory may read its history.
                if name == super::super::acl::ACCESS { self.vfs.xattr(dir, name) } else { none() }
            }
            Node::Alias { .. } | Node::Number { .. } => none(),
            Node::Version { ino, lsn, until, .. } => {
                self.permit_user(asker, ino, name)?;
                let end = self.end_of(ino, lsn, until)?;
                end.map_or(self.view(), |end| self.vfs.store.view_at(end)).xattr(ino, name)
            }
            Node::Old { lsn, ino, .. } => {
                self.permit_user(asker, ino, name)?;
                self.vfs.store.view_at(lsn).xattr(ino, name)
            }
        }
    }

    /// Names of the attributes that a node of history has.
    pub(in super::super) fn xattrs(&self, ino: Ino) -> Result<Vec<Vec<u8>>> {
        let mut names = match self.node(ino)? {
            Node::Version { ino, lsn, until, .. } => {
                let end = self.end_of(ino, lsn, until)?;
                end.map_or(self.view(), |end| self.vfs.store.view_at(end)).xattrs(ino)?
            }
            Node::Old { lsn, ino, .. } => self.vfs.store.view_at(lsn).xattrs(ino)?,
            _ => Vec::new(),
        };
        names.retain(|n| n != CAPABILITY);
        Ok(names)
    }

    /// The values of user attributes are content: reading them takes the right to read.
    fn permit_user(&self, asker: Asker<'_>, ino: Ino, name: &[u8]) -> Result<()> {
        if name.starts_with(b"user.") { self.permit_read(asker, ino) } else { Ok(()) }
    }

    /// A virtual attribute of a file of the present.
    pub(in super::super) fn live_xattr(&self, ino: Ino, name: &[u8]) -> Result<Vec<u8>> {
        let what = name.strip_prefix(PREFIX).unwrap_or_default();
        if what == b"rules" {
            return self.rules(ino);
        }
        self.vfs.mint_due(ino)?;
        let kind = self.view().attributes(ino)?.kind;
        let newest = if kind == ObjectKind::File || kind == ObjectKind::Symlink {
            let head = self.view().shown_version(ino)?;
            head.map(|at| self.version_at(ino, at)).transpose()?.flatten()
        } else {
            None
        };
        self.answer(&self.about(ino, newest, None)?, what)
    }

    /// What is kept of an object and when its versions are made, a line for each of its names that differs from the others:
    /// with tabs between what is kept, the path of the rule that says so (`-`: none), when versions are made, and the path of
    /// that rule. The names themselves are not told: they may lie where the asker can't look.
    fn rules(&self, ino: Ino) -> Result<Vec<u8>> {
        let settings = self.vfs.store.settings();
        let from = |prefix: Option<&[u8]>| prefix.map_or("-".into(), String::from_utf8_lossy).into_owned();
        let mut lines = BTreeSet::new();
        for path in self.vfs.store.paths(ino)? {
            let keep = from(settings.retention.of(&path).map(|(prefix, _)| prefix));
            let made = from(settings.making.of(&path).map(|(prefix, _)| prefix));
            let (policy, making) = (settings.retention.policy(&path), settings.making_at(&path));
            lines.insert(format!("{policy}\t{keep}\t{making}\t{made}\n"));
        }
        Ok(lines.into_iter().collect::<String>().into_bytes())
    }

    pub(super) fn version_at(&self, ino: Ino, at: Lsn) -> Result<Option<VersionInfo>> {
        let before = Lsn::new(at.get().saturating_sub(1));
        Ok(self.view().versions(ino, Some(before), 1)?.pop().filter(|v| v.lsn == at))
    }

    fn about(&self, ino: Ino, version: Option<VersionInfo>, ordinal: Option<u64>) -> Result<About> {
        let versions = self.view().history_of(ino)?.map_or(0, |h| h.newest());
        let born = self.view().attributes(ino)?.born;
        Ok(About { ino, version, versions, ordinal, born, exact: true })
    }

    fn answer(&self, about: &About, what: &[u8]) -> Result<Vec<u8>> {
        let version = || about.version.as_ref().ok_or(FsError::NoAttribute);
        let text = match what {
            b"version_id" => version()?.id.to_string(),
            b"creation_time" => time(version()?.created_ns),
            b"versions" => about.versions.to_string(),
            b"ordinal" => match about.ordinal {
                Some(n) => n.to_string(),
                None => {
                    let before = self.view().history_of(about.ino)?.map_or(0, |h| h.before_own());
                    before.saturating_add(version()?.ordinal).to_string()
                }
            },
            b"content_hash" => hex(&version()?.hash.ok_or(FsError::NoAttribute)?),
            locks::LOCK => self.lock_text(version()?.id)?,
            locks::HOLD => self.hold_text(version()?.id)?.to_owned(),
            b"birth_time" => time(
                u64::try_from(about.born.seconds).unwrap_or(0) * 1_000_000_000 + u64::from(about.born.nanos),
            ),
            b"exact" => u8::from(about.exact).to_string(),
            _ => return none(),
        };
        Ok(text.into_bytes())
    }

    /// Attributes of a list of versions: how many there are, and a page of them as text, one a line, for programs
    /// that would else have to ask for each file.
    fn list_attribute(&self, dir: Ino, name: &[u8], what: &[u8]) -> Result<Vec<u8>> {
        if what == b"versions" {
            return Ok(self.history(dir, name, |h| Ok(h.newest()))?.to_string().into_bytes());
        }
        let what = std::str::from_utf8(what).unwrap_or_default();
        let number = |n: &str| n.parse::<u64>().map_err(|_| FsError::NoAttribute);
        let (ino, page) = if let Some(from) = what.strip_prefix("page.") {
            let from = number(from)?;
            self.history(dir, name, |h| Ok((h.ino(), h.from(from, PAGE)?)))?
        } else if let Some(before) = what.strip_prefix("before.") {
            let before = number(before)?;
            let (ino, mut page) =
                self.history(dir, name, |h| Ok((h.ino(), h.before(Some(before), PAGE)?)))?;
            page.reverse();
            (ino, page)
        } else {
            return none();
        };
        let heads = self.view().heads(ino).unwrap_or_default();
        let shown = self.view().shown_version(ino)?;
        let mut text = String::new();
        for past in &page {
            let conflict = heads.len() > 1
                && past.ino == ino
                && heads.contains(&past.version.lsn)
                && shown != Some(past.version.lsn);
            line(&mut text, past, conflict, self.vfs.store.protection(past.version.id)?);
        }
        Ok(text.into_bytes())
    }
}

/// One version: number, id, creation time in ns, size, mode, owner, group, hash, flags, origin, LSN, lost a conflict, lock, held.
fn line(text: &mut String, past: &Past, conflict: bool, protection: Protection) {
    let v = &past.version;
    let hash = v.hash.as_ref().map_or_else(|| "-".to_owned(), |h| hex(h));
    let (id, lsn): (VersionId, Lsn) = (v.id, v.lsn);
    let lock =
        protection.lock.map_or("-".to_owned(), |(mode, until)| format!("{}:{until}", locks::word(mode)));
    let _ = writeln!(
        text,
        "{}\t{id}\t{}\t{}\t{:o}\t{}\t{}\t{hash}\t{}\t{}\t{lsn}\t{}\t{lock}\t{}",
        past.ordinal,
        v.created_ns,
        v.size,
        v.mode & !super::SET_ID,
        v.owner.uid,
        v.owner.gid,
        v.flags,
        v.origin,
        u8::from(conflict),
        u8::from(protection.hold),
    );
}

fn none<T>() -> Result<T> {
    Err(FsError::NoAttribute.into())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, b| {
        let _ = write!(text, "{b:02x}");
        text
    })
}

/// RFC 3339 in UTC with 9 digits.
pub(super) fn time(ns: u64) -> String {
    let t = jiff::Timestamp::from_nanosecond(i128::from(ns)).unwrap_or_default();
    format!("{t:.9}")
}
