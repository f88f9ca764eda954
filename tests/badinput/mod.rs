//! What is not as it should be, asked of the library and of the real programs: each is named, with what to do, and
//! nothing on disk changes.

mod damaged;
mod elsewhere;
mod readonly;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use segfs::{
    base::{Error, Ino, Result},
    format::facts::Owner,
    store::{NewObject, Options, Store},
};

use super::segtool::program as segtool;

const SEGFS: &str = env!("CARGO_BIN_EXE_segfs");

fn options() -> Options {
    Options { segment_bytes: 256 << 10, background: false, mint_interrupted: false, ..Options::default() }
}

fn reading() -> Options {
    Options { read_only: true, ..options() }
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

fn read(store: &Store, name: &str) -> Result<Vec<u8>> {
    let a = store.view().lookup(Ino::FIRST, name.as_bytes())?;
    let mut out = vec![0; a.size as usize];
    store.view().read(a.ino, 0, &mut out)?;
    Ok(out)
}

/// Files f0, f1, ... with known content, over a few segments; closed.
fn closed(dir: &Path) -> PathBuf {
    let path = dir.join("store");
    let store = Store::create(&path, options()).unwrap();
    for n in 0..6 {
        file(&store, &format!("f{n}"), &noise(n, 100_000));
        store.sync_all().unwrap();
    }
    store.close().unwrap();
    path
}

/// A store whose process died: files late0 to late3 are in the log alone.
fn crashed(dir: &Path) -> PathBuf {
    let path = closed(dir);
    let store = Store::open(&path, options()).unwrap();
    for n in 0..4 {
        file(&store, &format!("late{n}"), &noise(100 + n, 20_000));
        store.sync_all().unwrap();
    }
    path
}

/// What of a directory must not change: names, kinds, permissions, contents, and when those changed. Not that of LOCK,
/// which whoever tries to write has in hand.
fn tree(root: &Path) -> BTreeMap<PathBuf, String> {
    use std::os::unix::fs::MetadataExt as _;
    let mut all = BTreeMap::new();
    let mut todo = vec![root.to_owned()];
    while let Some(path) = todo.pop() {
        let meta = fs::symlink_metadata(&path).unwrap();
        let content = if meta.is_file() { fs::read(&path).unwrap() } else { Vec::new() };
        if meta.is_dir() {
            todo.extend(fs::read_dir(&path).unwrap().map(|e| e.unwrap().path()));
        }
        let timeless = meta.is_dir() || path.ends_with("LOCK");
        let changed = if timeless { 0 } else { meta.mtime() * 1_000_000_000 + meta.mtime_nsec() };
        let hash = blake3::hash(&content);
        all.insert(path, format!("{:o}, {} bytes, {hash}, changed {changed}", meta.mode(), content.len()));
    }
    all
}

#[track_caller]
fn same(before: &BTreeMap<PathBuf, String>, after: &BTreeMap<PathBuf, String>, who: &str) {
    let names = before.keys().chain(after.keys());
    let other: Vec<_> =
        names.filter(|n| before.get(*n) != after.get(*n)).map(|n| (n, before.get(n), after.get(n))).collect();
    assert!(other.is_empty(), "{who} changed {other:#?}");
}

fn segments(store: &Path) -> Vec<PathBuf> {
    let mut all: Vec<_> = fs::read_dir(store.join("segments")).unwrap().map(|e| e.unwrap().path()).collect();
    all.sort();
    all
}

fn id_of(file: &Path) -> u64 {
    u64::from_str_radix(file.file_stem().unwrap().to_str().unwrap(), 16).unwrap()
}

fn flip(file: &Path, at: usize) {
    let mut bytes = fs::read(file).unwrap();
    bytes[at] ^= 0x10;
    fs::write(file, bytes).unwrap();
}

#[allow(clippy::disallowed_methods)] // a test may remove what it made
fn remove(file: &Path) {
    fs::remove_file(file).unwrap();
}

fn run(words: &[&str]) -> Output {
    Command::new(SEGFS).args(words).output().unwrap()
}

/// What an error of a program must be like: its code, three parts, and these words in it.
#[track_caller]
fn says(done: &Output, code: i32, words: &[&str]) {
    let said = String::from_utf8_lossy(&done.stderr);
    assert_eq!(done.status.code(), Some(code), "{said}");
    for word in words.iter().chain(&["why:", "next:"]) {
        assert!(said.contains(word), "{word:?} is not in:\n{said}");
    }
}

/// The library's opening for writing and `segfs mount` refuse this store, with these words; `segtool verify` does not
/// end well either. Nothing changes.
///
/// The index is derived and disposable, and who wants to write opens it, which clears away what it does not need any more.
#[track_caller]
fn refused(store: &Path, code: i32, words: &[&str], is: fn(&Error) -> bool) {
    let kept = || {
        let mut all = tree(store);
        let index = store.join("index");
        all.retain(|path, _| !path.starts_with(&index) || *path == index);
        // What was accepted and may not be on the medium yet is written once more, byte for byte.
        all.values_mut().for_each(|v| v.truncate(v.rfind("changed").unwrap()));
        all
    };
    let before = kept();
    let e = match Store::open(store, options()) {
        Ok(s) => panic!("it opens; {words:?} was expected: {:?}", s.recovered()),
        Err(e) => e,
    };
    assert!(is(&e), "{e:?}");
    for word in words {
        assert!(e.to_string().contains(word), "{word:?} is not in: {e}");
    }
    same(&before, &kept(), "the library");
    let mnt = store.parent().unwrap().join("mnt");
    let done = run(&["mount", store.to_str().unwrap(), mnt.to_str().unwrap()]);
    says(&done, code, words);
    assert!(!mnt.exists(), "a mountpoint was made");
    same(&before, &kept(), "segfs mount");
    let before = tree(store);
    let done = Command::new(segtool()).arg("verify").arg(store).output().unwrap();
    assert!(done.status.code().is_some_and(|c| c != 0), "segtool verify finds nothing: {done:?}");
    same(&before, &tree(store), "segtool");
}
