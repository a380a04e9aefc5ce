//! Writers for tests: one that takes everything, one that fails on purpose, one that remembers.

use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use millstream_core::{
    Error, ErrorKind, Message, Result, WriteOutcome, WriteReport, Writer, WriterCapabilities,
};

/// Takes every message, says that it was written, and remembers nothing; or fails, if told to.
///
/// ```
/// # use millstream_core::{ErrorKind, Message, Writer};
/// # use millstream_testkit::writers::NoopWriter;
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> millstream_core::Result<()> {
/// let writer = NoopWriter::default();
/// assert!(writer.write(vec![Message::new("t", "x")]).await?.is_all_written());
///
/// let writer = NoopWriter { want_writer_err: Some(ErrorKind::Unavailable) };
/// assert!(writer.write(vec![Message::new("t", "x")]).await.is_err());
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, Copy, Default)]
pub struct NoopWriter {
    /// Every write fails with an error of this kind, and nothing is written. Default: none does.
    pub want_writer_err: Option<ErrorKind>,
}

impl Writer for NoopWriter {
    fn capabilities(&self) -> WriterCapabilities {
        WriterCapabilities::minimal()
    }

    async fn write(&self, batch: Vec<Message>) -> Result<WriteReport> {
        match self.want_writer_err {
            None => Ok(WriteReport::all_written(batch.len())),
            Some(kind) => Err(wanted(kind, batch.first())),
        }
    }

    async fn close(&self) -> Result<()> {
        Ok(())
    }
}

/// What is to become of a message in a [`FailingWriter`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fate {
    /// It is written by the writer inside.
    Written,
    /// It is not written, and the caller is told so with this kind.
    Failed(ErrorKind),
    /// It is not written, and the caller is told that nobody knows.
    Unknown,
    /// It is written, and the caller is told that nobody knows.
    AnswerLost,
}

/// Hands messages to another writer, but for those that a function wants to fail.
pub struct FailingWriter<W> {
    inner: W,
    fate: Box<dyn Fn(&Message) -> Fate + Send + Sync>,
}

impl<W: Writer> FailingWriter<W> {
    /// Asks `fate` about each message, in the order of writing.
    pub fn new(inner: W, fate: impl Fn(&Message) -> Fate + Send + Sync + 'static) -> Self {
        Self { inner, fate: Box::new(fate) }
    }

    /// Gives each message the next of these fates, and begins again when they are used up.
    pub fn pattern(inner: W, fates: impl Into<Vec<Fate>>) -> Self {
        let (fates, next) = (fates.into(), Mutex::new(0));
        Self::new(inner, move |_| {
            let mut next = lock(&next);
            *next += 1;
            fates.get((*next - 1) % fates.len().max(1)).copied().unwrap_or(Fate::Written)
        })
    }
}

impl<W: fmt::Debug> fmt::Debug for FailingWriter<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FailingWriter").field("inner", &self.inner).finish_non_exhaustive()
    }
}

impl<W: Writer> Writer for FailingWriter<W> {
    fn capabilities(&self) -> WriterCapabilities {
        let mut can = self.inner.capabilities();
        // What handlers send must not go past it.
        can.store = None;
        can
    }

    async fn check(&self, batch: &[Message]) -> Result<WriteReport> {
        self.inner.check(batch).await
    }

    async fn write(&self, batch: Vec<Message>) -> Result<WriteReport> {
        let fates: Vec<Fate> = batch.iter().map(|m| (self.fate)(m)).collect();
        let reaches = |fate: &Fate| matches!(fate, Fate::Written | Fate::AnswerLost);
        let (pass, rest): (Vec<_>, Vec<_>) =
            batch.into_iter().zip(fates.iter().copied()).partition(|(_, fate)| reaches(fate));
        let pass: Vec<Message> = pass.into_iter().map(|(message, _)| message).collect();
        let mut written = match pass.is_empty() {
            true => Vec::new(),
            false => self.inner.write(pass).await?.into_outcomes(),
        }
        .into_iter();
        let mut rest = rest.into_iter();
        let mut outcomes = Vec::with_capacity(fates.len());
        for fate in fates {
            let outcome = match fate {
                Fate::Written => written.next(),
                Fate::AnswerLost => written.next().map(|outcome| match outcome {
                    WriteOutcome::Written(_) => WriteOutcome::Unknown(wanted(ErrorKind::Unknown, None)),
                    other => other,
                }),
                Fate::Failed(kind) => rest.next().map(|(m, _)| WriteOutcome::Failed(wanted(kind, Some(&m)))),
                Fate::Unknown => {
                    rest.next().map(|(m, _)| WriteOutcome::Unknown(wanted(ErrorKind::Unknown, Some(&m))))
                }
            };
            let short = || WriteOutcome::Unknown(Error::new(ErrorKind::Internal, "the report is too short"));
            outcomes.push(outcome.unwrap_or_else(short));
        }
        Ok(WriteReport::each(outcomes))
    }

