//! Copying something out of history, with all that it had: content with its holes, links, modes, owners, times,
//! extended attributes.

use std::{
    collections::HashMap,
    ffi::OsString,
    fs, io,
    io::{Read, Seek, SeekFrom, Write},
    os::unix::{
        ffi::OsStrExt,
        fs::{FileTypeExt, MetadataExt, lchown, symlink},
    },
    path::{Path, PathBuf},
};

use rustix::fs::{
    AtFlags, CWD, FileType, Mode, OFlags, RenameFlags, Timespec, Timestamps, XattrFlags, chmodat, mkdir,
    mknodat, open, renameat_with, utimensat,
};

use super::{place::attribute, show};

/// Zeros of at least this length become holes.
const BLOCK: usize = 4096;

/// Copies, and notes what could not be made as it was.
#[derive(Default)]
pub struct Copier {
    /// First copies of files with several names.
    links: HashMap<u64, PathBuf>,
    /// Objects made or linked.
    pub objects: u64,
    /// Files that are unchanged in the present, and were linked instead of copied.
    pub kept: u64,
    /// Objects whose owner only root could have set.
    pub owners: u64,
}

impl Copier {
    /// Copies `from` with everything below it to `to`, which is not there. What `live` holds unchanged is linked.
    pub fn copy(&mut self, from: &Path, to: &Path, live: Option<&Path>) -> io::Result<()> {
        let meta = fs::symlink_metadata(from)?;
        let kind = meta.file_type();
        self.objects += 1;
        if kind.is_dir() {
            mkdir(to, Mode::from_raw_mode(0o700))?;
            for name in entries(from)? {
                let live = live.map(|l| l.join(&name));
                self.copy(&from.join(&name), &to.join(&name), live.as_deref())?;
            }
        } else if kind.is_symlink() {
            symlink(fs::read_link(from)?, to)?;
        } else if kind.is_file() {
            if let Some(first) = self.links.get(&meta.ino()) {
                return fs::hard_link(first, to);
            }
            if meta.nlink() > 1 {
                self.links.insert(meta.ino(), to.to_owned());
            }
            if live.is_some_and(|live| unchanged(live, from, &meta)) {
                self.kept += 1;
                return fs::hard_link(live.unwrap_or(from), to);
            }
            copy_content(from, to)?;
        } else {
            let kind = if kind.is_fifo() {
                FileType::Fifo
            } else if kind.is_socket() {
                FileType::Socket
            } else if kind.is_block_device() {
                FileType::BlockDevice
            } else {
                FileType::CharacterDevice
            };
            mknodat(CWD, to, kind, Mode::from_raw_mode(0o600), meta.rdev())?;
        }
        self.attributes(from, to, &meta)
    }

    fn attributes(&mut self, from: &Path, to: &Path, meta: &fs::Metadata) -> io::Result<()> {
        if lchown(to, Some(meta.uid()), Some(meta.gid())).is_err() {
            self.owners += 1;
        }
        for name in xattrs(from)? {
            let mut value = vec![0; 65536];
            let n = rustix::fs::lgetxattr(from, name.as_bytes(), &mut value[..])?;
            // Some take rights that not everybody has, like an owner.
            if rustix::fs::lsetxattr(to, name.as_bytes(), &value[..n], XattrFlags::empty()).is_err() {
                self.owners += 1;
            }
        }
        if !meta.file_type().is_symlink() {
            chmodat(CWD, to, Mode::from_raw_mode(meta.mode() & 0o7777), AtFlags::empty())?;
        }
        let time = |tv_sec, nanos: i64| Timespec { tv_sec, tv_nsec: nanos };
        let times = Timestamps {
            last_access: time(meta.atime(), meta.atime_nsec()),
            last_modification: time(meta.mtime(), meta.mtime_nsec()),
        };
        Ok(utimensat(CWD, to, &times, AtFlags::SYMLINK_NOFOLLOW)?)
    }
}

