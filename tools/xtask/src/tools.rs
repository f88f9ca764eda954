//! Programs from crates.io at pinned versions, built once into `target/tools`, and the checks done with them.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use crate::{Outcome, cargo, run, shown, target_dir};

/// A program from crates.io.
pub struct Tool {
    name: &'static str,
    version: &'static str,
    /// Further arguments of `cargo install`.
    options: &'static [&'static str],
}

/// Reads licences, sources and versions of all dependencies (`deny.toml`).
pub const DENY: Tool = Tool { name: "cargo-deny", version: "0.20.2", options: &["--no-default-features"] };
/// Builds and drives the targets in `tools/fuzz`.
pub const FUZZ: Tool = Tool { name: "cargo-fuzz", version: "0.13.2", options: &[] };
/// Asks a filesystem for all that POSIX says of system calls on names, modes, owners and times.
pub const PJDFSTEST: Tool = Tool { name: "pjdfstest", version: "0.2.2", options: &[] };
/// Random operations on one file, each read checked.
pub const FSX: Tool = Tool { name: "fsx", version: "0.3.2", options: &[] };

/// The path of a tool, which is built first if it is not there at the version that we want.
pub fn get(root: &Path, tool: &Tool) -> Result<PathBuf, crate::Failure> {
    let home = target_dir(root).join("tools");
    let program = home.join("bin").join(tool.name);
    if installed(&program, tool) {
        return Ok(program);
    }
    println!("building {} {} into {}, once", tool.name, tool.version, home.display());
    let mut command = cargo(root);
    command
        .args(["install", "--locked", "--force", tool.name, "--version", tool.version])
        .args(tool.options)
        .arg("--root")
        .arg(&home)
        .arg("--target-dir")
        .arg(home.join("build"));
    println!("$ {}", shown(&command));
    run(&mut command)?;
    Ok(program)
}

fn installed(program: &Path, tool: &Tool) -> bool {
    let said = Command::new(program).arg("--version").stdin(Stdio::null()).output();
    said.is_ok_and(|said| {
        said.status.success() && is_version(&String::from_utf8_lossy(&said.stdout), tool.version)
    })
}

/// Does `name 1.2.3` say this version?
fn is_version(said: &str, version: &str) -> bool {
    said.split_whitespace().nth(1) == Some(version)
}

/// Holds the dependencies to `deny.toml`. Advisories are not asked for: their database is a git repository
/// that a test run should not depend on.
pub fn deny(root: &Path) -> Outcome {
    let program = get(root, &DENY)?;
    for manifest in ["Cargo.toml", "tools/fuzz/Cargo.toml"] {
        let mut command = Command::new(&program);
        command.current_dir(root).stdin(Stdio::null());
        command.args(["--manifest-path", manifest, "--workspace", "--config", "deny.toml"]);
        command.args(["check", "--hide-inclusion-graph", "bans", "licenses", "sources"]);
        println!("$ {}", shown(&command));
        run(&mut command)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_version_is_not_the_one_we_want() {
        assert!(is_version("cargo-deny 0.20.2\n", "0.20.2"));
        assert!(!is_version("cargo-deny 0.20.20\n", "0.20.2"));
        assert!(!is_version("", "0.20.2"));
    }

    #[test]
    fn a_missing_program_is_not_installed() {
        assert!(!installed(Path::new("/nonexistent/cargo-deny"), &DENY));
    }
}
