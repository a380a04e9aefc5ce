//! A program in Python with boto3 beside this one on SQS, SNS and DynamoDB: what each writes the other reads, byte for byte.
//!
//! It follows `docs/wire.md` and shares no code with the driver; see `peers/`.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::io::Write as _;
use std::process::{Command, Stdio};
use std::time::{Duration, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use millstream_aws::{DynamoDedupStore, Sns, SnsReader, Subscription};
use millstream_core::{
    DedupKey, DedupStore as _, Delivery, Message, OpenRequest, Opened, ReadLimits, Reader, Reservation,
    Reserve, Source as _, Writer as _,
};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::time::timeout;

mod server;
use server::{Member, PATIENCE, sqs, topic, write};

/// More than one request takes.
const COUNT: usize = 25;

/// Where a server or a program is. Never skipped in silence: who has none is told how to get one.
fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| {
        panic!("set {name}: `cargo xtask services start elasticmq moto dynamodb` prints it")
    })
}

/// Payloads that are text, that are none, that SQS refuses as text, and that are not there.
fn data(n: usize) -> Option<Bytes> {
    match n % 6 {
        0 => Some(format!(r#"{{"n":{n}}}"#).into()),
        1 => Some(vec![0, 0xff, 0xfe].into()),
        2 => Some("a\u{1}b".into()),
        3 => Some(Bytes::new()),
        4 => None,
        _ => Some(" gr\u{fc}n \t\u{1f33f}\r\n".into()),
    }
}

/// What both sides write. Not every message has a key, a type and headers.
fn messages(topic: &str) -> Vec<Message> {
    let message = |n: usize| {
        let time = UNIX_EPOCH + Duration::from_millis(1_764_000_000_000 + n as u64);
        let mut message = Message::new(topic.to_owned(), "").with_id(format!("id-{n}")).with_time(time);
        message.data = data(n);
        if !n.is_multiple_of(5) {
            message = message.with_key(format!("customer {}", n % 3)).with_content_type("application/json");
        }
        if !n.is_multiple_of(4) {
            message = message.with_header("tenant", "acme").with_header("x.n", n.to_string());
        }
        message
    };
    (0..COUNT).map(message).collect()
}

// ---- Python --------------------------------------------------------------------------------------------------

/// A message as the program has it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct Line {
    id: String,
    topic: String,
    key: Option<String>,
    #[serde(rename = "type")]
    content_type: Option<String>,
    /// Unix milliseconds.
    #[serde(deserialize_with = "as_written")]
    time: u64,
    data: Option<String>,
    headers: Vec<(String, String)>,
    /// On a FIFO queue: the group, and what is taken once.
    #[serde(skip_serializing_if = "Option::is_none")]
    group: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    once: Option<String>,
}

/// Unix milliseconds on SQS, RFC 3339 on SNS.
fn as_written<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    let text = String::deserialize(deserializer)?;
    let parsed = humantime::parse_rfc3339(&text).map(|time| time.duration_since(UNIX_EPOCH).unwrap());
    Ok(parsed.map_or_else(|_| text.parse().unwrap(), |since| u64::try_from(since.as_millis()).unwrap()))
}

fn line(message: &Message) -> Line {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let headers = message.headers.iter().map(|(name, value)| (name.to_string(), text(value.unwrap())));
    let time = message.time.duration_since(UNIX_EPOCH).unwrap();
    Line {
        id: message.id.to_string(),
        topic: message.topic.to_string(),
        key: message.key.as_deref().map(text),
        content_type: Some(message.content_type.to_string()).filter(|text| !text.is_empty()),
        time: u64::try_from(time.as_millis()).unwrap(),
        data: message.data.as_deref().map(|data| BASE64.encode(data)),
        headers: headers.collect(),
        group: None,
        once: None,
    }
}

