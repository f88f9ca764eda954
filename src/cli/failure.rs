//! What a person is told when something does not work: what, why, and what to do next.

use std::{io, path::Path, process::ExitCode};

use segfs::base::Error;

use super::mounts;

/// Exit codes.
pub const FAILED: u8 = 1;
pub const USAGE: u8 = 2;
pub const NOT_FOUND: u8 = 3;
pub const DAMAGE: u8 = 5;
pub const IN_USE: u8 = 7;

/// Result of a command.
pub type Outcome<T> = Result<T, Failure>;

/// Why a command failed.
#[derive(Debug)]
pub struct Failure {
    exit: u8,
    what: String,
    why: String,
    next: String,
}

impl Failure {
    pub fn new(exit: u8, what: impl Into<String>, why: impl Into<String>, next: impl Into<String>) -> Self {
        Self { exit, what: what.into(), why: why.into(), next: next.into() }
    }

    pub fn usage(what: impl Into<String>, why: impl Into<String>, next: impl Into<String>) -> Self {
        Self::new(USAGE, what, why, next)
    }

    /// A store that can't be made, opened or closed.
    pub fn of_store(e: &Error, path: &Path) -> Self {
        let shown = path.display();
        let what = format!("the store {shown} can't be used");
        match e {
            Error::InUse { holder, .. } => {
                let at = mounts::of_store(path);
                let place = at.map_or_else(String::new, |m| format!(", mounted on {}", m.dir.display()));
                Self::new(IN_USE, what, format!("{holder} has it open{place}"), "segfs status")
            }
            Error::NotAStore { .. } if path.join("STORE").exists() => {
                Self::new(DAMAGE, what, e.to_string(), format!("segtool verify {shown}"))
            }
            Error::NotAStore { .. } => Self::usage(what, e.to_string(), "segfs init STORE"),
            Error::Damaged(d) => {
                let next = d.advice.clone().unwrap_or_else(|| format!("segtool verify {shown}"));
                Self::new(DAMAGE, what, d.finding(), next)
            }
            Error::BadRequest(_) => Self::usage(what, e.to_string(), "choose an empty directory, or a store"),
            Error::Newer { .. } => Self::new(FAILED, what, e.to_string(), "segfs --version"),
            Error::NoSpace { .. } => Self::new(FAILED, what, e.to_string(), "free some space on that disk"),
            Error::Io { source, .. }
                if matches!(
                    source.kind(),
                    io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem
                ) =>
            {
                let next = "mount it with `-o ro`, or see that you may write to its directory";
                Self::new(FAILED, what, e.to_string(), next)
            }
            Error::Fs(_) | Error::Io { .. } | Error::Poisoned { .. } => {
                Self::new(FAILED, what, e.to_string(), "see the reason, and run the command again")
            }
        }
    }

    /// Prints it and gives the exit code.
    pub fn report(&self, json: bool) -> ExitCode {
        if json {
            let code = match self.exit {
                USAGE => "usage",
                NOT_FOUND => "not_found",
                DAMAGE => "damage",
                IN_USE => "in_use",
                _ => "failed",
            };
            let (what, why, next) = (&self.what, &self.why, &self.next);
            let error = serde_json::json!({"code": code, "what": what, "why": why, "next": next});
            eprintln!("{}", serde_json::json!({ "error": error }));
        } else {
            eprintln!("segfs: {}\n  why:  {}\n  next: {}", self.what, self.why, self.next);
        }
        ExitCode::from(self.exit)
    }
}
