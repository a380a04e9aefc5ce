//! The wire formats beside the Go toolkit's: CloudEvents, with the Python SDK of that project on the other side, dead letters
//! in Spring Kafka's words, and what the Go toolkit's subscriptions are told and tell.
#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use millstream::prelude::*;
use millstream_core::admin::TopicSettings;
use millstream_core::{Admin as _, Message, Writer as _, names};
use millstream_kafka::{
    DeadLetterHeaders, HEADER_CURRENT_OFFSET, HEADER_GROUP_ID, HEADER_HWM_OFFSET, HEADER_INIT_OFFSET,
    HEADER_PARTITION_ID, INIT_OFFSET, Kafka, METADATA, PARTITION, PARTITION_ID, Wire,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};

use self::common::{PATIENCE, all, broker, topic, variable};

const COUNT: usize = 20;

/// The Python SDK, in its own words.
fn python(way: &str, topic: &str, mode: &str) -> String {
    let output = Command::new(variable("MILLSTREAM_PEER_PYTHON"))
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/peers/python/events.py"))
        .args([way, &broker(), topic, mode, &COUNT.to_string()])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

async fn beside_the_python_sdk(mode: &str, wire: Wire) {
    let kafka = Kafka::builder(broker()).wire(wire).connect().await.unwrap();

    // What the SDK writes is read here.
    let theirs = topic(&kafka, &format!("python-writes-{mode}"), 3).await;
    python("write", &theirs, mode);
    let mut read = all(&kafka, &theirs).await;
    read.sort_by_key(|message| message.id[3..].parse::<usize>().unwrap());
    assert_eq!(read.len(), COUNT);
    for (n, message) in read.iter().enumerate() {
        assert_eq!((&*message.id, &*message.content_type), (&*format!("id-{n}"), "application/json"));
        assert_eq!(
            serde_json::from_slice::<Value>(message.data.as_ref().unwrap()).unwrap(),
            json!({ "n": n })
        );
        let says = |name| message.headers.get_str(name);
        assert_eq!((says("ce_source"), says("ce_tenant")), (Some("/python"), Some("acme")));
        assert_eq!(says(names::TYPE), Some("order.placed"));
    }

    // And it reads what is written here.
    let ours = topic(&kafka, &format!("python-reads-{mode}"), 1).await;
    let message = |n: usize| {
        Message::new(ours.clone(), format!(r#"{{"n":{n}}}"#))
            .with_id(format!("id-{n}"))
            .with_key(format!("customer-{n}"))
            .with_content_type("application/json")
            .with_header("ce_tenant", "acme")
            .with_header(names::TYPE, "order.placed")
    };
    kafka.writer().write((0..COUNT).map(message).collect()).await.unwrap().into_result().unwrap();
    let printed = python("read", &ours, mode);
    assert_eq!(printed.lines().count(), COUNT);
    for (n, line) in printed.lines().enumerate() {
        let event: Value = serde_json::from_str(line).unwrap();
        let attributes = &event["attributes"];
        let told = ["id", "source", "type", "specversion", "tenant", "partitionkey"]
            .map(|name| attributes[name].as_str().unwrap_or_default().to_owned());
        let (id, key) = (format!("id-{n}"), format!("customer-{n}"));
        assert_eq!(told, [&*id, "/shop", "order.placed", "1.0", "acme", &*key]);
        // In structured mode the SDK takes the type of the whole for that of the data.
        let kind = attributes["datacontenttype"].as_str().unwrap();
        assert!(kind == "application/json" || mode == "structured", "{kind}");
        assert_eq!(event["data"], json!({ "n": n }));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_in_binary_mode_are_exchanged_with_the_python_sdk() {
    beside_the_python_sdk("binary", Wire::CloudEvents { source: "/shop".into() }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_in_structured_mode_are_exchanged_with_the_python_sdk() {
    beside_the_python_sdk("structured", Wire::CloudEventsJson { source: "/shop".into() }).await;
}

#[derive(Debug, Clone, Event, Serialize, Deserialize)]
#[event(topic = "orders", key = "customer")]
struct Order {
    customer: String,
    n: usize,
}

fn order(topic: &str, n: usize) -> Message {
    Message::new(topic.to_owned(), format!(r#"{{"customer":"c","n":{n}}}"#))
        .with_id(format!("id-{n}"))
        .with_key("c")
        .with_content_type("application/json")
}

/// A dead letter says what Spring's tools look for, and one of Spring's is listed, told and sent again as ours are.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dead_letters_are_shared_with_spring() {
    async fn refuse(_: Order) -> Outcome {
        Err(Failure::unrecoverable("no stock"))
    }
    let kafka =
        Kafka::builder(broker()).dead_letter_headers(DeadLetterHeaders::Spring).connect().await.unwrap();
    let topic = topic(&kafka, "spring", 2).await;
    kafka.writer().write(vec![order(&topic, 1)]).await.unwrap().into_result().unwrap();
    let running = Bus::from_connection(kafka.connection())
        .subscribe_to(topic.clone(), refuse.group(topic.clone()))
        .start()
        .await
        .unwrap();
    let dead = async {
        while all(&kafka, &format!("{topic}.dlq")).await.is_empty() {
            sleep(Duration::from_millis(100)).await;
        }
    };
    // It is made when it is first needed.
    sleep(Duration::from_secs(1)).await;
    timeout(PATIENCE, dead).await.expect("the order is a dead letter");
    running.shutdown().await;
    // Its writers were closed with it.
    let kafka = Kafka::builder(broker()).connect().await.unwrap();
    let letter = all(&kafka, &format!("{topic}.dlq")).await.remove(0);
    let says = |name: &str| letter.headers.get(name).map(|v| v.to_vec());
    assert_eq!(says("kafka_dlt-original-topic"), Some(topic.clone().into_bytes()));
    assert_eq!(says("kafka_dlt-original-offset"), Some(vec![0; 8]));
    assert_eq!(says("kafka_dlt-original-consumer-group"), Some(topic.clone().into_bytes()));
    assert_eq!(says("kafka_dlt-exception-message"), Some(b"no stock".to_vec()));

    // As Spring's recoverer writes them: in the partition of the original, with numbers as big-endian bytes.
    let springs = format!("{topic}-dlt");
    kafka.admin().ensure_topic(&springs, TopicSettings::partitions(2)).await.unwrap();
    let of_spring = order(&springs, 2)
        .with_header(PARTITION, "1")
        .with_header("kafka_dlt-original-topic", topic.clone())
        .with_header("kafka_dlt-original-partition", vec![0, 0, 0, 1])
        .with_header("kafka_dlt-original-offset", vec![0, 0, 0, 0, 0, 0, 0, 7])
        .with_header("kafka_dlt-original-consumer-group", "java-billing")
        .with_header("kafka_dlt-exception-fqcn", "java.lang.IllegalStateException")
        .with_header("kafka_dlt-exception-message", "out of stock");
    kafka.writer().write(vec![of_spring]).await.unwrap().into_result().unwrap();
    let listed = kafka.admin().dead_letters(&topic, None, 10).await.unwrap();
    assert_eq!(listed.len(), 2);
    let theirs = millstream::DeadLetter::parse(listed[1].message.clone());
    assert_eq!((theirs.group.as_deref(), theirs.offset), (Some("java-billing"), Some(7)));
    assert_eq!(theirs.error.as_deref(), Some("out of stock"));

    let letters = Bus::from_connection(kafka.connection()).dead_letters(topic.clone());
    assert!(letters.redrive(listed[1].id).await.unwrap());
    let again = all(&kafka, &topic).await.into_iter().find(|m| m.id == "id-2").expect("it was sent again");
    assert_eq!(again.headers.get_str(names::REDRIVE_GROUP), Some("java-billing"));
    assert!(!again.headers.iter().any(|(name, _)| name.starts_with("kafka_dlt-")));
    assert_eq!(kafka.admin().dead_letters(&topic, None, 10).await.unwrap().len(), 1);
}

/// What the Go toolkit's subscriptions are told, and what its handlers are.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscription_with_the_go_toolkits_arguments_reads_one_partition_from_an_offset() {
    #[derive(Clone, Default)]
    struct Seen(Arc<Mutex<Vec<Vec<String>>>>);

    async fn note(_: Order, headers: Headers, State(seen): State<Seen>) -> Outcome {
        let told = [
            HEADER_GROUP_ID,
            HEADER_PARTITION_ID,
            HEADER_INIT_OFFSET,
            HEADER_CURRENT_OFFSET,
            HEADER_HWM_OFFSET,
        ];
        let told = told.map(|name| headers.get_str(name).unwrap_or_default().to_owned());
        seen.0.lock().unwrap().push(told.to_vec());
        Ok(())
    }
    let kafka = Kafka::builder(broker()).connect().await.unwrap();
    let topic = topic(&kafka, "go", 2).await;
    let orders = (0..20).map(|n| order(&topic, n).with_header(PARTITION, (n % 2).to_string())).collect();
    kafka.writer().write(orders).await.unwrap().into_result().unwrap();
    let seen = Seen::default();
    let subscription = note
        .group(topic.clone())
        .concurrency(1)
        .arg(PARTITION_ID, "1")
        .arg(INIT_OFFSET, "4")
        .arg(METADATA, "headers");
    let running = Bus::from_connection(kafka.connection())
        .with_state(seen.clone())
        .subscribe_to(topic.clone(), subscription)
        .start()
        .await
        .unwrap();
    let all = async {
        while seen.0.lock().unwrap().len() < 6 {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, all).await.expect("six of ten are read");
    running.shutdown().await;
    let expected: Vec<Vec<String>> = (4..10)
        .map(|n: usize| [&*topic, "1", "4", &n.to_string(), "10"].map(str::to_owned).to_vec())
        .collect();
    assert_eq!(*seen.0.lock().unwrap(), expected);
    // Its progress is the group's.
    let group = kafka.admin().group(&topic, &topic).await.unwrap().unwrap();
    assert!(group.committed.iter().any(|(p, at)| p.0 == 1 && at.0 == 10), "{group:?}");
}

/// What a cluster's settings endanger is said with the command that mends it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_doctor_tells_what_a_topic_of_one_replica_risks_and_keeps_what_waits() {
    let kafka = Kafka::builder(broker()).connect().await.unwrap();
    let topic = topic(&kafka, "doctor", 1).await;
    let found = kafka.admin().diagnose(&topic).await.unwrap();
    assert!(found.iter().any(|f| f.what.contains("on one broker only")), "{found:?}");
    // What is made for dead letters is kept until somebody has seen to them.
    let letters = format!("{topic}.dlq");
    kafka.admin().ensure_topic(&letters, TopicSettings::partitions(1)).await.unwrap();
    let found = kafka.admin().diagnose(&letters).await.unwrap();
    assert!(found.iter().all(|f| !f.what.contains("deleted")), "{found:?}");
}
