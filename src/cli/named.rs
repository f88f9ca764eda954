//! Which store a command is about: `--store`, `SEGFS_STORE`, or a path inside a mount; and whether somebody has it open.

use std::path::{Path, PathBuf};

use clap::Args;
use segfs::{
    serve::{Client, Unanswered},
    store::{Options, Store},
};
use serde_json::Value;

use super::failure::{FAILED, Failure, Outcome, mounts};

/// How long a daemon may take to answer.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(10);

/// Which store.
#[derive(Args, Clone)]
pub struct Named {
    /// The store's directory; without, SEGFS_STORE, or the store that is mounted here.
    #[arg(long, value_name = "STORE")]
    store: Option<PathBuf>,
}

/// The store of a command.
pub enum At {
    /// A mount has it.
    Open(PathBuf, Client),
    /// Nobody has it, and nobody gets it while this is there.
    Closed(PathBuf, Box<Store>),
}

impl Named {
    /// Finds it. `what` is what does not work without.
    pub fn find(&self, what: &str) -> Outcome<At> {
        let named = self.store.clone().or_else(|| std::env::var_os("SEGFS_STORE").map(PathBuf::from));
        let path = match named {
            Some(path) => mounts::absolute(&path),
            None => {
                let around = mounts::around(&mounts::absolute(Path::new(".")));
                let none = || {
                    let why = "no store was named, and this is not inside a mount of segfs";
                    Failure::usage(what, why, "--store STORE, or SEGFS_STORE, or run it inside the mount")
                };
                around.ok_or_else(none)?.store
            }
        };
        if let Ok(client) = Client::connect(&path) {
            return Ok(At::Open(path, client));
        }
        let store = super::open(&path, Options::default(), &|_, _| {})?.store;
        Ok(At::Closed(path, Box::new(store)))
    }
}

/// What whoever has the store answers.
pub fn ask(client: &mut Client, request: &Value, what: &str) -> Outcome<Value> {
    client.ask_for(request, PATIENCE, &|_, _| {}).map_err(|e| match e {
        Unanswered::Refused(failure) => failure,
        e => Failure::new(FAILED, what, e.why(), "segfs status"),
    })
}
