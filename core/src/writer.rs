//! The writing side of a driver: the contract with its authors.
//!
//! A [`Writer`] takes batches of messages and says of each what became of it: written, failed, or unknown.
//! That is all. Ids, encoding, limits, retries and splitting are the publisher's.
//!
//! # What must hold
//!
//! 1. **`Written` means that it is as safe as [`WriterCapabilities::durability`] says**, confirmed by the
//!    broker, never "sent".
//! 2. **Silence is `Unknown`**: a time-out after the bytes left, a connection that broke before the answer.
//!    The caller asks or writes again with the same id.
//! 3. **Order**: messages of one key in one batch, and in batches that follow each other's completion, are
//!    written in that order.
//! 4. **Dropping the future may leave messages written**: it is as safe to cancel as any network write, and
//!    the outcome is unknown. It must never corrupt the writer for those after.
//! 5. **`close` comes after the last write** and waits for what is under way.
//!
//! # Classic mistakes
//!
//! **Reporting the batch, not its messages.** One too large a message in a batch of 100 is one failure and
//! 99 written.
//!
//! **Retrying a failed entry behind its successors.** Entry 3 fails, 4 to 9 are in; sent again it lands
//! behind them. A driver that retries inside must keep a key's messages apart or stop at the first failure.
//!
//! **An unbounded buffer in front of the broker.** When the broker is slow, waiting is the answer.

use std::sync::Arc;

use crate::{Error, Message, Position, Result, WriterCapabilities};

/// Writes batches of messages to a broker, a database, a file: anything.
pub trait Writer: Send + Sync + 'static {
    /// What this writer can do.
    fn capabilities(&self) -> WriterCapabilities;

    /// Writes a batch; at most [`WriterCapabilities::max_batch`] messages, of any topics. The report has one
    /// outcome for each, in order.
    ///
    /// # Errors
    /// Only if *nothing* was written, for a reason that concerns the whole batch: not connected, no rights.
    fn write(&self, batch: Vec<Message>) -> impl Future<Output = Result<WriteReport>> + Send;

    /// Writes one message if that can be done without waiting for anything, and otherwise gives it back. Saves a
    /// driver inside the process the future and the lists of a batch; all others leave it as it is.
    fn write_now(&self, message: Arc<Message>) -> WriteNow {
        WriteNow::Later(message)
    }

    /// What would become of a batch, as far as that can be known without writing it: `Written` says that nothing speaks
    /// against it. Asked before messages commit with an acknowledgement, where one that is refused would take it along.
    ///
    /// # Errors
    /// If it cannot be known now.
    fn check(&self, batch: &[Message]) -> impl Future<Output = Result<WriteReport>> + Send {
        std::future::ready(Ok(WriteReport::all_written(batch.len())))
    }

    /// Waits until everything handed over is confirmed or failed, and closes. A write after it is an error
    /// of kind [`BusIsShutdown`](crate::ErrorKind::BusIsShutdown). Closing twice is fine.
    ///
    /// # Errors
    /// If something handed over is not confirmed.
    fn close(&self) -> impl Future<Output = Result<()>> + Send;
}

/// What became of one message.
#[derive(Debug)]
#[non_exhaustive]
pub enum WriteOutcome {
    /// Confirmed; and where it lies, if the broker says.
    Written(Option<Position>),
    /// Not written.
    Failed(Error),
    /// Nobody knows. Write again with the same id, or look it up.
    Unknown(Error),
}

impl WriteOutcome {
    /// Whether it was confirmed.
    #[must_use]
    pub fn is_written(&self) -> bool {
        matches!(self, Self::Written(_))
    }

    /// Why it is not known to be written.
    ///
    /// # Errors
    /// Whatever says that it failed, or that nobody knows.
    pub fn into_result(self) -> Result<()> {
        match self {
            Self::Written(_) => Ok(()),
            Self::Failed(error) | Self::Unknown(error) => Err(error),
        }
    }
}

