//! `segfs mount`: from two directories to a filesystem that answers, and back.

use std::{
    io::{self, BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Arc, mpsc},
    time::Duration,
};

use nix::sys::signal::{SigSet, Signal};
use segfs::{
    base::{Damage, Error, Lsn},
    config, fuse,
    serve::{
        self, Beat, Control, Events, Peers, Prepared, SOCKET, Served,
        scrub::{Scrubber, Scrubbing},
    },
    store::{Options, Recovered, Store},
    vfs::Vfs,
};

use super::{
    MountArgs,
    failure::{FAILED, Failure, IN_USE, NOT_FOUND, Outcome, Progress},
    history, mounts,
    place::{self, Made},
};

/// What the process in the background says once it answers.
pub(super) const READY: &str = "READY";
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
    let mut options = options(args)?;
    if options.remount {
        return remount(args, &options);
    }
    if let Some(moment) = &args.at {
        if let Some(live) = mounts::of_store(&args.store) {
            let made = place::prepare(&args.mountpoint, &args.store, &options, &|line| note(json, line))?;
            return history::mount_beside(&live, moment, &args.mountpoint, json).inspect_err(|_| made.undo());
        }
        history::check_store(&args.store)?;
        options.read_only = true;
    }
    if options.read_only && args.listen.is_some() {
        let what = format!("{} can't be mounted read-only and listen for peers", args.store.display());
        let why = "what comes from them could not be written down";
        return Err(Failure::usage(what, why, "leave out -o ro, or --listen"));
    }
    if args.background {
        return in_background(args, json);
    }
    if args.say_ready {
        in_own_session();
    }
    let signals = signals()?;

    let made_dir = place::prepare(&args.mountpoint, &args.store, &options, &|line| note(json, line))?;
    let opened = open_store(&args.store, options.read_only, json).and_then(|(store, made)| {
        let prepared = prepare_peers(&store, args, &options);
        match prepared.and_then(|p| serve(&store, args, &options).map(|served| (p, served))) {
            Ok((prepared, (vfs, mount))) => Ok((store, made, prepared, vfs, mount)),
            Err(failure) => {
                // Under its lock still, so that nobody has opened it meanwhile.
                made.undo();
                drop(store);
                Err(failure)
            }
        }
    });
    let (store, made_store, prepared, vfs, mount) = opened.inspect_err(|_| made_dir.undo())?;
    let events = events(&store, args);
    let peers = prepared.and_then(|prepared| peers(&store, prepared, events.as_ref()));
    let (scrubber, scrubbing) = scrubber(&store, events.as_ref()).unzip();
    let others = (events.as_ref(), peers.as_ref());
    let control = control(&store, &vfs, &mount, others, scrubber.as_ref(), args);
    let beat = Beat::start(&vfs, &store, events.as_ref())
        .inspect_err(|e| eprintln!("segfs: no versions are made while files are open: {e}"));
    announce(args, &store, made_store.0.is_some(), made_dir.any(), json);
    let waited = wait(mount, signals, &mounts::absolute(&args.mountpoint), json);
    drop((beat, scrubbing));
    vfs.release_all();
    if let Some(peers) = &peers {
        peers.stop();
    }
    let closed = store.close();
    // It answers to the end, and is gone before the store's lock is.
    drop(control);
    if let Some(why) = store.stopped() {
        return Err(stopped(&args.mountpoint, &args.store, why));
    }
    closed.map_err(|e| Failure::of_store(&e, &args.store))?;
    waited.map_err(|e| Failure::system("the mount ended", &e))?;
    note(json, &format!("unmounted; everything is in {}", args.store.display()));
    Ok(())
}

/// What happens to the terminal is none of its business.
pub(super) fn in_own_session() {
    let _ = rustix::process::setsid();
}

