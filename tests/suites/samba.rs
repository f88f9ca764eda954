//! Samba shows history as Windows' former versions, with the settings that docs/HISTORY.md gives for it: each as the content that the
//! file had then.

use std::{
    fmt::Write as _,
    fs,
    net::{TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use super::run;
use crate::mount::Mounted;

/// smbd on a port of its own, which ends with this.
struct Samba {
    smbd: Child,
    port: u16,
    root: tempfile::TempDir,
}

/// The settings of a share that docs/HISTORY.md gives.
fn documented(share: &Path) -> String {
    let page = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/HISTORY.md")).unwrap();
    let from = page.find("    [files]\n").expect("the page shows a share");
    let settings: Vec<&str> = page[from..].lines().take_while(|line| line.starts_with("    ")).collect();
    assert!(settings.len() > 6, "{settings:?}");
    let settings = settings.join("\n");
    assert!(settings.contains("path = /mnt/files\n"), "{settings}");
    settings.replace("/mnt/files", share.to_str().unwrap())
}

impl Samba {
    fn new(share: &Path) -> Self {
        let root = tempfile::tempdir().unwrap();
        let mut settings = String::from(
            "[global]\nserver role = standalone server\ninterfaces = lo\nbind interfaces only = yes\nmap to guest = Bad User\n\
             guest account = nobody\ndisable netbios = yes\nload printers = no\n",
        );
        let kept = ["private dir", "lock directory", "state directory", "cache directory", "pid directory"];
        for (n, what) in kept.iter().chain(&["ncalrpc dir"]).enumerate() {
            let dir = root.path().join(n.to_string());
            fs::create_dir(&dir).unwrap();
            writeln!(settings, "{what} = {}", dir.display()).unwrap();
        }
        // Nobody else is given it in the meantime: the system hands out the others first.
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        writeln!(settings, "log file = {}/log\nsmb ports = {port}", root.path().display()).unwrap();
        writeln!(settings, "{}\nguest ok = yes\nread only = yes", documented(share)).unwrap();
        let file = root.path().join("smb.conf");
        fs::write(&file, settings).unwrap();
        let mut command = Command::new("smbd");
        command.args(["--foreground", "-s"]).arg(&file).stdin(Stdio::null());
        // It makes a session of its own, which it ends as a whole.
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let mut samba = Self { smbd: command.spawn().unwrap(), port, root };
        for _ in 0..200 {
            if TcpStream::connect(("127.0.0.1", port)).is_ok() {
                return samba;
            }
            assert!(samba.smbd.try_wait().unwrap().is_none(), "smbd is gone: {}", samba.log());
            std::thread::sleep(Duration::from_millis(100));
        }
        panic!("smbd does not answer: {}", samba.log());
    }

    fn log(&self) -> String {
        fs::read_to_string(self.root.path().join("log")).unwrap_or_default()
    }

    /// Runs a command of smbclient on the share.
    fn ask(&self, what: &str) -> String {
        let mut client = Command::new("timeout");
        client.args(["60", "smbclient", "-N", "-p", &self.port.to_string(), "//127.0.0.1/files", "-c", what]);
        run(&mut client)
    }

    /// The moments at which a file was there, newest first.
    fn moments(&self, path: &str) -> Vec<String> {
        // All moments are named; those at which the file was there have its times and size below them.
        let said = self.ask(&format!("allinfo {path}"));
        let lines: Vec<&str> = said.lines().collect();
        let there = lines.windows(2).filter(|w| w[0].starts_with("@GMT-") && w[1].contains("time:"));
        there.map(|w| w[0].to_owned()).collect()
    }

    /// The former versions of a file, newest first, and what each holds.
    fn former(&self, path: &str) -> Vec<String> {
        let copy = self.root.path().join("copy");
        let content = |moment: &String| {
            self.ask(&format!("get {moment}\\{path} {}", copy.display()));
            fs::read_to_string(&copy).unwrap()
        };
        let mut all: Vec<String> = self.moments(path).iter().map(content).collect();
        // A moment that shows another file's change shows this one as before.
        all.dedup();
        all
    }
}

impl Drop for Samba {
    fn drop(&mut self) {
        let pid = rustix::process::Pid::from_child(&self.smbd);
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        let _ = self.smbd.wait();
    }
}

#[test]
#[ignore = "cargo xtask test --only programs"]
fn windows_former_versions_are_what_was_there() {
    let m = Mounted::for_all();
    m.sh("mkdir -p sub/deep; echo one > doc.txt; echo s1 > sub/deep/x.txt");
    // Moments are whole seconds.
    m.sh("sleep 1.1; echo two, longer > doc.txt; echo s2 > sub/deep/x.txt; sleep 1.1; echo three >> doc.txt; rm sub/deep/x.txt; sleep 1.1; echo s3 > sub/deep/x.txt; sleep 1.1");
    let samba = Samba::new(&m.dir());
    assert_eq!(samba.former("doc.txt"), ["two, longer\nthree\n", "two, longer\n", "one\n"]);
    assert_eq!(samba.former("sub\\deep\\x.txt"), ["s3\n", "s2\n", "s1\n"]);
    // A directory as it was.
    let oldest = samba.moments("doc.txt").pop().unwrap();
    let listed = samba.ask(&format!("ls {oldest}\\*"));
    assert!(listed.contains("doc.txt") && !listed.contains(".segfs"), "{listed}");
    drop(samba);
}
