//! The simulated broker as a log with partitions: rebalances, contiguous commit, the park topic, crash loops.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use millstream_core::{ErrorKind, Message, names};
use millstream_testkit::sim::{Injury, Operation, Shape, SimBroker, Trigger};
use tokio::time::{Instant, sleep};

use super::{Log, Running, numbered, publish, run, run_handler, until};
use crate::policy::{MaxGap, Policy};
use crate::{Context, Failure, Handler, Outcome, Retry};

fn broker() -> SimBroker {
    SimBroker::builder().shape(Shape::Partitioned { partitions: 4 }).build()
}

fn quick() -> Policy {
    Policy { retry: Retry::fixed(Duration::from_millis(100)).attempts(5), ..Policy::default() }
}

fn committed(broker: &SimBroker) -> u64 {
    broker.control().committed("t", "g").iter().sum()
}

#[tokio::test(start_paused = true)]
async fn everything_is_handled_in_order_and_committed() {
    let broker = broker();
    let log = Log::default();
    publish(&broker.connection(), numbered(5_000, 50)).await;
    let l = log.clone();
    let running = run(&broker.connection(), quick(), move |m, _| {
        l.add(&m);
        async { Ok(()) }
    })
    .await;
    until(|| log.len() == 5_000).await;
    let report = running.shutdown().await;
    assert!(report.is_clean(), "{report:?}");
    log.assert_ordered();
    assert_eq!(log.distinct(), 5_000);
    assert_eq!(committed(&broker), 5_000);
}

#[tokio::test(start_paused = true)]
async fn members_that_come_and_go_in_order_leave_no_duplicate() {
    let broker = broker();
    let log = Log::default();
    let start = || {
        let l = log.clone();
        let connection = broker.connection();
        async move {
            run(&connection, quick(), move |m, _| {
                let l = l.clone();
                async move {
                    sleep(Duration::from_millis(5)).await;
                    l.add(&m);
                    Ok(())
                }
            })
            .await
        }
    };
    publish(&broker.connection(), numbered(5_000, 200)).await;
    let first = start().await;
    sleep(Duration::from_millis(50)).await;
    let second = start().await;
    sleep(Duration::from_millis(50)).await;
    assert!(first.shutdown().await.is_clean());
    let third = start().await;
    until(|| log.distinct() == 5_000).await;
    let reports = [second.shutdown().await, third.shutdown().await];
    assert!(reports.iter().all(crate::Report::is_clean), "{reports:?}");
    log.assert_ordered();
    assert_eq!(log.len(), 5_000, "a clean rebalance makes no duplicate");
    assert_eq!(committed(&broker), 5_000);
}

#[tokio::test(start_paused = true)]
async fn a_member_that_is_killed_loses_nothing() {
    let broker = broker();
    let log = Log::default();
    publish(&broker.connection(), numbered(3_000, 60)).await;
    for round in 0..10 {
        let l = log.clone();
        let running = run(&broker.connection(), quick(), move |m, _| {
            let l = l.clone();
            async move {
                sleep(Duration::from_millis(3)).await;
                l.add(&m);
                Ok(())
            }
        })
        .await;
        if round < 9 {
            sleep(Duration::from_millis(20)).await;
            broker.control().kill_all();
            drop(running);
        } else {
            until(|| log.distinct() == 3_000).await;
            assert!(running.shutdown().await.is_clean());
        }
    }
    log.assert_ordered();
    assert_eq!(committed(&broker), 3_000);
}

