//! A program's own handlers, in process and on paused time: publish, wait until all is quiet, look.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use millstream::{
    Bus, DeadLetter, Event, LeaseRenewal, PublishOptions, Publisher, Report, Running, Settings, TimeSource,
};
use millstream_core::erased::{DynAdmin, DynWriter};
use millstream_core::{
    Connection, Error, ErrorKind, Message, Result, WriteReport, Writer, WriterCapabilities,
};
use millstream_memory::MemoryBroker;
use tokio::time::{Instant, sleep};

/// How much time of its own a program may need to come to rest, unless the test says otherwise.
const PATIENCE: Duration = Duration::from_secs(24 * 3600);

/// Runs the handlers of a program on a broker in memory, and remembers what was published.
///
/// Made for `#[tokio::test(start_paused = true)]`: retries of minutes and parks of hours pass at once, in the
/// same order on every run.
///
/// ```
/// # use serde::{Deserialize, Serialize};
/// use millstream::prelude::*;
/// use millstream_testkit::TestBus;
///
/// #[derive(Event, Serialize, Deserialize)]
/// #[event(topic = "order.placed", key = "customer")]
/// struct OrderPlaced { customer: String, cents: u64 }
///
/// #[derive(Event, Serialize, Deserialize, Debug, PartialEq)]
/// #[event(topic = "order.billed")]
/// struct OrderBilled { cents: u64 }
///
/// async fn bill(order: OrderPlaced, Attempt(attempt): Attempt, publisher: Publisher) -> Outcome {
///     if attempt < 3 {
///         return Err(Failure::retry("the bank is busy"));
///     }
///     publisher.publish(&OrderBilled { cents: order.cents }).await?;
///     Ok(())
/// }
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() -> millstream::Result<()> {
/// let bus = TestBus::start(|bus| bus.subscribe(bill.group("billing"))).await?;
/// bus.publish(&OrderPlaced { customer: "ada".into(), cents: 100 }).await?;
/// bus.quiet().await;
///
/// assert_eq!(bus.published::<OrderBilled>()?, [OrderBilled { cents: 100 }]);
/// assert_eq!(bus.handled("billing"), 1);
/// assert!(bus.dead_letters("order.placed").await?.is_empty());
/// # Ok(())
/// # }
/// ```
#[must_use = "dropping it stops the handlers"]
pub struct TestBus {
    publisher: Publisher,
    admin: Arc<dyn DynAdmin>,
    running: Running,
    written: Arc<Written>,
}

impl TestBus {
    /// Starts the subscriptions that `subscribe` adds, on a broker of their own.
    ///
    /// # Errors
    /// As [`Bus::start`].
    pub async fn start<S>(subscribe: impl FnOnce(Bus) -> Bus<S>) -> Result<Self> {
        let broker = MemoryBroker::builder().build();
        let written = Arc::new(Written::default());
        let writer = Recorder { inner: broker.connection().writer, written: Arc::clone(&written) };
        let admin: Arc<dyn DynAdmin> = Arc::new(broker.admin());
        let connection = Connection::new(broker.reader(), writer).with_admin(broker.admin());
        let mut settings = Settings::default();
        settings.time = TimeSource::Runtime;
        settings.leases = LeaseRenewal::Task;
        settings.seed = Some(1);
        let bus = subscribe(Bus::from_connection(connection).settings(settings));
        let publisher = bus.publisher().clone();
        let running = bus.start().await?;
        Ok(Self { publisher, admin, running, written })
    }

    /// Publishes as the program would.
    #[must_use]
    pub fn publisher(&self) -> &Publisher {
        &self.publisher
    }

    /// Publishes an event.
    ///
    /// # Errors
    /// As [`Publisher::publish`].
    pub async fn publish<E: Event>(&self, event: &E) -> Result<()> {
        self.publisher.publish(event).await
    }

    /// Publishes an event with options.
    ///
    /// # Errors
    /// As [`Publisher::publish_with`].
    pub async fn publish_with<E: Event>(&self, event: &E, options: PublishOptions) -> Result<()> {
        self.publisher.publish_with(event, options).await
    }

    /// Publishes a raw message, such as one that does not decode.
    ///
    /// # Errors
    /// As [`Publisher::publish_message`].
    pub async fn publish_message(&self, message: Message) -> Result<()> {
        self.publisher.publish_message(message).await
    }

    /// Waits until every message of every group is settled: handled, suppressed, dead-lettered or discarded,
    /// with all retries and parks on the way.
    ///
    /// # Panics
    /// If that does not happen within 24 hours of the test's time, with what is left.
    pub async fn quiet(&self) {
        self.quiet_within(PATIENCE).await;
    }

    /// The same with a patience of your own.
    ///
    /// # Panics
    /// If it does not come to rest in time, with what is left.
    pub async fn quiet_within(&self, patience: Duration) {
        let begun = Instant::now();
        // Each step lets everything that is ready run, and the paused clock jump to what is next.
        let mut step = Duration::from_millis(1);
        loop {
            sleep(step).await;
            let left = self.left().await;
            if left.is_empty() {
                return;
            }
            assert!(
                begun.elapsed() < patience,
                "the bus did not come to rest within {patience:?}: {}",
                left.join("; ")
            );
            step = (step * 2).min(Duration::from_secs(1));
        }
    }

    /// What is not settled yet, a line a group.
    async fn left(&self) -> Vec<String> {
        let mut left = Vec::new();
        for topic in self.admin.topics().await.unwrap_or_default() {
            for group in self.admin.groups(&topic.name).await.unwrap_or_default() {
                if group.lag + group.in_flight + group.parked > 0 {
                    left.push(format!(
                        "group {:?} of {:?} has {} to settle, {} in flight, {} parked",
                        group.name, topic.name, group.lag, group.in_flight, group.parked
                    ));
                }
            }
        }
        let held = self.running.control().in_flight();
        if left.is_empty() && held > 0 {
            left.push(format!("{held} messages are in flight"));
        }
        left
    }

    /// Every event that was published to the topic of `E`, by the test or by a handler, in order.
    ///
    /// # Errors
    /// If the event has no topic, or a message there does not decode.
    pub fn published<E: Event>(&self) -> Result<Vec<E>> {
        let topic = self.publisher.registry().topic_of::<E>()?;
        self.published_to(&topic).iter().map(|m| m.decode_with(self.publisher.codecs())).collect()
    }

    /// Every message that was published to a topic, in order.
    #[must_use]
    pub fn published_to(&self, topic: &str) -> Vec<Message> {
        let messages = self.written.messages.lock().unwrap_or_else(PoisonError::into_inner);
        messages.iter().filter(|m| *m.topic == *topic).cloned().collect()
    }

    /// How many messages the handlers of a group handled.
    #[must_use]
    pub fn handled(&self, group: &str) -> u64 {
        self.count(group, |report| report.handled)
    }

    /// How many messages of a group were suppressed as duplicates.
    #[must_use]
    pub fn duplicates(&self, group: &str) -> u64 {
        self.count(group, |report| report.duplicates)
    }

    /// How many runs of a group's handlers failed and were retried.
    #[must_use]
    pub fn retried(&self, group: &str) -> u64 {
        self.count(group, |report| report.retried)
    }

    fn count(&self, group: &str, of: impl Fn(&millstream::SubscriptionReport) -> u64) -> u64 {
        let counts = self.running.control().counts();
        counts.iter().filter(|r| r.group.as_deref() == Some(group)).map(of).sum()
    }

    /// The dead letters of a topic, oldest first.
    ///
    /// # Errors
    /// If the broker refuses.
    pub async fn dead_letters(&self, topic: &str) -> Result<Vec<DeadLetter>> {
        let stored = self.admin.dead_letters(topic, None, usize::MAX).await?;
        Ok(stored.into_iter().map(|letter| DeadLetter::parse(letter.message)).collect())
    }

    /// What runs, for its health and counts.
    pub fn running(&self) -> &Running {
        &self.running
    }

    /// Ends in order, as the program would.
    pub async fn shutdown(self) -> Report {
        self.running.shutdown().await
    }
}

impl fmt::Debug for TestBus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TestBus").field("running", &self.running).finish_non_exhaustive()
    }
}

/// What was written and confirmed.
#[derive(Debug, Default)]
struct Written {
    messages: Mutex<Vec<Message>>,
}

/// Remembers what the writer inside confirmed.
struct Recorder {
    inner: Arc<dyn DynWriter>,
    written: Arc<Written>,
}

impl Writer for Recorder {
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
        let copies = batch.clone();
        let outcomes = self.inner.write(batch).await?.into_outcomes();
        if outcomes.len() != copies.len() {
            return Err(Error::new(ErrorKind::Internal, "the writer reported another number of messages"));
        }
        let mut messages = self.written.messages.lock().unwrap_or_else(PoisonError::into_inner);
        messages.extend(copies.into_iter().zip(&outcomes).filter(|(_, o)| o.is_written()).map(|(m, _)| m));
        drop(messages);
        Ok(WriteReport::each(outcomes))
    }

    async fn close(&self) -> Result<()> {
        self.inner.close().await
    }
}
