//! Owners, modes and ACLs, as several users see them. As root only: others can't be others.

use std::{
    fs,
    os::unix::{
        fs::{MetadataExt, PermissionsExt, chown},
        process::CommandExt,
    },
    process::Command,
};

use rustix::fs::XattrFlags;

use super::{Mounted, is_root, write};

const NOBODY: u32 = 65534;

fn mode(m: &Mounted, name: &str) -> u32 {
    fs::metadata(m.path(name)).unwrap().mode() & 0o7777
}

fn set_mode(m: &Mounted, name: &str, mode: u32) {
    fs::set_permissions(m.path(name), fs::Permissions::from_mode(mode)).unwrap();
}

/// Runs a shell command in the mount as somebody else; did it succeed?
fn as_nobody(m: &Mounted, script: &str) -> bool {
    let mut command = Command::new("sh");
    command.args(["-c", script]).current_dir("/").env("M", m.dir()).uid(NOBODY).gid(NOBODY);
    command.stderr(std::process::Stdio::null()).status().unwrap().success()
}

#[test]
fn writing_takes_set_user_id_away() {
    if !is_root() {
        return;
    }
    let m = Mounted::for_all();
    write(&m.path("f"), "x");
    set_mode(&m, "f", 0o6777);
    write(&m.path("f"), "root may");
    assert_eq!(mode(&m, "f"), 0o6777);
    assert!(as_nobody(&m, "echo more >> $M/f"));
    assert_eq!(mode(&m, "f"), 0o777);
    set_mode(&m, "f", 0o6777);
    assert!(as_nobody(&m, ": > $M/f"));
    assert_eq!(mode(&m, "f"), 0o777);
    set_mode(&m, "f", 0o6755);
    chown(m.path("f"), Some(NOBODY), None).unwrap();
    assert_eq!(mode(&m, "f"), 0o755);
}

#[test]
fn a_group_goes_down_a_set_group_id_directory() {
    if !is_root() {
        return;
    }
    let m = Mounted::for_all();
    fs::create_dir(m.path("d")).unwrap();
    chown(m.path("d"), None, Some(1234)).unwrap();
    set_mode(&m, "d", 0o2777);
    assert!(as_nobody(&m, "mkdir $M/d/sub && touch $M/d/sub/f && ln -s x $M/d/l"));
    for name in ["d/sub", "d/sub/f", "d/l"] {
        let meta = fs::symlink_metadata(m.path(name)).unwrap();
        assert_eq!((meta.uid(), meta.gid()), (NOBODY, 1234), "{name}");
    }
    assert_eq!(mode(&m, "d/sub") & 0o2000, 0o2000);
    assert!(!as_nobody(&m, "mkdir $M/none/x"));
    set_mode(&m, "d", 0o755);
    assert!(!as_nobody(&m, "touch $M/d/refused"), "the kernel checks permissions");
}

/// An ACL: tag, permissions, id.
fn acl(entries: &[(u16, u16, u32)]) -> Vec<u8> {
    let mut out = 2_u32.to_le_bytes().to_vec();
    for (tag, perm, id) in entries {
        out.extend_from_slice(&tag.to_le_bytes());
        out.extend_from_slice(&perm.to_le_bytes());
        out.extend_from_slice(&id.to_le_bytes());
    }
    out
}

#[test]
fn acls_decide_and_are_inherited() {
    if !is_root() {
        return;
    }
    let m = Mounted::for_all();
    let none = u32::MAX;
    write(&m.path("f"), "x");
    set_mode(&m, "f", 0o600);
    assert!(!as_nobody(&m, "cat $M/f"));
    let access = acl(&[(1, 6, none), (2, 4, NOBODY), (4, 0, none), (0x10, 4, none), (0x20, 0, none)]);
    let set = |name: &str, which: &str, value: &[u8]| {
        rustix::fs::setxattr(m.path(name), which, value, XattrFlags::empty())
    };
    set("f", "system.posix_acl_access", &access).unwrap();
    assert_eq!(mode(&m, "f"), 0o640, "the mask shows as the group's bits");
    assert!(as_nobody(&m, "cat $M/f > /dev/null"));
    set_mode(&m, "f", 0o600);
    assert!(!as_nobody(&m, "cat $M/f"), "chmod sets the mask");
    fs::create_dir(m.path("d")).unwrap();
    let default = acl(&[(1, 7, none), (2, 7, NOBODY), (4, 5, none), (0x10, 7, none), (0x20, 0, none)]);
    set("d", "system.posix_acl_default", &default).unwrap();
    m.sh("umask 077; echo x > d/f; mkdir d/sub; chmod 755 d");
    assert!(as_nobody(&m, "echo y >> $M/d/f"), "the default ACL stands in for the umask");
    let mut value = [0; 256];
    let n = rustix::fs::getxattr(m.path("d/sub"), "system.posix_acl_default", &mut value).unwrap();
    assert_eq!(value[..n], default);
    assert_eq!(mode(&m, "d/f"), 0o660);
    let bad = set("f", "system.posix_acl_access", &acl(&[(1, 7, none)]));
    assert_eq!(bad, Err(rustix::io::Errno::INVAL));
}
