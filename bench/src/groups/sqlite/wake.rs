//! How soon an idle process has what another one published, and what waiting costs it.

use std::path::PathBuf;
use std::time::Duration;

use millstream_core::{Message, OpenRequest, ReadLimits, Reader, Settlement, Settler, Source, Writer};
use millstream_sqlite::SqliteStore;
use nix::time::{ClockId, clock_gettime};

use super::child::Process;
use super::{GROUP, Scale, folder};
use crate::Result;
use crate::row::{Goal, Row};

const RUNS: usize = 5;
const MESSAGES: usize = 400;
const PAUSE: Duration = Duration::from_millis(5);
const IDLE: Duration = Duration::from_secs(10);

pub(super) async fn run(_: Scale) -> Result<Vec<Row>> {
    let folder = folder()?;
    let file = folder.path().join("app.db");
    let store = SqliteStore::open(&file).await?;
    let mut process = Process::start("wait", &file, &[])?;
    process.line()?;
    let writer = store.writer();
    let mut runs = Vec::new();
    for _ in 0..RUNS {
        let mut waits = Vec::with_capacity(MESSAGES);
        for n in 0..MESSAGES {
            tokio::time::sleep(PAUSE).await;
            writer.write(vec![Message::new("news", n.to_string())]).await?.into_result()?;
            let acknowledged = now()?;
            let delivered: i64 = process.line()?.parse()?;
            waits.push((delivered - acknowledged).max(0) as f64 / 1e6);
        }
        waits.sort_by(f64::total_cmp);
        runs.push((waits[MESSAGES / 2], waits[MESSAGES * 99 / 100]));
    }
    let best = |which: fn(&(f64, f64)) -> f64| runs.iter().map(which).fold(f64::INFINITY, f64::min);
    let each = |which: fn(&(f64, f64)) -> f64| {
        runs.iter().map(|run| format!("{:.2}", which(run))).collect::<Vec<_>>().join("/")
    };
    let before = used(process.id())?;
    tokio::time::sleep(IDLE).await;
    let idle = (used(process.id())? - before) as f64 / IDLE.as_nanos() as f64 * 100.0;
    let name = "durably acknowledged to delivered in another, idle process";
    Ok(vec![
        Row::new(GROUP, format!("{name}, p50"), best(|run| run.0), "ms")
            .goal(Goal::AtMost(1.0))
            .detail(format!("best of five runs: {}", each(|run| run.0))),
        Row::new(GROUP, format!("{name}, p99"), best(|run| run.1), "ms")
            .goal(Goal::AtMost(5.0))
            .detail(format!("best of five runs: {}", each(|run| run.1))),
        Row::new(GROUP, "a process that waits", idle, "% of a CPU")
            .goal(Goal::AtMost(0.2))
            .detail("all its threads, over ten seconds"),
    ])
}

/// The process that waits.
pub(super) async fn wait(file: PathBuf) -> Result {
    let store = SqliteStore::open(file).await?;
    let mut opened = store.reader().open(OpenRequest::new("news").group("g")).await?;
    println!("ready");
    let mut deliveries = Vec::new();
    loop {
        opened.source.read(&mut deliveries, ReadLimits::new(100, 1 << 20)).await?;
        let at = now()?;
        for delivery in deliveries.drain(..) {
            println!("{at}");
            opened.settler.settle(vec![Settlement::ack(delivery.token)]).await;
        }
    }
}

/// Nanoseconds by a clock that all processes share.
fn now() -> Result<i64> {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC)?;
    Ok(now.tv_sec() * 1_000_000_000 + now.tv_nsec())
}

/// Nanoseconds that all threads of a process have run.
fn used(process: u32) -> Result<u64> {
    let mut nanos = 0;
    for thread in std::fs::read_dir(format!("/proc/{process}/task"))? {
        let told = std::fs::read_to_string(thread?.path().join("schedstat"))?;
        nanos += told.split_whitespace().next().ok_or("no time in schedstat")?.parse::<u64>()?;
    }
    Ok(nanos)
}
