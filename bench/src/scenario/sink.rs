//! Where handlers leave word when it matters how long a message took.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use bench_harness::{Latch, Latency};
use hdrhistogram::Histogram;

use super::event::Tick;
use crate::Result;

/// Takes ticks, which must come in their order, and looks at the age of some of them.
#[derive(Debug, Clone)]
pub(super) struct Clocked(Arc<Clock>);

#[derive(Debug)]
struct Clock {
    begun: Instant,
    next: AtomicU64,
    ages: Mutex<Histogram<u64>>,
    latch: Latch,
}

impl Clocked {
    /// One in so many is looked at; prime to the size of a batch, so that all places in it are.
    const SAMPLE: u64 = 61;
    /// In nanoseconds: no age is above it.
    const HOUR: u64 = 3_600_000_000_000;

    pub(super) fn new(messages: usize) -> Result<Self> {
        Ok(Self(Arc::new(Clock {
            begun: Instant::now(),
            next: AtomicU64::new(0),
            ages: Mutex::new(Histogram::new_with_bounds(1, Self::HOUR, 3)?),
            latch: Latch::new(messages),
        })))
    }

    /// Nanoseconds since the start.
    pub(super) fn now(&self) -> u64 {
        u64::try_from(self.0.begun.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// # Panics
    /// On a tick that is not the next one: then there is nothing to measure.
    pub(super) fn arrived(&self, tick: &Tick) {
        let expected = self.0.next.fetch_add(1, Ordering::Relaxed);
        assert_eq!(tick.number, expected, "out of order");
        if tick.number.is_multiple_of(Self::SAMPLE) {
            let age = self.now().saturating_sub(tick.at);
            self.0.ages.lock().unwrap_or_else(PoisonError::into_inner).saturating_record(age.max(1));
        }
        self.0.latch.arrived();
    }

    pub(super) async fn drained(&self) {
        self.0.latch.drained().await;
    }

    pub(super) fn latency(&self) -> Latency {
        let ages = self.0.ages.lock().unwrap_or_else(PoisonError::into_inner);
        Latency { p50: ages.value_at_quantile(0.5), p99: ages.value_at_quantile(0.99), max: ages.max() }
    }
}
