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
/// A raw extent carries one CRC-32 for each piece of this many bytes: a page, so that a random read of a page fetches
/// little beside it.
pub const PIECE_BYTES: usize = 4 << 10;
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
/// Links that a version names at most, beside the object's first.
pub const VERSION_LINKS: usize = 64;
/// Counters of a version vector, and inode numbers, stay below this: what is higher is a lie.
pub const COUNTER: u64 = 1 << 48;
/// Nanoseconds since 1970, at the creation of a version, for each version that its object can have had by then: a version whose
/// number is higher is a lie. The limit grows with time, so that whoever goes on from the highest number taken still
/// has numbers that others take.
pub const VERSION_NS: u64 = 1 << 14;
/// A store that was not heard of for so long counts as absent for too long, in nanoseconds: 90 days.
pub const ABSENT_NS: u64 = 90 * 24 * 3600 * 1_000_000_000;
/// Newer moves of directories that are done again at once for each that came late; where there are more, late ones wait for
/// company.
pub const MOVES_REDONE: usize = 64;
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
/// Entries of a directory up to which the kernel may keep its listing. Each request for a part of one collects them all.
pub const KEPT_LISTING: u64 = 1024;
/// Threads that wait for the disk on behalf of cold reads, so that those that take requests need not.
pub const WAITERS: usize = 8;
/// Requests that wait for one of them; who has one more does it itself.
pub const JOBS_WAITING: usize = 256;
/// Connections to the control socket at once.
pub const CONTROL_CONNECTIONS: usize = 16;
/// A request on the control socket, in bytes with its end of line.
pub const CONTROL_REQUEST_BYTES: usize = 64 << 10;
/// An answer on the control socket, in bytes with its end of line: what a client reads at most.
pub const CONTROL_ANSWER_BYTES: usize = 256 << 20;
/// How long the control socket waits for a whole request, and for an answer to be taken, in milliseconds.
pub const CONTROL_PATIENCE_MS: u64 = 10_000;
/// How long one connection keeps segments in their places, in milliseconds.
pub const CONTROL_HOLD_MS: u64 = 30 * 60_000;
/// How long a status waits for operations under way, and for a first count of what is live, in milliseconds.
pub const STATUS_PATIENCE_MS: u64 = 500;

/// Access times that are kept in memory; one more writes them all.
pub const ACCESS_TIMES: usize = 4096;
/// Access times in one record.
pub const ACCESS_TIMES_PER_RECORD: usize = 512;
/// Access times are written when something is accessed and they were not written for so long, in seconds.
pub const ACCESS_TIME_SECONDS: i64 = 600;

/// What arrived from peers and the kernel is still to be told of, in names and objects; what arrives beyond that waits.
pub const ARRIVALS: usize = 32_768;

/// The body of one message between peers, in bytes.
pub const PEER_MESSAGE_BYTES: usize = 4 << 20;
/// What decoding one message of a peer may allocate, in bytes.
pub const PEER_DECODED_BYTES: usize = 8 << 20;
/// The facts of one batch on their way to a peer, in bytes as encoded (what an import takes).
pub const PEER_FACTS_BYTES: usize = RECORD_BYTES / 2;
/// What decoding the facts of a peer's batch may allocate, in bytes.
pub const PEER_FACTS_DECODED_BYTES: usize = 16 << 20;
/// Changed ranges of the versions of one batch on their way to a peer, all together.
pub const PEER_RANGES: usize = 65_536;
/// What a changed range counts for in a window, in bytes: what it takes in memory at the receiver.
pub const PEER_RANGE_BYTES: usize = 64;
/// What a batch counts for in a window beside its facts and ranges, in bytes.
pub const PEER_BATCH_BYTES: usize = 512;
/// Facts that a peer may send ahead of what was taken in, in bytes as the window counts them. Above what one batch may count.
pub const PEER_WINDOW_BYTES: usize = 8 << 20;
/// Batches of facts that a peer may send ahead of what was taken in.
pub const PEER_WINDOW_BATCHES: usize = 1024;
/// Objects that batches of a peer which are not taken in yet may name, all together.
pub const PEER_OBJECTS: usize = 131_072;
/// Extents that are asked of a peer at once; each takes up to [`EXTENT_BYTES`] on both sides.
pub const PEER_REQUESTS: usize = 8;
/// Of these, so many only serve versions of which no other extent is under way.
pub const PEER_REQUESTS_SPARE: usize = 2;
/// Bytes of an extent in one message, and about what a page of ranges or knowledge takes: who sends takes turns after each.
pub const PEER_CHUNK_BYTES: usize = 32 << 10;
/// Ranges, or stretches of knowledge, in one message.
pub const PEER_PAGE: usize = 512;
/// Stretches of knowledge that a peer may name when it connects.
pub const PEER_STRETCHES: usize = 65_536;
/// Epochs by which a peer may be ahead.
pub const PEER_EPOCHS: u64 = 1 << 20;
/// Grants that a peer may name.
pub const PEER_GRANTS: usize = 1024;
/// What rows of the index come to in one page for a peer, in bytes, about.
pub const PEER_TOLD_BYTES: usize = 128 << 10;
/// Batches of facts that are read from the log at once.
pub const PEER_READ_BATCHES: usize = 64;
/// Extents that came before the facts which name them and are kept from the cleaner, all together.
pub const EXPECTED_EXTENTS: usize = 262_144;
/// Hashes of leaves of such extents that are remembered, all together.
pub const EXPECTED_LEAVES: usize = 131_072;
/// Batches to which such extents belong.
pub const EXPECTED_BATCHES: usize = 8192;
/// Who has sent nothing for so long says that it is there, in nanoseconds.
pub const PEER_IDLE_NS: u64 = 10_000_000_000;
/// A peer that has said nothing for so long is lost, in nanoseconds.
pub const PEER_SILENCE_NS: u64 = 30_000_000_000;
/// What could not be taken in is sent again after so long at first, in nanoseconds; then after twice that, and so on.
pub const PEER_RETRY_NS: u64 = 5_000_000_000;
/// What could not be taken in is sent again after so long at last, in nanoseconds.
pub const PEER_RETRY_MAX_NS: u64 = 600_000_000_000;
