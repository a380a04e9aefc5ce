//! A file with a large backlog: reading it, opening it, and what it takes of memory.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use millstream::prelude::*;
use millstream_sqlite::SqliteStore;

use super::child::Process;
use super::reading::{Reading, fill, scan};
use super::{GROUP, Scale, cpu, folder, median, spread};
use crate::Result;
use crate::row::{Goal, Row};

const KEYS: u64 = 100_000;
const CONCURRENCY: usize = 64;
/// Parts of the backlog whose rates are compared.
const PARTS: u64 = 10;
const OPENED: usize = 5;

pub(super) async fn run(scale: Scale) -> Result<Vec<Row>> {
    let folder = folder()?;
    let file = folder.path().join("app.db");
    let count = scale.backlog();
    let store = SqliteStore::open(&file).await?;
    fill(&store.writer(), "readings", count, KEYS, SystemTime::now()).await?;
    drop(store);

    let (mut ours, mut bare, mut flat) = (Vec::new(), Vec::new(), Vec::new());
    let (mut our_cpu, mut bare_cpu) = (Vec::new(), Vec::new());
    for turn in 0..scale.rounds() {
        let path = file.clone();
        let idle = cpu()?;
        let (scanned, took) = tokio::task::spawn_blocking(move || scan(&path)).await??;
        if scanned != count {
            return Err(format!("{scanned} of {count} rows were scanned").into());
        }
        bare.push(count as f64 / took.as_secs_f64());
        let scanned = cpu()?;
        let parts = handle(&file, turn, count).await?;
        let each = |time: Duration| time.as_nanos() as f64 / count as f64;
        bare_cpu.push(each(scanned - idle));
        our_cpu.push(each(cpu()? - scanned));
        ours.push(count as f64 / parts.iter().sum::<Duration>().as_secs_f64());
        let rates = parts.iter().map(|part| (count / PARTS) as f64 / part.as_secs_f64());
        flat.push(rates.collect::<Vec<_>>());
    }
    let middle = flat.swap_remove(flat.len() / 2);
    let (fastest, slowest) = middle
        .iter()
        .fold((0.0f64, f64::INFINITY), |(most, least), rate| (most.max(*rate), least.min(*rate)));
    let mut opened = Vec::new();
    for turn in 0..OPENED {
        opened.push(start(&file, turn).await?);
    }
    let name = format!("{} M messages read, handled and acknowledged", count / 1_000_000);
    let detail = format!(
        "typed, {KEYS} keys, {CONCURRENCY} at a time, each acknowledgement on disk; turns {} beside {}; CPU a message \
         {:.0} and {:.0} ns",
        spread(&ours),
        spread(&bare),
        median(our_cpu),
        median(bare_cpu)
    );
    Ok(vec![
        Row::new(GROUP, name, median(ours), "messages a second")
            .beside("a loop that scans and decodes the same rows", median(bare))
            .goal(Goal::AtLeast(0.4))
            .detail(detail),
        Row::new(GROUP, "its fastest tenth beside its slowest", fastest / slowest, "times")
            .goal(Goal::AtMost(1.3))
            .detail(format!("messages a second: {}", spread(&middle))),
        Row::new(GROUP, "opening that file and starting a bus on it", median(opened.clone()), "ms")
            .goal(Goal::AtMost(10.0))
            .detail(format!("{} ms", spread(&opened))),
        memory(&file)?,
    ])
}

/// Handles all in a new group; gives how long each part took, the last until all is acknowledged.
async fn handle(file: &Path, turn: usize, count: u64) -> Result<Vec<Duration>> {
    let bus = Bus::from_connection(SqliteStore::open(file).await?.connection());
    let handled = Arc::new(Handled {
        count: AtomicU64::new(0),
        part: count / PARTS,
        ends: std::array::from_fn(|_| AtomicU64::new(0)),
        begun: Instant::now(),
    });
    let running = bus
        .with_state(Arc::clone(&handled))
        .subscribe(on_reading.group(format!("all-{turn}")).concurrency(CONCURRENCY))
        .start()
        .await?;
    let control = running.control();
    while handled.count.load(Ordering::Relaxed) < count || control.in_flight() > 0 {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let end = handled.begun.elapsed();
    let report = running.shutdown().await;
    let acknowledged: u64 = report.subscriptions.iter().map(|one| one.handled).sum();
    if acknowledged != count {
        return Err(format!("{acknowledged} of {count} messages were handled: {report:?}").into());
    }
    let mut ends: Vec<Duration> =
        handled.ends.iter().map(|nanos| Duration::from_nanos(nanos.load(Ordering::Relaxed))).collect();
    if let Some(last) = ends.last_mut() {
        *last = end;
    }
    let starts = std::iter::once(Duration::ZERO).chain(ends.iter().copied());
    Ok(ends.iter().zip(starts).map(|(end, start)| end.saturating_sub(start)).collect())
}

#[derive(Debug)]
struct Handled {
    count: AtomicU64,
    part: u64,
    /// When each part was handled, in nanoseconds.
    ends: [AtomicU64; PARTS as usize],
    begun: Instant,
}

async fn on_reading(reading: Reading, State(handled): State<Arc<Handled>>) -> Outcome {
    std::hint::black_box(reading);
    let count = handled.count.fetch_add(1, Ordering::Relaxed) + 1;
    if count.is_multiple_of(handled.part)
        && let Some(end) = handled.ends.get((count / handled.part - 1) as usize)
    {
        end.store(u64::try_from(handled.begun.elapsed().as_nanos())?, Ordering::Relaxed);
    }
    Ok(())
}

/// Milliseconds from nothing to a bus that runs.
async fn start(file: &Path, turn: usize) -> Result<f64> {
    let begun = Instant::now();
    let bus = Bus::from_connection(SqliteStore::open(file).await?.connection());
    let running = bus.subscribe(endless.group(format!("start-{turn}"))).start().await?;
    let took = begun.elapsed().as_secs_f64() * 1e3;
    drop(running);
    Ok(took)
}

async fn endless(_: Reading) -> Outcome {
    std::future::pending().await
}

// ---- Memory --------------------------------------------------------------------------------------------------

fn memory(file: &Path) -> Result<Row> {
    let mut process = Process::start("stall", file, &[])?;
    let (empty, stalled): (f64, f64) = (process.line()?.parse()?, process.line()?.parse()?);
    Ok(Row::new(
        GROUP,
        "its memory above an empty program's, with a handler that stands still",
        stalled - empty,
        "MiB",
    )
    .goal(Goal::AtMost(64.0))
    .detail(format!("resident {stalled:.1} MiB and {empty:.1} MiB, default settings")))
}

/// The process whose handler stands still.
pub(super) async fn stall(file: PathBuf) -> Result {
    println!("{}", resident()?);
    let bus = Bus::from_connection(SqliteStore::open(file).await?.connection());
    let running = bus.subscribe(endless.group("stalled")).start().await?;
    tokio::time::sleep(Duration::from_secs(3)).await;
    println!("{}", resident()?);
    drop(running);
    Ok(())
}

/// MiB of memory that this process has.
fn resident() -> Result<f64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).ok_or("no VmRSS in the status")?;
    let kib: f64 = line.split_whitespace().next().ok_or("no figure in VmRSS")?.parse()?;
    Ok(kib / 1024.0)
}
