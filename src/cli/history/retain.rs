//! `segfs retain`: what is kept, and when versions are made, by path.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use clap::{Args, Subcommand};
use segfs::{
    config::{self, ConfigError, Edit},
    console::Output,
    disk::{Engine, RealDisk},
    store::{Making, Options, Policy, Settings},
};
use serde_json::{Value, json};

use super::{
    super::{
        failure::{Failure, NOT_FOUND, Outcome},
        open,
    },
    StoreArg,
    list::text,
    operator,
    place::{Base, attribute},
};

/// What to do with rules.
#[derive(Subcommand)]
pub enum RetainCommand {
    /// Show which rule holds for a path; without one, all rules.
    #[command(
        after_help = "Examples:\n  segfs retain show ~/mnt/docs/report.txt\n  segfs retain show --store ./store"
    )]
    Show {
        /// A file or directory.
        path: Option<PathBuf>,
        #[command(flatten)]
        store: StoreArg,
    },
    /// Set what is kept at a path and below, and when versions are made there.
    #[command(
        after_help = "Examples:\n  segfs retain set ~/mnt/docs --keep all\n  segfs retain set ~/mnt/build --versions never\n  segfs retain set --store ./store /db --keep last=5 --versions every=30s"
    )]
    Set(SetArgs),
    /// Take back what was set for a path: the rule for the directory above holds again.
    #[command(
        after_help = "Examples:\n  segfs retain clear ~/mnt/docs\n  segfs retain clear --store ./store /docs"
    )]
    Clear {
        /// The path of the rule.
        path: PathBuf,
        #[command(flatten)]
        store: StoreArg,
    },
    /// Let a mount read config.toml again, after it was edited by hand.
    #[command(after_help = "Examples:\n  segfs retain reload ~/mnt\n  segfs retain reload --json")]
    Reload {
        /// A directory in the mount.
        #[arg(default_value = ".")]
        dir: PathBuf,
    },
    /// Say that the machine's clock is right: versions expire by it from now on.
    ///
    /// When the clock is more than a day ahead of when the store was last used, nothing expires until this is said.
    #[command(after_help = "Examples:\n  segfs retain confirm ~/mnt\n  segfs retain confirm --store ./store")]
    Confirm {
        /// A directory in the mount.
        #[arg(default_value = ".")]
        dir: PathBuf,
        #[command(flatten)]
        store: StoreArg,
    },
}

/// What to set.
#[derive(Args)]
pub struct SetArgs {
    /// A path in a mount, also one that is not there yet; with --store one from the root of the store.
    path: PathBuf,
    /// What is kept: all, never (the present alone), last=N (the present included), age=30d, or fewer and fewer:
    /// thin=30d:all,365d:1d,:30d.
    #[arg(long, value_name = "KEEP", required_unless_present = "versions")]
    keep: Option<Policy>,
    /// When versions are made: close, fsync, every=30s (while a file is open), or never (and then what is overwritten or
    /// deleted is gone at once).
    #[arg(long, value_name = "WHEN")]
    versions: Option<Making>,
    #[command(flatten)]
    store: StoreArg,
}

/// Shows or changes rules.
pub fn run(what: &RetainCommand, as_json: bool) -> Outcome<()> {
    match what {
        RetainCommand::Show { path: Some(path), store } => {
            super::in_base(store.store.as_ref(), |base| show(base, path, as_json))
        }
        RetainCommand::Show { path: None, store } => {
            let what = "the rules can't be shown";
            let settings = match &store.store {
                Some(store) => of_store(store, what)?,
                None => {
                    let mount = operator::mount_around(Path::new("."), what)?;
                    operator::ask(&mount, &json!({"request": "settings"}), what)?
                }
            };
            all(&settings, as_json)
        }
        RetainCommand::Set(args) => {
            let edit = |path| Edit::Path { path, keep: args.keep.clone(), versions: args.versions };
            change(&args.path, args.store.store.as_deref(), edit, as_json)
        }
        RetainCommand::Clear { path, store } => change(path, store.store.as_deref(), Edit::Clear, as_json),
        RetainCommand::Reload { dir } => {
            let what = "config.toml can't be taken in";
            let mount = operator::mount_around(dir, what)?;
            all(&operator::ask(&mount, &json!({"request": "settings", "reload": true}), what)?, as_json)
        }
        RetainCommand::Confirm { dir, store } => confirm(dir, store.store.as_deref(), as_json),
    }
}

