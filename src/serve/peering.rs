//! Peers of a store that is open: what `config.toml` says of them carried out, invites taken, and how things stand.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
};

use parking_lot::Mutex;
use serde_json::{Value, json};

use super::events::Events;
use crate::{
    base::{Clock as _, KeyId, SystemClock, SystemRandom},
    config::{self, ConfigError, Peering, PeeringEdit, PinnedPeer, ReplicationRule, is_plain_name},
    console::{FAILED, Failure, IN_USE, Outcome},
    disk::{Engine, RealDisk},
    peers::{Access, Hub, Invites, Join, Key, Listening, Outside, Peer, PeerStatus, Plan, Tidings},
    replicate::Notice,
    store::{Knowledge, Store},
};

/// The peers of an open store.
pub struct Peers {
    store: Arc<Store>,
    path: PathBuf,
    /// What the command line says of where to listen; it goes before what the file says.
    listen: Option<String>,
    events: Option<Arc<Events>>,
    hub: Mutex<Option<Arc<Hub>>>,
    /// It has ended, and begins no more.
    over: AtomicBool,
    /// The kernel collects writes.
    writeback: bool,
    /// Held while what the file says is changed or carried out.
    changing: Mutex<Peering>,
    me: Weak<Self>,
}

fn disk_of(store: &Path) -> io::Result<RealDisk> {
    RealDisk::open(store, Engine::Plain)
}

/// How this machine is called, as peers see it.
fn host_name() -> String {
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    plain(&name)
}

/// A name made of what names may have.
fn plain(name: &str) -> String {
    let fits = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.') { c } else { '-' };
    let name: String = name.chars().take(48).map(fits).collect();
    if is_plain_name(&name) { name } else { "peer".into() }
}

/// A name that no other key has here.
fn free_name(peering: &Peering, wanted: &str, key: KeyId) -> String {
    if let Some((name, _)) = peering.peers.iter().find(|(_, p)| p.key == key) {
        return name.clone();
    }
    let wanted = plain(wanted);
    let mut names = std::iter::once(wanted.clone()).chain((2..).map(|n: u32| format!("{wanted}-{n}")));
    names.find(|n| !peering.peers.contains_key(n)).unwrap_or(wanted)
}

/// The key of a store that whoever calls holds the lock of; it is made if there is none.
///
/// # Errors
/// What the system says.
pub fn own_key(store: &Path) -> io::Result<Key> {
    Key::open(&disk_of(store)?, &SystemRandom)
}

/// Does the file of a store name peers? One that can't be read does not.
#[must_use]
pub fn has_peers(store: &Path) -> bool {
    disk_of(store).is_ok_and(|disk| config::peering(&disk).is_ok_and(|p| !p.peers.is_empty()))
}

/// An invite to a store that whoever calls holds the lock of: its code.
///
/// # Errors
/// What the system says.
pub fn invite(store: &Path, access: Access) -> io::Result<String> {
    let disk = disk_of(store)?;
    let key = Key::open(&disk, &SystemRandom)?;
    let now = SystemClock.wall_ns();
    let mut invites = Invites::open(&disk, now)?;
    Ok(invites.invite(&disk, key.id(), access, &SystemRandom, now)?.to_string())
}

/// A change as it is asked for.
#[must_use]
pub fn change_request(edit: &PeeringEdit) -> Value {
    match edit {
        PeeringEdit::Peer(name, p) => json!({
            "peer": name, "key": p.key.to_string(), "store": p.store.map(|s| s.to_string()), "address": p.address, "grant": p.access.to_string(),
        }),
        PeeringEdit::RemovePeer(name) => json!({"remove_peer": name}),
        PeeringEdit::Rule(name, rule) => json!({"rule": name, "to": rule.peer, "paused": rule.paused}),
        PeeringEdit::RemoveRule(name) => json!({"remove_rule": name}),
    }
}

