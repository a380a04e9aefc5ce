//! Reports, limits, delays, closing.

use std::time::{Duration, SystemTime};

use millstream_core::{Capabilities, ErrorKind, Message, OpenRequest, WriteOutcome, WriterCapabilities};

use super::{always, case, need};
use crate::conformance::{Case, Checked, Failure, Need, World, ensure};

pub(super) fn cases() -> Vec<Case> {
    vec![
        case!(
            "writing",
            a_report_speaks_of_each_message,
            limited,
            "one too large a message is one failure, its neighbours are written (writer; faults.md S5)"
        ),
        case!(
            "writing",
            a_message_without_a_topic_fails_alone,
            always,
            "an outcome for each message, in order (WriteReport)"
        ),
        case!(
            "writing",
            a_delayed_message_is_not_early_and_not_lost,
            delaying,
            "not before deliver_at is it delivered (Message::deliver_at)"
        ),
        case!(
            "writing",
            closing_waits_for_what_was_handed_over,
            always,
            "close waits until everything is confirmed (writer, rule 5; conformance.md 10, gap 17)"
        ),
        case!(
            "writing",
            a_closed_writer_refuses_and_closes_again,
            always,
            "a write after close is BusIsShutdown; closing twice is fine (Writer::close; conformance.md, gaps 7, 8)"
        ),
        case!(
            "writing",
            a_dropped_write_harms_no_later_one,
            always,
            "a dropped write never corrupts the writer for those after (writer, rule 4; faults.md H3)"
        ),
        case!(
            "writing",
            a_topic_exists_once_it_was_ensured,
            always,
            "ensure_topic says whether the topic was made now (Admin)"
        ),
    ]
}

fn limited(_: &Capabilities, can: &WriterCapabilities) -> Need {
    need(can.max_message.is_some_and(|m| m <= 64 << 20), "it takes messages of any size")
}

fn delaying(_: &Capabilities, can: &WriterCapabilities) -> Need {
    need(can.delay.is_some(), "it cannot delay")
}

async fn a_report_speaks_of_each_message(world: World) -> Checked {
    let limit = world.writer_can().max_message.unwrap_or_default();
    let mut batch = world.messages(7);
    batch[3].data = Some(vec![b'x'; limit + 1].into());
    let mut member = world.join("g").await?;
    let outcomes = world.try_publish(world.connection(), batch).await?;
    let shown: Vec<bool> = outcomes.iter().map(WriteOutcome::is_written).collect();
    ensure!(
        shown == [true, true, true, false, true, true, true],
        "the fourth of seven messages was too large, and the outcomes are {outcomes:?}"
    );
    if let WriteOutcome::Failed(error) = &outcomes[3] {
        ensure!(error.kind() == ErrorKind::TooLarge, "it failed as {error:?}, not as too-large");
    }
    member.work(6).await?;
    member.quiet(world.scale().quiet).await?;
    world.verify(world.rules().order(crate::invariants::Promised::Nothing))
}

async fn a_message_without_a_topic_fails_alone(world: World) -> Checked {
    let mut batch = world.messages(3);
    batch[1].topic = "".into();
    let mut member = world.join("g").await?;
    let outcomes = world.try_publish(world.connection(), batch).await?;
    let shown: Vec<bool> = outcomes.iter().map(WriteOutcome::is_written).collect();
    ensure!(shown == [true, false, true], "the second of three has no topic; the outcomes are {outcomes:?}");
    member.work(2).await?;
    world.verify(world.rules())
}

async fn a_delayed_message_is_not_early_and_not_lost(world: World) -> Checked {
    let mut member = world.join("g").await?;
    // Whole seconds, which is what some brokers count.
    let delay = Duration::from_secs(1).max(world.scale().quiet * 2);
    let later = world.message("later").with_deliver_at(SystemTime::now() + delay);
    let past = world.message("past").with_deliver_at(SystemTime::now() - Duration::from_secs(60));
    let (late, at_once) = (later.id.clone(), past.id.clone());
    let started = tokio::time::Instant::now();
    world.publish(vec![later, past, world.message("now")]).await?;
    let first = member.take(2).await?;
    ensure!(first.iter().any(|d| d.message.id == at_once), "a time that is past did not deliver at once");
    member.handle(first).await?;
    let last = member.take_within_of(1, delay).await?;
    ensure!(last[0].message.id == late, "{:?} came", last[0].message.id);
    let least = delay.mul_f32(0.9);
    ensure!(started.elapsed() >= least, "it came after {:?} of {delay:?}", started.elapsed());
    member.handle(last).await?;
    world.verify(world.rules())
}

