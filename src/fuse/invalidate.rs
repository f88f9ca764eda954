//! Telling the kernel what changed without having passed through it: what arrives from other stores.
//!
//! The kernel may wait, for a directory that a request holds, before it forgets something of it. So it is told by one thread that holds no
//! lock of the store; whoever changes something leaves a note and goes on.

use std::{collections::BTreeSet, ffi::OsStr, io, os::unix::ffi::OsStrExt as _, sync::Arc};

use fuser::Notifier;
use parking_lot::{Condvar, Mutex};

use super::convert::node;
use crate::vfs::{Touched, Vfs};

#[derive(Default)]
struct Notes {
    /// Each thing once, however often it changed since the kernel was told last.
    todo: BTreeSet<Touched>,
    over: bool,
}

/// The thread. It ends when this is dropped.
pub(super) struct Invalidator(Arc<(Mutex<Notes>, Condvar)>);

impl Invalidator {
    pub(super) fn start(vfs: &Vfs, notifier: Notifier) -> io::Result<Self> {
        let notes: Arc<(Mutex<Notes>, Condvar)> = Arc::default();
        let (left, told) = (Arc::clone(&notes), Arc::clone(&notes));
        vfs.on_arrival(move |touched| {
            let mut notes = left.0.lock();
            if !notes.over {
                notes.todo.extend(touched);
                left.1.notify_one();
            }
        });
        let run = move || {
            loop {
                let mut notes = told.0.lock();
                if notes.todo.is_empty() && !notes.over {
                    told.1.wait(&mut notes);
                }
                if notes.over {
                    return;
                }
                let todo = std::mem::take(&mut notes.todo);
                drop(notes);
                todo.iter().for_each(|t| tell(&notifier, t));
            }
        };
        std::thread::Builder::new().name("segfs-arrivals".into()).spawn(run)?;
        Ok(Self(notes))
    }
}

impl Drop for Invalidator {
    fn drop(&mut self) {
        let mut notes = self.0.0.lock();
        notes.over = true;
        notes.todo.clear();
        self.0.1.notify_all();
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
