//! Access times, as ext4 moves them with `relatime`, its default.

use std::{
    fs::{self, File},
    os::unix::fs::MetadataExt,
    path::Path,
    process::Command,
};

use super::{Mounted, is_root, segfs, write};
use crate::suites::ext4::Ext4;

/// What is done, one after the other, and whose access time is looked at then. Each begins a little after the one before.
const STEPS: &[(&str, &str)] = &[
    ("echo hi > f", "f"),
    ("cat f", "f"),
    ("cat f", "f"),
    ("echo more >> f", "f"),
    ("cat f", "f"),
    ("chmod 600 f", "f"),
    ("tail -c 2 f", "f"),
    ("grep -q h f", "f"),
    ("touch -a -d '2 days ago' f; echo x > other", "f"),
    ("cat f", "f"),
    ("touch -m f; dd if=f iflag=noatime status=none", "f"),
    ("head -c 1 f", "f"),
    ("ln f g; cat g", "f"),
    ("mv f h", "h"),
    ("cat h", "h"),
    (": >> h", "h"),
    ("echo y >> h; exec 3<> h; echo z >&3", "h"),
    // Not from the kernel's cache, of which nobody is told.
    (
        "touch -m h; python3 -c 'import os; f = os.open(\"h\", os.O_RDWR); os.posix_fadvise(f, 0, 0, 4); os.read(f, 1)'",
        "h",
    ),
    ("cp /bin/true run", "run"),
    ("./run", "run"),
    ("./run", "run"),
    (
        "python3 -c 'import mmap, os; f = os.open(\"other\", os.O_RDONLY); print(mmap.mmap(f, 0, prot=mmap.PROT_READ)[0])'",
        "other",
    ),
    ("mkdir d; touch d/1 d/2", "d"),
    ("ls d", "d"),
    ("ls -l d", "d"),
    ("touch d/3; find d", "d"),
    ("stat d d/1; test -r d/1", "d/1"),
    ("ln -s other s", "s"),
    ("readlink s", "s"),
    ("readlink s", "s"),
    ("touch -d '2001-01-01' -a other; touch -d '2001-01-02' -m other", "other"),
    ("cat other", "other"),
];

fn accessed(path: &Path) -> (i64, i64) {
    let a = fs::symlink_metadata(path).unwrap();
    (a.atime(), a.atime_nsec())
}

/// Which of the steps moved the access time.
fn moved(dir: &Path) -> Vec<bool> {
    let step = |(script, name): &(&str, &str)| {
        let path = dir.join(name);
        let before = path.symlink_metadata().is_ok().then(|| accessed(&path));
        std::thread::sleep(std::time::Duration::from_millis(12));
        let done = Command::new("bash").args(["-ec", script]).current_dir(dir).output().unwrap();
        assert!(done.status.success(), "{script}: {done:?}");
        before != Some(accessed(&path))
    };
    STEPS.iter().map(step).collect()
}

#[test]
fn they_move_as_on_ext4() {
    assert!(is_root(), "a filesystem of its own needs root");
    let (mut m, ext4) = (Mounted::new(), Ext4::new());
    let (there, here) = (moved(&ext4.dir()), moved(&m.dir()));
    for (step, (there, here)) in STEPS.iter().zip(there.iter().zip(&here)) {
        assert_eq!(here, there, "{step:?}: moved, and on ext4");
    }
    assert!(
        there.iter().filter(|m| **m).count() > 12 && there.iter().filter(|m| !**m).count() > 8,
        "{there:?}"
    );
    // They are still there after a clean end.
    let names = ["g", "h", "run", "d", "d/1", "s", "other"];
    let before = names.map(|name| accessed(&m.path(name)));
    m.unmount();
    m.mount(&[]);
    assert_eq!(names.map(|name| accessed(&m.path(name))), before);
    // What is set by hand is not what was noted before.
    m.sh("touch -m h; cat h > /dev/null; touch -a -d @5.5 h");
    assert_eq!(accessed(&m.path("h")), (5, 500_000_000));
    m.unmount();
    m.mount(&[]);
    assert_eq!(accessed(&m.path("h")), (5, 500_000_000));
}

fn last_lsn(m: &Mounted) -> u64 {
    let said = segfs(&["status", "--json", m.dir().to_str().unwrap()]);
    let status: serde_json::Value = serde_json::from_slice(&said.stdout).unwrap();
    status["log"]["last_lsn"].as_u64().unwrap()
}

#[test]
fn reading_writes_no_record_for_each_file() {
    let mut m = Mounted::new();
    const FILES: usize = 1500;
    for n in 0..FILES {
        write(&m.path(&format!("f{n}")), "x");
    }
    let before = last_lsn(&m);
    for n in 0..FILES {
        fs::read(m.path(&format!("f{n}"))).unwrap();
    }
    assert_eq!(last_lsn(&m), before);
    let times: Vec<_> = (0..FILES).map(|n| accessed(&m.path(&format!("f{n}")))).collect();
    m.unmount();
    m.mount(&[]);
    assert!(last_lsn(&m) - before < 10, "{} records", last_lsn(&m) - before);
    assert_eq!((0..FILES).map(|n| accessed(&m.path(&format!("f{n}")))).collect::<Vec<_>>(), times);
    m.unmount();
    // Nobody who only looks moves anything.
    m.mount(&["-o", "ro"]);
    m.sh("touch -c f0 2> /dev/null || true; cat f0 > /dev/null; ls");
    assert_eq!(accessed(&m.path("f0")), times[0]);
}

#[test]
fn they_stay_or_always_move_where_that_is_asked_for() {
    let touch_and_read = "touch -m -d now f; sleep 0.02; cat f > /dev/null";
    let m = Mounted::with(&["-o", "noatime"]);
    write(&m.path("f"), "x");
    let before = accessed(&m.path("f"));
    m.sh(touch_and_read);
    assert_eq!(accessed(&m.path("f")), before);
    let m = Mounted::with(&["-o", "strictatime"]);
    write(&m.path("f"), "x");
    m.sh(touch_and_read);
    let mut last = accessed(&m.path("f"));
    for _ in 0..3 {
        m.sh("sleep 0.02; cat f > /dev/null");
        let now = accessed(&m.path("f"));
        assert!(now > last);
        last = now;
    }
    // Of a file that was read and removed nothing is left to be written.
    let f = File::open(m.path("f")).unwrap();
    fs::remove_file(m.path("f")).unwrap();
    drop(f);
}
