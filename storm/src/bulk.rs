//! A process that publishes much and handles it, and says what it took: for what is measured, not broken.
//!
//! It either stalls, in which case its handlers do nothing until no more is accepted or all is published, or it goes on
//! steadily and looks at its memory again and again. What it comes to is a line of JSON on stdout.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use clap::{Args, ValueEnum};
use millstream::{Bus, Event, Outcome, Publisher, State, Subscribe};
use millstream_core::event::Raw;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::Result;

/// What it is to do.
#[derive(Debug, Clone, Args)]
pub(crate) struct Options {
    #[arg(long)]
    pub(crate) url: String,
    #[arg(long)]
    pub(crate) messages: u64,
    /// Bytes of each.
    #[arg(long)]
    pub(crate) size: usize,
    #[arg(long, value_enum)]
    pub(crate) way: Way,
}

/// How handlers go about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Way {
    /// Nothing is handled until nothing more can be published.
    Stalled,
    /// All is handled as it comes.
    Steady,
}

impl Way {
    fn name(self) -> &'static str {
        match self {
            Self::Stalled => "stalled",
            Self::Steady => "steady",
        }
    }
}

impl Options {
    /// The command line that makes these options.
    pub(crate) fn arguments(&self) -> Vec<String> {
        let Self { url, messages, size, way } = self;
        let (messages, size) = (messages.to_string(), size.to_string());
        [("--url", url.as_str()), ("--messages", &messages), ("--size", &size), ("--way", way.name())]
            .into_iter()
            .flat_map(|(name, value)| [name.to_owned(), value.to_owned()])
            .collect()
    }
}

/// What it came to.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Report {
    pub(crate) published: u64,
    pub(crate) handled: u64,
    /// Handled once more than once.
    pub(crate) repeated: u64,
    /// Not the bytes that were published.
    pub(crate) damaged: u64,
    /// How many were published when the handlers began.
    pub(crate) begun_at: u64,
    /// The most memory it ever had, in KiB.
    pub(crate) peak_kib: u64,
    /// Memory in KiB, by how many messages had been handled.
    pub(crate) memory: Vec<(u64, u64)>,
    pub(crate) before: Holdings,
    pub(crate) after: Holdings,
}

/// What a process holds that it must give back.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Holdings {
    pub(crate) files: u64,
    pub(crate) threads: u64,
    pub(crate) tasks: u64,
}

/// Messages out and not handled while it goes on steadily, at most.
const AHEAD: u64 = 2_000;
/// Tasks that publish.
const PUBLISHERS: u64 = 8;
/// Nothing more is accepted if nothing was for so long.
const STANDSTILL: Duration = Duration::from_secs(3);
/// How long all may take to be given back in the end: threads end when they look.
const GIVEN_BACK: Duration = Duration::from_secs(10);

/// A number, and a byte made of it, again and again.
#[derive(Debug)]
struct Bulk(Bytes);

impl Event for Bulk {
    type Format = Raw;
    const TOPIC: Option<&'static str> = Some("bulk");
}

impl AsRef<[u8]> for Bulk {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl From<Bytes> for Bulk {
    fn from(bytes: Bytes) -> Self {
        Self(bytes)
    }
}

impl Bulk {
    fn of(number: u64, size: usize) -> Self {
        let mut bytes = vec![number.to_le_bytes()[0]; size.max(8)];
        bytes[..8].copy_from_slice(&number.to_le_bytes());
        Self(bytes.into())
    }

