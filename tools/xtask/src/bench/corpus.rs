//! The data: incompressible bytes, text, and a source tree with its git history; the same in each run on the same
//! sources.

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use crate::{Failure, Outcome, run};

use super::options::Sizes;

/// Bytes of each kind kept in memory; larger files repeat them.
const BUFFER_BYTES: usize = 64 << 20;
/// Files in a directory of the tree, about.
const FILES_PER_DIRECTORY: usize = 12;

/// Random numbers that are the same in each run (SplitMix64).
pub struct Dice(u64);

impl Dice {
    /// A sequence of its own for each seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below this one.
    pub fn below(&mut self, end: u64) -> u64 {
        self.next() % end.max(1)
    }
}

/// What the workloads write.
pub struct Corpus {
    /// Bytes that don't compress.
    pub random: Vec<u8>,
    /// Lines of source text.
    pub text: Vec<u8>,
    /// An archive of the tree, whose one directory is `tree`.
    pub archive: PathBuf,
    /// How much each workload does.
    pub sizes: Sizes,
}

impl Corpus {
    /// Makes all of it; the archive goes to memory where there is `/dev/shm`, else into `place`.
    pub fn make(root: &Path, place: &Path, sizes: Sizes) -> Result<Self, Failure> {
        let mut dice = Dice::new(1);
        let random = (0..BUFFER_BYTES / 8).flat_map(|_| dice.next().to_le_bytes()).collect();
        let lines = lines(root);
        let text = text(&lines, &mut dice, BUFFER_BYTES);
        let archive = place.join("tree.tar");
        tree(&place.join("made"), &archive, &text, sizes.tree_files)?;
        Ok(Self { random, text, archive, sizes })
    }
}

/// Lines of this repository's own sources.
fn lines(root: &Path) -> Vec<Vec<u8>> {
    let mut files = Vec::new();
    for dir in ["src", "tests", "tools", "docs"] {
        collect(&root.join(dir), &mut files);
    }
    files.sort();
    let all = files
        .iter()
        .filter_map(|f| fs::read(f).ok())
        .flat_map(|bytes| bytes.split_inclusive(|b| *b == b'\n').map(<[u8]>::to_vec).collect::<Vec<_>>());
    let found: Vec<_> = all.collect();
    if found.is_empty() { vec![b"fn main() {}\n".to_vec()] } else { found }
}

fn collect(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            if path.file_name().is_some_and(|n| n != "target") {
                collect(&path, found);
            }
        } else if path.extension().is_some_and(|e| e == "rs" || e == "md") {
            found.push(path);
        }
    }
}

/// Runs of a few lines, each from somewhere else.
fn text(lines: &[Vec<u8>], dice: &mut Dice, bytes: usize) -> Vec<u8> {
    let mut text = Vec::with_capacity(bytes + 4096);
    while text.len() < bytes {
        let from = dice.below(lines.len() as u64) as usize;
        for line in lines.iter().skip(from).take(1 + dice.below(6) as usize) {
            text.extend_from_slice(line);
        }
    }
    text.truncate(bytes);
    text
}

/// A size as files of source trees have it: most a few KiB, some a hundred.
fn file_bytes(dice: &mut Dice) -> usize {
    // The sum of uniform numbers is nearly normal, its power nearly log-normal.
    let normal = (0..6).map(|_| dice.below(1000) as f64 / 1000.0).sum::<f64>() - 3.0;
    let bytes = 4900.0 * (1.85 * normal).exp();
    bytes.clamp(60.0, 200_000.0) as usize
}

fn tree(made: &Path, archive: &Path, text: &[u8], files: usize) -> Outcome {
    let tree = made.join("tree");
    let failed = |e: std::io::Error| Failure(format!("making the tree: {e}"));
    let mut dice = Dice::new(2);
    for n in 0..files {
        let d = n / FILES_PER_DIRECTORY;
        let mut dir = tree.join(format!("part{}", d % 23));
        for level in 0..d % 4 {
            let _ = write!(dir.as_mut_os_string(), "/level{level}");
        }
        let dir = dir.join(format!("module{d}"));
        if n % FILES_PER_DIRECTORY == 0 {
            fs::create_dir_all(&dir).map_err(failed)?;
        }
        let bytes = file_bytes(&mut dice);
        let from = dice.below((text.len() - bytes) as u64) as usize;
        fs::write(dir.join(format!("file{n}.rs")), &text[from..from + bytes]).map_err(failed)?;
    }
    for words in [
        &["init", "-q"][..],
        &["add", "-A", "-f"],
        &["commit", "-q", "-m", "all of it"],
        &["repack", "-a", "-d", "-q"],
    ] {
        run(git().arg("-C").arg(&tree).args(words))?;
    }
    let mut tar = Command::new("tar");
    run(tar.arg("-C").arg(made).arg("-cf").arg(archive).arg("tree"))?;
    fs::remove_dir_all(made).map_err(failed)
}

/// Git that reads nobody's settings.
pub fn git() -> Command {
    let mut git = Command::new("git");
    git.env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_SYSTEM", "/dev/null");
    for who in ["AUTHOR", "COMMITTER"] {
        git.env(format!("GIT_{who}_NAME"), "bench").env(format!("GIT_{who}_EMAIL"), "bench@localhost");
        git.env(format!("GIT_{who}_DATE"), "2026-01-01T00:00:00Z");
    }
    git.args(["-c", "gc.auto=0", "-c", "core.fsmonitor=false", "-c", "safe.directory=*"]);
    git.args(["-c", "init.defaultBranch=main"]).stdin(Stdio::null());
    git
}
