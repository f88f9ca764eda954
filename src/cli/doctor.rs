//! `segfs doctor`: looks at the machine, and says what stands in the way of mounting or of speed, and what to do about it.

use std::path::Path;

use segfs::{
    console::{FAILED, Failure, Outcome, Output, size},
    disk::{Engine, RealDisk},
};
use serde_json::{Value, json};

use super::place;

/// With less free than this, a store soon can't be written: in bytes, and as a part of the disk.
const LOW_BYTES: u64 = 1 << 30;
const LOW_PART: u64 = 20;
/// Where the kernel of a virtual machine says how long an idle CPU waits before it sleeps.
const HALT_POLLING: &str = "/sys/module/haltpoll/parameters/guest_halt_poll_ns";
/// What measured well there.
const HALT_POLLING_NS: u64 = 200_000;
/// `tmpfs` as statfs tells it.
const TMPFS: i64 = 0x0102_1994;

/// How something stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Level {
    Ok,
    /// It works, but not as well as it could.
    Note,
    /// It does not work.
    Bad,
}

/// What was looked at.
struct Check {
    name: &'static str,
    level: Level,
    found: String,
    advice: Option<String>,
}

fn ok(name: &'static str, found: impl Into<String>) -> Check {
    Check { name, level: Level::Ok, found: found.into(), advice: None }
}

fn worse(name: &'static str, level: Level, found: impl Into<String>, advice: impl Into<String>) -> Check {
    Check { name, level, found: found.into(), advice: Some(advice.into()) }
}

/// Looks at everything; `at` is where a store is or will be.
pub fn run(at: Option<&Path>, out: &mut Output) -> Outcome<()> {
    let at = at.unwrap_or(Path::new("."));
    // Of one that is not there yet, the directory in which it will be made.
    let whole = std::path::absolute(at).unwrap_or_else(|_| at.to_owned());
    let there = whole.ancestors().find(|p| p.is_dir()).unwrap_or(Path::new("/"));
    let checks = [
        device(),
        helper(),
        allow_other(),
        io_uring(there),
        halt_polling(Path::new(HALT_POLLING)),
        space(there),
        medium(there),
    ];
    let word = |level| match level {
        Level::Ok => "ok",
        Level::Note => "note",
        Level::Bad => "bad",
    };
    if out.json {
        let value = |c: &Check| json!({"check": c.name, "state": word(c.level), "found": c.found, "advice": c.advice});
        out.value(&Value::Array(checks.iter().map(value).collect()))?;
    } else {
        for c in &checks {
            out.line(&format!("{:<5} {:<13} {}", word(c.level), c.name, c.found))?;
            if let Some(advice) = &c.advice {
                out.line(&format!("{:19} {advice}", ""))?;
            }
        }
    }
    let bad: Vec<_> = checks.iter().filter(|c| c.level == Level::Bad).collect();
    match bad.first() {
        None => Ok(()),
        Some(first) => Err(Failure::new(
            FAILED,
            format!("{} of {} checks are bad", bad.len(), checks.len()),
            format!("{}: {}", first.name, first.found),
            first.advice.clone().unwrap_or_default(),
        )),
    }
}

fn device() -> Check {
    const NAME: &str = "/dev/fuse";
    match place::device() {
        Ok(()) => ok(NAME, "is there and can be opened"),
        Err(o) => worse(NAME, Level::Bad, o.why, o.next),
    }
}

fn helper() -> Check {
    const NAME: &str = "fusermount3";
    match place::helper() {
        Ok(path) => ok(NAME, format!("{}: users can mount", path.display())),
        Err(o) if rustix::process::geteuid().is_root() => {
            worse(NAME, Level::Note, format!("{} (root needs none)", o.why), o.next)
        }
        Err(o) => worse(NAME, Level::Bad, o.why, o.next),
    }
}

fn allow_other() -> Check {
    const NAME: &str = "allow_other";
    if rustix::process::geteuid().is_root() {
        ok(NAME, "a mount by root lets others in, with their permissions")
    } else if place::users_may_let_others_in() {
        ok(NAME, "users may let others into their mounts")
    } else {
        ok(NAME, "only you can enter your mounts; user_allow_other in /etc/fuse.conf would change that")
    }
}

fn io_uring(there: &Path) -> Check {
    const NAME: &str = "io_uring";
    match RealDisk::open(there, Engine::IoUring) {
        Ok(_) => ok(NAME, "works"),
        Err(e) => worse(
            NAME,
            Level::Note,
            format!("can't be used ({e}): plain system calls are, and large commits take more CPU time"),
            "sysctl kernel.io_uring_disabled=0, as root; in a container: allow io_uring_setup in its seccomp profile",
        ),
    }
}

fn halt_polling(path: &Path) -> Check {
    const NAME: &str = "halt polling";
    let Ok(text) = std::fs::read_to_string(path) else {
        return ok(NAME, "this kernel has none to set: not a virtual machine, or it idles in another way");
    };
    match text.trim().parse::<u64>() {
        Ok(ns) if ns >= HALT_POLLING_NS => ok(NAME, format!("on, {ns} ns")),
        _ => worse(
            NAME,
            Level::Note,
            format!(
                "{} ns: each wake-up of an idle CPU of this virtual machine takes 200 to 350 us, and a request two of them",
                text.trim()
            ),
            format!(
                "echo {HALT_POLLING_NS} > {}, as root: some ten times as many requests a second for one client",
                path.display()
            ),
        ),
    }
}

fn space(there: &Path) -> Check {
    const NAME: &str = "free space";
    let Ok(s) = rustix::fs::statvfs(there) else {
        return worse(
            NAME,
            Level::Bad,
            format!("{} can't be asked", there.display()),
            "choose another directory",
        );
    };
    let (free, total) = (s.f_bavail.saturating_mul(s.f_frsize), s.f_blocks.saturating_mul(s.f_frsize));
    let found = format!("{} of {} on the disk of {}", size(free), size(total), there.display());
    if free < LOW_BYTES || free < total / LOW_PART {
        let advice =
            "free some: a store keeps history until its retention lets it go, and needs room to clean";
        return worse(NAME, Level::Note, found, advice);
    }
    ok(NAME, found)
}

fn medium(there: &Path) -> Check {
    const NAME: &str = "medium";
    match rustix::fs::statfs(there) {
        Ok(s) if s.f_type == TMPFS => worse(
            NAME,
            Level::Note,
            format!("{} is in memory: a store there is gone after a restart", there.display()),
            "put the store on a disk",
        ),
        _ => ok(NAME, "not in memory"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halt_polling_that_is_off_is_told_with_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ns");
        assert_eq!(halt_polling(&path).level, Level::Ok);
        for (text, level) in [("0\n", Level::Note), ("200000\n", Level::Ok), ("nonsense", Level::Note)] {
            std::fs::write(&path, text).unwrap();
            assert_eq!(halt_polling(&path).level, level, "{text}");
        }
        assert!(halt_polling(&path).advice.unwrap().starts_with("echo 200000 > "));
    }
}
