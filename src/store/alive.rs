//! What is alive: every extent that a row shows, found by one walk over the rows.
//!
//! Counting references as they come and go would cost every write a read and a row; the walk costs nothing until
//! space is wanted, and then what the index is long. What it finds dead stays dead, also while operations go on: an
//! extent comes back to life only through a row that shows it, or through one that names it as an extent of another
//! store; so that name is taken away first, and the extent given up at a later look.

use crate::{
    base::{
        Error, Ino, Lsn, Result,
        limits::CHUNK_BYTES,
        planted::{Bug, planted},
    },
    format::{
        Location,
        facts::ObjectKind,
        rows::{
            ChangesRow, ChunkRow, Content, Cut, ObjectRow, Piece, Superseded, VersionRow, after_prefix, key,
            kind,
        },
    },
    index::{Index, Order},
};

use super::{pieces::is_cut, txn::row};

/// Why an extent is alive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Use {
    /// History shows it.
    History,
    /// The present shows it.
    Present,
}

/// An extent that a row shows.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sight<'a> {
    /// Of this object.
    pub(super) ino: Ino,
    /// The extent.
    pub(super) extent: Lsn,
    /// Where it lay when the row was written.
    pub(super) location: Location,
    /// Why it is alive.
    pub(super) by: Use,
    /// Of a chunk: the key of the row, and how many bytes of the extent it shows here.
    pub(super) part: Option<(&'a [u8], u32)>,
}

