//! What becomes of a message after its handler: events that leave with success, effects, duplicates, panics,
//! timeouts, batches, pauses, the end.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use millstream_core::{Connection, Effect, ErrorKind, Message, names};
use millstream_memory::MemoryBroker;
use millstream_testkit::sim::{Injury, Operation, Shape, SimBroker, SimEffect, Trigger};
use tokio::time::{Instant, sleep};

use super::{Log, numbered, publish, run, run_handler, until};
use crate::policy::{Batching, DeadLetterTarget, Execution, Ordering as Order, Policy};
use crate::{Context, Failure, Handler, Outcome, Retry};

/// A handler that sees the context: first what it does with it, then how it ends.
struct Seeing<F>(F);

impl<F: Fn(&mut Context) -> Outcome + Send + Sync + 'static> Handler for Seeing<F> {
    async fn call(&self, context: &mut Context) -> Outcome {
        (self.0)(context)
    }
}

fn memory() -> Connection {
    MemoryBroker::builder().build().connection()
}

fn quick() -> Policy {
    Policy { retry: Retry::fixed(Duration::from_millis(100)).attempts(5), ..Policy::default() }
}

#[tokio::test(start_paused = true)]
async fn what_a_handler_publishes_leaves_with_its_success_only() {
    let broker = SimBroker::builder().shape(Shape::Partitioned { partitions: 2 }).build();
    let handler = Seeing(|context: &mut Context| {
        let id = format!("out-{}-{}", context.message().id, context.attempt());
        context.held().publish([Message::new("out", "y").with_id(id)])?;
        if context.attempt() < 3 { Err(Failure::retry("not yet")) } else { Ok(()) }
    });
    let running = run_handler(&broker.connection(), quick(), handler).await;
    publish(&broker.connection(), numbered(10, 10)).await;
    until(|| broker.control().committed("t", "g").iter().sum::<u64>() == 10).await;
    assert!(running.shutdown().await.is_clean());
    let mut out: Vec<_> = broker.control().messages("out").iter().map(|m| m.id.to_string()).collect();
    out.sort();
    let mut expected: Vec<_> = (0..10).map(|i| format!("out-{i}-3")).collect();
    expected.sort();
    assert_eq!(out, expected, "attempts 1 and 2 left nothing");
}

#[tokio::test(start_paused = true)]
async fn a_write_that_fails_is_tried_again_without_running_the_handler() {
    let broker = SimBroker::builder().shape(Shape::Partitioned { partitions: 2 }).build();
    let runs = Arc::new(AtomicU64::new(0));
    let r = Arc::clone(&runs);
    broker.control().inject(
        Operation::Write,
        Trigger::next(3).on("out"),
        Injury::Fail(ErrorKind::Unavailable),
    );
    let handler = Seeing(move |context: &mut Context| {
        r.fetch_add(1, Ordering::Relaxed);
        let id = context.message().id.clone();
        context.held().publish([Message::new("out", "y").with_id(id)])?;
        Ok(())
    });
    let running = run_handler(&broker.connection(), quick(), handler).await;
    publish(&broker.connection(), numbered(3, 3)).await;
    until(|| broker.control().committed("t", "g").iter().sum::<u64>() == 3).await;
    assert!(running.shutdown().await.is_clean());
    assert_eq!(broker.control().messages("out").len(), 3);
    assert_eq!(runs.load(Ordering::Relaxed), 3);
}

#[tokio::test(start_paused = true)]
async fn effects_commit_with_the_acknowledgement_and_a_failing_one_counts_as_an_attempt() {
    let broker = SimBroker::builder().shape(Shape::WholeLog).build();
    let handler = Seeing(|context: &mut Context| {
        let name = format!("{}-{}", context.message().id, context.attempt());
        let fails = context.message().id == "1" && context.attempt() == 1;
        let effect = if fails { SimEffect::failing(name) } else { SimEffect::new(name) };
        context.held().effect(Effect::new(effect))?;
        Ok(())
    });
    let running = run_handler(&broker.connection(), quick(), handler).await;
    publish(&broker.connection(), numbered(3, 3)).await;
    until(|| broker.control().effects().len() == 3).await;
    let report = running.shutdown().await;
    assert!(report.is_clean(), "{report:?}");
    let mut effects = broker.control().effects();
    effects.sort();
    assert_eq!(effects, ["0-1", "1-2", "2-1"]);
    assert_eq!(report.subscriptions[0].handled, 3);
}

