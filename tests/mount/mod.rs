//! Real mounts, through the real program.
#![allow(clippy::disallowed_methods)] // this is the outside: real files, real time

mod basics;
mod command;
mod crash;
mod dirs;
mod full;
mod permissions;
mod versions;

use std::{
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
};

/// The program.
const SEGFS: &str = env!("CARGO_BIN_EXE_segfs");

fn segfs(args: &[&str]) -> Output {
    Command::new(SEGFS).args(args).output().unwrap()
}

/// A mount in a directory of its own, which goes away with it, also when the test fails.
struct Mounted {
    root: tempfile::TempDir,
    /// Where the store is.
    store: PathBuf,
    daemon: Option<Child>,
}

impl Mounted {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let store = root.path().join("store");
        Self::with_store(root, store)
    }

    /// With its store somewhere else.
    fn with_store(root: tempfile::TempDir, store: PathBuf) -> Self {
        let mut mounted = Self { root, store, daemon: None };
        mounted.mount(&[]);
        mounted
    }

    fn store(&self) -> PathBuf {
        self.store.clone()
    }

    fn dir(&self) -> PathBuf {
        self.root.path().join("mnt")
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir().join(name)
    }

    /// Mounts, and waits until it answers.
    fn mount(&mut self, options: &[&str]) {
        let mut command = Command::new(SEGFS);
        command.arg("mount").args(options).arg(self.store()).arg(self.dir());
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let said = BufReader::new(child.stdout.take().unwrap());
        self.daemon = Some(child);
        let ready = said.lines().map_while(Result::ok).any(|line| line.starts_with("stop it"));
        assert!(ready, "the mount did not come up");
    }

    /// Unmounts cleanly.
    fn unmount(&mut self) {
        let done = segfs(&["umount", self.dir().to_str().unwrap()]);
        assert!(done.status.success(), "{done:?}");
        let mut daemon = self.daemon.take().unwrap();
        assert!(daemon.wait().unwrap().success());
    }

    /// Kills the process of the mount.
    fn kill(&mut self) {
        let mut daemon = self.daemon.take().unwrap();
        daemon.kill().unwrap();
        daemon.wait().unwrap();
    }

    /// Runs a shell command in the mount.
    fn sh(&self, script: &str) -> String {
        let done = Command::new("bash").args(["-ec", script]).current_dir(self.dir()).output().unwrap();
        assert!(done.status.success(), "{script}: {done:?}");
        String::from_utf8(done.stdout).unwrap()
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.dir()).stderr(Stdio::null()).status();
        if let Some(mut daemon) = self.daemon.take() {
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
    }
}

fn write(path: &Path, data: impl AsRef<[u8]>) {
    fs::write(path, data).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}
