//! All comes, byte for byte, once.

use std::collections::HashMap;
use std::time::{Duration, UNIX_EPOCH};

use millstream_core::{Bytes, Message, OpenRequest, ReadLimits};
use tokio::task::JoinSet;

use super::{always, case};
use crate::conformance::corpus::hostile;
use crate::conformance::member::{Event, PLENTY, share};
use crate::conformance::{Case, Checked, Failure, World, ensure};

pub(super) fn cases() -> Vec<Case> {
    vec![
        case!("delivery", one_batch_arrives_whole, always, "a message written is delivered (reader, rule 1)"),
        case!(
            "delivery",
            hostile_bytes_survive,
            always,
            "bytes, absent and empty survive every driver (Message; faults.md H11, K12)"
        ),
        case!(
            "delivery",
            many_writers_and_members_share_all_messages,
            always,
            "members of a group share its messages (Capabilities::groups; conformance.md 2)"
        ),
        case!(
            "delivery",
            topics_are_apart,
            always,
            "a subscription gets its own topic (conformance.md 3, 11)"
        ),
        case!(
            "delivery",
            a_message_without_id_or_type_is_delivered,
            always,
            "nothing foreign stops a subscription (reader, rule 6)"
        ),
        case!(
            "delivery",
            an_idle_member_gets_a_message_soon,
            always,
            "a read waits for deliveries (Source::read; conformance.md, gap 15)"
        ),
        case!(
            "delivery",
            a_read_keeps_to_its_limits,
            always,
            "no more is delivered than was asked for (reader, rule 5; faults.md H12)"
        ),
        case!(
            "delivery",
            nothing_is_delivered_while_draining,
            always,
            "limits of nothing bring no message (Source::read)"
        ),
        case!(
            "delivery",
            no_message_comes_twice_without_a_fault,
            always,
            "an acknowledged message ends for the group (reader, rule 1; faults.md I4)"
        ),
    ]
}

async fn one_batch_arrives_whole(world: World) -> Checked {
    let messages = world.messages(world.scale().messages);
    let count = messages.len();
    let mut member = world.publish_and_join(messages, "g").await?;
    member.work(count).await?;
    member.quiet(world.scale().quiet).await?;
    world.verify(world.rules())?;
    member.close().await
}

async fn hostile_bytes_survive(world: World) -> Checked {
    let corpus = hostile(&world);
    let sent: HashMap<_, _> = corpus.iter().map(|(what, m)| (m.id.clone(), (*what, m.clone()))).collect();
    let batch: Vec<Message> = corpus.into_iter().map(|(_, m)| m).collect();
    // In two calls: an odd one must not hide behind its neighbours, nor be spared by having none.
    let (alone, together) = (batch.clone().into_iter().step_by(7), batch.into_iter().enumerate());
    let together = together.filter(|(n, _)| n % 7 != 0).map(|(_, m)| m).collect();
    let mut member = world.publish_and_join(alone.collect(), "g").await?;
    world.publish(together).await?;
    for arrived in member.work(sent.len()).await? {
        let Some((what, message)) = sent.get(&arrived.id) else {
            return Err(format!("the id {:?} came, which was not sent", arrived.id).into());
        };
        let differs = differences(message, &arrived);
        ensure!(differs.is_empty(), "{what} did not survive: {}", differs.join(", "));
    }
    world.verify(world.rules())
}

/// The parts in which two messages differ; lengths, not bytes, of what is long.
fn differences(sent: &Message, arrived: &Message) -> Vec<String> {
    let shown = |bytes: Option<&Bytes>| match bytes {
        Some(b) if b.len() > 64 => format!("{} bytes", b.len()),
        other => format!("{other:?}"),
    };
    let millis = |m: &Message| m.time.duration_since(UNIX_EPOCH).map_or(0, |t| t.as_millis());
    let mut differs = Vec::new();
    for (name, a, b) in [("payload", &sent.data, &arrived.data), ("key", &sent.key, &arrived.key)] {
        if a != b {
            differs.push(format!("the {name} {} came as {}", shown(a.as_ref()), shown(b.as_ref())));
        }
    }
    if sent.headers != arrived.headers {
        differs.push(format!("the headers {:?} came as {:?}", sent.headers, arrived.headers));
    }
    if sent.content_type != arrived.content_type {
        differs.push(format!("the type {:?} came as {:?}", sent.content_type, arrived.content_type));
    }
    if sent.topic != arrived.topic {
        differs.push(format!("the topic {:?} came as {:?}", sent.topic, arrived.topic));
    }
    // Wire formats keep milliseconds. The epoch says that no time was given; a broker may then give its own.
    if sent.time != UNIX_EPOCH && millis(sent) != millis(arrived) {
        differs.push(format!("the time {:?} came as {:?}", sent.time, arrived.time));
    }
    differs
}

