//! Given messages that died: listing, reading, redriving and discarding them.

#![cfg(feature = "memory")]
#![allow(clippy::unwrap_used, reason = "a helper of tests is a test")]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use common::{UserCreated, ada, memory_bus, until};
use millstream::{
    Bus, DeadLetters, EmbeddedDedupStore, Failure, Outcome, PublishOptions, Running, State, Subscribe, names,
};

#[derive(Clone, Default)]
struct Database {
    up: Arc<AtomicBool>,
}

async fn store(_: UserCreated, State(database): State<Database>) -> Outcome {
    if database.up.load(Ordering::Relaxed) {
        Ok(())
    } else {
        Err(Failure::unrecoverable("the table is gone"))
    }
}

async fn bystander(_: UserCreated) {}

/// Two groups, of which `db` fails; three events with the ids 0, 1, 2, all dead for `db`.
async fn three_dead() -> (Database, DeadLetters, Running) {
    let database = Database::default();
    let bus: Bus = memory_bus().await;
    let letters = bus.dead_letters("user.created");
    for id in 0..3 {
        bus.publish_with(&ada(), PublishOptions::new().id(id.to_string())).await.unwrap();
    }
    let running = bus
        .with_state(database.clone())
        .subscribe(store.group("db").deduplicate(EmbeddedDedupStore::new(100)))
        .subscribe(bystander.group("bystander"))
        .start()
        .await
        .unwrap();
    let control = running.control();
    until(|| control.counts()[0].dead_lettered == 3 && control.counts()[1].handled == 3).await;
    (database, letters, running)
}

#[tokio::test(start_paused = true)]
async fn a_dead_letter_says_why_and_where() {
    let (_, letters, running) = three_dead().await;
    let page = letters.list(None, 2).await.unwrap();
    assert_eq!(page.len(), 2);
    let letter = letters.read(page[1].id.unwrap()).await.unwrap().unwrap();
    assert_eq!(letter.message.id, "1");
    assert_eq!(letter.class.as_deref(), Some("unrecoverable"));
    assert!(letter.error.as_deref().unwrap().contains("the table is gone"));
    assert_eq!(letter.topic.as_deref(), Some("user.created"));
    assert_eq!(letter.group.as_deref(), Some("db"));
    assert_eq!(letter.handler.as_deref(), Some("store"));
    assert_eq!(letter.attempts, Some(1));
    assert!(letter.first_failure.is_some() && letter.host.is_some());
    assert_eq!(letter.original().decode::<UserCreated>().unwrap(), ada());
    assert!(!letter.original().headers.contains(names::DL_CLASS));
    running.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn pages_follow_each_other() {
    let (_, letters, running) = three_dead().await;
    let first = letters.list(None, 2).await.unwrap();
    let second = letters.list(first[1].id, 2).await.unwrap();
    let ids: Vec<_> = first.iter().chain(&second).map(|l| l.message.id.clone()).collect();
    assert_eq!(ids, ["0", "1", "2"]);
    running.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_redriven_letter_reaches_only_the_group_that_failed_with_the_same_id() {
    let (database, letters, running) = three_dead().await;
    let id = letters.list(None, 1).await.unwrap()[0].id.unwrap();
    database.up.store(true, Ordering::Relaxed);
    assert!(letters.redrive(id).await.unwrap());
    assert!(!letters.redrive(id).await.unwrap(), "it is gone");
    let control = running.control();
    until(|| control.counts()[0].handled == 1 && control.counts()[1].skipped == 1).await;
    assert_eq!(letters.list(None, 10).await.unwrap().len(), 2);
    let report = running.shutdown().await;
    assert_eq!(report.subscriptions[0].duplicates, 0);
    assert_eq!(report.subscriptions[1].handled, 3);
}

#[tokio::test(start_paused = true)]
async fn letters_that_die_again_are_counted_up_and_not_redriven_in_a_circle() {
    let (_, letters, running) = three_dead().await;
    assert_eq!(letters.redrive_all().await.unwrap(), 3);
    let control = running.control();
    until(|| control.counts()[0].dead_lettered == 6).await;
    let again = letters.list(None, 10).await.unwrap();
    assert_eq!(again.iter().map(|l| l.redrive_count).collect::<Vec<_>>(), [1, 1, 1]);
    running.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn some_are_redriven_and_others_discarded_by_what_they_say() {
    let (database, letters, running) = three_dead().await;
    database.up.store(true, Ordering::Relaxed);
    assert_eq!(letters.discard_where(|l| l.message.id == "1").await.unwrap(), 1);
    assert_eq!(letters.redrive_where(|l| l.message.id == "2").await.unwrap(), 1);
    let left = letters.list(None, 10).await.unwrap();
    assert_eq!(left.len(), 1);
    assert!(letters.discard(left[0].id.unwrap()).await.unwrap());
    running.shutdown().await;
}
