//! What connects, starts, runs and ends.

use std::collections::BTreeMap;
use std::time::Duration;

use millstream::core::BoxFuture;
use millstream::{
    Bus, Driver, Drivers, End, EventRegistry, Outcome, Publisher, Result, Scheduler, State, Subscribe,
};
use millstream_memory::MemoryBroker;
use tokio::task::yield_now;
use tokio::time::sleep;

use crate::world::{Checked, Handled, OrderPlaced, World, ensure, order, sweep};

pub(crate) const FUNCTIONS: &[&str] = &[
    "Bus::connect",
    "Bus::connect_with",
    "Bus::start",
    "Bus::run_until",
    "Bus::run",
    "Drivers::connect",
    "Running::shutdown",
    "Running::ended",
    "Scheduler::start",
];

const ORDERS: [&str; 7] = ["a", "b", "cc", "dd", "ee", "fff", "ggg"];

/// Takes some time, so that there is something under way at any moment.
async fn handle(order: OrderPlaced, State(handled): State<Handled>) -> Outcome {
    sleep(Duration::from_millis(10)).await;
    handled.add(&order.id);
    Ok(())
}

fn bus(world: &World) -> Bus<Handled> {
    Bus::from_connection(world.connection())
        .with_state(world.handled.clone())
        .subscribe(handle.group("g").concurrency(2).workers(2))
}

/// Ends by itself.
fn bus_with_an_end(world: &World) -> Bus<Handled> {
    Bus::from_connection(world.connection())
        .with_state(world.handled.clone())
        .subscribe(handle.group("g").concurrency(2).until(End::Latest))
}

fn each(times: u32) -> BTreeMap<String, u32> {
    ORDERS.iter().map(|id| ((*id).to_owned(), times)).collect()
}

/// Runs what is left on a bus that is new; then every order is handled, and nothing is left.
async fn rest(world: &World) -> Checked {
    world.no_members("g").await?;
    let running = bus(world).start().await.map_err(|e| e.to_string())?;
    world.settled("g").await?;
    let report = running.shutdown().await;
    ensure!(report.is_clean(), "{report:?}");
    let handled = world.handled.all();
    ensure!(handled.keys().eq(each(1).keys()), "handled were {handled:?}");
    world.no_members("g").await
}

// ---- Connecting ----------------------------------------------------------------------------------------------

/// The memory driver, with waits.
fn slow_driver() -> Driver {
    Driver::new(&["slow"], |endpoint| -> BoxFuture<'static, Result<_>> {
        Box::pin(async move {
            yield_now().await;
            let broker = MemoryBroker::named(endpoint.host());
            yield_now().await;
            Ok(broker.connection())
        })
    })
}

#[test]
fn connecting_may_be_dropped_at_every_poll_and_done_again() {
    let drivers = Drivers::built_in().with(slow_driver());
    let name = "dropped-while-connecting";
    let works = async |again: Result<Bus>| -> Checked {
        let bus = again.map_err(|e| e.to_string())?;
        bus.publish(&order("a")).await.map_err(|e| e.to_string())?;
        MemoryBroker::named(name).shutdown();
        Ok(())
    };
    let url = format!("slow://{name}");
    let tally = sweep("Bus::connect_with", async |cut, _| {
        drop(cut.run(Bus::connect_with(&drivers, &url)).await.transpose().map_err(|e| e.to_string())?);
        works(Bus::connect_with(&drivers, &url).await).await
    });
    assert!(tally.deepest >= 2, "{tally}");
    sweep("Drivers::connect", async |cut, _| {
        drop(cut.run(drivers.connect(&url)).await.transpose().map_err(|e| e.to_string())?);
        works(Bus::connect_with(&drivers, &url).await).await
    });
    sweep("Bus::connect", async |cut, _| {
        let url = format!("memory://{name}");
        drop(cut.run(Bus::connect(&url)).await.transpose().map_err(|e| e.to_string())?);
        works(Bus::connect(&url).await).await
    });
}

// ---- Starting ------------------------------------------------------------------------------------------------

