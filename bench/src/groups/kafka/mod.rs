//! `kafka://` on a real broker: the driver and the toolkit beside the raw client, and beside peers.
//!
//! Each loop is a program of its own: those of `bench/kafka`, and peers. They take turns, since a broker on the same
//! machine has good and bad minutes too.

mod beside_raw;
mod paced;
mod peers;
mod poison;

use clap::ValueEnum;

use super::program::Program;
use super::sqlite::Scale;
use crate::Result;
use crate::row::Row;

const GROUP: &str = "kafka";

/// The broker's address; `cargo xtask bench kafka` starts one and sets it.
const BROKERS: &str = "MILLSTREAM_KAFKA";

const RAW: &str = "rdkafka 0.39 alone";

/// A part of the group that can be measured alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Step {
    /// Writing, beside the raw client.
    Produce,
    /// Reading and committing, beside the raw client.
    Consume,
    /// Both beside peers.
    Peers,
    /// From written to handled, at a steady pace.
    Paced,
    /// One message in a thousand that cannot be decoded.
    Poison,
}

/// Measures these steps, or all.
pub(crate) fn run(scale: Scale, steps: &[Step]) -> Result<Vec<Row>> {
    if std::env::var_os(BROKERS).is_none() {
        let why = format!("{BROKERS} names no broker; `cargo xtask bench kafka` starts one");
        return Ok(vec![Row::left_out(GROUP, "everything", why)]);
    }
    let steps = if steps.is_empty() { Step::value_variants() } else { steps };
    let mut rows = Vec::new();
    for step in steps {
        rows.extend(match step {
            Step::Produce => beside_raw::produce(scale)?,
            Step::Consume => beside_raw::consume(scale)?,
            Step::Peers => peers::run(scale)?,
            Step::Paced => paced::run(scale)?,
            Step::Poison => poison::run(scale)?,
        });
    }
    Ok(rows)
}

/// Raw client, driver and toolkit, with these arguments.
fn bench<'a>(arguments: impl IntoIterator<Item = &'a str>) -> Program {
    Program::of("bench-kafka", arguments)
}

/// A topic that goes when the step ends.
#[derive(Debug)]
struct Topic(String);

impl Topic {
    /// An empty one.
    fn new(partitions: u32) -> Result<Self> {
        let topic = Self(format!("bench-{}", uuid::Uuid::now_v7()));
        bench(["topic", &topic.0]).arg(partitions).quiet()?;
        Ok(topic)
    }

    /// One with so many messages of so many bytes.
    fn filled(partitions: u32, messages: usize, size: usize) -> Result<Self> {
        let topic = Self::new(partitions)?;
        bench(["fill", &topic.0]).arg(messages).arg(size).quiet()?;
        Ok(topic)
    }
}

impl Drop for Topic {
    fn drop(&mut self) {
        let gone = bench(["remove", &self.0]).arg(format!("{}.dlq", self.0)).quiet();
        if let Err(error) = gone {
            eprintln!("{}: {error}", self.0);
        }
    }
}

/// Partitions, in words.
fn partitions(count: u32) -> String {
    if count == 1 { "1 partition".to_owned() } else { format!("{count} partitions") }
}
