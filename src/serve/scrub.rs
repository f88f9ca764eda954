//! Reading everything again, to find what has rotted while nobody asked for it: by hand, and by itself once in an interval.
//!
//! Both keep one journal, a JSON object a line: what was found, and how far the scrub under way came. Whoever goes on with it begins
//! there, after another mount too. What by itself reads gives way to one by hand.

use std::{
    io,
    path::Path,
    sync::{
        Arc, Weak,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    thread::JoinHandle,
    time::Duration,
};

use parking_lot::{Condvar, Mutex};
use serde_json::{Value, json};

use super::{appended::at_end, events::Events};
use crate::{
    base::{Clock as _, Error, Lsn, SegmentId, SystemClock},
    console::{Failure, Outcome, time},
    disk::{Disk, Engine, RealDisk},
    store::{Finding, Hit, Scrubs, Store, inspect::Progress},
};

/// The journal in the store's directory.
const JOURNAL: &str = "scrub.journal";
/// The one before it.
const BEFORE: &str = "scrub.1.journal";
/// A journal of so many bytes gives way to a new one when a scrub begins from the beginning.
const FULL_BYTES: u64 = 1 << 20;
/// Of a longer journal the end is read, in bytes.
const READ_BYTES: u64 = 64 << 20;
/// A mount has so much time for itself before it begins, or one interval, if that is shorter.
const GRACE: Duration = Duration::from_secs(60);
/// How often it is looked whether one is due.
const LOOK: Duration = Duration::from_secs(5);
/// The longest rest without another look at whether it should go on.
const STEP: Duration = Duration::from_secs(1);
/// How long it waits where reading or the journal failed.
const AFTER_FAILURE: Duration = Duration::from_secs(600);
/// Damages that are kept in mind; the journal has them all.
const DAMAGES: usize = 4096;
/// Damaged files that are named where a scrub is told of in short.
const PATHS: usize = 20;

/// How to scrub by hand.
#[derive(Debug, Clone, Copy)]
pub struct Scrub {
    /// Bytes read in a second; 0: as fast as the disk gives them.
    pub rate: u64,
    /// From the beginning, also if the last one was broken off.
    pub anew: bool,
}

/// A scrub that was begun and has not come to its end.
#[derive(Debug, Default, Clone)]
struct Leg {
    began_ns: u64,
    /// The last segment that was read.
    behind: Option<u64>,
    segments: u64,
    bytes: u64,
    /// As the journal has them, each place once.
    damages: Vec<Value>,
}

/// What the journal says.
#[derive(Debug, Default, Clone)]
struct Known {
    under_way: Option<Leg>,
    /// The line of the last one that came to its end.
    last: Option<Value>,
}

impl Known {
    fn take(&mut self, line: &Value) {
        let n = |field: &str| line[field].as_u64().unwrap_or(0);
        if line.get("damage").is_some() {
            let damages = &mut self.under_way.get_or_insert_default().damages;
            let place = |l: &Value| (l["segment"].clone(), l["offset"].clone());
            // A segment that was not read to its end is read again.
            if damages.len() < DAMAGES && damages.iter().all(|d| place(d) != place(line)) {
                damages.push(line.clone());
            }
        }
        match line["scrub"].as_str() {
            Some("begun") if line["behind_segment"].is_null() => {
                self.under_way = Some(Leg { began_ns: n("time_ns"), ..Leg::default() });
            }
            Some("position") => {
                let leg = self.under_way.get_or_insert_default();
                (leg.behind, leg.segments, leg.bytes) = (Some(n("segment")), n("segments"), n("bytes"));
            }
            Some("done") => *self = Self { under_way: None, last: Some(line.clone()) },
            _ => {}
        }
    }

    fn value(&self) -> Value {
        let under_way = self.under_way.as_ref().map(|leg| {
            json!({
                "since": (leg.began_ns > 0).then(|| time(leg.began_ns)),
                "since_ns": (leg.began_ns > 0).then_some(leg.began_ns),
                "segments": leg.segments,
                "bytes": leg.bytes,
                "damages": leg.damages.len(),
                "files": paths(&leg.damages),
            })
        });
        let last = self.last.as_ref().map(|done| {
            json!({
                "ended": done["time"],
                "ended_ns": done["time_ns"],
                "segments": done["segments"],
                "bytes": done["bytes"],
                "damages": done["damages"],
                "files": done["files"],
            })
        });
        json!({"under_way": under_way, "last": last})
    }
}

/// Files that damages hit, each once, not all of very many.
fn paths(damages: &[Value]) -> Vec<Value> {
    let mut found: Vec<Value> = Vec::new();
    for path in damages.iter().flat_map(|d| d["files"].as_array().into_iter().flatten()).map(|f| &f["path"]) {
        if found.len() < PATHS && !found.contains(path) {
            found.push(path.clone());
        }
    }
    found
}

/// The journal of a store.
struct Journal {
    disk: RealDisk,
}

impl Journal {
    fn open(store: &Path) -> io::Result<Self> {
        Ok(Self { disk: RealDisk::open(store, Engine::Plain)? })
    }

    fn known(&self) -> io::Result<Known> {
        let mut known = Known::default();
        for name in [BEFORE, JOURNAL] {
            let file = match self.disk.open(Path::new(name), false) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                opened => opened?,
            };
            let end = file.len()?;
            let len = end.min(READ_BYTES);
            let mut bytes = vec![0; len as usize];
            file.read_exact_at(&mut bytes, end - len)?;
            // What a crash cut off is no line.
            for line in bytes.split(|b| *b == b'\n').filter_map(|l| serde_json::from_slice(l).ok()) {
                known.take(&line);
            }
        }
        Ok(known)
    }

    /// Begins another one, if this one is long.
    fn turn(&self) -> io::Result<()> {
        match self.disk.open(Path::new(JOURNAL), false) {
            Ok(file) if file.len()? >= FULL_BYTES => {
                self.disk.rename(Path::new(JOURNAL), Path::new(BEFORE))?;
                self.disk.sync_dir(Path::new(""))
            }
            _ => Ok(()),
        }
    }

    /// Adds a line, durably.
    fn add(&self, line: &str) -> io::Result<()> {
        let (file, end) = at_end(&self.disk, JOURNAL)?;
        file.write_at(&[line.as_bytes(), b"\n"], end)?;
        file.sync()
    }
}

