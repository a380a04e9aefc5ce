//! Given a publisher to a recording writer: what is written, and what is refused before anything is.

mod common;

use std::borrow::Cow;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use common::{Plan, Recorder, UserCreated, ada};
use millstream::{
    Codecs, Error, ErrorKind, Event, EventRegistry, Headers, IdFactory, Limits, Message, PublishOptions,
    WriteOutcome, event, names,
};

#[derive(Event, serde::Serialize, serde::Deserialize)]
#[event(topic = "typed", type = "Typed", version = 3, headers(tenant = tenant))]
struct Typed {
    tenant: String,
}

#[derive(Event, serde::Serialize, serde::Deserialize)]
struct Homeless {}

fn failed(kind: ErrorKind) -> WriteOutcome {
    WriteOutcome::Failed(Error::new(kind, "as planned"))
}

#[tokio::test]
async fn an_event_becomes_a_message_with_id_topic_key_type_and_time() {
    let writer = Recorder::new();
    writer.publisher().publish(&ada()).await.unwrap();
    let message = writer.written().remove(0);
    assert_eq!(message.id.len(), 36);
    assert_eq!(message.topic, "user.created");
    assert_eq!(message.key.as_deref(), Some(&b"1"[..]));
    assert_eq!(message.content_type, "application/json");
    assert_eq!(message.decode::<UserCreated>().unwrap(), ada());
    assert!(message.time.elapsed().unwrap() < Duration::from_secs(60));
    assert!(message.headers.is_empty());
}

#[tokio::test]
async fn type_version_and_the_events_headers_travel() {
    let writer = Recorder::new();
    writer.publisher().publish(&Typed { tenant: "acme".into() }).await.unwrap();
    let headers = writer.written().remove(0).headers;
    assert_eq!(headers.get_str(names::TYPE), Some("Typed"));
    assert_eq!(headers.get_str(names::VERSION), Some("3"));
    assert_eq!(headers.get_str("tenant"), Some("acme"));
}

#[tokio::test]
async fn options_go_before_what_the_event_says() {
    let writer = Recorder::new();
    let options = PublishOptions::new().id("my-id").key("my-key").header("tenant", "other");
    writer.publisher().publish_with(&Typed { tenant: "acme".into() }, options).await.unwrap();
    let message = writer.written().remove(0);
    assert_eq!(message.id, "my-id");
    assert_eq!(message.key.as_deref(), Some(&b"my-key"[..]));
    assert_eq!(message.headers.get_str("tenant"), Some("other"));
    assert_eq!(message.headers.iter().filter(|(name, _)| **name == *"tenant").count(), 1);
}

#[tokio::test]
async fn an_empty_key_is_kept_as_it_is() {
    let writer = Recorder::new();
    writer.publisher().publish(&UserCreated { user_id: String::new(), ..ada() }).await.unwrap();
    assert_eq!(writer.written()[0].key.as_deref(), Some(&b""[..]));
}

#[tokio::test]
async fn an_event_without_a_topic_is_refused_until_one_is_registered() {
    let writer = Recorder::new();
    let publisher = writer.publisher();
    let error = publisher.publish(&Homeless {}).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::EventNotFound);
    publisher.publish_to("named", &Homeless {}).await.unwrap();
    publisher.registry().register::<Homeless>("registered").unwrap();
    publisher.publish(&Homeless {}).await.unwrap();
    let topics: Vec<_> = writer.written().into_iter().map(|m| m.topic).collect();
    assert_eq!(topics, ["named", "registered"]);
}

#[tokio::test]
async fn an_empty_batch_is_an_empty_message() {
    let publisher = Recorder::new().publisher();
    let error = publisher.publish_all::<UserCreated>([]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::EmptyMessage);
    let error = publisher.publish_messages([]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::EmptyMessage);
}

#[tokio::test]
async fn bad_topics_are_refused_and_nothing_is_written() {
    let writer = Recorder::new();
    let publisher = writer.publisher();
    for (topic, kind) in [
        (String::new(), ErrorKind::EmptyMessage),
        ("x".repeat(250), ErrorKind::TooLarge),
        ("a\0b".into(), ErrorKind::InvalidMessage),
    ] {
        let error = publisher.publish_to(topic, &ada()).await.unwrap_err();
        assert_eq!(error.kind(), kind);
        assert!(error.context().fix.is_some(), "{error}");
    }
    let error =
        publisher.publish_messages([Message::new("fine", "x"), Message::new("", "x")]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::EmptyMessage);
    assert!(writer.written().is_empty());
}

