//! What a filesystem means, in plain Rust: open files, directory scans, attributes, ACLs, names.
//!
//! Permission checks are the kernel's (it is mounted with `default_permissions`); what follows from a change
//! (versions at the last close, orphans, set-group-id directories, ACL inheritance, privileges dropped) is
//! decided here.

mod access_times;
mod acl;
mod attributes;
mod content;
mod dirs;
mod files;
mod front;
mod history;
mod names;
mod xattrs;

use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;

use crate::{
    base::{Clock, Damage, Error, FsError, Ino, Result, SystemClock},
    store::Store,
};

pub use crate::{
    format::facts::{ObjectKind, Owner, Time},
    store::{Attributes, Rename, Touched, Watcher},
};
pub use access_times::AccessTimes;
pub use attributes::{SetTime, Setting};
pub use content::{Allocate, Seek};
pub use dirs::Listed;
pub use front::{Front, When};
pub use history::{Asker, NAME as HISTORY_NAME, Shown, ago, canonical, parse_moment, version_file};

/// Locks among which the making of versions is spread.
const MINTING: usize = 16;

/// Who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Caller {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// The thread, which knows its further groups; 0 if there is none.
    pub pid: u32,
}

/// What `df` shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Space {
    /// All bytes.
    pub total_bytes: u64,
    /// Bytes that can be had.
    pub free_bytes: u64,
    /// Objects ever made.
    pub objects: u64,
}

type Listener = Box<dyn Fn(Ino) + Send + Sync>;
type OnDamage = Box<dyn Fn(&Damage) + Send + Sync>;
type Groups = Box<dyn Fn(u32) -> Vec<u32> + Send + Sync>;

/// The filesystem over one store.
pub struct Vfs {
    store: Arc<Store>,
    clock: Arc<dyn Clock>,
    files: Mutex<files::Files>,
    /// See [`Vfs::minting`].
    minting: [Mutex<()>; MINTING],
    dirs: Mutex<dirs::Dirs>,
    unwritten: access_times::Unwritten,
    /// Files that have no version of what they show have to be looked at: from this one on.
    drafts_from: Mutex<Option<Ino>>,
    /// Told when attributes changed behind the back of whoever caches them.
    changed: OnceLock<Listener>,
    /// Knows the further groups of a thread.
    groups_of: OnceLock<Groups>,
    /// Is told of bytes on disk that are not what was written.
    damaged: OnceLock<OnDamage>,
}

impl Vfs {
    /// The filesystem over a store.
    #[must_use]
    pub fn new(store: Arc<Store>) -> Self {
        Self {
            store,
            clock: Arc::new(SystemClock),
            files: Mutex::default(),
            minting: Default::default(),
            dirs: Mutex::default(),
            unwritten: access_times::Unwritten::default(),
            drafts_from: Mutex::default(),
            changed: OnceLock::new(),
            groups_of: OnceLock::new(),
            damaged: OnceLock::new(),
        }
    }

    /// What lies where versions are made now may have been made elsewhere: [`tick`](Self::tick) looks at it, soon.
    pub fn look_at_drafts(&self) {
        *self.drafts_from.lock() = Some(Ino::FIRST);
    }

    /// What has to be done now and then; call it about once a second.
    ///
    /// # Errors
    /// What the store says.
    pub fn tick(&self) -> Result<()> {
        self.mint_timely()?;
        loop {
            let Some(from) = self.drafts_from.lock().take() else { return Ok(()) };
            let next = self.mint_left(from)?;
            let mut at = self.drafts_from.lock();
            // Whoever asked meanwhile wants them all looked at.
            *at = at.or(next);
        }
    }

    /// Sets who is told of attributes that changed as a side effect of something else; once.
    pub fn on_side_effect(&self, listener: impl Fn(Ino) + Send + Sync + 'static) {
        let _ = self.changed.set(Box::new(listener));
    }

    /// Sets who is told of what arrives from other stores; once.
    pub fn on_arrival(&self, watcher: Arc<dyn Watcher>) {
        self.store.on_touched(watcher);
    }

    /// The directories in which an object has names.
    ///
    /// # Errors
    /// What the store says.
    pub fn directories_of(&self, ino: Ino) -> Result<Vec<Ino>> {
        self.store.directories_of(ino)
    }

    /// Sets who is asked for the further groups of a thread; once. That is seldom needed.
    pub fn ask_groups(&self, groups_of: impl Fn(u32) -> Vec<u32> + Send + Sync + 'static) {
        let _ = self.groups_of.set(Box::new(groups_of));
    }

    /// Sets who is told when somebody asks for bytes that are damaged; once.
    pub fn on_damage(&self, listener: impl Fn(&Damage) + Send + Sync + 'static) {
        let _ = self.damaged.set(Box::new(listener));
    }

    /// A request ends with this error.
    pub fn failed(&self, e: &Error) {
        if let (Error::Damaged(damage), Some(listener)) = (e, self.damaged.get()) {
            listener(damage);
        }
    }

    fn tell_changed(&self, ino: Ino) {
        if let Some(listener) = self.changed.get() {
            listener(ino);
        }
    }

    fn now(&self) -> Time {
        Time::from_ns(self.clock.wall_ns())
    }

    /// What a name in a directory shows.
    ///
    /// # Errors
    /// [`crate::base::FsError::NotFound`], or what the store says.
    pub fn lookup(&self, dir: Ino, name: &[u8]) -> Result<Attributes> {
        match name {
            // The kernel asks so for what it only has a number of, as NFS has, and that may be gone for good.
            b"." => match self.attributes(dir)? {
                a if a.links == 0 => Err(FsError::NotFound.into()),
                a => Ok(a),
            },
            b".." => self.attributes(self.store.view().parent(dir)?),
            _ => {
                let mut a = self.store.view().lookup(dir, name)?;
                self.unwritten.show(&mut a);
                Ok(a)
            }
        }
    }

    /// Attributes of an object.
    ///
    /// # Errors
    /// As of [`lookup`](Self::lookup).
    pub fn attributes(&self, ino: Ino) -> Result<Attributes> {
        let mut a = self.store.view().attributes(ino)?;
        self.unwritten.show(&mut a);
        Ok(a)
    }

    /// Target of a symlink.
    ///
    /// # Errors
    /// As of [`lookup`](Self::lookup), and [`crate::base::FsError::Invalid`] for what is none.
    pub fn read_link(&self, ino: Ino) -> Result<Vec<u8>> {
        self.store.view().read_link(ino)
    }

    /// Room on the disk that holds the store.
    ///
    /// # Errors
    /// What the system says.
    pub fn space(&self) -> Result<Space> {
        let space = self.store.space()?;
        Ok(Space {
            total_bytes: space.total_bytes,
            free_bytes: space.free_bytes,
            objects: self.store.status().objects,
        })
    }

    /// Makes everything done so far survive a crash.
    ///
    /// # Errors
    /// [`Error::Poisoned`] if it can't be made so, and whenever the store has stopped writing: something may have been
    /// refused since, and whoever syncs must not take it for safe.
    pub fn sync(&self) -> Result<()> {
        self.store.sync(self.store.last_lsn())?;
        self.store.stopped().map_or(Ok(()), |why| Err(Error::Poisoned { why }))
    }

    /// Stops all writing until the store is opened anew: something in here is not as it should be.
    pub fn stop_writing(&self, why: &str) {
        self.store.stop_writing(why);
    }
}
