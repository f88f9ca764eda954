//! Asking a running mount.

use std::{io, os::unix::net::UnixStream, path::Path, time::Duration};

use rustix::net::{AddressFamily, SocketFlags, SocketType};
use serde_json::{Value, json};

use super::{
    control::{address, open_directory},
    lines::{Deadline, Lines},
};
use crate::{
    base::limits::CONTROL_ANSWER_BYTES,
    console::{FAILED, Failure, IN_USE, NOT_FOUND, PARTLY, USAGE},
};

/// A connection to the mount of a store.
pub struct Client {
    lines: Lines,
}

/// Why there is no answer.
#[derive(Debug)]
pub enum Unanswered {
    /// No mount listens there.
    Nobody(io::Error),
    /// A mount listens and says nothing: it is stopped, or its machine is stuck.
    Silent,
    /// It refused.
    Refused(Failure),
}

impl Unanswered {
    fn of(e: io::Error) -> Self {
        match e.kind() {
            io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => Self::Silent,
            _ => Self::Nobody(e),
        }
    }

    /// In words.
    #[must_use]
    pub fn why(&self) -> String {
        match self {
            Self::Nobody(e) => format!("no mount answers on its control socket ({e})"),
            Self::Silent => "the mount does not answer: its process is stopped or stuck".into(),
            Self::Refused(failure) => failure.why.clone(),
        }
    }
}

impl Client {
    /// Connects to the mount of the store in a directory; does not wait for it.
    ///
    /// # Errors
    /// [`Unanswered::Nobody`], or [`Unanswered::Silent`] if too many wait already.
    pub fn connect(store: &Path) -> Result<Self, Unanswered> {
        let connected = || -> io::Result<UnixStream> {
            let directory = open_directory(store)?;
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
            rustix::net::connect(&socket, &address(&directory)?)?;
            let stream = UnixStream::from(socket);
            stream.set_nonblocking(false)?;
            Ok(stream)
        };
        let stream = connected().map_err(Unanswered::of)?;
        Ok(Self { lines: Lines::new(stream, CONTROL_ANSWER_BYTES) })
    }

    /// Asks for something that needs no arguments, and waits for the answer as long as the mount shows within each
    /// `patience` that it is at work.
    ///
    /// # Errors
    /// [`Unanswered`].
    pub fn ask(
        &mut self,
        request: &str,
        patience: Duration,
        progress: &dyn Fn(u64, u64),
    ) -> Result<Value, Unanswered> {
        self.ask_for(&json!({ "request": request }), patience, progress)
    }

    /// Asks for something with arguments: an object whose `request` says for what.
    ///
    /// # Errors
    /// [`Unanswered`].
    pub fn ask_for(
        &mut self,
        request: &Value,
        patience: Duration,
        progress: &dyn Fn(u64, u64),
    ) -> Result<Value, Unanswered> {
        let line = request.to_string();
        match self.lines.write(&line, Deadline::within(patience)) {
            // Who refuses does not listen first; what it said before it closed is still to be read.
            Err(e) if e.kind() == io::ErrorKind::BrokenPipe => {}
            other => other.map_err(Unanswered::of)?,
        }
        loop {
            let gone = || Unanswered::Nobody(io::ErrorKind::ConnectionReset.into());
            let line =
                self.lines.read(Deadline::within(patience)).map_err(Unanswered::of)?.ok_or_else(gone)?;
            let mut answer: Value =
                serde_json::from_slice(&line).map_err(|e| Unanswered::Nobody(e.into()))?;
            let told = &answer["progress"];
            if !told.is_null() {
                progress(told["done"].as_u64().unwrap_or(0), told["total"].as_u64().unwrap_or(0));
            } else if answer.get("ok").is_some() {
                return Ok(answer["ok"].take());
            } else {
                return Err(Unanswered::Refused(failure(&answer["error"])));
            }
        }
    }
}

/// A failure that was told as JSON.
fn failure(error: &Value) -> Failure {
    let code = match error["code"].as_str().unwrap_or_default() {
        "usage" => USAGE,
        "not_found" => NOT_FOUND,
        "partly" => PARTLY,
        "damage" => crate::console::DAMAGE,
        "in_use" => IN_USE,
        _ => FAILED,
    };
    let part = |name: &str| error[name].as_str().unwrap_or("unknown").to_owned();
    Failure::new(code, part("what"), part("why"), part("next"))
}
