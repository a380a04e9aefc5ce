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

#[cfg(test)]
mod tests {
    use super::*;

    const COMMIT: Duration = Duration::from_micros(300);

    #[test]
    fn those_who_were_answered_and_those_who_waited_are_expected() {
        let mut crowd = Crowd::default();
        crowd.committed(24, 40, COMMIT);
        assert_eq!(crowd.missing(24), Some((40, COMMIT / PART)));
        assert_eq!(crowd.missing(64), None);
    }

    #[test]
    fn a_lone_writer_never_waits() {
        let mut crowd = Crowd::default();
        assert_eq!(crowd.missing(1), None);
        crowd.committed(0, 1, COMMIT);
        assert_eq!(crowd.missing(1), None);
    }

    #[test]
    fn who_waits_in_vain_waits_more_and_more_rarely() {
        let mut crowd = Crowd::default();
        let mut waited = 0;
        for _ in 0..1_000 {
            // One comes in each round, and the one of the round before does not come again.
            crowd.committed(1, 1, COMMIT);
            if let Some((missing, _)) = crowd.missing(1) {
                crowd.came(0, missing);
                waited += 1;
            }
        }
        assert!((5..20).contains(&waited), "{waited} of 1,000 rounds");
        // And as often as before, once it was worth it.
        crowd.rest = 0;
        crowd.came(1, 1);
        crowd.committed(1, 1, COMMIT);
        assert!(crowd.missing(1).is_some());
    }

    #[test]
    fn a_slow_disk_makes_no_long_wait() {
        let mut crowd = Crowd::default();
        crowd.committed(1, 1, Duration::from_millis(50));
        assert_eq!(crowd.missing(1), Some((1, MOST)));
    }
}
