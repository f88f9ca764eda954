//! What is measured: a directory of the disk, segfs, and other filesystems that answer through FUSE.
#![allow(clippy::disallowed_methods)] // xtask is the edge

use std::{
    env, fs,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use crate::{Failure, Outcome, shown, target_dir};

use super::machine::{self, Watchdog};

/// How long a mount may take to come or to go.
const MOUNT_LIMIT: Duration = Duration::from_secs(60);
/// How long a mount may be busy after its last file was closed.
const BUSY_LIMIT: Duration = Duration::from_secs(5);
/// The size of the image in which fuse2fs keeps its files; it is sparse.
const IMAGE_BYTES: u64 = 8 << 30;
/// How long a daemon may go on working after a row before the next one starts anyway.
const SETTLE_LIMIT: Duration = Duration::from_secs(5);

/// A filesystem to measure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A directory of the disk that holds everything.
    Disk,
    /// A mount of this repository's program, with these options.
    Segfs(Option<String>),
    /// ext4 in an image, answered by a process.
    Fuse2fs,
    /// An encrypted directory.
    Gocryptfs,
}

impl Kind {
    /// A peer by the name that `--peers` takes.
    pub fn named(name: &str) -> Option<Self> {
        Some(match name {
            "fuse2fs" => Self::Fuse2fs,
            "gocryptfs" => Self::Gocryptfs,
            "writeback" => Self::Segfs(Some("writeback".into())),
            _ => return None,
        })
    }

    /// Are its programs installed?
    pub fn is_there(&self) -> bool {
        match self {
            Self::Disk | Self::Segfs(_) => true,
            Self::Fuse2fs => installed("fuse2fs") && installed("mkfs.ext4"),
            Self::Gocryptfs => installed("gocryptfs"),
        }
    }

    /// As a heading says it.
    pub fn label(&self, place: &Path) -> String {
        match self {
            Self::Disk => machine::filesystem_of(place),
            Self::Segfs(None) => "segfs".into(),
            Self::Segfs(Some(options)) => format!("segfs -o {options}"),
            Self::Fuse2fs => "fuse2fs".into(),
            Self::Gocryptfs => "gocryptfs".into(),
        }
    }
}

fn installed(program: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    let dirs = env::split_paths(&path).chain(["/usr/sbin", "/sbin"].map(PathBuf::from));
    dirs.map(|d| d.join(program)).any(|p| p.is_file())
}

/// One filesystem, fresh, in a directory of its own. What of it is still there at the end goes with it.
pub struct Subject {
    kind: Kind,
    home: PathBuf,
    program: PathBuf,
    daemon: Option<Child>,
    /// Processor seconds of daemons that have ended.
    cpu_before: f64,
    peak_mib: u64,
    watchdog: Watchdog,
}

impl Subject {
    /// Makes one below `home`, and mounts it.
    pub fn make(kind: &Kind, root: &Path, home: &Path, watchdog: &Watchdog) -> Result<Self, Failure> {
        let mut subject = Self {
            kind: kind.clone(),
            home: home.to_owned(),
            program: target_dir(root).join("release").join("segfs"),
            daemon: None,
            cpu_before: 0.0,
            peak_mib: 0,
            watchdog: watchdog.clone(),
        };
        for dir in [subject.dir(), subject.data()] {
            fs::create_dir_all(&dir).map_err(|e| Failure(format!("making {}: {e}", dir.display())))?;
        }
        subject.prepare()?;
        subject.mount()?;
        Ok(subject)
    }

    /// Where the files are.
    pub fn dir(&self) -> PathBuf {
        self.home.join("mnt")
    }

    /// What answers, if it is a process.
    pub fn pid(&self) -> Option<u32> {
        self.daemon.as_ref().map(Child::id)
    }

    /// Processor seconds of its daemon so far.
    pub fn cpu_seconds(&self) -> f64 {
        self.cpu_before + self.pid().map_or(0.0, machine::cpu_seconds)
    }

    /// Runs something on it that must end some day.
    pub fn watched<T>(&self, work: impl FnOnce() -> T) -> T {
        self.watchdog.over(self.pid(), work)
    }

    /// Nothing is cached any more.
    pub fn make_cold(&mut self) -> Outcome {
        self.settle();
        if self.kind != Kind::Disk {
            self.unmount()?;
            self.mount()?;
        }
        machine::drop_caches();
        self.settle();
        Ok(())
    }

    /// Waits until the daemon has nothing to do any more, and the disk neither.
    pub fn settle(&self) {
        rustix::fs::sync();
        let Some(pid) = self.pid() else { return };
        let until = Instant::now() + SETTLE_LIMIT;
        let mut quiet = 0;
        let mut before = machine::cpu_seconds(pid);
        while quiet < 3 && Instant::now() < until {
            machine::pause(30);
            let now = machine::cpu_seconds(pid);
            quiet = if now > before { 0 } else { quiet + 1 };
            before = now;
        }
    }

    /// Unmounts it, and says how much memory its daemon took at most, in MiB.
    pub fn finish(mut self) -> Result<u64, Failure> {
        self.unmount()?;
        Ok(self.peak_mib)
    }

    fn data(&self) -> PathBuf {
        self.home.join("data")
    }

