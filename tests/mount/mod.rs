//! Real mounts, through the real program.
#![allow(clippy::disallowed_methods)] // this is the outside: real files, real time

mod access_times;
mod attributes;
mod basics;
mod command;
mod crash;
mod dirs;
pub(crate) mod full;
mod kernel;
#[cfg(feature = "planted-bugs")]
mod panics;
mod permissions;
mod status;
mod users;
mod versions;
mod writeback;

use std::{
    fs,
    io::{BufRead, BufReader},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
};

/// The program.
pub(crate) const SEGFS: &str = env!("CARGO_BIN_EXE_segfs");
/// Names mount options that every mount of these tests gets, so that another mode can be put through them.
const OPTIONS: &str = "SEGFS_MOUNT_OPTIONS";

/// Are the mounts such that the kernel collects writes?
pub(crate) fn writes_are_collected() -> bool {
    std::env::var(OPTIONS).is_ok_and(|options| options.split(',').any(|o| o == "writeback"))
}

pub(crate) fn segfs(args: &[&str]) -> Output {
    Command::new(SEGFS).args(args).output().unwrap()
}

/// Puts a program where others reach it. A program of its own copies it: of a copy that this process writes, a child that another test
/// is just starting has what this one has open, until it runs its own program, and what somebody has open for writing can't be run.
pub(crate) fn install(program: impl AsRef<Path>, to: &Path) {
    let done = Command::new("install").args(["-m", "755"]).arg(program.as_ref()).arg(to).status();
    assert!(done.unwrap().success());
}

/// A mount in a directory of its own, which goes away with it, also when the test fails.
pub(crate) struct Mounted {
    pub(crate) root: tempfile::TempDir,
    /// Where the store is.
    pub(crate) store: PathBuf,
    pub(crate) daemon: Option<Child>,
}

impl Mounted {
    pub(crate) fn new() -> Self {
        Self::with(&[])
    }

    pub(crate) fn with(options: &[&str]) -> Self {
        let root = tempfile::tempdir().unwrap();
        let store = root.path().join("store");
        Self::with_store(root, store, options)
    }

    /// With its store somewhere else.
    pub(crate) fn with_store(root: tempfile::TempDir, store: PathBuf, options: &[&str]) -> Self {
        let mut mounted = Self { root, store, daemon: None };
        mounted.mount(options);
        mounted
    }

    pub(crate) fn store(&self) -> PathBuf {
        self.store.clone()
    }

    pub(crate) fn dir(&self) -> PathBuf {
        self.root.path().join("mnt")
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir().join(name)
    }

    /// A mount that other users reach, with a root directory in which they may do what they like.
    pub(crate) fn for_all() -> Self {
        Self::for_all_with(&[])
    }

    pub(crate) fn for_all_with(options: &[&str]) -> Self {
        let m = Self::with(options);
        fs::set_permissions(m.root.path(), fs::Permissions::from_mode(0o755)).unwrap();
        fs::set_permissions(m.dir(), fs::Permissions::from_mode(0o777)).unwrap();
        m
    }

    /// Mounts, and waits until it answers.
    pub(crate) fn mount(&mut self, options: &[&str]) {
        self.mount_by(Command::new(SEGFS), options);
    }

    /// The same by a command that is given the arguments of segfs, such as a tracer.
    pub(crate) fn mount_by(&mut self, mut command: Command, options: &[&str]) {
        command.arg("mount").args(options);
        if let Ok(more) = std::env::var(OPTIONS) {
            command.args(["-o", &more]);
        }
        command.arg(self.store()).arg(self.dir());
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let said = BufReader::new(child.stdout.take().unwrap());
        self.daemon = Some(child);
        let ready = said.lines().map_while(Result::ok).any(|line| line.starts_with("stop it"));
        assert!(ready, "the mount did not come up");
    }

    /// Unmounts cleanly. A child that another test is just starting has this process's files until it runs its
    /// program, and the mount is busy for so long.
    pub(crate) fn unmount(&mut self) {
        let mut done = segfs(&["umount", self.dir().to_str().unwrap()]);
        for _ in 0..100 {
            if done.status.code() != Some(7) {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
            done = segfs(&["umount", self.dir().to_str().unwrap()]);
        }
        assert!(done.status.success(), "{done:?}");
        let mut daemon = self.daemon.take().unwrap();
        assert!(daemon.wait().unwrap().success());
    }

    /// Kills the process of the mount.
    pub(crate) fn kill(&mut self) {
        let mut daemon = self.daemon.take().unwrap();
        daemon.kill().unwrap();
        daemon.wait().unwrap();
    }

    /// Runs a shell command in the mount.
    pub(crate) fn sh(&self, script: &str) -> String {
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

pub(crate) fn write(path: &Path, data: impl AsRef<[u8]>) {
    fs::write(path, data).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
}

pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}
