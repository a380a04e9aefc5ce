//! Latencies, and a measurement that begins with the first message.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use bench_harness::{Latency, Result, Stopwatch, Took};
use hdrhistogram::Histogram;
use tokio::sync::Notify;

/// No latency is above it, in nanoseconds.
const HOUR: u64 = 3_600_000_000_000;

/// Latencies of a run.
#[derive(Debug)]
pub struct Ages(Histogram<u64>);

impl Ages {
    /// None yet.
    ///
    /// # Errors
    /// If there is no such histogram.
    pub fn new() -> Result<Self> {
        Ok(Self(Histogram::new_with_bounds(1, HOUR, 3)?))
    }

    /// One more.
    pub fn add(&mut self, age: Duration) {
        self.0.saturating_record(u64::try_from(age.as_nanos()).unwrap_or(HOUR).max(1));
    }

    /// Half of them, 99 of 100, and the longest.
    #[must_use]
    pub fn latency(&self) -> Latency {
        Latency { p50: self.0.value_at_quantile(0.5), p99: self.0.value_at_quantile(0.99), max: self.0.max() }
    }
}

/// Where handlers say that a message came.
#[derive(Debug, Clone)]
pub struct Arrivals(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    wanted: usize,
    count: AtomicUsize,
    watch: OnceLock<Stopwatch>,
    done: Notify,
    begun: Instant,
    ages: Mutex<Ages>,
}

impl Arrivals {
    /// Waits for so many.
    ///
    /// # Errors
    /// If there is no histogram.
    pub fn new(wanted: usize) -> Result<Self> {
        Ok(Self(Arc::new(Inner {
            wanted,
            count: AtomicUsize::new(0),
            watch: OnceLock::new(),
            done: Notify::new(),
            begun: Instant::now(),
            ages: Mutex::new(Ages::new()?),
        })))
    }

    /// Nanoseconds since it was made.
    #[must_use]
    pub fn now(&self) -> u64 {
        u64::try_from(self.0.begun.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// The first one starts the clock.
    pub fn arrived(&self) {
        let before = self.0.count.fetch_add(1, Ordering::Relaxed);
        if before == 0
            && let Ok(watch) = Stopwatch::start()
        {
            let _ = self.0.watch.set(watch);
        }
        if before + 1 == self.0.wanted {
            self.0.done.notify_one();
        }
    }

    /// The same, with how long ago it was written: at [`now`](Self::now).
    pub fn arrived_after(&self, written: u64) {
        let age = Duration::from_nanos(self.now().saturating_sub(written));
        self.0.ages.lock().unwrap_or_else(PoisonError::into_inner).add(age);
        self.arrived();
    }

    /// Whether all came.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.0.count.load(Ordering::Relaxed) >= self.0.wanted
    }

    /// Resolves when all came.
    pub async fn done(&self) {
        while !self.is_done() {
            self.0.done.notified().await;
        }
    }

    /// What passed since the first.
    ///
    /// # Errors
    /// If none came, or the system does not tell the CPU time.
    pub fn took(&self) -> Result<Took> {
        self.0.watch.get().ok_or("nothing came")?.stop()
    }

    /// How long ago they were written when they came.
    #[must_use]
    pub fn latency(&self) -> Latency {
        self.0.ages.lock().unwrap_or_else(PoisonError::into_inner).latency()
    }
}
