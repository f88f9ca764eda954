//! Setting attributes, and privileges that changes take away.

use crate::{
    base::{FsError, Ino, Result},
    format::facts::{ObjectKind, Owner, Time},
    store::{Attributes, SetAttributes, XattrChange},
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
        let time = |t: Option<SetTime>| {
            t.map(|t| match t {
                SetTime::Now => self.now(),
                SetTime::To(t) => t,
            })
        };
        if set.kept_by_kernel && is_known(set, &before) {
            return Ok(before);
        }
        let mut change = SetAttributes {
            mode: set.mode.map(|m| m & 0o7777),
            modified: time(set.modified),
            accessed: time(set.accessed),
            ..SetAttributes::default()
        };
        if let Some(mode) = change.mode {
            change.xattrs.extend(self.acl_under(&before, mode)?);
        }
        if set.uid.is_some() || set.gid.is_some() {
            let (uid, gid) = (set.uid.unwrap_or(before.owner.uid), set.gid.unwrap_or(before.owner.gid));
            change.owner = Some(Owner { uid, gid });
            change.mode = change.mode.or_else(|| self.lowered(&before, caller));
            change.xattrs.extend(no_capability(&before));
        }
        if change == SetAttributes::default() && set.size.is_some() {
            return Ok(before);
        }
        if change == SetAttributes::default() {
            // chown to -1, -1, which takes privileges away as any other. The kernel also asks for this before somebody
            // writes, and does not say so; the write itself takes them away then.
            let may = caller.uid == 0 || caller.uid == before.owner.uid;
            change.mode = if may { self.lowered(&before, caller) } else { None };
        }
        if change.mode.is_none() && change.owner.is_none() && change.modified.is_none() {
            // A change that changes nothing, or the access time alone, still moves the change time.
            change.mode = Some(before.mode);
        }
        if change.accessed.is_some() {
            self.unwritten.forget(ino);
        }
        let mut a = self.store.set_attributes(ino, &change)?.1;
        self.unwritten.show(&mut a);
        Ok(a)
    }

    /// The access ACL, if there is one, as it follows a mode.
    fn acl_under(&self, a: &Attributes, mode: u32) -> Result<Option<XattrChange>> {
        let access = if a.xattrs == 0 { None } else { self.acl_of(a.ino, acl::ACCESS)? };
        Ok(access.map(|mut access| {
            access.set_mode(mode);
            (acl::ACCESS.to_vec(), Some(access.encode()))
        }))
    }

    fn set_size(&self, caller: Caller, ino: Ino, size: u64, handle: Option<u64>) -> Result<()> {
        let a = self.attributes(ino)?;
        if a.kind == ObjectKind::Directory {
            return Err(FsError::IsADirectory.into());
        }
        self.drop_privileges(&a, (caller.uid != 0).then_some(caller), true)?;
        let handle = match handle {
            None if size == 0 => self.files.lock().truncating(ino, caller.pid),
            given => given,
        };
        if let (Some(_), 0, 0) = (handle, a.size, size) {
            // Opened with O_TRUNC, as a rule. Nothing to cut, and so nothing for a version; only the time moves.
            let modified = Some(self.now());
            self.store.set_attributes(ino, &SetAttributes { modified, ..Default::default() })?;
            return Ok(());
        }
        self.mint_due_before(ino, handle)?;
        if let Some(handle) = handle {
            self.files.lock().wrote(handle);
        }
        self.store.truncate(ino, size)?;
        if handle.is_none() {
            // No close will come: truncate(2) is finished when it returns.
            self.mint(ino)?;
        }
        Ok(())
    }

    /// Content is about to change: set-user-id and set-group-id go, unless nobody is to blame for it (`by`: root may),
    /// and so do file capabilities.
    pub(super) fn drop_privileges(&self, a: &Attributes, by: Option<Caller>, capability: bool) -> Result<()> {
        let change = SetAttributes {
            mode: by.and_then(|caller| self.lowered(a, caller)),
            xattrs: if capability { no_capability(a).into_iter().collect() } else { Vec::new() },
            ..SetAttributes::default()
        };
        if change != SetAttributes::default() {
            self.store.set_attributes(a.ino, &change)?;
            self.tell_changed(a.ino);
        }
        Ok(())
    }

    /// The mode without what gives rights to whoever runs the file, if it had any. Set-group-id without group
    /// execution gives none, and stays if the caller is of that group.
    fn lowered(&self, a: &Attributes, caller: Caller) -> Option<u32> {
        if a.kind == ObjectKind::Directory {
            return None;
        }
        let mut mode = a.mode & !SET_USER_ID;
        if mode & SET_GROUP_ID != 0 && (mode & GROUP_EXECUTE != 0 || !self.is_of_group(caller, a.owner.gid)) {
            mode &= !SET_GROUP_ID;
        }
        (mode != a.mode).then_some(mode)
    }

    /// May the caller give away the rights of a group?
    pub(super) fn is_of_group(&self, caller: Caller, gid: u32) -> bool {
        let further = || self.groups_of.get().is_some_and(|ask| ask(caller.pid).contains(&gid));
        caller.uid == 0 || caller.gid == gid || further()
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

/// File capabilities to be removed, if a file may have some.
fn no_capability(a: &Attributes) -> Option<XattrChange> {
    (a.xattrs > 0 && a.kind == ObjectKind::File).then(|| (CAPABILITY.to_vec(), None))
}
