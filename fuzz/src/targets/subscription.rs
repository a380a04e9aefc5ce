//! A message of any program through a whole subscription: it ends in exactly one place, and as a dead letter it is kept
//! byte for byte.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use millstream::core::{Admin as _, Writer as _};
use millstream::{
    Bus, DeadLetter, Event, LeaseRenewal, Message, Outcome, Retry, Settings, Subscribe as _, TimeSource,
    event, names,
};
use millstream_memory::MemoryBroker;
use serde::{Deserialize, Serialize};

use super::message::hostile;
use super::{Target, wait};
use crate::input::{Input, Seed};

pub(super) const TARGET: Target = Target::new("subscription", run, seeds);

#[derive(Debug, Serialize, Deserialize)]
struct Numbered {
    n: i64,
}

impl Event for Numbered {
    type Format = event::Serde;
    const TOPIC: Option<&'static str> = Some("t");
    const TYPE: Option<&'static str> = Some("Numbered");
}

fn run(data: &[u8]) {
    let message = Message { topic: "t".into(), deliver_at: None, ..Input::new(data).message() };
    wait(ends_in_one_place(message));
}

async fn ends_in_one_place(message: Message) {
    let broker = MemoryBroker::new();
    let written = broker.writer().write(vec![message.clone()]).await.expect("written");
    assert!(written.is_all_written());
    let seen = Arc::new(Mutex::new(Vec::new()));
    let handler = {
        let seen = Arc::clone(&seen);
        move |event: Numbered, whole: Message| {
            seen.lock().expect("nobody panicked").push((event.n, whole));
            async { Ok(()) as Outcome }
        }
    };
    let running = Bus::from_connection(broker.connection())
        .settings(settings())
        .subscribe(handler.group("g").named("h").retry(Retry::none()))
        .start()
        .await
        .expect("started");
    let control = running.control();
    let ended = || {
        let counts = &control.counts()[0];
        counts.handled + counts.dead_lettered + counts.discarded + counts.skipped
    };
    for _ in 0..1_000 {
        if ended() > 0 && control.in_flight() == 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let report = running.shutdown().await;
    let counts = &report.subscriptions[0];
    assert!(report.is_clean(), "{report:?}");
    assert_eq!(counts.handled + counts.dead_lettered + counts.discarded + counts.skipped, 1, "{report:?}");

    let letters = broker.admin().dead_letters("t", None, 10).await.expect("listed");
    assert_eq!(letters.len() as u64, counts.dead_lettered);
    for letter in letters {
        let letter = DeadLetter::parse(letter.message);
        assert!(letter.class.is_some() || message.headers.len() > 100, "{letter:?}");
        as_it_was(&letter.original(), &message);
    }
    let seen = seen.lock().expect("nobody panicked");
    assert_eq!(seen.len() as u64, counts.handled);
    for (n, whole) in &*seen {
        as_it_was(whole, &message);
        assert_eq!(whole.decode::<Numbered>().expect("it was decoded once").n, *n);
    }
    let for_another = message.headers.get_str(names::REDRIVE_GROUP).is_some_and(|group| group != "g");
    assert_eq!(counts.skipped, u64::from(for_another));
}

fn as_it_was(came: &Message, sent: &Message) {
    assert_eq!((&came.key, &came.data), (&sent.key, &sent.data));
    assert_eq!((&came.content_type, came.time), (&sent.content_type, sent.time));
    assert!(came.id == sent.id || sent.id.is_empty());
    let own = |message: &Message| {
        let mut headers = message.headers.clone();
        headers.remove_prefix(names::DL_PREFIX);
        headers.remove(names::REDRIVE_GROUP);
        headers
    };
    assert_eq!(own(came), own(sent));
}

/// What makes a run repeat.
pub(super) fn settings() -> Settings {
    let mut settings = Settings::default();
    settings.time = TimeSource::Runtime;
    settings.leases = LeaseRenewal::Task;
    settings.seed = Some(7);
    settings
}

fn seeds() -> Vec<Vec<u8>> {
    hostile().iter().map(|message| Seed::new().message(message).done()).collect()
}
