//! `segfs lock` and `segfs hold`: what protects a version, through its path.

use std::{io, path::PathBuf};

use clap::{Args, Subcommand, ValueEnum};
use jiff::tz::TimeZone;
use rustix::fs::XattrFlags;
use segfs::{
    console::{Output, time},
    store::words::parse_duration,
};
use serde_json::{Value, json};

use super::{
    super::failure::{FAILED, Failure, Outcome},
    FileArg, StoreArg,
    list::text,
    name::Name,
    place::{Base, attribute, now_ns},
    show::{parts, resolve},
    versions::named,
};

/// What to do with a lock.
#[derive(Subcommand)]
pub enum LockCommand {
    /// Lock a version until a date: nothing removes it before.
    #[command(
        after_help = "Examples:\n  segfs lock set report.txt --until 1y --mode governance\n  segfs lock set report.txt@3 --until 2028-01-01 --mode compliance"
    )]
    Set {
        #[command(flatten)]
        of: FileArg,
        #[command(flatten)]
        until: Until,
        /// Governance: can be shortened or cleared with --bypass-governance. Compliance: by nobody.
        #[arg(long, value_enum)]
        mode: Mode,
        /// Also if that makes a lock in governance mode shorter.
        #[arg(long)]
        bypass_governance: bool,
        #[command(flatten)]
        store: StoreArg,
    },
    /// Let a lock last longer.
    #[command(
        after_help = "Examples:\n  segfs lock extend report.txt --until 2y\n  segfs lock extend report.txt@3 --until 2030-01-01"
    )]
    Extend {
        #[command(flatten)]
        of: FileArg,
        #[command(flatten)]
        until: Until,
        #[command(flatten)]
        store: StoreArg,
    },
    /// Take away a lock in governance mode.
    #[command(
        after_help = "Examples:\n  segfs lock clear report.txt --bypass-governance\n  segfs lock clear --store ./store docs/report.txt@3 --bypass-governance"
    )]
    Clear {
        #[command(flatten)]
        of: FileArg,
        /// Says that this is meant.
        #[arg(long)]
        bypass_governance: bool,
        #[command(flatten)]
        store: StoreArg,
    },
}

/// What to do with a hold.
#[derive(Subcommand)]
pub enum HoldCommand {
    /// Hold a version: nothing removes it until the hold is taken off.
    #[command(after_help = "Examples:\n  segfs hold add report.txt\n  segfs hold add report.txt@3")]
    Add {
        #[command(flatten)]
        of: FileArg,
        #[command(flatten)]
        store: StoreArg,
    },
    /// Take a hold off.
    #[command(
        after_help = "Examples:\n  segfs hold rm report.txt\n  segfs hold rm --store ./store docs/report.txt@3"
    )]
    Rm {
        #[command(flatten)]
        of: FileArg,
        #[command(flatten)]
        store: StoreArg,
    },
}

/// Until when.
#[derive(Args)]
pub struct Until {
    /// A time, in the local zone unless it says otherwise (2028-01-01, 2028-01-01T12:00Z), or from now on (30d, 1y).
    #[arg(long, value_name = "TIME")]
    until: String,
}

/// How strict a lock is.
#[derive(Clone, Copy, ValueEnum)]
pub enum Mode {
    Governance,
    Compliance,
}

impl Mode {
    fn word(self) -> &'static str {
        match self {
            Self::Governance => "governance",
            Self::Compliance => "compliance",
        }
    }
}

