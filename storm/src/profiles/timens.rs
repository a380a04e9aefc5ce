//! Processes whose clocks since the boot differ, as in containers that were moved from one machine to another: those are
//! the clocks that leases are told by. Nobody takes another for gone because of that.

use std::time::Duration;

use super::{Scale, workers};
use crate::Result;
use crate::arena::Kind;
use crate::launch::Launch;
use crate::report::Row;
use crate::tools;

/// The usual one: none is to run out.
const LEASE: Duration = Duration::from_secs(10);
const KIND: Kind = Kind { workers: 3, lease: LEASE, ..Kind::USUAL };

pub(super) fn run(scale: Scale, seed: u64) -> Result<Row> {
    if let Err(why) = tools::time_namespace() {
        return Ok(Row::skipped(why));
    }
    // A clock cannot be before the boot.
    let uptime = rustix::time::clock_gettime(rustix::time::ClockId::Boottime).tv_sec;
    let most = (uptime / 2).min(3_600);
    let mut row = workers("timens", KIND, seed, |arena| {
        arena.wait_all_ready()?;
        for round in 0..scale.of(300, 10) {
            // The first place keeps the machine's own clock.
            let place = arena.random.usize(1..KIND.workers);
            let offset = arena.random.i64(1..3_600) * if arena.random.bool() { 1 } else { -1 };
            arena.next_lives(place, Launch::with_boot_offset(offset.max(-most)));
            if round % 2 == 0 {
                arena.deeds.faults += 1;
                arena.replace(place)?;
            } else {
                arena.kill(place)?;
            }
            arena.wait_ready(place)?;
            std::thread::sleep(Duration::from_millis(arena.random.u64(100..600)));
        }
        Ok(())
    })?;
    row.at_most("lost_leases", 0);
    Ok(row)
}
