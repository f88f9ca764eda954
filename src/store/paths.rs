//! Where an object lies, or lay, as paths from the root: what settings go by.

use crate::{
    base::{Ino, LinkId, Lsn, Result},
    format::rows::{LinkRegister, ObjectRow, after_prefix, key},
};

use super::{Store, txn::row};

/// Directories above an object that are followed to tell its path.
const DEPTH: usize = 4096;

/// Where an object lay at some time.
pub(super) struct Lay {
    /// The paths.
    pub(super) paths: Vec<Vec<u8>>,
    /// It lay there from this LSN on, or for longer.
    pub(super) since: Lsn,
}

impl Store {
    /// Every path at which a name shows an object; of one that has no name any more, the last.
    pub(super) fn paths_of(&self, ino: Ino, object: &ObjectRow) -> Result<Vec<Vec<u8>>> {
        let links = self.links_of(ino, object)?;
        let shown = links.iter().any(|l| l.placed.is_some());
        let mut paths = Vec::new();
        for link in links.iter().filter(|l| l.placed.is_some() == shown) {
            paths.extend(self.path_to(link, None)?.map(|(path, _)| path));
        }
        if paths.is_empty() {
            paths.push(b"/".to_vec());
        }
        Ok(paths)
    }

    /// Where an object lay at an LSN. Its first name is known as it was; further ones (hard links) have no history, and count
    /// at all times: so nothing that was to be kept is taken for something else.
    pub(super) fn paths_at(&self, ino: Ino, at: Lsn) -> Result<Lay> {
        let mut lay = Lay { paths: Vec::new(), since: at };
        let (Some(then), Some(now)) = (self.object_row(ino, Some(at))?, self.object_row(ino, None)?) else {
            return Ok(lay);
        };
        let mut links = Vec::new();
        links.extend(then.attributes.link.clone());
        if now.attributes.more_links {
            links.extend(self.links_of(ino, &now)?);
        }
        lay.since = then.from;
        for link in &links {
            if let Some((path, since)) = self.path_to(link, Some(at))? {
                lay.paths.push(path);
                lay.since = lay.since.max(since);
            }
        }
        Ok(lay)
    }

    /// The registers of all links that an object has or had.
    fn links_of(&self, ino: Ino, object: &ObjectRow) -> Result<Vec<LinkRegister>> {
        let mut links = Vec::new();
        links.extend(object.attributes.link.clone());
        if object.attributes.more_links {
            let prefix = key::object_links(ino, None);
            for (k, _) in self.index.scan(&prefix, &after_prefix(&prefix), usize::MAX)? {
                let Some(id) = k.last_chunk::<16>() else { continue };
                let k = key::register(LinkId::new(u128::from_be_bytes(*id)));
                if let Some(bytes) = self.index.get(&k)? {
                    links.push(row(&k, &bytes)?);
                }
            }
        }
        Ok(links)
    }

    /// The path of a link through the directories as they hang now, or hung at an LSN, and since when they hang so. None
    /// where one of them is not known then.
    fn path_to(&self, link: &LinkRegister, at: Option<Lsn>) -> Result<Option<(Vec<u8>, Lsn)>> {
        let mut parts = vec![link.name.clone()];
        let mut since = Lsn::new(0);
        let mut dir = link.placed.unwrap_or(link.parent);
        while dir != Ino::FIRST && parts.len() < DEPTH {
            let Some(object) = self.object_row(dir, at)? else { return Ok(None) };
            since = since.max(object.from);
            let Some(above) = object.attributes.link else { break };
            parts.push(above.name);
            dir = above.placed.unwrap_or(above.parent);
        }
        let mut path = Vec::new();
        for part in parts.iter().rev() {
            path.push(b'/');
            path.extend(part);
        }
        Ok(Some((path, since)))
    }
}
