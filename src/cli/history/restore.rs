//! `segfs restore` and `segfs undelete`.
//!
//! What is restored is built beside its place and then renamed onto it, so that nobody ever sees half of it, and
//! what was there before is a version like any other.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use clap::Args;
use segfs::console::{Output, size, time};
use serde_json::{Value, json};

use super::{
    super::failure::{Failure, IN_USE, NOT_FOUND, Outcome},
    StoreArg,
    list::{path_text, text},
    place::{Base, Place, attribute, now_ns},
    show::resolve,
    tree::{Copier, beside, discard, entries, exchange, rename_new, replace, unchanged},
    versions::{Found, newest, split},
};

/// What to bring back.
#[derive(Args)]
pub struct RestoreArgs {
    /// A file and a version of it, or a directory and a moment: docs@yesterday, report.txt@3.
    #[arg(value_name = "PATH@V")]
    path: PathBuf,
    /// The version or moment, where PATH is to be taken as it is.
    #[arg(long, value_name = "V", allow_hyphen_values = true)]
    version: Option<String>,
    /// Where to put it, instead of where it was.
    #[arg(long, value_name = "PATH")]
    to: Option<PathBuf>,
    /// Only say what would be done.
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    pub(super) store: StoreArg,
}

/// Brings something back.
pub fn run(base: &Base, args: &RestoreArgs, json: bool) -> Outcome<()> {
    if args.version.is_none() && split(base, &args.path).1.is_none() {
        let shown = args.path.display();
        let why = "no version is named, and it is not clear which one is meant";
        let next = format!("segfs restore {shown}@-1; all versions: segfs log {shown}");
        return Err(Failure::usage(format!("{shown} can't be restored"), why, next));
    }
    let (file, found) = resolve(base, &args.path, args.version.as_deref())?;
    let shown = args.to.as_ref().unwrap_or(&file);
    let target = Target::new(base, shown, &found)?;
    if unversioned(&found.path) {
        let why = "it had no version then: it was empty, or lay where none are made";
        return Err(Failure::new(NOT_FOUND, target.what, why, format!("segfs log {}", file.display())));
    }
    if args.dry_run {
        return target.dry_run(&found, json);
    }
    target.carry_out(&found, json)
}

/// Brings back a file that was deleted.
pub fn undelete(base: &Base, path: &Path, json: bool) -> Outcome<()> {
    let place = Place::new(base, path)?;
    let what = format!("{} can't be undeleted", path.display());
    if fs::symlink_metadata(place.live()).is_ok() {
        let next = format!("segfs log {0}; segfs restore {0}@-1", path.display());
        return Err(Failure::usage(what, "it is there", next));
    }
    let source = place.history("deleted").join(&place.name);
    if let Err(e) = fs::symlink_metadata(&source) {
        if e.kind() != io::ErrorKind::NotFound {
            return Err(Failure::system(what, &e));
        }
        let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let why = "no file of this name was deleted there; a directory is brought back as of a moment";
        let next = format!("segfs log --deleted {}; segfs restore {}@2h", parent.display(), path.display());
        return Err(Failure::new(NOT_FOUND, what, why, next));
    }
    if unversioned(&source) {
        let why = "no version of it was ever made: it was empty, or lay where none are made";
        let next = format!("what is made where: segfs retain show, in {}", place.dir.display());
        return Err(Failure::new(NOT_FOUND, what, why, next));
    }
    let found = Found { path: source, label: "as it was last".to_owned() };
    Target::new(base, path, &found)?.carry_out(&found, json)
}

/// Is this a file of which no version was made? Nobody knows what it held.
fn unversioned(old: &Path) -> bool {
    fs::symlink_metadata(old).is_ok_and(|m| m.is_file())
        && attribute(old, "version_id").is_ok_and(|id| id.is_none())
}

/// Where something is restored to.
struct Target {
    shown: PathBuf,
    path: PathBuf,
    /// What is there.
    there: Option<fs::Metadata>,
    /// What is restored is a directory.
    tree: bool,
    what: String,
}

impl Target {
    fn new(base: &Base, shown: &Path, found: &Found) -> Outcome<Self> {
        let what = format!("{} can't be restored", shown.display());
        let system = |e: io::Error| Failure::system(&what, &e);
        let tree = fs::symlink_metadata(&found.path).map_err(system)?.is_dir();
        let path = base.path(shown);
        let there = match fs::symlink_metadata(&path) {
            Ok(meta) => Some(meta),
            Err(e) if e.kind() == io::ErrorKind::NotFound => None,
            Err(e) => return Err(system(e)),
        };
        if path.parent().is_some_and(|p| !p.as_os_str().is_empty() && !p.is_dir()) {
            let why = "there is no such directory";
            return Err(Failure::new(NOT_FOUND, what, why, "make it first, or choose another with --to"));
        }
        match &there {
            Some(meta) if meta.is_dir() != tree => {
                let why = if tree { "a file is there now" } else { "a directory is there now" };
                return Err(Failure::usage(what, why, "choose another place with --to"));
            }
            _ => {}
        }
        Ok(Self { shown: shown.to_owned(), path, there, tree, what })
    }

