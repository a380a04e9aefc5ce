//! What the engine's tests lean on: each shape behaves as its model does.

use std::time::{Duration, SystemTime};

use millstream_core::{
    Assignment, Delivery, Effect, End, ErrorKind, Leases, Message, OpenRequest, Opened, Order, Park,
    ParkNote, PartitionId, Read, ReadLimits, Reader, Settled, Settlement, Settler, Source, TokenId, Verdict,
    WriteOutcome, Writer,
};
use tokio::time::{Instant, timeout};

use super::*;

type Open = Opened<SimSource, SimSettler, SimLeases>;

const SECOND: Duration = Duration::from_secs(1);

fn partitioned(partitions: u32) -> SimBroker {
    SimBroker::new(Shape::Partitioned { partitions })
}

fn queue(order: Order) -> SimBroker {
    SimBroker::new(Shape::LeaseQueue { order, visibility: 10 * SECOND })
}

async fn write(broker: &SimBroker, messages: &[(&str, &str)]) {
    let message = |(id, key): &(&str, &str)| Message::new("t", "x").with_id(*id).with_key(key.to_string());
    let report = broker.writer().write(messages.iter().map(message).collect()).await.unwrap();
    assert!(report.is_all_written());
}

async fn join(broker: &SimBroker) -> Open {
    broker.reader().open(OpenRequest::new("t").group("g")).await.unwrap()
}

/// The next event, which must come within an hour.
async fn next(open: &mut Open, into: &mut Vec<Delivery>) -> Read {
    let read = open.source.read(into, ReadLimits::new(100, 1 << 20));
    timeout(3600 * SECOND, read).await.expect("nothing came").unwrap()
}

/// The next deliveries, past changes of the assignment, which are answered at once.
async fn take(open: &mut Open) -> Vec<Delivery> {
    let mut into = Vec::new();
    while into.is_empty() {
        match next(open, &mut into).await {
            Read::Revoking(revoking) => revoking.done(),
            Read::End => panic!("the end, with nothing more"),
            _ => {}
        }
    }
    into
}

async fn quiet(open: &mut Open, time: Duration) -> bool {
    let mut into = Vec::new();
    let _ = timeout(time, open.source.read(&mut into, ReadLimits::new(100, 1 << 20))).await;
    into.is_empty()
}

fn ids(deliveries: &[Delivery]) -> String {
    deliveries.iter().map(|d| d.message.id.to_string()).collect::<Vec<_>>().join(" ")
}

async fn settle(open: &mut Open, delivery: Delivery, verdict: Verdict) -> Settled {
    let mut outcomes = open.settler.settle(vec![Settlement::new(delivery.token, verdict)]).await;
    outcomes.pop().unwrap()
}

async fn ack_all(open: &mut Open, deliveries: Vec<Delivery>) -> bool {
    let batch = deliveries.into_iter().map(|d| Settlement::ack(d.token)).collect();
    open.settler.settle(batch).await.iter().all(Settled::is_done)
}

// The whole log.

#[tokio::test(start_paused = true)]
async fn what_a_dropped_member_held_comes_to_another_in_order() {
    let broker = SimBroker::new(Shape::WholeLog);
    write(&broker, &[("1", "a"), ("2", "b"), ("3", "a")]).await;
    let mut first = join(&broker).await;
    let mut held = take(&mut first).await;
    assert_eq!(ids(&held), "1 2 3");
    let second = held.remove(1);
    assert!(settle(&mut first, second, Verdict::Ack).await.is_done());
    let mut other = join(&broker).await;
    drop(first.source);
    let again = take(&mut other).await;
    assert_eq!(ids(&again), "1 3");
    assert_eq!(again[0].deliveries, 2);
    // And what the first one settles now is not its own any more.
    let late = Settlement::ack(held.remove(0).token);
    assert!(matches!(first.settler.settle(vec![late]).await[0], Settled::Lost));
    assert!(ack_all(&mut other, again).await);
    assert_eq!(broker.control().committed("t", "g"), [3]);
}

#[tokio::test(start_paused = true)]
async fn a_key_goes_to_one_member_at_a_time() {
    let broker = SimBroker::new(Shape::WholeLog);
    let (mut a, mut b) = (join(&broker).await, join(&broker).await);
    write(&broker, &[("1", "k")]).await;
    let held = take(&mut a).await;
    write(&broker, &[("2", "k"), ("3", "j")]).await;
    assert_eq!(ids(&take(&mut b).await), "3");
    assert!(ack_all(&mut a, held).await);
    assert_eq!(ids(&take(&mut b).await), "2");
}

