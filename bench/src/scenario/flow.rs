//! From published to handled through `memory://`, while both go on: one producer, two threads.

use std::hint::black_box;
use std::time::Duration;

use bench_harness::{Latch, Latency, Took, measured, two_threads};
use millstream::{Bus, Message, Outcome, Publisher, State, Subscribe};
use millstream_memory::MemoryBroker;
use tokio::time::{MissedTickBehavior, interval};

use super::backlog::end;
use super::event::{Order, Tick};
use super::sink::Clocked;
use crate::Result;

/// How the producer goes about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Load {
    /// As fast as it can, [`BATCH`] at once.
    Batches,
    /// As fast as it can, one after the other.
    Singly,
    /// [`PACED_AT_ONCE`] every [`PACE`], one after the other.
    Paced,
}

/// Messages a batch.
pub(super) const BATCH: usize = 64;
/// With [`PACED_AT_ONCE`]: 20,000 messages a second.
pub(super) const PACE: Duration = Duration::from_millis(1);
/// Messages that are published at each tick.
pub(super) const PACED_AT_ONCE: usize = 20;

async fn arrive(tick: Tick, State(clock): State<Clocked>) -> Outcome {
    clock.arrived(&tick);
    Ok(())
}

/// Typed, one producer, total order, the default bounds.
pub(super) fn ordered(messages: usize, load: Load) -> Result<(Took, Option<Latency>)> {
    let runtime = two_threads()?;
    let clock = Clocked::new(messages)?;
    let broker = MemoryBroker::new();
    let bus = Bus::from_connection(broker.connection())
        .with_state(clock.clone())
        .subscribe(arrive.group("bench").sequential());
    let publisher = bus.publisher().clone();
    let running = runtime.block_on(bus.start())?;
    let mut published: Result = Ok(());
    let took = measured(Box::new(|| {
        published = runtime.block_on(async {
            produce(&publisher, &clock, messages, load).await?;
            clock.drained().await;
            Ok(())
        });
    }))?;
    published?;
    end(&runtime, running, messages)?;
    Ok((took, Some(clock.latency())))
}

async fn produce(publisher: &Publisher, clock: &Clocked, messages: usize, load: Load) -> Result {
    let size = if load == Load::Batches { BATCH } else { 1 };
    let mut pace = interval(PACE);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut ticks = Vec::with_capacity(size);
    for first in (0..messages).step_by(size) {
        if load == Load::Paced && first % PACED_AT_ONCE == 0 {
            pace.tick().await;
        }
        let at = clock.now();
        let last = (first + size).min(messages);
        ticks.extend((first..last).map(|number| Tick { number: number as u64, at }));
        match &ticks[..] {
            [tick] => publisher.publish(tick).await?,
            ticks => publisher.publish_all(ticks).await?.into_result()?,
        }
        ticks.clear();
    }
    Ok(())
}

/// Over what the messages are spread.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shape {
    topics: usize,
    /// Messages in a row to the same topic.
    row: usize,
    groups: usize,
    keys: usize,
}

impl Shape {
    const UNKEYED: usize = 0;

    /// One topic, so many groups, unkeyed.
    pub(super) fn groups(groups: usize) -> Self {
        Self { topics: 1, row: 1, groups, keys: Self::UNKEYED }
    }

    /// So many topics with a subscription each, unkeyed: a message to each in turn.
    pub(super) fn topics(topics: usize) -> Self {
        Self { topics, row: 1, groups: 1, keys: Self::UNKEYED }
    }

    /// The same, a batch to each in turn.
    pub(super) fn topics_by_batch(topics: usize) -> Self {
        Self { row: BATCH, ..Self::topics(topics) }
    }

    /// One topic, one group, so many keys.
    pub(super) fn keys(keys: usize) -> Self {
        Self { topics: 1, row: 1, groups: 1, keys }
    }
}

async fn consume(message: Message, State(latch): State<Latch>) -> Outcome {
    let order: Order = message.decode()?;
    black_box((order.id, order.quantity));
    latch.arrived();
    Ok(())
}

/// Batches of [`BATCH`], a message or all of a batch to the next topic, with the next key; every group of it handles it, with the
/// default settings.
pub(super) fn spread(messages: usize, shape: Shape) -> Result<Took> {
    let runtime = two_threads()?;
    let handlings = messages * shape.groups;
    let latch = Latch::new(handlings);
    let broker = MemoryBroker::new();
    let topics: Vec<_> = (0..shape.topics).map(|number| format!("orders.{number}")).collect();
    let mut bus = Bus::from_connection(broker.connection()).with_state(latch.clone());
    for topic in &topics {
        for group in 0..shape.groups {
            bus = bus.subscribe_to(topic.as_str(), consume.group(format!("bench-{group}")));
        }
    }
    let publisher = bus.publisher().clone();
    let running = runtime.block_on(bus.start())?;
    let topics: Vec<_> = topics.into_iter().map(millstream::ByteString::from).collect();
    let mut published: Result = Ok(());
    let took = measured(Box::new(|| {
        published = runtime.block_on(async {
            let mut orders = Vec::with_capacity(BATCH);
            for first in (0..messages).step_by(BATCH) {
                for number in first..(first + BATCH).min(messages) {
                    let mut order = publisher.message(&Order::ONE)?;
                    order.topic = topics[number / shape.row % topics.len()].clone();
                    order.key = number.checked_rem(shape.keys).map(|key| key.to_string().into());
                    orders.push(order);
                }
                publisher.publish_messages(orders.drain(..)).await?.into_result()?;
            }
            latch.drained().await;
            Ok(())
        });
    }))?;
    published?;
    end(&runtime, running, handlings)?;
    Ok(took)
}
