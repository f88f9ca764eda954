//! Telling the kernel of what changed without having passed through it: what arrives from other stores.
//!
//! The kernel may wait, for a directory that a request holds, before it forgets something of it. So it is told by one thread that holds no
//! lock of the store; whoever changes something leaves a note and goes on. Where notes pile up, what arrives next waits.

use std::{collections::BTreeSet, ffi::OsStr, io, os::unix::ffi::OsStrExt as _, sync::Arc};

use fuser::Notifier;
use parking_lot::{Condvar, Mutex};

use super::convert::node;
use crate::{
    base::limits::ARRIVALS,
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
    pub(super) fn start(vfs: &Vfs, notifier: Notifier) -> io::Result<Self> {
        let this = Self::telling(move |touched| tell(&notifier, touched))?;
        vfs.on_arrival(Arc::clone(&this.0) as Arc<dyn Watcher>);
        Ok(this)
    }

    fn telling(tell: impl Fn(&Touched) + Send + 'static) -> io::Result<Self> {
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
                todo.iter().for_each(&tell);
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

/// What the kernel does not know it need not forget: then it says so.
fn tell(notifier: &Notifier, touched: &Touched) {
    let told = match touched {
        Touched::Object(ino) => notifier.inval_inode(node(*ino), 0, 0),
        Touched::Name(dir, name) => {
            let forgot = notifier.inval_entry(node(*dir), OsStr::from_bytes(name));
            // The listing that it may keep.
            notifier.inval_inode(node(*dir), 0, 0).and(forgot)
        }
    };
    if let Err(e) = told {
        tracing::trace!("telling the kernel of {touched:?}: {e}");
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods)] // real threads
mod tests {
    use std::{sync::mpsc, time::Duration};

    use super::*;
    use crate::base::Ino;

    #[test]
    fn what_arrives_waits_for_a_kernel_that_is_slow_to_forget() {
        let gate = Arc::new(Mutex::new(0_u64));
        let shut = gate.lock();
        let kernel = Arc::clone(&gate);
        let invalidator = Invalidator::telling(move |_| *kernel.lock() += 1).unwrap();
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
