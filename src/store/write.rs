//! Content in: writes, truncations, holes, clones, and the versions that come of them.

use crate::{
    base::{
        FsError, Ino, Lsn, ObjectId, Result, VersionId, limits,
        limits::CHUNK_BYTES,
        planted::{Bug, planted},
    },
    format::{
        Kind, Location, Prepared,
        facts::{Fact, ObjectKind, Placed},
        rows::{ChunkRow, Content, Piece, key},
    },
    log::Record,
};

use parking_lot::MutexGuard;

use super::{Op, Store, apply::Apply, content::BranchView, pieces::chunks_of, state::State, txn::Txn};

/// What a clone places, and what it makes holes: offset and length.
type Clone = (Vec<Placed>, Vec<(u64, u64)>);

/// So many of the longest extents fit into a segment at least.
const EXTENTS_PER_SEGMENT: u64 = 32;
/// But this long they may be in small segments too, in bytes.
const EXTENT_MIN: usize = CHUNK_BYTES as usize;
/// So many pieces beside a write in the blocks of its edges, and it rewrites them.
const BLOCK_PIECES: usize = 8;

impl Store {
    /// Writes bytes at an offset of a file, as part of its draft.
    ///
    /// # Errors
    /// [`FsError::NotFound`], [`FsError::Invalid`] for what is not a regular file, [`FsError::FileTooLarge`],
    /// [`crate::base::Error::NoSpace`]. With several extents (above 1 MiB) some may have been written.
    pub fn write(&self, ino: Ino, offset: u64, data: &[u8]) -> Result<Lsn> {
        if offset.checked_add(data.len() as u64).is_none_or(|end| end > limits::FILE_BYTES) {
            return Err(FsError::FileTooLarge.into());
        }
        let mut lsn = self.log.last_lsn();
        let mut at = offset;
        for part in data.chunks(self.longest_extent()) {
            lsn = self.with_room(|| self.write_extent(ino, at, part))?;
            at += part.len() as u64;
        }
        Ok(lsn)
    }

    /// How long an extent may be: not much of a segment, at whose end what no extent fits into is wasted.
    fn longest_extent(&self) -> usize {
        let share = usize::try_from(self.log.segment_bytes() / EXTENTS_PER_SEGMENT).unwrap_or(usize::MAX);
        share.clamp(EXTENT_MIN, limits::EXTENT_BYTES)
    }

    fn write_extent(&self, ino: Ino, offset: u64, data: &[u8]) -> Result<Lsn> {
        if self.crumbled_edges(ino, offset, data.len())?.is_none() {
            let payload = Prepared::extent(data.to_vec(), false);
            return self.append_extent(self.apply.lock(), ino, offset, &payload);
        }
        // What stands beside the bytes is written again with them, so nobody may change it meanwhile.
        let mut state = self.apply.lock();
        let Some((start, end)) = self.crumbled_edges(ino, offset, data.len())? else {
            let payload = Prepared::extent(data.to_vec(), false);
            return self.append_extent(state, ino, offset, &payload);
        };
        let len = (end - start) as usize;
        if len <= limits::EXTENT_BYTES {
            let mut bytes = vec![0; len];
            let at = (offset - start) as usize;
            self.view().read(ino, start, &mut bytes[..at])?;
            self.view().read(ino, offset + data.len() as u64, &mut bytes[at + data.len()..])?;
            bytes[at..at + data.len()].copy_from_slice(data);
            return self.append_extent(state, ino, start, &Prepared::extent(bytes, false));
        }
        // Too long for one extent: the edges first, as they are.
        let behind = offset + data.len() as u64;
        for (from, to) in [(start, offset), (behind, end)] {
            if from < to {
                let mut bytes = vec![0; (to - from) as usize];
                self.view().read(ino, from, &mut bytes)?;
                self.append_extent(state, ino, from, &Prepared::extent(bytes, false))?;
                state = self.apply.lock();
            }
        }
        self.append_extent(state, ino, offset, &Prepared::extent(data.to_vec(), false))
    }

