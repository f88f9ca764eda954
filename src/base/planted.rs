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
    /// A row that is replaced leaves no history.
    HistoryLost,
    /// History says that a row held one record longer than it did.
    HistoryFromWrongLsn,
    /// An extended attribute is amended instead of replaced.
    XattrWithoutHistory,
    /// A truncation forgets that what lies behind it is gone.
    CutForgotten,
    /// A truncation leaves the end of its last chunk as it was.
    CutKeepsTail,
    /// A punched hole is one byte too long.
    PunchTooFar,
    /// A clone leaves in the target what lies where the source has holes.
    CloneForgetsHoles,
    /// A version does not end the draft that it was made of.
    DraftNotVersioned,
    /// A version is created when the clock says so, also if that is before its parent.
    VersionTimeNotMonotonic,
    /// A stamp is what the clock says, also if that was used before.
    StampGoesBack,
    /// A rename forgets the object whose name it takes.
    RenameKeepsReplaced,
    /// A rename is two records, the first of which only takes the old name away.
    RenameNotAtomic,
    /// A name that goes does not lower the object's count of links.
    SkipLinkCount,
    /// An object without names is not listed, so that nobody gives it up.
    OrphanNotListed,
    /// Counters are not written when the index is flushed.
    MetaNotFlushed,
    /// The index is flushed before the log is durable up to there.
    FlushBeforeDurable,
    /// Replay begins one record too late.
    ReplayTooLate,
    /// Inode numbers seen in replayed records are not counted as given out.
    InodeReused,
    /// A record that could not be appended is applied all the same.
    ApplyWithoutAppend,
    /// Recovery syncs what it accepted without writing it again, which after a failed sync writes nothing.
    SyncWithoutRewrite,
    /// Recovery goes on behind a segment of which not even the header is certain.
    NameEmptySegment,
    /// A segment leaves the log before the one whose end it names.
    RetireBeforePredecessor,
    /// A segment is given back before the copies of what lives in it are durable.
    RetireBeforeDurable,
    /// The cleaner takes what only history shows for dead.
    CleanerForgetsHistory,
    /// A base holds the counters of the last flush.
    BaseWithOldCounters,
    /// A base counts although its end was never written.
    BaseWithoutEnd,
    /// A segment whose records no base covers is given back.
    RetireBeforeBase,
    /// The cleaner takes an extent for dead that a draft shows.
    CleanerForgetsDrafts,
    /// What is written again of an extent shows one byte too far on.
    RepackedElsewhere,
    /// A removed version takes chunks with it that an older one needs.
    RemovalDropsTooMuch,
    /// A version is removed that a tagged moment shows.
    RemovalIgnoresTags,
    /// A log that ends before what was durable at its close is taken as it is.
    ClosedLsnIgnored,
    /// Moves of directories that came late never take their places.
    LateMovesLost,
    /// A segment is begun behind a footer that may not be on the medium.
    SoftFooterFollowed,
    /// A spare file that is a segment of the log too is used as a spare one.
    SecondNamesStay,
    /// New segments take what is kept apart for others.
    NothingLeftApart,
    /// What a reader finds gone is damage at the first look.
    NoSecondLook,
    /// Facts are told that are in the log and not in the index yet.
    ToldBeforeApplied,
    /// A peer's facts are acknowledged before they are durable.
    PeerAcknowledgesEarly,
    /// What a peer lacks is not compared with what is here: the cursor of an earlier connection is believed.
    PeerTrustsCursor,
    /// What a peer could not take in is not sent again.
    PeerForgetsFailed,
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
mod strike {
    use parking_lot::Mutex;
    static ARMED: Mutex<Option<Vec<u8>>> = Mutex::new(None);

    /// The next thread of this process that comes to the place of this name panics.
    pub fn arm(place: &[u8]) {
        *ARMED.lock() = Some(place.to_vec());
    }

    /// A place at which a test makes a running program panic.
    ///
    /// # Panics
    /// Once, if that was asked for.
    pub fn strike(place: &str) {
        let mut armed = ARMED.lock();
        if armed.as_deref() == Some(place.as_bytes()) {
            *armed = None;
            drop(armed);
            panic!("planted in {place}");
        }
    }
}

#[cfg(feature = "planted-bugs")]
pub use {
    strike::{arm, strike},
    switch::{plant, planted},
};

/// A place at which a test makes a running program panic: none, without the `planted-bugs` feature.
#[cfg(not(feature = "planted-bugs"))]
#[inline(always)]
pub const fn strike(_: &str) {}

/// Is this bug on? Never, without the `planted-bugs` feature.
#[cfg(not(feature = "planted-bugs"))]
#[inline(always)]
#[must_use]
pub const fn planted(_: Bug) -> bool {
    false
}
