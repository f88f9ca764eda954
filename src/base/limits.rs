//! Every bound of the program, with its unit, in one place.

/// A name in a directory, in bytes (as on Linux).
pub const NAME_BYTES: usize = 255;
/// A symlink's target, in bytes.
pub const SYMLINK_BYTES: usize = 4095;
/// An extended attribute's value, in bytes (as on Linux).
pub const XATTR_BYTES: usize = 65536;
/// An extended attribute's name, in bytes (as on Linux).
pub const XATTR_NAME_BYTES: usize = 255;
/// A file's size, in bytes: what a signed 64-bit offset can reach.
pub const FILE_BYTES: u64 = i64::MAX as u64;
/// Hard links to one file.
pub const LINKS: u32 = 65_000;

/// The largest raw extent in one record, in bytes.
pub const EXTENT_BYTES: usize = 1 << 20;
/// The largest extent that may be compressed, in raw bytes, so that a small read decompresses little.
pub const COMPRESSED_EXTENT_BYTES: usize = 128 << 10;
/// A raw extent carries one CRC-32 for each piece of this many bytes.
pub const PIECE_BYTES: usize = 16 << 10;
/// The largest body of a record that is not an extent, in stored bytes.
pub const RECORD_BYTES: usize = 4 << 20;
/// Files are mapped in chunks of this many bytes, one index row each.
pub const CHUNK_BYTES: u64 = 128 << 10;

/// A segment file's size by default, in bytes.
pub const SEGMENT_BYTES: u64 = 64 << 20;
/// A segment file's size on a small disk at least, in bytes.
pub const SEGMENT_BYTES_SMALL: u64 = 8 << 20;
/// Changed rows of the index kept in memory on a small disk at least, in bytes.
pub const MEMTABLE_BYTES_SMALL: u64 = 1 << 20;
/// The smallest segment size that can be asked for, in bytes (the simulator uses small ones).
pub const SEGMENT_BYTES_MIN: u64 = 64 << 10;
/// The largest segment size that can be asked for, in bytes.
pub const SEGMENT_BYTES_MAX: u64 = 1 << 30;
/// Batches begin and end on multiples of this, in bytes, so that an acknowledged block is never written again.
pub const BLOCK_BYTES: u64 = 4096;
/// Records that wait in memory for the next commit, in bytes; who appends past it writes first.
pub const TAIL_BYTES: usize = 16 << 20;
/// Segment files kept ready to be used again.
pub const SPARE_SEGMENTS: usize = 11;
/// Of these, so many are held back for what frees space on a full disk.
pub const RESERVE_SEGMENTS: usize = 3;
/// How long what nobody synced may stay in memory, in milliseconds.
pub const COMMIT_INTERVAL_MS: u64 = 500;
/// Facts stamped further ahead of the wall clock than this are set aside, in nanoseconds.
pub const AHEAD_NS: u64 = 24 * 3600 * 1_000_000_000;
/// Links known to be gone that a version names at most.
pub const KNEW_GONE: usize = 1024;
/// Counters of a version vector, and inode numbers, stay below this: what is higher is a lie.
pub const COUNTER: u64 = 1 << 48;
/// Steps from a directory up to the root; more are a cycle.
pub const DEPTH: usize = 100_000;
/// Changed ranges of a version in one record.
pub const CHANGES_PER_RECORD: usize = 16_384;
/// Chunks with something in them that one record makes holes.
pub const CLEARED_CHUNKS: usize = 4096;
/// Rows in one piece of a base at most, in bytes of keys and values; as a rule a third of it.
pub const BASE_PIECE_BYTES: usize = 256 << 10;
/// How long a commit waits at most for others that are about to join it, in nanoseconds.
pub const GATHER_NS: u64 = 60_000;
/// Who waits for a commit looks for so long before it sleeps, if the last commit took no longer, in nanoseconds.
pub const SPIN_NS: u64 = 200_000;
/// A thread that did not get the processor back for so long, in nanoseconds, leaves it to those who need it.
pub const YIELD_NS: u64 = 40_000;
/// Connections to the control socket at once.
pub const CONTROL_CONNECTIONS: usize = 16;
/// A request on the control socket, in bytes with its end of line.
pub const CONTROL_REQUEST_BYTES: usize = 64 << 10;
/// An answer on the control socket, in bytes with its end of line: what a client reads at most.
pub const CONTROL_ANSWER_BYTES: usize = 256 << 20;
/// How long the control socket waits for a whole request, and for an answer to be taken, in milliseconds.
pub const CONTROL_PATIENCE_MS: u64 = 10_000;
/// How long a status waits for operations under way, and for a first count of what is live, in milliseconds.
pub const STATUS_PATIENCE_MS: u64 = 500;
