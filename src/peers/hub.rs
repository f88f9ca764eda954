//! All connections of a store: who is listened to, who is dialed, and which one of several with the same peer is used.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    io,
    net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::Duration,
};

use parking_lot::{Condvar, Mutex};

use super::{
    connection::{self, Link, Seen},
    follow,
    invites::Access,
    keys::Key,
    pairing::{self, Join},
    state,
    strangers::{Strangers, Ticket},
    ties::{Mismatch, Ties},
    tls::{self, Expect, NoConnection, Purpose, Secured},
};
use crate::{
    base::{Clock as _, KeyId, Lsn, Random as _, StoreId, SystemClock, SystemRandom},
    disk::Disk,
    format::wire::{Bye, Epoch, Grant, Hello, Identity, NEWEST, OLDEST},
    replicate::{Acquaintances, End, Me, Meeting, Notice},
    store::{Knowledge, Store},
};

/// A handshake, and a dialing, may take so long.
const PATIENCE: Duration = Duration::from_secs(10);
/// A peer that can't be reached is dialed again after so long at first; then after twice that, and so on.
const REDIAL: Duration = Duration::from_millis(250);
/// A peer that can't be reached is dialed again after so long at last.
const REDIAL_MAX: Duration = Duration::from_secs(15);
/// One that can't be spoken with before a person does something is dialed again after so long.
const REDIAL_REFUSED: Duration = Duration::from_secs(60);
/// A connection that lasted so long was a good one, in nanoseconds: when it breaks, it is dialed anew at once.
const GOOD_NS: u64 = 5_000_000_000;
/// Two connections that came within this of each other were dialed by both sides at once.
const AT_ONCE_NS: u64 = 10_000_000_000;
/// Cursors are written down so often.
const KEEP_NS: u64 = 10_000_000_000;

/// A peer, as a person set it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// How it is called here.
    pub name: String,
    /// Its key.
    pub id: KeyId,
    /// The store that the key belongs to; without, what it says first counts.
    pub store: Option<StoreId>,
    /// HOST:PORT, if it can be dialed.
    pub address: Option<String>,
    /// What it may do here.
    pub access: Access,
    /// A two-way rule that is not paused goes there.
    pub rule: bool,
}

/// What a hub is to do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// Where to listen.
    pub listen: Option<String>,
    /// Who is let in, and dialed.
    pub peers: Vec<Peer>,
}

/// What happened.
#[derive(Debug)]
pub enum Tidings {
    /// A connection with a peer stands.
    Up(String),
    /// It does not any more, and why.
    Lost(String, String),
    /// A session has something to say of a peer.
    Of(String, Notice),
    /// Somebody without a pinned key was turned away.
    Stranger(IpAddr, KeyId),
    /// This store is in a higher epoch from now on.
    Epoch(u64, StoreId),
}

/// What a hub can't know by itself.
pub trait Outside: Send + Sync {
    /// Something happened.
    fn tell(&self, what: Tidings);
    /// Somebody shows an invite: what it may do here, or why it is not taken.
    ///
    /// # Errors
    /// What to say to it.
    fn redeem(&self, join: &Join) -> Result<Access, String>;
    /// How this store is called.
    fn name(&self) -> String;
}

/// How things stand with a peer.
#[derive(Debug, Clone)]
pub struct PeerStatus {
    /// As it was set.
    pub peer: Peer,
    /// A connection stands, since so many nanoseconds.
    pub connected_ns: Option<u64>,
    /// The store, once it said so.
    pub store: Option<StoreId>,
    /// What it holds, as far as is known.
    pub theirs: Option<Knowledge>,
    /// It has everything up to here.
    pub cursor: Lsn,
    /// Both have everything, and nothing is under way.
    pub idle: bool,
    /// What went wrong last, if it does still.
    pub trouble: Option<String>,
}

/// What is known of a peer beside the plan.
#[derive(Default)]
struct Known {
    link: Option<Arc<Link>>,
    last: Seen,
    trouble: Option<String>,
}