/// Which rules hold for something that is there.
fn show(base: &Base, shown: &Path, as_json: bool) -> Outcome<()> {
    let path = base.path(shown);
    let what = || format!("the rules for {} can't be shown", shown.display());
    let missing = |e: &io::Error| match e.kind() {
        io::ErrorKind::NotFound => {
            let next = "name something that is there; all rules: segfs retain show, in the mount";
            Failure::new(NOT_FOUND, what(), "there is no such file or directory", next)
        }
        _ => Failure::system(what(), e),
    };
    fs::symlink_metadata(&path).map_err(|e| missing(&e))?;
    let told = attribute(&path, "rules").map_err(|e| missing(&e))?.ok_or_else(|| {
        let why = "it is not in the present of a mount of segfs that shows history";
        Failure::usage(what(), why, "segfs status; or --store STORE for an unmounted one")
    })?;
    let mut out = Output::new(as_json);
    let mut values = Vec::new();
    let mut rows = Vec::new();
    for line in told.lines() {
        let f: Vec<&str> = line.split('\t').collect();
        let &[keep, keep_from, versions, versions_from] = &f[..] else { continue };
        let from = |path: &str| {
            if path == "-" { "by default".to_owned() } else { format!("by the rule for {path}") }
        };
        let by = |path: &str| (path != "-").then(|| path.to_owned());
        rows.push(vec!["keep".to_owned(), keep.to_owned(), from(keep_from)]);
        rows.push(vec!["versions".to_owned(), versions.to_owned(), from(versions_from)]);
        values.push(json!({
            "keep": keep, "keep_rule": by(keep_from), "versions": versions, "versions_rule": by(versions_from),
        }));
    }
    if as_json {
        out.value(&json!({"path": text(shown.as_os_str()), "rules": values}))?;
    } else {
        out.table(&["SETTING", "VALUE", "WHY"], &[false; 3], &rows)?;
    }
    out.finish()
}

/// The machine's clock is right.
fn confirm(dir: &Path, store: Option<&Path>, as_json: bool) -> Outcome<()> {
    let what = "the clock can't be confirmed";
    let told = if let Some(path) = store {
        let failed = |e| Failure::of_store(&e, path);
        let store = open(path, Options::default(), &|_, _| {})?.store;
        let expiry = store.confirm_clock();
        let closed = store.close();
        closed.and(Ok(segfs::serve::expiry_value(expiry.map_err(failed)?))).map_err(failed)?
    } else {
        let mount = operator::mount_around(dir, what)?;
        operator::ask(&mount, &json!({"request": "clock", "confirm": true}), what)?
    };
    let mut out = Output::new(as_json);
    if as_json {
        out.value(&told)?;
    } else {
        out.line(&format!("versions expire as of {}", told["time"].as_str().unwrap_or_default()))?;
    }
    out.finish()
}

/// What the file of an unmounted store says.
fn of_store(store: &Path, what: &str) -> Outcome<Value> {
    let disk = disk_of(store, what)?;
    let read = config::read(&disk).map_err(|e| e.failure(what, store))?;
    Ok(told(&read.clone().unwrap_or_else(Settings::keep_all), read.is_some()))
}

fn disk_of(store: &Path, what: &str) -> Outcome<RealDisk> {
    RealDisk::open(store, Engine::Plain).map_err(|e| match e.kind() {
        io::ErrorKind::NotFound => {
            Failure::usage(what, format!("{} is not there", store.display()), "name the directory of a store")
        }
        _ => Failure::system(what, &e),
    })
}

/// Settings as the control socket tells them, too.
fn told(settings: &Settings, has_file: bool) -> Value {
    segfs::serve::settings_value(settings, has_file)
}

fn all(told: &Value, as_json: bool) -> Outcome<()> {
    let mut out = Output::new(as_json);
    if as_json {
        out.value(told)?;
        return out.finish();
    }
    if told["file"] == false {
        out.line("there is no config.toml: everything is kept")?;
    }
    let rows = told["rules"].as_array().into_iter().flatten().map(|rule| {
        let word = |name: &str| rule[name].as_str().unwrap_or("-").to_owned();
        vec![word("path"), word("keep"), word("versions")]
    });
    out.table(&["PATH", "KEEP", "VERSIONS"], &[false; 3], &rows.collect::<Vec<_>>())?;
    if told["history_yields"] == false {
        out.line("when the disk gets full, history stays, and writers are told that there is no space")?;
    }
    out.finish()
}

/// Changes config.toml: through the mount, or of a store that nobody has mounted.
fn change(
    path: &Path,
    store: Option<&Path>,
    edit: impl FnOnce(String) -> Edit,
    as_json: bool,
) -> Outcome<()> {
    let what = format!("the rule for {} can't be changed", path.display());
    let Some(store) = store else {
        let (mount, below) = operator::path_in(path, &what)?;
        let edit = edit(rule_path(&below, &what)?);
        let request = json!({"request": "settings", "change": segfs::serve::edit_value(&edit)});
        return all(&operator::ask(&mount, &request, &what)?, as_json);
    };
    let edit = edit(rule_path(path, &what)?);
    // Held, so that nobody mounts it meanwhile with what it said before.
    let held = open(store, Options::default(), &|_, _| {})?.store;
    let changed = config::change(&disk_of(store, &what)?, &edit);
    let closed = held.close();
    let settings = changed.map_err(|e: ConfigError| e.failure(&what, store))?;
    closed.map_err(|e| Failure::of_store(&e, store))?;
    all(&told(&settings, true), as_json)
}

fn rule_path(path: &Path, what: &str) -> Outcome<String> {
    let refused = |why: &str| Failure::usage(what, why, "segfs retain set --help");
    let text = path.to_str().ok_or_else(|| refused("a path with a rule has to be UTF-8"))?;
    if path.components().any(|part| part.as_os_str() == ".segfs") {
        return Err(refused("history has no rules of its own; name the file or directory in the present"));
    }
    config::clean_path(text).map_err(|why| refused(&why))
}
