//! What a full topic does: wait while somebody reads, refuse if nobody does.

mod common;

use std::time::Duration;

use common::*;
use millstream_core::{
    Admin, ErrorKind, Message, OpenRequest, Position, Settlement, Settler, Start, WriteOutcome, Writer,
};
use millstream_memory::MemoryBroker;
use tokio::time::Instant;

fn small(capacity: usize) -> MemoryBroker {
    MemoryBroker::builder().capacity(capacity).build()
}

fn errors(outcomes: Vec<WriteOutcome>) -> Vec<Option<ErrorKind>> {
    let kind = |outcome| match outcome {
        WriteOutcome::Written(_) => None,
        WriteOutcome::Failed(error) | WriteOutcome::Unknown(error) => Some(error.kind()),
        other => panic!("{other:?}"),
    };
    outcomes.into_iter().map(kind).collect()
}

#[tokio::test(start_paused = true)]
async fn a_topic_that_no_group_reads_keeps_to_its_bound_then_says_full() {
    let broker = small(2);
    let start = Instant::now();

    let report = report(&broker, [message("1"), keyed("k", "2"), keyed("l", "3"), message("4")]).await;

    // All or a prefix; and at once, since there is nobody to wait for.
    let full = Some(ErrorKind::Full);
    let outcomes = report.into_outcomes();
    let WriteOutcome::Failed(error) = &outcomes[2] else { panic!("{outcomes:?}") };
    let context = error.context();
    assert_eq!(context.topic.as_deref(), Some(TOPIC));
    assert_eq!(context.key.as_deref(), Some(&b"l"[..]));
    assert!(context.fix.as_ref().unwrap().contains("capacity"), "{error}");
    assert_eq!(errors(outcomes), [None, None, full, full]);
    assert_eq!(start.elapsed(), Duration::ZERO);

    // What was kept is there for the first group that comes.
    assert_eq!(texts(&member(&broker).await.now(9).await), ["1", "2"]);
}

#[tokio::test]
async fn a_topic_is_bounded_by_bytes_too() {
    let broker = MemoryBroker::builder().bytes(10).build();
    let sized = |bytes: usize| Message::new(TOPIC, vec![0; bytes]);

    let report = report(&broker, [sized(6), sized(11), sized(4), sized(1)]).await;

    assert_eq!(
        errors(report.into_outcomes()),
        [None, Some(ErrorKind::TooLarge), None, Some(ErrorKind::Full)],
        "a message larger than the topic fails alone"
    );
    assert_eq!(broker.writer().capabilities().max_message, Some(10));
}

