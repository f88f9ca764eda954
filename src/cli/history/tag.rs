//! `segfs tag`.

use std::{
    fs,
    path::{Path, PathBuf},
};

use clap::Subcommand;
use segfs::{
    base::{Error, FsError},
    console::{Output, time},
    store::{Options, Tag},
};
use serde_json::json;

use super::{
    super::{
        failure::{Failure, NOT_FOUND, Outcome},
        open,
    },
    list::text,
    operator,
};

/// What to do with tags.
#[derive(Subcommand)]
pub enum TagCommand {
    /// Name this moment of the whole store.
    #[command(
        after_help = "Examples:\n  segfs tag add before-upgrade ~/mnt\n  segfs tag add --store ./store before-upgrade"
    )]
    Add {
        /// The name.
        name: String,
        /// A directory in the mount.
        #[arg(default_value = ".")]
        dir: PathBuf,
        /// A store that nobody has mounted, instead.
        #[arg(long)]
        store: Option<PathBuf>,
    },
    /// List the tags of a mount, or of an unmounted store.
    #[command(after_help = "Examples:\n  segfs tag list ~/mnt\n  segfs tag list --json --store ./store")]
    List {
        /// A directory in a mount.
        #[arg(default_value = ".")]
        dir: PathBuf,
        /// The store, instead.
        #[arg(long)]
        store: Option<PathBuf>,
    },
    /// Take a name away from its moment; nothing else changes.
    #[command(
        after_help = "Examples:\n  segfs tag rm before-upgrade ~/mnt\n  segfs tag rm --store ./store before-upgrade"
    )]
    Rm {
        /// The name.
        name: String,
        /// A directory in the mount.
        #[arg(default_value = ".")]
        dir: PathBuf,
        /// A store that nobody has mounted, instead.
        #[arg(long)]
        store: Option<PathBuf>,
    },
}

/// Adds, lists or removes tags.
pub fn run(what: &TagCommand, as_json: bool) -> Outcome<()> {
    match what {
        TagCommand::Add { name, store: Some(store), .. } => set(store, name, true, as_json),
        TagCommand::Rm { name, store: Some(store), .. } => set(store, name, false, as_json),
        TagCommand::Add { name, dir, store: None } => ask(dir, name, true, as_json),
        TagCommand::Rm { name, dir, store: None } => ask(dir, name, false, as_json),
        TagCommand::List { dir: _, store: Some(path) } => {
            let failed = |e: Error| Failure::of_store(&e, path);
            let store = open(path, Options::default(), &|_, _| {})?.store;
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

/// Through the mount, whose owner and root may ask it.
fn ask(dir: &Path, name: &str, on: bool, as_json: bool) -> Outcome<()> {
    let what = format!("the tag \"{name}\" can't be {}", if on { "added" } else { "removed" });
    let request = json!({"request": "tag", "name": name, "on": on});
    let answer = operator::ask(&operator::mount_around(dir, &what)?, &request, &what)?;
    match (as_json, answer["moment_ns"].as_u64()) {
        (true, Some(moment_ns)) => list(&[Tag { name: name.into(), moment_ns }], true),
        _ => Ok(()),
    }
}

fn set(path: &Path, name: &str, on: bool, as_json: bool) -> Outcome<()> {
    let failed = |e: Error| Failure::of_store(&e, path);
    let store = open(path, Options::default(), &|_, _| {})?.store;
    let done = store.set_tag(name.as_bytes(), on);
    let closed = store.close();
    let what = format!("the tag \"{name}\" can't be {}", if on { "added" } else { "removed" });
    let look = format!("segfs tag list --store {}", path.display());
    let tag = done.map_err(|e| match e {
        Error::Fs(FsError::Exists) => Failure::usage(
            what,
            "there is one of this name already",
            format!("{look}, and choose another name"),
        ),
        Error::Fs(FsError::NotFound) => Failure::new(NOT_FOUND, what, "there is none of this name", look),
        Error::Fs(FsError::Invalid | FsError::NameTooLong) => {
            Failure::usage(what, "a tag is named like a file", "choose another name")
        }
        e => failed(e),
    })?;
    closed.map_err(failed)?;
    match tag {
        Some(tag) if as_json => list(&[tag], true),
        _ => Ok(()),
    }
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
