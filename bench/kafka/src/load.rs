//! What is sent: the same bytes whoever sends them.

use std::fmt::Write as _;
use std::time::Duration;

use bench_harness::Result;
use bytes::Bytes;
use millstream::{Event, Message};
use serde::{Deserialize, Serialize};

/// What one run of a producer is.
pub(crate) struct Job {
    pub(crate) topic: String,
    pub(crate) messages: usize,
    /// Bytes of each payload.
    pub(crate) size: usize,
    pub(crate) batch: usize,
    /// Batches that are not confirmed yet, at most.
    pub(crate) outstanding: usize,
}

/// The event. Its key has eight bytes.
#[derive(Debug, Clone, Event, Serialize, Deserialize)]
#[event(topic = "readings", key = "sensor")]
pub(crate) struct Reading {
    pub(crate) id: u64,
    pub(crate) quantity: u32,
    pub(crate) sensor: String,
    pub(crate) note: String,
}

/// As the toolkit says it.
pub(crate) const CONTENT_TYPE: &str = "application/json";

/// Different messages, gone through again and again: more bytes than a compressor looks back.
const POOL: usize = 1_000;

const WORDS: [&str; 16] = [
    "amber", "pump", "north", "valve", "steady", "cold", "seven", "bridge", "late", "meter", "open", "quiet",
    "river", "tower", "unit", "wind",
];

/// Events whose JSON has so many bytes, with words in them: random letters could not be compressed, and one text again
/// and again would be compressed to nothing.
pub(crate) fn readings(size: usize) -> Result<Vec<Reading>> {
    let mut seed: u32 = 1;
    let mut word = || {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        WORDS[(seed >> 28) as usize]
    };
    (0..POOL)
        .map(|number| {
            let mut reading = Reading {
                id: 1_000_000 + number as u64,
                quantity: 37,
                sensor: format!("s{number:07}"),
                note: String::new(),
            };
            let empty = serde_json::to_vec(&reading)?.len();
            let room =
                size.checked_sub(empty).ok_or_else(|| format!("a payload has {empty} bytes at least"))?;
            while reading.note.len() < room {
                reading.note.push_str(word());
                reading.note.push(' ');
            }
            reading.note.truncate(room);
            Ok(reading)
        })
        .collect()
}

/// The same as messages, with ids as the toolkit makes them.
pub(crate) fn messages(topic: &str, size: usize) -> Result<Vec<Message>> {
    let message = |reading: Reading| {
        let data: Bytes = serde_json::to_vec(&reading)?.into();
        Ok(Message::new(topic.to_owned(), data)
            .with_id(uuid::Uuid::now_v7().to_string())
            .with_key(reading.sensor)
            .with_content_type(CONTENT_TYPE))
    };
    readings(size)?.into_iter().map(message).collect()
}

/// Messages a second where the pace is steady: far below what the broker can do.
const PACE: u32 = 2_000;

/// How long a client has to come up before the pace begins.
pub(crate) const WARM: Duration = Duration::from_secs(1);

/// When a message is due, from the start on.
pub(crate) fn due(number: usize) -> Duration {
    Duration::from_secs(1) / PACE * u32::try_from(number).unwrap_or(u32::MAX)
}

/// The next event: of another sensor, and with the time in the place of its id.
pub(crate) fn vary(reading: &mut Reading, number: usize, now: u64) {
    reading.id = now;
    reading.sensor.clear();
    let _ = write!(reading.sensor, "s{:07}", number % POOL);
}
