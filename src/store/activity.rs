//! What the store does beside answering: for whoever asks what it is busy with.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// Work that goes on by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work {
    /// Writing the index out.
    Flushing,
    /// Merging the index.
    Merging,
    /// Hashing versions.
    Hashing,
    /// Moving what is live out of old segments.
    Cleaning,
    /// Counting what is live.
    Counting,
    /// Reading everything again, to find damage.
    Scrubbing,
}

/// Each kind with its word.
const ALL: [(Work, &str); 6] = [
    (Work::Flushing, "flushing"),
    (Work::Merging, "merging"),
    (Work::Hashing, "hashing"),
    (Work::Cleaning, "cleaning"),
    (Work::Counting, "counting"),
    (Work::Scrubbing, "scrubbing"),
];

/// How many threads do each kind of work now.
#[derive(Debug, Default)]
pub(super) struct Activity([AtomicU32; ALL.len()]);

/// Work that has begun; it ends when this goes.
pub(super) struct Doing<'a>(&'a AtomicU32);

impl Activity {
    pub(super) fn begin(&self, work: Work) -> Doing<'_> {
        let counter = &self.0[work as usize];
        counter.fetch_add(1, Relaxed);
        Doing(counter)
    }

    /// The words for what is being done now.
    pub(super) fn now(&self) -> Vec<&'static str> {
        let busy = ALL.iter().filter(|(work, _)| self.0[*work as usize].load(Relaxed) > 0);
        busy.map(|(_, word)| *word).collect()
    }
}

impl Drop for Doing<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_has_its_own_word_and_ends() {
        let activity = Activity::default();
        for (i, (work, word)) in ALL.iter().enumerate() {
            assert_eq!(*work as usize, i);
            let (one, two) = (activity.begin(*work), activity.begin(*work));
            assert_eq!(activity.now(), [*word]);
            drop(one);
            assert_eq!(activity.now(), [*word]);
            drop(two);
        }
        assert!(activity.now().is_empty());
    }
}
