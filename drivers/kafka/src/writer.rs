//! Writing: one idempotent producer, whose reports end batches.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use millstream_core::{
    ByteString, Durability, Error, ErrorKind, Message, Result, WriteOutcome, WriteReport, Writer,
    WriterCapabilities,
};
use rdkafka::ClientContext;
use rdkafka::client::OAuthToken;
use rdkafka::config::{FromClientConfigAndContext as _, RDKafkaLogLevel};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::message::{DeliveryResult, Message as _};
use rdkafka::producer::{Producer as _, ProducerContext, ThreadedProducer};

use crate::batches::{BATCH_LIMIT, Batch, Batches};
use crate::cluster::{Cluster, Topic};
use crate::ears::Ears;
use crate::settings::Wire;
use crate::{cloudevents, errors, wire};

/// Messages of one call at most.
const MAX_BATCH: usize = 10_000;
const _: () = assert!(MAX_BATCH <= BATCH_LIMIT);

/// How long a full queue is waited for before it is looked at again, should no report come.
const ROOM_WITHIN: Duration = Duration::from_millis(50);

/// Writes to a cluster. Cloning shares it.
#[derive(Clone)]
pub struct KafkaWriter {
    inner: Arc<Inner>,
}

struct Inner {
    cluster: Arc<Cluster>,
    producer: ThreadedProducer<Reports>,
    batches: Arc<Batches>,
    closed: AtomicBool,
}

impl std::fmt::Debug for KafkaWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KafkaWriter").field("cluster", &self.inner.cluster).finish_non_exhaustive()
    }
}

/// Takes delivery reports to their batches.
pub(crate) struct Reports {
    batches: Arc<Batches>,
    ears: Ears,
}

impl Reports {
    pub(crate) fn new(batches: Arc<Batches>, ears: Ears) -> Self {
        Self { batches, ears }
    }
}

impl ClientContext for Reports {
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = true;

    fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        self.ears.log(level, facility, line);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.ears.hear(&error, reason);
    }

    fn generate_oauth_token(&self, _: Option<&str>) -> Result<OAuthToken, Box<dyn std::error::Error>> {
        self.ears.token()
    }
}

impl ProducerContext for Reports {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, opaque: usize) {
        let told = match result {
            Ok(record) => Ok(record.offset()),
            Err((error, _)) => Err(error.clone()),
        };
        self.batches.report(opaque, failure(told));
    }
}

/// Why a report is no confirmation, if it is none.
///
/// A broker's confirmation names a position. The client also reports success without one: of messages whose answer never
/// came, once a later batch of their partition is confirmed, since a broker takes no batch out of turn. But one that
/// never heard of this producer takes any batch first, and when a partition got a new leader while the first batch was
/// on its way to the old one, that is what happens, and the first batch is nowhere.
fn failure(told: Result<i64, KafkaError>) -> Option<KafkaError> {
    match told {
        Ok(0..) => None,
        Ok(_) => Some(KafkaError::NoMessageReceived),
        Err(error) => Some(error),
    }
}

impl KafkaWriter {
    pub(crate) fn new(cluster: Arc<Cluster>) -> Result<Self> {
        let batches = Arc::new(Batches::default());
        let reports = Reports::new(Arc::clone(&batches), cluster.ears.for_another());
        let producer = ThreadedProducer::from_config_and_context(&cluster.settings.producer(), reports)
            .map_err(|e| errors::settings(&e, "the settings of the producer were refused"))?;
        let inner = Inner { cluster, producer, batches, closed: AtomicBool::new(false) };
        Ok(Self { inner: Arc::new(inner) })
    }
}

impl KafkaWriter {
    /// Of each message, how many partitions its topic has, or why it cannot be written.
    pub(crate) async fn check_each(&self, batch: &[Message]) -> Vec<Result<u32>> {
        let topics = self.inner.topics(batch).await;
        batch.iter().map(|message| fits(message, &topics, &self.inner.cluster.settings.wire)).collect()
    }
}

impl Drop for Inner {
    // The client throws away what is on its way when it is dropped.
    fn drop(&mut self) {
        let left = self.producer.in_flight_count();
        if left > 0 {
            tracing::error!(
                left,
                "a writer was dropped with messages on their way, whose outcome nobody knows; close it"
            );
        }
    }
}

