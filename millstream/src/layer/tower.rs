//! `tower` layers around handlers.

use std::fmt;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{self, Poll};

use millstream_core::{BoxError, BoxFuture};
use tower_layer::Layer as TowerLayer;
use tower_service::Service;

use super::Layer;
use crate::{Context, Failure, Handler, Outcome};

/// A `tower` layer as a [`Layer`], with the feature `tower`.
///
/// The layer meets a `Service<&mut Context, Response = ()>` whose error is a `BoxError`; what it makes must be
/// `Clone`, as is usual, since it is cloned for each run. A [`Failure`] that passes through unchanged keeps its kind;
/// an error of the layer's own is retried. Costs a box or two a run: a [`Layer`] of your own costs none.
///
/// `tower`'s layers that buffer, hedge or retry ask for requests that can be sent elsewhere or cloned, and do not
/// fit: the subscription's own policies do that.
///
/// ```ignore
/// handler.group("mail").layer(Tower(ConcurrencyLimitLayer::new(8)))
/// ```
#[derive(Debug, Clone, Copy)]
pub struct Tower<L>(pub L);

impl<H, L> Layer<H> for Tower<L>
where
    H: Handler,
    L: TowerLayer<HandlerService<H>>,
    L::Service: Clone + Send + Sync + 'static,
    L::Service: for<'a> Call<'a>,
{
    type Handler = TowerHandler<L::Service>;
    fn layer(self, inner: H) -> Self::Handler {
        TowerHandler { service: self.0.layer(HandlerService { handler: Arc::new(inner) }) }
    }
}

/// What a `tower` layer must make; implemented for all that do.
pub trait Call<'a>: Send {
    /// Waits until it is ready and calls it.
    fn run(self, context: &'a mut Context) -> BoxFuture<'a, Result<(), BoxError>>;
}

impl<'a, S> Call<'a> for S
where
    S: Service<&'a mut Context, Response = (), Error = BoxError> + Send + 'a,
    S::Future: Send + 'a,
{
    fn run(mut self, context: &'a mut Context) -> BoxFuture<'a, Result<(), BoxError>> {
        Box::pin(async move {
            poll_fn(|cx| self.poll_ready(cx)).await?;
            // Boxed on its own: behind two lifetimes the compiler cannot see that it is `Send`.
            let run: BoxFuture<'a, _> = Box::pin(self.call(context));
            run.await
        })
    }
}

/// A handler as a `tower` service.
pub struct HandlerService<H> {
    handler: Arc<H>,
}

impl<H> Clone for HandlerService<H> {
    fn clone(&self) -> Self {
        Self { handler: Arc::clone(&self.handler) }
    }
}

impl<'a, H: Handler> Service<&'a mut Context> for HandlerService<H> {
    type Response = ();
    type Error = BoxError;
    type Future = BoxFuture<'a, Result<(), BoxError>>;

    fn poll_ready(&mut self, _: &mut task::Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, context: &'a mut Context) -> Self::Future {
        let handler = Arc::clone(&self.handler);
        Box::pin(async move { handler.call(context).await.map_err(|failure| Carried(failure).into()) })
    }
}

/// A service that a `tower` layer made, as a handler.
pub struct TowerHandler<S> {
    service: S,
}

impl<S> Handler for TowerHandler<S>
where
    S: Clone + Send + Sync + 'static,
    S: for<'a> Call<'a>,
{
    async fn call(&self, context: &mut Context) -> Outcome {
        match self.service.clone().run(context).await {
            Ok(()) => Ok(()),
            Err(error) => Err(match error.downcast::<Carried>() {
                Ok(carried) => carried.0,
                Err(other) => Failure::retry(other),
            }),
        }
    }
}

/// A failure on its way through layers that ask for errors.
struct Carried(Failure);

impl fmt::Display for Carried {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for Carried {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for Carried {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source().source()
    }
}

impl<H> fmt::Debug for HandlerService<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HandlerService(..)")
    }
}

impl<S> fmt::Debug for TowerHandler<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TowerHandler(..)")
    }
}
