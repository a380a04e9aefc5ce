//! Real flights, keyed by distance, their delays summed by a handler that has to cope: 1 in 50 first
//! attempts fails, 1 in 100 messages comes twice, and for every 1,000 flights there is a poison message. The
//! sums must be those that are computed straight from the file, to the minute.
//!
//! ```sh
//! cargo run --release -p millstream-examples --example flights -- $(cargo xtask data)
//! ```

mod independent;

use std::collections::BTreeMap;
use std::error::Error;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use millstream::prelude::*;
use millstream::{ByteString, MessageId, PublishOptions, SubscriptionReport};
use serde::{Deserialize, Serialize};

/// A record of the file. What else it holds is not needed.
#[derive(Event, Serialize, Deserialize)]
#[event(topic = "flights", key = "distance")]
struct Flight {
    /// Minutes; negative for one that came early.
    delay: i64,
    /// Miles.
    distance: i64,
}

/// What is known of the flights of one distance.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Sum {
    flights: u64,
    delay: i64,
}

type Sums = BTreeMap<i64, Sum>;

const FAILS_EVERY: usize = 50;
const COPY_EVERY: usize = 100;
const POISON_EVERY: usize = 1_000;
/// Messages handed over at once.
const BATCH: usize = 500;

/// Adds a flight to the sum of its distance. The first attempt of some fails, before it adds anything.
async fn add(
    flight: Flight,
    MessageId(id): MessageId,
    Attempt(attempt): Attempt,
    State(sums): State<Arc<Mutex<Sums>>>,
) -> Outcome {
    if attempt == 1 && number_of(&id).is_some_and(|number| number.is_multiple_of(FAILS_EVERY)) {
        return Err(Failure::retry("the tower does not answer"));
    }
    let mut sums = sums.lock().unwrap_or_else(PoisonError::into_inner);
    let sum = sums.entry(flight.distance).or_default();
    sum.flights += 1;
    sum.delay += flight.delay;
    Ok(())
}

fn id_of(number: usize) -> ByteString {
    format!("flight-{number}").into()
}

fn number_of(id: &str) -> Option<usize> {
    id.strip_prefix("flight-")?.parse().ok()
}

/// What a run came to.
#[derive(Debug)]
struct Run {
    sums: Sums,
    counts: SubscriptionReport,
    expected: Expected,
    took: Duration,
}

/// What the counts must be.
#[derive(Debug, Default, PartialEq, Eq)]
struct Expected {
    handled: u64,
    retried: u64,
    duplicates: u64,
    dead_lettered: u64,
}

impl Expected {
    /// Messages that must come to an end.
    fn messages(&self) -> u64 {
        self.handled + self.duplicates + self.dead_lettered
    }

    fn of(counts: &SubscriptionReport) -> Self {
        let SubscriptionReport { handled, retried, duplicates, dead_lettered, .. } = *counts;
        Self { handled, retried, duplicates, dead_lettered }
    }
}

async fn run(flights: &[Flight]) -> millstream::Result<Run> {
    let sums = Arc::new(Mutex::new(Sums::new()));
    let bus = Bus::connect("memory://").await?;
    let publisher = bus.publisher().clone();
    let running = bus
        .with_state(Arc::clone(&sums))
        .subscribe(
            add.group("sums")
                .concurrency(16)
                .retry(Retry::exponential(1.ms(), 10.ms()).attempts(3))
                .deduplicate(EmbeddedDedupStore::new(flights.len())),
        )
        .start()
        .await?;

    let begun = Instant::now();
    let expected = publish(&publisher, flights).await?;
    let control = running.control();
    // Handlers never see a poison message, so the counts say when all has come to an end.
    while Expected::of(&control.counts()[0]).messages() < expected.messages() {
        tokio::time::sleep(1.ms()).await;
    }
    let took = begun.elapsed();
    let mut report = running.shutdown().await;
    let sums = std::mem::take(&mut *sums.lock().unwrap_or_else(PoisonError::into_inner));
    Ok(Run { sums, counts: report.subscriptions.swap_remove(0), expected, took })
}

