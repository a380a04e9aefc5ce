//! Who gets what: groups, their members, their starts.

mod common;

use std::time::{Duration, UNIX_EPOCH};

use common::*;
use millstream_core::{
    Admin, Args, Assignment, Delivery, End, ErrorKind, Exclusivity, Message, OpenRequest, PartitionId,
    Position, Reader, Settled, Settlement, Settler, Source, Start, Verdict,
};
use millstream_memory::MemoryBroker;

fn exclusive() -> OpenRequest {
    let mut request = request();
    request.exclusivity = Exclusivity::Exclusive;
    request
}

#[tokio::test]
async fn every_group_gets_every_message_in_order() {
    let broker = MemoryBroker::new();
    let mut a = open(&broker, OpenRequest::new(TOPIC).group("a")).await;
    let mut b = open(&broker, OpenRequest::new(TOPIC).group("b")).await;

    write(&broker, ["1", "2", "3"].map(message)).await;

    assert_eq!(texts(&a.read(10).await), ["1", "2", "3"]);
    assert_eq!(texts(&b.read(10).await), ["1", "2", "3"]);
}

#[tokio::test]
async fn members_of_a_group_share_its_messages() {
    let broker = MemoryBroker::new();
    let (mut a, mut b) = (member(&broker).await, member(&broker).await);
    write(&broker, ["1", "2", "3", "4"].map(message)).await;

    assert_eq!(texts(&a.read(2).await), ["1", "2"]);
    assert_eq!(texts(&b.read(9).await), ["3", "4"]);
    assert!(a.now(9).await.is_empty());
}

#[tokio::test]
async fn a_key_is_at_one_member_at_a_time() {
    // Given a message of key k at a …
    let broker = MemoryBroker::new();
    let (mut a, mut b) = (member(&broker).await, member(&broker).await);
    write(&broker, [keyed("k", "k1"), keyed("k", "k2"), keyed("l", "l1"), message("u")]).await;
    let k1 = a.one().await;

    // … then b gets all but k, and a gets the next of k.
    let others = b.read(9).await;
    assert_eq!(texts(&others), ["l1", "u"]);
    let k2 = a.read(9).await;
    assert_eq!(texts(&k2), ["k2"]);

    // When all of k is settled, the next of it may go to b.
    a.ack(k1).await;
    a.ack_all(k2).await;
    write(&broker, [keyed("k", "k3")]).await;
    assert_eq!(texts(&b.read(9).await), ["k3"]);
}

#[tokio::test]
async fn a_key_that_is_settled_frees_what_waited_behind_it_for_anyone() {
    let broker = MemoryBroker::new();
    let (mut a, mut b) = (member(&broker).await, member(&broker).await);
    write(&broker, [keyed("k", "k1"), keyed("k", "k2")]).await;
    let k1 = a.one().await;
    assert!(b.now(9).await.is_empty());

    a.ack(k1).await;

    assert_eq!(texts(&b.now(9).await), ["k2"]);
}

#[tokio::test]
async fn an_empty_key_is_no_key() {
    let broker = MemoryBroker::new();
    let (mut a, mut b) = (member(&broker).await, member(&broker).await);
    write(&broker, [keyed("", "1"), keyed("", "2")]).await;

    assert_eq!(texts(&a.read(1).await), ["1"]);
    let second = b.one().await;
    assert_eq!(second.message.key.as_deref(), Some(&b""[..]), "its bytes are kept");
}

#[tokio::test]
async fn a_waiting_member_is_woken_by_a_write() {
    let broker = MemoryBroker::new();
    let mut a = member(&broker).await;
    let reading = tokio::spawn(async move { texts(&a.read(9).await).join(",") });
    tokio::task::yield_now().await;

    write(&broker, ["1", "2"].map(message)).await;

    assert_eq!(reading.await.unwrap(), "1,2");
}

#[tokio::test]
async fn one_member_of_an_exclusive_group_gets_all_until_it_goes() {
    let broker = MemoryBroker::new();
    let (mut a, mut b) = (open(&broker, exclusive()).await, open(&broker, exclusive()).await);
    write(&broker, ["1", "2", "3"].map(message)).await;

    let first = a.read(2).await;
    assert_eq!(texts(&first), ["1", "2"]);
    assert!(b.now(9).await.is_empty());

    drop(a);
    assert_eq!(texts(&b.read(9).await), ["1", "2", "3"]);
}

