//! One process alone stands still for longer than its lease, again and again, and goes on. Nobody took over what it
//! had: it must get all of it again by itself.

use std::time::Duration;

use super::{Scale, workers};
use crate::Result;
use crate::arena::Kind;
use crate::report::Row;

const KIND: Kind =
    Kind { lease: Duration::from_millis(300), publishers: 4, pause: Duration::from_millis(4), ..Kind::USUAL };

pub(super) fn run(scale: Scale, seed: u64) -> Result<Row> {
    workers("alone", KIND, seed, |arena| {
        for _ in 0..scale.of(300, 8) {
            arena.wait_ready(0)?;
            std::thread::sleep(Duration::from_millis(arena.random.u64(50..300)));
            let pause = Duration::from_millis(arena.random.u64(200..800));
            arena.stop(0, pause)?;
        }
        Ok(())
    })
}
