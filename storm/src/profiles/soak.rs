//! A million messages and more through one process: its memory stays what it was once it has warmed up, and in the end it
//! has given back files, threads and tasks.

use super::Scale;
use super::memory::{row, run, url};
use crate::bulk::{Options, Way};
use crate::launch::Launch;
use crate::report::Row;
use crate::{Result, scratch};

/// Messages until it has warmed up, and those that are looked at.
const WARM_UP: u64 = 500_000;
const LOOKED_AT: u64 = 1_000_000;
/// What the memory may grow by on the way, in KiB: nothing but noise in full; a tenth of it is hardly warm.
const GROWTH: (u64, u64) = (1_024, 4_096);

pub(super) fn sqlite(scale: Scale) -> Result<Row> {
    let folder = scratch::folder("soak")?;
    steady(scale, &url(&folder.path().join("storm.db")))
}

pub(super) fn memory(scale: Scale) -> Result<Row> {
    steady(scale, "memory://")
}

fn steady(scale: Scale, url: &str) -> Result<Row> {
    let (warm_up, looked_at) = (scale.of(WARM_UP, WARM_UP / 10), scale.of(LOOKED_AT, LOOKED_AT / 10));
    let options = Options { url: url.into(), messages: warm_up + looked_at, size: 256, way: Way::Steady };
    let report = run(&options, &Launch::default())?;
    let mut row = row(&options, &report);
    let warm: Vec<(u64, u64)> = report.memory.iter().copied().filter(|(at, _)| *at >= warm_up).collect();
    let growth = slope(&warm) * looked_at as f64;
    // Rounded up: what is left of a KiB counts.
    row.measured("grown_by_kib", growth.max(0.0).ceil() as u64);
    row.measured("memory_mib", report.memory.last().map_or(0, |(_, kib)| kib / 1_024));
    row.at_most("grown_by_kib", scale.of(GROWTH.0, GROWTH.1));
    let held = report.after;
    row.detail = format!(
        "{looked_at} messages after {warm_up}; {} files, {} threads, {} tasks before and after",
        held.files, held.threads, held.tasks
    );
    Ok(row)
}

/// KiB a message, by least squares.
fn slope(samples: &[(u64, u64)]) -> f64 {
    let count = samples.len().max(1) as f64;
    let mean = |of: fn(&(u64, u64)) -> u64| samples.iter().map(of).sum::<u64>() as f64 / count;
    let (x, y) = (mean(|sample| sample.0), mean(|sample| sample.1));
    let both: f64 = samples.iter().map(|(at, kib)| (*at as f64 - x) * (*kib as f64 - y)).sum();
    let one: f64 = samples.iter().map(|(at, _)| (*at as f64 - x).powi(2)).sum();
    if one == 0.0 { 0.0 } else { both / one }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leak_shows_and_noise_does_not() {
        let leak: Vec<_> = (0..100).map(|n| (n * 10_000, 5_000 + n * 10)).collect();
        assert!((slope(&leak) * 1e6 - 1_000.0).abs() < 1.0);
        let noise: Vec<_> = (0..100).map(|n| (n * 10_000, 5_000 + n % 2 * 100)).collect();
        assert!((slope(&noise) * 1e6).abs() < 10.0);
        assert!(slope(&[]).abs() < 1e-9);
    }
}
