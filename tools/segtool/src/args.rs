//! The command line.

use std::{path::PathBuf, str::FromStr};

use clap::{Args, Parser, Subcommand, ValueEnum};
use segfs::base::{Ino, Lsn, ObjectId, SegmentId};

/// Looks inside a segfs store, mounted or not, copied or damaged. Changes nothing, but for `index rebuild`.
#[derive(Debug, Parser)]
#[command(
    name = "segtool",
    version,
    after_help = "\
Examples:
  segtool verify /srv/store            check every checksum
  segtool segments /srv/store --json   the segments of the log, for a program

Exit codes: 0 fine, 1 failed, 2 usage, 3 not found, 5 damage found, 7 in use."
)]
pub struct Cli {
    /// Print JSON instead of text
    #[arg(long, global = true)]
    pub json: bool,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// List the segments of the log: state, sizes, what is live and dead in them
    #[command(after_help = "\
Examples:
  segtool segments /srv/store
  segtool segments /srv/store --json | jq '.segments[] | select(.dead_bytes > 1000000)'")]
    Segments {
        /// The store's directory
        store: PathBuf,
    },
    /// Print the records of one segment, one a line
    #[command(after_help = "\
Examples:
  segtool dump /srv/store 7 --kind operation
  segtool dump /srv/store 7 --object 12 --lsn 400..500 --json")]
    Dump(Dump),
    /// Check every checksum, every footer, the chain of segments, and the index against the log
    #[command(after_help = "\
Examples:
  segtool verify /srv/store
  segtool verify /srv/store --deep --json")]
    Verify {
        /// The store's directory
        store: PathBuf,
        /// Also read every version whose content hash is known, and compare
        #[arg(long)]
        deep: bool,
    },
    /// Sum up a store: ids, sizes, records, versions, what is live, history and dead
    #[command(after_help = "\
Examples:
  segtool stat /srv/store
  segtool stat /srv/store --json | jq .bytes.dead")]
    Stat {
        /// The store's directory
        store: PathBuf,
    },
    /// Check the index, or build it again from the log
    #[command(after_help = "\
Examples:
  segtool index check /srv/store
  segtool index rebuild /srv/store")]
    Index {
        /// What to do with it.
        #[command(subcommand)]
        command: IndexCommand,
    },
}

/// The commands about the index.
#[derive(Debug, Subcommand)]
pub enum IndexCommand {
    /// Replay the log and compare every row with the index on disk
    #[command(after_help = "\
Examples:
  segtool index check /srv/store
  segtool index check /srv/store --json")]
    Check {
        /// The store's directory
        store: PathBuf,
    },
    /// Build the index again from the log; the store must not be mounted
    #[command(after_help = "\
Examples:
  segtool index rebuild /srv/store
  segtool index rebuild /srv/store --json")]
    Rebuild {
        /// The store's directory
        store: PathBuf,
    },
}

/// Arguments of `dump`.
#[derive(Debug, Args)]
pub struct Dump {
    /// The store's directory
    pub store: PathBuf,
    /// The segment: its id, or the name of its file
    #[arg(value_parser = segment)]
    pub segment: SegmentId,
    /// Only records about this object: an inode number, or an object id
    #[arg(long, value_name = "OBJECT")]
    pub object: Option<Object>,
    /// Only records with these LSNs, both ends included; either may be left out
    #[arg(long, value_name = "A..B")]
    pub lsn: Option<Lsns>,
    /// Only records of this kind
    #[arg(long, value_enum)]
    pub kind: Option<Kind>,
    /// Print the raw payload of each record too
    #[arg(long, value_enum, value_name = "FORM")]
    pub payload: Option<Payload>,
}

/// Kinds of records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// Bytes of a file
    Extent,
    /// A list of facts
    Operation,
    /// Rows of the index as of an LSN
    Base,
    /// The end of a batch; not shown unless asked for
    Batch,
    /// The list at the end of a sealed segment; not shown unless asked for
    Footer,
}

/// How to print a payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Payload {
    /// Two digits a byte
    Hex,
}

/// An object, as people name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Object {
    /// By its inode number here.
    Ino(Ino),
    /// By its id.
    Id(ObjectId),
}

impl FromStr for Object {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        if let Ok(ino) = s.parse() {
            return Ok(Self::Ino(ino));
        }
        s.parse().map(Self::Id).map_err(|_| "neither an inode number nor an object id".into())
    }
}

/// LSNs from the first to the second, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lsns(pub Lsn, pub Lsn);

impl FromStr for Lsns {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        let number = |s: &str, default| {
            if s.is_empty() { Ok(default) } else { s.parse().map_err(|_| format!("{s:?} is not an LSN")) }
        };
        let Some((a, b)) = s.split_once("..") else {
            let one = s.parse().map_err(|_| "not of the form A..B".to_owned())?;
            return Ok(Self(one, one));
        };
        let (a, b) = (number(a, Lsn::new(0))?, number(b, Lsn::MAX)?);
        if a > b { Err(format!("{a} comes after {b}")) } else { Ok(Self(a, b)) }
    }
}

fn segment(s: &str) -> Result<SegmentId, String> {
    let name = s.rsplit('/').next().unwrap_or(s);
    if let Some(id) = segfs::segment::parse_name(name) {
        return Ok(id);
    }
    s.parse().map_err(|_| "neither a segment's id nor the name of its file".into())
}
