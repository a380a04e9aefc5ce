//! Middleware around handlers.

#[cfg(feature = "tower")]
mod tower;

use crate::Handler;
#[cfg(feature = "tower")]
pub use tower::{Call, HandlerService, Tower, TowerHandler};

/// Wraps a handler into another. The last one added is the outermost: it sees a run first and its outcome last.
///
/// Layers run for every attempt, inside the handler's timeout. They are static inside a subscription: four of
/// them cost a few nanoseconds and no allocation.
///
/// ```
/// use millstream::{Context, Handler, Layer, Outcome};
///
/// struct Timed;
///
/// impl<H: Handler> Layer<H> for Timed {
///     type Handler = TimedHandler<H>;
///     fn layer(self, inner: H) -> TimedHandler<H> {
///         TimedHandler { inner }
///     }
/// }
///
/// struct TimedHandler<H> { inner: H }
///
/// impl<H: Handler> Handler for TimedHandler<H> {
///     async fn call(&self, context: &mut Context) -> Outcome {
///         let begun = std::time::Instant::now();
///         let outcome = self.inner.call(context).await;
///         tracing::debug!(took = ?begun.elapsed(), attempt = context.attempt(), ok = outcome.is_ok());
///         outcome
///     }
/// }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a layer around `{H}`",
    label = "not a layer",
    note = "implement `millstream::Layer<H>` for it, for every `H: Handler`"
)]
pub trait Layer<H> {
    /// What it makes.
    type Handler: Handler;
    /// Wraps.
    fn layer(self, inner: H) -> Self::Handler;
}

/// No layer.
#[derive(Debug, Clone, Copy, Default)]
pub struct Identity;

impl<H: Handler> Layer<H> for Identity {
    type Handler = H;
    fn layer(self, inner: H) -> H {
        inner
    }
}

/// Two layers, one around the other.
#[derive(Debug, Clone, Copy)]
pub struct Stack<Inner, Outer> {
    pub(crate) inner: Inner,
    pub(crate) outer: Outer,
}

impl<H, Inner, Outer> Layer<H> for Stack<Inner, Outer>
where
    Inner: Layer<H>,
    Outer: Layer<Inner::Handler>,
{
    type Handler = Outer::Handler;
    fn layer(self, inner: H) -> Self::Handler {
        self.outer.layer(self.inner.layer(inner))
    }
}