/// Names in a directory, in order.
pub fn entries(dir: &Path) -> io::Result<Vec<OsString>> {
    let mut names = fs::read_dir(dir)?.map(|e| Ok(e?.file_name())).collect::<io::Result<Vec<_>>>()?;
    names.sort();
    Ok(names)
}

fn xattrs(path: &Path) -> io::Result<Vec<OsString>> {
    let mut names = vec![0; 65536];
    let n = rustix::fs::llistxattr(path, &mut names[..])?;
    let names = names[..n].split(|b| *b == 0).filter(|n| !n.is_empty());
    Ok(names.map(|n| std::ffi::OsStr::from_bytes(n).to_owned()).collect())
}

/// Does the present hold this file as it was? What lies where no versions are made has none to go back to, and stays.
pub fn unchanged(live: &Path, old: &Path, old_meta: &fs::Metadata) -> bool {
    let Ok(now) = fs::symlink_metadata(live) else { return false };
    let same = |a: &fs::Metadata| (a.mode(), a.uid(), a.gid(), a.size(), a.mtime(), a.mtime_nsec());
    let version = |path| attribute(path, "version_id").ok().flatten();
    let plain = |path: &Path| xattrs(path).is_ok_and(|x| x.is_empty());
    let unversioned =
        || version(live).is_none() && version(old).is_none() && now.size() > 0 && old_meta.size() == 0;
    if now.file_type().is_file() && unversioned() {
        return true;
    }
    now.file_type().is_file()
        && same(&now) == same(old_meta)
        && version(live).is_some_and(|v| Some(v) == version(old))
        && plain(live)
        && plain(old)
}

fn copy_content(from: &Path, to: &Path) -> io::Result<()> {
    let mut source = show::open(from)?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let mut target = fs::File::from(open(to, flags, Mode::from_raw_mode(0o600))?);
    let mut buffer = vec![0; 1 << 20];
    let mut size = 0;
    loop {
        let n = source.read(&mut buffer)?;
        if n == 0 {
            break;
        }
        size += n as u64;
        for block in buffer[..n].chunks(BLOCK) {
            if block.len() == BLOCK && block.iter().all(|b| *b == 0) {
                target.seek(SeekFrom::Current(BLOCK as i64))?;
            } else {
                target.write_all(block)?;
            }
        }
    }
    target.set_len(size)?;
    // Only a mount of ours knows this one; and only there it may be set.
    if rustix::fs::fgetxattr(&target, "user.segfs.birth_time", &mut [0; 64][..]).is_ok() {
        let _ = rustix::fs::fsetxattr(&target, "user.segfs.restored", b"1", XattrFlags::empty());
    }
    target.sync_all()
}

/// A name in a directory that nothing has, for what is being built.
pub fn beside(target: &Path) -> io::Result<PathBuf> {
    let mut random = [0; 8];
    rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())?;
    let name = format!(".segfs-restore-{:016x}", u64::from_le_bytes(random));
    Ok(target.parent().unwrap_or(Path::new(".")).join(name))
}

/// Renames, changing places with what is there.
pub fn exchange(a: &Path, b: &Path) -> io::Result<()> {
    Ok(renameat_with(CWD, a, CWD, b, RenameFlags::EXCHANGE)?)
}

/// Renames onto what is there.
pub fn replace(a: &Path, b: &Path) -> io::Result<()> {
    Ok(rustix::fs::rename(a, b)?)
}

/// Renames to a name that nothing has.
pub fn rename_new(a: &Path, b: &Path) -> io::Result<()> {
    Ok(renameat_with(CWD, a, CWD, b, RenameFlags::NOREPLACE)?)
}

/// Takes away what was being built.
pub fn discard(path: &Path) {
    let Ok(meta) = fs::symlink_metadata(path) else { return };
    let _ = if meta.is_dir() {
        fs::remove_dir_all(path)
    } else {
        rustix::fs::unlink(path).map_err(io::Error::from)
    };
}
