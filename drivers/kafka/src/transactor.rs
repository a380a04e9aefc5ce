//! Transactions: messages, and positions of a group, that are there together or not at all.
//!
//! A broker knows a transactional producer by its id. A producer that cannot go on is dropped, and the next one with its
//! id makes the brokers end what it left open, one way or the other, before anything new begins.

use std::sync::Arc;
use std::time::{Duration, Instant};

use millstream_core::{Error, ErrorKind, Message, Result};
use rdkafka::TopicPartitionList;
use rdkafka::config::FromClientConfigAndContext as _;
use rdkafka::consumer::ConsumerGroupMetadata;
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode as Code};
use rdkafka::producer::{Producer as _, ThreadedProducer};
use tokio::runtime::Handle;
use tokio::time::timeout;

use crate::batches::Batches;
use crate::cluster::Cluster;
use crate::settings::ANSWER_WITHIN;
use crate::writer::Reports;
use crate::{cloudevents, errors, wire};

/// How long a full queue is waited for before it is looked at again.
const ROOM_WITHIN: Duration = Duration::from_millis(50);

/// How long to wait before a call is repeated that can be.
const AGAIN: Duration = Duration::from_millis(20);

/// Runs one transaction after another. All its methods block.
pub(crate) struct Transactor {
    cluster: Arc<Cluster>,
    id: String,
    producer: Option<ThreadedProducer<Reports>>,
    batches: Arc<Batches>,
}

/// A message, and how many partitions its topic has.
pub(crate) type Emitted<'a> = (&'a Message, u32);

/// Positions that commit with the messages.
pub(crate) struct Positions {
    pub(crate) list: TopicPartitionList,
    pub(crate) group: ConsumerGroupMetadata,
}

/// How a transaction ended.
#[derive(Debug)]
pub(crate) enum Ended {
    Committed,
    /// Nothing of it is there.
    Aborted(Error),
    /// All of it is there or nothing: the brokers know once the next one has begun.
    Unknown(Error),
}

impl std::fmt::Debug for Transactor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Transactor").field("id", &self.id).finish_non_exhaustive()
    }
}

/// What is to be done about a failure.
enum Remedy {
    Again,
    Abort,
    /// The producer cannot go on.
    Drop,
}

fn remedy(error: &KafkaError) -> Remedy {
    match error {
        KafkaError::Transaction(told) if told.is_fatal() => Remedy::Drop,
        KafkaError::Transaction(told) if told.txn_requires_abort() => Remedy::Abort,
        KafkaError::Transaction(told) if told.is_retriable() => Remedy::Again,
        // A call in the wrong state: what the client thinks of the transaction is not what we do.
        KafkaError::Transaction(_) => Remedy::Drop,
        _ => Remedy::Abort,
    }
}

impl Transactor {
    pub(crate) fn new(cluster: Arc<Cluster>, id: String) -> Self {
        Self { cluster, id, producer: None, batches: Arc::new(Batches::default()) }
    }

    /// Sees that there is a producer, and that whatever the last one left open has ended.
    ///
    /// # Errors
    /// If the brokers do not say so in time.
    pub(crate) fn ready(&mut self) -> Result<()> {
        if self.producer.is_some() {
            return Ok(());
        }
        // Reports of the last producer must not reach the batches of the next.
        self.batches = Arc::new(Batches::default());
        let reports = Reports::new(Arc::clone(&self.batches), self.cluster.ears.for_another());
        let config = self.cluster.settings.transactional(&self.id);
        let producer = ThreadedProducer::from_config_and_context(&config, reports)
            .map_err(|e| errors::settings(&e, "the settings of the transactional producer were refused"))?;
        let begun = Self::repeat(Instant::now() + ANSWER_WITHIN, |left| producer.init_transactions(left));
        begun.map_err(|e| errors::of(&e, "no transaction can be begun"))?;
        self.producer = Some(producer);
        Ok(())
    }

    /// Ends it. What is still open is taken back, by the brokers if nobody else does.
    pub(crate) fn close(&mut self) {
        self.producer = None;
    }

