//! A message with any headers in a group's park: it comes back as it was, when it is due, and holds up nobody else.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use millstream::core::Writer as _;
use millstream::{Bus, Message, Outcome, Retry, Subscribe as _, names};
use millstream_testkit::sim::{Shape, SimBroker};

use super::message::hostile;
use super::subscription::settings;
use super::{Target, wait};
use crate::input::{Input, Seed};

pub(super) const TARGET: Target = Target::new("park", run, seeds);

fn run(data: &[u8]) {
    let message = Message { topic: "t.g.park".into(), deliver_at: None, ..Input::new(data).message() };
    wait(comes_back(message));
}

async fn comes_back(parked: Message) {
    let broker = SimBroker::builder().shape(Shape::Partitioned { partitions: 1 }).build();
    let other = Message::new("t", "x").with_id("another").with_key("another key");
    for message in [parked.clone(), other] {
        assert!(broker.writer().write(vec![message]).await.expect("written").is_all_written());
    }
    let seen = Arc::new(Mutex::new(Vec::new()));
    let handler = {
        let seen = Arc::clone(&seen);
        move |message: Message| {
            seen.lock().expect("nobody panicked").push(message);
            async { Ok(()) as Outcome }
        }
    };
    let running = Bus::from_connection(broker.connection())
        .settings(settings())
        .subscribe_to("t", handler.group("g").named("h").retry(Retry::none()))
        .start()
        .await
        .expect("started");
    tokio::time::sleep(Duration::from_secs(5)).await;
    let report = running.shutdown().await;
    assert!(report.is_clean(), "{report:?}");
    let seen = seen.lock().expect("nobody panicked");
    assert!(seen.iter().any(|message| message.id == "another"), "a parked message holds up another key");
    let for_another = parked.headers.get_str(names::REDRIVE_GROUP).is_some_and(|group| group != "g");
    let waits =
        parked.headers.get_str(names::PARK_DUE).is_some_and(|due| humantime::parse_rfc3339(due).is_ok());
    let back: Vec<_> = seen.iter().filter(|message| message.id != "another").collect();
    if !waits && !for_another && parked.id != "another" {
        assert_eq!(back.len(), 1, "it comes back once: {report:?}");
    }
    for message in back {
        assert_eq!((&*message.topic, &message.key, &message.data), ("t", &parked.key, &parked.data));
        let mut own = parked.headers.clone();
        own.remove_prefix(names::PARK_PREFIX);
        assert!(message.headers == own, "{:?} is not {own:?}", message.headers);
    }
}

fn seeds() -> Vec<Vec<u8>> {
    let parked = |due: &'static str, attempts: &'static str| {
        move |message: Message| {
            message
                .with_header(names::PARK_ATTEMPTS, attempts)
                .with_header(names::PARK_DUE, due)
                .with_header(names::PARK_PARTITION, "0")
                .with_header(names::PARK_POSITION, "42")
                .with_header(names::PARK_FIRST_FAILURE, "2026-11-24T12:00:00Z")
                .with_header(names::PARK_ERROR, "it failed")
        }
    };
    hostile()
        .into_iter()
        .map(parked("2026-11-24T12:00:00.123Z", "3"))
        .chain(hostile().into_iter().take(1).map(parked("9999-12-31T23:59:59Z", "4294967295")))
        .chain(hostile().into_iter().take(1).map(parked("2026-11-24T12:00:00Z", "4294967295")))
        .chain(hostile())
        .map(|message| Seed::new().message(&message).done())
        .collect()
}
