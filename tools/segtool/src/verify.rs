//! `segtool verify`.

use std::path::Path;

use segfs::{
    base::{Damage, Error},
    console::{DAMAGE, Failure, Output, Progress, damage},
    log::{Reach, Standing, Surveyed},
    segment::Report,
    store::inspect::{HashCheck, Inspection},
};
use serde_json::{Value, json};

use crate::{
    held,
    index::{self, Checked},
    segments::word,
};

#[derive(Default)]
struct Findings {
    damages: Vec<Damage>,
    /// The log could not be replayed, so content was not checked.
    unread: bool,
    /// What is worth knowing and no damage.
    notes: Vec<String>,
    segments: Vec<Value>,
    records: u64,
}

/// What was found in all.
struct Looked {
    inspection: Inspection,
    findings: Findings,
    index: Checked,
    hashes: Option<HashCheck>,
}

impl Looked {
    fn is_trouble(&self) -> bool {
        !self.findings.damages.is_empty() || self.findings.unread || self.index.is_trouble()
    }
}

fn look(store: &Path, reach: Reach, deep: bool, as_json: bool) -> Result<Looked, Failure> {
    let of = |e| Failure::of_store(&e, store);
    let (inspection, told) = index::open(store, reach, as_json)?;
    let mut f = Findings::default();
    for why in &inspection.superblock_damage {
        f.damages.push(Damage::file(store.join("STORE"), 0, why.clone()));
    }
    check_log(&inspection, &mut f, as_json).map_err(of)?;
    let index = Checked::new(&inspection, told.as_ref(), as_json);
    let hashes = check_content(&inspection, deep, &mut f, as_json).map_err(of)?;
    Ok(Looked { inspection, findings: f, index, hashes })
}

/// Checks a store.
pub fn run(store: &Path, deep: bool, out: &mut Output) -> Result<(), Failure> {
    let Looked { inspection, findings: f, index, hashes } =
        held::steadily(store, |reach| look(store, reach, deep, out.json), Looked::is_trouble)?;
    let failure = failure(&f, &index, store);
    if out.json {
        out.value(&json!({
            "store": inspection.id().to_string(),
            "ok": failure.is_none(),
            "in_use": inspection.holder().is_some(),
            "last_lsn": inspection.log().last_lsn().get(),
            "durable_lsn": inspection.log().recovery.durable_mark.get(),
            "segments": f.segments,
            "records": f.records,
            "index": index.value(),
            "hashes": hashes.map(|h| json!({"checked": h.checked, "unknown": h.unknown})),
            "notes": f.notes,
            "damages": f.damages.iter().map(damage).collect::<Vec<_>>(),
        }))?;
    } else {
        print(&inspection, &f, &index, hashes.as_ref(), out)?;
    }
    failure.map_or(Ok(()), Err)
}

fn print(
    inspection: &Inspection,
    f: &Findings,
    index: &Checked,
    hashes: Option<&HashCheck>,
    out: &mut Output,
) -> Result<(), Failure> {
    let log = inspection.log();
    out.line(&format!(
        "log: {} segments, {} records, up to LSN {}",
        f.segments.len(),
        f.records,
        log.last_lsn()
    ))?;
    for line in index.lines() {
        out.line(&line)?;
    }
    if let Some(h) = hashes {
        out.line(&format!("hashes: {} versions checked, of {} the hash is not known", h.checked, h.unknown))?;
    }
    for note in &f.notes {
        out.line(&format!("note: {note}"))?;
    }
    for d in &f.damages {
        out.line(&d.to_string())?;
    }
    if f.damages.is_empty() {
        out.line("no damage found in the log")?;
    }
    Ok(())
}

fn failure(f: &Findings, index: &Checked, store: &Path) -> Option<Failure> {
    let Some(first) = f.damages.first() else { return index.failure(store) };
    let next = match (&first.place.segment, &first.place.file) {
        (Some(_), _) if first.why.contains("another store") => {
            format!("move the file out of {}/segments", store.display())
        }
        (None, Some(file)) if file.ends_with("STORE") => {
            "open the store for writing once (`segfs mount`): that mends the damaged copy".into()
        }
        _ => "restore the damaged files from a copy of the store".into(),
    };
    let what = match f.damages.len() {
        1 => "damage found in one place".into(),
        n => format!("damage found in {n} places"),
    };
    Some(Failure::new(DAMAGE, what, first.to_string(), next))
}

