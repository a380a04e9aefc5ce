//! What is set once for all subscriptions of a scheduler.

use std::time::Duration;

/// Settings of a scheduler. Start from [`Settings::default`].
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Settings {
    /// How long running handlers may take to end at shutdown. Default 25 s, under Kubernetes' 30 s.
    pub drain: Duration,
    /// The program's name in dead letters. Default: the executable's.
    pub app: String,
    /// The program's version in dead letters. Default: empty.
    pub version: String,
    /// Who extends leases. Default: a thread of its own.
    pub leases: LeaseRenewal,
    /// Where the time of day comes from. Default: the system.
    pub time: TimeSource,
    /// Seeds backoff and lane hashing, so that a test repeats. Default: random.
    pub seed: Option<u64>,
}

impl Default for Settings {
    fn default() -> Self {
        let app = std::env::current_exe()
            .ok()
            .and_then(|p| p.file_stem().map(|s| s.to_string_lossy().into_owned()))
            .unwrap_or_default();
        Self {
            drain: Duration::from_secs(25),
            app,
            version: String::new(),
            leases: LeaseRenewal::OwnThread,
            time: TimeSource::System,
            seed: None,
        }
    }
}

/// Who extends leases.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LeaseRenewal {
    /// A thread with a runtime and connections of its own: handlers that block every other thread lose no
    /// lease.
    #[default]
    OwnThread,
    /// A task on the scheduler's runtime: for tests with paused time.
    Task,
}

/// Where the time of day comes from: for due times and for what dead letters say.
#[derive(Debug, Clone, Copy, Default)]
#[non_exhaustive]
pub enum TimeSource {
    /// The system's clock.
    #[default]
    System,
    /// The runtime's clock, which tests can pause: the day of the start plus what has passed.
    Runtime,
    /// A clock of the caller's: for tests in which it jumps.
    Given(fn() -> std::time::SystemTime),
}
