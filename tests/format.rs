//! `docs/FORMAT.md` and the code say the same, and the bytes of each record kind stay what they are.

use std::{fs, path::PathBuf};

use segfs::{
    base::{Incarnation, Ino, Lsn, ObjectId, SegmentId, StoreId, VersionId},
    format::{
        BodyHeader, Codec, Entry, FooterBuilder, Kind, Origin, Prepared, Seed, SegmentHeader, Superblock,
        Trailer,
        facts::{ExtentId, Range, Source},
        layouts,
        wire::{
            Bye, ContentHead, Epoch, ExtentHead, Facts, Grant, Hello, Identity, Lack, MAGIC, Message, Reason,
            Splitter, Stretch, Want,
        },
    },
    segment::{BatchBuilder, FrameParts},
};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// The tables of the page whose first columns are offset and size, in order.
fn tables() -> Vec<Vec<(usize, usize)>> {
    let page = fs::read_to_string(root().join("docs/FORMAT.md")).unwrap();
    let mut tables = Vec::new();
    let mut open = false;
    for line in page.lines() {
        if line.starts_with("| offset | size |") {
            tables.push(Vec::new());
            open = true;
        } else if !line.starts_with('|') {
            open = false;
        } else if open && !line.starts_with("|---") {
            let cells: Vec<_> = line.split('|').map(str::trim).collect();
            let row = (cells[1].parse().unwrap(), cells[2].parse().unwrap());
            tables.last_mut().unwrap().push(row);
        }
    }
    tables
}

#[test]
fn the_page_has_the_offsets_of_the_structs() {
    let tables = tables();
    let layouts = layouts();
    for (layout, table) in layouts.iter().zip(&tables) {
        println!("{}", layout.name);
        for f in layout.fields {
            println!("  {:5} {:5} {}", f.offset, f.size, f.name);
        }
        let fields: Vec<_> = layout.fields.iter().map(|f| (f.offset, f.size)).collect();
        assert_eq!(&fields, table, "{}", layout.name);
    }
    assert_eq!(layouts.len(), tables.len());
}

/// Compares with the bytes kept under `tests/data/`; `SEGFS_UPDATE_GOLDEN=1` writes them.
fn golden(name: &str, bytes: &[u8]) {
    let path = root().join("tests/data").join(name);
    if std::env::var_os("SEGFS_UPDATE_GOLDEN").is_some() {
        fs::write(&path, bytes).unwrap();
    }
    let kept = fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let differs = bytes.iter().zip(&kept).position(|(a, b)| a != b);
    assert!(
        differs.is_none() && kept.len() == bytes.len(),
        "{name}: differs at {differs:?}, lengths {} and {}",
        bytes.len(),
        kept.len()
    );
}

fn head(payload: &Prepared) -> BodyHeader {
    BodyHeader {
        object: ObjectId::new(0x0102_0304_0506_0708_090a_0b0c_0d0e_0f10),
        origin: Origin { store: StoreId::new(0x11), incarnation: Incarnation::new(0x22), seq: 0x33 },
        stamp: 0x44,
        arg: 0x55,
        raw_len: payload.raw_len(),
        raw_crc: payload.raw_crc(),
        branch: 0x66,
    }
}

fn one(kind: Kind, payload: &Prepared) -> Vec<u8> {
    let seed = Seed::of(0x0123_4567_89ab_cdef);
    let mut b = BatchBuilder::new(SegmentId::new(7), seed, 8192, Lsn::new(100));
    let parts = FrameParts {
        kind,
        flags: 4,
        lsn: Lsn::new(100),
        ino: Ino::new(9),
        head: kind.has_body_header().then(|| head(payload)),
        payload,
    };
    b.push(&parts, true);
    b.close(Lsn::new(99), 0x77).pieces().concat()
}

#[test]
fn golden_bytes() {
    let superblock =
        Superblock { store: StoreId::new(0x11), created_ns: 0x22, generation: 3, ..Superblock::default() };
    golden("superblock.bin", &superblock.encode());
    let header = SegmentHeader {
        store: StoreId::new(0x11),
        segment: SegmentId::new(7),
        salt: 0x0123_4567_89ab_cdef,
        first_lsn: Lsn::new(100),
        predecessor: Some(SegmentId::new(6)),
        predecessor_end: 12288,
        capacity: 1 << 20,
        created_ns: 0x22,
        incarnation: Incarnation::new(0x33),
        durable_lsn: Lsn::new(99),
    };
    golden("segment_header.bin", &header.encode());
    let bytes: Vec<u8> = (0..20_000_u32).map(|i| (i * i / 7) as u8).collect();
    golden("extent_pieces.bin", &one(Kind::Extent, &Prepared::extent(bytes.clone(), false)));
    golden("extent_small.bin", &one(Kind::Extent, &Prepared::extent(bytes[..100].to_vec(), false)));
    golden("operation.bin", &one(Kind::Operation, &Prepared::record(bytes[..200].to_vec())));
    golden("base.bin", &one(Kind::Base, &Prepared::record(bytes[..300].to_vec())));
    let mut footer = FooterBuilder::new(Lsn::new(100));
    for (lsn, offset, flags) in [(100, 4096, 0), (40, 70_000, 1), (101, 70_200, 2)] {
        footer.push(&Entry {
            kind: Kind::Extent,
            flags,
            lsn: Lsn::new(lsn),
            offset,
            stored_len: 1000,
            raw_len: 100_000,
            ino: Ino::new(9),
        });
    }
    golden("footer.bin", &footer.payload());
    let trailer = Trailer {
        segment: SegmentId::new(7),
        offset: 73_728,
        first_lsn: Lsn::new(100),
        last_lsn: Lsn::new(101),
        durable_lsn: Lsn::new(101),
        frame_len: 128,
        records: 3,
    };
    golden("trailer.bin", &trailer.encode(header.seed()));
}

