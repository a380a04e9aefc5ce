//! Which event type goes to which topic.

use std::any::{TypeId, type_name};
use std::sync::{Arc, PoisonError, RwLock};

use foldhash::HashMap;
use millstream_core::{ByteString, Error, ErrorKind, Event, Limits, Result};

/// Event type ↔ topic. Cloning shares it.
///
/// A registered topic goes before the event's own [`Event::TOPIC`]; an event needs only one of them. A type
/// has one topic, a topic may carry several types.
///
/// ```
/// use millstream::{Event, EventRegistry};
/// #[derive(Event, serde::Serialize, serde::Deserialize)]
/// struct Shipped { order: u64 }
///
/// let registry = EventRegistry::new();
/// registry.register::<Shipped>("orders.shipped")?;
/// assert_eq!(registry.topic_of::<Shipped>()?, "orders.shipped");
/// assert!(registry.register::<Shipped>("elsewhere").is_err(), "a contradiction");
/// # Ok::<(), millstream::Error>(())
/// ```
#[derive(Debug, Clone, Default)]
pub struct EventRegistry {
    topics: Arc<RwLock<HashMap<TypeId, Entry>>>,
    limits: Arc<Limits>,
}

#[derive(Debug)]
struct Entry {
    topic: ByteString,
    type_name: &'static str,
}

impl EventRegistry {
    /// An empty registry.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// An empty registry that holds topic names to other limits than the default ones.
    #[must_use]
    pub fn with_limits(limits: Limits) -> Self {
        Self { topics: Arc::default(), limits: Arc::new(limits) }
    }

    /// Says that events of type `E` go to this topic. Saying it again is fine.
    ///
    /// # Errors
    /// [`Conflict`](ErrorKind::Conflict) if `E` is registered with another topic, and what
    /// [`Limits::check_topic`] says of the name.
    pub fn register<E: Event>(&self, topic: impl Into<ByteString>) -> Result<()> {
        let topic = topic.into();
        self.limits.check_topic(&topic)?;
        let mut topics = self.topics.write().unwrap_or_else(PoisonError::into_inner);
        let entry = topics
            .entry(TypeId::of::<E>())
            .or_insert_with(|| Entry { topic: topic.clone(), type_name: type_name::<E>() });
        if entry.topic == topic {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::Conflict,
            format!(
                "the event `{}` is registered with the topic {:?}, so it cannot have the topic {topic:?} as well",
                entry.type_name, entry.topic
            ),
        )
        .topic(&*topic)
        .fix(format!(
            "use the topic {:?}, a type of its own for {topic:?}, or a handler that takes `Message` and calls `decode`",
            entry.topic
        )))
    }

    /// Registers the event's own topic, unless the type is registered already; gives the topic it has then.
    ///
    /// # Errors
    /// As [`topic_of`](Self::topic_of), and what [`Limits::check_topic`] says of the name.
    pub fn register_own<E: Event>(&self) -> Result<ByteString> {
        let topic = self.topic_of::<E>()?;
        self.register::<E>(topic.clone())?;
        Ok(topic)
    }

    /// The topic of this type: the registered one, else its own. Does not allocate.
    ///
    /// # Errors
    /// [`EventNotFound`](ErrorKind::EventNotFound) with neither.
    pub fn topic_of<E: Event>(&self) -> Result<ByteString> {
        let topics = self.topics.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(entry) = topics.get(&TypeId::of::<E>()) {
            return Ok(entry.topic.clone());
        }
        E::TOPIC.map(ByteString::from_static).ok_or_else(|| {
            Error::new(ErrorKind::EventNotFound, format!("the event `{}` has no topic", type_name::<E>()))
                .fix(
                    "add `#[event(topic = \"…\")]` to it, or name one: `registry.register::<…>(\"…\")`, \
                 `publish_to(\"…\", …)`, `subscribe_to(\"…\", …)`",
                )
        })
    }

    /// The names of the types registered with a topic, in order.
    #[must_use]
    pub fn types_of(&self, topic: &str) -> Vec<&'static str> {
        let topics = self.topics.read().unwrap_or_else(PoisonError::into_inner);
        let mut types: Vec<_> = topics.values().filter(|e| e.topic == topic).map(|e| e.type_name).collect();
        types.sort_unstable();
        types
    }

    /// All registered topics, in order, each once.
    #[must_use]
    pub fn topics(&self) -> Vec<ByteString> {
        let topics = self.topics.read().unwrap_or_else(PoisonError::into_inner);
        let mut names: Vec<_> = topics.values().map(|e| e.topic.clone()).collect();
        names.sort_unstable();
        names.dedup();
        names
    }
}
