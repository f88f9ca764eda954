//! What happened that an operator wants to know: `events.jsonl` in the store's directory, an object a line.
//!
//! Who has something to tell puts it into a list in memory and goes on; a thread writes it out. So nobody who holds a lock waits for
//! the disk, and what finds no space is written when there is some. The file is bounded: a full one takes the place of the one
//! before it.

use std::{
    collections::{HashSet, VecDeque},
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use parking_lot::Mutex;
use serde_json::{Map, Value, json};

use super::appended::at_end;
use crate::{
    base::{Clock as _, Damage, SystemClock},
    console::time,
    disk::{Disk, DiskFile, Engine, RealDisk},
};

/// The file's name in the store's directory.
pub const EVENTS: &str = "events.jsonl";
/// The file before it.
const BEFORE: &str = "events.1.jsonl";
/// A file of so many bytes is full.
const FULL_BYTES: u64 = 1 << 20;
/// Events that wait to be written at most; of more, the oldest are given up, and it is said how many.
const WAITING: usize = 1024;
/// The most characters of a text.
const TEXT: usize = 4000;
/// The last bytes of a file, in which its last line is looked for.
const TAIL_BYTES: u64 = 64 << 10;

/// Damaged places that are told of, one by one; more are not.
const DAMAGES: usize = 4096;

/// The events of a store that is mounted.
pub struct Events {
    disk: RealDisk,
    waiting: Mutex<Waiting>,
    /// Damaged places that were told of, each once.
    damaged: Mutex<HashSet<String>>,
    /// Held while the file is written.
    file: Mutex<Option<Open>>,
}

#[derive(Default)]
struct Waiting {
    lines: VecDeque<String>,
    lost: u64,
    newest: Option<Value>,
}

struct Open {
    file: Arc<dyn DiskFile>,
    len: u64,
}

impl Events {
    /// Goes on with the events of the store in this directory.
    ///
    /// # Errors
    /// What the system says.
    pub fn open(store: &Path) -> io::Result<Self> {
        let disk = RealDisk::open(store, Engine::Plain)?;
        let waiting = Waiting { newest: newest_on(&disk), ..Waiting::default() };
        Ok(Self { disk, waiting: Mutex::new(waiting), damaged: Mutex::default(), file: Mutex::default() })
    }

    /// Something happened: what, in a word for programs and in words for people, and what more is known of it.
    pub fn add(&self, event: &str, text: &str, more: Value) {
        let now = SystemClock.wall_ns();
        let text: String = text.chars().take(TEXT).collect();
        let mut all = Map::new();
        all.insert("time".into(), time(now).into());
        all.insert("time_ns".into(), now.into());
        all.insert("event".into(), event.into());
        all.insert("text".into(), text.into());
        if let Value::Object(more) = more {
            all.extend(more);
        }
        let value = Value::Object(all);
        let mut waiting = self.waiting.lock();
        waiting.lines.push_back(value.to_string());
        waiting.newest = Some(value);
        if waiting.lines.len() > WAITING {
            waiting.lines.pop_front();
            waiting.lost += 1;
        }
    }

    /// Bytes are not what was written: told of once.
    pub(super) fn damage(&self, damage: &Damage) {
        let place = damage.place.to_string();
        let mut told = self.damaged.lock();
        if told.len() < DAMAGES && told.insert(place.clone()) {
            drop(told);
            let more = json!({
                "place": place,
                "why": damage.why,
                "segment": damage.place.segment.map(|s| s.get()),
                "offset": damage.place.offset,
                "lsn": damage.place.lsn.map(|l| l.get()),
            });
            self.add("damage", &damage.finding(), more);
        }
    }

    /// The newest event, if there was ever one.
    #[must_use]
    pub fn newest(&self) -> Option<Value> {
        self.waiting.lock().newest.clone()
    }

    /// The newest event of a kind that is still in the files.
    #[must_use]
    pub fn newest_of(&self, event: &str) -> Option<Value> {
        let of = |name: &str| {
            let text = read_from(&self.disk, name, 0).ok()?;
            text.lines().rev().filter_map(parse).find(|value| value["event"] == event)
        };
        of(EVENTS).or_else(|| of(BEFORE))
    }

    /// Writes out what waits, durably. What can't be written goes on waiting.
    ///
    /// # Errors
    /// What the system says.
    pub fn write_out(&self) -> io::Result<()> {
        let mut open = self.file.lock();
        loop {
            let (line, lost) = {
                let waiting = self.waiting.lock();
                let Some(line) = waiting.lines.front() else { return Ok(()) };
                (line.clone(), waiting.lost)
            };
            let mut text = String::new();
            if lost > 0 {
                let now = SystemClock.wall_ns();
                let said = format!("{lost} events could not be written in time and are lost");
                let value = json!({"time": time(now), "time_ns": now, "event": "events_lost", "text": said, "events": lost});
                text = format!("{value}\n");
            }
            text.push_str(&line);
            text.push('\n');
            if let Err(e) = self.append(&mut open, &text) {
                // Where its end is now is looked at again.
                *open = None;
                return Err(e);
            }
            let mut waiting = self.waiting.lock();
            waiting.lost -= lost.min(waiting.lost);
            // Others only put in behind, or give up the front.
            if waiting.lines.front() == Some(&line) {
                waiting.lines.pop_front();
            }
        }
    }

    fn append(&self, open: &mut Option<Open>, text: &str) -> io::Result<()> {
        if open.as_ref().is_some_and(|o| o.len >= FULL_BYTES) {
            self.disk.rename(Path::new(EVENTS), Path::new(BEFORE))?;
            *open = None;
        }
        if open.is_none() {
            let (file, len) = at_end(&self.disk, EVENTS)?;
            *open = Some(Open { file, len });
        }
        let Some(o) = open else { return Ok(()) };
        o.file.write_at(&[text.as_bytes()], o.len)?;
        o.len += text.len() as u64;
        o.file.sync()
    }
}

/// The newest event of the store in a directory, mounted or not.
#[must_use]
pub fn newest_event(store: &Path) -> Option<Value> {
    newest_on(&RealDisk::open(store, Engine::Plain).ok()?)
}

fn newest_on(disk: &dyn Disk) -> Option<Value> {
    [EVENTS, BEFORE].into_iter().find_map(|name| {
        let text = read_from(disk, name, TAIL_BYTES).ok()?;
        text.lines().rev().find_map(parse)
    })
}

/// A line that is an event; what a crash cut off is none.
fn parse(line: &str) -> Option<Value> {
    serde_json::from_str(line).ok().filter(|value: &Value| value["event"].is_string())
}

/// A file's text, or its last bytes.
fn read_from(disk: &dyn Disk, name: &str, last_bytes: u64) -> io::Result<String> {
    let file = disk.open(&PathBuf::from(name), false)?;
    let len = file.len()?.min(4 * FULL_BYTES);
    let from = if last_bytes == 0 { 0 } else { len.saturating_sub(last_bytes) };
    let mut bytes = vec![0; (len - from) as usize];
    let n = file.read_at(&mut bytes, from)?;
    Ok(String::from_utf8_lossy(&bytes[..n]).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_lines_and_the_newest_is_known() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(newest_event(dir.path()), None);
        let events = Events::open(dir.path()).unwrap();
        assert_eq!(events.newest(), None);
        events.add("damage", "a\nb", json!({"segment": 3}));
        events.add("writes_stopped", &"x".repeat(10_000), json!({}));
        events.write_out().unwrap();
        let text = read_from(&events.disk, EVENTS, 0).unwrap();
        let lines: Vec<Value> = text.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
        assert_eq!(
            (&lines[0]["event"], &lines[0]["text"], &lines[0]["segment"]),
            (&"damage".into(), &"a\nb".into(), &3.into())
        );
        assert_eq!((lines.len(), lines[1]["text"].as_str().unwrap().len()), (2, TEXT));
        assert_eq!(newest_event(dir.path()).as_ref(), Some(&lines[1]));
        assert_eq!(events.newest_of("damage").as_ref(), Some(&lines[0]));
        // A crash cut the last line off.
        let file = events.disk.open(Path::new(EVENTS), true).unwrap();
        let len = file.len().unwrap();
        file.set_len(len - 10).unwrap();
        let events = Events::open(dir.path()).unwrap();
        assert_eq!(events.newest().as_ref(), Some(&lines[0]));
        events.add("damage", "again", json!({}));
        events.write_out().unwrap();
        let text = read_from(&events.disk, EVENTS, 0).unwrap();
        assert_eq!(text.lines().filter_map(parse).count(), 2);
        assert_eq!(newest_event(dir.path()).unwrap()["text"], "again");
    }

    #[test]
    fn the_files_are_bounded_and_what_waits_is() {
        let dir = tempfile::tempdir().unwrap();
        let events = Events::open(dir.path()).unwrap();
        for n in 0..1500 {
            events.add("damage", &format!("{n} {}", "y".repeat(3000)), json!({}));
            if n % 100 == 0 && n < 400 {
                events.write_out().unwrap();
            }
        }
        events.write_out().unwrap();
        let len = |name: &str| events.disk.open(Path::new(name), false).unwrap().len().unwrap();
        assert!(len(EVENTS) < FULL_BYTES + 10_000 && len(BEFORE) < FULL_BYTES + 10_000);
        assert!(newest_event(dir.path()).unwrap()["text"].as_str().unwrap().starts_with("1499 "));
        // 1199 came after the last writing out, and 1024 of them waited.
        assert_eq!(events.disk.list(Path::new("")).unwrap(), [BEFORE, EVENTS]);
        assert_eq!(events.waiting.lock().lost, 0);
    }
}
