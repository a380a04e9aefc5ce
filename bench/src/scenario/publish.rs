//! Publishing into `memory://`, with nothing that handles beside it.

use bench_harness::{Took, measured, one_thread};
use millstream::core::{OpenRequest, Reader as _};
use millstream::{EventRegistry, Publisher};
use millstream_memory::MemoryBroker;
use std::hint::black_box;
use tokio::task::unconstrained;

use super::event::Order;
use crate::Result;

/// One typed event after the other: each gets its id, its time and its bytes, is checked and put into the topic, where
/// a group wants it.
pub(super) fn ours(messages: usize) -> Result<Took> {
    let runtime = one_thread()?;
    let broker = MemoryBroker::builder().capacity(messages.max(1)).build();
    let registry = EventRegistry::new();
    registry.register::<Order>("orders")?;
    let publisher = Publisher::new(broker.writer(), registry);
    let group = runtime.block_on(broker.reader().open(OpenRequest::new("orders").group("bench")))?;
    let mut written = Ok(());
    let took = measured(Box::new(|| {
        runtime.block_on(unconstrained(async {
            for _ in 0..messages {
                written = publisher.publish(&black_box(Order::ONE)).await;
                if written.is_err() {
                    return;
                }
            }
        }));
    }))?;
    written?;
    drop(group);
    Ok(took)
}
