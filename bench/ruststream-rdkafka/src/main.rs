//! `ruststream-rdkafka` as a user writes a service with it: a typed handler, positions committed by what was handled
//! (`Commit::Tracked`; its default lets the client commit what was merely delivered).

use std::convert::Infallible;
use std::hint::black_box;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use bench_harness::{Result, Stopwatch, tell, two_threads};
use ruststream::prelude::*;
use ruststream::runtime::{AppInfo, RustStream};
use ruststream_rdkafka::{Commit, KafkaBroker, KafkaTopic, StartOffset};
use serde::Deserialize;
use tokio::sync::Notify;

/// What is in the topic.
#[derive(Debug, Deserialize)]
#[allow(dead_code, reason = "decoded, as a handler wants it")]
struct Reading {
    id: u64,
    quantity: u32,
    sensor: String,
    note: String,
}

#[derive(Debug, Clone)]
struct Arrivals(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    wanted: usize,
    count: AtomicUsize,
    watch: OnceLock<Stopwatch>,
    done: Notify,
}

fn topic() -> String {
    std::env::args().nth(1).unwrap_or_default()
}

fn group() -> String {
    format!("bench-ruststream-{}-{}", std::process::id(), topic())
}

#[subscriber(KafkaTopic::new(topic()).group(group()).start(StartOffset::Earliest).commit(Commit::Tracked))]
async fn consume(reading: &Reading, ctx: &mut Context<'_, (), Arrivals>) -> HandlerOutcome {
    black_box(reading);
    let arrivals = &*ctx.state().0;
    let before = arrivals.count.fetch_add(1, Ordering::Relaxed);
    if before == 0
        && let Ok(watch) = Stopwatch::start()
    {
        let _ = arrivals.watch.set(watch);
    }
    if before + 1 == arrivals.wanted {
        arrivals.done.notify_one();
    }
    HandlerOutcome::ack()
}

fn main() -> Result {
    let wanted = std::env::args().nth(2).ok_or("say which topic and how many messages")?.parse()?;
    let brokers = std::env::var("MILLSTREAM_KAFKA")?;
    let arrivals = Arrivals(Arc::new(Inner {
        wanted,
        count: AtomicUsize::new(0),
        watch: OnceLock::new(),
        done: Notify::new(),
    }));
    two_threads()?.block_on(async {
        let state = arrivals.clone();
        let app = RustStream::new(AppInfo::new("bench", "0.0.0"))
            .on_startup(async move |()| Ok::<_, Infallible>(state))
            .with_broker(KafkaBroker::new([brokers.as_str()]), |b| {
                b.include(consume);
            });
        let running = app.start().await.map_err(|e| e.to_string())?;
        arrivals.0.done.notified().await;
        // What it still has to commit is not counted: it does that when it is shut down.
        let took = arrivals.0.watch.get().ok_or("nothing came")?.stop()?;
        running.shutdown().await.map_err(|e| e.to_string())?;
        tell(took, None)
    })
}
