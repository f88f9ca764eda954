//! Access to history: what an object is now has to allow it as well.

use crate::{
    base::{Ino, Result},
    store::Attributes,
};

use super::{
    super::{Caller, acl},
    History,
};
use crate::base::FsError;

/// Who asks, with a way to find out all groups that they are in: needed only where somebody else's object has
/// changed hands or modes.
#[derive(Clone, Copy)]
pub struct Asker<'a> {
    /// User and first group.
    pub caller: Caller,
    /// Is the process in this group?
    pub in_group: &'a dyn Fn(u32) -> bool,
}

impl History {
    /// Refuses whoever may not search a directory as it is now, if it still exists.
    pub(super) fn permit_search(&self, asker: Asker<'_>, dir: Ino) -> Result<()> {
        self.permit(asker, dir, 1)
    }

    /// Refuses whoever may not read something as it is now, if it still exists.
    pub(super) fn permit_read(&self, asker: Asker<'_>, ino: Ino) -> Result<()> {
        self.permit(asker, ino, 4)
    }

    fn permit(&self, asker: Asker<'_>, ino: Ino, bits: u32) -> Result<()> {
        if asker.caller.uid == 0 || !self.view().is_named(ino)? {
            return Ok(());
        }
        let a = self.view().attributes(ino)?;
        let acl = if a.xattrs == 0 { None } else { self.vfs.acl_of(ino, acl::ACCESS)? };
        let allowed = match &acl {
            Some(acl) => acl.allows(&a, asker.caller.uid, &member(asker)),
            None => by_mode(&a, asker),
        };
        if allowed & bits == bits { Ok(()) } else { Err(FsError::AccessDenied.into()) }
    }
}

fn member<'a>(asker: Asker<'a>) -> impl Fn(u32) -> bool + 'a {
    move |gid| gid == asker.caller.gid || (asker.in_group)(gid)
}

fn by_mode(a: &Attributes, asker: Asker<'_>) -> u32 {
    let shift = if asker.caller.uid == a.owner.uid {
        6
    } else if member(asker)(a.owner.gid) {
        3
    } else {
        0
    };
    (a.mode >> shift) & 7
}
