//! The command line: arguments to calls of the library, errors to messages and exit codes.

mod failure;
mod mount;
mod mounts;
mod status;
mod umount;

use std::{ffi::OsString, path::PathBuf, process::ExitCode};

use clap::{Args, CommandFactory, Parser, Subcommand};
use segfs::{
    console,
    store::{Options, Store},
};

use failure::{Failure, Outcome};

/// A filesystem that never forgets.
#[derive(Parser)]
#[command(name = "segfs", version, about, arg_required_else_help = true, after_help = EXAMPLES)]
struct Cli {
    /// Print JSON, also for errors.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "Examples:
  segfs mount ./store ./mnt              makes both if they are not there; Ctrl-C unmounts
  segfs mount --background ./store ./mnt && cp -a ~/src ./mnt && segfs umount ./mnt";

#[derive(Subcommand)]
enum Command {
    /// Mount a store on a directory.
    #[command(after_help = "Examples:
  segfs mount ./store ./mnt
  segfs mount --background -o ro,allow_other /srv/store /mnt/files")]
    Mount(MountArgs),
    /// Make an empty store.
    #[command(after_help = "Examples:\n  segfs init ./store\n  segfs init --json /srv/store")]
    Init {
        /// A directory that is empty or not there.
        store: PathBuf,
    },
    /// Unmount, and wait until the store is closed.
    #[command(after_help = "Examples:\n  segfs umount ./mnt\n  segfs umount --lazy ./mnt")]
    Umount {
        /// Where it is mounted.
        dir: PathBuf,
        /// Take the mount out of sight at once; it ends when its last file is closed.
        #[arg(long)]
        lazy: bool,
    },
    /// Show what is mounted, or how a store stands.
    #[command(after_help = "Examples:\n  segfs status\n  segfs status --json ./mnt")]
    Status {
        /// A mountpoint or a store; without, all mounts.
        at: Option<PathBuf>,
    },
}

#[derive(Args, Clone)]
struct MountArgs {
    /// The store's directory; made if it is not there.
    store: PathBuf,
    /// An empty directory; made if it is not there.
    mountpoint: PathBuf,
    /// Mount options, separated by commas: ro, allow_other, nodev, nosuid, noexec, sync, writeback, ...
    #[arg(short, long = "option", value_name = "OPTIONS")]
    o: Vec<String>,
    /// Return once the mount answers, and go on in the background.
    #[arg(long)]
    background: bool,
    /// Says READY on standard output once the mount answers.
    #[arg(long, hide = true)]
    say_ready: bool,
}

/// Runs what the arguments say.
pub fn run() -> ExitCode {
    let words = as_command(std::env::args_os().collect());
    let cli: Cli = match console::parse("segfs", &words) {
        Ok(cli) => cli,
        Err(code) => return code,
    };
    match dispatch(&cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.tell("segfs", cli.json),
    }
}

/// mount(8) and fstab call the program as `segfs STORE DIR -o OPTIONS` and want it to return: that is
/// `segfs mount --background`.
fn as_command(args: Vec<OsString>) -> Vec<OsString> {
    let known = |word: &OsString| {
        let names = Cli::command();
        word == "help" || names.get_subcommands().any(|c| *word == c.get_name())
    };
    let is_word = |a: &OsString| !a.as_encoded_bytes().starts_with(b"-");
    let (Some(first), Some(second)) = (args.get(1), args.get(2)) else { return args };
    if !is_word(first) || !is_word(second) || known(first) {
        return args;
    }
    // Flags of mount(8) that a helper may be handed and that mean nothing here.
    let rest = args[1..].iter().filter(|a| !["-n", "-s", "-v"].iter().any(|flag| a == flag));
    let start = [args[0].clone(), "mount".into(), "--background".into()];
    start.into_iter().chain(rest.cloned()).collect()
}

fn dispatch(cli: &Cli) -> Outcome<()> {
    match &cli.command {
        Command::Mount(args) => mount::run(args, cli.json),
        Command::Init { store } => init(store, cli.json),
        Command::Umount { dir, lazy } => umount::run(dir, *lazy),
        Command::Status { at } => status::run(at.as_deref(), cli.json),
    }
}

fn init(path: &std::path::Path, json: bool) -> Outcome<()> {
    let failed = |e| Failure::of_store(&e, path);
    let store = create(path).map_err(failed)?;
    store.close().map_err(failed)?;
    if json {
        println!("{}", serde_json::json!({"store": path, "id": store.id().to_string()}));
    } else {
        println!("made the store {} ({})", path.display(), store.id());
        println!("mount it: segfs mount {} DIR", path.display());
    }
    Ok(())
}

/// Makes a store, whose root directory belongs to whoever makes it.
fn create(path: &std::path::Path) -> segfs::base::Result<Store> {
    use segfs::{
        base::{Clock, Ino, SystemClock},
        format::facts::{Owner, Time},
        store::SetAttributes,
    };
    let store = Store::create(path, Options::default())?;
    let owner = Owner { uid: rustix::process::geteuid().as_raw(), gid: rustix::process::getegid().as_raw() };
    let now = Time::from_ns(SystemClock.wall_ns());
    let set = SetAttributes { owner: Some(owner), modified: Some(now), ..SetAttributes::default() };
    store.set_attributes(Ino::FIRST, &set)?;
    Ok(store)
}
