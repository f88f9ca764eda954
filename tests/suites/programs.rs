//! Programs as people use them: fio, SQLite, cargo, tar.

use std::{
    env, fs,
    io::{BufRead, BufReader},
    path::Path,
    process::{Command, Stdio},
};

use super::{ext4::Ext4, run, twosided::look};
use crate::mount::Mounted;

/// Ways to write and to read back: engine, direct, pattern of access, block sizes, checksum.
const FIO: &[(&str, u8, &str, &str, &str)] = &[
    ("psync", 0, "write", "64k", "crc32c"),
    ("psync", 0, "randwrite", "512-16k", "md5"),
    ("psync", 1, "randwrite", "4k", "sha256"),
    ("mmap", 0, "randwrite", "4k", "xxhash"),
    ("io_uring", 1, "randrw", "4k-128k", "crc32c"),
    ("pvsync", 0, "randrw", "1k-1m", "meta"),
];

#[test]
#[ignore = "cargo xtask test --only programs"]
fn fio_reads_what_it_wrote() {
    let m = Mounted::new();
    for (engine, direct, access, sizes, verify) in FIO {
        let sizes = if sizes.contains('-') { format!("--bsrange={sizes}") } else { format!("--bs={sizes}") };
        let mut fio = Command::new("fio");
        fio.args([
            "--name=v",
            "--size=24m",
            "--numjobs=2",
            "--do_verify=1",
            "--verify_fatal=1",
            "--iodepth=8",
        ]);
        fio.args(["--fsync=200", "--group_reporting", "--invalidate=1", "--verify_state_save=0"]);
        fio.args([
            format!("--ioengine={engine}"),
            format!("--direct={direct}"),
            format!("--rw={access}"),
            sizes,
        ]);
        fio.arg(format!("--verify={verify}")).arg("--directory").arg(m.dir());
        run(&mut fio);
        m.sh("rm -f v.*");
    }
}

/// Inserts for ever, each row in a transaction of its own, and says each row once it is committed. "extra" also syncs the
/// removal of the journal, which is what commits in the mode "delete"; with "full" a crash may undo the last row.
const SQLITE: &str = r#"
import sqlite3, sys
db = sqlite3.connect(sys.argv[1], isolation_level=None)
db.execute("pragma journal_mode = " + sys.argv[2])
db.execute("pragma synchronous = extra")
db.execute("create table if not exists t (n integer primary key, x blob)")
n = db.execute("select coalesce(max(n), 0) from t").fetchone()[0]
while True:
    n += 1
    db.execute("begin immediate")
    db.execute("insert into t values (?, randomblob(?))", (n, n * 97 % 9000))
    if n % 7 == 0: db.execute("update t set x = randomblob(500) where n % 5 = 0")
    if n % 31 == 0: db.execute("delete from t where n % 31 = 3 and n < ?", (n,))
    db.execute("commit")
    print(n, flush=True)
"#;

/// Runs the writer until it has said `rows` rows, then does something to it or to what is under it; gives the last row
/// that was committed.
pub(super) fn sqlite_until(
    m: &Mounted,
    mode: &str,
    rows: usize,
    then: impl FnOnce(&mut std::process::Child),
) -> u64 {
    let mut command = Command::new("python3");
    command.args(["-c", SQLITE]).arg(m.path("a.db")).arg(mode).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
    let mut last = lines.by_ref().nth(rows - 1).expect("it writes");
    then(&mut child);
    if let Some(line) = lines.last() {
        last = line;
    }
    child.wait().unwrap();
    last.parse().unwrap()
}

/// The database is whole and has what was committed.
pub(super) fn sqlite_is_whole(m: &Mounted, committed: u64) {
    let said = m.sh("sqlite3 a.db 'pragma integrity_check; select max(n) from t'");
    let (whole, last) = said.trim().split_once('\n').unwrap_or((said.trim(), "0"));
    assert_eq!(whole, "ok");
    assert!(last.parse::<u64>().unwrap() >= committed, "{last} is there, {committed} was committed");
}

#[test]
#[ignore = "cargo xtask test --only programs"]
fn sqlite_stays_whole_when_its_writer_is_killed() {
    for mode in ["wal", "delete", "truncate"] {
        let m = Mounted::new();
        for round in 0..3 {
            let committed = sqlite_until(&m, mode, 60 + 25 * round, |child| child.kill().unwrap());
            sqlite_is_whole(&m, committed);
        }
        let readers = "for i in 1 2 3 4; do (sqlite3 a.db '.timeout 20000' 'select sum(length(x)) from t; insert into t(x) select x from t limit 50; vacuum' > /dev/null) & done; wait; sqlite3 a.db 'pragma integrity_check'";
        assert_eq!(m.sh(readers), "ok\n");
    }
}

