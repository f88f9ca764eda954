//! `segfs status`: asks the mount through its control socket, or looks into a store that nobody holds. Never waits long
//! for a mount that does not answer, and never touches its directory for more than a moment.

use std::{path::Path, time::Duration};

use segfs::{
    base::Error,
    console::{FAILED, Failure, NOT_FOUND, Outcome, Output, Progress, size},
    index::Index as _,
    log::Standing,
    serve::{Client, Unanswered, newest_event, scrub::last_scrub},
    store::inspect::Inspection,
};
use serde_json::{Value, json};

use super::mounts::{self, Mounted};

/// How long a mount may take to answer.
const PATIENCE: Duration = Duration::from_secs(3);

/// Shows one mount or store, or all mounts.
pub fn run(at: Option<&Path>, out: &mut Output) -> Outcome<()> {
    let found = match at {
        None => mounts::all().iter().map(|m| of(Some(m), &m.store, out.json)).collect::<Outcome<Vec<_>>>()?,
        Some(path) => vec![one(path, out.json)?],
    };
    if out.json {
        out.value(&if at.is_some() { found[0].clone() } else { json!(found) })?;
    } else if found.is_empty() {
        out.line("no segfs is mounted; mount one: segfs mount STORE DIR")?;
    } else {
        for (n, status) in found.iter().enumerate() {
            if n > 0 {
                out.line("")?;
            }
            print(status, out)?;
        }
    }
    found.iter().find_map(trouble).map_or(Ok(()), Err)
}

fn one(path: &Path, json: bool) -> Outcome<Value> {
    let named = path.to_owned();
    // Names inside a mount that does not answer can't be followed.
    let whole = mounts::patiently(move || mounts::absolute(&named))
        .or_else(|| std::path::absolute(path).ok())
        .unwrap_or_else(|| path.to_owned());
    if let Some(m) = mounts::around(&whole) {
        return of(Some(&m), &m.store, json);
    }
    if whole.join("STORE").is_file() {
        return of(mounts::of_store(&whole).as_ref(), &whole, json);
    }
    let what = format!("{} has no status", path.display());
    if whole.exists() {
        let why = "it is neither in a mount of segfs nor a store";
        return Err(Failure::new(NOT_FOUND, what, why, "segfs status, which shows all mounts"));
    }
    Err(Failure::new(NOT_FOUND, what, "it does not exist", "segfs status, which shows all mounts"))
}

/// Every field, in order. What is not known stays null.
fn template() -> Value {
    json!({
        "state": null,
        "mountpoint": null,
        "options": null,
        "store": null,
        "id": null,
        "process": null,
        "since": null,
        "since_ns": null,
        "stopped": null,
        "engine": null,
        "log": {
            "last_lsn": null, "durable_lsn": null, "flushed_lsn": null, "segments": null,
            "used_bytes": null, "file_bytes": null, "spare_segments": null,
        },
        "written": {"records": null, "batches": null, "syncs": null, "bytes": null},
        "objects": null,
        "versions": null,
        "bytes": {"as_of_lsn": null, "present": null, "history": null, "dead": null, "metadata": null},
        "space": {"free_bytes": null, "total_bytes": null},
        "index": {"disk_bytes": null, "rows": null, "cache_bytes": null, "memory_bytes": null},
        "doing": {"open_files": null, "requests_answered": null, "requests_under_way": null, "work": null},
        "expiry": {"time": null, "time_ns": null, "suspended": null, "ahead_seconds": null},
        "scrub": {
            "every_seconds": null, "rate_bytes": null, "next": null, "next_ns": null, "under_way": null, "last": null,
        },
        "event": null,
        "recovered": {
            "records": null, "interrupted_versions": null, "index_rebuilt": null, "damages": null,
        },
    })
}

