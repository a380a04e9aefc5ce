//! What the scheduler does with a subscription's messages: every knob, its unit and its default.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use millstream_core::erased::{DynDedupStore, DynWriter};
use millstream_core::{ByteString, Error, ErrorKind, Result};

use crate::Retry;

/// The policy of a subscription. The builder methods of [`Subscription`](crate::Subscription) set it.
///
/// The order in which policies act on a message is fixed: redrive filter, crash loop, deduplication, timeout,
/// handler, retry, parking, dead letter.
#[derive(Clone)]
#[non_exhaustive]
pub struct Policy {
    /// Handlers running at the same time at most, one a key. Default 64.
    pub concurrency: usize,
    /// Runners that share the handlers' work, each on its own task, at most; one works alone while it keeps up. Default:
    /// the cores.
    pub workers: Option<usize>,
    /// Messages read and not yet settled at most. Default 1,024.
    pub max_in_flight: usize,
    /// Bytes of those at most. Default 64 MiB. One message always fits.
    pub memory: usize,
    /// Order between messages. Default: per key.
    pub ordering: Ordering,
    /// Where handlers run. Default: on the runtime.
    pub execution: Execution,
    /// When a failed message runs again.
    pub retry: Retry,
    /// A key whose next run is further away than this is parked. Default 60 s.
    pub park_after: Duration,
    /// How long a handler may run. Default: no limit.
    pub timeout: Option<Duration>,
    /// Remembers what was handled. Default: none.
    pub dedup: Option<Arc<dyn DynDedupStore>>,
    /// How long a reservation lasts without being renewed. Default 5 min.
    pub dedup_lease: Duration,
    /// Where dead letters go. Default: `<topic>.dlq`, or the driver's own store.
    pub dead_letters: DeadLetterTarget,
    /// When failures count as an outage.
    pub outage: Outage,
    /// Deliveries after which a message is taken for one that kills its process. Default: attempts + 10.
    pub max_deliveries: Option<u32>,
    /// How far finished messages may run ahead of the committed position.
    pub max_gap: MaxGap,
    /// Collects messages into batches. Default: one at a time.
    pub batch: Option<Batching>,
    /// What happens to a message whose `millstream-type` is not the handler's. Default: dead-lettered.
    pub other_types: OtherTypes,
    /// Called at every failure of a handler.
    pub on_error: Option<OnError>,
}

/// Called at every failure, with what is known of it.
pub type OnError = Arc<dyn Fn(&FailureReport<'_>) + Send + Sync>;

/// A failure as it is reported.
#[derive(Debug)]
#[non_exhaustive]
pub struct FailureReport<'a> {
    /// The message that failed.
    pub message: &'a millstream_core::Message,
    /// Its group.
    pub group: Option<&'a str>,
    /// The handler's name.
    pub handler: &'a str,
    /// Which run of the handler this was.
    pub attempt: u32,
    /// Why.
    pub failure: &'a crate::Failure,
    /// What happens now.
    pub next: Next,
}

/// What happens to a message after a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Next {
    /// It runs again after this wait.
    Retry(Duration),
    /// It is parked with its key until then.
    Park(Duration),
    /// It is dead-lettered.
    DeadLetter,
    /// It is discarded, as the handler or the policy says.
    Discard,
    /// It waits for the outage to end.
    WaitForOutage,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            concurrency: 64,
            workers: None,
            max_in_flight: 1_024,
            memory: 64 << 20,
            ordering: Ordering::PerKey,
            execution: Execution::Async,
            retry: Retry::default(),
            park_after: Duration::from_secs(60),
            timeout: None,
            dedup: None,
            dedup_lease: Duration::from_secs(300),
            dead_letters: DeadLetterTarget::Default,
            outage: Outage::default(),
            max_deliveries: None,
            max_gap: MaxGap::default(),
            batch: None,
            other_types: OtherTypes::DeadLetter,
            on_error: None,
        }
    }
}

impl Policy {
    /// Deliveries after which a message is taken for one that kills its process.
    #[must_use]
    pub fn delivery_limit(&self) -> u32 {
        self.max_deliveries.unwrap_or_else(|| self.retry.max_attempts().saturating_add(10))
    }

    /// Refuses limits that contradict each other.
    ///
    /// # Errors
    /// [`InvalidConfig`](ErrorKind::InvalidConfig) with the fix.
    pub fn check(&self) -> Result<()> {
        let refuse = |what: String, fix: &str| Err(Error::new(ErrorKind::InvalidConfig, what).fix(fix));
        if self.concurrency == 0 || self.max_in_flight == 0 || self.memory == 0 || self.workers == Some(0) {
            return refuse(
                "concurrency, max_in_flight, memory and workers must be at least 1".into(),
                "leave them out for the defaults",
            );
        }
        if self.concurrency > self.max_in_flight {
            return refuse(
                format!(
                    "concurrency {} is above max_in_flight {}: so many can never run",
                    self.concurrency, self.max_in_flight
                ),
                "raise max_in_flight",
            );
        }
        if let Some(limit) = self.max_deliveries
            && limit < self.retry.max_attempts()
        {
            return refuse(
                format!(
                    "max_deliveries {limit} is below the {} attempts of the retry: it would end them early",
                    self.retry.max_attempts()
                ),
                "raise max_deliveries, or leave it out",
            );
        }
        if let Some(batch) = &self.batch
            && (batch.max == 0 || batch.max > self.max_in_flight)
        {
            return refuse(
                format!("a batch of {} does not fit max_in_flight {}", batch.max, self.max_in_flight),
                "make batches of at least 1 and at most max_in_flight",
            );
        }
        if self.timeout.is_some_and(|t| t.is_zero()) {
            return refuse("the timeout is zero".into(), "leave it out for no limit");
        }
        Ok(())
    }
}

