//! The short run of every fuzz target.

use std::{
    path::Path,
    process::{Command, Stdio},
};

use crate::{Failure, Outcome, run, shown, target_dir, tools};

/// How long each target runs, in seconds.
const SECONDS: u32 = 10;
/// The most memory that a decoder may ask for in one piece, in MiB: no input is larger than a few KiB, so
/// whoever allocates this much has believed a length.
const ALLOCATION_MB: u32 = 64;
/// An input that takes longer than this, in seconds, is a hang.
const HANG_SECONDS: u32 = 5;

/// Builds and runs each target in `tools/fuzz` for a few seconds.
pub fn smoke(root: &Path) -> Outcome {
    let program = tools::get(root, &tools::FUZZ)?;
    let targets = targets(root)?;
    for target in &targets {
        println!("{target}: {SECONDS} s");
        let corpus = target_dir(root).join("fuzz-corpus").join(target);
        std::fs::create_dir_all(&corpus)
            .map_err(|error| Failure(format!("{}: {error}", corpus.display())))?;
        let mut command = Command::new(&program);
        command
            .current_dir(root)
            .stdin(Stdio::null())
            // cargo-fuzz asks for the address sanitizer, which stable rustc has but does not admit to.
            .env("RUSTC_BOOTSTRAP", "1")
            .args(["run", "--fuzz-dir", "tools/fuzz", "--target-dir"])
            .arg(target_dir(root).join("fuzz"))
            .arg(target)
            .arg(&corpus)
            .arg("--")
            .arg(format!("-max_total_time={SECONDS}"))
            .arg(format!("-malloc_limit_mb={ALLOCATION_MB}"))
            .arg(format!("-timeout={HANG_SECONDS}"))
            .args(["-verbosity=0", "-print_final_stats=1"]);
        println!("$ {}", shown(&command));
        run(&mut command)?;
    }
    println!("{} fuzz targets ran", targets.len());
    Ok(())
}

/// The names of the targets: the files in `tools/fuzz/fuzz_targets`.
fn targets(root: &Path) -> Result<Vec<String>, Failure> {
    let directory = root.join("tools/fuzz/fuzz_targets");
    let failed = |error: std::io::Error| Failure(format!("{}: {error}", directory.display()));
    let mut names = Vec::new();
    for entry in directory.read_dir().map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if path.extension().is_some_and(|extension| extension == "rs") {
            names.extend(path.file_stem().map(|stem| stem.to_string_lossy().into_owned()));
        }
    }
    names.sort_unstable();
    if names.is_empty() {
        return Err(Failure(format!("{} holds no fuzz targets", directory.display())));
    }
    Ok(names)
}
