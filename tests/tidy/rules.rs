//! The tables that the checks hold the source to. An exception is a row with its reason.

/// A room, and the rooms it may use. In the order in which a newcomer reads them: each may only use rooms
/// above it. `docs/ARCHITECTURE.md` says the same, and is held to it.
pub const ROOMS: &[(&str, &[&str])] = &[
    ("base", &[]),
    ("disk", &["base"]),
    ("format", &["base"]),
    ("segment", &["base", "disk", "format"]),
    ("log", &["base", "disk", "format", "segment"]),
    ("index", &["base"]),
    ("store", &["base", "disk", "format", "segment", "log", "index"]),
    ("vfs", &["base", "format", "store"]),
    ("fuse", &["base", "vfs"]),
    ("replicate", &["base", "format", "store", "log"]),
    ("peers", &["base", "disk", "format", "store", "replicate"]),
    ("console", &["base"]),
    ("config", &["base", "disk", "store", "peers", "console"]),
    (
        "serve",
        &[
            "base",
            "disk",
            "format",
            "segment",
            "log",
            "index",
            "store",
            "vfs",
            "fuse",
            "replicate",
            "peers",
            "console",
            "config",
        ],
    ),
];

/// What is of the program and not of the library: `src/main.rs` and its module `cli`.
pub const PROGRAM: &str = "the program";

/// Crates that only these rooms may name, so that swapping one touches one folder.
pub const CRATES: &[(&str, &[&str])] = &[
    ("bincode", &["format"]),
    ("crc32fast", &["format"]),
    ("zerocopy", &["format"]),
    ("zstd", &["format"]),
    ("io_uring", &["disk"]),
    ("memmap2", &["disk"]),
    ("libc", &["disk", "fuse"]),
    ("quick_cache", &["index"]),
    ("lsm_tree", &["index"]),
    ("fuser", &["fuse"]),
    ("uuid", &["base"]),
    ("rustls", &["peers"]),
    ("serde_json", &["console", "serve", PROGRAM]),
    ("clap", &["console", PROGRAM]),
    ("toml_edit", &["config"]),
    ("indicatif", &["console"]),
    ("mimalloc", &[PROGRAM]),
    ("nix", &[PROGRAM]),
];

/// Places that may say `unsafe`.
pub const UNSAFE: &[&str] = &["src/disk/"];

/// Places that may know errno names.
pub const ERRNO: &[&str] = &[
    "src/disk/",          // talks to the system
    "src/fuse/errno.rs",  // the one table from our errors to errnos
    "src/base/random.rs", // getrandom may be interrupted
];

/// Places in `src` that may use `std::fs`; the others are given a `Disk`.
pub const STD_FS: &[&str] =
    &["src/disk/", "src/index/", "src/console/", "src/main.rs", "src/cli/", "src/cli.rs"];

/// The most lines of a file before its tests.
pub const MAX_FILE_LINES: usize = 800;
/// Files that may be longer: the path and why.
pub const LONG_FILES: &[(&str, &str)] = &[];

/// The most lines of a function, from `fn` to its closing brace.
pub const MAX_FUNCTION_LINES: usize = 70;
/// Functions that may be longer: the path, the name, and why.
pub const LONG_FUNCTIONS: &[(&str, &str, &str)] = &[];

/// The errno names of Linux that a filesystem comes across.
pub const ERRNO_NAMES: &[&str] = &[
    "EPERM",
    "ENOENT",
    "ESRCH",
    "EINTR",
    "EIO",
    "ENXIO",
    "E2BIG",
    "EBADF",
    "EAGAIN",
    "EWOULDBLOCK",
    "ENOMEM",
    "EACCES",
    "EFAULT",
    "ENOTBLK",
    "EBUSY",
    "EEXIST",
    "EXDEV",
    "ENODEV",
    "ENOTDIR",
    "EISDIR",
    "EINVAL",
    "ENFILE",
    "EMFILE",
    "ENOTTY",
    "ETXTBSY",
    "EFBIG",
    "ENOSPC",
    "ESPIPE",
    "EROFS",
    "EMLINK",
    "EPIPE",
    "ERANGE",
    "EDEADLK",
    "ENAMETOOLONG",
    "ENOLCK",
    "ENOSYS",
    "ENOTEMPTY",
    "ELOOP",
    "ENODATA",
    "EOVERFLOW",
    "EOPNOTSUPP",
    "ENOTSUP",
    "ETIMEDOUT",
    "ESTALE",
    "EDQUOT",
    "ENOTCONN",
    "ECANCELED",
];