#[tokio::test]
async fn the_next_of_an_exclusive_group_waits_for_what_the_first_settles() {
    let broker = MemoryBroker::new();
    let (mut a, mut b) = (open(&broker, exclusive()).await, open(&broker, exclusive()).await);
    write(&broker, ["1", "2"].map(message)).await;
    let first = a.one().await;
    let Member { source, mut settler } = a;
    source.close().await.unwrap();

    assert!(b.now(9).await.is_empty(), "1 may still fail and come again");
    assert!(settler.settle(vec![Settlement::ack(first.token)]).await[0].is_done());
    assert_eq!(texts(&b.now(9).await), ["2"]);
}

#[tokio::test(start_paused = true)]
async fn in_total_order_nothing_overtakes_a_message_that_is_tried_again() {
    let broker = MemoryBroker::new();
    let mut a = open(&broker, exclusive()).await;
    write(&broker, [message("1"), keyed("k", "2")]).await;
    let first = a.one().await;

    a.done(first, retry(SECOND)).await;

    assert!(a.now(9).await.is_empty());
    assert_eq!(texts(&a.read(9).await), ["1", "2"]);
}

#[tokio::test]
async fn a_group_is_shared_or_exclusive_not_both() {
    let broker = MemoryBroker::new();
    let shared = member(&broker).await;

    let error = broker.reader().open(exclusive()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert_eq!(error.context().group.as_deref(), Some(GROUP));

    drop(shared);
    broker.reader().open(exclusive()).await.unwrap();
}

#[tokio::test]
async fn what_waits_is_sorted_anew_when_a_group_becomes_exclusive() {
    let broker = MemoryBroker::new();
    let mut shared = member(&broker).await;
    write(&broker, [keyed("k", "1"), keyed("l", "2"), message("3"), keyed("k", "4")]).await;
    assert_eq!(shared.read(9).await.len(), 4);
    drop(shared);

    let mut a = open(&broker, exclusive()).await;
    let (first, mut b) = (a.one().await, open(&broker, exclusive()).await);
    assert_eq!(texts(&a.read(9).await), ["2", "3", "4"]);
    a.done(first, Verdict::Release).await;
    assert!(b.now(9).await.is_empty());
    drop((a, b));

    let mut shared = member(&broker).await;
    assert_eq!(texts(&shared.read(9).await), ["1", "2", "3", "4"]);
}

async fn started_at(broker: &MemoryBroker, group: Option<&str>, start: Start) -> Vec<Delivery> {
    let request = OpenRequest::new(TOPIC).start(start);
    let request = match group {
        Some(group) => request.group(group.to_owned()),
        None => request,
    };
    open(broker, request).await.now(9).await
}

#[tokio::test]
async fn a_group_starts_where_it_was_told_to() {
    let broker = MemoryBroker::new();
    let at = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
    let timed = |text, seconds| message(text).with_time(at(seconds));
    write(&broker, [timed("1", 10), timed("2", 20), timed("3", 30)]).await;

    assert_eq!(texts(&started_at(&broker, Some("e"), Start::Earliest).await), ["1", "2", "3"]);
    assert!(started_at(&broker, Some("l"), Start::Latest).await.is_empty());
    assert_eq!(texts(&started_at(&broker, Some("p"), Start::Position(Position(2))).await), ["3"]);
    assert_eq!(texts(&started_at(&broker, Some("t"), Start::Time(at(15))).await), ["2", "3"]);
}

#[tokio::test]
async fn a_group_with_progress_goes_on_where_it_was() {
    let broker = MemoryBroker::new();
    let mut a = member(&broker).await;
    write(&broker, ["1", "2"].map(message)).await;
    let first = a.one().await;
    a.ack(first).await;
    drop(a);

    let mut again = open(&broker, request().start(Start::Latest)).await;

    assert_eq!(texts(&again.now(9).await), ["2"]);
}

#[tokio::test]
async fn a_group_ends_where_it_was_told_to() {
    let broker = MemoryBroker::new();
    write(&broker, ["1", "2"].map(message)).await;
    let mut latest = open(&broker, request().end(End::Latest)).await;
    let mut position =
        open(&broker, OpenRequest::new(TOPIC).group("p").end(End::Position(Position(1)))).await;
    write(&broker, [message("3")]).await;

    assert_eq!(texts(&latest.read(9).await), ["1", "2"]);
    assert!(latest.at_end().await);
    assert_eq!(texts(&position.read(9).await), ["1"]);
    assert!(position.at_end().await);
}

#[tokio::test(start_paused = true)]
async fn the_end_waits_for_what_is_to_be_delivered_again() {
    let broker = MemoryBroker::new();
    write(&broker, [message("1")]).await;
    let mut a = open(&broker, request().end(End::Latest)).await;
    let first = a.one().await;
    a.done(first, retry(SECOND)).await;

    assert!(!a.at_end().await);
    let again = a.one().await;
    assert!(a.at_end().await);
    a.ack(again).await;
}

#[tokio::test]
async fn unknown_arguments_partitions_and_bad_topics_are_refused() {
    let broker = MemoryBroker::new();
    let refused = async |request: OpenRequest| broker.reader().open(request).await.unwrap_err();

    let mut args = request();
    args.args = Args::default();
    args.args.set("prefetch", "1");
    let error = refused(args).await;
    assert_eq!(error.kind(), ErrorKind::InvalidConfig);
    assert_eq!(error.context().topic.as_deref(), Some(TOPIC));

    let mut manual = request();
    manual.assignment = Assignment::Manual(vec![PartitionId(0)]);
    assert_eq!(refused(manual).await.kind(), ErrorKind::Unsupported);

    assert_eq!(refused(OpenRequest::new("")).await.kind(), ErrorKind::EmptyMessage);
    assert_eq!(refused(OpenRequest::new("a\0b")).await.kind(), ErrorKind::InvalidMessage);
}

#[tokio::test]
async fn everything_of_a_message_arrives_as_it_was_written() {
    let broker = MemoryBroker::new();
    let mut a = member(&broker).await;
    let mut odd = Message::tombstone(TOPIC).with_key(vec![0, 255]).with_header("a", vec![0, 255]);
    odd.headers.append_null("a");
    odd.headers.append("ä", "");
    let empty = Message::new(TOPIC, "");

    write(&broker, [odd.clone(), empty.clone()]).await;

    let got = a.read(9).await;
    assert_eq!(*got[0].message, odd);
    assert_eq!(*got[1].message, empty);
    assert_eq!(got[1].position, Some(Position(1)));
}

#[tokio::test]
async fn what_a_source_had_goes_back_at_once_when_it_is_dropped() {
    let broker = MemoryBroker::new();
    let (mut a, mut b) = (member(&broker).await, member(&broker).await);
    write(&broker, [keyed("k", "1"), message("2"), keyed("k", "3")]).await;
    let held = a.read(9).await;
    let waiting = tokio::spawn(async move {
        let got = b.read(9).await;
        got.iter().map(|d| (text(&d.message).to_owned(), d.deliveries)).collect::<Vec<_>>()
    });
    tokio::task::yield_now().await;

    let Member { source, mut settler } = a;
    drop(source);

    let again = ["1", "2", "3"].map(|t| (t.to_owned(), 2));
    assert_eq!(waiting.await.unwrap(), again);
    let batch = held.into_iter().map(|d| Settlement::ack(d.token)).collect();
    for settled in settler.settle(batch).await {
        assert!(matches!(settled, Settled::Lost), "{settled:?}");
    }
}

#[tokio::test]
async fn a_closed_source_leaves_its_deliveries_to_the_settler() {
    let broker = MemoryBroker::new();
    let (mut a, mut b) = (member(&broker).await, member(&broker).await);
    write(&broker, ["1", "2"].map(message)).await;
    let mut held = a.read(9).await;
    let Member { source, mut settler } = a;
    source.close().await.unwrap();
    assert_eq!(broker.admin().groups(TOPIC).await.unwrap()[0].members, 1);

    let ack = vec![Settlement::ack(held.remove(0).token)];
    assert!(settler.settle(ack).await[0].is_done());
    assert!(b.now(9).await.is_empty());

    settler.close().await.unwrap();
    assert_eq!(texts(&b.now(9).await), ["2"]);
}

#[tokio::test]
async fn a_source_without_its_settler_says_so() {
    let broker = MemoryBroker::new();
    let Member { mut source, settler } = member(&broker).await;
    drop(settler);

    let error = source.read(&mut Vec::new(), limits(1)).await.unwrap_err();

    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert!(!error.is_retryable());
}
