//! Writes that wait for room in a full topic of the memory driver, dropped at every poll: nobody else waits for one
//! that is gone, no room is lost, and order is kept. `CANCEL_SEEDS=500` tries more variations.
#![allow(clippy::unwrap_used, reason = "a helper that fails fails its test")]

use std::sync::Arc;
use std::time::Duration;

use millstream_core::{
    Admin, ErrorKind, Message, OpenRequest, Opened, ReadLimits, Reader, Result, Settlement, Settler, Source,
    WriteReport, Writer,
};
use millstream_memory::{MemoryBroker, MemorySettler, MemorySource, MemoryWriter};
use millstream_testkit::cancel::{Cut, Tally, at_every_poll};
use tokio::task::{JoinHandle, yield_now};
use tokio::time::timeout;

const TOPIC: &str = "t";

fn seeds() -> u64 {
    std::env::var("CANCEL_SEEDS").ok().and_then(|n| n.parse().ok()).unwrap_or(10)
}

fn batch(name: &str, count: usize) -> Vec<Message> {
    (0..count).map(|n| Message::new(TOPIC, "x").with_id(format!("{name}-{n}")).with_key("k")).collect()
}

struct Member {
    source: MemorySource,
    settler: MemorySettler,
}

impl Member {
    async fn join(broker: &MemoryBroker) -> Self {
        let request = OpenRequest::new(TOPIC).group("g");
        let Opened { source, settler, .. } = broker.reader().open(request).await.unwrap();
        Self { source, settler }
    }

    /// Handles one message; its id. None if there is none soon.
    async fn handle(&mut self) -> Option<String> {
        let mut into = Vec::new();
        let read = self.source.read(&mut into, ReadLimits::new(1, usize::MAX));
        timeout(Duration::from_millis(1), read).await.ok()?.unwrap();
        let delivery = into.pop()?;
        let settled = self.settler.settle(vec![Settlement::ack(delivery.token)]).await;
        assert!(settled[0].is_done(), "{settled:?}");
        Some(delivery.message.id.to_string())
    }
}

type Writing = JoinHandle<Result<WriteReport>>;

fn start(writer: &MemoryWriter, name: &str, count: usize) -> Writing {
    let (writer, batch) = (writer.clone(), batch(name, count));
    tokio::spawn(async move { writer.write(batch).await })
}

/// A topic that is full, writers that wait before and behind one that is dropped, and a reader that makes room.
async fn a_writer_among_others_is_dropped(cut: &Cut, seed: u64) -> std::result::Result<(), String> {
    let mut random = fastrand::Rng::with_seed(seed);
    let capacity = random.usize(1..4);
    let broker = MemoryBroker::builder().capacity(capacity).build();
    let writer = broker.writer();
    let mut member = Member::join(&broker).await;
    writer.write(batch("filler", capacity)).await.unwrap().into_result().unwrap();
    let (before, behind) = (random.usize(0..3), random.usize(0..3));
    let sizes: Vec<usize> = (0..before + behind).map(|_| random.usize(1..4)).collect();
    let mut others: Vec<Writing> = Vec::new();
    for (n, size) in sizes.iter().enumerate().take(before) {
        others.push(start(&writer, &format!("before{n}"), *size));
        yield_now().await;
    }
    let count = random.usize(1..5);
    let in_all = capacity + sizes.iter().sum::<usize>() + count;

    let mut seen = Vec::new();
    let dropped = {
        let cut_one = cut.run(writer.write(batch("cut", count)));
        let beside = async {
            yield_now().await;
            for (n, size) in sizes.iter().enumerate().skip(before) {
                others.push(start(&writer, &format!("behind{n}"), *size));
                yield_now().await;
            }
            // Room for all that may be written: it is woken as long as it waits.
            for _ in 0..4 * in_all {
                seen.extend(member.handle().await);
                yield_now().await;
            }
        };
        tokio::join!(cut_one, beside).0
    };

    for other in others {
        let report = timeout(Duration::from_secs(1), async {
            let mut other = other;
            loop {
                tokio::select! {
                    report = &mut other => break report,
                    id = member.handle() => seen.extend(id),
                }
            }
        });
        let report = report.await.map_err(|_| "another writer waits for ever")?.unwrap();
        report.and_then(WriteReport::into_result).map_err(|e| e.to_string())?;
    }
    while let Some(id) = member.handle().await {
        seen.push(id);
    }
    // Each other batch is there once, in order; of the dropped one a part from its beginning.
    let of = |name: &str| -> Vec<String> { seen.iter().filter(|id| id.starts_with(name)).cloned().collect() };
    let ids = |name: &str, count: usize| -> Vec<String> {
        batch(name, count).into_iter().map(|m| m.id.to_string()).collect()
    };
    let others = (0..before)
        .map(|n| (format!("before{n}"), n))
        .chain((before..before + behind).map(|n| (format!("behind{n}"), n)));
    for (name, n) in others {
        let there = of(&name);
        if there != ids(&name, sizes[n]) {
            return Err(format!("of {name} there came {there:?}"));
        }
    }
    let cut_ids = ids("cut", count);
    let there = of("cut");
    let whole = there.len() == count;
    if !cut_ids.starts_with(&there)
        || (dropped.is_some() && !whole)
        || (cut.polls() == 0 && !there.is_empty())
    {
        return Err(format!("of the dropped batch there came {there:?}, it said {dropped:?}"));
    }
    // The bound is whole again, and still a bound.
    let again = writer.write(batch("again", capacity));
    let again = timeout(Duration::ZERO, again).await.map_err(|_| "room was lost")?;
    again.and_then(WriteReport::into_result).map_err(|e| e.to_string())?;
    if timeout(Duration::from_millis(1), writer.write(batch("over", 1))).await.is_ok() {
        return Err("the topic holds more than its bound".to_owned());
    }
    let held = broker.admin().topics().await.unwrap()[0].messages;
    if held != capacity as u64 { Err(format!("it holds {held}")) } else { Ok(()) }
}

