//! How a mount stands.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use serde_json::{Map, Value, json};

use super::{
    count::{Counted, Counter},
    events::Events,
    peering::Peers,
    requests::bytes,
    scrub::Scrubber,
    settings::Config,
};
use crate::{
    base::{Clock as _, SystemClock, limits::STATUS_PATIENCE_MS},
    console::{FAILED, Failure, Outcome, mounts, time},
    fuse::Requests,
    store::Store,
    vfs::Vfs,
};

/// A mount, as those see it who ask.
pub struct Served {
    pub(super) store: Arc<Store>,
    pub(super) vfs: Arc<Vfs>,
    requests: Arc<Requests>,
    path: PathBuf,
    /// Where it is mounted, if it is.
    mountpoint: Option<PathBuf>,
    since_ns: u64,
    pub(super) counter: Arc<Counter>,
    pub(super) config: Config,
    pub(super) events: Option<Arc<Events>>,
    pub(super) peers: Option<Arc<Peers>>,
    scrubber: Option<Arc<Scrubber>>,
}

impl Served {
    /// A store that is mounted on a directory since now.
    #[must_use]
    pub fn new(store: Arc<Store>, vfs: Arc<Vfs>, requests: Arc<Requests>, mountpoint: &Path) -> Self {
        Self::of(store, vfs, requests, Some(mounts::absolute(mountpoint)))
    }

    /// A store that is open since now, and not mounted.
    #[must_use]
    pub fn without_mount(store: Arc<Store>, vfs: Arc<Vfs>) -> Self {
        Self::of(store, vfs, Arc::default(), None)
    }

    fn of(store: Arc<Store>, vfs: Arc<Vfs>, requests: Arc<Requests>, mountpoint: Option<PathBuf>) -> Self {
        let since_ns = SystemClock.wall_ns();
        let path = mounts::absolute(store.path());
        let config = Config::of(path.clone());
        Self {
            store,
            vfs,
            requests,
            path,
            mountpoint,
            since_ns,
            counter: Arc::default(),
            config,
            events: None,
            peers: None,
            scrubber: None,
        }
    }

    /// With the events that its status names.
    #[must_use]
    pub fn with_events(self, events: Option<Arc<Events>>) -> Self {
        Self { events, ..self }
    }

    /// With the connections to other stores.
    #[must_use]
    pub fn with_peers(self, peers: Option<Arc<Peers>>) -> Self {
        Self { peers, ..self }
    }

    /// With what reads everything.
    #[must_use]
    pub fn with_scrubber(self, scrubber: Option<Arc<Scrubber>>) -> Self {
        Self { scrubber, ..self }
    }

    pub(super) fn scrubber(&self) -> Outcome<&Scrubber> {
        let none = || {
            let why = "the journal of what was read could not be opened when it was mounted";
            Failure::new(FAILED, "nothing can be read", why, "mount it again")
        };
        self.scrubber.as_deref().ok_or_else(none)
    }

    /// The state of everything that can be told without waiting long.
    pub(super) fn status(&self) -> Value {
        let patience = Duration::from_millis(STATUS_PATIENCE_MS);
        let s = self.store.status_within(patience);
        let counted = self.counter.soon(&self.store, patience);
        let segments = self.store.segments();
        let space = self.store.space().ok();
        let recovered = self.store.recovered();
        let known = |n: u64| s.counts_known.then_some(n);
        let mut working: Vec<&str> = s.working.clone();
        if !s.counts_known {
            working.insert(0, "waiting for the disk");
        }
        json!({
            "mountpoint": self.mountpoint.as_ref().map(|dir| dir.display().to_string()),
            "store": self.path.display().to_string(),
            "id": s.id.to_string(),
            "process": std::process::id(),
            "since": time(self.since_ns),
            "since_ns": self.since_ns,
            "stopped": s.stopped,
            "engine": s.log.engine,
            "log": {
                "last_lsn": s.last_lsn.get(),
                "durable_lsn": s.durable_lsn.get(),
                "flushed_lsn": s.flushed_lsn.get(),
                "segments": segments.len(),
                "used_bytes": segments.iter().map(|s| s.used_bytes).sum::<u64>(),
                "file_bytes": segments.iter().map(|s| s.capacity).sum::<u64>(),
                "spare_segments": s.log.spares,
            },
            "written": {
                "records": s.log.records,
                "batches": s.log.batches,
                "syncs": s.log.syncs,
                "bytes": s.log.bytes,
            },
            "objects": known(s.objects),
            "versions": known(s.versions),
            "bytes": counted_bytes(counted.as_ref()),
            "space": {
                "free_bytes": space.map(|s| s.free_bytes),
                "total_bytes": space.map(|s| s.total_bytes),
            },
            "index": {
                "disk_bytes": s.index.disk_bytes,
                "rows": s.index.disk_rows,
                "cache_bytes": s.index.cache_bytes,
                "memory_bytes": s.index.memtable_bytes,
            },
            "doing": {
                "open_files": self.vfs.open_files(patience),
                "requests_answered": self.requests.answered(),
                "requests_under_way": self.requests.under_way(),
                "work": working,
            },
            "expiry": super::expiry_value(self.store.expiry()),
            "scrub": self.scrubber.as_ref().map(|s| s.value(self.store.settings().scrubs, self.store.created_ns())),
            "event": self.events.as_ref().and_then(|events| events.newest()),
            "recovered": {
                "records": recovered.log.replayed,
                "interrupted_versions": recovered.minted,
                "index_rebuilt": recovered.rebuilt,
                "damages": recovered.log.damages.len(),
            },
        })
    }
}

fn counted_bytes(counted: Option<&Counted>) -> Map<String, Value> {
    let mut all = Map::new();
    all.insert("as_of_lsn".into(), counted.map(|(lsn, _)| lsn.get()).into());
    match counted {
        Some((_, census)) => all.extend(bytes(&census.total)),
        None => all.extend(["present", "history", "dead", "metadata"].map(|n| (n.to_owned(), Value::Null))),
    }
    all
}
