//! Looking into a broker and putting it in order: topics, groups, lag, seek, purge, dead letters.

use std::time::SystemTime;

use bytestring::ByteString;

use crate::{Message, PartitionId, Position, Result, Start};

/// Administration, for drivers that can. Methods a driver cannot serve return
/// [`Unsupported`](crate::ErrorKind::Unsupported).
pub trait Admin: Send + Sync + 'static {
    /// Makes sure that a topic exists; says whether it was made now.
    ///
    /// # Errors
    /// If it does not exist and cannot be made.
    fn ensure_topic(&self, topic: &str, settings: TopicSettings)
    -> impl Future<Output = Result<bool>> + Send;

    /// All topics, by name.
    ///
    /// # Errors
    /// If the broker cannot be asked.
    fn topics(&self) -> impl Future<Output = Result<Vec<TopicInfo>>> + Send;

    /// One topic, if it is there. A driver that can look at one alone does: a cluster may have thousands.
    ///
    /// # Errors
    /// If the broker cannot be asked.
    fn topic(&self, topic: &str) -> impl Future<Output = Result<Option<TopicInfo>>> + Send {
        async move { Ok(self.topics().await?.into_iter().find(|info| *info.name == *topic)) }
    }

    /// The groups of a topic, by name.
    ///
    /// # Errors
    /// [`NotFound`](crate::ErrorKind::NotFound) without such a topic.
    fn groups(&self, topic: &str) -> impl Future<Output = Result<Vec<GroupInfo>>> + Send;

    /// One group of a topic, if it is there. A driver that can look at one alone does: each subscription asks for its own
    /// every few seconds.
    ///
    /// # Errors
    /// [`NotFound`](crate::ErrorKind::NotFound) without such a topic.
    fn group(&self, topic: &str, group: &str) -> impl Future<Output = Result<Option<GroupInfo>>> + Send {
        async move { Ok(self.groups(topic).await?.into_iter().find(|info| *info.name == *group)) }
    }

    /// Moves a group that nobody reads for at this time.
    ///
    /// # Errors
    /// [`Conflict`](crate::ErrorKind::Conflict) while it has members.
    fn seek(&self, topic: &str, group: &str, to: Start) -> impl Future<Output = Result<()>> + Send;

    /// Deletes all messages of a topic; says how many.
    ///
    /// # Errors
    /// If the broker cannot.
    fn purge(&self, topic: &str) -> impl Future<Output = Result<u64>> + Send;

    /// A page of a topic's dead letters, oldest first, from behind `after` on.
    ///
    /// # Errors
    /// If the broker cannot be asked.
    fn dead_letters(
        &self,
        topic: &str,
        after: Option<u64>,
        limit: usize,
    ) -> impl Future<Output = Result<Vec<StoredDeadLetter>>> + Send;

    /// Removes a dead letter for good; says whether it was there.
    ///
    /// # Errors
    /// If the broker cannot.
    fn remove_dead_letter(&self, topic: &str, id: u64) -> impl Future<Output = Result<bool>> + Send;

    /// Looks for settings of the broker's that endanger what the toolkit promises for a topic: worst first. A driver whose
    /// broker has none finds nothing.
    ///
    /// # Errors
    /// [`NotFound`](crate::ErrorKind::NotFound) without such a topic, or if the broker cannot be asked.
    fn diagnose(&self, topic: &str) -> impl Future<Output = Result<Vec<Finding>>> + Send {
        let _ = topic;
        std::future::ready(Ok(Vec::new()))
    }
}

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Weight {
    /// Messages can be lost, or are being lost.
    Danger,
    /// It holds as long as nothing breaks.
    Warning,
    /// Good to know.
    Note,
}

/// Something that [`Admin::diagnose`] found.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Finding {
    /// How bad it is.
    pub weight: Weight,
    /// What was found, and what follows from it.
    pub what: String,
    /// What to do about it.
    pub fix: String,
}

impl Finding {
    /// A finding with its fix.
    pub fn new(weight: Weight, what: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { weight, what: what.into(), fix: fix.into() }
    }
}

/// How a topic is made.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct TopicSettings {
    /// Partitions; `None`: the broker's default.
    pub partitions: Option<u32>,
}

impl TopicSettings {
    /// With so many partitions.
    #[must_use]
    pub fn partitions(partitions: u32) -> Self {
        Self { partitions: Some(partitions) }
    }
}

/// A topic as the broker sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct TopicInfo {
    /// Its name.
    pub name: ByteString,
    /// Its partitions; 1 where there are none.
    pub partitions: u32,
    /// Messages it holds, as well as the broker knows.
    pub messages: u64,
    /// Dead letters it holds natively, as well as the broker knows.
    pub dead_letters: u64,
}

impl TopicInfo {
    /// A topic of which only the name is known.
    pub fn new(name: impl Into<ByteString>) -> Self {
        Self { name: name.into(), partitions: 1, messages: 0, dead_letters: 0 }
    }
}

/// A group as the broker sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct GroupInfo {
    /// Its name.
    pub name: ByteString,
    /// Members reading now.
    pub members: u32,
    /// Messages not yet settled.
    pub lag: u64,
    /// Messages delivered and not settled.
    pub in_flight: u64,
    /// Messages parked natively.
    pub parked: u64,
    /// When the oldest unsettled message was published.
    pub oldest: Option<SystemTime>,
    /// The committed position of each partition, where there are positions.
    pub committed: Vec<(PartitionId, Position)>,
}

impl GroupInfo {
    /// A group of which only the name is known.
    pub fn new(name: impl Into<ByteString>) -> Self {
        Self {
            name: name.into(),
            members: 0,
            lag: 0,
            in_flight: 0,
            parked: 0,
            oldest: None,
            committed: Vec::new(),
        }
    }
}

/// A dead letter in its store.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct StoredDeadLetter {
    /// Names it in its topic's store; ascending.
    pub id: u64,
    /// The message with its `millstream-dl-*` headers.
    pub message: Message,
}

impl StoredDeadLetter {
    /// A dead letter under this id.
    #[must_use]
    pub fn new(id: u64, message: Message) -> Self {
        Self { id, message }
    }
}
