//! What every room may use: ids, errors, limits, and the traits through which time and chance enter.
//!
//! Nothing here knows about files, bytes on disk or threads.

mod clock;
mod error;
mod ids;
mod key_id;
pub mod limits;
pub mod planted;
mod random;

pub use clock::{Clock, SystemClock};
pub use error::{Damage, Error, FsError, Place, Result, panic_text};
pub use ids::{Incarnation, Ino, LineageId, LinkId, Lsn, ObjectId, SegmentId, StoreId, VersionId};
pub use key_id::{KeyId, NoLetters, from_letters, to_letters};
pub use random::{Random, SystemRandom};
