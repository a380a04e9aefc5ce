//! Millstream's own locks and atomics under thousands of schedules.
//!
//! Each program of this crate builds sources of the product, the very files, with another `crate::sync`: `shuttle`'s
//! locks in place of the standard library's. `shuttle` runs threads one at a time and decides at every lock who goes on,
//! at random or with few changes of mind, which finds rare orders sooner. A schedule that fails is printed, and can be
//! run again.
//!
//! | program | builds | shows |
//! |---|---|---|
//! | `schedules-memory` | the memory driver | no message is lost, none comes twice, no wake-up is missed |
//! | `schedules-dedup` | the deduplication store | an id is handled once, and none stays reserved |
//! | `schedules-handover` | how work reaches the threads of the sqlite driver | all is taken once, in order, and nobody sleeps on |
//! | `schedules-woken` | how handlers are woken from other threads | every wake-up is followed by a poll |
//!
//! `tokio`'s own primitives are taken for right: between two of our locks they are one step. So is the engine's desk,
//! whose tasks meet at `tokio`'s bells alone; its tests run it on several threads instead.
//!
//! `SCHEDULES=100000` tries more than the usual number.

use std::time::Instant;

use shuttle::scheduler::{PctScheduler, RandomScheduler};
use shuttle::{Config, Runner};

/// How often a thread changes its mind, where that is rare.
const CHANGES: usize = 3;

/// Runs a case under half as many random schedules as were asked for, and half as many with few changes.
///
/// # Panics
/// If the case does, under any of them.
pub fn explore(name: &str, case: fn()) {
    let asked = std::env::var("SCHEDULES").ok().and_then(|count| count.parse().ok()).unwrap_or(2_000);
    let begun = Instant::now();
    let half = (asked / 2usize).max(1);
    // The drivers look at the clock, and wait for it; here nothing is ever due.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
    let runtime = runtime.expect("the runtime starts");
    let _entered = runtime.enter();
    let mut config = Config::new();
    config.stack_size = 1 << 18;
    // It says that all atomics are taken for `SeqCst`; ours are flags beside locks.
    config.silence_warnings = true;
    let schedules = Runner::new(RandomScheduler::new(half), config.clone()).run(case)
        + Runner::new(PctScheduler::new(CHANGES, half), config).run(case);
    println!("{name:<60} {schedules:>7} schedules, {:.1} s", begun.elapsed().as_secs_f64());
}