#[tokio::test(start_paused = true)]
async fn an_effect_whose_transaction_was_lost_still_comes_before_those_behind_it() {
    // Given two messages of a key, and a first transaction that comes to nothing without a word.
    let broker = SimBroker::builder().shape(Shape::WholeLog).build();
    broker.control().inject(Operation::Settle, Trigger::next(1), Injury::Unknown);
    let handler = Seeing(|context: &mut Context| {
        let name = context.message().id.to_string();
        context.held().effect(Effect::new(SimEffect::new(name)))?;
        Ok(())
    });
    publish(&broker.connection(), numbered(3, 1)).await;
    let running = run_handler(&broker.connection(), quick(), handler).await;
    // When all are handled, then their effects are in order.
    until(|| broker.control().effects().len() == 3).await;
    assert!(running.shutdown().await.is_clean());
    assert_eq!(broker.control().effects(), ["0", "1", "2"]);
}

#[tokio::test(start_paused = true)]
async fn a_batch_that_fails_while_everything_closes_is_given_back() {
    let broker = SimBroker::builder().shape(Shape::standard_queue()).build();
    let batch = Some(Batching::new(10, Duration::from_millis(10)));
    let running = run(&broker.connection(), Policy { batch, ..quick() }, |_, _| async {
        sleep(Duration::from_secs(1)).await;
        Err(Failure::retry("not yet"))
    })
    .await;
    publish(&broker.connection(), numbered(5, 5)).await;
    sleep(Duration::from_millis(500)).await;
    assert!(running.shutdown().await.is_clean());
    assert_eq!(broker.control().in_flight("t", ""), 0, "nobody has to wait for their leases");
}

#[tokio::test(start_paused = true)]
async fn a_panic_costs_nobody_else_and_ends_as_a_dead_letter_when_it_repeats() {
    let connection = memory();
    let log = Log::default();
    let l = log.clone();
    let running = run(&connection, quick(), move |m, _| {
        let l = l.clone();
        async move {
            assert!(m.id != "7", "I cannot take number 7");
            l.add(&m);
            Ok(())
        }
    })
    .await;
    publish(&connection, numbered(1_000, 100)).await;
    let control = running.control();
    until(|| control.counts()[0].dead_lettered == 1 && log.len() == 999).await;
    let report = running.shutdown().await;
    assert!(report.is_clean() && report.subscriptions[0].failed == 5, "{report:?}");
    let letters = connection.admin.unwrap().dead_letters("t", None, 10).await.unwrap();
    let headers = &letters[0].message.headers;
    assert_eq!(headers.get_str(names::DL_CLASS), Some("panic"));
    assert_eq!(headers.get_str(names::DL_ATTEMPTS), Some("5"));
    assert!(headers.get_str(names::DL_ERROR).unwrap().contains("I cannot take number 7"));
}

#[tokio::test(start_paused = true)]
async fn a_handler_past_its_timeout_is_dropped_and_retried() {
    let connection = memory();
    let log = Log::default();
    let l = log.clone();
    let policy = Policy { timeout: Some(Duration::from_secs(1)), ..quick() };
    let running = run(&connection, policy, move |m, attempt| {
        let l = l.clone();
        async move {
            if m.id == "0" && attempt == 1 {
                std::future::pending::<()>().await;
            }
            l.add(&m);
            Ok(())
        }
    })
    .await;
    publish(&connection, numbered(20, 4)).await;
    until(|| log.len() == 20).await;
    log.assert_ordered();
    assert!(running.shutdown().await.is_clean());
}

