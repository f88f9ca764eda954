//! A view of the store held against a snapshot of the model: the first difference, as text.

use std::sync::Arc;

use segfs::{
    base::{Error, FsError, Ino, Result},
    format::facts::{ObjectKind, Time},
    store::{Attributes, Store, View},
};

use super::model::{Object, Snapshot, Version};

/// How strict a comparison is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// Everything is as the model says.
    Exact,
    /// The medium was tampered with: an answer may be an error that says so, but never wrong.
    RightOrError,
}

/// What a comparison looks at.
#[derive(Clone, Copy)]
pub struct Compare<'a> {
    pub rule: Rule,
    /// Read content too, of objects whose number leaves no remainder.
    pub every: u64,
    pub store: &'a Store,
}

/// Why a comparison ended early.
enum End {
    Different(String),
}

type Step<T = ()> = Result<T, End>;

fn differs(what: impl FnOnce() -> String) -> Step {
    Err(End::Different(what()))
}

impl Compare<'_> {
    /// The present against the model's.
    pub fn present(self, model: &Snapshot) -> Result<(), String> {
        self.whole(self.store.view(), model).map_err(|End::Different(what)| format!("now: {what}"))
    }

    /// The store at a snapshot's LSN.
    pub fn past(self, model: &Snapshot) -> Result<(), String> {
        let view = self.store.view_at(segfs::base::Lsn::new(model.lsn));
        self.whole(view, model).map_err(|End::Different(what)| format!("at LSN {}: {what}", model.lsn))
    }

    /// The tree at a snapshot's LSN: what can be reached from the root.
    pub fn tree(self, model: &Snapshot) -> Result<(), String> {
        let view = self.store.view_at(segfs::base::Lsn::new(model.lsn));
        let mut dirs = vec![super::model::ROOT];
        let mut walk = || -> Step {
            let root = model.get(super::model::ROOT);
            self.attributes(view, super::model::ROOT, root.expect("there is always a root"))?;
            while let Some(dir) = dirs.pop() {
                let Some(o) = model.get(dir) else { continue };
                self.entries(view, dir, o, model)?;
                for child in o.entries.values() {
                    let Some(c) = model.get(*child) else { continue };
                    self.attributes(view, *child, c)?;
                    self.xattrs(view, *child, c)?;
                    match c.kind {
                        ObjectKind::Directory => dirs.push(*child),
                        ObjectKind::File if child.wrapping_add(model.lsn).is_multiple_of(self.every) => {
                            self.content(view, *child, c)?;
                        }
                        _ => {}
                    }
                }
            }
            Ok(())
        };
        walk().map_err(|End::Different(what)| format!("at LSN {}: {what}", model.lsn))
    }

    /// An answer, or `None` if it is an error that the rule allows.
    fn answer<T>(self, what: &str, ino: u64, answer: Result<T>) -> Step<Option<T>> {
        match answer {
            Ok(found) => Ok(Some(found)),
            Err(Error::Damaged(_) | Error::Io { .. }) if self.rule == Rule::RightOrError => Ok(None),
            Err(e) => Err(End::Different(format!("{what} of inode {ino}: {e}"))),
        }
    }

    fn whole(self, view: View<'_>, model: &Snapshot) -> Step {
        for (ino, object) in model.objects.iter() {
            self.attributes(view, *ino, object)?;
            if object.is_dir() {
                self.entries(view, *ino, object, model)?;
            }
            if object.kind == ObjectKind::Symlink
                && let Some(target) = self.answer("target", *ino, view.read_link(Ino::new(*ino)))?
                && target != object.target
            {
                return differs(|| format!("inode {ino}: target {target:?}, not {:?}", object.target));
            }
            if object.kind == ObjectKind::File && ino.is_multiple_of(self.every) {
                self.content(view, *ino, object)?;
            }
            self.xattrs(view, *ino, object)?;
            self.versions(view, *ino, object)?;
        }
        match view.attributes(Ino::new(model.next_ino)) {
            Err(Error::Fs(FsError::NotFound)) => Ok(()),
            Ok(a) => differs(|| format!("inode {} is there: {a:?}", model.next_ino)),
            Err(e) => self.answer::<()>("attributes", model.next_ino, Err(e)).map(|_| ()),
        }
    }

    fn attributes(self, view: View<'_>, ino: u64, o: &Object) -> Step {
        if o.gone && view.lsn().is_some() {
            return match view.attributes(Ino::new(ino)) {
                Err(Error::Fs(FsError::NotFound)) => Ok(()),
                Ok(a) => differs(|| format!("inode {ino} has no version left and is there: {a:?}")),
                Err(e) => self.answer::<()>("attributes", ino, Err(e)).map(drop),
            };
        }
        let Some(a) = self.answer("attributes", ino, view.attributes(Ino::new(ino)))? else { return Ok(()) };
        let past = view.lsn().is_some();
        let (size, modified) = shown(o, past);
        let newest = if past { o.versions.last().map_or(0, |v| v.stamp) } else { o.bytes_modified.1 };
        let modified = o.shown_modified(modified);
        let made = if o.born == 0 { modified } else { Time::from_ns(o.born) };
        let expected = Attributes {
            ino: Ino::new(ino),
            kind: o.kind,
            mode: o.mode,
            owner: o.owner,
            links: o.links,
            size,
            modified,
            changed: Time::from_ns(o.changed.max(newest)),
            born: Time::from_ns(o.born),
            xattrs: o.xattrs.len() as u32,
            draft: if past { a.draft } else { o.draft },
            accessed: if past { a.accessed } else { o.accessed.unwrap_or(made) },
            ..a
        };
        if a != expected {
            differs(|| format!("inode {ino} is\n  {a:?}, not\n  {expected:?}"))
        } else {
            Ok(())
        }
    }

    fn entries(self, view: View<'_>, ino: u64, o: &Object, model: &Snapshot) -> Step {
        let page = if ino.is_multiple_of(3) { 2 } else { usize::MAX };
        let mut after: Option<Vec<u8>> = None;
        let past = view.lsn().is_some();
        let there = |child: u64| !past || model.get(child).is_none_or(|c| !c.gone);
        let mut expected = o.entries.iter().filter(|(_, child)| there(**child));
        loop {
            let found = view.entries(Ino::new(ino), after.as_deref(), page);
            let Some(found) = self.answer("entries", ino, found)? else { return Ok(()) };
            for e in &found {
                let next = expected.next();
                let kind = next.and_then(|(_, child)| model.get(*child)).map(|c| c.kind);
                if next != Some((&e.name, &e.ino.get())) || kind != Some(e.kind) {
                    return differs(|| format!("directory {ino} has {e:?}, not {next:?} {kind:?}"));
                }
            }
            if found.len() < page {
                break;
            }
            after = found.last().map(|e| e.name.clone());
        }
        if let Some(next) = expected.next() {
            return differs(|| format!("directory {ino} lacks {next:?}"));
        }
        if let Some((name, child)) = o.entries.iter().filter(|(_, c)| there(**c)).nth(ino as usize % 3) {
            let looked = view.lookup(Ino::new(ino), name);
            if self.answer("lookup", ino, looked)?.is_some_and(|a| a.ino.get() != *child) {
                return differs(|| format!("{name:?} in directory {ino} is not {child}"));
            }
        }
        if let Some(parent) = o.parent {
            let found = self.answer("parent", ino, view.parent(Ino::new(ino)))?;
            if found.is_some_and(|p| p.get() != parent) {
                return differs(|| format!("directory {ino} is in {found:?}, not {parent}"));
            }
        }
        Ok(())
    }

    fn content(self, view: View<'_>, ino: u64, o: &Object) -> Step {
        let past = view.lsn().is_some();
        if o.reaped && !past || o.gone && past {
            return Ok(());
        }
        let expected = if past { o.versions.last().map(|v| &v.bytes) } else { Some(&o.bytes) };
        let expected: &[u8] = expected.map_or(&[], |b| b);
        let mut out = vec![0xee; expected.len() + 9];
        let Some(n) = self.answer("content", ino, view.read(Ino::new(ino), 0, &mut out))? else {
            return self.piecewise(view, ino, expected);
        };
        same(ino, &out[..n], expected)
    }

    /// Some of the bytes can't be read: the others are right.
    fn piecewise(self, view: View<'_>, ino: u64, expected: &[u8]) -> Step {
        for (i, part) in expected.chunks(4096).enumerate() {
            let mut out = vec![0xee; part.len()];
            let read = view.read(Ino::new(ino), i as u64 * 4096, &mut out);
            if let Some(n) = self.answer("content", ino, read)? {
                same(ino, &out[..n], part)?;
            }
        }
        Ok(())
    }

    fn xattrs(self, view: View<'_>, ino: u64, o: &Object) -> Step {
        let Some(names) = self.answer("xattrs", ino, view.xattrs(Ino::new(ino)))? else { return Ok(()) };
        if !names.iter().eq(o.xattrs.keys()) {
            return differs(|| format!("inode {ino} has xattrs {names:?}, not {:?}", o.xattrs.keys()));
        }
        for (name, expected) in &o.xattrs {
            let value = self.answer("xattr", ino, view.xattr(Ino::new(ino), name))?;
            if value.is_some_and(|v| v != *expected) {
                return differs(|| format!("inode {ino}: xattr {name:?} is not {expected:?}"));
            }
        }
        Ok(())
    }

    fn versions(self, view: View<'_>, ino: u64, o: &Object) -> Step {
        if o.versions.is_empty() && !ino.is_multiple_of(4) {
            return Ok(());
        }
        let found = view.versions(Ino::new(ino), None, usize::MAX);
        let Some(found) = self.answer("versions", ino, found)? else { return Ok(()) };
        if found.len() != o.versions.len() {
            return differs(|| format!("inode {ino} has {} versions, not {}", found.len(), o.versions.len()));
        }
        let mut before: Option<(u64, segfs::base::VersionId)> = None;
        for (f, v) in found.iter().zip(&o.versions) {
            // The one that it descends from may have been removed.
            let parent = match before {
                Some((n, id)) if n + 1 == v.ordinal => f.parents == [id],
                _ => f.parents.len() == usize::from(v.ordinal > 1),
            };
            let right = f.ordinal == v.ordinal
                && (f.lsn.get(), f.created_ns, f.size) == (v.lsn, v.created_ns, v.bytes.len() as u64)
                && (f.modified, f.mode, f.owner, f.flags) == (v.modified, v.mode, v.owner, v.flags)
                && parent
                && v.id.is_none_or(|id| id == f.id)
                && (f.id.get() >> 80) as u64 == v.created_ns / 1_000_000;
            if !right {
                return differs(|| format!("inode {ino} has version {f:?}, not {v:?}"));
            }
            before = Some((f.ordinal, f.id));
        }
        if ino.is_multiple_of(self.every) && !o.versions.is_empty() && o.kind == ObjectKind::File {
            self.version(ino, &o.versions[o.versions.len() / 2])?;
        }
        Ok(())
    }

    /// Content of a version by its own.
    fn version(self, ino: u64, v: &Arc<Version>) -> Step {
        let mut out = vec![0xee; v.bytes.len() + 9];
        let at = segfs::base::Lsn::new(v.lsn);
        let read = self.store.read_version(Ino::new(ino), at, 0, &mut out);
        match self.answer("version", ino, read)? {
            Some(n) => same(ino, &out[..n], &v.bytes),
            None => Ok(()),
        }
    }
}

/// Size, and the content's modification with its stamp.
pub fn shown(o: &Object, past: bool) -> (u64, (Time, u64)) {
    match o.kind {
        ObjectKind::Directory => (o.entries.len() as u64, (Time::default(), 0)),
        ObjectKind::File if past => o
            .versions
            .last()
            .map_or((0, (Time::default(), 0)), |v| (v.bytes.len() as u64, (Time::from_ns(v.stamp), v.stamp))),
        ObjectKind::File => (o.bytes.len() as u64, o.bytes_modified),
        _ => (o.target.len() as u64, (Time::default(), 0)),
    }
}

fn same(ino: u64, found: &[u8], expected: &[u8]) -> Step {
    if found == expected {
        return Ok(());
    }
    if found.len() != expected.len() {
        return differs(|| format!("inode {ino} has {} bytes, not {}", found.len(), expected.len()));
    }
    let at = found.iter().zip(expected).position(|(a, b)| a != b).unwrap_or(0);
    differs(|| format!("inode {ino}: byte {at} is {:#04x}, not {:#04x}", found[at], expected[at]))
}
