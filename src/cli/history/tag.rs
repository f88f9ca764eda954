//! `segfs tag`.

use std::{fs, path::PathBuf};

use clap::Subcommand;
use segfs::{
    base::{Error, FsError},
    console::{Output, time},
    store::{Options, Store, Tag},
};
use serde_json::json;

use super::{
    super::failure::{Failure, NOT_FOUND, Outcome},
    list::text,
};

/// What to do with tags.
#[derive(Subcommand)]
pub enum TagCommand {
    /// Name this moment of an unmounted store.
    Add {
        /// The name.
        name: String,
        /// The store.
        #[arg(long)]
        store: PathBuf,
    },
    /// List the tags of a mount, or of an unmounted store.
    List {
        /// A directory in a mount.
        #[arg(default_value = ".")]
        dir: PathBuf,
        /// The store, instead.
        #[arg(long)]
        store: Option<PathBuf>,
    },
    /// Take a name away from its moment; nothing else changes.
    Rm {
        /// The name.
        name: String,
        /// The store.
        #[arg(long)]
        store: PathBuf,
    },
}

/// Adds, lists or removes tags.
pub fn run(what: &TagCommand, as_json: bool) -> Outcome<()> {
    match what {
        TagCommand::Add { name, store } => set(store, name, true, as_json),
        TagCommand::Rm { name, store } => set(store, name, false, as_json),
        TagCommand::List { dir: _, store: Some(path) } => {
            let failed = |e: Error| Failure::of_store(&e, path);
            let store = Store::open(path, Options::default()).map_err(failed)?;
            let tags = store.view().tags().map_err(failed)?;
            store.close().map_err(failed)?;
            list(&tags, as_json)
        }
        TagCommand::List { dir, store: None } => {
            let what = format!("the tags of {} can't be read", dir.display());
            let entries = fs::read_dir(dir.join(".segfs/tags")).map_err(|e| match e.kind() {
                std::io::ErrorKind::NotFound => Failure::usage(
                    &what,
                    "it is not a directory in a mount of segfs that shows history",
                    "segfs status; or segfs tag list --store STORE for an unmounted one",
                ),
                _ => Failure::system(&what, &e),
            })?;
            let mut tags = Vec::new();
            for entry in entries.flatten() {
                let target = fs::read_link(entry.path()).unwrap_or_default();
                let moment = target.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
                if let Some(moment_ns) = segfs::vfs::parse_moment(&moment, 0) {
                    tags.push(Tag { name: entry.file_name().into_encoded_bytes(), moment_ns });
                }
            }
            tags.sort_by(|a, b| a.name.cmp(&b.name));
            list(&tags, as_json)
        }
    }
}

fn set(path: &std::path::Path, name: &str, on: bool, as_json: bool) -> Outcome<()> {
    let failed = |e: Error| Failure::of_store(&e, path);
    let store = Store::open(path, Options::default()).map_err(failed)?;
    let there = store.view().tag(name.as_bytes()).map_err(failed)?;
    let what = format!("the tag \"{name}\" can't be {}", if on { "added" } else { "removed" });
    if on && there.is_some() {
        let _ = store.close();
        let next = format!("segfs tag rm --store {} {name}, or choose another name", path.display());
        return Err(Failure::usage(what, "there is one of this name already", next));
    }
    if !on && there.is_none() {
        let _ = store.close();
        let next = format!("segfs tag list --store {}", path.display());
        return Err(Failure::new(NOT_FOUND, what, "there is none of this name", next));
    }
    if let Err(e) = store.tag(name.as_bytes(), on) {
        let _ = store.close();
        return Err(match e {
            Error::Fs(FsError::Invalid | FsError::NameTooLong) => {
                Failure::usage(what, "a tag is named like a file", "choose another name")
            }
            e => failed(e),
        });
    }
    let tag = store.view().tag(name.as_bytes()).map_err(failed)?;
    store.close().map_err(failed)?;
    if as_json && let Some(tag) = tag {
        return list(&[tag], true);
    }
    Ok(())
}

fn list(tags: &[Tag], as_json: bool) -> Outcome<()> {
    let mut out = Output::new(as_json);
    let name = |t: &Tag| text(std::os::unix::ffi::OsStrExt::from_bytes(&t.name[..]));
    if as_json {
        let all: Vec<_> = tags
            .iter()
            .map(|t| json!({"name": name(t), "moment": time(t.moment_ns), "moment_ns": t.moment_ns}))
            .collect();
        out.value(&json!({"tags": all}))?;
    } else {
        let rows: Vec<_> = tags.iter().map(|t| vec![time(t.moment_ns), name(t)]).collect();
        out.table(&["MOMENT", "TAG"], &[false, false], &rows)?;
    }
    out.finish()
}
