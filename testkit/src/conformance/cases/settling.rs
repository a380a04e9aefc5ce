//! Verdicts, counts, parks, dead letters, and what commits with an acknowledgement.

use std::time::Duration;

use millstream_core::{
    Capabilities, DeadLetters, Park, ParkNote, Parking, SettleMode, Settled, Settlement, Verdict,
    WriterCapabilities, names,
};

use super::{case, individual, need};
use crate::conformance::member::Member;
use crate::conformance::{Case, Checked, Failure, Need, World, ensure};
use crate::ledger::Ending;

pub(super) fn cases() -> Vec<Case> {
    vec![
        case!(
            "settling",
            released_messages_come_again_at_once,
            individual,
            "Release delivers it again at once (Verdict::Release; conformance.md 4, 8)"
        ),
        case!(
            "settling",
            only_what_is_given_back_comes_again,
            individual,
            "each is settled on its own (SettleMode::Individual; conformance.md, gap 3)"
        ),
        case!(
            "settling",
            a_retry_waits_as_long_as_asked,
            retrying,
            "Retry delivers it again, not before the time has passed (Verdict::Retry)"
        ),
        case!(
            "settling",
            deliveries_are_counted,
            counting,
            "deliveries are counted, across restarts of the reader (Capabilities::redelivery_count)"
        ),
        case!(
            "settling",
            what_was_acknowledged_cannot_be_given_back,
            individual,
            "Ack ends a message for the group, whatever is settled late (reader, rules 1 and 3)"
        ),
        case!(
            "settling",
            a_parked_key_comes_in_order_when_its_head_is_due,
            parking,
            "a parked key waits for its head and then comes in order (Park)"
        ),
        case!(
            "settling",
            a_parked_message_outlives_its_member,
            parking,
            "a park is durable, and keeps its note (Park)"
        ),
        case!(
            "settling",
            what_was_left_unfinished_comes_before_the_younger_that_were_parked,
            parking,
            "what comes again comes before the later ones of its key, also those in the park (reader, rule 4)"
        ),
        case!(
            "settling",
            deliveries_are_counted_anew_from_each_park,
            parking,
            "a message that waited long is no crash loop: a park counts anew (Delivery::deliveries)"
        ),
        case!(
            "settling",
            a_dead_letter_is_stored_and_its_source_acknowledged,
            burying,
            "Dead stores the message and acknowledges, as one (Verdict::Dead)"
        ),
        case!(
            "settling",
            emitted_messages_commit_with_the_verdict,
            emitting,
            "emitted messages are written in one transaction with the verdict (Along::emit)"
        ),
        case!(
            "settling",
            a_batch_ends_as_one_or_not_at_all,
            ending_together,
            "what was handled together is acknowledged together (Along::others)"
        ),
    ]
}

fn retrying(can: &Capabilities, _: &WriterCapabilities) -> Need {
    need(can.retry_after.is_some(), "it cannot wait")
}

fn counting(can: &Capabilities, _: &WriterCapabilities) -> Need {
    need(can.redelivery_count, "it does not count deliveries")
}

fn parking(can: &Capabilities, _: &WriterCapabilities) -> Need {
    need(can.parking == Parking::Native, "it does not park")
}

fn burying(can: &Capabilities, _: &WriterCapabilities) -> Need {
    need(can.dead_letters == DeadLetters::Native, "it keeps no dead letters of its own")
}

fn emitting(can: &Capabilities, _: &WriterCapabilities) -> Need {
    need(can.atomic_emit.is_some(), "nothing commits with its verdicts")
}

fn ending_together(can: &Capabilities, _: &WriterCapabilities) -> Need {
    need(
        can.atomic_emit.is_some() && can.settle == SettleMode::Individual,
        "no batch of verdicts ends in one transaction",
    )
}

