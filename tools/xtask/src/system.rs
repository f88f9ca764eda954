//! Programs that the tests need from the system, and installing them on Debian.

use std::{
    collections::BTreeSet,
    env,
    ffi::OsStr,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use crate::{Failure, Outcome, cargo, run, shown};

/// One Debian package that some test needs.
struct Package {
    name: &'static str,
    /// Programs, or files with their whole path, that show that it is there; one of them is enough.
    any_of: &'static [&'static str],
    /// Who needs it.
    needed_by: &'static str,
}

/// What must be there. A test that needs another program adds a row.
const PACKAGES: &[Package] = &[
    Package { name: "g++", any_of: &["c++", "g++"], needed_by: "fuzzing (builds libFuzzer)" },
    Package { name: "fuse3", any_of: &["fusermount3"], needed_by: "mount tests" },
    Package { name: "strace", any_of: &["strace"], needed_by: "tests that fail system calls of a process" },
    Package { name: "fio", any_of: &["fio"], needed_by: "mount tests (fio --verify)" },
    Package { name: "attr", any_of: &["getfattr"], needed_by: "mount tests of extended attributes" },
    Package { name: "acl", any_of: &["getfacl"], needed_by: "mount tests of ACLs" },
    Package { name: "sqlite3", any_of: &["sqlite3"], needed_by: "mount tests (SQLite)" },
    Package { name: "e2fsprogs", any_of: &["mkfs.ext4"], needed_by: "comparison with ext4" },
    Package { name: "rsync", any_of: &["rsync"], needed_by: "mount tests (save by rename)" },
    Package { name: "iproute2", any_of: &["ip"], needed_by: "peers in network namespaces" },
    Package { name: "util-linux", any_of: &["nsenter"], needed_by: "peers in network namespaces" },
    Package { name: "libacl1-dev", any_of: &["/usr/include/sys/acl.h"], needed_by: "building pjdfstest" },
    Package {
        name: "stress-ng",
        any_of: &["stress-ng"],
        needed_by: "mount tests (all filesystem stressors)",
    },
    Package { name: "git", any_of: &["git"], needed_by: "mount tests (clone, fsck, gc)" },
    Package { name: "samba", any_of: &["smbd"], needed_by: "mount tests (former versions)" },
    Package {
        name: "samba-vfs-modules",
        any_of: &[
            "/usr/lib/x86_64-linux-gnu/samba/vfs/shadow_copy2.so",
            "/usr/lib/aarch64-linux-gnu/samba/vfs/shadow_copy2.so",
        ],
        needed_by: "mount tests (former versions)",
    },
    Package { name: "smbclient", any_of: &["smbclient"], needed_by: "mount tests (former versions)" },
    Package { name: "vim-tiny", any_of: &["vim.tiny", "vim"], needed_by: "mount tests (save by rename)" },
];

/// Components of Rust that the steps use; the first word is how cargo calls them.
const COMPONENTS: &[(&str, &str)] = &[("fmt", "rustfmt"), ("clippy", "clippy")];

/// Finds what is missing; installs it as root on Debian, and otherwise names it.
pub fn check(root: &Path) -> Outcome {
    components(root)?;
    let search = search_path();
    let missing = missing(&search);
    if missing.is_empty() {
        println!("all {} programs are there", PACKAGES.len());
        return Ok(());
    }
    for package in &missing {
        println!("missing: {} (for {})", package.name, package.needed_by);
    }
    let names: Vec<&str> = missing.iter().map(|package| package.name).collect();
    if !found(&search, "apt-get") {
        return Err(Failure(format!(
            "missing programs, and no apt-get here to install them. Install what your system calls {}.",
            names.join(", ")
        )));
    }
    if !is_root() {
        return Err(Failure(format!(
            "missing packages. Install them as root: apt-get install --no-install-recommends {}",
            names.join(" ")
        )));
    }
    install(&names).or_else(|Failure(why)| {
        println!("{why}; trying once more");
        install(&names)
    })?;
    let still: Vec<&str> = self::missing(&search).iter().map(|package| package.name).collect();
    if still.is_empty() {
        return Ok(());
    }
    Err(Failure(format!(
        "apt-get installed them, but their programs are not to be found: {}",
        still.join(" ")
    )))
}

fn components(root: &Path) -> Outcome {
    for (subcommand, component) in COMPONENTS {
        let mut command = cargo(root);
        command.args([*subcommand, "--version"]).stdout(Stdio::null()).stderr(Stdio::null());
        if run(&mut command).is_err() {
            return Err(Failure(format!(
                "`cargo {subcommand}` does not run. Install it: rustup component add {component}"
            )));
        }
    }
    Ok(())
}

fn install(names: &[&str]) -> Outcome {
    for words in [&["update", "-q"][..], &["install", "-q", "-y", "--no-install-recommends"]] {
        let mut command = Command::new("apt-get");
        command.args(words).env("DEBIAN_FRONTEND", "noninteractive").stdin(Stdio::null());
        if words[0] == "install" {
            command.args(names);
        }
        println!("$ {}", shown(&command));
        run(&mut command)?;
    }
    Ok(())
}

/// `PATH`, and the administrator's directories that users often don't have in it.
fn search_path() -> BTreeSet<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).chain(["/usr/sbin", "/sbin"].map(PathBuf::from)).collect()
}

fn missing(search: &BTreeSet<PathBuf>) -> Vec<&'static Package> {
    PACKAGES.iter().filter(|package| !package.any_of.iter().any(|program| found(search, program))).collect()
}

fn found(search: &BTreeSet<PathBuf>, program: impl AsRef<OsStr>) -> bool {
    let program = program.as_ref();
    if Path::new(program).is_absolute() {
        return Path::new(program).is_file();
    }
    search.iter().any(|directory| {
        let file = directory.join(program);
        file.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
    })
}

/// Asks /proc, since std does not tell: the second number of the line is the effective user.
fn is_root() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let uids = status.lines().find_map(|line| line.strip_prefix("Uid:"));
    uids.and_then(|line| line.split_whitespace().nth(1)) == Some("0")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_found_only_where_they_are() {
        let search = BTreeSet::from([PathBuf::from("/bin"), PathBuf::from("/usr/bin")]);
        assert!(found(&search, "sh"));
        assert!(!found(&search, "no-such-program"));
        assert!(!found(&BTreeSet::new(), "sh"));
        assert!(!found(&BTreeSet::from([PathBuf::from("/etc")]), "passwd"), "not executable");
        assert!(found(&BTreeSet::new(), "/etc/passwd") && !found(&search, "/etc/no-such-file"));
    }

    #[test]
    fn an_empty_system_misses_everything() {
        let programs = PACKAGES.iter().filter(|package| !package.any_of[0].starts_with('/'));
        assert!(missing(&BTreeSet::new()).len() >= programs.count());
    }
}
