//! Extents of which only a part still shows: that part is written again, as extents of its own, so that the rest takes no
//! space for as long as the part lives.
//!
//! What shows the part then shows the same bytes elsewhere, in the present and in the history alike; no version, no moment
//! and no name changes. The old extent is not given up here: whether something else has come to show it meanwhile, a later
//! look finds out, as for any other.

use std::collections::{BTreeSet, HashMap};

use crate::{
    base::{
        Error, Incarnation, Ino, Lsn, Result, SegmentId, StoreId,
        planted::{Bug, planted},
    },
    format::{
        Codec, Kind, Location, Prepared,
        facts::{ExtentId, Fact, Repacked},
        flags,
        rows::{ChunkRow, ExtentRow, Piece, Superseded, key, kind},
    },
    log::Record,
};

use super::{
    Store,
    alive::Sight,
    apply::Apply,
    cleaner::{Cleaned, Goal, Look, Worth},
    txn::{Keep, Txn, row},
};

/// Smaller extents stay whole, in raw bytes.
const RAW_MIN: u32 = 4 << 10;
/// Of an extent at most this much shows, or it stays whole, in percent.
const SHOWN_PERCENT: u64 = 95;
/// Extents that are remembered in one look.
const PARTS: usize = 1 << 17;
/// Rows that may show one; what more show stays whole.
const ROWS: usize = 64;
/// Parts of one that are written again, at most.
const RUNS: usize = 128;
/// Chunks that an extent reaches over where it was written, at most.
const REACH: u64 = 9;
/// What one step writes, about, in bytes.
const STEP_BYTES: u64 = 256 << 10;
/// What a frame takes beside its content, about, in bytes.
const FRAME_BYTES: u64 = 160;
/// Places that one record changes.
const PLACES: usize = 4096;
/// What is shorter is put into one extent with what comes next, in raw bytes.
const RUN_MIN: usize = 4 << 10;

/// An extent of which a part shows.
#[derive(Debug)]
pub(super) struct Part {
    /// Where it lies.
    pub(super) location: Location,
    /// Raw bytes of it that rows show, counted for each row.
    shown: u64,
    /// The rows.
    rows: Vec<Vec<u8>>,
    /// The first chunk that shows it.
    first: u64,
}

impl Part {
    fn add(&mut self, k: &[u8], len: u32) {
        self.shown += u64::from(len);
        if self.rows.last().is_none_or(|last| last != k) {
            self.rows.push(k.to_vec());
        }
    }

    fn is_whole(&self) -> bool {
        self.shown * 100 > u64::from(self.location.raw_len) * SHOWN_PERCENT || self.rows.len() > ROWS
    }

    /// What it takes, and what would be saved, in bytes of the log, about.
    pub(super) fn wasted(&self) -> u64 {
        let raw = u64::from(self.location.raw_len).max(1);
        u64::from(self.location.stored_len) * raw.saturating_sub(self.shown) / raw
    }
}

/// Found in one walk over the rows: the rows of the present come first, in the order of files and chunks, so that only
/// extents shown nearby have to be remembered.
#[derive(Debug, Default)]
pub(super) struct Parts {
    open: HashMap<Lsn, Part>,
    /// File and branch of those, and the chunk where the walk is.
    at: (Vec<u8>, u64),
    found: HashMap<Lsn, Part>,
}

impl Parts {
    /// A row shows an extent, for the first time in this walk or not, which lies there.
    pub(super) fn see(&mut self, sight: &Sight<'_>, first: Option<Location>) {
        let Some((k, len)) = sight.part.filter(|_| sight.location.raw_len >= RAW_MIN) else {
            if first.is_none() {
                // Something else than a chunk shows it.
                self.open.remove(&sight.extent);
                self.found.remove(&sight.extent);
            }
            return;
        };
        let present = k.first() == Some(&kind::CHUNK);
        let chunk = key::last_number(k).unwrap_or(0);
        if !present || self.at.0 != k[..k.len() - 8] {
            self.close(u64::MAX);
            self.at = (if present { k[..k.len() - 8].to_vec() } else { Vec::new() }, chunk);
        } else if chunk > self.at.1 + REACH {
            self.close(chunk);
            self.at.1 = chunk;
        }
        if let Some(location) = first {
            if present {
                let mut part = Part { location, shown: 0, rows: Vec::new(), first: chunk };
                part.add(k, len);
                self.open.insert(sight.extent, part);
            }
        } else if let Some(part) = self.open.get_mut(&sight.extent) {
            part.add(k, len);
        } else if let Some(part) = self.found.get_mut(&sight.extent) {
            part.add(k, len);
            if part.is_whole() {
                self.found.remove(&sight.extent);
            }
        }
    }

