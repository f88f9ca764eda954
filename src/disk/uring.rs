//! Large commits through io_uring: direct writes side by side and the sync behind them, in one submission.
#![allow(unsafe_code)] // the kernel reads the caller's buffers while requests are in flight

use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd},
};

use io_uring::{IoUring, opcode, squeue::Flags, types};
use parking_lot::Mutex;

use super::AlignedBuffer;

/// Bytes of one write; several go side by side.
const WRITE_BYTES: usize = 512 << 10;
/// Writes of one submission; a sync may follow them.
const WRITES: usize = STAGE_BYTES / WRITE_BYTES;
/// Direct writes begin and end on this, in the file and in memory.
const ALIGN: usize = 4096;
/// From here on one large direct write beats the page cache, in time and, by far, in processor time.
pub const DIRECT_BYTES: usize = 1 << 20;

/// What of a commit is put together in memory and submitted at once, in bytes.
const STAGE_BYTES: usize = 4 << 20;

/// A ring, and the memory from which it writes: what a commit hands over lies in many places, at any address.
struct Rig {
    ring: IoUring,
    stage: AlignedBuffer,
}

impl Rig {
    fn new() -> io::Result<Self> {
        Ok(Self { ring: IoUring::new(entries())?, stage: AlignedBuffer::new() })
    }
}

/// Rings that are not in use.
pub struct Rings {
    idle: Mutex<Vec<Rig>>,
}

impl Rings {
    /// Asks the kernel whether it lets us, with a ring that does something.
    pub fn probe() -> io::Result<Self> {
        let mut rig = Rig::new()?;
        run(&mut rig.ring, &[opcode::Nop::new().build()])?;
        Ok(Self { idle: Mutex::new(vec![rig]) })
    }

    /// Whether a write is one for [`write_and_sync`](Self::write_and_sync).
    pub fn suits(pieces: &[&[u8]], offset: u64) -> bool {
        let len: usize = pieces.iter().map(|p| p.len()).sum();
        len >= DIRECT_BYTES && len.is_multiple_of(ALIGN) && offset.is_multiple_of(ALIGN as u64)
    }

    /// Writes and makes durable; the sync waits in the kernel for the writes with which it is submitted. `fd` is
    /// open with O_DIRECT. False: no sync failed, but this can't be written so; write all of it by other
    /// means.
    pub fn write_and_sync(&self, fd: BorrowedFd<'_>, pieces: &[&[u8]], offset: u64) -> io::Result<bool> {
        let idle = self.idle.lock().pop();
        let Ok(mut rig) = idle.map_or_else(Rig::new, Ok) else { return Ok(false) };
        let mut at = offset;
        let mut left = Left { pieces, done: 0 };
        loop {
            left.fill(&mut rig.stage);
            let last = left.pieces.is_empty();
            // After an error the ring is dropped, and nobody knows how the sync ended: that is final.
            if !write_stage(&mut rig.ring, fd, &rig.stage, at, last)? {
                return Ok(false);
            }
            if last {
                break;
            }
            at += rig.stage.len() as u64;
        }
        self.idle.lock().push(rig);
        Ok(true)
    }
}

/// What of some pieces is still to be written.
struct Left<'a> {
    pieces: &'a [&'a [u8]],
    /// Of the first of them so much is written.
    done: usize,
}

impl Left<'_> {
    /// Puts the next part together.
    fn fill(&mut self, stage: &mut AlignedBuffer) {
        stage.clear();
        while let Some((first, rest)) = self.pieces.split_first() {
            let bytes = &first[self.done..];
            let room = STAGE_BYTES - stage.len();
            if bytes.len() > room {
                stage.extend_from_slice(&bytes[..room]);
                self.done += room;
                return;
            }
            stage.extend_from_slice(bytes);
            (self.pieces, self.done) = (rest, 0);
        }
    }
}

