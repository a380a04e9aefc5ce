//! Real flights, keyed by distance, their delays summed by a handler that has to cope: 1 in 50 first
//! attempts fails, 1 in 100 messages comes twice, and for every 1,000 flights there is a poison message. The
//! sums must be those that are computed straight from the file, to the minute.
//!
//! ```sh
//! cargo run --release -p millstream-examples --example flights -- $(cargo xtask data)
//! ```
//!
//! That is one process, and all in memory. With `--kills`, messages and sums are in one file, two processes handle
//! them, and each of the two is killed so often on the way, with signal 9:
//!
//! ```sh
//! cargo run --release -p millstream-examples --example flights -- $(cargo xtask data) --kills 10
//! ```
//!
//! With `--program target/release/millstream` that program publishes them, from lines of JSON.

mod arguments;
mod independent;
mod killed;
mod memory;

use std::collections::BTreeMap;
use std::error::Error;
use std::process::{Command, ExitCode};

use millstream::prelude::*;
use millstream::{ByteString, PublishOptions};
use serde::{Deserialize, Serialize};

use arguments::Arguments;
use killed::Source;

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

fn id_of(number: usize) -> ByteString {
    format!("flight-{number}").into()
}

/// Whether the first attempt of this message is to fail.
fn fails_first(id: &str) -> bool {
    let number = id.strip_prefix("flight-").and_then(|number| number.parse::<usize>().ok());
    number.is_some_and(|number| number.is_multiple_of(FAILS_EVERY))
}

/// What must become of the messages.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
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
    let outcome = match std::env::var(killed::WORKER) {
        Ok(path) => killed::work(path.into()).await.map(|()| true),
        Err(_) => match Arguments::parse(std::env::args_os().skip(1)) {
            Ok(arguments) => compare(arguments).await,
            Err(wrong) => Err(wrong.into()),
        },
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The records as they are, a line each.
fn lines(json: &[u8]) -> serde_json::Result<Vec<u8>> {
    let records: Vec<serde_json::Value> = serde_json::from_slice(json)?;
    let mut lines = Vec::with_capacity(json.len());
    for record in records {
        serde_json::to_writer(&mut lines, &record)?;
        lines.push(b'\n');
    }
    Ok(lines)
}

/// Runs the flights of a file and says whether all is as it must be.
async fn compare(arguments: Arguments) -> Result<bool, Box<dyn Error>> {
    let Arguments { path, kills, url, program } = arguments;
    let json = std::fs::read(&path).map_err(|e| format!("{} cannot be read: {e}", path.display()))?;
    let wanted = independent::sums(&json)?;
    let flights: Vec<Flight> = serde_json::from_slice(&json)?;
    let (sums, counted) = match kills {
        None => memory::compare(&flights).await?,
        Some(kills) => {
            let this = std::env::current_exe()?;
            let source = match program {
                None => Source::Itself(flights),
                Some(program) => {
                    Source::Program { program, lines: lines(&json)?, count: flights.len() as u64 }
                }
            };
            killed::compare(source, url.as_deref(), kills, || Command::new(&this)).await?
        }
    };
    println!("from the file:      {}", totals(&wanted));
    println!("through the bus:    {}", totals(&sums));
    let differing = wanted.keys().chain(sums.keys()).filter(|key| wanted.get(key) != sums.get(key)).count();
    if differing > 0 {
        println!("DIFFERENT: the sums of {differing} distances");
    }
    let same = differing == 0 && counted;
    if same {
        println!("the sums are the same for each distance, and nothing is missing");
    }
    Ok(same)
}

fn totals(sums: &Sums) -> String {
    let flights: u64 = sums.values().map(|sum| sum.flights).sum();
    let delay: i64 = sums.values().map(|sum| sum.delay).sum();
    format!("{} distances, {flights} flights, {delay} minutes of delay", sums.len())
}

#[cfg(test)]
mod testing {
    /// A file of so many flights.
    pub(crate) fn json(flights: i64) -> Vec<u8> {
        let records: Vec<_> = (0..flights)
            .map(|n| serde_json::json!({ "delay": n * 37 % 211 - 40, "distance": n * 7 % 90, "time": 0.5 }))
            .collect();
        serde_json::to_vec(&records).unwrap()
    }
}
