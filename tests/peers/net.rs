//! Real mounts on hosts of their own: network namespaces that are joined by virtual cables.

use std::{
    fs,
    io::{self, Write as _},
    os::unix::fs::FileExt as _,
    path::Path,
    process::{Command, Output},
    sync::atomic::{AtomicU32, Ordering::Relaxed},
    time::{Duration, Instant},
};

use super::mounts::{agree_both, json, within};
use crate::mount::{Mounted, SEGFS, full::SmallDisk, is_root};

static NEXT: AtomicU32 = AtomicU32::new(0);

/// Only root makes network namespaces. Whoever runs these tests is told that they were skipped, also where tests that pass say nothing;
/// where they are run to say whether all is well, skipping is failing.
fn may_make_networks() -> bool {
    if is_root() {
        return true;
    }
    assert!(std::env::var_os("CI").is_none(), "only root makes network namespaces: run it as root");
    let name = std::thread::current().name().unwrap_or("a test").to_owned();
    let _ = io::stderr()
        .write_all(format!("skipped, as only root makes network namespaces: {name}\n").as_bytes());
    false
}

fn ip(words: &[&str]) {
    let done = Command::new("ip").args(words).output().unwrap();
    assert!(done.status.success(), "ip {words:?}: {}", String::from_utf8_lossy(&done.stderr));
}

/// A namespace; it goes away with this, also when the test fails, and with it its end of every cable.
struct Host {
    space: String,
    m: Mounted,
}

impl Host {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let store = root.path().join("store");
        Self::with_store(root, store)
    }

    fn with_store(root: tempfile::TempDir, store: std::path::PathBuf) -> Self {
        let space = format!("segfs-{}-{}", std::process::id(), NEXT.fetch_add(1, Relaxed));
        ip(&["netns", "add", &space]);
        let host = Self { space, m: Mounted { root, store, daemon: None } };
        ip(&["-n", &host.space, "link", "set", "lo", "up"]);
        host
    }

    fn within(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/run/netns/{}", self.space)).arg(program);
        command
    }

    fn mount(&mut self, listen: Option<&str>) {
        let command = self.within(SEGFS);
        let options: Vec<&str> = listen.iter().flat_map(|at| ["--listen", *at]).collect();
        self.m.mount_by(command, &options);
    }

    fn kill(&mut self) {
        self.m.kill();
        let dir = self.m.dir();
        let _ = Command::new(SEGFS).args(["umount", "--lazy", dir.to_str().unwrap()]).output();
    }

    /// A command about its store, run on it.
    fn run(&self, words: &[&str]) -> Output {
        self.within(SEGFS).arg("--json").args(words).arg("--store").arg(&self.m.store).output().unwrap()
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.m.path(name)
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if let Some(daemon) = &mut self.m.daemon {
            let _ = Command::new("umount").arg("-l").arg(self.m.root.path().join("mnt")).output();
            let _ = daemon.kill();
        }
        let _ = Command::new("ip").args(["netns", "del", &self.space]).output();
    }
}

/// Joins two hosts by a cable: 10.N.0.1 and 10.N.0.2.
fn cable(n: u8, a: &Host, b: &Host) {
    let ends = ["1", "2"].map(|end| format!("v{n}e{end}"));
    let made = [
        "link", "add", &ends[0], "netns", &a.space, "type", "veth", "peer", "name", &ends[1], "netns",
        &b.space,
    ];
    ip(&made);
    for (host, end, at) in [(a, &ends[0], 1), (b, &ends[1], 2)] {
        ip(&["-n", &host.space, "addr", "add", &format!("10.{n}.0.{at}/24"), "dev", end]);
        ip(&["-n", &host.space, "link", "set", end, "up"]);
    }
}

/// Pulls the cable out, or puts it back.
fn plug(n: u8, a: &Host, on: bool) {
    ip(&["-n", &a.space, "link", "set", &format!("v{n}e1"), if on { "up" } else { "down" }]);
}

/// The second joins the first, which listens there, with a rule on its side.
fn pair(first: &Host, second: &Host, at: &str, name: &str) {
    let invite = json(&first.run(&["peer", "invite", "--grant", "/:two-way"]));
    let code = invite["code"].as_str().unwrap();
    json(&second.run(&["peer", "join", at, code, "--grant", "/:two-way", "--as", name]));
    json(&second.run(&[
        "replicate",
        "add",
        &format!("to-{name}"),
        "--to",
        &format!("peer:{name}"),
        "--two-way",
    ]));
}

/// Writes as many do: files made, changed in the middle, cut off, moved and removed, some of them of one name on all hosts.
fn busy(dir: &Path, seed: u64, steps: u32) {
    let mut x = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut below = |n: u64| {
        x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (x >> 33) % n
    };
    for step in 0..steps {
        let name =
            if below(3) == 0 { format!("shared{}", below(6)) } else { format!("own{seed}-{}", below(12)) };
        let path = dir.join(&name);
        match below(8) {
            0..3 => fs::write(&path, vec![step as u8; below(20_000) as usize]).unwrap_or(()),
            3 | 4 => {
                if let Ok(f) = fs::OpenOptions::new().write(true).create(true).truncate(false).open(&path) {
                    let _ = f.write_all_at(&vec![seed as u8; below(9000) as usize], below(50_000));
                    let _ = f.set_len(below(60_000));
                }
            }
            5 => drop(fs::rename(&path, dir.join(format!("own{seed}-{}", below(12))))),
            6 => drop(fs::remove_file(&path)),
            _ => drop(fs::create_dir(dir.join(format!("d{}", below(4))))),
        }
    }
}

