//! The control socket: who may come in, how many, and for how long.

use std::{
    ffi::CString,
    io,
    os::{
        fd::{AsFd, AsRawFd as _, OwnedFd},
        unix::net::{UnixListener, UnixStream},
    },
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    thread::JoinHandle,
    time::Duration,
};

use parking_lot::{Condvar, Mutex};
use rustix::{
    fs::{AtFlags, CWD, FileType, Mode, OFlags},
    net::{AddressFamily, Shutdown, SocketAddrUnix, SocketFlags, SocketType},
};
use serde_json::{Value, json};

use super::{
    SOCKET, Served,
    lines::{Deadline, Lines},
    requests,
};
use crate::{
    base::limits::{CONTROL_CONNECTIONS, CONTROL_HOLD_MS, CONTROL_PATIENCE_MS, CONTROL_REQUEST_BYTES},
    console::{FAILED, Failure, IN_USE, USAGE},
    log::Hold,
};

/// Connections that the system lets wait.
const BACKLOG: i32 = 16;
/// After a connection could not be taken, for want of files say, the next is tried after this.
const PAUSE: Duration = Duration::from_millis(100);
/// Who holds segments is looked after so often.
const HOLD_STEP: Duration = Duration::from_secs(1);

/// An open control socket. It goes when this is dropped.
pub struct Control {
    inner: Arc<Inner>,
    directory: OwnedFd,
    acceptor: Option<JoinHandle<()>>,
}

struct Inner {
    served: Served,
    listener: UnixListener,
    connections: AtomicUsize,
    over: AtomicBool,
    pause: (Mutex<()>, Condvar),
}

/// The directory of a store. As long as it is open, `/proc/self/fd/N` is a short name for it, whatever its own is: the
/// address of a socket has no more than 108 bytes.
pub(super) fn open_directory(store: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(CWD, store, flags, Mode::empty())?)
}

/// The socket's address, good as long as the directory is open.
pub(super) fn address(directory: &OwnedFd) -> io::Result<SocketAddrUnix> {
    let path = CString::new(format!("/proc/self/fd/{}/{SOCKET}", directory.as_raw_fd()))?;
    Ok(SocketAddrUnix::new(path.as_c_str())?)
}

impl Control {
    /// Opens the socket in the store's directory, in the place of one that a process left behind. The store that is served
    /// holds the lock of that directory, so nobody else does the same.
    ///
    /// # Errors
    /// What the system says.
    pub fn start(served: Served) -> io::Result<Self> {
        let directory = open_directory(served.store.path())?;
        remove(&directory)?;
        let socket =
            rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
        // Before it has a name: then there is no moment at which others could come in.
        rustix::fs::fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
        rustix::net::bind(&socket, &address(&directory)?)?;
        rustix::net::listen(&socket, BACKLOG)?;
        let inner = Arc::new(Inner {
            served,
            listener: UnixListener::from(socket),
            connections: AtomicUsize::new(0),
            over: AtomicBool::new(false),
            pause: (Mutex::new(()), Condvar::new()),
        });
        let accepting = Arc::clone(&inner);
        let acceptor =
            std::thread::Builder::new().name("segfs-control".into()).spawn(move || accepting.accept())?;
        Ok(Self { inner, directory, acceptor: Some(acceptor) })
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        // First the name, so that nobody who looks for it waits in vain.
        if let Err(e) = remove(&self.directory) {
            tracing::warn!("removing {SOCKET}: {e}");
        }
        self.inner.over.store(true, SeqCst);
        self.inner.pause.1.notify_all();
        let _ = rustix::net::shutdown(&self.inner.listener, Shutdown::Both);
        if let Some(acceptor) = self.acceptor.take() {
            let _ = acceptor.join();
        }
    }
}

/// Removes the socket. What else may have its name is nothing of ours: then it stays, and binding fails.
fn remove(directory: &OwnedFd) -> io::Result<()> {
    let Ok(there) = rustix::fs::statat(directory, SOCKET, AtFlags::SYMLINK_NOFOLLOW) else { return Ok(()) };
    if FileType::from_raw_mode(there.st_mode) == FileType::Socket {
        rustix::fs::unlinkat(directory, SOCKET, AtFlags::empty())?;
    }
    Ok(())
}

impl Inner {
    fn accept(self: &Arc<Self>) {
        while !self.over.load(SeqCst) {
            match self.listener.accept() {
                Ok((stream, _)) => self.take(stream),
                Err(_) if self.over.load(SeqCst) => return,
                Err(e) => {
                    tracing::warn!("{SOCKET}: {e}");
                    let mut guard = self.pause.0.lock();
                    self.pause.1.wait_for(&mut guard, PAUSE);
                }
            }
        }
    }

