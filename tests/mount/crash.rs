//! The process of a mount is killed under load.

use std::{
    fs::{self, File},
    io::Write,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use super::Mounted;

/// What a file of this number holds.
fn content(n: usize) -> Vec<u8> {
    (0..n * 37 % 20_000 + 1).map(|i| (i * n) as u8).collect()
}

#[test]
fn what_was_synced_is_there_after_a_kill() {
    let mut m = Mounted::new();
    for round in 0..3 {
        let (stop, synced) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Vec::new())));
        let writers: Vec<_> = (0..3)
            .map(|w| {
                let (dir, stop, synced) = (m.dir(), Arc::clone(&stop), Arc::clone(&synced));
                std::thread::spawn(move || {
                    for n in (w..).step_by(3) {
                        let path = dir.join(format!("{round}-{n}"));
                        let done = File::create_new(&path).and_then(|mut f| {
                            f.write_all(&content(n))?;
                            if n % 4 == 0 { f.sync_all() } else { Ok(()) }
                        });
                        match done {
                            Ok(()) if n % 4 == 0 => synced.lock().unwrap().push(path),
                            Ok(()) => {}
                            Err(_) => return,
                        }
                        if stop.load(Ordering::Relaxed) {
                            return;
                        }
                    }
                })
            })
            .collect();
        std::thread::sleep(Duration::from_millis(300 + 200 * round));
        m.kill();
        stop.store(true, Ordering::Relaxed);
        for writer in writers {
            writer.join().unwrap();
        }
        // The dead mount is still there; mounting clears it.
        assert!(fs::read_dir(m.dir()).is_err());
        m.mount(&[]);
        let synced = synced.lock().unwrap();
        assert!(synced.len() > 3, "the load was no load");
        for path in synced.iter() {
            assert!(path.exists(), "{} was synced and is gone", path.display());
        }
        for entry in fs::read_dir(m.dir()).unwrap() {
            let entry = entry.unwrap();
            let name = entry.file_name().into_string().unwrap();
            let n: usize = name.split_once('-').unwrap().1.parse().unwrap();
            let (is, should) = (fs::read(entry.path()).unwrap(), content(n));
            let whole = synced.contains(&entry.path());
            assert!(should.starts_with(&is) && (!whole || is == should), "{name} holds {} bytes", is.len());
        }
    }
    m.unmount();
}

#[test]
fn a_rename_over_a_file_never_leaves_an_empty_one() {
    let mut m = Mounted::new();
    super::write(&m.path("f"), "old");
    for i in 0..200 {
        super::write(&m.path("tmp"), format!("content {i}"));
        fs::rename(m.path("tmp"), m.path("f")).unwrap();
    }
    m.kill();
    m.mount(&[]);
    let text = fs::read_to_string(m.path("f")).unwrap_or_else(|_| "old".into());
    assert!(text == "old" || text.starts_with("content "), "{text:?}");
}