    fn log(&self) -> PathBuf {
        self.home.join("said")
    }

    fn prepare(&self) -> Outcome {
        let mut command = match self.kind {
            Kind::Disk | Kind::Segfs(_) => return Ok(()),
            Kind::Fuse2fs => {
                let image = self.data().join("image");
                let made = fs::File::create_new(&image).and_then(|f| f.set_len(IMAGE_BYTES));
                made.map_err(|e| Failure(format!("making {}: {e}", image.display())))?;
                let mut command = Command::new("mkfs.ext4");
                command.arg("-q").arg("-F").arg(image);
                command
            }
            Kind::Gocryptfs => {
                let password = self.home.join("password");
                fs::write(&password, "bench\n").map_err(|e| Failure(e.to_string()))?;
                let mut command = Command::new("gocryptfs");
                command.args(["-init", "-q", "-scryptn", "10", "-passfile"]).arg(password).arg(self.data());
                command
            }
        };
        run_quietly(&mut command)
    }

    fn mount_command(&self) -> Option<Command> {
        let mut command = match &self.kind {
            Kind::Disk => return None,
            Kind::Segfs(options) => {
                let mut command = Command::new(&self.program);
                command.arg("mount");
                if let Some(options) = options {
                    command.arg("-o").arg(options);
                }
                command.arg(self.data()).arg(self.dir());
                command
            }
            Kind::Fuse2fs => {
                let mut command = Command::new("fuse2fs");
                command.arg(self.data().join("image")).arg(self.dir()).arg("-f");
                command
            }
            Kind::Gocryptfs => {
                let mut command = Command::new("gocryptfs");
                command.args(["-q", "-fg", "-passfile"]).arg(self.home.join("password"));
                command.arg(self.data()).arg(self.dir());
                command
            }
        };
        // A group of its own: Ctrl-C is for this program, which takes the mounts down itself.
        command.stdin(Stdio::null()).process_group(0);
        Some(command)
    }

    fn mount(&mut self) -> Outcome {
        let Some(mut command) = self.mount_command() else { return Ok(()) };
        let text = shown(&command);
        let failed = |why: &str| Failure(format!("{text} {why}"));
        let log = fs::File::options().create(true).append(true).open(self.log());
        let log = log.and_then(|log| Ok((log.try_clone()?, log))).map_err(|e| failed(&e.to_string()))?;
        let child = command.stdout(log.0).stderr(log.1).spawn();
        self.daemon = Some(child.map_err(|e| failed(&format!("could not be started: {e}")))?);
        let until = Instant::now() + MOUNT_LIMIT;
        while !machine::is_mounted(&self.dir()) {
            let ended = self.daemon.as_mut().and_then(|d| d.try_wait().ok().flatten());
            if ended.is_some() || Instant::now() > until {
                let said = fs::read_to_string(self.log()).unwrap_or_default();
                return Err(failed(&format!("did not mount: {}", said.trim())));
            }
            machine::pause(5);
        }
        Ok(())
    }

    fn unmount(&mut self) -> Outcome {
        let Some(mut daemon) = self.daemon.take() else { return Ok(()) };
        self.peak_mib = self.peak_mib.max(machine::peak_mib(daemon.id()));
        let taken_down = self.take_down_soon();
        let until = Instant::now() + MOUNT_LIMIT;
        while taken_down.is_ok() && Instant::now() < until {
            // Still there as long as nobody has waited for it, and so are its figures.
            let cpu = machine::cpu_seconds(daemon.id());
            match daemon.try_wait() {
                Ok(Some(_)) => {
                    self.cpu_before += cpu;
                    return Ok(());
                }
                Ok(None) => machine::pause(2),
                Err(e) => return Err(Failure(e.to_string())),
            }
        }
        self.daemon = Some(daemon);
        taken_down.and(Err(Failure("the daemon does not end although it is unmounted".into())))
    }

    /// Unmounts. Something may still look at it for a moment.
    fn take_down_soon(&self) -> Outcome {
        let until = Instant::now() + BUSY_LIMIT;
        loop {
            match self.take_down(&[]) {
                Err(_) if Instant::now() < until => machine::pause(20),
                done => return done,
            }
        }
    }

    fn take_down(&self, how: &[&str]) -> Outcome {
        let root = machine::can_drop_caches();
        let mut command = Command::new(if root { "umount" } else { "fusermount3" });
        if !root {
            command.arg("-u");
        }
        run_quietly(command.args(how).arg(self.dir()))
    }
}

impl Drop for Subject {
    fn drop(&mut self) {
        let Some(mut daemon) = self.daemon.take() else { return };
        if machine::is_mounted(&self.dir()) {
            let _ = self.take_down(&[if machine::can_drop_caches() { "-l" } else { "-z" }]);
        }
        let _ = daemon.kill();
        let _ = daemon.wait();
    }
}

/// Runs a command whose output only matters if it fails.
fn run_quietly(command: &mut Command) -> Outcome {
    let text = shown(command);
    match command.stdin(Stdio::null()).output() {
        Ok(out) if out.status.success() => Ok(()),
        Ok(out) => Err(Failure(format!("{text}: {}", String::from_utf8_lossy(&out.stderr).trim()))),
        Err(e) => Err(Failure(format!("{text}: {e}"))),
    }
}
