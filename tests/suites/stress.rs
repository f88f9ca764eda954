//! stress-ng: every stressor of its class "filesystem", with its checks on.
//!
//! A second for each keeps the run short. By hand, a minute for each: `SEGFS_STRESS_SECONDS=60 cargo xtask test --only
//! stress`, which takes about an hour.

use std::{
    collections::BTreeMap,
    path::Path,
    process::{Command, Output},
};

use super::{ext4::Ext4, run, said};
use crate::mount::Mounted;

/// How long each stressor runs, in seconds, where the environment does not say.
const SECONDS: &str = "1";
/// Processes that each stressor starts.
const PROCESSES: &str = "2";
/// More than this beyond its time means that it hangs, in seconds.
const HANGS: &str = "120";

/// Stressors that cannot run on a mount, and why.
const CANT_RUN: &[(&str, &str)] =
    &[("fiemap", "FS_IOC_FIEMAP asks where on a disk a file lies; the kernel does not pass it to FUSE")];

#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Passed,
    /// It says that this system or filesystem has not got what it needs.
    NotThere,
    Failed(String),
}

fn verdict(done: &Output) -> Verdict {
    match done.status.code() {
        Some(0) => Verdict::Passed,
        Some(3 | 4) => Verdict::NotThere,
        _ => Verdict::Failed(format!("{}: {}", done.status, said(done))),
    }
}

fn stressors() -> Vec<String> {
    // Asking for the class with a question mark lists it.
    let listed = run(Command::new("stress-ng").args(["--class", "filesystem?"]));
    let names = listed.lines().find_map(|line| line.strip_prefix("class 'filesystem' stressors:"));
    names.unwrap_or_else(|| panic!("{listed}")).split_whitespace().map(str::to_owned).collect()
}

fn stress(names: &[String], dir: &Path) -> BTreeMap<String, Verdict> {
    let seconds = std::env::var("SEGFS_STRESS_SECONDS").unwrap_or_else(|_| SECONDS.into());
    let limit: u64 = seconds.parse::<u64>().unwrap() + HANGS.parse::<u64>().unwrap();
    let one = |name: &String| {
        let mut command = Command::new("timeout");
        command.args(["-k", "10", &limit.to_string(), "stress-ng", &format!("--{name}"), PROCESSES]);
        command.args(["--verify", "--timeout", &seconds, "--temp-path"]).arg(dir);
        (name.clone(), verdict(&command.output().unwrap()))
    };
    names.iter().map(one).collect()
}

#[test]
#[ignore = "cargo xtask test --only stress"]
fn every_stressor_that_passes_on_ext4_passes_here() {
    let (m, ext4, names) = (Mounted::for_all(), Ext4::new(), stressors());
    assert!(names.len() > 40, "{names:?}");
    // At the same time: each side is a disk of its own.
    let (there, here) = std::thread::scope(|scope| {
        let there = scope.spawn(|| stress(&names, &ext4.dir()));
        let here = stress(&names, &m.dir());
        (there.join().unwrap(), here)
    });
    let passed = there.values().filter(|v| **v == Verdict::Passed).count();
    assert!(passed > 35, "ext4 is not what it should be: {there:#?}");
    let worse: Vec<_> = here
        .iter()
        .filter(|(name, here)| match here {
            Verdict::Passed => false,
            Verdict::Failed(_) => true,
            Verdict::NotThere => {
                there[*name] == Verdict::Passed && CANT_RUN.iter().all(|(cant, _)| cant != name)
            }
        })
        .collect();
    assert!(worse.is_empty(), "{worse:#?}");
    let passed = here.values().filter(|v| **v == Verdict::Passed).count();
    println!(
        "{passed} of {} stressors passed, {} on ext4",
        here.len(),
        there.values().filter(|v| **v == Verdict::Passed).count()
    );
    assert_eq!(m.sh("ls -A"), "", "what they leave behind");
}
