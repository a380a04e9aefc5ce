//! Members that share nothing but the file share a group: each message with one of them, handed over without a copy.
#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use std::collections::HashSet;
use std::time::{Duration, Instant};

use common::{File, PATIENCE, ids, member, message, messages, open, publish, request};
use millstream_core::{Exclusivity, OpenRequest, Settled, Settlement, Settler, Source, Verdict};

/// Acknowledges what comes to both until so many different ones came; says how many came to each.
async fn share(one: &mut common::Member, two: &mut common::Member, count: usize) -> (usize, usize) {
    let (mut seen, mut first, mut second) = (HashSet::new(), 0, 0);
    let until = Instant::now() + PATIENCE;
    while seen.len() < count {
        assert!(Instant::now() < until, "{} of {count} came", seen.len());
        for (member, mine) in [(&mut *one, &mut first), (&mut *two, &mut second)] {
            let some = member.soon().await;
            for id in ids(&some) {
                assert!(seen.insert(id.clone()), "{id} came twice");
                *mine += 1;
            }
            member.ack(some).await;
        }
    }
    (first, second)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_member_gets_its_share_and_nothing_comes_twice() {
    let file = File::new();
    let (here, there) = (file.apart().await, file.apart().await);
    let mut one = member(&here).await;
    publish(&here, messages(40)).await;
    // Given a first member that has everything in work.
    let held = one.take(40).await;
    let mut two = member(&there).await;
    // Then the second gets nothing of that, …
    assert!(two.soon().await.is_empty());
    one.ack(held).await;
    // … and its share of what comes later.
    let later: Vec<_> = (100..300).map(|n| message(n, &format!("key {n}"))).collect();
    publish(&here, later).await;
    let (first, second) = share(&mut one, &mut two, 200).await;
    assert!(first > 30 && second > 30, "{first} and {second} of 200");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_member_that_leaves_had_in_work_comes_to_the_other_in_order() {
    let file = File::new();
    let (here, there) = (file.apart().await, file.apart().await);
    let mut one = member(&here).await;
    publish(&here, (0..5).map(|n| message(n, "k")).collect()).await;
    let mut held = one.take(5).await;
    one.ack(vec![held.remove(0)]).await;
    let mut two = member(&there).await;
    drop(one);
    let came = two.take(4).await;
    assert_eq!(ids(&came), ["id-1", "id-2", "id-3", "id-4"]);
    assert_eq!(came[0].deliveries, 2);
    let settled = two.settle(came.into_iter().next().unwrap(), Verdict::Ack).await;
    assert!(settled.is_done());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_whose_lease_was_taken_settles_nothing_any_more() {
    // Given a member that the others took for gone.
    let file = File::new();
    let (here, there) = (file.apart().await, file.apart().await);
    let mut one = member(&here).await;
    publish(&here, messages(1)).await;
    let delivery = one.one().await;
    file.connection().execute("UPDATE millstream_member SET until = 0", []).unwrap();
    let mut two = member(&there).await;
    let again = two.one().await;
    // When it settles what it had.
    let settled = one.settle(delivery, Verdict::Ack).await;
    // Then that is lost, and the other's is what counts.
    assert!(matches!(settled, Settled::Lost), "{settled:?}");
    assert!(two.settle(again, Verdict::Ack).await.is_done());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_was_taken_for_gone_joins_again_by_itself() {
    let file = File::new();
    let here = file.apart().await;
    let mut one = member(&here).await;
    file.connection().execute("DELETE FROM millstream_member", []).unwrap();
    publish(&here, messages(3)).await;
    let mut seen = HashSet::new();
    while seen.len() < 3 {
        let some = one.try_read(3).await.unwrap();
        for delivery in some {
            seen.insert(delivery.message.id.clone());
            one.settler.settle(vec![Settlement::ack(delivery.token)]).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_members_that_asked_for_total_order_one_stands_by() {
    let file = File::new();
    let (here, there) = (file.apart().await, file.apart().await);
    let mut exclusive = request();
    exclusive.exclusivity = Exclusivity::Exclusive;
    let mut one = open(&here, exclusive.clone()).await;
    let mut two = open(&there, exclusive).await;
    publish(&here, messages(50)).await;
    let all: Vec<_> = (0..50).map(|n| format!("id-{n}")).collect();
    let came = one.take(50).await;
    assert_eq!(ids(&came), all);
    assert!(two.soon().await.is_empty());
    one.ack(came).await;
    drop(one);
    publish(&here, vec![message(50, "k")]).await;
    assert_eq!(ids(&two.take(1).await), ["id-50"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_member_hears_of_a_message_in_another_process_without_polling_for_it() {
    let file = File::new();
    let (here, there) = (file.apart().await, file.apart().await);
    let mut idle = member(&there).await;
    let mut waits = Vec::new();
    for n in 0..20 {
        publish(&here, vec![message(n, "k")]).await;
        let acknowledged = Instant::now();
        let delivery = idle.one().await;
        waits.push(acknowledged.elapsed());
        idle.ack(vec![delivery]).await;
    }
    waits.sort_unstable();
    // The regular look comes every 250 ms: by that alone half of them would wait longer than this.
    assert!(waits[10] < Duration::from_millis(100), "{waits:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn browsing_leaves_no_trace_and_sees_what_groups_have_finished() {
    let file = File::new();
    let store = file.open().await;
    publish(&store, messages(10)).await;
    let mut group = member(&store).await;
    let all = group.take(10).await;
    group.ack(all).await;
    let before = file.number("SELECT count(*) FROM millstream_group");
    let mut browser = open(&store, OpenRequest::new(common::TOPIC)).await;
    assert_eq!(browser.take(10).await.len(), 10);
    browser.source.close().await.unwrap();
    assert_eq!(file.number("SELECT count(*) FROM millstream_group"), before);
    assert_eq!(file.number("SELECT count(*) FROM millstream_member"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn slots_that_others_took_between_two_commits_are_lost() {
    let file = File::new();
    let store = file.open().await;
    let mut one = member(&store).await;
    publish(&store, (0..2).map(|n| message(n, "k")).collect()).await;
    let mut held = one.take(2).await;
    // Given a member that has just settled something of a slot.
    one.ack(vec![held.remove(0)]).await;
    // When the slot is taken from it.
    file.connection()
        .execute("UPDATE millstream_slot SET owner = 1, epoch = epoch + 1 WHERE owner IS NOT NULL", [])
        .unwrap();
    // Then what it settles is refused.
    let settled = one.settle(held.remove(0), Verdict::Ack).await;
    assert!(matches!(settled, Settled::Lost), "{settled:?}");
}