async fn many_writers_and_members_share_all_messages(world: World) -> Checked {
    let (writers, members) = (10, 5);
    let each = world.scale().messages;
    let mut joined = Vec::new();
    for _ in 0..members {
        joined.push(world.join("g").await?);
    }
    let mut writing = JoinSet::new();
    for writer in 0..writers {
        let world = world.clone();
        writing.spawn(async move {
            let connection = world.harness().connect().await?;
            // Keys of its own, so that its order can be checked.
            let messages: Vec<_> =
                (0..each).map(|n| world.message(&format!("writer {writer}, key {}", n % 3))).collect();
            for batch in messages.chunks(10) {
                world.publish_by(&connection, batch.to_vec()).await?;
            }
            Ok::<_, Failure>(())
        });
    }
    let sharing = share(joined, writers * each);
    let written = async {
        while let Some(ended) = writing.join_next().await {
            ended.map_err(|e| Failure::from(format!("a writer panicked: {e}")))??;
        }
        Ok::<_, Failure>(())
    };
    let (shared, ()) = tokio::try_join!(sharing, written)?;
    for mut member in shared {
        member.quiet(world.scale().quiet / 4).await?;
        member.close().await?;
    }
    world.verify(world.rules())
}

async fn topics_are_apart(world: World) -> Checked {
    let mut members = Vec::new();
    for n in 0..8 {
        let topic = world.another_topic(&format!("apart{n}")).await?;
        let member = world.open(OpenRequest::new(topic.clone()).group("g")).await?;
        members.push((topic, member));
    }
    // One call carries messages of all topics, as the contract of a writer allows.
    let mut batch = Vec::new();
    for round in 0..5 {
        for (topic, _) in &members {
            let mut message = world.message(&format!("round {round}"));
            message.topic = topic.clone();
            batch.push(message);
        }
    }
    world.publish(batch).await?;
    for (topic, member) in &mut members {
        for message in member.work(5).await? {
            ensure!(message.topic == *topic, "a message of {:?} came on {topic:?}", message.topic);
        }
        member.quiet(world.scale().quiet / 4).await?;
    }
    world.verify(world.rules())
}

async fn a_message_without_id_or_type_is_delivered(world: World) -> Checked {
    let foreign = Message { id: "".into(), ..Message::new(world.topic().clone(), vec![0xff, 0x00]) };
    let mut member = world.publish_and_join(vec![foreign], "g").await?;
    let delivery = member.take(1).await?.remove(0);
    ensure!(
        delivery.message.data.as_deref() == Some(&[0xff, 0x00][..]),
        "the payload of a message without an id came as {:?}",
        delivery.message.data
    );
    member.settle_done(delivery, millstream_core::Verdict::Ack).await?;
    let after = world.message("k");
    world.publish(vec![after.clone()]).await?;
    let next = member.take(1).await?;
    ensure!(next[0].message.id == after.id, "what came next was {:?}", next[0].message.id);
    Ok(())
}

async fn an_idle_member_gets_a_message_soon(world: World) -> Checked {
    let mut member = world.join("g").await?;
    // It is published while a read waits.
    let publishing = async {
        tokio::time::sleep(world.scale().quiet).await;
        world.publish(vec![world.message("k")]).await?;
        Checked::Ok(tokio::time::Instant::now())
    };
    let (got, written) = tokio::try_join!(member.take(1), publishing)?;
    let (took, soon) = (written.elapsed(), world.scale().patience / 5);
    ensure!(took <= soon, "it took {took:?}, and may take {soon:?}");
    member.handle(got).await?;
    world.verify(world.rules())
}

async fn a_read_keeps_to_its_limits(world: World) -> Checked {
    let messages: Vec<Message> = (0..30)
        .map(|n| Message { data: Some(vec![b'x'; 1000].into()), ..world.message(&format!("key {n}")) })
        .collect();
    let mut member = world.publish_and_join(messages, "g").await?;
    // Every read checks its limits: three messages, then about two by their bytes, then one that is larger.
    let mut seen = 0;
    let turns = [ReadLimits::new(3, PLENTY), ReadLimits::new(100, 2500), ReadLimits::new(100, 10)];
    for limits in turns.into_iter().cycle() {
        if seen == 30 {
            break;
        }
        let read = tokio::time::timeout(world.scale().patience, member.next(limits)).await;
        match read.map_err(|_| Failure::from(format!("{seen} of 30 came, then nothing for {limits:?}")))?? {
            Event::Deliveries(some) => {
                seen += some.len();
                member.handle(some).await?;
            }
            Event::Revoking(revoking) => revoking.done(),
            _ => {}
        }
    }
    world.verify(world.rules())
}

async fn nothing_is_delivered_while_draining(world: World) -> Checked {
    let mut member = world.publish_and_join(world.messages(10), "g").await?;
    let first = member.take(1).await?;
    let until = tokio::time::Instant::now() + world.scale().quiet;
    // `next` refuses deliveries beyond the limits, and here any is.
    while let Ok(event) = tokio::time::timeout_at(until, member.next(ReadLimits::NOTHING)).await {
        if let Event::Revoking(revoking) = event? {
            revoking.done();
        }
        // A driver may come back at once, with nothing.
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    member.handle(first).await?;
    member.work(9).await?;
    world.verify(world.rules())
}

async fn no_message_comes_twice_without_a_fault(world: World) -> Checked {
    let messages: Vec<_> = (0..20).map(|n| world.message(&format!("key {n}"))).collect();
    let mut member = world.publish_and_join(messages, "g").await?;
    let held = member.take(20).await?;
    // Held for a while: nothing but the end of a lease brings them back.
    let lease = world.can().lease.unwrap_or(Duration::MAX);
    member.quiet((lease / 4).min(world.scale().quiet)).await?;
    member.handle(held).await?;
    let count = world.scale().messages;
    world.publish(world.messages(count)).await?;
    member.work(count).await?;
    member.quiet(world.scale().quiet).await?;
    world.verify(world.rules())
}