/// The signals that end it. To be asked for before any thread starts, so that they all leave signals to the one that waits for them.
pub(super) fn signals() -> Outcome<SigSet> {
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGINT);
    signals.add(Signal::SIGTERM);
    let blocked = signals.thread_block();
    blocked.map_err(|e| Failure::system("signals can't be waited for", &io::Error::from(e)))?;
    Ok(signals)
}

/// Whoever started this is gone soon, and with it what listens here.
pub(super) fn leave_output() {
    if let Ok(null) = rustix::fs::open("/dev/null", rustix::fs::OFlags::RDWR, rustix::fs::Mode::empty()) {
        let _ = rustix::stdio::dup2_stdout(&null);
        let _ = rustix::stdio::dup2_stderr(&null);
    }
}

/// How a mount ends that had stopped writing.
pub(super) fn stopped(dir: &Path, store: &Path, why: impl Into<String>) -> Failure {
    let (dir, store) = (dir.display(), store.display());
    let next = format!("segtool verify {store}, then segfs mount {store} {dir}");
    Failure::new(FAILED, format!("{dir} is unmounted; it had stopped writing"), why, next)
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
    mounts::change(&there.dir, options).map_err(|e| match e.kind() {
        io::ErrorKind::PermissionDenied => {
            let next = format!(
                "run it as root; or segfs umount {0}, and mount it with other options",
                there.dir.display()
            );
            Failure::usage(&what, "only root may change a mount", next)
        }
        io::ErrorKind::ResourceBusy => {
            let next = format!("fuser -vm {}, to see by whom; then again", there.dir.display());
            Failure::new(IN_USE, &what, "files in it are open for writing", next)
        }
        _ => Failure::system(&what, &e),
    })
}

/// A store that was made on the way: its directory, and those around it that were made too.
pub(super) struct MadeStore(Option<(PathBuf, Made)>);

impl MadeStore {
    /// Was one made?
    pub(super) const fn is_some(&self) -> bool {
        self.0.is_some()
    }

    /// Takes it away again: its directory was empty before, or not there.
    pub(super) fn undo(&self) {
        let Some((path, made)) = &self.0 else { return };
        for entry in std::fs::read_dir(path).into_iter().flatten().flatten() {
            let is_dir = entry.file_type().is_ok_and(|t| t.is_dir());
            #[allow(clippy::disallowed_methods)] // the edge
            let _ = if is_dir {
                std::fs::remove_dir_all(entry.path())
            } else {
                std::fs::remove_file(entry.path())
            };
        }
        made.undo();
    }
}

/// Opens the store, or makes it where there is nothing.
pub(super) fn open_store(path: &Path, read_only: bool, json: bool) -> Outcome<(Arc<Store>, MadeStore)> {
    let failed = |e| Failure::of_place(&e, path);
    let open = |options| {
        let progress = Progress::new("recovering the store", json);
        let told = |done, total| progress.tell(done, total);
        super::open(path, options, &told)
    };
    if read_only {
        let opened = open(Options { read_only, ..Options::default() })?;
        return Ok((Arc::new(opened.store), MadeStore(None)));
    }
    let nothing_there = match std::fs::read_dir(path) {
        Ok(mut entries) => entries.next().is_none(),
        Err(e) if e.kind() == io::ErrorKind::NotFound => true,
        Err(e) => return Err(failed(Error::io(format!("opening {}", path.display()), e))),
    };
    if !nothing_there {
        let opened = open(Options::default())?;
        if !opened.has_config {
            let file = path.join(config::FILE);
            let next = "segfs retain set / --keep ... says what to keep";
            note(json, &format!("keeps       everything, as there is no {}; {next}", file.display()));
        }
        return Ok((Arc::new(opened.store), MadeStore(None)));
    }
    let made = Made::missing(path);
    let store = super::create(path).map_err(|e| {
        // Directories alone: what is in them by now may be the store of somebody who was faster.
        made.undo();
        failed(e)
    })?;
    Ok((Arc::new(store), MadeStore(Some((path.to_owned(), made)))))
}

