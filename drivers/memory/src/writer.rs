//! The writing side: batches into topics, waiting while they are full.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use millstream_core::{
    Durability, Error, ErrorKind, Message, Result, WriteNow, WriteOutcome, WriteReport, Writer,
    WriterCapabilities,
};
use tokio::sync::RwLock;
use tokio::time::timeout;

use crate::broker::Shared;
use crate::group::FAR;
use crate::sync::{self, AtomicBool, Ordering};
use crate::topic::Rest;

/// Writes to a [`MemoryBroker`](crate::MemoryBroker). Cloning shares it, and its end.
///
/// A topic that does not exist is made. A batch is written up to the first message for which there is no
/// room; that one and all behind it fail as [`Full`](ErrorKind::Full). A message larger than a topic fails
/// alone.
#[derive(Debug, Clone)]
pub struct MemoryWriter {
    shared: Arc<Shared>,
    gate: Arc<Gate>,
}

#[derive(Debug, Default)]
struct Gate {
    closed: AtomicBool,
    /// Writes hold it to read, so that closing waits for those under way.
    under_way: RwLock<()>,
    /// The same for writes that wait for nothing.
    at_once: sync::RwLock<()>,
}

/// How much longer than it may take closing waits for a write.
const GRACE: Duration = Duration::from_secs(1);

impl MemoryWriter {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared, gate: Arc::default() }
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
        let _under_way = self.gate.under_way.read().await;
        if self.gate.closed.load(Ordering::Acquire) {
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
        let _under_way = self.gate.at_once.read().unwrap_or_else(PoisonError::into_inner);
        if self.gate.closed.load(Ordering::Acquire) {
            return WriteNow::Later(message);
        }
        match self.shared.find(&message.topic) {
            Some(topic) => topic.append_now(message),
            None => WriteNow::Later(message),
        }
    }

    async fn close(&self) -> Result<()> {
        self.gate.closed.store(true, Ordering::Release);
        drop(self.gate.at_once.write());
        // A write comes to its end in time, unless its future is kept and no longer polled.
        let limit = self.shared.settings().write_timeout.saturating_add(GRACE);
        timeout(limit, self.gate.under_way.write()).await.map(drop).map_err(|_| {
            Error::new(ErrorKind::Unknown, "a write is under way whose future is kept and no longer polled")
                .fix("await each publish, drop it, or let a task of its own run it")
        })
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
