//! The writing half of a planted driver.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use millstream_core::{
    Bytes, Error, ErrorKind, Headers, Message, Result, WriteOutcome, WriteReport, Writer, WriterCapabilities,
};

use super::Bug;
use crate::sim::SimWriter;

#[derive(Debug)]
pub(super) struct PlantedWriter {
    inner: SimWriter,
    bug: Option<Bug>,
    /// Batches that were taken and are not written yet.
    buffer: Mutex<Buffer>,
    busy: AtomicBool,
}

#[derive(Debug, Default)]
struct Buffer {
    next: u64,
    batches: BTreeMap<u64, Vec<Message>>,
}

impl PlantedWriter {
    pub(super) fn new(inner: SimWriter, bug: Option<Bug>) -> Self {
        Self { inner, bug, buffer: Mutex::default(), busy: AtomicBool::new(false) }
    }

    fn buffer(&self) -> MutexGuard<'_, Buffer> {
        self.buffer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes a little later; what is gone from the buffer by then is taken for written.
    async fn write_later(&self, batch: Vec<Message>) -> Result<WriteReport> {
        let count = batch.len();
        let number = {
            let mut buffer = self.buffer();
            buffer.next += 1;
            let number = buffer.next;
            buffer.batches.insert(number, batch);
            number
        };
        tokio::time::sleep(Duration::from_millis(1)).await;
        let mine = self.buffer().batches.remove(&number);
        match mine {
            Some(batch) => self.inner.write(batch).await,
            None => Ok(WriteReport::all_written(count)),
        }
    }
}

impl Writer for PlantedWriter {
    fn capabilities(&self) -> WriterCapabilities {
        self.inner.capabilities()
    }

    async fn check(&self, batch: &[Message]) -> Result<WriteReport> {
        self.inner.check(batch).await
    }

    async fn write(&self, mut batch: Vec<Message>) -> Result<WriteReport> {
        let count = batch.len();
        if let Some(bug) = self.bug {
            batch.iter_mut().for_each(|m| harm(bug, m));
        }
        match self.bug {
            Some(Bug::LosesTheTailOfABatch) if count > 1 => {
                batch.pop();
                let mut outcomes = self.inner.write(batch).await?.into_outcomes();
                outcomes.push(WriteOutcome::Written(None));
                Ok(WriteReport::each(outcomes))
            }
            Some(Bug::MixesTopics) => {
                let topic = batch.first().map(|m| m.topic.clone()).unwrap_or_default();
                batch.iter_mut().for_each(|m| m.topic = topic.clone());
                self.inner.write(batch).await
            }
            Some(Bug::FailedIsWritten) => {
                let _ = self.inner.write(batch).await?;
                Ok(WriteReport::all_written(count))
            }
            Some(Bug::OneBadMessageFailsAll) if batch.iter().any(|m| m.topic.is_empty()) => {
                Err(Error::new(ErrorKind::EmptyMessage, "a message of the batch has no topic"))
            }
            Some(Bug::ADroppedWriteLocksTheWriter) => {
                if self.busy.swap(true, Ordering::AcqRel) {
                    return Err(Error::new(ErrorKind::Unavailable, "the writer is busy"));
                }
                tokio::task::yield_now().await;
                let report = self.inner.write(batch).await;
                self.busy.store(false, Ordering::Release);
                report
            }
            Some(Bug::CloseLosesTheBuffer) => self.write_later(batch).await,
            _ => self.inner.write(batch).await,
        }
    }

    async fn close(&self) -> Result<()> {
        self.buffer().batches.clear();
        match self.bug {
            Some(Bug::WritesAfterClose) => Ok(()),
            _ => self.inner.close().await,
        }
    }
}

/// What a bug does to a message on its way.
fn harm(bug: Bug, message: &mut Message) {
    match bug {
        Bug::DeliversEarly => message.deliver_at = None,
        Bug::NullBecomesEmpty => {
            message.data.get_or_insert_default();
        }
        Bug::TruncatesPayloads => {
            if let Some(data) = &mut message.data {
                data.truncate(64 << 10);
            }
        }
        Bug::LowersHeaderNames => {
            message.headers = map_headers(message, |name, value| (name.to_lowercase(), value.cloned()));
        }
        Bug::TrimsHeaderValues => {
            message.headers = map_headers(message, |name, value| {
                (name.to_owned(), value.map(|v| Bytes::copy_from_slice(v.trim_ascii())))
            });
        }
        Bug::MergesHeaders => {
            let all = message.headers.clone();
            all.iter().filter_map(|(n, v)| Some((n, v?))).for_each(|(n, v)| {
                message.headers.insert(n.clone(), v.clone());
            });
        }
        Bug::KeysAreText => {
            message.key = message.key.as_deref().map(|k| String::from_utf8_lossy(k).into_owned().into());
        }
        _ => {}
    }
}

fn map_headers(
    message: &Message,
    change: impl Fn(&str, Option<&Bytes>) -> (String, Option<Bytes>),
) -> Headers {
    let mut headers = Headers::new();
    for (name, value) in message.headers.iter() {
        match change(name, value) {
            (name, Some(value)) => headers.append(name, value),
            (name, None) => headers.append_null(name),
        }
    }
    headers
}
