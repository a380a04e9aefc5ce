//! Administration of a memory broker.

use std::sync::Arc;

use millstream_core::admin::{GroupInfo, StoredDeadLetter, TopicInfo, TopicSettings};
use millstream_core::{Admin, Error, ErrorKind, Result, Start};

use crate::broker::Shared;
use crate::topic::Topic;

/// Looks into a [`MemoryBroker`](crate::MemoryBroker) and puts it in order. Cloning shares it.
///
/// All figures are exact. The dead letters of a topic are the messages of the topic `<topic>.dlq`; their ids
/// are their positions there.
#[derive(Debug, Clone)]
pub struct MemoryAdmin {
    shared: Arc<Shared>,
}

impl MemoryAdmin {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    fn topic(&self, name: &str) -> Result<Arc<Topic>> {
        self.shared.find(name).ok_or_else(|| {
            Error::new(ErrorKind::NotFound, "there is no such topic")
                .topic(name)
                .fix("write to it, subscribe to it or make it with `ensure_topic`")
        })
    }

    fn dead_letter_topic(&self, topic: &str) -> Option<Arc<Topic>> {
        self.shared.find(&format!("{topic}.dlq"))
    }
}

impl Admin for MemoryAdmin {
    async fn ensure_topic(&self, topic: &str, settings: TopicSettings) -> Result<bool> {
        if settings.partitions.is_some_and(|partitions| partitions != 1) {
            return Err(Error::new(ErrorKind::Unsupported, "the memory driver has no partitions")
                .topic(topic)
                .fix("leave their number out"));
        }
        self.shared.topic(topic).map(|(_, made)| made)
    }

    async fn topics(&self) -> Result<Vec<TopicInfo>> {
        let info = |topic: &Arc<Topic>| {
            let mut info = TopicInfo::new(topic.name().clone());
            info.messages = topic.len();
            info.dead_letters = self.dead_letter_topic(topic.name()).map_or(0, |dead| dead.len());
            info
        };
        Ok(self.shared.all().iter().map(info).collect())
    }

    async fn groups(&self, topic: &str) -> Result<Vec<GroupInfo>> {
        let mut groups = self.topic(topic)?.groups();
        groups.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        Ok(groups)
    }

    async fn group(&self, topic: &str, group: &str) -> Result<Option<GroupInfo>> {
        Ok(self.topic(topic)?.group(group))
    }

    async fn seek(&self, topic: &str, group: &str, to: Start) -> Result<()> {
        self.topic(topic)?.seek(group, to)
    }

    async fn purge(&self, topic: &str) -> Result<u64> {
        Ok(self.topic(topic)?.purge())
    }

    async fn dead_letters(
        &self,
        topic: &str,
        after: Option<u64>,
        limit: usize,
    ) -> Result<Vec<StoredDeadLetter>> {
        Ok(self.dead_letter_topic(topic).map_or_else(Vec::new, |dead| dead.page(after, limit)))
    }

    async fn remove_dead_letter(&self, topic: &str, id: u64) -> Result<bool> {
        Ok(self.dead_letter_topic(topic).is_some_and(|dead| dead.remove(id)))
    }
}