/// Puts values into their places; those that have none go to the end.
fn fill(into: &mut Value, from: Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (name, value) in from {
                fill(into.entry(name).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from,
    }
}

/// The status of a mount, of a store, or of both.
fn of(mount: Option<&Mounted>, store: &Path, json: bool) -> Outcome<Value> {
    let mut status = template();
    let asked = Client::connect(store).and_then(|mut c| c.ask("status", PATIENCE, &|_, _| {}));
    let state = match asked {
        Ok(answer) => {
            let served = answer["mountpoint"].is_null();
            fill(&mut status, answer);
            if served { "served" } else { "mounted" }
        }
        Err(Unanswered::Silent) => {
            fill(&mut status, outside(store));
            "not answering"
        }
        Err(Unanswered::Refused(failure)) => return Err(failure),
        Err(Unanswered::Nobody(e)) if e.kind() == std::io::ErrorKind::PermissionDenied => {
            fill(&mut status, outside(store));
            "not to be asked by you"
        }
        Err(Unanswered::Nobody(_)) => unanswered(mount, store, json, &mut status)?,
    };
    fill(&mut status, json!({ "state": state }));
    if let Some(m) = mount {
        fill(&mut status, json!({"mountpoint": m.dir.display().to_string(), "options": m.options}));
    }
    if status["store"].is_null() {
        fill(&mut status, json!({"store": mounts::absolute(store).display().to_string()}));
    }
    Ok(status)
}

/// Nobody listens: a store that is closed, a mount whose process is gone, or another program that uses the store.
fn unanswered(
    mount: Option<&Mounted>,
    store: &Path,
    json: bool,
    status: &mut Value,
) -> Outcome<&'static str> {
    fill(status, outside(store));
    if mount.is_some() && !store.join("STORE").is_file() {
        // The table does not name the store: all that can be told is whether somebody answers.
        fill(status, json!({ "store": null }));
        return Ok(if mount.is_some_and(|m| mounts::is_dead(&m.dir)) { "dead" } else { "mounted" });
    }
    let inspection = match Inspection::open(store) {
        Ok(inspection) => inspection,
        Err(_) if mount.is_some_and(|m| mounts::is_dead(&m.dir)) => return Ok("dead"),
        Err(e) => return Err(Failure::of_store(&e, store)),
    };
    look(&inspection, json, status).map_err(|e| Failure::of_store(&e, store))?;
    fill(status, json!({"event": newest_event(store)}));
    if let scrub @ Value::Object(_) = last_scrub(store) {
        fill(status, json!({ "scrub": scrub }));
    }
    if inspection.holder().is_none() {
        // What the file says is of one who is gone.
        fill(status, json!({ "process": null }));
    }
    Ok(match (inspection.holder(), mount) {
        (Some(_), _) => "in use",
        // One that only reads has no socket, and lets others look beside it.
        (None, Some(m)) if mounts::is_dead(&m.dir) => "dead",
        (None, Some(_)) => "mounted",
        (None, None) => "closed",
    })
}

/// What is known of a store without looking into it.
fn outside(store: &Path) -> Value {
    let space = rustix::fs::statvfs(store).ok();
    let bytes = |blocks: u64, unit: u64| blocks.saturating_mul(unit);
    let holder = std::fs::read_to_string(store.join("LOCK")).unwrap_or_default();
    let process = holder.trim().strip_prefix("process ").and_then(|p| p.parse::<u64>().ok());
    json!({
        "process": process,
        "space": {
            "free_bytes": space.as_ref().map(|s| bytes(s.f_bavail, s.f_frsize)),
            "total_bytes": space.as_ref().map(|s| bytes(s.f_blocks, s.f_frsize)),
        },
    })
}

/// Looks into a store: all of it if nobody holds it, else only at the log.
fn look(inspection: &Inspection, json: bool, status: &mut Value) -> Result<(), Error> {
    let log = inspection.log();
    let of_the_log = log.segments.iter().filter(|s| s.standing != Standing::Unreached);
    let sum = |f: fn(&segfs::log::Surveyed) -> u64| of_the_log.clone().map(f).sum::<u64>();
    fill(
        status,
        json!({
            "id": inspection.id().to_string(),
            "log": {
                "last_lsn": log.last_lsn().get(),
                "durable_lsn": log.last_lsn().get(),
                "segments": of_the_log.clone().count(),
                "used_bytes": sum(|s| s.used_bytes),
                "file_bytes": sum(|s| s.file_bytes),
            },
        }),
    );
    if inspection.holder().is_some() {
        return Ok(());
    }
    let progress = Progress::new("looking into the store", json);
    let tell = |a, b| progress.tell(a, b);
    let flushed =
        inspection.index().ok().map(|view| (view.index().flushed_lsn().get(), view.index().stats()));
    let Some(rows) = inspection.rows(&tell)? else { return Ok(()) };
    let census = inspection.census(Some(rows.index()), &tell)?;
    let t = census.total;
    fill(
        status,
        json!({
            "log": {"flushed_lsn": flushed.map(|f| f.0)},
            "objects": census.meta.as_ref().map(|m| m.objects),
            "versions": census.meta.as_ref().map(|m| m.versions),
            "bytes": {
                "as_of_lsn": log.last_lsn().get(),
                "present": t.present_bytes,
                "history": t.history_bytes,
                "dead": t.dead_bytes,
                "metadata": t.metadata_bytes,
            },
            "index": {"disk_bytes": flushed.map(|f| f.1.disk_bytes), "rows": flushed.map(|f| f.1.disk_rows)},
        }),
    );
    Ok(())
}

