//! Records and facts in words: as JSON, and as text with the same fields in the same order.

use segfs::{
    base::{Incarnation, LinkId, ObjectId, StoreId},
    format::{
        BodyHeader, Kind,
        facts::{Fact, Lineage, LocalRange, ObjectKind, Owner, Time, Version, VersionVector},
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
        Fact::Tag(n, moment) => json!({"fact": "tag", "name": name(n), "moment_ns": moment}),
        Fact::Retain(o, v, mode, until) => json!({
            "fact": "retain", "object": id(*o), "version": v.to_string(), "mode": mode, "until_ns": until,
        }),
        Fact::Hold(o, v, on) => {
            json!({"fact": "hold", "object": id(*o), "version": v.to_string(), "on": on})
        }
        local => local_fact(local),
    }
}

fn version(v: &Version) -> Value {
    json!({
        "fact": "version", "version": v.id.to_string(), "object": id(v.object), "vector": vector(&v.vector),
        "parents": v.parents.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "created": time(v.created_ns), "created_ns": v.created_ns, "size": v.size,
        "modified": when(v.modified), "mode": format!("{:04o}", v.mode), "owner": owner(v.owner),
        "hash": v.hash.map(|h| hex(&h)), "flags": v.flags,
        "links": v.links.iter().map(|l| link(*l)).collect::<Vec<_>>(),
    })
}

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
                "offset": offset, "length": len, "extent": at.map(|a| a.0.get()),
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
        Fact::Clock(ns) => json!({"fact": "clock", "time": time(*ns), "time_ns": ns}),
        _ => Value::Null,
    }
}

/// The objects that a fact concerns.
pub fn objects(f: &Fact) -> Vec<ObjectId> {
    match f {
        Fact::Create(c) => vec![c.object],
        Fact::Link(l) => vec![l.parent, l.object],
        Fact::Gone(g) => vec![g.parent, g.object],
        Fact::Version(v) => vec![v.object],
        Fact::Changes(c) => vec![c.object],
        Fact::Alias(a, b) => vec![*a, *b],
        Fact::Tag(..) | Fact::StoreNumber(..) | Fact::Cleaned(_) | Fact::Unnamed(_) | Fact::Clock(_) => {
            Vec::new()
        }
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
        | Fact::Removed(o, _) => vec![*o],
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
