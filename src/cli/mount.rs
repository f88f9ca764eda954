//! `segfs mount`: from two directories to a filesystem that answers, and back.

use std::{
    io::{self, BufRead, BufReader, Write},
    path::Path,
    process::{Command, Stdio},
    sync::{Arc, mpsc},
    time::Duration,
};

use nix::sys::signal::{SigSet, Signal};
use segfs::{
    fuse,
    store::{Options, Store},
    vfs::Vfs,
};

use super::{
    MountArgs,
    failure::{FAILED, Failure, IN_USE, NOT_FOUND, Outcome},
    mounts,
};

/// What the process in the background says once the mount answers.
const READY: &str = "READY";
/// How long a mount that was told to end waits for files that are still open.
const GRACE: Duration = Duration::from_secs(10);

enum Event {
    /// Unmounted, by whomever.
    Over(io::Result<()>),
    /// SIGINT or SIGTERM.
    Signal,
}

/// Mounts, and stays until it is unmounted.
pub fn run(args: &MountArgs, json: bool) -> Outcome<()> {
    let options = options(args)?;
    if options.remount {
        return remount(args, &options);
    }
    if args.background {
        return in_background(args, json);
    }
    if args.say_ready {
        // Of its own session: what happens to the terminal is none of its business.
        let _ = rustix::process::setsid();
    }
    // Before any thread starts, so that they all leave signals to the one that waits for them.
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGINT);
    signals.add(Signal::SIGTERM);
    signals
        .thread_block()
        .map_err(|e| Failure::system("signals can't be waited for", &io::Error::from(e)))?;

    let made_dir = prepare_mountpoint(&args.mountpoint, &args.store)?;
    let opened = open_store(&args.store).and_then(|(store, made)| {
        serve(&store, args, &options).map(|(vfs, mount)| (store, made, vfs, mount))
    });
    let (store, made_store, vfs, mount) = opened.inspect_err(|_| {
        if made_dir {
            let _ = std::fs::remove_dir(&args.mountpoint);
        }
    })?;
    announce(args, &store, made_store, made_dir, json);
    let waited = wait(mount, signals, &mounts::absolute(&args.mountpoint));
    vfs.release_all();
    store.close().map_err(|e| Failure::of_store(&e, &args.store))?;
    waited.map_err(|e| Failure::system("the mount ended", &e))?;
    say(&format!("unmounted; everything is in {}", args.store.display()));
    Ok(())
}

fn options(args: &MountArgs) -> Outcome<fuse::Options> {
    let mut options = fuse::Options::for_user(rustix::process::geteuid().is_root());
    for list in &args.o {
        options.apply(list).map_err(|e| {
            let what = format!("the mount option \"{}\" is not known", e.0);
            Failure::usage(what, format!("these are: {}", fuse::KNOWN_OPTIONS), "segfs mount --help")
        })?;
    }
    Ok(options)
}

/// Changes what can be changed of a mount that is there.
fn remount(args: &MountArgs, options: &fuse::Options) -> Outcome<()> {
    let what = format!("{} can't be mounted anew", args.mountpoint.display());
    let Some(there) = mounts::on(&args.mountpoint) else {
        return Err(Failure::new(NOT_FOUND, what, "no segfs is mounted there", "segfs status"));
    };
    mounts::change(&there.dir, options).map_err(|e| Failure::system(&what, &e))
}

/// Checks the mountpoint, clearing a dead mount off it and making it if it is not there: then true.
fn prepare_mountpoint(dir: &Path, store: &Path) -> Outcome<bool> {
    let what = format!("{} can't be mounted on", dir.display());
    if !Path::new("/dev/fuse").exists() {
        let why = "this system has no /dev/fuse";
        return Err(Failure::new(FAILED, what, why, "modprobe fuse, as root"));
    }
    if mounts::is_dead(dir) {
        mounts::take_down(dir, true).map_err(|e| Failure::system(&what, &e))?;
        say(&format!("cleared a dead mount off {}", dir.display()));
    }
    let (here, there) = (mounts::absolute(dir), mounts::absolute(store));
    if here.starts_with(&there) || there.starts_with(&here) {
        let why = "the store and the mountpoint lie inside each other";
        return Err(Failure::usage(what, why, "choose two separate directories"));
    }
    match std::fs::read_dir(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            std::fs::create_dir_all(dir).map_err(|e| Failure::system(&what, &e))?;
            Ok(true)
        }
        Err(e) if e.kind() == io::ErrorKind::NotADirectory => {
            Err(Failure::usage(what, "it is not a directory", "choose an empty directory"))
        }
        Err(e) => Err(Failure::system(&what, &e)),
        Ok(_) if mounts::is_mountpoint(dir) => {
            let why = mounts::on(dir).map_or_else(
                || "another filesystem is mounted there".to_owned(),
                |m| format!("the store {} is mounted there already", m.store.display()),
            );
            Err(Failure::new(IN_USE, what, why, format!("segfs umount {}", dir.display())))
        }
        Ok(mut entries) => {
            if entries.next().is_some() {
                let why = "it is not empty, and what is in it would be hidden";
                return Err(Failure::usage(what, why, "choose an empty directory"));
            }
            Ok(false)
        }
    }
}

