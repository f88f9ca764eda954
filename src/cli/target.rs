//! What a command for operators works on: a mount, which is asked through its control socket, or a store that nobody has
//! mounted, which is opened.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use segfs::{
    console::{FAILED, Failure, Outcome, Progress},
    serve::{Client, Unanswered},
    store::{Options, Store, inspect},
};
use serde_json::Value;

use super::mounts;

/// How long a mount may show no sign of being at work.
const PATIENCE: Duration = Duration::from_secs(600);

/// A mount, or a store.
pub enum Target {
    /// The store of a mount, and the path in it, from its root.
    Mounted { store: PathBuf, path: String },
    /// A store.
    Closed(PathBuf),
}

impl Target {
    /// What a path means; `what` is what can't be done if it means nothing.
    pub fn find(path: &Path, what: &str) -> Outcome<Self> {
        let whole = mounts::absolute(path);
        if let Some(m) = mounts::around(&whole) {
            let below = whole.strip_prefix(&m.dir).unwrap_or(Path::new(""));
            let path = format!("/{}", below.display());
            return Ok(Self::Mounted { store: m.store, path });
        }
        if whole.join("STORE").is_file() {
            return Ok(Self::Closed(whole));
        }
        let why = format!("{} is neither in a mount of segfs nor a store", path.display());
        Err(Failure::usage(what, why, "segfs status, which shows all mounts"))
    }

    /// Asks the mount, or does it with the store.
    pub fn run(
        &self,
        doing: &'static str,
        json: bool,
        request: &Value,
        work: impl FnOnce(&Store, inspect::Progress<'_>) -> Outcome<Value>,
    ) -> Outcome<Value> {
        let progress = Progress::new(doing, json);
        let told = |done, total| progress.tell(done, total);
        match self {
            Self::Mounted { store, .. } => {
                let asked = Client::connect(store).and_then(|mut c| c.ask_for(request, PATIENCE, &told));
                asked.map_err(|e| match e {
                    Unanswered::Refused(failure) => failure,
                    e => {
                        let what = format!("the mount of {} can't be asked", store.display());
                        let next = format!("run it as root or as the owner of {}", store.display());
                        Failure::new(FAILED, what, e.why(), next)
                    }
                })
            }
            Self::Closed(path) => {
                let failed = |e| Failure::of_store(&e, path);
                let store = Arc::new(Store::open(path, Options::default()).map_err(failed)?);
                let done = work(&store, &told);
                let closed = store.close().map_err(failed);
                done.and_then(|value| closed.map(|()| value))
            }
        }
    }
}
