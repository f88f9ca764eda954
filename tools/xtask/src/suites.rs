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

/// Runs some of the suites, and tells them where the programs are that they need.
fn test(root: &Path, suites: &[&str], programs: &[(&str, &tools::Tool)]) -> Outcome {
    let mut command = cargo(root);
    command.args(["test", "--test", "it", "--", "--ignored"]);
    command.args(suites.iter().map(|suite| format!("suites::{suite}")));
    for (variable, tool) in programs {
        command.env(variable, tools::get(root, tool)?);
    }
    println!("$ {}", shown(&command));
    run(&mut command)
}
