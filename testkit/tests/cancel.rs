//! Every async function of the contract, dropped at every poll, on the memory driver, its deduplication store and
//! every shape of the simulated broker. `CANCEL_SEEDS=200` tries more variations than the usual few.
#![allow(clippy::unwrap_used, reason = "a helper that fails fails its test")]

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use millstream::EmbeddedDedupStore;
use millstream_core::erased::DynDedupStore;
use millstream_core::{BoxFuture, Connection, Result};
use millstream_memory::MemoryBroker;
use millstream_testkit::cancel::driver::{
    FUNCTIONS, Report, STORE_FUNCTIONS, check, check_some, check_store,
};
use millstream_testkit::cancel::public::uncovered;
use millstream_testkit::conformance::{Harness, Scale};
use millstream_testkit::planted::{Bug, PlantedBroker};
use millstream_testkit::sim::{Shape, SimBroker};

fn seeds() -> u64 {
    std::env::var("CANCEL_SEEDS").ok().and_then(|n| n.parse().ok()).unwrap_or(4)
}

/// Prints how much was tried, and fails with what went wrong.
fn assert_kept(what: &str, report: Report) {
    println!("{what}:\n{report}\n");
    if let Err(failures) = report.into_result() {
        panic!("{what}:\n{failures}");
    }
}

struct Memory(MemoryBroker);

impl Harness for Memory {
    fn connect(&self) -> BoxFuture<'_, Result<Connection>> {
        Box::pin(async { Ok(self.0.connection()) })
    }

    fn scale(&self) -> Scale {
        Scale::paused()
    }
}

struct Sim(SimBroker);

impl Harness for Sim {
    fn connect(&self) -> BoxFuture<'_, Result<Connection>> {
        Box::pin(async { Ok(self.0.connection()) })
    }

    fn scale(&self) -> Scale {
        let mut scale = Scale::paused();
        // Members that vanish are noticed by their leases.
        scale.patience = Duration::from_secs(120);
        scale
    }
}

#[test]
fn the_memory_driver_may_be_dropped_at_every_poll() {
    assert_kept("memory", check(|| Memory(MemoryBroker::new()), seeds()));
}

#[test]
fn every_shape_of_the_simulated_broker_may_be_dropped_at_every_poll() {
    let shapes = [
        ("whole log", Shape::WholeLog),
        ("standard queue", Shape::standard_queue()),
        ("fifo queue", Shape::fifo_queue()),
        ("partitioned", Shape::Partitioned { partitions: 2 }),
    ];
    for (name, shape) in shapes {
        // It is ready at once nearly everywhere: what varies is the suite.
        assert_kept(name, check(|| Sim(SimBroker::builder().shape(shape).build()), 2));
    }
}

#[test]
fn the_store_in_memory_may_be_dropped_at_every_poll() {
    let make = || -> BoxFuture<'static, (Arc<dyn DynDedupStore>, ())> {
        Box::pin(async { (Arc::new(EmbeddedDedupStore::new(1_000)) as Arc<dyn DynDedupStore>, ()) })
    };
    assert_kept("embedded store", check_store(make, seeds()));
}

/// A connection is made by [`Harness::connect`], which every case begins with; a transaction of the caller's own is
/// the affair of the drivers that have one.
const ELSEWHERE: [&str; 2] = ["Driver::connect", "BoundWriter::write"];

#[test]
fn every_async_function_of_the_contract_and_the_memory_driver_has_a_case() {
    for folder in ["core/src", "drivers/memory/src"] {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(folder);
        let covered = FUNCTIONS.iter().chain(STORE_FUNCTIONS).chain(&ELSEWHERE).copied();
        let forgotten = uncovered(&folder, covered).unwrap();
        assert!(forgotten.is_empty(), "in {}: {forgotten:?}", folder.display());
    }
}

struct Planted(PlantedBroker);

impl Harness for Planted {
    fn connect(&self) -> BoxFuture<'_, Result<Connection>> {
        Box::pin(async { Ok(self.0.connection()) })
    }

    fn scale(&self) -> Scale {
        Scale::paused()
    }
}

#[test]
fn drivers_that_lose_or_keep_what_they_must_not_are_caught() {
    let bugs = [
        (Bug::DropsOnCancelledRead, "Source::read"),
        (Bug::ADroppedWriteLocksTheWriter, "Writer::write"),
        (Bug::WritesAfterClose, "Writer::close"),
        (Bug::AcksOnDrop, "Settler::settle"),
        (Bug::AcksOnDrop, "Settler::close"),
        (Bug::AcksOnDrop, "Source::close"),
        (Bug::DropsDeadLetters, "Settler::settle"),
        (Bug::ForgetsMarks, "Settler::mark"),
        (Bug::ExtendsNothing, "Leases::extend"),
        (Bug::NeverLeaves, "Source::close"),
    ];
    for (bug, function) in bugs {
        let report = check_some(|| Planted(PlantedBroker::new(bug)), 4, |name| name == function);
        assert!(!report.failures.is_empty(), "{bug:?} passes {function}");
    }
}