#[tokio::test]
async fn a_payload_over_the_limit_names_topic_key_and_fix() {
    let writer = Recorder::new();
    let large = UserCreated { display_name: "x".repeat(2 << 20), ..ada() };
    let error = writer.publisher().publish(&large).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TooLarge);
    let context = error.context();
    assert_eq!((context.topic.as_deref(), context.key.as_deref()), (Some("user.created"), Some(&b"1"[..])));
    assert!(context.fix.is_some());
}

#[tokio::test]
async fn limits_can_be_raised() {
    let writer = Recorder::new();
    let mut limits = Limits::default();
    limits.payload = 4 << 20;
    let large = UserCreated { display_name: "x".repeat(2 << 20), ..ada() };
    writer.publisher().with_limits(limits).publish(&large).await.unwrap();
    assert_eq!(writer.written()[0].decode::<UserCreated>().unwrap(), large);
}

#[tokio::test]
async fn more_than_the_writer_takes_is_refused() {
    let writer = Recorder::new().with(|can| can.max_message = Some(100));
    let error = writer.publisher().publish_message(Message::new("t", vec![0; 101])).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TooLarge);
    assert!(writer.written().is_empty());
}

#[tokio::test]
async fn three_hundred_headers_are_refused() {
    let mut message = Message::new("t", "x");
    for i in 0..300 {
        message.headers.append(format!("h{i}"), "v");
    }
    let error = Recorder::new().publisher().publish_message(message).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TooLarge);
    assert!(error.to_string().contains("300"), "{error}");
}

#[tokio::test]
async fn a_later_delivery_needs_a_writer_that_can_wait() {
    let at = SystemTime::now() + Duration::from_secs(60);
    let error = Recorder::new()
        .publisher()
        .publish_with(&ada(), PublishOptions::new().deliver_at(at))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);

    let writer = Recorder::new().with(|can| can.delay = Some(Duration::from_secs(900)));
    let publisher = writer.publisher();
    publisher.publish_with(&ada(), PublishOptions::new().deliver_at(at)).await.unwrap();
    publisher.publish_with(&ada(), PublishOptions::new().deliver_at(UNIX_EPOCH)).await.unwrap();
    assert_eq!(writer.written()[0].deliver_at, Some(at));
    let late = at + Duration::from_secs(3_600);
    let error = publisher.publish_with(&ada(), PublishOptions::new().deliver_at(late)).await.unwrap_err();
    assert!(error.to_string().contains("900s"), "{error}");
}

#[tokio::test]
async fn a_batch_is_split_by_what_the_writer_takes() {
    let writer = Recorder::new().with(|can| can.max_batch = 10);
    let users = vec![ada(); 25];
    let report = writer.publisher().publish_all(&users).await.unwrap();
    assert!(report.is_all_written() && report.len() == 25);
    let sizes: Vec<_> = writer.batches.lock().unwrap().iter().map(Vec::len).collect();
    assert_eq!(sizes, [10, 10, 5]);
}

#[tokio::test]
async fn each_message_of_a_batch_has_its_outcome() {
    let plan = vec![WriteOutcome::Written(None), failed(ErrorKind::TooLarge), WriteOutcome::Written(None)];
    let writer = Recorder::new().then(Plan::Each(plan));
    let report = writer.publisher().publish_all(&vec![ada(); 3]).await.unwrap();
    let written: Vec<_> = report.into_outcomes().iter().map(WriteOutcome::is_written).collect();
    assert_eq!(written, [true, false, true]);
}

#[tokio::test]
async fn behind_a_failure_that_can_be_retried_nothing_is_sent() {
    let plan = vec![WriteOutcome::Written(None), failed(ErrorKind::Unavailable)];
    let writer = Recorder::new().with(|can| can.max_batch = 2).then(Plan::Each(plan));
    let report = writer.publisher().publish_all(&vec![ada(); 5]).await.unwrap();
    assert_eq!(writer.batches.lock().unwrap().len(), 1);
    let written: Vec<_> = report.into_outcomes().iter().map(WriteOutcome::is_written).collect();
    assert_eq!(written, [true, false, false, false, false]);
}

