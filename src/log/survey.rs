//! A look at the log from outside: nothing is written, and another process may be writing it.
//!
//! The same steps as an opening, so that both agree on where the log ends. While a process holds the store, the
//! log ends for us at its durable mark: what lies behind may be half written.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    SegmentState, cut,
    recover::{self, Link, Recovery, ReplayRecord},
};
use crate::{
    base::{Damage, Error, Lsn, Result, SegmentId, StoreId, limits::BLOCK_BYTES},
    disk::{Disk, DiskFile},
    format::{Entry, Footer, SegmentHeader},
    segment::{
        self, Found, Location, Report, Scan, ScannedFrame, parse_name, read_any_header, read_footer,
        read_header, read_trailer,
    },
};

/// How far the log of a store goes, that another process has open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// Up to its durable mark, or up to here, which that process says is durable, if it is higher: what a power cut now would
    /// leave.
    Durable(Lsn),
    /// Up to its last whole batch: what the end of that process now would leave. The mark of the batch that moved the last
    /// records out of a segment may lie behind it, in a batch that is not there yet, while the segment has gone already.
    Written,
}

/// How to look.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Held(Reach),
    Closed { harden: bool, durable: Lsn },
}

/// Looks at a log that another process writes, until one finds all its segments.
const LOOKS: usize = 20;

/// How a segment file stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Being written by another process.
    Active,
    /// Full or closed, with a footer.
    Sealed,
    /// Left behind by a crash, without a footer.
    Cut,
    /// Its header is not valid, but the log needs it, or it belongs to another store.
    Damaged,
    /// Not part of the log: never begun, or behind a torn tail.
    Unreached,
}

/// What is known of a segment file.
#[derive(Clone, Debug)]
pub struct Surveyed {
    /// Its id.
    pub id: SegmentId,
    /// How it stands.
    pub standing: Standing,
    /// Its header, if valid.
    pub header: Option<SegmentHeader>,
    /// What is wrong with the header, or with the segment's being here.
    pub wrong: Option<String>,
    /// The file's size.
    pub file_bytes: u64,
    /// Where its part of the log ends.
    pub used_bytes: u64,
    /// LSN of the last record numbered in it.
    pub last_lsn: Option<Lsn>,
    /// Where its successor says that it ends.
    told: Option<u64>,
}

/// The log, as it was at one moment.
pub struct Survey {
    disk: Arc<dyn Disk>,
    store: StoreId,
    held: bool,
    links: Vec<Link>,
    /// What opening it would find.
    pub recovery: Recovery,
    /// All segment files, in the order of their ids.
    pub segments: Vec<Surveyed>,
    /// Names in `segments/` that are not those of segments.
    pub strangers: Vec<String>,
}

impl Survey {
    /// Looks at the log of a store that another process has open, as far as `reach` says.
    ///
    /// # Errors
    /// If the disk refuses, or a segment has a newer format. Damage is no error.
    pub fn of_held(disk: Arc<dyn Disk>, store: StoreId, reach: Reach) -> Result<Self> {
        Self::patiently(&disk, store, Way::Held(reach))
    }

    /// The same of a store that nobody holds, and of which it is known from elsewhere that its log was durable up to `durable`. `harden`:
    /// what is accepted without being known to be durable is made so, as an opening does; whoever asks for it holds the lock.
    ///
    /// # Errors
    /// As of [`of_held`](Self::of_held).
    pub fn of_closed(disk: Arc<dyn Disk>, store: StoreId, harden: bool, durable: Lsn) -> Result<Self> {
        Self::patiently(&disk, store, Way::Closed { harden, durable })
    }

    fn patiently(disk: &Arc<dyn Disk>, store: StoreId, way: Way) -> Result<Self> {
        let mut tries = if matches!(way, Way::Held(_)) { LOOKS } else { 0 };
        loop {
            // A segment may be retired while we look, and its file be begun anew under our eyes.
            match Self::attempt(Arc::clone(disk), store, way) {
                Err(Error::Io { source, .. })
                    if tries > 0 && source.kind() == std::io::ErrorKind::NotFound => {}
                Ok(survey) if tries > 0 && survey.is_broken_off()? => {}
                other => return other,
            }
            tries -= 1;
        }
    }

    /// Did a segment go while we looked, so that what was found is not how the log ever stood?
    fn is_broken_off(&self) -> Result<bool> {
        if !self.held {
            return Ok(false);
        }
        let listed = |id| self.segment(id).is_some();
        let damages = &self.recovery.damages;
        let here = damages.iter().filter_map(|d| d.place.segment).all(listed)
            && self.links.iter().all(|l| listed(l.header.segment));
        Ok(!here || !damages.is_empty() && self.has_moved_on()?)
    }