/// Closing, while a write waits for room.
async fn closing_behind_a_writer_that_waits(cut: &Cut) -> std::result::Result<(), String> {
    let broker = MemoryBroker::builder().capacity(1).build();
    let writer = broker.writer();
    let mut member = Member::join(&broker).await;
    writer.write(batch("filler", 1)).await.unwrap().into_result().unwrap();
    let waiting = start(&writer, "waiting", 2);
    yield_now().await;

    let beside = async {
        for _ in 0..20 {
            member.handle().await;
            yield_now().await;
        }
    };
    let (closed, ()) = tokio::join!(cut.run(writer.close()), beside);

    closed.transpose().map_err(|e| e.to_string())?;
    timeout(Duration::from_secs(1), writer.close()).await.map_err(|_| "it never closes")?.unwrap();
    waiting.await.unwrap().and_then(WriteReport::into_result).map_err(|e| e.to_string())?;
    match writer.write(batch("late", 1)).await {
        Err(error) if error.kind() == ErrorKind::BusIsShutdown => Ok(()),
        other => Err(format!("a closed writer said {other:?}")),
    }
}

#[allow(clippy::needless_pass_by_value, reason = "a case is written where it is swept")]
fn sweep(case: impl AsyncFn(&Cut, u64) -> std::result::Result<(), String>) -> Tally {
    let mut tally = Tally::default();
    for seed in 0..seeds() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build();
        let swept = runtime.unwrap().block_on(at_every_poll(async |cut| case(cut, seed).await));
        tally.add(swept.unwrap_or_else(|what| panic!("seed {seed}: {what}")));
    }
    println!("{tally}");
    tally
}

#[test]
fn a_write_that_waits_for_room_may_be_dropped_at_every_poll() {
    let tally = sweep(async |cut, seed| a_writer_among_others_is_dropped(cut, seed).await);
    assert!(tally.deepest > 2, "{tally}");
}

#[test]
fn closing_behind_a_write_that_waits_may_be_dropped_at_every_poll() {
    let tally = sweep(async |cut, _| closing_behind_a_writer_that_waits(cut).await);
    assert!(tally.under_way > 0, "{tally}");
}

#[test]
fn a_write_that_is_kept_and_no_longer_polled_holds_up_others_for_a_moment_and_not_for_ever() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build();
    runtime.unwrap().block_on(async {
        // Given a write that waits for room and is then forgotten, as in a `select!` on `&mut` of it
        let broker = MemoryBroker::builder().capacity(1).write_timeout(Duration::from_secs(5)).build();
        let writer = broker.writer();
        let mut member = Member::join(&broker).await;
        writer.write(batch("filler", 1)).await.unwrap().into_result().unwrap();
        let mut forgotten = Box::pin(writer.write(batch("forgotten", 1)));
        assert!(timeout(Duration::from_millis(1), &mut forgotten).await.is_err());
        assert!(member.handle().await.is_some());

        // when others write behind it, and the writer is closed,
        let behind = writer.write(batch("behind", 1)).await.unwrap().into_result();
        let closed = timeout(Duration::from_secs(60), writer.close()).await.expect("it never closes");

        // then they are written, and closing says that the forgotten one is not done.
        behind.unwrap();
        assert_eq!(closed.unwrap_err().kind(), ErrorKind::Unknown);
        drop(forgotten);
        writer.close().await.unwrap();
    });
}

#[test]
fn a_broker_that_ends_wakes_a_write_that_another_was_dropped_before() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build();
    runtime.unwrap().block_on(async {
        // Given two writes that wait for room, of which the first is dropped
        let broker = Arc::new(MemoryBroker::builder().capacity(1).build());
        let writer = broker.writer();
        let _reading = Member::join(&broker).await;
        writer.write(batch("filler", 1)).await.unwrap().into_result().unwrap();
        let (first, second) = (start(&writer, "first", 1), start(&writer, "second", 1));
        yield_now().await;
        first.abort();
        yield_now().await;

        // when the broker ends, the second learns it at once.
        broker.shutdown();
        let told = timeout(Duration::from_millis(1), second).await.expect("it waits").unwrap();
        let told = told.and_then(WriteReport::into_result);
        assert_eq!(told.unwrap_err().kind(), ErrorKind::BusIsShutdown);
    });
}
