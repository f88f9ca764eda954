//! Reading everything again, to find what has rotted while nobody asked for it, and to say whose it was.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    base::{Damage, Error, Ino, Lsn, Result, SegmentId, VersionId, limits::CHUNK_BYTES},
    format::{
        Kind,
        rows::{ChunkRow, Superseded, VersionRow, key, kind},
    },
    index::Order,
};

use super::{Store, Work, content::BranchView, txn::row};

/// Versions that are told of one damaged record at most.
const VERSIONS: usize = 64;

/// A file that shows damaged bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hit {
    /// The object.
    pub ino: Ino,
    /// Its path, or the last that it had.
    pub path: Vec<u8>,
    /// Where in the file.
    pub offset: u64,
    /// How many bytes.
    pub len: u64,
    /// Does the present show them?
    pub present: bool,
    /// Versions that show them, by number within the object and id; not all, if there are very many.
    pub versions: Vec<(u64, VersionId)>,
}

/// Damage, and who is hit by it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Where and why.
    pub damage: Damage,
    /// What it is, in a word: extent, operation, base, or segment where no record can be told.
    pub what: &'static str,
    /// Files that show it.
    pub hits: Vec<Hit>,
}

/// A segment that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scrubbed {
    /// Bytes read.
    pub bytes: u64,
    /// What is wrong.
    pub found: Vec<Finding>,
}

impl Store {
    /// Reads a segment from end to end, checks everything in it, and says who is hit by what is wrong. `None`: it left the
    /// log meanwhile.
    ///
    /// # Errors
    /// What log and index say; damage is no error here.
    pub fn scrub_segment(&self, id: SegmentId) -> Result<Option<Scrubbed>> {
        let _doing = self.activity.begin(Work::Scrubbing);
        if !self.log.is_there(id) {
            return Ok(None);
        }
        let report = match self.log.verify_segment(id) {
            Ok(report) => report,
            Err(_) if !self.log.is_there(id) => return Ok(None),
            // What can't be read is found too, and no reason not to read the rest.
            Err(e @ Error::Io { .. }) => {
                let damage = Damage::segment(id, 0, None, e.to_string());
                let found = vec![Finding { damage, what: "segment", hits: Vec::new() }];
                return Ok(Some(Scrubbed { bytes: 0, found }));
            }
            Err(e) => return Err(e),
        };
        if report.damages.is_empty() {
            return Ok(Some(Scrubbed { bytes: report.end, found: Vec::new() }));
        }
        let mut found: Vec<(Finding, Option<Lsn>)> = Vec::new();
        let listed = self.log.listing(id).map(|l| l.entries).unwrap_or_default();
        let mut extents = BTreeSet::new();
        for damage in report.damages {
            let at = damage.place.offset;
            let entry = listed.iter().find(|e| e.offset == at);
            let kind = entry.map(|e| e.kind);
            let what = match kind {
                Some(Kind::Extent) => "extent",
                Some(Kind::Operation) => "operation",
                Some(Kind::Base) => "base",
                _ => "segment",
            };
            if kind == Some(Kind::Base) {
                // The index has what it held: the next base is written as a whole.
                self.forget_base();
            }
            let shown = match entry.filter(|e| e.kind == Kind::Extent) {
                Some(e) if self.moved_to(e.lsn)?.is_none_or(|to| (to.segment, to.offset) == (id, at)) => {
                    extents.insert(e.lsn);
                    Some(e.lsn)
                }
                _ => None,
            };
            found.push((Finding { damage, what, hits: Vec::new() }, shown));
        }
        // One walk over the rows for all of them: there may be very many.
        let mut hits = self.hit_by(&extents)?;
        let found = found.into_iter().map(|(mut finding, extent)| {
            finding.hits = extent.and_then(|e| hits.remove(&e)).unwrap_or_default();
            finding
        });
        Ok(Some(Scrubbed { bytes: report.end, found: found.collect() }))
    }

    /// Who shows these extents.
    fn hit_by(&self, extents: &BTreeSet<Lsn>) -> Result<BTreeMap<Lsn, Vec<Hit>>> {
        let mut hits: BTreeMap<Lsn, Vec<Hit>> = BTreeMap::new();
        if extents.is_empty() {
            return Ok(hits);
        }
        let mut places: BTreeSet<(Ino, u64, u64, Lsn)> = BTreeSet::new();
        let mut failed = Ok(());
        self.index.walk(&[], &[0xff], Order::Forward, &mut |k, bytes| {
            let chunk = match (k.first(), k.get(1)) {
                (Some(&kind::CHUNK), _) => row::<ChunkRow>(k, bytes).map(|c| (k, c)),
                (Some(&kind::HISTORY), Some(&kind::CHUNK)) => row::<Superseded>(k, bytes)
                    .and_then(|old| row::<ChunkRow>(k, &old.row))
                    .map(|c| (k.get(1..k.len().saturating_sub(9)).unwrap_or_default(), c)),
                _ => return true,
            };
            failed = chunk.map(|(of, chunk)| {
                let base = key::last_number(of).unwrap_or(0) * CHUNK_BYTES;
                for p in chunk.pieces.iter().filter(|p| extents.contains(&p.extent)) {
                    let ino = key::ino_of(of).unwrap_or_default();
                    places.insert((ino, base + u64::from(p.start), u64::from(p.len), p.extent));
                }
            });
            failed.is_ok()
        })?;
        failed?;
        for (ino, offset, len, extent) in places {
            hits.entry(extent).or_default().extend(self.hit_at(ino, offset, len, extent)?);
        }
        Ok(hits)
    }

    fn hit_at(&self, ino: Ino, offset: u64, len: u64, extent: Lsn) -> Result<Option<Hit>> {
        let Some(object) = self.object_row(ino, None)? else { return Ok(None) };
        let chunk = offset / CHUNK_BYTES;
        let shows = |view: &BranchView| -> Result<bool> {
            Ok(view.chunk(&*self.index, chunk)?.iter().any(|p| p.extent == extent))
        };
        let present = object.attributes.links > 0 && shows(&BranchView::present(ino, &object.content))?;
        let mut versions = Vec::new();
        let (start, end) = (key::version(ino, extent), key::version(ino, Lsn::MAX));
        for (k, bytes) in self.index.scan(&start, &end, 64 * VERSIONS)? {
            let v: VersionRow = row(&k, &bytes)?;
            let at = Lsn::new(key::last_number(&k).unwrap_or(0));
            let view = BranchView { ino, branch: v.branch, at, cuts: v.cuts.clone(), rests: true };
            if versions.len() < VERSIONS && shows(&view)? {
                versions.push((v.ordinal, v.id));
            }
        }
        let path = self.paths_of(ino, &object)?.into_iter().next().unwrap_or_default();
        let hit = Hit { ino, path, offset, len, present, versions };
        Ok((hit.present || !hit.versions.is_empty()).then_some(hit))
    }
}
