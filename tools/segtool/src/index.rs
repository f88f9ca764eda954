//! `segtool index check` and `segtool index rebuild`.

use std::{collections::BTreeSet, path::Path};

use segfs::{
    base::{Error, Lsn, SegmentId},
    console::{DAMAGE, Failure, Output, Progress, damage, hex},
    log::Reach,
    store::inspect::{Difference, Digest, IndexCheck, Inspection, Unlike, rebuild_index},
};
use serde_json::{Value, json};

use crate::held;

/// What is known of the index on disk.
pub enum Checked {
    /// There is none: the next opening builds it.
    Missing,
    /// Another process has it.
    InUse,
    /// It can't be used, or the log can't be replayed to compare it.
    Unusable(Error),
    /// It was compared.
    Compared(IndexCheck),
    /// Of a mount that was asked: as of this LSN, so many rows, and the kinds of rows that are not what the log makes.
    Told(Lsn, u64, Vec<u8>),
    /// The log does not reach back any more to where the mount was asked.
    MovedOn,
}

impl Checked {
    /// Looks. What a mount says of its index is compared with what the log makes.
    pub fn new(inspection: &Inspection, told: Option<&Digest>, json: bool) -> Self {
        if inspection.holder().is_some() {
            return told.map_or(Self::InUse, |told| Self::compare(inspection, told, json));
        }
        if !inspection.has_index() {
            return Self::Missing;
        }
        let progress = Progress::new("replaying the log", json);
        match inspection.check_index(&|a, b| progress.tell(a, b)) {
            Ok(check) => Self::Compared(check),
            Err(e) => Self::Unusable(e),
        }
    }

    fn compare(inspection: &Inspection, told: &Digest, json: bool) -> Self {
        let progress = Progress::new("replaying the log", json);
        let made = match inspection.digest(told.lsn, &|a, b| progress.tell(a, b)) {
            Ok(Some(made)) => made,
            Ok(None) => return Self::MovedOn,
            Err(e) => return Self::Unusable(e),
        };
        let kinds: BTreeSet<u8> = made.kinds.keys().chain(told.kinds.keys()).copied().collect();
        let different =
            kinds.into_iter().filter(|kind| made.kinds.get(kind) != told.kinds.get(kind)).collect();
        Self::Told(told.lsn, told.kinds.values().map(|of| of.rows).sum(), different)
    }

    fn state(&self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::InUse => "in use",
            Self::Unusable(_) => "unusable",
            Self::Compared(c) if c.different == 0 => "equal",
            Self::Told(.., kinds) if kinds.is_empty() => "equal",
            Self::Compared(_) | Self::Told(..) => "different",
            Self::MovedOn => "in use",
        }
    }

    /// Is it what segments that went away meanwhile may have made?
    pub fn is_trouble(&self) -> bool {
        match self {
            Self::Missing | Self::InUse => false,
            Self::Unusable(_) | Self::MovedOn => true,
            Self::Compared(c) => c.different > 0,
            Self::Told(.., kinds) => !kinds.is_empty(),
        }
    }

    /// As JSON.
    pub fn value(&self) -> Value {
        if let Self::Told(lsn, rows, kinds) = self {
            let differences = kinds.iter().map(|kind| json!({"how": "different", "kind": kind, "key": null}));
            return json!({
                "state": self.state(),
                "covers_lsn": lsn.get(),
                "rows": rows,
                "different": if kinds.is_empty() { Some(0) } else { None },
                "differences": differences.collect::<Vec<_>>(),
                "why": null,
            });
        }
        let check = if let Self::Compared(c) = self { Some(c) } else { None };
        let why = if let Self::Unusable(e) = self { Some(e.to_string()) } else { None };
        json!({
            "state": self.state(),
            "covers_lsn": check.map(|c| c.covers.get()),
            "rows": check.map(|c| c.rows),
            "different": check.map(|c| c.different),
            "differences": check.map(|c| c.differences.iter().map(difference).collect::<Vec<_>>()),
            "why": why,
        })
    }

    /// As lines of text.
    pub fn lines(&self) -> Vec<String> {
        match self {
            Self::Missing => vec!["index: not there; the next opening builds it from the log".into()],
            Self::InUse => vec!["index: not looked at, the store is in use".into()],
            Self::MovedOn => vec!["index: not compared, the mount went on too fast; repeat it".into()],
            Self::Told(lsn, rows, kinds) if kinds.is_empty() => {
                vec![format!("index: {rows} rows of the mount up to LSN {lsn}, equal to the log")]
            }
            Self::Told(lsn, rows, kinds) => {
                let kinds: Vec<_> = kinds.iter().map(|k| format!("{k:#04x}")).collect();
                let which = kinds.join(", ");
                vec![format!(
                    "index: {rows} rows of the mount up to LSN {lsn}, those of kind {which} are not what the log makes"
                )]
            }
            Self::Unusable(e) => vec![format!("index: can't be compared with the log: {e}")],
            Self::Compared(c) => {
                let what = match c.different {
                    0 => "equal to the log".into(),
                    n => format!("{n} are not what the log makes"),
                };
                let mut lines = vec![format!("index: {} rows up to LSN {}, {what}", c.rows, c.covers)];
                lines.extend(c.differences.iter().map(|d| {
                    let (how, kind) = (how(d.how), d.key.first().copied().unwrap_or(0));
                    format!("  {how} row of kind {kind:#04x}: {}", hex(&d.key))
                }));
                lines
            }
        }
    }

    /// Nothing wrong, as far as could be seen.
    pub fn failure(&self, store: &Path) -> Option<Failure> {
        let rebuild = || format!("segtool index rebuild {}", store.display());
        match self {
            Self::Missing | Self::InUse | Self::MovedOn => None,
            Self::Told(.., kinds) if kinds.is_empty() => None,
            Self::Told(..) => Some(Failure::new(
                DAMAGE,
                "the index of the mount does not agree with the log",
                "some of its rows are not what the log makes",
                format!("segfs umount, then segtool index rebuild {}", store.display()),
            )),
            Self::Unusable(e) => Some(match e {
                Error::Damaged(d) if d.place.segment.is_some() => Failure::of_store(e, store),
                Error::Damaged(_) => Failure::new(DAMAGE, "the index is damaged", e.to_string(), rebuild()),
                _ => Failure::of_store(e, store),
            }),
            Self::Compared(c) if c.different == 0 => None,
            Self::Compared(c) => {
                let why = format!("{} rows are not what the log makes", c.different);
                Some(Failure::new(DAMAGE, "the index does not agree with the log", why, rebuild()))
            }
        }
    }
}

