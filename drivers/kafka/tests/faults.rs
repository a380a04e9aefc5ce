//! What goes wrong around a Kafka cluster, on a real broker: members that come and go, handlers that are slow, messages
//! that cannot be read, records that were deleted.
#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use millstream::prelude::*;
use millstream::{ErrorKind, Running};
use millstream_core::{
    Admin, Assignment, Delivery, Message, OpenRequest, PartitionId, Read, ReadLimits, Reader as _,
    Settlement, Settler as _, Source as _, Start, WriteOutcome, Writer as _,
};
use millstream_kafka::{Create, Kafka, KafkaSource, Protocol};
use serde::{Deserialize, Serialize};
use tokio::time::{sleep, timeout};

use self::common::{PATIENCE, kafka, topic, unique};

#[derive(Debug, Clone, Event, Serialize, Deserialize)]
#[event(topic = "orders", key = "customer")]
struct Order {
    customer: String,
    n: usize,
}

fn order(topic: &str, customer: usize, n: usize) -> Message {
    let customer = format!("customer {customer}");
    Message::new(topic.to_owned(), format!(r#"{{"customer":"{customer}","n":{n}}}"#))
        .with_id(format!("{n}"))
        .with_key(customer)
        .with_content_type("application/json")
}

/// What handlers saw, by customer. Each test has a group of its own, named as its topic: groups span topics.
#[derive(Clone, Default)]
struct Seen {
    orders: Arc<Mutex<BTreeMap<String, Vec<usize>>>>,
    runs: Arc<AtomicUsize>,
}

impl Seen {
    fn note(&self, order: &Order) {
        self.orders.lock().unwrap().entry(order.customer.clone()).or_default().push(order.n);
        self.runs.fetch_add(1, Ordering::Relaxed);
    }

    fn runs(&self) -> usize {
        self.runs.load(Ordering::Relaxed)
    }

    fn of(&self, customer: &str) -> Vec<usize> {
        self.orders.lock().unwrap().get(customer).cloned().unwrap_or_default()
    }

    async fn wait_for(&self, runs: usize) {
        let waiting = async {
            while self.runs() < runs {
                sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(PATIENCE, waiting).await.unwrap_or_else(|_| panic!("{} of {runs} ran", self.runs()));
    }
}

async fn handle(order: Order, State(seen): State<Seen>) -> Outcome {
    sleep(Duration::from_millis(1)).await;
    seen.note(&order);
    Ok(())
}

async fn member(kafka: &Kafka, topic: &str, seen: &Seen) -> Running {
    Bus::from_connection(kafka.connection())
        .with_state(seen.clone())
        .subscribe_to(topic.to_owned(), handle.group(topic.to_owned()).concurrency(16))
        .start()
        .await
        .unwrap()
}

/// K1: members join and leave while messages are handled: none is lost, none comes twice, each key keeps its order.
async fn members_come_and_go(protocol: Protocol) {
    let kafka = kafka().protocol(protocol).connect().await.unwrap();
    let topic = topic(&kafka, "come-and-go", 6).await;
    let (customers, each) = (30, 150);
    let orders: Vec<_> = (0..customers * each).map(|n| order(&topic, n % customers, n)).collect();
    kafka.writer().write(orders).await.unwrap().into_result().unwrap();
    let seen = Seen::default();
    let mut members = vec![member(&kafka, &topic, &seen).await];
    for round in 0..6 {
        sleep(Duration::from_millis(300)).await;
        // Each is a process of its own to the broker: a connection of its own.
        let another = self::kafka().protocol(protocol).connect().await.unwrap();
        members.push(member(&another, &topic, &seen).await);
        if round % 2 == 1 {
            let report = members.remove(0).shutdown().await;
            assert_eq!(report.subscriptions[0].unknown, 0, "{report:?}");
        }
    }
    seen.wait_for(customers * each).await;
    // A duplicate would come now.
    sleep(Duration::from_secs(1)).await;
    for member in members {
        member.shutdown().await;
    }
    assert_eq!(seen.runs(), customers * each, "each ran once");
    for customer in 0..customers {
        let wanted: Vec<_> = (0..each).map(|n| n * customers + customer).collect();
        assert_eq!(seen.of(&format!("customer {customer}")), wanted);
    }
    assert_eq!(lag(&kafka, &topic).await, 0);
}

async fn lag(kafka: &Kafka, topic: &str) -> u64 {
    kafka.admin().group(topic, topic).await.unwrap().unwrap().lag
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn k1_members_come_and_go_under_range() {
    members_come_and_go(Protocol::Range).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn k1_members_come_and_go_under_cooperative() {
    members_come_and_go(Protocol::Cooperative).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn k1_members_come_and_go_under_the_consumer_protocol() {
    members_come_and_go(Protocol::Consumer).await;
}

/// K2: the committed position never passes a message whose handler still runs, and that message comes again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn k2_nothing_is_committed_past_a_handler_that_still_runs() {
    async fn stuck(order: Order, State(seen): State<Seen>) -> Outcome {
        if order.n == 3 {
            std::future::pending::<()>().await;
        }
        seen.note(&order);
        Ok(())
    }
    let kafka = kafka().connect().await.unwrap();
    let topic = topic(&kafka, "contiguous", 1).await;
    let orders: Vec<_> = (0..50).map(|n| order(&topic, n, n)).collect();
    kafka.writer().write(orders).await.unwrap().into_result().unwrap();
    let seen = Seen::default();
    let running = Bus::from_connection(kafka.connection())
        .with_state(seen.clone())
        .subscribe_to(topic.clone(), stuck.group(topic.clone()).concurrency(16))
        .start()
        .await
        .unwrap();
    seen.wait_for(49).await;
    sleep(Duration::from_millis(500)).await;
    let group = kafka.admin().group(&topic, &topic).await.unwrap().unwrap();
    assert_eq!(group.committed, [(PartitionId(0), millstream_core::Position(3))]);
    // It dies, without a word.
    running.control().abort();
    drop(running);
    let again = Seen::default();
    let running = member(&self::kafka().connect().await.unwrap(), &topic, &again).await;
    again.wait_for(47).await;
    running.shutdown().await;
    assert_eq!(again.of("customer 3"), [3]);
    assert_eq!(lag(&kafka, &topic).await, 0);
}

/// K4: what does not decode becomes a dead letter, byte for byte, and a key that fails delays no other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn k4_poison_goes_to_the_dead_letters_and_a_failing_key_delays_no_other() {
    async fn failing(order: Order, State(seen): State<Seen>) -> Outcome {
        if order.customer == "customer 0" && order.n < 30 {
            return Err(Failure::from(std::io::Error::other("the mail server says no")));
        }
        seen.note(&order);
        Ok(())
    }
    let kafka = kafka().connect().await.unwrap();
    let topic = topic(&kafka, "poison", 1).await;
    let mut orders: Vec<_> = (0..200).map(|n| order(&topic, n % 10, n)).collect();
    orders[57].data = Some(vec![0xff, 0x00].into());
    kafka.writer().write(orders).await.unwrap().into_result().unwrap();
    let seen = Seen::default();
    let retry = Retry::fixed(Duration::from_secs(3)).attempts(2);
    let running = Bus::from_connection(kafka.connection())
        .with_state(seen.clone())
        .subscribe_to(topic.clone(), failing.group(topic.clone()).concurrency(4).retry(retry))
        .start()
        .await
        .unwrap();
    // All others are through before the failing key was tried again.
    timeout(Duration::from_secs(15), seen.wait_for(179)).await.unwrap();
    let letters = timeout(PATIENCE, async {
        loop {
            let letters = kafka.admin().dead_letters(&topic, None, 100).await.unwrap();
            if letters.len() == 4 {
                return letters;
            }
            sleep(Duration::from_millis(200)).await;
        }
    });
    let letters = letters.await.unwrap();
    seen.wait_for(196).await;
    running.shutdown().await;
    assert_eq!(seen.of("customer 0"), (3..20).map(|n| n * 10).collect::<Vec<_>>());
    let undecoded = letters.iter().find(|letter| letter.message.id == "57").unwrap();
    assert_eq!(undecoded.message.data.as_deref(), Some(&[0xff, 0x00][..]));
    assert_eq!(undecoded.message.headers.get_str("millstream-dl-class"), Some("decode"));
    assert_eq!(lag(&kafka, &topic).await, 0);
}

/// K5: a member whose scheduler does nothing for longer than its lease is still a member.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn k5_a_member_that_is_not_read_for_longer_than_its_lease_keeps_its_partitions() {
    let kafka = kafka().connect().await.unwrap();
    let topic = topic(&kafka, "slow", 2).await;
    kafka
        .writer()
        .write((0..10).map(|n| order(&topic, n, n)).collect())
        .await
        .unwrap()
        .into_result()
        .unwrap();
    let mut opened =
        kafka.reader().open(OpenRequest::new(topic.clone()).group(unique("slow"))).await.unwrap();
    let held = take(&mut opened.source, 10).await;
    sleep(Duration::from_secs(9)).await;
    let acks = held.into_iter().map(|d| Settlement::ack(d.token)).collect();
    assert!(opened.settler.settle(acks).await.iter().all(millstream_core::Settled::is_done));
    opened.source.close().await.unwrap();
}

async fn take(source: &mut KafkaSource, count: usize) -> Vec<Delivery> {
    let mut taken = Vec::new();
    timeout(PATIENCE, async {
        while taken.len() < count {
            let limits = ReadLimits::new(count - taken.len(), 64 << 20);
            if let Read::Revoking(revoking) = source.read(&mut taken, limits).await.unwrap() {
                revoking.done();
            }
        }
    })
    .await
    .unwrap();
    taken
}

/// K6: closing a writer waits for what it was given; each message is confirmed or returned as failed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn k6_a_writer_that_closes_accounts_for_every_message() {
    let kafka = kafka().connect().await.unwrap();
    let topic = topic(&kafka, "close", 4).await;
    let writer = kafka.writer();
    let mut writing = tokio::task::JoinSet::new();
    for part in 0..10 {
        let (writer, topic) = (writer.clone(), topic.clone());
        writing.spawn(async move {
            let orders = (0..1_000).map(|n| order(&topic, n % 7, part * 1_000 + n)).collect();
            writer.write(orders).await.map(millstream_core::WriteReport::into_outcomes)
        });
    }
    sleep(Duration::from_millis(5)).await;
    writer.close().await.unwrap();
    let mut confirmed = 0;
    while let Some(ended) = writing.join_next().await {
        match ended.unwrap() {
            Ok(outcomes) => {
                assert_eq!(outcomes.len(), 1_000);
                assert!(
                    outcomes.iter().all(WriteOutcome::is_written),
                    "{:?}",
                    outcomes.iter().find(|o| !o.is_written())
                );
                confirmed += 1_000;
            }
            // It came after the close: nothing of it was written.
            Err(error) => assert_eq!(error.kind(), ErrorKind::BusIsShutdown),
        }
    }
    let topics = kafka.admin().topics().await.unwrap();
    assert_eq!(topics.iter().find(|t| t.name == topic).unwrap().messages, confirmed);
}

/// K9: a group that has no position reads what was there before it, and one whose messages were deleted goes on at the
/// oldest that is left.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn k9_deleted_messages_are_passed_over_and_nothing_else_is() {
    let kafka = kafka().connect().await.unwrap();
    let topic = topic(&kafka, "deleted", 1).await;
    let write = async |from: usize| {
        let orders = (from..from + 10).map(|n| order(&topic, n, n)).collect();
        kafka.writer().write(orders).await.unwrap().into_result().unwrap();
    };
    write(0).await;
    let request = OpenRequest::new(topic.clone()).group(unique("deleted"));
    let mut opened = kafka.reader().open(request.clone()).await.unwrap();
    let held = take(&mut opened.source, 4).await;
    let acks = held.into_iter().map(|d| Settlement::ack(d.token)).collect();
    assert!(opened.settler.settle(acks).await.iter().all(millstream_core::Settled::is_done));
    opened.source.close().await.unwrap();
    assert_eq!(kafka.admin().purge(&topic).await.unwrap(), 10);
    write(10).await;
    let mut opened = kafka.reader().open(request).await.unwrap();
    let ids: Vec<_> = take(&mut opened.source, 10).await.iter().map(|d| d.message.id.to_string()).collect();
    assert_eq!(ids, (10..20).map(|n| n.to_string()).collect::<Vec<_>>());
    opened.source.close().await.unwrap();
}

/// A long wait parks a key, its messages keep their order, and all this survives a restart.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_parked_key_survives_a_restart_in_order_and_holds_up_no_other() {
    #[derive(Clone, Default)]
    struct Broken(Arc<std::sync::atomic::AtomicBool>);
    async fn fragile(order: Order, State((seen, broken)): State<(Seen, Broken)>) -> Outcome {
        if order.customer == "customer 0" && !broken.0.load(Ordering::Relaxed) {
            return Err(Failure::from(std::io::Error::other("not yet")));
        }
        seen.note(&order);
        Ok(())
    }
    let kafka = kafka().connect().await.unwrap();
    let topic = topic(&kafka, "park", 3).await;
    let orders: Vec<_> = (0..60).map(|n| order(&topic, n % 6, n)).collect();
    kafka.writer().write(orders).await.unwrap().into_result().unwrap();
    let (seen, broken) = (Seen::default(), Broken::default());
    let start = async || {
        let kafka = self::kafka().connect().await.unwrap();
        let retry = Retry::fixed(Duration::from_secs(3)).attempts(10);
        Bus::from_connection(kafka.connection())
            .with_state((seen.clone(), broken.clone()))
            .subscribe_to(
                topic.clone(),
                fragile.group(topic.clone()).concurrency(8).retry(retry).park_after(Duration::from_secs(1)),
            )
            .start()
            .await
            .unwrap()
    };
    let running = start().await;
    seen.wait_for(50).await;
    let parked = timeout(PATIENCE, async {
        while running.control().counts()[0].parked < 10 {
            sleep(Duration::from_millis(20)).await;
        }
    });
    parked.await.unwrap_or_else(|_| panic!("{:?}", running.control().counts()));
    running.shutdown().await;
    broken.0.store(true, Ordering::Relaxed);
    let running = start().await;
    seen.wait_for(60).await;
    running.shutdown().await;
    assert_eq!(seen.of("customer 0"), (0..10).map(|n| n * 6).collect::<Vec<_>>());
    // The park was committed, too: nothing comes again.
    let running = start().await;
    sleep(Duration::from_secs(2)).await;
    running.shutdown().await;
    assert_eq!(seen.runs(), 60);
}

/// What each thing that is wrong from the beginning says.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn errors_name_what_is_wrong_and_what_to_do() {
    let error = Kafka::builder("127.0.0.1:1").connect().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.to_string().contains("127.0.0.1:1") && error.to_string().contains("refused"), "{error}");

    let kafka = kafka().create(Create::Never).connect().await.unwrap();
    let absent = unique("absent");
    let error =
        kafka.reader().open(OpenRequest::new(absent.clone()).group(absent.clone())).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.to_string().contains(&absent) && error.to_string().contains("`create`"), "{error}");
    let outcome = kafka.writer().write(vec![order(&absent, 1, 1)]).await.unwrap().into_outcomes().pop();
    assert!(matches!(outcome, Some(WriteOutcome::Failed(e)) if e.kind() == ErrorKind::NotFound));

    let mut large = order(&absent, 1, 1);
    large.data = Some(vec![b'x'; 2 << 20].into());
    let kafka = self::kafka().connect().await.unwrap();
    let outcome = kafka.writer().write(vec![large]).await.unwrap().into_outcomes().pop();
    assert!(matches!(outcome, Some(WriteOutcome::Failed(e)) if e.kind() == ErrorKind::TooLarge));
}

/// Reading without a group: a fixed partition, from a time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_partition_is_read_from_a_time_without_a_group() {
    let kafka = kafka().connect().await.unwrap();
    let topic = topic(&kafka, "time", 2).await;
    let at = |n: u64| std::time::UNIX_EPOCH + Duration::from_secs(1_795_521_600 + n);
    let orders: Vec<_> = (0..20).map(|n| order(&topic, 1, n).with_time(at(n as u64))).collect();
    kafka.writer().write(orders).await.unwrap().into_result().unwrap();
    let mut found = Vec::new();
    for partition in 0..2 {
        let mut request =
            OpenRequest::new(topic.clone()).start(Start::Time(at(15))).end(millstream_core::End::Latest);
        request.assignment = Assignment::Manual(vec![PartitionId(partition)]);
        let mut source = kafka.reader().open(request).await.unwrap().source;
        let reading = async {
            while !matches!(source.read(&mut found, ReadLimits::new(100, 1 << 20)).await.unwrap(), Read::End)
            {
            }
        };
        timeout(PATIENCE, reading).await.unwrap();
    }
    let ids: Vec<_> = found.iter().map(|d| d.message.id.to_string()).collect();
    assert_eq!(ids, ["15", "16", "17", "18", "19"]);
}
