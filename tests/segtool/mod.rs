//! segtool, the real program, on stores of every condition.

mod damage;
mod input;
mod live;
mod mounted;
mod output;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

use segfs::{
    base::Ino,
    format::facts::Owner,
    store::{NewObject, Options, Store},
};
use serde_json::Value;

/// The program; built once, since a test of another package is not told where it is.
pub(crate) fn program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let out = Command::new(cargo)
            .args(["build", "-q", "-p", "segtool", "--message-format=json"])
            .current_dir(root)
            .output()
            .unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        let built = String::from_utf8(out.stdout).unwrap();
        let paths = built.lines().filter_map(|l| serde_json::from_str::<Value>(l).ok());
        paths.filter_map(|m| m["executable"].as_str().map(PathBuf::from)).next_back().unwrap()
    })
}

/// What a run of the program left.
#[derive(Debug)]
pub(crate) struct Run {
    code: i32,
    out: String,
    err: String,
}

impl Run {
    /// The object printed.
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }

    /// The objects printed, one a line.
    #[track_caller]
    fn lines(&self) -> Vec<Value> {
        self.out.lines().map(|l| serde_json::from_str(l).unwrap_or_else(|e| panic!("{e}: {l}"))).collect()
    }

    /// The error object; progress may stand before it.
    #[track_caller]
    fn error(&self) -> Value {
        let last = self.err.lines().last().unwrap_or_else(|| panic!("no error: {self:?}"));
        serde_json::from_str::<Value>(last).unwrap_or_else(|e| panic!("{e}: {self:?}"))["error"].clone()
    }

    #[track_caller]
    pub(crate) fn ends_with(self, code: i32) -> Self {
        assert_eq!(self.code, code, "{self:#?}");
        self
    }
}

fn run_with(words: &[&str], set: impl FnOnce(&mut Command)) -> Run {
    let mut command = Command::new(program());
    command.args(words);
    set(&mut command);
    let out = command.output().unwrap();
    let text = |b: Vec<u8>| String::from_utf8(b).unwrap();
    Run { code: out.status.code().unwrap_or(-1), out: text(out.stdout), err: text(out.stderr) }
}

/// Runs `segtool` with these words, those that name a store replaced by its path.
pub(crate) fn segtool(store: &Path, words: &[&str]) -> Run {
    let path = store.to_str().unwrap();
    let words: Vec<&str> = words.iter().map(|w| if *w == "STORE" { path } else { w }).collect();
    run_with(&words, |_| {})
}

const SEGMENT_BYTES: u64 = 256 << 10;

fn options() -> Options {
    Options { segment_bytes: SEGMENT_BYTES, background: false, mint_interrupted: false, ..Options::default() }
}

/// Bytes that don't compress, other ones for each seed.
fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut out = vec![0; len];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut out);
    out
}

fn file(store: &Store, name: &str, data: &[u8]) -> Ino {
    let new = NewObject::file(0o644, Owner::default());
    let (_, a) = store.create_object(Ino::FIRST, name.as_bytes(), &new).unwrap();
    store.write(a.ino, 0, data).unwrap();
    store.commit_version(a.ino).unwrap();
    a.ino
}

/// Fills a store with what there can be, over several segments.
fn fill(store: &Store, seed: u64) {
    for n in 0..6_u64 {
        let ino = file(store, &format!("f{n}"), &noise(seed + n, 100_000));
        store.write(ino, 50_000, &noise(seed + 100 + n, 30_000)).unwrap();
        store.commit_version(ino).unwrap();
        store.set_xattr(ino, b"user.color", Some(b"green"), None).unwrap();
        if n.is_multiple_of(2) {
            store.unlink(Ino::FIRST, format!("f{n}").as_bytes()).unwrap();
            store.reap(ino).unwrap();
        }
        store.sync_all().unwrap();
    }
    store.tag(b"now", true).unwrap();
}

/// A store with a few segments, closed.
pub(crate) fn closed(dir: &Path) -> PathBuf {
    let path = dir.join("store");
    let store = Store::create(&path, options()).unwrap();
    fill(&store, 1);
    store.close().unwrap();
    path
}

/// A store whose process died: the index lags behind the log, the last segment has no footer.
fn crashed(dir: &Path) -> PathBuf {
    let path = closed(dir);
    let store = Store::open(&path, options()).unwrap();
    for n in 0..4 {
        file(&store, &format!("late{n}"), &noise(1000 + n, 20_000));
        store.sync_all().unwrap();
    }
    path
}

/// Everything in a directory: names, kinds, contents, permissions, times of change.
fn tree(root: &Path) -> BTreeMap<PathBuf, (u32, i64, Vec<u8>)> {
    use std::os::unix::fs::MetadataExt as _;
    let mut all = BTreeMap::new();
    let mut todo = vec![root.to_owned()];
    while let Some(path) = todo.pop() {
        let meta = fs::symlink_metadata(&path).unwrap();
        let content = if meta.is_file() { fs::read(&path).unwrap() } else { Vec::new() };
        if meta.is_dir() {
            todo.extend(fs::read_dir(&path).unwrap().map(|e| e.unwrap().path()));
        }
        let changed = meta.mtime() * 1_000_000_000 + meta.mtime_nsec();
        let hash = blake3::hash(&content).as_bytes().to_vec();
        all.insert(path, (meta.mode(), changed, hash));
    }
    all
}

/// The reading commands, each with `--json` and without.
const READING: &[&[&str]] = &[
    &["segments", "STORE"],
    &["stat", "STORE"],
    &["verify", "STORE"],
    &["verify", "STORE", "--deep"],
    &["index", "check", "STORE"],
    &["dump", "STORE", "1"],
];

/// Runs every reading command, and sees that nothing changed.
#[track_caller]
fn run_all(store: &Path) -> Vec<(String, Run)> {
    let before = store.exists().then(|| tree(store));
    let mut runs = Vec::new();
    for words in READING {
        for json in [false, true] {
            let mut words = words.to_vec();
            if json {
                words.push("--json");
            }
            let run = segtool(store, &words);
            assert!(run.code >= 0 && !run.err.contains("panicked"), "{words:?}: {run:?}");
            runs.push((words.join(" "), run));
        }
    }
    assert_eq!(store.exists().then(|| tree(store)), before, "something changed");
    runs
}

/// The segment files, in order.
pub(crate) fn segment_files(store: &Path) -> Vec<PathBuf> {
    let mut all: Vec<_> = fs::read_dir(store.join("segments")).unwrap().map(|e| e.unwrap().path()).collect();
    all.sort();
    all
}

fn id_of(file: &Path) -> u64 {
    u64::from_str_radix(file.file_stem().unwrap().to_str().unwrap(), 16).unwrap()
}

pub(crate) fn flip(file: &Path, at: usize) {
    let mut bytes = fs::read(file).unwrap();
    bytes[at] ^= 0x10;
    fs::write(file, bytes).unwrap();
}