#[derive(Default)]
struct State {
    plan: Plan,
    known: BTreeMap<KeyId, Known>,
    cursors: BTreeMap<KeyId, Lsn>,
    kept_ns: u64,
    strangers: Strangers<TcpStream>,
    listener: Option<(String, SocketAddr, Arc<AtomicBool>)>,
    /// Who is dialed; set when that is to end.
    dialers: BTreeMap<KeyId, (Peer, Arc<AtomicBool>)>,
    epoch: Epoch,
    ties: Ties,
}

impl State {
    fn works(&self) -> bool {
        self.known.values().filter_map(|k| k.link.as_ref()).any(|l| l.exchanges.load(SeqCst))
    }
}

/// An address at which connections come in, though nobody takes them yet.
#[derive(Debug)]
pub struct Listening {
    at: String,
    listener: TcpListener,
}

impl Listening {
    /// Begins to listen at ADDRESS:PORT.
    ///
    /// # Errors
    /// What the system says: `AddrInUse` if somebody else does.
    pub fn at(at: &str) -> io::Result<Self> {
        Ok(Self { at: at.to_owned(), listener: TcpListener::bind(at)? })
    }
}

/// How the use of a connection went.
enum Used {
    /// Its key is not pinned here, and it got nothing.
    Unknown,
    /// It has ended.
    Well,
    /// It has ended early, and something is wrong.
    Badly,
    /// Nothing can be said before a person does something.
    Refused,
}

/// What all threads of a hub share.
pub(super) struct Inner {
    pub(super) store: Arc<Store>,
    met: Mutex<Acquaintances>,
    disk: Box<dyn Disk>,
    key: Key,
    outside: Box<dyn Outside>,
    state: Mutex<State>,
    changed: Condvar,
    over: AtomicBool,
    /// Held while the file of cursors is written.
    keeping: Mutex<()>,
}

/// The connections of an open store. They end when this is dropped.
pub struct Hub {
    inner: Arc<Inner>,
}

impl Hub {
    /// Starts it, with nothing to do yet. `disk` is the store's directory.
    ///
    /// # Errors
    /// What the system says.
    pub fn start(store: Arc<Store>, disk: Box<dyn Disk>, outside: Box<dyn Outside>) -> io::Result<Self> {
        let key = Key::open(&*disk, &SystemRandom)?;
        let epoch = state::epoch(&*disk)?;
        let state = State { cursors: state::cursors(&*disk), epoch, ..State::default() };
        let inner = Arc::new(Inner {
            store,
            met: Mutex::default(),
            disk,
            key,
            outside,
            state: Mutex::new(state),
            changed: Condvar::new(),
            over: AtomicBool::new(false),
            keeping: Mutex::default(),
        });
        let follower = Arc::clone(&inner);
        thread("segfs-follow", move || follow::follow(&follower))?;
        Ok(Self { inner })
    }

    /// This store's key.
    #[must_use]
    pub fn key(&self) -> &Key {
        &self.inner.key
    }

    /// Takes the connections that come in there, in the place of where it listened.
    ///
    /// # Errors
    /// What the system says.
    pub fn listen(&self, listening: Listening) -> io::Result<()> {
        self.inner.listen(Some(listening))
    }

    /// Where it listens.
    #[must_use]
    pub fn listens(&self) -> Option<SocketAddr> {
        self.inner.state.lock().listener.as_ref().map(|l| l.1)
    }

