//! Records and facts in words: as JSON, and as text with the same fields in the same order.

use segfs::{
    base::{Incarnation, LinkId, ObjectId, StoreId},
    format::{
        BodyHeader, Kind,
        facts::{Fact, Lineage, LocalRange, ObjectKind, Owner, Time, Version, VersionVector},
        wire::Stretch,
    },
};
use serde_json::{Map, Value, json};

use segfs::console::{hex, time};

/// The word for a kind of record.
pub fn kind(k: Kind) -> &'static str {
    match k {
        Kind::Extent => "extent",
        Kind::Operation => "operation",
        Kind::Base => "base",
        Kind::BatchEnd => "batch",
        Kind::Footer => "footer",
    }
}

fn object_kind(k: ObjectKind) -> &'static str {
    match k {
        ObjectKind::Unknown => "unknown",
        ObjectKind::File => "file",
        ObjectKind::Directory => "directory",
        ObjectKind::Symlink => "symlink",
        ObjectKind::Fifo => "fifo",
        ObjectKind::Socket => "socket",
        ObjectKind::CharDevice => "char device",
        ObjectKind::BlockDevice => "block device",
    }
}

/// Bytes of a name: as they are if they are text, else with escapes.
fn name(bytes: &[u8]) -> String {
    std::str::from_utf8(bytes).map_or_else(|_| bytes.escape_ascii().to_string(), str::to_owned)
}

fn id(o: ObjectId) -> String {
    o.to_string()
}

fn link(l: LinkId) -> String {
    l.to_string()
}

fn when(t: Time) -> Value {
    json!({"seconds": t.seconds, "nanos": t.nanos})
}

fn owner(o: Owner) -> String {
    format!("{}:{}", o.uid, o.gid)
}

fn vector(v: &VersionVector) -> Value {
    let entry = |(store, incarnation, n): (StoreId, Incarnation, u64)| {
        (format!("{store}/{:016x}", incarnation.get()), json!(n))
    };
    v.iter().map(entry).collect::<Map<_, _>>().into()
}

fn lineage(l: Option<Lineage>) -> Value {
    l.map_or(Value::Null, |l| {
        let version = l.version.map(|v| v.to_string());
        json!({
            "object": id(l.object), "version": version, "versions": l.versions, "before": l.before(),
            "earlier": l.earlier.map(|e| e.lineage.to_string()),
        })
    })
}

/// The portable head of a record.
pub fn head(h: &BodyHeader, kind: Kind, fields: &mut Map<String, Value>) {
    let mut put = |k: &str, v: Value| drop(fields.insert(k.into(), v));
    put("object", json!(id(h.object)));
    put("origin", json!(h.origin.store.to_string()));
    put("incarnation", json!(format!("{:016x}", h.origin.incarnation.get())));
    put("sequence", json!(h.origin.seq));
    put("stamp", json!(time(h.stamp)));
    put("stamp_ns", json!(h.stamp));
    if kind == Kind::Extent {
        put("file_offset", json!(h.arg));
    }
}

/// A fact: its name in `fact`, and its fields.
pub fn fact(f: &Fact) -> Value {
    match f {
        Fact::Create(c) => json!({
            "fact": "create", "object": id(c.object), "kind": object_kind(c.kind),
            "mode": format!("{:04o}", c.mode), "owner": owner(c.owner), "device": c.device,
            "target": name(&c.target),
        }),
        Fact::Link(l) => json!({
            "fact": "link", "link": link(l.link), "parent": id(l.parent), "name": name(&l.name),
            "object": id(l.object), "continues": lineage(l.continues),
            "left": l.left.as_ref().map(|left| json!({
                "parent": id(left.parent), "name": name(&left.name), "history": lineage(Some(left.lineage)),
            })),
        }),
        Fact::Gone(g) => json!({
            "fact": "gone", "link": link(g.link), "parent": id(g.parent), "name": name(&g.name),
            "object": id(g.object), "saw": vector(&g.saw), "marker": g.marker.map(|m| m.to_string()),
            "history": lineage(g.lineage),
        }),
        Fact::Mode(o, m) => json!({"fact": "mode", "object": id(*o), "mode": format!("{m:04o}")}),
        Fact::Owner(o, w) => json!({"fact": "owner", "object": id(*o), "owner": owner(*w)}),
        Fact::Modified(o, t) => json!({"fact": "modified", "object": id(*o), "time": when(*t)}),
        Fact::Xattr(o, n, v) => json!({
            "fact": "xattr", "object": id(*o), "name": name(n), "value": v.as_ref().map(|v| hex(v)),
        }),
        Fact::Version(v) => version(v),
        Fact::Alias(from, to) => json!({"fact": "alias", "object": id(*from), "to": id(*to)}),
        Fact::Adopted(these) => stretches("adopted", these),
        Fact::Tag(n, moment) => json!({"fact": "tag", "name": name(n), "moment_ns": moment}),
        Fact::Retain(o, v, lock, saw) => json!({
            "fact": "retain", "object": id(*o), "version": v.to_string(), "mode": lock.mode,
            "until_ns": lock.until_ns, "saw": seen(saw),
        }),
        Fact::Hold(o, v, on, saw) => {
            json!({"fact": "hold", "object": id(*o), "version": v.to_string(), "on": on, "saw": seen(saw)})
        }
        local => local_fact(local),
    }
}

