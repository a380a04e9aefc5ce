//! When a failed message runs again: exponential backoff with full jitter, and how often.

use std::time::Duration;

/// The schedule of retries.
///
/// The wait before attempt `n + 1` is drawn evenly from zero to `min(first × 2^(n-1), longest)`: full jitter,
/// so that what failed together does not come back together.
///
/// The default is 10 attempts with ceilings from 4 s to 10 min, about 15 minutes in all: long enough for a deployment or
/// a fail-over, short enough that somebody sees the dead letter the same day.
///
/// ```
/// use std::time::Duration;
/// use millstream::Retry;
/// let retry = Retry::exponential(Duration::from_millis(100), Duration::from_secs(30)).attempts(6);
/// assert_eq!(retry.max_attempts(), 6);
/// assert_eq!(retry.ceiling(1), Duration::from_millis(100));
/// assert_eq!(retry.ceiling(20), Duration::from_secs(30));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retry {
    first: Duration,
    longest: Duration,
    attempts: u32,
    jitter: Jitter,
}

/// How a wait is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Jitter {
    /// Evenly between zero and the ceiling.
    #[default]
    Full,
    /// The ceiling itself: for tests, and where nothing else fails at the same time.
    None,
}

impl Retry {
    /// Waits that double from `first` up to `longest`; 10 attempts.
    #[must_use]
    pub fn exponential(first: Duration, longest: Duration) -> Self {
        Self { first, longest: longest.max(first), attempts: 10, jitter: Jitter::Full }
    }

    /// Always the same wait, without jitter; 10 attempts.
    #[must_use]
    pub fn fixed(wait: Duration) -> Self {
        Self { jitter: Jitter::None, ..Self::exponential(wait, wait) }
    }

    /// One attempt: what fails is dead-lettered.
    #[must_use]
    pub fn none() -> Self {
        Self::default().attempts(1)
    }

    /// How often the handler runs at most, the first run included; at least 1.
    #[must_use]
    pub fn attempts(mut self, attempts: u32) -> Self {
        self.attempts = attempts.max(1);
        self
    }

    /// How waits are drawn.
    #[must_use]
    pub fn jitter(mut self, jitter: Jitter) -> Self {
        self.jitter = jitter;
        self
    }

    /// How often the handler runs at most.
    #[must_use]
    pub fn max_attempts(&self) -> u32 {
        self.attempts
    }

    /// The longest wait there can be after so many failed attempts.
    #[must_use]
    pub fn ceiling(&self, failed: u32) -> Duration {
        let doubled = 1u32.checked_shl(failed.saturating_sub(1)).unwrap_or(u32::MAX);
        self.first.saturating_mul(doubled).min(self.longest)
    }

    /// A wait after so many failed attempts, drawn with `random`.
    #[must_use]
    pub fn wait(&self, failed: u32, random: &mut fastrand::Rng) -> Duration {
        match self.jitter {
            Jitter::None => self.ceiling(failed),
            Jitter::Full => self.ceiling(failed).mul_f64(random.f64()),
        }
    }
}

impl Default for Retry {
    fn default() -> Self {
        // Nine waits with ceilings 4, 8, 16 … 512, 600 s. Full jitter waits half of that on average: 13.5 min.
        Self::exponential(Duration::from_secs(4), Duration::from_secs(600))
    }
}