fn change_of(value: &Value) -> Option<PeeringEdit> {
    let word = |name: &str| value[name].as_str().map(str::to_owned);
    if let Some(name) = word("peer") {
        let (key, access) = (word("key")?.parse().ok()?, word("grant")?.parse().ok()?);
        let store = word("store").map(|id| id.parse()).transpose().ok()?;
        return Some(PeeringEdit::Peer(name, PinnedPeer { key, store, address: word("address"), access }));
    }
    if let Some(name) = word("rule") {
        return Some(PeeringEdit::Rule(
            name,
            ReplicationRule { peer: word("to")?, paused: value["paused"] == true },
        ));
    }
    word("remove_peer")
        .map(PeeringEdit::RemovePeer)
        .or_else(|| word("remove_rule").map(PeeringEdit::RemoveRule))
}

/// Changes what the file says, with names made plain and free.
fn change(store: &Path, edit: PeeringEdit) -> Result<Peering, ConfigError> {
    let _one = super::CHANGING.lock();
    let disk = disk_of(store).map_err(|source| ConfigError::Io { what: "opening", source })?;
    let edit = match edit {
        PeeringEdit::Peer(name, peer) => {
            let name = free_name(&config::peering(&disk)?, &name, peer.key);
            PeeringEdit::Peer(name, peer)
        }
        edit => edit,
    };
    config::change_peering(&disk, &edit)
}

/// What is known of the peers of a store that is not open, after a change to it if there is one. Whoever calls holds its lock.
///
/// # Errors
/// What the file or the system says.
pub fn told_closed(store: &Path, edit: Option<PeeringEdit>) -> Result<Value, ConfigError> {
    let failed = |what| move |source| ConfigError::Io { what, source };
    let peering = match edit {
        Some(edit) => change(store, edit)?,
        None => config::peering(&disk_of(store).map_err(failed("opening"))?)?,
    };
    let id = own_key(store).map_err(failed("reading the key beside"))?.id();
    let peers = peering.peers.iter().map(|(name, p)| {
        json!({"name": name, "id": p.key.to_string(), "address": p.address, "grant": p.access.to_string(), "state": "not open"})
    });
    let rules = peering.rules.iter().map(|(name, r)| {
        let state = if r.paused { "paused" } else { "not open" };
        json!({"name": name, "to": format!("peer:{}", r.peer), "prefix": "/", "two_way": true, "paused": r.paused, "state": state})
    });
    Ok(json!({
        "id": id.to_string(),
        "listens": Value::Null,
        "peers": peers.collect::<Vec<_>>(),
        "rules": rules.collect::<Vec<_>>(),
    }))
}

/// Why peers and the kernel's writeback cache do not go together.
const WRITEBACK: &str = "with -o writeback the kernel goes by the sizes and contents that it holds itself, and what comes from peers \
                         would be lost or mixed with them";

/// What is to be done for peers, settled before anything is mounted: where connections are to come in, they already do.
pub struct Prepared {
    peering: Peering,
    listen: Option<String>,
    listening: Option<Listening>,
    writeback: bool,
}

/// An address at which it can't be listened.
fn not_there(at: &str, e: &io::Error) -> Failure {
    let what = format!("{at} can't be listened at");
    let next = "another address or port: --listen ADDR:PORT, or listen in config.toml";
    match e.kind() {
        io::ErrorKind::AddrInUse => {
            Failure::new(IN_USE, what, "somebody else listens there", format!("ss -tlnp says who; or {next}"))
        }
        io::ErrorKind::AddrNotAvailable => {
            Failure::new(FAILED, what, "this machine does not have that address", next)
        }
        _ => Failure::new(FAILED, what, e.to_string(), next),
    }
}

impl Prepared {
    /// Reads what the file of a store says of peers, whose lock whoever calls holds, and begins to listen: at `listen`, or where the file
    /// says. With `writeback` the kernel is to collect writes.
    ///
    /// # Errors
    /// For a person: what can't be done.
    pub fn new(store: &Path, listen: Option<String>, writeback: bool) -> Outcome<Self> {
        let what = "peers can't be served";
        let disk = disk_of(store).map_err(|e| Failure::system(what, &e))?;
        let peering = config::peering(&disk).map_err(|e| e.failure(what, store))?;
        let at = listen.as_ref().or(peering.listen.as_ref());
        if writeback && (at.is_some() || !peering.peers.is_empty()) {
            let what = format!("{} can't be mounted with -o writeback while it has peers", store.display());
            let next = "mount it without -o writeback; or take away its peers, and listen, from config.toml";
            return Err(Failure::usage(what, WRITEBACK, next));
        }
        let listening = at.map(|at| Listening::at(at).map_err(|e| not_there(at, &e))).transpose()?;
        Ok(Self { peering, listen, listening, writeback })
    }
}

