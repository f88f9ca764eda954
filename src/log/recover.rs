//! Opening: which segments are the log, where it ends, and the replay of what the index lacks.
//!
//! The segments are put in order by what their headers say of their predecessors. From the last one backwards, those are
//! scanned of which it is not certain that they are durable as a whole; all others are believed by their successor's header or
//! their trailer, so that opening reads one or two blocks of each. Then, forwards, damage is told from a torn tail
//! by the highest durable mark found anywhere.

use std::{cell::RefCell, collections::BTreeMap, io, sync::Arc};

use super::{
    SegmentState, cut,
    files::{Extent, Files, Segment},
    tail::{Active, Tail},
};
use crate::{
    base::{
        Damage, Error, Ino, Lsn, Result, SegmentId, StoreId,
        limits::BLOCK_BYTES,
        planted::{Bug, planted},
    },
    disk::{Disk, DiskFile},
    format::{BodyHeader, FooterBuilder, Kind, Malformed, SegmentHeader, flags, pad_block, segment_header},
    segment::{
        self, Batch, Found, Location, OTHER_SEGMENT, OTHER_STORE, Scan, ScannedFrame, Window, parse_name,
        read_any_header, read_header, read_record, read_trailer,
    },
};

/// What one read of small records fetches at least, in bytes; between large extents more would be read in vain.
const REPLAY_READ_BYTES: usize = 32 << 10;

/// What was found when the log was opened.
#[derive(Clone, Debug, Default)]
pub struct Recovery {
    /// The last record of the log; 0 if it is empty.
    pub last_lsn: Lsn,
    /// The highest durable mark found.
    pub durable_mark: Lsn,
    /// Damage among records that had been acknowledged.
    pub damages: Vec<Damage>,
    /// Bytes of batches that were begun and not finished, as far as recognisable.
    pub torn_bytes: u64,
    /// Segment files that belong to no log: named and never written, or behind a torn tail.
    pub unreached: Vec<SegmentId>,
    /// The highest stamp among the records replayed.
    pub highest_stamp: u64,
    /// Records passed to the visitor.
    pub replayed: u64,
    /// Segments of the log.
    pub segments: u64,
    /// Segments read through to find the end.
    pub scanned: u64,
    /// Files that a log which goes on could overwrite or leave behind; also listed in `damages`.
    pub(super) blocking: Vec<Damage>,
    /// Met since the last record that was replayed.
    pub(super) gap: Option<Damage>,
}

/// A record that is replayed.
#[derive(Debug)]
pub struct ReplayRecord<'a> {
    /// Its number.
    pub lsn: Lsn,
    /// What it is.
    pub kind: Kind,
    /// Bits of [`flags`].
    pub flags: u32,
    /// Local inode number, 0 if none.
    pub ino: Ino,
    /// The portable head, where the kind has one.
    pub head: Option<&'a BodyHeader>,
    /// The raw payload of an operation or base; empty for an extent, whose bytes replay does not need.
    pub payload: &'a [u8],
    /// Where it lies.
    pub location: Location,
    /// What is wrong with its body. An extent counts all the same, and reading it fails; of anything else nothing is
    /// known but its envelope.
    pub wrong: Option<Malformed>,
    /// Where frames could not be read between the record before and this one.
    pub gap: Option<&'a Damage>,
    /// The last record that there will be, for showing progress; 0 if that is not known.
    pub until: Lsn,
}

/// A segment that may belong to the log.
pub(super) struct Link {
    pub(super) header: SegmentHeader,
    /// One of the header's two copies is not valid.
    pub(super) copy_damaged: bool,
    /// The file's length.
    pub(super) file_bytes: u64,
    pub(super) extent: Option<Extent>,
    /// What a scan found, if one was needed.
    pub(super) found: Option<Vec<Found>>,
    /// Where its footer begins, if that was believed: it is what came last, and may not be on the medium.
    pub(super) footer: Option<u64>,
}

