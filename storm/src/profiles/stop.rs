//! Four processes on one file, one of which stands still for a while, again and again: sometimes for less than its
//! lease, sometimes for so long that others take over what it had, and then it goes on.

use std::time::Duration;

use super::{Scale, workers};
use crate::Result;
use crate::arena::Kind;
use crate::report::Row;

const KIND: Kind =
    Kind { workers: 4, lease: Duration::from_secs(1), publishers: 2, pause: Duration::from_millis(10) };

pub(super) fn run(scale: Scale, seed: u64) -> Result<Row> {
    workers("stop", KIND, seed, |arena| {
        for place in 0..KIND.workers {
            arena.wait_ready(place)?;
        }
        for round in 0..scale.of(30, 5) {
            std::thread::sleep(Duration::from_millis(arena.random.u64(50..800)));
            let place = arena.random.usize(0..KIND.workers);
            let pause = if round % 2 == 0 { 1_300..2_500 } else { 1..700 };
            let pause = Duration::from_millis(arena.random.u64(pause));
            arena.stop(place, pause)?;
        }
        Ok(())
    })
}
