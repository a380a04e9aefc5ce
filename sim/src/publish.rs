//! Publishers: they write in bursts, each for keys of its own, and publish anew what was not confirmed.

use std::sync::Arc;
use std::time::Duration;

use millstream::{EventRegistry, Publisher};
use millstream_core::{ByteString, Message, WriteOutcome};
use millstream_testkit::ledger::Record;
use tokio::time::sleep;

use crate::clock;
use crate::plan::ORDERS;
use crate::script::KILLER;
use crate::wire::Wire;
use crate::world::World;

/// Publishes one publisher's share of a wave.
pub(crate) async fn publish(world: Arc<World>, number: u64, wave: usize) {
    let plan = &world.plan;
    let link = world.connect();
    let name = ByteString::from(format!("publisher {number}"));
    let wire = Wire { world: Arc::clone(&world), link: Arc::clone(&link), name, members: Arc::default() };
    let publisher =
        Publisher::new(wire.writer(world.broker.writer()), EventRegistry::new()).with_clock(clock::now);
    let mut left = plan.waves[wave].messages / plan.publishers;
    let mut next = 0;
    if plan.mix.killer && number == 0 && wave == 1 {
        let killer = Message::new(ORDERS, "bang").with_id(KILLER).with_key("killing").with_header("n", "0");
        send(&world, &publisher, vec![killer]).await;
    }
    while left > 0 {
        let burst = world.draw(|random| random.u64(1..40)).min(left);
        left -= burst;
        let mut sent = 0;
        while sent < burst {
            // At most one message of a key: what fails in a batch is written behind what did not.
            let size = if world.draw(|random| random.u8(..4)) == 0 { 8 } else { 1 };
            let size = size.min(burst - sent).min(plan.keys);
            let first = world.draw(|random| random.u64(..plan.keys));
            let batch = (0..size).map(|i| {
                next += 1;
                order(&world, format!("{wave}-{number}-{next}"), number, (first + i) % plan.keys)
            });
            let batch: Vec<Message> = batch.collect();
            sent += size;
            send(&world, &publisher, batch).await;
            if world.draw(|random| random.u8(..8)) == 0 {
                sleep(Duration::from_millis(world.draw(|random| random.u64(1..100)))).await;
            }
        }
        sleep(Duration::from_millis(world.draw(|random| random.u64(100..4_000)))).await;
    }
    link.kill();
}

fn order(world: &World, id: String, publisher: u64, key: u64) -> Message {
    let size = world.draw(|random| random.usize(16..200));
    let mut data = id.clone().into_bytes();
    data.resize(size, b'.');
    let message = Message::new(ORDERS, data).with_id(id).with_header("n", publisher.to_string());
    if world.draw(|random| random.u64(..1_000)) < world.plan.mix.unkeyed {
        return message;
    }
    message.with_key(format!("{publisher}-{key}"))
}

/// Publishes until all of it is confirmed. A few are published twice, on purpose.
async fn send(world: &World, publisher: &Publisher, batch: Vec<Message>) {
    batch.iter().for_each(|message| world.intends_order(message));
    let copies: Vec<Message> = batch
        .iter()
        .filter(|_| world.draw(|random| random.u64(..1_000)) < world.plan.mix.copied)
        .cloned()
        .collect();
    confirmed(world, publisher, batch).await;
    for copy in copies {
        world.ledger.write(Record::MaybeWritten { id: copy.id.clone() });
        confirmed(world, publisher, vec![copy]).await;
    }
}

async fn confirmed(world: &World, publisher: &Publisher, mut batch: Vec<Message>) {
    while !batch.is_empty() {
        if let Ok(report) = publisher.publish_messages(batch.clone()).await {
            let mut outcomes = report.into_outcomes().into_iter();
            batch.retain(|_| !matches!(outcomes.next(), Some(WriteOutcome::Written(_))));
        }
        if !batch.is_empty() {
            sleep(Duration::from_millis(world.draw(|random| random.u64(10..1_000)))).await;
        }
    }
}
