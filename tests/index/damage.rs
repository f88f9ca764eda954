//! Damaged files: the index is refused, or a read fails, or the answers are right. Never a wrong answer, never a
//! panic.

use std::{
    fs,
    path::{Path, PathBuf},
};

use segfs::{
    base::{Error, Result},
    index::{Index, SortedIndex, destroy},
};

use super::{Dice, Model, all, apply_to_model, changes, key, lsn};

const KEYS: u64 = 3000;

/// An index with several tables, in more than one level, and its files.
struct Sound {
    files: Vec<(PathBuf, Vec<u8>)>,
    model: Model,
    f: u64,
}

impl Sound {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("index");
        let index = SortedIndex::open(&path, 1 << 20).unwrap();
        let (mut model, mut dice, mut f) = (Model::new(), Dice::new(7), 0);
        for n in 1..=2700 {
            let changes = changes(&mut dice, KEYS);
            index.apply(lsn(n), &changes).unwrap();
            apply_to_model(&mut model, &changes);
            if n % 300 == 0 {
                index.rotate(lsn(n)).unwrap();
                index.flush().unwrap();
                f = n;
                if n <= 2100 {
                    while index.compact().unwrap() {}
                }
            }
        }
        assert!(index.stats().tables >= 3, "{:?}", index.stats());
        drop(index);
        let mut files = Vec::new();
        for folder in [path.clone(), path.join("tables")] {
            for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
                if entry.file_type().unwrap().is_file() {
                    let name = entry.path().strip_prefix(&path).unwrap().to_path_buf();
                    files.push((name, fs::read(entry.path()).unwrap()));
                }
            }
        }
        files.sort();
        Self { files, model, f }
    }

    fn write_to(&self, path: &Path) {
        destroy(path).unwrap();
        fs::create_dir_all(path.join("tables")).unwrap();
        for (name, bytes) in &self.files {
            fs::write(path.join(name), bytes).unwrap();
        }
    }

    /// Opens and reads everything in every way. `Ok` means that all of it was right.
    fn read(&self, path: &Path, hurt: &str) -> Result<()> {
        let index = SortedIndex::open(path, 1 << 20)?;
        assert_eq!(index.flushed_lsn().get(), self.f, "{hurt}");
        let mut result = Ok(());
        let mut note = |r: Result<()>| {
            if result.is_ok() {
                result = r;
            }
        };
        // Gets first: they must not profit from a walk that found the damage.
        for n in 0..KEYS {
            let key = key(n);
            note(index.get(&key).map(|value| {
                assert_eq!(value.as_deref(), self.model.get(&key).map(|v| &**v), "{hurt}");
            }));
        }
        note(all(&index).map(|rows| assert!(rows == self.model, "wrong rows: {hurt}")));
        note(index.scan_back(&[], &[9], usize::MAX).map(|rows| {
            assert!(rows.len() == self.model.len(), "wrong rows: {hurt}");
        }));
        // And a merge must not launder damage into sound tables.
        note(index.compact().map(|_| ()));
        note(all(&index).map(|rows| assert!(rows == self.model, "wrong rows after a merge: {hurt}")));
        result
    }
}

#[test]
#[allow(clippy::disallowed_methods)] // damages real files
fn damage_is_an_error_or_makes_no_difference() {
    let sound = Sound::new();
    let dir = tempfile::tempdir().unwrap();
    let path = &dir.path().join("index");
    let mut dice = Dice::new(std::env::var("SEED").map_or(3, |s| s.parse().unwrap()));
    let mut seen = [0, 0];
    let mut try_with = |hurt: String, damage: &dyn Fn(&Path)| {
        sound.write_to(path);
        damage(path);
        match sound.read(path, &hurt) {
            Ok(()) => seen[0] += 1,
            Err(Error::Damaged(_)) => seen[1] += 1,
            Err(e) => panic!("{hurt}: not told as damage: {e}"),
        }
    };
    try_with("nothing".into(), &|_| ());
    try_with("a directory among the tables".into(), &|p| fs::create_dir(p.join("tables/99")).unwrap());
    try_with("a foreign file among the tables".into(), &|p| fs::write(p.join("tables/x"), "").unwrap());
    for (name, bytes) in &sound.files {
        let shown = name.display();
        try_with(format!("{shown} deleted"), &|p| fs::remove_file(p.join(name)).unwrap());
        for len in (0..6).map(|i| bytes.len() * i / 6).chain([bytes.len() - 1]) {
            try_with(format!("{shown} cut to {len}"), &|p| fs::write(p.join(name), &bytes[..len]).unwrap());
        }
        try_with(format!("{shown} lengthened"), &|p| {
            fs::write(p.join(name), [bytes, &b"x"[..]].concat()).unwrap()
        });
        // Single bits: densely at the end, where the tables of contents are, sparsely elsewhere.
        let tail = bytes.len().saturating_sub(1200);
        for i in 0..150 {
            let at = if i % 3 == 0 {
                dice.below(bytes.len() as u64) as usize
            } else {
                tail + dice.below((bytes.len() - tail) as u64) as usize
            };
            let bit = 1 << dice.below(8);
            try_with(format!("{shown} byte {at} ^ {bit}"), &|p| {
                let mut bytes = bytes.clone();
                bytes[at] ^= bit;
                fs::write(p.join(name), bytes).unwrap();
            });
        }
        // A whole sector of zeros.
        for _ in 0..10 {
            let at = dice.below(bytes.len() as u64) as usize / 512 * 512;
            try_with(format!("{shown} zeros at {at}"), &|p| {
                let mut bytes = bytes.clone();
                let end = bytes.len().min(at + 512);
                bytes[at..end].fill(0);
                fs::write(p.join(name), bytes).unwrap();
            });
        }
    }
    let [unharmed, noticed] = seen;
    eprintln!("{noticed} noticed, {unharmed} made no difference");
    assert!(noticed > unharmed, "{seen:?}");
}
