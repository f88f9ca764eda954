//! The index: both backends do the same, survive a kill, and notice damage.

mod bench;
mod conformance;
mod damage;
mod full;
mod kill;

use std::collections::BTreeMap;

use segfs::{
    base::{Lsn, Result},
    index::{Change, Index, Order, Row},
};

/// What the rows should be.
type Model = BTreeMap<Vec<u8>, Vec<u8>>;

/// A small generator, so that a seed replays a run.
struct Dice(u64);

impl Dice {
    fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
}

/// A record's changes: keys from a small space, so that rows are overwritten and removed; values of all sizes.
fn changes(dice: &mut Dice, keys: u64) -> Vec<Change> {
    (0..dice.below(8))
        .map(|_| {
            let key = key(dice.below(keys));
            if dice.below(3) == 0 {
                return Change::remove(key);
            }
            let len = match dice.below(20) {
                0 => 0,
                1 => 5000,
                _ => dice.below(120),
            };
            Change::put(key, (0..len).map(|_| dice.next() as u8).collect::<Vec<_>>())
        })
        .collect()
}

/// Keys of different lengths, some the beginning of another.
fn key(n: u64) -> Vec<u8> {
    let mut key = vec![1 + (n % 3) as u8];
    key.extend_from_slice(&n.to_be_bytes()[8 - (1 + n % 4) as usize..]);
    key
}

fn apply_to_model(model: &mut Model, changes: &[Change]) {
    for change in changes {
        match &change.value {
            Some(value) => model.insert(change.key.clone(), value.clone()),
            None => model.remove(&change.key),
        };
    }
}

fn all(index: &dyn Index) -> Result<Model> {
    let mut rows = Model::new();
    index.walk(&[], &[255; 16], Order::Forward, &mut |key, value| {
        rows.insert(key.to_vec(), value.to_vec());
        true
    })?;
    Ok(rows)
}

fn plain(rows: Vec<Row>) -> Vec<(Vec<u8>, Vec<u8>)> {
    rows.into_iter().map(|(key, value)| (key.into_vec(), value.to_vec())).collect()
}

fn lsn(n: u64) -> Lsn {
    Lsn::new(n)
}
