//! What changed here without anybody here having asked for it: whoever caches names and contents has to be told.

use std::sync::OnceLock;

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

/// Who is told, if there is somebody.
pub(super) type Listener = OnceLock<Box<dyn Fn(&mut dyn Iterator<Item = Touched>) + Send + Sync>>;

impl Store {
    /// Sets who is told of what arrives from other stores and changes what this one shows; once. It is called under the store's lock,
    /// after the change: it must not wait, nor call the store.
    pub fn on_touched(&self, listener: impl Fn(&mut dyn Iterator<Item = Touched>) + Send + Sync + 'static) {
        let _ = self.touched.set(Box::new(listener));
    }

    /// These rows were changed.
    pub(super) fn tell_touched(&self, changes: &[Change]) {
        if let Some(listener) = self.touched.get() {
            listener(&mut changes.iter().filter_map(touched));
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
