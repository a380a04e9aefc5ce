//! Publishing inside a transaction of the user's own, on the same file, from another connection.
#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use common::{File, ids, member, message, messages, publish};
use millstream_core::{Bind, BoundWriter, ErrorKind, Message};
use millstream_sqlite::rusqlite::{Connection, TransactionBehavior};

#[tokio::test(flavor = "multi_thread")]
async fn a_message_is_there_if_and_only_if_the_users_own_changes_are() {
    // Given a reader, and a table of the user's own.
    let file = File::new();
    let store = file.open().await;
    let writer = store.writer();
    let mut reader = member(&store).await;
    let mut connection = file.connection();
    connection.execute_batch("CREATE TABLE stock(n INTEGER) STRICT").unwrap();
    // When one transaction is undone and the next commits.
    for (number, commits) in [(1, false), (2, true)] {
        let mut transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate).unwrap();
        transaction.execute("INSERT INTO stock VALUES(?1)", [number]).unwrap();
        writer.bind(&mut transaction).write(vec![message(number, "k")]).await.unwrap();
        if commits {
            transaction.commit().unwrap();
            writer.wake();
        } else {
            transaction.rollback().unwrap();
        }
    }
    // Then only the second is there.
    assert_eq!(ids(&reader.take(1).await), ["id-2"]);
    assert_eq!(file.number("SELECT n FROM stock"), 2);
    assert!(reader.soon().await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn bound_and_unbound_messages_take_numbers_from_one_sequence() {
    let file = File::new();
    let store = file.open().await;
    let writer = store.writer();
    let mut connection = file.connection();
    for round in 0..5 {
        publish(&store, vec![message(round * 2, "k")]).await;
        let mut transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate).unwrap();
        writer.bind(&mut transaction).write(vec![message(round * 2 + 1, "k")]).await.unwrap();
        transaction.commit().unwrap();
    }
    let got = ids(&member(&store).await.take(10).await);
    assert_eq!(got, (0..10).map(|n| format!("id-{n}")).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_word_readers_see_it_a_moment_later() {
    let file = File::new();
    let store = file.open().await;
    let mut reader = member(&store).await;
    let mut connection = file.connection();
    let mut transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate).unwrap();
    store.writer().bind(&mut transaction).write(messages(1)).await.unwrap();
    transaction.commit().unwrap();
    assert_eq!(reader.take(1).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_with_a_message_that_cannot_be_written_leaves_nothing_of_itself() {
    let file = File::new();
    let store = file.open().await;
    let writer = store.writer();
    let mut connection = file.connection();
    let mut transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate).unwrap();
    let mut bound = writer.bind(&mut transaction);
    let error = bound.write(vec![message(1, "k"), Message::new("", "x")]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::EmptyMessage);
    bound.write(vec![message(2, "k")]).await.unwrap();
    transaction.commit().unwrap();
    assert_eq!(ids(&member(&store).await.take(1).await), ["id-2"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_on_another_file_is_refused() {
    let file = File::new();
    let store = file.open().await;
    let mut other = Connection::open(file.folder.path().join("other.db")).unwrap();
    let mut transaction = other.transaction().unwrap();
    let error = store.writer().bind(&mut transaction).write(messages(1)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidConfig);
    assert!(error.to_string().contains("other.db"), "{error}");
}
