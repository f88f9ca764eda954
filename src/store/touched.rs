//! What changed here without anybody here having asked for it: whoever caches names and contents has to be told.

use std::sync::{Arc, OnceLock};

use crate::{
    base::Ino,
    format::rows::{key, kind},
    index::Change,
};

use super::Store;

/// Something that a cache may show differently.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Touched {
    /// Attributes, content, or what is listed in it.
    Object(Ino),
    /// What a name in a directory shows.
    Name(Ino, Vec<u8>),
}

/// Who is told of what arrives.
pub trait Watcher: Send + Sync {
    /// These show something else now. Called under the store's lock, after the change: it must not wait, nor call the store.
    fn touched(&self, what: &mut dyn Iterator<Item = Touched>);
    /// Waits until not too much of what was told is still to be done. Called before each batch of another store is taken in, while
    /// no lock is held: so what is noted stays bounded, however fast things arrive.
    fn wait_for_room(&self);
}

/// Who is told, if there is somebody.
pub(super) type Listener = OnceLock<Arc<dyn Watcher>>;

impl Store {
    /// Sets who is told of what arrives from other stores and changes what this one shows; once.
    pub fn on_touched(&self, watcher: Arc<dyn Watcher>) {
        let _ = self.touched.set(watcher);
    }

    /// More is about to arrive.
    pub(super) fn wait_for_watcher(&self) {
        if let Some(watcher) = self.touched.get() {
            watcher.wait_for_room();
        }
    }

    /// These rows were changed.
    pub(super) fn tell_touched(&self, changes: &[Change]) {
        if let Some(watcher) = self.touched.get() {
            watcher.touched(&mut changes.iter().filter_map(touched));
        }
    }
}

fn touched(change: &Change) -> Option<Touched> {
    let k = &change.key;
    let ino = key::ino_of(k)?;
    match *k.first()? {
        kind::LINK => Some(Touched::Name(ino, key::name_of(k).to_vec())),
        kind::OBJECT | kind::XATTR | kind::CHUNK => Some(Touched::Object(ino)),
        _ => None,
    }
}
