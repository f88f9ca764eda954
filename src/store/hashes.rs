//! Content hashes of versions: small files at their commit, others later, off the path that acknowledges.

use std::collections::HashSet;

use parking_lot::{Condvar, Mutex};

use crate::{
    base::{FsError, Ino, Lsn, Result},
    format::{
        facts::{Fact, ObjectKind},
        hash::{self, LEAF_BYTES},
        rows::{Content, VersionRow, after_prefix, key, kind},
    },
    index::Index,
};

use super::{
    Store,
    again::look_again,
    content::{BranchView, FetchPiece},
    hash_trees::data_leaves,
    txn::row,
};

/// Files up to this size are hashed when their version is made, in bytes.
const AT_ONCE_BYTES: u64 = LEAF_BYTES;
/// What one round of maintenance hashes before it does something else, in bytes.
const ROUND_BYTES: u64 = 64 << 20;

impl Store {
    /// The content hash of a draft, if that is quick to tell, and the content of which it is the hash. It is told before
    /// the version is made, so that nobody waits for it: each change of the content has a stamp of its own, so content
    /// that is equal under the lock has not changed since.
    pub(super) fn hash_early(&self, ino: Ino) -> Option<(Content, hash::Hash)> {
        let row = self.object_row(ino, None).ok()??;
        let content = row.content;
        if row.attributes.kind != ObjectKind::File || !content.draft || content.size > AT_ONCE_BYTES {
            return None;
        }
        // What can't be read now is hashed later, where the damage is reported.
        let hash = self.hash_view(&BranchView::present(ino, &content), content.size).ok()?;
        Some((content, hash))
    }

    /// The content hash of a version, computed from all of its bytes.
    ///
    /// # Errors
    /// [`FsError::NotFound`], [`crate::base::Error::Damaged`] if the bytes can't be read.
    pub fn content_hash(&self, ino: Ino, at: Lsn) -> Result<hash::Hash> {
        if let Some(target) = self.symlink_target(ino)? {
            return Ok(hash_of_bytes(&target));
        }
        let hash = look_again(&mut || {
            let v = self.version_there(ino, at)?;
            let view = BranchView { ino, branch: v.branch, at, cuts: v.cuts, rests: true };
            self.hash_view(&view, v.size)
        })?;
        self.version_there(ino, at).map(|_| hash)
    }

    fn hash_view(&self, view: &BranchView, size: u64) -> Result<hash::Hash> {
        hash_of_view(view, &*self.index, size, &mut |p, from, part| self.read_piece(p, from, part))
    }

    /// Hashes versions that have no hash yet, up to a bound. Says whether there were any.
    ///
    /// # Errors
    /// What reading them and the log say; a version whose bytes are damaged is passed over.
    pub fn hash_versions(&self) -> Result<bool> {
        if self.options.read_only {
            return Ok(false);
        }
        let mut left = ROUND_BYTES;
        let waiting = self.index.scan(&[kind::UNHASHED], &after_prefix(&[kind::UNHASHED]), 64)?;
        let any = !waiting.is_empty();
        let _doing = any.then(|| self.activity.begin(super::Work::Hashing));
        for (k, _) in waiting {
            let (Some(ino), Some(at)) = (key::ino_of(&k), key::last_number(&k).map(Lsn::new)) else {
                continue;
            };
            let vk = key::version(ino, at);
            let v: Option<VersionRow> = self.index.get(&vk)?.map(|b| row(&vk, &b)).transpose()?;
            let Some(v) = v else { continue };
            let read = self.hash_version(ino, at, &v)?;
            left = left.saturating_sub(read);
            if left == 0 {
                break;
            }
        }
        if !any {
            let mut next = self.trees.lock();
            let from = next.take().unwrap_or_else(|| vec![kind::HASH_TREE]);
            *next = self.drop_trees(&from)?;
        }
        Ok(any)
    }

    /// Hashes one version, and says so in the log. Returns how many bytes of content it read.
    pub(super) fn hash_version(&self, ino: Ino, at: Lsn, v: &VersionRow) -> Result<u64> {
        // One at a time: two that come to the same version would both read all of it.
        let _one = (v.size > AT_ONCE_BYTES).then(|| self.hashing.begin((ino, at)));
        let k = key::version(ino, at);
        let there: Option<VersionRow> = self.index.get(&k)?.map(|b| row(&k, &b)).transpose()?;
        if there.is_none_or(|v| v.hash.is_some()) {
            return Ok(0);
        }
        let mut read = 0;
        let made = match self.symlink_target(ino)? {
            Some(target) => Ok(hash_of_bytes(&target)),
            None => look_again(&mut || {
                let v = self.version_there(ino, at)?;
                self.hash_in_parts(ino, at, &v, &mut |p, from, part| {
                    read += part.len() as u64;
                    self.read_piece(p, from, part)
                })
            }),
        };
        let hash = match made {
            Ok(hash) => Some(hash),
            // It was removed meanwhile.
            Err(crate::base::Error::Fs(FsError::NotFound)) => return Ok(read),
            Err(crate::base::Error::Damaged(d)) => {
                tracing::error!("version {} of inode {ino} can't be hashed: {d}", v.id);
                None
            }
            Err(e) => return Err(e),
        };
        self.run(|op| {
            let object = op.apply.txn.object(ino)?.object;
            op.subject = (object, ino);
            op.fact(Fact::Hash(object, v.id, hash))
        })?;
        Ok(read)
    }

    fn symlink_target(&self, ino: Ino) -> Result<Option<Vec<u8>>> {
        let object = self.object_row(ino, None)?.ok_or(FsError::NotFound)?;
        Ok((object.attributes.kind == ObjectKind::Symlink).then_some(object.attributes.target))
    }
}

/// Versions that somebody hashes now.
#[derive(Default)]
pub(super) struct Hashing {
    now: Mutex<HashSet<(Ino, Lsn)>>,
    done: Condvar,
}

/// Nobody else hashes this version as long as this is there.
pub(super) struct Alone<'a>(&'a Hashing, (Ino, Lsn));

impl Drop for Alone<'_> {
    fn drop(&mut self) {
        self.0.now.lock().remove(&self.1);
        self.0.done.notify_all();
    }
}

impl Hashing {
    /// Waits until nobody hashes this version.
    fn begin(&self, version: (Ino, Lsn)) -> Alone<'_> {
        let mut now = self.now.lock();
        while !now.insert(version) {
            self.done.wait(&mut now);
        }
        Alone(self, version)
    }
}

/// The content hash of what a symlink points to.
pub(super) fn hash_of_bytes(bytes: &[u8]) -> hash::Hash {
    let read = hash::content::<std::convert::Infallible>(bytes.len() as u64, &[(0, 1)], &mut |_, out| {
        out.copy_from_slice(bytes);
        Ok(())
    });
    match read {
        Ok(hash) => hash,
        Err(never) => match never {},
    }
}

/// The content hash of a branch as of an LSN.
pub(super) fn hash_of_view(
    view: &BranchView,
    index: &dyn Index,
    size: u64,
    fetch: FetchPiece<'_>,
) -> Result<hash::Hash> {
    // One leaf: to read it is as quick as to find out that it is all hole, and zeros hash alike either way.
    let data = if size <= LEAF_BYTES { vec![(0, 1)] } else { data_leaves(view, index, size)? };
    hash::content(size, &data, &mut |leaf, out| {
        view.read(index, size, leaf * LEAF_BYTES, out, fetch).map(drop)
    })
}
