//! Versions: how one is added to an object, which are its heads, and which of them shows.

use crate::{
    base::{
        Ino, Lsn, ObjectId, Result, VersionId,
        planted::{Bug, planted},
    },
    format::{
        facts::{self, ObjectKind, Time},
        rows::{
            BranchBase, BranchRow, ChangesRow, ClaimedRow, Content, ObjectRow, Stamp, VersionPlace,
            VersionRow, WaitingRow, key, kind,
        },
    },
};

use super::{
    apply::Apply,
    content::Bytes,
    txn::{Keep, row},
};

impl Apply<'_, '_> {
    /// A version: of the draft here, or of the changes that came before it.
    pub(super) fn version(&mut self, v: &facts::Version, stamp: Stamp) -> Result<()> {
        let (ino, mut row) = self.object_or_new(v.object)?;
        self.waits_no_more(v.id)?;
        if self.txn.has(&key::version_id(v.id))? || self.comes_without(ino, v, stamp)? {
            return Ok(());
        }
        let changes = self.changes_of(ino, v.id)?;
        let content = if let Some((base, parts)) = changes {
            let base = match base {
                None => None,
                Some(id) => match self.txn.get::<VersionPlace>(&key::version_id(id))? {
                    Some(place) if place.ino == ino && !place.removed => Some(place.at),
                    Some(_) => return self.lacks(ino, v, stamp),
                    None if self.txn.has(&key::lacking(ino, id.into()))? => return self.lacks(ino, v, stamp),
                    None => return self.wait(id, v, stamp),
                },
            };
            let mut on_branch = self.branch_for(ino, &mut row.content, base, v)?;
            self.apply_changes(ino, &row, &mut on_branch, v, &parts)?;
            on_branch
        } else {
            row.content.branches = row.content.branches.max(1);
            row.content.clone()
        };
        self.add(ino, row, content, v, stamp)
    }

    /// Adds the version of `made` (its branch as it is now) to the object.
    fn add(
        &mut self,
        ino: Ino,
        mut row: ObjectRow,
        mut made: Content,
        v: &facts::Version,
        stamp: Stamp,
    ) -> Result<()> {
        let lsn = self.txn.lsn();
        let from_draft = made.branch == row.content.branch && row.content.draft;
        made.tip = lsn;
        let ordinal = v.vector.number();
        if ordinal <= row.content.ordinal && !row.content.disordered {
            row.content.disordered = true;
            self.number_all(ino)?;
        }
        let c = &mut row.content;
        c.ordinal = c.ordinal.max(ordinal);
        if c.disordered {
            self.txn.put(key::numbered(ino, ordinal, v.id), &lsn, Keep::Amend)?;
        }
        c.newest_ns = c.newest_ns.max(v.created_ns);
        self.state.meta.versions += 1;

        let heads = self.heads_with(ino, std::mem::take(&mut c.heads), v)?;
        let winner = heads.iter().max().map(|h| h.2);
        let c = &mut row.content;
        c.heads = heads.iter().map(|h| h.2).collect();
        if c.branches > 1 {
            let base = self.txn.get::<BranchRow>(&key::branch(ino, made.branch))?.and_then(|b| b.base);
            self.txn.put(key::branch(ino, made.branch), &BranchRow { base, tip: lsn }, Keep::Amend)?;
        }
        if from_draft {
            row.content.draft = planted(Bug::DraftNotVersioned);
            self.list(kind::DRAFT, ino, false)?;
        }
        if made.branch == row.content.branch {
            row.content.tip = lsn;
        }
        let shows = !row.content.draft && winner == Some(lsn);
        let version = Self::version_row(v, stamp, ordinal, &made, shows);
        self.txn.put(key::version(ino, lsn), &version, Keep::Amend)?;
        if v.hash.is_none() {
            self.txn.put(key::unhashed(ino, lsn), &(), Keep::Amend)?;
        }
        self.txn.put(key::version_id(v.id), &VersionPlace { ino, at: lsn, removed: false }, Keep::Amend)?;
        if shows {
            show(&mut row.content, &version, lsn);
        } else if !row.content.draft
            && let Some(winner) = winner
            && row.content.head != Some(winner)
            && let Some(w) = self.txn.get::<VersionRow>(&key::version(ino, winner))?
        {
            show(&mut row.content, &w, winner);
            self.txn.put(key::shown(ino, lsn), &winner, Keep::Amend)?;
        }
        self.txn.put_object(ino, row, Keep::Amend)?;
        self.heads_changed(ino, &v.links)
    }

    /// The first version of an object came that does not have the highest number: from now on the order is kept apart.
    fn number_all(&mut self, ino: Ino) -> Result<()> {
        let (start, end) = (key::version(ino, Lsn::new(0)), key::version(ino, Lsn::MAX));
        for (k, bytes) in self.txn.scan_range(&start, &end, usize::MAX)? {
            let v: VersionRow = row(&k, &bytes)?;
            let at = Lsn::new(key::last_number(&k).unwrap_or(0));
            self.txn.put(key::numbered(ino, v.ordinal, v.id), &at, Keep::Amend)?;
        }
        Ok(())
    }