    /// While another process has the store: is a segment gone that was there when we looked?
    ///
    /// # Errors
    /// If the disk refuses.
    pub fn has_moved_on(&self) -> Result<bool> {
        if !self.held {
            return Ok(false);
        }
        for s in &self.segments {
            let file = match self.disk.open(&segment::path(s.id), false) {
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(true),
                opened => opened.map_err(|e| Error::io(format!("opening segment {}", s.id), e))?,
            };
            let Some(header) = s.header.as_ref().filter(|h| h.segment == s.id) else { continue };
            if read_any_header(&*file, s.id)?.is_some_and(|h| h.salt != header.salt) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn attempt(disk: Arc<dyn Disk>, store: StoreId, way: Way) -> Result<Self> {
        let (held, harden, told) = match way {
            Way::Held(Reach::Durable(lsn)) => (true, false, lsn),
            Way::Held(Reach::Written) => (true, false, Lsn::new(0)),
            Way::Closed { harden, durable } => (false, harden, durable),
        };
        let mut r = Recovery::default();
        let (mut links, _) = recover::chain(&*disk, store, &mut r)?;
        let mark = recover::measure(&*disk, &mut links, &mut r)?.max(told);
        if held {
            // Read again what may have been half written at the first look: up to the mark, all is there now.
            for l in &mut links {
                (l.extent, l.found) = (None, None);
            }
            recover::measure(&*disk, &mut links, &mut r)?;
            if way != Way::Held(Reach::Written) {
                links.iter_mut().for_each(|l| forget_undurable(l, mark));
            }
        }
        r.durable_mark = mark;
        recover::note_torn_headers(&links, mark, &mut r);
        if !held {
            cut::note(&*disk, &links, mark, &mut r)?;
        }
        recover::settle(&*disk, &mut links, mark, harden, &mut r)?;
        r.segments = links.len() as u64;
        r.last_lsn = links.last().map_or(Lsn::new(0), |l| recover::extent(l).last_lsn);
        if !held {
            recover::note_short(told, &mut r);
        }
        // After the links, which must all be among them.
        let names = disk.list(segment::DIRECTORY.as_ref()).map_err(|e| Error::io("listing segments/", e))?;
        let last = links.last().map(|l| l.header.segment);
        let (known, strangers): (Vec<_>, Vec<_>) = names.into_iter().partition(|n| parse_name(n).is_some());
        let mut survey = Self { disk, store, held, links, recovery: r, segments: Vec::new(), strangers };
        for id in known.iter().filter_map(|n| parse_name(n)) {
            if held && last.is_some_and(|last| id > last) {
                // Begun since we looked.
                continue;
            }
            if let Some(s) = survey.look(id)? {
                survey.segments.push(s);
            }
        }
        Ok(survey)
    }

    /// The last record that counts.
    #[must_use]
    pub fn last_lsn(&self) -> Lsn {
        self.recovery.last_lsn
    }

    /// What is known of a segment.
    #[must_use]
    pub fn segment(&self, id: SegmentId) -> Option<&Surveyed> {
        self.segments.iter().find(|s| s.id == id)
    }

    fn look(&self, id: SegmentId) -> Result<Option<Surveyed>> {
        let file = match self.disk.open(&segment::path(id), false) {
            Ok(file) => file,
            // Retired meanwhile.
            Err(e) if self.held && e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(Error::io(format!("opening segment {id}"), e)),
        };
        let file_bytes = file.len().map_err(|e| Error::io(format!("opening segment {id}"), e))?;
        let mut s = Surveyed {
            id,
            standing: Standing::Unreached,
            header: None,
            wrong: None,
            file_bytes,
            used_bytes: 0,
            last_lsn: None,
            told: None,
        };
        if let Some(i) = self.links.iter().position(|l| l.header.segment == id) {
            let link = &self.links[i];
            let extent = recover::extent(link);
            let sealed = extent.state == SegmentState::Sealed || read_trailer(&*file, &link.header).is_some();
            s.standing = match () {
                () if sealed => Standing::Sealed,
                () if self.held && i + 1 == self.links.len() => Standing::Active,
                () => Standing::Cut,
            };
            s.header = Some(link.header.clone());
            s.used_bytes = extent.end;
            s.last_lsn = Some(extent.last_lsn);
            s.told = recover::told_by_successor(&self.links, i).map(|t| t.0);
            return Ok(Some(s));
        }
        match read_header(&*file, id, None)? {
            Ok((h, _)) if h.store != self.store => {
                s.standing = Standing::Damaged;
                s.wrong = Some(format!("segment belongs to another store, {}", h.store));
                s.header = Some(h);
            }
            Ok((h, _)) => {
                // Begun so lately that nothing in it is known to be durable.
                if self.held && self.links.last().is_none_or(|l| l.header.segment < id) {
                    s.standing = Standing::Active;
                    s.used_bytes = BLOCK_BYTES;
                }
                s.header = Some(h);
            }
            Err(why) => {
                if let Some(h) = read_any_header(&*file, id)? {
                    let old_name = recover::has_two_names(&*self.disk, &*file, id)?;
                    self.other_header(&mut s, h, old_name);
                    return Ok(Some(s));
                }
                // One that is on its way out of the log has lost its header.
                let given_back = segment::read_recycled(&*file, id)?.is_some();
                if !given_back && self.links.iter().any(|l| l.header.predecessor == Some(id)) {
                    s.standing = Standing::Damaged;
                }
                s.wrong = Some(why.0.into());
            }
        }
        Ok(Some(s))
    }

    /// A file that somebody put here: of another store, or a segment under another name; or an old name of a segment's file.
    fn other_header(&self, s: &mut Surveyed, h: SegmentHeader, old_name: bool) {
        if old_name {
            s.wrong = Some(format!("an old name of the file of segment {}", h.segment));
            return;
        }
        s.standing = Standing::Damaged;
        s.wrong = Some(if h.store == self.store {
            format!("header is that of another segment, {}", h.segment)
        } else {
            format!("segment belongs to another store, {}", h.store)
        });
        s.header = Some(h);
    }

    fn file(&self, id: SegmentId) -> Result<Arc<dyn DiskFile>> {
        recover::open(&*self.disk, id)
    }

    /// Goes through the batches of a segment, as far as it belongs to the log; through all of it, if none of it does.
    ///
    /// # Errors
    /// [`Error::BadRequest`] if there is no such segment, [`Error::Damaged`] if its header is not valid.
    pub fn scan(&self, id: SegmentId) -> Result<Scan> {
        let s = self.segment(id).ok_or_else(|| Error::BadRequest(format!("there is no segment {id}")))?;
        let Some(header) = s.header.as_ref().filter(|h| h.store == self.store) else {
            let why = s.wrong.clone().unwrap_or_default();
            return Err(Damage::segment(id, 0, None, why).into());
        };
        let limit = if s.standing == Standing::Unreached { u64::MAX } else { s.used_bytes };
        Ok(Scan::new(self.file(id)?, header, BLOCK_BYTES, limit))
    }

    /// Reads a whole record.
    ///
    /// # Errors
    /// [`Error::Damaged`] if it is not what was written.
    pub fn read_record(&self, loc: &Location) -> Result<segment::OwnedRecord> {
        let header = self.header(loc)?;
        let file = self.file(loc.segment)?;
        segment::read_record(loc, header.seed(), &|out, at| file.read_exact_at(out, at))
    }

    /// Reads raw bytes of a record's payload.
    ///
    /// # Errors
    /// As of [`read_record`](Self::read_record).
    pub fn read(&self, loc: &Location, range: std::ops::Range<u64>, out: &mut [u8]) -> Result<()> {
        let header = self.header(loc)?;
        let file = self.file(loc.segment)?;
        segment::read_range(loc, header.seed(), &|out, at| file.read_exact_at(out, at), range, out)
    }

    fn header(&self, loc: &Location) -> Result<&SegmentHeader> {
        let header = self.segment(loc.segment).and_then(|s| s.header.as_ref());
        header.ok_or_else(|| super::gone(loc.segment, loc.offset))
    }

    /// The records of a segment: from its footer, if that is valid, else by scanning it.
    ///
    /// # Errors
    /// As of [`scan`](Self::scan).
    pub fn records(&self, id: SegmentId) -> Result<Vec<Entry>> {
        if let Some(footer) = self.footer(id)? {
            return Ok(footer.records);
        }
        let mut scan = self.scan(id)?;
        let mut entries = Vec::new();
        while let Some(found) = scan.next_found() {
            let Found::Batch(batch) = found else { continue };
            entries
                .extend(batch.frames.iter().filter(|f| f.envelope.kind.is_record()).map(ScannedFrame::entry));
        }
        Ok(entries)
    }

    fn footer(&self, id: SegmentId) -> Result<Option<Footer>> {
        let Some(header) =
            self.segment(id).filter(|s| s.standing == Standing::Sealed).and_then(|s| s.header.as_ref())
        else {
            return Ok(None);
        };
        let file = self.file(id)?;
        let Some(trailer) = read_trailer(&*file, header) else { return Ok(None) };
        Ok(read_footer(&trailer, header.seed(), &|out, at| file.read_exact_at(out, at)).ok())
    }

    /// Passes the log's records up to `upto` to `visit`, in order, and lists the damage met on the way.
    ///
    /// # Errors
    /// If the disk refuses, or `visit` does.
    pub fn replay(
        &self,
        from: Lsn,
        upto: Lsn,
        visit: &mut dyn FnMut(ReplayRecord<'_>) -> Result<()>,
    ) -> Result<Vec<Damage>> {
        let mut r = Recovery::default();
        for l in &self.links {
            if recover::extent(l).last_lsn < from || l.header.first_lsn > upto {
                continue;
            }
            recover::replay(&*self.disk, l, from, &mut r, &mut |record| {
                if record.lsn > upto { Ok(()) } else { visit(record) }
            })?;
        }
        Ok(r.damages)
    }

    /// The LSN with which the log begins; records before it were retired, and bases stand for them.
    #[must_use]
    pub fn first_lsn(&self) -> Lsn {
        self.links.first().map_or(Lsn::FIRST, |l| l.header.first_lsn)
    }

    /// Checks every byte of a segment that means something, and what its successor says of it. `None`: it was retired
    /// meanwhile.
    ///
    /// # Errors
    /// If the disk refuses.
    pub fn verify(&self, s: &Surveyed) -> Result<Option<Report>> {
        let mut report = match self.verify_once(s) {
            Err(_) if self.retired(s.id) => return Ok(None),
            other => other?,
        };
        if self.held && !report.damages.is_empty() {
            // The file may have been retired and begun anew under our eyes.
            if self.retired(s.id) {
                return Ok(None);
            }
            report = self.verify_once(s)?;
        }
        Ok(Some(report))
    }

    fn retired(&self, id: SegmentId) -> bool {
        let opened = self.disk.open(&segment::path(id), false);
        self.held && opened.is_err_and(|e| e.kind() == std::io::ErrorKind::NotFound)
    }

    fn verify_once(&self, s: &Surveyed) -> Result<Report> {
        let mut report = Report::default();
        let Some(header) = s.header.as_ref().filter(|_| s.standing != Standing::Damaged) else {
            if s.standing == Standing::Damaged {
                let why = s.wrong.clone().unwrap_or_default();
                report.damages.push(Damage::segment(s.id, 0, None, why));
            }
            return Ok(report);
        };
        if s.standing == Standing::Unreached {
            return Ok(report);
        }
        let file = self.file(s.id)?;
        let whole = s.standing == Standing::Sealed && s.told.is_none();
        let end = (!whole).then_some(s.used_bytes);
        report = segment::verify(&file, s.id, Some(self.store), end)?;
        if report.header.is_none() {
            return Ok(report);
        }
        // A crash may leave a footer without its trailer, which spares nobody anything but time.
        if report.sealed && !trailer_was_written(&*file, s)? {
            report.damages.retain(|d| d.why != "the footer has no valid trailer");
        }
        let may_be_short = s.file_bytes >= header.capacity || read_trailer(&*file, header).is_some();
        if s.standing != Standing::Active
            && !may_be_short
            && cut::runs_into_the_end(&*file, header, s.used_bytes, s.file_bytes)?
        {
            report.damages.push(cut::damage(s.id, s.file_bytes, header.capacity));
        }
        Ok(report)
    }

    /// Segments that others name as their predecessors and that are not there; the cleaner may have retired them.
    #[must_use]
    pub fn missing(&self) -> BTreeMap<SegmentId, SegmentId> {
        let there = |id| self.segments.iter().any(|s| s.id == id);
        self.links
            .iter()
            .filter_map(|l| Some((l.header.predecessor?, l.header.segment)))
            .filter(|(p, _)| !there(*p))
            .collect()
    }
}

/// Drops the batches of a segment that is being written which the mark does not cover.
fn forget_undurable(l: &mut Link, mark: Lsn) {
    if let Some(found) = &mut l.found
        && let Some(n) =
            found.iter().position(|f| matches!(f, Found::Batch(b) if b.last_lsn().is_some_and(|n| n > mark)))
    {
        found.truncate(n);
    }
}

/// Does the last block begin like the trailer of this segment?
fn trailer_was_written(file: &dyn DiskFile, s: &Surveyed) -> Result<bool> {
    let mut bytes = [0; 16];
    let at = s.file_bytes.saturating_sub(BLOCK_BYTES);
    let n = file.read_at(&mut bytes, at).map_err(|e| Error::io(format!("reading segment {}", s.id), e))?;
    Ok(n == 16 && &bytes[..8] == b"SEGFOOT1" && bytes[8..] == s.id.get().to_le_bytes())
}
