//! `segfs purge`. The name goes through the mount, so that the kernel's permissions decide; the versions and the bytes
//! through its control socket, for its owner and root.

use std::path::{Path, PathBuf};

use segfs::{
    console::{Failure, Outcome, Output, PARTLY},
    serve::space::{self, Purging},
};
use serde_json::{Value, json};

use super::target::Target;

/// The path, and the version that stands behind it, unless a file is really called so.
fn parts(path: &Path, is_there: bool) -> (PathBuf, Option<String>) {
    let text = path.to_string_lossy();
    match text.rsplit_once('@') {
        Some((file, version)) if !is_there && !file.is_empty() => (file.into(), Some(version.to_owned())),
        _ => (path.to_owned(), None),
    }
}

/// Removes a file, or a version.
pub fn run(path: &Path, wait: bool, store: Option<&Path>, out: &mut Output) -> Outcome<()> {
    let is_there = store.is_none() && path.symlink_metadata().is_ok();
    let (file, version) = parts(path, is_there);
    let what = format!("{} can't be purged", path.display());
    let (target, inside) = match store {
        Some(store) => (Target::find(store, &what)?, format!("/{}", file.display())),
        None => match Target::find(&file, &what)? {
            Target::Mounted { store, path } => (Target::Mounted { store, path: path.clone() }, path),
            Target::Closed(_) => {
                let why = "it is a store";
                return Err(Failure::usage(what, why, "segfs purge --store STORE PATH"));
            }
        },
    };
    let purging = Purging { path: inside.clone(), version: version.clone() };
    let done = match &target {
        Target::Mounted { .. } => mounted(&target, &purging, &file, wait, out.json)?,
        Target::Closed(_) => target.run("purging", out.json, &Value::Null, |store, told| {
            let mut done = json!({"path": inside, "version": version});
            let step = if purging.version.is_some() {
                space::purge_version(store, &purging)?
            } else {
                let plan = space::plan_purge(store, &purging)?;
                if plan["present"] == true {
                    space::unlink(store, &purging)?;
                }
                let gone = space::purge_objects(store, &numbers(&plan["objects"]))?;
                merge(plan, gone)
            };
            done = merge(done, step);
            if wait {
                done = merge(done.clone(), space::erase(store, &purging, &numbers(&done["objects"]), told)?);
            }
            Ok(done)
        })?,
    };
    tell(&done, wait, out)
}

fn mounted(target: &Target, purging: &Purging, file: &Path, wait: bool, json: bool) -> Outcome<Value> {
    let ask = |more: Value| {
        let request = merge(json!({"request": "purge", "path": purging.path}), more);
        target.run("purging", json, &request, |_, _| Ok(Value::Null))
    };
    let mut done = json!({"path": purging.path, "version": purging.version});
    if let Some(version) = &purging.version {
        done = merge(done, ask(json!({ "version": version }))?);
    } else {
        let plan = ask(json!({}))?;
        if plan["present"] == true {
            #[allow(clippy::disallowed_methods)] // the edge
            std::fs::remove_file(file)
                .map_err(|e| Failure::system(format!("{} can't be purged", file.display()), &e))?;
        }
        let gone = ask(json!({"objects": plan["objects"]}))?;
        done = merge(merge(done, plan), gone);
    }
    if wait {
        let erased = ask(json!({"objects": done["objects"], "erase": true}))?;
        done = merge(done, erased);
    }
    Ok(done)
}

fn numbers(v: &Value) -> Vec<u64> {
    v.as_array().into_iter().flatten().filter_map(Value::as_u64).collect()
}

fn merge(mut a: Value, b: Value) -> Value {
    if let (Value::Object(a), Value::Object(b)) = (&mut a, b) {
        a.extend(b);
    }
    a
}

fn tell(done: &Value, wait: bool, out: &mut Output) -> Outcome<()> {
    let n = |field: &str| done[field].as_u64().unwrap_or(0);
    if out.json {
        let shown = json!({
            "path": done["path"],
            "version": done["version"],
            "versions": n("versions"),
            "left": n("left"),
            "named_elsewhere": n("named_elsewhere"),
            "erased_segments": done["erased_segments"],
        });
        out.value(&shown)?;
    } else {
        out.line(&format!("{} versions are gone", n("versions")))?;
        if n("named_elsewhere") > 0 {
            out.line(&format!(
                "{} files that once had this name have another one, and stay",
                n("named_elsewhere")
            ))?;
        }
        let bytes = if wait {
            "so are their bytes"
        } else {
            "their bytes go when the log is cleaned; --wait waits for that"
        };
        out.line(bytes)?;
    }
    if n("left") == 0 {
        return Ok(());
    }
    Err(Failure::new(
        PARTLY,
        format!("{} could not be purged as a whole", done["path"].as_str().unwrap_or_default()),
        format!("{} versions have to stay: the file is open, or another store has it", n("left")),
        "close what has it open, and run it again",
    ))
}
