//! Extended attributes. The ACLs among them and the mode follow each other.

use crate::{
    base::{Error, FsError, Ino, Result},
    format::facts::ObjectKind,
    store::{Attributes, SetAttributes},
};

use super::{
    Caller, Vfs,
    acl::{self, Acl},
};

/// File capabilities; a write takes them away.
pub(super) const CAPABILITY: &[u8] = b"security.capability";

impl Vfs {
    /// An extended attribute's value.
    ///
    /// # Errors
    /// [`FsError::NoAttribute`], or what the store says.
    pub fn xattr(&self, ino: Ino, name: &[u8]) -> Result<Vec<u8>> {
        self.store.view().xattr(ino, name)
    }

    /// Names of the extended attributes that are set.
    ///
    /// # Errors
    /// What the store says.
    pub fn xattrs(&self, ino: Ino) -> Result<Vec<Vec<u8>>> {
        self.store.view().xattrs(ino)
    }

    pub(super) fn acl_of(&self, ino: Ino, which: &[u8]) -> Result<Option<Acl>> {
        match self.xattr(ino, which) {
            Ok(bytes) => Ok(Some(Acl::decode(&bytes)?)),
            Err(Error::Fs(FsError::NoAttribute)) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Sets an extended attribute. `create`: it must not be there (true), must be (false).
    ///
    /// # Errors
    /// As of [`Store::set_xattr`](crate::store::Store::set_xattr), and [`FsError::Invalid`] for a bad ACL.
    pub fn set_xattr(
        &self,
        caller: Caller,
        ino: Ino,
        name: &[u8],
        value: &[u8],
        create: Option<bool>,
    ) -> Result<()> {
        if name == acl::ACCESS {
            return self.set_access_acl(caller, ino, value);
        }
        if name == acl::DEFAULT {
            if self.attributes(ino)?.kind != ObjectKind::Directory {
                return Err(FsError::AccessDenied.into());
            }
            if Acl::decode(value)?.is_empty() {
                return self.clear_acl(ino, name);
            }
        }
        self.store.set_xattr(ino, name, Some(value), create)?;
        Ok(())
    }

    /// Removes an extended attribute.
    ///
    /// # Errors
    /// [`FsError::NoAttribute`], or what the store says.
    pub fn remove_xattr(&self, ino: Ino, name: &[u8]) -> Result<()> {
        if name == acl::ACCESS || name == acl::DEFAULT {
            return self.clear_acl(ino, name);
        }
        self.store.set_xattr(ino, name, None, None)?;
        Ok(())
    }

    /// Removing an ACL that is not there is fine.
    fn clear_acl(&self, ino: Ino, which: &[u8]) -> Result<()> {
        match self.store.set_xattr(ino, which, None, None) {
            Ok(_) | Err(Error::Fs(FsError::NoAttribute)) => Ok(()),
            Err(e) => Err(e),
        }
    }

    /// The permission bits become what the ACL says; one that says no more than they do is not kept.
    fn set_access_acl(&self, caller: Caller, ino: Ino, value: &[u8]) -> Result<()> {
        let access = Acl::decode(value)?;
        if access.is_empty() {
            return self.clear_acl(ino, acl::ACCESS);
        }
        let a = self.attributes(ino)?;
        let mode = mode_under(&access, &a, caller);
        if access.is_minimal() {
            self.clear_acl(ino, acl::ACCESS)?;
        } else {
            self.store.set_xattr(ino, acl::ACCESS, Some(&access.encode()), None)?;
        }
        self.store.set_attributes(ino, &SetAttributes { mode: Some(mode), ..Default::default() })?;
        Ok(())
    }
}

/// The mode with an ACL's bits; set-group-id goes if the caller is not of the group.
fn mode_under(access: &Acl, a: &Attributes, caller: Caller) -> u32 {
    let mut mode = (a.mode & !0o777) | access.mode();
    if caller.uid != 0 && caller.gid != a.owner.gid {
        mode &= !0o2000;
    }
    mode
}
