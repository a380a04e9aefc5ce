//! Bytes at rest that are not what was written are never delivered, and the rest goes on.
#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use std::time::Duration;

use common::{File, ids, member, message, messages, park, publish, request};
use millstream_core::{ErrorKind, OpenRequest, Reader, Verdict};

#[tokio::test(flavor = "multi_thread")]
async fn a_row_whose_checksum_is_wrong_is_put_into_quarantine_and_the_others_come() {
    let file = File::new();
    let store = file.open().await;
    publish(&store, messages(5)).await;
    file.connection().execute("UPDATE millstream_log_1 SET data = x'00' WHERE seq = 3", []).unwrap();
    let mut member = member(&store).await;
    let came = member.take(4).await;
    assert_eq!(ids(&came), ["id-0", "id-1", "id-3", "id-4"]);
    member.ack(came).await;
    assert!(member.soon().await.is_empty());
    assert_eq!(file.number("SELECT seq FROM millstream_quarantine WHERE topic = 1"), 3);
    assert_eq!(file.number("SELECT count(*) FROM millstream_quarantine WHERE data = x'00'"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_are_gone_from_the_middle_are_noticed() {
    let file = File::new();
    let store = file.open().await;
    publish(&store, messages(6)).await;
    file.connection().execute("DELETE FROM millstream_log_1 WHERE seq IN (3, 4)", []).unwrap();
    let mut member = member(&store).await;
    assert_eq!(member.take(4).await.len(), 4);
    // The next commit stores it.
    publish(&store, messages(1)).await;
    let what: String = file
        .connection()
        .query_row("SELECT what FROM millstream_quarantine WHERE seq = 3", [], |row| row.get(0))
        .unwrap();
    assert_eq!(what, "the messages 3 to 4 are missing");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_whose_progress_was_changed_is_refused_and_says_what_to_do() {
    let file = File::new();
    let store = file.open().await;
    publish(&store, messages(1)).await;
    drop(member(&store).await);
    // Once it has left.
    let left = || file.number("SELECT count(*) FROM millstream_slot WHERE owner IS NOT NULL") == 0;
    while !left() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    file.connection().execute("UPDATE millstream_slot SET front = 100", []).unwrap();
    let error = store.reader().open(request()).await.map(drop).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(error.to_string().contains("millstream check"), "{error}");
    // Other groups are not concerned.
    store.reader().open(OpenRequest::new(common::TOPIC).group("another")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_whose_epochs_are_used_up_is_refused_and_other_groups_go_on() {
    let file = File::new();
    let store = file.open().await;
    publish(&store, messages(1)).await;
    drop(member(&store).await);
    let left = || file.number("SELECT count(*) FROM millstream_slot WHERE owner IS NOT NULL") == 0;
    while !left() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    file.connection().execute("UPDATE millstream_slot SET epoch = ?1", [i64::MAX]).unwrap();
    let error = store.reader().open(request()).await.map(drop).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    store.reader().open(OpenRequest::new(common::TOPIC).group("another")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_parked_message_that_vanished_is_noticed() {
    let file = File::new();
    let store = file.open().await;
    publish(&store, messages(1)).await;
    let mut one = member(&store).await;
    let delivery = one.one().await;
    assert!(one.settle(delivery, park(Some(Duration::from_secs(60)))).await.is_done());
    drop(one);
    file.connection().execute("DELETE FROM millstream_parked", []).unwrap();
    let error = store.reader().open(request()).await.map(drop).unwrap_err();
    assert!(error.to_string().contains("0 parked messages and counts 1"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_message_that_comes_again_is_not_delivered_either() {
    let file = File::new();
    let store = file.open().await;
    publish(&store, messages(2)).await;
    let mut one = member(&store).await;
    let mut held = one.take(2).await;
    file.connection().execute("UPDATE millstream_log_1 SET time = 7 WHERE seq = 1", []).unwrap();
    let second = held.pop().unwrap();
    assert!(one.settle(held.pop().unwrap(), Verdict::Release).await.is_done());
    assert!(one.soon().await.is_empty());
    assert!(one.settle(second, Verdict::Ack).await.is_done());
    assert_eq!(file.number("SELECT seq FROM millstream_quarantine"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_message_in_a_park_does_not_hold_up_its_key() {
    // Given a key with two messages in the park, of which the first is damaged there, and a newer one behind.
    let file = File::new();
    let store = file.open().await;
    publish(&store, (0..2).map(|n| message(n, "k")).collect()).await;
    let mut one = member(&store).await;
    let mut held = one.take(2).await;
    let second = held.pop().unwrap();
    assert!(one.settle(held.pop().unwrap(), park(Some(Duration::from_millis(100)))).await.is_done());
    assert!(one.settle(second, park(None)).await.is_done());
    file.connection().execute("UPDATE millstream_log_1 SET data = x'00' WHERE seq = 1", []).unwrap();
    publish(&store, vec![message(2, "k")]).await;
    // When it is due, then the others come, and the first is in quarantine and in no park.
    let next = one.one().await;
    assert_eq!(&*next.message.id, "id-1");
    one.ack(vec![next]).await;
    let last = one.one().await;
    assert_eq!(&*last.message.id, "id-2");
    one.ack(vec![last]).await;
    assert_eq!(file.number("SELECT seq FROM millstream_quarantine"), 1);
    assert_eq!(file.number("SELECT count(*) FROM millstream_parked"), 0);
    // And the group's counts are right for who comes next.
    drop(one);
    assert!(member(&store).await.soon().await.is_empty());
}

/// Lets an inner page of the topic's table lead to itself where it leads to its second leaf: its rows go round.
fn lead_round(file: &File) {
    const PAGE: usize = 4_096;
    const INNER: u8 = 5;
    let root: usize = file
        .connection()
        .query_row("SELECT rootpage FROM sqlite_schema WHERE name = 'millstream_log_1'", [], |row| row.get(0))
        .unwrap();
    file.connection().query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
    let mut bytes = std::fs::read(file.path()).unwrap();
    let page = &mut bytes[(root - 1) * PAGE..root * PAGE];
    assert_eq!(page[0], INNER, "there are enough messages for more than one leaf");
    // The second of its cells, which begins with the number of a page.
    let cell = usize::from(u16::from_be_bytes([page[14], page[15]]));
    page[cell..cell + 4].copy_from_slice(&u32::try_from(root).unwrap().to_be_bytes());
    std::fs::write(file.path(), bytes).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_leads_to_itself_is_an_error_and_nobody_reads_it_round_and_round() {
    let file = File::new();
    let store = file.apart().await;
    publish(&store, messages(2_000)).await;
    drop(store);
    lead_round(&file);

    let path = file.path();
    let report = tokio::task::spawn_blocking(move || millstream_sqlite::check(&path));
    let report =
        tokio::time::timeout(common::PATIENCE, report).await.expect("the check ends").unwrap().unwrap();
    assert!(!report.is_clean());

    let store = file.apart().await;
    let mut member = member(&store).await;
    let mut came = Vec::new();
    let error = loop {
        let read = tokio::time::timeout(common::PATIENCE, member.try_read(100)).await.expect("reading ends");
        match read {
            Ok(deliveries) => came.extend(deliveries),
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    let mut once = ids(&came);
    once.dedup();
    assert_eq!(once.len(), came.len(), "what came, came once");
}