    /// What is to be done from now on. Connections for which it is something else begin anew.
    ///
    /// # Errors
    /// If it can't be listened there; the rest is done.
    pub fn set_plan(&self, plan: Plan) -> io::Result<()> {
        let inner = &self.inner;
        let mut state = inner.state.lock();
        let old = std::mem::replace(&mut state.plan, plan.clone());
        for was in &old.peers {
            let now = plan.peers.iter().find(|p| p.id == was.id);
            let same = now.is_some_and(|p| (p.access, p.rule, p.store) == (was.access, was.rule, was.store));
            if let Some(link) = state.known.get(&was.id).and_then(|k| k.link.as_ref()).filter(|_| !same) {
                link.end(Bye::Done);
            }
            if now.is_none() {
                state.cursors.remove(&was.id);
            }
        }
        state.ties.keep(&plan.peers);
        state.dialers.retain(|_, (peer, over)| {
            let stays = plan.peers.contains(peer);
            over.store(!stays, SeqCst);
            stays
        });
        for peer in plan.peers.iter().filter(|p| p.address.is_some()) {
            if let Entry::Vacant(free) = state.dialers.entry(peer.id) {
                let over = Arc::new(AtomicBool::new(false));
                free.insert((peer.clone(), Arc::clone(&over)));
                let (inner, peer) = (Arc::clone(inner), peer.clone());
                thread("segfs-dial", move || inner.dial(&peer, &over))?;
            }
        }
        let listen = match (&state.listener, &plan.listen) {
            (Some((there, ..)), Some(wanted)) if there == wanted => None,
            (_, wanted) => Some(wanted.clone()),
        };
        drop(state);
        inner.say_needed();
        inner.changed.notify_all();
        let Some(at) = listen else { return Ok(()) };
        // One that is bound anew may be at the same place.
        inner.listen(None)?;
        at.map_or(Ok(()), |at| inner.listen(Some(Listening::at(&at)?)))
    }

    /// How things stand with each peer.
    #[must_use]
    pub fn status(&self) -> Vec<PeerStatus> {
        let state = self.inner.state.lock();
        let now = SystemClock.monotonic_ns();
        let of = |peer: &Peer| {
            let known = state.known.get(&peer.id);
            let link = known.and_then(|k| k.link.as_ref());
            let seen = link.map(|l| l.seen.lock().clone()).or_else(|| known.map(|k| k.last.clone()));
            let seen = seen.unwrap_or_default();
            PeerStatus {
                connected_ns: link.map(|l| now.saturating_sub(l.since_ns)),
                store: seen.identity.map(|i| i.store),
                theirs: seen.theirs.clone().or_else(|| known.and_then(|k| k.last.theirs.clone())),
                cursor: seen.cursor.max(state.cursors.get(&peer.id).copied().unwrap_or_default()),
                idle: link.is_some() && seen.idle,
                trouble: seen.trouble.or_else(|| known.and_then(|k| k.trouble.clone())),
                peer: peer.clone(),
            }
        };
        state.plan.peers.iter().map(of).collect()
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        let inner = &self.inner;
        inner.over.store(true, SeqCst);
        let mut state = inner.state.lock();
        if let Some((_, at, over)) = state.listener.take() {
            stop_listening(at, &over);
        }
        state.dialers.values().for_each(|(_, over)| over.store(true, SeqCst));
        state.known.values().filter_map(|k| k.link.as_ref()).for_each(|l| l.end(Bye::Done));
        inner.changed.notify_all();
        // They say goodbye, and write down how far they are.
        inner.changed.wait_while_for(&mut state, |s| s.known.values().any(|k| k.link.is_some()), PATIENCE);
        let cursors = state.cursors.clone();
        drop(state);
        let _one = inner.keeping.lock();
        if let Err(e) = state::keep_cursors(&*inner.disk, &cursors) {
            tracing::warn!("how far peers are was not written down: {e}");
        }
    }
}

fn thread(name: &str, run: impl FnOnce() + Send + 'static) -> io::Result<()> {
    std::thread::Builder::new().name(name.into()).spawn(run).map(drop)
}

fn stop_listening(at: SocketAddr, over: &AtomicBool) {
    over.store(true, SeqCst);
    // Whoever accepts looks again.
    let _ = TcpStream::connect_timeout(&at, Duration::from_millis(200));
}

impl Inner {
    pub(super) fn is_over(&self) -> bool {
        self.over.load(SeqCst)
    }