pub(super) fn recover(
    disk: &dyn Disk,
    store: StoreId,
    files: &Files,
    (read_only, known): (bool, Lsn),
    from: Lsn,
    visit: &mut dyn FnMut(ReplayRecord<'_>) -> Result<()>,
) -> Result<(Tail, Recovery)> {
    let mut r = Recovery::default();
    let (mut links, next_id) = chain(disk, store, &mut r)?;
    let mark = measure(disk, &mut links, &mut r)?.max(known);
    r.durable_mark = mark;
    note_torn_headers(&links, mark, &mut r);
    cut::note(disk, &links, mark, &mut r)?;
    if !read_only && let Some(d) = r.blocking.first() {
        // Before anything is written.
        return Err(d.clone().into());
    }
    settle(disk, &mut links, mark, !read_only, &mut r)?;
    r.segments = links.len() as u64;
    let predecessor = links.last().map(|l| (l.header.segment, extent(l).end));
    r.last_lsn = links.last().map_or(Lsn::new(0), |l| extent(l).last_lsn);
    note_short(known, &mut r);
    if !read_only && let Some(d) = r.blocking.first() {
        // Nothing was written: all that is accepted was known to be durable.
        return Err(d.clone().into());
    }
    for l in &links {
        if extent(l).last_lsn >= from {
            replay(disk, l, from, &mut r, visit)?;
        }
    }
    for l in &links {
        files.insert(Arc::new(Segment::new(l.header.clone(), extent(l))));
    }
    let footer = links.last().and_then(|l| Some((l.header.segment, l.footer?, extent(l).end)));
    files.load_spares(read_only)?;
    let tail = Tail {
        next_lsn: r.last_lsn.get() + 1,
        next_id,
        active: if planted(Bug::AppendToCutSegment) { revive(disk, files, links.last())? } else { None },
        predecessor,
        soft: footer,
        unreached: r.unreached.clone(),
        inflight: None,
        written_lsn: r.last_lsn,
        durable_lsn: r.last_lsn,
        durable_end: BLOCK_BYTES,
        dirty: false,
        busy: false,
        waiters: 0,
        sleepers: Vec::new(),
        cohort: 0,
        commits: 0,
        closed: false,
        poison: None,
        stop_worker: false,
        write_wanted: false,
        spare_wanted: false,
        short: false,
        followed: false,
        ending: false,
    };
    Ok((tail, r))
}

/// The log ends before what was durable when it was closed: what came last has rotted, or was taken away.
pub(super) fn note_short(known: Lsn, r: &mut Recovery) {
    if r.last_lsn >= known || planted(Bug::ClosedLsnIgnored) {
        return;
    }
    let why = format!("the log ends at LSN {}; LSN {known} was durable when it was closed", r.last_lsn);
    let damage = Damage::file(segment::DIRECTORY, 0, why).advise(
        "bring the segments back from a copy of the store, mount with `-o ro` to reach the rest, or give up what is lost \
         with `segtool index rebuild`",
    );
    r.damages.push(damage.clone());
    r.blocking.push(damage);
}

/// Of a segment of which nothing was durable, the header may be torn like all the rest; of others it is damaged.
pub(super) fn note_torn_headers(links: &[Link], mark: Lsn, r: &mut Recovery) {
    for l in links.iter().filter(|l| l.copy_damaged && mark >= l.header.first_lsn) {
        let why = "one of the two copies of the header is damaged";
        r.damages.push(Damage::segment(l.header.segment, 0, None, why));
    }
}

pub(super) fn open(disk: &dyn Disk, id: SegmentId) -> Result<Arc<dyn DiskFile>> {
    disk.open(&segment::path(id), false).map_err(|e| Error::io(format!("opening segment {id}"), e))
}

pub(super) fn extent(l: &Link) -> Extent {
    l.extent.unwrap_or(Extent {
        state: SegmentState::Cut,
        end: BLOCK_BYTES,
        last_lsn: Lsn::new(l.header.first_lsn.get() - 1),
    })
}

/// Finds the segments and puts them in order.
pub(super) fn chain(disk: &dyn Disk, store: StoreId, r: &mut Recovery) -> Result<(Vec<Link>, SegmentId)> {
    let names = disk.list(segment::DIRECTORY.as_ref()).map_err(|e| Error::io("listing segments/", e))?;
    let mut ids: Vec<SegmentId> = names.iter().filter_map(|n| parse_name(n)).collect();
    ids.sort_unstable();
    let next_id = ids.last().map_or(SegmentId::FIRST, |id| id.next());
    let mut bad: BTreeMap<SegmentId, Malformed> = BTreeMap::new();
    let mut links: Vec<Link> = Vec::new();
    for id in ids {
        let file = open(disk, id)?;
        let file_bytes = file.len().map_err(|e| Error::io(format!("reading segment {id}"), e))?;
        match read_header(&*file, id, Some(store))? {
            Err(segment_header::NEWER) => {
                let what = format!("segment {id} has a format version that this program does not know");
                return Err(Error::Newer { path: segment::path(id), what });
            }
            // A name that the file of a later segment had in an earlier life.
            Err(OTHER_SEGMENT) if has_two_names(disk, &*file, id)? => {}
            Err(why @ (OTHER_STORE | OTHER_SEGMENT)) => block_stranger(&*file, id, why, r)?,
            Err(why) => match segment::read_recycled(&*file, id)? {
                // Named, and then came a crash: nothing was ever written to it under this name.
                Some(next) if next == id => r.unreached.push(id),
                // A name that the file had before, left by a directory that could not be synced.
                Some(_) => {}
                None => _ = bad.insert(id, why),
            },
            Ok((header, copy_damaged)) => {
                // What stands between a segment and its predecessor was left behind by a cut.
                if let Some(p) = header.predecessor
                    && links.iter().any(|l| l.header.segment == p)
                {
                    while let Some(l) = links.pop_if(|l| l.header.segment != p) {
                        r.unreached.push(l.header.segment);
                    }
                }
                links.push(Link {
                    header,
                    copy_damaged,
                    file_bytes,
                    extent: None,
                    found: None,
                    footer: None,
                });
            }
        }
    }
    for (id, why) in bad {
        if links.iter().any(|l| l.header.predecessor == Some(id)) {
            r.damages.push(Damage::segment(id, 0, None, why.0));
            continue;
        }
        let remains = segment::durable_remains(open(disk, id)?, id);
        match remains.map_err(|e| Error::io(format!("reading segment {id}"), e))? {
            Some(mark) => block_headless(id, why, mark, r),
            None => r.unreached.push(id),
        }
    }
    Ok((links, next_id))
}

/// Both copies of the header rotted: of a segment that nothing was acknowledged in, a torn write may be to blame, and it was never
/// part of the log; this one was.
fn block_headless(id: SegmentId, why: Malformed, mark: Lsn, r: &mut Recovery) {
    let path = segment::path(id);
    let why = format!("{}, in both copies; records up to LSN {mark} were durable", why.0);
    let damage = Damage::segment(id, 0, None, why).advise(format!(
        "bring {} back from a copy of the store, or mount with `-o ro` to reach the rest",
        path.display()
    ));
    r.damages.push(damage.clone());
    r.blocking.push(damage);
}

/// Is this the file of a later segment, which is there under its own name too? A directory that could not be synced when the file was
/// recycled leaves the old name; nobody reads or writes through it. A copy of that segment, put here by somebody, is another file.
pub(super) fn has_two_names(disk: &dyn Disk, file: &dyn DiskFile, id: SegmentId) -> Result<bool> {
    let Some(h) = read_any_header(file, id)?.filter(|h| h.segment > id) else { return Ok(false) };
    let number = |id: SegmentId| match disk.number(&segment::path(id)) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        found => found.map_err(|e| Error::io(format!("looking for segment {id}"), e)),
    };
    let this = number(id)?;
    Ok(this.is_some() && this == number(h.segment)?)
}