    /// Those are complete that no row from this chunk on can show.
    fn close(&mut self, chunk: u64) {
        let done = self.open.extract_if(|_, part| chunk > part.first.saturating_add(REACH));
        let parts = done.filter(|(_, part)| !part.is_whole());
        for (extent, part) in parts {
            if self.found.len() < PARTS {
                self.found.insert(extent, part);
            }
        }
    }

    /// What the walk found.
    pub(super) fn done(mut self) -> HashMap<Lsn, Part> {
        self.close(u64::MAX);
        self.found
    }
}

/// What is written again in one step.
#[derive(Default)]
struct Step {
    extents: Vec<(Prepared, Ino)>,
    bytes: u64,
    /// Of which extent which bytes are where in which of them.
    runs: Vec<Run>,
    rows: BTreeSet<Vec<u8>>,
}

/// Raw bytes of an old extent, in a new one.
#[derive(Clone, Copy)]
struct Run {
    old: Lsn,
    skip: u32,
    len: u32,
    new: usize,
    to: u32,
}

impl Store {
    /// Writes again what shows of extents in segments that are worth emptying once the rest of those is gone. Says whether
    /// anything was done; then another look is needed.
    ///
    /// # Errors
    /// What log and index say; without room it ends early.
    pub(super) fn repack(&self, look: &Look, goal: Goal, done: &mut Cleaned) -> Result<bool> {
        let mut by_segment: HashMap<SegmentId, Vec<Lsn>> = HashMap::new();
        for (extent, part) in &look.parts {
            by_segment.entry(part.location.segment).or_default().push(*extent);
        }
        let budget = (self.room()?.left / 4).max(self.log.segment_bytes() / 2);
        // All that lives in those segments is written before one of them goes.
        let mut room = self.log.cleaning_room();
        let (mut gained, mut wrote, mut step) = (0, 0, Step::default());
        let mut work = || -> Result<()> {
            for Worth { id, live, gain } in look.worth_repacking(goal) {
                if gained >= goal.bytes || wrote >= budget || self.is_stopping() {
                    break;
                }
                if live > room {
                    continue;
                }
                room -= live;
                gained += gain;
                for extent in by_segment.remove(&id).unwrap_or_default() {
                    let Some(part) = look.parts.get(&extent) else { continue };
                    // What is left of the segment that is being written is filled, not wasted.
                    let bytes = |more| step.bytes + more + (step.extents.len() as u64 + 1) * FRAME_BYTES;
                    let (with_it, count) = (bytes(part.shown + FRAME_BYTES), step.extents.len());
                    if count > 0 && !self.log.fits(with_it, count + 2) && self.log.fits(bytes(0), count) {
                        let full = std::mem::take(&mut step);
                        wrote += full.bytes;
                        self.put_parts(full, done)?;
                    }
                    self.take_part(extent, part, &mut step)?;
                    if step.bytes >= STEP_BYTES || step.runs.len() >= PLACES / 4 {
                        let full = std::mem::take(&mut step);
                        wrote += full.bytes;
                        self.put_parts(full, done)?;
                    }
                }
            }
            wrote += step.bytes;
            self.put_parts(std::mem::take(&mut step), done)
        };
        match work() {
            Err(Error::NoSpace { what }) => {
                tracing::debug!("writing parts of extents again: no space: {what}")
            }
            worked => worked?,
        }
        Ok(wrote > 0)
    }

