//! What goes wrong between this driver and SQS, and what is right then: the rows S1 to S7, and what was found beside them.
#![cfg(feature = "sqs")]
#![allow(clippy::unwrap_used, reason = "a test")]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use millstream::prelude::*;
use millstream_aws::Queues;
use millstream_core::{
    Delivery, ErrorKind, Message, OpenRequest, ReadLimits, Reader as _, Settled, Settlement, Settler as _,
    Source as _, Verdict, WriteOutcome, Writer as _, names,
};
use serde::{Deserialize, Serialize};
use tokio::time::{sleep, timeout};

mod server;
use server::{Member, Mode, PATIENCE, Proxy, queues, sqs, topic, write};

#[derive(Debug, Serialize, Deserialize, Event)]
#[event(topic = "unused")]
struct Order {
    n: usize,
}

fn order(topic: &str, n: usize) -> Message {
    Message::new(topic.to_owned(), format!(r#"{{"n":{n}}}"#))
        .with_id(n.to_string())
        .with_key(format!("customer {n}"))
        .with_content_type("application/json")
}

fn orders(topic: &str, count: usize) -> Vec<Message> {
    (0..count).map(|n| order(topic, n)).collect()
}

#[derive(Debug, Clone, Default)]
struct Runs(Arc<AtomicUsize>);

/// S1: a handler that runs longer than its lease, and blocks every thread there is, keeps its message.
#[tokio::test]
async fn s1_a_handler_that_blocks_the_runtime_keeps_its_lease() {
    async fn blocking(_: Order, State(runs): State<Runs>) -> Outcome {
        runs.0.fetch_add(1, Ordering::SeqCst);
        std::thread::sleep(Duration::from_secs(7));
        Ok(())
    }
    let topic = topic("blocked");
    let sqs = queues(&server::endpoint()).await.lease(Duration::from_secs(2)).open().unwrap();
    write(&sqs, orders(&topic, 1)).await;
    let runs = Runs::default();
    let running = Bus::from_connection(sqs.connection())
        .with_state(runs.clone())
        .subscribe_to(topic.clone(), blocking.group("g"))
        .start()
        .await
        .unwrap();
    sleep(Duration::from_secs(10)).await;
    running.shutdown().await;
    assert_eq!(runs.0.load(Ordering::SeqCst), 1);
    Member::open(&sqs, &topic).await.quiet(Duration::from_secs(3)).await;
}

/// S1, of many: handlers that take ten times their lease keep their messages, and nothing is delivered twice.
async fn handlers_that_take_ten_times_their_lease_run_once_each(kind: Queues) {
    async fn slow(_: Order, State(runs): State<Runs>) -> Outcome {
        runs.0.fetch_add(1, Ordering::SeqCst);
        sleep(Duration::from_secs(20)).await;
        Ok(())
    }
    let topic = topic("slow");
    let sqs = queues(&server::endpoint()).await.queues(kind).lease(Duration::from_secs(2)).open().unwrap();
    write(&sqs, orders(&topic, 100)).await;
    let runs = Runs::default();
    let running = Bus::from_connection(sqs.connection())
        .with_state(runs.clone())
        .subscribe_to(topic.clone(), slow.group("g").concurrency(100))
        .start()
        .await
        .unwrap();
    sleep(Duration::from_secs(24)).await;
    assert_eq!(runs.0.load(Ordering::SeqCst), 100);
    running.shutdown().await;
    Member::open(&sqs, &topic).await.quiet(Duration::from_secs(3)).await;
}

#[tokio::test]
async fn s1_handlers_that_take_ten_times_their_lease_run_once_each() {
    handlers_that_take_ten_times_their_lease_run_once_each(Queues::Standard).await;
}

#[tokio::test]
async fn s1_so_they_do_on_a_fifo_queue() {
    handlers_that_take_ten_times_their_lease_run_once_each(Queues::Fifo).await;
}

/// S2: past its lease a message is lost by our own clock, though the server would take the acknowledgement.
#[tokio::test]
async fn s2_an_acknowledgement_past_its_lease_is_lost() {
    let topic = topic("late");
    let sqs = queues(&server::endpoint()).await.lease(Duration::from_secs(2)).open().unwrap();
    write(&sqs, orders(&topic, 1)).await;
    let mut member = Member::open(&sqs, &topic).await;
    let late = member.take(1).await;
    sleep(Duration::from_millis(2100)).await;
    let settled = member.ack(late).await;
    assert!(matches!(settled[..], [Settled::Lost]), "{settled:?}");
    let again = member.take(1).await;
    assert_eq!(again[0].deliveries, 2);
}

/// S3: a connection that falls silent during a poll does not hold up the subscription for longer than its wait and 10 s.
#[tokio::test]
async fn s3_a_poll_on_a_dead_connection_ends_and_reading_goes_on() {
    let proxy = Proxy::start().await;
    let topic = topic("silent");
    let through = queues(&proxy.endpoint).await.open().unwrap();
    let mut member = Member::open(&through, &topic).await;
    member.quiet(Duration::from_millis(500)).await;
    proxy.set(Mode::Hold);
    sleep(Duration::from_millis(1500)).await;
    let direct = sqs().await;
    write(&direct, orders(&topic, 1)).await;
    let held = Instant::now();
    let mut errors = 0;
    let mut came = Vec::new();
    while came.is_empty() {
        if held.elapsed() > Duration::from_secs(7) {
            proxy.set(Mode::Pass);
        }
        let read = member.parts.source.read(&mut came, ReadLimits::new(1, 1 << 20));
        match timeout(Duration::from_millis(500), read).await {
            Ok(Err(error)) => {
                assert!(error.is_retryable(), "{error:?}");
                errors += 1;
            }
            Ok(Ok(_)) | Err(_) => assert!(held.elapsed() < PATIENCE, "nothing came"),
        }
    }
    assert!(errors >= 1, "the poll ended, and said so");
    assert!(held.elapsed() < Duration::from_secs(15), "{:?}", held.elapsed());
}

/// S4: an idle subscription stays without an error, and gets what comes then at once.
#[tokio::test]
async fn s4_idle_polls_are_no_stalled_streams() {
    let topic = topic("idle");
    let sqs = server::aws(&server::endpoint()).await.sqs().wait(Duration::from_secs(20)).open().unwrap();
    let mut member = Member::open(&sqs, &topic).await;
    // A read that brought an error would fail this.
    member.quiet(Duration::from_secs(23)).await;
    write(&sqs, orders(&topic, 1)).await;
    assert_eq!(member.take_within(1, Duration::from_secs(2)).await.len(), 1);
}

/// S5: an answer of 200 with a failed entry is a failure of that entry alone.
#[tokio::test]
async fn s5_an_entry_that_fails_in_a_batch_that_does_not_fails_alone() {
    let proxy = Proxy::start().await;
    let topic = topic("entries");
    let sqs = queues(&proxy.endpoint).await.open().unwrap();
    write(&sqs, orders(&topic, 1)).await;
    proxy.rewrite(|_, body| {
        let mut answer: serde_json::Value = serde_json::from_str(body).unwrap();
        if let Some(written) =
            answer.get_mut("Successful").and_then(|s| s.as_array_mut()).filter(|s| s.len() == 4)
        {
            written.remove(2);
            answer["Failed"] = serde_json::json!([
                { "Id": "2", "SenderFault": true, "Code": "InvalidMessageContents", "Message": "it is odd" }
            ]);
            *body = answer.to_string();
        }
    });
    let outcomes = sqs.writer().write(orders(&topic, 4)).await.unwrap().into_outcomes();
    let shown: Vec<_> = outcomes.iter().map(WriteOutcome::is_written).collect();
    assert_eq!(shown, [true, true, false, true]);
    let WriteOutcome::Failed(error) = &outcomes[2] else { panic!("{outcomes:?}") };
    assert_eq!(error.kind(), ErrorKind::InvalidMessage);
    let error = error.to_string();
    assert!(error.contains("it is odd") && error.contains("customer 2") && error.contains(&topic), "{error}");
}

/// S5: an entry that is refused for the moment is sent again, and the others are not.
#[tokio::test]
async fn s5_an_entry_that_is_refused_for_the_moment_is_sent_again() {
    let proxy = Proxy::start().await;
    let topic = topic("again");
    let sqs = queues(&proxy.endpoint).await.open().unwrap();
    write(&sqs, orders(&topic, 1)).await;
    let mut member = Member::open(&sqs, &topic).await;
    let first = member.take(1).await;
    let refused = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&refused);
    proxy.rewrite(move |_, body| {
        // The one entry of a settlement, twice.
        if body.contains("Successful") && count.fetch_add(1, Ordering::SeqCst) < 2 {
            *body = serde_json::json!({
                "Successful": [],
                "Failed": [{ "Id": "0", "SenderFault": false, "Code": "InternalError", "Message": "not now" }],
            })
            .to_string();
        }
    });
    let later = |d: Delivery| Settlement::new(d.token, Verdict::Retry { after: Duration::from_secs(60) });
    let retry = first.into_iter().map(later).collect();
    let settled = member.parts.settler.settle(retry).await;
    assert!(matches!(settled[..], [Settled::Done]), "{settled:?}");
    assert_eq!(refused.load(Ordering::SeqCst), 3);
}

/// S6: more in flight than a queue allows is told, waited out, and no end of the subscription.
#[tokio::test]
async fn s6_too_many_in_flight_is_told_and_passes() {
    let proxy = Proxy::start().await;
    let topic = topic("over-limit");
    // What the server gives to a poll whose answer is changed comes again after its lease.
    let sqs = queues(&proxy.endpoint).await.lease(Duration::from_secs(2)).open().unwrap();
    write(&sqs, orders(&topic, 1)).await;
    proxy.rewrite(|head, body| {
        *head = head.replacen("200 OK", "403 Forbidden", 1);
        *body = r#"{"__type":"com.amazonaws.sqs#OverLimit","message":"too many in flight"}"#.to_owned();
    });
    let mut opened = sqs.reader().open(OpenRequest::new(topic).group("g")).await.unwrap();
    let mut into = Vec::new();
    let error = opened.source.read(&mut into, ReadLimits::new(1, 1 << 20)).await.unwrap_err();
    assert!(error.kind() == ErrorKind::Full && error.is_retryable(), "{error:?}");
    assert!(error.to_string().contains("120,000"), "{error}");
    proxy.leave_as_it_is();
    let reading = async {
        while into.is_empty() {
            let _ = opened.source.read(&mut into, ReadLimits::new(1, 1 << 20)).await;
        }
    };
    timeout(PATIENCE, reading).await.unwrap();
}

/// S7: of a FIFO queue the second message with an id is dropped, and one that was redriven is not.
#[tokio::test]
async fn s7_on_a_fifo_queue_an_id_is_there_once_and_a_redriven_one_again() {
    let topic = topic("once");
    let sqs = queues(&server::endpoint()).await.queues(Queues::Fifo).open().unwrap();
    let mut member = Member::open(&sqs, &topic).await;
    write(&sqs, orders(&topic, 1)).await;
    write(&sqs, orders(&topic, 1)).await;
    let first = member.take(1).await;
    member.ack(first).await;
    member.quiet(Duration::from_secs(1)).await;
    write(&sqs, vec![order(&topic, 0).with_header(names::DL_REDRIVE_COUNT, "1")]).await;
    assert_eq!(member.take(1).await[0].message.id, "0");
}

/// An answer that does not come leaves the outcome unknown, and the message may be there.
#[tokio::test]
async fn an_answer_that_is_cut_is_unknown_on_a_standard_queue() {
    let proxy = Proxy::start().await;
    let topic = topic("cut");
    let through = queues(&proxy.endpoint).await.open().unwrap();
    write(&through, orders(&topic, 1)).await;
    proxy.set(Mode::CutAnswers);
    let outcomes = through.writer().write(vec![order(&topic, 1)]).await.unwrap().into_outcomes();
    assert!(matches!(outcomes[..], [WriteOutcome::Unknown(_)]), "{outcomes:?}");
    assert_eq!(Member::open(&sqs().await, &topic).await.take(2).await.len(), 2);
}

/// On a FIFO queue the same is sent again, and is there once.
#[tokio::test]
async fn an_answer_that_is_cut_is_made_sure_of_on_a_fifo_queue() {
    let proxy = Proxy::start().await;
    let topic = topic("sure");
    let through = queues(&proxy.endpoint).await.queues(Queues::Fifo).open().unwrap();
    write(&through, orders(&topic, 1)).await;
    proxy.set(Mode::CutAnswers);
    let writer = through.writer();
    let writing = writer.write(vec![order(&topic, 1)]);
    let mending = async {
        sleep(Duration::from_millis(300)).await;
        proxy.set(Mode::Pass);
    };
    let (report, ()) = tokio::join!(writing, mending);
    report.unwrap().into_result().unwrap();
    let direct = queues(&server::endpoint()).await.queues(Queues::Fifo).open().unwrap();
    let mut member = Member::open(&direct, &topic).await;
    member.take(2).await;
    member.quiet(Duration::from_secs(1)).await;
}

/// While nobody is there, a write is tried until its time is up, and has surely not happened then.
#[tokio::test]
async fn a_write_rides_out_a_server_that_is_away() {
    let proxy = Proxy::start().await;
    let topic = topic("away");
    let through = queues(&proxy.endpoint).await.open().unwrap();
    write(&through, orders(&topic, 1)).await;
    let answers = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&answers);
    proxy.rewrite(move |head, body| {
        if count.fetch_add(1, Ordering::SeqCst) < 3 {
            *head = head.replacen("200 OK", "503 Service Unavailable", 1);
            *body = r#"{"__type":"ServiceUnavailable"}"#.to_owned();
        }
    });
    write(&through, vec![order(&topic, 1)]).await;
    assert_eq!(answers.load(Ordering::SeqCst), 4);
}

