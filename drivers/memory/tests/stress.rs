//! Many writers and readers at once on a small topic: nothing is lost, nothing doubled, each key in order.
#![allow(clippy::unwrap_used, reason = "a helper that fails fails its test")]

mod common;

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};

use common::*;
use millstream_core::{Admin, Bytes, OpenRequest, Settlement, Settler, Source, Verdict, Writer};
use millstream_memory::MemoryBroker;
use tokio::sync::watch;

const WRITERS: u32 = 4;
const READERS: u32 = 3;
const KEYS: u32 = 50;
const EACH: u32 = 5_000;

/// What a group has handled: the numbers of each key, in the order in which they were.
type Ledger = Arc<Mutex<HashMap<Bytes, Vec<u32>>>>;

/// Handles messages until told to stop, giving some back, and leaving the group now and then.
async fn consume(
    broker: MemoryBroker,
    group: &'static str,
    mut random: u32,
    ledger: Ledger,
    mut stop: watch::Receiver<bool>,
) {
    let request = OpenRequest::new(TOPIC).group(group);
    let mut member = open(&broker, request.clone()).await;
    loop {
        let mut deliveries = Vec::new();
        tokio::select! {
            _ = stop.wait_for(|stop| *stop) => return,
            read = member.source.read(&mut deliveries, limits(64)) => drop(read.unwrap()),
        }
        let mut given_back = HashSet::new();
        let mut batch = Vec::new();
        for delivery in deliveries {
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let key = delivery.message.key.clone().unwrap();
            // What is behind a message that goes back goes back with it.
            if (random >> 16).is_multiple_of(20) || given_back.contains(&key) {
                given_back.insert(key);
                batch.push(Settlement::new(delivery.token, Verdict::Release));
            } else {
                let number = text(&delivery.message).parse().unwrap();
                ledger.lock().unwrap().entry(key).or_default().push(number);
                batch.push(Settlement::ack(delivery.token));
            }
        }
        for settled in member.settler.settle(batch).await {
            assert!(settled.is_done(), "{settled:?}");
        }
        if (random >> 16).is_multiple_of(50) {
            let mut held = Vec::new();
            let _ = at_once(member.source.read(&mut held, limits(64))).await;
            drop(member);
            member = open(&broker, request.clone()).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn under_load_nothing_is_lost_or_doubled_and_each_key_keeps_its_order() {
    // Given two groups on a topic so small that writers wait for readers all the time
    let broker = MemoryBroker::builder().capacity(500).build();
    let (stop, stopped) = watch::channel(false);
    let mut ledgers = Vec::new();
    let mut consumers = Vec::new();
    for group in ["a", "b"] {
        let _first = open(&broker, OpenRequest::new(TOPIC).group(group)).await;
        let ledger = Ledger::default();
        for i in 0..READERS {
            let reading = consume(broker.clone(), group, i, Arc::clone(&ledger), stopped.clone());
            consumers.push(tokio::spawn(reading));
        }
        ledgers.push(ledger);
    }

    // when each of four writers writes keys of its own,
    let writing = (0..WRITERS).map(|writer| {
        let handle = broker.writer();
        tokio::spawn(async move {
            let numbers: Vec<u32> = (0..EACH).collect();
            for batch in numbers.chunks(37) {
                let named = |i: &u32| keyed(&format!("{writer}-{}", i % KEYS), &i.to_string());
                handle.write(batch.iter().map(named).collect()).await.unwrap().into_result().unwrap();
            }
        })
    });
    for task in writing.collect::<Vec<_>>() {
        task.await.unwrap();
    }
    while broker.admin().topics().await.unwrap()[0].messages > 0 {
        tokio::task::yield_now().await;
    }
    stop.send(true).unwrap();
    for consumer in consumers {
        consumer.await.unwrap();
    }

    // then both have handled each message once, a key's in their order.
    for ledger in ledgers {
        let ledger = ledger.lock().unwrap();
        assert_eq!(ledger.len(), (WRITERS * KEYS) as usize);
        for (key, numbers) in ledger.iter() {
            let first = numbers[0];
            assert!(first < KEYS);
            assert!(numbers.iter().copied().eq((first..EACH).step_by(KEYS as usize)), "{key:?}: {numbers:?}");
        }
    }
}
