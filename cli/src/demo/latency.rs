//! How long orders took, from the moment they were meant to be sent to their first effect.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use hdrhistogram::Histogram;
use millstream::{Error, ErrorKind, Result};
use serde::Serialize;

/// Three digits: a p99 of 12.3 ms is that, not 12 or 13.
const DIGITS: u8 = 3;
/// What takes longer counts as this.
const LONGEST: Duration = Duration::from_secs(3_600);

/// Collects durations in constant memory; from any thread.
#[derive(Debug)]
pub(crate) struct Latencies {
    micros: Mutex<Histogram<u64>>,
}

/// What was collected, in milliseconds; zeros if there was nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub(crate) struct Latency {
    pub(crate) p50_ms: f64,
    pub(crate) p90_ms: f64,
    pub(crate) p99_ms: f64,
    pub(crate) p999_ms: f64,
    pub(crate) max_ms: f64,
}

impl Latencies {
    pub(crate) fn new() -> Result<Self> {
        let micros = Histogram::new_with_bounds(1, micros(LONGEST), DIGITS)
            .map_err(|e| Error::new(ErrorKind::Internal, "the histogram cannot be made").source(e))?;
        Ok(Self { micros: Mutex::new(micros) })
    }

    pub(crate) fn record(&self, took: Duration) {
        self.micros.lock().unwrap_or_else(PoisonError::into_inner).saturating_record(micros(took));
    }

    pub(crate) fn summary(&self) -> Latency {
        let micros = self.micros.lock().unwrap_or_else(PoisonError::into_inner);
        let at = |quantile| ms(micros.value_at_quantile(quantile));
        Latency {
            p50_ms: at(0.5),
            p90_ms: at(0.9),
            p99_ms: at(0.99),
            p999_ms: at(0.999),
            max_ms: ms(micros.max()),
        }
    }
}

fn micros(duration: Duration) -> u64 {
    duration.as_micros().try_into().unwrap_or(u64::MAX)
}

fn ms(micros: u64) -> f64 {
    micros as f64 / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_those_of_what_was_recorded() {
        let latencies = Latencies::new().unwrap();
        (1..=1_000).for_each(|ms| latencies.record(Duration::from_millis(ms)));
        let Latency { p50_ms, p99_ms, max_ms, .. } = latencies.summary();
        assert!((499.0..=501.0).contains(&p50_ms), "{p50_ms}");
        assert!((989.0..=991.0).contains(&p99_ms), "{p99_ms}");
        assert!((999.0..=1_001.0).contains(&max_ms), "{max_ms}");
    }

    #[test]
    fn nothing_recorded_is_zero() {
        assert_eq!(Latencies::new().unwrap().summary(), Latency::default());
    }
}
