//! K10: what a subscription holds stays within its memory, however much the brokers have. A program of its own, since what is
//! measured is the process's.
#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use std::time::Duration;

use millstream::prelude::*;
use millstream_core::{Message, Writer as _};
use millstream_kafka::Kafka;
use tokio::time::sleep;

use self::common::{broker, topic};

/// The librdkafka of a subscription, its queues, and what the allocator keeps.
const ALLOWED: u64 = 192 << 20;

const COUNT: usize = 500;
const SIZE: usize = 900_000;

fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn k10_a_handler_that_stands_still_fills_no_memory() {
    async fn stand_still(_: Message) -> Outcome {
        std::future::pending().await
    }
    // Given 450 MB over twelve partitions, which no compression makes smaller.
    let kafka = Kafka::builder(broker()).connect().await.unwrap();
    let topic = topic(&kafka, "memory", 12).await;
    let mut noise = vec![0; SIZE];
    fastrand::Rng::with_seed(7).fill(&mut noise);
    for n in 0..COUNT {
        let message = Message::new(topic.clone(), noise.clone()).with_key(n.to_string());
        kafka.writer().write(vec![message]).await.unwrap().into_result().unwrap();
    }
    let before = resident();
    // When a subscription of the default memory reads them, and no handler ends.
    let running = Bus::from_connection(kafka.connection())
        .subscribe_to(topic.clone(), stand_still.group(topic.clone()).concurrency(64))
        .start()
        .await
        .unwrap();
    let mut most = 0;
    for _ in 0..100 {
        sleep(Duration::from_millis(100)).await;
        most = most.max(resident().saturating_sub(before));
    }
    // Then it holds a part of them.
    running.control().abort();
    println!("{} MiB more than before, of {} MiB", most >> 20, (COUNT * SIZE) >> 20);
    assert!(most < ALLOWED, "{} MiB more than before", most >> 20);
}
