//! The conformance suite turns red on every planted bug, by the case that is meant to catch it, and is green
//! on the same driver without one.

use std::collections::BTreeSet;
use std::process::ExitCode;

use libtest_mimic::{Arguments, Trial};
use millstream_core::{BoxFuture, Connection, Order, Result};
use millstream_testkit::conformance::{Harness, Scale, all, run};
use millstream_testkit::planted::{Bug, PlantedBroker};
use millstream_testkit::sim::Shape;

struct Planted(PlantedBroker);

impl Harness for Planted {
    fn connect(&self) -> BoxFuture<'_, Result<Connection>> {
        Box::pin(async { Ok(self.0.connection()) })
    }

    fn restart(&self) -> Option<BoxFuture<'_, Result<()>>> {
        Some(Box::pin(async {
            self.0.restart();
            Ok(())
        }))
    }

    fn scale(&self) -> Scale {
        Scale::paused()
    }
}

fn is_caught(bug: Bug, case: &str) -> std::result::Result<(), String> {
    let report = run(Planted(PlantedBroker::new(bug)), |name| name == case);
    match report.counts() {
        (0, 1, 0) => Ok(()),
        _ => Err(format!("the case did not fail: {report}")),
    }
}

/// Every case catches a bug: one that cannot turn red proves nothing. No bug is planted in `Admin`, which is a
/// plain look at the simulated broker.
fn every_case_bites() -> std::result::Result<(), String> {
    let bites: BTreeSet<_> = Bug::ALL.iter().flat_map(|bug| bug.caught_by()).copied().collect();
    let all = all().into_iter().map(|case| case.name);
    let idle: Vec<_> = all
        .filter(|name| !bites.contains(name) && *name != "writing::a_topic_exists_once_it_was_ensured")
        .collect();
    if idle.is_empty() { Ok(()) } else { Err(format!("no planted bug is for {idle:?}")) }
}

fn main() -> ExitCode {
    let mut trials = vec![Trial::test("every case catches a bug", || every_case_bites().map_err(Into::into))];
    for &bug in Bug::ALL {
        for &case in bug.caught_by() {
            let name = format!("{} is caught by {case}", bug.name());
            trials.push(Trial::test(name, move || is_caught(bug, case).map_err(Into::into)));
        }
    }
    let shapes = [
        Shape::WholeLog,
        Shape::standard_queue(),
        Shape::fifo_queue(),
        Shape::LeaseQueue { order: Order::Key, visibility: std::time::Duration::from_secs(2) },
        Shape::Partitioned { partitions: 4 },
    ];
    trials.extend(shapes.map(|shape| {
        Trial::test(format!("without a bug all is green: {shape:?}"), move || {
            let report = run(Planted(PlantedBroker::sound(shape)), |_| true);
            if report.is_green() { Ok(()) } else { Err(report.to_string().into()) }
        })
    }));
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}
