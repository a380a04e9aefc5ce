//! Given messages that are not what a handler takes, and handlers that say how they end.

#![cfg(feature = "memory")]
#![allow(clippy::unwrap_used, reason = "a helper of tests is a test")]

mod common;

use common::{UserCreated, ada, memory_bus, until};
use millstream::policy::OtherTypes;
use millstream::{
    Batch, Bus, DeadLetters, Event, Extension, Failure, Key, Message, Outcome, Position, PublishOptions,
    Report, Retry, Subscribe, Units, names,
};

#[derive(Event, serde::Serialize, serde::Deserialize)]
#[event(topic = "shapes", type = "Circle")]
struct Circle {
    radius: u32,
}

async fn circle(_: Circle) {}

/// Runs until so many messages ended in some way; the topic's dead letters and the counts.
async fn ended(bus: Bus, letters: DeadLetters, messages: u64) -> (Vec<millstream::DeadLetter>, Report) {
    let running = bus.start().await.unwrap();
    let control = running.control();
    until(|| {
        let one = &control.counts()[0];
        one.handled + one.dead_lettered + one.discarded >= messages
    })
    .await;
    let report = running.shutdown().await;
    (letters.list(None, 100).await.unwrap(), report)
}

#[tokio::test(start_paused = true)]
async fn what_does_not_decode_is_dead_lettered_byte_for_byte_without_a_retry() {
    let bus = memory_bus().await;
    let letters = bus.dead_letters("user.created");
    let garbage =
        Message::new("user.created", "{\"user_id\":").with_content_type("application/json").with_key("k");
    bus.publish_message(garbage.clone()).await.unwrap();
    async fn handler(_: UserCreated) {}
    let (letters, report) = ended(bus.subscribe(handler.group("g")), letters, 1).await;
    assert_eq!((report.subscriptions[0].dead_lettered, report.subscriptions[0].retried), (1, 0));
    assert_eq!(letters[0].class.as_deref(), Some("decode"));
    assert_eq!(letters[0].message.data, garbage.data);
    let error = letters[0].error.as_deref().unwrap();
    assert!(
        error.contains("topic \"user.created\"")
            && error.contains("key \"k\"")
            && error.contains("group \"g\"")
    );
}

#[tokio::test(start_paused = true)]
async fn a_message_of_another_type_is_dead_lettered_unless_the_policy_discards_it() {
    for other in [OtherTypes::DeadLetter, OtherTypes::Discard] {
        let bus = memory_bus().await;
        let letters = bus.dead_letters("shapes");
        let square = PublishOptions::new().header(names::TYPE, "Square");
        bus.publish_with(&Circle { radius: 1 }, square).await.unwrap();
        bus.publish(&Circle { radius: 1 }).await.unwrap();
        let (letters, report) = ended(bus.subscribe(circle.group("g").other_types(other)), letters, 2).await;
        let one = &report.subscriptions[0];
        assert_eq!(one.handled, 1);
        match other {
            OtherTypes::DeadLetter => {
                assert_eq!((one.dead_lettered, one.discarded), (1, 0));
                assert!(letters[0].error.as_deref().unwrap().contains("\"Square\""));
            }
            OtherTypes::Discard => assert_eq!((one.dead_lettered, one.discarded, letters.len()), (0, 1, 0)),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_message_that_does_not_say_its_type_is_tried() {
    let bus = memory_bus().await;
    let letters = bus.dead_letters("shapes");
    bus.publish_message(Message::new("shapes", "{\"radius\":1}")).await.unwrap();
    let (_, report) = ended(bus.subscribe(circle.group("g")), letters, 1).await;
    assert_eq!(report.subscriptions[0].handled, 1);
}

#[tokio::test(start_paused = true)]
async fn a_bad_one_in_a_batch_does_not_take_the_others_along() {
    async fn all(_: Batch<Circle>) {}
    let bus = memory_bus().await;
    let letters = bus.dead_letters("shapes");
    for data in ["{\"radius\":1}", "garbage", "{\"radius\":2}"] {
        bus.publish_message(Message::new("shapes", data)).await.unwrap();
    }
    let (letters, report) = ended(bus.subscribe(all.group("g").batch(10, 10.ms())), letters, 3).await;
    assert_eq!((report.subscriptions[0].handled, letters.len()), (2, 1));
}

#[tokio::test(start_paused = true)]
async fn an_extractor_that_fails_ends_the_run_and_an_optional_one_does_not() {
    async fn needs_a_key(_: Message, _: Key) {}
    async fn takes_none(_: Message, key: Option<Key>, place: Result<Position, Failure>) {
        assert!(key.is_none() && place.is_ok());
    }
    async fn needs_a_layer(_: Message, _: Extension<u8>) {}
    for (handled, dead, class) in [(0, 1, Some("decode")), (1, 0, None), (0, 1, Some("unrecoverable"))] {
        let bus = memory_bus().await;
        let letters = bus.dead_letters("t");
        bus.publish_message(Message::new("t", "x")).await.unwrap();
        let bus = match class {
            Some("decode") => bus.subscribe_to("t", needs_a_key.group("g")),
            None => bus.subscribe_to("t", takes_none.group("g")),
            Some(_) => bus.subscribe_to("t", needs_a_layer.group("g")),
        };
        let (letters, report) = ended(bus, letters, 1).await;
        assert_eq!((report.subscriptions[0].handled, report.subscriptions[0].dead_lettered), (handled, dead));
        assert_eq!(letters.first().and_then(|l| l.class.as_deref()), class);
    }
}

#[tokio::test(start_paused = true)]
async fn any_error_is_retried_and_its_chain_and_type_are_kept() {
    async fn parses(_: UserCreated) -> Result<(), std::num::ParseIntError> {
        "seven".parse::<u32>().map(drop)
    }
    let bus = memory_bus().await;
    let letters = bus.dead_letters("user.created");
    bus.publish(&ada()).await.unwrap();
    let bus = bus.subscribe(parses.group("g").retry(Retry::fixed(1.ms()).attempts(3)));
    let (letters, report) = ended(bus, letters, 1).await;
    assert_eq!(report.subscriptions[0].retried, 2);
    assert_eq!(letters[0].class.as_deref(), Some("exhausted"));
    assert_eq!(letters[0].attempts, Some(3));
    assert_eq!(letters[0].error_type.as_deref(), Some("core::num::error::ParseIntError"));
}

#[tokio::test(start_paused = true)]
async fn discarding_is_counted_as_such() {
    async fn discards(_: UserCreated) -> Outcome {
        Err(Failure::discard("not wanted"))
    }
    let bus = memory_bus().await;
    let letters = bus.dead_letters("user.created");
    bus.publish(&ada()).await.unwrap();
    let (letters, report) = ended(bus.subscribe(discards.group("g")), letters, 1).await;
    assert_eq!((report.subscriptions[0].discarded, letters.len()), (1, 0));
}

#[cfg(feature = "anyhow")]
#[tokio::test(start_paused = true)]
async fn a_handler_may_return_an_anyhow_result() {
    async fn fails(_: UserCreated) -> anyhow::Result<()> {
        anyhow::bail!("no")
    }
    let bus = memory_bus().await;
    let letters = bus.dead_letters("user.created");
    bus.publish(&ada()).await.unwrap();
    let (letters, _) = ended(bus.subscribe(fails.group("g").retry(Retry::none())), letters, 1).await;
    assert_eq!(letters[0].error.as_deref(), Some("no"));
}
