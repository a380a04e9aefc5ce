//! One message at a time: its `consume_json`.

use std::hint::black_box;

use bench_harness::{Latch, Result};
use bench_ruststream::{Order, work_off};
use ruststream::memory::prelude::*;

#[subscriber("orders")]
async fn consume(order: &Order, ctx: &mut Context<'_, (), Latch>) -> HandlerOutcome {
    black_box((order.id, order.quantity));
    ctx.state().arrived();
    HandlerOutcome::ack()
}

fn main() -> Result {
    bench_harness::main(|messages| {
        work_off(messages, |scope| {
            scope.include(consume);
        })
    })
}
