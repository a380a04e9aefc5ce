//! Writing to queues.

use std::collections::HashMap;
use std::sync::Arc;

use aws_sdk_sqs::types::{MessageAttributeValue, SendMessageBatchRequestEntry};
use aws_smithy_runtime_api::client::result::SdkError;
use aws_smithy_types::error::operation::BuildError;
use bytestring::ByteString;
use millstream_core::{
    Durability, Error, ErrorKind, Message, Result, WriteReport, Writer, WriterCapabilities,
};
use tokio::sync::RwLock;

use crate::errors::Failure;
use crate::retry::{Repeat, Tries};
use crate::sqs::batches::{self, Answer, Ended, Entry, Refusal, Sending, Target};
use crate::sqs::names::Queues;
use crate::sqs::queues::{Known, Queue};
use crate::sqs::settings::LONGEST_DELAY;
use crate::sqs::wire::Times;

/// Messages of one call at most.
pub(crate) const MAX_BATCH: usize = 1_000;

/// Writes to queues. Cloning shares it.
#[derive(Debug, Clone)]
pub struct SqsWriter {
    known: Arc<Known>,
    /// Whether it is closed. Whoever writes holds it for reading.
    closed: Arc<RwLock<bool>>,
}

impl SqsWriter {
    pub(crate) fn new(known: Arc<Known>) -> Self {
        Self { known, closed: Arc::new(RwLock::new(false)) }
    }
}

impl Writer for SqsWriter {
    fn capabilities(&self) -> WriterCapabilities {
        let mut can = WriterCapabilities::minimal();
        can.durability = Durability::Replicated;
        // A FIFO queue delays all of its messages or none.
        can.delay = (self.known.settings.queues == Queues::Standard).then_some(LONGEST_DELAY);
        can.max_message = Some(self.known.settings.max_message);
        can.max_batch = MAX_BATCH;
        can
    }

    async fn write(&self, batch: Vec<Message>) -> Result<WriteReport> {
        let open = Arc::clone(&self.closed).read_owned().await;
        if *open {
            return Err(closed());
        }
        let known = Arc::clone(&self.known);
        // It runs to its end even if the caller does not wait: no request is cut, and `close` waits for it.
        let writing = self.known.aws.io().run(async move {
            // Large, and made where it is used: what is handed over is small.
            let ended = Box::pin(write(&known, (0..batch.len()).collect(), &batch)).await;
            drop(open);
            (ended, batch)
        });
        // The messages end on the thread they come from: memory that two threads give back to each other has them wait for
        // each other's locks.
        let (ended, batch) = writing.await?;
        Ok(batches::report(ended, &batch))
    }

    async fn close(&self) -> Result<()> {
        *self.closed.write().await = true;
        Ok(())
    }
}

pub(crate) fn closed() -> Error {
    Error::new(ErrorKind::BusIsShutdown, "the writer is closed").fix("write before it is closed")
}

/// The places of messages in a call, by topic.
pub(crate) fn by_topic(which: Vec<usize>, batch: &[Message]) -> HashMap<&ByteString, Vec<usize>> {
    // Nearly always all are for one.
    if let Some((first, others)) = which.split_first() {
        let topic = &batch[*first].topic;
        if others.iter().all(|index| batch[*index].topic == *topic) {
            return HashMap::from([(topic, which)]);
        }
    }
    let mut topics: HashMap<_, Vec<usize>> = HashMap::new();
    for index in which {
        topics.entry(&batch[index].topic).or_default().push(index);
    }
    topics
}

/// Writes some messages of a call to any number of queues, those beside each other.
pub(crate) async fn write(known: &Known, which: Vec<usize>, batch: &[Message]) -> Ended {
    let writing = by_topic(which, batch).into_iter().map(|(topic, which)| async move {
        let queue = match known.queue(topic).await {
            Ok(queue) => queue,
            Err(error) => return batches::none(which, &error),
        };
        let target = To { known, queue: &queue, topic };
        let sending = Sending { target: &target, io: known.aws.io(), within: known.settings.write_within };
        sending.all(which, batch).await
    });
    batches::together(writing.collect()).await
}

/// A queue that is written to.
struct To<'a> {
    known: &'a Known,
    queue: &'a Queue,
    topic: &'a ByteString,
}

impl Target for To<'_> {
    fn fifo(&self) -> bool {
        self.queue.fifo
    }

    fn delays(&self) -> bool {
        !self.queue.fifo
    }

    fn limit(&self) -> usize {
        self.queue.limit
    }

    fn times(&self) -> Times {
        Times::Millis
    }

    async fn send(
        &self,
        entries: &[Entry<'_>],
        tries: &mut Tries,
        repeat: Repeat,
    ) -> Result<Answer, Failure> {
        let what = "the message was not written";
        // Built for each attempt: nearly always there is one, and a copy for another would cost as much.
        let asked = self.known.calls.ask(tries, repeat, what, |client| async move {
            let request: Result<_, _> = entries.iter().enumerate().map(|(id, e)| of_entry(id, e)).collect();
            let request = request.map_err(SdkError::construction_failure)?;
            client.send_message_batch().queue_url(&self.queue.url).set_entries(Some(request)).send().await
        });
        let answer = asked.await?;
        Ok(Answer {
            written: answer.successful.into_iter().map(|written| written.id).collect(),
            refused: answer
                .failed
                .into_iter()
                .map(|refused| Refusal {
                    id: refused.id,
                    code: refused.code,
                    message: refused.message.unwrap_or_default(),
                    sender_fault: refused.sender_fault,
                })
                .collect(),
        })
    }

    fn gone(&self) {
        self.known.forget(self.topic);
    }
}

/// An entry as SQS wants it. Its id is its index.
fn of_entry(id: usize, entry: &Entry<'_>) -> Result<SendMessageBatchRequestEntry, BuildError> {
    let mut attributes = HashMap::with_capacity(entry.wired.attributes.len());
    for (name, value) in &entry.wired.attributes {
        let value = MessageAttributeValue::builder().data_type("String").string_value(&**value).build()?;
        attributes.insert(name.to_string(), value);
    }
    let mut request = SendMessageBatchRequestEntry::builder()
        .id(id.to_string())
        .message_body(&*entry.wired.body)
        .set_message_attributes((!attributes.is_empty()).then_some(attributes))
        .set_delay_seconds(entry.delay);
    if let Some(order) = &entry.order {
        request = request.message_group_id(&order.group).message_deduplication_id(&order.dedup);
    }
    request.build()
}