/// What the journal of a store says, mounted or not: `under_way` and `last`, or null where it can't be read.
#[must_use]
pub fn last_scrub(store: &Path) -> Value {
    let known = Journal::open(store).and_then(|journal| journal.known());
    known.map_or(Value::Null, |known| known.value())
}

/// Reads everything of a store again; one at a time.
pub struct Scrubber {
    journal: Journal,
    known: Mutex<Known>,
    /// Held by who reads.
    one: Mutex<()>,
    /// So many ask for it by hand, and go first.
    by_hand: AtomicUsize,
    events: Option<Arc<Events>>,
}

/// How one is to go.
struct Way<'a> {
    rate: &'a dyn Fn() -> u64,
    anew: bool,
    /// Rests so long; says whether to go on.
    rest: &'a dyn Fn(Duration) -> bool,
    progress: Progress<'a>,
}

/// What one came to.
struct Run {
    whole: bool,
    segments: u64,
    bytes: u64,
    behind: Option<u64>,
    /// Of the whole scrub, also of what was read before it was broken off.
    damages: Vec<Value>,
}

impl Scrubber {
    /// Goes on with the journal of a store. What is found is an event, too.
    ///
    /// # Errors
    /// What the system says of the journal.
    pub fn new(store: &Path, events: Option<&Arc<Events>>) -> io::Result<Self> {
        let journal = Journal::open(store)?;
        let known = Mutex::new(journal.known()?);
        let (one, by_hand) = (Mutex::default(), AtomicUsize::new(0));
        Ok(Self { journal, known, one, by_hand, events: events.cloned() })
    }

    /// How it stands.
    pub(super) fn value(&self, scrubs: Scrubs, created_ns: u64) -> Value {
        let mut all = self.known.lock().value();
        let next = self.due_ns(scrubs, created_ns).filter(|ns| *ns > 0);
        let more = json!({
            "every_seconds": scrubs.every_ns.map(|ns| ns / 1_000_000_000),
            "rate_bytes": scrubs.rate_bytes,
            "next": next.map(time),
            "next_ns": next,
        });
        if let (Value::Object(all), Value::Object(more)) = (&mut all, more) {
            all.extend(more);
        }
        all
    }

