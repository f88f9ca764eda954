//! Files in the store's directory that grow by a line at a time, durably.

use std::{io, path::Path, sync::Arc};

use crate::disk::{Disk, DiskFile};

/// Opens one at its end, and says where that is. It is made if it is not there; a line that a crash cut off is ended.
pub(super) fn at_end(disk: &dyn Disk, name: &str) -> io::Result<(Arc<dyn DiskFile>, u64)> {
    let path = Path::new(name);
    let file = match disk.open(path, true) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            let made = disk.create(path)?;
            disk.sync_dir(Path::new(""))?;
            made
        }
        opened => opened?,
    };
    let mut len = file.len()?;
    let mut last = [b'\n'];
    if len > 0 {
        file.read_exact_at(&mut last, len - 1)?;
    }
    if last != [b'\n'] {
        file.write_at(&[b"\n"], len)?;
        len += 1;
    }
    Ok((file, len))
}
