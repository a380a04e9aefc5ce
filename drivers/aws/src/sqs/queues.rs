//! The queues of topics: found by name, made if they are missing, and remembered.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use aws_sdk_sqs::types::QueueAttributeName as Name;
use bytestring::ByteString;
use millstream_core::{Error, ErrorKind, Result};

use crate::aws::{Aws, Purpose};
use crate::create::Create;
use crate::errors::Failure;
use crate::retry::{Repeat, Tries};
use crate::sqs::client::Sqs;
use crate::sqs::names::{self, FIFO, Kind, Taken};
use crate::sqs::settings::{Settings, USUAL_LIMIT};
use crate::sqs::shelf::Shelf;

/// The tag that says what topic a queue is of: its name has dashes for dots.
pub(crate) const TOPIC_TAG: &str = "millstream-topic";

/// How long questions about queues are tried.
const ASK_WITHIN: Duration = Duration::from_secs(10);

/// A queue.
#[derive(Debug)]
pub(crate) struct Queue {
    pub(crate) name: String,
    pub(crate) url: String,
    pub(crate) fifo: bool,
    /// Bytes of a message, and of a batch.
    pub(crate) limit: usize,
}

/// The queues of a connection.
#[derive(Debug)]
pub(crate) struct Known {
    pub(crate) aws: Aws,
    pub(crate) calls: Sqs,
    pub(crate) settings: Settings,
    taken: Taken,
    queues: Mutex<HashMap<ByteString, Arc<Queue>>>,
    /// Who reads a queue, by its name: there is one group to a queue.
    groups: Mutex<HashMap<String, (ByteString, Weak<Shelf>)>>,
}

impl Known {
    pub(crate) fn new(aws: Aws, settings: Settings) -> Self {
        let calls = Sqs::new(&aws, Purpose::Calls);
        let (taken, queues, groups) = (Taken::default(), Mutex::default(), Mutex::default());
        Self { aws, calls, settings, taken, queues, groups }
    }

    fn tries(&self) -> Tries {
        Tries::within(ASK_WITHIN.min(self.settings.write_within))
    }

    /// The queue's name, if a topic may have it.
    pub(crate) fn name(&self, topic: &ByteString) -> Result<String> {
        let name = names::of(topic, Kind::Queue, self.settings.queues)?;
        self.taken.take(&name, topic)?;
        Ok(name)
    }

    /// The topic that a name stands for, if it was seen.
    pub(crate) fn topic(&self, name: &str) -> Option<ByteString> {
        self.taken.topic(name)
    }

    /// The queue of a topic, made if it is missing and may be made.
    pub(crate) async fn queue(&self, topic: &ByteString) -> Result<Arc<Queue>> {
        if let Some(queue) = self.queues.lock().unwrap_or_else(PoisonError::into_inner).get(topic) {
            return Ok(Arc::clone(queue));
        }
        let locate = |e: Error| e.topic(&**topic);
        let name = self.name(topic).map_err(locate)?;
        let url = match self.url(&name).await? {
            Some(url) => url,
            None if self.settings.create == Create::Missing => {
                self.make(&name, topic).await.map_err(locate)?.0
            }
            None => {
                return Err(Error::new(
                    ErrorKind::NotFound,
                    format!("there is no queue {name:?} in {}", self.aws.region()),
                )
                .topic(&**topic)
                .fix("make it, or leave `create` at missing in the URL; and check region and account"));
            }
        };
        let limit = match self.settings.create {
            Create::Assume => USUAL_LIMIT,
            _ => self.limit(&url).await.map_err(locate)?,
        };
        let limit = limit.min(self.settings.max_message);
        let queue = Arc::new(Queue { fifo: name.ends_with(FIFO), name, url, limit });
        let mut queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
        queues.insert(topic.clone(), Arc::clone(&queue));
        Ok(queue)
    }

