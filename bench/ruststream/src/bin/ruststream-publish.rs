//! Its typed publish outside of a handler, with nothing that handles beside it: it encodes and enqueues, and gives
//! neither an id nor a time.

use bench_harness::{Latch, Result, Took, measured, one_thread};
use bench_ruststream::{Order, start};
use ruststream::codec::JsonCodec;
use ruststream::memory::prelude::*;
use std::hint::black_box;
use tokio::task::unconstrained;

#[subscriber("orders")]
async fn consume(order: &Order, ctx: &mut Context<'_, (), Latch>) -> HandlerOutcome {
    black_box((order.id, order.quantity));
    ctx.state().arrived();
    HandlerOutcome::ack()
}

fn main() -> Result {
    bench_harness::main(publish)
}

fn publish(messages: usize) -> Result<Took> {
    let runtime = one_thread()?;
    let latch = Latch::new(messages);
    let broker = MemoryBroker::new();
    let running = start(&runtime, &broker, &latch, |scope| {
        scope.include(consume);
    })?;
    let publisher = broker.publisher();
    let mut published: Result = Ok(());
    let took = measured(Box::new(|| {
        published = runtime.block_on(unconstrained(async {
            for _ in 0..messages {
                publisher.message(&black_box(Order::ONE)).with_codec(JsonCodec).publish().await?;
            }
            Ok(())
        }));
    }))?;
    published?;
    runtime.block_on(latch.drained());
    drop(running);
    Ok(took)
}
