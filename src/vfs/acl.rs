//! POSIX ACLs, as the kernel stores them in extended attributes: version 2, then tag, permissions and id of
//! each entry, little-endian.

use crate::base::{FsError, Result};

/// The extended attribute of the ACL that is in force.
pub const ACCESS: &[u8] = b"system.posix_acl_access";
/// The extended attribute of the ACL that a directory hands down.
pub const DEFAULT: &[u8] = b"system.posix_acl_default";

const VERSION: u32 = 2;
const USER_OBJ: u16 = 0x01;
const USER: u16 = 0x02;
const GROUP_OBJ: u16 = 0x04;
const GROUP: u16 = 0x08;
const MASK: u16 = 0x10;
const OTHER: u16 = 0x20;
/// The id of entries that are not about somebody.
const NOBODY: u32 = u32::MAX;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Entry {
    tag: u16,
    perm: u16,
    id: u32,
}

/// An access control list that makes sense.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Acl(Vec<Entry>);

impl Acl {
    /// From an extended attribute's value.
    ///
    /// # Errors
    /// [`FsError::Invalid`] for what is no ACL, [`FsError::NotSupported`] for another version.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let (version, rest) = bytes.split_first_chunk::<4>().ok_or(FsError::Invalid)?;
        if u32::from_le_bytes(*version) != VERSION {
            return Err(FsError::NotSupported.into());
        }
        let (chunks, tail) = rest.as_chunks::<8>();
        if !tail.is_empty() {
            return Err(FsError::Invalid.into());
        }
        let entries = chunks
            .iter()
            .map(|c| Entry {
                tag: u16::from_le_bytes([c[0], c[1]]),
                perm: u16::from_le_bytes([c[2], c[3]]),
                id: u32::from_le_bytes([c[4], c[5], c[6], c[7]]),
            })
            .collect();
        // They stay in the order in which they came.
        let acl = Self(entries);
        if acl.is_valid() { Ok(acl) } else { Err(FsError::Invalid.into()) }
    }

    /// As an extended attribute's value.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = VERSION.to_le_bytes().to_vec();
        for e in &self.0 {
            out.extend_from_slice(&e.tag.to_le_bytes());
            out.extend_from_slice(&e.perm.to_le_bytes());
            let id = if matches!(e.tag, USER | GROUP) { e.id } else { NOBODY };
            out.extend_from_slice(&id.to_le_bytes());
        }
        out
    }

    fn is_valid(&self) -> bool {
        if self.0.is_empty() {
            return true;
        }
        let count = |tag| self.0.iter().filter(|e| e.tag == tag).count();
        let known = |e: &Entry| matches!(e.tag, USER_OBJ | USER | GROUP_OBJ | GROUP | MASK | OTHER);
        let named = count(USER) + count(GROUP) > 0;
        let mut sorted = self.0.clone();
        sorted.sort_by_key(|e| (e.tag, e.id));
        let distinct = sorted
            .windows(2)
            .all(|w| w[0].tag != w[1].tag || (matches!(w[0].tag, USER | GROUP) && w[0].id != w[1].id));
        self.0.iter().all(|e| known(e) && e.perm <= 7)
            && distinct
            && [USER_OBJ, GROUP_OBJ, OTHER].iter().all(|tag| count(*tag) == 1)
            && (count(MASK) == 1 || !named)
    }

    /// Without entries it means: no ACL.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Does it say no more than permission bits can?
    #[must_use]
    pub fn is_minimal(&self) -> bool {
        self.0.len() <= 3
    }

    fn perm(&self, tag: u16) -> Option<u16> {
        self.0.iter().find(|e| e.tag == tag).map(|e| e.perm)
    }

    fn perm_mut(&mut self, tag: u16) -> Option<&mut u16> {
        self.0.iter_mut().find(|e| e.tag == tag).map(|e| &mut e.perm)
    }

    /// The permission bits that show for it: the mask, where there is one, stands for the group.
    #[must_use]
    pub fn mode(&self) -> u32 {
        let group = self.perm(MASK).or_else(|| self.perm(GROUP_OBJ)).unwrap_or(0);
        let (user, other) = (self.perm(USER_OBJ).unwrap_or(0), self.perm(OTHER).unwrap_or(0));
        u32::from(user) << 6 | u32::from(group) << 3 | u32::from(other)
    }

    /// Follows a chmod.
    pub fn set_mode(&mut self, mode: u32) {
        let bits = |shift: u32| ((mode >> shift) & 7) as u16;
        let group = if self.perm(MASK).is_some() { MASK } else { GROUP_OBJ };
        for (tag, perm) in [(USER_OBJ, bits(6)), (group, bits(3)), (OTHER, bits(0))] {
            if let Some(p) = self.perm_mut(tag) {
                *p = perm;
            }
        }
    }

    /// The permission bits that a user has, who is in the groups for which `member` says so.
    #[must_use]
    pub fn allows(&self, of: &crate::store::Attributes, uid: u32, member: &dyn Fn(u32) -> bool) -> u32 {
        let mask = self.perm(MASK).unwrap_or(7);
        if uid == of.owner.uid {
            return self.perm(USER_OBJ).unwrap_or(0).into();
        }
        if let Some(named) = self.0.iter().find(|e| e.tag == USER && e.id == uid) {
            return (named.perm & mask).into();
        }
        let group = |e: &Entry| match e.tag {
            GROUP_OBJ => member(of.owner.gid),
            GROUP => member(e.id),
            _ => false,
        };
        let mut groups = self.0.iter().filter(|e| group(e)).peekable();
        if groups.peek().is_none() {
            return self.perm(OTHER).unwrap_or(0).into();
        }
        // What any one of the groups allows: only ever asked for one bit.
        groups.fold(0, |all, e| all | u32::from(e.perm & mask))
    }

    /// What a new object gets below a directory with this default ACL: an access ACL, if the mode alone
    /// does not say it, and the mode. What the maker did not ask for is not given.
    #[must_use]
    pub fn inherited(default: &Self, mode: u32) -> (Option<Self>, u32) {
        let mut access = default.clone();
        access.set_mode(default.mode() & mode);
        let mode = (mode & !0o777) | access.mode();
        ((!access.is_minimal()).then_some(access), mode)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn acl(entries: &[(u16, u16, u32)]) -> Acl {
        let mut bytes = VERSION.to_le_bytes().to_vec();
        for (tag, perm, id) in entries {
            bytes.extend_from_slice(&tag.to_le_bytes());
            bytes.extend_from_slice(&perm.to_le_bytes());
            bytes.extend_from_slice(&id.to_le_bytes());
        }
        Acl::decode(&bytes).unwrap()
    }

    #[test]
    fn a_default_acl_hands_down_what_the_maker_asks_for() {
        let default = acl(&[
            (USER_OBJ, 7, NOBODY),
            (USER, 7, 5),
            (GROUP_OBJ, 5, NOBODY),
            (MASK, 7, NOBODY),
            (OTHER, 4, NOBODY),
        ]);
        let (access, mode) = Acl::inherited(&default, 0o640);
        let access = access.unwrap();
        assert_eq!(mode, 0o640);
        assert_eq!(access.perm(MASK), Some(4));
        assert_eq!(access.perm(GROUP_OBJ), Some(5), "the mask limits it, it stays as it was");
        assert_eq!(Acl::decode(&access.encode()).unwrap(), access);
        let plain = acl(&[(USER_OBJ, 7, NOBODY), (GROUP_OBJ, 5, NOBODY), (OTHER, 0, NOBODY)]);
        assert_eq!(Acl::inherited(&plain, 0o666), (None, 0o640));
    }

    #[test]
    fn what_is_no_acl_is_refused() {
        for bad in [&b""[..], b"\x02\0\0", b"\x02\0\0\0abc", b"\x03\0\0\0"] {
            assert!(Acl::decode(bad).is_err(), "{bad:?}");
        }
        let no_mask = Acl(vec![
            Entry { tag: USER_OBJ, perm: 7, id: NOBODY },
            Entry { tag: USER, perm: 7, id: 1 },
            Entry { tag: GROUP_OBJ, perm: 7, id: NOBODY },
            Entry { tag: OTHER, perm: 7, id: NOBODY },
        ]);
        assert!(Acl::decode(&no_mask.encode()).is_err());
        assert!(Acl::decode(b"\x02\0\0\0").unwrap().is_empty());
    }
}