    /// Writes all of these messages and commits these positions, or does neither.
    pub(crate) fn run(&mut self, messages: &[Emitted<'_>], positions: Option<&Positions>) -> Ended {
        if let Err(error) = self.ready() {
            return Ended::Aborted(error);
        }
        let until = Instant::now() + ANSWER_WITHIN;
        let Some(producer) = &self.producer else {
            return Ended::Aborted(Error::new(ErrorKind::Internal, "there is no producer"));
        };
        if let Err(error) = producer.begin_transaction() {
            self.producer = None;
            return Ended::Aborted(errors::of(&error, "no transaction can be begun"));
        }
        let prepared = self.send(producer, messages, until).and_then(|()| match positions {
            None => Ok(()),
            Some(positions) => Self::repeat(until, |left| {
                producer.send_offsets_to_transaction(&positions.list, &positions.group, left)
            }),
        });
        if let Err(error) = prepared {
            self.abort(&error);
            return Ended::Aborted(errors::of(&error, "the transaction was taken back"));
        }
        match Self::repeat(until, |left| producer.commit_transaction(left)) {
            Ok(()) => Ended::Committed,
            Err(error) => {
                let told = errors::of(&error, "the transaction was not committed");
                if matches!(remedy(&error), Remedy::Abort) {
                    self.abort(&error);
                    return Ended::Aborted(told);
                }
                self.producer = None;
                Ended::Unknown(told)
            }
        }
    }

    /// Hands messages over and waits until the brokers have them: to commit sooner would wait in steps of 100 ms.
    fn send(
        &self,
        producer: &ThreadedProducer<Reports>,
        messages: &[Emitted<'_>],
        until: Instant,
    ) -> KafkaResult<()> {
        let batch = self.batches.begin(messages.len());
        let mut taken = 0;
        let sent: KafkaResult<()> = messages.iter().enumerate().try_for_each(|(place, emitted)| {
            self.send_one(producer, *emitted, batch.opaque(place), until)?;
            taken += 1;
            Ok(())
        });
        // Those that were not taken have no report to come, and we are done sending.
        self.batches.ended(&batch, messages.len() - taken + 1);
        sent?;
        let late = || KafkaError::MessageProduction(Code::MessageTimedOut);
        let left = until.saturating_duration_since(Instant::now());
        Handle::current().block_on(timeout(left, batch.done())).map_err(|_| late())?;
        match batch.take_failed().into_iter().next() {
            None => Ok(()),
            Some((_, error)) => Err(error),
        }
    }

    fn send_one(
        &self,
        producer: &ThreadedProducer<Reports>,
        (message, partitions): Emitted<'_>,
        opaque: usize,
        until: Instant,
    ) -> KafkaResult<()> {
        let settings = &self.cluster.settings;
        // It was asked about before.
        let refused = |_| KafkaError::MessageProduction(Code::InvalidMessage);
        let dressed = cloudevents::dress(message, &settings.wire).map_err(refused)?;
        let words = settings.dead_letter_headers;
        let send = || match producer.send(wire::record(&dressed, partitions, words, opaque)) {
            Err((error, _))
                if error.rdkafka_error_code() == Some(Code::QueueFull) && Instant::now() < until =>
            {
                None
            }
            sent => Some(sent.map_err(|(error, _)| error)),
        };
        match send() {
            Some(sent) => sent,
            None => Handle::current().block_on(self.batches.retry(ROOM_WITHIN, send)),
        }
    }

    /// Takes back what was begun. A producer that cannot even do that is dropped: the next one does it.
    fn abort(&mut self, cause: &KafkaError) {
        let Some(producer) = &self.producer else { return };
        let until = Instant::now() + ANSWER_WITHIN;
        let lost = matches!(remedy(cause), Remedy::Drop)
            || Self::repeat(until, |left| producer.abort_transaction(left)).is_err();
        if lost {
            self.producer = None;
        }
    }

    /// Calls again what can be called again, as long as there is time.
    fn repeat(until: Instant, mut call: impl FnMut(Duration) -> KafkaResult<()>) -> KafkaResult<()> {
        loop {
            let left = until.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
            let Err(error) = call(left) else { return Ok(()) };
            if !matches!(remedy(&error), Remedy::Again) || Instant::now() + AGAIN >= until {
                return Err(error);
            }
            std::thread::sleep(AGAIN);
        }
    }
}
