//! What the loops on a broker send, the same bytes whoever sends them, and what they time.

mod timing;

use bench_harness::Result;
use bytes::Bytes;
use millstream::{Event, Message};
use serde::{Deserialize, Serialize};

pub use self::timing::{Ages, Arrivals};

/// The event. Its key has eight bytes.
#[derive(Debug, Clone, Event, Serialize, Deserialize)]
#[event(topic = "readings", key = "sensor")]
pub struct Reading {
    /// The number of the event; at a steady pace, when it was written.
    pub id: u64,
    /// Some number.
    pub quantity: u32,
    /// The key.
    pub sensor: String,
    /// As long as the payload is to be.
    pub note: String,
}

/// As the toolkit says it.
pub const CONTENT_TYPE: &str = "application/json";

/// Different messages, gone through again and again: more bytes than a compressor looks back.
pub const POOL: usize = 1_000;

const WORDS: [&str; 16] = [
    "amber", "pump", "north", "valve", "steady", "cold", "seven", "bridge", "late", "meter", "open", "quiet",
    "river", "tower", "unit", "wind",
];

/// Events whose JSON has so many bytes, with words in them: random letters could not be compressed, and one text again
/// and again would be compressed to nothing.
///
/// # Errors
/// If no payload is so short.
pub fn readings(size: usize) -> Result<Vec<Reading>> {
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
///
/// # Errors
/// As [`readings`].
pub fn messages(topic: &str, size: usize) -> Result<Vec<Message>> {
    let message = |reading: Reading| {
        let data: Bytes = serde_json::to_vec(&reading)?.into();
        Ok(Message::new(topic.to_owned(), data)
            .with_id(uuid::Uuid::now_v7().to_string())
            .with_key(reading.sensor)
            .with_content_type(CONTENT_TYPE))
    };
    readings(size)?.into_iter().map(message).collect()
}