async fn released_messages_come_again_at_once(world: World) -> Checked {
    let count = 20;
    let messages = (0..count).map(|n| world.message(&format!("key {n}"))).collect();
    let mut member = world.publish_and_join(messages, "g").await?;
    for _ in 0..3 {
        let batch = member.take(count).await?;
        let batch = batch.into_iter().map(|d| (d, Verdict::Release)).collect();
        let outcomes = member.settle(batch).await?;
        ensure!(outcomes.iter().all(Settled::is_done), "a release ended with {outcomes:?}");
    }
    member.work(count).await?;
    member.quiet(world.scale().quiet).await?;
    world.verify(world.rules())
}

async fn only_what_is_given_back_comes_again(world: World) -> Checked {
    let messages: Vec<_> = (0..10).map(|n| world.message(&format!("key {n}"))).collect();
    let mut member = world.publish_and_join(messages, "g").await?;
    let mut batch = member.take(10).await?;
    let given_back = batch.remove(6);
    let id = given_back.message.id.clone();
    let mut verdicts = vec![(given_back, Verdict::Release)];
    let done: Vec<_> = batch.drain(..5).collect();
    member.handle(done).await?;
    verdicts.extend(batch.drain(..).map(|d| (d, Verdict::Ack)));
    for (delivery, _) in &verdicts[1..] {
        let effect =
            crate::ledger::Record::Effect { id: delivery.message.id.clone(), group: member.group.clone() };
        world.ledger().write(effect);
    }
    // One call with different verdicts, the odd one first.
    let outcomes = member.settle(verdicts).await?;
    ensure!(outcomes.iter().all(Settled::is_done), "the settlements ended with {outcomes:?}");
    let again = member.take(1).await?;
    ensure!(again[0].message.id == id, "{:?} came again, and {id:?} was given back", again[0].message.id);
    member.handle(again).await?;
    member.quiet(world.scale().quiet).await?;
    world.verify(world.rules())
}

async fn a_retry_waits_as_long_as_asked(world: World) -> Checked {
    let mut member = world.publish_and_join(vec![world.message("k")], "g").await?;
    let after = world.scale().quiet * 5;
    let delivery = member.take(1).await?.remove(0);
    let started = tokio::time::Instant::now();
    member.settle_done(delivery, Verdict::Retry { after }).await?;
    let again = member.take_within_of(1, after).await?;
    // Some brokers count whole seconds and round: a tenth early is not a bug of the driver.
    ensure!(started.elapsed() >= after.mul_f32(0.9), "it came after {:?} of {after:?}", started.elapsed());
    member.handle(again).await?;
    world.verify(world.rules())
}

async fn deliveries_are_counted(world: World) -> Checked {
    let mut member = world.publish_and_join(vec![world.message("k")], "g").await?;
    for expected in 1..=3 {
        let delivery = member.take_again(1).await?.remove(0);
        ensure!(
            delivery.deliveries == expected,
            "delivery number {expected} was counted as {}",
            delivery.deliveries
        );
        if expected < 3 {
            drop(delivery);
            member.vanish();
            member = world.join("g").await?;
        } else {
            member.handle(vec![delivery]).await?;
        }
    }
    world.verify(world.rules())
}

async fn what_was_acknowledged_cannot_be_given_back(world: World) -> Checked {
    let mut member = world.publish_and_join(vec![world.message("k")], "g").await?;
    let delivery = member.take(1).await?.remove(0);
    let stale = Settlement::new(Member::token_again(&delivery), Verdict::Release);
    member.handle(vec![delivery]).await?;
    let outcome = member.settler.settle(vec![stale]).await;
    ensure!(
        matches!(outcome[..], [Settled::Lost]),
        "releasing a message that was acknowledged ended with {outcome:?}, not Lost"
    );
    member.quiet(world.scale().quiet).await?;
    world.verify(world.rules())
}

fn park(after: Option<Duration>) -> Verdict {
    let note = ParkNote { attempts: 3, first_failure: None, error: "the database is away".to_owned() };
    Verdict::Park(Box::new(Park { after, note }))
}

