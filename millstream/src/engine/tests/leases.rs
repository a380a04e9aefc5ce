//! The simulated broker as a queue with leases.

use std::time::Duration;

use millstream_core::{Message, Order};
use millstream_testkit::sim::{Shape, SimBroker};
use tokio::time::sleep;

use super::super::{LeaseRenewal, TimeSource, start};
use super::{Fun, Log, numbered, publish, run, spec_of, until};
use crate::policy::Policy;
use crate::{Failure, Retry};

fn queue(order: Order, visibility: Duration) -> SimBroker {
    SimBroker::builder().shape(Shape::LeaseQueue { order, visibility }).build()
}

#[tokio::test(start_paused = true)]
async fn a_handler_longer_than_its_lease_keeps_it() {
    let broker = queue(Order::None, Duration::from_secs(2));
    let log = Log::default();
    let l = log.clone();
    let running = run(&broker.connection(), Policy::default(), move |m, _| {
        let l = l.clone();
        async move {
            sleep(Duration::from_secs(20)).await;
            l.add(&m);
            Ok(())
        }
    })
    .await;
    publish(&broker.connection(), (0..20).map(|i| Message::new("t", "x").with_id(i.to_string()))).await;
    until(|| log.distinct() == 20).await;
    sleep(Duration::from_secs(10)).await;
    let report = running.shutdown().await;
    assert!(report.is_clean(), "{report:?}");
    assert_eq!(log.len(), 20, "no redelivery");
    assert_eq!(report.subscriptions[0].leases_lost, 0);
}

#[tokio::test(start_paused = true)]
async fn a_fifo_key_that_fails_for_long_comes_back_in_order() {
    let broker = queue(Order::Key, Duration::from_secs(30));
    let log = Log::default();
    let l = log.clone();
    let policy = Policy {
        retry: Retry::fixed(Duration::from_secs(120)).attempts(5),
        park_after: Duration::from_secs(60),
        ..Policy::default()
    };
    let running = run(&broker.connection(), policy, move |m, attempt| {
        let l = l.clone();
        async move {
            if m.id == "0" && attempt < 3 {
                return Err(Failure::retry("not yet"));
            }
            l.add(&m);
            Ok(())
        }
    })
    .await;
    publish(&broker.connection(), numbered(100, 5)).await;
    until(|| log.len() == 100).await;
    log.assert_ordered();
    let report = running.shutdown().await;
    assert!(report.is_clean() && report.subscriptions[0].dead_lettered == 0, "{report:?}");
}

#[tokio::test(start_paused = true)]
async fn what_was_not_started_is_given_back_at_once() {
    let broker = queue(Order::None, Duration::from_secs(30));
    let log = Log::default();
    let start = |wait: u64| {
        let l = log.clone();
        let connection = broker.connection();
        let policy = Policy { concurrency: 2, ..Policy::default() };
        async move {
            run(&connection, policy, move |m, _| {
                let l = l.clone();
                async move {
                    sleep(Duration::from_millis(wait)).await;
                    l.add(&m);
                    Ok(())
                }
            })
            .await
        }
    };
    publish(&broker.connection(), (0..50).map(|i| Message::new("t", "x").with_id(i.to_string()))).await;
    let first = start(1_000).await;
    sleep(Duration::from_millis(500)).await;
    let report = first.shutdown().await;
    assert!(report.is_clean() && report.subscriptions[0].given_back > 0, "{report:?}");
    let begun = tokio::time::Instant::now();
    let second = start(1).await;
    until(|| log.distinct() == 50).await;
    assert!(begun.elapsed() < Duration::from_secs(5), "no wait for the leases: {:?}", begun.elapsed());
    assert!(second.shutdown().await.is_clean());
    assert_eq!(log.len(), 50, "handlers that end in time leave no duplicate");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn handlers_that_block_every_thread_of_the_runtime_lose_no_lease() {
    let broker = queue(Order::None, Duration::from_secs(1));
    let log = Log::default();
    let l = log.clone();
    publish(&broker.connection(), (0..4).map(|i| Message::new("t", "x").with_id(i.to_string()))).await;
    let handler = Fun(move |m: Message, _| {
        let l = l.clone();
        async move {
            // On purpose: both threads of the runtime stand still for three leases.
            std::thread::sleep(Duration::from_secs(3));
            l.add(&m);
            Ok(())
        }
    });
    let (mut engine, spec) = spec_of(&broker.connection(), Policy::default(), handler);
    engine.settings.leases = LeaseRenewal::OwnThread;
    engine.settings.time = TimeSource::System;
    let running = start(engine, vec![spec]).await.unwrap();
    until(|| log.len() >= 4).await;
    let report = running.shutdown().await;
    assert_eq!(log.len(), 4, "no redelivery");
    assert_eq!(report.subscriptions[0].leases_lost, 0, "{report:?}");
}
