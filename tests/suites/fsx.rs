//! fsx: random reads, writes, truncations, maps, holes and copies of one file, every read checked.

use std::{fs, process::Command};

use super::{run, tool};
use crate::mount::Mounted;

/// Every operation there is. Offsets and lengths are multiples of nothing.
const CONFIG: &str = r"
flen = 1048576

[opsize]
max = 131072

[weights]
close_open = 1
read = 10
write = 10
mapread = 10
mapwrite = 10
invalidate = 2
truncate = 5
fsync = 0.5
fdatasync = 0.5
posix_fallocate = 3
punch_hole = 5
sendfile = 5
posix_fadvise = 5
copy_file_range = 5
";

/// Operations for each seed.
const OPERATIONS: &str = "30000";

fn exercise(config: &str, seeds: &[u64]) {
    let m = Mounted::new();
    let path = m.root.path().join("fsx.toml");
    fs::write(&path, config).unwrap();
    for seed in seeds {
        let mut command = Command::new(tool("SEGFS_FSX"));
        command.args(["-N", OPERATIONS, "-S", &seed.to_string(), "-f"]).arg(&path);
        command.arg("-P").arg(m.root.path()).arg(m.path("file"));
        run(&mut command);
    }
}

#[test]
#[ignore = "cargo xtask test --only posix"]
fn every_read_finds_what_was_written() {
    exercise(CONFIG, &[1, 7919]);
}

#[test]
#[ignore = "cargo xtask test --only posix"]
fn what_was_mapped_shows_without_a_sync() {
    exercise(&CONFIG.replace("\nflen", "\nnomsyncafterwrite = true\nflen"), &[20_261_124, 4]);
}