    /// Its number, if it is what was published.
    fn number(&self, size: usize) -> Option<u64> {
        let number = u64::from_le_bytes(self.0.get(..8)?.try_into().ok()?);
        let byte = number.to_le_bytes()[0];
        (self.0.len() == size.max(8) && self.0[8..].iter().all(|b| *b == byte)).then_some(number)
    }
}

/// What its tasks share.
#[derive(Debug)]
struct Work {
    options: Options,
    next: AtomicU64,
    published: AtomicU64,
    handled: AtomicU64,
    repeated: AtomicU64,
    damaged: AtomicU64,
    /// How often each was handled.
    seen: Vec<AtomicU8>,
    is_open: watch::Sender<bool>,
    has_failed: AtomicBool,
}

/// Publishes all, handles all, and prints the report.
pub(crate) async fn run(options: Options) -> Result {
    let mut report = Report { before: holdings(), ..Report::default() };
    let work = Arc::new(Work {
        next: AtomicU64::new(0),
        published: AtomicU64::new(0),
        handled: AtomicU64::new(0),
        repeated: AtomicU64::new(0),
        damaged: AtomicU64::new(0),
        seen: (0..options.messages).map(|_| AtomicU8::new(0)).collect(),
        is_open: watch::Sender::new(options.way == Way::Steady),
        has_failed: AtomicBool::new(false),
        options,
    });
    // Zeros come from the system as pages that are not there before somebody writes to them: the measure would grow by a
    // byte a message.
    work.seen.iter().for_each(|seen| seen.store(0, Ordering::Relaxed));
    let bus = Bus::connect(&work.options.url).await?;
    let publisher = bus.publisher().clone();
    let running =
        bus.with_state(Arc::clone(&work)).subscribe(handle.group("bulk").concurrency(16)).start().await?;
    for _ in 0..PUBLISHERS {
        tokio::spawn(publish(Arc::clone(&work), publisher.clone()));
    }
    drop(publisher);
    if work.options.way == Way::Stalled {
        work.stand_still().await;
    }
    report.begun_at = work.published.load(Ordering::Acquire);
    work.is_open.send_replace(true);
    watch_memory(&work, &mut report).await?;
    running.shutdown().await;
    report.published = work.published.load(Ordering::Acquire);
    report.handled = work.handled.load(Ordering::Acquire);
    report.repeated = work.repeated.load(Ordering::Acquire);
    report.damaged = work.damaged.load(Ordering::Acquire);
    report.peak_kib = status("VmHWM:");
    report.after = given_back(report.before).await;
    println!("{}", serde_json::to_string(&report)?);
    Ok(())
}

async fn publish(work: Arc<Work>, publisher: Publisher) {
    let Options { messages, size, way, .. } = work.options;
    loop {
        let number = work.next.fetch_add(1, Ordering::AcqRel);
        if number >= messages {
            return;
        }
        while way == Way::Steady && number > work.handled.load(Ordering::Acquire) + AHEAD {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        while let Err(error) = publisher.publish(&Bulk::of(number, size)).await {
            if !error.is_retryable() {
                eprintln!("publishing failed for good: {error:?}");
                work.has_failed.store(true, Ordering::Release);
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        work.published.fetch_add(1, Ordering::AcqRel);
    }
}

async fn handle(bulk: Bulk, State(work): State<Arc<Work>>) -> Outcome {
    // It stalls with the message in its hands.
    work.is_open.subscribe().wait_for(|is_open| *is_open).await?;
    match bulk.number(work.options.size).and_then(|number| work.seen.get(usize::try_from(number).ok()?)) {
        Some(seen) if seen.fetch_add(1, Ordering::AcqRel) > 0 => work.repeated.fetch_add(1, Ordering::AcqRel),
        Some(_) => work.handled.fetch_add(1, Ordering::AcqRel),
        None => work.damaged.fetch_add(1, Ordering::AcqRel),
    };
    Ok(())
}

impl Work {
    /// Waits until all is published, or nothing more is accepted.
    async fn stand_still(&self) {
        let (mut published, mut since) = (0, Instant::now());
        while published < self.options.messages && since.elapsed() < STANDSTILL {
            tokio::time::sleep(Duration::from_millis(20)).await;
            let now = self.published.load(Ordering::Acquire);
            if now > published {
                (published, since) = (now, Instant::now());
            }
        }
    }
}

/// Waits until all is handled, and looks at the memory a hundred times on the way.
async fn watch_memory(work: &Work, report: &mut Report) -> Result {
    let step = (work.options.messages / 100).max(1);
    let mut since = Instant::now();
    loop {
        let handled = work.handled.load(Ordering::Acquire);
        let looked = report.memory.last().map_or(0, |(at, _)| *at);
        if handled >= looked + step || handled == work.options.messages {
            report.memory.push((handled, status("VmRSS:")));
            since = Instant::now();
        }
        if handled + work.damaged.load(Ordering::Acquire) >= work.options.messages {
            return Ok(());
        }
        if since.elapsed() > Duration::from_secs(120) || work.has_failed.load(Ordering::Acquire) {
            return Err(format!("it got stuck after {handled} messages").into());
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// What is held once all that ends has ended.
async fn given_back(before: Holdings) -> Holdings {
    let begun = Instant::now();
    loop {
        let now = holdings();
        if now == before || begun.elapsed() > GIVEN_BACK {
            return now;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn holdings() -> Holdings {
    let files = fs::read_dir("/proc/self/fd").map_or(0, |dir| dir.count() as u64);
    let tasks = tokio::runtime::Handle::current().metrics().num_alive_tasks() as u64;
    Holdings { files, threads: status("Threads:"), tasks }
}

/// A figure of this process, as the kernel tells it.
fn status(name: &str) -> u64 {
    let text = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_what_was_published_has_no_number() {
        let bulk = Bulk::of(700, 64);
        assert_eq!(bulk.number(64), Some(700));
        assert_eq!(bulk.number(65), None, "cut off");
        let mut changed = bulk.0.to_vec();
        changed[20] ^= 1;
        assert_eq!(Bulk(changed.into()).number(64), None);
    }
}
