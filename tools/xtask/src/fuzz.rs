//! The short run of every fuzz target.

use std::{
    path::Path,
    process::{Child, Command, Output, Stdio},
};

use crate::{Failure, Outcome, run, shown, target_dir, tools};

/// How long each target runs, in seconds.
const SECONDS: u32 = 10;
/// The most memory that a decoder may ask for in one piece, in MiB: no input is larger than a few KiB, so
/// whoever allocates this much has believed a length.
const ALLOCATION_MB: u32 = 64;
/// Inputs that a target tries at least.
const INPUTS: u64 = 500;
/// An input that takes longer than this, in seconds, is a hang.
const HANG_SECONDS: u32 = 5;

/// Targets that run side by side.
const AT_ONCE: usize = 2;
/// The same inputs in the same order each time: what a check finds must not depend on luck.
const SEED: u32 = 1;

/// Golden bytes of `tests/data` that a target begins with, beside its own corpus in `tools/fuzz/seeds`.
const GOLDEN: &[(&str, &[&str])] = &[
    ("facts", &["operation.bin"]),
    ("footer", &["footer.bin", "trailer.bin"]),
    ("frame", &["base.bin", "extent_pieces.bin", "extent_small.bin", "operation.bin"]),
    ("rows", &["base.bin"]),
    (
        "segment",
        &["stores/v1/store/segments/0000000000000002.seg", "stores/v1/store/segments/0000000000000003.seg"],
    ),
    ("segment_header", &["segment_header.bin"]),
    ("superblock", &["superblock.bin"]),
    ("wire", &["wire.bin"]),
];

/// Builds all targets in `tools/fuzz`, and runs each for a few seconds.
pub fn smoke(root: &Path) -> Outcome {
    let program = tools::get(root, &tools::FUZZ)?;
    let targets = targets(root)?;
    run(cargo_fuzz(root, &program, "build").stdin(Stdio::null()))?;
    for some in targets.chunks(AT_ONCE) {
        let running: Vec<(String, std::io::Result<Child>)> = some
            .iter()
            .map(|target| {
                let mut command = short_run(root, &program, target)?;
                println!("$ {}", shown(&command));
                Ok((target.clone(), command.spawn()))
            })
            .collect::<Result<_, Failure>>()?;
        // All of them end before any is judged.
        let ended: Vec<_> = running
            .into_iter()
            .map(|(name, child)| (name, child.and_then(Child::wait_with_output)))
            .collect();
        for (name, output) in ended {
            judge(&name, output)?;
        }
    }
    println!("{} fuzz targets ran for {SECONDS} s each", targets.len());
    Ok(())
}

fn cargo_fuzz(root: &Path, program: &Path, what: &str) -> Command {
    let mut command = Command::new(program);
    command
        .current_dir(root)
        // cargo-fuzz asks for the address sanitizer, which stable rustc has but does not admit to.
        .env("RUSTC_BOOTSTRAP", "1")
        .args([what, "--fuzz-dir", "tools/fuzz", "--target-dir"])
        .arg(target_dir(root).join("fuzz"));
    command
}

fn short_run(root: &Path, program: &Path, target: &str) -> Result<Command, Failure> {
    let corpus = target_dir(root).join("fuzz-corpus").join(target);
    let failed = |error: std::io::Error| Failure(format!("{}: {error}", corpus.display()));
    std::fs::create_dir_all(&corpus).map_err(failed)?;
    let golden = GOLDEN.iter().filter(|(name, _)| *name == target).flat_map(|(_, files)| *files);
    for (n, file) in golden.enumerate() {
        std::fs::copy(root.join("tests/data").join(file), corpus.join(format!("golden-{n}")))
            .map_err(failed)?;
    }
    let mut command = cargo_fuzz(root, program, "run");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).arg(target).arg(&corpus);
    let seeds = root.join("tools/fuzz/seeds").join(target);
    if seeds.is_dir() {
        command.arg(seeds);
    }
    command
        .arg("--")
        .arg(format!("-max_total_time={SECONDS}"))
        .arg(format!("-malloc_limit_mb={ALLOCATION_MB}"))
        .arg(format!("-timeout={HANG_SECONDS}"))
        .arg(format!("-seed={SEED}"))
        .args(["-verbosity=0", "-print_final_stats=1"]);
    Ok(command)
}

/// Says how many inputs were tried; a target that tried hardly any proves nothing.
fn judge(name: &str, output: std::io::Result<Output>) -> Outcome {
    let output = output.map_err(|error| Failure(format!("{name} could not be run: {error}")))?;
    let said = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        return Err(Failure(format!("{name} found something:\n{said}")));
    }
    let tried = said.lines().find_map(|line| line.strip_prefix("stat::number_of_executed_units:"));
    let tried: u64 = tried.and_then(|n| n.trim().parse().ok()).unwrap_or(0);
    println!("{name}: {tried} inputs");
    if tried < INPUTS {
        return Err(Failure(format!("{name} tried only {tried} inputs in {SECONDS} s")));
    }
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
