//! `segtool dump`.

use segfs::{
    base::{Error, Ino, ObjectId},
    console::{DAMAGE, Failure, NOT_FOUND, Output, Progress, hex, time},
    format::{self, code, facts::Fact, flags},
    segment::{Batch, Found, ScannedFrame},
    store::inspect::Inspection,
};
use serde_json::{Map, Value, json};

use crate::{
    args::{Dump, Kind, Lsns, Object, Payload},
    describe, held,
};

/// Prints the records of a segment.
pub fn run(dump: &Dump, out: &mut Output) -> Result<(), Failure> {
    let _hold = held::hold(&dump.store);
    let inspection = Inspection::open(&dump.store).map_err(|e| Failure::of_store(&e, &dump.store))?;
    let done = run_on(&inspection, dump, out);
    // What of it was printed was read while it was there, or fails its checks.
    let is_gone = || inspection.has_moved_on().unwrap_or(false);
    done.map_err(|failure| if is_gone() { held::moved_on(&dump.store) } else { failure })
}

fn run_on(inspection: &Inspection, dump: &Dump, out: &mut Output) -> Result<(), Failure> {
    let of = |e| Failure::of_store(&e, &dump.store);
    let Some(s) = inspection.log().segment(dump.segment) else {
        return Err(Failure::new(
            NOT_FOUND,
            format!("there is no segment {}", dump.segment),
            format!("the store has {} segments", inspection.log().segments.len()),
            format!("segtool segments {}", dump.store.display()),
        ));
    };
    let mut scan = inspection.log().scan(s.id).map_err(of)?;
    let progress = Progress::new("reading the segment", out.json);
    let mut damages = 0;
    while let Some(found) = scan.next_found() {
        progress.tell(scan.end(), s.used_bytes);
        match found {
            Found::Batch(batch) => damages += print_batch(inspection, dump, &batch, out)?,
            Found::Damage { offset, why, .. } => {
                damages += 1;
                let (lsn, why) = (Value::Null, why.0);
                emit(out, &object([("offset", json!(offset)), ("lsn", lsn), ("damage", json!(why))]))?;
            }
        }
    }
    if damages == 0 {
        return Ok(());
    }
    Err(Failure::new(
        DAMAGE,
        format!("segment {} is damaged", s.id),
        format!("{damages} places in it fail their checks"),
        format!("segtool verify {}", dump.store.display()),
    ))
}

fn object<const N: usize>(fields: [(&str, Value); N]) -> Map<String, Value> {
    fields.into_iter().map(|(k, v)| (k.to_owned(), v)).collect()
}

/// Prints a record: as JSON, or its fields in the same order.
fn emit(out: &mut Output, fields: &Map<String, Value>) -> Result<(), Failure> {
    if out.json { out.value(&Value::Object(fields.clone())) } else { out.line(&describe::text(fields)) }
}

fn print_batch(i: &Inspection, dump: &Dump, batch: &Batch, out: &mut Output) -> Result<u64, Failure> {
    let mut damages = 0;
    for f in &batch.frames {
        damages += u64::from(f.wrong.is_some());
        let (fields, facts) = record(i, dump, f)?;
        if matches(dump, f, &facts) {
            emit(out, &fields)?;
        }
    }
    if let Some(c) = batch.closing.filter(|_| dump.kind == Some(Kind::Batch)) {
        let wanted = dump.lsn.is_none_or(|Lsns(a, b)| c.last_lsn >= a && c.first_lsn <= b);
        if wanted && dump.object.is_none() {
            emit(
                out,
                &object([
                    ("lsn", json!(c.last_lsn.get())),
                    ("offset", json!(c.begin)),
                    ("kind", json!("batch")),
                    ("end", json!(batch.end)),
                    ("first_lsn", json!(c.first_lsn.get())),
                    ("durable_lsn", json!(c.durable_lsn.get())),
                    ("records", json!(c.count)),
                    ("whole", json!(batch.is_whole())),
                    ("time", json!(time(c.wall_ns))),
                    ("time_ns", json!(c.wall_ns)),
                ]),
            )?;
        }
    }
    Ok(damages)
}

fn kind_of(k: format::Kind) -> Kind {
    match k {
        format::Kind::Extent => Kind::Extent,
        format::Kind::Operation => Kind::Operation,
        format::Kind::Base => Kind::Base,
        format::Kind::BatchEnd => Kind::Batch,
        format::Kind::Footer => Kind::Footer,
    }
}

fn matches(dump: &Dump, f: &ScannedFrame, facts: &[Fact]) -> bool {
    let e = &f.envelope;
    let of_kind = dump.kind.map_or(e.kind.is_record(), |k| k == kind_of(e.kind));
    let in_range = dump.lsn.is_none_or(|Lsns(a, b)| (a..=b).contains(&e.lsn));
    let about = dump.object.is_none_or(|o| {
        let named = |id: ObjectId| match o {
            Object::Id(wanted) => id == wanted,
            // Ids made here say their inode number; of others, the envelope does.
            Object::Ino(ino) => e.flags & flags::FOREIGN == 0 && id.parts().1 == ino,
        };
        let by_envelope = match o {
            Object::Ino(ino) => e.ino == ino && ino != Ino::new(0),
            Object::Id(id) => f.head.is_some_and(|h| h.object == id),
        };
        by_envelope || facts.iter().flat_map(describe::objects).any(named)
    });
    of_kind && in_range && about
}

fn record(i: &Inspection, dump: &Dump, f: &ScannedFrame) -> Result<(Map<String, Value>, Vec<Fact>), Failure> {
    let e = &f.envelope;
    let mut fields = object([
        ("lsn", json!(e.lsn.get())),
        ("offset", json!(e.offset)),
        ("kind", json!(describe::kind(e.kind))),
    ]);
    let mut flag = |bit, word: &str| {
        if e.flags & bit != 0 {
            fields.insert(word.into(), json!(true));
        }
    };
    flag(flags::MOVED, "moved");
    flag(flags::FOREIGN, "foreign");
    flag(flags::DETACHED, "detached");
    flag(flags::GIVES_UP, "gives_up");
    if e.ino != Ino::new(0) {
        fields.insert("inode".into(), json!(e.ino.get()));
    }
    if let Some(h) = &f.head {
        describe::head(h, e.kind, &mut fields);
    }
    fields.insert("stored_bytes".into(), json!(e.payload_len));
    fields.insert("raw_bytes".into(), json!(f.raw_len));
    let mut facts = Vec::new();
    if let Some(why) = f.wrong {
        fields.insert("damage".into(), json!(why.0));
        return Ok((fields, facts));
    }
    let decode = e.kind == format::Kind::Operation;
    if decode || dump.payload.is_some() {
        let read = i.log().read_record(&f.location());
        let payload = match read {
            Ok(r) => r.payload,
            Err(Error::Damaged(d)) => {
                fields.insert("damage".into(), json!(d.why));
                return Ok((fields, facts));
            }
            Err(e) => return Err(Failure::of_store(&e, &dump.store)),
        };
        if decode {
            match code::decode::<Vec<Fact>>(&payload) {
                Ok(found) => facts = found,
                Err(why) => drop(fields.insert("damage".into(), json!(why.0))),
            }
            fields.insert("facts".into(), facts.iter().map(describe::fact).collect());
        }
        if dump.payload == Some(Payload::Hex) {
            fields.insert("payload".into(), json!(hex(&payload)));
        }
    }
    Ok((fields, facts))
}