    /// From when on one is to be read, ns since 1970; 0: one was broken off, or the clock has gone back since the last.
    fn due_ns(&self, scrubs: Scrubs, created_ns: u64) -> Option<u64> {
        let every = scrubs.every_ns?;
        let known = self.known.lock();
        let last = known.last.as_ref().and_then(|l| l["time_ns"].as_u64()).unwrap_or(created_ns);
        if known.under_way.is_some() || last > SystemClock.wall_ns() {
            return Some(0);
        }
        Some(last.saturating_add(every))
    }

    /// Reads everything, or what is left of the one that was broken off, as somebody asked for it.
    ///
    /// # Errors
    /// What the store says; damage is none.
    pub fn by_hand(&self, store: &Store, how: Scrub, progress: Progress<'_>) -> Outcome<Value> {
        self.by_hand.fetch_add(1, SeqCst);
        let one = loop {
            match self.one.try_lock_for(STEP) {
                Some(one) => break one,
                None => progress(0, 1),
            }
        };
        let rest = |pause| store.rest(pause);
        let run = self.run(store, &Way { rate: &|| how.rate, anew: how.anew, rest: &rest, progress });
        drop(one);
        self.by_hand.fetch_sub(1, SeqCst);
        let run = run?;
        Ok(json!({
            "complete": run.whole,
            "segments": run.segments,
            "bytes": run.bytes,
            "resumed_behind": run.behind,
            "damages": run.damages,
        }))
    }

    fn note(&self, mut line: Value) -> Outcome<()> {
        let now = SystemClock.wall_ns();
        if let Value::Object(fields) = &mut line {
            fields.insert("time".into(), time(now).into());
            fields.insert("time_ns".into(), now.into());
        }
        let failed = |e| Failure::system(format!("{JOURNAL} can't be written"), &e);
        self.journal.add(&line.to_string()).map_err(failed)?;
        self.known.lock().take(&line);
        Ok(())
    }

    fn run(&self, store: &Store, way: &Way<'_>) -> Outcome<Run> {
        let failed = |e: Error| Failure::of_store(&e, store.path());
        // What was done so far is to be on the disk, to be read from there.
        store.sync_all().map_err(failed)?;
        let behind = self.known.lock().under_way.as_ref().and_then(|leg| leg.behind).filter(|_| !way.anew);
        if behind.is_none() {
            let turned = self.journal.turn();
            turned.map_err(|e| Failure::system(format!("{JOURNAL} can't be renamed"), &e))?;
        }
        self.note(json!({"scrub": "begun", "behind_segment": behind}))?;
        let all = store.segments();
        let total: u64 = all.iter().map(|s| s.used_bytes).sum();
        let mut run = Run { whole: true, segments: 0, bytes: 0, behind, damages: Vec::new() };
        let mut passed = 0;
        for s in &all {
            passed += s.used_bytes;
            if behind.is_some_and(|b| s.id <= SegmentId::new(b)) {
                continue;
            }
            let began = SystemClock.monotonic_ns();
            let Some(done) = store.scrub_segment(s.id).map_err(failed)? else { continue };
            for finding in &done.found {
                if let Some(events) = &self.events {
                    events.damage(&finding.damage);
                }
                self.note(told(finding))?;
            }
            (run.segments, run.bytes) = (run.segments + 1, run.bytes + done.bytes);
            let so_far = self.known.lock().under_way.as_ref().map_or((0, 0), |leg| (leg.segments, leg.bytes));
            let (segments, bytes) = (so_far.0 + 1, so_far.1 + done.bytes);
            self.note(
                json!({"scrub": "position", "segment": s.id.get(), "segments": segments, "bytes": bytes}),
            )?;
            let due = done.bytes.saturating_mul(1_000_000_000).checked_div((way.rate)()).unwrap_or(0);
            let mut left = Duration::from_nanos(due.saturating_sub(SystemClock.monotonic_ns() - began));
            loop {
                (way.progress)(passed, total);
                // In steps, so that whoever asked sees that it goes on.
                let step = left.min(STEP);
                run.whole = (way.rest)(step);
                left -= step;
                if !run.whole || left.is_zero() {
                    break;
                }
            }
            if !run.whole {
                break;
            }
        }
        let leg = self.known.lock().under_way.clone().unwrap_or_default();
        run.damages = leg.damages;
        if run.whole {
            let files = paths(&run.damages);
            self.note(json!({"scrub": "done", "segments": leg.segments, "bytes": leg.bytes, "damages": run.damages.len(), "files": files}))?;
        }
        Ok(run)
    }
}

