//! What holds in every place where objects lie, and a bus whose dead letters go there.
#![allow(clippy::unwrap_used, dead_code, reason = "helpers of tests; each file uses a part of them")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, UNIX_EPOCH};

use millstream::prelude::*;
use millstream::{Drivers, Message, Running};
use millstream_core::{Admin as _, ErrorKind, WriteOutcome, Writer as _, names};
use millstream_objects::{Objects, ObjectsBuilder};
use tokio::time::{sleep, timeout};

const PATIENCE: Duration = Duration::from_secs(60);

/// Each of these for a place that is made anew: a function that gives an `ObjectsBuilder` and what keeps the place.
macro_rules! in_every_place {
    ($place:ident: $($name:ident),* $(,)?) => {$(
        #[tokio::test(flavor = "multi_thread")]
        async fn $name() {
            let (_kept, builder) = $place();
            common::$name(builder).await;
        }
    )*};
}
pub(crate) use in_every_place;

pub(crate) async fn comes_about(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let waiting = async {
        while !is_so().await {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, waiting).await.unwrap_or_else(|_| panic!("it never came about that {what}"));
}

/// A dead letter of the topic "orders", whose message is so many seconds old since 1970.
pub(crate) fn letter(id: &str, seconds: u64) -> Message {
    Message::new("orders.dlq", "{}")
        .with_id(id.to_owned())
        .with_key("customer-1")
        .with_time(UNIX_EPOCH + Duration::from_secs(seconds))
        .with_header(names::DL_TOPIC, "orders")
        .with_header(names::DL_GROUP, "billing")
        .with_header(names::DL_CLASS, "exhausted")
        .with_header(names::DL_LAST_FAILURE, "2026-11-28T12:00:00.000Z")
}

pub(crate) async fn write(objects: &Objects, batch: Vec<Message>) {
    objects.writer().write(batch).await.unwrap().into_result().unwrap();
}

pub(crate) async fn ids(objects: &Objects) -> Vec<String> {
    let letters = objects.admin().dead_letters("orders", None, 1_000).await.unwrap();
    letters.iter().map(|letter| letter.message.id.to_string()).collect()
}

pub(crate) async fn a_message_comes_back_as_it_was(builder: ObjectsBuilder) {
    let objects = builder.open().await.unwrap();
    let mut all = letter("1", 1_795_837_501).with_content_type("application/json").with_key(vec![0xff, 0]);
    all.data = Some(vec![0, 0xff, b'\n'].into());
    all.headers.append("tenant", "acme");
    all.headers.append("tenant", vec![0xfe]);
    all.headers.append_null("gone");
    let mut tombstone = letter("2", 1_795_837_502);
    (tombstone.key, tombstone.data) = (None, None);
    let mut empty = letter("3", 1_795_837_503).with_key("");
    empty.data = Some("".into());
    let written = vec![all, tombstone, empty];

    write(&objects, written.clone()).await;

    let read = objects.admin().dead_letters("orders", None, 10).await.unwrap();
    assert_eq!(read.into_iter().map(|stored| stored.message).collect::<Vec<_>>(), written);
}

pub(crate) async fn a_letter_that_is_written_again_is_folded_and_stays_as_it_was(builder: ObjectsBuilder) {
    let objects = builder.open().await.unwrap();
    write(&objects, vec![letter("1", 60)]).await;
    let first = objects.admin().dead_letters("orders", None, 10).await.unwrap();

    // The same call again, and a process that took over from one that died.
    write(&objects, vec![letter("1", 60)]).await;
    write(&objects, vec![letter("1", 60).with_header(names::DL_LAST_FAILURE, "2026-11-28T13:00:00.000Z")])
        .await;

    assert_eq!(objects.admin().dead_letters("orders", None, 10).await.unwrap(), first);
    // Another group's is another letter.
    write(&objects, vec![letter("1", 60).with_header(names::DL_GROUP, "stock")]).await;
    assert_eq!(ids(&objects).await, ["1", "1"]);
}

pub(crate) async fn of_many_who_write_the_same_letter_all_succeed_and_one_is_there(builder: ObjectsBuilder) {
    let objects = builder.open().await.unwrap();
    let writers: Vec<_> = (0..64)
        .map(|_| {
            let writer = objects.writer();
            tokio::spawn(async move { writer.write(vec![letter("1", 60)]).await.unwrap().into_result() })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap().unwrap();
    }
    assert_eq!(ids(&objects).await, ["1"]);
}

pub(crate) async fn letters_are_listed_page_by_page_in_the_order_of_their_time(builder: ObjectsBuilder) {
    let objects = builder.open().await.unwrap();
    // Of three days, and not in their order.
    let order = [7u64, 2, 9, 0, 4, 1, 8, 3, 6, 5];
    write(&objects, order.iter().map(|n| letter(&n.to_string(), n * 30_000)).collect()).await;

    let (mut after, mut seen, mut numbers) = (None, Vec::new(), Vec::new());
    loop {
        let page = objects.admin().dead_letters("orders", after, 3).await.unwrap();
        let Some(last) = page.last() else { break };
        assert!(page.len() <= 3);
        after = Some(last.id);
        numbers.extend(page.iter().map(|letter| letter.id));
        seen.extend(page.into_iter().map(|letter| letter.message.id.to_string()));
    }

    assert_eq!(seen, ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"]);
    assert!(numbers.is_sorted(), "{numbers:?}");
    // Each is found by its number alone.
    for (n, number) in numbers.iter().enumerate() {
        let one = objects.admin().dead_letters("orders", number.checked_sub(1), 1).await.unwrap();
        assert_eq!((one[0].id, &*one[0].message.id), (*number, &*n.to_string()));
    }
}

pub(crate) async fn a_letter_is_removed_once_and_the_others_stay(builder: ObjectsBuilder) {
    let objects = builder.open().await.unwrap();
    write(&objects, (0..3).map(|n| letter(&n.to_string(), n)).collect()).await;
    let second = objects.admin().dead_letters("orders", None, 10).await.unwrap()[1].id;
    assert!(objects.admin().remove_dead_letter("orders", second).await.unwrap());
    assert!(!objects.admin().remove_dead_letter("orders", second).await.unwrap());
    assert_eq!(ids(&objects).await, ["0", "2"]);
}

pub(crate) async fn a_letter_that_died_again_lies_behind_those_that_were_there(builder: ObjectsBuilder) {
    let objects = builder.open().await.unwrap();
    write(&objects, vec![letter("1", 60), letter("2", 120)]).await;
    write(&objects, vec![letter("1", 60).with_header(names::DL_REDRIVE_COUNT, "1")]).await;
    assert_eq!(ids(&objects).await, ["1", "2", "1"]);
}

pub(crate) async fn topics_are_apart_whatever_their_names_and_are_counted_and_purged(
    builder: ObjectsBuilder,
) {
    let objects = builder.open().await.unwrap();
    let names = ["..", "a//b", "a", "a/b", "orders", "orders.dlq", "größe"];
    let messages = |name: &str| Message::new(name.to_owned(), "{}").with_id(format!("of {name}"));
    write(&objects, names.iter().map(|name| messages(name)).collect()).await;

    let topics = objects.admin().topics().await.unwrap();
    let mut found: Vec<_> = topics.iter().map(|topic| (&*topic.name, topic.messages)).collect();
    found.sort_unstable();
    let mut expected: Vec<_> = names.iter().map(|name| (*name, 1)).collect();
    expected.sort_unstable();
    assert_eq!(found, expected);
    let orders = topics.iter().find(|topic| topic.name == "orders").unwrap();
    assert_eq!(orders.dead_letters, 1);
    assert!(objects.admin().groups("orders").await.unwrap().is_empty());

    assert_eq!(objects.admin().purge("a").await.unwrap(), 1);
    assert_eq!(objects.admin().purge("a").await.unwrap(), 0);
    let left = objects.admin().topics().await.unwrap();
    assert_eq!(left.iter().map(|topic| topic.messages).sum::<u64>(), names.len() as u64 - 1);
}

pub(crate) async fn a_batch_lies_in_one_object_and_its_dead_letters_alone(builder: ObjectsBuilder) {
    let objects = builder.object_per(millstream_objects::Per::Batch).open().await.unwrap();
    let fact = |n: u64| {
        Message::new("facts", "{}")
            .with_id(n.to_string())
            .with_time(UNIX_EPOCH + Duration::from_secs(86_400 + n))
    };
    let mut batch: Vec<_> = (0..20).map(fact).collect();
    batch.insert(7, letter("dead", 60));
    write(&objects, batch.clone()).await;
    // Its answer was lost.
    write(&objects, batch).await;

    let topics = objects.admin().topics().await.unwrap();
    let messages = |name: &str| topics.iter().find(|topic| topic.name == name).unwrap().messages;
    assert_eq!((messages("facts"), messages("orders.dlq")), (20, 1));
    assert_eq!(ids(&objects).await, ["dead"]);
    assert_eq!(objects.admin().purge("facts").await.unwrap(), 20);
}

pub(crate) async fn what_cannot_be_written_is_told_and_the_rest_is_written(builder: ObjectsBuilder) {
    let objects = builder.max_message(1_000).open().await.unwrap();
    let back = Message::new("orders", "{}").with_id("b").with_header(names::DL_REDRIVE_COUNT, "1");
    let long = Message::new("é".repeat(100), "{}").with_id("c");
    let mut large = letter("a", 60);
    large.data = Some(vec![0; 1_000].into());
    let batch = vec![large, letter("1", 60), back, long];

    let checked = objects.writer().check(&batch).await.unwrap().into_outcomes();
    let written = objects.writer().write(batch).await.unwrap().into_outcomes();

    for outcomes in [checked, written] {
        told(&outcomes);
    }
    assert_eq!(ids(&objects).await, ["1"]);
}

/// Of the four: the first, third and last are refused, each for its reason.
fn told(outcomes: &[WriteOutcome]) {
    let kinds: Vec<_> = outcomes
        .iter()
        .map(|outcome| match outcome {
            WriteOutcome::Failed(error) => Some(error.kind()),
            WriteOutcome::Written(_) => None,
            other => panic!("{other:?}"),
        })
        .collect();
    let refused = [ErrorKind::TooLarge, ErrorKind::Unsupported, ErrorKind::InvalidMessage].map(Some);
    assert_eq!(kinds, [refused[0], None, refused[1], refused[2]]);
}

pub(crate) async fn a_writer_that_is_closed_refuses(builder: ObjectsBuilder) {
    let objects = builder.open().await.unwrap();
    let writer = objects.writer();
    writer.close().await.unwrap();
    writer.close().await.unwrap();
    let error = objects.writer().write(vec![letter("1", 60)]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::BusIsShutdown);
}

/// A handler that fails as long as it shall.
#[derive(Clone, Default)]
pub(crate) struct Shop {
    pub(crate) is_repaired: Arc<AtomicBool>,
    pub(crate) charged: Arc<AtomicUsize>,
}

async fn charge(_: Message, State(shop): State<Shop>) -> Outcome {
    if !shop.is_repaired.load(Ordering::Relaxed) {
        return Err(Failure::unrecoverable("the till is broken"));
    }
    shop.charged.fetch_add(1, Ordering::Relaxed);
    Ok(())
}

/// A bus in memory with so many orders, all of which die.
pub(crate) async fn dying_orders(objects: &Objects, shop: &Shop, orders: usize) -> (Bus, Running) {
    let connection = Drivers::built_in().connect("memory://").await.unwrap();
    let looking = Bus::from_connection(connection.clone());
    let running = Bus::from_connection(connection)
        .with_state(shop.clone())
        .subscribe_to("orders", charge.group("billing").dead_letter_to(objects.writer()))
        .start()
        .await
        .unwrap();
    for n in 0..orders {
        let order = Message::new("orders", "{}").with_id(n.to_string()).with_key(n.to_string());
        looking.publish_message(order).await.unwrap();
    }
    (looking, running)
}

pub(crate) async fn lag(bus: &Bus) -> u64 {
    bus.admin().unwrap().groups("orders").await.unwrap()[0].lag
}

pub(crate) async fn letters_of_a_subscription_go_back_to_its_broker_and_are_gone_then(
    builder: ObjectsBuilder,
) {
    let objects = builder.open().await.unwrap();
    let shop = Shop::default();
    let (bus, running) = dying_orders(&objects, &shop, 10).await;
    comes_about("all are settled", async || lag(&bus).await == 0).await;
    let letters = bus.dead_letters("orders").stored_in(objects.admin());
    let listed = letters.list(None, 100).await.unwrap();
    assert_eq!(listed.len(), 10);
    assert!(listed.iter().all(|letter| letter.class.as_deref() == Some("unrecoverable")), "{listed:?}");

    // While it is still broken, each dies once more, and this run leaves those alone.
    assert_eq!(letters.redrive_all().await.unwrap(), 10);
    comes_about("all died again", async || letters.list(None, 100).await.unwrap().len() == 10).await;
    assert!(letters.list(None, 100).await.unwrap().iter().all(|letter| letter.redrive_count == 1));

    shop.is_repaired.store(true, Ordering::Relaxed);
    assert_eq!(letters.redrive_all().await.unwrap(), 10);
    comes_about("all are charged", async || shop.charged.load(Ordering::Relaxed) == 10).await;
    assert!(letters.list(None, 100).await.unwrap().is_empty());
    running.shutdown().await;
}

/// While the place does not work, nothing is acknowledged, and health says so; then it goes on by itself.
pub(crate) async fn an_outage(objects: &Objects, broken: impl AsyncFnOnce(), mended: impl AsyncFnOnce()) {
    let shop = Shop::default();
    broken().await;
    let (bus, running) = dying_orders(objects, &shop, 5).await;
    let control = running.control();
    comes_about("health tells of the dead letters", async || {
        let why = control.health().subscriptions[0].why.join("; ");
        why.contains("the dead-letter target cannot be written")
    })
    .await;
    assert!(!control.health().is_ready(), "{:?}", control.health());
    assert_eq!(lag(&bus).await, 5, "nothing is acknowledged");

    mended().await;

    comes_about("all are settled", async || lag(&bus).await == 0).await;
    comes_about("health is green", async || control.health().subscriptions[0].why.is_empty()).await;
    let mut ids = ids(objects).await;
    ids.sort_unstable();
    assert_eq!(ids, ["0", "1", "2", "3", "4"]);
    running.shutdown().await;
}
