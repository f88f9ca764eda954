//! Bugs on purpose, to prove that the tests would notice them.
//!
//! Code asks [`planted`] at the place where the bug would be. Without the `planted-bugs` feature the
//! answer is a constant `false` and the compiler removes the question. With it, the test suite turns one
//! bug on for one thread and must then fail.

macro_rules! bugs {
    ($($(#[$doc:meta])* $name:ident,)+) => {
        /// A bug that can be planted.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Bug { $($(#[$doc])* $name,)+ }

        impl Bug {
            /// Every bug, for the test that tries them all.
            pub const ALL: &'static [Bug] = &[$(Bug::$name,)+];
        }
    };
}

bugs! {
    /// A segment file appears in `segments/` without a sync of the directory.
    SkipDirectorySync,
    /// A body length is believed before the envelope's checksum was checked.
    TrustLengthBeforeChecksum,
    /// A commit is acknowledged before its sync returned.
    AcknowledgeBeforeSync,
    /// A failed sync is tried again, and the second answer believed.
    RetryFailedSync,
    /// The segment's salt is left out of the checksums, so that frames of an earlier life pass.
    AcceptStaleFrame,
    /// The last record of a batch is not applied at recovery.
    DropLastRecordOfBatch,
    /// A frame is accepted although it names another segment or offset than those where it lies.
    IgnoreFramePlace,
    /// A batch is accepted although frames are missing between its beginning and its end.
    IgnoreBatchCount,
    /// An opening goes on writing into the segment whose torn tail it cut.
    AppendToCutSegment,
    /// A segment is taken as the next one although its predecessor ends before where it should.
    IgnorePredecessorEnd,
    /// A read of part of an extent does not check the pieces that it returns.
    SkipPieceChecksum,
    /// A recycled segment file keeps its old salt.
    ReuseSalt,
    /// A batch end claims that its own records are durable.
    DurableMarkTooHigh,
    /// Damage among acknowledged records ends the log silently.
    TreatRotAsTornTail,
    /// The durable marks found at recovery are forgotten.
    LoseDurableMark,
    /// What recovery accepted is not synced before new records depend on it.
    SkipRecoverySync,
    /// A full segment is left behind without a sync when the next one begins.
    SkipSealSync,
}

#[cfg(feature = "planted-bugs")]
mod switch {
    use std::cell::Cell;
    thread_local! { static ACTIVE: Cell<Option<super::Bug>> = const { Cell::new(None) }; }

    /// Turns one bug on, or all off, for the calling thread.
    pub fn plant(bug: Option<super::Bug>) {
        ACTIVE.set(bug);
    }

    /// Is this bug on for the calling thread?
    #[must_use]
    pub fn planted(bug: super::Bug) -> bool {
        ACTIVE.get() == Some(bug)
    }
}

#[cfg(feature = "planted-bugs")]
pub use switch::{plant, planted};

/// Is this bug on? Never, without the `planted-bugs` feature.
#[cfg(not(feature = "planted-bugs"))]
#[inline(always)]
#[must_use]
pub const fn planted(_: Bug) -> bool {
    false
}
