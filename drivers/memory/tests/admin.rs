//! Administration: figures, seek, purge, dead letters.
#![allow(clippy::unwrap_used, reason = "a helper that fails fails its test")]

mod common;

use std::time::{Duration, UNIX_EPOCH};

use common::*;
use millstream_core::admin::{GroupInfo, TopicSettings};
use millstream_core::{
    Admin, ErrorKind, Message, OpenRequest, PartitionId, Position, Settled, Start, Verdict,
};
use millstream_memory::MemoryBroker;

async fn group(broker: &MemoryBroker) -> GroupInfo {
    broker.admin().groups(TOPIC).await.unwrap().remove(0)
}

#[tokio::test]
async fn a_topic_is_made_once() {
    let admin = MemoryBroker::new().admin();

    assert!(admin.ensure_topic("b", TopicSettings::default()).await.unwrap());
    assert!(!admin.ensure_topic("b", TopicSettings::partitions(1)).await.unwrap());
    assert!(admin.ensure_topic("a", TopicSettings::default()).await.unwrap());

    let names: Vec<_> = admin.topics().await.unwrap().into_iter().map(|t| t.name).collect();
    assert_eq!(names, ["a", "b"]);
    let error = admin.ensure_topic("c", TopicSettings::partitions(3)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
}

#[tokio::test(start_paused = true)]
async fn a_groups_figures_are_exact() {
    // Given of five messages one acknowledged, one in flight, one parked, one waiting, one never read
    let broker = MemoryBroker::new();
    let mut a = member(&broker).await;
    let timed = |i: u64| message(&i.to_string()).with_time(UNIX_EPOCH + Duration::from_secs(i));
    write(&broker, (0..5).map(timed)).await;
    let mut deliveries = a.read(4).await;
    a.ack(deliveries.remove(0)).await;
    a.done(deliveries.remove(1), park(Some(60 * SECOND), &note("why"))).await;
    a.done(deliveries.remove(1), retry(SECOND)).await;

    let info = group(&broker).await;

    assert_eq!(info.name, GROUP);
    assert_eq!((info.members, info.lag, info.in_flight, info.parked), (1, 4, 1, 1));
    assert_eq!(info.oldest, Some(UNIX_EPOCH + SECOND));
    assert_eq!(info.committed, [(PartitionId(0), Position(1))]);

    // When the rest is settled, nothing is left.
    a.ack(deliveries.remove(0)).await;
    for _ in 0..3 {
        let next = a.one().await;
        a.ack(next).await;
    }
    let info = group(&broker).await;
    assert_eq!((info.lag, info.in_flight, info.parked, info.oldest), (0, 0, 0, None));
    assert_eq!(info.committed, [(PartitionId(0), Position(5))]);
}

#[tokio::test]
async fn a_group_is_moved_back_to_what_others_still_need_and_forward_past_the_rest() {
    let broker = MemoryBroker::new();
    let admin = broker.admin();
    let mut a = member(&broker).await;
    let mut slow = open(&broker, OpenRequest::new(TOPIC).group("slow")).await;
    write(&broker, ["0", "1", "2"].map(message)).await;
    let deliveries = a.read(9).await;
    a.ack_all(deliveries).await;
    let error = admin.seek(TOPIC, GROUP, Start::Earliest).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict, "it has members");
    drop(a);

    admin.seek(TOPIC, GROUP, Start::Position(Position(1))).await.unwrap();
    assert_eq!(group(&broker).await.lag, 2);
    assert_eq!(texts(&member(&broker).await.now(9).await), ["1", "2"]);

    admin.seek(TOPIC, GROUP, Start::Latest).await.unwrap();
    assert_eq!(group(&broker).await.lag, 0);
    let deliveries = slow.read(9).await;
    slow.ack_all(deliveries).await;
    assert_eq!(admin.topics().await.unwrap()[0].messages, 0, "nobody needs them any more");
}

#[tokio::test]
async fn unknown_topics_and_groups_are_not_found() {
    let broker = MemoryBroker::new();
    let admin = broker.admin();
    assert_eq!(admin.groups("none").await.unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(admin.purge("none").await.unwrap_err().kind(), ErrorKind::NotFound);
    write(&broker, [message("1")]).await;
    let error = admin.seek(TOPIC, "none", Start::Latest).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert_eq!(error.context().group.as_deref(), Some("none"));
}

#[tokio::test(start_paused = true)]
async fn a_purge_deletes_all_and_what_was_in_flight_is_lost() {
    let broker = MemoryBroker::new();
    let mut a = member(&broker).await;
    write(&broker, [keyed("k", "1"), message("2"), message("3"), keyed("k", "4")]).await;
    let mut deliveries = a.read(3).await;
    a.done(deliveries.remove(1), retry(SECOND)).await;

    assert_eq!(broker.admin().purge(TOPIC).await.unwrap(), 4);

    let info = group(&broker).await;
    assert_eq!((info.lag, info.in_flight), (0, 0));
    assert!(matches!(a.settle(deliveries.remove(0), Verdict::Ack).await, Settled::Lost));
    write(&broker, [keyed("k", "5")]).await;
    let next = a.one().await;
    assert_eq!(text(&next.message), "5");
    assert_eq!(next.position, Some(Position(4)), "positions are not used twice");
}

#[tokio::test]
async fn dead_letters_are_listed_in_pages_and_removed_one_by_one() {
    let broker = MemoryBroker::new();
    let admin = broker.admin();
    write(&broker, [message("1")]).await;
    assert!(admin.dead_letters(TOPIC, None, 9).await.unwrap().is_empty());
    let dead = |i: u64| Message::new("orders.dlq", i.to_string());
    write(&broker, (0..4).map(dead)).await;

    let page = admin.dead_letters(TOPIC, None, 2).await.unwrap();
    assert_eq!(page.iter().map(|d| (d.id, text(&d.message))).collect::<Vec<_>>(), [(0, "0"), (1, "1")]);
    let rest = admin.dead_letters(TOPIC, Some(page[1].id), 9).await.unwrap();
    assert_eq!(rest.iter().map(|d| d.id).collect::<Vec<_>>(), [2, 3]);

    assert!(admin.remove_dead_letter(TOPIC, 1).await.unwrap());
    assert!(!admin.remove_dead_letter(TOPIC, 1).await.unwrap());
    let left = admin.dead_letters(TOPIC, None, 9).await.unwrap();
    assert_eq!(left.iter().map(|d| d.id).collect::<Vec<_>>(), [0, 2, 3]);
    assert_eq!(admin.topics().await.unwrap()[0].dead_letters, 3);
}

#[tokio::test]
async fn a_removed_dead_letter_is_gone_for_groups_wherever_it_was() {
    // Given a group on the dead letters: the first in flight, the second back, the third not yet read
    let broker = MemoryBroker::new();
    let admin = broker.admin();
    let mut a = open(&broker, OpenRequest::new("orders.dlq").group(GROUP)).await;
    let dead = |i: u64| Message::new("orders.dlq", i.to_string()).with_key("k");
    write(&broker, (0..4).map(dead)).await;
    let mut deliveries = a.read(2).await;
    a.done(deliveries.remove(1), Verdict::Release).await;

    for id in 0..3 {
        assert!(admin.remove_dead_letter(TOPIC, id).await.unwrap());
    }

    assert!(matches!(a.settle(deliveries.remove(0), Verdict::Ack).await, Settled::Lost));
    assert_eq!(texts(&a.now(9).await), ["3"]);
    let info = admin.groups("orders.dlq").await.unwrap().remove(0);
    assert_eq!((info.lag, info.in_flight), (1, 1));
}
