//! What a mount can be asked for: a table, to which a request is added as a row.

use std::cell::Cell;

use serde_json::{Map, Value, json};

use super::Served;
use crate::{
    base::{Clock as _, SystemClock},
    console::{Failure, Outcome, hex},
    store::inspect::{Census, Tally},
};

/// One request.
pub(super) struct Row {
    /// As `"request"` names it.
    pub(super) name: &'static str,
    /// What it is for.
    about: &'static str,
    /// Answers it. The whole object that was sent is there for its arguments.
    pub(super) answer: fn(&Served, &Value, &Paced<'_>) -> Outcome<Value>,
}

/// All requests. They only read; what changes something says so in its row.
pub(super) const TABLE: &[Row] = &[
    Row {
        name: "requests",
        about: "what can be asked for",
        answer: |_, _, _| {
            Ok(TABLE.iter().map(|row| json!({"request": row.name, "about": row.about})).collect())
        },
    },
    Row { name: "status", about: "how the mount stands; never waits long", answer: |s, _, _| Ok(s.status()) },
    Row { name: "census", about: "live and dead bytes, in all and by segment, counted now", answer: census },
    Row { name: "digest", about: "all rows of the index in short, as of one LSN", answer: digest },
];

/// Passes on progress, at most twice a second.
pub(super) struct Paced<'a> {
    tell: &'a dyn Fn(u64, u64),
    told_ns: Cell<u64>,
}

const PACE_NS: u64 = 500_000_000;

impl<'a> Paced<'a> {
    pub(super) fn new(tell: &'a dyn Fn(u64, u64)) -> Self {
        Self { tell, told_ns: Cell::new(SystemClock.monotonic_ns()) }
    }

    fn tell(&self, done: u64, total: u64) {
        let now = SystemClock.monotonic_ns();
        if now >= self.told_ns.get() + PACE_NS {
            self.told_ns.set(now);
            (self.tell)(done, total);
        }
    }
}

fn failed(served: &Served) -> impl Fn(crate::base::Error) -> Failure {
    let path = served.store.path().to_owned();
    move |e| Failure::of_store(&e, &path)
}

/// Counted bytes as JSON.
pub(super) fn bytes(t: &Tally) -> Map<String, Value> {
    let all = [
        ("present", t.present_bytes),
        ("history", t.history_bytes),
        ("dead", t.dead_bytes),
        ("metadata", t.metadata_bytes),
    ];
    all.into_iter().map(|(name, n)| (name.to_owned(), n.into())).collect()
}

fn census(served: &Served, _: &Value, progress: &Paced<'_>) -> Outcome<Value> {
    let (lsn, census) =
        served.counter.now(&served.store, &|a, b| progress.tell(a, b)).map_err(failed(served))?;
    let Census { segments, total, rows, .. } = &*census;
    let segment = |(id, t): (&crate::base::SegmentId, &Tally)| {
        let mut value = json!({"id": id.get()});
        if let Value::Object(fields) = &mut value {
            fields.extend(bytes(t));
        }
        value
    };
    let status = served.store.status();
    Ok(json!({
        "lsn": lsn.get(),
        "objects": status.objects,
        "versions": status.versions,
        "rows": rows,
        "index_bytes": status.index.disk_bytes,
        "bytes": bytes(total),
        "records": {"extent": total.extents, "operation": total.operations, "base": total.bases},
        "segments": segments.iter().map(segment).collect::<Vec<_>>(),
    }))
}

fn digest(served: &Served, _: &Value, progress: &Paced<'_>) -> Outcome<Value> {
    let digest = served.store.digest(&|a, b| progress.tell(a, b)).map_err(failed(served))?;
    let kind = |(kind, of): (&u8, &crate::store::inspect::KindDigest)| json!({"kind": kind, "rows": of.rows, "hash": hex(&of.hash)});
    Ok(json!({
        "lsn": digest.lsn.get(),
        "durable_lsn": digest.durable.get(),
        "kinds": digest.kinds.iter().map(kind).collect::<Vec<_>>(),
    }))
}
