//! Mounting as somebody who is not root, and on machines where something is missing. As root only, in a mount namespace of
//! its own, in which `/dev` is whatever a test makes it.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::{Command, Output},
};

use super::{SEGFS, is_root};

/// A directory that everybody reaches, with the program in it.
fn place() -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    fs::set_permissions(root.path(), fs::Permissions::from_mode(0o755)).unwrap();
    super::install(SEGFS, &root.path().join("segfs"));
    root
}

/// What each script begins with: a small /dev with the FUSE device, a directory of the user's, and `fails`, which sees
/// that a command ends with a code, says a word, in three parts, and has made nothing in the user's directory.
const PRELUDE: &str = r#"
set -eu
mount -t tmpfs -o mode=755 tmpfs /dev
mknod -m 666 /dev/null c 1 3
mknod -m 666 /dev/fuse c 10 229
ln -s /proc/self/fd /dev/fd
mkdir "$D/u"; chown 65534:65534 "$D/u"; cd "$D/u"
S="$D/segfs"
user() { setpriv --reuid 65534 --regid 65534 --clear-groups "$@"; }
fails() {
    local code=$1 word=$2 got=0; shift 2
    "$@" > "$D/out" 2> "$D/err" || got=$?
    [ "$got" = "$code" ] || { echo "$*: ended with $got, not $code"; cat "$D/err"; exit 1; }
    grep -q -- "$word" "$D/err" || { echo "$*: does not say $word"; cat "$D/err"; exit 1; }
    [ "$(wc -l < "$D/err")" = 3 ] && grep -q "^  next: ." "$D/err" || { cat "$D/err"; exit 1; }
    [ -z "$(ls -A "$D/u")" ] || { echo "$*: left"; ls -RA "$D/u"; exit 1; }
}
"#;

fn private(root: &Path, script: &str) -> Output {
    let mut command = Command::new("unshare");
    // Whatever a script leaves running ends with it.
    command.args(["--mount", "--propagation", "private", "--pid", "--fork", "--kill-child", "--mount-proc"]);
    command.args(["timeout", "120", "bash", "-c"]);
    command.arg(format!("{PRELUDE}\n{script}")).env("D", root).output().unwrap()
}

#[track_caller]
fn works(script: &str) {
    if !is_root() {
        return;
    }
    let root = place();
    let done = private(root.path(), script);
    let said = [&done.stdout[..], &done.stderr].concat();
    assert!(done.status.success(), "{}\n{}", done.status, String::from_utf8_lossy(&said));
}

#[test]
fn a_user_mounts_asks_and_unmounts_through_fusermount3() {
    works(
        r#"
        user "$S" mount --background store mnt
        user sh -c 'echo mine > mnt/f'
        [ "$(user cat mnt/f)" = mine ]
        if cat mnt/f 2> /dev/null; then echo "root came in"; exit 1; fi
        user "$S" status mnt | grep -q '^state *mounted'
        "$S" status store | grep -q '^state *mounted'
        mount | grep -q "$D/u/mnt type fuse.segfs .*nosuid,nodev"
        got=0; user "$S" mount -o remount,ro store mnt 2> "$D/err" || got=$?
        [ $got = 2 ]
        grep -q "only root" "$D/err"
        user "$S" umount mnt | grep -q unmounted
        [ -z "$(ls -A mnt)" ]
        user "$S" status store | grep -q '^state *closed'
        # Signals too.
        setpriv --reuid 65534 --regid 65534 --clear-groups "$S" mount store mnt > /dev/null & pid=$!
        until user test -e mnt/f; do sleep 0.1; done
        kill -TERM $pid; wait $pid
        [ -z "$(ls -A mnt)" ]
        "#,
    );
}

#[test]
fn a_user_lets_others_in_only_where_that_is_allowed() {
    works(
        r#"
        echo > "$D/none"; echo user_allow_other > "$D/allowed"
        mount --bind "$D/none" /etc/fuse.conf
        fails 2 user_allow_other user "$S" mount -o allow_other store mnt
        umount /etc/fuse.conf; mount --bind "$D/allowed" /etc/fuse.conf
        user "$S" mount --background -o allow_other store mnt
        user sh -c 'echo mine > mnt/f'
        [ "$(cat mnt/f)" = mine ]
        user "$S" umount mnt
        "#,
    );
}

#[test]
fn without_fusermount3_a_user_is_told_and_nothing_is_made() {
    works(
        r#"
        helper=$(readlink -f "$(command -v fusermount3)")
        cp "$helper" "$D/plain"; chmod 755 "$D/plain"
        mount --bind /dev/null "$helper"
        fails 2 "through fusermount3" user "$S" mount store mnt
        fails 1 "fusermount3" user "$S" doctor > /dev/null
        umount "$helper"; mount --bind "$D/plain" "$helper"
        fails 2 "not set-user-id" user "$S" mount store mnt
        umount "$helper"
        "#,
    );
}

