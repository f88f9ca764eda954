//! An ext4 filesystem to compare with: in an image of its own.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    process::{Command, Stdio},
};

use super::run;

/// Bytes that the filesystem may hold; the image is sparse.
const BYTES: u64 = 4 << 30;

/// A mounted ext4 filesystem that everybody may write to, and that goes away with this.
pub(crate) struct Ext4 {
    root: tempfile::TempDir,
}

impl Ext4 {
    pub(crate) fn new() -> Self {
        let ext4 = Self { root: tempfile::tempdir().unwrap() };
        let image = ext4.root.path().join("image");
        fs::File::create(&image).unwrap().set_len(BYTES).unwrap();
        run(Command::new("mkfs.ext4").args(["-q", "-I", "256", "-m", "0"]).arg(&image));
        fs::create_dir(ext4.dir()).unwrap();
        run(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(ext4.dir()));
        fs::remove_dir(ext4.dir().join("lost+found")).unwrap();
        for open in [ext4.root.path().to_owned(), ext4.dir()] {
            fs::set_permissions(open, fs::Permissions::from_mode(0o777)).unwrap();
        }
        ext4
    }

    /// One whose access times are what they are set to: they move by a rule of their own elsewhere.
    pub(super) fn without_access_times() -> Self {
        let ext4 = Self::new();
        run(Command::new("mount").args(["-o", "remount,noatime"]).arg(ext4.dir()));
        ext4
    }

    pub(crate) fn dir(&self) -> PathBuf {
        self.root.path().join("mnt")
    }
}

impl Drop for Ext4 {
    fn drop(&mut self) {
        // Lazily, should something still be open in it: the image goes once nobody needs it.
        let _ = Command::new("umount").arg("-l").arg(self.dir()).stderr(Stdio::null()).status();
    }
}