fn seen(saw: &[(segfs::base::StoreId, u64)]) -> Value {
    saw.iter().map(|(store, stamp)| json!({"store": store.to_string(), "stamp_ns": stamp})).collect()
}

fn version(v: &Version) -> Value {
    json!({
        "fact": "version", "version": v.id.to_string(), "object": id(v.object), "vector": vector(&v.vector),
        "parents": v.parents.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "created": time(v.created_ns), "created_ns": v.created_ns, "size": v.size,
        "modified": when(v.modified), "changed_ns": v.changed_ns, "mode": format!("{:04o}", v.mode), "owner": owner(v.owner),
        "hash": v.hash.map(|h| hex(&h)), "flags": v.flags,
        "links": v.links.iter().map(|l| link(*l)).collect::<Vec<_>>(),
    })
}

fn stretches(fact: &str, these: &[Stretch]) -> Value {
    let each = these.iter().map(|s| {
        json!({"store": s.store.to_string(), "incarnation": s.incarnation.get(), "first": s.first, "last": s.last})
    });
    json!({"fact": fact, "batches": each.collect::<Vec<_>>()})
}

/// Those that never cross to another store.
fn local_fact(f: &Fact) -> Value {
    match f {
        Fact::Inode(o, ino) => json!({"fact": "inode", "object": id(*o), "inode": ino.get()}),
        Fact::StoreNumber(n, store) => {
            json!({"fact": "store number", "number": n, "store": store.to_string()})
        }
        Fact::Size(o, size) => json!({"fact": "size", "object": id(*o), "size": size}),
        Fact::Punch(o, offset, len) => {
            json!({"fact": "punch", "object": id(*o), "offset": offset, "length": len})
        }
        Fact::Place(o, placed) => json!({
            "fact": "place", "object": id(*o),
            "ranges": placed.iter().map(|p| json!({
                "offset": p.offset, "length": p.len, "extent": p.extent.get(), "skip": p.skip,
            })).collect::<Vec<_>>(),
        }),
        Fact::Accessed(o, t) => json!({"fact": "accessed", "object": id(*o), "time": when(*t)}),
        Fact::Changes(c) => json!({
            "fact": "changes", "object": id(c.object), "version": c.version.to_string(), "part": c.part,
            "base": c.base.map(|b| b.to_string()),
            "ranges": c.ranges.iter().map(|LocalRange { offset, len, source: at }| json!({
                "offset": offset, "length": len, "extent": at.map(|a| a.0.get()), "skip": at.map(|a| a.2),
            })).collect::<Vec<_>>(),
        }),
        Fact::Ready(o, v) => json!({"fact": "ready", "object": id(*o), "version": v.to_string()}),
        Fact::NoTwin(o) => json!({"fact": "no twin", "object": id(*o)}),
        Fact::Reap(o) => json!({"fact": "reap", "object": id(*o)}),
        Fact::Hash(o, v, h) => {
            json!({"fact": "hash", "object": id(*o), "version": v.to_string(), "hash": h.as_ref().map(|h| hex(h))})
        }
        Fact::Cleaned(gone) => {
            json!({"fact": "cleaned", "gone": gone.iter().map(|e| e.get()).collect::<Vec<_>>()})
        }
        Fact::Unnamed(names) => json!({
            "fact": "unnamed",
            "extents": names.iter().map(|e| json!({
                "store": e.store.to_string(), "incarnation": e.incarnation.get(), "sequence": e.sequence,
            })).collect::<Vec<_>>(),
        }),
        Fact::Removed(o, v) => json!({"fact": "removed", "object": id(*o), "version": v.to_string()}),
        Fact::Trimmed(o) => json!({"fact": "trimmed", "object": id(*o)}),
        Fact::Clock(ns) => json!({"fact": "clock", "time": time(*ns), "time_ns": ns}),
        Fact::Repacked(places) => json!({
            "fact": "repacked",
            "places": places.iter().map(|r| json!({
                "inode": r.ino.get(), "branch": r.branch, "chunk": r.chunk, "since_lsn": r.since.get(),
                "extent": r.old.get(), "skip": r.skip, "length": r.len, "new": r.new.get(), "to": r.to,
            })).collect::<Vec<_>>(),
        }),
        Fact::MovesForgotten(before) => {
            json!({"fact": "moves forgotten", "before": time(*before), "before_ns": before})
        }
        told => told_fact(told),
    }
}

