//! The real daemon is killed while programs work on its mount. It mounts again within seconds, and what is there is what
//! was there after some operation: all that was synced, and of the rest a beginning.

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io::Write,
    path::Path,
    process::{Command, Stdio},
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use segfs::store::{Options, Store};

use super::{programs, run, tool};
use crate::{mount::Mounted, sim::rng::Rng};

/// Mounting after a kill takes no longer than this, on a busy machine.
const SECONDS: Duration = Duration::from_secs(10);
/// Kills of each load.
const ROUNDS: u64 = 6;

fn mount_again(m: &mut Mounted) {
    let begin = Instant::now();
    m.mount(&[]);
    let took = begin.elapsed();
    assert!(took < SECONDS, "mounting took {took:?}");
}

/// What a directory without directories in it holds.
type State = BTreeMap<String, Vec<u8>>;

fn state(dir: &Path) -> State {
    let entry = |e: fs::DirEntry| (e.file_name().into_string().unwrap(), fs::read(e.path()).unwrap());
    fs::read_dir(dir).unwrap().map(|e| entry(e.unwrap())).collect()
}

/// Does one operation on a directory and on the state that it should then have. Each is one system call that changes
/// something, so that there is no state in between but that of a file just made.
fn step(
    dir: &Path,
    state: &mut State,
    between: &mut Option<State>,
    rng: &mut Rng,
) -> std::io::Result<Option<File>> {
    let name = |rng: &mut Rng| format!("f{}", rng.below(6));
    let (a, b) = (name(rng), name(rng));
    let (at_a, at_b) = (dir.join(&a), dir.join(&b));
    *between = None;
    match rng.below(10) {
        0 if state.contains_key(&a) && a != b => {
            fs::rename(at_a, at_b)?;
            let moved = state.remove(&a).unwrap();
            state.insert(b, moved);
        }
        1 if state.contains_key(&a) => {
            fs::remove_file(at_a)?;
            state.remove(&a);
        }
        2 if state.contains_key(&a) => {
            let size = rng.below(30_000) as usize;
            OpenOptions::new().write(true).open(at_a)?.set_len(size as u64)?;
            state.get_mut(&a).unwrap().resize(size, 0);
        }
        n => {
            let data = vec![rng.next() as u8; 1 + rng.below(20_000) as usize];
            let mut f = OpenOptions::new().create(true).append(true).open(at_a)?;
            if !state.contains_key(&a) {
                state.insert(a.clone(), Vec::new());
                *between = Some(state.clone());
            }
            f.write_all(&data)?;
            state.get_mut(&a).unwrap().extend(data);
            if n >= 8 {
                return Ok(Some(f));
            }
        }
    }
    Ok(None)
}

#[test]
#[ignore = "cargo xtask test --only killed"]
fn what_is_there_is_a_prefix_with_all_that_was_synced() {
    let mut m = Mounted::new();
    for seed in 0..2 * ROUNDS {
        let dir = m.path(&format!("w{seed}"));
        fs::create_dir(&dir).unwrap();
        File::open(&dir).unwrap().sync_all().unwrap();
        // Every state that there was, and the number of those that are certain.
        let (mut states, synced) = (vec![State::new()], AtomicUsize::new(0));
        let mut rng = Rng::new(seed);
        let wait = Duration::from_millis(50 + rng.below(1500));
        std::thread::scope(|scope| {
            let writer = scope.spawn(|| {
                let (mut rng, mut now, mut between) = (Rng::new(seed), State::new(), None);
                loop {
                    let done = step(&dir, &mut now, &mut between, &mut rng);
                    // What failed may have happened all the same.
                    states.extend(between.take());
                    states.push(now.clone());
                    match done {
                        Ok(Some(file)) if file.sync_all().is_ok() => {
                            synced.store(states.len() - 1, Ordering::Relaxed);
                        }
                        Ok(None) if states.len() < 20_000 => {}
                        _ => return,
                    }
                }
            });
            std::thread::sleep(wait);
            m.kill();
            writer.join().unwrap();
        });
        mount_again(&mut m);
        let (found, certain) = (state(&dir), synced.into_inner());
        let at = states.iter().rposition(|s| *s == found);
        let sizes = |s: &State| s.iter().map(|(n, d)| (n.clone(), d.len())).collect::<Vec<_>>();
        assert!(
            at.is_some_and(|at| at >= certain),
            "seed {seed}: of {} states {certain} was synced, {at:?} is there: {:?}, not {:?}",
            states.len(),
            sizes(&found),
            sizes(&states[certain])
        );
        assert!(certain > 0 || wait < Duration::from_millis(300), "the load was no load");
    }
    m.unmount();
}

