//! Deduplication: reserve, run, confirm; release on failure.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use millstream_core::{DedupKey, DedupStore, Message};
use millstream_memory::MemoryBroker;
use millstream_testkit::sim::{Shape, SimBroker};
use tokio::time::{Instant, sleep};

use super::{Log, numbered, publish, run, until};
use crate::policy::{Outage, Policy};
use crate::{EmbeddedDedupStore, Failure, Retry};

fn with(store: EmbeddedDedupStore) -> Policy {
    Policy {
        dedup: Some(Arc::new(store)),
        retry: Retry::fixed(Duration::from_millis(5)).attempts(100),
        outage: Outage::never(),
        ..Policy::default()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_copies_errors_and_panics_make_each_effect_once() {
    const IDS: usize = 2_000;
    const COPIES: usize = 4;
    let connection = MemoryBroker::builder().build().connection();
    let effects: Arc<Mutex<HashMap<String, u32>>> = Arc::default();
    let runs = Arc::new(AtomicU64::new(0));
    let (e, r) = (Arc::clone(&effects), Arc::clone(&runs));
    let running = run(&connection, with(EmbeddedDedupStore::new(100_000)), move |m, _| {
        let (e, run) = (Arc::clone(&e), r.fetch_add(1, Ordering::Relaxed));
        async move {
            tokio::task::yield_now().await;
            if run % 5 == 0 {
                return Err(Failure::retry("one in five"));
            }
            assert!(run % 20 != 1, "one in twenty");
            *e.lock().unwrap().entry(m.id.to_string()).or_default() += 1;
            Ok(())
        }
    })
    .await;
    // Unkeyed: copies of one message run at the same time, if they are let.
    let copies = (0..IDS * COPIES).map(|i| Message::new("t", "x").with_id((i % IDS).to_string()));
    publish(&connection, copies).await;
    let control = running.control();
    until(|| {
        let counts = &control.counts()[0];
        counts.handled + counts.duplicates == (IDS * COPIES) as u64
    })
    .await;
    let report = running.shutdown().await;
    assert!(report.is_clean(), "{report:?}");
    let effects = effects.lock().unwrap();
    assert_eq!(effects.len(), IDS);
    assert!(effects.values().all(|n| *n == 1), "an effect happened twice");
    assert_eq!(report.subscriptions[0].duplicates as usize, IDS * (COPIES - 1));
}

#[tokio::test(start_paused = true)]
async fn a_copy_of_a_running_message_waits_and_is_not_acknowledged() {
    let broker = SimBroker::builder().shape(Shape::Partitioned { partitions: 1 }).build();
    let connection = broker.connection();
    let log = Log::default();
    let l = log.clone();
    let running = run(&connection, with(EmbeddedDedupStore::new(1_000)), move |m, _| {
        let l = l.clone();
        async move {
            sleep(Duration::from_secs(60)).await;
            l.add(&m);
            Ok(())
        }
    })
    .await;
    publish(&connection, [Message::new("t", "x").with_id("1"), Message::new("t", "x").with_id("1")]).await;
    sleep(Duration::from_secs(30)).await;
    assert_eq!(running.control().counts()[0].duplicates, 0);
    assert_eq!(broker.control().committed("t", "g"), [0]);
    until(|| broker.control().committed("t", "g") == [2]).await;
    let report = running.shutdown().await;
    assert_eq!((log.len(), report.subscriptions[0].duplicates), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_dead_letter_releases_its_reservation_and_a_handled_message_is_remembered() {
    let connection = MemoryBroker::builder().build().connection();
    let store = EmbeddedDedupStore::new(1_000);
    let running = run(&connection, with(store.clone()), |m, _| async move {
        if m.id == "0" { Err(Failure::unrecoverable("no")) } else { Ok(()) }
    })
    .await;
    publish(&connection, numbered(2, 2)).await;
    let control = running.control();
    until(|| control.counts()[0].handled == 1 && control.counts()[0].dead_lettered == 1).await;
    assert!(running.shutdown().await.is_clean());
    let key = |id: &'static str| DedupKey { group: "g".into(), id: id.into() };
    assert!(!store.contains(&key("0")).await.unwrap());
    assert!(store.contains(&key("1")).await.unwrap());
}

#[tokio::test(start_paused = true)]
async fn a_reservation_that_waited_out_an_outage_is_made_anew() {
    let connection = MemoryBroker::builder().build().connection();
    let begun = Instant::now();
    let store = EmbeddedDedupStore::new(1_000);
    let policy = Policy { outage: Outage::default(), ..with(store.clone()) };
    let running = run(&connection, policy, move |_, _| async move {
        if begun.elapsed() < Duration::from_secs(1_800) { Err(Failure::retry("down")) } else { Ok(()) }
    })
    .await;
    publish(&connection, numbered(100, 100)).await;
    let control = running.control();
    until(|| control.counts()[0].handled == 100).await;
    let report = running.shutdown().await;
    assert!(report.is_clean() && report.subscriptions[0].dead_lettered == 0, "{report:?}");
    for id in 0..100 {
        let key = DedupKey { group: "g".into(), id: id.to_string().into() };
        assert!(store.contains(&key).await.unwrap(), "{id} was confirmed on a reservation of its own");
    }
}
