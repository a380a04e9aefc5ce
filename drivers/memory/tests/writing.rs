//! The writer: outcomes, delays, its end and the broker's.

mod common;

use std::time::{Duration, SystemTime};

use common::*;
use millstream_core::{
    Admin, ErrorKind, Message, OpenRequest, Position, Read, ReadLimits, Reader, Source, WriteOutcome, Writer,
};
use millstream_memory::MemoryBroker;
use tokio::time::Instant;

fn due_in(text: &str, wait: Duration) -> Message {
    message(text).with_deliver_at(SystemTime::now() + wait)
}

/// The wall clock goes on while a test runs, the paused one does not: times agree to this.
fn about(elapsed: Duration, expected: Duration) -> bool {
    elapsed <= expected + Duration::from_millis(2) && elapsed + SECOND / 2 > expected
}

#[tokio::test]
async fn a_batch_goes_to_the_topics_of_its_messages_in_order() {
    let broker = MemoryBroker::new();
    let other = |text: &str| Message::new("other", text.to_owned());

    let report = report(&broker, [message("1"), other("a"), message("2"), other("b")]).await;

    let positions = report.into_outcomes().into_iter().map(|outcome| match outcome {
        WriteOutcome::Written(position) => position.map(|Position(p)| p),
        other => panic!("{other:?}"),
    });
    assert_eq!(positions.collect::<Vec<_>>(), [0, 0, 1, 1].map(Some));
    let mut second = open(&broker, OpenRequest::new("other").group(GROUP)).await;
    assert_eq!(texts(&member(&broker).await.now(9).await), ["1", "2"]);
    assert_eq!(texts(&second.now(9).await), ["a", "b"]);
}

#[tokio::test]
async fn a_message_without_a_topic_fails_alone() {
    let broker = MemoryBroker::new();

    let report = report(&broker, [message("1"), Message::new("", "x"), message("2")]).await;

    assert_eq!(outcomes(report), [true, false, true]);
}

#[tokio::test(start_paused = true)]
async fn a_delayed_message_comes_when_it_is_due() {
    let broker = MemoryBroker::new();
    let mut a = member(&broker).await;
    let start = Instant::now();

    write(&broker, [due_in("late", 60 * SECOND), message("now"), due_in("sooner", 30 * SECOND)]).await;

    assert_eq!(texts(&a.read(9).await), ["now"]);
    assert_eq!(texts(&a.read(9).await), ["sooner"]);
    assert!(about(start.elapsed(), 30 * SECOND), "{:?}", start.elapsed());
    assert_eq!(texts(&a.read(9).await), ["late"]);
    assert!(about(start.elapsed(), 60 * SECOND), "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_waits_learns_of_a_delayed_message() {
    let broker = MemoryBroker::new();
    let mut a = member(&broker).await;
    let reading = tokio::spawn(async move { text(&a.one().await.message).to_owned() });
    tokio::task::yield_now().await;

    write(&broker, [due_in("later", SECOND)]).await;

    assert_eq!(reading.await.unwrap(), "later");
}

#[tokio::test]
async fn a_time_that_has_passed_is_no_delay() {
    let broker = MemoryBroker::new();
    let mut a = member(&broker).await;

    write(&broker, [message("1").with_deliver_at(SystemTime::now() - SECOND)]).await;

    assert_eq!(texts(&a.now(9).await), ["1"]);
}

#[tokio::test(start_paused = true)]
async fn delayed_messages_count_against_the_bound() {
    let broker = MemoryBroker::builder().capacity(1).build();

    write(&broker, [due_in("1", 60 * SECOND)]).await;

    assert_eq!(broker.admin().topics().await.unwrap()[0].messages, 1);
    let error = report(&broker, [message("2")]).await.into_result().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Full);
    assert_eq!(texts(&member(&broker).await.read(9).await), ["1"]);
}

#[tokio::test]
async fn a_closed_writer_and_its_clones_write_no_more_but_others_do() {
    let broker = MemoryBroker::new();
    let writer = broker.writer();
    let clone = writer.clone();

    writer.close().await.unwrap();
    writer.close().await.unwrap();

    assert_eq!(clone.write(vec![message("1")]).await.unwrap_err().kind(), ErrorKind::BusIsShutdown);
    write(&broker, [message("2")]).await;
}

#[tokio::test(start_paused = true)]
async fn closing_a_writer_waits_for_what_is_under_way() {
    let broker = MemoryBroker::builder().capacity(1).build();
    let mut a = member(&broker).await;
    let writer = broker.writer();
    let writing = tokio::spawn({
        let writer = writer.clone();
        async move { writer.write(["1", "2"].map(message).into()).await.unwrap() }
    });
    tokio::task::yield_now().await;
    assert!(at_once(writer.close()).await.is_none());

    let first = a.one().await;
    a.ack(first).await;
    writer.close().await.unwrap();

    assert_eq!(outcomes(writing.await.unwrap()), [true, true]);
}

#[tokio::test]
async fn a_broker_that_is_shut_down_ends_reads_and_refuses_the_rest() {
    let broker = MemoryBroker::new();
    let mut reading = member(&broker).await;
    let mut draining = member(&broker).await;
    let reads = tokio::spawn(async move {
        let mut into = Vec::new();
        let first = reading.source.read(&mut into, limits(9)).await.unwrap();
        let second = draining.source.read(&mut into, ReadLimits::NOTHING).await.unwrap();
        (first, second)
    });
    tokio::task::yield_now().await;

    broker.shutdown();
    broker.shutdown();

    assert!(matches!(reads.await.unwrap(), (Read::End, Read::End)));
    let error = broker.writer().write(vec![message("1")]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::BusIsShutdown);
    let error = broker.reader().open(OpenRequest::new("new")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::BusIsShutdown);
}

#[tokio::test(start_paused = true)]
async fn a_writer_that_waits_learns_that_the_broker_was_shut_down() {
    let broker = MemoryBroker::builder().capacity(1).build();
    let _idle = member(&broker).await;
    let writing = tokio::spawn({
        let broker = broker.clone();
        async move { report(&broker, ["1", "2"].map(message)).await.into_result().unwrap_err() }
    });
    tokio::task::yield_now().await;

    broker.shutdown();

    assert_eq!(writing.await.unwrap().kind(), ErrorKind::BusIsShutdown);
}
