//! The memory driver: whole log, native park.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use millstream_core::Message;
use millstream_memory::MemoryBroker;
use tokio::sync::{Notify, Semaphore};
use tokio::time::{Instant, timeout};

use super::{publish, run, until};
use crate::policy::Policy;
use crate::{Failure, Retry};

#[tokio::test(start_paused = true)]
async fn ten_thousand_messages_are_handled() {
    let broker = MemoryBroker::builder().build().connection();
    let count = Arc::new(AtomicU64::new(0));
    let c = count.clone();
    let running = run(&broker, Policy::default(), move |_, _| {
        c.fetch_add(1, Ordering::Relaxed);
        async { Ok(()) }
    })
    .await;
    publish(
        &broker,
        (0..10_000).map(|i| Message::new("t", "x").with_id(i.to_string()).with_key((i % 97).to_string())),
    )
    .await;
    until(|| count.load(Ordering::Relaxed) >= 10_000).await;
    let report = running.shutdown().await;
    assert!(report.is_clean(), "{report:?}");
    assert_eq!(report.subscriptions[0].handled, 10_000);
    assert_eq!(report.subscriptions[0].read, 10_000);
}

#[tokio::test(start_paused = true)]
async fn a_hot_key_delays_no_other() {
    let broker = MemoryBroker::builder().build().connection();
    let begun = Instant::now();
    let log = Arc::new(Mutex::new(Vec::new()));
    let l = log.clone();
    let policy = Policy { concurrency: 4, ..Policy::default() };
    let running = run(&broker, policy, move |m, _| {
        let l = l.clone();
        async move {
            if m.key.as_deref() == Some(b"hot") {
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            l.lock().unwrap().push((m.key.clone().unwrap(), begun.elapsed()));
            Ok(())
        }
    })
    .await;
    let mut messages: Vec<_> =
        (0..5).map(|i| Message::new("t", "x").with_id(format!("h{i}")).with_key("hot")).collect();
    messages
        .extend((0..200).map(|i| Message::new("t", "x").with_id(format!("c{i}")).with_key(format!("k{i}"))));
    publish(&broker, messages).await;
    until(|| log.lock().unwrap().len() == 205).await;
    let log = log.lock().unwrap().clone();
    let second_hot = log.iter().filter(|(k, _)| k == "hot").nth(1).unwrap().1;
    let last_cold = log.iter().filter(|(k, _)| k != "hot").map(|(_, at)| *at).max().unwrap();
    println!("last cold {last_cold:?}, second hot {second_hot:?}");
    assert!(last_cold < second_hot);
    assert!(running.shutdown().await.is_clean());
}

#[tokio::test(start_paused = true)]
async fn a_failing_message_is_retried_and_then_dead_lettered() {
    let broker = MemoryBroker::builder().build().connection();
    let runs = Arc::new(AtomicU64::new(0));
    let r = runs.clone();
    let retry = Retry::exponential(Duration::from_secs(1), Duration::from_secs(600)).attempts(12);
    let policy = Policy { retry, ..Policy::default() };
    let running = run(&broker, policy, move |m, attempt| {
        let r = r.clone();
        async move {
            if m.id == "bad" {
                assert_eq!(r.fetch_add(1, Ordering::Relaxed) + 1, u64::from(attempt));
                return Err(Failure::retry("no"));
            }
            Ok(())
        }
    })
    .await;
    publish(
        &broker,
        vec![
            Message::new("t", "x").with_id("bad").with_key("k"),
            Message::new("t", "x").with_id("after").with_key("k"),
        ],
    )
    .await;
    let control = running.control();
    until(|| control.counts()[0].dead_lettered == 1 && control.counts()[0].handled == 1).await;
    assert_eq!(runs.load(Ordering::Relaxed), 12);
    let report = running.shutdown().await;
    assert!(report.is_clean(), "{report:?}");
    assert!(report.subscriptions[0].parked > 0, "{report:?}");
    let letters = broker.admin.unwrap().dead_letters("t", None, 10).await.unwrap();
    assert_eq!(letters.len(), 1);
    assert_eq!(letters[0].message.id, "bad");
}

#[tokio::test(start_paused = true)]
async fn an_outage_dead_letters_nothing() {
    let broker = MemoryBroker::builder().build().connection();
    let begun = Instant::now();
    let running = run(&broker, Policy::default(), move |_, _| async move {
        if begun.elapsed() < Duration::from_secs(600) { Err(Failure::retry("down")) } else { Ok(()) }
    })
    .await;
    publish(&broker, (0..500).map(|i| Message::new("t", "x").with_id(i.to_string()).with_key(i.to_string())))
        .await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    let health = running.control().health();
    assert!(!health.subscriptions[0].why.is_empty(), "{health:?}");
    let control = running.control();
    until(|| control.counts()[0].handled == 500).await;
    println!("healed after {:?}", begun.elapsed());
    let report = running.shutdown().await;
    assert_eq!(report.subscriptions[0].dead_lettered, 0);
}

/// A handler that blocks its thread, against all advice, holds up nothing but what its loop has begun.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_handler_that_blocks_its_thread_holds_up_no_other() {
    // Given handlers that are done at once, so that one run loop keeps up.
    let broker = MemoryBroker::builder().build().connection();
    let (begun, handled) = (Arc::new(Notify::new()), Arc::new(Semaphore::new(0)));
    let (opens, opened) = std::sync::mpsc::channel::<()>();
    let (opens, opened) = (Mutex::new(Some(opens)), Mutex::new(opened));
    let (b, h) = (begun.clone(), handled.clone());
    let policy = Policy { workers: Some(2), ..Policy::default() };
    let running = run(&broker, policy, move |message, _| {
        match &*message.id {
            "first" => {
                b.notify_one();
                // Nothing is ever sent: it ends when the second lets go of the other side.
                let _ = opened.lock().unwrap().recv_timeout(Duration::from_secs(20));
            }
            "second" => drop(opens.lock().unwrap().take()),
            _ => {}
        }
        h.add_permits(1);
        async { Ok(()) }
    })
    .await;
    publish(&broker, (0..500).map(|i| Message::new("t", "x").with_id(i.to_string()))).await;
    timeout(WITHIN, handled.acquire_many(500)).await.unwrap().unwrap().forget();
    // When one blocks until the next has run,
    let started = std::time::Instant::now();
    publish(&broker, [Message::new("t", "x").with_id("first")]).await;
    begun.notified().await;
    publish(&broker, [Message::new("t", "x").with_id("second")]).await;
    // then another loop runs the next.
    timeout(WITHIN, handled.acquire_many(2)).await.unwrap().unwrap().forget();
    assert!(started.elapsed() < Duration::from_secs(15), "the second waited for the first");
    assert!(running.shutdown().await.is_clean());
}

/// On the real clock.
const WITHIN: Duration = Duration::from_secs(60);