/// Somebody put a file of another log, or a segment under another name, among ours: it stays as it is.
fn block_stranger(file: &dyn DiskFile, id: SegmentId, why: Malformed, r: &mut Recovery) -> Result<()> {
    let header = read_any_header(file, id)?;
    let whose = header.map_or_else(String::new, |h| {
        if why == OTHER_STORE { format!(", {}", h.store) } else { format!(", {}", h.segment) }
    });
    let path = segment::path(id);
    let advice = if why == OTHER_STORE {
        format!("move {} to where it belongs, out of this store", path.display())
    } else {
        format!("give {} its own name back, or move it out of this store", path.display())
    };
    let damage = Damage::segment(id, 0, None, format!("{}{whose}", why.0)).advise(advice);
    r.damages.push(damage.clone());
    r.blocking.push(damage);
    Ok(())
}

/// Does the next link say where this one ends?
pub(super) fn told_by_successor(links: &[Link], i: usize) -> Option<(u64, Lsn)> {
    let next = &links.get(i + 1)?.header;
    (next.predecessor == Some(links[i].header.segment))
        .then(|| (next.predecessor_end, Lsn::new(next.first_lsn.get() - 1)))
}

/// From the last segment backwards: how far does each go, and what is the highest durable mark?
pub(super) fn measure(disk: &dyn Disk, links: &mut [Link], r: &mut Recovery) -> Result<Lsn> {
    let forget = planted(Bug::LoseDurableMark);
    let mut mark = links.iter().map(|l| l.header.durable_lsn).max().unwrap_or_default();
    for i in (0..links.len()).rev() {
        let told = told_by_successor(links, i);
        let link = &links[i];
        if let Some((end, last_lsn)) = told
            && !forget
            && mark >= last_lsn
        {
            links[i].extent = Some(Extent { state: SegmentState::Cut, end, last_lsn });
            continue;
        }
        let file = open(disk, link.header.segment)?;
        if let Some(t) = read_trailer(&*file, &link.header) {
            let mark_with = mark.max(t.durable_lsn);
            // Written together with the trailer, the footer may be torn all the same.
            let whole = || {
                let mut scan = Scan::new(Arc::clone(&file), &link.header, t.offset, t.end());
                matches!(scan.next_found(), Some(Found::Batch(b)) if b.is_whole() && b.is_footer())
            };
            if !forget && told.is_none() && mark_with >= t.last_lsn && whole() {
                mark = mark_with;
                let last_lsn = t.last_lsn;
                links[i].extent = Some(Extent { state: SegmentState::Sealed, end: t.end(), last_lsn });
                links[i].footer = Some(t.offset);
                continue;
            }
        }
        let limit = told.map_or(u64::MAX, |(end, _)| end);
        let mut scan = Scan::new(file, &link.header, BLOCK_BYTES, limit);
        let mut found = Vec::new();
        while let Some(f) = scan.next_found() {
            if let Found::Batch(b) = &f
                && let Some(c) = b.closing
            {
                mark = mark.max(c.durable_lsn);
            }
            found.push(thin(f));
        }
        r.scanned += 1;
        links[i].found = Some(found);
    }
    Ok(if forget { Lsn::new(0) } else { mark })
}

