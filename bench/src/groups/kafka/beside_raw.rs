//! The driver beside the raw client with bytes, and the toolkit beside it with JSON.

use super::{GROUP, RAW, Topic, bench, partitions};
use crate::Result;
use crate::groups::program::{bytes, interleaved, told};
use crate::groups::sqlite::Scale;
use crate::rounds::Runs;
use crate::row::{Goal, Row};

/// Client CPU, of the raw client's: the driver, and the whole toolkit.
const DRIVER: Goal = Goal::AtMost(1.10);
const TOOLKIT: Goal = Goal::AtMost(1.25);

/// Payload, partitions.
const SHAPES: [(usize, u32); 4] = [(100, 1), (100, 12), (1 << 10, 1), (1 << 10, 12)];

/// In the order of a round.
const SUBJECTS: [&str; 4] = ["raw", "driver", "raw-typed", "toolkit"];

/// Messages of a run: some seconds of work.
pub(super) fn messages(scale: Scale, size: usize) -> usize {
    let base = if size > 512 { 200_000 } else { 800_000 };
    match scale {
        Scale::Quick => base,
        Scale::Full => 3 * base,
    }
}

const GUARANTEES: &str = "Written: all sides idempotent, acks=all, lz4, the same key and the same two headers, batches \
    of 1,000, eight of them under way. Read: all sides copy payload, key and both headers out of the client. The raw \
    loop commits each second and waits for the last commit only; driver and toolkit count a position when the broker \
    has confirmed it, give partitions back only when what runs has ended, and the toolkit retries and dead-letters.";

pub(super) fn produce(scale: Scale) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for (size, count) in SHAPES {
        let messages = messages(scale, size);
        // A round on a new topic; the first, which finds a cold broker, does not count.
        let run = |subject: &str| {
            let topic = Topic::new(count)?;
            bench(["produce", subject, &topic.0]).arg(messages).arg(size).outcome()
        };
        run("raw")?;
        let runs = interleaved([messages; 4], scale.rounds(), || {
            let [a, b, c, d] = SUBJECTS;
            Ok([run(a)?, run(b)?, run(c)?, run(d)?])
        })?;
        rows.extend(compare("written", size, count, &runs));
    }
    Ok(rows)
}

pub(super) fn consume(scale: Scale) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for (size, count) in SHAPES {
        let messages = messages(scale, size);
        let topic = Topic::filled(count, messages, size)?;
        let run = |subject: &str| bench(["consume", subject, &topic.0]).arg(messages).outcome();
        run("raw")?;
        let runs = interleaved([messages; 4], scale.rounds(), || {
            let [a, b, c, d] = SUBJECTS;
            Ok([run(a)?, run(b)?, run(c)?, run(d)?])
        })?;
        rows.extend(compare("read and committed", size, count, &runs));
        if (size, count) == (100, 12) {
            let [bodies] = interleaved([messages], scale.rounds(), || Ok([run("raw-bodies")?]))?;
            rows.push(
                Row::new(
                    GROUP,
                    "read by the raw client without the headers",
                    bodies.cpu_nanos(),
                    "ns of CPU a message",
                )
                .detail(told("it", &bodies)),
            );
        }
    }
    Ok(rows)
}

fn compare(done: &str, size: usize, count: u32, runs: &[Runs; 4]) -> Vec<Row> {
    let [raw, driver, raw_typed, toolkit] = runs;
    let shape = format!("{done}, {}, {}", bytes(size), partitions(count));
    let mut rows = Vec::new();
    for (who, ours, name, beside, goal) in [
        ("driver", driver, RAW.to_owned(), raw, DRIVER),
        ("toolkit", toolkit, format!("{RAW} and serde_json"), raw_typed, TOOLKIT),
    ] {
        let detail = format!("{}; {}. {GUARANTEES}", told(who, ours), told("raw", beside));
        rows.push(
            Row::new(GROUP, format!("{shape}: {who}"), ours.cpu_nanos(), "ns of CPU a message")
                .beside(name.clone(), beside.cpu_nanos())
                .goal(goal)
                .detail(detail),
        );
        rows.push(
            Row::new(GROUP, format!("{shape}: {who}"), ours.nanos(), "ns on the wall a message")
                .beside(format!("{name}, its slowest round"), beside.slowest_nanos())
                .goal(Goal::AtMost(1.0)),
        );
    }
    rows
}