#[test]
fn without_dev_fuse_or_a_directory_of_ones_own_nothing_is_made() {
    works(
        r#"
        mkdir "$D/rootdir"
        fails 2 "may not write" user "$S" mount store "$D/rootdir"
        fails 2 "ermission denied" user "$S" mount store "$D/rootdir/mnt"
        rmdir "$D/rootdir"
        fails 2 "ermission denied" user "$S" mount "$D/store" mnt
        fails 2 "ermission denied" user "$S" mount "$D/deep/er/store" mnt
        fails 2 "ermission denied" user "$S" init "$D/store"
        # A store of somebody else's, which is left as it is.
        "$S" init "$D/roots" > /dev/null
        before=$(ls -lR --full-time "$D/roots" | md5sum)
        fails 2 "ermission denied" user "$S" mount "$D/roots" mnt
        chmod 755 "$D/roots"
        fails 2 "ermission denied" user "$S" mount "$D/roots" mnt
        chmod 700 "$D/roots"
        [ "$(ls -lR --full-time "$D/roots" | md5sum)" = "$before" ]
        rm -r "$D/roots"
        fails 2 "too long" user "$S" mount "$(printf 'x%.0s' $(seq 300))" mnt
        fails 2 "too long" user "$S" mount store "$(printf 'x%.0s' $(seq 300))"
        # A disk that is mounted read-only.
        mkdir "$D/ro"; mount -t tmpfs -o ro tmpfs "$D/ro"
        fails 2 "ead-only" "$S" mount "$D/ro/store" mnt
        fails 2 "ead-only" "$S" mount store "$D/ro/mnt"
        umount "$D/ro"; rmdir "$D/ro"
        # What is mounted already, by whomever, also on the mountpoint of another user.
        mkdir "$D/there"; mount -t tmpfs tmpfs "$D/there"
        fails 7 "another filesystem" "$S" mount store "$D/there"
        fails 7 "another filesystem" user "$S" mount store "$D/there"
        umount "$D/there"; rmdir "$D/there"
        chmod 600 /dev/fuse
        fails 2 "may not open /dev/fuse" user "$S" mount store mnt
        fails 1 "/dev/fuse" user "$S" doctor
        mount --bind /dev/null /dev/fuse
        fails 2 "not the FUSE device" "$S" mount store mnt
        umount /dev/fuse; rm /dev/fuse
        fails 2 "no /dev/fuse" "$S" mount store mnt
        fails 2 "no /dev/fuse" "$S" mount --background deep/er/store deep/mnt
        fails 1 "/dev/fuse" "$S" doctor
        "#,
    );
}

#[test]
fn what_was_made_is_taken_away_when_the_mount_itself_is_refused() {
    works(
        r#"
        # All that can be seen beforehand is fine, but the kernel refuses: no right to mount in here.
        fails 2 "" setpriv --bounding-set -sys_admin --inh-caps -sys_admin "$S" mount deep/er/store deep/mnt
        "#,
    );
}

#[test]
fn mount_8_and_its_remount_work() {
    works(
        r#"
        mount -t tmpfs tmpfs /usr/local/bin; cp "$S" /usr/local/bin/segfs
        mkdir mnt
        mount -t fuse.segfs "$D/u/store" "$D/u/mnt" -o noatime
        echo x > mnt/f
        mount -o remount,ro "$D/u/mnt"
        if echo y 2> /dev/null > mnt/f; then echo "not read-only"; exit 1; fi
        "$S" status mnt | grep -q '^options *ro,'
        mount -o remount,rw "$D/u/mnt"
        echo z > mnt/f
        "$S" status mnt | grep -q '^options *rw,'
        umount "$D/u/mnt"
        until "$S" status store | grep -q '^state *closed'; do sleep 0.1; done
        umount /usr/local/bin
        "#,
    );
}

#[test]
fn others_may_not_ask_a_mount() {
    works(
        r#"
        chown root "$D/u"
        "$S" mount --background store mnt
        chmod 755 store
        user "$S" status --json store > "$D/out" || true
        grep -q "not to be asked by you" "$D/out"
        # Also if somebody opened the door.
        chmod 666 store/control.sock
        got=0; user "$S" status store > "$D/out" 2> "$D/err" || got=$?
        [ $got = 1 ]
        grep -q "does not answer you" "$D/err"
        "$S" umount mnt > /dev/null
        "#,
    );
}