    /// The heads of an object when this version joins them: creation time, id, and where.
    fn heads_with(
        &mut self,
        ino: Ino,
        old: Vec<Lsn>,
        v: &facts::Version,
    ) -> Result<Vec<(u64, VersionId, Lsn)>> {
        let mut heads = Vec::with_capacity(1);
        let mut included = false;
        for at in old {
            let Some(head) = self.txn.get::<VersionRow>(&key::version(ino, at))? else { continue };
            // No two versions have one vector; should a peer say so, neither includes the other.
            included |= v.vector.within(&head.vector) && !head.vector.within(&v.vector);
            if !head.vector.within(&v.vector) || v.vector.within(&head.vector) {
                heads.push((head.created_ns, head.id, at));
            }
        }
        if !included {
            heads.push((v.created_ns, v.id, self.txn.lsn()));
        }
        Ok(heads)
    }

    fn version_row(
        v: &facts::Version,
        stamp: Stamp,
        ordinal: u64,
        made: &Content,
        shown: bool,
    ) -> VersionRow {
        VersionRow {
            id: v.id,
            ordinal,
            branch: made.branch,
            vector: v.vector.clone(),
            parents: v.parents.clone(),
            created_ns: v.created_ns,
            stamp,
            size: v.size,
            modified: v.modified,
            changed: v.changed_ns,
            mode: v.mode,
            owner: v.owner,
            allocated: made.allocated,
            hash: v.hash,
            flags: v.flags,
            cuts: made.cuts.clone(),
            shown,
            links: v.links.clone(),
            gap: None,
        }
    }

    fn wait(&mut self, missing: VersionId, v: &facts::Version, stamp: Stamp) -> Result<()> {
        let waiting = WaitingRow { version: v.clone(), stamp };
        let claimed = ClaimedRow { object: v.object, missing: Some(missing) };
        self.txn.put(key::claimed(v.id), &claimed, Keep::Amend)?;
        self.txn.put(key::waiting(missing, Some(v.id)), &waiting, Keep::Amend)
    }

    /// A version that waited: what it waited for is here.
    pub(super) fn ready(&mut self, object: ObjectId, id: VersionId) -> Result<()> {
        self.object_or_new(object)?;
        let Some(waiting) = self.waits_no_more(id)? else { return Ok(()) };
        self.version(&waiting.version, waiting.stamp)
    }

    /// If a version waits for another, it does not any more: what is known of it. Its content may have been noted anew meanwhile,
    /// with another base than the one that it waits for.
    pub(super) fn waits_no_more(&mut self, id: VersionId) -> Result<Option<WaitingRow>> {
        if !self.state.meta.foreign {
            return Ok(None);
        }
        let claimed = key::claimed(id);
        let Some(ClaimedRow { missing: Some(missing), .. }) = self.txn.get(&claimed)? else {
            return Ok(None);
        };
        let k = key::waiting(missing, Some(id));
        let waiting = self.txn.get::<WaitingRow>(&k)?;
        self.txn.delete(k, Keep::Amend)?;
        self.txn.delete(claimed, Keep::Amend)?;
        Ok(waiting)
    }

    /// Changes of a version to come, in one or several parts.
    pub(super) fn changes(&mut self, changes: &facts::LocalChanges) -> Result<()> {
        let (ino, row) = self.object_or_new(changes.object)?;
        if self.txn.object_if_any(ino)?.is_none() {
            self.txn.put_object(ino, row, Keep::History)?;
        }
        self.state.meta.foreign = true;
        if changes.part == 0 {
            self.drop_changes(ino, changes.version)?;
        }
        let ranges = changes.ranges.clone();
        let k = key::changes(ino, changes.version, changes.part);
        self.txn.put(k, &ChangesRow { base: changes.base, ranges }, Keep::Amend)
    }

    #[allow(clippy::type_complexity)] // a base and its parts, used next door
    fn changes_of(
        &mut self,
        ino: Ino,
        id: VersionId,
    ) -> Result<Option<(Option<VersionId>, Vec<ChangesRow>)>> {
        if !self.state.meta.foreign {
            return Ok(None);
        }
        let first = key::changes(ino, id, 0);
        let prefix = &first[..first.len() - 4];
        let mut parts = Vec::new();
        for (k, bytes) in self.txn.scan(prefix, prefix, usize::MAX)? {
            parts.push(row::<ChangesRow>(&k, &bytes)?);
        }
        Ok(parts.first().map(|p| p.base).map(|base| (base, parts)))
    }

