//! History that yields to the present: the oldest versions that nothing needs make room on a disk that is short of it.
//!
//! What goes is lost for good, so no more goes than is lacking, and nothing where it would not help: the cleaner gives back
//! whole segments, and what holds less than one of them all together stays.

use std::{collections::HashSet, sync::atomic::Ordering::Relaxed};

use crate::{
    base::{Ino, Lsn, Result, VersionId},
    format::rows::{ChunkRow, Piece, Superseded, VersionPlace, VersionRow, after_prefix, key, kind},
    index::Order,
};

use super::{Store, remove::Doomed, txn::row};

/// Versions, or changed chunks of one, looked at in one step.
const STEP: usize = 4096;

/// What may be given up.
#[derive(Debug, Default)]
struct Gathered {
    doomed: Vec<Doomed>,
    /// What that gives back, about, in bytes.
    bytes: u64,
    /// The last version looked at.
    last: VersionId,
}

impl Store {
    /// The oldest versions that nothing needs go, until about so many bytes did; none at all, if all that could go hold less
    /// than a segment. Looks from `after` on, where the last time ended, and then at those before. Returns how many versions
    /// went.
    ///
    /// # Errors
    /// What log and index say; what went before that has gone.
    pub(super) fn yield_history(&self, after: &mut VersionId, lacking_bytes: u64) -> Result<u64> {
        let segment = self.log.segment_bytes();
        let enough = lacking_bytes.max(segment);
        let mut found = Gathered { last: *after, ..Gathered::default() };
        self.gather(&mut found, None, enough)?;
        if found.bytes < enough && *after != VersionId::default() {
            // What had to stay then may go now.
            found.last = VersionId::default();
            self.gather(&mut found, Some(*after), enough)?;
        }
        if found.bytes < segment || self.is_stopping() {
            return Ok(0);
        }
        let _going = self.yielding.lock();
        if !self.settings.read().history_yields {
            return Ok(0);
        }
        *after = found.last;
        let now_ns = self.expiry().time_ns;
        let mut gone = 0;
        for part in found.doomed.chunks(STEP) {
            let n = self.remove_versions(part, now_ns)?;
            self.yielded.fetch_add(n, Relaxed);
            gone += n;
        }
        if gone > 0 {
            tracing::warn!("the disk is short of space: {gone} old versions made room");
        }
        Ok(gone)
    }

    /// Adds versions that may go, in the order in which they were made, up to this one or the end, until they hold enough.
    fn gather(&self, found: &mut Gathered, upto: Option<VersionId>, enough: u64) -> Result<()> {
        let mut over = false;
        while !over && found.bytes < enough && !self.is_stopping() {
            let mut start = key::version_id(found.last);
            start.push(0);
            let page = self.index.scan(&start, &after_prefix(&[kind::VERSION_ID]), STEP)?;
            over = page.len() < STEP;
            let (mut some, mut bytes) = (Vec::new(), found.bytes);
            for (k, place) in &page {
                let Some(id) = k.last_chunk::<16>().map(|id| VersionId::new(u128::from_be_bytes(*id))) else {
                    continue;
                };
                if upto.is_some_and(|upto| id > upto) {
                    over = true;
                    break;
                }
                found.last = id;
                let place: VersionPlace = row(k, place)?;
                if let Some(gives) = self.may_give(&place)? {
                    some.push((Doomed { ino: place.ino, id }, gives));
                    bytes += gives;
                }
                if bytes >= enough {
                    over = false;
                    break;
                }
            }
            self.add_removable(found, &some)?;
        }
        Ok(())
    }

    fn add_removable(&self, found: &mut Gathered, some: &[(Doomed, u64)]) -> Result<()> {
        let doomed: Vec<Doomed> = some.iter().map(|(d, _)| *d).collect();
        let going = self.removable(&doomed, self.expiry().time_ns)?;
        let going: HashSet<VersionId> = going.iter().map(|d| d.id).collect();
        for (d, gives) in some.iter().filter(|(d, _)| going.contains(&d.id)) {
            found.doomed.push(*d);
            found.bytes += gives;
        }
        Ok(())
    }

    /// What a version would give back, about; `None` if it certainly has to stay.
    fn may_give(&self, place: &VersionPlace) -> Result<Option<u64>> {
        if place.removed {
            return Ok(None);
        }
        let k = key::version(place.ino, place.at);
        let Some(bytes) = self.index.get(&k)? else { return Ok(None) };
        let object = self.object_row(place.ino, None)?;
        // Most files have one version, which they show.
        if object.is_some_and(|o| o.content.head == Some(place.at) && o.attributes.links > 0) {
            return Ok(None);
        }
        self.freed_by(place.ino, place.at, &row(&k, &bytes)?).map(Some)
    }

    /// What is given back, about, in bytes, when a version goes and those before it on its branch: what it shows and the next one does
    /// not.
    pub(super) fn freed_by(&self, ino: Ino, at: Lsn, v: &VersionRow) -> Result<u64> {
        let Some(next) = self.next_on_branch(ino, at, v.branch)? else { return Ok(v.allocated) };
        let (start, end) =
            (key::dirty(ino, v.branch, at.next(), 0), key::dirty(ino, v.branch, next.next(), 0));
        let mut freed = 0;
        for (k, _) in self.index.scan(&start, &end, STEP)? {
            let Some(chunk) = key::last_number(&k) else { continue };
            let of = key::chunk(ino, v.branch, chunk);
            let Some(old) = self.superseded_at(&of, at)? else { continue };
            let new = match self.superseded_at(&of, next)? {
                Some(pieces) => pieces,
                None => {
                    let present = self.index.get(&of)?;
                    present.map(|b| row::<ChunkRow>(&of, &b)).transpose()?.map_or(Vec::new(), |c| c.pieces)
                }
            };
            let stays: HashSet<Lsn> = new.iter().map(|p| p.extent).collect();
            freed += old.iter().filter(|p| !stays.contains(&p.extent)).map(stored).sum::<u64>();
        }
        Ok(freed)
    }

    fn next_on_branch(&self, ino: Ino, at: Lsn, branch: u32) -> Result<Option<Lsn>> {
        let (mut next, mut found) = (None, Ok(()));
        let end = key::version(ino, Lsn::MAX);
        self.index.walk(&key::version(ino, at.next()), &end, Order::Forward, &mut |k, bytes| {
            found = row::<VersionRow>(k, bytes).map(|v| {
                if v.branch == branch {
                    next = key::last_number(k).map(Lsn::new);
                }
            });
            found.is_ok() && next.is_none()
        })?;
        found.map(|()| next)
    }

    /// The pieces of a chunk at this LSN, if it holds something else by now.
    fn superseded_at(&self, chunk: &[u8], at: Lsn) -> Result<Option<Vec<Piece>>> {
        let (start, end) = (key::history_prefix(chunk), key::history(chunk, at.next()));
        let Some((k, bytes)) = self.index.last(&start, &end)? else { return Ok(None) };
        let held: Superseded = row(&k, &bytes)?;
        if held.until <= at {
            return Ok(None);
        }
        Ok(Some(row::<ChunkRow>(&k, &held.row)?.pieces))
    }
}

/// What a piece takes in the log, about: its share of what is stored of its extent.
fn stored(piece: &Piece) -> u64 {
    let (raw, stored) = (u64::from(piece.location.raw_len), u64::from(piece.location.stored_len));
    u64::from(piece.len) * stored / raw.max(1)
}