impl Peers {
    /// Carries out what was prepared.
    ///
    /// # Errors
    /// For a person: what can't be done, as a whole.
    pub fn start(store: &Arc<Store>, prepared: Prepared, events: Option<&Arc<Events>>) -> Outcome<Arc<Self>> {
        let path = crate::console::mounts::absolute(store.path());
        let Prepared { peering, listen, listening, writeback } = prepared;
        let peers = Arc::new_cyclic(|me| Self {
            store: Arc::clone(store),
            path,
            listen,
            events: events.cloned(),
            hub: Mutex::default(),
            over: AtomicBool::new(false),
            writeback,
            changing: Mutex::default(),
            me: me.clone(),
        });
        if let Some(listening) = listening {
            let hub = peers.hub()?;
            hub.listen(listening).map_err(|e| Failure::system("peers can't be served", &e))?;
        }
        let mut now = peers.changing.lock();
        peers.carry_out(&mut now, peering)?;
        drop(now);
        Ok(peers)
    }

    /// The hub, which is there from then on.
    fn hub(&self) -> Outcome<Arc<Hub>> {
        let mut hub = self.hub.lock();
        if let Some(there) = &*hub {
            return Ok(Arc::clone(there));
        }
        if self.over.load(SeqCst) {
            let why = "the store is about to be closed";
            return Err(Failure::new(IN_USE, "peers can't be served", why, "mount it again, and try again"));
        }
        let failed = |e| Failure::system("peers can't be served", &e);
        let disk = disk_of(&self.path).map_err(failed)?;
        let outside = Voice { peers: self.me.clone() };
        let made = Hub::start(Arc::clone(&self.store), Box::new(disk), Box::new(outside)).map_err(failed)?;
        Ok(Arc::clone(hub.insert(Arc::new(made))))
    }

    /// All connections end, with their last words.
    pub fn stop(&self) {
        let hub = {
            let mut hub = self.hub.lock();
            self.over.store(true, SeqCst);
            hub.take()
        };
        drop(hub);
    }

    fn carry_out(&self, now: &mut Peering, next: Peering) -> Outcome<()> {
        let listen = self.listen.clone().or_else(|| next.listen.clone());
        let peer = |(name, p): (&String, &PinnedPeer)| Peer {
            name: name.clone(),
            id: p.key,
            store: p.store,
            address: p.address.clone(),
            access: p.access,
            rule: next.rules.values().any(|r| r.peer == *name && !r.paused),
        };
        let plan = Plan { listen: listen.clone(), peers: next.peers.iter().map(peer).collect() };
        *now = next.clone();
        if plan == Plan::default() && self.hub.lock().is_none() {
            return Ok(());
        }
        self.hub()?.set_plan(plan).map_err(|e| not_there(&listen.unwrap_or_default(), &e))
    }

    /// May there be peers from now on?
    fn check_mount(&self, what: &str) -> Outcome<()> {
        if self.writeback {
            return Err(Failure::usage(what, WRITEBACK, "unmount it, and mount it without -o writeback"));
        }
        Ok(())
    }

    /// Answers a request: changes what is asked for, then tells all.
    pub(super) fn answer(&self, asked: &Value) -> Outcome<Value> {
        let what = "peers can't be changed";
        if let Some(word) = asked["invite"].as_str() {
            let access =
                word.parse().map_err(|why: String| Failure::usage(what, why, "segfs peer invite --help"))?;
            self.check_mount("no invite can be made")?;
            let _one = self.changing.lock();
            let code =
                invite(&self.path, access).map_err(|e| Failure::system("no invite can be made", &e))?;
            return Ok(json!({"code": code, "listens": self.listens()}));
        }
        if asked["joins"] == true {
            self.check_mount("it can't join another store")?;
        }
        if !asked["change"].is_null() {
            let edit = change_of(&asked["change"]).ok_or_else(|| {
                Failure::usage(what, "the change is not understood", "use the segfs that mounted it")
            })?;
            if let PeeringEdit::Peer(..) | PeeringEdit::Rule(..) = &edit {
                self.check_mount(what)?;
            }
            let mut now = self.changing.lock();
            let next = change(&self.path, edit).map_err(|e| e.failure(what, &self.path))?;
            self.carry_out(&mut now, next)?;
        }
        self.told().map_err(|e| Failure::system("how peers stand can't be told", &e))
    }

