//! Handlers: what runs for a message.
//!
//! A handler is an async function. Its first argument is what the message says, and names the kind of handler:
//!
//! | first argument | gets |
//! |---|---|
//! | an [`Event`](crate::Event) | the decoded event |
//! | [`Message`](crate::Message) | the message as it is |
//! | [`Bytes`](crate::Bytes) | its payload; empty for a tombstone |
//! | [`Batch<E>`](Batch), `Batch<Message>`, `Batch<Bytes>` | several at once, in order |
//!
//! Up to seven more arguments follow, each an [extractor](crate::extract). It returns an
//! [`Outcome`], `()`, a `Result<(), E>` with any error, or with the feature `anyhow` an
//! `anyhow::Result<()>`. (Inside a function that returns an `Outcome`, `?` does not take an `anyhow::Error`:
//! write `.map_err(Failure::retry)?`.)
//!
//! How it is split, for good error messages: [`Shape`] says that something is such a function, whatever its
//! arguments are; [`Args`] that its arguments can be had from a message and the bus's state, one by one through
//! [`FromDelivery`] and [`FromContext`](crate::FromContext).

mod first;
mod function;
mod outcome;
mod shape;

pub use first::{AsBatch, AsBytes, AsEvent, AsMessage, Batch, FromDelivery};
pub use function::FunctionHandler;
#[cfg(feature = "anyhow")]
pub use outcome::ViaAnyhow;
pub use outcome::{IntoOutcome, ViaOutcome, ViaResult, ViaUnit};
pub use shape::{Args, Shape};

use crate::{Context, Outcome};

/// Runs for one message (or batch). Async functions become one through
/// [`subscribe`](crate::Bus::subscribe); a [`Layer`](crate::Layer) wraps one into another.
///
/// Cancel safety: the future is dropped when the handler times out, or when the process ends before it does.
/// Nothing was acknowledged then, and the message comes again.
pub trait Handler: Send + Sync + 'static {
    /// Handles what is in the context.
    fn call(&self, context: &mut Context) -> impl Future<Output = Outcome> + Send;
}
