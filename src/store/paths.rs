//! Where an object lies, or lay, as paths from the root: what settings go by.

use crate::{
    base::{Ino, Lsn, Result},
    format::rows::{LinkRegister, ObjectRow, key},
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
    /// It may have had further names (hard links) then, of which nothing is known any more.
    pub(super) elsewhere: bool,
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

    /// The directories in which names show an object.
    ///
    /// # Errors
    /// What reading the index says.
    pub fn directories_of(&self, ino: Ino) -> Result<Vec<Ino>> {
        let Some(object) = self.object_row(ino, None)? else { return Ok(Vec::new()) };
        let mut dirs: Vec<Ino> = self.links_of(ino, &object)?.iter().filter_map(|l| l.placed).collect();
        dirs.sort_unstable();
        dirs.dedup();
        Ok(dirs)
    }

    /// Where an object lay at an LSN, with this stamp. Its first name is known as it was; further ones (hard links) have no history:
    /// those that it has now count at all times, and that it had more is said.
    pub(super) fn paths_at(&self, ino: Ino, at: Lsn, stamp_ns: u64) -> Result<Lay> {
        let mut lay = Lay { paths: Vec::new(), since: at, elsewhere: false };
        let (Some(then), Some(now)) = (self.object_row(ino, Some(at))?, self.object_row(ino, None)?) else {
            return Ok(lay);
        };
        let mut links = Vec::new();
        links.extend(then.attributes.link.clone());
        let further = self.further_links(ino, &now)?;
        let known = further.iter().filter(|l| l.stamp.hlc <= stamp_ns).count();
        links.extend(further);
        lay.since = then.from;
        lay.elsewhere = then.attributes.further as usize > known;
        for link in &links {
            if let Some((path, since)) = self.path_to(link, Some(at))? {
                lay.paths.push(path);
                lay.since = lay.since.max(since);
            }
        }
        Ok(lay)
    }

    /// The registers of an object's links: of the first, also if that is gone, and of further ones.
    fn links_of(&self, ino: Ino, object: &ObjectRow) -> Result<Vec<LinkRegister>> {
        let mut links = Vec::new();
        links.extend(object.attributes.link.clone());
        links.extend(self.further_links(ino, object)?);
        Ok(links)
    }

    fn further_links(&self, ino: Ino, object: &ObjectRow) -> Result<Vec<LinkRegister>> {
        let mut links = Vec::new();
        for slot in 0..object.attributes.further {
            let k = key::object_links(ino, slot);
            let Some(bytes) = self.index.get(&k)? else { continue };
            let k = key::register(row(&k, &bytes)?);
            if let Some(bytes) = self.index.get(&k)? {
                links.push(row(&k, &bytes)?);
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
