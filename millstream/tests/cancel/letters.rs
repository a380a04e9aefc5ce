//! What lists, redrives and discards dead letters.

use std::collections::BTreeSet;

use millstream::{Bus, DeadLetters, Message, Writer};
use millstream_testkit::cancel::Cut;

use crate::world::{Checked, TOPIC, World, ensure, sweep};

pub(crate) const FUNCTIONS: &[&str] = &[
    "DeadLetters::list",
    "DeadLetters::read",
    "DeadLetters::redrive",
    "DeadLetters::redrive_where",
    "DeadLetters::redrive_all",
    "DeadLetters::discard",
    "DeadLetters::discard_where",
];

const LETTERS: [&str; 4] = ["a", "b", "c", "d"];

async fn buried(world: &World) -> (DeadLetters, Vec<u64>) {
    let letters = LETTERS.map(|id| Message { topic: format!("{TOPIC}.dlq").into(), ..world.message(id) });
    world.broker.writer().write(letters.to_vec()).await.unwrap().into_result().unwrap();
    let dead = Bus::from_connection(world.connection()).dead_letters(TOPIC);
    let ids = dead.list(None, 10).await.unwrap().iter().filter_map(|letter| letter.id).collect();
    (dead, ids)
}

async fn dead(world: &World) -> BTreeSet<String> {
    world.orders(&format!("{TOPIC}.dlq")).await.into_iter().collect()
}

async fn back(world: &World) -> Vec<String> {
    if world.group(TOPIC, "nobody").await.is_none() && !has_topic(world).await {
        return Vec::new();
    }
    world.orders(TOPIC).await
}

async fn has_topic(world: &World) -> bool {
    let admin = world.broker.admin();
    let topics = millstream::core::Admin::topics(&admin).await.unwrap();
    topics.iter().any(|topic| topic.name == TOPIC)
}

#[test]
fn looking_at_dead_letters_may_be_dropped_at_every_poll() {
    sweep("DeadLetters::list", async |cut, _| {
        let world = World::new();
        let (letters, ids) = buried(&world).await;
        let listed = cut.run(letters.list(None, 10)).await.transpose().map_err(|e| e.to_string())?;
        ensure!(listed.is_none_or(|l| l.len() == ids.len()), "the list is not whole");
        ensure!(dead(&world).await.len() == LETTERS.len(), "looking changed what there is");
        Ok(())
    });
    sweep("DeadLetters::read", async |cut, _| {
        let world = World::new();
        let (letters, ids) = buried(&world).await;
        let read = cut.run(letters.read(ids[1])).await.transpose().map_err(|e| e.to_string())?;
        ensure!(read.is_none_or(|letter| letter.is_some()), "it is not found");
        ensure!(dead(&world).await.len() == LETTERS.len(), "looking changed what there is");
        Ok(())
    });
}

/// After a redrive that was dropped, every letter is in its store or back in the topic; redriving the rest brings back
/// each at least once, and only the one that was under way twice.
async fn redriven(world: &World, cut: &Cut, letters: &DeadLetters, wanted: &[&str]) -> Checked {
    let (left, there) = (dead(world).await, back(world).await);
    for id in LETTERS {
        ensure!(left.contains(id) || there.iter().any(|t| t == id), "{id} is nowhere");
        ensure!(wanted.contains(&id) || left.contains(id), "{id} was not to be redriven");
    }
    ensure!(cut.polls() > 0 || there.is_empty(), "it was never polled, and redrove {there:?}");
    let both = there.iter().filter(|id| left.contains(*id)).count();
    ensure!(both <= 1, "{both} are in both places");
    letters.redrive_all().await.map_err(|e| e.to_string())?;
    ensure!(dead(world).await.is_empty(), "some are left");
    let there = back(world).await;
    let once: BTreeSet<_> = there.iter().map(String::as_str).collect();
    ensure!(once == LETTERS.into(), "back are {there:?}");
    ensure!(there.len() <= LETTERS.len() + both, "back are {there:?}");
    Ok(())
}

#[test]
fn redriving_may_be_dropped_at_every_poll_and_loses_no_letter() {
    let tally = sweep("DeadLetters::redrive", async |cut, _| {
        let world = World::new();
        let (letters, ids) = buried(&world).await;
        let one = cut.run(letters.redrive(ids[2])).await.transpose().map_err(|e| e.to_string())?;
        ensure!(one != Some(false), "it is not found");
        redriven(&world, cut, &letters, &["c"]).await
    });
    assert!(tally.deepest >= 6, "{tally}");
    let tally = sweep("DeadLetters::redrive_where", async |cut, seed| {
        let world = World::new();
        let (letters, ids) = buried(&world).await;
        let wanted: Vec<_> = LETTERS.into_iter().enumerate().filter(|(n, _)| seed >> n & 1 == 0).collect();
        let picks = |id| wanted.iter().any(|(n, _)| id == Some(ids[*n]));
        let some = cut.run(letters.redrive_where(|letter| picks(letter.id))).await;
        let some = some.transpose().map_err(|e| e.to_string())?;
        ensure!(some.is_none_or(|count| count == wanted.len()), "redrove {some:?}");
        redriven(&world, cut, &letters, &wanted.iter().map(|(_, id)| *id).collect::<Vec<_>>()).await
    });
    assert!(tally.deepest >= 20, "{tally}");
    sweep("DeadLetters::redrive_all", async |cut, _| {
        let world = World::new();
        let (letters, _) = buried(&world).await;
        let all = cut.run(letters.redrive_all()).await.transpose().map_err(|e| e.to_string())?;
        ensure!(all.is_none_or(|count| count == LETTERS.len()), "redrove {all:?}");
        redriven(&world, cut, &letters, &LETTERS).await
    });
}

#[test]
fn discarding_may_be_dropped_at_every_poll_and_discards_nothing_else() {
    sweep("DeadLetters::discard", async |cut, _| {
        let world = World::new();
        let (letters, ids) = buried(&world).await;
        let one = cut.run(letters.discard(ids[1])).await.transpose().map_err(|e| e.to_string())?;
        let again = letters.discard(ids[1]).await.map_err(|e| e.to_string())?;
        ensure!(one != Some(false) && one.is_none_or(|_| !again), "{one:?}, then {again}");
        ensure!(cut.polls() > 0 || again, "it was never polled, and discarded");
        ensure!(dead(&world).await == ["a", "c", "d"].map(str::to_owned).into(), "others are gone");
        Ok(())
    });
    sweep("DeadLetters::discard_where", async |cut, _| {
        let world = World::new();
        let (letters, ids) = buried(&world).await;
        let wanted = |id| id == Some(ids[0]) || id == Some(ids[3]);
        let some = cut.run(letters.discard_where(|letter| wanted(letter.id))).await;
        some.transpose().map_err(|e| e.to_string())?;
        let left = dead(&world).await;
        ensure!(left.contains("b") && left.contains("c"), "others are gone: {left:?}");
        letters.discard_where(|letter| wanted(letter.id)).await.map_err(|e| e.to_string())?;
        ensure!(dead(&world).await == ["b", "c"].map(str::to_owned).into(), "it was not done again");
        Ok(())
    });
}
