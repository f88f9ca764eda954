//! The kernel's FUSE protocol, through fuser: its calls to calls of `vfs`, and answers back.
//!
//! Nothing is decided here but what the protocol asks for. A request that panics answers with an I/O error
//! (fuser does, when the reply is dropped) and stops all writing.

mod adapter;
mod convert;
mod errno;
mod invalidate;
mod options;
mod turns;
mod waiters;

use std::{
    io,
    os::fd::AsFd,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use fuser::{Config, MountOption, SessionACL};

use crate::vfs::{AccessTimes, Front, Vfs};
use adapter::Adapter;
use turns::Turns;

pub use options::{KNOWN as KNOWN_OPTIONS, Options, UnknownOption};

/// The largest read or write in one request, in bytes.
pub const REQUEST_BYTES: u32 = 1 << 20;
/// Threads that take requests: as many as measured best.
const THREADS: usize = 2;

/// A mount that answers.
pub struct Mount {
    session: fuser::BackgroundSession,
    requests: Arc<Requests>,
    /// Of what arrives; a mount of the past shows nothing of it.
    _arrivals: Option<invalidate::Invalidator>,
}

/// Requests of the kernel, counted. Those that need no answer of the store are not.
#[derive(Debug, Default)]
pub struct Requests {
    begun: AtomicU64,
    ended: AtomicU64,
}

/// A request that is under way as long as this is there.
struct Counted(Arc<Requests>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.ended.fetch_add(1, Relaxed);
    }
}

impl Requests {
    fn begin(requests: &Arc<Self>) -> Counted {
        requests.begun.fetch_add(1, Relaxed);
        Counted(Arc::clone(requests))
    }

    /// How many were answered.
    #[must_use]
    pub fn answered(&self) -> u64 {
        self.ended.load(Relaxed)
    }

    /// How many are under way.
    #[must_use]
    pub fn under_way(&self) -> u64 {
        let ended = self.ended.load(Relaxed);
        self.begun.load(Relaxed).saturating_sub(ended)
    }
}

impl Mount {
    /// Mounts a filesystem on a directory and answers the kernel's requests from threads of its own.
    ///
    /// # Errors
    /// What the system says.
    pub fn new(vfs: &Arc<Vfs>, mountpoint: &Path, source: &Path, options: &Options) -> io::Result<Self> {
        let mut config = Config::default();
        config.mount_options = mount_options(source, options);
        config.acl = if options.allow_other { SessionACL::All } else { SessionACL::Owner };
        config.n_threads = Some(THREADS);
        let front = match options.at {
            None => Front::new(Arc::clone(vfs), options.history),
            Some(when) => Front::of_moment(Arc::clone(vfs), when).map_err(io::Error::other)?,
        };
        let requests = Arc::new(Requests::default());
        let turns = Turns::new(THREADS);
        let adapter =
            Adapter::new(Arc::new(front), Arc::clone(&requests), Arc::clone(&turns), options.writeback);
        let session = fuser::Session::new(adapter, mountpoint, &config)?;
        turns.read_from(session.as_fd().try_clone_to_owned()?);
        let notifier = session.notifier();
        vfs.on_side_effect(move |ino| {
            // Attributes alone: that takes no lock that a request could hold.
            if let Err(e) = notifier.inval_inode(convert::node(ino), -1, 0) {
                tracing::debug!("telling the kernel of inode {ino}: {e}");
            }
        });
        let arrivals = options.at.is_none().then(|| invalidate::Invalidator::start(vfs, session.notifier()));
        vfs.ask_groups(convert::groups_of);
        vfs.keep_access_times(if options.read_only { AccessTimes::Never } else { options.access_times });
        Ok(Self { session: session.spawn()?, requests, _arrivals: arrivals.transpose()? })
    }

    /// What has been asked of it.
    #[must_use]
    pub fn requests(&self) -> Arc<Requests> {
        Arc::clone(&self.requests)
    }

    /// Is it unmounted, by whomever?
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.session.guard.is_finished()
    }

    /// Waits until it is unmounted and every request is answered.
    ///
    /// # Errors
    /// What ended it, if it was not an unmount.
    pub fn wait(self) -> io::Result<()> {
        self.session.join()
    }
}

fn mount_options(source: &Path, options: &Options) -> Vec<MountOption> {
    let mut all = vec![
        MountOption::DefaultPermissions,
        MountOption::FSName(source_name(source)),
        // fuser gives the subtype to fusermount alone; the kernel knows it as well.
        MountOption::CUSTOM("subtype=segfs".into()),
    ];
    all.push(if options.read_only { MountOption::RO } else { MountOption::RW });
    all.push(if options.devices { MountOption::Dev } else { MountOption::NoDev });
    all.push(if options.set_id { MountOption::Suid } else { MountOption::NoSuid });
    if !options.execute {
        all.push(MountOption::NoExec);
    }
    if options.synchronous {
        all.push(MountOption::Sync);
    }
    if options.directories_synchronous {
        all.push(MountOption::DirSync);
    }
    if options.access_times == AccessTimes::Never {
        all.push(MountOption::NoAtime);
    }
    all
}

/// What mount tables show as the source: the store, unless its name could be taken for mount options (fuser
/// 0.18 joins them with commas as they are).
fn source_name(source: &Path) -> String {
    match source.to_str() {
        Some(s) if !s.contains([',', '\\', '"', '\n']) => s.to_owned(),
        _ => "segfs".to_owned(),
    }
}
