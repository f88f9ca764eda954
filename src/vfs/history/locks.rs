//! Locks and holds as virtual attributes: `user.segfs.lock` and `user.segfs.hold`, which can be set, on a file of the present (for the
//! version that it shows) or on a version. The kernel has asked for the right to write; beyond that it takes the owner, or root.

use crate::{
    base::{FsError, Ino, Lsn, Result, VersionId},
    store::LockMode,
};

use super::{super::Caller, History, nodes::Node, xattrs::time};

/// What can be set.
pub(super) const LOCK: &[u8] = b"lock";
pub(super) const HOLD: &[u8] = b"hold";
/// Set on a file that is open: its next version is one restored.
const RESTORED: &[u8] = b"restored";

impl History {
    /// Sets what a lock or a hold of a version is, durably.
    ///
    /// # Errors
    /// [`FsError::NotPermitted`] for whoever is not the owner, for what would weaken a lock, and for other attributes;
    /// [`FsError::Invalid`] for values that say nothing, [`FsError::NoAttribute`] where there is no version.
    pub(in super::super) fn set_virtual(
        &self,
        caller: Caller,
        ino: Ino,
        what: &[u8],
        value: &[u8],
    ) -> Result<()> {
        if what == RESTORED {
            return self.vfs.expect_restored(caller, ino);
        }
        if what != LOCK && what != HOLD {
            return Err(FsError::NotPermitted.into());
        }
        let (ino, lsn) = self.version_of(ino)?;
        if caller.uid != 0 && caller.uid != self.view().attributes(ino)?.owner.uid {
            return Err(FsError::NotPermitted.into());
        }
        let id = self.version_at(ino, lsn)?.ok_or(FsError::NoAttribute)?.id;
        let value = std::str::from_utf8(value).map_err(|_| FsError::Invalid)?;
        let store = &self.vfs.store;
        if what == HOLD {
            let on = match value.to_ascii_lowercase().as_str() {
                "on" => true,
                "off" => false,
                _ => return Err(FsError::Invalid.into()),
            };
            store.hold_version(id, on)?;
        } else {
            let (lock, bypass) = parse(value).ok_or(FsError::Invalid)?;
            store.set_lock(id, lock, bypass)?;
        }
        self.vfs.sync()
    }

    /// The version that a file of the present or a node of history shows.
    fn version_of(&self, ino: Ino) -> Result<(Ino, Lsn)> {
        if !super::is_virtual(ino) {
            self.vfs.mint_due(ino)?;
            let shown = self.view().shown_version(ino)?;
            return Ok((ino, shown.ok_or(FsError::NoAttribute)?));
        }
        match self.node(ino)? {
            Node::Version { ino, lsn, .. } => Ok((ino, lsn)),
            Node::Old { lsn, ino, .. } => {
                let shown = self.vfs.store.view_at(lsn).shown_version(ino)?;
                Ok((ino, shown.ok_or(FsError::NoAttribute)?))
            }
            _ => Err(FsError::NotPermitted.into()),
        }
    }

    /// The lock of a version, if it has one, as it would be set.
    pub(super) fn lock_text(&self, id: VersionId) -> Result<String> {
        let (mode, until) = self.vfs.store.protection(id)?.lock.ok_or(FsError::NoAttribute)?;
        Ok(format!("{} {}", word(mode), time(until)))
    }

    /// Is it held?
    pub(super) fn hold_text(&self, id: VersionId) -> Result<&'static str> {
        Ok(if self.vfs.store.protection(id)?.hold { "on" } else { "off" })
    }
}

/// A mode in a word.
pub(super) fn word(mode: LockMode) -> &'static str {
    match mode {
        LockMode::Governance => "governance",
        LockMode::Compliance => "compliance",
    }
}

/// A lock, or none, and whether one in governance mode may be weakened for it.
type Asked = (Option<(LockMode, u64)>, bool);

/// `governance TIME`, `compliance TIME` or `none`, and `bypass` behind it.
fn parse(value: &str) -> Option<Asked> {
    let value = value.trim();
    let (value, bypass) = match value.strip_suffix(" bypass") {
        Some(value) => (value.trim_end(), true),
        None => (value, false),
    };
    if value.eq_ignore_ascii_case("none") {
        return Some((None, bypass));
    }
    let (mode, until) = value.split_once(' ')?;
    let mode = [LockMode::Governance, LockMode::Compliance]
        .into_iter()
        .find(|m| mode.eq_ignore_ascii_case(word(*m)))?;
    let until: jiff::Timestamp = until.trim().parse().ok()?;
    Some((Some((mode, u64::try_from(until.as_nanosecond()).ok()?)), bypass))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locks_are_said_in_words() {
        let at = Some(1_830_297_600_000_000_000);
        let lock = |mode| at.map(|until| (mode, until));
        let t = "2028-01-01T00:00:00Z";
        assert_eq!(parse(&format!("governance {t}")), Some((lock(LockMode::Governance), false)));
        assert_eq!(parse(&format!("COMPLIANCE  {t} bypass")), Some((lock(LockMode::Compliance), true)));
        assert_eq!(
            parse("compliance 2028-01-01T01:00:00.0+01:00"),
            Some((lock(LockMode::Compliance), false))
        );
        assert_eq!(parse("None bypass"), Some((None, true)));
        assert_eq!(parse("none"), Some((None, false)));
        for bad in [
            "",
            "governance",
            "governance soon",
            "strict 2028-01-01T00:00:00Z",
            "none 2028",
            "bypass",
            "governance 1950-01-01T00:00:00Z",
        ] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }
}
