//! Looking into queues and putting them in order.

use std::sync::Arc;
use std::time::Duration;

use aws_sdk_sqs::types::QueueAttributeName as Name;
use bytestring::ByteString;
use futures_util::StreamExt as _;
use futures_util::stream;
use millstream_core::admin::{Finding, GroupInfo, StoredDeadLetter, TopicInfo, TopicSettings};
use millstream_core::{Admin, Error, ErrorKind, Result, Start};

use crate::errors::Failure;
use crate::retry::{Repeat, Tries};
use crate::sqs::doctor;
use crate::sqs::names::FIFO;
use crate::sqs::queues::{Known, Queue, TOPIC_TAG};

/// Questions about queues beside each other.
const BESIDE: usize = 16;

/// How long a question is tried.
const ASK_WITHIN: Duration = Duration::from_secs(10);

/// Administers queues. Cloning shares it.
#[derive(Debug, Clone)]
pub struct SqsAdmin {
    known: Arc<Known>,
}

/// What is in a queue, as well as SQS knows.
pub(crate) struct Figures {
    visible: u64,
    in_flight: u64,
    delayed: u64,
}

impl Figures {
    fn all(&self) -> u64 {
        self.visible + self.in_flight + self.delayed
    }

    pub(crate) fn group(&self, name: impl Into<ByteString>) -> GroupInfo {
        let mut group = GroupInfo::new(name);
        (group.lag, group.in_flight) = (self.all(), self.in_flight);
        group
    }
}

impl SqsAdmin {
    pub(crate) fn new(known: Arc<Known>) -> Self {
        Self { known }
    }

    /// Runs on the thread that talks to AWS.
    async fn run<T, F>(&self, work: impl FnOnce(Arc<Known>) -> F) -> Result<T>
    where
        T: Send + 'static,
        F: Future<Output = Result<T>> + Send + 'static,
    {
        self.known.aws.io().run(work(Arc::clone(&self.known))).await?
    }
}

pub(crate) fn unsupported<T>(topic: &str, what: &str, fix: &str) -> Result<T> {
    Err(Error::new(ErrorKind::Unsupported, what).topic(topic).fix(fix))
}

/// The queue of a topic, which is not made.
pub(crate) async fn existing(known: &Known, topic: &ByteString) -> Result<Queue> {
    let name = known.name(topic)?;
    match known.url(&name).await? {
        Some(url) => Ok(Queue { fifo: name.ends_with(FIFO), name, url, limit: 0 }),
        None => Err(Error::new(ErrorKind::NotFound, format!("there is no queue {name:?}"))
            .topic(&**topic)
            .fix("check its name, region and account")),
    }
}

pub(crate) async fn figures(known: &Known, url: &str) -> Result<Figures> {
    let names = [
        Name::ApproximateNumberOfMessages,
        Name::ApproximateNumberOfMessagesNotVisible,
        Name::ApproximateNumberOfMessagesDelayed,
    ];
    let said = known.attributes(url, &names).await?;
    let number = |name: &Name| said.get(name).and_then(|n| n.parse().ok()).unwrap_or(0);
    let [visible, in_flight, delayed] = [&names[0], &names[1], &names[2]].map(number);
    Ok(Figures { visible, in_flight, delayed })
}

/// All queues' addresses.
async fn list(known: &Known) -> Result<Vec<String>> {
    let mut urls = Vec::new();
    let mut token: Option<String> = None;
    loop {
        let mut tries = Tries::within(ASK_WITHIN);
        let what = "the queues cannot be listed";
        let asked = known.calls.ask(&mut tries, Repeat::Anything, what, |client| {
            client.list_queues().max_results(1_000).set_next_token(token.clone()).send()
        });
        let page = asked.await.map_err(|failure: Failure| failure.error)?;
        urls.extend(page.queue_urls.unwrap_or_default());
        token = page.next_token;
        if token.is_none() {
            return Ok(urls);
        }
    }
}

