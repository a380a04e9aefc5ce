//! A writer with somebody who writes down what may have been written though nobody knows.

use std::sync::Arc;

use bytestring::ByteString;
use millstream_core::{ErrorKind, Message, Result, WriteOutcome, WriteReport, Writer, WriterCapabilities};
use millstream_testkit::ledger::Record;

use crate::journal::Journal;

/// A writer that is watched.
#[derive(Debug)]
pub(crate) struct WatchedWriter<W> {
    inner: W,
    journal: Arc<Journal>,
}

impl<W> WatchedWriter<W> {
    pub(crate) fn new(inner: W, journal: Arc<Journal>) -> Self {
        Self { inner, journal }
    }
}

impl<W: Writer> Writer for WatchedWriter<W> {
    fn capabilities(&self) -> WriterCapabilities {
        self.inner.capabilities()
    }

    async fn check(&self, batch: &[Message]) -> Result<WriteReport> {
        self.inner.check(batch).await
    }

    async fn write(&self, batch: Vec<Message>) -> Result<WriteReport> {
        let ids: Vec<ByteString> = batch.iter().map(|message| message.id.clone()).collect();
        let maybe = |id: &ByteString| self.journal.write(Record::MaybeWritten { id: id.clone() });
        let outcomes = match self.inner.write(batch).await {
            Ok(report) => report.into_outcomes(),
            Err(error) => {
                if error.kind() == ErrorKind::Unknown {
                    ids.iter().for_each(maybe);
                }
                return Err(error);
            }
        };
        for (id, outcome) in ids.iter().zip(&outcomes) {
            if matches!(outcome, WriteOutcome::Unknown(_)) {
                maybe(id);
            }
        }
        Ok(WriteReport::each(outcomes))
    }

    async fn close(&self) -> Result<()> {
        self.inner.close().await
    }
}
