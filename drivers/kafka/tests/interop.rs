//! Clients of other languages beside this one on a real broker: what each writes the other reads, byte for byte, and a key
//! lies on the same partition whoever wrote it.
//!
//! Each peer writes the same records, and reads as lines of JSON; see `peers/`. Java's are Kafka's own console tools.
#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use std::collections::BTreeMap;
use std::io::Write as _;
use std::process::{Command, Stdio};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use millstream_core::{
    Message, OpenRequest, PartitionId, Read, ReadLimits, Reader as _, Settlement, Settler as _, Source as _,
    Writer as _,
};
use millstream_kafka::Kafka;
use serde::Deserialize;
use tokio::time::timeout;

use self::common::{PATIENCE, broker, topic, variable};

const COUNT: usize = 200;
const KEYS: usize = 50;
const PARTITIONS: u32 = 6;
/// A record as anybody sees it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Record {
    key: String,
    value: Option<String>,
    headers: Vec<(String, String)>,
}

/// A record, and where it lies.
type Placed = (PartitionId, Record);

/// What every peer writes.
fn records() -> Vec<Record> {
    let record = |n: usize| Record {
        key: format!("customer-{}", n % KEYS),
        value: (n % 10 != 9).then(|| format!(r#"{{"n":{n}}}"#)),
        headers: vec![("tenant".into(), "acme".into()), ("n".into(), n.to_string())],
    };
    (0..COUNT).map(record).collect()
}

/// Where each key lies; that it lies in one place is asserted.
fn places(placed: &[Placed]) -> BTreeMap<String, PartitionId> {
    let mut places = BTreeMap::new();
    for (partition, record) in placed {
        let other = places.insert(record.key.clone(), *partition);
        assert!(other.is_none_or(|other| other == *partition), "{} lies on two partitions", record.key);
    }
    places
}

fn sorted(placed: Vec<Placed>) -> Vec<Record> {
    let mut records: Vec<_> = placed.into_iter().map(|(_, record)| record).collect();
    records.sort();
    records
}

// ---- Millstream ----------------------------------------------------------------------------------------------

async fn write(kafka: &Kafka, topic: &str, records: &[Record]) {
    let message = |(n, record): (usize, &Record)| {
        let mut message = Message::new(topic.to_owned(), "").with_id(format!("id-{n}"));
        message.data = record.value.clone().map(Into::into);
        message.key = Some(record.key.clone().into());
        message.content_type = "application/json".into();
        for (name, value) in &record.headers {
            message.headers.append(name.as_str(), value.clone());
        }
        message
    };
    let messages = records.iter().enumerate().map(message).collect();
    kafka.writer().write(messages).await.unwrap().into_result().unwrap();
}

async fn read(kafka: &Kafka, topic: &str) -> Vec<Placed> {
    let mut opened = kafka.reader().open(OpenRequest::new(topic).group(format!("{topic}.g"))).await.unwrap();
    let (mut deliveries, mut read) = (Vec::new(), Vec::new());
    while read.len() < COUNT {
        let next = opened.source.read(&mut deliveries, ReadLimits::new(100, 1 << 20));
        let told = timeout(PATIENCE, next).await.unwrap_or_else(|_| panic!("{} of {COUNT} came", read.len()));
        if !matches!(told.unwrap(), Read::Deliveries) {
            continue;
        }
        let mut acks = Vec::new();
        for delivery in deliveries.drain(..) {
            let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
            let headers =
                delivery.message.headers.iter().map(|(name, value)| (name.to_string(), text(value.unwrap())));
            let record = Record {
                key: text(delivery.message.key.as_deref().unwrap()),
                value: delivery.message.data.as_deref().map(text),
                headers: headers.collect(),
            };
            read.push((delivery.origin().partition, record));
            acks.push(Settlement::ack(delivery.token));
        }
        assert!(opened.settler.settle(acks).await.iter().all(millstream_core::Settled::is_done));
    }
    opened.source.close().await.unwrap();
    opened.settler.close().await.unwrap();
    read
}

// ---- Go and Python: programs of the tests ----------------------------------------------------------------------

/// A record as those programs print it.
#[derive(Deserialize)]
struct Line {
    partition: u32,
    key: Option<String>,
    value: Option<String>,
    headers: Vec<Header>,
}

#[derive(Deserialize)]
struct Header {
    name: String,
    value: Option<String>,
}

#[derive(Debug, Clone, Copy)]
enum Peer {
    Go,
    Python,
}

impl Peer {
    /// Runs it to its end; gives what it printed.
    fn run(self, way: &str, topic: &str) -> String {
        let mut command = match self {
            Self::Go => Command::new(variable("MILLSTREAM_PEER_GO")),
            Self::Python => {
                let mut python = Command::new(variable("MILLSTREAM_PEER_PYTHON"));
                python.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/peers/python/peer.py"));
                python
            }
        };
        command.args([way, &broker(), topic, &COUNT.to_string()]);
        run(command, "")
    }
}

fn run(mut command: Command, input: &str) -> String {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn placed(printed: &str) -> Vec<Placed> {
    let text = |encoded: &str| String::from_utf8(STANDARD.decode(encoded).unwrap()).unwrap();
    let placed = |line: &str| {
        let line: Line = serde_json::from_str(line).unwrap();
        let headers = line.headers.into_iter().map(|h| (h.name, text(&h.value.unwrap())));
        let record = Record {
            key: text(&line.key.unwrap()),
            value: line.value.as_deref().map(text),
            headers: headers.collect(),
        };
        (PartitionId(line.partition), record)
    };
    printed.lines().map(placed).collect()
}

/// With id and type, as the wire has them.
fn as_written(n: usize, record: &Record) -> Record {
    let own = [("message_id", format!("id-{n}")), ("content_type", "application/json".to_owned())];
    let headers = own.map(|(name, value)| (name.to_owned(), value)).into_iter().chain(record.headers.clone());
    Record { headers: headers.collect(), ..record.clone() }
}

async fn with_a_program(peer: Peer, name: &str) {
    let kafka = Kafka::builder(broker()).connect().await.unwrap();

    // What the peer writes is read here.
    let theirs = topic(&kafka, &format!("{name}-writes"), PARTITIONS).await;
    let to = theirs.clone();
    tokio::task::spawn_blocking(move || peer.run("write", &to)).await.unwrap();
    let from_them = read(&kafka, &theirs).await;
    let where_they_put = places(&from_them);
    let mut expected = records();
    expected.sort();
    assert_eq!(sorted(from_them), expected);

    // And what is written here the peer reads, each key where it put it itself.
    let ours = topic(&kafka, &format!("{name}-reads"), PARTITIONS).await;
    write(&kafka, &ours, &records()).await;
    let from_us = tokio::task::spawn_blocking(move || peer.run("read", &ours)).await.unwrap();
    let from_us = placed(&from_us);
    assert_eq!(places(&from_us), where_they_put);
    let mut expected: Vec<_> = records().iter().enumerate().map(|(n, r)| as_written(n, r)).collect();
    expected.sort();
    assert_eq!(sorted(from_us), expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn kafka_go_reads_what_is_written_here_and_the_other_way_round() {
    with_a_program(Peer::Go, "go").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn confluent_kafka_reads_what_is_written_here_and_the_other_way_round() {
    with_a_program(Peer::Python, "python").await;
}

// ---- Java: Kafka's own console tools ---------------------------------------------------------------------------

fn java(class: &str, topic: &str, arguments: &[&str], input: &str) -> String {
    let mut command = Command::new("java");
    let jars = format!("{}/*", variable("MILLSTREAM_PEER_JAVA"));
    command.args(["-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-cp", &jars, class]);
    command.args(["--bootstrap-server", &broker(), "--topic", topic]).args(arguments);
    run(command, input)
}

/// Separates headers, key and value.
const TAB: &str = "\t";

#[tokio::test(flavor = "multi_thread")]
async fn kafka_s_console_tools_read_what_is_written_here_and_the_other_way_round() {
    let kafka = Kafka::builder(broker()).connect().await.unwrap();
    // The tools tell a null by a word.
    let null = "NULL";

    let theirs = topic(&kafka, "java-writes", PARTITIONS).await;
    let mut lines = String::new();
    for record in records() {
        let headers: Vec<_> = record.headers.iter().map(|(name, value)| format!("{name}:{value}")).collect();
        let value = record.value.as_deref().unwrap_or(null);
        lines += &[&headers.join(","), &*record.key, value].join(TAB);
        lines += "\n";
    }
    let to = theirs.clone();
    let producer = move || {
        let properties = [
            "--reader-property",
            "parse.key=true",
            "--reader-property",
            "parse.headers=true",
            "--reader-property",
            "null.marker=NULL",
        ];
        java("org.apache.kafka.tools.ConsoleProducer", &to, &properties, &lines)
    };
    tokio::task::spawn_blocking(producer).await.unwrap();
    let from_them = read(&kafka, &theirs).await;
    let where_they_put = places(&from_them);
    let mut expected = records();
    expected.sort();
    assert_eq!(sorted(from_them), expected);

    let ours = topic(&kafka, "java-reads", PARTITIONS).await;
    write(&kafka, &ours, &records()).await;
    let consumer = move || {
        let count = COUNT.to_string();
        let properties = [
            "--from-beginning",
            "--max-messages",
            &count,
            "--formatter-property",
            "print.partition=true",
            "--formatter-property",
            "print.headers=true",
            "--formatter-property",
            "print.key=true",
            "--formatter-property",
            "null.literal=NULL",
        ];
        java("org.apache.kafka.tools.consumer.ConsoleConsumer", &ours, &properties, "")
    };
    let printed = tokio::task::spawn_blocking(consumer).await.unwrap();
    let placed = |line: &str| {
        let mut parts = line.split('\t');
        let mut part = || parts.next().unwrap_or_else(|| panic!("{line:?}")).to_owned();
        let (partition, headers, key, value) = (part(), part(), part(), part());
        let partition = partition.strip_prefix("Partition:").unwrap().parse().unwrap();
        let header = |header: &str| {
            let (name, value) = header.split_once(':').unwrap();
            (name.to_owned(), value.to_owned())
        };
        let headers = headers.split(',').map(header).collect();
        let value = Some(value).filter(|value| value != null);
        (PartitionId(partition), Record { key, value, headers })
    };
    let from_us: Vec<_> = printed.lines().map(placed).collect();
    assert_eq!(places(&from_us), where_they_put);
    let mut expected: Vec<_> = records().iter().enumerate().map(|(n, r)| as_written(n, r)).collect();
    expected.sort();
    assert_eq!(sorted(from_us), expected);
}
