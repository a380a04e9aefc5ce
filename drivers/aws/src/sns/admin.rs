//! Looking into topics of SNS and the queues of their groups.

use std::sync::Arc;

use aws_sdk_sqs::types::QueueAttributeName as Name;
use bytestring::ByteString;
use millstream_core::admin::{Finding, GroupInfo, StoredDeadLetter, TopicInfo, TopicSettings, Weight};
use millstream_core::{Admin, Error, ErrorKind, Result, Start};

use super::topics::Topics;
use super::writer::DEAD_LETTERS;
use crate::sqs::admin::{figures, purge, unbrowsable, unsupported};
use crate::sqs::doctor;
use crate::sqs::names::FIFO;
use crate::sqs::queues::Queue;

/// Administers topics of SNS and the queues of their groups. Cloning shares it.
#[derive(Debug, Clone)]
pub struct SnsAdmin {
    topics: Arc<Topics>,
}

/// The queue of a group, and the group's name as far as the queue's tells it.
struct Member {
    group: ByteString,
    queue: Queue,
}

impl SnsAdmin {
    pub(crate) fn new(topics: Arc<Topics>) -> Self {
        Self { topics }
    }

    /// Runs on the thread that talks to AWS.
    async fn run<T, F>(&self, work: impl FnOnce(Arc<Topics>) -> F) -> Result<T>
    where
        T: Send + 'static,
        F: Future<Output = Result<T>> + Send + 'static,
    {
        self.topics.queues.aws.io().run(work(Arc::clone(&self.topics))).await?
    }
}

/// Where a topic is, which is not made.
async fn existing(topics: &Topics, topic: &ByteString) -> Result<String> {
    let name = topics.name(topic)?;
    topics.find(&name).await?.ok_or_else(|| {
        Error::new(ErrorKind::NotFound, format!("there is no topic {name:?} of SNS"))
            .topic(&**topic)
            .fix("check its name, region and account")
    })
}

/// The queues that are subscribed to a topic.
async fn members(topics: &Topics, topic: &ByteString) -> Result<Vec<Member>> {
    let arn = existing(topics, topic).await?;
    let stem = topics.name(topic)?;
    let stem = stem.trim_end_matches(FIFO);
    let mut members = Vec::new();
    for subscription in topics.subscriptions(&arn).await? {
        if subscription.protocol.as_deref() != Some("sqs") {
            continue;
        }
        let endpoint = subscription.endpoint.unwrap_or_default();
        let name = endpoint.rsplit(':').next().unwrap_or_default().to_owned();
        let Some(url) = topics.queues.url(&name).await? else { continue };
        let short = name.trim_end_matches(FIFO);
        let group = short.strip_prefix(stem).and_then(|rest| rest.strip_prefix('-')).unwrap_or(short);
        let queue = Queue { fifo: name.ends_with(FIFO), url, limit: 0, name: name.clone() };
        let group = topics.queues.group(&queue).unwrap_or_else(|| group.into());
        members.push(Member { group, queue });
    }
    members.sort_by(|a, b| a.group.cmp(&b.group));
    Ok(members)
}

impl Admin for SnsAdmin {
    /// Topics of SNS have no partitions: the settings are not looked at. Dead letters have a queue.
    async fn ensure_topic(&self, topic: &str, _: TopicSettings) -> Result<bool> {
        let topic = ByteString::from(topic);
        self.run(async move |topics| {
            if topic.ends_with(DEAD_LETTERS) {
                let name = topics.queues.name(&topic)?;
                return match topics.queues.url(&name).await? {
                    Some(_) => Ok(false),
                    None => Ok(topics.queues.make(&name, &topic).await?.1),
                };
            }
            let name = topics.name(&topic)?;
            if topics.find(&name).await?.is_some() {
                return Ok(false);
            }
            topics.make(&name).await.map_err(|e| e.topic(&*topic))?;
            Ok(true)
        })
        .await
    }

    /// They hold no messages: their groups' queues do. One that was not used here has its own name, with dashes.
    async fn topics(&self) -> Result<Vec<TopicInfo>> {
        self.run(async move |topics| {
            let arns = topics.all().await?;
            let name = |arn: &String| topics.topic(arn.rsplit(':').next().unwrap_or_default());
            let mut infos: Vec<_> = arns.iter().map(|arn| TopicInfo::new(name(arn))).collect();
            infos.sort_by(|a, b| a.name.cmp(&b.name));
            Ok(infos)
        })
        .await
    }

    async fn groups(&self, topic: &str) -> Result<Vec<GroupInfo>> {
        let topic = ByteString::from(topic);
        self.run(async move |topics| {
            let mut groups = Vec::new();
            for member in members(&topics, &topic).await? {
                groups.push(figures(&topics.queues, &member.queue.url).await?.group(member.group));
            }
            Ok(groups)
        })
        .await
    }

    async fn seek(&self, topic: &str, group: &str, _: Start) -> Result<()> {
        let what = "a queue keeps no messages that were handled, so there is nowhere to go back to";
        unsupported(topic, what, "publish them again").map_err(|e: Error| e.group(group))
    }

    /// Of all groups.
    async fn purge(&self, topic: &str) -> Result<u64> {
        let topic = ByteString::from(topic);
        self.run(async move |topics| {
            let mut count = 0;
            for member in members(&topics, &topic).await? {
                count += purge(&topics.queues, &member.queue.url, &topic).await?;
            }
            Ok(count)
        })
        .await
    }

    async fn dead_letters(&self, topic: &str, _: Option<u64>, _: usize) -> Result<Vec<StoredDeadLetter>> {
        unbrowsable(topic)
    }

    async fn remove_dead_letter(&self, topic: &str, _: u64) -> Result<bool> {
        unbrowsable(topic)
    }

    async fn diagnose(&self, topic: &str) -> Result<Vec<Finding>> {
        let topic = ByteString::from(topic);
        self.run(async move |topics| {
            let members = members(&topics, &topic).await?;
            let mut found = Vec::new();
            if members.is_empty() {
                found.push(Finding::new(
                    Weight::Danger,
                    "no queue is subscribed: SNS throws away what is published",
                    "start a subscription, or call `Sns::subscribe`, before anything is published",
                ));
            }
            for member in members {
                let said = topics.queues.attributes(&member.queue.url, &[Name::All]).await?;
                for mut finding in doctor::diagnose(&member.queue, &said, &topics.queues.settings) {
                    finding.what = format!("group {:?}: {}", &*member.group, finding.what);
                    found.push(finding);
                }
            }
            found.sort_by_key(|finding| finding.weight);
            Ok(found)
        })
        .await
    }
}
