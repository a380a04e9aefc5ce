//! One process alone stands still for longer than its lease, again and again, and goes on. Nobody took over what it
//! had: it must get all of it again by itself.

use std::time::Duration;

use super::{Scale, workers};
use crate::Result;
use crate::arena::Kind;
use crate::report::Row;

const KIND: Kind =
    Kind { workers: 1, lease: Duration::from_millis(500), publishers: 4, pause: Duration::from_millis(4) };

pub(super) fn run(scale: Scale, seed: u64) -> Result<Row> {
    workers("alone", KIND, seed, |arena| {
        for _ in 0..scale.of(20, 4) {
            arena.wait_ready(0)?;
            std::thread::sleep(Duration::from_millis(arena.random.u64(100..500)));
            let pause = Duration::from_millis(arena.random.u64(400..1_200));
            arena.stop(0, pause)?;
        }
        Ok(())
    })
}
