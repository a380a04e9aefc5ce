//! Four processes publish to one file and handle what is in it. One after the other is killed with signal 9, and now and
//! then one is asked to end in order, which explains no duplicate. What the killed one had must be at another soon.

use std::time::{Duration, Instant};

use super::{Scale, workers};
use crate::Result;
use crate::arena::{Kind, millis};
use crate::report::Row;

const KIND: Kind = Kind { workers: 4, lease: Duration::from_secs(5), ..Kind::USUAL };

/// From one kill to the next.
const TURN: Duration = Duration::from_millis(700);

pub(super) fn run(scale: Scale, seed: u64) -> Result<Row> {
    let mut row = workers("four", KIND, seed, |arena| {
        let begun = Instant::now();
        for turn in 0..scale.of(300, 10) {
            let moment = TURN * turn + Duration::from_millis(arena.random.u64(0..millis(TURN)));
            std::thread::sleep(moment.saturating_sub(begun.elapsed()));
            let place = arena.random.usize(0..KIND.workers);
            arena.kill(place)?;
            if turn % 4 == 3 {
                let other = (place + arena.random.usize(1..KIND.workers)) % KIND.workers;
                arena.replace(other)?;
            }
        }
        Ok(())
    })?;
    row.at_most("redelivered_after_kill_ms_all", millis(KIND.lease) + 1_000 + scale.slack());
    Ok(row)
}
