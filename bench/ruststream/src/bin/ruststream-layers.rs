//! One message at a time through four layers that only pass on: its `middleware`.

use bench_harness::{Latch, Result, Took, one_thread};
use bench_ruststream::{Order, drain};
use ruststream::memory::prelude::*;
use ruststream::runtime::{BlanketLayer, Handler, Layer};
use std::convert::Infallible;
use std::hint::black_box;

#[subscriber("orders")]
async fn consume(order: &Order, ctx: &mut Context<'_, (), Latch>) -> HandlerOutcome {
    black_box((order.id, order.quantity));
    ctx.state().arrived();
    HandlerOutcome::ack()
}

#[derive(Clone)]
struct Passthrough;

struct Wrapped<H>(H);

impl<H> Layer<H> for Passthrough {
    type Handler = Wrapped<H>;
    fn layer(&self, inner: H) -> Wrapped<H> {
        Wrapped(inner)
    }
}

impl<M: Send + Sync, C: Send, S: Send + Sync, H: Handler<M, C, S>> Handler<M, C, S> for Wrapped<H> {
    async fn handle(&self, msg: &M, ctx: &mut Context<'_, C, S>) -> HandlerOutcome {
        self.0.handle(msg, ctx).await
    }
}

impl BlanketLayer for Passthrough {
    fn apply<M, C, S, H>(&self, handler: H) -> impl Handler<M, C, S> + 'static
    where
        M: Send + Sync + 'static,
        C: Send + 'static,
        S: Send + Sync + 'static,
        H: Handler<M, C, S> + 'static,
    {
        Wrapped(handler)
    }
}

fn main() -> Result {
    bench_harness::main(layers)
}

fn layers(messages: usize) -> Result<Took> {
    let runtime = one_thread()?;
    let latch = Latch::new(messages);
    let state = latch.clone();
    let broker = MemoryBroker::new();
    // The layers are part of the service's type, so it is made here.
    let app = RustStream::new(AppInfo::new("bench", "0.0.0"))
        .on_startup(async move |()| Ok::<_, Infallible>(state))
        .layer(Passthrough)
        .layer(Passthrough)
        .layer(Passthrough)
        .layer(Passthrough)
        .with_broker(broker.clone(), |scope| {
            scope.include(consume);
        });
    let running = runtime.block_on(app.start()).map_err(|e| e.to_string())?;
    let took = drain(&runtime, &broker, &latch, messages)?;
    drop(running);
    Ok(took)
}
