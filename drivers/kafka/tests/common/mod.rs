//! The test broker, names that were never used, and what lies in a topic.
#![allow(dead_code, reason = "each test program needs a part of it")]
#![allow(clippy::unwrap_used, reason = "a test")]

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use millstream_core::admin::TopicSettings;
use millstream_core::{Admin as _, End, Message, OpenRequest, Read, ReadLimits, Reader as _, Source as _};
use millstream_kafka::{Kafka, KafkaBuilder};
use tokio::time::timeout;

pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Never skipped in silence: who has no broker is told how to get one.
pub(crate) fn variable(name: &str) -> String {
    std::env::var(name)
        .unwrap_or_else(|_| panic!("set {name}: `cargo xtask services start kafka` prints it with its value"))
}

/// In the open, for everybody.
pub(crate) fn broker() -> String {
    variable("MILLSTREAM_KAFKA")
}

/// Leases as short as a test has patience.
pub(crate) fn kafka() -> KafkaBuilder {
    Kafka::builder(broker()).lease(Duration::from_secs(6))
}

/// A name that was never used, by no test program.
pub(crate) fn unique(name: &str) -> String {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    format!("tests.{name}.{}.{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// A topic of a test's own.
pub(crate) async fn topic(kafka: &Kafka, name: &str, partitions: u32) -> String {
    let topic = unique(name);
    kafka.admin().ensure_topic(&topic, TopicSettings::partitions(partitions)).await.unwrap();
    topic
}

/// All that lies in a topic now, to whoever reads what is committed.
pub(crate) async fn all(kafka: &Kafka, topic: &str) -> Vec<Message> {
    let request = OpenRequest::new(topic.to_owned()).end(End::Latest);
    let mut source = kafka.reader().open(request).await.unwrap().source;
    let mut found = Vec::new();
    let reading = async {
        while !matches!(source.read(&mut found, ReadLimits::new(1_000, 1 << 20)).await.unwrap(), Read::End) {}
    };
    timeout(PATIENCE, reading).await.unwrap();
    found.into_iter().map(|delivery| (*delivery.message).clone()).collect()
}