    async fn close(&self) -> Result<()> {
        self.inner.close().await
    }
}

/// Keeps what is written, in order, up to a number of messages; then it is `Full`.
#[derive(Debug)]
pub struct RecordingWriter {
    messages: Mutex<Vec<Message>>,
    capacity: usize,
}

impl Default for RecordingWriter {
    /// Keeps up to 1,000,000 messages.
    fn default() -> Self {
        Self::with_capacity(1_000_000)
    }
}

impl RecordingWriter {
    /// Keeps up to so many.
    #[must_use]
    pub fn with_capacity(capacity: usize) -> Self {
        Self { messages: Mutex::default(), capacity }
    }

    /// What was written so far.
    #[must_use]
    pub fn messages(&self) -> Vec<Message> {
        lock(&self.messages).clone()
    }

    /// Takes out what was written so far.
    #[must_use]
    pub fn take(&self) -> Vec<Message> {
        std::mem::take(&mut lock(&self.messages))
    }
}

impl Writer for RecordingWriter {
    fn capabilities(&self) -> WriterCapabilities {
        WriterCapabilities::minimal()
    }

    async fn write(&self, batch: Vec<Message>) -> Result<WriteReport> {
        let mut messages = lock(&self.messages);
        let mut outcomes = Vec::with_capacity(batch.len());
        for message in batch {
            outcomes.push(if messages.len() < self.capacity {
                messages.push(message);
                WriteOutcome::Written(None)
            } else {
                let error = Error::new(ErrorKind::Full, "the recording writer is full");
                WriteOutcome::Failed(message.locate(error.fix("give it a larger capacity")))
            });
        }
        Ok(WriteReport::each(outcomes))
    }

    async fn close(&self) -> Result<()> {
        Ok(())
    }
}

fn wanted(kind: ErrorKind, message: Option<&Message>) -> Error {
    let error = Error::new(kind, "a failure that the test wanted");
    message.map_or_else(|| Error::new(kind, "a failure that the test wanted"), |m| m.locate(error))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(ids: &[&str]) -> Vec<Message> {
        ids.iter().map(|id| Message::new("t", "x").with_id(*id)).collect()
    }

    #[tokio::test]
    async fn each_message_of_a_batch_meets_its_own_fate() {
        let fates = [
            Fate::Written,
            Fate::Failed(ErrorKind::TooLarge),
            Fate::Unknown,
            Fate::AnswerLost,
            Fate::Written,
        ];
        let writer = FailingWriter::pattern(RecordingWriter::default(), fates);
        let outcomes = writer.write(batch(&["0", "1", "2", "3", "4"])).await.unwrap().into_outcomes();
        let shown: String = outcomes
            .iter()
            .map(|o| match o {
                WriteOutcome::Written(_) => 'w',
                WriteOutcome::Failed(_) => 'f',
                _ => 'u',
            })
            .collect();
        assert_eq!(shown, "wfuuw");
        let kept: Vec<_> = writer.inner.messages().iter().map(|m| m.id.to_string()).collect();
        assert_eq!(kept, ["0", "3", "4"]);
    }

    #[tokio::test]
    async fn a_full_recorder_says_which_messages_it_did_not_keep() {
        let writer = RecordingWriter::with_capacity(1);
        let error = writer.write(batch(&["0", "1"])).await.unwrap().into_result().unwrap_err();
        assert_eq!((error.kind(), writer.take().len()), (ErrorKind::Full, 1));
    }
}