#[test]
#[ignore = "cargo xtask test --only programs"]
fn cargo_builds_and_builds_again() {
    let m = Mounted::new();
    let cargo = env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    m.sh("mkdir -p p/src; cd p; printf '[package]\nname = \"p\"\nversion = \"0.1.0\"\nedition = \"2021\"\n' > Cargo.toml; \
          echo 'mod m; fn main() { println!(\"{}\", m::f(1)); }' > src/main.rs; echo 'pub fn f(x: u32) -> u32 { x + 1 }' > src/m.rs");
    let build = |expected: &str| {
        let mut command = Command::new(&cargo);
        command.args(["run", "-q", "--offline"]).current_dir(m.path("p")).env_remove("CARGO_TARGET_DIR");
        assert_eq!(run(&mut command).trim(), expected);
    };
    build("2");
    build("2");
    m.sh("sed -i s/+.1/+\\ 2/ p/src/m.rs");
    build("3");
    m.sh("rm -r p/target; test ! -e p/target");
}

/// A tree with everything that an archive can hold.
const TREE: &str = r#"
umask 022
mkdir -p d/e d/setgid "d/name with space and $(printf '\001\377')"
for i in $(seq 60); do head -c $((i * 701)) /dev/urandom > d/e/$i; done
ln d/e/7 d/hard; ln d/e/7 hard2; ln -s d/e/7 soft; ln -s nowhere dangling; ln -s "$(printf 'x%.0s' $(seq 300))" long
truncate -s 3G sparse; printf data | dd of=sparse bs=1 seek=1500000000 conv=notrunc status=none
head -c 40000 /dev/urandom | dd of=sparse bs=4096 seek=500000 conv=notrunc status=none
mknod char c 1 3; mknod block b 259 70000; mkfifo fifo
cp /bin/true suid; chown 65534:60 suid; chmod 6755 suid
chown 1000:1000 d/e/9; chmod 2775 d/setgid; chmod 1777 d/e; chmod 000 d/e/11
setfattr -n user.colour -v red d/e/1; setfattr -n trusted.t -v secret d/e/1
setfattr -n user.big -v "$(head -c 2000 /dev/zero | tr '\0' x)" d/e/2; setfattr -n user.dir -v yes d
setcap cap_net_raw+ep suid 2>/dev/null || true
setfacl -m u:5:rwx,g:60:r,m:rw d/e/3; setfacl -d -m u:5:rwx,g::r d; setfacl -m u:65534:- d/e
find . -depth -exec touch -h -d '2001-02-03 04:05:06.123456789 UTC' {} +
touch -h -d '1965-03-04 05:06:07.987654321 UTC' d/e/1 soft d; touch -d '1901-12-25 00:00:00.000000001 UTC' d/e/4
touch -d '2100-01-01 00:00:00.999999999 UTC' d/e/5
"#;

const PACK: &str = "tar --format=pax --xattrs --xattrs-include='*' --acls --sparse --numeric-owner -cf - -C";
const UNPACK: &str = "tar --xattrs --xattrs-include='*' --acls --numeric-owner -xpf - -C";

/// Access times move by reading; they are not part of an archive.
fn shown(dir: &Path) -> std::collections::BTreeMap<std::path::PathBuf, String> {
    run(Command::new("find").arg(dir).args(["-exec", "touch", "-h", "-a", "-d", "@0", "{}", "+"]));
    look::tree(dir)
}

#[test]
#[ignore = "cargo xtask test --only programs"]
fn an_archive_comes_back_as_it_was() {
    // Looking at one name of a file must not show at another.
    let still = ["-o", "noatime"];
    let (mut m, ext4) = (Mounted::with(&still), Ext4::without_access_times());
    let [first, second] = ["first", "second"].map(|name| ext4.dir().join(name));
    let here = m.path("here");
    for dir in [&first, &second, &here] {
        fs::create_dir(dir).unwrap();
    }
    run(Command::new("bash").args(["-ec", TREE]).current_dir(&first));
    let wanted = shown(&first);
    assert!(wanted.len() > 70, "{wanted:#?}");
    let copy = |from: &Path, to: &Path| {
        let script = format!("set -o pipefail; {PACK} {} . | {UNPACK} {}", from.display(), to.display());
        run(Command::new("bash").args(["-ec", &script]));
    };
    copy(&first, &here);
    same(&wanted, &shown(&here));
    m.unmount();
    m.mount(&still);
    same(&wanted, &shown(&here));
    copy(&here, &second);
    same(&wanted, &shown(&second));
    // The same with rsync, which does things in another order, and not all of them right: so on both sides.
    let (there, third) = (m.path("there"), ext4.dir().join("third"));
    for to in [&there, &third] {
        run(Command::new("rsync").args(["-aHAXS", "--numeric-ids"]).arg(first.join("")).arg(to));
    }
    same(&shown(&third), &shown(&there));
    let blocks = m.sh("stat -c %b here/sparse");
    assert!(blocks.trim().parse::<u64>().unwrap() < 300, "{blocks}");
}

#[track_caller]
fn same<K: Ord + std::fmt::Debug>(
    wanted: &std::collections::BTreeMap<K, String>,
    got: &std::collections::BTreeMap<K, String>,
) {
    for (path, text) in wanted {
        assert_eq!(got.get(path), Some(text), "{path:?}");
    }
    assert_eq!(got.len(), wanted.len());
}