impl fmt::Debug for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Policy")
            .field("concurrency", &self.concurrency)
            .field("max_in_flight", &self.max_in_flight)
            .field("memory", &self.memory)
            .field("ordering", &self.ordering)
            .field("retry", &self.retry)
            .field("park_after", &self.park_after)
            .field("timeout", &self.timeout)
            .field("dedup", &self.dedup.is_some())
            .field("dead_letters", &self.dead_letters)
            .field("outage", &self.outage)
            .finish_non_exhaustive()
    }
}

/// Order between messages of a subscription.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Ordering {
    /// Messages of one key in order, different keys and unkeyed messages in parallel.
    #[default]
    PerKey,
    /// One message at a time, in the topic's order. Refused at start where the driver has none.
    Sequential,
}

/// Where handlers run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Execution {
    /// On the runtime's threads: they must not block.
    #[default]
    Async,
    /// On threads of their own: they may block and burn CPU.
    Blocking,
}

/// Where dead letters go.
#[derive(Clone, Default)]
#[non_exhaustive]
pub enum DeadLetterTarget {
    /// To the driver's own store if it has one, else to the topic `<topic>.dlq` on the same broker.
    #[default]
    Default,
    /// To this topic on the same broker.
    Topic(ByteString),
    /// To this writer, as messages of the topic `<topic>.dlq`.
    Writer(Arc<dyn DynWriter>),
    /// Nowhere: what cannot be handled is dropped and counted as discarded.
    Discard,
}

impl fmt::Debug for DeadLetterTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("Default"),
            Self::Topic(topic) => f.debug_tuple("Topic").field(topic).finish(),
            Self::Writer(_) => f.write_str("Writer(..)"),
            Self::Discard => f.write_str("Discard"),
        }
    }
}

/// When failures count as an outage: a run of failures without a success in between, over several keys. Then
/// the subscription pauses, nothing uses attempts or is dead-lettered for failing, and one message at a time
/// probes.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Outage {
    /// Failures in a row. Default 20; 0 turns it off.
    pub failures: u32,
    /// Keys they are spread over, at least. Default 5.
    pub keys: u32,
    /// The wait before the first probe; doubles. Default 1 s.
    pub probe_first: Duration,
    /// The longest wait between probes. Default 30 s.
    pub probe_longest: Duration,
}

impl Default for Outage {
    fn default() -> Self {
        Self {
            failures: 20,
            keys: 5,
            probe_first: Duration::from_secs(1),
            probe_longest: Duration::from_secs(30),
        }
    }
}

impl Outage {
    /// Failures never count as an outage: they use attempts and end as dead letters.
    #[must_use]
    pub fn never() -> Self {
        Self { failures: 0, ..Self::default() }
    }

    /// So many failures in a row over so many keys.
    #[must_use]
    pub fn after(failures: u32, keys: u32) -> Self {
        Self { failures, keys: keys.max(1), ..Self::default() }
    }

    /// The waits between probes.
    #[must_use]
    pub fn probe(mut self, first: Duration, longest: Duration) -> Self {
        self.probe_first = first;
        self.probe_longest = longest.max(first);
        self
    }
}

/// How far finished messages may run ahead of the committed position of their partition. At the bound the
/// partition is not read further; after a crash at most this much is delivered again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct MaxGap {
    /// Messages. Default 100,000.
    pub messages: usize,
    /// Time since the oldest unfinished one was read. Default 10 min.
    pub age: Duration,
}

impl MaxGap {
    /// So many messages, or so long.
    #[must_use]
    pub fn new(messages: usize, age: Duration) -> Self {
        Self { messages, age }
    }
}

impl Default for MaxGap {
    fn default() -> Self {
        Self { messages: 100_000, age: Duration::from_secs(600) }
    }
}

/// How batches are collected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Batching {
    /// Messages at most. Default 100.
    pub max: usize,
    /// How long the first one waits for company. Default 10 ms; zero takes what is there.
    pub within: Duration,
}

impl Batching {
    /// At most so many, waiting so long.
    #[must_use]
    pub fn new(max: usize, within: Duration) -> Self {
        Self { max, within }
    }
}

impl Default for Batching {
    fn default() -> Self {
        Self { max: 100, within: Duration::from_millis(10) }
    }
}

/// What happens to a message that names another type than the handler takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OtherTypes {
    /// It is dead-lettered, class `decode`: nothing vanishes.
    #[default]
    DeadLetter,
    /// It is acknowledged and counted as discarded: another group takes it.
    Discard,
}
