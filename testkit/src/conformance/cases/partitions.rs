//! Assignments, revocations, positions, marks.

use std::collections::HashMap;

use millstream_core::{
    Assignment, Capabilities, OpenRequest, PartitionId, ReadLimits, SettleMode, Settled, Verdict,
    WriterCapabilities,
};
use tokio::time::{Instant, timeout, timeout_at};

use super::{case, need, partitioned};
use crate::conformance::member::{Event, Member, PLENTY};
use crate::conformance::{Case, Checked, Failure, Need, World, ensure};
use crate::ledger::Record;

pub(super) fn cases() -> Vec<Case> {
    vec![
        case!(
            "partitions",
            an_assignment_comes_before_its_messages,
            partitioned,
            "assignment events come before what is read under them (Read::Assigned)"
        ),
        case!(
            "partitions",
            positions_grow_in_a_partition,
            partitioned,
            "a position grows from message to message (Position)"
        ),
        case!(
            "partitions",
            committing_one_commits_all_before_it_and_none_behind,
            cumulative,
            "settling a token settles all of its partition before it (SettleMode::Cumulative; faults.md K2)"
        ),
        case!(
            "partitions",
            a_partition_is_handed_over_without_loss_or_duplicate,
            partitioned,
            "the driver waits for Revoking to be answered, while it is polled (Revoking; faults.md K1)"
        ),
        case!(
            "partitions",
            tokens_of_an_old_assignment_are_lost,
            partitioned,
            "what is settled under an old epoch is Lost (Epoch; faults.md K3)"
        ),
        case!(
            "partitions",
            a_paused_partition_yields_nothing_and_loses_nothing,
            partitioned,
            "pause stops yielding without losing what was fetched (Source::pause)"
        ),
        case!(
            "partitions",
            partitions_of_ones_own_choice_are_read_and_committed,
            partitioned,
            "with manual assignment the caller divides, and progress is the group's (Assignment::Manual)"
        ),
        case!(
            "partitions",
            a_mark_comes_back_with_the_assignment,
            marking,
            "a mark is stored durably and comes back (Settler::mark)"
        ),
    ]
}

fn cumulative(can: &Capabilities, _: &WriterCapabilities) -> Need {
    need(can.settle == SettleMode::Cumulative, "it settles one by one")
}

fn marking(can: &Capabilities, _: &WriterCapabilities) -> Need {
    need(can.marks, "it keeps no marks")
}

async fn an_assignment_comes_before_its_messages(world: World) -> Checked {
    let mut member = world.publish_and_join(world.messages(40), "g").await?;
    let mut ours = HashMap::new();
    let mut seen = 0;
    while seen < 40 {
        let read = timeout(world.scale().patience, member.next(ReadLimits::new(10, PLENTY))).await;
        match read.map_err(|_| Failure::from(format!("{seen} of 40 came, then nothing")))?? {
            Event::Assigned(assigned) => ours.extend(assigned.iter().map(|a| (a.partition, a.epoch))),
            Event::Deliveries(some) => {
                for delivery in &some {
                    let id = delivery.token.id();
                    let epoch = ours.get(&id.partition);
                    ensure!(
                        epoch == Some(&id.epoch),
                        "a message of partition {} came under epoch {}, assigned was {epoch:?}",
                        id.partition,
                        id.epoch.0
                    );
                }
                seen += some.len();
                member.handle(some).await?;
            }
            Event::Revoking(revoking) => revoking.done(),
            _ => {}
        }
    }
    world.verify(world.rules())
}

async fn positions_grow_in_a_partition(world: World) -> Checked {
    let count = world.scale().messages;
    let mut member = world.publish_and_join(world.messages(count), "g").await?;
    let mut last = HashMap::new();
    let all = member.take(count).await?;
    for delivery in &all {
        let partition = delivery.token.id().partition;
        let Some(position) = delivery.position else {
            return Err(Failure::from(format!("a message of partition {partition} has no position")));
        };
        let before = last.insert(partition, position);
        ensure!(
            before.is_none_or(|b| b < position),
            "position {position} came after {before:?} in partition {partition}"
        );
    }
    member.handle(all).await?;
    world.verify(world.rules())
}

