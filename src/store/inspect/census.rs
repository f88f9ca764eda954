//! What is live, history and dead: one walk over the rows, and the lists of records of all segments.

use std::collections::{BTreeMap, HashMap};

use super::{Inspection, Progress};
use crate::{
    base::{Damage, Lsn, Result, SegmentId},
    format::{
        Codec, Kind, Location,
        rows::{MetaRow, after_prefix, key, kind},
    },
    index::{Index, Order},
    log::Standing,
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

    fn add(&mut self, other: &Self) {
        self.present_bytes += other.present_bytes;
        self.history_bytes += other.history_bytes;
        self.dead_bytes += other.dead_bytes;
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

#[derive(Default)]
struct Live {
    /// Where each extent that something shows lies, and what shows it.
    extents: HashMap<Lsn, (Use, SegmentId, u64)>,
    rows: u64,
}

impl Live {
    fn note(&mut self, extent: Lsn, at: &Location, by: Use) {
        let e = self.extents.entry(extent).or_insert((by, at.segment, at.offset));
        e.0 = e.0.max(by);
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
            live = walk(index)?;
            let k = key::meta();
            census.meta = index.get(&k)?.map(|bytes| row(&k, &bytes)).transpose()?;
            census.rows = live.rows;
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
                match e.kind {
                    Kind::Extent => {
                        tally.extents += 1;
                        let shown = live.extents.get(&e.lsn);
                        match shown.filter(|(_, id, at)| (*id, *at) == (s.id, e.offset)) {
                            Some((Use::Present, ..)) => tally.present_bytes += bytes,
                            Some(_) => tally.history_bytes += bytes,
                            None => {
                                tally.dead_bytes += bytes;
                                continue;
                            }
                        }
                        live.extents.remove(&e.lsn);
                    }
                    Kind::Operation => {
                        tally.operations += 1;
                        tally.metadata_bytes += bytes;
                    }
                    _ => {
                        tally.bases += 1;
                        tally.metadata_bytes += bytes;
                    }
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

/// Every extent that a row shows.
fn walk(index: &dyn Index) -> Result<Live> {
    let mut live = Live::default();
    live.rows = each_shown(index, &mut |extent, at, by| {
        live.note(extent, at, by);
        Ok(true)
    })?;
    let mut failed = Ok(());
    index.walk(&[kind::MOVED], &after_prefix(&[kind::MOVED]), Order::Forward, &mut |k, bytes| {
        let extent = Lsn::new(key::last_number(k).unwrap_or(0));
        if let Some(e) = live.extents.get_mut(&extent) {
            failed = row::<Location>(k, bytes).map(|to| (e.1, e.2) = (to.segment, to.offset));
        }
        failed.is_ok()
    })?;
    failed.map(|()| live)
}