/// What a writer did with a message that it was asked to write without waiting.
#[derive(Debug)]
#[must_use = "the message may not have been written"]
pub enum WriteNow {
    /// It was dealt with.
    Done(WriteOutcome),
    /// It cannot be done without waiting: here it is again, to be written with [`Writer::write`].
    Later(Arc<Message>),
}

/// What became of each message of a batch.
///
/// ```
/// use millstream_core::WriteReport;
/// let report = WriteReport::all_written(2);
/// assert!(report.is_all_written());
/// assert_eq!(report.len(), 2);
/// ```
#[derive(Debug, Default)]
#[must_use = "a batch may be written in part"]
pub struct WriteReport {
    len: usize,
    // Empty when all were written and nobody said where: the common case costs nothing.
    outcomes: Vec<WriteOutcome>,
}

impl WriteReport {
    /// All of so many were written.
    pub fn all_written(len: usize) -> Self {
        Self { len, outcomes: Vec::new() }
    }

    /// An outcome for each.
    pub fn each(outcomes: Vec<WriteOutcome>) -> Self {
        Self { len: outcomes.len(), outcomes }
    }

    /// How many messages it speaks of.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it speaks of none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether every message was written.
    #[must_use]
    pub fn is_all_written(&self) -> bool {
        self.outcomes.iter().all(WriteOutcome::is_written)
    }

    /// How many messages were written.
    #[must_use]
    pub fn written(&self) -> usize {
        if self.outcomes.is_empty() {
            self.len
        } else {
            self.outcomes.iter().filter(|o| o.is_written()).count()
        }
    }

    /// One outcome a message, in the order of the batch.
    #[must_use]
    pub fn into_outcomes(self) -> Vec<WriteOutcome> {
        if self.outcomes.is_empty() {
            (0..self.len).map(|_| WriteOutcome::Written(None)).collect()
        } else {
            self.outcomes
        }
    }

    /// The first that was not written, as an error that says which and how many.
    ///
    /// # Errors
    /// Of the kind of the first failure.
    pub fn into_result(self) -> Result<()> {
        if self.is_all_written() {
            return Ok(());
        }
        let total = self.len;
        let missing = self.outcomes.iter().filter(|o| !o.is_written()).count();
        let first = self.outcomes.into_iter().enumerate().find_map(|(i, outcome)| match outcome {
            WriteOutcome::Written(_) => None,
            WriteOutcome::Failed(e) => Some((i, "failed", e)),
            WriteOutcome::Unknown(e) => Some((i, "has an unknown outcome", e)),
        });
        let Some((index, what, error)) = first else { return Ok(()) };
        if total == 1 {
            return Err(error);
        }
        Err(Error::new(
            error.kind(),
            format!(
                "{missing} of {total} messages were not confirmed; number {index} is the first and {what}"
            ),
        )
        .source(error))
    }
}

/// A writer that can write inside a transaction the caller holds: the message is there if and only if the
/// caller's own changes are.
///
/// A separate trait, because it speaks the driver's own types; a driver without transactions leaves it out.
pub trait Bind: Writer {
    /// The caller's transaction, such as an SQL client's.
    type Transaction<'c>;
    /// Writes in it, until it is dropped.
    type Bound<'t, 'c: 't>: BoundWriter
    where
        Self: 't;

    /// Binds this writer to a transaction.
    fn bind<'t, 'c: 't>(&'t self, transaction: &'t mut Self::Transaction<'c>) -> Self::Bound<'t, 'c>;
}

/// Writes in a transaction of the caller's.
pub trait BoundWriter {
    /// Adds messages to the transaction. Nothing is published before the caller commits. A driver whose
    /// client is synchronous is ready at the first poll.
    ///
    /// # Errors
    /// If the transaction refuses; then nothing of the batch is in it.
    fn write(&mut self, batch: Vec<Message>) -> impl Future<Output = Result<()>>;
}
