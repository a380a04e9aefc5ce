//! The first argument of a handler: what the message says.

use std::any::type_name;
use std::ops::Deref;

use millstream_core::{ByteString, Bytes, Error, ErrorKind, Event, Message, Result};

use crate::context::SubscriptionInfo;
use crate::policy::OtherTypes;
use crate::{Context, EventRegistry, Failure};

/// What can be the first argument of a handler: an event, a [`Message`], [`Bytes`], or a [`Batch`] of these.
///
/// `M` marks which of them it is: without it the compiler could not tell events from the others.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be the first argument of a handler",
    label = "not an event, `Message`, `Bytes` or a `Batch` of these",
    note = "add `#[derive(Event)]` and `#[event(topic = \"…\")]` to `{Self}`, or take `Message` first"
)]
pub trait FromDelivery<M>: Sized {
    /// Whether it takes several messages at once.
    const BATCH: bool = false;

    /// The topic it is read from if the subscription names none.
    ///
    /// # Errors
    /// If it has none.
    fn own_topic(registry: &EventRegistry) -> Result<ByteString>;

    /// Says to the registry that it is read from this topic.
    ///
    /// # Errors
    /// If the registry says another.
    fn register(registry: &EventRegistry, topic: &ByteString) -> Result<()>;

    /// Makes it of one message.
    ///
    /// # Errors
    /// A failure of kind [`Decode`](crate::FailureKind::Decode), or
    /// [`Discard`](crate::FailureKind::Discard) for a message of another type that the policy discards.
    fn from_message(message: &Message, subscription: &SubscriptionInfo) -> Result<Self, Failure>;

    /// Makes it of what is delivered.
    ///
    /// # Errors
    /// As [`from_message`](Self::from_message).
    fn from_delivery(context: &Context) -> Result<Self, Failure> {
        Self::from_message(context.message(), context.subscription())
    }
}

/// Marks an event as the first argument.
#[derive(Debug)]
pub enum AsEvent {}

/// Marks [`Message`] as the first argument.
#[derive(Debug)]
pub enum AsMessage {}

/// Marks [`Bytes`] as the first argument.
#[derive(Debug)]
pub enum AsBytes {}

/// Marks a [`Batch`] as the first argument, of what `M` marks.
#[derive(Debug)]
pub struct AsBatch<M>(std::marker::PhantomData<M>);

impl<E: Event> FromDelivery<AsEvent> for E {
    fn own_topic(registry: &EventRegistry) -> Result<ByteString> {
        registry.register_own::<E>()
    }

    fn register(registry: &EventRegistry, topic: &ByteString) -> Result<()> {
        registry.register::<E>(topic.clone())
    }

    fn from_message(message: &Message, subscription: &SubscriptionInfo) -> Result<Self, Failure> {
        if let Some(expected) = E::TYPE
            && let Some(found) = message.event_type()
            && found != expected
        {
            return Err(other_type::<E>(message, subscription, found));
        }
        message.decode_with::<E>(&subscription.codecs).map_err(|error| {
            Failure::decode(match &subscription.group {
                Some(group) => error.group(group),
                None => error,
            })
        })
    }
}

#[cold]
fn other_type<E>(message: &Message, subscription: &SubscriptionInfo, found: &str) -> Failure {
    let error = message.locate(
        Error::new(
            ErrorKind::Decode,
            format!("the message is a {found:?}, the handler takes `{}`", type_name::<E>()),
        )
        .fix("subscribe a handler for it, or say `.other_types(OtherTypes::Discard)` if another group takes it"),
    );
    match subscription.other_types {
        OtherTypes::DeadLetter => Failure::decode(error),
        OtherTypes::Discard => Failure::discard(error),
    }
}

fn needs_a_topic() -> Error {
    Error::new(ErrorKind::EventNotFound, "a handler of raw messages has no topic of its own")
        .fix("name it: `subscribe_to(\"…\", handler)`")
}

impl FromDelivery<AsMessage> for Message {
    fn own_topic(_: &EventRegistry) -> Result<ByteString> {
        Err(needs_a_topic())
    }

    fn register(_: &EventRegistry, _: &ByteString) -> Result<()> {
        Ok(())
    }

    fn from_message(message: &Message, _: &SubscriptionInfo) -> Result<Self, Failure> {
        Ok(message.clone())
    }
}

impl FromDelivery<AsBytes> for Bytes {
    fn own_topic(_: &EventRegistry) -> Result<ByteString> {
        Err(needs_a_topic())
    }

    fn register(_: &EventRegistry, _: &ByteString) -> Result<()> {
        Ok(())
    }

    fn from_message(message: &Message, _: &SubscriptionInfo) -> Result<Self, Failure> {
        Ok(message.data.clone().unwrap_or_default())
    }
}

/// Several messages of a subscription at once, in order. As the first argument it makes a batch handler.
///
/// The batch succeeds or fails as one; if it fails, its messages run again one by one, each as a batch of one,
/// so that a bad one does not take the others along. How many there are at most, and how long the first one
/// waits for others, says [`batch`](crate::Subscription::batch).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch<T>(Vec<T>);

impl<T> Batch<T> {
    /// Its items, in order; at least one.
    #[must_use]
    pub fn into_vec(self) -> Vec<T> {
        self.0
    }
}

impl<T> Deref for Batch<T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        &self.0
    }
}

impl<T> IntoIterator for Batch<T> {
    type Item = T;
    type IntoIter = std::vec::IntoIter<T>;
    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl<'a, T> IntoIterator for &'a Batch<T> {
    type Item = &'a T;
    type IntoIter = std::slice::Iter<'a, T>;
    fn into_iter(self) -> Self::IntoIter {
        self.0.iter()
    }
}

impl<T: FromDelivery<M>, M> FromDelivery<AsBatch<M>> for Batch<T> {
    const BATCH: bool = true;

    fn own_topic(registry: &EventRegistry) -> Result<ByteString> {
        T::own_topic(registry)
    }

    fn register(registry: &EventRegistry, topic: &ByteString) -> Result<()> {
        T::register(registry, topic)
    }

    fn from_message(message: &Message, subscription: &SubscriptionInfo) -> Result<Self, Failure> {
        Ok(Self(vec![T::from_message(message, subscription)?]))
    }

    fn from_delivery(context: &Context) -> Result<Self, Failure> {
        let subscription = context.subscription();
        // Made by hand: collecting into a `Result` forgets how many there are.
        let messages = context.messages();
        let mut items = Vec::with_capacity(messages.len());
        for message in messages {
            items.push(T::from_message(message, subscription)?);
        }
        Ok(Self(items))
    }
}