async fn a_parked_key_comes_in_order_when_its_head_is_due(world: World) -> Checked {
    let mut messages: Vec<_> = (0..3).map(|_| world.message("k")).collect();
    messages.push(world.message("other"));
    let mut ids: Vec<_> = messages.iter().map(|m| m.id.clone()).collect();
    let other = ids.pop();
    let mut member = world.publish_and_join(messages, "g").await?;
    let after = world.scale().quiet * 3;
    let batch = member.take(4).await?;
    for delivery in batch {
        if Some(&delivery.message.id) == other.as_ref() {
            member.handle(vec![delivery]).await?;
        } else {
            let head = delivery.message.id == ids[0];
            member.settle_done(delivery, park(head.then_some(after))).await?;
        }
    }
    let newer = world.message("k");
    ids.push(newer.id.clone());
    world.publish(vec![newer]).await?;
    member.quiet(after / 2).await?;
    let came: Vec<_> = member.work_again(4).await?.into_iter().map(|m| m.id).collect();
    ensure!(came == ids, "they came as {came:?}, and were {ids:?}");
    world.verify(world.rules())
}

async fn a_parked_message_outlives_its_member(world: World) -> Checked {
    let mut first = world.publish_and_join(vec![world.message("k")], "g").await?;
    let delivery = first.take(1).await?.remove(0);
    first.settle_done(delivery, park(Some(world.scale().quiet))).await?;
    first.vanish();
    let mut second = world.join("g").await?;
    let again = second.take_within_of(1, world.scale().quiet).await?;
    let note = again[0].parked.as_deref();
    ensure!(
        note.is_some_and(|n| n.attempts == 3 && n.error == "the database is away"),
        "it came out of the park with {note:?}"
    );
    second.handle(again).await?;
    world.verify(world.rules())
}

async fn what_was_left_unfinished_comes_before_the_younger_that_were_parked(world: World) -> Checked {
    let messages: Vec<_> = (0..4).map(|_| world.message("k")).collect();
    let ids: Vec<_> = messages.iter().map(|m| m.id.clone()).collect();
    let mut first = world.publish_and_join(messages, "g").await?;
    let mut batch = first.take(4).await?;
    // The first is in hand and slow, the second waits behind it; to make room, what follows was parked.
    for younger in batch.drain(2..).collect::<Vec<_>>() {
        first.settle_done(younger, park(None)).await?;
    }
    first.vanish();
    let mut second = world.join("g").await?;
    let came: Vec<_> = second.work_again(4).await?.into_iter().map(|m| m.id).collect();
    ensure!(came == ids, "they came as {came:?}, and were {ids:?}");
    world.verify(world.rules())
}

async fn deliveries_are_counted_anew_from_each_park(world: World) -> Checked {
    let mut member = world.publish_and_join(vec![world.message("k")], "g").await?;
    let mut delivery = member.take(1).await?.remove(0);
    for _ in 0..3 {
        member.settle_done(delivery, park(Some(world.scale().quiet))).await?;
        delivery = member.take_within_of(1, world.scale().quiet).await?.remove(0);
        // A driver that does not count says 0.
        ensure!(delivery.deliveries <= 1, "it came out of the park as delivery {}", delivery.deliveries);
    }
    member.handle(vec![delivery]).await?;
    world.verify(world.rules())
}

async fn a_dead_letter_is_stored_and_its_source_acknowledged(world: World) -> Checked {
    let mut member = world.publish_and_join(vec![world.message("k")], "g").await?;
    let delivery = member.take(1).await?.remove(0);
    let letter = (*delivery.message).clone().with_header(names::DL_ERROR, "why");
    let record = crate::ledger::Record::DeadLettered {
        id: letter.id.clone(),
        group: member.group.clone(),
        digest: crate::ledger::digest(&letter),
    };
    member.settle_done(delivery, Verdict::Dead(Box::new(letter.clone()))).await?;
    world.ledger().write(record);
    let Some(admin) = &world.connection().admin else {
        return Err(Failure::from("it buries messages, and has no Admin to find them".to_owned()));
    };
    let stored = admin.dead_letters(world.topic(), None, 10).await?;
    ensure!(
        stored.len() == 1 && stored[0].message == letter,
        "the store holds {stored:?}, and {letter:?} was to be in it"
    );
    ensure!(admin.remove_dead_letter(world.topic(), stored[0].id).await?, "it could not be removed");
    ensure!(admin.dead_letters(world.topic(), None, 10).await?.is_empty(), "it is still there");
    member.quiet(world.scale().quiet).await?;
    world.verify(world.rules())
}