    fn append_extent(
        &self,
        mut state: MutexGuard<'_, State>,
        ino: Ino,
        offset: u64,
        payload: &Prepared,
    ) -> Result<Lsn> {
        self.check_usable()?;
        let mut next = state.clone();
        let stamp = next.tick(&*self.clock);
        let lsn = self.log.last_lsn().next();
        let mut txn = Txn::new(&*self.index, lsn);
        let row = txn.object_if_any(ino)?.ok_or(FsError::NotFound)?;
        if row.attributes.kind != ObjectKind::File {
            return Err(FsError::Invalid.into());
        }
        // Read what applying will need, so that it can't fail once the extent is in the log.
        for (chunk, ..) in chunks_of(offset, u64::from(payload.raw_len())) {
            txn.get::<ChunkRow>(&key::chunk(ino, row.content.branch, chunk))?;
        }
        let mut record = Record::new(Kind::Extent, payload);
        record.object = row.object;
        record.ino = ino;
        record.stamp = stamp.hlc;
        record.arg = offset;
        let apart = self.until_applied();
        let (got, location) = self.log.append(&[record])?[0];
        self.check_lsn(got, lsn)?;
        let applied = Apply::new(&mut txn, &mut next, stamp, self.log.incarnation())
            .extent(row.object, offset, Location::from(location))
            .and_then(|()| txn.finish());
        match applied {
            Ok(changes) => self.land(&mut state, next, lsn, &changes)?,
            Err(e) => {
                self.break_with(&e);
                return Err(e);
            }
        }
        apart.done();
        self.note_appended(location.frame_len());
        Ok(lsn)
    }

    /// If the blocks in which a write begins and ends show many pieces beside it, they are written again with it, from
    /// here to here, so that a file written in crumbs, or in blocks that lie across each other, does not end in as
    /// many pieces.
    fn crumbled_edges(&self, ino: Ino, offset: u64, len: usize) -> Result<Option<(u64, u64)>> {
        const BLOCK: u64 = limits::BLOCK_BYTES;
        let end = offset + len as u64;
        if len == 0 || (offset.is_multiple_of(BLOCK) && end.is_multiple_of(BLOCK)) {
            return Ok(None);
        }
        let Some(row) = self.object_row(ino, None)? else { return Ok(None) };
        let start = offset / BLOCK * BLOCK;
        let stop = end.next_multiple_of(BLOCK).min(row.content.size.max(end));
        let view = BranchView::present(ino, &row.content);
        let mut count = 0;
        for (from, to) in [(start, offset), (end, stop)] {
            if from < to {
                let base = from / CHUNK_BYTES * CHUNK_BYTES;
                let pieces = view.chunk(&*self.index, from / CHUNK_BYTES)?;
                let beside =
                    |p: &&Piece| base + u64::from(p.start) < to && base + u64::from(p.start + p.len) > from;
                count += pieces.iter().filter(beside).count();
            }
        }
        Ok((count >= BLOCK_PIECES).then_some((start, stop)))
    }

    /// Sets a file's size: what is behind it is cut off, what is new is a hole.
    ///
    /// # Errors
    /// [`FsError::NotFound`], [`FsError::Invalid`], [`FsError::IsADirectory`], [`FsError::FileTooLarge`].
    pub fn truncate(&self, ino: Ino, size: u64) -> Result<Lsn> {
        if size > limits::FILE_BYTES {
            return Err(FsError::FileTooLarge.into());
        }
        self.trim(ino)?;
        self.change_content(ino, |_, object, _| Ok(Some(Fact::Size(object, size))))
    }

    /// Where truncations have hidden rows many times over, the rows go, in records of a bounded size.
    pub(super) fn trim(&self, ino: Ino) -> Result<()> {
        loop {
            let (_, many) = self.run_quiet(|op| {
                let Some(row) = op.apply.txn.object_if_any(ino)? else { return Ok(false) };
                let many = op.apply.has_many_cuts(ino, &row.content)?;
                if many {
                    op.subject = (row.object, ino);
                    op.fact(Fact::Trimmed(row.object))?;
                }
                Ok(many)
            })?;
            if !many {
                return Ok(());
            }
        }
    }

