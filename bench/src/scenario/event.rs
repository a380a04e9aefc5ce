//! The events that are published and handled.

use bench_harness::{ID, QUANTITY};
use millstream::Event;
use serde::{Deserialize, Serialize};

/// The payload of the peer's own benchmark.
#[derive(Debug, Clone, Event, Serialize, Deserialize)]
#[event(topic = "orders")]
pub(super) struct Order {
    pub(super) id: u64,
    pub(super) quantity: u32,
}

impl Order {
    pub(super) const ONE: Self = Self { id: ID, quantity: QUANTITY };
}

/// An event that says its place and when it was published.
#[derive(Debug, Clone, Event, Serialize, Deserialize)]
#[event(topic = "ticks")]
pub(super) struct Tick {
    pub(super) number: u64,
    /// Nanoseconds since the start of the run.
    pub(super) at: u64,
}
