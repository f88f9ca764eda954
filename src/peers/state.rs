//! What is remembered of peers from one opening to the next: how far each is, as a hint, and the epoch.

use std::{collections::BTreeMap, io};

use super::keys::{read, replace};
use crate::{
    base::{KeyId, Lsn, StoreId},
    disk::Disk,
    format::wire::Epoch,
};

const CURSORS: (&str, &str) = ("keys/cursors", "keys/cursors.next");
const EPOCH: (&str, &str) = ("keys/epoch", "keys/epoch.next");

/// Up to where each peer has everything. What is wrong or lost costs a walk through the log.
pub(super) fn cursors(disk: &dyn Disk) -> BTreeMap<KeyId, Lsn> {
    let text = read(disk, CURSORS.0).ok().flatten().unwrap_or_default();
    let line = |line: &str| {
        let (id, lsn) = line.split_once(' ')?;
        Some((id.parse().ok()?, Lsn::new(lsn.parse().ok()?)))
    };
    text.lines().filter_map(line).collect()
}

pub(super) fn keep_cursors(disk: &dyn Disk, all: &BTreeMap<KeyId, Lsn>) -> io::Result<()> {
    let text: String = all.iter().map(|(id, lsn)| format!("{id} {lsn}\n")).collect();
    replace(disk, CURSORS.1, CURSORS.0, &text)
}

/// The epoch that this store is in; one that can't be read is not guessed.
pub(super) fn epoch(disk: &dyn Disk) -> io::Result<Epoch> {
    let Some(text) = read(disk, EPOCH.0)? else { return Ok(Epoch::default()) };
    let parsed = text.trim().split_once(' ').and_then(|(number, store)| {
        Some(Epoch { number: number.parse().ok()?, store: store.parse::<StoreId>().ok()? })
    });
    let wrong = || io::Error::new(io::ErrorKind::InvalidData, format!("{} does not hold an epoch", EPOCH.0));
    parsed.ok_or_else(wrong)
}

pub(super) fn keep_epoch(disk: &dyn Disk, epoch: &Epoch) -> io::Result<()> {
    replace(disk, EPOCH.1, EPOCH.0, &format!("{} {}\n", epoch.number, epoch.store))
}