    /// Where it listens.
    #[must_use]
    pub fn listens(&self) -> Option<String> {
        self.hub.lock().as_ref().and_then(|h| h.listens()).map(|at| at.to_string())
    }

    fn told(&self) -> io::Result<Value> {
        let peering = self.changing.lock().clone();
        let hub = self.hub.lock().clone();
        let status = hub.as_ref().map(|h| h.status()).unwrap_or_default();
        let mine = self.store.knowledge().map_err(io::Error::other)?;
        let id = match &hub {
            Some(hub) => hub.key().id(),
            None => own_key(&self.path)?.id(),
        };
        let peers: Vec<Value> = status.iter().map(peer_value).collect();
        let mut rules = Vec::new();
        for (name, rule) in &peering.rules {
            if let Some(status) = status.iter().find(|s| s.peer.name == rule.peer) {
                rules.push(self.rule_value(name, rule, status, &mine)?);
            }
        }
        // What nobody else has: the least that is behind anywhere.
        let least = rules.iter().min_by_key(|r| r["operations_pending"].as_u64()).map(|r| {
            json!({"seconds": r["lag_seconds"], "bytes": r["bytes_pending"], "operations": r["operations_pending"]})
        });
        Ok(json!({
            "id": id.to_string(),
            "store": self.store.id().to_string(),
            "listens": self.listens(),
            "peers": peers,
            "rules": rules,
            "would_lose": least,
        }))
    }

    fn rule_value(
        &self,
        name: &str,
        rule: &ReplicationRule,
        status: &PeerStatus,
        mine: &Knowledge,
    ) -> io::Result<Value> {
        let theirs = status.theirs.clone().unwrap_or_default();
        let missing = mine.minus(&theirs);
        let operations: u64 = missing.stretches().map(|s| s.last - s.first + 1).sum();
        let (mut bytes, mut lag) = (0, 0.0);
        if operations > 0 {
            // About: of the segment in which it begins, the part behind it.
            for s in self.store.segments().iter().filter(|s| s.last_lsn >= status.cursor) {
                let all = (s.last_lsn.get().saturating_sub(s.first_lsn.get()) + 1) as f64;
                let behind = s.last_lsn.get().saturating_sub(status.cursor.get().max(s.first_lsn.get())) + 1;
                bytes += (s.used_bytes as f64 * (behind as f64 / all).min(1.0)) as u64;
            }
            let first = self.store.oldest_unknown(&theirs, status.cursor).map_err(io::Error::other)?;
            let now = SystemClock.wall_ns();
            lag = now.saturating_sub(first.unwrap_or(now)) as f64 / 1e9;
        }
        let state = match () {
            () if rule.paused => "paused",
            () if status.connected_ns.is_none() => "not connected",
            () if operations == 0 => "up to date",
            () => "sending",
        };
        Ok(json!({
            "name": name,
            "to": format!("peer:{}", rule.peer),
            "prefix": "/",
            "two_way": true,
            "paused": rule.paused,
            "state": state,
            "operations_pending": operations,
            "bytes_pending": bytes,
            "lag_seconds": lag,
            "last_error": status.trouble,
        }))
    }
}

fn peer_value(s: &PeerStatus) -> Value {
    json!({
        "name": s.peer.name,
        "id": s.peer.id.to_string(),
        "address": s.peer.address,
        "grant": s.peer.access.to_string(),
        "state": if s.connected_ns.is_some() { "connected" } else { "not connected" },
        "connected_seconds": s.connected_ns.map(|ns| ns / 1_000_000_000),
        "store": s.store.map(|id| id.to_string()),
        "last_error": s.trouble,
    })
}