/// A queue as a topic.
async fn topic_info(known: &Known, url: String) -> Result<TopicInfo> {
    let name = url.rsplit('/').next().unwrap_or_default().to_owned();
    let topic = match known.topic(&name) {
        Some(topic) => topic,
        None => tagged(known, &url).await.unwrap_or_else(|| name.into()),
    };
    let mut info = TopicInfo::new(topic);
    info.messages = figures(known, &url).await?.all();
    Ok(info)
}

/// The topic that a queue was made for. Who may not ask sees the queue's own name.
async fn tagged(known: &Known, url: &str) -> Option<ByteString> {
    let mut tries = Tries::within(ASK_WITHIN);
    let asked = known
        .calls
        .ask(&mut tries, Repeat::Anything, "tags", |client| client.list_queue_tags().queue_url(url).send());
    asked.await.ok()?.tags?.remove(TOPIC_TAG).map(Into::into)
}

/// Throws away what is in a queue; says how much that was before.
pub(crate) async fn purge(known: &Known, url: &str, topic: &str) -> Result<u64> {
    let count = figures(known, url).await?.all();
    let mut tries = Tries::within(ASK_WITHIN);
    let what = "the queue was not purged";
    let asked = known
        .calls
        .ask(&mut tries, Repeat::Anything, what, |client| client.purge_queue().queue_url(url).send());
    asked.await.map(|_| count).map_err(|failure: Failure| failure.error.topic(topic))
}

/// Why dead letters of a queue cannot be looked at here.
pub(crate) fn unbrowsable<T>(topic: &str) -> Result<T> {
    unsupported(
        topic,
        "a queue cannot be browsed: whoever receives a message hides it from the others, and counts as a delivery",
        "keep dead letters elsewhere with `.dead_letter_to(writer)`; or read `<topic>.dlq` by a subscription",
    )
}

impl Admin for SqsAdmin {
    /// Queues have no partitions: the settings are not looked at.
    async fn ensure_topic(&self, topic: &str, _: TopicSettings) -> Result<bool> {
        let topic = ByteString::from(topic);
        self.run(async move |known| {
            let name = known.name(&topic)?;
            match known.url(&name).await? {
                Some(_) => Ok(false),
                None => Ok(known.make(&name, &topic).await?.1),
            }
        })
        .await
    }

    /// A queue that was not made here has its own name, with dashes.
    async fn topics(&self) -> Result<Vec<TopicInfo>> {
        self.run(async move |known| {
            let urls = list(&known).await?;
            let mut asking =
                stream::iter(urls.into_iter().map(|url| topic_info(&known, url))).buffer_unordered(BESIDE);
            let mut topics = Vec::new();
            while let Some(topic) = asking.next().await {
                match topic {
                    Ok(topic) => topics.push(topic),
                    // Deleted since it was listed.
                    Err(error) if error.kind() == ErrorKind::NotFound => {}
                    Err(error) => return Err(error),
                }
            }
            topics.sort_by(|a, b| a.name.cmp(&b.name));
            Ok(topics)
        })
        .await
    }

    /// One, whose name SQS does not know: the queue's.
    async fn groups(&self, topic: &str) -> Result<Vec<GroupInfo>> {
        let topic = ByteString::from(topic);
        self.run(async move |known| {
            let queue = existing(&known, &topic).await?;
            let name = known.group(&queue).unwrap_or_else(|| queue.name.clone().into());
            Ok(vec![figures(&known, &queue.url).await?.group(name)])
        })
        .await
    }

    async fn seek(&self, topic: &str, group: &str, _: Start) -> Result<()> {
        unsupported(
            topic,
            "a queue keeps no messages that were handled, so there is nowhere to go back to",
            "publish them again",
        )
        .map_err(|e: Error| e.group(group))
    }

    /// SQS takes up to a minute for it, and does it once a minute. The number is from before.
    async fn purge(&self, topic: &str) -> Result<u64> {
        let topic = ByteString::from(topic);
        self.run(async move |known| {
            let queue = existing(&known, &topic).await?;
            purge(&known, &queue.url, &topic).await
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
        self.run(async move |known| {
            let queue = existing(&known, &topic).await?;
            let said = known.attributes(&queue.url, &[Name::All]).await?;
            Ok(doctor::diagnose(&queue, &said, &known.settings))
        })
        .await
    }
}