#[tokio::test(start_paused = true)]
async fn a_full_topic_makes_writers_wait_until_messages_are_settled() {
    let broker = small(2);
    let mut a = member(&broker).await;
    write(&broker, ["1", "2"].map(message)).await;
    let writing = tokio::spawn({
        let broker = broker.clone();
        async move { write(&broker, ["3", "4", "5"].map(message)).await }
    });
    tokio::task::yield_now().await;
    assert!(!writing.is_finished());

    for expected in [&["1", "2"][..], &["3", "4"], &["5"]] {
        let deliveries = a.read(9).await;
        assert_eq!(texts(&deliveries), expected);
        a.ack_all(deliveries).await;
    }

    writing.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn writers_that_wait_come_in_their_order() {
    let broker = small(1);
    let mut a = member(&broker).await;
    write(&broker, [message("0")]).await;
    let mut writing = Vec::new();
    for text in ["1", "2", "3"] {
        let broker = broker.clone();
        writing.push(tokio::spawn(async move { write(&broker, [message(text)]).await }));
        tokio::task::yield_now().await;
    }

    for expected in ["0", "1", "2", "3"] {
        let delivery = a.one().await;
        assert_eq!(text(&delivery.message), expected);
        a.ack(delivery).await;
    }
    for task in writing {
        task.await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_writer_waits_no_longer_than_it_was_told_to() {
    let broker = MemoryBroker::builder().capacity(1).write_timeout(5 * SECOND).build();
    let _idle = member(&broker).await;
    let start = Instant::now();

    let report = report(&broker, ["1", "2"].map(message)).await;

    let error = report.into_result().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Full);
    assert_eq!(start.elapsed(), 5 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn a_writer_that_waits_learns_when_the_last_reader_leaves() {
    let broker = small(1);
    let a = member(&broker).await;
    write(&broker, [message("1")]).await;
    let start = Instant::now();
    let writing = tokio::spawn({
        let broker = broker.clone();
        async move { report(&broker, [message("2")]).await.into_result().unwrap_err() }
    });
    tokio::task::yield_now().await;

    drop(a);

    let error = writing.await.unwrap();
    assert_eq!(error.kind(), ErrorKind::Full);
    assert_eq!(error.context().group.as_deref(), Some(GROUP));
    assert_eq!(start.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_group_without_members_that_is_behind_makes_the_topic_full() {
    let broker = small(2);
    let mut reading = member(&broker).await;
    drop(open(&broker, OpenRequest::new(TOPIC).group("gone")).await);
    write(&broker, ["1", "2"].map(message)).await;
    let deliveries = reading.read(9).await;
    reading.ack_all(deliveries).await;

    let error = report(&broker, [message("3")]).await.into_result().unwrap_err();

    assert_eq!(error.kind(), ErrorKind::Full);
    assert_eq!(error.context().group.as_deref(), Some("gone"));
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_write_that_waited_leaves_the_topic_usable() {
    let broker = small(1);
    let mut a = member(&broker).await;
    write(&broker, [message("1")]).await;
    let writer = broker.writer();
    assert!(at_once(writer.write(vec![message("2")])).await.is_none());

    let first = a.one().await;
    a.ack(first).await;
    write(&broker, [message("3")]).await;

    assert_eq!(texts(&a.now(9).await), ["3"]);
}

#[tokio::test]
async fn what_no_group_wants_goes_only_when_room_is_needed() {
    // Given messages from before the first group, which starts behind them
    let broker = small(3);
    write(&broker, ["1", "2"].map(message)).await;
    let mut late = open(&broker, request().start(Start::Latest)).await;

    // then a second group still gets them,
    write(&broker, [message("3")]).await;
    let mut early =
        open(&broker, OpenRequest::new(TOPIC).group("early").start(Start::Position(Position(1)))).await;
    assert_eq!(texts(&early.now(9).await), ["2", "3"]);

    // and the one that nobody claimed makes room.
    write(&broker, [message("4")]).await;
    assert_eq!(texts(&late.now(9).await), ["3", "4"]);
    assert_eq!(broker.admin().topics().await.unwrap()[0].messages, 3);
}

#[tokio::test(start_paused = true)]
async fn one_message_that_waits_does_not_fill_the_topic() {
    let broker = small(2);
    let mut a = member(&broker).await;
    write(&broker, [message("stuck")]).await;
    let stuck = a.one().await;
    a.done(stuck, retry(3600 * SECOND)).await;

    for i in 0..5_000 {
        write(&broker, [message(&i.to_string())]).await;
        let next = a.one().await;
        assert_eq!(text(&next.message), i.to_string());
        a.ack(next).await;
    }

    assert_eq!(text(&a.one().await.message), "stuck");
}

#[tokio::test(start_paused = true)]
async fn a_settler_of_a_closed_source_still_makes_room() {
    let broker = small(1);
    let mut a = member(&broker).await;
    write(&broker, [message("1")]).await;
    let first = a.one().await;
    let Member { source, mut settler } = a;
    millstream_core::Source::close(source).await.unwrap();
    let writing = tokio::spawn({
        let broker = broker.clone();
        async move { write(&broker, [message("2")]).await }
    });
    tokio::task::yield_now().await;

    settler.settle(vec![Settlement::ack(first.token)]).await;

    writing.await.unwrap();
}
