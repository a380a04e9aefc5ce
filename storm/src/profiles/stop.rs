//! Four processes on one file, one of which stands still for a while, again and again: sometimes for less than its
//! lease, sometimes for so long that others take over what it had, and then it goes on.

use std::time::Duration;

use super::{Scale, workers};
use crate::Result;
use crate::arena::{Kind, millis};
use crate::report::Row;

const LEASE: Duration = Duration::from_millis(600);
const KIND: Kind = Kind { workers: 4, lease: LEASE, ..Kind::USUAL };

pub(super) fn run(scale: Scale, seed: u64) -> Result<Row> {
    let mut row = workers("stop", KIND, seed, |arena| {
        arena.wait_all_ready()?;
        for round in 0..scale.of(300, 8) {
            std::thread::sleep(Duration::from_millis(arena.random.u64(50..400)));
            let place = arena.random.usize(0..KIND.workers);
            // Some must last until others have taken over and are at work.
            let pause = if round % 2 == 0 { 800..1_800 } else { 1..400 };
            let pause = Duration::from_millis(arena.random.u64(pause));
            arena.stop(place, pause)?;
        }
        Ok(())
    })?;
    row.at_most("redelivered_after_stop_ms_all", millis(LEASE) + 1_000 + scale.slack());
    Ok(row)
}
