//! Listing directories while they change.

use std::{collections::HashMap, fs};

use super::{Mounted, write};

#[test]
fn what_stays_is_listed_exactly_once() {
    let m = Mounted::new();
    fs::create_dir(m.path("d")).unwrap();
    let stays = |i: u32| format!("d/stay-{i:05}-{}", "x".repeat(100));
    for i in 0..3000 {
        write(&m.path(&stays(i)), "");
        write(&m.path(&format!("d/gone-{i:05}")), "");
    }
    let dir = fs::File::open(m.path("d")).unwrap();
    let mut seen: HashMap<String, u32> = HashMap::new();
    for (n, entry) in rustix::fs::Dir::read_from(&dir).unwrap().enumerate() {
        let name = entry.unwrap().file_name().to_str().unwrap().to_owned();
        *seen.entry(name).or_default() += 1;
        if n % 2 == 0 && n < 6000 {
            let i = n / 2;
            let _ = fs::remove_file(m.path(&format!("d/gone-{i:05}")));
            write(&m.path(&format!("d/made-{i:05}")), "");
            write(&m.path(&format!("d/zmade-{i:05}")), "");
        }
    }
    for i in 0..3000 {
        assert_eq!(seen.get(&stays(i)[2..]), Some(&1), "{i}");
    }
    assert!(seen.values().all(|n| *n == 1));
    assert!(seen.contains_key(".") && seen.contains_key(".."));
}

#[test]
fn a_tree_is_copied_and_removed() {
    let m = Mounted::new();
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/src");
    m.sh(&format!("cp -a {source} copy && diff -r {source} copy && cp -a copy again && rm -rf copy"));
    m.sh("mkdir many && cd many && for i in $(seq 1000); do echo $i > $i; done; test $(ls | wc -l) = 1000");
    m.sh("rm -rf again many && test -z \"$(ls -A)\"");
}

#[test]
fn git_finds_nothing_wrong() {
    let m = Mounted::new();
    let git = "git -c user.name=a -c user.email=a@b -c init.defaultBranch=main";
    m.sh(&format!("{git} init -q r && cd r && for i in $(seq 200); do echo $i > f$i; done && {git} add -A && {git} commit -qm one && {git} gc -q && {git} fsck --strict"));
    m.sh(&format!(
        "{git} clone -q r c && cd c && test -z \"$({git} status --porcelain)\" && {git} fsck --strict"
    ));
}

fn names(m: &Mounted, dir: &str) -> Vec<String> {
    let mut all: Vec<String> =
        fs::read_dir(m.path(dir)).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    all.sort();
    all
}

/// Requests answered so far.
fn answered(m: &Mounted) -> u64 {
    let out = super::segfs(&["status", "--json", m.store().to_str().unwrap()]);
    let status: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
    status["doing"]["requests_answered"].as_u64().unwrap_or_else(|| panic!("{status}"))
}

/// The kernel keeps the listing of a small directory when that is closed, and never shows an old one.
#[test]
fn a_kept_listing_follows_every_change() {
    let m = Mounted::new();
    m.sh("mkdir d e; for i in $(seq 100); do : > d/f$i; done; : > e/x");
    assert_eq!(names(&m, "d").len(), 100);
    let before = answered(&m);
    for _ in 0..20 {
        assert_eq!(names(&m, "d").len(), 100);
    }
    // Opening and closing; without the kept listing at least two more.
    assert!(answered(&m) - before <= 45, "{} requests for 20 listings", answered(&m) - before);
    let changes = [
        ("touch d/new", "+new"),
        ("rm d/new", "-new"),
        ("mkdir d/sub", "+sub"),
        ("rmdir d/sub", "-sub"),
        ("ln -s x d/soft", "+soft"),
        ("ln d/f1 d/hard", "+hard"),
        ("mkfifo d/fifo", "+fifo"),
        ("mv e/x d/x", "+x"),
        ("mv d/x e/x", "-x"),
        ("mv d/f1 d/f0", "-f1 +f0"),
        ("mv d/f2 d/f3", "-f2"),
        ("touch -d 2001-01-01 d; rm d/f4", "-f4"),
        ("touch -d 2001-01-01 d; touch d/f4", "+f4"),
        ("cd d; rm f5; touch f5", ""),
    ];
    let mut want = names(&m, "d");
    for (command, effect) in changes {
        m.sh(command);
        for change in effect.split_whitespace() {
            match change.split_at(1) {
                ("+", name) => want.push(name.to_owned()),
                (_, name) => want.retain(|n| n != name),
            }
        }
        want.sort();
        for _ in 0..3 {
            assert_eq!(names(&m, "d"), want, "after {command}");
        }
    }
}

/// Places in a small directory mean the same to every handle, also when the entry before them is gone.
#[test]
fn a_listing_goes_on_in_another_handle() {
    let m = Mounted::new();
    m.sh("mkdir d; for i in $(seq 300); do : > d/f$i; done");
    let list = |from: u64| {
        let dir = fs::File::open(m.path("d")).unwrap();
        rustix::fs::seek(&dir, rustix::fs::SeekFrom::Start(from)).unwrap();
        let mut buffer = [std::mem::MaybeUninit::uninit(); 1000];
        let mut all = Vec::new();
        let mut entries = rustix::fs::RawDir::new(&dir, &mut buffer);
        while let Some(entry) = entries.next() {
            let entry = entry.unwrap();
            all.push((entry.file_name().to_str().unwrap().to_owned(), entry.next_entry_cookie()));
        }
        all
    };
    let whole = list(0);
    assert_eq!(whole.len(), 302);
    for (n, (name, cookie)) in whole.iter().enumerate().skip(3).step_by(7) {
        assert_eq!(list(*cookie), whole[n + 1..], "behind {name}");
        if name.starts_with('f') {
            fs::remove_file(m.path(&format!("d/{name}"))).unwrap();
            // What is kept is dropped, and the same place asked for anew.
            assert_eq!(list(*cookie), whole[n + 1..], "behind {name}, which is gone");
        }
    }
}
