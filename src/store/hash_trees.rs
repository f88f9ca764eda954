//! Content hashes that cost what changed: the tree of the last version hashed on a branch is kept in rows, and the next
//! version's is made of it and of the chunks that changed between.
//!
//! The rows are not made by the log and may be missing (after a rebuild, after a crash): then the version is read whole
//! and they are written anew. What is kept is checked against the older version's content hash, so nothing stale is
//! believed; which chunks changed is known from the rows that retention goes by too.

use crate::{
    base::{Ino, Lsn, Result, limits::CHUNK_BYTES},
    format::{
        code,
        hash::{self, LEAF_BYTES},
        hash_tree::{self, Before, FANOUT, Group},
        rows::{HashGroupRow, HashTreeRow, Piece, VersionRow, after_prefix, key, kind},
    },
    index::{Change, Index, Order},
};

use super::{
    Store,
    content::{BranchView, FetchPiece},
    hashes::hash_of_view,
    txn::row,
};

/// Smaller versions are read whole each time, in bytes.
const KEPT_BYTES: u64 = 4 * LEAF_BYTES;
/// Groups that are written at once.
const GROUPS_AT_ONCE: usize = 1024;
/// With more changed stretches than this, a version is read whole.
const STRETCHES: usize = 1 << 16;
/// Trees that one look for those of objects that are gone goes through.
const LOOK: usize = 16;
/// Stretches of leaves, ascending: first and one past the last.
pub(super) type Leaves = Vec<(u64, u64)>;
const LEAVES_OF_CHUNK: u64 = CHUNK_BYTES / LEAF_BYTES;

impl Store {
    /// The content hash of a version, made of that of an older one where that is known in parts, and kept for the next.
    pub(super) fn hash_in_parts(
        &self,
        ino: Ino,
        at: Lsn,
        v: &VersionRow,
        fetch: FetchPiece<'_>,
    ) -> Result<hash::Hash> {
        let view = BranchView { ino, branch: v.branch, at, cuts: v.cuts.clone(), rests: true };
        if v.size <= KEPT_BYTES {
            return hash_of_view(&view, &*self.index, v.size, fetch);
        }
        let k = key::hash_tree(ino, v.branch);
        let kept: Option<HashTreeRow> = self.index.get(&k)?.map(|b| row(&k, &b)).transpose()?;
        if kept.is_some_and(|tree| tree.at >= at) {
            // Newer ones go on from what is kept; this one is late.
            return hash_of_view(&view, &*self.index, v.size, fetch);
        }
        let since = match kept {
            Some(tree) => self.changed_since(ino, &tree, at, v)?,
            None => None,
        };
        let mut parts =
            Parts { store: self, view: &view, size: v.size, fetch, changes: Vec::new(), written: false };
        let mut made = None;
        if let Some((before, changed)) = &since {
            made = hash_tree::update(Some(*before), v.size, changed, &mut parts)?;
        }
        let made = match made {
            Some(made) => made,
            None => {
                parts.changes.clear();
                let all = data_leaves(&view, &*self.index, v.size)?;
                hash_tree::update(None, v.size, &all, &mut parts)?.expect("nothing older is needed")
            }
        };
        let mut changes = parts.changes;
        changes.push(Change::put(k, code::encode(&HashTreeRow { at, top: made.top })));
        self.spare(&changes)?;
        Ok(made.hash)
    }

    /// The version that a tree is of, and the leaves that may have changed from it to a later version of its branch. None if that
    /// is not known.
    fn changed_since(
        &self,
        ino: Ino,
        tree: &HashTreeRow,
        at: Lsn,
        v: &VersionRow,
    ) -> Result<Option<(Before, Leaves)>> {
        let (start, end) =
            (key::dirty(ino, v.branch, tree.at.next(), 0), key::dirty(ino, v.branch, at.next(), 0));
        let mut chunks = Vec::new();
        self.index.walk(&start, &end, Order::Forward, &mut |k, _| {
            chunks.extend(key::last_number(k));
            chunks.len() < STRETCHES
        })?;
        let k = key::version(ino, tree.at);
        let Some(bytes) = self.index.get(&k)? else { return Ok(None) };
        let older: VersionRow = row(&k, &bytes)?;
        let Some(hash) = older.hash.filter(|_| older.branch == v.branch && chunks.len() < STRETCHES) else {
            return Ok(None);
        };
        chunks.sort_unstable();
        let cuts = v.cuts.iter().filter(|c| c.at > tree.at);
        let cut = cuts.map(|c| c.size / LEAF_BYTES).min().unwrap_or(u64::MAX);
        let was = BranchView { ino, branch: v.branch, at: tree.at, cuts: older.cuts, rests: true };
        let is = BranchView { ino, branch: v.branch, at, cuts: v.cuts.clone(), rests: true };
        let mut changed = Vec::new();
        for chunk in chunks {
            let (was, is) = (was.chunk(&*self.index, chunk)?, is.chunk(&*self.index, chunk)?);
            for n in 0..LEAVES_OF_CHUNK {
                let leaf = chunk * LEAVES_OF_CHUNK + n;
                // Behind a cut, even what looks the same was put there anew.
                if leaf >= cut || in_leaf(&was, n).ne(in_leaf(&is, n)) {
                    add_leaves(&mut changed, leaf, leaf + 1);
                }
            }
        }
        // Looked at last: while the version is there, so is the note of each chunk that changed since, and what it held.
        let kept = self.index.get(&k)?.is_some();
        Ok(kept.then_some((Before { size: older.size, hash, top: tree.top, cut }, changed)))
    }

