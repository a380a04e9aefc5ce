//! Handlers: what runs for a message.

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
