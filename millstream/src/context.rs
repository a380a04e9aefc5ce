//! What a handler runs with: the message, its history, and what it wants to leave with its success.

use std::any::{Any, TypeId};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use millstream_core::{
    ByteString, Codecs, Effect, Effects, Error, ErrorKind, Message, Origin, PartitionId, Position, Result,
};

use crate::Publisher;

/// One message on its way through a handler. The window keeps it, a run has a copy: the message itself is shared.
#[derive(Debug, Clone)]
pub(crate) struct Item {
    pub(crate) message: Arc<Message>,
    pub(crate) origin: Origin,
    /// Runs of the handler, this one included.
    pub(crate) attempt: u32,
    /// The broker's count; 0 where it does not count.
    pub(crate) deliveries: u32,
}

/// What goes with the first of a batch: nearly always nothing, which takes little to say.
pub(crate) type Others<T> = Option<Box<[T]>>;

/// What layers and extractors see of a run: the message (or the batch), where it came from, and what the
/// handler queued.
///
/// A layer wraps [`Handler::call`](crate::Handler::call) and may look at everything here; an extractor of
/// your own implements [`FromContext`](crate::FromContext).
pub struct Context {
    pub(crate) item: Item,
    pub(crate) subscription: Arc<SubscriptionInfo>,
    held: Option<Arc<Held>>,
    more: Option<Box<More>>,
}

/// What few runs have.
#[derive(Default)]
struct More {
    /// The others of a batch, in order; none for handlers of single messages.
    rest: Others<Item>,
    extensions: Extensions,
}

/// What is fixed for a subscription.
#[derive(Debug)]
#[non_exhaustive]
pub struct SubscriptionInfo {
    /// The topic.
    pub topic: ByteString,
    /// The group.
    pub group: Option<ByteString>,
    /// The handler's name.
    pub handler: ByteString,
    /// The most runs a message gets.
    pub max_attempts: u32,
    /// Decodes messages.
    pub codecs: Codecs,
    /// What happens to messages of another type.
    pub(crate) other_types: crate::policy::OtherTypes,
    /// Where handlers publish.
    pub(crate) publisher: Publisher,
}

impl Context {
    pub(crate) fn new(subscription: Arc<SubscriptionInfo>, item: Item, rest: Others<Item>) -> Self {
        let more = rest.is_some().then(|| Box::new(More { rest, extensions: Extensions::default() }));
        Self { item, subscription, held: None, more }
    }

    /// The message; the first one of a batch.
    #[must_use]
    pub fn message(&self) -> &Message {
        &self.item.message
    }

    /// All messages: one, or those of a batch in order.
    pub fn messages(&self) -> impl ExactSizeIterator<Item = &Message> {
        // `Chain` does not know its length: an index does.
        let rest = self.rest();
        (0..rest.len() + 1).map(|i| if i == 0 { &*self.item.message } else { &*rest[i - 1].message })
    }

    fn rest(&self) -> &[Item] {
        self.more.as_ref().and_then(|more| more.rest.as_deref()).unwrap_or_default()
    }

    /// Which run of the handler this is, from 1.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.item.attempt
    }

    /// How often the broker delivered it; 0 where it does not count.
    #[must_use]
    pub fn deliveries(&self) -> u32 {
        self.item.deliveries
    }

    /// The partition it came from.
    #[must_use]
    pub fn partition(&self) -> PartitionId {
        self.item.origin.partition
    }

    /// Its place there, where there are places.
    #[must_use]
    pub fn position(&self) -> Option<Position> {
        self.item.origin.position
    }

    /// Topic, group and handler.
    #[must_use]
    pub fn subscription(&self) -> &SubscriptionInfo {
        &self.subscription
    }

    /// Where to leave messages and effects that go out with the handler's success.
    pub fn held(&mut self) -> &Arc<Held> {
        self.held.get_or_insert_with(Arc::default)
    }

    /// Values that layers hand to layers and extractors further in.
    #[must_use]
    pub fn extensions(&self) -> &Extensions {
        static NONE: Extensions = Extensions { values: None };
        self.more.as_ref().map_or(&NONE, |more| &more.extensions)
    }

    /// The same, to add some.
    pub fn extensions_mut(&mut self) -> &mut Extensions {
        &mut self.more.get_or_insert_default().extensions
    }

    /// What the handler left, if it ever asked where to leave something.
    pub(crate) fn take_held(&mut self) -> Option<Arc<Held>> {
        self.held.take()
    }
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context")
            .field("item", &self.item)
            .field("rest", &self.rest().len())
            .field("subscription", &self.subscription)
            .finish_non_exhaustive()
    }
}

/// What a handler published and queued, held until it succeeds. A failed attempt leaves nothing.
#[derive(Debug, Default)]
pub struct Held {
    state: Mutex<HeldState>,
}

#[derive(Debug, Default)]
struct HeldState {
    closed: bool,
    messages: Vec<Message>,
    effects: Effects,
}

impl Held {
    /// Holds messages until the handler succeeds.
    ///
    /// # Errors
    /// [`BusIsShutdown`](ErrorKind::BusIsShutdown) once the handler has ended: nothing would send them.
    pub fn publish(&self, messages: impl IntoIterator<Item = Message>) -> Result<()> {
        let mut state = self.open()?;
        state.messages.extend(messages);
        Ok(())
    }

    /// Queues an effect for the transaction that acknowledges.
    ///
    /// # Errors
    /// As [`publish`](Self::publish).
    pub fn effect(&self, effect: Effect) -> Result<()> {
        let mut state = self.open()?;
        state.effects.push(effect);
        Ok(())
    }

    fn open(&self) -> Result<MutexGuard<'_, HeldState>> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.closed {
            return Err(Error::new(ErrorKind::BusIsShutdown, "the handler that held this has ended")
                .fix("publish before the handler returns, or use `publish_now`"));
        }
        Ok(state)
    }

    /// Takes what is held; from now on nothing more is.
    pub(crate) fn close(&self) -> (Vec<Message>, Effects) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.closed = true;
        (std::mem::take(&mut state.messages), std::mem::take(&mut state.effects))
    }
}

/// A value of any type.
type Value = Box<dyn Any + Send + Sync>;

/// Values by type, from layer to layer.
#[derive(Default)]
pub struct Extensions {
    // A list, since there are few; made for the first one only, since most messages have none.
    #[allow(
        clippy::box_collection,
        reason = "what is nearly always absent should take and cost next to nothing"
    )]
    values: Option<Box<Vec<(TypeId, Value)>>>,
}

impl Extensions {
    /// Sets the value of this type; gives back the one there was.
    pub fn insert<T: Any + Send + Sync>(&mut self, value: T) -> Option<T> {
        let id = TypeId::of::<T>();
        let values = self.values.get_or_insert_default();
        let old = values.iter().position(|(t, _)| *t == id).map(|i| values.swap_remove(i).1);
        values.push((id, Box::new(value)));
        old.and_then(|b| b.downcast().ok()).map(|b| *b)
    }

    /// The value of this type.
    #[must_use]
    pub fn get<T: Any + Send + Sync>(&self) -> Option<&T> {
        let id = TypeId::of::<T>();
        let (_, value) = self.values.as_ref()?.iter().find(|(t, _)| *t == id)?;
        value.downcast_ref()
    }
}

impl fmt::Debug for Extensions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Extensions").field("len", &self.values.as_ref().map_or(0, |v| v.len())).finish()
    }
}
