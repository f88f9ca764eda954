//! Where a file and its history are, as paths: in a mount, or in a store that nobody has mounted, which is mounted
//! for this process alone and out of everybody's sight.

use std::{
    ffi::OsString,
    fs, io,
    os::fd::{AsRawFd, OwnedFd},
    path::{Component, Path, PathBuf},
    sync::Arc,
};

use segfs::{
    base::{Clock, SystemClock},
    fuse,
    serve::version::{path_value, protect},
    store::{Options, Store},
    vfs::{Vfs, canonical},
};

use serde_json::{Value, json};

use super::{
    super::{
        failure::{FAILED, Failure, NOT_FOUND, Outcome, mounts},
        mounts::take_down,
        open,
    },
    operator::ask,
};

/// The name of history.
const HISTORY: &str = ".segfs";

/// A store that is open for one command.
pub struct Private {
    root: OwnedFd,
    mount: Option<fuse::Mount>,
    vfs: Arc<Vfs>,
    store: Arc<Store>,
}

impl Private {
    /// Opens a store that nobody has open.
    pub fn open(path: &Path) -> Outcome<Self> {
        let failed = |e| Failure::of_store(&e, path);
        let what = || format!("the store {} can't be looked into", path.display());
        let system = |e: io::Error| {
            Failure::new(FAILED, what(), e.to_string(), "run as root, or install fusermount3 (package fuse3)")
        };
        let store = Arc::new(open(path, Options::default(), &|_, _| {})?.store);
        store.start_maintenance().map_err(failed)?;
        let vfs = Arc::new(Vfs::new(Arc::clone(&store)));
        let mut name = [0; 8];
        rustix::rand::getrandom(&mut name, rustix::rand::GetRandomFlags::empty())
            .map_err(|e| system(e.into()))?;
        let dir = std::env::temp_dir().join(format!("segfs-{:016x}", u64::from_le_bytes(name)));
        fs::create_dir(&dir).map_err(system)?;
        let options = fuse::Options::for_user(rustix::process::geteuid().is_root());
        let options = fuse::Options { allow_other: false, ..options };
        let mounted = fuse::Mount::new(&vfs, &dir, &mounts::absolute(path), &options);
        let mount = mounted.map_err(|e| {
            let _ = fs::remove_dir(&dir);
            system(e)
        })?;
        // Out of sight at once: it goes when this process does, however that ends.
        let flags = rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::PATH | rustix::fs::OFlags::CLOEXEC;
        let root = rustix::fs::open(&dir, flags, rustix::fs::Mode::empty()).map_err(io::Error::from);
        let down = take_down(&dir, true);
        let _ = fs::remove_dir(&dir);
        let root = root.and_then(|root| down.map(|()| root)).map_err(system)?;
        Ok(Self { root, mount: Some(mount), vfs, store })
    }

    fn root(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.root.as_raw_fd()))
    }

    /// Closes it: what the command wrote is safe then.
    pub fn close(mut self, path: &Path) -> Outcome<()> {
        let Self { root, vfs, store, .. } = &self;
        let _ = rustix::fs::syncfs(root);
        vfs.release_all();
        store.close().map_err(|e| Failure::of_store(&e, path))?;
        // The mount ends with the process.
        std::mem::forget(self.mount.take());
        Ok(())
    }
}

/// Where paths of a command begin.
pub struct Base {
    private: Option<Private>,
}

impl Base {
    /// In mounts, or in the store that was named.
    pub fn new(store: Option<&Path>) -> Outcome<Self> {
        Ok(Self { private: store.map(Private::open).transpose()? })
    }

    /// The path that reaches what somebody named.
    pub fn path(&self, shown: &Path) -> PathBuf {
        match &self.private {
            None => shown.to_owned(),
            Some(private) => {
                let mut path = private.root();
                path.extend(
                    shown.components().filter(|c| matches!(c, Component::Normal(_) | Component::ParentDir)),
                );
                path
            }
        }
    }

