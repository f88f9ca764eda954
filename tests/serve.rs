//! The control socket, in process: who may ask, what it answers, and that nobody can hang it.
#![allow(clippy::disallowed_methods)] // this is the outside: real files, real time

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    os::unix::{fs::PermissionsExt as _, net::UnixStream},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use segfs::{
    base::{Ino, limits},
    console,
    format::facts::Owner,
    serve::{Client, Control, SOCKET, Served, Unanswered},
    store::{NewObject, Options, Store},
    vfs::Vfs,
};
use serde_json::{Value, json};

/// Long enough for a loaded machine, short enough to notice a hang.
const PATIENCE: Duration = Duration::from_secs(20);

fn create(path: &Path) -> Arc<Store> {
    let options = Options { segment_bytes: 256 << 10, ..Options::default() };
    Arc::new(Store::create(path, options).unwrap())
}

fn serve(store: &Arc<Store>) -> std::io::Result<Control> {
    let vfs = Arc::new(Vfs::new(Arc::clone(store)));
    Control::start(Served::new(Arc::clone(store), vfs, Arc::default(), Path::new("/nowhere")))
}

fn write(store: &Store, name: &str, data: &[u8]) -> Ino {
    let (_, a) =
        store.create_object(Ino::FIRST, name.as_bytes(), &NewObject::file(0o644, Owner::default())).unwrap();
    store.write(a.ino, 0, data).unwrap();
    store.commit_version(a.ino).unwrap();
    a.ino
}

fn ask(path: &Path, request: &str) -> Result<Value, Unanswered> {
    Client::connect(path)?.ask(request, PATIENCE, &|_, _| {})
}

/// A connection that says what it likes.
fn raw(path: &Path) -> UnixStream {
    let stream = UnixStream::connect(path.join(SOCKET)).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

fn answer(stream: &UnixStream) -> Value {
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).unwrap();
    serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e}: {line:?}"))
}

#[test]
fn a_store_with_a_long_path_is_reached_by_its_owner_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path: PathBuf = (0..4).fold(dir.path().to_owned(), |p, n| p.join(format!("{n}").repeat(100)));
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    assert!(path.as_os_str().len() > 400);
    let store = create(&path);
    // What a mount that was killed left behind is replaced.
    fs::create_dir_all(dir.path().join("d")).unwrap();
    drop(std::os::unix::net::UnixListener::bind(dir.path().join("d/s")).unwrap());
    fs::rename(dir.path().join("d/s"), path.join(SOCKET)).unwrap();
    assert!(matches!(ask(&path, "status"), Err(Unanswered::Nobody(_))));
    let control = serve(&store).unwrap();
    let mode = fs::symlink_metadata(path.join(SOCKET)).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let status = ask(&path, "status").unwrap();
    assert_eq!(status["id"], json!(store.id().to_string()));
    assert_eq!(status["process"], json!(std::process::id()));
    assert_eq!(status["store"], json!(path.canonicalize().unwrap().display().to_string()));
    // A long name of a relative path goes the same way.
    drop(control);
    assert!(!path.join(SOCKET).exists());
    assert!(matches!(ask(&path, "status"), Err(Unanswered::Nobody(_))));
    // What is no socket is not ours to remove.
    fs::write(path.join(SOCKET), "mine").unwrap();
    assert!(serve(&store).is_err());
    assert_eq!(fs::read_to_string(path.join(SOCKET)).unwrap(), "mine");
}

#[test]
fn one_connection_takes_several_requests_and_nonsense_is_answered() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let store = create(&path);
    let _control = serve(&store).unwrap();
    let mut stream = raw(&path);
    for (line, code) in [
        ("nonsense", "usage"),
        ("[1]", "usage"),
        ("{}", "usage"),
        (r#"{"request":7}"#, "usage"),
        (r#"{"request":"frobnicate"}"#, "usage"),
        ("", "usage"),
    ] {
        stream.write_all(format!("{line}\n").as_bytes()).unwrap();
        let error = &answer(&stream)["error"];
        assert_eq!(error["code"], code, "{line}: {error}");
        for part in ["what", "why", "next"] {
            assert!(error[part].as_str().is_some_and(|s| !s.is_empty()), "{line}: {error}");
        }
    }
    stream.write_all(b"{\"request\":\"requests\"}\n").unwrap();
    let known: Vec<Value> = answer(&stream)["ok"].as_array().unwrap().clone();
    let names: Vec<&str> = known.iter().map(|r| r["request"].as_str().unwrap()).collect();
    assert_eq!(names, ["requests", "status", "census", "digest"]);
    // All of them answer.
    let mut client = Client::connect(&path).unwrap();
    for name in names {
        client.ask(name, PATIENCE, &|_, _| {}).unwrap_or_else(|e| panic!("{name}: {e:?}"));
    }
    // A line without end is given up before it takes memory.
    let mut stream = raw(&path);
    let _ = stream.write_all(&vec![b'x'; 2 * limits::CONTROL_REQUEST_BYTES]);
    assert_eq!(answer(&stream)["error"]["code"], "usage");
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest);
    assert!(ask(&path, "status").is_ok());
}