    /// The content hash of a version, if the tree that is kept of its branch is of this very version.
    pub(super) fn kept_hash(&self, view: &BranchView) -> Result<Option<Before>> {
        let k = key::hash_tree(view.ino, view.branch);
        let kept: Option<HashTreeRow> = self.index.get(&k)?.map(|b| row(&k, &b)).transpose()?;
        let Some(tree) = kept.filter(|tree| tree.at == view.at) else { return Ok(None) };
        let k = key::version(view.ino, view.at);
        let version: Option<VersionRow> = self.index.get(&k)?.map(|b| row(&k, &b)).transpose()?;
        let known = version.and_then(|v| Some((v.size, v.hash?)));
        Ok(known.map(|(size, hash)| Before { size, hash, top: tree.top, cut: u64::MAX }))
    }

    /// A group of the tree that is kept of a branch.
    pub(super) fn kept_group(&self, view: &BranchView, height: u32, index: u64) -> Result<Option<Group>> {
        let k = key::hash_group(view.ino, view.branch, height, index);
        let found: Option<HashGroupRow> = self.index.get(&k)?.map(|b| row(&k, &b)).transpose()?;
        Ok(found.map(|f| f.nodes))
    }

    /// Writes rows that only spare work.
    fn spare(&self, changes: &[Change]) -> Result<()> {
        let state = self.apply.lock();
        self.check_usable()?;
        let lsn = self.log.last_lsn();
        self.index.apply(lsn, changes)?;
        if self.index.unflushed_bytes() >= self.options.memtable_bytes {
            self.rotate(&state, lsn)?;
        }
        Ok(())
    }

    /// Looks at some of the trees that are kept, from the key `from` on, and removes those of versions that are gone; says where to go
    /// on. None: it came to the end.
    pub(super) fn drop_trees(&self, from: &[u8]) -> Result<Option<Vec<u8>>> {
        let trees = self.index.scan(from, &after_prefix(&[kind::HASH_TREE]), LOOK)?;
        for (k, bytes) in &trees {
            let (Some(ino), Some(branch)) = (key::ino_of(k), key::branch_of(k)) else { continue };
            let tree: HashTreeRow = row(k, bytes)?;
            if self.index.get(&key::version(ino, tree.at))?.is_some() {
                continue;
            }
            let mut prefix = key::hash_group(ino, branch, 0, 0);
            prefix.truncate(prefix.len() - 12);
            loop {
                let groups = self.index.scan(&prefix, &after_prefix(&prefix), GROUPS_AT_ONCE)?;
                let mut changes: Vec<_> = groups.iter().map(|(k, _)| Change::remove(k.to_vec())).collect();
                if groups.len() < GROUPS_AT_ONCE {
                    changes.push(Change::remove(k.to_vec()));
                    self.spare(&changes)?;
                    break;
                }
                self.spare(&changes)?;
            }
        }
        let last = trees.last().filter(|_| trees.len() == LOOK);
        Ok(last.map(|(k, _)| [k, &[0][..]].concat()))
    }
}

/// What of a chunk's pieces lies in one of its leaves: where, and which bytes of which extent.
fn in_leaf(pieces: &[Piece], leaf: u64) -> impl Iterator<Item = (u32, u32, Lsn, u32)> {
    let (first, end) = ((leaf * LEAF_BYTES) as u32, ((leaf + 1) * LEAF_BYTES) as u32);
    pieces.iter().filter(move |p| p.start < end && p.start + p.len > first).map(move |p| {
        let (from, to) = (p.start.max(first), (p.start + p.len).min(end));
        (from, to, p.extent, p.skip + (from - p.start))
    })
}

