//! The command line: arguments to calls of the library, errors to messages and exit codes.

mod doctor;
mod du;
mod failure;
mod gc;
mod history;
mod mount;
mod mounts;
mod named;
mod peer;
mod place;
mod purge;
mod replicate;
mod scrub;
mod serve;
mod status;
mod target;
mod umount;

use std::{ffi::OsString, path::PathBuf, process::ExitCode};

use clap::{Args, CommandFactory, Parser, Subcommand};
use segfs::{
    base::Error,
    config, console,
    disk::{Engine, RealDisk},
    store::{Options, Store},
};

use failure::{Failure, Outcome, Output};

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
    /// Keep a store open without mounting it: a replica for peers.
    #[command(after_help = "Examples:
  segfs serve /srv/replica --listen 192.0.2.1:7420
  segfs serve --background /srv/replica")]
    Serve(ServeArgs),
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
        /// A mountpoint, a path inside one, or a store; without, all mounts.
        at: Option<PathBuf>,
    },
    #[command(flatten)]
    History(history::Command),
    /// Other stores: who is trusted, and how to become so.
    #[command(
        after_help = "Examples:\n  segfs peer invite --grant /:two-way\n  segfs peer join host-a:7420 CODE --grant /:two-way"
    )]
    Peer {
        #[command(subcommand)]
        what: peer::PeerCommand,
    },
    /// Rules by which this store goes to others, and how they stand.
    #[command(
        after_help = "Examples:\n  segfs replicate add all --to peer:host-b --two-way\n  segfs replicate status --watch"
    )]
    Replicate {
        #[command(subcommand)]
        what: replicate::ReplicateCommand,
    },
    /// Let go what no policy keeps, and give back what is dead, now.
    #[command(after_help = "Examples:\n  segfs gc --dry-run ~/mnt\n  segfs gc --json /srv/store")]
    Gc {
        /// A directory in a mount, or a store that nobody has mounted.
        #[arg(default_value = ".")]
        at: PathBuf,
        /// Only say what would go.
        #[arg(long)]
        dry_run: bool,
    },
    /// Show how many bytes are live, history and dead.
    #[command(
        after_help = "Examples:\n  segfs du --versions ~/mnt/docs\n  segfs du --versions --json /srv/store"
    )]
    Du {
        /// A file or directory in a mount, or a store that nobody has mounted.
        #[arg(default_value = ".")]
        path: PathBuf,
        /// Say what history takes beside the present; du(1) knows only that.
        #[arg(long, required = true)]
        versions: bool,
    },
    /// Remove a file and all its versions, or one version, for good.
    #[command(
        after_help = "Examples:\n  segfs purge --wait secrets.txt\n  segfs purge --json --store /srv/store docs/report.txt@3"
    )]
    Purge {
        /// The file, with @V for one version: @3, @-1, @2h, @2026-11-23T02:45, @tag:NAME, @LSN:n, @ID. A file that is really
        /// called so wins.
        #[arg(value_name = "PATH[@V]")]
        path: PathBuf,
        /// The version, where PATH is to be taken as it is.
        #[arg(long, value_name = "V", allow_hyphen_values = true)]
        version: Option<String>,
        /// Wait until the bytes are overwritten on the disk.
        #[arg(long)]
        wait: bool,
        /// The path is one in this store, which nobody has mounted.
        #[arg(long)]
        store: Option<PathBuf>,
    },
    /// Read everything in a store, and report what is damaged.
    #[command(after_help = "Examples:\n  segfs scrub --rate 20M ~/mnt\n  segfs scrub --json /srv/store")]
    Scrub {
        /// A directory in a mount, or a store that nobody has mounted.
        #[arg(default_value = ".")]
        at: PathBuf,
        /// Bytes a second at most, with K, M or G; without, as fast as the disk is.
        #[arg(long, value_parser = scrub::rate)]
        rate: Option<u64>,
        /// From the beginning, also if the last one was broken off.
        #[arg(long)]
        anew: bool,
    },
    /// Look at this machine: what stands in the way of mounting, or of speed, and what to do about it.
    #[command(after_help = "Examples:\n  segfs doctor\n  segfs doctor --json /srv/store")]
    Doctor {
        /// Where a store is or will be; without, here.
        store: Option<PathBuf>,
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
    /// Mount a moment of the store, read-only: a time, a tag, or a record (LSN:n). Works beside a mount of the present.
    #[arg(long, value_name = "TIME|TAG|LSN:n")]
    at: Option<String>,
    /// Listen there for peers: ADDRESS:PORT. Without, as config.toml says.
    #[arg(long, value_name = "ADDRESS:PORT", conflicts_with = "at")]
    listen: Option<String>,
    /// Says READY on standard output once the mount answers.
    #[arg(long, hide = true)]
    say_ready: bool,
}

