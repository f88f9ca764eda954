//! One connection that stands: a thread that owns socket, TLS and session, and a few that do what the session asks of the store.

use std::{
    collections::VecDeque,
    io::{self, Read as _, Write as _},
    os::fd::{AsFd as _, OwnedFd},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use parking_lot::Mutex;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

use super::{hub::Inner, tls::Secured};
use crate::{
    base::{Clock as _, KeyId, Lsn, SystemClock},
    format::wire::{Bye, Hello, Identity},
    replicate::{Effect, End, Incoming, Input, Me, Notice, Session, answer},
    store::{Knowledge, Store},
};

/// Time passes in steps of this for a session.
const STEP_NS: u64 = 1_000_000_000;
/// Bytes that are taken from a session, or from the socket, at once.
const PART: usize = 64 << 10;
/// Effects that wait in a lane; more wait with the session's thread.
const LANE: usize = 64;
/// Where so many wait with it, nothing more is taken from the socket.
const WAITING: usize = 1024;
/// Turns of a connection in a row before it looks at everything else.
const TURNS: usize = 64;

/// What others see of a connection, and how they reach it.
pub(super) struct Link {
    pub(super) peer: KeyId,
    pub(super) dialed: bool,
    pub(super) since_ns: u64,
    waker: OwnedFd,
    durable: AtomicU64,
    stopped: AtomicBool,
    /// Facts cross: what is appended to the log matters to the other side, or is to be acknowledged to it.
    pub(super) exchanges: AtomicBool,
    end: Mutex<Option<Bye>>,
    pub(super) seen: Mutex<Seen>,
}

/// How a session stands.
#[derive(Debug, Clone, Default)]
pub(super) struct Seen {
    /// Which versions it speaks.
    pub(super) hello: Option<Hello>,
    pub(super) identity: Option<Identity>,
    pub(super) cursor: Lsn,
    /// Is it to be sent what is here? None before both have said what is granted.
    pub(super) sends: Option<bool>,
    /// What the other side holds; none before it said so.
    pub(super) theirs: Option<Knowledge>,
    pub(super) idle: bool,
    pub(super) trouble: Option<String>,
    /// Why it is not the store that it says.
    pub(super) mismatch: Option<String>,
}

impl Link {
    pub(super) fn new(peer: KeyId, dialed: bool) -> io::Result<Self> {
        Ok(Self {
            peer,
            dialed,
            since_ns: SystemClock.monotonic_ns(),
            waker: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
            durable: AtomicU64::new(0),
            stopped: AtomicBool::new(false),
            exchanges: AtomicBool::new(false),
            end: Mutex::default(),
            seen: Mutex::default(),
        })
    }

    fn wake(&self) {
        // A counter that is full wakes as well.
        let _ = rustix::io::write(&self.waker, &1_u64.to_ne_bytes());
    }

    /// The log is durable up to here.
    pub(super) fn durable(&self, lsn: Lsn) {
        if self.durable.fetch_max(lsn.get(), SeqCst) < lsn.get() {
            self.wake();
        }
    }

    /// The store has stopped writing.
    pub(super) fn stopped(&self) {
        self.stopped.store(true, SeqCst);
        self.wake();
    }

    /// It is to end.
    pub(super) fn end(&self, why: Bye) {
        self.end.lock().get_or_insert(why);
        self.wake();
    }
}

/// Content from so many bytes on is hashed for long: it is taken in beside everything else.
const LARGE_BYTES: u64 = 64 << 20;

/// The lanes of a connection. What may take long, as hashing a large file does, is apart from what others wait for.
#[derive(Clone, Copy)]
enum Way {
    /// What is said: reads log and index, and hashes what has no hash yet.
    Read,
    /// Extents that were asked for.
    Fetch,
    /// What comes.
    Take,
    /// Large files, once all of them is here.
    TakeLarge,
}

const WAYS: [(Way, &str); 4] = [
    (Way::Read, "segfs-peer-read"),
    (Way::Fetch, "segfs-peer-fetch"),
    (Way::Take, "segfs-peer-take"),
    (Way::TakeLarge, "segfs-peer-large"),
];

/// Does it take long to hash what comes?
fn is_large(incoming: &Incoming) -> bool {
    let ends =
        incoming.parcel.contents.iter().flat_map(|c| &c.ranges).map(|r| r.offset.saturating_add(r.len));
    ends.max().is_some_and(|end| end >= LARGE_BYTES)
}

/// Something to be done for a session, with what the other side holds if that is needed.
type Job = (Knowledge, Effect);

/// Work of one kind, in its order, on a thread of its own.
struct Lane {
    jobs: Option<Sender<Job>>,
    waiting: VecDeque<Job>,
    /// Its thread has ended, by a panic: nothing is done any more.
    dead: bool,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Lane {
    fn new(name: &str, store: &Arc<Store>, link: &Arc<Link>, answers: &Sender<Input>) -> io::Result<Self> {
        let (jobs, todo): (_, Receiver<Job>) = bounded(LANE);
        let (store, link, answers) = (Arc::clone(store), Arc::clone(link), answers.clone());
        let run = move || {
            for (theirs, effect) in todo {
                let Ok(input) = answer(&store, &theirs, effect) else { continue };
                if answers.send(input).is_err() {
                    return;
                }
                link.wake();
            }
        };
        let thread = std::thread::Builder::new().name(name.into()).spawn(run)?;
        Ok(Self { jobs: Some(jobs), waiting: VecDeque::new(), dead: false, thread: Some(thread) })
    }

    fn put(&mut self, job: Job) {
        self.waiting.push_back(job);
        self.feed();
    }

    fn feed(&mut self) {
        let Some(jobs) = &self.jobs else { return };
        while let Some(job) = self.waiting.pop_front() {
            match jobs.try_send(job) {
                Ok(()) => {}
                Err(TrySendError::Full(job)) => return self.waiting.push_front(job),
                Err(TrySendError::Disconnected(_)) => {
                    self.dead = true;
                    return;
                }
            }
        }
    }
}

/// A connection at work.
struct Run<'a> {
    hub: &'a Arc<Inner>,
    link: &'a Arc<Link>,
    secured: Secured,
    session: Session,
    /// By [`Way`].
    lanes: [Lane; WAYS.len()],
    answers: Receiver<Input>,
    durable: Lsn,
    closed: bool,
    /// What is taken from the socket passes through here.
    part: Vec<u8>,
}

/// Drives a session until it ends. Says why it did.
pub(super) fn run(hub: &Arc<Inner>, link: &Arc<Link>, secured: Secured, me: Me) -> io::Result<Option<End>> {
    secured.socket.set_nonblocking(true)?;
    let (send, answers) = bounded(4 * LANE);
    let lane = |way: Way| Lane::new(WAYS[way as usize].1, &hub.store, link, &send);
    let lanes = [lane(Way::Read)?, lane(Way::Fetch)?, lane(Way::Take)?, lane(Way::TakeLarge)?];
    drop(send);
    let session = Session::new(me, SystemClock.monotonic_ns());
    let durable = Lsn::default();
    let part = vec![0; PART];
    let mut run = Run { hub, link, secured, session, lanes, answers, durable, closed: false, part };
    let done = run.go();
    run.show();
    let end = run.session.ended();
    let Run { lanes, answers, .. } = run;
    // What still works finds nobody to answer to.
    drop(answers);
    for mut lane in lanes {
        lane.jobs = None;
        if let Some(thread) = lane.thread.take() {
            let _ = thread.join();
        }
    }
    done.map(|()| end)
}

impl Run<'_> {
    fn go(&mut self) -> io::Result<()> {
        let mut tick = 0;
        loop {
            let now = SystemClock.monotonic_ns();
            self.news(now);
            if now >= tick {
                self.session.tick(now);
                tick = now + STEP_NS;
                self.show();
            }
            self.effects(now);
            if self.session.exchanges() && !self.link.exchanges.swap(true, SeqCst) {
                self.show();
                self.hub.exchanges();
            }
            let blocked = !self.send()?;
            let ended = self.session.ended().is_some();
            if ended && (!blocked || self.closed) && !self.secured.tls.wants_write() {
                return Ok(());
            }
            if ended && self.session.ended() == Some(End::Silent) {
                return Ok(());
            }
            if self.closed {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let busy = self.lanes.iter().any(|l| l.waiting.len() >= WAITING);
            let reads = !ended && !busy && self.session.wants_input();
            let more = reads && self.receive()?;
            if !more && !self.session.has_effects() && self.answers.is_empty() {
                self.wait(tick, reads, blocked)?;
            }
            if ended && SystemClock.monotonic_ns() > tick {
                // It does not even take the last words.
                return Ok(());
            }
        }
    }

    /// What others have to say.
    fn news(&mut self, now: u64) {
        let mut counter = [0; 8];
        let _ = rustix::io::read(&self.link.waker, &mut counter);
        let durable = Lsn::new(self.link.durable.load(SeqCst));
        if durable > self.durable {
            self.durable = durable;
            self.session.handle(Input::Durable(durable), now);
        }
        for _ in 0..TURNS * LANE {
            let Ok(input) = self.answers.try_recv() else { break };
            self.session.handle(input, now);
        }
        self.lanes.iter_mut().for_each(Lane::feed);
        if self.link.stopped.load(SeqCst) || self.lanes.iter().any(|l| l.dead) {
            self.session.handle(Input::Stopped, now);
        }
        if let Some(why) = self.link.end.lock().take() {
            self.session.handle(Input::End(why), now);
        }
    }

    fn effects(&mut self, now: u64) {
        while let Some(effect) = self.session.next_effect() {
            match effect {
                Effect::Tell(notice) => self.tell(notice),
                Effect::Meet(who, alive) => {
                    let met = self.hub.meet(self.link, &who, alive);
                    self.session.handle(Input::Met(met), now);
                }
                Effect::Fence(epoch) => match self.hub.fence(epoch) {
                    Ok(()) => self.session.handle(Input::Fenced, now),
                    Err(e) => {
                        tracing::error!("the epoch could not be written down: {e}");
                        self.session.handle(Input::Stopped, now);
                    }
                },
                Effect::Commit => {
                    // What was appended is made durable by the follower, which says so; until then there is nothing to say.
                    let durable = self.hub.store.durable_lsn();
                    if durable > self.durable {
                        self.durable = durable;
                        self.session.handle(Input::Durable(durable), now);
                    }
                }
                Effect::Read(_) | Effect::Page(..) | Effect::Supply(_) | Effect::Lacking(_) => {
                    let theirs = self.session.theirs().clone();
                    self.put(Way::Read, theirs, effect);
                }
                Effect::Know | Effect::Ask(..) => self.put(Way::Read, Knowledge::default(), effect),
                Effect::Fetch(..) => self.put(Way::Fetch, Knowledge::default(), effect),
                Effect::Import(ref incoming, _) if is_large(incoming) => {
                    self.put(Way::TakeLarge, Knowledge::default(), effect);
                }
                Effect::Look(_)
                | Effect::Keep(_)
                | Effect::Import(..)
                | Effect::Take(..)
                | Effect::TakeSupply(..) => self.put(Way::Take, Knowledge::default(), effect),
            }
        }
    }

    fn put(&mut self, way: Way, theirs: Knowledge, effect: Effect) {
        self.lanes[way as usize].put((theirs, effect));
    }

    fn tell(&mut self, notice: Notice) {
        let mut seen = self.link.seen.lock();
        match &notice {
            Notice::Met(who) => seen.identity = Some(*who),
            Notice::CaughtUp(_) => seen.trouble = None,
            Notice::Aside(_, reason) => {
                seen.trouble = Some(format!("something was not taken in there: {reason:?}"))
            }
            Notice::NotTaken(_, reason) => {
                seen.trouble = Some(format!("something could not be taken in here: {reason:?}"));
            }
            Notice::ClockOff(_) | Notice::WalksAgain | Notice::NotInLog(_) | Notice::Told(_) => {}
        }
        drop(seen);
        self.hub.tell(self.link.peer, notice);
    }

    /// Leaves others see how it stands.
    fn show(&mut self) {
        let mut seen = self.link.seen.lock();
        seen.hello = self.session.hello();
        seen.cursor = self.session.cursor();
        seen.sends = self.session.is_open().then(|| self.session.sends());
        seen.theirs = seen.identity.map(|_| self.session.theirs().clone());
        seen.idle = self.session.is_idle();
    }

    /// Sends what there is; false: the socket takes no more for now.
    fn send(&mut self) -> io::Result<bool> {
        for _ in 0..TURNS {
            if self.secured.tls.wants_write() {
                match self.secured.tls.write_tls(&mut self.secured.socket) {
                    Ok(_) => continue,
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                    Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                    Err(e) => return Err(e),
                }
            }
            let bytes = self.session.output(PART);
            if bytes.is_empty() {
                return Ok(true);
            }
            self.secured.tls.writer().write_all(&bytes)?;
        }
        Ok(false)
    }

    /// Takes what has come; true: there may be more.
    fn receive(&mut self) -> io::Result<bool> {
        let Secured { tls, socket, .. } = &mut self.secured;
        let mut blocked = false;
        match tls.read_tls(socket) {
            Ok(0) => self.closed = true,
            Ok(_) => {}
            // What came together with the end of the handshake is here already.
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => blocked = true,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => return Ok(true),
            Err(e) => return Err(e),
        }
        tls.process_new_packets().map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?;
        loop {
            match self.secured.tls.reader().read(&mut self.part) {
                Ok(0) => {
                    self.closed = true;
                    return Ok(false);
                }
                Ok(n) => self.session.receive(&self.part[..n], SystemClock.monotonic_ns()),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(!blocked && !self.closed),
                Err(e) => return if self.closed { Ok(false) } else { Err(e) },
            }
        }
    }

    /// Waits for the socket, for an answer, or for the next step of time.
    fn wait(&self, tick: u64, reads: bool, writes: bool) -> io::Result<()> {
        let left = Duration::from_nanos(tick.saturating_sub(SystemClock.monotonic_ns()));
        let mut what = PollFlags::empty();
        what.set(PollFlags::IN, reads);
        what.set(PollFlags::OUT, writes);
        let mut fds = [
            PollFd::from_borrowed_fd(self.link.waker.as_fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(self.secured.socket.as_fd(), what),
        ];
        // A connection that waits for nothing of the socket still hears that it broke, and must not spin on that.
        let fds = if what.is_empty() { &mut fds[..1] } else { &mut fds[..] };
        let left = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
        match poll(fds, Some(&left)) {
            Ok(_) => Ok(()),
            Err(e) => match io::Error::from(e) {
                e if e.kind() == io::ErrorKind::Interrupted => Ok(()),
                e => Err(e),
            },
        }
    }
}
