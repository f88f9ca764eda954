//! Telling the kernel of what changed without having passed through it: what arrives from other stores.
//!
//! The kernel may wait, for a directory that a request holds, before it forgets something of it. So it is told by one thread that holds no
//! lock of the store; whoever changes something leaves a note and goes on. Where notes pile up, what arrives next waits.
//!
//! An inode that the kernel does not know yet may be on its way to it: a lookup was answered with what was there before the change, and
//! the kernel has not taken the answer in. Told then, it would have nothing to forget, and keep the old size for as long as an entry lives.
//! While it looks something up, or lists, it holds the directory. So it is first told to forget a name in there, for which it has to wait
//! until that is over, and then of the inode.

use std::{
    collections::BTreeSet,
    ffi::OsStr,
    io,
    os::unix::ffi::OsStrExt as _,
    sync::{Arc, Weak},
};

use fuser::Notifier;
use parking_lot::{Condvar, Mutex};

use super::convert::node;
use crate::{
    base::{Ino, limits::ARRIVALS},
    vfs::{Touched, Vfs, Watcher},
};

#[derive(Default)]
struct Notes {
    /// Each thing once, however often it changed since the kernel was told last.
    todo: BTreeSet<Touched>,
    /// The kernel is being told of so many.
    under_way: usize,
    over: bool,
}

impl Notes {
    fn are_many(&self) -> bool {
        !self.over && self.todo.len() + self.under_way >= ARRIVALS
    }
}

#[derive(Default)]
struct Board {
    notes: Mutex<Notes>,
    changed: Condvar,
}

impl Watcher for Board {
    fn touched(&self, what: &mut dyn Iterator<Item = Touched>) {
        let mut notes = self.notes.lock();
        if !notes.over {
            notes.todo.extend(what);
            self.changed.notify_all();
        }
    }

    fn wait_for_room(&self) {
        self.changed.wait_while(&mut self.notes.lock(), |n| n.are_many());
    }
}

/// The thread. It ends when this is dropped.
pub(super) struct Invalidator(Arc<Board>);

impl Invalidator {
    pub(super) fn start(vfs: &Arc<Vfs>, notifier: Notifier) -> io::Result<Self> {
        let kernel = Fuse { notifier, vfs: Arc::downgrade(vfs) };
        let this = Self::telling(kernel)?;
        vfs.on_arrival(Arc::clone(&this.0) as Arc<dyn Watcher>);
        Ok(this)
    }

    fn telling(kernel: impl Kernel + Send + 'static) -> io::Result<Self> {
        let board: Arc<Board> = Arc::default();
        let told = Arc::clone(&board);
        let run = move || {
            loop {
                let mut notes = told.notes.lock();
                notes.under_way = 0;
                told.changed.notify_all();
                told.changed.wait_while(&mut notes, |n| n.todo.is_empty() && !n.over);
                if notes.over {
                    return;
                }
                let todo = std::mem::take(&mut notes.todo);
                notes.under_way = todo.len();
                drop(notes);
                tell(&kernel, &todo);
            }
        };
        std::thread::Builder::new().name("segfs-arrivals".into()).spawn(run)?;
        Ok(Self(board))
    }
}

impl Drop for Invalidator {
    fn drop(&mut self) {
        let mut notes = self.0.notes.lock();
        notes.over = true;
        notes.todo.clear();
        self.0.changed.notify_all();
    }
}

/// Who is told.
trait Kernel {
    /// What it keeps of an inode is not so any more; what it does not know it need not forget.
    fn forget_inode(&self, ino: Ino);
    /// What it keeps of a name in a directory; waits for requests that hold the directory.
    fn forget_name(&self, dir: Ino, name: &[u8]);
    /// The directories in which an inode has names.
    fn directories(&self, ino: Ino) -> Vec<Ino>;
}

/// No name, so that nothing is forgotten.
const BARRIER: &[u8] = b".";

/// Tells of a batch of changes.
fn tell(kernel: &impl Kernel, todo: &BTreeSet<Touched>) {
    let mut inodes = BTreeSet::new();
    let mut waited_for = BTreeSet::new();
    for touched in todo {
        match touched {
            Touched::Object(ino) => drop(inodes.insert(*ino)),
            Touched::Name(dir, name) => {
                kernel.forget_name(*dir, name);
                waited_for.insert(*dir);
            }
        }
    }
    for dir in inodes.iter().flat_map(|ino| kernel.directories(*ino)) {
        if waited_for.insert(dir) {
            kernel.forget_name(dir, BARRIER);
        }
    }
    // Of a directory in which a name changed, the listing that it may keep.
    inodes.extend(todo.iter().filter_map(|t| if let Touched::Name(dir, _) = t { Some(*dir) } else { None }));
    inodes.into_iter().for_each(|ino| kernel.forget_inode(ino));
}

