//! The conformance suite turns red on every planted bug, by the case that is meant to catch it, and is green
//! on the same driver without one.

use std::process::ExitCode;

use libtest_mimic::{Arguments, Trial};
use millstream_core::{BoxFuture, Connection, Order, Result};
use millstream_testkit::conformance::{Harness, Scale, run};
use millstream_testkit::planted::{Bug, PlantedBroker};
use millstream_testkit::sim::Shape;

struct Planted(PlantedBroker);

impl Harness for Planted {
    fn connect(&self) -> BoxFuture<'_, Result<Connection>> {
        Box::pin(async { Ok(self.0.connection()) })
    }

    fn scale(&self) -> Scale {
        Scale::paused()
    }
}

fn is_caught(bug: Bug) -> bool {
    let report = run(Planted(PlantedBroker::new(bug)), |case| case == bug.caught_by());
    assert_eq!(report.cases.len(), 1, "there is no case {}", bug.caught_by());
    !report.is_green()
}

fn main() -> ExitCode {
    let caught = Bug::ALL.iter().map(|&bug| {
        Trial::test(format!("{} is caught by {}", bug.name(), bug.caught_by()), move || {
            if is_caught(bug) { Ok(()) } else { Err("the case passed".into()) }
        })
    });
    let shapes = [
        Shape::WholeLog,
        Shape::standard_queue(),
        Shape::fifo_queue(),
        Shape::LeaseQueue { order: Order::Key, visibility: std::time::Duration::from_secs(2) },
        Shape::Partitioned { partitions: 4 },
    ];
    let sound = shapes.map(|shape| {
        Trial::test(format!("without a bug all is green: {shape:?}"), move || {
            let report = run(Planted(PlantedBroker::sound(shape)), |_| true);
            if report.is_green() { Ok(()) } else { Err(report.to_string().into()) }
        })
    });
    libtest_mimic::run(&Arguments::from_args(), caught.chain(sound).collect()).exit_code()
}