/// What is wrong with a mount, if something is.
fn trouble(status: &Value) -> Option<Failure> {
    let text = |name: &str| status[name].as_str().unwrap_or("?").to_owned();
    let (dir, store) = (text("mountpoint"), text("store"));
    let process = &status["process"];
    match (status["state"].as_str(), status["stopped"].as_str()) {
        (Some("dead"), _) => Some(Failure::new(
            FAILED,
            format!("the mount on {dir} is dead"),
            "its process is gone",
            format!("segfs mount {store} {dir}, which clears it; or segfs umount {dir}"),
        )),
        (Some("not answering"), _) => Some(Failure::new(
            FAILED,
            format!("the mount of {store} does not answer"),
            format!("process {process} is stopped, or waits for its disk"),
            format!(
                "look at it: ps -o pid,stat,wchan:32,cmd -p {process}; if it is stopped: kill -CONT {process}"
            ),
        )),
        (Some("served"), Some(why)) => Some(Failure::new(
            FAILED,
            format!("{store} stopped writing"),
            why,
            format!("kill {process}, then segtool verify {store}, then segfs serve {store}"),
        )),
        (_, Some(why)) => Some(Failure::new(
            FAILED,
            format!("the mount on {dir} stopped writing"),
            why,
            format!("segfs umount {dir}, then segtool verify {store}, then segfs mount {store} {dir}"),
        )),
        _ => None,
    }
}

/// As text: the same things in the same order; what is not known is left out.
fn print(status: &Value, out: &mut Output) -> Outcome<()> {
    let known = |at: &Value| !at.is_null();
    let n = |at: &Value| at.as_u64().map_or_else(|| "?".to_owned(), |n| n.to_string());
    let b = |at: &Value| at.as_u64().map_or_else(|| "?".to_owned(), size);
    let s = |at: &Value| at.as_str().map_or_else(|| at.to_string(), str::to_owned);
    let plain = ["state", "mountpoint", "options", "store", "id", "process", "since", "stopped", "engine"];
    for name in plain.iter().filter(|name| known(&status[**name])) {
        out.line(&format!("{name:<11} {}", s(&status[*name])))?;
    }
    let (log, w, bytes) = (&status["log"], &status["written"], &status["bytes"]);
    if known(&log["last_lsn"]) {
        let lsns = format!(
            "last LSN {}, durable {}, in the index on disk {}",
            n(&log["last_lsn"]),
            n(&log["durable_lsn"]),
            n(&log["flushed_lsn"])
        );
        out.line(&format!("{:<11} {lsns}", "log"))?;
        let spare = if known(&log["spare_segments"]) {
            format!(", {} spare", log["spare_segments"])
        } else {
            String::new()
        };
        let files = format!(
            "{} segments, {} of {} used{spare}",
            n(&log["segments"]),
            b(&log["used_bytes"]),
            b(&log["file_bytes"])
        );
        out.line(&format!("{:<11} {files}", ""))?;
    }
    if known(&w["records"]) {
        let text = format!(
            "{} records in {} batches, {} syncs, {}",
            n(&w["records"]),
            n(&w["batches"]),
            n(&w["syncs"]),
            b(&w["bytes"])
        );
        out.line(&format!("{:<11} {text}", "written"))?;
    }
    for name in ["objects", "versions"].iter().filter(|name| known(&status[**name])) {
        out.line(&format!("{name:<11} {}", s(&status[*name])))?;
    }
    if known(&bytes["present"]) {
        let text = format!(
            "{} live, {} history, {} dead, {} metadata, as of LSN {}",
            b(&bytes["present"]),
            b(&bytes["history"]),
            b(&bytes["dead"]),
            b(&bytes["metadata"]),
            n(&bytes["as_of_lsn"])
        );
        out.line(&format!("{:<11} {text}", "bytes"))?;
    } else if status["state"] == "mounted" {
        out.line(&format!("{:<11} being counted", "bytes"))?;
    }
    print_rest(status, out)
}

