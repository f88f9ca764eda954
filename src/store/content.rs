//! Content: which extents show where in a file, on which branch, since when.
//!
//! A chunk row above the branch's last version belongs to the draft and is amended in place; one at or below
//! it belongs to a version, and goes to the history when it is replaced.

use crate::{
    base::{
        Damage, Ino, Lsn, ObjectId, Result, limits,
        limits::CHUNK_BYTES,
        planted::{Bug, planted},
    },
    format::{
        Location,
        facts::{ObjectKind, Placed, Time},
        rows::{BranchRow, ChunkRow, Content, Cut, ObjectRow, Piece, VersionRow, key, kind},
    },
    index::Index,
};

use super::{
    again::look_again,
    apply::Apply,
    pieces::{add_cut, allocated, chunks_of, is_cut, splice},
    txn::{Keep, row, row_at},
};

/// Cuts kept in an object's row before the rows that they hide are removed.
const CUTS_MAX: usize = 32;

/// Chunks that are looked at together: what a long file costs in memory, however long it is.
pub(super) const PAGE_CHUNKS: usize = 256;

/// Some of the chunks in a range that may hold something, in order.
pub(super) struct Page {
    pub(super) chunks: Vec<u64>,
    /// Up to here these are all; [`u64::MAX`]: in the whole range.
    pub(super) upto: u64,
}

impl Page {
    /// From the keys of at most [`PAGE_CHUNKS`] rows, in their order.
    fn of<'k>(keys: impl ExactSizeIterator<Item = Option<&'k [u8]>>) -> Self {
        let full = keys.len() >= PAGE_CHUNKS;
        let mut chunks: Vec<u64> = keys.flatten().filter_map(key::last_number).collect();
        chunks.dedup();
        let upto = chunks.last().copied().filter(|_| full).unwrap_or(u64::MAX);
        Self { chunks, upto }
    }

    pub(super) fn and(mut self, other: Self) -> Self {
        self.upto = self.upto.min(other.upto);
        self.chunks.extend(other.chunks);
        self.chunks.retain(|c| *c <= self.upto);
        self.chunks.sort_unstable();
        self.chunks.dedup();
        self
    }

    /// Where the page behind this one begins, if there is one before `last`.
    pub(super) fn next(&self, last: u64) -> Option<u64> {
        (self.upto < last).then(|| self.upto + 1)
    }
}

/// An extent in this log, and from where on its bytes are meant.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bytes {
    pub(super) extent: Lsn,
    pub(super) location: Location,
    pub(super) skip: u32,
}

impl Apply<'_, '_> {
    /// An extent record: its bytes are now at this offset of the draft.
    pub(super) fn extent(&mut self, object: ObjectId, offset: u64, location: Location) -> Result<()> {
        self.state.meta.hlc = self.state.meta.hlc.max(self.stamp.hlc);
        let bytes = Bytes { extent: self.txn.lsn(), location, skip: 0 };
        let (ino, mut row) = self.object_or_new(object)?;
        self.write(ino, &mut row, offset, u64::from(location.raw_len), Some(bytes))?;
        self.draft(ino, row)
    }

    pub(super) fn place_extents(&mut self, object: ObjectId, placed: &[Placed]) -> Result<()> {
        let (ino, mut row) = self.object_or_new(object)?;
        for p in placed {
            let bytes = Bytes { extent: p.extent, location: p.location, skip: p.skip };
            self.write(ino, &mut row, p.offset, u64::from(p.len), Some(bytes))?;
        }
        self.draft(ino, row)
    }

    pub(super) fn punch(&mut self, object: ObjectId, offset: u64, len: u64) -> Result<()> {
        let (ino, mut row) = self.object_or_new(object)?;
        self.clear(ino, &mut row, offset, len)?;
        self.draft(ino, row)
    }

    pub(super) fn resize(&mut self, object: ObjectId, size: u64) -> Result<()> {
        let (ino, mut row) = self.object_or_new(object)?;
        self.cut(ino, &mut row, size)?;
        row.content.size = size;
        self.draft(ino, row)
    }

    pub(super) fn accessed(&mut self, object: ObjectId, time: Time) -> Result<()> {
        let (ino, mut row) = self.object_or_new(object)?;
        row.content.accessed = Some(time);
        self.txn.put_object(ino, row, Keep::Amend)
    }

