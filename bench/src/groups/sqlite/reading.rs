//! The event of the reading side: filling a topic with it, and the bare loop that scans and decodes it.

use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use millstream::Event;
use millstream_core::{Message, Writer};
use millstream_sqlite::SqliteWriter;
use rusqlite::{Connection, OpenFlags};
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;

use crate::Result;

/// About 256 B as JSON.
#[derive(Debug, Event, Serialize, Deserialize)]
#[event(topic = "readings", key = "sensor")]
pub(super) struct Reading {
    pub(super) sensor: String,
    pub(super) number: u64,
    pub(super) note: String,
}

const NOTE: usize = 200;
const BATCH: u64 = 1_000;
const OUTSTANDING: usize = 4;

/// The message of a reading as the publisher writes it.
pub(super) fn message(topic: &str, number: u64, keys: u64, time: SystemTime) -> Result<Message> {
    let sensor = format!("sensor-{:07}", number % keys);
    let reading = Reading { sensor: sensor.clone(), number, note: "n".repeat(NOTE) };
    Ok(Message::new(topic.to_owned(), serde_json::to_vec(&reading)?)
        .with_id(format!("{number:08x}-0000-7000-8000-000000000000"))
        .with_key(sensor)
        .with_content_type("application/json")
        .with_time(time))
}

/// Writes `count` readings in large batches.
pub(super) async fn fill(
    writer: &SqliteWriter,
    topic: &str,
    count: u64,
    keys: u64,
    time: SystemTime,
) -> Result {
    let mut writing: JoinSet<Result> = JoinSet::new();
    for first in (0..count).step_by(BATCH as usize) {
        if writing.len() == OUTSTANDING {
            writing.join_next().await.ok_or("no batch was under way")???;
        }
        let numbers = first..count.min(first + BATCH);
        let batch = numbers.map(|number| message(topic, number, keys, time)).collect::<Result<Vec<_>>>()?;
        let writer = writer.clone();
        writing.spawn(async move { Ok(writer.write(batch).await?.into_result()?) });
    }
    while let Some(written) = writing.join_next().await {
        written??;
    }
    Ok(())
}

/// Scans all rows of the file's first topic and decodes their payloads; gives how many, and how long it took.
pub(super) fn scan(file: &Path) -> Result<(u64, Duration)> {
    let connection = Connection::open_with_flags(file, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    let mut select = connection
        .prepare("SELECT seq, time, id, key, ct, headers, data, crc FROM millstream_log_1 ORDER BY seq")?;
    let begun = Instant::now();
    let (mut count, mut rows) = (0, select.query([])?);
    while let Some(row) = rows.next()? {
        let reading: Reading = serde_json::from_slice(row.get_ref(6)?.as_blob()?)?;
        count += u64::from(!std::hint::black_box(reading).sensor.is_empty());
    }
    Ok((count, begun.elapsed()))
}
