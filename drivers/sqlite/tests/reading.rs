//! Where reading starts and ends, and what comes later.
#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use std::time::{Duration, SystemTime};

use common::{File, TOPIC, ids, member, message, messages, open, publish, request};
use millstream_core::{
    End, OpenRequest, Position, Read, ReadLimits, Settled, Settlement, Settler, Source, Start, Verdict,
};

async fn to_end(member: &mut common::Member) -> Vec<String> {
    let mut all = Vec::new();
    loop {
        let mut into = Vec::new();
        let read = member.source.read(&mut into, ReadLimits::new(7, usize::MAX));
        let read = tokio::time::timeout(common::PATIENCE, read).await.expect("an end comes").unwrap();
        all.extend(ids(&into));
        if matches!(read, Read::End) {
            return all;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn reading_starts_at_a_position_and_at_a_time() {
    let file = File::new();
    let store = file.open().await;
    let hour = |n: usize| SystemTime::UNIX_EPOCH + Duration::from_secs(3_600 * n as u64);
    publish(&store, (0..10).map(|n| message(n, "k").with_time(hour(n))).collect()).await;
    let browse = |start| OpenRequest::new(TOPIC).start(start).end(End::Latest);
    let late = hour(6) + Duration::from_secs(1);
    for (start, first) in [
        (Start::Position(Position(4)), 3),
        (Start::Position(Position(0)), 0),
        (Start::Position(Position(99)), 10),
        (Start::Time(hour(6)), 6),
        (Start::Time(late), 7),
    ] {
        let expected: Vec<_> = (first..10).map(|n| format!("id-{n}")).collect();
        assert_eq!(to_end(&mut open(&store, browse(start)).await).await, expected, "{start:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn reading_ends_before_the_position_that_was_named() {
    let file = File::new();
    let store = file.open().await;
    publish(&store, messages(5)).await;
    for (end, count) in [(0, 0), (1, 0), (3, 2)] {
        let request = OpenRequest::new(TOPIC).end(End::Position(Position(end)));
        assert_eq!(to_end(&mut open(&store, request).await).await.len(), count, "the end {end}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_others_delayed_comes_when_it_is_due_also_while_this_process_is_busy() {
    // Given a process that writes without a pause, and a message that another one delayed.
    let file = File::new();
    let (here, there) = (file.apart().await, file.apart().await);
    let mut reader = open(&here, OpenRequest::new("later").group("g")).await;
    let busy = {
        let here = here.clone();
        tokio::spawn(async move {
            for n in 0.. {
                publish(&here, vec![message(n, "busy")]).await;
            }
        })
    };
    let mut later = message(1, "k").with_deliver_at(SystemTime::now() + Duration::from_millis(300));
    later.topic = "later".into();
    publish(&there, vec![later]).await;
    drop(there);
    // Then it comes.
    assert_eq!(ids(&reader.take(1).await), ["id-1"]);
    busy.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_verdict_that_is_refused_takes_nothing_along() {
    let file = File::new();
    let store = file.open().await;
    file.connection().execute_batch("CREATE TABLE sums(n INTEGER) STRICT").unwrap();
    publish(&store, messages(1)).await;
    let mut member = member(&store).await;
    let delivery = member.one().await;
    let mut retry = Settlement::new(delivery.token, Verdict::Retry { after: Duration::from_secs(1) });
    retry.along_mut().effects = vec![common::sql("INSERT INTO sums VALUES(1)")];
    let settled = member.settler.settle(vec![retry]).await;
    assert!(matches!(settled[..], [Settled::Failed { .. }]), "{settled:?}");
    assert_eq!(file.number("SELECT count(*) FROM sums"), 0);
    drop(open(&store, request()).await);
}
