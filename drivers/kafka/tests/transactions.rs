//! Transactions on a real broker: batches over several topics, and what handlers publish.
#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use std::collections::BTreeMap;
use std::time::Duration;

use millstream::prelude::*;
use millstream::{ErrorKind, Running};
use millstream_core::{
    Admin as _, End, Message, OpenRequest, Read, ReadLimits, Reader as _, Source as _, WriteOutcome,
    Writer as _,
};
use millstream_kafka::{Kafka, PARTITION, Protocol, Transactions};
use serde::{Deserialize, Serialize};
use tokio::time::{sleep, timeout};

use self::common::{PATIENCE, all, kafka, topic, unique};

/// All that lies in a topic, once there are so many: what was committed can be read when its partition has the mark of it, a moment later.
async fn soon(kafka: &Kafka, topic: &str, count: usize) -> Vec<Message> {
    let looking = async {
        loop {
            let found = all(kafka, topic).await;
            if found.len() >= count {
                return found;
            }
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, looking).await.unwrap_or_else(|_| panic!("{topic} has less than {count}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_over_several_topics_is_there_whole() {
    let kafka = kafka().connect().await.unwrap();
    let (orders, invoices) = (topic(&kafka, "orders", 3).await, topic(&kafka, "invoices", 1).await);
    let writer = kafka.atomic_writer(unique("writer"));
    for n in 0..20 {
        let of = |topic: &str| Message::new(topic.to_owned(), format!("{n}")).with_key(format!("{n}"));
        let report = writer.write(vec![of(&orders), of(&invoices)]).await.unwrap();
        report.into_result().unwrap();
    }
    assert_eq!(soon(&kafka, &orders, 20).await.len(), 20);
    assert_eq!(soon(&kafka, &invoices, 20).await.len(), 20);
    writer.close().await.unwrap();
    let error = writer.write(vec![Message::new(orders, "late")]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::BusIsShutdown);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_message_that_cannot_be_written_keeps_its_whole_batch_out() {
    let kafka = kafka().connect().await.unwrap();
    let (orders, invoices) = (topic(&kafka, "orders", 3).await, topic(&kafka, "invoices", 1).await);
    let writer = kafka.atomic_writer(unique("writer"));
    let batch =
        vec![Message::new(orders.clone(), "small"), Message::new(invoices.clone(), vec![b'x'; 2 << 20])];
    let outcomes = writer.write(batch).await.unwrap().into_outcomes();
    let kinds =
        outcomes.iter().map(|o| matches!(o, WriteOutcome::Failed(e) if e.kind() == ErrorKind::TooLarge));
    assert_eq!(kinds.collect::<Vec<_>>(), [false, true]);
    assert!(
        matches!(&outcomes[0], WriteOutcome::Failed(e) if e.kind() == ErrorKind::Conflict),
        "{outcomes:?}"
    );
    assert!(all(&kafka, &orders).await.is_empty() && all(&kafka, &invoices).await.is_empty());
    // It goes on.
    writer.write(vec![Message::new(orders.clone(), "alone")]).await.unwrap().into_result().unwrap();
    assert_eq!(soon(&kafka, &orders, 1).await.len(), 1);
}

/// K8: a writer that was replaced is refused, its transaction is taken back, and it recovers by a producer of its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn k8_two_writers_of_one_id_never_write_half_a_batch() {
    let kafka = kafka().connect().await.unwrap();
    let (orders, id) = (topic(&kafka, "orders", 3).await, unique("writer"));
    let (first, second) = (kafka.atomic_writer(id.clone()), kafka.atomic_writer(id));
    let mut confirmed = 0;
    for n in 0..30 {
        for writer in [&first, &second] {
            let batch = (0..3).map(|m| Message::new(orders.clone(), format!("{n} {m}"))).collect();
            let report = writer.write(batch).await.unwrap();
            assert!(matches!(report.written(), 0 | 3), "all or none: {report:?}");
            confirmed += report.written();
        }
    }
    let there = soon(&kafka, &orders, confirmed).await.len();
    assert!(confirmed > 0 && there >= confirmed && there.is_multiple_of(3), "{there} of {confirmed}");
}

#[derive(Debug, Clone, Event, Serialize, Deserialize)]
#[event(topic = "orders", key = "customer")]
struct Order {
    customer: String,
    n: usize,
}

/// What a handler makes of an order, and where to.
#[derive(Clone)]
struct Invoices(String);

async fn invoice(order: Order, State(invoices): State<Invoices>, publisher: Publisher) -> Outcome {
    publisher.publish_to(invoices.0.clone(), &order).await?;
    Ok(())
}

async fn member(topic: &str, invoices: &str, protocol: Protocol) -> Running {
    let kafka = kafka().protocol(protocol).transactions(Transactions::Handlers).connect().await.unwrap();
    Bus::from_connection(kafka.connection())
        .with_state(Invoices(invoices.to_owned()))
        .subscribe_to(topic.to_owned(), invoice.group(topic.to_owned()).concurrency(16))
        .start()
        .await
        .unwrap()
}

/// Members die or leave while they work: each order has exactly one invoice, though many were handled twice.
async fn each_order_has_one_invoice(protocol: Protocol) {
    let kafka = kafka().connect().await.unwrap();
    let (orders, invoices) = (topic(&kafka, "orders", 6).await, topic(&kafka, "invoices", 3).await);
    let (customers, each) = (30, 100);
    let order = |n: usize| {
        let customer = format!("customer {}", n % customers);
        Message::new(orders.clone(), format!(r#"{{"customer":"{customer}","n":{n}}}"#))
            .with_id(format!("{n}"))
            .with_key(customer)
            .with_content_type("application/json")
    };
    let batch = (0..customers * each).map(order).collect();
    kafka.writer().write(batch).await.unwrap().into_result().unwrap();
    let mut members = vec![member(&orders, &invoices, protocol).await];
    for _ in 0..4 {
        sleep(Duration::from_millis(400)).await;
        members.push(member(&orders, &invoices, protocol).await);
        sleep(Duration::from_millis(400)).await;
        let gone = members.remove(0);
        match protocol {
            // The broker would wait 45 s for one that says nothing.
            Protocol::Consumer => drop(gone.shutdown().await),
            // It dies, without a word.
            _ => gone.control().abort(),
        }
    }
    let finished = async {
        loop {
            let group = kafka.admin().group(&orders, &orders).await.unwrap();
            // Behind the last message of a partition lies no mark of a transaction: nothing wrote to it in one.
            if group.is_some_and(|group| group.lag == 0) {
                break;
            }
            sleep(Duration::from_millis(200)).await;
        }
    };
    timeout(PATIENCE, finished).await.expect("all orders are handled");
    for member in members {
        member.shutdown().await;
    }
    let mut by_customer: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    let found = soon(&kafka, &invoices, customers * each).await;
    for invoice in &found {
        let order: Order = invoice.decode().unwrap();
        by_customer.entry(order.customer).or_default().push(order.n);
    }
    assert_eq!(found.len(), customers * each, "each order has one invoice");
    for (customer, numbers) in by_customer {
        assert!(numbers.is_sorted(), "the invoices of {customer} are in order: {numbers:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_handler_publishes_is_there_once_under_range() {
    each_order_has_one_invoice(Protocol::Range).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_handler_publishes_is_there_once_under_cooperative() {
    each_order_has_one_invoice(Protocol::Cooperative).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_handler_publishes_is_there_once_under_the_consumer_protocol() {
    each_order_has_one_invoice(Protocol::Consumer).await;
}

/// What a handler publishes and no topic can take makes its own message a dead letter, and holds up nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_published_is_dead_lettered_and_the_rest_goes_on() {
    async fn misdirect(order: Order, State(invoices): State<Invoices>, publisher: Publisher) -> Outcome {
        let to = if order.n == 3 { "no such name: it has spaces" } else { &*invoices.0 };
        publisher.publish_to(to.to_owned(), &order).await?;
        Ok(())
    }
    let kafka = kafka().transactions(Transactions::Handlers).connect().await.unwrap();
    let (orders, invoices) = (topic(&kafka, "orders", 1).await, topic(&kafka, "invoices", 1).await);
    let order = |n: usize| {
        Message::new(orders.clone(), format!(r#"{{"customer":"c","n":{n}}}"#))
            .with_content_type("application/json")
    };
    kafka.writer().write((0..10).map(order).collect()).await.unwrap().into_result().unwrap();
    let running = Bus::from_connection(kafka.connection())
        .with_state(Invoices(invoices.clone()))
        .subscribe_to(orders.clone(), misdirect.group(orders.clone()))
        .start()
        .await
        .unwrap();
    let finished = async {
        while all(&kafka, &invoices).await.len() < 9 {
            sleep(Duration::from_millis(100)).await;
        }
    };
    timeout(PATIENCE, finished).await.expect("nine of ten have an invoice");
    let report = running.shutdown().await;
    assert_eq!(report.subscriptions[0].dead_lettered, 1, "{report:?}");
    let letters = kafka.admin().dead_letters(&orders, None, 10).await.unwrap();
    assert_eq!(letters.len(), 1);
    assert!(letters[0].message.data.as_ref().is_some_and(|data| data.ends_with(br#""n":3}"#)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_lies_in_the_partition_that_was_chosen_for_it() {
    let kafka = kafka().connect().await.unwrap();
    let topic = topic(&kafka, "chosen", 4).await;
    let chosen = |n: u32| {
        Message::new(topic.clone(), format!("{n}")).with_key("one key").with_header(PARTITION, n.to_string())
    };
    kafka.writer().write((0..4).map(chosen).collect()).await.unwrap().into_result().unwrap();
    for partition in 0..4 {
        let mut request = OpenRequest::new(topic.clone()).end(End::Latest);
        request.assignment =
            millstream_core::Assignment::Manual(vec![millstream_core::PartitionId(partition)]);
        let mut source = kafka.reader().open(request).await.unwrap().source;
        let mut found = Vec::new();
        while !matches!(source.read(&mut found, ReadLimits::new(10, 1 << 20)).await.unwrap(), Read::End) {}
        let data: Vec<_> = found.iter().map(|d| d.message.data.clone().unwrap()).collect();
        assert_eq!(data, [partition.to_string()]);
        assert!(found[0].message.headers.is_empty(), "the choice does not travel");
    }
    let outcome = kafka.writer().write(vec![chosen(4)]).await.unwrap().into_outcomes().pop();
    assert!(matches!(outcome, Some(WriteOutcome::Failed(e)) if e.to_string().contains("partitions 0 to 3")));
}
