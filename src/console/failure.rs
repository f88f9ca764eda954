//! Errors as people see them: what, why, and the next command. And what the process ends with.

use std::{
    io::{self, ErrorKind},
    path::Path,
    process::ExitCode,
};

use serde_json::{Value, json};

use super::mounts;
use crate::base::Error;

/// It did not work.
pub const FAILED: u8 = 1;
/// The command line, or what it names, makes no sense: nothing was done.
pub const USAGE: u8 = 2;
/// There is no such thing.
pub const NOT_FOUND: u8 = 3;
/// Some of it was done, not all.
pub const PARTLY: u8 = 4;
/// Bytes on disk are not what was written.
pub const DAMAGE: u8 = 5;
/// Replication is further behind than it may be.
pub const LAG: u8 = 6;
/// Another process has it.
pub const IN_USE: u8 = 7;
/// Nobody reads what we print any more. Not an exit code: the process ends with 0.
pub const CLOSED: u8 = 255;

/// The word for an exit code, as JSON has it.
#[must_use]
pub fn word(code: u8) -> &'static str {
    match code {
        USAGE => "usage",
        NOT_FOUND => "not_found",
        PARTLY => "partly",
        DAMAGE => "damage",
        LAG => "lag",
        IN_USE => "in_use",
        _ => "failed",
    }
}

/// Result of a command.
pub type Outcome<T> = Result<T, Failure>;

/// Why the process does not end with 0.
#[derive(Debug, Clone, PartialEq, Eq)]
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

    /// What was asked for makes no sense; nothing was done.
    pub fn usage(what: impl Into<String>, why: impl Into<String>, next: impl Into<String>) -> Self {
        Self::new(USAGE, what, why, next)
    }

    /// The machine refused.
    pub fn system(what: impl Into<String>, e: &io::Error) -> Self {
        Self::new(FAILED, what, e.to_string(), "see the reason, and run the command again")
    }

    /// What the library says of a store that can't be made, opened, looked at or closed.
    #[must_use]
    pub fn of_store(e: &Error, store: &Path) -> Self {
        let path = store.display();
        let what = format!("the store {path} can't be used");
        match e {
            Error::NotAStore { why, .. } if store.join("STORE").exists() => Self::new(
                DAMAGE,
                format!("the store {path} is damaged"),
                why.clone(),
                "bring the file STORE back from a copy of the store",
            ),
            Error::NotAStore { why, .. } => Self::usage(
                format!("{path} is not a segfs store"),
                why.clone(),
                "name the directory that holds the file STORE; `segfs init` makes a store",
            ),
            Error::Newer { what: newer, .. } => {
                Self::new(FAILED, what, newer.clone(), "use a newer segfs; nothing was changed")
            }
            Error::InUse { holder, .. } => Self::in_use(holder, store),
            Error::Damaged(d) => Self::new(
                DAMAGE,
                format!("the store {path} is damaged"),
                d.finding(),
                d.advice.clone().unwrap_or_else(|| format!("segtool verify {path}")),
            ),
            Error::BadRequest(why) => Self::usage(what, why.clone(), "choose an empty directory, or a store"),
            Error::NoSpace { what } => Self::new(
                FAILED,
                format!("{what} did not work"),
                "no space left on the disk that holds the store",
                "free some space on that disk, and run the command again",
            ),
            Error::Io { what, source } => Self::of_io(what, source, store),
            Error::Poisoned { why } => Self::new(
                FAILED,
                format!("the store {path} stopped writing"),
                why.clone(),
                format!(
                    "see the reason, unmount it and mount it again; what is wrong: segtool verify {path}"
                ),
            ),
            Error::Fs(_) => Self::new(FAILED, what, e.to_string(), format!("segtool verify {path}")),
        }
    }

    /// As [`of_store`](Self::of_store), where somebody names a place in which a store is to be opened or made, and nothing has been done:
    /// one that can't be used is what makes no sense then.
    #[must_use]
    pub fn of_place(e: &Error, store: &Path) -> Self {
        let mut failure = Self::of_store(e, store);
        if let Error::Io { source, .. } = e
            && matches!(
                source.kind(),
                ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem | ErrorKind::InvalidFilename
            )
        {
            failure.code = USAGE;
            if !store.exists() {
                failure.next = "choose a directory of your own, or run it as root".into();
            }
        }
        failure
    }

    fn in_use(holder: &str, store: &Path) -> Self {
        let at = mounts::of_store(store);
        let place = at.as_ref().map_or_else(String::new, |m| format!(", mounted on {}", m.dir.display()));
        let next = at.map_or_else(
            || "end that process, or wait for it; then run the command again".to_owned(),
            |m| format!("segfs umount {}, then run the command again", m.dir.display()),
        );
        let what = format!("the store {} is in use", store.display());
        Self::new(IN_USE, what, format!("{holder} has it open{place}"), next)
    }

    fn of_io(what: &str, source: &io::Error, store: &Path) -> Self {
        let path = store.display();
        let missing = source.kind() == ErrorKind::NotFound && !store.exists();
        let (code, next) = match source.kind() {
            ErrorKind::NotFound if missing => (NOT_FOUND, "check the path".into()),
            ErrorKind::NotFound => {
                (DAMAGE, format!("segtool verify {path}, and restore what is missing from a copy"))
            }
            ErrorKind::NotADirectory => (USAGE, "name the directory that holds the file STORE".into()),
            ErrorKind::PermissionDenied => (FAILED, format!("run it as the owner of {path}, or as root")),
            ErrorKind::ReadOnlyFilesystem => (
                FAILED,
                "`segfs mount -o ro` only reads; else mount that disk read-write, or copy the store".into(),
            ),
            _ => (FAILED, "look into the system's log, and run the command again".into()),
        };
        Self::new(code, format!("{what} did not work"), source.to_string(), next)
    }

    /// As the object that `--json` prints.
    #[must_use]
    pub fn value(&self) -> Value {
        let Self { code, what, why, next } = self;
        json!({"error": {"code": word(*code), "what": what, "why": why, "next": next}})
    }

    /// Says it on stderr; the exit code of the process.
    pub fn tell(&self, program: &str, json: bool) -> ExitCode {
        if self.code == CLOSED {
            return ExitCode::SUCCESS;
        }
        let Self { code, what, why, next } = self;
        // Nobody may be listening.
        let _ = if json {
            io::Write::write_all(&mut io::stderr(), format!("{}\n", self.value()).as_bytes())
        } else {
            let text = format!("{program}: {}\n  why:  {}\n  next: {}\n", line(what), line(why), line(next));
            io::Write::write_all(&mut io::stderr(), text.as_bytes())
        };
        ExitCode::from(*code)
    }
}

/// One line, without anything that a terminal would obey: names of files come to stand in messages.
fn line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

impl From<io::Error> for Failure {
    /// Of printing.
    fn from(e: io::Error) -> Self {
        if e.kind() == ErrorKind::BrokenPipe {
            return Self::new(CLOSED, "", "", "");
        }
        Self::new(FAILED, "printing did not work", e.to_string(), "check where the output goes")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_code_has_its_word_and_nothing_reaches_the_terminal_raw() {
        let words: Vec<_> = (1..=7).map(word).collect();
        assert_eq!(words, ["failed", "usage", "not_found", "partly", "damage", "lag", "in_use"]);
        assert_eq!(line("a\x1b[31mb\nc"), "a\u{fffd}[31mb\u{fffd}c");
        let failure = Failure::usage("w", "y", "n");
        assert_eq!(
            failure.value().to_string(),
            r#"{"error":{"code":"usage","what":"w","why":"y","next":"n"}}"#
        );
    }
}