    /// Makes a range a hole; the size stays. One that holds very many chunks with data becomes several records, so that
    /// none of them needs more memory than [`limits::CLEARED_CHUNKS`] rows.
    ///
    /// # Errors
    /// As of [`truncate`](Self::truncate).
    pub fn punch(&self, ino: Ino, offset: u64, len: u64) -> Result<Lsn> {
        if len == 0 || offset.checked_add(len).is_none() {
            return Err(FsError::Invalid.into());
        }
        let (mut at, end) = (offset, offset + len);
        loop {
            // A record clears so many chunks; a longer range takes several.
            let mut stop = end;
            let lsn = self.change_content(ino, |op, object, content| {
                stop =
                    op.apply.clear_limit(ino, content, at..end.min(content.size), limits::CLEARED_CHUNKS)?;
                if stop >= content.size {
                    stop = end;
                }
                Ok((at < content.size).then_some(Fact::Punch(object, at, stop - at)))
            })?;
            if stop >= end {
                return Ok(lsn);
            }
            at = stop;
        }
    }

    fn change_content(
        &self,
        ino: Ino,
        fact: impl FnOnce(&mut Op<'_, '_>, ObjectId, &Content) -> Result<Option<Fact>>,
    ) -> Result<Lsn> {
        // A hole or a smaller size gives space back; what makes a file longer takes none yet, and is as small a record.
        let (lsn, ()) = self.run_freeing(|op| {
            let row = op.apply.txn.object_if_any(ino)?.ok_or(FsError::NotFound)?;
            match row.attributes.kind {
                ObjectKind::File => {}
                ObjectKind::Directory => return Err(FsError::IsADirectory.into()),
                _ => return Err(FsError::Invalid.into()),
            }
            op.subject = (row.object, ino);
            fact(op, row.object, &row.content)?.map_or(Ok(()), |f| op.fact(f))
        })?;
        Ok(lsn)
    }

    /// Makes a range of one file show the extents of another (or of itself, not overlapping), without copying
    /// bytes. Stops at the source's end; returns how many bytes it was.
    ///
    /// # Errors
    /// As of [`write`](Self::write), and [`FsError::Invalid`] for ranges of one file that overlap.
    pub fn clone_range(&self, from: (Ino, u64), to: (Ino, u64), len: u64) -> Result<(Lsn, u64)> {
        if to.1.checked_add(len).is_none_or(|end| end > limits::FILE_BYTES) {
            return Err(FsError::FileTooLarge.into());
        }
        // The source's end as it is now: what a copy within one file appends is no part of it.
        let len = len.min(self.view().attributes(from.0)?.size.saturating_sub(from.1));
        if from.0 == to.0 && from.1 < to.1 + len && to.1 < from.1 + len {
            return Err(FsError::Invalid.into());
        }
        let mut done = 0;
        loop {
            let (lsn, n) = self.clone_part((from.0, from.1 + done), (to.0, to.1 + done), len - done)?;
            done += n;
            if n == 0 || done >= len {
                return Ok((lsn, done));
            }
        }
    }

    /// As much of a clone as one record holds: so many chunks with something in them, of the source and of what it replaces.
    fn clone_part(&self, from: (Ino, u64), to: (Ino, u64), len: u64) -> Result<(Lsn, u64)> {
        let mut len = len;
        let (lsn, ()) = self.run(|op| {
            let source = op.apply.txn.object_if_any(from.0)?.ok_or(FsError::NotFound)?;
            let target = op.apply.txn.object_if_any(to.0)?.ok_or(FsError::NotFound)?;
            if source.attributes.kind != ObjectKind::File || target.attributes.kind != ObjectKind::File {
                return Err(FsError::Invalid.into());
            }
            len = len.min(source.content.size.saturating_sub(from.1));
            if from.0 == to.0 && from.1 < to.1 + len && to.1 < from.1 + len {
                return Err(FsError::Invalid.into());
            }
            if len == 0 {
                return Ok(());
            }
            let range = to.1..to.1 + len;
            len = op.apply.clear_limit(to.0, &target.content, range, limits::CLEARED_CHUNKS)? - to.1;
            let view = BranchView::present(from.0, &source.content);
            let (placed, holes) = self.clone_pieces(&view, from.1, to.1, &mut len)?;
            op.subject = (target.object, to.0);
            for (offset, len) in holes.iter().filter(|_| !planted(Bug::CloneForgetsHoles)) {
                op.fact(Fact::Punch(target.object, *offset, *len))?;
            }
            if !placed.is_empty() {
                op.fact(Fact::Place(target.object, placed))?;
            }
            if to.1 + len > op.apply.txn.object(to.0)?.content.size {
                op.fact(Fact::Size(target.object, to.1 + len))?;
            }
            Ok(())
        })?;
        Ok((lsn, len))
    }

