//! Reads, writes and syncs through plain system calls.
#![allow(unsafe_code)] // sync_file_range has no safe wrapper

use std::{
    io::{self, IoSlice, IoSliceMut},
    os::fd::{AsRawFd, BorrowedFd},
};

use rustix::{
    fs::FallocateFlags,
    io::{Errno, ReadWriteFlags, retry_on_intr},
};

/// Pieces that one call takes.
const PIECES: usize = 64;
/// When a sync follows, the medium is set to work each time this many bytes are in the page cache: writing
/// and copying then overlap.
const OVERLAP_BYTES: usize = 512 << 10;

/// Reads until the buffer is full or the file ends.
pub fn read(fd: BorrowedFd<'_>, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut done = 0;
    while done < buffer.len() {
        match rustix::io::pread(fd, &mut buffer[done..], offset + done as u64) {
            Ok(0) => break,
            Ok(n) => done += n,
            Err(Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(done)
}

/// Reads what is in the page cache; none if not all of it is, or the filesystem can't tell.
pub fn read_at_once(fd: BorrowedFd<'_>, buffer: &mut [u8], offset: u64) -> io::Result<Option<usize>> {
    let mut done = 0;
    while done < buffer.len() {
        let part = &mut [IoSliceMut::new(&mut buffer[done..])];
        match rustix::io::preadv2(fd, part, offset + done as u64, ReadWriteFlags::NOWAIT) {
            Ok(0) => break,
            Ok(n) => done += n,
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN | Errno::OPNOTSUPP | Errno::NOSYS) => return Ok(None),
            Err(e) => return Err(e.into()),
        }
    }
    Ok(Some(done))
}

/// Writes all pieces.
pub fn write(fd: BorrowedFd<'_>, pieces: &[&[u8]], offset: u64) -> io::Result<()> {
    write_by(fd, pieces, offset, usize::MAX, |_, _| {})
}

/// Writes all pieces, then syncs.
pub fn write_and_sync(fd: BorrowedFd<'_>, pieces: &[&[u8]], offset: u64) -> io::Result<()> {
    let total: usize = pieces.iter().map(|p| p.len()).sum();
    if total <= OVERLAP_BYTES {
        write(fd, pieces, offset)?;
    } else {
        write_by(fd, pieces, offset, OVERLAP_BYTES, |at, len| start_writeback(fd, at, len))?;
    }
    sync(fd)
}

/// Writes all pieces, at most about `limit` bytes a call, and tells `written` of each call's range.
fn write_by(
    fd: BorrowedFd<'_>,
    pieces: &[&[u8]],
    mut offset: u64,
    limit: usize,
    written: impl Fn(u64, u64),
) -> io::Result<()> {
    // `skip` bytes of pieces[first] are written already.
    let (mut first, mut skip) = (0, 0);
    while first < pieces.len() {
        let mut batch = [IoSlice::new(&[]); PIECES];
        let (mut count, mut bytes) = (0, 0);
        for (i, piece) in pieces[first..].iter().enumerate().take(PIECES) {
            let rest = if i == 0 { &piece[skip..] } else { piece };
            let rest = &rest[..rest.len().min(limit - bytes)];
            batch[i] = IoSlice::new(rest);
            count += 1;
            bytes += rest.len();
            if bytes == limit {
                break;
            }
        }
        let mut n = match rustix::io::pwritev(fd, &batch[..count], offset) {
            Ok(0) if bytes > 0 => return Err(io::ErrorKind::WriteZero.into()),
            Ok(n) => n,
            Err(Errno::INTR) => continue,
            Err(e) => return Err(e.into()),
        };
        written(offset, n as u64);
        offset += n as u64;
        while first < pieces.len() && n >= pieces[first].len() - skip {
            n -= pieces[first].len() - skip;
            (first, skip) = (first + 1, 0);
        }
        skip += n;
    }
    Ok(())
}

/// `fdatasync`. Never called again after a failure, not even an interruption: the kernel has then forgotten
/// which pages were lost.
pub fn sync(fd: BorrowedFd<'_>) -> io::Result<()> {
    Ok(rustix::fs::fdatasync(fd)?)
}

/// Starts the writing of a range without waiting for it.
pub fn start_writeback(fd: BorrowedFd<'_>, offset: u64, len: u64) {
    // A length of zero would mean "to the end".
    let (Ok(offset), Ok(len @ 1..)) = (i64::try_from(offset), i64::try_from(len)) else { return };
    // SAFETY: no memory is passed, and `fd` is open while it is borrowed. A failure is no harm: this is a
    // hint, and without the WAIT flags it takes no writeback error away from the next fdatasync.
    unsafe { libc::sync_file_range(fd.as_raw_fd(), offset, len, libc::SYNC_FILE_RANGE_WRITE) };
}

/// Reserves the first `len` bytes.
pub fn allocate(fd: BorrowedFd<'_>, len: u64) -> io::Result<()> {
    if len == 0 {
        return Ok(());
    }
    match retry_on_intr(|| rustix::fs::fallocate(fd, FallocateFlags::empty(), 0, len)) {
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => extend(fd, len),
        other => Ok(other?),
    }
}

/// Reserves by writing zeroes, where the filesystem has no fallocate. Holes before the file's end stay.
fn extend(fd: BorrowedFd<'_>, len: u64) -> io::Result<()> {
    let zeroes = [0; 64 << 10];
    let mut at = rustix::fs::fstat(fd)?.st_size as u64;
    while at < len {
        let n = (len - at).min(zeroes.len() as u64);
        write(fd, &[&zeroes[..n as usize]], at)?;
        at += n;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    #[test]
    fn many_pieces_arrive_in_order() {
        let file = tempfile::tempfile().unwrap();
        let data: Vec<u8> = (0..100_000_u32).map(|i| (i % 251) as u8).collect();
        // Empty pieces, more pieces than one call takes, and limits that cut through pieces.
        for (size, limit) in [(100_000, usize::MAX), (7, usize::MAX), (1000, 333), (1000, 1000), (1500, 4096)]
        {
            let mut pieces: Vec<&[u8]> = data.chunks(size).collect();
            pieces.insert(0, &[]);
            pieces.push(&[]);
            super::write(file.as_fd(), &[&vec![0; data.len()]], 10).unwrap();
            super::write_by(file.as_fd(), &pieces, 10, limit, |_, _| {}).unwrap();
            let mut back = vec![0; data.len() + 1];
            assert_eq!(super::read(file.as_fd(), &mut back, 10).unwrap(), data.len());
            assert!(back[..data.len()] == data, "pieces of {size}, limit {limit}");
        }
    }

    #[test]
    fn reserving_without_fallocate_keeps_what_is_there() {
        let file = tempfile::tempfile().unwrap();
        super::write(file.as_fd(), &[b"abc"], 0).unwrap();
        super::extend(file.as_fd(), 200_000).unwrap();
        super::extend(file.as_fd(), 5).unwrap();
        let mut back = vec![1; 200_001];
        assert_eq!(super::read(file.as_fd(), &mut back, 0).unwrap(), 200_000);
        assert_eq!(&back[..4], b"abc\0");
    }
}