    pub(super) fn reap(&mut self, object: ObjectId) -> Result<()> {
        let (ino, mut row) = self.object_or_new(object)?;
        self.give_up(ino, &mut row)?;
        self.list(kind::ORPHAN, ino, false)?;
        self.txn.put_object(ino, row, Keep::Amend)
    }

    /// What no version has of an object that no name shows and nobody has open.
    pub(super) fn give_up(&mut self, ino: Ino, row: &mut ObjectRow) -> Result<()> {
        if row.content.draft {
            // An edit elsewhere may bring the file back; it must not show then what was given up here.
            self.leave_draft(ino, &mut row.content)?;
            self.list(kind::DRAFT, ino, false)?;
        }
        Ok(())
    }

    /// The object has changes that no version has.
    fn draft(&mut self, ino: Ino, mut row: ObjectRow) -> Result<()> {
        row.content.modified = Time::from_ns(self.stamp.hlc);
        row.content.modified_stamp = self.stamp;
        if !row.content.draft && row.attributes.kind == ObjectKind::File {
            row.content.draft = true;
            self.list(kind::DRAFT, ino, true)?;
        }
        self.txn.put_object(ino, row, Keep::Amend)
    }

    /// Makes a range of the branch that shows hold these bytes, or a hole.
    pub(super) fn write(
        &mut self,
        ino: Ino,
        row: &mut ObjectRow,
        offset: u64,
        len: u64,
        bytes: Option<Bytes>,
    ) -> Result<()> {
        for (chunk, start, n, done) in chunks_of(offset, len) {
            let piece = bytes.map(|b| Piece {
                start,
                len: n,
                extent: b.extent,
                skip: b.skip + done as u32,
                location: b.location,
            });
            self.edit(ino, &mut row.content, chunk, |pieces| splice(pieces, start, n, piece))?;
        }
        row.content.size = row.content.size.max(offset + len);
        Ok(())
    }

    /// Makes a range a hole without changing the size; costs what lies there, not the range's length.
    pub(super) fn clear(&mut self, ino: Ino, row: &mut ObjectRow, offset: u64, len: u64) -> Result<()> {
        let len = len.saturating_add(u64::from(planted(Bug::PunchTooFar)));
        let end = offset.saturating_add(len).min(row.content.size);
        if offset >= end {
            return Ok(());
        }
        let last = (end - 1) / CHUNK_BYTES;
        let mut at = Some(offset / CHUNK_BYTES);
        while let Some(first) = at {
            let page = self.page(ino, &row.content, first, last)?;
            for chunk in &page.chunks {
                let base = chunk * CHUNK_BYTES;
                let start = offset.saturating_sub(base) as u32;
                let stop = (end - base).min(CHUNK_BYTES) as u32;
                self.edit(ino, &mut row.content, *chunk, |pieces| splice(pieces, start, stop - start, None))?;
            }
            at = page.next(last);
        }
        Ok(())
    }

    /// Up to where a range can be cleared in one record: it holds at most so many chunks with anything in them.
    pub(super) fn clear_limit(
        &mut self,
        ino: Ino,
        content: &Content,
        range: std::ops::Range<u64>,
        most: usize,
    ) -> Result<u64> {
        let last = range.end.saturating_sub(1) / CHUNK_BYTES;
        let mut at = (!range.is_empty()).then_some(range.start / CHUNK_BYTES);
        let mut left = most;
        while let Some(first) = at {
            let page = self.page(ino, content, first, last)?;
            if let Some(chunk) = page.chunks.get(left) {
                return Ok(chunk * CHUNK_BYTES);
            }
            left -= page.chunks.len();
            at = page.next(last);
        }
        Ok(range.end)
    }

