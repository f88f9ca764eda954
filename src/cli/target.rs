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
    Mounted { store: PathBuf, path: Vec<u8> },
    /// A store.
    Closed(PathBuf),
}

impl Target {
    /// What a path means; `what` is what can't be done if it means nothing.
    pub fn find(path: &Path, what: &str) -> Outcome<Self> {
        let whole = mounts::absolute(path);
        if let Some(mounted) = Self::inside(&whole) {
            return Ok(mounted);
        }
        if whole.join("STORE").is_file() {
            return Ok(Self::Closed(whole));
        }
        let why = format!("{} is neither in a mount of segfs nor a store", path.display());
        Err(Failure::usage(what, why, "segfs status, which shows all mounts"))
    }

    /// The mount around a path that is absolute, and the path in it.
    fn inside(whole: &Path) -> Option<Self> {
        let m = mounts::around(whole)?;
        let below = whole.strip_prefix(&m.dir).unwrap_or(Path::new(""));
        let path = Path::new("/").join(below).into_os_string().into_encoded_bytes();
        Some(Self::Mounted { store: m.store, path })
    }

    /// The name at a path in a mount; what it leads to, if it is a symlink, is not meant.
    pub fn name(path: &Path, what: &str) -> Outcome<Self> {
        Self::inside(&mounts::absolute_name(path)).ok_or_else(|| {
            let why = format!("{} is not in a mount of segfs", path.display());
            Failure::usage(what, why, "segfs status; or --store STORE for an unmounted one")
        })
    }

    /// A store that nobody has mounted.
    pub fn store(path: &Path, what: &str) -> Outcome<Self> {
        let whole = mounts::absolute(path);
        if whole.join("STORE").is_file() {
            return Ok(Self::Closed(whole));
        }
        let why = format!("{} is no store", path.display());
        Err(Failure::usage(what, why, "name the directory of a store: segfs status"))
    }

    /// The path in the mount; of a store, its root.
    pub fn path(&self) -> &[u8] {
        match self {
            Self::Mounted { path, .. } => path,
            Self::Closed(_) => b"/",
        }
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
                // Held to what its config.toml says, as a mount is.
                let store = Arc::new(super::open(path, Options::default(), &told)?.store);
                let done = work(&store, &told);
                let closed = store.close().map_err(failed);
                done.and_then(|value| closed.map(|()| value))
            }
        }
    }
}