fn how(u: Unlike) -> &'static str {
    match u {
        Unlike::Missing => "missing",
        Unlike::Extra => "extra",
        Unlike::Different => "different",
    }
}

fn difference(d: &Difference) -> Value {
    json!({"how": how(d.how), "kind": d.key.first(), "key": hex(&d.key)})
}

/// Opens a store to look at it. If a mount holds it and tells of its index, then at least up to where it told.
pub fn open(store: &Path, reach: Reach, json: bool) -> Result<(Inspection, Option<Digest>), Failure> {
    let of = |e| Failure::of_store(&e, store);
    let inspection = Inspection::open_held(store, reach).map_err(of)?;
    if inspection.holder().is_none() {
        return Ok((inspection, None));
    }
    match held::digest(store, json) {
        None => Ok((inspection, None)),
        Some(told) => {
            let reach = held::told(reach, told.durable);
            Ok((Inspection::open_held(store, reach).map_err(of)?, Some(told)))
        }
    }
}

/// Compares the index with the log.
pub fn check(store: &Path, out: &mut Output) -> Result<(), Failure> {
    let as_json = out.json;
    let look = |reach| {
        let (inspection, told) = open(store, reach, as_json)?;
        if let Some(holder) = inspection.holder().filter(|_| told.is_none()) {
            let e = Error::InUse { path: store.into(), holder: holder.into() };
            return Err(Failure::of_store(&e, store));
        }
        let checked = Checked::new(&inspection, told.as_ref(), as_json);
        Ok((inspection, checked))
    };
    let (inspection, checked) = held::steadily(store, look, |(_, checked)| checked.is_trouble())?;
    if out.json {
        out.value(&json!({"store": inspection.id().to_string(), "index": checked.value()}))?;
    } else {
        for line in checked.lines() {
            out.line(&line)?;
        }
    }
    checked.failure(store).map_or(Ok(()), Err)
}

/// Builds the index again.
pub fn rebuild(store: &Path, out: &mut Output) -> Result<(), Failure> {
    let progress = Progress::new("rebuilding the index", out.json);
    let rebuilt = rebuild_index(store, &|a, b| progress.tell(a, b)).map_err(|e| {
        let mut failure = Failure::of_store(&e, store);
        if failure.code == DAMAGE {
            failure.why.push_str("; the old index was not touched");
        }
        failure
    })?;
    drop(progress);
    if out.json {
        out.value(&json!({
            "rebuilt": true,
            "covers_lsn": rebuilt.covers.get(),
            "rows": rebuilt.rows,
            "damages": rebuilt.damages.iter().map(damage).collect::<Vec<_>>(),
        }))?;
    } else {
        out.line(&format!("index rebuilt: {} rows up to LSN {}", rebuilt.rows, rebuilt.covers))?;
        for d in &rebuilt.damages {
            out.line(&format!("  {d}"))?;
        }
    }
    match rebuilt.damages.first() {
        None => Ok(()),
        Some(d) => Err(Failure::new(
            DAMAGE,
            "the index was rebuilt from a damaged log",
            format!(
                "{} damaged places, the first in segment {}",
                rebuilt.damages.len(),
                d.place.segment.map_or(0, SegmentId::get)
            ),
            format!("segtool verify {}", store.display()),
        )),
    }
}
