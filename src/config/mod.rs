//! `config.toml` in a store's directory: what a person sets. A person edits it, and so do commands, which keep its comments.
//!
//! It is read strictly: what is not known, and what makes no sense, is refused with its line and column. A store whose file
//! can't be read is not opened for writing, since nobody knows then what is to be kept; one that has none keeps everything.
//! The file is replaced as a whole, so that a crash leaves the old one or the new one.

mod edit;
mod parse;
mod peering;

use std::{collections::BTreeSet, io, path::Path};

use crate::{
    base::Error,
    console::{Failure, NOT_FOUND, USAGE},
    disk::{Disk, Engine, RealDisk},
    store::{Making, Options, Policy, Settings},
};

pub use edit::Edit;
pub use peering::{Peering, PeeringEdit, PinnedPeer, ReplicationRule, is_plain_name};

/// The file's name in the store's directory.
pub const FILE: &str = "config.toml";
/// Where the next one is written before it takes the name.
const NEXT: &str = "config.toml.next";
/// The most bytes it may have.
const MOST_BYTES: u64 = 1 << 20;

/// What a new store begins with.
const FIRST: &str = include_str!("first.toml");

/// Something in the file that can't be taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}, column {column}: {what}")]
pub struct Fault {
    /// From 1.
    pub line: usize,
    /// In characters, from 1.
    pub column: usize,
    /// What is wrong, and what is allowed.
    pub what: String,
}

