//! What a message costs from the broker to the end of its handler: the scenario of `ruststream`'s own benchmark.

use super::NO_VALGRIND;
use super::ruststream::{self, NAME as PEER};
use crate::Result;
use crate::count::{self, Cost};
use crate::rounds::interleaved;
use crate::row::{Goal, Row};
use crate::scenario::Scenario;
use crate::subject::Subject::Ours;

const GROUP: &str = "consume";

/// Messages of the shorter count.
const COUNTED: usize = 10_000;
/// Messages of a timed round: as many as a topic holds by default.
const TIMED: usize = 100_000;

/// What the figures buy.
const GUARANTEES: &str = "ours: acknowledged after the handler; an error is retried with backoff, then dead-lettered; \
    panics are caught; order per key; bounded by count and bytes. Theirs: acknowledged after the handler; an error \
    drops the message; panics are caught; the queue is unbounded; without keys, as in its benchmark";

/// None a message: what is left over must be a batch's.
const ALLOCATIONS: f64 = 0.1;

pub(crate) fn run() -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    if count::is_possible() {
        counts(&mut rows)?;
    } else {
        rows.push(Row::left_out(GROUP, "instructions and allocations", NO_VALGRIND));
    }
    times(&mut rows)?;
    Ok(rows)
}

fn counts(rows: &mut Vec<Row>) -> Result {
    let sequential = count::cost(ruststream::SEQUENTIAL, COUNTED)?;
    let pool = count::cost(ruststream::FOUR, COUNTED)?;
    for (name, scenario, peer, most) in [
        ("one at a time, messages ready", Scenario::SequentialReady, sequential, 0.7),
        ("one at a time, memory://", Scenario::SequentialMemory, sequential, 0.7),
        ("four at a time, messages ready", Scenario::FourReady, pool, 0.5),
        ("four at a time, memory://", Scenario::FourMemory, pool, 0.5),
        ("64 at a time over 10,000 keys, messages ready", Scenario::LanesReady, pool, 0.5),
        ("64 at a time over 10,000 keys, memory://", Scenario::LanesMemory, pool, 0.5),
    ] {
        let ours = count::cost(scenario, COUNTED)?;
        rows.push(instructions(name, ours, peer, most));
        rows.push(allocations(name, ours, peer));
    }
    Ok(())
}

fn instructions(name: &str, ours: Cost, peer: Cost, most: f64) -> Row {
    Row::new(GROUP, name, ours.instructions, "instructions a message")
        .beside(PEER, peer.instructions)
        .goal(Goal::AtMost(most))
        .detail(GUARANTEES)
}

fn allocations(name: &str, ours: Cost, peer: Cost) -> Row {
    Row::new(GROUP, name, ours.allocations, "allocations a message").goal(Goal::AtMost(ALLOCATIONS)).detail(format!(
        "{PEER}: {:.2}. None is wanted a message; a tenth leaves room for what a batch allocates, such as the box of a \
         call to an erased driver",
        peer.allocations
    ))
}

fn times(rows: &mut Vec<Row>) -> Result {
    let [sequential, ready, memory] = interleaved(
        [ruststream::SEQUENTIAL, Ours(Scenario::SequentialReady), Ours(Scenario::SequentialMemory)],
        TIMED,
    )?;
    for (name, ours) in [("messages ready", ready), ("memory://", memory)] {
        rows.push(
            Row::new(GROUP, format!("one at a time, {name}, one thread"), ours.nanos(), "ns a message")
                .beside(PEER, sequential.nanos())
                .detail(format!("best/median/worst: ours {}, theirs {}", ours.spread(), sequential.spread())),
        );
    }
    let [pool, four, four_memory, lanes, lanes_memory] = interleaved(
        [
            ruststream::FOUR,
            Ours(Scenario::FourReady),
            Ours(Scenario::FourMemory),
            Ours(Scenario::LanesReady),
            Ours(Scenario::LanesMemory),
        ],
        TIMED,
    )?;
    for (name, ours) in [
        ("four at a time, messages ready, one thread", four),
        ("four at a time, memory://, one thread", four_memory),
        ("64 at a time over 10,000 keys, messages ready, one thread", lanes),
        ("64 at a time over 10,000 keys, memory://, one thread", lanes_memory),
    ] {
        rows.push(
            Row::new(GROUP, name, ours.nanos(), "ns a message")
                .beside(PEER, pool.nanos())
                .goal(Goal::AtMost(0.5))
                .detail(format!("best/median/worst: ours {}, theirs {}", ours.spread(), pool.spread())),
        );
    }
    let [pool, four, lanes] = interleaved(
        [ruststream::FOUR_ACROSS, Ours(Scenario::FourAcross), Ours(Scenario::LanesAcross)],
        TIMED,
    )?;
    for (name, ours) in [("four at a time", four), ("64 at a time over 10,000 keys", lanes)] {
        rows.push(
            Row::new(GROUP, format!("{name}, memory://, published by another thread"), ours.nanos(), "ns a message")
                .beside(PEER, pool.nanos())
                .detail(format!(
                    "best/median/worst: ours {}, theirs {}. Publishing is in the time: one message a call, ours with \
                     its checks and bounds",
                    ours.spread(),
                    pool.spread()
                )),
        );
    }
    Ok(())
}