fn told(finding: &Finding) -> Value {
    let place = &finding.damage.place;
    let hit = |h: &Hit| {
        let versions: Vec<_> =
            h.versions.iter().map(|(n, id)| json!({"ordinal": n, "id": id.to_string()})).collect();
        json!({
            "path": String::from_utf8_lossy(&h.path),
            "inode": h.ino.get(),
            "offset": h.offset,
            "length": h.len,
            "present": h.present,
            "versions": versions,
        })
    };
    json!({
        "damage": finding.damage.why,
        "what": finding.what,
        "segment": place.segment.map(SegmentId::get),
        "offset": place.offset,
        "lsn": place.lsn.map(Lsn::get),
        "files": finding.hits.iter().map(hit).collect::<Vec<_>>(),
    })
}

/// Is it over, and who waits for that.
type Over = Arc<(Mutex<bool>, Condvar)>;

/// A thread of a mount that reads everything once in an interval, at the rate that is set, behind everybody else. It ends when this is
/// dropped; the next mount goes on where it was.
pub struct Scrubbing {
    over: Over,
    thread: Option<JoinHandle<()>>,
}

impl Scrubbing {
    /// Starts it.
    ///
    /// # Errors
    /// If no thread can be had.
    pub fn start(store: &Arc<Store>, scrubber: &Arc<Scrubber>) -> io::Result<Self> {
        let over = Over::default();
        let (store, scrubber, told) = (Arc::downgrade(store), Arc::clone(scrubber), Arc::clone(&over));
        let run = move || {
            // On Linux this is of the thread alone.
            if let Err(e) = rustix::process::nice(10) {
                tracing::debug!("reading everything goes on at the usual priority: {e}");
            }
            by_itself(&store, &scrubber, &told);
        };
        let thread = std::thread::Builder::new().name("segfs-scrub".into()).spawn(run)?;
        Ok(Self { over, thread: Some(thread) })
    }
}

impl Drop for Scrubbing {
    fn drop(&mut self) {
        *self.over.0.lock() = true;
        self.over.1.notify_all();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Waits so long; says whether it is not over then.
fn pause(over: &Over, length: Duration) -> bool {
    let until = SystemClock.monotonic_ns() + length.as_nanos() as u64;
    let mut end = over.0.lock();
    while !*end {
        let left = until.saturating_sub(SystemClock.monotonic_ns());
        if left == 0 {
            return true;
        }
        over.1.wait_for(&mut end, Duration::from_nanos(left));
    }
    false
}

fn by_itself(store: &Weak<Store>, scrubber: &Scrubber, over: &Over) {
    let begun = SystemClock.monotonic_ns();
    let mut wait = Duration::ZERO;
    while pause(over, wait) {
        wait = LOOK;
        let Some(store) = store.upgrade() else { return };
        let scrubs = || store.settings().scrubs;
        let Some(every) = scrubs().every_ns else { continue };
        let free = Duration::from_nanos(SystemClock.monotonic_ns() - begun);
        let grace = GRACE.min(Duration::from_nanos(every));
        let due = scrubber.due_ns(scrubs(), store.created_ns());
        if free < grace || due.is_none_or(|due| due > SystemClock.wall_ns()) {
            wait = wait.min(grace);
            continue;
        }
        let rest =
            |length| pause(over, length) && scrubber.by_hand.load(SeqCst) == 0 && scrubs().every_ns.is_some();
        let Some(_one) = scrubber.one.try_lock().filter(|_| rest(Duration::ZERO)) else { continue };
        let way = Way { rate: &|| scrubs().rate_bytes, anew: false, rest: &rest, progress: &|_, _| {} };
        if let Err(e) = scrubber.run(&store, &way) {
            tracing::warn!("reading everything was broken off: {}", e.value());
            wait = AFTER_FAILURE;
        }
    }
}
