//! Lines over a socket, bounded in length and in time: whoever is slow or silent is left, not waited for.

use std::{
    io::{self, Read as _, Write as _},
    os::unix::net::UnixStream,
    time::Duration,
};

use crate::base::{Clock as _, SystemClock};

/// Bytes read at once.
const READ_BYTES: usize = 64 << 10;

/// A socket that speaks in lines.
pub(super) struct Lines {
    stream: UnixStream,
    /// Read and not taken yet.
    waiting: Vec<u8>,
    most: usize,
}

/// A moment at which something has to be over.
#[derive(Clone, Copy)]
pub(super) struct Deadline(u64);

impl Deadline {
    pub(super) fn within(patience: Duration) -> Self {
        Self(SystemClock.monotonic_ns().saturating_add(patience.as_nanos() as u64))
    }

    /// Has it come?
    pub(super) fn is_over(self) -> bool {
        self.left().is_err()
    }

    /// What is left.
    fn left(self) -> io::Result<Duration> {
        match self.0.saturating_sub(SystemClock.monotonic_ns()) {
            0 => Err(io::ErrorKind::TimedOut.into()),
            ns => Ok(Duration::from_nanos(ns)),
        }
    }
}

impl Lines {
    /// Lines of at most so many bytes, their ends included.
    pub(super) fn new(stream: UnixStream, most: usize) -> Self {
        Self { stream, waiting: Vec::new(), most }
    }

    /// The next line, without its end; `None` once the other side is done.
    ///
    /// # Errors
    /// `TimedOut`, `InvalidData` for a line that is too long or was cut off, or what the system says.
    pub(super) fn read(&mut self, until: Deadline) -> io::Result<Option<Vec<u8>>> {
        let mut seen = 0;
        loop {
            if let Some(at) = self.waiting[seen..].iter().position(|b| *b == b'\n') {
                let rest = self.waiting.split_off(seen + at + 1);
                let mut line = std::mem::replace(&mut self.waiting, rest);
                line.pop();
                return Ok(Some(line));
            }
            seen = self.waiting.len();
            let room = self.most.saturating_sub(seen).min(READ_BYTES);
            if room == 0 {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    format!("a line has more than {} bytes", self.most),
                ));
            }
            self.waiting.resize(seen + room, 0);
            self.stream.set_read_timeout(Some(until.left()?))?;
            let read = self.stream.read(&mut self.waiting[seen..]);
            self.waiting.truncate(seen + read.as_ref().map_or(0, |n| *n));
            match read {
                Ok(0) if seen == 0 => return Ok(None),
                Ok(0) => return Err(io::Error::new(io::ErrorKind::InvalidData, "the line is cut off")),
                Ok(_) => {}
                Err(e) => patience(e)?,
            }
        }
    }

    /// Writes a line.
    ///
    /// # Errors
    /// `TimedOut`, or what the system says.
    pub(super) fn write(&mut self, line: &str, until: Deadline) -> io::Result<()> {
        let text = [line.as_bytes(), b"\n"].concat();
        let mut left = &text[..];
        while !left.is_empty() {
            self.stream.set_write_timeout(Some(until.left()?))?;
            match self.stream.write(left) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => left = &left[n..],
                Err(e) => patience(e)?,
            }
        }
        Ok(())
    }
}

/// An interruption is no error; a time-out is, by its own name.
fn patience(e: io::Error) -> io::Result<()> {
    match e.kind() {
        io::ErrorKind::Interrupted => Ok(()),
        io::ErrorKind::WouldBlock => Err(io::ErrorKind::TimedOut.into()),
        _ => Err(e),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn soon() -> Deadline {
        Deadline::within(Duration::from_millis(100))
    }

    #[test]
    fn lines_come_as_they_were_sent_and_no_longer_than_allowed() {
        let (mut a, b) = UnixStream::pair().unwrap();
        let mut b = Lines::new(b, 10);
        a.write_all(b"one\n\ntwo\n123456789\n0123456789").unwrap();
        for line in ["one", "", "two", "123456789"] {
            assert_eq!(b.read(soon()).unwrap().unwrap(), line.as_bytes());
        }
        assert_eq!(b.read(soon()).unwrap_err().kind(), io::ErrorKind::InvalidData);
        assert!(b.waiting.len() <= 10);
    }

    #[test]
    fn who_is_silent_or_does_not_read_is_left() {
        let (mut a, b) = UnixStream::pair().unwrap();
        let mut b = Lines::new(b, 100);
        a.write_all(b"half").unwrap();
        assert_eq!(b.read(soon()).unwrap_err().kind(), io::ErrorKind::TimedOut);
        let long = "x".repeat(4 << 20);
        assert_eq!(b.write(&long, soon()).unwrap_err().kind(), io::ErrorKind::TimedOut);
    }

    #[test]
    fn who_goes_in_the_middle_of_a_line_has_not_sent_it() {
        let (mut a, b) = UnixStream::pair().unwrap();
        let mut b = Lines::new(b, 100);
        a.write_all(b"half").unwrap();
        drop(a);
        assert_eq!(b.read(soon()).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}
