//! Names: making, linking, moving and removing them.

use crate::{
    base::{Ino, Result},
    format::facts::{ObjectKind, Owner},
    store::{Attributes, NewObject, Rename},
};

use super::{
    Caller, Vfs,
    acl::{self, Acl},
};

const SET_GROUP_ID: u32 = 0o2000;

/// What somebody wants to make.
#[derive(Debug, Clone, Copy)]
struct Wanted {
    kind: ObjectKind,
    mode: u32,
    umask: u32,
    device: u32,
}

impl Vfs {
    /// Makes a regular file and opens it so. Returns its attributes and the handle.
    ///
    /// # Errors
    /// [`crate::base::FsError::Exists`], or what the store says.
    pub fn create(
        &self,
        caller: Caller,
        dir: Ino,
        name: &[u8],
        (mode, umask): (u32, u32),
        write: bool,
    ) -> Result<(Attributes, u64)> {
        let made = self.make_node(caller, dir, name, ObjectKind::File, (mode, umask), 0)?;
        let handle = self.opened_new(made.ino, write);
        Ok((made, handle))
    }

    /// Makes a directory, regular file, pipe, socket or device node. `mode` is the mode and the umask.
    ///
    /// # Errors
    /// As of [`create`](Self::create).
    pub fn make_node(
        &self,
        caller: Caller,
        dir: Ino,
        name: &[u8],
        kind: ObjectKind,
        (mode, umask): (u32, u32),
        device: u32,
    ) -> Result<Attributes> {
        let new = self.new_object(caller, dir, Wanted { kind, mode, umask, device })?;
        Ok(self.store.create_object(dir, name, &new)?.1)
    }

    /// Makes a symlink.
    ///
    /// # Errors
    /// As of [`create`](Self::create).
    pub fn make_symlink(&self, caller: Caller, dir: Ino, name: &[u8], target: &[u8]) -> Result<Attributes> {
        let parent = self.attributes(dir)?;
        let new = NewObject::symlink(target, owner_below(caller, &parent));
        Ok(self.store.create_object(dir, name, &new)?.1)
    }

    /// What a new object gets from its maker and its directory: owner, mode, ACLs.
    fn new_object(&self, caller: Caller, dir: Ino, wanted: Wanted) -> Result<NewObject> {
        let parent = self.attributes(dir)?;
        let owner = owner_below(caller, &parent);
        let is_dir = wanted.kind == ObjectKind::Directory;
        let mut mode = wanted.mode & 0o7777;
        let mut xattrs = Vec::new();
        let default = if parent.xattrs == 0 { None } else { self.acl_of(dir, acl::DEFAULT)? };
        if let Some(default) = default {
            // The directory's default ACL stands in for the umask.
            let (access, masked) = Acl::inherited(&default, mode);
            mode = masked;
            if let Some(access) = access {
                xattrs.push((acl::ACCESS.to_vec(), access.encode()));
            }
            if is_dir {
                xattrs.push((acl::DEFAULT.to_vec(), default.encode()));
            }
        } else {
            mode &= !wanted.umask;
        }
        if is_dir && parent.mode & SET_GROUP_ID != 0 {
            mode |= SET_GROUP_ID;
        }
        let device = wanted.device;
        Ok(NewObject { kind: wanted.kind, mode, owner, device, target: Vec::new(), xattrs })
    }

    /// Gives a file another name.
    ///
    /// # Errors
    /// As of [`Store::link`](crate::store::Store::link).
    pub fn link(&self, ino: Ino, dir: Ino, name: &[u8]) -> Result<Attributes> {
        let made = self.store.link(ino, dir, name)?.1;
        if !self.store.makes_everywhere() {
            self.mint_moved(ino)?;
        }
        Ok(made)
    }

    /// Removes a name; open handles keep what it showed.
    ///
    /// # Errors
    /// As of [`Store::unlink`](crate::store::Store::unlink).
    pub fn unlink(&self, dir: Ino, name: &[u8]) -> Result<()> {
        self.mint_due_at(dir, name)?;
        self.unlink_closed(dir, name)
    }

    /// Removes an empty directory.
    ///
    /// # Errors
    /// As of [`Store::rmdir`](crate::store::Store::rmdir).
    pub fn rmdir(&self, dir: Ino, name: &[u8]) -> Result<()> {
        self.store.rmdir(dir, name)?;
        Ok(())
    }

    /// Renames, as renameat2(2) does.
    ///
    /// # Errors
    /// As of [`Store::rename`](crate::store::Store::rename).
    pub fn rename(&self, from: (Ino, &[u8]), to: (Ino, &[u8]), how: Rename) -> Result<()> {
        self.mint_due_at(from.0, from.1)?;
        self.mint_due_at(to.0, to.1)?;
        if let (_, Some((ino, links))) = self.store.rename(from, to, how)?
            && self.attributes(ino)?.kind != ObjectKind::Directory
        {
            self.unnamed(ino, links)?;
        }
        if !self.store.makes_everywhere() {
            self.mint_arrived(to.0, to.1)?;
            if how == Rename::Exchange {
                self.mint_arrived(from.0, from.1)?;
            }
        }
        Ok(())
    }

    /// Something was moved here, perhaps from where no versions are made. What is below a directory is seen to by and by.
    fn mint_arrived(&self, dir: Ino, name: &[u8]) -> Result<()> {
        match self.store.view().lookup(dir, name) {
            Ok(a) if a.kind == ObjectKind::Directory => {
                self.look_at_drafts();
                Ok(())
            }
            Ok(a) => self.mint_moved(a.ino),
            // Somebody was faster to move it on.
            Err(_) => Ok(()),
        }
    }
}

/// Who owns what is made in a directory: below a set-group-id directory the group is the directory's.
fn owner_below(caller: Caller, parent: &Attributes) -> Owner {
    let gid = if parent.mode & SET_GROUP_ID == 0 { caller.gid } else { parent.owner.gid };
    Owner { uid: caller.uid, gid }
}
