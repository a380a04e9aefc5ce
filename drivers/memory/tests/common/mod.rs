//! What the tests of the memory driver share: short ways to write, read and settle.
#![allow(dead_code, reason = "each test file uses its own part of this")]
#![allow(clippy::unwrap_used, reason = "a helper that fails fails its test")]

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use millstream_core::{
    Delivery, Message, OpenRequest, Opened, Park, ParkNote, Read, ReadLimits, Reader, Settled, Settlement,
    Settler, Source, Verdict, WriteOutcome, WriteReport, Writer,
};
use millstream_memory::{MemoryBroker, MemorySettler, MemorySource};

pub(crate) const TOPIC: &str = "orders";
pub(crate) const GROUP: &str = "billing";

/// A subscription of the tests.
pub(crate) struct Member {
    pub(crate) source: MemorySource,
    pub(crate) settler: MemorySettler,
}

pub(crate) async fn open(broker: &MemoryBroker, request: OpenRequest) -> Member {
    let Opened { source, settler, .. } = broker.reader().open(request).await.unwrap();
    Member { source, settler }
}

/// A member of the usual group on the usual topic.
pub(crate) async fn member(broker: &MemoryBroker) -> Member {
    open(broker, request()).await
}

pub(crate) fn request() -> OpenRequest {
    OpenRequest::new(TOPIC).group(GROUP)
}

pub(crate) fn limits(messages: usize) -> ReadLimits {
    ReadLimits::new(messages, usize::MAX)
}

impl Member {
    /// Waits for the next batch.
    pub(crate) async fn read(&mut self, messages: usize) -> Vec<Delivery> {
        let mut into = Vec::new();
        let read = self.source.read(&mut into, limits(messages)).await.unwrap();
        assert!(matches!(read, Read::Deliveries), "{read:?}");
        into
    }

    /// Waits for the next message.
    pub(crate) async fn one(&mut self) -> Delivery {
        self.read(1).await.remove(0)
    }

    /// What there is without waiting; none if it would have to wait.
    pub(crate) async fn now(&mut self, messages: usize) -> Vec<Delivery> {
        let mut into = Vec::new();
        let read = at_once(self.source.read(&mut into, limits(messages))).await;
        assert!(matches!(read, None | Some(Ok(Read::Deliveries))), "{read:?}");
        into
    }

    /// Whether the end is reached.
    pub(crate) async fn at_end(&mut self) -> bool {
        let mut into = Vec::new();
        let read = at_once(self.source.read(&mut into, limits(1))).await;
        assert!(into.is_empty(), "{into:?}");
        matches!(read, Some(Ok(Read::End)))
    }

    pub(crate) async fn settle(&mut self, delivery: Delivery, verdict: Verdict) -> Settled {
        self.settler.settle(vec![Settlement::new(delivery.token, verdict)]).await.remove(0)
    }

    /// Settles, which must succeed.
    pub(crate) async fn done(&mut self, delivery: Delivery, verdict: Verdict) {
        let settled = self.settle(delivery, verdict).await;
        assert!(settled.is_done(), "{settled:?}");
    }

    pub(crate) async fn ack(&mut self, delivery: Delivery) {
        self.done(delivery, Verdict::Ack).await;
    }

    pub(crate) async fn ack_all(&mut self, deliveries: Vec<Delivery>) {
        let batch = deliveries.into_iter().map(|d| Settlement::ack(d.token)).collect();
        for settled in self.settler.settle(batch).await {
            assert!(settled.is_done(), "{settled:?}");
        }
    }
}

/// Polls a future once and drops it.
pub(crate) async fn at_once<F: Future>(future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    poll_fn(|cx| match future.as_mut().poll(cx) {
        Poll::Ready(output) => Poll::Ready(Some(output)),
        Poll::Pending => Poll::Ready(None),
    })
    .await
}

pub(crate) fn message(text: &str) -> Message {
    Message::new(TOPIC, text.to_owned()).with_id(text.to_owned())
}

pub(crate) fn keyed(key: &str, text: &str) -> Message {
    message(text).with_key(key.to_owned())
}

/// Writes a batch, of which all must be written.
pub(crate) async fn write(broker: &MemoryBroker, batch: impl IntoIterator<Item = Message>) {
    report(broker, batch).await.into_result().unwrap();
}

pub(crate) async fn report(broker: &MemoryBroker, batch: impl IntoIterator<Item = Message>) -> WriteReport {
    broker.writer().write(batch.into_iter().collect()).await.unwrap()
}

pub(crate) fn outcomes(report: WriteReport) -> Vec<bool> {
    report.into_outcomes().iter().map(WriteOutcome::is_written).collect()
}

/// The texts of deliveries.
pub(crate) fn texts(deliveries: &[Delivery]) -> Vec<&str> {
    deliveries.iter().map(|d| text(&d.message)).collect()
}

pub(crate) fn text(message: &Message) -> &str {
    std::str::from_utf8(message.data.as_ref().unwrap()).unwrap()
}

pub(crate) fn retry(after: Duration) -> Verdict {
    Verdict::Retry { after }
}

pub(crate) fn park(after: Option<Duration>, note: &ParkNote) -> Verdict {
    Verdict::Park(Box::new(Park { after, note: note.clone() }))
}

pub(crate) fn note(error: &str) -> ParkNote {
    ParkNote { attempts: 3, first_failure: None, error: error.to_owned() }
}

pub(crate) const SECOND: Duration = Duration::from_secs(1);