    fn carry_out(&self, found: &Found, json: bool) -> Outcome<()> {
        let system = |e: io::Error| Failure::system(&self.what, &e);
        let undo = self.undo()?;
        let built = beside(&self.path).map_err(system)?;
        let mut copier = Copier::default();
        let live = (self.tree && self.there.is_some()).then_some(&*self.path);
        let done = copier.copy(&found.path, &built, live).and_then(|()| self.put(&built));
        if let Err(e) = done {
            discard(&built);
            if e.kind() == io::ErrorKind::ResourceBusy {
                let next = "choose another place with --to, and move what is in it";
                return Err(Failure::new(IN_USE, &self.what, "something is mounted there", next));
            }
            return Err(system(e));
        }
        let mut out = Output::new(json);
        if json {
            out.value(&json!({
                "restored": path_text(&self.shown), "from": found.label, "objects": copier.objects,
                "unchanged": copier.kept, "owners_not_set": copier.owners, "undo": undo,
            }))?;
        } else {
            let things = if self.tree { format!(", {} objects", copier.objects) } else { String::new() };
            out.line(&format!("restored {} ({}{things})", text(self.shown.as_os_str()), found.label))?;
            if copier.owners > 0 {
                out.line(&format!(
                    "{} owners or attributes could not be set: that takes root",
                    copier.owners
                ))?;
            }
            out.line(&format!("undo it: {undo}"))?;
        }
        out.finish()
    }

    /// Puts what was built in its place, at once.
    fn put(&self, built: &Path) -> io::Result<()> {
        match (&self.there, self.tree) {
            (None, _) => rename_new(built, &self.path),
            (Some(_), false) => replace(built, &self.path),
            (Some(_), true) => {
                exchange(built, &self.path)?;
                // What was there is history now.
                fs::remove_dir_all(built)
            }
        }
    }

    /// The command that takes the restore back.
    fn undo(&self) -> Outcome<String> {
        let shown = quoted(&self.shown);
        if self.there.is_none() {
            return Ok(format!("rm {}{shown}", if self.tree { "-r " } else { "" }));
        }
        if self.tree {
            return Ok(format!("segfs restore --version {} {shown}", time(now_ns())));
        }
        let name = self.path.file_name().unwrap_or_default().to_owned();
        let dir = self.path.parent().unwrap_or(Path::new(".")).to_owned();
        let newest = newest(&Place { shown: self.shown.clone(), dir, name })?;
        Ok(if newest == 0 {
            format!(": > {shown}")
        } else {
            format!("segfs restore --version {newest} {shown}")
        })
    }

    fn dry_run(&self, found: &Found, json: bool) -> Outcome<()> {
        let mut changes = Vec::new();
        if self.tree {
            compare(&found.path, Some(&self.path), Path::new(""), &mut changes)
                .map_err(|e| Failure::system(&self.what, &e))?;
        } else {
            let meta = fs::symlink_metadata(&found.path).map_err(|e| Failure::system(&self.what, &e))?;
            let how = if self.there.is_some() { "change" } else { "make" };
            changes.push((how, PathBuf::new(), meta.len()));
        }
        let mut out = Output::new(json);
        if json {
            let value = |(how, path, size): &(&str, PathBuf, u64)| -> Value {
                json!({"change": how, "path": path_text(&self.shown.join(path)), "size": size})
            };
            let all: Vec<Value> = changes.iter().map(value).collect();
            out.value(
                &json!({"would_restore": path_text(&self.shown), "from": found.label, "changes": all}),
            )?;
        } else {
            out.line(&format!("would restore {} ({})", text(self.shown.as_os_str()), found.label))?;
            for (how, path, bytes) in &changes {
                let path =
                    if path.as_os_str().is_empty() { self.shown.clone() } else { self.shown.join(path) };
                out.line(&format!("{how:>8}  {:>10}  {}", size(*bytes), text(path.as_os_str())))?;
            }
            if changes.is_empty() {
                out.line("nothing differs")?;
            }
        }
        out.finish()
    }
}

/// What a restore of a directory would make, change and remove.
fn compare(
    old: &Path,
    live: Option<&Path>,
    below: &Path,
    changes: &mut Vec<(&'static str, PathBuf, u64)>,
) -> io::Result<()> {
    let live = live.filter(|l| fs::symlink_metadata(l).is_ok_and(|m| m.is_dir()));
    let names = entries(old)?;
    for name in &names {
        let (from, at) = (old.join(name), below.join(name));
        let meta = fs::symlink_metadata(&from)?;
        let now = live.map(|l| l.join(name));
        let there = now.as_deref().and_then(|n| fs::symlink_metadata(n).ok());
        match there {
            None => changes.push(("make", at.clone(), meta.len())),
            Some(there) => {
                let same = match (meta.is_dir(), there.is_dir()) {
                    (true, true) => true,
                    _ if meta.is_symlink() && there.is_symlink() => {
                        now.as_deref().map(fs::read_link).transpose()? == Some(fs::read_link(&from)?)
                    }
                    _ => now.as_deref().is_some_and(|n| unchanged(n, &from, &meta)),
                };
                if !same {
                    changes.push(("change", at.clone(), meta.len()));
                }
            }
        }
        if meta.is_dir() {
            compare(&from, now.as_deref(), &at, changes)?;
        }
    }
    for name in live.map(entries).transpose()?.unwrap_or_default() {
        if !names.contains(&name) {
            let meta = fs::symlink_metadata(live.unwrap_or(old).join(&name))?;
            changes.push(("remove", below.join(&name), meta.len()));
        }
    }
    Ok(())
}

/// A path as a shell takes it.
fn quoted(path: &Path) -> String {
    let shown = path.to_string_lossy();
    let plain = shown.bytes().all(|b| b.is_ascii_alphanumeric() || b"/._-+,".contains(&b));
    if plain && !shown.starts_with('-') {
        shown.into_owned()
    } else {
        format!("'{}'", shown.replace('\'', "'\\''"))
    }
}