#[tokio::test(start_paused = true)]
async fn a_parked_key_waits_and_then_comes_in_order_before_newer_messages() {
    let broker = SimBroker::new(Shape::WholeLog);
    write(&broker, &[("1", "k"), ("2", "k"), ("3", "j")]).await;
    let mut open = join(&broker).await;
    let mut batch = take(&mut open).await.into_iter();
    let note = ParkNote { attempts: 2, first_failure: None, error: "why".into() };
    for after in [Some(60 * SECOND), None] {
        let park = Park { after, note: note.clone() };
        let parked = settle(&mut open, batch.next().unwrap(), Verdict::Park(Box::new(park))).await;
        assert!(parked.is_done());
    }
    assert!(ack_all(&mut open, batch.collect()).await);
    write(&broker, &[("4", "k")]).await;
    assert!(quiet(&mut open, 59 * SECOND).await);
    let mut order = Vec::new();
    for _ in 0..3 {
        let batch = take(&mut open).await;
        assert_eq!(batch[0].parked.as_deref(), (batch[0].message.id != "4").then_some(&note));
        order.push(ids(&batch));
        assert!(ack_all(&mut open, batch).await);
    }
    assert_eq!(order, ["1", "2", "4"]);
    assert_eq!(broker.control().parked("t", "g"), 0);
}

