//! What publishes, and what closes a publisher.

use millstream::{Bus, ErrorKind, EventRegistry, Message, PublishOptions, Publisher, Result, WriteReport};
use millstream_testkit::cancel::Cut;

use crate::world::{Checked, TOPIC, World, ensure, order, sweep};

pub(crate) const FUNCTIONS: &[&str] = &[
    "Bus::publish",
    "Bus::publish_to",
    "Bus::publish_with",
    "Bus::publish_all",
    "Bus::publish_message",
    "Bus::publish_messages",
    "Bus::close",
    "Publisher::publish",
    "Publisher::publish_to",
    "Publisher::publish_with",
    "Publisher::publish_all",
    "Publisher::publish_message",
    "Publisher::publish_messages",
    "Publisher::publish_now",
    "Publisher::close",
];

const FIVE: [&str; 5] = ["a", "b", "c", "d", "e"];

fn bus(world: &World) -> Bus {
    Bus::from_connection(world.connection())
}

fn publisher(world: &World) -> Publisher {
    Publisher::from_dyn(world.connection().writer, EventRegistry::new())
}

/// Publishes `ids` with a cut; what is there then is a part from the beginning, all of it if it said so, and none of
/// it if it was never polled. Publishing works afterwards.
async fn dropped<F: Future<Output = Result<()>>>(
    world: &World,
    cut: &Cut,
    ids: &[&str],
    publish: F,
    after: &Publisher,
) -> Checked {
    let done = cut.run(publish).await;

    if let Some(Err(error)) = &done {
        return Err(error.to_string());
    }
    let there = world.orders(TOPIC).await;
    ensure!(ids.iter().take(there.len()).eq(&there), "of {ids:?} there are {there:?}");
    ensure!(done.is_none() || there.len() == ids.len(), "it was said to be published: {there:?}");
    ensure!(cut.polls() > 0 || there.is_empty(), "it was never polled, and published {there:?}");
    after.publish(&order("after")).await.map_err(|e| e.to_string())?;
    let now = world.orders(TOPIC).await;
    ensure!(now.len() == there.len() + 1 && now.ends_with(&["after".to_owned()]), "then there are {now:?}");
    Ok(())
}

#[test]
fn publishing_one_may_be_dropped_at_every_poll() {
    // A function a case: each makes its message in its own way.
    let cases: [(&str, Publish); 11] = [
        ("Bus::publish", |bus, _| Box::pin(async move { bus.publish(&order("a")).await })),
        ("Bus::publish_to", |bus, _| Box::pin(async move { bus.publish_to(TOPIC, &order("a")).await })),
        ("Bus::publish_with", |bus, _| {
            Box::pin(async move { bus.publish_with(&order("a"), PublishOptions::new().id("1")).await })
        }),
        ("Bus::publish_message", |bus, _| Box::pin(bus.publish_message(World::new().message("a")))),
        ("Publisher::publish", |_, publisher| Box::pin(async move { publisher.publish(&order("a")).await })),
        ("Publisher::publish_to", |_, publisher| {
            Box::pin(async move { publisher.publish_to(TOPIC, &order("a")).await })
        }),
        ("Publisher::publish_with", |_, publisher| {
            Box::pin(async move { publisher.publish_with(&order("a"), PublishOptions::new().id("1")).await })
        }),
        ("Publisher::publish_message", |_, publisher| {
            Box::pin(publisher.publish_message(World::new().message("a")))
        }),
        ("Publisher::publish_now", |_, publisher| {
            Box::pin(async move { publisher.publish_now(&order("a")).await })
        }),
        ("Publisher::now", |_, publisher| {
            let now = publisher.now();
            Box::pin(async move { now.publish(&order("a")).await })
        }),
        ("a bus's publisher", |bus, _| {
            let publisher = bus.publisher().clone();
            Box::pin(async move { publisher.publish(&order("a")).await })
        }),
    ];
    for (name, publish) in cases {
        let tally = sweep(name, async |cut, _| {
            let world = World::new();
            let (bus, publisher) = (bus(&world), publisher(&world));
            dropped(&world, cut, &["a"], publish(&bus, &publisher), &publisher).await
        });
        assert!(tally.deepest >= 2, "{name}: {tally}");
    }
}

fn five() -> Vec<Message> {
    FIVE.map(|id| World::new().message(id)).to_vec()
}

async fn whole(publishing: impl Future<Output = Result<WriteReport>>) -> Result<()> {
    publishing.await?.into_result()
}

type Publish = for<'a> fn(&'a Bus, &'a Publisher) -> Publishing<'a>;

type Publishing<'a> = std::pin::Pin<Box<dyn Future<Output = Result<()>> + 'a>>;

#[test]
fn publishing_several_may_be_dropped_at_every_poll_and_leaves_a_part_from_the_beginning() {
    let all: [(&str, Publish); 4] = [
        ("Bus::publish_all", |bus, _| {
            Box::pin(async move { bus.publish_all(&FIVE.map(order)).await?.into_result() })
        }),
        ("Bus::publish_messages", |bus, _| Box::pin(whole(bus.publish_messages(five())))),
        ("Publisher::publish_all", |_, publisher| {
            Box::pin(async move { publisher.publish_all(&FIVE.map(order)).await?.into_result() })
        }),
        ("Publisher::publish_messages", |_, publisher| Box::pin(whole(publisher.publish_messages(five())))),
    ];
    for (name, publish) in all {
        let tally = sweep(name, async |cut, _| {
            let world = World::new();
            let (bus, publisher) = (bus(&world), publisher(&world));
            dropped(&world, cut, &FIVE, publish(&bus, &publisher), &publisher).await
        });
        // Three parts, each with a wait before and after.
        assert!(tally.deepest >= 6, "{name}: {tally}");
    }
}

/// A publisher whose closing was dropped: it is closed or it is not, and closing it again comes to the end.
async fn closed(world: &World, cut: &Cut, first: Option<Result<()>>, publisher: &Publisher) -> Checked {
    ensure!(!matches!(first, Some(Err(_))), "{first:?}");
    let between = publisher.publish(&order("between")).await;
    match &between {
        Ok(()) => ensure!(cut.polls() == 0, "it took an event after it was asked to close"),
        Err(error) => ensure!(error.kind() == ErrorKind::BusIsShutdown, "{error}"),
    }
    publisher.close().await.map_err(|e| e.to_string())?;
    let late = publisher.publish(&order("late")).await;
    ensure!(
        late.is_err_and(|e| e.kind() == ErrorKind::BusIsShutdown),
        "it took an event after it was closed"
    );
    let there = world.orders(TOPIC).await;
    let kept = if between.is_ok() { vec!["before", "between"] } else { vec!["before"] };
    ensure!(there == kept, "there are {there:?}");
    Ok(())
}

#[test]
fn closing_may_be_dropped_at_every_poll_and_done_again() {
    let tally = sweep("Publisher::close", async |cut, _| {
        let world = World::new();
        let publisher = publisher(&world);
        publisher.publish(&order("before")).await.map_err(|e| e.to_string())?;
        let first = cut.run(publisher.close()).await;
        closed(&world, cut, first, &publisher).await
    });
    assert!(tally.deepest >= 2, "{tally}");
    sweep("Bus::close", async |cut, _| {
        let world = World::new();
        let bus = bus(&world);
        let publisher = bus.publisher().clone();
        publisher.publish(&order("before")).await.map_err(|e| e.to_string())?;
        let first = cut.run(bus.close()).await;
        closed(&world, cut, first, &publisher).await
    });
}