    /// Says to the store what of its log is still needed, and what every peer has.
    pub(super) fn say_needed(&self) {
        let state = self.state.lock();
        let of = |peer: &Peer| {
            let link = state.known.get(&peer.id).and_then(|k| k.link.as_ref());
            let (cursor, sends) =
                link.map(|l| l.seen.lock()).map(|s| (s.cursor, s.sends)).unwrap_or_default();
            let kept = state.cursors.get(&peer.id).copied();
            // To whom no rule of either side sends anything, as far as is known, the log need not be kept.
            let waits = sends.unwrap_or(peer.rule || kept.is_some());
            waits.then(|| cursor.max(kept.unwrap_or(Lsn::FIRST)))
        };
        let least = state.plan.peers.iter().filter(|p| p.access.reads()).filter_map(of).min();
        drop(state);
        self.store.set_needed(least);
        let acknowledged = least.map_or(0, |lsn| lsn.get().saturating_sub(1));
        self.store.set_acknowledged(Lsn::new(acknowledged));
    }

    /// Is there a connection by which facts cross?
    pub(super) fn has_work(&self) -> bool {
        self.state.lock().works()
    }

    /// There is one more.
    pub(super) fn exchanges(&self) {
        // Who has just seen that there was none holds this until it waits.
        drop(self.state.lock());
        self.changed.notify_all();
    }

    pub(super) fn each_link(&self, tell: impl Fn(&Link)) {
        self.state.lock().known.values().filter_map(|k| k.link.as_ref()).for_each(|l| tell(l));
    }

    /// Waits, at most until the hub ends.
    pub(super) fn pause(&self, time: Duration) {
        self.pause_while(time, |_| true);
    }

    /// Waits until there is a connection by which facts cross, or the hub ends.
    pub(super) fn pause_alone(&self, time: Duration) {
        self.pause_while(time, |s| !s.works());
    }

    fn pause_while(&self, time: Duration, still: impl Fn(&State) -> bool) {
        let mut state = self.state.lock();
        self.changed.wait_while_for(&mut state, |s| !self.is_over() && still(s), time);
    }

    /// The other side is in a higher epoch: what this store may not do in it any more is written down before anything else is said.
    /// Both sides of a two-way rule may write in every epoch, and there is no other rule.
    pub(super) fn fence(&self, epoch: Epoch) -> io::Result<()> {
        let mut state = self.state.lock();
        if epoch > state.epoch {
            state::keep_epoch(&*self.disk, &epoch)?;
            state.epoch = epoch;
            drop(state);
            self.outside.tell(Tidings::Epoch(epoch.number, epoch.store));
        }
        Ok(())
    }

    /// A peer says who it is; or has proved that it lives.
    pub(super) fn meet(&self, link: &Link, who: &Identity, alive: bool) -> Meeting {
        let mut state = self.state.lock();
        let State { plan, ties, .. } = &mut *state;
        let (key, says) = (link.peer, who.store);
        let wrong = ties.check(&plan.peers, key, says).err();
        drop(state);
        let Some(wrong) = wrong else { return self.met.lock().meet(who, alive) };
        let next =
            "Nothing was exchanged. If a store or its key was made anew: segfs peer rm, and join again";
        let why = match wrong {
            Mismatch::Other(store) => {
                format!(
                    "it has the key {key}, which belongs to the store {store}, and says that it is {says}. {next}"
                )
            }
            Mismatch::Of(other) => format!(
                "it has the key {key} and says that it is the store {says}, to which the key {other} belongs. {next}"
            ),
        };
        link.seen.lock().mismatch = Some(why);
        Meeting::NotThatStore
    }

    pub(super) fn tell(&self, peer: KeyId, notice: Notice) {
        let Some(name) = self.name_of(peer) else { return };
        if let Notice::Met(_) = notice {
            self.state.lock().known.entry(peer).or_default().trouble = None;
            self.outside.tell(Tidings::Up(name.clone()));
        }
        self.outside.tell(Tidings::Of(name, notice));
    }

    fn name_of(&self, id: KeyId) -> Option<String> {
        self.state.lock().plan.peers.iter().find(|p| p.id == id).map(|p| p.name.clone())
    }

