//! The engine on several threads, in many short lives: its tasks meet at one desk, whose lock and bells no model checker
//! can take apart, since the bells are `tokio`'s. `STRESS_SEEDS=2000` lives more lives than the usual few.
//!
//! Each life is started while messages come, is shut down at a random moment, and leaves the rest to a second one. A
//! shutdown in order leaves no duplicate; a bell that was not heard leaves a message for ever.
#![cfg(feature = "memory")]
#![allow(clippy::unwrap_used, reason = "a helper that fails fails its test")]

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use millstream::{
    Attempt, Bus, EmbeddedDedupStore, Event, Failure, Outcome, Publisher, Retry, State, Subscribe,
};
use millstream_memory::MemoryBroker;
use serde::{Deserialize, Serialize};
use tokio::time::{sleep, timeout};

const MESSAGES: u64 = 60;

#[derive(Event, Serialize, Deserialize)]
#[event(topic = "ping", key = "key")]
struct Ping {
    number: u64,
    key: u64,
}

#[derive(Event, Serialize, Deserialize)]
#[event(topic = "pong")]
struct Pong {
    number: u64,
}

#[derive(Clone, Default)]
struct Handled {
    times: Arc<Mutex<BTreeMap<u64, u32>>>,
    count: Arc<AtomicU64>,
}

/// Ends at once, after a turn of the others, when another thread says so, or at its second attempt.
async fn answer(
    ping: Ping,
    Attempt(attempt): Attempt,
    publisher: Publisher,
    State(handled): State<Handled>,
) -> Outcome {
    publisher.publish(&Pong { number: ping.number }).await?;
    match ping.number % 5 {
        0 => tokio::task::yield_now().await,
        1 => drop(tokio::task::spawn_blocking(|| ()).await),
        2 => drop(tokio::spawn(tokio::task::yield_now()).await),
        3 if attempt == 1 => return Err(Failure::retry("once more")),
        _ => {}
    }
    *handled.times.lock().unwrap().entry(ping.number).or_default() += 1;
    handled.count.fetch_add(1, Ordering::Relaxed);
    Ok(())
}

async fn life(seed: u64) {
    let mut random = fastrand::Rng::with_seed(seed);
    let broker = MemoryBroker::builder()
        .capacity(random.usize(4..40) + 2 * usize::try_from(MESSAGES).unwrap())
        .build();
    let (handled, store) = (Handled::default(), EmbeddedDedupStore::new(1_000));
    let (concurrency, workers) = (random.usize(1..9), random.usize(1..4));
    let in_flight = concurrency + random.usize(0..30);
    let bus = || {
        Bus::from_connection(broker.connection()).with_state(handled.clone()).subscribe(
            answer
                .group("g")
                .concurrency(concurrency)
                .max_in_flight(in_flight)
                .workers(workers)
                .retry(Retry::fixed(Duration::from_micros(200)))
                .deduplicate(store.clone()),
        )
    };
    let first = bus().start().await.unwrap();
    let publishing = tokio::spawn({
        let publisher = Bus::from_connection(broker.connection()).publisher().clone();
        let (keys, pause) = (random.u64(1..12), random.u64(1..20));
        async move {
            for number in 0..MESSAGES {
                publisher.publish(&Ping { number, key: number % keys }).await.unwrap();
                if number % pause == 0 {
                    tokio::task::yield_now().await;
                }
            }
        }
    });
    sleep(Duration::from_micros(random.u64(0..4_000))).await;
    let report = first.shutdown().await;
    assert!(report.is_clean(), "{report:?}");
    let second = bus().start().await.unwrap();
    publishing.await.unwrap();
    let all = async {
        while handled.count.load(Ordering::Relaxed) < MESSAGES || second.control().in_flight() > 0 {
            sleep(Duration::from_micros(200)).await;
        }
    };
    let in_time = timeout(Duration::from_secs(60), all).await;
    assert!(in_time.is_ok(), "{} of {MESSAGES} came, then nothing", handled.count.load(Ordering::Relaxed));
    let report = second.shutdown().await;
    assert!(report.is_clean(), "{report:?}");
    let times = handled.times.lock().unwrap().clone();
    assert!(times.keys().copied().eq(0..MESSAGES) && times.values().all(|n| *n == 1), "{times:?}");
    let topics = millstream::core::Admin::topics(&broker.admin()).await.unwrap();
    let held = |name: &str| topics.iter().filter(|t| t.name == name).map(|t| t.messages).sum::<u64>();
    assert_eq!((held("ping"), held("pong")), (0, MESSAGES), "left in the topic, and answers in the other");
}

#[test]
fn in_many_short_lives_on_several_threads_nothing_is_lost_doubled_or_forgotten() {
    let seeds = std::env::var("STRESS_SEEDS").ok().and_then(|n| n.parse().ok()).unwrap_or(40);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(4).enable_all().build().unwrap();
    for seed in 0..seeds {
        let ended = runtime.block_on(async { tokio::spawn(life(seed)).await });
        assert!(ended.is_ok(), "seed {seed}: {ended:?}");
    }
}