fn serve(store: &Arc<Store>, args: &MountArgs, options: &fuse::Options) -> Outcome<(Arc<Vfs>, fuse::Mount)> {
    store.start_maintenance().map_err(|e| Failure::of_store(&e, &args.store))?;
    let vfs = Arc::new(Vfs::new(Arc::clone(store)));
    let at = args.at.as_ref().map(|moment| history::moment_of(store, moment)).transpose();
    let options = &fuse::Options { at: at.inspect_err(|_| drop(store.close()))?, ..options.clone() };
    let source = mounts::absolute(&args.store);
    let mount = fuse::Mount::new(&vfs, &args.mountpoint, &source, options).map_err(|e| {
        let _ = store.close();
        let what = format!("{} can't be mounted on", args.mountpoint.display());
        let why = e.to_string().trim().replace('\n', "; ");
        // fusermount3 says why in words.
        let words = ["not permitted", "ermission denied", "only allowed"];
        if e.kind() == io::ErrorKind::PermissionDenied || words.iter().any(|w| why.contains(w)) {
            return Failure::usage(what, why, "run it as root; what is missing for a user: segfs doctor");
        }
        Failure::new(FAILED, what, why, "segfs doctor")
    })?;
    mounts::read_ahead(&args.mountpoint);
    Ok((vfs, mount))
}

/// Opens the file of events. Without one the mount works all the same, but what happens is not written down.
fn events(store: &Store, args: &MountArgs) -> Option<Arc<Events>> {
    if store.is_read_only() {
        return None;
    }
    Events::open(&args.store)
        .inspect_err(|e| eprintln!("segfs: no events are written down: {e}"))
        .map(Arc::new)
        .ok()
}

/// Begins to read everything again, when it is due. Where that can't be, the mount works all the same.
pub(super) fn scrubber(
    store: &Arc<Store>,
    events: Option<&Arc<Events>>,
) -> Option<(Arc<Scrubber>, Scrubbing)> {
    if store.is_read_only() {
        return None;
    }
    let scrubber = Scrubber::new(store.path(), events).map(Arc::new);
    let begun = scrubber.and_then(|s| Scrubbing::start(store, &s).map(|scrubbing| (s, scrubbing)));
    begun.inspect_err(|e| eprintln!("segfs: nothing is scrubbed: {e}")).ok()
}

/// Settles what is to be done for peers, while nothing is mounted yet. A store that is only looked at has none.
fn prepare_peers(store: &Store, args: &MountArgs, options: &fuse::Options) -> Outcome<Option<Prepared>> {
    let path = mounts::absolute(&args.store);
    if store.is_read_only() {
        if args.at.is_none() && serve::has_peers(&path) {
            eprintln!("segfs: mounted read-only: nothing is exchanged with peers meanwhile");
        }
        return Ok(None);
    }
    let prepared = Prepared::new(&path, args.listen.clone(), options.writeback);
    prepared.map(Some).inspect_err(|_| drop(store.close()))
}

/// Begins to know other stores. What still goes wrong is said; the mount works all the same.
fn peers(store: &Arc<Store>, prepared: Prepared, events: Option<&Arc<Events>>) -> Option<Arc<Peers>> {
    Peers::start(store, prepared, events)
        .inspect_err(|failure| {
            eprintln!("segfs: no peers are served: {}", failure.value()["error"]["why"]);
            if serve::has_peers(store.path()) {
                // Who knows what they lack.
                store.set_needed(Some(Lsn::FIRST));
            }
        })
        .ok()
}

/// Opens the control socket. Without one the mount works all the same, but can't be asked.
fn control(
    store: &Arc<Store>,
    vfs: &Arc<Vfs>,
    mount: &fuse::Mount,
    (events, peers): (Option<&Arc<Events>>, Option<&Arc<Peers>>),
    scrubber: Option<&Arc<Scrubber>>,
    args: &MountArgs,
) -> Option<Control> {
    if store.is_read_only() {
        // Nothing in its directory changes, and several may look at it at once.
        return None;
    }
    let served = Served::new(Arc::clone(store), Arc::clone(vfs), mount.requests(), &args.mountpoint);
    let served = served.with_events(events.cloned()).with_peers(peers.cloned());
    Control::start(served.with_scrubber(scrubber.cloned()))
        .inspect_err(|e| {
            let place = args.store.join(SOCKET);
            eprintln!(
                "segfs: no control socket at {} ({e}): segfs status can't ask this mount",
                place.display()
            );
        })
        .ok()
}

