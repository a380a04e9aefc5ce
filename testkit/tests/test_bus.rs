//! The test bus on a small program.

use std::time::Duration;

use millstream::prelude::*;
use millstream_testkit::TestBus;
use serde::{Deserialize, Serialize};

#[derive(Event, Serialize, Deserialize)]
#[event(topic = "order.placed", key = "customer")]
struct OrderPlaced {
    customer: String,
    cents: i64,
}

#[derive(Event, Serialize, Deserialize, Debug, PartialEq)]
#[event(topic = "order.billed", key = "customer")]
struct OrderBilled {
    customer: String,
    attempt: u32,
}

async fn bill(order: OrderPlaced, Attempt(attempt): Attempt, publisher: Publisher) -> Outcome {
    if order.cents < 0 {
        return Err(Failure::unrecoverable("a negative amount"));
    }
    publisher.publish(&OrderBilled { customer: order.customer, attempt }).await?;
    if attempt < 4 { Err(Failure::retry("the bank is busy")) } else { Ok(()) }
}

fn order(customer: &str, cents: i64) -> OrderPlaced {
    OrderPlaced { customer: customer.into(), cents }
}

#[tokio::test(start_paused = true)]
async fn retries_of_minutes_pass_at_once_and_only_success_publishes() {
    let begun = std::time::Instant::now();
    let bus = TestBus::start(|bus| {
        bus.subscribe(bill.group("billing").retry(Retry::fixed(Duration::from_secs(300)).attempts(10)))
    })
    .await
    .unwrap();

    bus.publish(&order("ada", 100)).await.unwrap();
    bus.quiet().await;

    assert_eq!(bus.published::<OrderBilled>().unwrap(), [OrderBilled { customer: "ada".into(), attempt: 4 }]);
    assert_eq!((bus.handled("billing"), bus.retried("billing")), (1, 3));
    assert!(begun.elapsed() < Duration::from_secs(60), "fifteen minutes of waiting took none");
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_handled_is_found_among_the_dead_letters() {
    let bus = TestBus::start(|bus| bus.subscribe(bill.group("billing"))).await.unwrap();

    bus.publish(&order("ada", -1)).await.unwrap();
    bus.publish_message(Message::new("order.placed", "not json")).await.unwrap();
    bus.quiet().await;

    let letters = bus.dead_letters("order.placed").await.unwrap();
    let classes: Vec<_> = letters.iter().map(|l| l.class.as_deref()).collect();
    assert_eq!(classes, [Some("unrecoverable"), Some("decode")]);
    assert_eq!(letters[0].error.as_deref(), Some("a negative amount"));
    assert!(bus.published::<OrderBilled>().unwrap().is_empty());
    assert!(bus.shutdown().await.is_clean());
}

#[tokio::test(start_paused = true)]
async fn duplicates_are_counted() {
    async fn count(_: OrderPlaced) -> Outcome {
        Ok(())
    }
    let bus =
        TestBus::start(|bus| bus.subscribe(count.group("stock").deduplicate(EmbeddedDedupStore::new(1_000))))
            .await
            .unwrap();

    for _ in 0..3 {
        let options = millstream::PublishOptions::new().id("order-7");
        bus.publish_with(&order("ada", 1), options).await.unwrap();
    }
    bus.quiet().await;

    assert_eq!((bus.handled("stock"), bus.duplicates("stock")), (1, 2));
}

#[tokio::test(start_paused = true)]
#[should_panic(expected = "did not come to rest")]
async fn a_bus_that_never_comes_to_rest_says_what_is_left() {
    async fn stuck(_: OrderPlaced) -> Outcome {
        std::future::pending().await
    }
    let bus = TestBus::start(|bus| bus.subscribe(stuck.group("stuck"))).await.unwrap();
    bus.publish(&order("ada", 1)).await.unwrap();
    bus.quiet_within(Duration::from_secs(60)).await;
}
