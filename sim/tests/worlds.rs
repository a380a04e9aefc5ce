//! A few worlds in every test run: no check fails, and each repeats. `MILLSTREAM_SIM_SEED` sets the first seed
//! (a commit's hash in CI: `0x…` or decimal), `MILLSTREAM_SIM_SEEDS` how many there are.

use std::time::Duration;

use millstream_core::Order;
use millstream_sim::{Keep, Plan, Runs, Weather, run};
use millstream_testkit::sim::Shape;

/// What an environment variable says, in decimal or behind `0x`.
fn variable(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    let number = match text.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16),
        None => text.parse(),
    };
    Some(number.unwrap_or_else(|_| panic!("{name} is {text:?}, which is no number")))
}

const SHAPES: [Shape; 4] = [
    Shape::WholeLog,
    Shape::LeaseQueue { order: Order::None, visibility: Duration::from_secs(10) },
    Shape::LeaseQueue { order: Order::Key, visibility: Duration::from_secs(10) },
    Shape::Partitioned { partitions: 4 },
];

#[test]
fn in_a_few_worlds_of_faults_every_check_holds_and_each_world_repeats() {
    let first = variable("MILLSTREAM_SIM_SEED").unwrap_or(0);
    let totals = Runs::seeds(first, variable("MILLSTREAM_SIM_SEEDS").unwrap_or(8)).twice(1).run();
    println!("{totals}");
    assert!(totals.is_ok(), "{totals}");
    assert_eq!(totals.twice.0, totals.twice.1);
}

#[test]
fn in_calm_each_broker_makes_no_duplicate_and_nothing_is_late() {
    for shape in SHAPES {
        let outcome = run(Plan::with(1, shape, Weather::Calm), Keep::Hash);
        assert!(outcome.violations.is_empty(), "{shape:?}: {:#?}", outcome.violations);
        assert!(outcome.explained == 0 && outcome.acked > 500, "{outcome:?}");
    }
}

#[test]
fn in_a_storm_of_each_broker_something_is_broken_and_nothing_is_lost() {
    for shape in SHAPES {
        let outcome = run(Plan::with(2, shape, Weather::Stormy), Keep::Hash);
        assert!(outcome.violations.is_empty(), "{shape:?}: {:#?}", outcome.violations);
        assert!(outcome.faults > 10 && outcome.matrix.hits() > 5 && outcome.acked > 500, "{outcome:?}");
    }
}

#[test]
fn a_trace_can_be_read_and_does_not_change_what_happens() {
    let plan = Plan::of(3);
    let (told, silent) = (run(plan.clone(), Keep::Lines), run(plan, Keep::Hash));
    assert_eq!(told.hash, silent.hash);
    assert!(silent.lines.is_empty());
    let has = |what: &str| told.lines.iter().any(|line| line.contains(what));
    assert!(has("begins") && has("settles") && has("writes") && has("FAULT") && has("MENDED"));
}

#[test]
fn two_seeds_are_two_worlds() {
    assert_ne!(run(Plan::of(4), Keep::Hash).hash, run(Plan::of(5), Keep::Hash).hash);
}
