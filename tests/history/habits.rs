//! Saving as people and programs do it: each way gives one version a save, and one line of history a file.

use std::{ffi::OsStr, fs, os::unix::ffi::OsStrExt, path::Path};

use crate::mount::{Mounted, write};

/// Contents of the versions of a file, oldest first, as its directory of versions has them.
fn versions(m: &Mounted, file: &str) -> Vec<Vec<u8>> {
    let path = Path::new(file);
    let dir = m.path(path.parent().unwrap().to_str().unwrap()).join(".segfs/versions");
    let mut files: Vec<_> =
        fs::read_dir(dir.join(path.file_name().unwrap())).unwrap().map(|e| e.unwrap().path()).collect();
    files.sort();
    files.iter().map(|f| fs::read(f).unwrap()).collect()
}

/// A hundred saves of this file by a command that writes `$i` and a newline into it.
fn hundred(m: &Mounted, file: &str, save: &str) {
    m.sh(&format!("for i in $(seq 100); do {save}; done"));
    let found = versions(m, file);
    let lines: Vec<String> = found.iter().map(|v| String::from_utf8_lossy(v).trim_end().to_owned()).collect();
    let wanted: Vec<String> = (1..=100).map(|i| i.to_string()).collect();
    assert_eq!(lines, wanted, "{save}");
}

#[test]
fn a_shell_that_writes_over_a_file() {
    hundred(&Mounted::new(), "f", "echo $i > f");
}

#[test]
fn sed_in_place() {
    let m = Mounted::new();
    m.sh("echo 0 > f.txt; rm f.txt; echo 1 > start; mv start f.txt");
    m.sh("for i in $(seq 2 100); do sed -i s/.*/$i/ f.txt; done");
    let found = versions(&m, "f.txt");
    // The first file of this name was deleted before: its one version is the first of the line.
    assert_eq!(found.len(), 101);
    assert_eq!((&found[0][..], &found[100][..]), (&b"0\n"[..], &b"100\n"[..]));
}

#[test]
fn rsync_onto_it() {
    let m = Mounted::new();
    fs::create_dir(m.root.path().join("from")).unwrap();
    let from = m.root.path().join("from/f");
    hundred(&m, "f", &format!("echo $i > {0}; rsync --ignore-times --whole-file {0} f", from.display()));
}

#[test]
fn git_checkout_of_a_hundred_commits() {
    let m = Mounted::new();
    let git = "git -c user.name=a -c user.email=a@b -c init.defaultBranch=main -c advice.detachedHead=false";
    let source = m.root.path().join("source");
    let made = std::process::Command::new("bash")
        .args(["-ec", &format!("{git} init -q {0} && cd {0} && for i in $(seq 100); do echo $i > f; {git} add f; {git} commit -qm $i; {git} tag t$i; done", source.display())])
        .status();
    assert!(made.unwrap().success());
    m.sh(&format!("{git} clone -q --no-checkout {} r", source.display()));
    m.sh("cd r && git config advice.detachedHead false");
    hundred(&m, "r/f", "git -C r checkout -q t$i");
}

#[test]
fn vim_with_its_own_settings() {
    let m = Mounted::new();
    // A file that is there already: vim puts it aside by renaming, writes a new one, and deletes the old.
    write(&m.path("f"), "0\n");
    let script =
        "for i in $(seq 100); do vim.tiny -u NONE -i NONE -n -es -c \"%s/.*/$i/\" -c wq f < /dev/null; done";
    m.sh(script);
    let found = versions(&m, "f");
    let last = found.last().map(|v| String::from_utf8_lossy(v).into_owned());
    assert_eq!((found.len(), last.as_deref()), (101, Some("100\n")));
    m.sh("for i in $(seq 101 103); do vim.tiny -u NONE -i NONE -n -es -c 'set backupcopy=no writebackup' -c \"%s/.*/$i/\" -c wq f < /dev/null; done");
    assert_eq!(versions(&m, "f").len(), 104);
}

#[test]
fn mv_carries_it_along_and_made_again_is_one_lineage() {
    let m = Mounted::new();
    m.sh(
        "mkdir d; for i in 1 2 3; do echo $i > f; done; mv f d/g; echo 4 > d/g; rm d/g; echo 5 > d/g; mv d e",
    );
    let text = |file: &str| {
        versions(&m, file).iter().map(|v| String::from_utf8_lossy(v).trim().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(text("e/g"), ["1", "2", "3", "4", "5"]);
    assert_eq!(text("f"), ["1", "2", "3"], "what the name showed before it was moved away");
}

#[test]
fn a_close_that_is_still_due_counts_when_history_is_asked() {
    use std::{io::Write, os::fd::AsFd};
    let m = Mounted::new();
    let mut f = fs::File::create_new(m.path("f")).unwrap();
    f.write_all(b"flushed").unwrap();
    // A duplicate is closed: the file is flushed, but stays open.
    drop(f.as_fd().try_clone_to_owned().unwrap());
    assert_eq!(versions(&m, "f"), [b"flushed"]);
    f.write_all(b", not flushed").unwrap();
    assert_eq!(versions(&m, "f").len(), 1);
    drop(f);
    assert_eq!(versions(&m, "f")[1..], [b"flushed, not flushed"]);
    // A name that is taken right after the close does not lose its last version.
    m.sh("for i in $(seq 200); do echo $i > a; echo new > b; mv b a; rm a; done");
    assert_eq!(versions(&m, "a").len(), 400);
}

#[test]
fn names_of_any_bytes_have_histories() {
    let m = Mounted::new();
    let long = [b'l'; 255];
    let names: [&[u8]; 9] = [
        b"a@3",
        b"@",
        b"new\nline",
        b"\xff\xfe",
        &long,
        b" ",
        b"-rf",
        b"00000001.2026-11-23T02.45.05Z",
        b"...",
    ];
    for name in names {
        let path = m.dir().join(OsStr::from_bytes(name));
        write(&path, "1");
        write(&path, "22");
        let dir = m.dir().join(".segfs/versions").join(OsStr::from_bytes(name));
        let sizes: Vec<u64> = {
            let mut files: Vec<_> = fs::read_dir(&dir).unwrap().map(|e| e.unwrap().path()).collect();
            files.sort();
            files.iter().map(|f| fs::metadata(f).unwrap().len()).collect()
        };
        assert_eq!(sizes, [1, 2], "{}", name.escape_ascii());
        fs::remove_file(&path).unwrap();
        let gone = m.dir().join(".segfs/deleted").join(OsStr::from_bytes(name));
        assert_eq!(fs::read(&gone).unwrap(), b"22");
    }
    assert_eq!(fs::read_dir(m.path(".segfs/deleted")).unwrap().count(), names.len());
    let name = m.path(".segfs");
    assert_eq!(fs::File::create_new(&name).unwrap_err().kind(), std::io::ErrorKind::AlreadyExists);
    assert_eq!(fs::create_dir(&name).unwrap_err().kind(), std::io::ErrorKind::AlreadyExists);
}
