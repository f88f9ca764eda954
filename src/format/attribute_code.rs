//! An object's attributes in bincode: what follows from something else is not written.
//!
//! Most objects were made by one record and changed little since: their stamps and times are one and the same. Two
//! bytes of flags say which are, and which rare parts are there at all. These rows fill most of the index, and each
//! change of a directory keeps the one before, so this is most of what creating a file writes.

use bincode::{
    Decode, Encode,
    de::{BorrowDecoder, Decoder},
    enc::Encoder,
    error::{DecodeError, EncodeError},
};

use super::{
    facts::Time,
    rows::{Attributes, LinkRegister, Stamp},
};

/// Bits of the flags.
mod bit {
    /// `changed` is `born`.
    pub const CHANGED_BORN: u16 = 1;
    /// The mode's stamp is that of the creation.
    pub const MODE_BORN: u16 = 1 << 1;
    /// The owner's stamp is that of the creation.
    pub const OWNER_BORN: u16 = 1 << 2;
    /// `modified_stamp` is this store's at `changed`.
    pub const MODIFIED_CHANGED: u16 = 1 << 3;
    /// `modified` is the time of its stamp.
    pub const MODIFIED_STAMP: u16 = 1 << 4;
    /// There is a first link.
    pub const LINK: u16 = 1 << 5;
    /// Its stamp is that of the creation.
    pub const LINK_BORN: u16 = 1 << 6;
    /// It is placed in the directory that it names.
    pub const LINK_PLACED: u16 = 1 << 7;
    /// It is gone, and versions follow.
    pub const LINK_GONE: u16 = 1 << 8;
    /// It continues a history.
    pub const LINK_CONTINUES: u16 = 1 << 9;
    /// There are further links.
    pub const MORE_LINKS: u16 = 1 << 10;
    /// `markers`.
    pub const MARKERS: u16 = 1 << 11;
    /// `contested`.
    pub const CONTESTED: u16 = 1 << 12;
    /// There is an alias.
    pub const ALIAS: u16 = 1 << 13;
    /// Device, target or extended attributes follow.
    pub const EXTRAS: u16 = 1 << 14;
}

/// The stamp that this store gave at a time.
const fn own(hlc: u64) -> Stamp {
    Stamp { hlc, store: 0 }
}

fn flags(a: &Attributes) -> u16 {
    let mut flags = 0;
    let mut set = |bit: u16, on: bool| flags |= if on { bit } else { 0 };
    set(bit::CHANGED_BORN, a.changed == a.born);
    set(bit::MODE_BORN, a.mode_stamp == own(a.born));
    set(bit::OWNER_BORN, a.owner_stamp == own(a.born));
    set(bit::MODIFIED_CHANGED, a.modified_stamp == own(a.changed));
    set(bit::MODIFIED_STAMP, a.modified == Time::from_ns(a.modified_stamp.hlc));
    if let Some(link) = &a.link {
        set(bit::LINK, true);
        set(bit::LINK_BORN, link.stamp == own(a.born));
        set(bit::LINK_PLACED, link.placed == Some(link.parent));
        set(bit::LINK_GONE, link.gone.is_some());
        set(bit::LINK_CONTINUES, link.continues.is_some());
    }
    set(bit::MORE_LINKS, a.further > 0);
    set(bit::MARKERS, a.markers);
    set(bit::CONTESTED, a.contested);
    set(bit::ALIAS, a.alias.is_some());
    set(bit::EXTRAS, a.device != 0 || !a.target.is_empty() || a.xattrs != 0);
    flags
}

impl Encode for Attributes {
    fn encode<E: Encoder>(&self, e: &mut E) -> Result<(), EncodeError> {
        let flags = flags(self);
        let has = |bit: u16| flags & bit != 0;
        (self.kind, flags.to_le_bytes(), self.mode, self.owner).encode(e)?;
        (self.links, self.entries, self.born).encode(e)?;
        if !has(bit::CHANGED_BORN) {
            self.changed.encode(e)?;
        }
        if !has(bit::MODE_BORN) {
            self.mode_stamp.encode(e)?;
        }
        if !has(bit::OWNER_BORN) {
            self.owner_stamp.encode(e)?;
        }
        if !has(bit::MODIFIED_CHANGED) {
            self.modified_stamp.encode(e)?;
        }
        if !has(bit::MODIFIED_STAMP) {
            self.modified.encode(e)?;
        }
        if let Some(link) = &self.link {
            (link.parent, &link.name, link.child).encode(e)?;
            if !has(bit::LINK_BORN) {
                link.stamp.encode(e)?;
            }
            if !has(bit::LINK_PLACED) {
                link.placed.encode(e)?;
            }
            if let Some(gone) = &link.gone {
                gone.encode(e)?;
            }
            if let Some(continues) = &link.continues {
                continues.encode(e)?;
            }
        }
        if has(bit::MORE_LINKS) {
            self.further.encode(e)?;
        }
        if let Some(alias) = &self.alias {
            alias.encode(e)?;
        }
        if has(bit::EXTRAS) {
            (self.device, &self.target, self.xattrs).encode(e)?;
        }
        Ok(())
    }
}

