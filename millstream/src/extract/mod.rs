//! Extractors: what a handler takes beside its event, each as an argument of its own type.
//!
//! ```
//! use millstream::{Attempt, Event, Outcome, Publisher, State};
//!
//! #[derive(Event, serde::Serialize, serde::Deserialize)]
//! #[event(topic = "orders.paid", key = "order")]
//! struct Paid { order: String }
//!
//! #[derive(Event, serde::Serialize, serde::Deserialize)]
//! #[event(topic = "orders.shipped", key = "order")]
//! struct Shipped { order: String }
//!
//! #[derive(Clone)]
//! struct Warehouse;
//!
//! async fn ship(
//!     paid: Paid,
//!     State(_warehouse): State<Warehouse>,
//!     Attempt(attempt): Attempt,
//!     publisher: Publisher,
//! ) -> Outcome {
//!     if attempt > 1 {
//!         tracing::info!("once more");
//!     }
//!     publisher.publish(&Shipped { order: paid.order }).await?;     // leaves if this returns Ok
//!     Ok(())
//! }
//! ```
//!
//! | extractor | gives |
//! |---|---|
//! | [`State<T>`](State) | shared state: the bus's own, or a part of it by [`FromRef`] |
//! | [`Publisher`] | publishes with the handler's success |
//! | [`Message`] | the message as it is; the first of a batch, as all below |
//! | [`Headers`], [`Key`], [`MessageId`], [`Topic`] | parts of it |
//! | [`Attempt`], [`Deliveries`] | which run of the handler this is; which delivery by the broker |
//! | [`Origin`], [`Position`], [`PartitionId`] | where it was read from |
//! | [`Extension<T>`](Extension) | a value that a layer put in |
//! | `Option<X>`, `Result<X, Failure>` | `X`, or that it cannot be had |
//!
//! One of your own implements [`FromContext`]:
//!
//! ```
//! use millstream::{Context, Failure, FromContext};
//!
//! struct Tenant(String);
//!
//! impl<S> FromContext<S> for Tenant {
//!     fn from_context(context: &mut Context, _: &S) -> Result<Self, Failure> {
//!         let tenant = context.message().headers.get_str("tenant");
//!         tenant.map(|t| Tenant(t.to_owned())).ok_or_else(|| Failure::unrecoverable("no tenant"))
//!     }
//! }
//! ```

mod state;

use std::any::{Any, type_name};

use millstream_core::{ByteString, Bytes, Error, ErrorKind, Headers, Message, Origin, PartitionId, Position};

use crate::{Context, Failure, Publisher};

pub use state::{FromRef, State};

/// What can be an argument of a handler behind the first one. `S` is the bus's state.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be taken out of a message",
    label = "not an extractor",
    note = "wrap shared state as `State<{Self}>`; an event comes first; or implement `millstream::FromContext` for `{Self}`"
)]
pub trait FromContext<S>: Sized {
    /// Takes it.
    ///
    /// # Errors
    /// A failure ends the run as if the handler had returned it; the handler is not called.
    fn from_context(context: &mut Context, state: &S) -> Result<Self, Failure>;
}

impl<S, X: FromContext<S>> FromContext<S> for Option<X> {
    fn from_context(context: &mut Context, state: &S) -> Result<Self, Failure> {
        Ok(X::from_context(context, state).ok())
    }
}

impl<S, X: FromContext<S>> FromContext<S> for Result<X, Failure> {
    fn from_context(context: &mut Context, state: &S) -> Result<Self, Failure> {
        Ok(X::from_context(context, state))
    }
}

impl<S> FromContext<S> for Publisher {
    fn from_context(context: &mut Context, _: &S) -> Result<Self, Failure> {
        Ok(Self::held_in(context))
    }
}

impl<S> FromContext<S> for Message {
    fn from_context(context: &mut Context, _: &S) -> Result<Self, Failure> {
        Ok(context.message().clone())
    }
}

impl<S> FromContext<S> for Headers {
    fn from_context(context: &mut Context, _: &S) -> Result<Self, Failure> {
        Ok(context.message().headers.clone())
    }
}

/// The message's routing key. A message without one fails as undecodable: take `Option<Key>` where that is
/// legal. An empty key is none.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Key(pub Bytes);

impl<S> FromContext<S> for Key {
    fn from_context(context: &mut Context, _: &S) -> Result<Self, Failure> {
        let message = context.message();
        message.lane_key().cloned().map(Self).ok_or_else(|| {
            Failure::decode(
                message.locate(
                    Error::new(ErrorKind::Decode, "the message has no key, the handler takes one")
                        .fix("publish it with a key, or take `Option<Key>`"),
                ),
            )
        })
    }
}

/// The message's id.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct MessageId(pub ByteString);

impl<S> FromContext<S> for MessageId {
    fn from_context(context: &mut Context, _: &S) -> Result<Self, Failure> {
        Ok(Self(context.message().id.clone()))
    }
}

/// The topic the message was read from.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Topic(pub ByteString);

impl<S> FromContext<S> for Topic {
    fn from_context(context: &mut Context, _: &S) -> Result<Self, Failure> {
        Ok(Self(context.message().topic.clone()))
    }
}

/// Which run of the handler this is, from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Attempt(pub u32);

impl<S> FromContext<S> for Attempt {
    fn from_context(context: &mut Context, _: &S) -> Result<Self, Failure> {
        Ok(Self(context.attempt()))
    }
}

/// How often the broker delivered the message, this time included; 0 where it does not count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Deliveries(pub u32);

impl<S> FromContext<S> for Deliveries {
    fn from_context(context: &mut Context, _: &S) -> Result<Self, Failure> {
        Ok(Self(context.deliveries()))
    }
}

impl<S> FromContext<S> for Origin {
    fn from_context(context: &mut Context, _: &S) -> Result<Self, Failure> {
        Ok(context.item.origin)
    }
}

impl<S> FromContext<S> for PartitionId {
    fn from_context(context: &mut Context, _: &S) -> Result<Self, Failure> {
        Ok(context.partition())
    }
}

/// Fails where the driver has no positions: take `Option<Position>` to run on every driver.
impl<S> FromContext<S> for Position {
    fn from_context(context: &mut Context, _: &S) -> Result<Self, Failure> {
        context.position().ok_or_else(|| {
            Failure::unrecoverable(
                Error::new(ErrorKind::Unsupported, "this driver has no positions, the handler takes one")
                    .topic(&*context.subscription().topic)
                    .fix("take `Option<Position>`"),
            )
        })
    }
}

/// A value that a [`Layer`](crate::Layer) put into the context's
/// [extensions](crate::context::Extensions).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Extension<T>(pub T);

impl<S, T: Any + Clone + Send + Sync> FromContext<S> for Extension<T> {
    fn from_context(context: &mut Context, _: &S) -> Result<Self, Failure> {
        context.extensions().get::<T>().cloned().map(Self).ok_or_else(|| {
            Failure::unrecoverable(
                Error::new(ErrorKind::InvalidConfig, format!("no layer put a `{}` in", type_name::<T>()))
                    .topic(&*context.subscription().topic)
                    .fix("add the layer with `.layer(…)`, or take `Option<Extension<…>>`"),
            )
        })
    }
}