fn print_scrub(scrub: &Value, out: &mut Output) -> Outcome<()> {
    let read = |of: &Value| {
        let (segments, bytes) = (of["segments"].as_u64().unwrap_or(0), of["bytes"].as_u64().unwrap_or(0));
        let mut text = format!("{segments} segments, {} read", size(bytes));
        match of["damages"].as_u64().unwrap_or(0) {
            0 => text.push_str(", nothing damaged"),
            n => text.push_str(&format!(", {n} damages")),
        }
        for path in of["files"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            text.push_str(&format!(", {}", path.escape_debug()));
        }
        text
    };
    let mut lines = Vec::new();
    if !scrub["last"].is_null() {
        lines.push(format!(
            "ended {}: {}",
            scrub["last"]["ended"].as_str().unwrap_or("?"),
            read(&scrub["last"])
        ));
    }
    if !scrub["under_way"].is_null() {
        lines.push(format!("under way: {} so far", read(&scrub["under_way"])));
    } else if let Some(next) = scrub["next"].as_str() {
        lines.push(format!("next {next}"));
    } else if scrub["every_seconds"].is_null() && !scrub["rate_bytes"].is_null() {
        lines.push("never by itself".to_owned());
    }
    for (n, line) in lines.iter().enumerate() {
        out.line(&format!("{:<11} {line}", if n == 0 { "scrub" } else { "" }))?;
    }
    Ok(())
}

fn print_rest(status: &Value, out: &mut Output) -> Outcome<()> {
    let known = |at: &Value| !at.is_null();
    let n = |at: &Value| at.as_u64().map_or_else(|| "?".to_owned(), |n| n.to_string());
    let b = |at: &Value| at.as_u64().map_or_else(|| "?".to_owned(), size);
    let s = |at: &Value| at.as_str().unwrap_or("?").chars().filter(|c| !c.is_control()).collect::<String>();
    let (space, index, doing, back) =
        (&status["space"], &status["index"], &status["doing"], &status["recovered"]);
    if known(&space["free_bytes"]) {
        let text = format!("{} free of {} on the disk", b(&space["free_bytes"]), b(&space["total_bytes"]));
        out.line(&format!("{:<11} {text}", "space"))?;
    }
    if known(&index["disk_bytes"]) {
        let mut text = format!("{} on disk, {} rows", b(&index["disk_bytes"]), n(&index["rows"]));
        if known(&index["cache_bytes"]) {
            let more =
                format!("; {} of cache, {} changed", b(&index["cache_bytes"]), b(&index["memory_bytes"]));
            text.push_str(&more);
        }
        out.line(&format!("{:<11} {text}", "index"))?;
    }
    if known(&doing["requests_answered"]) {
        let work = doing["work"].as_array().map_or(&[][..], Vec::as_slice);
        let work: String = work.iter().filter_map(Value::as_str).map(|w| format!(", {w}")).collect();
        let text = format!(
            "{} open files, {} requests answered, {} under way{work}",
            n(&doing["open_files"]),
            n(&doing["requests_answered"]),
            n(&doing["requests_under_way"])
        );
        out.line(&format!("{:<11} {text}", "doing"))?;
    }
    if known(&status["expiry"]["time"]) {
        let mut text = format!("as of {}", status["expiry"]["time"].as_str().unwrap_or("?"));
        if status["expiry"]["suspended"] == true {
            text.push_str("; it waits, since the clock is far ahead of that; if the clock is right: segfs retain confirm");
        }
        out.line(&format!("{:<11} {text}", "expiry"))?;
    }
    print_scrub(&status["scrub"], out)?;
    if known(&status["event"]["text"]) {
        let event = &status["event"];
        let text = format!("{}: {} ({})", s(&event["event"]), s(&event["text"]), s(&event["time"]));
        out.line(&format!("{:<11} {text}", "event"))?;
    }
    if known(&back["records"]) {
        let mut text = format!(
            "{} records, {} interrupted versions",
            n(&back["records"]),
            n(&back["interrupted_versions"])
        );
        if let Some(why) = back["index_rebuilt"].as_str() {
            text.push_str(&format!("; the index was built again: {why}"));
        }
        if back["damages"].as_u64().is_some_and(|n| n > 0) {
            text.push_str(&format!("; {} damaged places", back["damages"]));
        }
        out.line(&format!("{:<11} {text}", "recovered"))?;
    }
    Ok(())
}