/// A batch without what the decision about its end does not need, so that memory does not grow with the segment.
fn thin(f: Found) -> Found {
    match f {
        Found::Batch(mut b) => {
            let whole = b.is_whole();
            let footer = b.is_footer();
            b.frames.truncate(usize::from(footer || !whole));
            if !whole && let Some(f) = b.frames.first_mut() {
                f.wrong.get_or_insert(Malformed("batch is not complete"));
            }
            Found::Batch(b)
        }
        damage => damage,
    }
}

/// From the first scanned segment forwards: where does the log end? Removes the links behind the end.
/// With `sync`, what lies above the mark and is accepted is made durable.
pub(super) fn settle(
    disk: &dyn Disk,
    links: &mut Vec<Link>,
    mark: Lsn,
    sync: bool,
    r: &mut Recovery,
) -> Result<()> {
    for i in 0..links.len() {
        let told = told_by_successor(links, i);
        let Some(found) = links[i].found.take() else { continue };
        let (end, torn) = walk(&links[i], &found, mark, r);
        let mut extent = end;
        let mut ends_here = torn;
        if let Some((told_end, told_last)) = told
            && (extent.end != told_end || torn)
            && !planted(Bug::IgnorePredecessorEnd)
        {
            if mark >= told_last && !planted(Bug::TreatRotAsTornTail) {
                let id = links[i].header.segment;
                let why = format!("batches end here instead of at {told_end}");
                r.damages.push(Damage::segment(id, extent.end, None, why));
                extent = Extent { end: told_end, last_lsn: told_last, ..extent };
                ends_here = false;
            } else {
                ends_here = true;
            }
        }
        if sync && mark < extent.last_lsn && !planted(Bug::SkipRecoverySync) {
            let certain = found.iter().filter_map(|f| match f {
                Found::Batch(b) if b.is_whole() && b.last_lsn().is_some_and(|l| l <= mark) => Some(b.end),
                _ => None,
            });
            harden(disk, links[i].header.segment, certain.max().unwrap_or(0), extent.end)?;
        }
        links[i].footer = found.iter().rev().find_map(|f| match f {
            Found::Batch(b) if b.is_footer() && b.end == extent.end => Some(b.begin),
            _ => None,
        });
        links[i].extent = Some(extent);
        if ends_here {
            r.unreached.extend(links.drain(i + 1..).map(|l| l.header.segment));
            break;
        }
    }
    // Of a last segment without a batch not even the header may be on the medium: nobody is to name it as predecessor.
    let begun = |l: &Link| extent(l).end > BLOCK_BYTES || mark >= l.header.first_lsn;
    while let Some(l) = links.pop_if(|l| !begun(l) && !planted(Bug::NameEmptySegment)) {
        r.unreached.push(l.header.segment);
    }
    Ok(())
}

