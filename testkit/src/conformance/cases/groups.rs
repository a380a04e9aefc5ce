//! Each group gets all, members share, and subscriptions start and end where they are told.

use millstream_core::{Capabilities, End, OpenRequest, Read, ReadLimits, Start, WriterCapabilities};

use super::{browsing, case, groups, need};
use crate::conformance::member::{Event, Member, PLENTY, share};
use crate::conformance::{Case, Checked, Failure, Need, World, ensure};

pub(super) fn cases() -> Vec<Case> {
    vec![
        case!("groups", each_group_gets_every_message, groups, "each group gets all (Capabilities::groups)"),
        case!(
            "groups",
            no_message_is_with_two_members_at_once,
            groups,
            "members of a group share its messages (Capabilities::groups)"
        ),
        case!(
            "groups",
            a_new_group_at_earliest_gets_what_was_there_before,
            earliest,
            "Start::Earliest is the oldest message there is (Starts; conformance.md 14)"
        ),
        case!(
            "groups",
            a_new_group_at_latest_gets_only_what_comes,
            groups,
            "Start::Latest is what comes from now on (Start)"
        ),
        case!(
            "groups",
            progress_counts_more_than_the_start,
            groups,
            "the start is for a group without progress (OpenRequest::start)"
        ),
        case!(
            "groups",
            browsing_to_the_end_leaves_no_trace,
            browsing,
            "a topic can be read without a group, to an end (Capabilities::browse, End::Latest)"
        ),
        case!(
            "groups",
            who_browses_need_not_settle,
            browsing,
            "what is browsed is not in flight: there is nothing to settle (OpenRequest::group)"
        ),
        case!(
            "groups",
            a_group_reads_to_the_end_that_it_asked_for,
            reads_to_end,
            "Read::End says that the end is reached (End)"
        ),
        case!(
            "groups",
            browsing_from_a_position_starts_there,
            positioned,
            "Start::Position starts at that place (Starts)"
        ),
        case!(
            "groups",
            a_group_is_told_of_alone_and_one_that_nobody_made_is_not,
            groups,
            "one group of a topic, if it is there (Admin::group)"
        ),
    ]
}

fn earliest(can: &Capabilities, _: &WriterCapabilities) -> Need {
    need(can.starts.earliest, "a new group gets only what comes")
}

fn reads_to_end(can: &Capabilities, _: &WriterCapabilities) -> Need {
    need(can.browse && can.groups, "it has no end")
}

fn positioned(can: &Capabilities, _: &WriterCapabilities) -> Need {
    need(can.browse && can.starts.position && !can.partitions, "it cannot start at one position")
}

async fn each_group_gets_every_message(world: World) -> Checked {
    let mut members = Vec::new();
    for group in ["g1", "g2", "g3"] {
        members.push(world.join(group).await?);
    }
    world.publish(world.messages(50)).await?;
    for member in &mut members {
        member.work(50).await?;
        member.quiet(world.scale().quiet / 4).await?;
    }
    world.verify(world.rules())
}

async fn no_message_is_with_two_members_at_once(world: World) -> Checked {
    let count = world.scale().messages;
    let mut members = Vec::new();
    for _ in 0..4 {
        members.push(world.join("g").await?);
    }
    world.publish(world.messages(count)).await?;
    let mut members = share(members, count).await?;
    for member in &mut members {
        member.quiet(world.scale().quiet / 4).await?;
    }
    world.verify(world.rules())
}

async fn a_new_group_at_earliest_gets_what_was_there_before(world: World) -> Checked {
    world.publish(world.messages(20)).await?;
    let mut first = world.join("g1").await?;
    first.work(10).await?;
    if !world.can().groups {
        first.work(10).await?;
        return world.verify(world.rules());
    }
    // What every group has finished may be gone by now; what the first has not is there for the second.
    let request = OpenRequest::new(world.topic().clone()).group("g2");
    let mut second = world.open(request).await?;
    let got = second.take(10).await?;
    let new = world.message("new");
    world.publish(vec![new.clone()]).await?;
    second.handle(got).await?;
    while !second.work(1).await?.iter().any(|m| m.id == new.id) {}
    first.work(11).await?;
    Ok(())
}

async fn a_new_group_at_latest_gets_only_what_comes(world: World) -> Checked {
    world.publish(world.messages(10)).await?;
    let request = OpenRequest::new(world.topic().clone()).group("g").start(Start::Latest);
    let mut member = world.open(request.clone()).await?;
    // Positions are taken when partitions are, at the latest by this read.
    member.quiet(world.scale().quiet).await?;
    let new = world.messages(5);
    world.publish(new.clone()).await?;
    let got = member.take(5).await?;
    let old = got.iter().find(|d| new.iter().all(|m| m.id != d.message.id));
    ensure!(old.is_none(), "{:?} came, which was there before", old.map(|d| &d.message.id));
    member.handle(got).await
}

async fn progress_counts_more_than_the_start(world: World) -> Checked {
    let mut member = world.publish_and_join(world.messages(10), "g").await?;
    member.work(4).await?;
    member.close().await?;
    world.publish(world.messages(3)).await?;
    let request = OpenRequest::new(world.topic().clone()).group("g").start(Start::Latest);
    let mut again = world.open(request).await?;
    again.work_again(9).await?;
    world.verify(world.rules())
}

