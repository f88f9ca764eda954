//! Mount options: those of mount(8) that mean something here.

use crate::vfs::{AccessTimes, Shown, When};

/// How to mount.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools)] // mount options are that
pub struct Options {
    /// Nothing can be changed.
    pub read_only: bool,
    /// Users other than the one who mounts may come in; permissions decide.
    pub allow_other: bool,
    /// Device nodes work.
    pub devices: bool,
    /// Set-user-id and set-group-id work.
    pub set_id: bool,
    /// Programs can be run.
    pub execute: bool,
    /// Every write waits for the disk.
    pub synchronous: bool,
    /// Every change of a directory waits for the disk.
    pub directories_synchronous: bool,
    /// When access times move.
    pub access_times: AccessTimes,
    /// The kernel collects writes and hands them over later (its writeback cache).
    pub writeback: bool,
    /// Not a new mount: an existing one is changed.
    pub remount: bool,
    /// Where history shows.
    pub history: Shown,
    /// Show this moment, not the present.
    pub at: Option<When>,
}

/// A mount option that nobody knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnknownOption(pub String);

/// Every option, for messages.
pub const KNOWN: &str = "ro, rw, allow_other, noallow_other, dev, nodev, suid, nosuid, exec, noexec, sync, async, dirsync, atime, \
     noatime, relatime, strictatime, writeback, nowriteback, defaults";

impl Options {
    /// As for a mount by root (who may let others in, as on any other filesystem), or by a user.
    #[must_use]
    pub fn for_user(is_root: bool) -> Self {
        Self {
            read_only: false,
            allow_other: is_root,
            devices: is_root,
            set_id: is_root,
            execute: true,
            synchronous: false,
            directories_synchronous: false,
            access_times: AccessTimes::Relative,
            writeback: false,
            remount: false,
            history: Shown::Hidden,
            at: None,
        }
    }

    /// Applies a list as after `-o`, separated by commas.
    ///
    /// # Errors
    /// The first option that is not known.
    pub fn apply(&mut self, list: &str) -> Result<(), UnknownOption> {
        for option in list.split(',').map(str::trim).filter(|o| !o.is_empty()) {
            match option {
                "ro" => self.read_only = true,
                "rw" => self.read_only = false,
                "allow_other" => self.allow_other = true,
                "noallow_other" => self.allow_other = false,
                "dev" => self.devices = true,
                "nodev" => self.devices = false,
                "suid" => self.set_id = true,
                "nosuid" => self.set_id = false,
                "exec" => self.execute = true,
                "noexec" => self.execute = false,
                "sync" => self.synchronous = true,
                "async" => self.synchronous = false,
                "dirsync" => self.directories_synchronous = true,
                "noatime" => self.access_times = AccessTimes::Never,
                "strictatime" => self.access_times = AccessTimes::Strict,
                "writeback" => self.writeback = true,
                "nowriteback" => self.writeback = false,
                "remount" => self.remount = true,
                "history=hidden" => self.history = Shown::Hidden,
                "history=visible" => self.history = Shown::Visible,
                "history=off" => self.history = Shown::Off,
                "atime" | "relatime" | "nostrictatime" => self.access_times = AccessTimes::Relative,
                "defaults" | "auto" | "noauto" | "user" | "users" | "nofail" | "_netdev" => {}
                _ if is_for_others(option) => {}
                _ => return Err(UnknownOption(option.to_owned())),
            }
        }
        Ok(())
    }
}

/// Options that are for mount(8) or systemd, and those that the kernel lists and mount(8) gives back at a
/// remount.
fn is_for_others(option: &str) -> bool {
    let name = option.split('=').next().unwrap_or_default();
    let listed = ["user_id", "group_id", "default_permissions", "max_read", "blksize", "comment"];
    option.starts_with("x-") || listed.contains(&name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn later_options_win_and_unknown_ones_are_named() {
        let mut o = Options::for_user(false);
        assert!(!o.allow_other && !o.set_id);
        o.apply("defaults,ro,allow_other,rw,,x-systemd.automount, nosuid").unwrap();
        assert_eq!(o, Options { allow_other: true, ..Options::for_user(false) });
        assert_eq!(o.apply("ro,colour=red"), Err(UnknownOption("colour=red".into())));
    }
}