/// One submission: writes side by side, and behind them the sync, if it is wanted.
fn write_stage(
    ring: &mut IoUring,
    fd: BorrowedFd<'_>,
    bytes: &[u8],
    offset: u64,
    sync: bool,
) -> io::Result<bool> {
    let target = types::Fd(fd.as_raw_fd());
    let mut requests = Vec::with_capacity(WRITES + 1);
    for (i, part) in bytes.chunks(WRITE_BYTES).enumerate() {
        let at = offset + (i * WRITE_BYTES) as u64;
        requests.push(opcode::Write::new(target, part.as_ptr(), part.len() as u32).offset(at).build());
    }
    if sync {
        let sync = opcode::Fsync::new(target).flags(types::FsyncFlags::DATASYNC).build();
        requests.push(sync.flags(Flags::IO_DRAIN));
    }
    let mut results = run(ring, &requests)?;
    let sync = if sync { results.pop().expect("the sync is the last request") } else { 0 };
    judge(sync, &results, bytes.chunks(WRITE_BYTES))
}

/// A failed sync is final, whatever the writes say. A short write, or one that is not possible directly, may
/// be done again as long as the sync held; other failures are reported.
fn judge<'a>(sync: i32, writes: &[i32], parts: impl Iterator<Item = &'a [u8]>) -> io::Result<bool> {
    let failure = |n: i32| io::Error::from_raw_os_error(-n);
    if sync < 0 {
        return Err(failure(sync));
    }
    let mut whole = true;
    for (&n, part) in writes.iter().zip(parts) {
        match n {
            0.. => whole &= n as usize == part.len(),
            _ if -n == libc::EINVAL || -n == libc::EINTR || -n == libc::EAGAIN => whole = false,
            _ => return Err(failure(n)),
        }
    }
    Ok(whole)
}

const fn entries() -> u32 {
    (WRITES + 1).next_power_of_two() as u32
}

/// Submits the requests and waits for all of them; their results, in order. After an error the ring is not
/// to be used again; no request is in flight then.
fn run(ring: &mut IoUring, requests: &[io_uring::squeue::Entry]) -> io::Result<Vec<i32>> {
    for (i, request) in requests.iter().enumerate() {
        let request = request.clone().user_data(i as u64);
        // SAFETY: what the request points to is borrowed by our caller until we return, and we return only
        // when every request that the kernel took has completed.
        unsafe { ring.submission().push(&request) }.map_err(|_| io::Error::other("io_uring is full"))?;
    }
    let mut results = vec![0; requests.len()];
    let mut open = requests.len();
    let mut failed = None;
    while open > 0 {
        let waiting = match failed {
            None => ring.submit_and_wait(open),
            Some(_) => {
                // Submitting failed: wait for what was taken, without submitting the rest.
                std::thread::yield_now();
                Ok(0)
            }
        };
        for done in ring.completion() {
            results[done.user_data() as usize] = done.result();
            open -= 1;
        }
        match waiting {
            Err(e) if e.kind() != io::ErrorKind::Interrupted => failed = Some(e),
            _ => {}
        }
        if let Some(e) = &failed
            && open == ring.submission().len()
        {
            return Err(io::Error::new(e.kind(), format!("io_uring: {e}")));
        }
    }
    failed.map_or(Ok(results), Err)
}

#[cfg(test)]
mod tests {
    use super::judge;

    #[test]
    fn a_failed_sync_is_final_and_a_short_write_is_not() {
        let data = [0_u8; 30];
        let judge = |sync, writes: &[i32]| judge(sync, writes, data.chunks(10)).map_err(|e| e.raw_os_error());
        assert_eq!(judge(0, &[10, 10, 10]), Ok(true));
        assert_eq!(judge(0, &[10, 9, 10]), Ok(false));
        assert_eq!(judge(0, &[10, 10, -libc::EINVAL]), Ok(false));
        assert_eq!(judge(0, &[10, 9, -libc::ENOSPC]), Err(Some(libc::ENOSPC)));
        assert_eq!(judge(-libc::EIO, &[10, 10, 10]), Err(Some(libc::EIO)));
        assert_eq!(judge(-libc::EIO, &[10, 9, -libc::EINVAL]), Err(Some(libc::EIO)));
    }
}