#[tokio::test]
async fn behind_a_failure_that_cannot_be_retried_the_rest_is_sent() {
    let plan = vec![WriteOutcome::Written(None), failed(ErrorKind::TooLarge)];
    let writer = Recorder::new().with(|can| can.max_batch = 2).then(Plan::Each(plan));
    let report = writer.publisher().publish_all(&vec![ada(); 5]).await.unwrap();
    let written: Vec<_> = report.into_outcomes().iter().map(WriteOutcome::is_written).collect();
    assert_eq!(written, [true, false, true, true, true]);
}

#[tokio::test]
async fn a_part_that_fails_whole_is_told_beside_those_written() {
    let writer = Recorder::new()
        .with(|can| can.max_batch = 2)
        .then(Plan::Each(vec![WriteOutcome::Written(None), WriteOutcome::Written(None)]));
    let writer = writer.then(Plan::Whole(Error::new(ErrorKind::Unavailable, "gone")));
    let report = writer.publisher().publish_all(&vec![ada(); 5]).await.unwrap();
    let written: Vec<_> = report.into_outcomes().iter().map(WriteOutcome::is_written).collect();
    assert_eq!(written, [true, true, false, false, false]);
}

#[tokio::test]
async fn a_batch_of_which_nothing_was_written_is_an_error() {
    let writer = Recorder::new()
        .with(|can| can.max_batch = 2)
        .then(Plan::Whole(Error::new(ErrorKind::Unavailable, "gone")));
    let error = writer.publisher().publish_all(&vec![ada(); 5]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
}

#[tokio::test]
async fn an_unknown_outcome_is_an_error_and_the_same_message_can_be_sent_again() {
    let writer =
        Recorder::new().then(Plan::Each(vec![WriteOutcome::Unknown(Error::new(ErrorKind::Unknown, "?"))]));
    let publisher = writer.publisher();
    let message = publisher.message(&ada()).unwrap();
    let error = publisher.publish_message(message.clone()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unknown);
    publisher.publish_message(message.clone()).await.unwrap();
    assert!(writer.written().iter().all(|m| m.id == message.id));
}

#[tokio::test]
async fn after_the_close_every_clone_is_refused() {
    let writer = Recorder::new();
    let publisher = writer.publisher();
    let clone = publisher.clone().with_ids(IdFactory::uuid_v4());
    publisher.close().await.unwrap();
    publisher.close().await.unwrap();
    assert_eq!(clone.publish(&ada()).await.unwrap_err().kind(), ErrorKind::BusIsShutdown);
    assert!(*writer.closed.lock().unwrap());
}

#[tokio::test]
async fn a_raw_message_keeps_what_it_has_and_gets_what_it_lacks() {
    let writer = Recorder::new();
    let publisher = writer.publisher().with_clock(|| UNIX_EPOCH + Duration::from_secs(7));
    publisher.publish_message(Message::tombstone("t")).await.unwrap();
    let given = Message::new("t", "x").with_id("1").with_time(UNIX_EPOCH + Duration::from_secs(1));
    publisher.publish_message(given.clone()).await.unwrap();
    let written = writer.written();
    assert_eq!((written[0].id.len(), &written[0].data), (36, &None));
    assert_eq!(written[0].time, UNIX_EPOCH + Duration::from_secs(7));
    assert_eq!(written[1], given);
}

#[tokio::test]
async fn a_failing_id_factory_sends_nothing_and_names_the_topic() {
    let writer = Recorder::new();
    let ids = IdFactory::from_fn(|| Err::<String, _>("no more".into()));
    let publisher = writer.publisher().with_ids(ids);
    let error = publisher.publish(&ada()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::IdFactory);
    assert_eq!(error.context().topic.as_deref(), Some("user.created"));
    publisher.publish_with(&ada(), PublishOptions::new().id("given")).await.unwrap();
    assert_eq!(writer.written().len(), 1);
}

#[tokio::test]
async fn seeded_ids_repeat() {
    let ids = || {
        let publisher = Recorder::new().publisher().with_ids(IdFactory::seeded(1));
        (publisher.message(&ada()).unwrap().id, publisher.message(&ada()).unwrap().id)
    };
    assert_eq!(ids(), ids());
}

struct Unencodable;

impl Event for Unencodable {
    type Format = Broken;
    const TOPIC: Option<&'static str> = Some("broken");
    fn key(&self) -> Option<Cow<'_, [u8]>> {
        Some(Cow::Borrowed(b"k"))
    }
    fn headers(&self, _: &mut Headers) {}
}

