//! Setting attributes, and privileges that changes take away.

use crate::{
    base::{FsError, Ino, Result},
    format::facts::{ObjectKind, Owner, Time},
    store::{Attributes, SetAttributes},
};

use super::{Caller, Vfs, acl, xattrs::CAPABILITY};

const SET_USER_ID: u32 = 0o4000;
const SET_GROUP_ID: u32 = 0o2000;
const GROUP_EXECUTE: u32 = 0o010;

/// A time to set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SetTime {
    /// The present.
    Now,
    /// This one.
    To(Time),
}

/// What to set of an object; what is `None` stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Setting {
    /// Permission bits.
    pub mode: Option<u32>,
    /// User id.
    pub uid: Option<u32>,
    /// Group id.
    pub gid: Option<u32>,
    /// Size.
    pub size: Option<u64>,
    /// Access time.
    pub accessed: Option<SetTime>,
    /// Modification time.
    pub modified: Option<SetTime>,
    /// The open handle through which it is set.
    pub handle: Option<u64>,
    /// The kernel sets times that it kept itself while it collected writes.
    pub kept_by_kernel: bool,
}

impl Vfs {
    /// Sets attributes and returns what they are then.
    ///
    /// # Errors
    /// What the store says.
    pub fn set_attributes(&self, caller: Caller, ino: Ino, set: &Setting) -> Result<Attributes> {
        if let Some(size) = set.size {
            self.set_size(caller, ino, size, set.handle)?;
        }
        let before = self.attributes(ino)?;
        let mut mode = set.mode.map(|m| m & 0o7777);
        let owner = if set.uid.is_some() || set.gid.is_some() {
            let (uid, gid) = (set.uid.unwrap_or(before.owner.uid), set.gid.unwrap_or(before.owner.gid));
            if mode.is_none() {
                mode = lowered(&before);
            }
            self.drop_capability(&before)?;
            Some(Owner { uid, gid })
        } else {
            None
        };
        let time = |t: Option<SetTime>| {
            t.map(|t| match t {
                SetTime::Now => self.now(),
                SetTime::To(t) => t,
            })
        };
        if set.kept_by_kernel && is_known(set, &before) {
            return Ok(before);
        }
        let change =
            SetAttributes { mode, owner, modified: time(set.modified), accessed: time(set.accessed) };
        if change == SetAttributes::default() {
            return if set.size.is_some() { Ok(before) } else { self.touch(&before) };
        }
        let after = self.store.set_attributes(ino, &change)?.1;
        if let Some(mode) = mode
            && after.xattrs > 0
        {
            self.follow_mode(ino, mode)?;
        }
        Ok(after)
    }

    /// A change that changes nothing (chown to -1, -1) still moves the change time.
    fn touch(&self, a: &Attributes) -> Result<Attributes> {
        let change = SetAttributes { mode: Some(a.mode), ..SetAttributes::default() };
        Ok(self.store.set_attributes(a.ino, &change)?.1)
    }

    /// An access ACL follows the mode.
    fn follow_mode(&self, ino: Ino, mode: u32) -> Result<()> {
        if let Some(mut access) = self.acl_of(ino, acl::ACCESS)? {
            access.set_mode(mode);
            self.store.set_xattr(ino, acl::ACCESS, Some(&access.encode()), None)?;
        }
        Ok(())
    }

    fn set_size(&self, caller: Caller, ino: Ino, size: u64, handle: Option<u64>) -> Result<()> {
        let a = self.attributes(ino)?;
        if a.kind == ObjectKind::Directory {
            return Err(FsError::IsADirectory.into());
        }
        self.drop_privileges(&a, caller.uid != 0, true)?;
        if let (Some(_), 0, 0) = (handle, a.size, size) {
            // Opened with O_TRUNC, as a rule. Nothing to cut, and so nothing for a version; only the time moves.
            let modified = Some(self.now());
            self.store.set_attributes(ino, &SetAttributes { modified, ..Default::default() })?;
            return Ok(());
        }
        if let Some(handle) = handle {
            self.files.lock().wrote(handle);
        }
        self.store.truncate(ino, size)?;
        if handle.is_none() {
            // No close will come: truncate(2) is finished when it returns.
            self.store.commit_version(ino)?;
        }
        Ok(())
    }

    /// Content is about to change: set-user-id and set-group-id go (unless root changes it), and so do file
    /// capabilities.
    pub(super) fn drop_privileges(&self, a: &Attributes, bits: bool, capability: bool) -> Result<()> {
        let mut changed = false;
        if capability {
            changed |= self.drop_capability(a)?;
        }
        if bits && let Some(mode) = lowered(a) {
            self.store.set_attributes(a.ino, &SetAttributes { mode: Some(mode), ..Default::default() })?;
            changed = true;
        }
        if changed {
            self.tell_changed(a.ino);
        }
        Ok(())
    }

    fn drop_capability(&self, a: &Attributes) -> Result<bool> {
        if a.xattrs == 0 || a.kind != ObjectKind::File {
            return Ok(false);
        }
        match self.store.set_xattr(a.ino, CAPABILITY, None, None) {
            Ok(_) => Ok(true),
            Err(crate::base::Error::Fs(FsError::NoAttribute)) => Ok(false),
            Err(e) => Err(e),
        }
    }
}

/// Does this set the modification time to what it is, and nothing else? The kernel says it again whenever it has moved the
/// change time of a file, which it did on an occasion that was told here.
fn is_known(set: &Setting, before: &Attributes) -> bool {
    let Setting { mode, uid, gid, size, accessed, modified, .. } = set;
    let nothing_else =
        mode.is_none() && uid.is_none() && gid.is_none() && size.is_none() && accessed.is_none();
    nothing_else && *modified == Some(SetTime::To(before.modified))
}

/// The mode without what gives rights to whoever runs the file, if it had any. Set-group-id without group
/// execution means something else, and stays.
fn lowered(a: &Attributes) -> Option<u32> {
    if a.kind == ObjectKind::Directory {
        return None;
    }
    let mut mode = a.mode & !SET_USER_ID;
    if mode & GROUP_EXECUTE != 0 {
        mode &= !SET_GROUP_ID;
    }
    (mode != a.mode).then_some(mode)
}
