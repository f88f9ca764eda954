//! History as paths: the directory `.segfs` that every directory has and no listing shows.
//!
//! Everything in it is read-only. The kernel checks permissions by the modes of their time, which these nodes
//! show; that whoever asks has access to what the object is now, too, is checked here, at each lookup in a
//! directory that still exists, and at each opening. Therefore only what exists no more, and contents, are
//! left to the kernel's caches.

mod access;
mod lists;
mod locks;
mod moments;
mod names;
mod nodes;
mod xattrs;

use std::{collections::HashMap, sync::Arc};

use parking_lot::Mutex;

use crate::{
    base::{Error, FsError, Ino, Lsn, Result},
    format::facts::ObjectKind,
    store::{Attributes, Past, Paused, View},
};

use super::{Listed, Vfs};
pub use access::Asker;
pub use moments::{ago, canonical, parse as parse_moment};
pub use names::version_file;
pub(super) use nodes::is_virtual;
use nodes::{List, Moment, Node, Nodes};
pub(super) use xattrs::PREFIX;

/// The name of the directory.
pub const NAME: &[u8] = b".segfs";
/// Bits of a mode that history never shows: set-user-id and set-group-id.
const SET_ID: u32 = 0o6000;

/// Histories of names that are kept in memory.
const KNOWN: usize = 256;
/// Objects in them together, 48 bytes each, past which they are forgotten.
const KNOWN_OBJECTS: usize = 1 << 19;

/// Where history shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Shown {
    /// `.segfs` can be looked up, and no listing shows it.
    #[default]
    Hidden,
    /// Listings show it.
    Visible,
    /// There is none.
    Off,
}

/// History over one filesystem.
pub(super) struct History {
    vfs: Arc<Vfs>,
    pub(super) shown: Shown,
    nodes: Mutex<Nodes>,
    scans: Mutex<Scans>,
    /// Histories that were asked for lately.
    known: Mutex<HashMap<(Ino, Vec<u8>), Paused>>,
}

#[derive(Default)]
struct Scans {
    last: u64,
    open: HashMap<u64, Arc<Mutex<lists::Scan>>>,
}

impl History {
    pub(super) fn new(vfs: Arc<Vfs>, shown: Shown) -> Self {
        Self { vfs, shown, nodes: Mutex::default(), scans: Mutex::default(), known: Mutex::default() }
    }

    /// The number of the root directory as it was at a moment; known for ever.
    pub(super) fn root_at(&self, when: super::When) -> Result<Ino> {
        let name = match when {
            super::When::Time(ns) => moments::canonical(ns),
            super::When::Record(lsn) => format!("@LSN:{lsn}"),
        };
        Ok(self.tell(self.moment(Ino::FIRST, name.as_bytes())?)?.ino)
    }

    /// The number of a directory's `.segfs`, as listings show it.
    pub(super) fn number_of(dir: Ino) -> Ino {
        Nodes::number(&Node::Top(dir))
    }

    fn now_ns(&self) -> u64 {
        self.vfs.clock.wall_ns()
    }

