//! Processes are asked to end at random moments, also while they start: they listen, lose nothing, leave nothing to be
//! done twice, and are gone in time. Some have handlers that hang: those are cut off at the limit, or at once when
//! asked again, and only what those had in hand may come again.

use std::time::Duration;

use super::{Scale, workers};
use crate::Result;
use crate::arena::{Kind, millis};
use crate::launch::Launch;
use crate::report::Row;

/// The usual one: none is to run out.
const LEASE: Duration = Duration::from_secs(10);
const KIND: Kind =
    Kind { workers: 3, lease: LEASE, publishers: 3, drain: Duration::from_millis(1_500), ..Kind::USUAL };

/// How long handlers hang that do: longer than anybody waits.
const HANG: Duration = Duration::from_secs(60);
/// When one that hangs is asked again, if it is.
const AGAIN: Duration = Duration::from_millis(200);

/// The longest times it took to end.
#[derive(Debug, Default)]
struct Longest {
    well: Duration,
    hanging: Duration,
    asked_twice: Duration,
}

pub(super) fn run(scale: Scale, seed: u64) -> Result<Row> {
    let kind = Kind { orderly: Duration::from_millis(1_000 + scale.slack()), ..KIND };
    let mut longest = Longest::default();
    let mut ran_out = 0;
    // First without anything that hangs: then nothing at all may come twice, unless the machine was so busy with other
    // things that handlers did not end in time.
    let mut row = workers("sigterm", kind, seed, |arena| {
        for _ in 0..scale.of(900, 45) {
            let place = arena.random.usize(0..KIND.workers);
            let in_the_start = arena.random.u8(..8) == 0;
            if !in_the_start {
                arena.wait_ready(place)?;
            }
            let moment = Duration::from_micros(arena.random.u64(0..60_000));
            std::thread::sleep(moment);
            arena.deeds.faults += 1;
            let took = arena.replace(place)?.unwrap_or_default();
            ran_out += u64::from(took >= KIND.drain);
            longest.well = longest.well.max(took);
        }
        Ok(())
    })?;
    row.measured("ran_out_of_time", ran_out);
    if row.duplicates_explained > 0 && ran_out == 0 {
        row.problems.push(format!("{} messages came twice, without any fault", row.duplicates_explained));
    }
    let cut_off = workers("sigterm-hanging", kind, seed, |arena| {
        for round in 0..scale.of(100, 4) {
            let place = arena.random.usize(0..KIND.workers);
            arena.next_lives(place, Launch::with_hanging_handlers(HANG));
            arena.replace(place)?;
            arena.wait_ready(place)?;
            std::thread::sleep(Duration::from_millis(arena.random.u64(100..400)));
            arena.next_lives(place, Launch::default());
            arena.deeds.faults += 1;
            let longest = if round % 2 == 0 { &mut longest.hanging } else { &mut longest.asked_twice };
            let took = match round % 2 {
                0 => arena.replace(place)?,
                _ => arena.replace_now(place, AGAIN)?,
            };
            *longest = (*longest).max(took.unwrap_or_default());
        }
        Ok(())
    })?;
    row.add(cut_off);
    row.measured("ended_within_ms", millis(longest.well));
    row.measured("ended_within_ms_hanging", millis(longest.hanging));
    row.measured("ended_within_ms_asked_twice", millis(longest.asked_twice));
    row.at_most("ended_within_ms_hanging", millis(kind.drain + kind.orderly));
    Ok(row)
}
