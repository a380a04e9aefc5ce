//! Waiting between tries of the engine's own calls: exponential, with full jitter, without an end.

use std::time::Duration;

/// The wait before the next try; reset by success.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    tries: u32,
}

impl Backoff {
    const FIRST: Duration = Duration::from_millis(100);
    const LONGEST: Duration = Duration::from_secs(5);

    pub(super) fn next(&mut self) -> Duration {
        self.tries = self.tries.saturating_add(1);
        let schedule = crate::Retry::exponential(Self::FIRST, Self::LONGEST);
        // Never nothing at all: what is down is not asked in a tight loop.
        schedule.wait(self.tries, &mut fastrand::Rng::new()).max(Duration::from_millis(10))
    }

    pub(super) fn reset(&mut self) {
        self.tries = 0;
    }
}