/// Publishes all flights, some of them twice, and poison in between.
async fn publish(publisher: &Publisher, flights: &[Flight]) -> millstream::Result<Expected> {
    let mut expected = Expected::default();
    for (batch, flights) in flights.chunks(BATCH).enumerate() {
        let mut messages = Vec::with_capacity(BATCH * 2);
        for (offset, flight) in flights.iter().enumerate() {
            let number = batch * BATCH + offset;
            let message = publisher.message_with(flight, PublishOptions::new().id(id_of(number)))?;
            expected.handled += 1;
            expected.retried += u64::from(number.is_multiple_of(FAILS_EVERY));
            if number % COPY_EVERY == 1 {
                expected.duplicates += 1;
                messages.push(message.clone());
            }
            if number % POISON_EVERY == 2 {
                expected.dead_lettered += 1;
                let mut poison = message.clone();
                poison.id = format!("poison-{number}").into();
                poison.data = poison.data.map(|data| data.slice(..data.len() / 2));
                messages.push(poison);
            }
            messages.push(message);
        }
        publisher.publish_messages(messages).await?.into_result()?;
    }
    Ok(expected)
}

#[tokio::main]
async fn main() -> ExitCode {
    match compare(std::env::args_os().nth(1)).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Runs the flights of a file and says whether all is as it must be.
async fn compare(path: Option<std::ffi::OsString>) -> Result<bool, Box<dyn Error>> {
    let path =
        path.ok_or("name the file: flights -- path/to/flights-200k.json (`cargo xtask data` fetches it)")?;
    let json = std::fs::read(&path).map_err(|e| format!("{} cannot be read: {e}", path.display()))?;
    let wanted = independent::sums(&json)?;
    let flights: Vec<Flight> = serde_json::from_slice(&json)?;
    let Run { sums, counts, expected, took } = run(&flights).await?;

    let totals = |sums: &Sums| {
        let flights: u64 = sums.values().map(|sum| sum.flights).sum();
        let delay: i64 = sums.values().map(|sum| sum.delay).sum();
        format!("{} distances, {flights} flights, {delay} minutes of delay", sums.len())
    };
    println!("from the file:      {}", totals(&wanted));
    println!("through the bus:    {}", totals(&sums));
    println!(
        "handled {}, retried {}, duplicates suppressed {}, dead-lettered {}",
        counts.handled, counts.retried, counts.duplicates, counts.dead_lettered
    );
    let each = took.as_secs_f64() / expected.messages() as f64;
    println!("{} messages in {:.2} s: {:.0} a second", expected.messages(), took.as_secs_f64(), 1.0 / each);
    let differing = wanted.keys().chain(sums.keys()).filter(|key| wanted.get(key) != sums.get(key)).count();
    if differing > 0 {
        println!("DIFFERENT: the sums of {differing} distances");
    }
    let counted = Expected::of(&counts);
    if counted != expected {
        println!("DIFFERENT: counted {counted:?}, expected {expected:?}");
    }
    let same = differing == 0 && counted == expected;
    if same {
        println!("the sums are the same for each distance, and nothing is missing");
    }
    Ok(same)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(flights: i64) -> Vec<u8> {
        let records: Vec<_> = (0..flights)
            .map(|n| serde_json::json!({ "delay": n * 37 % 211 - 40, "distance": n * 7 % 90, "time": 0.5 }))
            .collect();
        serde_json::to_vec(&records).unwrap()
    }

    #[tokio::test]
    async fn sums_are_those_of_the_file_in_spite_of_failures_copies_and_poison() {
        let json = json(2_500);
        let flights: Vec<Flight> = serde_json::from_slice(&json).unwrap();
        let run = run(&flights).await.unwrap();
        assert_eq!(run.sums, independent::sums(&json).unwrap());
        assert_eq!(Expected::of(&run.counts), run.expected);
        assert_eq!(run.expected, Expected { handled: 2_500, retried: 50, duplicates: 25, dead_lettered: 3 });
    }

    #[tokio::test]
    async fn without_a_file_it_says_which_to_name() {
        assert!(compare(None).await.unwrap_err().to_string().contains("cargo xtask data"));
    }
}