#[tokio::test(start_paused = true)]
async fn a_key_that_fails_for_an_hour_delays_no_other_and_the_position_moves_on() {
    let broker = broker();
    let log = Log::default();
    let begun = Instant::now();
    let healed = begun + Duration::from_secs(3_600);
    let l = log.clone();
    let policy = Policy {
        retry: Retry::exponential(Duration::from_secs(1), Duration::from_secs(300)).attempts(1_000),
        ..Policy::default()
    };
    let running = run(&broker.connection(), policy, move |m, _| {
        let l = l.clone();
        async move {
            if m.key.as_deref() == Some(b"k0") && Instant::now() < healed {
                return Err(Failure::retry("not yet"));
            }
            l.add(&m);
            Ok(())
        }
    })
    .await;
    publish(&broker.connection(), numbered(400, 20)).await;
    until(|| log.len() == 380).await;
    println!("all other keys were handled after {:?}", begun.elapsed());
    assert!(begun.elapsed() < Duration::from_secs(5));
    // Long before the key heals, its messages are in the park and the topic's position is at its end.
    until(|| committed(&broker) == 400).await;
    println!("the committed position was at the end after {:?}", begun.elapsed());
    assert!(begun.elapsed() < Duration::from_secs(3_600));
    publish(&broker.connection(), numbered(800, 20).skip(400)).await;
    until(|| log.len() == 800).await;
    assert!(Instant::now() >= healed);
    log.assert_ordered();
    assert_eq!(log.distinct(), 800);
    let report = running.shutdown().await;
    assert!(report.is_clean() && report.subscriptions[0].dead_lettered == 0, "{report:?}");
}

#[tokio::test(start_paused = true)]
async fn a_park_that_holds_more_than_its_share_of_the_window_is_handled_to_its_end() {
    // Given a window of 16, of which the park may fill half, and a key with 200 messages that fails for a minute.
    let broker = broker();
    let log = Log::default();
    let healed = Instant::now() + Duration::from_secs(60);
    let policy = Policy {
        max_in_flight: 16,
        concurrency: 4,
        park_after: Duration::from_millis(10),
        retry: Retry::fixed(Duration::from_secs(1)).attempts(1_000),
        ..Policy::default()
    };
    let l = log.clone();
    let running = run(&broker.connection(), policy, move |m, _| {
        let l = l.clone();
        async move {
            if Instant::now() < healed {
                return Err(Failure::retry("not yet"));
            }
            l.add(&m);
            Ok(())
        }
    })
    .await;
    publish(&broker.connection(), numbered(200, 1)).await;
    // When it heals, then all of them are handled, in order.
    until(|| log.len() == 200).await;
    log.assert_ordered();
    assert!(running.shutdown().await.is_clean());
}

/// A handler whose first run takes a second and fails; when each of its runs began.
async fn fails_once(broker: &SimBroker, wait: Duration) -> (Running, Arc<Mutex<Vec<Duration>>>) {
    let (begun, runs) = (Instant::now(), Arc::<Mutex<Vec<Duration>>>::default());
    let r = Arc::clone(&runs);
    let policy = Policy { retry: Retry::fixed(wait).attempts(5), ..Policy::default() };
    let running = run(&broker.connection(), policy, move |_, _| {
        let mut runs = r.lock().unwrap();
        runs.push(begun.elapsed());
        let first = runs.len() == 1;
        async move {
            sleep(Duration::from_secs(1)).await;
            if first { Err(Failure::retry("not yet")) } else { Ok(()) }
        }
    })
    .await;
    publish(&broker.connection(), numbered(1, 1)).await;
    sleep(Duration::from_millis(500)).await;
    (running, runs)
}

#[tokio::test(start_paused = true)]
async fn what_fails_after_its_partition_was_lost_is_not_tried_again_beside_its_redelivery() {
    let broker = SimBroker::builder().shape(Shape::Partitioned { partitions: 1 }).build();
    let (running, runs) = fails_once(&broker, Duration::from_millis(100)).await;
    broker.control().lose("t", "g", None);
    until(|| committed(&broker) == 1).await;
    assert!(running.shutdown().await.is_clean());
    assert_eq!(runs.lock().unwrap().len(), 2, "the run that failed and the redelivery's");
}

#[tokio::test(start_paused = true)]
async fn what_fails_while_its_partition_is_asked_back_is_given_back_at_once() {
    let broker = SimBroker::builder().shape(Shape::Partitioned { partitions: 1 }).build();
    let (running, runs) = fails_once(&broker, Duration::from_secs(30)).await;
    broker.control().rebalance("t", "g");
    until(|| committed(&broker) == 1).await;
    assert!(running.shutdown().await.is_clean());
    let runs = runs.lock().unwrap();
    assert!(runs.len() == 2 && runs[1] < Duration::from_secs(2), "nobody waits for a retry: {runs:?}");
}