/// What came of another store without being said by a record of it.
fn told_fact(f: &Fact) -> Value {
    match f {
        Fact::Without(o, v, declined) => json!({
            "fact": "without content", "object": id(*o), "version": v.to_string(), "declined": declined,
        }),
        Fact::Told(t) => json!({
            "fact": "told", "stamp": time(t.hlc), "stamp_ns": t.hlc, "store": t.store.to_string(),
            "incarnation": t.incarnation.get(), "part": t.part,
            "what": segfs::format::code::decode::<Fact>(&t.fact).map_or(Value::Null, |f| fact(&f)),
        }),
        Fact::Touched(o) => json!({"fact": "touched", "object": id(*o)}),
        Fact::Marked(m) => json!({
            "fact": "marked", "directory": id(m.dir), "name": name(&m.name), "object": id(m.child),
            "marker": m.id.to_string(), "moved": m.moved, "history": lineage(Some(m.lineage)),
        }),
        Fact::Continued(l) => json!({"fact": "continued", "history": lineage(Some(*l))}),
        Fact::Filled(these) => stretches("filled", these),
        Fact::Owed(these) => stretches("owed", these),
        Fact::Adopted(these) => stretches("adopted", these),
        Fact::Supplied(v, stamp, maker) => json!({
            "fact": "supplied", "object": id(v.object), "version": v.id.to_string(), "stamp_ns": stamp,
            "store": maker.to_string(),
        }),
        Fact::Create(_) | Fact::Link(_) | Fact::Gone(_) | Fact::Mode(..) | Fact::Owner(..) => Value::Null,
        Fact::Modified(..) | Fact::Xattr(..) | Fact::Version(_) | Fact::Alias(..) => Value::Null,
        Fact::Tag(..) | Fact::Retain(..) | Fact::Hold(..) => Value::Null,
        Fact::Inode(..) | Fact::StoreNumber(..) | Fact::Size(..) | Fact::Punch(..) | Fact::Place(..) => {
            Value::Null
        }
        Fact::Accessed(..) | Fact::Changes(_) | Fact::Ready(..) | Fact::NoTwin(_) | Fact::Reap(_) => {
            Value::Null
        }
        Fact::Hash(..) | Fact::Cleaned(_) | Fact::Unnamed(_) | Fact::Removed(..) | Fact::Trimmed(_) => {
            Value::Null
        }
        Fact::Clock(_) | Fact::MovesForgotten(_) | Fact::Repacked(_) => Value::Null,
    }
}