/// Locks, extends or clears.
pub fn lock(command: &LockCommand, as_json: bool) -> Outcome<()> {
    match command {
        LockCommand::Set { of, until, mode, bypass_governance, store } => {
            on_version(of, store, as_json, |v| {
                v.set_lock(
                    &format!("{} {}", mode.word(), time(until_ns(&until.until, &v.what)?)),
                    *bypass_governance,
                )
            })
        }
        LockCommand::Extend { of, until, store } => on_version(of, store, as_json, |v| {
            let old = v.get("lock")?;
            let Some((mode, _)) = old.as_deref().and_then(|old| old.split_once(' ')) else {
                let next = "segfs lock set, with --mode governance or --mode compliance";
                return Err(Failure::usage(&v.what, "it has no lock that could be extended", next));
            };
            v.set_lock(&format!("{mode} {}", time(until_ns(&until.until, &v.what)?)), false)
        }),
        LockCommand::Clear { of, bypass_governance, store } => {
            on_version(of, store, as_json, |v| v.set_lock("none", *bypass_governance))
        }
    }
}

/// Holds, or takes a hold off.
pub fn hold(command: &HoldCommand, as_json: bool) -> Outcome<()> {
    match command {
        HoldCommand::Add { of, store } => on_version(of, store, as_json, |v| v.set("hold", "on")),
        HoldCommand::Rm { of, store } => on_version(of, store, as_json, |v| v.set("hold", "off")),
    }
}

/// A version, through a path at which it shows.
struct Version<'a> {
    shown: PathBuf,
    path: PathBuf,
    what: String,
    /// Of a symlink, which has no attributes that could be asked for: the mount, and which version it is.
    asked: Option<(&'a Base, Value)>,
}

