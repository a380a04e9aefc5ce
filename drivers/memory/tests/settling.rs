//! How deliveries end: acknowledged, released, tried again, parked; and by whom.

mod common;

use std::time::Duration;

use common::*;
use millstream_core::{
    Admin, Delivery, Epoch, ErrorKind, Message, PartitionId, Settled, Settlement, Settler, Token, Verdict,
};
use millstream_memory::MemoryBroker;
use tokio::time::Instant;

/// A broker with these messages, and all of them in flight at a member.
async fn delivered(messages: impl IntoIterator<Item = Message>) -> (MemoryBroker, Member, Vec<Delivery>) {
    let broker = MemoryBroker::new();
    let mut a = member(&broker).await;
    write(&broker, messages).await;
    let deliveries = a.read(1_000).await;
    (broker, a, deliveries)
}

#[tokio::test]
async fn an_acknowledged_message_never_comes_again() {
    let (broker, mut a, deliveries) = delivered(["1", "2"].map(message)).await;

    a.ack_all(deliveries).await;
    drop(a);

    assert!(member(&broker).await.now(9).await.is_empty());
    assert_eq!(broker.admin().topics().await.unwrap()[0].messages, 0, "nothing of it is kept");
}

#[tokio::test]
async fn what_is_released_comes_before_later_messages_of_its_key() {
    let (broker, mut a, mut deliveries) =
        delivered([keyed("k", "1"), keyed("k", "2"), keyed("k", "3")]).await;
    write(&broker, [keyed("k", "4")]).await;

    // Released out of order, delivered in order.
    a.done(deliveries.remove(2), Verdict::Release).await;
    a.done(deliveries.remove(1), Verdict::Release).await;
    a.done(deliveries.remove(0), Verdict::Release).await;

    assert_eq!(texts(&a.read(9).await), ["1", "2", "3", "4"]);
}

#[tokio::test]
async fn a_released_message_was_not_delivered_and_a_retried_one_was() {
    let (_broker, mut a, mut deliveries) = delivered(["1", "2"].map(message)).await;
    assert_eq!(deliveries[0].deliveries, 1);

    a.done(deliveries.remove(0), Verdict::Release).await;
    a.done(deliveries.remove(0), retry(Duration::ZERO)).await;

    let again = a.read(9).await;
    assert_eq!(again.iter().map(|d| d.deliveries).collect::<Vec<_>>(), [1, 2]);
}

