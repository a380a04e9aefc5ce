//! The driver beside a loop on the SDK with text, and the toolkit beside it with JSON.

use bench_harness::Outcome;

use super::{GROUP, RAW, bench};
use crate::Result;
use crate::groups::program::{bytes, interleaved, told};
use crate::groups::sqlite::Scale;
use crate::rounds::Runs;
use crate::row::{Goal, Row};

/// Client CPU, of the loop's on the SDK.
const DRIVER: Goal = Goal::AtMost(1.10);
const TOOLKIT: Goal = Goal::AtMost(1.25);

/// Bytes of a payload.
const SIZES: [usize; 2] = [200, 1 << 10];

/// In the order of a round.
const SUBJECTS: [&str; 4] = ["raw", "driver", "raw-typed", "toolkit"];

const GUARANTEES: &str = "Requests of ten, at most 16 of them or of polls beside each other, the same five attributes, no \
    retries by the SDK, one runtime on one thread for all requests. The raw loop ends at the first failure. The driver has \
    an outcome for each message, sends again what is refused for the moment, refuses what SQS would not keep, extends \
    leases on a thread of its own, deletes on connections of their own and takes a deletion past its lease for lost; the \
    toolkit retries and dead-letters, keeps the order of a key in flight, and runs on two threads.";

/// Messages of a run: some seconds of the server's work.
fn messages(scale: Scale, base: usize) -> usize {
    match scale {
        Scale::Quick => base,
        Scale::Full => 3 * base,
    }
}

/// A queue that goes when its run ends.
struct Queue(String);

impl Queue {
    /// An empty one.
    fn new(end: &str) -> Result<Self> {
        let queue = Self(format!("bench-{}{end}", uuid::Uuid::now_v7()));
        bench(["make", &queue.0]).quiet()?;
        Ok(queue)
    }

    /// One with so many messages of so many bytes.
    fn filled(end: &str, messages: usize, size: usize) -> Result<Self> {
        let queue = Self::new(end)?;
        bench(["fill", &queue.0]).arg(messages).arg(size).quiet()?;
        Ok(queue)
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        let gone = bench(["remove", &self.0]).arg(format!("{}-dlq", self.0)).quiet();
        if let Err(error) = gone {
            eprintln!("{}: {error}", self.0);
        }
    }
}

/// One run, of so many messages of so many bytes.
type Run = fn(&str, &str, usize, usize) -> Result<Outcome>;

/// Into a new queue.
fn sending(subject: &str, end: &str, messages: usize, size: usize) -> Result<Outcome> {
    let queue = Queue::new(end)?;
    bench(["send", subject, &queue.0]).arg(messages).arg(size).outcome()
}

/// Out of a queue that was filled for it.
fn receiving(subject: &str, end: &str, messages: usize, size: usize) -> Result<Outcome> {
    let queue = Queue::filled(end, messages, size)?;
    bench(["receive", subject, &queue.0]).arg(messages).outcome()
}

pub(super) fn send(scale: Scale) -> Result<Vec<Row>> {
    standard("written", messages(scale, 20_000), scale, sending)
}

pub(super) fn receive(scale: Scale) -> Result<Vec<Row>> {
    standard("read and deleted", messages(scale, 10_000), scale, receiving)
}

fn standard(done: &str, messages: usize, scale: Scale, run: Run) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for size in SIZES {
        // A cold server is several times slower: what finds it so does not count.
        run("raw", "", messages, size)?;
        let [a, b, c, d] = SUBJECTS;
        let round = |subject| run(subject, "", messages, size);
        let runs =
            interleaved([messages; 4], scale.rounds(), || Ok([round(a)?, round(b)?, round(c)?, round(d)?]))?;
        let [raw, driver, raw_typed, toolkit] = &runs;
        let shape = format!("{done}, {}", bytes(size));
        rows.extend(compare(&shape, ("driver", driver), (RAW, raw), Some(DRIVER)));
        let name = format!("{RAW} and serde_json");
        rows.extend(compare(&shape, ("toolkit", toolkit), (&name, raw_typed), Some(TOOLKIT)));
    }
    Ok(rows)
}

/// The messages of a key wait for each other; a thousand keys take turns.
pub(super) fn fifo(scale: Scale) -> Result<Vec<Row>> {
    let size = SIZES[0];
    let mut rows = Vec::new();
    for (done, messages, run) in [
        ("written to FIFO", messages(scale, 5_000), sending as Run),
        ("read from FIFO and deleted", messages(scale, 2_000), receiving),
    ] {
        run("raw", ".fifo", messages, size)?;
        let round = |subject| run(subject, ".fifo", messages, size);
        let [raw, driver] =
            interleaved([messages; 2], scale.rounds(), || Ok([round("raw")?, round("driver")?]))?;
        let shape = format!("{done}, {}", bytes(size));
        rows.extend(compare(&shape, ("driver", &driver), (RAW, &raw), None));
    }
    Ok(rows)
}

/// CPU, and time on the wall, which is held against the slowest of the raw loop's rounds. Without a goal for the one there
/// is none for the other.
fn compare(
    shape: &str,
    (who, ours): (&str, &Runs),
    (name, beside): (&str, &Runs),
    goal: Option<Goal>,
) -> [Row; 2] {
    let detail = format!("{}; {}. {GUARANTEES}", told(who, ours), told("raw", beside));
    let cpu = Row::new(GROUP, format!("{shape}: {who}"), ours.cpu_nanos(), "ns of CPU a message")
        .beside(name, beside.cpu_nanos())
        .detail(detail);
    let wall = Row::new(GROUP, format!("{shape}: {who}"), ours.nanos(), "ns on the wall a message")
        .beside(format!("{name}, its slowest round"), beside.slowest_nanos());
    match goal {
        Some(goal) => [cpu.goal(goal), wall.goal(Goal::AtMost(1.0))],
        None => [cpu, wall],
    }
}
