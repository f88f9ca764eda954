//! Listings of history. Those that may be long are paged by the last name given, or by a version's number.

use std::sync::Arc;

use parking_lot::Mutex;

use crate::{
    base::{FsError, Ino, Result},
    format::facts::ObjectKind,
};

use super::{
    super::Listed,
    Asker, History,
    access::Asker as Asks,
    moments,
    names::version_file,
    nodes::{List, Node, Nodes},
    version_node,
};

/// Cookies of "." and "..".
const DOT_DOT: u64 = 2;
/// Places in a list of versions for each number.
const SHARED: u64 = 64;
/// Names that are fetched at once where only some of them are shown.
const PAGE: usize = 256;
const SECOND: u64 = 1_000_000_000;
const HOUR: u64 = 3600 * SECOND;
const DAY: u64 = 24 * HOUR;
/// The most moments that `at` lists: a minute of seconds, an hour of minutes, a day of hours, a month of days, ten
/// years of months.
const MOMENTS: usize = 60 + 60 + 24 + 31 + 120;

/// A listing under way.
pub(super) struct Scan {
    node: Node,
    /// A list that is short, as it was when the scan began.
    short: Vec<(Vec<u8>, Ino, ObjectKind)>,
    /// The names given so far, where the list is long.
    names: Vec<Vec<u8>>,
    /// From this one on they are names that are gone.
    gone_from: Option<usize>,
}

impl History {
    pub(super) fn open_dir_node(&self, asker: Asks<'_>, ino: Ino) -> Result<u64> {
        let node = self.node(ino)?;
        match &node {
            Node::Old { lsn, ino, .. } => {
                self.permit_read(asker, *ino)?;
                if self.vfs.store.view_at(*lsn).attributes(*ino)?.kind != ObjectKind::Directory {
                    return Err(FsError::NotADirectory.into());
                }
            }
            Node::Top(_) | Node::List(..) | Node::Versions { .. } => {}
            _ => return Err(FsError::NotADirectory.into()),
        }
        let scan = Scan { node, short: Vec::new(), names: Vec::new(), gone_from: None };
        let mut scans = self.scans.lock();
        scans.last += 1;
        let handle = scans.last;
        scans.open.insert(handle, Arc::new(Mutex::new(scan)));
        Ok(handle)
    }
}

impl History {
    /// Opens a directory of history for scanning.
    pub(in super::super) fn open_dir(&self, asker: Asker<'_>, ino: Ino) -> Result<u64> {
        self.open_dir_node(asker, ino)
    }

    pub(in super::super) fn release_dir(&self, handle: u64) {
        self.scans.lock().open.remove(&handle);
    }

    /// The entries behind a cookie (0: from the beginning), at most `limit`; none at the end.
    pub(in super::super) fn read_dir(&self, handle: u64, cookie: u64, limit: usize) -> Result<Vec<Listed>> {
        let scan = self.scans.lock().open.get(&handle).cloned().ok_or(FsError::Invalid)?;
        let mut scan = scan.lock();
        if cookie == 0 {
            self.begin(&mut scan)?;
        }
        let mut listed = Vec::new();
        for (n, name) in [(1, "."), (DOT_DOT, "..")] {
            if cookie < n {
                let (name, ino) = (name.as_bytes().to_vec(), Nodes::number(&scan.node));
                listed.push(Listed { name, ino, kind: ObjectKind::Directory, cookie: n });
            }
        }
        let want = limit.saturating_sub(listed.len());
        let at = cookie.saturating_sub(DOT_DOT);
        match scan.node.clone() {
            Node::Versions { dir, name } => self.list_versions(dir, &name, at, want, &mut listed)?,
            Node::List(dir, List::Versions) => self.list_names(&mut scan, dir, at, want, &mut listed)?,
            Node::List(dir, List::Deleted) => {
                scan.gone_from = Some(0);
                self.list_names(&mut scan, dir, at, want, &mut listed)?;
            }
            Node::Old { .. } => self.list_old(&mut scan, at, want, &mut listed)?,
            _ => {
                let rest = scan.short.iter().enumerate().skip(at as usize).take(want);
                listed.extend(rest.map(|(n, (name, ino, kind))| Listed {
                    name: name.clone(),
                    ino: *ino,
                    kind: *kind,
                    cookie: n as u64 + 1 + DOT_DOT,
                }));
            }
        }
        Ok(listed)
    }

