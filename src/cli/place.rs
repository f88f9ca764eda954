//! Where to mount, and with what right: everything that can be seen beforehand is, so that nothing has changed when a
//! mount is refused.

use std::{
    io,
    os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use rustix::fs::{Access, access};
use segfs::fuse;

use super::{
    failure::{Failure, IN_USE, Outcome},
    mounts,
};

const DEVICE: &str = "/dev/fuse";
/// Major and minor number of the FUSE device.
const NUMBER: (u32, u32) = (10, 229);
const HELPER: &str = "fusermount3";
const HELPERS_SETTINGS: &str = "/etc/fuse.conf";

/// What is in the way, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Obstacle {
    pub why: String,
    pub next: String,
}

fn obstacle(why: impl Into<String>, next: impl Into<String>) -> Obstacle {
    Obstacle { why: why.into(), next: next.into() }
}

/// The kernel's side of FUSE.
pub fn device() -> Result<(), Obstacle> {
    let modprobe =
        "modprobe fuse, as root; in a container: pass /dev/fuse in (docker run --device /dev/fuse)";
    let Ok(meta) = std::fs::metadata(DEVICE) else {
        return Err(obstacle(format!("this system has no {DEVICE}"), modprobe));
    };
    let number = (rustix::fs::major(meta.rdev()), rustix::fs::minor(meta.rdev()));
    if !meta.file_type().is_char_device() || number != NUMBER {
        return Err(obstacle(format!("{DEVICE} is not the FUSE device"), modprobe));
    }
    if access(DEVICE, Access::READ_OK | Access::WRITE_OK).is_err() {
        return Err(obstacle(format!("you may not open {DEVICE}"), format!("chmod 666 {DEVICE}, as root")));
    }
    Ok(())
}

/// The program through which users mount, as fuser finds it.
pub fn helper() -> Result<PathBuf, Obstacle> {
    let search = std::env::var_os("PATH").unwrap_or_default();
    let places = std::env::split_paths(&search).chain(["/sbin", "/bin"].map(PathBuf::from));
    let mut found =
        places.map(|dir| dir.join(HELPER)).filter_map(|p| Some((p.metadata().ok()?.permissions(), p)));
    let Some((permissions, path)) = found.find(|(p, _)| p.mode() & 0o111 != 0) else {
        return Err(obstacle(
            format!("a user mounts through {HELPER}, and there is none"),
            "install it (Debian: apt-get install fuse3), or run it as root",
        ));
    };
    if permissions.mode() & 0o4000 == 0 {
        let why = format!("{} is not set-user-id root, so it can't mount for a user", path.display());
        return Err(obstacle(why, format!("chown root {0} && chmod u+s {0}, as root", path.display())));
    }
    Ok(path)
}

/// May users let others into their mounts?
pub fn users_may_let_others_in() -> bool {
    let settings = std::fs::read_to_string(HELPERS_SETTINGS).unwrap_or_default();
    settings.lines().any(|line| line.trim() == "user_allow_other")
}

/// May whoever runs this mount with these options?
fn right(options: &fuse::Options) -> Result<(), Obstacle> {
    device()?;
    if rustix::process::geteuid().is_root() {
        return Ok(());
    }
    helper()?;
    if options.allow_other && !users_may_let_others_in() {
        return Err(obstacle(
            format!("a user may mount with allow_other only if {HELPERS_SETTINGS} says so"),
            format!("leave allow_other out, or add the line user_allow_other to {HELPERS_SETTINGS}, as root"),
        ));
    }
    Ok(())
}

/// Directories that were made on the way, the innermost first.
#[derive(Debug, Default)]
pub struct Made(Vec<PathBuf>);

impl Made {
    /// Those that are missing of a path.
    pub fn missing(path: &Path) -> Self {
        let whole = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        Self(whole.ancestors().take_while(|p| p.symlink_metadata().is_err()).map(Path::to_owned).collect())
    }

    pub fn any(&self) -> bool {
        !self.0.is_empty()
    }

    /// Takes them away again, as far as nothing is in them.
    pub fn undo(&self) {
        for dir in &self.0 {
            let _ = std::fs::remove_dir(dir);
        }
    }
}

/// Checks the right to mount and the mountpoint, clearing a dead mount off it, and makes it if it is not there.
pub fn prepare(dir: &Path, store: &Path, options: &fuse::Options, note: &dyn Fn(&str)) -> Outcome<Made> {
    let what = format!("{} can't be mounted on", dir.display());
    right(options).map_err(|o| Failure::usage(&what, o.why, o.next))?;
    if mounts::is_dead(dir) {
        mounts::take_down(dir, true).map_err(|e| Failure::system(&what, &e))?;
        note(&format!("cleared a dead mount off {}", dir.display()));
    }
    // The table knows, without asking a mount that may not answer.
    if mounts::is_mountpoint(dir) {
        let (why, next) = mounts::on(dir).map_or_else(
            || ("another filesystem is mounted there".to_owned(), "choose an empty directory".to_owned()),
            |m| {
                let why = format!("the store {} is mounted there already", m.store.display());
                (why, format!("segfs umount {}", m.dir.display()))
            },
        );
        return Err(Failure::new(IN_USE, what, why, next));
    }
    let (here, there) = (mounts::absolute(dir), mounts::absolute(store));
    if here.starts_with(&there) || there.starts_with(&here) {
        let why = "the store and the mountpoint lie inside each other";
        return Err(Failure::usage(what, why, "choose two separate directories"));
    }
    match std::fs::read_dir(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            let made = Made::missing(dir);
            std::fs::create_dir_all(dir).map_err(|e| {
                made.undo();
                refused(&what, &e)
            })?;
            Ok(made)
        }
        Err(e) => Err(refused(&what, &e)),
        Ok(mut entries) => {
            if entries.next().is_some() {
                let why = "it is not empty, and what is in it would be hidden";
                return Err(Failure::usage(what, why, "choose an empty directory"));
            }
            if access(dir, Access::WRITE_OK).is_err() {
                let why = "you may not write to it, and so not mount on it";
                return Err(Failure::usage(what, why, "choose a directory of your own, or run it as root"));
            }
            Ok(Made::default())
        }
    }
}

fn refused(what: &str, e: &io::Error) -> Failure {
    match e.kind() {
        io::ErrorKind::NotADirectory => {
            Failure::usage(what, "it is not a directory", "choose an empty directory")
        }
        io::ErrorKind::PermissionDenied
        | io::ErrorKind::ReadOnlyFilesystem
        | io::ErrorKind::InvalidFilename => {
            Failure::usage(what, e.to_string(), "choose a directory of your own, or run it as root")
        }
        _ => Failure::system(what, e),
    }
}
