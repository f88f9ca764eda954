//! Table files that a flush or a merge began on a full disk and could not end. The crate deletes such files at the next opening
//! only; until then they would take the very space that the next attempt needs.
//!
//! A file is one of them if its number was given out while something was being written that failed, and no manifest ever had it. That
//! is decided while nothing is being written.

use std::{collections::BTreeSet, path::Path};

use lsm_tree::{AbstractTree as _, AnyTree, TableId};
use parking_lot::Mutex;

/// Which numbers of tables may be those of unfinished files.
#[derive(Default)]
pub(super) struct Unfinished(Mutex<Writing>);

#[derive(Default)]
struct Writing {
    /// Flushes and merges under way.
    busy: u32,
    /// The first number that one of them could take.
    first: TableId,
    /// One of them failed.
    failed: bool,
    /// Tables that a manifest had since.
    made: BTreeSet<TableId>,
}

impl Unfinished {
    /// A flush or merge begins.
    pub(super) fn begin(&self, tree: &AnyTree) {
        let mut now = self.0.lock();
        if now.busy == 0 {
            now.first = tree.next_table_id();
        }
        now.busy += 1;
    }

    /// It ended, on a full disk if `failed`.
    pub(super) fn end(&self, tree: &AnyTree, path: &Path, failed: bool) {
        let mut now = self.0.lock();
        now.failed |= failed;
        now.made.extend(tree.current_version().iter_tables().map(lsm_tree::Table::id));
        now.busy -= 1;
        if now.busy > 0 {
            return;
        }
        if std::mem::take(&mut now.failed) {
            let unfinished = (now.first..tree.next_table_id()).filter(|id| !now.made.contains(id));
            for id in unfinished {
                // Most numbers never had a file, or have none any more.
                let _ = remove(&path.join("tables").join(id.to_string()));
            }
        }
        now.made.clear();
    }
}

#[allow(clippy::disallowed_methods)] // the crate does its own I/O too: this room is outside the Disk trait
fn remove(path: &Path) -> std::io::Result<()> {
    std::fs::remove_file(path)
}