#[test]
fn starting_may_be_dropped_at_every_poll_and_leaves_nothing_running() {
    let tally = sweep("Bus::start", async |cut, _| {
        let world = World::new();
        world.publish(&ORDERS).await;
        let two = bus(&world).subscribe(handle.group("h"));

        let started = cut.run(two.start()).await.transpose().map_err(|e| e.to_string())?;

        let dropped = started.is_none();
        drop(started);
        world.no_members("h").await?;
        sleep(Duration::from_secs(1)).await;
        let handled = world.handled.all();
        ensure!(!dropped || handled.is_empty(), "something still runs: {handled:?}");
        rest(&world).await
    });
    assert!(tally.deepest >= 4, "{tally}");
    sweep("Scheduler::start", async |cut, _| {
        let world = World::new();
        world.publish(&ORDERS).await;
        let connection = world.connection();
        let scheduler = Scheduler::from_dyn(connection.reader, EventRegistry::new())
            .with_publisher(Publisher::from_dyn(connection.writer, EventRegistry::new()))
            .with_state(world.handled.clone())
            .subscribe(handle.group("g"));

        let started = cut.run(scheduler.start()).await.transpose().map_err(|e| e.to_string())?;

        let dropped = started.is_none();
        drop(started);
        sleep(Duration::from_secs(1)).await;
        let handled = world.handled.all();
        ensure!(!dropped || handled.is_empty(), "something still runs: {handled:?}");
        rest(&world).await
    });
}

// ---- Running -------------------------------------------------------------------------------------------------

#[test]
fn running_may_be_dropped_at_every_poll_and_loses_nothing() {
    let tally = sweep("Bus::run_until", async |cut, seed| {
        let world = World::new();
        world.publish(&ORDERS).await;
        let stop = async {
            // Wakes the future that is dropped, at every stage of the work.
            for _ in 0..8 {
                sleep(Duration::from_millis(2 + seed % 5)).await;
            }
        };

        let report = cut.run(bus(&world).run_until(stop)).await.transpose().map_err(|e| e.to_string())?;

        ensure!(report.as_ref().is_none_or(millstream::Report::is_clean), "{report:?}");
        rest(&world).await?;
        let twice = world.handled.all().values().filter(|times| **times > 1).count();
        ensure!(report.is_none() || twice == 0, "{twice} were handled twice, and it ended in order");
        ensure!(twice <= 2, "{twice} were handled twice, and two ran at a time");
        Ok(())
    });
    assert!(tally.deepest >= 10, "{tally}");
    sweep("Bus::run", async |cut, _| {
        let world = World::new();
        world.publish(&ORDERS).await;

        cut.run(bus_with_an_end(&world).run()).await.transpose().map_err(|e| e.to_string())?;

        rest(&world).await
    });
}

// ---- Ending --------------------------------------------------------------------------------------------------

#[test]
fn a_shutdown_goes_on_to_its_end_when_its_future_is_dropped() {
    let tally = sweep("Running::shutdown", async |cut, seed| {
        let world = World::new();
        world.publish(&ORDERS).await;
        let bus = bus(&world);
        let publisher = bus.publisher().clone();
        let running = bus.start().await.map_err(|e| e.to_string())?;
        sleep(Duration::from_millis(5 * seed)).await;

        let report = cut.run(running.shutdown()).await;

        ensure!(report.as_ref().is_none_or(millstream::Report::is_clean), "{report:?}");
        if cut.polls() > 0 {
            // The last that it does is to close the writer.
            let mut asked = 0;
            while publisher.publish_to("probe", &order("a")).await.is_ok() {
                asked += 1;
                ensure!(asked < 1_000, "the writer is open still");
                sleep(Duration::from_millis(100)).await;
            }
        }
        rest(&world).await?;
        let handled = world.handled.all();
        ensure!(cut.polls() == 0 || handled == each(1), "it ended in order, and handled {handled:?}");
        Ok(())
    });
    assert!(tally.under_way > 0, "{tally}");
}

#[test]
fn waiting_for_the_end_may_be_dropped_at_every_poll_and_done_again() {
    let tally = sweep("Running::ended", async |cut, _| {
        let world = World::new();
        world.publish(&ORDERS).await;
        let running = bus_with_an_end(&world).start().await.map_err(|e| e.to_string())?;

        let _ = cut.run(running.ended()).await;

        running.ended().await;
        let handled = world.handled.all();
        ensure!(handled == each(1), "handled were {handled:?}");
        let report = running.shutdown().await;
        ensure!(report.is_clean(), "{report:?}");
        Ok(())
    });
    assert!(tally.under_way > 0, "{tally}");
}
