//! Whether this process stood still for so long that its group may have gone on without it.
//!
//! Brokers hand records to anybody who asks, also to a member that was left behind: only what it commits is refused. Until
//! its client has heard from the group again, which a heartbeat does, such a member hands nothing over, or its handlers
//! would run what another's have run.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// What an answer to a heartbeat may take.
const ANSWER: Duration = Duration::from_millis(500);

/// Sees by its own clock whether the process stands still.
#[derive(Debug)]
pub(crate) struct Awake {
    born: Instant,
    /// A standstill of this length may have cost the membership.
    limit: Duration,
    /// How long after it until the group was heard from.
    doubt: Duration,
    /// When the polling thread was seen last, and until when there is doubt; in ns since birth.
    seen: AtomicU64,
    until: AtomicU64,
}

impl Awake {
    /// Of a member with this lease, which beats four times in it.
    pub(crate) fn with_lease(lease: Duration) -> Self {
        let beat = lease / 4;
        Self {
            born: Instant::now(),
            limit: lease - beat,
            doubt: beat + ANSWER,
            seen: AtomicU64::new(0),
            until: AtomicU64::new(0),
        }
    }

    /// The polling thread is alive. Says whether a doubt has just ended.
    pub(crate) fn see(&self) -> bool {
        self.see_at(self.now())
    }

    /// Whether the group may have gone on without us.
    pub(crate) fn is_in_doubt(&self) -> bool {
        self.is_in_doubt_at(self.now())
    }

    fn now(&self) -> u64 {
        nanos(self.born.elapsed())
    }

    fn see_at(&self, now: u64) -> bool {
        let last = self.seen.swap(now, Ordering::AcqRel);
        if now.saturating_sub(last) >= nanos(self.limit) {
            self.until.store(now + nanos(self.doubt), Ordering::Release);
            return false;
        }
        let until = self.until.load(Ordering::Acquire);
        until != 0 && until <= now && self.until.swap(0, Ordering::AcqRel) != 0
    }

    /// Also asked before the polling thread has seen that it stood still: both wake at once.
    fn is_in_doubt_at(&self, now: u64) -> bool {
        now < self.until.load(Ordering::Acquire)
            || now.saturating_sub(self.seen.load(Ordering::Acquire)) >= nanos(self.limit)
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn awake() -> Awake {
        Awake::with_lease(Duration::from_secs(8))
    }

    #[test]
    fn one_that_polls_all_the_time_is_never_in_doubt() {
        let awake = awake();
        for second in 1..100 {
            assert!(!awake.is_in_doubt_at(second * SECOND));
            assert!(!awake.see_at(second * SECOND), "no doubt ends");
        }
    }

    #[test]
    fn a_standstill_shorter_than_what_the_group_waits_raises_no_doubt() {
        let awake = awake();
        assert!(!awake.see_at(5 * SECOND));
        assert!(!awake.is_in_doubt_at(5 * SECOND + 1));
    }

    #[test]
    fn after_a_long_one_there_is_doubt_at_once_until_a_heartbeat_was_answered() {
        // Given a lease of 8 s, of which a heartbeat is 2
        let awake = awake();
        // When it wakes after 7 s, whoever looks first
        assert!(awake.is_in_doubt_at(7 * SECOND), "before the polling thread has looked");
        assert!(!awake.see_at(7 * SECOND));
        // Then there is doubt for a heartbeat and its answer, and its end is told once
        assert!(awake.is_in_doubt_at(9 * SECOND));
        assert!(!awake.see_at(9 * SECOND));
        assert!(!awake.is_in_doubt_at(9 * SECOND + SECOND / 2));
        assert!(awake.see_at(9 * SECOND + SECOND / 2));
        assert!(!awake.see_at(10 * SECOND));
    }
}
