//! What a parcel of another store may say. Whoever sends it may be hostile: everything is checked before any of it
//! reaches the log.

use crate::{
    base::{Error, LinkId, ObjectId, Result, limits},
    format::facts::{Changes, Fact, Lineage, ObjectKind, Source, Version},
};

use super::{
    exchange::{Parcel, Supply},
    ops::{check_name, created_of},
};

/// Checks a parcel on its own.
///
/// # Errors
/// [`Error::BadRequest`] that says what no store would send.
pub(super) fn check(parcel: &Parcel, facts: &[Fact], now_ns: u64) -> Result<()> {
    let latest = now_ns.saturating_add(limits::AHEAD_NS);
    let found = if !(1..limits::COUNTER).contains(&parcel.origin.seq) || facts.is_empty() {
        Some("they have no number that can be, or there are none")
    } else if parcel.facts.len() > limits::RECORD_BYTES / 2 {
        Some("too many for one record")
    } else if parcel.stamp > latest {
        Some("stamped more than a day ahead; is that host's clock right?")
    } else {
        facts.iter().find_map(|f| wrong_fact(f, latest)).or_else(|| wrong_contents(parcel, facts))
    };
    match found {
        Some(why) => Err(Error::BadRequest(format!("facts {:?}: {why}", parcel.origin))),
        None => Ok(()),
    }
}

fn wrong_fact(fact: &Fact, latest: u64) -> Option<&'static str> {
    match fact {
        Fact::Create(c) => wrong_object(c.object)
            .or((c.kind == ObjectKind::Unknown).then_some("an object of no kind"))
            .or((c.target.len() > limits::SYMLINK_BYTES).then_some("a symlink's target is too long"))
            .or((c.mode > 0o7777).then_some("mode bits that do not exist")),
        Fact::Link(l) => wrong_link(l.link, l.object, &l.name)
            .or(l.continues.as_ref().and_then(wrong_lineage))
            .or(l.left.as_ref().and_then(|left| wrong_lineage(&left.lineage)))
            .or(l
                .left
                .as_ref()
                .is_some_and(|left| check_name(&left.name).is_err())
                .then_some("a name that no file can have")),
        Fact::Gone(g) => wrong_link(g.link, g.object, &g.name)
            .or(g.lineage.as_ref().and_then(wrong_lineage))
            .or((!g.saw.is_sorted()).then_some("a version vector out of order")),
        Fact::Mode(_, mode) => (*mode > 0o7777).then_some("mode bits that do not exist"),
        Fact::Modified(_, t) => (t.nanos >= 1_000_000_000).then_some("a time that does not exist"),
        Fact::Xattr(_, name, value) => {
            let bad = name.is_empty()
                || name.len() > limits::XATTR_NAME_BYTES
                || name.contains(&0)
                || value.as_ref().is_some_and(|v| v.len() > limits::XATTR_BYTES);
            bad.then_some("an extended attribute that can't be")
        }
        Fact::Version(v) => wrong_version(v, latest),
        Fact::Alias(from, to) => {
            wrong_object(*from).or((from == to).then_some("a directory that is another name for itself"))
        }
        Fact::Tag(name, _) => check_name(name).is_err().then_some("a tag that can't be"),
        Fact::Owner(..) | Fact::Retain(..) | Fact::Hold(..) => None,
        _ => Some("a fact that never leaves its store"),
    }
}

fn wrong_object(object: ObjectId) -> Option<&'static str> {
    (object == ObjectId::ROOT).then_some("the root is nobody's to make, move or rename")
}

fn wrong_link(link: LinkId, object: ObjectId, name: &[u8]) -> Option<&'static str> {
    wrong_object(object)
        .or((link == LinkId::primary(ObjectId::ROOT)).then_some("the root has no link"))
        .or(check_name(name).is_err().then_some("a name that no file can have"))
}

