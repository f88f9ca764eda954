//! Gone for good: every version of a file, and, if somebody waits for it, the bytes themselves.

use std::collections::{BTreeSet, HashSet};

use crate::{
    base::{FsError, Ino, Lsn, Result, SegmentId, VersionId},
    format::{
        Kind,
        facts::ObjectKind,
        rows::{LockRow, VersionRow, after_prefix, key},
    },
};

use super::{Kept, Store, inspect::Progress, remove::Doomed, txn::row};

/// Versions of a history looked at together.
const PAGE: usize = 1024;
/// How long readers of a segment are waited for.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(60);

/// What is to be purged.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Purge {
    /// Objects whose versions all go.
    pub objects: Vec<Ino>,
    /// How many versions that is.
    pub versions: u64,
    /// Objects in the history of the name that stay, as they have another name.
    pub named_elsewhere: u64,
    /// Is there something at the name now?
    pub present: bool,
}

/// Why something can't be purged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refused {
    /// The version that stands in the way.
    pub version: VersionId,
    /// What keeps it.
    pub why: Kept,
}

impl Store {
    /// What a purge of a name would take: the file that stands there, or stood there last, and those before it in the history
    /// of the name, unless they have another name. Refused as a whole if one of their versions is locked or tagged.
    ///
    /// # Errors
    /// [`FsError::NotFound`] if nothing ever stood there, [`FsError::IsADirectory`], or what reading the index says.
    pub fn plan_purge(&self, dir: Ino, name: &[u8]) -> Result<std::result::Result<Purge, Refused>> {
        let view = self.view();
        let present = match view.lookup(dir, name) {
            Ok(found) if found.kind == ObjectKind::Directory => return Err(FsError::IsADirectory.into()),
            Ok(found) => Some(found),
            Err(crate::base::Error::Fs(FsError::NotFound)) => None,
            Err(e) => return Err(e),
        };
        let mut plan = Purge { present: present.is_some(), ..Purge::default() };
        let mut inos: BTreeSet<Ino> = present.iter().map(|a| a.ino).collect();
        if let Some(mut history) = view.history(dir, name)? {
            inos.insert(history.ino());
            let mut upto = None;
            loop {
                let page = history.before(upto, PAGE)?;
                let Some(last) = page.last() else { break };
                upto = Some(last.ordinal);
                inos.extend(page.iter().map(|p| p.ino));
            }
        } else if inos.is_empty() {
            return Err(FsError::NotFound.into());
        }
        for ino in inos {
            let links = self.object_row(ino, None)?.map_or(0, |o| o.attributes.links);
            let here = u32::from(present.as_ref().is_some_and(|p| p.ino == ino));
            if links > here {
                plan.named_elsewhere += 1;
                continue;
            }
            for d in self.all_versions(ino)? {
                if let Some(why) = self.pinned(&d)? {
                    return Ok(Err(Refused { version: d.id, why }));
                }
                plan.versions += 1;
            }
            plan.objects.push(ino);
        }
        Ok(Ok(plan))
    }

    fn all_versions(&self, ino: Ino) -> Result<Vec<Doomed>> {
        let rows = self.index.scan(
            &key::version(ino, Lsn::new(0)),
            &after_prefix(&key::version(ino, Lsn::MAX)),
            usize::MAX,
        )?;
        let listed = rows.iter().map(|(k, bytes)| Ok(Doomed { ino, id: row::<VersionRow>(k, bytes)?.id }));
        // A version whose content is not here would be supplied later.
        let prefix = key::lacking(ino, None);
        let lacking = self.index.scan(&prefix, &after_prefix(&prefix), usize::MAX)?;
        let lacking = lacking.iter().filter_map(|(k, _)| key::lacking_version(k));
        lacking.map(|id| Ok(Doomed { ino, id })).chain(listed).collect()
    }

    /// Is a version locked, held, or shown by a tag?
    fn pinned(&self, d: &Doomed) -> Result<Option<Kept>> {
        let k = key::lock(d.id);
        let lock: Option<LockRow> = self.index.get(&k)?.map(|b| row(&k, &b)).transpose()?;
        let now_ns = self.expiry().time_ns;
        if lock.is_some_and(|l| l.protection(now_ns).protects(now_ns)) {
            return Ok(Some(Kept::Locked));
        }
        let Some((_, at)) = self.find_version(d.id)? else { return Ok(None) };
        Ok(self.shown_by_a_tag(d.ino, at)?.then_some(Kept::Tagged))
    }

    /// Removes all versions of these objects, which no name shows any more. Returns how many went, and how many had to
    /// stay: something has the file open, or another store has it too.
    ///
    /// # Errors
    /// What log and index say.
    pub fn purge_objects(&self, objects: &[Ino]) -> Result<(u64, u64)> {
        let (mut gone, mut left) = (0, 0);
        for ino in objects {
            // The newest last: until then the others are not all there is.
            let doomed = self.all_versions(*ino)?;
            gone += self.remove_versions(&doomed, self.expiry().time_ns)?;
            left += self.all_versions(*ino)?.len() as u64;
        }
        Ok((gone, left))
    }

    /// Makes the bytes go that these objects ever had and that nothing shows any more: what lives beside them is moved, and
    /// their segments and everything unused is overwritten. Returns how many segments that were.
    ///
    /// # Errors
    /// What log and index say. [`FsError::Busy`] if somebody still reads one of the segments.
    pub fn erase(&self, objects: &[Ino], progress: Progress<'_>) -> Result<u64> {
        let mut cleaner = self.cleaner.lock();
        self.check_usable()?;
        self.log.end_active()?;
        let objects: HashSet<Ino> = objects.iter().copied().collect();
        let mut victims: Vec<SegmentId> = Vec::new();
        for s in self.log.segments() {
            let listing = self.log.listing(s.id)?;
            if listing.entries.iter().any(|e| e.kind == Kind::Extent && objects.contains(&e.ino)) {
                victims.push(s.id);
            }
        }
        let all = victims.len() as u64;
        progress(0, all + 1);
        self.clean_out(&mut cleaner, &victims)?;
        drop(cleaner);
        let began = self.clock.monotonic_ns();
        while self.log.is_waiting(&victims) {
            if self.clock.monotonic_ns() - began > PATIENCE.as_nanos() as u64
                || !self.rest(std::time::Duration::from_millis(50))
            {
                return Err(FsError::Busy.into());
            }
            self.log.recycle()?;
        }
        progress(all, all + 1);
        self.log.erase_unused()?;
        progress(all + 1, all + 1);
        Ok(all)
    }
}