/// The objects that a fact concerns.
pub fn objects(f: &Fact) -> Vec<ObjectId> {
    match f {
        Fact::Create(c) => vec![c.object],
        Fact::Link(l) => vec![l.parent, l.object],
        Fact::Gone(g) => vec![g.parent, g.object],
        Fact::Version(v) => vec![v.object],
        Fact::Supplied(v, ..) => vec![v.object],
        Fact::Told(t) => segfs::format::code::decode::<Fact>(&t.fact).map_or(Vec::new(), |f| objects(&f)),
        Fact::Touched(o) | Fact::Trimmed(o) => vec![*o],
        Fact::Marked(m) => vec![m.dir, m.child],
        Fact::Continued(_) | Fact::Filled(_) | Fact::Owed(_) | Fact::Adopted(_) => Vec::new(),
        Fact::Changes(c) => vec![c.object],
        Fact::Alias(a, b) => vec![*a, *b],
        Fact::Tag(..)
        | Fact::StoreNumber(..)
        | Fact::Cleaned(_)
        | Fact::Unnamed(_)
        | Fact::Clock(_)
        | Fact::Repacked(_)
        | Fact::MovesForgotten(_) => Vec::new(),
        Fact::Mode(o, _)
        | Fact::Owner(o, _)
        | Fact::Modified(o, _)
        | Fact::Xattr(o, ..)
        | Fact::Retain(o, ..)
        | Fact::Hold(o, ..)
        | Fact::Inode(o, _)
        | Fact::Size(o, _)
        | Fact::Punch(o, ..)
        | Fact::Place(o, _)
        | Fact::Accessed(o, _)
        | Fact::Ready(o, _)
        | Fact::NoTwin(o)
        | Fact::Reap(o)
        | Fact::Hash(o, ..)
        | Fact::Removed(o, _)
        | Fact::Without(o, ..) => vec![*o],
    }
}

/// The fields of a record on one line.
pub fn text(fields: &Map<String, Value>) -> String {
    let mut line = String::new();
    for (k, v) in fields {
        // Times are there twice for programs; a person needs one of them.
        if v.is_null() || k.ends_with("_ns") {
            continue;
        }
        if !line.is_empty() {
            line.push(' ');
        }
        match (k.as_str(), v) {
            ("facts", Value::Array(facts)) => {
                let facts: Vec<String> = facts.iter().filter_map(Value::as_object).map(text).collect();
                line.push_str(&format!("| {}", facts.join(" | ")));
            }
            ("kind", Value::String(s)) | ("fact", Value::String(s)) => line.push_str(s),
            (_, Value::Bool(true)) => line.push_str(k),
            (_, Value::String(s)) if s.chars().all(plain) && !s.is_empty() => {
                line.push_str(&format!("{k}={s}"));
            }
            // Quoted, with escapes for what a terminal would act on.
            (_, Value::String(s)) => line.push_str(&format!("{k}={s:?}")),
            _ => line.push_str(&format!("{k}={v}")),
        }
    }
    line
}

fn plain(c: char) -> bool {
    c.is_ascii_alphanumeric() || "-_.:/+@".contains(c)
}

#[cfg(test)]
mod tests {
    use segfs::{
        base::{Ino, LineageId, Lsn, SegmentId, VersionId},
        format::{
            Codec, Location,
            facts::{Create, Earlier, ExtentId, Gone, Left, Link, LocalChanges, Lock, Marked, Placed, Told},
            wire::Stretch,
        },
    };

    use super::*;

    fn o(n: u128) -> ObjectId {
        ObjectId::new(n)
    }

    fn v(n: u128) -> VersionId {
        VersionId::new(n)
    }

