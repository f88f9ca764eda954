//! `segfs serve`: a store that is open without being mounted, for the peers that it keeps the same with.

use std::{process::Command, sync::Arc};

use nix::sys::signal::SigSet;
use segfs::{
    serve::{Beat, Control, Events, Peers, Prepared, SOCKET, Served},
    store::Store,
    vfs::Vfs,
};
use serde_json::json;

use super::{
    ServeArgs,
    failure::{FAILED, Failure, Outcome, mounts},
    mount::{
        READY, background, in_own_session, leave_output, note, open_store, say, scrubber, signals,
        tell_damage,
    },
};

/// Opens the store, and stays until a signal ends it.
pub fn run(args: &ServeArgs, json: bool) -> Outcome<()> {
    if args.background {
        return in_background(args, json);
    }
    if args.say_ready {
        in_own_session();
    }
    let signals = signals()?;
    let (store, made) = open_store(&args.store, false, json)?;
    let opened = open(&store, args);
    // Under its lock still, so that nobody has opened it meanwhile.
    let (vfs, events, peers) = opened.inspect_err(|_| {
        let _ = store.close();
        made.undo();
    })?;
    let (scrubber, scrubbing) = scrubber(&store, events.as_ref()).unzip();
    let served = Served::without_mount(Arc::clone(&store), Arc::clone(&vfs)).with_scrubber(scrubber);
    let control = Control::start(served.with_events(events.clone()).with_peers(Some(Arc::clone(&peers))));
    let control = control.map_err(|e| {
        peers.stop();
        let _ = store.close();
        let what = format!("{} can't be served", args.store.display());
        let why = format!("its control socket {} can't be opened: {e}", args.store.join(SOCKET).display());
        Failure::new(FAILED, what, why, "see who else uses that name; then again")
    })?;
    let beat = Beat::start(&vfs, &store, events.as_ref())
        .inspect_err(|e| eprintln!("segfs: no events are written down: {e}"));
    announce(args, &store, &peers, made.is_some(), json);
    end_at_a_signal(&signals)?;
    drop((beat, scrubbing));
    vfs.release_all();
    peers.stop();
    let closed = store.close();
    // It answers to the end, and is gone before the store's lock is.
    drop(control);
    if let Some(why) = store.stopped() {
        let shown = args.store.display();
        let next = format!("segtool verify {shown}, then segfs serve {shown}");
        return Err(Failure::new(FAILED, format!("{shown} is closed; it had stopped writing"), why, next));
    }
    closed.map_err(|e| Failure::of_store(&e, &args.store))?;
    note(json, &format!("closed; everything is in {}", args.store.display()));
    Ok(())
}

type Opened = (Arc<Vfs>, Option<Arc<Events>>, Arc<Peers>);

fn open(store: &Arc<Store>, args: &ServeArgs) -> Outcome<Opened> {
    let prepared = Prepared::new(&mounts::absolute(&args.store), args.listen.clone(), false)?;
    store.start_maintenance().map_err(|e| Failure::of_store(&e, &args.store))?;
    let vfs = Arc::new(Vfs::new(Arc::clone(store)));
    let events = Events::open(&args.store)
        .inspect_err(|e| eprintln!("segfs: no events are written down: {e}"))
        .map(Arc::new)
        .ok();
    let peers = Peers::start(store, prepared, events.as_ref())?;
    Ok((vfs, events, peers))
}

fn end_at_a_signal(signals: &SigSet) -> Outcome<()> {
    let failed = |e| Failure::system("signals can't be waited for", &std::io::Error::from(e));
    signals.wait().map(drop).map_err(failed)
}

fn announce(args: &ServeArgs, store: &Store, peers: &Peers, made: bool, json: bool) {
    let path = mounts::absolute(&args.store);
    let listens = peers.listens();
    if json {
        let id = store.id().to_string();
        say(&json!({"store": path.display().to_string(), "id": id, "listens": listens}).to_string());
    } else {
        say(&format!("store       {}{}", path.display(), if made { " (new)" } else { "" }));
        match &listens {
            Some(at) => say(&format!("listens at  {at}")),
            None => say("listens     nowhere: it dials its peers; --listen ADDR:PORT lets others come"),
        }
        tell_damage(store.recovered());
        let pid = std::process::id();
        say(&format!("stop it     {}kill {pid}", if args.say_ready { "" } else { "Ctrl-C, or " }));
    }
    if args.say_ready {
        say(READY);
        leave_output();
    }
}

/// Starts this program again, without `--background`, and waits until it answers.
fn in_background(args: &ServeArgs, json: bool) -> Outcome<()> {
    let what = format!("{} can't be served", args.store.display());
    let program = std::env::current_exe().map_err(|e| Failure::system(&what, &e))?;
    let mut command = Command::new(program);
    command.arg("serve").arg("--say-ready");
    if json {
        command.arg("--json");
    }
    if let Some(listen) = &args.listen {
        command.arg("--listen").arg(listen);
    }
    command.arg("--").arg(&args.store);
    background(command, &what)
}
