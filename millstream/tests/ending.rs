//! Given a subscription with an end, as for a replay.
#![cfg(feature = "memory")]
#![allow(clippy::unwrap_used, reason = "a helper of tests is a test")]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use common::{UserCreated, ada, memory_bus};
use millstream::{End, Failure, Outcome, Retry, State, Subscribe};
use tokio::time::{sleep, timeout};

type Runs = Arc<AtomicU32>;

/// Takes longer than the driver needs to say that there is no more.
async fn slow(_: UserCreated, State(runs): State<Runs>) -> Outcome {
    sleep(Duration::from_secs(1)).await;
    runs.fetch_add(1, Ordering::Relaxed);
    Ok(())
}

async fn fails_at_first(_: UserCreated, State(runs): State<Runs>) -> Outcome {
    if runs.fetch_add(1, Ordering::Relaxed) == 0 { Err(Failure::retry("not yet")) } else { Ok(()) }
}

#[tokio::test(start_paused = true)]
async fn it_ends_when_all_that_was_there_is_handled() {
    let (bus, runs) = (memory_bus().await, Runs::default());
    for _ in 0..3 {
        bus.publish(&ada()).await.unwrap();
    }
    let running = bus
        .with_state(Arc::clone(&runs))
        .subscribe(slow.group("g").until(End::Latest))
        .start()
        .await
        .unwrap();

    timeout(Duration::from_secs(3_600), running.ended()).await.expect("it ends");

    assert_eq!(runs.load(Ordering::Relaxed), 3);
    assert!(running.shutdown().await.is_clean());
}

#[tokio::test(start_paused = true)]
async fn it_ends_after_a_retry_of_its_last_message() {
    let (bus, runs) = (memory_bus().await, Runs::default());
    bus.publish(&ada()).await.unwrap();
    let subscription =
        fails_at_first.group("g").retry(Retry::fixed(Duration::from_secs(5))).until(End::Latest);
    let running = bus.with_state(Arc::clone(&runs)).subscribe(subscription).start().await.unwrap();

    timeout(Duration::from_secs(3_600), running.ended()).await.expect("it ends");

    assert_eq!(runs.load(Ordering::Relaxed), 2);
    assert!(running.shutdown().await.is_clean());
}

#[tokio::test(start_paused = true)]
async fn it_ends_at_once_when_there_is_nothing() {
    let (bus, runs) = (memory_bus().await, Runs::default());
    let subscription = slow.group("g").until(End::Latest);
    let running = bus.with_state(runs).subscribe(subscription).start().await.unwrap();

    timeout(Duration::from_secs(60), running.ended()).await.expect("it ends");
}