/// Opens the store, or makes it where there is nothing: then true.
fn open_store(path: &Path) -> Outcome<(Arc<Store>, bool)> {
    let failed = |e| Failure::of_store(&e, path);
    let nothing_there = match std::fs::read_dir(path) {
        Ok(mut entries) => entries.next().is_none(),
        Err(e) if e.kind() == io::ErrorKind::NotFound => true,
        Err(e) => return Err(Failure::system(format!("the store {} can't be used", path.display()), &e)),
    };
    let store = if nothing_there { super::create(path) } else { Store::open(path, Options::default()) };
    Ok((Arc::new(store.map_err(failed)?), nothing_there))
}

fn serve(store: &Arc<Store>, args: &MountArgs, options: &fuse::Options) -> Outcome<(Arc<Vfs>, fuse::Mount)> {
    store.start_maintenance().map_err(|e| Failure::of_store(&e, &args.store))?;
    let vfs = Arc::new(Vfs::new(Arc::clone(store)));
    let source = mounts::absolute(&args.store);
    let mount = fuse::Mount::new(&vfs, &args.mountpoint, &source, options).map_err(|e| {
        let _ = store.close();
        let what = format!("{} can't be mounted on", args.mountpoint.display());
        Failure::new(FAILED, what, e.to_string(), "run as root, or install fusermount3 (package fuse3)")
    })?;
    mounts::read_ahead(&args.mountpoint);
    Ok((vfs, mount))
}

fn announce(args: &MountArgs, store: &Store, made_store: bool, made_dir: bool, json: bool) {
    let (dir, path) = (mounts::absolute(&args.mountpoint), mounts::absolute(&args.store));
    if json {
        say(&serde_json::json!({"mountpoint": dir, "store": path, "id": store.id().to_string()}).to_string());
    } else {
        let new = |made| if made { " (new)" } else { "" };
        say(&format!("store       {}{}", path.display(), new(made_store)));
        say(&format!("mounted on  {}{}", dir.display(), new(made_dir)));
        let recovered = store.recovered();
        if recovered.log.replayed > 0 {
            say(&format!("recovered   {} records since the last clean stop", recovered.log.replayed));
        }
        let stop = if args.say_ready { "" } else { "Ctrl-C, or " };
        say(&format!("stop it     {stop}segfs umount {}", dir.display()));
    }
    if args.say_ready {
        say(READY);
        // Whoever started this is gone soon, and with it what listens here.
        if let Ok(null) = rustix::fs::open("/dev/null", rustix::fs::OFlags::RDWR, rustix::fs::Mode::empty()) {
            let _ = rustix::stdio::dup2_stdout(&null);
            let _ = rustix::stdio::dup2_stderr(&null);
        }
    }
}

/// Waits until the mount is over; ends it when a signal asks for it.
fn wait(mount: fuse::Mount, signals: SigSet, dir: &Path) -> io::Result<()> {
    let (send, events) = mpsc::sync_channel(4);
    let on_signal = send.clone();
    std::thread::Builder::new()
        .name("segfs-mount".into())
        .spawn(move || send.send(Event::Over(mount.wait())))?;
    std::thread::Builder::new()
        .name("segfs-signal".into())
        .spawn(move || while signals.wait().is_ok() && on_signal.send(Event::Signal).is_ok() {})?;
    match events.recv() {
        Ok(Event::Over(result)) => return result,
        Ok(Event::Signal) | Err(_) => {}
    }
    match mounts::take_down(dir, false) {
        Err(e) if e.kind() == io::ErrorKind::ResourceBusy => {
            say(&format!(
                "{} is in use: waiting up to {} s for open files; again to stop now",
                dir.display(),
                GRACE.as_secs()
            ));
            mounts::take_down(dir, true)?;
        }
        other => other?,
    }
    match events.recv_timeout(GRACE) {
        Ok(Event::Over(result)) => result,
        Ok(Event::Signal) | Err(_) => Ok(()),
    }
}

/// Starts this program again, without `--background`, and waits until its mount answers.
fn in_background(args: &MountArgs, json: bool) -> Outcome<()> {
    let what = format!("{} can't be mounted on", args.mountpoint.display());
    let failed = |e: io::Error| Failure::system(&what, &e);
    let mut command = Command::new(std::env::current_exe().map_err(failed)?);
    command.arg("mount").arg("--say-ready");
    if json {
        command.arg("--json");
    }
    for list in &args.o {
        command.arg("-o").arg(list);
    }
    command.arg("--").arg(&args.store).arg(&args.mountpoint);
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().map_err(failed)?;
    if let Some(said) = child.stdout.take() {
        for line in BufReader::new(said).lines().map_while(Result::ok) {
            if line == READY {
                return Ok(());
            }
            say(&line);
        }
    }
    // It has said why.
    let code = child.wait().map_err(failed)?.code().unwrap_or(1);
    std::process::exit(code);
}

/// Prints a line; nobody may be listening any more.
fn say(line: &str) {
    let _ = writeln!(io::stdout(), "{line}");
}
