//! What is live, history and dead: one walk over the rows, and the lists of records of all segments.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::{Inspection, Progress};
use crate::{
    base::{Damage, Error, Ino, Lsn, Result, SegmentId},
    format::{
        Codec, Kind, Location, flags,
        rows::{MetaRow, after_prefix, key, kind},
    },
    index::{Index, Order},
    log::{Standing, Survey},
    segment,
    store::{
        alive::{Use, each_shown},
        txn::row,
    },
};

/// Bytes of records with their frames, by what they are to the store, and how many there are of each kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// Extents that a file shows now.
    pub present_bytes: u64,
    /// Extents that only versions show.
    pub history_bytes: u64,
    /// Extents that nothing shows any more.
    pub dead_bytes: u64,
    /// Of what some objects show: what others show too.
    pub shared_bytes: u64,
    /// Operations and bases: never dead before a newer base.
    pub metadata_bytes: u64,
    /// Extents.
    pub extents: u64,
    /// Operations.
    pub operations: u64,
    /// Bases.
    pub bases: u64,
}

impl Tally {
    /// Bytes that a cleaner would have to keep.
    #[must_use]
    pub fn live_bytes(&self) -> u64 {
        self.present_bytes + self.history_bytes + self.metadata_bytes
    }

    /// Counts a record; says whether it is an extent that something shows.
    fn take(&mut self, kind: Kind, bytes: u64, by: Option<Use>) -> bool {
        match (kind, by) {
            (Kind::Extent, by) => {
                self.extents += 1;
                *match by {
                    Some(Use::Present) => &mut self.present_bytes,
                    Some(Use::History) => &mut self.history_bytes,
                    None => &mut self.dead_bytes,
                } += bytes;
                return by.is_some();
            }
            (Kind::Operation, _) => self.operations += 1,
            _ => self.bases += 1,
        }
        self.metadata_bytes += bytes;
        false
    }

    fn add(&mut self, other: &Self) {
        self.present_bytes += other.present_bytes;
        self.history_bytes += other.history_bytes;
        self.dead_bytes += other.dead_bytes;
        self.shared_bytes += other.shared_bytes;
        self.metadata_bytes += other.metadata_bytes;
        self.extents += other.extents;
        self.operations += other.operations;
        self.bases += other.bases;
    }
}

/// What is in a store.
#[derive(Debug, Clone, Default)]
pub struct Census {
    /// By segment; only those of the log.
    pub segments: BTreeMap<SegmentId, Tally>,
    /// All of them.
    pub total: Tally,
    /// Is it known what is live? If not, all extents count as dead.
    pub liveness: bool,
    /// What the store knows of itself as a whole, if that is known.
    pub meta: Option<MetaRow>,
    /// Index rows.
    pub rows: u64,
    /// Extents that something shows and whose records are not there.
    pub lost: u64,
    /// The first of them.
    pub lost_at: Vec<Damage>,
}

/// Lost extents that are told one by one.
const TOLD: usize = 20;
/// Progress is told once for so many rows.
const ROWS_A_WORD: u64 = 1 << 15;

/// Takes what the rows show.
trait Sink {
    /// An extent that something of an object shows; where its row says that it lies.
    fn shown(&mut self, ino: Ino, extent: Lsn, at: &Location, by: Use);
    /// An extent that has been moved to another place since.
    fn moved(&mut self, extent: Lsn, to: Location);
}

#[derive(Default)]
struct Live {
    /// Where each extent that something shows lies, and what shows it.
    extents: HashMap<Lsn, (Use, SegmentId, u64)>,
    moved: Vec<(Lsn, Location)>,
}

impl Sink for Live {
    fn shown(&mut self, _: Ino, extent: Lsn, at: &Location, by: Use) {
        let e = self.extents.entry(extent).or_insert((by, at.segment, at.offset));
        e.0 = e.0.max(by);
    }

    fn moved(&mut self, extent: Lsn, to: Location) {
        self.moved.push((extent, to));
    }
}

impl Live {
    fn new(index: &dyn Index, progress: Progress<'_>) -> Result<(Self, u64)> {
        let mut live = Self::default();
        let rows = walk(index, &mut live, progress)?;
        for (extent, to) in std::mem::take(&mut live.moved) {
            if let Some(e) = live.extents.get_mut(&extent) {
                (e.1, e.2) = (to.segment, to.offset);
            }
        }
        Ok((live, rows))
    }
}

impl Inspection {
    /// Counts. Without rows (`None`: there are too many to replay) nothing is known of what is live.
    ///
    /// # Errors
    /// What reading rows and segments says.
    pub fn census(&self, index: Option<&dyn Index>, progress: Progress<'_>) -> Result<Census> {
        let mut census = Census { liveness: index.is_some(), ..Census::default() };
        let mut live = Live::default();
        if let Some(index) = index {
            (live, census.rows) = Live::new(index, progress)?;
            let k = key::meta();
            census.meta = index.get(&k)?.map(|bytes| row(&k, &bytes)).transpose()?;
        }
        let all = self.log().segments.len() as u64;
        for (n, s) in self.log().segments.iter().enumerate() {
            progress(n as u64, all);
            if matches!(s.standing, Standing::Damaged | Standing::Unreached) {
                continue;
            }
            let mut tally = Tally::default();
            for e in self.log().records(s.id)? {
                let bytes = segment::Location::of_entry(s.id, &e, Codec::Raw).frame_len();
                let here = |(_, id, at): &&(Use, SegmentId, u64)| (*id, *at) == (s.id, e.offset);
                let by = live.extents.get(&e.lsn).filter(here).map(|(by, ..)| *by);
                if tally.take(e.kind, bytes, by) {
                    live.extents.remove(&e.lsn);
                }
            }
            census.total.add(&tally);
            census.segments.insert(s.id, tally);
        }
        census.lost = live.extents.len() as u64;
        let mut lost: Vec<_> = live.extents.into_iter().collect();
        lost.sort_unstable_by_key(|(_, (_, segment, offset))| (*segment, *offset));
        let why = "a file shows this extent, but its record is not there";
        let told = lost.iter().take(TOLD);
        census.lost_at = told.map(|(lsn, (_, s, at))| Damage::segment(*s, *at, Some(*lsn), why)).collect();
        Ok(census)
    }
}

