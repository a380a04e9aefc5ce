//! Writing to topics of SNS. What must not get lost goes to a queue: SNS throws away what nobody is subscribed to.

use std::sync::Arc;

use aws_sdk_sns::types::{MessageAttributeValue, PublishBatchRequestEntry};
use aws_smithy_runtime_api::client::result::SdkError;
use aws_smithy_types::error::operation::BuildError;
use bytestring::ByteString;
use futures_util::future::join;
use millstream_core::{Durability, Message, Result, WriteReport, Writer, WriterCapabilities};
use tokio::sync::RwLock;

use super::topics::Topics;
use crate::errors::Failure;
use crate::retry::{Repeat, Tries};
use crate::sqs::batches::{self, Answer, Ended, Entry, Refusal, Sending, Target};
use crate::sqs::names::FIFO;
use crate::sqs::settings::USUAL_LIMIT;
use crate::sqs::wire::Times;
use crate::sqs::writer::{self, MAX_BATCH, closed};

/// How the topics of dead letters end: these are queues.
pub(crate) const DEAD_LETTERS: &str = ".dlq";

/// Writes to topics of SNS, and dead letters to queues. Cloning shares it.
#[derive(Debug, Clone)]
pub struct SnsWriter {
    topics: Arc<Topics>,
    /// Whether it is closed. Whoever writes holds it for reading.
    closed: Arc<RwLock<bool>>,
}

impl SnsWriter {
    pub(crate) fn new(topics: Arc<Topics>) -> Self {
        Self { topics, closed: Arc::new(RwLock::new(false)) }
    }
}

impl Writer for SnsWriter {
    fn capabilities(&self) -> WriterCapabilities {
        let mut can = WriterCapabilities::minimal();
        can.durability = Durability::Replicated;
        can.max_message = Some(self.topics.queues.settings.max_message.min(USUAL_LIMIT));
        can.max_batch = MAX_BATCH;
        can
    }

    async fn write(&self, batch: Vec<Message>) -> Result<WriteReport> {
        let open = Arc::clone(&self.closed).read_owned().await;
        if *open {
            return Err(closed());
        }
        let topics = Arc::clone(&self.topics);
        // It runs to its end even if the caller does not wait: no request is cut, and `close` waits for it.
        let writing = self.topics.queues.aws.io().run(async move {
            let (dead, published): (Vec<_>, Vec<_>) =
                (0..batch.len()).partition(|index| batch[*index].topic.ends_with(DEAD_LETTERS));
            let queued = writer::write(&topics.queues, dead, &batch);
            let (mut ended, queued) = Box::pin(join(write(&topics, published, &batch), queued)).await;
            ended.extend(queued);
            drop(open);
            (ended, batch)
        });
        let (ended, batch) = writing.await?;
        Ok(batches::report(ended, &batch))
    }

    async fn close(&self) -> Result<()> {
        *self.closed.write().await = true;
        Ok(())
    }
}

async fn write(topics: &Topics, which: Vec<usize>, batch: &[Message]) -> Ended {
    let writing = writer::by_topic(which, batch).into_iter().map(|(topic, which)| async move {
        let arn = match topics.arn(topic).await {
            Ok(arn) => arn,
            Err(error) => return batches::none(which, &error),
        };
        let target = To { topics, arn: &arn, topic };
        let settings = &topics.queues.settings;
        let io = topics.queues.aws.io();
        Sending { target: &target, io, within: settings.write_within }.all(which, batch).await
    });
    batches::together(writing.collect()).await
}

/// A topic that is written to.
struct To<'a> {
    topics: &'a Topics,
    arn: &'a str,
    topic: &'a ByteString,
}

impl Target for To<'_> {
    fn fifo(&self) -> bool {
        self.arn.ends_with(FIFO)
    }

    fn delays(&self) -> bool {
        false
    }

    fn limit(&self) -> usize {
        self.topics.queues.settings.max_message.min(USUAL_LIMIT)
    }

    fn times(&self) -> Times {
        Times::Rfc3339
    }

    async fn send(
        &self,
        entries: &[Entry<'_>],
        tries: &mut Tries,
        repeat: Repeat,
    ) -> Result<Answer, Failure> {
        let what = "the message was not published";
        // Built for each attempt: nearly always there is one, and a copy for another would cost as much.
        let asked = self.topics.sns.ask(tries, repeat, what, |client| async move {
            let request: Result<_, _> = entries.iter().enumerate().map(|(id, e)| of_entry(id, e)).collect();
            let request = request.map_err(SdkError::construction_failure)?;
            let publish = client.publish_batch().topic_arn(self.arn);
            publish.set_publish_batch_request_entries(Some(request)).send().await
        });
        let answer = asked.await?;
        Ok(Answer {
            written: answer
                .successful
                .unwrap_or_default()
                .into_iter()
                .filter_map(|written| written.id)
                .collect(),
            refused: answer
                .failed
                .unwrap_or_default()
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
        self.topics.forget(self.topic);
    }
}

/// An entry as SNS wants it. Its id is its index.
fn of_entry(id: usize, entry: &Entry<'_>) -> Result<PublishBatchRequestEntry, BuildError> {
    let mut request = PublishBatchRequestEntry::builder().id(id.to_string()).message(&*entry.wired.body);
    if let Some(order) = &entry.order {
        request = request.message_group_id(&order.group).message_deduplication_id(&order.dedup);
    }
    for (name, value) in &entry.wired.attributes {
        let value = MessageAttributeValue::builder().data_type("String").string_value(&**value).build()?;
        request = request.message_attributes(&**name, value);
    }
    request.build()
}
