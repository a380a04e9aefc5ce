//! What is sent, and at what pace.

use std::fmt::Write as _;
use std::time::Duration;

pub(crate) use bench_load::{CONTENT_TYPE, Reading, messages, readings};

/// What one run of a producer is.
pub(crate) struct Job {
    pub(crate) topic: String,
    pub(crate) messages: usize,
    /// Bytes of each payload.
    pub(crate) size: usize,
    pub(crate) batch: usize,
    /// Batches that are not confirmed yet, at most.
    pub(crate) outstanding: usize,
}

/// Messages a second where the pace is steady: far below what the broker can do.
const PACE: u32 = 2_000;

/// How long a client has to come up before the pace begins.
pub(crate) const WARM: Duration = Duration::from_secs(1);

/// When a message is due, from the start on.
pub(crate) fn due(number: usize) -> Duration {
    Duration::from_secs(1) / PACE * u32::try_from(number).unwrap_or(u32::MAX)
}

/// The next event: of another sensor, and with the time in the place of its id.
pub(crate) fn vary(reading: &mut Reading, number: usize, now: u64) {
    reading.id = now;
    reading.sensor.clear();
    let _ = write!(reading.sensor, "s{:07}", number % bench_load::POOL);
}
