//! Opening a subscription of a group: on its queue, which is subscribed to the topic.

use std::sync::Arc;

use millstream_core::{Capabilities, Error, OpenRequest, Opened, Reader, Result};

use super::topics::Topics;
use super::writer::DEAD_LETTERS;
use crate::sqs::leases::SqsLeases;
use crate::sqs::reader::{self, Starting};
use crate::sqs::settler::SqsSettler;
use crate::sqs::source::SqsSource;

/// Reads topics of SNS, each group by a queue of its own. Cloning shares it.
#[derive(Debug, Clone)]
pub struct SnsReader {
    topics: Arc<Topics>,
}

impl SnsReader {
    pub(crate) fn new(topics: Arc<Topics>) -> Self {
        Self { topics }
    }
}

impl Reader for SnsReader {
    type Source = SqsSource;
    type Settler = SqsSettler;
    type Leases = SqsLeases;

    fn capabilities(&self) -> Capabilities {
        let mut can = reader::capabilities(&self.topics.queues);
        can.groups = true;
        // A group gets what is published once its queue is subscribed.
        can.starts.earliest = false;
        can
    }

    async fn open(&self, request: OpenRequest) -> Result<Opened<SqsSource, SqsSettler, SqsLeases>> {
        let (topic, group) = (request.topic.clone(), request.group.clone());
        let locate = |error: Error| {
            let error = error.topic(&*topic);
            match &group {
                Some(group) => error.group(&**group),
                None => error,
            }
        };
        let name = reader::check(&request, Starting::WithTheSubscription).map_err(locate)?;
        let (topics, of, member) = (Arc::clone(&self.topics), topic.clone(), name.clone());
        let finding = self.topics.queues.aws.io().run(async move {
            if of.ends_with(DEAD_LETTERS) {
                return topics.queues.queue(&of).await;
            }
            let queue = topics.group_queue(&of, &member).await?;
            topics.ensure_subscribed(&of, &queue).await?;
            Ok(queue)
        });
        let queue = finding.await.and_then(|found| found).map_err(locate)?;
        reader::start(&self.topics.queues, queue, &name, &request).map_err(locate)
    }
}