/// Ends the sender's part of a batch, also when the call is dropped.
struct Sending<'a> {
    batches: &'a Batches,
    batch: Arc<Batch>,
    /// Those that have no report to come, and the sender's own part.
    left: usize,
}

impl Drop for Sending<'_> {
    fn drop(&mut self) {
        self.batches.ended(&self.batch, self.left);
    }
}

/// What is known of the topics of a batch.
struct Topics {
    /// That of the first message, which most batches share.
    name: ByteString,
    first: Result<Topic>,
    others: HashMap<ByteString, Result<Topic>>,
}

impl Topics {
    fn of(&self, name: &ByteString) -> &Result<Topic> {
        if *name == self.name { &self.first } else { self.others.get(name).unwrap_or(&self.first) }
    }
}

impl Inner {
    fn closed() -> Error {
        Error::new(ErrorKind::BusIsShutdown, "the writer is closed").fix("open the connection anew")
    }

    /// Asks for the topics of a batch, for each once.
    async fn topics(&self, batch: &[Message]) -> Topics {
        let name = batch.first().map(|message| message.topic.clone()).unwrap_or_default();
        let first = self.cluster.target(&name).await;
        let mut topics = Topics { name, first, others: HashMap::new() };
        for message in batch {
            if message.topic != topics.name && !topics.others.contains_key(&message.topic) {
                let topic = self.cluster.target(&message.topic).await;
                topics.others.insert(message.topic.clone(), topic);
            }
        }
        topics
    }

    /// Hands a message to the producer, waiting while its queue is full.
    async fn send(&self, message: &Message, partitions: u32, opaque: usize) -> Result<(), KafkaError> {
        let settings = &self.cluster.settings;
        // It was asked about before.
        let refused = |_| KafkaError::MessageProduction(Code::InvalidMessage);
        let dressed = cloudevents::dress(message, &settings.wire).map_err(refused)?;
        let words = settings.dead_letter_headers;
        let send = || match self.producer.send(wire::record(&dressed, partitions, words, opaque)) {
            Ok(()) => Some(Ok(())),
            Err((error, _)) if error.rdkafka_error_code() == Some(Code::QueueFull) => None,
            Err((error, _)) => Some(Err(error)),
        };
        match send() {
            Some(sent) => sent,
            None => self.batches.retry(ROOM_WITHIN, send).await,
        }
    }

    /// What a report of failure means.
    fn outcome(&self, message: &Message, error: &KafkaError) -> WriteOutcome {
        if matches!(error, KafkaError::NoMessageReceived) {
            let what = "no broker confirmed the message: only a later one of its partition was confirmed";
            let error = Error::new(ErrorKind::Unknown, what).fix("write it again, with the same id");
            return WriteOutcome::Unknown(message.locate(error));
        }
        let told = errors::of(error, "the message was not confirmed");
        let told = message.locate(self.cluster.ears.explain(told));
        match error.rdkafka_error_code() {
            // These say that it is not there; all else may have been written before the answer was lost.
            Some(
                Code::MessageSizeTooLarge
                | Code::InvalidMessageSize
                | Code::InvalidRecord
                | Code::InvalidMessage
                | Code::InvalidTimestamp
                | Code::UnknownTopic
                | Code::UnknownTopicOrPartition
                | Code::UnknownPartition
                | Code::InvalidTopic
                | Code::TopicAuthorizationFailed
                | Code::ClusterAuthorizationFailed
                | Code::PolicyViolation
                | Code::NotEnoughReplicas
                | Code::PurgeQueue,
            ) => {
                // It may have been deleted or changed since it was asked for.
                self.cluster.forget(&message.topic);
                WriteOutcome::Failed(told)
            }
            _ => WriteOutcome::Unknown(told),
        }
    }
}

impl Writer for KafkaWriter {
    fn capabilities(&self) -> WriterCapabilities {
        let mut can = WriterCapabilities::minimal();
        // Brokers keep it in memory and sync later; that others have it too is the topic's replication.
        can.durability = Durability::Server;
        can.max_message = Some(self.inner.cluster.settings.max_message);
        can.max_batch = MAX_BATCH;
        can.store = Some(self.inner.cluster.store);
        can
    }