#[tokio::test(start_paused = true)]
async fn a_batch_keeps_order_and_runs_singly_when_it_fails() {
    let connection = memory();
    let batches = Arc::new(std::sync::Mutex::new(Vec::new()));
    let b = Arc::clone(&batches);
    let handler = Seeing(move |context: &mut Context| {
        let ids: Vec<u64> = context.messages().map(|m| m.id.parse().unwrap()).collect();
        if ids.contains(&13) {
            return Err(Failure::unrecoverable("thirteen"));
        }
        b.lock().unwrap().push(ids);
        Ok(())
    });
    let policy =
        Policy { batch: Some(Batching::new(10, Duration::from_millis(50))), concurrency: 1, ..quick() };
    let running = run_handler(&connection, policy, handler).await;
    publish(&connection, numbered(100, 3)).await;
    let control = running.control();
    until(|| control.counts()[0].handled == 99 && control.counts()[0].dead_lettered == 1).await;
    assert!(running.shutdown().await.is_clean());
    let batches = batches.lock().unwrap();
    assert!(batches.iter().any(|b| b.len() == 10), "{batches:?}");
    for key in 0..3 {
        let of_key: Vec<_> = batches.iter().flatten().filter(|i| *i % 3 == key).collect();
        assert!(of_key.is_sorted(), "{of_key:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_small_batch_waits_no_longer_than_it_may() {
    let connection = memory();
    let log = Log::default();
    let l = log.clone();
    let policy = Policy { batch: Some(Batching::new(100, Duration::from_secs(2))), ..quick() };
    let handler = Seeing(move |context: &mut Context| {
        context.messages().for_each(|m| l.add(m));
        Ok(())
    });
    let running = run_handler(&connection, policy, handler).await;
    let begun = Instant::now();
    publish(&connection, numbered(3, 3)).await;
    until(|| log.len() == 3).await;
    assert!(begun.elapsed() >= Duration::from_secs(2) && begun.elapsed() < Duration::from_secs(3));
    assert!(running.shutdown().await.is_clean());
}

#[tokio::test(start_paused = true)]
async fn sequential_is_total_order_also_with_failures() {
    let connection = memory();
    let log = Log::default();
    let l = log.clone();
    let policy = Policy { ordering: Order::Sequential, ..quick() };
    let running = run(&connection, policy, move |m, attempt| {
        let l = l.clone();
        async move {
            if m.id.ends_with('5') && attempt < 3 {
                return Err(Failure::retry("not yet"));
            }
            l.add(&m);
            Ok(())
        }
    })
    .await;
    publish(&connection, numbered(200, 7)).await;
    until(|| log.len() == 200).await;
    assert!(log.numbers().is_sorted());
    assert!(running.shutdown().await.is_clean());
}

#[tokio::test(start_paused = true)]
async fn sequential_is_refused_where_the_driver_has_no_total_order() {
    let broker = SimBroker::builder().shape(Shape::standard_queue()).build();
    let spec = super::spec(&broker.connection(), Policy { ordering: Order::Sequential, ..quick() });
    let error = super::super::start(spec.0, vec![spec.1]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().contains("leave it out"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_paused_subscription_starts_nothing_and_goes_on_where_it_was() {
    let connection = memory();
    let log = Log::default();
    let l = log.clone();
    let running = run(&connection, quick(), move |m, _| {
        l.add(&m);
        async { Ok(()) }
    })
    .await;
    let control = running.control();
    control.pause(Some("t"));
    publish(&connection, numbered(50, 5)).await;
    sleep(Duration::from_secs(5)).await;
    assert_eq!(log.len(), 0);
    assert!(control.health().subscriptions[0].why.iter().any(|w| w.contains("paused")));
    control.resume(None);
    until(|| log.len() == 50).await;
    assert!(running.shutdown().await.is_clean());
}

#[tokio::test(start_paused = true)]
async fn the_end_waits_for_what_runs_and_no_longer_than_the_drain() {
    let connection = memory();
    let log = Log::default();
    let l = log.clone();
    let running = run(&connection, quick(), move |m, _| {
        let l = l.clone();
        async move {
            let seconds = if m.id == "0" { 3_600 } else { 10 };
            sleep(Duration::from_secs(seconds)).await;
            l.add(&m);
            Ok(())
        }
    })
    .await;
    publish(&connection, numbered(10, 10)).await;
    sleep(Duration::from_secs(1)).await;
    let begun = Instant::now();
    let report = running.shutdown().await;
    assert!(begun.elapsed() < Duration::from_secs(27), "{:?}", begun.elapsed());
    assert_eq!(log.len(), 9, "those that could end did");
    assert_eq!(report.subscriptions[0].abandoned, 1);
    assert!(!report.is_clean());
    // What was abandoned comes again.
    let l = log.clone();
    let running = run(&connection, quick(), move |m, _| {
        l.add(&m);
        async { Ok(()) }
    })
    .await;
    until(|| log.len() == 10).await;
    assert!(running.shutdown().await.is_clean());
}

#[tokio::test(start_paused = true)]
async fn an_unavailable_dependency_uses_no_attempt() {
    let connection = memory();
    let attempts = Arc::new(AtomicU64::new(0));
    let up = Arc::new(AtomicBool::new(false));
    let (a, u) = (Arc::clone(&attempts), Arc::clone(&up));
    let running = run(&connection, quick(), move |_, attempt| {
        a.fetch_max(u64::from(attempt), Ordering::Relaxed);
        let up = u.load(Ordering::Relaxed);
        async move { if up { Ok(()) } else { Err(Failure::unavailable("the database is down")) } }
    })
    .await;
    publish(&connection, numbered(2, 2)).await;
    sleep(Duration::from_secs(3_600)).await;
    up.store(true, Ordering::Relaxed);
    let control = running.control();
    until(|| control.counts()[0].handled == 2).await;
    assert_eq!(attempts.load(Ordering::Relaxed), 1);
    assert!(running.shutdown().await.is_clean());
}

#[tokio::test(start_paused = true)]
async fn what_nobody_can_handle_is_discarded_where_the_user_says_so() {
    let connection = memory();
    let policy = Policy { dead_letters: DeadLetterTarget::Discard, ..quick() };
    let running = run(&connection, policy, |_, _| async { Err(Failure::unrecoverable("no")) }).await;
    publish(&connection, numbered(3, 3)).await;
    let control = running.control();
    until(|| control.counts()[0].discarded == 3).await;
    let report = running.shutdown().await;
    assert!(report.is_clean() && report.subscriptions[0].dead_lettered == 0, "{report:?}");
}

#[tokio::test(start_paused = true)]
async fn a_message_redriven_for_another_group_is_skipped() {
    let connection = memory();
    let log = Log::default();
    let l = log.clone();
    let running = run(&connection, quick(), move |m, _| {
        l.add(&m);
        async { Ok(()) }
    })
    .await;
    let message = |id: &str, group: &'static str| {
        Message::new("t", "x").with_id(id.to_owned()).with_header(names::REDRIVE_GROUP, group)
    };
    publish(&connection, [message("1", "other"), message("2", "g")]).await;
    until(|| log.len() == 1).await;
    let report = running.shutdown().await;
    assert_eq!(log.numbers(), [2]);
    assert_eq!(report.subscriptions[0].skipped, 1);
}

#[tokio::test(start_paused = true)]
async fn a_message_delivered_too_often_is_a_crash_loop() {
    let broker = SimBroker::builder().shape(Shape::standard_queue()).build();
    let connection = broker.connection();
    publish(&connection, [Message::new("t", "x").with_id("0")]).await;
    let policy = Policy { max_deliveries: Some(5), ..quick() };
    let mut deaths = 0;
    loop {
        let started = Arc::new(tokio::sync::Notify::new());
        let s = Arc::clone(&started);
        let running = run(&connection, policy.clone(), move |_, _| {
            s.notify_one();
            std::future::pending()
        })
        .await;
        let control = broker.control();
        let crashed = tokio::select! {
            () = started.notified() => true,
            () = until(|| control.messages("t.dlq").len() == 1) => false,
        };
        if !crashed {
            assert!(running.shutdown().await.is_clean());
            break;
        }
        deaths += 1;
        broker.control().kill_all();
        drop(running);
        sleep(Duration::from_secs(31)).await;
    }
    assert_eq!(deaths, 5);
    let letter = &broker.control().messages("t.dlq")[0];
    assert_eq!(letter.headers.get_str(names::DL_CLASS), Some("crash-loop"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn handlers_that_block_run_on_threads_of_their_own() {
    let connection = memory();
    let log = Log::default();
    let l = log.clone();
    let policy = Policy { execution: Execution::Blocking, concurrency: 8, ..quick() };
    let running = run(&connection, policy, move |m, _| {
        let l = l.clone();
        async move {
            std::thread::sleep(Duration::from_millis(20));
            l.add(&m);
            Ok(())
        }
    })
    .await;
    publish(&connection, numbered(40, 40)).await;
    until(|| log.len() == 40).await;
    assert!(running.shutdown().await.is_clean());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_several_threads_every_message_is_handled_once_and_in_order() {
    let connection = memory();
    let log = Log::default();
    let l = log.clone();
    let retry = Retry::fixed(Duration::from_millis(2)).attempts(5);
    let policy = Policy { workers: Some(4), retry, ..Policy::default() };
    let running = run(&connection, policy, move |m, attempt| {
        let l = l.clone();
        async move {
            tokio::task::yield_now().await;
            if attempt == 1 && m.id.ends_with("99") {
                return Err(Failure::retry("not yet"));
            }
            l.add(&m);
            Ok(())
        }
    })
    .await;
    publish(&connection, numbered(20_000, 300)).await;
    until(|| log.len() == 20_000).await;
    let report = running.shutdown().await;
    assert!(report.is_clean(), "{report:?}");
    assert_eq!(log.distinct(), 20_000);
    log.assert_ordered();
}

#[tokio::test(start_paused = true)]
async fn a_slow_key_with_a_long_backlog_keeps_no_other_out() {
    let connection = memory();
    let log = Log::default();
    let begun = Instant::now();
    let l = log.clone();
    let policy = Policy { max_in_flight: 64, concurrency: 8, ..quick() };
    let running = run(&connection, policy, move |m, _| {
        let l = l.clone();
        async move {
            if m.key.as_deref() == Some(b"k0") {
                sleep(Duration::from_secs(1)).await;
            }
            l.add(&m);
            Ok(())
        }
    })
    .await;
    // Three hundred messages of one slow key in front of a hundred of others.
    let hot = numbered(300, 1);
    let others = (300..400).map(|i| Message::new("t", "x").with_id(i.to_string()).with_key(format!("c{i}")));
    publish(&connection, hot.chain(others)).await;
    until(|| log.numbers().iter().filter(|n| **n >= 300).count() == 100).await;
    let waited = begun.elapsed();
    until(|| log.len() == 400).await;
    println!("the others were done after {waited:?}, the slow key after {:?}", begun.elapsed());
    assert!(waited < Duration::from_secs(30), "the others waited {waited:?}");
    log.assert_ordered();
    assert_eq!(log.distinct(), 400);
    assert!(running.shutdown().await.is_clean());
}

#[tokio::test(start_paused = true)]
async fn what_can_never_be_sent_makes_its_message_a_dead_letter_and_holds_up_no_other() {
    let broker = SimBroker::builder().shape(Shape::Partitioned { partitions: 2 }).max_message(1_000).build();
    let handler = Seeing(|context: &mut Context| {
        let size = if context.message().id == "3" { 2_000 } else { 10 };
        context.held().publish((0..3).map(|_| Message::new("out", vec![7; size])))?;
        Ok(())
    });
    let running = run_handler(&broker.connection(), quick(), handler).await;
    publish(&broker.connection(), numbered(8, 8)).await;
    until(|| broker.control().committed("t", "g").iter().sum::<u64>() == 8).await;
    let report = running.shutdown().await;
    assert!(report.is_clean(), "{report:?}");
    assert_eq!(broker.control().messages("out").len(), 7 * 3);
    let dead = broker.control().messages("t.dlq");
    assert_eq!(dead.len(), 1);
    assert_eq!(dead[0].id, "3");
}

#[tokio::test(start_paused = true)]
async fn a_writer_that_refuses_everything_is_waited_for_whatever_it_says() {
    let broker = SimBroker::builder().shape(Shape::Partitioned { partitions: 2 }).build();
    let fault = broker.control().inject(
        Operation::Write,
        Trigger::always().on("out"),
        Injury::Refuse(ErrorKind::Denied),
    );
    let handler = Seeing(|context: &mut Context| {
        context.held().publish([Message::new("out", "y")])?;
        Ok(())
    });
    let running = run_handler(&broker.connection(), quick(), handler).await;
    publish(&broker.connection(), numbered(5, 5)).await;
    sleep(Duration::from_secs(300)).await;
    assert!(broker.control().messages("t.dlq").is_empty());
    assert!(!running.control().health().is_ready());
    broker.control().heal(fault);
    until(|| broker.control().committed("t", "g").iter().sum::<u64>() == 5).await;
    assert!(running.shutdown().await.is_clean());
    assert_eq!(broker.control().messages("out").len(), 5);
}

/// A dependency that is away for three hours, with waits long enough to be parked each time.
async fn unavailable_for_hours(connection: &Connection) {
    let up = Instant::now() + Duration::from_secs(3 * 3600);
    let policy = Policy { retry: Retry::fixed(Duration::from_secs(90)).attempts(3), ..Policy::default() };
    let running = run(connection, policy, move |_, _| async move {
        if Instant::now() < up { Err(Failure::unavailable("away")) } else { Ok(()) }
    })
    .await;
    publish(connection, numbered(2, 2)).await;
    let control = running.control();
    sleep(Duration::from_secs(3 * 3600)).await;
    until(|| control.counts()[0].handled == 2).await;
    let report = running.shutdown().await;
    assert!(report.is_clean() && report.subscriptions[0].dead_lettered == 0, "{report:?}");
}

#[tokio::test(start_paused = true)]
async fn what_waits_for_hours_in_a_native_park_is_no_crash_loop() {
    unavailable_for_hours(&memory()).await;
    unavailable_for_hours(&SimBroker::builder().shape(Shape::WholeLog).build().connection()).await;
}

#[tokio::test(start_paused = true)]
async fn what_waits_for_hours_on_a_queue_is_no_crash_loop() {
    unavailable_for_hours(&SimBroker::builder().shape(Shape::standard_queue()).build().connection()).await;
    unavailable_for_hours(&SimBroker::builder().shape(Shape::fifo_queue()).build().connection()).await;
}

#[tokio::test(start_paused = true)]
async fn a_hook_that_panics_costs_nothing() {
    let connection = memory();
    let hook: crate::policy::OnError = Arc::new(|_| panic!("in the hook"));
    let policy = Policy { on_error: Some(hook), ..quick() };
    let running = run(&connection, policy, |_, attempt| async move {
        if attempt < 3 { Err(Failure::retry("not yet")) } else { Ok(()) }
    })
    .await;
    publish(&connection, numbered(5, 5)).await;
    let control = running.control();
    until(|| control.counts()[0].handled == 5).await;
    assert!(running.shutdown().await.is_clean());
}

#[tokio::test(start_paused = true)]
async fn an_outage_is_seen_in_total_order_too() {
    let connection = memory();
    let up = Instant::now() + Duration::from_secs(600);
    let policy = Policy {
        ordering: Order::Sequential,
        retry: Retry::fixed(Duration::from_secs(1)).attempts(5),
        outage: crate::Outage::after(4, 1),
        ..Policy::default()
    };
    let running = run(&connection, policy, move |_, _| async move {
        if Instant::now() < up { Err(Failure::retry("down")) } else { Ok(()) }
    })
    .await;
    publish(&connection, numbered(20, 20)).await;
    let control = running.control();
    until(|| control.counts()[0].handled == 20).await;
    assert_eq!(running.shutdown().await.subscriptions[0].dead_lettered, 0);
}

#[tokio::test(start_paused = true)]
async fn a_driver_with_a_store_of_its_own_keeps_the_dead_letters_there() {
    let broker = SimBroker::builder().shape(Shape::WholeLog).build();
    let running = run(&broker.connection(), quick(), |m, _| async move {
        if m.id == "1" { Err(Failure::unrecoverable("poison")) } else { Ok(()) }
    })
    .await;
    publish(&broker.connection(), numbered(6, 3)).await;
    let control = running.control();
    until(|| control.counts()[0].handled == 5 && control.counts()[0].dead_lettered == 1).await;
    let report = running.shutdown().await;
    assert!(report.is_clean(), "{report:?}");
    let letters = broker.control().dead_letters("t");
    assert_eq!(letters.len(), 1);
    assert_eq!(letters[0].id, "1");
    assert_eq!(letters[0].headers.get_str(names::DL_ERROR), Some("poison"));
    assert!(broker.control().messages("t.dlq").is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_store_of_dead_letters_that_fails_acknowledges_nothing_and_recovers() {
    let broker = SimBroker::builder().shape(Shape::WholeLog).build();
    let fault =
        broker.control().inject(Operation::Settle, Trigger::always(), Injury::Fail(ErrorKind::Unavailable));
    let running =
        run(&broker.connection(), quick(), |_, _| async move { Err(Failure::unrecoverable("poison")) }).await;
    publish(&broker.connection(), numbered(2, 2)).await;
    sleep(Duration::from_secs(60)).await;
    assert!(broker.control().dead_letters("t").is_empty());
    assert!(!running.control().health().is_ready());
    broker.control().heal(fault);
    until(|| broker.control().dead_letters("t").len() == 2).await;
    assert!(running.shutdown().await.is_clean());
}
