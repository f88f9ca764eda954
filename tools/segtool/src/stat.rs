//! `segtool stat`.

use std::{fs, path::Path};

use segfs::{
    console::{Failure, Output, size, time},
    log::Standing,
};
use serde_json::json;

use crate::{
    held::{Looked, look},
    segments::word,
};

/// Bytes of all files below a directory; unreadable ones count nothing.
fn bytes_below(path: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(path) else { return 0 };
    let of = |e: fs::DirEntry| match e.file_type() {
        Ok(t) if t.is_dir() => bytes_below(&e.path()),
        Ok(_) => e.metadata().map_or(0, |m| m.len()),
        Err(_) => 0,
    };
    entries.flatten().map(of).sum()
}

/// Sums up a store.
pub fn run(store: &Path, out: &mut Output) -> Result<(), Failure> {
    let Looked { inspection, census, index_bytes: told } = look(store, true, out.json)?;
    let (log, sb, t) = (inspection.log(), inspection.superblock(), census.total);
    let held = inspection.holder().is_some();
    let used: u64 = log.segments.iter().map(|s| s.used_bytes).sum();
    let files: u64 = log.segments.iter().map(|s| s.file_bytes).sum();
    let overhead = used.saturating_sub(t.live_bytes() + t.dead_bytes);
    let index_bytes = if held { told } else { Some(bytes_below(&store.join("index"))) };
    let states = [Standing::Active, Standing::Sealed, Standing::Cut, Standing::Damaged, Standing::Unreached]
        .map(|s| (word(s), log.segments.iter().filter(|x| x.standing == s).count()));
    let known = |n: u64| census.liveness.then_some(n);
    let objects = census.meta.as_ref().map(|m| m.objects);
    let versions = census.meta.as_ref().map(|m| m.versions);
    if out.json {
        return out.value(&json!({
            "store": inspection.id().to_string(),
            "path": store.display().to_string(),
            "format_version": sb.version,
            "created": time(sb.created_ns),
            "created_ns": sb.created_ns,
            "segment_bytes": sb.segment_bytes,
            "in_use": held,
            "holder": inspection.holder(),
            "log": {
                "last_lsn": log.last_lsn().get(),
                "file_bytes": files,
                "used_bytes": used,
                "segments": states.iter().map(|(w, n)| ((*w).to_owned(), json!(n))).collect::<serde_json::Map<_, _>>(),
            },
            "records": {"extent": t.extents, "operation": t.operations, "base": t.bases},
            "bytes": {
                "present": known(t.present_bytes),
                "history": known(t.history_bytes),
                "dead": known(t.dead_bytes),
                "metadata": t.metadata_bytes,
                "overhead": known(overhead),
            },
            "objects": objects,
            "versions": versions,
            "index": {"bytes": index_bytes, "rows": known(census.rows)},
        }));
    }
    let number = |n: Option<u64>| n.map_or("unknown".into(), |n: u64| n.to_string());
    let bytes = |n: u64| if census.liveness { size(n) } else { "unknown (store is in use)".into() };
    let segments: Vec<String> =
        states.iter().filter(|(_, n)| *n > 0).map(|(word, n)| format!("{n} {word}")).collect();
    let lines = [
        ("store", inspection.id().to_string()),
        ("format", format!("version {}, made {}", sb.version, time(sb.created_ns))),
        (
            "in use",
            inspection.holder().map_or("no".into(), |h| format!("by {h}; read up to its durable mark")),
        ),
        ("segments", format!("{} of {}", segments.join(", "), size(sb.segment_bytes))),
        ("log", format!("{} used of {}, up to LSN {}", size(used), size(files), log.last_lsn())),
        ("records", format!("{} extents, {} operations, {} bases", t.extents, t.operations, t.bases)),
        ("objects", number(objects)),
        ("versions", number(versions)),
        ("live", bytes(t.present_bytes)),
        ("history", bytes(t.history_bytes)),
        ("dead", bytes(t.dead_bytes)),
        ("metadata", size(t.metadata_bytes)),
        ("overhead", bytes(overhead)),
        ("index", index_bytes.map_or("unknown (store is in use)".into(), size)),
    ];
    for (name, text) in lines {
        out.line(&format!("{name:<10}{text}"))?;
    }
    Ok(())
}