#[test]
#[ignore = "cargo xtask test --only killed"]
fn sqlite_keeps_what_it_committed() {
    for mode in ["wal", "delete"] {
        let mut m = Mounted::new();
        for round in 0..ROUNDS {
            let rows = 20 + 17 * round as usize;
            let mut daemon = m.daemon.take().unwrap();
            let committed = programs::sqlite_until(&m, mode, rows, |_| {
                daemon.kill().unwrap();
                daemon.wait().unwrap();
            });
            mount_again(&mut m);
            programs::sqlite_is_whole(&m, committed);
        }
        m.unmount();
    }
}

/// Starts a shell command in the mount that ends with the mount.
fn start(m: &Mounted, script: &str) -> std::process::Child {
    let mut command = Command::new("bash");
    command.args(["-c", script]).current_dir(m.dir()).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().unwrap()
}

#[test]
#[ignore = "cargo xtask test --only killed"]
fn git_finds_nothing_wrong_afterwards() {
    let mut m = Mounted::new();
    let git = "git -c user.name=a -c user.email=a@b -c init.defaultBranch=main -c gc.auto=0";
    m.sh(&format!("{git} init -q r; cd r; echo 0 > f; {git} add f; {git} commit -qm 0"));
    m.sh("sync -d r/f");
    for round in 0..ROUNDS {
        let mut child = start(
            &m,
            &format!(
                "cd r; for i in $(seq 1000); do echo {round} $i >> f; {git} commit -qam $i || exit; test $((i % 9)) = 0 && {git} gc -q; done"
            ),
        );
        std::thread::sleep(Duration::from_millis(200 + 150 * round));
        m.kill();
        child.wait().unwrap();
        mount_again(&mut m);
        m.sh(&format!("cd r; rm -f .git/*.lock .git/refs/heads/*.lock .git/objects/*/tmp_obj_*; {git} fsck --strict && {git} reset -q --hard && {git} log -1 > /dev/null"));
    }
    m.unmount();
}

#[test]
#[ignore = "cargo xtask test --only killed"]
fn an_untar_leaves_a_beginning_of_the_archive() {
    let mut m = Mounted::new();
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/src");
    let tar = m.root.path().join("a.tar");
    run(Command::new("tar").arg("-cf").arg(&tar).args(["-C", source, "."]));
    let names = run(Command::new("tar").arg("-tf").arg(&tar));
    let names: Vec<&str> = names.lines().filter(|name| !name.ends_with('/')).collect();
    for round in 0..ROUNDS {
        let mut child = start(
            &m,
            &format!(
                "for i in $(seq 50); do mkdir {round}-$i && tar -xf {} -C {round}-$i; done",
                tar.display()
            ),
        );
        std::thread::sleep(Duration::from_millis(150 + 120 * round));
        m.kill();
        child.wait().unwrap();
        mount_again(&mut m);
        // One after the other: whole, then at most one in part, then nothing.
        let (mut over, mut seen) = (false, 0);
        for i in 1..=50 {
            for name in &names {
                let is = fs::read(m.path(&format!("{round}-{i}/{name}"))).ok();
                let should = fs::read(Path::new(source).join(name)).unwrap();
                match is {
                    Some(is) if is == should && !over => seen += 1,
                    Some(is) => {
                        assert!(
                            !over && should.starts_with(&is),
                            "{round}-{i}/{name} holds {} bytes",
                            is.len()
                        );
                        over = true;
                    }
                    None => over = true,
                }
            }
        }
        println!("round {round}: {seen} files");
    }
    m.unmount();
}

#[test]
#[ignore = "cargo xtask test --only killed"]
fn a_store_killed_under_fsx_has_no_damage() {
    let mut m = Mounted::new();
    for round in 0..ROUNDS {
        let mut fsx = Command::new(tool("SEGFS_FSX"));
        fsx.args(["-N", "1000000", "-S", &(round + 1).to_string(), "-P"]).arg(m.root.path());
        let mut child = fsx.arg(m.path("file")).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(300 + 200 * round));
        m.kill();
        child.wait().unwrap();
        mount_again(&mut m);
        // Read through: every extent is checked on the way.
        fs::read(m.path("file")).unwrap();
        m.unmount();
        let store = Store::open(&m.store(), Options::default()).unwrap();
        assert_eq!(store.status().stopped, None);
        store.close().unwrap();
        drop(store);
        mount_again(&mut m);
    }
    m.unmount();
}
