//! Opening, closing, vanishing, restarting.

use std::time::Duration;

use millstream_core::{ErrorKind, Exclusivity, OpenRequest};
use tokio::task::JoinSet;

use super::{always, case, groups};
use crate::conformance::member::share;
use crate::conformance::{Case, Checked, Failure, World, ensure};

pub(super) fn cases() -> Vec<Case> {
    vec![
        case!(
            "lifecycle",
            a_member_that_vanishes_mid_batch_loses_nothing,
            groups_or_queue,
            "what is not settled is delivered again (reader, rule 1; conformance.md, gap 1)"
        ),
        case!(
            "lifecycle",
            what_was_acknowledged_stays_acknowledged,
            groups_or_queue,
            "Ack ends a message for the group (reader, rule 1; conformance.md, gap 11)"
        ),
        case!(
            "lifecycle",
            members_that_come_and_go_lose_nothing,
            groups_or_queue,
            "what is not settled is delivered again, and what is settled is not (conformance.md 6)"
        ),
        case!(
            "lifecycle",
            many_that_open_and_close_at_once_lose_nothing,
            groups_or_queue,
            "leaving a group loses nothing (Source::close; conformance.md 7)"
        ),
        case!(
            "lifecycle",
            closing_gives_back_what_was_fetched_and_not_yielded,
            groups_or_queue,
            "close gives back what was fetched and not yielded (Source::close)"
        ),
        case!(
            "lifecycle",
            closing_is_quick_whatever_is_unread_or_unsettled,
            always,
            "close comes back (Source::close, Settler::close; conformance.md, gap 2)"
        ),
        case!(
            "lifecycle",
            an_unknown_argument_is_refused,
            always,
            "a driver refuses arguments it does not know (Reader::open)"
        ),
        case!(
            "lifecycle",
            an_exclusive_member_has_company_only_after_it_left,
            exclusive,
            "one exclusive member gets all, the others stand by (Exclusivity)"
        ),
        case!(
            "lifecycle",
            a_restart_of_the_server_loses_nothing,
            always,
            "what was confirmed outlives the server as its durability says (conformance.md 15)"
        ),
    ]
}

fn groups_or_queue(
    can: &millstream_core::Capabilities,
    _: &millstream_core::WriterCapabilities,
) -> super::Need {
    super::need(can.groups || can.starts.earliest, "nothing is kept while nobody reads")
}

fn exclusive(
    can: &millstream_core::Capabilities,
    writer: &millstream_core::WriterCapabilities,
) -> super::Need {
    match can.order {
        millstream_core::Order::Total => groups(can, writer),
        _ => super::Need::NotApplicable("it promises no total order"),
    }
}

async fn a_member_that_vanishes_mid_batch_loses_nothing(world: World) -> Checked {
    let count = 30;
    let mut first = world.publish_and_join(world.messages(count), "g").await?;
    let mut held = first.take(10).await?;
    let rest = held.split_off(4);
    first.handle(held).await?;
    drop(rest);
    first.vanish();
    let mut second = world.join("g").await?;
    second.work_again(count - 4).await?;
    second.quiet(world.scale().quiet).await?;
    world.verify(world.rules())
}

async fn what_was_acknowledged_stays_acknowledged(world: World) -> Checked {
    let mut first = world.publish_and_join(world.messages(20), "g").await?;
    first.work(20).await?;
    first.close().await?;
    let mut second = world.join("g").await?;
    // Past a lease, too: an acknowledgement that was not kept shows only then.
    second.quiet(world.scale().quiet + world.can().lease.unwrap_or_default()).await?;
    second.vanish();
    let mut third = world.join("g").await?;
    world.publish(world.messages(5)).await?;
    third.work(5).await?;
    third.quiet(world.scale().quiet).await?;
    world.verify(world.rules())
}

