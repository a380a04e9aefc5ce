//! Raw `rdkafka`, the driver `kafka://` and the toolkit on one broker, one loop in a process of its own;
//! `cargo xtask bench kafka` runs them in turn.
//!
//! The brokers are named by `MILLSTREAM_KAFKA`. Raw loops use the client's settings that the driver has, and those ways
//! of using it that were measured to cost least.

mod driver;
mod load;
mod raw_consume;
mod raw_produce;
mod toolkit;
mod topics;

use std::process::ExitCode;

use bench_harness::{Latency, Result, Took, tell};
use clap::{Parser, ValueEnum};

#[derive(Parser)]
#[command(about = "One loop on a broker of Kafka")]
enum Command {
    /// Makes a topic.
    Topic { topic: String, partitions: u32 },
    /// Deletes topics.
    Remove { topics: Vec<String> },
    /// Fills a topic.
    Fill {
        topic: String,
        messages: usize,
        /// Bytes of each payload.
        size: usize,
        /// Every so many cannot be decoded.
        #[arg(long)]
        poison: Option<usize>,
    },
    /// Writes messages; the time is that until the last one is confirmed, a latency that of one batch.
    Produce {
        subject: Subject,
        topic: String,
        messages: usize,
        size: usize,
        #[arg(long, default_value_t = 1_000)]
        batch: usize,
        /// Batches that are not confirmed yet, at most.
        #[arg(long, default_value_t = 8)]
        outstanding: usize,
    },
    /// Reads what is there; the time is that from the first message until the last one is committed.
    Consume { subject: Subject, topic: String, messages: usize },
    /// Writes at a steady pace and reads it; a latency is that from written to read.
    Paced { subject: Subject, topic: String, messages: usize },
}

/// Who is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Subject {
    /// The client alone, with bytes.
    Raw,
    /// The same, without a look at the headers.
    RawBodies,
    /// The driver, with bytes.
    Driver,
    /// The client alone, with JSON.
    RawTyped,
    /// The toolkit: typed events and a handler.
    Toolkit,
}

/// What a run came to.
type Measured = Result<(Took, Option<Latency>)>;

impl Command {
    fn run(self) -> Result {
        let measured = match self {
            Self::Topic { topic, partitions } => return topics::make(&topic, partitions),
            Self::Remove { topics } => return topics::remove(&topics),
            Self::Fill { topic, messages, size, poison } => {
                return raw_produce::fill(&topic, messages, size, poison);
            }
            Self::Produce { subject, topic, messages, size, batch, outstanding } => {
                let job = load::Job { topic, messages, size, batch, outstanding };
                match subject {
                    Subject::Raw | Subject::RawBodies => raw_produce::bytes(&job),
                    Subject::RawTyped => raw_produce::typed(&job),
                    Subject::Driver => driver::produce(&job),
                    Subject::Toolkit => toolkit::produce(&job),
                }
            }
            Self::Consume { subject, topic, messages } => match subject {
                Subject::Raw => raw_consume::run(&topic, messages, raw_consume::take),
                Subject::RawBodies => raw_consume::run(&topic, messages, raw_consume::take_body),
                Subject::RawTyped => raw_consume::run(&topic, messages, raw_consume::take_typed),
                Subject::Driver => driver::consume(&topic, messages),
                Subject::Toolkit => toolkit::consume(&topic, messages),
            },
            Self::Paced { subject, topic, messages } => match subject {
                Subject::RawTyped => raw_consume::paced(&topic, messages),
                Subject::Toolkit => toolkit::paced(&topic, messages),
                _ => return Err("only raw-typed and toolkit are paced".into()),
            },
        };
        let (took, latency) = measured?;
        tell(took, latency)
    }
}

/// Where the brokers are.
fn brokers() -> Result<String> {
    std::env::var("MILLSTREAM_KAFKA").map_err(|_| "MILLSTREAM_KAFKA names no broker".into())
}

/// A group that nobody had before.
fn group() -> String {
    format!("bench-{}", uuid::Uuid::now_v7())
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