#[derive(Args, Clone)]
struct ServeArgs {
    /// The store's directory; made if it is not there.
    store: PathBuf,
    /// Return once it answers, and go on in the background.
    #[arg(long)]
    background: bool,
    /// Listen there for peers: ADDRESS:PORT. Without, as config.toml says.
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: Option<String>,
    /// Says READY on standard output once it answers.
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
    let mut out = Output::new(cli.json);
    let done = dispatch(&cli, &mut out);
    match done.and_then(|()| out.finish()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            // What was found before it failed is worth as much as without the failure.
            let _ = out.finish();
            failure.tell("segfs", cli.json)
        }
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

fn dispatch(cli: &Cli, out: &mut Output) -> Outcome<()> {
    match &cli.command {
        Command::Mount(args) => mount::run(args, cli.json),
        Command::Serve(args) => serve::run(args, cli.json),
        Command::Init { store } => init(store, out),
        Command::Umount { dir, lazy } => umount::run(dir, *lazy, out),
        Command::History(command) => history::run(command, cli.json),
        Command::Peer { what } => peer::run(what, out),
        Command::Replicate { what } => replicate::run(what, out),
        Command::Doctor { store } => doctor::run(store.as_deref(), out),
        Command::Gc { at, dry_run } => gc::run(at, *dry_run, out),
        Command::Du { path, versions: _ } => du::run(path, out),
        Command::Purge { path, version, wait, store } => {
            purge::run(path, version.as_deref(), *wait, store.as_deref(), out)
        }
        Command::Scrub { at, rate, anew } => scrub::run(at, rate.unwrap_or(0), *anew, out),
        Command::Status { at } => status::run(at.as_deref(), out),
    }
}

fn init(path: &std::path::Path, out: &mut Output) -> Outcome<()> {
    let store = create(path).map_err(|e| Failure::of_place(&e, path))?;
    store.close().map_err(|e| Failure::of_store(&e, path))?;
    if out.json {
        return out
            .value(&serde_json::json!({"store": path.display().to_string(), "id": store.id().to_string()}));
    }
    out.line(&format!("made the store {} ({})", path.display(), store.id()))?;
    out.line(&format!("mount it: segfs mount {} DIR", path.display()))
}

/// Opens a store that is there, held to what its `config.toml` says. What is only read is not held to it.
fn open(path: &std::path::Path, options: Options, progress: &dyn Fn(u64, u64)) -> Outcome<Opened> {
    let (mut options, mut has_config) = (options, true);
    if !options.read_only {
        (options, has_config) = config::options(path, options)
            .map_err(|e| e.failure(&format!("the store {} can't be opened", path.display()), path))?;
    }
    let store =
        Store::open_on(path, options, Engine::Auto, progress).map_err(|e| Failure::of_store(&e, path))?;
    Ok(Opened { store, has_config })
}

/// A store that was opened.
struct Opened {
    store: Store,
    /// It has a file of settings; without one everything is kept.
    has_config: bool,
}

/// Makes a store, whose root directory belongs to whoever makes it. Should that fail, nothing of it stays behind.
fn create(path: &std::path::Path) -> segfs::base::Result<Store> {
    let was_there = path.exists();
    let was_empty = std::fs::read_dir(path).map_or(!was_there, |mut d| d.next().is_none());
    let made = make(path);
    if matches!(made, Err(segfs::base::Error::NoSpace { .. })) && was_empty {
        // Only what a new store has; the first failure is the one to tell.
        for dir in ["segments", "spare", "index"] {
            let _ = std::fs::remove_dir_all(path.join(dir));
        }
        for file in ["STORE", "LOCK", config::FILE] {
            let _ = remove_file(&path.join(file));
        }
        if !was_there {
            let _ = std::fs::remove_dir(path);
        }
    }
    made
}

#[allow(clippy::disallowed_methods)] // the edge
fn remove_file(path: &std::path::Path) -> std::io::Result<()> {
    std::fs::remove_file(path)
}

fn make(path: &std::path::Path) -> segfs::base::Result<Store> {
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
    let disk = RealDisk::open(path, Engine::Plain).map_err(|e| Error::io("opening the store", e))?;
    let settings = config::create(&disk).map_err(|e| match e {
        config::ConfigError::Io { what, source } => Error::io(format!("{what} {}", config::FILE), source),
        e => Error::BadRequest(e.to_string()),
    })?;
    store.set_settings(settings);
    // Is there room for it at all?
    store.sync_all()?;
    Ok(store)
}
