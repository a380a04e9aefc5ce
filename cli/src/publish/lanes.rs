//! Writes messages in batches, two at a time, with the order of each key kept: a key is always in the same lane, and
//! a lane writes a batch after the other. Messages without a key share a lane, and so keep the order of the input.

use std::collections::VecDeque;
use std::hash::{BuildHasher as _, RandomState};
use std::mem;

use millstream::core::WriteOutcome;
use millstream::{Error, ErrorKind, Message, Publisher, Result, WriteReport};
use tokio::task::JoinSet;

/// Batches under way at once.
const LANES: usize = 2;
/// Messages of a batch at most.
const BATCH: usize = 1_000;
/// Bytes of a batch at most; one message always fits.
const BATCH_BYTES: usize = 4 << 20;

/// Messages on their way, each with the number of its line.
pub(crate) struct Lanes {
    publisher: Publisher,
    keys: RandomState,
    lanes: [Lane; LANES],
    writing: JoinSet<Written>,
    /// Of all messages here.
    bytes: usize,
}

#[derive(Debug, Default)]
struct Lane {
    waiting: VecDeque<(u64, Message)>,
    busy: bool,
}

/// What became of a batch.
struct Written {
    lane: usize,
    lines: Vec<u64>,
    bytes: usize,
    report: Result<WriteReport>,
}

/// What became of the message of a line.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) line: u64,
    pub(crate) failure: Option<Failure>,
}

/// Why a message is not confirmed.
#[derive(Debug)]
pub(crate) enum Failure {
    /// It was not written.
    Failed(Error),
    /// Nobody knows.
    Unknown(Error),
}

impl Lanes {
    pub(crate) fn new(publisher: Publisher) -> Self {
        let lanes = Default::default();
        Self { publisher, keys: RandomState::new(), lanes, writing: JoinSet::new(), bytes: 0 }
    }

    /// Adds a message; it is written once its lane is free.
    pub(crate) fn add(&mut self, line: u64, message: Message) {
        self.bytes += message.size();
        let lane = message.lane_key().map_or(0, |key| self.keys.hash_one(key) as usize % LANES);
        self.lanes[lane].waiting.push_back((line, message));
    }

    /// Starts a batch in each lane that is free.
    pub(crate) fn start(&mut self) {
        let most = BATCH.min(self.publisher.capabilities().max_batch).max(1);
        for (index, lane) in self.lanes.iter_mut().enumerate() {
            if lane.busy || lane.waiting.is_empty() {
                continue;
            }
            lane.busy = true;
            let (lines, batch) = lane.take(most);
            let bytes = batch.iter().map(Message::size).sum();
            let publisher = self.publisher.clone();
            self.writing.spawn(async move {
                let report = publisher.publish_messages(batch).await;
                Written { lane: index, lines, bytes, report }
            });
        }
    }

    /// Bytes of all messages that are here.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether batches are being written.
    pub(crate) fn is_writing(&self) -> bool {
        !self.writing.is_empty()
    }

    /// Waits for a batch; none if none is being written. Cancel safe.
    pub(crate) async fn next(&mut self) -> Option<Result<Vec<Outcome>>> {
        let written = match self.writing.join_next().await? {
            Ok(written) => written,
            Err(error) => {
                return Some(Err(Error::new(ErrorKind::Unknown, "writing a batch broke off").source(error)));
            }
        };
        self.lanes[written.lane].busy = false;
        self.bytes -= written.bytes;
        Some(Ok(outcomes(written.lines, written.report)))
    }
}

impl Lane {
    fn take(&mut self, most: usize) -> (Vec<u64>, Vec<Message>) {
        let (mut count, mut bytes) = (0, 0);
        for (_, message) in self.waiting.iter().take(most) {
            bytes += message.size();
            if count > 0 && bytes > BATCH_BYTES {
                break;
            }
            count += 1;
        }
        self.waiting.drain(..count).unzip()
    }
}

fn outcomes(lines: Vec<u64>, report: Result<WriteReport>) -> Vec<Outcome> {
    let mut error = match report {
        Ok(report) => {
            let outcome = |(line, outcome)| Outcome { line, failure: failure(outcome) };
            return lines.into_iter().zip(report.into_outcomes()).map(outcome).collect();
        }
        Err(error) => Some(error),
    };
    // Nothing was written: the first one carries why.
    let failure = |line| {
        let again = || Error::new(ErrorKind::Unavailable, "not sent, since one before it was not written");
        Outcome { line, failure: Some(Failure::Failed(mem::take(&mut error).unwrap_or_else(again))) }
    };
    lines.into_iter().map(failure).collect()
}

fn failure(outcome: WriteOutcome) -> Option<Failure> {
    match outcome {
        WriteOutcome::Written(_) => None,
        WriteOutcome::Failed(error) => Some(Failure::Failed(error)),
        WriteOutcome::Unknown(error) => Some(Failure::Unknown(error)),
        // What a later version of the contract adds is no confirmation.
        other => {
            Some(Failure::Unknown(Error::new(ErrorKind::Unknown, format!("the broker answered {other:?}"))))
        }
    }
}
