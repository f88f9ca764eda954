//! `segtool segments`.

use std::path::Path;

use segfs::{
    base::{Clock as _, SystemClock},
    console::{DAMAGE, Failure, Output, age, size, time},
    log::{Standing, Surveyed},
    store::inspect::Tally,
};
use serde_json::{Value, json};

use crate::held::{Looked, look};

const HEAD: [&str; 9] = ["SEGMENT", "STATE", "SIZE", "USED", "LIVE", "DEAD", "FIRST LSN", "LAST LSN", "AGE"];
const RIGHT: [bool; 9] = [true, false, true, true, true, true, true, true, true];

/// The word for a state.
pub fn word(s: Standing) -> &'static str {
    match s {
        Standing::Active => "active",
        Standing::Sealed => "sealed",
        Standing::Cut => "cut",
        Standing::Damaged => "damaged",
        Standing::Unreached => "unreached",
    }
}

/// The LSNs in a segment, if it holds any.
fn lsns(s: &Surveyed) -> Option<(u64, u64)> {
    let first = s.header.as_ref()?.first_lsn.get();
    Some((first, s.last_lsn?.get())).filter(|(a, b)| a <= b)
}

fn value(s: &Surveyed, tally: Option<&Tally>) -> Value {
    let created = s.header.as_ref().map(|h| h.created_ns);
    json!({
        "id": s.id.get(),
        "state": word(s.standing),
        "size_bytes": s.file_bytes,
        "used_bytes": s.used_bytes,
        "live_bytes": tally.map(Tally::live_bytes),
        "dead_bytes": tally.map(|t| t.dead_bytes),
        "first_lsn": lsns(s).map(|l| l.0),
        "last_lsn": lsns(s).map(|l| l.1),
        "created": created.map(time),
        "created_ns": created,
        "wrong": s.wrong,
    })
}

/// Lists the segments.
pub fn run(store: &Path, out: &mut Output) -> Result<(), Failure> {
    let Looked { inspection, census, .. } = look(store, false, out.json)?;
    let log = inspection.log();
    let tally = |s: &Surveyed| census.segments.get(&s.id).filter(|_| census.liveness);
    if out.json {
        let segments: Vec<Value> = log.segments.iter().map(|s| value(s, tally(s))).collect();
        out.value(&json!({
            "store": inspection.id().to_string(),
            "in_use": inspection.holder().is_some(),
            "last_lsn": log.last_lsn().get(),
            "segments": segments,
        }))?;
    } else {
        let now = SystemClock.wall_ns();
        let row = |s: &Surveyed| {
            let known = |f: fn(&Tally) -> u64| tally(s).map_or("unknown".into(), |t| size(f(t)));
            let lsn = |f: fn((u64, u64)) -> u64| lsns(s).map_or("-".into(), |l| f(l).to_string());
            vec![
                s.id.to_string(),
                word(s.standing).into(),
                size(s.file_bytes),
                size(s.used_bytes),
                known(Tally::live_bytes),
                known(|t| t.dead_bytes),
                lsn(|l| l.0),
                lsn(|l| l.1),
                s.header.as_ref().map_or("-".into(), |h| age(now, h.created_ns)),
            ]
        };
        let rows: Vec<_> = log.segments.iter().map(row).collect();
        out.table(&HEAD, &RIGHT, &rows)?;
        if !census.liveness {
            let why =
                if inspection.holder().is_some() { "the store is in use" } else { "the log is damaged" };
            out.line(&format!("LIVE and DEAD are unknown: {why}."))?;
        }
    }
    match log.segments.iter().find(|s| s.standing == Standing::Damaged) {
        None => Ok(()),
        Some(s) => Err(Failure::new(
            DAMAGE,
            format!("segment {} is damaged", s.id),
            s.wrong.clone().unwrap_or_default(),
            format!("segtool verify {}", store.display()),
        )),
    }
}