async fn closing_waits_for_what_was_handed_over(world: World) -> Checked {
    let mut member = world.join("g").await?;
    let connection = world.harness().connect().await?;
    let mut writing = tokio::task::JoinSet::new();
    for writer in 0..8 {
        let (world, connection) = (world.clone(), connection.clone());
        writing.spawn(async move {
            let mut written = 0;
            for n in 0..50 {
                let message = world.message(&format!("writer {writer}"));
                let id = message.id.clone();
                match world.try_publish(&connection, vec![message]).await {
                    Ok(outcomes) => written += outcomes.iter().filter(|o| o.is_written()).count(),
                    // Closed meanwhile: then nothing of it was written.
                    Err(_) => {
                        world.ledger().write(crate::ledger::Record::RolledBack { id });
                        break;
                    }
                }
                if n % 5 == 0 {
                    tokio::task::yield_now().await;
                }
            }
            written
        });
    }
    tokio::task::yield_now().await;
    connection.writer.close().await?;
    let mut written = 0;
    while let Some(ended) = writing.join_next().await {
        written += ended.map_err(|e| Failure::from(format!("a writer panicked: {e}")))?;
    }
    member.work(written).await?;
    member.quiet(world.scale().quiet).await?;
    world.verify(world.rules())
}

async fn a_closed_writer_refuses_and_closes_again(world: World) -> Checked {
    let connection = world.harness().connect().await?;
    world.publish_by(&connection, world.messages(1)).await?;
    connection.writer.close().await?;
    connection.writer.close().await?;
    match connection.writer.write(vec![world.message("k")]).await {
        Err(error) if error.kind() == ErrorKind::BusIsShutdown => {}
        other => {
            return Err(format!("a write after close ended with {other:?}, not as bus-is-shutdown").into());
        }
    }
    // What was written before is there.
    let mut member = world.join("g").await?;
    if world.can().starts.earliest {
        member.work(1).await?;
    }
    member.quiet(world.scale().quiet).await
}

async fn a_dropped_write_harms_no_later_one(world: World) -> Checked {
    let mut member = world.join("g").await?;
    let mut sure = 0;
    for polls in 0..12 {
        let message = world.message("dropped");
        world.ledger().write(crate::ledger::Record::intent(&message, 0));
        world.ledger().write(crate::ledger::Record::MaybeWritten { id: message.id.clone() });
        let mut write = world.connection().writer.write(vec![message]);
        for _ in 0..polls % 4 {
            let ready = std::future::poll_fn(|cx| std::task::Poll::Ready(write.as_mut().poll(cx).is_ready()));
            if ready.await {
                break;
            }
            tokio::task::yield_now().await;
        }
        drop(write);
        world.publish(vec![world.message(&format!("sure {polls}"))]).await?;
        sure += 1;
    }
    // Those dropped may come or not; those confirmed must.
    while sure > 0 {
        let some = member.take(1).await?;
        sure -= some.iter().filter(|d| d.message.key.as_deref() != Some(b"dropped")).count();
        member.handle(some).await?;
    }
    world.verify(world.rules().order(crate::invariants::Promised::Nothing))
}

async fn a_topic_exists_once_it_was_ensured(world: World) -> Checked {
    let Some(admin) = &world.connection().admin else {
        return Err(Failure::not_applicable("it has no Admin"));
    };
    let name = world.harness().topic("ensured");
    let settings = millstream_core::admin::TopicSettings::default();
    ensure!(admin.ensure_topic(&name, settings.clone()).await?, "a new topic was said to be there already");
    ensure!(!admin.ensure_topic(&name, settings).await?, "a topic was made twice");
    ensure!(
        admin.topics().await?.iter().any(|t| t.name == name),
        "the topic {name:?} is not among the broker's topics"
    );
    let alone = admin.topic(&name).await?;
    ensure!(alone.as_ref().is_some_and(|t| t.name == name), "looked at alone, it is {alone:?}");
    let absent = world.harness().topic("absent");
    let alone = admin.topic(&absent).await?;
    ensure!(alone.is_none(), "a topic that is not there is told of: {alone:?}");
    let message = Message { topic: name.clone().into(), ..world.message("k") };
    let mut member = world.open(OpenRequest::new(name).group("g")).await?;
    world.publish(vec![message]).await?;
    member.work(1).await?;
    world.verify(world.rules())
}
