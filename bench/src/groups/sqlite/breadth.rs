//! Many subscriptions on one file, and many keys.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use millstream::prelude::*;
use millstream_core::Writer;
use millstream_sqlite::SqliteStore;

use super::reading::{Reading, fill, message};
use super::{GROUP, Scale, folder, median, spread};
use crate::Result;
use crate::row::{Goal, Row};

const SUBSCRIPTIONS: usize = 1_000;
const KEYS: u64 = 1_000_000;
/// Messages published to all subscriptions, and in a batch to one of them, so that each has its batch.
const ALL: u64 = 200_000;
const BATCH: u64 = 200;

pub(super) async fn run(scale: Scale) -> Result<Vec<Row>> {
    let mut turns = [(); 4].map(|()| Vec::new());
    for _ in 0..scale.rounds() {
        turns[0].push(subscriptions(1).await?);
        turns[1].push(subscriptions(SUBSCRIPTIONS).await?);
        turns[2].push(keys(1).await?);
        turns[3].push(keys(KEYS).await?);
    }
    let [one, many, one_key, many_keys] = turns;
    Ok(vec![
        row("1,000 subscriptions on a file, 200 messages each", &many, "one subscription", &one),
        row("1,000,000 keys", &many_keys, "one key", &one_key),
    ])
}

fn row(name: &str, many: &[f64], peer: &str, one: &[f64]) -> Row {
    Row::new(GROUP, name, median(many.to_vec()), "ns a message")
        .beside(peer, median(one.to_vec()))
        .goal(Goal::AtMost(1.5))
        .detail(format!("turns {} beside {}", spread(many), spread(one)))
}

/// Takes messages, since one type of event has one topic.
async fn count(message: Message, State(handled): State<Arc<AtomicU64>>) -> Outcome {
    std::hint::black_box(message.decode::<Reading>()?);
    handled.fetch_add(1, Ordering::Relaxed);
    Ok(())
}

/// Nanoseconds a message, from the first that is published to the last that is acknowledged.
async fn subscriptions(many: usize) -> Result<f64> {
    let folder = folder()?;
    let store = SqliteStore::open(folder.path().join("app.db")).await?;
    let handled = Arc::new(AtomicU64::new(0));
    let mut bus = Bus::from_connection(store.connection()).with_state(Arc::clone(&handled));
    let topics: Vec<String> = (0..many).map(|n| format!("readings.{n}")).collect();
    for topic in &topics {
        bus = bus.subscribe_to(topic.clone(), count.group("g"));
    }
    let running = bus.start().await?;
    let writer = store.writer();
    let begun = Instant::now();
    for (first, topic) in (0..ALL).step_by(BATCH as usize).zip(topics.iter().cycle()) {
        let batch = (first..first + BATCH).map(|number| message(topic, number, ALL, SystemTime::now()));
        writer.write(batch.collect::<Result<Vec<_>>>()?).await?.into_result()?;
    }
    let control = running.control();
    while handled.load(Ordering::Relaxed) < ALL || control.in_flight() > 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let took = begun.elapsed();
    running.shutdown().await;
    Ok(took.as_nanos() as f64 / ALL as f64)
}

/// Nanoseconds a message of a backlog.
async fn keys(keys: u64) -> Result<f64> {
    let folder = folder()?;
    let store = SqliteStore::open(folder.path().join("app.db")).await?;
    fill(&store.writer(), "readings", KEYS, keys, SystemTime::now()).await?;
    let handled = Arc::new(AtomicU64::new(0));
    let bus = Bus::from_connection(store.connection()).with_state(Arc::clone(&handled));
    let begun = Instant::now();
    let running = bus.subscribe_to("readings", count.group("g")).start().await?;
    let control = running.control();
    while handled.load(Ordering::Relaxed) < KEYS || control.in_flight() > 0 {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let took = begun.elapsed();
    running.shutdown().await;
    Ok(took.as_nanos() as f64 / KEYS as f64)
}