#[tokio::test(start_paused = true)]
async fn emitted_messages_and_effects_commit_with_the_acknowledgement_or_not_at_all() {
    let broker = SimBroker::new(Shape::WholeLog);
    write(&broker, &[("1", "k")]).await;
    let mut open = join(&broker).await;
    let delivery = take(&mut open).await.remove(0);
    let id = delivery.token.id();
    let with = |token, effect| {
        let mut settlement = Settlement::ack(token);
        settlement.along_mut().emit = vec![Message::new("out", "y")];
        settlement.along_mut().effects = vec![Effect::new(SimEffect::new("row")), Effect::new(effect)];
        settlement
    };
    let failed = open.settler.settle(vec![with(delivery.token, SimEffect::failing("bad"))]).await;
    assert!(matches!(failed[0], Settled::EffectsFailed(_)));
    assert!(broker.control().effects().is_empty() && broker.control().messages("out").is_empty());
    // It is still ours, to be settled once more.
    let token = millstream_core::Token::new(id.partition, id.epoch, id.id);
    assert!(open.settler.settle(vec![with(token, SimEffect::new("good"))]).await[0].is_done());
    assert_eq!(broker.control().effects(), ["row", "good"]);
    assert_eq!(broker.control().messages("out").len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_delayed_message_comes_when_it_is_due() {
    let broker = SimBroker::new(Shape::WholeLog);
    let at = SystemTime::now() + 30 * SECOND;
    let message = Message::new("t", "x").with_deliver_at(at);
    assert!(broker.writer().write(vec![message]).await.unwrap().is_all_written());
    let mut open = join(&broker).await;
    let start = Instant::now();
    take(&mut open).await;
    assert!((29..=30).contains(&start.elapsed().as_secs()), "{:?}", start.elapsed());
}

// The queue.

#[tokio::test(start_paused = true)]
async fn a_lease_that_is_extended_lasts_and_one_that_is_not_ends() {
    let broker = queue(Order::Key);
    write(&broker, &[("1", "a"), ("2", "b")]).await;
    let mut open = join(&broker).await;
    let held = take(&mut open).await;
    let first: TokenId = held[0].token.id();
    for _ in 0..3 {
        tokio::time::sleep(6 * SECOND).await;
        let leases = &mut open.leases.as_mut().unwrap().leases;
        assert_eq!(leases.extend(&[first]).await.unwrap(), [true]);
    }
    let again = take(&mut open).await;
    assert_eq!((ids(&again).as_str(), again[0].deliveries), ("2", 2));
    let outcomes = open.settler.settle(held.into_iter().map(|d| Settlement::ack(d.token)).collect()).await;
    assert!(outcomes[0].is_done() && matches!(outcomes[1], Settled::Lost), "{outcomes:?}");
}

#[tokio::test(start_paused = true)]
async fn a_fifo_key_gives_nothing_more_while_it_is_out_and_a_retry_holds_its_place() {
    let broker = queue(Order::Key);
    write(&broker, &[("1", "k"), ("2", "k")]).await;
    let mut open = join(&broker).await;
    let held = take(&mut open).await;
    write(&broker, &[("3", "k")]).await;
    assert!(quiet(&mut open, SECOND).await);
    let mut held = held.into_iter();
    settle(&mut open, held.next().unwrap(), Verdict::Retry { after: 5 * SECOND }).await;
    settle(&mut open, held.next().unwrap(), Verdict::Release).await;
    assert!(quiet(&mut open, 4 * SECOND).await);
    assert_eq!(ids(&take(&mut open).await), "1 2 3");
}

#[tokio::test(start_paused = true)]
async fn what_a_killed_member_of_a_queue_held_comes_when_its_lease_is_over() {
    let broker = queue(Order::None);
    write(&broker, &[("1", "a")]).await;
    let mut first = join(&broker).await;
    let held = take(&mut first).await;
    broker.control().kill(first.source.member());
    let mut other = join(&broker).await;
    let start = Instant::now();
    assert!(!ack_all(&mut first, held).await, "its late settlements are lost");
    assert_eq!(ids(&take(&mut other).await), "1");
    assert_eq!(start.elapsed().as_secs(), 10);
    assert!(quiet(&mut first, 60 * SECOND).await);
}

// The partitioned log.

#[tokio::test(start_paused = true)]
async fn a_second_member_gets_its_share_once_the_first_has_let_go() {
    let broker = partitioned(4);
    let mut first = join(&broker).await;
    let Read::Assigned(all) = next(&mut first, &mut Vec::new()).await else { panic!() };
    assert_eq!(all.len(), 4);
    let mut second = join(&broker).await;
    let Read::Revoking(revoking) = next(&mut first, &mut Vec::new()).await else { panic!() };
    assert_eq!(revoking.partitions.len(), 2);
    let (moved, epoch) = revoking.partitions[0];
    assert!(quiet(&mut second, SECOND).await, "the driver waits for the answer");
    revoking.done();
    let mut none = Vec::new();
    let (_, read) = tokio::join!(quiet(&mut first, SECOND), next(&mut second, &mut none));
    let Read::Assigned(news) = read else { panic!("{read:?}") };
    assert_eq!(news[0].partition, moved);
    assert!(news[0].epoch > epoch);
}

#[tokio::test(start_paused = true)]
async fn during_a_revocation_its_owner_settles_and_reads_no_more_of_it() {
    let broker = partitioned(1);
    write(&broker, &[("1", "k")]).await;
    let mut open = join(&broker).await;
    let held = take(&mut open).await;
    broker.control().revoke("t", "g", None, 5 * SECOND);
    write(&broker, &[("2", "k")]).await;
    let Read::Revoking(revoking) = next(&mut open, &mut Vec::new()).await else { panic!() };
    assert!(quiet(&mut open, 4 * SECOND).await);
    assert!(ack_all(&mut open, held).await);
    assert_eq!(broker.control().committed("t", "g"), [1]);
    revoking.done();
    let again = take(&mut open).await;
    assert_eq!((ids(&again).as_str(), again[0].token.id().epoch.0), ("2", 2));
}

#[tokio::test(start_paused = true)]
async fn past_the_deadline_the_partition_is_given_away_and_late_settlements_are_lost() {
    let broker = partitioned(1);
    write(&broker, &[("1", "k")]).await;
    let mut open = join(&broker).await;
    let held = take(&mut open).await;
    broker.control().revoke("t", "g", None, 5 * SECOND);
    let Read::Revoking(revoking) = next(&mut open, &mut Vec::new()).await else { panic!() };
    let again = take(&mut open).await;
    assert_eq!(ids(&again), "1", "under a new epoch, since it was not committed");
    assert!(!ack_all(&mut open, held).await);
    drop(revoking);
}

#[tokio::test(start_paused = true)]
async fn a_killed_members_partitions_go_to_the_others_from_the_committed_position_on() {
    let broker = partitioned(1);
    write(&broker, &[("1", "k"), ("2", "k")]).await;
    let mut first = join(&broker).await;
    let mut held = take(&mut first).await;
    let mut other = join(&broker).await;
    let last = held.pop().unwrap();
    assert!(ack_all(&mut first, held).await);
    first.settler.mark(PartitionId(0), last.token.id().epoch, "park 7".into()).await.unwrap();
    broker.control().kill(first.source.member());
    let Read::Assigned(news) = next(&mut other, &mut Vec::new()).await else { panic!() };
    assert_eq!((news[0].start.unwrap().0, news[0].end.unwrap().0), (1, 2));
    assert_eq!(news[0].mark.as_deref(), Some("park 7"));
    assert_eq!(ids(&take(&mut other).await), "2");
    assert!(matches!(settle(&mut first, last, Verdict::Ack).await, Settled::Lost));
}

#[tokio::test(start_paused = true)]
async fn lost_partitions_are_told_and_come_back_under_a_new_epoch() {
    let broker = partitioned(2);
    let mut open = join(&broker).await;
    next(&mut open, &mut Vec::new()).await;
    broker.control().lose("t", "g", Some(&[1]));
    let Read::Lost(lost) = next(&mut open, &mut Vec::new()).await else { panic!() };
    assert_eq!(lost.partitions.len(), 1);
    let Read::Assigned(news) = next(&mut open, &mut Vec::new()).await else { panic!() };
    assert!(news[0].epoch > lost.partitions[0].1);
}

#[tokio::test(start_paused = true)]
async fn a_paused_partition_keeps_what_it_has() {
    let broker = partitioned(2);
    write(&broker, &[("1", "a"), ("2", "b"), ("3", "c"), ("4", "d")]).await;
    let mut open = join(&broker).await;
    next(&mut open, &mut Vec::new()).await;
    open.source.pause(&[PartitionId(0)]);
    let some = take(&mut open).await;
    assert!(some.iter().all(|d| d.token.id().partition == PartitionId(1)));
    open.source.resume(&[PartitionId(0)]);
    assert_eq!(some.len() + take(&mut open).await.len(), 4);
}

#[tokio::test(start_paused = true)]
async fn partitions_of_ones_own_choice_commit_for_the_group() {
    let broker = partitioned(4);
    let message = |n: u32| Message::new("t", "x").with_id(n.to_string()).with_key(n.to_string());
    let _ = broker.writer().write((0..32).map(message).collect()).await.unwrap();
    let mut request = OpenRequest::new("t").group("g").end(End::Latest);
    request.assignment = Assignment::Manual(vec![PartitionId(1)]);
    let mut open = broker.reader().open(request).await.unwrap();
    let batch = take(&mut open).await;
    let (count, partition) = (batch.len() as u64, batch[0].token.id().partition);
    assert_eq!(partition, PartitionId(1));
    assert!(ack_all(&mut open, batch).await);
    assert_eq!(broker.control().committed("t", "g"), [0, count, 0, 0]);
    assert!(matches!(next(&mut open, &mut Vec::new()).await, Read::End));
    open.source.assign(vec![PartitionId(2)]);
    assert_eq!(take(&mut open).await[0].token.id().partition, PartitionId(2));
}

#[tokio::test(start_paused = true)]
async fn browsing_to_the_end_leaves_no_trace() {
    for shape in [Shape::WholeLog, Shape::Partitioned { partitions: 2 }] {
        let broker = SimBroker::new(shape);
        write(&broker, &[("1", "a"), ("2", "b")]).await;
        let request = OpenRequest::new("t").end(End::Latest);
        let mut open = broker.reader().open(request).await.unwrap();
        write(&broker, &[("3", "c")]).await;
        let mut seen = Vec::new();
        while !matches!(next(&mut open, &mut seen).await, Read::End) {}
        assert_eq!(seen.len(), 2);
        assert!(broker.control().committed("t", "g").is_empty());
    }
}

// Faults.

#[tokio::test(start_paused = true)]
async fn a_write_fails_is_unknown_or_loses_its_answer_as_told() {
    let broker = SimBroker::new(Shape::WholeLog);
    let control = broker.control();
    control.inject(Operation::Write, Trigger::next(1), Injury::Fail(ErrorKind::Unavailable));
    control.inject(Operation::Write, Trigger::next(1), Injury::Unknown);
    control.inject(Operation::Write, Trigger::next(1), Injury::AnswerLost);
    let batch = (0..4).map(|n| Message::new("t", "x").with_id(n.to_string())).collect();
    let outcomes = broker.writer().write(batch).await.unwrap().into_outcomes();
    assert!(matches!(outcomes[0], WriteOutcome::Failed(_)));
    assert!(matches!(outcomes[1], WriteOutcome::Unknown(_)));
    assert!(matches!(outcomes[2], WriteOutcome::Unknown(_)));
    assert!(outcomes[3].is_written());
    assert_eq!(control.messages("t").iter().map(|m| &*m.id).collect::<Vec<_>>(), ["2", "3"]);
}

#[tokio::test(start_paused = true)]
async fn a_topic_that_is_down_refuses_until_it_is_up() {
    let broker = SimBroker::new(Shape::standard_queue());
    let down = broker.control().take_down("t.dlq");
    let write = async |topic: &'static str| {
        broker.writer().write(vec![Message::new(topic, "x")]).await.unwrap().is_all_written()
    };
    assert!(!write("t.dlq").await && write("t").await);
    broker.control().heal(down);
    assert!(write("t.dlq").await);
}

#[tokio::test(start_paused = true)]
async fn a_settlement_that_hangs_is_unknown_after_a_while() {
    let broker = SimBroker::new(Shape::WholeLog);
    write(&broker, &[("1", "k")]).await;
    let mut open = join(&broker).await;
    let delivery = take(&mut open).await.remove(0);
    let fault = broker.control().inject(Operation::Settle, Trigger::always(), Injury::Hang);
    assert!(matches!(settle(&mut open, delivery, Verdict::Ack).await, Settled::Unknown(_)));
    broker.control().heal(fault);
    assert_eq!(ids(&take(&mut open).await), "1", "it comes again");
}
