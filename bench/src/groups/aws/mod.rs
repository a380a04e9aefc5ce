//! `sqs://` and the deduplication store in DynamoDB, on servers that speak the same: beside loops on the SDK alone.
//!
//! Each loop is a process of its own, of `bench/aws`. They take turns, since a server on the same machine has good and bad
//! minutes too.

mod queues;
mod reservations;

use clap::ValueEnum;

use super::program::Program;
use super::sqlite::Scale;
use crate::Result;
use crate::row::Row;

const GROUP: &str = "aws";

const RAW: &str = "aws-sdk-sqs 1.119 alone";

/// A part of the group that can be measured alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Step {
    /// Writing to standard queues.
    Send,
    /// Reading standard queues and deleting.
    Receive,
    /// Both on FIFO queues.
    Fifo,
    /// Reserving and confirming in DynamoDB.
    Reservations,
}

impl Step {
    /// What names its server.
    fn server(self) -> &'static str {
        match self {
            Self::Reservations => "MILLSTREAM_DYNAMODB",
            _ => "MILLSTREAM_SQS",
        }
    }
}

/// Measures these steps, or all.
pub(crate) fn run(scale: Scale, steps: &[Step]) -> Result<Vec<Row>> {
    let steps = if steps.is_empty() { Step::value_variants() } else { steps };
    let mut rows = Vec::new();
    for step in steps {
        let server = step.server();
        if std::env::var_os(server).is_none() {
            let why = format!("{server} names no server; `cargo xtask bench aws` starts one");
            rows.push(Row::left_out(GROUP, format!("{step:?}").to_lowercase(), why));
            continue;
        }
        rows.extend(match step {
            Step::Send => queues::send(scale)?,
            Step::Receive => queues::receive(scale)?,
            Step::Fifo => queues::fifo(scale)?,
            Step::Reservations => reservations::run(scale)?,
        });
    }
    Ok(rows)
}

/// The SDK alone, driver and toolkit, with these arguments.
fn bench<'a>(arguments: impl IntoIterator<Item = &'a str>) -> Program {
    Program::of("bench-aws", arguments)
}