    async fn write(&self, batch: Vec<Message>) -> Result<WriteReport> {
        let inner = &*self.inner;
        if inner.closed.load(Ordering::Acquire) {
            return Err(Inner::closed());
        }
        let topics = inner.topics(&batch).await;
        let mut outcomes: Vec<(usize, WriteOutcome)> = Vec::new();
        let sent = {
            let begun = inner.batches.begin(batch.len());
            let mut sending = Sending { batches: &inner.batches, batch: begun, left: batch.len() + 1 };
            // Once more: from here on `close` sees this batch and waits for it.
            if inner.closed.load(Ordering::Acquire) {
                return Err(Inner::closed());
            }
            for (place, message) in batch.iter().enumerate() {
                let partitions = match fits(message, &topics, &inner.cluster.settings.wire) {
                    Ok(partitions) => partitions,
                    Err(error) => {
                        outcomes.push((place, WriteOutcome::Failed(error)));
                        continue;
                    }
                };
                match inner.send(message, partitions, sending.batch.opaque(place)).await {
                    Ok(()) => sending.left -= 1,
                    Err(error) => {
                        let error = message.locate(errors::of(&error, "the message was not taken"));
                        outcomes.push((place, WriteOutcome::Failed(error)));
                    }
                }
            }
            Arc::clone(&sending.batch)
        };
        sent.done().await;
        for (place, error) in sent.take_failed() {
            outcomes.push((place, inner.outcome(&batch[place], &error)));
        }
        if outcomes.is_empty() {
            return Ok(WriteReport::all_written(batch.len()));
        }
        let mut all: Vec<_> = batch.iter().map(|_| WriteOutcome::Written(None)).collect();
        for (place, outcome) in outcomes {
            all[place] = outcome;
        }
        Ok(WriteReport::each(all))
    }

    async fn check(&self, batch: &[Message]) -> Result<WriteReport> {
        let checked = self.check_each(batch).await.into_iter();
        let outcome = |fits: Result<u32>| match fits {
            Ok(_) => WriteOutcome::Written(None),
            Err(error) => WriteOutcome::Failed(error),
        };
        Ok(WriteReport::each(checked.map(outcome).collect()))
    }

    async fn close(&self) -> Result<()> {
        let inner = &*self.inner;
        inner.closed.store(true, Ordering::Release);
        // Each ends within the time a write may take, confirmed or not, and whoever wrote it is told.
        let ends = async {
            while !inner.batches.is_idle() {
                let _ = tokio::time::timeout(ROOM_WITHIN, inner.batches.idle.notified()).await;
            }
        };
        let within = inner.cluster.settings.write_within + Duration::from_secs(5);
        if tokio::time::timeout(within, ends).await.is_ok() {
            return Ok(());
        }
        let left = inner.producer.in_flight_count();
        Err(Error::new(ErrorKind::Unknown, format!("{left} messages were not confirmed within {within:?}"))
            .fix("look whether the brokers run; write these messages again with the same ids"))
    }
}

/// How many partitions the topic of a message has, if it can be written there.
fn fits(message: &Message, topics: &Topics, wire: &Wire) -> Result<u32> {
    let fits = match topics.of(&message.topic) {
        Ok(topic) => wire::check(message, topic, wire).map(|()| topic.partitions),
        Err(error) => Err(again(error)),
    };
    fits.map_err(|error| message.locate(error))
}

/// The same error for another message.
pub(crate) fn again(error: &Error) -> Error {
    let context = error.context();
    let copy = Error::new(error.kind(), context.message.clone());
    match &context.fix {
        Some(fix) => copy.fix(fix.clone()),
        None => copy,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_success_without_a_position_is_what_the_client_concludes_and_no_confirmation() {
        assert!(failure(Ok(0)).is_none());
        // What the client writes where it has no position: -1001.
        assert!(matches!(failure(Ok(-1_001)), Some(KafkaError::NoMessageReceived)));
        assert!(matches!(failure(Err(KafkaError::Canceled)), Some(KafkaError::Canceled)));
    }
}