struct Broken;

impl event::Format<Unencodable> for Broken {
    fn encode(
        _: &Unencodable,
        _: &Codecs,
        out: &mut bytes::BytesMut,
    ) -> millstream::Result<millstream::ByteString> {
        out.extend_from_slice(b"half of it");
        Err(Error::new(ErrorKind::Encode, "it does not encode"))
    }
    fn decode(_: Option<&millstream::Bytes>, _: &str, _: &Codecs) -> millstream::Result<Unencodable> {
        Err(Error::new(ErrorKind::Decode, "it does not decode"))
    }
}

#[tokio::test]
async fn what_fails_to_encode_leaves_nothing_in_the_next_message() {
    let writer = Recorder::new();
    let publisher = writer.publisher();
    let error = publisher.publish(&Unencodable).await.unwrap_err();
    assert_eq!((error.kind(), error.context().topic.as_deref()), (ErrorKind::Encode, Some("broken")));
    publisher.publish(&ada()).await.unwrap();
    assert_eq!(writer.written()[0].decode::<UserCreated>().unwrap(), ada());
}

#[tokio::test]
async fn messages_of_all_sizes_come_out_as_they_went_in() {
    let writer = Recorder::new();
    let publisher = writer.publisher();
    let users: Vec<_> =
        (0..200).map(|i| UserCreated { user_id: i.to_string(), display_name: "x".repeat(i * 17) }).collect();
    for user in &users {
        publisher.publish(user).await.unwrap();
    }
    for (message, user) in writer.written().iter().zip(&users) {
        assert_eq!(message.decode::<UserCreated>().unwrap(), *user);
        assert_eq!(message.key.as_deref(), Some(user.user_id.as_bytes()));
        assert_eq!(message.id.len(), 36);
    }
}

#[cfg(feature = "memory")]
#[tokio::test]
async fn a_scheduler_without_a_writer_starts_nothing_it_could_not_end() {
    let memory = millstream::Drivers::built_in().connect("memory://").await.unwrap();
    let scheduler = millstream::Scheduler::from_dyn(memory.reader, EventRegistry::new());
    async fn handler(_: UserCreated) {}
    let error = scheduler.subscribe(handler).start().await.unwrap_err();
    assert!(error.to_string().contains("dead letters"), "{error}");
}

#[cfg(all(feature = "msgpack", feature = "cbor"))]
#[tokio::test]
async fn the_codec_is_chosen_and_a_message_decodes_by_its_own() {
    use millstream::codec::{Cbor, MsgPack};
    let writer = Recorder::new();
    for codecs in [Codecs::new(MsgPack), Codecs::new(Cbor), Codecs::default()] {
        writer.publisher().with_codecs(codecs).publish(&ada()).await.unwrap();
    }
    let written = writer.written();
    let types: Vec<_> = written.iter().map(|m| &*m.content_type).collect();
    assert_eq!(types, ["application/msgpack", "application/cbor", "application/json"]);
    assert!(written.iter().all(|m| m.decode::<UserCreated>().unwrap() == ada()));
}

#[tokio::test]
async fn publishing_can_be_spawned() {
    fn spawnable<F: Future + Send>(future: F) -> F {
        future
    }
    let publisher = Recorder::new().publisher();
    // An iterator that cannot be sent is used up before the future is polled.
    let not_send = std::rc::Rc::new(vec![ada()]);
    spawnable(publisher.publish_all(not_send.iter())).await.unwrap().into_result().unwrap();
    spawnable(publisher.publish(&ada())).await.unwrap();
}
