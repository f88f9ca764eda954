//! Errors as people see them: what, why, and the next command. And what the process ends with.

use std::{
    io::{self, ErrorKind},
    path::Path,
    process::ExitCode,
};

use segfs::base::Error;
use serde_json::json;

/// It did not work.
pub const FAILED: u8 = 1;
/// The command line makes no sense.
pub const USAGE: u8 = 2;
/// There is no such thing.
pub const NOT_FOUND: u8 = 3;
/// Bytes are not what was written.
pub const DAMAGED: u8 = 5;
/// Another process has the store.
pub const IN_USE: u8 = 7;
/// Nobody reads what we print; not an exit code.
pub const CLOSED: u8 = 255;

/// Why the process does not end with 0.
#[derive(Debug)]
pub struct Failure {
    /// The exit code.
    pub code: u8,
    /// What did not work.
    pub what: String,
    /// Why.
    pub why: String,
    /// What to do now.
    pub next: String,
}

impl Failure {
    /// From its parts.
    pub fn new(code: u8, what: impl Into<String>, why: impl Into<String>, next: impl Into<String>) -> Self {
        Self { code, what: what.into(), why: why.into(), next: next.into() }
    }

    /// What the parser says.
    pub fn usage(e: &clap::Error) -> Self {
        if e.kind() == clap::error::ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
            return Self::new(
                USAGE,
                "no command was named",
                "there is nothing to do without one",
                "segtool --help",
            );
        }
        let text = e.render().to_string();
        // The first paragraph says what; the next ones are the usage and hints.
        let (first, rest) = text.split_once("\n\n").unwrap_or((&text, ""));
        let joined = |s: &str, with| {
            s.split('\n').map(str::trim).filter(|l| !l.is_empty()).collect::<Vec<_>>().join(with)
        };
        let mut what = joined(first.trim_start_matches("error: "), " ");
        let mut why = joined(rest.split("For more information").next().unwrap_or_default(), "; ");
        if why.is_empty() {
            // A value that does not parse: the reason stands on the same line.
            (what, why) = match what.split_once(": ") {
                Some((what, why)) => (what.to_owned(), why.to_owned()),
                None => (what, "segtool does not understand it".into()),
            };
        }
        Self::new(USAGE, what, why, "segtool --help")
    }

    /// What the library says of a store.
    pub fn of(e: &Error, store: &Path) -> Self {
        let path = store.display();
        let cannot = format!("cannot look into {path}");
        match e {
            Error::NotAStore { why, .. } => Self::new(
                USAGE,
                format!("{path} is not a segfs store"),
                why.clone(),
                "name the directory that holds the file STORE",
            ),
            Error::Newer { what, .. } => Self::new(
                FAILED,
                cannot,
                what.clone(),
                "use the segtool of a newer segfs; nothing was changed",
            ),
            Error::InUse { holder, .. } => Self::new(
                IN_USE,
                format!("{path} is in use"),
                format!("{holder} has it open"),
                "unmount it first (`segfs umount`), then repeat",
            ),
            Error::Damaged(d) => Self::new(
                DAMAGED,
                format!("{path} is damaged"),
                d.to_string(),
                format!("segtool verify {path}"),
            ),
            Error::Io { what, source } => Self::of_io(what, source, store),
            Error::NoSpace { what } => {
                Self::new(FAILED, what.clone(), "no space left on the disk", "free some space, then repeat")
            }
            other => Self::new(FAILED, cannot, other.to_string(), format!("segtool verify {path}")),
        }
    }

    fn of_io(what: &str, source: &io::Error, store: &Path) -> Self {
        let path = store.display();
        let missing = source.kind() == ErrorKind::NotFound && !store.exists();
        let (code, next) = match source.kind() {
            ErrorKind::NotFound if missing => (NOT_FOUND, "check the path".into()),
            ErrorKind::NotFound => {
                (DAMAGED, format!("segtool verify {path}, and restore what is missing from a copy"))
            }
            ErrorKind::NotADirectory => (USAGE, "name the directory that holds the file STORE".into()),
            ErrorKind::PermissionDenied => (FAILED, format!("repeat it as the owner of {path}, or as root")),
            _ => (FAILED, "look into the system's log, then repeat".into()),
        };
        Self::new(code, format!("{what} did not work"), source.to_string(), next)
    }

    /// Says it on stderr.
    pub fn tell(&self, json: bool) -> ExitCode {
        let Self { code, what, why, next } = self;
        if json {
            let word = match *code {
                USAGE => "usage",
                NOT_FOUND => "not_found",
                DAMAGED => "damage",
                IN_USE => "in_use",
                _ => "failed",
            };
            eprintln!("{}", json!({"error": {"code": word, "what": what, "why": why, "next": next}}));
        } else {
            eprintln!("segtool: {what}\n  why:  {why}\n  next: {next}");
        }
        ExitCode::from(*code)
    }
}

impl From<io::Error> for Failure {
    fn from(e: io::Error) -> Self {
        if e.kind() == ErrorKind::BrokenPipe {
            return Self::new(CLOSED, "", "", "");
        }
        Self::new(FAILED, "printing did not work", e.to_string(), "check where the output goes")
    }
}
