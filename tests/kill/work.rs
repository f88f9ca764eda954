//! What the killed process does, one record a step, each decided by its number and what is there: so that whoever knows
//! how many steps there were knows what must be there.

use std::collections::BTreeMap;

use segfs::{
    base::Ino,
    format::facts::Owner,
    store::{NewObject, Rename, Store},
};

/// A small generator.
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11) % n
    }
}

#[derive(Default, Clone)]
struct File {
    bytes: Vec<u8>,
    draft: bool,
    versions: u64,
    /// What the last version holds.
    kept: Vec<u8>,
    color: Option<Vec<u8>>,
}

/// What is there after so many steps.
#[derive(Default)]
pub struct Model {
    steps: u64,
    files: BTreeMap<Vec<u8>, File>,
}

fn data(n: u64, len: u64) -> Vec<u8> {
    let mut out = vec![0; len as usize];
    blake3::Hasher::new().update(&n.to_le_bytes()).finalize_xof().fill(&mut out);
    out
}

impl Model {
    /// After the first `n` steps.
    pub fn at(n: u64) -> Self {
        let mut model = Self::default();
        while model.steps < n {
            model.next(None);
        }
        model
    }

    /// The next step, done in the store too, if there is one.
    pub fn next(&mut self, store: Option<&Store>) {
        self.steps += 1;
        let n = self.steps;
        let mut dice = Dice::new(n);
        let name = format!("f{}", dice.below(9)).into_bytes();
        let there = store.and_then(|s| s.view().lookup(Ino::FIRST, &name).ok()).map(|a| a.ino);
        let Some(file) = self.files.get_mut(&name) else {
            if let Some(s) = store {
                s.create_object(Ino::FIRST, &name, &NewObject::file(0o640, Owner::default())).unwrap();
            }
            self.files.insert(name, File::default());
            return;
        };
        let both = store.map(|s| (s, there.unwrap()));
        match dice.below(20) {
            0..8 => write(file, both, n, &mut dice),
            8..13 => {
                if !file.draft {
                    return write(file, both, n, &mut dice);
                }
                (file.draft, file.versions) = (false, file.versions + 1);
                file.kept = file.bytes.clone();
                both.map(|(s, ino)| s.commit_version(ino).unwrap().1.unwrap());
            }
            13..15 => {
                let size = dice.below(file.bytes.len() as u64 + 5000);
                file.bytes.resize(size as usize, 0);
                file.draft = true;
                both.map(|(s, ino)| s.truncate(ino, size).unwrap());
            }
            15..17 => {
                let value = n.to_le_bytes().to_vec();
                both.map(|(s, ino)| s.set_xattr(ino, b"user.color", Some(&value), None).unwrap());
                file.color = Some(value);
            }
            17 => {
                self.files.remove(&name);
                both.map(|(s, _)| s.unlink(Ino::FIRST, &name).unwrap());
            }
            _ => {
                let to = format!("f{}", dice.below(9)).into_bytes();
                if to == name {
                    return write(file, both, n, &mut dice);
                }
                let moved = self.files.remove(&name).unwrap();
                self.files.insert(to.clone(), moved);
                both.map(|(s, _)| s.rename((Ino::FIRST, &name), (Ino::FIRST, &to), Rename::Replace).unwrap());
            }
        }
    }

    /// Is it what the store shows?
    pub fn check(&self, store: &Store) -> Result<(), String> {
        let view = store.view();
        let tell = |e: segfs::base::Error| e.to_string();
        let entries = view.entries(Ino::FIRST, None, 1000).map_err(tell)?;
        let found: Vec<&Vec<u8>> = entries.iter().map(|e| &e.name).collect();
        let expected: Vec<&Vec<u8>> = self.files.keys().collect();
        if found != expected {
            return Err(format!("{found:?} are there, not {expected:?}"));
        }
        for (e, (name, file)) in entries.iter().zip(&self.files) {
            let name = String::from_utf8_lossy(name);
            let mut out = vec![1; file.bytes.len() + 10];
            let n = view.read(e.ino, 0, &mut out).map_err(tell)?;
            if out[..n] != file.bytes {
                return Err(format!("{name} has {n} bytes, not the {} that were written", file.bytes.len()));
            }
            let versions = view.versions(e.ino, None, usize::MAX).map_err(tell)?;
            if versions.len() as u64 != file.versions {
                return Err(format!("{name} has {} versions, not {}", versions.len(), file.versions));
            }
            if let Some(last) = versions.last() {
                let mut out = vec![1; file.kept.len() + 10];
                let n = store.read_version(e.ino, last.lsn, 0, &mut out).map_err(tell)?;
                if out[..n] != file.kept {
                    return Err(format!("the last version of {name} is not what it was"));
                }
            }
            let color = view.xattr(e.ino, b"user.color").ok();
            if color != file.color {
                return Err(format!("{name} has the color {color:?}, not {:?}", file.color));
            }
        }
        Ok(())
    }
}

fn write(file: &mut File, both: Option<(&Store, Ino)>, n: u64, dice: &mut Dice) {
    let len = match dice.below(30) {
        // Large enough for a commit by io_uring.
        0 => 1 << 20,
        1..6 => 1 + dice.below(60_000),
        _ => 1 + dice.below(6000),
    };
    let at = dice.below(file.bytes.len().min(100_000) as u64 + 1);
    let bytes = data(n, len);
    let end = (at + len) as usize;
    if file.bytes.len() < end {
        file.bytes.resize(end, 0);
    }
    file.bytes[at as usize..end].copy_from_slice(&bytes);
    file.draft = true;
    both.map(|(s, ino)| s.write(ino, at, &bytes).unwrap());
}
