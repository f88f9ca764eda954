//! `segfs purge`. The name goes through the mount, so that the kernel's permissions decide; the versions and the bytes
//! through its control socket, for its owner and root.

use std::path::{Component, Path, PathBuf};

use segfs::{
    console::{Failure, Outcome, Output, PARTLY},
    serve::{
        space::{self, Purging},
        version::path_value,
    },
    store::Store,
};
use serde_json::{Value, json};

use super::{
    history::{Base, named, split, split_by},
    target::Target,
};

/// Removes a file, or a version.
pub fn run(
    path: &Path,
    version: Option<&str>,
    wait: bool,
    store: Option<&Path>,
    out: &mut Output,
) -> Outcome<()> {
    let shown = path.display().to_string();
    let what = format!("{shown} can't be purged");
    let done = match store {
        None => {
            let (file, version) = match version {
                Some(v) => (path.to_owned(), Some(v.to_owned())),
                None => split(&Base::new(None)?, path),
            };
            let target = Target::name(&file, &what)?;
            let purging = purging(target.path().to_vec(), &file, version.as_deref(), shown)?;
            mounted(&target, &purging, &file, wait, out.json)?
        }
        Some(store) => {
            Target::store(store, &what)?.run("purging", out.json, &Value::Null, |store, told| {
                let (file, version) = match version {
                    Some(v) => (path.to_owned(), Some(v.to_owned())),
                    None => split_in(store, path),
                };
                let purging =
                    purging(from_the_root(&file, &what)?, &file, version.as_deref(), shown.clone())?;
                closed(store, &purging, wait, told)
            })?
        }
    };
    tell(&done, wait, out)
}

fn purging(path: Vec<u8>, file: &Path, version: Option<&str>, shown: String) -> Outcome<Purging> {
    let version = version.map(|v| named(file, v)).transpose()?;
    Ok(Purging { path, version: version.map(|name| name.value()), shown })
}

/// A path in a store that nobody has mounted, from its root.
fn from_the_root(path: &Path, what: &str) -> Outcome<Vec<u8>> {
    if path.components().any(|c| c == Component::ParentDir) {
        let next = "name the path from the root of the store";
        return Err(Failure::usage(what, ".. stands for nothing in a store that is not mounted", next));
    }
    let below: PathBuf = path.components().filter(|c| matches!(c, Component::Normal(_))).collect();
    Ok(Path::new("/").join(below).into_os_string().into_encoded_bytes())
}

/// Splits `PATH@V` in a store that nobody has mounted.
fn split_in(store: &Store, path: &Path) -> (PathBuf, Option<String>) {
    let is_there = |path: &Path| from_the_root(path, "").is_ok_and(|p| store.find_path(&p).is_ok());
    let has_history = |path: &Path| {
        let name = path.file_name().map(|n| n.as_encoded_bytes().to_vec()).unwrap_or_default();
        let dir = from_the_root(path.parent().unwrap_or(Path::new("")), "");
        let dir = dir.ok().and_then(|dir| store.find_path(&dir).ok());
        dir.is_some_and(|dir| matches!(store.view().history(dir, &name), Ok(Some(_))))
    };
    split_by(path, &is_there, &has_history)
}

/// What a purge is told of, with what was asked for.
fn asked(purging: &Purging) -> Value {
    json!({"path": String::from_utf8_lossy(&purging.path), "version": purging.version})
}

fn closed(
    store: &Store,
    purging: &Purging,
    wait: bool,
    told: segfs::store::inspect::Progress<'_>,
) -> Outcome<Value> {
    let step = if purging.version.is_some() {
        space::purge_version(store, purging)?
    } else {
        let plan = space::plan_purge(store, purging)?;
        if plan["present"] == true {
            space::unlink(store, purging)?;
        }
        let gone = space::purge_objects(store, &numbers(&plan["objects"]))?;
        merge(plan, gone)
    };
    let mut done = merge(asked(purging), step);
    if wait {
        done = merge(done.clone(), space::erase(store, purging, &numbers(&done["objects"]), told)?);
    }
    Ok(done)
}

fn mounted(target: &Target, purging: &Purging, file: &Path, wait: bool, json: bool) -> Outcome<Value> {
    let ask = |more: Value| {
        let path = path_value(&purging.path);
        let request = merge(json!({"request": "purge", "path": path, "shown": purging.shown}), more);
        target.run("purging", json, &request, |_, _| Ok(Value::Null))
    };
    let mut done = asked(purging);
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
            "version": done["id"],
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
