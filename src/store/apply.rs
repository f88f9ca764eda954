//! One apply: how a record changes the index, whether it was made here, replayed, or made by another store.
//!
//! In every register the newest stamp wins; versions are a set that only grows. So the order in which facts of
//! several stores arrive, and how often, cannot matter (`docs/FORMAT.md` section 9).

use crate::{
    base::{
        Damage, Incarnation, Ino, LinkId, ObjectId, Result, StoreId,
        planted::{Bug, planted},
    },
    format::{
        facts::{Create, Fact, ObjectKind, Time},
        rows::{Attributes, Content, LinkRegister, ObjectRow, Stamp, TagRow, XattrRow, key, kind},
    },
};

use super::{
    state::State,
    txn::{Keep, Txn},
};

/// Applies the facts of one record.
pub(super) struct Apply<'t, 'i> {
    pub(super) txn: &'t mut Txn<'i>,
    pub(super) state: &'t mut State,
    /// Stamp of the record.
    pub(super) stamp: Stamp,
    /// The opening of its store in which the record was made.
    pub(super) made_in: Incarnation,
    /// Number of the fact in the record.
    pub(super) part: u32,
    /// The object that this record made: a directory that nothing can be below yet.
    pub(super) created: Option<Ino>,
    /// Gone directories that got their first entry, or lost their last: to be settled before the fact is done. A list, and not
    /// calls within calls, since a tree may be deeper than the stack.
    pub(super) unsettled: Vec<Ino>,
    /// What loses its last name by this record is given up with it ([`GIVES_UP`](crate::format::flags::GIVES_UP)).
    pub(super) gives_up: bool,
}

impl<'t, 'i> Apply<'t, 'i> {
    /// For a record with this stamp, made in this opening of its store.
    pub(super) fn new(
        txn: &'t mut Txn<'i>,
        state: &'t mut State,
        stamp: Stamp,
        made_in: Incarnation,
    ) -> Self {
        Self { txn, state, stamp, made_in, part: 0, created: None, unsettled: Vec::new(), gives_up: false }
    }
}

impl Apply<'_, '_> {
    /// Applies all facts of an operation.
    pub(super) fn facts(&mut self, facts: &[Fact]) -> Result<()> {
        for (part, fact) in facts.iter().enumerate() {
            self.nth_fact(part, fact)?;
        }
        Ok(())
    }

    /// Applies the fact that has this number in its operation.
    pub(super) fn nth_fact(&mut self, part: usize, fact: &Fact) -> Result<()> {
        self.state.meta.hlc = self.state.meta.hlc.max(self.stamp.hlc);
        self.part = part as u32;
        if part == 0 && !fact.is_local() {
            self.rise()?;
        }
        self.fact(fact)?;
        self.settle_all()
    }

    /// Notes where in the log the stamp of this record is, if it is the highest of any facts so far. Local facts
    /// change nothing that a moment shows, and would put late what another store made early.
    pub(super) fn rise(&mut self) -> Result<()> {
        match self.state.meta.moments.rise(self.stamp.hlc, self.txn.lsn()) {
            Some((first, full)) => self.txn.put(key::moments(first), &full, Keep::Amend),
            None => Ok(()),
        }
    }

