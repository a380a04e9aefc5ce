//! Workers on the simulated broker while it is broken at random: nothing is lost, duplicates are explained,
//! keys stay in order, and the ledger sees it so. A seed that fails is in the message, and fails again.
//! `STORM_SEEDS=1000` runs more than the usual 25 of each shape.

use std::time::Duration;

use millstream_core::{
    ErrorKind, Message, OpenRequest, Order, Read, ReadLimits, Reader, Settlement, Settler, Source,
    WriteOutcome, Writer,
};
use millstream_testkit::invariants::{Promised, Rules, check};
use millstream_testkit::ledger::{Ending, Ledger, Record};
use millstream_testkit::sim::{Injury, Operation, Shape, SimBroker, Trigger};
use tokio::time::sleep;

const MESSAGES: u64 = 150;

/// The group as the broker names it.
fn group(shape: Shape) -> &'static str {
    if matches!(shape, Shape::LeaseQueue { .. }) { "" } else { "g" }
}

async fn publish(broker: SimBroker, ledger: Ledger, mut random: fastrand::Rng) {
    let writer = broker.writer();
    for n in 0..MESSAGES {
        let message =
            Message::new("t", n.to_string()).with_id(n.to_string()).with_key(format!("key {}", n % 7));
        ledger.write(Record::intent(&message, n));
        loop {
            let id = message.id.clone();
            let report = writer.write(vec![message.clone()]).await;
            match report.map(|r| r.into_outcomes().pop()) {
                Ok(Some(WriteOutcome::Written(_))) => break ledger.write(Record::Acked { id }),
                Ok(Some(WriteOutcome::Unknown(_))) => ledger.write(Record::MaybeWritten { id }),
                Ok(_) | Err(_) => {}
            }
        }
        sleep(Duration::from_millis(random.u64(0..20))).await;
    }
}

async fn work(
    broker: SimBroker,
    ledger: Ledger,
    group: &'static str,
    name: usize,
    mut random: fastrand::Rng,
) {
    loop {
        let Ok(opened) = broker.reader().open(OpenRequest::new("t").group("g")).await else { continue };
        let (mut source, mut settler) = (opened.source, opened.settler);
        let turns = random.usize(1..30);
        for _ in 0..turns {
            let mut batch = Vec::new();
            let limits = ReadLimits::new(random.usize(0..8), 1 << 20);
            let limit = Duration::from_millis(random.u64(1..100));
            match tokio::time::timeout(limit, source.read(&mut batch, limits)).await {
                // Handled one by one, so nothing is unsettled when it is asked back.
                Ok(Ok(Read::Revoking(revoking))) if random.u8(..) < 200 => revoking.done(),
                Ok(Ok(Read::Revoking(late))) => {
                    sleep(Duration::from_secs(3)).await;
                    late.done();
                }
                _ => {}
            }
            for delivery in &batch {
                ledger.write(Record::delivered(delivery, group, format!("worker {name}")));
            }
            for delivery in batch {
                sleep(Duration::from_millis(random.u64(0..40))).await;
                let id = delivery.message.id.clone();
                ledger.write(Record::Effect { id: id.clone(), group: group.into() });
                let settled = settler.settle(vec![Settlement::ack(delivery.token)]).await.remove(0);
                if !settled.is_done() {
                    ledger.write(Record::fault("a settlement did not take effect"));
                }
                ledger.write(Record::settled(id, group, Ending::Ack, &settled));
            }
        }
        if random.bool() {
            let _ = source.close().await;
        } else {
            drop(source);
        }
    }
}

/// Breaks something at random; says so in the ledger first.
fn disturb(broker: &SimBroker, ledger: &Ledger, group: &str, random: &mut fastrand::Rng) {
    let control = broker.control();
    ledger.write(Record::fault("a random one"));
    let some = Trigger::next(random.u64(1..3));
    match random.u8(0..9) {
        0 => control.expire_leases("t", group),
        1 => control.lose("t", group, Some(&[random.u32(0..4)])),
        2 => control.rebalance("t", group),
        3 => control.revoke("t", group, Some(&[random.u32(0..4)]), Duration::from_millis(10)),
        4 => control.members("t", group).into_iter().take(1).for_each(|m| control.kill(m)),
        5 => drop(control.inject(Operation::Settle, some, Injury::Lost)),
        6 => drop(control.inject(Operation::Read, some, Injury::Fail(ErrorKind::Unavailable))),
        7 => drop(control.inject(Operation::Write, some, Injury::AnswerLost)),
        _ => drop(control.inject(Operation::Write, some, Injury::Fail(ErrorKind::Unavailable))),
    }
}

async fn storm(shape: Shape, seed: u64) {
    let broker = SimBroker::builder().shape(shape).seed(seed).revoke_within(Duration::from_secs(1)).build();
    let ledger = Ledger::in_memory();
    ledger.write(Record::Subscribed { group: group(shape).into(), topic: "t".into(), from_now: false });
    let mut random = fastrand::Rng::with_seed(seed);
    let workers: Vec<_> = (0..3)
        .map(|name| tokio::spawn(work(broker.clone(), ledger.clone(), group(shape), name, random.fork())))
        .collect();
    let publishing = tokio::spawn(publish(broker.clone(), ledger.clone(), random.fork()));
    for _ in 0..40 {
        sleep(Duration::from_millis(random.u64(0..150))).await;
        disturb(&broker, &ledger, group(shape), &mut random);
    }
    broker.control().heal_all();
    assert!(publishing.await.is_ok(), "{shape:?}, seed {seed}: publishing panicked");
    let drained = async {
        while broker.control().lag("t", group(shape)) > 0 {
            sleep(Duration::from_millis(100)).await;
        }
    };
    let drained = tokio::time::timeout(Duration::from_secs(3600), drained).await;
    assert!(drained.is_ok(), "{shape:?}, seed {seed}: not drained within an hour of paused time");
    workers.into_iter().for_each(|w| w.abort());
    let order = match shape {
        Shape::LeaseQueue { order: Order::None, .. } => Promised::Nothing,
        // A write whose answer was lost is written again: behind what its neighbours wrote meanwhile, but the
        // first of the two keeps the order.
        _ => Promised::PerKey,
    };
    let verdict = check(&ledger, Rules::default().effects_recorded().order(order));
    assert!(verdict.is_ok(), "{shape:?}, seed {seed}: {verdict}");
    let counts = verdict.counts();
    assert!(counts.acked == MESSAGES && counts.faults >= 40);
}

fn storms(shape: Shape) {
    let seeds = std::env::var("STORM_SEEDS").ok().and_then(|n| n.parse().ok()).unwrap_or(25);
    for seed in 0..seeds {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build();
        runtime.expect("the runtime starts").block_on(storm(shape, seed));
    }
}

#[test]
fn a_whole_log_in_a_storm_keeps_every_invariant() {
    storms(Shape::WholeLog);
}

#[test]
fn a_standard_queue_in_a_storm_keeps_every_invariant() {
    storms(Shape::standard_queue());
}

#[test]
fn a_fifo_queue_in_a_storm_keeps_every_invariant() {
    storms(Shape::fifo_queue());
}

#[test]
fn a_partitioned_log_in_a_storm_keeps_every_invariant() {
    storms(Shape::Partitioned { partitions: 4 });
}
