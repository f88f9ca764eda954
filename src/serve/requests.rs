//! What a mount can be asked for: a table, to which a request is added as a row.

use std::cell::Cell;

use serde_json::{Map, Value, json};

use super::{
    Served,
    scrub::Scrub,
    space::{self, Purging},
    version::{self, path_bytes},
};
use crate::{
    base::{Clock as _, Error, FsError, SystemClock, limits},
    console::{FAILED, Failure, NOT_FOUND, Outcome, hex},
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
    Row {
        name: "tag",
        about: "names this moment (\"name\"), or with \"on\": false forgets the name; changes the store",
        answer: tag,
    },
    Row {
        name: "gc",
        about: "lets go what no policy keeps, and cleans; changes the store, unless \"dry_run\"",
        answer: |s, asked, progress| {
            let dry_run = asked["dry_run"].as_bool().unwrap_or(false);
            space::gc(&s.store, dry_run, &|a, b| progress.tell(a, b))
        },
    },
    Row {
        name: "du",
        about: "live, old and dead bytes at and below a \"path\"",
        answer: |s, asked, progress| {
            let path = path_bytes(&asked["path"]).unwrap_or_else(|| b"/".to_vec());
            space::du(&s.store, &path, &|a, b| progress.tell(a, b))
        },
    },
    Row {
        name: "scrub",
        about: "reads everything, at most \"rate\" bytes a second, or goes on with what was broken off, unless \"anew\"; writes its journal",
        answer: |s, asked, progress| {
            let how = Scrub {
                rate: asked["rate"].as_u64().unwrap_or(0),
                anew: asked["anew"].as_bool().unwrap_or(false),
            };
            s.scrubber()?.by_hand(&s.store, how, &|a, b| progress.tell(a, b))
        },
    },
    Row {
        name: "purge",
        about: "of a \"path\": what that would take; with \"version\", or \"objects\" without a name: removes, with \"erase\" overwrites",
        answer: purge,
    },
    Row {
        name: "protect",
        about: "what protects a \"version\" of a \"path\"; with \"change\" its \"lock\" or \"hold\" is set, which changes the store",
        answer: |s, asked, _| {
            s.vfs.mint_all_due().map_err(failed(s))?;
            let path = path_bytes(&asked["path"]).unwrap_or_default();
            version::protect(&s.store, &path, &asked["version"], &asked["change"])
        },
    },
    Row {
        name: "settings",
        about: "what is kept, by path; with \"reload\": true config.toml is read again, with \"change\" it is changed",
        answer: |s, asked, _| {
            let told = s.config.answer(&s.store, asked)?;
            if let Some(events) = &s.events {
                super::watch::settings(events, &s.store.settings());
            }
            // What lay where no versions were made may lie elsewhere by the new rules.
            s.vfs.look_at_drafts();
            Ok(told)
        },
    },
    Row {
        name: "clock",
        about: "the clock by which things expire; with \"confirm\": true it is set to the machine's, which changes the store",
        answer: |s, asked, _| {
            let confirm = asked["confirm"] == true;
            let expiry = if confirm { s.store.confirm_clock().map_err(failed(s))? } else { s.store.expiry() };
            Ok(super::expiry_value(expiry))
        },
    },
    Row {
        name: "peers",
        about: "peers, rules of replication and how they stand; with \"change\" they are changed, with \"invite\" a code is made",
        answer: |s, asked, _| match &s.peers {
            Some(peers) => peers.answer(asked),
            None => Err(Failure::new(
                FAILED,
                "there are no peers",
                "this mount could not begin to know any",
                "mount it again",
            )),
        },
    },
    Row {
        name: "hold",
        about: "the files of all segments stay where they are for as long as this connection, but not for long on a disk that is short of space",
        answer: |_, _, _| Ok(json!({"minutes": limits::CONTROL_HOLD_MS / 60_000})),
    },
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

fn purge(served: &Served, asked: &Value, progress: &Paced<'_>) -> Outcome<Value> {
    let path = path_bytes(&asked["path"]).unwrap_or_default();
    let shown = asked["shown"].as_str().map_or_else(|| String::from_utf8_lossy(&path).into(), str::to_owned);
    // Never the whole file where somebody meant one version.
    let version = asked.get("version").filter(|v| !v.is_null()).cloned();
    let what = Purging { path, version, shown };
    let objects: Option<Vec<u64>> =
        asked["objects"].as_array().map(|all| all.iter().filter_map(Value::as_u64).collect());
    served.vfs.mint_all_due().map_err(failed(served))?;
    match objects {
        Some(objects) if asked["erase"] == true => {
            space::erase(&served.store, &what, &objects, &|a, b| progress.tell(a, b))
        }
        Some(objects) => space::purge_objects(&served.store, &objects),
        None if what.version.is_some() => space::purge_version(&served.store, &what),
        None => space::plan_purge(&served.store, &what),
    }
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

/// Names this moment: every file that was written and closed has its version in it.
fn tag(served: &Served, asked: &Value, _: &Paced<'_>) -> Outcome<Value> {
    let name = asked["name"].as_str().unwrap_or_default();
    let on = asked["on"].as_bool().unwrap_or(true);
    let failed = failed(served);
    if on {
        served.vfs.mint_all_due().map_err(&failed)?;
    }
    let tag = served.store.set_tag(name.as_bytes(), on).map_err(|e| match e {
        Error::Fs(FsError::Exists) => {
            let what = format!("the tag \"{name}\" can't be added");
            Failure::usage(
                what,
                "there is one of this name already",
                "segfs tag list, and choose another name",
            )
        }
        Error::Fs(FsError::NotFound) => {
            let what = format!("the tag \"{name}\" can't be removed");
            Failure::new(NOT_FOUND, what, "there is none of this name", "segfs tag list")
        }
        Error::Fs(FsError::Invalid | FsError::NameTooLong) => {
            let what = format!("the tag \"{name}\" can't be added");
            Failure::usage(what, "a tag is named like a file", "choose another name")
        }
        e => failed(e),
    })?;
    served.store.sync_all().map_err(&failed)?;
    Ok(json!({"name": name, "moment_ns": tag.map(|t| t.moment_ns)}))
}