    pub(super) fn fact(&mut self, fact: &Fact) -> Result<()> {
        match fact {
            Fact::Create(create) => self.create(create),
            Fact::Link(link) => self.link(link),
            Fact::Gone(gone) => self.gone(gone),
            Fact::Mode(object, mode) => self.attribute(*object, |s, a, stamp| {
                if s.wins((stamp, *mode), (a.mode_stamp, a.mode)) {
                    (a.mode, a.mode_stamp) = (*mode, stamp);
                }
            }),
            Fact::Owner(object, owner) => self.attribute(*object, |s, a, stamp| {
                if s.wins((stamp, *owner), (a.owner_stamp, a.owner)) {
                    (a.owner, a.owner_stamp) = (*owner, stamp);
                }
            }),
            Fact::Modified(object, time) => self.attribute(*object, |s, a, stamp| {
                if s.wins((stamp, *time), (a.modified_stamp, a.modified)) {
                    (a.modified, a.modified_stamp) = (*time, stamp);
                }
            }),
            Fact::Xattr(object, name, value) => self.xattr(*object, name, value.as_ref()),
            Fact::Version(version) => self.version(version, self.stamp),
            Fact::Alias(from, to) => self.alias(*from, *to),
            Fact::Tag(name, moment) => self.tag(name, *moment),
            Fact::Retain(_, version, lock, saw) => self.retain(*version, *lock, saw),
            Fact::Hold(_, version, on, saw) => self.hold(*version, *on, saw),
            Fact::Inode(object, ino) => self.inode(*object, *ino),
            Fact::StoreNumber(n, store) => self.store_number(*n, *store),
            Fact::Size(object, size) => self.resize(*object, *size),
            Fact::Punch(object, offset, len) => self.punch(*object, *offset, *len),
            Fact::Place(object, placed) => self.place_extents(*object, placed),
            Fact::Accessed(object, time) => self.accessed(*object, *time),
            Fact::Changes(changes) => self.changes(changes),
            Fact::Ready(object, version) => self.ready(*object, *version),
            Fact::NoTwin(object) => {
                let ino = self.ino_for(*object)?;
                self.list(kind::TWIN, ino, false)
            }
            Fact::Reap(object) => self.reap(*object),
            Fact::Hash(object, version, hash) => self.hash(*object, *version, *hash),
            Fact::Cleaned(gone) => self.cleaned(gone),
            Fact::Unnamed(names) => self.unnamed(names),
            Fact::Removed(object, version) => self.removed(*object, *version),
            Fact::Clock(ns) => {
                self.state.meta.clock_ns = *ns;
                Ok(())
            }
            Fact::Without(object, version, declined) => self.without(*object, *version, *declined),
            Fact::Trimmed(object) => self.trimmed(*object),
            Fact::Supplied(version, hlc, maker) => self.supplied(version, *hlc, *maker),
            Fact::Told(_)
            | Fact::Touched(_)
            | Fact::Marked(_)
            | Fact::Continued(_)
            | Fact::Filled(_)
            | Fact::Owed(_)
            | Fact::Adopted(_) => self.of_a_telling(fact),
            Fact::MovesForgotten(before_ns) => self.forget_moves(*before_ns),
            Fact::Repacked(places) => self.repacked(places),
        }
    }

    /// The inode number of an object: logged for those of other stores, part of the id for those made here.
    pub(super) fn ino_for(&mut self, object: ObjectId) -> Result<Ino> {
        if object == ObjectId::ROOT {
            return Ok(Ino::FIRST);
        }
        if self.state.meta.foreign
            && let Some(ino) = self.txn.get::<Ino>(&key::object_id(object))?
        {
            return Ok(ino);
        }
        Ok(object.parts().1)
    }

    /// The row of an object; one that was only mentioned so far gets a row that says no more than that.
    pub(super) fn object_or_new(&mut self, object: ObjectId) -> Result<(Ino, ObjectRow)> {
        let ino = self.ino_for(object)?;
        if ino.get() >= self.state.meta.next_ino {
            self.txn.is_new_object(ino);
        }
        if let Some(row) = self.txn.object_if_any(ino)? {
            if row.object != object {
                let why = format!("inode {ino} stands for {} and {object}", row.object);
                return Err(Damage::file("index", 0, why).into());
            }
            return Ok((ino, row));
        }
        if !planted(Bug::InodeReused) {
            self.state.meta.next_ino = self.state.meta.next_ino.max(ino.get() + 1);
        }
        Ok((
            ino,
            ObjectRow { from: self.txn.lsn(), object, attributes: unknown(), content: Content::default() },
        ))
    }

