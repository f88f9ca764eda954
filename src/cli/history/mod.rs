//! The commands about history. They work through paths: what the mount shows, and ordinary writes, so that the
//! kernel's permissions decide.

mod at;
mod diff;
mod list;
mod lock;
mod name;
mod operator;
mod place;
mod restore;
mod retain;
mod show;
mod tag;
mod tree;
mod versions;

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::failure::Outcome;
pub use at::{check_store, moment_of, mount_beside};
pub use place::Base;
pub use versions::{named, split, split_by};

/// Where the path of a command is.
#[derive(Args, Clone)]
pub struct StoreArg {
    /// The path is one in this store, which nobody has mounted.
    #[arg(long, value_name = "STORE")]
    store: Option<PathBuf>,
}

/// One file, and which version of it.
#[derive(Args, Clone)]
pub struct FileArg {
    /// The file, with @V for a version: @3, @-1, @2h, @2026-11-23T02:45, @tag:NAME, @LSN:n, @ID. A file that is really
    /// called so wins.
    #[arg(value_name = "FILE@V")]
    file: PathBuf,
    /// The version, where FILE is to be taken as it is.
    #[arg(long, value_name = "V", allow_hyphen_values = true)]
    version: Option<String>,
}

/// Commands about history.
#[derive(Subcommand)]
pub enum Command {
    /// List the versions of a file, oldest first.
    #[command(after_help = "Examples:\n  segfs log report.txt\n  segfs log --deleted --json ~/mnt/docs")]
    Log(list::LogArgs),
    /// Print a version of a file.
    #[command(
        after_help = "Examples:\n  segfs cat report.txt@-1\n  segfs cat --version 2026-11-23T02:45 report.txt"
    )]
    Cat {
        #[command(flatten)]
        of: FileArg,
        #[command(flatten)]
        store: StoreArg,
    },
    /// Print the path at which a version can be read.
    #[command(after_help = "Examples:\n  segfs path report.txt@3\n  less \"$(segfs path report.txt@2h)\"")]
    Path {
        #[command(flatten)]
        of: FileArg,
    },
    /// Show what changed between two versions, or between one and the present.
    #[command(after_help = "Examples:\n  segfs diff report.txt@-1\n  segfs diff report.txt@3 report.txt@5")]
    Diff {
        /// The older one.
        #[arg(value_name = "FILE@A")]
        a: PathBuf,
        /// The newer one; without, the present of the same file.
        #[arg(value_name = "FILE@B")]
        b: Option<PathBuf>,
        /// The version of the first, where it is to be taken as it is.
        #[arg(long, value_name = "V", allow_hyphen_values = true)]
        version: Option<String>,
        #[command(flatten)]
        store: StoreArg,
    },
    /// Bring a version of a file, or a directory as it was, back into the present.
    #[command(
        after_help = "Examples:\n  segfs restore report.txt@3\n  segfs restore --dry-run docs@yesterday --to docs-of-yesterday"
    )]
    Restore(restore::RestoreArgs),
    /// Bring back a file that was deleted, as it was last.
    #[command(
        after_help = "Examples:\n  segfs undelete report.txt\n  segfs undelete --store ./store docs/report.txt"
    )]
    Undelete {
        /// The name that is gone.
        path: PathBuf,
        #[command(flatten)]
        store: StoreArg,
    },
    /// Name moments.
    #[command(after_help = "Examples:\n  segfs tag add before-upgrade ~/mnt\n  segfs tag list ~/mnt")]
    Tag {
        #[command(subcommand)]
        what: tag::TagCommand,
    },
    /// Lock versions until a date.
    #[command(
        after_help = "Examples:\n  segfs lock set report.txt --until 1y --mode governance\n  segfs lock clear report.txt@3 --bypass-governance"
    )]
    Lock {
        #[command(subcommand)]
        what: lock::LockCommand,
    },
    /// Hold versions until the hold is taken off.
    #[command(after_help = "Examples:\n  segfs hold add report.txt\n  segfs hold rm report.txt@3")]
    Hold {
        #[command(subcommand)]
        what: lock::HoldCommand,
    },
    /// What is kept, and when versions are made, by path.
    #[command(
        after_help = "Examples:\n  segfs retain show ~/mnt/docs\n  segfs retain set ~/mnt/docs --keep last=20"
    )]
    Retain {
        #[command(subcommand)]
        what: retain::RetainCommand,
    },
}

/// Does what a command says.
pub fn run(command: &Command, json: bool) -> Outcome<()> {
    match command {
        Command::Log(args) => in_base(args.store.store.as_ref(), |base| list::run(base, args, json)),
        Command::Cat { of, store } => {
            in_base(store.store.as_ref(), |base| show::cat(base, &of.file, of.version.as_deref()))
        }
        Command::Path { of } => in_base(None, |base| show::path(base, &of.file, of.version.as_deref(), json)),
        Command::Diff { a, b, version, store } => {
            in_base(store.store.as_ref(), |base| diff::run(base, (a, version.as_deref()), b.as_deref(), json))
        }
        Command::Restore(args) => in_base(args.store.store.as_ref(), |base| restore::run(base, args, json)),
        Command::Undelete { path, store } => {
            in_base(store.store.as_ref(), |base| restore::undelete(base, path, json))
        }
        Command::Tag { what } => tag::run(what, json),
        Command::Lock { what } => lock::lock(what, json),
        Command::Hold { what } => lock::hold(what, json),
        Command::Retain { what } => retain::run(what, json),
    }
}

/// Runs a command over paths in mounts, or in a store.
fn in_base(store: Option<&PathBuf>, command: impl FnOnce(&Base) -> Outcome<()>) -> Outcome<()> {
    let base = Base::new(store.map(PathBuf::as_path))?;
    let done = command(&base);
    let closed = base.close(store.map(PathBuf::as_path));
    done.and(closed)
}