#[tokio::test(start_paused = true)]
async fn a_retry_waits_and_holds_back_its_key_alone() {
    let (broker, mut a, mut deliveries) = delivered([keyed("k", "k1")]).await;
    let mut b = member(&broker).await;
    let start = Instant::now();

    a.done(deliveries.remove(0), retry(60 * SECOND)).await;
    write(&broker, [keyed("k", "k2"), keyed("l", "l1"), message("u1")]).await;

    assert_eq!(texts(&b.now(9).await), ["l1", "u1"]);
    assert!(a.now(9).await.is_empty());
    assert_eq!(texts(&a.read(9).await), ["k1", "k2"]);
    assert_eq!(start.elapsed(), 60 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn unkeyed_messages_are_tried_again_each_at_its_time() {
    let (_broker, mut a, mut deliveries) = delivered(["1", "2", "3"].map(message)).await;
    let start = Instant::now();

    a.done(deliveries.remove(0), retry(3 * SECOND)).await;
    a.done(deliveries.remove(0), retry(SECOND)).await;
    a.done(deliveries.remove(0), retry(2 * SECOND)).await;

    for (text, seconds) in [("2", 1), ("3", 2), ("1", 3)] {
        assert_eq!(texts(&a.read(9).await), [text]);
        assert_eq!(start.elapsed(), seconds * SECOND);
    }
}

#[tokio::test(start_paused = true)]
async fn a_later_message_of_a_key_does_not_pass_an_earlier_one_that_waits() {
    let (_broker, mut a, mut deliveries) = delivered([keyed("k", "1"), keyed("k", "2")]).await;

    a.done(deliveries.remove(1), Verdict::Release).await;
    a.done(deliveries.remove(0), retry(SECOND)).await;

    assert!(a.now(9).await.is_empty());
    assert_eq!(texts(&a.read(9).await), ["1", "2"]);
}

#[tokio::test(start_paused = true)]
async fn a_parked_key_comes_back_one_by_one_with_its_notes_then_newer_messages() {
    // Given two of three messages of a key parked, one released, and one written afterwards
    let (broker, mut a, mut deliveries) =
        delivered([keyed("k", "1"), keyed("k", "2"), keyed("k", "3"), keyed("l", "other")]).await;
    let start = Instant::now();
    a.done(deliveries.remove(0), park(Some(60 * SECOND), &note("first"))).await;
    a.done(deliveries.remove(0), park(None, &note("second"))).await;
    a.done(deliveries.remove(0), Verdict::Release).await;
    a.ack_all(deliveries).await;
    write(&broker, [keyed("k", "4"), keyed("m", "5")]).await;

    // then only other keys come until the head is due,
    assert_eq!(texts(&a.now(9).await), ["5"]);
    assert_eq!(broker.admin().groups(TOPIC).await.unwrap()[0].parked, 2);
    let first = a.read(9).await;
    assert_eq!(start.elapsed(), 60 * SECOND);
    assert_eq!(texts(&first), ["1"]);
    assert_eq!(first[0].parked.as_deref(), Some(&note("first")));

    // and the next only when it is acknowledged,
    assert!(a.now(9).await.is_empty());
    a.ack_all(first).await;
    let second = a.now(9).await;
    assert_eq!(texts(&second), ["2"]);
    assert_eq!(second[0].parked.as_deref(), Some(&note("second")));

    // and then the rest, which was not parked.
    a.ack_all(second).await;
    let rest = a.now(9).await;
    assert_eq!(texts(&rest), ["3", "4"]);
    assert!(rest.iter().all(|d| d.parked.is_none()));
}

#[tokio::test(start_paused = true)]
async fn a_parked_message_that_fails_again_stays_the_head_of_its_park() {
    let (broker, mut a, mut deliveries) = delivered([keyed("k", "1"), keyed("k", "2")]).await;
    a.done(deliveries.remove(0), park(Some(SECOND), &note("once"))).await;
    a.done(deliveries.remove(0), park(None, &note("behind"))).await;
    let first = a.one().await;
    let start = Instant::now();

    a.done(first, park(Some(10 * SECOND), &note("twice"))).await;

    let again = a.one().await;
    assert_eq!(start.elapsed(), 10 * SECOND);
    assert_eq!(text(&again.message), "1");
    assert_eq!(again.parked.as_deref(), Some(&note("twice")));
    assert_eq!(again.deliveries, 1, "counted anew since it was parked");
    assert_eq!(broker.admin().groups(TOPIC).await.unwrap()[0].parked, 1);
}

#[tokio::test(start_paused = true)]
async fn a_parked_message_keeps_its_note_when_it_is_released_or_its_member_dies() {
    let (broker, mut a, mut deliveries) = delivered([message("1")]).await;
    a.done(deliveries.remove(0), park(Some(SECOND), &note("why"))).await;
    let first = a.one().await;
    a.done(first, Verdict::Release).await;
    assert_eq!(a.one().await.parked.as_deref(), Some(&note("why")));

    drop(a);

    assert_eq!(member(&broker).await.one().await.parked.as_deref(), Some(&note("why")));
}

#[tokio::test(start_paused = true)]
async fn a_member_that_waits_is_woken_when_a_retry_is_due_before_what_it_waits_for() {
    let (broker, mut a, mut deliveries) = delivered(["1", "2"].map(message)).await;
    a.done(deliveries.remove(0), retry(60 * SECOND)).await;
    let mut b = member(&broker).await;
    let start = Instant::now();
    let reading = tokio::spawn(async move { (text(&b.one().await.message).to_owned(), start.elapsed()) });
    tokio::task::yield_now().await;

    a.done(deliveries.remove(0), retry(SECOND)).await;

    assert_eq!(reading.await.unwrap(), ("2".to_owned(), SECOND));
}

#[tokio::test]
async fn a_token_settles_once() {
    let (_broker, mut a, mut deliveries) = delivered([message("1")]).await;
    let id = deliveries[0].token.id();
    a.ack(deliveries.remove(0)).await;

    let again = Token::new(id.partition, id.epoch, id.id);
    assert!(matches!(a.settler.settle(vec![Settlement::ack(again)]).await[0], Settled::Lost));
}

#[tokio::test]
async fn a_token_of_another_member_or_partition_is_lost() {
    let (broker, mut a, deliveries) = delivered([message("1")]).await;
    let mut b = member(&broker).await;
    let id = deliveries[0].token.id();

    let foreign = [
        Token::new(id.partition, id.epoch, id.id),
        Token::new(PartitionId(1), id.epoch, id.id),
        Token::new(id.partition, Epoch(99), id.id),
        Token::new(id.partition, id.epoch, 99),
    ];
    for settled in b.settler.settle(foreign.into_iter().map(Settlement::ack).collect()).await {
        assert!(matches!(settled, Settled::Lost), "{settled:?}");
    }
    a.ack_all(deliveries).await;
}

#[tokio::test]
async fn what_the_driver_cannot_settle_is_handed_back_untouched() {
    let (_broker, mut a, mut deliveries) = delivered([message("1")]).await;
    let dead = Verdict::Dead(Box::new(message("dead")));

    let settled = a.settle(deliveries.remove(0), dead).await;

    let Settled::Failed { error, settlement } = settled else { panic!("{settled:?}") };
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(a.settler.settle(vec![Settlement::ack(settlement.token)]).await[0].is_done());
}

#[tokio::test(start_paused = true)]
async fn a_wait_beyond_all_clocks_is_not_at_once() {
    let (_broker, mut a, mut deliveries) = delivered(["1", "2"].map(message)).await;

    a.done(deliveries.remove(0), retry(Duration::MAX)).await;
    a.done(deliveries.remove(0), park(Some(Duration::MAX), &note("why"))).await;

    tokio::time::advance(366 * 24 * 3600 * SECOND).await;
    assert!(a.now(9).await.is_empty());
}
