//! What a person sets: `config.toml`, retention and when versions are made, by path; locks and holds.
#![allow(clippy::disallowed_methods)] // this is the outside: real files, real time

mod clock;
mod config;
mod events;
mod locks;
mod making;
mod retention;

use std::{path::Path, process::Output};

use serde_json::Value;

use crate::mount::{Mounted, segfs};

/// Runs the program; it has to succeed.
#[track_caller]
fn ok(args: &[&str]) -> String {
    let done = segfs(args);
    assert!(done.status.success(), "{args:?}: {}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8(done.stdout).unwrap()
}

#[track_caller]
fn json(args: &[&str]) -> Value {
    serde_json::from_str(&ok(&[&["--json"], args].concat())).unwrap()
}

#[track_caller]
fn refused(done: &Output, code: i32, says: &str) {
    let said = String::from_utf8_lossy(&done.stderr);
    assert_eq!(done.status.code(), Some(code), "{said}");
    assert!(said.contains(says) && said.contains("next:"), "{said}");
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Numbers of the versions in the history of a name.
#[track_caller]
fn ordinals(m: &Mounted, name: &str) -> Vec<u64> {
    let log = json(&["log", text(&m.path(name))]);
    log["versions"].as_array().unwrap().iter().map(|v| v["ordinal"].as_u64().unwrap()).collect()
}
