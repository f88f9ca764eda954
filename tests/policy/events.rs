//! Events: what an operator wants to know is written down, and named by `segfs status`.

use std::{
    fs,
    io::ErrorKind,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use segfs::{
    serve::{Beat, Events},
    store::{Options, Store},
    vfs::Vfs,
};
use serde_json::Value;

use super::{json, ok, ordinals, text};
use crate::mount::{Mounted, full::SmallDisk, is_root, segfs, write};

/// All events of a store.
fn events(store: &Path) -> Vec<Value> {
    let text = fs::read_to_string(store.join("events.jsonl")).unwrap_or_default();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Waits until an event of this kind is written down.
#[track_caller]
fn comes(store: &Path, kind: &str) -> Value {
    let began = Instant::now();
    loop {
        if let Some(found) = events(store).into_iter().rev().find(|e| e["event"] == kind) {
            return found;
        }
        assert!(began.elapsed() < Duration::from_secs(20), "{kind}: {:?}", events(store));
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn settings_that_are_taken_in_are_events() {
    let mut m = Mounted::new();
    write(&m.path("f"), "x");
    ok(&["retain", "set", text(&m.path("f")), "--keep", "all"]);
    let told = json(&["status", text(&m.dir())])["event"].clone();
    assert_eq!(told["event"], "settings_loaded");
    assert!(told["text"].as_str().unwrap().contains("/f keep all"), "{told}");
    m.unmount();
    let first = events(&m.store());
    assert_eq!(first.iter().filter(|e| e["event"] == "settings_loaded").count(), 2, "{first:?}");
    assert_eq!(first[0]["time"].as_str().unwrap().len(), 30);
    assert!(first[0]["time_ns"].is_u64());
    // The same again is no event; the store says it also when nobody has it mounted.
    m.mount(&[]);
    m.unmount();
    assert_eq!(events(&m.store()), first);
    assert_eq!(json(&["status", text(&m.store())])["event"], told);
    let shown = String::from_utf8(segfs(&["status", text(&m.store())]).stdout).unwrap();
    assert!(shown.contains("settings_loaded: what is kept"), "{shown}");
}

#[test]
fn damage_that_a_read_finds_is_told_once() {
    let mut m = Mounted::new();
    let mut x = 7_u64;
    let random = std::iter::repeat_with(|| {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        x.to_le_bytes()
    });
    let content: Vec<u8> = random.take(50_000).flatten().collect();
    write(&m.path("f"), &content);
    write(&m.path("good"), "good");
    m.unmount();
    let needle = &content[200_000..200_064];
    let mut hit = 0;
    for entry in fs::read_dir(m.store().join("segments")).unwrap() {
        let path = entry.unwrap().path();
        let mut bytes = fs::read(&path).unwrap();
        if let Some(at) = bytes.windows(64).position(|w| w == needle) {
            bytes[at] ^= 1;
            fs::write(&path, bytes).unwrap();
            hit += 1;
        }
    }
    assert_eq!(hit, 1);
    m.mount(&[]);
    assert_eq!(fs::read(m.path("good")).unwrap(), b"good");
    for _ in 0..3 {
        assert!(fs::read(m.path("f")).is_err());
    }
    let told = comes(&m.store(), "damage");
    assert!(told["segment"].is_u64() && told["offset"].is_u64(), "{told}");
    assert_eq!(json(&["status", text(&m.dir())])["event"], told);
    m.unmount();
    assert_eq!(events(&m.store()).iter().filter(|e| e["event"] == "damage").count(), 1);
}

#[test]
fn writes_that_stop_are_told() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let store = Arc::new(Store::create(&path, Options::default()).unwrap());
    let vfs = Arc::new(Vfs::new(Arc::clone(&store)));
    let told = Arc::new(Events::open(&path).unwrap());
    let beat = Beat::start(&vfs, &store, Some(&told)).unwrap();
    store.stop_writing("the test says so");
    assert_eq!(comes(&path, "writes_stopped")["why"], "the test says so");
    std::thread::sleep(Duration::from_millis(1500));
    drop(beat);
    assert_eq!(events(&path).iter().filter(|e| e["event"] == "writes_stopped").count(), 1);
}

/// Others fill the disk: what this little history holds would not help.
#[test]
fn history_stays_where_giving_it_up_would_be_for_nothing() {
    if !is_root() {
        return;
    }
    let disk = SmallDisk::new(512);
    let root = tempfile::tempdir().unwrap();
    let mut m = Mounted::with_store(root, disk.dir.join("store"), &[]);
    write(&m.path("f"), "0");
    let free = rustix::fs::statvfs(&disk.dir).unwrap();
    let others = fs::File::create_new(disk.dir.join("others")).unwrap();
    let bytes = free.f_bavail * free.f_frsize - (20 << 20);
    rustix::fs::fallocate(&others, rustix::fs::FallocateFlags::empty(), 0, bytes).unwrap();
    for n in 1..200 {
        write(&m.path("f"), format!("{n}"));
    }
    // Looked after again, because something was written.
    std::thread::sleep(std::time::Duration::from_secs(3));
    write(&m.path("f"), "the last");
    assert_eq!(ordinals(&m, "f"), (1..=201).collect::<Vec<_>>());
    m.unmount();
}

#[test]
fn history_yields_to_a_full_disk_and_says_so_unless_it_is_told_to_stay() {
    if !is_root() {
        return;
    }
    let disk = SmallDisk::new(96);
    let root = tempfile::tempdir().unwrap();
    let mut m = Mounted::with_store(root, disk.dir.join("store"), &[]);
    let content = |n: u8| -> Vec<u8> {
        let mut x = u64::from(n) + 1;
        let random = std::iter::repeat_with(|| {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            x.to_le_bytes()
        });
        random.take(1 << 17).flatten().collect()
    };
    // Three times the disk, in one file.
    for n in 0..250 {
        write(&m.path("f"), content(n));
    }
    let told = comes(&m.store(), "history_yielded");
    assert!(told["versions"].as_u64().unwrap() > 0, "{told}");
    let left = ordinals(&m, "f");
    assert!(left.len() < 250 && left.last() == Some(&250), "{left:?}");
    assert_eq!(fs::read(m.path("f")).unwrap(), content(249));
    // History stays, and who writes is told.
    let config = m.store().join("config.toml");
    let said = fs::read_to_string(&config).unwrap();
    fs::write(&config, said.replace("history_yields = true", "history_yields = false")).unwrap();
    ok(&["retain", "reload", text(&m.dir())]);
    let kept = ordinals(&m, "f");
    let full = (0..250).find_map(|n| fs::write(m.path("g"), content(n)).err()).expect("the disk gets full");
    assert_eq!(full.kind(), ErrorKind::StorageFull, "{full}");
    assert_eq!(ordinals(&m, "f"), kept);
    fs::remove_file(m.path("g")).unwrap();
    m.unmount();
}