fn announce(args: &MountArgs, store: &Store, made_store: bool, made_dir: bool, json: bool) {
    let (dir, path) = (mounts::absolute(&args.mountpoint), mounts::absolute(&args.store));
    if json {
        say(&serde_json::json!({
            "mountpoint": dir.display().to_string(),
            "store": path.display().to_string(),
            "id": store.id().to_string(),
        })
        .to_string());
    } else {
        let new = |made| if made { " (new)" } else { "" };
        say(&format!("store       {}{}", path.display(), new(made_store)));
        say(&format!("mounted on  {}{}", dir.display(), new(made_dir)));
        if made_store {
            say("keeps       every version for 30 days, then one a day for a year, then one a month");
        }
        if let Some(ahead_ns) = store.expiry().ahead_ns.filter(|_| !store.is_read_only()) {
            let days = ahead_ns / (24 * 3600 * 1_000_000_000);
            say(&format!(
                "expiry      waits: the clock is {days} days ahead of when this store was last used"
            ));
            say(&format!("            if the clock is right: segfs retain confirm {}", dir.display()));
        }
        let recovered = store.recovered();
        if recovered.log.replayed > 0 {
            say(&format!("recovered   {} records since the last clean stop", recovered.log.replayed));
        }
        tell_damage(recovered);
        let stop = if args.say_ready { "" } else { "Ctrl-C, or " };
        say(&format!("stop it     {stop}segfs umount {}", dir.display()));
    }
    if args.say_ready {
        say(READY);
        leave_output();
    }
}

/// How many of a kind are told one by one.
const TOLD: usize = 10;

/// Says what opening the store found to be wrong.
pub(super) fn tell_damage(recovered: &Recovered) {
    for why in &recovered.superblock_damage {
        let done = if recovered.superblock_mended { "; it was written anew" } else { "" };
        say(&format!("damaged     STORE, {why}{done}"));
    }
    for (kind, list) in [
        ("missing", recovered.missing.iter().map(ToString::to_string).collect::<Vec<_>>()),
        ("damaged", recovered.log.damages.iter().map(Damage::finding).collect()),
    ] {
        for line in list.iter().take(TOLD) {
            say(&format!("{kind}     {line}"));
        }
        if list.len() > TOLD {
            say(&format!("{kind}     and {} more; see segtool verify", list.len() - TOLD));
        }
    }
}

/// Waits until the mount is over; ends it when a signal asks for it.
fn wait(mount: fuse::Mount, signals: SigSet, dir: &Path, json: bool) -> io::Result<()> {
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
            let text = format!(
                "{} is in use: waiting up to {} s for open files; again to stop now",
                dir.display(),
                GRACE.as_secs()
            );
            note(json, &text);
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
    if let Some(moment) = &args.at {
        command.arg("--at").arg(moment);
    }
    if let Some(listen) = &args.listen {
        command.arg("--listen").arg(listen);
    }
    command.arg("--").arg(&args.store).arg(&args.mountpoint);
    background(command, &what)
}

/// Runs this program in the background, and waits until it says that it is ready.
pub(super) fn background(mut command: Command, what: &str) -> Outcome<()> {
    let failed = |e: io::Error| Failure::system(what, &e);
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

/// Says something by the way: with `--json` that is not wanted.
pub(super) fn note(json: bool, line: &str) {
    if !json {
        say(line);
    }
}

/// Prints a line; nobody may be listening any more.
pub(super) fn say(line: &str) {
    let _ = writeln!(io::stdout(), "{line}");
}
