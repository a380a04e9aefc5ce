//! `sqlite://`: what durability costs, beside the least that it can cost on the same disk.
//!
//! Files lie where temporary files do: `TMPDIR` chooses the disk. Whoever is compared takes turns, since a disk has good
//! and bad minutes.

mod acknowledged;
mod backlog;
mod bare;
mod batches;
mod breadth;
mod child;
mod expiry;
mod load;
mod processes;
mod reading;
mod wake;

use std::time::Duration;

use clap::ValueEnum;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike as _;
use tempfile::TempDir;

pub(crate) use self::child::Child;
use crate::Result;
use crate::row::Row;

const GROUP: &str = "sqlite";

/// How much of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Scale {
    /// A backlog of a million, and short turns.
    Quick,
    /// A backlog of ten millions.
    Full,
}

impl Scale {
    /// How often whoever is compared takes turns.
    pub(crate) fn rounds(self) -> usize {
        match self {
            Self::Quick => 3,
            Self::Full => 5,
        }
    }

    /// How long a turn is.
    fn turn(self) -> Duration {
        match self {
            Self::Quick => Duration::from_secs(2),
            Self::Full => Duration::from_secs(5),
        }
    }

    fn backlog(self) -> u64 {
        match self {
            Self::Quick => 1_000_000,
            Self::Full => 10_000_000,
        }
    }

    /// Messages that have expired.
    fn expired(self) -> u64 {
        match self {
            Self::Quick => 200_000,
            Self::Full => 1_000_000,
        }
    }
}

/// A part of the group that can be measured alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Step {
    /// 64 publishers, each awaiting its own acknowledgement, beside a bare append.
    Acknowledged,
    /// The same in several processes.
    Processes,
    /// Batches, beside `rusqlite` alone.
    Batches,
    /// Reading, opening and holding a large backlog.
    Backlog,
    /// How soon another process has what was published.
    Wake,
    /// Publishing while expired messages are deleted.
    Expiry,
    /// Many subscriptions, many keys.
    Breadth,
}

/// Measures these steps, or all.
pub(crate) fn run(scale: Scale, steps: &[Step]) -> Result<Vec<Row>> {
    let steps = if steps.is_empty() { Step::value_variants() } else { steps };
    let runtime = bench_harness::two_threads()?;
    let mut rows = Vec::new();
    for step in steps {
        rows.extend(runtime.block_on(async {
            match step {
                Step::Acknowledged => acknowledged::run(scale).await,
                Step::Processes => processes::run(scale),
                Step::Batches => batches::run(scale).await,
                Step::Backlog => backlog::run(scale).await,
                Step::Wake => wake::run(scale).await,
                Step::Expiry => expiry::run(scale).await,
                Step::Breadth => breadth::run(scale).await,
            }
        })?);
    }
    Ok(rows)
}

/// A folder that goes when the step ends.
fn folder() -> Result<TempDir> {
    tempfile::tempdir().map_err(|e| format!("no folder for the files: {e}").into())
}

/// User and system time of this process.
fn cpu() -> Result<Duration> {
    let usage = getrusage(UsageWho::RUSAGE_SELF)?;
    let micros = usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
    Ok(Duration::from_micros(micros.try_into()?))
}

/// The figure in the middle.
fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Each turn's figure, in words.
fn spread(figures: &[f64]) -> String {
    figures.iter().map(|figure| format!("{figure:.0}")).collect::<Vec<_>>().join("/")
}