/// Runs the program to its end; gives the lines that it printed.
async fn boto(arguments: &[&str], input: Vec<String>) -> Vec<String> {
    let mut command = Command::new(variable("MILLSTREAM_PEER_BOTO"));
    command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/peers/python/boto.py")).args(arguments);
    let run = move || {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|e| panic!("{command:?}: {e}"));
        child.stdin.take().unwrap().write_all(input.join("\n").as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().lines().map(ToOwned::to_owned).collect()
    };
    tokio::task::spawn_blocking(run).await.unwrap()
}

fn written(messages: &[Message]) -> Vec<String> {
    messages.iter().map(|message| json!(line(message)).to_string()).collect()
}

fn queue(topic: &str) -> String {
    match topic.strip_suffix(".fifo") {
        Some(stem) => format!("{}.fifo", stem.replace('.', "-")),
        None => topic.replace('.', "-"),
    }
}

async fn boto_reads(endpoint: &str, queue: &str) -> Vec<Line> {
    let printed = boto(&["read", endpoint, queue, &COUNT.to_string()], Vec::new()).await;
    printed.iter().map(|line| serde_json::from_str(line).unwrap()).collect()
}

// ---- SQS -----------------------------------------------------------------------------------------------------

/// Without an order, which standard queues do not have.
fn sorted(messages: impl IntoIterator<Item = Message>) -> Vec<Message> {
    let mut messages: Vec<_> = messages.into_iter().collect();
    messages.sort_by(|a, b| a.id.cmp(&b.id));
    messages
}