/// As [`Inspection::census`], of a store that is open here and goes on changing: in memory that does not depend on how
/// big the extents' rows are, a few bits for each record number in use. What changes meanwhile may count either way.
/// With `only`, what these objects show, what they showed once, and the operations on them.
pub(super) fn count(
    log: &Survey,
    index: &dyn Index,
    only: Option<&HashSet<Ino>>,
    progress: Progress<'_>,
) -> Result<Census> {
    let mut marks = Marks { pages: HashMap::new(), only };
    let mut census = Census { liveness: true, ..Census::default() };
    census.rows = walk(index, &mut marks, progress)?;
    let all = log.segments.len() as u64;
    for (n, s) in log.segments.iter().enumerate() {
        progress(n as u64, all);
        if matches!(s.standing, Standing::Damaged | Standing::Unreached) {
            continue;
        }
        let mut tally = Tally::default();
        let records = match log.records(s.id) {
            Ok(records) => records,
            // Retired while we looked.
            Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => continue,
            Err(e) => return Err(e),
        };
        for e in records {
            let bytes = segment::Location::of_entry(s.id, &e, Codec::Raw).frame_len();
            let mark = marks.of(e.lsn);
            let here = if mark & MOVED == 0 {
                e.flags & flags::MOVED == 0
            } else {
                let k = key::moved(e.lsn);
                let to: Option<Location> = index.get(&k)?.map(|b| row(&k, &b)).transpose()?;
                to.is_some_and(|to| (to.segment, to.offset) == (s.id, e.offset))
            };
            let by = if mark & PRESENT > 0 {
                Some(Use::Present)
            } else {
                (mark & HISTORY > 0).then_some(Use::History)
            };
            let by = by.filter(|_| here);
            // What others show is not theirs, if it is not theirs too.
            let theirs = only.is_none() || (marks.covers(e.ino) && (mark & OUTSIDE == 0 || !here));
            if by.is_some() || theirs {
                tally.take(e.kind, bytes, by);
            }
            if by.is_some() && mark & OUTSIDE > 0 {
                tally.shared_bytes += bytes;
            }
        }
        census.total.add(&tally);
        census.segments.insert(s.id, tally);
    }
    Ok(census)
}

/// What is known of each record number, four bits each, in pages that are there only where something is.
struct Marks<'a> {
    pages: HashMap<u64, Box<[u8; MARKS / 2]>>,
    /// Only these objects count; none: all do.
    only: Option<&'a HashSet<Ino>>,
}

/// Record numbers on a page.
const MARKS: usize = 4096;
const HISTORY: u8 = 1;
const PRESENT: u8 = 2;
const MOVED: u8 = 4;
/// Something else than the objects that count shows it.
const OUTSIDE: u8 = 8;

impl Marks<'_> {
    fn covers(&self, ino: Ino) -> bool {
        self.only.is_none_or(|only| only.contains(&ino))
    }

    fn set(&mut self, lsn: Lsn, bits: u8) {
        let (page, at) = (lsn.get() / MARKS as u64, lsn.get() as usize % MARKS);
        let page = self.pages.entry(page).or_insert_with(|| Box::new([0; MARKS / 2]));
        page[at / 2] |= bits << (4 * (at % 2));
    }

    fn of(&self, lsn: Lsn) -> u8 {
        let (page, at) = (lsn.get() / MARKS as u64, lsn.get() as usize % MARKS);
        self.pages.get(&page).map_or(0, |page| (page[at / 2] >> (4 * (at % 2))) & 15)
    }
}

impl Sink for Marks<'_> {
    fn shown(&mut self, ino: Ino, extent: Lsn, _at: &Location, by: Use) {
        let bits = match by {
            _ if !self.covers(ino) => OUTSIDE,
            Use::Present => PRESENT,
            Use::History => HISTORY,
        };
        self.set(extent, bits);
    }

    fn moved(&mut self, extent: Lsn, _to: Location) {
        self.set(extent, MOVED);
    }
}

/// Hands every extent that a row shows to the sink; how many rows there are.
fn walk(index: &dyn Index, sink: &mut dyn Sink, progress: Progress<'_>) -> Result<u64> {
    let expected = index.stats().disk_rows;
    let mut shown = 0_u64;
    let rows = each_shown(index, &mut |s| {
        shown += 1;
        if shown.is_multiple_of(ROWS_A_WORD) {
            progress(shown, expected.max(shown));
        }
        sink.shown(s.ino, s.extent, &s.location, s.by);
        Ok(true)
    })?;
    let mut failed = Ok(());
    index.walk(&[kind::MOVED], &after_prefix(&[kind::MOVED]), Order::Forward, &mut |k, bytes| {
        let extent = Lsn::new(key::last_number(k).unwrap_or(0));
        failed = row::<Location>(k, bytes).map(|to| sink.moved(extent, to));
        failed.is_ok()
    })?;
    failed.map(|()| rows)
}
