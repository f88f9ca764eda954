//! Disks that are full or may not be written to, made in a mount namespace of the test's own, which ends with it.

use std::process::Stdio;

use super::*;

/// Not a test: opens what the environment says, and prints what that came to.
#[test]
fn child() {
    let Some(path) = std::env::var_os("SEGFS_TEST_BADINPUT_STORE").map(PathBuf::from) else { return };
    let options = if std::env::var_os("SEGFS_TEST_BADINPUT_READ").is_some() { reading() } else { options() };
    match Store::open(&path, options) {
        Ok(store) => {
            println!(
                "f0 {}",
                if read(&store, "f0").unwrap() == noise(0, 100_000) { "right" } else { "wrong" }
            );
            let grown = store.write(Ino::new(2), 0, &[0; 5000]).and_then(|_| store.sync_all());
            println!("writing: {}", grown.map_or_else(|e| e.to_string(), |()| "done".into()));
        }
        Err(e) => println!("error: {e}"),
    }
}

/// Runs a script in a mount namespace; `$S` is segfs, `$T` segtool, `$C` opens `$SEGFS_TEST_BADINPUT_STORE` by the
/// library, `$D` a directory to work in.
#[track_caller]
fn apart(dir: &Path, script: &str) -> String {
    let root = rustix::process::geteuid().is_root();
    let this = std::env::current_exe().unwrap();
    let open = format!("{} --exact badinput::elsewhere::child --nocapture --test-threads=1", this.display());
    let done = Command::new("unshare")
        .args(if root { &["-m"][..] } else { &["-r", "-m"] })
        .args(["timeout", "60", "bash", "-ec", script])
        .env("S", SEGFS)
        .env("T", segtool())
        .env("C", open)
        .env("D", dir)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let out = String::from_utf8_lossy(&done.stdout).into_owned();
    assert!(done.status.success(), "{out}\n{}", String::from_utf8_lossy(&done.stderr));
    out
}

#[track_caller]
fn tells(out: &str, words: &[&str]) {
    for word in words {
        assert!(out.contains(word), "{word:?} is not in:\n{out}");
    }
}

#[test]
fn a_read_only_directory_is_named_and_can_be_read() {
    for make in [closed, crashed] {
        let dir = tempfile::tempdir().unwrap();
        let store = make(dir.path());
        let before = tree(&store);
        let out = apart(
            dir.path(),
            r#"
            mount --bind "$D/store" "$D/store"
            mount -o remount,bind,ro "$D/store"
            export SEGFS_TEST_BADINPUT_STORE="$D/store"
            $C
            SEGFS_TEST_BADINPUT_READ=1 $C
            "$S" mount "$D/store" "$D/mnt" 2>&1 && exit 9
            "$T" verify "$D/store"
            "$S" mount --background -o ro "$D/store" "$D/mnt"
            ls "$D/mnt"
            cmp "$D/mnt/f0" "$D/mnt/f0" && touch "$D/mnt/new" 2>&1 && exit 9
            "$S" umount "$D/mnt"
            rmdir "$D/mnt"
            "$S" init "$D/store/new" 2>&1 && exit 9
            true"#,
        );
        tells(
            &out,
            &[
                "error: locking",
                "LOCK: Read-only file system",
                "f0 right",
                "writing: read-only",
                "next: `segfs mount -o ro`",
                "f5",
                "touch: cannot touch",
                "store/new did not work",
            ],
        );
        same(&before, &tree(&store), "it");
    }
}

#[test]
fn a_full_disk_is_named_and_still_read() {
    let dir = tempfile::tempdir().unwrap();
    let store = closed(dir.path());
    let out = apart(
        dir.path(),
        r#"
        mkdir "$D/small" "$D/disk"
        mount -t tmpfs -o size=8m none "$D/small"
        "$S" init "$D/small/new" 2>&1 && exit 9
        "$S" mount "$D/small/other" "$D/mnt" 2>&1 && exit 9
        mkdir "$D/small/empty"
        "$S" init "$D/small/empty" 2>&1 && exit 9
        # Not even room for one block.
        dd if=/dev/zero of="$D/small/fill" bs=4096 2>/dev/null || true
        "$S" init "$D/small/none" 2>&1 && exit 9
        echo "left: $(cd "$D/small" && echo *)"
        mount -t tmpfs -o size=3m none "$D/disk"
        cp -a "$D/store" "$D/disk/store"
        dd if=/dev/zero of="$D/disk/fill" bs=4096 2>/dev/null || true
        export SEGFS_TEST_BADINPUT_STORE="$D/disk/store"
        $C
        SEGFS_TEST_BADINPUT_READ=1 $C
        "$S" mount --background "$D/disk/store" "$D/mnt"
        cmp "$D/mnt/f0" "$D/mnt/f0" && echo "f0 is read"
        (head -c 100000 /dev/zero > "$D/mnt/f1") 2>&1 && exit 9
        "$S" umount "$D/mnt"
        # The truncation that came with it went through: it has the reserve.
        "$S" mount --background -o ro "$D/disk/store" "$D/mnt"
        cmp "$D/mnt/f0" "$D/mnt/f0" && echo "f0 is read again, f1 has $(stat -c %s "$D/mnt/f1") bytes"
        "$S" umount "$D/mnt""#,
    );
    tells(
        &out,
        &[
            "no space left",
            "next: free some space",
            "left: empty fill\n",
            "f0 right",
            "writing: making segments/",
            "f0 is read",
            "No space left on device",
            "f0 is read again, f1 has 0 bytes",
        ],
    );
    assert!(!out.contains("f0 wrong") && store.exists(), "{out}");
}

#[test]
fn who_holds_the_store_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let store = closed(dir.path());
    let held = Store::open(&store, options()).unwrap();
    let before = tree(&store);
    let pid = format!("process {}", std::process::id());
    let e = Store::open(&store, options()).err().unwrap();
    assert!(matches!(&e, Error::InUse { holder, .. } if *holder == pid), "{e}");
    let (path, mnt) = (store.to_str().unwrap(), dir.path().join("mnt"));
    for options in [&[][..], &["-o", "ro"]] {
        let words = [&["mount"], options, &[path, mnt.to_str().unwrap()]].concat();
        says(&run(&words), 7, &[&pid, "end that process"]);
    }
    assert!(!mnt.exists());
    let done = run(&["status", path]);
    assert!(String::from_utf8_lossy(&done.stdout).contains(&std::process::id().to_string()), "{done:?}");
    let done = Command::new(segtool()).args(["index", "rebuild", path]).output().unwrap();
    says(&done, 7, &[&pid, "end that process"]);
    same(&before, &tree(&store), "it");
    drop(held);
    drop(Store::open(&store, options()).unwrap());
}