    /// Takes what rows show of an extent.
    fn take_part(&self, extent: Lsn, part: &Part, step: &mut Step) -> Result<()> {
        let mut shown = Vec::new();
        for k in &part.rows {
            let pieces = self.pieces_of(k)?.unwrap_or_default();
            shown.extend(pieces.iter().filter(|p| p.extent == extent).map(|p| (p.skip, p.skip + p.len)));
        }
        let runs = union(shown);
        let bytes: u64 = runs.iter().map(|(from, to)| u64::from(to - from)).sum();
        let raw = u64::from(part.location.raw_len);
        if runs.is_empty() || runs.len() > RUNS || bytes * 100 > raw * SHOWN_PERCENT {
            return Ok(());
        }
        let record = match self.at_extent(extent, &part.location, &mut |at| self.log.read_record(at)) {
            Ok(record) => record,
            Err(Error::Damaged(d)) => {
                tracing::warn!("an extent with damage stays as it is: {d}");
                return Ok(());
            }
            Err(e) => return Err(e),
        };
        let squeeze = record.location.codec != Codec::Raw;
        let mut bytes = Vec::new();
        for (n, (from, to)) in runs.iter().enumerate() {
            let Some(content) = record.payload.get(*from as usize..*to as usize) else {
                return Ok(());
            };
            let to_offset = bytes.len() as u32;
            let (new, len) = (step.extents.len(), to - from);
            step.runs.push(Run { old: extent, skip: *from, len, new, to: to_offset });
            bytes.extend_from_slice(content);
            if bytes.len() >= RUN_MIN || n + 1 == runs.len() {
                let payload = Prepared::extent(std::mem::take(&mut bytes), squeeze);
                step.bytes += payload.stored().len() as u64;
                step.extents.push((payload, record.ino));
            }
        }
        step.rows.extend(part.rows.iter().cloned());
        Ok(())
    }

    /// The pieces in a row of a chunk, of the present or superseded.
    fn pieces_of(&self, k: &[u8]) -> Result<Option<Vec<Piece>>> {
        let Some(bytes) = self.index.get(k)? else { return Ok(None) };
        let chunk: ChunkRow = if k.first() == Some(&kind::HISTORY) {
            row(k, &row::<Superseded>(k, &bytes)?.row)?
        } else {
            row(k, &bytes)?
        };
        Ok(Some(chunk.pieces))
    }

    /// Appends the new extents, then lets rows show them.
    fn put_parts(&self, step: Step, done: &mut Cleaned) -> Result<()> {
        if step.extents.is_empty() {
            return Ok(());
        }
        let new = self.append_parts(&step)?;
        done.moved_bytes += step.bytes;
        done.extents += step.extents.len() as u64;
        self.run_quiet(|op| {
            let mut places = Vec::new();
            for k in &step.rows {
                let Some((ino, branch, chunk, since)) = place_of(k) else { continue };
                for p in op.apply.chunk_pieces(k)?.unwrap_or_default() {
                    let within =
                        |r: &&Run| r.old == p.extent && r.skip < p.skip + p.len && p.skip < r.skip + r.len;
                    for r in step.runs.iter().filter(within) {
                        let (old, skip, len, to) = (r.old, r.skip, r.len, r.to);
                        places.push(Repacked {
                            ino,
                            branch,
                            chunk,
                            since,
                            old,
                            skip,
                            len,
                            new: new[r.new],
                            to,
                        });
                    }
                }
            }
            places.dedup();
            if places.is_empty() { Ok(()) } else { op.fact(Fact::Repacked(places)) }
        })?;
        Ok(())
    }

    /// Appends extents of this store that nothing shows yet; until something does, their names keep them.
    fn append_parts(&self, step: &Step) -> Result<Vec<Lsn>> {
        let _step =
            self.step_aside(step.bytes + (step.extents.len() as u64 + 1) * 256, step.extents.len())?;
        let mut state = self.apply.lock();
        self.check_usable()?;
        let records: Vec<Record<'_>> = step
            .extents
            .iter()
            .map(|(payload, ino)| {
                let mut record = Record::new(Kind::Extent, payload);
                (record.flags, record.ino, record.stamp) = (flags::DETACHED, *ino, state.meta.hlc);
                record
            })
            .collect();
        let lsn = self.log.last_lsn().next();
        let apart = self.until_applied();
        let appended = self.log.append_cleaning(&records)?;
        self.check_lsn(appended[0].0, lsn)?;
        for (lsn, location) in &appended {
            let name = name_of(self.id, self.log.incarnation(), *lsn);
            let found = ExtentRow { extent: *lsn, location: (*location).into() };
            let mut txn = Txn::new(&*self.index, *lsn);
            txn.put(key::extent(&name), &found, Keep::Amend)?;
            let next = state.clone();
            self.land(&mut state, next, *lsn, &txn.finish()?)?;
        }
        apart.done();
        Ok(appended.into_iter().map(|(lsn, _)| lsn).collect())
    }
}

