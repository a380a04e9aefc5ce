//! What can be seen from outside: metrics by their names, spans by theirs, the trace that travels.
#![cfg(feature = "memory")]
#![allow(clippy::unwrap_used, reason = "a helper of tests is a test")]

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use metrics_util::debugging::{DebugValue, DebuggingRecorder};
use millstream::{
    Bus, EmbeddedDedupStore, Failure, Message, Outcome, Publisher, Retry, Subscribe, SubscriptionReport,
    names,
};
use tracing::field::{Field, Visit};
use tracing::span;
use tracing_subscriber::layer::{Context, SubscriberExt};

const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

/// Fails once, sends one message with its success, and cannot take poison.
async fn handle(message: Message, attempt: millstream::Attempt, publisher: Publisher) -> Outcome {
    if message.id == "poison" {
        return Err(Failure::unrecoverable("poison"));
    }
    publisher.publish_message(Message::new("out", "y")).await?;
    if attempt.0 == 1 { Err(Failure::retry("once")) } else { Ok(()) }
}

/// Three messages, one of them twice and one poison; and what the subscription counted.
async fn run() -> (SubscriptionReport, Vec<Message>) {
    let bus = Bus::connect("memory://").await.unwrap();
    let publisher = bus.publisher().clone();
    let out = Arc::new(Mutex::new(Vec::new()));
    let sink = {
        let out = Arc::clone(&out);
        move |message: Message| {
            out.lock().unwrap().push(message);
            async { Ok(()) as Outcome }
        }
    };
    let running = bus
        .subscribe_to(
            "in",
            handle
                .group("g")
                .retry(Retry::fixed(Duration::from_millis(1)).attempts(3))
                .deduplicate(EmbeddedDedupStore::new(100)),
        )
        .subscribe_to("out", sink.group("sink").named("sink"))
        .start()
        .await
        .unwrap();
    for id in ["1", "2", "1", "poison"] {
        let message = Message::new("in", "x").with_id(id).with_header(names::TRACEPARENT, PARENT);
        publisher.publish_message(message).await.unwrap();
    }
    let done = |r: &SubscriptionReport| r.handled + r.duplicates + r.dead_lettered == 4;
    while !done(&running.control().counts()[0]) || running.control().counts()[1].handled < 2 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let report = running.shutdown().await;
    let out = out.lock().unwrap().clone();
    (report.subscriptions[0].clone(), out)
}

fn runtime() -> tokio::runtime::Runtime {
    spans();
    tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap()
}

#[test]
fn the_metrics_say_what_the_report_says() {
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    let (report, _) = metrics::with_local_recorder(&recorder, || runtime().block_on(run()));

    let mut counters = BTreeMap::new();
    let mut others = Vec::new();
    for (key, _, _, value) in snapshotter.snapshot().into_vec() {
        let key = key.key();
        let of_handler = key.labels().any(|l| l.key() == "handler" && l.value() == "handle");
        match value {
            DebugValue::Counter(count) if of_handler || key.labels().len() == 0 => {
                counters.insert(key.name().to_owned(), count);
            }
            _ if of_handler => others.push(key.name().to_owned()),
            _ => {}
        }
    }
    for (name, count) in [
        ("millstream_published_total", 4),
        ("millstream_messages_in_total", report.read),
        ("millstream_messages_out_total", 2),
        ("millstream_handled_total", 2),
        ("millstream_failed_total", 3),
        ("millstream_retried_total", 2),
        ("millstream_duplicates_total", 1),
        ("millstream_dead_lettered_total", 1),
        ("millstream_parked_total", 0),
    ] {
        assert_eq!(counters.get(name), Some(&count), "{name} in {counters:?}");
    }
    for name in [
        "millstream_handler_seconds",
        "millstream_in_flight",
        "millstream_lag",
        "millstream_oldest_age_seconds",
        "millstream_parked_keys",
        "millstream_running",
    ] {
        assert!(others.iter().any(|n| n == name), "{name} in {others:?}");
    }
}

/// A span's name and fields.
type Seen = (String, BTreeMap<String, String>);

#[derive(Clone, Default)]
struct Spans(Arc<Mutex<Vec<Seen>>>);

/// Of all tests here: a subscriber of one thread's own would miss what another thread met first.
fn spans() -> &'static Spans {
    static SPANS: LazyLock<Spans> = LazyLock::new(|| {
        let spans = Spans::default();
        tracing::subscriber::set_global_default(tracing_subscriber::registry().with(spans.clone())).unwrap();
        spans
    });
    &SPANS
}

struct Fields(BTreeMap<String, String>);

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        self.0.insert(field.name().to_owned(), format!("{value:?}"));
    }
    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name().to_owned(), value.to_owned());
    }
}

impl<S: tracing::Subscriber> tracing_subscriber::Layer<S> for Spans {
    fn on_new_span(&self, attributes: &span::Attributes<'_>, _: &span::Id, _: Context<'_, S>) {
        let mut fields = Fields(BTreeMap::new());
        attributes.record(&mut fields);
        self.0.lock().unwrap().push((attributes.metadata().name().to_owned(), fields.0));
    }
}

#[test]
fn spans_carry_the_names_of_the_conventions() {
    runtime().block_on(run());

    let spans = spans().0.lock().unwrap();
    let process =
        spans.iter().find(|(name, f)| name == "process" && f["messaging.message.id"] == "2").unwrap();
    for (field, value) in [
        ("messaging.operation.type", "process"),
        ("messaging.destination.name", "in"),
        ("messaging.consumer.group.name", "g"),
        ("millstream.handler", "handle"),
        ("millstream.attempt", "1"),
        ("traceparent", PARENT),
    ] {
        assert_eq!(process.1.get(field).map(String::as_str), Some(value), "{field}");
    }
    let send = spans.iter().find(|(name, _)| name == "send").unwrap();
    assert_eq!(send.1["messaging.destination.name"], "in");
    assert_eq!(send.1["messaging.batch.message_count"], "1");
    let text = format!("{spans:?}");
    assert!(!text.contains("\"x\""), "payloads are not in spans");
}

#[test]
fn a_trace_goes_on_into_what_a_handler_publishes() {
    let (_, out) = runtime().block_on(run());
    assert_eq!(out.len(), 2);
    for message in out {
        assert_eq!(message.headers.get_str(names::TRACEPARENT), Some(PARENT));
    }
}
