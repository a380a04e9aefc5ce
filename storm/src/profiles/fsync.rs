//! Syncs of the write-ahead log fail with EIO in one of two processes: now and then, some in a row, or all from one on.
//! A commit whose sync failed is unknown, and nothing that was asked for behind the last good sync may be confirmed.

use std::time::Duration;

use super::{Scale, workers};
use crate::Result;
use crate::arena::{Arena, Kind};
use crate::launch::{Launch, Which};
use crate::report::Row;
use crate::tools;

const KIND: Kind = Kind {
    workers: 2,
    lease: Duration::from_secs(5),
    publishers: 3,
    pause: Duration::from_millis(6),
    ..Kind::USUAL
};

/// Whose syncs fail.
const SICK: usize = 0;

pub(super) fn run(scale: Scale, seed: u64) -> Result<Row> {
    if let Err(why) = tools::strace() {
        return Ok(Row::skipped(why));
    }
    workers("fsync", KIND, seed, |arena| {
        arena.wait_all_ready()?;
        for _ in 0..scale.of(300, 5) {
            let which = Which::any(&mut arena.random);
            live_with(arena, SICK, which);
            arena.kill(SICK)?;
            arena.wait_ready(SICK)?;
            std::thread::sleep(Duration::from_millis(arena.random.u64(500..2_000)));
        }
        Ok(())
    })
}

/// Lets these syncs fail in the next lives of a place.
pub(super) fn live_with(arena: &mut Arena, place: usize, which: Which) {
    let launch = Launch::with_failing_syncs(which, arena.log());
    arena.next_lives(place, launch);
}
