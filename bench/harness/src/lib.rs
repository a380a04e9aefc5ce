//! What every scenario has in common, ours and those of peers.
//!
//! A scenario is run once by a process of its own, which is counted by callgrind, by DHAT and by the clock. Only what
//! runs inside [`measured`] counts: a scenario builds and fills outside of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike as _;
use serde::{Deserialize, Serialize};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::Notify;

/// Any failure; its text is what the user reads.
pub type Error = Box<dyn std::error::Error + Send + Sync>;
/// What may fail so.
pub type Result<T = (), E = Error> = std::result::Result<T, E>;

/// How callgrind knows the frame of [`measured`], whatever the mangling is.
pub const FRAME: &str = "*bench_harness*measured*";

/// What is measured: callgrind and DHAT count inside this frame, by its name, and nothing beside it.
///
/// Not generic, so that no other function has this one in its name.
///
/// # Errors
/// If the system does not tell the CPU time.
#[inline(never)]
pub fn measured(work: Box<dyn FnOnce() + '_>) -> Result<Took> {
    let (cpu, begun) = (cpu_time()?, Instant::now());
    work();
    let wall = begun.elapsed();
    Ok(Took { wall, cpu: cpu_time()?.saturating_sub(cpu) })
}

/// A measurement that begins with an event, such as the first message that comes: where [`measured`] cannot be called.
#[derive(Debug, Clone, Copy)]
pub struct Stopwatch {
    cpu: Duration,
    begun: Instant,
}

impl Stopwatch {
    /// Starts it.
    ///
    /// # Errors
    /// If the system does not tell the CPU time.
    pub fn start() -> Result<Self> {
        Ok(Self { cpu: cpu_time()?, begun: Instant::now() })
    }

    /// What passed since.
    ///
    /// # Errors
    /// If the system does not tell the CPU time.
    pub fn stop(&self) -> Result<Took> {
        let wall = self.begun.elapsed();
        Ok(Took { wall, cpu: cpu_time()?.saturating_sub(self.cpu) })
    }
}

/// How long something took.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Took {
    /// By the clock on the wall.
    pub wall: Duration,
    /// User and system time of all threads: what it took of the machine, however busy that was with others.
    pub cpu: Duration,
}

fn cpu_time() -> Result<Duration> {
    let usage = getrusage(UsageWho::RUSAGE_SELF)?;
    let micros = usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
    Ok(Duration::from_micros(micros.try_into()?))
}

/// What a run has to tell.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Outcome {
    /// What was measured took so long.
    pub took: Took,
    /// From published to handled, where it was looked at.
    pub latency: Option<Latency>,
    /// The process had so much memory at most, in KiB.
    pub peak_kib: u64,
}

/// In nanoseconds.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Latency {
    /// Half of the messages took no longer.
    pub p50: u64,
    /// 99 of 100 messages took no longer.
    pub p99: u64,
    /// The slowest took so long.
    pub max: u64,
}

/// Prints the outcome of a run, as JSON, for whoever started the process.
///
/// # Errors
/// If it cannot be printed.
pub fn tell(took: Took, latency: Option<Latency>) -> Result {
    let peak_kib = getrusage(UsageWho::RUSAGE_SELF)?.max_rss().try_into()?;
    println!("{}", serde_json::to_string(&Outcome { took, latency, peak_kib })?);
    Ok(())
}

/// The `main` of a program that runs one scenario: its argument says with how many messages.
///
/// # Errors
/// Without an argument that is a number, and what the scenario says.
pub fn main(scenario: impl FnOnce(usize) -> Result<Took>) -> Result {
    let messages = std::env::args().nth(1).ok_or("say how many messages")?;
    tell(scenario(messages.parse()?)?, None)
}

/// One thread: one order of execution, and the same count on every run.
///
/// # Errors
/// If it cannot be made.
pub fn one_thread() -> Result<Runtime> {
    Ok(Builder::new_current_thread().enable_all().build()?)
}

/// What a service runs on, here with two threads.
///
/// # Errors
/// If it cannot be made.
pub fn two_threads() -> Result<Runtime> {
    Ok(Builder::new_multi_thread().worker_threads(2).enable_all().build()?)
}

/// Works off what is there already: measures until the last message is handled.
///
/// # Errors
/// If some were handled before.
pub fn drain(runtime: &Runtime, latch: &Latch, messages: usize) -> Result<Took> {
    if latch.remaining() != messages {
        return Err("messages were handled before the measured part began".into());
    }
    measured(Box::new(|| runtime.block_on(latch.drained())))
}

/// Counts handled messages down, and wakes who waits for the last one. A message pays one relaxed decrement.
#[derive(Debug, Clone, Default)]
pub struct Latch(Arc<Remaining>);

#[derive(Debug, Default)]
struct Remaining {
    messages: AtomicUsize,
    done: Notify,
}

impl Latch {
    /// Waits for so many.
    #[must_use]
    pub fn new(messages: usize) -> Self {
        let latch = Self::default();
        latch.0.messages.store(messages, Ordering::Release);
        latch
    }

    /// One was handled.
    pub fn arrived(&self) {
        if self.0.messages.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.0.done.notify_one();
        }
    }

    /// How many are still to come.
    #[must_use]
    pub fn remaining(&self) -> usize {
        self.0.messages.load(Ordering::Acquire)
    }

    /// Resolves when all were handled.
    pub async fn drained(&self) {
        while self.remaining() > 0 {
            self.0.done.notified().await;
        }
    }
}

/// The numbers of the peer's own benchmark: two integers, so that decoding allocates nothing and the figure is the
/// framework's. All messages carry the same, since a longer one would cost more to parse.
pub const ID: u64 = 1_000_000;
/// The other one.
pub const QUANTITY: u32 = 37;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_waits_for_the_last_message_is_woken_by_it() -> Result {
        let latch = Latch::new(2);
        one_thread()?.block_on(async {
            let handler = latch.clone();
            tokio::spawn(async move {
                handler.arrived();
                handler.arrived();
            });
            latch.drained().await;
        });
        assert_eq!(latch.remaining(), 0);
        Ok(())
    }

    #[test]
    fn a_backlog_that_was_begun_before_is_not_measured() -> Result {
        let latch = Latch::new(2);
        latch.arrived();
        assert!(drain(&one_thread()?, &latch, 2).is_err());
        Ok(())
    }
}