/// A poll that is out when its subscription vanishes brings the next message to nobody: it is given back at once, and does
/// not count as a delivery that was seen.
#[tokio::test]
async fn a_subscription_that_vanishes_hides_no_message() {
    let topic = topic("vanished");
    let sqs = queues(&server::endpoint()).await.wait(Duration::from_secs(4)).open().unwrap();
    let mut first = Member::open(&sqs, &topic).await;
    first.quiet(Duration::from_millis(300)).await;
    drop(first);
    write(&sqs, orders(&topic, 1)).await;
    let mut second = Member::open(&self::sqs().await, &topic).await;
    // Far less than the lease of 30 s.
    assert_eq!(second.take_within(1, Duration::from_secs(6)).await.len(), 1);
}

/// What waits to be read keeps its lease, however long nobody reads.
#[tokio::test]
async fn what_was_fetched_and_not_read_stays_ours() {
    let topic = topic("waiting");
    let sqs = queues(&server::endpoint()).await.lease(Duration::from_secs(2)).open().unwrap();
    let mut member = Member::open(&sqs, &topic).await;
    // It wants five, and a read of one byte takes one.
    assert!(
        timeout(Duration::from_millis(200), member.parts.source.read(&mut Vec::new(), ReadLimits::new(5, 1)))
            .await
            .is_err()
    );
    write(&sqs, orders(&topic, 5)).await;
    sleep(Duration::from_secs(5)).await;
    let came = member.take(5).await;
    assert!(came.iter().all(|d| d.deliveries == 1), "{came:?}");
    assert!(member.ack(came).await.iter().all(Settled::is_done));
}