    /// Starts a scan from the beginning.
    fn begin(&self, scan: &mut Scan) -> Result<()> {
        scan.names.clear();
        scan.gone_from = None;
        let entry = |name: &str, node: &Node, kind| (name.as_bytes().to_vec(), Nodes::number(node), kind);
        match scan.node {
            Node::Top(dir) => {
                let lists = List::ALL.into_iter();
                let kind = ObjectKind::Directory;
                scan.short = lists.map(|l| entry(l.name(), &Node::List(dir, l), kind)).collect();
            }
            Node::List(dir, list @ List::Tags) => scan.short = self.tags(dir, list)?,
            Node::List(dir, list @ List::At) => {
                let tags = self.tags(dir, list)?;
                let now = self.now_ns();
                let clear =
                    |name: &[u8]| std::str::from_utf8(name).is_ok_and(|n| moments::parse(n, now).is_some());
                scan.short = tags.into_iter().filter(|(name, ..)| !clear(name)).collect();
                for ns in self.changes()? {
                    let name = moments::canonical(ns);
                    if let Ok(node) = self.moment(dir, name.as_bytes()) {
                        scan.short.push(entry(&name, &node, ObjectKind::Directory));
                    }
                }
            }
            Node::List(dir, List::Conflicts) => scan.short = self.conflicts(dir)?,
            _ => {}
        }
        Ok(())
    }

    fn tags(&self, dir: Ino, list: List) -> Result<Vec<(Vec<u8>, Ino, ObjectKind)>> {
        let named = self.view().tags()?.into_iter().map(|tag| {
            let node = Node::Alias { dir, list, name: tag.name.clone() };
            (tag.name, Nodes::number(&node), ObjectKind::Symlink)
        });
        Ok(named.collect())
    }

    /// Moments of the whole store at which something had changed, fewer the older they are: whole seconds, rounded
    /// up, so that the change is there. Oldest first.
    pub(in super::super) fn changes(&self) -> Result<Vec<u64>> {
        let now = self.now_ns();
        let mut found = Vec::new();
        let mut upto = now;
        while found.len() < MOMENTS {
            let Some(changed) = self.vfs.store.changed_upto(upto)? else { break };
            let second = changed.next_multiple_of(SECOND);
            if second <= now {
                found.push(second);
            }
            let step = match now.saturating_sub(changed) {
                age if age < 60 * SECOND => SECOND,
                age if age < HOUR => 60 * SECOND,
                age if age < DAY => HOUR,
                age if age < 31 * DAY => DAY,
                _ => 30 * DAY,
            };
            // On to the last change before this stretch of time.
            let Some(before) = (changed - changed % step).checked_sub(1) else { break };
            upto = before;
        }
        found.dedup();
        found.reverse();
        Ok(found)
    }

    fn conflicts(&self, dir: Ino) -> Result<Vec<(Vec<u8>, Ino, ObjectKind)>> {
        let view = self.view();
        let mut found = Vec::new();
        let mut after: Option<Vec<u8>> = None;
        loop {
            let page = view.entries(dir, after.as_deref(), PAGE)?;
            let Some(last) = page.last() else { return Ok(found) };
            after = Some(last.name.clone());
            for e in page {
                if view.contenders(dir, &e.name)?.len() > 1
                    && let Ok(node) = self.loser(dir, &e.name)
                {
                    found.push((e.name, Nodes::number(&node), ObjectKind::File));
                }
            }
        }
    }

