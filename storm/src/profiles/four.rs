//! Four processes publish to one file and handle what is in it. Every second one is killed with signal 9, and every
//! few seconds one is asked to end in order, which explains no duplicate.

use std::time::{Duration, Instant};

use super::{Scale, workers};
use crate::Result;
use crate::arena::Kind;
use crate::report::Row;

const KIND: Kind =
    Kind { workers: 4, lease: Duration::from_secs(2), publishers: 2, pause: Duration::from_millis(10) };

pub(super) fn run(scale: Scale, seed: u64) -> Result<Row> {
    workers("four", KIND, seed, |arena| {
        let begun = Instant::now();
        for second in 0..scale.of(60, 8) {
            let moment = Duration::from_secs(second) + Duration::from_millis(arena.random.u64(0..1_000));
            std::thread::sleep(moment.saturating_sub(begun.elapsed()));
            let place = arena.random.usize(0..KIND.workers);
            arena.kill(place)?;
            if second % 4 == 3 {
                let other = (place + arena.random.usize(1..KIND.workers)) % KIND.workers;
                arena.replace(other)?;
            }
        }
        Ok(())
    })
}