    /// The branch on which a version with this base goes: the base's own if nothing follows it there and the version
    /// descends from it, else a new one. Returned as the content that it has now.
    fn branch_for(
        &mut self,
        ino: Ino,
        content: &mut Content,
        base: Option<Lsn>,
        made: &facts::Version,
    ) -> Result<Content> {
        let Some(at) = base else {
            if content.ordinal == 0 && !content.draft && content.branches <= 1 {
                content.branches = content.branches.max(1);
                return Ok(Content { branches: content.branches, ..Content::default() });
            }
            let branch = self.new_branch(ino, content, None)?;
            return Ok(Content { branch, branches: content.branches, ..Content::default() });
        };
        let v: VersionRow = self
            .txn
            .get(&key::version(ino, at))?
            .ok_or_else(|| crate::base::Damage::file("index", 0, "a version's row is missing"))?;
        let here = v.branch == content.branch;
        let tip = if here {
            content.tip
        } else {
            self.txn.get::<BranchRow>(&key::branch(ino, v.branch))?.map_or(Lsn::default(), |b| b.tip)
        };
        let continues = tip == at && !(here && content.draft) && v.vector.within(&made.vector);
        let branch = if continues {
            v.branch
        } else {
            self.new_branch(ino, content, Some(BranchBase { branch: v.branch, at }))?
        };
        Ok(Content {
            branch,
            size: v.size,
            // Rows that older cuts hide may be gone by now, and these cuts with them.
            cuts: if continues && here { content.cuts.clone() } else { v.cuts },
            allocated: v.allocated,
            tip: at,
            branches: content.branches,
            ..Content::default()
        })
    }

    /// Turns from a draft to what the versions say, on a branch of its own: the draft's chunks stay behind.
    pub(super) fn leave_draft(&mut self, ino: Ino, content: &mut Content) -> Result<()> {
        let head = match content.head {
            Some(at) => self.txn.get::<VersionRow>(&key::version(ino, at))?.map(|v| (at, v)),
            None => None,
        };
        let base = head.as_ref().map(|(at, v)| BranchBase { branch: v.branch, at: *at });
        let left = key::branch(ino, content.branch);
        let left_base = self.txn.get::<BranchRow>(&left)?.and_then(|b| b.base);
        let branch = self.new_branch(ino, content, base)?;
        // No version ends here, so none can be continued on the branch that holds the draft.
        self.txn.put(left, &BranchRow { base: left_base, tip: self.txn.lsn() }, Keep::Amend)?;
        content.draft = false;
        (content.size, content.allocated, content.tip) = (0, 0, Lsn::default());
        content.cuts.clear();
        (content.modified, content.modified_stamp) = (Time::default(), Stamp::default());
        if let Some((at, v)) = head {
            show(content, &v, at);
        }
        content.branch = branch;
        Ok(())
    }

    fn new_branch(&mut self, ino: Ino, content: &mut Content, base: Option<BranchBase>) -> Result<u32> {
        if content.branches <= 1 {
            let first = BranchRow { base: None, tip: content.tip };
            self.txn.put(key::branch(ino, content.branch), &first, Keep::Amend)?;
        }
        let branch = content.branches.max(1);
        content.branches = branch + 1;
        self.txn.put(key::branch(ino, branch), &BranchRow { base, tip: Lsn::default() }, Keep::Amend)?;
        Ok(branch)
    }

    fn apply_changes(
        &mut self,
        ino: Ino,
        object: &ObjectRow,
        made: &mut Content,
        v: &facts::Version,
        parts: &[ChangesRow],
    ) -> Result<()> {
        let mut scratch = ObjectRow { content: made.clone(), ..object.clone() };
        self.cut(ino, &mut scratch, v.size)?;
        for facts::LocalRange { offset, len, source } in parts.iter().flat_map(|p| &p.ranges) {
            match source {
                Some((extent, location, skip)) => {
                    let bytes = Bytes { extent: *extent, location: *location, skip: *skip };
                    self.write(ino, &mut scratch, *offset, *len, Some(bytes))?;
                }
                None => self.clear(ino, &mut scratch, *offset, *len)?,
            }
        }
        scratch.content.size = v.size;
        for part in 0..parts.len() as u32 {
            self.txn.delete(key::changes(ino, v.id, part), Keep::Amend)?;
        }
        *made = scratch.content;
        Ok(())
    }

    pub(super) fn hash(&mut self, object: ObjectId, id: VersionId, hash: Option<[u8; 32]>) -> Result<()> {
        let (ino, _) = self.object_or_new(object)?;
        let Some(place) = self.txn.get::<VersionPlace>(&key::version_id(id))? else { return Ok(()) };
        let k = key::version(ino, place.at);
        if let Some(mut v) = self.txn.get::<VersionRow>(&k)? {
            v.hash = v.hash.or(hash);
            self.txn.delete(key::unhashed(ino, place.at), Keep::Amend)?;
            self.txn.put(k, &v, Keep::Amend)?;
        }
        Ok(())
    }

    /// Does this kind of object have versions?
    pub(super) fn is_versioned(kind: ObjectKind) -> bool {
        matches!(kind, ObjectKind::File | ObjectKind::Symlink)
    }
}

/// Makes a version what the object shows.
fn show(content: &mut Content, v: &VersionRow, at: Lsn) {
    content.branch = v.branch;
    content.size = v.size;
    content.cuts.clone_from(&v.cuts);
    content.allocated = v.allocated;
    content.tip = at;
    content.modified = Time::from_ns(v.changed);
    content.modified_stamp = v.written();
    content.head = Some(at);
}
