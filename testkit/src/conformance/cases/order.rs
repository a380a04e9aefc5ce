//! Order per key, per partition and in total, also of what comes back.

use millstream_core::{
    Capabilities, Exclusivity, OpenRequest, Order, SettleMode, Verdict, WriterCapabilities,
};

use super::{case, need};
use crate::conformance::member::share;
use crate::conformance::{Case, Checked, Need, World, ensure};
use crate::invariants::Promised;

pub(super) fn cases() -> Vec<Case> {
    vec![
        case!(
            "order",
            a_keys_messages_come_in_order_to_many_members,
            keyed,
            "messages of one key come in their order (Order; conformance.md 9, gap 4)"
        ),
        case!(
            "order",
            an_exclusive_member_gets_total_order,
            total,
            "all messages come in their order to an exclusive reader (Order::Total)"
        ),
        case!(
            "order",
            a_key_is_with_one_member_at_a_time,
            keyed_individual,
            "one group member at a time has a key (Order::Key; conformance.md 5)"
        ),
        case!(
            "order",
            an_unsettled_key_holds_up_no_other,
            keyed_individual,
            "a slow key delays no other (conformance.md, gap 12)"
        ),
        case!(
            "order",
            what_comes_back_comes_before_its_successors,
            keyed,
            "a message that comes back comes before the later ones of its key (reader, rule 4)"
        ),
        case!(
            "order",
            a_retried_message_keeps_its_place,
            retrying,
            "a message that waits to come again holds back its key (reader, rule 4)"
        ),
    ]
}

fn keyed(can: &Capabilities, _: &WriterCapabilities) -> Need {
    need(can.order != Order::None, "it promises no order")
}

fn total(can: &Capabilities, _: &WriterCapabilities) -> Need {
    need(can.order == Order::Total, "it promises no total order")
}

fn keyed_individual(can: &Capabilities, _: &WriterCapabilities) -> Need {
    need(
        can.order != Order::None && can.settle == SettleMode::Individual,
        "it does not share a key's messages out one by one",
    )
}

fn retrying(can: &Capabilities, _: &WriterCapabilities) -> Need {
    need(can.order != Order::None && can.retry_after.is_some(), "it promises no order, or cannot wait")
}

async fn a_keys_messages_come_in_order_to_many_members(world: World) -> Checked {
    let count = world.scale().messages * 5;
    let mut members = Vec::new();
    for _ in 0..5 {
        members.push(world.join("g").await?);
    }
    let publishing = async {
        // Few keys: a batch holds several messages of each.
        let messages: Vec<_> = (0..count).map(|n| world.message(&format!("key {}", n % 5))).collect();
        for batch in messages.chunks(40) {
            world.publish(batch.to_vec()).await?;
        }
        Checked::Ok(())
    };
    tokio::try_join!(share(members, count), publishing)?;
    world.verify(world.rules())
}

async fn an_exclusive_member_gets_total_order(world: World) -> Checked {
    let mut request = OpenRequest::new(world.topic().clone()).group("g");
    request.exclusivity = Exclusivity::Exclusive;
    let mut member = world.open(request).await?;
    let count = world.scale().messages;
    world.publish(world.messages(count)).await?;
    member.work(count).await?;
    world.verify(world.rules().order(Promised::Total))
}

async fn a_key_is_with_one_member_at_a_time(world: World) -> Checked {
    let mut first = world.join("g").await?;
    world.publish(vec![world.message("k")]).await?;
    let held = first.take(1).await?;
    let mut second = world.join("g").await?;
    world.publish(vec![world.message("k"), world.message("k")]).await?;
    second.quiet(world.scale().quiet).await?;
    first.handle(held).await?;
    share(vec![first, second], 2).await?;
    world.verify(world.rules())
}

async fn an_unsettled_key_holds_up_no_other(world: World) -> Checked {
    let mut member = world.join("g").await?;
    world.publish(vec![world.message("slow")]).await?;
    let held = member.take(1).await?;
    let others = (0..40).map(|n| world.message(&format!("quick {}", n % 8))).collect();
    world.publish(others).await?;
    member.work(40).await?;
    member.handle(held).await?;
    world.verify(world.rules())
}

async fn what_comes_back_comes_before_its_successors(world: World) -> Checked {
    let messages: Vec<_> = (0..6).map(|_| world.message("k")).collect();
    let ids: Vec<_> = messages.iter().map(|m| m.id.clone()).collect();
    let mut first = world.publish_and_join(messages, "g").await?;
    let held = first.take_up_to(3).await?;
    drop(held);
    first.close_early().await?;
    let mut second = world.join("g").await?;
    let again = second.take_again(1).await?;
    ensure!(again[0].message.id == ids[0], "{:?} came first, before {:?}", again[0].message.id, ids[0]);
    second.handle(again).await?;
    let rest = second.work_again(5).await?;
    let rest: Vec<_> = rest.into_iter().map(|m| m.id).collect();
    ensure!(rest == ids[1..], "the rest came as {rest:?}, and were {:?}", &ids[1..]);
    world.verify(world.rules())
}

async fn a_retried_message_keeps_its_place(world: World) -> Checked {
    let messages: Vec<_> = (0..3).map(|_| world.message("k")).collect();
    let ids: Vec<_> = messages.iter().map(|m| m.id.clone()).collect();
    let mut member = world.publish_and_join(messages, "g").await?;
    let first = member.take(1).await?.remove(0);
    let after = world.scale().quiet * 2;
    member.settle_done(first, Verdict::Retry { after }).await?;
    member.quiet(world.scale().quiet).await?;
    let rest: Vec<_> = member.work_again(3).await?.into_iter().map(|m| m.id).collect();
    ensure!(rest == ids, "they came as {rest:?}, and were {ids:?}");
    world.verify(world.rules())
}
