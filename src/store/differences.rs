//! How a version of a file differs from another one, a page at a time: what that costs in memory does not grow with the file.

use crate::{
    base::{Damage, Ino, Lsn, Result, limits},
    format::rows::{BranchRow, Piece, VersionPlace, VersionRow, key},
    index::{Index, Order},
};

use super::{
    Store,
    content::{BranchView, PAGE_CHUNKS},
    txn::row,
};

/// A range that differs: offset, length, and what it shows (a piece, and the offset in its extent).
pub(super) type Difference = (u64, u64, Option<(Piece, u32)>);

/// Where a list of differences goes on; by default, where it begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Onward {
    /// In a list by the records that made the changes: this one. Else 0.
    at: Lsn,
    /// From this chunk of the file on.
    chunk: u64,
}

impl Onward {
    /// As two numbers, which only mean something to the store that they come from.
    #[must_use]
    pub fn parts(self) -> (u64, u64) {
        (self.at.get(), self.chunk)
    }

    /// Back from [`parts`](Self::parts).
    #[must_use]
    pub fn of(parts: (u64, u64)) -> Self {
        Self { at: Lsn::new(parts.0), chunk: parts.1 }
    }
}

/// How a version differs from another one of the same file, or from an empty file.
pub(super) struct Differences {
    ino: Ino,
    at: Lsn,
    version: VersionRow,
    view: BranchView,
    base: Option<Before>,
}

/// What a version is compared with.
struct Before {
    at: Lsn,
    size: u64,
    view: BranchView,
    /// The version lies behind it on one line, with none that is kept between: what changed since is noted.
    along: bool,
}

impl Store {
    /// The version on which this one rests: the one kept before it on its branch, or that where the branch began. Its
    /// parent, unless retention removed that.
    pub(super) fn base_of(&self, ino: Ino, at: Lsn, branch: u32) -> Result<Option<Lsn>> {
        let mut found = Ok(None);
        let (start, end) = (key::version(ino, Lsn::new(0)), key::version(ino, at));
        self.index.walk(&start, &end, Order::Back, &mut |k, bytes| {
            found = row::<VersionRow>(k, bytes)
                .map(|v| (v.branch == branch).then(|| Lsn::new(key::last_number(k).unwrap_or(0))));
            matches!(found, Ok(None))
        })?;
        if let Some(before) = found? {
            return Ok(Some(before));
        }
        let k = key::branch(ino, branch);
        let began: Option<BranchRow> = self.index.get(&k)?.map(|bytes| row(&k, &bytes)).transpose()?;
        Ok(began.and_then(|b| b.base).map(|b| b.at))
    }

    pub(super) fn version_row(&self, ino: Ino, at: Lsn) -> Result<VersionRow> {
        let k = key::version(ino, at);
        let bytes = self.index.get(&k)?;
        let bytes = bytes.ok_or_else(|| Damage::file("index", 0, "a version's row is missing"))?;
        row(&k, &bytes)
    }

    /// How a version differs from that at `base`, which rests on the same object.
    pub(super) fn differences(&self, place: &VersionPlace, base: Option<Lsn>) -> Result<Differences> {
        let (ino, at) = (place.ino, place.at);
        let version = self.version_row(ino, at)?;
        let view = BranchView::of_version(&*self.index, ino, at)?;
        let base = match base {
            None => None,
            Some(base) => Some(Before {
                at: base,
                size: self.version_row(ino, base)?.size,
                view: BranchView::of_version(&*self.index, ino, base)?,
                along: self.base_of(ino, at, version.branch)? == Some(base),
            }),
        };
        Ok(Differences { ino, at, version, view, base })
    }
}

impl Differences {
    /// The version, as its row says.
    pub(super) fn version(&self) -> &VersionRow {
        &self.version
    }

    /// Adds the differences of some chunks, to be applied in this order. Says where to go on; none: that was all.
    pub(super) fn page(
        &self,
        index: &dyn Index,
        from: Onward,
        out: &mut Vec<Difference>,
    ) -> Result<Option<Onward>> {
        match &self.base {
            Some(base) if base.along => self.changed_since(index, base, from, out),
            base => self.compared(index, base.as_ref(), from, out),
        }
    }