fn check_log(inspection: &Inspection, f: &mut Findings, as_json: bool) -> Result<(), Error> {
    let log = inspection.log();
    let progress = Progress::new("checking segments", as_json);
    let total: u64 = log.segments.iter().map(|s| s.used_bytes).sum();
    let mut done = 0;
    for s in &log.segments {
        progress.tell(done, total);
        match log.verify(s)? {
            None => f.notes.push(format!("segment {} was retired while we looked", s.id)),
            Some(report) => segment(s, report, f),
        }
        done += s.used_bytes;
    }
    // What finding the end of the log came upon; most of it was found again above.
    for d in &log.recovery.damages {
        if !f.damages.iter().any(|k| (k.place.segment, k.place.offset) == (d.place.segment, d.place.offset)) {
            f.damages.push(d.clone());
        }
    }
    let (mark, last) = (log.recovery.durable_mark, log.last_lsn());
    if mark > last {
        let why = format!("records up to LSN {mark} were durable, but the log ends at {last}");
        f.damages.push(Damage::file("segments", 0, why));
    }
    if log.recovery.torn_bytes > 0 && inspection.holder().is_none() {
        f.notes.push(format!(
            "{} bytes behind the end of the log were begun and never acknowledged",
            log.recovery.torn_bytes
        ));
    }
    for (missing, named_by) in log.missing() {
        f.notes.push(format!("segment {missing}, which segment {named_by} follows, is not there any more"));
    }
    for name in &log.strangers {
        let name = name.escape_debug();
        f.notes.push(format!("segments/{name} is not a segment; nothing reads it, it can be removed"));
    }
    Ok(())
}

fn segment(s: &Surveyed, report: Report, f: &mut Findings) {
    f.records += report.records;
    f.segments.push(json!({
        "id": s.id.get(),
        "state": word(if report.damages.is_empty() { s.standing } else { Standing::Damaged }),
        "used_bytes": s.used_bytes,
        "batches": report.batches,
        "records": report.records,
        "payload_bytes": report.payload_bytes,
        "damages": report.damages.len(),
    }));
    if s.standing == Standing::Unreached {
        let why = s.wrong.as_deref().unwrap_or("it lies behind the end of the log");
        f.notes.push(format!("segment {} is not part of the log: {why}", s.id));
    }
    f.damages.extend(report.damages);
}

/// What rows say of content: that its extents are there, and with `deep` its hashes.
fn check_content(
    inspection: &Inspection,
    deep: bool,
    f: &mut Findings,
    as_json: bool,
) -> Result<Option<HashCheck>, Error> {
    let progress = Progress::new(if deep { "checking hashes" } else { "checking extents" }, as_json);
    let tell = |a, b| progress.tell(a, b);
    let rows = match inspection.rows(&tell) {
        Ok(Some(rows)) => rows,
        Ok(None) => {
            f.notes.push("content was not checked: the store is in use, and too big to replay".into());
            return Ok(None);
        }
        Err(Error::Damaged(d)) => {
            f.unread = true;
            f.notes.push(format!("content was not checked, the log can't be replayed: {d}"));
            return Ok(None);
        }
        Err(e) => return Err(e),
    };
    // While somebody writes, an extent may be moved between two looks.
    if inspection.holder().is_none() {
        let census = inspection.census(Some(rows.index()), &tell)?;
        if census.lost > census.lost_at.len() as u64 {
            f.notes.push(format!("{} extents are not there; the first of them are listed", census.lost));
        }
        f.damages.extend(census.lost_at);
    }
    if !deep {
        return Ok(None);
    }
    let check = inspection.check_hashes(rows.index(), &tell)?;
    f.damages.extend(check.damages.iter().cloned());
    Ok(Some(check))
}
