//! The engine below the public API: on the memory driver and on the simulated broker in each of its shapes.

mod duplicates;
mod leases;
mod memory;
mod outcomes;
mod partitions;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use millstream_core::{Codecs, Connection, Message, OpenRequest};
use millstream_testkit::sim::SimBroker;
use tokio::time::Instant;

use super::{Engine, LeaseRenewal, Running, Settings, Spec, TimeSource, start, work};
use crate::context::SubscriptionInfo;
use crate::policy::{OtherTypes, Policy};
use crate::{Context, EventRegistry, Handler, Outcome, Publisher};

/// A handler of a closure over the message and its attempt.
struct Fun<F>(F);

impl<F, Fut> Handler for Fun<F>
where
    F: Fn(Message, u32) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Outcome> + Send,
{
    fn call(&self, context: &mut Context) -> impl Future<Output = Outcome> + Send {
        (self.0)(context.message().clone(), context.attempt())
    }
}

/// Runs a handler for the topic `t` in the group `g`, on the runtime's own time.
async fn run<F, Fut>(connection: &Connection, policy: Policy, f: F) -> Running
where
    F: Fn(Message, u32) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Outcome> + Send,
{
    run_handler(connection, policy, Fun(f)).await
}

async fn run_handler(connection: &Connection, policy: Policy, handler: impl Handler) -> Running {
    let (engine, spec) = spec_of(connection, policy, handler);
    start(engine, vec![spec]).await.unwrap()
}

/// A subscription that would do nothing.
fn spec(connection: &Connection, policy: Policy) -> (Engine, Spec) {
    spec_of(connection, policy, Fun(|_, _| async { Ok(()) }))
}

fn spec_of(connection: &Connection, policy: Policy, handler: impl Handler) -> (Engine, Spec) {
    let connection = connection.clone();
    let info = Arc::new(SubscriptionInfo {
        topic: "t".into(),
        group: Some("g".into()),
        handler: "h".into(),
        max_attempts: policy.retry.max_attempts(),
        codecs: Codecs::default(),
        other_types: OtherTypes::default(),
        publisher: Publisher::new(SimBroker::builder().build().writer(), EventRegistry::default()),
    });
    let settings = Settings {
        time: TimeSource::Runtime,
        leases: LeaseRenewal::Task,
        seed: Some(7),
        ..Settings::default()
    };
    let engine = Engine {
        reader: connection.reader,
        writer: Some(connection.writer),
        admin: connection.admin,
        settings,
    };
    (engine, Spec { info, policy, open: OpenRequest::new("t").group("g"), work: work(handler) })
}

async fn publish(connection: &Connection, messages: impl IntoIterator<Item = Message>) {
    let messages: Vec<_> = messages.into_iter().collect();
    for chunk in messages.chunks(500) {
        connection.writer.write(chunk.to_vec()).await.unwrap().into_result().unwrap();
    }
}

/// `count` messages over `keys` keys; the id is the number, so that order can be checked.
fn numbered(count: usize, keys: usize) -> impl Iterator<Item = Message> {
    (0..count).map(move |i| Message::new("t", "x").with_id(i.to_string()).with_key(format!("k{}", i % keys)))
}

/// Waits, on the paused clock, until something holds; an hour and a half is never.
async fn until(mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < Duration::from_secs(5_400), "it did not happen");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// What handlers did, in order.
#[derive(Debug, Clone, Default)]
struct Log(Arc<Mutex<Vec<(String, u64)>>>);

impl Log {
    fn add(&self, message: &Message) {
        let key = String::from_utf8(message.key.clone().unwrap_or_default().to_vec()).unwrap();
        self.0.lock().unwrap().push((key, message.id.parse().unwrap()));
    }

    fn len(&self) -> usize {
        self.0.lock().unwrap().len()
    }

    fn numbers(&self) -> Vec<u64> {
        self.0.lock().unwrap().iter().map(|(_, n)| *n).collect()
    }

    /// Different messages handled.
    fn distinct(&self) -> usize {
        self.numbers().into_iter().collect::<std::collections::HashSet<_>>().len()
    }

    /// First effects of each key are in order.
    fn assert_ordered(&self) {
        let mut last = std::collections::HashMap::new();
        let mut seen = std::collections::HashSet::new();
        for (key, number) in self.0.lock().unwrap().iter() {
            if seen.insert(*number) {
                let before = last.insert(key.clone(), *number);
                assert!(before.is_none_or(|b| b < *number), "key {key}: {number} after {before:?}");
            }
        }
    }
}
