//! A pool of four workers on two threads, published by a third: the `pool_across_threads` of its `wall_clock`.

use bench_harness::{Latch, Result, Took, measured, two_threads};
use bench_ruststream::{Order, TOPIC, body, start};
use ruststream::OutgoingMessage;
use ruststream::memory::prelude::*;
use std::hint::black_box;

#[subscriber("orders", workers(4))]
async fn consume(order: &Order, ctx: &mut Context<'_, (), Latch>) -> HandlerOutcome {
    black_box((order.id, order.quantity));
    ctx.state().arrived();
    HandlerOutcome::ack()
}

fn main() -> Result {
    bench_harness::main(across)
}

fn across(messages: usize) -> Result<Took> {
    let runtime = two_threads()?;
    let latch = Latch::new(messages);
    let broker = MemoryBroker::new();
    let running = start(&runtime, &broker, &latch, |scope| {
        scope.include(consume);
    })?;
    let (publisher, body) = (broker.publisher(), body()?);
    let mut published = Ok(());
    let took = measured(Box::new(|| {
        runtime.block_on(async {
            for _ in 0..messages {
                published = publisher.publish(OutgoingMessage::new(TOPIC, &body), None).await;
                if published.is_err() {
                    return;
                }
            }
            latch.drained().await;
        });
    }))?;
    published?;
    drop(running);
    Ok(took)
}
