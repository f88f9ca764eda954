//! The long suites against real mounts: `tests/suites`, with the programs that they drive.

use std::path::Path;

use crate::{Outcome, cargo, run, shown, tools};

/// POSIX, as others have written it down in tests.
pub fn posix(root: &Path) -> Outcome {
    let programs = [("SEGFS_PJDFSTEST", &tools::PJDFSTEST), ("SEGFS_FSX", &tools::FSX)];
    test(root, &["pjdfstest", "fsx"], &programs)
}

/// Every stressor of stress-ng's class "filesystem".
pub fn stress(root: &Path) -> Outcome {
    test(root, &["stress"], &[])
}

/// The same random operations on a mount and on ext4.
pub fn twosided(root: &Path) -> Outcome {
    test(root, &["twosided"], &[])
}

/// Programs as people use them.
pub fn programs(root: &Path) -> Outcome {
    test(root, &["programs", "samba"], &[])
}

/// The daemon is killed, and its system calls fail.
pub fn killed(root: &Path) -> Outcome {
    test(root, &["killed", "faults"], &[("SEGFS_FSX", &tools::FSX)])
}

/// What others have written down, random operations on both sides, and kills, where the kernel collects writes.
pub fn writeback(root: &Path) -> Outcome {
    let mode = [("SEGFS_MOUNT_OPTIONS", "writeback"), ("SEGFS_TWOSIDED_SEEDS", "10")];
    let suites = ["twosided", "killed", "faults", "fsx", "pjdfstest", "programs::fio", "programs::sqlite"];
    let programs = [("SEGFS_PJDFSTEST", &tools::PJDFSTEST), ("SEGFS_FSX", &tools::FSX)];
    test_as(root, &mode, &suites, &programs)
}

/// Runs some of the suites, and tells them where the programs are that they need.
fn test(root: &Path, suites: &[&str], programs: &[(&str, &tools::Tool)]) -> Outcome {
    test_as(root, &[], suites, programs)
}

/// The same with variables set that change what the suites do.
fn test_as(
    root: &Path,
    variables: &[(&str, &str)],
    suites: &[&str],
    programs: &[(&str, &tools::Tool)],
) -> Outcome {
    let mut command = cargo(root);
    command.envs(variables.iter().copied());
    command.args(["test", "--test", "it", "--", "--ignored"]);
    command.args(suites.iter().map(|suite| format!("suites::{suite}")));
    for (variable, tool) in programs {
        command.env(variable, tools::get(root, tool)?);
    }
    println!("$ {}", shown(&command));
    run(&mut command)
}