    fn listen(self: &Arc<Self>, next: Option<Listening>) -> io::Result<()> {
        if let Some((_, at, over)) = self.state.lock().listener.take() {
            stop_listening(at, &over);
        }
        let Some(Listening { at, listener }) = next else { return Ok(()) };
        let bound = listener.local_addr()?;
        let over = Arc::new(AtomicBool::new(false));
        self.state.lock().listener = Some((at, bound, Arc::clone(&over)));
        let inner = Arc::clone(self);
        thread("segfs-listen", move || {
            while !over.load(SeqCst) && !inner.is_over() {
                match listener.accept() {
                    Ok((socket, from)) if !over.load(SeqCst) => inner.stranger(socket, from.ip()),
                    Ok(_) => return,
                    // Want of files, say: it may pass.
                    Err(e) => {
                        tracing::warn!("{bound}: {e}");
                        inner.pause(Duration::from_millis(100));
                    }
                }
            }
        })
    }

    /// Somebody knocks.
    fn stranger(self: &Arc<Self>, socket: TcpStream, from: IpAddr) {
        let Ok(end) = socket.try_clone() else { return };
        let (ticket, gone) = self.state.lock().strangers.enter(from, end);
        if let Some(gone) = gone {
            let _ = gone.shutdown(Shutdown::Both);
            self.changed.notify_all();
        }
        let inner = Arc::clone(self);
        let run = move || {
            let secured = tls::take(socket, &inner.key, PATIENCE);
            let secured = match secured {
                Ok(secured) if secured.purpose == Purpose::Pairing => {
                    inner.pair(secured, from, ticket);
                    None
                }
                Ok(secured) => Some(secured),
                Err(e) => {
                    tracing::debug!("{from}: {e}");
                    None
                }
            };
            inner.state.lock().strangers.leave(ticket);
            if let Some(secured) = secured {
                let who = secured.who;
                match inner.attach(secured, false) {
                    Ok(Used::Unknown) => {
                        if inner.state.lock().strangers.is_news(from, SystemClock.monotonic_ns()) {
                            inner.outside.tell(Tidings::Stranger(from, who));
                        }
                    }
                    Ok(_) => {}
                    Err(e) => tracing::debug!("{from}: {e}"),
                }
            }
        };
        if thread("segfs-peer", run).is_err() {
            self.state.lock().strangers.leave(ticket);
        }
    }

    /// Hears somebody who shows an invite. A wrong code is answered late, and the later the more there were.
    fn pair(&self, secured: Secured, from: IpAddr, ticket: Ticket) {
        let who = secured.who;
        let decide = |join: &Join| {
            self.outside.redeem(join).inspect_err(|_| {
                let wait = self.state.lock().strangers.wrong(from, SystemClock.monotonic_ns());
                self.pause_while(wait, |s| s.strangers.is_there(ticket));
            })
        };
        if let Err(e) = pairing::hear(secured, (&self.outside.name(), self.store.id()), decide) {
            tracing::info!("{from}, key {who}, showed no invite: {e}");
        }
    }

    /// Dials a peer again and again, while there is no connection with it.
    fn dial(self: &Arc<Self>, peer: &Peer, over: &AtomicBool) {
        let mut pause = REDIAL;
        while !over.load(SeqCst) && !self.is_over() {
            let has_link = |s: &State| s.known.get(&peer.id).is_some_and(|k| k.link.is_some());
            if has_link(&self.state.lock()) {
                pause = REDIAL;
                self.pause_while(Duration::from_secs(60), |s| has_link(s) && !over.load(SeqCst));
                continue;
            }
            pause = match self.dial_once(peer) {
                Ok(Used::Well) => REDIAL,
                Ok(Used::Refused) => REDIAL_REFUSED,
                Ok(Used::Badly | Used::Unknown) => (pause * 2).min(REDIAL_MAX),
                Err(why) => {
                    self.state.lock().known.entry(peer.id).or_default().trouble = Some(why);
                    (pause * 2).min(REDIAL_MAX)
                }
            };
            let mut random = [0; 1];
            SystemRandom.fill(&mut random);
            let pause = pause.mul_f64(0.5 + f64::from(random[0]) / 256.0);
            self.pause_while(pause, |s| !has_link(s) && !over.load(SeqCst));
        }
    }