    /// Everything from `size` on becomes empty.
    pub(super) fn cut(&mut self, ino: Ino, row: &mut ObjectRow, size: u64) -> Result<()> {
        let old = row.content.size;
        if size >= old {
            return Ok(());
        }
        let boundary = size.next_multiple_of(CHUNK_BYTES);
        if boundary > size && !planted(Bug::CutKeepsTail) {
            let start = (size % CHUNK_BYTES) as u32;
            let (chunk, n) = (size / CHUNK_BYTES, CHUNK_BYTES as u32 - start);
            if self.page(ino, &row.content, chunk, chunk)?.chunks.is_empty() {
                // Nothing there to cut.
            } else {
                self.edit(ino, &mut row.content, chunk, |pieces| splice(pieces, start, n, None))?;
            }
        }
        if boundary >= old {
            return Ok(());
        }
        if size == 0 {
            row.content.allocated = 0;
        } else {
            // Of what stays and what goes, the shorter side is counted.
            let (first, last) = (boundary / CHUNK_BYTES, (old - 1) / CHUNK_BYTES);
            row.content.allocated = if first <= last - first {
                self.allocated_in(ino, &row.content, 0, first - 1)?
            } else {
                row.content.allocated.saturating_sub(self.allocated_in(ino, &row.content, first, last)?)
            };
        }
        if !planted(Bug::CutForgotten) {
            add_cut(&mut row.content.cuts, Cut { at: self.txn.lsn(), size: boundary });
        }
        Ok(())
    }

    /// Are there so many cuts that the rows which they hide should go? Branches over a base keep theirs.
    pub(super) fn has_many_cuts(&mut self, ino: Ino, content: &Content) -> Result<bool> {
        Ok(content.cuts.len() >= CUTS_MAX
            && self.branch_row(ino, content.branch)?.is_none_or(|b| b.base.is_none()))
    }

    /// Removes rows that cuts hide: at most [`limits::CLEARED_CHUNKS`] of them. Once none is left, the cuts are forgotten.
    pub(super) fn trimmed(&mut self, object: ObjectId) -> Result<()> {
        let (ino, mut row) = self.object_or_new(object)?;
        let content = &mut row.content;
        let (mut start, end) = chunk_keys(ino, content.branch, 0, u64::MAX);
        let mut gone = 0;
        loop {
            let page = self.txn.scan_range(&start, &end, PAGE_CHUNKS)?;
            let Some((last, _)) = page.last() else { break };
            start = [&last[..], &[0]].concat();
            for (k, bytes) in page {
                let old: ChunkRow = super::txn::row(&k, &bytes)?;
                let chunk = key::last_number(&k).unwrap_or(0);
                if !is_cut(&content.cuts, chunk, old.from) {
                    continue;
                }
                if gone >= limits::CLEARED_CHUNKS {
                    return Ok(());
                }
                gone += 1;
                let keep = if old.from > content.tip { Keep::Amend } else { Keep::History };
                if keep == Keep::History && content.tip > Lsn::default() {
                    // The cut is forgotten; that the chunk changed since the last version must not be.
                    let dirty = key::dirty(ino, content.branch, self.txn.lsn(), chunk);
                    self.txn.put(dirty, &(), Keep::Amend)?;
                }
                self.txn.delete(k, keep)?;
            }
        }
        content.cuts.clear();
        self.txn.put_object(ino, row, Keep::Amend)
    }

    /// Changes the pieces of one chunk of the branch that shows.
    fn edit(
        &mut self,
        ino: Ino,
        content: &mut Content,
        chunk: u64,
        change: impl FnOnce(&mut Vec<Piece>),
    ) -> Result<()> {
        let (mut pieces, from) = self.chunk(ino, content, chunk)?;
        let before = allocated(&pieces);
        change(&mut pieces);
        content.allocated = content.allocated - before + allocated(&pieces);
        let first = from.is_none_or(|from| from <= content.tip);
        let keep = if first { Keep::History } else { Keep::Amend };
        let lsn = self.txn.lsn();
        if first && content.tip > Lsn::default() {
            self.txn.put(key::dirty(ino, content.branch, lsn, chunk), &(), Keep::Amend)?;
        }
        let k = key::chunk(ino, content.branch, chunk);
        if pieces.is_empty() && content.branches <= 1 {
            self.txn.delete(k, keep)
        } else {
            self.txn.put(k, &ChunkRow { from: lsn, pieces }, keep)
        }
    }

    /// What a chunk of the branch that shows holds, and since which LSN its row does, if it has one.
    fn chunk(&mut self, ino: Ino, content: &Content, chunk: u64) -> Result<(Vec<Piece>, Option<Lsn>)> {
        let own = self.txn.get(&key::chunk(ino, content.branch, chunk))?;
        self.chunk_over(ino, content, chunk, own)
    }

