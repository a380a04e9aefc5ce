//! Administration: what topics there are, and their dead letters.

use std::collections::BTreeMap;
use std::sync::Arc;

use millstream_core::admin::{GroupInfo, StoredDeadLetter, TopicInfo, TopicSettings};
use millstream_core::{Admin, ByteString, Error, ErrorKind, Result, Start};

use crate::names::{Holds, Number};
use crate::store::Store;
use crate::wire;

/// Looks into a place of objects. Cloning shares it.
///
/// The dead letters of a topic are the messages of the topic `<topic>.dlq` (`<stem>.dlq.fifo` for `<stem>.fifo`) that lie
/// alone in their objects. The number of one says when and under which mark it lies there.
#[derive(Debug, Clone)]
pub struct ObjectsAdmin {
    store: Arc<Store>,
}

/// The name of a topic's dead letters, as the toolkit gives it.
fn dead_letters_of(topic: &str) -> String {
    match topic.strip_suffix(".fifo") {
        Some(stem) => format!("{stem}.dlq.fifo"),
        None => format!("{topic}.dlq"),
    }
}

/// The topic whose dead letters these are, if they are any.
fn dead_of(topic: &str) -> Option<String> {
    match topic.strip_suffix(".dlq.fifo") {
        Some(stem) => Some(format!("{stem}.fifo")),
        None => topic.strip_suffix(".dlq").map(str::to_owned),
    }
}

/// What is said of a topic.
fn info(topics: &mut BTreeMap<ByteString, TopicInfo>, name: String) -> &mut TopicInfo {
    let name = ByteString::from(name);
    topics.entry(name.clone()).or_insert_with(|| TopicInfo::new(name))
}

impl ObjectsAdmin {
    pub(crate) fn new(store: Arc<Store>) -> Self {
        Self { store }
    }
}

impl Admin for ObjectsAdmin {
    /// Topics are there once they hold something.
    async fn ensure_topic(&self, topic: &str, _: TopicSettings) -> Result<bool> {
        self.store.names.topic(topic).map(|_| false)
    }

    /// Counts object by object. A topic whose dead letters are here is named, whether it is itself or not.
    async fn topics(&self) -> Result<Vec<TopicInfo>> {
        let mut topics: BTreeMap<ByteString, TopicInfo> = BTreeMap::new();
        for name in self.store.topics().await? {
            let count = self.store.count(&name).await?;
            if let Some(source) = dead_of(&name) {
                info(&mut topics, source).dead_letters = count.alone;
            }
            info(&mut topics, name).messages = count.messages;
        }
        Ok(topics.into_values().collect())
    }

    /// Nobody subscribes, so there is none.
    async fn groups(&self, _: &str) -> Result<Vec<GroupInfo>> {
        Ok(Vec::new())
    }

    async fn seek(&self, topic: &str, group: &str, _: Start) -> Result<()> {
        Err(Error::new(ErrorKind::Unsupported, "an object store has no groups")
            .topic(topic)
            .group(group)
            .fix("move the group on the broker of the subscription"))
    }

    async fn purge(&self, topic: &str) -> Result<u64> {
        self.store.purge(topic).await.map_err(|e| e.topic(topic))
    }

    /// An object that is not a message is logged as an error and left out; it stays where it is.
    async fn dead_letters(
        &self,
        topic: &str,
        after: Option<u64>,
        limit: usize,
    ) -> Result<Vec<StoredDeadLetter>> {
        let name = dead_letters_of(topic);
        let mut after = after.map(Number);
        loop {
            let page = self.store.page(&name, after, limit).await.map_err(|e| e.topic(&name))?;
            let Some(last) = page.last() else { return Ok(Vec::new()) };
            after = Some(last.number);
            let read = self.store.get_all(page).await.map_err(|e| e.topic(&name))?;
            let mut letters = Vec::with_capacity(read.len());
            for (listed, bytes) in read {
                match wire::decode(&bytes) {
                    Ok(message) => letters.push(StoredDeadLetter::new(listed.number.0, message)),
                    Err(error) => {
                        let error = self.store.damaged(&listed.key, error);
                        tracing::error!(topic = name, %error, "a dead letter is left out");
                    }
                }
            }
            // An empty page is the end for those who ask.
            if !letters.is_empty() {
                return Ok(letters);
            }
        }
    }

    /// Of two who remove it at the same time, both may hear that it was there.
    async fn remove_dead_letter(&self, topic: &str, id: u64) -> Result<bool> {
        let name = dead_letters_of(topic);
        let key = self.store.names.key(&name, Number(id), Holds::One)?;
        self.store.remove(&key).await.map_err(|e| e.topic(&name))
    }
}