fn wrong_lineage(l: &Lineage) -> Option<&'static str> {
    let bad = l.before() > l.versions || l.versions >= limits::COUNTER;
    wrong_object(l.object).or(bad.then_some("a history that can't be"))
}

fn wrong_version(v: &Version, latest: u64) -> Option<&'static str> {
    if created_of(v.id) != Some(v.created_ns) {
        return Some("a version id that contradicts its creation time");
    }
    if v.created_ns > latest || v.changed_ns > latest {
        return Some("a version made more than a day ahead; is that host's clock right?");
    }
    let counters = v.vector.iter().any(|(_, _, n)| n >= limits::COUNTER)
        || v.vector.number() > v.created_ns / limits::VERSION_NS
        || !v.vector.is_sorted();
    let bad = v.size > limits::FILE_BYTES
        || v.mode > 0o7777
        || v.modified.nanos >= 1_000_000_000
        || v.links.len() > limits::VERSION_LINKS
        || v.vector.is_empty()
        || counters;
    bad.then_some("a version that can't be")
}

/// What is wrong with a fact that an index tells.
pub(super) fn wrong_told(fact: &Fact, latest: u64) -> Option<&'static str> {
    match fact {
        Fact::Touched(_) => None,
        Fact::Marked(m) => check_name(&m.name)
            .is_err()
            .then_some("a marker that can't be")
            .or(wrong_object(m.child))
            .or(wrong_lineage(&m.lineage)),
        Fact::Continued(l) => wrong_lineage(l),
        // Of the root the attributes are told like those of any other; it is nobody's to make all the same.
        fact => wrong_fact(fact, latest),
    }
}

/// Can this be the content of that version?
pub(super) fn is_content_of(content: &Changes, v: &Version) -> bool {
    (content.object, content.version) == (v.object, v.id)
        && content.base != Some(v.id)
        && fits(content, v.size)
}

/// What is wrong with a supply on its own.
pub(super) fn wrong_supply(page: &Supply, now_ns: u64) -> Option<&'static str> {
    let latest = now_ns.saturating_add(limits::AHEAD_NS);
    let v = &page.version;
    let content = Changes { object: v.object, version: v.id, base: page.base, ranges: page.ranges.clone() };
    wrong_version(v, latest)
        .or((page.stamp > latest).then_some("stamped more than a day ahead; is that host's clock right?"))
        .or((!is_content_of(&content, v)).then_some("a content that is not of its version"))
}

/// Each content has its version, a version at most one content, and no object more than one version.
fn wrong_contents(parcel: &Parcel, facts: &[Fact]) -> Option<&'static str> {
    let versions: Vec<&Version> =
        facts.iter().filter_map(|f| if let Fact::Version(v) = f { Some(v) } else { None }).collect();
    for (n, v) in versions.iter().enumerate() {
        if v.vector.get(parcel.origin.store, parcel.origin.incarnation) == 0 {
            return Some("a version that does not name its maker");
        }
        if versions[..n].iter().any(|o| o.object == v.object || o.id == v.id) {
            return Some("two versions of one object");
        }
        let of: Vec<_> = parcel.contents.iter().filter(|c| c.version == v.id).collect();
        let content = match of[..] {
            [] => continue,
            [content] => content,
            _ => return Some("a version with two contents"),
        };
        if !is_content_of(content, v) {
            return Some("a content that is not of its version");
        }
    }
    let belongs = |c: &Changes| versions.iter().any(|v| v.id == c.version);
    (!parcel.contents.iter().all(belongs)).then_some("a content without its version")
}

fn fits(content: &Changes, size: u64) -> bool {
    content.ranges.iter().all(|r| {
        let end = r.offset.checked_add(r.len);
        let within = match r.source {
            Source::Hole => end.is_some(),
            Source::Extent(..) => r.len <= limits::EXTENT_BYTES as u64 && end.is_some_and(|e| e <= size),
        };
        r.len > 0 && within
    })
}
