//! The writing side: batches into topics, waiting while they are full.

use std::sync::{Arc, PoisonError};

use millstream_core::{
    Durability, Error, ErrorKind, Message, Result, WriteNow, WriteOutcome, WriteReport, Writer, WriterCapabilities,
};
use tokio::sync::RwLock;

use crate::broker::Shared;
use crate::group::FAR;
use crate::topic::Rest;

/// Writes to a [`MemoryBroker`](crate::MemoryBroker). Cloning shares it, and its end.
///
/// A topic that does not exist is made. A batch is written up to the first message for which there is no
/// room; that one and all behind it fail as [`Full`](ErrorKind::Full). A message larger than a topic fails
/// alone.
#[derive(Debug, Clone)]
pub struct MemoryWriter {
    shared: Arc<Shared>,
    /// Whether it is closed. Writes hold it to read, so that closing waits for those under way.
    closed: Arc<RwLock<bool>>,
    /// The same for writes that wait for nothing.
    open: Arc<std::sync::RwLock<bool>>,
}

impl MemoryWriter {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared, closed: Arc::default(), open: Arc::new(std::sync::RwLock::new(true)) }
    }
}

impl Writer for MemoryWriter {
    fn capabilities(&self) -> WriterCapabilities {
        let mut can = WriterCapabilities::minimal();
        can.durability = Durability::Process;
        can.delay = Some(FAR);
        can.max_message = Some(self.shared.settings().bytes);
        can.max_batch = 10_000;
        can
    }

    async fn write(&self, batch: Vec<Message>) -> Result<WriteReport> {
        let closed = self.closed.read().await;
        if *closed {
            return Err(Error::new(ErrorKind::BusIsShutdown, "the memory writer is closed")
                .fix("write before it is closed, or take a new writer from the broker"));
        }
        let mut outcomes = Vec::with_capacity(batch.len());
        let mut rest = batch.into_iter().peekable();
        while let Some(next) = rest.peek() {
            let written = match self.shared.topic(&next.topic) {
                Ok((topic, _)) => topic.append(&mut rest, &mut outcomes).await,
                Err(error) => Err(error),
            };
            match written {
                Ok(()) => {}
                // Only this message has no topic.
                Err(error) if matches!(error.kind(), ErrorKind::EmptyMessage | ErrorKind::InvalidMessage) => {
                    outcomes.push(WriteOutcome::Failed(error));
                    rest.next();
                }
                Err(error) if outcomes.is_empty() && error.kind() == ErrorKind::BusIsShutdown => {
                    return Err(error);
                }
                Err(error) => fail_all(error, &mut rest, &mut outcomes),
            }
        }
        Ok(WriteReport::each(outcomes))
    }

    fn write_now(&self, message: Arc<Message>) -> WriteNow {
        let open = self.open.read().unwrap_or_else(PoisonError::into_inner);
        if !*open {
            return WriteNow::Later(message);
        }
        match self.shared.find(&message.topic) {
            Some(topic) => topic.append_now(message),
            None => WriteNow::Later(message),
        }
    }

    async fn close(&self) -> Result<()> {
        *self.open.write().unwrap_or_else(PoisonError::into_inner) = false;
        *self.closed.write().await = true;
        Ok(())
    }
}

/// Fails what is left of a batch: nothing overtakes the message that had no room.
fn fail_all(error: Error, rest: &mut Rest, outcomes: &mut Vec<WriteOutcome>) {
    let kind = error.kind();
    if let Some(message) = rest.next() {
        outcomes.push(WriteOutcome::Failed(message.locate(error)));
    }
    for message in rest {
        let error = Error::new(kind, "a message before it in the batch was not written")
            .fix("write again what failed, in the same order");
        outcomes.push(WriteOutcome::Failed(message.locate(error)));
    }
}
