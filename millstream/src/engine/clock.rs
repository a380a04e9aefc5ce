//! The wall clock: the system's, one that follows the runtime's own time, paused or not, or the caller's.

use std::time::{Duration, SystemTime};

use tokio::time::Instant;

/// Where the time of day comes from.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Clock {
    System,
    /// The day of the start plus what the runtime says has passed: for tests with paused time.
    Runtime {
        day: SystemTime,
        start: Instant,
    },
    Given(fn() -> SystemTime),
}

impl Clock {
    pub(crate) fn runtime() -> Self {
        Self::Runtime { day: SystemTime::now(), start: Instant::now() }
    }

    pub(crate) fn now(&self) -> SystemTime {
        match self {
            Self::System => SystemTime::now(),
            Self::Runtime { day, start } => *day + start.elapsed(),
            Self::Given(now) => now(),
        }
    }

    /// How long it is until a time of day; nothing if it is past.
    pub(crate) fn until(&self, at: SystemTime) -> Duration {
        at.duration_since(self.now()).unwrap_or_default()
    }
}