    /// What was noted as changed. A chunk that is noted twice is told twice, and both times as it is in the end.
    fn changed_since(
        &self,
        index: &dyn Index,
        base: &Before,
        from: Onward,
        out: &mut Vec<Difference>,
    ) -> Result<Option<Onward>> {
        let (ino, branch) = (self.ino, self.version.branch);
        let cut_since = |c: &&crate::format::rows::Cut| c.at > base.at;
        let mut start = key::dirty(ino, branch, from.at, from.chunk);
        if from == Onward::default() {
            start = key::dirty(ino, branch, base.at.next(), 0);
            for cut in self.version.cuts.iter().filter(cut_since).filter(|c| c.size < base.size) {
                out.push((cut.size, base.size - cut.size, None));
            }
        }
        let rows = index.scan(&start, &key::dirty(ino, branch, self.at.next(), 0), PAGE_CHUNKS)?;
        let mut last = None;
        for (k, _) in &rows {
            let noted = k.get(13..21).and_then(|b| b.try_into().ok()).map(u64::from_be_bytes);
            let (Some(at), Some(chunk)) = (noted, key::last_number(k)) else { continue };
            last = Some(Onward { at: Lsn::new(at), chunk: chunk + 1 });
            let hides = |c: &crate::format::rows::Cut| c.size <= chunk * limits::CHUNK_BYTES;
            let cut = self.version.cuts.iter().filter(cut_since).any(hides);
            let before = if cut { Vec::new() } else { base.view.chunk(index, chunk)? };
            differ(chunk, &before, &self.view.chunk(index, chunk)?, out);
        }
        Ok(last.filter(|_| rows.len() >= PAGE_CHUNKS))
    }

    /// All chunks that either has.
    fn compared(
        &self,
        index: &dyn Index,
        base: Option<&Before>,
        from: Onward,
        out: &mut Vec<Difference>,
    ) -> Result<Option<Onward>> {
        let last = self.version.size.saturating_sub(1) / limits::CHUNK_BYTES;
        let mut page = self.view.page(index, from.chunk, last)?;
        if let Some(base) = base {
            page = page.and(base.view.page(index, from.chunk, last)?);
        }
        for chunk in &page.chunks {
            let before = base.map(|b| b.view.chunk(index, *chunk)).transpose()?.unwrap_or_default();
            differ(*chunk, &before, &self.view.chunk(index, *chunk)?, out);
        }
        Ok(page.next(last).map(|chunk| Onward { at: Lsn::new(0), chunk }))
    }
}

/// Where the pieces of a chunk differ from what they were.
fn differ(chunk: u64, before: &[Piece], after: &[Piece], out: &mut Vec<Difference>) {
    let mut edges: Vec<u32> = before.iter().chain(after).flat_map(|p| [p.start, p.start + p.len]).collect();
    edges.sort_unstable();
    edges.dedup();
    let at = |pieces: &[Piece], from: u32| {
        pieces
            .iter()
            .find(|p| p.start <= from && from < p.start + p.len)
            .map(|p| (*p, p.skip + (from - p.start)))
    };
    for edge in edges.windows(2) {
        let (from, to) = (edge[0], edge[1]);
        let (old, new) = (at(before, from), at(after, from));
        let same = match (&old, &new) {
            (None, None) => true,
            (Some((o, os)), Some((n, ns))) => o.extent == n.extent && os == ns,
            _ => false,
        };
        if same {
            continue;
        }
        let (offset, len) = (chunk * limits::CHUNK_BYTES + u64::from(from), u64::from(to - from));
        if let Some((last_offset, last_len, last)) = out.last_mut()
            && *last_offset + *last_len == offset
            && continues(last.as_ref(), *last_len, new.as_ref())
        {
            *last_len += len;
            continue;
        }
        out.push((offset, len, new));
    }
}

fn continues(last: Option<&(Piece, u32)>, last_len: u64, new: Option<&(Piece, u32)>) -> bool {
    match (last, new) {
        (None, None) => true,
        (Some((l, ls)), Some((n, ns))) => l.extent == n.extent && u64::from(*ls) + last_len == u64::from(*ns),
        _ => false,
    }
}