#[tokio::test(start_paused = true)]
async fn a_parked_message_from_a_place_that_is_not_there_holds_up_nobody() {
    // Given a park with a message that says it is from behind the end of the topic.
    let broker = SimBroker::builder().shape(Shape::Partitioned { partitions: 1 }).build();
    let foreign = Message::new("t.g.park", "x").with_id("foreign").with_key("k");
    let foreign = foreign.with_header(names::PARK_PARTITION, "0").with_header(names::PARK_POSITION, "42");
    publish(&broker.connection(), [foreign]).await;
    publish(&broker.connection(), numbered(3, 3)).await;
    // When the topic is handled, then all of it is, and what is parked, too.
    let running = run(&broker.connection(), Policy::default(), |_, _| async { Ok(()) }).await;
    until(|| committed(&broker) == 3 && broker.control().lag("t.g.park", "g") == 0).await;
    assert!(running.shutdown().await.is_clean());
}

#[tokio::test(start_paused = true)]
async fn parked_messages_survive_a_crash_in_their_order() {
    let broker = broker();
    let log = Log::default();
    let healed = Arc::new(AtomicBool::new(false));
    let policy = Policy {
        retry: Retry::fixed(Duration::from_secs(90)).attempts(100),
        park_after: Duration::from_secs(60),
        ..Policy::default()
    };
    publish(&broker.connection(), numbered(400, 10)).await;
    let mut next = 400;
    for round in 0..6 {
        let (l, h) = (log.clone(), Arc::clone(&healed));
        let running = run(&broker.connection(), policy.clone(), move |m, _| {
            let (l, h) = (l.clone(), Arc::clone(&h));
            async move {
                if m.key.as_deref() == Some(b"k3") && !h.load(Ordering::Relaxed) {
                    return Err(Failure::retry("not yet"));
                }
                l.add(&m);
                Ok(())
            }
        })
        .await;
        if round == 5 {
            healed.store(true, Ordering::Relaxed);
            until(|| log.distinct() == next).await;
            assert!(running.shutdown().await.is_clean());
        } else {
            sleep(Duration::from_millis(10 + 40 * round)).await;
            broker.control().kill_all();
            drop(running);
            publish(&broker.connection(), numbered(next + 100, 10).skip(next)).await;
            next += 100;
        }
    }
    log.assert_ordered();
}

#[tokio::test(start_paused = true)]
async fn a_message_that_kills_its_process_becomes_a_dead_letter() {
    let broker = broker();
    let log = Log::default();
    publish(&broker.connection(), numbered(40, 5)).await;
    let mut starts = 0;
    loop {
        starts += 1;
        assert!(starts < 20, "the crash loop does not end");
        let l = log.clone();
        let dead = Arc::new(tokio::sync::Notify::new());
        let killer = Arc::clone(&dead);
        let running = run(&broker.connection(), quick(), move |m, _| {
            let (l, killer) = (l.clone(), Arc::clone(&killer));
            async move {
                if m.id == "0" {
                    killer.notify_one();
                    std::future::pending::<()>().await;
                }
                l.add(&m);
                Ok(())
            }
        })
        .await;
        let crashed = tokio::select! {
            () = dead.notified() => true,
            () = until(|| broker.control().messages("t.dlq").len() == 1) => false,
        };
        if crashed {
            broker.control().kill_all();
            drop(running);
            continue;
        }
        until(|| log.distinct() == 39).await;
        assert!(running.shutdown().await.is_clean());
        break;
    }
    let letter = &broker.control().messages("t.dlq")[0];
    assert_eq!(letter.id, "0");
    assert_eq!(letter.headers.get_str(names::DL_CLASS), Some("crash-loop"));
    println!("dead-lettered at start {starts}");
}