async fn committing_one_commits_all_before_it_and_none_behind(world: World) -> Checked {
    // One key, so one partition.
    let messages: Vec<_> = (0..10).map(|_| world.message("k")).collect();
    let ids: Vec<_> = messages.iter().map(|m| m.id.clone()).collect();
    let mut first = world.publish_and_join(messages, "g").await?;
    let mut held = first.take(10).await?;
    for delivery in &held[..6] {
        let (id, group) = (delivery.message.id.clone(), first.group.clone());
        world.ledger().write(Record::Effect { id: id.clone(), group: group.clone() });
        world.ledger().write(Record::settled(id, group, crate::ledger::Ending::Ack, &Settled::Done));
    }
    let (partition, unfinished) = (held[6].token.id().partition, held[6].position);
    let sixth = held.swap_remove(5);
    first.settle_done(sixth, Verdict::Ack).await?;
    if let Some(admin) = &world.connection().admin {
        // Where the broker says its position, it must not be past the seventh.
        let group = admin.group(world.topic(), &first.group).await?;
        let committed = group.iter().flat_map(|g| &g.committed);
        for (_, at) in committed.filter(|(p, _)| *p == partition) {
            world.ledger().write(Record::Committed {
                group: first.group.clone(),
                topic: world.topic().clone(),
                partition: partition.0,
                committed: at.0,
                lowest_unfinished: unfinished.map_or(u64::MAX, |p| p.0),
            });
        }
    }
    drop(held);
    first.close_early().await?;
    let mut second = world.join("g").await?;
    let again = second.work_again(4).await?;
    let came: Vec<_> = again.into_iter().map(|m| m.id).collect();
    ensure!(came == ids[6..], "after the sixth was committed {came:?} came, and not {:?}", &ids[6..]);
    second.quiet(world.scale().quiet).await?;
    world.verify(world.rules())
}

/// Reads until a revocation comes, and keeps what comes before it.
async fn until_revoking(member: &mut Member) -> Checked<Option<millstream_core::Revoking>> {
    let until = Instant::now() + member.world.scale().patience;
    loop {
        match timeout_at(until, member.next(ReadLimits::NOTHING)).await {
            Ok(Ok(Event::Revoking(revoking))) => return Ok(Some(revoking)),
            Ok(Ok(_)) => {}
            Ok(Err(failure)) => return Err(failure),
            Err(_) => return Ok(None),
        }
    }
}

async fn a_partition_is_handed_over_without_loss_or_duplicate(world: World) -> Checked {
    let count = 60;
    let mut first = world.publish_and_join(world.messages(count), "g").await?;
    let mut held = first.take(count / 2).await?;
    // Another joins while half of the messages are being handled.
    let mut second = world.join("g").await?;
    let joining = async {
        loop {
            match second.next(ReadLimits::NOTHING).await? {
                Event::Assigned(news) => return Checked::Ok(news),
                Event::Revoking(revoking) => revoking.done(),
                _ => {}
            }
        }
    };
    let handing = async {
        let Some(revoking) = until_revoking(&mut first).await? else {
            return Err(Failure::from("a second member joined, and nothing was asked back".to_owned()));
        };
        // Handling takes its time, during which the source goes on being polled and the driver waits.
        let busy = Instant::now() + world.scale().quiet;
        while let Ok(event) = timeout_at(busy, first.next(ReadLimits::NOTHING)).await {
            if let Event::Revoking(more) = event? {
                more.done();
            }
        }
        // What is settled only now must still be ours.
        let gone: Vec<_> = revoking.partitions.iter().map(|(p, _)| *p).collect();
        let (ours, theirs): (Vec<_>, Vec<_>) =
            held.drain(..).partition(|d| !gone.contains(&d.token.id().partition));
        first.handle(theirs).await?;
        revoking.done();
        first.handle(ours).await?;
        // It goes on being polled, as the contract asks for.
        loop {
            if let Event::Revoking(more) = first.next(ReadLimits::NOTHING).await? {
                more.done();
            }
        }
    };
    let news = tokio::select! {
        news = timeout(world.scale().patience * 3, joining) => {
            news.map_err(|_| Failure::from("the second member was assigned nothing".to_owned()))??
        }
        failed = handing => { let () = failed?; Vec::new() }
    };
    ensure!(!news.is_empty(), "the second member was assigned nothing");
    crate::conformance::member::share(vec![first, second], count - count / 2).await?;
    world.verify(world.rules())
}

async fn tokens_of_an_old_assignment_are_lost(world: World) -> Checked {
    let count = 40;
    let mut first = world.publish_and_join(world.messages(count), "g").await?;
    let held = first.take(count).await?;
    let second = world.join("g").await?;
    let Some(revoking) = until_revoking(&mut first).await? else {
        return Err(Failure::from("a second member joined, and nothing was asked back".to_owned()));
    };
    let gone: Vec<_> = revoking.partitions.iter().map(|(p, _)| *p).collect();
    // It is let go unsettled; the driver does so while it is polled.
    world.ledger().write(Record::fault("partitions were let go unsettled"));
    revoking.done();
    let until = Instant::now() + world.scale().quiet;
    while let Ok(event) = timeout_at(until, first.next(ReadLimits::NOTHING)).await {
        if let Event::Revoking(more) = event? {
            more.done();
        }
    }
    let (stale, ours): (Vec<_>, Vec<_>) =
        held.into_iter().partition(|d| gone.contains(&d.token.id().partition));
    ensure!(!stale.is_empty(), "no message lay in the partitions {gone:?} that were asked back");
    let left = stale.len();
    let outcomes = first.settle(stale.into_iter().map(|d| (d, Verdict::Ack)).collect()).await?;
    let lost = outcomes.iter().all(|o| matches!(o, Settled::Lost));
    ensure!(lost, "tokens of partitions that were let go settled as {outcomes:?}");
    first.handle(ours).await?;
    crate::conformance::member::share(vec![first, second], left).await?;
    world.verify(world.rules())
}