    /// One fact of each kind, no value twice, and all of its fields by name, as docs/FORMAT.md has them. Where an extent lies and
    /// where ids are written out is left out of the comparison.
    #[test]
    fn each_fact_shows_all_of_its_fields() {
        let place = Location {
            segment: SegmentId::new(82),
            offset: 83,
            stored_len: 84,
            raw_len: 85,
            codec: Codec::Raw,
        };
        let mut saw = VersionVector::default();
        saw.raise(StoreId::new(77), Incarnation::new(78), 79);
        let earlier = Some(Earlier { versions: 30, lineage: LineageId::new(86) });
        let lineage = Lineage { object: o(31), version: Some(v(32)), versions: 33, earlier };
        let left = Some(Left { parent: o(87), name: b"l".to_vec(), lineage });
        let time = Time { seconds: -34, nanos: 35 };
        let version = Version {
            id: v(41),
            object: o(42),
            vector: saw.clone(),
            parents: vec![v(43), v(44)],
            created_ns: 45,
            size: 46,
            modified: time,
            changed_ns: 47,
            mode: 0o640,
            owner: Owner { uid: 48, gid: 49 },
            hash: Some([0xab; 32]),
            flags: 3,
            links: vec![LinkId::new(50)],
        };
        let supplied = version.clone();
        let told = Told {
            hlc: 96,
            store: StoreId::new(97),
            incarnation: Incarnation::new(98),
            part: 99,
            fact: segfs::format::code::encode(&Fact::Touched(o(100))),
        };
        let marked =
            Marked { dir: o(102), name: b"m".to_vec(), id: v(103), child: o(104), lineage, moved: true };
        let stretch =
            Stretch { store: StoreId::new(105), incarnation: Incarnation::new(106), first: 109, last: 110 };
        let create = Create {
            object: o(53),
            kind: ObjectKind::BlockDevice,
            mode: 0o4755,
            owner: Owner { uid: 54, gid: 55 },
            device: 56,
            target: b"to\xff".to_vec(),
        };
        let link = Link {
            link: LinkId::new(57),
            parent: o(58),
            name: b"n".to_vec(),
            object: o(59),
            continues: Some(lineage),
            left,
        };
        let gone = Gone {
            link: LinkId::new(60),
            parent: o(61),
            name: b"g".to_vec(),
            object: o(62),
            saw,
            marker: Some(v(63)),
            lineage: Some(lineage),
        };
        let repacked = segfs::format::facts::Repacked {
            ino: Ino::new(109),
            branch: 110,
            chunk: 111,
            since: Lsn::new(112),
            old: Lsn::new(113),
            skip: 114,
            len: 115,
            new: Lsn::new(116),
            to: 117,
        };
        let placed = Placed { offset: 64, len: 65, extent: Lsn::new(66), location: place, skip: 67 };
        let range = LocalRange { offset: 68, len: 69, source: Some((Lsn::new(70), place, 71)) };
        let changes =
            LocalChanges { object: o(72), version: v(73), part: 74, base: Some(v(75)), ranges: vec![range] };
        let extent = ExtentId { store: StoreId::new(76), incarnation: Incarnation::new(80), sequence: 81 };
        let all: Vec<(Fact, &str)> = vec![
            (
                Fact::Create(create),
                "fact object kind=block.device mode=4755 owner=54:55 device=56 target=to\\xff",
            ),
            (
                Fact::Link(link),
                "fact link parent name=n object continues.object continues.version continues.versions=33 continues.before=30 continues.earlier left.parent left.name=l left.history",
            ),
            (
                Fact::Gone(gone),
                "fact link parent name=g object saw.STORE=79 marker history.object history.version history.versions=33 history.before=30 history.earlier",
            ),
            (Fact::Mode(o(1), 0o7), "fact object mode=0007"),
            (Fact::Owner(o(2), Owner { uid: 3, gid: 4 }), "fact object owner=3:4"),
            (Fact::Modified(o(5), time), "fact object time.seconds=-34 time.nanos=35"),
            (Fact::Xattr(o(6), b"user.x".to_vec(), Some(vec![1, 255])), "fact object name=user.x value=01ff"),
            (
                Fact::Version(version),
                "fact version object vector.STORE=79 parents created created_ns=45 size=46 modified.seconds=-34 modified.nanos=35 changed_ns=47 mode=0640 owner=48:49 hash flags=3 links",
            ),
            (Fact::Alias(o(7), o(8)), "fact object to"),
            (Fact::Tag(b"t".to_vec(), Some(9)), "fact name=t moment_ns=9"),
            (
                Fact::Retain(o(10), v(11), Lock { mode: 2, until_ns: 12 }, vec![(StoreId::new(88), 89)]),
                "fact object version mode=2 until_ns=12 saw",
            ),
            (Fact::Hold(o(13), v(14), true, vec![(StoreId::new(90), 91)]), "fact object version on=true saw"),
            (Fact::Inode(o(15), Ino::new(16)), "fact object inode=16"),
            (Fact::StoreNumber(17, StoreId::new(18)), "fact number=17 store"),
            (Fact::Size(o(19), 20), "fact object size=20"),
            (Fact::Punch(o(21), 22, 23), "fact object offset=22 length=23"),
            (Fact::Place(o(24), vec![placed]), "fact object ranges"),
            (Fact::Accessed(o(25), time), "fact object time.seconds=-34 time.nanos=35"),
            (Fact::Changes(changes), "fact object version part=74 base ranges"),
            (Fact::Ready(o(26), v(27)), "fact object version"),
            (Fact::NoTwin(o(28)), "fact object"),
            (Fact::Reap(o(29)), "fact object"),
            (Fact::Hash(o(30), v(36), Some([0xcd; 32])), "fact object version hash"),
            (Fact::Cleaned(vec![Lsn::new(37)]), "fact gone"),
            (Fact::Unnamed(vec![extent]), "fact extents"),
            (Fact::Removed(o(38), v(39)), "fact object version"),
            (Fact::Clock(40), "fact time time_ns=40"),
            (Fact::Without(o(92), v(93), true), "fact object version declined=true"),
            (
                Fact::Supplied(Box::new(supplied), 94, StoreId::new(95)),
                "fact object version stamp_ns=94 store",
            ),
            (
                Fact::Told(Box::new(told)),
                "fact stamp stamp_ns=96 store incarnation=98 part=99 what.fact=touched what.object",
            ),
            (Fact::Touched(o(101)), "fact object"),
            (
                Fact::Marked(Box::new(marked)),
                "fact directory name=m object marker moved=true history.object history.version history.versions=33 history.before=30 history.earlier",
            ),
            (
                Fact::Continued(lineage),
                "fact history.object history.version history.versions=33 history.before=30 history.earlier",
            ),
            (Fact::Filled(vec![stretch]), "fact batches"),
            (Fact::Owed(vec![stretch]), "fact batches"),
            (Fact::Adopted(vec![stretch]), "fact batches"),
            (Fact::Trimmed(o(107)), "fact object"),
            (Fact::MovesForgotten(108), "fact before before_ns=108"),
            (Fact::Repacked(vec![repacked]), "fact places"),
        ];
        for (f, expected) in &all {
            let shown = fact(f);
            assert_eq!(fields(&shown), *expected, "{f:?}\n{shown:#}");
            // Every id is there as it is written elsewhere.
            for object in objects(f) {
                assert!(shown.to_string().contains(&object.to_string()), "{f:?}: {shown:#}");
            }
        }
        let shown = |n: usize| fact(&all[n].0);
        assert_eq!(shown(16)["ranges"][0].to_string(), r#"{"offset":64,"length":65,"extent":66,"skip":67}"#);
        assert_eq!(shown(18)["ranges"][0].to_string(), r#"{"offset":68,"length":69,"extent":70,"skip":71}"#);
        assert_eq!(shown(7)["parents"].as_array().unwrap().len(), 2);
        assert_eq!(shown(7)["links"][0], LinkId::new(50).to_string());
        assert_eq!(shown(1)["left"]["history"]["versions"], 33);
        assert_eq!(shown(24)["extents"][0]["sequence"], 81);
        assert_eq!(shown(23)["gone"][0], 37);
        let names: std::collections::BTreeSet<String> =
            all.iter().map(|(f, _)| fact(f)["fact"].to_string()).collect();
        assert_eq!(names.len(), all.len(), "each has a name of its own");
        let line = text(shown(0).as_object().unwrap());
        assert!(line.contains("mode=4755") && line.contains("target=\"to\\\\xff\""), "{line}");
    }

    /// The names of the fields in their order, with the values of those that are plain.
    fn fields(fact: &Value) -> String {
        let mut words = Vec::new();
        for (k, v) in fact.as_object().unwrap() {
            match v {
                Value::Object(inner) => {
                    for (name, v) in inner {
                        let name = if name.contains('/') { "STORE" } else { name };
                        words.push(word(&format!("{k}.{name}"), v));
                    }
                }
                v => words.push(word(k, v)),
            }
        }
        words.join(" ")
    }

    fn word(name: &str, v: &Value) -> String {
        match v {
            Value::Number(n) => format!("{name}={n}"),
            Value::Bool(b) => format!("{name}={b}"),
            Value::String(s) if s.len() < 20 && name != "fact" => format!("{name}={}", s.replace(' ', ".")),
            _ => name.to_owned(),
        }
    }
}
