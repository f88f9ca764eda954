//! `segfs status`.

use std::path::Path;

use serde_json::{Value, json};

use super::{
    failure::{Failure, NOT_FOUND, Outcome},
    mounts::{self, Mounted},
};

/// Shows one mount or store, or all mounts.
pub fn run(at: Option<&Path>, as_json: bool) -> Outcome<()> {
    let found: Vec<Value> = match at {
        None => mounts::all().iter().map(|m| mount_status(m)).collect(),
        Some(path) => vec![one(path)?],
    };
    if as_json {
        let all = Value::Array(found);
        println!("{}", if at.is_some() { &all[0] } else { &all });
        return Ok(());
    }
    if found.is_empty() {
        println!("no segfs is mounted; mount one: segfs mount STORE DIR");
    }
    for status in found {
        let Value::Object(fields) = status else { continue };
        for (name, value) in fields {
            let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            println!("{name:>14}  {text}");
        }
        println!();
    }
    Ok(())
}

fn one(path: &Path) -> Outcome<Value> {
    if let Some(m) = mounts::on(path) {
        return Ok(mount_status(&m));
    }
    if path.join("STORE").is_file() {
        return Ok(mounts::of_store(path).map_or_else(|| store_status(path), |m| mount_status(&m)));
    }
    let what = format!("{} has no status", path.display());
    Err(Failure::new(NOT_FOUND, what, "it is neither a mount of segfs nor a store", "segfs status"))
}

fn mount_status(m: &Mounted) -> Value {
    let mut status = json!({
        "mountpoint": m.dir,
        "state": if mounts::is_dead(&m.dir) { "dead" } else { "mounted" },
        "read_only": m.read_only,
    });
    add(&mut status, store_status(&m.store));
    status
}

fn store_status(store: &Path) -> Value {
    let holder = std::fs::read_to_string(store.join("LOCK")).unwrap_or_default();
    let (mut segments, mut bytes) = (0_u64, 0_u64);
    for entry in std::fs::read_dir(store.join("segments")).into_iter().flatten().flatten() {
        segments += 1;
        bytes += entry.metadata().map_or(0, |m| m.len());
    }
    let mut status = json!({
        "store": mounts::absolute(store),
        "used_by": holder.trim(),
        "segments": segments,
        "segment_bytes": bytes,
    });
    if let Ok(space) = rustix::fs::statvfs(store) {
        let free = space.f_bavail.saturating_mul(space.f_frsize);
        let total = space.f_blocks.saturating_mul(space.f_frsize);
        add(&mut status, json!({"disk_free_bytes": free, "disk_total_bytes": total}));
    }
    status
}

fn add(to: &mut Value, more: Value) {
    if let (Value::Object(to), Value::Object(more)) = (to, more) {
        to.extend(more);
    }
}