fn busy_all(hosts: &[&Host], round: u64, steps: u32) {
    std::thread::scope(|s| {
        for (n, host) in hosts.iter().enumerate() {
            s.spawn(move || busy(&host.m.dir(), round * 10 + n as u64, steps));
        }
    });
}

#[test]
fn two_hosts_agree_after_pulled_cables_and_kills() {
    if !may_make_networks() {
        return;
    }
    let (mut a, mut b) = (Host::new(), Host::new());
    cable(1, &a, &b);
    a.mount(Some("10.1.0.1:7420"));
    b.mount(None);
    pair(&a, &b, "10.1.0.1:7420", "a");
    busy_all(&[&a, &b], 1, 60);
    agree_both(&a.m, &b.m);
    // Apart: both go on, and one is killed while it is alone.
    plug(1, &a, false);
    busy_all(&[&a, &b], 2, 80);
    b.kill();
    busy_all(&[&a], 3, 20);
    b.mount(None);
    busy_all(&[&b], 4, 20);
    plug(1, &a, true);
    agree_both(&a.m, &b.m);
    // A short break in the middle of much, and the side that listens is killed right after.
    let began = Instant::now();
    std::thread::scope(|s| {
        s.spawn(|| busy(&a.m.dir(), 50, 150));
        s.spawn(|| busy(&b.m.dir(), 51, 150));
        std::thread::sleep(Duration::from_millis(100));
        plug(1, &a, false);
        std::thread::sleep(Duration::from_millis(1500));
        plug(1, &a, true);
    });
    a.kill();
    a.mount(Some("10.1.0.1:7420"));
    agree_both(&a.m, &b.m);
    println!("{:?}", began.elapsed());
}

#[test]
fn three_hosts_in_a_chain_and_then_a_ring_agree() {
    if !may_make_networks() {
        return;
    }
    let mut hosts = [Host::new(), Host::new(), Host::new()];
    cable(1, &hosts[0], &hosts[1]);
    cable(2, &hosts[1], &hosts[2]);
    cable(3, &hosts[2], &hosts[0]);
    for (n, host) in hosts.iter_mut().enumerate() {
        host.mount(Some(&format!("0.0.0.0:{}", 7420 + n)));
    }
    let [a, b, c] = &hosts;
    pair(a, b, "10.1.0.1:7420", "a");
    pair(b, c, "10.2.0.1:7421", "b");
    fs::write(c.path("from c"), "through b").unwrap();
    within(20, "what the third wrote comes to the first", || {
        fs::read(a.path("from c")).is_ok_and(|s| s == b"through b")
    });
    // The chain breaks; all write.
    plug(2, b, false);
    busy_all(&[a, b, c], 1, 60);
    plug(2, b, true);
    agree_both(&a.m, &b.m);
    agree_both(&b.m, &c.m);
    // A ring, of which one cable is out.
    pair(c, a, "10.3.0.1:7422", "c");
    plug(1, a, false);
    busy_all(&[a, b, c], 2, 60);
    agree_both(&a.m, &c.m);
    agree_both(&b.m, &c.m);
    plug(1, a, true);
    busy_all(&[a, b, c], 3, 30);
    agree_both(&a.m, &b.m);
    agree_both(&b.m, &c.m);
}

#[test]
fn a_host_whose_disk_is_full_catches_up_when_there_is_room() {
    if !may_make_networks() {
        return;
    }
    let disk = SmallDisk::new(256);
    let ballast = disk.dir.join("ballast");
    let mut a = Host::new();
    let mut b = Host::with_store(tempfile::tempdir().unwrap(), disk.dir.join("store"));
    cable(1, &a, &b);
    a.mount(Some("10.1.0.1:7420"));
    b.mount(None);
    pair(&a, &b, "10.1.0.1:7420", "a");
    fs::write(a.path("first"), "1").unwrap();
    agree_both(&a.m, &b.m);
    fs::write(&ballast, vec![7; 100 << 20]).unwrap();
    // More than fits there.
    for n in 0..150_u64 {
        let mut x = n << 32 | 1;
        let content: Vec<u8> = std::iter::repeat_with(|| {
            x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (x >> 33) as u8
        })
        .take(1 << 20)
        .collect();
        fs::write(a.path(&format!("large{n}")), content).unwrap();
    }
    within(60, "it says that there is no room", || {
        let told = json(&a.run(&["peer", "list"]));
        told["peers"][0]["last_error"].as_str().is_some_and(|e| e.contains("NoSpace"))
    });
    // What is there is served, and the side with room goes on.
    assert_eq!(fs::read(b.path("first")).unwrap(), b"1");
    fs::write(a.path("meanwhile"), "2").unwrap();
    fs::remove_file(&ballast).unwrap();
    agree_both(&a.m, &b.m);
    assert_eq!(fs::read(b.path("meanwhile")).unwrap(), b"2");
}