    /// As [`chunk`](Self::chunk), with the branch's own row for it.
    fn chunk_over(
        &mut self,
        ino: Ino,
        content: &Content,
        chunk: u64,
        own: Option<ChunkRow>,
    ) -> Result<(Vec<Piece>, Option<Lsn>)> {
        if let Some(own) = own {
            let pieces = if is_cut(&content.cuts, chunk, own.from) { Vec::new() } else { own.pieces };
            return Ok((pieces, Some(own.from)));
        }
        let base = if content.branches > 1 { self.branch_row(ino, content.branch)? } else { None };
        let Some(base) = base.and_then(|b| b.base) else { return Ok((Vec::new(), None)) };
        if is_cut(&content.cuts, chunk, base.at) {
            return Ok((Vec::new(), None));
        }
        let view = BranchView::of_version(self.txn.index(), ino, base.at)?;
        Ok((view.chunk(self.txn.index(), chunk)?, None))
    }

    fn branch_row(&mut self, ino: Ino, branch: u32) -> Result<Option<BranchRow>> {
        self.txn.get(&key::branch(ino, branch))
    }

    /// The first chunks between two that may hold something.
    fn page(&mut self, ino: Ino, content: &Content, first: u64, last: u64) -> Result<Page> {
        let (start, end) = chunk_keys(ino, content.branch, first, last);
        let rows = self.txn.scan_range(&start, &end, PAGE_CHUNKS)?;
        let own = Page::of(rows.iter().map(|(k, _)| Some(&k[..])));
        if content.branches > 1
            && let Some(branch) = self.branch_row(ino, content.branch)?
            && let Some(base) = branch.base
        {
            // Rare: a file with conflicts. Ask for the chunks of the base too.
            let view = BranchView::of_version(self.txn.index(), ino, base.at)?;
            return Ok(own.and(view.page(self.txn.index(), first, last)?));
        }
        Ok(own)
    }

    /// Bytes in the chunks between two that are not holes. Keeps nothing of what it reads.
    fn allocated_in(&mut self, ino: Ino, content: &Content, first: u64, last: u64) -> Result<u64> {
        let mut sum = 0;
        let mut at = Some(first);
        while let Some(first) = at {
            let page = self.page(ino, content, first, last)?;
            for chunk in &page.chunks {
                let own = self.txn.peek(&key::chunk(ino, content.branch, *chunk))?;
                sum += allocated(&self.chunk_over(ino, content, *chunk, own)?.0);
            }
            at = page.next(last);
        }
        Ok(sum)
    }
}

/// The keys of the rows of the chunks `first` to `last`: from the first one, up to before the second.
fn chunk_keys(ino: Ino, branch: u32, first: u64, last: u64) -> (Vec<u8>, Vec<u8>) {
    (key::chunk(ino, branch, first), key::chunk(ino, branch, last.saturating_add(1)))
}

/// What reads a part of a piece: the piece, where in the chunk to begin, where to put it.
pub(super) type FetchPiece<'a> = &'a mut dyn FnMut(&Piece, u32, &mut [u8]) -> Result<()>;

/// Fills a buffer with what pieces show from `start` in their chunk on.
pub(super) fn fill(pieces: &[Piece], start: u32, out: &mut [u8], fetch: FetchPiece<'_>) -> Result<()> {
    let (mut at, end) = (start, start + out.len() as u32);
    for p in pieces {
        let (s, e) = (p.start.max(start), (p.start + p.len).min(end));
        if s >= e {
            continue;
        }
        out[(at - start) as usize..(s - start) as usize].fill(0);
        fetch(p, s, &mut out[(s - start) as usize..(e - start) as usize])?;
        at = e;
    }
    out[(at - start) as usize..].fill(0);
    Ok(())
}

/// A branch as of an LSN: what reading needs to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct BranchView {
    pub(super) ino: Ino,
    pub(super) branch: u32,
    /// Rows up to here count; [`Lsn::MAX`]: all.
    pub(super) at: Lsn,
    pub(super) cuts: Vec<Cut>,
    /// May the branch rest on another one?
    pub(super) rests: bool,
}