/// One message of each kind.
fn messages() -> Vec<Message> {
    let origin = Origin { store: StoreId::new(0x11), incarnation: Incarnation::new(0x22), seq: 0x33 };
    let id = ExtentId { store: origin.store, incarnation: origin.incarnation, sequence: 300 };
    let version = VersionId::new(0x0102_0304_0506_0708_090a_0b0c_0d0e_0f10);
    let range = |offset, source| Range { offset, len: 4096, source };
    let content = ContentHead {
        object: ObjectId::new(0x44),
        version,
        base: Some(VersionId::new(0x55)),
        hash: Some([0x66; 32]),
        ranges: 2,
    };
    vec![
        Message::Hello(Hello { magic: MAGIC, oldest: 1, newest: 0x102 }),
        Message::Epoch(Epoch { number: 7, store: origin.store }),
        Message::Identity(Identity {
            store: origin.store,
            incarnation: origin.incarnation,
            wall_ns: 1 << 60,
        }),
        Message::Grants(vec![Grant { path: b"photos".to_vec(), read: true, write: false, asks: true }]),
        Message::Knowledge(vec![Stretch { last: 0x1_0000, ..Stretch::one(&origin) }], true),
        Message::Facts(Facts {
            origin,
            stamp: 1 << 60,
            object: content.object,
            facts: b"facts".to_vec(),
            contents: vec![content],
        }),
        Message::Ranges(origin, version, vec![range(0, Source::Extent(id, 5)), range(1 << 40, Source::Hole)]),
        Message::Held(vec![Stretch::one(&origin)]),
        Message::Failed(origin, Reason::NoSpace),
        Message::SoFar,
        Message::Want(Want { request: 1, version, range: 70_000, page: 3 }),
        Message::Extent(ExtentHead {
            request: 1,
            id,
            codec: Codec::Zstd,
            stored_len: 100,
            raw_len: 4096,
            raw_crc: 0x7777_7777,
            hash: [0x88; 32],
        }),
        Message::Data(1, b"bytes".to_vec()),
        Message::Unavailable(1, Reason::Unreadable),
        Message::Ping(9),
        Message::Pong(9),
        Message::Bye(Bye::Done),
        Message::Told(Facts {
            origin: Origin::page(origin.store, 3),
            stamp: 0,
            object: ObjectId::ROOT,
            facts: b"page".to_vec(),
            contents: Vec::new(),
        }),
        Message::Lack(Lack { number: 4, version, bases: vec![VersionId::new(0x55)], from: (6, 7) }),
        Message::Supply(Facts {
            origin: Origin::supply(origin.store, 4),
            stamp: 0,
            object: content.object,
            facts: b"supplied".to_vec(),
            contents: vec![content],
        }),
        Message::NoSupply(4),
    ]
}

#[test]
fn golden_messages() {
    let sent = messages();
    golden("wire.bin", &sent.iter().flat_map(Message::frame).collect::<Vec<_>>());
    let mut splitter = Splitter::default();
    splitter.push(&fs::read(root().join("tests/data/wire.bin")).unwrap());
    let mut read = Vec::new();
    while let Some(message) = splitter.next_message().unwrap() {
        read.push(message);
    }
    assert_eq!(read, sent);
    // Each kind is there, by its number on the wire, and the page names it.
    let page = fs::read_to_string(root().join("docs/PROTOCOL.md")).unwrap();
    for (n, message) in sent.iter().enumerate() {
        assert_eq!(message.frame()[8], n as u8, "{message:?}");
        let name = format!("{message:?}");
        let name = name.split(['(', ' ']).next().unwrap();
        assert!(page.contains(&format!("`{name}`")), "docs/PROTOCOL.md does not tell of {name}");
    }
    assert!(Message::decode(&[sent.len() as u8, 0, 0, 0]).is_err(), "a kind has no golden bytes");
}
