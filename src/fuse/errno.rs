//! The one table from our errors to errnos.

use std::io;

use crate::base::{Error, FsError};

/// What the kernel is answered.
pub(super) type Code = fuser::Errno;

/// Something in here is not as it should be; also where nothing better fits.
pub(super) const IO: Code = Code::EIO;
/// The value does not fit into the caller's buffer.
pub(super) const RANGE: Code = Code::ERANGE;
/// This filesystem does not do that; the kernel may try something else.
pub(super) const NOT_SUPPORTED: Code = Code::EOPNOTSUPP;
/// There is no such thing.
pub(super) const NOT_FOUND: Code = Code::ENOENT;
/// This request is not answered here at all; the kernel does not send it again.
pub(super) const NOT_IMPLEMENTED: Code = Code::ENOSYS;
/// The arguments make no sense.
pub(super) const INVALID: Code = Code::EINVAL;

/// The errno of an error.
pub(super) fn of(e: &Error) -> Code {
    match e {
        Error::Fs(e) => of_answer(*e),
        Error::NoSpace { .. } => Code::ENOSPC,
        Error::Io { source, .. } => match source.kind() {
            io::ErrorKind::ReadOnlyFilesystem => Code::EROFS,
            io::ErrorKind::OutOfMemory => Code::ENOMEM,
            _ => Code::EIO,
        },
        Error::Damaged(_) | Error::Poisoned { .. } => Code::EIO,
        Error::NotAStore { .. } | Error::Newer { .. } | Error::BadRequest(_) => Code::EINVAL,
        Error::InUse { .. } => Code::EBUSY,
    }
}

fn of_answer(e: FsError) -> Code {
    match e {
        FsError::NotFound => Code::ENOENT,
        FsError::Exists => Code::EEXIST,
        FsError::NotADirectory => Code::ENOTDIR,
        FsError::IsADirectory => Code::EISDIR,
        FsError::NotEmpty => Code::ENOTEMPTY,
        FsError::NameTooLong => Code::ENAMETOOLONG,
        FsError::Invalid => Code::EINVAL,
        FsError::FileTooLarge => Code::EFBIG,
        FsError::TooManyLinks => Code::EMLINK,
        FsError::NotPermitted => Code::EPERM,
        FsError::AccessDenied => Code::EACCES,
        FsError::ReadOnly => Code::EROFS,
        FsError::NoAttribute => Code::NO_XATTR,
        FsError::Range => Code::ERANGE,
        FsError::TooBig => Code::E2BIG,
        FsError::NotSupported => Code::EOPNOTSUPP,
        FsError::NoSuchOffset => Code::ENXIO,
        FsError::Stale => Code::ESTALE,
        FsError::Busy => Code::EBUSY,
    }
}
