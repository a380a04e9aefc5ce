//! What is sent, how many at a time, and where to.

use std::fmt::Write as _;
use std::time::Duration;

use bench_harness::Result;
use millstream::Message;

/// What one run of a writer is.
pub(crate) struct Job {
    pub(crate) queue: String,
    pub(crate) messages: usize,
    /// Bytes of each payload.
    pub(crate) size: usize,
}

impl Job {
    /// The numbers of the messages of each request.
    pub(crate) fn batches(&self) -> impl Iterator<Item = std::ops::Range<usize>> {
        let all = self.messages;
        (0..all).step_by(BATCH).map(move |first| first..(first + BATCH).min(all))
    }
}

/// Messages of a request: as many as SQS takes.
pub(crate) const BATCH: usize = 10;

/// Requests beside each other.
pub(crate) const IN_FLIGHT: usize = 16;

/// How long a poll waits. It is not waited for: the queue is full until the end.
pub(crate) const WAIT: Duration = Duration::from_secs(1);

/// How long a message is its reader's.
pub(crate) const LEASE: Duration = Duration::from_secs(30);

/// Where a server is.
pub(crate) fn endpoint(variable: &str) -> Result<String> {
    std::env::var(variable).map_err(|_| format!("{variable} names no server").into())
}

/// The id of a message: as long as those of the toolkit, and never the same, since a FIFO queue would drop the second.
pub(crate) fn id(number: usize) -> String {
    let mut id = String::with_capacity(36);
    let _ = write!(id, "{number:036}");
    id
}

/// Messages to be gone through again and again, under other ids.
pub(crate) fn messages(job: &Job) -> Result<Vec<Message>> {
    let now = std::time::SystemTime::now();
    let messages = bench_load::messages(&job.queue, job.size)?.into_iter();
    Ok(messages.map(|message| message.with_time(now)).collect())
}