/// Why there are no settings.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// What the file says makes no sense.
    #[error("{0}")]
    Fault(#[from] Fault),
    /// A change that can't be made; nothing was changed. Why, and which command helps.
    #[error("{0}")]
    Refused(String, &'static str),
    /// A change of what is not there. What, and which command says what is.
    #[error("{0}")]
    Missing(String, &'static str),
    /// It can't be read or written.
    #[error("{what}: {source}")]
    Io {
        /// What was being done.
        what: &'static str,
        /// What the system says.
        source: io::Error,
    },
}

impl ConfigError {
    /// For a person, who asked for something of the store in this directory.
    #[must_use]
    pub fn failure(&self, what: &str, store: &Path) -> Failure {
        let file = store.join(FILE);
        let file = file.display();
        match self {
            Self::Fault(fault) => {
                let next = format!("correct {file}; what it may say is in docs/CONFIG.md");
                Failure::usage(what, format!("{file}, {fault}"), next)
            }
            Self::Refused(why, next) => Failure::usage(what, why, *next),
            Self::Missing(why, next) => Failure::new(NOT_FOUND, what, why, *next),
            Self::Io { what: doing, source } => {
                let code = match Error::io(*doing, io::Error::from(source.kind())) {
                    Error::NoSpace { .. } => crate::console::FAILED,
                    _ if matches!(
                        source.kind(),
                        io::ErrorKind::InvalidData | io::ErrorKind::PermissionDenied
                    ) =>
                    {
                        USAGE
                    }
                    _ => crate::console::FAILED,
                };
                let next = format!("see the reason, set {file} right, and run the command again");
                Failure::new(code, what, format!("{doing} {file}: {source}"), next)
            }
        }
    }
}

/// What a store's file says; none: there is none.
///
/// # Errors
/// A [`Fault`], or what the system says.
pub fn read(disk: &dyn Disk) -> Result<Option<Settings>, ConfigError> {
    text(disk)?.map(|text| parse::parse(&text).map_err(ConfigError::from)).transpose()
}

/// Options for opening the store in a directory, with what its file says; and whether there is one.
///
/// # Errors
/// As of [`read`].
pub fn options(store: &Path, options: Options) -> Result<(Options, bool), ConfigError> {
    let disk = match RealDisk::open(store, Engine::Plain) {
        Ok(disk) => disk,
        // Opening the store will say it better.
        Err(_) => return Ok((options, true)),
    };
    let read = read(&disk)?;
    let found = read.is_some();
    Ok((Options { settings: read.unwrap_or_else(Settings::keep_all), ..options }, found))
}

/// Writes the file of a new store; says what it says.
///
/// # Errors
/// What the system says.
pub fn create(disk: &dyn Disk) -> Result<Settings, ConfigError> {
    replace(disk, FIRST)?;
    Ok(parse::parse(FIRST)?)
}

/// Changes the file; says what it says then. Only the holder of the store's lock does that, one change at a time.
///
/// # Errors
/// A [`Fault`] of what is there, [`ConfigError::Refused`] for a change that makes no sense, [`ConfigError::Missing`] for one of what is not
/// there, or what the system says.
pub fn change(disk: &dyn Disk, change: &Edit) -> Result<Settings, ConfigError> {
    // Without a file everything is kept, and what is not said by this change stays so.
    let old = text(disk)?.unwrap_or_else(|| edit::WITHOUT_FILE.to_owned());
    parse::parse(&old)?;
    let new = edit::apply(&old, change)?;
    // What is written can be read.
    let settings = parse::parse(&new)?;
    replace(disk, &new)?;
    Ok(settings)
}

/// What the file says of peers.
///
/// # Errors
/// As of [`read`].
pub fn peering(disk: &dyn Disk) -> Result<Peering, ConfigError> {
    Ok(parse::parse_all(&text(disk)?.unwrap_or_default())?.1)
}

/// Changes what the file says of peers; says what it says then. Only the holder of the store's lock does that, one change at a time.
///
/// # Errors
/// As of [`change`].
pub fn change_peering(disk: &dyn Disk, change: &PeeringEdit) -> Result<Peering, ConfigError> {
    let old = text(disk)?.unwrap_or_else(|| edit::WITHOUT_FILE.to_owned());
    peering::check(&parse::parse_all(&old)?.1, change)?;
    let new = peering::apply(&old, change)?;
    let peering = parse::parse_all(&new).map_err(|fault| ConfigError::Refused(fault.what, peering::HELP))?.1;
    replace(disk, &new)?;
    Ok(peering)
}

fn text(disk: &dyn Disk) -> Result<Option<String>, ConfigError> {
    let failed = |source| ConfigError::Io { what: "reading", source };
    let file = match disk.open(Path::new(FILE), false) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(failed(e)),
    };
    let len = file.len().map_err(failed)?;
    if len > MOST_BYTES {
        let why = format!("it has {len} bytes, and may have {MOST_BYTES}");
        return Err(failed(io::Error::new(io::ErrorKind::InvalidData, why)));
    }
    let mut bytes = vec![0; len as usize];
    let read = file.read_at(&mut bytes, 0).map_err(failed)?;
    bytes.truncate(read);
    String::from_utf8(bytes).map(Some).map_err(|e| {
        let valid = e.utf8_error().valid_up_to();
        let before = String::from_utf8_lossy(&e.as_bytes()[..valid]).into_owned();
        parse::at(&before, before.len(), "it is not UTF-8 from here on").into()
    })
}

fn replace(disk: &dyn Disk, text: &str) -> Result<(), ConfigError> {
    let write = || -> io::Result<()> {
        let next = Path::new(NEXT);
        let file = match disk.create(next) {
            // A crash left it.
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                disk.remove(next)?;
                disk.create(next)
            }
            made => made,
        }?;
        file.write_at(&[text.as_bytes()], 0)?;
        file.sync()?;
        disk.rename(next, Path::new(FILE))?;
        disk.sync_dir(Path::new(""))
    };
    write().map_err(|source| ConfigError::Io { what: "writing", source })
}

/// What is said of one path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// From the root of the store.
    pub path: String,
    /// What is kept there, if it says so.
    pub keep: Option<Policy>,
    /// When versions are made there, if it says so.
    pub versions: Option<Making>,
}

/// All rules, by path.
#[must_use]
pub fn rules(settings: &Settings) -> Vec<Rule> {
    let (keep, making) = (&settings.retention.rules, &settings.making.rules);
    let paths: BTreeSet<&Vec<u8>> = keep.keys().chain(making.keys()).collect();
    let rule = |path: &Vec<u8>| Rule {
        path: String::from_utf8_lossy(path).into_owned(),
        keep: keep.get(path).cloned(),
        versions: making.get(path).copied(),
    };
    paths.into_iter().map(rule).collect()
}

/// The path of a rule, as rules have it: without slashes that say nothing.
///
/// # Errors
/// What is wrong with it.
pub fn clean_path(path: &str) -> Result<String, String> {
    parse::clean(path).map(|clean| String::from_utf8_lossy(&clean).into_owned())
}