fn came(deliveries: Vec<Delivery>) -> Vec<Message> {
    deliveries.into_iter().map(|delivery| (*delivery.message).clone()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_boto3_writes_to_a_standard_queue_is_read_here() {
    let (sqs, topic) = (sqs().await, topic("boto.writes"));
    let mut member = Member::open(&sqs, &topic).await;
    boto(&["write", &server::endpoint(), &queue(&topic)], written(&messages(&topic))).await;
    assert_eq!(sorted(came(member.take(COUNT).await)), sorted(messages(&topic)));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_written_here_boto3_reads_from_a_standard_queue() {
    let (sqs, topic) = (sqs().await, topic("boto.reads"));
    write(&sqs, messages(&topic)).await;
    let mut read = boto_reads(&server::endpoint(), &queue(&topic)).await;
    read.sort();
    assert_eq!(read, sorted(messages(&topic)).iter().map(line).collect::<Vec<_>>());
}

/// Those with a key: only they have an order.
fn keyed(topic: &str) -> Vec<Message> {
    let mut messages = messages(topic);
    messages.iter_mut().enumerate().for_each(|(n, m)| m.key = Some(format!("customer {}", n % 3).into()));
    messages
}

/// The ids of each key, in the order of reading.
fn by_key<'a>(messages: impl IntoIterator<Item = (&'a str, &'a str)>) -> [Vec<String>; 3] {
    let mut ids: [Vec<String>; 3] = Default::default();
    for (key, id) in messages {
        let customer: usize = key.strip_prefix("customer ").unwrap().parse().unwrap();
        ids[customer].push(id.to_owned());
    }
    ids
}

fn keys_and_ids(messages: &[Message]) -> impl Iterator<Item = (&str, &str)> {
    messages.iter().map(|m| (std::str::from_utf8(m.key.as_deref().unwrap()).unwrap(), &*m.id))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_boto3_writes_to_a_fifo_queue_is_read_here_in_the_order_of_its_keys() {
    let (sqs, topic) = (sqs().await, format!("{}.fifo", topic("boto.writes")));
    let mut member = Member::open(&sqs, &topic).await;
    let wanted = keyed(&topic);
    boto(&["write", &server::endpoint(), &queue(&topic)], written(&wanted)).await;
    let mut read = Vec::new();
    while read.len() < COUNT {
        // The next of a key comes when this one is settled.
        let next = member.take(1).await;
        read.extend(next.iter().map(|delivery| (*delivery.message).clone()));
        assert!(member.ack(next).await.iter().all(millstream_core::Settled::is_done));
    }
    assert_eq!(by_key(keys_and_ids(&read)), by_key(keys_and_ids(&wanted)));
    assert_eq!(sorted(read), sorted(wanted));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_written_here_boto3_reads_from_a_fifo_queue_in_the_order_of_its_keys() {
    let (sqs, topic) = (sqs().await, format!("{}.fifo", topic("boto.reads")));
    let wanted = keyed(&topic);
    write(&sqs, wanted.clone()).await;
    let mut read = boto_reads(&server::endpoint(), &queue(&topic)).await;
    let ids = by_key(read.iter().map(|line| (line.key.as_deref().unwrap(), &*line.id)));
    assert_eq!(ids, by_key(keys_and_ids(&wanted)));
    let in_its_group = |message: &Message| {
        let line = line(message);
        let group = line.key.as_ref().map(|key| key.replace(' ', "%20"));
        Line { group, once: Some(line.id.clone()), ..line }
    };
    read.sort();
    assert_eq!(read, sorted(wanted).iter().map(in_its_group).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_boto3_sends_without_any_attribute_of_ours_is_delivered_as_it_is() {
    let (sqs, topic) = (sqs().await, topic("boto.foreign"));
    let mut member = Member::open(&sqs, &topic).await;
    let bare = json!({ "MessageBody": "<order n=\"7\"/>" });
    let dressed = json!({
        "MessageBody": "AP8=",
        "MessageAttributes": {
            "retries": { "DataType": "Number", "StringValue": "3" },
            "signature": { "DataType": "Binary", "BinaryValue": BASE64.encode([0, 0xff]) },
            "source": { "DataType": "String", "StringValue": "billing" },
        },
    });
    let sent = boto(
        &["send", &server::endpoint(), &queue(&topic)],
        [&bare, &dressed].map(ToString::to_string).into(),
    )
    .await;
    let mut read = came(member.take(2).await);
    // SQS's ids are in no order.
    read.sort_by_key(|message| sent.iter().position(|id| **id == *message.id));

    assert_eq!(read.iter().map(|m| &*m.id).collect::<Vec<_>>(), sent, "SQS's id is the message's");
    assert_eq!(read[0].data.as_deref(), Some(&b"<order n=\"7\"/>"[..]));
    assert!(read[0].headers.is_empty() && read[0].key.is_none() && read[0].time > UNIX_EPOCH);
    assert_eq!(read[1].data.as_deref(), Some(&b"AP8="[..]), "without the marker base64 is text");
    let headers: Vec<_> = read[1].headers.iter().map(|(name, value)| (&**name, value.unwrap())).collect();
    let value = |bytes: &'static [u8]| Bytes::from_static(bytes);
    assert_eq!(
        headers,
        [("retries", &value(b"3")), ("signature", &value(&[0, 0xff])), ("source", &value(b"billing"))]
    );
}

// ---- SNS -----------------------------------------------------------------------------------------------------

async fn sns() -> Sns {
    server::queues(&variable("MILLSTREAM_MOTO")).await.open_sns().unwrap()
}

type Group =
    Opened<<SnsReader as Reader>::Source, <SnsReader as Reader>::Settler, <SnsReader as Reader>::Leases>;

async fn open(sns: &Sns, topic: &str, group: &str) -> Group {
    sns.reader().open(OpenRequest::new(topic.to_owned()).group(group.to_owned())).await.unwrap()
}

async fn take(group: &mut Group) -> Vec<Message> {
    let mut taken = Vec::new();
    let reading = async {
        while taken.len() < COUNT {
            let limits = ReadLimits::new(COUNT - taken.len(), 64 << 20);
            group.source.read(&mut taken, limits).await.unwrap();
        }
    };
    assert!(timeout(PATIENCE, reading).await.is_ok(), "{} of {COUNT} came", taken.len());
    came(taken)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_boto3_publishes_to_a_topic_of_sns_is_read_here_raw_and_in_an_envelope() {
    let (sns, topic) = (sns().await, topic("boto.publishes"));
    sns.subscribe(&topic, "raw", Subscription::raw()).await.unwrap();
    sns.subscribe(&topic, "enveloped", Subscription::envelope()).await.unwrap();
    let endpoint = variable("MILLSTREAM_MOTO");
    boto(&["publish", &endpoint, &queue(&topic)], written(&messages(&topic))).await;
    for group in ["raw", "enveloped"] {
        let read = take(&mut open(&sns, &topic, group).await).await;
        assert_eq!(sorted(read), sorted(messages(&topic)), "{group}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_published_here_boto3_reads_from_the_queue_of_its_group() {
    let (sns, topic) = (sns().await, topic("boto.hears"));
    sns.subscribe(&topic, "python", Subscription::raw()).await.unwrap();
    sns.writer().write(messages(&topic)).await.unwrap().into_result().unwrap();
    let of_group = queue(&format!("{topic}.python"));
    let mut read = boto_reads(&variable("MILLSTREAM_MOTO"), &of_group).await;
    read.sort();
    assert_eq!(read, sorted(messages(&topic)).iter().map(line).collect::<Vec<_>>());
}

// ---- DynamoDB ------------------------------------------------------------------------------------------------

async fn store(table: &str) -> DynamoDedupStore {
    let aws = server::aws(&variable("MILLSTREAM_DYNAMODB")).await;
    DynamoDedupStore::builder(&aws, table, Duration::from_secs(3_600)).open().await.unwrap()
}

fn key(id: &str) -> DedupKey {
    DedupKey { group: "billing".into(), id: id.to_owned().into() }
}

async fn reserve(store: &DynamoDedupStore, id: &str) -> Reserve {
    store.reserve(vec![key(id)], Duration::from_secs(60)).await.unwrap().remove(0)
}

async fn reserved(store: &DynamoDedupStore, id: &str) -> Reservation {
    match reserve(store, id).await {
        Reserve::Reserved(reservation) => reservation,
        other => panic!("{id} is {other:?}"),
    }
}

/// Whether the Go toolkit would take each for handled.
async fn handled_for_go(table: &str, group: &str, ids: &[&str]) -> Vec<bool> {
    let endpoint = variable("MILLSTREAM_DYNAMODB");
    let printed = boto(&[&["look", &*endpoint, table, group], ids].concat(), Vec::new()).await;
    printed.iter().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_as_the_go_toolkit_writes_it_is_a_duplicate_here_for_its_group_alone() {
    let table = topic("rows");
    let store = store(&table).await;
    boto(&["handle", &variable("MILLSTREAM_DYNAMODB"), &table, "billing", "1", "2"], Vec::new()).await;
    for id in ["1", "2"] {
        assert_eq!(reserve(&store, id).await, Reserve::Duplicate);
        assert!(store.contains(&key(id)).await.unwrap());
    }
    let other = DedupKey { group: "stock".into(), id: "1".into() };
    assert!(!store.contains(&other).await.unwrap());
    assert!(matches!(reserve(&store, "3").await, Reserve::Reserved(_)), "nobody has handled it");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_handled_here_is_handled_for_the_go_toolkit_and_what_was_given_back_is_not() {
    let table = topic("handled");
    let store = store(&table).await;
    let (done, failed) = (reserved(&store, "done").await, reserved(&store, "failed").await);
    assert_eq!(store.confirm(&[done]).await.unwrap(), [true]);
    store.release(vec![failed]).await.unwrap();
    assert_eq!(handled_for_go(&table, "billing", &["done", "failed", "never"]).await, [true, false, false]);
    assert_eq!(handled_for_go(&table, "stock", &["done"]).await, [false]);
}