    /// Answers a connection on a thread of its own, or says at once why not.
    fn take(self: &Arc<Self>, stream: UnixStream) {
        let mut refused = None;
        if !may_ask(&stream) {
            refused = Some(Failure::new(
                FAILED,
                "this mount does not answer you",
                "only root and the user who mounted it may ask it",
                "run it as that user, or as root",
            ));
        } else if self.connections.fetch_add(1, SeqCst) >= CONTROL_CONNECTIONS {
            self.connections.fetch_sub(1, SeqCst);
            refused = Some(Failure::new(
                IN_USE,
                "the mount does not answer",
                format!("{CONTROL_CONNECTIONS} others are asking it"),
                "run the command again",
            ));
        }
        if let Some(failure) = refused {
            // What does not fit into the socket's buffer is not waited for.
            let _ = stream.set_nonblocking(true);
            let _ = io::Write::write(&mut &stream, format!("{}\n", failure.value()).as_bytes());
            return;
        }
        let inner = Arc::clone(self);
        let run = move || {
            // A panic is answered by the end of the connection; the store is none of the worse for it.
            let _ = catch_unwind(AssertUnwindSafe(|| inner.answer_all(stream)));
            inner.connections.fetch_sub(1, SeqCst);
        };
        if std::thread::Builder::new().name("segfs-answer".into()).spawn(run).is_err() {
            self.connections.fetch_sub(1, SeqCst);
        }
    }

    fn answer_all(&self, stream: UnixStream) {
        let patience = Duration::from_millis(CONTROL_PATIENCE_MS);
        let mut lines = Lines::new(stream, CONTROL_REQUEST_BYTES);
        let mut hold = None;
        loop {
            let line = match self.next_request(&mut lines, patience, &mut hold) {
                Ok(Some(line)) if !self.over.load(SeqCst) => line,
                Err(e) if e.kind() == io::ErrorKind::InvalidData => {
                    let failure = not_understood(&e.to_string());
                    let _ = lines.write(&failure.value().to_string(), Deadline::within(patience));
                    return;
                }
                // Done, silent for too long, or gone.
                _ => return,
            };
            if serde_json::from_slice::<Value>(&line).is_ok_and(|asked| asked["request"] == "hold") {
                let until = Deadline::within(Duration::from_millis(CONTROL_HOLD_MS));
                hold = Some((self.served.store.hold_segments(), until));
            }
            let answer = match self.answer(&line, &mut lines) {
                Ok(value) => json!({ "ok": value }),
                Err(failure) => failure.value(),
            };
            if lines.write(&answer.to_string(), Deadline::within(patience)).is_err() {
                return;
            }
        }
    }

    /// The next line. Who holds segments in their places may be silent for longer.
    fn next_request(
        &self,
        lines: &mut Lines,
        patience: Duration,
        hold: &mut Option<(Hold, Deadline)>,
    ) -> io::Result<Option<Vec<u8>>> {
        while let Some((_, until)) = hold {
            match lines.read(Deadline::within(HOLD_STEP)) {
                Err(e) if e.kind() == io::ErrorKind::TimedOut && !self.over.load(SeqCst) => {}
                read => return read,
            }
            if until.is_over() {
                *hold = None;
            }
        }
        lines.read(Deadline::within(patience))
    }

    fn answer(&self, line: &[u8], lines: &mut Lines) -> Result<Value, Failure> {
        let request: Value = serde_json::from_slice(line).map_err(|e| not_understood(&e.to_string()))?;
        let name = request["request"].as_str().ok_or_else(|| not_understood("it has no \"request\""))?;
        let Some(row) = requests::TABLE.iter().find(|row| row.name == name) else {
            let known: Vec<_> = requests::TABLE.iter().map(|row| row.name).collect();
            return Err(Failure::usage(
                format!("the mount does not know the request {name:?}"),
                format!("it knows {}", known.join(", ")),
                "use the segfs that mounted it",
            ));
        };
        let lines = std::cell::RefCell::new(lines);
        let progress = |done: u64, total: u64| {
            let line = json!({"progress": {"done": done, "total": total}}).to_string();
            // Who does not listen any more finds out when the answer comes.
            let _ = lines.borrow_mut().write(&line, Deadline::within(Duration::from_secs(1)));
        };
        (row.answer)(&self.served, &request, &requests::Paced::new(&progress))
    }
}

fn not_understood(why: &str) -> Failure {
    Failure::new(USAGE, "the request is not understood", why, "send {\"request\":\"requests\"} on a line")
}

/// The socket's mode says so already; its permissions may have been changed since.
fn may_ask(stream: &UnixStream) -> bool {
    let own = rustix::process::geteuid();
    rustix::net::sockopt::socket_peercred(stream.as_fd())
        .is_ok_and(|peer| peer.uid.is_root() || peer.uid == own)
}