/// What an extent that this store made is called.
fn name_of(store: StoreId, incarnation: Incarnation, extent: Lsn) -> ExtentId {
    ExtentId { store, incarnation, sequence: extent.get() }
}

/// Stretches, joined where they touch.
fn union(mut stretches: Vec<(u32, u32)>) -> Vec<(u32, u32)> {
    stretches.sort_unstable();
    let mut out: Vec<(u32, u32)> = Vec::new();
    for (from, to) in stretches {
        match out.last_mut() {
            Some(last) if last.1 >= from => last.1 = last.1.max(to),
            _ => out.push((from, to)),
        }
    }
    out
}

/// Of a row's key: inode, branch, chunk, and since when it held if it is superseded, else 0.
fn place_of(k: &[u8]) -> Option<(Ino, u32, u64, Lsn)> {
    let (of, since) = match k.first()? {
        &kind::HISTORY => (k.get(1..22)?, Lsn::new(key::last_number(k)?)),
        _ => (k, Lsn::new(0)),
    };
    let branch = u32::from_be_bytes(of.get(9..13)?.try_into().ok()?);
    let chunk = u64::from_be_bytes(of.get(13..21)?.try_into().ok()?);
    Some((key::ino_of(of)?, branch, chunk, since))
}

fn key_of(r: &Repacked) -> Vec<u8> {
    let of = key::chunk(r.ino, r.branch, r.chunk);
    if r.since == Lsn::new(0) { of } else { key::history(&of, r.since) }
}

/// Pieces of an extent show the same bytes in another one.
fn replace(pieces: &[Piece], r: &Repacked, location: Location) -> Vec<Piece> {
    let mut out = Vec::with_capacity(pieces.len() + 2);
    for p in pieces {
        let (from, to) = (p.skip.max(r.skip), (p.skip + p.len).min(r.skip + r.len));
        if p.extent != r.old || from >= to {
            out.push(*p);
            continue;
        }
        let part =
            |from: u32, to: u32| Piece { start: p.start + (from - p.skip), len: to - from, skip: from, ..*p };
        if p.skip < from {
            out.push(part(p.skip, from));
        }
        let wrong = u32::from(planted(Bug::RepackedElsewhere));
        out.push(Piece { extent: r.new, skip: r.to + (from - r.skip) + wrong, location, ..part(from, to) });
        if to < p.skip + p.len {
            out.push(part(to, p.skip + p.len));
        }
    }
    out
}

impl Apply<'_, '_> {
    /// The pieces in a row of a chunk, of the present or superseded.
    fn chunk_pieces(&mut self, k: &[u8]) -> Result<Option<Vec<Piece>>> {
        if k.first() == Some(&kind::HISTORY) {
            let Some(old) = self.txn.get::<Superseded>(k)? else { return Ok(None) };
            return Ok(Some(row::<ChunkRow>(k, &old.row)?.pieces));
        }
        Ok(self.txn.get::<ChunkRow>(k)?.map(|c| c.pieces))
    }

    /// Rows show the same bytes in other extents from now on, which need their names no more.
    pub(super) fn repacked(&mut self, places: &[Repacked]) -> Result<()> {
        let mut names = BTreeSet::new();
        for r in places {
            let name = key::extent(&name_of(self.state.store, self.made_in, r.new));
            let Some(new) = self.txn.get::<ExtentRow>(&name)? else { continue };
            names.insert(name);
            let k = key_of(r);
            if r.since == Lsn::new(0) {
                let Some(mut chunk) = self.txn.get::<ChunkRow>(&k)? else { continue };
                chunk.pieces = replace(&chunk.pieces, r, new.location);
                self.txn.put(k, &chunk, Keep::Amend)?;
            } else {
                let Some(mut old) = self.txn.get::<Superseded>(&k)? else { continue };
                let mut chunk: ChunkRow = row(&k, &old.row)?;
                chunk.pieces = replace(&chunk.pieces, r, new.location);
                old.row = crate::format::code::encode(&chunk);
                self.txn.put(k, &old, Keep::Amend)?;
            }
        }
        names.into_iter().try_for_each(|name| self.txn.delete(name, Keep::Amend))
    }
}
