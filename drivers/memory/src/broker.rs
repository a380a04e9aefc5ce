//! The broker: topics by name, and what they are bounded by.

use std::fmt;
use std::sync::{Arc, LazyLock, PoisonError};
use std::time::Duration;

use foldhash::{HashMap, HashMapExt};
use millstream_core::{ByteString, Connection, Error, ErrorKind, Limits, Result};

use crate::group::FAR;
use crate::sync::RwLock;
use crate::topic::{self, Topic};
use crate::{MemoryAdmin, MemoryReader, MemoryWriter};

/// A broker inside this process. Cloning shares it; it lives as long as a clone or a part of it does.
///
/// ```
/// use std::time::Duration;
/// use millstream_memory::MemoryBroker;
///
/// let broker = MemoryBroker::builder().capacity(10_000).write_timeout(Duration::from_secs(5)).build();
/// let connection = broker.connection();
/// # drop(connection);
/// ```
#[derive(Clone)]
pub struct MemoryBroker {
    shared: Arc<Shared>,
}

/// What readers, writers and admins of one broker share.
#[derive(Debug)]
pub(crate) struct Shared {
    settings: Settings,
    topics: RwLock<Topics>,
}

#[derive(Debug)]
struct Topics {
    by_name: HashMap<ByteString, Arc<Topic>>,
    shut: bool,
}

/// What a topic is bounded by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Settings {
    pub(crate) capacity: usize,
    pub(crate) bytes: usize,
    pub(crate) write_timeout: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self { capacity: 100_000, bytes: 256 << 20, write_timeout: Duration::from_secs(30) }
    }
}

/// The brokers that the process knows by name.
static NAMED: LazyLock<std::sync::Mutex<HashMap<String, MemoryBroker>>> = LazyLock::new(Default::default);

impl MemoryBroker {
    /// A broker of its own with the default bounds.
    #[must_use]
    pub fn new() -> Self {
        Self::builder().build()
    }

    /// A broker with bounds of your choice.
    pub fn builder() -> MemoryBrokerBuilder {
        MemoryBrokerBuilder { settings: Settings::default() }
    }

    /// The broker of this name, the one that `memory://name` connects to. All of this process who name it
    /// share it. It is made when it is first named, with the default bounds, and lives until the process
    /// ends or it is [shut down](Self::shutdown).
    #[must_use]
    pub fn named(name: &str) -> Self {
        let mut named = NAMED.lock().unwrap_or_else(PoisonError::into_inner);
        named.entry(name.to_owned()).or_default().clone()
    }

    /// The same with bounds, which must be those it has if it is there already.
    pub(crate) fn named_with(name: &str, capacity: Option<usize>, bytes: Option<usize>) -> Result<Self> {
        let mut named = NAMED.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(broker) = named.get(name) else {
            let broker = Self::with(capacity, bytes);
            named.insert(name.to_owned(), broker.clone());
            return Ok(broker);
        };
        let Settings { capacity: messages, bytes: size, .. } = broker.shared.settings;
        if capacity.is_some_and(|c| c != messages) || bytes.is_some_and(|b| b != size) {
            return Err(Error::new(
                ErrorKind::Conflict,
                format!("memory://{name} exists already, with capacity={messages} and bytes={size}"),
            )
            .fix("give all who name it the same bounds, or only the first"));
        }
        Ok(broker.clone())
    }

    /// A broker of its own; what is not said has its default.
    pub(crate) fn with(capacity: Option<usize>, bytes: Option<usize>) -> Self {
        let Settings { capacity: messages, bytes: size, .. } = Settings::default();
        Self::builder().capacity(capacity.unwrap_or(messages)).bytes(bytes.unwrap_or(size)).build()
    }

    /// Opens subscriptions.
    #[must_use]
    pub fn reader(&self) -> MemoryReader {
        MemoryReader::new(Arc::clone(&self.shared))
    }

    /// Writes. Each writer is closed on its own.
    #[must_use]
    pub fn writer(&self) -> MemoryWriter {
        MemoryWriter::new(Arc::clone(&self.shared))
    }

    /// Looks into topics and groups.
    #[must_use]
    pub fn admin(&self) -> MemoryAdmin {
        MemoryAdmin::new(Arc::clone(&self.shared))
    }