#[tokio::test(start_paused = true)]
async fn a_dead_letter_target_that_is_down_acknowledges_nothing_and_recovers() {
    let broker = broker();
    let log = Log::default();
    let down = broker.control().take_down("t.dlq");
    let l = log.clone();
    let running = run(&broker.connection(), quick(), move |m, _| {
        let l = l.clone();
        async move {
            if m.id == "0" {
                return Err(Failure::unrecoverable("poison"));
            }
            l.add(&m);
            Ok(())
        }
    })
    .await;
    publish(&broker.connection(), numbered(200, 10)).await;
    sleep(Duration::from_secs(60)).await;
    let health = running.control().health();
    assert!(!health.is_ready(), "{health:?}");
    assert_eq!(log.len(), 180, "only its own key waits");
    let partitions = broker.control().committed("t", "g");
    assert!(partitions.contains(&0), "the poison message is not acknowledged: {partitions:?}");
    broker.control().heal(down);
    until(|| log.len() == 199).await;
    assert!(running.control().health().is_ready());
    let report = running.shutdown().await;
    assert!(report.is_clean() && report.subscriptions[0].dead_lettered == 1, "{report:?}");
    assert_eq!(committed(&broker), 200);
}

#[tokio::test(start_paused = true)]
async fn the_gap_behind_an_unfinished_message_is_bounded() {
    let broker = SimBroker::builder().shape(Shape::Partitioned { partitions: 1 }).build();
    let log = Log::default();
    let release = Arc::new(tokio::sync::Notify::new());
    let (l, r) = (log.clone(), Arc::clone(&release));
    let policy = Policy { max_gap: MaxGap::new(100, Duration::from_secs(600)), ..quick() };
    let running = run(&broker.connection(), policy, move |m, _| {
        let (l, r) = (l.clone(), Arc::clone(&r));
        async move {
            if m.id == "0" {
                r.notified().await;
            }
            l.add(&m);
            Ok(())
        }
    })
    .await;
    publish(&broker.connection(), (0..5_000).map(|i| Message::new("t", "x").with_id(i.to_string()))).await;
    sleep(Duration::from_secs(5)).await;
    assert!(log.len() < 2_000, "{} finished ahead of the bound", log.len());
    assert_eq!(committed(&broker), 0);
    release.notify_one();
    until(|| log.len() == 5_000).await;
    assert!(running.shutdown().await.is_clean());
    assert_eq!(committed(&broker), 5_000);
}

#[tokio::test(start_paused = true)]
async fn settlements_that_fail_are_sent_again_and_unknown_ones_are_no_success() {
    let broker = broker();
    let log = Log::default();
    broker.control().inject(Operation::Settle, Trigger::every(3), Injury::Fail(ErrorKind::Unavailable));
    broker.control().inject(Operation::Settle, Trigger::every(7), Injury::AnswerLost);
    let l = log.clone();
    let running = run(&broker.connection(), quick(), move |m, _| {
        l.add(&m);
        async { Ok(()) }
    })
    .await;
    publish(&broker.connection(), numbered(1_000, 50)).await;
    until(|| committed(&broker) == 1_000).await;
    let report = running.shutdown().await;
    assert_eq!(log.len(), 1_000);
    assert!(report.subscriptions[0].unknown > 0, "{report:?}");
}

#[tokio::test(start_paused = true)]
async fn partitions_that_are_lost_are_handled_again_by_whoever_has_them() {
    let broker = broker();
    let log = Log::default();
    let l = log.clone();
    let running = run(&broker.connection(), quick(), move |m, _| {
        let l = l.clone();
        async move {
            sleep(Duration::from_millis(10)).await;
            l.add(&m);
            Ok(())
        }
    })
    .await;
    publish(&broker.connection(), numbered(2_000, 100)).await;
    for _ in 0..10 {
        sleep(Duration::from_millis(25)).await;
        broker.control().lose("t", "g", None);
        broker.control().rebalance("t", "g");
    }
    until(|| log.distinct() == 2_000).await;
    until(|| committed(&broker) == 2_000).await;
    let report = running.shutdown().await;
    assert!(report.subscriptions[0].leases_lost + report.subscriptions[0].stale > 0, "{report:?}");
    log.assert_ordered();
}

