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
