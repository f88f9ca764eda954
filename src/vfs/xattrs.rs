//! Extended attributes. The ACLs among them and the mode follow each other.

use crate::{
    base::{Error, FsError, Ino, Result},
    format::facts::ObjectKind,
    store::SetAttributes,
};

use super::{
    Caller, Vfs,
    acl::{self, Acl},
};

/// File capabilities; a write takes them away.
pub(super) const CAPABILITY: &[u8] = b"security.capability";

/// The families of names; a name is one of these and something more. Whose they are is the kernel's concern.
const FAMILIES: &[&[u8]] = &[b"user.", TRUSTED, b"security."];
/// Names that only root sees.
const TRUSTED: &[u8] = b"trusted.";

/// Names that no family has are not supported, as on other filesystems.
fn check_family(name: &[u8]) -> Result<()> {
    if name == acl::ACCESS || name == acl::DEFAULT {
        return Ok(());
    }
    match FAMILIES.iter().find(|family| name.starts_with(family)) {
        None => Err(FsError::NotSupported.into()),
        Some(family) if family.len() == name.len() => Err(FsError::Invalid.into()),
        Some(_) => Ok(()),
    }
}

impl Vfs {
    /// An extended attribute's value.
    ///
    /// # Errors
    /// [`FsError::NoAttribute`], [`FsError::NotSupported`] and [`FsError::Invalid`] for a name of no family, or what the
    /// store says.
    pub fn xattr(&self, ino: Ino, name: &[u8]) -> Result<Vec<u8>> {
        check_family(name)?;
        self.store.view().xattr(ino, name)
    }

    /// Names of the extended attributes that are set, as far as the caller may know of them.
    ///
    /// # Errors
    /// What the store says.
    pub fn xattrs(&self, caller: Caller, ino: Ino) -> Result<Vec<Vec<u8>>> {
        let mut names = self.store.view().xattrs(ino)?;
        names.retain(|name| caller.uid == 0 || !name.starts_with(TRUSTED));
        Ok(names)
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
    /// As of [`Store::set_xattr`](crate::store::Store::set_xattr) and [`xattr`](Self::xattr), and [`FsError::Invalid`] for a
    /// bad ACL.
    pub fn set_xattr(
        &self,
        caller: Caller,
        ino: Ino,
        name: &[u8],
        value: &[u8],
        create: Option<bool>,
    ) -> Result<()> {
        check_family(name)?;
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
    /// As of [`xattr`](Self::xattr).
    pub fn remove_xattr(&self, ino: Ino, name: &[u8]) -> Result<()> {
        check_family(name)?;
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
        let mut mode = (a.mode & !0o777) | access.mode();
        if !self.is_of_group(caller, a.owner.gid) {
            mode &= !0o2000;
        }
        let old = if a.xattrs == 0 { None } else { self.acl_of(ino, acl::ACCESS)? };
        let new = (!access.is_minimal()).then_some(access);
        let mut change = SetAttributes { mode: (mode != a.mode).then_some(mode), ..SetAttributes::default() };
        if new != old {
            change.xattrs.push((acl::ACCESS.to_vec(), new.map(|acl| acl.encode())));
        }
        if change != SetAttributes::default() {
            self.store.set_attributes(ino, &change)?;
        }
        Ok(())
    }
}
