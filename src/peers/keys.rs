//! The key of a store: Ed25519, in a file that only its owner may read.

use std::{io, path::Path, sync::Arc};

use rustls::{
    crypto::ring::sign::any_eddsa_type,
    pki_types::{CertificateDer, PrivatePkcs8KeyDer},
    sign::CertifiedKey,
};

use crate::{
    base::{KeyId, Random, from_letters, to_letters},
    disk::Disk,
};

/// The directory of keys and of what else nobody else may read, in the store's directory.
pub const KEYS: &str = "keys";
const FILE: &str = "keys/key";
const NEXT: &str = "keys/key.next";
/// What stands before the 32 bytes of a private Ed25519 key in PKCS #8.
const PKCS8: [u8; 16] = [0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20];
/// What stands before the 32 bytes of a public one.
const SPKI: [u8; 12] = [0x30, 0x2a, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 3, 0x21, 0];

/// The key by which a store is known to others.
#[derive(Debug, Clone)]
pub struct Key {
    id: KeyId,
    pub(super) certified: Arc<CertifiedKey>,
}

impl Key {
    /// The key of the store in this directory, which is made if there is none.
    ///
    /// # Errors
    /// What the system says; `InvalidData` if the file holds something else.
    pub fn open(disk: &dyn Disk, random: &dyn Random) -> io::Result<Self> {
        match disk.open(Path::new(FILE), false) {
            Ok(file) => {
                let mut text = [0; 64];
                let n = file.read_at(&mut text, 0)?;
                let text = String::from_utf8_lossy(&text[..n]);
                let seed = from_letters(text.trim()).ok().and_then(|b| <[u8; 32]>::try_from(b).ok());
                let seed = seed.ok_or_else(|| invalid(format!("{FILE} does not hold a key")))?;
                Self::of(&seed)
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                let mut seed = [0; 32];
                random.fill(&mut seed);
                let key = Self::of(&seed)?;
                replace(disk, NEXT, FILE, &format!("{}\n", to_letters(&seed)))?;
                Ok(key)
            }
            Err(e) => Err(e),
        }
    }

    /// The key of these 32 random bytes.
    fn of(seed: &[u8; 32]) -> io::Result<Self> {
        let der = PrivatePkcs8KeyDer::from([&PKCS8[..], seed].concat());
        let signing = any_eddsa_type(&der).map_err(|e| invalid(e.to_string()))?;
        let public = signing.public_key().ok_or_else(|| invalid("a key without a public half".into()))?;
        let public = public.as_ref().to_vec();
        let id = id_of(&public).ok_or_else(|| invalid("not an Ed25519 key".into()))?;
        let certified = Arc::new(CertifiedKey::new(vec![CertificateDer::from(public)], signing));
        Ok(Self { id, certified })
    }

    /// Its name: what a person compares, and others pin.
    #[must_use]
    pub fn id(&self) -> KeyId {
        self.id
    }
}

/// The name of a public key; none if it is not an Ed25519 key.
pub(super) fn id_of(public: &[u8]) -> Option<KeyId> {
    let is_one = public.len() == SPKI.len() + 32 && public.starts_with(&SPKI);
    let hash = blake3::hash(public);
    let (first, _) = hash.as_bytes().split_first_chunk()?;
    is_one.then(|| KeyId::new(*first))
}

fn invalid(why: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

/// Replaces a file in the directory of keys as a whole, durably.
pub(super) fn replace(disk: &dyn Disk, next: &str, name: &str, text: &str) -> io::Result<()> {
    disk.create_dir(Path::new(KEYS))?;
    let next = Path::new(next);
    let file = match disk.create(next) {
        // A crash left it.
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
            disk.remove(next)?;
            disk.create(next)?
        }
        made => made?,
    };
    file.write_at(&[text.as_bytes()], 0)?;
    file.sync()?;
    disk.rename(next, Path::new(name))?;
    disk.sync_dir(Path::new(KEYS))?;
    disk.sync_dir(Path::new(""))
}

/// A small file's text; none if there is no such file.
pub(super) fn read(disk: &dyn Disk, name: &str) -> io::Result<Option<String>> {
    let file = match disk.open(Path::new(name), false) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened?,
    };
    let mut bytes = vec![0; file.len()?.min(1 << 20) as usize];
    let n = file.read_at(&mut bytes, 0)?;
    bytes.truncate(n);
    Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        base::SystemRandom,
        disk::{Engine, RealDisk},
    };

    #[test]
    fn a_key_is_made_once_and_only_its_owner_may_read_it() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let disk = RealDisk::open(dir.path(), Engine::Plain).unwrap();
        let key = Key::open(&disk, &SystemRandom).unwrap();
        assert_eq!(Key::open(&disk, &SystemRandom).unwrap().id(), key.id());
        let mode = |name: &str| dir.path().join(name).metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(KEYS), mode(FILE)), (0o700, 0o600));
        replace(&disk, NEXT, FILE, "no key\n").unwrap();
        assert_eq!(Key::open(&disk, &SystemRandom).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}