async fn emitted_messages_commit_with_the_verdict(world: World) -> Checked {
    let out = world.another_topic("out").await?;
    let mut listener = world.open(millstream_core::OpenRequest::new(out.clone()).group("g")).await?;
    let mut member = world.publish_and_join(vec![world.message("k")], "g").await?;
    let delivery = member.take(1).await?.remove(0);
    let stale = Member::token_again(&delivery);
    let mut emitted = world.message("k");
    emitted.topic = out;
    world.ledger().write(crate::ledger::Record::intent(&emitted, 0));
    let id = delivery.message.id.clone();
    let effect = crate::ledger::Record::Effect { id: id.clone(), group: member.group.clone() };
    world.ledger().write(effect);
    for (token, done) in [(delivery.token, true), (stale, false)] {
        let mut settlement = Settlement::ack(token);
        settlement.along_mut().emit = vec![emitted.clone()];
        let outcome = member.settle_all(vec![(id.clone(), Ending::Ack)], vec![settlement]).await?;
        ensure!(outcome[0].is_done() == done, "an acknowledgement with messages ended with {:?}", outcome[0]);
    }
    world.ledger().write(crate::ledger::Record::Acked { id: emitted.id.clone() });
    listener.work(1).await?;
    // The second settlement was refused: what it wanted to emit must not be there.
    listener.quiet(world.scale().quiet).await?;
    world.verify(world.rules())
}

async fn a_batch_ends_as_one_or_not_at_all(world: World) -> Checked {
    let messages = (0..6).map(|n| world.message(&format!("key {n}"))).collect();
    let mut member = world.publish_and_join(messages, "g").await?;
    let mut held = member.take(6).await?;
    let alone = held.remove(0);
    let gone = Member::token_again(&alone);
    member.handle(vec![alone]).await?;
    // One of them is not ours any more: nothing of it happens.
    let first = ack_together(&held[0], vec![gone]);
    let outcome = member.settler.settle(vec![first]).await;
    ensure!(
        matches!(outcome[..], [Settled::Lost]),
        "with a stale token in it, a batch ended with {outcome:?}"
    );
    // All of them are: all are done, and none comes again.
    for delivery in &held {
        let (id, group) = (delivery.message.id.clone(), member.group.clone());
        world.ledger().write(crate::ledger::Record::Effect { id, group });
    }
    let settlement = ack_together(&held[0], held[1..].iter().map(Member::token_again).collect());
    let about = vec![(held[0].message.id.clone(), Ending::Ack)];
    let outcome = member.settle_all(about, vec![settlement]).await?;
    ensure!(outcome[0].is_done(), "a batch that is ours ended with {:?}", outcome[0]);
    for delivery in &held[1..] {
        let (id, group) = (delivery.message.id.clone(), member.group.clone());
        world.ledger().write(crate::ledger::Record::settled(id, group, Ending::Ack, &Settled::Done));
    }
    drop(held);
    member.close().await?;
    let mut again = world.join("g").await?;
    again.quiet(world.scale().quiet).await?;
    world.verify(world.rules())
}

fn ack_together(delivery: &millstream_core::Delivery, others: Vec<millstream_core::Token>) -> Settlement {
    let mut settlement = Settlement::ack(Member::token_again(delivery));
    settlement.along_mut().others = others;
    settlement
}