    /// Asks for what protects a version of a symlink, or changes it: the kernel passes nothing on to those. A mount answers its owner
    /// and root.
    pub fn protect(&self, shown: &Path, version: &Value, change: &Value, what: &str) -> Outcome<Value> {
        if let Some(private) = &self.private {
            let path: PathBuf = shown.components().filter(|c| matches!(c, Component::Normal(_))).collect();
            let path = Path::new("/").join(path);
            let failed = |e| Failure::of_store(&e, private.store.path());
            private.vfs.mint_all_due().map_err(failed)?;
            return protect(&private.store, path.as_os_str().as_encoded_bytes(), version, change);
        }
        let whole = mounts::absolute_name(shown);
        let mount = mounts::around(&whole).ok_or_else(|| {
            let why = format!("{} is not in a mount of segfs", shown.display());
            Failure::usage(what, why, "segfs status; or --store STORE for an unmounted one")
        })?;
        let below = whole.strip_prefix(&mount.dir).unwrap_or(Path::new(""));
        let path = Path::new("/").join(below);
        let path = path_value(path.as_os_str().as_encoded_bytes());
        let request = json!({"request": "protect", "path": path, "version": version, "change": change});
        ask(&mount, &request, what)
    }

    /// Ends it.
    pub fn close(self, store: Option<&Path>) -> Outcome<()> {
        match (self.private, store) {
            (Some(private), Some(path)) => private.close(path),
            _ => Ok(()),
        }
    }
}

/// A name in a directory that has history.
pub struct Place {
    /// As it was named.
    pub shown: PathBuf,
    /// The directory.
    pub dir: PathBuf,
    /// The name in it.
    pub name: OsString,
}

impl Place {
    /// The place that a path names. Its directory must be in a mount.
    pub fn new(base: &Base, shown: &Path) -> Outcome<Self> {
        let path = base.path(shown);
        let what = || format!("{} has no history", shown.display());
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            let why = "a directory as a whole has no versions";
            return Err(Failure::usage(what(), why, "segfs log --all DIR, or name a file"));
        };
        let dir = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
        match fs::symlink_metadata(dir.join(HISTORY)) {
            Ok(m) if m.is_dir() => {}
            _ if !dir.exists() => {
                let why = format!("there is no directory {} now", shown_parent(shown).display());
                return Err(Failure::new(
                    NOT_FOUND,
                    what(),
                    why,
                    "name it through a directory that is there",
                ));
            }
            Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {
                return Err(Failure::system(what(), &e));
            }
            _ => {
                let why = "it is not in a mount of segfs that shows history";
                return Err(Failure::usage(
                    what(),
                    why,
                    "segfs status; or --store STORE for an unmounted one",
                ));
            }
        }
        Ok(Self { shown: shown.to_owned(), dir: dir.to_owned(), name: name.to_owned() })
    }

    /// A path in the history of its directory.
    pub fn history(&self, below: impl AsRef<Path>) -> PathBuf {
        self.dir.join(HISTORY).join(below)
    }

    /// The directory with the versions of the name.
    pub fn versions(&self) -> PathBuf {
        self.history("versions").join(&self.name)
    }

    /// What the name shows now.
    pub fn live(&self) -> PathBuf {
        self.dir.join(&self.name)
    }

    /// What the name showed at a moment.
    pub fn at(&self, moment: &str) -> PathBuf {
        self.history("at").join(moment).join(&self.name)
    }
}

fn shown_parent(path: &Path) -> &Path {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// The present, ns since 1970.
pub fn now_ns() -> u64 {
    SystemClock.wall_ns()
}

/// The name of a moment in `at`.
pub fn moment_name(ns: u64) -> String {
    canonical(ns)
}

/// A virtual attribute of a path; none if there is none, an error for anything else.
pub fn attribute(path: &Path, name: &str) -> io::Result<Option<String>> {
    let mut value = vec![0; 65536];
    let found = rustix::fs::lgetxattr(path, format!("user.segfs.{name}"), &mut value[..]);
    match found {
        Ok(n) => Ok(Some(String::from_utf8_lossy(&value[..n]).into_owned())),
        Err(e) => match io::Error::from(e) {
            e if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied) => Err(e),
            _ => Ok(None),
        },
    }
}
