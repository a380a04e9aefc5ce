//! One process that publishes and handles is killed with signal 9 at random moments, also while it starts.

use std::time::Duration;

use super::{Scale, workers};
use crate::Result;
use crate::arena::Kind;
use crate::report::Row;

const KIND: Kind = Kind { publishers: 4, pause: Duration::from_millis(4), ..Kind::USUAL };

pub(super) fn run(scale: Scale, seed: u64) -> Result<Row> {
    let mut row = workers("kill", KIND, seed, |arena| {
        for _ in 0..scale.of(400, 20) {
            // The moment is the point.
            let in_the_start = arena.random.u8(..10) == 0;
            if !in_the_start {
                arena.wait_ready(0)?;
            }
            let longest = if in_the_start { 30_000 } else { 300_000 };
            let moment = Duration::from_micros(arena.random.u64(0..longest));
            std::thread::sleep(moment);
            arena.kill(0)?;
        }
        Ok(())
    })?;
    // The next life may be killed before it gets to it: here that says nothing.
    row.figures.remove("redelivered_after_kill_ms_all");
    Ok(row)
}
