//! The AWS SDK alone, the driver `sqs://` and the toolkit on one server, one loop in a process of its own; and reservations
//! in DynamoDB by the SDK alone and by the store. `cargo xtask bench aws` runs them in turn.
//!
//! `MILLSTREAM_SQS` and `MILLSTREAM_DYNAMODB` name the servers. Loops on the SDK have what the driver has: its settings, one
//! runtime on one thread, no retries, the same attributes on the wire and the same batches.

mod driver;
mod load;
mod raw;
mod reservations;
mod toolkit;

use std::process::ExitCode;

use bench_harness::{Latency, Result, Took, tell};
use clap::{Parser, ValueEnum};

use crate::load::Job;

#[derive(Parser)]
#[command(about = "One loop on a server that speaks SQS or DynamoDB")]
enum Command {
    /// Makes a queue; one whose name ends with `.fifo` is a FIFO queue.
    Make { queue: String },
    /// Deletes queues that are there.
    Remove { queues: Vec<String> },
    /// Fills a queue.
    Fill { queue: String, messages: usize, size: usize },
    /// Writes messages; the time is that until the last one is confirmed, a latency that of one batch.
    Send { subject: Subject, queue: String, messages: usize, size: usize },
    /// Reads and deletes what is there; the time is that from the first message until the last deletion is confirmed, a
    /// latency that from read to deleted.
    Receive { subject: Subject, queue: String, messages: usize },
    /// Makes a table for reservations.
    Table { table: String },
    /// Reserves and confirms ids; a latency is that of both.
    Reserve { subject: Subject, table: String, ids: usize, in_flight: usize },
}

/// Who is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Subject {
    /// The SDK alone, with bytes.
    Raw,
    /// The driver, with bytes.
    Driver,
    /// The SDK alone, with JSON.
    RawTyped,
    /// The toolkit: typed events and a handler.
    Toolkit,
}

/// What a run came to.
type Measured = Result<(Took, Option<Latency>)>;

impl Command {
    fn run(self) -> Result {
        let measured = match self {
            Self::Make { queue } => return raw::make(&queue),
            Self::Remove { queues } => return raw::remove(&queues),
            Self::Fill { queue, messages, size } => {
                return raw::send(&Job { queue, messages, size }).map(drop);
            }
            Self::Table { table } => return reservations::make(&table),
            Self::Send { subject, queue, messages, size } => {
                let job = Job { queue, messages, size };
                match subject {
                    Subject::Raw => raw::send(&job),
                    Subject::Driver => driver::send(&job),
                    Subject::RawTyped => raw::send_typed(&job),
                    Subject::Toolkit => toolkit::send(&job),
                }
            }
            Self::Receive { subject, queue, messages } => match subject {
                Subject::Raw => raw::receive(&queue, messages, raw::take),
                Subject::Driver => driver::receive(&queue, messages),
                Subject::RawTyped => raw::receive(&queue, messages, raw::take_typed),
                Subject::Toolkit => toolkit::receive(&queue, messages),
            },
            Self::Reserve { subject, table, ids, in_flight } => match subject {
                Subject::Raw => reservations::raw(&table, ids, in_flight),
                Subject::Driver => reservations::store(&table, ids, in_flight),
                _ => return Err("only raw and driver reserve".into()),
            },
        };
        let (took, latency) = measured?;
        tell(took, latency)
    }
}

fn main() -> ExitCode {
    match Command::parse().run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