fn on_version(
    of: &FileArg,
    store: &StoreArg,
    as_json: bool,
    change: impl FnOnce(&Version<'_>) -> Outcome<()>,
) -> Outcome<()> {
    super::in_base(store.store.as_ref(), |base| {
        let v = Version::find(base, of)?;
        change(&v)?;
        v.tell(as_json)
    })
}

impl<'a> Version<'a> {
    fn find(base: &'a Base, of: &FileArg) -> Outcome<Self> {
        let (shown, found) = resolve(base, &of.file, of.version.as_deref())?;
        let what = format!("what protects {} ({}) can't be changed", shown.display(), found.label);
        let is_symlink = std::fs::symlink_metadata(&found.path).is_ok_and(|m| m.is_symlink());
        let asked = if is_symlink {
            let version = parts(base, &of.file, of.version.as_deref()).1;
            let version = version.map(|v| named(&shown, &v)).transpose()?;
            Some((base, version.map_or(Value::Null, |name| name.value())))
        } else {
            None
        };
        let v = Self { shown, path: found.path, what, asked };
        if v.get("version_id")?.is_none() {
            let next = "name a file that has versions, in a mount of segfs: segfs log FILE";
            return Err(Failure::usage(&v.what, "no version shows there", next));
        }
        Ok(v)
    }

    fn get(&self, name: &str) -> Outcome<Option<String>> {
        let Some((base, version)) = &self.asked else {
            return attribute(&self.path, name).map_err(|e| Failure::system(&self.what, &e));
        };
        let told = base.protect(&self.shown, version, &Value::Null, &self.what)?;
        Ok(match name {
            "hold" => Some(if told["hold"] == true { "on" } else { "off" }.to_owned()),
            "version_id" => told["id"].as_str().map(str::to_owned),
            _ => told["lock"].as_str().map(str::to_owned),
        })
    }

    /// Sets it; within, what the system says.
    fn put(&self, name: &str, value: &str) -> Outcome<io::Result<()>> {
        let Some((base, version)) = &self.asked else {
            let name = format!("user.segfs.{name}");
            let set = rustix::fs::lsetxattr(&self.path, name, value.as_bytes(), XattrFlags::empty());
            return Ok(set.map_err(io::Error::from));
        };
        let change = match name {
            "hold" => json!({"hold": value == "on"}),
            _ => {
                let (lock, bypass) = value.strip_suffix(" bypass").map_or((value, false), |v| (v, true));
                json!({"lock": lock_value(Some(lock)), "bypass": bypass})
            }
        };
        let told = base.protect(&self.shown, version, &change, &self.what)?;
        Ok(match told["refused"].as_str() {
            Some("weaker") => Err(io::ErrorKind::PermissionDenied.into()),
            Some(_) => Err(io::ErrorKind::InvalidInput.into()),
            None => Ok(()),
        })
    }

    fn set(&self, name: &str, value: &str) -> Outcome<()> {
        self.put(name, value)?.map_err(|e| self.refused(&e))
    }

    fn set_lock(&self, value: &str, bypass: bool) -> Outcome<()> {
        let old = self.get("lock")?;
        let asked = if bypass { format!("{value} bypass") } else { value.to_owned() };
        self.put("lock", &asked)?.map_err(|e| match (e.kind(), old.as_deref()) {
            (io::ErrorKind::PermissionDenied, Some(old)) if self.is_mine() => self.stronger(old),
            _ => self.refused(&e),
        })
    }

    /// May whoever runs this lock it at all?
    fn is_mine(&self) -> bool {
        let me = rustix::process::geteuid();
        // Whom a mount answers may lock what it has.
        self.asked.is_some()
            || me.is_root()
            || rustix::fs::lstat(&self.path).is_ok_and(|s| s.st_uid == me.as_raw())
    }

    /// What is there must not be weakened so.
    fn stronger(&self, old: &str) -> Failure {
        let why = format!("it is locked already: {old}");
        if old.starts_with("compliance") {
            let next = "segfs lock extend; nobody can shorten or clear a lock in compliance mode";
            return Failure::new(FAILED, &self.what, why, next);
        }
        let next = "segfs lock extend; or say --bypass-governance, if it is to be weaker";
        Failure::new(FAILED, &self.what, why, next)
    }

    fn refused(&self, e: &io::Error) -> Failure {
        match e.kind() {
            io::ErrorKind::PermissionDenied => {
                let why = "only its owner, with the right to write to it, and root may do that";
                Failure::new(FAILED, &self.what, why, "run it as the owner, or as root")
            }
            io::ErrorKind::InvalidInput => {
                Failure::usage(&self.what, "that time is over", "name one that is yet to come: --until 30d")
            }
            _ => Failure::system(&self.what, e),
        }
    }

    /// Says what protects it now.
    fn tell(&self, as_json: bool) -> Outcome<()> {
        let (lock, hold) = (self.get("lock")?, self.get("hold")?);
        let mut out = Output::new(as_json);
        if as_json {
            let lock = lock_value(lock.as_deref());
            out.value(&json!({
                "path": text(self.shown.as_os_str()), "id": self.get("version_id")?, "lock": lock,
                "hold": hold.as_deref() == Some("on"),
            }))?;
        } else {
            out.line(&format!("lock  {}", lock.unwrap_or_else(|| "none".into())))?;
            out.line(&format!("hold  {}", hold.unwrap_or_else(|| "off".into())))?;
        }
        out.finish()
    }
}

/// A lock as JSON has it.
fn lock_value(lock: Option<&str>) -> Value {
    let Some((mode, until)) = lock.and_then(|lock| lock.split_once(' ')) else { return Value::Null };
    let until: Option<jiff::Timestamp> = until.parse().ok();
    let ns = until.and_then(|t| u64::try_from(t.as_nanosecond()).ok());
    json!({"mode": mode, "until": ns.map(time), "until_ns": ns})
}

/// A time to come, ns since 1970.
fn until_ns(text: &str, what: &str) -> Outcome<u64> {
    let now = now_ns();
    let ns = match parse_duration(text) {
        Some(from_now) => now.checked_add(from_now),
        None => match Name::parse(text, now, &TimeZone::system()) {
            Some(Name::Moment(ns)) => Some(ns),
            _ => None,
        },
    };
    let why = format!("\"{text}\" is no time");
    let next = "--until 2028-01-01, --until 2028-01-01T12:00Z, or --until 30d from now on";
    let ns = ns.ok_or_else(|| Failure::usage(what, why, next))?;
    if ns <= now {
        return Err(Failure::usage(what, "that time is over", next));
    }
    Ok(ns)
}