struct Fuse {
    notifier: Notifier,
    vfs: Weak<Vfs>,
}

impl Kernel for Fuse {
    fn forget_inode(&self, ino: Ino) {
        if let Err(e) = self.notifier.inval_inode(node(ino), 0, 0) {
            tracing::trace!("telling the kernel of inode {ino}: {e}");
        }
    }

    fn forget_name(&self, dir: Ino, name: &[u8]) {
        if let Err(e) = self.notifier.inval_entry(node(dir), OsStr::from_bytes(name)) {
            tracing::trace!("telling the kernel of a name in {dir}: {e}");
        }
    }

    fn directories(&self, ino: Ino) -> Vec<Ino> {
        let Some(vfs) = self.vfs.upgrade() else { return Vec::new() };
        vfs.directories_of(ino).unwrap_or_default()
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods)] // real threads
mod tests {
    use std::{sync::mpsc, time::Duration};

    use super::*;

    /// Counts what it is told, as far as the gate is open.
    struct Slow(Arc<Mutex<u64>>);

    impl Kernel for Slow {
        fn forget_inode(&self, _: Ino) {
            *self.0.lock() += 1;
        }

        fn forget_name(&self, _: Ino, _: &[u8]) {}

        fn directories(&self, _: Ino) -> Vec<Ino> {
            Vec::new()
        }
    }

    /// Inodes 7 and 8 have names in directory 3; and what is told, in order.
    #[derive(Default)]
    struct Told(Mutex<Vec<String>>);

    impl Kernel for Told {
        fn forget_inode(&self, ino: Ino) {
            self.0.lock().push(format!("inode {ino}"));
        }

        fn forget_name(&self, dir: Ino, name: &[u8]) {
            self.0.lock().push(format!("{} in {dir}", String::from_utf8_lossy(name)));
        }

        fn directories(&self, ino: Ino) -> Vec<Ino> {
            (7..=8).filter(|n| *n == ino.get()).map(|_| Ino::new(3)).collect()
        }
    }

    #[test]
    fn an_answer_on_its_way_does_not_outlive_the_change() {
        let told = |todo: &[Touched]| {
            let kernel = Told::default();
            tell(&kernel, &todo.iter().cloned().collect());
            kernel.0.into_inner()
        };
        let object = |n| Touched::Object(Ino::new(n));
        assert_eq!(told(&[object(7), object(8), object(1)]), [". in 3", "inode 1", "inode 7", "inode 8"]);
        // With its name among what changed, nobody waits twice.
        let name = Touched::Name(Ino::new(3), b"n".to_vec());
        assert_eq!(told(&[object(7), name]), ["n in 3", "inode 3", "inode 7"]);
    }

    #[test]
    fn what_arrives_waits_for_a_kernel_that_is_slow_to_forget() {
        let gate = Arc::new(Mutex::new(0_u64));
        let shut = gate.lock();
        let invalidator = Invalidator::telling(Slow(Arc::clone(&gate))).unwrap();
        let board = Arc::clone(&invalidator.0);
        let (each, all) = (1000, ARRIVALS as u64 + 5000);
        let (send, arrived) = mpsc::channel();
        let arriving = std::thread::spawn(move || {
            for first in (0..all).step_by(each) {
                board.wait_for_room();
                board.touched(&mut (first..first + each as u64).map(|n| Touched::Object(Ino::new(n + 1))));
                send.send(first).unwrap();
            }
        });
        let mut last = 0;
        while let Ok(first) = arrived.recv_timeout(Duration::from_millis(300)) {
            last = first;
        }
        let notes = invalidator.0.notes.lock();
        assert!(notes.todo.len() + notes.under_way < ARRIVALS + each, "{}", notes.todo.len());
        assert!(last + each as u64 >= ARRIVALS as u64 && last + (each as u64) < all, "{last}");
        drop(notes);
        // Once it answers, everything goes on, and it is told of each.
        drop(shut);
        arriving.join().unwrap();
        invalidator.0.changed.wait_while(&mut invalidator.0.notes.lock(), |n| n.under_way + n.todo.len() > 0);
        assert!(*gate.lock() >= all);
        // At the end nobody waits.
        let board = Arc::clone(&invalidator.0);
        board.touched(&mut (0..2 * ARRIVALS as u64).map(|n| Touched::Object(Ino::new(n + 1))));
        drop(invalidator);
        board.wait_for_room();
    }
}