impl<C> Decode<C> for Attributes {
    fn decode<D: Decoder<Context = C>>(d: &mut D) -> Result<Self, DecodeError> {
        let (kind, flags, mode, owner): (_, [u8; 2], _, _) = Decode::decode(d)?;
        let flags = u16::from_le_bytes(flags);
        let has = |bit: u16| flags & bit != 0;
        if has(1 << 15) {
            return Err(DecodeError::Other("unknown flag of an object"));
        }
        let (links, entries, born) = Decode::decode(d)?;
        let changed = if has(bit::CHANGED_BORN) { born } else { Decode::decode(d)? };
        let mode_stamp = if has(bit::MODE_BORN) { own(born) } else { Decode::decode(d)? };
        let owner_stamp = if has(bit::OWNER_BORN) { own(born) } else { Decode::decode(d)? };
        let modified_stamp = if has(bit::MODIFIED_CHANGED) { own(changed) } else { Decode::decode(d)? };
        let modified =
            if has(bit::MODIFIED_STAMP) { Time::from_ns(modified_stamp.hlc) } else { Decode::decode(d)? };
        let link = if has(bit::LINK) {
            let (parent, name, child) = Decode::decode(d)?;
            Some(LinkRegister {
                parent,
                name,
                child,
                stamp: if has(bit::LINK_BORN) { own(born) } else { Decode::decode(d)? },
                placed: if has(bit::LINK_PLACED) { Some(parent) } else { Decode::decode(d)? },
                gone: if has(bit::LINK_GONE) { Some(Decode::decode(d)?) } else { None },
                continues: if has(bit::LINK_CONTINUES) { Some(Decode::decode(d)?) } else { None },
                slot: None,
            })
        } else {
            None
        };
        let further = if has(bit::MORE_LINKS) { Decode::decode(d)? } else { 0 };
        let alias = if has(bit::ALIAS) { Some(Decode::decode(d)?) } else { None };
        let (device, target, xattrs) = if has(bit::EXTRAS) { Decode::decode(d)? } else { (0, Vec::new(), 0) };
        Ok(Self {
            kind,
            mode,
            mode_stamp,
            owner,
            owner_stamp,
            modified,
            modified_stamp,
            changed,
            born,
            device,
            target,
            links,
            entries,
            link,
            further,
            xattrs,
            alias,
            markers: has(bit::MARKERS),
            contested: has(bit::CONTESTED),
        })
    }
}

impl<'de, C> bincode::BorrowDecode<'de, C> for Attributes {
    fn borrow_decode<D: BorrowDecoder<'de, Context = C>>(d: &mut D) -> Result<Self, DecodeError> {
        Self::decode(d)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        base::{Incarnation, Ino, ObjectId, StoreId},
        format::{
            code,
            facts::{Lineage, ObjectKind, Owner, VersionVector},
        },
    };

    const BORN: u64 = 1_790_000_000_123_456_789;

    fn new_file() -> Attributes {
        let stamp = own(BORN);
        Attributes {
            kind: ObjectKind::File,
            mode: 0o644,
            mode_stamp: stamp,
            owner: Owner { uid: 1000, gid: 1000 },
            owner_stamp: stamp,
            modified: Time::from_ns(BORN),
            modified_stamp: stamp,
            changed: BORN,
            born: BORN,
            device: 0,
            target: Vec::new(),
            links: 1,
            entries: 0,
            link: Some(LinkRegister {
                stamp,
                parent: Ino::new(77),
                name: b"name".to_vec(),
                child: Ino::new(99),
                gone: None,
                continues: None,
                placed: Some(Ino::new(77)),
                slot: None,
            }),
            further: 0,
            xattrs: 0,
            alias: None,
            markers: false,
            contested: false,
        }
    }

    type Vary = fn(&mut Attributes);

    /// One for each thing that can be other than in a new file.
    const VARIATIONS: &[Vary] = &[
        |a| a.changed += 1,
        |a| a.born = 0,
        |a| a.mode_stamp.hlc += 1,
        |a| a.mode_stamp.store = 1,
        |a| a.owner_stamp.store = 2,
        |a| a.modified_stamp.hlc = 5,
        |a| a.modified_stamp.store = 5,
        |a| a.modified = Time { seconds: -5, nanos: 7 },
        |a| a.device = 3,
        |a| a.target = b"elsewhere".to_vec(),
        |a| a.xattrs = 2,
        |a| a.entries = 1 << 40,
        |a| a.link = None,
        |a| a.link.iter_mut().for_each(|l| l.placed = None),
        |a| a.link.iter_mut().for_each(|l| l.placed = Some(Ino::new(3))),
        |a| a.link.iter_mut().for_each(|l| l.stamp.hlc += 9),
        |a| {
            let mut saw = VersionVector::default();
            saw.raise(StoreId::new(4), Incarnation::new(2), 6);
            a.link.iter_mut().for_each(|l| l.gone = Some(saw.clone()));
        },
        |a| {
            let lineage = Lineage { object: ObjectId::new(8), version: None, versions: 3, earlier: None };
            a.link.iter_mut().for_each(|l| l.continues = Some(lineage));
        },
        |a| a.further = 300,
        |a| a.alias = Some(Ino::new(6)),
        |a| a.markers = true,
        |a| a.contested = true,
    ];

    #[test]
    fn every_pair_of_peculiarities_comes_back() {
        for first in VARIATIONS {
            for second in VARIATIONS {
                let mut a = new_file();
                first(&mut a);
                second(&mut a);
                let bytes = code::encode(&a);
                assert_eq!(code::decode::<Attributes>(&bytes).as_ref(), Ok(&a));
                // No prefix is taken for the whole.
                for n in 0..bytes.len() {
                    assert!(code::decode::<Attributes>(&bytes[..n]).is_err(), "{n} of {}", bytes.len());
                }
            }
        }
    }

    #[test]
    fn a_new_file_takes_few_bytes_and_these() {
        let bytes = code::encode(&new_file());
        let hex: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(hex, "01ff00fba401fbe803fbe8030100fd15cd4e2b845bd7184d046e616d6563");
        let mut unknown = bytes;
        unknown[2] |= 0x80;
        assert!(code::decode::<Attributes>(&unknown).is_err());
    }
}
