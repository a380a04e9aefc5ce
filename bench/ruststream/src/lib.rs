//! `ruststream` in the scenarios of its own benchmarks (`benches/common` in its package, and there `consume_json`,
//! `consume_pool`, `middleware` and `wall_clock`): the same service, payload and handler on its memory broker.

use bench_harness::{Error, ID, Latch, QUANTITY, Result, Took, one_thread};
use ruststream::OutgoingMessage;
use ruststream::memory::prelude::*;
use ruststream::runtime::{BrokerScope, Identity, RunningApp};
use serde::{Deserialize, Serialize};
use std::convert::Infallible;
use tokio::runtime::Runtime;
use tokio::task::unconstrained;

/// The topic that every handler names.
pub const TOPIC: &str = "orders";

/// What is published and handled.
#[derive(Debug, Serialize, Deserialize, Outgoing)]
#[outgoing(name = "orders")]
pub struct Order {
    /// Decoded and looked at.
    pub id: u64,
    /// The same.
    pub quantity: u32,
}

impl Order {
    /// The one that all messages carry.
    pub const ONE: Self = Self { id: ID, quantity: QUANTITY };
}

/// Where a handler is mounted.
pub type Scope<'a> = &'a mut BrokerScope<MemoryBroker, Identity, (), Latch>;

/// Starts a service of one handler.
///
/// # Errors
/// As the service has them.
pub fn start(
    runtime: &Runtime,
    broker: &MemoryBroker,
    latch: &Latch,
    mount: impl FnOnce(Scope<'_>),
) -> Result<RunningApp> {
    let state = latch.clone();
    let app = RustStream::new(AppInfo::new("bench", "0.0.0"))
        .on_startup(async move |()| Ok::<_, Infallible>(state))
        .with_broker(broker.clone(), mount);
    Ok(runtime.block_on(app.start()).map_err(|e| e.to_string())?)
}

/// Works off so many orders with one handler, on one thread.
///
/// # Errors
/// As the service has them.
pub fn work_off(messages: usize, mount: impl FnOnce(Scope<'_>)) -> Result<Took> {
    let runtime = one_thread()?;
    let latch = Latch::new(messages);
    let broker = MemoryBroker::new();
    let running = start(&runtime, &broker, &latch, mount)?;
    let took = drain(&runtime, &broker, &latch, messages)?;
    drop(running);
    Ok(took)
}

/// Fills the queue of a service that runs, and measures until it is empty.
///
/// # Errors
/// If publishing fails.
pub fn drain(runtime: &Runtime, broker: &MemoryBroker, latch: &Latch, messages: usize) -> Result<Took> {
    let (publisher, body) = (broker.publisher(), body()?);
    runtime.block_on(unconstrained(async {
        for _ in 0..messages {
            publisher.publish(OutgoingMessage::new(TOPIC, &body), None).await?;
        }
        Ok::<(), Error>(())
    }))?;
    bench_harness::drain(runtime, latch, messages)
}

/// The order's bytes.
///
/// # Errors
/// Never, in fact.
pub fn body() -> Result<Vec<u8>> {
    Ok(serde_json::to_vec(&Order::ONE)?)
}
