//! Who waits for the disk.
//!
//! Few threads take requests, as many as there are processors. Were all of them to wait for the disk, nothing else
//! would be answered, and the disk would have as few reads at a time. So of cold reads all but one of them may wait; the
//! last one answers only what is in memory, and hands what must wait to threads that do nothing else.
//!
//! Syncs stay with the threads that take requests: handing them over as well took a third of the throughput of four that
//! sync at once, since each commit then wakes as many more threads.

use std::{
    cell::RefCell,
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    thread::JoinHandle,
};

use fuser::ReplyData;
use parking_lot::{Condvar, Mutex};

use crate::{
    base::{
        Ino, Result,
        limits::{JOBS_WAITING, WAITERS},
    },
    vfs::Front,
};

use super::adapter::caught;

/// Up to here a read is tried without waiting first; larger ones come from readers in a row, whom it helps more that
/// what is cached is not copied for nothing.
pub(super) const AT_ONCE_BYTES: usize = 64 << 10;

thread_local! {
    /// What reads read into: one for each thread that answers.
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// A read that the kernel asks for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Read {
    pub(super) ino: Ino,
    pub(super) offset: u64,
    pub(super) size: usize,
}

impl Read {
    fn buffered<T>(&self, work: impl FnOnce(&mut [u8]) -> T) -> T {
        BUFFER.with_borrow_mut(|buffer| {
            if buffer.len() < self.size {
                buffer.resize(self.size, 0);
            }
            work(&mut buffer[..self.size])
        })
    }

    /// Reads and answers, also if that means waiting.
    pub(super) fn answer(&self, vfs: &Front, reply: ReplyData) {
        self.buffered(|buffer| {
            match caught(|| told(vfs, vfs.read(self.ino, self.offset, buffer)), stop(vfs)) {
                Ok(n) => reply.data(&buffer[..n]),
                Err(e) => reply.error(e),
            }
        });
    }

    /// Answers if that takes no waiting; else the reply is still to be used.
    pub(super) fn answer_at_once(&self, vfs: &Front, reply: ReplyData) -> Option<ReplyData> {
        self.buffered(|buffer| {
            match caught(|| told(vfs, vfs.read_at_once(self.ino, self.offset, buffer)), stop(vfs)) {
                Ok(Some(n)) => reply.data(&buffer[..n]),
                Ok(None) => return Some(reply),
                Err(e) => reply.error(e),
            }
            None
        })
    }
}

/// Tells of a read that failed.
fn told<T>(vfs: &Front, read: Result<T>) -> Result<T> {
    read.inspect_err(|e| vfs.failed(e))
}

fn stop(vfs: &Front) -> impl FnOnce(&str) {
    |why| vfs.stop_writing(why)
}

/// A request's rest, which waits and answers.
type Job = Box<dyn FnOnce() + Send>;

/// Who waits for the disk. When this is dropped, what was handed over has been answered.
pub(super) struct Waiters {
    /// How many more of the threads that take requests may wait.
    may_wait: AtomicUsize,
    shared: Arc<Shared>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

struct Shared {
    queue: Mutex<Queue>,
    work: Condvar,
}

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    /// Threads that wait for a job, those among them that were woken and have not come yet.
    waiting: usize,
    over: bool,
}

/// Leave to wait for the disk, until it is dropped.
pub(super) struct MayWait<'a>(&'a AtomicUsize);

impl Drop for MayWait<'_> {
    fn drop(&mut self) {
        self.0.fetch_add(1, Relaxed);
    }
}

impl Waiters {
    /// `waiting`: so many of the threads that take requests may wait at once.
    pub(super) fn new(waiting: usize) -> Self {
        let shared = Shared { queue: Mutex::default(), work: Condvar::new() };
        Self { may_wait: AtomicUsize::new(waiting), shared: Arc::new(shared), threads: Mutex::default() }
    }

    /// Leave for the calling thread, which takes requests, to wait for the disk.
    pub(super) fn may_wait(&self) -> Option<MayWait<'_>> {
        let taken = self.may_wait.fetch_update(Relaxed, Relaxed, |n| n.checked_sub(1));
        // Not made before it is known that there is one: dropping it gives one back.
        taken.is_ok().then(|| MayWait(&self.may_wait))
    }

    /// Has something done by a thread that may wait; if there is none to be had, by this one.
    pub(super) fn hand_over(&self, job: impl FnOnce() + Send + 'static) {
        let mut queue = self.shared.queue.lock();
        let short = queue.jobs.len() >= queue.waiting;
        if queue.jobs.len() >= JOBS_WAITING || (short && !self.has_threads_after_one_more()) {
            drop(queue);
            return job();
        }
        queue.jobs.push_back(Box::new(job));
        drop(queue);
        self.shared.work.notify_one();
    }

    /// Starts a thread, if there may be one more. Are there any then?
    fn has_threads_after_one_more(&self) -> bool {
        let mut threads = self.threads.lock();
        if threads.len() < WAITERS {
            let shared = Arc::clone(&self.shared);
            let new = std::thread::Builder::new().name("segfs-wait".into()).spawn(move || shared.work());
            threads.extend(new);
        }
        !threads.is_empty()
    }
}

impl Shared {
    fn work(&self) {
        let mut queue = self.queue.lock();
        loop {
            if let Some(job) = queue.jobs.pop_front() {
                drop(queue);
                job();
                queue = self.queue.lock();
            } else if queue.over {
                return;
            } else {
                queue.waiting += 1;
                self.work.wait(&mut queue);
                queue.waiting -= 1;
            }
        }
    }
}

impl Drop for Waiters {
    fn drop(&mut self) {
        self.shared.queue.lock().over = true;
        self.shared.work.notify_all();
        for thread in self.threads.lock().drain(..) {
            // A request that panics is answered and ends no thread.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_so_many_may_wait_at_once() {
        let readers = Waiters::new(2);
        for _ in 0..3 {
            let (first, second) = (readers.may_wait(), readers.may_wait());
            assert!(first.is_some() && second.is_some());
            assert!(readers.may_wait().is_none() && readers.may_wait().is_none());
        }
    }
}
