//! What is asked and set of the machine: halt polling, caches, processes, signals, and a watch over what hangs.
#![allow(clippy::disallowed_methods)] // xtask is the edge: real time, real threads

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use nix::sys::signal::{SigSet, Signal};

use crate::{Failure, Outcome};

/// How long an idle virtual processor waits for work before it is given back, in ns. Without it a round trip between two
/// processes costs some 200 us in a virtual machine, and hides everything else.
const HALT_POLL: &str = "/sys/module/haltpoll/parameters/guest_halt_poll_ns";
/// What `--haltpoll` sets.
const HALT_POLL_NS: &str = "200000";
/// Longer than this no row may take.
const ROW_LIMIT: Duration = Duration::from_secs(120);
/// The unit of processor time in /proc, which is the same on every Linux that there is.
const TICKS_PER_SECOND: f64 = 100.0;

/// Halt polling during the run; what was set before comes back with the end of it.
pub struct HaltPoll {
    file: PathBuf,
    before: Option<String>,
    now: Option<String>,
}

impl HaltPoll {
    /// Reads the setting, and sets it if asked to.
    pub fn begin(set: bool) -> Result<Self, Failure> {
        Self::at(Path::new(HALT_POLL), set)
    }

    pub(super) fn at(file: &Path, set: bool) -> Result<Self, Failure> {
        let read = || fs::read_to_string(file).ok().map(|text| text.trim().to_owned());
        let mut this = Self { file: file.to_owned(), before: None, now: read() };
        if set && this.now.as_deref() != Some(HALT_POLL_NS) {
            let Some(now) = this.now.clone() else {
                return Err(Failure(format!("--haltpoll: this machine has no {}", file.display())));
            };
            fs::write(file, HALT_POLL_NS)
                .map_err(|e| Failure(format!("--haltpoll: writing {}: {e}", file.display())))?;
            this.before = Some(now);
            this.now = read();
        }
        Ok(this)
    }

    /// The setting during the run, in ns; none where there is none.
    pub fn now(&self) -> Option<&str> {
        self.now.as_deref()
    }

    /// For a person.
    pub fn said(&self) -> String {
        match self.now() {
            None => "halt polling: not on this machine".into(),
            Some("0") => {
                "halt polling: 0 ns, so idle processors make each round trip slow (see --haltpoll)".into()
            }
            Some(ns) => format!("halt polling: {ns} ns"),
        }
    }
}

impl Drop for HaltPoll {
    fn drop(&mut self) {
        if let Some(before) = &self.before
            && let Err(e) = fs::write(&self.file, before)
        {
            eprintln!("putting {} back to {before}: {e}", self.file.display());
        }
    }
}

/// Is somebody asking to stop?
#[derive(Clone)]
pub struct Stop(Arc<AtomicBool>);

impl Stop {
    /// From now on SIGINT, SIGTERM and SIGHUP only ask. Call before any thread starts.
    pub fn on_signals() -> Result<Self, Failure> {
        let mut signals = SigSet::empty();
        for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
            signals.add(signal);
        }
        signals.thread_block().map_err(|e| Failure(format!("waiting for signals: {e}")))?;
        let stop = Self(Arc::default());
        let told = stop.clone();
        thread::spawn(move || {
            while signals.wait().is_ok() {
                eprintln!("stopping, and cleaning up");
                told.0.store(true, Relaxed);
            }
        });
        Ok(stop)
    }

    /// Fails once somebody asked.
    pub fn check(&self) -> Outcome {
        if self.asked() { Err(Failure("stopped as asked".into())) } else { Ok(()) }
    }

    /// Did somebody ask?
    pub fn asked(&self) -> bool {
        self.0.load(Relaxed)
    }
}

/// Kills the daemon under a row that takes far too long, so that the row fails instead of hanging for ever.
#[derive(Clone)]
pub struct Watchdog {
    watched: Arc<Mutex<Option<(u32, Instant)>>>,
    _alive: Arc<mpsc::Sender<()>>,
}

impl Watchdog {
    /// Watches from a thread of its own, until the last copy of this is gone.
    pub fn start() -> Self {
        let (alive, gone) = mpsc::channel::<()>();
        let watched = Arc::new(Mutex::new(None::<(u32, Instant)>));
        let here = Arc::clone(&watched);
        thread::spawn(move || {
            while gone.recv_timeout(Duration::from_secs(1)) == Err(mpsc::RecvTimeoutError::Timeout) {
                let watched = *here.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some((pid, since)) = watched
                    && since.elapsed() > ROW_LIMIT
                {
                    eprintln!("nothing comes back from process {pid} for {ROW_LIMIT:?}: killing it");
                    let _ = Command::new("kill").args(["-KILL", &pid.to_string()]).status();
                }
            }
        });
        Self { watched, _alive: Arc::new(alive) }
    }

    /// Runs something that needs this process to answer.
    pub fn over<T>(&self, pid: Option<u32>, work: impl FnOnce() -> T) -> T {
        let set = |to| *self.watched.lock().unwrap_or_else(PoisonError::into_inner) = to;
        set(pid.map(|pid| (pid, Instant::now())));
        let done = work();
        set(None);
        done
    }
}

/// May this process empty the page cache?
pub fn can_drop_caches() -> bool {
    rustix::process::geteuid().is_root()
}

/// Writes everything to disk, and empties the caches if that is allowed.
pub fn drop_caches() {
    rustix::fs::sync();
    let _ = fs::write("/proc/sys/vm/drop_caches", "3\n");
}

/// Processor seconds of a process so far.
pub fn cpu_seconds(pid: u32) -> f64 {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    ticks(&text) as f64 / TICKS_PER_SECOND
}

/// User and system time in a line of /proc/PID/stat, whose second field may hold anything.
pub(super) fn ticks(stat: &str) -> u64 {
    let rest = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    rest.split_whitespace().skip(11).take(2).filter_map(|n| n.parse::<u64>().ok()).sum()
}

/// The most memory that a process had, in MiB.
pub fn peak_mib(pid: u32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    high_water_kib(&text) / 1024
}

pub(super) fn high_water_kib(status: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|l| l.split_whitespace().next()).and_then(|n| n.parse().ok()).unwrap_or(0)
}

/// The type of the filesystem that holds a path, as the mount table calls it.
pub fn filesystem_of(path: &Path) -> String {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    filesystem_in(&table, path).unwrap_or_else(|| "disk".into())
}

pub(super) fn filesystem_in(table: &str, path: &Path) -> Option<String> {
    let mounts = table.lines().filter_map(|line| {
        let (left, right) = line.split_once(" - ")?;
        Some((Path::new(left.split(' ').nth(4)?), right.split(' ').next()?))
    });
    let holds = mounts.filter(|(dir, _)| path.starts_with(dir));
    // Of two on one directory the later one is seen.
    holds.max_by_key(|(dir, _)| dir.components().count()).map(|(_, kind)| kind.to_owned())
}

/// Is a filesystem mounted on this very directory?
pub fn is_mounted(dir: &Path) -> bool {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    table.lines().any(|line| line.split(' ').nth(4).is_some_and(|at| Path::new(at) == dir))
}

/// Waits a moment, for what can only be polled.
pub fn pause(ms: u64) {
    thread::sleep(Duration::from_millis(ms));
}