    fn view(&self) -> View<'_> {
        self.vfs.store.view()
    }

    fn node(&self, ino: Ino) -> Result<Node> {
        Ok(self.nodes.lock().get(ino).ok_or(FsError::Stale)?)
    }

    pub(super) fn forget(&self, ino: Ino, times: u64) {
        self.nodes.lock().forget(ino, times);
    }

    /// May the kernel believe for long what it was told of this one?
    pub(super) fn is_fixed(&self, ino: Ino) -> bool {
        match self.nodes.lock().get(ino) {
            Some(Node::Version { until, .. }) => until.is_some(),
            Some(Node::Old { fixed, .. }) => fixed,
            _ => false,
        }
    }

    /// May the kernel keep the attributes for long? What was at a moment stays; who may see it is asked with each lookup.
    pub(super) fn attributes_last(&self, ino: Ino) -> bool {
        match self.nodes.lock().get(ino) {
            Some(Node::Version { until, .. }) => until.is_some(),
            Some(Node::Old { .. }) => true,
            _ => false,
        }
    }

    /// The `.segfs` of a directory.
    pub(super) fn top(&self, dir: Ino) -> Result<Attributes> {
        if self.shown == Shown::Off {
            return Err(FsError::NotFound.into());
        }
        if self.view().attributes(dir)?.kind != ObjectKind::Directory {
            return Err(FsError::NotADirectory.into());
        }
        self.tell(Node::Top(dir))
    }

    /// Tells the kernel of a node.
    fn tell(&self, node: Node) -> Result<Attributes> {
        let mut attributes = self.attributes_of(&node)?;
        attributes.ino = self.nodes.lock().tell(node);
        Ok(attributes)
    }

    pub(super) fn attributes(&self, ino: Ino) -> Result<Attributes> {
        let node = self.node(ino)?;
        Ok(Attributes { ino, ..self.attributes_of(&node)? })
    }

    /// What a name in a directory of history shows.
    pub(super) fn lookup(&self, asker: Asker<'_>, dir: Ino, name: &[u8]) -> Result<Attributes> {
        let node = self.node(dir)?;
        if let Node::Old { ino, .. } = node {
            self.permit_search(asker, ino)?;
        }
        if name == b"." {
            return self.tell(node);
        }
        let found = self.below(node, name)?;
        self.tell(found)
    }

    /// Attributes of an entry that was just listed, of which the kernel is told now.
    pub(super) fn listed_attributes(&self, dir: Ino, entry: &Listed) -> Result<Option<Attributes>> {
        if matches!(&entry.name[..], b"." | b"..") {
            let node = if is_virtual(dir) { self.node(dir)? } else { Node::Top(dir) };
            return Ok(Some(Attributes { ino: entry.ino, ..self.attributes_of(&node)? }));
        }
        // The kernel does not keep these where the right to search may be missing: it asks again.
        let found =
            if is_virtual(dir) { self.below(self.node(dir)?, &entry.name) } else { Ok(Node::Top(dir)) };
        match found.and_then(|node| self.tell(node)) {
            Ok(a) => Ok(Some(a)),
            Err(Error::Fs(FsError::NotFound)) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// What a name in a directory of history stands for.
    fn below(&self, node: Node, name: &[u8]) -> Result<Node> {
        Ok(match node {
            Node::Top(dir) => {
                let list = List::ALL.into_iter().find(|l| l.name().as_bytes() == name);
                Node::List(dir, list.ok_or(FsError::NotFound)?)
            }
            Node::List(dir, List::At) => self.moment(dir, name)?,
            Node::List(dir, list @ List::Tags) => {
                self.view().tag(name)?.ok_or(FsError::NotFound)?;
                Node::Alias { dir, list, name: name.to_vec() }
            }
            Node::List(dir, List::Versions) => {
                self.history(dir, name, |_| Ok(()))?;
                Node::Versions { dir, name: name.to_vec() }
            }
            Node::List(dir, List::Deleted) => self.deleted(dir, name)?,
            Node::List(dir, List::Conflicts) => self.loser(dir, name)?,
            Node::Versions { dir, name: of } => self.version_named(dir, &of, name)?,
            Node::Old { dir, moment, lsn, ino, .. } => {
                let found = self.vfs.store.view_at(lsn).lookup(ino, name)?.ino;
                let fixed = !self.view().is_named(ino)? && !self.view().is_named(found)?;
                Node::Old { dir, moment, lsn, ino: found, fixed }
            }
            Node::Alias { .. } | Node::Number { .. } | Node::Version { .. } => {
                return Err(FsError::NotADirectory.into());
            }
        })
    }

    /// A name in `at`.
    fn moment(&self, dir: Ino, name: &[u8]) -> Result<Node> {
        let alias = || Node::Alias { dir, list: List::At, name: name.to_vec() };
        let text = std::str::from_utf8(name).map_err(|_| FsError::NotFound)?;
        if let Some(lsn) = text.strip_prefix("@LSN:") {
            let lsn: Lsn = lsn.parse().map_err(|_| FsError::NotFound)?;
            if lsn.to_string() != text[5..] || lsn > self.vfs.store.last_lsn() {
                return Err(FsError::NotFound.into());
            }
            return self.tree(dir, Moment::Record(lsn), lsn);
        }
        let now = self.now_ns();
        let Some(ns) = moments::parse(text, now) else {
            self.view().tag(name)?.ok_or(FsError::NotFound)?;
            return Ok(alias());
        };
        if ns > now {
            return Err(FsError::NotFound.into());
        }
        if moments::canonical(ns) != text {
            return Ok(alias());
        }
        let lsn = self.vfs.store.lsn_at(ns)?.ok_or(FsError::NotFound)?;
        self.tree(dir, Moment::Time(ns), lsn)
    }

    /// A directory as it was at a moment; it must have had a name then.
    fn tree(&self, dir: Ino, moment: Moment, lsn: Lsn) -> Result<Node> {
        if !self.vfs.store.view_at(lsn).is_named(dir)? {
            return Err(FsError::NotFound.into());
        }
        Ok(Node::Old { dir, moment, lsn, ino: dir, fixed: false })
    }

    /// Asks the history of a name, with the version that is due made first. What is learned of it is kept for the
    /// next question: a name that was often saved by renaming has a long chain of objects behind it.
    fn history<T>(
        &self,
        dir: Ino,
        name: &[u8],
        ask: impl FnOnce(&mut crate::store::History<'_>) -> Result<T>,
    ) -> Result<T> {
        let mut found = self.view().history(dir, name)?.ok_or(FsError::NotFound)?;
        if self.vfs.mint_due(found.ino())? {
            found = self.view().history(dir, name)?.ok_or(FsError::NotFound)?;
        }
        let known = self.known.lock().remove(&(dir, name.to_vec()));
        if let Some(known) = known {
            found.learn(known);
        }
        let answer = ask(&mut found);
        let mut all = self.known.lock();
        if all.len() >= KNOWN || all.values().map(Paused::objects).sum::<usize>() > KNOWN_OBJECTS {
            all.clear();
        }
        all.insert((dir, name.to_vec()), found.pause());
        answer
    }

    /// A file among the versions of a name.
    fn version_named(&self, dir: Ino, of: &[u8], file: &[u8]) -> Result<Node> {
        let ordinal = names::ordinal(file).ok_or(FsError::NotFound)?;
        let found = self.history(dir, of, |h| h.from(ordinal, 1))?;
        let mut found = found.into_iter().filter(|past| past.ordinal == ordinal).peekable();
        found.peek().ok_or(FsError::NotFound)?;
        let is_it = |p: &Past| names::version_file(of, ordinal, p.version.created_ns, p.shared) == file;
        if let Some(past) = found.find(is_it) {
            return Ok(version_node(dir, &past));
        }
        // The number alone is another name for it.
        if file.iter().all(u8::is_ascii_digit) {
            return Ok(Node::Number { dir, name: of.to_vec(), ordinal });
        }
        Err(FsError::NotFound.into())
    }

    /// A name that is gone: its last version, or, if it never had one, the object as it was last.
    fn deleted(&self, dir: Ino, name: &[u8]) -> Result<Node> {
        let gone = self.view().gone_at(dir, name)?.ok_or(FsError::NotFound)?;
        if let Some(last) = self.history(dir, name, |h| h.before(None, 1))?.pop() {
            return Ok(version_node(dir, &last));
        }
        // As it was last; what was gone already when word of it came is as it is known now.
        let before = Lsn::new(gone.lsn.get().saturating_sub(1));
        let was_here = self.vfs.store.view_at(before).attributes(gone.ino).is_ok();
        let lsn = if was_here { before } else { gone.lsn };
        Ok(Node::Old { dir, moment: Moment::Record(lsn), lsn, ino: gone.ino, fixed: true })
    }

    /// What lost against another at a name.
    fn loser(&self, dir: Ino, name: &[u8]) -> Result<Node> {
        let loser = self.view().contenders(dir, name)?.into_iter().nth(1).ok_or(FsError::NotFound)?;
        let mut history = self.view().history_of(loser.ino)?.ok_or(FsError::NotFound)?;
        let newest = history.before(None, 1)?.pop().ok_or(FsError::NotFound)?;
        Ok(version_node(dir, &newest))
    }

    fn attributes_of(&self, node: &Node) -> Result<Attributes> {
        let mut a = match node {
            Node::Top(dir)
            | Node::List(dir, _)
            | Node::Alias { dir, .. }
            | Node::Number { dir, .. }
            | Node::Versions { dir, .. } => {
                let mut a = self.view().attributes(*dir)?;
                a.links = 2;
                a.size = 0;
                // Whoever may read the directory may read this; nobody may change it.
                a.mode &= 0o555;
                if let Node::Alias { .. } | Node::Number { .. } = node {
                    (a.kind, a.mode, a.links) = (ObjectKind::Symlink, 0o777, 1);
                    a.size = self.target_of(node)?.len() as u64;
                }
                a
            }
            Node::Version { ino, lsn, until, .. } => self.version_attributes(*ino, *lsn, *until)?,
            Node::Old { lsn, ino, .. } => self.vfs.store.view_at(*lsn).attributes(*ino)?,
        };
        a.accessed = a.modified;
        a.mode &= !SET_ID;
        Ok(a)
    }

    /// The attributes that an object had at the end of the time in which this version showed.
    fn version_attributes(&self, ino: Ino, lsn: Lsn, until: Option<Lsn>) -> Result<Attributes> {
        let end = self.end_of(ino, lsn, until)?;
        let view = end.map_or(self.view(), |end| self.vfs.store.view_at(end));
        let then = view.attributes(ino)?;
        // The draft of the present, or another head, may have other contents than the version.
        let content = self.vfs.store.view_at(lsn).attributes(ino)?;
        let bytes = self.vfs.store.version_size(ino, lsn)?;
        let modified = if then.size == bytes.size && !then.draft { then.modified } else { content.modified };
        Ok(Attributes { size: bytes.size, allocated: bytes.allocated, modified, ..then })
    }

    /// The last LSN at which a version showed; none: it still does.
    fn end_of(&self, ino: Ino, lsn: Lsn, until: Option<Lsn>) -> Result<Option<Lsn>> {
        let next = self.view().versions(ino, Some(lsn), 1)?.pop().map(|n| Lsn::new(n.lsn.get() - 1));
        Ok(match (until, next) {
            (Some(until), Some(next)) => Some(until.min(next)),
            (until, next) => until.or(next),
        })
    }

    pub(super) fn read_link(&self, ino: Ino) -> Result<Vec<u8>> {
        let node = self.node(ino)?;
        self.target_of(&node)
    }

    fn target_of(&self, node: &Node) -> Result<Vec<u8>> {
        let now = self.now_ns();
        match node {
            Node::Alias { list: List::At, name, .. } => {
                let text = String::from_utf8_lossy(name);
                match moments::parse(&text, now) {
                    Some(ns) => {
                        // What is counted from now on is cut to seconds: nobody means the nanoseconds.
                        let whole = if ns == now || moments::ago(&text).is_some() || text == "yesterday" {
                            ns - ns % 1_000_000_000
                        } else {
                            ns
                        };
                        Ok(moments::canonical(whole).into_bytes())
                    }
                    None => Ok([b"../tags/", name.as_slice()].concat()),
                }
            }
            Node::Alias { name, .. } => {
                let tag = self.view().tag(name)?.ok_or(FsError::NotFound)?;
                Ok(format!("../at/{}", moments::canonical(tag.moment_ns)).into_bytes())
            }
            Node::Number { dir, name, ordinal } => {
                let past = self.history(*dir, name, |h| h.get(*ordinal))?.ok_or(FsError::NotFound)?;
                Ok(names::version_file(name, *ordinal, past.version.created_ns, past.shared))
            }
            Node::Version { ino, .. } => self.view().read_link(*ino),
            Node::Old { lsn, ino, .. } => self.vfs.store.view_at(*lsn).read_link(*ino),
            _ => Err(FsError::Invalid.into()),
        }
    }

    /// Checks an opening for reading.
    pub(super) fn open(&self, asker: Asker<'_>, ino: Ino) -> Result<()> {
        match self.node(ino)? {
            Node::Version { ino, .. } | Node::Old { ino, .. } => self.permit_read(asker, ino),
            _ => Err(FsError::IsADirectory.into()),
        }
    }

    pub(super) fn read(&self, ino: Ino, offset: u64, out: &mut [u8]) -> Result<usize> {
        match self.node(ino)? {
            Node::Version { ino, lsn, .. } => self.vfs.store.read_version(ino, lsn, offset, out),
            Node::Old { lsn, ino, .. } => self.vfs.store.view_at(lsn).read(ino, offset, out),
            _ => Err(FsError::IsADirectory.into()),
        }
    }

    /// As lseek(2); a version counts as one stretch of data.
    pub(super) fn seek(&self, ino: Ino, offset: u64, data: bool) -> Result<u64> {
        match self.node(ino)? {
            Node::Old { lsn, ino, .. } => self.vfs.store.view_at(lsn).seek(ino, offset, data),
            Node::Version { ino, lsn, .. } => {
                let size = self.vfs.store.version_size(ino, lsn)?.size;
                if offset >= size {
                    return Err(FsError::NoSuchOffset.into());
                }
                Ok(if data { offset } else { size })
            }
            _ => Err(FsError::Invalid.into()),
        }
    }
}

fn version_node(dir: Ino, past: &Past) -> Node {
    Node::Version { dir, ino: past.ino, lsn: past.version.lsn, ordinal: past.ordinal, until: past.until }
}