    fn dial_once(self: &Arc<Self>, peer: &Peer) -> Result<Used, String> {
        let address = peer.address.as_deref().unwrap_or_default();
        let socket = pairing::connect(address, PATIENCE).map_err(|e| format!("{address}: {e}"))?;
        let secured = tls::dial(socket, &self.key, Expect::Key(peer.id), Purpose::Session, PATIENCE);
        let secured = secured.map_err(|e| match e {
            NoConnection::WrongKey { found } => {
                format!(
                    "{address} has the key {found}, and {} the key {}: it is somebody else",
                    peer.name, peer.id
                )
            }
            NoConnection::Io(e) => format!("{address}: {e}"),
        })?;
        self.attach(secured, true).map_err(|e| format!("{address}: {e}"))
    }

    /// Uses a connection until it ends.
    fn attach(self: &Arc<Self>, secured: Secured, dialed: bool) -> io::Result<Used> {
        let link = Arc::new(Link::new(secured.who, dialed)?);
        let (me, name) = {
            let mut state = self.state.lock();
            if self.is_over() {
                // Those that are there have been told to end, and are waited for: there must be no new one.
                return Ok(Used::Well);
            }
            let Some(peer) = state.plan.peers.iter().find(|p| p.id == secured.who).cloned() else {
                return Ok(Used::Unknown);
            };
            let me = self.me(&state, &peer);
            let own = self.key.id();
            let known = state.known.entry(peer.id).or_default();
            if let Some(there) = &known.link {
                // Of two that were dialed by both at once, the one stays that the lower key dialed; else the newer one.
                let at_once =
                    link.since_ns.saturating_sub(there.since_ns) < AT_ONCE_NS && there.dialed != dialed;
                let lower_dialed = if own < peer.id { there.dialed } else { !there.dialed };
                if at_once && lower_dialed {
                    return Ok(Used::Well);
                }
                there.end(Bye::Superseded);
            }
            known.link = Some(Arc::clone(&link));
            (me, peer.name)
        };
        self.changed.notify_all();
        let done = connection::run(self, &link, secured, me);
        Ok(self.detach(&link, &name, done))
    }

    /// Why a connection has ended, if something is wrong.
    fn trouble(&self, link: &Link, seen: &Seen, done: &io::Result<Option<End>>) -> Option<String> {
        Some(match done {
            Ok(
                Some(End::Said(Bye::Done | Bye::Superseded) | End::Told(Bye::Done | Bye::Superseded)) | None,
            ) => {
                return None;
            }
            Ok(Some(End::Silent)) => "it has said nothing for 30 s".to_owned(),
            Ok(Some(End::Said(Bye::Version) | End::Told(Bye::Version))) => versions(seen.hello),
            Ok(Some(End::Said(Bye::NotThatStore))) => seen.mismatch.clone()?,
            Ok(Some(End::Said(why))) => format!("this side ended it: {}", self.ended(*why)),
            Ok(Some(End::Told(why))) => format!("the other side ended it: {}", self.ended(*why)),
            Err(e) if seen.hello.is_none() && link.dialed => format!(
                "it hung up before it said anything ({e}): has it pinned this store's key, {}? segfs peer list, there",
                self.key.id()
            ),
            Err(e) => e.to_string(),
        })
    }