async fn members_that_come_and_go_lose_nothing(world: World) -> Checked {
    let count = world.scale().messages;
    let mut member = world.publish_and_join(world.messages(count), "g").await?;
    let mut handled = 0;
    for round in 0..8 {
        handled += member.work_again(3).await?.len();
        if round % 2 == 0 {
            // Some are left behind unsettled.
            drop(member.take_again(1).await?);
            member.close_early().await?;
        } else {
            // A clean end, after which nothing may come twice.
            member.close().await?;
        }
        member = world.join("g").await?;
    }
    member.work_again(count - handled).await?;
    member.quiet(world.scale().quiet).await?;
    world.verify(world.rules())
}

async fn many_that_open_and_close_at_once_lose_nothing(world: World) -> Checked {
    world.join("g").await?.close().await?;
    let mut tasks = JoinSet::new();
    for _ in 0..10 {
        let world = world.clone();
        tasks.spawn(async move { world.join("g").await?.close().await });
    }
    while let Some(ended) = tasks.join_next().await {
        ended.map_err(|e| Failure::from(format!("opening or closing panicked: {e}")))??;
    }
    let messages = world.messages(50);
    world.publish(messages).await?;
    let members = vec![world.join("g").await?];
    share(members, 50).await?;
    world.verify(world.rules())
}

async fn closing_gives_back_what_was_fetched_and_not_yielded(world: World) -> Checked {
    let count = 40;
    let mut first = world.publish_and_join(world.messages(count), "g").await?;
    first.work(1).await?;
    // Whatever it has fetched ahead must not wait for a lease to end.
    first.close().await?;
    let mut second = world.join("g").await?;
    second.work(count - 1).await?;
    second.quiet(world.scale().quiet).await?;
    world.verify(world.rules())
}

async fn closing_is_quick_whatever_is_unread_or_unsettled(world: World) -> Checked {
    let mut reads = world.publish_and_join(world.messages(50), "g").await?;
    drop(reads.take(5).await?);
    let idle = world.join("g").await?;
    for (what, member) in [("with messages unsettled", reads), ("without a read", idle)] {
        let started = tokio::time::Instant::now();
        member.close().await?;
        let limit = world.scale().patience;
        ensure!(started.elapsed() <= limit, "closing {what} took {:?}", started.elapsed());
    }
    Ok(())
}

async fn an_unknown_argument_is_refused(world: World) -> Checked {
    let mut request = OpenRequest::new(world.topic().clone()).group("g");
    request.args.set("no-such-argument", "1");
    let opening = world.connection().reader.open(request).await;
    let Err(error) = opening else {
        return Err("the argument \"no-such-argument\" was taken without an error".to_owned().into());
    };
    ensure!(error.kind() == ErrorKind::InvalidConfig, "it was refused as {error:?}, not as invalid-config");
    Ok(())
}

async fn an_exclusive_member_has_company_only_after_it_left(world: World) -> Checked {
    let mut request = OpenRequest::new(world.topic().clone()).group("g");
    request.exclusivity = Exclusivity::Exclusive;
    let mut first = world.open(request.clone()).await?;
    world.publish(world.messages(4)).await?;
    let some = first.take(2).await?;
    let mut second = world.open(request).await?;
    second.quiet(world.scale().quiet).await?;
    first.handle(some).await?;
    first.close().await?;
    second.work(2).await?;
    world.verify(world.rules().order(crate::invariants::Promised::Total))
}

async fn a_restart_of_the_server_loses_nothing(world: World) -> Checked {
    let Some(restarting) = world.harness().restart() else {
        return Err(Failure::not_applicable("the harness cannot restart the server"));
    };
    let count = 50;
    let mut first = world.publish_and_join(world.messages(count), "g").await?;
    let mut held = first.take(10).await?;
    let rest = held.split_off(5);
    first.handle(held).await?;
    restarting.await?;
    world.ledger().write(crate::ledger::Record::fault("the server was restarted"));
    drop(rest);
    drop(first);
    tokio::time::sleep(Duration::from_millis(10)).await;
    let mut second = world.join("g").await?;
    second.work_again(count - 5).await?;
    world.verify(world.rules())
}
