//! How many writers write in turns with the commits, so that a commit waits a moment for all of them.
//!
//! Writers that await each their own acknowledgement come again right after a commit. Some are quicker: a round that
//! begins with these alone leaves the rest to the next one, and from then on each half waits for two syncs of the disk
//! where one would do.

use std::time::Duration;

/// How long a round waits, as a part of what a commit takes, and at most.
const PART: u32 = 2;
const MOST: Duration = Duration::from_micros(250);
/// Rounds that do not wait after so many waited in vain, at most.
const REST: u32 = 256;

/// What the rounds before told.
#[derive(Debug, Default)]
pub(crate) struct Crowd {
    /// Who waited when the last commit ended, and who was answered by it.
    expected: usize,
    /// How long commits take, on average.
    commit: Duration,
    /// Rounds that do not wait, since it was in vain; and how many after the next time.
    rest: u32,
    next_rest: u32,
}

impl Crowd {
    /// A commit has ended.
    pub(crate) fn committed(&mut self, waiting: usize, answered: usize, took: Duration) {
        self.expected = waiting + answered;
        self.commit = if self.commit.is_zero() { took } else { (self.commit * 7 + took) / 8 };
        self.rest = self.rest.saturating_sub(1);
    }

    /// How many a round that has `here` waits for, and how long.
    pub(crate) fn missing(&self, here: usize) -> Option<(usize, Duration)> {
        let missing = self.expected.saturating_sub(here);
        (missing > 0 && self.rest == 0).then(|| (missing, (self.commit / PART).min(MOST)))
    }

    /// So many of them came.
    pub(crate) fn came(&mut self, came: usize, missing: usize) {
        if came * 2 >= missing {
            self.next_rest = 0;
        } else {
            self.next_rest = (self.next_rest * 2).clamp(1, REST);
            self.rest = self.next_rest;
        }
    }
}
