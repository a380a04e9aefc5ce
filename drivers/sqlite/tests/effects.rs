//! A handler's own SQL commits with the acknowledgement, or neither does.
#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use common::{File, GROUP, member, message, messages, open, publish, request, sql};
use millstream_core::{ErrorKind, OpenRequest, Settled, Settlement, Settler, Verdict};
use millstream_sqlite::{SqlEffect, rusqlite};

async fn prepared(file: &File) -> millstream_sqlite::SqliteStore {
    let store = file.open().await;
    file.connection().execute_batch("CREATE TABLE sums(name TEXT PRIMARY KEY, n INTEGER) STRICT").unwrap();
    store
}

const ADD: &str = "INSERT INTO sums VALUES('all', 1) ON CONFLICT DO UPDATE SET n = n + 1";

#[tokio::test(flavor = "multi_thread")]
async fn an_effect_is_there_once_its_message_is_acknowledged() {
    let file = File::new();
    let store = prepared(&file).await;
    publish(&store, messages(5)).await;
    let mut member = member(&store).await;
    for delivery in member.take(5).await {
        assert!(member.ack_with(delivery, sql(ADD)).await.is_done());
    }
    assert_eq!(file.number("SELECT n FROM sums"), 5);
    assert!(member.soon().await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn sql_that_fails_undoes_its_own_message_alone_and_leaves_it_unsettled() {
    // Given two messages whose effects are settled in one batch, of which one breaks a rule of its table.
    let file = File::new();
    let store = prepared(&file).await;
    publish(&store, messages(2)).await;
    let mut member = member(&store).await;
    let batch: Vec<_> = member.take(2).await;
    let token = batch[1].token.id();
    let mut settlements: Vec<_> = batch.into_iter().map(|d| Settlement::ack(d.token)).collect();
    settlements[0].along_mut().effects = vec![sql(ADD)];
    settlements[1].along_mut().effects = vec![sql(ADD), sql("INSERT INTO sums VALUES('all', 0)")];
    settlements[1].along_mut().emit = vec![message(9, "k")];
    // When they are settled.
    let settled = member.settler.settle(settlements).await;
    // Then the first is done, and of the second nothing is there, its other effect and its event neither.
    assert!(settled[0].is_done());
    let Settled::EffectsFailed(error) = &settled[1] else { panic!("{:?}", settled[1]) };
    assert!(error.to_string().contains("UNIQUE constraint failed"), "{error}");
    assert_eq!(error.context().group.as_deref(), Some(GROUP));
    assert_eq!(file.number("SELECT n FROM sums"), 1);
    assert_eq!(file.number("SELECT count(*) FROM millstream_log_1"), 2);
    // And it is settled again with a token of the same id.
    let again = millstream_core::Token::new(token.partition, token.epoch, token.id);
    assert!(member.settler.settle(vec![Settlement::ack(again)]).await[0].is_done());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_effect_of_a_stale_token_does_not_happen() {
    let file = File::new();
    let store = prepared(&file).await;
    publish(&store, messages(1)).await;
    let mut member = member(&store).await;
    let delivery = member.one().await;
    let id = delivery.token.id();
    member.ack(vec![delivery]).await;
    let mut stale = Settlement::ack(millstream_core::Token::new(id.partition, id.epoch, id.id));
    stale.along_mut().effects = vec![sql(ADD)];
    stale.along_mut().emit = vec![message(9, "k")];
    let settled = member.settler.settle(vec![stale]).await;
    assert!(matches!(settled[..], [Settled::Lost]), "{settled:?}");
    assert_eq!(file.number("SELECT count(*) FROM sums"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_effect_reads_what_it_wrote_and_what_was_there() {
    let file = File::new();
    let store = prepared(&file).await;
    publish(&store, messages(1)).await;
    let mut member = member(&store).await;
    let effect = SqlEffect::new(|connection| {
        connection.execute("INSERT INTO sums VALUES('a', 20)", [])?;
        let n: i64 = connection.query_row("SELECT n FROM sums WHERE name = 'a'", [], |row| row.get(0))?;
        connection.execute("UPDATE sums SET n = ?1", [n + 1])?;
        Ok(())
    });
    let delivery = member.one().await;
    assert!(member.ack_with(delivery, effect.into_effect()).await.is_done());
    assert_eq!(file.number("SELECT n FROM sums"), 21);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_effect_that_panics_is_a_failed_effect_and_the_file_goes_on() {
    let file = File::new();
    let store = prepared(&file).await;
    publish(&store, messages(2)).await;
    let mut member = member(&store).await;
    let first = member.one().await;
    let effect = SqlEffect::new(|_| panic!("on purpose"));
    let settled = member.ack_with(first, effect.into_effect()).await;
    assert!(matches!(settled, Settled::EffectsFailed(_)), "{settled:?}");
    let second = member.one().await;
    assert!(member.ack_with(second, sql(ADD)).await.is_done());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_effect_can_neither_end_the_transaction_nor_touch_millstreams_tables() {
    let file = File::new();
    let store = prepared(&file).await;
    let forbidden = [
        "COMMIT",
        "ROLLBACK",
        "SAVEPOINT mine",
        "RELEASE millstream_message",
        "ATTACH 'other.db' AS other",
        "PRAGMA synchronous = OFF",
        "DELETE FROM millstream_log_1",
        "UPDATE millstream_slot SET front = 0",
        "DROP TABLE millstream_topic",
    ];
    publish(&store, messages(forbidden.len())).await;
    let mut member = member(&store).await;
    for text in forbidden {
        let delivery = member.one().await;
        let settled = member.ack_with(delivery, sql(text)).await;
        let Settled::EffectsFailed(error) = settled else { panic!("{text}: {settled:?}") };
        assert!(error.to_string().contains("not authorized"), "{text}: {error}");
    }
    assert_eq!(file.number("SELECT count(*) FROM millstream_log_1"), forbidden.len() as i64);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_emitted_is_there_with_the_acknowledgement_and_a_dead_letter_too() {
    let file = File::new();
    let store = prepared(&file).await;
    publish(&store, messages(1)).await;
    let mut member = member(&store).await;
    let mut listener = open(&store, OpenRequest::new("invoices").group(GROUP)).await;
    let delivery = member.one().await;
    let letter = (*delivery.message).clone().with_header("millstream-dl-class", "unrecoverable");
    let mut settlement = Settlement::new(delivery.token, Verdict::Dead(Box::new(letter)));
    let mut invoice = message(7, "k");
    invoice.topic = "invoices".into();
    settlement.along_mut().emit = vec![invoice];
    assert!(member.settler.settle(vec![settlement]).await[0].is_done());
    assert_eq!(&*listener.one().await.message.id, "id-7");
    assert_eq!(file.number("SELECT count(*) FROM millstream_dead WHERE class = 'unrecoverable'"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_effect_of_another_driver_is_refused_by_name() {
    let file = File::new();
    let store = prepared(&file).await;
    publish(&store, messages(1)).await;
    let mut member = open(&store, request()).await;
    let delivery = member.one().await;
    let settled = member.ack_with(delivery, millstream_core::Effect::new("a string")).await;
    let Settled::EffectsFailed(error) = settled else { panic!("{settled:?}") };
    assert_eq!(error.kind(), ErrorKind::Unsupported);
}

#[test]
fn a_parameter_that_is_no_value_of_sqlites_is_refused_at_once() {
    assert!(SqlEffect::statement("SELECT ?1", (u64::MAX,)).is_err());
    assert!(SqlEffect::statement("SELECT ?1, ?2", ("text", Some(1.5))).is_ok());
    assert!(SqlEffect::statement("SELECT ?1", [rusqlite::types::Null]).is_ok());
}
