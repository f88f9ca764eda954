//! What is live, history and dead: one walk over the rows, and the lists of records of all segments.

use std::collections::{BTreeMap, HashMap};

use super::{Inspection, Progress};
use crate::{
    base::{Damage, Error, Ino, Lsn, Result, SegmentId, limits::CHUNK_BYTES},
    format::{
        Codec, Kind, Location,
        facts::ObjectKind,
        rows::{
            ChangesRow, ChunkRow, Content, Cut, MetaRow, ObjectRow, Superseded, VersionRow, after_prefix,
            key, kind,
        },
    },
    index::{Index, Order},
    log::Standing,
    segment,
    store::{pieces::is_cut, txn::row},
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

/// Whether the present shows an extent, or only history does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Use {
    History,
    Present,
}

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
                            Some((Use::History, ..)) => tally.history_bytes += bytes,
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
    let mut moved: Vec<(Lsn, Location)> = Vec::new();
    let mut owner: Option<(Ino, Owner)> = None;
    let mut failed: Option<Error> = None;
    index.walk(&[], &[0xff], Order::Forward, &mut |k, bytes| {
        live.rows += 1;
        failed = see(index, k, bytes, &mut live, &mut moved, &mut owner).err();
        failed.is_none()
    })?;
    if let Some(e) = failed {
        return Err(e);
    }
    for (extent, to) in moved {
        if let Some(e) = live.extents.get_mut(&extent) {
            (e.1, e.2) = (to.segment, to.offset);
        }
    }
    Ok(live)
}

/// What an object says of its chunks.
struct Owner {
    content: Content,
    /// Has it a name, or is it still open?
    reachable: bool,
}

fn see(
    index: &dyn Index,
    k: &[u8],
    bytes: &[u8],
    live: &mut Live,
    moved: &mut Vec<(Lsn, Location)>,
    owner: &mut Option<(Ino, Owner)>,
) -> Result<()> {
    match (k.first(), k.get(1)) {
        (Some(&kind::CHUNK), _) => {
            let chunk: ChunkRow = row(k, bytes)?;
            let ino = key::ino_of(k).unwrap_or_default();
            if owner.as_ref().is_none_or(|(of, _)| *of != ino) {
                *owner = Some((ino, owner_of(index, ino)?));
            }
            let Some((_, o)) = owner else { return Ok(()) };
            if let Some(by) = use_of(index, o, ino, k, chunk.from)? {
                chunk.pieces.iter().for_each(|p| live.note(p.extent, &p.location, by));
            }
        }
        (Some(&kind::HISTORY), Some(&kind::CHUNK)) => {
            let old: Superseded = row(k, bytes)?;
            let chunk: ChunkRow = row(k, &old.row)?;
            chunk.pieces.iter().for_each(|p| live.note(p.extent, &p.location, Use::History));
        }
        (Some(&kind::CHANGES), _) => {
            let changes: ChangesRow = row(k, bytes)?;
            for (extent, at, _) in changes.ranges.iter().filter_map(|r| r.source) {
                live.note(extent, &at, Use::History);
            }
        }
        (Some(&kind::MOVED), _) => {
            moved.push((Lsn::new(key::last_number(k).unwrap_or(0)), row(k, bytes)?));
        }
        _ => {}
    }
    Ok(())
}

fn owner_of(index: &dyn Index, ino: Ino) -> Result<Owner> {
    let k = key::object(ino);
    let Some(bytes) = index.get(&k)? else {
        return Ok(Owner { content: Content::default(), reachable: false });
    };
    let object: ObjectRow = row(&k, &bytes)?;
    let open = || Ok::<_, Error>(index.get(&key::listed(kind::ORPHAN, ino))?.is_some());
    let reachable = object.attributes.kind == ObjectKind::File && (object.attributes.links > 0 || open()?);
    Ok(Owner { content: object.content, reachable })
}

/// Who shows a chunk's row that holds since `from`; nobody, if it was cut off or given up before a version had it.
fn use_of(index: &dyn Index, o: &Owner, ino: Ino, k: &[u8], from: Lsn) -> Result<Option<Use>> {
    let branch = k.get(9..13).and_then(|b| b.try_into().ok()).map(u32::from_be_bytes);
    if branch != Some(o.content.branch) {
        // What no version of its branch came after was given up with its draft.
        let mut seen = Ok(false);
        let end = after_prefix(&key::version(ino, Lsn::MAX));
        index.walk(&key::version(ino, from), &end, Order::Forward, &mut |k, bytes| {
            seen = row::<VersionRow>(k, bytes).map(|v| Some(v.branch) == branch);
            matches!(seen, Ok(false))
        })?;
        return Ok(seen?.then_some(Use::History));
    }
    let chunk = key::last_number(k).unwrap_or(0);
    if o.reachable && !is_cut(&o.content.cuts, chunk, from) {
        return Ok(Some(Use::Present));
    }
    let covers = |c: &&Cut| c.at > from && c.size <= chunk * CHUNK_BYTES;
    let until = o.content.cuts.iter().filter(covers).map(|c| c.at).min();
    let end = until.map_or_else(|| after_prefix(&key::version(ino, Lsn::MAX)), |at| key::version(ino, at));
    let seen = !index.scan(&key::version(ino, from), &end, 1)?.is_empty();
    Ok(seen.then_some(Use::History))
}