/// Writes what was accepted once more, and syncs it. A process may have died while the machine lived: its bytes may not be
/// on the medium yet; and if a sync had failed, the system takes them for clean and a sync alone would not write them.
pub(super) fn harden(disk: &dyn Disk, id: SegmentId, from: u64, end: u64) -> Result<()> {
    let write = || -> io::Result<()> {
        let file = disk.open(&segment::path(id), true)?;
        let mut bytes = vec![0; (end - from).min(1 << 20) as usize];
        let mut at = from;
        while at < end && !planted(Bug::SyncWithoutRewrite) {
            let part = &mut bytes[..(end - at).min(1 << 20) as usize];
            // The padding of the last batch may be missing.
            let n = file.read_at(part, at)?;
            part[n..].fill(0);
            file.write_at(&[&*part], at)?;
            at += part.len() as u64;
        }
        file.sync()
    };
    write().map_err(|e| Error::io(format!("making segment {id} durable"), e))
}

/// Goes through what a scan found; `true` if the log ends in this segment because of a torn batch.
fn walk(link: &Link, found: &[Found], mark: Lsn, r: &mut Recovery) -> (Extent, bool) {
    let id = link.header.segment;
    let mut at = Extent {
        state: SegmentState::Cut,
        end: BLOCK_BYTES,
        last_lsn: Lsn::new(link.header.first_lsn.get() - 1),
    };
    for (n, f) in found.iter().enumerate() {
        let (offset, why) = match f {
            Found::Batch(b) if b.is_whole() => {
                at.end = b.end;
                at.last_lsn = b.last_lsn().unwrap_or(at.last_lsn);
                if b.is_footer() {
                    at.state = SegmentState::Sealed;
                }
                continue;
            }
            Found::Batch(b) => (b.begin, wrong_of(b)),
            Found::Damage { offset, why, .. } => (*offset, *why),
        };
        let is_rot = at.last_lsn < mark && !planted(Bug::TreatRotAsTornTail);
        if !is_rot {
            r.torn_bytes += found[n..].iter().map(len_of).sum::<u64>();
            return (at, true);
        }
        r.damages.push(Damage::segment(id, offset, None, why.0));
        if let Found::Batch(b) = f {
            at.end = pad_block(b.end);
            at.last_lsn = b.last_lsn().unwrap_or(at.last_lsn).max(at.last_lsn);
        }
    }
    (at, false)
}