    fn create(&mut self, create: &Create) -> Result<()> {
        let (ino, mut row) = self.object_or_new(create.object)?;
        let mentioned = self.txn.object_if_any(ino)?.is_some();
        if !mentioned {
            self.created = Some(ino);
        }
        let stamp = self.stamp;
        let a = &mut row.attributes;
        if a.kind != ObjectKind::Unknown {
            return Ok(());
        }
        a.kind = create.kind;
        a.device = create.device;
        a.target.clone_from(&create.target);
        a.born = stamp.hlc;
        a.changed = a.changed.max(stamp.hlc);
        if self.state.newer(stamp, a.mode_stamp) {
            (a.mode, a.mode_stamp) = (create.mode, stamp);
        }
        if self.state.newer(stamp, a.owner_stamp) {
            (a.owner, a.owner_stamp) = (create.owner, stamp);
        }
        if self.state.newer(stamp, a.modified_stamp) {
            (a.modified, a.modified_stamp) = (Time::from_ns(stamp.hlc), stamp);
        }
        if create.kind == ObjectKind::Directory {
            a.links += 2;
        }
        if create.kind == ObjectKind::Symlink {
            row.content.size = create.target.len() as u64;
        }
        self.state.meta.objects += 1;
        self.txn.put_object(ino, row, Keep::History)?;
        if mentioned { self.became_known(ino, create.object) } else { Ok(()) }
    }

    fn attribute(
        &mut self,
        object: ObjectId,
        set: impl FnOnce(&State, &mut Attributes, Stamp),
    ) -> Result<()> {
        let (ino, mut row) = self.object_or_new(object)?;
        set(self.state, &mut row.attributes, self.stamp);
        row.attributes.changed = row.attributes.changed.max(self.stamp.hlc);
        self.txn.put_object(ino, row, Keep::History)
    }

    fn xattr(&mut self, object: ObjectId, name: &[u8], value: Option<&Vec<u8>>) -> Result<()> {
        let (ino, mut row) = self.object_or_new(object)?;
        let k = key::xattr(ino, name);
        let old: Option<XattrRow> = self.txn.get(&k)?;
        let new = (self.stamp, value);
        if old.as_ref().is_some_and(|o| !self.state.wins(new, (o.stamp, o.value.as_ref()))) {
            return Ok(());
        }
        let had = old.is_some_and(|o| o.value.is_some());
        let a = &mut row.attributes;
        a.xattrs = a.xattrs - u32::from(had) + u32::from(value.is_some());
        a.changed = a.changed.max(self.stamp.hlc);
        self.txn.put_object(ino, row, Keep::History)?;
        let new = XattrRow { from: self.txn.lsn(), stamp: self.stamp, value: value.cloned() };
        let keep = if planted(Bug::XattrWithoutHistory) { Keep::Amend } else { Keep::History };
        self.txn.put(k, &new, keep)
    }

    fn tag(&mut self, name: &[u8], moment: Option<u64>) -> Result<()> {
        let k = key::tag(name);
        let old: Option<TagRow> = self.txn.get(&k)?;
        if old.is_some_and(|o| !self.state.wins((self.stamp, moment), (o.stamp, o.moment))) {
            return Ok(());
        }
        self.txn.put(k, &TagRow { from: self.txn.lsn(), stamp: self.stamp, moment }, Keep::History)
    }

    fn inode(&mut self, object: ObjectId, ino: Ino) -> Result<()> {
        self.state.meta.next_ino = self.state.meta.next_ino.max(ino.get() + 1);
        self.state.meta.foreign = true;
        self.txn.put(key::object_id(object), &ino, Keep::Amend)
    }

    fn store_number(&mut self, n: u32, store: StoreId) -> Result<()> {
        self.state.meta.foreign = true;
        if self.state.number(store).is_none() {
            std::sync::Arc::make_mut(&mut self.state.stores).push(store);
        }
        self.txn.put(key::store_number(Some(n)), &store, Keep::Amend)
    }