/// Told of an extent that a row shows. Says whether to go on.
pub(super) type Shown<'a> = &'a mut dyn FnMut(&Sight<'_>) -> Result<bool>;

/// Tells of every extent that a row shows, of many more than once. Returns how many rows there are.
pub(super) fn each_shown(index: &dyn Index, shown: Shown<'_>) -> Result<u64> {
    let mut rows = 0;
    let mut owner: Option<(Ino, Owner)> = None;
    let mut failed: Option<Error> = None;
    index.walk(&[], &[kind::SPARED], Order::Forward, &mut |k, bytes| {
        rows += 1;
        match see(index, k, bytes, &mut owner, shown) {
            Ok(go_on) => go_on,
            Err(e) => {
                failed = Some(e);
                false
            }
        }
    })?;
    failed.map_or(Ok(rows), Err)
}

/// What an object says of its chunks.
struct Owner {
    content: Content,
    /// Has it a name, or is it still open?
    reachable: bool,
}

fn see(
    index: &dyn Index,
    k: &[u8],
    bytes: &[u8],
    owner: &mut Option<(Ino, Owner)>,
    shown: Shown<'_>,
) -> Result<bool> {
    match (k.first(), k.get(1)) {
        (Some(&kind::CHUNK), _) => {
            let chunk: ChunkRow = row(k, bytes)?;
            let ino = key::ino_of(k).unwrap_or_default();
            if owner.as_ref().is_none_or(|(of, _)| *of != ino) {
                *owner = Some((ino, owner_of(index, ino)?));
            }
            let Some((_, o)) = owner else { return Ok(true) };
            match use_of(index, o, ino, k, chunk.from)? {
                Some(by) => pieces(ino, k, &chunk.pieces, by, shown),
                None => Ok(true),
            }
        }
        (Some(&kind::HISTORY), Some(&kind::CHUNK)) if !planted(Bug::CleanerForgetsHistory) => {
            let old: Superseded = row(k, bytes)?;
            let chunk: ChunkRow = row(k, &old.row)?;
            let ino = k.get(1..).and_then(key::ino_of).unwrap_or_default();
            pieces(ino, k, &chunk.pieces, Use::History, shown)
        }
        (Some(&kind::CHANGES), _) => {
            let changes: ChangesRow = row(k, bytes)?;
            let sources = changes.ranges.iter().filter_map(|r| r.source);
            let ino = key::ino_of(k).unwrap_or_default();
            for (extent, location, _) in sources {
                if !shown(&Sight { ino, extent, location, by: Use::History, part: None })? {
                    return Ok(false);
                }
            }
            Ok(true)
        }
        _ => Ok(true),
    }
}

fn pieces(ino: Ino, k: &[u8], pieces: &[Piece], by: Use, shown: Shown<'_>) -> Result<bool> {
    for p in pieces {
        if !shown(&Sight { ino, extent: p.extent, location: p.location, by, part: Some((k, p.len)) })? {
            return Ok(false);
        }
    }
    Ok(true)
}

fn owner_of(index: &dyn Index, ino: Ino) -> Result<Owner> {
    let k = key::object(ino);
    let Some(bytes) = index.get(&k)? else {
        return Ok(Owner { content: Content::default(), reachable: false });
    };
    let object: ObjectRow = row(&k, &bytes)?;
    let open = || Ok::<_, Error>(index.get(&key::listed(kind::ORPHAN, ino))?.is_some());
    let reachable = object.attributes.kind == ObjectKind::File && (object.attributes.links > 0 || open()?);
    Ok(Owner { content: object.content, reachable })
}

/// Who shows a chunk's row that holds since `from`; nobody, if it was cut off or given up before a version had it.
fn use_of(index: &dyn Index, o: &Owner, ino: Ino, k: &[u8], from: Lsn) -> Result<Option<Use>> {
    let branch = k.get(9..13).and_then(|b| b.try_into().ok()).map(u32::from_be_bytes);
    if branch != Some(o.content.branch) {
        // What no version of its branch came after was given up with its draft.
        let mut seen = Ok(false);
        let end = after_prefix(&key::version(ino, Lsn::MAX));
        index.walk(&key::version(ino, from), &end, Order::Forward, &mut |k, bytes| {
            seen = row::<VersionRow>(k, bytes).map(|v| Some(v.branch) == branch);
            matches!(seen, Ok(false))
        })?;
        return Ok(seen?.then_some(Use::History));
    }
    let chunk = key::last_number(k).unwrap_or(0);
    let draft = planted(Bug::CleanerForgetsDrafts) && from > o.content.tip;
    if o.reachable && !is_cut(&o.content.cuts, chunk, from) && !draft {
        return Ok(Some(Use::Present));
    }
    let covers = |c: &&Cut| c.at > from && c.size <= chunk * CHUNK_BYTES;
    let until = o.content.cuts.iter().filter(covers).map(|c| c.at).min();
    let end = until.map_or_else(|| after_prefix(&key::version(ino, Lsn::MAX)), |at| key::version(ino, at));
    let seen = !index.scan(&key::version(ino, from), &end, 1)?.is_empty();
    Ok(seen.then_some(Use::History))
}

/// A set of LSNs that costs about a bit for each in a busy stretch.
#[derive(Debug, Default)]
pub(super) struct LsnSet {
    blocks: std::collections::BTreeMap<u64, Box<[u64; 64]>>,
}

impl LsnSet {
    /// Adds one; says whether it is new.
    pub(super) fn insert(&mut self, lsn: Lsn) -> bool {
        let n = lsn.get();
        let word =
            &mut self.blocks.entry(n >> 12).or_insert_with(|| Box::new([0; 64]))[(n >> 6) as usize % 64];
        let bit = 1 << (n % 64);
        let new = *word & bit == 0;
        *word |= bit;
        new
    }

    /// Is it there?
    pub(super) fn has(&self, lsn: Lsn) -> bool {
        let n = lsn.get();
        self.blocks.get(&(n >> 12)).is_some_and(|b| b[(n >> 6) as usize % 64] & (1 << (n % 64)) != 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_holds_what_was_put_into_it() {
        let mut set = LsnSet::default();
        let those = [0, 1, 63, 64, 4095, 4096, 1 << 40, u64::MAX];
        for n in those {
            assert!(set.insert(Lsn::new(n)) && !set.insert(Lsn::new(n)));
        }
        for n in those {
            assert!(set.has(Lsn::new(n)));
            assert!(!set.has(Lsn::new(n ^ 2)), "{n}");
        }
    }
}