fn wrong_of(b: &Batch) -> Malformed {
    b.frames.iter().find_map(|f| f.wrong).unwrap_or(Malformed("batch is not complete"))
}

fn len_of(f: &Found) -> u64 {
    match f {
        Found::Batch(b) => b.end - b.begin,
        Found::Damage { offset, until, .. } => until - offset,
    }
}

/// Notes damage before the next record, unless it is among the first so many that are known.
fn note_gap(r: &mut Recovery, known: usize, d: Damage) {
    r.gap = Some(d.clone());
    let same = |k: &Damage| k.place.segment == d.place.segment && k.place.offset == d.place.offset;
    if !r.damages[..known].iter().any(same) {
        r.damages.push(d);
    }
}

/// Passes the records of a segment to the visitor.
pub(super) fn replay(
    disk: &dyn Disk,
    link: &Link,
    from: Lsn,
    r: &mut Recovery,
    visit: &mut dyn FnMut(ReplayRecord<'_>) -> Result<()>,
) -> Result<()> {
    let seed = link.header.seed();
    let id = link.header.segment;
    let file = open(disk, id)?;
    let mut scan = Scan::new(Arc::clone(&file), &link.header, BLOCK_BYTES, extent(link).end);
    // Small records stand side by side: one read fetches many.
    let window = RefCell::new(Window::new(file, extent(link).end, REPLAY_READ_BYTES));
    let fetch = |out: &mut [u8], at: u64| window.borrow_mut().read_exact(out, at);
    let known = r.damages.len();
    let note = |r: &mut Recovery, d| note_gap(r, known, d);
    while let Some(found) = scan.next_found() {
        let batch = match found {
            Found::Batch(b) => b,
            Found::Damage { offset, why, .. } => {
                note(r, Damage::segment(id, offset, None, why.0));
                continue;
            }
        };
        let mut frames = &batch.frames[..];
        if planted(Bug::DropLastRecordOfBatch) {
            frames = &frames[..frames.len() - 1];
        }
        for (n, f) in frames.iter().enumerate() {
            let e = &f.envelope;
            if !e.kind.is_record() || counts_at(&batch.frames[n..]).is_none_or(|at| at <= from) {
                continue;
            }
            let location = f.location();
            let mut payload = Vec::new();
            let gap = r.gap.take();
            if let Some(why) = f.wrong {
                note(r, Damage::segment(id, e.offset, Some(e.lsn), why.0));
                r.gap = None;
            } else if e.kind != Kind::Extent {
                payload = read_record(&location, seed, &fetch)?.payload;
            }
            r.highest_stamp = r.highest_stamp.max(f.head.map_or(0, |h| h.stamp));
            r.replayed += 1;
            visit(ReplayRecord {
                lsn: e.lsn,
                kind: e.kind,
                flags: e.flags,
                ino: e.ino,
                head: f.head.as_ref(),
                payload: &payload,
                location,
                wrong: f.wrong,
                gap: gap.as_ref(),
                until: r.last_lsn,
            })?;
        }
    }
    Ok(())
}

/// The LSN with which the first of these frames takes effect: its own, or, if it was moved here, that of the first numbered record
/// behind it in its batch, with which it was appended.
fn counts_at(frames: &[ScannedFrame]) -> Option<Lsn> {
    let numbered = |f: &&ScannedFrame| f.envelope.kind.is_record() && f.envelope.flags & flags::MOVED == 0;
    frames.iter().find(numbered).map(|f| f.envelope.lsn)
}

/// The planted bug: the last segment, torn or not, goes on being written.
fn revive(disk: &dyn Disk, files: &Files, last: Option<&Link>) -> Result<Option<Active>> {
    let Some((l, segment)) = last.and_then(|l| Some((l, files.get(l.header.segment)?))) else {
        return Ok(None);
    };
    let file =
        disk.open(&segment::path(l.header.segment), true).map_err(|e| Error::io("reopening a segment", e))?;
    segment.now.lock().state = SegmentState::Active;
    let footer = FooterBuilder::new(l.header.first_lsn);
    Ok(Some(Active { segment, file, header_block: None, footer, end: extent(l).end, open: None }))
}
