//! The short form: one process, messages and sums in memory.

use std::error::Error;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use millstream::prelude::*;
use millstream::{MessageId, SubscriptionReport};

use crate::{Expected, Flight, Sums, fails_first, publish};

/// Adds a flight to the sum of its distance. The first attempt of some fails, before it adds anything.
async fn add(
    flight: Flight,
    MessageId(id): MessageId,
    Attempt(attempt): Attempt,
    State(sums): State<Arc<Mutex<Sums>>>,
) -> Outcome {
    if attempt == 1 && fails_first(&id) {
        return Err(Failure::retry("the tower does not answer"));
    }
    let mut sums = sums.lock().unwrap_or_else(PoisonError::into_inner);
    let sum = sums.entry(flight.distance).or_default();
    sum.flights += 1;
    sum.delay += flight.delay;
    Ok(())
}

/// What a run came to.
#[derive(Debug)]
struct Run {
    sums: Sums,
    counts: SubscriptionReport,
    expected: Expected,
    took: Duration,
}

fn counted(counts: &SubscriptionReport) -> Expected {
    let SubscriptionReport { handled, retried, duplicates, dead_lettered, .. } = *counts;
    Expected { handled, retried, duplicates, dead_lettered }
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
    while counted(&control.counts()[0]).messages() < expected.messages() {
        tokio::time::sleep(1.ms()).await;
    }
    let took = begun.elapsed();
    let mut report = running.shutdown().await;
    let sums = std::mem::take(&mut *sums.lock().unwrap_or_else(PoisonError::into_inner));
    Ok(Run { sums, counts: report.subscriptions.swap_remove(0), expected, took })
}

/// Runs the flights; gives the sums, and whether every count is what it must be.
pub(crate) async fn compare(flights: &[Flight]) -> Result<(Sums, bool), Box<dyn Error>> {
    let Run { sums, counts, expected, took } = run(flights).await?;
    println!(
        "handled {}, retried {}, duplicates suppressed {}, dead-lettered {}",
        counts.handled, counts.retried, counts.duplicates, counts.dead_lettered
    );
    let each = took.as_secs_f64() / expected.messages() as f64;
    println!("{} messages in {:.2} s: {:.0} a second", expected.messages(), took.as_secs_f64(), 1.0 / each);
    let counted = counted(&counts);
    if counted != expected {
        println!("DIFFERENT: counted {counted:?}, expected {expected:?}");
    }
    Ok((sums, counted == expected))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{independent, testing};

    #[tokio::test]
    async fn sums_are_those_of_the_file_in_spite_of_failures_copies_and_poison() {
        let json = testing::json(2_500);
        let flights: Vec<Flight> = serde_json::from_slice(&json).unwrap();
        let run = run(&flights).await.unwrap();
        assert_eq!(run.sums, independent::sums(&json).unwrap());
        assert_eq!(counted(&run.counts), run.expected);
        assert_eq!(run.expected, Expected { handled: 2_500, retried: 50, duplicates: 25, dead_lettered: 3 });
    }
}