    /// Versions of a name from behind a cookie on.
    fn list_versions(
        &self,
        dir: Ino,
        name: &[u8],
        at: u64,
        want: usize,
        listed: &mut Vec<Listed>,
    ) -> Result<()> {
        let behind = (at / SHARED, at % SHARED);
        let want = want.saturating_add(behind.1 as usize);
        let (ino, found) = self.history(dir, name, |h| Ok((h.ino(), h.from(behind.0, want)?)))?;
        let kind = self.view().attributes(ino).map_or(ObjectKind::File, |a| a.kind);
        let mut last = (0, 0);
        for past in &found {
            let nth = if last.0 == past.ordinal { (last.1 + 1).min(SHARED - 1) } else { 0 };
            last = (past.ordinal, nth);
            if last > behind || behind.0 == 0 {
                listed.push(Listed {
                    name: version_file(name, past.ordinal, past.version.created_ns, past.shared),
                    ino: Nodes::number(&version_node(dir, past)),
                    kind,
                    cookie: past.ordinal * SHARED + nth + DOT_DOT,
                });
            }
        }
        Ok(())
    }

    /// Names that have versions, and those that are gone, or only those.
    fn list_names(
        &self,
        scan: &mut Scan,
        dir: Ino,
        at: u64,
        want: usize,
        listed: &mut Vec<Listed>,
    ) -> Result<()> {
        scan.names.truncate(at as usize);
        if scan.gone_from.is_some_and(|n| n > scan.names.len()) {
            scan.gone_from = None;
        }
        let view = self.view();
        let of = |name: &[u8]| Nodes::number(&Node::Versions { dir, name: name.to_vec() });
        let only_gone = matches!(scan.node, Node::List(_, List::Deleted));
        let mut left = want;
        let mut after = if scan.gone_from.is_none() { scan.names.last().cloned() } else { None };
        while scan.gone_from.is_none() && left > 0 {
            let page = view.entries(dir, after.as_deref(), PAGE)?;
            let Some(last) = page.last() else {
                scan.gone_from = Some(scan.names.len());
                break;
            };
            after = Some(last.name.clone());
            for e in page {
                if left > 0 && matches!(e.kind, ObjectKind::File | ObjectKind::Symlink) {
                    left -= 1;
                    let ino = of(&e.name);
                    listed.push(scan.give(e.name, ino, ObjectKind::Directory));
                }
            }
        }
        let Some(gone_from) = scan.gone_from else { return Ok(()) };
        let after = scan.names.get(gone_from..).and_then(<[_]>::last).cloned();
        for gone in view.gone(dir, after.as_deref(), left)? {
            let (ino, kind) = if only_gone {
                (Nodes::number(&self.deleted(dir, &gone.name)?), gone.kind)
            } else {
                (of(&gone.name), ObjectKind::Directory)
            };
            listed.push(scan.give(gone.name, ino, kind));
        }
        Ok(())
    }

    /// Entries of a directory as it was.
    fn list_old(&self, scan: &mut Scan, at: u64, want: usize, listed: &mut Vec<Listed>) -> Result<()> {
        let Node::Old { dir, moment, lsn, ino, .. } = scan.node else { return Ok(()) };
        scan.names.truncate(at as usize);
        let after = scan.names.last().cloned();
        for e in self.vfs.store.view_at(lsn).entries(ino, after.as_deref(), want)? {
            let node = Node::Old { dir, moment, lsn, ino: e.ino, fixed: false };
            listed.push(scan.give(e.name, Nodes::number(&node), e.kind));
        }
        Ok(())
    }
}

impl Scan {
    fn give(&mut self, name: Vec<u8>, ino: Ino, kind: ObjectKind) -> Listed {
        self.names.push(name.clone());
        Listed { name, ino, kind, cookie: self.names.len() as u64 + DOT_DOT }
    }
}