/// Messages of a FIFO group that were fetched behind one that goes back come again behind it, none counted as delivered.
#[tokio::test]
async fn behind_a_message_that_goes_back_its_group_comes_again_in_order() {
    let topic = topic("group");
    let sqs = queues(&server::endpoint()).await.queues(Queues::Fifo).open().unwrap();
    let messages = (0..4).map(|n| order(&topic, n).with_key("k")).collect();
    write(&sqs, messages).await;
    let mut member = Member::open(&sqs, &topic).await;
    for _ in 0..3 {
        let first = member.take_within(4, Duration::from_secs(2)).await;
        assert_eq!(first.len(), 1, "one of a group at a time");
        assert_eq!(first[0].message.id, "0");
        let back = first.into_iter().map(|d| Settlement::new(d.token, Verdict::Release)).collect();
        assert!(member.parts.settler.settle(back).await.iter().all(Settled::is_done));
    }
    for n in 0..4 {
        let next = member.take(1).await;
        assert_eq!((&*next[0].message.id, next[0].deliveries), (&*n.to_string(), 1));
        member.ack(next).await;
    }
}

/// A message that cannot be handled is a dead letter in its own queue, and order per key holds on a FIFO queue meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_handled_is_a_dead_letter() {
    async fn failing(order: Order, State(runs): State<Runs>) -> Outcome {
        runs.0.fetch_add(1, Ordering::SeqCst);
        match order.n {
            3 => Err(std::io::Error::other("the mail server says no").into()),
            _ => Ok(()),
        }
    }
    for kind in [Queues::Standard, Queues::Fifo] {
        let topic = topic("letters");
        let sqs = queues(&server::endpoint()).await.queues(kind).open().unwrap();
        write(&sqs, orders(&topic, 20)).await;
        let runs = Runs::default();
        let running = Bus::from_connection(sqs.connection())
            .with_state(runs.clone())
            .subscribe_to(
                topic.clone(),
                failing.group("g").retry(Retry::fixed(Duration::from_millis(100)).attempts(3)),
            )
            .start()
            .await
            .unwrap();
        let letters = format!("{topic}.dlq");
        let mut member = Member::open(&sqs, &letters).await;
        let letter = member.take(1).await.remove(0);
        assert_eq!(letter.message.id, "3");
        assert_eq!(letter.message.headers.get_str(names::DL_CLASS), Some("exhausted"));
        assert_eq!(letter.message.headers.get_str(names::DL_TOPIC), Some(&*topic));
        running.shutdown().await;
        assert_eq!(runs.0.load(Ordering::SeqCst), 22);
    }
}
