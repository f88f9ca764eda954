//! Asking a mount through its control socket, which answers its owner and root.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use segfs::serve::{Client, Unanswered};
use serde_json::Value;

use super::super::failure::{FAILED, Failure, Outcome, mounts};

/// How long a mount may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// The mount that a path is in. `what` is what does not work without one.
pub fn mount_around(path: &Path, what: &str) -> Outcome<mounts::Mounted> {
    mounts::around(&mounts::absolute(path)).ok_or_else(|| {
        let why = format!("{} is not in a mount of segfs", path.display());
        Failure::usage(what, why, "segfs status; or --store STORE for an unmounted one")
    })
}

/// What a mount answers.
pub fn ask(mount: &mounts::Mounted, request: &Value, what: &str) -> Outcome<Value> {
    let asked = Client::connect(&mount.store).and_then(|mut c| c.ask_for(request, PATIENCE, &|_, _| {}));
    asked.map_err(|e| match e {
        Unanswered::Refused(failure) => failure,
        e => {
            let next = format!("run it as root or as the owner of {}", mount.store.display());
            Failure::new(FAILED, what, e.why(), next)
        }
    })
}

/// A path inside a mount, from the root of its store. What is not there yet may be named, too.
pub fn path_in(path: &Path, what: &str) -> Outcome<(mounts::Mounted, PathBuf)> {
    let full = mounts::absolute(path);
    let mount = mount_around(&full, what)?;
    let below = full.strip_prefix(&mount.dir).unwrap_or(Path::new("")).to_owned();
    Ok((mount, Path::new("/").join(below)))
}