    /// A register of a link, wherever it is kept.
    pub(super) fn register(&mut self, link: LinkId, child: Ino) -> Result<Option<LinkRegister>> {
        if let Some(row) = self.txn.object_if_any(child)?
            && LinkId::primary(row.object) == link
        {
            return Ok(row.attributes.link);
        }
        self.txn.get(&key::register(link))
    }

    pub(super) fn put_register(&mut self, link: LinkId, mut register: LinkRegister) -> Result<()> {
        let child = register.child;
        let mut row = self.txn.object(child)?;
        if LinkId::primary(row.object) == link {
            row.attributes.link = Some(register);
            return self.txn.put_object(child, row, Keep::History);
        }
        // What is gone is on no list, so that an object that had many names costs no more than one that never had. Only
        // of an object without any name the last stays, for whoever asks under which it was known.
        let live = register.gone.is_none() || register.placed.is_some();
        match register.slot {
            None if live => {
                register.slot = Some(row.attributes.further);
                self.txn.put(key::object_links(child, row.attributes.further), &link, Keep::Amend)?;
                row.attributes.further += 1;
                self.txn.put_object(child, row, Keep::History)?;
            }
            Some(slot) if !live && row.attributes.links > 0 => {
                register.slot = None;
                self.free_slot(child, slot)?;
            }
            _ => {}
        }
        self.txn.put(key::register(link), &register, Keep::Amend)
    }

    /// Takes a link off the list of its object: the last on the list takes its slot.
    pub(super) fn free_slot(&mut self, child: Ino, slot: u32) -> Result<()> {
        let mut row = self.txn.object(child)?;
        let Some(last) = row.attributes.further.checked_sub(1) else { return Ok(()) };
        row.attributes.further = last;
        self.txn.put_object(child, row, Keep::History)?;
        let last_key = key::object_links(child, last);
        if slot != last
            && let Some(moved) = self.txn.get::<LinkId>(&last_key)?
        {
            let k = key::register(moved);
            if let Some(mut register) = self.txn.get::<LinkRegister>(&k)? {
                register.slot = Some(slot);
                self.txn.put(k, &register, Keep::Amend)?;
            }
            self.txn.put(key::object_links(child, slot), &moved, Keep::Amend)?;
        }
        self.txn.delete(last_key, Keep::Amend)
    }

    /// Every link that an object has; its first also if that is gone.
    pub(super) fn links_of(&mut self, child: Ino) -> Result<Vec<LinkId>> {
        let row = self.txn.object(child)?;
        let mut links = Vec::new();
        if row.attributes.link.is_some() {
            links.push(LinkId::primary(row.object));
        }
        for slot in 0..row.attributes.further {
            links.extend(self.txn.get::<LinkId>(&key::object_links(child, slot))?);
        }
        Ok(links)
    }

    /// Puts an inode on a list, or takes it off.
    pub(super) fn list(&mut self, list: u8, ino: Ino, on: bool) -> Result<()> {
        debug_assert!(matches!(list, kind::DRAFT | kind::ORPHAN | kind::TWIN));
        if on {
            self.txn.put(key::listed(list, ino), &(), Keep::Amend)
        } else {
            self.txn.delete(key::listed(list, ino), Keep::Amend)
        }
    }
}

/// Attributes of which nothing is known yet.
pub(super) fn unknown() -> Attributes {
    Attributes {
        kind: ObjectKind::Unknown,
        mode: 0,
        mode_stamp: Stamp::default(),
        owner: crate::format::facts::Owner::default(),
        owner_stamp: Stamp::default(),
        modified: Time::default(),
        modified_stamp: Stamp::default(),
        changed: 0,
        born: 0,
        device: 0,
        target: Vec::new(),
        links: 0,
        entries: 0,
        link: None,
        further: 0,
        xattrs: 0,
        alias: None,
        markers: false,
        contested: false,
    }
}
