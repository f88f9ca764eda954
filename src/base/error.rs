//! Errors that answer "what now?".

use std::{fmt, io, path::PathBuf};

use super::{Lsn, SegmentId};

/// What the engine returns.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why something did not work, told so that the caller knows what to do next.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The filesystem's own answer to a request that can't be granted; the request is at fault.
    #[error(transparent)]
    Fs(#[from] FsError),
    /// The disk is full. Deleting frees space; then the request can be repeated.
    #[error("{what}: no space left on the disk that holds the store")]
    NoSpace {
        /// What was being done.
        what: String,
    },
    /// The machine refused; `source` says why.
    #[error("{what}: {source}")]
    Io {
        /// What was being done, to which file.
        what: String,
        /// What the operating system said.
        source: io::Error,
    },
    /// Bytes on disk are not what was written.
    #[error(transparent)]
    Damaged(#[from] Damage),
    /// A sync or a worker failed earlier: nothing more is written until the store is opened anew.
    #[error("the store stopped writing: {why}; close it and open it again")]
    Poisoned {
        /// The first failure.
        why: String,
    },
    /// The directory does not hold a store.
    #[error("{path}: not a segfs store ({why})")]
    NotAStore {
        /// The directory.
        path: PathBuf,
        /// What is missing.
        why: String,
    },
    /// Made by a newer segfs.
    #[error("{path}: {what}; open it with a newer segfs")]
    Newer {
        /// The directory.
        path: PathBuf,
        /// Version or feature that this program does not know.
        what: String,
    },
    /// Another process has the store open.
    #[error("{path}: in use by {holder}")]
    InUse {
        /// The directory.
        path: PathBuf,
        /// Process id and what it is doing, as far as known.
        holder: String,
    },
    /// The request makes no sense.
    #[error("{0}")]
    BadRequest(String),
}

/// A filesystem's answers. `fuse` maps each to an errno; nobody else knows errnos.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)] // the messages say it
pub enum FsError {
    #[error("no such file or directory")]
    NotFound,
    #[error("already exists")]
    Exists,
    #[error("not a directory")]
    NotADirectory,
    #[error("is a directory")]
    IsADirectory,
    #[error("directory is not empty")]
    NotEmpty,
    #[error("name is too long")]
    NameTooLong,
    #[error("invalid argument")]
    Invalid,
    #[error("file would be too large")]
    FileTooLarge,
    #[error("too many links")]
    TooManyLinks,
    #[error("operation is not permitted")]
    NotPermitted,
    #[error("permission denied")]
    AccessDenied,
    #[error("read-only")]
    ReadOnly,
    #[error("no such attribute")]
    NoAttribute,
    #[error("attribute does not fit")]
    Range,
    #[error("argument list is too long")]
    TooBig,
    #[error("not supported")]
    NotSupported,
    #[error("no data or hole there")]
    NoSuchOffset,
    #[error("stale handle")]
    Stale,
    #[error("busy")]
    Busy,
}

/// Where on disk something is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The segment, if it is in one.
    pub segment: Option<SegmentId>,
    /// Byte offset in the segment or file.
    pub offset: u64,
    /// The record, if known.
    pub lsn: Option<Lsn>,
    /// The file, where it is not a segment.
    pub file: Option<PathBuf>,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.segment, &self.file) {
            (Some(s), _) => write!(f, "segment {s}, offset {}", self.offset)?,
            (None, Some(p)) => write!(f, "{}, offset {}", p.display(), self.offset)?,
            (None, None) => write!(f, "offset {}", self.offset)?,
        }
        if let Some(lsn) = self.lsn {
            write!(f, ", LSN {lsn}")?;
        }
        Ok(())
    }
}

/// Damage: what is wrong and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("damaged data at {place}: {why}{}", self.told_advice())]
pub struct Damage {
    /// Where.
    pub place: Place,
    /// What does not hold.
    pub why: String,
    /// What a person can do about it, where more is known than that `segtool verify` looks for more.
    pub advice: Option<String>,
}

impl Damage {
    /// Damage inside a segment.
    #[must_use]
    pub fn segment(segment: SegmentId, offset: u64, lsn: Option<Lsn>, why: impl Into<String>) -> Self {
        let place = Place { segment: Some(segment), offset, lsn, file: None };
        Self { place, why: why.into(), advice: None }
    }

    /// Damage inside another file of the store.
    #[must_use]
    pub fn file(file: impl Into<PathBuf>, offset: u64, why: impl Into<String>) -> Self {
        let place = Place { segment: None, offset, lsn: None, file: Some(file.into()) };
        Self { place, why: why.into(), advice: None }
    }

    /// Says what to do about it.
    #[must_use]
    pub fn advise(mut self, what: impl Into<String>) -> Self {
        self.advice = Some(what.into());
        self
    }

    /// Without the advice.
    #[must_use]
    pub fn finding(&self) -> String {
        format!("damaged data at {}: {}", self.place, self.why)
    }

    fn told_advice(&self) -> String {
        self.advice.as_ref().map_or_else(String::new, |a| format!("; {a}"))
    }
}

/// What a panic said, for those who catch one.
#[must_use]
pub fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|s| (*s).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default()
}

impl Error {
    /// From the operating system's answer; a full disk becomes [`Error::NoSpace`].
    #[must_use]
    pub fn io(what: impl Into<String>, source: io::Error) -> Self {
        let what = what.into();
        if matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) {
            Self::NoSpace { what }
        } else {
            Self::Io { what, source }
        }
    }
}
