//! A store that a mount holds: what only its index knows, the mount is asked for through its control socket. One that
//! does not answer is no failure: then the log is replayed, as far as that goes.
//!
//! A mount gives segments back while we look. One that answers is asked to leave them where they are; where that does not
//! help, since its disk is short of space or it does not answer, we look again at what is there by then.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsString,
    path::Path,
    time::Duration,
};

use segfs::{
    base::{Lsn, SegmentId},
    console::{Failure, IN_USE, Progress},
    format::rows::MetaRow,
    log::{Reach, Standing},
    serve::Client,
    store::inspect::{Census, Digest, Inspection, KindDigest, Tally},
};
use serde_json::Value;

/// How long a mount may be silent while it counts.
const PATIENCE: Duration = Duration::from_secs(20);

fn ask(store: &Path, request: &str, what: &'static str, json: bool) -> Option<Value> {
    let progress = Progress::new(what, json);
    let mut client = Client::connect(store).ok()?;
    client.ask(request, PATIENCE, &|a, b| progress.tell(a, b)).ok()
}

/// Looks at a store that a process writes, until one finds everything in its place.
const LOOKS: usize = 5;

/// Up to the durable mark.
const DURABLE: Reach = Reach::Durable(Lsn::new(0));

/// Keeps the segments of a mount where they are, as long as it lives.
pub struct Hold(#[expect(dead_code, reason = "the connection counts")] Option<Client>);

/// Asks the mount of a store, if there is one, to leave the segments where they are.
pub fn hold(store: &Path) -> Hold {
    let asked = Client::connect(store).ok().and_then(|mut client| {
        client.ask("hold", PATIENCE, &|_, _| {}).ok()?;
        Some(client)
    });
    Hold(asked)
}

/// Does something with a store. If it meets trouble in one that a process has, which has given segments back meanwhile, that
/// is none: then again, with the store as it is by then. Nor is it trouble what a segment lacks whose records were moved by others that
/// are not known to be durable yet: before trouble is told, it is looked at all that is written.
pub fn steadily<T>(
    store: &Path,
    mut look: impl FnMut(Reach) -> Result<T, Failure>,
    mut is_trouble: impl FnMut(&T) -> bool,
) -> Result<T, Failure> {
    let _hold = hold(store);
    let mut reach = DURABLE;
    for n in 1.. {
        let before = segment_files(store);
        let found = look(reach);
        if !found.as_ref().map_or(true, &mut is_trouble) {
            return found;
        }
        let after = segment_files(store);
        // One that was begun may be gone again too.
        let stayed = before == after || (n == LOOKS && before.is_subset(&after));
        if stayed && reach == Reach::Written {
            return found;
        }
        reach = Reach::Written;
        if n == LOOKS {
            break;
        }
    }
    Err(moved_on(store))
}

/// What can't be told of a store since what it is about was given back meanwhile.
pub fn moved_on(store: &Path) -> Failure {
    Failure::new(
        IN_USE,
        format!("{} can't be looked at", store.display()),
        "whoever has it gives segments back faster than they are read",
        "run it again when less goes on there, or its disk has more room",
    )
}

/// The names of the files in `segments/`; none is ever given twice.
pub fn segment_files(store: &Path) -> BTreeSet<OsString> {
    let Ok(entries) = std::fs::read_dir(store.join("segments")) else { return BTreeSet::new() };
    entries.flatten().map(|e| e.file_name()).collect()
}

/// A store with what is live in it.
pub struct Looked {
    pub inspection: Inspection,
    pub census: Census,
    /// Bytes of the index on disk, where the mount told them.
    pub index_bytes: Option<u64>,
}

/// Looks into a store and counts. A damaged log still has its segments; what is live in them is then unknown, or, if
/// it has to be known, that is the failure.
pub fn look(store: &Path, must_know: bool, json: bool) -> Result<Looked, Failure> {
    let is_trouble = |l: &Looked| {
        !l.census.liveness || l.inspection.log().segments.iter().any(|s| s.standing == Standing::Damaged)
    };
    steadily(store, |reach| look_once(store, reach, must_know, json), is_trouble)
}

fn look_once(store: &Path, reach: Reach, must_know: bool, json: bool) -> Result<Looked, Failure> {
    let of = |e| Failure::of_store(&e, store);
    let inspection = Inspection::open_held(store, reach).map_err(of)?;
    if inspection.holder().is_some()
        && let Some(answer) = ask(store, "census", "the mount counts", json)
        && let Some((lsn, census)) = census(&answer)
    {
        // Up to where the mount counted, the log can be read: it is durable.
        let inspection = Inspection::open_held(store, told(reach, lsn)).map_err(of)?;
        return Ok(Looked { inspection, census, index_bytes: answer["index_bytes"].as_u64() });
    }
    let progress = Progress::new("replaying the log", json);
    let tell = |a, b| progress.tell(a, b);
    let rows = match inspection.rows(&tell) {
        Err(e) if must_know => return Err(of(e)),
        rows => rows.ok().flatten(),
    };
    let census = inspection.census(rows.as_ref().map(|r| r.index()), &tell).map_err(of)?;
    Ok(Looked { inspection, census, index_bytes: None })
}

/// How far to read where a mount says what is durable.
pub fn told(reach: Reach, durable: Lsn) -> Reach {
    if reach == Reach::Written { reach } else { Reach::Durable(durable) }
}

fn census(answer: &Value) -> Option<(Lsn, Census)> {
    let mut census = Census { liveness: true, rows: answer["rows"].as_u64()?, ..Census::default() };
    census.total = tally(&answer["bytes"])?;
    let records = &answer["records"];
    census.total.extents = records["extent"].as_u64()?;
    census.total.operations = records["operation"].as_u64()?;
    census.total.bases = records["base"].as_u64()?;
    let (objects, versions) = (answer["objects"].as_u64()?, answer["versions"].as_u64()?);
    census.meta = Some(MetaRow { objects, versions, ..MetaRow::default() });
    for segment in answer["segments"].as_array()? {
        census.segments.insert(SegmentId::new(segment["id"].as_u64()?), tally(segment)?);
    }
    Some((Lsn::new(answer["lsn"].as_u64()?), census))
}

fn tally(bytes: &Value) -> Option<Tally> {
    Some(Tally {
        present_bytes: bytes["present"].as_u64()?,
        history_bytes: bytes["history"].as_u64()?,
        dead_bytes: bytes["dead"].as_u64()?,
        metadata_bytes: bytes["metadata"].as_u64()?,
        ..Tally::default()
    })
}

/// The rows of the mount's index, in short; none if it does not answer.
pub fn digest(store: &Path, json: bool) -> Option<Digest> {
    let answer = ask(store, "digest", "the mount reads its index", json)?;
    let mut kinds = BTreeMap::new();
    for kind in answer["kinds"].as_array()? {
        let hex = kind["hash"].as_str()?.as_bytes();
        let mut hash = [0; 32];
        for (byte, digits) in hash.iter_mut().zip(hex.chunks_exact(2)) {
            *byte = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
        }
        let of = KindDigest { rows: kind["rows"].as_u64()?, hash };
        kinds.insert(u8::try_from(kind["kind"].as_u64()?).ok()?, of);
    }
    let lsn = |name: &str| answer[name].as_u64().map(Lsn::new);
    Some(Digest { lsn: lsn("lsn")?, durable: lsn("durable_lsn")?, kinds })
}