/// What the hub asks and tells.
struct Voice {
    peers: Weak<Peers>,
}

impl Outside for Voice {
    fn tell(&self, what: Tidings) {
        let Some(peers) = self.peers.upgrade() else { return };
        let Some(events) = &peers.events else { return };
        match what {
            Tidings::Up(name) => {
                events.add("peer_connected", &format!("{name} is connected"), json!({"peer": name}))
            }
            Tidings::Lost(name, why) => {
                let text = format!("the connection with {name} has ended: {why}");
                events.add("peer_lost", &text, json!({"peer": name, "why": why}));
            }
            Tidings::Stranger(from, key) => {
                let text = format!("somebody at {from} was turned away: its key {key} is not paired");
                events.add("stranger", &text, json!({"address": from.to_string(), "key": key.to_string()}));
            }
            Tidings::Epoch(number, store) => {
                let text = format!("epoch {number} of store {store} has begun");
                events.add("epoch", &text, json!({"epoch": number, "store": store.to_string()}));
            }
            Tidings::Of(name, notice) => {
                let text = match &notice {
                    Notice::ClockOff(ns) => {
                        format!("the clock of {name} is {} s from the one here", ns / 1_000_000_000)
                    }
                    Notice::Aside(_, why) => format!("{name} did not take something: {why:?}"),
                    Notice::NotTaken(_, why) => format!("something of {name} was not taken: {why:?}"),
                    Notice::NotInLog(_) => {
                        format!("{name} lacks what the log here has no more: it is told what the index says")
                    }
                    Notice::Told(pages) => format!("{name} was told what the index says, in {pages} pages"),
                    Notice::Met(_) | Notice::CaughtUp(_) | Notice::WalksAgain => return,
                };
                events.add("replication", &text, json!({"peer": name}));
            }
        }
    }

    fn redeem(&self, join: &Join) -> Result<Access, String> {
        let peers = self.peers.upgrade().ok_or("it is about to end")?;
        let failed = |e: io::Error| {
            tracing::error!("an invite could not be taken: {e}");
            "it can't be written down there; try again".to_owned()
        };
        let disk = disk_of(&peers.path).map_err(failed)?;
        let mut now = peers.changing.lock();
        let mut invites = Invites::open(&disk, SystemClock.wall_ns()).map_err(failed)?;
        let no_such = "there is no such invite: codes work once, for 15 minutes; ask for a new one";
        let access = invites.redeem(&disk, &join.secret).map_err(failed)?.ok_or(no_such)?;
        // Not before it has shown a code: whoever has none learns nothing of the store.
        if join.store == peers.store.id() {
            return Err(format!(
                "it is the store {}, as this one is: one is a copy of the other. A replica is made by pairing, not by copying: segfs init \
                 a new store, mount it, and segfs peer join; all versions come along",
                join.store
            ));
        }
        // What it may do here, this invite says; what this store may do there decides that side alone.
        let store = Some(join.store);
        let peer = PinnedPeer { key: join.key, store, address: join.address.clone(), access };
        let refused = |e: String| {
            tracing::error!("a peer that joined could not be written down: {e}");
            "it can't be written down there; ask for a new invite".to_owned()
        };

        let name = join.name.clone();
        let next = change(&peers.path, PeeringEdit::Peer(name.clone(), peer)).map_err(|e| match e {
            // The store that it says it is is known with another key.
            ConfigError::Refused(why, next) => format!("{why}. There: {next}"),
            e => refused(e.to_string()),
        })?;
        peers.carry_out(&mut now, next).map_err(|e| refused(e.value().to_string()))?;
        drop(now);
        if let Some(events) = &peers.events {
            let text = format!("{} joined with the key {}; it may {access}", plain(&name), join.key);
            events.add("peer_joined", &text, json!({"peer": plain(&name), "key": join.key.to_string()}));
        }
        Ok(access)
    }

    fn name(&self) -> String {
        host_name()
    }
}

/// How this machine is called when it joins.
impl Peers {
    /// The name under which this machine is known to peers that are not told another.
    #[must_use]
    pub fn host_name() -> String {
        host_name()
    }
}