    /// Where a clone shows which extents, and what it makes holes: of up to `len` bytes from `from` on, or fewer, which it says.
    fn clone_pieces(&self, view: &BranchView, from: u64, to: u64, len: &mut u64) -> Result<Clone> {
        let end = from + *len;
        let page = view.page(&*self.index, from / CHUNK_BYTES, (end - 1) / CHUNK_BYTES)?;
        let mut end = page.upto.saturating_add(1).saturating_mul(CHUNK_BYTES).min(end);
        let (mut placed, mut holes) = (Vec::new(), Vec::new());
        let mut at = from;
        for chunk in page.chunks {
            let base = chunk * CHUNK_BYTES;
            for p in view.chunk(&*self.index, chunk)? {
                let s = (base + u64::from(p.start)).max(from);
                let e = (base + u64::from(p.start + p.len)).min(end);
                if s >= e {
                    continue;
                }
                if s > at {
                    holes.push((to + (at - from), s - at));
                }
                placed.push(Placed {
                    offset: to + (s - from),
                    len: (e - s) as u32,
                    extent: p.extent,
                    location: p.location,
                    skip: p.skip + (s - base - u64::from(p.start)) as u32,
                });
                at = e;
            }
            if placed.len() + holes.len() > limits::CHANGES_PER_RECORD {
                // Enough for one record; the caller goes on behind it.
                end = (base + CHUNK_BYTES).min(end);
                break;
            }
        }
        if at < end {
            holes.push((to + (at - from), end - at));
        }
        *len = end - from;
        Ok((placed, holes))
    }

    /// Makes the draft of a file its newest version. None if there is nothing new, or no name shows the file.
    ///
    /// # Errors
    /// [`FsError::NotFound`], or what the log says.
    pub fn commit_version(&self, ino: Ino) -> Result<(Lsn, Option<VersionId>)> {
        self.commit_flagged(ino, 0)
    }

    /// As [`commit_version`](Self::commit_version), with [flags](crate::format::facts::version_flags).
    ///
    /// # Errors
    /// As of that.
    pub fn commit_flagged(&self, ino: Ino, flags: u32) -> Result<(Lsn, Option<VersionId>)> {
        let early = self.hash_early(ino);
        let made = self.run_freeing(|op| {
            let row = op.apply.txn.object_if_any(ino)?.ok_or(FsError::NotFound)?;
            if !row.content.draft || row.attributes.links == 0 {
                return Ok(None);
            }
            op.subject = (row.object, ino);
            let hash = early.filter(|(content, _)| *content == row.content).map(|(_, hash)| hash);
            let version = self.next_version(op, ino, flags, hash)?;
            let id = version.id;
            op.fact(Fact::Version(version))?;
            Ok(Some(id))
        })?;
        if made.1.is_some() {
            self.note_version(ino);
        }
        Ok(made)
    }

    /// Gives up the content of a file that no name shows any more and nobody has open.
    ///
    /// # Errors
    /// What the log says.
    pub fn reap(&self, ino: Ino) -> Result<Lsn> {
        let (lsn, ()) = self.run_freeing(|op| {
            let Some(row) = op.apply.txn.object_if_any(ino)? else { return Ok(()) };
            if row.attributes.links > 0 || row.attributes.kind == ObjectKind::Directory {
                return Ok(());
            }
            op.subject = (row.object, ino);
            op.fact(Fact::Reap(row.object))
        })?;
        Ok(lsn)
    }
}