#[test]
fn those_who_say_nothing_are_bounded_and_do_not_hold_up_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let store = create(&path);
    let control = serve(&store).unwrap();
    let silent: Vec<UnixStream> = (0..limits::CONTROL_CONNECTIONS).map(|_| raw(&path)).collect();
    // The last of them has been taken when the next one is.
    let since = Instant::now();
    let refused = loop {
        assert!(since.elapsed() < PATIENCE, "nobody was refused");
        match ask(&path, "status") {
            Err(Unanswered::Refused(failure)) => break failure,
            Ok(_) => {}
            // Refused before it had asked.
            Err(Unanswered::Nobody(_)) => {}
            Err(e) => panic!("{e:?}"),
        }
    };
    assert_eq!(refused.code, console::IN_USE);
    // The store does not care.
    write(&store, "f", b"x");
    store.sync_all().unwrap();
    drop(silent);
    let since = Instant::now();
    while ask(&path, "status").is_err() {
        assert!(since.elapsed() < PATIENCE, "no connection became free");
        std::thread::sleep(Duration::from_millis(10));
    }
    let _silent = [raw(&path), raw(&path)];
    let since = Instant::now();
    drop(control);
    assert!(since.elapsed() < Duration::from_millis(limits::CONTROL_PATIENCE_MS / 2));
}

#[test]
fn a_silent_connection_is_given_up_after_a_while() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let store = create(&path);
    let _control = serve(&store).unwrap();
    let mut stream = raw(&path);
    stream.set_read_timeout(Some(Duration::from_millis(3 * limits::CONTROL_PATIENCE_MS))).unwrap();
    stream.write_all(b"{\"request\":").unwrap();
    let since = Instant::now();
    assert_eq!(stream.read(&mut [0]).unwrap(), 0, "it is closed");
    assert!(since.elapsed() >= Duration::from_millis(limits::CONTROL_PATIENCE_MS - 100));
}

#[test]
fn a_mount_that_does_not_answer_is_not_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    create(&path);
    // As of a process that is stopped: the system takes connections for it, as many as it lets wait.
    let _stuck = std::os::unix::net::UnixListener::bind(path.join(SOCKET)).unwrap();
    let mut waiting = Vec::new();
    for n in 0.. {
        match Client::connect(&path) {
            Ok(client) => waiting.push(client),
            Err(e) => {
                assert!(matches!(e, Unanswered::Silent), "{e:?}");
                break;
            }
        }
        assert!(n < 100_000);
    }
    let short = Duration::from_millis(200);
    let asked = waiting[0].ask("status", short, &|_, _| {});
    assert!(matches!(asked, Err(Unanswered::Silent)), "{asked:?}");
}

#[test]
fn status_says_why_writing_stopped_and_waits_for_no_operation() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let store = create(&path);
    let _control = serve(&store).unwrap();
    write(&store, "f", &[7; 3000]);
    store.sync_all().unwrap();
    let status = ask(&path, "status").unwrap();
    assert_eq!(
        (&status["stopped"], &status["versions"], &status["objects"]),
        (&json!(null), &json!(1), &json!(1))
    );
    assert_eq!(status["log"]["last_lsn"], json!(store.last_lsn().get()));
    assert_eq!(status["log"]["durable_lsn"], json!(store.durable_lsn().get()));
    let engine = status["engine"].as_str().unwrap();
    assert!(["io_uring", "plain"].contains(&engine), "{engine}");
    store.stop_writing("a request panicked: planned");
    let status = ask(&path, "status").unwrap();
    assert_eq!(status["stopped"], "a request panicked: planned");
    assert_eq!(status["versions"], 1);
}

#[test]
fn a_count_is_kept_and_says_as_of_when() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let store = create(&path);
    let _control = serve(&store).unwrap();
    let ino = write(&store, "f", &[7; 3000]);
    let counted = ask(&path, "census").unwrap();
    let lsn = counted["lsn"].as_u64().unwrap();
    assert_eq!(lsn, store.last_lsn().get());
    assert!(counted["bytes"]["present"].as_u64().unwrap() > 0, "{counted}");
    assert_eq!(counted["bytes"]["history"], 0);
    store.write(ino, 0, &[8; 3000]).unwrap();
    store.commit_version(ino).unwrap();
    // Old at first or new at once; but it says which, and becomes new in the end.
    let since = Instant::now();
    loop {
        let bytes = ask(&path, "status").unwrap()["bytes"].clone();
        if bytes["as_of_lsn"].as_u64().unwrap() > lsn {
            assert_eq!(bytes["history"], counted["bytes"]["present"]);
            assert_eq!(bytes["present"], counted["bytes"]["present"]);
            return;
        }
        assert_eq!(bytes["history"], 0, "the count of LSN {lsn}");
        assert!(since.elapsed() < PATIENCE);
        std::thread::sleep(Duration::from_millis(20));
    }
}
