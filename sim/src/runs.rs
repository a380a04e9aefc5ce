//! Many worlds: seed after seed, on as many threads as are wanted, until there are enough or the time is over.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::fault::Fault;
use crate::life::{Outcome, run};
use crate::phase::{Matrix, Phase};
use crate::plan::Plan;
use crate::trace::Keep;

/// Which worlds, and how many.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct Runs {
    /// The first seed; the others follow it.
    pub first: u64,
    /// So many; `None`: until the time is over.
    pub seeds: Option<u64>,
    /// No seed is begun after this long.
    pub within: Option<Duration>,
    /// Threads, a world at a time on each.
    pub threads: usize,
    /// So many of the first ones run twice, and must give the same trace.
    pub twice: u64,
}

impl Runs {
    /// So many seeds from the first one on.
    #[must_use]
    pub fn seeds(first: u64, seeds: u64) -> Self {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        Self { first, seeds: Some(seeds), within: None, threads, twice: 0 }
    }

    /// As many as fit into this time.
    #[must_use]
    pub fn within(first: u64, time: Duration) -> Self {
        Self { seeds: None, within: Some(time), ..Self::seeds(first, 0) }
    }

    /// Runs so many of them twice.
    #[must_use]
    pub fn twice(mut self, seeds: u64) -> Self {
        self.twice = seeds;
        self
    }

    /// Runs them. Ends early when several have failed: more would say no more.
    pub fn run(&self) -> Totals {
        let begun = Instant::now();
        let next = AtomicU64::new(0);
        let enough = AtomicBool::new(false);
        let totals = Mutex::new(Totals { first: self.first, ..Totals::default() });
        let work = || {
            while !enough.load(Ordering::Relaxed) {
                let number = next.fetch_add(1, Ordering::Relaxed);
                let over = self.seeds.is_some_and(|seeds| number >= seeds)
                    || self.within.is_some_and(|time| begun.elapsed() >= time);
                if over {
                    return;
                }
                let seed = self.first.wrapping_add(number);
                let outcome = run(Plan::of(seed), Keep::Hash);
                let again = (number < self.twice).then(|| run(Plan::of(seed), Keep::Hash).hash);
                let mut totals = totals.lock().unwrap_or_else(PoisonError::into_inner);
                totals.add(&outcome, again);
                totals.took = begun.elapsed();
                if totals.failed.len() >= Totals::ENOUGH {
                    enough.store(true, Ordering::Relaxed);
                }
            }
        };
        std::thread::scope(|scope| {
            for _ in 0..self.threads.max(1) {
                scope.spawn(work);
            }
        });
        totals.into_inner().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What many worlds came to.
#[derive(Debug, Default)]
#[must_use = "a run that nobody reads proves nothing"]
#[non_exhaustive]
pub struct Totals {
    /// The first seed.
    pub first: u64,
    /// Seeds that were run.
    pub seeds: u64,
    /// Those of them that were calm.
    pub calm: u64,
    /// Time that passed in the worlds.
    pub simulated: Duration,
    /// Messages confirmed to whoever published them.
    pub acked: u64,
    /// Runs of handlers.
    pub runs: u64,
    /// Faults.
    pub faults: u64,
    /// Deliveries twice that a fault explains.
    pub explained: u64,
    /// Seeds that ran twice, and those of them that gave the same trace.
    pub twice: (u64, u64),
    /// What struck when.
    pub matrix: Matrix,
    /// The seeds that failed, with what they found.
    pub failed: Vec<(u64, String)>,
    /// How long it took.
    pub took: Duration,
}

impl Totals {
    /// Failed seeds after which a run ends.
    const ENOUGH: usize = 5;
    /// Violations of a seed that are shown.
    const SHOWN: usize = 3;

    fn add(&mut self, outcome: &Outcome, again: Option<u64>) {
        self.seeds += 1;
        self.calm += u64::from(outcome.calm);
        self.simulated += outcome.time;
        self.acked += outcome.acked;
        self.runs += outcome.runs;
        self.faults += outcome.faults;
        self.explained += outcome.explained;
        self.matrix.merge(&outcome.matrix);
        let mut said: Vec<String> =
            outcome.violations.iter().take(Self::SHOWN).map(ToString::to_string).collect();
        if let Some(hash) = again {
            self.twice.0 += 1;
            self.twice.1 += u64::from(hash == outcome.hash);
            if hash != outcome.hash {
                said.push(format!(
                    "the trace differs when it runs again: {:016x} and {hash:016x}",
                    outcome.hash
                ));
            }
        }
        if !said.is_empty() {
            let more = outcome.violations.len().saturating_sub(Self::SHOWN);
            if more > 0 {
                said.push(format!("and {more} more"));
            }
            self.failed.push((outcome.seed, said.join("\n    ")));
        }
    }

    /// Whether every check held in every world.
    #[must_use]
    pub fn is_ok(&self) -> bool {
        self.failed.is_empty()
    }

    /// The faults that struck in no world at some phase.
    #[must_use]
    pub fn zero(&self) -> Vec<(Fault, Phase)> {
        self.matrix.zero()
    }
}

impl fmt::Display for Totals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}\n", self.matrix)?;
        writeln!(
            f,
            "{} seeds from {} on, {} of them calm, in {:.0} s: {:.1} simulated hours, {} messages acknowledged, \
             {} handler runs, {} faults, {} duplicates explained, {} of {} traces the same again, {} seeds failed",
            self.seeds,
            self.first,
            self.calm,
            self.took.as_secs_f64(),
            self.simulated.as_secs_f64() / 3_600.0,
            self.acked,
            self.runs,
            self.faults,
            self.explained,
            self.twice.1,
            self.twice.0,
            self.failed.len(),
        )?;
        let zero = self.zero();
        if !zero.is_empty() {
            let zero: Vec<String> =
                zero.iter().map(|(fault, phase)| format!("{fault} while {phase}")).collect();
            writeln!(f, "{} cells are zero: {}", zero.len(), zero.join(", "))?;
        }
        for (seed, what) in &self.failed {
            writeln!(
                f,
                "seed {seed} failed; see it with: cargo xtask sim --seed {seed} --trace\n    {what}"
            )?;
        }
        Ok(())
    }
}
