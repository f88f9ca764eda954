//! A replica that nobody mounts: `segfs serve`.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
};

use serde_json::Value;

use super::mounts::{agree_both, json, of, within};
use crate::mount::{Mounted, SEGFS, segfs};

/// A store that is served. Its process goes away with this.
struct Served {
    store: PathBuf,
    process: Child,
}

impl Served {
    fn new(store: &Path, words: &[&str]) -> Self {
        let mut command = Command::new(SEGFS);
        command.arg("serve").args(words).arg(store).stdout(Stdio::piped());
        let mut process = command.spawn().unwrap();
        let said = BufReader::new(process.stdout.take().unwrap());
        let ready = said.lines().map_while(Result::ok).any(|line| line.starts_with("stop it"));
        assert!(ready, "it does not answer");
        Self { store: store.to_owned(), process }
    }

    fn run(&self, words: &[&str]) -> Output {
        segfs(&[&["--json"], words, &["--store", self.store.to_str().unwrap()]].concat())
    }

    /// Ends it as a service manager does, and says with which code it ended.
    fn end(mut self) -> Option<i32> {
        terminate(self.process.id());
        self.process.wait().unwrap().code()
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn terminate(process: u32) {
    assert!(Command::new("kill").arg(process.to_string()).status().unwrap().success());
}

fn status(store: &Path) -> Value {
    json(&segfs(&["--json", "status", store.to_str().unwrap()]))
}

#[test]
fn a_replica_that_is_served_holds_what_a_mount_shows() {
    let root = tempfile::tempdir().unwrap();
    let store = root.path().join("replica");
    let a = Mounted::new();
    fs::create_dir(a.path("d")).unwrap();
    fs::write(a.path("d/f"), "one").unwrap();
    fs::write(a.path("d/f"), "two").unwrap();
    let replica = Served::new(&store, &["--listen", "127.0.0.1:0"]);
    let told = status(&store);
    assert_eq!((&told["state"], &told["mountpoint"]), (&"served".into(), &Value::Null), "{told}");
    assert_eq!(told["process"], replica.process.id());
    // Open is open: nobody else opens it.
    let taken = segfs(&["serve", store.to_str().unwrap()]);
    assert_eq!(taken.status.code(), Some(7), "{taken:?}");
    let taken = segfs(&["mount", store.to_str().unwrap(), root.path().join("m").to_str().unwrap()]);
    assert_eq!(taken.status.code(), Some(7), "{taken:?}");
    let invite = json(&replica.run(&["peer", "invite", "--grant", "/:two-way"]));
    let (at, code) = (invite["listens"].as_str().unwrap(), invite["code"].as_str().unwrap());
    json(&of(&a, &["peer", "join", at, code, "--grant", "/:two-way", "--as", "replica"]));
    json(&of(&a, &["replicate", "add", "all", "--to", "peer:replica", "--two-way"]));
    let at = at.to_owned();
    let up_to_date = || {
        let told = json(&of(&a, &["replicate", "status"]));
        told["rules"][0]["state"] == "up to date" && told["would_lose"]["operations"] == 0
    };
    within(20, "it is there", up_to_date);
    // Killed and served again, it goes on.
    drop(replica);
    for n in 0..50 {
        fs::write(a.path(&format!("d/g{n}")), format!("{n}")).unwrap();
    }
    fs::rename(a.path("d/f"), a.path("moved")).unwrap();
    let replica = Served::new(&store, &["--listen", &at]);
    within(20, "what was missed is there", up_to_date);
    let events = fs::read_to_string(store.join("events.jsonl")).unwrap();
    assert!(events.contains("peer_joined") && events.contains("peer_connected"), "{events}");
    assert_eq!(replica.end(), Some(0));
    assert_eq!(status(&store)["state"], "closed");
    let b = Mounted::with_store(root, store, &["--listen", &at]);
    agree_both(&a, &b);
    assert_eq!(fs::read(b.path("moved")).unwrap(), b"two");
}

#[test]
fn it_goes_on_in_the_background_and_ends_at_a_signal() {
    let root = tempfile::tempdir().unwrap();
    let store = root.path().join("s");
    let told = json(&segfs(&["--json", "serve", "--background", store.to_str().unwrap()]));
    assert_eq!(told["store"], store.to_str().unwrap());
    assert_eq!((&told["listens"], told["id"].is_string()), (&Value::Null, true), "{told}");
    let process = status(&store)["process"].as_u64().unwrap();
    terminate(process as u32);
    within(20, "it is closed", || status(&store)["state"] == "closed");
    // What can't be done is said, and leaves nothing behind.
    let (other, taken) = (root.path().join("other"), root.path().join("taken"));
    let first = Served::new(&taken, &["--listen", "127.0.0.1:0"]);
    let invite = json(&first.run(&["peer", "invite", "--grant", "/:two-way"]));
    let done =
        segfs(&["--json", "serve", other.to_str().unwrap(), "--listen", invite["listens"].as_str().unwrap()]);
    assert_eq!(done.status.code(), Some(7), "{done:?}");
    assert!(String::from_utf8_lossy(&done.stderr).contains("somebody else listens there"), "{done:?}");
    assert!(!other.exists());
}
