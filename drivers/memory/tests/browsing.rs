//! Reading without a group: replay, tailing, and no trace of either.

mod common;

use std::time::{Duration, UNIX_EPOCH};

use common::*;
use millstream_core::{Admin, End, OpenRequest, Position, Start, Verdict};
use millstream_memory::MemoryBroker;

fn browse() -> OpenRequest {
    OpenRequest::new(TOPIC)
}

#[tokio::test]
async fn browsing_reads_from_a_start_to_an_end() {
    let broker = MemoryBroker::new();
    let timed = |i: u64| message(&i.to_string()).with_time(UNIX_EPOCH + Duration::from_secs(i));
    write(&broker, (0..6).map(timed)).await;
    let time = Start::Time(UNIX_EPOCH + Duration::from_secs(3));

    let mut all = open(&broker, browse().end(End::Latest)).await;
    let mut part = open(&broker, browse().start(time).end(End::Position(Position(5)))).await;
    let mut none = open(&broker, browse().start(Start::Latest).end(End::Latest)).await;
    write(&broker, [timed(6)]).await;

    assert_eq!(texts(&all.read(9).await), ["0", "1", "2", "3", "4", "5"]);
    assert!(all.at_end().await);
    assert_eq!(texts(&part.read(1).await), ["3"]);
    assert_eq!(texts(&part.read(9).await), ["4"]);
    assert!(part.at_end().await);
    assert!(none.at_end().await);
}

#[tokio::test]
async fn browsing_to_a_position_that_does_not_exist_yet_waits_for_it() {
    let broker = MemoryBroker::new();
    write(&broker, [message("0")]).await;
    let mut a = open(&broker, browse().end(End::Position(Position(2)))).await;
    assert_eq!(texts(&a.read(9).await), ["0"]);
    assert!(!a.at_end().await);

    write(&broker, ["1", "2"].map(message)).await;

    assert_eq!(texts(&a.read(9).await), ["1"]);
    assert!(a.at_end().await);
}

#[tokio::test]
async fn browsing_takes_nothing_from_groups_and_leaves_no_trace() {
    let broker = MemoryBroker::new();
    write(&broker, ["1", "2"].map(message)).await;
    let mut browser = open(&broker, browse()).await;
    let seen = browser.read(9).await;
    browser.ack_all(seen).await;
    drop(browser);

    assert!(broker.admin().groups(TOPIC).await.unwrap().is_empty());
    assert_eq!(texts(&member(&broker).await.now(9).await), ["1", "2"]);
}

#[tokio::test]
async fn a_browser_that_does_not_settle_holds_back_no_retention() {
    let broker = MemoryBroker::builder().capacity(2).build();
    let mut browser = open(&broker, browse()).await;
    let mut group = member(&broker).await;

    for round in 0..10 {
        write(&broker, [message(&format!("{round}a")), message(&format!("{round}b"))]).await;
        let deliveries = group.read(9).await;
        group.ack_all(deliveries).await;
    }

    assert_eq!(broker.admin().topics().await.unwrap()[0].messages, 0);
    assert!(browser.now(9).await.is_empty(), "what all groups have finished is gone");
}

#[tokio::test]
async fn what_a_browser_has_begun_with_comes_again_though_the_log_has_let_it_go() {
    let broker = MemoryBroker::new();
    let (mut browser, mut group) = (open(&broker, browse()).await, member(&broker).await);
    write(&broker, [keyed("k", "1"), keyed("k", "2")]).await;
    let mut seen = browser.read(9).await;
    let deliveries = group.read(9).await;
    group.ack_all(deliveries).await;

    browser.done(seen.remove(0), Verdict::Release).await;

    assert_eq!(texts(&browser.now(9).await), ["1"]);
}

#[tokio::test]
async fn a_browser_needs_no_settler() {
    let broker = MemoryBroker::new();
    write(&broker, [message("1")]).await;
    let Member { mut source, settler } = open(&broker, browse()).await;
    drop(settler);

    let mut into = Vec::new();
    millstream_core::Source::read(&mut source, &mut into, limits(9)).await.unwrap();
    assert_eq!(texts(&into), ["1"]);
}