async fn a_paused_partition_yields_nothing_and_loses_nothing(world: World) -> Checked {
    let mut member = world.join("g").await?;
    world.publish(world.messages(20)).await?;
    let first = member.take(1).await?;
    let paused = first[0].token.id().partition;
    member.handle(first).await?;
    member.source.pause(&[paused]);
    world.publish(world.messages(40)).await?;
    let mut seen = 1;
    let until = Instant::now() + world.scale().quiet * 2;
    while let Ok(event) = timeout_at(until, member.next(ReadLimits::new(50, PLENTY))).await {
        match event? {
            Event::Deliveries(some) => {
                let wrong = some.iter().any(|d| d.token.id().partition == paused);
                ensure!(!wrong, "a message of partition {paused} came, which is paused");
                seen += some.len();
                member.handle(some).await?;
            }
            Event::Revoking(revoking) => revoking.done(),
            _ => {}
        }
    }
    ensure!(seen > 1 && seen < 60, "{seen} of 60 messages came while one partition was paused");
    member.source.resume(&[paused]);
    member.work(60 - seen).await?;
    world.verify(world.rules())
}

async fn partitions_of_ones_own_choice_are_read_and_committed(world: World) -> Checked {
    let count = 40;
    // Learn how the messages lie, without leaving a trace.
    world.publish(world.messages(count)).await?;
    let mut seen: HashMap<PartitionId, usize> = HashMap::new();
    let mut scout = world.join("scout").await?;
    for delivery in &scout.take(count).await? {
        *seen.entry(delivery.token.id().partition).or_default() += 1;
    }
    scout.vanish();
    let mut partitions: Vec<PartitionId> = seen.keys().copied().collect();
    partitions.sort_unstable();
    let mine = partitions[0];
    let mut request = OpenRequest::new(world.topic().clone()).group("g");
    request.assignment = Assignment::Manual(vec![mine]);
    let mut member = world.open(request.clone()).await?;
    let got = member.take(seen[&mine]).await?;
    ensure!(
        got.iter().all(|d| d.token.id().partition == mine),
        "a message came of a partition that was not asked for"
    );
    member.handle(got).await?;
    member.quiet(world.scale().quiet).await?;
    if let Some(next) = partitions.get(1) {
        member.source.assign(vec![*next]);
        let more = member.take(seen[next]).await?;
        ensure!(more.iter().all(|d| d.token.id().partition == *next), "assign was not followed");
        member.handle(more).await?;
    }
    member.close().await?;
    // Its commits are the group's.
    let mut again = world.open(request).await?;
    again.quiet(world.scale().quiet).await
}

async fn a_mark_comes_back_with_the_assignment(world: World) -> Checked {
    let mut first = world.publish_and_join(vec![world.message("k")], "g").await?;
    let delivery = first.take(1).await?.remove(0);
    let (partition, epoch) = (delivery.token.id().partition, delivery.token.id().epoch);
    let note = format!("note {} ü", "x".repeat(1000));
    first.settler.mark(partition, epoch, note.clone()).await?;
    first.handle(vec![delivery]).await?;
    first.close().await?;
    for (expected, next) in [(Some(note), Some(String::new())), (None, None)] {
        let mut member = world.join("g").await?;
        let assigned = loop {
            let read = timeout(world.scale().patience, member.next(ReadLimits::NOTHING)).await;
            match read.map_err(|_| Failure::from("nothing was assigned".to_owned()))?? {
                Event::Assigned(news) => {
                    if let Some(ours) = news.into_iter().find(|a| a.partition == partition) {
                        break ours;
                    }
                }
                Event::Revoking(revoking) => revoking.done(),
                _ => {}
            }
        };
        ensure!(assigned.mark == expected, "the mark {expected:?} came back as {:?}", assigned.mark);
        if let Some(next) = next {
            member.settler.mark(partition, assigned.epoch, next).await?;
        }
        member.close().await?;
    }
    world.verify(world.rules())
}
