//! Millstream works off what is there already: the scenario of the peer's own benchmark.
//!
//! The subscription is started, the messages are put in place, and only then the measured part begins, which ends
//! with the last message handled. Settings are the defaults, but for what the scenario's name says.

use bench_harness::{Latch, Took, drain, measured, one_thread, two_threads};
use millstream::{
    Bus, Context, Handler, Layer, Message, Outcome, Publisher, Running, State, Subscribable, Subscribe,
};
use millstream_memory::MemoryBroker;
use std::hint::black_box;
use tokio::runtime::Runtime;
use tokio::task::unconstrained;

use super::event::Order;
use super::feed::ReadyReader;
use crate::Result;

/// Where the messages come from.
#[derive(Debug, Clone, Copy)]
pub(super) enum Feed {
    /// [`ReadyReader`].
    Ready,
    /// The memory driver.
    Memory,
}

/// How many keys the lanes have to choose from.
const KEYS: usize = 10_000;

async fn consume(order: Order, State(latch): State<Latch>) -> Outcome {
    black_box((order.id, order.quantity));
    latch.arrived();
    Ok(())
}

pub(super) fn sequential(feed: Feed, messages: usize) -> Result<Took> {
    work_off(feed, consume.group("bench").sequential(), messages, None)
}

pub(super) fn four(feed: Feed, messages: usize) -> Result<Took> {
    work_off(feed, consume.group("bench").concurrency(4), messages, None)
}

pub(super) fn lanes(feed: Feed, messages: usize) -> Result<Took> {
    work_off(feed, consume.group("bench").concurrency(64), messages, Some(KEYS))
}

pub(super) fn layers(messages: usize) -> Result<Took> {
    let subscription = consume
        .group("bench")
        .sequential()
        .layer(Passthrough)
        .layer(Passthrough)
        .layer(Passthrough)
        .layer(Passthrough);
    work_off(Feed::Ready, subscription, messages, None)
}

pub(super) fn four_across(messages: usize) -> Result<Took> {
    across(consume.group("bench").concurrency(4), messages, None)
}

pub(super) fn lanes_across(messages: usize) -> Result<Took> {
    across(consume.group("bench").concurrency(64), messages, Some(KEYS))
}

/// A layer that does nothing of its own: what is measured is being one.
struct Passthrough;

struct Passed<H>(H);

impl<H: Handler> Layer<H> for Passthrough {
    type Handler = Passed<H>;
    fn layer(self, inner: H) -> Passed<H> {
        Passed(inner)
    }
}

impl<H: Handler> Handler for Passed<H> {
    async fn call(&self, context: &mut Context) -> Outcome {
        self.0.call(context).await
    }
}

/// Works off `messages` orders on one thread.
fn work_off<A, M>(
    feed: Feed,
    subscription: impl Subscribable<Latch, A, M>,
    messages: usize,
    keys: Option<usize>,
) -> Result<Took> {
    let runtime = one_thread()?;
    let latch = Latch::new(messages);
    let broker = MemoryBroker::builder().capacity(messages).build();
    let maker = Bus::from_connection(broker.connection()).publisher().clone();
    let orders = orders(&maker, messages, keys)?;
    let running = match feed {
        Feed::Ready => {
            let bus = Bus::new(broker.writer(), ReadyReader::new(orders));
            runtime.block_on(bus.with_state(latch.clone()).subscribe(subscription).start())?
        }
        Feed::Memory => {
            let bus = Bus::from_connection(broker.connection());
            let bus = bus.with_state(latch.clone()).subscribe(subscription);
            let running = runtime.block_on(bus.start())?;
            runtime.block_on(unconstrained(fill(&maker, orders)))?;
            running
        }
    };
    let took = drain(&runtime, &latch, messages)?;
    end(&runtime, running, messages)?;
    Ok(took)
}

/// Works off `messages` orders that lie in `topics` topics, each with a subscription of its own.
pub(super) fn topics(topics: usize, messages: usize) -> Result<Took> {
    async fn consume(message: Message, State(latch): State<Latch>) -> Outcome {
        let order: Order = message.decode()?;
        black_box((order.id, order.quantity));
        latch.arrived();
        Ok(())
    }
    let runtime = one_thread()?;
    let latch = Latch::new(messages);
    let broker = MemoryBroker::builder().capacity(messages).build();
    let names: Vec<_> = (0..topics).map(|number| format!("orders.{number}")).collect();
    let mut bus = Bus::from_connection(broker.connection()).with_state(latch.clone());
    let maker = bus.publisher().clone();
    for name in &names {
        bus = bus.subscribe_to(name.as_str(), consume.group("bench"));
    }
    let mut orders = orders(&maker, messages, None)?;
    for (order, name) in orders.iter_mut().zip(names.iter().cycle()) {
        order.topic = name.as_str().into();
    }
    let running = runtime.block_on(bus.start())?;
    runtime.block_on(unconstrained(fill(&maker, orders)))?;
    let took = drain(&runtime, &latch, messages)?;
    end(&runtime, running, messages)?;
    Ok(took)
}

/// Publishes `messages` orders on this thread, message by message, and handles them on two others.
fn across<A, M>(
    subscription: impl Subscribable<Latch, A, M>,
    messages: usize,
    keys: Option<usize>,
) -> Result<Took> {
    let runtime = two_threads()?;
    let latch = Latch::new(messages);
    let broker = MemoryBroker::new();
    let bus = Bus::from_connection(broker.connection()).with_state(latch.clone()).subscribe(subscription);
    let publisher = bus.publisher().clone();
    let orders = orders(&publisher, messages, keys)?;
    let running = runtime.block_on(bus.start())?;
    let mut written = Ok(());
    let took = measured(Box::new(|| {
        runtime.block_on(async {
            for order in orders {
                written = publisher.publish_message(order).await;
                if written.is_err() {
                    return;
                }
            }
            latch.drained().await;
        });
    }))?;
    written?;
    end(&runtime, running, messages)?;
    Ok(took)
}

/// Orders as the publisher makes them, each with an id and bytes of its own.
fn orders(publisher: &Publisher, messages: usize, keys: Option<usize>) -> Result<Vec<Message>> {
    (0..messages)
        .map(|number| {
            let mut order = publisher.message(&Order::ONE)?;
            order.key = keys.map(|keys| format!("customer-{}", number % keys).into());
            Ok(order)
        })
        .collect()
}

async fn fill(publisher: &Publisher, orders: Vec<Message>) -> Result {
    let mut orders = orders.into_iter().peekable();
    while orders.peek().is_some() {
        publisher.publish_messages(orders.by_ref().take(1_000)).await?.into_result()?;
    }
    Ok(())
}

/// Ends in order, and makes sure that what was measured is what was meant.
pub(super) fn end(runtime: &Runtime, running: Running, handlings: usize) -> Result {
    let report = runtime.block_on(running.shutdown());
    let handled: u64 = report.subscriptions.iter().map(|subscription| subscription.handled).sum();
    if handled != handlings as u64 {
        return Err(format!("{handled} of {handlings} were handled: {report:?}").into());
    }
    Ok(())
}
