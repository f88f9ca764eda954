//! pjdfstest: what POSIX asks of each system call on names, modes, owners and times.

use std::{collections::BTreeMap, fs, path::Path, process::Command};

use super::{ext4::Ext4, said, tool};
use crate::mount::{Mounted, SEGFS};

/// Cases in the version that is pinned: fewer would mean that the output was not understood.
const CASES: usize = 398;

/// Users of every Debian stand in for users made for the test.
const CONFIG: &str = r#"
[features]
posix_fallocate = {}
rename_ctime = {}
utime_now = {}
utimensat = {}

[settings]
naptime = 0.01
allow_remount = REMOUNT

[dummy_auth]
entries = [["nobody", "nogroup"], ["games", "games"]]
"#;

/// The C library knows the limits of links of some filesystems by their type, and of FUSE none, so this case can't
/// ask; `attributes::links_end_at_the_limit` does.
const CANT_ASK: &str = "link::link_count_max";

/// Runs the suite where mount(8) finds segfs, as it would where it is installed: in a view of the mounts of its own.
const RUN: &str = r#"
mount -t tmpfs none /usr/local/bin
cp "$SEGFS" /usr/local/bin/segfs
exec "$@"
"#;

/// What became of each case: "ok", "FAILED" or "skipped".
type Results = BTreeMap<String, String>;

/// Runs the suite: first all cases but those that remount, then those, since some of the others leave files open
/// and nothing can be made read-only then.
fn results(dir: &Path, second: &Path) -> (Results, String) {
    let (mut results, mut all_said) = (Results::new(), String::new());
    for (remount, pattern) in [("false", &[][..]), ("true", &["erofs"][..])] {
        let config = second.join("pjdfstest.toml");
        fs::write(&config, CONFIG.replace("REMOUNT", remount)).unwrap();
        let mut command = Command::new("unshare");
        command.args(["-m", "sh", "-ec", RUN, "sh"]).env("SEGFS", SEGFS).env("NO_COLOR", "1");
        command.arg(tool("SEGFS_PJDFSTEST")).arg("-c").arg(config).arg("-p").arg(dir).arg("-s").arg(second);
        let said = said(&command.args(pattern).output().unwrap());
        for line in said.lines() {
            let Some((name, verdict)) = line.split_once(char::is_whitespace) else { continue };
            if ["ok", "FAILED", "skipped"].contains(&verdict.trim()) {
                results.insert(name.to_owned(), verdict.trim().to_owned());
            }
        }
        all_said += &said;
    }
    (results, all_said)
}

#[test]
#[ignore = "cargo xtask test --only posix"]
fn every_case_that_passes_on_ext4_passes_here() {
    let (m, ext4) = (Mounted::for_all(), Ext4::new());
    let (wanted, ext4_said) = results(&ext4.dir(), m.root.path());
    let (got, said) = results(&m.dir(), m.root.path());
    assert_eq!(wanted.len(), CASES, "{ext4_said}");
    assert_eq!(got.keys().collect::<Vec<_>>(), wanted.keys().collect::<Vec<_>>(), "{said}");
    let worse: Vec<&str> = got
        .iter()
        .filter(|(name, here)| match here.as_str() {
            "ok" => false,
            "skipped" => *name != CANT_ASK,
            _ => wanted[*name] == "ok",
        })
        .map(|(name, _)| name.as_str())
        .collect();
    let count = |results: &Results, verdict: &str| results.values().filter(|v| *v == verdict).count();
    for (name, results) in [("ext4", &wanted), ("segfs", &got)] {
        let [ok, failed, skipped] = ["ok", "FAILED", "skipped"].map(|verdict| count(results, verdict));
        println!("{name}: {ok} passed, {failed} failed, {skipped} skipped");
    }
    assert!(worse.is_empty(), "these are worse than on ext4: {worse:?}\n{said}");
}