/// Reads until the end, and gives the ids.
async fn to_end(member: &mut Member) -> Checked<Vec<String>> {
    let mut seen = Vec::new();
    loop {
        let patience = member.world.scale().patience;
        let read = member.next(ReadLimits::new(7, PLENTY));
        let ended = tokio::time::timeout(patience, read).await;
        match ended.map_err(|_| Failure::from(format!("no end came after {} messages", seen.len())))?? {
            Event::Deliveries(some) => {
                seen.extend(some.iter().map(|d| d.message.id.to_string()));
                member.handle(some).await?;
            }
            Event::End => return Ok(seen),
            Event::Revoking(revoking) => revoking.done(),
            _ => {}
        }
    }
}

async fn who_browses_need_not_settle(world: World) -> Checked {
    world.join("g").await?.close().await?;
    let message = |n: usize| {
        let mut message = world.message(&format!("key {}", n % 16));
        message.data = Some(vec![b'x'; 1 << 10].into());
        message
    };
    let messages: Vec<_> = (0..300).map(message).collect();
    world.publish(messages).await?;
    // Far less than there is, by number and by size.
    let mut request = OpenRequest::new(world.topic().clone()).end(End::Latest);
    (request.max_in_flight, request.max_bytes) = (20, 64 << 10);
    let browser = world.harness().connect().await?;
    let mut opened = browser.reader.open(request).await?;
    let mut seen = 0;
    loop {
        let mut into = Vec::new();
        let read = opened.source.read(&mut into, ReadLimits::new(20, PLENTY));
        let read = tokio::time::timeout(world.scale().patience, read).await;
        let read = read.map_err(|_| Failure::from(format!("nothing more came after {seen} messages")))??;
        seen += into.len();
        if matches!(read, Read::End) {
            break;
        }
    }
    ensure!(seen == 300, "{seen} of 300 messages were there to be browsed");
    Ok(())
}

async fn browsing_to_the_end_leaves_no_trace(world: World) -> Checked {
    // A group that still wants them, so that a driver that keeps only what is wanted keeps them.
    world.join("g").await?.close().await?;
    world.publish(world.messages(20)).await?;
    let request = OpenRequest::new(world.topic().clone()).end(End::Latest);
    let browser = world.harness().connect().await?;
    for _ in 0..2 {
        let opened = browser.reader.open(request.clone()).await?;
        let mut source = opened.source;
        let mut seen = 0;
        loop {
            let mut into = Vec::new();
            let read = source.read(&mut into, ReadLimits::new(7, PLENTY));
            let read = tokio::time::timeout(world.scale().patience, read).await;
            let read = read.map_err(|_| Failure::from(format!("no end came after {seen} messages")))??;
            seen += into.len();
            if matches!(read, Read::End) {
                break;
            }
        }
        ensure!(seen == 20, "{seen} of 20 messages were there to be browsed");
    }
    let mut member = world.join("g").await?;
    member.work(20).await?;
    world.verify(world.rules())
}

async fn a_group_reads_to_the_end_that_it_asked_for(world: World) -> Checked {
    let mut opener = world.publish_and_join(world.messages(20), "g").await?;
    opener.work(5).await?;
    opener.close().await?;
    let request = OpenRequest::new(world.topic().clone()).group("g").end(End::Latest);
    let mut member = world.open(request).await?;
    let seen = to_end(&mut member).await?;
    ensure!(seen.len() == 15, "{} of 15 messages came before the end", seen.len());
    world.verify(world.rules())
}

async fn browsing_from_a_position_starts_there(world: World) -> Checked {
    world.join("g").await?.close().await?;
    world.publish(world.messages(10)).await?;
    let read_from = async |start: Start| {
        let request = OpenRequest::new(world.topic().clone()).start(start).end(End::Latest);
        let mut source = world.connection().reader.open(request).await?.source;
        let mut into = Vec::new();
        while !matches!(source.read(&mut into, ReadLimits::new(100, PLENTY)).await?, Read::End) {}
        Checked::Ok(into)
    };
    let all = read_from(Start::Earliest).await?;
    let Some(fifth) = all.get(4).and_then(|d| d.position) else {
        return Err(format!("{} of 10 messages came, without positions or too few", all.len()).into());
    };
    let some = read_from(Start::Position(fifth)).await?;
    ensure!(
        some.len() == 6 && some[0].message.id == all[4].message.id,
        "from position {fifth}, the fifth of ten, {} messages came",
        some.len()
    );
    Ok(())
}

async fn a_group_is_told_of_alone_and_one_that_nobody_made_is_not(world: World) -> Checked {
    let Some(admin) = &world.connection().admin else {
        return Err(Failure::not_applicable("it has no Admin"));
    };
    let mut member = world.publish_and_join(vec![world.message("k")], "g").await?;
    member.work(1).await?;
    let Some(info) = admin.group(world.topic(), &member.group).await? else {
        return Err(Failure::from(format!("the group {:?} is not there, and has a member", member.group)));
    };
    ensure!(info.name == member.group, "another group was told of: {info:?}");
    ensure!(info.lag == 0, "all is acknowledged, and it is said to be behind: {info:?}");
    let nobody = format!("{}-that-nobody-made", member.group);
    let info = admin.group(world.topic(), &nobody).await?;
    ensure!(info.is_none(), "a group that nobody made is told of: {info:?}");
    world.verify(world.rules())
}