/// Publishes one message for each that it handles, under the same id.
struct Relays;

impl Handler for Relays {
    async fn call(&self, context: &mut Context) -> Outcome {
        let id = context.message().id.clone();
        let data = if id == "3" { vec![b'x'; 2_000] } else { vec![b'x'] };
        context.held().publish([Message::new("out", data).with_id(id)])?;
        sleep(Duration::from_millis(5)).await;
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_handler_sends_commits_with_its_position_or_not_at_all() {
    let broker = SimBroker::builder().shape(Shape::Partitioned { partitions: 4 }).transactions().build();
    let control = broker.control();
    control.inject(Operation::Settle, Trigger::every(300), Injury::Fail(ErrorKind::Unavailable));
    let running = run_handler(&broker.connection(), quick(), Relays).await;
    publish(&broker.connection(), numbered(2_000, 100)).await;
    for _ in 0..10 {
        sleep(Duration::from_millis(50)).await;
        control.lose("t", "g", None);
        control.rebalance("t", "g");
    }
    until(|| committed(&broker) == 2_000).await;
    let report = running.shutdown().await;
    assert!(report.subscriptions[0].leases_lost + report.subscriptions[0].stale > 0, "{report:?}");
    let mut ids: Vec<u32> = control.messages("out").iter().map(|m| m.id.parse().unwrap()).collect();
    ids.sort_unstable();
    assert_eq!(ids, (0..2_000).collect::<Vec<_>>(), "each once, though many were handled twice");
}

#[tokio::test(start_paused = true)]
async fn what_can_never_be_sent_is_found_before_it_holds_up_a_position() {
    let broker = SimBroker::builder()
        .shape(Shape::Partitioned { partitions: 4 })
        .transactions()
        .max_message(1_000)
        .build();
    let running = run_handler(&broker.connection(), quick(), Relays).await;
    publish(&broker.connection(), numbered(10, 5)).await;
    until(|| committed(&broker) == 10).await;
    assert_eq!(running.shutdown().await.subscriptions[0].dead_lettered, 1);
    assert_eq!(broker.control().messages("out").len(), 9);
    assert_eq!(broker.control().messages("t.dlq")[0].id, "3");
}

/// It used to go to the reader's broker, whichever writer the bus had.
#[tokio::test(start_paused = true)]
async fn what_a_handler_sends_goes_to_the_writer_of_the_bus_even_if_the_reader_commits_messages() {
    let (from, to) = (SimBroker::new(Shape::WholeLog), SimBroker::new(Shape::WholeLog));
    let mut connection = from.connection();
    connection.writer = to.connection().writer;
    let running = run_handler(&connection, quick(), Relays).await;
    publish(&from.connection(), numbered(10, 5)).await;
    until(|| to.control().messages("out").len() == 10).await;
    running.shutdown().await;
    assert!(from.control().messages("out").is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_member_that_leaves_waits_for_nothing_that_will_never_commit() {
    let broker = SimBroker::builder().shape(Shape::Partitioned { partitions: 4 }).transactions().build();
    publish(&broker.connection(), numbered(2_000, 100)).await;
    let first = run_handler(&broker.connection(), quick(), Relays).await;
    sleep(Duration::from_millis(30)).await;
    let second = run_handler(&broker.connection(), quick(), Relays).await;
    sleep(Duration::from_millis(30)).await;
    let leaving = Instant::now();
    assert!(first.shutdown().await.is_clean());
    assert!(leaving.elapsed() < Duration::from_secs(1), "{:?}", leaving.elapsed());
    until(|| committed(&broker) == 2_000).await;
    assert!(second.shutdown().await.is_clean());
    let mut ids: Vec<u32> = broker.control().messages("out").iter().map(|m| m.id.parse().unwrap()).collect();
    ids.sort_unstable();
    assert_eq!(ids, (0..2_000).collect::<Vec<_>>());
}