    /// A reader, a writer and an admin, as `memory://` gives them.
    #[must_use]
    pub fn connection(&self) -> Connection {
        Connection::new(self.reader(), self.writer()).with_admin(self.admin())
    }

    /// Ends it for all who share it: every read comes back with [`Read::End`](millstream_core::Read::End),
    /// every write and open fails with [`BusIsShutdown`](ErrorKind::BusIsShutdown), and its name is free
    /// again. What was not settled is gone with it. Settling goes on. Again does nothing.
    pub fn shutdown(&self) {
        NAMED
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .retain(|_, broker| !Arc::ptr_eq(&broker.shared, &self.shared));
        let topics = {
            let mut topics = self.shared.topics.write().unwrap_or_else(PoisonError::into_inner);
            topics.shut = true;
            topics.by_name.values().cloned().collect::<Vec<_>>()
        };
        topics.iter().for_each(|topic| topic.shut());
    }
}

impl Default for MemoryBroker {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for MemoryBroker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Settings { capacity, bytes, write_timeout } = self.shared.settings;
        f.debug_struct("MemoryBroker")
            .field("capacity", &capacity)
            .field("bytes", &bytes)
            .field("write_timeout", &write_timeout)
            .finish_non_exhaustive()
    }
}

/// Sets what the topics of a broker are bounded by.
#[derive(Debug, Clone)]
#[must_use = "it makes nothing before `build`"]
pub struct MemoryBrokerBuilder {
    settings: Settings,
}

impl MemoryBrokerBuilder {
    /// Messages a topic holds at most, delayed ones included. Default 100,000; 0 is taken as 1.
    pub fn capacity(mut self, messages: usize) -> Self {
        self.settings.capacity = messages.max(1);
        self
    }

    /// Bytes a topic holds at most, as [`Message::size`](millstream_core::Message::size) counts; a larger
    /// message is refused as [`TooLarge`](ErrorKind::TooLarge). Default 256 MiB; 0 is taken as 1.
    pub fn bytes(mut self, bytes: usize) -> Self {
        self.settings.bytes = bytes.max(1);
        self
    }

    /// How long a write waits for room in a full topic that somebody reads, before it fails as
    /// [`Full`](ErrorKind::Full). Default 30 s.
    pub fn write_timeout(mut self, timeout: Duration) -> Self {
        self.settings.write_timeout = timeout.min(FAR);
        self
    }

    /// Makes the broker.
    #[must_use]
    pub fn build(self) -> MemoryBroker {
        let topics = RwLock::new(Topics { by_name: HashMap::new(), shut: false });
        MemoryBroker { shared: Arc::new(Shared { settings: self.settings, topics }) }
    }
}

impl Shared {
    pub(crate) fn settings(&self) -> Settings {
        self.settings
    }

    /// The topic of this name, if there is one.
    pub(crate) fn find(&self, name: &str) -> Option<Arc<Topic>> {
        self.topics.read().unwrap_or_else(PoisonError::into_inner).by_name.get(name).cloned()
    }

    /// The topic of this name; says whether it was made now.
    pub(crate) fn topic(&self, name: &str) -> Result<(Arc<Topic>, bool)> {
        if let Some(topic) = self.find(name) {
            return Ok((topic, false));
        }
        // How long a name may be is the publisher's to say; here only what is no name is refused.
        let mut limits = Limits::default();
        limits.topic = usize::MAX;
        limits.check_topic(name)?;
        let mut topics = self.topics.write().unwrap_or_else(PoisonError::into_inner);
        if topics.shut {
            return Err(topic::shut());
        }
        if let Some(topic) = topics.by_name.get(name) {
            return Ok((Arc::clone(topic), false));
        }
        let name = ByteString::from(name);
        let topic = Arc::new(Topic::new(name.clone(), self.settings));
        topics.by_name.insert(name, Arc::clone(&topic));
        Ok((topic, true))
    }

    /// All topics, by name.
    pub(crate) fn all(&self) -> Vec<Arc<Topic>> {
        let topics = self.topics.read().unwrap_or_else(PoisonError::into_inner);
        let mut all: Vec<_> = topics.by_name.values().cloned().collect();
        drop(topics);
        all.sort_unstable_by(|a, b| a.name().cmp(b.name()));
        all
    }
}
