//! The time of day in a simulated world: a fixed day, plus what the paused clock says has passed, plus jumps.
//!
//! A world runs on one thread from its beginning to its end, so its clock can belong to the thread: what takes
//! the time of day by a plain function (the broker, publishers, the scheduler) sees that of its own world.

use std::cell::Cell;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::Instant;

/// 2026-01-01, 00:00 UTC.
const DAY: Duration = Duration::from_secs(1_767_225_600);

#[derive(Clone, Copy)]
struct State {
    start: Instant,
    /// The sum of all jumps, in seconds.
    jumped: i64,
}

thread_local! {
    static CLOCK: Cell<Option<State>> = const { Cell::new(None) };
}

/// A world begins on this thread, now.
pub(crate) fn begin() {
    CLOCK.set(Some(State { start: Instant::now(), jumped: 0 }));
}

/// The time of day jumps; what the runtime's clock says stays as it is.
pub(crate) fn jump(seconds: i64) {
    if let Some(state) = CLOCK.get() {
        CLOCK.set(Some(State { jumped: state.jumped + seconds, ..state }));
    }
}

/// The time of day.
pub(crate) fn now() -> SystemTime {
    let day = UNIX_EPOCH + DAY;
    let Some(State { start, jumped }) = CLOCK.get() else { return day };
    let now = day + start.elapsed();
    let by = Duration::from_secs(jumped.unsigned_abs());
    if jumped < 0 { now - by } else { now + by }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_time_of_day_follows_the_paused_clock_and_its_own_jumps() {
        begin();
        let before = now();
        tokio::time::advance(Duration::from_secs(10)).await;
        assert_eq!(now(), before + Duration::from_secs(10));
        jump(-3_600);
        assert_eq!(now() + Duration::from_secs(3_590), before);
        jump(3_600);
        assert_eq!(now(), before + Duration::from_secs(10));
    }
}
