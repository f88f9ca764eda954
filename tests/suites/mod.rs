//! Whole suites against real mounts, most of them against ext4 as well: what passes there must pass here.
//!
//! They are too long for every `cargo test`, so they are ignored there and run by the steps of `cargo xtask
//! test`, which also install the programs that they drive. Each is one command:
//! `cargo xtask test --only posix`, and so on. `SEGFS_MOUNT_OPTIONS=...` before it puts another mode of mounting
//! through the same suites. They want root: others can't be others. A program that is missing is a failure.
#![allow(clippy::disallowed_methods)] // this is the outside: real files, real time

pub(crate) mod ext4;
mod faults;
mod fsx;
mod killed;
mod pjdfstest;
mod programs;
mod samba;
mod stress;
mod twosided;

use std::{
    env,
    path::PathBuf,
    process::{Command, Output},
};

/// A program that the step of `cargo xtask test` has built, named by an environment variable.
fn tool(variable: &str) -> PathBuf {
    let path = env::var_os(variable)
        .unwrap_or_else(|| panic!("{variable} is not set: run this by `cargo xtask test`"));
    PathBuf::from(path)
}

/// Standard output and standard error of a command.
fn said(output: &Output) -> String {
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    format!("{out}{err}")
}

/// Runs a command that must succeed, and gives what it said.
#[track_caller]
fn run(command: &mut Command) -> String {
    let done = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    assert!(done.status.success(), "{command:?} ended with {}:\n{}", done.status, said(&done));
    said(&done)
}