impl BranchView {
    /// The content of a version.
    pub(super) fn of_version(index: &dyn Index, ino: Ino, at: Lsn) -> Result<Self> {
        let k = key::version(ino, at);
        let Some(bytes) = index.get(&k)? else {
            return Err(Damage::file("index", 0, format!("inode {ino} has no version at LSN {at}")).into());
        };
        let v: VersionRow = row(&k, &bytes)?;
        Ok(Self { ino, branch: v.branch, at, cuts: v.cuts, rests: true })
    }

    /// What an object shows now.
    pub(super) fn present(ino: Ino, content: &Content) -> Self {
        Self {
            ino,
            branch: content.branch,
            at: Lsn::MAX,
            cuts: content.cuts.clone(),
            rests: content.branches > 1,
        }
    }

    fn base(&self, index: &dyn Index) -> Result<Option<Self>> {
        if !self.rests {
            return Ok(None);
        }
        let k = key::branch(self.ino, self.branch);
        let Some(bytes) = index.get(&k)? else { return Ok(None) };
        let branch: BranchRow = row(&k, &bytes)?;
        branch.base.map(|b| Self::of_version(index, self.ino, b.at)).transpose()
    }

    /// The pieces of a chunk.
    pub(super) fn chunk(&self, index: &dyn Index, chunk: u64) -> Result<Vec<Piece>> {
        let k = key::chunk(self.ino, self.branch, chunk);
        let bytes = if self.at == Lsn::MAX {
            index.get(&k)?.map(|v| v.to_vec())
        } else {
            row_at(index, &k, self.at)?
        };
        if let Some(bytes) = bytes {
            let own: ChunkRow = row(&k, &bytes)?;
            return Ok(if is_cut(&self.cuts, chunk, own.from) { Vec::new() } else { own.pieces });
        }
        match self.base(index)? {
            Some(base) if !is_cut(&self.cuts, chunk, base.at) => base.chunk(index, chunk),
            _ => Ok(Vec::new()),
        }
    }

    /// Reads bytes; fewer than asked for only at the end of `size`. `fetch` reads a part of a piece, from this offset in
    /// the chunk on.
    pub(super) fn read(
        &self,
        index: &dyn Index,
        size: u64,
        offset: u64,
        out: &mut [u8],
        fetch: FetchPiece<'_>,
    ) -> Result<usize> {
        if offset >= size {
            return Ok(0);
        }
        let len = (out.len() as u64).min(size - offset);
        let out = &mut out[..len as usize];
        for (chunk, start, n, done) in chunks_of(offset, len) {
            let part = &mut out[done as usize..(done + u64::from(n)) as usize];
            look_again(&mut || fill(&self.chunk(index, chunk)?, start, part, fetch))?;
        }
        Ok(len as usize)
    }

    /// Hands the chunks between two that may hold something to `visit`, in order, until it returns false.
    pub(super) fn each_chunk(
        &self,
        index: &dyn Index,
        first: u64,
        last: u64,
        visit: &mut dyn FnMut(u64) -> Result<bool>,
    ) -> Result<()> {
        let mut at = Some(first);
        while let Some(first) = at {
            let page = self.page(index, first, last)?;
            for chunk in &page.chunks {
                if !visit(*chunk)? {
                    return Ok(());
                }
            }
            at = page.next(last);
        }
        Ok(())
    }

    /// The first chunks between two that may hold something.
    pub(super) fn page(&self, index: &dyn Index, first: u64, last: u64) -> Result<Page> {
        let (start, end) = chunk_keys(self.ino, self.branch, first, last);
        let rows = index.scan(&start, &end, PAGE_CHUNKS)?;
        let mut page = Page::of(rows.iter().map(|(k, _)| Some(&k[..])));
        if self.at != Lsn::MAX {
            let (start, end) = (key::history_prefix(&start), key::history_prefix(&end));
            let rows = index.scan(&start, &end, PAGE_CHUNKS)?;
            // History kind, the chunk's key, NUL, LSN.
            page = page.and(Page::of(rows.iter().map(|(k, _)| k.get(..k.len().saturating_sub(9)))));
        }
        if let Some(base) = self.base(index)? {
            page = page.and(base.page(index, first, last)?);
        }
        Ok(page)
    }
}
