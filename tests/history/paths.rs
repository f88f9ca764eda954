//! `.segfs`: what it shows, and what it refuses.

use std::{
    fs, io,
    os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use rustix::fs::XattrFlags;

use crate::mount::{Mounted, is_root, segfs, write};

const NOBODY: u32 = 65534;

fn names(dir: impl AsRef<Path>) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(dir.as_ref())
        .unwrap_or_else(|e| panic!("{}: {e}", dir.as_ref().display()))
        .map(|e| e.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

/// Past the end of this second, so that a moment of whole seconds lies between what was and what comes.
fn next_second() {
    std::thread::sleep(Duration::from_millis(1100));
}

/// The canonical name of the second that is now over.
fn now(m: &Mounted) -> String {
    fs::read_link(m.path(".segfs/at/now")).unwrap().to_str().unwrap().to_owned()
}

fn xattr(path: impl AsRef<Path>, name: &str) -> Result<String, rustix::io::Errno> {
    let mut value = [0; 65536];
    let n = rustix::fs::getxattr(path.as_ref(), name, &mut value)?;
    Ok(String::from_utf8_lossy(&value[..n]).into_owned())
}

#[track_caller]
fn read_only<T: std::fmt::Debug>(done: io::Result<T>) {
    assert_eq!(done.unwrap_err().kind(), io::ErrorKind::ReadOnlyFilesystem);
}

#[test]
fn a_moment_is_the_whole_tree_as_it_was() {
    let m = Mounted::new();
    fs::create_dir_all(m.path("d/e")).unwrap();
    write(&m.path("d/f"), "then");
    symlink("f", m.path("d/soft")).unwrap();
    fs::hard_link(m.path("d/f"), m.path("d/e/hard")).unwrap();
    fs::set_permissions(m.path("d/f"), fs::Permissions::from_mode(0o4640)).unwrap();
    rustix::fs::setxattr(m.path("d/f"), "user.colour", b"red", XattrFlags::empty()).unwrap();
    let before = fs::metadata(m.path("d/f")).unwrap();
    next_second();
    let then = now(&m);
    m.sh(
        "echo now > d/f; mv d/e d/moved; rm d/soft; mkdir d/new; chmod 777 d/f; setfattr -x user.colour d/f",
    );
    let at = m.path(".segfs/at").join(&then);
    assert_eq!(names(at.join("d")), ["e", "f", "soft"]);
    assert_eq!(fs::read_to_string(at.join("d/f")).unwrap(), "then");
    assert_eq!(fs::read_to_string(at.join("d/soft")).unwrap(), "then");
    assert_eq!(names(at.join("d/e")), ["hard"]);
    let old = fs::metadata(at.join("d/f")).unwrap();
    assert_eq!(old.mode() & 0o7777, 0o640, "as it was, without set-user-id");
    assert_eq!(
        (old.mtime_nsec(), old.ctime_nsec(), old.nlink()),
        (before.mtime_nsec(), before.ctime_nsec(), 2)
    );
    assert_ne!(old.ino(), before.ino());
    assert_eq!(old.ino(), fs::metadata(at.join("d/e/hard")).unwrap().ino(), "one object, one number");
    assert_eq!(xattr(at.join("d/f"), "user.colour").unwrap(), "red");
    // From a directory below, the same moment of that directory alone.
    assert_eq!(names(m.path("d/.segfs/at").join(&then)), ["e", "f", "soft"]);
    assert_eq!(names(m.path("d/moved/.segfs/at").join(&then)), ["hard"], "wherever it was called then");
    assert_eq!(
        fs::read_dir(m.path("d/new/.segfs/at").join(&then)).unwrap_err().kind(),
        io::ErrorKind::NotFound,
        "it was not there yet"
    );
    let listed = names(m.path(".segfs/at"));
    let shows =
        |t: &String| fs::read_to_string(m.path(".segfs/at").join(t).join("d/f")).is_ok_and(|c| c == "then");
    assert!(listed.iter().any(|t| *t <= then && shows(t)), "{then} in {listed:?}");
    m.sh(&format!(
        "cp -a .segfs/at/{then}/d {0}/copy && diff -r {0}/copy .segfs/at/{then}/d",
        m.root.path().display()
    ));
}

#[test]
fn every_form_of_a_moment_leads_to_the_canonical_name() {
    let m = Mounted::new();
    write(&m.path("f"), "x");
    next_second();
    let then = now(&m);
    let at = |name: &str| m.path(".segfs/at").join(name);
    let link = |name: &str| fs::read_link(at(name)).map(|p| p.to_str().unwrap().to_owned());
    for other in [
        then.trim_end_matches('Z').to_owned(),
        then.replace('.', ":"),
        format!("@GMT-{}", then.replace('-', ".").replace('T', "-").trim_end_matches('Z')),
        then.replace('Z', ".000Z"),
    ] {
        assert_eq!(link(&other).unwrap(), then, "{other}");
        assert_eq!(fs::read_to_string(at(&other).join("f")).unwrap(), "x");
    }
    assert!(link("2h").unwrap().ends_with('Z') && link("yesterday").unwrap().ends_with('Z'));
    // Before the store existed, after now, and what is no moment.
    for none in [
        "1969-01-01",
        "2020-01-01T00.00.00Z",
        "2h/f",
        "2999-01-01T00.00.00Z",
        "9999",
        "2026-13-01",
        "x",
        "@LSN:99999",
    ] {
        assert_eq!(fs::metadata(at(none)).unwrap_err().kind(), io::ErrorKind::NotFound, "{none}");
    }
    // A fraction of a second is a moment of its own.
    next_second();
    let precise = then.replace('Z', ".123456789Z");
    assert!(at(&precise).join("f").exists());
    assert_ne!(fs::metadata(at(&precise)).unwrap().ino(), fs::metadata(at(&then)).unwrap().ino());
    assert!(fs::metadata(at("@LSN:1")).unwrap().is_dir());
}

#[test]
fn nothing_in_history_can_be_changed_and_nothing_finds_it_by_itself() {
    let m = Mounted::new();
    fs::create_dir(m.path("d")).unwrap();
    write(&m.path("d/f"), "1");
    write(&m.path("d/f"), "2");
    next_second();
    let then = now(&m);
    assert_eq!(m.sh("find . | sort"), ".\n./d\n./d/f\n");
    let old = m.path("d/.segfs/at").join(&then).join("f");
    read_only(fs::write(&old, "x"));
    read_only(fs::remove_file(&old));
    read_only(fs::rename(&old, m.path("stolen")));
    read_only(fs::hard_link(&old, m.path("linked")));
    read_only(fs::set_permissions(&old, fs::Permissions::from_mode(0o777)));
    read_only(fs::write(old.with_file_name("new"), "x"));
    read_only(fs::create_dir(m.path("d/.segfs/tags/t")));
    read_only(symlink("x", m.path("d/.segfs/x")));
    read_only(fs::remove_dir(m.path("d/.segfs")));
    read_only(fs::rename(m.path("d/.segfs"), m.path("other")));
    read_only(rustix::fs::setxattr(&old, "user.x", b"", XattrFlags::empty()).map_err(io::Error::from));
    assert_eq!(fs::rename(m.path("d"), m.path(".segfs")).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
    m.sh("rm -rf d && test -z \"$(ls -A)\"");
    assert_eq!(fs::metadata(m.path("d/.segfs")).unwrap_err().kind(), io::ErrorKind::NotFound);
}

#[test]
fn where_history_shows_is_a_mount_option() {
    let mut m = Mounted::new();
    fs::create_dir(m.path("d")).unwrap();
    m.unmount();
    m.mount(&["-o", "history=visible"]);
    assert_eq!(names(m.path("d")), [".segfs"]);
    assert_eq!(names(m.dir()), [".segfs", "d"]);
    assert_eq!(m.sh("ls -a d"), ".\n..\n.segfs\n");
    m.unmount();
    m.mount(&["-o", "history=off"]);
    assert!(!m.path("d/.segfs").exists());
    assert_eq!(fs::create_dir(m.path("d/.segfs")).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
}

#[test]
fn virtual_attributes_answer_and_are_in_no_list() {
    let m = Mounted::new();
    write(&m.path("f"), "one");
    write(&m.path("f"), "two!");
    m.sh("sed -i s/two/three/ f");
    let of = |name: &str| xattr(m.path("f"), &format!("user.segfs.{name}"));
    assert_eq!(of("versions").unwrap(), "3");
    assert_eq!(of("ordinal").unwrap(), "3");
    assert_eq!(of("exact").unwrap(), "1");
    assert_eq!(of("version_id").unwrap().len(), 36);
    assert_eq!(of("content_hash").unwrap().len(), 64);
    assert!(of("creation_time").unwrap().ends_with('Z') && of("birth_time").unwrap().len() == 30);
    assert_eq!(of("replication_status"), Err(rustix::io::Errno::NODATA));
    assert_eq!(of("x"), Err(rustix::io::Errno::NODATA));
    let first = m.path(".segfs/versions/f/1");
    assert_eq!(xattr(&first, "user.segfs.ordinal").unwrap(), "1");
    assert_ne!(xattr(&first, "user.segfs.version_id"), of("version_id"));
    assert_eq!(xattr(m.path(".segfs/versions/f/3"), "user.segfs.version_id"), of("version_id"));
    let set = |name| rustix::fs::setxattr(m.path("f"), name, b"1", XattrFlags::empty());
    assert_eq!(set("user.segfs.exact"), Err(rustix::io::Errno::PERM));
    assert_eq!(set("user.segfs.other"), Err(rustix::io::Errno::PERM));
    assert_eq!(rustix::fs::removexattr(m.path("f"), "user.segfs.exact"), Err(rustix::io::Errno::PERM));
    let mut list = [0; 100];
    assert_eq!(rustix::fs::listxattr(m.path("f"), &mut list).unwrap(), 0);
    write(&m.path("never"), "");
    assert_eq!(xattr(m.path("never"), "user.segfs.versions").unwrap(), "0");
    assert_eq!(xattr(m.path("never"), "user.segfs.version_id"), Err(rustix::io::Errno::NODATA));
}

/// Runs a shell command as somebody else, with these other groups; did it succeed?
fn as_nobody(m: &Mounted, script: &str) -> bool {
    let mut command = Command::new("sh");
    command.args(["-c", script]).current_dir("/").env("M", m.dir()).uid(NOBODY).gid(NOBODY);
    command
        .stderr(std::process::Stdio::null())
        .stdout(std::process::Stdio::null())
        .status()
        .unwrap()
        .success()
}

#[test]
fn access_takes_the_old_mode_and_the_present_one() {
    if !is_root() {
        return;
    }
    let m = Mounted::for_all();
    let mode =
        |name: &str, mode| fs::set_permissions(m.path(name), fs::Permissions::from_mode(mode)).unwrap();
    fs::create_dir(m.path("d")).unwrap();
    for name in ["d/was-open", "d/was-closed", "d/open"] {
        write(&m.path(name), "x");
    }
    mode("d", 0o755);
    mode("d/was-closed", 0o600);
    next_second();
    let at = PathBuf::from("$M/.segfs/at").join(now(&m));
    let cat = |name: &str| as_nobody(&m, &format!("cat {}", at.join(name).display()));
    mode("d/was-open", 0o600);
    mode("d/was-closed", 0o644);
    assert!(cat("d/open"));
    assert!(!cat("d/was-open"), "closed now");
    assert!(!cat("d/was-closed"), "closed then");
    assert!(as_nobody(&m, "cat $M/d/.segfs/versions/open/1"));
    assert!(!as_nobody(&m, "cat $M/d/.segfs/versions/was-open/1"));
    // A directory that is closed now, though the kernel knows the way in the past by heart.
    let listed = format!("ls {}", at.join("d").display());
    assert!(as_nobody(&m, &listed));
    mode("d", 0o700);
    assert!(!as_nobody(&m, &listed));
    assert!(!cat("d/open"));
    assert!(!as_nobody(&m, "ls $M/d/.segfs"));
    // In the file's group by a second group only; an ACL that names the user.
    mode("d", 0o755);
    chown(m.path("d/open"), Some(1234), Some(4321)).unwrap();
    mode("d/open", 0o640);
    let in_group = |script: &str| {
        let python = format!(
            "import os, sys\nos.setgroups([4321])\nos.setgid({NOBODY})\nos.setuid({NOBODY})\nsys.exit(os.waitstatus_to_exitcode(os.system({script:?})))"
        );
        let mut command = Command::new("python3");
        command.args(["-c", &python]).env("M", m.dir()).stderr(std::process::Stdio::null());
        command.stdout(std::process::Stdio::null()).status().unwrap().success()
    };
    assert!(!cat("d/open"));
    assert!(in_group(&format!("cat {}", at.join("d/open").display())));
    m.sh("setfacl -m u:65534:r d/open");
    assert!(cat("d/open"), "the ACL of now lets them in");
    // What exists no more has only its old mode.
    fs::remove_file(m.path("d/was-open")).unwrap();
    assert!(cat("d/was-open"));
}

#[test]
fn deleted_names_show_their_last_content() {
    let m = Mounted::new();
    m.sh("echo 1 > a; echo 22 > a; ln -s a soft; touch empty; mkdir d; echo x > moved; mv moved d/m; rm a soft empty");
    assert_eq!(names(m.path(".segfs/deleted")), ["a", "empty", "soft"]);
    assert_eq!(fs::read_to_string(m.path(".segfs/deleted/a")).unwrap(), "22\n");
    assert_eq!(fs::read_link(m.path(".segfs/deleted/soft")).unwrap(), Path::new("a"));
    assert_eq!(fs::read(m.path(".segfs/deleted/empty")).unwrap(), b"");
    assert_eq!(names(m.path(".segfs/versions")), ["a", "empty", "soft"]);
    assert_eq!(names(m.path(".segfs/versions/a")).len(), 2);
    m.sh("echo back > a");
    assert_eq!(names(m.path(".segfs/deleted")), ["empty", "soft"]);
    assert_eq!(names(m.path(".segfs/versions/a")).len(), 3);
}

#[test]
fn a_long_list_of_versions_is_paged() {
    let m = Mounted::new();
    m.sh("for i in $(seq 300); do echo $i > f.c; done; for i in $(seq 301 700); do echo $i > g; mv g f.c; done");
    let listed = names(m.path(".segfs/versions/f.c"));
    assert_eq!(listed.len(), 700);
    assert!(
        listed
            .iter()
            .enumerate()
            .all(|(n, name)| name.starts_with(&format!("{:08}.", n + 1)) && name.ends_with("Z.c"))
    );
    assert_eq!(m.sh("cat .segfs/versions/f.c/*"), (1..=700).map(|i| format!("{i}\n")).collect::<String>());
    assert_eq!(m.sh("cat .segfs/versions/f.c/7 .segfs/versions/f.c/650"), "7\n650\n");
    assert!(!m.path(".segfs/versions/f.c/701").exists());
    let page = xattr(m.path(".segfs/versions/f.c"), "user.segfs.page.500").unwrap();
    assert_eq!(page.lines().count(), 201);
    let page = xattr(m.path(".segfs/versions/f.c"), "user.segfs.before.500").unwrap();
    assert_eq!((page.lines().count(), page.lines().last().unwrap().starts_with("499\t")), (224, true));
}

/// What a name like `now` leads to changes, and so does what a tag does that is given anew.
#[test]
fn aliases_lead_to_where_they_should_each_time() {
    let m = Mounted::new();
    write(&m.path("f"), "one");
    std::thread::sleep(std::time::Duration::from_millis(1100));
    let tag = |what: &str| assert!(segfs(&["tag", what, "t", m.dir().to_str().unwrap()]).status.success());
    tag("add");
    let first = m.sh("readlink .segfs/at/now; readlink .segfs/tags/t");
    write(&m.path("f"), "two");
    std::thread::sleep(std::time::Duration::from_millis(1100));
    tag("rm");
    tag("add");
    let then = m.sh("readlink .segfs/at/now; readlink .segfs/tags/t");
    assert!(first.lines().zip(then.lines()).all(|(a, b)| a < b), "{first}{then}");
    assert_eq!(m.sh("cat .segfs/at/now/f .segfs/tags/t/f"), "twotwo");
}