/// Adds leaves to smaller ones.
fn add_leaves(leaves: &mut Leaves, first: u64, end: u64) {
    match leaves.last_mut() {
        Some(last) if last.1 >= first => last.1 = last.1.max(end),
        _ => leaves.push((first, end)),
    }
}

/// The leaves of a branch that are not known to be holes.
pub(super) fn data_leaves(view: &BranchView, index: &dyn Index, size: u64) -> Result<Leaves> {
    let mut leaves = Vec::new();
    if size > 0 {
        view.each_chunk(index, 0, (size - 1) / CHUNK_BYTES, &mut |chunk| {
            add_leaves(&mut leaves, chunk * LEAVES_OF_CHUNK, (chunk + 1) * LEAVES_OF_CHUNK);
            Ok(true)
        })?;
    }
    Ok(leaves)
}

/// Where the leaves of one version are, and the groups of its branch.
struct Parts<'a> {
    store: &'a Store,
    view: &'a BranchView,
    size: u64,
    fetch: FetchPiece<'a>,
    changes: Vec<Change>,
    /// Some of the groups are written, so that those of the older version are not all there any more.
    written: bool,
}

impl hash_tree::Source for Parts<'_> {
    type Error = crate::base::Error;

    fn read(&mut self, leaf: u64, out: &mut [u8]) -> Result<()> {
        self.view.read(&*self.store.index, self.size, leaf * LEAF_BYTES, out, self.fetch).map(drop)
    }

    fn group(&mut self, height: u32, index: u64) -> Result<Option<Group>> {
        self.store.kept_group(self.view, height, index)
    }

    fn keep(&mut self, height: u32, index: u64, group: &[Option<hash::Hash>; FANOUT]) -> Result<()> {
        let k = key::hash_group(self.view.ino, self.view.branch, height, index);
        self.changes.push(Change::put(k, code::encode(&HashGroupRow { nodes: *group })));
        if self.changes.len() < GROUPS_AT_ONCE {
            return Ok(());
        }
        if !self.written {
            // Until all of the new tree is there, there is none.
            self.changes.push(Change::remove(key::hash_tree(self.view.ino, self.view.branch)));
            self.written = true;
        }
        self.store.spare(&std::mem::take(&mut self.changes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        format::facts::{Fact, Owner},
        store::{NewObject, Options, inspect::Inspection},
    };

    fn options() -> Options {
        // Every flush is near, so that the rows are read from disk too.
        Options { background: false, memtable_bytes: 256 << 10, segment_bytes: 8 << 20, ..Options::default() }
    }

    fn file(store: &Store, name: &str) -> Ino {
        let new = NewObject::file(0o644, Owner::default());
        store.create_object(Ino::FIRST, name.as_bytes(), &new).unwrap().1.ino
    }

    /// Makes a version, hashes it, and compares with the hash of all its bytes, if that is wanted; says where it is, and how many
    /// bytes were read.
    fn version(store: &Store, ino: Ino, compare: bool) -> (Lsn, u64) {
        let (_, id) = store.commit_version(ino).unwrap();
        let (_, at) = store.find_version(id.expect("something changed")).unwrap().unwrap();
        let get = || {
            row::<VersionRow>(&[kind::VERSION], &store.index.get(&key::version(ino, at)).unwrap().unwrap())
        };
        let read = store.hash_version(ino, at, &get().unwrap()).unwrap();
        if compare {
            assert_eq!(get().unwrap().hash, Some(store.content_hash(ino, at).unwrap()), "at {at}");
        }
        (at, read)
    }

    fn groups(store: &Store) -> Vec<Vec<u8>> {
        let rows = store.index.scan(&[kind::HASH_GROUP], &[kind::HASH_GROUP + 1], usize::MAX).unwrap();
        rows.into_iter().map(|(k, _)| k.to_vec()).collect()
    }

    fn check(path: &std::path::Path) {
        let found = Inspection::open(path).unwrap().check_index(&|_, _| {}).unwrap();
        assert_eq!(found.different, 0, "{found:?}");
    }

    struct Dice(u64);

    impl Dice {
        fn below(&mut self, n: u64) -> u64 {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (self.0 >> 33) % n
        }
    }

    /// One change, of any kind.
    fn edit(store: &Store, dice: &mut Dice, file: Ino, other: Ino) {
        const SPAN: u64 = 3 << 20;
        let (at, len) = (dice.below(SPAN), 1 + dice.below(200_000));
        match dice.below(8) {
            0 => drop(store.truncate(file, dice.below(SPAN)).unwrap()),
            1 => drop(store.truncate(file, dice.below(SPAN) / CHUNK_BYTES * CHUNK_BYTES).unwrap()),
            2 => drop(store.punch(file, at, len * 3).unwrap()),
            3 => {
                // Often the same bytes at the same place.
                let at = if dice.below(2) == 0 { 500_000 } else { at };
                store.clone_range((other, 400_000), (file, at), len * 4).unwrap();
            }
            4 => drop(store.write(file, at, &[0; 5000]).unwrap()),
            _ => drop(store.write(file, at, &vec![dice.below(250) as u8 + 1; len as usize]).unwrap()),
        }
    }

    #[test]
    fn any_edits_make_the_hash_of_all_bytes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let mut dice = Dice(5);
        let mut store = Store::create(&path, options()).unwrap();
        let (ino, other) = (file(&store, "f"), file(&store, "other"));
        store.write(other, 0, &vec![77; 2 << 20]).unwrap();
        let (mut went_on, mut versions) = (0, Vec::new());
        for round in 0..300 {
            for _ in 0..=dice.below(3) {
                edit(&store, &mut dice, ino, other);
            }
            // So that there is something to make a version of.
            let at = dice.below(2 << 20);
            store.write(ino, at, &[round as u8; 100]).unwrap();
            let (at, read) = version(&store, ino, true);
            let size = store.version_size(ino, at).unwrap();
            went_on += u32::from(read < size.allocated / 2);
            versions.push(at);
            match dice.below(24) {
                0 => {
                    store.write_base().unwrap();
                    store.close().unwrap();
                    drop(store);
                    check(&path);
                    if dice.below(2) == 0 {
                        std::fs::remove_dir_all(path.join("index")).unwrap();
                    }
                    store = Store::open(&path, options()).unwrap();
                }
                1 | 2 => {
                    // Retention takes one of the last.
                    let n = versions.len() - 1 - dice.below(versions.len().min(3) as u64) as usize;
                    if n + 1 < versions.len() {
                        let at = versions.remove(n);
                        let object = store.view().attributes(ino).unwrap().object;
                        let found = store.view().versions(ino, None, usize::MAX).unwrap();
                        let id = found.iter().find(|v| v.lsn == at).unwrap().id;
                        store.run(|op| op.fact(Fact::Removed(object, id))).unwrap();
                    }
                }
                3 => {
                    // A row is lost.
                    let all = groups(&store);
                    let k = all[dice.below(all.len() as u64) as usize].clone();
                    store.spare(&[Change::remove(k)]).unwrap();
                }
                _ => {}
            }
        }
        assert!(went_on > 150, "{went_on} of 300 versions were made of what was known");
        store.close().unwrap();
        drop(store);
        check(&path);
    }

    #[test]
    fn a_small_change_in_a_large_file_reads_one_leaf() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::create(&dir.path().join("s"), options()).unwrap();
        let ino = file(&store, "disk image");
        let dense = 32_u64 << 20;
        for at in (0..dense).step_by(1 << 20) {
            store.write(ino, at, &vec![(at >> 20) as u8 + 1; 1 << 20]).unwrap();
        }
        store.truncate(ino, 10 << 30).unwrap();
        assert_eq!(version(&store, ino, false).1, dense);
        let mut dice = Dice(3);
        for n in 0..1000_u64 {
            let at = if n % 2 == 0 { dice.below(dense - 4096) } else { dice.below((10 << 30) - 4096) };
            store.write(ino, at / 4096 * 4096, &[n as u8; 4096]).unwrap();
            let (_, read) = version(&store, ino, n % 250 == 249);
            assert!(read <= LEAF_BYTES, "version {n} at {at}: {read} bytes read");
        }
    }

    #[test]
    fn trees_go_with_their_versions() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::create(&dir.path().join("s"), options()).unwrap();
        for n in 0..40 {
            let ino = file(&store, &format!("f{n}"));
            store.write(ino, 0, &vec![3; 600_000]).unwrap();
            version(&store, ino, false);
            if n % 4 != 0 {
                let object = store.view().attributes(ino).unwrap().object;
                store.unlink(Ino::FIRST, format!("f{n}").as_bytes()).unwrap();
                let id = store.view().versions(ino, None, 1).unwrap()[0].id;
                store.run(|op| op.fact(Fact::Removed(object, id))).unwrap();
            }
        }
        assert_eq!(groups(&store).len(), 40);
        let looks = (0..6).filter(|_| !store.hash_versions().unwrap()).count();
        assert_eq!((looks, groups(&store).len()), (6, 10));
    }
}