    /// Forgets a queue that is not there any more, so that the next one to ask looks again.
    pub(crate) fn forget(&self, topic: &ByteString) {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner).remove(topic);
    }

    /// Where a queue is; none if it is not there.
    pub(crate) async fn url(&self, name: &str) -> Result<Option<String>> {
        let mut tries = self.tries();
        let what = "the queue cannot be asked for";
        let asked = self
            .calls
            .ask(&mut tries, Repeat::Anything, what, |c| c.get_queue_url().queue_name(name).send())
            .await;
        match asked {
            Ok(answer) => Ok(answer.queue_url),
            Err(Failure { error, .. }) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(Failure { error, .. }) => Err(error.topic(name)),
        }
    }

    /// Makes a queue; gives its address, and whether it was made now as far as can be told.
    pub(crate) async fn make(&self, name: &str, topic: &str) -> Result<(String, bool)> {
        let mut tries = self.tries();
        let retention = self.settings.retention_age.as_secs().to_string();
        let made = self
            .calls
            .ask(&mut tries, Repeat::Anything, "the queue was not made", |client| {
                let request = client
                    .create_queue()
                    .queue_name(name)
                    .attributes(Name::MessageRetentionPeriod, &retention)
                    .tags(TOPIC_TAG, topic);
                match name.ends_with(FIFO) {
                    true => request.attributes(Name::FifoQueue, "true").send(),
                    false => request.send(),
                }
            })
            .await;
        match made {
            Ok(answer) => {
                let url = answer.queue_url.ok_or_else(|| {
                    Error::new(ErrorKind::Internal, "a queue was made, and its address was not said")
                        .topic(topic)
                        .fix("try again: it is there now")
                })?;
                tracing::info!(topic, queue = name, "aws: a queue was made");
                Ok((url, true))
            }
            // Somebody else made it meanwhile, with other settings than ours.
            Err(Failure { error, .. }) if error.kind() == ErrorKind::Conflict => {
                self.url(name).await?.map(|url| (url, false)).ok_or(error)
            }
            Err(Failure { error, .. }) => Err(error),
        }
    }

    /// Bytes that a queue takes.
    async fn limit(&self, url: &str) -> Result<usize> {
        let said = self.attributes(url, &[Name::MaximumMessageSize]).await?;
        let said = said.get(&Name::MaximumMessageSize).and_then(|bytes| bytes.parse().ok());
        Ok(said.unwrap_or(USUAL_LIMIT))
    }

    /// Settings and figures of a queue.
    pub(crate) async fn attributes(&self, url: &str, names: &[Name]) -> Result<HashMap<Name, String>> {
        let mut tries = self.tries();
        let what = "the settings of the queue cannot be asked for";
        let asked = self
            .calls
            .ask(&mut tries, Repeat::Anything, what, |client| {
                client.get_queue_attributes().queue_url(url).set_attribute_names(Some(names.to_vec())).send()
            })
            .await;
        match asked {
            Ok(answer) => Ok(answer.attributes.unwrap_or_default()),
            Err(Failure { error, .. }) if error.kind() == ErrorKind::Denied => {
                Err(error.fix("allow sqs:GetQueueAttributes, or say create=assume in the URL"))
            }
            Err(Failure { error, .. }) => Err(error),
        }
    }

    /// The group that reads a queue from here.
    pub(crate) fn group(&self, queue: &Queue) -> Option<ByteString> {
        let groups = self.groups.lock().unwrap_or_else(PoisonError::into_inner);
        groups.get(&queue.name).map(|(group, _)| group.clone())
    }

    /// Notes that a group reads a queue. Two groups would share its messages, where each is to get all.
    pub(crate) fn read_by(&self, queue: &Queue, group: &ByteString, shelf: &Arc<Shelf>) -> Result<()> {
        let mut groups = self.groups.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((other, reading)) = groups.get(&queue.name)
            && other != group
            && reading.upgrade().is_some_and(|shelf| !shelf.is_closing())
        {
            return Err(Error::new(
                ErrorKind::Conflict,
                format!(
                    "the group {other:?} reads this queue already, and each message goes to one of the two"
                ),
            )
            .fix("read it by one group; or use sns://, where each group has a queue of its own"));
        }
        groups.insert(queue.name.clone(), (group.clone(), Arc::downgrade(shelf)));
        Ok(())
    }
}