    fn detach(&self, link: &Arc<Link>, name: &str, done: io::Result<Option<End>>) -> Used {
        let seen = link.seen.lock().clone();
        let why = self.trouble(link, &seen, &done);
        let mut state = self.state.lock();
        match seen.sends {
            Some(true) if state.plan.peers.iter().any(|p| p.id == link.peer) => {
                state.cursors.insert(link.peer, seen.cursor);
            }
            // No rule of either side sends it anything any more.
            Some(false) => drop(state.cursors.remove(&link.peer)),
            _ => {}
        }
        let cursors = state.cursors.clone();
        let now = SystemClock.monotonic_ns();
        let keep = now.saturating_sub(state.kept_ns) >= KEEP_NS;
        if keep {
            state.kept_ns = now;
        }
        let known = state.known.entry(link.peer).or_default();
        let was_used = known.link.as_ref().is_some_and(|l| Arc::ptr_eq(l, link));
        // What goes wrong the same way again and again, before anybody has said who he is, is told once.
        let is_news = was_used && (seen.identity.is_some() || known.trouble != why);
        if was_used {
            known.link = None;
            known.last = seen;
            known.trouble.clone_from(&why);
        }
        drop(state);
        self.changed.notify_all();
        let _one = self.keeping.lock();
        if keep && let Err(e) = state::keep_cursors(&*self.disk, &cursors) {
            tracing::warn!("how far peers are was not written down: {e}");
        }
        let used = match (&why, done) {
            (None, _) => Used::Well,
            (_, Ok(Some(End::Said(end) | End::Told(end)))) if needs_a_person(end) => Used::Refused,
            _ if now.saturating_sub(link.since_ns) >= GOOD_NS => Used::Well,
            _ => Used::Badly,
        };
        if is_news {
            self.outside.tell(Tidings::Lost(name.to_owned(), why.unwrap_or_else(|| "it ended".into())));
        }
        used
    }

    fn ended(&self, why: Bye) -> String {
        const REPLICA: &str = "A replica is made by pairing, not by copying: segfs init a new store, mount it, and segfs peer join; all \
                               versions come along. Files that only one of the two has: cp them";
        match why {
            Bye::SameStore => format!(
                "it has the id of this store, {}, so one is a copy of the other, and nothing was exchanged. {REPLICA}",
                self.store.id()
            ),
            Bye::Copy => format!(
                "one of the two stores was copied, and the copy is written too; nothing more is exchanged. Unmount the copy. {REPLICA}"
            ),
            Bye::Protocol => "the protocol was broken".into(),
            Bye::TooMuch => "more was asked for than anybody gets".into(),
            Bye::Stopped => "its store has stopped writing: segfs status, there".into(),
            Bye::NotThatStore => format!(
                "there, this store's key, {}, is not known as that of the store {}: segfs peer list, there",
                self.key.id(),
                self.store.id()
            ),
            Bye::Version => versions(None),
            Bye::Done | Bye::Superseded => "nothing more is to be said".into(),
        }
    }

    /// What this store says of itself to a peer.
    fn me(&self, state: &State, peer: &Peer) -> Me {
        let identity = Identity {
            store: self.store.id(),
            incarnation: self.store.incarnation(),
            wall_ns: SystemClock.wall_ns(),
        };
        let grant = Grant {
            path: Vec::new(),
            read: peer.access.reads(),
            write: peer.access.writes(),
            asks: peer.rule && peer.access.writes(),
        };
        let cursor = state.cursors.get(&peer.id).copied().unwrap_or(Lsn::FIRST);
        let heeds_epoch = peer.access.writes();
        Me { identity, epoch: state.epoch, grants: vec![grant], heeds_epoch, sends: peer.rule, cursor }
    }
}

/// Dialing again changes nothing about it.
fn needs_a_person(why: Bye) -> bool {
    matches!(why, Bye::Version | Bye::SameStore | Bye::Copy | Bye::NotThatStore)
}

/// There is no version of the protocol that both speak.
fn versions(other: Option<Hello>) -> String {
    let Some(Hello { oldest, newest, .. }) = other else {
        return "it speaks no version of the protocol that this program speaks: use the same segfs on both hosts".into();
    };
    let older = if newest < OLDEST { "there" } else { "here" };
    format!(
        "it speaks versions {oldest} to {newest} of the protocol, and this program {OLDEST} to {NEWEST}: \
         put a newer segfs {older}. Nothing was exchanged"
    )
}
