//! `segfs umount`.

use std::{io, path::Path, time::Duration};

use rustix::fs::{FlockOperation, flock};
use segfs::serve::Client;
use serde_json::{Value, json};

use super::{
    failure::{FAILED, Failure, IN_USE, NOT_FOUND, Outcome, Output},
    mounts,
};

/// How long the process of a mount may take to close its store, in steps of 20 ms.
const CLOSING_STEPS: u32 = 3000;
/// How long a mount is waited for to say how it stands.
const PATIENCE: Duration = Duration::from_secs(1);

/// Unmounts a directory and waits until its store is closed.
pub fn run(dir: &Path, lazy: bool, out: &mut Output) -> Outcome<()> {
    let shown = dir.display();
    let Some(mounted) = mounts::on(dir) else {
        let why = "no segfs is mounted there";
        return Err(Failure::new(NOT_FOUND, format!("{shown} can't be unmounted"), why, "segfs status"));
    };
    let stopped = stopped(&mounted.store);
    mounts::take_down(&mounted.dir, lazy || mounts::is_dead(dir)).map_err(|e| {
        let what = format!("{shown} can't be unmounted");
        match e.kind() {
            io::ErrorKind::ResourceBusy => {
                let why = "some process has a file open in it, or works in it";
                Failure::new(IN_USE, what, why, format!("fuser -vm {shown}, or segfs umount --lazy {shown}"))
            }
            _ => Failure::new(FAILED, what, e.to_string(), "run it as the user who mounted it, or as root"),
        }
    })?;
    // Where the store is mounted elsewhere too (a moment beside the present), its process goes on.
    let elsewhere = mounts::of_store(&mounted.store).is_some();
    if lazy || elsewhere || is_closed(&mounted.store) {
        if let Some(why) = stopped {
            return Err(super::mount::stopped(&mounted.dir, &mounted.store, why));
        }
        if out.json {
            let (dir, store) = (mounted.dir.display().to_string(), mounted.store.display().to_string());
            let closed = if lazy || elsewhere { Value::Null } else { true.into() };
            return out.value(&json!({"mountpoint": dir, "store": store, "closed": closed}));
        }
        return out.line(&format!(
            "unmounted {}; everything is in {}",
            mounted.dir.display(),
            mounted.store.display()
        ));
    }
    let holder = std::fs::read_to_string(mounted.store.join("LOCK")).unwrap_or_default();
    let holder = if holder.trim().is_empty() { "its process" } else { holder.trim() };
    Err(Failure::new(
        FAILED,
        format!("{shown} is unmounted, but the store {} is not closed", mounted.store.display()),
        format!("{holder} still holds it after {} s", CLOSING_STEPS / 50),
        format!("segfs status {}", mounted.store.display()),
    ))
}

/// Why the mount of a store writes nothing any more, if it says so.
fn stopped(store: &Path) -> Option<String> {
    let mut client = Client::connect(store).ok()?;
    let status = client.ask("status", PATIENCE, &|_, _| {}).ok()?;
    status["stopped"].as_str().map(str::to_owned)
}

/// Waits until nobody holds the store's lock; false if that takes too long.
fn is_closed(store: &Path) -> bool {
    #[allow(clippy::disallowed_methods)] // the edge: another process's lock can only be polled
    let Ok(lock) = std::fs::File::open(store.join("LOCK")) else { return true };
    for _ in 0..CLOSING_STEPS {
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok() {
            return true;
        }
        mounts::wait_a_moment();
    }
    false
}
